package activities

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// notify gives Notify the form of the other activities.
func notify(n *Notifier) func(context.Context, operation.Notification) (string, error) {
	return func(ctx context.Context, in operation.Notification) (string, error) { return "", n.Notify(ctx, in) }
}

func (b *bench) notification() operation.Notification {
	return operation.Notification{Event: operation.EventParked, Cluster: b.op.Cluster, OperationID: b.op.ID, Message: "a question", ID: "op-1/parked/1"}
}

func (b *bench) notifier(t *testing.T, url string) *Notifier {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	secret := filepath.Join(t.TempDir(), "hook")
	rewrite(t, secret, url+"\n")
	b.writeInventory("notify:\n  webhook:\n    file: " + secret)
	return &Notifier{Source: b.source, Client: &http.Client{Transport: transport}}
}

func TestNotify_Webhook_GetsTheNotificationWithItsID(t *testing.T) {
	var got operation.Notification
	var id atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &got)
		id.Store(r.Header.Get(NotificationHeader))
	}))
	defer s.Close()
	b := start(t, simcluster.Config{}, "")
	n := b.notifier(t, s.URL+"/hook?token=SECRET")
	must[string](t)(run(t, notify(n), b.notification(), attemptOptions{}))
	if got.Message != "a question" || id.Load() != "op-1/parked/1" {
		t.Errorf("%+v %v", got, id.Load())
	}
}

func TestNotify_WebhookFails_NeverNamesTheAddress(t *testing.T) {
	code := atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code.Load() == 302 {
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
		}
		w.WriteHeader(int(code.Load()))
	}))
	defer s.Close()
	b := start(t, simcluster.Config{}, "")
	n := b.notifier(t, s.URL+"/hook?token=SECRET")
	clean := func(err error) {
		t.Helper()
		if err == nil || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%v", err)
		}
	}
	for status, retryable := range map[int64]bool{500: true, 429: true, 404: false, 302: false} {
		code.Store(status)
		_, err := run(t, notify(n), b.notification(), attemptOptions{})
		clean(err)
		if f := operation.FailureOf(err); strings.Contains(f.Message, "answered") == false {
			t.Errorf("%+v", f)
		}
		wantFailure(t, err, map[bool]string{true: operation.ErrInternal, false: operation.ErrBadInput}[retryable], retryable)
	}
	s.Close()
	_, err := run(t, notify(n), b.notification(), attemptOptions{})
	clean(err)
	wantFailure(t, err, operation.ErrInternal, true, "cannot be reached")
	n = b.notifier(t, "SECRET no url")
	_, err = run(t, notify(n), b.notification(), attemptOptions{})
	clean(err)
	wantFailure(t, err, operation.ErrBadInput, false)
}

func TestNotify_Command_GetsTheNotificationOnItsInput(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	file := filepath.Join(t.TempDir(), "got")
	b.writeInventory("notify:\n  command: [sh, -c, 'cat >\"$1\"; echo \"$KATOFLOW_EVENT\" >>\"$1\"', sh, " + file + "]")
	n := &Notifier{Source: b.source}
	must[string](t)(run(t, notify(n), b.notification(), attemptOptions{}))
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), `"message":"a question"`) || !strings.HasSuffix(string(text), "parked\n") {
		t.Errorf("%s %v", text, err)
	}
	b.writeInventory("notify:\n  command: [sh, -c, 'echo no; exit 4']")
	_, err = run(t, notify(n), b.notification(), attemptOptions{})
	wantFailure(t, err, operation.ErrInternal, true, "exit code 4")
	b.writeInventory("notify:\n  command: [/no/such/program]")
	_, err = run(t, notify(n), b.notification(), attemptOptions{})
	wantFailure(t, err, operation.ErrInternal, true, "cannot be run")
}

func TestNotify_WorkerStops_EndsTheCommandWithItsChildren(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	file := filepath.Join(t.TempDir(), "pid")
	b.writeInventory("notify:\n  command: [sh, -c, 'sleep 60 & echo $! >\"$1\"; wait', sh, " + file + "]")
	stop := make(chan struct{})
	first := inBackground(t, notify(&Notifier{Source: b.source}), b.notification(), attemptOptions{stop: stop})
	until(t, "it runs", func() bool { text, err := os.ReadFile(file); return err == nil && len(text) > 0 })
	began := time.Now()
	close(stop)
	_, err := first.wait(t)
	wantFailure(t, err, operation.ErrWorker, true)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	pid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the child is gone", func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
