package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	manifestVersion = 1
	// maxManifest bounds what is read as a manifest: 10,000 encrypted parts take 2.6 MiB, the rest is the inventory of content.
	maxManifest = 32 << 20
	maxParts    = 10_000
	// maxSize is S3's own limit of an object: 10,000 parts of 5 GiB.
	maxSize = maxParts * maxPartSize
)

// Part is a range of the export and, when the archive is encrypted, the age file that holds it. Parts follow each other without a gap.
type Part struct {
	// Number counts from 1.
	Number int `json:"number"`
	// Offset and Size in bytes in the export.
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
	// SHA256 of the export's bytes, in hexadecimal.
	SHA256 string `json:"sha256"`
	// StoredOffset, StoredSize and StoredSHA256 are of the part's age file in the object; the same as above when not encrypted.
	StoredOffset int64  `json:"stored_offset"`
	StoredSize   int64  `json:"stored_size"`
	StoredSHA256 string `json:"stored_sha256"`
}

// Stored is the object that an upload made.
type Stored struct {
	// File name of the object beside the manifest.
	File string `json:"object"`
	// Size in bytes and SHA256, in hexadecimal, of the whole export.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// StoredSize is the object's, in bytes.
	StoredSize int64 `json:"stored_size"`
	// Checksum is what S3 has as the object's SHA-256: that of the parts' sums, base64, a hyphen and the number of parts.
	Checksum string `json:"checksum"`
	// ETag as S3 gave it.
	ETag string `json:"etag"`
	// PartSize in bytes of every part but the last.
	PartSize int64  `json:"part_size"`
	Parts    []Part `json:"parts"`
	// Recipients are the public keys that the archive is encrypted to with age; none when it is not encrypted.
	Recipients []string `json:"recipients,omitempty"`
}

// Encrypted says whether the object is encrypted with age.
func (s Stored) Encrypted() bool { return len(s.Recipients) > 0 }

// Manifest describes one archive. It is written last: an archive without one is none.
type Manifest struct {
	// Version of this form.
	Version int `json:"version"`
	Ref
	// Platform is "als" or "plain"; PlatformVersion and KatoVersion as the Core told them.
	Platform        string `json:"platform,omitempty"`
	PlatformVersion string `json:"platform_version,omitempty"`
	KatoVersion     string `json:"kato_version,omitempty"`
	// Roles of each node at the time of the export.
	Roles map[string][]string `json:"roles,omitempty"`
	// Mode is kato's: "cluster" or "only-this-node" (kato.md §3.2).
	Mode string `json:"mode,omitempty"`
	// Include and Exclude are kato's selectors that were given (kato.md §3.2).
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Node where the export was made, and the name its file had there.
	Node       string `json:"node,omitempty"`
	ExportFile string `json:"export_file,omitempty"`
	// Who asked for it: a person or a schedule.
	Who string `json:"who,omitempty"`
	// Started and Ended are when the export began and when the archive was complete.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Stored
	// Content of the cluster before the export, nil when it was not read.
	Content *Content `json:"content,omitempty"`
}

// Content is what the Cloud Controller had, for an import to be checked against. Counts are there also where names are not.
type Content struct {
	Orgs        int `json:"orgs"`
	Spaces      int `json:"spaces"`
	Apps        int `json:"apps"`
	AppsStarted int `json:"apps_started"`
	Instances   int `json:"instances"`
	Services    int `json:"services"`
	// List has the names.
	List []Org `json:"list,omitempty"`
	// Users are the names of the accounts, sorted. None: they were not recorded, because every cluster has one.
	Users []string `json:"users,omitempty"`
	// Endpoint is the host name of the cluster's API, "" when it was not recorded.
	Endpoint string `json:"endpoint,omitempty"`
}

// Org is an organization.
type Org struct {
	Name   string  `json:"name"`
	Spaces []Space `json:"spaces,omitempty"`
}

// Space of an organization.
type Space struct {
	Name     string    `json:"name"`
	Apps     []App     `json:"apps,omitempty"`
	Services []Service `json:"services,omitempty"`
}

// App of a space.
type App struct {
	Name string `json:"name"`
	// State is STARTED or STOPPED.
	State     string `json:"state"`
	Instances int    `json:"instances"`
	Buildpack string `json:"buildpack,omitempty"`
}

// Service is a service instance of a space.
type Service struct {
	Name string `json:"name"`
	// Service and Plan are the offering's names.
	Service string `json:"service,omitempty"`
	Plan    string `json:"plan,omitempty"`
}

// ParseManifest reads and checks a manifest. Fields that it does not know are left out: a later version may have more.
func ParseManifest(data []byte) (Manifest, error) {
	var m Manifest
	if len(data) > maxManifest {
		return m, failure(KindCorrupt, "manifest: longer than %d bytes", maxManifest)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&m); err != nil {
		return Manifest{}, &Error{Kind: KindCorrupt, Message: "manifest: not the JSON of a manifest", Err: err}
	}
	if decoder.More() {
		return Manifest{}, failure(KindCorrupt, "manifest: text after its end")
	}
	if err := m.Check(); err != nil {
		return Manifest{}, &Error{Kind: KindCorrupt, Message: "manifest: " + err.Error()}
	}
	return m, nil
}

// Check returns what is wrong with a manifest.
func (m Manifest) Check() error {
	switch {
	case m.Version < 1:
		return errors.New("no version")
	case m.Version > manifestVersion:
		return fmt.Errorf("version %d is of a later katoflow, this one reads up to %d", m.Version, manifestVersion)
	case m.Started.IsZero() || m.Ended.IsZero():
		return errors.New("started or ended is missing")
	case m.Ended.Before(m.Started):
		return errors.New("it ended before it started")
	}
	if err := m.Ref.check(); err != nil {
		return err
	}
	return m.Stored.check()
}

func (s Stored) check() error {
	switch {
	case s.File != exportName:
		return fmt.Errorf("object is not %s", exportName)
	case s.Size <= 0 || s.Size > maxSize || s.StoredSize <= 0 || s.StoredSize > maxSize:
		return errors.New("size is out of range")
	case !isSum(s.SHA256):
		return errors.New("sha256 is no SHA-256 in hexadecimal")
	case len(s.Parts) == 0 || len(s.Parts) > maxParts:
		return fmt.Errorf("%d parts; 1 to %d are possible", len(s.Parts), maxParts)
	case s.PartSize <= 0 || s.PartSize > maxSize:
		return errors.New("part_size is out of range")
	}
	var offset, storedOffset int64
	for i, p := range s.Parts {
		last := i == len(s.Parts)-1
		switch {
		case p.Number != i+1:
			return fmt.Errorf("part %d has number %d", i+1, p.Number)
		case p.Offset != offset || p.StoredOffset != storedOffset:
			return fmt.Errorf("part %d does not begin where the one before it ends", i+1)
		case p.Size <= 0 || p.Size > s.PartSize || !last && p.Size != s.PartSize || p.StoredSize <= 0 || p.StoredSize > s.StoredSize:
			return fmt.Errorf("size of part %d is out of range", i+1)
		case !isSum(p.SHA256) || !isSum(p.StoredSHA256):
			return fmt.Errorf("sums of part %d are no SHA-256 in hexadecimal", i+1)
		case !s.Encrypted() && (p.StoredSize != p.Size || p.StoredSHA256 != p.SHA256):
			return fmt.Errorf("part %d is stored as other bytes though nothing is encrypted", i+1)
		}
		offset += p.Size
		storedOffset += p.StoredSize
	}
	if offset != s.Size || storedOffset != s.StoredSize {
		return errors.New("the parts do not add up to the size")
	}
	if s.Checksum != composite(s.Parts) {
		return errors.New("the checksum is not that of the parts")
	}
	return nil
}

// JSON returns the manifest as it is stored.
func (m Manifest) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

func isSum(s string) bool {
	return len(s) == 2*sha256.Size && strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) < 0
}

// composite returns what S3 has as the SHA-256 of an object of these parts.
func composite(parts []Part) string {
	hash := sha256.New()
	for _, p := range parts {
		sum, err := hex.DecodeString(p.StoredSHA256)
		if err != nil {
			return ""
		}
		hash.Write(sum)
	}
	return base64.StdEncoding.EncodeToString(hash.Sum(nil)) + "-" + strconv.Itoa(len(parts))
}
