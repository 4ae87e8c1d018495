package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
	"github.com/katoflow/katoflow/internal/operation"
)

// frozenAt is a file system of every node, which is frozen while snapshots are taken.
const frozenAt = "/mnt/data"

// snapctl takes snapshots of the disks of real hosts: copies of the files of this machine that they lie on. A copy takes as long as the file slow says.
const snapctl = `#!/bin/sh
disk=%[1]s/$2
case $1 in
take)
	[ ! -e "$disk/snap/$3" ] || exit 0
	printf '%%s\n' "$3" >>"$disk/asked"
	if [ -e "$disk/fail" ]; then
		rm "$disk/fail"
		echo 'the storage gives no snapshot' >&2
		exit 1
	fi
	cp --sparse=always "$disk/image" "$disk/part" || exit 1
	[ ! -e "$disk/slow" ] || sleep "$(cat "$disk/slow")"
	mv "$disk/part" "$disk/snap/$3"
	;;
find)
	[ -e "$disk/snap/$3" ] || exit 3
	echo ready
	;;
list)
	[ -d "$disk" ] || exit 3
	ls "$disk/snap"
	;;
delete) rm -f "$disk/snap/$3" ;;
power) echo on ;;
esac
`

// freezable gives every node a file system that can be frozen, and what freezes it.
func freezable(c *config) {
	c.freezes = true
	for i := range c.nodes {
		c.nodes[i].disks = []disk{{path: frozenAt}}
	}
}

// freezing is a site whose nodes have a file system each that is frozen for snapshots, at most for so long.
func freezing(t *testing.T, deadline time.Duration, options ...siteOption) *site {
	t.Helper()
	s := newSite(t, nil, nil, append(append([]siteOption{onVMs}, options...), freezable)...)
	freeze := fmt.Sprintf("    hypervisor:\n      freeze: {mounts: [%s], deadline: %s}\n", frozenAt, operation.Duration(deadline))
	if !onHosts() {
		s.replace("    hypervisor:\n", freeze)
		return s
	}
	if _, err := os.Stat(hypervisortest.SSHDPath); err != nil {
		require.NoError(t, err, "it is in Debian's package openssh-server")
	}
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "snapctl"), fmt.Appendf(nil, snapctl, s.vms()), 0o755))
	for _, n := range s.names() {
		require.NoError(t, os.MkdirAll(filepath.Join(s.vms(), n, "snap"), 0o755))
		require.NoError(t, os.Symlink(s.host(n).DiskImage(frozenAt), filepath.Join(s.vms(), n, "image")))
	}
	sshd := hypervisortest.ServeSSH(t, bin)
	s.replace("    nodes:\n", freeze+fmt.Sprintf(`      provider: command
      hosts: [{name: storage-1, address: 127.0.0.1, ssh: {user: %s, port: %d, key_files: [%s], known_hosts: [%s]}}]
      command:
        snapshot: [snapctl, take, "{vm}", "{name}"]
        find: [snapctl, find, "{vm}", "{name}"]
        list: [snapctl, list, "{vm}"]
        delete: [snapctl, delete, "{vm}", "{name}"]
        power: [snapctl, power, "{vm}"]
    nodes:
`, sshd.User, sshd.Port, sshd.Key, sshd.KnownHosts))
	return s
}

// vms is the folder of the disks of real hosts.
func (s *site) vms() string { return filepath.Join(s.Dir, "vms") }

func (s *site) host(name string) host {
	s.t.Helper()
	h, ok := s.cluster.Node(name).(host)
	require.True(s.t, ok)
	return h
}

// shots are the snapshots of all nodes by name, and whether the node's file system was frozen in each. A frozen ext4 has everything on the disk and its journal empty, which its superblock says.
func (s *site) shots() map[string]map[string]bool {
	s.t.Helper()
	out := map[string]map[string]bool{}
	add := func(node, name string, frozen bool) {
		if out[name] == nil {
			out[name] = map[string]bool{}
		}
		out[name][node] = frozen
	}
	if !onHosts() {
		for _, have := range s.hypervisor().Snapshots() {
			add(have.Node, have.Name, slices.Contains(have.Frozen, frozenAt))
		}
		return out
	}
	for _, n := range s.names() {
		images, err := filepath.Glob(filepath.Join(s.vms(), n, "snap", "*"))
		require.NoError(s.t, err)
		for _, image := range images {
			said, err := exec.Command("dumpe2fs", "-h", image).Output()
			require.NoError(s.t, err)
			require.Contains(s.t, string(said), "has_journal")
			add(n, filepath.Base(image), !strings.Contains(string(said), "needs_recovery"))
		}
	}
	return out
}

// asked is how many snapshots of a node were asked for.
func (s *site) asked(node string) int {
	if !onHosts() {
		return s.hypervisor().Asked(node)
	}
	b, _ := os.ReadFile(filepath.Join(s.vms(), node, "asked"))
	return strings.Count(string(b), "\n")
}

// slowShots makes every snapshot of a node take so much longer; failShot lets the next one fail.
func (s *site) slowShots(node string, d time.Duration) {
	if !onHosts() {
		s.hypervisor().SlowSnapshots(node, d)
		return
	}
	require.NoError(s.t, os.WriteFile(filepath.Join(s.vms(), node, "slow"), fmt.Appendf(nil, "%.3f\n", d.Seconds()), 0o600))
}

func (s *site) failShot(node string) {
	if !onHosts() {
		s.hypervisor().FailSnapshots(node, 1)
		return
	}
	require.NoError(s.t, os.WriteFile(filepath.Join(s.vms(), node, "fail"), nil, 0o600))
}

// frozen says whether a node's file system is frozen now.
func (s *site) frozen(node string) bool {
	s.t.Helper()
	if !onHosts() {
		return len(s.simulated(node).Frozen()) > 0
	}
	// A write to it waits for the thaw.
	said := s.host(node).run("timeout -s KILL 5 sh -c 'echo >" + frozenAt + "/probe' >/dev/null 2>&1; echo $?")
	return strings.TrimSpace(said) != "0"
}

// stillFrozen says what the program on the node says, without a write that would wait.
func (s *site) stillFrozen(node string) bool {
	s.t.Helper()
	if !onHosts() {
		return len(s.simulated(node).Frozen()) > 0
	}
	return strings.TrimSpace(s.host(node).run("cat /run/katoflow-freeze/*/state | grep -c '^end ' || true")) == "0"
}

// freezes says how many freezes of a node began to hold.
func (s *site) freezes(node string) int {
	s.t.Helper()
	if !onHosts() {
		n := 0
		for _, e := range s.cluster.(simulatedCluster).Events() {
			if e.Node == node && e.Kind == "frozen" {
				n++
			}
		}
		return n
	}
	said := s.host(node).run("cat /run/katoflow-freeze/*/state 2>/dev/null | grep -c '^all ' || true")
	var n int
	_, err := fmt.Sscan(said, &n)
	require.NoError(s.t, err, said)
	return n
}

// held waits until snapshots are asked for, when the file systems of all nodes are frozen.
func (s *site) held() {
	s.t.Helper()
	s.eventually(60*time.Second, "snapshots to be asked for", func() bool {
		for _, n := range s.names() {
			if s.asked(n) == 0 {
				return false
			}
		}
		return true
	})
}

// thawed requires that nothing is frozen, and the cluster as it was before.
func (o *op) thawed() {
	o.t.Helper()
	require.False(o.t, o.cluster.Maintenance(), "maintenance mode was put back")
	for _, n := range o.names() {
		require.False(o.t, o.frozen(n), "%s is frozen yet", n)
	}
	again := o.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(o.t, again)
}

// allFrozen requires a set of one snapshot of every node, all of one round and each of a frozen file system, with a moment that says so, and nothing frozen any more.
func (o *op) allFrozen(r operation.Report) {
	o.t.Helper()
	set := r.Snapshot
	require.NotNil(o.t, set)
	require.NotEmpty(o.t, set.Location)
	all := o.shots()
	require.Len(o.t, all, 1, "snapshots of one round, and none of another: %v", all)
	name := set.Snapshots[0].Name
	require.Len(o.t, all[name], len(o.names()))
	for node, frozen := range all[name] {
		require.True(o.t, frozen, "%s was not frozen in its snapshot", node)
	}
	m := set.Moment
	require.True(o.t, m.Measured && m.Inside, "%+v", m)
	require.Equal(o.t, "file systems frozen", m.Quiet)
	require.Positive(o.t, set.Frozen)
	var manifest operation.SnapshotSet
	require.NoError(o.t, json.Unmarshal(o.object(strings.TrimPrefix(set.Location, "s3://"+o.bucket.Name+"/")), &manifest))
	require.Contains(o.t, manifest.Quiesce, operation.QuiesceFrozen)
	require.Equal(o.t, m, manifest.Moment)
	o.thawed()
}

func TestFreeze_OfRunningVMs_EverySnapshotIsOfAFrozenFileSystem(t *testing.T) {
	t.Parallel()
	s := freezing(t, time.Minute, deas(2))
	s.worker("")
	// Without it the snapshots are as after a power cut: the evidence can fail.
	o := s.snapshot("--quiesce", "none")
	o.done(60 * time.Second)
	for name, all := range s.shots() {
		for node, frozen := range all {
			require.False(t, frozen, "%s of %s", name, node)
		}
	}
	s.cli(0, "snapshot", "delete", s.cluster.Name(), o.id, "--yes")

	dry := s.cli(0, "snapshot", "create", s.cluster.Name(), "--quiesce", "frozen,maintenance", "--dry-run").Stdout
	require.Contains(t, dry, "katoflow-freeze freeze ID 60 "+frozenAt+"   # before the snapshots of all nodes; thawed after them")
	o = s.snapshot("--quiesce", "frozen,maintenance", "--max-skew", "30s")
	r := o.done(60 * time.Second)
	o.allFrozen(r)
	require.Equal(t, 1, r.Snapshot.Round)
	require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "in which nothing was written (file systems frozen)")
	t.Logf("frozen for at most %s, %s", r.Snapshot.Frozen, r.Snapshot.Moment)

	// With the roles stopped besides, it is the freeze that counts.
	s.cli(0, "snapshot", "delete", s.cluster.Name(), o.id, "--yes")
	o = s.snapshot("--quiesce", "frozen,roles-stopped")
	o.allFrozen(o.done(90 * time.Second))
}

func TestFreeze_ThatGoesWrong_VoidsTheRoundAndLeavesNothingFrozen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// simulated: what real hosts are not made to do.
		simulated bool
		deadline  time.Duration
		// before is done before the operation begins, amid when the file systems of all nodes are frozen.
		before, amid func(s *site)
		void         string
	}{
		"a node refuses": {simulated: true, before: func(s *site) { s.simulated("dea-01").RefuseFreeze(frozenAt, "Operation not supported") },
			void: "round 1: dea-01: cannot freeze " + frozenAt + ", everything is thawed again: "},
		"a node freezes slowly": {simulated: true, deadline: 6 * time.Second, before: func(s *site) { s.simulated("dea-01").SlowFreeze(frozenAt, 5*time.Second) },
			void: "round 1: dea-01: cannot freeze: " + frozenAt + " takes too long"},
		"the connection to a node is dropped while it is frozen": {deadline: 20 * time.Second, amid: func(s *site) { s.cluster.Node("dea-01").DropConnections() },
			void: "round 1: dea-01: its file systems did not stay frozen: the connection to the node ended"},
		"the network of a node is cut until after the deadline": {deadline: 6 * time.Second, amid: func(s *site) {
			n := s.cluster.Node("dea-01")
			n.Silence(true)
			s.eventually(30*time.Second, "the deadline on the node", func() bool { return !s.frozen("dea-01") })
			n.Silence(false)
		}, void: "round 1: dea-01: "},
		"what looks after it is killed": {deadline: 20 * time.Second, amid: func(s *site) { s.killFreeze("dea-01") },
			void: "round 1: dea-01: its file systems did not stay frozen: "},
		"the snapshots take longer than the freeze may": {deadline: 6 * time.Second, before: func(s *site) { s.slowShots("core", 9*time.Second) },
			void: "deadline of the "},
		"a snapshot fails": {before: func(s *site) { s.failShot("dea-01") }, void: "round 1: dea-01: command snapshot ended with exit code 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.simulated {
				onlySimulated(t, "a kernel is not made to")
			}
			t.Parallel()
			if c.deadline == 0 {
				c.deadline = time.Minute
			}
			s := freezing(t, c.deadline, deas(1))
			s.worker("")
			if c.before != nil {
				c.before(s)
			}
			if c.amid != nil {
				s.slowShots("core", in(4*time.Second, 6*time.Second))
			}
			f := s.fault("file systems frozen for snapshots: %s", name)
			o := s.snapshot("--quiesce", "frozen", "--rounds", "9")
			if c.amid != nil {
				s.held()
				c.amid(s)
			}
			o.until(90*time.Second, "a void round", func(r operation.Report) bool { return r.Snapshot != nil && len(r.Snapshot.Void) > 0 })
			s.slowShots("core", 0)
			if !onHosts() {
				s.simulated("dea-01").RefuseFreeze(frozenAt, "")
				s.simulated("dea-01").SlowFreeze(frozenAt, 0)
			}
			r := o.done(90 * time.Second)
			o.allFrozen(r)
			require.GreaterOrEqual(t, r.Snapshot.Round, 2)
			require.Contains(t, r.Snapshot.Void[0], c.void)
			f.end("void, thawed, the next round counts")
		})
	}
}

// killFreeze kills the process of a node that holds its file systems frozen.
func (s *site) killFreeze(node string) {
	s.t.Helper()
	if !onHosts() {
		s.simulated(node).KillFreeze()
		return
	}
	s.host(node).run("pkill -KILL -f '^sh /usr/local/sbin/katoflow-freeze run '")
}

func TestFreeze_WorkerKilledWhileNobodyReachesANode_ItThawsByItself(t *testing.T) {
	t.Parallel()
	s := freezing(t, 25*time.Second, deas(1))
	w := s.worker("")
	s.slowShots("core", 60*time.Second)
	f := s.fault("the network of a node cut and the worker killed while file systems are frozen")
	o := s.snapshot("--quiesce", "frozen", "--rounds", "9")
	s.held()
	n := s.cluster.Node("dea-01")
	n.Silence(true)
	w.Kill()
	killed.Add(1)
	s.eventually(20*time.Second, "the other node, whose connection ended, to thaw", func() bool { return !s.frozen("core") })
	require.Equal(t, 1, s.freezes("dea-01"))
	require.True(t, s.stillFrozen("dea-01"), "nobody has told this one")
	s.eventually(40*time.Second, "the node to thaw", func() bool { return !s.stillFrozen("dea-01") })
	n.Silence(false)
	s.slowShots("core", 0)
	s.worker("")
	r := o.done(2 * time.Minute)
	o.allFrozen(r)
	f.end("thawed by itself; a later round counts")
}

func TestFreeze_Cancelled_ThawsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := freezing(t, time.Minute, deas(1))
	s.worker("")
	s.slowShots("core", 10*time.Second) // what was asked for is carried out all the same, long after the thaw
	f := s.fault("snapshots cancelled while file systems are frozen")
	o := s.snapshot("--quiesce", "frozen,maintenance")
	s.held()
	carriedOut := time.Now().Add(12 * time.Second)
	s.cli(0, "op", "cancel", o.id, "--detach")
	s.eventually(20*time.Second, "all nodes to thaw", func() bool { return !s.frozen("core") && !s.frozen("dea-01") })
	r, err := o.end(90 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	time.Sleep(time.Until(carriedOut))
	require.Empty(t, s.shots())
	o.thawed()
	f.end("thawed at once, ended as cancelled, nothing left")
}

func TestFreeze_Preflight_NamesAllProblemsAtOnceAndTouchesNothing(t *testing.T) {
	onlySimulated(t, "what the program says is tried with it in internal/remote")
	t.Parallel()
	s := freezing(t, time.Minute, deas(2))
	s.worker("")
	s.simulated("dea-01").WithoutFreeze()
	f := s.fault("katoflow-freeze missing on one node, a mount point that is none on the others")
	s.replace("freeze: {mounts: ["+frozenAt+"]", "freeze: {mounts: [/mnt/other]")
	out := s.cli(7, "snapshot", "create", s.cluster.Name(), "--quiesce", "frozen")
	require.Contains(t, out.Stderr, "dea-01: katoflow-freeze is not installed")
	require.Contains(t, out.Stderr, "core: /mnt/other is no mount point")
	require.Contains(t, out.Stderr, "dea-02: /mnt/other is no mount point")
	require.Empty(t, s.cluster.Commands())
	s.replace("freeze: {mounts: [/mnt/other], ", "freeze: {")
	require.Contains(t, s.cli(2, "snapshot", "create", s.cluster.Name(), "--quiesce", "frozen").Stderr, "the inventory names no mount points of core to freeze")
	require.Contains(t, s.cli(2, "snapshot", "create", s.cluster.Name(), "--quiesce", "frozen,vms-stopped").Stderr, "a VM that is off writes nothing")
	f.end(refused)
}

func TestFreeze_BothProcessesKilled_AsksAndNamesTheRemedy(t *testing.T) {
	onlySimulated(t, "two processes are not killed in one moment on purpose")
	t.Parallel()
	s := freezing(t, 6*time.Second, deas(1))
	s.worker("")
	s.slowShots("core", 4*time.Second)
	f := s.fault("both processes that look after a freeze killed at once")
	o := s.snapshot("--quiesce", "frozen")
	s.held()
	s.simulated("dea-01").KillBothFreeze()
	q := o.question(2 * time.Minute)
	require.Equal(t, "cluster/"+operation.StepSnapshots, q.Node+"/"+q.Step)
	require.Contains(t, q.Cause.Message, "fsfreeze -u "+frozenAt)
	s.simulated("dea-01").Thaw()
	s.slowShots("core", 0)
	o.decide(q, operation.Retry)
	o.allFrozen(o.done(90 * time.Second))
	f.end(parkedFor("snapshots ("+q.Cause.Type+")", "its message names the command that thaws; retried"))
}

// TestKillMatrix_OfAFreeze kills the worker around and in the middle of what is frozen: nothing stays so, and the set that counts is of frozen file systems.
func TestKillMatrix_OfAFreeze(t *testing.T) {
	t.Parallel()
	m := matrix{
		site: func(t *testing.T) *site {
			s := freezing(t, 20*time.Second, deas(1))
			s.slowShots("core", in(time.Second, 3*time.Second))
			return s
		},
		start: func(s *site) *op {
			return s.snapshotDirectly(operation.SnapshotInput{Quiesce: []operation.Quiesce{operation.QuiesceFrozen, operation.QuiesceMaintenance}, Rounds: 9})
		},
		intact: func(o *op, _ int) { o.allFrozen(o.done(3 * time.Minute)) },
	}
	holds := func(ctx context.Context, o *op) (func(), error) {
		was := o.freezes("core")
		return nil, waitIn(ctx, "file systems to be frozen", func() bool { return o.freezes("core") > was && o.freezes("dea-01") > 0 })
	}
	taken := func(ctx context.Context, o *op) (func(), error) {
		was := o.asked("dea-01")
		return nil, waitIn(ctx, "a snapshot to be taken", func() bool { return o.asked("dea-01") > was })
	}
	t.Run("points", func(t *testing.T) {
		m.lanes(t, "freeze", 2, slices.Concat(boundaries("SnapshotReady"),
			within("TakeSnapshots", killPoint{name: "when all is frozen", moment: holds}, killPoint{name: "when snapshots were asked for", moment: taken}), boundaries("Usable")))
	})
	tellKills(t, "freeze")
}
