package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"go.temporal.io/sdk/converter"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/operation"
)

// verifyFlags are the flags of `backup verify`.
type verifyFlags struct {
	catalogFlags
	identities []string
	detach     bool
}

func (c *cli) backupVerifyCommand() *cobra.Command {
	f := &verifyFlags{}
	cmd := &cobra.Command{
		Use:   "verify CLUSTER [ARCHIVE]",
		Short: "Read an archive back whole and compare it with its manifest",
		Long: fmt.Sprintf(`Read an archive back whole, compare every part and the whole with its manifest, and remember beside it when that was and
what was found. Without ARCHIVE it is the latest. The exit code is %d when they do not agree, and what does not is said.

The worker reads, which takes as long as the archive is large; Ctrl-C ends the watching only. A worker that dies is
replaced, and reading begins again.

An encrypted archive is compared as it is stored: a key that the worker has for imports is not used. With --identity it is read and decrypted
here instead, with the bucket and credentials of the local inventory file, and the export's own checksum is compared too.`, exitArchive),
		Example: `  katoflow backup verify prod
  katoflow backup verify prod nightly-20261122t020000z --detach
  katoflow backup verify prod latest --identity key.txt --inventory clusters.yaml

  # every Sunday, the latest
  katoflow schedule apply verify --cron "0 8 * * sun" -- backup verify prod`,
		Args:              clusterAndArchive,
		ValidArgsFunction: c.completeArchives(&f.inventory, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.backupVerify(cmd.Context(), args[0], archiveOf(args), f)
		},
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *verifyFlags) register(c *cli, cmd *cobra.Command) {
	identityFlag(cmd, &f.identities)
	cmd.Flags().BoolVar(&f.detach, "detach", false, "return once started instead of watching")
	f.catalogFlags.register(c, cmd)
}

// input checks all flags and gives every problem at once.
func (f *verifyFlags) input(c *cli, cluster, archive string) (operation.BackupVerifyInput, error) {
	in := operation.BackupVerifyInput{Request: operation.Request{OperationID: newID(c.now()), Cluster: cluster, RequestedBy: c.who()}, Archive: archive}
	var problems []string
	if len(f.identities) > 0 && f.detach {
		problems = append(problems, "--detach: with --identity the archive is read here, not by a worker")
	}
	return in, f.check(c, cluster, archive, problems)
}

func verifyDetails(in operation.BackupVerifyInput) string {
	return fmt.Sprintf("Reads archive `%s` of `%s` back, asked for by `%s`.", in.Archive, in.Cluster, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
}

func (c *cli) backupVerify(ctx context.Context, cluster, archive string, f *verifyFlags) error {
	identities, problems := c.identities(f.identities)
	in, err := f.input(c, cluster, archive)
	if err != nil {
		problems = append(problems, asFailure(err).lines...)
	}
	if len(problems) > 0 {
		return badInputs(problems)
	}
	if len(identities) > 0 {
		return c.verifyHere(ctx, in, identities, f.inventory)
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, f.queue); err != nil {
		return err
	}
	options := c.optionsOf(keeping{queue: f.queue, cluster: cluster, id: in.OperationID, kind: operation.KindBackupVerify,
		summary: "Reads archive " + archive + " of " + cluster + " back", details: verifyDetails(in)})
	if _, err := s.ExecuteWorkflow(ctx, options, operation.WorkflowBackupVerify, in); err != nil {
		return c.notStarted(ctx, s, options.ID, err)
	}
	if f.detach {
		return c.detached(operation.PreflightOutcome{OperationID: in.OperationID, WorkflowID: options.ID}, "started")
	}
	w := c.newWatcher(s, options.ID)
	w.starting = true
	every := 10 * time.Second // a line each time
	if _, live := w.display.(*liveDisplay); live {
		every = time.Second
	}
	w.display = &readingDisplay{display: w.display, every: every, now: c.now, read: func() string { return s.lastBeat(ctx, options.ID) }}
	report, code, err := c.watchToEnd(ctx, s, w)
	if err != nil {
		return err
	}
	return c.printKept(report, code)
}

// readingDisplay adds to the message of a running operation how far its activity is, which only the activity's heartbeat says.
type readingDisplay struct {
	display
	every time.Duration
	now   func() time.Time
	read  func() string

	at   time.Time
	last string
}

func (d *readingDisplay) show(r *operation.Report, notice string) {
	if r == nil || r.Finished() {
		d.display.show(r, notice)
		return
	}
	if now := d.now(); now.Sub(d.at) >= d.every {
		d.at = now
		if read := d.read(); read != "" {
			d.last = read
		}
	}
	if d.last != "" {
		shown := *r
		shown.Message += ", " + d.last
		r = &shown
	}
	d.display.show(r, notice)
}

// lastBeat is what the running activity of a workflow last said of itself; "" when it did not.
func (s *server) lastBeat(ctx context.Context, workflowID string) string {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, err := s.DescribeWorkflowExecution(ctx, workflowID, "")
	if err != nil {
		return ""
	}
	for _, pending := range d.GetPendingActivities() {
		var beat activities.Beat
		if converter.GetDefaultDataConverter().FromPayloads(pending.GetHeartbeatDetails(), &beat) == nil && strings.HasSuffix(beat.Phase, " read") {
			return oneLine(beat.Phase)
		}
	}
	return ""
}

// verifyHere reads an archive back with secret keys that do not leave this machine.
func (c *cli) verifyHere(ctx context.Context, in operation.BackupVerifyInput, identities []age.Identity, inventory string) error {
	store, place, err := c.localStore(inventory, in.Cluster)
	if err != nil {
		return err
	}
	defer store.Close()
	ref, err := localArchive(ctx, store, in.Cluster, in.Archive)
	if err != nil {
		return err
	}
	began := c.now()
	entry, err := store.Entry(ctx, ref)
	if err != nil {
		return storeFailure(err)
	}
	progress := c.newProgress("verify "+ref.Operation, entry.Size, 0)
	found, err := store.Verify(ctx, ref, identities, in.RequestedBy, progress.at)
	progress.end()
	damaged := archive.IsKind(err, archive.KindCorrupt) && found.Problem != ""
	if err != nil && !damaged && !found.OK {
		return storeFailure(err)
	}
	report := &operation.Report{OperationID: in.OperationID, Kind: operation.KindBackupVerify, Cluster: in.Cluster, RequestedBy: in.RequestedBy,
		Phase: operation.PhaseDone, Nodes: []operation.NodeReport{}, StartedAt: began.UTC().Format(time.RFC3339), EndedAt: c.now().UTC().Format(time.RFC3339),
		Message: fmt.Sprintf("archive %s is as it was written: all %s of it agree with its manifest, and so does the export in it",
			ref.Operation, operation.Size(found.Bytes))}
	report.Catalog = &operation.CatalogReport{Bucket: place.Bucket, Prefix: place.Prefix,
		Verification: &operation.ArchiveVerification{At: found.At.UTC().Format(time.RFC3339), OK: found.OK, Problem: oneLine(found.Problem), Bytes: found.Bytes,
			SHA256: found.SHA256, Who: found.Who}}
	report.Catalog.Archive = &operation.Archive{Operation: ref.Operation, Cluster: ref.Cluster, Complete: entry.Complete, StoredSize: entry.Size}
	if m := entry.Manifest; m != nil {
		a := report.Catalog.Archive
		a.StartedAt, a.EndedAt = m.Started.UTC().Format(time.RFC3339), m.Ended.UTC().Format(time.RFC3339)
		a.Mode, a.Include, a.Exclude = m.Mode, m.Include, m.Exclude
		a.Node, a.RequestedBy, a.Size, a.Encrypted = m.Node, m.Who, m.Size, m.Encrypted()
	}
	code := exitDone
	switch {
	case damaged:
		code = exitArchive
		report.Phase, report.Message = operation.PhaseFailed, fmt.Sprintf("archive %s is damaged: %s", ref.Operation, oneLine(found.Problem))
		report.Failure = &operation.Failure{Type: operation.ErrArchive, Message: report.Message}
	case err != nil:
		report.Warnings = append(report.Warnings, "that it was verified could not be remembered in the bucket: "+oneLine(err.Error()))
	}
	return c.printKept(report, code)
}
