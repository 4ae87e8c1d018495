package workflows

import (
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// next is an operation that follows another one when that has done all that it was to do: it has its own report, questions and lock.
type next struct {
	kind, workflow string
	input          any
	// summary is what it does, for people.
	summary string
}

// next is what follows this operation, if anything does.
func (r *run) next() (next, bool) {
	p, ok := r.procedure.(interface{ follows() (next, bool) })
	if !ok || r.req.DryRun {
		return next{}, false
	}
	return p.follows()
}

// goOnWith starts what follows, once the cluster was let go.
func (r *run) goOnWith(ctx workflow.Context, n next) {
	id := operation.WorkflowID(r.req.Cluster, n.kind, r.req.OperationID)
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: id, WorkflowTaskTimeout: taskTimeout,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_ABANDON,
		TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(r.req.Cluster), operation.AttributeOperation.ValueSet(n.kind),
			operation.AttributePhase.ValueSet(operation.PhaseStarting), operation.AttributeNeedsOperator.ValueSet(false)),
		Memo:          map[string]any{operation.MemoRequestedBy: r.req.RequestedBy},
		StaticSummary: operation.Shorten(n.summary, 400),
	})
	err := workflow.ExecuteChildWorkflow(ctx, n.workflow, n.input).GetChildWorkflowExecution().Get(ctx, nil)
	if err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) { // begun before a Reset is as good
		r.warn(n.summary + " could not be begun: " + operation.FailureOf(err).Message)
		return
	}
	r.report.Next = id
	r.report.Message += "; goes on with " + n.kind + " " + r.req.OperationID
}
