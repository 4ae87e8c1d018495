package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/api/serviceerror"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// Exit codes are API: scripts and `make demo` depend on them.
const (
	exitDone        = 0
	exitError       = 1
	exitBadInput    = 2
	exitNodesFailed = 3
	exitAborted     = 4
	exitCancelled   = 5
	exitBusy        = 6
	exitPreflight   = 7
	exitNoWorker    = 8
	exitNoServer    = 9
	exitTooOld      = 10
	exitArchive     = 11
	exitAppsFailed  = 12
	exitInterrupted = 130
)

// exitCodes is what the root help documents.
func exitCodes() []struct {
	code    int
	meaning string
} {
	return []struct {
		code    int
		meaning string
	}{
		{exitDone, "done, or with --detach: started"},
		{exitError, "internal error, or the operation was terminated from outside"},
		{exitBadInput, "bad input: what to mend is said, no node was touched"},
		{exitNodesFailed, "the operation ended and some nodes are not done"},
		{exitAborted, "the operation was aborted by an operator or a policy"},
		{exitCancelled, "the operation was cancelled and is in a safe state"},
		{exitBusy, "another operation holds the cluster"},
		{exitPreflight, "the preflight found problems: all are listed, nothing was changed"},
		{exitNoWorker, "no worker polls the task queue, or none answers"},
		{exitNoServer, "no Temporal server answers, or it refuses us"},
		{exitTooOld, "schedule list --max-age: the last success of a schedule is too old, or none is known"},
		{exitArchive, "backup, snapshot: an archive is damaged, not complete, locked, or could not be deleted; of a set a snapshot is missing, or left"},
		{exitAppsFailed, "apps, backup restore, backup rehearse: the operation ended and some apps do not run, or some of the archive is missing"},
		{exitInterrupted, "interrupted: watching has stopped, the operation goes on"},
	}
}

// failure is an error with its exit code. Its text may have several lines, one a problem.
type failure struct {
	code  int
	lines []string
	// said is true when everything there is to say stands on the screen already.
	said bool
}

// Error joins the lines.
func (f *failure) Error() string { return strings.Join(f.lines, "\n") }

func fail(code int, format string, args ...any) error {
	return &failure{code: code, lines: []string{fmt.Sprintf(format, args...)}}
}

func badInput(format string, args ...any) error { return fail(exitBadInput, format, args...) }

// badInputs is all problems at once; nil when there are none.
func badInputs(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	return &failure{code: exitBadInput, lines: problems}
}

// ending is an exit code after which nothing more is said.
func ending(code int) error {
	if code == exitDone {
		return nil
	}
	return &failure{code: code, said: true}
}

// codeOfType is the exit code of an operation that closed with a failure of this type.
func codeOfType(errorType string) int {
	switch errorType {
	case operation.ErrBadInput:
		return exitBadInput
	case operation.ErrClusterBusy:
		return exitBusy
	case operation.ErrPreflight, operation.ErrTooLate:
		return exitPreflight
	case operation.ErrNodesFailed:
		return exitNodesFailed
	case operation.ErrOperatorAbort:
		return exitAborted
	case operation.ErrCancelled:
		return exitCancelled
	case operation.ErrArchive, operation.ErrSnapshot, operation.ErrFrozen:
		return exitArchive
	case operation.ErrAppsFailed, operation.ErrRestored:
		return exitAppsFailed
	}
	return exitError
}

// asFailure gives any error its exit code and its one line.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var problems inventory.Problems
	if errors.As(err, &problems) {
		lines := make([]string, len(problems))
		for i, p := range problems {
			lines[i] = p.Error()
		}
		return &failure{code: exitBadInput, lines: lines}
	}
	return &failure{code: serverCode(err), lines: []string{oneLine(err.Error())}}
}

// serverCode is the exit code of an error that a call to Temporal returned.
func serverCode(err error) int {
	var (
		noNamespace *serviceerror.NamespaceNotFound
		denied      *serviceerror.PermissionDenied
	)
	switch {
	case errors.As(err, &noNamespace):
		return exitBadInput
	case errors.Is(err, temporalkit.ErrNoServer), errors.As(err, &denied), unreachable(err):
		return exitNoServer
	}
	return exitError
}

// unreachable reports whether a call failed because no server answered.
func unreachable(err error) bool {
	if err == nil {
		return false
	}
	var unavailable *serviceerror.Unavailable
	var deadline *serviceerror.DeadlineExceeded
	if errors.As(err, &unavailable) || errors.As(err, &deadline) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unauthenticated:
		return true
	}
	return false
}

// oneLine makes text from a server fit for an error message.
func oneLine(s string) string {
	return operation.Shorten(remote.Escape(strings.Join(strings.Fields(s), " ")), 1024)
}
