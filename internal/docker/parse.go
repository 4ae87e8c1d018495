package docker

import (
	"bufio"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Image is one of a node's images.
type Image struct {
	// ID as docker writes it, "sha256:..." or, before 1.10, 64 hex digits.
	ID string
	// Layers, the lowest first; nil where the version does not tell them.
	Layers []string
	// Digests are the names that registries have for it: "HOST/NAME@sha256:...".
	Digests []string
	// Created is when it was built; zero where that cannot be read.
	Created time.Time
	// Size in bytes, with all its layers where the version tells that.
	Size int64
}

// ParseImage reads `docker inspect IMAGE`. The names of fields are in another case in old versions, which JSON decoding does not mind.
func ParseImage(out string) (Image, error) {
	var all []struct {
		ID          string
		Created     string
		Size        int64
		VirtualSize int64
		RepoDigests []string
		RootFS      struct{ Layers []string }
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return Image{}, fmt.Errorf("docker inspect printed no list: %w", err)
	}
	if len(all) != 1 || !idForm.MatchString(all[0].ID) {
		return Image{}, fmt.Errorf("docker inspect printed no image")
	}
	i := Image{ID: all[0].ID, Layers: all[0].RootFS.Layers, Digests: all[0].RepoDigests, Size: max(all[0].Size, all[0].VirtualSize)}
	i.Created, _ = time.Parse(time.RFC3339Nano, all[0].Created)
	return i, nil
}

var idForm = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)

// DigestIn is what the registry of a name calls the image, "sha256:...", "" when it has none there.
func (i Image) DigestIn(name string) string {
	for _, d := range i.Digests {
		if repository, digest := SplitTag(d); repository == name && strings.HasPrefix(digest, "sha256:") {
			return digest
		}
	}
	return ""
}

// ShortID is the id as people see it.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// BuiltOn reports whether an image was built on another: that one's layers, or, where they are not told, its history, are the lowest ones of it. Histories are those of `docker history -q
// --no-trunc`, newest first.
func BuiltOn(image, base Image, history, baseHistory []string) bool {
	if len(base.Layers) > 0 && len(image.Layers) > 0 {
		return len(image.Layers) >= len(base.Layers) && equal(image.Layers[:len(base.Layers)], base.Layers)
	}
	return len(baseHistory) > 0 && len(history) >= len(baseHistory) && equal(history[len(history)-len(baseHistory):], baseHistory)
}

func equal(a, b []string) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

var rootForm = regexp.MustCompile(`(?m)^\s*(?:Docker Root Dir|Root Dir): (/\S+)\s*$`)

// ParseRoot finds docker's folder in `docker info`: old versions tell only that of the storage driver, in it. "" when it is not told.
func ParseRoot(info string) string {
	if m := rootForm.FindStringSubmatch(info); m != nil {
		return m[1]
	}
	return ""
}

// ParseImages reads `docker images --no-trunc`: the names of images, "REPOSITORY:TAG", by id.
func ParseImages(out string) map[string][]string {
	names := map[string][]string{}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 3 || !idForm.MatchString(words[2]) || strings.HasPrefix(words[0], "<") || strings.HasPrefix(words[1], "<") {
			continue
		}
		names[words[2]] = append(names[words[2]], words[0]+":"+words[1])
	}
	return names
}

// DaemonDown is the problem of a daemon that may come up yet.
const DaemonDown = "the docker daemon does not answer: see `sudo docker info` there"

// DaemonProblem says in one line why `docker info` gave nothing; "" when it did.
func DaemonProblem(info string, exit int) string {
	lower := strings.ToLower(info)
	switch {
	case strings.Contains(lower, "password is required"), strings.Contains(lower, "not allowed to execute"), strings.Contains(lower, "a terminal is required"):
		return "sudo does not let docker be run without a password: install deploy/sudoers/katoflow-images there"
	case strings.Contains(lower, "cannot connect to the docker daemon"), strings.Contains(lower, "is the docker daemon running"):
		return DaemonDown
	case strings.Contains(lower, "permission denied"):
		return "the docker daemon refuses the login user: see the rights of its socket"
	case exit != 0:
		return fmt.Sprintf("docker info ended with exit code %d", exit)
	}
	return ""
}

// Container is a running one.
type Container struct {
	ID string
	// ImageID is the image it was made from, ImageName what that was called then.
	ImageID   string
	ImageName string
}

var imageField = regexp.MustCompile(`^\s*"Image": "([^"]*)"`)

// ParseContainers reads, for each container, a line "container ID" and the lines with "Image" of `docker inspect ID`. Of the two images that each has one is an id; which comes first depends on the
// version.
func ParseContainers(out string) []Container {
	var all []Container
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		line := lines.Text()
		if id, ok := strings.CutPrefix(line, "container "); ok {
			if idForm.MatchString(id) {
				all = append(all, Container{ID: id})
			}
			continue
		}
		m := imageField.FindStringSubmatch(line)
		switch {
		case m == nil || len(all) == 0:
		case idForm.MatchString(m[1]) && all[len(all)-1].ImageID == "":
			all[len(all)-1].ImageID = m[1]
		default:
			all[len(all)-1].ImageName = m[1]
		}
	}
	return all
}

var digestText = regexp.MustCompile(`(?i)\bdigest: (sha256:[0-9a-f]{64})`)

// ParseDigest finds the digest that `docker push` prints at its end; "" when it prints none.
func ParseDigest(out string) string {
	all := digestText.FindAllStringSubmatch(out, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}
