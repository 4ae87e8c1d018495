package workflows

// Export of a cluster ("Exporting the server data" of the source page):
//
//  1. what an export needs is there, and nothing else exports;
//  2. the cluster goes into maintenance mode, if that is wanted;
//  3. on the node with the role filesystem: kato data export --cluster FILE;
//  4. maintenance mode as it was found, at once;
//  5. the archive is read on the node: it is whole, so big, and has this SHA-256;
//  6. it is moved to the bucket (or to a mounted file system), the manifest last;
//  7. the staged file is removed.
//
// Steps 2 to 5 are tried again together: an archive that is not whole is exported again, and so is one that was changed before it was moved.

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// Backup is the operation workflow. It completes with the report when the archive is in its place; otherwise it fails, or ends as cancelled, with the report in
// the details of its error, and nothing of it is left: no staged file, no half upload, no maintenance mode.
func Backup(ctx workflow.Context, in operation.BackupInput) (*operation.Report, error) {
	return operate(ctx, operation.KindBackup, in.Request, "", &backup{in: in})
}

type backup struct {
	oneNode
	in operation.BackupInput

	data   int64 // bytes to be exported, as the preflight measured them
	export activities.ExportInput
	began  time.Time
	// try of the steps up to the check, for people; the try of their jobs is export.JobTry.
	try int
	// exported: the export of this job's try has ended well, so that only its check is to be tried again.
	exported bool
	// unsettled are the steps whose jobs may still run, because how they ended could not be learned.
	unsettled []string
	// placeTry is the try of the job that moves the archive to a mounted file system, and checked what it moves.
	placeTry int
	checked  activities.CheckArchiveResult
	// keepStaged: somebody decided that the staged file stays.
	keepStaged bool
}

func (b *backup) attach(r *run) { b.run = r }

func (b *backup) check() []string {
	var problems []string
	if b.in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	switch b.in.Maintenance {
	case "", operation.MaintenanceAuto, operation.MaintenanceOn, operation.MaintenanceOff:
	default:
		problems = append(problems, fmt.Sprintf("maintenance %q: choose auto, on or off", operation.Shorten(string(b.in.Maintenance), 40)))
	}
	switch b.in.Transfer {
	case "", operation.TransferAuto, operation.TransferWorker, operation.TransferDirect:
	default:
		problems = append(problems, fmt.Sprintf("transfer %q: choose auto, worker or direct", operation.Shorten(string(b.in.Transfer), 40)))
	}
	if b.in.ToPath != "" {
		problems = append(problems, operation.CheckToPath(b.in)...)
	}
	return problems
}

func (b *backup) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: b.in.Cluster, InventoryDigest: b.in.InventoryDigest, Export: &activities.ExportRequest{Node: b.in.Node, OnlyThisNode: b.in.OnlyThisNode,
		Include: b.in.Include, Exclude: b.in.Exclude, EncryptTo: b.in.EncryptTo, Transfer: b.in.Transfer, ToPath: b.in.ToPath}}
}

func (b *backup) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

// wantsMaintenance is false because the mode is on for the time of the export alone.
func (b *backup) wantsMaintenance() bool { return false }

// readOnlyWanted reports whether the Cloud Controller is read-only during the export.
func (b *backup) readOnlyWanted() bool {
	switch b.in.Maintenance {
	case operation.MaintenanceOn:
		return true
	case operation.MaintenanceOff:
		return false
	}
	return !b.in.OnlyThisNode
}

// input of an activity on the node that exports.
func (b *backup) input() activities.ExportInput {
	in := b.export
	in.NodeInput = activities.NodeInput{Operation: b.op, Node: b.plan.Nodes[0], JobTry: max(in.JobTry, 1), UnreachableAfter: b.plan.UnreachableAfter}
	in.ToPath, in.OnlyThisNode, in.Include, in.Exclude, in.Timeout = b.in.ToPath, b.in.OnlyThisNode, b.in.Include, b.in.Exclude, b.plan.ExportTimeout
	return in
}

// ready asks all nodes, the bucket and the Cloud Controller what the export needs of them.
func (b *backup) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	var archives *activities.Archives
	var out activities.ExportReadyResult
	b.report.Slots = 0 // an export has one node and no batch
	err = workflow.ExecuteActivity(following(ctx, "what an export needs", time.Hour), archives.ExportReady, activities.ExportReadyInput{ExportInput: b.input(),
		Mode: b.in.Transfer, EncryptTo: b.in.EncryptTo, NoSpaceCheck: b.in.NoSpaceCheck}).Get(ctx, &out)
	b.data = out.DataSize
	return out.Problems, out.Warnings, err
}

// found is what the starter says when the preflight has passed.
func (b *backup) found() string {
	return fmt.Sprintf("%s of data, exported on %s", operation.Size(b.data), b.plan.Nodes[0].Name)
}

func (b *backup) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var archives *activities.Archives
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), archives.PlanExport, activities.PlanExportInput{ExportInput: b.input(), Maintenance: b.readOnlyWanted(), Mode: b.in.Transfer,
		EncryptTo: b.in.EncryptTo}).Get(ctx, &out)
	return out.Plans, err
}

func (b *backup) steps(ctx workflow.Context) {
	b.takeUp(ctx)
	b.began = workflow.Now(ctx)
	b.report.Export = &operation.Exported{}
	ok := false
	for again := true; again; {
		again = false
		if b.exportAndCheck(ctx) {
			ok, again = b.bringAway(ctx)
		}
	}
	b.settle(ctx)
	b.tidy(ctx, !ok)
	if !ok {
		b.report.Export = nil
	}
	b.leave(ctx, ok)
}

// exportAndCheck makes an archive and reads it. False: cancelled or aborted.
func (b *backup) exportAndCheck(ctx workflow.Context) bool {
	for {
		b.try++
		b.export.JobTry = max(b.export.JobTry, 1)
		err := b.exportOnce(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil || b.aborting {
			return false
		}
		f := operation.FailureOf(err)
		if b.failed(ctx, b.try, *f, operation.Retry, operation.Abort) != operation.Retry {
			return false
		}
		// A job whose outcome is unknown keeps its name and is taken up again; anything else is exported anew.
		if !operation.OutcomeUnknown(f.Type) {
			b.exportAnew()
		}
	}
}

// exportAnew lets the next try be an export of its own.
func (b *backup) exportAnew() { b.export.JobTry, b.exported = b.export.JobTry+1, false }

// exportOnce is one try: maintenance mode on, the export, maintenance mode as found whatever came of it, and the reading of the archive.
func (b *backup) exportOnce(ctx workflow.Context) error {
	var archives *activities.Archives
	if f := b.goOn(ctx); f != nil {
		return operation.NewError(*f)
	}
	if !b.exported {
		b.at(ctx, operation.StepPrepare, b.try)
		var prepared activities.PrepareExportResult
		if err := workflow.ExecuteActivity(following(ctx, b.summary("prepare the folder for the archive"), time.Hour), archives.PrepareExport, b.input()).Get(ctx, &prepared); err != nil {
			return err
		}
		b.export.Place, b.report.Export.Contents = prepared.Place, prepared.Contents
		b.remark(prepared.Notes...)

		var exported activities.ExportResult
		err := b.readOnlyDuring(ctx, func() error {
			b.at(ctx, operation.StepExport, b.try)
			began := workflow.Now(ctx)
			err := b.job(ctx, operation.StepExport, b.summary("kato data export"), b.plan.ExportTimeout.D()+b.plan.UnreachableAfter.D(), archives.Export, b.input(), &exported)
			b.report.Export.ExportTime = operation.Duration(workflow.Now(ctx).Sub(began))
			return err
		})
		if err != nil {
			return err
		}
		b.exported, b.report.Export.Size = true, exported.Size
		b.remark(exported.Notes...)
	}

	b.at(ctx, operation.StepCheck, b.try)
	var checked activities.CheckArchiveResult
	err := b.job(ctx, operation.StepCheck, b.summary("read the archive: tar, size, SHA-256"), max(b.plan.ExportTimeout.D(), time.Hour)+b.plan.UnreachableAfter.D(), archives.CheckArchive, b.input(), &checked)
	if err != nil {
		return err
	}
	b.checked = checked
	b.report.Export.Size, b.report.Export.SHA256, b.report.Export.Entries = checked.Size, checked.SHA256, checked.Entries
	b.remark(checked.Notes...)
	return nil
}

// job runs a step that is a job on the node, and remembers whether the job may live on although the step has ended.
func (b *backup) job(ctx workflow.Context, step, summary string, ceiling time.Duration, activity, in, out any) error {
	err := workflow.ExecuteActivity(following(ctx, summary, ceiling), activity, in).Get(ctx, out)
	b.unsettled = slices.DeleteFunc(b.unsettled, func(s string) bool { return s == step })
	if err != nil && (ctx.Err() != nil || operation.OutcomeUnknown(operation.FailureOf(err).Type)) {
		b.unsettled = append(b.unsettled, step)
	}
	return err
}

// readOnlyDuring runs do in maintenance mode, where that is wanted, and puts the mode back as it was found before it returns.
func (b *backup) readOnlyDuring(ctx workflow.Context, do func() error) error {
	err := error(nil)
	if b.readOnlyWanted() && !b.enterMaintenance(ctx) {
		err = operation.NewError(operation.Failure{Type: operation.ErrCancelled, Message: "not exported"})
	} else {
		err = do()
	}
	if b.readOnly {
		disconnected, _ := workflow.NewDisconnectedContext(ctx)
		b.leaveMaintenance(disconnected)
		b.report.Export.MaintenanceTime = operation.Duration(b.readOnlyFor)
	}
	if b.readOnlyWanted() && slices.Contains(b.unsettled, operation.StepExport) && ctx.Err() == nil {
		b.remark("the export may have gone on after maintenance mode was put back")
	}
	return err
}

// settle sees to it, when the operation does not go on, that no job of it runs or starts on the node any more: what was staged is removed next.
func (b *backup) settle(ctx workflow.Context) {
	var archives *activities.Archives
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	for _, step := range b.unsettled {
		in := b.input()
		in.Settle = true
		following := following(ctx, b.summary("end the job of step "+step), time.Hour)
		var err error
		switch step {
		case operation.StepExport:
			err = workflow.ExecuteActivity(following, archives.Export, in).Get(ctx, nil)
		case operation.StepCheck:
			err = workflow.ExecuteActivity(following, archives.CheckArchive, in).Get(ctx, nil)
		case operation.StepTransfer:
			moving := b.transferInput()
			moving.Settle = true
			var moved activities.TransferResult
			if err = workflow.ExecuteActivity(following, archives.Place, moving).Get(ctx, &moved); err == nil && moved.Location != "" {
				b.remark("the archive was in its place before that could be stopped, and stays: " + moved.Location)
			}
		}
		if err == nil {
			continue
		}
		if f := operation.FailureOf(err); operation.OutcomeUnknown(f.Type) {
			b.remark("the job of step " + step + " may still run there: " + f.Message)
		}
	}
	b.unsettled = nil
}

// transferInput is the input of the steps that move the archive.
func (b *backup) transferInput() activities.TransferInput {
	in := activities.TransferInput{ExportInput: b.input(), Checked: b.checked, Mode: b.in.Transfer, EncryptTo: b.in.EncryptTo, Platform: b.plan.Platform, Who: b.in.RequestedBy, Began: b.began.UTC()}
	return in.WithPlaceTry(max(b.placeTry, 1))
}

// bringAway moves the archive to its place. Neither ok nor again: cancelled, aborted or left. again: it is not what was checked any more, and is to be exported anew.
func (b *backup) bringAway(ctx workflow.Context) (ok, again bool) {
	var archives *activities.Archives
	began := workflow.Now(ctx)
	for try := 1; ; try++ {
		err := error(nil)
		if f := b.goOn(ctx); f != nil {
			err = operation.NewError(*f)
		}
		var moved activities.TransferResult
		if err == nil {
			b.at(ctx, operation.StepTransfer, try)
			if b.in.ToPath != "" {
				err = b.job(ctx, operation.StepTransfer, b.summary("move the archive to its place"), max(b.plan.ExportTimeout.D(), time.Hour), archives.Place, b.transferInput(), &moved)
			} else {
				err = workflow.ExecuteActivity(following(ctx, b.summary("transfer to the bucket"), transferCeiling), archives.Transfer, b.transferInput()).Get(ctx, &moved)
			}
		}
		if err == nil {
			e := b.report.Export
			e.Location, e.StoredSize, e.Parts, e.Transfer, e.Encrypted = moved.Location, moved.StoredSize, moved.Parts, moved.Mode, moved.Encrypted
			e.TransferTime = operation.Duration(workflow.Now(ctx).Sub(began))
			b.remark(moved.Notes...)
			return true, false
		}
		if ctx.Err() != nil || b.aborting {
			return false, false
		}
		f := operation.FailureOf(err)
		switch b.failed(ctx, try, *f, operation.Retry, operation.Leave, operation.Abort) {
		case operation.Retry:
			if !operation.OutcomeUnknown(f.Type) {
				b.placeTry = max(b.placeTry, 1) + 1
			}
			if f.Type == operation.ErrArchive {
				b.exportAnew()
				return false, true
			}
		case operation.Leave:
			b.keepStaged, b.aborting = true, true
			b.remark("the archive was left at " + b.export.Place + " and is not in any list")
			return false, false
		default:
			return false, false
		}
	}
}

// transferCeiling bounds one transfer: what is slower than this does not end before the next one begins.
const transferCeiling = 7 * 24 * time.Hour

// tidy removes what was staged, unless it is to be kept; with abort, what was uploaded too. What cannot be removed is a question.
func (b *backup) tidy(ctx workflow.Context, abort bool) {
	var archives *activities.Archives
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	what := "remove the staged archive"
	if b.keepStaged {
		what = "end the upload"
	}
	left := b.untilDoneOrLeft(ctx, operation.StepTidy, func(try int) error {
		if !abort {
			b.at(ctx, operation.StepTidy, try)
		}
		return workflow.ExecuteActivity(following(ctx, b.summary(what), time.Hour), archives.TidyExport, activities.TidyInput{ExportInput: b.input(), Abort: abort, KeepStaged: b.keepStaged}).Get(ctx, nil)
	})
	if left != nil {
		b.remark("not everything was removed: " + left.Message)
	}
}

func (b *backup) summary(what string) string {
	if b.export.JobTry > 1 {
		return fmt.Sprintf("%s: %s (try %d)", b.plan.Nodes[0].Name, what, b.export.JobTry)
	}
	return b.plan.Nodes[0].Name + ": " + what
}

// outcomeText is the message of an operation that ended well.
func (b *backup) outcomeText() string {
	e := b.report.Export
	if e == nil || e.Location == "" {
		return ""
	}
	return fmt.Sprintf("%s in %s", operation.Size(e.Size), e.Location)
}
