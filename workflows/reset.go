package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// A Reset ends a run of an operation and starts another one from an earlier point of its history. The server leaves the children of the former run alone
// (server 1.32; older ones end them as their parent-close policy says):
//
//   - A child from before the point belongs to the new run too: its result comes here. But a cancel by way of its context is refused, because the run that
//     started it is not ours; children are therefore cancelled by their id.
//   - A child from after the point goes on and nobody hears of it. A node's ends what it has begun, in jobs whose tries have names, so the new run's child waits
//     for its end and then finds what was done. The lock would stay for ever, so that it is freed here.

// formerCeiling bounds how long children of a former run are waited for.
const formerCeiling = 24 * time.Hour

// awaitClosed waits until none of the workflows runs any more.
func awaitClosed(ctx workflow.Context, summary string, ids ...string) error {
	var locks *activities.Locks
	return workflow.ExecuteActivity(following(ctx, operation.Shorten(summary, 400), formerCeiling), locks.AwaitClosed,
		activities.WorkflowsInput{WorkflowIDs: ids}).Get(ctx, nil)
}

// cancelByID asks a workflow to end. One that has ended by now, or never was, is as good.
func cancelByID(ctx workflow.Context, workflowID, runID string) {
	_ = workflow.RequestCancelExternalWorkflow(ctx, workflowID, runID).Get(ctx, nil)
}

// freeFormerLock frees the cluster's lock that is left from a former run of this operation, or of another one that has ended. What our former run had begun
// on nodes is waited for before, under its lock and lease.
func (r *run) freeFormerLock(ctx workflow.Context, holder activities.LockHolderResult) error {
	if holder.Holder == r.workflowID {
		r.report.Message = "waiting for what was begun before the reset"
		r.refresh(ctx)
		ids := r.nodeWorkflows()
		if p, ok := r.procedure.(interface{ former() []string }); ok {
			ids = append(ids, p.former()...)
		}
		if err := awaitClosed(ctx, "wait for the nodes, as begun before the reset", ids...); err != nil {
			return err
		}
	}
	id := operation.LockWorkflowID(r.req.Cluster)
	cancelByID(ctx, id, holder.RunID)
	return awaitClosed(ctx, "wait for the former lock to end", id)
}

// endFormer leaves nothing behind that a former run has begun, when the operation ends before it has come to all nodes itself. ctx is not cancelled.
func (r *run) endFormer(ctx workflow.Context) {
	ids := r.nodeWorkflows()
	if len(ids) == 0 {
		return
	}
	var holder activities.LockHolderResult
	if r.lock == nil {
		if holder = r.lockHolder(ctx, r.req.Cluster); holder.Holder != r.workflowID {
			return
		}
	}
	var locks *activities.Locks
	var running []string
	err := workflow.ExecuteActivity(quick(ctx, "does anything from before a reset run?"), locks.OpenWorkflows, activities.WorkflowsInput{WorkflowIDs: ids}).Get(ctx, &running)
	if err == nil && len(running) > 0 {
		for _, id := range running {
			cancelByID(ctx, id, "")
		}
		err = awaitClosed(ctx, "wait for the nodes, as begun before the reset", running...)
	}
	if err == nil && holder.RunID != "" {
		err = r.freeFormerLock(ctx, holder)
	}
	if err != nil {
		r.report.Warnings = append(r.report.Warnings, "what was begun before a reset may still run: "+operation.FailureOf(err).Message)
	}
}

// nodeWorkflows are the ids of the children of all nodes that this run has not begun.
func (r *run) nodeWorkflows() []string {
	var out []string
	for i := range r.report.Nodes {
		if r.report.Nodes[i].Status == operation.NodePending {
			out = append(out, operation.NodeWorkflowID(r.workflowID, r.report.Nodes[i].Name))
		}
	}
	return out
}
