package workflows

import (
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// LockInput names who holds a cluster's lock.
type LockInput struct {
	// Holder is the workflow id of the operation.
	Holder string `json:"holder"`
}

// ClusterLock exists while an operation has a cluster to itself. Its fixed workflow id (lock/cluster/NAME) is what excludes a second one;
// its parent-close policy frees the lock when the holder ends for any reason. It ends by being cancelled.
func ClusterLock(ctx workflow.Context, in LockInput) error {
	workflow.SetCurrentDetails(ctx, "Held by `"+in.Holder+"`.")
	return workflow.Await(ctx, func() bool { return false })
}

// lock is a held cluster lock.
type lock struct {
	run  workflow.Execution
	done workflow.ChildWorkflowFuture
}

// lost reports that its run has ended though nobody released it: somebody ended it by hand, or the operation had ended and was then reset.
func (l *lock) lost() bool { return l.done.IsReady() }

// lockPause keeps two operations that wait for the same lock from trying in step for ever.
const lockPause = time.Second

// acquireLock makes this operation the only one that changes the cluster, or fails naming the holder. With Request.LockWait it queues.
// The token of the node leases is the start of the lock's run as the Temporal server recorded it, so that it grows from holder to holder.
func (r *run) acquireLock(ctx workflow.Context) error {
	id := operation.LockWorkflowID(r.req.Cluster)
	deadline := workflow.Now(ctx).Add(r.req.LockWait.D())
	for {
		// Disconnected: cancelling the operation must not free the cluster before its cleanup is done.
		base, _ := workflow.NewDisconnectedContext(ctx)
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(base, workflow.ChildWorkflowOptions{
			WorkflowID:          id,
			ParentClosePolicy:   enumspb.PARENT_CLOSE_POLICY_TERMINATE,
			WaitForCancellation: true,
			WorkflowTaskTimeout: taskTimeout,
			StaticSummary:       operation.Shorten("exclusive lock, held by "+r.workflowID, 400),
		}), operation.WorkflowClusterLock, LockInput{Holder: r.workflowID})
		var started workflow.Execution
		err := child.GetChildWorkflowExecution().Get(base, &started)
		if err == nil {
			r.lock = &lock{run: started, done: child}
			var locks *activities.Locks
			return workflow.ExecuteActivity(quick(ctx, "lock token"), locks.LockToken,
				activities.LockTokenInput{WorkflowID: started.ID, RunID: started.RunID}).Get(ctx, &r.op.Token)
		}
		if !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
			return err
		}
		holder := r.lockHolder(ctx, r.req.Cluster)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if holder.Holder == r.workflowID || holder.Orphaned {
			if err := r.freeFormerLock(ctx, holder); err != nil {
				return err
			}
			continue
		}
		who := holder.Holder
		if who == "" {
			who = "another operation"
		}
		left := deadline.Sub(workflow.Now(ctx))
		if left <= 0 {
			return operation.NewError(operation.Failure{Type: operation.ErrClusterBusy, Message: fmt.Sprintf(
				"cluster %s is busy: %s is running on it; wait for it (katoflow op watch), or queue with --wait", r.req.Cluster, who)})
		}
		r.report.Message = "waiting for the cluster: held by " + who
		r.refresh(ctx)
		// One activity a holder, however long it holds: the history does not grow with the wait.
		var locks *activities.Locks
		options := workflow.GetActivityOptions(following(ctx, "waiting for the lock held by "+who, left))
		options.StartToCloseTimeout, options.ScheduleToCloseTimeout = left, left
		err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), locks.AwaitClosed, activities.WorkflowsInput{WorkflowIDs: []string{id}}).Get(ctx, nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && deadline.Sub(workflow.Now(ctx)) > lockPause {
			return err // it is not only that the time is up
		}
		if err := workflow.Sleep(ctx, lockPause); err != nil {
			return err
		}
	}
}

// lockHolder asks who holds the lock; an empty result is "another operation".
func (r *run) lockHolder(ctx workflow.Context, cluster string) activities.LockHolderResult {
	var locks *activities.Locks
	var holder activities.LockHolderResult
	if err := workflow.ExecuteActivity(quick(ctx, "who holds the lock"), locks.LockHolder, cluster).Get(ctx, &holder); err != nil {
		return activities.LockHolderResult{}
	}
	return holder
}

// keepLock takes the lock, and with it the leases, again when it was lost. Nothing of this operation may run on a node at that moment.
func (r *run) keepLock(ctx workflow.Context) *operation.Failure {
	if !r.lock.lost() {
		return nil
	}
	r.report.Warnings = append(r.report.Warnings, "the cluster's lock had been lost and was taken again")
	if err := r.acquireLock(ctx); err != nil {
		return operation.FailureOf(err)
	}
	return r.fence(ctx)
}

// releaseLock ends the lock's run and waits until it has ended, so that the next operation can begin at once. It is cancelled by its id: see reset.go.
func (r *run) releaseLock(ctx workflow.Context) {
	if r.lock == nil {
		return
	}
	if !r.lock.lost() && workflow.RequestCancelExternalWorkflow(ctx, r.lock.run.ID, r.lock.run.RunID).Get(ctx, nil) == nil {
		_ = r.lock.done.Get(ctx, nil) // it ends as cancelled
	}
	r.lock = nil
}
