package docker

import (
	"fmt"
	"regexp"
	"strconv"
)

// Version of docker on a node; the zero value is not known and counts as a new one.
type Version struct {
	Major, Minor int
	// Text is it as docker writes it.
	Text string
}

var versionForm = regexp.MustCompile(`[Dd]ocker version ((\d{1,4})\.(\d{1,4})[0-9A-Za-z.+~-]*)`)

// ParseVersion reads `docker --version`, which all generations have: "Docker version 1.0.1, build 990021a".
func ParseVersion(out string) (Version, error) {
	m := versionForm.FindStringSubmatch(out)
	if m == nil {
		return Version{}, fmt.Errorf("%q does not say a version of docker", clip(out))
	}
	major, _ := strconv.Atoi(m[2])
	minor, _ := strconv.Atoi(m[3])
	return Version{Major: major, Minor: minor, Text: m[1]}, nil
}

// Before reports whether it is a known version older than major.minor.
func (v Version) Before(major, minor int) bool {
	return v.Text != "" && (v.Major < major || v.Major == major && v.Minor < minor)
}

// Build builds an image from the Dockerfile in a folder, under a name. The source page's -rm is the spelling of the first versions; with two dashes all take it, and --no-cache too.
func Build(name, folder string) []string {
	return []string{"docker", "build", "--no-cache=true", "--rm=true", "-t", name, folder}
}

// Tag gives an image another name. A name that another image has is moved: versions before 1.10 refuse that without -f, and 1.12 refuses -f.
func Tag(v Version, image, name string) []string {
	if v.Before(1, 10) {
		return []string{"docker", "tag", "-f", image, name}
	}
	return []string{"docker", "tag", image, name}
}

// Run runs a command in a container of its own, which is gone afterwards.
func Run(image string, command ...string) []string {
	return append([]string{"docker", "run", "--rm=true", image}, command...)
}

// Push sends an image to the registry that its name begins with, and Pull fetches one.
func Push(name string) []string { return []string{"docker", "push", name} }

// Pull is the inverse of Push.
func Pull(name string) []string { return []string{"docker", "pull", name} }

// HasDigests reports whether images can be pulled by digest, which docker 1.6 brought.
func (v Version) HasDigests() bool { return !v.Before(1, 6) }

// HasExec reports whether there is `docker exec`, since 1.3.
func (v Version) HasExec() bool { return !v.Before(1, 3) }
