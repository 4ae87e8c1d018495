package activities

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
)

func exportTests() map[string]archiveTest {
	return map[string]archiveTest{
		"Export_AllSteps_ArchiveIsListedAndNothingIsLeftOnTheNode": allSteps,
	}
}

func allSteps(t *testing.T, s archivetest.Server) {
	x := startExports(t, s, exporting{})
	require.NoError(t, x.files.ExportSize(12*mib))
	in := x.exported(x.in())
	require.Greater(t, in.Checked.Size, int64(12*mib))
	require.Positive(t, in.Checked.Entries)
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
