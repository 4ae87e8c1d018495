package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// A killed worker's activity is given to another one after heartbeatTimeout.
const (
	heartbeatTimeout = 6 * time.Second
	// taskTimeout is how soon a workflow task that a killed worker had is given to another one.
	taskTimeout = 5 * time.Second
	// workerSlack is added to every ceiling of a job, so that a night without any worker does not end its operation.
	workerSlack = 24 * time.Hour
)

// quick is for small idempotent calls of a few seconds that reach no node. The worker beats for them too, so that a dead one is noticed.
func quick(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 15 * time.Second, MaximumAttempts: 5},
		WaitForCancellation: true,
		Summary:             operation.Shorten(summary, 400),
	})
}

// following is for activities that wait: for a job, a node, or gates. Such an activity retries lost connections itself and gives up with a typed
// error; attempts are not limited, because a worker's death or deployment must use up nothing. ceiling is how long the thing may take.
func following(ctx workflow.Context, summary string, ceiling time.Duration) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    ceiling + time.Hour,
		ScheduleToCloseTimeout: ceiling + workerSlack,
		HeartbeatTimeout:       heartbeatTimeout,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1, MaximumInterval: time.Second},
		WaitForCancellation:    true,
		Summary:                operation.Shorten(summary, 400),
	})
}
