package workflows

// Rolling security upgrade ("Upgrade the VM" of the source page): on all cluster nodes, one node at a time,
//
//  1. the whole cluster is as well as it was before;
//  2. the node is reached and taken into our lease;
//  3. a DEA gives its app instances to others; the package lists are fetched; sudo unattended-upgrades -d, through the proxy if there is one;
//  4. the node is rebooted, to ensure that all new kernels, modules and libraries are loaded;
//  5. the reboot is proved;
//  6. the node's gates hold several times in a row;
//  7. what was installed is recorded; next node.
//
// Steps 2 to 7 of one node are in security_upgrade_node.go. The first node is the canary.

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

// SecurityUpgrade is the operation workflow. It completes with the report when every node is done; otherwise it fails, or ends as cancelled,
// with the report in the details of its error.
func SecurityUpgrade(ctx workflow.Context, in operation.SecurityUpgradeInput) (*operation.Report, error) {
	return operate(ctx, operation.KindSecurityUpgrade, in.Request, in.Batch, &securityUpgrade{in: in})
}

type securityUpgrade struct {
	*run
	in operation.SecurityUpgradeInput

	next      int  // the next node to start
	inFlight  int  // nodes whose work has begun and not ended, those waiting for a decision included
	canary    bool // a first node is done, so that others may follow
	soaked    bool
	pins      []operation.PackageVersion
	failures  int // nodes skipped by the max-failures policy
	accepted  map[string]bool
	gateTry   int
	outTries  map[string]int
	left      map[string]nodeUpgradeInput // skipped nodes on which a job may still run: how to follow it
	finishing workflow.WaitGroup
}

func (u *securityUpgrade) attach(r *run) {
	u.run, u.accepted, u.outTries, u.left = r, map[string]bool{}, map[string]int{}, map[string]nodeUpgradeInput{}
}

func (u *securityUpgrade) check() []string {
	var problems []string
	if u.in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	switch u.in.Reboot {
	case "", operation.RebootAlways, operation.RebootIfRequired, operation.RebootNever:
	default:
		problems = append(problems, fmt.Sprintf("reboot %q: choose always, if-required or never", operation.Shorten(string(u.in.Reboot), 40)))
	}
	if u.in.Soak < 0 {
		problems = append(problems, "soak is negative")
	}
	if u.in.Pin && u.in.NoCanary {
		problems = append(problems, "pin needs the canary, whose versions the others are pinned to")
	}
	if u.in.MaxFailures != nil && *u.in.MaxFailures < 0 {
		problems = append(problems, "max-failures is negative: 0 aborts at the first failed node")
	}
	return append(problems, u.in.Window.Check(operation.UnitNode)...)
}

func (u *securityUpgrade) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: u.in.Cluster, InventoryDigest: u.in.InventoryDigest, Nodes: u.in.Nodes, Roles: u.in.Roles, RoleOrder: u.in.RoleOrder}
}

func (u *securityUpgrade) needs() activities.PreflightNeeds {
	return activities.PreflightNeeds{Packages: true, Reboot: u.in.Reboot != operation.RebootNever}
}
func (u *securityUpgrade) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	return nil, u.setWindows(ctx, u.in.Window, operation.UnitNode), nil
}
func (u *securityUpgrade) wantsMaintenance() bool { return u.in.Maintenance }

// dryRun returns the commands of all nodes.
func (u *securityUpgrade) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var nodes *activities.Nodes
	var out []operation.CommandPlan
	reboot := u.in.Reboot
	if reboot == "" {
		reboot = operation.RebootAlways
	}
	for part := range slices.Chunk(u.plan.Nodes, nodesPerChunk) {
		var result activities.PlanCommandsResult
		if err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), nodes.PlanCommands, activities.PlanCommandsInput{Operation: u.op, Nodes: part,
			Reboot: reboot, Retire: u.retires(), Maintenance: u.in.Maintenance, Pin: u.in.Pin}).Get(ctx, &result); err != nil {
			return nil, err
		}
		out = append(out, result.Plans...)
	}
	return out, nil
}

// retires reports whether DEAs give their instances away first. A cluster's only DEA has nowhere to give them.
func (u *securityUpgrade) retires() bool { return !u.in.NoRetire && u.plan.DEAs > 1 }

// steps starts nodes as slots come free, and ends when every begun node has ended.
func (u *securityUpgrade) steps(ctx workflow.Context) {
	u.finishing = workflow.NewWaitGroup(ctx)
	u.canary = u.in.NoCanary
	u.soaked = u.in.NoCanary || u.in.Soak == 0
	for u.next < len(u.plan.Nodes) && u.advance(ctx) {
	}
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	u.finishing.Wait(disconnected)
	if ctx.Err() == nil && !u.aborting {
		u.clusterGates(ctx, operation.StepFinalGates)
	}
}

// advance waits until there is something to do and does it. False: cancelled or aborted.
func (u *securityUpgrade) advance(ctx workflow.Context) bool {
	if err := workflow.Await(ctx, func() bool { return u.aborting || u.mayStart() || u.stuck() }); err != nil || u.aborting {
		return false
	}
	if u.lock.lost() {
		return u.lockAgain(ctx)
	}
	if u.stuck() {
		return u.askOutOfService(ctx)
	}
	if u.canary && !u.soaked {
		if !u.soak(ctx) {
			return false
		}
		return true // whatever happened meanwhile is looked at again
	}
	if ok, _ := u.fits(ctx); !ok {
		return u.betweenWindows(ctx)
	}
	if !u.clusterGates(ctx, operation.StepClusterGates) {
		return false
	}
	if ok, _ := u.fits(ctx); !ok { // somebody may have been asked meanwhile
		return true
	}
	for u.mayStart() && ctx.Err() == nil && !u.aborting && !u.lock.lost() {
		u.start(ctx, u.next)
		u.next++
	}
	return true
}

// betweenWindows waits for the next maintenance window, when every node that was begun has ended. False: cancelled or aborted.
func (u *securityUpgrade) betweenWindows(ctx workflow.Context) bool {
	if err := workflow.Await(ctx, func() bool { return u.inFlight == 0 || u.aborting }); err != nil || u.aborting {
		return false
	}
	return u.awaitWindow(ctx)
}

// lockAgain gets a lost lock back between two nodes. False: cancelled or aborted, because the cluster is another operation's by now.
func (u *securityUpgrade) lockAgain(ctx workflow.Context) bool {
	if err := workflow.Await(ctx, func() bool { return u.inFlight == 0 }); err != nil {
		return false
	}
	u.lockFailure = u.keepLock(ctx)
	u.aborting = u.aborting || u.lockFailure != nil
	return !u.aborting
}

// mayStart reports whether a slot is free for the next node.
func (u *securityUpgrade) mayStart() bool {
	if u.report.Paused || u.next >= len(u.plan.Nodes) || u.inFlight+u.outOfService() >= u.report.Slots {
		return false
	}
	return u.canary || u.inFlight == 0
}

// stuck reports whether skipped nodes that are out of service fill the batch, so that nothing can go on without an answer.
func (u *securityUpgrade) stuck() bool {
	return u.inFlight == 0 && u.next < len(u.plan.Nodes) && !u.report.Paused && u.outOfService() >= u.report.Slots
}

// outOfService counts skipped nodes that use a slot.
func (u *securityUpgrade) outOfService() int {
	n := 0
	for i := range u.report.Nodes {
		if u.report.Nodes[i].OutOfService && !u.accepted[u.report.Nodes[i].Name] {
			n++
		}
	}
	return n
}

// soak waits after the canary, unless somebody aborts.
func (u *securityUpgrade) soak(ctx workflow.Context) bool {
	u.report.Message = "soaking for " + u.in.Soak.String() + " after the canary"
	u.refresh(ctx)
	_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{Timeout: u.in.Soak.D(),
		TimerOptions: workflow.TimerOptions{Summary: "soak after the canary"}}, func() bool { return u.aborting })
	u.soaked, u.report.Message = true, ""
	u.refresh(ctx)
	return err == nil && !u.aborting
}

// clusterGates holds the next node back until the rest of the cluster is as well as it was before, so that nodes done earlier did not degrade.
// False: cancelled or aborted.
func (u *securityUpgrade) clusterGates(ctx workflow.Context, step string) bool {
	var nodes *activities.Nodes
	for {
		var result activities.GatesResult
		in := activities.ClusterGatesInput{Operation: u.op, Exclude: u.excluded(), Baseline: u.report.BrokenBefore,
			Times: 1, Interval: u.plan.GateInterval, Timeout: u.plan.GateTimeout}
		err := workflow.ExecuteActivity(following(ctx, "gates of the cluster", u.plan.GateTimeout.D()), nodes.ClusterGates, in).Get(ctx, &result)
		if ctx.Err() != nil || u.aborting {
			return false
		}
		if err == nil && result.Held {
			return true
		}
		u.gateTry++
		cause := gatesFailure("the cluster", result, err)
		if u.in.MaxFailures != nil { // nobody is there to answer
			u.report.Warnings = append(u.report.Warnings, cause.Message)
			u.record(ctx, operation.ClusterNode, step, u.gateTry, operation.Abort, "max-failures")
			u.aborting = true
			return false
		}
		switch u.ask(ctx, operation.ClusterNode, step, u.gateTry, cause, operation.Retry, operation.Degraded, operation.Abort) {
		case operation.Retry:
		case operation.Degraded:
			for _, f := range result.Failures {
				if !slices.Contains(u.report.LeftOut, f.Node) {
					u.report.LeftOut = append(u.report.LeftOut, f.Node)
				}
			}
			if err != nil {
				return true // the gates could not be asked at all, and the operator knows
			}
		case operation.Abort:
			u.aborting = true
			return false
		default:
			return false
		}
	}
}

// excluded are the nodes that the cluster gates do not look at: in work, out of service, or left out by an answer.
func (u *securityUpgrade) excluded() []string {
	out := slices.Clone(u.report.LeftOut)
	for i := range u.report.Nodes {
		n := &u.report.Nodes[i]
		if n.Status == operation.NodeRunning || n.Status == operation.NodeWaiting || n.OutOfService {
			if !slices.Contains(out, n.Name) {
				out = append(out, n.Name)
			}
		}
	}
	return out
}

// askOutOfService asks about the first skipped node that uses a slot of a full batch.
func (u *securityUpgrade) askOutOfService(ctx workflow.Context) bool {
	for i := range u.report.Nodes {
		n := &u.report.Nodes[i]
		if !n.OutOfService || u.accepted[n.Name] {
			continue
		}
		u.outTries[n.Name]++
		cause := operation.Failure{Type: operation.ErrOutOfService, Message: fmt.Sprintf("%s was skipped and is out of service, which fills the batch of %d", n.Name, u.report.Slots)}
		decision := operation.Degraded
		if u.in.MaxFailures == nil {
			decision = u.ask(ctx, n.Name, operation.StepOutOfService, u.outTries[n.Name], cause, operation.Wait, operation.Degraded, operation.Abort)
		} else {
			u.record(ctx, n.Name, operation.StepOutOfService, u.outTries[n.Name], decision, "max-failures")
		}
		switch decision {
		case operation.Wait:
			n.OutOfService = !(u.jobEnded(ctx, n.Name) && u.gatesHold(ctx, i, u.plan.GateTimeout))
			u.refresh(ctx)
			return ctx.Err() == nil
		case operation.Degraded:
			u.accepted[n.Name] = true
			if !slices.Contains(u.report.LeftOut, n.Name) {
				u.report.LeftOut = append(u.report.LeftOut, n.Name)
			}
			u.refresh(ctx)
			return true
		case operation.Abort:
			u.aborting = true
		}
		return false
	}
	return true
}

// record notes a decision that a policy made.
func (u *securityUpgrade) record(ctx workflow.Context, node, step string, try int, d operation.Decision, by string) {
	u.report.Answers = append(u.report.Answers, operation.Answer{At: stamp(ctx), By: by,
		DecideRequest: operation.DecideRequest{Node: node, Step: step, Try: try, Decision: d}})
}

// start begins the work on a node in its own coroutine.
func (u *securityUpgrade) start(ctx workflow.Context, i int) {
	n := &u.report.Nodes[i]
	n.Status, n.Step, n.Try, n.StartedAt = operation.NodeRunning, operation.StepProbe, 1, stamp(ctx)
	u.inFlight++
	u.currentNode = n.Name
	u.refresh(ctx)
	u.finishing.Add(1)
	began, answers := workflow.Now(ctx), len(u.report.Answers)
	workflow.GoNamed(ctx, n.Name, func(ctx workflow.Context) {
		defer u.finishing.Done()
		u.node(ctx, i)
		if n.Status == operation.NodeDone && len(u.report.Answers) == answers { // nobody was waited for
			u.windows.took(workflow.Now(ctx).Sub(began))
		}
		u.inFlight--
		n.EndedAt = stamp(ctx)
		u.refresh(ctx)
	})
}

// node sees one node through: its child workflow, and the questions when that fails.
func (u *securityUpgrade) node(ctx workflow.Context, i int) {
	n := &u.report.Nodes[i]
	in := nodeUpgradeInput{Operation: u.op, Node: u.plan.Nodes[i], Began: workflow.GetInfo(ctx).WorkflowStartTime.UTC().Format(time.RFC3339Nano), FromStep: operation.StepProbe, Try: 1, JobTry: 1, Reboot: u.in.Reboot,
		Retire: u.retires() && u.plan.Nodes[i].HasRole("dea"), Pin: u.in.Pin, Pins: u.pins, Baseline: u.baselineOf(n.Name), Plan: u.limits()}
	for {
		n.Status, n.Failure = operation.NodeRunning, nil
		in.Operation = u.op
		out := u.child(ctx, in)
		n.Step, n.Try, n.NodeProgress, n.Failure = out.Step, out.Try, out.Progress, out.Failure
		if out.Status == operation.NodeDone {
			u.nodeDone(n)
			return
		}
		if ctx.Err() != nil {
			u.settle(ctx, i, in, out)
			return
		}
		if out.Status == operation.NodeCancelled { // somebody cancelled the child alone: that is no answer for the operation
			out.Status = operation.NodeFailed
			out.Failure = &operation.Failure{Type: operation.ErrCancelled, Message: n.Name + ": its workflow was cancelled; the node is " + out.State}
			n.Failure = out.Failure
		}
		var again bool
		if in, again = u.failed(ctx, i, in, out); !again {
			return
		}
	}
}

// nodeDone ends a node well; the first one is the canary.
func (u *securityUpgrade) nodeDone(n *operation.NodeReport) {
	n.Status, n.OutOfService = operation.NodeDone, false
	if !u.canary {
		u.canary = true
		if u.in.Pin {
			for _, c := range n.Changes {
				u.pins = append(u.pins, operation.PackageVersion{Name: c.Name, Version: c.To})
			}
		}
	}
	if keep := max(5, 2000/len(u.report.Nodes)); len(n.Changes) > keep { // the whole list is in the child's result
		n.Changes = n.Changes[:keep]
	}
}

// failed decides about a failed step: by policy, or by asking. It returns the input of the node's next child, or false when the node is left.
func (u *securityUpgrade) failed(ctx workflow.Context, i int, in nodeUpgradeInput, out nodeUpgradeResult) (nodeUpgradeInput, bool) {
	n := &u.report.Nodes[i]
	n.Status = operation.NodeWaiting
	var decision operation.Decision
	switch {
	case u.aborting:
		decision = operation.Abort
	case u.in.MaxFailures != nil:
		u.failures++
		decision = operation.Skip
		if u.failures > *u.in.MaxFailures {
			decision = operation.Abort
		}
		u.record(ctx, n.Name, out.Step, out.Try, decision, "max-failures")
	default:
		decision = u.ask(ctx, n.Name, out.Step, out.Try, *out.Failure, operation.Retry, operation.Skip, operation.Abort)
	}
	switch decision {
	case operation.Retry:
		return in.retry(out), true
	case operation.Skip:
		if unknownJob(out.Failure) { // it may still be running there: not in service until that is known
			left := in.retry(out)
			left.Settle = true
			u.left[n.Name] = left
		}
		u.skip(ctx, i)
	case operation.Abort:
		u.aborting = true
		n.Status = operation.NodeFailed
		if unknownJob(out.Failure) {
			n.Notes = append(n.Notes, "job "+out.Failure.Job+" may still run there; the next operation finds it and waits")
		}
	default: // cancelled while the question was open
		u.settle(ctx, i, in, out)
	}
	return in, false
}

// skip leaves a node as it is. Where its gates do not hold it is out of service and uses a slot of the batch.
func (u *securityUpgrade) skip(ctx workflow.Context, i int) {
	n := &u.report.Nodes[i]
	n.Status = operation.NodeRunning
	if _, running := u.left[n.Name]; running {
		n.OutOfService = true
	} else {
		n.OutOfService = !u.gatesHold(ctx, i, operation.Duration(30*time.Second))
	}
	n.Status = operation.NodeSkipped
}

// unknownJob reports whether a failure leaves a job of which nobody knows whether it still runs.
func unknownJob(f *operation.Failure) bool {
	return f != nil && f.Job != "" && operation.OutcomeUnknown(f.Type)
}

// jobEnded follows the job of a skipped node, whose outcome was not known, to its end. False: that is still not known.
func (u *securityUpgrade) jobEnded(ctx workflow.Context, node string) bool {
	left, ok := u.left[node]
	if !ok {
		return true
	}
	// It may have been switched on just before the answer.
	left.Plan.UnreachableAfter = max(left.Plan.UnreachableAfter, left.Plan.BootTimeout)
	if out := u.child(ctx, left); out.Status != operation.NodeCancelled {
		return false
	}
	delete(u.left, node)
	return true
}

// gatesHold asks for a node's gates without blaming it.
func (u *securityUpgrade) gatesHold(ctx workflow.Context, i int, timeout operation.Duration) bool {
	var nodes *activities.Nodes
	var result activities.GatesResult
	err := workflow.ExecuteActivity(following(ctx, "is "+u.plan.Nodes[i].Name+" in service?", timeout.D()), nodes.Gates, activities.NodeGatesInput{
		NodeInput: activities.NodeInput{Operation: u.op, Node: u.plan.Nodes[i], UnreachableAfter: timeout}, Baseline: u.baselineOf(u.plan.Nodes[i].Name),
		Times: 1, Interval: u.plan.GateInterval, Timeout: min(timeout, u.plan.GateTimeout)}).Get(ctx, &result)
	return err == nil && result.Held
}

// settle brings a node to a safe state while the operation is being cancelled: what runs there and may not be interrupted is followed to its end.
// A node that cannot be reached is a question: wait for it, or leave it and let the report name the job that may still run.
func (u *securityUpgrade) settle(ctx workflow.Context, i int, in nodeUpgradeInput, out nodeUpgradeResult) {
	n := &u.report.Nodes[i]
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	for try := 1; out.Status == operation.NodeFailed && operation.OutcomeUnknown(out.Failure.Type); try++ {
		n.Status, n.Failure = operation.NodeWaiting, out.Failure
		if try > 1 || out.Settled {
			if u.ask(ctx, n.Name, out.Step, out.Try+try-1, *out.Failure, operation.Wait, operation.Leave) != operation.Wait {
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
		in, out = next, u.child(ctx, next)
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
func (u *securityUpgrade) child(ctx workflow.Context, in nodeUpgradeInput) nodeUpgradeResult {
	failed := func(err error, state string) nodeUpgradeResult {
		status := operation.NodeFailed
		f := operation.FailureOf(err)
		if f.Type == operation.ErrCancelled && in.Try == 1 { // a retry may have a job from before, which is then settled
			status = operation.NodeCancelled
		}
		return nodeUpgradeResult{Status: status, Step: in.FromStep, Try: in.Try, JobTry: in.JobTry, Progress: in.Progress, Failure: f, State: state}
	}
	options := workflow.ChildWorkflowOptions{
		WorkflowID:          operation.NodeWorkflowID(u.workflowID, in.Node.Name),
		ParentClosePolicy:   enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WaitForCancellation: true,
		WorkflowTaskTimeout: taskTimeout,
		StaticSummary:       operation.Shorten("security upgrade of "+in.Node.Name+" ("+strings.Join(in.Node.Roles, ", ")+")", 400),
	}
	base, _ := workflow.NewDisconnectedContext(ctx)
	for {
		if ctx.Err() != nil {
			return failed(ctx.Err(), "not begun")
		}
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(base, options), operation.WorkflowSecurityUpgradeNode, in)
		err := child.GetChildWorkflowExecution().Get(base, nil)
		if err == nil {
			if workflow.Await(ctx, child.IsReady) != nil {
				cancelByID(base, options.WorkflowID, "")
			}
			var out nodeUpgradeResult
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
func (u *securityUpgrade) baselineOf(node string) []operation.GateFailure {
	var out []operation.GateFailure
	for _, f := range u.report.BrokenBefore {
		if f.Node == node {
			out = append(out, f)
		}
	}
	return out
}

// limits are the parts of the plan that a node's child needs.
func (u *securityUpgrade) limits() nodeLimits {
	return nodeLimits{GateTimes: u.plan.GateTimes, GateInterval: u.plan.GateInterval, GateTimeout: u.plan.GateTimeout, UnreachableAfter: u.plan.UnreachableAfter,
		BootTimeout: u.plan.BootTimeout, UpgradeTimeout: u.plan.UpgradeTimeout, AptLockTimeout: u.plan.AptLockTimeout}
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
