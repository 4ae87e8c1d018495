package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/archive/archivetest/sample"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func TestRestoreFault_ConnectionCutInTheDownload_GoesOnAndReadsAgainWhatWasInFlight(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mode string
		cut  func(s *site)
	}{
		"ssh of the worker":          {"worker", func(s *site) { s.cluster.Node(core).DropConnections() }},
		"ssh of the worker, by node": {"direct", func(s *site) { s.cluster.Node(core).DropConnections() }},
		"the node's way to S3":       {"direct", func(s *site) { s.exporter(core).DropOutbound() }},
		"the worker's way to S3": {"worker", func(s *site) {
			s.bucket.Proxy.Fail("GET export.tgz", 2, archivetest.Truncate(1<<20))
		}},
		"the node reset": {"worker", func(s *site) { s.cluster.Node(core).RebootNow() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if onHosts() && name == "ssh of the worker, by node" {
				t.Skip("nothing of the transfer goes that way")
			}
			s := newSite(t, nil, nil, exporting)
			s.limits(patient)
			s.worker("")
			require.NoError(t, s.exporter(files).ExportSize(multiparted))
			before := s.archived()
			reached, release := s.bucket.Proxy.Hold("GET export.tgz", 0)
			o := s.restore(before.id, "--no-safety-backup", "--transfer", c.mode)
			arrive(t, reached, "a part")
			f := s.fault("connection cut in the download of an archive: %s", name)
			c.cut(s)
			release()
			r := o.done(90 * time.Second)
			require.Empty(t, r.Answers, "nobody was asked")
			require.Equal(t, 1, s.imports(core))
			require.LessOrEqual(t, s.bucket.Proxy.Count("GET export.tgz"), 5+2*partsInFlight, "parts read")
			require.Empty(t, r.Restore.Missing)
			o.settled()
			f.end(wentOn)
		})
	}
}

func TestRestoreFault_DiskFull_AsksAndGoesOnWithSpace(t *testing.T) {
	t.Parallel()
	t.Run("in the download", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, exporting)
		s.worker("")
		require.NoError(t, s.exporter(files).ExportSize(multiparted))
		before := s.archived()
		reached, release := s.bucket.Proxy.Hold("GET export.tgz", 0)
		f := s.fault("disk full on the node in the download of an archive")
		o := s.restore(before.id, "--no-safety-backup")
		arrive(t, reached, "a part")
		s.cluster.Node(core).FillDisk(true)
		release()
		q := o.question(90 * time.Second)
		require.Equal(t, []string{core, operation.StepFetch}, []string{q.Node, q.Step}, q.Cause.Message)
		require.Regexp(t, "(?i)space|full", q.Cause.Message)
		require.Zero(t, s.imports(core))
		s.cluster.Node(core).FillDisk(false)
		o.decide(q, operation.Retry)
		o.done(90 * time.Second)
		require.Equal(t, 1, s.imports(core))
		o.settled()
		f.end(parkedFor("fetch ("+q.Cause.Type+")", "fetched again"))
	})
	t.Run("while kato unpacks", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, exporting)
		s.worker("")
		require.NoError(t, s.exporter(files).ExportSize(multiparted))
		before := s.archived()
		seconds := in(3.0, 12.0)
		require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{Seconds: &seconds}))
		f := s.fault("disk full on the node while kato unpacks")
		o := s.restore(before.id, "--no-safety-backup")
		s.eventually(90*time.Second, "kato to import", func() bool { return s.running(core, "kato data import") })
		s.cluster.Node(core).FillDisk(true)
		q := o.question(90 * time.Second)
		require.Equal(t, []string{core, operation.StepImport, operation.ErrRemoteExit}, []string{q.Node, q.Step, q.Cause.Type}, q.Cause.Message)
		require.Contains(t, q.Cause.Message, "ended with exit code 1")
		s.cluster.Node(core).FillDisk(false)
		require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{Seconds: new(float64)}))
		o.decide(q, operation.Retry)
		r := o.done(2 * time.Minute)
		require.Empty(t, r.Restore.Missing)
		require.Equal(t, 2, s.imports(core))
		o.settled()
		f.end(parkedFor("import (RemoteExit)", "imported again"))
	})
}

func TestRestoreFault_TokenExpiresAgainAndAgain_NobodyIsAsked(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the nodes see nothing of it")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	c := s.controller()
	c.StartTime(300*time.Millisecond, 0)
	before := s.archived()
	stopped := katodouble.FailedAndStopped
	seconds := 1.0
	require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{Seconds: &seconds, FailApps: []string{"shop/production/orders"}, LeaveFailed: &stopped}))
	f := s.fault("tokens of the Cloud Controller revoked all through an import, refresh tokens too")
	revoked, end := 0, make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(150 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				c.RevokeTokens(revoked%2 == 0)
				revoked++
			}
		}
	}()
	o := s.restore(before.id, "--no-safety-backup")
	r := o.done(60 * time.Second)
	close(end)
	<-done
	require.Positive(t, revoked)
	require.Empty(t, r.Answers, "nobody was asked")
	require.Empty(t, r.Restore.Missing)
	require.Equal(t, 1, outcomesOf(r)[operation.AppRestaged])
	require.Equal(t, 1, s.imports(core))
	o.settled()
	f.end(wentOn)
}

func TestRestoreFault_ARoleDoesNotRun_IsRefusedBeforeOrAskedAboutLater(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node but to ask")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	before := s.archived()
	f := s.fault("a role of the target does not run")
	s.controller().SetProcess(s.cluster.Node(core).Address(), "router", "STOPPED")
	stderr := s.cli(7, "backup", "restore", before.id, "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name(), "--no-safety-backup").Stderr
	require.Contains(t, stderr, "router is STOPPED: every role is to be started before an import")
	require.Zero(t, s.imports(core))
	require.False(t, s.locked())
	f.end(refused)

	s.controller().SetProcess(s.cluster.Node(core).Address(), "router", "")
	f = s.fault("a role of the target is stopped after the preflight of an import")
	s.cluster.Node(core).StopRole("router") // kato alone sees it
	o := s.restore(before.id, "--no-safety-backup")
	q := o.question(60 * time.Second)
	require.Equal(t, []string{operation.StepImport, operation.ErrRemoteExit}, []string{q.Step, q.Cause.Type}, q.Cause.Message)
	require.Contains(t, q.Cause.Tail+q.Cause.Message, "all roles must be started before an import")
	s.cluster.Node(core).StartRole("router")
	o.decide(q, operation.Retry)
	require.Empty(t, o.done(60*time.Second).Restore.Missing)
	o.settled()
	f.end(parkedFor("import (RemoteExit)", "imported when it ran"))
}

// TestRestoreFault_WrongArchive: what lies in the bucket is what its manifest says, and is no export of kato.
func TestRestoreFault_WrongArchive_NothingIsCalledRestored(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "kato and tar read it alike there")
	var other bytes.Buffer
	packed := gzip.NewWriter(&other)
	files := tar.NewWriter(packed)
	require.NoError(t, files.WriteHeader(&tar.Header{Name: "holidays/beach.jpg", Mode: 0o644, Size: 4}))
	_, err := files.Write([]byte("sand"))
	require.NoError(t, err)
	require.NoError(t, files.Close())
	require.NoError(t, packed.Close())
	for name, c := range map[string]struct {
		data    []byte
		step    string
		kind    string
		imports int
	}{
		"no tar at all":           {sample.Bytes(1, 100<<10), operation.StepCheck, operation.ErrArchive, 0},
		"a tar of something else": {other.Bytes(), operation.StepVerify, operation.ErrVerify, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			good, err := s.store().Manifest(ctx, archive.Ref{Cluster: s.cluster.Name(), Operation: s.archived().id})
			require.NoError(t, err)
			s.controller().Empty() // what is there already would be taken for what came back
			content, err := s.controller().Dump(ctx)
			require.NoError(t, err)
			ref := archive.Ref{Cluster: s.cluster.Name(), Operation: "wrong"}
			_, err = sample.Make(ctx, s.store(), ref, c.data, time.Now(), nil, func(m *archive.Manifest) { m.Content = good.Content })
			require.NoError(t, err)
			f := s.fault("the archive is %s", name)
			o := s.restore(ref.Operation, "--no-safety-backup")
			q := o.question(60 * time.Second)
			require.Equal(t, []string{c.step, c.kind}, []string{q.Step, q.Cause.Type}, q.Cause.Message)
			o.decide(q, operation.Abort)
			r, err := o.end(60 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseAborted, r.Phase)
			require.Equal(t, c.imports, s.imports(core))
			left, err := s.controller().Dump(ctx)
			require.NoError(t, err)
			require.Equal(t, content, left)
			o.settled()
			f.end(parkedFor(c.step+" ("+c.kind+")", "aborted"))
		})
	}
}
