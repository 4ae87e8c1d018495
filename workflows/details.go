package workflows

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// maxDetails is what the Web UI takes, in bytes.
const maxDetails = 20_000

// refresh shows the state of the operation: phase and node as search attributes when they changed, the table as current details.
func (r *run) refresh(ctx workflow.Context) {
	phase, needs := r.phase(), len(r.openQuestions()) > 0
	r.report.Phase, r.report.UpdatedAt = phase, stamp(ctx)
	var changed []temporal.SearchAttributeUpdate
	if phase != r.shownPhase {
		changed = append(changed, operation.AttributePhase.ValueSet(phase))
	}
	if needs != r.shownNeeds {
		changed = append(changed, operation.AttributeNeedsOperator.ValueSet(needs))
	}
	if r.currentNode != r.shownNode {
		changed = append(changed, operation.AttributeNode.ValueSet(r.currentNode))
	}
	if len(changed) > 0 {
		if err := workflow.UpsertTypedSearchAttributes(ctx, changed...); err != nil {
			workflow.GetLogger(ctx).Error("search attributes were not updated", "error", err)
		}
		r.shownPhase, r.shownNeeds, r.shownNode = phase, needs, r.currentNode
	}
	shown := r.report // Details bounds itself: no need to trim it at every change
	shown.Questions = r.openQuestions()
	workflow.SetCurrentDetails(ctx, Details(&shown))
}

// phase follows from the state; a final one stays.
func (r *run) phase() string {
	switch {
	case r.report.Finished():
		return r.report.Phase
	case len(r.openQuestions()) > 0:
		return operation.PhaseBlocked
	case r.cleanup:
		return operation.PhaseCleanup
	case r.report.Paused:
		return operation.PhasePaused
	case r.stepping:
		return operation.PhaseRunning
	}
	return operation.PhaseStarting
}

// headline is one line that says what is going on.
func (r *run) headline() string {
	if open := r.openQuestions(); len(open) > 0 {
		q := open[0]
		text := fmt.Sprintf("%s waits for a decision at step %s: %s", q.Node, q.Step, q.Cause.Message)
		if len(open) > 1 {
			text += fmt.Sprintf(" (and %d more)", len(open)-1)
		}
		return operation.Shorten(text, 1024)
	}
	return r.report.Message
}

// Details renders a report as the Markdown that the Web UI shows: what is needed from a person first, then the nodes.
func Details(report *operation.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** on **%s**: **%s**, %s", cell(report.Kind, 60), cell(report.Cluster, 80), report.Phase, howFar(report))
	if report.DryRun {
		b.WriteString(" (dry run)")
	}
	b.WriteString("\n\n")
	if report.Message != "" {
		b.WriteString(cell(report.Message, 1024) + "\n\n")
	}
	if report.Failure != nil {
		for i, p := range report.Failure.Problems {
			if i == 50 {
				fmt.Fprintf(&b, "- ... and %d more\n", len(report.Failure.Problems)-i)
				break
			}
			b.WriteString("- " + cell(p, 300) + "\n")
		}
		b.WriteString("\n")
	}
	for i, q := range report.Questions {
		if i == 5 {
			fmt.Fprintf(&b, "... and %d more questions, see `katoflow op show %s`\n\n", len(report.Questions)-i, report.OperationID)
			break
		}
		writeQuestion(&b, q)
	}
	writeNodes(&b, report)
	writeApps(&b, report.Apps)
	if image := report.Image; image != nil {
		writeList(&b, "On an older image", len(image.Old), func(i int) string { return image.Old[i].String() })
	}
	if s := report.Snapshot; s != nil {
		writeList(&b, "Rounds that do not count", len(s.Void), func(i int) string { return s.Void[i] })
	}
	if report.Maintenance != "" {
		b.WriteString("\nMaintenance mode: " + cell(report.Maintenance, 300) + "\n")
	}
	if report.Window != "" && !report.Finished() {
		b.WriteString("\nMaintenance window: " + cell(report.Window, 500) + "\n")
	}
	writeList(&b, "Did not hold before the operation", len(report.BrokenBefore), func(i int) string { return report.BrokenBefore[i].String() })
	writeList(&b, "Left out of the gates", len(report.LeftOut), func(i int) string { return report.LeftOut[i] })
	writeList(&b, "Answers", len(report.Answers), func(i int) string {
		a := report.Answers[i]
		return fmt.Sprintf("%s %s, %s, try %d: %s (%s)", a.At, a.Node, a.Step, a.Try, line(string(a.Decision), a.Who, a.Reason), a.By)
	})
	writeList(&b, "Warnings", len(report.Warnings), func(i int) string { return report.Warnings[i] })
	return operation.Shorten(b.String(), maxDetails)
}

// howFar is what an operation has done, in a few words: an export has one node and several steps.
func howFar(report *operation.Report) string {
	if report.Image != nil {
		return imageSummary(report)
	}
	if report.Patches != nil {
		return patchSummary(report)
	}
	if report.Storage != nil {
		return movedSummary(report)
	}
	if report.Apps != nil {
		return appsSummary(report.Apps)
	}
	if report.Sets != nil && report.Sets.Rollback != nil {
		return rollbackSummary(report)
	}
	if report.Snapshot != nil {
		return snapshotSummary(report)
	}
	if !operation.OnOneNode(report.Kind) || len(report.Nodes) != 1 {
		return fmt.Sprintf("%d of %d nodes done", report.Counts()[operation.NodeDone], len(report.Nodes))
	}
	n := &report.Nodes[0]
	what := "not begun"
	switch {
	case n.Status == operation.NodeDone && report.Restore != nil:
		what = "imported"
	case n.Status == operation.NodeDone && report.Kind == operation.KindHold:
		what = "let go"
	case n.Status == operation.NodeDone:
		what = "archived"
	case n.Step != "":
		what = "step " + cell(n.Step, 40)
	}
	if r := report.Restore; r != nil {
		from := r.Archive
		if r.Running != "" {
			from = "cluster " + r.Running
		}
		what += ", " + cell(from, 200)
	}
	if e := report.Export; e != nil {
		if e.Size > 0 {
			what += ", " + operation.Size(e.Size)
		}
		if e.Location != "" {
			what += " in " + cell(e.Location, 400)
		}
	}
	return what
}

// snapshotSummary is how far a set of snapshots is, and how good its moment was.
func snapshotSummary(report *operation.Report) string {
	s := report.Snapshot
	var parts []string
	if len(report.Nodes) > 0 && report.Nodes[0].Step != "" && !report.Finished() {
		parts = append(parts, "round "+fmt.Sprint(max(s.Round, 1))+", step "+cell(report.Nodes[0].Step, 40))
	}
	if s.Moment != nil {
		parts = append(parts, s.Moment.String())
	}
	if s.Location != "" {
		parts = append(parts, "manifest in "+cell(s.Location, 400))
	}
	if len(parts) == 0 {
		return count(len(report.Nodes), "node")
	}
	return strings.Join(parts, ", ")
}

// rollbackSummary is how far a rollback is, and what the disks hold at its end.
func rollbackSummary(report *operation.Report) string {
	r := report.Sets.Rollback
	parts := []string{count(len(report.Nodes), "node") + " back to set " + cell(r.Set, 80)}
	if r.TakenAt != "" {
		parts[0] += " of " + when(r.TakenAt)
	}
	if len(report.Nodes) > 0 && report.Nodes[0].Step != "" && !report.Finished() {
		parts = append(parts, "step "+cell(report.Nodes[0].Step, 40))
	}
	if r.Moment != "" {
		parts = append(parts, "the disks hold: "+cell(r.Moment, 40))
	}
	if s := report.Snapshot; s != nil && s.Location != "" {
		parts = append(parts, "what they were before is set "+cell(s.Set, 80))
	}
	return strings.Join(parts, ", ")
}

// writeQuestion shows the cause, what can be answered, and the JSON to paste into the update `decide`.
func writeQuestion(b *strings.Builder, q operation.Question) {
	names := make([]string, len(q.Choices))
	for i, c := range q.Choices {
		names[i] = "`" + string(c) + "`"
	}
	fmt.Fprintf(b, "### %s needs a decision\n\nStep **%s**, try %d, asked %s: %s\n\n", cell(q.Node, 80), cell(q.Step, 40), q.Try, q.AskedAt, cell(q.Cause.Message, 1024))
	for i, p := range q.Cause.Problems {
		if i == 20 {
			fmt.Fprintf(b, "- ... and %d more\n", len(q.Cause.Problems)-i)
			break
		}
		b.WriteString("- " + cell(p, 300) + "\n")
	}
	if len(q.Cause.Problems) > 0 {
		b.WriteString("\n")
	}
	if q.Cause.Tail != "" {
		b.WriteString("```\n" + strings.ReplaceAll(operation.Shorten(q.Cause.Tail, 2000), "```", "'''") + "\n```\n\n")
	}
	paste, _ := json.Marshal(operation.DecideRequest{Node: q.Node, Step: q.Step, Try: q.Try, Decision: q.Choices[0]}) // plain strings and an int
	fmt.Fprintf(b, "Answer with one of %s: *More Actions, Send an Update,* `decide` with\n\n```json\n%s\n```\n\n", strings.Join(names, ", "), paste)
}

// writeNodes is the table. A large operation shows only nodes that are not simply pending or done.
func writeNodes(b *strings.Builder, report *operation.Report) {
	if len(report.Nodes) == 0 {
		return
	}
	large := len(report.Nodes) > 60
	b.WriteString("| node | roles | status | step | try | remark |\n|---|---|---|---|---|---|\n")
	rows, hidden := 0, 0
	for i := range report.Nodes {
		n := &report.Nodes[i]
		plain := n.Failure == nil && (n.Status == operation.NodePending || n.Status == operation.NodeDone || n.Status == operation.NodeUntouched || n.Status == operation.NodePlanned)
		if large && plain || rows == 60 {
			hidden++
			continue
		}
		rows++
		try := ""
		if n.Try > 0 {
			try = fmt.Sprint(n.Try)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", cell(n.Name, 80), cell(strings.Join(n.Roles, ", "), 80), n.Status, cell(n.Step, 40), try, cell(remark(n), 160))
	}
	if hidden > 0 {
		counts := report.Counts()
		fmt.Fprintf(b, "\n%d more: %d done, %d pending.\n", hidden, counts[operation.NodeDone], counts[operation.NodePending])
	}
}

// writeApps is the table of the apps that are not well.
func writeApps(b *strings.Builder, apps *operation.AppsReport) {
	if apps == nil {
		return
	}
	rows := 0
	for _, r := range apps.Apps {
		if r.Outcome != operation.AppFailed && r.Outcome != operation.AppGone {
			continue
		}
		if rows == 0 {
			b.WriteString("| app | outcome | reason | what its owner has to do |\n|---|---|---|---|\n")
		}
		if rows++; rows > 60 {
			fmt.Fprintf(b, "\n%d failed in all.\n", apps.Counts[operation.AppFailed])
			return
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", cell(r.String(), 160), r.Outcome, cell(r.Reason, 200), cell(r.ToDo, 120))
	}
}

// remark is the most useful thing to say about a node in one line.
func remark(n *operation.NodeReport) string {
	var parts []string
	if n.OutOfService {
		parts = append(parts, "out of service")
	}
	if n.Failure != nil {
		parts = append(parts, n.Failure.Message)
	}
	if n.ChangeCount > 0 {
		parts = append(parts, count(n.ChangeCount, "package")+" upgraded")
	}
	if i := n.Image; i != nil && i.Moved {
		parts = append(parts, "apps get image "+operation.ShortImage(i.ID))
	}
	if p := n.Patches; p != nil && len(p.Wanted) > 0 {
		parts = append(parts, strings.Join(bound(p.Wanted, 5), ", "))
	}
	if n.Proof != nil {
		parts = append(parts, "reboot proved, kernel "+n.Proof.Kernel)
	}
	parts = append(parts, n.Notes...)
	if len(parts) == 0 && n.Pending > 0 {
		parts = append(parts, count(n.Pending, "package")+" pending")
	}
	return strings.Join(parts, "; ")
}

func writeList(b *strings.Builder, title string, n int, text func(int) string) {
	if n == 0 {
		return
	}
	b.WriteString("\n" + title + ":\n\n") // the Web UI takes it for a list only after an empty line
	for i := range n {
		if i == 20 {
			fmt.Fprintf(b, "- ... and %d more\n", n-i)
			return
		}
		b.WriteString("- " + cell(text(i), 300) + "\n")
	}
}

var markdown = strings.NewReplacer("\\", "\\\\", "|", "\\|", "`", "\\`", "*", "\\*", "_", "\\_", "<", "&lt;", ">", "&gt;", "[", "\\[", "]", "\\]", "#", "\\#")

// cell makes text safe inside a line or table cell of Markdown: whatever a node or a person wrote stays text.
func cell(s string, max int) string { return markdown.Replace(oneLine(s, max)) }

// oneLine folds white space and control characters and bounds the length.
func oneLine(s string, max int) string {
	s = strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return ' '
		}
		return c
	}, s)
	return operation.Shorten(strings.Join(strings.Fields(s), " "), max)
}
