package inventory

import (
	"net/url"
	"strings"
)

// vSphere checks a vCenter or an ESXi host and its account.
func (v validator) vSphere(s *HypervisorVSphere, path string) {
	const example = "https://vcenter.example.org"
	if p := path + ".url"; v.missing(p) {
		v.at(p, "is missing: write the address of the vCenter or ESXi host such as %s", example)
	} else {
		v.url(withoutSDK(s.URL), p, example)
	}
	if p := path + ".user"; v.missing(p) {
		v.at(p, "is missing: name the user such as katoflow@vsphere.local")
	} else if v.given(p) && (strings.TrimSpace(s.User) != s.User || s.User == "" || len(s.User) > 255) {
		v.at(p, "is empty, too long or has spaces around it: write it as it logs in")
	}
	if p := path + ".password"; v.missing(p) {
		v.at(p, "is missing: write {file: PATH} or {env: NAME}")
	} else {
		v.secret(s.Password, p)
	}
	if p := path + ".ca_file"; v.given(p) && strings.TrimSpace(s.CAFile) == "" {
		v.at(p, "is empty: write the path of the file with the certificates")
	}
	if p := path + ".free_percent"; v.given(p) && (s.FreePercent < 1 || s.FreePercent > 100) {
		v.at(p, "%d: write a number from 1 to 100", s.FreePercent)
	}
}

// withoutSDK is a URL without the path of the API, which may be written in it.
func withoutSDK(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Path != "/sdk" && u.Path != "/sdk/" {
		return s
	}
	u.Path, u.RawPath = "", ""
	return u.String()
}

func (s *HypervisorVSphere) fillDefaults() { setDefault(&s.FreePercent, 10) }

// vSphere checks what the section refers to.
func (c *fileChecker) vSphere(s *HypervisorVSphere, path string) {
	c.at(path+".password", c.secret(s.Password).err)
	if s.CAFile != "" {
		c.at(path+".ca_file", c.certificates(s.CAFile))
	}
}
