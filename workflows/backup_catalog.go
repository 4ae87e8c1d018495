package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// What is done with archives runs on the worker, whose inventory has the bucket and its credentials:
//
//   - list, show: one look
//   - verify: find the archive, read it back whole, compare, remember
//   - delete: look at it, delete it
//   - prune: what the retention does not keep, delete that, abort what dead operations have left
//
// None of it reaches a node, takes the cluster's lock, or asks anything.

// BackupList returns the archives of a cluster, the newest first.
func BackupList(ctx workflow.Context, in operation.BackupListInput) (operation.ArchiveList, error) {
	var catalog *activities.Catalog
	var out operation.ArchiveList
	err := workflow.ExecuteActivity(looking(ctx, "archives of "+in.Cluster), catalog.ListArchives, in).Get(ctx, &out)
	return out, err
}

// BackupShow returns everything about one archive but its parts.
func BackupShow(ctx workflow.Context, in operation.BackupShowInput) (operation.ArchiveDetails, error) {
	var catalog *activities.Catalog
	var out operation.ArchiveDetails
	err := workflow.ExecuteActivity(looking(ctx, "archive "+in.Archive+" of "+in.Cluster), catalog.ShowArchive, in).Get(ctx, &out)
	return out, err
}

// BackupVerify reads an archive back whole and compares it with its manifest. It fails with ErrArchive when they do not agree.
func BackupVerify(ctx workflow.Context, in operation.BackupVerifyInput) (*operation.Report, error) {
	if in.Archive == "" {
		in.Archive = operation.LatestArchive
	}
	k := &keeping{req: in.Request, kind: operation.KindBackupVerify}
	if err := operation.CheckArchive(in.Archive); err != nil {
		k.problems = append(k.problems, err.Error())
	}
	return k.run(ctx, func(ctx workflow.Context) *operation.Failure {
		found, failure := k.find(ctx, in.Archive)
		if failure != nil {
			return failure
		}
		k.say(ctx, fmt.Sprintf("reading archive %s back, %s", found.Operation, operation.Size(found.StoredSize)))
		var result activities.VerifyArchiveResult
		var catalog *activities.Catalog
		err := workflow.ExecuteActivity(following(ctx, "read "+found.Operation+" back", verifyCeiling(found.StoredSize)), catalog.VerifyArchive,
			activities.VerifyArchiveInput{Operation: k.operation(), Archive: found.Operation, Who: in.RequestedBy}).Get(ctx, &result)
		if err != nil {
			return operation.FailureOf(err)
		}
		v := result.Verification
		k.report.Catalog.Verification = &v
		k.report.Warnings = append(k.report.Warnings, result.Notes...)
		if !v.OK {
			return &operation.Failure{Type: operation.ErrArchive,
				Message: operation.Shorten(fmt.Sprintf("archive %s is damaged: %s", found.Operation, v.Problem), 1024)}
		}
		k.report.Message = fmt.Sprintf("archive %s is as it was written: all %s of it agree with its manifest", found.Operation, operation.Size(v.Bytes))
		if found.Encrypted {
			k.report.Message += " (compared as it is stored, encrypted)"
		}
		return nil
	})
}

// verifyCeiling is how long reading size bytes may take: a day, and more where that is less than 8 MiB/s.
func verifyCeiling(size int64) time.Duration {
	return max(24*time.Hour, time.Duration(size/(8<<20))*time.Second)
}

// BackupDelete deletes one archive. It fails with ErrArchive when object lock keeps it, or when it is not complete and not forced.
func BackupDelete(ctx workflow.Context, in operation.BackupDeleteInput) (*operation.Report, error) {
	k := &keeping{req: in.Request, kind: operation.KindBackupDelete}
	if err := operation.CheckArchive(in.Archive); err != nil {
		k.problems = append(k.problems, err.Error())
	} else if in.Archive == operation.LatestArchive {
		k.problems = append(k.problems, "archive latest is not deleted by that name: write the id of the operation that made it")
	}
	return k.run(ctx, func(ctx workflow.Context) *operation.Failure {
		found, failure := k.find(ctx, in.Archive)
		switch {
		case failure != nil && failure.Type == operation.ErrBadInput && in.Force:
			// Parts of an upload are in no list: deleting by force ends it all the same.
		case failure != nil:
			return failure
		case !found.Complete && !in.Force:
			return &operation.Failure{Type: operation.ErrArchive, Message: operation.Shorten(
				fmt.Sprintf("archive %s is not complete: %s: it is deleted only with --force", in.Archive, found.Reason), 1024)}
		}
		k.say(ctx, "deleting archive "+in.Archive)
		var catalog *activities.Catalog
		err := workflow.ExecuteActivity(keepingOn(ctx, "delete "+in.Archive), catalog.DeleteArchive,
			activities.DeleteArchiveInput{Operation: k.operation(), Archive: in.Archive, Force: in.Force}).Get(ctx, nil)
		if err != nil {
			return operation.FailureOf(err)
		}
		k.report.Message = "archive " + in.Archive + " is deleted"
		if failure != nil {
			k.report.Message = "there was no archive " + in.Archive + "; if its operation had left an upload, that is ended"
		}
		return nil
	})
}

// BackupPrune deletes what a retention does not keep of a cluster's archives, and aborts the uploads that dead operations have left. The last archive
// that was verified well always stays. It fails with ErrArchive when some could not be deleted; what object lock keeps for now is no failure.
func BackupPrune(ctx workflow.Context, in operation.PruneInput) (*operation.Report, error) {
	k := &keeping{req: in.Request, kind: operation.KindBackupPrune, problems: in.Retention.Check()}
	return k.run(ctx, func(ctx workflow.Context) *operation.Failure {
		var catalog *activities.Catalog
		var plan activities.PlanPruneResult
		if err := workflow.ExecuteActivity(looking(ctx, "what the retention keeps: "+in.Retention.String()), catalog.PlanPrune, in).Get(ctx, &plan); err != nil {
			return operation.FailureOf(err)
		}
		prune := &plan.Prune
		k.report.Catalog.Prune = prune
		k.report.Warnings = append(k.report.Warnings, plan.Notes...)
		if in.DryRun {
			k.report.Message = fmt.Sprintf("dry run: %s would be deleted, %s would stay, nothing was changed",
				count(prune.Count(operation.PrunePlanned)+prune.MoreDeleted, "archive"), fmt.Sprint(len(prune.Keep)+prune.MoreKept))
			return nil
		}
		var doomed []string
		for i := range prune.Delete {
			if prune.Delete[i].Outcome == operation.PrunePlanned {
				doomed = append(doomed, prune.Delete[i].Operation)
			}
		}
		if len(doomed)+len(prune.Uploads) > 0 {
			k.say(ctx, fmt.Sprintf("deleting %s, aborting %s", count(len(doomed), "archive"), count(len(prune.Uploads)+prune.MoreUploads, "leftover upload")))
			var result activities.PruneArchivesResult
			err := workflow.ExecuteActivity(keepingOn(ctx, "delete "+count(len(doomed), "archive")), catalog.PruneArchives,
				activities.PruneArchivesInput{Operation: k.operation(), Retention: in.Retention, Delete: doomed, Abort: len(prune.Uploads) > 0}).Get(ctx, &result)
			if err != nil {
				return operation.FailureOf(err)
			}
			pruned(prune, result)
			k.report.Warnings = append(k.report.Warnings, result.Notes...)
		}
		k.report.Message = pruneSummary(prune)
		if failed := prune.Count(operation.PruneFailed); failed > 0 {
			f := operation.Failure{Type: operation.ErrArchive, Message: fmt.Sprintf("%s could not be deleted; %s", count(failed, "archive"), k.report.Message)}
			for i := range prune.Delete {
				if d := &prune.Delete[i]; d.Outcome == operation.PruneFailed {
					f.Problems = append(f.Problems, d.Operation+": "+d.Problem)
				}
			}
			f.Problems = bound(f.Problems, 50)
			return &f
		}
		return nil
	})
}

// pruned puts what became of the archives into the report.
func pruned(prune *operation.PruneReport, result activities.PruneArchivesResult) {
	stay := map[string]activities.PruneOutcome{}
	for _, o := range result.Kept {
		stay[o.Archive] = o
	}
	for i := range prune.Delete {
		d := &prune.Delete[i]
		if d.Outcome != operation.PrunePlanned {
			continue
		}
		d.Outcome = operation.PruneDeleted
		if o, ok := stay[d.Operation]; ok {
			d.Outcome, d.Problem = o.Outcome, o.Problem
		}
	}
	prune.Uploads, prune.MoreUploads = result.Uploads, result.MoreUploads
}

func pruneSummary(prune *operation.PruneReport) string {
	text := fmt.Sprintf("%s deleted, %d kept", count(prune.Count(operation.PruneDeleted), "archive"), len(prune.Keep)+prune.MoreKept)
	if n := prune.Count(operation.PruneLocked); n > 0 {
		text += fmt.Sprintf(", %d kept by object lock", n)
	}
	if n := prune.Count(operation.PruneUnasked); n > 0 {
		text += fmt.Sprintf(", %d not confirmed", n)
	}
	if prune.MoreDeleted > 0 {
		text += fmt.Sprintf(", %d left for the next run", prune.MoreDeleted)
	}
	if n := len(prune.Uploads) + prune.MoreUploads; n > 0 {
		text += ", " + count(n, "leftover upload") + " aborted"
	}
	return text
}

// --- what verify, delete and prune have in common ---------------------------------------------------------------------------------------

// keeping is the state of an operation on archives. The spine is not for it: there are no nodes, no lock and no questions.
type keeping struct {
	req      operation.Request
	kind     string
	problems []string // of the input

	report     operation.Report
	shownPhase string
	notifyOn   []string
}

// looking is for one look at the bucket, for which a person may wait: attempts only for a worker that dies.
func looking(ctx workflow.Context, summary string) workflow.Context {
	options := workflow.GetActivityOptions(keepingOn(ctx, summary))
	options.StartToCloseTimeout, options.ScheduleToCloseTimeout = 30*time.Minute, time.Hour
	return workflow.WithActivityOptions(ctx, options)
}

// keepingOn is for changes in the bucket, which are repeated until they are done.
func keepingOn(ctx workflow.Context, summary string) workflow.Context {
	options := workflow.GetActivityOptions(quick(ctx, summary))
	options.StartToCloseTimeout, options.ScheduleToCloseTimeout = 4*time.Hour, workerSlack
	options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 15 * time.Second}
	return workflow.WithActivityOptions(ctx, options)
}

// run does the work from the first to the last event of its workflow: input, place, work, report.
func (k *keeping) run(ctx workflow.Context, work func(workflow.Context) *operation.Failure) (*operation.Report, error) {
	info := workflow.GetInfo(ctx)
	if k.req.OperationID == "" {
		k.req.OperationID = operation.IDFromWorkflow(info.WorkflowExecution.ID)
	}
	k.report = operation.Report{OperationID: k.req.OperationID, WorkflowID: info.WorkflowExecution.ID, Kind: k.kind, Cluster: k.req.Cluster,
		RequestedBy: k.req.RequestedBy, DryRun: k.req.DryRun, StartedAt: stamp(ctx), Phase: operation.PhaseStarting, Nodes: []operation.NodeReport{}, Catalog: &operation.CatalogReport{}}
	if err := workflow.SetQueryHandlerWithOptions(ctx, operation.QueryReport, func() (operation.Report, error) { return k.report, nil },
		workflow.QueryHandlerOptions{Description: "How far the operation is"}); err != nil {
		return nil, err
	}
	k.show(ctx)
	failure := k.prepare(ctx)
	if failure == nil {
		k.report.Phase = operation.PhaseRunning
		k.show(ctx)
		failure = work(ctx)
	}
	return k.finish(ctx, failure)
}

// prepare checks the input and finds the bucket.
func (k *keeping) prepare(ctx workflow.Context) *operation.Failure {
	if k.req.Cluster == "" {
		k.problems = append(k.problems, "cluster is missing: name one of the inventory")
	}
	if len(k.problems) > 0 {
		return badInput(k.problems)
	}
	var catalog *activities.Catalog
	var place activities.ArchivePlace
	err := workflow.ExecuteActivity(quick(ctx, "bucket of "+k.req.Cluster), catalog.LocateArchives,
		activities.ClusterInput{Cluster: k.req.Cluster}).Get(ctx, &place)
	if err != nil {
		return operation.FailureOf(err)
	}
	k.report.Catalog.Bucket, k.report.Catalog.Prefix, k.notifyOn = place.Bucket, place.Prefix, place.NotifyOn
	if late := workflow.Now(ctx).Sub(workflow.GetInfo(ctx).WorkflowStartTime); k.req.StartWithin > 0 && late > k.req.StartWithin.D() {
		return &operation.Failure{Type: operation.ErrTooLate, Message: fmt.Sprintf(
			"no worker took the operation up within %s of its time: nothing was touched, start it again (katoflow schedule trigger)", k.req.StartWithin)}
	}
	return nil
}

// find looks at the archive that the operation is about.
func (k *keeping) find(ctx workflow.Context, archive string) (operation.Archive, *operation.Failure) {
	var catalog *activities.Catalog
	var found operation.ArchiveDetails
	err := workflow.ExecuteActivity(looking(ctx, "archive "+archive), catalog.ShowArchive,
		operation.BackupShowInput{Cluster: k.req.Cluster, Archive: archive}).Get(ctx, &found)
	if err != nil {
		return operation.Archive{}, operation.FailureOf(err)
	}
	k.report.Catalog.Archive = &found.Archive
	if found.LastProven && k.kind == operation.KindBackupDelete {
		k.report.Warnings = append(k.report.Warnings, "it is the last archive of "+k.req.Cluster+" that is proven restorable")
	}
	return found.Archive, nil
}

// operation names it to activities. There is no token, because there is no lock.
func (k *keeping) operation() activities.Operation {
	return activities.Operation{ID: k.req.OperationID, Cluster: k.req.Cluster, WorkflowID: k.report.WorkflowID}
}

func (k *keeping) say(ctx workflow.Context, message string) {
	k.report.Message = message
	k.show(ctx)
}

// show puts the state where lists and the Web UI find it.
func (k *keeping) show(ctx workflow.Context) {
	k.report.UpdatedAt = stamp(ctx)
	if k.report.Phase != k.shownPhase {
		if err := workflow.UpsertTypedSearchAttributes(ctx, operation.AttributePhase.ValueSet(k.report.Phase)); err != nil {
			workflow.GetLogger(ctx).Error("search attributes were not updated", "error", err)
		}
		k.shownPhase = k.report.Phase
	}
	text := fmt.Sprintf("**%s** on **%s**: **%s**\n\n", cell(k.report.Kind, 60), cell(k.report.Cluster, 80), k.report.Phase)
	if k.report.Message != "" {
		text += cell(k.report.Message, 1024) + "\n"
	}
	workflow.SetCurrentDetails(ctx, operation.Shorten(text, maxDetails))
}

// finish closes the operation with its report, and tells the site.
func (k *keeping) finish(ctx workflow.Context, failure *operation.Failure) (*operation.Report, error) {
	was := ctx.Err() != nil
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	event := operation.EventDone
	var end func() error
	switch {
	case failure != nil && failure.Type != operation.ErrCancelled:
		k.report.Phase, k.report.Message, k.report.Failure = operation.PhaseFailed, failure.Message, failure
		end = func() error {
			return temporal.NewApplicationErrorWithOptions(failure.Message, failure.Type,
				temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{failure, k.report}})
		}
	case failure != nil || was:
		k.report.Phase, k.report.Message = operation.PhaseCancelled, "cancelled: "+cancelNote(k.kind)
		end = func() error { return temporal.NewCanceledError(k.report) }
	default:
		k.report.Phase = operation.PhaseDone
	}
	if k.report.Phase != operation.PhaseDone {
		event = operation.EventFailed
	}
	k.report.EndedAt = stamp(ctx)
	k.keepReport(ctx)
	if !k.req.DryRun && slices.Contains(k.notifyOn, event) {
		var notifier *activities.Notifier
		n := operation.Notification{Event: event, Cluster: k.req.Cluster, Kind: k.kind, OperationID: k.req.OperationID, WorkflowID: k.report.WorkflowID,
			Message: k.report.Message, ID: k.report.WorkflowID + "/1"}
		if err := workflow.ExecuteActivity(quick(ctx, "notify: "+event), notifier.Notify, n).Get(ctx, nil); err != nil {
			k.report.Warnings = append(k.report.Warnings, "notification ("+event+") was not delivered: "+operation.FailureOf(err).Message)
		}
	}
	k.show(ctx)
	if end != nil {
		return nil, end()
	}
	return &k.report, nil
}

// keepReport stores the report in the bucket, where it says for longer than Temporal who has deleted what. A bucket that does not take it is a warning.
func (k *keeping) keepReport(ctx workflow.Context) {
	if k.req.DryRun || k.report.Catalog.Bucket == "" {
		return
	}
	options := workflow.GetActivityOptions(quick(ctx, "keep the report in the bucket"))
	options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: time.Second, MaximumAttempts: 2}
	var archives *activities.Archives
	if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), archives.KeepReport, k.report).Get(ctx, nil); err != nil {
		k.report.Warnings = append(k.report.Warnings, "the report was not kept in the bucket: "+operation.FailureOf(err).Message)
	}
}

// cancelNote says what a cancelled operation has left.
func cancelNote(kind string) string {
	switch kind {
	case operation.KindBackupVerify:
		return "nothing was remembered of it"
	case operation.KindSnapshotVerify:
		return "nothing was changed"
	case operation.KindSnapshotDelete:
		return "snapshots of the set may have been deleted; it is listed until all are: delete it again"
	case operation.KindSnapshotPrune:
		return "sets may have been deleted: see katoflow snapshot list; one that is half deleted is listed until all of it is: prune again"
	case operation.KindBackupDelete:
		return "the archive may be half deleted, and is then not listed any more: delete it again with --force"
	}
	return "archives may have been deleted: see katoflow backup list"
}
