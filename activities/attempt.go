package activities

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

const (
	// defaultUnreachableAfter holds where an input does not say.
	defaultUnreachableAfter = 10 * time.Minute
	firstPause              = 500 * time.Millisecond
	longestPause            = 5 * time.Second
)

// Beat is what a heartbeat carries: what the attempt is at, for people, and where the next attempt goes on, as a hint. The truth is on the node.
type Beat struct {
	Phase string `json:"phase,omitempty"`
	// Job whose output was handed on up to Offset (bytes).
	Job    string `json:"job,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	// Began is when an attempt first waited for what it is waiting for, by the clock of its worker (Unix milliseconds), and For what.
	Began int64  `json:"began,omitempty"`
	For   string `json:"for,omitempty"`
	// Upload is how far a transfer came.
	Upload archive.Progress `json:"upload,omitzero"`
	// Fetch is how far an archive came to a node.
	Fetch archive.Progress `json:"fetch,omitzero"`
}

// attempt is one run of an activity: its heartbeats, and a context that also ends when the worker begins to stop, so that a stopping worker hands its
// jobs over at once.
type attempt struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	began    time.Time
	stopPump func()
	watching sync.WaitGroup

	// again: Temporal has attempted this activity before.
	again bool

	mu       sync.Mutex
	beat     Beat
	previous Beat
}

// begin starts the heartbeats; finish ends them and leaves no goroutine behind.
func begin(ctx context.Context, phase string) *attempt {
	a := &attempt{began: time.Now(), beat: Beat{Phase: phase}}
	if activity.HasHeartbeatDetails(ctx) {
		// Details of another version that cannot be read are no details.
		_ = activity.GetHeartbeatDetails(ctx, &a.previous)
		a.again = true
	}
	a.again = a.again || activity.GetInfo(ctx).Attempt > 1
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	stopping := activity.GetWorkerStopChannel(ctx)
	a.watching.Go(func() {
		select {
		case <-stopping:
			a.cancel(worker.ErrWorkerShutdown)
		case <-a.ctx.Done():
		}
	})
	a.stopPump = temporalkit.Pump(ctx, temporalkit.HeartbeatEvery, func() any { return a.now() })
	activity.RecordHeartbeat(ctx, a.now())
	return a
}

func (a *attempt) finish() {
	a.stopPump()
	a.cancel(nil)
	a.watching.Wait()
}

// now is what a heartbeat says. Until this attempt has something of its own, it says what the previous one knew.
func (a *attempt) now() Beat {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.beat
	if b.Job == "" {
		b.Job, b.Offset = a.previous.Job, a.previous.Offset
	}
	if b.For == "" {
		b.For, b.Began = a.previous.For, a.previous.Began
	}
	if b.Upload.UploadID == "" {
		b.Upload = a.previous.Upload
	}
	if b.Fetch.Size == 0 {
		b.Fetch = a.previous.Fetch
	}
	return b
}

func (a *attempt) phase(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.beat.Phase = oneLine(text, 200)
}

func (a *attempt) at(job string, offset int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.beat.Job, a.beat.Offset = job, offset
}

// resumeAt is the offset up to which an earlier attempt has handed on the output of job.
func (a *attempt) resumeAt(job string) int64 {
	if a.previous.Job == job {
		return max(a.previous.Offset, 0)
	}
	return 0
}

// since returns when an attempt of this activity began to wait for the thing named.
func (a *attempt) since(thing string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.beat.For == thing {
		return time.UnixMilli(a.beat.Began)
	}
	now := time.Now()
	began := now
	if a.previous.For == thing {
		// A worker whose clock goes ahead must not make the wait longer than it is.
		if earlier := time.UnixMilli(a.previous.Began); earlier.Before(now) {
			began = earlier
		}
	}
	a.beat.For, a.beat.Began = thing, began.UnixMilli()
	return began
}

// pause waits d; false when the attempt ended.
func (a *attempt) pause(d time.Duration) bool { return sleep(a.ctx, d) == nil }

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// persist calls try until it does not fail for a lost connection, or the node was not reached for limit; then the error is Unreachable and not
// retryable. try must be harmless to repeat. The error is the activity's.
func (a *attempt) persist(node string, limit time.Duration, job string, try func(ctx context.Context) error) error {
	if limit <= 0 {
		limit = defaultUnreachableAfter
	}
	var since time.Time
	wait := firstPause
	for {
		began := time.Now()
		err := try(a.ctx)
		if err == nil {
			return nil
		}
		if a.ctx.Err() != nil {
			return ended(a.ctx)
		}
		if !remote.IsKind(err, remote.KindTransport) {
			return withJob(nodeError(err), job)
		}
		if since.IsZero() {
			since = began
		}
		if gone := time.Since(since); gone+wait > limit {
			f := failureOf(err)
			what := "look at its console and network, then retry"
			if job != "" {
				what = "a job may still run there; " + what
			}
			return failJob(operation.ErrUnreachable, node, job, "", "not reached for %s: %s (last: %s)", limit, what, withoutNode(f.Message, node))
		}
		a.phase("connection lost, trying again: " + failureOf(err).Message)
		if !a.pause(wait) {
			return ended(a.ctx)
		}
		wait = min(wait*2, longestPause)
	}
}
