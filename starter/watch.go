package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/screen"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// watcher follows an operation by its query until it closes. It outlives every outage of server and worker; only its context ends it.
type watcher struct {
	server     *server
	workflowID string
	display    display
	now        func() time.Time
	every      time.Duration
	// starting: the operation may not be there yet.
	starting bool

	last *operation.Report
	// steps of the nodes in work, as they were at stepsAt, and at the time before.
	steps, stale map[string]operation.NodeStep
	stepsAt      time.Time
	// beat is what the step of an export last said of itself, as it was at beatAt.
	beat   string
	beatAt time.Time
	// troubled since; zero while all is well.
	since   time.Time
	trouble string
}

// display is where a watched operation is shown.
type display interface {
	// show is called at every look, with the same report again when nothing could be learned. notice is what is wrong at the moment.
	show(r *operation.Report, notice string)
	// close leaves the place in order; what was shown last stays when keep is set.
	close(keep bool)
}

// Times of a look.
const (
	lookTimeout     = 4 * time.Second
	describeTimeout = 2 * time.Second
)

// run returns nil when the operation has closed, errGone when there is none, else the context's error.
func (w *watcher) run(ctx context.Context) error {
	for {
		closed, err := w.look(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errGone) && !w.starting:
			return err
		case closed:
			return nil
		}
		if w.last != nil || w.trouble != "" {
			w.display.show(w.last, w.notice())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(w.every):
		}
	}
}

func (w *watcher) notice() string {
	if w.trouble == "" {
		return ""
	}
	return fmt.Sprintf("%s for %s, retrying", w.trouble, w.now().Sub(w.since).Round(time.Second))
}

// look asks once.
func (w *watcher) look(ctx context.Context) (closed bool, err error) {
	qctx, cancel := context.WithTimeout(ctx, lookTimeout)
	report, closed, err := w.server.ask(qctx, w.workflowID)
	cancel()
	if err != nil {
		if errors.Is(err, errGone) || ctx.Err() != nil {
			return false, err
		}
		var trouble string
		closed, trouble = w.diagnose(ctx, err)
		if w.trouble == "" && trouble != "" {
			w.since = w.now()
		}
		w.trouble = trouble
		return closed, err
	}
	w.starting = false
	w.trouble = ""
	if closed {
		return true, nil
	}
	w.addSteps(ctx, report)
	w.addBeat(ctx, report)
	w.last = report
	return false, nil
}

// diagnose tells a server that cannot be reached from a worker that does not answer.
func (w *watcher) diagnose(ctx context.Context, cause error) (closed bool, trouble string) {
	var refused *serviceerror.QueryFailed
	if errors.As(cause, &refused) {
		return false, "the worker cannot answer (" + oneLine(refused.Error()) + ")"
	}
	dctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, err := w.server.DescribeWorkflowExecution(dctx, w.workflowID, "")
	switch {
	case err == nil && d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return true, ""
	case err == nil:
		return false, "no worker answers"
	case unreachable(err):
		return false, "server unreachable"
	}
	return false, "server answers with an error (" + oneLine(err.Error()) + ")"
}

// mostSteps bounds how many nodes are asked for their step at one look; stepsEvery is how often they are.
const (
	mostSteps  = 32
	stepsEvery = time.Second
)

// addSteps puts into the report at which step each node in work is, which the nodes' own workflows know.
func (w *watcher) addSteps(ctx context.Context, r *operation.Report) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if again := w.now().Sub(w.stepsAt) >= stepsEvery; again {
		w.stepsAt, w.stale = w.now(), w.steps
		w.steps = map[string]operation.NodeStep{}
	}
	var asked []string
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if _, known := w.steps[n.Name]; n.Status == operation.NodeRunning && !known && len(asked) < mostSteps {
			asked = append(asked, n.Name)
		}
	}
	var group errgroup.Group
	group.SetLimit(8)
	answers := make([]*operation.NodeStep, len(asked))
	for i, node := range asked {
		group.Go(func() error {
			answers[i] = w.step(ctx, node)
			return nil
		})
	}
	_ = group.Wait() // a node that does not answer is no error
	for i, node := range asked {
		if answers[i] != nil {
			w.steps[node] = *answers[i]
		} else if old, ok := w.stale[node]; ok { // it is still where it was seen last
			w.steps[node] = old
		}
	}
	for i := range r.Nodes {
		if step, ok := w.steps[r.Nodes[i].Name]; ok && r.Nodes[i].Status == operation.NodeRunning {
			r.Nodes[i].Step, r.Nodes[i].Try = step.Step, step.Try
		}
	}
}

// beatEvery is how often an export is asked how far its step is: the server hears of it about as often.
const beatEvery = 5 * time.Second

// addBeat puts into the report of an export how far its step is, which takes an hour where nothing else changes. The activity at work knows it.
func (w *watcher) addBeat(ctx context.Context, r *operation.Report) {
	if !operation.OnOneNode(r.Kind) || len(r.Nodes) != 1 || r.Nodes[0].Status != operation.NodeRunning {
		w.beat = ""
		return
	}
	n := &r.Nodes[0]
	if w.now().Sub(w.beatAt) >= beatEvery || w.last != nil && len(w.last.Nodes) == 1 && w.last.Nodes[0].Step != n.Step {
		w.beatAt = w.now()
		ctx, cancel := context.WithTimeout(ctx, describeTimeout)
		defer cancel()
		if d, err := w.server.DescribeWorkflowExecution(ctx, w.workflowID, ""); err == nil {
			w.beat = beatOf(d.GetPendingActivities())
		}
	}
	if w.beat != "" {
		n.Notes = append(n.Notes, w.beat)
	}
}

// beatOf is what the activity of an export's step says; "" when none is at work.
func beatOf(pending []*workflowpb.PendingActivityInfo) string {
	for _, p := range pending {
		switch p.GetActivityType().GetName() {
		case "PrepareExport", "Export", "CheckArchive", "Transfer", "Place", "TidyExport", "PrepareImport", "PrepareSource", "EmptyScratch", "Fetch", "Import", "Restored", "KeepRehearsal":
			var beat activities.Beat
			if converter.GetDefaultDataConverter().FromPayloads(p.GetHeartbeatDetails(), &beat) == nil {
				return oneLine(beat.Phase)
			}
		}
	}
	return ""
}

// step asks the workflow of a node; nil when it does not answer.
func (w *watcher) step(ctx context.Context, node string) *operation.NodeStep {
	answer, err := w.server.QueryWorkflowWithOptions(ctx, &client.QueryWorkflowWithOptionsRequest{
		WorkflowID: operation.NodeWorkflowID(w.workflowID, node), QueryType: operation.QueryProgress,
		QueryRejectCondition: enumspb.QUERY_REJECT_CONDITION_NOT_OPEN,
	})
	var step operation.NodeStep
	if err != nil || answer.QueryRejected != nil || answer.QueryResult.Get(&step) != nil || step.Step == "" {
		return nil
	}
	return &step
}

// newWatcher shows on standard output where the result is a table, else on standard error, so that the result stands alone.
func (c *cli) newWatcher(s *server, workflowID string) *watcher {
	w := &watcher{server: s, workflowID: workflowID, now: c.now, every: time.Second}
	out := c.err
	if c.output == "table" {
		out = c.out
	}
	if f, ok := c.terminalOf(out); ok && c.output == "table" {
		w.every = 500 * time.Millisecond
		w.display = &liveDisplay{screen: screen.New(f), style: func() view.Style { return c.style(f) }, now: c.now}
		return w
	}
	w.display = &plainDisplay{out: out, now: c.now}
	return w
}

// liveDisplay redraws a frame on a terminal.
type liveDisplay struct {
	screen *screen.Screen
	style  func() view.Style
	now    func() time.Time
	asked  map[string]bool
}

func (d *liveDisplay) show(r *operation.Report, notice string) {
	style := d.style()
	if r == nil {
		d.screen.Draw([]string{notice}, style.Width)
		return
	}
	if style.Height > 1 {
		style.Height-- // the cursor stands below the frame
	}
	asked := map[string]bool{}
	bell := false
	for _, q := range r.Questions {
		key := q.Key() + q.AskedAt
		asked[key] = true
		bell = bell || !d.asked[key]
	}
	d.asked = asked
	d.screen.Draw(view.Frame(r, notice, d.now(), style), style.Width)
	if bell {
		d.screen.Bell()
	}
}

func (d *liveDisplay) close(keep bool) { d.screen.Close(keep) }

// plainDisplay prints one line a change.
type plainDisplay struct {
	out  io.Writer
	now  func() time.Time
	last *operation.Report
	// troubled: an outage was told, and when it was told last.
	troubled bool
	told     time.Time
	// beat is how far an export's step was when that was told last, at beatAt.
	beat   string
	beatAt time.Time
}

// tellAgain is how often an outage that lasts is told.
const tellAgain = time.Minute

func (d *plainDisplay) show(r *operation.Report, notice string) {
	now := d.now()
	switch {
	case notice != "" && (!d.troubled || now.Sub(d.told) >= tellAgain):
		d.line(now, notice)
		d.troubled, d.told = true, now
	case notice == "" && d.troubled:
		d.line(now, "back again")
		d.troubled = false
	}
	if r == nil || r == d.last {
		return
	}
	changes := view.Changes(d.last, r)
	for _, l := range changes {
		d.line(now, l)
	}
	d.last = r
	if len(changes) > 0 {
		d.beatAt = now
	}
	if operation.OnOneNode(r.Kind) && len(r.Nodes) == 1 && r.Nodes[0].Status == operation.NodeRunning && len(r.Nodes[0].Notes) > 0 {
		if beat := r.Nodes[0].Notes[len(r.Nodes[0].Notes)-1]; beat != d.beat && now.Sub(d.beatAt) >= tellAgain {
			d.line(now, oneLine(r.Nodes[0].Name+" "+r.Nodes[0].Step+": "+beat))
			d.beat, d.beatAt = beat, now
		}
	}
}

func (d *plainDisplay) line(now time.Time, text string) {
	fmt.Fprintf(d.out, "%s %s\n", now.Format("15:04:05"), text)
}

func (d *plainDisplay) close(bool) {}

// follow watches an operation until it closes, prints its report and returns the error with its exit code. An interrupt ends the watching only.
func (c *cli) follow(ctx context.Context, s *server, w *watcher) error {
	report, code, err := c.watchToEnd(ctx, s, w)
	if err != nil {
		return err
	}
	if err := c.printEnd(report); err != nil {
		return err
	}
	if report.Next != "" && code == exitDone {
		return c.follow(ctx, s, c.newWatcher(s, report.Next))
	}
	return ending(code)
}

// watchToEnd watches until the operation has closed and returns its report and exit code.
func (c *cli) watchToEnd(ctx context.Context, s *server, w *watcher) (*operation.Report, int, error) {
	err := w.run(ctx)
	var report *operation.Report
	code := exitDone
	for err == nil {
		report, code, err = s.outcome(ctx, w.workflowID)
		if err == nil || ctx.Err() != nil || !unreachable(err) {
			break
		}
		// It has closed; how can be read once the server is back.
		w.since, w.trouble, err = w.now(), "server unreachable", nil
		w.display.show(w.last, w.notice())
		select {
		case <-ctx.Done():
		case <-time.After(w.every):
		}
	}
	if err == nil && w.last != nil {
		w.display.show(report, "") // what happened since the last look
	}
	w.display.close(err != nil)
	switch {
	case err == nil:
		return report, code, nil
	case ctx.Err() != nil:
		return nil, 0, c.stopped(w.workflowID)
	case errors.Is(err, errGone):
		return nil, 0, badInput("the server knows no operation %s (any more)", oneLine(w.workflowID))
	}
	return nil, 0, s.explain(err)
}

// stopped says that only the watching has ended.
func (c *cli) stopped(workflowID string) error {
	_, _, id, _ := operation.ParseWorkflowID(workflowID)
	return &failure{code: exitInterrupted, lines: []string{
		fmt.Sprintf("watching has stopped, operation %s goes on: watch it again with katoflow op watch %s, end it with katoflow op cancel %s", id, id, id)}}
}

// printEnd prints the report of an operation that has closed.
func (c *cli) printEnd(report *operation.Report) error {
	return c.print(report, func() string { return view.Report(report, c.now(), c.style(c.out)) })
}
