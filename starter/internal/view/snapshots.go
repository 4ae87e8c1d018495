package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// snapshotted tells of a set of snapshots: what it is worth, and each of them.
func snapshotted(set *operation.Snapshotted, s Style) string {
	if set == nil {
		return ""
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	var levels []string
	for _, q := range set.Quiesce {
		levels = append(levels, clean(string(q)))
	}
	line("quiesce %s, provider %s", strings.Join(levels, ", "), clean(set.Provider))
	for _, v := range set.Void {
		line("%s", s.paint(yellow, "void: "+clean(v)))
	}
	if m := set.Moment; m != nil {
		colour := green
		if !m.Measured || m.Quiet != "" && !m.Inside {
			colour = yellow
		}
		line("%s", s.paint(colour, "moment: "+clean(m.String())))
	}
	if set.Down > 0 {
		line("stopped for %s", short(set.Down.D()))
	}
	if set.Frozen > 0 {
		line("file systems frozen for at most %s", set.Frozen.D().Round(time.Millisecond))
	}
	if set.Location != "" {
		line("manifest %s", clean(set.Location))
	}
	if len(set.Snapshots) == 0 {
		return b.String()
	}
	b.WriteString("\n")
	w := newTable(s, "NODE", "VM", "SNAPSHOT", "ID", "REQUESTED", "COMPLETED", "SIZE")
	for _, have := range set.Snapshots {
		size := ""
		if have.Size > 0 {
			size = operation.Size(have.Size)
		}
		w.AppendRow(table.Row{clean(have.Node), clean(have.VM), clean(have.Name), clean(have.ID), clockTime(have.Requested), clockTime(have.Completed), size})
	}
	b.WriteString(renderFit(w, s))
	return b.String()
}

// rolledBack tells what a rollback went back to, and what the disks hold. What it took before follows as a set.
func rolledBack(r *operation.Report, s Style) string {
	back := r.Sets.Rollback
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	var levels []string
	for _, q := range back.Quiesce {
		levels = append(levels, clean(string(q)))
	}
	if back.TakenAt != "" {
		line("back to set %s of %s, quiesce %s", clean(back.Set), fineStamp(back.TakenAt), strings.Join(levels, ", "))
	}
	switch back.Moment {
	case "":
	case operation.RolledToSet:
		line("%s", s.paint(green, "the disks of all nodes hold the moment of the set"))
	case operation.RolledMixed:
		line("%s", s.paint(red, "the disks of some nodes hold the moment of the set, and those of others do not: the VMs are off"))
	default:
		line("%s", s.paint(yellow, "the disks of all nodes are as they were before"))
	}
	if back.Down > 0 {
		line("stopped for %s", short(back.Down.D()))
	}
	if r.Snapshot != nil {
		line("what they were before:")
	}
	return b.String()
}

// clockTime is the time of day of a time with fractions, to the millisecond.
func clockTime(text string) string {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return ""
	}
	return t.UTC().Format("15:04:05.000")
}

// SnapshotSets is the list of a cluster's sets, the newest first.
func SnapshotSets(cluster string, list *operation.SnapshotSets, s Style) string {
	if len(list.Sets) == 0 {
		return fmt.Sprintf("cluster %s has no set of snapshots; take one with: katoflow snapshot create %s\n", clean(cluster), clean(cluster))
	}
	w := newTable(s, "SET", "TAKEN", "VMS", "QUIESCE", "SKEW AT MOST", "QUIET", "BY", "NOTE")
	for _, set := range list.Sets {
		if set.Problem != "" {
			w.AppendRow(table.Row{clean(set.Set), "", "", "", "", "", "", s.paint(red, clean(set.Problem))})
			continue
		}
		var levels []string
		for _, q := range set.Quiesce {
			levels = append(levels, clean(string(q)))
		}
		skew, quiet := "not measured", ""
		if m := set.Moment; m != nil {
			if m.Measured {
				skew = m.SkewBound.D().Round(time.Millisecond).String()
			}
			switch {
			case m.Inside:
				quiet = "inside " + m.QuietInterval.D().Round(time.Millisecond).String()
			case m.Quiet != "":
				quiet = s.paint(yellow, "not proved")
			}
		}
		w.AppendRow(table.Row{clean(set.Set), fineStamp(set.TakenAt), itoa(set.Snapshots), strings.Join(levels, ", "), skew, quiet, clean(set.Who), clean(set.Note)})
	}
	text := renderFit(w, s)
	if list.More > 0 {
		text += fmt.Sprintf("and %d more: --limit\n", list.More)
	}
	return text
}

// fineStamp is a time with fractions, to the second.
func fineStamp(text string) string {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return clean(text)
	}
	return stamp(t.UTC().Format(time.RFC3339))
}

// SnapshotSet is everything about one set.
func SnapshotSet(set *operation.SnapshotSet, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	line("set %s of %s, taken %s", clean(set.Set), clean(set.Cluster), fineStamp(set.TakenAt))
	if set.Who != "" {
		line("requested by %s", clean(set.Who))
	}
	if set.Note != "" {
		line("note: %s", clean(set.Note))
	}
	b.WriteString(snapshotted(&set.Snapshotted, s))
	return b.String()
}

// prunedSets is the table of what a retention keeps of a cluster's sets and what it does not, the newest first.
func prunedSets(r *operation.Report, s Style) string {
	p := r.Sets.Prune
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	line("keeps %s", clean(p.Retention.String()))
	type row struct {
		operation.SnapshotSummary
		outcome, color, why string
	}
	var rows []row
	for _, k := range p.Keep {
		rows = append(rows, row{k.SnapshotSummary, "kept", green, strings.Join(k.Reasons, ", ")})
	}
	for _, d := range p.Delete {
		color, why := yellow, d.Why
		if d.Outcome == operation.PruneFailed {
			color = red
		}
		if why == "" {
			why = "no rule keeps it"
		}
		rows = append(rows, row{d.SnapshotSummary, d.Outcome, color, why})
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(b.TakenAt, a.TakenAt) })
	if len(rows) > 0 {
		b.WriteString("\n")
		w := newTable(s, "SET", "TAKEN", "VMS", "QUIESCE", "", "WHY")
		for _, r := range rows {
			var levels []string
			for _, q := range r.Quiesce {
				levels = append(levels, clean(string(q)))
			}
			w.AppendRow(table.Row{clean(r.Set), fineStamp(r.TakenAt), itoa(r.Snapshots), strings.Join(levels, ", "), s.paint(r.color, clean(r.outcome)), clean(r.why)})
		}
		b.WriteString(renderFit(w, s))
	}
	if p.MoreKept > 0 {
		line("and %d more that are kept", p.MoreKept)
	}
	if p.MoreDeleted > 0 {
		line("and %d more that are not: the next run deletes them", p.MoreDeleted)
	}
	return b.String()
}
