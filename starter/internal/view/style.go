package view

import (
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Style says what the place where the text is shown can do.
type Style struct {
	// Color allows ANSI colours.
	Color bool
	// Width in columns; 0 is unlimited.
	Width int
	// Height in rows, for frames; 0 is unlimited.
	Height int
}

// ANSI attributes in use.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (s Style) paint(attribute, t string) string {
	if !s.Color || attribute == "" || t == "" {
		return t
	}
	return "\x1b[" + attribute + "m" + t + "\x1b[0m"
}

// fit cuts one line to the width.
func (s Style) fit(line string) string {
	if s.Width <= 0 || text.StringWidthWithoutEscSequences(line) <= s.Width {
		return line
	}
	cut := text.Snip(line, s.Width, "…")
	if strings.Contains(cut, "\x1b[") && !strings.HasSuffix(cut, "\x1b[0m") {
		cut += "\x1b[0m"
	}
	return cut
}

func statusColor(status string) string {
	switch status {
	case operation.NodeRunning, operation.PhaseStarting:
		return cyan
	case operation.NodeDone:
		return green
	case operation.NodeWaiting, operation.PhaseBlocked, operation.PhasePaused, operation.PhaseCleanup:
		return yellow
	case operation.NodeFailed, operation.PhaseAborted:
		return red
	case operation.NodeSkipped, operation.NodeCancelled:
		return yellow
	case operation.NodePending, operation.NodeUntouched, operation.NodePlanned:
		return dim
	}
	return ""
}

// clean is every text that is not our own.
func clean(s string) string { return remote.Escape(s) }

func cleanAll(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = clean(s)
	}
	return strings.Join(out, ",")
}

// newTable is the one look of all tables: no lines, two spaces between columns.
func newTable(s Style, header ...string) table.Writer {
	w := table.NewWriter()
	style := table.Style{Name: "katoflow", Box: table.StyleBoxDefault, Format: table.FormatOptionsDefault, Options: table.OptionsNoBordersAndSeparators}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	w.SetStyle(style)
	w.SuppressTrailingSpaces()
	row := make(table.Row, len(header))
	for i, h := range header {
		row[i] = s.paint(bold, h)
	}
	w.AppendHeader(row)
	return w
}

// snipColumn keeps a column to width columns, cut instead of wrapped.
func snipColumn(number, width int) table.ColumnConfig {
	return table.ColumnConfig{Number: number, WidthMax: width, WidthMaxEnforcer: func(cell string, most int) string { return text.Snip(cell, most, "…") }}
}

// short is a duration for people: 42s, 3m05s, 2h07m.
func short(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	d = d.Round(time.Second)
	h, m, s := int(d/time.Hour), int(d/time.Minute)%60, int(d/time.Second)%60
	switch {
	case h > 0:
		return itoa(h) + "h" + two(m) + "m"
	case m > 0:
		return itoa(m) + "m" + two(s) + "s"
	}
	return itoa(s) + "s"
}

// parseTime reads the reports' RFC 3339; the zero time where there is none.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// stamp is a report's time for a person.
func stamp(s string) string {
	t := parseTime(s)
	if t.IsZero() {
		return clean(s)
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// took is the time between two times of a report; until now while there is no end.
func took(from, to string, now time.Time) (time.Duration, bool) {
	begin := parseTime(from)
	if begin.IsZero() {
		return 0, false
	}
	end := parseTime(to)
	if end.IsZero() {
		if now.IsZero() {
			return 0, false
		}
		end = now
	}
	return max(0, end.Sub(begin)), true
}
