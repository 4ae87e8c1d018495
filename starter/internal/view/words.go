package view

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

func itoa(n int) string { return strconv.Itoa(n) }

func two(n int) string { return fmt.Sprintf("%02d", n) }

// count is "1 node", "3 nodes".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return itoa(n) + " " + what + "s"
}

// statuses in the order in which they are counted for people.
func statuses() []string {
	return []string{operation.NodeWaiting, operation.NodeFailed, operation.NodeRunning, operation.NodeDone, operation.NodeSkipped,
		operation.NodeCancelled, operation.NodePlanned, operation.NodePending, operation.NodeUntouched}
}

// countLine is "1 waiting, 3 running, 12 pending".
func countLine(counts map[string]int) string {
	var parts []string
	for _, s := range statuses() {
		if counts[s] > 0 {
			parts = append(parts, itoa(counts[s])+" "+s)
		}
	}
	return strings.Join(parts, ", ")
}

// ended reports whether nothing more happens to a node.
func ended(status string) bool {
	switch status {
	case operation.NodeDone, operation.NodeSkipped, operation.NodeFailed, operation.NodeCancelled, operation.NodePlanned:
		return true
	}
	return false
}

// remaining estimates how long the nodes that are left will take: the median of the finished nodes, times the nodes left, over the
// nodes at once. False while nothing is known or nothing moves.
func remaining(r *operation.Report, now time.Time) (time.Duration, bool) {
	if r.Phase != operation.PhaseRunning || r.Paused {
		return 0, false
	}
	var finished []time.Duration
	left := 0
	var running []time.Duration
	for i := range r.Nodes {
		n := &r.Nodes[i]
		switch n.Status {
		case operation.NodeDone:
			if d, ok := took(n.StartedAt, n.EndedAt, time.Time{}); ok {
				finished = append(finished, d)
			}
		case operation.NodeRunning, operation.NodeWaiting:
			d, _ := took(n.StartedAt, "", now)
			running = append(running, d)
		case operation.NodePending:
			left++
		}
	}
	if len(finished) == 0 || left+len(running) == 0 {
		return 0, false
	}
	slices.Sort(finished)
	median := finished[len(finished)/2]
	work := time.Duration(left) * median
	longest := time.Duration(0)
	for _, d := range running {
		rest := max(0, median-d)
		work += rest
		longest = max(longest, rest)
	}
	return max(longest, work/time.Duration(max(1, r.Slots))), true
}

// Question is an open question in one line: what it is about, what can be answered, why.
func Question(q operation.Question) string {
	line := fmt.Sprintf("%s %s (try %d), %s", clean(q.Node), clean(q.Step), q.Try, choices(q))
	if q.AnswerBy != "" {
		line += " until " + stamp(q.AnswerBy)
	}
	if q.Cause.Message != "" {
		line += ": " + clean(q.Cause.Message)
	}
	return line
}

// choices is "retry, skip or abort".
func choices(q operation.Question) string {
	words := make([]string, len(q.Choices))
	for i, c := range q.Choices {
		words[i] = clean(string(c))
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// DecideCommand is the command that gives the first answer that q takes, which is the mildest; ready to be pasted into a shell.
func DecideCommand(op string, q operation.Question) string {
	return command("katoflow", "op", "decide", op, "--node", q.Node, "--step", q.Step, "--try", itoa(q.Try), first(q))
}

// shortDecideCommand is DecideCommand where q is the only open question.
func shortDecideCommand(op string, q operation.Question) string {
	return command("katoflow", "op", "decide", op, first(q))
}

func first(q operation.Question) string {
	if len(q.Choices) == 0 {
		return string(operation.Retry)
	}
	return string(q.Choices[0])
}

// command is a command line for a person to paste. Arguments with characters that cannot be shown have no such form, and no name has them.
func command(argv ...string) string {
	for i, a := range argv {
		argv[i] = clean(a)
	}
	return remote.Quote(argv)
}

// note is the most important remark about a node, in one line.
func note(n *operation.NodeReport) string {
	var parts []string
	if n.OutOfService {
		parts = append(parts, "out of service")
	}
	if n.Failure != nil && n.Status != operation.NodeDone && n.Status != operation.NodeRunning {
		parts = append(parts, clean(n.Failure.Message))
	}
	if n.ChangeCount > 0 {
		parts = append(parts, count(n.ChangeCount, "package"))
	} else if n.Pending > 0 && !n.Upgraded {
		parts = append(parts, itoa(n.Pending)+" pending")
	}
	if len(n.Notes) > 0 {
		parts = append(parts, clean(n.Notes[len(n.Notes)-1]))
	}
	return strings.Join(parts, "; ")
}

// FailureLines are a failure's message, then each of its problems; the message is left out where it only repeats the first of them.
func FailureLines(f *operation.Failure) []string {
	if f == nil {
		return nil
	}
	var lines []string
	indent := ""
	if len(f.Problems) == 0 || !strings.HasPrefix(f.Message, f.Problems[0]) {
		lines, indent = append(lines, clean(f.Message)), "  "
	}
	for _, p := range f.Problems {
		lines = append(lines, indent+clean(p))
	}
	return lines
}
