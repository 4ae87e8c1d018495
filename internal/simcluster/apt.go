package simcluster

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The stages of a package, as dpkg names them.
const (
	stInstalled  = "installed"
	stUnpacked   = "unpacked"
	stHalfConfig = "half-configured"
	stHalfInst   = "half-installed"
)

type packageEntry struct {
	version string // installed or being installed
	stage   string
	fails   int // times its configuration still fails
	update  *Package
}

// packageState is a node's package database, which survives reboots, or that of a container.
type packageState struct {
	node *Node
	// image: it is a container's on the node. What is installed there changes nothing of the node.
	image bool

	mu       sync.Mutex
	pkgs     map[string]*packageEntry
	pending  []Package
	fresh    bool // apt-get update ran since the last change of the archive; the archive is known at the start
	kernels  []string
	holds    map[string]bool
	required []string // packages that asked for a reboot
	holder   *aptHolder
	changed  chan struct{}
}

// aptHolder is the process that holds dpkg's and apt's fcntl locks.
type aptHolder struct {
	pid  int
	name string
}

func newPackageState(n *Node) *packageState {
	s := &packageState{node: n, pkgs: map[string]*packageEntry{}, kernels: []string{n.cfg.Kernel}, holds: map[string]bool{}, changed: make(chan struct{}), fresh: true}
	for name, version := range map[string]string{"base-files": "12.4+deb12u6", "bash": "5.2.15-2+b7", "coreutils": "9.1-1", "dpkg": "1.21.22", "apt": "2.6.1", "openssh-server": "1:9.2p1-2+deb12u3", "sudo": "1.9.13p3-1+deb12u1", "unattended-upgrades": "2.9.1+nmu3", "util-linux": "2.38.1-5+deb12u1"} {
		s.pkgs[name] = &packageEntry{version: version, stage: stInstalled}
	}
	for i := range n.cfg.Pending {
		p := n.cfg.Pending[i]
		s.pkgs[p.Name] = &packageEntry{version: p.Old, stage: stInstalled, fails: p.PostinstFails, update: &p}
		s.pending = append(s.pending, p)
	}
	return s
}

func (s *packageState) defaultKernel() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kernels[len(s.kernels)-1]
}

// installedKernels, newest first.
func (s *packageState) installedKernels() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.kernels)
	slices.Reverse(out)
	return out
}

func (s *packageState) rebooted() {
	s.mu.Lock()
	s.required = nil
	s.mu.Unlock()
}

// poweredOff ends what held the locks.
func (s *packageState) poweredOff() { s.setHolder(nil) }

func (s *packageState) setHolder(h *aptHolder) {
	s.mu.Lock()
	s.holder = h
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

func (s *packageState) releaseHolders() {
	s.mu.Lock()
	h := s.holder
	s.mu.Unlock()
	if h != nil && h.name == "apt.systemd.dai" {
		s.setHolder(nil)
	}
}

// holdBy makes a process outside the simulation hold the locks.
func (s *packageState) holdBy(name string, d time.Duration) func() {
	n := s.node
	n.mu.Lock()
	boot := n.boot
	n.mu.Unlock()
	p, err := boot.newProcess(n, nil, superuser, []string{"apt.systemd.daily", "install"})
	if err != nil {
		return func() {}
	}
	h := &aptHolder{pid: p.pid, name: name}
	s.setHolder(h)
	var once sync.Once
	stop := make(chan struct{})
	n.cluster.wg.Add(1)
	go func() {
		defer n.cluster.wg.Done()
		var after <-chan time.Time
		if d > 0 {
			t := time.NewTimer(d)
			defer t.Stop()
			after = t.C
		}
		select {
		case <-after:
		case <-stop:
		case <-p.ctx.Done():
		}
		s.mu.Lock()
		mine := s.holder == h
		s.mu.Unlock()
		if mine {
			s.setHolder(nil)
		}
		p.finish(0)
	}()
	return func() {
		once.Do(func() { close(stop) })
		<-p.done
	}
}

// lock takes dpkg's locks, waiting as long as DPkg::Lock::Timeout says; it returns the holder when it cannot.
func (s *packageState) lock(c *invocation, wait time.Duration, waiting func(*aptHolder)) *aptHolder {
	h := &aptHolder{pid: c.p.pid, name: c.name()}
	deadline := time.Now().Add(wait)
	said := false
	for {
		s.mu.Lock()
		if s.holder == nil {
			s.holder = h
			s.mu.Unlock()
			return nil
		}
		holder, changed := s.holder, s.changed
		s.mu.Unlock()
		left := time.Until(deadline)
		if wait >= 0 && left <= 0 {
			return holder
		}
		if wait < 0 {
			left = time.Hour
		}
		if !said && waiting != nil {
			said = true
			waiting(holder)
		}
		t := time.NewTimer(left)
		select {
		case <-changed:
		case <-t.C:
		case <-c.p.ctx.Done():
			t.Stop()
			return holder
		}
		t.Stop()
	}
}

func (s *packageState) unlock() { s.setHolder(nil) }

// procLocks renders the POSIX locks of apt's lock files, with the inodes that stat shows.
func (s *packageState) procLocks() string {
	s.mu.Lock()
	h := s.holder
	s.mu.Unlock()
	if h == nil {
		return ""
	}
	out := ""
	for i, name := range aptLockFiles {
		if st, err := s.node.tree.stat(superuser, "/", name, true); err == nil {
			inode, _, _ := inodeOf(st.FileInfo, st.virt)
			out += fmt.Sprintf("%d: POSIX  ADVISORY  WRITE %d 08:01:%d 0 EOF\n", i+1, h.pid, inode)
		}
	}
	return out
}

var aptLockFiles = []string{"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"}

func (s *packageState) statusFile() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.pkgs))
	for name := range s.pkgs {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		e := s.pkgs[name]
		want := "install"
		if s.holds[name] {
			want = "hold"
		}
		fmt.Fprintf(&b, "Package: %s\nStatus: %s ok %s\nPriority: optional\nArchitecture: amd64\nVersion: %s\n\n", name, want, e.stage, e.version)
	}
	return b.String()
}

// interrupted says whether dpkg was stopped in the middle.
func (s *packageState) interrupted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.pkgs {
		if e.stage != stInstalled {
			return true
		}
	}
	return false
}

// upgradable returns the pending updates that no hold keeps back.
func (s *packageState) upgradable() []Package {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Package
	for _, p := range s.pending {
		if !s.holds[p.Name] {
			out = append(out, p)
		}
	}
	return out
}

func (s *packageState) setStage(name, stage, version string) {
	s.mu.Lock()
	e := s.pkgs[name]
	e.stage = stage
	if version != "" {
		e.version = version
	}
	s.mu.Unlock()
}

// configure runs a package's postinst; false when it fails.
func (s *packageState) configure(c *invocation, name string) bool {
	s.mu.Lock()
	e := s.pkgs[name]
	e.stage = stHalfConfig
	if e.fails > 0 {
		e.fails--
		s.mu.Unlock()
		return false
	}
	p := e.update
	s.mu.Unlock()
	if p != nil && !s.image {
		before, _ := os.ReadFile(s.node.tree.host("/var/log/dpkg.log"))
		s.node.tree.put("/var/log/dpkg.log", fmt.Sprintf("%s%s upgrade %s:amd64 %s %s\n", before, s.node.now().UTC().Format("2006-01-02 15:04:05"), p.Name, p.Old, p.New), 0o644)
	}
	if p != nil && p.Kernel != "" && !s.image {
		s.mu.Lock()
		if !slices.Contains(s.kernels, p.Kernel) {
			s.kernels = append(s.kernels, p.Kernel)
		}
		image := "linux-image-" + p.Kernel
		s.pkgs[image] = &packageEntry{version: p.New, stage: stInstalled}
		s.mu.Unlock()
		c.printf("Setting up %s (%s) ...\nI: /vmlinuz is now a symlink to boot/vmlinuz-%s\n/etc/kernel/postinst.d/initramfs-tools:\nupdate-initramfs: Generating /boot/initrd.img-%s\n/etc/kernel/postinst.d/zz-update-grub:\nGenerating grub configuration file ...\nFound linux image: /boot/vmlinuz-%s\ndone\n", image, p.New, p.Kernel, p.Kernel, p.Kernel)
		s.node.writeBootFiles()
	}
	if p != nil && p.NeedsReboot && !s.image {
		reason := p.Name
		if p.Kernel != "" {
			reason = "linux-image-" + p.Kernel
		}
		s.mu.Lock()
		if !slices.Contains(s.required, reason) {
			s.required = append(s.required, reason)
		}
		list := strings.Join(s.required, "\n") + "\n"
		s.mu.Unlock()
		s.node.tree.put("/run/reboot-required", "*** System restart required ***\n", 0o644)
		s.node.tree.put("/run/reboot-required.pkgs", list, 0o644)
	}
	s.mu.Lock()
	e.stage, e.update = stInstalled, nil
	s.pending = slices.DeleteFunc(s.pending, func(p Package) bool { return p.Name == name })
	s.mu.Unlock()
	if !s.image {
		s.node.cluster.event(s.node.name, "package", "%s configured", name)
	}
	return true
}

// install unpacks and configures packages as dpkg shows it, over the node's upgrade time. It returns the exit code; a process ended in the
// middle leaves the packages where they are.
func (s *packageState) install(c *invocation, list []Package) int {
	steps := time.Duration(2*len(list) + 1)
	pause := s.node.cluster.cfg.UpgradeTime / max(1, steps)
	if s.image {
		pause = 0 // the build takes its time itself
	} else {
		s.node.cluster.mark(s.node.name, "upgrade", true)
		defer func() {
			if c.p.ctx.Err() == nil {
				s.node.cluster.mark(s.node.name, "upgrade", false)
			} else if s.node.Running() {
				s.node.cluster.mark(s.node.name, "upgrade", false)
			}
		}()
	}
	if !c.p.sleep(pause) { // they are fetched
		return 128 + sigKILL
	}
	if s.node.silenced() || s.image && s.node.offline() {
		c.printf("E: Failed to fetch http://security.debian.org/debian-security/pool/%s_%s_amd64.deb  Could not connect to security.debian.org:80, connection timed out\n", list[0].Name, list[0].New)
		return 100
	}
	for _, p := range list {
		c.printf("Preparing to unpack .../%s_%s_amd64.deb ...\n", p.Name, strings.ReplaceAll(p.New, ":", "%3a"))
		s.setStage(p.Name, stHalfInst, "")
		if s.node.tree.full.Load() {
			c.printf("dpkg: error processing archive /var/cache/apt/archives/%s_%s_amd64.deb (--unpack):\n cannot copy extracted data for './usr/share/doc/%s/changelog.Debian.gz' to '/usr/share/doc/%s/changelog.Debian.gz.dpkg-new': failed to write (No space left on device)\n", p.Name, p.New, p.Name, p.Name)
			s.setStage(p.Name, stInstalled, "")
			c.printf("Errors were encountered while processing:\n /var/cache/apt/archives/%s_%s_amd64.deb\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n", p.Name, p.New)
			return 100
		}
		if !c.p.sleep(pause) {
			return 128 + sigKILL
		}
		c.printf("Unpacking %s (%s) over (%s) ...\n", p.Name, p.New, p.Old)
		s.setStage(p.Name, stUnpacked, p.New)
	}
	failed := []string{}
	for _, p := range list {
		c.printf("Setting up %s (%s) ...\n", p.Name, p.New)
		s.setStage(p.Name, stHalfConfig, "")
		if !c.p.sleep(pause) {
			return 128 + sigKILL
		}
		if !s.configure(c, p.Name) {
			c.printf("dpkg: error processing package %s (--configure):\n installed %s package post-installation script subprocess returned error exit status 1\n", p.Name, p.Name)
			failed = append(failed, p.Name)
		}
	}
	c.printf("Processing triggers for libc-bin (2.36-9+deb12u7) ...\n")
	if len(failed) > 0 {
		c.printf("Errors were encountered while processing:\n %s\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n", strings.Join(failed, "\n "))
		return 100
	}
	return 0
}

// Packages returns the installed versions by name.
func (n *Node) Packages() map[string]string {
	s := n.packages
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]string, len(s.pkgs))
	for name, e := range s.pkgs {
		out[name] = e.version
	}
	return out
}

// PendingCount is the number of updates not yet installed and configured.
func (n *Node) PendingCount() int {
	n.packages.mu.Lock()
	defer n.packages.mu.Unlock()
	return len(n.packages.pending)
}

// HalfConfigured names the packages that dpkg was stopped in the middle of.
func (n *Node) HalfConfigured() []string { return n.packages.halfConfigured() }

func (s *packageState) halfConfigured() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name, e := range s.pkgs {
		if e.stage != stInstalled {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}

// RebootRequired says whether an installed package asked for a reboot that has not happened.
func (n *Node) RebootRequired() bool {
	n.packages.mu.Lock()
	defer n.packages.mu.Unlock()
	return len(n.packages.required) > 0
}

// AddPending publishes another security update for the node.
func (n *Node) AddPending(p Package) {
	s := n.packages
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.pkgs[p.Name]; e != nil {
		e.update, e.fails = &p, p.PostinstFails
	} else {
		s.pkgs[p.Name] = &packageEntry{version: p.Old, stage: stInstalled, update: &p, fails: p.PostinstFails}
	}
	s.pending = append(s.pending, p)
}

// aptDuration is a duration as apt writes it.
func aptDuration(d time.Duration) string {
	seconds := int(d.Seconds())
	return fmt.Sprintf("%dh %dmin %ds", seconds/3600, seconds/60%60, seconds%60)
}

// silenced reports whether the node's network is cut, which cuts it off from its archives too.
func (n *Node) silenced() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.silent != nil
}

// MendPackage lets a package's configuration succeed from now on, whatever PostinstFails said.
func (n *Node) MendPackage(name string) {
	n.fault("%s mended", name)
	n.packages.mu.Lock()
	defer n.packages.mu.Unlock()
	if e := n.packages.pkgs[name]; e != nil {
		e.fails = 0
	}
}

func aptPrograms() map[string]program {
	bin := func(f func(*invocation) int) program { return program{"/usr/bin", f} }
	return map[string]program{
		"apt-get": bin(aptGet), "apt": bin(aptGet), "apt-cache": bin(aptCache), "apt-mark": bin(aptMark), "dpkg": bin(dpkg), "dpkg-query": bin(dpkgQuery),
		"unattended-upgrade": bin(unattendedUpgrade), "unattended-upgrades": bin(unattendedUpgrade), "fuser": bin(fuser),
	}
}

func lockMessage(c *invocation, file string, h *aptHolder) {
	c.errorf("E: Could not get lock %s. It is held by process %d (%s)", file, h.pid, h.name)
}

const interruptedMessage = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem. "

// aptGet knows update, upgrade, dist-upgrade, install, remove, autoremove, clean and check.
func aptGet(c *invocation) int {
	s := c.packages()
	simulate, yes, verb := false, false, ""
	var names []string
	timeout := time.Duration(0)
	args := c.argv[1:]
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-s" || a == "--simulate" || a == "--dry-run" || a == "--just-print" || a == "--no-act":
			simulate = true
		case (a == "-o" || a == "--option") && i+1 < len(args):
			i++
			timeout = lockTimeout(args[i], timeout)
		case a == "-y" || a == "--yes" || a == "--assume-yes" || a == "-qy" || a == "-yq" || a == "-qqy":
			yes = true
		case strings.HasPrefix(a, "-o"):
			timeout = lockTimeout(a[2:], timeout)
		case strings.HasPrefix(a, "-"):
		case verb == "":
			verb = a
		default:
			names = append(names, a)
		}
	}
	if !simulate && c.user() != superuser && verb != "" && verb != "check" {
		c.errorf("E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)\nE: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?")
		return 100
	}
	waiting := func(h *aptHolder) {
		c.printf("Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process %d (%s)\n", h.pid, h.name)
	}
	acquire := func(file, what string) bool {
		if h := s.lock(c, timeout, waiting); h != nil {
			lockMessage(c, file, h)
			if what == "" {
				c.errorf("E: Unable to lock directory /var/lib/apt/lists/")
			} else {
				c.errorf("N: Be aware that removing the lock file is not a solution and may break your system.\nE: Unable to acquire the dpkg frontend lock (%s), is another process using it?", file)
			}
			return false
		}
		return true
	}
	switch verb {
	case "update":
		if !acquire("/var/lib/apt/lists/lock", "") {
			return 100
		}
		defer s.unlock()
		if c.tree().full.Load() {
			c.errorf("Err:1 http://security.debian.org/debian-security bookworm-security InRelease\n  Error writing to file - write (28: No space left on device)\nE: Failed to fetch http://security.debian.org/debian-security/dists/bookworm-security/InRelease  Error writing to file - write (28: No space left on device)\nE: Some index files failed to download. They have been ignored, or old ones used instead.")
			return 100
		}
		if behind := -c.node.skew(); behind > time.Minute { // apt takes no list that is signed in its future
			c.errorf("E: Release file for http://security.debian.org/debian-security/dists/bookworm-security/InRelease is not valid yet (invalid for another %s). Updates for this repository will not be applied.", aptDuration(behind))
			return 100
		}
		if s.image && c.node.offline() { // with no list at all, which an image has, it is an error
			c.errorf("Err http://security.debian.org bookworm-security InRelease\nW: Failed to fetch http://security.debian.org/debian-security/dists/bookworm-security/InRelease  Could not connect to security.debian.org:80, connection timed out\nE: Some index files failed to download. They have been ignored, or old ones used instead.")
			return 100
		}
		if c.node.silenced() {
			c.errorf("W: Failed to fetch http://security.debian.org/debian-security/dists/bookworm-security/InRelease  Could not connect to security.debian.org:80, connection timed out\nW: Some index files failed to download. They have been ignored, or old ones used instead.")
			return 0
		}
		c.printf("Hit:1 http://deb.debian.org/debian bookworm InRelease\nGet:2 http://security.debian.org/debian-security bookworm-security InRelease [48.0 kB]\nGet:3 http://security.debian.org/debian-security bookworm-security/main amd64 Packages [204 kB]\nFetched 252 kB in 0s (1,012 kB/s)\nReading package lists...\n")
		return 0
	case "upgrade", "dist-upgrade", "full-upgrade", "install":
		if s.interrupted() {
			c.errorf("%s", interruptedMessage)
			return 100
		}
		list := s.upgradable()
		if verb == "install" {
			wanted := list[:0:0]
			for _, name := range names {
				name, version, pinned := strings.Cut(name, "=")
				s.mu.Lock()
				e := s.pkgs[name]
				s.mu.Unlock()
				if e == nil {
					c.errorf("E: Unable to locate package %s", name)
					return 100
				}
				i := slices.IndexFunc(list, func(p Package) bool { return p.Name == name })
				switch {
				case pinned && version != e.version && (i < 0 || list[i].New != version):
					c.errorf("E: Version '%s' for '%s' was not found", version, name)
					return 100
				case i < 0 || pinned && version == e.version:
					c.printf("%s is already the newest version (%s).\n", name, e.version)
				default:
					wanted = append(wanted, list[i])
				}
			}
			list = wanted
		}
		c.printf("Reading package lists...\nBuilding dependency tree...\nReading state information...\nCalculating upgrade...\n")
		listed := make([]string, 0, len(list))
		for _, p := range list {
			listed = append(listed, p.Name)
		}
		if len(list) > 0 {
			c.printf("The following packages will be upgraded:\n  %s\n", strings.Join(listed, " "))
		}
		c.printf("%d upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n", len(list))
		if simulate {
			for _, p := range list {
				c.printf("Inst %s [%s] (%s Debian-Security:12/stable-security [amd64])\n", p.Name, p.Old, p.New)
			}
			for _, p := range list {
				c.printf("Conf %s (%s Debian-Security:12/stable-security [amd64])\n", p.Name, p.New)
			}
			return 0
		}
		if !acquire("/var/lib/dpkg/lock-frontend", "dpkg") {
			return 100
		}
		defer s.unlock()
		if len(list) == 0 {
			return 0
		}
		return s.install(c, list)
	case "autoremove":
		c.printf("Reading package lists...\nBuilding dependency tree...\nReading state information...\n")
		if s.image && !yes && !simulate { // nobody is there to answer
			c.printf("The following packages will be REMOVED:\n  libgcc-11-dev\n0 upgraded, 0 newly installed, 1 to remove and 0 not upgraded.\nAfter this operation, 13.4 MB disk space will be freed.\nDo you want to continue? [Y/n] Abort.\n")
			return 1
		}
		return 0
	case "remove", "purge", "clean", "autoclean", "check":
		c.printf("Reading package lists...\nBuilding dependency tree...\nReading state information...\n")
		return 0
	}
	c.errorf("E: Invalid operation %s", verb)
	return 100
}

func lockTimeout(option string, old time.Duration) time.Duration {
	v, ok := strings.CutPrefix(option, "DPkg::Lock::Timeout=")
	if !ok {
		return old
	}
	n, err := strconv.Atoi(strings.Trim(v, `"`))
	if err != nil {
		return old
	}
	return time.Duration(n) * time.Second
}

func aptCache(c *invocation) int {
	if len(c.argv) < 2 || c.argv[1] != "policy" {
		return c.fail(100, "only policy is known here")
	}
	s := c.packages()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range c.argv[2:] {
		e := s.pkgs[name]
		if e == nil {
			continue
		}
		candidate := e.version
		if e.update != nil {
			candidate = e.update.New
		}
		c.printf("%s:\n  Installed: %s\n  Candidate: %s\n  Version table:\n", name, e.version, candidate)
		if candidate != e.version {
			c.printf("     %s 500\n        500 http://security.debian.org/debian-security bookworm-security/main amd64 Packages\n", candidate)
		}
		c.printf(" *** %s 100\n        100 /var/lib/dpkg/status\n", e.version)
	}
	return 0
}

func aptMark(c *invocation) int {
	if len(c.argv) < 2 {
		return 0
	}
	s := c.packages()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c.argv[1] {
	case "showhold":
		var names []string
		for name := range s.holds {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			c.printf("%s\n", name)
		}
	case "hold", "unhold":
		if c.user() != superuser {
			c.errorf("E: Could not create temporary file for /var/lib/apt/extended_states - mkstemp (13: Permission denied)")
			return 100
		}
		for _, name := range c.argv[2:] {
			if s.pkgs[name] == nil {
				c.errorf("E: Unable to locate package %s", name)
				return 100
			}
			if c.argv[1] == "hold" {
				s.holds[name] = true
				c.printf("%s set on hold.\n", name)
			} else {
				delete(s.holds, name)
				c.printf("Canceled hold on %s.\n", name)
			}
		}
	case "showauto", "showmanual":
	default:
		c.errorf("E: Invalid operation %s", c.argv[1])
		return 100
	}
	return 0
}

func dpkg(c *invocation) int {
	s := c.packages()
	args := slices.DeleteFunc(slices.Clone(c.argv[1:]), func(a string) bool { return strings.HasPrefix(a, "--force") })
	if len(args) == 0 {
		c.errorf("dpkg: error: need an action option")
		return 2
	}
	switch args[0] {
	case "--configure":
		if c.user() != superuser {
			c.errorf("dpkg: error: requested operation requires superuser privilege")
			return 2
		}
		if h := s.lock(c, 0, nil); h != nil {
			c.errorf("dpkg: error: dpkg frontend lock was locked by another process with pid %d\nNote: removing the lock file is always wrong, can damage the locked area\nand the entire system. See <https://wiki.debian.org/Teardown>.", h.pid)
			return 2
		}
		defer s.unlock()
		broken := s.halfConfigured()
		if len(broken) > 0 && !s.image {
			c.node.cluster.mark(c.node.name, "upgrade", true)
			defer func() {
				if c.node.Running() {
					c.node.cluster.mark(c.node.name, "upgrade", false)
				}
			}()
		}
		pause := c.node.cluster.cfg.UpgradeTime / time.Duration(8*max(1, len(broken)))
		var failed []string
		for _, name := range broken {
			s.mu.Lock()
			e := s.pkgs[name]
			if e.stage == stHalfInst && e.update != nil { // unpacked again from the cache
				e.version = e.update.New
			}
			version := e.version
			s.mu.Unlock()
			c.printf("Setting up %s (%s) ...\n", name, version)
			if !c.p.sleep(pause) {
				return 128 + sigKILL
			}
			if !s.configure(c, name) {
				c.errorf("dpkg: error processing package %s (--configure):\n installed %s package post-installation script subprocess returned error exit status 1", name, name)
				failed = append(failed, name)
			}
		}
		if len(failed) > 0 {
			c.errorf("Errors were encountered while processing:\n %s", strings.Join(failed, "\n "))
			return 1
		}
		return 0
	case "--audit", "-C":
		broken := s.halfConfigured()
		if len(broken) > 0 && c.user() != "root" { // as Debian 12's does
			c.errorf("dpkg: error: unable to check lock file for dpkg database directory /var/lib/dpkg: Permission denied")
			return 2
		}
		if len(broken) > 0 {
			c.printf("The following packages are only half configured, probably due to problems\nconfiguring them the first time.  The configuration should be retried using\ndpkg --configure <package> or the configure menu option in dselect:\n")
			for _, name := range broken {
				c.printf(" %-20s simulated package\n", name)
			}
			return 1
		}
		return 0
	case "-l", "--list":
		c.printf("Desired=Unknown/Install/Remove/Purge/Hold\n| Status=Not/Inst/Conf-files/Unpacked/halF-conf/Half-inst/trig-aWait/Trig-pend\n|/ Err?=(none)/Reinst-required (Status,Err: uppercase=bad)\n||/ Name Version Architecture Description\n+++-====-=======-============-===========\n")
		found := false
		s.each(func(name string, e *packageEntry) {
			if len(args) > 1 && !slices.ContainsFunc(args[1:], func(p string) bool { return matches(p, name) }) {
				return
			}
			found = true
			c.printf("%s  %s %s amd64 simulated package\n", s.abbreviation(name, e), name, e.version)
		})
		if !found && len(args) > 1 {
			c.errorf("dpkg-query: no packages found matching %s", args[1])
			return 1
		}
		return 0
	case "-s", "--status":
		return dpkgStatus(c, args[1:])
	case "--print-architecture":
		c.printf("amd64\n")
		return 0
	case "--compare-versions":
		if len(args) != 4 {
			return 2
		}
		order := compareVersions(args[1], args[3])
		if (map[string]bool{"lt": order < 0, "le": order <= 0, "eq": order == 0, "ne": order != 0, "ge": order >= 0, "gt": order > 0})[args[2]] {
			return 0
		}
		return 1
	case "--version":
		c.printf("Debian 'dpkg' package management program version 1.21.22 (amd64).\n")
		return 0
	}
	c.errorf("dpkg: error: unknown option %s", args[0])
	return 2
}

// abbreviation is dpkg's "ii".
func (s *packageState) abbreviation(name string, e *packageEntry) string {
	want := "i"
	if s.holds[name] {
		want = "h"
	}
	return want + map[string]string{stInstalled: "i", stUnpacked: "U", stHalfConfig: "F", stHalfInst: "H"}[e.stage]
}

// each calls f with every package in order, holding the lock.
func (s *packageState) each(f func(string, *packageEntry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.pkgs))
	for name := range s.pkgs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		f(name, s.pkgs[name])
	}
}

func dpkgStatus(c *invocation, names []string) int {
	exit := 0
	for _, name := range names {
		s := c.packages()
		s.mu.Lock()
		e := s.pkgs[name]
		if e == nil {
			s.mu.Unlock()
			c.errorf("dpkg-query: package '%s' is not installed and no information is available", name)
			exit = 1
			continue
		}
		text := fmt.Sprintf("Package: %s\nStatus: install ok %s\nPriority: optional\nArchitecture: amd64\nVersion: %s\n", name, e.stage, e.version)
		s.mu.Unlock()
		c.printf("%s", text)
	}
	return exit
}

func dpkgQuery(c *invocation) int {
	format := "${Package}\t${Version}\n"
	var names []string
	show := false
	args := c.argv[1:]
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-W" || a == "--show":
			show = true
		case a == "-f" && i+1 < len(args):
			i++
			format = args[i]
		case strings.HasPrefix(a, "-f="), strings.HasPrefix(a, "--showformat="):
			_, format, _ = strings.Cut(a, "=")
		case strings.HasPrefix(a, "-f"):
			format = a[2:]
		case a == "-s":
			return dpkgStatus(c, args[i+1:])
		case a == "-l":
			c.argv = append([]string{"dpkg", "-l"}, args[i+1:]...)
			return dpkg(c)
		default:
			names = append(names, a)
		}
	}
	if !show {
		return c.fail(2, "error: need an action option")
	}
	format = strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(format)
	matched := map[string]bool{}
	var out strings.Builder
	s := c.packages()
	s.each(func(name string, e *packageEntry) {
		if len(names) > 0 {
			ok := false
			for _, pat := range names {
				if matches(pat, name) {
					matched[pat], ok = true, true
				}
			}
			if !ok {
				return
			}
		}
		want := "install"
		if s.holds[name] {
			want = "hold"
		}
		out.WriteString(strings.NewReplacer("${Package}", name, "${binary:Package}", name, "${Version}", e.version, "${Status}", want+" ok "+e.stage, "${db:Status-Status}", e.stage, "${db:Status-Want}", want,
			"${db:Status-Abbrev}", s.abbreviation(name, e)+" ", "${Architecture}", "amd64").Replace(format))
	})
	c.printf("%s", out.String())
	exit := 0
	for _, pat := range names {
		if !matched[pat] {
			c.errorf("dpkg-query: no packages found matching %s", pat)
			exit = 1
		}
	}
	return exit
}

// unattendedUpgrade prints what Debian 12's unattended-upgrade -d prints, and installs the pending security updates.
func unattendedUpgrade(c *invocation) int {
	s := c.packages()
	debug, dry := false, false
	for _, a := range c.argv[1:] {
		switch a {
		case "-d", "--debug", "-v", "--verbose":
			debug = true
		case "--dry-run":
			dry = true
		case "-h", "--help":
			c.printf("Usage: unattended-upgrade [options]\n")
			return 0
		default:
			c.errorf("Usage: unattended-upgrade [options]\n\nunattended-upgrade: error: no such option: %s", a)
			return 2
		}
	}
	if c.user() != superuser {
		c.errorf("You need to be root to run this application")
		return 1
	}
	say := func(format string, args ...any) {
		if debug {
			c.printf(format+"\n", args...)
		}
	}
	say("Starting unattended upgrades script")
	say("Allowed origins are: origin=Debian,codename=bookworm,label=Debian, origin=Debian,codename=bookworm,label=Debian-Security, origin=Debian,codename=bookworm-security,label=Debian-Security")
	say("Initial blacklist: ")
	say("Initial whitelist (not strict): ")
	if h := s.lock(c, 0, nil); h != nil {
		c.printf("Lock could not be acquired (another package manager running?)\nCache lock can not be acquired, exiting\n")
		lockMessage(c, "/var/lib/dpkg/lock-frontend", h)
		return 1
	}
	defer s.unlock()
	if s.interrupted() {
		c.printf("Unclean dpkg state detected, trying to correct\n")
		c.errorf("%s", interruptedMessage)
		return 1
	}
	list := s.upgradable()
	s.mu.Lock()
	var held []string
	for name := range s.holds {
		held = append(held, name)
	}
	s.mu.Unlock()
	sort.Strings(held)
	for _, name := range held {
		say("Package %s is marked to be held back", name)
	}
	for _, p := range list {
		say("Checking: %s ([<Origin component:'main' archive:'stable-security' origin:'Debian' label:'Debian-Security' site:'security.debian.org' isTrusted:True>])", p.Name)
	}
	if len(list) == 0 {
		say("pkgs that look like they should be upgraded: ")
		say("Fetched 0 B in 0s (0 B/s)")
		say("fetch.run() result: 0")
		say("Packages blacklist due to conffile prompts: []")
		c.printf("No packages found that can be upgraded unattended and no pending auto-removals\n")
		return 0
	}
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	say("pkgs that look like they should be upgraded: %s", strings.Join(names, " "))
	say("Fetched 0 B in 0s (0 B/s)")
	say("fetch.run() result: 0")
	say("Packages blacklist due to conffile prompts: []")
	c.printf("Packages that will be upgraded: %s\n", strings.Join(names, " "))
	if dry {
		say("Option --dry-run given, *not* performing real actions")
		return 0
	}
	say("Writing dpkg log to /var/log/unattended-upgrades/unattended-upgrades-dpkg.log")
	for _, p := range list {
		say("applying set ['%s']", p.Name)
	}
	c.printf("Log started: %s\n", c.node.now().UTC().Format("2006-01-02  15:04:05"))
	exit := s.install(c, list)
	if c.p.ctx.Err() != nil {
		return 128 + sigKILL
	}
	c.printf("Log ended: %s\n", c.node.now().UTC().Format("2006-01-02  15:04:05"))
	if exit != 0 {
		c.printf("Installing the upgrades failed!\nerror message: installArchives() failed\ndpkg returned a error! See /var/log/unattended-upgrades/unattended-upgrades-dpkg.log for details\n")
		return 1
	}
	say("InstCount: 0 DelCount: 0 BrokenCount: 0")
	c.printf("All upgrades installed\n")
	return 0
}

// fuser prints the processes that hold apt's lock files.
func fuser(c *invocation) int {
	opts, names := c.getopt("vsk", map[string]string{"silent": "s"})
	if opts == nil {
		return 1
	}
	s := c.packages()
	s.mu.Lock()
	h := s.holder
	s.mu.Unlock()
	exit := 1
	for _, name := range names {
		virt, err := c.tree().resolve(c.dir, name, true)
		if err != nil || h == nil || !slices.Contains(aptLockFiles, virt) {
			continue
		}
		// Another user's descriptors are not visible without root.
		if c.user() != superuser {
			continue
		}
		exit = 0
		if _, silent := opts["s"]; !silent {
			fmt.Fprintf(fdWriter{c.p.ctx, c.fds[2]}, "%s: ", name)
			c.printf("%6d", h.pid)
			fmt.Fprintf(fdWriter{c.p.ctx, c.fds[2]}, "\n")
		}
	}
	return exit
}
