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
	toldAt  time.Time
}

// AppsBatch handles a batch of apps and returns what became of each, in their order. It never fails for an app.
func AppsBatch(ctx workflow.Context, in appsBatchInput) ([]operation.AppResult, error) {
	b := &appsBatch{in: in, results: make([]operation.AppResult, len(in.Apps)), doing: make([]string, len(in.Apps)), counts: map[string]int{}, control: batchControl{Hold: in.Hold},
		toldAt: workflow.Now(ctx)}
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
				if err := workflow.Await(ctx, func() bool { return !b.control.Hold || b.control.Stop }); err != nil || ctx.Err() != nil || b.control.Stop || next == len(in.Apps) {
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
	outcome, failure, leftStopped := b.handle(ctx, i)
	r.Outcome, r.LeftStopped, r.Took = outcome, leftStopped, operation.Duration(workflow.Now(ctx).Sub(began))
	if failure != nil {
		r.Reason, r.ToDo = oneLine(failure.Message, 300), toDo(failure.Type, leftStopped)
	}
	b.doing[i] = ""
	b.handled++
	b.counts[outcome]++
	b.show(ctx)
	b.tell(ctx)
}

// handle does what is wanted with an app, and says what became of it. leftStopped: it was stopped here and could not be started.
func (b *appsBatch) handle(ctx workflow.Context, i int) (outcome string, failure *operation.Failure, leftStopped bool) {
	var apps *activities.Apps
	app := b.in.Apps[i]
	in := activities.AppInput{Operation: b.in.Operation, App: app, Timeout: b.in.Timeout}
	do := func(ctx workflow.Context, what string, activity any) *operation.Failure {
		b.doing[i] = what
		b.show(ctx)
		return operation.FailureOf(workflow.ExecuteActivity(following(ctx, what+" "+oneLine(app.String(), 200), appsCeiling(b.in.Timeout)), activity, in).Get(ctx, nil))
	}
	// From here on the app is away: what is begun is ended in a context that nobody cancels.
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	done := operation.AppRunning
	var first *operation.Failure
	switch b.in.Action {
	case operation.AppRestart:
		first = do(disconnected, "stop", apps.StopApp)
	case operation.AppRestage:
		done = operation.AppRestaged
		first = do(disconnected, "restage", apps.RestageApp)
	}
	if first != nil {
		switch first.Type {
		case operation.ErrAppGone:
			return operation.AppGone, first, false
		case operation.ErrAppRefused:
			return operation.AppFailed, first, false
		}
		// Whether it is stopped is not known: starting what runs changes nothing.
	}
	if f := do(disconnected, "start", apps.StartApp); f != nil {
		if f.Type == operation.ErrAppGone {
			return operation.AppGone, f, false
		}
		return operation.AppFailed, f, b.in.Action != operation.AppRestage
	}
	if first != nil {
		return operation.AppFailed, first, false
	}
	if f := do(ctx, "wait for", apps.AwaitApp); f != nil {
		switch {
		case f.Type == operation.ErrAppGone:
			return operation.AppGone, f, false
		case ctx.Err() != nil:
			return operation.AppFailed, &operation.Failure{Type: operation.ErrCancelled, Message: "it was started, and not waited for because the operation was cancelled"}, false
		}
		return operation.AppFailed, f, false
	}
	return done, nil, false
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

const (
	// The operation is told after so many apps, or after so long.
	tellEvery = 10
	tellAfter = 5 * time.Second
)

// tell lets the operation know how far the batch is. The last word is the batch's result.
func (b *appsBatch) tell(ctx workflow.Context) {
	now := workflow.Now(ctx)
	parent := workflow.GetInfo(ctx).ParentWorkflowExecution
	if parent == nil || b.handled == len(b.in.Apps) || b.handled-b.told < tellEvery && now.Sub(b.toldAt) < tellAfter {
		return
	}
	b.told, b.toldAt = b.handled, now
	counts := map[string]int{}
	for _, outcome := range outcomes() {
		if n := b.counts[outcome]; n > 0 {
			counts[outcome] = n
		}
	}
	// Nobody waits for it: an operation that has ended needs to know nothing.
	workflow.SignalExternalWorkflow(ctx, parent.ID, parent.RunID, signalProgress, batchProgress{Batch: b.in.Batch, Counts: counts})
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
