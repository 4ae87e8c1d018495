package operation

import (
	"errors"

	"go.temporal.io/sdk/temporal"
)

// Error types are API: they stand in the Web UI, in reports and in tests.
const (
	ErrBadInput      = "BadInput"      // the request cannot be carried out as it is written
	ErrClusterBusy   = "ClusterBusy"   // another operation holds the cluster's lock
	ErrTooLate       = "TooLate"       // no worker took a scheduled operation up in time; nothing was touched
	ErrPreflight     = "Preflight"     // at least one node is not ready; all problems are listed
	ErrUnreachable   = "Unreachable"   // a node could not be reached for unreachable-after
	ErrSSHTransport  = "SSHTransport"  // one try to reach a node failed; retried
	ErrSSHAuth       = "SSHAuth"       // the node accepts none of the keys
	ErrSSHHostKey    = "SSHHostKey"    // unknown or changed host key
	ErrRemoteExit    = "RemoteExit"    // a command on the node failed
	ErrRemoteBusy    = "RemoteBusy"    // a job of another operation, or another process, is in the way
	ErrFenced        = "Fenced"        // a newer operation holds the node
	ErrJobConflict   = "JobConflict"   // the same job name with another script
	ErrLost          = "Lost"          // started, and nobody knows how it ended
	ErrInterrupted   = "Interrupted"   // the node rebooted in the middle of a job
	ErrDiskFull      = "DiskFull"      // no space on the node
	ErrMissingTool   = "MissingTool"   // the node lacks a tool katoflow needs
	ErrAptLocked     = "AptLocked"     // another process kept the apt locks too long
	ErrNotReturned   = "NotReturned"   // the node did not come back from its reboot in time
	ErrBootProof     = "BootProof"     // the reboot is not proved
	ErrGates         = "Gates"         // gates do not hold
	ErrPin           = "Pin"           // a package would miss, or missed, the canary's version
	ErrVerify        = "Verify"        // the command said it was done and the read says it was not
	ErrMaintenance   = "Maintenance"   // maintenance mode could not be read, set or put back
	ErrOutOfService  = "OutOfService"  // a skipped node is out of service
	ErrNodesFailed   = "NodesFailed"   // the operation ended and some nodes are not done
	ErrOperatorAbort = "OperatorAbort" // an operator or a policy said abort
	ErrTimeout       = "Timeout"       // a step took longer than its ceiling
	ErrCancelled     = "Cancelled"     // the operation is being cancelled
	ErrWorker        = "WorkerShutdown"
	ErrInternal      = "Internal"
)

// OutcomeUnknown reports whether a step that failed this way may have run, or may still run, without its result being known. Its retry
// takes up the same job; every other retry starts the next one.
func OutcomeUnknown(errorType string) bool {
	switch errorType {
	case ErrUnreachable, ErrCancelled, ErrSSHTransport, ErrSSHAuth, ErrSSHHostKey, ErrTimeout, ErrWorker, ErrInternal, ErrNotReturned, ErrAptLocked,
		ErrFenced, ErrRemoteBusy, ErrDiskFull, ErrMissingTool:
		return true
	}
	return false
}

// Failure is a failed step in a form that survives histories, reports and tables.
type Failure struct {
	// Type is one of the error types above.
	Type string `json:"type"`
	// Message is one line, at most 1 KiB.
	Message string `json:"message"`
	// Tail is the end of the failed command's output, escaped, at most 4 KiB.
	Tail string `json:"tail,omitempty"`
	// Problems are all of them, one line each, where there is more than one thing to mend (bad input, preflight).
	Problems []string `json:"problems,omitempty"`
	// Job is the durable job that failed or may still run, as its folder is named on the node.
	Job string `json:"job,omitempty"`
}

// Error makes a Failure an error, for messages.
func (f *Failure) Error() string { return f.Message }

// NewError is a non-retryable application error that carries f; retryable errors are made by the activities themselves.
func NewError(f Failure) error {
	return temporal.NewApplicationErrorWithOptions(f.Message, f.Type, temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{f}})
}

// FailureOf turns the error of an activity or child into a Failure. nil stays nil.
func FailureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	var cancelled *temporal.CanceledError
	if errors.As(err, &cancelled) {
		return &Failure{Type: ErrCancelled, Message: "cancelled"}
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		var f Failure
		if app.HasDetails() && app.Details(&f) == nil && f.Type != "" {
			return &f
		}
		t := app.Type()
		if t == "" {
			t = ErrInternal
		}
		return &Failure{Type: t, Message: Shorten(app.Message(), 1024)}
	}
	var timeout *temporal.TimeoutError
	if errors.As(err, &timeout) {
		return &Failure{Type: ErrTimeout, Message: Shorten("timed out: "+timeout.Error(), 1024)}
	}
	return &Failure{Type: ErrInternal, Message: Shorten(err.Error(), 1024)}
}

// Shorten cuts s to at most max bytes at a rune's border and marks the cut.
func Shorten(s string, max int) string {
	if len(s) <= max {
		return s
	}
	const mark = "..."
	cut := max - len(mark)
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + mark
}
