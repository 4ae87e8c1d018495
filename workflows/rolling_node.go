package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// nodeTask is what a node's child workflow starts from: a node, a step and a try. A procedure's own input adds to it.
type nodeTask struct {
	Operation activities.Operation  `json:"operation"`
	Node      operation.PlannedNode `json:"node"`
	// Began is the start of the operation by the server's clock, which a Reset does not change, RFC 3339 with fractions.
	Began string `json:"began"`
	// FromStep is the first step to do, Try which try of it this is; every other step is in its first.
	FromStep string `json:"fromStep"`
	Try      int    `json:"try"`
	// JobTry is the try in the names of the jobs of FromStep: it stays while the outcome of a job is unknown, so that the job is taken up again.
	JobTry int `json:"jobTry"`
	// Round counts how often the node went back to an earlier step; it keeps the tries of the later steps apart.
	Round int `json:"round,omitempty"`
	// Settle starts nothing: it follows what runs to its end, while the operation is being cancelled.
	Settle   bool                    `json:"settle,omitempty"`
	Progress operation.NodeProgress  `json:"progress"`
	Baseline []operation.GateFailure `json:"baseline,omitempty"`
	Plan     nodeLimits              `json:"plan"`
}

// nodeLimits are the site's numbers.
type nodeLimits struct {
	GateTimes        int                `json:"gateTimes"`
	GateInterval     operation.Duration `json:"gateInterval"`
	GateTimeout      operation.Duration `json:"gateTimeout"`
	UnreachableAfter operation.Duration `json:"unreachableAfter"`
	BootTimeout      operation.Duration `json:"bootTimeout"`
	UpgradeTimeout   operation.Duration `json:"upgradeTimeout"`
	AptLockTimeout   operation.Duration `json:"aptLockTimeout"`
}

// nodeResult is how the child ended: done, failed (a step, its try and its cause) or cancelled (in a named state).
type nodeResult struct {
	Status   string                 `json:"status"`
	Step     string                 `json:"step"`
	Try      int                    `json:"try"`
	JobTry   int                    `json:"jobTry"`
	Failure  *operation.Failure     `json:"failure,omitempty"`
	Progress operation.NodeProgress `json:"progress"`
	// State is what the node was left as, when cancelled.
	State string `json:"state,omitempty"`
	// BackTo is the step that a retry goes back to, "" for the one that failed, and BackTry the try of its jobs then.
	BackTo  string `json:"backTo,omitempty"`
	BackTry int    `json:"backTry,omitempty"`
	// Settled: it was already tried to bring the node to a safe state.
	Settled bool `json:"settled,omitempty"`
}

// retry is the task for the failed step's next try. A job whose outcome is unknown keeps its name and is taken up again.
func (in nodeTask) retry(out nodeResult) nodeTask {
	in.FromStep, in.Try, in.JobTry, in.Progress = out.Step, out.Try+1, out.JobTry, out.Progress
	switch {
	case out.Failure == nil || operation.OutcomeUnknown(out.Failure.Type):
	case out.BackTo != "":
		in.Round++
		in.FromStep, in.JobTry = out.BackTo, out.BackTry
		in.Try = max(in.Try, in.JobTry)
	default:
		in.JobTry++
	}
	return in
}

// nodeRun is the state of one node's child.
type nodeRun struct {
	nodeTask
	progress operation.NodeProgress
	at       operation.NodeStep
	jobTry   int
}

// nodeStep is one thing done to the node.
type nodeStep struct {
	name string
	do   func(workflow.Context) error
}

// nodeProcedure is what a rolling procedure adds to the child.
type nodeProcedure interface {
	// steps in their order.
	steps() []nodeStep
	// firstJobTry is the try in the names of the jobs of a step that is not the first one of its task.
	firstJobTry(step string) int
	// backTo is the step that a retry after a failure goes back to, with the try of its jobs then; "" for the step that failed.
	backTo(f *operation.Failure) (step string, jobTry int)
	// stateBefore names the state of a node that is cancelled between two steps.
	stateBefore(step string) string
	// settle ends a cancelled step: a job that may not be interrupted is followed to its end, and nothing is started. ctx is not cancelled.
	settle(ctx workflow.Context) nodeResult
}

// see does the steps of one node, from the one it was told to begin with. It never parks: what fails is its result, and the operation asks.
func (n *nodeRun) see(ctx workflow.Context, p nodeProcedure) (nodeResult, error) {
	n.progress, n.jobTry = n.Progress, 1
	if err := workflow.SetQueryHandlerWithOptions(ctx, operation.QueryProgress,
		func() (operation.NodeStep, error) { return n.at, nil },
		workflow.QueryHandlerOptions{Description: "The step the node is at"}); err != nil {
		return nodeResult{}, err
	}
	if n.Settle {
		n.enter(ctx, n.FromStep, n.Try, n.JobTry)
		return p.settle(ctx), nil
	}
	begun := false
	for _, step := range p.steps() {
		if step.name == n.FromStep {
			begun = true
			n.enter(ctx, step.name, n.Try, n.JobTry)
		} else if !begun {
			continue
		} else {
			n.enter(ctx, step.name, 1+n.Round, p.firstJobTry(step.name))
		}
		if ctx.Err() != nil {
			return n.cancelled(p.stateBefore(step.name)), nil
		}
		if err := step.do(ctx); err != nil {
			if isCancel(err) || ctx.Err() != nil {
				ctx, _ = workflow.NewDisconnectedContext(ctx)
				return p.settle(ctx), nil
			}
			failure := operation.FailureOf(err)
			step, try := p.backTo(failure) // before the result, whose progress it may add to
			out := n.failed(failure)
			out.BackTo, out.BackTry = step, try
			return out, nil
		}
	}
	if !begun {
		return n.failed(&operation.Failure{Type: operation.ErrInternal, Message: fmt.Sprintf("%s: there is no step %q", n.Node.Name, n.FromStep)}), nil
	}
	return n.end(operation.NodeDone), nil
}

func (n *nodeRun) enter(ctx workflow.Context, step string, try, jobTry int) {
	n.at, n.jobTry = operation.NodeStep{Step: step, Try: try, Since: stamp(ctx)}, jobTry
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s**: step **%s**, try %d, since %s\n", cell(n.Node.Name, 80), step, try, n.at.Since))
}

func (n *nodeRun) end(status string) nodeResult {
	return nodeResult{Status: status, Step: n.at.Step, Try: n.at.Try, JobTry: n.jobTry, Progress: n.progress}
}

func (n *nodeRun) failed(f *operation.Failure) nodeResult {
	out := n.end(operation.NodeFailed)
	out.Failure = f
	return out
}

func (n *nodeRun) cancelled(state string) nodeResult {
	out := n.end(operation.NodeCancelled)
	out.State, out.Settled = state, true
	return out
}

// settled is how a cancelled step ended that was followed to its end.
func (n *nodeRun) settled(state string, err error) nodeResult {
	if err == nil {
		return n.cancelled(state)
	}
	f := operation.FailureOf(err)
	out := n.failed(f)
	out.Settled = true
	if !operation.OutcomeUnknown(f.Type) { // it is known how the job ended: badly, and nothing runs any more
		out.Status, out.State = operation.NodeCancelled, "step "+n.at.Step+" failed: "+f.Message
	}
	return out
}

// input of an activity on this node; the summary names node, step and try.
func (n *nodeRun) input() activities.NodeInput {
	return activities.NodeInput{Operation: n.Operation, Node: n.Node, JobTry: n.jobTry, UnreachableAfter: n.Plan.UnreachableAfter}
}

func (n *nodeRun) summary(what string) string {
	if n.jobTry > 1 {
		return fmt.Sprintf("%s: %s (try %d)", n.Node.Name, what, n.jobTry)
	}
	return n.Node.Name + ": " + what
}

// probe reaches the node and takes its lease.
func (n *nodeRun) probe(ctx workflow.Context) error {
	var nodes *activities.Nodes
	var out activities.ProbeResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("reach it, take the lease"), n.Plan.UnreachableAfter.D()), nodes.Probe, n.input()).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.HalfConfigured = len(out.HalfConfigured) > 0
	return nil
}

// gates must hold several times in a row.
func (n *nodeRun) gates(ctx workflow.Context) error {
	var nodes *activities.Nodes
	var out activities.GatesResult
	err := workflow.ExecuteActivity(following(ctx, n.summary("gates"), n.Plan.GateTimeout.D()), nodes.Gates, activities.NodeGatesInput{NodeInput: n.input(),
		Baseline: n.Baseline, Times: n.Plan.GateTimes, Interval: n.Plan.GateInterval, Timeout: n.Plan.GateTimeout}).Get(ctx, &out)
	if err != nil {
		return err
	}
	if !out.Held {
		return operation.NewError(gatesFailure(n.Node.Name, out, nil))
	}
	return nil
}

// ceiling of a job that changes packages, with the time that it may wait for them.
func (n *nodeRun) ceiling() time.Duration {
	return n.Plan.UpgradeTimeout.D() + n.Plan.AptLockTimeout.D() + n.Plan.UnreachableAfter.D()
}

// note adds lines to the report, each once.
func (n *nodeRun) note(lines ...string) {
	for _, l := range lines {
		seen := false
		for _, have := range n.progress.Notes {
			seen = seen || have == l
		}
		if !seen && len(n.progress.Notes) < 20 {
			n.progress.Notes = append(n.progress.Notes, l)
		}
	}
}
