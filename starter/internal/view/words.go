package view

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
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

// Question is an open question in one line.
func Question(q operation.Question) string {
	cause := ""
	if q.Cause.Message != "" {
		cause = ": " + clean(q.Cause.Message)
	}
	return fmt.Sprintf("%s %s (try %d)%s", clean(q.Node), clean(q.Step), q.Try, cause)
}

// DecideCommand is the command that answers q, with the choices as its last word; safe to paste only after one of them is chosen.
func DecideCommand(op string, q operation.Question) string {
	return fmt.Sprintf("katoflow op decide %s --node %s --step %s --try %d %s", clean(op), clean(q.Node), clean(q.Step), q.Try, Choices(q))
}

// Choices is "retry|skip|abort".
func Choices(q operation.Question) string {
	choices := make([]string, len(q.Choices))
	for i, c := range q.Choices {
		choices[i] = clean(string(c))
	}
	return strings.Join(choices, "|")
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
