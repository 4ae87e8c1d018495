package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Report is the whole of a report as text, ending with a line feed: what was asked, how it stands, every node, what is open.
func Report(r *operation.Report, now time.Time, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }

	line("%s", title(r, now, s))
	if r.Message != "" {
		line("%s", clean(r.Message))
	}
	if r.StartedAt != "" {
		times := "started " + stamp(r.StartedAt)
		if r.EndedAt != "" {
			times += ", ended " + stamp(r.EndedAt)
		}
		if r.RequestedBy != "" {
			times += ", requested by " + clean(r.RequestedBy)
		}
		line("%s", times)
	}
	if len(r.Nodes) > 0 {
		line("%s: %s", count(len(r.Nodes), "node"), countLine(r.Counts()))
	}
	if (r.Batch != "" || r.Slots > 0) && !operation.OnOneNode(r.Kind) {
		line("batch %s (%d at once)", clean(r.Batch), r.Slots)
	}
	if r.Paused {
		line("paused; go on with: katoflow op resume %s", clean(r.OperationID))
	}
	if r.Maintenance != "" {
		line("maintenance %s", clean(r.Maintenance))
	}
	if r.Window != "" && !r.Finished() {
		line("window %s", clean(r.Window))
	}
	if r.Failure != nil && (r.Failure.Message != r.Message || len(r.Failure.Problems) > 0) {
		for i, l := range FailureLines(r.Failure) {
			if i == 0 && r.Failure.Message == r.Message {
				continue
			}
			line("%s", s.paint(red, l))
		}
	}

	b.WriteString(catalog(r.Catalog, s))
	b.WriteString(export(r.Export, s))
	b.WriteString(restored(r.Restore, s))
	if r.Sets != nil && r.Sets.Rollback != nil {
		b.WriteString(rolledBack(r, s))
	}
	b.WriteString(imaged(r, s))
	b.WriteString(patched(r, s))
	b.WriteString(relocated(r.Storage, s))
	b.WriteString(released(r, s))
	b.WriteString(snapshotted(r.Snapshot, s))
	if r.Sets != nil && r.Sets.Prune != nil {
		b.WriteString(prunedSets(r, s))
	}
	if r.Sets != nil && r.Sets.Set != nil {
		b.WriteString(snapshotted(&r.Sets.Set.Snapshotted, s))
	}
	if !r.DryRun {
		b.WriteString(AppResults(r.Apps, false, s))
	}
	if len(r.Nodes) > 0 {
		b.WriteString("\n")
		columns := []string{"NODE", "ROLES", "STATUS", "STEP", "TRY", "TIME", "PACKAGES", "BOOT", "NOTE"}
		upgrades := !operation.OnOneNode(r.Kind) && r.Patches == nil && !slices.Contains([]string{operation.KindSnapshot, operation.KindSnapshotRollback, operation.KindAccessGrant, operation.KindAccessRevoke, operation.KindQuotaEnable, operation.KindQuotaDisable, operation.KindReleaseUpgrade}, r.Kind)
		if !upgrades {
			columns = slices.Delete(columns, 6, 8)
		}
		w := newTable(s, columns...)
		for i := range r.Nodes {
			n := &r.Nodes[i]
			row := nodeRow(n, now, s)
			packages, boot := "", ""
			if n.Upgraded || n.ChangeCount > 0 {
				packages = itoa(n.ChangeCount)
			}
			if n.Proof != nil {
				boot = "proved"
				if strings.HasPrefix(n.Proof.Kernel, "not proved") {
					boot = "kernel not proved"
				}
			}
			row = append(row[:6:6], packages, boot, fullNote(n))
			if !upgrades {
				row = slices.Delete(row, 6, 8)
			}
			w.AppendRow(row)
		}
		configs := []table.ColumnConfig{snipColumn(1, 60), snipColumn(2, rolesWidth(s)), snipColumn(len(columns), 400)}
		if s.Width <= 0 {
			configs = nil
		}
		w.SetColumnConfigs(configs)
		b.WriteString(renderFit(w, s))
	}

	section := func(name string, lines []string) {
		if len(lines) == 0 {
			return
		}
		b.WriteString("\n" + s.paint(bold, name) + "\n")
		for _, l := range lines {
			b.WriteString("  " + l + "\n")
		}
	}
	section("Failures", failures(r))
	section("Open questions", openQuestions(r))
	var answers []string
	for _, a := range r.Answers {
		answers = append(answers, stamp(a.At)+" "+answer(a))
	}
	section("Answers", answers)
	var broken []string
	for _, g := range r.BrokenBefore {
		broken = append(broken, clean(g.String()))
	}
	section("Did not hold before the operation", broken)
	if len(r.LeftOut) > 0 {
		section("Left out of the cluster gates", []string{cleanAll(r.LeftOut)})
	}
	var warnings []string
	for _, w := range r.Warnings {
		warnings = append(warnings, clean(w))
	}
	section("Warnings", warnings)
	section("Commands that would run", commands(r.Commands))
	return b.String()
}

// export tells of the archive that an export made: where it is, how big, and what went into it.
func export(e *operation.Exported, s Style) string {
	if e == nil || e.Size == 0 {
		return ""
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	if e.Location != "" {
		line("archive %s", clean(e.Location))
	}
	size := fmt.Sprintf("%s, %s", operation.Size(e.Size), count(int(e.Entries), "file"))
	if e.Encrypted {
		size += fmt.Sprintf(", encrypted (%s)", operation.Size(e.StoredSize))
	}
	line("size %s, SHA-256 %s", size, clean(e.SHA256))
	if c := e.Contents; c != nil {
		line("held %s", c)
	}
	times := "export took " + short(e.ExportTime.D())
	if e.MaintenanceTime > 0 {
		times += ", maintenance mode " + short(e.MaintenanceTime.D())
	}
	if e.TransferTime > 0 {
		times += ", transfer " + short(e.TransferTime.D())
		if e.Transfer != "" {
			times += " (" + clean(string(e.Transfer)) + ")"
		}
	}
	line("%s", times)
	return b.String()
}

// restored tells of an import: the archive, what it should hold, and what came back.
func restored(r *operation.Restored, s Style) string {
	if r == nil {
		return ""
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	text := "archive " + clean(r.Archive)
	if r.Running != "" {
		text = "running cluster " + clean(r.Running)
		if r.Held != "" {
			text += ", held by " + clean(r.Held)
		}
	}
	if r.Made != "" {
		text += ", made " + stamp(r.Made)
	}
	line("%s", text)
	if r.Size > 0 {
		line("size %s, SHA-256 %s", operation.Size(r.Size), clean(r.SHA256))
	}
	if r.Safety != "" {
		line("backed up before in %s", clean(r.Safety))
	}
	contents := func(what string, c *operation.ExportedContents) {
		if c != nil {
			line("%s %s", what, c)
		}
	}
	contents("recorded", r.Recorded)
	contents("found   ", r.Found)
	for _, m := range r.Missing {
		line("%s", s.paint(red, "missing: "+clean(m)))
	}
	if r.More > 0 {
		line("%s", s.paint(red, fmt.Sprintf("missing: and %d more", r.More)))
	}
	if len(r.Named) > 0 {
		line("kato named as failed: %s", cleanAll(r.Named))
	}
	if v := r.Rehearsal; v != nil {
		if v.OK {
			line("%s", s.paint(green, "proven restorable in "+clean(v.Cluster)))
		} else {
			line("%s", s.paint(red, "not proven restorable: "+clean(v.Problem)))
		}
	}
	if r.ImportTime > 0 {
		times := "import took " + short(r.ImportTime.D())
		if r.FetchTime > 0 {
			times = "fetching took " + short(r.FetchTime.D()) + " (" + clean(string(r.Transfer)) + "), " + times
		}
		line("%s", times)
	}
	return b.String()
}

// fullNote is everything worth saying about a node in a table that stays.
func fullNote(n *operation.NodeReport) string {
	var parts []string
	if n.OutOfService {
		parts = append(parts, "out of service")
	}
	if n.Failure != nil && n.Status != operation.NodeDone {
		parts = append(parts, clean(n.Failure.Message))
	}
	if n.ChangeCount == 0 && n.Pending > 0 && !n.Upgraded {
		parts = append(parts, itoa(n.Pending)+" pending")
	}
	if n.Patches != nil && len(n.Patches.Wanted) > 0 {
		parts = append(parts, strings.ReplaceAll(cleanAll(n.Patches.Wanted), ",", ", "))
	}
	if v := versions(n.Release); v != "" {
		parts = append(parts, v)
	}
	for _, t := range n.Notes {
		parts = append(parts, clean(t))
	}
	return strings.Join(parts, "; ")
}

// failures with the end of the output of the command that failed, which the table has no room for.
func failures(r *operation.Report) []string {
	var lines []string
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Failure == nil || n.Status == operation.NodeDone || n.Status == operation.NodeRunning {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s (try %d): %s: %s", clean(n.Name), clean(n.Step), n.Try, clean(n.Failure.Type), clean(n.Failure.Message)))
		if n.Failure.Job != "" {
			lines = append(lines, "  job on the node: "+clean(n.Failure.Job))
		}
		output := n.Failure.Tail
		for _, q := range r.Questions { // a failure that is asked about has its output in the question
			if output == "" && q.Node == n.Name {
				output = q.Cause.Tail
			}
		}
		lines = append(lines, tail(output)...)
	}
	return lines
}

func tail(t string) []string {
	const most = 20
	t = strings.TrimRight(remote.EscapeLines(t), "\n")
	if t == "" {
		return nil
	}
	all := strings.Split(strings.ReplaceAll(t, "\t", "    "), "\n")
	if len(all) > most {
		all = all[len(all)-most:]
	}
	for i, l := range all {
		all[i] = "  | " + l
	}
	return all
}

// mostProblems is how many of the things that a question is about are told.
const mostProblems = 20

func openQuestions(r *operation.Report) []string {
	var lines []string
	for _, q := range r.Questions {
		lines = append(lines, Question(q))
		for i, p := range q.Cause.Problems {
			if i == mostProblems {
				lines = append(lines, fmt.Sprintf("  - and %d more", len(q.Cause.Problems)-i))
				break
			}
			lines = append(lines, "  - "+clean(p))
		}
		lines = append(lines, "  "+DecideCommand(r.OperationID, q))
	}
	return lines
}

func commands(plans []operation.CommandPlan) []string {
	var lines []string
	for _, p := range plans {
		lines = append(lines, "on "+cleanAll(p.Nodes)+":")
		for _, c := range p.Commands {
			line := fmt.Sprintf("  %-8s %s", clean(c.Step), clean(c.Command))
			if c.Note != "" {
				line += "   # " + clean(c.Note)
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// Outcome is one line that says how an operation ended.
func Outcome(r *operation.Report, now time.Time) string {
	line := fmt.Sprintf("%s of %s %s: %s", clean(r.Kind), clean(r.Cluster), clean(r.OperationID), clean(r.Phase))
	if c := countLine(r.Counts()); c != "" {
		line += " (" + c + ")"
	}
	if d, ok := took(r.StartedAt, r.EndedAt, now); ok {
		line += " after " + short(d)
	}
	return line
}

// PreflightNotes are what a preflight found and did not stop at, one a line.
func PreflightNotes(o operation.PreflightOutcome) []string {
	var lines []string
	for _, g := range o.BrokenBefore {
		lines = append(lines, "did not hold before: "+clean(g.String()))
	}
	for _, w := range o.Warnings {
		lines = append(lines, "warning: "+clean(w))
	}
	return lines
}
