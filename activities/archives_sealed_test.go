package activities

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
)

// sealedExports has an archive encrypted to two keys, of which the worker has the first.
func sealedExports(t *testing.T, s archivetest.Server) (*exports, FetchInput, []*age.X25519Identity) {
	var ids []*age.X25519Identity
	for range 2 {
		id, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		ids = append(ids, id)
	}
	file := filepath.Join(t.TempDir(), "identity")
	require.NoError(t, os.WriteFile(file, []byte(ids[0].String()+"\n"), 0o600))
	x := startExports(t, s, exporting{section: func(text string) string {
		return strings.Replace(text, "secret_key: {file:", fmt.Sprintf("identity: {file: %q}, secret_key: {file:", file), 1)
	}})
	require.NoError(t, x.files.ExportSize(12*mib))
	export := x.exported(x.in())
	for _, id := range ids {
		export.EncryptTo = append(export.EncryptTo, id.Recipient().String())
	}
	must[TransferResult](t)(x.transfer(export, attemptOptions{}))
	in := FetchInput{Archive: archive.Ref{Cluster: x.op.Cluster, Operation: x.op.ID}, Mode: operation.TransferWorker}
	x.op.ID, x.op.WorkflowID, x.op.Token = "op-2", "op/demo/backup-restore/op-2", 200
	in.ExportInput = x.prepared(x.in())
	x.bucket.Proxy.Forget()
	return x, in, ids
}

func fetchSealed(t *testing.T, s archivetest.Server) {
	x, in, _ := sealedExports(t, s)
	got, err := x.fetch(in, attemptOptions{})
	require.NoError(t, err)
	x.wantFetched(in, got)
}

func readySealedAndDamaged(t *testing.T, s archivetest.Server) {
	x, in, _ := sealedExports(t, s)
	x.bucket.Proxy.Fail(getExport, archivetest.Always, archivetest.Flip(6*mib))
	st, err := x.archives.Source.site(x.op.Cluster)
	require.NoError(t, err)
	store, err := st.store(nil)
	require.NoError(t, err)
	defer store.Close()
	_, err = store.Verify(t.Context(), in.Archive, nil, "test", nil)
	require.Error(t, err)
	_, out := x.archives.readyArchive(t.Context(), RestoreReadyInput{From: x.op.Cluster, Archive: in.Archive.Operation, Mode: operation.TransferWorker})
	require.Contains(t, fmt.Sprint(out), "did not read back")
}

// swapped answers every range of the first part with another age file of the same length.
func (x *exports) swapped(stored int64, plain func(room int64) []byte, to ...age.Recipient) {
	var probe bytes.Buffer
	w, err := age.Encrypt(&probe, to...)
	require.NoError(x.t, err)
	require.NoError(x.t, w.Close())
	overhead := int64(probe.Len()) // header, nonce, one tag
	room := stored - overhead
	for room+16*((room+65535)/65536-1) > stored-overhead {
		room--
	}
	var file bytes.Buffer
	w, err = age.Encrypt(&file, to...)
	require.NoError(x.t, err)
	_, err = io.Copy(w, bytes.NewReader(plain(room)))
	require.NoError(x.t, err)
	require.NoError(x.t, w.Close())
	require.Equal(x.t, stored, int64(file.Len()))
	x.ranged(0, 1000, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		forward.ServeHTTP(&swapWriter{w, file.Bytes()}, r)
	})
}

type swapWriter struct {
	http.ResponseWriter
	with []byte
}

func (s *swapWriter) Write(p []byte) (int, error) {
	n := copy(bytes.Clone(p), p)
	q := s.with[:min(n, len(s.with))]
	s.with = s.with[len(q):]
	if _, err := s.ResponseWriter.Write(q); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (x *exports) manifestOf(in FetchInput) archive.Manifest {
	m, err := x.open().Manifest(x.t.Context(), in.Archive)
	require.NoError(x.t, err)
	return m
}

func fetchSealedShort(t *testing.T, s archivetest.Server) {
	x, in, ids := sealedExports(t, s)
	p := x.manifestOf(in).Parts[0]
	third, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	x.swapped(p.StoredSize, func(room int64) []byte { return make([]byte, room) }, ids[0].Recipient(), ids[1].Recipient(), third.Recipient())
	_, err = x.fetch(in, attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "part 1 of 3")
}

func fetchSealedLong(t *testing.T, s archivetest.Server) {
	x, in, ids := sealedExports(t, s)
	p := x.manifestOf(in).Parts[0]
	const far = 300 * mib
	x.swapped(p.StoredSize, func(room int64) []byte {
		b := make([]byte, room)
		copy(b[p.Size:], fmt.Sprintf("%d 4\nEVIL", far))
		return b
	}, ids[0].Recipient())
	_, err := x.fetch(in, attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "part 1 of 3")
	size := x.sh(`stat -c %s "$1"`, in.staged())
	require.NotEqual(t, fmt.Sprint(far+4), strings.TrimSpace(size), "bytes of the archive were taken for an order on the node")
}

func fetchPlainWithBadKey(t *testing.T, s archivetest.Server) {
	file := filepath.Join(t.TempDir(), "identity")
	require.NoError(t, os.WriteFile(file, []byte("rubbish\n"), 0o600))
	x := startExports(t, s, exporting{section: func(text string) string {
		return strings.Replace(text, "secret_key: {file:", fmt.Sprintf("identity: {file: %q}, secret_key: {file:", file), 1)
	}})
	in := x.stored(12 * mib)
	_, err := x.fetch(in, attemptOptions{})
	require.NoError(t, err)
}
