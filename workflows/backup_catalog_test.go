package workflows

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// bucketWorld is a test environment with the real workflows on archives, and activities that answer what a test has written down.
type bucketWorld struct {
	*testsuite.TestWorkflowEnvironment
	t     *testing.T
	calls []string
	told  []operation.Notification
	kept  []operation.Report
	place activities.ArchivePlace
	// found is what ShowArchive answers, plan what PlanPrune does.
	found  operation.ArchiveDetails
	plan   activities.PlanPruneResult
	pruned activities.PruneArchivesResult
	verify activities.VerifyArchiveResult
	// errs by activity; during runs inside of it.
	errs   map[string]error
	during map[string]func(ctx context.Context)
	inputs map[string]any
}

func newBucketWorld(t *testing.T, workflowID string) *bucketWorld {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(temporalkit.NewZap(zap.NewNop()))
	w := &bucketWorld{TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), t: t, errs: map[string]error{}, during: map[string]func(context.Context){}, inputs: map[string]any{},
		place: activities.ArchivePlace{Bucket: "archives", Prefix: "als", NotifyOn: []string{operation.EventFailed, operation.EventDone}}}
	w.found.Archive = operation.Archive{Operation: "night-3", Cluster: "prod", Complete: true, Size: 5 << 30, StoredSize: 5 << 30}
	w.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflowID, TaskQueue: "q"})
	Register(w)
	for _, a := range []any{w.LocateArchives, w.ListArchives, w.ShowArchive, w.VerifyArchive, w.DeleteArchive, w.PlanPrune, w.PruneArchives, w.KeepReport, w.Notify} {
		w.RegisterActivity(a)
	}
	w.OnUpsertTypedSearchAttributes(mock.Anything).Return(nil).Maybe()
	return w
}

func (w *bucketWorld) call(ctx context.Context, name string, in any) error {
	w.calls = append(w.calls, name)
	w.inputs[name] = in
	if during := w.during[name]; during != nil {
		during(ctx)
	}
	if ctx.Err() != nil {
		return temporal.NewCanceledError()
	}
	return w.errs[name]
}

func (w *bucketWorld) LocateArchives(ctx context.Context, in activities.ClusterInput) (activities.ArchivePlace, error) {
	return w.place, w.call(ctx, "LocateArchives", in)
}

func (w *bucketWorld) ListArchives(ctx context.Context, in operation.BackupListInput) (operation.ArchiveList, error) {
	return operation.ArchiveList{Archives: []operation.Archive{w.found.Archive}}, w.call(ctx, "ListArchives", in)
}

func (w *bucketWorld) ShowArchive(ctx context.Context, in operation.BackupShowInput) (operation.ArchiveDetails, error) {
	return w.found, w.call(ctx, "ShowArchive", in)
}

func (w *bucketWorld) VerifyArchive(ctx context.Context, in activities.VerifyArchiveInput) (activities.VerifyArchiveResult, error) {
	return w.verify, w.call(ctx, "VerifyArchive", in)
}

func (w *bucketWorld) DeleteArchive(ctx context.Context, in activities.DeleteArchiveInput) error {
	return w.call(ctx, "DeleteArchive", in)
}

func (w *bucketWorld) PlanPrune(ctx context.Context, in operation.PruneInput) (activities.PlanPruneResult, error) {
	return w.plan, w.call(ctx, "PlanPrune", in)
}

func (w *bucketWorld) PruneArchives(ctx context.Context, in activities.PruneArchivesInput) (activities.PruneArchivesResult, error) {
	return w.pruned, w.call(ctx, "PruneArchives", in)
}

func (w *bucketWorld) KeepReport(ctx context.Context, r operation.Report) error {
	w.kept = append(w.kept, r)
	return w.call(ctx, "KeepReport", r)
}

func (w *bucketWorld) Notify(ctx context.Context, n operation.Notification) error {
	w.told = append(w.told, n)
	return w.call(ctx, "Notify", n)
}

// play runs a workflow to its end and returns its report, also of one that failed.
func (w *bucketWorld) play(workflow string, in any) (operation.Report, error) {
	w.t.Helper()
	w.ExecuteWorkflow(workflow, in)
	require.True(w.t, w.IsWorkflowCompleted())
	var report operation.Report
	err := w.GetWorkflowError()
	if err == nil {
		require.NoError(w.t, w.GetWorkflowResult(&report))
		return report, nil
	}
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	var failure operation.Failure
	switch {
	case errors.As(err, &app):
		require.NoError(w.t, app.Details(&failure, &report))
		require.Equal(w.t, app.Type(), failure.Type)
		require.Equal(w.t, operation.PhaseFailed, report.Phase)
		require.Equal(w.t, failure.Type, report.Failure.Type)
	case errors.As(err, &cancelled):
		require.NoError(w.t, cancelled.Details(&report))
		require.Equal(w.t, operation.PhaseCancelled, report.Phase)
	}
	require.NotEmpty(w.t, report.EndedAt)
	return report, err
}

func request() operation.Request {
	return operation.Request{OperationID: "op-1", Cluster: "prod", RequestedBy: "ann@here"}
}

const verifyID, deleteID, pruneID = "op/prod/backup-verify/op-1", "op/prod/backup-delete/op-1", "op/prod/backup-prune/op-1"

func TestBackupVerify_OfTheLatest_ReadsTheOneThatWasFound(t *testing.T) {
	w := newBucketWorld(t, verifyID)
	w.verify = activities.VerifyArchiveResult{Verification: operation.ArchiveVerification{At: "2026-11-22T03:00:00Z", OK: true, Bytes: 5 << 30}, Notes: []string{"read again"}}
	during := false
	w.during["VerifyArchive"] = func(context.Context) {
		during = true
		v, err := w.QueryWorkflow(operation.QueryReport)
		require.NoError(t, err)
		var r operation.Report
		require.NoError(t, v.Get(&r))
		require.Equal(t, operation.PhaseRunning, r.Phase)
		require.Equal(t, "reading archive night-3 back, 5 GiB", r.Message)
	}
	r, err := w.play(operation.WorkflowBackupVerify, operation.BackupVerifyInput{Request: request()})
	require.NoError(t, err)
	require.True(t, during)
	require.Equal(t, []string{"LocateArchives", "ShowArchive", "VerifyArchive", "KeepReport", "Notify"}, w.calls)
	require.Equal(t, operation.BackupShowInput{Cluster: "prod", Archive: "latest"}, w.inputs["ShowArchive"])
	require.Equal(t, activities.VerifyArchiveInput{Operation: activities.Operation{ID: "op-1", Cluster: "prod", WorkflowID: verifyID}, Archive: "night-3", Who: "ann@here"}, w.inputs["VerifyArchive"])
	require.Equal(t, operation.PhaseDone, r.Phase)
	require.Equal(t, []string{"op-1", verifyID, operation.KindBackupVerify, "archive night-3 is as it was written: all 5 GiB of it agree with its manifest"}, []string{r.OperationID, r.WorkflowID, r.Kind, r.Message})
	require.Equal(t, []string{"read again"}, r.Warnings)
	require.Equal(t, "archives", r.Catalog.Bucket)
	require.True(t, r.Catalog.Verification.OK)
	require.Equal(t, operation.EventDone, w.told[0].Event)
	require.Empty(t, r.Nodes)
	require.Equal(t, r, w.kept[0], "what is kept in the bucket is the report")
}

func TestBackupVerify_OfADamagedArchive_FailsWithWhatDoesNotAgree(t *testing.T) {
	w := newBucketWorld(t, verifyID)
	w.verify = activities.VerifyArchiveResult{Verification: operation.ArchiveVerification{Problem: "part 2 of 640 is not what was written"}}
	r, err := w.play(operation.WorkflowBackupVerify, operation.BackupVerifyInput{Request: request(), Archive: "night-3"})
	require.ErrorContains(t, err, "archive night-3 is damaged: part 2 of 640 is not what was written")
	require.Equal(t, operation.ErrArchive, r.Failure.Type)
	require.Equal(t, "night-3", r.Catalog.Archive.Operation)
	require.False(t, r.Catalog.Verification.OK)
	require.Equal(t, operation.EventFailed, w.told[0].Event)
	require.Contains(t, w.told[0].Message, "damaged")
}

func TestBackupVerify_LargeArchive_HasTheTimeItNeeds(t *testing.T) {
	require.Equal(t, 24*time.Hour, verifyCeiling(0))
	require.Equal(t, 24*time.Hour, verifyCeiling(500<<30))
	require.Equal(t, time.Duration(10<<40/(8<<20))*time.Second, verifyCeiling(10<<40))
}

func TestBackupVerify_Cancelled_SaysThatNothingIsRemembered(t *testing.T) {
	w := newBucketWorld(t, verifyID)
	w.during["VerifyArchive"] = func(ctx context.Context) {
		w.CancelWorkflow()
		<-ctx.Done()
	}
	r, err := w.play(operation.WorkflowBackupVerify, operation.BackupVerifyInput{Request: request()})
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	require.Equal(t, "cancelled: nothing was remembered of it", r.Message)
}

func TestBackupOperations_BadInput_TouchNothingAndNameAll(t *testing.T) {
	for name, row := range map[string]struct {
		workflow, id string
		in           any
		problems     []string
	}{
		"verify":         {operation.WorkflowBackupVerify, verifyID, operation.BackupVerifyInput{Archive: "../x"}, []string{`archive "../x": write the id`, "cluster is missing"}},
		"delete":         {operation.WorkflowBackupDelete, deleteID, operation.BackupDeleteInput{Request: request(), Archive: "latest"}, []string{"archive latest is not deleted by that name"}},
		"delete without": {operation.WorkflowBackupDelete, deleteID, operation.BackupDeleteInput{Request: request()}, []string{`archive "": write the id`}},
		"prune":          {operation.WorkflowBackupPrune, pruneID, operation.PruneInput{Request: request(), Retention: operation.Retention{KeepLast: -1, KeepDaily: 1 << 40}}, []string{"keep-last -1", "keep-daily 1099511627776"}},
		"prune all":      {operation.WorkflowBackupPrune, pruneID, operation.PruneInput{Request: request()}, []string{"nothing would be kept"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newBucketWorld(t, row.id)
			r, err := w.play(row.workflow, row.in)
			require.Error(t, err)
			require.Equal(t, operation.ErrBadInput, r.Failure.Type)
			require.Len(t, r.Failure.Problems, len(row.problems))
			for i, p := range row.problems {
				require.Contains(t, r.Failure.Problems[i], p)
			}
			require.Empty(t, w.calls)
		})
	}
}

func TestBackupOperations_TakenUpTooLate_TouchNothing(t *testing.T) {
	w := newBucketWorld(t, "op/prod/backup-prune/nightly-2026-11-22T03:00:00Z")
	w.SetStartTime(time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC))
	in := operation.PruneInput{Retention: operation.Retention{KeepLast: 1}}
	in.Cluster = "prod"
	in.Schedule(operation.ScheduleDefinition{Name: "nightly", CatchUp: operation.Duration(time.Nanosecond)})
	w.OnActivity(w.LocateArchives, mock.Anything, mock.Anything).After(time.Minute).Return(w.place, nil)
	r, err := w.play(operation.WorkflowBackupPrune, in)
	require.ErrorContains(t, err, "no worker took the operation up within 1ns")
	require.Equal(t, operation.ErrTooLate, r.Failure.Type)
	require.Equal(t, "nightly-20261122t030000z", r.OperationID)
	require.Equal(t, "schedule nightly", r.RequestedBy)
	require.NotContains(t, w.calls, "PlanPrune")
}

func TestBackupDelete_OfAnArchive_DeletesAfterALook(t *testing.T) {
	for name, row := range map[string]struct {
		complete, force bool
		show, remove    error
		deleted         bool
		says, fails     string
	}{
		"complete":          {complete: true, deleted: true, says: "archive night-3 is deleted"},
		"not complete":      {fails: "archive night-3 is not complete: the object is missing: it is deleted only with --force"},
		"by force":          {force: true, deleted: true, says: "archive night-3 is deleted"},
		"nothing there":     {show: fail(operation.ErrBadInput, "archive prod/night-3 does not exist"), fails: "does not exist"},
		"nothing, by force": {force: true, show: fail(operation.ErrBadInput, "archive prod/night-3 does not exist"), deleted: true, says: "there was no archive night-3; if its operation had left an upload, that is ended"},
		"denied, by force":  {force: true, show: fail(operation.ErrS3, "access denied"), fails: "access denied"},
		"locked":            {complete: true, remove: fail(operation.ErrArchive, "object lock keeps it until 2026-12-01"), deleted: true, fails: "object lock keeps it until 2026-12-01"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newBucketWorld(t, deleteID)
			w.found.Complete, w.found.Reason = row.complete, "the object is missing"
			w.errs["ShowArchive"], w.errs["DeleteArchive"] = row.show, row.remove
			r, err := w.play(operation.WorkflowBackupDelete, operation.BackupDeleteInput{Request: request(), Archive: "night-3", Force: row.force})
			if row.fails != "" {
				require.ErrorContains(t, err, row.fails)
			} else {
				require.NoError(t, err)
				require.Equal(t, row.says, r.Message)
			}
			require.Equal(t, row.deleted, strings.Contains(fmt.Sprint(w.calls), "DeleteArchive"))
			if row.deleted {
				require.Equal(t, row.force, w.inputs["DeleteArchive"].(activities.DeleteArchiveInput).Force)
			}
		})
	}
}

func pruneRow(name, outcome string) operation.PrunedArchive {
	return operation.PrunedArchive{Archive: operation.Archive{Operation: name}, Outcome: outcome}
}

func TestBackupPrune_ByAPlan_DeletesWhatItNamesAndReportsEach(t *testing.T) {
	w := newBucketWorld(t, pruneID)
	w.plan.Prune = operation.PruneReport{Keep: []operation.KeptArchive{{Archive: operation.Archive{Operation: "night-9"}, Reasons: []string{"last"}}}, MoreKept: 2, MoreDeleted: 7,
		Delete: []operation.PrunedArchive{pruneRow("night-1", operation.PrunePlanned), pruneRow("night-2", operation.PruneLocked), pruneRow("night-3", operation.PrunePlanned),
			pruneRow("night-4", operation.PruneUnasked), pruneRow("night-5", operation.PrunePlanned)},
		Uploads: []operation.LeftoverUpload{{Operation: "dead"}, {Operation: "ended-since"}}}
	w.pruned = activities.PruneArchivesResult{Kept: []activities.PruneOutcome{{Archive: "night-3", Outcome: operation.PruneFailed, Problem: "access denied"}},
		Uploads: []operation.LeftoverUpload{{Operation: "dead"}}, Notes: []string{"a note"}}
	in := operation.PruneInput{Request: request(), Retention: operation.Retention{KeepLast: 3}, Only: []string{"night-1", "night-3", "night-5"}}
	r, err := w.play(operation.WorkflowBackupPrune, in)
	require.ErrorContains(t, err, "1 archive could not be deleted; 2 archives deleted, 3 kept, 1 kept by object lock, 1 not confirmed, 7 left for the next run, 1 leftover upload aborted")
	require.Equal(t, operation.ErrArchive, r.Failure.Type)
	require.Equal(t, []string{"night-3: access denied"}, r.Failure.Problems)
	require.Equal(t, in, w.inputs["PlanPrune"])
	require.Equal(t, activities.PruneArchivesInput{Operation: activities.Operation{ID: "op-1", Cluster: "prod", WorkflowID: pruneID}, Retention: in.Retention,
		Delete: []string{"night-1", "night-3", "night-5"}, Abort: true}, w.inputs["PruneArchives"])
	var got []string
	for _, d := range r.Catalog.Prune.Delete {
		got = append(got, d.Operation+":"+d.Outcome)
	}
	require.Equal(t, "night-1:deleted night-2:locked night-3:failed night-4:not confirmed night-5:deleted", strings.Join(got, " "))
	require.Equal(t, []string{"a note"}, r.Warnings)
	require.Len(t, r.Catalog.Prune.Uploads, 1)
}

func TestBackupPrune_DryRunOrNothingToDo_DeletesNothing(t *testing.T) {
	w := newBucketWorld(t, pruneID)
	w.plan.Prune = operation.PruneReport{Delete: []operation.PrunedArchive{pruneRow("night-1", operation.PrunePlanned)}}
	in := operation.PruneInput{Request: request(), Retention: operation.Retention{KeepLast: 3}}
	in.DryRun = true
	r, err := w.play(operation.WorkflowBackupPrune, in)
	require.NoError(t, err)
	require.Equal(t, []string{"LocateArchives", "PlanPrune"}, w.calls, "nobody is told of a dry run either")
	require.Equal(t, "dry run: 1 archive would be deleted, 0 would stay, nothing was changed", r.Message)
	require.Equal(t, operation.PrunePlanned, r.Catalog.Prune.Delete[0].Outcome)

	w = newBucketWorld(t, pruneID)
	w.plan.Prune.Delete = []operation.PrunedArchive{pruneRow("night-1", operation.PruneLocked)}
	in.DryRun = false
	r, err = w.play(operation.WorkflowBackupPrune, in)
	require.NoError(t, err, "what is locked for now is no failure")
	require.Equal(t, []string{"LocateArchives", "PlanPrune", "KeepReport", "Notify"}, w.calls)
	require.Equal(t, "0 archives deleted, 0 kept, 1 kept by object lock", r.Message)
}

func TestBackupOperations_SiteCannotBeToldOrReportKept_IsAWarning(t *testing.T) {
	w := newBucketWorld(t, deleteID)
	w.errs["KeepReport"] = fail(operation.ErrS3, "access denied")
	w.errs["Notify"] = fail(operation.ErrBadInput, "the receiver answered 404")
	r, err := w.play(operation.WorkflowBackupDelete, operation.BackupDeleteInput{Request: request(), Archive: "night-3"})
	require.NoError(t, err)
	require.Equal(t, []string{"the report was not kept in the bucket: access denied", "notification (done) was not delivered: the receiver answered 404"}, r.Warnings)
}

func TestBackupList_AndShow_AreOneLook(t *testing.T) {
	w := newBucketWorld(t, "op/prod/backup-list/op-1")
	w.ExecuteWorkflow(operation.WorkflowBackupList, operation.BackupListInput{Cluster: "prod", Limit: 3})
	var list operation.ArchiveList
	require.NoError(t, w.GetWorkflowResult(&list))
	require.Len(t, list.Archives, 1)
	require.Equal(t, operation.BackupListInput{Cluster: "prod", Limit: 3}, w.inputs["ListArchives"])

	w = newBucketWorld(t, "op/prod/backup-show/op-1")
	w.errs["ShowArchive"] = fail(operation.ErrBadInput, "does not exist")
	w.ExecuteWorkflow(operation.WorkflowBackupShow, operation.BackupShowInput{Cluster: "prod", Archive: "night-3"})
	require.Equal(t, operation.ErrBadInput, operation.FailureOf(w.GetWorkflowError()).Type)
	require.Equal(t, []string{"ShowArchive"}, w.calls)
}
