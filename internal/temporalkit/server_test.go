package temporalkit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/temporalkit"
)

const takeoverQueue = "takeover"

func TestMain(m *testing.M) {
	if address := os.Getenv("TEMPORALKIT_TEST_WORKER"); address != "" {
		os.Exit(takeoverWorker(address))
	}
	os.Exit(m.Run())
}

// devstack starts a server and returns its address; the test is skipped where it was not built.
func devstack(t *testing.T) string {
	t.Helper()
	binary, err := filepath.Abs("../../bin/devstack")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("bin/devstack is not built: run `make bin/devstack`")
	}
	ports := filepath.Join(t.TempDir(), "ports.json")
	var out bytes.Buffer
	cmd := exec.Command(binary, "server", "start-dev", "--port", "0", "--no-s3", "--headless", "--ports-file", ports)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // nothing of it is kept
		<-ended
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		var stack struct{ Frontend string }
		if data, err := os.ReadFile(ports); err == nil && json.Unmarshal(data, &stack) == nil && stack.Frontend != "" {
			return stack.Frontend
		}
		select {
		case <-ended:
			t.Fatalf("devstack ended: %s", out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal("devstack was not ready within a minute")
	return ""
}

func dial(t *testing.T, o temporalkit.ClientOptions) client.Client {
	t.Helper()
	o.ConfigFile = writeConfig(t, "")
	c, err := temporalkit.LoadClient(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestSearchAttributes_RemovedAndRegisteredAgain_AreToldAndAddedOnce(t *testing.T) {
	t.Parallel()
	contact := &temporalkit.Contact{}
	c := dial(t, temporalkit.ClientOptions{Address: devstack(t), Contact: contact})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if last, err := contact.Last(); err != nil || time.Since(last) > time.Minute {
		t.Errorf("contact %s %v", last, err)
	}
	if err := temporalkit.CheckSearchAttributes(ctx, c, "default"); err != nil {
		t.Fatalf("devstack registers them: %v", err)
	}
	if added, err := temporalkit.RegisterSearchAttributes(ctx, c, "default"); err != nil || len(added) != 0 {
		t.Errorf("added %v %v, want nothing", added, err)
	}
	names := []string{"KatoflowPhase", "KatoflowNode"}
	if _, err := c.OperatorService().RemoveSearchAttributes(ctx, &operatorservice.RemoveSearchAttributesRequest{Namespace: "default", SearchAttributes: names}); err != nil {
		t.Fatal(err)
	}
	// The server lists from a cache for some seconds.
	var missing *temporalkit.MissingAttributesError
	eventually(t, ctx, func() bool {
		return errors.As(temporalkit.CheckSearchAttributes(ctx, c, "default"), &missing) && len(missing.Missing) == 2
	})
	if text := missing.Error(); !slices.Equal(missing.Missing, names) || !strings.Contains(text, "katoflow init") || !strings.Contains(text, "KatoflowPhase, KatoflowNode") {
		t.Errorf("missing %v: %s", missing.Missing, text)
	}
	added, err := temporalkit.RegisterSearchAttributes(ctx, c, "default")
	if err != nil || !slices.Equal(added, names) {
		t.Fatalf("added %v %v", added, err)
	}
	eventually(t, ctx, func() bool { return temporalkit.CheckSearchAttributes(ctx, c, "default") == nil })

	err = temporalkit.CheckSearchAttributes(ctx, c, "nowhere")
	if err == nil || !strings.Contains(err.Error(), `"nowhere" does not exist`) || strings.Contains(err.Error(), "\n") {
		t.Errorf("unknown namespace: %v", err)
	}
}

func eventually(t *testing.T, ctx context.Context, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatal("it never came true")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Takeover is the workflow and the activity of the takeover test.
func takeover(ctx workflow.Context) ([]int, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 10 * time.Minute, HeartbeatTimeout: 8 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1, MaximumInterval: time.Second},
	})
	var found []int
	err := workflow.ExecuteActivity(ctx, "Silent").Get(ctx, &found)
	return found, err
}

// silent records once, in its first attempt, and never beats again.
func silent(ctx context.Context) ([]int, error) {
	attempt := activity.GetInfo(ctx).Attempt
	var offset, length int
	if activity.HasHeartbeatDetails(ctx) {
		if err := activity.GetHeartbeatDetails(ctx, &offset, &length); err != nil {
			return nil, temporal.NewNonRetryableApplicationError(err.Error(), "Details", err)
		}
	}
	switch attempt {
	case 1:
		activity.RecordHeartbeat(ctx, 41, 2)
		fmt.Println("attempt 1")
		<-ctx.Done()
		return nil, ctx.Err()
	case 2: // long enough for the interceptor to beat, then lost for the next attempt
		if offset != 41 {
			return nil, temporal.NewNonRetryableApplicationError(fmt.Sprintf("attempt 2 found %d", offset), "Details", nil)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Second):
		}
		return nil, errors.New("once more")
	}
	return []int{offset, length, int(attempt)}, nil
}

func takeoverWorker(address string) int {
	scrubber := &temporalkit.Scrubber{}
	c, err := temporalkit.LoadClient(context.Background(), temporalkit.ClientOptions{Address: address, ConfigFile: os.DevNull, Logger: zap.NewNop(), Scrubber: scrubber})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	data, _ := temporalkit.Converters(scrubber)
	w := worker.New(c, takeoverQueue, temporalkit.WorkerOptions(temporalkit.Settings{
		Interceptor: temporalkit.NewInterceptor(temporalkit.InterceptorOptions{Converter: data})}))
	w.RegisterWorkflowWithOptions(takeover, workflow.RegisterOptions{Name: "Takeover"})
	w.RegisterActivityWithOptions(silent, activity.RegisterOptions{Name: "Silent"})
	if err := w.Run(worker.InterruptCh()); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func startTakeoverWorker(t *testing.T, address string, out *outputWaiter) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TEMPORALKIT_TEST_WORKER="+address)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// outputWaiter says when a text was written.
type outputWaiter struct {
	text string
	seen chan struct{}
	all  bytes.Buffer
}

func (o *outputWaiter) Write(p []byte) (int, error) {
	before := strings.Contains(o.all.String(), o.text)
	o.all.Write(p)
	if !before && strings.Contains(o.all.String(), o.text) {
		close(o.seen)
	}
	return len(p), nil
}

// A worker is killed while its activity, which never beats by itself, waits. Another one must have it again within 10 s, with what the
// first has recorded; and beats of the interceptor must not have lost that for the attempt after.
func TestWorkerKilled_ActivityThatNeverBeats_IsTakenOverWithin10sWithItsDetails(t *testing.T) {
	t.Parallel()
	address := devstack(t)
	first := &outputWaiter{text: "attempt 1", seen: make(chan struct{})}
	victim := startTakeoverWorker(t, address, first)
	c := dial(t, temporalkit.ClientOptions{Address: address})
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "op/prod/takeover/1", TaskQueue: takeoverQueue}, "Takeover")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.seen:
	case <-ctx.Done():
		t.Fatal("the first worker never got the activity")
	}
	// Several beats of the interceptor later, so that the heartbeat timeout counts from one of those.
	pending := func() (attempt int32, beat time.Time) {
		d, err := c.DescribeWorkflowExecution(ctx, run.GetID(), "")
		if err != nil || len(d.GetPendingActivities()) == 0 {
			return 0, time.Time{}
		}
		p := d.GetPendingActivities()[0]
		return p.GetAttempt(), p.GetLastHeartbeatTime().AsTime()
	}
	began := time.Now()
	eventually(t, ctx, func() bool { _, beat := pending(); return beat.Sub(began) > 4*time.Second })
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	startTakeoverWorker(t, address, &outputWaiter{text: "attempt 1", seen: make(chan struct{})})
	restarted := time.Now()
	eventually(t, ctx, func() bool {
		d, err := c.DescribeWorkflowExecution(ctx, run.GetID(), "")
		return err == nil && len(d.GetPendingActivities()) == 1 && d.GetPendingActivities()[0].GetAttempt() == 2 &&
			d.GetPendingActivities()[0].GetState().String() == "Started"
	})
	took := time.Since(restarted)
	t.Logf("taken over %s after the kill", time.Since(killed).Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("taken over %s after the restart, want at most 10s", took)
	}
	var found []int
	if err := run.Get(ctx, &found); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found, []int{41, 2, 3}) {
		t.Errorf("the third attempt found %v, want what the first recorded: 41, 2", found)
	}
}
