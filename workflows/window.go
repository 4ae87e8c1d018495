package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// A rolling procedure with maintenance windows begins with a node, or an app, only while one is open and what that is expected to take still fits. What has been begun is finished, also after
// the window has closed. Between two windows the operation waits by itself: maintenance mode is as it was found, and the cluster is free for other operations.

// windows of a rolling procedure, and what is known of the time that a node, or an app, takes.
type windows struct {
	all operation.Windows
	// unit is what is begun: operation.UnitNode or UnitApp.
	unit string
	// expected is what one is expected to take; longest what one has taken at most, without a question.
	expected, longest time.Duration
}

// windowNow is a window as a worker's time zones have it, kept in the history: other workers may have other zones.
type windowNow struct {
	operation.WindowSpan
	Open bool `json:"open"`
	// Next is when the next one opens, after this one if it is open.
	Next time.Time `json:"next"`
}

// setWindows is done by a rolling procedure before its first step, and returns what its preflight warns of. Its input was checked.
func (r *run) setWindows(ctx workflow.Context, in operation.WindowInput, unit string) (warnings []string) {
	all := in.Windows()
	if len(all) == 0 {
		return nil
	}
	r.windows = &windows{all: all, unit: unit, expected: in.NodeTime.D()}
	if r.windows.expected <= 0 {
		r.windows.expected = operation.DefaultNodeTime.D()
	}
	if ok, now := r.fits(ctx); !ok {
		r.report.Window = fmt.Sprintf("%s: opens %s", all, now.Next.Format(time.RFC3339))
		warnings = append(warnings, fmt.Sprintf("no maintenance window is open in which %s fits: the first %s waits (%s)", operation.OneUnit(unit), unit, r.report.Window))
	}
	return warnings
}

// now is the window that is open, or the next one.
func (w *windows) now(ctx workflow.Context) (windowNow, error) {
	var out windowNow
	err := workflow.SideEffect(ctx, func(ctx workflow.Context) any {
		span, open := w.all.At(workflow.Now(ctx))
		next := span.From
		if open {
			after, _ := w.all.At(span.To)
			next = after.From
		}
		return windowNow{WindowSpan: operation.WindowSpan{From: span.From.UTC(), To: span.To.UTC()}, Open: open, Next: next.UTC()}
	}).Get(&out)
	return out, err
}

// took notes what a node, or an app, has taken.
func (w *windows) took(d time.Duration) {
	if w != nil {
		w.longest = max(w.longest, d)
	}
}

// needs is how much of a window must be left for the next: what it is expected to take, and a quarter of that where it was measured; but a window is never too short as a whole.
func (w *windows) needs(now windowNow) time.Duration {
	need := w.expected
	if w.longest > 0 {
		need = w.longest + w.longest/4
	}
	return min(need, now.To.Sub(now.From)*9/10)
}

// fits reports whether the next node, or app, may begin now. It is true without windows.
func (r *run) fits(ctx workflow.Context) (bool, windowNow) {
	if r.windows == nil {
		return true, windowNow{}
	}
	now, err := r.windows.now(ctx)
	if err != nil { // never of the worker's own making
		r.warn("the maintenance window is not known: " + err.Error())
		return true, now
	}
	ok := now.Open && now.To.Sub(workflow.Now(ctx)) >= r.windows.needs(now)
	if ok {
		r.report.Window = fmt.Sprintf("%s: open until %s", r.windows.all, now.To.Format(time.RFC3339))
	}
	return ok, now
}

// awaitWindow waits until the next node, or app, may begin. Nothing of this operation may run on a node. False: cancelled, aborted, or the operation cannot go on.
func (r *run) awaitWindow(ctx workflow.Context) bool {
	for {
		ok, now := r.fits(ctx)
		if ok && r.lock != nil {
			return true
		}
		if !ok {
			r.closeWindow(ctx)
			if !r.untilOpen(ctx, now) {
				return false
			}
			continue
		}
		if r.reopen(ctx, now) {
			return true
		}
		if ctx.Err() != nil || r.aborting {
			return false
		}
	}
}

// closeWindow lets the cluster go until the next window.
func (r *run) closeWindow(ctx workflow.Context) {
	if r.lock == nil {
		return
	}
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	if r.readOnly {
		r.leaveMaintenance(disconnected)
	}
	r.releaseLock(disconnected)
}

// untilOpen waits for the next window. now is the one that is open and too short, or the next.
func (r *run) untilOpen(ctx workflow.Context, now windowNow) bool {
	why := ""
	if now.Open {
		why = fmt.Sprintf(", of which %s are left and %s is expected to take %s", now.To.Sub(workflow.Now(ctx)).Round(time.Second), operation.OneUnit(r.windows.unit),
			r.windows.needs(now).Round(time.Second))
	}
	r.report.Message = operation.Shorten(fmt.Sprintf("waiting for the maintenance window %s%s; the cluster is free meanwhile", r.windows.all, why), 500)
	r.report.Window = fmt.Sprintf("%s: opens %s", r.windows.all, now.Next.Format(time.RFC3339))
	r.refresh(ctx)
	_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{Timeout: max(now.Next.Sub(workflow.Now(ctx)), time.Second),
		TimerOptions: workflow.TimerOptions{Summary: operation.Shorten("maintenance window "+r.windows.all.String(), 400)}}, func() bool { return r.aborting })
	r.report.Message = ""
	return err == nil && !r.aborting
}

// reopen takes the cluster again in a window that has opened. False: it was not to be had before the window closed, or ctx.Err() or r.aborting say why.
func (r *run) reopen(ctx workflow.Context, now windowNow) bool {
	if r.lock == nil {
		wait := r.req.LockWait
		r.req.LockWait = max(wait, operation.Duration(now.To.Sub(workflow.Now(ctx))))
		err := r.acquireLock(ctx)
		r.req.LockWait = wait
		r.report.Message = ""
		if err != nil {
			f := operation.FailureOf(err)
			if f.Type != operation.ErrClusterBusy && ctx.Err() == nil {
				r.lockFailure, r.aborting = f, true
			}
			return false
		}
	}
	for try := 1; ; try++ {
		f := r.fence(ctx)
		if f == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
		if r.ask(ctx, operation.ClusterNode, operation.StepWindow, try, *f, operation.Retry, operation.Abort) != operation.Retry {
			r.aborting = ctx.Err() == nil
			return false
		}
	}
	if r.stepping && r.procedure.wantsMaintenance() && !r.enterMaintenance(ctx) {
		return false
	}
	ok, _ := r.fits(ctx) // it may have taken long
	if !ok {
		r.closeWindow(ctx)
	}
	return ok
}
