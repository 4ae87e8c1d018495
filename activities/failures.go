package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	maxMessage = 1024
	maxTail    = 4 << 10
)

// An activity returns one *temporal.ApplicationError and never a wrapped or joined error: Temporal would lose its type and retry it.

// nodeError turns an error of package remote into the activity's: a lost connection is retryable, everything else is not. nil stays nil.
func nodeError(err error) error {
	if err == nil {
		return nil
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app
	}
	f := failureOf(err)
	if f.Type == operation.ErrSSHTransport {
		return temporal.NewApplicationErrorWithOptions(f.Message, f.Type, temporal.ApplicationErrorOptions{Details: []any{f}})
	}
	return operation.NewError(f)
}

// failureOf names the type of an error of package remote.
func failureOf(err error) operation.Failure {
	var e *remote.Error
	if !errors.As(err, &e) {
		if f := operation.FailureOf(err); f != nil && f.Type != operation.ErrInternal {
			return *f
		}
		return operation.Failure{Type: operation.ErrInternal, Message: oneLine(err.Error(), maxMessage)}
	}
	f := operation.Failure{Type: operation.ErrInternal, Message: oneLine(e.Error(), maxMessage), Tail: e.Tail}
	switch e.Kind {
	case remote.KindTransport:
		f.Type = operation.ErrSSHTransport
	case remote.KindAuth:
		f.Type = operation.ErrSSHAuth
	case remote.KindHostKey:
		f.Type = operation.ErrSSHHostKey
	case remote.KindExit:
		f.Type = operation.ErrRemoteExit
	case remote.KindBusy:
		f.Type = operation.ErrRemoteBusy
	case remote.KindFenced:
		f.Type = operation.ErrFenced
	case remote.KindJobConflict:
		f.Type = operation.ErrJobConflict
	case remote.KindLost:
		f.Type = operation.ErrLost
	case remote.KindInterrupted:
		f.Type = operation.ErrInterrupted
	case remote.KindDiskFull:
		f.Type = operation.ErrDiskFull
	case remote.KindMissingTool:
		f.Type = operation.ErrMissingTool
	}
	return f
}

// fail is a non-retryable error with the node before its message.
func fail(errorType, node, format string, args ...any) error {
	return failJob(errorType, node, "", "", format, args...)
}

// failJob is fail that names the job and carries the end of its output.
func failJob(errorType, node, job, tail, format string, args ...any) error {
	return operation.NewError(operation.Failure{Type: errorType, Message: oneLine(remote.Escape(node)+": "+fmt.Sprintf(format, args...), maxMessage), Job: job, Tail: tail})
}

// ended is the error of an activity whose context has ended; see attempt for what happened to the node.
func ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	if temporal.IsCanceledError(cause) {
		return temporal.NewCanceledError()
	}
	why := "the attempt ended"
	switch {
	case errors.Is(cause, worker.ErrWorkerShutdown):
		why = "the worker shuts down"
	case errors.Is(cause, activity.ErrActivityPaused):
		why = "the activity is paused"
	case errors.Is(cause, activity.ErrActivityReset):
		why = "the activity is reset"
	case errors.Is(cause, context.DeadlineExceeded):
		why = "the time of the attempt is over"
	}
	return temporal.NewApplicationErrorWithOptions(why+"; what runs on the node goes on, and the next attempt follows it", operation.ErrWorker,
		temporal.ApplicationErrorOptions{NextRetryDelay: time.Second, Category: temporal.ApplicationErrorCategoryBenign})
}

// cancelled tells whether ctx ended because the workflow said so, and not because this attempt has to go elsewhere.
func cancelled(ctx context.Context) bool {
	return ctx.Err() != nil && temporal.IsCanceledError(context.Cause(ctx))
}

// oneLine is s in one printable line of at most limit bytes.
func oneLine(s string, limit int) string {
	return operation.Shorten(remote.Escape(strings.Join(strings.Fields(s), " ")), limit)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
