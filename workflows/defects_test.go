package workflows

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

func TestSecurityUpgrade_FiveHundredNodesFailWithLongOutput_TheReportStillFitsAPayload(t *testing.T) {
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("node-%03d", i))
	}
	w := newWorld(t, plainPlan(names...))
	for _, n := range names {
		w.fake.script["Probe "+n] = []error{operation.NewError(operation.Failure{Type: operation.ErrRemoteExit, Message: n + ": " + strings.Repeat("m", 900), Tail: strings.Repeat("t", 4096)})}
	}
	all := 500
	report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.MaxFailures, in.Batch = &all, "25" }))
	require.Equal(t, operation.ErrNodesFailed, typeOf(err))
	require.Len(t, report.Nodes, 500)
	stored, err := json.Marshal(report)
	require.NoError(t, err)
	require.LessOrEqual(t, len(stored), maxReport+(64<<10))
	full := report
	full.Nodes = slices.Clone(report.Nodes)
	for i := range full.Nodes {
		full.Nodes[i].Failure = &operation.Failure{Tail: strings.Repeat("<", 4096)}
	}
	require.Greater(t, size(full), maxReport, "the estimate sees what is large")
	require.NotEmpty(t, report.Nodes[499].Failure.Message)
}

func TestNotification_ManyOpenQuestions_CarriesOnlyTheNewOne(t *testing.T) {
	plan := plainPlan("a", "b", "c")
	plan.NotifyOn = []string{operation.EventParked}
	w := newWorld(t, plan)
	for _, n := range []string{"a", "b", "c"} {
		w.fake.script["Upgrade "+n] = []error{fail(operation.ErrRemoteExit, n+": exited 1")}
	}
	w.answer(operation.Skip, operation.Skip, operation.Skip)
	_, _ = w.run(input(func(in *operation.SecurityUpgradeInput) { in.NoCanary, in.Batch = true, "3" }))
	require.Len(t, w.fake.notifications, 3)
	for _, n := range w.fake.notifications {
		require.Len(t, n.Questions, 1)
	}
}

func TestSecurityUpgrade_CancelledDuringARepair_TheRepairIsFollowedToItsEnd(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.interrupted["a"] = 2 // the settled upgrade says again that it was interrupted
	w.fake.during["Repair a"] = func(ctx context.Context) {
		w.fake.mu.Lock()
		delete(w.fake.during, "Repair a")
		w.fake.mu.Unlock()
		w.RegisterDelayedCallback(w.CancelWorkflow, 0)
		<-ctx.Done()
	}
	_, err := w.run(input())
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	require.Equal(t, 1, w.fake.count("Repair a settle"))
}

func TestSecurityUpgrade_SkippedNodeWhoseJobMayStillRun_KeepsItsSlotUntilTheJobHasEnded(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b"))
	w.fake.script["Upgrade a"] = []error{operation.NewError(operation.Failure{Type: operation.ErrTimeout, Message: "a: took too long and still runs", Job: "op-1.a.upgrade.1"})}
	w.answer(operation.Skip, operation.Wait)
	report, _ := w.run(input())
	require.Equal(t, []string{"a/upgrade/1", "a/out-of-service/1"}, w.asked)
	require.Less(t, w.fake.place("Upgrade a settle"), w.fake.place("Probe b"), "b waits for the job on a")
	require.Equal(t, w.fake.plan.BootTimeout.D(), w.fake.patience["Upgrade a"], "who answers wait may have just switched the node on")
	require.False(t, node(t, report, "a").OutOfService)
}

func TestQuestion_AskedAgain_HasANewKey(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.script["Gates a"] = []error{fail(operation.ErrGates, "no"), fail(operation.ErrGates, "no"), fail(operation.ErrGates, "no")}
	w.answer(operation.Retry, operation.Retry, operation.Retry)
	_, err := w.run(input())
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, k := range w.asked {
		require.False(t, seen[k], "%s was asked twice", k)
		seen[k] = true
	}
}

func TestSecurityUpgrade_MaintenanceRecordGone_IsAQuestionNotASuccess(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.during["Record a"] = func(context.Context) { w.fake.found = "on" } // what LeaveMaintenance finds when its record is gone
	w.answer(operation.Leave)
	report, _ := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Maintenance = true }))
	require.Equal(t, []string{"cluster/maintenance-off/1"}, w.asked)
	require.Contains(t, report.Maintenance, "left on")
}

func TestCell_BackslashesCannotUndoAnEscape(t *testing.T) {
	require.Equal(t, `\\\[click\\\](https://x)`, cell(`\[click\](https://x)`, 100))
	require.Equal(t, `\\\|`, cell(`\|`, 100))
}

func TestSecurityUpgrade_RepairInterrupted_IsNotSaidToBeRepaired(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.interrupted["a"], w.fake.repairInterrupted = 1, true
	w.at(5*time.Second, func() { w.fake.mu.Lock(); w.fake.repairInterrupted = false; w.fake.mu.Unlock() })
	w.answer(operation.Retry)
	report, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, []string{"a/upgrade/1"}, w.asked)
	require.Contains(t, report.Answers[0].Step, "upgrade")
}
