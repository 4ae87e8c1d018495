package activities

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// TransferInput is the input of the last steps of an export: what was checked, and what the manifest says of it.
type TransferInput struct {
	ExportInput
	Checked   CheckArchiveResult     `json:"checked"`
	Mode      operation.TransferMode `json:"mode,omitempty"`
	EncryptTo []string               `json:"encryptTo,omitempty"`
	Platform  string                 `json:"platform,omitempty"`
	Who       string                 `json:"who,omitempty"`
	// Began is when the export began, by the Temporal server's clock.
	Began time.Time `json:"began"`
	// PlaceTry is the try of the job of Place.
	PlaceTry int `json:"placeTry,omitempty"`
}

// WithPlaceTry is the input for a try of Place, whose job has tries of its own: the archive that is moved stays the one of the export's try.
func (in TransferInput) WithPlaceTry(try int) TransferInput {
	in.PlaceTry = try
	return in
}

// TransferResult is where the archive is.
type TransferResult struct {
	Location   string                 `json:"location"`
	StoredSize int64                  `json:"storedSize"`
	Parts      int                    `json:"parts,omitempty"`
	Mode       operation.TransferMode `json:"mode,omitempty"`
	Encrypted  bool                   `json:"encrypted,omitempty"`
	Notes      []string               `json:"notes,omitempty"`
}

const (
	// storePatience is how long a store that answers with passing faults is tried again without a byte getting ahead.
	storePatience = 15 * time.Minute
	// maxContent bounds the content of a cluster in a manifest, in bytes.
	maxContent = 16 << 20
	// placeDiffers is the exit code of export_place.sh for an archive with other content.
	placeDiffers = 4
)

// Transfer moves the checked archive to the cluster's bucket and writes the manifest, last. Upload and finished parts are asked of S3, and are in the
// heartbeat: whatever worker goes on, at most the parts in flight are sent again. By Mode the worker reads ranges over SSH, or the node uploads to presigned
// URLs, which go to it over standard input; with auto the latter falls back to the former where the node cannot reach S3. Repeating it is harmless, also after its end.
//
// Errors: Archive when the file is not what was checked (nothing is listed then), or another archive has the name; S3 when the bucket cannot be used;
// Unreachable when the node is not reached for UnreachableAfter; what package remote tells.
func (x *Archives) Transfer(ctx context.Context, in TransferInput) (TransferResult, error) {
	a := begin(ctx, "transfer")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return TransferResult{}, err
	}
	store, err := s.store(x.Logger)
	if err != nil {
		return TransferResult{}, err
	}
	defer store.Close()
	cfg, err := archive.ConfigOf(s.file, s.cluster.S3, s.env)
	if err != nil {
		return TransferResult{}, operation.NewError(operation.Failure{Type: operation.ErrS3, Message: oneLine(err.Error(), maxMessage)})
	}
	m := x.manifest(a, s, t, in)
	file := NewNodeFile(x.Connections, t.host, in.staged())
	defer file.Close()
	up := archive.Upload{Ref: m.Ref, Source: file, SHA256: in.Checked.SHA256, Recipients: in.EncryptTo, Progress: a.previous.Upload, PartSize: x.PartSize}
	up.Record = func(p archive.Progress) { a.uploaded(p) }
	sender := sending{way: way{mode: in.Mode, log: logOf(x.Logger, in.Operation, in.Node.Name, operation.StepTransfer)}, file: file, ca: cfg.CA, secrets: partSecrets(in.Operation)}
	if len(in.EncryptTo) > 0 {
		sender.mode = operation.TransferWorker
	}
	var stored archive.Stored
	err = a.againstFaults(t, in.UnreachableAfter.D(), func(ctx context.Context) (err error) {
		if err = unchanged(ctx, file, in.Checked); err == nil {
			stored, err = sender.send(ctx, store, up)
		}
		if archive.IsKind(err, archive.KindSourceChanged) {
			x.giveUp(ctx, store, m.Ref)
		}
		return err
	})
	if err != nil {
		return TransferResult{}, err
	}
	m.Stored, m.Ended = stored, time.Now().UTC()
	err = a.againstFaults(t, in.UnreachableAfter.D(), func(ctx context.Context) error {
		a.phase("writing the manifest")
		content, err := x.stagedContent(ctx, t, in.ExportInput)
		if err != nil {
			return err
		}
		m.Content = content
		_, err = store.Finish(ctx, m)
		return err
	})
	if err != nil {
		return TransferResult{}, err
	}
	key, _ := store.Key(m.Ref)
	return TransferResult{Location: "s3://" + s.cluster.S3.Bucket + "/" + key, StoredSize: stored.StoredSize, Parts: len(stored.Parts), Mode: sender.used, Encrypted: stored.Encrypted(),
		Notes: notes(sender.note)}, nil
}

// unchanged holds the staged archive against what was checked.
func unchanged(ctx context.Context, file *NodeFile, checked CheckArchiveResult) error {
	stat, err := file.Stat(ctx)
	changed := func(format string, args ...any) error {
		return &archive.Error{Kind: archive.KindSourceChanged, Message: "the staged archive is not what was checked: " + fmt.Sprintf(format, args...) + ": retry exports again"}
	}
	switch {
	case remote.IsKind(err, remote.KindExit):
		return changed("it cannot be read any more")
	case err != nil:
		return err
	case stat.Size != checked.Size:
		return changed("it had %d bytes and has %d", checked.Size, stat.Size)
	case stat.Modified.Unix() != checked.Modified:
		return changed("it was written to since")
	}
	return nil
}

// giveUp removes the parts that nobody can go on with. What cannot be removed now is found as a leftover.
func (x *Archives) giveUp(ctx context.Context, store *archive.Store, ref archive.Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := store.Abort(ctx, ref); err != nil && x.Logger != nil {
		x.Logger.Warn("parts of no use stay in the bucket until leftovers are removed", zap.Stringer("archive", ref), zap.Error(err))
	}
}

// sending moves the parts, one way or the other.
type sending struct {
	way
	file *NodeFile
	ca   []byte
	// secrets is how folders of presigned URLs are named on the node.
	secrets string
}

// way is how bytes go between a node and S3: by the node itself, or through the worker.
type way struct {
	mode operation.TransferMode
	log  *zap.Logger
	// used is the way that was gone, and note why it is not the one that was asked for first.
	used operation.TransferMode
	note string
}

// move goes the way that is asked for. With auto that is the direct one, and where the node cannot the worker's, from then on.
func (w *way) move(direct, worker func() error) error {
	if w.mode != operation.TransferWorker && w.note == "" {
		w.used = operation.TransferDirect
		err := direct()
		var failure directFailure
		if w.mode == operation.TransferDirect || !errors.As(err, &failure) || !failure.elsewhere {
			return err
		}
		w.note = "moved by the worker: " + err.Error()
		w.log.Info(w.note)
	}
	w.used = operation.TransferWorker
	return worker()
}

// send is archive.Store.Upload with the parts sent the way that is asked for.
func (d *sending) send(ctx context.Context, store *archive.Store, up archive.Upload) (archive.Stored, error) {
	for try := 1; ; try++ {
		transfer, err := store.Begin(ctx, up)
		if err == nil {
			err = d.parts(ctx, transfer, up)
		}
		var stored archive.Stored
		if err == nil {
			stored, err = transfer.Complete(ctx)
		}
		// Another process that was given up and lives on may have completed the same upload.
		if archive.IsKind(err, archive.KindNoUpload) && try < 3 {
			continue
		}
		return stored, err
	}
}

func (d *sending) parts(ctx context.Context, transfer *archive.Transfer, up archive.Upload) error {
	return d.move(func() error {
		return DirectSender{File: d.file, CA: d.ca, Secrets: d.secrets}.Send(ctx, transfer, up.Record)
	}, func() error { return transfer.Send(ctx) })
}

// againstFaults tries again what failed in a way that passes: the node for limit, the store for storePatience, both counted from the last byte that got ahead.
func (a *attempt) againstFaults(t target, limit time.Duration, try func(ctx context.Context) error) error {
	if limit <= 0 {
		limit = defaultUnreachableAfter
	}
	wait, since, at := firstPause, time.Time{}, a.ahead()
	for {
		err := try(a.ctx)
		if err == nil {
			return nil
		}
		if a.ctx.Err() != nil {
			return ended(a.ctx)
		}
		lost := remote.IsKind(err, remote.KindTransport)
		if !lost && !passes(err) {
			return transferError(t, err)
		}
		if now := a.ahead(); now != at || since.IsZero() {
			at, since, wait = now, time.Now(), firstPause
		}
		patience := storePatience
		if lost {
			patience = limit
		}
		if time.Since(since)+wait > patience {
			if lost {
				return fail(operation.ErrUnreachable, t.host.Name, "not reached for %s: look at its console and network, then retry (last: %s)", limit, withoutNode(failureOf(err).Message, t.host.Name))
			}
			return transferError(t, err)
		}
		a.phase("interrupted, trying again: " + err.Error())
		if !a.pause(wait) {
			return ended(a.ctx)
		}
		wait = min(wait*2, longestPause)
	}
}

// passes reports whether the same may go well later.
func passes(err error) bool {
	var node *remote.Error
	var store *archive.Error
	var direct directFailure
	switch {
	case errors.As(err, &node):
		return node.Kind == remote.KindTransport // what else a node says, such as another host key, is not mended by waiting
	case errors.As(err, &store):
		return store.Retryable()
	case errors.As(err, &direct):
		return direct.passing
	}
	return false
}

// transferError is the activity's error of a transfer that did not go on.
func transferError(t target, err error) error {
	var app interface{ NonRetryable() bool }
	var node *remote.Error
	var direct directFailure
	switch {
	case errors.As(err, &app):
		return err
	case errors.As(err, &node) && archive.KindOf(err) != archive.KindSourceChanged:
		return nodeError(node)
	case errors.As(err, &direct):
		return operation.NewError(operation.Failure{Type: operation.ErrS3, Message: oneLine(direct.text, maxMessage)})
	}
	return storeError(t.host.Name, err)
}

// manifest is all of it but what the upload makes, and the content.
func (x *Archives) manifest(a *attempt, s site, t target, in TransferInput) archive.Manifest {
	m := archive.Manifest{Ref: archive.Ref{Cluster: in.Operation.Cluster, Operation: in.Operation.ID}, Platform: in.Platform, Roles: map[string][]string{},
		Mode: "cluster", Include: in.Include, Exclude: in.Exclude, Node: t.node.Name, ExportFile: path.Base(in.staged()), Who: in.Who, Started: in.Began.UTC()}
	if in.OnlyThisNode {
		m.Mode = "only-this-node"
	}
	for _, n := range s.cluster.Nodes {
		m.Roles[n.Name] = n.Roles
	}
	if version, err := askFor(a.ctx, s.cluster.Kato.Timeout.Std()+time.Minute, x.Connections, t.host, katoVersionScript, append([]string{katoSeconds(s)}, s.kato().Version()...)...); err == nil {
		m.KatoVersion = oneLine(kato.Clean([]byte(version.sections["kato"])), 100)
	}
	return m
}

// stagedContent is what PrepareExport wrote down, nil when the Cloud Controller was not read.
func (x *Archives) stagedContent(ctx context.Context, t target, in ExportInput) (*archive.Content, error) {
	result, err := within(ctx, askWithin, x.Connections, t.host, remote.Command{Argv: []string{"cat", path.Join(in.Place, "content.json")}, AnyExit: true, MaxOutput: maxContent})
	if err != nil {
		return nil, err
	}
	var content archive.Content
	if result.ExitCode != 0 || result.Truncated || json.Unmarshal(result.Stdout, &content) != nil {
		return nil, nil
	}
	return &content, nil
}

// placed is where an archive goes on a mounted file system.
func (in TransferInput) placed() string {
	return path.Join(in.ToPath, in.Operation.Cluster+"-"+in.Operation.ID+".tgz")
}

// Place moves the checked archive to its name on the mounted file system, reads it there once more, and writes the manifest beside it, last; as the job
// `transfer`. An archive without a manifest is none.
//
// Errors: Archive when it reads otherwise there (a retry exports again); RemoteExit when it cannot be moved; what Export tells of jobs and nodes.
func (x *Archives) Place(ctx context.Context, in TransferInput) (TransferResult, error) {
	a := begin(ctx, "moving the archive to its place")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return TransferResult{}, err
	}
	var content *archive.Content
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		content, err = x.stagedContent(ctx, t, in.ExportInput)
		return err
	})
	if err != nil {
		return TransferResult{}, err
	}
	manifest, err := placedManifest(in, s, t, content)
	if err != nil {
		return TransferResult{}, err
	}
	job := x.job(in.ExportInput, t, remote.JobSpec{ID: jobID(in.Operation, in.Node.Name, operation.StepTransfer, in.PlaceTry), Lease: lease(in.Operation), Interruptible: true,
		Argv: []string{"sh", "-c", placeScript, "sh", in.staged(), in.placed(), manifest, in.Checked.SHA256}}, max(in.Timeout.D(), checkFloor))
	end, err := job.run(a)
	if err != nil {
		return TransferResult{}, err
	}
	if end.State == remote.JobExited && end.ExitCode == placeDiffers && !end.NeverStarted {
		return TransferResult{}, failJob(operation.ErrArchive, t.host.Name, job.spec.ID.Dir(), "", "the archive has other content at %s than what was checked, and was removed there: retry exports again",
			remote.Escape(in.placed()))
	}
	if end.State == remote.JobExited && end.ExitCode != 0 && !end.NeverStarted {
		said, err := x.said(a, in.ExportInput, t, job.spec.ID, maxTail)
		if err != nil {
			return TransferResult{}, err
		}
		return TransferResult{}, failJob(operation.ErrRemoteExit, t.host.Name, job.spec.ID.Dir(), remote.Tail([]byte(said), maxTail), "the archive cannot be put into its place: %s",
			oneLine(lastLineOf(said), 200))
	}
	result, err := job.result(end)
	switch {
	case err != nil || !result.Started:
		return TransferResult{}, err
	case result.Interrupted:
		return TransferResult{}, failJob(operation.ErrInterrupted, t.host.Name, job.spec.ID.Dir(), "", "the node rebooted while the archive was moved to its place: retry")
	}
	return TransferResult{Location: t.host.Name + ":" + in.placed(), StoredSize: in.Checked.Size}, nil
}

// maxPlacedContent bounds the names in a manifest that a job carries, in bytes; of more only the counts are there.
const maxPlacedContent = 48 << 10

// placedManifest describes an archive on a file system: the fields that are the same as in a bucket. It depends on the input, the inventory and what was staged alone, so
// that every attempt's job is the same.
func placedManifest(in TransferInput, s site, t target, content *archive.Content) (string, error) {
	var b bytes.Buffer
	m := struct {
		archive.Ref
		Platform string              `json:"platform,omitempty"`
		Roles    map[string][]string `json:"roles,omitempty"`
		Mode     string              `json:"mode"`
		Include  []string            `json:"include,omitempty"`
		Exclude  []string            `json:"exclude,omitempty"`
		Node     string              `json:"node"`
		File     string              `json:"object"`
		Who      string              `json:"who,omitempty"`
		Started  time.Time           `json:"started"`
		Size     int64               `json:"size"`
		SHA256   string              `json:"sha256"`
		Content  *archive.Content    `json:"content,omitempty"`
	}{archive.Ref{Cluster: in.Operation.Cluster, Operation: in.Operation.ID}, in.Platform, map[string][]string{}, "cluster", in.Include, in.Exclude, t.node.Name, path.Base(in.placed()),
		in.Who, in.Began.UTC(), in.Checked.Size, in.Checked.SHA256, content}
	if names, err := json.Marshal(content); err == nil && len(names) > maxPlacedContent {
		counts := *content
		counts.List = nil
		m.Content = &counts
	}
	if in.OnlyThisNode {
		m.Mode = "only-this-node"
	}
	for _, n := range s.cluster.Nodes {
		m.Roles[n.Name] = n.Roles
	}
	if err := json.NewEncoder(&b).Encode(m); err != nil {
		return "", fail(operation.ErrInternal, t.host.Name, "the manifest cannot be written: %v", err)
	}
	return string(bytes.TrimSpace(b.Bytes())), nil
}

// uploaded notes how far the upload is.
func (a *attempt) uploaded(p archive.Progress) { a.moved(&a.beat.Upload, p, "sent") }

// fetched notes how far the download to a node is.
func (a *attempt) fetched(p archive.Progress) { a.moved(&a.beat.Fetch, p, "fetched") }

func (a *attempt) moved(to *archive.Progress, p archive.Progress, verb string) {
	done, all := p.Parts()
	a.mu.Lock()
	defer a.mu.Unlock()
	*to = p
	a.beat.Phase = fmt.Sprintf("%s of %s %s, %d of %d parts", operation.Size(p.Bytes()), operation.Size(p.Size), verb, done, all)
}

// ahead is how many bytes are done.
func (a *attempt) ahead() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.beat.Upload.Bytes() + a.beat.Fetch.Bytes()
}
