package view

import (
	"fmt"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
)

// Changes says in lines what differs between two reports of an operation; before is nil for the first.
func Changes(before, after *operation.Report) []string {
	if before == nil {
		before = &operation.Report{}
	}
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }

	if before.Phase != after.Phase || before.Message != after.Message {
		line := "operation " + clean(after.Phase)
		if after.Message != "" {
			line += ": " + clean(after.Message)
		}
		say("%s", line)
	}
	if before.Paused != after.Paused {
		if after.Paused {
			say("paused before %s; go on with: katoflow op resume %s", operation.PausesBefore(after.Kind), clean(after.OperationID))
		} else {
			say("resumed")
		}
	}
	if before.Slots != 0 && after.Slots != 0 && before.Slots != after.Slots {
		say("batch %s: %d at once", clean(after.Batch), after.Slots)
	}
	if before.Maintenance != after.Maintenance {
		say("maintenance %s", clean(after.Maintenance))
	}
	if before.Window != after.Window {
		say("window %s", clean(after.Window))
	}
	known := map[string]*operation.NodeReport{}
	for i := range before.Nodes {
		known[before.Nodes[i].Name] = &before.Nodes[i]
	}
	for i := range after.Nodes {
		n := &after.Nodes[i]
		old := known[n.Name]
		if old == nil {
			if n.Status == operation.NodePending {
				continue
			}
			old = &operation.NodeReport{}
		}
		if old.Status != n.Status || old.Step != n.Step || old.Try != n.Try {
			say("%s", nodeChange(n))
		}
	}
	asked := map[string]bool{}
	for _, q := range before.Questions {
		asked[q.Key()+q.AskedAt] = true
	}
	for _, q := range after.Questions {
		if !asked[q.Key()+q.AskedAt] {
			say("question: %s", Question(q))
			say("answer with: %s", DecideCommand(after.OperationID, q))
		}
	}
	for i := len(before.Answers); i < len(after.Answers); i++ {
		say("%s", answer(after.Answers[i]))
	}
	for i := len(before.Warnings); i < len(after.Warnings); i++ {
		say("warning: %s", clean(after.Warnings[i]))
	}
	return lines
}

func nodeChange(n *operation.NodeReport) string {
	line := clean(n.Name)
	if ended(n.Status) {
		line += " " + clean(n.Status)
		if d, ok := took(n.StartedAt, n.EndedAt, time.Time{}); ok {
			line += " after " + short(d)
		}
		if t := note(n); t != "" {
			line += ": " + t
		}
		return line
	}
	if n.Step != "" {
		line += " " + clean(n.Step)
	}
	line += " " + clean(n.Status)
	if n.Try > 0 {
		line += fmt.Sprintf(" (try %d)", n.Try)
	}
	return line
}

func answer(a operation.Answer) string {
	line := fmt.Sprintf("answered: %s %s (try %d): %s by %s", clean(a.Node), clean(a.Step), a.Try, clean(string(a.Decision)), clean(a.By))
	if a.Who != "" {
		line += " " + clean(a.Who)
	}
	if a.Reason != "" {
		line += ", " + clean(a.Reason)
	}
	return line
}
