package simcluster

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func (n *Node) fault(format string, args ...any) {
	n.cluster.event(n.name, "fault", format, args...)
}

func (n *Node) set(f func(*faults)) {
	n.mu.Lock()
	f(&n.faults)
	n.mu.Unlock()
}

// DropConnections breaks every SSH connection; what runs on the node goes on.
func (n *Node) DropConnections() {
	n.fault("connections dropped")
	n.closeConns()
}

// Refuse makes the SSH port refuse connections while on, as a dead sshd does. Open connections stay.
func (n *Node) Refuse(on bool) {
	n.fault("refuse %v", on)
	n.power.Lock()
	defer n.power.Unlock()
	n.set(func(f *faults) { f.refuse = on })
	n.mu.Lock()
	l, running := n.listener, n.running
	if on {
		n.listener = nil
	}
	n.mu.Unlock()
	switch {
	case on && l != nil:
		l.Close()
	case !on && l == nil && running && !n.sshdDead():
		if err := n.listen(); err != nil {
			n.fault("listen: %v", err)
		}
	}
}

// Silence cuts the node's network while on: connections are accepted by the kernel and nothing comes back. What was sent meanwhile
// arrives when it ends.
func (n *Node) Silence(on bool) {
	n.fault("silence %v", on)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case on && n.silent == nil:
		n.silent = make(chan struct{})
	case !on && n.silent != nil:
		close(n.silent)
		n.silent = nil
	}
}

// Latency delays everything that arrives at the node.
func (n *Node) Latency(d time.Duration) {
	n.fault("latency %s", d)
	n.mu.Lock()
	n.latency = d
	n.mu.Unlock()
}

// FillDisk leaves no free block on the node's disk while on: files and folders cannot grow; bytes that are there can be overwritten. /run is
// not affected.
func (n *Node) FillDisk(on bool) {
	n.fault("disk full %v", on)
	n.tree.full.Store(on)
}

// HoldAptLock makes another process hold apt's and dpkg's locks until release is called, or for d when d > 0. A reboot ends it.
func (n *Node) HoldAptLock(d time.Duration) (release func()) {
	n.fault("apt lock held for %s", d)
	return n.packages.holdBy("apt.systemd.dai", d)
}

// NeverReturn makes reboots end switched off while on; PowerOn brings the node back.
func (n *Node) NeverReturn(on bool) {
	n.fault("never return %v", on)
	n.set(func(f *faults) { f.neverReturn = on })
}

// PowerOff pulls the plug: everything ends where it stands.
func (n *Node) PowerOff() {
	n.fault("power off")
	n.powerOff("")
}

// powerOff takes the power away, with a boot id only from that boot.
func (n *Node) powerOff(boot string) {
	n.power.Lock()
	defer n.power.Unlock()
	if boot != "" && n.BootID() != boot {
		return
	}
	n.down("power off")
	n.mu.Lock()
	n.rebooting = false
	n.mu.Unlock()
}

// PowerOn boots a node that is off, and returns when its SSH server answers. It does nothing on a running node.
func (n *Node) PowerOn() {
	n.fault("power on")
	n.power.Lock()
	defer n.power.Unlock()
	if n.Running() {
		return
	}
	n.mu.Lock()
	wait := max(0, n.cluster.cfg.BootTime) + n.faults.slowBoot
	n.mu.Unlock()
	n.bootAfter(wait)
}

// RebootNow reboots the node by something that is not katoflow (a colleague, the hypervisor) and returns at once.
func (n *Node) RebootNow() {
	n.fault("rebooted by something else")
	n.requestReboot("rebooted by something else", false)
}

// SlowBoot makes every boot take this much longer.
func (n *Node) SlowBoot(d time.Duration) {
	n.fault("slow boot %s", d)
	n.set(func(f *faults) { f.slowBoot = d })
}

// RebootDoesNothing makes reboot commands exit 0 without any effect while on.
func (n *Node) RebootDoesNothing(on bool) {
	n.fault("reboot does nothing %v", on)
	n.set(func(f *faults) { f.rebootDoesNothing = on })
}

// KernelNotUpdated makes boots go on with the old kernel while on.
func (n *Node) KernelNotUpdated(on bool) {
	n.fault("kernel not updated %v", on)
	n.set(func(f *faults) { f.kernelNotUpdated = on })
}

// DegradeSystem makes systemctl is-system-running say degraded while on.
func (n *Node) DegradeSystem(on bool) {
	n.fault("degraded %v", on)
	n.set(func(f *faults) { f.degraded = on })
}

// SudoPassword makes sudo ask for a password while on.
func (n *Node) SudoPassword(on bool) {
	n.fault("sudo password %v", on)
	n.set(func(f *faults) { f.sudoPassword = on })
}

// ChangeHostKey makes the SSH server show another key from the next connection on.
func (n *Node) ChangeHostKey() {
	n.fault("host key changed")
	if key, err := newHostKey(); err == nil {
		n.showHostKey(key)
	}
}

func (n *Node) showHostKey(key ssh.Signer) {
	n.mu.Lock()
	n.key = key
	n.mu.Unlock()
	if n.exists() {
		if err := n.tree.put(hostKeyPublic, string(ssh.MarshalAuthorizedKey(key.PublicKey())), 0o644); err != nil {
			n.fault("%s: %v", hostKeyPublic, err)
		}
	}
}

// RestoreHostKey puts the original key back.
func (n *Node) RestoreHostKey() {
	n.fault("host key restored")
	n.showHostKey(n.originalKey)
}

// SkewClock sets the node's wall clock off by d.
func (n *Node) SkewClock(d time.Duration) {
	n.fault("clock skew %s", d)
	n.clock.Store(int64(d))
}

// FailCommand makes the next runs of a command end with an exit code and a message, without doing anything. name is the command, or the command
// and words among its arguments ("apt-get update"). times < 0 is for ever.
func (n *Node) FailCommand(name string, times, exit int, stderr string) {
	n.fault("fail %q %d times with %d", name, times, exit)
	n.set(func(f *faults) {
		f.commands = append(f.commands, &commandFault{words: strings.Fields(name), times: times, exit: exit, stderr: stderr})
	})
}

// HangCommand makes the next runs of a command hang until they are killed.
func (n *Node) HangCommand(name string, times int) {
	n.fault("hang %q %d times", name, times)
	n.set(func(f *faults) {
		f.commands = append(f.commands, &commandFault{words: strings.Fields(name), times: times, hang: true})
	})
}

// SlowCommand makes the next runs of a command take so much longer before they do their work; times < 0 = for ever.
func (n *Node) SlowCommand(name string, times int, d time.Duration) {
	n.fault("slow %q by %s %d times", name, d, times)
	n.set(func(f *faults) {
		f.commands = append(f.commands, &commandFault{words: strings.Fields(name), times: times, slow: d})
	})
}

// HealCommands ends all FailCommand, HangCommand and SlowCommand faults that are left. A command that waits for SlowCommand's time does its work at once.
func (n *Node) HealCommands() {
	n.fault("commands healed")
	n.set(func(f *faults) {
		f.commands = nil
		f.healCommands()
	})
}

// healed is closed when the faults of commands, as they are now, end.
func (f *faults) healed() <-chan struct{} {
	if f.commandsHealed == nil {
		f.commandsHealed = make(chan struct{})
	}
	return f.commandsHealed
}

func (f *faults) healCommands() {
	if f.commandsHealed != nil {
		close(f.commandsHealed)
		f.commandsHealed = nil
	}
}

// ExitZeroOnFailure makes kato exit 0 whatever happens while on, as old versions did (kato.md §0.4).
func (n *Node) ExitZeroOnFailure(on bool) {
	n.fault("kato exits 0 on failure %v", on)
	if k := n.cluster.kato; k != nil {
		k.SetExitAlwaysZero(n.address, on)
	}
}

// KatoPrompts makes kato ask a question and wait for an answer while on (kato.md §0.5).
func (n *Node) KatoPrompts(on bool) {
	n.fault("kato prompts %v", on)
	if k := n.cluster.kato; k != nil {
		k.SetPrompts(n.address, on)
	}
}

// NoCoreAccess takes the Core's key out of the node's authorized_keys while on: exports of the cluster need it (kato.md §3.2).
func (n *Node) NoCoreAccess(on bool) {
	n.fault("no core access %v", on)
	if err := n.setCoreAccess(!on); err != nil {
		n.fault("authorized_keys: %v", err)
	}
}

// BreakKeyLoginsOnReload makes sshd accept no key after the next reload or restart while on, until it has read a configuration that differs from that one, as a site's PAM can do it that nobody
// knows of.
func (n *Node) BreakKeyLoginsOnReload(on bool) {
	n.fault("key logins break on reload %v", on)
	n.set(func(f *faults) {
		f.breakKeys = on
		if !on {
			f.keysBroken = nil
		}
	})
}

// ReadOnlyHome makes ~/.ssh of the login user a read-only file system while on.
func (n *Node) ReadOnlyHome(on bool) {
	n.fault("read-only ~/.ssh %v", on)
	dir := ""
	if on {
		dir = n.homeOf(n.loginUser()) + "/.ssh"
	}
	n.tree.readOnly.Store(&dir)
}

// SSHDNeverReloads makes reloads of sshd exit 0 and leave the configuration in force as it is while on. A restart is one.
func (n *Node) SSHDNeverReloads(on bool) {
	n.fault("sshd never reloads %v", on)
	n.set(func(f *faults) { f.neverReloads = on })
}

// NoOutbound makes the network refuse what the node's own programs (curl) want to reach while on, and breaks what they have reached.
func (n *Node) NoOutbound(on bool) {
	n.fault("no outbound %v", on)
	n.set(func(f *faults) { f.noOutbound = on })
	if on {
		n.dropOutbound()
	}
}

// DropOutbound breaks the connections of the node's own programs; new ones are possible.
func (n *Node) DropOutbound() {
	n.fault("outbound connections dropped")
	n.dropOutbound()
}

// SlowFreeze makes freezing a mount take so long, which nobody can cut short; 0 ends it.
func (n *Node) SlowFreeze(mount string, d time.Duration) {
	n.fault("freezing %s takes %s", mount, d)
	n.set(func(f *faults) {
		if f.slowFreeze == nil {
			f.slowFreeze = map[string]time.Duration{}
		}
		f.slowFreeze[mount] = d
	})
}

// RefuseFreeze makes the kernel refuse to freeze a mount, with an error of that text, such as "Input/output error"; "" ends it.
func (n *Node) RefuseFreeze(mount, text string) {
	n.fault("freezing %s is refused: %s", mount, text)
	n.set(func(f *faults) {
		if f.refuseFreeze == nil {
			f.refuseFreeze = map[string]string{}
		}
		f.refuseFreeze[mount] = text
	})
}

// KillFreeze kills the main process of the freeze that is at work, as SIGKILL does: the one that guards it thaws. It does nothing without one.
func (n *Node) KillFreeze() {
	n.fault("freeze killed")
	if r := n.lastFreeze(); r != nil {
		r.main.kill(sigKILL)
	}
}

// KillBothFreeze kills all processes of the freeze that is at work at once: what is frozen stays so until Thaw, `fsfreeze -u` or the end of the boot. It does nothing without one.
func (n *Node) KillBothFreeze() {
	n.fault("freeze killed with its guard")
	if r := n.lastFreeze(); r != nil {
		r.abandoned.Store(true)
		r.main.kill(sigKILL)
		r.guard.kill(sigKILL)
	}
}

// Thaw thaws every file system of the node, as somebody does at its console.
func (n *Node) Thaw() {
	n.fault("thawed by somebody")
	n.thawAll()
}

// WithoutFreeze takes the program katoflow-freeze away until Heal.
func (n *Node) WithoutFreeze() {
	n.fault("katoflow-freeze is not installed")
	n.set(func(f *faults) { f.noFreeze = true })
}

// noFreeze says whether the program is not installed.
func (n *Node) noFreeze() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.faults.noFreeze
}

// FreeSpace leaves so many bytes free on the file system that holds path; -1 = as many as at the start.
func (n *Node) FreeSpace(path string, free int64) error {
	n.fault("free space of %s: %d", path, free)
	if err := n.ready(); err != nil {
		return err
	}
	virt, err := n.tree.resolve("/", path, true)
	if err != nil {
		return fmt.Errorf("%s: %s", path, errorText(err))
	}
	return n.tree.setFree(virt, free)
}

// DataSize makes the data of the node's services so many bytes large, on a disk that is larger by as much.
func (n *Node) DataSize(size int64) error {
	n.fault("data of %d bytes", size)
	if err := n.ready(); err != nil {
		return err
	}
	services, err := n.tree.resolve("/", servicesPath, true) // it may have been relocated
	if err != nil {
		return err
	}
	file := n.tree.host(services + "/bulk")
	old := int64(0)
	if fi, err := os.Stat(file); err == nil {
		old = fi.Size()
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return bare(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil { // it takes no space on this machine
		return bare(err)
	}
	n.tree.system(services).grow(size - old)
	return nil
}

// Resize makes a file of the node longer by so many zero bytes, or shorter by a negative count, as another program does that writes to it.
func (n *Node) Resize(path string, count int64) error {
	n.fault("file %s changes by %d bytes", path, count)
	if err := n.ready(); err != nil {
		return err
	}
	virt, err := n.tree.resolve("/", path, true)
	if err != nil {
		return fmt.Errorf("%s: %s", path, errorText(err))
	}
	fi, err := os.Stat(n.tree.host(virt))
	if err != nil {
		return fmt.Errorf("%s: %s", path, errorText(bare(err)))
	}
	return bare(os.Truncate(n.tree.host(virt), max(0, fi.Size()+count)))
}

// changeKato changes what kato's double does on the node.
func (n *Node) changeKato(p katodouble.StatePatch) error {
	if n.cluster.kato == nil {
		return errors.New("a plain cluster has no kato")
	}
	return n.cluster.kato.PatchNode(n.address, p)
}

func (n *Node) patchExport(p katodouble.ExportPatch) error {
	return n.changeKato(katodouble.StatePatch{Export: &p})
}

// ExportSize sets how many bytes of data the node's exports hold; they cannot be compressed. 0 = 256 KiB.
func (n *Node) ExportSize(size int64) error {
	n.fault("exports of %d bytes", size)
	return n.patchExport(katodouble.ExportPatch{Size: &size})
}

// ExportTime sets how long the node's exports take; 0 = as long as writing takes.
func (n *Node) ExportTime(d time.Duration) error {
	n.fault("exports take %s", d)
	return n.patchExport(katodouble.ExportPatch{Seconds: new(d.Seconds())})
}

// ExportFault lets the next exports of the node go wrong (all of them when times < 0). exit is the exit code of katodouble.ExportFails; 0 = 1.
func (n *Node) ExportFault(fault katodouble.ExportFault, times, exit int) error {
	n.fault("export %s %d times", fault, times)
	return n.patchExport(katodouble.ExportPatch{Fault: &fault, Times: &times, Exit: &exit})
}

// HealExports makes the node's exports as they were at the start.
func (n *Node) HealExports() {
	n.fault("exports healed")
	_ = n.patchExport(katodouble.ExportPatch{Size: new(int64), Seconds: new(float64), Fault: new(katodouble.ExportFault), Times: new(int), Exit: new(int)}) // a plain node has none
}

// ImportWith changes what the node's imports do; katodouble.ImportPatch says what can be set. What it does not name stays.
func (n *Node) ImportWith(p katodouble.ImportPatch) error {
	n.fault("imports with %+v", p)
	return n.changeKato(katodouble.StatePatch{Import: &p})
}

// HealImports makes the node's imports as they were at the start.
func (n *Node) HealImports() {
	n.fault("imports healed")
	_ = n.ImportWith(katodouble.ImportPatch{Heal: true}) // a plain node has none
}

// PatchWith changes what the node knows of kato's patches and what `kato patch` does there; katodouble.PatchesPatch says what can be set. What it does not name stays.
func (n *Node) PatchWith(p katodouble.PatchesPatch) error {
	n.fault("patches with %+v", p)
	return n.changeKato(katodouble.StatePatch{Patches: &p})
}

// HealPatches ends the fault of the node's patches, and makes them take no time. What is installed stays so.
func (n *Node) HealPatches() {
	n.fault("patches healed")
	_ = n.PatchWith(katodouble.PatchesPatch{Heal: true}) // a plain node has none
}

// RelocateWith changes what the node's `kato relocate` does; katodouble.RelocatePatch says what can be set. What it does not name stays.
func (n *Node) RelocateWith(p katodouble.RelocatePatch) error {
	n.fault("relocations with %+v", p)
	return n.changeKato(katodouble.StatePatch{Relocate: &p})
}

// HealRelocate makes the node's relocations as they were at the start.
func (n *Node) HealRelocate() error {
	return n.RelocateWith(katodouble.RelocatePatch{Heal: true})
}

// UpgradeWith changes what `kato node upgrade` does on the node and what it has done there; katodouble.UpgradePatch says what can be set. What it does not name stays.
func (n *Node) UpgradeWith(p katodouble.UpgradePatch) error {
	n.fault("upgrades with %s", p)
	return n.changeKato(katodouble.StatePatch{Upgrade: &p})
}

// HealUpgrade ends the fault of the node's upgrades, gives it its kato back, and makes upgrades take no time. What they have done stays so.
func (n *Node) HealUpgrade() error {
	return n.UpgradeWith(katodouble.UpgradePatch{Heal: true})
}

// KatoVersion is the version of the node.
func (n *Node) KatoVersion() (string, error) {
	if n.cluster.kato == nil {
		return "", errors.New("a plain cluster has no kato")
	}
	version, _ := n.cluster.kato.Version(n.address)
	return version, nil
}

// KatoUpgrade is what upgrades of the node do, and what they have done there.
func (n *Node) KatoUpgrade() (katodouble.Upgrade, error) {
	if n.cluster.kato == nil {
		return katodouble.Upgrade{}, errors.New("a plain cluster has no kato")
	}
	u, _ := n.cluster.kato.Upgrade(n.address)
	return u, nil
}

// Patches is what the node knows of kato's patches, with those that are installed.
func (n *Node) Patches() (katodouble.NodePatches, error) {
	if n.cluster.kato == nil {
		return katodouble.NodePatches{}, errors.New("a plain cluster has no kato")
	}
	p, _ := n.cluster.kato.Patches(n.address)
	return p, nil
}

// ExternalDatabase lets the cluster's configuration name an external host for the database of mysql or postgresql; "" = on its own node.
func (n *Node) ExternalDatabase(service, host string) error {
	n.fault("database of %s at %q", service, host)
	if n.cluster.kato == nil {
		return errors.New("a plain cluster has no kato")
	}
	return n.cluster.kato.SetDatabaseHost(service, host)
}

// StopRole stops a role's processes until the next boot or StartRole.
func (n *Node) StopRole(role string) {
	n.fault("role %s stopped", role)
	if k := n.cluster.kato; k != nil {
		k.StopRole(n.address, role)
	}
}

// RoleNeverStarts keeps a role from becoming ready after the next boots until StartRole.
func (n *Node) RoleNeverStarts(role string) {
	n.fault("role %s will never start", role)
	n.set(func(f *faults) {
		if f.roleNeverStarts == nil {
			f.roleNeverStarts = map[string]bool{}
		}
		f.roleNeverStarts[role] = true
	})
	if k := n.cluster.kato; k != nil {
		k.RoleNeverStarts(n.address, role)
	}
}

// StartRole heals StopRole and RoleNeverStarts.
func (n *Node) StartRole(role string) {
	n.fault("role %s started", role)
	n.mu.Lock()
	delete(n.faults.roleNeverStarts, role)
	settled := len(n.faults.roleNeverStarts) == 0
	n.mu.Unlock()
	if k := n.cluster.kato; k != nil {
		k.StartRole(n.address, role)
	}
	if settled {
		n.cluster.mark(n.name, "roles", false)
	}
}

// injected applies FailCommand and HangCommand to a program about to run.
func (n *Node) injected(c *invocation, name string) (exit int, done bool) {
	n.mu.Lock()
	var hit *commandFault
	for i, f := range n.faults.commands {
		if f.match(name, c.argv[1:]) {
			hit = f
			if f.times > 0 {
				if f.times--; f.times == 0 {
					n.faults.commands = append(n.faults.commands[:i:i], n.faults.commands[i+1:]...)
				}
			}
			break
		}
	}
	healed := n.faults.healed()
	n.mu.Unlock()
	switch {
	case hit == nil:
		return 0, false
	case hit.hang:
		<-c.p.ctx.Done()
		return 128 + sigKILL, true
	case hit.slow > 0:
		timer := time.NewTimer(hit.slow)
		defer timer.Stop()
		select {
		case <-timer.C:
			return 0, false
		case <-healed:
			return 0, false
		case <-c.p.ctx.Done():
			return 128 + sigKILL, true
		}
	}
	if hit.stderr != "" {
		c.errorf("%s", strings.TrimSuffix(hit.stderr, "\n"))
	}
	return hit.exit, true
}

func (f *commandFault) match(name string, args []string) bool {
	if len(f.words) == 0 || f.words[0] != name {
		return false
	}
	rest := f.words[1:]
	for _, a := range args {
		if len(rest) > 0 && a == rest[0] {
			rest = rest[1:]
		}
	}
	return len(rest) == 0
}

// Heal ends every fault of the node but those of its roles, and powers it on.
func (n *Node) Heal() {
	n.Silence(false)
	n.Latency(0)
	n.FillDisk(false)
	n.ReadOnlyHome(false)
	n.RestoreHostKey()
	n.SkewClock(0)
	n.ExitZeroOnFailure(false)
	n.KatoPrompts(false)
	n.HealExports()
	n.HealImports()
	n.HealPatches()
	_ = errors.Join(n.HealRelocate(), n.HealUpgrade()) // a plain node has none
	if n.exists() {
		for _, s := range n.tree.systems {
			_ = n.FreeSpace(s.mount, -1)
		}
		if n.cluster.kato != nil {
			n.NoCoreAccess(false)
		}
	}
	n.packages.releaseHolders()
	if n.docker != nil {
		n.docker.SetDaemonDown(false)
		n.docker.BreakImages(false)
	}
	n.set(func(f *faults) {
		f.healCommands()
		*f = faults{refuse: f.refuse, roleNeverStarts: f.roleNeverStarts}
	})
	if r := n.lastFreeze(); r == nil || r.over() {
		n.thawAll()
	}
	n.healSSHD()
	n.Refuse(false)
	n.PowerOn()
}

// StoppedRoles are those that kato was told to stop on the node and not to start since; none on a plain cluster.
func (n *Node) StoppedRoles() []string {
	if n.cluster.kato == nil {
		return nil
	}
	state, _ := n.cluster.kato.NodeState(n.address)
	return state.Stopped
}
