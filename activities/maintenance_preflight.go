package activities

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// preflightMaintenance tells of a maintenance mode that is on before the operation begins, and by whom, and of what a dead-man did. It changes nothing.
func (n *Nodes) preflightMaintenance(ctx context.Context, s site, targets []target, readings []answer, errs []error, op Operation, out *PreflightResult) {
	core := s.cluster.CoreNode()
	at := slices.IndexFunc(targets, func(t target) bool { return t.node == core })
	if at < 0 || errs[at] != nil || readings[at].value("no-kato") != "" {
		return
	}
	entry := &out.Nodes[at]
	warn := func(format string, args ...any) {
		entry.Warnings = append(entry.Warnings, oneLine(fmt.Sprintf(format, args...), 500))
	}
	have, err := lookAtMaintenance(ctx, n.Connections, s, targets[at])
	if err != nil {
		if ctx.Err() == nil {
			warn("%s", withoutNode(failureOf(err).Message, core.Name))
		}
		return
	}
	if have.said != "" {
		warn("%s", have.said)
	}
	switch {
	case !have.on || have.of(op.ID):
	case have.recorded && op.Token > 0:
		warn("maintenance mode is on, left by operation %s, which is closed and had found it %s: an operation that uses maintenance mode puts it back so, kato on the Core does at once",
			have.record.Operation, have.record.Found)
	case have.recorded:
		warn("maintenance mode is on by operation %s, which had found it %s", have.record.Operation, have.record.Found)
	case have.unreadable:
		warn("maintenance mode is on, and the record on the Core of who set it cannot be read: it will stay on")
	default:
		warn("maintenance mode is on, and no operation has a record of it: somebody has set it by hand, and it will stay on")
	}
}

// deadManOf is the dead-man of another operation among a node's jobs.
func deadManOf(jobs []remote.JobStatus, op Operation) (remote.JobStatus, bool) {
	i := slices.IndexFunc(jobs, func(j remote.JobStatus) bool { return j.ID.Step == stepDeadMan && j.ID.Operation != op.ID })
	if i < 0 {
		return remote.JobStatus{}, false
	}
	return jobs[i], true
}

// relieve lets the dead-man of a closed operation end: it is told that its operation is closed, and puts maintenance mode back. Over: it was waited for long
// enough, most likely because it cannot reach a node, and is stopped. Without the cluster's lock (a dry run) nobody knows that its operation is closed, and it is
// left alone. It returns what is waited for, "" for nothing, and a warning.
func (n *Nodes) relieve(ctx context.Context, op Operation, t target, dead remote.JobStatus, over bool) (waiting, warning string) {
	who := oneLine(dead.ID.Operation, 64)
	if op.Token == 0 {
		return "", ""
	}
	if !over {
		if _, _, err := showLife(ctx, n.Connections, t, recordOwner(dead.ID.Operation), closedSign); err != nil {
			logOf(n.Logger, op, t.node.Name, operation.StepProbe).Warn("the dead-man was not told that its operation is closed", zap.String("error", failureOf(err).Message))
		}
		return "the dead-man of operation " + who + " puts maintenance mode back", ""
	}
	if _, err := n.Jobs.Stop(ctx, t.host, dead.ID, stopGrace); err != nil {
		return "job " + stepDeadMan + " of operation " + who + " still runs and cannot be stopped: end it there: " + failureOf(err).Message, ""
	}
	return "", "the dead-man of operation " + who + " could not put maintenance mode back, because it could not ask all nodes, and was stopped"
}
