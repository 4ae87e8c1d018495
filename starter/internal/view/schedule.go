package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// ScheduleRow is one schedule in a list. Times are RFC 3339.
type ScheduleRow struct {
	Name, Cluster, Operation, When, TimeZone string
	Paused, Running                          bool
	Next, LastSuccess, LastFailure           string
	// Age of the last success in seconds; nil when none is known.
	Age                           *int64
	TooOld                        bool
	SkippedOverlap, MissedCatchUp int
}

// Age is a number of seconds for a person: 42s, 3m05s, 2h07m, 3d04h.
func Age(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d < 48*time.Hour {
		return short(d)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// Schedules is a table of schedules, ending with a line feed.
func Schedules(rows []ScheduleRow, s Style) string {
	w := newTable(s, "SCHEDULE", "CLUSTER", "OPERATION", "STATE", "NEXT", "LAST SUCCESS", "AGE", "LAST FAILURE", "MISSED", "WHEN", "ZONE")
	for _, r := range rows {
		next := minute(r.Next)
		if r.Paused {
			next = "-"
		}
		w.AppendRow(table.Row{clean(r.Name), clean(r.Cluster), clean(r.Operation), r.state(s), next,
			orNone(minute(r.LastSuccess)), r.age(s), orNone(minute(r.LastFailure)), itoa(r.SkippedOverlap + r.MissedCatchUp), clean(r.When), clean(r.TimeZone)})
	}
	return renderFit(w, s)
}

func (r ScheduleRow) state(s Style) string {
	switch {
	case r.Paused && r.Running:
		return s.paint(yellow, "paused, running")
	case r.Paused:
		return s.paint(yellow, "paused")
	case r.Running:
		return s.paint(cyan, "running")
	}
	return "on"
}

func (r ScheduleRow) age(s Style) string {
	if r.Age == nil {
		return s.paint(red, "never")
	}
	if r.TooOld {
		return s.paint(red, Age(*r.Age))
	}
	return Age(*r.Age)
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// minute is a time with its zone for a person, without seconds.
func minute(rfc3339 string) string {
	t := parseTime(rfc3339)
	if t.IsZero() {
		return clean(rfc3339)
	}
	if _, offset := t.Zone(); offset == 0 {
		return t.UTC().Format("2006-01-02 15:04 UTC")
	}
	return t.Format("2006-01-02 15:04 -07:00")
}

// ScheduleRun is one run of a schedule.
type ScheduleRun struct {
	ID, Result, StartedAt, Message string
	Seconds                        int64
}

// ScheduleDetails is everything about one schedule.
type ScheduleDetails struct {
	ScheduleRow
	// Command is the operation as a person would start it.
	Command                         []string
	Jitter, CatchUp                 time.Duration
	Note, RunningID                 string
	Next, DaylightSaving            []string
	Started                         int
	AppliedBy, CreatedAt, UpdatedAt string
	Runs                            []ScheduleRun
}

// Schedule is everything about one schedule as text, ending with a line feed.
func Schedule(d ScheduleDetails, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	row := func(name, format string, args ...any) { line("%-14s %s", name, fmt.Sprintf(format, args...)) }

	line("%s: %s of %s, %s", s.paint(bold, "schedule "+clean(d.Name)), clean(d.Operation), clean(d.Cluster), d.state(s))
	if d.Note != "" {
		row("note", "%s", clean(d.Note))
	}
	row("starts", "%s", command(d.Command...))
	if d.When != "" {
		row("when", "%s in %s", clean(d.When), clean(d.TimeZone))
	}
	for i, text := range d.DaylightSaving {
		name := ""
		if i == 0 {
			name = "clocks"
		}
		row(name, "%s", clean(text))
	}
	row("jitter", "%s", spelled(d.Jitter))
	row("catch-up", "%s: a run that could not begin by then is missed", spelled(d.CatchUp))
	row("overlap", "a run is left out while the one before goes on")
	if d.RunningID != "" {
		row("running", "%s; katoflow op watch %s", clean(d.RunningID), clean(d.RunningID))
	}
	row("last success", "%s", ageOf(d))
	row("last failure", "%s", orNone(minute(d.LastFailure)))
	row("runs", "%d started, %d left out while another went on, %d missed", d.Started, d.SkippedOverlap, d.MissedCatchUp)
	if d.CreatedAt != "" {
		times := "created " + minute(d.CreatedAt)
		if d.UpdatedAt != "" {
			times += ", changed " + minute(d.UpdatedAt)
		}
		if d.AppliedBy != "" {
			times += ", applied by " + clean(d.AppliedBy)
		}
		row("made", "%s", times)
	}
	b.WriteString("\n")
	if d.Paused {
		line("next times, were it not paused:")
	} else {
		line("next times:")
	}
	if len(d.Next) == 0 {
		line("  none")
	}
	for _, t := range d.Next {
		line("  %s", precise(t))
	}
	b.WriteString("\n")
	if len(d.Runs) == 0 {
		line("no run is known")
		return b.String()
	}
	w := newTable(s, "OPERATION", "RESULT", "STARTED", "TIME", "")
	for _, r := range d.Runs {
		w.AppendRow(table.Row{clean(r.ID), s.paint(statusColor(phaseColor(r.Result)), clean(r.Result)), stamp(r.StartedAt), short(time.Duration(r.Seconds) * time.Second), clean(r.Message)})
	}
	b.WriteString(renderFit(w, s))
	return b.String()
}

// phaseColor is the status that has the colour of a phase.
func phaseColor(phase string) string {
	if phase == operation.PhaseDone {
		return operation.NodeDone
	}
	return phase
}

func ageOf(d ScheduleDetails) string {
	if d.Age == nil {
		return "never, as far as is known"
	}
	return minute(d.LastSuccess) + ", " + Age(*d.Age) + " ago"
}

// spelled is a duration without the parts that are nothing: 6h, 5m, 0s.
func spelled(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// precise is a time with its day and zone for a person.
func precise(rfc3339 string) string {
	t := parseTime(rfc3339)
	if t.IsZero() {
		return clean(rfc3339)
	}
	text := t.Format("Mon 2006-01-02 15:04:05 -07:00")
	if _, offset := t.Zone(); offset != 0 {
		text += t.UTC().Format(" (15:04:05 UTC)")
	}
	return text
}

// AppliedRow is what became of a schedule that was applied.
type AppliedRow struct {
	Name, Result, Note      string
	DryRun, Paused          bool
	Changes, Next, Warnings []string
}

// Applied is the result of applying schedules as text, ending with a line feed; "" when there are none.
func Applied(rows []AppliedRow, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	for _, r := range rows {
		result := clean(r.Result)
		if r.DryRun {
			result = "would be " + result
		}
		text := "schedule " + clean(r.Name) + " " + result
		if r.Paused {
			text += ", " + s.paint(yellow, "paused")
			if r.Note != "" {
				text += " (" + clean(r.Note) + ")"
			}
		}
		line("%s", text)
		for _, c := range r.Changes {
			line("  %s", clean(c))
		}
		for _, w := range r.Warnings {
			line("  %s", s.paint(yellow, "warning: "+clean(w)))
		}
		for i, t := range r.Next {
			name := ""
			if i == 0 {
				name = "next"
			}
			line("  %-5s %s", name, precise(t))
		}
	}
	return b.String()
}
