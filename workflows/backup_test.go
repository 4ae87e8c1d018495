package workflows

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// exportFake adds the activities of an export to the fake cluster.
type exportFake struct {
	*fake
	ready    activities.ExportReadyResult
	settled  []string // steps that were settled
	tidied   []activities.TidyInput
	moved    []activities.TransferInput
	readOnly map[string]string // maintenance mode as it was during each step
}

func exportPlan() operation.Plan {
	p := alsPlan()
	p.Others = []string{"dea-1", "dea-2", "core", "mysql-1"}
	p.Nodes = []operation.PlannedNode{{Name: "fs-1", Roles: []string{"filesystem"}}}
	p.ExportTimeout = operation.Duration(2 * time.Hour)
	return p
}

func newExport(t *testing.T) (*world, *exportFake) {
	w := newWorld(t, exportPlan())
	f := &exportFake{fake: w.fake, readOnly: map[string]string{}}
	for name, fn := range map[string]any{"ExportReady": f.ExportReady, "PrepareExport": f.PrepareExport, "Export": f.Export, "CheckArchive": f.CheckArchive,
		"Transfer": f.Transfer, "Place": f.Place, "TidyExport": f.TidyExport, "PlanExport": f.PlanExport} {
		w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return w, f
}

func (f *exportFake) ExportReady(ctx context.Context, _ activities.ExportReadyInput) (activities.ExportReadyResult, error) {
	return f.ready, f.call(ctx, "ExportReady", "")
}

func (f *exportFake) PrepareExport(ctx context.Context, in activities.ExportInput) (activities.PrepareExportResult, error) {
	return activities.PrepareExportResult{Place: "/staging/op-1", Contents: &operation.ExportedContents{Apps: 7}}, f.at(ctx, "PrepareExport", in)
}

func (f *exportFake) at(ctx context.Context, name string, in activities.ExportInput) error {
	f.mu.Lock()
	if in.Settle {
		f.settled = append(f.settled, name)
	} else {
		f.readOnly[name] = f.maintenance
	}
	f.mu.Unlock()
	return f.step(ctx, name, in.NodeInput)
}

func (f *exportFake) Export(ctx context.Context, in activities.ExportInput) (activities.ExportResult, error) {
	require.Equal(f.t, "/staging/op-1", in.Place)
	return activities.ExportResult{JobResult: activities.JobResult{Started: true}, Size: 100}, f.at(ctx, "Export", in)
}

func (f *exportFake) CheckArchive(ctx context.Context, in activities.ExportInput) (activities.CheckArchiveResult, error) {
	return activities.CheckArchiveResult{JobResult: activities.JobResult{Started: true}, Size: 100, SHA256: strings.Repeat("ab", 32), Entries: 5}, f.at(ctx, "CheckArchive", in)
}

func (f *exportFake) Transfer(ctx context.Context, in activities.TransferInput) (activities.TransferResult, error) {
	f.mu.Lock()
	f.moved = append(f.moved, in)
	f.mu.Unlock()
	return activities.TransferResult{Location: "s3://b/k", StoredSize: 100, Parts: 1, Mode: operation.TransferDirect}, f.at(ctx, "Transfer", in.ExportInput)
}

func (f *exportFake) Place(ctx context.Context, in activities.TransferInput) (activities.TransferResult, error) {
	f.mu.Lock()
	f.moved = append(f.moved, in)
	f.mu.Unlock()
	return activities.TransferResult{Location: "fs-1:/mnt/x.tgz", StoredSize: 100}, f.at(ctx, "Place", in.ExportInput)
}

func (f *exportFake) TidyExport(ctx context.Context, in activities.TidyInput) (activities.JobResult, error) {
	f.mu.Lock()
	f.tidied = append(f.tidied, in)
	f.mu.Unlock()
	return activities.JobResult{Started: true}, f.at(ctx, "TidyExport", in.ExportInput)
}

func (f *exportFake) PlanExport(ctx context.Context, _ activities.PlanExportInput) (activities.PlanCommandsResult, error) {
	return activities.PlanCommandsResult{Plans: []operation.CommandPlan{{Nodes: []string{"fs-1"}, Commands: []operation.PlannedCommand{{Step: "export", Command: "kato data export --cluster"}}}}},
		f.call(ctx, "PlanExport", "")
}

func backupInput(changes ...func(*operation.BackupInput)) operation.BackupInput {
	in := operation.BackupInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}}
	for _, c := range changes {
		c(&in)
	}
	return in
}

// backup executes the operation and returns its report and error.
func (w *world) backup(in operation.BackupInput) (operation.Report, error) {
	w.t.Helper()
	options := startOptions()
	options.ID = operation.WorkflowID("prod", operation.KindBackup, "op-1")
	w.SetStartWorkflowOptions(options)
	w.ExecuteWorkflow(Backup, in)
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.fake.calls)
	require.Equal(w.t, w.sent, w.settled, "every update was answered")
	report, err := reportOf(w.t, w)
	require.NotEqual(w.t, "on", w.fake.maintenance, "maintenance mode is as it was found, however it ended")
	return report, err
}

// steps are the calls on the node and to maintenance mode, in order.
func (f *exportFake) steps() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range f.calls {
		switch strings.Fields(c)[0] {
		case "PrepareExport", "Export", "CheckArchive", "Transfer", "Place", "TidyExport", "EnterMaintenance", "LeaveMaintenance":
			out = append(out, strings.ReplaceAll(c, " fs-1", ""))
		}
	}
	return strings.Join(out, ", ")
}

const wellDone = "PrepareExport, EnterMaintenance, Export, LeaveMaintenance, CheckArchive, Transfer, TidyExport"

func TestBackup_AllWell_StepsInOrderAndMaintenanceAroundTheExportAlone(t *testing.T) {
	w, f := newExport(t)
	report, err := w.backup(backupInput())
	require.NoError(t, err)
	require.Equal(t, []string{"Resolve", "LockToken", "ExportReady", "Preflight", "Fence"}, sortedPair(f.calls[:5]))
	require.Equal(t, wellDone, f.steps())
	require.Equal(t, "on", f.readOnly["Export"])
	require.Equal(t, "off", f.readOnly["PrepareExport"])
	require.Equal(t, "off", f.readOnly["CheckArchive"])
	require.Equal(t, operation.PhaseDone, report.Phase)
	require.Equal(t, "100 B in s3://b/k", report.Message)
	require.Equal(t, operation.NodeDone, report.Nodes[0].Status)
	require.Equal(t, operation.StepTidy, report.Nodes[0].Step)
	require.Zero(t, report.Slots)
	e := *report.Export
	e.ExportTime, e.MaintenanceTime, e.TransferTime = 0, 0, 0
	require.Equal(t, operation.Exported{Location: "s3://b/k", Size: 100, SHA256: strings.Repeat("ab", 32), StoredSize: 100, Entries: 5, Transfer: operation.TransferDirect, Parts: 1,
		Contents: &operation.ExportedContents{Apps: 7}}, e)
	require.False(t, f.tidied[0].Abort)
	require.Empty(t, f.settled)
}

// sortedPair puts the two that are asked at once into one order.
func sortedPair(calls []string) []string {
	out := append([]string(nil), calls...)
	if out[2] == "Preflight" {
		out[2], out[3] = out[3], out[2]
	}
	return out
}

func TestBackup_MaintenanceChoices_DecideWhetherTheClusterIsReadOnly(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*operation.BackupInput)
		want   string
	}{
		"off":              {func(in *operation.BackupInput) { in.Maintenance = operation.MaintenanceOff }, "off"},
		"one node, auto":   {func(in *operation.BackupInput) { in.OnlyThisNode = true }, "off"},
		"one node, but on": {func(in *operation.BackupInput) { in.OnlyThisNode, in.Maintenance = true, operation.MaintenanceOn }, "on"},
		"cluster, auto":    {func(in *operation.BackupInput) { in.Maintenance = operation.MaintenanceAuto }, "on"},
	} {
		t.Run(name, func(t *testing.T) {
			w, f := newExport(t)
			_, err := w.backup(backupInput(c.change))
			require.NoError(t, err)
			require.Equal(t, c.want, f.readOnly["Export"])
		})
	}
}

func TestBackup_DryRun_NothingMutatedAndNoLock(t *testing.T) {
	w, f := newExport(t)
	report, err := w.backup(backupInput(func(in *operation.BackupInput) { in.DryRun = true }))
	require.NoError(t, err)
	require.Empty(t, f.steps())
	require.Zero(t, f.count("LockToken"))
	require.NotEmpty(t, report.Commands)
	require.Equal(t, operation.NodePlanned, report.Nodes[0].Status)
}

func TestBackup_PreflightFindsProblems_NothingIsTouched(t *testing.T) {
	w, f := newExport(t)
	f.ready.Problems = []string{"bucket: absent", "fs-1: full"}
	w.fake.preflight["dea-1"] = activities.NodePreflight{Problems: []string{"down"}}
	report, err := w.backup(backupInput())
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.ElementsMatch(t, []string{"bucket: absent", "fs-1: full", "dea-1: down"}, report.Failure.Problems)
	require.Empty(t, f.steps())
}

func TestBackup_StepFails_RetryGoesOnWhereItHelps(t *testing.T) {
	for name, c := range map[string]struct {
		step, kind string
		want       string
	}{
		"export failed":              {"Export", operation.ErrRemoteExit, "PrepareExport, EnterMaintenance, Export, LeaveMaintenance, PrepareExport try=2, EnterMaintenance, Export try=2, LeaveMaintenance, CheckArchive try=2, Transfer try=2, TidyExport try=2"},
		"export's end unknown":       {"Export", operation.ErrUnreachable, "PrepareExport, EnterMaintenance, Export, LeaveMaintenance, " + wellDone},
		"archive not whole":          {"CheckArchive", operation.ErrArchive, "PrepareExport, EnterMaintenance, Export, LeaveMaintenance, CheckArchive, PrepareExport try=2, EnterMaintenance, Export try=2, LeaveMaintenance, CheckArchive try=2, Transfer try=2, TidyExport try=2"},
		"node away during the check": {"CheckArchive", operation.ErrUnreachable, "PrepareExport, EnterMaintenance, Export, LeaveMaintenance, CheckArchive, CheckArchive, Transfer, TidyExport"},
		"bucket full":                {"Transfer", operation.ErrS3, strings.Replace(wellDone, "Transfer", "Transfer, Transfer", 1)},
		"changed in the transfer":    {"Transfer", operation.ErrArchive, "PrepareExport, EnterMaintenance, Export, LeaveMaintenance, CheckArchive, Transfer, PrepareExport try=2, EnterMaintenance, Export try=2, LeaveMaintenance, CheckArchive try=2, Transfer try=2, TidyExport try=2"},
		"tidying up":                 {"TidyExport", operation.ErrUnreachable, wellDone + ", TidyExport"},
	} {
		t.Run(name, func(t *testing.T) {
			w, f := newExport(t)
			f.script[c.step+" fs-1"] = []error{fail(c.kind, "fs-1: no")}
			w.answer(operation.Retry)
			report, err := w.backup(backupInput())
			require.NoError(t, err)
			require.Equal(t, c.want, f.steps())
			require.Nil(t, report.Nodes[0].Failure)
			require.Len(t, report.Answers, 1)
		})
	}
}

func TestBackup_Aborted_LeavesNothing(t *testing.T) {
	for step, kind := range map[string]string{"PrepareExport": operation.ErrRemoteExit, "Export": operation.ErrRemoteExit, "CheckArchive": operation.ErrArchive, "Transfer": operation.ErrS3} {
		t.Run(step, func(t *testing.T) {
			w, f := newExport(t)
			f.script[step+" fs-1"] = []error{fail(kind, "fs-1: no")}
			w.answer(operation.Abort)
			report, err := w.backup(backupInput())
			require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
			require.Equal(t, operation.PhaseAborted, report.Phase)
			require.Equal(t, operation.NodeFailed, report.Nodes[0].Status)
			require.Equal(t, "fs-1: no", report.Nodes[0].Failure.Message)
			require.Nil(t, report.Export)
			require.Len(t, f.tidied, 1)
			require.True(t, f.tidied[0].Abort)
			require.Empty(t, f.settled, "how the job ended is known")
		})
	}
}

func TestBackup_AbortedWhileAJobMayRun_TheJobIsEndedBeforeItsFilesAreRemoved(t *testing.T) {
	for step, toPath := range map[string]string{"Export": "", "CheckArchive": "", "Place": "/mnt/backup"} {
		t.Run(step, func(t *testing.T) {
			w, f := newExport(t)
			f.script[step+" fs-1"] = []error{fail(operation.ErrUnreachable, "fs-1: not reached")}
			w.answer(operation.Abort)
			_, err := w.backup(backupInput(func(in *operation.BackupInput) { in.ToPath = toPath }))
			require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
			require.Equal(t, []string{step}, f.settled)
			require.True(t, strings.HasSuffix(f.steps(), step+" settle, TidyExport"), f.steps())
		})
	}
}

func TestBackup_TransferLeft_StagedArchiveStaysAndTheUploadEnds(t *testing.T) {
	w, f := newExport(t)
	f.script["Transfer fs-1"] = []error{fail(operation.ErrS3, "fs-1: bucket is full")}
	w.answer(operation.Leave)
	report, err := w.backup(backupInput())
	require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
	require.Len(t, f.tidied, 1)
	require.True(t, f.tidied[0].KeepStaged && f.tidied[0].Abort)
	require.Contains(t, report.Nodes[0].Notes[0], "left at /staging/op-1")
}

func TestBackup_NobodyAnswers_DeadlineAborts(t *testing.T) {
	w, f := newExport(t)
	f.script["Transfer fs-1"] = []error{fail(operation.ErrS3, "fs-1: no")}
	report, err := w.backup(backupInput(func(in *operation.BackupInput) {
		in.AnswerWithin = operation.Duration(time.Minute)
		in.OnDeadline = operation.Abort
	}))
	require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
	require.Equal(t, "deadline", report.Answers[0].By)
	require.True(t, f.tidied[0].Abort && !f.tidied[0].KeepStaged)
}

func TestBackup_Cancelled_EndsTheJobAndLeavesNothing(t *testing.T) {
	for _, step := range []string{"PrepareExport", "EnterMaintenance", "Export", "CheckArchive", "Transfer", "Place", "TidyExport"} {
		t.Run(step, func(t *testing.T) {
			w, f := newExport(t)
			key, in := step+" fs-1", backupInput()
			if step == "EnterMaintenance" {
				key = step
			}
			if step == "Place" {
				in.ToPath = "/mnt/backup"
			}
			once := true
			f.during[key] = func(ctx context.Context) {
				if once {
					once = false
					w.CancelWorkflow()
					if step != "TidyExport" {
						<-ctx.Done()
					}
				}
			}
			report, err := w.backup(in)
			if step == "TidyExport" { // the archive is in its place
				require.Equal(t, operation.NodeDone, report.Nodes[0].Status)
				return
			}
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			require.Equal(t, operation.PhaseCancelled, report.Phase)
			require.Equal(t, operation.NodeCancelled, report.Nodes[0].Status)
			require.True(t, f.tidied[len(f.tidied)-1].Abort)
			switch step {
			case "Export", "CheckArchive", "Place":
				require.Equal(t, []string{step}, f.settled)
			default:
				require.Empty(t, f.settled)
			}
			if step == "Export" || step == "EnterMaintenance" {
				require.Equal(t, 1, f.count("LeaveMaintenance"))
				require.Less(t, f.place("LeaveMaintenance"), f.place("TidyExport fs-1"), "the cluster is writable again before anything is tidied up")
			}
		})
	}
}

func TestBackup_MaintenanceCannotBeSet_NothingIsExported(t *testing.T) {
	w, f := newExport(t)
	f.script["EnterMaintenance"] = []error{fail(operation.ErrMaintenance, "core: no")}
	w.answer(operation.Abort)
	_, err := w.backup(backupInput())
	require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
	require.Equal(t, "PrepareExport, EnterMaintenance, LeaveMaintenance, TidyExport", f.steps())
}

func TestBackup_MaintenanceFoundOn_StaysOn(t *testing.T) {
	w, f := newExport(t)
	f.found = "on"
	w.fake.maintenance = "on"
	options := startOptions()
	w.SetStartWorkflowOptions(options)
	w.ExecuteWorkflow(Backup, backupInput())
	report, err := reportOf(t, w)
	require.NoError(t, err)
	require.Equal(t, "on", f.maintenance)
	require.Equal(t, "put back (on)", report.Maintenance)
}

func TestBackup_Paused_HoldsBeforeTheTransfer(t *testing.T) {
	w, f := newExport(t)
	f.during["CheckArchive fs-1"] = func(context.Context) { w.accepted(operation.UpdatePause, operation.PauseRequest{Who: "ann"}) }
	w.at(time.Hour, func() {
		require.Zero(t, f.count("Transfer fs-1"))
		require.Equal(t, operation.PhasePaused, w.now().Phase)
		w.accepted(operation.UpdateResume, operation.ResumeRequest{Who: "ann"})
	})
	_, err := w.backup(backupInput())
	require.NoError(t, err)
	require.Equal(t, wellDone, f.steps())
}

func TestBackup_LockLost_IsTakenAgainBeforeTheTransfer(t *testing.T) {
	w, f := newExport(t)
	f.during["CheckArchive fs-1"] = func(context.Context) { w.accepted(operation.UpdatePause, operation.PauseRequest{}) }
	w.at(time.Minute, func() { w.CancelWorkflowByID(operation.LockWorkflowID("prod"), "") })
	w.at(time.Hour, func() { w.accepted(operation.UpdateResume, operation.ResumeRequest{}) })
	report, err := w.backup(backupInput())
	require.NoError(t, err)
	require.Equal(t, 2, f.count("LockToken"))
	require.Equal(t, 2, f.count("Fence"))
	require.Contains(t, strings.Join(report.Warnings, "\n"), "taken again")
}

func TestBackup_TidyingFails_IsSaidAndTheArchiveCounts(t *testing.T) {
	w, f := newExport(t)
	f.script["TidyExport fs-1"] = []error{fail(operation.ErrUnreachable, "fs-1: away")}
	w.answer(operation.Leave)
	report, err := w.backup(backupInput())
	require.NoError(t, err)
	require.Equal(t, operation.NodeDone, report.Nodes[0].Status)
	require.Equal(t, "s3://b/k", report.Export.Location)
	require.Contains(t, strings.Join(report.Nodes[0].Notes, "\n"), "fs-1: away")
}
