package activities

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// hung is a node that takes sessions and never answers: its disk hangs.
type hung struct{ asked int }

func (h *hung) Run(ctx context.Context, _ remote.Host, _ remote.Command) (remote.Result, error) {
	h.asked++
	<-ctx.Done()
	return remote.Result{}, ctx.Err()
}

func (*hung) Forget(remote.Host) {}

func TestAsk_NodeNeverAnswers_IsUnreachableWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	node := &hung{}
	_, err := run(t, func(ctx context.Context, _ string) (string, error) {
		a := begin(ctx, "read")
		defer a.finish()
		return "", a.persist("n1", 900*time.Millisecond, "", func(ctx context.Context) error {
			_, err := askFor(ctx, 50*time.Millisecond, node, remote.Host{Name: "n1"}, probeScript)
			return err
		})
	}, "", attemptOptions{})
	wantFailure(t, err, operation.ErrUnreachable, false, "n1: not reached for 900ms", "did not answer within 50ms")
	if node.asked < 2 {
		t.Errorf("asked %d times", node.asked)
	}
}

func TestAsk_CallerHasLessTime_IsTheCallersEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := ask(ctx, &hung{}, remote.Host{Name: "n1"}, probeScript)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
