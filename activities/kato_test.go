package activities

import (
	"context"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

func TestRetire_DEA_RunsOnTheCoreOnce(t *testing.T) {
	b := start(t, alsConfig(), "")
	for range 2 {
		if out := must[JobResult](t)(run(t, b.kato.Retire, b.input("dea-1"), attemptOptions{})); !out.Started {
			t.Errorf("%+v", out)
		}
	}
	b.wantRuns("core", "kato node retire --node "+b.node("dea-1").Address(), 1)
	b.wantRuns("dea-1", "kato", 0)
}

func TestRetire_Fails_IsRemoteExit(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("core").FailCommand("kato node retire", 1, 1, "ERROR: no other DEA has room")
	_, err := run(t, b.kato.Retire, b.input("dea-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "core: ", "no other DEA has room")
}

func TestRetire_FailsWithExitZero_IsVerify(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("core").FailCommand("kato node retire", 1, 0, "ERROR: no other DEA has room")
	_, err := run(t, b.kato.Retire, b.input("dea-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrVerify, false, "core: ", "no other DEA has room")
}

func TestRetire_CancelledWhileItHangs_IsStopped(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("core").HangCommand("kato node retire", 1)
	ctx, cancel := context.WithCancelCause(context.Background())
	first := inBackground(t, b.kato.Retire, b.input("dea-1"), attemptOptions{ctx: ctx})
	until(t, "it hangs", func() bool { return b.ran("core", "kato node retire") == 1 })
	began := time.Now()
	cancel(temporal.NewCanceledError())
	if _, err := first.wait(t); !temporal.IsCanceledError(err) {
		t.Errorf("%v", err)
	}
	if d := time.Since(began); d > stopWithin {
		t.Errorf("it took %s", d)
	}
	in := b.input("dea-1")
	in.Settle = true
	_, err := run(t, b.kato.Retire, in, attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false)
}
