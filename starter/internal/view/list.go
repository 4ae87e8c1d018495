package view

import (
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// ListRow is one operation in a list.
type ListRow struct {
	ID, Kind, Cluster, Phase, Node, RequestedBy string
	NeedsOperator                               bool
	StartedAt, EndedAt                          string
}

// List is a table of operations, ending with a line feed.
func List(rows []ListRow, now time.Time, s Style) string {
	w := newTable(s, "OPERATION", "KIND", "CLUSTER", "PHASE", "NODE", "STARTED", "TIME", "BY", "")
	for _, r := range rows {
		elapsed, needs := "", ""
		if d, ok := took(r.StartedAt, r.EndedAt, now); ok {
			elapsed = short(d)
		}
		if r.NeedsOperator {
			needs = s.paint(yellow, "needs an answer")
		}
		w.AppendRow(table.Row{clean(r.ID), clean(r.Kind), clean(r.Cluster), s.paint(statusColor(r.Phase), clean(r.Phase)), clean(r.Node), stamp(r.StartedAt), elapsed, clean(r.RequestedBy), needs})
	}
	return renderFit(w, s)
}

// renderFit is the table as text, every line cut to the width.
func renderFit(w table.Writer, s Style) string {
	out := ""
	for _, l := range strings.Split(w.Render(), "\n") {
		out += s.fit(l) + "\n"
	}
	return out
}
