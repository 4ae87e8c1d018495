package simcluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

// invocation is one program being executed by a process of a node.
type invocation struct {
	node   *Node
	p      *process
	argv   []string
	env    map[string]string
	dir    string
	umask  fs.FileMode
	fds    fdTable
	lookup string // PATH to search
	by     *shell // the shell that started it, for its wording of errors; may be nil

	broken error // of the first write to standard output that failed
}

// program is a command of the node. Its exit code is returned.
type program struct {
	dir string // where it is installed
	run func(*invocation) int
}

func isBrokenPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe)
}

func (c *invocation) user() string {
	_, user, _, _ := c.p.snapshot()
	return user
}

func (c *invocation) tree() *tree { return c.node.tree }

// packages are the node's, or those of the container that the process is in.
func (c *invocation) packages() *packageState {
	if c.p.packages != nil {
		return c.p.packages
	}
	return c.node.packages
}

func (c *invocation) stdin() io.Reader { return fdReader{c.p.ctx, c.fds[0]} }

// Write is standard output. A failed write ends most programs; the error is kept for the exit code.
func (c *invocation) Write(b []byte) (int, error) {
	if c.broken != nil {
		return 0, c.broken
	}
	n, err := fdWriter{c.p.ctx, c.fds[1]}.Write(b)
	if err != nil {
		c.broken = err
	}
	return n, err
}

func (c *invocation) printf(format string, args ...any) { fmt.Fprintf(c, format, args...) }

func (c *invocation) errorf(format string, args ...any) {
	fmt.Fprintf(fdWriter{c.p.ctx, c.fds[2]}, format+"\n", args...)
}

func (c *invocation) name() string { return path.Base(c.argv[0]) }

// fail prints "NAME: message" and returns the code.
func (c *invocation) fail(code int, format string, args ...any) int {
	c.errorf("%s: %s", c.name(), fmt.Sprintf(format, args...))
	return code
}

func (c *invocation) stat(name string) (info, error) {
	return c.tree().stat(c.user(), c.dir, name, true)
}

func (c *invocation) lstat(name string) (info, error) {
	return c.tree().stat(c.user(), c.dir, name, false)
}

func (c *invocation) open(name string, flags int, perm fs.FileMode) (*description, error) {
	if s := c.p.packages; s != nil && flags == os.O_RDONLY {
		if virt, err := c.tree().resolve(c.dir, name, true); err == nil && virt == "/var/lib/dpkg/status" {
			return stringDescription(s.statusFile()), nil
		}
	}
	return c.tree().open(c.user(), c.dir, name, flags, perm&^c.umask)
}

// readFile reads a file as the process would.
func (t *tree) readFile(p *process, dir, name string) ([]byte, error) {
	_, user, _, _ := p.snapshot()
	d, err := t.open(user, dir, name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer d.release()
	if d.file != nil {
		if fi, err := d.file.Stat(); err == nil && fi.IsDir() {
			return nil, syscall.EISDIR
		}
	}
	return io.ReadAll(fdReader{p.ctx, d})
}

func (c *invocation) readFile(name string) ([]byte, error) {
	return c.tree().readFile(c.p, c.dir, name)
}

// getopt reads short options ("a" without, "b:" with an argument) and long ones named in long (mapped to a short one). It returns nil options
// after printing what is wrong.
func (c *invocation) getopt(short string, long map[string]string) (map[string]string, []string) {
	opts, rest := map[string]string{}, []string{}
	takes := func(o string) (known, arg bool) {
		i := strings.Index(short, o)
		return i >= 0 && o != ":", i >= 0 && i+1 < len(short) && short[i+1] == ':'
	}
	args := c.argv[1:]
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return opts, append(rest, args[i+1:]...)
		case strings.HasPrefix(a, "--"):
			name, value, has := strings.Cut(a[2:], "=")
			o, ok := long[name]
			if !ok {
				c.fail(1, "unrecognized option '%s'", a)
				return nil, nil
			}
			if _, arg := takes(o); arg && !has {
				if i+1 >= len(args) {
					c.fail(1, "option '%s' requires an argument", a)
					return nil, nil
				}
				i++
				value = args[i]
			}
			opts[o] = value
		case len(a) > 1 && a[0] == '-':
			for j := 1; j < len(a); j++ {
				o := a[j : j+1]
				known, arg := takes(o)
				if !known {
					c.fail(1, "invalid option -- '%s'", o)
					return nil, nil
				}
				if !arg {
					opts[o] = ""
					continue
				}
				if j+1 < len(a) {
					opts[o] = a[j+1:]
				} else if i+1 < len(args) {
					i++
					opts[o] = args[i]
				} else {
					c.fail(1, "option requires an argument -- '%s'", o)
					return nil, nil
				}
				break
			}
		default:
			rest = append(rest, a)
		}
	}
	return opts, rest
}

// leadingOptions reads options up to the first operand, for programs that run another command.
func (c *invocation) leadingOptions(short string, long map[string]string) (map[string]string, []string) {
	n := 1
	for n < len(c.argv) {
		a := c.argv[n]
		if a == "--" {
			n++
			break
		}
		if len(a) < 2 || a[0] != '-' {
			break
		}
		n++
		if strings.HasPrefix(a, "--") {
			name, _, has := strings.Cut(a[2:], "=")
			if o, ok := long[name]; ok && !has && strings.Contains(short, o+":") {
				n++
			}
			continue
		}
		for j := 1; j < len(a); j++ {
			if strings.Contains(short, a[j:j+1]+":") {
				if j+1 == len(a) {
					n++
				}
				break
			}
		}
	}
	n = min(n, len(c.argv))
	rest := c.argv[n:]
	head := *c
	head.argv = c.argv[:n]
	opts, _ := head.getopt(short, long)
	return opts, rest
}

// canonicalProgram undoes the merged /usr: /bin is /usr/bin.
func canonicalProgram(p string) string {
	p = path.Clean(p)
	if strings.HasPrefix(p, "/bin/") || strings.HasPrefix(p, "/sbin/") {
		return "/usr" + p
	}
	return p
}

// programAt returns the program installed at an absolute path.
func (n *Node) programAt(p string) (program, bool) {
	p = canonicalProgram(p)
	if p == n.katoPath() && n.cluster.cfg.Platform == platformALS {
		return n.cluster.commands["kato"], true
	}
	prog, ok := n.cluster.commands[path.Base(p)]
	if path.Base(p) == "docker" && n.docker == nil {
		return program{}, false
	}
	if strings.HasPrefix(path.Base(p), "quota") && n.noQuotaTools() {
		return program{}, false
	}
	if p == freezeProgram && n.noFreeze() {
		return program{}, false
	}
	return prog, ok && prog.dir == path.Dir(p)
}

func (n *Node) isProgram(p string) bool {
	if !path.IsAbs(p) {
		return false
	}
	_, ok := n.programAt(p)
	return ok
}

// which searches PATH as the user would; "" when there is no such program.
func (n *Node) which(user, dir, name, search string) string {
	executable := func(p string) bool {
		if n.isProgram(p) {
			return true
		}
		st, err := n.tree.stat(user, dir, p, true)
		return err == nil && !st.IsDir() && n.tree.permitted(user, st.virt, st.FileInfo, mayExec)
	}
	if strings.Contains(name, "/") {
		p := name
		if !path.IsAbs(p) {
			p = path.Join(dir, p)
		}
		if executable(p) {
			return name
		}
		return ""
	}
	for _, d := range strings.Split(search, ":") {
		if d == "" {
			d = dir
		}
		if p := path.Join(d, name); executable(p) {
			return p
		}
	}
	return ""
}

// execute runs the program named by argv in the current process and returns its exit code.
func (c *invocation) execute() int {
	c.p.setArgv(c.argv)
	if job := jobOf(c.argv); job != "" {
		c.p.mu.Lock()
		c.p.job = job
		c.p.mu.Unlock()
	}
	name := c.argv[0]
	found := c.node.which(c.user(), c.dir, name, c.lookup)
	if found == "" || c.p.packages != nil && !inImages(path.Base(found)) {
		return c.notFound(name)
	}
	if !path.IsAbs(found) {
		found = path.Join(c.dir, found)
	}
	if prog, ok := c.node.programAt(found); ok {
		return c.runProgram(prog, path.Base(found))
	}
	text, err := c.readFile(found)
	if err != nil {
		return c.shellError(126, "%s: %s", name, errorText(err))
	}
	return c.script(found, string(text))
}

// jobOf is the name of the durable job whose wrapper argv starts: the folder that holds it (.../jobs/NAME/wrapper run ...).
func jobOf(argv []string) string {
	for _, a := range argv[:min(len(argv), 3)] {
		if dir, ok := strings.CutSuffix(a, "/wrapper"); ok && path.Base(path.Dir(dir)) == "jobs" {
			return path.Base(dir)
		}
	}
	return ""
}

func (c *invocation) shellError(code int, format string, args ...any) int {
	text := fmt.Sprintf(format, args...)
	switch {
	case c.by == nil:
		c.errorf("%s", text)
	case c.by.bash:
		c.errorf("bash: line 1: %s", text)
	default:
		c.errorf("%s: 1: %s", c.by.arg0, text)
	}
	return code
}

func (c *invocation) notFound(name string) int {
	if strings.Contains(name, "/") {
		if st, err := c.stat(name); err == nil {
			if st.IsDir() {
				return c.shellError(126, "%s: Is a directory", name)
			}
			return c.shellError(126, "%s: Permission denied", name)
		}
		return c.shellError(127, "%s: No such file or directory", name)
	}
	if c.by != nil && c.by.bash {
		return c.shellError(127, "%s: command not found", name)
	}
	return c.shellError(127, "%s: not found", name)
}

// script runs an executable text file by the interpreter its first line names; only shells are.
func (c *invocation) script(file, text string) int {
	interpreter := "/bin/sh"
	if line, _, _ := strings.Cut(text, "\n"); strings.HasPrefix(line, "#!") {
		interpreter, _, _ = strings.Cut(strings.TrimSpace(line[2:]), " ")
	}
	base := path.Base(interpreter)
	if base != "sh" && base != "bash" && base != "dash" {
		return c.shellError(126, "%s: %s: bad interpreter: No such file or directory", file, interpreter)
	}
	s := c.newShell(base == "bash", file, c.argv[1:])
	return s.finishIn(c, func() { s.program(text) })
}

// newShell makes a shell in the invocation's process, with its descriptors.
func (c *invocation) newShell(bash bool, arg0 string, params []string) *shell {
	s := &shell{node: c.node, p: c.p, bash: bash, arg0: arg0, params: params, fds: c.fds, dir: c.dir, umask: c.umask, mainPID: c.p.pid}
	s.vars = variables(c.env, c.dir)
	return s
}

// finishIn runs f and hands the descriptors back to the invocation, which closes them.
func (s *shell) finishIn(c *invocation, f func()) int {
	f()
	c.fds = s.fds
	return s.exit
}

// runProgram runs one of the node's programs with the injected faults, and records it if it changes the node.
func (c *invocation) runProgram(prog program, name string) int {
	if c.p.ctx.Err() != nil {
		return 128 + sigKILL
	}
	finished := func(int) {}
	if c.p.packages == nil { // what is done in a container changes nothing of the node
		finished = c.node.record(c, name)
	}
	exit, injected := c.node.injected(c, name)
	if !injected {
		exit = prog.run(c)
	}
	if err := c.broken; err != nil {
		switch {
		case isBrokenPipe(err):
			exit = 128 + sigPIPE
		case errors.Is(err, syscall.ENOSPC):
			c.errorf("%s: write error: %s", c.name(), errorText(err))
			exit = 1
		case c.p.ctx.Err() == nil && exit == 0:
			c.errorf("%s: write error: %s", c.name(), errorText(err))
			exit = 1
		}
	}
	finished(exit)
	return exit
}

// exec replaces the program in the same process.
func (c *invocation) exec(argv []string) int {
	n := *c
	n.argv, n.broken = argv, nil
	if p, ok := c.env["PATH"]; ok {
		n.lookup = p
	}
	exit := n.execute()
	c.fds = n.fds
	return exit
}

// spawn starts argv in a child process with copies of the descriptors.
func (c *invocation) spawn(argv []string, change func(*invocation)) (*process, error) {
	p, err := c.p.boot.newProcess(c.node, c.p, c.user(), argv)
	if err != nil {
		return nil, err
	}
	n := *c
	n.p, n.argv, n.broken, n.by = p, argv, nil, nil
	n.fds = c.fds.dup()
	if path, ok := c.env["PATH"]; ok {
		n.lookup = path
	}
	if change != nil {
		change(&n)
	}
	go func() {
		exit := n.execute()
		n.fds.closeAll()
		p.finish(exit)
	}()
	return p, nil
}

// waitFor waits for a child unless this process ends first.
func (c *invocation) waitFor(p *process) int {
	select {
	case <-p.done:
		return p.exit
	case <-c.p.ctx.Done():
		return 128 + sigKILL
	}
}

// now is the node's own clock, which may be wrong.
func (n *Node) now() time.Time { return time.Now().Add(n.skew()) }
