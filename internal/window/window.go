// Package window knows maintenance windows: times of the week in which a rolling procedure may begin with a node.
package window

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // time zones on machines that have none
)

// Window is a time that comes back every week, or on several days of it. It belongs to the days on which it begins; one that ends not after it begins ends on the next day.
type Window struct {
	days     [7]bool // from Sunday on, as time.Weekday
	from, to int     // minutes since midnight
	zone     *time.Location
	text     string
}

// Parse reads "[DAYS] HH:MM-HH:MM [ZONE]": days as "Sat", "Mon-Fri", "Sat,Sun" or "daily" (the default), a zone of the IANA database (UTC is the default). The error names what is wrong and
// what would be right.
func Parse(text string) (Window, error) {
	w := Window{zone: time.UTC, text: strings.Join(strings.Fields(text), " ")}
	fields := strings.Fields(text)
	wrong := func(format string, args ...any) (Window, error) {
		return Window{}, fmt.Errorf("window %q: %s: write it as \"Sat 22:00-04:00 Europe/Berlin\"", shorten(text), fmt.Sprintf(format, args...))
	}
	if len(fields) > 0 && !strings.Contains(fields[0], ":") {
		if err := w.parseDays(fields[0]); err != nil {
			return wrong("%v", err)
		}
		fields = fields[1:]
	} else {
		w.days = [7]bool{true, true, true, true, true, true, true}
	}
	if len(fields) == 0 {
		return wrong("the times are missing")
	}
	from, to, ok := strings.Cut(fields[0], "-")
	if !ok {
		return wrong("%q is no span of time", shorten(fields[0]))
	}
	var err error
	if w.from, err = minutes(from); err == nil {
		w.to, err = minutes(to)
	}
	switch {
	case err != nil:
		return wrong("%v", err)
	case w.from == 24*60:
		return wrong("it begins at 00:00 and not at 24:00")
	case w.from == w.to:
		return wrong("it ends when it begins")
	}
	if w.to <= w.from {
		w.to += 24 * 60
	}
	switch len(fields) {
	case 1:
	case 2:
		if fields[1] == "Local" {
			return wrong("Local is another zone on every machine")
		}
		if w.zone, err = time.LoadLocation(fields[1]); err != nil {
			return wrong("there is no time zone %q", shorten(fields[1]))
		}
	default:
		return wrong("%q is too much", shorten(strings.Join(fields[2:], " ")))
	}
	return w, nil
}

var names = [7]string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

// weekday reads "Sat" or "Saturday".
func weekday(text string) (int, error) {
	lower := strings.ToLower(text)
	for i, name := range names {
		if lower == name || lower == name[:3] {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is no day of the week", shorten(text))
}

func (w *Window) parseDays(text string) error {
	if strings.EqualFold(text, "daily") {
		w.days = [7]bool{true, true, true, true, true, true, true}
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, span := strings.Cut(part, "-")
		from, err := weekday(first)
		if err != nil {
			return err
		}
		to := from
		if span {
			if to, err = weekday(last); err != nil {
				return err
			}
		}
		for d := from; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == to {
				break
			}
		}
	}
	return nil
}

// minutes reads "22:00".
func minutes(text string) (int, error) {
	hour, minute, ok := strings.Cut(text, ":")
	h, errH := strconv.Atoi(hour)
	m, errM := strconv.Atoi(minute)
	if !ok || errH != nil || errM != nil || len(hour) > 2 || len(minute) != 2 || h < 0 || m < 0 || m > 59 || h*60+m > 24*60 {
		return 0, fmt.Errorf("%q is no time of day", shorten(text))
	}
	return h*60 + m, nil
}

func shorten(text string) string {
	const most = 60
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// String is the window as it was written.
func (w Window) String() string { return w.text }

// on is the window that begins on a day of its zone. Where the clocks change it ends at the time of day that was written, and is shorter or longer.
func (w Window) on(year int, month time.Month, day int) (from, to time.Time) {
	at := func(minutes int) time.Time { return time.Date(year, month, day, 0, minutes, 0, 0, w.zone) }
	return at(w.from), at(w.to)
}

// Span is a window of one week.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// All are the windows of an operation.
type All []Window

// ParseAll reads several, with all that is wrong with them.
func ParseAll(texts []string) (All, []string) {
	var all All
	var problems []string
	for _, text := range texts {
		w, err := Parse(text)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		all = append(all, w)
	}
	return all, problems
}

// At is the window that is open at a time, or the next one that opens. Windows that touch or overlap are one.
func (all All) At(now time.Time) (span Span, open bool) {
	spans := all.around(now)
	for i, s := range spans {
		if !now.Before(s.From) && now.Before(s.To) && (!open || s.To.After(span.To)) {
			span, open = spans[i], true
		}
	}
	if !open {
		for _, s := range spans {
			if s.From.After(now) && (span.From.IsZero() || s.From.Before(span.From)) {
				span = s
			}
		}
	}
	for grown := true; grown; {
		grown = false
		for _, s := range spans {
			if !s.From.After(span.To) && s.To.After(span.To) && s.To.After(s.From) && s.To.Sub(span.From) < 8*24*time.Hour {
				span.To, grown = s.To, true
			}
		}
	}
	return span, open
}

// around are the windows from a day before to nine days after a time, in no order.
func (all All) around(now time.Time) []Span {
	var out []Span
	for _, w := range all {
		year, month, day := now.In(w.zone).Date()
		for d := -1; d <= 9; d++ {
			if weekday := time.Date(year, month, day+d, 12, 0, 0, 0, w.zone).Weekday(); !w.days[weekday] {
				continue
			}
			if from, to := w.on(year, month, day+d); to.After(from) { // a whole window may fall into the hour that a change of clocks leaves out
				out = append(out, Span{From: from, To: to})
			}
		}
	}
	return out
}

// Shortest is the length of the shortest window, on days on which no clocks change.
func (all All) Shortest() time.Duration {
	shortest := time.Duration(0)
	for _, w := range all {
		if d := time.Duration(w.to-w.from) * time.Minute; shortest == 0 || d < shortest {
			shortest = d
		}
	}
	return shortest
}

// String is all of them as they were written.
func (all All) String() string {
	texts := make([]string, len(all))
	for i, w := range all {
		texts[i] = w.text
	}
	return strings.Join(texts, "; ")
}
