package inventory

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// maxDuration is far above any sensible waiting time, so that a slip of the unit is found.
const maxDuration = 30 * 24 * time.Hour

var bareNumber = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

// ParseDuration reads a duration with its unit: "30s", "10m", "1h30m". It must be more than zero and at most 720h.
func ParseDuration(s string) (Duration, error) {
	if bareNumber.MatchString(s) {
		return 0, fmt.Errorf("%s has no unit: write it as %q or %q", quote(s), shorten(s)+"s", shorten(s)+"m")
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%s is not a duration: write a number with the unit s, m or h, such as \"30s\", \"10m\" or \"24h\"", quote(s))
	}
	if d <= 0 || d > maxDuration {
		return 0, fmt.Errorf("%s is out of range: write a duration above 0 and up to \"720h\"", quote(s))
	}
	return Duration(d), nil
}

// shorten keeps an example made of the file's own digits readable.
func shorten(s string) string {
	if len(s) > 6 {
		return "30"
	}
	return s
}

// Std is d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes d as one would in the file: "10m", not "10m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes d with its unit, in JSON as in YAML.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalJSON reads what MarshalText wrote.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a text with a unit, such as \"30s\"")
	}
	if s == "0s" {
		*d = 0
		return nil
	}
	v, err := ParseDuration(s)
	if err != nil {
		return err
	}
	*d = v
	return nil
}
