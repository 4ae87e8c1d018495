package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const katoExport = "kato data export"

func exportTests() map[string]archiveTest {
	return map[string]archiveTest{
		"Export_AllSteps_ArchiveIsListedAndNothingIsLeftOnTheNode":   allSteps,
		"Prepare_AfterAnEarlierTry_RemovesWhatItLeft":                prepareRemoves,
		"Prepare_FolderIsALinkOfSomebodyElse_IsRefused":              prepareRefusesLinks,
		"Prepare_FolderWithOddCharactersBehindALink_IsUsedAndTidied": oddFolders,
		"Export_FailsThenRetried_IsANewJobThatEndsWell":              exportFails,
		"Export_ExitsZeroWithoutAnArchive_IsNotBelieved":             exportLies,
		"Export_AnotherOneRuns_SaysSo":                               exportRefused,
		"Export_KatoAsksForAPassword_Fails":                          exportPrompts,
		"Export_HangsPastItsCeiling_IsStopped":                       exportHangs,
		"Export_NodeReboots_IsInterrupted":                           exportInterrupted,
		"Export_DiskFull_SaysSo":                                     exportFull,
		"Export_WorkerStops_NextAttemptTakesTheJobUp":                exportTakenUp,
		"Export_Cancelled_IsStoppedAndNeverStartsAgain":              exportCancelled,
		"Export_SettledBeforeItsStart_NeverStarts":                   exportSettled,
		"Check_ArchiveThatIsNotWhole_IsNotBelieved":                  checkNotWhole,
		"Check_ArchiveThatChangesMeanwhile_IsNotBelieved":            checkChanging,
		"Place_OnAMountedFileSystem_HasItsManifestLast":              placeMoves,
		"Place_NameIsTaken_LeavesWhatIsThere":                        placeTaken,
		"Place_OtherContentThanChecked_IsRemovedAndExportedAgain":    placeDiffersThere,
		"Tidy_Aborted_RemovesUploadStagedFilesAndURLs":               tidyAborts,
		"Tidy_KeepStaged_EndsTheUploadOnly":                          tidyKeeps,
		"Tidy_AbortedAfterTheMove_RemovesWhatHasNoManifest":          tidyPlaced,
		"Ready_AllWell_NoProblemAndTheSizeOfTheData":                 readyWell,
		"Ready_EverythingAmiss_AllProblemsAtOnce":                    readyAmiss,
		"Ready_BucketThatCannotBeUsed_SaysWhy":                       readyBuckets,
		"Ready_DDThatKnowsNoBytes_IsNamed":                           readyTools,
		"Ready_ToPath_MustBeAMountedFileSystem":                      readyToPath,
		"Ready_DataThatCannotBeMeasured_IsAWarning":                  readyUnmeasured,
		"Ready_OnlyThisNode_AsksNoOther":                             readyOnlyThis,
		"Ready_NodeDown_IsNamedBesideTheRest":                        readyDown,
	}
}

func allSteps(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	require.NoError(t, x.files.ExportSize(12*mib))
	in := x.exported(x.in())
	require.Greater(t, in.Checked.Size, int64(12*mib))
	require.Positive(t, in.Checked.Entries)
	require.Equal(t, strings.TrimSpace(x.sh(`tar tzf "$1" | wc -l`, in.staged())), fmt.Sprint(in.Checked.Entries))
	moved := must[TransferResult](t)(run(t, x.archives.Transfer, in, attemptOptions{}))
	require.Equal(t, 3, moved.Parts)
	require.Equal(t, operation.TransferWorker, moved.Mode)
	require.Equal(t, "s3://"+x.bucket.Name+"/"+x.op.Cluster+"/op--1/export.tgz", moved.Location)
	require.Zero(t, x.bucket.Proxy.SentAgain())
	m := x.archived().Manifest
	require.Equal(t, in.Checked.SHA256, m.Stored.SHA256)
	require.Equal(t, in.Checked.Size, m.Stored.Size)
	require.NotEmpty(t, m.KatoVersion)
	require.True(t, x.there(in.staged()))
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput}, attemptOptions{}))
	require.False(t, x.there(in.Place))
	require.False(t, x.there("/home/stackato/katoflow-exports"))
	x.wantNoSecret()
}

func prepareRemoves(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.prepared(x.in())
	require.Equal(t, "/home/stackato/katoflow-exports/katoflow-op--1", in.Place)
	x.sh(`printf x >"$1"; ls -ld "$2"`, in.staged(), in.Place)
	require.Equal(t, "700", strings.TrimSpace(x.sh(`stat -c %a "$1"`, in.Place)))
	x.prepared(in)
	require.True(t, x.there(in.staged()), "the same try keeps what it has")
	next := in
	next.JobTry = 2
	x.prepared(next)
	require.False(t, x.there(in.staged()))
	require.True(t, x.there(in.Place+"/try-2/work"))
}

func prepareRefusesLinks(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	x.sh(`mkdir -p /home/stackato/katoflow-exports /tmp/theirs && ln -s /tmp/theirs /home/stackato/katoflow-exports/katoflow-op--1`)
	_, err := run(t, x.archives.PrepareExport, x.in(), attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "fs: ")
	require.Empty(t, x.sh("ls -A /tmp/theirs"))
}

func oddFolders(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true, extra: `export: {folder: "/home/stackato/ex ports/$(touch ran) 'x'"}`})
	x.sh(`mkdir -p /srv/real 2>/dev/null || sudo install -d -o stackato /srv/real; mkdir -p "/home/stackato/ex ports"; ln -s /srv/real "/home/stackato/ex ports/"'$(touch ran) '"'x'"; printf keep >/srv/real/other`)
	in := x.exported(x.in())
	require.Contains(t, in.Place, "/home/stackato/ex ports/$(touch ran) 'x'/katoflow-")
	require.True(t, x.there("/srv/real/katoflow-op--1/try-1/export.tgz"))
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput}, attemptOptions{}))
	require.Equal(t, "other\n", x.sh("ls -A /srv/real"))
	require.False(t, x.there("/home/stackato/ran"))
}

func exportFails(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	require.NoError(t, x.files.ExportFault(katodouble.ExportFails, 1, 3))
	in := x.prepared(x.in())
	_, err := run(t, x.archives.Export, in, attemptOptions{})
	f := wantFailure(t, err, operation.ErrRemoteExit, false, "fs: ", "exit code 3")
	require.NotEmpty(t, f.Job)
	require.Contains(t, f.Tail, "ERROR")
	require.True(t, x.there(in.staged()), "kato left a part of it")
	again := in
	again.JobTry = 2
	again = x.prepared(again)
	out := must[ExportResult](t)(run(t, x.archives.Export, again, attemptOptions{}))
	require.Positive(t, out.Size)
	require.False(t, x.there(in.staged()))
	x.wantRuns("fs", katoExport, 2)
}

func exportLies(t *testing.T, s archivetest.Server) {
	for fault, words := range map[katodouble.ExportFault]string{katodouble.ExportErrorText: "and said: ERROR", katodouble.ExportNothing: "left no archive"} {
		t.Run(string(fault), func(t *testing.T) {
			x := startExports(t, s, exporting{bare: true})
			require.NoError(t, x.files.ExportFault(fault, 1, 0))
			_, err := run(t, x.archives.Export, x.prepared(x.in()), attemptOptions{})
			wantFailure(t, err, operation.ErrVerify, false, "fs: ", "ended with 0", words)
		})
	}
}

// anotherExport runs on the node, of somebody else, until the test ends.
func (x *exports) anotherExport() {
	x.t.Helper()
	require.NoError(x.t, x.files.ExportFault(katodouble.ExportHangs, 1, 0))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = x.pool.Run(ctx, x.host("fs"), remote.Command{Argv: []string{"bash", "-lc", "exec kato data export --cluster --base-dir /tmp /tmp/theirs.tgz"}, AnyExit: true})
	}()
	x.t.Cleanup(func() { cancel(); <-ended })
	until(x.t, "the other export runs", x.files.Exporting)
}

func exportRefused(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	x.anotherExport()
	_, err := run(t, x.archives.Export, x.prepared(x.in()), attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "exit code 1", "already in progress")
}

func exportPrompts(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	x.files.KatoPrompts(true)
	_, err := run(t, x.archives.Export, x.prepared(x.in()), attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false)
}

func exportHangs(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	require.NoError(t, x.files.ExportFault(katodouble.ExportHangs, 1, 0))
	in := x.prepared(x.in())
	in.Timeout = operation.Duration(time.Second)
	_, err := run(t, x.archives.Export, in, attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "took longer than 1s and was stopped")
	until(t, "the export has ended", func() bool { return !x.files.Exporting() })
}

func exportInterrupted(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	require.NoError(t, x.files.ExportFault(katodouble.ExportHangs, 1, 0))
	end := inBackground(t, x.archives.Export, x.prepared(x.in()), attemptOptions{})
	until(t, "the export runs", x.files.Exporting)
	x.files.RebootNow()
	_, err := end.wait(t)
	wantFailure(t, err, operation.ErrInterrupted, false, "rebooted in the middle of the export")
	x.wantRuns("fs", katoExport, 1)
}

func exportFull(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.prepared(x.in())
	require.NoError(t, x.files.ExportSize(8*mib))
	require.NoError(t, x.files.FreeSpace("/home", 4*mib))
	_, err := run(t, x.archives.Export, in, attemptOptions{})
	// kato's own words need space too, and are cut off anywhere.
	wantFailure(t, err, operation.ErrRemoteExit, false, "ended with exit code 1", "; / is full (")
	// What is left there takes the space that tidying up and the next try need.
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in}, attemptOptions{}))
	require.False(t, x.there(in.Place))
}

func exportTakenUp(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	require.NoError(t, x.files.ExportTime(3*time.Second))
	in := x.prepared(x.in())
	stop := make(chan struct{})
	first := inBackground(t, x.archives.Export, in, attemptOptions{stop: stop})
	until(t, "the export runs", x.files.Exporting)
	close(stop)
	_, err := first.wait(t)
	wantFailure(t, err, operation.ErrWorker, true)
	require.True(t, x.files.Exporting(), "the job goes on without the worker")
	out := must[ExportResult](t)(run(t, x.archives.Export, in, attemptOptions{resume: &Beat{}}))
	require.Positive(t, out.Size)
	x.wantRuns("fs", katoExport, 1)
	must[ExportResult](t)(run(t, x.archives.Export, in, attemptOptions{}))
	x.wantRuns("fs", katoExport, 1)
}

func exportCancelled(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	require.NoError(t, x.files.ExportFault(katodouble.ExportHangs, 1, 0))
	in := x.prepared(x.in())
	ctx, cancel := context.WithCancelCause(context.Background())
	end := inBackground(t, x.archives.Export, in, attemptOptions{ctx: ctx})
	until(t, "the export runs", x.files.Exporting)
	cancel(temporal.NewCanceledError())
	_, err := end.wait(t)
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	until(t, "the export has ended", func() bool { return !x.files.Exporting() })
	settling := in
	settling.Settle = true
	_, err = run(t, x.archives.Export, settling, attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false)
	x.wantRuns("fs", katoExport, 1)
}

func exportSettled(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.prepared(x.in())
	settling := in
	settling.Settle = true
	require.False(t, must[ExportResult](t)(run(t, x.archives.Export, settling, attemptOptions{})).Started)
	// A start that was under way comes too late.
	_, err := run(t, x.archives.Export, in, attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "called off before it started")
	x.wantRuns("fs", katoExport, 0)
}

func checkNotWhole(t *testing.T, s archivetest.Server) {
	for name, spoil := range map[string]string{"truncated": `truncate -s 1000 "$1"`, "empty": `: >"$1"`, "no archive": `printf 'Exporting...\nERROR: oops\n' >"$1"`, "gone": `rm "$1"`} {
		t.Run(name, func(t *testing.T) {
			x := startExports(t, s, exporting{bare: true})
			in := x.prepared(x.in())
			must[ExportResult](t)(run(t, x.archives.Export, in, attemptOptions{}))
			x.sh(spoil, in.staged())
			_, err := run(t, x.archives.CheckArchive, in, attemptOptions{})
			wantFailure(t, err, operation.ErrArchive, false, "fs: ", "not whole")
		})
	}
	x := startExports(t, s, exporting{bare: true})
	require.NoError(t, x.files.ExportFault(katodouble.ExportTruncated, 1, 0))
	in := x.prepared(x.in())
	must[ExportResult](t)(run(t, x.archives.Export, in, attemptOptions{}))
	_, err := run(t, x.archives.CheckArchive, in, attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "cannot be read by tar")
}

func checkChanging(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.prepared(x.in())
	must[ExportResult](t)(run(t, x.archives.Export, in, attemptOptions{}))
	x.files.HangCommand("sha256sum", 1)
	end := inBackground(t, x.archives.CheckArchive, in, attemptOptions{})
	// Not the script that is about to start it, in whose text the word is.
	hashes := func(argv string) bool { return strings.HasPrefix(argv, "sha256sum") }
	until(t, "the archive is hashed", func() bool { return slices.ContainsFunc(x.files.Processes(), hashes) })
	require.NoError(t, x.files.Resize(in.staged(), 1))
	x.sh(`for p in /proc/[0-9]*/cmdline; do case $(tr '\000' ' ' <"$p" 2>/dev/null) in sha256sum*) p=${p%/cmdline}; kill "${p##*/}" ;; esac; done`)
	_, err := end.wait(t)
	wantFailure(t, err, operation.ErrArchive, false)
}

// toPath is an export to the mounted file system of the node.
func (x *exports) toPath() ExportInput {
	in := x.in()
	in.ToPath = "/mnt/backup"
	return in
}

func placeMoves(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.exported(x.toPath())
	require.Equal(t, "/mnt/backup/.katoflow-op--1", in.Place)
	in = in.WithPlaceTry(1)
	x.sh(`printf %s '{"orgs":1,"apps":2,"list":[{"name":"acme"}]}' >"$1/content.json"`, in.Place)
	moved := must[TransferResult](t)(run(t, x.archives.Place, in, attemptOptions{}))
	require.Equal(t, "fs:/mnt/backup/demo-op-1.tgz", moved.Location)
	require.Equal(t, moved, must[TransferResult](t)(run(t, x.archives.Place, in, attemptOptions{})), "repeating it changes nothing")
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput, Abort: true}, attemptOptions{}))
	require.Equal(t, "demo-op-1.tgz\ndemo-op-1.tgz.manifest.json\n", x.sh("ls -A /mnt/backup"), "an archive with its manifest stays, also when the operation was cancelled after it")
	manifest := x.sh("cat /mnt/backup/demo-op-1.tgz.manifest.json")
	require.Contains(t, manifest, in.Checked.SHA256)
	require.Contains(t, manifest, `"name":"acme"`, "what the Cloud Controller had")
}

func placeTaken(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.exported(x.toPath()).WithPlaceTry(1)
	x.sh("printf theirs >/mnt/backup/demo-op-1.tgz")
	_, err := run(t, x.archives.Place, in, attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "is there already")
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput, Abort: true}, attemptOptions{}))
	require.Equal(t, "theirs", x.sh("cat /mnt/backup/demo-op-1.tgz"))
}

func placeDiffersThere(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.exported(x.toPath()).WithPlaceTry(1)
	x.sh(`printf x >>"$1"`, in.staged())
	_, err := run(t, x.archives.Place, in, attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "other content")
	require.Equal(t, ".katoflow-op--1\n", x.sh("ls -A /mnt/backup"))
	again := x.toPath()
	again.JobTry = 2
	must[TransferResult](t)(run(t, x.archives.Place, x.exported(again).WithPlaceTry(2), attemptOptions{}))
}

func tidyAborts(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	require.NoError(t, x.files.ExportSize(12*mib))
	in := x.exported(x.in())
	x.sh(`mkdir -p "/run/user/$(id -u)" 2>/dev/null; for f in "/run/user/$(id -u)" /dev/shm; do [ ! -d "$f" ] || mkdir -p "$f/katoflow-part-op--1.abc" "$f/katoflow-part-op--10.abc"; done`)
	x.bucket.Proxy.Fail("UploadPart", archivetest.Always, archivetest.AccessDenied)
	_, err := run(t, x.archives.Transfer, in, attemptOptions{})
	wantFailure(t, err, operation.ErrS3, false, "fs: ", x.bucket.Name)
	uploads, err := x.bucket.Uploads(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, uploads)
	for range 2 { // repeating it is harmless
		must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput, Abort: true}, attemptOptions{}))
	}
	x.nothingListed()
	require.False(t, x.there(in.Place))
	left := x.sh(`ls -d "/run/user/$(id -u)"/katoflow-part-* /dev/shm/katoflow-part-* 2>/dev/null || true`)
	require.NotContains(t, left, "op--1.abc")
	require.Contains(t, left, "op--10.abc", "what another operation has stays")
}

func tidyKeeps(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.exported(x.in())
	x.bucket.Proxy.Fail("UploadPart", archivetest.Always, archivetest.AccessDenied)
	_, err := run(t, x.archives.Transfer, in, attemptOptions{})
	wantFailure(t, err, operation.ErrS3, false)
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput, Abort: true, KeepStaged: true}, attemptOptions{}))
	x.nothingListed()
	require.True(t, x.there(in.staged()))
}

func tidyPlaced(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	in := x.exported(x.toPath())
	x.sh(`mv "$1" /mnt/backup/demo-op-1.tgz`, in.staged())
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput, Abort: true}, attemptOptions{}))
	require.Empty(t, x.sh("ls -A /mnt/backup"))
}

func (x *exports) ready(change ...func(*ExportReadyInput)) ExportReadyResult {
	x.t.Helper()
	in := ExportReadyInput{ExportInput: x.in(), Mode: operation.TransferAuto}
	for _, c := range change {
		c(&in)
	}
	return must[ExportReadyResult](x.t)(run(x.t, x.archives.ExportReady, in, attemptOptions{}))
}

// wantLines finds one line for each of the patterns, and no other line.
func wantLines(t *testing.T, lines []string, want ...string) {
	t.Helper()
	for _, w := range want {
		found := false
		for _, l := range lines {
			found = found || strings.Contains(l, w)
		}
		if !found {
			t.Errorf("no line has %q:\n%s", w, strings.Join(lines, "\n"))
		}
	}
	for _, l := range lines {
		known := false
		for _, w := range want {
			known = known || strings.Contains(l, w)
		}
		if !known {
			t.Errorf("nobody expects %q", l)
		}
	}
}

func readyWell(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	require.NoError(t, x.files.DataSize(3<<30))
	require.NoError(t, x.node("core").DataSize(1<<30))
	r := x.ready()
	require.Empty(t, r.Problems)
	require.Empty(t, r.Warnings)
	require.GreaterOrEqual(t, r.DataSize, int64(4<<30))
	require.Less(t, r.DataSize, int64(5<<30))
	keys, err := x.bucket.Keys(t.Context())
	require.NoError(t, err)
	require.Empty(t, keys, "the probe is gone")
	require.False(t, x.there("/home/stackato/katoflow-exports"), "nothing was changed")
	// Where it was relocated to counts, too (kato.md 3.7).
	x.sh("sudo mv /var/stackato/services /var/stackato/elsewhere && sudo ln -s /var/stackato/elsewhere /var/stackato/services")
	require.GreaterOrEqual(t, x.ready().DataSize, int64(4<<30))
}

func readyAmiss(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	x.anotherExport()
	x.cluster.Controller().Answer("/", -1, 404, "not here")
	require.NoError(t, x.files.DataSize(3<<30))
	require.NoError(t, x.files.FreeSpace("/home", 1<<30))
	require.NoError(t, x.files.ExternalDatabase("mysql", "db.example.com"))
	x.node("dea-1").NoCoreAccess(true)
	x.node("dea-1").SudoPassword(true)
	x.bucket.Proxy.Fail("", archivetest.Always, archivetest.AccessDenied)
	r := x.ready()
	wantLines(t, r.Problems, "core: the Core cannot log in to dea-1", "dea-1: sudo asks stackato for a password", "fs: kato data export or import runs there already (process ",
		"bucket: ", "controller: ", "fs: 1 GiB free in / for the archive of 3 GiB of data")
	wantLines(t, r.Warnings, "demo: the mysql service uses the external database db.example.com")
	for _, line := range append(r.Problems, r.Warnings...) {
		require.NotContains(t, line, "\n")
	}
	r = x.ready(func(in *ExportReadyInput) { in.NoSpaceCheck = true })
	require.NotContains(t, strings.Join(r.Problems, "\n"), "of data")
	require.Contains(t, strings.Join(r.Warnings, "\n"), "1 GiB free in /")
	x.wantNoSecret(append(r.Problems, r.Warnings...)...)
}

func readyBuckets(t *testing.T, s archivetest.Server) {
	for name, c := range map[string]struct {
		section func(string) string
		want    string
	}{
		"absent":         {func(s string) string { return strings.Replace(s, "bucket: exports", "bucket: no-such-exports", 1) }, "create the bucket or correct its name"},
		"wrong key":      {func(s string) string { return strings.Replace(s, "s3-secret-key", "s3-access-key", 1) }, "check access key and secret key"},
		"key is missing": {func(s string) string { return strings.Replace(s, "s3-secret-key", "s3-no-key", 1) }, "s3.secret_key"},
		"nobody there":   {func(s string) string { return strings.Replace(s, "127.0.0.1", "127.0.0.2", 1) }, "check the endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			x := startExports(t, s, exporting{section: c.section})
			r := x.ready()
			require.Len(t, r.Problems, 1)
			require.Contains(t, r.Problems[0], "bucket: ")
			require.Contains(t, r.Problems[0], c.want)
			x.wantNoSecret(r.Problems...)
		})
	}
}

func readyTools(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	require.Empty(t, x.ready(func(in *ExportReadyInput) { in.Mode = operation.TransferDirect }).Problems)
	x.files.FailCommand("dd", 1, 1, "dd: unknown operand iflag\n")
	wantLines(t, x.ready().Problems, "fs: the node lacks the dd of GNU coreutils: install it")
}

func readyToPath(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	to := func(path string) []string {
		return x.ready(func(in *ExportReadyInput) { in.ToPath = path }).Problems
	}
	require.Empty(t, to("/mnt/backup"))
	x.sh("mkdir '/mnt/backup/of demo'")
	require.Empty(t, to("/mnt/backup/of demo"))
	wantLines(t, to("/mnt/backup/absent"), "fs: there is no folder /mnt/backup/absent")
	wantLines(t, to("/home/stackato"), "fs: nothing is mounted at /home/stackato")
	wantLines(t, to("/etc"), "fs: stackato cannot write to /etc", "fs: nothing is mounted at /etc")
}

func readyUnmeasured(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	x.files.FailCommand("du", -1, 124, "")
	r := x.ready()
	require.Empty(t, r.Problems)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "fs: the size of /var/stackato/services could not be measured")
}

func readyOnlyThis(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	x.node("dea-1").NoCoreAccess(true)
	x.node("dea-1").SudoPassword(true)
	require.NoError(t, x.node("core").DataSize(5<<30))
	r := x.ready(func(in *ExportReadyInput) { in.OnlyThisNode = true })
	require.Empty(t, r.Problems)
	require.Less(t, r.DataSize, int64(1<<30))
}

func readyDown(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	x.node("dea-1").Refuse(true)
	x.files.SudoPassword(true)
	r := x.ready()
	text := strings.Join(r.Problems, "\n")
	require.Contains(t, text, "dea-1: ")
	require.Contains(t, text, "fs: sudo asks")
}
