package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// deployed is the text of a file of deploy/, which an administrator installs on nodes.
func deployed(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", filepath.FromSlash(name)))
	require.NoError(t, err)
	return string(text)
}

func TestFreezeProgram_Text_IsInTheSubsetAndOfTheVersion(t *testing.T) {
	// No node script ignores signals, but what a session's end must not stop does.
	const ignores = "\ttrap '' HUP INT TERM PIPE\n"
	// No simulated node runs it, so that it may lock what is open.
	const locks = `flock -w "$spare" 0 `
	text := deployed(t, "node/katoflow-freeze")
	for part, with := range map[string]string{ignores: "", locks: "true "} {
		require.Equal(t, 1, strings.Count(text, part))
		text = strings.Replace(text, part, with, 1)
	}
	require.Empty(t, lint("katoflow-freeze", text))
	require.Contains(t, deployed(t, "node/katoflow-freeze"), "\nversion="+freezeVersion+"\n")
	require.Contains(t, deployed(t, "sudoers/katoflow-freeze"), freezeProgram)
	require.NotContains(t, deployed(t, "node/katoflow-freeze"), " -E", "flock of util-linux 2.20 has no such option")
}

// freezeStub takes the place of fsfreeze: /srv is frozen while the folder frozen/srv is there. The file hang/srv holds a freeze in "the kernel", where no signal
// ends it, refuse/srv refuses it, stuck/srv fails a thaw, slow/srv holds one.
const freezeStub = `#!/bin/sh
trap '' HUP INT TERM
cd DIR || exit 1
printf '%s\n' "$*" >>calls
case $1 in
-f)
	[ ! -e refuse$2 ] || { echo "fsfreeze: $2: freeze failed: Operation not supported" >&2; exit 1; }
	while [ -e hang$2 ]; do
		: >hanging$2
		sleep 0.05
	done
	mkdir frozen$2 2>/dev/null || { echo "fsfreeze: $2: freeze failed: Device or resource busy" >&2; exit 1; }
	;;
-u)
	while [ -e slow$2 ]; do
		: >slowing$2
		sleep 0.05
	done
	[ ! -e stuck$2 ] || { echo "fsfreeze: $2: unfreeze failed: Input/output error" >&2; exit 1; }
	rmdir frozen$2 2>/dev/null || { echo "fsfreeze: $2: unfreeze failed: Invalid argument" >&2; exit 1; }
	;;
esac
`

const freezeTable = `1 0 8:1 / / rw - ext4 /dev/a rw
2 1 0:5 / DIR/run rw - tmpfs tmpfs rw
3 1 8:2 / /srv rw,noatime shared:3 - ext4 /dev/b rw
4 1 8:3 / /data rw shared:4 master:1 - xfs /dev/c rw
5 1 8:2 / /again rw - ext4 /dev/b rw
6 1 0:6 / /dev rw - tmpfs dev rw
7 1 0:7 / /proc rw - proc proc rw
8 1 0:8 / /memory rw - tmpfs tmpfs rw
`

// freezeNode is this machine as a node with katoflow-freeze, under one shell, with stubs in the place of fsfreeze, sync and the system's tables.
type freezeNode struct {
	*localNode
	program string
	freezer *Freezer
}

func newFreezeNode(t *testing.T, shell string, edits ...string) *freezeNode {
	n := &freezeNode{localNode: newLocalNode(t, shell)}
	n.freezer = &Freezer{Runner: n, states: n.file("run/katoflow-freeze")}
	write := func(name, text string) string {
		require.NoError(t, os.WriteFile(n.file(name), []byte(strings.ReplaceAll(text, "DIR", n.dir)), 0o755))
		return n.file(name)
	}
	for _, folder := range []string{"run", "frozen", "hang", "hanging", "refuse", "stuck", "slow", "slowing"} {
		require.NoError(t, os.Mkdir(n.file(folder), 0o755))
	}
	write("bin/fsfreeze", freezeStub)
	write("bin/sync", "#!/bin/sh\nexit 0\n")
	write("mountinfo", freezeTable)
	text := deployed(t, "node/katoflow-freeze")
	for old, to := range map[string]string{"\nPATH=": "\nPATH=" + n.bin + ":", "\nroot=/run/": "\nroot=" + n.dir + "/run/", "\ntable=/proc/self/mountinfo\n": "\ntable=" + n.file("mountinfo") + "\n"} {
		require.Equal(t, 1, strings.Count(text, old))
		text = strings.Replace(text, old, to, 1)
	}
	for i := 0; i < len(edits); i += 2 {
		require.Equal(t, 1, strings.Count(text, edits[i]))
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	n.program = write("katoflow-freeze", text)
	n.freezer.command = []string{filepath.Join(n.bin, "sh"), n.program}
	return n
}

func (n *freezeNode) file(name string) string { return filepath.Join(n.dir, name) }

func (n *freezeNode) set(name string) { require.NoError(n.t, os.WriteFile(n.file(name), nil, 0o644)) }

func (n *freezeNode) unset(name string) { require.NoError(n.t, os.Remove(n.file(name))) }

func (n *freezeNode) exists(name string) bool {
	_, err := os.Stat(n.file(name))
	return err == nil
}

// Run is Pool.Run without a network: it waits neither for a reader of standard input nor for ever for who holds standard output.
func (n *freezeNode) Run(ctx context.Context, h Host, c Command) (Result, error) {
	argv := c.Argv
	if len(argv) == 0 {
		argv = append([]string{filepath.Join(n.bin, "sh"), "-c", c.Script, "sh"}, c.Args...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + n.path, "KATOFLOW_TEST=" + n.dir}
	cmd.WaitDelay = 3 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return Result{}, err
	}
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	go func() {
		if c.Stdin != nil {
			_, _ = io.Copy(in, c.Stdin)
		}
		_ = in.Close()
	}()
	err = cmd.Wait()
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	if cmd.ProcessState == nil {
		return Result{}, err
	}
	return Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: cmd.ProcessState.ExitCode()}, nil
}

// freeze freezes the mounts under the id "a".
func (n *freezeNode) freeze(ctx context.Context, deadline time.Duration, mounts ...string) (*Freeze, error) {
	return n.freezer.Freeze(ctx, n.host, FreezeSpec{ID: "a", Mounts: mounts, Deadline: deadline})
}

func (n *freezeNode) frozen() []string {
	entries, err := os.ReadDir(n.file("frozen"))
	require.NoError(n.t, err)
	var out []string
	for _, e := range entries {
		out = append(out, "/"+e.Name())
	}
	return out
}

func (n *freezeNode) status(id string) FreezeStatus {
	n.t.Helper()
	s, err := n.freezer.FreezeState(context.Background(), n.host, id)
	require.NoError(n.t, err)
	return s
}

// thawedAndQuiet waits until nothing is frozen and no process is left.
func (n *freezeNode) thawedAndQuiet() {
	n.t.Helper()
	defer func() {
		if n.t.Failed() {
			for _, pid := range n.processes() {
				n.t.Log(pid, strings.Join(commandLine(pid), " "))
			}
			state, _ := os.ReadFile(n.file("run/katoflow-freeze/a/state"))
			calls, _ := os.ReadFile(n.file("calls"))
			n.t.Logf("frozen: %s\nstate:\n%s\ncalls:\n%s", n.frozen(), state, calls)
		}
	}()
	freezeWait(n.t, "everything is thawed", func() bool { return len(n.frozen()) == 0 })
	quiet := 0 // a process that is just being executed has no environment to be seen by
	freezeWait(n.t, "no process is left", func() bool {
		if quiet++; len(n.processes()) > 0 {
			quiet = 0
		}
		return quiet >= 5
	})
}

// freezeWait polls for a minute: on a busy machine all takes its time.
func freezeWait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func commandLine(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

func parentOf(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(b, []byte(") "))
	fields := strings.Fields(string(rest))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// freezeProcesses are those of pids that run the program in a mode: the process itself and its forks, or the lock's holder that has started it.
func freezeProcesses(pids []int, mode string) (own, forks, lock []int) {
	for _, pid := range pids {
		argv := commandLine(pid)
		i := slices.IndexFunc(argv, func(arg string) bool { return strings.HasSuffix(arg, "/katoflow-freeze") })
		switch {
		case i < 0 || i+1 >= len(argv) || argv[i+1] != mode:
		case argv[0] == "flock":
			if len(argv) > 3 && argv[3] == "-o" { // the outer one, which holds the node's lock, names the inner one
				lock = append(lock, pid)
			}
		case commandLine(parentOf(pid))[0] == "flock":
			own = append(own, pid)
		default:
			forks = append(forks, pid)
		}
	}
	return own, forks, lock
}

// killFreeze ends processes of the program as nothing can refuse. Which: "main", "guard", each alone, with "'s lock" what holds its lock, with "'s forks" all its processes.
func killFreeze(t *testing.T, pids []int, which string) {
	t.Helper()
	role, part, _ := strings.Cut(which, "'s ")
	mode := map[string]string{"main": "run", "guard": "guard"}[role]
	own, forks, lock := freezeProcesses(pids, mode)
	victims := map[string][]int{"": own, "lock": lock, "forks": append(slices.Clone(own), forks...)}[part]
	require.NotEmpty(t, victims, which)
	for _, pid := range victims {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// waitForWatch waits until the main process watches the guard.
func waitForWatch(t *testing.T, processes func() []int) {
	t.Helper()
	freezeWait(t, "the guard is watched", func() bool {
		return slices.ContainsFunc(processes(), func(pid int) bool {
			argv := commandLine(pid)
			return argv[0] == "flock" && argv[len(argv)-1] == "true" && strings.HasSuffix(argv[len(argv)-2], "/guard")
		})
	})
}

// requireKilled: with the main process its session ends too, and either can be seen first.
func requireKilled(t *testing.T, victim string, by FreezeEndBy) {
	t.Helper()
	if !strings.HasPrefix(victim, "main") || by != FreezeGone {
		require.Equal(t, FreezeKilled, by, victim)
	}
}

// eachFreezeShell runs f with every shell side by side.
func eachFreezeShell(t *testing.T, f func(t *testing.T, shell string)) {
	for _, shell := range shellsToTry(t) {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			f(t, shell)
		})
	}
}

func TestFreeze_Thaw_ReverseOrderAndNothingLeft(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		problems, err := n.freezer.CheckFreeze(testContext(t), n.host, []string{"/srv", "/data"})
		require.NoError(t, err)
		require.Empty(t, problems)
		require.False(t, n.status("a").Found)
		before := time.Now()
		f, err := n.freeze(t.Context(), time.Minute, "/srv", "/data")
		require.NoError(t, err)
		require.False(t, f.FrozenAt.Before(before))
		require.Equal(t, []string{"/data", "/srv"}, n.frozen())
		state := n.status("a")
		require.True(t, state.Found && state.Alive && !state.Ended)
		require.Equal(t, []string{"/srv", "/data"}, state.Mounts)
		require.Equal(t, f.FrozenAt, state.FrozenAt)
		select {
		case <-f.Gone():
			t.Fatal("it says that it is gone")
		default:
		}

		end, err := f.Thaw(testContext(t))
		require.NoError(t, err)
		require.Equal(t, FreezeThawed, end.By)
		require.Equal(t, f.FrozenAt, end.FrozenAt)
		require.True(t, end.ThawedAt.After(end.FrozenAt))
		require.Empty(t, n.frozen())
		<-f.Gone()
		again, err := f.Thaw(testContext(t))
		require.NoError(t, err)
		require.Equal(t, end, again)
		n.thawedAndQuiet()
		calls, err := os.ReadFile(n.file("calls"))
		require.NoError(t, err)
		require.Equal(t, "--version\n-f /srv\n-f /data\n-u /data\n-u /srv\n", string(calls))
		state = n.status("a")
		require.True(t, state.Found && state.Ended && !state.Alive)
		require.Equal(t, end, state.FreezeEnd)
		require.Empty(t, state.Mounts)

		_, err = n.freeze(t.Context(), time.Minute, "/srv")
		require.True(t, IsKind(err, KindJobConflict), "%v", err)
		n.thawedAndQuiet()
	})
}

func TestFreeze_ContextEnds_IsThawed(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		ctx, cancel := context.WithCancel(t.Context())
		f, err := n.freeze(ctx, 2*time.Minute, "/srv", "/data")
		require.NoError(t, err)
		cancel()
		<-f.Gone()
		n.thawedAndQuiet()
		require.Equal(t, FreezeGone, n.status("a").By)
		end, err := f.Thaw(testContext(t))
		require.NoError(t, err)
		require.Equal(t, FreezeGone, end.By)
	})
}

func TestFreeze_DeadlinePasses_IsThawed(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		f, err := n.freeze(t.Context(), 15*time.Second, "/srv", "/data")
		require.NoError(t, err)
		select {
		case <-f.Gone():
		case <-time.After(time.Minute):
			t.Error("it is frozen yet")
		}
		end, err := f.Thaw(testContext(t))
		require.NoError(t, err)
		require.Equal(t, FreezeDeadline, end.By)
		n.thawedAndQuiet()
	})
}

// What is killed, and what is removed, while all is frozen.
func TestFreeze_ProcessKilled_TheOtherThaws(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		for _, victim := range []string{"guard", "guard's lock", "main", "main's lock", "main's forks"} {
			t.Run(victim, func(t *testing.T) {
				t.Parallel()
				n := newFreezeNode(t, shell)
				f, err := n.freeze(t.Context(), 2*time.Minute, "/srv", "/data")
				require.NoError(t, err)
				killFreeze(t, n.processes(), victim)
				freezeWait(t, "it is said to be gone", func() bool {
					select {
					case <-f.Gone():
						return true
					default:
						return false
					}
				})
				n.thawedAndQuiet()
				state := n.status("a")
				require.True(t, state.Ended && !state.Alive, "%+v", state)
				requireKilled(t, victim, state.By)
				require.Empty(t, state.Mounts)
				require.True(t, state.ThawedAt.After(f.FrozenAt))
			})
		}
	})
}

func TestFreeze_AllProcessesKilled_StateTellsWhatIsFrozen(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		f, err := n.freeze(t.Context(), 2*time.Minute, "/srv", "/data")
		require.NoError(t, err)
		// Stopped first, so that none sees the other's end; one that is just being executed is not seen for a moment.
		for range 20 {
			for _, pid := range n.processes() {
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
		}
		n.endProcesses()
		_, err = f.Thaw(testContext(t))
		require.Error(t, err)
		state := n.status("a")
		require.True(t, state.Found && !state.Alive && !state.Ended, "%+v", state)
		require.Equal(t, []string{"/srv", "/data"}, state.Mounts)
	})
}

func TestFreeze_StateRemoved_IsThawedAndNothingLeft(t *testing.T) {
	remove := map[string]func(n *freezeNode) error{
		"file":   func(n *freezeNode) error { return os.Remove(n.file("run/katoflow-freeze/a/state")) },
		"folder": func(n *freezeNode) error { return os.RemoveAll(n.file("run/katoflow-freeze/a")) },
		"all":    func(n *freezeNode) error { return os.RemoveAll(n.file("run/katoflow-freeze")) },
	}
	eachFreezeShell(t, func(t *testing.T, shell string) {
		for what, thens := range map[string][]string{
			"file": {"thaw", "main"}, "folder": {"thaw", "context", "deadline", "guard", "main", "main's lock", "main's forks"}, "all": {"thaw", "context", "guard"},
		} {
			remove := remove[what]
			for _, then := range thens {
				t.Run(what+" "+then, func(t *testing.T) {
					t.Parallel()
					n := newFreezeNode(t, shell)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					deadline := 2 * time.Minute
					if then == "deadline" {
						deadline = 15 * time.Second
					}
					f, err := n.freeze(ctx, deadline, "/srv", "/data")
					require.NoError(t, err)
					if then != "context" { // with it, the folder may be gone before the main process watches the guard
						waitForWatch(t, n.processes)
					}
					require.NoError(t, remove(n))
					switch then {
					case "thaw":
						end, err := f.Thaw(testContext(t))
						require.NoError(t, err)
						require.Equal(t, FreezeThawed, end.By)
						require.True(t, end.ThawedAt.After(end.FrozenAt))
					case "context":
						cancel()
					case "deadline":
					default:
						killFreeze(t, n.processes(), then)
					}
					freezeWait(t, "it is said to be gone", func() bool {
						select {
						case <-f.Gone():
							return true
						default:
							return len(n.frozen()) == 0 && then == "main's lock" // it was another that has thawed, and has nowhere to write it
						}
					})
					cancel()
					n.thawedAndQuiet()
				})
			}
		}
	})
}

// A freeze that hangs in the kernel.
func TestFreeze_HangsInTheKernel_OthersAreThawedAndItIsLater(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		for _, then := range []string{"", "guard", "main", "main's lock", "folder"} {
			t.Run("and "+then, func(t *testing.T) {
				t.Parallel()
				n := newFreezeNode(t, shell)
				n.set("hang/data")
				deadline := 2 * time.Minute
				if then == "" {
					deadline = 12 * time.Second
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				failed := make(chan error, 1)
				go func() {
					_, err := n.freeze(ctx, deadline, "/srv", "/data")
					failed <- err
				}()
				freezeWait(t, "it hangs", func() bool { return n.exists("hanging/data") })
				switch then {
				case "":
					err := <-failed
					require.True(t, IsKind(err, KindExit), "%v", err)
					require.ErrorContains(t, err, "/data takes too long")
					require.Empty(t, n.frozen())
					state := n.status("a")
					require.True(t, state.Alive && !state.Ended, "%+v", state)
					require.Equal(t, []string{"/data"}, state.Mounts)
					// The guard waits for it, and nobody else begins.
					_, err = n.freezer.Freeze(testContext(t), n.host, FreezeSpec{ID: "b", Mounts: []string{"/srv"}, Deadline: time.Minute})
					require.True(t, IsKind(err, KindBusy), "%v", err)
				case "folder":
					require.NoError(t, os.RemoveAll(n.file("run/katoflow-freeze/a")))
				default:
					killFreeze(t, n.processes(), then)
				}
				if then == "main" || then == "main's lock" {
					freezeWait(t, "the other is thawed", func() bool { return len(n.frozen()) == 0 })
				}
				n.unset("hang/data")
				n.thawedAndQuiet()
				if then != "" {
					// A guard's or main's lock can outlive the kill by a moment, in which all is frozen; then it is thawed.
					if err := <-failed; then == "main" || then == "folder" {
						require.Error(t, err)
					}
				}
				if then != "folder" {
					state := n.status("a")
					require.True(t, state.Ended && !state.Alive, "%+v", state)
					require.Empty(t, state.Mounts)
				}
			})
		}
	})
}

// A mount's freeze that gets the lock only when all was found thawed, while the main process and the guard live.
func TestFreeze_BeginsAfterTheThaw_IsNotLeftFrozen(t *testing.T) {
	flock, err := exec.LookPath("flock")
	require.NoError(t, err)
	stub := "#!/bin/sh\ncase \"$*\" in\n*'/busy sh '*/data)\n\twhile [ -e DIR/delay ]; do\n\t\t: >DIR/delayed\n\t\tsleep 0.05\n\tdone\n\t;;\nesac\nexec " + flock + " \"$@\"\n"
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		require.NoError(t, os.WriteFile(n.file("bin/flock"), []byte(strings.ReplaceAll(stub, "DIR", n.dir)), 0o755))
		n.set("delay")
		n.set("slow/srv")
		failed := make(chan error, 1)
		go func() {
			_, err := n.freeze(testContext(t), 10*time.Second, "/srv", "/data")
			failed <- err
		}()
		freezeWait(t, "it waits for the lock", func() bool { return n.exists("delayed") })
		freezeWait(t, "/data is thawed and /srv is being", func() bool { return n.exists("slowing/srv") })
		n.unset("delay")
		freezeWait(t, "the freeze of /data has ended", func() bool {
			return !slices.ContainsFunc(n.processes(), func(pid int) bool {
				argv := commandLine(pid)
				return argv[len(argv)-1] == "/data" && slices.Contains(argv, "one")
			})
		})
		n.unset("slow/srv")
		require.ErrorContains(t, <-failed, "/data takes too long")
		n.thawedAndQuiet()
		state := n.status("a")
		require.True(t, state.Ended && !state.Alive, "%+v", state)
		require.Empty(t, state.Mounts)
		require.Zero(t, state.FrozenAt)
	})
}

func TestFreeze_ThawedBySomebodyElse_IsLost(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		for _, mount := range []string{"/srv", "/data"} {
			n := newFreezeNode(t, shell)
			f, err := n.freeze(t.Context(), 2*time.Minute, "/srv", "/data")
			require.NoError(t, err)
			require.NoError(t, os.Remove(n.file("frozen"+mount)))
			end, err := f.Thaw(testContext(t))
			require.NoError(t, err)
			require.Equal(t, FreezeEnd{FrozenAt: f.FrozenAt, By: FreezeLost}, end)
			n.thawedAndQuiet()
			state := n.status("a")
			require.True(t, state.Ended && !state.Alive, "%+v", state)
			require.Equal(t, end, state.FreezeEnd)
			require.Empty(t, state.Mounts)
		}
	})
}

func TestFreeze_ThawHangs_EndsAndTellsWhatIsFrozen(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell, "passed + 60", "passed + 2")
		f, err := n.freeze(t.Context(), 2*time.Minute, "/srv", "/data")
		require.NoError(t, err)
		n.set("slow/srv")
		n.set("slow/data")
		_, err = f.Thaw(testContext(t))
		require.ErrorContains(t, err, "cannot thaw /data /srv")
		freezeWait(t, "nothing looks after it any more", func() bool { return !n.status("a").Alive })
		require.Equal(t, []string{"/srv", "/data"}, n.status("a").Mounts)
		n.unset("slow/srv")
		n.unset("slow/data")
		freezeWait(t, "no process is left", func() bool { return len(n.processes()) == 0 })
	})
}

func TestFreeze_HangsForEver_GuardDoesNotWaitForEver(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell, "flock -w 3600", "flock -w 1", "passed + 60", "passed + 2")
		n.set("hang/data")
		_, err := n.freeze(t.Context(), 10*time.Second, "/srv", "/data")
		require.ErrorContains(t, err, "/data takes too long")
		freezeWait(t, "the guard has ended", func() bool {
			own, _, lock := freezeProcesses(n.processes(), "guard")
			return len(own)+len(lock) == 0
		})
		// What freezes thaws as well, when the kernel is through.
		n.unset("hang/data")
		n.thawedAndQuiet()
	})
}

func TestFreeze_Refused_OthersAreThawedAndAForeignFreezeIsNot(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		require.NoError(t, os.Mkdir(n.file("frozen/data"), 0o755))
		_, err := n.freeze(t.Context(), time.Minute, "/srv", "/data")
		require.True(t, IsKind(err, KindExit), "%v", err)
		require.ErrorContains(t, err, "cannot freeze /data, everything is thawed again: fsfreeze: /data: freeze failed: Device or resource busy")
		freezeWait(t, "no process is left", func() bool { return len(n.processes()) == 0 })
		require.Equal(t, []string{"/data"}, n.frozen())
		require.NoError(t, os.Remove(n.file("frozen/data")))

		n.set("refuse/srv")
		_, err = n.freezer.Freeze(t.Context(), n.host, FreezeSpec{ID: "b", Mounts: []string{"/srv", "/data"}, Deadline: time.Minute})
		require.ErrorContains(t, err, "Operation not supported")
		n.thawedAndQuiet()
		require.Equal(t, FreezeFailed, n.status("b").By)
	})
}

func TestFreeze_RefusedAndThawFails_TellsWhatIsFrozen(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell, "passed + 60", "passed + 2")
		n.set("refuse/data")
		n.set("stuck/srv")
		_, err := n.freeze(t.Context(), time.Minute, "/srv", "/data")
		require.True(t, IsKind(err, KindExit), "%v", err)
		require.ErrorContains(t, err, "cannot thaw /srv")
		freezeWait(t, "nothing looks after it any more", func() bool { return !n.status("a").Alive })
		require.Equal(t, []string{"/srv"}, n.status("a").Mounts)
		require.Equal(t, []string{"/srv"}, n.frozen())
	})
}

func TestFreeze_SecondAtOnce_IsBusyUntilTheFirstHasEnded(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		f, err := n.freezer.Freeze(t.Context(), n.host, FreezeSpec{ID: "Op 1/a", Mounts: []string{"/srv"}, Deadline: 2 * time.Minute})
		require.NoError(t, err)
		_, err = n.freezer.Freeze(t.Context(), n.host, FreezeSpec{ID: "b", Mounts: []string{"/data"}, Deadline: time.Minute})
		require.True(t, IsKind(err, KindBusy), "%v", err)
		require.ErrorContains(t, err, "Op 1/a")
		require.False(t, n.status("b").Found)
		require.Equal(t, []string{"/srv"}, n.frozen())
		_, err = f.Thaw(testContext(t))
		require.NoError(t, err)
		n.thawedAndQuiet()
		f, err = n.freezer.Freeze(t.Context(), n.host, FreezeSpec{ID: "b", Mounts: []string{"/data"}, Deadline: time.Minute})
		require.NoError(t, err)
		_, err = f.Thaw(testContext(t))
		require.NoError(t, err)
		n.thawedAndQuiet()
	})
}

func TestFreeze_ThawFails_IsTriedAgainForAWhile(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		f, err := n.freeze(t.Context(), 2*time.Minute, "/srv", "/data")
		require.NoError(t, err)
		n.set("stuck/data")
		thawed := make(chan error, 1)
		go func() {
			_, err := f.Thaw(testContext(t))
			thawed <- err
		}()
		freezeWait(t, "the other is thawed", func() bool { return slices.Equal(n.frozen(), []string{"/data"}) })
		n.unset("stuck/data")
		require.NoError(t, <-thawed)
		n.thawedAndQuiet()

		n = newFreezeNode(t, shell, "passed + 60", "passed + 2")
		f, err = n.freeze(t.Context(), 2*time.Minute, "/srv", "/data")
		require.NoError(t, err)
		n.set("stuck/data")
		_, err = f.Thaw(testContext(t))
		require.ErrorContains(t, err, "cannot thaw /data")
		freezeWait(t, "no process is left", func() bool { return len(n.processes()) == 0 })
		state := n.status("a")
		require.True(t, state.Found && !state.Alive && !state.Ended)
		require.Equal(t, []string{"/data"}, state.Mounts)
	})
}

func TestFreeze_NothingReads_IsThawed(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		// The connection is gone in both directions before anything is frozen.
		cmd := exec.Command(filepath.Join(n.bin, "sh"), n.program, "freeze", "a", "60", "/srv", "/data")
		cmd.Env = []string{"KATOFLOW_TEST=" + n.dir}
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		require.NoError(t, out.Close())
		_ = cmd.Wait()
		n.thawedAndQuiet()
		require.Equal(t, FreezeGone, n.status("a").By)
	})
}

func TestCheckFreeze_EveryProblem_IsToldWithWhatToDo(t *testing.T) {
	eachFreezeShell(t, func(t *testing.T, shell string) {
		n := newFreezeNode(t, shell)
		for mount, want := range map[string]string{
			"/nowhere": "/nowhere is no mount point", "/memory": "/memory is of type tmpfs", "/": "/ cannot be frozen, /var is on it",
			"/srv/": "/srv/ is to be written /srv", "srv": `"srv" is no absolute path`, "/a b": `"/a b" has other characters`,
		} {
			problems, err := n.freezer.CheckFreeze(testContext(t), n.host, []string{mount})
			require.NoError(t, err)
			require.NotEmpty(t, problems, mount)
			require.Contains(t, strings.Join(problems, "\n"), want)
		}
		problems, err := n.freezer.CheckFreeze(testContext(t), n.host, []string{"/srv", "/data", "/again"})
		require.NoError(t, err)
		require.Len(t, problems, 1)
		require.Contains(t, problems[0], "/again is the same file system as another mount point")
		_, err = n.freeze(t.Context(), time.Minute, "/srv", "/again")
		require.ErrorContains(t, err, "/again is the same file system")

		// A folder of the root that is mounted elsewhere is the root.
		bind := strings.ReplaceAll(freezeTable, "DIR", n.dir) + "9 1 8:1 /home /home rw - ext4 /dev/a rw\n"
		require.NoError(t, os.WriteFile(n.file("mountinfo"), []byte(bind), 0o644))
		problems, err = n.freezer.CheckFreeze(testContext(t), n.host, []string{"/home"})
		require.NoError(t, err)
		require.Len(t, problems, 1)
		require.Contains(t, problems[0], "/home cannot be frozen, /var is on it")
		require.NoError(t, os.WriteFile(n.file("mountinfo"), []byte(bind+"10 1 8:4 / /var rw - ext4 /dev/d rw\n"), 0o644))
		problems, err = n.freezer.CheckFreeze(testContext(t), n.host, []string{"/home"})
		require.NoError(t, err)
		require.Empty(t, problems)

		// With /run on the root's file system nothing can be frozen, the root itself least of all.
		require.NoError(t, os.WriteFile(n.file("mountinfo"), []byte("1 0 8:1 / / rw - ext4 /dev/a rw\n3 1 8:2 / /srv rw - ext4 /dev/b rw\n"), 0o644))
		problems, err = n.freezer.CheckFreeze(testContext(t), n.host, []string{"/srv"})
		require.NoError(t, err)
		require.Len(t, problems, 1)
		require.Contains(t, problems[0], "/run is not in memory but on / (ext4)")
		problems, err = n.freezer.CheckFreeze(testContext(t), n.host, []string{"/"})
		require.NoError(t, err)
		require.Contains(t, strings.Join(problems, "\n"), "/dev is on it")

		require.NoError(t, os.Remove(n.program))
		problems, err = n.freezer.CheckFreeze(testContext(t), n.host, []string{"/srv"})
		require.NoError(t, err)
		require.Equal(t, []string{"katoflow-freeze is not installed: " + installFreeze}, problems)
		require.Empty(t, n.frozen())
	})
}

func TestFreeze_WrongSpec_IsRefusedBeforeTheNodeIsAsked(t *testing.T) {
	f := &Freezer{}
	good := FreezeSpec{ID: "a", Mounts: []string{"/srv"}, Deadline: time.Minute}
	for want, change := range map[string]func(*FreezeSpec){
		"an id of 0 bytes":             func(s *FreezeSpec) { s.ID = "" },
		"an id of 181 bytes":           func(s *FreezeSpec) { s.ID = strings.Repeat("a", 181) },
		"0 mount points":               func(s *FreezeSpec) { s.Mounts = nil },
		"33 mount points":              func(s *FreezeSpec) { s.Mounts = make([]string, 33) },
		"it must be 5s to 5m0s":        func(s *FreezeSpec) { s.Deadline = MinFreeze - 1 },
		"a deadline of 5m0.000000001s": func(s *FreezeSpec) { s.Deadline = MaxFreeze + 1 },
		`"-rf" is no absolute path`:    func(s *FreezeSpec) { s.Mounts = []string{"/srv", "-rf"} },
	} {
		spec := good
		change(&spec)
		_, err := f.Freeze(t.Context(), Host{Name: "n1"}, spec)
		require.ErrorContains(t, err, want)
		require.Empty(t, KindOf(err))
	}
}

func TestCheckMount_Names_AsTheProgramTakesThem(t *testing.T) {
	for _, mount := range []string{"/", "/srv", "/var/lib/a-b_c.d", "/mnt/a@b:c=d+e"} {
		require.NoError(t, CheckMount(mount))
	}
	for _, mount := range []string{"", "srv", "-f", "/srv/", "//srv", "/a//b", "/a/./b", "/a/../b", "/..", "/a b", "/a\n", "/ä", "/a*", "/$a", "/a'", "/" + strings.Repeat("a", 1000)} {
		err := CheckMount(mount)
		require.Error(t, err, mount)
		require.NotContains(t, err.Error(), "\n")
	}
}
