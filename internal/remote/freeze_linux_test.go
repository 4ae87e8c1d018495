package remote

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// kernelNode is this machine as a node behind a real sshd, in a mount namespace of its own: /run is in memory there, the program is where it is installed on nodes, a and b are
// file systems on images, and inner is ext4 on an image that lies on a. The namespace goes with its last process, which ends with the test however that ends, and the processes of a freeze keep it until
// they have thawed.
type kernelNode struct {
	t         *testing.T
	kind      string
	sshd      *openSSHD
	holder    int
	host      Host
	freezer   *Freezer
	a, b      string
	images    map[string]string
	inner     string
	namespace string
}

const kernelNodeSetup = `set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /usr/local/sbin
cp "$1/katoflow-freeze" /usr/local/sbin/katoflow-freeze
chmod 755 /usr/local/sbin/katoflow-freeze
for name in a b; do
	mkdir "$1/$name"
	case $2 in
	ext4) truncate -s 24M "$1/$name.img" && mke2fs -q -t ext4 -F "$1/$name.img" ;;
	xfs) truncate -s 300M "$1/$name.img" && mkfs.xfs -q -f "$1/$name.img" ;;
	esac
	mount -o loop "$1/$name.img" "$1/$name"
done
mkdir "$1/inner"
truncate -s 8M "$1/a/inner.img"
mke2fs -q -t ext4 -F "$1/a/inner.img"
mount -o loop "$1/a/inner.img" "$1/inner"
echo ready
exec cat
`

func newKernelNode(t *testing.T) *kernelNode {
	t.Helper()
	return newKernelNodeOf(t, "ext4")
}

// newKernelNodeOf has a and b of that kind.
func newKernelNodeOf(t *testing.T, kind string) *kernelNode {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount and freeze")
	}
	tools := map[string]string{"unshare": "util-linux", "nsenter": "util-linux", "fsfreeze": "util-linux", "mount": "mount", "mke2fs": "e2fsprogs", "dumpe2fs": "e2fsprogs"}
	if kind == "xfs" {
		tools["mkfs.xfs"] = "xfsprogs"
	}
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (Debian: %s)", tool, pkg)
		}
	}
	findSSHD(t)
	dir := t.TempDir()
	n := &kernelNode{t: t, kind: kind, a: filepath.Join(dir, "a"), b: filepath.Join(dir, "b"), inner: filepath.Join(dir, "inner")}
	n.images = map[string]string{n.a: n.a + ".img", n.b: n.b + ".img"}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "katoflow-freeze"), []byte(deployed(t, "node/katoflow-freeze")), 0o755))

	holder := exec.Command("unshare", "--mount", "sh", "-c", kernelNodeSetup, "sh", dir, kind)
	in, err := holder.StdinPipe() // ends with this process, whatever ends it
	require.NoError(t, err)
	out, err := holder.StdoutPipe()
	require.NoError(t, err)
	var said strings.Builder
	holder.Stderr = &said
	require.NoError(t, holder.Start())
	n.holder = holder.Process.Pid
	ended := false
	t.Cleanup(func() {
		if !ended {
			n.clear()
		}
		_ = in.Close()
		_ = holder.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		ended = true
		_ = in.Close()
		_ = holder.Wait()
		t.Skipf("no file system can be mounted here: %s", said.String())
	}
	n.namespace, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", n.holder))
	require.NoError(t, err)
	own, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	require.NotEqual(t, own, n.namespace)

	n.sshd = newOpenSSHD(t, fmt.Sprintf(`ForceCommand exec nsenter --mount=/proc/%d/ns/mnt sh -c "$SSH_ORIGINAL_COMMAND"`, n.holder))
	n.host = n.sshd.hostEntry()
	n.freezer = &Freezer{Runner: newTestPool(t, Options{}), command: []string{freezeProgram}}
	return n
}

// enter is a command in the node's namespace.
func (n *kernelNode) enter(argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", n.holder)}, argv...)...)
}

// clear thaws and unmounts what a failed test has left behind.
func (n *kernelNode) clear() {
	for _, mount := range []string{n.a, n.b, n.inner} {
		_ = n.enter("fsfreeze", "-u", mount).Run()
	}
	for _, pid := range n.processes() {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
	for _, mount := range []string{n.inner, n.b, n.a} {
		freezeWait(n.t, mount+" is unmounted", func() bool {
			return n.enter("fsfreeze", "-u", mount).Run() != nil && n.enter("umount", mount).Run() == nil
		})
	}
}

// processes in the node's namespace but the one that holds it.
func (n *kernelNode) processes() []int {
	var pids []int
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		pid, _ := strconv.Atoi(filepath.Base(entry))
		if space, err := os.Readlink(entry + "/ns/mnt"); err == nil && space == n.namespace && pid != n.holder {
			pids = append(pids, pid)
		}
	}
	return pids
}

// frozen says what the kernel has written into the image: a frozen ext4 needs no recovery, one that is mounted does. An xfs always does; a write to it waits.
func (n *kernelNode) frozen(mount string) bool {
	n.t.Helper()
	if n.kind == "xfs" {
		return n.enter("timeout", "-s", "KILL", "2", "touch", filepath.Join(mount, "probe")).Run() != nil
	}
	out, err := exec.Command("dumpe2fs", "-h", n.images[mount]).CombinedOutput()
	require.NoError(n.t, err, "%s", out)
	require.Contains(n.t, string(out), "has_journal")
	return !strings.Contains(string(out), "needs_recovery")
}

// write starts a process that writes to the mount, and returns it with whether it waits in the kernel.
func (n *kernelNode) write(mount string) (done <-chan error, waits func() bool) {
	cmd := n.enter("sh", "-c", `exec dd if=/dev/zero of="$1/written" bs=4096 count=1 conv=fsync 2>/dev/null`, "sh", mount)
	require.NoError(n.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(rest, "D") && commandLine(cmd.Process.Pid)[0] == "dd"
	}
}

func (n *kernelNode) freeze(ctx context.Context, id string, deadline time.Duration, mounts ...string) *Freeze {
	n.t.Helper()
	f, err := n.freezer.Freeze(ctx, n.host, FreezeSpec{ID: id, Mounts: mounts, Deadline: deadline})
	require.NoError(n.t, err)
	for _, mount := range mounts {
		require.True(n.t, n.frozen(mount), mount)
	}
	return f
}

// thawed waits until nothing is frozen and no process is left, and returns what the node has of the freeze.
func (n *kernelNode) thawed(id string) FreezeStatus {
	n.t.Helper()
	var state FreezeStatus
	freezeWait(n.t, "the node says that it has ended", func() bool {
		var err error
		state, err = n.freezer.FreezeState(testContext(n.t), n.host, id)
		return err == nil && !state.Alive
	})
	require.True(n.t, state.Found && state.Ended, "%+v", state)
	require.Empty(n.t, state.Mounts)
	n.quiet()
	return state
}

func (n *kernelNode) quiet() {
	n.t.Helper()
	freezeWait(n.t, "everything is thawed", func() bool { return !n.frozen(n.a) && !n.frozen(n.b) })
	defer func() {
		if n.t.Failed() {
			for _, pid := range n.processes() {
				n.t.Log(pid, strings.Join(commandLine(pid), " "))
			}
		}
	}()
	freezeWait(n.t, "no process is left", func() bool { return len(n.processes()) == 0 })
}

func gone(f *Freeze) func() bool {
	return func() bool {
		select {
		case <-f.Gone():
			return true
		default:
			return false
		}
	}
}

func TestOpenSSHFreeze_Thaw_WritersWaitFromTheFirstToTheSecond(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) { writersWait(t, newKernelNodeOf(t, kind)) })
	}
}

func writersWait(t *testing.T, n *kernelNode) {
	problems, err := n.freezer.CheckFreeze(testContext(t), n.host, []string{n.a, n.b})
	require.NoError(t, err)
	require.Empty(t, problems)
	require.False(t, n.frozen(n.a) || n.frozen(n.b))
	f := n.freeze(t.Context(), "op/1", 2*time.Minute, n.a, n.b)
	var writers []<-chan error
	for _, mount := range []string{n.a, n.b} {
		done, waits := n.write(mount)
		freezeWait(t, "the writer waits", waits)
		writers = append(writers, done)
	}
	require.True(t, n.frozen(n.a) && n.frozen(n.b))
	_, err = n.freezer.Freeze(t.Context(), n.host, FreezeSpec{ID: "op/2", Mounts: []string{n.a}, Deadline: time.Minute})
	require.True(t, IsKind(err, KindBusy), "%v", err)
	require.ErrorContains(t, err, "op/1")
	end, err := f.Thaw(testContext(t))
	require.NoError(t, err)
	require.Equal(t, FreezeThawed, end.By)
	require.True(t, end.ThawedAt.After(f.FrozenAt))
	for _, done := range writers {
		require.NoError(t, <-done)
	}
	require.Equal(t, end, n.thawed("op/1").FreezeEnd)
}

func TestOpenSSHFreeze_ContextEnds_IsThawed(t *testing.T) {
	n := newKernelNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	f := n.freeze(ctx, "op/1", 2*time.Minute, n.a, n.b)
	cancel()
	freezeWait(t, "it is gone", gone(f))
	require.Equal(t, FreezeGone, n.thawed("op/1").By)
}

func TestOpenSSHFreeze_SessionKilled_IsThawed(t *testing.T) {
	n := newKernelNode(t)
	f := n.freeze(t.Context(), "op/1", 2*time.Minute, n.a, n.b)
	n.sshd.killAll()
	freezeWait(t, "it is gone", gone(f))
	_, err := f.Thaw(testContext(t))
	require.True(t, IsKind(err, KindTransport), "%v", err)
	require.Equal(t, FreezeGone, n.thawed("op/1").By)
}

func TestOpenSSHFreeze_ProcessKilled_TheOtherThaws(t *testing.T) {
	n := newKernelNode(t)
	for _, victim := range []string{"guard", "guard's lock", "main", "main's lock", "main's forks"} {
		f := n.freeze(t.Context(), victim, 2*time.Minute, n.a, n.b)
		killFreeze(t, n.processes(), victim)
		freezeWait(t, "it is gone", gone(f))
		requireKilled(t, victim, n.thawed(victim).By)
	}
}

func TestOpenSSHFreeze_StateRemoved_IsThawed(t *testing.T) {
	n := newKernelNode(t)
	for _, then := range []string{"thaw", "guard", "main"} {
		f := n.freeze(t.Context(), then, 2*time.Minute, n.a, n.b)
		waitForWatch(t, n.processes)
		require.NoError(t, n.enter("rm", "-r", freezeStates).Run())
		if then == "thaw" {
			end, err := f.Thaw(testContext(t))
			require.NoError(t, err)
			require.Equal(t, FreezeThawed, end.By)
		} else {
			killFreeze(t, n.processes(), then)
			freezeWait(t, "it is gone", gone(f))
		}
		n.quiet()
	}
}

func TestOpenSSHFreeze_DeadlinePasses_IsThawed(t *testing.T) {
	n := newKernelNode(t)
	f := n.freeze(t.Context(), "op/1", 15*time.Second, n.a, n.b)
	freezeWait(t, "it is gone", gone(f))
	end, err := f.Thaw(testContext(t))
	require.NoError(t, err)
	require.Equal(t, FreezeDeadline, end.By)
	require.Equal(t, end, n.thawed("op/1").FreezeEnd)
}

func TestOpenSSHFreeze_FrozenBySomebodyElse_StaysSo(t *testing.T) {
	n := newKernelNode(t)
	require.NoError(t, n.enter("fsfreeze", "-f", n.b).Run())
	_, err := n.freezer.Freeze(t.Context(), n.host, FreezeSpec{ID: "op/1", Mounts: []string{n.a, n.b}, Deadline: time.Minute})
	require.True(t, IsKind(err, KindExit), "%v", err)
	require.ErrorContains(t, err, "cannot freeze "+n.b+", everything is thawed again")
	require.False(t, n.frozen(n.a))
	require.True(t, n.frozen(n.b))
	require.NoError(t, n.enter("fsfreeze", "-u", n.b).Run())
	require.Equal(t, FreezeFailed, n.thawed("op/1").By)
}

// The second file system lies on the first: its freeze waits in the kernel for the first one's thaw.
func TestOpenSSHFreeze_HangsInTheKernel_IsThawedLater(t *testing.T) {
	n := newKernelNode(t)
	_, err := n.freezer.Freeze(t.Context(), n.host, FreezeSpec{ID: "op/1", Mounts: []string{n.a, n.inner}, Deadline: 20 * time.Second})
	require.True(t, IsKind(err, KindExit), "%v", err)
	require.ErrorContains(t, err, n.inner+" takes too long")
	state := n.thawed("op/1")
	require.Equal(t, FreezeFailed, state.By)
	require.Error(t, n.enter("fsfreeze", "-u", n.inner).Run()) // the kernel: it is not frozen
}
