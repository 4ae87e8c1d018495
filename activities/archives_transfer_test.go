package activities

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

func transferTests() map[string]archiveTest {
	return map[string]archiveTest{
		"Transfer_Repeated_IsHarmlessAlsoAfterItsEnd":                  transferRepeated,
		"Transfer_PassingFaultsOfS3_GoesOn":                            transferPassing,
		"Transfer_LastingFaultsOfS3_SaysWhatToDoAndListsNothing":       transferLasting,
		"Transfer_ConnectionToTheNodeCutInAPart_GoesOn":                transferCut,
		"Transfer_WorkerStopsInAPart_AnotherSendsOnlyThePartsInFlight": transferHandedOver,
		"Transfer_NodeAwayForTooLong_IsUnreachable":                    transferUnreachable,
		"Transfer_HostKeyChanges_StopsAtOnce":                          transferHostKey,
		"Transfer_SourceIsNotWhatWasChecked_NothingIsListed":           transferChanged,
		"Transfer_SourceChangesUnderIt_NothingIsListed":                transferChanges,
		"Transfer_Cancelled_EndsAtOnceAndLeavesNoSession":              transferCancelled,
		"Transfer_Encrypted_IsReadBackWithTheIdentity":                 transferEncrypted,
		"Transfer_ManifestCannotBeWritten_IsWrittenByTheNextAttempt":   transferManifestLater,
		"Direct_NodeSends_TheWorkerSendsNoByte":                        directSends,
		"Direct_AutoWhereTheNodeCannot_FallsBackAndSaysSo":             directFallsBack,
		"Direct_WhereTheNodeCannot_Fails":                              directFails,
		"Direct_ConnectionToS3Cut_GoesOn":                              directCut,
		"Direct_S3Refuses_SaysSoAndDoesNotFallBack":                    directRefused,
		"Direct_SourceShrinks_NothingIsListed":                         directChanged,
		"Direct_SourceShrinksInAPart_IsNoticedAtOnce":                  directShrinks,
		"Direct_ConnectionToTheNodeCut_LeavesNoURLAfterTidying":        directHandedOver,
		"NodeFile_RangesInAnyOrder_AreWhatIsThere":                     nodeFileRanges,
		"NodeFile_FileShorterThanTheRange_EndsEarly":                   nodeFileShort,
		"NodeFile_CancelledOrCutInARange_LeavesNothing":                nodeFileCut,
	}
}

// big exports three parts and a bit.
func (x *exports) big() TransferInput {
	x.t.Helper()
	require.NoError(x.t, x.files.ExportSize(16*mib))
	in := x.exported(x.in())
	require.Greater(x.t, in.Checked.Size, int64(15*mib))
	return in
}

func (x *exports) transfer(in TransferInput, o attemptOptions) (TransferResult, error) {
	x.t.Helper()
	return run(x.t, x.archives.Transfer, in, o)
}

func transferRepeated(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.big()
	first := must[TransferResult](t)(x.transfer(in, attemptOptions{}))
	sent := x.bucket.Proxy.Count("UploadPart")
	m := x.archived().Manifest
	again := must[TransferResult](t)(x.transfer(in, attemptOptions{resume: &Beat{}}))
	require.Equal(t, first.Location, again.Location)
	require.Equal(t, first.StoredSize, again.StoredSize)
	require.Equal(t, sent, x.bucket.Proxy.Count("UploadPart"))
	require.Equal(t, m.Ended, x.archived().Manifest.Ended, "the manifest is written once")
}

func transferPassing(t *testing.T, s archivetest.Server) {
	for name, act := range map[string]archivetest.Act{"500": archivetest.InternalError, "SlowDown": archivetest.SlowDown, "reset": archivetest.Reset(mib), "lost answer": archivetest.Lose} {
		for _, mode := range []operation.TransferMode{operation.TransferWorker, operation.TransferDirect} {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				x := startExports(t, s, exporting{})
				in := x.big()
				in.Mode = mode
				x.bucket.Proxy.Fail("UploadPart", 3, act)
				x.bucket.Proxy.Fail("CompleteMultipartUpload", 1, act)
				x.bucket.Proxy.Fail("PUT manifest.json", 1, act)
				moved := must[TransferResult](t)(x.transfer(in, attemptOptions{}))
				require.Equal(t, mode, moved.Mode)
				require.Empty(t, x.bucket.Proxy.Unmet())
				x.archived()
				x.wantNoSecret()
			})
		}
	}
}

func transferLasting(t *testing.T, s archivetest.Server) {
	for name, c := range map[string]struct {
		act   archivetest.Act
		words string
	}{
		"expired keys": {archivetest.ExpiredToken, "renew them"},
		"no right":     {archivetest.AccessDenied, "bucket's policy"},
		"full":         {archivetest.BucketFull, "free space in the bucket"},
		"quota":        {archivetest.QuotaExceeded, "raise its quota"},
	} {
		t.Run(name, func(t *testing.T) {
			x := startExports(t, s, exporting{})
			in := x.exported(x.in())
			for _, at := range []string{"UploadPart", "CompleteMultipartUpload", "PUT manifest.json"} {
				x.bucket.Proxy.Fail(at, archivetest.Always, c.act)
				_, err := x.transfer(in, attemptOptions{})
				f := wantFailure(t, err, operation.ErrS3, false, "fs: ", c.words)
				x.wantNoSecret(f.Message, f.Tail)
				entry, err := x.open().Entry(t.Context(), archive.Ref{Cluster: x.op.Cluster, Operation: x.op.ID})
				require.True(t, err != nil || !entry.Complete)
				x.bucket.Proxy.Heal()
			}
			must[TransferResult](t)(x.transfer(in, attemptOptions{}))
			x.archived()
		})
	}
}

func transferCut(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.big()
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
	<-reached
	x.files.DropConnections()
	release()
	must[TransferResult](t)(end.wait(t))
	x.archived()
}

func transferHandedOver(t *testing.T, s archivetest.Server) {
	for _, mode := range []operation.TransferMode{operation.TransferWorker, operation.TransferDirect} {
		t.Run(string(mode), func(t *testing.T) {
			x := startExports(t, s, exporting{})
			require.NoError(t, x.files.ExportSize(41*mib))
			in := x.exported(x.in())
			in.Mode = mode
			stop := make(chan struct{})
			first := inBackground(t, x.archives.Transfer, in, attemptOptions{stop: stop})
			until(t, "some parts have gone", func() bool { return x.bucket.Proxy.Count("UploadPart") >= 4 })
			close(stop)
			_, err := first.wait(t)
			if err != nil {
				wantFailure(t, err, operation.ErrWorker, true)
			}
			moved := must[TransferResult](t)(x.transfer(in, attemptOptions{resume: &Beat{}}))
			require.Equal(t, 9, moved.Parts)
			require.LessOrEqual(t, x.bucket.Proxy.SentAgain(), 4, "only the parts in flight are sent again: %v", func() (n []int) {
				for part := range 9 {
					n = append(n, x.bucket.Proxy.Sent(part+1))
				}
				return n
			}())
			x.archived()
		})
	}
}

func transferUnreachable(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.big()
	in.UnreachableAfter = operation.Duration(2 * time.Second)
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
	<-reached
	x.files.Refuse(true)
	x.files.DropConnections()
	release()
	_, err := end.wait(t)
	wantFailure(t, err, operation.ErrUnreachable, false, "fs: not reached for 2s")
	x.files.Refuse(false)
	must[TransferResult](t)(x.transfer(in, attemptOptions{}))
	require.LessOrEqual(t, x.bucket.Proxy.SentAgain(), 4)
}

func transferHostKey(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.big()
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
	<-reached
	x.files.ChangeHostKey()
	x.files.DropConnections()
	release()
	_, err := end.wait(t)
	wantFailure(t, err, operation.ErrSSHHostKey, false, "fs: ")
	for _, e := range x.logs.FilterMessage("request to S3 failed, trying again").All() {
		require.NotContains(t, e.ContextMap()["error"], "host key", "waiting does not mend it")
	}
}

func transferChanged(t *testing.T, s archivetest.Server) {
	for name, spoil := range map[string]string{"longer": `printf x >>"$1"`, "shorter": `truncate -s 1000 "$1"`, "gone": `rm "$1"`} {
		t.Run(name, func(t *testing.T) {
			x := startExports(t, s, exporting{})
			in := x.exported(x.in())
			x.sh(spoil, in.staged())
			_, err := x.transfer(in, attemptOptions{})
			wantFailure(t, err, operation.ErrArchive, false, "not what was checked", "retry exports again")
			x.nothingListed()
		})
	}
}

func transferChanges(t *testing.T, s archivetest.Server) {
	for name, by := range map[string]int64{"grows": 1, "shrinks": -6 * mib} {
		t.Run(name, func(t *testing.T) {
			x := startExports(t, s, exporting{})
			in := x.big()
			reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
			end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
			<-reached
			require.NoError(t, x.files.Resize(in.staged(), by))
			release()
			_, err := end.wait(t)
			wantFailure(t, err, operation.ErrArchive, false)
			x.nothingListed()
		})
	}
}

func transferCancelled(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.big()
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	defer release()
	ctx, cancel := context.WithCancelCause(context.Background())
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{ctx: ctx})
	<-reached
	cancel(temporal.NewCanceledError())
	_, err := end.wait(t)
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	until(t, "no range is read any more", func() bool { return !strings.Contains(strings.Join(x.files.Processes(), "\n"), "dd if=") })
}

func transferEncrypted(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.big()
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	in.EncryptTo, in.Mode = []string{identity.Recipient().String()}, operation.TransferAuto
	moved := must[TransferResult](t)(x.transfer(in, attemptOptions{}))
	require.True(t, moved.Encrypted)
	require.Equal(t, operation.TransferWorker, moved.Mode)
	require.Greater(t, moved.StoredSize, in.Checked.Size)
	require.Equal(t, in.EncryptTo, x.archived(identity).Manifest.Recipients)
}

func transferManifestLater(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.big()
	reached, release := x.bucket.Proxy.Hold("PUT manifest.json", 0)
	stop := make(chan struct{})
	first := inBackground(t, x.archives.Transfer, in, attemptOptions{stop: stop})
	<-reached
	close(stop)
	_, err := first.wait(t)
	wantFailure(t, err, operation.ErrWorker, true)
	release()
	must[TransferResult](t)(x.transfer(in, attemptOptions{resume: &Beat{}}))
	require.Zero(t, x.bucket.Proxy.SentAgain())
	x.archived()
}

func (x *exports) direct(mode operation.TransferMode) TransferInput {
	x.t.Helper()
	in := x.big()
	in.Mode = mode
	return in
}

func directSends(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.direct(operation.TransferAuto)
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
	<-reached
	processes := strings.Join(x.files.Processes(), "\n")
	require.Contains(t, processes, "curl -q --config /")
	x.wantNoSecret(processes)
	release()
	moved := must[TransferResult](t)(end.wait(t))
	require.Equal(t, operation.TransferDirect, moved.Mode)
	require.Empty(t, moved.Notes)
	require.Zero(t, x.bucket.Proxy.SentAgain())
	require.Empty(t, x.sh(`ls -d "/run/user/$(id -u)"/katoflow-part* /run/katoflow-*/katoflow-part* /dev/shm/katoflow-part* 2>/dev/null || true`), "no URL is left")
	for _, e := range x.files.Commands() {
		x.wantNoSecret(e.Command())
	}
	x.archived()
}

func directFallsBack(t *testing.T, s archivetest.Server) {
	for name, c := range map[string]struct {
		fault func(*exports)
		words string
	}{
		"no network": {func(x *exports) { x.files.NoOutbound(true) }, "cannot reach the S3 service"},
		"no curl":    {func(x *exports) { x.files.FailCommand("curl", -1, 127, "") }, "has no curl"},
		"proxy says no": {func(x *exports) {
			x.bucket.Proxy.Fail("UploadPart", archivetest.Always, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
				if strings.Contains(r.UserAgent(), "aws-sdk") { // only the node's way leads through it
					forward.ServeHTTP(w, r)
					return
				}
				archivetest.Answer(403, "", "")(w, r, forward)
			})
		}, "HTTP 403"},
	} {
		t.Run(name, func(t *testing.T) {
			x := startExports(t, s, exporting{})
			in := x.direct(operation.TransferAuto)
			c.fault(x)
			moved := must[TransferResult](t)(x.transfer(in, attemptOptions{}))
			require.Equal(t, operation.TransferWorker, moved.Mode)
			require.Len(t, moved.Notes, 1)
			require.Contains(t, moved.Notes[0], "moved by the worker: ")
			require.Contains(t, moved.Notes[0], c.words)
			x.wantNoSecret(moved.Notes...)
			x.archived()
		})
	}
}

func directFails(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.direct(operation.TransferDirect)
	x.files.NoOutbound(true)
	_, err := x.transfer(in, attemptOptions{})
	f := wantFailure(t, err, operation.ErrS3, false, "fs cannot reach the S3 service", "--transfer worker")
	x.wantNoSecret(f.Message)
	x.files.NoOutbound(false)
	require.Equal(t, operation.TransferDirect, must[TransferResult](t)(x.transfer(in, attemptOptions{})).Mode)
	x.archived()
}

func directCut(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.direct(operation.TransferDirect)
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
	<-reached
	x.files.DropOutbound()
	release()
	require.Equal(t, operation.TransferDirect, must[TransferResult](t)(end.wait(t)).Mode)
	x.archived()
}

func directRefused(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.direct(operation.TransferAuto)
	x.bucket.Proxy.Fail("UploadPart", archivetest.Always, archivetest.AccessDenied)
	_, err := x.transfer(in, attemptOptions{})
	wantFailure(t, err, operation.ErrS3, false, "fs: S3 refused part ", ": HTTP 403 AccessDenied")
}

func directChanged(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.direct(operation.TransferAuto)
	x.bucket.Proxy.Fail("UploadPart", 3, func(w http.ResponseWriter, r *http.Request, forward http.Handler) { // the parts are summed and on their way
		_ = x.files.Resize(in.staged(), 10-in.Checked.Size)
		archivetest.InternalError(w, r, forward)
	})
	_, err := x.transfer(in, attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false)
	x.nothingListed()
}

// directShrinks: the part is longer than what curl and the kernel take ahead, so that its end is missing when it is to be read.
func directShrinks(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	x.archives.PartSize = 32 * mib
	require.NoError(t, x.files.ExportSize(40*mib))
	in := x.exported(x.in())
	in.Mode = operation.TransferAuto
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
	<-reached
	require.NoError(t, x.files.Resize(in.staged(), 10-in.Checked.Size))
	release()
	_, err := end.wait(t)
	wantFailure(t, err, operation.ErrArchive, false, "something writes to it")
	until(t, "no curl waits on the node", func() bool { return !strings.Contains(strings.Join(x.files.Processes(), "\n"), "curl -q") })
	x.nothingListed()
}

func directHandedOver(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.direct(operation.TransferDirect)
	reached, release := x.bucket.Proxy.Hold("UploadPart", mib)
	end := inBackground(t, x.archives.Transfer, in, attemptOptions{})
	<-reached
	x.files.DropConnections()
	release()
	must[TransferResult](t)(end.wait(t))
	x.archived()
	must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput}, attemptOptions{}))
	require.Empty(t, x.sh(`ls -d "/run/user/$(id -u)"/katoflow-part* /run/katoflow-*/katoflow-part* /dev/shm/katoflow-part* 2>/dev/null || true`))
}

func (x *exports) nodeFile(content []byte) *NodeFile {
	x.t.Helper()
	require.NoError(x.t, x.files.WriteFile("/tmp/with space 'and'", content))
	f := NewNodeFile(x.pool, x.host("fs"), "/tmp/with space 'and'")
	x.t.Cleanup(f.Close)
	return f
}

func readAll(t *testing.T, f *NodeFile, offset, length int64) ([]byte, error) {
	t.Helper()
	r, err := f.ReadRange(t.Context(), offset, length)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	var b bytes.Buffer
	_, err = b.ReadFrom(r)
	return b.Bytes(), err
}

// servers counts the sessions of ranges that live on the node.
func (x *exports) servers() int {
	n := 0
	for _, p := range x.files.Processes() {
		if strings.Contains(p, "Sends ranges of a file") {
			n++
		}
	}
	return n
}

func nodeFileRanges(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	content := bytes.Repeat([]byte("0123456789abcde\n"), mib/4)
	f := x.nodeFile(content)
	_, err := readAll(t, f, 0, 10)
	require.NoError(t, err)
	// A session forks for a moment, so that it is seen twice.
	until(t, "one session is there", func() bool { return x.servers() == 1 })
	for _, r := range []archive.Range{{Offset: 3 * mib, Length: mib}, {Offset: 0, Length: 1}, {Offset: 5, Length: 4*mib - 5}, {Offset: 4*mib - 1, Length: 1}} {
		got, err := readAll(t, f, r.Offset, r.Length)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content[r.Offset:r.Offset+r.Length], got), "%+v", r)
	}
	until(t, "one session serves one range after the other", func() bool { return x.servers() == 1 })
	f.Close()
	until(t, "no session is left", func() bool { return x.servers() == 0 })
}

func nodeFileShort(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	f := x.nodeFile([]byte("0123456789"))
	got, err := readAll(t, f, 5, 100)
	require.NoError(t, err, "its end is the end of the file")
	require.Equal(t, "56789", string(got))
	got, err = readAll(t, f, 0, 10)
	require.NoError(t, err)
	require.Equal(t, "0123456789", string(got))
}

func nodeFileCut(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{bare: true})
	f := x.nodeFile(bytes.Repeat([]byte("x"), 8*mib))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := f.ReadRange(ctx, 0, 8*mib)
	require.NoError(t, err)
	_, err = r.Read(make([]byte, 10))
	require.NoError(t, err)
	cancel()
	until(t, "the range ends", func() bool { _, err := r.Read(make([]byte, mib)); return err != nil })
	require.NoError(t, r.Close())

	r, err = f.ReadRange(t.Context(), 0, 8*mib)
	require.NoError(t, err)
	_, err = r.Read(make([]byte, 10))
	require.NoError(t, err)
	x.files.DropConnections()
	until(t, "the range ends", func() bool { _, err = r.Read(make([]byte, mib)); return err != nil })
	require.True(t, remote.IsKind(err, remote.KindTransport), "%v", err)
	require.NoError(t, r.Close())

	got, err := readAll(t, f, 8*mib-3, 3)
	require.NoError(t, err, "the next range has a session of its own")
	require.Equal(t, "xxx", string(got))

	x.files.Refuse(true)
	x.files.DropConnections()
	until(t, "the node is not reached", func() bool { _, err := f.ReadRange(t.Context(), 0, 1); return remote.IsKind(err, remote.KindTransport) })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.ReadRange(ended, 0, 1)
	require.Error(t, err)

}
