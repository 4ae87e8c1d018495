package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// lockGiven is how long the lock is waited for that is handed from an operation to its own backup and back: another one may have come between.
const lockGiven = operation.Duration(time.Hour)

// ownSafety exports the cluster, or takes a snapshot of all of its nodes, by an operation of that id, which takes the lock that is given to it. told is called when the lock is given away. It returns where
// the archive is, or the name of the set. before says what follows, for people.
func (r *run) ownSafety(ctx workflow.Context, kind operation.Safety, req operation.Request, id, before string, told func()) (at string, err error) {
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	r.releaseLock(disconnected)
	req.OperationID, req.DryRun, req.LockWait = id, false, lockGiven
	told()
	report, err := r.safetyOperation(ctx, kind, req, before)
	switch {
	case err != nil:
		return "", childBegun(err)
	case report.Export != nil:
		return report.Export.Location, nil
	case report.Snapshot != nil:
		return report.Snapshot.Set, nil
	}
	return "", nil
}

func (r *run) safetyOperation(ctx workflow.Context, kind operation.Safety, req operation.Request, before string) (operation.Report, error) {
	var report operation.Report
	var child workflow.ChildWorkflowFuture
	if kind == operation.SafetySnapshot {
		child = r.childOperation(ctx, req.Cluster, operation.KindSnapshot, operation.WorkflowSnapshot, req.OperationID, "Snapshot of "+req.Cluster+" before "+before, operation.SnapshotInput{Request: req, Note: "before " + before})
	} else {
		child = r.childOperation(ctx, req.Cluster, operation.KindBackup, operation.WorkflowBackup, req.OperationID, "Export of "+req.Cluster+" before "+before, operation.BackupInput{Request: req})
	}
	err := child.Get(ctx, &report)
	return report, err
}

// safetyReady asks, by a dry run of that operation, whether the export or the snapshot could be made: what stands in its way, one line each.
func (r *run) safetyReady(ctx workflow.Context, kind operation.Safety, req operation.Request, before string) (problems []string) {
	if kind == operation.SafetyNone {
		return nil
	}
	req.OperationID, req.DryRun, req.LockWait = operation.SafetyCheckID(r.op.ID), true, 0
	_, err := r.safetyOperation(ctx, kind, req, before)
	if err == nil || ctx.Err() != nil || temporal.IsWorkflowExecutionAlreadyStartedError(err) { // before a Reset it was asked already
		return nil
	}
	f := operation.FailureOf(err)
	lines := f.Problems
	if len(lines) == 0 {
		lines = []string{f.Message}
	}
	for _, l := range bound(lines, 20) {
		problems = append(problems, fmt.Sprintf("cluster: the %s before it: %s; --safety says what else may be made", kind, l))
	}
	return problems
}
