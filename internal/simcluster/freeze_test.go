package simcluster

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

const freezeCommand = "sudo -n /usr/local/sbin/katoflow-freeze "

// The scripts that look at the program from a login, as the worker runs them.
var freezeCheckScript, freezeStateScript = remoteScript("freeze_check.sh"), remoteScript("freeze_state.sh")

func remoteScript(name string) string {
	text, err := os.ReadFile(filepath.Join("..", "remote", "scripts", name))
	if err != nil {
		panic(err)
	}
	return string(text)
}

// freezeNode is a node with two disks that can be frozen and one that cannot.
func freezeNode(t *testing.T) (*Node, *ssh.Client) {
	t.Helper()
	n := oneNode(t, Config{Nodes: []NodeConfig{{Name: "one", Roles: []string{"base", "primary", "controller"}, Mounts: []Mount{{Path: "/var", Type: "ext4"}, {Path: "/srv/data", Type: "xfs"}, {Path: "/mnt/nas", Type: "nfs4"}}}},
		BootTime: 20 * time.Millisecond, Hypervisor: &HypervisorConfig{Disks: true}})
	return n, dial(t, n)
}

// running is a command line in a session.
type running struct {
	t       *testing.T
	in      io.WriteCloser
	out     *lockedBuffer
	session *ssh.Session
	ended   chan int // its exit code, -1 when the connection broke
}

func begin(t *testing.T, c *ssh.Client, command string) *running {
	t.Helper()
	s, err := c.NewSession()
	require.NoError(t, err)
	r := &running{t: t, out: &lockedBuffer{}, session: s, ended: make(chan int, 1)}
	s.Stdout = r.out
	r.in, err = s.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start(command))
	go func() {
		exit := 0
		if err := s.Wait(); err != nil {
			exit = -1
			var e *ssh.ExitError
			if errors.As(err, &e) {
				exit = e.ExitStatus()
			}
		}
		r.ended <- exit
	}()
	t.Cleanup(func() { s.Close() })
	return r
}

func (r *running) said() string { return string(r.out.Bytes()) }

func (r *running) hears(text string) {
	r.t.Helper()
	eventually(r.t, text, func() bool { return strings.Contains(r.said(), text) })
}

func (r *running) exit() int {
	r.t.Helper()
	select {
	case exit := <-r.ended:
		return exit
	case <-time.After(time.Minute):
		r.t.Fatalf("it does not end: %s", r.said())
		return 0
	}
}

// waits is for what must not end.
func (r *running) waits() {
	r.t.Helper()
	select {
	case exit := <-r.ended:
		r.t.Fatalf("it has ended with %d: %s", exit, r.said())
	case <-time.After(200 * time.Millisecond):
	}
}

// frozen begins a freeze that holds.
func frozen(t *testing.T, c *ssh.Client, args string) *running {
	t.Helper()
	r := begin(t, c, freezeCommand+"freeze "+args)
	r.hears("@katoflow-freeze all - ")
	return r
}

func thawed(t *testing.T, n *Node) {
	t.Helper()
	eventually(t, "nothing is frozen", func() bool { return len(n.Frozen()) == 0 })
}

var stamps = regexp.MustCompile(`[0-9]{12,}`)

// stateFile is the state of a freeze on the node, its stamps as S.
func stateFile(t *testing.T, n *Node, id string) string {
	t.Helper()
	b, err := n.ReadFile(freezeStates + "/" + id + "/state")
	require.NoError(t, err)
	return stamps.ReplaceAllString(string(b), "S")
}

// tellState is what the worker's script tells of a freeze, its stamps as S.
func tellState(t *testing.T, c *ssh.Client, id string) string {
	t.Helper()
	r := run(t, c, "exec sh -c '"+strings.ReplaceAll(freezeStateScript, "'", `'\''`)+"' sh "+freezeStates+"/"+id)
	require.Equal(t, 0, r.exit, r.err)
	require.Empty(t, r.err)
	return stamps.ReplaceAllString(r.out, "S")
}

// endedBy waits for the end in a state.
func endedBy(t *testing.T, n *Node, id, by string) {
	t.Helper()
	eventually(t, "end "+by, func() bool { return strings.HasSuffix(stateFile(t, n, id), "end "+by+" S\n") })
	require.Empty(t, n.Frozen())
}

// freezeEvents are those of file systems of a node, as "frozen /var".
func freezeEvents(n *Node) (out []string) {
	for _, e := range n.cluster.Events() {
		if e.Node == n.name && (e.Kind == "frozen" || e.Kind == "thawed") {
			out = append(out, e.Kind+" "+e.Detail)
		}
	}
	return out
}

func TestFreezeCheck_UnfitMounts_AreRefused(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	for _, tc := range []struct{ mounts, want string }{
		{"/var /srv/data", ""},
		{"/srv", "mount /srv"}, {"/srv/data/x", "mount /srv/data/x"}, {"/nowhere", "mount /nowhere"},
		{"/mnt/nas", "type /mnt/nas nfs4"},
		{"/var /srv/data /var", "twice /var"},
		{"/", ""},
		{"/run", "type /run tmpfs\nneeded /run /run/katoflow-freeze"},
		{"/dev", "type /dev devtmpfs\nneeded /dev /dev"}, {"/proc", "type /proc proc\nneeded /proc /proc"},
		{"srv/data", "name"}, {"/srv/data/", "name"}, {"'/a b'", "name"}, {"''", "name"},
		{"/srv /mnt/nas", "mount /srv\ntype /mnt/nas nfs4"},
	} {
		want := ""
		for line := range strings.Lines(tc.want) {
			want += "@katoflow-freeze problem " + strings.TrimSpace(line) + "\n"
		}
		require.Equal(t, result{out: "@katoflow-freeze version 1\n" + want + "@katoflow-freeze end\n"}, run(t, c, freezeCommand+"check "+tc.mounts), tc.mounts)
		if want != "" {
			require.Equal(t, result{out: want + "@katoflow-freeze fail unfit\n", exit: 9}, run(t, c, freezeCommand+"freeze a 5 "+tc.mounts), tc.mounts)
		}
	}
	require.Equal(t, result{out: "@katoflow-freeze version 1\n"}, run(t, c, freezeCommand+"version"))
	require.Equal(t, "@katoflow-freeze version 1\n@katoflow-freeze end\n", run(t, c, "sh -c '"+strings.ReplaceAll(freezeCheckScript, "'", `'\''`)+"' sh "+freezeProgram+" "+freezeCommand+"check /var").out)
	for _, args := range []string{"", "freeze", "freeze A 5 /var", "freeze a 05 /var", "freeze a 4 /var", "freeze a 301 /var", "freeze a 1000 /var", "freeze a 5", "melt a"} {
		r := run(t, c, freezeCommand+args)
		require.Equal(t, 9, r.exit, args)
		require.Contains(t, r.out, "@katoflow-freeze fail usage", args)
	}
	require.Equal(t, result{out: "@katoflow-freeze fail state\n", exit: 9}, run(t, c, freezeProgram+" freeze a 5 /var"), "not root")
	require.Empty(t, freezeEvents(n))

	plain := oneNode(t, Config{Platform: "plain"})
	require.Equal(t, "@katoflow-freeze version 1\n@katoflow-freeze problem needed / /var\n@katoflow-freeze end\n", run(t, dial(t, plain), freezeCommand+"check /").out)
}

func TestFreeze_Thaw_IsInReverseOrderAndTold(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	n.SkewClock(-time.Hour)
	before := n.now()
	r := frozen(t, c, "op-1 300 /var /srv/data")
	require.Equal(t, []string{"/var", "/srv/data"}, n.Frozen())
	require.Equal(t, "guarded\ntried /var\nfrozen /var S\ntried /srv/data\nfrozen /srv/data S\nall - S\n", stateFile(t, n, "op-1"))
	for _, mode := range []string{"freeze", "guard"} {
		require.True(t, slices.ContainsFunc(n.Processes(), func(p string) bool { return strings.Contains(p, freezeProgram+" "+mode+" op-1 300 /var /srv/data") }), mode)
	}
	_, err := io.WriteString(r.in, "thaw\n")
	require.NoError(t, err)
	require.Equal(t, 0, r.exit())
	require.Empty(t, n.Frozen())
	all := "guarded\ntried /var\nfrozen /var S\ntried /srv/data\nfrozen /srv/data S\nall - S\nthawed /srv/data S\nthawed /var S\nend thaw S\n"
	require.Equal(t, all, stateFile(t, n, "op-1"))
	require.True(t, strings.HasSuffix(stamps.ReplaceAllString(r.said(), "S"), "@katoflow-freeze "+strings.ReplaceAll(strings.TrimSpace(all), "\n", "\n@katoflow-freeze ")+"\n"), r.said())
	require.Equal(t, []string{"frozen /var", "frozen /srv/data", "thawed /srv/data", "thawed /var"}, freezeEvents(n))
	stamp, err := strconv.ParseInt(stamps.FindString(r.said()), 10, 64)
	require.NoError(t, err)
	require.WithinRange(t, time.Unix(0, stamp), before, n.now(), "by the clock of the node")
	eventually(t, "the guard ends", func() bool { return len(n.Processes()) == 0 })
	require.Equal(t, "@katoflow-freeze state\n@katoflow-freeze "+strings.ReplaceAll(strings.TrimSpace(all), "\n", "\n@katoflow-freeze ")+"\n", tellState(t, c, "op-1"))
	require.Equal(t, "644 root\n644 root\n644 root\n600 root\n755 root\n755 root\n",
		run(t, c, "cd "+freezeStates+" && stat -c '%a %U' op-1/state op-1/held op-1/guard op-1/busy op-1 .").out)

	require.Equal(t, result{out: "@katoflow-freeze fail used op-1\n", exit: 9}, run(t, c, freezeCommand+"freeze op-1 5 /var"))
	require.Empty(t, tellState(t, c, "op-2"))
	r = frozen(t, c, "op-2 300 /var")
	require.NoError(t, r.in.Close())
	require.Equal(t, 0, r.exit())
	endedBy(t, n, "op-2", "gone")
}

func TestFreeze_NewCommands_WaitUntilTheThawAndOthersGoOn(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	ticks := begin(t, c, "while [ ! -e /run/user/1000/stop ]; do date +%s%N; sleep 0.005; done; echo stopped")
	ticks.hears("\n")
	r := frozen(t, c, "a 300 /srv/data")
	count := strings.Count(ticks.said(), "\n")
	eventually(t, "what runs goes on, with new processes", func() bool { return strings.Count(ticks.said(), "\n") > count+5 })
	state := begin(t, c, "cat "+freezeStates+"/a/state")
	shell := begin(t, dial(t, n), "sh -s")
	_, err := io.WriteString(shell.in, "echo in\n")
	require.NoError(t, err)
	state.waits()
	require.Empty(t, state.said())
	require.Empty(t, shell.said())
	require.Equal(t, []string{"/srv/data"}, n.Frozen())
	_, err = io.WriteString(r.in, "thaw\n")
	require.NoError(t, err)
	require.Equal(t, 0, r.exit())
	require.Equal(t, 0, state.exit())
	shell.hears("in\n")
	require.NoError(t, shell.in.Close())
	require.Equal(t, 0, shell.exit())
	require.NoError(t, n.WriteFile("/run/user/1000/stop", nil))
	ticks.hears("stopped")

	// A command of another node's waits as well; one that nobody waits for any more does its work.
	require.Equal(t, 0, run(t, c, "ssh -o BatchMode=yes "+n.Address()+" true").exit)
	lasting := begin(t, c, "while [ ! -e /run/user/1000/go ]; do sleep 0.005; done; ssh -o BatchMode=yes "+n.Address()+" touch /run/user/1000/late")
	r = frozen(t, c, "b 300 /var")
	require.NoError(t, n.WriteFile("/run/user/1000/go", nil))
	lasting.waits()
	_, err = n.ReadFile("/run/user/1000/late")
	require.Error(t, err)
	n.DropConnections()
	require.Equal(t, -1, lasting.exit())
	eventually(t, "it is done after the thaw", func() bool { _, err := n.ReadFile("/run/user/1000/late"); return err == nil })
	endedBy(t, n, "b", "gone")
	require.Equal(t, -1, r.exit())
}

func TestFreeze_SecondOne_IsBusy(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	n.SlowFreeze("/var", 6*time.Second)
	first := begin(t, c, freezeCommand+"freeze first 300 /var")
	eventually(t, "it is at work", func() bool {
		b, err := n.ReadFile(freezeStates + "/first/state")
		return err == nil && strings.Contains(string(b), "tried /var")
	})
	require.Equal(t, result{out: "@katoflow-freeze fail busy first\n", exit: 9}, run(t, c, freezeCommand+"freeze second 300 /srv/data"))
	_, err := n.ReadFile(freezeStates + "/second/state")
	require.Error(t, err)
	first.hears("all - ")
	require.NoError(t, first.in.Close())
	require.Equal(t, 0, first.exit())
	second := frozen(t, c, "second 300 /srv/data")
	require.NoError(t, second.in.Close())
	require.Equal(t, 0, second.exit())
}

func TestFreeze_ConnectionDropped_ThawsAtOnce(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	r := frozen(t, c, "a 300 /var /srv/data")
	n.DropConnections()
	require.Equal(t, -1, r.exit())
	thawed(t, n)
	endedBy(t, n, "a", "gone")
}

func TestFreeze_NetworkCut_ThawsAtTheDeadline(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	began := time.Now()
	r := frozen(t, c, "a 5 /var /srv/data")
	n.Silence(true)
	require.NoError(t, r.in.Close())
	thawed(t, n)
	require.GreaterOrEqual(t, time.Since(began), 5*time.Second)
	endedBy(t, n, "a", "deadline")
	eventually(t, "nothing of it waits for the network", func() bool {
		return !slices.ContainsFunc(n.Processes(), func(p string) bool { return strings.Contains(p, "katoflow-freeze") })
	})
	n.Silence(false)
	require.Equal(t, 0, r.exit())
	require.Contains(t, r.said(), "@katoflow-freeze end deadline ")
}

func TestFreeze_Reboot_EndsIt(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	for _, end := range []func() *ssh.Client{
		func() *ssh.Client { return rebooted(t, n) },
		func() *ssh.Client { n.PowerOff(); require.Empty(t, n.Frozen()); n.PowerOn(); return dial(t, n) },
		func() *ssh.Client { n.KillBothFreeze(); return rebooted(t, n) },
	} {
		frozen(t, c, "a 300 /var")
		waiting := begin(t, c, "touch /home/stackato/waited")
		c = end()
		require.Equal(t, -1, waiting.exit())
		require.Empty(t, n.Frozen())
		require.Equal(t, result{}, run(t, c, "[ ! -e "+freezeStates+" ] && [ ! -e /home/stackato/waited ]"))
		require.NotContains(t, freezeEvents(n), "thawed /var", "everything ends where it stands")
	}
}

func TestFreeze_MountTooSlow_FailsAndIsThawedWhenItIsThrough(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	n.SlowFreeze("/srv/data", 5*time.Second)
	r := begin(t, c, freezeCommand+"freeze a 6 /var /srv/data")
	require.Equal(t, 9, r.exit())
	require.Contains(t, r.said(), "@katoflow-freeze fail slow /srv/data\n")
	require.NotContains(t, r.said(), "@katoflow-freeze all")
	require.NotContains(t, n.Frozen(), "/var")
	endedBy(t, n, "a", "failed")
	require.Equal(t, []string{"frozen /var", "thawed /var", "frozen /srv/data", "thawed /srv/data"}, freezeEvents(n))
	n.SlowFreeze("/srv/data", 0)
	r = frozen(t, c, "b 6 /var /srv/data")
	require.NoError(t, r.in.Close())
	require.Equal(t, 0, r.exit())
}

func TestFreeze_MountRefused_ThawsTheOthers(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	n.RefuseFreeze("/srv/data", "Input/output error")
	r := begin(t, c, freezeCommand+"freeze a 300 /var /srv/data")
	require.Equal(t, 9, r.exit())
	require.Contains(t, r.said(), "@katoflow-freeze fail refused /srv/data fsfreeze: /srv/data: freeze failed: Input/output error\n")
	require.Equal(t, "guarded\ntried /var\nfrozen /var S\ntried /srv/data\nfailed /srv/data\nfailing\nthawed /var S\nend failed S\n", stateFile(t, n, "a"))
	require.Empty(t, n.Frozen())
	n.RefuseFreeze("/srv/data", "")

	// What somebody else has frozen stays so.
	require.Equal(t, 0, run(t, c, "sudo fsfreeze -f /srv/data").exit)
	n.Thaw()
	lasting := begin(t, c, "sudo sh -c 'fsfreeze -f /srv/data; exec "+freezeProgram+" freeze b 300 /var /srv/data'")
	require.Equal(t, 9, lasting.exit())
	require.Contains(t, lasting.said(), "@katoflow-freeze fail refused /srv/data fsfreeze: /srv/data: freeze failed: Device or resource busy\n")
	require.Equal(t, []string{"/srv/data"}, n.Frozen())
	n.Thaw()
}

func TestFreeze_MainProcessKilled_IsThawedByTheGuard(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	n.KillFreeze() // there is none
	r := frozen(t, c, "a 300 /var /srv/data")
	n.KillFreeze()
	require.Equal(t, 137, r.exit())
	endedBy(t, n, "a", "killed")
	require.Contains(t, stamps.ReplaceAllString(r.said(), "S"), "@katoflow-freeze end killed S\n")
	require.Equal(t, []string{"frozen /var", "frozen /srv/data", "thawed /srv/data", "thawed /var"}, freezeEvents(n))
	n.KillFreeze()

	// While the kernel freezes.
	n.SlowFreeze("/srv/data", 5*time.Second)
	r = begin(t, c, freezeCommand+"freeze b 300 /var /srv/data")
	eventually(t, "it freezes", func() bool {
		return slices.Equal(n.Frozen(), []string{"/var"}) && strings.HasSuffix(stateFile(t, n, "b"), "tried /srv/data\n")
	})
	n.KillFreeze()
	require.Equal(t, 137, r.exit())
	endedBy(t, n, "b", "killed")
	require.Equal(t, []string{"frozen /var", "thawed /var", "frozen /srv/data", "thawed /srv/data"}, freezeEvents(n)[4:], "what can be thawed does not wait for the kernel")
	require.NotContains(t, r.said(), "all - ")
}

func TestFreeze_GuardKilled_IsThawedByTheMainProcess(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	killer := begin(t, c, "read x; sudo kill -KILL $(pgrep -f 'katoflow-freeze guard')")
	r := frozen(t, c, "a 300 /var")
	_, err := io.WriteString(killer.in, "\n")
	require.NoError(t, err)
	require.Equal(t, 0, r.exit())
	require.Contains(t, r.said(), "@katoflow-freeze end killed ")
	endedBy(t, n, "a", "killed")
	require.Equal(t, 0, killer.exit())
}

func TestFreeze_BothKilled_StaysUntilSomebodyThaws(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	n.KillBothFreeze() // there is none
	for id, remedy := range map[string]func(){
		"a": n.Thaw,
		"b": func() {
			require.Equal(t, result{err: "fsfreeze: /var: unfreeze failed: Operation not permitted\n", exit: 1}, run(t, c, "/usr/sbin/fsfreeze -u /var"))
			require.Equal(t, result{}, run(t, c, "sudo -n fsfreeze -u /srv/data"))
			require.Equal(t, []string{"/var"}, n.Frozen())
			require.Equal(t, result{}, run(t, c, "sudo /sbin/fsfreeze --unfreeze /var"))
			require.Equal(t, result{err: "fsfreeze: /var: unfreeze failed: Invalid argument\n", exit: 1}, run(t, c, "sudo fsfreeze -u /var"))
		},
		"c": n.Heal,
	} {
		r := frozen(t, c, id+" 300 /var /srv/data")
		n.KillBothFreeze()
		require.Equal(t, 137, r.exit())
		require.Equal(t, []string{"/var", "/srv/data"}, n.Frozen())
		waiting := begin(t, c, "true")
		waiting.waits()
		require.Equal(t, []string{"/var", "/srv/data"}, n.Frozen())
		eventually(t, "no process of it is left", func() bool { return slices.Equal(n.Processes(), []string{"-bash"}) })
		remedy()
		require.Equal(t, 0, waiting.exit())
		require.Empty(t, n.Frozen())
		const left = "guarded\ntried /var\nfrozen /var S\ntried /srv/data\nfrozen /srv/data S\nall - S\n"
		require.Equal(t, left, stateFile(t, n, id))
		require.Equal(t, "@katoflow-freeze state\n@katoflow-freeze "+strings.ReplaceAll(strings.TrimSpace(left), "\n", "\n@katoflow-freeze ")+"\n", tellState(t, c, id), "neither ended nor alive")
	}
}

func TestFreeze_StateFolderVanished_IsThawed(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	cleaner := begin(t, c, "read x; sudo rm -rf "+freezeStates)
	r := frozen(t, c, "a 300 /var /srv/data")
	_, err := io.WriteString(cleaner.in, "\n")
	require.NoError(t, err)
	require.Equal(t, 0, cleaner.exit())
	require.Len(t, n.Frozen(), 2)
	n.KillFreeze()
	require.NotZero(t, r.exit())
	thawed(t, n)
	eventually(t, "no process is left", func() bool { return len(n.Processes()) == 0 })
}

func TestFreeze_StateWhileItHolds_IsAlive(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	looks := begin(t, c, "read x; exec sh -c '"+strings.ReplaceAll(freezeStateScript, "'", `'\''`)+"' sh "+freezeStates+"/a")
	r := frozen(t, c, "a 300 /var")
	_, err := io.WriteString(looks.in, "\n")
	require.NoError(t, err)
	require.Equal(t, 0, looks.exit())
	require.Equal(t, "@katoflow-freeze state\n@katoflow-freeze alive\n@katoflow-freeze guarded\n@katoflow-freeze tried /var\n@katoflow-freeze frozen /var S\n@katoflow-freeze all - S\n", stamps.ReplaceAllString(looks.said(), "S"))
	require.Equal(t, []string{"/var"}, n.Status().Frozen)
	require.NoError(t, r.in.Close())
	require.Equal(t, 0, r.exit())
}

func TestFreeze_NotInstalled_IsTold(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	there := "[ -x " + freezeProgram + " ]"
	require.Equal(t, 0, run(t, c, there).exit)
	n.WithoutFreeze()
	require.Equal(t, 1, run(t, c, there).exit)
	require.Equal(t, result{err: "sudo: " + freezeProgram + ": command not found\n", exit: 1}, run(t, c, freezeCommand+"freeze a 5 /var"))
	require.Equal(t, "@katoflow-freeze problem missing\n", run(t, c, "sh -c '"+strings.ReplaceAll(freezeCheckScript, "'", `'\''`)+"' sh "+freezeProgram+" "+freezeCommand+"check /var").out)
	n.Heal()
	require.Equal(t, 0, run(t, dial(t, n), there).exit)
	n.SudoPassword(true)
	require.Equal(t, result{err: "sudo: a password is required\n", exit: 1}, run(t, c, freezeCommand+"freeze a 5 /var"))
}

func TestFreeze_Snapshot_SaysWhatWasFrozenAndHoldsTheDisk(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	host := dial(t, n.cluster.Hypervisor().Host())
	require.NoError(t, n.WriteFile("/srv/data/file", []byte("of then")))
	r := frozen(t, c, "a 300 /var /srv/data")
	require.Equal(t, 0, run(t, host, "vmctl take vm-one one").exit)
	require.NoError(t, r.in.Close())
	require.Equal(t, 0, r.exit())
	require.Equal(t, 0, run(t, host, "vmctl take vm-one two").exit)
	all := n.cluster.Hypervisor().Snapshots()
	require.Len(t, all, 2)
	require.Equal(t, []string{"/var", "/srv/data"}, all[0].Frozen)
	require.Empty(t, all[1].Frozen)
	require.NoError(t, n.WriteFile("/srv/data/file", []byte("of now")))
	n.PowerOff()
	require.Equal(t, result{}, run(t, host, "vmctl rollback vm-one one"))
	n.PowerOn()
	require.Empty(t, n.Frozen())
	require.Equal(t, result{out: "of then"}, run(t, dial(t, n), "cat /srv/data/file && [ ! -e "+freezeStates+" ]"))
}

func TestFreezeFaults_ByTheControlAPI_DoWhatTheMethodsDo(t *testing.T) {
	t.Parallel()
	n, c := freezeNode(t)
	s := httptest.NewServer(n.cluster.ControlHandler())
	defer s.Close()
	inject := func(fault, args string, want int) {
		t.Helper()
		resp, err := s.Client().Post(s.URL+"/nodes/one/faults/"+fault, "application/json", strings.NewReader(args))
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, fault)
	}
	inject("slow-freeze", `["/var"]`, http.StatusBadRequest)
	inject("slow-freeze", `["/var","long"]`, http.StatusBadRequest)
	inject("slow-freeze", `["/var","10ms"]`, http.StatusNoContent)
	inject("refuse-freeze", `[]`, http.StatusBadRequest)
	inject("refuse-freeze", `["/srv/data","no","way"]`, http.StatusNoContent)
	require.Contains(t, run(t, c, freezeCommand+"freeze a 300 /var /srv/data").out, "fail refused /srv/data fsfreeze: /srv/data: freeze failed: no way\n")
	inject("refuse-freeze", `["/srv/data"]`, http.StatusNoContent)
	r := frozen(t, c, "b 300 /var /srv/data")
	inject("kill-freeze", "", http.StatusNoContent)
	require.Equal(t, 137, r.exit())
	endedBy(t, n, "b", "killed")
	r = frozen(t, c, "c 300 /var /srv/data")
	inject("kill-both-freeze", "", http.StatusNoContent)
	require.Equal(t, 137, r.exit())
	require.Len(t, n.Frozen(), 2)
	inject("thaw", "", http.StatusNoContent)
	require.Empty(t, n.Frozen())
	inject("without-freeze", "", http.StatusNoContent)
	require.Equal(t, 1, run(t, c, freezeCommand+"version").exit)
}
