package inventory

import (
	"regexp"
	"strings"
)

// MostEC2Tags is how many tags of the site's own there may be: they share the 50 of a snapshot with one for each volume.
const MostEC2Tags = 20

var (
	instanceForm = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
	// ec2RegionForm and ec2ZoneForm: an availability zone is its region and a letter.
	ec2RegionForm = regexp.MustCompile(`^[a-z]{2,20}(-[a-z]{2,20}){1,3}-[0-9]{1,2}$`)
	ec2ZoneForm   = regexp.MustCompile(`^([a-z]{2,20}(?:-[a-z]{2,20}){1,3}-[0-9]{1,2})[a-z]$`)
	// ec2TagKeyForm and ec2TagValueForm are what EC2 allows in every region ("Tag restrictions", Amazon EC2 User Guide), in ASCII.
	ec2TagKeyForm   = regexp.MustCompile(`^[A-Za-z0-9 +=._:/@-]{1,128}$`)
	ec2TagValueForm = regexp.MustCompile(`^[A-Za-z0-9 +=._:/@-]{0,256}$`)
)

// ec2 checks a region and its account.
func (v validator) ec2(e *HypervisorEC2, path string) {
	if p := path + ".region"; v.missing(p) {
		v.at(p, "is missing: name the region that has the instances, such as eu-central-1")
	} else if zone := ec2ZoneForm.FindStringSubmatch(e.Region); v.given(p) && zone != nil {
		v.at(p, "%s is an availability zone: write its region %s", quote(e.Region), zone[1])
	} else if v.given(p) && !ec2RegionForm.MatchString(e.Region) {
		v.at(p, "%s is not a region: write such as eu-central-1", quote(e.Region))
	}
	v.url(e.Endpoint, path+".endpoint", "https://ec2.example.org")
	v.awsKeys(e.AccessKey, e.SecretKey, e.SessionToken, path)
	if p := path + ".ca_file"; v.given(p) && strings.TrimSpace(e.CAFile) == "" {
		v.at(p, "is empty: write the path of the file with the certificates")
	}
	tags := path + ".tags"
	if len(e.Tags) > MostEC2Tags {
		v.at(tags, "has %d tags: a snapshot has room for %d", len(e.Tags), MostEC2Tags)
	}
	for key, value := range e.Tags {
		at := join(tags, key)
		if !v.given(at) {
			continue
		}
		switch {
		case !ec2TagKeyForm.MatchString(key):
			v.at(at, "%s is not the key of a tag: use 1 to 128 letters, digits, spaces and +-=._:/@", quote(key))
		case strings.HasPrefix(strings.ToLower(key), "aws:") || strings.HasPrefix(key, "katoflow:") || key == "Name":
			v.at(at, "is not the site's: keys that begin with aws: and katoflow:, and Name, are used by others")
		case !ec2TagValueForm.MatchString(value):
			v.at(at, "%s is not the value of a tag: use at most 256 letters, digits, spaces and +-=._:/@", quote(value))
		}
	}
}

// ec2Instance checks that a node says which instance it is.
func (v validator) ec2Instance(n *Node, at string) {
	if p := at + ".vm"; v.missing(p) {
		v.at(at, "vm is missing: write the id of the node's instance, such as i-0123456789abcdef0")
	} else if v.given(p) && !instanceForm.MatchString(n.VM) {
		v.at(p, "%s is not the id of an instance: write i- and 17 digits of 0-9a-f (8 in old ones), such as i-0123456789abcdef0", quote(n.VM))
	}
}

// ec2 checks what the section refers to.
func (c *fileChecker) ec2(e *HypervisorEC2, path string) {
	c.awsKeys(e.AccessKey, e.SecretKey, e.SessionToken, path)
	if e.CAFile != "" {
		c.at(path+".ca_file", c.certificates(e.CAFile))
	}
}
