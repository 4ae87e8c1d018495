package remote

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

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

func TestStart_TwentyWorkersAtOnce_RunThePayloadOnce(t *testing.T) {
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		for round := range rounds {
			spec := n.payload(fmt.Sprintf("round%d", round), "true")
			spec.Secrets = map[string][]byte{"S": []byte("x")}
			var wg sync.WaitGroup
			errs := make(chan error, 20)
			for range 20 {
				wg.Go(func() {
					for {
						status, err := n.jobs.Start(ctx, n.host, spec)
						if IsKind(err, KindTransport) || IsKind(err, KindBusy) {
							continue // a slow machine: as a worker would
						}
						if err == nil && status.State != JobRunning && (status.State != JobExited || status.ExitCode != 0) {
							err = fmt.Errorf("state %s", status.State)
						}
						errs <- err
						return
					}
				})
			}
			wg.Wait()
			close(errs)
			for err := range errs {
				require.NoError(t, err)
			}
			require.Equal(t, JobExited, n.finish(spec.ID).State)
			waitUntil(t, "quiet", func() bool { return len(n.processes()) == 0 })
			require.Equal(t, round+1, n.count("ran"))
			require.Empty(t, n.vaults())
			left, err := os.ReadDir(n.state("tmp"))
			require.NoError(t, err)
			require.Empty(t, left)
		}
	})
}

func (n *localNode) vaults() []string {
	found, err := filepath.Glob(filepath.Join(n.dir, "root/dev/shm/*"))
	require.NoError(n.t, err)
	return found
}

func requireKind(t *testing.T, kind Kind, err error, holder string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, kind, KindOf(err), "%v", err)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, holder, e.Holder)
	require.NotContains(t, err.Error(), "\n")
}

func TestStart_SameIdentityOtherCommand_Conflicts(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "true")
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		n.finish(spec.ID)
		other := n.payload("a", "false")
		_, err = n.jobs.Start(ctx, n.host, other)
		requireKind(t, KindJobConflict, err, "")
		other = spec
		other.Env = map[string]string{"A": "b"}
		_, err = n.jobs.Start(ctx, n.host, other)
		requireKind(t, KindJobConflict, err, "")
		require.NoError(t, n.jobs.Sweep(ctx, n.host, 0, time.Hour))
		_, err = n.jobs.Start(ctx, n.host, other)
		requireKind(t, KindJobConflict, err, "")
		require.Equal(t, 1, n.count("ran"))
	})
}

func TestLease_OlderOperation_IsFenced(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		boot, err := n.jobs.TakeLease(ctx, n.host, testLease)
		require.NoError(t, err)
		require.Equal(t, "boot-1", boot)
		_, err = n.jobs.TakeLease(ctx, n.host, testLease)
		require.NoError(t, err, "the same again")
		spec := n.payload("a", "true")
		_, err = n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		n.finish(spec.ID)

		newer := Lease{Token: testLease.Token + 1, Operation: "Op 2; reboot"}
		_, err = n.jobs.TakeLease(ctx, n.host, newer)
		require.NoError(t, err)
		_, err = n.jobs.TakeLease(ctx, n.host, testLease)
		requireKind(t, KindFenced, err, "Op 2; reboot")
		_, err = n.jobs.TakeLease(ctx, n.host, Lease{Token: newer.Token, Operation: "another"})
		requireKind(t, KindFenced, err, "Op 2; reboot")
		_, err = n.jobs.Start(ctx, n.host, n.payload("b", "true"))
		requireKind(t, KindFenced, err, "Op 2; reboot")
		_, err = n.jobs.Start(ctx, n.host, spec)
		requireKind(t, KindFenced, err, "Op 2; reboot")
		require.Equal(t, 1, n.count("ran"))
	})
}

func TestLease_JobOfAnotherOperationRuns_IsBusyUntilItsEnd(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "until [ -e '"+n.work("go")+"' ]; do sleep 0.02; done")
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		newer := Lease{Token: testLease.Token + 1, Operation: "op-2"}
		_, err = n.jobs.TakeLease(ctx, n.host, newer)
		requireKind(t, KindBusy, err, "op-1")
		other := n.payload("a", "true")
		other.ID.Operation, other.Lease = "op-2", newer
		_, err = n.jobs.Start(ctx, n.host, other)
		requireKind(t, KindBusy, err, "op-1")
		// A newer token of the same operation is no other operation.
		_, err = n.jobs.TakeLease(ctx, n.host, Lease{Token: testLease.Token + 1, Operation: "op-1"})
		require.NoError(t, err)
		running, err := n.jobs.Running(ctx, n.host)
		require.NoError(t, err)
		require.Len(t, running, 1)
		require.Equal(t, spec.ID, running[0].ID)
		require.Equal(t, JobRunning, running[0].State)

		require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
		require.Equal(t, JobExited, n.finish(spec.ID).State)
		running, err = n.jobs.Running(ctx, n.host)
		require.NoError(t, err)
		require.Empty(t, running)
		newer.Token++
		other.Lease = newer
		_, err = n.jobs.Start(ctx, n.host, other)
		require.NoError(t, err)
		n.finish(other.ID)
		all, err := n.jobs.List(ctx, n.host)
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Equal(t, 2, n.count("ran"))
	})
}

// A wrapper launched by an operation that is superseded before the commit starts nothing.
func TestStart_SupersededBetweenLaunchAndCommit_StartsNothing(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "true")
		n.jobs.edit = func(name, script string) string {
			if name == "wrapper.sh" {
				hold := "until [ -e '" + n.work("go") + "' ]; do sleep 0.02; done\n"
				return strings.Replace(script, "trap '[ -z", hold+"trap '[ -z", 1)
			}
			return script
		}
		result := make(chan error, 1)
		go func() {
			_, err := n.jobs.Start(ctx, n.host, spec)
			result <- err
		}()
		waitUntil(t, "the job is prepared", func() bool { _, err := os.Stat(n.jobDir(spec.ID)); return err == nil })
		other := &Jobs{Runner: n, bootIDPath: n.jobs.bootIDPath, rootPrefix: n.jobs.rootPrefix}
		_, err := other.TakeLease(ctx, n.host, Lease{Token: testLease.Token + 1, Operation: "op-2"})
		require.NoError(t, err)
		requireKind(t, KindFenced, <-result, "op-2")
		require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
		waitUntil(t, "the wrapper gave up", func() bool { return len(n.processes()) == 0 })
		require.Zero(t, n.count("ran"))
		status, err := other.Status(ctx, n.host, spec.ID)
		require.NoError(t, err)
		require.Equal(t, JobAbsent, status.State)
	})
}

func TestStart_NodeTooSlowToCommit_IsBoundedAndLaterStartsOnce(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "true")
		_, err := n.jobs.TakeLease(ctx, n.host, testLease)
		require.NoError(t, err)
		n.tool("dd", "until [ -e '"+n.work("go")+"' ]; do sleep 0.02; done; exec /bin/dd \"$@\"")
		began := time.Now()
		_, err = n.jobs.Start(ctx, n.host, spec)
		requireKind(t, KindTransport, err, "")
		require.Less(t, time.Since(began), 25*time.Second)
		status, err := n.jobs.Status(ctx, n.host, spec.ID)
		require.NoError(t, err)
		require.Equal(t, JobAbsent, status.State)
		require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
		_, err = n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, JobExited, n.finish(spec.ID).State)
		waitUntil(t, "quiet", func() bool { return len(n.processes()) == 0 })
		require.Equal(t, 1, n.count("ran"))
	})
}

func TestTakeLease_DiskHangs_ReturnsWithinItsBound(t *testing.T) {
	n := newLocalNode(t, "dash")
	n.jobs.within = 500 * time.Millisecond
	n.tool("sync", "exec sleep 60")
	_, err := n.jobs.TakeLease(context.Background(), n.host, testLease)
	requireKind(t, KindTransport, err, "")
	require.ErrorContains(t, err, "disk may hang")
}

// tool puts a command of this name before the system's.
func (n *localNode) tool(name, script string) {
	require.NoError(n.t, os.WriteFile(filepath.Join(n.bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
}

func TestStart_ToolMissing_IsNamed(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		n.path = n.bin
		for _, tool := range []string{"base64", "cat", "chmod", "date", "dd", "head", "id", "mkdir", "mv", "rm", "sleep", "sync", "tail", "wc"} {
			require.NoError(t, os.Symlink(filepath.Join("/bin", tool), filepath.Join(n.bin, tool)))
		}
		_, err := n.jobs.Start(context.Background(), n.host, n.payload("a", "true"))
		if n.shell == "busybox" && err == nil {
			t.Skip("this busybox has them built in")
		}
		requireKind(t, KindMissingTool, err, "")
		require.Contains(t, err.Error(), "flock")
		_, err = os.Stat(n.state())
		require.ErrorIs(t, err, fs.ErrNotExist)
	})
}

func TestStart_StateFolderNotWritable_SaysSoAndNotDiskFull(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		require.NoError(t, os.WriteFile(filepath.Join(n.dir, "home/.local"), nil, 0o600))
		_, err := n.jobs.Start(context.Background(), n.host, n.payload("a", "true"))
		require.Error(t, err)
		require.NotEqual(t, KindTransport, KindOf(err))
	})
}

// small makes the home folder a file system of its own.
func (n *localNode) small(t *testing.T) {
	home := filepath.Join(n.dir, "home")
	if os.Getuid() != 0 {
		t.Skip("a small file system needs root to mount it")
	}
	if err := syscall.Mount("tmpfs", home, "tmpfs", 0, "size=256k,nr_inodes=64"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		n.endProcesses()
		require.NoError(t, syscall.Unmount(home, 0))
	})
}

func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	require.NoError(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	require.NoError(t, f.Close())
}

func TestStart_DiskFull_StartsNothingAndLeavesNothing(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		n.small(t)
		ctx := context.Background()
		ballast := filepath.Join(n.dir, "home/ballast")
		fill(t, ballast)
		_, err := n.jobs.TakeLease(ctx, n.host, testLease)
		requireKind(t, KindDiskFull, err, "")
		require.NoError(t, os.Remove(ballast))
		_, err = n.jobs.TakeLease(ctx, n.host, testLease)
		require.NoError(t, err)

		spec := n.payload("a", "true")
		fill(t, ballast)
		_, err = n.jobs.Start(ctx, n.host, spec)
		requireKind(t, KindDiskFull, err, "")
		for _, folder := range []string{"jobs", "tmp"} {
			left, err := os.ReadDir(n.state(folder))
			require.NoError(t, err)
			require.Empty(t, left)
		}
		// Room for some of the files only, and no inode.
		for pages := range 5 {
			require.NoError(t, os.Truncate(ballast, 0))
			fill(t, ballast)
			info, err := os.Stat(ballast)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(ballast, info.Size()-int64(pages)*4096))
			_, err = n.jobs.Start(ctx, n.host, spec)
			if err == nil {
				break
			}
			requireKind(t, KindDiskFull, err, "")
			require.Zero(t, n.count("ran"))
		}
		require.NoError(t, os.Remove(ballast))
		_, err = n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, JobExited, n.finish(spec.ID).State)
		require.Equal(t, 1, n.count("ran"))
	})
}

func TestJob_OutputFillsTheDisk_KeepsTheExitCode(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		n.small(t)
		spec := n.payload("a", "cat /dev/zero; exit 3")
		_, err := n.jobs.Start(context.Background(), n.host, spec)
		require.NoError(t, err)
		status := n.finish(spec.ID)
		require.Equal(t, JobExited, status.State)
		require.Equal(t, 3, status.ExitCode)
		again, err := n.jobs.Start(context.Background(), n.host, spec)
		require.NoError(t, err, "a job that is there needs no space")
		require.Equal(t, JobExited, again.State)
		require.Equal(t, 1, n.count("ran"))
	})
}

func TestStart_ConnectionLostWhileTheScriptIsSent_StartsNothing(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "true")
		spec.Secrets = map[string][]byte{"S": []byte("s3cret")}
		payload, err := spec.script()
		require.NoError(t, err)
		for _, length := range []int{0, 1, 5, 12, len(payload) - 3, len(payload) + len("S czNjcmV0\n") - 1} {
			n.wrap = func(c *Command) error {
				if c.Stdin != nil {
					b := make([]byte, length)
					k, _ := c.Stdin.Read(b)
					c.Stdin = bytes.NewReader(b[:k])
				}
				return nil
			}
			_, err := n.jobs.Start(ctx, n.host, spec)
			requireKind(t, KindTransport, err, "")
			require.Empty(t, n.vaults())
		}
		n.wrap = nil
		_, err = n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, 0, n.finish(spec.ID).ExitCode)
		require.Equal(t, 1, n.count("ran"))
	})
}

func TestJob_Secrets_AreInMemoryForThePayloadOnly(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		secret := "s3cr3t \x00\xff$(reboot)\n'\""
		spec := n.payload("a", `cat "$URL" >'`+n.work("got")+`'; ls -ld "$URL" "${URL%/*}"; until [ -e '`+n.work("go")+`' ]; do sleep 0.02; done`)
		spec.Secrets = map[string][]byte{"URL": []byte(secret), "EMPTY": {}}
		var sent []string
		n.wrap = func(c *Command) error {
			sent = append(append(sent, c.Script), c.Args...)
			return nil
		}
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		n.wrap = nil
		waitUntil(t, "read", func() bool { b, _ := os.ReadFile(n.work("got")); return string(b) == secret })
		require.Len(t, n.vaults(), 1)
		require.NoError(t, n.jobs.Sweep(ctx, n.host, 0, 0))
		require.Len(t, n.vaults(), 1, "a sweep takes nothing from a job that runs")
		require.NotContains(t, strings.Join(sent, "\n"), "s3cr3t")
		require.NoError(t, filepath.WalkDir(n.state(), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				require.NotContains(t, string(b), "s3cr3t", path)
			}
			return err
		}))
		info, err := os.Stat(n.state())
		require.NoError(t, err)
		require.EqualValues(t, 0o700, info.Mode().Perm())
		require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
		require.Equal(t, JobExited, n.finish(spec.ID).State)
		waitUntil(t, "secrets removed", func() bool { return len(n.vaults()) == 0 })
		out, err := n.jobs.Output(ctx, n.host, spec.ID, 4096)
		require.NoError(t, err)
		require.Contains(t, string(out), "-rw-------")
		require.Contains(t, string(out), "drwx------")
	})
}

func TestJob_Sudo_RunsTheCommandWithItsVariables(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		n.tool("sudo", `for a; do printf '<%s>' "$a"; done; [ "$1" = -n ] || exit 1; shift; exec env "$@"`)
		spec := JobSpec{ID: testID("a"), Lease: testLease, Sudo: true, Argv: []string{"sh", "-c", `printf '%s|%s|%s' "$A" "$(cat "$S")" "$0"`, "it's"},
			Env: map[string]string{"A": "1 $x 'q'"}, Secrets: map[string][]byte{"S": []byte("hidden")}}
		_, err := n.jobs.Start(context.Background(), n.host, spec)
		require.NoError(t, err)
		require.Zero(t, n.finish(spec.ID).ExitCode)
		out, err := n.jobs.Output(context.Background(), n.host, spec.ID, 4096)
		require.NoError(t, err)
		require.Contains(t, string(out), "<-n><A=1 $x 'q'><S=")
		require.Contains(t, string(out), "1 $x 'q'|hidden|it's")
	})
}

func TestJob_Login_HasTheEnvironmentOfALogin(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		for _, shell := range []string{"/bin/bash", "/usr/bin/fish", ""} {
			n.env = []string{"SHELL=" + shell}
			require.NoError(t, os.WriteFile(filepath.Join(n.dir, "home/.profile"), []byte("FROM_PROFILE=yes A=profile\nexport FROM_PROFILE A\n"), 0o600))
			spec := JobSpec{ID: testID("a" + EncodeID(shell)), Lease: testLease, Login: true, Env: map[string]string{"A": "it's ours"},
				Argv: []string{"printenv", "FROM_PROFILE", "A"}}
			_, err := n.jobs.Start(context.Background(), n.host, spec)
			require.NoError(t, err)
			require.Zero(t, n.finish(spec.ID).ExitCode)
			out, err := n.jobs.Output(context.Background(), n.host, spec.ID, 4096)
			require.NoError(t, err)
			require.Contains(t, string(out), "yes\nit's ours\n")
		}
	})
}

func TestJob_ArgumentsOfAnyBytes_ArriveAsTheyAre(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		want := []string{"", "a b", "$(reboot)", "`x`", "it's", "\n", "*", "\xff\xfe", "-n", "é", "\\", "#"}
		for _, login := range []bool{false, true} {
			spec := JobSpec{ID: testID("a" + strconv.FormatBool(login)), Lease: testLease, Login: login, Argv: append([]string{"printf", "%s|"}, want...)}
			_, err := n.jobs.Start(context.Background(), n.host, spec)
			require.NoError(t, err)
			n.finish(spec.ID)
			out, err := n.jobs.Output(context.Background(), n.host, spec.ID, 4096)
			require.NoError(t, err)
			require.Equal(t, strings.Join(want, "|")+"|", string(out))
		}
	})
}

func TestStatus_NodeRebooted_IsInterruptedAndNotStartedAgain(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "sleep 60")
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		waitUntil(t, "runs", func() bool { return n.count("ran") == 1 })
		n.endProcesses()
		n.setBoot("boot-2")
		status, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, JobInterrupted, status.State)
		require.Equal(t, "boot-1", status.BootID)
		require.Equal(t, "boot-2", status.CurrentBootID)
		require.Equal(t, 1, n.count("ran"))
	})
}

// A machine that is out of files to open must not look like one that rebooted, after which a repair would follow.
func TestStatus_MarkCannotBeOpened_IsNotTakenForAReboot(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "until [ -e '"+n.work("go")+"' ]; do sleep 0.02; done")
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		waitUntil(t, "runs", func() bool { return n.count("ran") == 1 })
		mark := n.jobDir(spec.ID, "started")
		require.NoError(t, os.Rename(mark, mark+".aside"))
		require.NoError(t, syscall.Mknod(mark, syscall.S_IFSOCK|0o600, 0)) // which cannot be opened, not even by root
		status, err := n.jobs.Status(ctx, n.host, spec.ID)
		requireKind(t, KindExit, err, "")
		require.ErrorContains(t, err, "nobody knows whether it runs")
		require.NotEqual(t, JobInterrupted, status.State)
		require.NoError(t, os.Rename(mark+".aside", mark))
		status, err = n.jobs.Status(ctx, n.host, spec.ID)
		require.NoError(t, err)
		require.Equal(t, JobRunning, status.State)
		require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
		require.Equal(t, JobExited, n.finish(spec.ID).State)
	})
}

func TestStatus_WrapperKilled_IsRunningWhileThePayloadLivesThenLost(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "until [ -e '"+n.work("go")+"' ]; do sleep 0.02; done")
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		waitUntil(t, "runs", func() bool { return n.count("ran") == 1 })
		for _, pid := range n.processes() {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if bytes.Contains(line, []byte("/wrapper\x00run")) {
				require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			}
		}
		status, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, JobRunning, status.State)
		require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
		require.Equal(t, JobLost, n.finish(spec.ID).State)
		status, err = n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, JobLost, status.State)
		require.Equal(t, 1, n.count("ran"))
	})
}

func TestFollow_DaemonKeepsTheLock_EndsWithTheExitCode(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		spec := n.payload("a", "setsid sleep 300 & echo done; exit 4")
		_, err := n.jobs.Start(context.Background(), n.host, spec)
		require.NoError(t, err)
		status := n.finish(spec.ID)
		require.Equal(t, JobExited, status.State)
		require.Equal(t, 4, status.ExitCode)
		require.NotEmpty(t, n.processes(), "the daemon should live")
		running, err := n.jobs.Running(context.Background(), n.host)
		require.NoError(t, err)
		require.Empty(t, running)
		_, err = n.jobs.TakeLease(context.Background(), n.host, Lease{Token: testLease.Token + 1, Operation: "op-2"})
		require.NoError(t, err)
	})
}

func TestFollow_ManySessionsAndLostConnections_LoseAndRepeatNoByte(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		n.jobs.followSlice = 40 * time.Millisecond
		spec := n.payload("a", `i=0; while [ $i -lt 60 ]; do i=$((i+1)); printf 'line %s\r\377\0\n' $i; [ $((i%7)) -ne 0 ] || sleep 0.03; [ $i -ne 30 ] || until [ -e '`+n.work("go")+`' ]; do sleep 0.02; done; done; printf end`)
		var want bytes.Buffer
		for i := range 60 {
			fmt.Fprintf(&want, "line %d\r\xff\x00\n", i+1)
		}
		want.WriteString("end")
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		calls := 0
		n.wrap = func(c *Command) error {
			// Every other session dies after its first output.
			if calls++; calls == 5 {
				require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
			}
			if calls%2 == 0 {
				c.Script = strings.Replace(c.Script, "from=$((size))", "kill -9 0", 1)
			}
			return nil
		}
		var got bytes.Buffer
		for {
			status, err := n.jobs.Follow(ctx, n.host, spec.ID, int64(got.Len()), func(chunk []byte, offset int64) {
				require.EqualValues(t, got.Len(), offset)
				got.Write(chunk)
			})
			if IsKind(err, KindTransport) {
				continue
			}
			require.NoError(t, err)
			require.Equal(t, JobExited, status.State)
			break
		}
		require.Equal(t, want.String(), got.String())
		require.GreaterOrEqual(t, calls, 5)
		tail, err := n.jobs.Output(ctx, n.host, spec.ID, 5)
		require.NoError(t, err)
		require.Equal(t, "\x00\nend"[len("\x00\nend")-5:], string(tail))
	})
}

func TestFollow_LoginFilesPrint_OutputIsTheJobsAlone(t *testing.T) {
	n := newLocalNode(t, "dash")
	n.wrap = func(c *Command) error {
		c.Script = "printf 'Welcome to @katoflow\n%03000d' 7; printf 'noise' >&2\n" + c.Script
		return nil
	}
	spec := n.payload("a", "printf '@katoflow begin\nout'")
	_, err := n.jobs.Start(context.Background(), n.host, spec)
	require.NoError(t, err)
	var got bytes.Buffer
	_, err = n.jobs.Follow(context.Background(), n.host, spec.ID, 0, func(chunk []byte, offset int64) {
		require.EqualValues(t, got.Len(), offset)
		got.Write(chunk)
	})
	require.NoError(t, err)
	require.Equal(t, "@katoflow begin\nout", got.String())
	out, err := n.jobs.Output(context.Background(), n.host, spec.ID, 100)
	require.NoError(t, err)
	require.Equal(t, got.String(), string(out))
}

func TestAfterBegin_MarkInPieces_IsFound(t *testing.T) {
	text := "noise @katoflow beg\n" + beginMark + "data"
	for size := 1; size <= len(text); size++ {
		var got bytes.Buffer
		w := &afterBegin{to: &got}
		for i := 0; i < len(text); i += size {
			piece := text[i:min(i+size, len(text))]
			k, err := w.Write([]byte(piece))
			require.NoError(t, err)
			require.Equal(t, len(piece), k)
		}
		require.Equal(t, "data", got.String())
	}
}

func TestFollow_ContextEnds_ReturnsItsErrorAndLeavesTheJob(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		spec := n.payload("a", "echo x; sleep 60")
		_, err := n.jobs.Start(context.Background(), n.host, spec)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		_, err = n.jobs.Follow(ctx, n.host, spec.ID, 0, func([]byte, int64) { cancel() })
		require.ErrorIs(t, err, context.Canceled)
		status, err := n.jobs.Status(context.Background(), n.host, spec.ID)
		require.NoError(t, err)
		require.Equal(t, JobRunning, status.State)
	})
}

func TestFollow_JobEnds_IsNoticedBeforeTheNextPoll(t *testing.T) {
	n := newLocalNode(t, "dash")
	n.jobs.FollowPoll = 15 * time.Second
	spec := n.payload("a", "sleep 0.5")
	_, err := n.jobs.Start(context.Background(), n.host, spec)
	require.NoError(t, err)
	began := time.Now()
	require.Equal(t, JobExited, n.finish(spec.ID).State)
	require.Less(t, time.Since(began), 10*time.Second)
}

func TestStop_InterruptibleJob_EndsByTermOrKill(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		for step, want := range map[string]int{"sleep 60": 143, "trap '' TERM; while :; do sleep 0.1; done": 137, "trap 'exit 9' TERM; while :; do sleep 0.1; done": 9} {
			spec := n.payload(step, step)
			spec.Interruptible = true
			_, err := n.jobs.Start(ctx, n.host, spec)
			require.NoError(t, err)
			before := n.count("ran")
			waitUntil(t, "runs", func() bool { return n.count("ran") > 0 && n.count("ran") >= before })
			status, err := n.jobs.Stop(ctx, n.host, spec.ID, time.Second)
			require.NoError(t, err)
			require.Equal(t, JobExited, status.State)
			if want == 9 || want == 137 {
				// The signal may have come before the payload set its trap.
				require.Contains(t, []int{want, 143}, status.ExitCode, step)
			} else {
				require.Equal(t, want, status.ExitCode, step)
			}
			again, err := n.jobs.Stop(ctx, n.host, spec.ID, time.Second)
			require.NoError(t, err)
			require.Equal(t, status.ExitCode, again.ExitCode)
			require.False(t, again.NeverStarted)
		}
		waitUntil(t, "nothing is left of the payloads", func() bool { return len(n.processes()) == 0 })
	})
}

func TestStop_JobThatIsNotInterruptible_GoesOn(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		spec := n.payload("a", "until [ -e '"+n.work("go")+"' ]; do sleep 0.02; done")
		_, err := n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		_, err = n.jobs.Stop(ctx, n.host, spec.ID, 0)
		require.ErrorContains(t, err, "not interruptible")
		require.NoError(t, os.WriteFile(n.work("go"), nil, 0o600))
		status := n.finish(spec.ID)
		require.Equal(t, JobExited, status.State)
		require.Zero(t, status.ExitCode)
	})
}

func TestStop_JobNeverStarted_CanNeverBeStarted(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		unknown, prepared := n.payload("unknown", "true"), n.payload("prepared", "true")
		// One that was prepared and died before its commit.
		n.dieAt(deathPoint{script: "wrapper.sh", kind: "group"}, n.work("flag"))
		_, err := n.jobs.Start(ctx, n.host, prepared)
		requireKind(t, KindTransport, err, "")
		n.jobs.edit = nil
		for _, spec := range []JobSpec{unknown, prepared} {
			status, err := n.jobs.Stop(ctx, n.host, spec.ID, 0)
			require.NoError(t, err)
			require.Equal(t, JobExited, status.State)
			require.Equal(t, 143, status.ExitCode)
			require.True(t, status.NeverStarted)
			status, err = n.jobs.Start(ctx, n.host, spec)
			require.NoError(t, err)
			require.Equal(t, JobExited, status.State)
			require.Equal(t, 143, status.ExitCode)
			require.True(t, status.NeverStarted)
		}
		// Whoever holds the lease.
		_, err = n.jobs.TakeLease(ctx, n.host, Lease{Token: testLease.Token + 1, Operation: "op-newer"})
		require.NoError(t, err)
		status, err := n.jobs.Stop(ctx, n.host, n.payload("superseded", "true").ID, 0)
		require.NoError(t, err)
		require.True(t, status.NeverStarted)
		require.Zero(t, n.count("ran"))
	})
}

func TestSweep_EndedJobs_LeaveTombstonesThatAreNeverStarted(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		ended, running := n.payload("ended", "echo out; exit 2"), n.payload("running", "sleep 60")
		for _, spec := range []JobSpec{ended, running} {
			_, err := n.jobs.Start(ctx, n.host, spec)
			require.NoError(t, err)
		}
		was := n.finish(ended.ID)
		require.NoError(t, n.jobs.Sweep(ctx, n.host, time.Hour, 2*time.Hour))
		same, err := n.jobs.Status(ctx, n.host, ended.ID)
		require.NoError(t, err)
		require.Equal(t, was, same)

		require.NoError(t, n.jobs.Sweep(ctx, n.host, 0, time.Hour))
		status, err := n.jobs.Start(ctx, n.host, ended)
		require.NoError(t, err)
		require.True(t, status.Swept)
		was.Swept, was.OutputSize = true, 0
		require.Equal(t, was, status)
		out, err := n.jobs.Output(ctx, n.host, ended.ID, 100)
		require.NoError(t, err)
		require.Empty(t, out)
		_, err = os.Stat(n.jobDir(ended.ID, "script"))
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.Equal(t, JobExited, n.finish(ended.ID).State)

		require.NoError(t, n.jobs.Sweep(ctx, n.host, 0, 0))
		status, err = n.jobs.Status(ctx, n.host, ended.ID)
		require.NoError(t, err)
		require.Equal(t, was, status, "its operation holds the lease and may ask again")
		require.NoError(t, os.WriteFile(n.state("lease"), []byte("200 op--2\n"), 0o600))
		require.NoError(t, n.jobs.Sweep(ctx, n.host, 0, 0))
		status, err = n.jobs.Status(ctx, n.host, ended.ID)
		require.NoError(t, err)
		require.Equal(t, JobAbsent, status.State)
		status, err = n.jobs.Status(ctx, n.host, running.ID)
		require.NoError(t, err)
		require.Equal(t, JobRunning, status.State)
		require.False(t, status.Swept)
	})
}

func TestSweep_WhatAKillLeft_GoesAfterAnHour(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		_, err := n.jobs.TakeLease(ctx, n.host, testLease)
		require.NoError(t, err)
		vault := filepath.Join(n.dir, "root/dev/shm")
		old := time.Now().Add(-2 * time.Hour)
		for _, path := range []string{n.state("tmp/young"), n.state("tmp/old"), filepath.Join(vault, "katoflow-secret-a-zb-zc-z1.young"), filepath.Join(vault, "katoflow-secret-a-zb-zc-z1.old"), filepath.Join(vault, "stranger")} {
			require.NoError(t, os.Mkdir(path, 0o700))
			if !strings.HasSuffix(path, "young") {
				require.NoError(t, os.Chtimes(path, old, old))
			}
		}
		require.NoError(t, n.jobs.Sweep(ctx, n.host, time.Hour, time.Hour))
		left, err := os.ReadDir(n.state("tmp"))
		require.NoError(t, err)
		require.Len(t, left, 1)
		require.Equal(t, "young", left[0].Name())
		require.Len(t, n.vaults(), 2)
	})
}

func TestState_InstallersFolder_IsUsedUnlessTheOtherIsInUse(t *testing.T) {
	eachShell(t, func(t *testing.T, n *localNode) {
		ctx := context.Background()
		user := "katoflow-test"
		n.tool("id", `if [ "$1" = -un ]; then echo `+user+`; else exec /usr/bin/id "$@"; fi`)
		installed := filepath.Join(n.dir, "root/var/lib/katoflow", user)
		_, err := n.jobs.TakeLease(ctx, n.host, testLease)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(installed, 0o700))
		_, err = n.jobs.TakeLease(ctx, n.host, testLease)
		require.NoError(t, err)
		left, err := os.ReadDir(installed)
		require.NoError(t, err)
		require.Empty(t, left, "the folder in use is kept")
		require.NoError(t, os.RemoveAll(n.state()))
		spec := n.payload("a", "true")
		_, err = n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
		require.Equal(t, JobExited, n.finish(spec.ID).State)
		require.DirExists(t, filepath.Join(installed, "jobs", spec.ID.Dir()))
		require.NoDirExists(t, n.state())
	})
}

func TestStart_SpecThatCannotBeRun_TouchesNoNode(t *testing.T) {
	n := newLocalNode(t, "dash")
	n.wrap = func(*Command) error { t.Error("the node was touched"); return nil }
	for name, change := range map[string]func(*JobSpec){
		"no command":       func(s *JobSpec) { s.Argv = nil },
		"empty command":    func(s *JobSpec) { s.Argv = []string{""} },
		"NUL":              func(s *JobSpec) { s.Argv = []string{"a", "b\x00"} },
		"option":           func(s *JobSpec) { s.Argv = []string{"-u", "x"} },
		"variable":         func(s *JobSpec) { s.Argv = []string{"A=b", "x"} },
		"sudo and login":   func(s *JobSpec) { s.Sudo, s.Login = true, true },
		"variable's name":  func(s *JobSpec) { s.Env = map[string]string{"A;reboot": "x"} },
		"variable's value": func(s *JobSpec) { s.Env = map[string]string{"A": "\x00"} },
		"secret's name":    func(s *JobSpec) { s.Secrets = map[string][]byte{"../x": nil} },
		"both":             func(s *JobSpec) { s.Env, s.Secrets = map[string]string{"A": ""}, map[string][]byte{"A": nil} },
		"no operation":     func(s *JobSpec) { s.ID.Operation = "" },
		"long step":        func(s *JobSpec) { s.ID.Step = strings.Repeat("x", 600) },
		"negative try":     func(s *JobSpec) { s.ID.Try = -1 },
		"no token":         func(s *JobSpec) { s.Lease.Token = 0 },
		"another's lease":  func(s *JobSpec) { s.Lease.Operation = "op-2" },
		"lease of nobody":  func(s *JobSpec) { s.Lease.Operation = "" },
	} {
		spec := n.payload("a", "true")
		change(&spec)
		_, err := n.jobs.Start(context.Background(), n.host, spec)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "\x00")
	}
}

func TestStart_LongIdentity_HasABoundedName(t *testing.T) {
	n := newLocalNode(t, "dash")
	spec := n.payload(strings.Repeat("Ä/", 160), "true")
	_, err := n.jobs.Start(context.Background(), n.host, spec)
	require.NoError(t, err)
	require.Equal(t, spec.ID, n.finish(spec.ID).ID)
	all, err := n.jobs.List(context.Background(), n.host)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, spec.ID, all[0].ID)
}

func BenchmarkJob_True_StartAndFollow(b *testing.B) {
	for _, shell := range shellsToTry(b) {
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
