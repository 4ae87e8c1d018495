package workflows

// Restart of apps, or their redeployment ("then restart all apps" of the source page, and what is left to do after an import):
//
//  1. the apps that are meant are looked up, and that the Cloud Controller takes changes;
//  2. each app that is started is stopped and started, or staged anew and started, so many at once;
//  3. each is waited for until every instance runs.
//
// With maintenance windows no app is begun outside of them: when what is left of one is too short, the batches finish what they have begun and give the rest back, the cluster is let go, and
// new batches take the rest in the next window.
//
// An app that was stopped before stays so. An app that this operation has stopped is started again whatever happens: a failure, a cancel, an abort, a worker's
// death; where that cannot be done, the operation asks. The apps go in batches to child workflows (apps_batch.go), which keeps histories short.

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

// Apps is the operation workflow. It completes with the report when every app runs; otherwise it fails, or ends as cancelled, with the report in the details of
// its error.
func Apps(ctx workflow.Context, in operation.AppsInput) (*operation.Report, error) {
	kind := operation.KindAppsRestart
	if in.Action == operation.AppRestage {
		kind = operation.KindAppsRedeploy
	}
	return operate(ctx, kind, in.Request, "", &apps{in: in})
}

// AppsList returns the apps of a cluster.
func AppsList(ctx workflow.Context, in operation.AppsListInput) (operation.AppList, error) {
	var apps *activities.Apps
	var out operation.AppList
	err := workflow.ExecuteActivity(looking(ctx, "apps of "+in.Cluster), apps.ListApps, in).Get(ctx, &out)
	return out, err
}

type apps struct {
	*run
	in operation.AppsInput

	meant activities.SelectAppsResult
	// running are the batches under way.
	running []*appsChild
	batches int
	starts  int
	// before is what was handled in batches that have ended; the rest of the counts comes from their signals.
	before map[string]int
	place  map[string]int // by guid: where it stands in the report
	// asked are the apps left stopped that somebody was asked about, by guid; asking counts those questions.
	asked  map[string]bool
	asking workflow.WaitGroup
	// unasked: nobody is asked about apps left stopped, they are told.
	unasked bool
	// closing: what is left of the maintenance window is too short, and batches begin no further app. givenBack are those that they had not begun.
	closing   bool
	givenBack []operation.App
}

// appsChild is a batch under way.
type appsChild struct {
	number int
	workflow.ChildWorkflowFuture
	progress batchProgress
}

// batchProgress is what a batch tells its operation, as the signal signalProgress.
type batchProgress struct {
	Batch int `json:"batch"`
	// Counts of what became of its apps, by outcome.
	Counts map[string]int `json:"counts"`
	// Longest is what one of its apps has taken at most until it ran.
	Longest operation.Duration `json:"longest,omitempty"`
	// Stopped is an app that the batch could not start.
	Stopped *operation.AppResult `json:"stopped,omitempty"`
}

// batchControl is what an operation tells its batches, as the signal signalControl.
type batchControl struct {
	// Hold begins no further app until it is taken back; Stop begins none any more.
	Hold bool `json:"hold,omitempty"`
	Stop bool `json:"stop,omitempty"`
}

const (
	signalProgress = "apps-progress"
	signalControl  = "apps-control"
)

func (p *apps) attach(r *run) {
	p.run, p.before, p.place, p.asked = r, map[string]int{}, map[string]int{}, map[string]bool{}
	p.report.Apps = &operation.AppsReport{Action: p.in.Action, AtOnce: p.atOnce()}
}

func (p *apps) check() []string { return p.in.Check() }

func (p *apps) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: p.in.Cluster, InventoryDigest: p.in.InventoryDigest, NoNodes: true}
}

func (p *apps) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

// wantsMaintenance is false because no app can be started in it.
func (p *apps) wantsMaintenance() bool { return false }

func (p *apps) atOnce() int {
	if p.in.AtOnce > 0 {
		return p.in.AtOnce
	}
	return operation.DefaultAppsAtOnce
}

func (p *apps) timeout() operation.Duration {
	if p.in.AppTimeout > 0 {
		return p.in.AppTimeout
	}
	return operation.DefaultAppTimeout
}

// ready looks the apps up.
func (p *apps) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	var a *activities.Apps
	p.report.Slots = 0 // there are no nodes and no batch of them
	err = workflow.ExecuteActivity(looking(ctx, "the apps that are meant"), a.SelectApps, activities.SelectAppsInput{Operation: p.op, Apps: p.in.Apps, Only: p.in.Only}).Get(ctx, &p.meant)
	p.report.Apps.Total = len(p.meant.Apps) + len(p.meant.Stopped)
	return p.meant.Problems, append(p.meant.Warnings, p.setWindows(ctx, p.in.Window, operation.UnitApp)...), err
}

// found is what the starter says when the preflight has passed.
func (p *apps) found() string {
	text := fmt.Sprintf("%s to %s, %d at once", count(len(p.meant.Apps), "app"), p.in.Action, p.atOnce())
	if n := len(p.meant.Stopped); n > 0 {
		text += fmt.Sprintf("; %d stopped before and left so", n)
	}
	return text
}

// dryRun returns the calls to the Cloud Controller.
func (p *apps) dryRun(workflow.Context) ([]operation.CommandPlan, error) {
	names := make([]string, len(p.meant.Apps))
	for i, a := range p.meant.Apps {
		names[i] = a.String()
	}
	if len(names) == 0 {
		return nil, nil
	}
	start := operation.PlannedCommand{Step: "start", Command: `PUT /v2/apps/GUID {"state": "STARTED"}`}
	first := operation.PlannedCommand{Step: "stop", Command: `PUT /v2/apps/GUID {"state": "STOPPED"}`}
	if p.in.Action == operation.AppRestage {
		first = operation.PlannedCommand{Step: "restage", Command: "POST /v2/apps/GUID/restage"}
	}
	wait := operation.PlannedCommand{Step: "wait", Command: "GET /v2/apps/GUID/instances", Note: fmt.Sprintf("until all run, at most %s", p.timeout())}
	return []operation.CommandPlan{{Nodes: bound(names, 200), Commands: []operation.PlannedCommand{first, start, wait}}}, nil
}

func (p *apps) steps(ctx workflow.Context) {
	for _, app := range p.meant.Stopped {
		p.add(operation.AppResult{App: app, Outcome: operation.AppStopped})
	}
	p.begin(ctx)
	p.handle(ctx, p.meant.Apps)
	p.close(ctx)
}

// begin is before the first batch.
func (p *apps) begin(ctx workflow.Context) {
	p.asking = workflow.NewWaitGroup(ctx)
	p.listen(ctx)
}

// reopen takes back what was told of those apps that failed, and returns them: they are handled once more.
func (p *apps) reopen(all []operation.App) []operation.App {
	meant := map[string]bool{}
	for _, app := range all {
		meant[app.GUID] = true
	}
	var again []operation.App
	p.report.Apps.Apps = slices.DeleteFunc(p.report.Apps.Apps, func(r operation.AppResult) bool {
		if !meant[r.GUID] || r.Outcome != operation.AppFailed {
			return false
		}
		p.before[r.Outcome]--
		again = append(again, r.App)
		return true
	})
	p.place = map[string]int{}
	for i, r := range p.report.Apps.Apps {
		p.place[r.GUID] = i
	}
	return again
}

// close is after the last batch: when all questions are answered.
func (p *apps) close(ctx workflow.Context) {
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	p.asking.Wait(disconnected)
	slices.SortFunc(p.report.Apps.Apps, func(a, b operation.AppResult) int { return strings.Compare(a.String(), b.String()) })
	p.tally(ctx)
}

// add puts the end of an app into the report, in the place of what was there of it before.
func (p *apps) add(result operation.AppResult) {
	result.Reason, result.ToDo = oneLine(result.Reason, 300), oneLine(result.ToDo, 200)
	all := p.report.Apps.Apps
	if i, there := p.place[result.GUID]; there {
		p.before[all[i].Outcome]--
		all[i] = result
	} else {
		p.place[result.GUID] = len(all)
		p.report.Apps.Apps = append(all, result)
	}
	p.before[result.Outcome]++
}

// tally counts what is known of all apps.
func (p *apps) tally(ctx workflow.Context) {
	report := p.report.Apps
	report.Handled, report.Counts = 0, map[string]int{}
	for _, outcome := range outcomes() {
		n := p.before[outcome]
		for _, child := range p.running {
			n += child.progress.Counts[outcome]
		}
		if n > 0 {
			report.Counts[outcome] = n
			report.Handled += n
		}
	}
	p.refresh(ctx)
}

// outcomes of apps, in the order in which they are told.
func outcomes() []string {
	return []string{operation.AppRunning, operation.AppRestaged, operation.AppFailed, operation.AppGone, operation.AppStopped, operation.AppUntouched}
}

// appsSummary is "37 of 40 apps handled: 35 running, 2 failed".
func appsSummary(r *operation.AppsReport) string {
	text := fmt.Sprintf("%d of %s handled", r.Handled, count(r.Total, "app"))
	var parts []string
	for _, outcome := range outcomes() {
		if n := r.Counts[outcome]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, outcome))
		}
	}
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}

// listen takes what batches tell, and tells them of pauses and aborts.
func (p *apps) listen(ctx workflow.Context) {
	workflow.GoNamed(ctx, "progress", func(ctx workflow.Context) {
		told := workflow.GetSignalChannel(ctx, signalProgress)
		for {
			var progress batchProgress
			if told.Receive(ctx, &progress); ctx.Err() != nil {
				return
			}
			for _, child := range p.running {
				if child.number == progress.Batch {
					child.progress = progress
				}
			}
			p.windows.took(progress.Longest.D())
			if progress.Stopped != nil {
				p.leftStopped(ctx, []operation.AppResult{*progress.Stopped})
			}
			p.tally(ctx)
		}
	})
	workflow.GoNamed(ctx, "control", func(ctx workflow.Context) {
		said := batchControl{}
		for {
			if err := workflow.Await(ctx, func() bool { return said != p.control() }); err != nil {
				return // batches are cancelled with their operation
			}
			said = p.control()
			for _, child := range slices.Clone(p.running) {
				// A batch that has ended meanwhile has nothing to hold.
				_ = child.SignalChildWorkflow(ctx, signalControl, said).Get(ctx, nil)
			}
		}
	})
}

func (p *apps) control() batchControl {
	return batchControl{Hold: p.report.Paused, Stop: p.aborting || p.closing || p.lock != nil && p.lock.lost()}
}

// handle sees apps through in batches, so many apps at once in all of them together. It returns when every batch it has begun has ended.
func (p *apps) handle(ctx workflow.Context, all []operation.App) {
	lanes, size := split(len(all), p.atOnce())
	parallel := max(p.atOnce()/lanes, 1)
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	ended := workflow.NewWaitGroup(ctx)
	left := all
	var watched time.Time // end of the window that is watched
	watching, unwatch := workflow.WithCancel(ctx)
	defer unwatch()
	for len(left) > 0 || p.windows != nil && len(p.running)+len(p.givenBack) > 0 {
		idle := func() bool { return len(p.running) == 0 && len(left) == 0 }
		if p.windows != nil && !p.closing { // also while it is paused: the cluster is free outside of windows
			if ok, now := p.fits(ctx); ok && now.To != watched {
				watched = now.To
				workflow.GoNamed(watching, "window", func(ctx workflow.Context) { p.watchWindow(ctx, now) })
			}
		}
		// Await does not look at ctx where its condition holds already.
		if err := workflow.Await(ctx, func() bool {
			return p.aborting || p.closing || idle() || len(left) > 0 && len(p.running) < parallel && !p.report.Paused
		}); err != nil || ctx.Err() != nil || p.aborting {
			break
		}
		if p.windows != nil {
			if ok, _ := p.fits(ctx); p.closing || !ok || idle() {
				if left = p.betweenWindows(ctx, left); p.aborting || ctx.Err() != nil {
					break
				}
				lanes, size = split(len(left), p.atOnce())
				parallel = max(p.atOnce()/lanes, 1)
				watched = time.Time{} // it may be the same window, in which more fits than was thought
				continue
			}
		}
		if p.lock.lost() {
			p.lockFailure = p.keepLock(ctx)
			p.aborting = p.aborting || p.lockFailure != nil
			continue
		}
		part := left[:min(size, len(left))]
		left = left[len(part):]
		p.batches++
		child := &appsChild{number: p.batches}
		in := appsBatchInput{Operation: p.op, Batch: child.number, Action: p.in.Action, Apps: part, Lanes: lanes, Timeout: p.timeout(), Hold: p.report.Paused}
		child.ChildWorkflowFuture = p.child(ctx, batchName(in), in)
		if p.windows != nil && temporal.IsWorkflowExecutionAlreadyStartedError(child.GetChildWorkflowExecution().Get(ctx, nil)) {
			left = p.takeOver(ctx, slices.Concat(part, left))
			continue
		}
		p.running = append(p.running, child)
		ended.Add(1)
		workflow.GoNamed(ctx, fmt.Sprintf("batch %d", child.number), func(ctx workflow.Context) {
			defer ended.Done()
			results := p.results(ctx, child, in)
			p.running = slices.DeleteFunc(p.running, func(c *appsChild) bool { return c == child })
			var stopped []operation.AppResult
			for _, result := range results {
				if slices.Contains([]string{operation.AppRunning, operation.AppRestaged}, result.Outcome) {
					p.windows.took(result.Took.D())
				}
				switch {
				case result.LeftStopped:
					stopped = append(stopped, result)
				case p.windows != nil && result.Outcome == operation.AppUntouched:
					p.givenBack = append(p.givenBack, result.App)
				default:
					p.add(result)
				}
			}
			p.leftStopped(ctx, stopped)
			p.tally(ctx)
		})
	}
	ended.Wait(disconnected)
	for _, app := range append(left, p.givenBack...) {
		p.add(operation.AppResult{App: app, Outcome: operation.AppUntouched})
	}
}

// betweenWindows waits until every batch has ended and all questions are answered, and then until the next app may begin. It returns what is left to do; p.aborting or ctx.Err() say that it
// is not to be done.
func (p *apps) betweenWindows(ctx workflow.Context, left []operation.App) []operation.App {
	p.closing = true
	if err := workflow.Await(ctx, func() bool { return len(p.running) == 0 || p.aborting }); err != nil || p.aborting {
		return left
	}
	left, p.givenBack = append(p.givenBack, left...), nil
	if len(left) > 0 {
		disconnected, _ := workflow.NewDisconnectedContext(ctx)
		p.asking.Wait(disconnected)
		if !p.awaitWindow(ctx) {
			return left
		}
	}
	p.closing = false
	return left
}

// watchWindow has the batches begin no further app when what is left of a window is too short for one.
func (p *apps) watchWindow(ctx workflow.Context, now windowNow) {
	for {
		needs := p.windows.needs(now)
		left := now.To.Sub(workflow.Now(ctx)) - needs
		if left < 0 {
			p.closing = true
			return
		}
		// Apps may turn out to take longer.
		if _, err := workflow.AwaitWithTimeout(ctx, left+time.Second, func() bool { return p.windows.needs(now) > needs }); err != nil {
			return
		}
	}
}

// takeOver gathers what the batches of a former run of the operation, from the number of the last one on, have done before a reset, and returns what is left. What a batch has depends on when
// windows were open, so that it is not of the same apps again; those that it has not begun are ours.
func (p *apps) takeOver(ctx workflow.Context, left []operation.App) []operation.App {
	var apps *activities.Apps
	done := map[string]operation.AppResult{}
	for n := p.batches; ; n++ {
		id := operation.NodeWorkflowID(p.workflowID, batchName(appsBatchInput{Batch: n}))
		_ = workflow.SignalExternalWorkflow(ctx, id, "", signalControl, batchControl{Stop: true}).Get(ctx, nil) // it may have ended
		var results []operation.AppResult
		if err := workflow.ExecuteActivity(following(ctx, "take over what was begun before the reset", formerCeiling), apps.BatchResult, activities.BatchResultInput{WorkflowID: id}).Get(ctx, &results); err != nil {
			if ctx.Err() != nil {
				break
			}
			p.warn(fmt.Sprintf("what batch %d, begun before the reset, has done is not known: %s", n, operation.FailureOf(err).Message))
		} else if len(results) == 0 { // there is none
			break
		}
		p.batches = n
		for _, r := range results {
			if r.Outcome != operation.AppUntouched {
				done[r.GUID] = r
			}
		}
	}
	var stopped []operation.AppResult
	left = slices.DeleteFunc(left, func(app operation.App) bool {
		r, is := done[app.GUID]
		switch {
		case !is:
		case r.LeftStopped:
			stopped = append(stopped, r)
		default:
			p.add(r)
		}
		return is
	})
	p.leftStopped(ctx, stopped)
	p.tally(ctx)
	return left
}

// notBegun is the end of an operation that waited for its first window in vain.
func (p *apps) notBegun(ctx workflow.Context) {
	for _, app := range p.meant.Stopped {
		p.add(operation.AppResult{App: app, Outcome: operation.AppStopped})
	}
	for _, app := range p.meant.Apps {
		p.add(operation.AppResult{App: app, Outcome: operation.AppUntouched})
	}
	p.tally(ctx)
}

// results waits for a batch. One that a former run of the operation has begun, before a reset, is taken over when it is about the same apps; otherwise these are
// begun under another name. One that did not end as it should leaves everything open that it was about.
func (p *apps) results(ctx workflow.Context, child *appsChild, in appsBatchInput) []operation.AppResult {
	begun := ctx
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var results []operation.AppResult
	err := child.Get(ctx, &results)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		var apps *activities.Apps
		id := operation.NodeWorkflowID(p.workflowID, batchName(in))
		err = workflow.ExecuteActivity(following(ctx, "take over what was begun before the reset", formerCeiling), apps.BatchResult, activities.BatchResultInput{WorkflowID: id}).Get(ctx, &results)
		// What was only looked at is looked at again.
		if err == nil && (!sameApps(in.Apps, results) || in.Action == operation.AppAwait) {
			results = nil
			child.ChildWorkflowFuture = p.child(begun, fmt.Sprintf("%s-%.8s", batchName(in), workflow.GetInfo(ctx).WorkflowExecution.RunID), in)
			err = child.Get(ctx, &results)
		}
	}
	if err == nil {
		return results
	}
	f := operation.FailureOf(err)
	results = nil
	for _, app := range in.Apps {
		results = append(results, operation.AppResult{App: app, Outcome: operation.AppFailed, LeftStopped: in.Action == operation.AppRestart, Unsure: true,
			Reason: "its batch did not end as it should: " + f.Message, ToDo: "look whether it runs, and redeploy it"})
	}
	return results
}

// batchName is the name of a batch's child workflow.
func batchName(in appsBatchInput) string {
	if in.Action == operation.AppAwait {
		return fmt.Sprintf("await-%d", in.Batch)
	}
	return fmt.Sprintf("apps-%d", in.Batch)
}

// sameApps reports whether results are those of the apps.
func sameApps(all []operation.App, results []operation.AppResult) bool {
	return slices.EqualFunc(all, results, func(app operation.App, r operation.AppResult) bool { return app.GUID == r.GUID })
}

// split says how many apps a batch handles at a time, and how many it has, so that atOnce are handled in all batches together and no batch waits for another's last.
func split(apps, atOnce int) (lanes, size int) {
	lanes = max(1, min(atOnce, atOnce*operation.AppsPerBatch/max(apps, 1)))
	for atOnce%lanes != 0 { // none of those at once is lost between batches
		lanes--
	}
	parallel := max(atOnce/lanes, 1)
	// As many equal batches as there are at once, or a multiple of that.
	rounds := max(1, (apps+parallel*operation.AppsPerBatch-1)/(parallel*operation.AppsPerBatch))
	size = max(1, (apps+parallel*rounds-1)/(parallel*rounds))
	return lanes, min(size, operation.AppsPerBatch)
}

// child starts the child workflow of a batch.
func (p *apps) child(ctx workflow.Context, name string, in appsBatchInput) workflow.ChildWorkflowFuture {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:          operation.NodeWorkflowID(p.workflowID, name),
		WorkflowTaskTimeout: taskTimeout,
		WaitForCancellation: true,
		// After a reset what was done is found by its name.
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL, // an app that is stopped is still started
		StaticSummary:         fmt.Sprintf("%s of %s", in.Action, count(len(in.Apps), "app")),
	})
	return workflow.ExecuteChildWorkflow(ctx, AppsBatch, in)
}

// leftStopped asks about apps that the operation has stopped, or may have, and could not start: while the others go on, and also when it is paused, cancelled or
// aborted. It asks once for every app.
func (p *apps) leftStopped(ctx workflow.Context, results []operation.AppResult) {
	results = slices.DeleteFunc(slices.Clone(results), func(r operation.AppResult) bool { return p.asked[r.GUID] })
	if len(results) == 0 {
		return
	}
	if p.unasked {
		for _, r := range results {
			p.add(r)
		}
		return
	}
	for _, r := range results {
		p.asked[r.GUID] = true
	}
	p.asking.Add(1)
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "left stopped", func(ctx workflow.Context) {
		defer p.asking.Done()
		for try := 1; len(results) > 0; try++ {
			if p.ask(ctx, operation.ClusterNode, operation.StepStart, try, stoppedFailure(results), operation.Retry, operation.Leave) != operation.Retry {
				break
			}
			results = p.startAgain(ctx, results)
			p.tally(ctx)
		}
		for _, r := range results {
			p.add(r)
		}
		p.tally(ctx)
	})
}

// stoppedFailure is what is asked about.
func stoppedFailure(results []operation.AppResult) operation.Failure {
	names := make([]string, len(results))
	for i, r := range results {
		names[i] = r.String()
	}
	first := results[0]
	what := "stopped by this operation and not started again"
	if first.Unsure {
		what = "perhaps stopped by this operation"
	}
	text := first.String() + " " + what
	if len(results) > 1 {
		text = fmt.Sprintf("%s and %d more %s", first.String(), len(results)-1, what)
	}
	return operation.Failure{Type: operation.ErrApp, Problems: bound(names, 50), Message: oneLine(text+": "+first.Reason, 1000)}
}

// startAgain starts apps that were left stopped, and returns those that still are.
func (p *apps) startAgain(ctx workflow.Context, results []operation.AppResult) (left []operation.AppResult) {
	p.starts++
	in := appsBatchInput{Operation: p.op, Action: operation.AppStart, Lanes: min(len(results), operation.DefaultAppsAtOnce), Timeout: p.timeout()}
	for _, r := range results {
		in.Apps = append(in.Apps, r.App)
	}
	var again []operation.AppResult
	err := p.child(ctx, fmt.Sprintf("start-%d-%.8s", p.starts, workflow.GetInfo(ctx).WorkflowExecution.RunID), in).Get(ctx, &again)
	if err != nil || !sameApps(in.Apps, again) {
		return results
	}
	for i, r := range again {
		r.Unsure = results[i].Unsure
		switch {
		case r.LeftStopped:
			left = append(left, r)
			continue
		case r.Outcome == operation.AppRunning && r.Unsure:
			r.Outcome, r.Reason, r.ToDo = operation.AppFailed, "it runs; whether it was restarted is not known: "+results[i].Reason, "restart it"
		}
		r.Unsure = false
		p.add(r)
	}
	return left
}

// former are the names of all batches that a former run can have begun.
func (p *apps) former() []string {
	var ids []string
	for n := range operation.MaxApps / operation.AppsPerBatch * 2 {
		ids = append(ids, operation.NodeWorkflowID(p.workflowID, fmt.Sprintf("apps-%d", n+1)))
	}
	return ids
}

// outcomeText is the message of an operation that ended well, and what any other is about.
func (p *apps) outcomeText() string { return appsSummary(p.report.Apps) }

// fell says that some apps do not run.
func (p *apps) fell() *operation.Failure {
	if p.report.Apps.Counts[operation.AppFailed]+p.report.Apps.Counts[operation.AppUntouched] == 0 {
		return nil
	}
	f := &operation.Failure{Type: operation.ErrAppsFailed, Message: appsSummary(p.report.Apps)}
	for _, r := range p.report.Apps.Apps {
		if r.Outcome == operation.AppFailed {
			f.Problems = append(f.Problems, r.String()+": "+r.Reason)
		}
	}
	f.Problems = bound(f.Problems, 50)
	return f
}

// appsCeiling bounds the wait for one app, beside its own timeout: attempts of dead workers count in it.
func appsCeiling(timeout operation.Duration) time.Duration { return timeout.D() + time.Hour }
