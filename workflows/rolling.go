package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// rolling sees the nodes of an operation through one after the other, or so many at a time: the first one alone (the canary), then the others as slots come free and as long as the rest of the
// cluster is as well as it was. What is done to a node is a child workflow (rolling_node.go); what fails there is asked here.
type rolling struct {
	*run
	work nodeWork
	rollingOptions

	next      int  // the next node to start
	inFlight  int  // nodes whose work has begun and not ended, those waiting for a decision included
	canary    bool // a first node is done, so that others may follow
	soaked    bool
	failures  int // nodes skipped by the max-failures policy
	accepted  map[string]bool
	gateTry   int
	outTries  map[string]int
	left      map[string]nodeTask // skipped nodes on which a job may still run: how to follow it
	finishing workflow.WaitGroup
}

// nodeWork is what a rolling procedure does to a node.
type nodeWork interface {
	// nodeWorkflow is the name of the child workflow, and what it does in two or three words, for people.
	nodeWorkflow() (name, what string)
	// nodeInput is the child's input: the task, and what the procedure adds to it.
	nodeInput(task nodeTask) any
	// first is told of the first node that ended well.
	first(n *operation.NodeReport)
	// A procedure that has answers (see moreAnswers) offers more of them for a failed node than retry, skip and abort.
	// A procedure that has tries(n *operation.NodeReport) bool says with it whether a node that ended well has shown anything, so that others may follow it.
}

// moreAnswers is what a rolling procedure may have beside nodeWork.
type moreAnswers interface {
	// answers are the further decisions about a failure of a node.
	answers(n *operation.NodeReport, f operation.Failure) []operation.Decision
	// answered is what the node's next child begins with after one of them; retry is what it would be after a retry.
	answered(d operation.Decision, retry nodeTask) nodeTask
}

// oneAtATime is a rolling procedure that never has two nodes in work, and begins none while something may still run on another one: what does it can only do one thing at a time.
type oneAtATime interface{ oneAtATime() }

// rollingOptions are the parts of a rolling procedure's input that say how it rolls.
type rollingOptions struct {
	// noCanary lets the first batch be a whole one; soakFor is how long the canary is watched.
	noCanary bool
	soakFor  operation.Duration
	// maxFailures: nil asks about every failed node.
	maxFailures *int
}

// roll starts nodes as slots come free, and ends when every begun node has ended.
func (r *rolling) roll(ctx workflow.Context) {
	r.finishing = workflow.NewWaitGroup(ctx)
	r.accepted, r.outTries, r.left = map[string]bool{}, map[string]int{}, map[string]nodeTask{}
	r.canary = r.noCanary
	r.soaked = r.noCanary || r.soakFor == 0
	r.pass()
	for r.next < len(r.plan.Nodes) && r.advance(ctx) {
	}
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	r.finishing.Wait(disconnected)
	if ctx.Err() == nil && !r.aborting {
		r.clusterGates(ctx, operation.StepFinalGates)
	}
}

// pass goes by the nodes on which there is nothing to do.
func (r *rolling) pass() {
	for r.next < len(r.report.Nodes) && r.report.Nodes[r.next].Status == operation.NodeDone {
		r.next++
	}
}

// advance waits until there is something to do and does it. False: cancelled or aborted.
func (r *rolling) advance(ctx workflow.Context) bool {
	if err := workflow.Await(ctx, func() bool { return r.aborting || r.mayStart() || r.stuck() }); err != nil || r.aborting {
		return false
	}
	if r.lock.lost() {
		return r.lockAgain(ctx)
	}
	if r.stuck() {
		return r.askOutOfService(ctx)
	}
	if r.canary && !r.soaked {
		if !r.soak(ctx) {
			return false
		}
		return true // whatever happened meanwhile is looked at again
	}
	if ok, _ := r.fits(ctx); !ok {
		return r.betweenWindows(ctx)
	}
	if !r.clusterGates(ctx, operation.StepClusterGates) {
		return false
	}
	if ok, _ := r.fits(ctx); !ok { // somebody may have been asked meanwhile
		return true
	}
	for r.mayStart() && ctx.Err() == nil && !r.aborting && !r.lock.lost() {
		r.start(ctx, r.next)
		r.next++
		r.pass()
	}
	return true
}

// betweenWindows waits for the next maintenance window, when every node that was begun has ended. False: cancelled or aborted.
func (r *rolling) betweenWindows(ctx workflow.Context) bool {
	if err := workflow.Await(ctx, func() bool { return r.inFlight == 0 || r.aborting }); err != nil || r.aborting {
		return false
	}
	return r.awaitWindow(ctx)
}

// lockAgain gets a lost lock back between two nodes. False: cancelled or aborted, because the cluster is another operation's by now.
func (r *rolling) lockAgain(ctx workflow.Context) bool {
	if err := workflow.Await(ctx, func() bool { return r.inFlight == 0 }); err != nil {
		return false
	}
	r.lockFailure = r.keepLock(ctx)
	r.aborting = r.aborting || r.lockFailure != nil
	return !r.aborting
}

// mayStart reports whether a slot is free for the next node.
func (r *rolling) mayStart() bool {
	if r.report.Paused || r.next >= len(r.plan.Nodes) || r.inFlight+r.outOfService() >= r.report.Slots {
		return false
	}
	return r.canary || r.inFlight == 0
}

// stuck reports whether skipped nodes that are out of service fill the batch, so that nothing can go on without an answer.
func (r *rolling) stuck() bool {
	return r.inFlight == 0 && r.next < len(r.plan.Nodes) && !r.report.Paused && r.outOfService() >= r.report.Slots
}

// outOfService counts skipped nodes that use a slot.
func (r *rolling) outOfService() int {
	n := 0
	for i := range r.report.Nodes {
		if r.report.Nodes[i].OutOfService && !r.accepted[r.report.Nodes[i].Name] {
			n++
		}
	}
	return n
}

// soak waits after the canary, unless somebody aborts.
func (r *rolling) soak(ctx workflow.Context) bool {
	r.report.Message = "soaking for " + r.soakFor.String() + " after the canary"
	r.refresh(ctx)
	_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{Timeout: r.soakFor.D(),
		TimerOptions: workflow.TimerOptions{Summary: "soak after the canary"}}, func() bool { return r.aborting })
	r.soaked, r.report.Message = true, ""
	r.refresh(ctx)
	return err == nil && !r.aborting
}

// clusterGates holds the next node back until the rest of the cluster is as well as it was before, so that nodes done earlier did not degrade.
// False: cancelled or aborted.
func (r *rolling) clusterGates(ctx workflow.Context, step string) bool {
	var nodes *activities.Nodes
	for {
		var result activities.GatesResult
		in := activities.ClusterGatesInput{Operation: r.op, Exclude: r.excluded(), Baseline: r.report.BrokenBefore,
			Times: 1, Interval: r.plan.GateInterval, Timeout: r.plan.GateTimeout}
		err := workflow.ExecuteActivity(following(ctx, "gates of the cluster", r.plan.GateTimeout.D()), nodes.ClusterGates, in).Get(ctx, &result)
		if ctx.Err() != nil || r.aborting {
			return false
		}
		if err == nil && result.Held {
			return true
		}
		r.gateTry++
		cause := gatesFailure("the cluster", result, err)
		if r.maxFailures != nil { // nobody is there to answer
			r.report.Warnings = append(r.report.Warnings, cause.Message)
			r.record(ctx, operation.ClusterNode, step, r.gateTry, operation.Abort, "max-failures")
			r.aborting = true
			return false
		}
		switch r.ask(ctx, operation.ClusterNode, step, r.gateTry, cause, operation.Retry, operation.Degraded, operation.Abort) {
		case operation.Retry:
		case operation.Degraded:
			for _, f := range result.Failures {
				if !slices.Contains(r.report.LeftOut, f.Node) {
					r.report.LeftOut = append(r.report.LeftOut, f.Node)
				}
			}
			if err != nil {
				return true // the gates could not be asked at all, and the operator knows
			}
		case operation.Abort:
			r.aborting = true
			return false
		default:
			return false
		}
	}
}

// excluded are the nodes that the cluster gates do not look at: in work, out of service, or left out by an answer.
func (r *rolling) excluded() []string {
	out := slices.Clone(r.report.LeftOut)
	for i := range r.report.Nodes {
		n := &r.report.Nodes[i]
		if n.Status == operation.NodeRunning || n.Status == operation.NodeWaiting || n.OutOfService {
			if !slices.Contains(out, n.Name) {
				out = append(out, n.Name)
			}
		}
	}
	return out
}

// askOutOfService asks about the first skipped node that uses a slot of a full batch.
func (r *rolling) askOutOfService(ctx workflow.Context) bool {
	for i := range r.report.Nodes {
		n := &r.report.Nodes[i]
		if !n.OutOfService || r.accepted[n.Name] {
			continue
		}
		r.outTries[n.Name]++
		cause := operation.Failure{Type: operation.ErrOutOfService, Message: fmt.Sprintf("%s was skipped and is out of service, which fills the batch of %d", n.Name, r.report.Slots)}
		decision := operation.Degraded
		if r.maxFailures == nil {
			decision = r.ask(ctx, n.Name, operation.StepOutOfService, r.outTries[n.Name], cause, operation.Wait, operation.Degraded, operation.Abort)
		} else {
			r.record(ctx, n.Name, operation.StepOutOfService, r.outTries[n.Name], decision, "max-failures")
		}
		switch decision {
		case operation.Wait:
			n.OutOfService = !(r.jobEnded(ctx, n.Name) && r.gatesHold(ctx, i, r.plan.GateTimeout))
			r.refresh(ctx)
			return ctx.Err() == nil
		case operation.Degraded:
			r.accepted[n.Name] = true
			if !slices.Contains(r.report.LeftOut, n.Name) {
				r.report.LeftOut = append(r.report.LeftOut, n.Name)
			}
			r.refresh(ctx)
			return true
		case operation.Abort:
			r.aborting = true
		}
		return false
	}
	return true
}

// record notes a decision that a policy made.
func (r *rolling) record(ctx workflow.Context, node, step string, try int, d operation.Decision, by string) {
	r.report.Answers = append(r.report.Answers, operation.Answer{At: stamp(ctx), By: by,
		DecideRequest: operation.DecideRequest{Node: node, Step: step, Try: try, Decision: d}})
}

// start begins the work on a node in its own coroutine.
func (r *rolling) start(ctx workflow.Context, i int) {
	n := &r.report.Nodes[i]
	n.Status, n.Step, n.Try, n.StartedAt = operation.NodeRunning, operation.StepProbe, 1, stamp(ctx)
	r.inFlight++
	r.currentNode = n.Name
	r.refresh(ctx)
	r.finishing.Add(1)
	began, answers := workflow.Now(ctx), len(r.report.Answers)
	workflow.GoNamed(ctx, n.Name, func(ctx workflow.Context) {
		defer r.finishing.Done()
		r.node(ctx, i)
		if n.Status == operation.NodeDone && len(r.report.Answers) == answers { // nobody was waited for
			r.windows.took(workflow.Now(ctx).Sub(began))
		}
		r.inFlight--
		n.EndedAt = stamp(ctx)
		r.refresh(ctx)
	})
}

// node sees one node through: its child workflow, and the questions when that fails.
func (r *rolling) node(ctx workflow.Context, i int) {
	n := &r.report.Nodes[i]
	in := nodeTask{Operation: r.op, Node: r.plan.Nodes[i], Began: workflow.GetInfo(ctx).WorkflowStartTime.UTC().Format(time.RFC3339Nano), FromStep: operation.StepProbe, Try: 1, JobTry: 1,
		Baseline: r.baselineOf(n.Name), Plan: r.limits()}
	for {
		n.Status, n.Failure = operation.NodeRunning, nil
		in.Operation = r.op
		out := r.child(ctx, in)
		n.Step, n.Try, n.NodeProgress, n.Failure = out.Step, out.Try, out.Progress, out.Failure
		switch out.Status {
		case operation.NodeDone:
			r.nodeDone(n)
			return
		case operation.NodeSkipped: // it is well, and not as it was to be, by an answer
			n.Status = operation.NodeSkipped
			return
		}
		if ctx.Err() != nil {
			r.settle(ctx, i, in, out)
			return
		}
		if out.Status == operation.NodeCancelled { // somebody cancelled the child alone: that is no answer for the operation
			out.Status = operation.NodeFailed
			out.Failure = &operation.Failure{Type: operation.ErrCancelled, Message: n.Name + ": its workflow was cancelled; the node is " + out.State}
			n.Failure = out.Failure
		}
		var again bool
		if in, again = r.failed(ctx, i, in, out); !again {
			return
		}
	}
}

// nodeDone ends a node well; the first one is the canary.
func (r *rolling) nodeDone(n *operation.NodeReport) {
	n.Status, n.OutOfService = operation.NodeDone, false
	if w, ok := r.work.(interface {
		tries(n *operation.NodeReport) bool
	}); !r.canary && (!ok || w.tries(n)) {
		r.canary = true
		r.work.first(n)
	}
	if keep := max(5, 2000/len(r.report.Nodes)); len(n.Changes) > keep { // the whole list is in the child's result
		n.Changes = n.Changes[:keep]
	}
}

// failed decides about a failed step: by policy, or by asking. It returns the input of the node's next child, or false when the node is left.
func (r *rolling) failed(ctx workflow.Context, i int, in nodeTask, out nodeResult) (nodeTask, bool) {
	n := &r.report.Nodes[i]
	n.Status = operation.NodeWaiting
	var decision operation.Decision
	var further []operation.Decision
	more, ok := r.work.(moreAnswers)
	if ok {
		further = more.answers(n, *out.Failure)
	}
	choices := slices.Concat([]operation.Decision{operation.Retry}, further, []operation.Decision{operation.Skip, operation.Abort})
	_, alone := r.work.(oneAtATime)
	if alone = alone && unknownJob(out.Failure); alone {
		choices = []operation.Decision{operation.Retry, operation.Abort}
	}
	switch {
	case r.aborting:
		decision = operation.Abort
	case r.maxFailures != nil:
		r.failures++
		decision = operation.Skip
		if alone || r.failures > *r.maxFailures {
			decision = operation.Abort
		}
		r.record(ctx, n.Name, out.Step, out.Try, decision, "max-failures")
	default:
		decision = r.ask(ctx, n.Name, out.Step, out.Try, *out.Failure, choices...)
	}
	if slices.Contains(further, decision) {
		return more.answered(decision, in.retry(out)), true
	}
	switch decision {
	case operation.Retry:
		return in.retry(out), true
	case operation.Skip:
		if unknownJob(out.Failure) { // it may still be running there: not in service until that is known
			left := in.retry(out)
			left.Settle = true
			r.left[n.Name] = left
		}
		r.skip(ctx, i)
	case operation.Abort:
		r.aborting = true
		n.Status = operation.NodeFailed
		if unknownJob(out.Failure) {
			n.Notes = append(n.Notes, "job "+out.Failure.Job+" may still run there; the next operation finds it and waits")
			if r.readOnly {
				r.warn("maintenance mode was put back although job " + out.Failure.Job + " may still run")
			}
		}
	default: // cancelled while the question was open
		r.settle(ctx, i, in, out)
	}
	return in, false
}

// skip leaves a node as it is. Where its gates do not hold it is out of service and uses a slot of the batch.
func (r *rolling) skip(ctx workflow.Context, i int) {
	n := &r.report.Nodes[i]
	n.Status = operation.NodeRunning
	if _, running := r.left[n.Name]; running {
		n.OutOfService = true
	} else {
		n.OutOfService = !r.gatesHold(ctx, i, operation.Duration(30*time.Second))
	}
	n.Status = operation.NodeSkipped
}

// unknownJob reports whether a failure leaves a job of which nobody knows whether it still runs.
func unknownJob(f *operation.Failure) bool {
	return f != nil && f.Job != "" && operation.OutcomeUnknown(f.Type)
}

// jobEnded follows the job of a skipped node, whose outcome was not known, to its end. False: that is still not known.
func (r *rolling) jobEnded(ctx workflow.Context, node string) bool {
	left, ok := r.left[node]
	if !ok {
		return true
	}
	// It may have been switched on just before the answer.
	left.Plan.UnreachableAfter = max(left.Plan.UnreachableAfter, left.Plan.BootTimeout)
	if out := r.child(ctx, left); out.Status != operation.NodeCancelled {
		return false
	}
	delete(r.left, node)
	return true
}

// gatesHold asks for a node's gates without blaming it.
func (r *rolling) gatesHold(ctx workflow.Context, i int, timeout operation.Duration) bool {
	var nodes *activities.Nodes
	var result activities.GatesResult
	err := workflow.ExecuteActivity(following(ctx, "is "+r.plan.Nodes[i].Name+" in service?", timeout.D()), nodes.Gates, activities.NodeGatesInput{
		NodeInput: activities.NodeInput{Operation: r.op, Node: r.plan.Nodes[i], UnreachableAfter: timeout}, Baseline: r.baselineOf(r.plan.Nodes[i].Name),
		Times: 1, Interval: r.plan.GateInterval, Timeout: min(timeout, r.plan.GateTimeout)}).Get(ctx, &result)
	return err == nil && result.Held
}

// settle brings a node to a safe state while the operation is being cancelled: what runs there and may not be interrupted is followed to its end.
// A node that cannot be reached is a question: wait for it, or leave it and let the report name the job that may still run.
func (r *rolling) settle(ctx workflow.Context, i int, in nodeTask, out nodeResult) {
	n := &r.report.Nodes[i]
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	for try := 1; out.Status == operation.NodeFailed && operation.OutcomeUnknown(out.Failure.Type); try++ {
		n.Status, n.Failure = operation.NodeWaiting, out.Failure
		if try > 1 || out.Settled {
			if r.ask(ctx, n.Name, out.Step, out.Try+try-1, *out.Failure, operation.Wait, operation.Leave) != operation.Wait {
				n.Status = operation.NodeFailed
				n.Notes = append(n.Notes, "left while cancelling: "+out.Failure.Message)
				if out.Failure.Job != "" {
					n.Notes = append(n.Notes, "job "+out.Failure.Job+" may still run there; the next operation finds it")
				}
				return
			}
		}
		n.Status, n.Failure = operation.NodeRunning, nil
		next := in.retry(out)
		next.Settle = true
		in, out = next, r.child(ctx, next)
		n.Step, n.NodeProgress, n.Failure = out.Step, out.Progress, out.Failure
	}
	if out.Status == operation.NodeCancelled {
		n.Status = operation.NodeCancelled
		n.Notes = append(n.Notes, "cancelled: "+out.State)
		return
	}
	n.Status = operation.NodeFailed
}

// child runs the node's child workflow and turns every way in which it can end into a result. The child is cancelled by its id: see reset.go.
func (r *rolling) child(ctx workflow.Context, in nodeTask) nodeResult {
	failed := func(err error, state string) nodeResult {
		status := operation.NodeFailed
		f := operation.FailureOf(err)
		if f.Type == operation.ErrCancelled && in.Try == 1 { // a retry may have a job from before, which is then settled
			status = operation.NodeCancelled
		}
		return nodeResult{Status: status, Step: in.FromStep, Try: in.Try, JobTry: in.JobTry, Progress: in.Progress, Failure: f, State: state}
	}
	name, what := r.work.nodeWorkflow()
	options := workflow.ChildWorkflowOptions{
		WorkflowID:          operation.NodeWorkflowID(r.workflowID, in.Node.Name),
		ParentClosePolicy:   enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WaitForCancellation: true,
		WorkflowTaskTimeout: taskTimeout,
		StaticSummary:       operation.Shorten(what+" of "+in.Node.Name+" ("+strings.Join(in.Node.Roles, ", ")+")", 400),
	}
	base, _ := workflow.NewDisconnectedContext(ctx)
	for {
		if ctx.Err() != nil {
			return failed(ctx.Err(), "not begun")
		}
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(base, options), name, r.work.nodeInput(in))
		err := child.GetChildWorkflowExecution().Get(base, nil)
		if err == nil {
			if workflow.Await(ctx, child.IsReady) != nil {
				cancelByID(base, options.WorkflowID, "")
			}
			var out nodeResult
			if err := child.Get(base, &out); err != nil {
				return failed(err, "not begun")
			}
			return out
		}
		if !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
			return failed(err, "not begun")
		}
		// After a Reset: see reset.go.
		if err := awaitClosed(ctx, in.Node.Name+": wait for what was begun before the reset", options.WorkflowID); err != nil {
			if isCancel(err) {
				cancelByID(base, options.WorkflowID, "")
				if err := awaitClosed(base, in.Node.Name+": cancel: wait for what was begun before the reset", options.WorkflowID); err != nil {
					return failed(err, "")
				}
			}
			return failed(err, "as the run before the reset has left it: see the result of "+options.WorkflowID)
		}
	}
}

// baselineOf is what did not hold on one node before.
func (r *run) baselineOf(node string) []operation.GateFailure {
	var out []operation.GateFailure
	for _, f := range r.report.BrokenBefore {
		if f.Node == node {
			out = append(out, f)
		}
	}
	return out
}

// limits are the parts of the plan that a node's child needs.
func (r *rolling) limits() nodeLimits {
	return nodeLimits{GateTimes: r.plan.GateTimes, GateInterval: r.plan.GateInterval, GateTimeout: r.plan.GateTimeout, UnreachableAfter: r.plan.UnreachableAfter,
		BootTimeout: r.plan.BootTimeout, UpgradeTimeout: r.plan.UpgradeTimeout, AptLockTimeout: r.plan.AptLockTimeout}
}

// gatesFailure says which gates do not hold.
func gatesFailure(of string, result activities.GatesResult, err error) operation.Failure {
	if err != nil {
		return *operation.FailureOf(err)
	}
	var parts []string
	for i, f := range result.Failures {
		if i == 5 {
			parts = append(parts, fmt.Sprintf("and %d more", len(result.Failures)-i))
			break
		}
		parts = append(parts, f.String())
	}
	return operation.Failure{Type: operation.ErrGates, Message: operation.Shorten("gates of "+of+" do not hold: "+strings.Join(parts, "; "), 1024)}
}
