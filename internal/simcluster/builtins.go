package simcluster

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// specialBuiltins are POSIX's: assignments before them stay, an error in them ends the shell.
var specialBuiltins = map[string]bool{
	"break": true, ":": true, "continue": true, ".": true, "eval": true, "exec": true, "exit": true, "export": true, "readonly": true,
	"return": true, "set": true, "shift": true, "times": true, "trap": true, "unset": true,
}

// builtin returns the shell's own command of that name, or nil.
func builtin(name string) func(*shell, []string) int {
	switch name {
	case ":", "true":
		return func(*shell, []string) int { return 0 }
	case "false":
		return func(*shell, []string) int { return 1 }
	case "echo":
		return (*shell).echo
	case "printf":
		return (*shell).printf
	case "test", "[":
		return (*shell).test
	case "cd":
		return (*shell).cd
	case "pwd":
		return func(s *shell, _ []string) int { return s.builtinOutput("pwd", s.dir+"\n") }
	case "exit":
		return func(s *shell, args []string) int { return s.leaveWith(flowExit, args) }
	case "return":
		return func(s *shell, args []string) int { return s.leaveWith(flowReturn, args) }
	case "break", "continue":
		return (*shell).breakLoop
	case "set":
		return (*shell).setOptions
	case "shift":
		return (*shell).shift
	case "unset":
		return (*shell).unset
	case "export", "readonly", "local":
		return func(s *shell, args []string) int {
			exit := 0
			for _, a := range args[1:] {
				name, value, has := strings.Cut(a, "=")
				if e := s.declareOne(args[0], name, value, has); e != 0 {
					exit = e
				}
			}
			return exit
		}
	case "eval":
		return func(s *shell, args []string) int { return s.eval(strings.Join(args[1:], " ")) }
	case ".", "source":
		return (*shell).source
	case "exec":
		return (*shell).execBuiltin
	case "command":
		return (*shell).commandBuiltin
	case "type", "hash":
		return (*shell).typeBuiltin
	case "read":
		return (*shell).read
	case "wait":
		return (*shell).waitBuiltin
	case "kill":
		return (*shell).killBuiltin
	case "trap":
		return (*shell).trap
	case "umask":
		return (*shell).umaskBuiltin
	case "times":
		return func(s *shell, _ []string) int { return s.builtinOutput("times", "0m0.00s 0m0.00s\n0m0.00s 0m0.00s\n") }
	case "ulimit":
		return func(s *shell, args []string) int {
			if len(args) < 3 {
				return s.builtinOutput("ulimit", "unlimited\n")
			}
			return 0
		}
	}
	return nil
}

func (s *shell) echo(args []string) int {
	args = args[1:]
	newline, escapes := true, !s.bash
	for len(args) > 0 {
		if args[0] == "-n" {
			newline = false
		} else if s.bash && (args[0] == "-e" || args[0] == "-E") {
			escapes = args[0] == "-e"
		} else {
			break
		}
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if escapes && strings.Contains(text, `\`) {
		if expanded, _, err := expand.Format(s.expander(), "%b", []string{text}); err == nil {
			text = expanded
		}
	}
	if newline {
		text += "\n"
	}
	return s.builtinOutput("echo", text)
}

func (s *shell) printf(args []string) int {
	text, err := formatPrintf(args[1:])
	if err != nil {
		s.complain("printf: %v", err)
		s.builtinOutput("printf", text)
		return 2
	}
	return s.builtinOutput("printf", text)
}

func formatPrintf(args []string) (string, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return "", fmt.Errorf("usage: printf format [arg ...]")
	}
	format, args := args[0], args[1:]
	out := ""
	for {
		text, n, err := expand.Format(&expand.Config{}, format, args) // a nil one is shared by all processes
		out += text
		if err != nil {
			return out, err
		}
		if args = args[n:]; n == 0 || len(args) == 0 {
			return out, nil
		}
	}
}

func (s *shell) cd(args []string) int {
	to := s.get("HOME")
	switch {
	case len(args) > 1 && args[1] == "--" && len(args) > 2:
		to = args[2]
	case len(args) > 1:
		to = args[1]
	}
	if to == "-" {
		to = s.get("OLDPWD")
	}
	st, err := s.node.tree.stat(s.user(), s.dir, to, true)
	switch {
	case err == nil && !st.IsDir():
		s.complain("cd: can't cd to %s", to)
		return 2
	case err == nil && !s.node.tree.permitted(s.user(), st.virt, st.FileInfo, mayExec), err != nil:
		s.complain("cd: can't cd to %s", to)
		return 2
	}
	s.setString("OLDPWD", s.dir)
	if path.IsAbs(to) {
		s.dir = path.Clean(to)
	} else {
		s.dir = path.Join(s.dir, to)
	}
	s.setString("PWD", s.dir)
	return 0
}

func (s *shell) leaveWith(f flow, args []string) int {
	code := s.exit
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			s.complain("%s: Illegal number: %s", args[0], args[1])
			n = 2
		}
		code = n & 0xff
	}
	s.flow = f
	return code
}

func (s *shell) breakLoop(args []string) int {
	depth := 1
	if len(args) > 1 {
		depth, _ = strconv.Atoi(args[1])
	}
	if s.loops == 0 || depth < 1 {
		return 0
	}
	s.flow, s.flowDepth = flowBreak, min(depth, s.loops)
	if args[0] == "continue" {
		s.flow = flowContinue
	}
	return 0
}

func (s *shell) setOptions(args []string) int {
	args = args[1:]
	option := func(c byte, on bool) bool {
		switch c {
		case 'a':
			s.allexport = on
		case 'e':
			s.errexit = on
		case 'f':
			s.noglob = on
		case 'n':
			s.noexec = on
		case 'u':
			s.nounset = on
		case 'x':
			s.xtrace = on
		case 'm', 'b', 'C', 'h', 'v':
		default:
			return false
		}
		return true
	}
	names := map[string]byte{"allexport": 'a', "errexit": 'e', "noglob": 'f', "noexec": 'n', "nounset": 'u', "xtrace": 'x', "monitor": 'm'}
	for len(args) > 0 {
		a := args[0]
		if a == "--" {
			s.params = slices.Clone(args[1:])
			return 0
		}
		if len(a) < 2 || a[0] != '-' && a[0] != '+' {
			s.params = slices.Clone(args)
			return 0
		}
		args = args[1:]
		for _, c := range []byte(a[1:]) {
			if c == 'o' && len(args) > 0 {
				switch name := args[0]; {
				case name == "pipefail" && s.bash:
					s.pipefail = a[0] == '-'
				case names[name] != 0:
					option(names[name], a[0] == '-')
				default:
					s.complain("set: Illegal option -o %s", name)
					s.flow = flowExit
					return 2
				}
				args = args[1:]
			} else if !option(c, a[0] == '-') {
				s.complain("set: Illegal option -%c", c)
				s.flow = flowExit
				return 2
			}
		}
	}
	return 0
}

func (s *shell) shift(args []string) int {
	n := 1
	if len(args) > 1 {
		n, _ = strconv.Atoi(args[1])
	}
	if n > len(s.params) {
		if !s.bash {
			s.complain("shift: can't shift that many")
			s.flow = flowExit
			return 2
		}
		return 1
	}
	s.params = s.params[n:]
	return 0
}

func (s *shell) unset(args []string) int {
	functions := false
	for _, a := range args[1:] {
		switch {
		case a == "-f":
			functions = true
		case a == "-v":
		case functions:
			delete(s.funcs, a)
		case s.vars[a].ReadOnly:
			s.complain("unset: %s: is read only", a)
			return 2
		default:
			delete(s.vars, a)
		}
	}
	return 0
}

func (s *shell) declare(cm *syntax.DeclClause) {
	s.exit = 0
	variant := cm.Variant.Value
	for _, as := range cm.Args {
		name, value, has := "", "", false
		if as.Name == nil { // an option, or words that expand to NAME=value
			fields, err := expand.Fields(s.expander(), as.Value)
			if s.expandFailed(err) {
				return
			}
			for _, f := range fields {
				if strings.HasPrefix(f, "-") {
					continue
				}
				name, value, has = strings.Cut(f, "=")
				s.exit = max(s.exit, s.declareOne(variant, name, value, has))
			}
			continue
		}
		name = as.Name.Value
		if !as.Naked {
			list, ok := s.assignments([]*syntax.Assign{as})
			if !ok {
				return
			}
			value, has = list[0].value, true
		}
		s.exit = max(s.exit, s.declareOne(variant, name, value, has))
	}
}

func (s *shell) declareOne(variant, name, value string, has bool) int {
	if strings.HasPrefix(name, "-") {
		return 0
	}
	if !syntax.ValidName(name) {
		s.complain("%s: %s: bad variable name", variant, name)
		return 2
	}
	v := s.vars[name]
	if v.ReadOnly {
		s.complain("%s: %s: is read only", variant, name)
		return 2
	}
	switch variant {
	case "local", "declare", "typeset":
		if len(s.scopes) == 0 {
			if variant == "local" {
				s.complain("local: not in a function")
				return 2
			}
			break
		}
		scope := s.scopes[len(s.scopes)-1]
		if _, done := scope[name]; !done {
			scope[name] = v
		}
		if !has {
			if s.bash {
				delete(s.vars, name)
			}
			return 0
		}
	}
	if has {
		v.Set, v.Kind, v.Str = true, expand.String, value
	}
	switch variant {
	case "export":
		v.Exported = true
	case "readonly":
		v.ReadOnly = true
	}
	if !v.IsSet() && variant == "export" {
		return 0 // exported once it is set; nothing of ours relies on it
	}
	s.vars[name] = v
	return 0
}

func (s *shell) source(args []string) int {
	if len(args) < 2 {
		s.complain(".: filename argument required")
		return 2
	}
	text, err := s.node.tree.readFile(s.p, s.dir, args[1])
	if err != nil {
		s.complain(".: cannot open %s: %s", args[1], dashText(err))
		if !s.bash {
			s.flow = flowExit
		}
		return 2
	}
	exit := s.eval(string(text))
	if s.flow == flowReturn {
		s.flow = flowNone
	}
	return exit
}

func (s *shell) execBuiltin(args []string) int {
	if len(args) == 1 {
		return 0
	}
	s.exitTrap = ""
	c := &invocation{node: s.node, p: s.p, argv: args[1:], env: s.environ(), dir: s.dir, umask: s.umask, fds: s.fds, lookup: s.get("PATH"), by: s}
	s.flow = flowExit
	exit := c.execute()
	s.fds = c.fds
	return exit
}

func (s *shell) commandBuiltin(args []string) int {
	args = args[1:]
	if len(args) > 0 && (args[0] == "-v" || args[0] == "-V") {
		exit := 0
		names := args[1:]
		if !s.bash && len(names) > 1 {
			names = names[:1] // dash looks at the first only
		}
		for _, a := range names {
			switch {
			case s.funcs[a] != nil || builtin(a) != nil || syntax.IsKeyword(a):
				s.builtinOutput("command", a+"\n")
			default:
				found := s.node.which(s.user(), s.dir, a, s.get("PATH"))
				if found == "" {
					exit = 127
					if s.bash {
						exit = 1
					}
					continue
				}
				s.builtinOutput("command", found+"\n")
			}
		}
		return exit
	}
	for len(args) > 0 && (args[0] == "-p" || args[0] == "--") {
		args = args[1:]
	}
	if len(args) == 0 {
		return 0
	}
	s.dispatch(args, nil, false)
	return s.exit
}

func (s *shell) typeBuiltin(args []string) int {
	exit := 0
	for _, a := range args[1:] {
		if strings.HasPrefix(a, "-") {
			continue
		}
		text := ""
		switch found := s.node.which(s.user(), s.dir, a, s.get("PATH")); {
		case s.funcs[a] != nil:
			text = a + " is a shell function\n"
		case builtin(a) != nil:
			text = a + " is a shell builtin\n"
		case found != "":
			text = a + " is " + found + "\n"
		default:
			s.complain("%s: %s: not found", args[0], a)
			exit = 1
			continue
		}
		if args[0] == "type" {
			s.builtinOutput("type", text)
		}
	}
	return exit
}

func (s *shell) read(args []string) int {
	raw := false
	names := args[1:]
	for len(names) > 0 && strings.HasPrefix(names[0], "-") {
		if names[0] == "-r" {
			raw = true
		} else if names[0] == "-p" && len(names) > 1 {
			names = names[1:]
		}
		names = names[1:]
	}
	if len(names) == 0 {
		names = []string{"REPLY"}
	}
	in := fdReader{s.p.ctx, s.fds[0]}
	line, exit := "", 1
	b := make([]byte, 1)
	for {
		n, err := in.Read(b)
		if n == 0 {
			if err != nil {
				break
			}
			continue
		}
		if b[0] == '\n' {
			if !raw && strings.HasSuffix(line, `\`) {
				line = line[:len(line)-1]
				continue
			}
			exit = 0
			break
		}
		if b[0] != 0 {
			line += string(b)
		}
	}
	fields := expand.ReadFields(s.expander(), line, len(names), raw)
	for i, name := range names {
		value := ""
		if i < len(fields) {
			value = fields[i]
		}
		if err := s.setString(name, value); err != nil {
			s.complain("read: %v", err)
			return 2
		}
	}
	return exit
}

func (s *shell) waitBuiltin(args []string) int {
	if len(args) == 1 {
		for pid, p := range s.children {
			s.wait(p)
			delete(s.children, pid)
		}
		return 0
	}
	exit := 0
	for _, a := range args[1:] {
		pid, err := strconv.Atoi(a)
		if err != nil {
			s.complain("wait: Illegal number: %s", a)
			return 2
		}
		p := s.children[pid]
		if p == nil {
			exit = 127
			continue
		}
		exit = s.wait(p)
	}
	return exit
}

func (s *shell) killBuiltin(args []string) int {
	return sendSignals(s.node, s.p, args[1:], func(text string) { s.complain("kill: %s", text) }, func(text string) { s.builtinOutput("kill", text) })
}

// sendSignals is kill(1): `kill [-SIGNAL | -s SIGNAL] [--] [-]PID...`.
func sendSignals(n *Node, p *process, args []string, complain, print func(string)) int {
	sig := sigTERM
	number := func(name string) (int, bool) {
		if v, err := strconv.Atoi(name); err == nil {
			return v, true
		}
		v, ok := signalNames[strings.TrimPrefix(strings.ToUpper(name), "SIG")]
		return v, ok
	}
	if len(args) > 0 && args[0] == "-l" {
		print("HUP INT QUIT KILL USR1 USR2 PIPE ALRM TERM CONT STOP\n")
		return 0
	}
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		name := args[0][1:]
		args = args[1:]
		if (name == "s" || name == "n") && len(args) > 0 {
			name, args = args[0], args[1:]
		}
		var ok bool
		if sig, ok = number(name); !ok {
			complain("Illegal option -" + name)
			return 2
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		complain("usage: kill [-s sigspec | -signum | -sigspec] [pid | job]...")
		return 2
	}
	_, user, ownGroup, _ := p.snapshot()
	exit := 0
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			complain("Illegal number: " + a)
			return 2
		}
		if pid == 0 {
			pid = -ownGroup
		}
		if pid == sshdPID && !n.sshdDead() {
			if user == superuser {
				n.signalSSHD(sig)
			} else {
				complain("Operation not permitted")
				exit = 1
			}
			continue
		}
		targets := p.boot.find(pid)
		if len(targets) == 0 {
			if pid == 1 && user != superuser {
				complain("Operation not permitted")
			} else {
				complain("No such process")
			}
			exit = 1
			continue
		}
		sent := false
		for _, t := range targets {
			if _, owner, _, _ := t.snapshot(); user == superuser || owner == user {
				sent = true
				t.kill(sig)
			}
		}
		if !sent {
			complain("Operation not permitted")
			exit = 1
		}
	}
	return exit
}

func (s *shell) trap(args []string) int {
	args = args[1:]
	if len(args) == 0 {
		if s.exitTrap != "" {
			s.builtinOutput("trap", "trap -- '"+s.exitTrap+"' EXIT\n")
		}
		return 0
	}
	action := args[0]
	if len(args) == 1 {
		action, args = "-", append([]string{"-"}, args...)
	}
	for _, sig := range args[1:] {
		switch sig {
		case "EXIT", "0":
			if action == "-" {
				action = ""
			}
			s.exitTrap = action
		default:
			if action != "-" {
				s.complain("trap: only EXIT can be trapped on this node")
				return 2
			}
		}
	}
	return 0
}

func (s *shell) umaskBuiltin(args []string) int {
	if len(args) == 1 {
		return s.builtinOutput("umask", fmt.Sprintf("%04o\n", s.umask))
	}
	n, err := strconv.ParseUint(args[1], 8, 12)
	if err != nil {
		s.complain("umask: Illegal mode: %s", args[1])
		return 2
	}
	s.umask = fs.FileMode(n)
	return 0
}

func (s *shell) test(args []string) int {
	if args[0] == "[" {
		if args[len(args)-1] != "]" {
			s.complain("[: missing ]")
			return 2
		}
		args = args[:len(args)-1]
	}
	ok, err := s.evaluate(args[1:])
	if err != nil {
		s.complain("%s: %v", args[0], err)
		return 2
	}
	if ok {
		return 0
	}
	return 1
}

// evaluate follows POSIX's rules by the number of arguments.
func (s *shell) evaluate(a []string) (bool, error) {
	switch len(a) {
	case 0:
		return false, nil
	case 1:
		return a[0] != "", nil
	case 2:
		if a[0] == "!" {
			return a[1] == "", nil
		}
		return s.unary(a[0], a[1])
	case 3:
		if ok, known, err := s.binary(a[0], a[1], a[2]); known {
			return ok, err
		}
		if a[0] == "!" {
			ok, err := s.evaluate(a[1:])
			return !ok, err
		}
		if a[0] == "(" && a[2] == ")" {
			return a[1] != "", nil
		}
	case 4:
		if a[0] == "!" {
			ok, err := s.evaluate(a[1:])
			return !ok, err
		}
	}
	for _, op := range []string{"-o", "-a"} {
		if i := slices.Index(a, op); i > 0 && i < len(a)-1 {
			left, err := s.evaluate(a[:i])
			if err != nil {
				return false, err
			}
			right, err := s.evaluate(a[i+1:])
			if op == "-o" {
				return left || right, err
			}
			return left && right, err
		}
	}
	return false, fmt.Errorf("%s: unexpected operator", a[min(1, len(a)-1)])
}

func (s *shell) unary(op, arg string) (bool, error) {
	switch op {
	case "-n":
		return arg != "", nil
	case "-z":
		return arg == "", nil
	case "-t":
		return false, nil
	}
	follow := op != "-L" && op != "-h"
	st, err := s.node.tree.stat(s.user(), s.dir, arg, follow)
	if err != nil && !s.node.isProgram(arg) {
		switch op {
		case "-e", "-f", "-d", "-r", "-w", "-x", "-s", "-L", "-h", "-p", "-S", "-c", "-b", "-O", "-G", "-u", "-g", "-k":
			return false, nil
		}
		return false, fmt.Errorf("%s: unexpected operator", op)
	}
	if err != nil { // a program of the node
		switch op {
		case "-e", "-f", "-r", "-x", "-s":
			return true, nil
		}
		return false, nil
	}
	dev := st.virt == "/dev/null" || st.virt == "/dev/zero" || st.virt == "/dev/full" || st.virt == "/dev/urandom"
	switch op {
	case "-e":
		return true, nil
	case "-f":
		return st.Mode().IsRegular() && !dev, nil
	case "-d":
		return st.IsDir(), nil
	case "-L", "-h":
		return st.Mode()&fs.ModeSymlink != 0, nil
	case "-s":
		return st.Size() > 0 && !dev, nil
	case "-r":
		return s.node.tree.permitted(s.user(), st.virt, st.FileInfo, mayRead), nil
	case "-w":
		return s.node.tree.permitted(s.user(), st.virt, st.FileInfo, mayWrite), nil
	case "-x":
		return s.node.tree.permitted(s.user(), st.virt, st.FileInfo, mayExec), nil
	case "-c":
		return dev, nil
	case "-p":
		return st.Mode()&fs.ModeNamedPipe != 0, nil
	case "-S":
		return st.Mode()&fs.ModeSocket != 0, nil
	case "-b":
		return false, nil
	case "-u":
		return st.Mode()&fs.ModeSetuid != 0, nil
	case "-g":
		return st.Mode()&fs.ModeSetgid != 0, nil
	case "-k":
		return st.Mode()&fs.ModeSticky != 0, nil
	case "-O", "-G":
		return s.node.tree.ownerOf(st.virt) == s.user(), nil
	}
	return false, fmt.Errorf("%s: unexpected operator", op)
}

// illegalNumber is dash's own wording.
const illegalNumber = "Illegal number"

func (s *shell) binary(x, op, y string) (ok, known bool, err error) {
	switch op {
	case "=", "==":
		if op == "==" && !s.bash {
			return false, true, fmt.Errorf("%s: unexpected operator", x)
		}
		return x == y, true, nil
	case "!=":
		return x != y, true, nil
	case "-eq", "-ne", "-lt", "-le", "-gt", "-ge":
		a, err := strconv.ParseInt(strings.TrimSpace(x), 10, 64)
		if err != nil {
			return false, true, fmt.Errorf("%s: %s", illegalNumber, x)
		}
		b, err := strconv.ParseInt(strings.TrimSpace(y), 10, 64)
		if err != nil {
			return false, true, fmt.Errorf("%s: %s", illegalNumber, y)
		}
		return map[string]bool{"-eq": a == b, "-ne": a != b, "-lt": a < b, "-le": a <= b, "-gt": a > b, "-ge": a >= b}[op], true, nil
	case "-nt", "-ot", "-ef":
		a, errA := s.node.tree.stat(s.user(), s.dir, x, true)
		b, errB := s.node.tree.stat(s.user(), s.dir, y, true)
		switch {
		case op == "-ef":
			return errA == nil && errB == nil && os.SameFile(a.FileInfo, b.FileInfo), true, nil
		case op == "-ot":
			a, b, errA, errB = b, a, errB, errA
		}
		return errA == nil && (errB != nil || a.mtime.After(b.mtime)), true, nil
	case "-a":
		return x != "" && y != "", true, nil
	case "-o":
		return x != "" || y != "", true, nil
	}
	return false, false, nil
}

// bashTest is [[ ]].
func (s *shell) bashTest(x syntax.TestExpr) (bool, error) {
	switch x := x.(type) {
	case *syntax.ParenTest:
		return s.bashTest(x.X)
	case *syntax.Word:
		v, err := expand.Literal(s.expander(), x)
		return v != "", err
	case *syntax.UnaryTest:
		if x.Op == syntax.TsNot {
			ok, err := s.bashTest(x.X)
			return !ok, err
		}
		v, err := expand.Literal(s.expander(), x.X.(*syntax.Word))
		if err != nil {
			return false, err
		}
		return s.unary(x.Op.String(), v)
	case *syntax.BinaryTest:
		switch x.Op {
		case syntax.AndTest, syntax.OrTest:
			left, err := s.bashTest(x.X)
			if err != nil || left == (x.Op == syntax.OrTest) {
				return left, err
			}
			return s.bashTest(x.Y)
		}
		left, err := expand.Literal(s.expander(), x.X.(*syntax.Word))
		if err != nil {
			return false, err
		}
		switch x.Op {
		case syntax.TsMatch, syntax.TsMatchShort, syntax.TsNoMatch:
			pat, err := expand.Pattern(s.expander(), x.Y.(*syntax.Word))
			return matches(pat, left) == (x.Op != syntax.TsNoMatch), err
		}
		right, err := expand.Literal(s.expander(), x.Y.(*syntax.Word))
		if err != nil {
			return false, err
		}
		ok, _, err := s.binary(left, x.Op.String(), right)
		return ok, err
	}
	return false, fmt.Errorf("unsupported test")
}

// parseSeconds reads coreutils' durations: 1.5, 2s, 3m, 4h, 1d, infinity.
func parseSeconds(s string) (time.Duration, bool) {
	if s == "infinity" || s == "inf" {
		return 1 << 62, true
	}
	unit := time.Second
	switch {
	case strings.HasSuffix(s, "s"):
		s = s[:len(s)-1]
	case strings.HasSuffix(s, "m"):
		s, unit = s[:len(s)-1], time.Minute
	case strings.HasSuffix(s, "h"):
		s, unit = s[:len(s)-1], time.Hour
	case strings.HasSuffix(s, "d"):
		s, unit = s[:len(s)-1], 24*time.Hour
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 {
		return 0, false
	}
	return time.Duration(f * float64(unit)), true
}
