package activities

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
)

func fetchTests() map[string]archiveTest {
	return map[string]archiveTest{
		"Fetch_EitherWay_BringsTheArchive": fetchEitherWay,
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
