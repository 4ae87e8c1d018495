package simcluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// jobsOn returns durable jobs over SSH to one node.
func jobsOn(t testing.TB, cfg simcluster.Config) (*simcluster.Node, *remote.Jobs, remote.Host) {
	t.Helper()
	if cfg.Nodes == nil {
		cfg.Nodes = []simcluster.NodeConfig{{Name: "one", Roles: []string{"base", "primary", "controller", "router", "dea"}}}
	}
	c, err := simcluster.Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	pool := remote.NewPool(remote.Options{KeepaliveInterval: 200 * time.Millisecond})
	t.Cleanup(func() { pool.Close() })
	n := c.Nodes()[0]
	return n, &remote.Jobs{Runner: pool, FollowPoll: 10 * time.Millisecond}, remote.Host{Name: n.Name(), Address: n.Address(), Port: n.Port(), User: c.LoginUser(), KeyFiles: []string{c.ClientKeyPath()}, KnownHosts: []string{c.KnownHostsPath()}}
}

func spec(step string, argv ...string) remote.JobSpec {
	return remote.JobSpec{ID: remote.JobID{Operation: "op-1", Node: "one", Step: step, Try: 1}, Lease: remote.Lease{Token: 1, Operation: "op-1"}, Argv: argv}
}

// follow follows a job over broken connections and collects its output.
func follow(t testing.TB, j *remote.Jobs, h remote.Host, id remote.JobID) (remote.JobStatus, string) {
	t.Helper()
	var mu sync.Mutex
	var out bytes.Buffer
	deadline := time.Now().Add(20 * time.Second)
	for {
		ctx, cancel := context.WithDeadline(t.Context(), deadline)
		st, err := j.Follow(ctx, h, id, int64(out.Len()), func(chunk []byte, offset int64) {
			mu.Lock()
			defer mu.Unlock()
			if int(offset) == out.Len() {
				out.Write(chunk)
			}
		})
		cancel()
		if err == nil {
			return st, out.String()
		}
		var e *remote.Error
		require.True(t, errors.As(err, &e) && e.Kind == remote.KindTransport, "%v", err)
		require.True(t, time.Now().Before(deadline), "%v", err)
		time.Sleep(5 * time.Millisecond)
	}
}

func TestJobs_OnANode_RunOnceWithOutputAndExitCode(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{})
	s := spec("hello", "sh", "-c", "echo out; echo err >&2; cat; echo ran >>/tmp/ran; exit 7")
	st, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	require.Equal(t, n.BootID(), st.BootID)
	st, out := follow(t, jobs, host, s.ID)
	require.Equal(t, remote.JobExited, st.State)
	require.Equal(t, 7, st.ExitCode)
	require.Equal(t, "out\nerr\n", out)
	again, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	require.Equal(t, st, again)
	ran, err := n.ReadFile("/tmp/ran")
	require.NoError(t, err)
	require.Equal(t, "ran\n", string(ran))
}

func TestJobs_ConnectionDropped_GoOnAndAreFollowed(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{})
	s := spec("long", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.05; done")
	_, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 5 {
			select {
			case <-stop:
				return
			case <-time.After(60 * time.Millisecond):
				n.DropConnections()
			}
		}
	})
	st, out := follow(t, jobs, host, s.ID)
	close(stop)
	wg.Wait()
	require.Equal(t, remote.JobExited, st.State)
	require.Equal(t, "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", out)
}

func TestJobs_Reboot_InterruptsThem(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{BootTime: 20 * time.Millisecond})
	s := spec("long", "sleep", "1000")
	st, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	require.Equal(t, remote.JobRunning, st.State)
	n.RebootNow()
	st, _ = follow(t, jobs, host, s.ID)
	require.Equal(t, remote.JobInterrupted, st.State)
	require.NotEqual(t, st.BootID, st.CurrentBootID)
	require.Equal(t, 2, n.Boots())
}

func TestJobs_Upgrade_IsRecordedAsRootWithItsJob(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{UpgradeTime: 50 * time.Millisecond})
	s := spec("upgrade", "unattended-upgrades", "-d")
	s.Sudo = true
	s.Env = map[string]string{"http_proxy": "http://proxy:3128", "DEBIAN_FRONTEND": "noninteractive"}
	_, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	st, out := follow(t, jobs, host, s.ID)
	require.Equal(t, 0, st.ExitCode, out)
	require.Contains(t, out, "All upgrades installed")
	require.Zero(t, n.PendingCount())
	require.True(t, n.RebootRequired())
	commands := n.Commands()
	require.Len(t, commands, 1)
	require.Equal(t, "root", commands[0].User)
	require.Equal(t, "http://proxy:3128", commands[0].Env["http_proxy"])
	require.True(t, strings.Contains(commands[0].Job, "upgrade"), commands[0].Job)
}

func TestJobs_DiskFull_StartNothing(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{})
	before := spec("before", "true")
	_, err := jobs.Start(t.Context(), host, before) // makes the folders
	require.NoError(t, err)
	running := spec("running", "sh", "-c", "sleep 0.2; exit 5")
	_, err = jobs.Start(t.Context(), host, running)
	require.NoError(t, err)
	n.FillDisk(true)
	_, err = jobs.Start(t.Context(), host, spec("full", "touch", "/run/user/1000/ran"))
	var e *remote.Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, remote.KindDiskFull, e.Kind)
	st, _ := follow(t, jobs, host, running.ID)
	require.Equal(t, remote.JobExited, st.State, "the exit code of a running job is not lost")
	require.Equal(t, 5, st.ExitCode)
	_, err = n.ReadFile("/run/user/1000/ran")
	require.Error(t, err)
}

func TestJobs_NodeFrozen_BeginAfterTheThaw(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{Nodes: []simcluster.NodeConfig{{Name: "one", Roles: []string{"base", "primary", "controller"}, Mounts: []simcluster.Mount{{Path: "/srv/data", Type: "xfs"}}}}})
	before := spec("before", "sh", "-c", "while [ ! -e /run/user/1000/go ]; do sleep 0.01; done; exit 3")
	_, err := jobs.Start(t.Context(), host, before)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	in, thaw := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := jobs.Runner.Run(ctx, host, remote.Command{Argv: []string{"sudo", "-n", "/usr/local/sbin/katoflow-freeze", "freeze", "a", "300", "/srv/data"}, Stdin: in})
		assert.NoError(t, err)
	})
	defer wg.Wait()
	defer thaw.Close()
	require.Eventually(t, func() bool { return len(n.Frozen()) == 1 }, 10*time.Second, 5*time.Millisecond)
	later := spec("later", "sh", "-c", "date +%s%N >/run/user/1000/began")
	started := make(chan error, 1)
	wg.Go(func() {
		_, err := jobs.Start(ctx, host, later)
		started <- err
	})
	require.NoError(t, n.WriteFile("/run/user/1000/go", nil))
	select {
	case err := <-started:
		t.Fatalf("it has started on a frozen node: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	require.Equal(t, []string{"/srv/data"}, n.Frozen())
	_, err = io.WriteString(thaw, "thaw\n")
	require.NoError(t, err)
	require.NoError(t, <-started)
	st, _ := follow(t, jobs, host, before.ID)
	require.Equal(t, 3, st.ExitCode, "a job that runs goes on")
	st, _ = follow(t, jobs, host, later.ID)
	require.Equal(t, remote.JobExited, st.State)
	began, err := n.ReadFile("/run/user/1000/began")
	require.NoError(t, err)
	state, err := n.ReadFile("/run/katoflow-freeze/a/state")
	require.NoError(t, err)
	_, thawed, _ := strings.Cut(string(state), "thawed /srv/data ")
	thawed, _, _ = strings.Cut(thawed, "\n")
	require.Greater(t, strings.TrimSpace(string(began)), thawed)
}

func TestJobs_PayloadOutlivesItsWrapper_IsNotLostBefore(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{})
	s := spec("orphan", "sh", "-c", "kill -KILL $PPID; while [ ! -e /tmp/go ]; do sleep 0.01; done")
	_, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	st, err := jobs.Status(t.Context(), host, s.ID)
	require.NoError(t, err)
	require.Equal(t, remote.JobRunning, st.State, "the payload holds the inherited lock")
	require.NoError(t, n.WriteFile("/tmp/go", nil))
	st, _ = follow(t, jobs, host, s.ID)
	require.Equal(t, remote.JobLost, st.State)
}

func TestJobs_Stop_EndsAnInterruptibleJob(t *testing.T) {
	_, jobs, host := jobsOn(t, simcluster.Config{})
	s := spec("stop", "sleep", "1000")
	s.Interruptible = true
	_, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	st, err := jobs.Stop(t.Context(), host, s.ID, time.Second)
	require.NoError(t, err)
	require.Equal(t, remote.JobExited, st.State)
	require.Equal(t, 143, st.ExitCode)
}

func TestJobs_Secrets_ReachThePayloadAndGoAway(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{})
	s := spec("secret", "sh", "-c", `cat "$TOKEN"; stat -c %a "$TOKEN"; echo "$TOKEN"`)
	s.Secrets = map[string][]byte{"TOKEN": []byte("s3cret\n")}
	_, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	_, out := follow(t, jobs, host, s.ID)
	lines := strings.Split(out, "\n")
	require.Equal(t, []string{"s3cret", "600"}, lines[:2])
	require.Eventually(t, func() bool { _, err := n.ReadFile(lines[2]); return err != nil }, 5*time.Second, 5*time.Millisecond)
}

func TestJobs_Kato_RunsInALoginShell(t *testing.T) {
	n, jobs, host := jobsOn(t, simcluster.Config{})
	s := spec("maintenance", "/home/stackato/bin/kato", "config", "set", "cloud_controller_ng", "maintenance_mode", "true")
	s.Login = true
	_, err := jobs.Start(t.Context(), host, s)
	require.NoError(t, err)
	st, out := follow(t, jobs, host, s.ID)
	require.Equal(t, 0, st.ExitCode, out)
	require.Len(t, n.Commands(), 1)
	require.Equal(t, "stackato", n.Commands()[0].User)
}

func BenchmarkJob_True_StartAndFollow(b *testing.B) {
	_, jobs, host := jobsOn(b, simcluster.Config{})
	i := 0
	for b.Loop() {
		s := spec("bench", "true")
		s.ID.Try = i
		i++
		_, err := jobs.Start(b.Context(), host, s)
		require.NoError(b, err)
		st, _ := follow(b, jobs, host, s.ID)
		require.Equal(b, remote.JobExited, st.State)
	}
}
