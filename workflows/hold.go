package workflows

import (
	"fmt"
	"slices"
	"strings"

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

// wantsMaintenance is false because the mode is on only when the other operation has all its locks.
func (h *hold) wantsMaintenance() bool { return false }

func (h *hold) dryRun(workflow.Context) ([]operation.CommandPlan, error) { return nil, nil }

func (h *hold) steps(ctx workflow.Context) {
	h.takeUp(ctx)
	h.at(ctx, operation.StepHold, 1)
	h.remark("held for " + h.in.For)
	letGo, readOnly := false, false
	receive := func(signal string, is *bool) {
		workflow.GoNamed(ctx, signal, func(ctx workflow.Context) {
			workflow.GetSignalChannel(ctx, signal).Receive(ctx, nil)
			*is = ctx.Err() == nil
		})
	}
	receive(operation.SignalLetGo, &letGo)
	receive(operation.SignalReadOnly, &readOnly)
	h.tell(ctx, false)
	_ = workflow.Await(ctx, func() bool { return letGo || readOnly || h.aborting })
	if readOnly && !letGo && !h.aborting && ctx.Err() == nil && (!h.in.Maintenance || h.enterMaintenance(ctx)) {
		h.tell(ctx, true)
	}
	_ = workflow.Await(ctx, func() bool { return letGo || h.aborting })
	h.leave(ctx, letGo)
}

// tell the other operation. One that is gone has cancelled this one.
func (h *hold) tell(ctx workflow.Context, ready bool) {
	err := workflow.SignalExternalWorkflow(ctx, h.in.For, "", operation.SignalHeld, operation.Held{Operation: h.op.ID, Ready: ready}).Get(ctx, nil)
	if err != nil && ctx.Err() == nil {
		h.node.Failure, h.aborting = operation.FailureOf(err), true
	}
}

func (h *hold) outcomeText() string { return "let go" }

// errBegunBefore says that an operation of that name was begun by a former run.
const errBegunBefore = "BegunBefore"

// held is a cluster that another operation holds for this one.
type held struct {
	run workflow.Execution
	// id of the operation.
	id   string
	done workflow.ChildWorkflowFuture
	// is: it has said that it holds it; ready that maintenance mode is on too, if that was wanted.
	is, ready bool
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
		r.refresh(ctx)
	}
	if f != nil {
		return h, f
	}
	// Nobody is kept waiting by a cluster that is read-only for nothing.
	_ = workflow.SignalExternalWorkflow(disconnected, h.run.ID, h.run.RunID, operation.SignalReadOnly, nil).Get(disconnected, nil)
	return r.awaitHeld(ctx, in.Cluster, h, func() bool { return h.ready })
}

func (r *run) hold(ctx workflow.Context, in operation.HoldInput) (*held, *operation.Failure) {
	base, _ := workflow.NewDisconnectedContext(ctx)
	in.For, in.DryRun = r.workflowID, false
	h := &held{id: in.OperationID, done: r.childOperation(base, in.Cluster, operation.KindHold, operation.WorkflowHold, in.OperationID, "Hold of "+in.Cluster+" for "+r.req.OperationID, in)}
	if err := h.done.GetChildWorkflowExecution().Get(base, &h.run); err != nil {
		if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
			return nil, &operation.Failure{Type: errBegunBefore, Message: "operation " + h.id + " was begun already, before a reset"}
		}
		return nil, operation.FailureOf(err)
	}
	return r.awaitHeld(ctx, in.Cluster, h, func() bool { return h.is })
}

// awaitHeld waits until a hold is as far as is wanted.
func (r *run) awaitHeld(ctx workflow.Context, cluster string, h *held, far func() bool) (*held, *operation.Failure) {
	base, _ := workflow.NewDisconnectedContext(ctx)
	told := workflow.GetSignalChannel(base, operation.SignalHeld)
	for !far() {
		var who operation.Held
		chosen := workflow.NewNamedSelector(ctx, "held").
			AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {}).
			AddFuture(h.done, func(workflow.Future) {}).
			AddReceive(told, func(c workflow.ReceiveChannel, _ bool) { c.Receive(base, &who) })
		chosen.Select(ctx)
		if who.Operation == h.id {
			h.is, h.ready = true, h.ready || who.Ready
		}
		switch {
		case far():
		case ctx.Err() != nil:
			return h, &operation.Failure{Type: operation.ErrCancelled, Message: "not begun"}
		case h.lost():
			f := operation.FailureOf(h.done.Get(base, nil))
			if f == nil || f.Type == operation.ErrCancelled {
				f = &operation.Failure{Type: operation.ErrPreflight, Message: "it was ended before it held the cluster"}
			}
			f.Message = oneLine(fmt.Sprintf("cluster %s is not held (operation %s): %s", cluster, h.id, f.Message), 1000)
			return nil, f
		}
	}
	return h, nil
}

// letGo ends the hold and waits until it has put back what it changed. The failure says what it could not. ctx is not cancelled.
func (r *run) letGo(ctx workflow.Context, h *held) *operation.Failure {
	if !h.lost() {
		if h.ready {
			_ = workflow.SignalExternalWorkflow(ctx, h.run.ID, h.run.RunID, operation.SignalLetGo, nil).Get(ctx, nil) // one that has ended needs none
		} else {
			_ = workflow.RequestCancelExternalWorkflow(ctx, h.run.ID, h.run.RunID).Get(ctx, nil)
		}
	}
	var report operation.Report
	err := h.done.Get(ctx, &report)
	switch {
	case err == nil && strings.HasPrefix(report.Maintenance, leftOn):
		return &operation.Failure{Type: operation.ErrMaintenance, Message: "maintenance mode was " + report.Maintenance}
	case err == nil || isCancel(err) && !h.ready:
		return nil
	}
	return operation.FailureOf(err)
}

// freeFormerHold ends a hold that a former run of this operation has begun, before a Reset: nobody else will. ids are those that it can have.
func (r *run) freeFormerHold(ctx workflow.Context, cluster string, ids []string) error {
	holder := r.lockHolder(ctx, cluster)
	if !slices.Contains(ids, holder.Holder) {
		return nil
	}
	cancelByID(ctx, holder.Holder, "")
	return awaitClosed(ctx, "wait for the former hold of "+cluster+" to end", holder.Holder)
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
