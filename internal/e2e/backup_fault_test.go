package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// exportWithin sets the ceiling of an export.
func (s *site) exportWithin(d string) {
	s.t.Helper()
	s.limits(patient, "    export: {timeout: "+d+"}\n")
}

func TestBackupFault_KatoFailsOrLies_AsksWithTheClusterWritableAndExportsAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault katodouble.ExportFault
		exit  int
		// step and error that are asked about.
		step, error, says string
	}{
		"hangs":                        {katodouble.ExportHangs, 0, operation.StepExport, operation.ErrRemoteExit, "and was stopped"},
		"exits 0 with an error":        {katodouble.ExportErrorText, 0, operation.StepExport, operation.ErrVerify, "ended with 0 and said"},
		"says done and left nothing":   {katodouble.ExportNothing, 0, operation.StepExport, operation.ErrVerify, "left no archive"},
		"leaves a truncated archive":   {katodouble.ExportTruncated, 0, operation.StepCheck, operation.ErrArchive, "not whole"},
		"fails with a part of archive": {katodouble.ExportFails, 3, operation.StepExport, operation.ErrRemoteExit, "exit code 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.exportWithin("6s")
			s.worker("")
			n := s.exporter(files)
			require.NoError(t, n.ExportFault(c.fault, 1, c.exit))
			f := s.fault("%s", "kato data export "+name)
			o := s.backup()
			q := o.question(40 * time.Second)
			asks(t, q, files, c.step, 1, c.error)
			require.Contains(t, q.Cause.Message, c.says)
			require.False(t, s.cluster.Maintenance(), "the cluster is writable while somebody is asked")
			require.False(t, s.running(files, "kato data export"), "nothing of it runs on")
			o.nothing()
			o.decide(q, operation.Retry)
			o.done(60 * time.Second)
			require.Equal(t, 2, s.exports(files))
			o.listed()
			o.settled()
			f.end(parkedFor(c.step+" ("+c.error+")", "exported again"))
		})
	}
}

func TestBackupFault_DiskFullDuringTheExport_AsksAndGoesOnWithSpace(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	n := s.exporter(files)
	// A real host writes through its overlay into the blocks that ext4 keeps for root, too.
	require.NoError(t, n.ExportSize(in[int64](multiparted, 300<<20)))
	require.NoError(t, n.ExportTime(in(2*time.Second, 15*time.Second)))
	o := s.backup()
	s.eventually(20*time.Second, "the export", func() bool { return s.exporting(files) })
	f := s.fault("disk full during the export")
	require.NoError(t, n.FreeSpace("/", 4<<20))
	q := o.question(40 * time.Second)
	asks(t, q, files, operation.StepExport, 1, operation.ErrRemoteExit)
	// kato's own words need space too: the job's output is on the same disk, and is cut off anywhere.
	require.Contains(t, q.Cause.Message, "ended with exit code 1")
	require.Regexp(t, `; / is full \(\d+ KiB free\)`, q.Cause.Message)
	require.False(t, s.cluster.Maintenance())
	require.NoError(t, n.FreeSpace("/", -1))
	require.NoError(t, n.ExportTime(0))
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	require.Equal(t, 2, s.exports(files))
	o.listed()
	o.settled()
	f.end(parkedFor("export (RemoteExit)", "exported again"))
}

func TestBackupFault_AnotherExportRuns_RefusedBeforeAnythingAndAskedAboutLater(t *testing.T) {
	t.Parallel()
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, exporting)
		s.worker("")
		end := s.byHand(files, "kato data export --cluster /tmp/by-hand.tgz", 20*time.Second)
		defer end()
		f := s.fault("somebody exports by hand, before")
		out := s.cli(7, "backup", "create", s.cluster.Name())
		require.Contains(t, out.Stderr, "kato data export or import runs there already")
		require.LessOrEqual(t, s.exports(files), 1, "only the one by hand")
		require.False(t, s.cluster.Maintenance())
		f.end(refused)
	})
	t.Run("meanwhile", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, exporting)
		s.worker("")
		// The Core takes its time for maintenance mode; meanwhile somebody exports.
		s.cluster.Node(core).SlowCommand("kato config set", 1, 6*time.Second)
		o := s.backup()
		s.eventually(20*time.Second, "maintenance mode being set", func() bool { return s.running(core, "kato config set") })
		f := s.fault("somebody exports by hand, between the preflight and the export")
		end := s.byHand(files, "kato data export --cluster /tmp/by-hand.tgz", 20*time.Second)
		q := o.question(40 * time.Second)
		asks(t, q, files, operation.StepExport, 1, operation.ErrRemoteExit)
		require.Contains(t, q.Cause.Message+q.Cause.Tail, "An export is already in progress")
		require.False(t, s.cluster.Maintenance())
		end()
		o.decide(q, operation.Retry)
		o.done(60 * time.Second)
		o.listed()
		o.settled()
		f.end(parkedFor("export (RemoteExit)", "exported when the other had ended"))
	})
}

// byHand runs a long kato command as somebody would who is logged in to the node. end stops it, and returns when it is gone.
func (s *site) byHand(node, command string, lasts time.Duration) (end func()) {
	s.t.Helper()
	s.byHands = append(s.byHands, command)
	require.NoError(s.t, s.exporter(node).ExportTime(lasts))
	s.shell(node, `setsid sh -lc "$1" </dev/null >/dev/null 2>&1 &`, command)
	words := strings.Join(strings.Fields(command)[:3], " ")
	s.eventually(10*time.Second, command, func() bool { return s.running(node, words) })
	return func() {
		s.t.Helper()
		require.NoError(s.t, s.exporter(node).ExportTime(0))
		s.shell(node, `for p in /proc/[0-9]*; do case $(tr '\000' ' ' <"$p/cmdline" 2>/dev/null) in *"$1 export"*) kill -TERM "${p#/proc/}" ;; esac; done; true`, "kato data")
		s.eventually(10*time.Second, "the end of "+command, func() bool { return !s.running(node, words) })
		s.shell(node, `rm -rf /tmp/by-hand.tgz /tmp/kato-export-*`)
	}
}

func TestBackupFault_WhatAnExportNeedsIsMissing_AllProblemsAtOnceAndNothingIsTouched(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	n := s.exporter(files)
	n.NoCoreAccess(true)
	n.SudoPassword(true)
	if !onHosts() { // a real host has as much data as it has
		require.NoError(t, s.simulated(files).DataSize(900<<30))
	}
	require.NoError(t, n.ExternalDatabase("mysql", "192.0.2.10"))
	s.bucket.Proxy.Fail("", archivetest.Always, archivetest.AccessDenied)
	f := s.fault("no key of the Core, sudo with a password, no space, bucket denied")
	out := s.cli(7, "backup", "create", s.cluster.Name())
	for _, line := range []string{"the Core cannot log in to files", "sudo asks", "bucket: ", "grant the right"} {
		require.Contains(t, out.Stderr, line)
	}
	require.Equal(t, !onHosts(), strings.Contains(out.Stderr, "for the archive of"))
	require.Empty(t, s.cluster.Commands())
	require.False(t, s.cluster.Maintenance())
	require.Empty(t, s.staged(files))

	n.NoCoreAccess(false)
	n.SudoPassword(false)
	s.bucket.Proxy.Heal()
	if !onHosts() {
		out = s.cli(7, "backup", "create", s.cluster.Name())
		require.Contains(t, out.Stderr, "for the archive of")
		require.NotContains(t, out.Stderr, "bucket")
	}
	o := s.backup("--no-space-check")
	r := o.done(60 * time.Second)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "external database 192.0.2.10")
	o.listed()
	o.settled()
	f.end(refused)
}

func TestBackupFault_SourceChangesUnderTheTransfer_FailsAndListsNothing(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"worker", "direct"} {
		for name, by := range map[string]int64{"grows": 4096, "shrinks": -(20 << 20)} {
			t.Run(name+", "+mode, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, nil, nil, exporting)
				s.worker("")
				n := s.exporter(files)
				require.NoError(t, n.ExportSize(multiparted))
				reached, release := s.bucket.Proxy.Hold("UploadPart", 1<<20)
				o := s.backup("--transfer", mode)
				arrive(t, reached, "a part")
				f := s.fault("%s", "the archive "+name+" under the transfer ("+mode+")")
				require.NoError(t, n.Resize(strings.TrimSpace(s.shell(files, `echo "$HOME"/katoflow-exports/katoflow-*/try-1/export.tgz`)), by))
				release()
				q := o.question(60 * time.Second)
				asks(t, q, files, operation.StepTransfer, 1, operation.ErrArchive)
				o.nothing()
				require.Regexp(t, "something writes to it|is not what was checked", q.Cause.Message)
				o.decide(q, operation.Abort)
				_, err := o.end(60 * time.Second)
				require.Error(t, err)
				o.nothing()
				o.settled()
				f.end(parkedFor("transfer (Archive)", "aborted, nothing listed"))
			})
		}
	}
}

// arrive waits until something stands where it is held.
func arrive(t *testing.T, reached <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-reached:
	case <-time.After(stretched(60 * time.Second)):
		require.FailNow(t, "waited for "+what)
	}
}

func TestBackupFault_ConnectionCutInMidTransfer_GoesOnAndSendsAgainWhatWasInFlight(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mode string
		cut  func(s *site)
	}{
		"ssh of the worker":            {"worker", func(s *site) { s.cluster.Node(files).DropConnections() }},
		"ssh of the worker, by node":   {"direct", func(s *site) { s.cluster.Node(files).DropConnections() }},
		"the node's way to S3":         {"direct", func(s *site) { s.exporter(files).DropOutbound() }},
		"ssh, silent for a while":      {"worker", func(s *site) { s.silentFor(files, 20*time.Second) }},
		"all of it, the node reset":    {"worker", func(s *site) { s.cluster.Node(files).RebootNow() }},
		"the node reset in its upload": {"direct", func(s *site) { s.cluster.Node(files).RebootNow() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.limits(patient)
			s.worker("")
			require.NoError(t, s.exporter(files).ExportSize(multiparted))
			reached, release := s.bucket.Proxy.Hold("UploadPart", 3<<20)
			o := s.backup("--transfer", c.mode)
			arrive(t, reached, "a part")
			f := s.fault("%s", "connection cut in mid-transfer: "+name)
			c.cut(s)
			release()
			r := o.done(90 * time.Second)
			require.Empty(t, r.Answers, "nobody was asked")
			require.Equal(t, 1, s.exports(files))
			require.LessOrEqual(t, s.bucket.Proxy.SentAgain(), partsInFlight)
			o.listed()
			o.settled()
			f.end(wentOn)
		})
	}
}

// silentFor cuts the node's network for so long.
func (s *site) silentFor(node string, d time.Duration) {
	n := s.cluster.Node(node)
	n.Silence(true)
	timer := time.AfterFunc(d, func() { n.Silence(false) })
	s.t.Cleanup(func() { timer.Stop() })
}

func TestBackupFault_NodeCannotReachS3_AutoGoesByTheWorkerAndDirectAsks(t *testing.T) {
	t.Parallel()
	t.Run("auto", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, exporting)
		s.worker("")
		s.exporter(files).NoOutbound(true)
		f := s.fault("the node cannot reach S3, --transfer auto")
		o := s.backup()
		r := o.done(60 * time.Second)
		require.Equal(t, operation.TransferWorker, r.Export.Transfer)
		require.Contains(t, strings.Join(nodeOf(t, r, files).Notes, "\n"), "moved by the worker: files cannot reach the S3 service")
		o.listed()
		o.settled()
		f.end(wentOn + ", by the worker")
	})
	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, exporting)
		s.worker("")
		s.exporter(files).NoOutbound(true)
		f := s.fault("the node cannot reach S3, --transfer direct")
		o := s.backup("--transfer", "direct")
		q := o.question(60 * time.Second)
		asks(t, q, files, operation.StepTransfer, 1, operation.ErrS3)
		require.Contains(t, q.Cause.Message, "--transfer worker")
		require.False(t, s.cluster.Maintenance())
		s.exporter(files).NoOutbound(false)
		o.decide(q, operation.Retry)
		o.done(60 * time.Second)
		require.Equal(t, 1, s.exports(files), "what was exported is sent, not exported again")
		o.listed()
		o.settled()
		f.end(parkedFor("transfer (S3)", "retried"))
	})
}

func TestBackupFault_S3FailsInPassing_GoesOn(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]archivetest.Act{
		"500":         archivetest.InternalError,
		"slow down":   archivetest.SlowDown,
		"reset":       archivetest.Reset(2 << 20),
		"answer lost": archivetest.Lose,
		"slow bodies": archivetest.Slow(1<<20, 100*time.Millisecond),
		"truncated":   archivetest.Truncate(60),
	} {
		for _, mode := range []string{"worker", "direct"} {
			t.Run(name+", "+mode, func(t *testing.T) {
				t.Parallel()
				if mode == "worker" {
					onlySimulated(t, "no node is between the worker and S3")
				}
				s := newSite(t, nil, nil, exporting)
				s.worker("")
				require.NoError(t, s.exporter(files).ExportSize(multiparted))
				f := s.fault("%s", "S3 in passing: "+name+" ("+mode+")")
				o := s.backup("--transfer", mode, "--maintenance", "off")
				for _, operation := range []string{"CreateMultipartUpload", "UploadPart", "ListParts", "CompleteMultipartUpload", "HEAD export.tgz", "PUT manifest.json", "DELETE upload.json"} {
					s.bucket.Proxy.Fail(operation, 2, act)
				}
				r := o.done(90 * time.Second)
				require.Empty(t, r.Answers)
				require.NotContains(t, s.bucket.Proxy.Unmet(), "UploadPart")
				require.Equal(t, 1, s.exports(files))
				o.listed()
				o.settled()
				f.end(wentOn)
			})
		}
	}
}

func TestBackupFault_S3RefusesForGood_AsksAndGoesOnWhenItIsMended(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		operation string
		act       archivetest.Act
		says      string
	}{
		"credentials expired":      {"UploadPart", archivetest.ExpiredToken, "renew them"},
		"bucket full":              {"UploadPart", archivetest.BucketFull, "free space"},
		"quota":                    {"UploadPart", archivetest.QuotaExceeded, "quota"},
		"access denied at the end": {"CompleteMultipartUpload", archivetest.AccessDenied, "grant the right"},
		"full at the manifest":     {"PUT manifest.json", archivetest.BucketFull, "free space"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			require.NoError(t, s.exporter(files).ExportSize(multiparted))
			f := s.fault("%s", "S3 for good: "+name)
			s.bucket.Proxy.Fail(c.operation, archivetest.Always, c.act)
			o := s.backup("--transfer", "worker")
			q := o.question(60 * time.Second)
			asks(t, q, files, operation.StepTransfer, 1, operation.ErrS3)
			require.Contains(t, q.Cause.Message, c.says)
			require.False(t, s.cluster.Maintenance())
			list := s.cli(0, "backup", "list", s.cluster.Name())
			require.NotContains(t, list.Stdout, "verified")
			s.bucket.Proxy.Heal()
			o.decide(q, operation.Retry)
			o.done(60 * time.Second)
			require.Equal(t, 1, s.exports(files))
			o.listed()
			o.settled()
			f.end(parkedFor("transfer (S3)", "retried, nothing exported again"))
		})
	}
}

func TestBackupFault_NodeResetDuringTheExport_AsksAndExportsAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.limits(patient)
	s.worker("")
	n := s.exporter(files)
	require.NoError(t, n.ExportTime(5*time.Second))
	o := s.backup()
	s.eventually(20*time.Second, "the export", func() bool { return s.exporting(files) })
	f := s.fault("the node is reset in the middle of the export")
	n.RebootNow()
	require.NoError(t, n.ExportTime(0))
	q := o.question(60 * time.Second)
	asks(t, q, files, operation.StepExport, 1, operation.ErrInterrupted)
	require.False(t, s.cluster.Maintenance())
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	require.Equal(t, in(2, 1), s.exports(files), "a kato of a real host that goes down with it is in no record")
	o.listed()
	o.settled()
	f.end(parkedFor("export (Interrupted)", "exported again"))
}

func TestBackupFault_CoreResetWhileReadOnly_MaintenanceIsPutBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.limits(patient)
	s.worker("")
	require.NoError(t, s.exporter(files).ExportTime(3*time.Second))
	o := s.backup()
	s.eventually(20*time.Second, "the export", func() bool { return s.exporting(files) })
	require.True(t, s.cluster.Maintenance())
	f := s.fault("the Core is reset while the cluster is read-only")
	s.cluster.Node(core).RebootNow()
	r := o.done(90 * time.Second)
	require.Empty(t, r.Answers)
	require.Equal(t, "put back (off)", r.Maintenance)
	o.listed()
	o.settled()
	f.end(wentOn)
}

func TestBackupFault_TemporalKilledDuringTheExport_GoesOn(t *testing.T) {
	onlySimulated(t, "a Temporal server of its own does not depend on the nodes")
	t.Parallel()
	server, err := harness.StartTemporal(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	c, err := server.Client()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := newSite(t, server, c, exporting)
	s.worker("")
	require.NoError(t, s.exporter(files).ExportTime(2*time.Second))
	o := s.backup()
	s.eventually(20*time.Second, "the export", func() bool { return s.exporting(files) })
	f := s.fault("Temporal killed during the export")
	server.Kill()
	s.eventually(20*time.Second, "the end of the export", func() bool { return !s.running(files, "kato data export") })
	require.NoError(t, server.Start())
	o.done(90 * time.Second)
	require.Equal(t, 1, s.exports(files))
	o.listed()
	o.settled()
	f.end(wentOn)
}

func TestBackupFault_WorkerCutOffFromTemporalInMidTransfer_AnotherGoesOnAndBothDoNoHarm(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	proxy, err := harness.StartProxy(s.Temporal.Address)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	s.worker(proxy.Address)
	require.NoError(t, s.exporter(files).ExportSize(multiparted))
	reached, release := s.bucket.Proxy.Hold("UploadPart", 3<<20)
	o := s.backup("--transfer", "worker")
	arrive(t, reached, "a part")
	f := s.fault("the worker is cut off from Temporal in mid-transfer, and lives")
	proxy.Cut()
	s.worker("")
	r := o.done(90 * time.Second)
	release() // what the first one still had to send comes when all is done
	require.Empty(t, r.Answers)
	require.Equal(t, 1, s.exports(files))
	require.LessOrEqual(t, s.bucket.Proxy.SentAgain(), 2*partsInFlight)
	o.listed()
	o.settled()
	f.end(wentOn + ", by another worker")
}

func TestBackup_TwoAtOnce_TheSecondIsBusyOrWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	require.NoError(t, s.exporter(files).ExportTime(2*time.Second))
	first := s.backup()
	s.eventually(20*time.Second, "the export", func() bool { return s.exporting(files) })
	f := s.fault("a second backup while one runs")
	out := s.cli(6, "backup", "create", s.cluster.Name(), "--id", first.id+"-second")
	require.Contains(t, out.Stderr, first.workflow+" is running on it")
	third := s.backup("--wait=2m")
	third.until(20*time.Second, "the third to queue", func(r operation.Report) bool { return strings.Contains(r.Message, "held by "+first.workflow) })
	first.done(60 * time.Second)
	third.done(60 * time.Second)
	require.Equal(t, 2, s.exports(files))
	require.NotEqual(t, first.listed().SHA256, third.listed().SHA256)
	first.settled()
	third.settled()
	f.end("the second refused naming the first, one with --wait made after it")
}

func TestBackup_ScheduledWhileAnUpgradeHoldsTheLock_FailsNamingItAndSucceedsLater(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	m := &mailbox{code: http.StatusNoContent}
	told, _ := s.secrets(m)
	s.worker("")
	s.cluster.Node(files).FailCommand("unattended-upgrades", 1, 1, "E: no")
	holder := s.start("--nodes", files)
	q := holder.question(30 * time.Second)
	f := s.fault("a schedule's backup fires while an upgrade holds the cluster")
	name := s.cluster.Name() + "-nightly"
	s.cli(0, "schedule", "apply", name, "--cron", never, "--", "backup", "create", s.cluster.Name(), "--task-queue", s.Queue)
	out := s.cli(6, "schedule", "trigger", name, "--wait")
	require.Contains(t, out.Stderr+out.Stdout, holder.workflow)
	require.Zero(t, s.exports(files))
	_ = told
	holder.decide(q, operation.Retry)
	holder.done(60 * time.Second)
	out = s.cli(0, "schedule", "trigger", name, "--wait")
	require.Contains(t, out.Stdout, "s3://"+s.bucket.Name)
	require.Equal(t, 1, s.exports(files))
	require.Contains(t, s.cli(0, "schedule", "list", name, "--max-age", "1h").Stdout, name)
	require.Contains(t, s.cli(0, "backup", "list", s.cluster.Name()).Stdout, "schedule "+name)
	f.end("the run failed naming the upgrade, the next one succeeded")
}

func TestBackup_Cancelled_EndsWithNothingLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args  []string
		reach func(t *testing.T, s *site, o *op)
	}{
		"in maintenance on": {reach: func(t *testing.T, s *site, o *op) {
			s.eventually(20*time.Second, "kato config set", func() bool { return s.running(core, "kato config set") })
		}},
		"in the export": {reach: func(t *testing.T, s *site, o *op) {
			s.eventually(20*time.Second, "the export", func() bool { return s.exporting(files) })
		}},
		"in the transfer": {args: []string{"--transfer", "worker"}, reach: func(t *testing.T, s *site, o *op) {
			reached, _ := s.bucket.Proxy.Hold("UploadPart", 2<<20)
			arrive(t, reached, "a part")
		}},
		"in the node's transfer": {args: []string{"--transfer", "direct"}, reach: func(t *testing.T, s *site, o *op) {
			reached, _ := s.bucket.Proxy.Hold("UploadPart", 2<<20)
			arrive(t, reached, "a part")
		}},
		"in the move to a path": {args: []string{"--to-path", "/mnt/backup"}, reach: func(t *testing.T, s *site, o *op) {
			ctx := t.Context()
			require.NoError(t, s.reached(ctx, o.workflow, killPoint{name: "Place", activity: "Place", event: scheduled}, time.Time{}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			n := s.exporter(files)
			require.NoError(t, n.ExportSize(multiparted))
			require.NoError(t, n.ExportTime(3*time.Second))
			s.cluster.Node(core).SlowCommand("kato config set", 1, time.Second)
			if !onHosts() {
				slow := time.Second
				if strings.Contains(strings.Join(c.args, " "), "--to-path") {
					slow = 5 * time.Second // what keeps it in the move until it is cancelled
				}
				n.SlowCommand("sha256sum", -1, slow)
			}
			o := s.backup(c.args...)
			c.reach(t, s, o)
			f := s.fault("%s", "backup cancelled "+name)
			r, took := o.cancel()
			require.Less(t, took, stretched(40*time.Second))
			require.Contains(t, []string{operation.NodeCancelled, operation.NodeDone}, nodeOf(t, r, files).Status)
			o.nothing()
			o.settled()
			f.end("ended as cancelled, nothing left")
			// The next one has nothing in its way.
			s.bucket.Proxy.Forget()
			n.HealCommands()
			require.NoError(t, n.ExportTime(0))
			next := s.backup(c.args...)
			next.done(60 * time.Second)
			next.settled()
		})
	}
}

func TestBackup_Aborted_EndsWithNothingLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault func(t *testing.T, s *site)
		step  string
	}{
		"at the export": {func(t *testing.T, s *site) {
			require.NoError(t, s.exporter(files).ExportFault(katodouble.ExportFails, 1, 1))
		}, operation.StepExport},
		"at the check": {func(t *testing.T, s *site) {
			require.NoError(t, s.exporter(files).ExportFault(katodouble.ExportTruncated, 1, 0))
		}, operation.StepCheck},
		"at the transfer": {func(t *testing.T, s *site) {
			s.bucket.Proxy.Fail("CompleteMultipartUpload", 1, archivetest.AccessDenied)
		}, operation.StepTransfer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			require.NoError(t, s.exporter(files).ExportSize(multiparted))
			c.fault(t, s)
			o := s.backup("--transfer", "worker")
			q := o.question(60 * time.Second)
			require.Equal(t, c.step, q.Step)
			f := s.fault("%s", "operator aborts "+name)
			o.decide(q, operation.Abort)
			r, err := o.end(60 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseAborted, r.Phase)
			require.Nil(t, r.Export)
			o.nothing()
			o.settled()
			f.end("aborted, nothing left")
		})
	}
}

func TestBackup_LeftAtTheTransfer_TheArchiveStaysOnTheNodeAndIsNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	s.bucket.Proxy.Fail("UploadPart", archivetest.Always, archivetest.BucketFull)
	o := s.backup("--transfer", "worker")
	q := o.question(60 * time.Second)
	require.Contains(t, q.Choices, operation.Leave)
	o.decide(q, operation.Leave)
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseAborted, r.Phase)
	staged := s.staged(files)
	require.Len(t, staged, 1)
	require.Contains(t, strings.Join(nodeOf(t, r, files).Notes, "\n"), "left at "+strings.TrimSpace(s.shell(files, `echo "$HOME"/katoflow-exports/katoflow-*`)))
	s.shell(files, `tar tzf "$HOME"/katoflow-exports/katoflow-*/try-1/export.tgz >/dev/null`)
	archives, _, err := s.store().List(t.Context(), s.cluster.Name())
	require.NoError(t, err)
	require.Empty(t, archives)
	require.False(t, s.cluster.Maintenance())
	// The next one says what lies there.
	s.bucket.Proxy.Heal()
	r = s.backup().done(60 * time.Second)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "is left from another export")
}

func TestBackup_Terminated_TheNextOperationPutsMaintenanceBackAsItWas(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("found on %v", before), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			if before {
				const on = "kato config set cloud_controller_ng maintenance_mode true"
				s.byHands = append(s.byHands, on)
				s.shell(core, `sh -lc "$1"`, on)
				require.True(t, s.cluster.Maintenance())
			}
			require.NoError(t, s.exporter(files).ExportTime(3*time.Second))
			o := s.backup()
			s.eventually(20*time.Second, "the export", func() bool { return s.exporting(files) })
			f := s.fault("backup terminated in the export; maintenance found on: %v", before)
			o.terminate()
			s.eventually(20*time.Second, "the lock to be free", func() bool { return !s.locked() })
			require.True(t, s.cluster.Maintenance())
			// What it has begun goes on without it, and is in the next one's way until it has ended.
			s.eventually(20*time.Second, "the end of the export", func() bool { return !s.running(files, "kato data export") })
			require.NoError(t, s.exporter(files).ExportTime(0))
			next := s.backup()
			r := next.done(90 * time.Second)
			require.Equal(t, before, s.cluster.Maintenance())
			require.Equal(t, map[bool]string{false: "put back (off)", true: "put back (on)"}[before], r.Maintenance)
			next.listed()
			require.Equal(t, 2, s.exports(files))
			require.Contains(t, strings.Join(r.Warnings, "\n"), "left on by operation "+o.id)
			f.end("the next operation took over what the first had found")
		})
	}
}

// TestBackup_InMaintenanceMode_NoLongerThanTheExportAndTwoSeconds reads both times from the nodes. It has the machine to itself.
func TestBackup_InMaintenanceMode_NoLongerThanTheExportAndTwoSeconds(t *testing.T) {
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	require.NoError(t, s.exporter(files).ExportSize(multiparted))
	require.NoError(t, s.exporter(files).ExportTime(2*time.Second))
	s.exporter(files).SlowCommand("tar tzf", -1, 2*time.Second)
	o := s.backup()
	r := o.done(60 * time.Second)
	var on, off, began, ended time.Time
	for _, e := range s.cluster.Commands() {
		switch {
		case strings.HasSuffix(e.Command(), "maintenance_mode true"):
			on = e.Start
		case strings.HasSuffix(e.Command(), "maintenance_mode false"):
			off = e.End
		case strings.HasPrefix(e.Command(), "kato data export"):
			began, ended = e.Start, e.End
		}
	}
	more := off.Sub(on) - ended.Sub(began)
	t.Logf("in maintenance mode for %s, of which the export took %s: %s more", off.Sub(on), ended.Sub(began), more)
	require.Less(t, more, 2*time.Second)
	require.Greater(t, ended.Sub(began), 1900*time.Millisecond)
	require.InDelta(t, off.Sub(on).Seconds(), r.Export.MaintenanceTime.D().Seconds(), 2)
	o.settled()
}

func TestBackup_DryRun_ShowsTheCommandsAndTouchesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	out := s.cli(0, "backup", "create", s.cluster.Name(), "--dry-run", "--exclude", "droplets")
	require.Contains(t, out.Stdout, "kato data export --cluster --exclude-droplets")
	require.Contains(t, out.Stdout, "s3://"+s.bucket.Name)
	require.Empty(t, s.cluster.Commands())
	require.Empty(t, s.staged(files))
	keys, err := s.bucket.Keys(t.Context())
	require.NoError(t, err)
	require.Empty(t, keys)
}

func TestBackup_OfAPart_ExportsWhatWasAskedForAndSaysSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args      []string
		node      string
		words     string
		mode      string
		wasOn     bool
		maintains string
	}{
		"one node":         {[]string{"--only-this-node"}, core, "kato data export --only-this-node ", "only-this-node", false, ""},
		"another node":     {[]string{"--only-this-node", "--node", files}, files, "kato data export --only-this-node ", "only-this-node", false, ""},
		"without droplets": {[]string{"--exclude", "droplets,mysql", "--maintenance", "off"}, files, "kato data export --cluster --exclude-droplets --exclude-mysql ", "cluster", false, ""},
		"only droplets":    {[]string{"--include", "droplets"}, files, "kato data export --cluster --droplets ", "cluster", true, "put back (off)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			o := s.backup(c.args...)
			r := o.done(60 * time.Second)
			m := o.listed()
			require.Equal(t, []string{c.node, c.mode}, []string{m.Node, m.Mode})
			require.Equal(t, 1, s.exports(c.node))
			on := false
			for _, e := range s.cluster.Commands() {
				if strings.Contains(e.Command(), "kato data export") {
					require.True(t, strings.HasPrefix(e.Command(), c.words), e.Command())
				}
				on = on || strings.HasSuffix(e.Command(), "maintenance_mode true")
			}
			require.Equal(t, c.wasOn, on)
			require.Equal(t, c.maintains, r.Maintenance)
			o.settled()
		})
	}
}

func TestBackup_ToAMountedFileSystem_LiesThereWithItsManifest(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	o := s.backup("--to-path", "/mnt/backup")
	r := o.done(60 * time.Second)
	require.Equal(t, files+":/mnt/backup/"+s.cluster.Name()+"-"+o.id+".tgz", r.Export.Location)
	o.placed("/mnt/backup")
	o.settled()
	// A folder that is no mounted file system would fill the system's own disk.
	folder := strings.TrimSpace(s.shell(files, `mkdir "$HOME/here" && cd "$HOME/here" && pwd`))
	require.Contains(t, s.cli(7, "backup", "create", s.cluster.Name(), "--to-path", folder).Stderr, "nothing is mounted at "+folder)
}

// TestBackup_OfAGibibyte_IsMovedWhole is an export of a size that is seen.
func TestBackup_OfAGibibyte_IsMovedWhole(t *testing.T) {
	onlyLab(t, "it is about real disks, sshd and curl")
	t.Parallel()
	for _, mode := range []string{"worker", "direct"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting, func(c *config) { c.disk = 5 << 30 })
			w := s.worker("")
			require.NoError(t, s.exporter(files).ExportSize(1<<30))
			o := s.backup("--transfer", mode)
			r := o.done(5 * time.Minute)
			m := o.listed()
			require.Greater(t, m.Size, int64(1<<30))
			peak := peakMiB(t, w.Pid())
			require.Less(t, peak, 150.0, "MiB of memory")
			t.Logf("%s: export %s, maintenance mode %s, transfer %s; the worker's peak memory %.0f MiB", mode, r.Export.ExportTime, r.Export.MaintenanceTime, r.Export.TransferTime, peak)
			o.settled()
		})
	}
}

// peakMiB is the largest memory that a process has had.
func peakMiB(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	var kib float64
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			_, err := fmt.Sscan(rest, &kib)
			require.NoError(t, err)
		}
	}
	require.Positive(t, kib)
	return kib / 1024
}

func TestBackup_Reset_ExportsNothingAgainAndKeepsWhatIsListed(t *testing.T) {
	onlySimulated(t, "the nodes see nothing of it")
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	s.bucket.Proxy.Fail("CompleteMultipartUpload", 1, archivetest.AccessDenied)
	o := s.backup("--transfer", "worker")
	q := o.question(60 * time.Second)
	require.Equal(t, operation.StepTransfer, q.Step)
	o.reset(toTheBeginning)
	o.done(60 * time.Second)
	require.Equal(t, 1, s.exports(files), "the job of the export ran once")
	m := o.listed()
	o.settled()

	// After the end the staged file is gone, and somebody is asked what to do. The archive is left alone.
	o.reset(toTheBeginning)
	q = o.question(60 * time.Second)
	require.Equal(t, operation.StepExport, q.Step)
	o.decide(q, operation.Abort)
	_, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, 1, s.exports(files))
	require.Equal(t, m, o.listed())
	o.settled()
}
