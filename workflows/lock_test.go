package workflows

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// behindAnother is a workflow that holds the cluster for so long and runs an operation meanwhile.
func behindAnother(ctx workflow.Context, held operation.Duration, in operation.SecurityUpgradeInput) error {
	lctx, release := workflow.WithCancel(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: operation.LockWorkflowID("prod"), WaitForCancellation: true}))
	lock := workflow.ExecuteChildWorkflow(lctx, operation.WorkflowClusterLock, LockInput{Holder: "op/prod/upgrade-security/other"})
	if err := lock.GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		return err
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		_ = workflow.Sleep(ctx, held.D())
		release()
	})
	return workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: startOptions().ID, WaitForCancellation: true}),
		operation.WorkflowSecurityUpgrade, in).Get(ctx, nil)
}

func (w *world) behindAnother(held time.Duration, in operation.SecurityUpgradeInput) error {
	w.ExecuteWorkflow(behindAnother, operation.Duration(held), in)
	require.True(w.t, w.IsWorkflowCompleted())
	return w.GetWorkflowError()
}

func TestClusterLock_Busy_FailsAtOnceNamingTheHolder(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	err := w.behindAnother(time.Hour, input())
	require.Equal(t, operation.ErrClusterBusy, typeOf(err))
	require.ErrorContains(t, err, "op/prod/upgrade-security/other is running on it")
	require.Equal(t, []string{"Resolve", "LockHolder"}, w.fake.calls)
}

func TestClusterLock_BusyAndAskedToQueue_GetsItWhenItIsFree(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	in := input(func(in *operation.SecurityUpgradeInput) { in.LockWait = operation.Duration(2 * time.Hour) })
	require.NoError(t, w.behindAnother(2*time.Minute, in))
	require.Equal(t, 1, w.fake.count("Record a"))
}

func TestClusterLock_BusyAndAskedToQueue_GivesUpAtTheDeadline(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	began := w.Now()
	in := input(func(in *operation.SecurityUpgradeInput) { in.LockWait = operation.Duration(2 * time.Minute) })
	err := w.behindAnother(3*time.Hour, in)
	require.Equal(t, operation.ErrClusterBusy, typeOf(err))
	require.GreaterOrEqual(t, w.Now().Sub(began), 2*time.Minute-lockPause)
	require.Empty(t, w.fake.mutated())
}

func TestClusterLock_CancelledWhileQueued_EndsWithoutTouchingAnything(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.at(time.Minute, w.CancelWorkflow)
	in := input(func(in *operation.SecurityUpgradeInput) { in.LockWait = operation.Duration(time.Hour) })
	err := w.behindAnother(3*time.Hour, in)
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	require.Empty(t, w.fake.mutated())
}
