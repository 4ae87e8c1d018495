package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// Status is how a cluster is, ending with a line feed: what there is to go back to, a table of its nodes, and what deserves a look.
func Status(c *operation.ClusterStatus, now time.Time, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	since := func(rfc3339 string) string {
		t := parseTime(rfc3339)
		if t.IsZero() {
			return "-"
		}
		return Age(int64(now.Sub(t) / time.Second))
	}
	ago := func(rfc3339 string) string { return minute(rfc3339) + ", " + since(rfc3339) + " ago" }
	line("%s (%s), %s", s.paint(bold, clean(c.Cluster)), clean(c.Platform), count(len(c.Nodes), "node"))
	if c.Holder != "" {
		text := clean(c.Holder)
		if _, kind, id, err := operation.ParseWorkflowID(c.Holder); err == nil {
			text = clean(kind) + " " + clean(id)
		}
		line("in work:         %s", s.paint(yellow, text))
	}
	backup, rehearsal, snapshot := s.paint(yellow, "none"), s.paint(yellow, "none"), "none"
	if a := c.Backup; a != nil {
		backup = fmt.Sprintf("%s, %s, %s", clean(a.Operation), ago(a.StartedAt), operation.Size(a.Size))
		if a.Verified != nil {
			backup += ", verified " + verified(a.Verified, s)
		}
	}
	if a := c.Rehearsal; a != nil {
		rehearsal = fmt.Sprintf("%s, %s", clean(a.Operation), rehearsed(a.Rehearsed, s))
	}
	if set := c.Snapshot; set != nil {
		var levels []string
		for _, q := range set.Quiesce {
			levels = append(levels, clean(string(q)))
		}
		snapshot = fmt.Sprintf("%s, %s, quiesce %s", clean(set.Set), ago(set.TakenAt), strings.Join(levels, ", "))
		if set.Problem != "" {
			snapshot = clean(set.Set) + ", " + s.paint(yellow, clean(set.Problem))
		}
	}
	// What is not known is not none.
	known := func(what string) bool {
		return !slices.ContainsFunc(c.Unknown, func(u string) bool { return strings.HasPrefix(u, what+": ") })
	}
	if known("archives") && c.Platform == "als" {
		line("last backup:     %s", backup)
		line("last rehearsal:  %s", rehearsal)
	}
	if known("sets of snapshots") {
		line("last snapshots:  %s", snapshot)
	}
	b.WriteString("\n")
	columns := []string{"NODE", "ROLES", "PENDING", "SECURITY", "HELD", "REBOOT", "PATCHED", "UP", "IMAGE BUILT", "KERNEL", "SYSTEM"}
	images := slices.ContainsFunc(c.Nodes, func(n operation.NodeStatus) bool { return n.Image != "" })
	if !images {
		columns = slices.DeleteFunc(columns, func(name string) bool { return name == "IMAGE BUILT" })
	}
	w := newTable(s, columns...)
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if n.Problem != "" {
			w.AppendRow(table.Row{clean(n.Node), cleanAll(n.Roles), s.paint(red, "not known")})
			continue
		}
		up, patched := since(n.BootedAt), since(n.PatchedAt)
		if patched != "-" {
			patched += " ago"
		}
		reboot := "no"
		if n.RebootRequired {
			reboot = s.paint(yellow, "required")
		}
		kernel := clean(n.Kernel)
		if n.Container != "" {
			kernel += " (" + clean(n.Container) + ")"
		}
		row := table.Row{clean(n.Node), cleanAll(n.Roles), number(n.Pending, false, s), number(n.Security, true, s), number(len(n.Held), false, s), reboot, patched, up}
		if images {
			built := since(n.ImageBuiltAt)
			if built != "-" {
				built += " ago"
			}
			row = append(row, built)
		}
		w.AppendRow(append(row, orNone(kernel), orNone(clean(n.System))))
	}
	b.WriteString(renderFit(w, s))
	tell := func(colour, node, text string) { line("%s", s.paint(colour, clean(node)+": "+clean(text))) }
	first := true
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if first && (n.Problem != "" || len(n.Warnings)+len(n.Storage)+len(n.Held) > 0) {
			b.WriteString("\n")
			first = false
		}
		if n.Problem != "" {
			tell(red, n.Node, n.Problem)
		}
		if len(n.Held) > 0 {
			tell("", n.Node, "kept back by apt-mark: "+strings.Join(n.Held[:min(len(n.Held), 10)], ", "))
		}
		for _, text := range append(n.Warnings[:len(n.Warnings):len(n.Warnings)], n.Storage...) {
			tell(yellow, n.Node, text)
		}
	}
	for _, u := range c.Unknown {
		line("%s", s.paint(yellow, "not known: "+clean(u)))
	}
	return b.String()
}

// number is -1 where it is not known.
func number(n int, alarming bool, s Style) string {
	switch {
	case n < 0:
		return "?"
	case n > 0 && alarming:
		return s.paint(yellow, itoa(n))
	}
	return itoa(n)
}
