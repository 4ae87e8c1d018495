package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/lab"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// brokenPackage cannot be configured until it is mended.
const brokenPackage = lab.PackageBroken

// hostsAtOnce bounds how many real hosts run at the same time, whatever -parallel says: each takes 100 MB, and more at once only boot more slowly.
const hostsAtOnce = 10

// openLab makes the lab of the whole run.
func openLab() (*lab.Lab, error) {
	kato, err := harness.Binary("kato")
	if err != nil {
		return nil, err
	}
	sudoers, err := os.ReadFile(harness.Root() + "/deploy/sudoers/katoflow")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return lab.Open(ctx, lab.Config{Name: "e2e", Kato: kato, Sudoers: sudoers, Log: func(string, ...any) {}})
}

// places is how many more hosts may run.
type places struct {
	mu   sync.Mutex
	free int
	more chan struct{} // closed when some were given back
}

func (p *places) take(n int) {
	for {
		p.mu.Lock()
		if n <= p.free {
			p.free -= n
			p.mu.Unlock()
			return
		}
		more := p.more
		p.mu.Unlock()
		<-more
	}
}

func (p *places) give(n int) {
	p.mu.Lock()
	p.free += n
	close(p.more)
	p.more = make(chan struct{})
	p.mu.Unlock()
}

// hosts is a cluster of the lab.
type hosts struct {
	*lab.Cluster
	t *testing.T
	// held are the releases of apt locks, by host.
	held map[string][]func()
}

func startHosts(t *testing.T, cfg config) cluster {
	t.Helper()
	lc := lab.ClusterConfig{Name: cfg.name, Platform: cfg.platform, DiskSize: cfg.disk, Images: cfg.images, Registry: cfg.registry}
	if cfg.images {
		sudoers, err := os.ReadFile(harness.Root() + "/deploy/sudoers/katoflow-images")
		require.NoError(t, err)
		lc.Sudoers = map[string][]byte{"katoflow-images": sudoers}
	}
	if cfg.rootShell {
		sudoers, err := os.ReadFile(harness.Root() + "/deploy/sudoers/katoflow-shell")
		require.NoError(t, err)
		lc.Sudoers = map[string][]byte{"katoflow-shell": sudoers}
	}
	if cfg.freezes {
		sudoers, err := os.ReadFile(harness.Root() + "/deploy/sudoers/katoflow-freeze")
		require.NoError(t, err)
		program, err := os.ReadFile(harness.Root() + "/deploy/node/katoflow-freeze")
		require.NoError(t, err)
		lc.Sudoers, lc.Programs = map[string][]byte{"katoflow-freeze": sudoers}, map[string][]byte{"katoflow-freeze": program}
	}
	if cfg.everything {
		lc.Sudoers = map[string][]byte{"nopasswd": []byte(lab.LoginUser + " ALL=(ALL) NOPASSWD: ALL\n")}
	}
	if cfg.nodes == nil {
		lc.Nodes = lab.DefaultNodes(5)
	}
	for _, n := range cfg.nodes {
		node := lab.NodeConfig{Name: n.name, Roles: n.roles, Shell: n.shell}
		for _, d := range n.disks {
			node.Disks = append(node.Disks, lab.Disk{Path: d.path, Size: d.size, Options: d.options, NotInFstab: d.notInFstab})
		}
		if n.calm {
			node.Pending = []string{lab.PackageQuick, lab.PackageSlow, lab.PackageSSH}
		}
		if n.alone {
			node.Pending = []string{}
		}
		lc.Nodes = append(lc.Nodes, node)
	}
	for i := range lc.Nodes {
		lc.Nodes[i].Slow = max(cfg.slow, 100*time.Millisecond)
	}
	if n := len(lc.Nodes) + cfg.beside; !cfg.seated {
		shared.places.take(n)
		t.Cleanup(func() { shared.places.give(n) })
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c, err := shared.lab.Start(ctx, lc)
	require.NoError(t, err)
	for _, n := range cfg.nodes {
		if n.breaks {
			if err := c.Host(n.name).Release(); err != nil {
				_ = c.Close()
				require.NoError(t, err)
			}
		}
	}
	return &hosts{Cluster: c, t: t, held: map[string][]func(){}}
}

func (c *hosts) LoginUser() string { return lab.LoginUser }

func (c *hosts) Node(name string) machine {
	h := c.Host(name)
	if h == nil {
		panic("there is no host " + name)
	}
	return host{h, c}
}

func (c *hosts) Nodes() []machine {
	var out []machine
	for _, h := range c.Hosts() {
		out = append(out, host{h, c})
	}
	return out
}

func (c *hosts) Commands() []execution {
	var out []execution
	for _, n := range c.Nodes() {
		out = append(out, n.Commands()...)
	}
	slices.SortStableFunc(out, func(a, b execution) int { return a.Start.Compare(b.Start) })
	return out
}

// MaxOutOfService counts how many hosts had their packages upgraded, were down or booted at one moment.
func (c *hosts) MaxOutOfService() int {
	type moment struct {
		at   time.Time
		host string
		step int
	}
	var all []moment
	for _, h := range c.Hosts() {
		for _, o := range h.Outages()[1:] { // the first is its first boot
			up := o.Up
			if up.IsZero() {
				up = time.Now()
			}
			all = append(all, moment{o.Down, h.Name(), 1}, moment{up, h.Name(), -1})
		}
		for _, e := range (host{h, c}).Commands() {
			if e.Argv[0] == "unattended-upgrades" {
				end := e.End
				if end.IsZero() {
					end = time.Now()
				}
				all = append(all, moment{e.Start, h.Name(), 1}, moment{end, h.Name(), -1})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.step, b.step)) })
	depth, worst := map[string]int{}, 0
	for _, m := range all {
		if depth[m.host] += m.step; depth[m.host] == 0 {
			delete(depth, m.host)
		}
		worst = max(worst, len(depth))
	}
	return worst
}

// Maintenance reads the Core's configuration from its disk, because the Core may be down.
func (c *hosts) Maintenance() bool {
	c.t.Helper()
	for _, h := range c.Hosts() {
		b, err := h.ReadFile("/var/lib/kato/state.json")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(c.t, err)
		var state struct {
			Config map[string]map[string]any `json:"config"`
		}
		require.NoError(c.t, json.Unmarshal(b, &state))
		if len(state.Config) > 0 {
			on := state.Config["cloud_controller_ng"]["maintenance_mode"]
			return on == true || on == "true"
		}
	}
	return false
}

// host is a host of the lab. What cannot be done to it, or read from it, fails the test.
type host struct {
	*lab.Host
	c *hosts
}

func (h host) must(err error) {
	h.c.t.Helper()
	require.NoError(h.c.t, err)
}

func (h host) Port() int { return 22 }

// Running tells that the host has booted: its sshd has answered since it was last down.
func (h host) Running() bool {
	all := h.Outages()
	return h.Host.Running() && len(all) > 0 && !all[len(all)-1].Up.IsZero()
}

func (h host) Commands() []execution {
	h.c.t.Helper()
	ran, err := h.Host.Commands()
	h.must(err)
	var out []execution
	for _, e := range ran {
		x := execution{Node: e.Node, Argv: e.Argv, Job: e.Job, Start: e.Start, End: e.End, ExitCode: e.ExitCode}
		for _, o := range h.Outages() {
			if x.End.IsZero() && o.Down.After(x.Start) { // it went down with the host
				x.End, x.ExitCode = o.Down, 137
			}
		}
		out = append(out, x)
	}
	return out
}

func (h host) PendingCount() int {
	n, err := h.Host.PendingCount()
	h.must(err)
	return n
}

func (h host) HalfConfigured() []string {
	names, err := h.Host.HalfConfigured()
	h.must(err)
	return names
}

func (h host) Packages() map[string]string {
	p, err := h.Host.Packages()
	h.must(err)
	return p
}

func (h host) DropConnections()    { h.must(h.Host.DropConnections()) }
func (h host) Refuse(on bool)      { h.must(h.Host.Refuse(on)) }
func (h host) Silence(on bool)     { h.must(h.Host.Silence(on)) }
func (h host) FillDisk(on bool)    { h.must(h.Host.FillDisk(on)) }
func (h host) RebootNow()          { h.must(h.Host.RebootNow()) }
func (h host) SudoPassword(b bool) { h.must(h.Host.SudoPassword(b)) }
func (h host) ChangeHostKey()      { h.must(h.Host.ChangeHostKey()) }
func (h host) RestoreHostKey()     { h.must(h.Host.RestoreHostKey()) }

func (h host) SkewClock(d time.Duration) { h.must(h.Host.SkewClock(d)) }

func (h host) MendPackage(string) { h.must(h.Host.Mend()) }

func (h host) HoldAptLock(d time.Duration) (release func()) {
	end, err := h.Host.HoldAptLock(d)
	h.must(err)
	release = sync.OnceFunc(end)
	h.c.t.Cleanup(release)
	h.c.held[h.Name()] = append(h.c.held[h.Name()], release)
	return release
}

// Connections counts the logins in the host's journal.
func (h host) Connections() int {
	n, err := strconv.Atoi(strings.TrimSpace(h.run("journalctl -q --no-pager -t sshd | grep -c '^.*Accepted publickey' || true")))
	h.must(err)
	return n
}

// SlowBoot holds the boot's own end back, so that sshd answers later.
func (h host) SlowBoot(d time.Duration) {
	const unit = "/etc/systemd/system/katoflow-lab-slow-boot.service"
	h.run("cat >"+unit+` <<END
[Unit]
DefaultDependencies=no
Before=ssh.service
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sleep "$1"
[Install]
WantedBy=multi-user.target
END
systemctl enable -q katoflow-lab-slow-boot.service`, fmt.Sprintf("%.3f", d.Seconds()))
}

// patched requires that dpkg itself says that every package of the lab is installed in the archive's version, but those on hold, and that a package which
// restarts sshd did so.
func (h host) patched() {
	h.c.t.Helper()
	held := strings.Fields(h.run("apt-mark showhold"))
	for line := range strings.Lines(h.run("dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n' 'katoflow-lab-*'")) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		want := "2.0 installed"
		if slices.Contains(held, name) {
			want = "1.0 installed"
		}
		require.Equal(h.c.t, want, state, "%s on %s", name, h.Name())
	}
}

// run runs a script as root on the host, past sshd and network.
func (h host) run(script string, args ...string) string {
	h.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := h.Exec(ctx, strings.ReplaceAll(script, "\t", ""), args...)
	h.must(err)
	return out
}

func (h host) RebootDoesNothing(on bool) {
	if on {
		h.FailCommand("reboot", -1, 0, "")
	} else {
		h.HealCommands()
	}
}

func (h host) FailCommand(name string, times, exit int, stderr string) {
	h.must(h.Host.FailCommand(name, times, exit, stderr))
}
func (h host) HangCommand(name string, times int) { h.must(h.Host.HangCommand(name, times)) }
func (h host) SlowCommand(name string, times int, d time.Duration) {
	h.must(h.Host.SlowCommand(name, times, d))
}

func (h host) ExportSize(bytes int64) error {
	return h.again(func() error { return h.Host.ExportSize(bytes) })
}
func (h host) ExportTime(d time.Duration) error {
	return h.again(func() error { return h.Host.ExportTime(d) })
}
func (h host) ExportFault(f katodouble.ExportFault, times, exit int) error {
	return h.again(func() error { return h.Host.ExportFault(f, times, exit) })
}

// again asks the host's kato until it answers, which it may not when the host has just booted.
func (h host) again(ask func() error) error {
	var last error
	if err := waitFor(5*time.Second, "kato of "+h.Name(), func() (bool, error) {
		last = ask()
		return last == nil, nil
	}); err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return nil
}

func (h host) HealCommands()        { h.must(h.Host.HealCommands()) }
func (h host) HealExports()         { h.must(h.Host.HealExports()) }
func (h host) NoCoreAccess(on bool) { h.must(h.Host.NoCoreAccess(on)) }
func (h host) NoOutbound(on bool)   { h.must(h.Host.NoOutbound(on)) }
func (h host) DropOutbound()        { h.must(h.Host.DropOutbound()) }

func (h host) StopRole(role string) { h.patch(katodouble.StatePatch{Stop: []string{role}}) }
func (h host) RoleNeverStarts(role string) {
	h.patch(katodouble.StatePatch{NeverStart: []string{role}})
}
func (h host) StartRole(role string) { h.patch(katodouble.StatePatch{Start: []string{role}}) }
func (h host) StoppedRoles() []string {
	s, err := h.KatoState()
	h.must(err)
	return s.Stopped
}

// patch changes what the host's kato says of it.
func (h host) patch(p katodouble.StatePatch) { h.must(h.Kato(p)) }

// Heal ends what can be ended on any host at any time; the faults of its network, clock and keys are ended by those who made them.
func (h host) Heal() {
	for _, release := range h.c.held[h.Name()] {
		release()
	}
	h.HealCommands()
	h.NeverReturn(false)
	h.PowerOn()
}

// realImages is docker of a real DEA, asked from outside of it.
type realImages struct {
	t *testing.T
	h host
}

func (d realImages) docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := d.h.Docker(ctx, args...)
	return string(out), err
}

func (d realImages) ImageID(name string) string {
	out, err := d.docker("image", "inspect", "--format", "{{.Id}}", name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func (d realImages) PendingIn(name string) []string {
	out, err := d.docker("run", "--rm", name, "sh", "-c", "apt-get -qq update >&2; apt-get -s dist-upgrade")
	require.NoError(d.t, err, out)
	var names []string
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "Inst" {
			names = append(names, words[1])
		}
	}
	return names
}
