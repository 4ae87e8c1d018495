package remote

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// maxDir bounds a job's directory name; below the 255 bytes of a file name with room for the names made from it.
	maxDir = 180
	// hashedPrefix is how much of a longer name is kept, for people, before its hash.
	hashedPrefix = 100
	// maxIDPart bounds each part of a JobID in bytes.
	maxIDPart = 512
)

// String returns the identity for people: operation/node/step/try. It is escaped, and not meant to be read back.
func (id JobID) String() string {
	return fmt.Sprintf("%s/%s/%s/%d", Escape(id.Operation), Escape(id.Node), Escape(id.Step), id.Try)
}

// Dir returns the name of the job's directory on the node: at most 180 bytes of [a-z0-9-], readable, and different for
// different identities: the encoded parts in a row, or their beginning and a SHA-256 when that is too long.
func (id JobID) Dir() string {
	parts := []string{id.Operation, id.Node, id.Step, strconv.Itoa(id.Try)}
	var name strings.Builder
	for i, part := range parts {
		if i > 0 {
			name.WriteString("-z") // no encoded text holds an escape of this letter
		}
		name.WriteString(EncodeID(part))
	}
	if name.Len() <= maxDir {
		return name.String()
	}
	sum := sha256.Sum256([]byte(name.String()))
	return wholeEscapes(name.String(), hashedPrefix) + "-y" + fmt.Sprintf("%x", sum)
}

// wholeEscapes returns the longest beginning of encoded text of at most max bytes that ends between two escapes.
func wholeEscapes(s string, max int) string {
	i := 0
	for i < len(s) {
		n := 1
		if s[i] == '-' {
			n = 3
			if i+1 < len(s) && (s[i+1] == '-' || s[i+1] == 'z') {
				n = 2
			}
		}
		if i+n > max {
			break
		}
		i += n
	}
	return s[:min(i, len(s))]
}

// EncodeID returns s in [a-z0-9-], different for different s, to name directories, tags and S3 keys: lower case letters and
// digits stay, "-" becomes "--" and any other byte "-" and two hexadecimal digits. DecodeID is its inverse.
func EncodeID(s string) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			out.WriteByte(c)
		case c == '-':
			out.WriteString("--")
		default:
			out.Write([]byte{'-', digits[c>>4], digits[c&15]})
		}
	}
	return out.String()
}

// DecodeID returns the s of EncodeID, or an error when no s has this encoding.
func DecodeID(encoded string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			out.WriteByte(c)
			continue
		case c != '-':
			return "", fmt.Errorf("encoded id %s: byte %d is none of [a-z0-9-]", Escape(encoded), i)
		case strings.HasPrefix(encoded[i+1:], "-"):
			out.WriteByte('-')
			i++
			continue
		}
		if i+2 >= len(encoded) {
			return "", fmt.Errorf("encoded id %s: cut off after byte %d", Escape(encoded), i)
		}
		b, err := strconv.ParseUint(encoded[i+1:i+3], 16, 8)
		if err != nil || EncodeID(string([]byte{byte(b)})) != encoded[i:i+3] {
			return "", fmt.Errorf("encoded id %s: no escape at byte %d", Escape(encoded), i)
		}
		out.WriteByte(byte(b))
		i += 2
	}
	return out.String(), nil
}

// check returns an error when the identity cannot name a job.
func (id JobID) check() error {
	for _, part := range []struct{ name, value string }{{"operation", id.Operation}, {"node", id.Node}, {"step", id.Step}} {
		if part.value == "" {
			return fmt.Errorf("job id: %s is missing", part.name)
		}
		if len(part.value) > maxIDPart {
			return fmt.Errorf("job id: %s is %d bytes long, at most %d are possible", part.name, len(part.value), maxIDPart)
		}
	}
	if id.Try < 0 {
		return errors.New("job id: the try is negative")
	}
	return nil
}

// words returns the identity as four words for a job's metadata.
func (id JobID) words() string {
	return EncodeID(id.Operation) + " " + EncodeID(id.Node) + " " + EncodeID(id.Step) + " " + strconv.Itoa(id.Try)
}

// jobIDOf reads back words.
func jobIDOf(words []string) (JobID, error) {
	if len(words) < 4 {
		return JobID{}, errors.New("incomplete metadata")
	}
	var parts [3]string
	for i := range parts {
		var err error
		if parts[i], err = DecodeID(words[i]); err != nil {
			return JobID{}, err
		}
	}
	try, err := strconv.Atoi(words[3])
	if err != nil {
		return JobID{}, errors.New("metadata without a try")
	}
	return JobID{Operation: parts[0], Node: parts[1], Step: parts[2], Try: try}, nil
}
