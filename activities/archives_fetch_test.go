package activities

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
)

func fetchTests() map[string]archiveTest {
	return map[string]archiveTest{
		"Fetch_EitherWay_BringsTheArchive":                            fetchEitherWay,
		"Fetch_PassingFaultsOfS3_GoesOn":                              fetchPassing,
		"Fetch_LastingFaultsOfS3_SaysWhatToDo":                        fetchLasting,
		"Fetch_WorkerStopsInAPart_AnotherFetchesOnlyThePartsInFlight": fetchHandedOver,
		"Fetch_ConnectionToTheNodeCutInAPart_GoesOn":                  fetchCut,
		"Fetch_NodeRebootsAndHasLostBytes_FetchesThemAgain":           fetchReboot,
		"Fetch_NodeAwayForTooLong_IsUnreachable":                      fetchUnreachable,
		"Fetch_HostKeyChanges_StopsAtOnce":                            fetchHostKey,
		"Fetch_NodeWithoutDirectWay_FallsBackOrSaysSo":                fetchFallsBack,
		"Fetch_ConnectionToS3CutOnTheNode_GoesOn":                     fetchOutboundCut,
		"Fetch_WayOfTheNodeChangesBytes_FallsBack":                    fetchChangedOnTheWay,
		"Fetch_PartOfTheObjectTampered_IsNoArchive":                   fetchTampered,
		"Fetch_NoWholeArchive_IsToldBeforeAByteIsMoved":               fetchNoArchive,
		"Fetch_ArchiveRemovedMeanwhile_IsNoArchive":                   fetchRemoved,
		"Fetch_Encrypted_SaysWhatToDo":                                fetchEncrypted,
		"Fetch_EncryptedWithItsKey_IsThere":                           fetchSealed,
		"Fetch_EncryptedPartTooShort_IsToldAtOnce":                    fetchSealedShort,
		"Fetch_EncryptedPartTooLong_WritesNothingElsewhere":           fetchSealedLong,
		"Fetch_PlainWithABadKey_NeedsNone":                            fetchPlainWithBadKey,
		"Ready_EncryptedAndFoundDamaged_SaysSo":                       readySealedAndDamaged,
		"Fetch_DiskOfTheNodeFull_NamesItAndGoesOnWhenFreed":           fetchFull,
		"Fetch_FolderIsGone_SaysSo":                                   fetchNoFolder,
		"Fetch_RubbishAndALongerFileInItsPlace_BecomesTheArchive":     fetchLeftover,
		"Fetch_Cancelled_LeavesNoProcessAndNoSecret":                  fetchCancelled,
		"Fetch_DirectUnderWay_HasNoURLInProcessesLogsOrOnDisk":        fetchSecrets,
	}
}

// stored exports an archive of so many bytes into the bucket and prepares another operation that fetches it.
func (x *exports) stored(size int64) FetchInput {
	x.t.Helper()
	require.NoError(x.t, x.files.ExportSize(size))
	must[TransferResult](x.t)(x.transfer(x.exported(x.in()), attemptOptions{}))
	in := FetchInput{Archive: archive.Ref{Cluster: x.op.Cluster, Operation: x.op.ID}, Mode: operation.TransferWorker}
	x.op.ID, x.op.WorkflowID, x.op.Token = "op-2", "op/demo/backup-restore/op-2", 200
	in.ExportInput = x.prepared(x.in())
	x.bucket.Proxy.Forget()
	return in
}

func (x *exports) fetch(in FetchInput, o attemptOptions) (FetchResult, error) {
	x.t.Helper()
	return run(x.t, x.archives.Fetch, in, o)
}

// wantFetched holds the file on the node against the manifest.
func (x *exports) wantFetched(in FetchInput, got FetchResult) {
	x.t.Helper()
	m, err := x.open().Manifest(x.t.Context(), in.Archive)
	require.NoError(x.t, err)
	require.Equal(x.t, m.Size, got.Size)
	require.Equal(x.t, m.SHA256, got.SHA256)
	sum, _, _ := strings.Cut(x.sh(`stat -c %a "$1" | grep -qx 600 && sha256sum <"$1"`, in.staged()), " ")
	require.Equal(x.t, m.SHA256, sum)
	checked := must[CheckArchiveResult](x.t)(run(x.t, x.archives.CheckArchive, in.ExportInput, attemptOptions{}))
	require.Equal(x.t, m.Size, checked.Size)
	require.Equal(x.t, m.SHA256, checked.SHA256)
}

const getExport = "GET export.tgz"

// bothWays runs a test through the worker and through the node itself.
func bothWays(t *testing.T, test func(t *testing.T, mode operation.TransferMode)) {
	for _, mode := range []operation.TransferMode{operation.TransferWorker, operation.TransferDirect} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

// heldAnswer is an answer that stops after some bytes of its body until it is let go, or nobody waits for it.
type heldAnswer struct {
	http.ResponseWriter
	left    int
	wait    func()
	waiting bool
}

func (h *heldAnswer) Write(p []byte) (int, error) {
	if h.waiting || len(p) <= h.left {
		h.left -= len(p)
		return h.ResponseWriter.Write(p)
	}
	n, err := h.ResponseWriter.Write(p[:h.left])
	if err != nil {
		return n, err
	}
	_ = http.NewResponseController(h.ResponseWriter).Flush()
	h.waiting = true
	h.wait()
	m, err := h.ResponseWriter.Write(p[n:])
	return n + m, err
}

// hold stops the next answers with a range in their middle: reached is closed when all stand there.
func (x *exports) hold(answers int) (reached <-chan struct{}, release func()) {
	there, free := make(chan struct{}), make(chan struct{})
	var standing atomic.Int64
	x.bucket.Proxy.Fail(getExport, answers, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		forward.ServeHTTP(&heldAnswer{ResponseWriter: w, left: mib, wait: func() {
			if standing.Add(1) == int64(answers) {
				close(there)
			}
			select {
			case <-free:
			case <-r.Context().Done():
			}
		}}, r)
	})
	release = sync.OnceFunc(func() { close(free) })
	x.t.Cleanup(release)
	return there, release
}

// ranged does something to the answers with ranges that begin at an offset.
func (x *exports) ranged(offset int64, times int, act archivetest.Act) {
	var done atomic.Int64
	x.bucket.Proxy.Fail(getExport, archivetest.Always, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if strings.HasPrefix(r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", offset)) && done.Add(1) <= int64(times) {
			act(w, r, forward)
			return
		}
		forward.ServeHTTP(w, r)
	})
}

func fetchPassing(t *testing.T, s archivetest.Server) {
	for name, act := range map[string]archivetest.Act{"500": archivetest.InternalError, "SlowDown": archivetest.SlowDown, "reset": archivetest.Reset(0), "truncated": archivetest.Truncate(mib),
		"changed": archivetest.Flip(mib)} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, mode operation.TransferMode) {
				x := startExports(t, s, exporting{})
				in := x.stored(16 * mib)
				in.Mode = mode
				x.bucket.Proxy.Fail(getExport, 3, act)
				if name != "changed" { // a manifest has no checksum of its own
					x.bucket.Proxy.Fail("GET manifest.json", 1, act)
				}
				got := must[FetchResult](t)(x.fetch(in, attemptOptions{}))
				require.Equal(t, mode, got.Mode)
				require.Empty(t, x.bucket.Proxy.Unmet())
				x.wantFetched(in, got)
				x.wantNoSecret()
			})
		})
	}
}

func fetchLasting(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(16 * mib)
		in.Mode = mode
		x.bucket.Proxy.Fail(getExport, archivetest.Always, archivetest.AccessDenied)
		_, err := x.fetch(in, attemptOptions{})
		f := wantFailure(t, err, operation.ErrS3, false, "fs: ", "HTTP 403")
		x.wantNoSecret(f.Message, f.Tail)
		x.bucket.Proxy.Fail("GET manifest.json", archivetest.Always, archivetest.ExpiredToken)
		_, err = x.fetch(in, attemptOptions{})
		wantFailure(t, err, operation.ErrS3, false, "renew them")
		x.bucket.Proxy.Heal()
		x.wantFetched(in, must[FetchResult](t)(x.fetch(in, attemptOptions{})))
	})
}

func fetchHandedOver(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(41 * mib)
		in.Mode = mode
		atOnce := fetchedByWorker
		if mode == operation.TransferDirect {
			atOnce = fetchedDirect
		}
		x.bucket.Proxy.Fail(getExport, 3, func(w http.ResponseWriter, r *http.Request, forward http.Handler) { forward.ServeHTTP(w, r) })
		reached, _ := x.hold(atOnce)
		stop := make(chan struct{})
		first := inBackground(t, x.archives.Fetch, in, attemptOptions{stop: stop})
		<-reached
		passed := x.bucket.Proxy.Count(getExport)
		require.Equal(t, 3+atOnce, passed)
		close(stop)
		_, err := first.wait(t)
		wantFailure(t, err, operation.ErrWorker, true)
		got := must[FetchResult](t)(x.fetch(in, attemptOptions{resume: &Beat{}}))
		require.Equal(t, int64(3*5*mib), got.Kept, "what was there is kept")
		require.Equal(t, passed+9-3, x.bucket.Proxy.Count(getExport), "only the parts in flight are moved again")
		x.wantFetched(in, got)
	})
}

func fetchCut(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(16 * mib)
		in.Mode = mode
		reached, release := x.hold(2)
		end := inBackground(t, x.archives.Fetch, in, attemptOptions{})
		<-reached
		x.files.DropConnections()
		release()
		got := must[FetchResult](t)(end.wait(t))
		require.LessOrEqual(t, x.bucket.Proxy.Count(getExport), 4+4, "at most the parts in flight are moved again")
		x.wantFetched(in, got)
	})
}

func fetchReboot(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(41 * mib)
	x.bucket.Proxy.Fail(getExport, 3, func(w http.ResponseWriter, r *http.Request, forward http.Handler) { forward.ServeHTTP(w, r) })
	reached, release := x.hold(fetchedByWorker)
	end := inBackground(t, x.archives.Fetch, in, attemptOptions{})
	<-reached                                                                                                                                     // three parts are done
	x.sh(`for part in 0 1 2 3; do dd if=/dev/zero of="$1" bs=4096 count=1 seek=$((part * 1280 + 100)) conv=notrunc || exit 1; done`, in.staged()) // what never came to the disk
	x.files.RebootNow()
	release()
	x.wantFetched(in, must[FetchResult](t)(end.wait(t)))
	require.GreaterOrEqual(t, x.bucket.Proxy.Count(getExport), 3+4+9, "none of the parts counts that lost bytes")
}

func fetchUnreachable(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(16 * mib)
	in.UnreachableAfter = operation.Duration(2 * time.Second)
	reached, release := x.hold(1)
	end := inBackground(t, x.archives.Fetch, in, attemptOptions{})
	<-reached
	x.files.Refuse(true)
	x.files.DropConnections()
	release()
	_, err := end.wait(t)
	wantFailure(t, err, operation.ErrUnreachable, false, "fs: not reached for 2s")
	x.files.Refuse(false)
	x.wantFetched(in, must[FetchResult](t)(x.fetch(in, attemptOptions{})))
}

func fetchHostKey(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(16 * mib)
	reached, release := x.hold(1)
	end := inBackground(t, x.archives.Fetch, in, attemptOptions{})
	<-reached
	x.files.ChangeHostKey()
	x.files.DropConnections()
	release()
	_, err := end.wait(t)
	wantFailure(t, err, operation.ErrSSHHostKey, false, "fs: ")
}

func fetchFallsBack(t *testing.T, s archivetest.Server) {
	onlyNode := func(act archivetest.Act) archivetest.Act { // only the node's way leads through it
		return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
			if strings.Contains(r.UserAgent(), "aws-sdk") {
				forward.ServeHTTP(w, r)
				return
			}
			act(w, r, forward)
		}
	}
	for name, c := range map[string]struct {
		fault func(*exports)
		words string
	}{
		"no network": {func(x *exports) { x.files.NoOutbound(true) }, "cannot reach the S3 service"},
		"no curl":    {func(x *exports) { x.files.FailCommand("curl", -1, 127, "") }, "has no curl"},
		"proxy says no": {func(x *exports) {
			x.bucket.Proxy.Fail(getExport, archivetest.Always, onlyNode(archivetest.Answer(403, "", "")))
		}, "HTTP 403"},
		"proxy has no such page": {func(x *exports) {
			x.bucket.Proxy.Fail(getExport, archivetest.Always, onlyNode(archivetest.Answer(404, "", "")))
		}, "HTTP 404"},
		"proxy knows no ranges": {func(x *exports) {
			x.bucket.Proxy.Fail(getExport, archivetest.Always, onlyNode(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { _, _ = w.Write(make([]byte, 16*mib)) }))
		}, "something else came: HTTP 200"},
	} {
		t.Run(name, func(t *testing.T) {
			x := startExports(t, s, exporting{})
			in := x.stored(16 * mib)
			c.fault(x)
			in.Mode = operation.TransferDirect
			_, err := x.fetch(in, attemptOptions{})
			f := wantFailure(t, err, operation.ErrS3, false, c.words)
			in.Mode = operation.TransferAuto
			got := must[FetchResult](t)(x.fetch(in, attemptOptions{}))
			require.Equal(t, operation.TransferWorker, got.Mode)
			require.Len(t, got.Notes, 1)
			require.Contains(t, got.Notes[0], "moved by the worker: ")
			require.Contains(t, got.Notes[0], c.words)
			x.wantNoSecret(append(got.Notes, f.Message)...)
			x.wantFetched(in, got)
		})
	}
}

func fetchOutboundCut(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(16 * mib)
	in.Mode = operation.TransferDirect
	reached, release := x.hold(1)
	end := inBackground(t, x.archives.Fetch, in, attemptOptions{})
	<-reached
	x.files.DropOutbound()
	release()
	got := must[FetchResult](t)(end.wait(t))
	require.Equal(t, operation.TransferDirect, got.Mode)
	x.wantFetched(in, got)
}

func fetchChangedOnTheWay(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(16 * mib)
	in.Mode = operation.TransferAuto
	x.bucket.Proxy.Fail(getExport, archivetest.Always, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if strings.Contains(r.UserAgent(), "curl") {
			archivetest.Flip(mib)(w, r, forward)
			return
		}
		forward.ServeHTTP(w, r)
	})
	got := must[FetchResult](t)(x.fetch(in, attemptOptions{}))
	require.Equal(t, operation.TransferWorker, got.Mode)
	require.Len(t, got.Notes, 1)
	require.Contains(t, got.Notes[0], "something changes it on its way")
	x.wantFetched(in, got)
}

func fetchTampered(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(16 * mib)
		in.Mode = mode
		x.ranged(5*mib, 100, archivetest.Flip(7))
		for range 2 {
			_, err := x.fetch(in, attemptOptions{})
			wantFailure(t, err, operation.ErrArchive, false, "fs: ", "part 2 of 4 is not what was written")
		}
		x.bucket.Proxy.Heal()
		got := must[FetchResult](t)(x.fetch(in, attemptOptions{}))
		require.Less(t, got.Kept, got.Size-4*mib, "the part with other bytes does not count as there")
		x.wantFetched(in, got)
	})
}

func fetchNoArchive(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(6 * mib)
	export, manifest := x.open().Key(in.Archive)
	get := func(key string) []byte {
		out, err := x.bucket.Client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &x.bucket.Name, Key: &key})
		require.NoError(t, err)
		defer func() { _ = out.Body.Close() }()
		b, err := io.ReadAll(out.Body)
		require.NoError(t, err)
		return b
	}
	put := func(key string, b []byte) {
		_, err := x.bucket.Client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &x.bucket.Name, Key: &key, Body: bytes.NewReader(b)})
		require.NoError(t, err)
	}
	remove := func(key string) {
		_, err := x.bucket.Client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &x.bucket.Name, Key: &key})
		require.NoError(t, err)
	}
	object, text := get(export), get(manifest)
	refused := func(words ...string) {
		t.Helper()
		_, err := x.fetch(in, attemptOptions{})
		wantFailure(t, err, operation.ErrArchive, false, append(words, "fs: ", "demo/op-1")...)
		require.False(t, x.there(in.staged()))
		require.Zero(t, x.bucket.Proxy.Count(getExport))
	}
	put(manifest, bytes.Replace(text, []byte(`"part_size": 5242880`), []byte(`"part_size": 5242881`), 1))
	refused("not complete")
	remove(manifest)
	refused("not complete", "manifest is missing")
	put(manifest, text)
	object[3*mib] ^= 1
	put(export, object) // as one put, with the same size: another object
	refused("not complete")
	remove(export)
	refused("not complete", "object is missing")
	remove(manifest)
	refused("does not exist")
}

func fetchRemoved(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(41 * mib)
		in.Mode = mode
		reached, release := x.hold(1)
		end := inBackground(t, x.archives.Fetch, in, attemptOptions{})
		<-reached
		require.NoError(t, x.open().Delete(t.Context(), in.Archive, false))
		release()
		_, err := end.wait(t)
		wantFailure(t, err, operation.ErrArchive, false, "fs: ", "does not exist")
	})
}

func fetchEncrypted(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	export := x.exported(x.in())
	export.EncryptTo = []string{identity.Recipient().String()}
	must[TransferResult](t)(x.transfer(export, attemptOptions{}))
	in := FetchInput{ExportInput: export.ExportInput, Archive: archive.Ref{Cluster: x.op.Cluster, Operation: x.op.ID}}
	_, err = x.fetch(in, attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "is encrypted", "write s3.identity into the inventory", "katoflow backup download --identity")
}

func fetchFull(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(41 * mib)
		in.Mode = mode
		require.NoError(t, x.files.FreeSpace(in.Place, 22*mib))
		_, err := x.fetch(in, attemptOptions{})
		wantFailure(t, err, operation.ErrDiskFull, false, "fs: no space for the archive in /", " KiB free)", "free some, then retry")
		require.NoError(t, x.files.FreeSpace(in.Place, -1))
		moved := x.bucket.Proxy.Count(getExport)
		got := must[FetchResult](t)(x.fetch(in, attemptOptions{}))
		require.NotZero(t, got.Kept)
		require.Equal(t, (got.Size-got.Kept+5*mib-1)/(5*mib), int64(x.bucket.Proxy.Count(getExport)-moved))
		x.wantFetched(in, got)

		x.sh(`rm "$1"`, in.staged())
		x.files.FillDisk(true)
		_, err = x.fetch(in, attemptOptions{})
		wantFailure(t, err, operation.ErrDiskFull, false, "fs: ")
		x.files.FillDisk(false)
	})
}

func fetchNoFolder(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(6 * mib)
	x.sh(`rm -r "$1"`, in.Place)
	_, err := x.fetch(in, attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "fs: the folder ", "is gone: retry makes it again")
	in.Place = ""
	_, err = x.fetch(in, attemptOptions{})
	wantFailure(t, err, operation.ErrInternal, false, "no folder for the archive")
}

func fetchLeftover(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(16 * mib)
		in.Mode = mode
		must[FetchResult](t)(x.fetch(in, attemptOptions{}))
		x.sh(`dd if=/dev/zero of="$1" bs=4096 count=1 seek=2000 conv=notrunc; head -c 9000000 /dev/zero >>"$1"; chmod 644 "$1"`, in.staged())
		before := x.bucket.Proxy.Count(getExport)
		got := must[FetchResult](t)(x.fetch(in, attemptOptions{}))
		require.Equal(t, 1, x.bucket.Proxy.Count(getExport)-before)
		require.Equal(t, got.Size-5*mib, got.Kept)
		x.wantFetched(in, got)
	})
}

func fetchCancelled(t *testing.T, s archivetest.Server) {
	bothWays(t, func(t *testing.T, mode operation.TransferMode) {
		x := startExports(t, s, exporting{})
		in := x.stored(16 * mib)
		in.Mode = mode
		reached, _ := x.hold(1)
		ctx, cancel := context.WithCancelCause(context.Background())
		end := inBackground(t, x.archives.Fetch, in, attemptOptions{ctx: ctx})
		<-reached
		require.Contains(t, strings.Join(x.files.Processes(), "\n"), "dd of=")
		cancel(temporal.NewCanceledError())
		_, err := end.wait(t)
		require.True(t, temporal.IsCanceledError(err), "%v", err)
		until(t, "nothing is written any more", func() bool {
			processes := strings.Join(x.files.Processes(), "\n")
			return !strings.Contains(processes, "dd of=") && !strings.Contains(processes, "curl")
		})
		must[JobResult](t)(run(t, x.archives.TidyExport, TidyInput{ExportInput: in.ExportInput}, attemptOptions{}))
		require.Empty(t, x.urlsLeft())
		require.False(t, x.there(in.Place))
	})
}

// urlsLeft are the folders of presigned URLs on the node.
func (x *exports) urlsLeft() string {
	x.t.Helper()
	return x.sh(`ls -d "/run/user/$(id -u)"/katoflow-part* /run/katoflow-*/katoflow-part* /dev/shm/katoflow-part* 2>/dev/null || true`)
}

func fetchSecrets(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	in := x.stored(16 * mib)
	in.Mode = operation.TransferDirect
	reached, release := x.hold(1)
	end := inBackground(t, x.archives.Fetch, in, attemptOptions{})
	<-reached
	processes := strings.Join(x.files.Processes(), "\n")
	require.Contains(t, processes, "curl -q --config /")
	x.wantNoSecret(processes)
	require.Contains(t, x.urlsLeft(), "katoflow-part-op--2.")
	release()
	must[FetchResult](t)(end.wait(t))
	require.Empty(t, x.urlsLeft())
	for _, e := range x.files.Commands() {
		x.wantNoSecret(e.Command())
	}
	require.Empty(t, x.sh(`grep -rl X-Amz-Signature "$HOME" /run /tmp /var/lib 2>/dev/null || true`))
	x.wantNoSecret()
}

func fetchEitherWay(t *testing.T, s archivetest.Server) {
	for _, mode := range []operation.TransferMode{operation.TransferWorker, operation.TransferDirect, operation.TransferAuto} {
		t.Run(string(mode), func(t *testing.T) {
			x := startExports(t, s, exporting{})
			in := x.stored(16 * mib)
			in.Mode = mode
			got := must[FetchResult](t)(x.fetch(in, attemptOptions{}))
			want := mode
			if mode == operation.TransferAuto {
				want = operation.TransferDirect
			}
			require.Equal(t, want, got.Mode)
			require.Empty(t, got.Notes)
			require.Zero(t, got.Kept)
			require.Equal(t, 4, x.bucket.Proxy.Count(getExport), "each part is read once")
			x.wantFetched(in, got)
			again := must[FetchResult](t)(x.fetch(in, attemptOptions{resume: &Beat{}}))
			require.Equal(t, got.Size, again.Kept)
			require.Equal(t, 4, x.bucket.Proxy.Count(getExport), "what is there is not read again")
			for _, e := range x.files.Commands() {
				x.wantNoSecret(e.Command())
			}
		})
	}
}
