package view

import (
	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// relocated tells of data that were moved, ending with a line feed.
func relocated(r *operation.StorageReport, s Style) string {
	if r == nil || len(r.Moves) == 0 {
		return ""
	}
	w := newTable(s, "DATA", "FROM", "TO", "SIZE", "FILES", "OUTCOME")
	for _, m := range r.Moves {
		size, files, outcome := "", "", clean(m.Outcome)
		if m.Bytes > 0 {
			size = operation.Size(m.Bytes)
		}
		if m.Files > 0 {
			files = itoa(m.Files)
		}
		switch m.Outcome {
		case operation.Moved, operation.WasThere:
			outcome = s.paint(green, outcome)
		case operation.MovedLeft, operation.MoveOpen:
			outcome = s.paint(yellow, outcome)
		}
		w.AppendRow(table.Row{clean(string(m.Kind)), clean(m.From), clean(m.To), size, files, outcome})
	}
	out := "\n" + renderFit(w, s)
	if r.Down > 0 {
		out += s.fit("roles stopped for "+r.Down.String()) + "\n"
	}
	if r.SourceKept {
		for _, m := range r.Moves {
			if m.Kept != "" && m.Outcome != operation.NotMoved && m.Outcome != operation.WasThere {
				out += s.fit(s.paint(yellow, "source kept: "+clean(m.Kept))) + "\n"
			}
		}
	}
	return out
}
