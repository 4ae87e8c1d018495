package activities

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	// NotificationHeader carries the notification's id: a receiver that has seen it may drop the delivery.
	NotificationHeader = "Katoflow-Notification-Id"

	webhookTimeout = 10 * time.Second
	commandTimeout = 30 * time.Second
)

// Notifier tells the site that an operation is parked, failed or done. Its fields are set by the worker and not changed afterwards.
type Notifier struct {
	Source *Source
	// Client sends webhooks; nil = http.DefaultTransport without redirects.
	Client *http.Client
	// Logger gets what a notification command prints; nil for none.
	Logger *zap.Logger
	// Environment of notification commands, as NAME=value. It is not the worker's own, which may hold secrets.
	Environment []string
}

// Notify sends in to the webhook and the command of the cluster, those that there are. It may arrive more than once and has the same id each time. What
// fails is retryable unless the receiver says that the request itself is wrong. No error holds the webhook's address, which may be a secret.
func (n *Notifier) Notify(ctx context.Context, in operation.Notification) error {
	a := begin(ctx, "notify")
	defer a.finish()
	s, err := n.Source.site(in.Cluster)
	if err != nil {
		return err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: "notification: " + oneLine(err.Error(), 300)})
	}
	notify := s.cluster.Notify
	// A webhook that was told is not told again because the command failed.
	const told = "webhook told"
	if notify.Webhook != nil && a.previous.For != told {
		if err := n.webhook(a.ctx, s, *notify.Webhook, in.ID, body); err != nil {
			return notifyEnded(a, err)
		}
		a.since(told)
	}
	if len(notify.Command) > 0 {
		if err := n.command(a.ctx, s, notify.Command, in, body); err != nil {
			return notifyEnded(a, err)
		}
	}
	return nil
}

func notifyEnded(a *attempt, err error) error {
	if a.ctx.Err() != nil {
		return ended(a.ctx)
	}
	return err
}

func retryable(format string, args ...any) error {
	return temporal.NewApplicationErrorWithOptions(oneLine(fmt.Sprintf(format, args...), maxMessage), operation.ErrInternal, temporal.ApplicationErrorOptions{})
}

func (n *Notifier) webhook(ctx context.Context, s site, secret inventory.Secret, id string, body []byte) error {
	value, err := secret.Resolve(s.file, s.env)
	if err != nil {
		return retryable("notify.webhook: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, string(bytes.TrimSpace(value)), bytes.NewReader(body))
	if err != nil || request.URL.Host == "" || request.URL.Scheme != "http" && request.URL.Scheme != "https" {
		// The parser's message repeats the address.
		return operation.NewError(operation.Failure{Type: operation.ErrBadInput, Message: "notify.webhook: the secret is no http or https URL: correct it"})
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "katoflow")
	request.Header.Set(NotificationHeader, oneLine(id, 200))
	client := n.Client
	if client == nil {
		client = &http.Client{}
	}
	// A redirect would send the message to somebody else.
	once := *client
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := once.Do(request)
	if err != nil {
		return retryable("notify.webhook: %s", webhookFailure(err))
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // so that the connection can be used again
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return retryable("notify.webhook: the receiver answered %d", code)
	default:
		return operation.NewError(operation.Failure{Type: operation.ErrBadInput, Message: fmt.Sprintf("notify.webhook: the receiver answered %d: see whether the address is right", code)})
	}
}

// webhookFailure names the kind of err: its text would name the receiver.
func webhookFailure(err error) string {
	var dns *net.DNSError
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		return "the receiver's name cannot be resolved"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer within " + webhookTimeout.String()
	case errors.As(err, &op) && op.Op == "dial":
		return "the receiver cannot be reached"
	}
	return "the request failed (connection or certificate)"
}

// command runs the site's own program on the worker, with the notification on its standard input. It gets its own process group, which is killed as a
// whole when it does not end.
func (n *Notifier) command(ctx context.Context, s site, argv []string, in operation.Notification, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(slices.Clone(n.Environment), "KATOFLOW_EVENT="+in.Event, "KATOFLOW_CLUSTER="+in.Cluster, "KATOFLOW_NOTIFICATION_ID="+in.ID)
	cmd.Stdin = bytes.NewReader(body)
	out := &limited{max: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 2 * time.Second
	ownGroup(cmd)
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return nil
	}
	logOf(n.Logger, Operation{ID: in.OperationID, Cluster: in.Cluster}, "", "notify").Warn("the notification command failed",
		zap.String("output", remote.Tail(out.b, maxTail)), zap.Error(err))
	if ctx.Err() != nil {
		return retryable("notify.command: %s did not end within %s", remote.Escape(argv[0]), commandTimeout)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return retryable("notify.command: %s ended with exit code %d: its output is in the worker's log", remote.Escape(argv[0]), exit.ExitCode())
	}
	return retryable("notify.command: %s cannot be run: %s", remote.Escape(argv[0]), err)
}

// limited keeps the first max bytes and takes the rest without keeping it.
type limited struct {
	max int
	b   []byte
}

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), l.max-len(l.b))]...)
	return len(p), nil
}
