package remote

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Over the real sshd: a job is no process of the session that started it.
func TestJobs_OverOpenSSH_OutliveTheConnection(t *testing.T) {
	home := t.TempDir()
	s := newOpenSSHD(t, `ForceCommand export HOME='`+home+`' KATOFLOW_TEST='`+home+`'; exec sh -c "$SSH_ORIGINAL_COMMAND"`)
	node := &localNode{t: t, dir: home}
	t.Cleanup(node.endProcesses)
	p := newTestPool(t, Options{})
	ctx := testContext(t)
	h := s.hostEntry()
	jobs := &Jobs{Runner: p, FollowPoll: 20 * time.Millisecond, rootPrefix: filepath.Join(home, "root")}
	require.NoError(t, os.MkdirAll(filepath.Join(home, "root/dev/shm"), 0o700))
	boot, err := jobs.TakeLease(ctx, h, testLease)
	require.NoError(t, err)
	want, err := os.ReadFile(defaultBootIDPath)
	require.NoError(t, err)
	require.Equal(t, string(bytes.TrimSpace(want)), boot)

	spec := JobSpec{ID: testID("a"), Lease: testLease, Interruptible: true, Secrets: map[string][]byte{"S": []byte("hidden")},
		Argv: []string{"sh", "-c", `echo first; cat "$S" >"$0/got"; until [ -e "$0/go" ]; do sleep 0.02; done; echo last; exit 3`, home}}
	status, err := jobs.Start(ctx, h, spec)
	require.NoError(t, err)
	require.Equal(t, JobRunning, status.State)
	var got bytes.Buffer
	sink := func(chunk []byte, offset int64) {
		require.EqualValues(t, got.Len(), offset)
		got.Write(chunk)
		if got.String() == "first\n" {
			s.killAll()
		}
	}
	_, err = jobs.Follow(ctx, h, spec.ID, 0, sink)
	require.Equal(t, KindTransport, KindOf(err), "%v", err)
	require.NoError(t, os.WriteFile(filepath.Join(home, "go"), nil, 0o600))
	status, err = jobs.Follow(ctx, h, spec.ID, int64(got.Len()), sink)
	require.NoError(t, err)
	require.Equal(t, JobExited, status.State)
	require.Equal(t, 3, status.ExitCode)
	require.Equal(t, "first\nlast\n", got.String())
	secret, err := os.ReadFile(filepath.Join(home, "got"))
	require.NoError(t, err)
	require.Equal(t, "hidden", string(secret))

	spec = JobSpec{ID: testID("b"), Lease: testLease, Interruptible: true, Argv: []string{"sleep", "60"}}
	_, err = jobs.Start(ctx, h, spec)
	require.NoError(t, err)
	status, err = jobs.Stop(ctx, h, spec.ID, 5*time.Second)
	require.NoError(t, err)
	require.Equal(t, JobExited, status.State)
	require.Equal(t, 143, status.ExitCode)
}
