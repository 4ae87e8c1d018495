package workflows

// Restart of apps, or their redeployment ("then restart all apps" of the source page, and what is left to do after an import):
//
//  1. the apps that are meant are looked up, and that the Cloud Controller takes changes;
//  2. each app that is started is stopped and started, or staged anew and started, so many at once;
//  3. each is waited for until every instance runs.
//
// An app that was stopped before stays so. An app that this operation has stopped is started again whatever happens: a failure, a cancel, an abort, a worker's
// death; where that cannot be done, the operation asks. The apps go in batches to child workflows (apps_batch.go), which keeps histories short.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
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
	// before is what was handled in batches that have ended; the rest of the counts comes from their signals.
	before map[string]int
	place  map[string]int // by guid: where it stands in the report
	tries  int
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
	p.run, p.before, p.place = r, map[string]int{}, map[string]int{}
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
	err = workflow.ExecuteActivity(looking(ctx, "the apps that are meant"), a.SelectApps, activities.SelectAppsInput{Operation: p.op, Apps: p.in.Apps}).Get(ctx, &p.meant)
	p.report.Apps.Total = len(p.meant.Apps) + len(p.meant.Stopped)
	return p.meant.Problems, p.meant.Warnings, err
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
	p.listen(ctx)
	p.handle(ctx, p.in.Action, p.meant.Apps)
	p.startLeftStopped(ctx)
	slices.SortFunc(p.report.Apps.Apps, func(a, b operation.AppResult) int { return strings.Compare(a.String(), b.String()) })
	p.tally(ctx)
}

// add puts the end of an app into the report, in the place of what was there of it before.
func (p *apps) add(result operation.AppResult) {
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
					p.tally(ctx)
				}
			}
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

func (p *apps) control() batchControl { return batchControl{Hold: p.report.Paused, Stop: p.aborting} }

// handle sees apps through in batches, so many apps at once in all of them together. It returns when every batch it has begun has ended.
func (p *apps) handle(ctx workflow.Context, action operation.AppAction, all []operation.App) {
	lanes, size := split(len(all), p.atOnce())
	parallel := max(p.atOnce()/lanes, 1)
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	ended := workflow.NewWaitGroup(ctx)
	left := all
	for len(left) > 0 {
		if err := workflow.Await(ctx, func() bool { return p.aborting || len(p.running) < parallel && !p.report.Paused }); err != nil || ctx.Err() != nil || p.aborting {
			break
		}
		if p.lock.lost() {
			p.lockFailure = p.keepLock(ctx)
			p.aborting = p.aborting || p.lockFailure != nil
			continue
		}
		part := left[:min(size, len(left))]
		left = left[len(part):]
		p.batches++
		child := &appsChild{number: p.batches, ChildWorkflowFuture: p.begin(ctx, p.batches, action, part, lanes)}
		p.running = append(p.running, child)
		ended.Add(1)
		workflow.GoNamed(ctx, fmt.Sprintf("batch %d", child.number), func(ctx workflow.Context) {
			defer ended.Done()
			disconnected, _ := workflow.NewDisconnectedContext(ctx)
			var results []operation.AppResult
			err := child.Get(disconnected, &results)
			p.running = slices.DeleteFunc(p.running, func(c *appsChild) bool { return c == child })
			if err != nil {
				f := operation.FailureOf(err)
				results = nil
				for _, app := range part {
					results = append(results, operation.AppResult{App: app, Outcome: operation.AppFailed, LeftStopped: true,
						Reason: oneLine("its batch did not end as it should: "+f.Message, 300)})
				}
			}
			for _, result := range results {
				p.add(result)
			}
			p.tally(disconnected)
		})
	}
	ended.Wait(disconnected)
	for _, app := range left {
		if action != operation.AppStart {
			p.add(operation.AppResult{App: app, Outcome: operation.AppUntouched})
		}
	}
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

// begin starts the child workflow of a batch.
func (p *apps) begin(ctx workflow.Context, batch int, action operation.AppAction, part []operation.App, lanes int) workflow.ChildWorkflowFuture {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:          operation.NodeWorkflowID(p.workflowID, fmt.Sprintf("apps-%d", batch)),
		WorkflowTaskTimeout: taskTimeout,
		WaitForCancellation: true,
		ParentClosePolicy:   enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL, // an app that is stopped is still started
		StaticSummary:       fmt.Sprintf("%s of %s", action, count(len(part), "app")),
	})
	return workflow.ExecuteChildWorkflow(ctx, AppsBatch, appsBatchInput{Operation: p.op, Batch: batch, Action: action, Apps: part, Lanes: lanes, Timeout: p.timeout(), Hold: p.report.Paused})
}

// startLeftStopped asks what to do with apps that the operation has stopped and could not start, until there is none or somebody leaves them.
func (p *apps) startLeftStopped(ctx workflow.Context) {
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	for {
		var stopped []operation.App
		reason := ""
		for _, r := range p.report.Apps.Apps {
			if r.LeftStopped {
				stopped, reason = append(stopped, r.App), r.Reason
			}
		}
		if len(stopped) == 0 {
			return
		}
		names := make([]string, len(stopped))
		for i, app := range stopped {
			names[i] = app.String()
		}
		p.tries++
		f := operation.Failure{Type: operation.ErrApp, Problems: bound(names, 50),
			Message: oneLine(fmt.Sprintf("%s stopped by this operation and not started again, as %s: %s", count(len(stopped), "app"), names[0], reason), 1000)}
		if p.ask(disconnected, operation.ClusterNode, operation.StepStart, p.tries, f, operation.Retry, operation.Leave) != operation.Retry {
			return
		}
		aborting := p.aborting
		p.aborting = false
		p.handle(disconnected, operation.AppStart, stopped)
		p.aborting = aborting
	}
}

// outcomeText is the message of an operation that ended well, and what any other is about.
func (p *apps) outcomeText() string { return appsSummary(p.report.Apps) }

// fell says that some apps do not run.
func (p *apps) fell() *operation.Failure {
	failed := p.report.Apps.Counts[operation.AppFailed]
	if failed == 0 {
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
