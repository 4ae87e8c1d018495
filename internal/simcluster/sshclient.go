package simcluster

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// The nodes' own SSH: the Core's key leads to all nodes and every node's key to itself, as "Passwordless SSH" of the best practices and kato.md §3.2 want
// it. Nodes reach each other at port 22, whatever loopback port their server has on this machine, and the nodes of clusters that are connected, too.

// newUserKey makes a key pair in the files' forms.
func newUserKey(comment string) (private []byte, public string, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, "", err
	}
	public, err = authorizedKey(key.Public().(ed25519.PublicKey), comment)
	return pem.EncodeToMemory(block), public, err
}

func authorizedKey(key any, comment string) (string, error) {
	public, err := ssh.NewPublicKey(key)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))) + " " + comment + "\n", nil
}

// core is the Core node: that with the role primary, the first one where none has it.
func (c *Cluster) core() *Node {
	for _, n := range c.nodes {
		if slices.Contains(n.cfg.Roles, "primary") {
			return n
		}
	}
	return c.nodes[0]
}

// writeCoreKey makes the Core's key before any node's files are made, because all nodes have its public half.
func (c *Cluster) writeCoreKey() error {
	file := filepath.Join(c.dir, "core_ed25519")
	if private, err := os.ReadFile(file); err == nil {
		public, err := os.ReadFile(file + ".pub")
		c.corePrivate, c.corePublic = private, string(public)
		return err
	}
	var err error
	if c.corePrivate, c.corePublic, err = newUserKey(c.loginUser() + "@" + c.core().name); err != nil {
		return err
	}
	if err := os.WriteFile(file+".pub", []byte(c.corePublic), 0o644); err != nil {
		return err
	}
	return os.WriteFile(file, c.corePrivate, 0o600)
}

// makeKeys writes the login user's keys of a node, and whom it knows and lets in.
func (n *Node) makeKeys() error {
	c := n.cluster
	dir := n.homeOf(n.loginUser()) + "/.ssh/"
	known := []*Node{n}
	private, public := c.corePrivate, c.corePublic
	accepted := c.operatorLine() + public
	if n == c.core() {
		known = c.nodes
	} else {
		var err error
		if private, public, err = newUserKey(n.loginUser() + "@" + n.name); err != nil {
			return err
		}
		accepted += public
	}
	var hosts strings.Builder
	for _, k := range known {
		hosts.WriteString(hostLine(k, k.originalKey.PublicKey()))
	}
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{{"id_ed25519", string(private), 0o600}, {"id_ed25519.pub", public, 0o644}, {"authorized_keys", accepted, 0o600}, {"known_hosts", hosts.String(), 0o644}} {
		if err := n.tree.put(dir+f.name, f.text, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// setCoreAccess takes the Core's key out of the node's authorized_keys, or puts it back.
func (n *Node) setCoreAccess(on bool) error {
	if err := n.ready(); err != nil {
		return err
	}
	file := n.homeOf(n.loginUser()) + "/.ssh/authorized_keys"
	b, err := n.ReadFile(file)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(b), n.cluster.corePublic, "")
	if on {
		text = n.cluster.corePublic + text
	}
	return n.tree.put(file, text, 0o600)
}

// CorePublicKey is the public key of the Core's login user, a line of authorized_keys; "" on a plain cluster.
func (c *Cluster) CorePublicKey() string { return c.corePublic }

// AuthorizeKey lets the holder of a key, a line of authorized_keys, log in to the node from other nodes, as `kato data import` of an old Core's host needs it
// (kato.md §3.2).
func (n *Node) AuthorizeKey(public string) error {
	return n.addLine("authorized_keys", public, 0o600)
}

// KnowHost puts another node's host key, under its name and its address, into the login user's known_hosts.
func (n *Node) KnowHost(other *Node) error {
	return n.addLine("known_hosts", hostLine(other, other.HostKey()), 0o644)
}

// addLine adds a line to a file of the login user's ssh.
func (n *Node) addLine(name, line string, mode os.FileMode) error {
	if err := n.ready(); err != nil {
		return err
	}
	file := n.homeOf(n.loginUser()) + "/.ssh/" + name
	var text []byte
	if _, err := n.tree.stat(superuser, "/", file, true); err == nil {
		if text, err = n.ReadFile(file); err != nil {
			return err
		}
	}
	return n.tree.put(file, string(text)+strings.TrimSpace(line)+"\n", mode)
}

func hostLine(n *Node, key ssh.PublicKey) string {
	return fmt.Sprintf("%s,%s %s", n.name, n.address, ssh.MarshalAuthorizedKey(key))
}

// Connect lets the nodes of two clusters reach each other over ssh by name and by address, as those of one network. Where both clusters have a name or an
// address, each means its own node: Config.Network gives a cluster addresses of its own.
func (c *Cluster) Connect(other *Cluster) {
	for one, to := range map[*Cluster]*Cluster{c: other, other: c} {
		one.mu.Lock()
		one.neighbours = append(one.neighbours, to)
		one.mu.Unlock()
	}
}

// nodeAt is the node of a name or an address, nil when there is none: the cluster's own or one of a neighbour.
func (c *Cluster) nodeAt(host string, port int) *Node {
	c.mu.Lock()
	clusters := append([]*Cluster{c}, c.neighbours...)
	c.mu.Unlock()
	for _, cluster := range clusters {
		var found *Node
		for _, n := range cluster.nodes {
			// Where nodes share their loopback address, the port tells them apart.
			if n.name == host || n.address == host && (found == nil || n.port == port) {
				found = n
			}
		}
		if found != nil {
			return found
		}
	}
	return nil
}

// sshError is the last line of an ssh that did not get in.
type sshError struct{ text string }

func (e sshError) Error() string { return e.text }

// sshTarget is what a client was told.
type sshTarget struct {
	user, host string
	port       int
	keys       []string // files of private keys
	known      []string // files of known hosts; what is learned goes to the first one
	global     []string // those of the whole machine
	unknown    string   // StrictHostKeyChecking: ask (the same as no answer), yes, accept-new or no
	noKeys     bool     // keys are not shown
	timeout    time.Duration
	warn       func(format string, args ...any) // may be nil
	mayWrite   func(file, line string) error    // adds a line to a file of known hosts; nil where nothing is learned
}

// targetOf is a target with what ssh takes by itself.
func targetOf(user, host, home string) sshTarget {
	return sshTarget{user: user, host: host, port: 22, keys: ownKeys(home), known: []string{home + "/.ssh/known_hosts", home + "/.ssh/known_hosts2"}, global: []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}, unknown: "ask"}
}

// logIn does what ssh does before it runs a command: it finds the node, connects, checks the host key and shows the keys that user may read.
func (n *Node) logIn(ctx context.Context, user string, t sshTarget) (*Node, error) {
	to := n.cluster.nodeAt(t.host, t.port)
	if to == nil && (t.host == "localhost" || t.host == "127.0.0.1") {
		to = n
	}
	unreached := func(why string) error {
		return sshError{fmt.Sprintf("ssh: connect to host %s port %d: %s", t.host, t.port, why)}
	}
	if to == nil {
		if net.ParseIP(t.host) != nil {
			return nil, unreached("No route to host")
		}
		return nil, sshError{fmt.Sprintf("ssh: Could not resolve hostname %s: Name or service not known", t.host)}
	}
	if !runtimePort(t.port, to) {
		return nil, unreached("Connection refused")
	}
	var timeout <-chan time.Time
	if t.timeout > 0 {
		timer := time.NewTimer(t.timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	for _, end := range []*Node{n, to} {
		for silent, _ := end.network(); silent != nil; silent, _ = end.network() {
			select {
			case <-silent:
			case <-timeout:
				return nil, unreached("Connection timed out")
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	to.mu.Lock()
	running, listening := to.running, to.listener != nil
	to.mu.Unlock()
	switch {
	case !running:
		return nil, unreached("No route to host")
	case !listening:
		return nil, unreached("Connection refused")
	}
	if err := to.ready(); err != nil {
		return nil, unreached(err.Error())
	}
	if err := n.checkHostKey(t, to.HostKey()); err != nil {
		return nil, err
	}
	cfg, err := to.sshdInForce()
	if err != nil {
		return nil, unreached("Connection refused")
	}
	p := to.peer(t.user, n.address)
	offered := cfg.methods(p)
	for _, file := range t.keys {
		if t.noKeys || !slices.Contains(offered, "publickey") {
			break
		}
		st, err := n.tree.stat(user, "/", file, true)
		if err != nil || !n.tree.permitted(user, st.virt, st.FileInfo, mayRead) {
			continue
		}
		if tooOpen(st.Mode()) {
			t.say("%s\r", unprotected(file, st.Mode()))
			continue
		}
		private, err := n.ReadFile(file)
		if err != nil {
			continue
		}
		if signer, err := ssh.ParsePrivateKey(private); err == nil && to.acceptsKey(cfg, p, signer.PublicKey()) == nil {
			to.countLogin("publickey")
			return to, nil
		}
	}
	return nil, sshError{fmt.Sprintf("%s@%s: Permission denied (%s).", t.user, t.host, strings.Join(offered, ","))}
}

func (t sshTarget) say(format string, args ...any) {
	if t.warn != nil {
		t.warn(format, args...)
	}
}

// unprotected is what OpenSSH says of a private key that others can read.
func unprotected(file string, mode os.FileMode) string {
	line := strings.Repeat("@", 59)
	return fmt.Sprintf("%s\r\n@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\r\n%s\r\nPermissions 0%o for '%s' are too open.\r\nIt is required that your private key files are NOT accessible by others.\r\nThis private key will be ignored.\r\nLoad key \"%s\": bad permissions", line, line, mode.Perm(), file, file)
}

// checkHostKey compares a host's key with those that are known, and learns it where the client was told to.
func (n *Node) checkHostKey(t sshTarget, key ssh.PublicKey) error {
	name := t.host
	if t.port != 22 {
		name = fmt.Sprintf("[%s]:%d", t.host, t.port)
	}
	found, same, offending := false, false, ""
	for _, file := range append(slices.Clone(t.known), t.global...) {
		text, err := n.ReadFile(file)
		if err != nil {
			continue
		}
		f, s := knownKey(text, name, key)
		if !f && name != t.host {
			f, s = knownKey(text, t.host, key)
		}
		if f && !s && offending == "" {
			offending = file
		}
		found, same = found || f, same || s
	}
	if same {
		return nil
	}
	if found {
		line := strings.Repeat("@", 59)
		changed := fmt.Sprintf("%s\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n%s\r\nIT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r\nSomeone could be eavesdropping on you right now (man-in-the-middle attack)!\r\nIt is also possible that a host key has just been changed.\r\nThe fingerprint for the ED25519 key sent by the remote host is\n%s.\r\nPlease contact your system administrator.\r\nAdd correct host key in %s to get rid of this message.\r\nOffending ED25519 key in %s", line, line, ssh.FingerprintSHA256(key), offending, offending)
		if t.unknown != "no" {
			return sshError{fmt.Sprintf("%s\r\nHost key for %s has changed and you have requested strict checking.\r\nHost key verification failed.", changed, name)}
		}
		t.say("%s\r\nPassword authentication is disabled to avoid man-in-the-middle attacks.\r\nKeyboard-interactive authentication is disabled to avoid man-in-the-middle attacks.\r", changed)
		return nil
	}
	switch t.unknown {
	case "yes":
		return sshError{fmt.Sprintf("No ED25519 host key is known for %s and you have requested strict checking.\r\nHost key verification failed.", name)}
	case "ask":
		return sshError{"Host key verification failed."}
	}
	if t.mayWrite != nil && len(t.known) > 0 {
		if err := t.mayWrite(t.known[0], fmt.Sprintf("%s %s", name, ssh.MarshalAuthorizedKey(key))); err != nil {
			t.say("Failed to add the host to the list of known hosts (%s).\r", t.known[0])
		} else {
			t.say("Warning: Permanently added '%s' (ED25519) to the list of known hosts.\r", name)
		}
	}
	return nil
}

// runtimePort says whether a port is that of the node's SSH server: 22, or the one it has on this machine.
func runtimePort(port int, n *Node) bool { return port == 22 || port == n.port }

// knownKey looks a host up in a known_hosts file.
func knownKey(text []byte, host string, key ssh.PublicKey) (found, same bool) {
	for len(text) > 0 {
		_, hosts, known, _, rest, err := ssh.ParseKnownHosts(text)
		if err != nil {
			break
		}
		text = rest
		if slices.ContainsFunc(hosts, func(h string) bool { return h == host || hashedHost(h, host) }) {
			found = true
			same = same || bytes.Equal(known.Marshal(), key.Marshal())
		}
	}
	return found, same
}

// hashedHost says whether a name of known_hosts is the hash of a host's: |1|SALT|HASH.
func hashedHost(name, host string) bool {
	parts := strings.Split(name, "|")
	if len(parts) != 4 || parts[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	h := hmac.New(sha1.New, salt)
	h.Write([]byte(host))
	return base64.StdEncoding.EncodeToString(h.Sum(nil)) == parts[3]
}

// ownKeys are the private keys that ssh tries by itself.
func ownKeys(home string) []string {
	return []string{home + "/.ssh/id_rsa", home + "/.ssh/id_ecdsa", home + "/.ssh/id_ed25519"}
}

// reach is whether one node logs in to another one by key, both by their addresses; for kato.
func (c *Cluster) reach(ctx context.Context, from, to string) error {
	n, err := c.at(from)
	if err != nil {
		return err
	}
	if err := n.ready(); err != nil {
		return err
	}
	t := targetOf(n.loginUser(), to, n.homeOf(n.loginUser()))
	t.unknown, t.timeout = "yes", 5*time.Second
	_, err = n.logIn(ctx, n.loginUser(), t)
	return err
}

// sshProgram is `ssh [-n] [-q] [-T] [-i KEY] [-l USER] [-p PORT] [-o OPTION]... [USER@]HOST COMMAND...` to another node, or to this one. It never asks.
func sshProgram(c *invocation) int {
	args := c.argv[1:]
	home := c.env["HOME"]
	t := targetOf(c.user(), "", home)
	t.keys = nil
	noInput, quiet, wrong := false, false, ""
	setPort := func(text string) {
		var err error
		if t.port, err = strconv.Atoi(text); err != nil || t.port < 1 || t.port > 65535 {
			wrong = fmt.Sprintf("Bad port '%s'", text)
		}
	}
	preferred := ""
	option := func(text string) {
		name, value, _ := strings.Cut(strings.Replace(text, " ", "=", 1), "=")
		value = strings.TrimSpace(value)
		oneOf := func(values ...string) {
			if wrong == "" && !slices.Contains(values, value) {
				wrong = fmt.Sprintf("command-line line 0: unsupported option %q.", value)
			}
		}
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "stricthostkeychecking":
			oneOf("yes", "true", "no", "false", "off", "ask", "accept-new")
			t.unknown = value
			switch value {
			case "true":
				t.unknown = "yes"
			case "false", "off":
				t.unknown = "no"
			}
		case "userknownhostsfile":
			t.known = strings.Fields(value)
		case "globalknownhostsfile":
			t.global = strings.Fields(value)
		case "connecttimeout":
			seconds, err := strconv.Atoi(value)
			if err != nil {
				wrong = "command-line line 0: invalid time value."
			}
			t.timeout = time.Duration(seconds) * time.Second
		case "user":
			t.user = value
		case "port":
			setPort(value)
		case "identityfile":
			t.keys = append(t.keys, value)
		case "pubkeyauthentication":
			oneOf("yes", "no", "true", "false", "unbound", "host-bound")
			t.noKeys = value == "no" || value == "false"
		case "preferredauthentications":
			preferred = value
		case "loglevel":
			quiet = quiet || strings.EqualFold(value, "quiet")
		case "batchmode", "passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication", "identitiesonly", "tcpkeepalive":
			oneOf("yes", "no", "true", "false")
		case "numberofpasswordprompts", "connectionattempts", "serveraliveinterval", "serveralivecountmax", "controlmaster", "controlpath", "controlpersist", "forwardagent", "forwardx11", "requesttty", "identityagent", "addkeystoagent",
			"clearallforwardings", "hostkeyalgorithms", "hashknownhosts", "updatehostkeys", "checkhostip", "gssapiauthentication", "hostbasedauthentication", "permitlocalcommand", "proxycommand", "escapechar", "addressfamily":
		default:
			wrong = fmt.Sprintf("command-line: line 0: Bad configuration option: %s", name)
		}
	}
options:
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		a := args[0]
		args = args[1:]
		if a == "--" {
			break
		}
		for i := 1; i < len(a); i++ {
			switch o := a[i]; o {
			case 'n':
				noInput = true
			case 'q':
				quiet = true
			case 'T', 'x', 'a', 'v', '4', '6', 'k', 'C':
			case 'o', 'i', 'l', 'p', 'F':
				value := a[i+1:]
				if value == "" {
					if len(args) == 0 {
						c.errorf("option requires an argument -- %c", o)
						return 255
					}
					value, args = args[0], args[1:]
				}
				switch o {
				case 'o':
					option(value)
				case 'i':
					t.keys = append(t.keys, value)
				case 'l':
					t.user = value
				case 'p':
					setPort(value)
				}
				continue options
			default:
				c.errorf("unknown option -- %c", o)
				return 255
			}
		}
	}
	if wrong != "" {
		c.errorf("%s\r", wrong)
		return 255
	}
	if len(args) == 0 {
		c.errorf("usage: ssh [-46AaCfGgKkMNnqsTtVvXxYy] destination [command [argument ...]]")
		return 255
	}
	t.host = args[0]
	if i := strings.LastIndexByte(t.host, '@'); i >= 0 {
		t.user, t.host = t.host[:i], t.host[i+1:]
	}
	for _, k := range t.keys {
		if _, err := c.stat(inHome(k, home)); err != nil && !quiet {
			c.errorf("Warning: Identity file %s not accessible: %s.", k, errorText(err))
		}
	}
	if t.keys == nil {
		t.keys = ownKeys(home)
	}
	for _, list := range [][]string{t.keys, t.known, t.global} {
		for i, k := range list {
			if list[i] = inHome(k, home); !path.IsAbs(list[i]) {
				list[i] = path.Join(c.dir, k)
			}
		}
	}
	if preferred != "" && !slices.Contains(strings.Split(preferred, ","), "publickey") {
		t.noKeys = true
	}
	t.warn = func(format string, args ...any) {
		if !quiet {
			c.errorf(format, args...)
		}
	}
	t.mayWrite = c.addLine
	to, err := c.node.logIn(c.p.ctx, c.user(), t)
	if err != nil {
		var refused sshError
		if errors.As(err, &refused) && !quiet {
			c.errorf("%s\r", refused.text)
		}
		return 255
	}
	return c.remoteCommand(to, strings.Join(args[1:], " "), noInput)
}

// inHome is a file's name with what ~/ means.
func inHome(name, home string) string {
	if strings.HasPrefix(name, "~/") {
		return home + name[1:]
	}
	return name
}

// addLine adds a line to a file, as ssh does to known_hosts.
func (c *invocation) addLine(file, line string) error {
	d, err := c.tree().open(c.user(), c.dir, file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer d.release()
	_, err = d.write(c.p.ctx, []byte(line))
	return err
}

// remoteCommand runs a command line on another node by the login shell, with this process's descriptors.
func (c *invocation) remoteCommand(to *Node, command string, noInput bool) int {
	var fds fdTable
	for i := range 3 {
		fds[i] = c.fds[i].retain()
	}
	if noInput {
		fds[0].release()
		fds[0] = discardDescription()
	}
	p, err := to.startCommand(command, fds)
	if err != nil {
		c.errorf("Connection closed by remote host")
		return 255
	}
	exit := c.waitFor(p)
	if p.killed() {
		return 255
	}
	return exit
}

// startCommand begins a command line, or without one a login shell that reads its input, in a session of the login user. The descriptors are the session's.
func (n *Node) startCommand(command string, fds fdTable) (*process, error) {
	n.mu.Lock()
	boot := n.boot
	n.mu.Unlock()
	p, err := boot.newProcess(n, nil, n.loginUser(), []string{"-bash"})
	if err != nil {
		fds.closeAll()
		return nil, err
	}
	env := n.loginEnvironment()
	s := &shell{node: n, p: p, bash: true, arg0: "bash", fds: fds, dir: env["HOME"], umask: 0o022, mainPID: p.pid}
	s.vars = variables(env, env["HOME"])
	go func() {
		n.untilThawed(p, command)
		if command == "" {
			s.login()
			s.standardInput()
		} else {
			s.program(command)
		}
		s.fds.closeAll()
		p.finish(s.exit)
	}()
	return p, nil
}

// killed says whether a signal has ended the process, or is about to.
func (p *process) killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.signal != 0
}

// ssh runs a command line on another host with the caller's own keys, for kato: katodouble.Invocation's SSH.
func (c *invocation) ssh(ctx context.Context, host, command string, stdout, stderr io.Writer) (exit int, err error) {
	t := targetOf(c.user(), host, c.env["HOME"])
	t.unknown, t.timeout = "yes", 5*time.Second
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		t.user, t.host = host[:i], host[i+1:]
	}
	to, err := c.node.logIn(ctx, c.user(), t)
	if err != nil {
		text := err.Error()
		return 0, errors.New(strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:]))
	}
	var fds fdTable
	var input, output, errs *description
	fds[0], input = newPipe()
	output, fds[1] = newPipe()
	errs, fds[2] = newPipe()
	p, err := to.startCommand(command, fds)
	var copies sync.WaitGroup
	for from, to := range map[*description]io.Writer{output: stdout, errs: stderr} {
		copies.Go(func() {
			_, _ = io.Copy(to, fdReader{ctx, from})
			from.release() // a host that goes on writing learns that nobody reads
		})
	}
	defer input.release()
	if err != nil {
		copies.Wait()
		return 0, sshError{fmt.Sprintf("Connection closed by %s port %d", t.host, t.port)}
	}
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	copies.Wait()
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case p.killed():
		return 0, sshError{fmt.Sprintf("Connection to %s closed by remote host.", t.host)}
	}
	return p.exit, nil
}
