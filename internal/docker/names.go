package docker

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	repositoryForm = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)
	tagForm        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	registryForm   = regexp.MustCompile(`^[a-zA-Z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`)
)

// longestName of a repository, in bytes.
const longestName = 200

// CheckRepository says what is wrong with the name of an image without a tag and without a registry, such as stackato/stack-alsek.
func CheckRepository(name string) error {
	if !repositoryForm.MatchString(name) || len(name) > longestName {
		return fmt.Errorf("%q is not the name of an image: write it without a tag, such as stackato/stack-alsek", clip(name))
	}
	return nil
}

// CheckTag says what is wrong with a tag.
func CheckTag(tag string) error {
	if !tagForm.MatchString(tag) {
		return fmt.Errorf("%q is not a tag: write letters, digits and _.-, such as kato-patched", clip(tag))
	}
	return nil
}

// CheckRegistry says what is wrong with the name of an image in a registry, without a tag: HOST[:PORT]/NAME. A host is told from the first part of a name by its dot or port, as docker does.
func CheckRegistry(name string) error {
	host, _, _ := strings.Cut(name, "/")
	if !registryForm.MatchString(name) || len(name) > longestName || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return fmt.Errorf("%q is not the name of an image in a registry: write HOST[:PORT]/NAME, such as registry.example.com:5000/stack-alsek", clip(name))
	}
	return nil
}

// SplitTag takes the tag, or the digest, off a name: "a.b:5000/c:d" is "a.b:5000/c" and "d".
func SplitTag(ref string) (repository, tag string) {
	if name, digest, ok := strings.Cut(ref, "@"); ok {
		return name, digest
	}
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
