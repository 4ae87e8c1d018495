package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// unlimited height still shows no more than this many nodes in a frame.
const mostNodesInFrame = 200

// Frame is the live picture of an operation: at most s.Height lines of at most s.Width columns. notice is shown when not empty ("server
// unreachable for 12s, retrying").
func Frame(r *operation.Report, notice string, now time.Time, s Style) []string {
	head := []string{title(r, now, s)}
	if bar := progressBar(r, now, s); bar != "" {
		head = append(head, bar)
	}
	if line := stateLine(r); line != "" {
		head = append(head, line)
	}
	if notice != "" {
		head = append(head, s.paint(yellow, clean(notice)))
	}
	foot := questionLines(r, s)

	room := mostNodesInFrame
	if s.Height > 0 {
		// Two rows for the blank line and the header of the table, one for the line that counts the rest.
		room = s.Height - len(head) - len(foot) - 3
		if room < 3 && len(foot) > 3 {
			foot = append(foot[:3:3], s.paint(dim, "  all questions: katoflow op show "+clean(r.OperationID)))
			room = s.Height - len(head) - len(foot) - 3
		}
		room = max(room, 0)
	}
	lines := head
	if len(r.Nodes) > 0 && room > 0 {
		lines = append(lines, "")
		lines = append(lines, nodeTable(r, room, now, s)...)
	}
	lines = append(lines, foot...)
	if s.Height > 0 && len(lines) > s.Height {
		lines = lines[:s.Height]
	}
	for i := range lines {
		lines[i] = s.fit(lines[i])
	}
	return lines
}

func title(r *operation.Report, now time.Time, s Style) string {
	t := fmt.Sprintf("%s of %s  %s  %s", clean(r.Kind), s.paint(bold, clean(r.Cluster)), clean(r.OperationID), s.paint(statusColor(r.Phase), clean(r.Phase)))
	if r.DryRun {
		t += "  dry run"
	}
	if d, ok := took(r.StartedAt, r.EndedAt, now); ok {
		t += "  " + short(d)
	}
	return t
}

func progressBar(r *operation.Report, now time.Time, s Style) string {
	if r.Apps != nil && r.Apps.Total > 0 {
		return bar(r.Apps.Handled, r.Apps.Total, "apps", s) + "  " + outcomes(r.Apps)
	}
	total := len(r.Nodes)
	if total == 0 {
		return ""
	}
	finished := 0
	counts := r.Counts()
	for status, n := range counts {
		if ended(status) {
			finished += n
		}
	}
	line := bar(finished, total, "nodes", s)
	if eta, ok := remaining(r, now); ok {
		line += "  about " + short(eta) + " left"
	}
	if c := countLine(counts); c != "" {
		line += "  " + c
	}
	return line
}

// bar is "[#####-----] 5/10 nodes 50%".
func bar(finished, total int, what string, s Style) string {
	width := 30
	if s.Width > 0 {
		width = min(width, max(5, s.Width-50))
	}
	filled := finished * width / total
	return fmt.Sprintf("[%s%s] %d/%d %s %d%%", s.paint(green, strings.Repeat("#", filled)), strings.Repeat("-", width-filled), finished, total, what, finished*100/total)
}

func stateLine(r *operation.Report) string {
	var parts []string
	if r.Paused {
		parts = append(parts, "paused: katoflow op resume "+clean(r.OperationID))
	}
	if r.Slots > 1 || r.Batch != "" && r.Batch != "1" {
		parts = append(parts, fmt.Sprintf("batch %s (%d at once)", clean(r.Batch), r.Slots))
	}
	if r.Maintenance != "" {
		parts = append(parts, "maintenance "+clean(r.Maintenance))
	}
	if r.Window != "" && !r.Finished() {
		parts = append(parts, "window "+clean(r.Window))
	}
	if r.Message != "" {
		parts = append(parts, clean(r.Message))
	}
	return strings.Join(parts, "  ")
}

func questionLines(r *operation.Report, s Style) []string {
	if len(r.Questions) == 0 {
		return nil
	}
	lines := []string{""}
	for _, q := range r.Questions {
		answer := DecideCommand(r.OperationID, q)
		if s.Width > 0 && len(answer)+2 > s.Width && len(r.Questions) == 1 { // cut short it could not be pasted
			answer = shortDecideCommand(r.OperationID, q)
		}
		lines = append(lines, s.paint(yellow, s.fit("? "+Question(q))), "  "+answer)
	}
	return lines
}

// nodeTable shows at most room nodes, those that matter most when there are more, in the order of the operation.
func nodeTable(r *operation.Report, room int, now time.Time, s Style) []string {
	shown := pick(r.Nodes, room)
	w := newTable(s, "NODE", "ROLES", "STATUS", "STEP", "TRY", "TIME", "NOTE")
	for _, i := range shown {
		n := &r.Nodes[i]
		w.AppendRow(nodeRow(n, now, s))
	}
	w.SetColumnConfigs([]table.ColumnConfig{snipColumn(1, 30), snipColumn(2, rolesWidth(s)), snipColumn(7, 400)})
	lines := strings.Split(w.Render(), "\n")
	if rest := len(r.Nodes) - len(shown); rest > 0 {
		counts := map[string]int{}
		for i := range r.Nodes {
			if !slices.Contains(shown, i) {
				counts[r.Nodes[i].Status]++
			}
		}
		lines = append(lines, s.paint(dim, fmt.Sprintf("and %d more: %s", rest, countLine(counts))))
	}
	return lines
}

func rolesWidth(s Style) int {
	if s.Width <= 0 {
		return 60
	}
	return max(8, s.Width/5)
}

func nodeRow(n *operation.NodeReport, now time.Time, s Style) table.Row {
	try := ""
	if n.Try > 0 {
		try = itoa(n.Try)
	}
	elapsed := ""
	if n.Status != operation.NodePending && n.Status != operation.NodeUntouched {
		end := n.EndedAt
		if d, ok := took(n.StartedAt, end, now); ok {
			elapsed = short(d)
		}
	}
	return table.Row{clean(n.Name), cleanAll(n.Roles), s.paint(statusColor(n.Status), clean(n.Status)), clean(n.Step), try, elapsed, note(n)}
}

// pick returns the indexes of the nodes to show, in order.
func pick(nodes []operation.NodeReport, room int) []int {
	all := make([]int, len(nodes))
	for i := range all {
		all[i] = i
	}
	if len(all) <= room {
		return all
	}
	rank := func(status string) int {
		switch status {
		case operation.NodeWaiting:
			return 0
		case operation.NodeFailed:
			return 1
		case operation.NodeRunning:
			return 2
		case operation.NodeSkipped, operation.NodeCancelled:
			return 3
		case operation.NodeDone:
			return 5
		}
		return 4
	}
	slices.SortStableFunc(all, func(a, b int) int {
		ra, rb := rank(nodes[a].Status), rank(nodes[b].Status)
		if ra != rb {
			return ra - rb
		}
		if nodes[a].Status == operation.NodeDone {
			return strings.Compare(nodes[b].EndedAt, nodes[a].EndedAt)
		}
		return 0
	})
	shown := all[:room]
	slices.Sort(shown)
	return shown
}
