package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"

	"github.com/katoflow/katoflow/internal/webclient"
)

// Kind says what sort of failure an *Error is. The values are stable.
type Kind string

const (
	// KindBadInput: the configuration cannot be right; the message says why.
	KindBadInput Kind = "BadInput"
	// KindMaintenance: the controller is in maintenance mode and refuses writes (HTTP 503, code 150; kato.md §4).
	KindMaintenance Kind = "Maintenance"
	// KindNotFound: the controller has no such object or no such endpoint.
	KindNotFound Kind = "NotFound"
	// KindNotStaged: the app is being staged, or never was (code 170002; kato.md §6.1).
	KindNotStaged Kind = "NotStaged"
	// KindStagingFailed: the app could not be staged (code 170001, and 170003 to 170005 where the controller knows the step that failed; kato.md §6.1).
	KindStagingFailed Kind = "StagingFailed"
	// KindStopped: the app is stopped, so that it has no instances to ask for (CF-InstancesError, code 220001; kato.md §6.1).
	KindStopped Kind = "Stopped"
	// KindSupervisord: the supervisord of a node, that the message names, does not run, so that nobody knows its processes (HTTP 500, code 110; kato.md §6.2).
	KindSupervisord Kind = "Supervisord"
	// KindUnauthorized: user or password is refused, or every new token is.
	KindUnauthorized Kind = "Unauthorized"
	// KindForbidden: the user is known and may not do this; usually it is no admin.
	KindForbidden Kind = "Forbidden"
	// KindUnreachable: no answer of a controller: name, route, port, no answer in time, or a router that knows no controller.
	KindUnreachable Kind = "Unreachable"
	// KindCertificate: the API's or the login's certificate is not trusted.
	KindCertificate Kind = "Certificate"
	// KindServer: the controller or its router failed, through all attempts.
	KindServer Kind = "Server"
	// KindChanged: a list changed each time it was read.
	KindChanged Kind = "Changed"
	// KindAnswer: the answer is not one of a Cloud Controller.
	KindAnswer Kind = "Answer"
	// KindOther: the controller refused for a reason of its own; Code and Name tell which.
	KindOther Kind = "Other"
)

// Error is a failure of this package: one line that says what failed and what to do. It has no secret in it.
type Error struct {
	Kind    Kind
	Message string
	// Status of the HTTP answer, 0 when there was none.
	Status int
	// Code and Name as the controller answered them ("code", "error_code" such as "CF-AppNotFound"; kato.md §6); 0 and "" when it did not.
	Code int
	Name string
	Err  error
	// passing says that the same may go well at another time.
	passing bool
}

// Error is the message, with the cause if there is one.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, nil when there is none.
func (e *Error) Unwrap() error { return e.Err }

// Retryable says whether the same may go well later without anybody changing anything.
func (e *Error) Retryable() bool { return e.passing }

// KindOf returns the kind of the first *Error in err's chain, "" when there is none. An error that only says that the caller's context ended has
// no kind.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// IsKind says whether the first *Error in err's chain is of kind k.
func IsKind(err error, k Kind) bool { return err != nil && k != "" && KindOf(err) == k }

func badInput(format string, args ...any) *Error {
	return &Error{Kind: KindBadInput, Message: fmt.Sprintf(format, args...)}
}

// clean makes text that came from a server or the network safe to show, without the password.
func (c *Client) clean(text string) string { return webclient.Clean(text, c.cfg.Password) }

// failure makes the error of this controller: what failed, how, and what to do ("" for nothing to say).
func (c *Client) failure(kind Kind, what, text, advice string) *Error {
	message := fmt.Sprintf("cloud controller %s: %s: %s", c.cfg.URL, what, text)
	if advice != "" {
		message += ": " + advice
	}
	return &Error{Kind: kind, Message: message}
}

// unreached is the error of a request that got no answer.
func (c *Client) unreached(what string, err error) *Error {
	trouble, cause := webclient.TroubleOf(err)
	text := c.clean(cause.Error())
	kind, passing, advice := KindUnreachable, true, "check controller.url, the router and the network to it"
	switch {
	case trouble == webclient.UnknownAuthority:
		kind, passing, advice = KindCertificate, false, "name the file of the controller's CA as controller.ca_file"
	case trouble == webclient.BadCertificate:
		kind, passing, advice = KindCertificate, false, "correct controller.url or controller.ca_file, or renew the certificate"
	case errors.Is(err, http.ErrSchemeMismatch):
		kind, passing, advice = KindUnreachable, false, "there is no TLS at this port: correct controller.url"
	case errors.Is(err, context.DeadlineExceeded):
		text = "no answer in " + c.cfg.Timeout.String()
	case trouble == webclient.NoSuchName:
		advice = "correct controller.url or the worker's name service"
	}
	e := c.failure(kind, what, text, advice)
	e.passing, e.Err = passing, webclient.Hide(err, text)
	return e
}

// reason is how the controller says what is wrong (kato.md §6), and how its login does.
type reason struct {
	Code             int    `json:"code"`
	Name             string `json:"error_code"`
	Description      string `json:"description"`
	OAuth            string `json:"error"`
	OAuthDescription string `json:"error_description"`
}

// refused is the error of an answer that is not 2xx.
func (c *Client) refused(what string, response *http.Response, body []byte) *Error {
	var r reason
	known := json.Unmarshal(body, &r) == nil && (r.Code != 0 || r.Name != "")
	text := fmt.Sprintf("HTTP %d", response.StatusCode)
	if known {
		text = fmt.Sprintf("%s (%s, code %d, HTTP %d)", strings.TrimSuffix(c.clean(r.Description), "."), c.clean(r.Name), r.Code, response.StatusCode)
	} else if said := c.clean(string(body)); said != "" && len(said) <= 120 && !strings.Contains(said, "<") {
		text += ": " + said
	}
	kind, passing, advice := kindOf(response.StatusCode, known, r.Code)
	if location := response.Header.Get("Location"); response.StatusCode/100 == 3 && location != "" {
		text += " to " + c.clean(location)
	}
	e := c.failure(kind, what, text, advice)
	e.passing, e.Status = passing, response.StatusCode
	if known {
		e.Code, e.Name = r.Code, c.clean(r.Name)
	}
	return e
}

// The controller's own codes that have a Kind.
const (
	codeMaintenance = 150    // kato.md §4
	codeSupervisord = 110    // kato.md §6.2
	codeStaging     = 170001 // kato.md §6.1
	codeNotStaged   = 170002 // kato.md §6.1
	codeNoApp       = 170003 // these three: the step of a staging that failed, in the controller's source
	codeCompile     = 170004
	codeRelease     = 170005
	codeInstances   = 220001 // kato.md §6.1
)

// kindOf classifies an answer by its status and, when it has the form of a controller's error, its code.
func kindOf(status int, known bool, code int) (kind Kind, passing bool, advice string) {
	switch {
	case known && code == codeMaintenance:
		return KindMaintenance, false, "maintenance mode must be off for this"
	case known && code == codeNotStaged:
		return KindNotStaged, false, ""
	case known && (code == codeStaging || code == codeNoApp || code == codeCompile || code == codeRelease):
		return KindStagingFailed, false, "see the app's log"
	case known && code == codeInstances:
		return KindStopped, false, ""
	case known && code == codeSupervisord:
		return KindSupervisord, false, "the node is down or its supervisord does not run: bring it up there"
	case status == http.StatusUnauthorized:
		return KindUnauthorized, false, "check controller.user and controller.password"
	case status == http.StatusForbidden:
		return KindForbidden, false, "controller.user must be an admin of the cluster"
	case status == http.StatusNotFound && known:
		return KindNotFound, false, ""
	case status == http.StatusNotFound:
		// What the router says of a host without a back end, also while the controller restarts.
		return KindUnreachable, true, "the router knows no cloud controller of this name: check that it is up, and controller.url"
	case status/100 == 3:
		return KindOther, false, "write the right address as controller.url"
	case status == http.StatusTooManyRequests, status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return KindServer, true, "the controller or its router restarts or is overloaded, see their logs"
	case status >= 500:
		return KindOther, false, "see the controller's log"
	}
	return KindOther, false, ""
}

// loginRefused is the error of a token request that was not granted.
func (c *Client) loginRefused(what string, err error) *Error {
	var refusal *oauth2.RetrieveError
	if !errors.As(err, &refusal) {
		var operation *url.Error
		if errors.As(err, &operation) || errors.Is(err, context.DeadlineExceeded) {
			return c.unreached(what, err)
		}
		// An answer that was cut off, or that is not JSON.
		text := c.clean(err.Error())
		e := c.failure(KindAnswer, what, text, "check what answers at the login address that /v2/info names")
		e.passing, e.Err = true, webclient.Hide(err, text)
		return e
	}
	status := refusal.Response.StatusCode
	text := fmt.Sprintf("HTTP %d", status)
	if refusal.ErrorCode != "" {
		text = c.clean(fmt.Sprintf("%s (%s, HTTP %d)", strings.TrimSuffix(refusal.ErrorDescription, "."), refusal.ErrorCode, status))
	}
	kind, passing, advice := kindOf(status, false, 0)
	if status == http.StatusBadRequest && refusal.ErrorCode != "invalid_request" {
		// invalid_grant, by RFC 6749 and in AOK the answer to a wrong name, password or refresh token.
		kind, advice = KindUnauthorized, "check controller.user and controller.password"
	}
	e := c.failure(kind, what, text, advice)
	e.passing, e.Status = passing, status
	return e
}
