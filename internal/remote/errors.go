package remote

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
)

// Error is one line: the node, what failed and what to do.
func (e *Error) Error() string {
	message := e.Message
	if message == "" {
		message = string(e.Kind)
		if e.Err != nil {
			message += ": " + Escape(e.Err.Error())
		}
	}
	if e.Node == "" {
		return message
	}
	return Escape(e.Node) + ": " + message
}

// Unwrap returns the cause, nil when there is none.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first *Error in err's chain, "" when there is none. An error that only says that the
// caller's context ended has no kind.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// IsKind says whether the first *Error in err's chain is of kind k.
func IsKind(err error, k Kind) bool {
	return err != nil && k != "" && KindOf(err) == k
}

// IsSilence says whether nothing of the node answered: no route, a port that is closed, or no word in time. Anything else that failed was an sshd that takes
// connections and ended this one.
func IsSilence(err error) bool {
	var dial *net.OpError
	var through *ssh.OpenChannelError
	return errors.As(err, &dial) && dial.Op == "dial" || errors.As(err, &through) || errors.Is(err, context.DeadlineExceeded)
}

// atNode returns err as seen from the node of the given name: connections are shared by hosts of one identity, names are not.
func atNode(err error, node string) error {
	var e *Error
	if !errors.As(err, &e) || e.Node == node {
		return err
	}
	named := *e
	named.Node = node
	return &named
}

// quoted is a cause whose text may come from the node: it is shown escaped, and found by errors.Is and errors.As, but not
// unwrapped, because whoever records a chain of errors (Temporal does) prints each of them.
type quoted struct{ err error }

func (q quoted) Error() string        { return oneLine(q.err.Error(), 500) }
func (q quoted) Is(target error) bool { return errors.Is(q.err, target) }
func (q quoted) As(target any) bool   { return errors.As(q.err, target) }

func quote(err error) error {
	if err == nil {
		return nil
	}
	return quoted{err}
}

func transportError(node string, cause error, format string, args ...any) *Error {
	return &Error{Kind: KindTransport, Node: node, Message: fmt.Sprintf(format, args...), Err: quote(cause)}
}

func authError(node string, cause error, format string, args ...any) *Error {
	return &Error{Kind: KindAuth, Node: node, Message: fmt.Sprintf(format, args...), Err: quote(cause)}
}

func hostKeyError(node string, cause error, format string, args ...any) *Error {
	return &Error{Kind: KindHostKey, Node: node, Message: fmt.Sprintf(format, args...), Err: quote(cause)}
}
