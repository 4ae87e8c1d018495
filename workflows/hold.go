package workflows

import (
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// Hold keeps a cluster for the operation of another one that reads it: with its lock, the leases of its nodes, and maintenance mode if that is wanted. It is an operation
// as any other, so that whoever looks at that cluster sees who has it and why. It ends well when it is let go, and puts the mode back whatever happens; when the operation
// that it is for ends in any way, it is cancelled.
func Hold(ctx workflow.Context, in operation.HoldInput) (*operation.Report, error) {
	return operate(ctx, operation.KindHold, in.Request, "", &hold{in: in})
}

type hold struct {
	oneNode
	in operation.HoldInput
}

func (h *hold) attach(r *run) { h.run = r }

func (h *hold) check() []string {
	var problems []string
	if h.in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if h.in.For == "" && !h.in.DryRun {
		problems = append(problems, "nobody is named that the cluster is held for")
	}
	return problems
}

func (h *hold) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: h.in.Cluster, InventoryDigest: h.in.InventoryDigest, Core: true}
}

func (h *hold) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

func (h *hold) ready(workflow.Context) (problems, warnings []string, err error) {
	h.report.Slots = 0
	return nil, nil, nil
}

func (h *hold) wantsMaintenance() bool { return h.in.Maintenance }

func (h *hold) dryRun(workflow.Context) ([]operation.CommandPlan, error) { return nil, nil }

func (h *hold) steps(ctx workflow.Context) {
	h.takeUp(ctx)
	h.at(ctx, operation.StepHold, 1)
	h.remark("held for " + h.in.For)
	// One that is gone cannot be told, and has cancelled this one.
	told := workflow.SignalExternalWorkflow(ctx, h.in.For, "", operation.SignalHeld, h.op.ID)
	letGo := false
	workflow.GoNamed(ctx, "let go", func(ctx workflow.Context) {
		workflow.GetSignalChannel(ctx, operation.SignalLetGo).Receive(ctx, nil)
		letGo = ctx.Err() == nil
	})
	if err := told.Get(ctx, nil); err != nil && ctx.Err() == nil {
		f := operation.FailureOf(err)
		h.node.Failure, h.aborting = f, true
	}
	_ = workflow.Await(ctx, func() bool { return letGo || h.aborting })
	h.leave(ctx, letGo)
}

func (h *hold) outcomeText() string { return "let go" }

// held is a cluster that another operation holds for this one.
type held struct {
	run workflow.Execution
	// id of the operation.
	id   string
	done workflow.ChildWorkflowFuture
	// is: it has said that it holds it.
	is bool
}

// lost reports that it does not hold it any more, or never will.
func (h *held) lost() bool { return h.done.IsReady() }

// holdOther has another cluster held by an operation of its own, and returns when it is; it is let go by letGo. That of a name before this cluster's is locked before it: two operations
// that each need both never wait for each other.
func (r *run) holdOther(ctx workflow.Context, in operation.HoldInput) (*held, *operation.Failure) {
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	first := in.Cluster < r.req.Cluster
	if first {
		r.releaseLock(disconnected)
	}
	h, f := r.hold(ctx, in)
	if first {
		if lost := r.lockAgain(ctx); lost != nil {
			r.lockFailure, r.aborting = lost, true
			return h, lost
		}
	}
	return h, f
}

func (r *run) hold(ctx workflow.Context, in operation.HoldInput) (*held, *operation.Failure) {
	base, _ := workflow.NewDisconnectedContext(ctx)
	in.For, in.DryRun = r.workflowID, false
	h := &held{id: in.OperationID, done: r.childOperation(base, in.Cluster, operation.KindHold, operation.WorkflowHold, in.OperationID, "Hold of "+in.Cluster+" for "+r.req.OperationID, in)}
	if err := h.done.GetChildWorkflowExecution().Get(base, &h.run); err != nil {
		return nil, operation.FailureOf(childBegun(err))
	}
	told := workflow.GetSignalChannel(base, operation.SignalHeld)
	for !h.is {
		var who string
		chosen := workflow.NewNamedSelector(ctx, "held").
			AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {}).
			AddFuture(h.done, func(workflow.Future) {}).
			AddReceive(told, func(c workflow.ReceiveChannel, _ bool) { c.Receive(base, &who) })
		chosen.Select(ctx)
		h.is = who == h.id
		switch {
		case h.is:
		case ctx.Err() != nil:
			return h, &operation.Failure{Type: operation.ErrCancelled, Message: "not begun"}
		case h.lost():
			f := operation.FailureOf(h.done.Get(base, nil))
			if f == nil || f.Type == operation.ErrCancelled {
				f = &operation.Failure{Type: operation.ErrPreflight, Message: "it was ended before it held the cluster"}
			}
			f.Message = oneLine(fmt.Sprintf("cluster %s is not held (operation %s): %s", in.Cluster, h.id, f.Message), 1000)
			return nil, f
		}
	}
	return h, nil
}

// letGo ends the hold and waits until it has put back what it changed. The failure says what it could not. ctx is not cancelled.
func (r *run) letGo(ctx workflow.Context, h *held) *operation.Failure {
	if !h.lost() {
		if h.is {
			_ = workflow.SignalExternalWorkflow(ctx, h.run.ID, h.run.RunID, operation.SignalLetGo, nil).Get(ctx, nil) // one that has ended needs none
		} else {
			_ = workflow.RequestCancelExternalWorkflow(ctx, h.run.ID, h.run.RunID).Get(ctx, nil)
		}
	}
	err := h.done.Get(ctx, nil)
	if err == nil || isCancel(err) && !h.is {
		return nil
	}
	return operation.FailureOf(err)
}

// childOperation starts an operation of its own. It is cancelled when this one ends.
func (r *run) childOperation(ctx workflow.Context, cluster, kind, name, id, summary string, in any) workflow.ChildWorkflowFuture {
	return workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            operation.WorkflowID(cluster, kind, id),
		WorkflowTaskTimeout:   taskTimeout,
		WaitForCancellation:   true,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		StaticSummary:         operation.Shorten(summary, 400),
		Memo:                  map[string]any{operation.MemoRequestedBy: r.req.RequestedBy},
		TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(cluster), operation.AttributeOperation.ValueSet(kind),
			operation.AttributePhase.ValueSet(operation.PhaseStarting), operation.AttributeNeedsOperator.ValueSet(false)),
	}), name, in)
}

// childBegun says what it means that an operation's own operation is there already.
func childBegun(err error) error {
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		return operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: "it was begun already, before the operation was reset: see what became of it; retry makes another one, leave goes on"})
	}
	return err
}
