package workflows

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// corpus is made by `make histories`.
func corpus(t *testing.T) []string {
	files, err := filepath.Glob("testdata/history/*/*.json.gz")
	require.NoError(t, err)
	require.NotEmpty(t, files, "there are no recorded histories: run `make histories`")
	return files
}

func recorded(t *testing.T, file string) *historypb.History {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	h, err := client.HistoryFromJSON(z, client.HistoryJSONOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, h.Events)
	return h
}

// replay runs a recorded history through the workflows that register registers, as a worker does that takes over an open run.
func replay(t *testing.T, h *historypb.History, register func(Registry)) error {
	data, failures := temporalkit.Converters(nil)
	r, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{DisableRegistrationAliasing: true, DataConverter: data, FailureConverter: failures})
	require.NoError(t, err)
	register(r)
	started := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
	return r.ReplayWorkflowHistoryWithOptions(temporalkit.NewZap(zap.NewNop()), h, worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: started.WorkflowId, RunID: started.OriginalExecutionRunId}})
}

func nameOf(file string) string {
	return filepath.Base(filepath.Dir(file)) + "/" + strings.TrimSuffix(filepath.Base(file), ".json.gz")
}

func TestReplay_EveryRecordedHistory_IsDeterministic(t *testing.T) {
	types := map[string]int{}
	for _, file := range corpus(t) {
		h := recorded(t, file)
		types[h.Events[0].GetWorkflowExecutionStartedEventAttributes().WorkflowType.Name]++
		t.Run(nameOf(file), func(t *testing.T) {
			t.Parallel()
			require.NoError(t, replay(t, h, func(r Registry) { Register(r) }))
		})
	}
	for _, name := range []string{operation.WorkflowSecurityUpgrade, operation.WorkflowSecurityUpgradeNode, operation.WorkflowClusterLock, operation.WorkflowClusterCheck, operation.WorkflowClusterTrust, operation.WorkflowClusterStatus,
		operation.WorkflowBackup, operation.WorkflowBackupList, operation.WorkflowBackupShow, operation.WorkflowBackupVerify, operation.WorkflowBackupPrune, operation.WorkflowBackupDelete,
		operation.WorkflowRestore, operation.WorkflowHold, operation.WorkflowApps, operation.WorkflowAppsBatch, operation.WorkflowAppsList,
		operation.WorkflowSnapshot, operation.WorkflowSnapshotList, operation.WorkflowSnapshotShow, operation.WorkflowSnapshotVerify, operation.WorkflowSnapshotPrune, operation.WorkflowSnapshotDelete,
		operation.WorkflowSnapshotRollback, operation.WorkflowImageUpgrade, operation.WorkflowImageUpgradeNode, operation.WorkflowPatch, operation.WorkflowPatchNode, operation.WorkflowPatchStatus, operation.WorkflowAccess, operation.WorkflowAccessNode, operation.WorkflowAccessCheck} {
		require.NotZero(t, types[name], "no history of %s", name)
	}
}

// upgradeBeforeProbe is the work on a node with two steps changed over, as somebody might do who does not think of operations that are open.
func upgradeBeforeProbe(ctx workflow.Context, in nodeUpgradeInput) (nodeResult, error) {
	n := &nodeUpgrade{in: in, nodeRun: nodeRun{nodeTask: in.nodeTask, progress: in.Progress, jobTry: 1}}
	if err := n.upgrade(ctx); err != nil {
		return nodeResult{}, err
	}
	return n.see(ctx, n)
}

// pausesFirst has one more timer than the operation.
func pausesFirst(ctx workflow.Context, in operation.SecurityUpgradeInput) (*operation.Report, error) {
	if err := workflow.Sleep(ctx, time.Second); err != nil {
		return nil, err
	}
	return SecurityUpgrade(ctx, in)
}

// lockThatEnds is a lock that does not hold for ever.
func lockThatEnds(ctx workflow.Context, _ LockInput) error { return workflow.Sleep(ctx, time.Hour) }

func TestReplay_ChangedWorkflow_IsFound(t *testing.T) {
	changed := map[string]any{operation.WorkflowSecurityUpgradeNode: upgradeBeforeProbe, operation.WorkflowSecurityUpgrade: pausesFirst, operation.WorkflowClusterLock: lockThatEnds}
	tried := map[string]int{}
	for _, file := range corpus(t) {
		if !strings.HasPrefix(filepath.Base(file), "plain.") {
			continue
		}
		h := recorded(t, file)
		name := h.Events[0].GetWorkflowExecutionStartedEventAttributes().WorkflowType.Name
		if changed[name] == nil {
			continue
		}
		tried[name]++
		err := replay(t, h, func(r Registry) { r.RegisterWorkflowWithOptions(changed[name], workflow.RegisterOptions{Name: name}) })
		require.ErrorContains(t, err, "[TMPRL1100]", "%s replays with a changed workflow", file)
	}
	require.Len(t, tried, len(changed))
}
