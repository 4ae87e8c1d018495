package simcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// commandTable is everything installed on a node.
func commandTable() map[string]program {
	t := coreutils()
	maps.Copy(t, aptPrograms())
	bin := func(f func(*invocation) int) program { return program{"/usr/bin", f} }
	sbin := func(f func(*invocation) int) program { return program{"/usr/sbin", f} }
	maps.Copy(t, map[string]program{
		"flock": bin(flock), "setsid": bin(setsid), "kill": bin(func(c *invocation) int {
			return sendSignals(c.node, c.p, c.argv[1:], func(m string) { c.fail(1, "%s", m) }, func(m string) { c.printf("%s", m) })
		}),
		"sudo": bin(sudo), "su": bin(su), "uptime": bin(uptimeProgram), "who": bin(func(*invocation) int { return 0 }), "logger": bin(func(*invocation) int { return 0 }),
		"systemctl": bin(systemctl), "systemd-detect-virt": bin(detectVirt), "ps": bin(ps), "pgrep": bin(pgrep), "needrestart": sbin(func(*invocation) int { return 0 }),
		"reboot": sbin(rebootProgram), "shutdown": sbin(rebootProgram), "poweroff": sbin(rebootProgram), "halt": sbin(rebootProgram), "ip": bin(func(*invocation) int { return 0 }),
		"logname": bin(func(c *invocation) int { c.printf("%s\n", c.node.loginUser()); return 0 }), "lsb_release": bin(lsbRelease), "runlevel": sbin(func(c *invocation) int { c.printf("N 5\n"); return 0 }),
		"kato": {"/home/stackato/bin", katoProgram}, "ssh": bin(sshProgram), "ssh-keygen": bin(sshKeygen), "sshd": sbin(sshdProgram), "service": sbin(serviceProgram), "getent": bin(getent), "curl": bin(curlProgram), "vmctl": bin(vmctl), "docker": bin(docker),
		"mount": bin(mountProgram), "mountpoint": bin(mountpoint), "quotacheck": sbin(quotacheck), "quotaon": sbin(quotaon), "quotaoff": sbin(quotaon),
		"fsfreeze": sbin(fsfreezeProgram), path.Base(freezeProgram): {path.Dir(freezeProgram), freezeDouble},
	})
	return t
}

// flock is flock(1) in its command form: `flock [-n] [-w SECONDS] [-s|-x] [-o] [-E CODE] FILE|FOLDER COMMAND [ARG...]` or `-c TEXT`, and `flock FD`.
func flock(c *invocation) int {
	opts, rest := c.leadingOptions("nw:sxeouE:Fv", map[string]string{"nonblock": "n", "nb": "n", "timeout": "w", "wait": "w", "shared": "s", "exclusive": "x", "close": "o", "unlock": "u", "conflict-exit-code": "E", "no-fork": "F", "verbose": "v"})
	if opts == nil {
		return 64
	}
	if len(rest) == 0 {
		return c.fail(64, "requires file descriptor, file or directory")
	}
	conflict := 1
	if v, ok := opts["E"]; ok {
		conflict, _ = strconv.Atoi(v)
	}
	_, shared := opts["s"]
	wait := time.Duration(-1)
	if _, ok := opts["n"]; ok {
		wait = 0
	}
	if v, ok := opts["w"]; ok {
		d, good := parseSeconds(v)
		if !good {
			return c.fail(64, "invalid timeout value")
		}
		wait = d
	}
	argv := rest[1:]
	if len(argv) > 0 && (argv[0] == "-c" || argv[0] == "--command") {
		if len(argv) != 2 {
			return c.fail(64, "%s requires exactly one command argument", argv[0])
		}
		argv = []string{"/bin/sh", "-c", argv[1]}
	}
	if len(argv) == 0 { // an open descriptor
		fd, err := strconv.Atoi(rest[0])
		if err != nil || fd < 0 || fd >= maxFD || c.fds[fd] == nil {
			return c.fail(65, "bad file descriptor: '%s'", rest[0])
		}
		k, ok := c.fds[fd].key()
		if !ok {
			return c.fail(65, "%s: Bad file descriptor", rest[0])
		}
		if _, unlock := opts["u"]; unlock {
			if l := c.fds[fd].lock; l != nil {
				l.unlock(c.fds[fd])
			}
			return 0
		}
		if !c.node.locks.acquire(c.p, c.fds[fd], k, !shared, wait) {
			return conflict
		}
		return 0
	}
	d, err := c.open(rest[0], os.O_RDONLY|os.O_CREATE, 0o666)
	if err != nil {
		return c.fail(66, "cannot open lock file %s: %s", rest[0], errorText(err))
	}
	k, ok := d.key()
	if !ok {
		d.release()
		return c.fail(66, "cannot open lock file %s: Bad file descriptor", rest[0])
	}
	if !c.node.locks.acquire(c.p, d, k, !shared, wait) {
		d.release()
		if c.p.ctx.Err() != nil {
			return 128 + sigTERM
		}
		return conflict
	}
	// The child inherits the descriptor unless -o: the lock lives as long as anything of it.
	slot := -1
	for i := 3; i < maxFD; i++ {
		if c.fds[i] == nil {
			slot = i
			break
		}
	}
	if slot < 0 {
		d.release()
		return c.fail(71, "fork failed: Too many open files")
	}
	c.fds[slot] = d
	_, closeIt := opts["o"]
	child, err := c.spawn(argv, func(n *invocation) {
		if closeIt {
			n.fds[slot].release()
			n.fds[slot] = nil
		}
	})
	exit := 71
	if err == nil {
		exit = c.waitFor(child)
	}
	c.fds[slot].release()
	c.fds[slot] = nil
	return exit
}

// setsid runs a program in its own session; -f in the background.
func setsid(c *invocation) int {
	opts, rest := c.leadingOptions("cfw", map[string]string{"fork": "f", "wait": "w", "ctty": "c"})
	if opts == nil {
		return 1
	}
	if len(rest) == 0 {
		return c.fail(1, "no command specified")
	}
	_, fork := opts["f"]
	_, wait := opts["w"]
	own := func(p *process) {
		p.mu.Lock()
		p.pgid, p.sid = p.pid, p.pid
		p.mu.Unlock()
	}
	_, _, pgid, _ := c.p.snapshot()
	if fork || pgid == c.p.pid { // a group leader cannot make a session: it forks
		child, err := c.spawn(rest, func(n *invocation) { own(n.p) })
		if err != nil {
			return c.fail(1, "fork failed: Cannot allocate memory")
		}
		if wait {
			return c.waitFor(child)
		}
		return 0
	}
	own(c.p)
	return c.exec(rest)
}

// sudo is `sudo [-n] [-u USER] [-E] [NAME=value...] COMMAND [ARG...]`, -v and -l. Descriptors from 3 up are closed, the environment is reset.
func sudo(c *invocation) int {
	args := c.argv[1:]
	target := superuser
	keep, login, shellWanted, validate, list, stdin := false, false, false, false, false, false
options:
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			break options
		case a == "-u" && len(args) > 0:
			target, args = args[0], args[1:]
		case a == "-n" || a == "--non-interactive" || a == "-H" || a == "-k" || a == "-K":
		case a == "-S":
			stdin = true
		case a == "-E" || strings.HasPrefix(a, "--preserve-env"):
			keep = true
		case a == "-i":
			login = true
		case a == "-s":
			shellWanted = true
		case a == "-v":
			validate = true
		case a == "-l" || a == "-ll" || a == "-nl" || a == "-ln":
			list = true
		case a == "-nv":
			validate = true
		default:
			c.errorf("sudo: invalid option -- '%s'\nusage: sudo -h | -K | -k | -V", strings.TrimLeft(a, "-"))
			return 1
		}
	}
	_ = stdin
	c.node.mu.Lock()
	password := c.node.faults.sudoPassword
	c.node.mu.Unlock()
	if password && c.user() != superuser {
		if !slices.Contains(c.argv[1:], "-n") && !slices.Contains(c.argv[1:], "-nv") && !slices.Contains(c.argv[1:], "-nl") {
			c.errorf("sudo: a terminal is required to read the password; either use the -S option to read from standard input or configure an askpass helper")
		}
		c.errorf("sudo: a password is required")
		return 1
	}
	if validate {
		return 0
	}
	given := map[string]string{}
	for len(args) > 0 && strings.Contains(args[0], "=") && !strings.HasPrefix(args[0], "/") {
		k, v, _ := strings.Cut(args[0], "=")
		given[k] = v
		args = args[1:]
	}
	secure := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if list {
		if len(args) > 0 {
			found := c.node.which(superuser, c.dir, args[0], secure)
			if found == "" {
				return 1
			}
			c.printf("%s\n", strings.Join(append([]string{found}, args[1:]...), " "))
			return 0
		}
		c.printf("User %s may run the following commands on %s:\n    (ALL) NOPASSWD:SETENV: ALL\n", c.user(), c.node.name)
		return 0
	}
	if login || shellWanted {
		text := strings.Join(args, " ")
		args = []string{"/bin/bash"}
		if login {
			args = append(args, "-l")
		}
		if text != "" {
			args = append(args, "-c", text)
		}
	}
	if len(args) == 0 {
		c.errorf("usage: sudo -h | -K | -k | -V")
		return 1
	}
	home := c.node.homeOf(target)
	if home == "" {
		c.errorf("sudo: unknown user %s\nsudo: error initializing audit plugin sudoers_audit", target)
		return 1
	}
	env := map[string]string{}
	if keep {
		maps.Copy(env, c.env)
	} else {
		for _, k := range []string{"LANG", "LC_ALL", "TERM", "DISPLAY"} {
			if v, ok := c.env[k]; ok {
				env[k] = v
			}
		}
	}
	maps.Copy(env, map[string]string{"PATH": secure, "HOME": home, "USER": target, "LOGNAME": target, "SHELL": "/bin/bash", "SUDO_USER": c.user(), "SUDO_UID": strconv.Itoa(uidOf(c.user())), "SUDO_GID": strconv.Itoa(uidOf(c.user())), "SUDO_COMMAND": strings.Join(args, " ")})
	maps.Copy(env, given)
	found := c.node.which(target, c.dir, args[0], env["PATH"])
	if found == "" {
		c.errorf("sudo: %s: command not found", args[0])
		return 1
	}
	// sudo itself runs as root from here on, keeps its descriptors, and cannot be killed by the user.
	c.p.mu.Lock()
	c.p.user = superuser
	c.p.mu.Unlock()
	child, err := c.spawn(args, func(n *invocation) {
		n.p.mu.Lock()
		n.p.user = target
		n.p.mu.Unlock()
		n.env, n.lookup = env, env["PATH"]
		for i := 3; i < maxFD; i++ {
			n.fds[i].release()
			n.fds[i] = nil
		}
	})
	if err != nil {
		return 1
	}
	return c.waitFor(child)
}

// su is `su [-] USER -c TEXT`, for root only.
func su(c *invocation) int {
	opts, rest := c.getopt("lc:s:", map[string]string{"login": "l", "command": "c"})
	if opts == nil {
		return 1
	}
	if c.user() != superuser {
		c.errorf("su: Authentication failure")
		return 1
	}
	_, login := opts["l"]
	rest = slices.DeleteFunc(rest, func(a string) bool { login = login || a == "-"; return a == "-" })
	target := superuser
	if len(rest) > 0 {
		target = rest[0]
	}
	home := c.node.homeOf(target)
	if home == "" {
		c.errorf("su: user %s does not exist or the user entry does not contain all the required fields", target)
		return 1
	}
	argv := []string{"/bin/bash"}
	if login {
		argv = append(argv, "-l")
	}
	if text, ok := opts["c"]; ok {
		argv = append(argv, "-c", text)
	}
	child, err := c.spawn(argv, func(n *invocation) {
		n.p.mu.Lock()
		n.p.user = target
		n.p.mu.Unlock()
		n.env = map[string]string{"HOME": home, "USER": target, "LOGNAME": target, "SHELL": "/bin/bash", "PATH": "/usr/local/bin:/usr/bin:/bin"}
		n.lookup = n.env["PATH"]
		if login {
			n.dir = home
		}
	})
	if err != nil {
		return 1
	}
	return c.waitFor(child)
}

func rebootProgram(c *invocation) int {
	off := c.name() == "poweroff" || c.name() == "halt"
	for _, a := range c.argv[1:] {
		switch a {
		case "--help":
			c.printf("reboot [OPTIONS...]\n")
			return 0
		case "-c":
			return 0
		case "-h", "-P", "-H":
			off = off || c.name() == "shutdown"
		case "-r":
			off = false
		}
	}
	if c.name() == "shutdown" && !slices.Contains(c.argv[1:], "-r") {
		off = true
	}
	if c.user() != superuser {
		c.errorf("Call to %s failed: Interactive authentication required.", map[bool]string{true: "PowerOff", false: "Reboot"}[off])
		return 1
	}
	c.node.requestReboot(strings.Join(c.argv, " "), off)
	return 0
}

// services that run on every node.
var services = []string{"ssh", "sshd", "cron", "dbus", "systemd-journald", "unattended-upgrades"}

func systemctl(c *invocation) int {
	args := slices.DeleteFunc(slices.Clone(c.argv[1:]), func(a string) bool { return strings.HasPrefix(a, "-") && a != "--failed" })
	verb := "list-units"
	if len(args) > 0 {
		verb = args[0]
	}
	has := func(o string) bool { return slices.Contains(c.argv[1:], o) }
	c.node.mu.Lock()
	degraded := c.node.faults.degraded
	rebooting := c.node.rebooting
	c.node.mu.Unlock()
	switch verb {
	case "is-system-running":
		switch {
		case rebooting:
			c.printf("stopping\n")
			return 1
		case degraded:
			c.printf("degraded\n")
			return 1
		}
		c.printf("running\n")
		return 0
	case "is-active":
		exit := 0
		c.node.mu.Lock()
		ssh := c.node.sshd
		c.node.mu.Unlock()
		for _, unit := range args[1:] {
			state := "active"
			name := strings.TrimSuffix(unit, ".service")
			if !slices.Contains(services, name) && !(name == "docker" && c.node.docker.active()) {
				state, exit = "inactive", 3
			}
			if ssh.dead && (name == "ssh" || name == "sshd") {
				state, exit = ssh.state, 3
			}
			if !has("--quiet") && !has("-q") {
				c.printf("%s\n", state)
			}
		}
		return exit
	case "--failed", "list-units":
		failedOnly := has("--failed") || has("--state=failed")
		if degraded && failedOnly {
			c.printf("● demo.service loaded failed failed Simulated failing service\n")
		}
		if !failedOnly {
			c.printf("ssh.service loaded active running OpenBSD Secure Shell server\n")
		}
		if !has("--no-legend") {
			c.printf("\n%d loaded units listed.\n", map[bool]int{true: 1, false: 0}[degraded || !failedOnly])
		}
		return 0
	case "reboot", "poweroff", "halt":
		if c.user() != superuser {
			c.errorf("Failed to %s system via logind: Interactive authentication required.", verb)
			return 1
		}
		c.node.requestReboot("systemctl "+verb, verb != "reboot")
		return 0
	case "is-enabled":
		c.printf("enabled\n")
		return 0
	case "cat", "status":
		if exit, ok := c.sshUnitVerb(verb, args[1:]); ok {
			return exit
		}
		if exit, ok := c.dockerUnitVerb(verb, args[1:]); ok {
			return exit
		}
		if verb == "cat" {
			c.errorf("No files found for %s.", strings.Join(args[1:], " "))
			return 1
		}
		return 0
	case "show", "daemon-reload":
		return 0
	case "start", "stop", "restart", "try-restart", "reload", "reload-or-restart", "try-reload-or-restart", "reset-failed", "mask", "unmask", "kill":
		if c.user() != superuser {
			c.errorf("Failed to %s %s: Interactive authentication required.", verb, strings.Join(args[1:], " "))
			return 1
		}
		if exit, ok := c.sshUnitVerb(verb, args[1:]); ok {
			return exit
		}
		if exit, ok := c.dockerUnitVerb(verb, args[1:]); ok {
			return exit
		}
		return 0
	}
	c.errorf("Unknown command verb %s.", verb)
	return 1
}

func detectVirt(c *invocation) int {
	if c.node.cfg.Container {
		if !slices.Contains(c.argv[1:], "-v") && !slices.Contains(c.argv[1:], "--vm") {
			if !slices.Contains(c.argv[1:], "-q") {
				c.printf("systemd-nspawn\n")
			}
			return 0
		}
	}
	if !slices.Contains(c.argv[1:], "-q") {
		c.printf("none\n")
	}
	return 1
}

func uptimeProgram(c *invocation) int {
	up := time.Since(c.p.boot.started)
	if slices.Contains(c.argv[1:], "-s") {
		c.printf("%s\n", c.p.boot.started.Add(c.node.skew()).UTC().Format("2006-01-02 15:04:05"))
		return 0
	}
	c.printf(" %s up %d min,  0 users,  load average: 0.08, 0.03, 0.01\n", c.node.now().UTC().Format("15:04:05"), int(up.Minutes()))
	return 0
}

func lsbRelease(c *invocation) int {
	if slices.Contains(c.argv[1:], "-cs") || slices.Contains(c.argv[1:], "-sc") {
		c.printf("bookworm\n")
	} else {
		c.printf("Distributor ID:\tDebian\nDescription:\tDebian GNU/Linux 12 (bookworm)\nRelease:\t12\nCodename:\tbookworm\n")
	}
	return 0
}

// ps lists pid and command of every process, or with -p of the given ones.
func ps(c *invocation) int {
	only := map[int]bool{}
	args := c.argv[1:]
	format := "pid,args"
	headless := false
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-p" && i+1 < len(args):
			i++
			for _, f := range strings.Split(args[i], ",") {
				n, _ := strconv.Atoi(f)
				only[n] = true
			}
		case a == "-o" && i+1 < len(args):
			i++
			format = strings.ReplaceAll(args[i], "=", "")
			headless = strings.Contains(args[i], "=")
		}
	}
	list := c.p.boot.list()
	sort.Slice(list, func(i, j int) bool { return list[i].pid < list[j].pid })
	fields := strings.Split(format, ",")
	if !headless {
		c.printf("%s\n", strings.ToUpper(strings.Join(fields, " ")))
	}
	found := false
	for _, p := range list {
		if len(only) > 0 && !only[p.pid] {
			continue
		}
		found = true
		argv, user, pgid, sid := p.snapshot()
		var row []string
		for _, f := range fields {
			switch f {
			case "pid":
				row = append(row, strconv.Itoa(p.pid))
			case "ppid":
				row = append(row, strconv.Itoa(p.ppid))
			case "pgid", "pgrp":
				row = append(row, strconv.Itoa(pgid))
			case "sid", "sess":
				row = append(row, strconv.Itoa(sid))
			case "user":
				row = append(row, user)
			case "stat", "state", "s":
				row = append(row, "S")
			case "comm":
				row = append(row, path.Base(argv[0]))
			default:
				row = append(row, strings.Join(argv, " "))
			}
		}
		c.printf("%s\n", strings.Join(row, " "))
	}
	if len(only) > 0 && !found {
		return 1
	}
	return 0
}

func pgrep(c *invocation) int {
	opts, names := c.getopt("fxlau:", nil)
	if opts == nil || len(names) == 0 {
		return 2
	}
	_, full := opts["f"]
	re, err := compile(names[0], true, false)
	if err != nil {
		return 2
	}
	exit := 1
	for _, p := range c.p.boot.list() {
		argv, _, _, _ := p.snapshot()
		text := path.Base(argv[0])
		if full {
			text = strings.Join(argv, " ")
		}
		if p != c.p && re.MatchString(text) {
			exit = 0
			c.printf("%d\n", p.pid)
		}
	}
	return exit
}

// katoProgram runs the kato double with this node as the local one.
func katoProgram(c *invocation) int {
	if c.node.cluster.kato == nil {
		return c.notFound(c.argv[0])
	}
	if len(c.argv) > 1 && (c.argv[1] == "config" || c.argv[1] == "node" || c.argv[1] == "data") {
		defer c.node.cluster.docker.katoChanges()()
	}
	return c.node.cluster.kato.Run(c.p.ctx, katodouble.Invocation{
		Args: c.argv[1:], Node: c.node.address, UID: uidOf(c.user()), Stdin: c.stdin(), Stdout: c,
		Stderr: fdWriter{c.p.ctx, c.fds[2]}, Home: c.env["HOME"], Path: c.env["PATH"],
		Dir: c.dir, Files: nodeFiles{c}, Folders: nodeFolders{c}, Reach: c.node.cluster.reach, Dial: c.node.cluster.dialFrom, SSH: c.ssh, Sudo: func(context.Context) error { return c.node.sudoAsks() },
		SudoThere: c.node.cluster.sudoThere, Reboot: c.node.cluster.rebootByKato,
	})
}

// sudoAsks returns an error when the node's sudo asks for a password.
func (n *Node) sudoAsks() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.faults.sudoPassword {
		return errors.New("a password is required")
	}
	return nil
}

// at is the node of an address.
func (c *Cluster) at(address string) (*Node, error) {
	i := slices.IndexFunc(c.nodes, func(n *Node) bool { return n.address == address })
	if i < 0 {
		return nil, fmt.Errorf("no node has the address %s", address)
	}
	return c.nodes[i], nil
}

// sudoThere is sudoAsks of the node of an address; for kato.
func (c *Cluster) sudoThere(_ context.Context, address string) error {
	n, err := c.at(address)
	if err != nil {
		return err
	}
	return n.sudoAsks()
}

// rebootByKato reboots the node of an address as its own reboot does.
func (c *Cluster) rebootByKato(_ context.Context, address string) error {
	n, err := c.at(address)
	if err != nil {
		return err
	}
	n.requestReboot("kato node upgrade", false)
	return nil
}

// nodeFiles are the node's files with the rights of the process's user.
type nodeFiles struct{ c *invocation }

type nodeFile struct {
	fdWriter
}

func (f nodeFile) Close() error {
	f.d.release()
	return nil
}

type nodeSource struct {
	fdReader
}

func (f nodeSource) Close() error {
	f.d.release()
	return nil
}

func (f nodeFiles) Open(name string) (io.ReadCloser, int64, error) {
	d, err := f.c.open(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, err
	}
	var size int64
	if d.file != nil {
		fi, err := d.file.Stat()
		if err == nil && fi.IsDir() {
			err = syscall.EISDIR
		}
		if err != nil {
			d.release()
			return nil, 0, bare(err)
		}
		size = fi.Size()
	}
	return nodeSource{fdReader{f.c.p.ctx, d}}, size, nil
}

func (f nodeFiles) Create(name string) (io.WriteCloser, error) {
	d, err := f.c.open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, err
	}
	return nodeFile{fdWriter{f.c.p.ctx, d}}, nil
}

func (f nodeFiles) Mkdir(name string) error {
	return f.c.tree().mkdir(f.c.user(), f.c.dir, name, 0o700)
}

func (f nodeFiles) RemoveAll(name string) error { return f.c.remove(name, true) }

// nodeFolders are the node's folders with the rights of root.
type nodeFolders struct{ c *invocation }

func (f nodeFolders) Resolve(_ context.Context, name string) (string, error) {
	st, err := f.c.tree().stat(superuser, "/", name, true)
	if err == nil && !st.IsDir() {
		err = syscall.ENOTDIR
	}
	return st.virt, err
}

func (f nodeFolders) Exists(_ context.Context, name string) (bool, error) {
	_, err := f.c.tree().stat(superuser, "/", name, false)
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

func (f nodeFolders) IsLink(_ context.Context, name string) (bool, error) {
	st, err := f.c.tree().stat(superuser, "/", name, false)
	return err == nil && st.Mode()&os.ModeSymlink != 0, err
}

func (f nodeFolders) List(ctx context.Context, folder string) (out []katodouble.Relocated, err error) {
	t := f.c.tree()
	var walk func(virt, name string) error
	walk = func(virt, name string) error {
		st, err := t.stat(superuser, "/", virt, false)
		if err != nil {
			return err
		}
		inode, _, _ := inodeOf(st.FileInfo, st.virt)
		if st.Mode()&os.ModeSocket == 0 {
			out = append(out, katodouble.Relocated{Name: name, Folder: st.IsDir(), Regular: st.Mode().IsRegular(), File: strconv.FormatUint(inode, 10), Root: t.ownerOf(st.virt) == superuser})
		}
		if !st.IsDir() {
			return ctx.Err()
		}
		entries, err := t.readdir(superuser, "/", virt)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := walk(e.virt, path.Join(name, e.name)); err != nil && !errors.Is(err, syscall.ENOENT) {
				return err
			}
		}
		return ctx.Err()
	}
	return out, walk(folder, ".")
}

// Copy copies as `cp -a`, and of folders only themselves.
func (f nodeFolders) Copy(ctx context.Context, from, to string, entries []katodouble.Relocated) error {
	as, said := f.asRoot()
	names := map[uint64]string{}
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		source, target := path.Join(from, e.Name), path.Join(to, e.Name)
		st, err := as.tree().stat(superuser, "/", source, false)
		if err != nil {
			return err
		}
		if e.Folder {
			if err := as.tree().mkdir(superuser, "/", target, st.Mode().Perm()); err != nil && !errors.Is(err, syscall.EEXIST) {
				return err
			}
			if err := as.preserve(st, target, true); err != nil {
				return err
			}
			continue
		}
		if as.copyEntry(st, source, target, copying{preserve: true, names: names}) != 0 {
			if strings.Contains(said.String(), errorText(syscall.ENOSPC)) {
				return syscall.ENOSPC
			}
			return errors.New(strings.TrimSpace(said.String()))
		}
	}
	return nil
}

// asRoot is the invocation as a program that root runs. What it complains of is kept.
func (f nodeFolders) asRoot() (*invocation, *strings.Builder) {
	said := &strings.Builder{}
	as := *f.c
	root := &process{pid: f.c.p.pid, node: f.c.node, boot: f.c.p.boot, ctx: f.c.p.ctx, user: superuser, argv: []string{"cp"}}
	as.p, as.argv, as.dir, as.umask = root, root.argv, "/", 0o022
	as.fds[2] = bufferDescription(said)
	return &as, said
}

func (f nodeFolders) GiveToRoot(_ context.Context, name string) error {
	return f.c.tree().chown(superuser, "/", name, superuser, superuser, false)
}

func (f nodeFolders) Empty(_ context.Context, name string) error {
	d, err := f.c.tree().open(superuser, "/", name, os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err == nil {
		d.release()
	}
	return err
}

func (f nodeFolders) Switch(ctx context.Context, name, target, aside string) error {
	t := f.c.tree()
	link, err := f.IsLink(ctx, name)
	switch {
	case err != nil:
	case link:
		err = t.unlink(superuser, "/", name)
	case aside != "":
		err = t.rename(superuser, "/", name, aside)
	default:
		as, _ := f.asRoot()
		err = as.removeOn(name, true, t.system(name))
	}
	if err != nil {
		return err
	}
	return t.symlink(superuser, "/", target, name)
}

// katoVersion is the version of all nodes at the start.
const katoVersion = "3.4.2"

func newKato(c *Cluster) *katodouble.Cluster {
	k := katodouble.New(katoVersion)
	for _, n := range c.nodes {
		k.AddNode(n.address, n.name, n.cfg.Roles, n.cfg.Apps)
		k.SetRestartTime(n.address, c.cfg.RoleStartTime)
	}
	var changes []katodouble.ConfigChange
	if c.cfg.ImageRepository != DefaultImageRepository {
		changes = append(changes, katodouble.ConfigChange{Path: []string{"fence", "docker", "images"}, Value: []any{c.cfg.ImageRepository}})
	}
	if c.cfg.Autoscaling {
		for _, process := range []string{"cloud_controller_ng", "health_manager"} {
			changes = append(changes, katodouble.ConfigChange{Path: []string{process, "autoscaling", "enabled"}, Value: true})
		}
	}
	k.OnMarker(c.markUpgrade)
	k.OnUpgraded(c.upgradedByKato)
	if err := k.ChangeConfig(changes); err != nil {
		panic(err) // the paths are right
	}
	return k
}

// markUpgrade writes the file that says that the upgrade of a node failed, or removes it.
func (c *Cluster) markUpgrade(address string, there bool) {
	n, err := c.at(address)
	if err == nil {
		err = n.ready()
	}
	switch {
	case err != nil:
	case there:
		err = n.tree.put(katodouble.UpgradeMarker, katodouble.MarkerText, 0o644)
	default:
		if err = os.Remove(n.tree.host(katodouble.UpgradeMarker)); os.IsNotExist(err) {
			err = nil // somebody else has removed it
		}
	}
	if err != nil {
		c.event(address, "fault", "%s: %v", katodouble.UpgradeMarker, err)
	}
}

// upgradedByKato is what else the upgrade of a node's components does.
func (c *Cluster) upgradedByKato(address string) {
	if n, err := c.at(address); err == nil && slices.Contains(n.cfg.Roles, "controller") {
		c.ccng.LoseBuildpacks()
	}
}

// vendorVersion is the version that the Cloud Controller tells: its node's.
func (c *Cluster) vendorVersion() string {
	for _, n := range c.nodes {
		if version, _ := c.kato.Version(n.address); slices.Contains(n.cfg.Roles, "controller") {
			return "v" + version
		}
	}
	return "v" + katoVersion
}

// newController is the Cloud Controller of the cluster, and what kato exports and imports. It answers also while the Core is down, which no procedure counts on.
func newController(c *Cluster) (*cloudcontroller.Joined, error) {
	j, err := cloudcontroller.Join(c.dir, "", cloudcontroller.Options{
		Maintenance: c.kato.Maintenance, SetMaintenance: c.kato.SetMaintenance, Version: c.vendorVersion,
		Nodes: func() map[string][]string {
			roles := map[string][]string{}
			for _, n := range c.nodes {
				roles[n.address] = n.cfg.Roles
			}
			return roles
		},
	})
	if err != nil {
		return nil, err
	}
	c.kato.SetDatabase(j)
	return j, nil
}

// hostBooted is when the machine under containers was booted, as they see it.
func (c *Cluster) hostBooted() time.Time { return c.started }
