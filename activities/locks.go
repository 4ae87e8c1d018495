package activities

import (
	"context"
	"errors"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
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

// LockHolder returns the operation that holds the cluster's lock, and whether it still can free it.
func (l *Locks) LockHolder(ctx context.Context, cluster string) (LockHolderResult, error) {
	a := begin(ctx, "who holds the lock")
	defer a.finish()
	const what = "the holder of the cluster's lock cannot be read"
	info, err := l.latest(a, operation.LockWorkflowID(cluster), what)
	if err != nil || !open(info) {
		return LockHolderResult{}, err
	}
	out := LockHolderResult{Holder: info.GetParentExecution().GetWorkflowId(), RunID: info.GetExecution().GetRunId()}
	if out.Holder != "" {
		holder, err := l.latest(a, out.Holder, what)
		if err != nil {
			return LockHolderResult{}, err
		}
		out.Orphaned = !open(holder)
	}
	return out, nil
}

// OpenWorkflows returns those of the workflows named that have an open run, in their order.
func (l *Locks) OpenWorkflows(ctx context.Context, in WorkflowsInput) ([]string, error) {
	a := begin(ctx, "which workflows run")
	defer a.finish()
	is, errs := make([]bool, len(in.WorkflowIDs)), make([]error, len(in.WorkflowIDs))
	each(len(in.WorkflowIDs), func(i int) {
		info, err := l.latest(a, in.WorkflowIDs[i], "workflow "+in.WorkflowIDs[i]+" cannot be read")
		is[i], errs[i] = open(info), err
	})
	var out []string
	for i, id := range in.WorkflowIDs {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if is[i] {
			out = append(out, id)
		}
	}
	return out, nil
}

// AwaitClosed waits until none of the workflows named has an open run. It changes nothing.
func (l *Locks) AwaitClosed(ctx context.Context, in WorkflowsInput) error {
	a := begin(ctx, "wait for workflows to end")
	defer a.finish()
	for _, id := range in.WorkflowIDs {
		for {
			info, err := l.latest(a, id, "workflow "+id+" cannot be read")
			if err != nil {
				return err
			}
			if !open(info) {
				break
			}
			a.phase(id + " still runs")
			if !a.pause(firstPause) {
				return ended(a.ctx)
			}
		}
	}
	return nil
}

// latest is the newest run of a workflow, nil when there never was one.
func (l *Locks) latest(a *attempt, workflowID, what string) (*workflowpb.WorkflowExecutionInfo, error) {
	d, err := l.Client.DescribeWorkflowExecution(a.ctx, workflowID, "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return nil, nil
	}
	if err != nil {
		return nil, l.failed(a, err, what)
	}
	return d.GetWorkflowExecutionInfo(), nil
}

func open(info *workflowpb.WorkflowExecutionInfo) bool {
	return info != nil && info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
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
