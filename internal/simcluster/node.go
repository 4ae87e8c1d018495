package simcluster

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Node is one simulated machine.
type Node struct {
	cluster     *Cluster
	cfg         NodeConfig
	name        string
	address     string
	port        int
	holder      *portHolder
	originalKey ssh.Signer
	tree        *tree
	locks       *lockTable
	packages    *packageState
	docker      *Docker // nil but on a DEA of ALS
	freezer     freezer

	made     sync.Once
	makeErr  error
	sshdRead sync.Once

	clock atomic.Int64 // skew in ns

	power sync.Mutex // one power transition at a time

	mu        sync.Mutex
	key       ssh.Signer
	boot      *bootState // of the last boot, ended when the node is down
	running   bool
	rebooting bool
	closed    bool
	boots     int
	kernel    string // running release
	listener  net.Listener
	conns     map[*wire]struct{}
	outbound  map[*outbound]struct{} // connections of the node's own programs
	accepted  int                    // connections since the start
	faults    faults
	silent    chan struct{} // not nil while the network is cut
	latency   time.Duration
	executed  []*Execution
	sshd      sshdState
}

// faults are the switches of a node; see the methods of the same names.
type faults struct {
	refuse            bool
	neverReturn       bool
	rebootDoesNothing bool
	kernelNotUpdated  bool
	degraded          bool
	sudoPassword      bool
	noOutbound        bool
	noQuotas          bool // of the kernel
	noQuotaTools      bool
	slowBoot          time.Duration
	commands          []*commandFault
	commandsHealed    chan struct{}
	roleNeverStarts   map[string]bool
	// of file systems that are frozen, by mount point.
	slowFreeze   map[string]time.Duration
	refuseFreeze map[string]string
	noFreeze     bool
	// of sshd; keysBroken is the configuration with which no key is accepted.
	neverReloads, breakKeys bool
	keysBroken              *string
}

type commandFault struct {
	words  []string
	times  int // < 0: for ever
	exit   int
	stderr string
	hang   bool
	slow   time.Duration // > 0: takes so much longer, then does its work
}

func (c *Cluster) newNode(i int, nc NodeConfig) (*Node, error) {
	n := &Node{cluster: c, cfg: nc, name: nc.Name, address: c.nodeAddress(i), locks: newLockTable(), conns: map[*wire]struct{}{}, outbound: map[*outbound]struct{}{}}
	if n.cfg.Pending == nil {
		n.cfg.Pending = DefaultPending()
	}
	if n.cfg.Kernel == "" {
		n.cfg.Kernel = DefaultKernel
	}
	if n.cfg.Apps == 0 {
		n.cfg.Apps = 4
	}
	n.kernel = n.cfg.Kernel
	n.tree = &tree{root: filepath.Join(c.dir, "nodes", nc.Name), owners: map[string]string{}, skew: n.skew}
	if n.cfg.Mounts == nil && c.cfg.Platform == platformALS && slices.Contains(nc.Roles, "filesystem") {
		n.cfg.Mounts = []Mount{{Path: backupPath}}
	}
	n.packages = newPackageState(n)
	if c.cfg.Platform == platformALS && slices.Contains(nc.Roles, "dea") {
		n.docker = newDocker(n)
	}
	var err error
	if n.tree.systems, err = mountTable(n.cfg.Mounts); err != nil {
		return nil, err
	}
	if n.originalKey, err = n.hostKeyFile(); err != nil {
		return nil, err
	}
	n.key = n.originalKey
	n.holder, n.port, err = holdPort(n.address)
	return n, err
}

// hostKeyFile makes the host key once; a cluster started again in the same folder keeps it.
func (n *Node) hostKeyFile() (ssh.Signer, error) {
	if n.cluster.temporary {
		return newHostKey()
	}
	file := filepath.Join(n.cluster.dir, "nodes", n.name+".hostkey")
	if old, err := os.ReadFile(file); err == nil {
		return ssh.ParsePrivateKey(old)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, n.name)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(private)
}

func newHostKey() (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(private)
}

func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func (n *Node) hostKey() ssh.Signer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.key
}

func (n *Node) skew() time.Duration { return time.Duration(n.clock.Load()) }

func (n *Node) loginUser() string { return n.cluster.loginUser() }

func (n *Node) homeOf(user string) string {
	switch user {
	case superuser:
		return "/root"
	case n.loginUser():
		return "/home/" + user
	}
	return ""
}

func (n *Node) katoPath() string { return "/home/stackato/bin/kato" }

// loginEnvironment is what sshd gives a session that is not a login shell.
func (n *Node) loginEnvironment() map[string]string {
	user := n.loginUser()
	return map[string]string{
		"HOME": n.homeOf(user), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "LANG": "C.UTF-8",
		"PATH":       "/usr/local/bin:/usr/bin:/bin:/usr/games",
		"SSH_CLIENT": n.address + " 50000 22", "SSH_CONNECTION": n.address + " 50000 " + n.address + " 22",
		"XDG_RUNTIME_DIR": "/run/user/1000",
	}
}

// login sets what /etc/profile and ~/.profile set: the path with the user's own bin.
func (s *shell) login() {
	path := "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
	if s.user() == superuser {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if home := s.get("HOME"); home != "" {
		if st, err := s.node.tree.stat(s.user(), "/", home+"/bin", true); err == nil && st.IsDir() {
			path = home + "/bin:" + path
		}
	}
	v := str(path)
	v.Exported = true
	s.vars["PATH"] = v
	for _, file := range []string{"/etc/profile.d/proxy.sh", s.get("HOME") + "/.profile"} {
		if text, err := s.node.tree.readFile(s.p, "/", file); err == nil {
			s.eval(string(text))
		}
	}
	s.exit = 0
}

// firstBoot starts the node for the first time.
func (n *Node) firstBoot() error {
	n.power.Lock()
	defer n.power.Unlock()
	return n.up()
}

// up boots the node; the caller holds power.
func (n *Node) up() error {
	b := &bootState{id: newUUID(), started: time.Now(), procs: map[int]*process{}, nextID: 400}
	b.ctx, b.cancel = context.WithCancel(n.cluster.ctx)
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		b.cancel()
		return errNodeDown
	}
	n.boot, n.running, n.rebooting = b, true, false
	n.boots++
	first := n.boots == 1
	if !n.cfg.Container && !n.faults.kernelNotUpdated {
		n.kernel = n.packages.defaultKernel()
	}
	stuck := len(n.faults.roleNeverStarts) > 0
	refuse := n.faults.refuse
	kernel := n.kernel
	n.mu.Unlock()
	n.packages.rebooted()
	n.docker.booted()
	init := n.mountAtBoot(b)
	startTime := n.cluster.cfg.RoleStartTime
	if first {
		startTime = 0 // a cluster starts healthy
	}
	if k := n.cluster.kato; k != nil {
		k.NodeUp(n.address, startTime)
	}
	if startTime > 0 || stuck {
		n.cluster.mark(n.name, "roles", true)
		n.cluster.wg.Add(1)
		go func() {
			defer n.cluster.wg.Done()
			t := time.NewTimer(startTime)
			defer t.Stop()
			select {
			case <-t.C:
				n.rolesSettled(b)
			case <-b.ctx.Done():
			}
		}()
	}
	n.cluster.event(n.name, "boot", "boot %s with kernel %s", b.id, kernel)
	select { // like other units, sshd does not wait for a script that does not end
	case <-init:
	case <-time.After(initTime):
	case <-b.ctx.Done():
	}
	answers := true
	if n.exists() {
		n.mu.Lock()
		n.sshd.starts = nil
		n.mu.Unlock()
		_ = n.countStart()
		if answers = n.startSSHD() == nil; !answers {
			n.retrySSHD()
		}
	}
	if !refuse && answers {
		if err := n.listen(); err != nil {
			return err
		}
	}
	n.cluster.mark(n.name, "power", false)
	return nil
}

// rolesSettled puts the node into service unless a role will never start.
func (n *Node) rolesSettled(b *bootState) {
	n.mu.Lock()
	ok := n.boot == b && len(n.faults.roleNeverStarts) == 0
	n.mu.Unlock()
	if ok {
		n.cluster.mark(n.name, "roles", false)
	}
}

func (n *Node) listen() error {
	var l net.Listener
	for deadline := time.Now().Add(10 * time.Second); ; {
		var err error
		if l, err = net.Listen("tcp", net.JoinHostPort(n.address, strconv.Itoa(n.port))); err == nil {
			break
		}
		// A child that this process is just forking has the closed listener too until it executes its program, which can take a while on a busy machine.
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) || n.cluster.ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.running || n.listener != nil {
		l.Close()
		return errNodeDown
	}
	n.listener = l
	n.cluster.wg.Add(1)
	go n.accept(l, n.boot)
	return nil
}

// down ends everything on the node; the caller holds power.
func (n *Node) down(why string) {
	n.mu.Lock()
	b, l := n.boot, n.listener
	was := n.running
	n.running, n.listener = false, nil
	n.mu.Unlock()
	if !was {
		return
	}
	n.cluster.mark(n.name, "power", true)
	n.cluster.event(n.name, "down", "%s", why)
	if l != nil {
		l.Close()
	}
	n.closeConns()
	n.dropOutbound()
	if k := n.cluster.kato; k != nil {
		k.NodeDown(n.address)
	}
	b.end()
	n.forgetFrozen()
	n.packages.poweredOff()
	n.docker.poweredOff()
	n.cluster.mark(n.name, "upgrade", false)
	n.cluster.mark(n.name, "roles", false)
	if n.exists() {
		n.emptyMemory()
	}
}

// emptyMemory takes away what does not outlive a boot.
func (n *Node) emptyMemory() {
	n.tree.empty("/run")
	n.tree.empty("/tmp")
	n.tree.empty("/dev/shm")
	n.makeRun()
}

// shutdown takes the node away for good.
func (n *Node) shutdown() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.power.Lock()
	defer n.power.Unlock()
	n.down("the cluster is closed")
	if n.holder != nil {
		n.holder.close()
		n.holder = nil
	}
}

// requestReboot is the reboot command: it returns at once, the node goes down a moment later.
func (n *Node) requestReboot(why string, powerOff bool) {
	n.mu.Lock()
	if n.faults.rebootDoesNothing || n.rebooting || !n.running {
		n.mu.Unlock()
		return
	}
	n.rebooting = true
	b := n.boot
	n.mu.Unlock()
	n.cluster.mark(n.name, "power", true)
	n.cluster.wg.Add(1)
	go func() {
		defer n.cluster.wg.Done()
		t := time.NewTimer(n.cluster.cfg.ShutdownTime)
		defer t.Stop()
		select {
		case <-t.C:
		case <-b.ctx.Done():
		}
		n.restart(b, why, powerOff)
	}()
}

// restart takes boot b down and boots again, unless the node is to stay off.
func (n *Node) restart(b *bootState, why string, powerOff bool) {
	n.power.Lock()
	defer n.power.Unlock()
	n.mu.Lock()
	if n.boot != b || !n.running {
		n.mu.Unlock()
		return
	}
	stay := n.faults.neverReturn || powerOff
	wait := max(0, n.cluster.cfg.BootTime) + n.faults.slowBoot
	n.mu.Unlock()
	n.down(why)
	if stay {
		n.mu.Lock()
		n.rebooting = false
		n.mu.Unlock()
		n.cluster.event(n.name, "down", "stays off")
		return
	}
	n.bootAfter(wait)
}

func (n *Node) bootAfter(wait time.Duration) {
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-n.cluster.ctx.Done():
			return
		}
	}
	if err := n.up(); err != nil {
		n.cluster.event(n.name, "down", "did not boot: %v", err)
	}
}

func (n *Node) addConn(w *wire, b *bootState) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.running || n.boot != b {
		return false
	}
	n.conns[w] = struct{}{}
	n.accepted++
	return true
}

func (n *Node) removeConn(w *wire) {
	n.mu.Lock()
	delete(n.conns, w)
	n.mu.Unlock()
}

func (n *Node) closeConns() {
	n.mu.Lock()
	var list []*wire
	for w := range n.conns {
		list = append(list, w)
	}
	n.mu.Unlock()
	for _, w := range list {
		w.Close()
	}
}

// Name of the node.
func (n *Node) Name() string { return n.name }

// Address is the node's loopback address.
func (n *Node) Address() string { return n.address }

// Port of its SSH server; the same for the node's whole life.
func (n *Node) Port() int { return n.port }

// HostKey is the public key the SSH server shows now.
func (n *Node) HostKey() ssh.PublicKey { return n.hostKey().PublicKey() }

// BootID is the running boot's id, or the last one's while the node is down.
func (n *Node) BootID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boot.id
}

// Boots counts boots, the first included.
func (n *Node) Boots() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boots
}

// Connections counts the SSH connections that were accepted since the start.
func (n *Node) Connections() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.accepted
}

// Running says whether the node is up.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running
}

// KernelRunning is the release that uname -r prints.
func (n *Node) KernelRunning() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kernel
}

// OutOfService says why the node is not in service now ("power", "upgrade", "roles"); empty when it is.
func (n *Node) OutOfService() []string {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	var out []string
	for r := range n.cluster.out[n.name] {
		out = append(out, r)
	}
	return out
}

// Exporting says whether `kato data export` is at work on the node.
func (n *Node) Exporting() bool {
	return n.cluster.kato != nil && n.cluster.kato.Exporting(n.address)
}

// Importing says whether `kato data import` is at work on the node.
func (n *Node) Importing() bool {
	return n.cluster.kato != nil && n.cluster.kato.Importing(n.address)
}

// Processes lists the command lines that run on the node now.
func (n *Node) Processes() []string {
	n.mu.Lock()
	b := n.boot
	n.mu.Unlock()
	var out []string
	for _, p := range b.list() {
		argv, _, _, _ := p.snapshot()
		out = append(out, strings.Join(argv, " "))
	}
	return out
}

// ReadFile reads a file of the node as root.
func (n *Node) ReadFile(path string) ([]byte, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	virt, err := n.tree.resolve("/", path, true)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", path, errorText(err))
	}
	if content, ok := n.tree.virtual[virt]; ok {
		return content(), nil
	}
	b, err := os.ReadFile(n.tree.host(virt))
	if err != nil {
		return nil, fmt.Errorf("%s: %s", path, errorText(bare(err)))
	}
	return b, nil
}

// WriteFile writes a file of the node as the login user would own it, with mode 0644, making its folders.
func (n *Node) WriteFile(path string, content []byte) error {
	if err := n.ready(); err != nil {
		return err
	}
	virt, err := n.tree.resolve("/", filepath.ToSlash(filepath.Dir(path)), true)
	if err == nil {
		err = os.MkdirAll(n.tree.host(virt), 0o755)
	}
	if err != nil {
		return err
	}
	return n.tree.put(path, string(content), 0o644)
}
