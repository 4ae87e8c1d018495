package e2e

import (
	"cmp"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/simcluster"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// cluster is what the cases need of a cluster, simulated or of real hosts. Both are asked in the same words, so that one suite holds for both; where
// their answers differ, the simulated one is wrong.
type cluster interface {
	Name() string
	// Dir holds the cluster's files.
	Dir() string
	ClientKeyPath() string
	KnownHostsPath() string
	LoginUser() string
	InventoryYAML() []byte
	// Node of that name; there must be one.
	Node(name string) machine
	// Nodes in inventory order.
	Nodes() []machine
	// Commands that change a node, of all nodes, in order of their start.
	Commands() []execution
	// MaxOutOfService is the most nodes that were out of service at one moment: having packages upgraded, down or booting.
	MaxOutOfService() int
	// Maintenance says whether ALS's maintenance mode is on.
	Maintenance() bool
	Close() error
}

// machine is a node with its evidence and its faults. Package simcluster says what each fault does.
type machine interface {
	Name() string
	Address() string
	Port() int

	Commands() []execution
	PendingCount() int
	HalfConfigured() []string
	Packages() map[string]string
	Boots() int
	BootID() string
	Running() bool
	Connections() int
	ReadFile(path string) ([]byte, error)

	DropConnections()
	Refuse(on bool)
	Silence(on bool)
	FillDisk(on bool)
	HoldAptLock(d time.Duration) (release func())
	NeverReturn(on bool)
	SlowBoot(d time.Duration)
	PowerOff()
	PowerOn()
	RebootNow()
	RebootDoesNothing(on bool)
	SudoPassword(on bool)
	ChangeHostKey()
	RestoreHostKey()
	SkewClock(d time.Duration)
	// MendPackage lets the package that breaks be configured.
	MendPackage(name string)
	FailCommand(name string, times, exit int, stderr string)
	HangCommand(name string, times int)
	SlowCommand(name string, times int, d time.Duration)
	// HealCommands ends the three; a command that waits for SlowCommand's time does its work at once.
	HealCommands()
	// StopRole, RoleNeverStarts, StartRole and StoppedRoles are for nodes with kato.
	StopRole(role string)
	RoleNeverStarts(role string)
	StartRole(role string)
	StoppedRoles() []string
	// PatchWith and Patches are for nodes with kato, too.
	PatchWith(p katodouble.PatchesPatch) error
	Patches() (katodouble.NodePatches, error)
	// Heal ends every fault and powers the node on.
	Heal()
}

type execution = simcluster.Execution

// config of a site's cluster; the options mean the same in both worlds.
type config struct {
	name     string
	platform string // "als" or "plain"
	nodes    []nodeConfig
	// slow is how long the packages of a node take.
	slow time.Duration
	// s3: the site has a bucket. privateCA: it is reached over TLS, under an authority of its own.
	s3, privateCA bool
	// beside is how many hosts a second cluster of the site is going to have. Their places are taken with those of the first, so that no two sites wait for each other's.
	beside int
	// seated: the cluster's places have been taken already.
	seated bool
	// images: the DEAs have docker with a base image; registry: there is one that they push to.
	images, registry bool
	// rootShell: sudo runs a shell, as switching password logins and storage need it.
	rootShell bool
	// freezes: katoflow-freeze is installed.
	freezes bool
	// everything: sudo asks for nothing, as kato node upgrade needs it.
	everything bool
	// disk is the size in bytes of a real host's disk, 0 for the usual.
	disk int64
	// simulated changes what only the simulated cluster has.
	simulated []func(*simcluster.Config)
}

type nodeConfig struct {
	name  string
	roles []string
	// calm: none of the pending packages asks for a reboot.
	calm bool
	// breaks: one of the pending packages cannot be configured until it is mended.
	breaks bool
	// alone: nothing but the package that breaks is pending.
	alone bool
	// shell of the login user.
	shell string
	// disks are file systems of its own.
	disks []disk
}

// disk is a file system of a node, mounted at path; options are those of /etc/fstab. kind is its type, "" = ext4: a real host has no other.
type disk struct {
	path, options, kind string
	size                int64
	notInFstab          bool
}

type siteOption func(*config)

// plain nodes for tests that need no kato.
func plain(names ...string) siteOption {
	return func(c *config) {
		c.platform, c.nodes = "plain", nil
		for _, n := range names {
			c.nodes = append(c.nodes, nodeConfig{name: n})
		}
	}
}

// slow makes the packages of a node take so long.
func slow(d time.Duration) siteOption {
	return func(c *config) { c.slow = d }
}

// alike changes how the nodes named are made.
func alike(change func(*nodeConfig), names ...string) siteOption {
	return func(c *config) {
		for i := range c.nodes {
			for _, n := range names {
				if c.nodes[i].name == n {
					change(&c.nodes[i])
				}
			}
		}
	}
}

// withRegistry has a docker registry for the site.
func withRegistry(c *config) { c.registry = true }

// beside leaves room for a second cluster of so many hosts.
func beside(hosts int) siteOption {
	return func(c *config) { c.beside = hosts }
}

// simulating changes the simulated cluster in ways that real hosts do not have.
func simulating(change func(*simcluster.Config)) siteOption {
	return func(c *config) { c.simulated = append(c.simulated, change) }
}

// onlySimulated skips a case that has no sense on real hosts, or is not worth their time.
func onlySimulated(t *testing.T, why string) {
	t.Helper()
	if onHosts() {
		t.Skip("only on the simulated cluster: " + why)
	}
}

// onlyLab skips a case that the simulated cluster cannot show.
func onlyLab(t *testing.T, why string) {
	t.Helper()
	if !onHosts() {
		t.Skip("only in the lab of real hosts (KATOFLOW_LAB=1, as root): " + why)
	}
}

// onHosts tells that the cases run against real hosts.
func onHosts() bool { return shared.lab != nil }

// in chooses between a value for the simulated cluster and one for real hosts, which take seconds where the other takes milliseconds.
func in[T any](simulated, hosts T) T {
	if onHosts() {
		return hosts
	}
	return simulated
}

// stretched is a limit as the world needs it, on a machine that does other things besides. Real hosts boot and upgrade in seconds, and several of them share the machine.
func stretched(d time.Duration) time.Duration { return in(2*d, 4*d) }

// waitFor polls a condition. Evidence of real hosts is read from their files, which is not done all the time.
func waitFor(limit time.Duration, what string, condition func() (bool, error)) error {
	var last time.Time
	return harness.WaitFor(stretched(limit), what, func() (bool, error) {
		if onHosts() && time.Since(last) < 50*time.Millisecond {
			return false, nil
		}
		ok, err := condition()
		last = time.Now()
		return ok, err
	})
}

// simulatedCluster is the simulated one.
type simulatedCluster struct{ *simcluster.Cluster }

func startSimulated(t *testing.T, dir string, cfg config) cluster {
	t.Helper()
	sc := simcluster.Config{Dir: dir, Name: cfg.name, Platform: cfg.platform, BootTime: 100 * time.Millisecond, UpgradeTime: cfg.slow}
	for _, n := range cfg.nodes {
		node := simcluster.NodeConfig{Name: n.name, Roles: n.roles}
		if n.calm || n.breaks {
			node.Pending = []simcluster.Package{{Name: "libssl3", Old: "3.0.13-1", New: "3.0.14-1"}}
		}
		if n.breaks {
			if n.alone {
				node.Pending = nil
			}
			node.Pending = append(node.Pending, simcluster.Package{Name: brokenPackage, Old: "1.0", New: "2.0", PostinstFails: 1000})
		}
		for _, d := range n.disks {
			node.Mounts = append(node.Mounts, simcluster.Mount{Path: d.path, Size: d.size, Options: d.options, Type: cmp.Or(d.kind, "ext4"), NotInFstab: d.notInFstab})
		}
		sc.Nodes = append(sc.Nodes, node)
	}
	for _, change := range cfg.simulated {
		change(&sc)
	}
	c, err := simcluster.Start(sc)
	require.NoError(t, err)
	return simulatedCluster{c}
}

func (c simulatedCluster) Node(name string) machine {
	n := c.Cluster.Node(name)
	if n == nil {
		panic("there is no node " + name)
	}
	return n
}

func (c simulatedCluster) Nodes() []machine {
	var out []machine
	for _, n := range c.Cluster.Nodes() {
		out = append(out, n)
	}
	return out
}

// simulated is a node with the faults that only the simulated one has.
func (s *site) simulated(node string) *simcluster.Node {
	s.t.Helper()
	n, ok := s.cluster.Node(node).(*simcluster.Node)
	require.True(s.t, ok, "this fault is the simulated cluster's")
	return n
}

// fault is one line of the table that a run ends with.
type fault struct {
	s     *site
	name  string
	began time.Time
	done  bool
}

// fault notes that something goes wrong now; its end says what came of it.
func (s *site) fault(format string, args ...any) *fault {
	f := &fault{s: s, name: fmt.Sprintf(format, args...), began: time.Now()}
	s.t.Cleanup(func() {
		if !f.done {
			f.row("FAILED")
		}
	})
	return f
}

// The ends of a fault.
const (
	wentOn  = "went on by itself"
	refused = "refused before anything was touched"
)

// parkedFor is the end of a fault that the operator was asked about.
func parkedFor(step, then string) string { return "parked at " + step + ", " + then }

// end writes the fault's line and requires that no command was repeated.
func (f *fault) end(what string) {
	f.s.t.Helper()
	f.row(what)
	require.Empty(f.s.t, f.s.repeated())
}

func (f *fault) row(what string) {
	f.done = true
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.faults = append(shared.faults, fmt.Sprintf("%-78s | %-60s | %6.1f s | %d", f.name, what, time.Since(f.began).Seconds(), len(f.s.repeated())))
}

// faultTable is what all cases have noted.
func faultTable() string {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if len(shared.faults) == 0 {
		return ""
	}
	rows := append([]string(nil), shared.faults...)
	sort.Strings(rows)
	head := fmt.Sprintf("%-78s | %-60s | %8s | %s", "fault table: what went wrong ("+world()+")", "what came of it", "how long", "commands repeated")
	return head + "\n" + strings.Join(rows, "\n") + "\n"
}

// world names what the cases ran against.
func world() string { return in("simulated cluster", "lab of real hosts") }
