package simcluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/pattern"
	"mvdan.cc/sh/v3/syntax"
)

const maxFD = 10

// fdTable is a process's descriptors; every entry holds one reference.
type fdTable [maxFD]*description

func (t *fdTable) dup() fdTable {
	for _, d := range t {
		d.retain()
	}
	return *t
}

func (t *fdTable) closeAll() {
	for i, d := range t {
		d.release()
		t[i] = nil
	}
}

type flow int

const (
	flowNone flow = iota
	flowBreak
	flowContinue
	flowReturn
	flowExit
)

// shell executes parsed shell statements as one process. dash is the model for sh, bash for login shells.
type shell struct {
	node    *Node
	p       *process
	bash    bool
	arg0    string
	params  []string
	vars    map[string]expand.Variable
	funcs   map[string]*syntax.Stmt
	scopes  []map[string]expand.Variable // values hidden by "local", one a function call
	fds     fdTable
	dir     string
	umask   fs.FileMode
	mainPID int

	exit       int
	substExit  int
	substRan   bool
	background int
	children   map[int]*process

	flow      flow
	flowDepth int
	loops     int
	noErr     int // >0 where a failure does not end the shell under "set -e"
	exitTrap  string
	final     bool // nothing follows the statement at hand: an external command replaces the shell, as exec(2) does

	errexit, nounset, noglob, xtrace, noexec, allexport, pipefail bool

	cfg *expand.Config
}

type shellEnv struct{ s *shell }

func str(v string) expand.Variable {
	return expand.Variable{Set: true, Kind: expand.String, Str: v}
}

func (e shellEnv) Get(name string) expand.Variable {
	s := e.s
	switch name {
	case "#":
		return str(strconv.Itoa(len(s.params)))
	case "@", "*":
		return expand.Variable{Set: true, Kind: expand.Indexed, List: append([]string{}, s.params...)}
	case "?":
		return str(strconv.Itoa(s.exit))
	case "$":
		return str(strconv.Itoa(s.mainPID))
	case "!":
		if s.background == 0 {
			return expand.Variable{}
		}
		return str(strconv.Itoa(s.background))
	case "-":
		return str(s.flags())
	case "0":
		return str(s.arg0)
	case "PPID":
		return str(strconv.Itoa(s.p.ppid))
	}
	if name[0] >= '1' && name[0] <= '9' {
		if n, err := strconv.Atoi(name); err == nil {
			if n <= len(s.params) {
				return str(s.params[n-1])
			}
			return expand.Variable{}
		}
	}
	if user, ok := strings.CutPrefix(name, "HOME "); ok {
		if home := s.node.homeOf(user); home != "" {
			return str(home)
		}
		return str("~" + user)
	}
	return s.vars[name]
}

func (e shellEnv) Set(name string, v expand.Variable) error {
	return e.s.set(name, v)
}

func (e shellEnv) Each(f func(string, expand.Variable) bool) {
	for k, v := range e.s.vars {
		if !f(k, v) {
			return
		}
	}
}

func (s *shell) set(name string, v expand.Variable) error {
	old, had := s.vars[name]
	if had && old.ReadOnly {
		return fmt.Errorf("%s: is read only", name)
	}
	if !v.IsSet() && v.Kind != expand.KeepValue {
		delete(s.vars, name)
		return nil
	}
	if had && old.Exported {
		v.Exported = true
	}
	if s.allexport {
		v.Exported = true
	}
	s.vars[name] = v
	return nil
}

func (s *shell) get(name string) string { return s.vars[name].Str }

func (s *shell) setString(name, value string) error {
	v := str(value)
	v.Exported = s.vars[name].Exported
	return s.set(name, v)
}

func (s *shell) flags() string {
	out := ""
	for _, f := range []struct {
		on bool
		c  string
	}{{s.allexport, "a"}, {s.errexit, "e"}, {s.noglob, "f"}, {s.nounset, "u"}, {s.xtrace, "x"}} {
		if f.on {
			out += f.c
		}
	}
	return out
}

// environ are the exported variables.
func (s *shell) environ() map[string]string {
	env := make(map[string]string, len(s.vars))
	for k, v := range s.vars {
		if v.Exported && v.IsSet() {
			env[k] = v.Str
		}
	}
	return env
}

func (s *shell) expander() *expand.Config {
	if s.cfg == nil {
		s.cfg = &expand.Config{
			Env: shellEnv{s},
			CmdSubst: func(w io.Writer, cs *syntax.CmdSubst) error {
				return s.substitute(w, cs)
			},
		}
	}
	s.cfg.NoUnset = s.nounset
	s.cfg.ReadDir2 = nil
	if !s.noglob {
		s.cfg.ReadDir2 = func(dir string) ([]fs.DirEntry, error) {
			infos, err := s.node.tree.readdir(s.user(), s.dir, dir)
			if err != nil {
				return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
			}
			out := make([]fs.DirEntry, len(infos))
			for i, fi := range infos {
				out[i] = fs.FileInfoToDirEntry(fi)
			}
			return out, nil
		}
	}
	return s.cfg
}

func (s *shell) user() string {
	_, user, _, _ := s.p.snapshot()
	return user
}

func (s *shell) stopped() bool { return s.flow != flowNone || s.p.ctx.Err() != nil }

// complain prints a message as the shell words it.
func (s *shell) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.bash {
		s.writeFD(2, "bash: line 1: "+text+"\n")
		return
	}
	s.writeFD(2, s.arg0+": 1: "+text+"\n")
}

func (s *shell) writeFD(fd int, text string) error {
	d := s.fds[fd]
	if d == nil || d.write == nil {
		return badDescriptor{}
	}
	_, err := d.write(s.p.ctx, []byte(text))
	return err
}

// builtinOutput writes what a builtin prints and returns its exit code. A reader that is gone ends the shell, as SIGPIPE does.
func (s *shell) builtinOutput(name, text string) int {
	if text == "" {
		return 0
	}
	err := s.writeFD(1, text)
	switch {
	case err == nil:
		return 0
	case isBrokenPipe(err):
		s.p.kill(sigPIPE)
		return 128 + sigPIPE
	case s.bash:
		s.complain("%s: write error: %s", name, errorText(err))
	default:
		s.complain("%s: I/O error", name)
	}
	return 1
}

func (s *shell) expandFailed(err error) bool {
	if err == nil {
		return false
	}
	s.complain("%s", strings.TrimPrefix(err.Error(), "bash: "))
	s.exit = 2
	if s.bash {
		s.exit = 1
	}
	s.flow = flowExit
	return true
}

func (s *shell) literal(w *syntax.Word) (string, bool) {
	v, err := expand.Literal(s.expander(), w)
	return v, !s.expandFailed(err)
}

// fork makes a child process with a copy of the shell. The caller starts it with run.
func (s *shell) fork(argv ...string) (*shell, error) {
	if len(argv) == 0 {
		argv, _, _, _ = s.p.snapshot()
	}
	p, err := s.p.boot.newProcess(s.node, s.p, s.user(), argv)
	if err != nil {
		return nil, err
	}
	c := *s
	c.p, c.cfg, c.exitTrap, c.children, c.final = p, nil, "", nil, false
	c.vars, c.funcs = maps.Clone(s.vars), maps.Clone(s.funcs)
	c.params = slices.Clone(s.params)
	c.scopes = nil
	c.fds = s.fds.dup()
	c.flow, c.loops = flowNone, 0
	return &c, nil
}

// run executes f in the forked child's goroutine and ends its process.
func (s *shell) run(f func()) *process {
	go func() {
		f()
		s.leave()
		s.fds.closeAll()
		s.p.finish(s.exit)
	}()
	return s.p
}

// leave runs the EXIT trap.
func (s *shell) leave() {
	if s.exitTrap == "" || s.p.ctx.Err() != nil {
		return
	}
	trap, exit := s.exitTrap, s.exit
	s.exitTrap, s.flow, s.final = "", flowNone, false
	s.eval(trap)
	if s.flow != flowExit {
		s.exit = exit
	}
}

// wait waits for a child; when the shell itself is ended first the child goes on without it.
func (s *shell) wait(p *process) int {
	select {
	case <-p.done:
		return p.exit
	default:
	}
	select {
	case <-p.done:
		return p.exit
	case <-s.p.ctx.Done():
		return 128 + sigKILL
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

func (s *shell) substitute(w io.Writer, cs *syntax.CmdSubst) error {
	child, err := s.fork()
	if err != nil {
		return err
	}
	// Nothing sees the end of file as the real pipe's reader would: background children that keep the pipe open are not waited for.
	var out lockedBuffer
	child.fds[1].release()
	child.fds[1] = bufferDescription(&out)
	child.final = len(cs.Stmts) == 1
	s.substExit = s.wait(child.run(func() { child.stmts(cs.Stmts) }))
	s.substRan = true
	if s.p.ctx.Err() != nil {
		return nil
	}
	_, err = w.Write(out.Bytes())
	return err
}

func (s *shell) stmts(list []*syntax.Stmt) {
	final := s.final
	for i, st := range list {
		if s.stopped() {
			return
		}
		s.final = final && i == len(list)-1
		s.stmt(st)
	}
	s.final = final
}

func (s *shell) stmt(st *syntax.Stmt) {
	if s.stopped() || s.noexec {
		return
	}
	if st.Background {
		s.exit = 0
		child, err := s.fork()
		if err != nil {
			s.exit = 1
			return
		}
		child.fds[0].release()
		child.fds[0] = discardDescription()
		body := *st
		body.Background = false
		child.final = true
		s.background = child.p.pid
		if s.children == nil {
			s.children = map[int]*process{}
		}
		s.children[child.p.pid] = child.run(func() { child.stmt(&body) })
		return
	}
	final := s.final
	if st.Negated || s.exitTrap != "" {
		s.final = false
	}
	saved, changed, ok := s.redirect(st.Redirs)
	if s.final && ok {
		// Nothing follows: what was redirected is closed now, as after a fork. A background job does not hold its session's output open.
		for i := range saved {
			if changed[i] {
				saved[i].release()
				changed[i] = false
			}
		}
	}
	keep := false
	if ok {
		if st.Negated {
			s.noErr++
		}
		if st.Cmd != nil {
			keep = s.command(st.Cmd)
		} else {
			s.exit = 0
		}
		if st.Negated {
			s.noErr--
		}
	} else if call, isCall := st.Cmd.(*syntax.CallExpr); isCall && !s.bash && len(call.Args) > 0 && specialBuiltins[call.Args[0].Lit()] {
		s.flow = flowExit // POSIX: a redirection error of a special builtin ends the shell
	}
	for i := range saved {
		if !changed[i] {
			continue
		}
		if keep {
			saved[i].release()
		} else {
			s.fds[i].release()
			s.fds[i] = saved[i]
		}
	}
	s.final = final
	if st.Negated && s.flow == flowNone {
		if s.exit == 0 {
			s.exit = 1
		} else {
			s.exit = 0
		}
		return
	}
	if b, isBinary := st.Cmd.(*syntax.BinaryCmd); isBinary && (b.Op == syntax.AndStmt || b.Op == syntax.OrStmt) {
		return
	}
	if s.exit != 0 && s.errexit && s.noErr == 0 && s.flow == flowNone {
		s.flow = flowExit
	}
}

// redirect applies redirections; saved holds what changed entries were before.
func (s *shell) redirect(list []*syntax.Redirect) (saved fdTable, changed [maxFD]bool, ok bool) {
	for _, rd := range list {
		fd := 1
		switch rd.Op {
		case syntax.RdrIn, syntax.RdrInOut, syntax.DplIn, syntax.Hdoc, syntax.DashHdoc, syntax.WordHdoc:
			fd = 0
		}
		if rd.N != nil {
			n, err := strconv.Atoi(rd.N.Value)
			if err != nil || n >= maxFD {
				s.complain("%s: bad file descriptor", rd.N.Value)
				s.exit = 2
				return saved, changed, false
			}
			fd = n
		}
		d, also, good := s.openRedirect(rd)
		if !good {
			if s.exit = 2; s.bash {
				s.exit = 1
			}
			return saved, changed, false
		}
		fds := []int{fd}
		if also {
			fds = []int{1, 2}
			d.retain()
		}
		for _, n := range fds {
			if changed[n] {
				s.fds[n].release()
			} else {
				changed[n], saved[n] = true, s.fds[n]
			}
			s.fds[n] = d
		}
	}
	return saved, changed, true
}

func (s *shell) openRedirect(rd *syntax.Redirect) (d *description, both, ok bool) {
	flags := 0
	switch rd.Op {
	case syntax.Hdoc, syntax.DashHdoc:
		if rd.Hdoc == nil {
			return stringDescription(""), false, true
		}
		text := ""
		if quotedDelimiter(rd.Word) {
			for _, part := range rd.Hdoc.Parts {
				if lit, isLit := part.(*syntax.Lit); isLit {
					text += lit.Value
				}
			}
		} else {
			var err error
			if text, err = expand.Document(s.expander(), rd.Hdoc); s.expandFailed(err) {
				return nil, false, false
			}
		}
		if rd.Op == syntax.DashHdoc {
			lines := strings.Split(text, "\n")
			for i := range lines {
				lines[i] = strings.TrimLeft(lines[i], "\t")
			}
			text = strings.Join(lines, "\n")
		}
		return stringDescription(text), false, true
	}
	arg, good := s.literal(rd.Word)
	if !good {
		return nil, false, false
	}
	switch rd.Op {
	case syntax.WordHdoc:
		return stringDescription(arg + "\n"), false, true
	case syntax.DplOut, syntax.DplIn:
		if arg == "-" {
			return nil, false, true
		}
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 || n >= maxFD || s.fds[n] == nil {
			s.complain("%s: Bad file descriptor", arg)
			return nil, false, false
		}
		return s.fds[n].retain(), false, true
	case syntax.RdrIn:
		flags = os.O_RDONLY
	case syntax.RdrInOut:
		flags = os.O_RDWR | os.O_CREATE
	case syntax.AppOut, syntax.AppAll:
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	default:
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	d, err := s.node.tree.open(s.user(), s.dir, arg, flags, 0o666&^s.umask)
	if err != nil {
		switch {
		case s.bash:
			s.complain("%s: %s", arg, errorText(err))
		case flags&os.O_CREATE != 0:
			s.complain("cannot create %s: %s", arg, dashText(err))
		default:
			s.complain("cannot open %s: %s", arg, dashText(err))
		}
		return nil, false, false
	}
	return d, rd.Op == syntax.RdrAll || rd.Op == syntax.AppAll, true
}

func dashText(err error) string {
	if text := errorText(err); text != "No such file or directory" {
		return text
	}
	return "No such file"
}

func quotedDelimiter(w *syntax.Word) bool {
	for _, part := range w.Parts {
		switch part := part.(type) {
		case *syntax.Lit:
			if strings.Contains(part.Value, "\\") {
				return true
			}
		case *syntax.SglQuoted, *syntax.DblQuoted:
			return true
		}
	}
	return false
}

// command executes one command; keep says that its redirections stay (exec without a command).
func (s *shell) command(cm syntax.Command) (keep bool) {
	final := s.final
	s.final = false
	defer func() { s.final = final }()
	switch cm := cm.(type) {
	case *syntax.Block:
		s.final = final
		s.stmts(cm.Stmts)
	case *syntax.Subshell:
		child, err := s.fork()
		if err != nil {
			s.exit = 1
			return false
		}
		s.exit = s.wait(child.run(func() { child.stmts(cm.Stmts) }))
	case *syntax.CallExpr:
		s.final = final
		return s.call(cm)
	case *syntax.BinaryCmd:
		switch cm.Op {
		case syntax.AndStmt, syntax.OrStmt:
			s.noErr++
			s.stmt(cm.X)
			s.noErr--
			if s.flow == flowNone && (s.exit == 0) == (cm.Op == syntax.AndStmt) {
				s.final = final
				s.stmt(cm.Y)
			}
		default:
			s.pipeline(cm)
		}
	case *syntax.IfClause:
		for clause := cm; clause != nil; clause = clause.Else {
			if len(clause.Cond) == 0 { // else
				s.stmts(clause.Then)
				return false
			}
			s.noErr++
			s.stmts(clause.Cond)
			s.noErr--
			if s.stopped() {
				return false
			}
			if s.exit == 0 {
				s.stmts(clause.Then)
				return false
			}
		}
		s.exit = 0
	case *syntax.WhileClause:
		exit := 0
		s.loops++
		for !s.stopped() {
			s.noErr++
			s.stmts(cm.Cond)
			s.noErr--
			if s.loopDone() || (s.exit == 0) == cm.Until {
				break
			}
			s.stmts(cm.Do)
			exit = s.exit
			if s.loopDone() {
				break
			}
		}
		s.loops--
		if s.flow == flowNone {
			s.exit = exit
		}
	case *syntax.ForClause:
		iter, ok := cm.Loop.(*syntax.WordIter)
		if !ok || cm.Select {
			s.complain("this kind of for loop is not part of a node's shell")
			s.exit = 2
			return false
		}
		items := slices.Clone(s.params)
		if iter.InPos.IsValid() {
			var err error
			if items, err = expand.Fields(s.expander(), iter.Items...); s.expandFailed(err) {
				return false
			}
		}
		s.exit = 0
		s.loops++
		for _, item := range items {
			if s.stopped() {
				break
			}
			s.setString(iter.Name.Value, item)
			s.stmts(cm.Do)
			if s.loopDone() {
				break
			}
		}
		s.loops--
	case *syntax.CaseClause:
		word, ok := s.literal(cm.Word)
		if !ok {
			return false
		}
		s.exit = 0
		for _, item := range cm.Items {
			for _, w := range item.Patterns {
				pat, err := expand.Pattern(s.expander(), w)
				if s.expandFailed(err) {
					return false
				}
				if matches(pat, word) {
					s.stmts(item.Stmts)
					return false
				}
			}
		}
	case *syntax.FuncDecl:
		if s.funcs == nil {
			s.funcs = map[string]*syntax.Stmt{}
		}
		s.funcs[cm.Name.Value] = cm.Body
		s.exit = 0
	case *syntax.DeclClause:
		s.declare(cm)
	case *syntax.ArithmCmd:
		n, err := expand.Arithm(s.expander(), cm.X)
		if s.expandFailed(err) {
			return false
		}
		s.exit = 0
		if n == 0 {
			s.exit = 1
		}
	case *syntax.TestClause:
		ok, err := s.bashTest(cm.X)
		if s.expandFailed(err) {
			return false
		}
		s.exit = 1
		if ok {
			s.exit = 0
		}
	default:
		s.complain("%T is not part of a node's shell", cm)
		s.exit = 2
	}
	return false
}

// loopDone handles break and continue at the end of a round; true ends the loop.
func (s *shell) loopDone() bool {
	switch s.flow {
	case flowBreak, flowContinue:
		if s.flowDepth--; s.flowDepth > 0 {
			return true
		}
		done := s.flow == flowBreak
		s.flow = flowNone
		return done
	}
	return s.stopped()
}

func matches(pat, word string) bool {
	if pat == "*" {
		return true
	}
	if !strings.ContainsAny(pat, `*?[\`) {
		return pat == word
	}
	expr, err := pattern.Regexp(pat, pattern.EntireString)
	if err != nil {
		return false
	}
	re, err := regexp.Compile(expr)
	return err == nil && re.MatchString(word)
}

func (s *shell) pipeline(cm *syntax.BinaryCmd) {
	var parts []*syntax.Stmt
	both := []bool{}
	var collect func(*syntax.BinaryCmd)
	collect = func(b *syntax.BinaryCmd) {
		if left, ok := b.X.Cmd.(*syntax.BinaryCmd); ok && (left.Op == syntax.Pipe || left.Op == syntax.PipeAll) && len(b.X.Redirs) == 0 && !b.X.Negated {
			collect(left)
		} else {
			parts = append(parts, b.X)
		}
		both = append(both, b.Op == syntax.PipeAll)
		parts = append(parts, b.Y)
	}
	collect(cm)
	var in *description
	procs := make([]*process, 0, len(parts))
	for i, st := range parts {
		child, err := s.fork()
		if err != nil {
			in.release()
			s.exit = 1
			return
		}
		if i > 0 {
			child.fds[0].release()
			child.fds[0], in = in, nil
		}
		if i < len(parts)-1 {
			r, w := newPipe()
			child.fds[1].release()
			child.fds[1], in = w, r
			if both[i] {
				child.fds[2].release()
				child.fds[2] = w.retain()
			}
		}
		child.final = true
		procs = append(procs, child.run(func() { child.stmt(st) }))
	}
	failed := 0
	for _, p := range procs {
		if s.exit = s.wait(p); s.exit != 0 {
			failed = s.exit
		}
	}
	if s.pipefail && s.exit == 0 {
		s.exit = failed
	}
}

type assignment struct {
	name  string
	value string
}

func (s *shell) assignments(list []*syntax.Assign) ([]assignment, bool) {
	var out []assignment
	for _, as := range list {
		value := ""
		if as.Array != nil || as.Index != nil {
			s.complain("arrays are not part of a node's shell")
			s.exit, s.flow = 2, flowExit
			return nil, false
		}
		if as.Value != nil {
			var ok bool
			if value, ok = s.literal(as.Value); !ok {
				return nil, false
			}
		}
		if as.Append {
			value = s.get(as.Name.Value) + value
		}
		out = append(out, assignment{as.Name.Value, value})
	}
	return out, true
}

// call runs a simple command: assignments, a builtin, a function or a program.
func (s *shell) call(cm *syntax.CallExpr) (keep bool) {
	s.substRan = false
	args, err := expand.Fields(s.expander(), cm.Args...)
	if s.expandFailed(err) {
		return false
	}
	if len(args) == 0 {
		for _, as := range cm.Assigns {
			list, ok := s.assignments([]*syntax.Assign{as})
			if !ok {
				return false
			}
			if err := s.setString(list[0].name, list[0].value); err != nil {
				s.expandFailed(err)
				return false
			}
		}
		if s.exit = 0; s.substRan {
			s.exit = s.substExit
		}
		return false
	}
	assigns, ok := s.assignments(cm.Assigns)
	if !ok {
		return false
	}
	if s.xtrace {
		s.writeFD(2, "+ "+strings.Join(args, " ")+"\n")
	}
	return s.dispatch(args, assigns, true)
}

func (s *shell) dispatch(args []string, assigns []assignment, functions bool) (keep bool) {
	name := args[0]
	if !specialBuiltins[name] && functions {
		if body := s.funcs[name]; body != nil {
			s.withVariables(assigns, func() { s.function(body, args[1:]) })
			return false
		}
	}
	if run := builtin(name); run != nil {
		if specialBuiltins[name] {
			for _, a := range assigns {
				s.setString(a.name, a.value)
			}
			s.exit = run(s, args)
			return name == "exec" && len(args) == 1
		}
		s.withVariables(assigns, func() { s.exit = run(s, args) })
		return false
	}
	s.external(args, assigns)
	return false
}

// withVariables makes assignments for one command only.
func (s *shell) withVariables(assigns []assignment, f func()) {
	old := make([]expand.Variable, len(assigns))
	for i, a := range assigns {
		old[i] = s.vars[a.name]
		v := str(a.value)
		v.Exported = true
		s.set(a.name, v)
	}
	f()
	for i, a := range slices.Backward(assigns) {
		if old[i].IsSet() {
			s.vars[a.name] = old[i]
		} else {
			delete(s.vars, a.name)
		}
	}
}

func (s *shell) function(body *syntax.Stmt, params []string) {
	if len(s.scopes) > 500 {
		s.complain("maximum function nesting level exceeded")
		s.exit, s.flow = 1, flowExit
		return
	}
	old, final, loops := s.params, s.final, s.loops
	s.params, s.final, s.loops = params, false, 0
	s.scopes = append(s.scopes, map[string]expand.Variable{})
	s.stmt(body)
	hidden := s.scopes[len(s.scopes)-1]
	s.scopes = s.scopes[:len(s.scopes)-1]
	for name, v := range hidden {
		if v.IsSet() {
			s.vars[name] = v
		} else {
			delete(s.vars, name)
		}
	}
	s.params, s.final, s.loops = old, final, loops
	if s.flow == flowReturn {
		s.flow = flowNone
	}
}

// external runs a program: in the shell's own process when nothing follows, else in a child.
func (s *shell) external(args []string, assigns []assignment) {
	env := s.environ()
	for _, a := range assigns {
		env[a.name] = a.value
	}
	if s.final && s.exitTrap == "" {
		c := &invocation{node: s.node, p: s.p, argv: args, env: env, dir: s.dir, umask: s.umask, fds: s.fds, lookup: s.get("PATH"), by: s}
		s.exit = c.execute()
		s.fds = c.fds // an exec in what ran may have changed them
		s.flow = flowExit
		return
	}
	p, err := s.p.boot.newProcess(s.node, s.p, s.user(), args)
	if err != nil {
		s.exit = 1
		return
	}
	c := &invocation{node: s.node, p: p, argv: args, env: env, dir: s.dir, umask: s.umask, fds: s.fds.dup(), lookup: s.get("PATH"), by: s}
	go func() {
		exit := c.execute()
		c.fds.closeAll()
		p.finish(exit)
	}()
	s.exit = s.wait(p)
}

// parse reads a whole program.
func (n *Node) parse(text, name string, bash bool) (*syntax.File, error) {
	return n.cluster.programs.parse(text, name, bash)
}

// programCache keeps parsed programs: the same few scripts run again and again on every node.
type programCache struct {
	mu    sync.Mutex
	files map[string]*syntax.File
}

func newProgramCache() *programCache { return &programCache{files: map[string]*syntax.File{}} }

func (c *programCache) parse(text, name string, bash bool) (*syntax.File, error) {
	key := strconv.FormatBool(bash) + text
	c.mu.Lock()
	f := c.files[key]
	c.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := newParser(bash).Parse(strings.NewReader(text), name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if len(c.files) > 500 {
		clear(c.files)
	}
	c.files[key] = f
	c.mu.Unlock()
	return f, nil
}

func newParser(bash bool) *syntax.Parser {
	lang := syntax.LangPOSIX
	if bash {
		lang = syntax.LangBash
	}
	return syntax.NewParser(syntax.Variant(lang))
}

// eval runs text in the shell itself.
func (s *shell) eval(text string) int {
	f, err := s.node.parse(text, s.arg0, s.bash)
	if err != nil {
		s.complain("%v", err)
		s.exit = 2
		if !s.bash {
			s.flow = flowExit
		}
		return 2
	}
	s.exit = 0
	final := s.final
	s.final = false
	s.stmts(f.Stmts)
	s.final = final
	return s.exit
}

// program runs a whole program and the EXIT trap.
func (s *shell) program(text string) int {
	f, err := s.node.parse(text, s.arg0, s.bash)
	if err != nil {
		s.complain("Syntax error: %v", err)
		return 2
	}
	s.final = len(f.Stmts) == 1
	s.stmts(f.Stmts)
	s.leave()
	return s.exit
}

// standardInput runs statements as they come; what follows the last one read stays for the commands, as far as it was not read ahead.
func (s *shell) standardInput() int {
	for st, err := range newParser(s.bash).StmtsSeq(fdReader{s.p.ctx, s.fds[0]}) {
		if err != nil {
			if s.p.ctx.Err() == nil {
				s.complain("Syntax error: %v", err)
				s.exit = 2
			}
			break
		}
		s.stmt(st)
		if s.stopped() {
			break
		}
	}
	s.leave()
	return s.exit
}

type fdReader struct {
	ctx context.Context
	d   *description
}

func (r fdReader) Read(b []byte) (int, error) {
	if r.d == nil || r.d.read == nil {
		return 0, io.EOF
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.d.read(r.ctx, b)
}

type fdWriter struct {
	ctx context.Context
	d   *description
}

func (w fdWriter) Write(b []byte) (int, error) {
	if w.d == nil || w.d.write == nil {
		return 0, badDescriptor{}
	}
	return w.d.write(w.ctx, b)
}

// badDescriptor is the error of a closed descriptor, in the shell's own wording.
type badDescriptor struct{}

func (badDescriptor) Error() string { return "Bad file descriptor" }
