package activities

import (
	"context"
	"errors"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

// Describer is the part of a Temporal client that Locks needs.
type Describer interface {
	DescribeWorkflowExecution(ctx context.Context, workflowID, runID string) (*workflowservice.DescribeWorkflowExecutionResponse, error)
}

// Locks reads the cluster locks from the Temporal server.
type Locks struct {
	Client Describer
}

// LockToken returns the start time of the lock's run in Unix nanoseconds as the server recorded it. Of two runs of one lock the later has the higher
// token, because the second could not start before the first had ended. A lock that is not held any more is the error Fenced.
func (l *Locks) LockToken(ctx context.Context, in LockTokenInput) (int64, error) {
	a := begin(ctx, "lock token")
	defer a.finish()
	d, err := l.Client.DescribeWorkflowExecution(a.ctx, in.WorkflowID, in.RunID)
	if err != nil {
		return 0, l.failed(a, err, "the cluster's lock cannot be read")
	}
	info := d.GetWorkflowExecutionInfo()
	if info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return 0, operation.NewError(operation.Failure{Type: operation.ErrFenced, Message: "the cluster's lock is not held any more: start the operation again"})
	}
	if info.GetStartTime() == nil {
		return 0, operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: "the server gives no start time for the cluster's lock"})
	}
	return info.GetStartTime().AsTime().UnixNano(), nil
}

// LockHolder returns the workflow id of the operation that holds the cluster's lock, "" when it is free.
func (l *Locks) LockHolder(ctx context.Context, cluster string) (string, error) {
	a := begin(ctx, "who holds the lock")
	defer a.finish()
	d, err := l.Client.DescribeWorkflowExecution(a.ctx, operation.LockWorkflowID(cluster), "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return "", nil
	}
	if err != nil {
		return "", l.failed(a, err, "the holder of the cluster's lock cannot be read")
	}
	info := d.GetWorkflowExecutionInfo()
	if info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return "", nil
	}
	return info.GetParentExecution().GetWorkflowId(), nil
}

// failed is retryable: the server answers again sooner or later, and only a run that is not there will not.
func (l *Locks) failed(a *attempt, err error, what string) error {
	if a.ctx.Err() != nil {
		return ended(a.ctx)
	}
	message := oneLine(what+": "+err.Error(), maxMessage)
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return operation.NewError(operation.Failure{Type: operation.ErrFenced, Message: message})
	}
	return temporal.NewApplicationErrorWithOptions(message, operation.ErrInternal, temporal.ApplicationErrorOptions{})
}
