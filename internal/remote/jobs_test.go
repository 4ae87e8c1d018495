package remote

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJob_StartedAndFollowed_ReportsOutputAndExitCode(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "echo out; echo err >&2; cat; exit 7")
		status, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, spec.ID, status.ID)
		require.Contains(t, []JobState{JobRunning, JobExited}, status.State)
		var got bytes.Buffer
		status, err = n.jobs.Follow(ctx, n.host, spec.ID, 0, func(chunk []byte, offset int64) {
			require.EqualValues(t, got.Len(), offset)
			got.Write(chunk)
		})
		require.NoError(t, err)
		require.Equal(t, JobExited, status.State)
		require.Equal(t, 7, status.ExitCode)
		require.Equal(t, "boot-1", status.BootID)
		require.Equal(t, "out\nerr\n", got.String())
		require.EqualValues(t, 8, status.OutputSize)
		require.NotZero(t, status.StartedAt)

		again, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, status, again)
		require.Equal(t, 1, n.count("ran"))
	})
}

func BenchmarkJob_True_StartAndFollow(b *testing.B) {
	for _, shell := range shells {
		b.Run(shell, func(b *testing.B) {
			n := newLocalNode(b, shell)
			for i := 0; b.Loop(); i++ {
				spec := JobSpec{ID: testID("bench"), Lease: testLease, Argv: []string{"true"}}
				spec.ID.Try = i
				_, err := n.jobs.Start(context.Background(), n.host, spec)
				require.NoError(b, err)
				require.Equal(b, JobExited, n.finish(spec.ID).State)
			}
		})
	}
}
