package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // time zones on machines that have none

	"go.temporal.io/sdk/client"
)

// scheduleField is one of the fields of a cron line or a calendar.
type scheduleField struct {
	name      string
	low, high int
	// names of the values from low on.
	names []string
	// standard is what a calendar without the field means.
	standard string
}

// scheduleFields in the order of cron; the year is in calendars only. The names and the meaning of a field left out are Temporal's.
func scheduleFields() []scheduleField {
	return []scheduleField{
		{name: "minute", high: 59, standard: "0"},
		{name: "hour", high: 23, standard: "0"},
		{name: "day_of_month", low: 1, high: 31, standard: "*"},
		{name: "month", low: 1, high: 12, standard: "*", names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{name: "day_of_week", high: 7, standard: "*", names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
		{name: "year", low: 2000, high: 2100, standard: "*"},
	}
}

// cronFields is how many of them a cron line has.
const cronFields = 5

// parseCron reads five fields, or one of @hourly, @daily, @weekly, @monthly, @yearly.
func parseCron(line string) (client.ScheduleCalendarSpec, error) {
	text := strings.TrimSpace(line)
	switch text {
	case "@hourly":
		text = "0 * * * *"
	case "@daily", "@midnight":
		text = "0 0 * * *"
	case "@weekly":
		text = "0 0 * * 0"
	case "@monthly":
		text = "0 0 1 * *"
	case "@yearly", "@annually":
		text = "0 0 1 1 *"
	}
	words := strings.Fields(text)
	if len(words) != cronFields {
		return client.ScheduleCalendarSpec{}, fmt.Errorf("cron %q: write five fields: minute, hour, day of month, month, day of week, such as \"0 3 * * *\"", operationName(line))
	}
	spec, err := parseCalendar(func(i int, f scheduleField) string {
		if i < cronFields {
			return words[i]
		}
		return f.standard
	})
	if err != nil {
		return spec, fmt.Errorf("cron %q: %w", operationName(line), err)
	}
	spec.Comment = strings.Join(words, " ")
	return spec, nil
}

// parseCalendarFields reads a calendar whose fields stand under their names; the caller has refused unknown ones.
func parseCalendarFields(fields map[string]string) (client.ScheduleCalendarSpec, error) {
	spec, err := parseCalendar(func(_ int, f scheduleField) string {
		if text, ok := fields[f.name]; ok {
			return text
		}
		return f.standard
	})
	if err != nil {
		return spec, fmt.Errorf("calendar: %w", err)
	}
	spec.Comment = calendarText(fields)
	return spec, nil
}

// calendarText is a calendar in one line.
func calendarText(fields map[string]string) string {
	var parts []string
	for _, f := range scheduleFields() {
		if text, ok := fields[f.name]; ok {
			parts = append(parts, f.name+" "+text)
		}
	}
	return strings.Join(parts, ", ")
}

func parseCalendar(text func(int, scheduleField) string) (client.ScheduleCalendarSpec, error) {
	spec := client.ScheduleCalendarSpec{Second: []client.ScheduleRange{{Start: 0, End: 0, Step: 1}}}
	targets := []*[]client.ScheduleRange{&spec.Minute, &spec.Hour, &spec.DayOfMonth, &spec.Month, &spec.DayOfWeek, &spec.Year}
	for i, f := range scheduleFields() {
		ranges, err := f.parse(text(i, f))
		if err != nil {
			return spec, err
		}
		*targets[i] = ranges
	}
	if len(occurrences([]client.ScheduleCalendarSpec{spec}, time.UTC, time.Now(), 1)) == 0 {
		return spec, fmt.Errorf("no such day comes")
	}
	return spec, nil
}

// parse reads "*", "5", "1-5", "*/15", "1-31/2", "mon-fri" and lists of them with commas.
func (f scheduleField) parse(text string) ([]client.ScheduleRange, error) {
	title := strings.ReplaceAll(f.name, "_", " ")
	var out []client.ScheduleRange
	for _, part := range strings.Split(strings.ToLower(strings.TrimSpace(text)), ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		r := client.ScheduleRange{Start: f.low, End: f.high, Step: 1}
		if f.name == "day_of_week" {
			r.End = 6
		}
		if stepped {
			n, err := strconv.Atoi(stepText)
			if err != nil || n < 1 || n > f.high {
				return nil, fmt.Errorf("%s %q: the step after / must be a number from 1 to %d", title, operationName(part), f.high)
			}
			r.Step = n
		}
		if span != "*" {
			from, to, isRange := strings.Cut(span, "-")
			var err error
			if r.Start, err = f.value(title, from); err != nil {
				return nil, err
			}
			switch {
			case isRange:
				if r.End, err = f.value(title, to); err != nil {
					return nil, err
				}
				if f.name == "day_of_week" && r.End == 0 && r.Start > 0 {
					r.End = 7 // fri-sun
				}
			case !stepped:
				r.End = r.Start
			}
			if r.End < r.Start {
				return nil, fmt.Errorf("%s %q: the range ends before it begins", title, operationName(part))
			}
		} else if f.name == "year" && !stepped {
			return nil, nil // every year
		}
		if r.End == 7 && f.name == "day_of_week" { // 7 is Sunday too, which is 0 for Temporal
			for v := r.Start; v <= r.End; v += r.Step {
				out = append(out, client.ScheduleRange{Start: v % 7, End: v % 7, Step: 1})
			}
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

func (f scheduleField) value(title, text string) (int, error) {
	if i := slices.Index(f.names, text); i >= 0 {
		return f.low + i, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < f.low || n > f.high || strings.Trim(text, "0123456789") != "" {
		hint := ""
		if len(f.names) > 0 {
			hint = fmt.Sprintf(", or %s to %s", f.names[0], f.names[len(f.names)-1])
		}
		return 0, fmt.Errorf("%s %q: write a number from %d to %d%s", title, operationName(text), f.low, f.high, hint)
	}
	return n, nil
}

// loadZone finds a time zone by its IANA name.
func loadZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || strings.EqualFold(name, "local") {
		return nil, fmt.Errorf("time zone %q: there is no such zone, write an IANA name such as Europe/Paris, or UTC", operationName(name))
	}
	return zone, nil
}

func covered(ranges []client.ScheduleRange, v int) bool {
	if len(ranges) == 0 {
		return true
	}
	return slices.ContainsFunc(ranges, func(r client.ScheduleRange) bool {
		return v >= r.Start && v <= max(r.Start, r.End) && (v-r.Start)%max(1, r.Step) == 0
	})
}

func matchesDay(c client.ScheduleCalendarSpec, day time.Time) bool {
	return covered(c.Year, day.Year()) && covered(c.Month, int(day.Month())) && covered(c.DayOfMonth, day.Day()) && covered(c.DayOfWeek, int(day.Weekday()))
}

// farthest is how many days occurrences looks ahead: the days of the week of 29 February repeat after 28 years, or 40 around the year 2100.
const farthest = 41 * 366

// occurrences are the next n times after a moment, as Temporal's scheduler has them (service/worker/scheduler/calendar.go of its server): a time
// that does not exist on the day on which clocks go forward is left out, one that comes twice when they go back is taken twice.
func occurrences(calendars []client.ScheduleCalendarSpec, zone *time.Location, after time.Time, n int) []time.Time {
	var out []time.Time
	local := after.In(zone)
	first := time.Date(local.Year(), local.Month(), local.Day(), 12, 0, 0, 0, time.UTC) // a calendar day, without a zone
	for i := range farthest {
		day := first.AddDate(0, 0, i)
		var times []time.Time
		for _, c := range calendars {
			if matchesDay(c, day) {
				times = append(times, timesOf(c, day, zone)...)
			}
		}
		slices.SortFunc(times, time.Time.Compare)
		for _, t := range slices.CompactFunc(times, time.Time.Equal) {
			if t.After(after) {
				if out = append(out, t); len(out) == n {
					return out
				}
			}
		}
	}
	return out
}

// timesOf are the times of a calendar on a day that it matches.
func timesOf(c client.ScheduleCalendarSpec, day time.Time, zone *time.Location) []time.Time {
	var out []time.Time
	for h := range 24 {
		if !covered(c.Hour, h) {
			continue
		}
		for m := range 60 {
			if !covered(c.Minute, m) {
				continue
			}
			t := time.Date(day.Year(), day.Month(), day.Day(), h, m, 0, 0, zone)
			if t.Hour() != h || t.Minute() != m {
				continue // it does not exist
			}
			out = append(out, t)
			for _, twin := range []time.Time{t.Add(-time.Hour), t.Add(time.Hour)} {
				if twin.Hour() == h && twin.Minute() == m {
					out = append(out, twin)
				}
			}
		}
	}
	return out
}

// daylightSaving says in words what the changes of the clocks within the next year do to a schedule.
func daylightSaving(calendars []client.ScheduleCalendarSpec, zone *time.Location, now time.Time) []string {
	var out []string
	for t := now.In(zone); ; {
		_, change := t.ZoneBounds()
		if change.IsZero() || change.After(now.AddDate(1, 0, 0)) {
			break
		}
		_, before := change.Add(-time.Second).Zone()
		_, after := change.Zone()
		// The wall clock's times that are missing or come twice, as if they were UTC.
		from, to := change.Add(time.Duration(before)*time.Second).UTC(), change.Add(time.Duration(after)*time.Second).UTC()
		if from.After(to) {
			from, to = to, from
		}
		var hit []string
		for wall := from; wall.Before(to); wall = wall.Add(time.Minute) {
			if slices.ContainsFunc(calendars, func(c client.ScheduleCalendarSpec) bool {
				return matchesDay(c, wall) && covered(c.Hour, wall.Hour()) && covered(c.Minute, wall.Minute())
			}) {
				hit = append(hit, wall.Format("15:04"))
			}
		}
		const most = 4
		if len(hit) > most {
			hit = append(hit[:most], fmt.Sprintf("%d more", len(hit)-most))
		}
		span := from.Format("15:04") + " to " + to.Format("15:04")
		switch {
		case after > before && len(hit) > 0:
			out = append(out, fmt.Sprintf("%s clocks go forward: %s does not exist that day, so the run at %s is left out", from.Format(time.DateOnly), span, strings.Join(hit, ", ")))
		case after > before:
			out = append(out, fmt.Sprintf("%s clocks go forward: %s does not exist that day, no run falls into it", from.Format(time.DateOnly), span))
		case after < before && len(hit) > 0:
			out = append(out, fmt.Sprintf("%s clocks go back: %s comes twice that day, and so does the run at %s", from.Format(time.DateOnly), span, strings.Join(hit, ", ")))
		case after < before:
			out = append(out, fmt.Sprintf("%s clocks go back: %s comes twice that day, no run falls into it", from.Format(time.DateOnly), span))
		}
		t = change.In(zone)
	}
	if len(out) == 0 {
		return []string{fmt.Sprintf("clocks do not change in %s within a year", zone)}
	}
	return out
}
