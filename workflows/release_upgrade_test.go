package workflows

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// releaseWorld is a world whose nodes have releases.
type releaseWorld struct {
	*world
	f        *fake
	versions map[string]string
	dialect  operation.UpgradeDialect
	problems []string
	packs    []string
	checked  []string
	// interrupted runs, by node.
	interrupted map[string]int
	upgraded    []activities.ReleaseNodeInput
	backups     []operation.BackupInput
	backupFails []error
	// maintenance as it was at each call.
	modes map[string]string
}

func newReleaseWorld(t *testing.T) *releaseWorld {
	w := &releaseWorld{world: newWorld(t, alsPlan()), versions: map[string]string{}, interrupted: map[string]int{}, modes: map[string]string{}, packs: []string{"java", "ours"},
		dialect: operation.UpgradeDialect{Cache: true, Offline: true, UpdateKato: true, Resume: true, SkipConfirmation: true, Version: true}}
	w.f = w.fake
	for _, n := range w.f.plan.Nodes {
		w.versions[n.Name] = "1.2.0"
	}
	for name, fn := range map[string]any{"ReleaseNodes": w.ReleaseNodes, "ReleaseCore": w.ReleaseCore, "Buildpacks": w.Buildpacks, "UpdateKato": w.UpdateKato, "DownloadRelease": w.DownloadRelease, "LookAtRelease": w.LookAtRelease,
		"UpgradeNode": w.UpgradeNode, "RollBackNode": w.RollBackNode, "PlanRelease": w.PlanRelease} {
		w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	w.OnWorkflow(operation.WorkflowBackup, mock.Anything, mock.Anything).Maybe().Return(func(_ workflow.Context, in operation.BackupInput) (*operation.Report, error) {
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		w.backups = append(w.backups, in)
		if !in.DryRun {
			w.f.calls = append(w.f.calls, "Backup")
		}
		if len(w.backupFails) > 0 {
			err := w.backupFails[0]
			if w.backupFails = w.backupFails[1:]; err != nil {
				return nil, err
			}
		}
		return &operation.Report{Export: &operation.Exported{Location: "s3://b/" + in.OperationID}}, nil
	})
	return w
}

func (w *releaseWorld) ReleaseNodes(ctx context.Context, in activities.ReleaseNodesInput) (activities.ReleaseNodesResult, error) {
	err := w.f.call(ctx, "ReleaseNodes", "")
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	out := activities.ReleaseNodesResult{Versions: map[string]string{}, Openly: []string{"dea-1"}}
	for _, n := range in.Nodes {
		out.Versions[n] = w.versions[n]
	}
	if in.Checklist {
		out.Problems = w.problems
		w.checked = append(w.checked, in.Nodes...)
	}
	return out, err
}

func (w *releaseWorld) ReleaseCore(ctx context.Context, _ activities.ReleaseCoreInput) (activities.ReleaseCoreResult, error) {
	return activities.ReleaseCoreResult{Dialect: w.dialect}, w.f.call(ctx, "ReleaseCore", "")
}

func (w *releaseWorld) Buildpacks(ctx context.Context, _ activities.OperationInput) ([]string, error) {
	return w.packs, w.f.call(ctx, "Buildpacks", "")
}

func (w *releaseWorld) UpdateKato(ctx context.Context, in activities.CoreReleaseInput) (activities.JobResult, error) {
	return w.coreResult("UpdateKato"), w.coreStep(ctx, "UpdateKato", in)
}

func (w *releaseWorld) DownloadRelease(ctx context.Context, in activities.CoreReleaseInput) (activities.JobResult, error) {
	return w.coreResult("DownloadRelease"), w.coreStep(ctx, "DownloadRelease", in)
}

func (w *releaseWorld) coreResult(name string) activities.JobResult {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	out := activities.JobResult{Started: true}
	if w.interrupted[name] > 0 {
		w.interrupted[name]--
		out.Interrupted = true
	}
	return out
}

func (w *releaseWorld) coreStep(ctx context.Context, name string, in activities.CoreReleaseInput) error {
	w.f.mu.Lock()
	w.modes[name] = w.f.maintenance
	w.f.mu.Unlock()
	return w.f.step(ctx, name, in.NodeInput)
}

func (w *releaseWorld) LookAtRelease(ctx context.Context, in activities.ReleaseNodeInput) (operation.ReleaseProgress, error) {
	err := w.f.step(ctx, "LookAtRelease", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	return operation.ReleaseProgress{Before: w.versions[in.Node.Name], Now: w.versions[in.Node.Name]}, err
}

func (w *releaseWorld) UpgradeNode(ctx context.Context, in activities.ReleaseNodeInput) (activities.UpgradeNodeResult, error) {
	err := w.f.step(ctx, "UpgradeNode", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.modes["UpgradeNode "+in.Node.Name] = w.f.maintenance
	out := activities.UpgradeNodeResult{JobResult: activities.JobResult{Started: true}, Progress: in.Progress}
	if err != nil || in.Settle {
		return out, err
	}
	if w.interrupted[in.Node.Name] > 0 {
		w.interrupted[in.Node.Name]--
		out.Interrupted = true
		return out, nil
	}
	w.upgraded = append(w.upgraded, in)
	w.versions[in.Node.Name] = in.To
	out.Progress.Now, out.Progress.Upgraded = in.To, true
	if in.Node.Core {
		w.packs = []string{"java"}
	}
	return out, nil
}

func (w *releaseWorld) RollBackNode(ctx context.Context, in activities.ReleaseNodeInput) (activities.UpgradeNodeResult, error) {
	err := w.f.step(ctx, "RollBackNode", in.NodeInput)
	out := activities.UpgradeNodeResult{JobResult: activities.JobResult{Started: true}, Progress: in.Progress}
	out.Progress.Now, out.Progress.Back = in.Progress.Before, true
	return out, err
}

func (w *releaseWorld) PlanRelease(ctx context.Context, in activities.PlanReleaseInput) (activities.PlanCommandsResult, error) {
	var out activities.PlanCommandsResult
	for _, n := range in.Nodes {
		out.Plans = append(out.Plans, operation.CommandPlan{Nodes: []string{n.Name}})
	}
	return out, w.f.call(ctx, "PlanRelease", "")
}

func (w *releaseWorld) release(changes ...func(*operation.ReleaseUpgradeInput)) (operation.Report, error) {
	w.t.Helper()
	in := operation.ReleaseUpgradeInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}, To: "1.3.0", Safety: operation.SafetyNone}
	for _, c := range changes {
		c(&in)
	}
	w.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: operation.WorkflowID("prod", operation.KindReleaseUpgrade, "op-1"), TaskQueue: "test"})
	w.ExecuteWorkflow(ReleaseUpgrade, in)
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.fake.calls)
	require.Equal(w.t, w.sent, w.settled, "every update was answered")
	return reportOf(w.t, w.world)
}

func TestRelease_AllNodes_OneAfterTheOtherInMaintenanceModeAndTheNotesAtTheEnd(t *testing.T) {
	w := newReleaseWorld(t)
	report, err := w.release()
	require.NoError(t, err)
	var order []string
	for _, in := range w.upgraded {
		order = append(order, in.Node.Name)
		require.True(t, in.Cached, "the packages are on the Core")
		require.Equal(t, "on", w.modes["UpgradeNode "+in.Node.Name], in.Node.Name)
	}
	require.Equal(t, []string{"dea-1", "dea-2", "core", "mysql-1", "fs-1"}, order)
	require.Equal(t, "off", w.modes["DownloadRelease"], "while the cluster is live")
	require.Equal(t, "put back (off)", report.Maintenance)
	require.Less(t, w.f.place("UpdateKato core"), w.f.place("DownloadRelease core"))
	require.Less(t, w.f.place("Gates dea-1"), w.f.place("UpgradeNode dea-2"), "one node at a time")
	require.Equal(t, "5 nodes upgraded to 1.3.0; what is left to do by hand is in the report", report.Message)
	require.Equal(t, []string{"ours"}, report.Release.Lost)
	require.Contains(t, report.Release.Afterwards[0], "ours")
	require.Contains(t, strings.Join(report.Release.Afterwards, "\n"), "/etc/sudoers.d/nopasswd")
	require.Equal(t, "1.2.0", node(t, report, "dea-1").Release.Before)
}

func TestRelease_EveryNodeHasIt_NothingIsTouched(t *testing.T) {
	w := newReleaseWorld(t)
	for n := range w.versions {
		w.versions[n] = "1.3.0-g12"
	}
	report, err := w.release(func(in *operation.ReleaseUpgradeInput) { in.Safety = operation.SafetyExport })
	require.NoError(t, err)
	require.Equal(t, "every node had 1.3.0 already", report.Message)
	require.Empty(t, report.Maintenance)
	require.Empty(t, report.Release.Afterwards)
	for _, c := range w.f.mutated() {
		require.Equal(t, "Fence", c, "nothing but the lease")
	}
}

func TestRelease_SomeNodesHaveIt_TheyAreLeftAlone(t *testing.T) {
	w := newReleaseWorld(t)
	w.versions["dea-1"], w.versions["core"] = "1.3.0", "1.3.0"
	report, err := w.release()
	require.NoError(t, err)
	require.Zero(t, w.f.count("Probe dea-1"))
	require.Equal(t, []string{"it has version 1.3.0 already"}, node(t, report, "core").Notes)
	require.Equal(t, "3 nodes upgraded to 1.3.0; what is left to do by hand is in the report", report.Message)
}

func TestRelease_OldKato_GetsNoCacheAndMayBeRolledBack(t *testing.T) {
	w := newReleaseWorld(t)
	w.dialect = operation.UpgradeDialect{Rollback: true, UpdateKato: true, Resume: true, SkipConfirmation: true, Version: true}
	w.f.script["UpgradeNode dea-1"] = []error{fail(operation.ErrRemoteExit, "dea-1: validation failed")}
	w.answer(operation.Back)
	report, err := w.release()
	require.Equal(t, operation.ErrNodesFailed, typeOf(err), "a node that was rolled back is not done")
	require.Zero(t, w.f.count("DownloadRelease core"))
	require.False(t, w.upgraded[0].Cached)
	require.Equal(t, "skipped", status(report)["dea-1"])
	require.True(t, node(t, report, "dea-1").Release.Back)
	require.Less(t, w.f.place("RollBackNode dea-1"), w.f.place("Gates dea-1"))
	require.Equal(t, 1, w.f.count("Gates dea-1"))
	require.Equal(t, "done", status(report)["dea-2"])
	require.Equal(t, "put back (off)", report.Maintenance)
}

func TestRelease_RollBackFails_IsAskedAndRetried(t *testing.T) {
	w := newReleaseWorld(t)
	w.dialect.Rollback = true
	w.f.script["UpgradeNode dea-1"] = []error{fail(operation.ErrRemoteExit, "dea-1: validation failed")}
	w.f.script["RollBackNode dea-1"] = []error{fail(operation.ErrRemoteExit, "dea-1: no")}
	w.answer(operation.Back, operation.Retry)
	report, _ := w.release()
	require.Equal(t, []string{"dea-1/node-upgrade/1", "dea-1/node-back/2"}, w.world.asked)
	require.Equal(t, 1, w.f.count("RollBackNode dea-1 try=2"))
	require.Equal(t, "skipped", status(report)["dea-1"])
}

func TestRelease_VersionNotTold_IsAcceptedByAnAnswer(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.script["UpgradeNode dea-1"] = []error{fail(operation.ErrVerify, "dea-1: has version 1.2.0")}
	w.answer(operation.Accept)
	report, err := w.release()
	require.NoError(t, err)
	require.True(t, node(t, report, "dea-1").Release.Accepted)
	require.Equal(t, 1, w.f.count("UpgradeNode dea-1"))
	require.Equal(t, 1, w.f.count("Gates dea-1"))
}

func TestRelease_Accept_IsNotOfferedForWhatFailed(t *testing.T) {
	u := &releaseUpgrade{in: operation.ReleaseUpgradeInput{To: "1.3.0"}}
	n := &operation.NodeReport{Step: operation.StepNodeUpgrade, NodeProgress: operation.NodeProgress{Release: &operation.ReleaseProgress{Before: "1.2.0"}}}
	require.Empty(t, u.answers(n, operation.Failure{Type: operation.ErrRemoteExit}))
	require.Equal(t, []operation.Decision{operation.Accept}, u.answers(n, operation.Failure{Type: operation.ErrVerify}))
	u.core.Dialect.Rollback = true
	require.Equal(t, []operation.Decision{operation.Back}, u.answers(n, operation.Failure{Type: operation.ErrRemoteExit}))
	require.Empty(t, u.answers(n, operation.Failure{Type: operation.ErrTimeout}), "it may still run")
	n.Release.Before = "1.3.0"
	require.Empty(t, u.answers(n, operation.Failure{Type: operation.ErrRemoteExit}), "kato would go further back than that")
	n.Release.Before, n.Step = "1.2.0", operation.StepRelease
	require.Empty(t, u.answers(n, operation.Failure{Type: operation.ErrVerify}))
}

func TestRelease_CoreRebootsInAnUpgradeOfAnotherNode_RunAgain(t *testing.T) {
	w := newReleaseWorld(t)
	w.interrupted["dea-1"], w.interrupted["DownloadRelease"] = 1, 1
	report, err := w.release()
	require.NoError(t, err)
	require.Equal(t, 1, w.f.count("UpgradeNode dea-1 try=2"))
	require.Equal(t, 1, w.f.count("DownloadRelease core try=2"))
	require.Contains(t, node(t, report, "dea-1").Notes, "the Core rebooted in the middle of kato node upgrade: run again")
}

func TestRelease_DownloadFails_MayBeSkippedAndNodesFetchTheirOwn(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.script["DownloadRelease core"] = []error{fail(operation.ErrRemoteExit, "core: no route"), fail(operation.ErrRemoteExit, "core: no route")}
	w.answer(operation.Retry, operation.Skip)
	report, err := w.release()
	require.NoError(t, err)
	require.Equal(t, 1, w.f.count("DownloadRelease core try=2"))
	require.False(t, w.upgraded[0].Cached)
	require.Contains(t, report.Warnings, "the packages were not downloaded before: every node fetches its own")
}

func TestRelease_AbortedAtTheDownload_LeavesTheClusterAsItWas(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.script["DownloadRelease core"] = []error{fail(operation.ErrRemoteExit, "core: no route")}
	w.answer(operation.Abort)
	report, err := w.release()
	require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
	require.Empty(t, w.upgraded)
	require.Empty(t, report.Maintenance)
	require.Equal(t, "untouched", status(report)["dea-1"])
}

func TestRelease_NobodyThere_TheDownloadThatFailsAborts(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.script["DownloadRelease core"] = []error{fail(operation.ErrRemoteExit, "core: no route")}
	_, err := w.release(func(in *operation.ReleaseUpgradeInput) { in.MaxFailures = new(1) })
	require.Error(t, err)
	require.Empty(t, w.world.asked)
	require.Empty(t, w.upgraded)
}

func TestRelease_CancelledWhileKatoRuns_KatoIsLetEndAndTheModeIsPutBack(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.during["UpgradeNode dea-1"] = func(ctx context.Context) {
		delete(w.f.during, "UpgradeNode dea-1")
		w.RegisterDelayedCallback(w.CancelWorkflow, 0)
		<-ctx.Done()
	}
	report, err := w.release()
	require.Error(t, err)
	require.Equal(t, 1, w.f.count("UpgradeNode dea-1 settle"))
	require.Equal(t, operation.PhaseCancelled, report.Phase)
	require.Zero(t, w.f.count("UpgradeNode dea-2"))
	require.Equal(t, "put back (off)", report.Maintenance)
	require.Contains(t, strings.Join(node(t, report, "dea-1").Notes, "\n"), "kato node upgrade has ended")
}

func TestRelease_WithAnExport_TheCheckIsADryRunAndTheExportIsMadeBeforeTheDownload(t *testing.T) {
	w := newReleaseWorld(t)
	w.backupFails = []error{nil, fail(operation.ErrRemoteExit, "files: no space")}
	w.answer(operation.Retry)
	report, err := w.release(func(in *operation.ReleaseUpgradeInput) { in.Safety = "" })
	require.NoError(t, err)
	require.Equal(t, []string{"cluster/safety/1"}, w.world.asked)
	require.Len(t, w.backups, 3)
	require.True(t, w.backups[0].DryRun)
	require.Equal(t, []string{"op-1-safety", "op-1-safety-2"}, []string{w.backups[1].OperationID, w.backups[2].OperationID})
	require.False(t, w.backups[1].DryRun)
	require.Equal(t, "s3://b/op-1-safety-2", report.Release.SafetyAt)
	require.Less(t, w.f.place("Backup"), w.f.place("UpdateKato core"))
}

func TestRelease_ExportNotPossible_IsAProblemBeforehand(t *testing.T) {
	w := newReleaseWorld(t)
	w.backupFails = []error{operation.NewError(operation.Failure{Type: operation.ErrPreflight, Message: "2 problems", Problems: []string{"no bucket", "no node"}})}
	_, err := w.release(func(in *operation.ReleaseUpgradeInput) { in.Safety = operation.SafetyExport })
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	report, _ := reportOf(t, w.world)
	require.Equal(t, []string{"cluster: the export before it: no bucket; --safety says what else may be made", "cluster: the export before it: no node; --safety says what else may be made"}, report.Failure.Problems)
	require.Empty(t, w.f.mutated())
}

func TestRelease_OutcomeUnknown_NoOtherNodeIsBegun(t *testing.T) {
	hangs := operation.NewError(operation.Failure{Type: operation.ErrTimeout, Message: "core: still runs", Job: "op-1-dea-1"})
	w := newReleaseWorld(t)
	w.f.script["UpgradeNode dea-1"] = []error{hangs}
	w.answer(operation.Abort)
	report, err := w.release()
	require.Error(t, err)
	require.Zero(t, w.f.count("UpgradeNode dea-2"))
	require.Contains(t, strings.Join(report.Warnings, "\n"), "maintenance mode was put back although job op-1-dea-1 may still run")

	w = newReleaseWorld(t)
	w.f.script["UpgradeNode dea-1"] = []error{hangs}
	_, err = w.release(func(in *operation.ReleaseUpgradeInput) { in.MaxFailures = new(3) })
	require.Error(t, err)
	require.Zero(t, w.f.count("UpgradeNode dea-2"), "nobody is there, and kato does one thing at a time")
}

func TestRelease_SetBatch_IsRefused(t *testing.T) {
	r := &run{req: operation.Request{OperationID: "op-1"}, procedure: &releaseUpgrade{}}
	require.ErrorContains(t, r.maySetBatch(operation.SetBatchRequest{Batch: "2"}), "one node at a time")
}

func TestRelease_NewerThanThat_IsAProblem(t *testing.T) {
	w := newReleaseWorld(t)
	w.versions["core"] = "1.10.0"
	_, err := w.release()
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	report, _ := reportOf(t, w.world)
	require.Equal(t, []string{"core: has version 1.10.0, which is newer than 1.3.0"}, report.Failure.Problems)
	require.Empty(t, w.f.mutated())
}

func TestRelease_CoreNotAmongTheNodes_ItsChecklistIsAskedAllTheSame(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.plan.Nodes = w.f.plan.Nodes[:1]
	w.f.plan.Others = []string{"core"}
	_, err := w.release()
	require.NoError(t, err)
	require.Contains(t, w.checked, "core")
}

func TestRelease_CoreRebootsInItsOwnUpgrade_KatoIsAskedOnceMore(t *testing.T) {
	w := newReleaseWorld(t)
	w.interrupted["core"] = 1
	report, err := w.release()
	require.NoError(t, err)
	require.Equal(t, 1, w.f.count("UpgradeNode core try=2"))
	require.Contains(t, strings.Join(node(t, report, "core").Notes, "\n"), "the Core rebooted in its own upgrade")
	require.True(t, w.upgraded[2].Again)
}

func TestRelease_CancelledWhileADownloadThatMayRunIsAsked_IsFollowedToItsEnd(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.script["DownloadRelease core"] = []error{operation.NewError(operation.Failure{Type: operation.ErrTimeout, Message: "core: still runs", Job: "j"})}
	w.RegisterDelayedCallback(w.CancelWorkflow, time.Hour)
	report, err := w.release()
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, report.Phase)
	require.Equal(t, 1, w.f.count("DownloadRelease core settle"))
	require.Empty(t, w.upgraded)
}

func TestRelease_Checklist_NamesAllAndTouchesNothing(t *testing.T) {
	w := newReleaseWorld(t)
	w.problems = []string{"dea-1: / has 1 GiB free", "core: no"}
	_, err := w.release()
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.Empty(t, w.f.mutated())
	report, _ := reportOf(t, w.world)
	require.Equal(t, w.problems, report.Failure.Problems)
}

func TestRelease_DryRun_ShowsTheNodesThatHaveSomethingToDo(t *testing.T) {
	w := newReleaseWorld(t)
	w.versions["dea-1"] = "1.3.0"
	report, err := w.release(func(in *operation.ReleaseUpgradeInput) { in.DryRun = true })
	require.NoError(t, err)
	var nodes []string
	for _, c := range report.Commands {
		nodes = append(nodes, c.Nodes...)
	}
	require.Equal(t, []string{"dea-2", "core", "mysql-1", "fs-1"}, nodes)
	require.Empty(t, w.f.mutated())
}

func TestRelease_BadInput_NamesAll(t *testing.T) {
	w := newReleaseWorld(t)
	report, err := w.release(func(in *operation.ReleaseUpgradeInput) { in.To, in.Safety, in.Batch = "latest", "prayer", "2" })
	require.Equal(t, operation.ErrBadInput, typeOf(err))
	require.Len(t, report.Failure.Problems, 3)
}

func TestRelease_PlainCluster_HasNoKato(t *testing.T) {
	w := newReleaseWorld(t)
	w.f.plan.Core = ""
	_, err := w.release()
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.False(t, slices.Contains(w.f.calls, "ReleaseCore"))
}
