package workflows

// One batch of apps: so many at a time, each
//
//  1. stopped, or staged anew;
//  2. started, whatever became of step 1 and of the operation;
//  3. waited for until every instance runs.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

type appsBatchInput struct {
	Operation activities.Operation `json:"operation"`
	Batch     int                  `json:"batch"`
	Action    operation.AppAction  `json:"action"`
	Apps      []operation.App      `json:"apps"`
	// Lanes is how many apps are handled at a time.
	Lanes   int                `json:"lanes"`
	Timeout operation.Duration `json:"timeout"`
	// Hold: the operation is paused as the batch begins.
	Hold bool `json:"hold,omitempty"`
}

type appsBatch struct {
	in      appsBatchInput
	results []operation.AppResult
	doing   []string // by app: what it is at, "" before and after
	counts  map[string]int
	handled int
	control batchControl
	told    int // how many were handled when the operation was last told
	longest operation.Duration
}

// AppsBatch handles a batch of apps and returns what became of each, in their order. It never fails for an app.
func AppsBatch(ctx workflow.Context, in appsBatchInput) ([]operation.AppResult, error) {
	b := &appsBatch{in: in, results: make([]operation.AppResult, len(in.Apps)), doing: make([]string, len(in.Apps)), counts: map[string]int{}, control: batchControl{Hold: in.Hold}}
	for i, app := range in.Apps {
		b.results[i] = operation.AppResult{App: app, Outcome: operation.AppUntouched}
	}
	workflow.GoNamed(ctx, "control", func(ctx workflow.Context) {
		for {
			var control batchControl
			if workflow.GetSignalChannel(ctx, signalControl).Receive(ctx, &control); ctx.Err() != nil {
				return
			}
			b.control = control
			b.show(ctx)
			b.tell(ctx, nil) // who pauses wants to know how far it is
		}
	})
	next := 0
	lanes := workflow.NewWaitGroup(ctx)
	for lane := range max(in.Lanes, 1) {
		lanes.Add(1)
		workflow.GoNamed(ctx, fmt.Sprintf("lane %d", lane+1), func(ctx workflow.Context) {
			defer lanes.Done()
			for {
				// Await does not look at ctx where its condition holds already.
				if err := workflow.Await(ctx, func() bool { return !b.control.Hold || b.control.Stop || next == len(in.Apps) }); err != nil || ctx.Err() != nil || b.control.Stop || next == len(in.Apps) {
					return
				}
				i := next
				next++
				b.app(ctx, i)
			}
		})
	}
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	lanes.Wait(disconnected)
	b.show(disconnected)
	return b.results, nil
}

// app sees one app through.
func (b *appsBatch) app(ctx workflow.Context, i int) {
	began := workflow.Now(ctx)
	r := &b.results[i]
	end := b.handle(ctx, i)
	r.Outcome, r.LeftStopped, r.Unsure, r.Took = end.outcome, end.leftStopped, end.unsure, operation.Duration(workflow.Now(ctx).Sub(began))
	if end.failure != nil {
		r.Reason, r.ToDo = oneLine(end.failure.Message, 300), toDo(end.failure.Type, end.leftStopped)
	}
	if end.failure == nil {
		b.longest = max(b.longest, r.Took)
	}
	b.doing[i] = ""
	b.handled++
	b.counts[end.outcome]++
	b.show(ctx)
	switch {
	case r.LeftStopped:
		b.tell(ctx, r) // at once: somebody may start it
	case b.handled-b.told >= max(1, len(b.in.Apps)/tellTimes):
		b.tell(ctx, nil)
	}
}

// appEnd is what became of an app. leftStopped: it was stopped here, or may have been (unsure), and could not be started.
type appEnd struct {
	outcome             string
	failure             *operation.Failure
	leftStopped, unsure bool
}

// leastPatience is how long the start of an app is tried at least: longer than its own timeout, because the app is away meanwhile.
const leastPatience = operation.Duration(15 * time.Minute)

// handle does what is wanted with an app.
func (b *appsBatch) handle(ctx workflow.Context, i int) appEnd {
	var apps *activities.Apps
	app := b.in.Apps[i]
	do := func(ctx workflow.Context, what string, activity any, timeout operation.Duration) *operation.Failure {
		b.doing[i] = what
		b.show(ctx)
		return operation.FailureOf(workflow.ExecuteActivity(following(ctx, what+" "+oneLine(app.String(), 200), appsCeiling(timeout)), activity,
			activities.AppInput{Operation: b.in.Operation, App: app, Timeout: timeout}).Get(ctx, nil))
	}
	// From here on the app is away: what is begun is ended in a context that nobody cancels.
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	done := operation.AppRunning
	var first *operation.Failure
	switch b.in.Action {
	case operation.AppRestart:
		first = do(disconnected, "stop", apps.StopApp, b.in.Timeout)
	case operation.AppRestage:
		done = operation.AppRestaged
		first = do(disconnected, "restage", apps.RestageApp, b.in.Timeout)
	}
	if first != nil {
		switch first.Type {
		case operation.ErrAppGone:
			return appEnd{outcome: operation.AppGone, failure: first}
		case operation.ErrAppRefused:
			return appEnd{outcome: operation.AppFailed, failure: first}
		}
		// Whether it is stopped is not known: starting what runs changes nothing.
	}
	if b.in.Action == operation.AppAwait {
		// Nothing was changed here, so that nothing is to be put back.
	} else if f := do(disconnected, "start", apps.StartApp, max(b.in.Timeout, leastPatience)); f != nil {
		if f.Type == operation.ErrAppGone {
			return appEnd{outcome: operation.AppGone, failure: f}
		}
		// A restage that was carried out has started the app.
		return appEnd{outcome: operation.AppFailed, failure: f, leftStopped: b.in.Action != operation.AppRestage || first != nil, unsure: first != nil}
	}
	if first != nil {
		return appEnd{outcome: operation.AppFailed, failure: first}
	}
	if f := do(ctx, "wait for", apps.AwaitApp, b.in.Timeout); f != nil {
		switch {
		case f.Type == operation.ErrAppGone:
			return appEnd{outcome: operation.AppGone, failure: f}
		case ctx.Err() != nil:
			return appEnd{outcome: operation.AppFailed, failure: &operation.Failure{Type: operation.ErrCancelled, Message: "it was started, and not waited for because the operation was cancelled"}}
		}
		stopped := f.Type == operation.ErrAppStopped && b.in.Action != operation.AppAwait
		return appEnd{outcome: operation.AppFailed, failure: f, leftStopped: stopped, unsure: stopped}
	}
	return appEnd{outcome: done}
}

// toDo is what the owner of an app has to do.
func toDo(errorType string, leftStopped bool) string {
	switch {
	case leftStopped:
		return "start it"
	case errorType == operation.ErrApp:
		return "see its log (helion logs APP), correct it, and push or restage it"
	case errorType == operation.ErrCancelled:
		return "look whether it runs"
	case errorType == operation.ErrAppRefused, errorType == operation.ErrController:
		return "nothing: ask the cluster's administrator to try again"
	}
	return ""
}

// tellTimes is about how often a batch tells its operation how far it is: each time is an event in the operation's history.
const tellTimes = 5

// tell lets the operation know how far the batch is, and of an app that is left stopped. The last word is the batch's result.
func (b *appsBatch) tell(ctx workflow.Context, stopped *operation.AppResult) {
	parent := workflow.GetInfo(ctx).ParentWorkflowExecution
	if parent == nil || stopped == nil && b.handled == len(b.in.Apps) {
		return
	}
	b.told = b.handled
	counts := map[string]int{}
	for _, outcome := range outcomes() {
		if n := b.counts[outcome]; n > 0 {
			counts[outcome] = n
		}
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	// Nobody waits for it: an operation that has ended needs to know nothing. Without the run's id it reaches the operation after a reset, too.
	workflow.SignalExternalWorkflow(ctx, parent.ID, "", signalProgress, batchProgress{Batch: b.in.Batch, Counts: counts, Longest: b.longest, Stopped: stopped})
}

// show is the batch in the Web UI: what is under way, and what is not well.
func (b *appsBatch) show(ctx workflow.Context) {
	var text strings.Builder
	fmt.Fprintf(&text, "**%s**: %d of %s handled", b.in.Action, b.handled, count(len(b.in.Apps), "app"))
	if b.control.Hold {
		text.WriteString(", held")
	}
	text.WriteString("\n\n| app | what | remark |\n|---|---|---|\n")
	for i := range b.results {
		r := &b.results[i]
		switch {
		case b.doing[i] != "":
			fmt.Fprintf(&text, "| %s | %s | |\n", cell(r.String(), 160), b.doing[i])
		case slices.Contains([]string{operation.AppFailed, operation.AppGone}, r.Outcome):
			fmt.Fprintf(&text, "| %s | %s | %s |\n", cell(r.String(), 160), r.Outcome, cell(r.Reason, 160))
		}
	}
	workflow.SetCurrentDetails(ctx, operation.Shorten(text.String(), maxDetails))
}
