package activities

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/controller"
	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Archives makes exports of a cluster and brings them to their place ("Exporting the server data" of the source page). Its fields are set by the worker and not
// changed afterwards.
//
// Every method may be attempted any number of times. What takes long on the node is a durable job; what is staged lies in a folder of the operation alone;
// which parts of an upload are done is asked of S3.
type Archives struct {
	Source      *Source
	Connections Connections
	Jobs        Jobs
	// Logger gets the output of jobs line by line; nil for none.
	Logger *zap.Logger
	// PartSize of uploads in bytes, at least 5 MiB; 0 = chosen by the size of the archive.
	PartSize int64
}

// ExportInput is the input of the steps of an export.
type ExportInput struct {
	NodeInput
	// ToPath is the folder of a mounted file system that the archive goes to, instead of S3.
	ToPath string `json:"toPath,omitempty"`
	// Place is the operation's folder on the node, as PrepareExport found it.
	Place        string   `json:"place,omitempty"`
	OnlyThisNode bool     `json:"onlyThisNode,omitempty"`
	Include      []string `json:"include,omitempty"`
	Exclude      []string `json:"exclude,omitempty"`
	// Timeout of the export, and of reading the archive.
	Timeout operation.Duration `json:"timeout,omitempty"`
}

// PrepareExportResult says where the archive is staged and what the Cloud Controller has.
type PrepareExportResult struct {
	Place    string                      `json:"place"`
	Contents *operation.ExportedContents `json:"contents,omitempty"`
	Notes    []string                    `json:"notes,omitempty"`
}

// ExportResult is how the export ended.
type ExportResult struct {
	JobResult
	// Size of the archive in bytes.
	Size int64 `json:"size,omitempty"`
}

// CheckArchiveResult is what was read on the node.
type CheckArchiveResult struct {
	JobResult
	// Size in bytes, Modified in Unix seconds by the node's clock, SHA256 in hexadecimal, Entries as tar lists them.
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"`
	SHA256   string `json:"sha256"`
	Entries  int64  `json:"entries"`
}

const (
	// stagedName is the archive's name in the folder of a try.
	stagedName = "export.tgz"
	// contentWithin bounds the reading of the Cloud Controller, in all its pages.
	contentWithin = 10 * time.Minute
	// checkFloor is the least time that reading an archive may take.
	checkFloor = time.Hour
	// maxSaid is how much of the end of an export's output is looked at, in bytes: an error stands before what is said at the end.
	maxSaid = 64 << 10
)

var (
	prepareExportScript = script("staging", "export_prepare")
	foundScript         = script("export_found")
	tidyScript          = remote.VaultsScript() + script("staging", "export_tidy")
	checkScript         = plainScript("export_check")
	placeScript         = plainScript("export_place")
)

// staged is where an export of a try is written.
func (in ExportInput) staged() string {
	return path.Join(in.Place, "try-"+strconv.Itoa(max(in.JobTry, 1)), stagedName)
}

// staging are the arguments of staging.sh: the folder, and the operation's own in it.
func (s site) staging(in ExportInput) []string {
	if in.ToPath != "" {
		return []string{in.ToPath, ".katoflow-" + remote.EncodeID(in.Operation.ID)}
	}
	return []string{s.cluster.ExportSettings().Folder, "katoflow-" + remote.EncodeID(in.Operation.ID)}
}

func (s site) exportJob(in ExportInput) remote.JobSpec {
	folder := path.Join(path.Dir(in.staged()), "work")
	return remote.JobSpec{ID: jobID(in.Operation, in.Node.Name, operation.StepExport, in.JobTry), Lease: lease(in.Operation), Login: true, Interruptible: true,
		Argv: s.kato().Export(kato.Export{OnlyThisNode: in.OnlyThisNode, Include: in.Include, Exclude: in.Exclude, Folder: folder, Path: in.staged()})}
}

func (s site) checkJob(in ExportInput) remote.JobSpec {
	return remote.JobSpec{ID: jobID(in.Operation, in.Node.Name, operation.StepCheck, in.JobTry), Lease: lease(in.Operation), Interruptible: true,
		Argv: []string{"sh", "-c", checkScript, "sh", in.staged()}}
}

func (x *Archives) where(in ExportInput) (site, target, error) {
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return site{}, target{}, err
	}
	t, err := s.target(in.Node.Name)
	return s, t, err
}

func (x *Archives) job(in ExportInput, t target, spec remote.JobSpec, ceiling time.Duration) jobRun {
	return jobRun{jobs: x.Jobs, host: t.host, spec: spec, log: logOf(x.Logger, in.Operation, in.Node.Name, spec.ID.Step), settle: in.Settle,
		unreachableAfter: in.UnreachableAfter.D(), ceiling: ceiling,
		connections: x.Connections, folders: []string{path.Dir(in.staged())}}
}

// PrepareExport makes the folder for this try on the node, removes what earlier tries left there, and writes down beside it what the Cloud Controller has, for
// the manifest. A Cloud Controller that cannot be read is a note: the export does not depend on it. Repeating it is harmless.
//
// Errors: DiskFull when the folder cannot be made; Unreachable and what package remote tells.
func (x *Archives) PrepareExport(ctx context.Context, in ExportInput) (PrepareExportResult, error) {
	a := begin(ctx, "preparing")
	defer a.finish()
	s, t, err := x.where(in)
	if err != nil {
		return PrepareExportResult{}, err
	}
	var out PrepareExportResult
	var content []byte
	if s.cluster.Controller != nil {
		a.phase("asking the Cloud Controller for orgs, spaces, apps and services")
		read, err := x.content(a.ctx, s)
		if a.ctx.Err() != nil {
			return PrepareExportResult{}, ended(a.ctx)
		}
		if err != nil {
			out.Notes = append(out.Notes, oneLine("what the Cloud Controller has is not in the manifest: "+err.Error(), 300))
		} else {
			out.Contents = countsOf(read)
			content, _ = json.Marshal(read) // names and numbers
		}
	}
	out.Place, err = x.place(a, s, t, in, content)
	return out, err
}

// place makes the folder of the try on the node, with what is to lie beside the archive, and returns the operation's own.
func (x *Archives) place(a *attempt, s site, t target, in ExportInput, content []byte) (folder string, err error) {
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) error {
		answer, err := askWith(ctx, askWithin, x.Connections, t.host, bytes.NewReader(content), prepareExportScript, append(s.staging(in), strconv.Itoa(max(in.JobTry, 1)))...)
		folder = answer.value("place")
		return err
	})
	if err == nil && !path.IsAbs(folder) {
		err = fail(operation.ErrRemoteExit, t.host.Name, "the folder for exports has no absolute path: write export.folder into the inventory")
	}
	return folder, stagingError(t, err)
}

// stagingError says what a folder that cannot be made means.
func stagingError(t target, err error) error {
	f := operation.FailureOf(err)
	if f == nil || f.Type != operation.ErrRemoteExit || f.Tail == "" {
		return err
	}
	return failJob(operation.ErrRemoteExit, t.host.Name, "", f.Tail, "the folder for the archive cannot be used: %s", oneLine(lastLineOf(f.Tail), 200))
}

func (x *Archives) content(ctx context.Context, s site) (*archive.Content, error) {
	c, err := s.controller(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, contentWithin)
	defer cancel()
	content, err := c.Content(ctx)
	return &content, err
}

func countsOf(c *archive.Content) *operation.ExportedContents {
	return &operation.ExportedContents{Orgs: c.Orgs, Spaces: c.Spaces, Apps: c.Apps, AppsStarted: c.AppsStarted, Services: c.Services, Users: len(c.Users)}
}

// Export runs `kato data export` as the job `export` (kato.md §3.2), at most once a try. It is stopped when the operation is cancelled. Exit code 0 is not
// believed: what it says must be no refusal, and the archive must be there and not empty.
//
// Errors: RemoteExit when kato failed, refused or took longer than Timeout; Verify when it said that it was done and was not; Interrupted when the node rebooted; Lost;
// Unreachable and what package remote tells.
func (x *Archives) Export(ctx context.Context, in ExportInput) (ExportResult, error) {
	a := begin(ctx, "export")
	defer a.finish()
	s, t, err := x.where(in)
	if err != nil {
		return ExportResult{}, err
	}
	job := x.job(in, t, s.exportJob(in), in.Timeout.D())
	result, said, err := x.ran(a, in, t, job, "the node rebooted in the middle of the export: retry exports again", maxSaid)
	if err != nil || !result.Started {
		return ExportResult{JobResult: result}, err
	}
	if words := refusal(said); words != "" {
		return ExportResult{}, failJob(operation.ErrVerify, t.host.Name, job.spec.ID.Dir(), remote.Tail([]byte(said), maxTail), "kato data export ended with 0 and said: %s", words)
	}
	var found answer
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), job.spec.ID.Dir(), func(ctx context.Context) (err error) {
		found, err = ask(ctx, x.Connections, t.host, foundScript, in.staged())
		return err
	})
	if err != nil {
		return ExportResult{}, err
	}
	size, err := strconv.ParseInt(found.value("size"), 10, 64)
	if err != nil || size == 0 {
		return ExportResult{}, failJob(operation.ErrVerify, t.host.Name, job.spec.ID.Dir(), remote.Tail([]byte(said), maxTail),
			"kato data export ended with 0 and left no archive at %s: see its output, then retry", remote.Escape(in.staged()))
	}
	return ExportResult{JobResult: result, Size: size}, nil
}

// ran is a job of kato's that exit code 0 does not prove: how it ended, and the end of what it said. An interrupted one is an error with those words.
func (x *Archives) ran(a *attempt, in ExportInput, t target, job jobRun, interrupted string, most int) (result JobResult, said string, err error) {
	end, err := job.run(a)
	if err != nil {
		return JobResult{}, "", err
	}
	result, err = job.result(end)
	switch {
	case err != nil || !result.Started:
		return result, "", err
	case result.Interrupted:
		return result, "", failJob(operation.ErrInterrupted, t.host.Name, job.spec.ID.Dir(), "", "%s", interrupted)
	}
	said, err = x.said(a, in, t, job.spec.ID, most)
	return result, said, err
}

// said is the end of a job's output, also when an earlier attempt has followed it.
func (x *Archives) said(a *attempt, in ExportInput, t target, id remote.JobID, most int) (string, error) {
	var out []byte
	err := a.persist(t.host.Name, in.UnreachableAfter.D(), id.Dir(), func(ctx context.Context) (err error) {
		out, err = x.Jobs.Output(ctx, t.host, id, most)
		return err
	})
	return string(out), err
}

// CheckArchive reads the archive on the node as the job `check`: tar lists it to its end, and size, time and SHA-256 are what the transfer will be held against.
//
// Errors: Archive when it cannot be read, or changed meanwhile (a retry exports again); what Export tells of jobs and nodes.
func (x *Archives) CheckArchive(ctx context.Context, in ExportInput) (CheckArchiveResult, error) {
	a := begin(ctx, "reading the archive")
	defer a.finish()
	s, t, err := x.where(in)
	if err != nil {
		return CheckArchiveResult{}, err
	}
	job := x.job(in, t, s.checkJob(in), max(in.Timeout.D(), checkFloor))
	end, err := job.run(a)
	if err != nil {
		return CheckArchiveResult{}, err
	}
	said := ""
	if end.State == remote.JobExited && !end.NeverStarted {
		if said, err = x.said(a, in, t, job.spec.ID, maxTail); err != nil {
			return CheckArchiveResult{}, err
		}
		if end.ExitCode != 0 {
			return CheckArchiveResult{}, failJob(operation.ErrArchive, t.host.Name, job.spec.ID.Dir(), remote.Tail([]byte(said), maxTail),
				"the archive is not whole: %s", oneLine(lastLineOf(said), 200))
		}
	}
	result, err := job.result(end)
	switch {
	case err != nil || !result.Started:
		return CheckArchiveResult{JobResult: result}, err
	case result.Interrupted:
		return CheckArchiveResult{JobResult: result}, failJob(operation.ErrInterrupted, t.host.Name, job.spec.ID.Dir(), "", "the node rebooted while the archive was read there: retry begins with it anew")
	}
	out := CheckArchiveResult{JobResult: result}
	words := strings.Fields(strings.TrimPrefix(lastLineOf(said), answerMark+"archive "))
	if len(words) == 4 {
		out.Size, _ = strconv.ParseInt(words[0], 10, 64)
		out.Modified, _ = strconv.ParseInt(words[1], 10, 64)
		out.SHA256 = words[2]
		out.Entries, _ = strconv.ParseInt(words[3], 10, 64)
	}
	if len(words) != 4 || out.Size <= 0 || len(out.SHA256) != 64 || out.Entries <= 0 {
		return CheckArchiveResult{}, failJob(operation.ErrArchive, t.host.Name, job.spec.ID.Dir(), remote.Tail([]byte(said), maxTail), "the archive is empty, or what was read of it makes no sense")
	}
	return out, nil
}

// PlanExportInput asks for the commands of a dry run.
type PlanExportInput struct {
	ExportInput
	Maintenance bool                   `json:"maintenance,omitempty"`
	Mode        operation.TransferMode `json:"mode,omitempty"`
	EncryptTo   []string               `json:"encryptTo,omitempty"`
}

// PlanExport returns the commands of a dry run, made by the same code as those of a real one. It reaches no node.
func (x *Archives) PlanExport(ctx context.Context, in PlanExportInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	core, err := s.core()
	if err != nil {
		return PlanCommandsResult{}, err
	}
	folder := s.staging(in.ExportInput)
	if folder[0] == "" {
		folder[0] = "~/katoflow-exports"
	}
	in.Place = path.Join(folder...)
	var out PlanCommandsResult
	if in.Maintenance {
		out.Plans = append(out.Plans, operation.CommandPlan{Nodes: []string{operation.ClusterNode}, Commands: []operation.PlannedCommand{
			{Step: operation.StepMaintenanceOn, Command: show(s.maintenanceJob(in.Operation, operation.StepMaintenanceOn, true, 1)),
				Note: "on " + core.node.Name + ", before the export, unless it is on"},
			{Step: operation.StepMaintenanceOff, Command: show(s.maintenanceJob(in.Operation, operation.StepMaintenanceOff, false, 1)),
				Note: "on " + core.node.Name + ", as soon as the export has ended, unless it was on before"},
		}})
	}
	transfer := operation.PlannedCommand{Step: operation.StepTransfer}
	if in.ToPath != "" {
		transfer.Command = remote.Quote([]string{"mv", in.staged(), TransferInput{ExportInput: in.ExportInput}.placed()})
	} else {
		store, err := s.store(x.Logger)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		defer store.Close()
		key, _ := store.Key(archive.Ref{Cluster: in.Operation.Cluster, Operation: in.Operation.ID})
		how := map[operation.TransferMode]string{operation.TransferWorker: "by the worker", operation.TransferDirect: "by the node's curl"}[in.Mode]
		if how == "" {
			how = "by the node's curl where it reaches S3, else by the worker"
		}
		if len(in.EncryptTo) > 0 {
			how = "by the worker, encrypted"
		}
		transfer.Command, transfer.Note = "multipart upload to s3://"+s.cluster.S3.Bucket+"/"+key, how+"; the manifest last"
	}
	out.Plans = append(out.Plans, operation.CommandPlan{Nodes: []string{t.node.Name}, Commands: []operation.PlannedCommand{
		{Step: operation.StepExport, Command: show(s.exportJob(in.ExportInput)), Note: "in a login shell"},
		{Step: operation.StepCheck, Command: remote.Quote([]string{"tar", "tzf", in.staged()}), Note: "with its size and SHA-256"},
		transfer,
		{Step: operation.StepTidy, Command: remote.Quote([]string{"rm", "-rf", in.Place})},
	}})
	return out, nil
}

// TidyInput says what of an export is to be removed.
type TidyInput struct {
	ExportInput
	// Abort also ends the upload, and removes what lies in its place without a manifest: the operation will not go on.
	Abort bool `json:"abort,omitempty"`
	// KeepStaged leaves the staged archive where it is.
	KeepStaged bool `json:"keepStaged,omitempty"`
}

// TidyExport removes what the operation staged on the node and, with Abort, what it has begun to upload or to put in its place; an archive with its manifest stays. The
// workflow has seen to it before that no job writes there any more. Repeating it is harmless.
//
// Errors: RemoteExit when something cannot be removed; S3 when the upload cannot be ended; Unreachable and what package remote tells.
func (x *Archives) TidyExport(ctx context.Context, in TidyInput) (JobResult, error) {
	a := begin(ctx, "tidying up")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return JobResult{}, err
	}
	var problem error
	if in.Abort && in.ToPath == "" && s.cluster.S3 != nil {
		problem = x.abortUpload(a, s, in.Operation)
	}
	args := append(s.staging(in.ExportInput), flag(in.KeepStaged), partSecrets(in.Operation))
	if in.Abort && in.ToPath != "" && in.Place != "" && !in.KeepStaged {
		args = append(args, in.staged(), TransferInput{ExportInput: in.ExportInput}.placed())
	}
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) error {
		_, err := askFor(ctx, 10*time.Minute, x.Connections, t.host, tidyScript, args...)
		return err
	})
	if err == nil {
		err = problem
	}
	return JobResult{Started: true}, err
}

func (x *Archives) abortUpload(a *attempt, s site, op Operation) error {
	store, err := s.store(x.Logger)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.Abort(a.ctx, archive.Ref{Cluster: op.Cluster, Operation: op.ID}); err != nil {
		if a.ctx.Err() != nil {
			return ended(a.ctx)
		}
		return storeError("bucket", err)
	}
	return nil
}

// controller opens the client of the cluster's Cloud Controller, which the inventory has. Close it.
func (s site) controller(log *zap.Logger) (*controller.Client, error) {
	cfg, err := controller.ConfigOf(s.file, s.cluster.Controller, s.env)
	if err != nil {
		return nil, err
	}
	return controller.Open(cfg, log)
}

// store opens the bucket of the cluster's archives. The error is the activity's.
func (s site) store(log *zap.Logger) (*archive.Store, error) {
	if s.cluster.S3 == nil {
		return nil, operation.NewError(operation.Failure{Type: operation.ErrS3, Message: fmt.Sprintf(
			"cluster %s has no s3 section in the worker's inventory: write the bucket of its archives there", remote.Escape(s.cluster.Name))})
	}
	cfg, err := archive.ConfigOf(s.file, s.cluster.S3, s.env)
	if err != nil {
		return nil, operation.NewError(operation.Failure{Type: operation.ErrS3, Message: oneLine(err.Error(), maxMessage)})
	}
	store, err := archive.Open(cfg, log)
	if err != nil {
		return nil, operation.NewError(operation.Failure{Type: operation.ErrS3, Message: oneLine("s3: "+err.Error(), maxMessage)})
	}
	return store, nil
}

// storeError is the activity's error of a store that did not go on.
func storeError(what string, err error) error {
	kind := operation.ErrS3
	switch archive.KindOf(err) {
	case archive.KindCorrupt, archive.KindIncomplete, archive.KindLocked, archive.KindDecrypt, archive.KindSourceChanged, archive.KindConflict:
		kind = operation.ErrArchive
	case archive.KindSource:
		kind = operation.ErrRemoteExit
	case "":
		kind = operation.ErrInternal
	}
	return operation.NewError(operation.Failure{Type: kind, Message: oneLine(what+": "+err.Error(), maxMessage)})
}
