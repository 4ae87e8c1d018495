package inventory

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	day = 24 * time.Hour
	// maxDuration is far above any sensible waiting time, so that a slip of the unit is found.
	maxDuration = 30 * day
	// maxRetention is ten years: a lock that nobody can undo should not be longer by a slip.
	maxRetention = 3650 * day
)

var (
	bareNumber = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	wholeDays  = regexp.MustCompile(`^([0-9]{1,5})d$`)
)

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

// ParseRetention reads a duration with its unit, which here may also be days: "12h", "90d". It must be more than zero and at most 3650d.
func ParseRetention(s string) (Retention, error) {
	var d time.Duration
	if bareNumber.MatchString(s) {
		return 0, fmt.Errorf("%s has no unit: write it as %q or %q", quote(s), shorten(s)+"d", shorten(s)+"h")
	}
	if m := wholeDays.FindStringSubmatch(s); m != nil {
		days, _ := strconv.Atoi(m[1]) // at most five digits, by the expression
		d = time.Duration(days) * day
	} else if parsed, err := time.ParseDuration(s); err == nil {
		d = parsed
	} else {
		return 0, fmt.Errorf("%s is not a duration: write a number with the unit d or h, such as \"30d\" or \"12h\"", quote(s))
	}
	if d <= 0 || d > maxRetention {
		return 0, fmt.Errorf("%s is out of range: write a duration above 0 and up to \"3650d\"", quote(s))
	}
	return Retention(d), nil
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

// Std is r as a time.Duration.
func (r Retention) Std() time.Duration { return time.Duration(r) }

// String writes r as one would in the file: whole days as "90d".
func (r Retention) String() string {
	if d := time.Duration(r); d > 0 && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	return Duration(r).String()
}

// MarshalText writes r with its unit, in JSON as in YAML.
func (r Retention) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalJSON reads what MarshalText wrote.
func (r *Retention) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a text with a unit, such as \"90d\"")
	}
	if s == "0s" {
		*r = 0
		return nil
	}
	v, err := ParseRetention(s)
	if err != nil {
		return err
	}
	*r = v
	return nil
}
