package inventory

import (
	"net/url"
	"regexp"
	"strings"
)

var (
	openStackRegionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$`)
	openStackPathForm   = regexp.MustCompile(`^(/[A-Za-z0-9_.~-]+)*/?$`)
)

// openStack checks a cloud and its account.
func (v validator) openStack(o *HypervisorOpenStack, path string) {
	const example = "https://keystone.example.org:5000/v3"
	if p := path + ".auth_url"; v.missing(p) {
		v.at(p, "is missing: write the address of Keystone such as %s", example)
	} else if v.given(p) {
		bare := o.AuthURL
		if u, err := url.Parse(bare); err == nil && openStackPathForm.MatchString(u.EscapedPath()) { // the path is Keystone's, all else is checked as of any address
			u.Path, u.RawPath = "", ""
			bare = u.String()
		}
		v.url(bare, p, example)
	}
	if p := path + ".region"; v.given(p) && !openStackRegionForm.MatchString(o.Region) {
		v.at(p, "%s is not a region: write such as RegionOne", quote(o.Region))
	}
	if p := path + ".ca_file"; v.given(p) && strings.TrimSpace(o.CAFile) == "" {
		v.at(p, "is empty: write the path of the file with the certificates")
	}
	v.secret(o.Password, path+".password")
	credential := path + ".application_credential"
	for _, field := range []struct {
		name, value, missing string // missing is "" for what has a default
	}{
		{"user", o.User, "name the user, or write an application_credential"},
		{"user_domain", o.UserDomain, ""},
		{"password", "", "write {file: PATH} or {env: NAME}"},
		{"project", o.Project, "name the project that has the servers"},
		{"project_domain", o.ProjectDomain, ""},
	} {
		p := path + "." + field.name
		switch {
		case v.given(p) && !v.missing(credential):
			v.at(p, "does not go with application_credential, which has its user and project: take one of them out")
		case v.missing(p) && v.missing(credential) && field.missing != "":
			v.at(p, "is missing: %s", field.missing)
		case v.given(p) && field.name != "password":
			v.openStackName(field.value, p)
		}
	}
	if c := o.ApplicationCredential; c != nil && !v.broken[credential] {
		if p := credential + ".id"; v.missing(p) {
			v.at(p, "is missing: write the id of the application credential")
		} else if v.given(p) {
			v.openStackName(c.ID, p)
		}
		if p := credential + ".secret"; v.missing(p) {
			v.at(p, "is missing: write {file: PATH} or {env: NAME}")
		} else {
			v.secret(c.Secret, p)
		}
	}
}

// openStackName checks what Keystone calls something.
func (v validator) openStackName(s, path string) {
	if strings.TrimSpace(s) != s || s == "" || len(s) > 255 {
		v.at(path, "is empty, too long or has spaces around it: write it as the cloud shows it")
	}
}

func (o *HypervisorOpenStack) fillDefaults() {
	if o.ApplicationCredential == nil {
		setDefault(&o.UserDomain, "Default")
		setDefault(&o.ProjectDomain, o.UserDomain)
	}
}

// openStack checks what the section refers to.
func (c *fileChecker) openStack(o *HypervisorOpenStack, path string) {
	if o.Password != nil {
		c.at(path+".password", c.secret(o.Password).err)
	}
	if a := o.ApplicationCredential; a != nil {
		c.at(path+".application_credential.secret", c.secret(a.Secret).err)
	}
	if o.CAFile != "" {
		c.at(path+".ca_file", c.certificates(o.CAFile))
	}
}
