package temporalkit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

func watched(s *testsuite.WorkflowTestSuite) (*observer.ObservedLogs, worker.Options) {
	core, logs := observer.New(zap.DebugLevel)
	s.SetLogger(temporalkit.NewZap(zap.New(core)))
	return logs, worker.Options{Interceptors: temporalkit.WorkerOptions(temporalkit.Settings{
		Interceptor: temporalkit.NewInterceptor(temporalkit.InterceptorOptions{KeepAlive: 20 * time.Millisecond})}).Interceptors}
}

// line returns the fields of the only line with the message.
func line(t *testing.T, logs *observer.ObservedLogs, message string) map[string]any {
	t.Helper()
	found := logs.FilterMessage(message).All()
	if len(found) != 1 {
		t.Fatalf("%d lines %q, want 1, in %v", len(found), message, logs.All())
	}
	return found[0].ContextMap()
}

func wantFields(t *testing.T, got map[string]any, want map[string]any) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("field %s is %v, want %v, in %v", k, got[k], v, got)
		}
	}
}

func TestInterceptor_ActivityOnANode_LogsOperationNodeStepAndTry(t *testing.T) {
	var s testsuite.WorkflowTestSuite
	logs, options := watched(&s)
	env := s.NewTestActivityEnvironment()
	env.SetWorkerOptions(options)
	env.RegisterActivityWithOptions(func(ctx context.Context, in activities.UpgradeInput) error {
		activity.GetLogger(ctx).Info("in the activity", "own", 1)
		return errors.New("line one\nline two\x1b[31m")
	}, activity.RegisterOptions{Name: "Upgrade"})
	in := activities.UpgradeInput{NodeInput: activities.NodeInput{
		Operation: activities.Operation{ID: "op-7", Cluster: "prod", WorkflowID: "op/prod/upgrade-security/op-7"},
		Node:      operation.PlannedNode{Name: "dea-3"}, JobTry: 2}}
	if _, err := env.ExecuteActivity("Upgrade", in); err == nil {
		t.Fatal("the activity's error is gone")
	}
	want := map[string]any{"operation": "op-7", "cluster": "prod", "kind": "upgrade-security", "node": "dea-3", "step": operation.StepUpgrade, "try": int64(2)}
	for _, message := range []string{"activity begins", "in the activity", "activity failed"} {
		wantFields(t, line(t, logs, message), want)
	}
	wantFields(t, line(t, logs, "in the activity"), map[string]any{"own": int64(1), "ActivityType": "Upgrade"})
	wantFields(t, line(t, logs, "activity failed"), map[string]any{"error": "line one line two?[31m"})
}

func TestInterceptor_StepsOfActivities_AreNamedAsInReports(t *testing.T) {
	for name, step := range map[string]string{
		"ClusterGates": operation.StepClusterGates, "Probe": operation.StepProbe, "Reboot": operation.StepReboot,
		"EnterMaintenance": operation.StepMaintenanceOn, "LeaveMaintenance": operation.StepMaintenanceOff, "LockHolder": "lock-holder",
	} {
		var s testsuite.WorkflowTestSuite
		logs, options := watched(&s)
		env := s.NewTestActivityEnvironment()
		env.SetWorkerOptions(options)
		env.RegisterActivityWithOptions(func(context.Context, string) error { return nil }, activity.RegisterOptions{Name: name})
		if _, err := env.ExecuteActivity(name, "prod"); err != nil {
			t.Fatal(err)
		}
		wantFields(t, line(t, logs, "activity done"), map[string]any{"step": step})
	}
}

func TestInterceptor_InputsOfAnyShape_DoNotHurt(t *testing.T) {
	type embedded struct{ Node string }
	type outer struct {
		*embedded
		Operation string
		Try       string
		Step      int
	}
	for name, in := range map[string]any{"nil": nil, "number": 3, "nil pointer inside": outer{}, "list": []string{"a"}, "pointer": &activities.NodeInput{}} {
		var s testsuite.WorkflowTestSuite
		logs, options := watched(&s)
		env := s.NewTestActivityEnvironment()
		env.SetWorkerOptions(options)
		env.RegisterActivityWithOptions(func(_ context.Context, _ any) error { return nil }, activity.RegisterOptions{Name: "Probe"})
		if _, err := env.ExecuteActivity("Probe", in); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantFields(t, line(t, logs, "activity done"), map[string]any{"step": "probe"})
	}
}

func TestInterceptor_WorkflowAndItsChild_LogTheOperation(t *testing.T) {
	var s testsuite.WorkflowTestSuite
	logs, options := watched(&s)
	env := s.NewTestWorkflowEnvironment()
	env.SetWorkerOptions(options)
	type nodeInput struct {
		Operation activities.Operation
		Node      operation.PlannedNode
		FromStep  string
		Try       int
	}
	env.RegisterWorkflowWithOptions(func(ctx workflow.Context, in nodeInput) error {
		workflow.GetLogger(ctx).Info("in the child")
		return nil
	}, workflow.RegisterOptions{Name: "Child"})
	env.RegisterWorkflowWithOptions(func(ctx workflow.Context, in operation.SecurityUpgradeInput) error {
		workflow.GetLogger(ctx).Info("in the operation")
		return workflow.ExecuteChildWorkflow(ctx, "Child", nodeInput{Operation: activities.Operation{ID: "op-7", Cluster: "prod", WorkflowID: "op/prod/upgrade-security/op-7"},
			Node: operation.PlannedNode{Name: "dea-3"}, FromStep: operation.StepReboot, Try: 2}).Get(ctx, nil)
	}, workflow.RegisterOptions{Name: "Parent"})
	env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: "op/prod/upgrade-security/op-7"})
	env.ExecuteWorkflow("Parent", operation.SecurityUpgradeInput{Request: operation.Request{Cluster: "prod"}})
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	wantFields(t, line(t, logs, "in the operation"), map[string]any{"operation": "op-7", "cluster": "prod", "kind": "upgrade-security"})
	wantFields(t, line(t, logs, "in the child"), map[string]any{"operation": "op-7", "cluster": "prod", "node": "dea-3", "step": "reboot", "try": int64(2)})
}

func TestPump_ActivityThatWaits_BeatsAndLeavesNothingBehind(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	var s testsuite.WorkflowTestSuite
	env := s.NewTestActivityEnvironment()
	beaten := make(chan int, 100)
	env.RegisterActivityWithOptions(func(ctx context.Context) error {
		n := 0
		stop := temporalkit.Pump(ctx, 5*time.Millisecond, func() any { n++; beaten <- n; return n })
		defer stop()
		for range 3 {
			select {
			case <-beaten:
			case <-time.After(10 * time.Second):
				return errors.New("no heartbeat")
			}
		}
		stop() // and once more by the defer
		return nil
	}, activity.RegisterOptions{Name: "Wait"})
	if _, err := env.ExecuteActivity("Wait"); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, ignore)
}

func TestPump_ContextThatEnded_Stops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	temporalkit.Pump(ctx, time.Hour, nil)() // a pump that went on would wait for ever
}
