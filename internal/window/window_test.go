package window

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return v
}

func TestAll_At_TheOpenOneOrTheNext(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		windows       []string
		now, from, to string
		open          bool
	}{
		"before it":                        {[]string{"Sat 22:00-04:00 Europe/Berlin"}, "2026-11-28T20:59:59Z", "2026-11-28T21:00:00Z", "2026-11-29T03:00:00Z", false},
		"when it opens":                    {[]string{"Sat 22:00-04:00 Europe/Berlin"}, "2026-11-28T21:00:00Z", "2026-11-28T21:00:00Z", "2026-11-29T03:00:00Z", true},
		"after midnight":                   {[]string{"Sat 22:00-04:00 Europe/Berlin"}, "2026-11-29T02:59:59Z", "2026-11-28T21:00:00Z", "2026-11-29T03:00:00Z", true},
		"when it has closed":               {[]string{"Sat 22:00-04:00 Europe/Berlin"}, "2026-11-29T03:00:00Z", "2026-12-05T21:00:00Z", "2026-12-06T03:00:00Z", false},
		"daily by default, UTC":            {[]string{"01:00-02:00"}, "2026-11-28T02:30:00Z", "2026-11-29T01:00:00Z", "2026-11-29T02:00:00Z", false},
		"days of the week":                 {[]string{"mon-fri 01:00-02:00"}, "2026-11-28T01:30:00Z", "2026-11-30T01:00:00Z", "2026-11-30T02:00:00Z", false},
		"days over the weekend":            {[]string{"Fri-Mon 01:00-02:00"}, "2026-11-29T01:30:00Z", "2026-11-29T01:00:00Z", "2026-11-29T02:00:00Z", true},
		"single days":                      {[]string{"Tuesday,sat 01:00-02:00"}, "2026-11-28T03:00:00Z", "2026-12-01T01:00:00Z", "2026-12-01T02:00:00Z", false},
		"the nearer of two":                {[]string{"Sat 22:00-23:00", "Wed 22:00-23:00"}, "2026-11-30T00:00:00Z", "2026-12-02T22:00:00Z", "2026-12-02T23:00:00Z", false},
		"two that touch are one":           {[]string{"Sat 22:00-24:00", "Sun 00:00-06:00"}, "2026-11-28T23:00:00Z", "2026-11-28T22:00:00Z", "2026-11-29T06:00:00Z", true},
		"the longer of two that overlap":   {[]string{"Sat 22:00-23:00", "Sat 21:00-01:00"}, "2026-11-28T22:30:00Z", "2026-11-28T21:00:00Z", "2026-11-29T01:00:00Z", true},
		"the next two that touch are one":  {[]string{"Sat 22:00-24:00", "Sun 00:00-06:00"}, "2026-11-28T20:00:00Z", "2026-11-28T22:00:00Z", "2026-11-29T06:00:00Z", false},
		"the night that is an hour longer": {[]string{"Sat 22:00-04:00 Europe/Berlin"}, "2026-10-24T21:00:00Z", "2026-10-24T20:00:00Z", "2026-10-25T03:00:00Z", true},
		"the night that is an hour less":   {[]string{"Sat 22:00-04:00 Europe/Berlin"}, "2026-03-28T22:00:00Z", "2026-03-28T21:00:00Z", "2026-03-29T02:00:00Z", true},
		"in the hour that is left out":     {[]string{"Sun 02:15-02:45 Europe/Berlin"}, "2026-03-29T00:00:00Z", "2026-03-29T01:15:00Z", "2026-03-29T01:45:00Z", false},
		"the day is that of the zone":      {[]string{"Sat 00:00-01:00 Pacific/Auckland"}, "2026-11-27T11:30:00Z", "2026-11-27T11:00:00Z", "2026-11-27T12:00:00Z", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, problems := ParseAll(c.windows)
			require.Empty(t, problems)
			span, open := all.At(at(t, c.now))
			require.Equal(t, c.open, open)
			require.Equal(t, []string{c.from, c.to}, []string{span.From.UTC().Format(time.RFC3339), span.To.UTC().Format(time.RFC3339)})
		})
	}
}

func TestAll_OpenAllTheTime_IsOpenForSomeDays(t *testing.T) {
	t.Parallel()
	all, problems := ParseAll([]string{"00:00-24:00"})
	require.Empty(t, problems)
	now := at(t, "2026-11-28T12:00:00Z")
	span, open := all.At(now)
	require.True(t, open)
	require.Greater(t, span.To.Sub(now), 6*24*time.Hour)
	require.Equal(t, 24*time.Hour, all.Shortest())
}

func TestParse_Wrong_SaysWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                    "the times are missing",
		"Sat":                                 "the times are missing",
		"Sat 22:00":                           `"22:00" is no span of time`,
		"Sat 22-04":                           `"22" is no time of day`,
		"Sat 22:0-04:00":                      `"22:0" is no time of day`,
		"Sat 22:00-25:00":                     `"25:00" is no time of day`,
		"Sat 24:00-01:00":                     "it begins at 00:00",
		"Sat 22:00-22:00":                     "it ends when it begins",
		"Caturday 22:00-23:00":                `"Caturday" is no day of the week`,
		"Mon- 22:00-23:00":                    `"" is no day of the week`,
		"Sat 22:00-23:00 Mars/Olympus":        `there is no time zone "Mars/Olympus"`,
		"Sat 22:00-23:00 Local":               "Local is another zone on every machine",
		"Sat 22:00-23:00 Europe/Berlin x":     `"x" is too much`,
		"Sat 22:00-23:00 ../../etc/localtime": "there is no time zone",
	} {
		_, err := Parse(text)
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, err, `write it as "Sat 22:00-04:00 Europe/Berlin"`)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("Sat 22:00-04:00 Europe/Berlin")
	f.Add("mon-fri,sun 1:00-24:00")
	f.Fuzz(func(t *testing.T, text string) {
		w, err := Parse(text)
		if err != nil {
			return
		}
		now := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
		for range 10 {
			span, open := All{w}.At(now)
			if !span.To.After(span.From) || open != (!now.Before(span.From) && now.Before(span.To)) || !open && !span.From.After(now) {
				t.Fatalf("%q at %s: %v %v", text, now, span, open)
			}
			now = now.Add(17 * time.Hour)
		}
	})
}
