package remote

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/share"
)

// localNode runs scripts on this machine as if it were a node: with one shell as every `sh`, its own home and system folders, and a boot
// id that a test can change.
type localNode struct {
	t     testing.TB
	shell string
	dir   string
	bin   string
	path  string
	env   []string
	jobs  *Jobs
	host  Host
	// wrap changes a command before it runs, and may refuse it.
	wrap func(c *Command) error
}

// shellsToTry are the shells under which the scripts must work: all, or the one whose turn it is where a share is tried (package share). Nodes have one of the first two as /bin/sh.
func shellsToTry(t testing.TB) (out []string) {
	t.Helper()
	part, err := share.Parse(os.Getenv(share.Variable))
	require.NoError(t, err)
	for i, shell := range []string{"dash", "bash", "busybox"} {
		if part.HasTurn(i, 3) {
			out = append(out, shell)
		}
	}
	return out
}

func eachShell(t *testing.T, f func(t *testing.T, n *localNode)) {
	for _, shell := range shellsToTry(t) {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			f(t, newLocalNode(t, shell))
		})
	}
}

func newLocalNode(t testing.TB, shell string) *localNode {
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Skipf("%s is not installed here (apt-get install %s)", shell, shell)
	}
	for _, tool := range []string{"flock", "setsid"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed here: the node scripts need util-linux", tool)
		}
	}
	dir := t.TempDir()
	n := &localNode{t: t, shell: shell, dir: dir, bin: filepath.Join(dir, "bin"), host: Host{Name: "n1"}}
	for _, d := range []string{"bin", "home", "root/dev/shm", "work"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	// bash called sh is in POSIX mode.
	require.NoError(t, os.Symlink(path, filepath.Join(n.bin, "sh")))
	n.path = n.bin + ":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
	n.setBoot("boot-1")
	n.jobs = &Jobs{Runner: n, FollowPoll: 20 * time.Millisecond, bootIDPath: filepath.Join(dir, "boot_id"), rootPrefix: filepath.Join(dir, "root")}
	t.Cleanup(n.endProcesses)
	return n
}

func (n *localNode) setBoot(id string) {
	require.NoError(n.t, os.WriteFile(filepath.Join(n.dir, "boot_id"), []byte(id+"\n"), 0o600))
}

func (n *localNode) state(elem ...string) string {
	return filepath.Join(append([]string{n.dir, "home/.local/state/katoflow"}, elem...)...)
}

func (n *localNode) jobDir(id JobID, elem ...string) string {
	return n.state(append([]string{"jobs", id.Dir()}, elem...)...)
}

// work is a file of the payload's.
func (n *localNode) work(name string) string { return filepath.Join(n.dir, "work", name) }

// Run is Pool.Run without a network. A script runs in a process group of its own, which ends with it unless it called setsid.
func (n *localNode) Run(ctx context.Context, h Host, c Command) (Result, error) {
	if n.wrap != nil {
		if err := n.wrap(&c); err != nil {
			return Result{}, err
		}
	}
	args := append([]string{"-c", c.Script, "sh"}, c.Args...)
	cmd := exec.CommandContext(ctx, filepath.Join(n.bin, "sh"), args...)
	cmd.Env = append([]string{"HOME=" + filepath.Join(n.dir, "home"), "PATH=" + n.path, "SHELL=/bin/sh", "KATOFLOW_TEST=" + n.dir}, n.env...)
	cmd.Dir = filepath.Join(n.dir, "home")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.Stdin != nil {
		cmd.Stdin = c.Stdin
	}
	err := cmd.Run()
	result := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		return result, ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, syscall.EPIPE) {
		return result, err
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		// The connection died with the script.
		return result, transportError(h.Name, nil, "connection lost")
	}
	return result, nil
}

// processes of this node, found by their environment.
func (n *localNode) processes() []int {
	var pids []int
	entries, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, entry := range entries {
		b, err := os.ReadFile(entry)
		if err == nil && bytes.Contains(b, []byte("KATOFLOW_TEST="+n.dir+"\x00")) {
			pid := 0
			for _, c := range strings.Split(entry, "/")[2] {
				pid = pid*10 + int(c-'0')
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// endProcesses is what a power cut does to them.
func (n *localNode) endProcesses() {
	// One that is just being executed shows no environment, and is not seen for that moment.
	none := 0
	waitUntil(n.t, "all processes ended", func() bool {
		pids := n.processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if none++; len(pids) > 0 {
			none = 0
		}
		return none >= 5
	})
}

func waitUntil(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		pause := time.NewTimer(5 * time.Millisecond)
		<-pause.C
	}
}

// count of the lines in a file of the payload's: how often it ran.
func (n *localNode) count(name string) int {
	b, err := os.ReadFile(n.work(name))
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte("\n"))
}

var testLease = Lease{Token: 1_700_000_000_000_000_001, Operation: "op-1"}

func testID(step string) JobID { return JobID{Operation: "op-1", Node: "n1", Step: step, Try: 1} }

// payload is a job that appends a line to the file "ran" and then runs script.
func (n *localNode) payload(step, script string) JobSpec {
	return JobSpec{ID: testID(step), Lease: testLease, Argv: []string{"sh", "-c", "echo ran >>'" + n.work("ran") + "'; " + script}}
}

// finish follows the job to its end.
func (n *localNode) finish(id JobID) JobStatus {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	status, err := n.jobs.Follow(ctx, n.host, id, 0, nil)
	require.NoError(n.t, err)
	return status
}
