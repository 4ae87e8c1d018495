package workflows

// Import of an archive into a cluster ("Importing the server data" of the source page):
//
//  1. the archive is complete, the first user is set up, every role is started, the roles of all services in the archive are enabled, and nothing else exports or
//     imports;
//  2. a cluster that has apps is backed up, by an operation of its own (backup.go);
//  3. the archive is brought from its bucket to the Core, and read there: it is what its manifest says;
//  4. there: kato data import --cluster FILE, which also redeploys the apps; it is never interrupted;
//  5. what came back is read from the Cloud Controller and held against the manifest;
//  6. the file is removed;
//  7. apps that do not run as they were recorded are staged anew and started, so many at once ("must be redeployed manually", says the page).
//
// Where a running cluster is imported (kato data import --cluster HOST), that cluster is held instead of step 3, by an operation of its own (hold.go), what it has is written down, and kato
// reads it over SSH from Core to Core; it is let go after step 4.
//
// A rehearsal is the same on a scratch cluster, whose content need not be backed up: instead of step 2, what it has of the archive's organizations is deleted right before step 4,
// so that nothing counts which was there before. It asks nobody when something is missing or apps do not run, because that is what it is to
// find out, and what it has found out is remembered beside the archive.
//
// A cancel before step 4 leaves the cluster as it was; after its begin the operation sees step 4 through, removes the file and ends.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// Restore is the operation workflow. It completes with the report when all that was recorded is there and every app runs; otherwise it fails, or ends as cancelled,
// with the report in the details of its error.
func Restore(ctx workflow.Context, in operation.RestoreInput) (*operation.Report, error) {
	return operate(ctx, in.Kind(), in.Request, "", &restore{in: in})
}

type restore struct {
	oneNode
	in operation.RestoreInput

	meant activities.RestoreReadyResult
	// staged is where the archive is, as PrepareImport found it, and the try of its fetching.
	place    string
	fetchTry int
	// importTry is the try in the name of the import's job.
	importTry int
	imported  activities.ImportResult
	came      activities.RestoredResult
	// importing: kato's import is followed. begun is the try of it that was, 0 for none; unknown that nobody knows how it ended, or whether.
	importing, unknown bool
	begun              int
	// left is an import that went wrong and was left so by an answer; keep that its archive stays where it is, because it may still be read.
	left *operation.Failure
	keep bool
	// unsettled: the check of the archive may still run, because how it ended could not be learned.
	unsettled bool
	// source is the running cluster, as it is held; holds counts the operations that were begun for that.
	source *held
	holds  int
	// apps sees to the apps that do not run.
	apps *apps
	// Of a rehearsal: against is what speaks against the archive, beside what is missing or does not run; inconclusive that nothing was found out about it; unkept why what was found
	// is not remembered.
	against      string
	inconclusive bool
	unkept       *operation.Failure
}

func (p *restore) attach(r *run) {
	p.run = r
	p.apps = &apps{run: r, in: operation.AppsInput{Request: p.in.Request, Action: operation.AppRestage, AtOnce: p.in.AtOnce, AppTimeout: p.in.AppTimeout}, unasked: p.in.Rehearsal}
	p.report.Restore = &operation.Restored{}
	if p.in.FromHost {
		p.report.Restore.Running = p.in.From
	} else {
		p.report.Restore.Archive = p.in.Source() + "/" + p.in.Archive
	}
}

// what is imported, for people.
func (p *restore) what() string {
	if p.in.FromHost {
		return "cluster " + p.in.From
	}
	return p.report.Restore.Archive
}

func (p *restore) check() []string { return p.in.Check() }

func (p *restore) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: p.in.Cluster, InventoryDigest: p.in.InventoryDigest, Import: p.in.Source(), Scratch: p.in.Rehearsal, Running: p.in.FromHost}
}

func (p *restore) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

// wantsMaintenance is false because no app could be started in it.
func (p *restore) wantsMaintenance() bool { return false }

// former are the batches of apps that a former run can have begun.
func (p *restore) former() []string {
	ids := p.apps.former()
	for n := range operation.MaxApps / operation.AppsPerBatch * 2 {
		ids = append(ids, operation.NodeWorkflowID(p.workflowID, batchName(appsBatchInput{Batch: n + 1, Action: operation.AppAwait})))
	}
	return ids
}

// input of an activity on the node.
func (p *restore) input() activities.ExportInput {
	return activities.ExportInput{NodeInput: activities.NodeInput{Operation: p.op, Node: p.plan.Nodes[0], JobTry: max(p.fetchTry, 1), UnreachableAfter: p.plan.UnreachableAfter},
		Place: p.place, Timeout: p.plan.ExportTimeout}
}

func (p *restore) importInput() activities.ImportInput {
	running := ""
	if p.in.FromHost {
		running = p.in.From
	}
	return activities.ImportInput{ExportInput: p.input(), Running: running, ImportTry: max(p.importTry, 1), StagingSeconds: int(p.in.StagingTimeout.D() / time.Second)}
}

// ready asks the bucket, all nodes and the Cloud Controller what the import needs of them.
func (p *restore) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	var archives *activities.Archives
	p.report.Slots = 0 // an import has one node and no batch
	err = workflow.ExecuteActivity(following(ctx, "what an import needs", time.Hour), archives.RestoreReady, activities.RestoreReadyInput{ExportInput: p.input(), From: p.in.Source(),
		Archive: p.in.Archive, Mode: p.in.Transfer, NoSafetyBackup: p.in.NoSafetyBackup, NoSpaceCheck: p.in.NoSpaceCheck,
		RestageApps: p.in.RestageApps, Rehearsal: p.in.Rehearsal, Running: p.in.FromHost}).Get(ctx, &p.meant)
	if err != nil {
		return nil, nil, err
	}
	r := p.report.Restore
	if p.meant.Archive.Operation != "" {
		r.Archive = p.meant.Archive.String()
	}
	r.Made, r.Recorded = p.meant.Made, p.meant.Recorded
	problems = p.meant.Problems
	warnings = p.meant.Warnings
	if p.in.FromHost {
		h := p.lockHolder(ctx, p.in.From)
		busy := h.Holder != "" && !h.Orphaned && !slices.Contains(p.holdIDs(), h.Holder)
		switch {
		case busy && p.req.LockWait > 0: // all of it is asked again when it is held
			warnings = append(warnings, p.meant.Source...)
			p.meant.Source = nil
		case busy:
			problems = append(problems, fmt.Sprintf("%s: is busy: %s is running on it; wait for it (katoflow op watch), or queue with --wait", p.in.From, h.Holder))
		}
	}
	return append(problems, p.meant.Source...), warnings, nil
}

// found is what the starter says when the preflight has passed.
func (p *restore) found() string {
	text := fmt.Sprintf("%s (%s of %s), imported on %s", p.report.Restore.Archive, operation.Size(p.meant.Size), p.meant.Made, p.plan.Nodes[0].Name)
	if p.in.FromHost {
		text = fmt.Sprintf("cluster %s (%s of data), imported on %s", p.in.From, operation.Size(p.meant.Size), p.plan.Nodes[0].Name)
	}
	if r := p.meant.Recorded; r != nil {
		text += fmt.Sprintf("; %s of which %d were started", count(r.Apps, "app"), r.AppsStarted)
	}
	return text
}

func (p *restore) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var archives *activities.Archives
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), archives.PlanRestore, activities.PlanRestoreInput{ImportInput: p.importInput(), Archive: p.meant.Archive,
		Mode: p.in.Transfer, Restage: p.in.Restage, Rehearsal: p.in.Rehearsal, Maintenance: p.sourceReadOnly()}).Get(ctx, &out)
	return out.Plans, err
}

func (p *restore) steps(ctx workflow.Context) {
	p.takeUp(ctx)
	// Who cancels sees why nothing ends.
	workflow.GoNamed(ctx, "cancel", func(ctx workflow.Context) {
		ctx.Done().Receive(ctx, nil)
		if p.importing {
			p.remark("cancelled; kato data import is not interrupted, the operation ends after it")
			p.refresh(ctx)
		}
	})
	ok := p.backedUp(ctx) && p.broughtHere(ctx) && p.emptied(ctx) && p.importAndVerify(ctx)
	if !p.unknown {
		p.letSourceGo(ctx) // otherwise kato may still read it
	}
	if p.unsettled {
		p.settleCheck(ctx)
	}
	if p.place != "" && !p.keep {
		p.tidy(ctx)
	}
	if ok && !p.aborting && ctx.Err() == nil {
		p.handleApps(ctx)
	}
	if p.in.Rehearsal && ctx.Err() == nil {
		p.keepProof(ctx)
	}
	p.leave(ctx, ok && !p.aborting && ctx.Err() == nil)
}

// backedUp makes a backup of a cluster that has apps, unless that is not wanted. False: cancelled or aborted.
func (p *restore) backedUp(ctx workflow.Context) bool {
	if p.meant.Apps == 0 || p.in.NoSafetyBackup || p.in.Rehearsal {
		return true
	}
	for try := 1; ; try++ {
		if f := p.goOn(ctx); f != nil {
			return false
		}
		p.at(ctx, operation.StepSafety, try)
		err := p.backUp(ctx, try)
		// The backup had the lock meanwhile.
		if f := p.lockAgain(ctx); f != nil {
			p.lockFailure, p.aborting = f, true
			return false
		}
		if err == nil {
			return true
		}
		if ctx.Err() != nil || p.aborting {
			return false
		}
		f := operation.FailureOf(err)
		f.Message = oneLine("the backup before the import ("+operation.SafetyID(p.op.ID, try)+"): "+f.Message, 1000)
		switch p.failed(ctx, try, *f, operation.Retry, operation.Leave, operation.Abort) {
		case operation.Retry:
		case operation.Leave:
			p.node.Failure = nil
			p.remark("imported without a backup of the cluster before")
			return true
		default:
			return false
		}
	}
}

// backUp is one operation `backup create`, which takes the lock that is given to it.
func (p *restore) backUp(ctx workflow.Context, try int) error {
	id := operation.SafetyID(p.op.ID, try)
	at, err := p.ownSafety(ctx, operation.SafetyExport, p.in.Request, id, "an import", func() {
		p.remark("backed up first by operation " + id)
		p.refresh(ctx)
	})
	if err == nil && at != "" {
		p.report.Restore.Safety = at
	}
	return err
}

// lockAgain takes the cluster's lock, and the leases, after they were given away. Nothing is changed in a cluster that somebody else changes.
func (r *run) lockAgain(ctx workflow.Context) *operation.Failure {
	r.req.LockWait = max(r.req.LockWait, lockGiven)
	if err := r.acquireLock(ctx); err != nil {
		return operation.FailureOf(err)
	}
	r.report.Message = ""
	return r.fence(ctx)
}

// sourceReadOnly reports whether the running cluster that is imported is in maintenance mode meanwhile.
func (p *restore) sourceReadOnly() bool {
	return p.in.FromHost && p.in.Maintenance != operation.MaintenanceOff
}

// broughtHere makes ready what is imported: the archive on the node, or the running cluster, held. False: cancelled or aborted.
func (p *restore) broughtHere(ctx workflow.Context) bool {
	if !p.in.FromHost {
		return p.bringHere(ctx)
	}
	for try := 1; ; try++ {
		err := p.holdOnce(ctx, try)
		if err == nil {
			return true
		}
		if ctx.Err() != nil || p.aborting {
			return false
		}
		if p.failed(ctx, try, *operation.FailureOf(err), operation.Retry, operation.Abort) != operation.Retry {
			return false
		}
	}
}

// holdOnce has the running cluster held, unless it is, and writes down on the node what it has.
func (p *restore) holdOnce(ctx workflow.Context, try int) error {
	if f := p.goOn(ctx); f != nil {
		return operation.NewError(*f)
	}
	if p.source != nil && p.source.lost() {
		p.source = nil
	}
	if p.source == nil {
		p.at(ctx, operation.StepHold, try)
		if err := p.freeFormerHold(ctx, p.in.From, p.holdIDs()); err != nil {
			return err
		}
		if f := p.holdSource(ctx); f != nil {
			return operation.NewError(*f)
		}
	}
	p.at(ctx, operation.StepPrepare, try)
	var archives *activities.Archives
	var prepared activities.PrepareExportResult
	err := workflow.ExecuteActivity(following(ctx, p.summary("write down what "+p.in.From+" has"), time.Hour), archives.PrepareSource,
		activities.PrepareSourceInput{ExportInput: p.input(), Running: p.in.From}).Get(ctx, &prepared)
	if err != nil {
		return err
	}
	p.place, p.report.Restore.Recorded = prepared.Place, prepared.Contents
	return nil
}

// maxHolds is how many holds of an operation have names that a reset run of it knows.
const maxHolds = 50

// holdIDs are the workflows that can hold the running cluster for this operation.
func (p *restore) holdIDs() []string {
	var ids []string
	for n := range maxHolds {
		ids = append(ids, operation.WorkflowID(p.in.From, operation.KindHold, operation.SourceID(p.op.ID, n+1)))
	}
	return ids
}

// holdSource has the running cluster held by a new operation: those of a former run, before a Reset, have the first names.
func (p *restore) holdSource(ctx workflow.Context) (f *operation.Failure) {
	for p.holds < maxHolds {
		p.holds++
		in := operation.HoldInput{Request: p.in.Request, Maintenance: p.sourceReadOnly()}
		in.Cluster, in.OperationID, in.InventoryDigest = p.in.From, operation.SourceID(p.op.ID, p.holds), ""
		p.report.Restore.Held = in.OperationID
		p.remark(fmt.Sprintf("cluster %s is held by operation %s, which may have to be waited for: katoflow op watch %s", p.in.From, in.OperationID, in.OperationID))
		p.refresh(ctx)
		if p.source, f = p.holdOther(ctx, in); f == nil || f.Type != errBegunBefore {
			return f
		}
	}
	return f
}

// letSourceGo lets the running cluster go as soon as nothing is read from it any more.
func (p *restore) letSourceGo(ctx workflow.Context) {
	if p.source == nil {
		return
	}
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	h := p.source
	p.source = nil
	if f := p.letGo(disconnected, h); f != nil {
		p.warn(fmt.Sprintf("see how cluster %s was left (operation %s): %s", p.in.From, h.id, f.Message))
	}
}

// release is called at the end of every operation.
func (p *restore) release(ctx workflow.Context) {
	p.letSourceGo(ctx)
	if p.in.FromHost && !p.in.DryRun && p.lock != nil {
		if err := p.freeFormerHold(ctx, p.in.From, p.holdIDs()); err != nil {
			p.warn("cluster " + p.in.From + " may still be held: " + operation.FailureOf(err).Message)
		}
	}
}

// bringHere brings the archive to the node and reads it there. False: cancelled or aborted.
func (p *restore) bringHere(ctx workflow.Context) bool {
	began := workflow.Now(ctx)
	for try := 1; ; try++ {
		err := p.fetchOnce(ctx, try)
		if err == nil {
			p.report.Restore.FetchTime = operation.Duration(workflow.Now(ctx).Sub(began))
			return true
		}
		if ctx.Err() != nil || p.aborting {
			return false
		}
		f := operation.FailureOf(err)
		at := p.node.Step
		if p.failed(ctx, try, *f, operation.Retry, operation.Abort) != operation.Retry {
			if f.Type == operation.ErrArchive {
				p.against = f.Message
			}
			return false
		}
		// What was fetched is gone on with; a file that was read and is not the archive is fetched anew.
		if at == operation.StepCheck && !operation.OutcomeUnknown(f.Type) {
			p.fetchTry = max(p.fetchTry, 1) + 1
		}
	}
}

// fetchOnce is one try.
func (p *restore) fetchOnce(ctx workflow.Context, try int) error {
	var archives *activities.Archives
	if f := p.goOn(ctx); f != nil {
		return operation.NewError(*f)
	}
	p.at(ctx, operation.StepPrepare, try)
	var prepared activities.PrepareExportResult
	if err := workflow.ExecuteActivity(following(ctx, p.summary("prepare the folder for the archive"), time.Hour), archives.PrepareImport, p.input()).Get(ctx, &prepared); err != nil {
		return err
	}
	p.place = prepared.Place

	p.at(ctx, operation.StepFetch, try)
	var fetched activities.FetchResult
	err := workflow.ExecuteActivity(following(ctx, p.summary("fetch "+p.report.Restore.Archive), transferCeiling), archives.Fetch,
		activities.FetchInput{ExportInput: p.input(), Archive: p.meant.Archive, Mode: p.in.Transfer}).Get(ctx, &fetched)
	if err != nil {
		return err
	}
	p.report.Restore.Transfer = fetched.Mode
	p.remark(fetched.Notes...)

	p.at(ctx, operation.StepCheck, try)
	var checked activities.CheckArchiveResult
	err = workflow.ExecuteActivity(following(ctx, p.summary("read the archive: tar, size, SHA-256"), max(p.plan.ExportTimeout.D(), time.Hour)+p.plan.UnreachableAfter.D()), archives.CheckArchive, p.input()).Get(ctx, &checked)
	p.unsettled = err != nil && (ctx.Err() != nil || operation.OutcomeUnknown(operation.FailureOf(err).Type))
	if err != nil {
		return err
	}
	p.remark(checked.Notes...)
	if checked.Size != p.meant.Size || checked.SHA256 != p.meant.SHA256 {
		return operation.NewError(operation.Failure{Type: operation.ErrArchive, Message: fmt.Sprintf(
			"%s: the file is not %s: it has %d bytes and SHA-256 %.16s..., and the manifest says %d and %.16s...: retry fetches it anew", p.node.Name, p.report.Restore.Archive,
			checked.Size, checked.SHA256, p.meant.Size, p.meant.SHA256)})
	}
	p.report.Restore.Size, p.report.Restore.SHA256 = checked.Size, checked.SHA256
	return nil
}

// settleCheck sees to it that nothing reads the file any more that is removed next.
func (p *restore) settleCheck(ctx workflow.Context) {
	var archives *activities.Archives
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	in := p.input()
	in.Settle = true
	if err := workflow.ExecuteActivity(following(ctx, p.summary("end the job of step "+operation.StepCheck), time.Hour), archives.CheckArchive, in).Get(ctx, nil); err != nil {
		if f := operation.FailureOf(err); operation.OutcomeUnknown(f.Type) {
			p.remark("the job of step " + operation.StepCheck + " may still run there: " + f.Message)
		}
	}
}

// emptied deletes of a rehearsal's scratch cluster what would stand for what is to come back. False: cancelled or aborted.
func (p *restore) emptied(ctx workflow.Context) bool {
	if !p.in.Rehearsal {
		return true
	}
	var archives *activities.Archives
	for try := 1; ; try++ {
		if f := p.goOn(ctx); f != nil {
			return false
		}
		p.at(ctx, operation.StepEmpty, try)
		var out activities.EmptyScratchResult
		err := workflow.ExecuteActivity(following(ctx, "empty "+p.op.Cluster+" of what the archive has", time.Hour), archives.EmptyScratch,
			activities.EmptyScratchInput{Operation: p.op, Archive: p.meant.Archive}).Get(ctx, &out)
		if err == nil {
			if out.Orgs > 0 {
				p.remark(count(out.Orgs, "organization") + " of the archive deleted in " + p.op.Cluster + " before")
			}
			return true
		}
		if ctx.Err() != nil || p.aborting {
			return false
		}
		if p.failed(ctx, try, *operation.FailureOf(err), operation.Retry, operation.Abort) != operation.Retry {
			return false
		}
	}
}

// importAndVerify imports, and reads what came back. False: not imported, or aborted.
func (p *restore) importAndVerify(ctx workflow.Context) bool {
	for try := 1; ; try++ {
		err := p.importOnce(ctx, try)
		if err == nil {
			err = p.verify(ctx, try)
		}
		if err == nil {
			return true
		}
		f, at := operation.FailureOf(err), p.node.Step
		if p.unknown {
			if !p.followed(ctx, try, *f) {
				return false
			}
			continue
		}
		if ctx.Err() != nil || p.aborting {
			if p.begun > 0 {
				p.remark("what came back is not known: " + f.Message)
			}
			return false
		}
		if p.in.Rehearsal && at == operation.StepVerify && len(p.came.Missing)+p.came.More > 0 {
			p.remark(f.Message)
			return true // which is the answer, and no question
		}
		choices := []operation.Decision{operation.Retry, operation.Leave, operation.Abort}
		if f.Type == operation.ErrPreflight {
			choices = []operation.Decision{operation.Retry, operation.Abort}
		}
		switch p.failed(ctx, try, *f, choices...) {
		case operation.Retry:
			if f.Type == operation.ErrPreflight && p.source != nil && p.source.lost() && !p.broughtHere(ctx) {
				return false
			}
			if at != operation.StepImport && f.Type != operation.ErrVerify || f.Type == operation.ErrPreflight {
				continue
			}
			// Who knows what became of the file meanwhile: it is brought anew, and read.
			p.importTry, p.fetchTry = max(p.importTry, 1)+1, max(p.fetchTry, 1)+1
			if !p.broughtHere(ctx) || !p.emptied(ctx) {
				return false
			}
		case operation.Leave:
			p.node.Failure, p.left = nil, f
			p.remark("left so: " + f.Message)
			if at == operation.StepVerify && p.came.Found != nil {
				return true
			}
			if at == operation.StepImport {
				p.count(*f)
			}
			// What a failed import has brought is seen to all the same.
			if err := p.read(ctx, try); err != nil {
				p.remark("what came back is not known: " + operation.FailureOf(err).Message)
				p.aborting = true
				return false
			}
			return true
		default:
			p.count(*f)
			return false
		}
	}
}

// followed asks about an import whose end is not known, also after a cancel or an abort: its file must not be removed, and nobody else may begin. True: it is followed on.
func (p *restore) followed(ctx workflow.Context, try int, f operation.Failure) bool {
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	p.node.Status, p.node.Failure = operation.NodeWaiting, &f
	decision := p.ask(disconnected, p.node.Name, operation.StepImport, try, f, operation.Retry, operation.Leave)
	p.node.Status = operation.NodeRunning
	if decision == operation.Retry {
		p.node.Failure = nil
		return true
	}
	p.keep, p.aborting, p.inconclusive = true, true, true
	p.remark("kato data import may still run there, so that its archive stays: " + p.place)
	return false
}

// count says what an import that went wrong, and is not tried again, means for the archive.
func (p *restore) count(f operation.Failure) {
	if f.Type == operation.ErrRemoteExit || f.Type == operation.ErrVerify {
		p.against = f.Message
	} else {
		p.inconclusive = true
	}
}

// importOnce is kato's import: begun once a try, and in a context that nobody cancels.
func (p *restore) importOnce(ctx workflow.Context, try int) error {
	var archives *activities.Archives
	p.at(ctx, operation.StepImport, try)
	if p.begun != max(p.importTry, 1) {
		if f := p.goOn(ctx); f != nil {
			return operation.NewError(*f)
		}
		if err := p.stillReady(ctx); err != nil {
			return err
		}
		// From here on there is no way back.
		if f := p.goOn(ctx); f != nil {
			return operation.NewError(*f)
		}
		p.begun = max(p.importTry, 1)
	}
	began := workflow.Now(ctx)
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	p.importing = true
	var out activities.ImportResult
	err := workflow.ExecuteActivity(following(disconnected, p.importSummary(), p.plan.ExportTimeout.D()+p.plan.UnreachableAfter.D()), archives.Import, p.importInput()).Get(disconnected, &out)
	p.importing = false
	p.report.Restore.ImportTime += operation.Duration(workflow.Now(ctx).Sub(began))
	p.unknown = err != nil && operation.OutcomeUnknown(operation.FailureOf(err).Type)
	if p.in.FromHost && !p.unknown {
		// Nothing is read from it any more: what is asked now must not keep it.
		lost, id := p.source.lost(), p.source.id
		p.letSourceGo(ctx)
		if lost && err == nil {
			return operation.NewError(operation.Failure{Type: operation.ErrVerify, Message: oneLine(fmt.Sprintf(
				"%s: cluster %s was not held while kato read it: operation %s had ended; what was written there meanwhile may be missing, or be there in part: retry imports again", p.node.Name, p.in.From, id), 1000)})
		}
	}
	if err != nil {
		return err
	}
	p.imported = out
	p.report.Restore.Named = out.Failed
	p.remark(out.Notes...)
	return nil
}

// stillReady asks once more, right before the import, what the preflight has asked: a backup, a download, or a question may have lain between.
func (p *restore) stillReady(ctx workflow.Context) error {
	var archives *activities.Archives
	var now activities.RestoreReadyResult
	err := workflow.ExecuteActivity(following(ctx, "what an import needs, once more", time.Hour), archives.RestoreReady, activities.RestoreReadyInput{ExportInput: p.input(), From: p.in.Source(),
		Archive: p.meant.Archive.Operation, Mode: operation.TransferWorker, NoSafetyBackup: true, NoSpaceCheck: true, NoDroplets: true, Rehearsal: p.in.Rehearsal, Running: p.in.FromHost}).Get(ctx, &now)
	if err != nil {
		return err
	}
	now.Problems = append(now.Problems, now.Source...)
	if now.Apps > 0 && p.meant.Apps == 0 && p.begun == 0 && !p.in.NoSafetyBackup && !p.in.Rehearsal {
		now.Problems = append(now.Problems, fmt.Sprintf("controller: cluster %s has %s by now, of which there is no backup: abort, and start the import again", p.op.Cluster, count(now.Apps, "app")))
	}
	if p.in.FromHost && p.source.lost() {
		now.Problems = append(now.Problems, fmt.Sprintf("cluster %s is not held any more: operation %s has ended", p.in.From, p.source.id))
	}
	if len(now.Problems) == 0 {
		return nil
	}
	return operation.NewError(operation.Failure{Type: operation.ErrPreflight, Problems: bound(now.Problems, 50),
		Message: oneLine(fmt.Sprintf("%s: not imported, because something has changed since the preflight: %s", p.node.Name, strings.Join(bound(now.Problems, 3), "; ")), 1000)})
}

// verify reads what came back. What is missing is a failure, which can be left.
func (p *restore) verify(ctx workflow.Context, try int) error {
	if err := p.read(ctx, try); err != nil {
		return err
	}
	missing := len(p.came.Missing) + p.came.More
	if missing == 0 && p.imported.Said == "" {
		return nil
	}
	text := ""
	if p.imported.Said != "" {
		text = "kato data import ended with 0 and said: " + p.imported.Said
	}
	if missing > 0 {
		if text != "" {
			text += "; "
		}
		text += fmt.Sprintf("%s of the archive not there: %s", count(missing, "thing"), strings.Join(bound(p.came.Missing, 3), ", "))
	}
	return operation.NewError(operation.Failure{Type: operation.ErrVerify, Message: oneLine(p.node.Name+": "+text, 1000), Problems: bound(p.came.Missing, 50)})
}

// read asks the Cloud Controller.
func (p *restore) read(ctx workflow.Context, try int) error {
	var archives *activities.Archives
	p.at(ctx, operation.StepVerify, try)
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	p.came = activities.RestoredResult{}
	err := workflow.ExecuteActivity(following(disconnected, p.summary("read what came back"), time.Hour), archives.Restored,
		activities.RestoredInput{Operation: p.op, Archive: p.meant.Archive, Failed: p.imported.Failed, Staged: p.staged()}).Get(disconnected, &p.came)
	r := p.report.Restore
	r.Found, r.Missing, r.More = p.came.Found, p.came.Missing, p.came.More
	p.remark(p.came.Notes...)
	return err
}

// staged is where it is written down what the running cluster had, nil for an archive, whose manifest says it.
func (p *restore) staged() *activities.ExportInput {
	if !p.in.FromHost {
		return nil
	}
	in := p.input()
	return &in
}

// tidy removes the file from the node. What cannot be removed is a question.
func (p *restore) tidy(ctx workflow.Context) {
	var archives *activities.Archives
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	left := p.untilDoneOrLeft(ctx, operation.StepTidy, func(try int) error {
		p.at(ctx, operation.StepTidy, try)
		return workflow.ExecuteActivity(following(ctx, p.summary("remove the archive from the node"), time.Hour), archives.TidyExport, activities.TidyInput{ExportInput: p.input()}).Get(ctx, nil)
	})
	if left != nil {
		p.remark("the archive was not removed from the node: " + left.Message)
	}
}

// handleApps sees to the apps: those that may come up yet are waited for, those that do not run are staged anew, as the policy says.
func (p *restore) handleApps(ctx workflow.Context) {
	p.at(ctx, operation.StepApps, 1)
	a := p.apps
	a.attach(p.run)
	p.report.Apps.Action = "" // some are waited for, some staged anew
	restage := p.in.Restage
	if restage == operation.RestageAll && p.meant.Recorded == nil {
		restage = operation.RestageFailed
		p.remark("not every app was staged anew, because the archive does not say which are its own")
	}
	a.report.Apps.Total = len(p.came.Running) + len(p.came.Waiting) + len(p.came.Broken) + len(p.came.Stopped)
	for _, app := range p.came.Stopped {
		a.add(operation.AppResult{App: app, Outcome: operation.AppStopped})
	}
	var again, waiting []operation.App
	anew := func(app operation.App) bool {
		return restage == operation.RestageAll || p.in.Restages(app.Org, app.Space, app.Name)
	}
	for _, app := range p.came.Running {
		if anew(app) {
			again = append(again, app)
		} else {
			a.add(operation.AppResult{App: app, Outcome: operation.AppRunning})
		}
	}
	for _, app := range p.came.Waiting {
		if anew(app) {
			again = append(again, app)
		} else {
			waiting = append(waiting, app)
		}
	}
	for _, r := range p.came.Broken {
		if restage == operation.RestageNone && !anew(r.App) {
			a.add(r)
		} else {
			again = append(again, r.App)
		}
	}
	a.begin(ctx)
	if restage != operation.RestageAll {
		a.in.Action = operation.AppAwait
		a.handle(ctx, waiting)
		if restage != operation.RestageNone {
			again = append(again, a.reopen(waiting)...)
		}
	}
	a.in.Action = operation.AppRestage
	a.handle(ctx, again)
	a.close(ctx)
}

// proven says whether the archive is proven restorable, and if not why.
func (p *restore) proven() (bool, string) {
	r := p.report.Restore
	if missing := len(r.Missing) + r.More; missing > 0 {
		return false, fmt.Sprintf("%s of the archive not there: %s", count(missing, "thing"), strings.Join(bound(r.Missing, 3), ", "))
	}
	if p.left != nil {
		return false, oneLine("left so: "+p.left.Message, 300)
	}
	if p.report.Apps == nil || r.Recorded == nil {
		return false, "it was not seen to"
	}
	counts := p.report.Apps.Counts
	if n := p.notRunning(); n > 0 {
		text := fmt.Sprintf("%s of %d not running", count(n, "app"), r.Recorded.AppsStarted)
		for _, app := range p.report.Apps.Apps {
			if app.Outcome == operation.AppFailed || app.Outcome == operation.AppGone {
				return false, oneLine(text+", such as "+app.String()+": "+app.Reason, 300)
			}
		}
		return false, text
	}
	if all := counts[operation.AppRunning] + counts[operation.AppRestaged] + counts[operation.AppStopped]; all < r.Recorded.Apps {
		return false, fmt.Sprintf("%d of %s seen to", all, count(r.Recorded.Apps, "app"))
	}
	return true, ""
}

// notRunning counts the apps that do not run and should.
func (p *restore) notRunning() int {
	counts := p.report.Apps.Counts
	return counts[operation.AppFailed] + counts[operation.AppGone] + counts[operation.AppUntouched]
}

// keepProof remembers beside the archive what the rehearsal has found out about it, if it has.
func (p *restore) keepProof(ctx workflow.Context) {
	found := operation.ArchiveRehearsal{At: stamp(ctx), Operation: p.op.ID, Cluster: p.op.Cluster, KatoVersion: p.meant.KatoVersion, PlatformVersion: p.meant.Version, Who: oneLine(p.in.RequestedBy, 100)}
	switch {
	case p.against != "":
		found.Problem = oneLine(p.against, 300)
	case p.aborting || p.inconclusive:
		return
	default:
		found.OK, found.Problem = p.proven()
	}
	if apps := p.report.Apps; apps != nil {
		found.AppsRunning, found.AppsFailed = apps.Counts[operation.AppRunning]+apps.Counts[operation.AppRestaged], p.notRunning()
	}
	var archives *activities.Archives
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	status, failure := p.node.Status, p.node.Failure
	for try := 1; ; try++ {
		p.at(ctx, operation.StepRecord, try)
		var kept operation.ArchiveRehearsal
		err := workflow.ExecuteActivity(following(ctx, "remember what the rehearsal found", time.Hour), archives.KeepRehearsal,
			activities.KeepRehearsalInput{Operation: p.op, Archive: p.meant.Archive, Manifest: p.meant.Manifest, Rehearsal: found}).Get(ctx, &kept)
		if err == nil {
			p.report.Restore.Rehearsal = &found
			if kept.At != found.At || kept.Operation != found.Operation {
				p.remark("a later rehearsal (" + kept.Operation + ") is remembered already, and stays so")
			}
			return
		}
		f := operation.FailureOf(err)
		decision := operation.Leave
		if f.Type != operation.ErrArchive { // which no other try changes
			p.node.Status = operation.NodeWaiting
			decision = p.ask(ctx, p.node.Name, operation.StepRecord, try, *f, operation.Retry, operation.Leave)
			p.node.Status, p.node.Failure = status, failure
		}
		if decision != operation.Retry {
			p.remark("what the rehearsal found is not remembered: " + f.Message)
			p.unkept = f
			return
		}
	}
}

func (p *restore) summary(what string) string {
	if p.fetchTry > 1 {
		return fmt.Sprintf("%s: %s (try %d)", p.plan.Nodes[0].Name, what, p.fetchTry)
	}
	return p.plan.Nodes[0].Name + ": " + what
}

func (p *restore) importSummary() string {
	if p.importTry > 1 {
		return fmt.Sprintf("%s: kato data import (try %d)", p.plan.Nodes[0].Name, p.importTry)
	}
	return p.plan.Nodes[0].Name + ": kato data import"
}

// outcomeText is the message of an operation that ended well.
func (p *restore) outcomeText() string {
	text := p.what() + " imported"
	if r := p.report.Restore.Rehearsal; r != nil {
		text = p.report.Restore.Archive + " is not proven restorable"
		if r.OK {
			text = p.report.Restore.Archive + " is proven restorable"
		}
	}
	if p.report.Apps != nil {
		text += "; " + appsSummary(p.report.Apps)
	}
	return text
}

// soFar is what an operation that did not come to its end has done.
func (p *restore) soFar() string {
	switch {
	case p.begun == 0:
		return "nothing was imported"
	case p.unknown:
		return "kato data import was begun and may still run"
	}
	return "kato data import has run"
}

// fell says that something did not come back, or that some apps do not run.
func (p *restore) fell() *operation.Failure {
	r := p.report.Restore
	if missing := len(r.Missing) + r.More; missing > 0 {
		return &operation.Failure{Type: operation.ErrRestored, Problems: bound(r.Missing, 50), Message: fmt.Sprintf("%s; %s of the archive not there", p.outcomeText(), count(missing, "thing"))}
	}
	if p.left != nil {
		return &operation.Failure{Type: operation.ErrRestored, Message: oneLine(p.outcomeText()+"; left so: "+p.left.Message, 1000)}
	}
	if p.report.Apps == nil {
		return nil
	}
	f := p.apps.fell()
	if f != nil {
		f.Message = p.outcomeText()
	} else if r.Rehearsal != nil && !r.Rehearsal.OK {
		f = &operation.Failure{Type: operation.ErrRestored, Message: p.outcomeText() + "; " + r.Rehearsal.Problem}
	} else if p.unkept != nil {
		f = &operation.Failure{Type: p.unkept.Type, Message: p.outcomeText() + "; what was found is not remembered: " + p.unkept.Message}
	}
	return f
}
