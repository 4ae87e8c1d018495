package workflows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// procedure is what a runbook adds to the spine.
type procedure interface {
	// check says what is wrong with the input, without looking at any inventory.
	check() []string
	// selection is what the inventory is asked for.
	selection() activities.ResolveInput
	// needs is what the preflight looks for on the nodes that are worked on.
	needs() activities.PreflightNeeds
	// ready asks what only this procedure needs to know, beside the preflight of the nodes: problems and warnings, one line each. It changes nothing.
	ready(ctx workflow.Context) (problems, warnings []string, err error)
	// wantsMaintenance reports whether maintenance mode is on during all steps.
	wantsMaintenance() bool
	// dryRun returns the commands of every node, from the code that runs them.
	dryRun(ctx workflow.Context) ([]operation.CommandPlan, error)
	// steps does the work. It returns when every node it has begun is in a safe state, also when it is cancelled or aborted.
	steps(ctx workflow.Context)
}

// run is the state of one operation: everything that does not depend on the procedure. It holds the lock and the handlers and never continues
// as new.
type run struct {
	req        operation.Request
	procedure  procedure
	workflowID string
	op         activities.Operation
	plan       operation.Plan
	batch      operation.Batch
	lock       *lock
	// lockFailure is why the lock, once lost, was not got again.
	lockFailure *operation.Failure

	report    operation.Report
	index     map[string]int // node name -> its place in report.Nodes
	questions []*question    // open ones, oldest first
	aborting  bool
	cleanup   bool
	stepping  bool // between preflight and cleanup
	messages  workflow.WaitGroup
	sent      int // notifications so far, part of their ids

	preflight        operation.PreflightOutcome
	preflightSettled bool
	preflightFailure *operation.Failure

	// strangers are nodes that a dry run cannot ask, because they do not know the worker's key.
	strangers []string
	// touched: nodes were changed before the preflight, which tells of it.
	touched bool

	readOnlyMode
	windows               *windows       // nil for none
	lastTry               map[string]int // by node and step: the try of the last question
	shownPhase, shownNode string
	shownNeeds            bool
	currentNode           string
}

// question is an open question and, once given, its answer.
type question struct {
	operation.Question
	answer *operation.Answer
}

// nodesPerChunk bounds one activity's input and result where all nodes are asked at once.
const nodesPerChunk = 50

// maxBaseline bounds what every gate activity carries along.
const maxBaseline = 200

// operate runs a procedure from the first to the last event of its workflow:
// handlers, inventory, lock, preflight, [maintenance on], steps, [maintenance as found], report.
func operate(ctx workflow.Context, kind string, req operation.Request, batch string, p procedure) (*operation.Report, error) {
	info := workflow.GetInfo(ctx)
	r := &run{req: req, procedure: p, workflowID: info.WorkflowExecution.ID, index: map[string]int{}, lastTry: map[string]int{}, messages: workflow.NewWaitGroup(ctx)}
	if r.req.OperationID == "" {
		r.req.OperationID = operation.IDFromWorkflow(r.workflowID)
	}
	r.op = activities.Operation{ID: r.req.OperationID, Cluster: req.Cluster, WorkflowID: r.workflowID}
	r.report = operation.Report{OperationID: r.req.OperationID, WorkflowID: r.workflowID, Kind: kind, Cluster: req.Cluster, RequestedBy: req.RequestedBy,
		DryRun: req.DryRun, Batch: batch, StartedAt: stamp(ctx), Phase: operation.PhaseStarting, Nodes: []operation.NodeReport{}}
	if err := r.handlers(ctx); err != nil {
		return nil, err
	}
	if u, ok := p.(interface{ attach(*run) }); ok {
		u.attach(r)
	}
	r.refresh(ctx)

	failure := r.prepare(ctx, batch)
	r.judgePreflight(ctx, failure)
	if failure == nil && ctx.Err() == nil {
		if r.req.DryRun {
			failure = r.planOnly(ctx)
		} else {
			failure = r.work(ctx)
		}
	}
	return r.finish(ctx, failure)
}

// prepare freezes the inventory, takes the lock, asks all nodes everything that can be asked beforehand, and fences older operations.
func (r *run) prepare(ctx workflow.Context, batch string) *operation.Failure {
	problems := r.procedure.check()
	b, err := operation.ParseBatch(batch)
	if err != nil {
		problems = append(problems, err.Error())
	}
	if r.req.OnDeadline != "" && r.req.OnDeadline != operation.Abort && r.req.OnDeadline != operation.Skip {
		problems = append(problems, fmt.Sprintf("on-deadline %q: choose abort or skip", operation.Shorten(string(r.req.OnDeadline), 40)))
	}
	if len(problems) > 0 {
		return badInput(problems)
	}
	r.batch = b

	var inventory *activities.Inventory
	if err := workflow.ExecuteActivity(quick(ctx, "inventory"), inventory.Resolve, r.procedure.selection()).Get(ctx, &r.plan); err != nil {
		return operation.FailureOf(err)
	}
	if late := workflow.Now(ctx).Sub(workflow.GetInfo(ctx).WorkflowStartTime); r.req.StartWithin > 0 && late > r.req.StartWithin.D() {
		return &operation.Failure{Type: operation.ErrTooLate, Message: fmt.Sprintf(
			"no worker took the operation up within %s of its time: nothing was touched, start it again (katoflow schedule trigger)", r.req.StartWithin)}
	}
	for i, n := range r.plan.Nodes {
		r.index[n.Name] = i
		r.report.Nodes = append(r.report.Nodes, operation.NodeReport{Name: n.Name, Roles: n.Roles, Status: operation.NodePending})
	}
	r.report.Slots = r.batch.Of(len(r.plan.Nodes))
	if !r.req.DryRun {
		if err := r.acquireLock(ctx); err != nil {
			return operation.FailureOf(err)
		}
	}
	if p, ok := r.procedure.(interface {
		introduce(ctx workflow.Context) *operation.Failure
	}); ok {
		if f := p.introduce(ctx); f != nil {
			return f
		}
	}
	r.report.Message = "asking all nodes"
	r.refresh(ctx)
	if f := r.askAllNodes(ctx); f != nil {
		return f
	}
	if !r.req.DryRun {
		if f := r.fence(ctx); f != nil {
			return f
		}
	}
	r.report.Message = ""
	return nil
}

// chunk is a part of the nodes to work on and of the others.
type chunk struct{ nodes, others []string }

// chunks cuts all nodes of the cluster into pieces for one activity each.
func (r *run) chunks() []chunk {
	var out []chunk
	names := make([]string, len(r.plan.Nodes))
	for i, n := range r.plan.Nodes {
		names[i] = n.Name
	}
	others := r.plan.Others
	if len(r.strangers) > 0 {
		strange := func(name string) bool { return slices.Contains(r.strangers, name) }
		names, others = slices.DeleteFunc(names, strange), slices.DeleteFunc(slices.Clone(others), strange)
	}
	for part := range slices.Chunk(names, nodesPerChunk) {
		out = append(out, chunk{nodes: part})
	}
	for part := range slices.Chunk(others, nodesPerChunk) {
		if len(out) == 0 {
			out = append(out, chunk{})
		}
		if last := &out[len(out)-1]; len(last.nodes)+len(part) <= nodesPerChunk && len(last.others) == 0 {
			last.others = part
			continue
		}
		out = append(out, chunk{others: part})
	}
	return out
}

// askAllNodes is the preflight: every node in parallel, all problems at once, nothing changed.
func (r *run) askAllNodes(ctx workflow.Context) *operation.Failure {
	var nodes *activities.Nodes
	chunks := r.chunks()
	futures := make([]workflow.Future, len(chunks))
	wait := r.plan.UnreachableAfter
	away := r.mayBeAway()
	if away {
		wait = 0
	}
	for i, c := range chunks {
		futures[i] = workflow.ExecuteActivity(following(ctx, fmt.Sprintf("preflight of %d nodes", len(c.nodes)+len(c.others)), wait.D()+time.Hour), nodes.Preflight,
			activities.PreflightInput{Operation: r.op, Nodes: c.nodes, Others: c.others, PreflightNeeds: r.procedure.needs(), WaitForJobs: wait})
	}
	problems, warnings, err := r.procedure.ready(ctx)
	if err != nil {
		return operation.FailureOf(err)
	}
	r.report.Warnings = append(r.report.Warnings, warnings...)
	for _, f := range futures {
		var result activities.PreflightResult
		if err := f.Get(ctx, &result); err != nil {
			return operation.FailureOf(err)
		}
		for _, n := range result.Nodes {
			for _, p := range n.Problems {
				if away {
					r.report.Warnings = append(r.report.Warnings, n.Node+": "+p)
				} else {
					problems = append(problems, n.Node+": "+p)
				}
			}
			for _, w := range n.Warnings {
				r.report.Warnings = append(r.report.Warnings, n.Node+": "+w)
			}
			r.report.BrokenBefore = append(r.report.BrokenBefore, n.Broken...)
			if i, ok := r.index[n.Node]; ok {
				r.report.Nodes[i].Pending = n.Pending
				r.preflight.Pending += n.Pending
			}
		}
	}
	if broken := len(r.report.BrokenBefore); broken > maxBaseline {
		if !away {
			problems = append(problems, fmt.Sprintf("%d checks do not hold before the operation (at most %d can be carried along): mend the cluster first", broken, maxBaseline))
		}
		r.report.BrokenBefore = r.report.BrokenBefore[:maxBaseline]
	}
	if len(problems) > 0 {
		var places []string
		for _, p := range problems {
			if place, _, _ := strings.Cut(p, ": "); !slices.Contains(places, place) {
				places = append(places, place)
			}
		}
		where := ""
		if len(chunks) > 0 {
			where = " on " + count(len(places), "node")
		}
		changed := "nothing was changed"
		if r.touched {
			changed = "nothing else was changed than what the warnings say"
		}
		return &operation.Failure{Type: operation.ErrPreflight, Problems: bound(problems, 500), Message: fmt.Sprintf("%s%s: %s", count(len(problems), "problem"), where, changed)}
	}
	r.preflight.OperationID, r.preflight.WorkflowID, r.preflight.Nodes = r.req.OperationID, r.workflowID, len(r.plan.Nodes)
	r.preflight.BrokenBefore, r.preflight.Warnings = r.report.BrokenBefore, bound(r.report.Warnings, 100)
	r.report.Warnings = bound(r.report.Warnings, 100)
	if p, ok := r.procedure.(interface{ found() string }); ok {
		r.preflight.Found = p.found()
	}
	return nil
}

// mayBeAway reports whether the procedure mends a cluster whose nodes may be away or broken: what is wrong with them is told then, and stands in no way.
func (r *run) mayBeAway() bool {
	_, ok := r.procedure.(interface{ nodesMayBeAway() })
	return ok
}

// fence takes the lease of every node before anything is changed, so that an operation that was superseded can start nothing any more.
func (r *run) fence(ctx workflow.Context) *operation.Failure {
	var nodes *activities.Nodes
	chunks := r.chunks()
	futures := make([]workflow.Future, len(chunks))
	away := r.mayBeAway()
	for i, c := range chunks {
		if away {
			c.nodes, c.others = nil, slices.Concat(c.nodes, c.others)
		}
		futures[i] = workflow.ExecuteActivity(following(ctx, "leases", r.plan.UnreachableAfter.D()), nodes.Fence,
			activities.FenceInput{Operation: r.op, Nodes: c.nodes, Optional: c.others})
	}
	var problems []string
	for _, f := range futures {
		var result activities.FenceResult
		if err := f.Get(ctx, &result); err != nil {
			return operation.FailureOf(err)
		}
		for _, n := range result.Failed {
			if away {
				r.report.Warnings = append(r.report.Warnings, "could not be fenced: "+n.Failure.Message)
			} else {
				problems = append(problems, n.Failure.Message)
			}
		}
		for _, n := range result.Unreachable {
			r.report.Warnings = append(r.report.Warnings, n+": could not be fenced, because it cannot be reached; an older operation could still start a job there")
		}
	}
	if len(problems) > 0 {
		return &operation.Failure{Type: operation.ErrPreflight, Problems: bound(problems, 500),
			Message: fmt.Sprintf("%s could not be leased: nothing was changed", count(len(problems), "node"))}
	}
	return nil
}

// judgePreflight answers the update that the starter waits for. That it was refused it hears when the cluster has been let go, so that whoever mends what was wrong can begin again at once.
func (r *run) judgePreflight(ctx workflow.Context, failure *operation.Failure) {
	if ctx.Err() != nil && (failure == nil || failure.Type == operation.ErrCancelled) {
		failure = &operation.Failure{Type: operation.ErrCancelled, Message: "cancelled before anything was changed"}
	}
	r.preflightSettled, r.preflightFailure = failure == nil, failure
}

// planOnly is the end of a dry run.
func (r *run) planOnly(ctx workflow.Context) *operation.Failure {
	plans, err := r.procedure.dryRun(ctx)
	if err != nil {
		return operation.FailureOf(err)
	}
	r.report.Commands = plans
	for i := range r.report.Nodes {
		r.report.Nodes[i].Status = operation.NodePlanned
	}
	return nil
}

// work runs the steps, with maintenance mode on where that is asked for.
func (r *run) work(ctx workflow.Context) *operation.Failure {
	if f := r.keepLock(ctx); f != nil {
		return f
	}
	if !r.awaitWindow(ctx) {
		if p, ok := r.procedure.(interface{ notBegun(workflow.Context) }); ok {
			p.notBegun(ctx)
		}
		return r.lockFailure // aborted or cancelled
	}
	if r.procedure.wantsMaintenance() && !r.enterMaintenance(ctx) {
		return nil // aborted or cancelled; finish puts it back all the same
	}
	r.stepping = true
	r.refresh(ctx)
	r.procedure.steps(ctx)
	r.stepping = false
	return r.lockFailure
}

// goOn holds before a step while the operation is paused, and gets a lost lock back. The failure says why the operation cannot go on.
func (r *run) goOn(ctx workflow.Context) *operation.Failure {
	if err := workflow.Await(ctx, func() bool { return !r.report.Paused || r.aborting }); err != nil || ctx.Err() != nil || r.aborting { // Await does not look at ctx where its condition holds already
		return &operation.Failure{Type: operation.ErrCancelled, Message: "not begun"}
	}
	f := r.keepLock(ctx)
	if f != nil {
		r.lockFailure, r.aborting = f, true
	}
	return f
}

// finish puts back what was changed, whatever happened, and closes the operation with its report.
func (r *run) finish(ctx workflow.Context, failure *operation.Failure) (*operation.Report, error) {
	cancelled := ctx.Err() != nil
	ctx, _ = workflow.NewDisconnectedContext(ctx) // a second cancel must not interrupt the cleanup
	r.cleanup = true
	if r.lock != nil {
		r.refresh(ctx)
	}
	if !r.req.DryRun && (r.lock != nil || cancelled) {
		r.endFormer(ctx)
	}
	if r.readOnly {
		r.leaveMaintenance(ctx)
	}
	if p, ok := r.procedure.(interface{ release(ctx workflow.Context) }); ok {
		p.release(ctx)
	}
	r.releaseLock(ctx)
	r.preflightSettled = true

	for i := range r.report.Nodes {
		if r.report.Nodes[i].Status == operation.NodePending {
			r.report.Nodes[i].Status = operation.NodeUntouched
		}
	}
	r.report.EndedAt = stamp(ctx) // before the outcome, which carries the report of an operation that does not complete
	following, follows := r.next()
	if follows && (failure != nil || cancelled || r.aborting || r.report.Counts()[operation.NodeDone] != len(r.report.Nodes)) {
		follows = false
		r.warn(following.summary + " was not begun, because this operation has not done all that it was to do")
	}
	err := r.outcome(cancelled, failure)
	if follows && err == nil {
		r.goOnWith(ctx, following)
	}
	r.report.Questions, r.report.Paused = nil, false
	event := operation.EventDone
	if r.report.Phase != operation.PhaseDone {
		event = operation.EventFailed
	}
	r.notify(ctx, event)
	r.keepReport(ctx)
	r.messages.Wait(ctx)
	r.refresh(ctx)
	_ = workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }) // the context is never cancelled
	if err != nil {
		return nil, err
	}
	out := r.trimmed()
	return &out, nil
}

// outcome sets the final phase and message, and says how the workflow closes: only an operation whose every node is done completes.
func (r *run) outcome(cancelled bool, failure *operation.Failure) error {
	counts := r.report.Counts()
	total, done := len(r.report.Nodes), counts[operation.NodeDone]
	summary := fmt.Sprintf("%d of %s done", done, count(total, "node"))
	if p, ok := r.procedure.(interface{ outcomeText() string }); ok && total == 0 {
		summary = p.outcomeText()
	}
	if p, ok := r.procedure.(interface{ soFar() string }); ok && done == 0 {
		summary = p.soFar()
	}
	fell, _ := r.procedure.(interface{ fell() *operation.Failure })
	switch {
	case failure != nil && failure.Type != operation.ErrCancelled:
		r.report.Phase, r.report.Message, r.report.Failure = operation.PhaseFailed, failure.Message, failure
		return temporal.NewApplicationErrorWithOptions(failure.Message, failure.Type, temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{failure, r.trimmed()}})
	case cancelled:
		r.report.Phase, r.report.Message = operation.PhaseCancelled, "cancelled: "+summary
		return temporal.NewCanceledError(r.trimmed())
	case r.aborting:
		r.report.Phase, r.report.Message = operation.PhaseAborted, "aborted: "+summary
		return r.endedBadly(operation.ErrOperatorAbort)
	case r.req.DryRun:
		planned := count(total, "node")
		if r.report.Apps != nil {
			planned = count(r.report.Apps.Total, "app")
		}
		r.report.Phase, r.report.Message = operation.PhaseDone, fmt.Sprintf("dry run: %s planned, nothing was changed", planned)
		return nil
	case done != total:
		r.report.Phase, r.report.Message = operation.PhaseFailed, summary+", the others are not"
		return r.endedBadly(operation.ErrNodesFailed)
	case fell != nil && fell.fell() != nil:
		f := fell.fell()
		r.report.Phase, r.report.Message, r.report.Failure = operation.PhaseFailed, f.Message, f
		return temporal.NewApplicationErrorWithOptions(f.Message, f.Type, temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{f, r.trimmed()}})
	}
	if p, ok := r.procedure.(interface{ outcomeText() string }); ok && p.outcomeText() != "" {
		summary = p.outcomeText()
	}
	r.report.Phase, r.report.Message = operation.PhaseDone, summary
	return nil
}

// endedBadly is the failure that a closed workflow shows; its details are a Failure and the whole Report.
func (r *run) endedBadly(errorType string) error {
	f := operation.Failure{Type: errorType, Message: r.report.Message}
	r.report.Failure = &f
	return temporal.NewApplicationErrorWithOptions(f.Message, f.Type, temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{f, r.trimmed()}})
}

// maxReport is the size in bytes that a report is trimmed to; the server refuses payloads above 2 MiB, and an operation whose last one is refused
// would never end.
const maxReport = 512 << 10

// trimmed is the report as it closes the operation.
func (r *run) trimmed() operation.Report {
	out := r.report
	out.Questions, out.Paused = nil, false
	return trim(out)
}

// trim shortens a large report, the least useful first; what is left out is in the results of the nodes' own workflows.
func trim(report operation.Report) operation.Report {
	report.Nodes = slices.Clone(report.Nodes)
	report.Apps = trimApps(report.Apps)
	report.Patches = trimPatches(report.Patches)
	for _, shorten := range []func(n *operation.NodeReport){
		func(*operation.NodeReport) {},
		func(n *operation.NodeReport) { n.Failure = withoutTail(n.Failure, 512) },
		func(n *operation.NodeReport) { n.Changes = nil },
		func(n *operation.NodeReport) { n.Failure, n.Notes = withoutTail(n.Failure, 160), bound(n.Notes, 3) },
		func(n *operation.NodeReport) { n.Notes, n.Proof, n.Roles, n.Patches = nil, nil, nil, nil },
	} {
		for i := range report.Nodes {
			shorten(&report.Nodes[i])
		}
		if size(report) <= maxReport {
			return report
		}
	}
	report.BrokenBefore, report.Commands = report.BrokenBefore[:min(len(report.BrokenBefore), maxBaseline)], nil
	report.Warnings = bound(report.Warnings, 50)
	if len(report.Answers) > 500 {
		report.Answers = report.Answers[len(report.Answers)-500:]
	}
	if len(report.Questions) > 100 {
		report.Questions = report.Questions[:100]
	}
	return report
}

// trimPatches shortens the table of many patches on many nodes to 5 nodes each: the counts are of all.
func trimPatches(p *operation.PatchReport) *operation.PatchReport {
	if p == nil || len(p.Patches) <= 50 {
		return p
	}
	short := *p
	short.Patches = slices.Clone(p.Patches)
	for i := range short.Patches {
		k := &short.Patches[i]
		k.Installed, k.Missing, k.Description = k.Installed[:min(len(k.Installed), 5)], k.Missing[:min(len(k.Missing), 5)], oneLine(k.Description, 100)
	}
	return &short
}

// maxAppsTold is how many apps stand in a report; of more, those that are well are left out first, then those that were not touched.
const maxAppsTold = 1000

func trimApps(apps *operation.AppsReport) *operation.AppsReport {
	if apps == nil || len(apps.Apps) <= maxAppsTold {
		return apps
	}
	short := *apps
	well := func(r operation.AppResult) bool {
		return r.Outcome == operation.AppRunning || r.Outcome == operation.AppRestaged || r.Outcome == operation.AppStopped
	}
	short.Apps = slices.DeleteFunc(slices.Clone(apps.Apps), well)
	short.Apps = short.Apps[:min(len(short.Apps), maxAppsTold)]
	short.More += len(apps.Apps) - len(short.Apps)
	return &short
}

// size of a report as it is stored, in bytes, estimated from its texts: encoding a large one several times would hold the workflow up.
func size(report operation.Report) int {
	failure := func(f *operation.Failure) int {
		if f == nil {
			return 0
		}
		n := 100 + len(f.Type) + len(f.Message) + len(f.Tail)*5/4 + len(f.Job)
		for _, p := range f.Problems {
			n += len(p) + 4
		}
		return n
	}
	lines := func(list []string) int {
		n := 0
		for _, l := range list {
			n += len(l) + 4
		}
		return n
	}
	n := 2048 + failure(report.Failure) + lines(report.Warnings) + lines(report.LeftOut)
	if report.Patches != nil {
		for i := range report.Patches.Patches {
			p := &report.Patches.Patches[i]
			n += 200 + len(p.Name) + len(p.Description) + len(p.Severity) + lines(p.Roles) + lines(p.Installed) + lines(p.Missing)
		}
	}
	if report.Apps != nil {
		for i := range report.Apps.Apps {
			r := &report.Apps.Apps[i]
			n += 180 + len(r.Org) + len(r.Space) + len(r.Name) + len(r.Reason) + len(r.ToDo)
		}
	}
	for i := range report.Nodes {
		node := &report.Nodes[i]
		n += 300 + len(node.Name) + lines(node.Roles) + lines(node.Notes) + failure(node.Failure)
		if node.Patches != nil {
			n += 60 + lines(node.Patches.Wanted) + lines(node.Patches.Roles)
		}
		for _, c := range node.Changes {
			n += 40 + len(c.Name) + len(c.From) + len(c.To)
		}
		if node.Proof != nil {
			n += 400
		}
	}
	for i := range report.Questions {
		n += 300 + failure(&report.Questions[i].Cause)
	}
	for i := range report.Answers {
		n += 250 + len(report.Answers[i].Reason) + len(report.Answers[i].Node)
	}
	for i := range report.BrokenBefore {
		n += 40 + len(report.BrokenBefore[i].Node) + len(report.BrokenBefore[i].Check)
	}
	for i := range report.Commands {
		n += lines(report.Commands[i].Nodes) + 100
		for _, c := range report.Commands[i].Commands {
			n += 60 + len(c.Command) + len(c.Note)
		}
	}
	return n
}

// withoutTail is a failure without the output, and with a short message.
func withoutTail(f *operation.Failure, max int) *operation.Failure {
	if f == nil {
		return nil
	}
	short := *f
	short.Tail, short.Message, short.Problems = "", operation.Shorten(f.Message, max), bound(f.Problems, 50)
	return &short
}

// --- notifications -----------------------------------------------------------------------------------------------------------------------

// notify tells the site in the background; a site that cannot be told is a warning, never a failure.
func (r *run) notify(ctx workflow.Context, event string, asked ...operation.Question) {
	if r.req.DryRun || !slices.Contains(r.plan.NotifyOn, event) {
		return
	}
	r.sent++
	n := operation.Notification{Event: event, Cluster: r.req.Cluster, Kind: r.report.Kind, OperationID: r.req.OperationID, WorkflowID: r.workflowID,
		Message: r.report.Message, Questions: asked, ID: fmt.Sprintf("%s/%d", r.workflowID, r.sent)}
	if event == operation.EventParked {
		n.Message = r.headline()
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	r.messages.Add(1)
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer r.messages.Done()
		var notifier *activities.Notifier
		if err := workflow.ExecuteActivity(quick(ctx, "notify: "+event), notifier.Notify, n).Get(ctx, nil); err != nil {
			r.report.Warnings = append(r.report.Warnings, "notification ("+event+") was not delivered: "+operation.FailureOf(err).Message)
		}
	})
}

// keepReport stores the report in the cluster's bucket in the background; a bucket that does not take it is a warning, never a failure.
func (r *run) keepReport(ctx workflow.Context) {
	if r.req.DryRun || !r.plan.KeepReports {
		return
	}
	options := workflow.GetActivityOptions(quick(ctx, "keep the report in the bucket"))
	options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: time.Second, MaximumAttempts: 2}
	report := r.trimmed()
	r.messages.Add(1)
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer r.messages.Done()
		var archives *activities.Archives
		if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), archives.KeepReport, report).Get(ctx, nil); err != nil {
			r.report.Warnings = append(r.report.Warnings, "the report was not kept in the bucket: "+operation.FailureOf(err).Message)
		}
	})
}

// --- small things ------------------------------------------------------------------------------------------------------------------------

// stamp is the workflow's time, UTC, RFC 3339.
func stamp(ctx workflow.Context) string { return workflow.Now(ctx).UTC().Format(time.RFC3339) }

// badInput lists all problems of a request.
func badInput(problems []string) *operation.Failure {
	f := &operation.Failure{Type: operation.ErrBadInput, Message: problems[0], Problems: problems}
	if len(problems) > 1 {
		f.Message = fmt.Sprintf("%s; and %d more", problems[0], len(problems)-1)
	}
	return f
}

// count writes "1 node", "3 nodes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// bound keeps the first max lines and says how many are missing.
func bound(lines []string, max int) []string {
	if len(lines) <= max {
		return lines
	}
	return append(slices.Clone(lines[:max]), fmt.Sprintf("... and %d more", len(lines)-max))
}

// isCancel reports whether err only says that the operation is being cancelled.
func isCancel(err error) bool {
	var c *temporal.CanceledError
	return errors.As(err, &c)
}
