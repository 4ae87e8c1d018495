package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// oneNode is what procedures share that are several steps on one node.
type oneNode struct {
	*run
	node *operation.NodeReport
}

// takeUp begins with the only node of the plan.
func (o *oneNode) takeUp(ctx workflow.Context) {
	o.node = &o.report.Nodes[0]
	o.node.Status, o.node.StartedAt, o.currentNode = operation.NodeRunning, stamp(ctx), o.node.Name
}

// leave ends with it.
func (o *oneNode) leave(ctx workflow.Context, ok bool) {
	o.node.EndedAt = stamp(ctx)
	switch {
	case ok:
		o.node.Status, o.node.Failure = operation.NodeDone, nil
	case ctx.Err() != nil:
		o.node.Status = operation.NodeCancelled
	default:
		o.node.Status = operation.NodeFailed
	}
	o.refresh(ctx)
}

// failed asks what becomes of a step that failed.
func (o *oneNode) failed(ctx workflow.Context, try int, f operation.Failure, choices ...operation.Decision) operation.Decision {
	o.node.Status, o.node.Failure = operation.NodeWaiting, &f
	decision := o.ask(ctx, o.node.Name, o.node.Step, try, f, choices...)
	o.node.Status = operation.NodeRunning
	switch decision {
	case operation.Retry:
		o.node.Failure = nil
	case operation.Abort:
		o.aborting = true
	}
	return decision
}

// at shows the step.
func (o *oneNode) at(ctx workflow.Context, step string, try int) {
	o.node.Step, o.node.Try = step, try
	o.refresh(ctx)
}

// remark adds notes to the node's entry, each once.
func (o *oneNode) remark(lines ...string) {
	for _, l := range lines {
		seen := false
		for _, have := range o.node.Notes {
			seen = seen || have == l
		}
		if !seen && len(o.node.Notes) < 20 {
			o.node.Notes = append(o.node.Notes, l)
		}
	}
}

// untilDoneOrLeft tries what is to be done in any case until it is done, or until somebody leaves it: an operation ends only when it knows what becomes of it. The failure is what was left.
func (o *oneNode) untilDoneOrLeft(ctx workflow.Context, step string, try func(try int) error) *operation.Failure {
	for n := 1; ; n++ {
		err := try(n)
		if err == nil {
			return nil
		}
		f, status := operation.FailureOf(err), o.node.Status
		o.node.Status = operation.NodeWaiting
		decision := o.ask(ctx, o.node.Name, step, n, *f, operation.Retry, operation.Leave)
		o.node.Status = status
		if decision != operation.Retry {
			return f
		}
	}
}
