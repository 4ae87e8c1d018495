package simcluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// HypervisorConfig describes the hypervisor that the nodes' VMs run on. Its host is a machine of its own, with SSH as the nodes have, on which the program vmctl takes snapshots: it is what a
// site's own commands are (package hypervisor/command).
type HypervisorConfig struct {
	// CallMin and CallMax bound how long one snapshot takes; its moment is somewhere within.
	CallMin, CallMax time.Duration
	// CopyTime is how long a snapshot is pending after that.
	CopyTime time.Duration
	// Disks: snapshots hold what the nodes' disks do, so that they can be gone back to. It takes some 50 ms of processor time each.
	Disks bool
	// Quota is the most snapshots a VM may have; 0 for no limit.
	Quota int
	// ShutdownTime of a guest that is asked to (default 50 ms).
	ShutdownTime time.Duration
}

// HypervisorName is the host's name in the inventory.
const HypervisorName = "hypervisor-1"

// SnapshotState is a snapshot, with what was true of the node at its moment.
type SnapshotState struct {
	Node, Name string
	// At is the moment, by the clock of the machine that runs the simulation.
	At time.Time
	// Running: the VM was on. Roles that ran, in order. Maintenance: the mode was on. Frozen mount points.
	Running     bool
	Roles       []string
	Maintenance bool
	Frozen      []string
}

// Hypervisor is the simulated one.
type Hypervisor struct {
	cluster *Cluster
	host    *Node
	cfg     HypervisorConfig

	mu        sync.Mutex
	snapshots map[string][]*simSnapshot
	asked     map[string]int // snapshots that were asked for, by node
	reverted  map[string]int // how often the disks of a node were put back
	faults    map[string]*hypervisorFault
	disks     int // folders of snapshots so far
}

type simSnapshot struct {
	SnapshotState
	ready  time.Time
	failed bool
	disk   *disk
}

// hypervisorFault is what goes wrong with the snapshots of one node.
type hypervisorFault struct {
	fail, lost, broken int           // so many times: refused; made, and the answer lost; made, and failed later
	slow               time.Duration // every one takes so much longer
	late               time.Duration // for so long after it was made nobody is shown it
	failBack, lostBack int           // so many rollbacks: refused; done, and the answer lost
	slowBack           time.Duration // every rollback takes so long
	hangs              bool          // the guest does not shut down
}

// Hypervisor of the cluster; nil when it has none.
func (c *Cluster) Hypervisor() *Hypervisor { return c.hypervisor }

func (c *Cluster) startHypervisor() error {
	if c.cfg.Hypervisor == nil {
		return nil
	}
	cfg := *c.cfg.Hypervisor
	if cfg.ShutdownTime == 0 {
		cfg.ShutdownTime = 50 * time.Millisecond
	}
	host, err := c.newNode(len(c.cfg.Nodes), NodeConfig{Name: HypervisorName, Pending: []Package{}, Mounts: []Mount{}})
	if err != nil {
		return err
	}
	c.hypervisor = &Hypervisor{cluster: c, host: host, cfg: cfg, snapshots: map[string][]*simSnapshot{}, asked: map[string]int{}, reverted: map[string]int{}, faults: map[string]*hypervisorFault{}}
	return nil
}

// Host is the machine that has the VMs, with the faults of any other.
func (h *Hypervisor) Host() *Node { return h.host }

// Snapshots of all nodes that are there, in order of their moments.
func (h *Hypervisor) Snapshots() []SnapshotState {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []SnapshotState
	for _, list := range h.snapshots {
		for _, s := range list {
			out = append(out, s.SnapshotState)
		}
	}
	slices.SortFunc(out, func(a, b SnapshotState) int { return a.At.Compare(b.At) })
	return out
}

// Asked is how many snapshots of a node were asked for, those that failed included.
func (h *Hypervisor) Asked(node string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[node]
}

// RolledBack is how often the disks of a node were put back.
func (h *Hypervisor) RolledBack(node string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reverted[node]
}

// HangShutdowns lets the guest of a node not shut down when it is asked to.
func (h *Hypervisor) HangShutdowns(node string) {
	h.change(node, func(f *hypervisorFault) { f.hangs = true })
}

// FailRollbacks refuses the next rollbacks of a node; LoseRollbackAnswers does them and breaks the connection instead of answering; SlowRollbacks makes each take so long.
func (h *Hypervisor) FailRollbacks(node string, times int) {
	h.change(node, func(f *hypervisorFault) { f.failBack = times })
}

// LoseRollbackAnswers is described at FailRollbacks.
func (h *Hypervisor) LoseRollbackAnswers(node string, times int) {
	h.change(node, func(f *hypervisorFault) { f.lostBack = times })
}

// SlowRollbacks is described at FailRollbacks.
func (h *Hypervisor) SlowRollbacks(node string, d time.Duration) {
	h.change(node, func(f *hypervisorFault) { f.slowBack = d })
}

// FailSnapshots refuses the next snapshots of a node; LoseAnswers makes them and breaks the connection instead of answering; BreakSnapshots makes them, and they turn out to have failed when they
// are copied; SlowSnapshots makes each take longer.
func (h *Hypervisor) FailSnapshots(node string, times int) {
	h.change(node, func(f *hypervisorFault) { f.fail = times })
}

// LoseAnswers is described at FailSnapshots.
func (h *Hypervisor) LoseAnswers(node string, times int) {
	h.change(node, func(f *hypervisorFault) { f.lost = times })
}

// BreakSnapshots is described at FailSnapshots.
func (h *Hypervisor) BreakSnapshots(node string, times int) {
	h.change(node, func(f *hypervisorFault) { f.broken = times })
}

// SlowSnapshots is described at FailSnapshots.
func (h *Hypervisor) SlowSnapshots(node string, d time.Duration) {
	h.change(node, func(f *hypervisorFault) { f.slow = d })
}

// ShowLate lets nobody see a snapshot of a node before it is so old, as clouds do that are consistent at last.
func (h *Hypervisor) ShowLate(node string, d time.Duration) {
	h.change(node, func(f *hypervisorFault) { f.late = d })
}

// Lose removes a snapshot of a node, by its place among them, as somebody at the hypervisor might.
func (h *Hypervisor) Lose(node string, i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshots[node] = slices.Delete(h.snapshots[node], i, i+1)
}

// Add makes a snapshot that nobody asked for, and that cannot be gone back to.
func (h *Hypervisor) Add(node, name string) {
	s := &simSnapshot{SnapshotState: h.cluster.stateOf(h.cluster.byName[node], name), failed: true}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshots[node] = append(h.snapshots[node], s)
}

func (h *Hypervisor) change(node string, do func(*hypervisorFault)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.faults[node]
	if f == nil {
		f = &hypervisorFault{}
		h.faults[node] = f
	}
	do(f)
	h.cluster.event(node, "fault", "hypervisor: %+v", *f)
}

func (h *Hypervisor) find(node, name string) *simSnapshot {
	for _, s := range h.snapshots[node] {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// take makes a snapshot somewhere within the time that it takes, and returns whether its answer is lost.
func (h *Hypervisor) take(c *invocation, n *Node, name string) (lost bool, err error) {
	h.mu.Lock()
	h.asked[n.name]++
	f := h.faults[n.name]
	if f == nil {
		f = &hypervisorFault{}
	}
	if h.find(n.name, name) != nil {
		h.mu.Unlock()
		return false, nil
	}
	if f.fail > 0 {
		f.fail--
		h.mu.Unlock()
		return false, fmt.Errorf("the storage of %s gives no snapshot", n.name)
	}
	if h.cfg.Quota > 0 && len(h.snapshots[n.name]) >= h.cfg.Quota {
		h.mu.Unlock()
		return false, fmt.Errorf("quota exceeded: %s has %d snapshots", n.name, h.cfg.Quota)
	}
	lost = f.lost > 0
	if lost {
		f.lost--
	}
	broken := f.broken > 0
	if broken {
		f.broken--
	}
	all := h.cfg.CallMin + f.slow
	if h.cfg.CallMax > h.cfg.CallMin {
		all += rand.N(h.cfg.CallMax - h.cfg.CallMin)
	}
	before := time.Duration(0)
	if all > 0 {
		before = rand.N(all)
	}
	h.mu.Unlock()
	// What was asked for is done, also when nobody waits for it any more: the hypervisor's own daemon does it.
	done := make(chan struct{})
	h.cluster.wg.Go(func() {
		defer close(done)
		if !h.wait(before) {
			return
		}
		s := &simSnapshot{SnapshotState: h.cluster.stateOf(n, name), failed: broken}
		if h.cfg.Disks {
			var err error
			if s.disk, err = n.capture(h.folder(n.name)); err != nil {
				s.failed = true
				h.cluster.event(n.name, "fault", "hypervisor: its disks cannot be copied: %v", err)
			}
		}
		h.mu.Lock()
		s.ready = time.Now().Add(all - before + h.cfg.CopyTime)
		if h.find(n.name, name) == nil {
			h.snapshots[n.name] = append(h.snapshots[n.name], s)
		}
		h.mu.Unlock()
		h.wait(all - before - time.Since(s.At)) // less what the copying of its disks took
	})
	select {
	case <-done:
		return lost, nil
	case <-c.p.ctx.Done():
		return lost, c.p.ctx.Err()
	}
}

// folder is a new one of the host, for the disks of a snapshot.
func (h *Hypervisor) folder(node string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disks++
	return filepath.Join(h.cluster.dir, "snapshots", fmt.Sprintf("%s-%d", node, h.disks))
}

// rollback puts the disks of a VM that is off back, and returns whether its answer is lost.
func (h *Hypervisor) rollback(n *Node, name string) (lost bool, err error) {
	n.power.Lock() // it cannot be switched on meanwhile
	defer n.power.Unlock()
	if n.Running() {
		return false, fmt.Errorf("vm-%s is on", n.name)
	}
	h.mu.Lock()
	s := h.find(n.name, name)
	f := h.faults[n.name]
	if f == nil {
		f = &hypervisorFault{}
	}
	switch {
	case s == nil || s.failed || s.disk == nil || time.Now().Before(s.ready):
		err = fmt.Errorf("%s has no snapshot %s that can be gone back to", n.name, name)
	case f.failBack > 0:
		f.failBack--
		err = fmt.Errorf("the storage of %s does not go back", n.name)
	case f.lostBack > 0:
		f.lostBack--
		lost = true
	}
	slow := f.slowBack
	h.mu.Unlock()
	if err != nil {
		return false, err
	}
	if !h.wait(slow) {
		return false, h.cluster.ctx.Err()
	}
	if err := n.putBack(s.disk); err != nil {
		return false, err
	}
	h.mu.Lock()
	h.reverted[n.name]++
	h.mu.Unlock()
	h.cluster.event(n.name, "rollback", "%s", name)
	return lost, nil
}

func (h *Hypervisor) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-h.cluster.ctx.Done():
		return false
	}
}

// shown are the snapshots of a node that can be seen.
func (h *Hypervisor) shown(node string) []*simSnapshot {
	all := h.snapshots[node]
	if f := h.faults[node]; f != nil && f.late > 0 {
		all = slices.DeleteFunc(slices.Clone(all), func(s *simSnapshot) bool { return time.Since(s.At) < f.late })
	}
	return all
}

// stateOf is what is true of a node now.
func (c *Cluster) stateOf(n *Node, name string) SnapshotState {
	s := SnapshotState{Node: n.name, Name: name, At: time.Now(), Running: n.Running(), Maintenance: c.Maintenance(), Frozen: n.Frozen()}
	if c.kato != nil && s.Running {
		if state, ok := c.kato.NodeState(n.address); ok {
			for role, how := range state.Roles {
				if strings.EqualFold(string(how), "running") {
					s.Roles = append(s.Roles, role)
				}
			}
			slices.Sort(s.Roles)
		}
	}
	return s
}

// vmctl is the program of the hypervisor's host: vmctl VERB VM [NAME].
func vmctl(c *invocation) int {
	h := c.node.cluster.hypervisor
	if h == nil || c.node != h.host {
		return c.fail(127, "there are no VMs here")
	}
	if len(c.argv) < 3 {
		return c.fail(2, "usage: vmctl take|find|list|delete|rollback|power|start|stop|kill|check VM [NAME]")
	}
	verb, vm, name := c.argv[1], strings.TrimPrefix(c.argv[2], "vm-"), ""
	if len(c.argv) > 3 {
		name = c.argv[3]
	}
	n := h.cluster.byName[vm]
	if n == nil {
		return c.fail(3, "no VM %s is here", c.argv[2])
	}
	switch verb {
	case "take":
		lost, err := h.take(c, n, name)
		if err != nil {
			return c.fail(1, "%v", err)
		}
		if lost {
			h.host.DropConnections()
			<-c.p.ctx.Done()
			return 1
		}
		c.printf("id=%s/%s\n", vm, name)
	case "rollback":
		lost, err := h.rollback(n, name)
		if err != nil {
			return c.fail(1, "%v", err)
		}
		if lost {
			h.host.DropConnections()
			<-c.p.ctx.Done()
			return 1
		}
	case "find":
		h.mu.Lock()
		defer h.mu.Unlock()
		s := h.find(vm, name)
		switch {
		case s == nil || !slices.Contains(h.shown(vm), s):
			return 3
		case time.Now().Before(s.ready):
			c.printf("pending id=%s/%s\n", vm, name)
		case s.failed:
			c.printf("failed id=%s/%s\n", vm, name)
		default:
			c.printf("ready id=%s/%s created=%s size=%d\n", vm, name, s.At.UTC().Format(time.RFC3339), 1<<20)
		}
	case "list":
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, s := range h.shown(vm) {
			c.printf("%s\n", s.Name)
		}
	case "delete":
		h.mu.Lock()
		defer h.mu.Unlock()
		shown := h.shown(vm)
		h.snapshots[vm] = slices.DeleteFunc(h.snapshots[vm], func(s *simSnapshot) bool {
			if !slices.Contains(shown, s) {
				return false
			}
			if s.Name == name && s.disk != nil {
				_ = os.RemoveAll(s.disk.files)
			}
			return s.Name == name
		})
	case "power":
		if n.Running() {
			c.printf("on\n")
		} else {
			c.printf("off\n")
		}
	case "start":
		h.cluster.wg.Go(n.PowerOn)
	case "stop":
		h.mu.Lock()
		hangs := h.faults[vm] != nil && h.faults[vm].hangs
		h.mu.Unlock()
		if hangs {
			break
		}
		asked := n.BootID()
		h.cluster.wg.Go(func() {
			if h.wait(h.cfg.ShutdownTime) {
				n.powerOff(asked) // a guest that is going down hears nothing more
			}
		})
	case "kill":
		n.PowerOff()
	case "check":
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.cfg.Quota > 0 && len(h.snapshots[vm]) >= h.cfg.Quota {
			c.printf("it has %d snapshots already, and %d is the quota: delete one\n", len(h.snapshots[vm]), h.cfg.Quota)
		}
	default:
		return c.fail(2, "unknown verb %s", verb)
	}
	return 0
}
