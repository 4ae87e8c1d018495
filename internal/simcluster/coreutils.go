package simcluster

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// coreutils returns the programs of Debian's coreutils, findutils, grep, sed and friends that scripts on nodes use.
func coreutils() map[string]program {
	bin := func(f func(*invocation) int) program { return program{"/usr/bin", f} }
	return map[string]program{
		"sh": bin(shProgram), "dash": bin(shProgram), "bash": bin(shProgram),
		"cat": bin(cat), "mkdir": bin(mkdir), "mv": bin(mv), "rm": bin(rm), "rmdir": bin(rmdir), "ln": bin(ln), "ls": bin(ls), "cp": bin(cp), "dd": bin(dd),
		"tail": bin(tail), "head": bin(head), "sleep": bin(sleep), "date": bin(date), "stat": bin(statProgram), "sync": bin(syncProgram), "id": bin(id), "touch": bin(touch),
		"chmod": bin(chmod), "chown": bin(chown), "chgrp": bin(chown), "wc": bin(wc), "tr": bin(tr), "sort": bin(sortProgram), "uniq": bin(uniq), "cut": bin(cut),
		"env": bin(envProgram), "printenv": bin(printenv), "uname": bin(uname), "hostname": bin(hostname), "df": bin(df), "nohup": bin(nohup), "true": bin(func(*invocation) int { return 0 }),
		"false": bin(func(*invocation) int { return 1 }), "mktemp": bin(mktemp), "basename": bin(basename), "dirname": bin(dirname), "install": bin(install), "od": bin(od),
		"base64": bin(base64Program), "sha256sum": bin(sha256sum), "xargs": bin(xargs), "timeout": bin(timeout), "tee": bin(tee), "readlink": bin(readlink), "realpath": bin(readlink),
		"whoami": bin(func(c *invocation) int { c.printf("%s\n", c.user()); return 0 }), "nproc": bin(func(c *invocation) int { c.printf("2\n"); return 0 }), "seq": bin(seq), "expr": bin(exprProgram),
		"echo": bin(func(c *invocation) int { return c.shellBuiltin((*shell).echo) }), "printf": bin(func(c *invocation) int { return c.shellBuiltin((*shell).printf) }),
		"test": bin(func(c *invocation) int { return c.shellBuiltin((*shell).test) }), "[": bin(func(c *invocation) int { return c.shellBuiltin((*shell).test) }),
		"pwd": bin(func(c *invocation) int { c.printf("%s\n", c.dir); return 0 }), "nice": bin(func(c *invocation) int { return c.prefix("n:") }), "ionice": bin(func(c *invocation) int { return c.prefix("c:n:t") }),
		"comm": bin(comm), "getconf": bin(getconf), "grep": bin(grep), "sed": bin(sed), "find": bin(find), "which": bin(which), "truncate": bin(truncateProgram), "fallocate": bin(fallocate), "cmp": bin(cmpProgram), "du": bin(du), "yes": bin(yes), "tac": bin(tac), "awk": bin(awk), "tar": bin(tarProgram),
	}
}

// shellBuiltin runs what is also a builtin of the shell.
func (c *invocation) shellBuiltin(f func(*shell, []string) int) int {
	s := c.newShell(true, c.argv[0], nil)
	return f(s, append([]string{c.name()}, c.argv[1:]...))
}

func (c *invocation) prefix(options string) int {
	_, rest := c.leadingOptions(options, nil)
	if len(rest) == 0 {
		return 0
	}
	return c.exec(rest)
}

// shProgram is sh (as dash) and bash: `sh [-elsux] [-c TEXT [NAME [ARG...]] | -s [ARG...] | FILE [ARG...]]`.
func shProgram(c *invocation) int {
	bash := c.name() == "bash"
	args := c.argv[1:]
	login, fromStdin, text, isText := strings.HasPrefix(c.argv[0], "-"), false, "", false
	var set []string
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		a := args[0]
		args = args[1:]
		if a == "--" {
			break
		}
		if a == "--login" {
			login = true
			continue
		}
		wantText := false
		for _, o := range a[1:] {
			switch o {
			case 'c':
				wantText = true
			case 's':
				fromStdin = true
			case 'l':
				login = true
			case 'i':
			case 'o':
				if len(args) > 0 {
					set = append(set, a[:1]+"o", args[0])
					args = args[1:]
				}
			default:
				set = append(set, a[:1]+string(o))
			}
		}
		if wantText {
			if len(args) == 0 {
				return c.fail(2, "0: -c requires an argument")
			}
			isText, text, args = true, args[0], args[1:]
		}
	}
	arg0 := c.name()
	var body func(*shell)
	switch {
	case isText:
		if len(args) > 0 {
			arg0, args = args[0], args[1:]
		}
		body = func(s *shell) { s.program(text) }
	case fromStdin || len(args) == 0:
		body = func(s *shell) { s.standardInput() }
	default:
		file := args[0]
		content, err := c.readFile(file)
		if err != nil {
			c.errorf("%s: 0: cannot open %s: %s", arg0, file, dashText(err))
			return 2
		}
		arg0, args, body = file, args[1:], func(s *shell) { s.program(string(content)) }
	}
	s := c.newShell(bash, arg0, args)
	if login {
		s.login()
	}
	return s.finishIn(c, func() {
		if len(set) > 0 {
			if s.exit = s.setOptions(append([]string{"set"}, set...)); s.exit != 0 {
				return
			}
			s.params = args
		}
		body(s)
	})
}

// files returns the operands to read, "-" or none being standard input, and calls f with each.
func (c *invocation) files(names []string, f func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	exit := 0
	for _, name := range names {
		if name == "-" {
			if err := f("-", c.stdin()); err != nil && c.broken == nil {
				exit = 1
			}
			continue
		}
		st, err := c.stat(name)
		if err == nil && st.IsDir() {
			exit = c.fail(1, "%s: Is a directory", name)
			continue
		}
		var d *description
		if err == nil {
			d, err = c.open(name, os.O_RDONLY, 0)
		}
		if err != nil {
			exit = c.fail(1, "%s: %s", name, errorText(err))
			continue
		}
		err = f(name, fdReader{c.p.ctx, d})
		d.release()
		if c.broken != nil {
			return 1
		}
		if err != nil {
			exit = c.fail(1, "%s: %s", name, errorText(err))
		}
	}
	return exit
}

func cat(c *invocation) int {
	opts, names := c.getopt("ubnv", nil)
	if opts == nil {
		return 1
	}
	return c.files(names, func(_ string, r io.Reader) error { _, err := copyBlocks(c, r); return err })
}

// copyBlocks is io.Copy with blocks as large as those of coreutils.
func copyBlocks(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 128<<10))
}

// skip leaves out n bytes of what a descriptor reads, without reading them where it is a file. It returns how many there were to leave out.
func (c *invocation) skip(d *description, n int64) (int64, error) {
	if d != nil && d.file != nil {
		at, err := d.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return 0, bare(err)
		}
		fi, err := d.file.Stat()
		if err != nil {
			return 0, bare(err)
		}
		if fi.Mode().IsRegular() {
			n = min(n, max(0, fi.Size()-at))
			_, err = d.file.Seek(n, io.SeekCurrent)
			return n, err
		}
	}
	return copyBlocks(io.Discard, io.LimitReader(fdReader{c.p.ctx, d}, n))
}

// permissionBits are those that chmod sets.
const permissionBits = fs.ModePerm | fs.ModeSticky | fs.ModeSetuid | fs.ModeSetgid

// octalMode is a mode as stat and find print it.
func octalMode(m fs.FileMode) string {
	n := uint32(m.Perm())
	if m&fs.ModeSticky != 0 {
		n |= 0o1000
	}
	if m&fs.ModeSetgid != 0 {
		n |= 0o2000
	}
	if m&fs.ModeSetuid != 0 {
		n |= 0o4000
	}
	return strconv.FormatUint(uint64(n), 8)
}

// parseMode applies an octal or symbolic mode.
func parseMode(text string, old fs.FileMode, dir bool) (fs.FileMode, bool) {
	if n, err := strconv.ParseUint(text, 8, 12); err == nil {
		m := fs.FileMode(n & 0o777)
		for bit, special := range map[uint64]fs.FileMode{0o1000: fs.ModeSticky, 0o2000: fs.ModeSetgid, 0o4000: fs.ModeSetuid} {
			if n&bit != 0 {
				m |= special
			}
		}
		if dir && len(text) < 5 { // a folder keeps these bits, unless they are named
			m |= old & (fs.ModeSetuid | fs.ModeSetgid)
		}
		return m, true
	}
	m := old & permissionBits
	for _, clause := range strings.Split(text, ",") {
		i := strings.IndexAny(clause, "+-=")
		if i < 0 {
			return 0, false
		}
		var who, bits fs.FileMode
		for _, w := range clause[:i] {
			switch w {
			case 'u':
				who |= 0o700
			case 'g':
				who |= 0o070
			case 'o':
				who |= 0o007
			case 'a':
				who |= 0o777
			default:
				return 0, false
			}
		}
		if who == 0 {
			who = 0o777
		}
		for _, b := range clause[i+1:] {
			switch b {
			case 'r':
				bits |= 0o444
			case 'w':
				bits |= 0o222
			case 'x':
				bits |= 0o111
			case 'X':
				if dir || old&0o111 != 0 {
					bits |= 0o111
				}
			case 't':
				m |= fs.ModeSticky
			case 's':
				for who, special := range map[rune]fs.FileMode{'u': fs.ModeSetuid, 'g': fs.ModeSetgid} {
					if i > 0 && !strings.ContainsRune(clause[:i], who) && !strings.Contains(clause[:i], "a") {
						continue
					}
					if clause[i] == '-' {
						m &^= special
					} else {
						m |= special
					}
				}
			default:
				return 0, false
			}
		}
		switch clause[i] {
		case '+':
			m |= who & bits
		case '-':
			m &^= who & bits
		default:
			m = m&^who | who&bits
		}
	}
	return m, true
}

func mkdir(c *invocation) int {
	opts, names := c.getopt("pvm:", map[string]string{"parents": "p", "mode": "m", "verbose": "v"})
	if opts == nil {
		return 1
	}
	if len(names) == 0 {
		return c.fail(1, "missing operand")
	}
	mode := 0o777 &^ c.umask
	if m, ok := opts["m"]; ok {
		var good bool
		if mode, good = parseMode(m, 0o777, true); !good {
			return c.fail(1, "invalid mode '%s'", m)
		}
	}
	exit := 0
	_, parents := opts["p"]
	for _, name := range names {
		err := c.mkdirAll(name, mode, parents)
		if err != nil {
			exit = c.fail(1, "cannot create directory '%s': %s", name, errorText(err))
		}
	}
	return exit
}

func (c *invocation) mkdirAll(name string, mode fs.FileMode, parents bool) error {
	if !parents {
		return c.tree().mkdir(c.user(), c.dir, name, mode)
	}
	if st, err := c.stat(name); err == nil {
		if st.IsDir() {
			return nil
		}
		return syscall.EEXIST
	}
	if parent := path.Dir(strings.TrimRight(name, "/")); parent != "." && parent != "/" {
		if err := c.mkdirAll(parent, 0o777&^c.umask, true); err != nil {
			return err
		}
	}
	err := c.tree().mkdir(c.user(), c.dir, name, mode)
	if errors.Is(err, syscall.EEXIST) {
		return nil // another process was faster
	}
	return err
}

func rmdir(c *invocation) int {
	opts, names := c.getopt("p", map[string]string{"ignore-fail-on-non-empty": "p"})
	if opts == nil {
		return 1
	}
	exit := 0
	for _, name := range names {
		if err := c.tree().rmdir(c.user(), c.dir, name); err != nil {
			exit = c.fail(1, "failed to remove '%s': %s", name, errorText(err))
		}
	}
	return exit
}

func mv(c *invocation) int {
	opts, names := c.getopt("fnTvt:", map[string]string{"no-target-directory": "T", "force": "f", "no-clobber": "n"})
	if opts == nil {
		return 1
	}
	if len(names) < 2 {
		return c.fail(1, "missing file operand")
	}
	exit := 0
	target := names[len(names)-1]
	_, plain := opts["T"]
	_, noClobber := opts["n"]
	for _, from := range names[:len(names)-1] {
		to := target
		if st, err := c.stat(target); err == nil && st.IsDir() && !plain {
			to = path.Join(target, path.Base(from))
		}
		src, err := c.lstat(from)
		if err != nil {
			exit = c.fail(1, "cannot stat '%s': %s", from, errorText(err))
			continue
		}
		if dst, err := c.lstat(to); err == nil {
			if noClobber {
				continue
			}
			if dst.IsDir() && !src.IsDir() {
				exit = c.fail(1, "cannot overwrite directory '%s' with non-directory", to)
				continue
			}
			if !dst.IsDir() && src.IsDir() {
				exit = c.fail(1, "cannot overwrite non-directory '%s' with directory '%s'", to, from)
				continue
			}
		}
		if err := c.tree().rename(c.user(), c.dir, from, to); err != nil {
			exit = c.fail(1, "cannot move '%s' to '%s': %s", from, to, errorText(err))
		}
	}
	return exit
}

func rm(c *invocation) int {
	opts, names := c.getopt("rRfvd1", map[string]string{"recursive": "r", "force": "f", "one-file-system": "1"})
	if opts == nil {
		return 1
	}
	_, r1 := opts["r"]
	_, r2 := opts["R"]
	_, force := opts["f"]
	if len(names) == 0 && !force {
		return c.fail(1, "missing operand")
	}
	exit := 0
	for _, name := range names {
		var on *fileSystem
		if _, one := opts["1"]; one && (r1 || r2) {
			if st, err := c.lstat(name); err == nil {
				on = c.tree().system(st.virt)
			}
		}
		err := c.removeOn(name, r1 || r2, on)
		if away := (otherDevice{}); errors.As(err, &away) {
			exit = c.fail(1, "skipping '%s', since it's on a different device", away.name)
		} else if err != nil && !(force && errors.Is(err, syscall.ENOENT)) {
			exit = c.fail(1, "cannot remove '%s': %s", name, errorText(err))
		}
	}
	return exit
}

// otherDevice is why something is not removed: another file system is mounted there.
type otherDevice struct{ name string }

func (e otherDevice) Error() string { return e.name + " is on a different device" }

func (c *invocation) remove(name string, recursive bool) error {
	return c.removeOn(name, recursive, nil)
}

// removeOn removes; on a file system, only what is on that one. What cannot be removed stays, all else goes; the first error is returned.
func (c *invocation) removeOn(name string, recursive bool, on *fileSystem) error {
	st, err := c.lstat(name)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return c.tree().unlink(c.user(), c.dir, name)
	}
	if !recursive {
		return syscall.EISDIR
	}
	entries, err := c.tree().readdir(c.user(), c.dir, name)
	if err != nil {
		return err
	}
	var first error
	for _, e := range entries {
		if c.p.ctx.Err() != nil {
			return c.p.ctx.Err()
		}
		below := strings.TrimRight(name, "/") + "/" + e.name
		var err error = otherDevice{below}
		if on == nil || c.tree().system(e.virt) == on {
			err = c.removeOn(below, true, on)
		}
		if err != nil && first == nil && !errors.Is(err, syscall.ENOENT) {
			first = err
		}
	}
	if first != nil {
		return first
	}
	return c.tree().rmdir(c.user(), c.dir, name)
}

func ln(c *invocation) int {
	opts, names := c.getopt("sfnTv", map[string]string{"symbolic": "s", "force": "f", "no-dereference": "n", "no-target-directory": "T"})
	if opts == nil {
		return 1
	}
	if len(names) == 1 {
		names = append(names, path.Base(names[0]))
	}
	if len(names) != 2 {
		return c.fail(1, "missing file operand")
	}
	from, to := names[0], names[1]
	_, noDeref := opts["n"]
	_, plain := opts["T"]
	if st, err := c.tree().stat(c.user(), c.dir, to, !noDeref); err == nil && st.IsDir() && !plain {
		to = path.Join(to, path.Base(from))
	}
	if _, force := opts["f"]; force {
		c.tree().unlink(c.user(), c.dir, to)
	}
	_, symbolic := opts["s"]
	link := c.tree().hardlink
	if symbolic {
		link = c.tree().symlink
	}
	if err := link(c.user(), c.dir, from, to); err != nil {
		switch {
		case symbolic:
			return c.fail(1, "failed to create symbolic link '%s': %s", to, errorText(err))
		case errors.Is(err, syscall.ENOENT):
			return c.fail(1, "failed to access '%s': %s", from, errorText(err))
		case errors.Is(err, syscall.EEXIST):
			return c.fail(1, "failed to create hard link '%s': %s", to, errorText(err))
		}
		return c.fail(1, "failed to create hard link '%s' => '%s': %s", to, from, errorText(err))
	}
	return 0
}

func modeString(m fs.FileMode) string {
	s := []byte("----------")
	switch {
	case m.IsDir():
		s[0] = 'd'
	case m&fs.ModeSymlink != 0:
		s[0] = 'l'
	case m&fs.ModeNamedPipe != 0:
		s[0] = 'p'
	}
	for i, c := range "rwxrwxrwx" {
		if m&(1<<(8-i)) != 0 {
			s[i+1] = byte(c)
		}
	}
	for at, bit := range map[int]fs.FileMode{3: fs.ModeSetuid, 6: fs.ModeSetgid} {
		if m&bit != 0 {
			s[at] = map[bool]byte{true: 's', false: 'S'}[s[at] == 'x']
		}
	}
	if m&fs.ModeSticky != 0 {
		s[9] = map[bool]byte{true: 't', false: 'T'}[s[9] == 'x']
	}
	return string(s)
}

func ls(c *invocation) int {
	opts, names := c.getopt("1aAlditrR", map[string]string{"all": "a", "directory": "d"})
	if opts == nil {
		return 2
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	has := func(o string) bool { _, ok := opts[o]; return ok }
	exit := 0
	show := func(name string, st info) {
		if has("i") {
			inode, _, _ := inodeOf(st.FileInfo, st.virt)
			c.printf("%d ", inode)
		}
		if has("l") {
			_, links, _ := inodeOf(st.FileInfo, st.virt)
			c.printf("%s %d %s %s %d %s ", modeString(st.Mode()), links, c.tree().ownerOf(st.virt), c.tree().groupOf(st.virt), st.Size(), st.ModTime().UTC().Format("Jan _2 15:04"))
			if st.Mode()&fs.ModeSymlink != 0 {
				target, _ := os.Readlink(c.tree().host(st.virt))
				name += " -> " + target
			}
		}
		c.printf("%s\n", name)
	}
	for i, name := range names {
		st, err := c.lstat(name)
		if err == nil && !has("l") && !has("d") {
			if followed, err := c.stat(name); err == nil {
				st = followed
			}
		}
		if err != nil {
			exit = 2
			c.errorf("ls: cannot access '%s': %s", name, errorText(err))
			continue
		}
		if !st.IsDir() || has("d") {
			show(name, st)
			continue
		}
		entries, err := c.tree().readdir(c.user(), c.dir, name)
		if err != nil {
			exit = 2
			c.errorf("ls: cannot open directory '%s': %s", name, errorText(err))
			continue
		}
		if has("t") {
			slices.SortStableFunc(entries, func(a, b info) int { return b.mtime.Compare(a.mtime) })
		}
		if has("r") {
			slices.Reverse(entries)
		}
		if len(names) > 1 {
			if i > 0 {
				c.printf("\n")
			}
			c.printf("%s:\n", name)
		}
		if has("a") {
			c.printf(".\n..\n")
		}
		for _, e := range entries {
			if strings.HasPrefix(e.name, ".") && !has("a") && !has("A") {
				continue
			}
			show(e.name, e)
		}
	}
	return exit
}

// copying is how cp copies.
type copying struct {
	recursive, preserve bool
	// links: hard links are made instead of copies of files.
	links bool
	// follow: what a symbolic link leads to is copied.
	follow bool
	// names of copies by the inode of what they are copies of, to keep hard links; nil = they become several files.
	names map[uint64]string
}

func cp(c *invocation) int {
	opts, names := c.getopt("rRafpTvldPLH", map[string]string{"no-target-directory": "T", "recursive": "r", "archive": "a", "force": "f", "preserve": "p", "link": "l", "no-dereference": "P", "dereference": "L"})
	if opts == nil {
		return 1
	}
	if len(names) < 2 {
		return c.fail(1, "missing file operand")
	}
	has := func(options ...string) bool {
		return slices.ContainsFunc(options, func(o string) bool { _, ok := opts[o]; return ok })
	}
	how := copying{recursive: has("r", "R", "a"), preserve: has("p", "a"), links: has("l"), follow: has("L") || !has("r", "R", "a", "d", "P", "l")}
	if has("a", "d") {
		how.names = map[uint64]string{}
	}
	target := names[len(names)-1]
	st, err := c.stat(target)
	into := err == nil && st.IsDir() && !has("T")
	if len(names) > 2 && !into {
		return c.fail(1, "target '%s' is not a directory", target)
	}
	exit := 0
	for _, from := range names[:len(names)-1] {
		to := target
		if into {
			to = path.Join(target, path.Base(from))
		}
		exit = max(exit, c.copyTold(from, to, how))
	}
	return exit
}

// copyTold copies, and tells what could not be copied in cp's words; what can be is.
func (c *invocation) copyTold(from, to string, how copying) int {
	st, err := c.tree().stat(c.user(), c.dir, from, how.follow)
	if err != nil {
		return c.fail(1, "cannot stat '%s': %s", from, errorText(err))
	}
	if st.IsDir() && !how.recursive {
		return c.fail(1, "-r not specified; omitting directory '%s'", from)
	}
	if target, err := c.tree().resolve(c.dir, to, true); st.IsDir() && err == nil && below(target, st.virt) {
		return c.fail(1, "cannot copy a directory, '%s', into itself, '%s'", from, to)
	}
	return c.copyEntry(st, from, to, how)
}

func (c *invocation) copyEntry(st info, from, to string, how copying) int {
	if c.p.ctx.Err() != nil {
		return 1
	}
	t, user := c.tree(), c.user()
	inode, links, _ := inodeOf(st.FileInfo, st.virt)
	before := from
	if first, copied := how.names[inode]; copied && links > 1 && !st.IsDir() && !how.links {
		before = first
	}
	switch {
	case st.IsDir():
		old, missing := c.stat(to)
		if missing == nil && !old.IsDir() {
			return c.fail(1, "cannot overwrite non-directory '%s' with directory '%s'", to, from)
		} else if missing != nil {
			if err := t.mkdir(user, c.dir, to, st.Mode().Perm()|0o700); err != nil {
				return c.fail(1, "cannot create directory '%s': %s", to, errorText(err))
			}
		}
		entries, err := t.readdir(user, c.dir, from)
		if err != nil {
			return c.fail(1, "cannot access '%s': %s", from, errorText(err))
		}
		exit := 0
		for _, e := range entries {
			name := strings.TrimRight(from, "/") + "/" + e.name
			if how.follow && e.Mode()&fs.ModeSymlink != 0 {
				exit = max(exit, c.copyTold(name, path.Join(to, e.name), how))
				continue
			}
			exit = max(exit, c.copyEntry(e, name, path.Join(to, e.name), how))
		}
		if err := c.preserve(st, to, how.preserve); err != nil {
			return c.fail(1, "preserving permissions for '%s': %s", to, errorText(err))
		}
		if !how.preserve && missing != nil {
			if err := t.chmod(user, c.dir, to, func(old fs.FileMode) fs.FileMode { return old&^fs.ModePerm | st.Mode().Perm()&^c.umask }); err != nil && !errors.Is(err, syscall.EPERM) {
				return c.fail(1, "setting permissions for '%s': %s", to, errorText(err))
			}
		}
		return exit
	case how.links || before != from:
		if old, err := c.lstat(to); err == nil {
			if same, _, _ := inodeOf(old.FileInfo, old.virt); same == inode {
				return 0
			}
			if !how.links {
				t.unlink(user, c.dir, to)
			}
		}
		if err := t.hardlink(user, c.dir, before, to); err != nil {
			return c.fail(1, "cannot create hard link '%s' to '%s': %s", to, before, errorText(err))
		}
		return 0
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(t.host(st.virt))
		if err == nil {
			t.unlink(user, c.dir, to)
			err = t.symlink(user, c.dir, target, to)
		}
		if err != nil {
			return c.fail(1, "cannot create symbolic link '%s': %s", to, errorText(bare(err)))
		}
	default:
		if exit := c.copyContent(st, from, to); exit != 0 {
			return exit
		}
	}
	if how.names != nil {
		how.names[inode] = to
	}
	if err := c.preserve(st, to, how.preserve); err != nil {
		return c.fail(1, "preserving permissions for '%s': %s", to, errorText(err))
	}
	return 0
}

func (c *invocation) copyContent(st info, from, to string) int {
	in, err := c.open(from, os.O_RDONLY, 0)
	if err != nil {
		return c.fail(1, "cannot open '%s' for reading: %s", from, errorText(err))
	}
	defer in.release()
	out, err := c.open(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, st.Mode().Perm())
	if err != nil {
		return c.fail(1, "cannot create regular file '%s': %s", to, errorText(err))
	}
	defer out.release()
	if err := c.copyData(in, out); err != nil {
		return c.fail(1, "error writing '%s': %s", to, errorText(err))
	}
	return 0
}

// hole is so many zero bytes.
const hole = 1 << 20

// copyData copies what a description reads. Where that is a file, a block of zero bytes becomes a hole that takes no space on this machine; on the node it does.
func (c *invocation) copyData(in, out *description) error {
	if in.file == nil || out.file == nil {
		_, err := copyBlocks(fdWriter{c.p.ctx, out}, fdReader{c.p.ctx, in})
		return err
	}
	const seekData, seekHole = 3, 4 // of Linux's lseek(2)
	fi, err := in.file.Stat()
	if err != nil {
		return bare(err)
	}
	if _, _, blocks := inodeOf(fi, in.path); fi.Size() < hole || blocks*512 >= fi.Size() {
		_, err := copyBlocks(fdWriter{c.p.ctx, out}, fdReader{c.p.ctx, in})
		return err
	}
	for at := int64(0); at < fi.Size(); {
		from, err := in.file.Seek(at, seekData)
		if err != nil {
			break // holes only
		}
		to, err := in.file.Seek(from, seekHole)
		if err != nil {
			return bare(err)
		}
		if c.tree().room(out.path, from-at) < from-at {
			return syscall.ENOSPC
		}
		for _, f := range []*os.File{in.file, out.file} {
			if _, err := f.Seek(from, io.SeekStart); err != nil {
				return bare(err)
			}
		}
		if err := out.file.Truncate(from); err != nil {
			return bare(err)
		}
		if _, err := copyBlocks(fdWriter{c.p.ctx, out}, io.LimitReader(fdReader{c.p.ctx, in}, to-from)); err != nil {
			return err
		}
		at = to
	}
	now, err := out.file.Stat()
	if err != nil {
		return bare(err)
	}
	if more := fi.Size() - now.Size(); c.tree().room(out.path, more) < more {
		return syscall.ENOSPC
	}
	return bare(out.file.Truncate(fi.Size()))
}

// copy copies one file.
func (c *invocation) copy(from, to string) error {
	st, err := c.stat(from)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return syscall.EISDIR
	}
	in, err := c.open(from, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer in.release()
	out, err := c.open(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, st.Mode().Perm())
	if err != nil {
		return err
	}
	defer out.release()
	return c.copyData(in, out)
}

// preserve gives a copy the mode, the owner and the time of what it was made of. Another owner is left out by a user who may not set it, as cp does.
func (c *invocation) preserve(st info, to string, on bool) error {
	if !on {
		return nil
	}
	if err := c.tree().chown(c.user(), c.dir, to, c.tree().ownerOf(st.virt), c.tree().groupOf(st.virt), false); err != nil && !errors.Is(err, syscall.EPERM) {
		return err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		link, err := c.lstat(to)
		if err != nil {
			return err
		}
		return setLinkTime(c.tree().host(link.virt), st.FileInfo.ModTime())
	}
	if err := c.tree().chmod(c.user(), c.dir, to, func(fs.FileMode) fs.FileMode { return st.Mode() & permissionBits }); err != nil {
		return err
	}
	copied, err := c.stat(to)
	if err != nil {
		return err
	}
	at := st.FileInfo.ModTime()
	return bare(os.Chtimes(c.tree().host(copied.virt), at, at))
}

// parseSize reads dd's and head's numbers: 10, 4k, 1M, 64KiB.
func parseSize(s string) (int64, bool) {
	units := []struct {
		suffix string
		n      int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1000}, {"MB", 1000000}, {"GB", 1e9}, {"k", 1 << 10}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"c", 1}, {"b", 512}}
	mult := int64(1)
	for _, u := range units {
		if strings.HasSuffix(s, u.suffix) {
			s, mult = strings.TrimSuffix(s, u.suffix), u.n
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n * mult, err == nil
}

func dd(c *invocation) int {
	in, out := "", ""
	bs, count, seek, skip := int64(512), int64(-1), int64(0), int64(0)
	conv := map[string]bool{}
	iflag := map[string]bool{}
	status := ""
	for _, a := range c.argv[1:] {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			return c.fail(1, "unrecognized operand '%s'", a)
		}
		size, sizeOK := parseSize(v)
		switch k {
		case "if":
			in = v
		case "of":
			out = v
		case "bs", "ibs", "obs":
			bs = size
		case "count":
			count = size
		case "seek":
			seek = size
		case "skip":
			skip = size
		case "status":
			status = v
		case "conv", "oflag":
			for _, f := range strings.Split(v, ",") {
				conv[f] = true
			}
			sizeOK = true
		case "iflag":
			for _, f := range strings.Split(v, ",") {
				iflag[f] = true
			}
			sizeOK = true
		default:
			return c.fail(1, "unrecognized operand '%s'", a)
		}
		if k != "if" && k != "of" && k != "status" && k != "conv" && k != "oflag" && k != "iflag" && (!sizeOK || size < 0) {
			return c.fail(1, "invalid number: '%s'", v)
		}
	}
	if bs <= 0 {
		return c.fail(1, "invalid number: '0'")
	}
	source, sourceName := c.fds[0], "standard input"
	if in != "" {
		d, err := c.open(in, os.O_RDONLY, 0)
		if err != nil {
			return c.fail(1, "failed to open '%s': %s", in, errorText(err))
		}
		defer d.release()
		source, sourceName = d, in
	}
	r := fdReader{c.p.ctx, source}
	var w io.Writer = fdWriter{c.p.ctx, c.fds[1]}
	if out != "" {
		flags := os.O_WRONLY
		if !conv["nocreat"] {
			flags |= os.O_CREATE
		}
		if conv["excl"] {
			flags |= os.O_EXCL
		}
		if !conv["notrunc"] && seek == 0 {
			flags |= os.O_TRUNC
		}
		if conv["append"] {
			flags |= os.O_APPEND
		}
		d, err := c.open(out, flags, 0o666)
		if err != nil {
			return c.fail(1, "failed to open '%s': %s", out, errorText(err))
		}
		defer d.release()
		if seek > 0 && d.file != nil {
			at := seek * bs
			if conv["seek_bytes"] {
				at = seek
			}
			if _, err := d.file.Seek(at, io.SeekStart); err != nil {
				return c.fail(1, "%s: cannot seek: %s", out, errorText(bare(err)))
			}
			if !conv["notrunc"] {
				d.file.Truncate(at)
			}
		}
		w = fdWriter{c.p.ctx, d}
	}
	if skip > 0 {
		n := skip * bs
		if iflag["skip_bytes"] {
			n = skip
		}
		if done, err := c.skip(source, n); err == nil && done < n && status != "none" {
			c.errorf("dd: %s: cannot skip to specified offset", sourceName)
		}
	}
	limit := int64(-1)
	if iflag["count_bytes"] {
		limit, count = count, -1
	}
	var full, partial, bytesDone int64
	buf := make([]byte, min(bs, 4<<20))
	for (count < 0 || full+partial < count) && (limit < 0 || bytesDone < limit) {
		b := buf
		if limit >= 0 {
			b = buf[:min(int64(len(buf)), limit-bytesDone)]
		}
		var n int
		var err error
		if iflag["fullblock"] {
			n, err = io.ReadFull(r, b)
		} else {
			n, err = r.Read(b)
		}
		if n > 0 {
			if _, werr := w.Write(b[:n]); werr != nil {
				if isBrokenPipe(werr) {
					return 128 + sigPIPE
				}
				return c.fail(1, "error writing '%s': %s", out, errorText(werr))
			}
			bytesDone += int64(n)
			if int64(n) == bs {
				full++
			} else {
				partial++
			}
		}
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				if c.p.ctx.Err() == nil {
					return c.fail(1, "error reading '%s': %s", in, errorText(err))
				}
				return 1
			}
			break
		}
	}
	if status != "none" {
		c.errorf("%d+%d records in\n%d+%d records out", full, partial, full, partial)
		if status != "noxfer" {
			c.errorf("%d bytes copied, 0.0001 s, 1.0 MB/s", bytesDone)
		}
	}
	return 0
}

// lineCount rewrites the old form -5 to -n 5.
func (c *invocation) lineCount() {
	if len(c.argv) > 1 && len(c.argv[1]) > 1 && c.argv[1][0] == '-' && c.argv[1][1] >= '0' && c.argv[1][1] <= '9' {
		c.argv = append([]string{c.argv[0], "-n", c.argv[1][1:]}, c.argv[2:]...)
	}
}

func tail(c *invocation) int {
	c.lineCount()
	opts, names := c.getopt("c:n:fFqs:", map[string]string{"bytes": "c", "lines": "n", "follow": "f", "pid": "s", "sleep-interval": "s", "quiet": "q"})
	if opts == nil {
		return 1
	}
	count, byBytes := "10", false
	if v, ok := opts["n"]; ok {
		count = v
	}
	if v, ok := opts["c"]; ok {
		count, byBytes = v, true
	}
	fromStart := strings.HasPrefix(count, "+")
	n, ok := parseSize(strings.TrimLeft(count, "+-"))
	if !ok {
		return c.fail(1, "invalid number of lines: '%s'", count)
	}
	_, follow := opts["f"]
	if _, ok := opts["F"]; ok {
		follow = true
	}
	var last int64
	exit := c.files(names, func(name string, r io.Reader) error {
		if byBytes && fromStart && name == "-" {
			if _, err := c.skip(c.fds[0], max(0, n-1)); err != nil {
				return err
			}
			_, err := copyBlocks(c, r)
			return err
		}
		if fr, ok := r.(fdReader); ok && fr.d != nil && fr.d.file != nil && byBytes && name != "-" {
			fi, err := fr.d.file.Stat()
			if err != nil {
				return bare(err)
			}
			at := max(0, fi.Size()-n)
			if fromStart {
				at = max(0, n-1)
			}
			fr.d.file.Seek(at, io.SeekStart)
			k, err := copyBlocks(c, r)
			last = at + k
			return err
		}
		data, err := io.ReadAll(r)
		last = int64(len(data))
		if err != nil {
			return err
		}
		switch {
		case byBytes && fromStart:
			data = data[min(int64(len(data)), max(0, n-1)):]
		case byBytes:
			data = data[max(0, int64(len(data))-n):]
		default:
			lines := bytes.SplitAfter(data, []byte("\n"))
			if len(lines[len(lines)-1]) == 0 {
				lines = lines[:len(lines)-1]
			}
			from := max(0, int64(len(lines))-n)
			if fromStart {
				from = min(int64(len(lines)), max(0, n-1))
			}
			data = bytes.Join(lines[from:], nil)
		}
		_, err = c.Write(data)
		return err
	})
	for follow && exit == 0 && len(names) == 1 && c.broken == nil {
		if !c.p.sleep(20 * time.Millisecond) {
			break
		}
		d, err := c.open(names[0], os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		if d.file != nil {
			d.file.Seek(last, io.SeekStart)
			k, _ := io.Copy(c, fdReader{c.p.ctx, d})
			last += k
		}
		d.release()
	}
	return exit
}

func head(c *invocation) int {
	c.lineCount()
	opts, names := c.getopt("c:n:q", map[string]string{"bytes": "c", "lines": "n", "quiet": "q"})
	if opts == nil {
		return 1
	}
	if v, ok := opts["c"]; ok {
		n, good := parseSize(v)
		if !good {
			return c.fail(1, "invalid number of bytes: '%s'", v)
		}
		return c.files(names, func(_ string, r io.Reader) error {
			// Never reads more than asked for: what follows on a pipe is for the next program.
			_, err := copyBlocks(c, io.LimitReader(r, n))
			return err
		})
	}
	n := int64(10)
	if v, ok := opts["n"]; ok {
		var good bool
		if n, good = parseSize(v); !good {
			return c.fail(1, "invalid number of lines: '%s'", v)
		}
	}
	return c.files(names, func(_ string, r io.Reader) error {
		br := bufio.NewReader(r)
		for i := int64(0); i < n || n < 0; i++ {
			line, err := br.ReadBytes('\n')
			if _, werr := c.Write(line); werr != nil {
				return werr
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func sleep(c *invocation) int {
	var total time.Duration
	if len(c.argv) < 2 {
		return c.fail(1, "missing operand")
	}
	for _, a := range c.argv[1:] {
		d, ok := parseSeconds(a)
		if !ok {
			return c.fail(1, "invalid time interval '%s'", a)
		}
		total += d
	}
	if !c.p.sleep(total) {
		return 128 + sigTERM
	}
	return 0
}

func date(c *invocation) int {
	t := c.node.now()
	format := "%a %b %e %H:%M:%S %Z %Y"
	args := c.argv[1:]
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-u" || a == "--utc":
		case strings.HasPrefix(a, "+"):
			format = a[1:]
		case a == "-Iseconds" || a == "--iso-8601=seconds":
			format = "%Y-%m-%dT%H:%M:%S+00:00"
		case a == "-r" && i+1 < len(args):
			i++
			st, err := c.stat(args[i])
			if err != nil {
				return c.fail(1, "%s: %s", args[i], errorText(err))
			}
			t = st.mtime
		case a == "-R":
			format = "%a, %d %b %Y %H:%M:%S +0000"
		case (a == "-d" || strings.HasPrefix(a, "--date=")) && strings.HasPrefix(strings.TrimPrefix(a, "--date="), "@"), a == "-d" && i+1 < len(args) && strings.HasPrefix(args[i+1], "@"):
			v := strings.TrimPrefix(a, "--date=")
			if a == "-d" {
				i++
				v = args[i]
			}
			n, err := strconv.ParseInt(strings.TrimPrefix(v, "@"), 10, 64)
			if err != nil {
				return c.fail(1, "invalid date '%s'", v)
			}
			t = time.Unix(n, 0)
		default:
			return c.fail(1, "invalid date '%s'", a)
		}
	}
	c.printf("%s\n", strftime(t.UTC(), format))
	return 0
}

func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch format[i] {
		case 's':
			fmt.Fprintf(&b, "%d", t.Unix())
		case 'N':
			fmt.Fprintf(&b, "%09d", t.Nanosecond())
		case '3':
			if strings.HasPrefix(format[i:], "3N") {
				fmt.Fprintf(&b, "%03d", t.Nanosecond()/1e6)
				i++
			}
		case 'Y':
			b.WriteString(t.Format("2006"))
		case 'm':
			b.WriteString(t.Format("01"))
		case 'd':
			b.WriteString(t.Format("02"))
		case 'e':
			b.WriteString(t.Format("_2"))
		case 'H':
			b.WriteString(t.Format("15"))
		case 'M':
			b.WriteString(t.Format("04"))
		case 'S':
			b.WriteString(t.Format("05"))
		case 'F':
			b.WriteString(t.Format("2006-01-02"))
		case 'T':
			b.WriteString(t.Format("15:04:05"))
		case 'a':
			b.WriteString(t.Format("Mon"))
		case 'b':
			b.WriteString(t.Format("Jan"))
		case 'Z':
			b.WriteString("UTC")
		case 'z':
			b.WriteString("+0000")
		case 'j':
			fmt.Fprintf(&b, "%03d", t.YearDay())
		case '%':
			b.WriteByte('%')
		default:
			b.WriteByte('%')
			b.WriteByte(format[i])
		}
	}
	return b.String()
}

func statProgram(c *invocation) int {
	opts, names := c.getopt("c:Lft", map[string]string{"format": "c", "dereference": "L", "file-system": "f", "printf": "c"})
	if opts == nil {
		return 1
	}
	if len(names) == 0 {
		return c.fail(1, "missing operand")
	}
	format, custom := opts["c"]
	_, follow := opts["L"]
	if _, fsys := opts["f"]; fsys {
		for _, name := range names {
			st, err := c.tree().stat(c.user(), c.dir, name, true)
			if err != nil {
				return c.fail(1, "cannot read file system information for '%s': %s", name, errorText(err))
			}
			total, free := int64(51200), int64(51000)
			if s := c.tree().system(st.virt); s != nil {
				total, free = c.tree().space(s)
				total, free = total/4096, free/4096
			}
			kind := "tmpfs"
			if s := c.tree().system(st.virt); s != nil {
				kind = kindOf(s.kind)
			}
			c.printf("%s\n", strings.NewReplacer("%n", name, "%a", strconv.FormatInt(free, 10), "%f", strconv.FormatInt(free, 10), "%b", strconv.FormatInt(total, 10), "%S", "4096", "%s", "4096", "%T", kind).Replace(format))
		}
		return 0
	}
	exit := 0
	for _, name := range names {
		st, err := c.tree().stat(c.user(), c.dir, name, follow)
		if err != nil {
			if c.node.isProgram(name) {
				c.printf("%s\n", name)
				continue
			}
			exit = c.fail(1, "cannot statx '%s': %s", name, errorText(err))
			continue
		}
		if !custom {
			c.printf("  File: %s\n  Size: %d\n", name, st.Size())
			continue
		}
		inode, links, blocks := inodeOf(st.FileInfo, st.virt)
		owner, group := c.tree().ownerOf(st.virt), c.tree().groupOf(st.virt)
		device := c.tree().deviceOf(st.virt)
		kind := "regular file"
		switch {
		case st.IsDir():
			kind = "directory"
		case st.Mode()&fs.ModeSymlink != 0:
			kind = "symbolic link"
		case st.Size() == 0:
			kind = "regular empty file"
		}
		octal := octalMode(st.Mode())
		quoted := "'" + name + "'"
		if st.Mode()&fs.ModeSymlink != 0 {
			target, _ := os.Readlink(c.tree().host(st.virt))
			quoted += " -> '" + target + "'"
		}
		mtime := st.ModTime()
		c.printf("%s\n", strings.NewReplacer("%%", "%", "%n", name, "%N", quoted, "%s", strconv.FormatInt(st.Size(), 10), "%i", strconv.FormatUint(inode, 10), "%h", strconv.FormatUint(links, 10),
			"%b", strconv.FormatInt(blocks, 10), "%B", "512", "%U", accountOf(owner), "%G", accountOf(group), "%u", strconv.Itoa(uidOf(owner)), "%g", strconv.Itoa(uidOf(group)), "%a", octal, "%A", modeString(st.Mode()),
			"%Y", strconv.FormatInt(mtime.Unix(), 10), "%X", strconv.FormatInt(mtime.Unix(), 10), "%Z", strconv.FormatInt(mtime.Unix(), 10), "%y", mtime.UTC().Format("2006-01-02 15:04:05.000000000 +0000"),
			"%F", kind, "%d", strconv.FormatUint(device, 10), "%D", strconv.FormatUint(device, 16), "%m", c.tree().mountOf(st.virt)).Replace(format))
	}
	return exit
}

func syncProgram(c *invocation) int {
	opts, names := c.getopt("fd", map[string]string{"data": "d", "file-system": "f"})
	if opts == nil {
		return 1
	}
	exit := 0
	for _, name := range names {
		if _, err := c.stat(name); err != nil {
			exit = c.fail(1, "error opening '%s': %s", name, errorText(err))
		}
	}
	return exit
}

func uidOf(user string) int {
	if user == superuser {
		return 0
	}
	if n, err := strconv.Atoi(user); err == nil {
		return n
	}
	return 1000
}

// accountOf is the name of an owner, who need not have one.
func accountOf(user string) string {
	if _, err := strconv.Atoi(user); err == nil {
		return "UNKNOWN"
	}
	return user
}

// kindOf is what stat -f calls a type of file system.
func kindOf(kind string) string {
	switch {
	case isExt(kind):
		return "ext2/ext3"
	case strings.HasPrefix(kind, "nfs"):
		return "nfs"
	case kind == "fuseblk" || strings.HasPrefix(kind, "fuse."):
		return "fuseblk"
	case kind == "overlay":
		return "overlayfs"
	}
	return kind
}

func id(c *invocation) int {
	opts, _ := c.getopt("ungGr", map[string]string{"user": "u", "name": "n", "group": "g"})
	if opts == nil {
		return 1
	}
	user := c.user()
	uid := uidOf(user)
	_, name := opts["n"]
	_, u := opts["u"]
	_, g := opts["g"]
	_, all := opts["G"]
	switch {
	case (u || g || all) && name:
		c.printf("%s\n", user)
	case u || g || all:
		c.printf("%d\n", uid)
	default:
		c.printf("uid=%d(%s) gid=%d(%s) groups=%d(%s)\n", uid, user, uid, user, uid, user)
	}
	return 0
}

func touch(c *invocation) int {
	opts, names := c.getopt("cmad:r:t:", map[string]string{"no-create": "c", "date": "d", "reference": "r"})
	if opts == nil {
		return 1
	}
	_, noCreate := opts["c"]
	exit := 0
	when := time.Now()
	if v, ok := opts["d"]; ok && strings.HasPrefix(v, "@") {
		if n, err := strconv.ParseInt(v[1:], 10, 64); err == nil {
			when = time.Unix(n, 0).Add(-c.node.skew())
		}
	}
	for _, name := range names {
		if _, err := c.stat(name); err != nil && noCreate {
			continue
		}
		d, err := c.open(name, os.O_WRONLY|os.O_CREATE, 0o666)
		if errors.Is(err, syscall.EISDIR) {
			continue
		}
		if err != nil {
			exit = c.fail(1, "cannot touch '%s': %s", name, errorText(err))
			continue
		}
		if d.file != nil {
			os.Chtimes(c.tree().host(d.path), when, when)
		}
		d.release()
	}
	return exit
}

// each applies f to the operands, and below them with -R.
func (c *invocation) each(names []string, recursive, follow bool, f func(name string, st info) error) int {
	exit := 0
	for _, name := range names {
		st, err := c.tree().stat(c.user(), c.dir, name, follow)
		if err != nil {
			exit = c.fail(1, "cannot access '%s': %s", name, errorText(err))
			continue
		}
		if err := f(name, st); err != nil {
			exit = c.fail(1, "changing '%s': %s", name, errorText(err))
		}
		if recursive && st.IsDir() {
			entries, _ := c.tree().readdir(c.user(), c.dir, name)
			var below []string
			for _, e := range entries {
				if follow && e.Mode()&fs.ModeSymlink != 0 {
					continue // chmod leaves links alone that it finds
				}
				below = append(below, e.virt)
			}
			if len(below) > 0 {
				exit = max(exit, c.each(below, true, follow, f))
			}
		}
	}
	return exit
}

func chmod(c *invocation) int {
	args := c.argv[1:]
	recursive, reference := false, ""
	for len(args) > 0 && (args[0] == "-R" || args[0] == "--" || args[0] == "-f" || strings.HasPrefix(args[0], "--reference=")) {
		recursive = recursive || args[0] == "-R"
		if f, ok := strings.CutPrefix(args[0], "--reference="); ok {
			reference = f
		}
		args = args[1:]
	}
	if reference != "" {
		st, err := c.stat(reference)
		if err != nil {
			return c.fail(1, "failed to get attributes of '%s': %s", reference, errorText(err))
		}
		args = append([]string{octalMode(st.Mode())}, args...)
	}
	if len(args) < 2 {
		return c.fail(1, "missing operand")
	}
	mode := args[0]
	if _, ok := parseMode(mode, 0, false); !ok {
		return c.fail(1, "invalid mode: '%s'", mode)
	}
	return c.each(args[1:], recursive, true, func(name string, st info) error {
		return c.tree().chmod(c.user(), c.dir, name, func(old fs.FileMode) fs.FileMode {
			m, _ := parseMode(mode, old, st.IsDir())
			return m
		})
	})
}

func chown(c *invocation) int {
	opts, names := c.getopt("Rhfr:", map[string]string{"recursive": "R", "no-dereference": "h", "reference": "r"})
	if opts == nil {
		return 1
	}
	if reference, ok := opts["r"]; ok {
		st, err := c.stat(reference)
		if err != nil {
			return c.fail(1, "failed to get attributes of '%s': %s", reference, errorText(err))
		}
		names = append([]string{c.tree().ownerOf(st.virt) + ":" + c.tree().groupOf(st.virt)}, names...)
	}
	if len(names) < 2 {
		return c.fail(1, "missing operand")
	}
	text := names[0]
	if c.name() == "chgrp" && opts["r"] == "" {
		text = ":" + text
	}
	owner, group, known := c.ownersNamed(text)
	if !known {
		if strings.Contains(text, ":") && (c.name() == "chgrp" || owner != "" || strings.HasPrefix(text, ":")) {
			return c.fail(1, "invalid group: '%s'", names[0])
		}
		return c.fail(1, "invalid user: '%s'", names[0])
	}
	_, recursive := opts["R"]
	_, itself := opts["h"]
	return c.each(names[1:], recursive, !itself && !recursive, func(name string, _ info) error {
		return c.tree().chown(c.user(), c.dir, name, owner, group, !itself && !recursive)
	})
}

// ownersNamed reads USER, USER:GROUP, :GROUP and USER: (with the user's own group); numbers need no account. A part that is not named is "", also in what is not known.
func (c *invocation) ownersNamed(text string) (owner, group string, known bool) {
	account := func(name string) (string, bool) {
		n, err := strconv.ParseUint(strings.TrimPrefix(name, "+"), 10, 31)
		switch {
		case name == "" || name == superuser || name == c.node.loginUser():
			return name, true
		case err != nil:
			return "", false
		case n == 0:
			return superuser, true
		case n == 1000:
			return c.node.loginUser(), true
		}
		return strconv.FormatUint(n, 10), true
	}
	user, of, both := strings.Cut(text, ":")
	owner, known = account(user)
	if both && known {
		if group, known = account(of); of == "" {
			group = owner
		}
	}
	return owner, group, known
}

func wc(c *invocation) int {
	opts, names := c.getopt("lcwm", map[string]string{"lines": "l", "bytes": "c", "words": "w"})
	if opts == nil {
		return 1
	}
	return c.files(names, func(name string, r io.Reader) error {
		data, err := io.ReadAll(r)
		counts := []struct {
			o string
			n int
		}{{"l", bytes.Count(data, []byte("\n"))}, {"w", len(bytes.Fields(data))}, {"c", len(data)}}
		var fields []string
		for _, k := range counts {
			_, want := opts[k.o]
			if _, m := opts["m"]; m && k.o == "c" {
				want = true
			}
			if want || len(opts) == 0 {
				fields = append(fields, strconv.Itoa(k.n))
			}
		}
		if name != "-" {
			fields = append(fields, name)
		}
		c.printf("%s\n", strings.Join(fields, " "))
		return err
	})
}

func envProgram(c *invocation) int {
	args := c.argv[1:]
	env := make(map[string]string, len(c.env))
	for k, v := range c.env {
		env[k] = v
	}
	for len(args) > 0 {
		a := args[0]
		switch {
		case a == "-i" || a == "-":
			clear(env)
		case a == "-u" && len(args) > 1:
			delete(env, args[1])
			args = args[1:]
		case a == "--":
		case strings.HasPrefix(a, "-"):
			return c.fail(125, "invalid option -- '%s'", a[1:])
		case strings.Contains(a, "="):
			k, v, _ := strings.Cut(a, "=")
			env[k] = v
		default:
			c.env = env
			if p, ok := env["PATH"]; ok {
				c.lookup = p
			}
			if found := c.node.which(c.user(), c.dir, a, c.lookup); found == "" {
				return c.fail(127, "'%s': No such file or directory", a)
			}
			return c.exec(args)
		}
		args = args[1:]
	}
	names := make([]string, 0, len(env))
	for k := range env {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		c.printf("%s=%s\n", k, env[k])
	}
	return 0
}

func printenv(c *invocation) int {
	if len(c.argv) == 1 {
		return envProgram(c)
	}
	exit := 0
	for _, k := range c.argv[1:] {
		v, ok := c.env[k]
		if !ok {
			exit = 1
			continue
		}
		c.printf("%s\n", v)
	}
	return exit
}

func uname(c *invocation) int {
	release := c.node.KernelRunning()
	fields := map[string]string{"s": "Linux", "n": c.node.name, "r": release, "v": "#1 SMP PREEMPT_DYNAMIC", "m": "x86_64", "o": "GNU/Linux", "p": "unknown", "i": "unknown"}
	opts, _ := c.getopt("asnrvmopi", map[string]string{"all": "a", "kernel-release": "r", "machine": "m", "kernel-name": "s"})
	if opts == nil {
		return 1
	}
	var out []string
	_, all := opts["a"]
	for _, k := range []string{"s", "n", "r", "v", "m", "o"} {
		if _, ok := opts[k]; ok || all || (len(opts) == 0 && k == "s") {
			out = append(out, fields[k])
		}
	}
	c.printf("%s\n", strings.Join(out, " "))
	return 0
}

func hostname(c *invocation) int {
	for _, a := range c.argv[1:] {
		if a == "-I" || a == "-i" {
			c.printf("%s\n", c.node.address)
			return 0
		}
	}
	c.printf("%s\n", c.node.name)
	return 0
}

// df knows the forms with which scripts ask for space: -P, -k, -h, -i and --output=FIELDS, of one file or all.
func df(c *invocation) int {
	opts, names := c.getopt("PkmhilTB:o:", map[string]string{"output": "o", "block-size": "B", "portability": "P", "inodes": "i", "local": "l"})
	if opts == nil {
		return 1
	}
	type system struct {
		device, mount, kind string
		total, free         int64
		inodes, taken       int64
	}
	disk := func(s *fileSystem) system {
		inodes, taken := c.tree().inodeCount(s)
		if s == nil {
			return system{"tmpfs", "/run", "tmpfs", 204800, 204000, inodes, taken}
		}
		size, free := c.tree().space(s)
		return system{s.device, s.mount, s.kind, size / 1024, free / 1024, inodes, taken}
	}
	var list []system
	if len(names) == 0 {
		list = append(list, disk(c.tree().system("/")), disk(nil))
		for _, s := range c.tree().systems {
			if s.mount != "/" {
				list = append(list, disk(s))
			}
		}
	}
	for _, name := range names {
		st, err := c.stat(name)
		if err != nil {
			return c.fail(1, "%s: %s", name, errorText(err))
		}
		list = append(list, disk(c.tree().system(st.virt)))
	}
	unit := int64(1)
	label := "1K-blocks"
	if _, ok := opts["P"]; ok {
		label = "1024-blocks"
	}
	if b, ok := opts["B"]; ok {
		switch b {
		case "1":
			unit, label = 0, "1B-blocks"
		case "1M", "M":
			unit, label = 1024, "1M-blocks"
		}
	} else if _, ok := opts["m"]; ok {
		unit, label = 1024, "1M-blocks"
	}
	blocks := func(n int64) string {
		if unit == 0 {
			return strconv.FormatInt(n*1024, 10)
		}
		return strconv.FormatInt(n/unit, 10)
	}
	percent := func(s system) string {
		return strconv.FormatInt((100*(s.total-s.free)+s.total-1)/max(1, s.total), 10) + "%"
	}
	_, inodes := opts["i"]
	if fields, ok := opts["o"]; ok {
		names := strings.Split(fields, ",")
		heads := map[string]string{"source": "Filesystem", "size": label, "used": "Used", "avail": "Avail", "pcent": "Use%", "target": "Mounted on", "fstype": "Type", "iavail": "IFree"}
		var row []string
		for _, f := range names {
			row = append(row, heads[f])
		}
		c.printf("%s\n", strings.Join(row, " "))
		for _, s := range list {
			row = nil
			for _, f := range names {
				row = append(row, map[string]string{"source": s.device, "size": blocks(s.total), "used": blocks(s.total - s.free), "avail": blocks(s.free), "pcent": percent(s), "target": s.mount, "fstype": s.kind, "iavail": strconv.FormatInt(s.inodes-s.taken, 10)}[f])
			}
			c.printf("%s\n", strings.Join(row, " "))
		}
		return 0
	}
	if inodes {
		c.printf("%-14s %7s %6s %7s IUse%% Mounted on\n", "Filesystem", "Inodes", "IUsed", "IFree")
		for _, s := range list {
			c.printf("%-14s %7d %6d %7d %4d%% %s\n", s.device, s.inodes, s.taken, s.inodes-s.taken, (100*s.taken+s.inodes-1)/s.inodes, s.mount)
		}
		return 0
	}
	capacity := "Use%"
	if _, ok := opts["P"]; ok {
		capacity = "Capacity"
	}
	c.printf("%-14s %11s %9s %9s %8s Mounted on\n", "Filesystem", label, "Used", "Available", capacity)
	for _, s := range list {
		c.printf("%-14s %11s %9s %9s %8s %s\n", s.device, blocks(s.total), blocks(s.total-s.free), blocks(s.free), percent(s), s.mount)
	}
	return 0
}

func nohup(c *invocation) int {
	if len(c.argv) < 2 {
		return c.fail(125, "missing operand")
	}
	return c.exec(c.argv[1:])
}

func mktemp(c *invocation) int {
	opts, names := c.getopt("dup:qt", map[string]string{"directory": "d", "tmpdir": "p", "dry-run": "u"})
	if opts == nil {
		return 1
	}
	template := "tmp.XXXXXXXXXX"
	dir := ""
	if len(names) > 0 {
		template = names[0]
	} else {
		dir = "/tmp"
		if d := c.env["TMPDIR"]; d != "" {
			dir = d
		}
	}
	if d, ok := opts["p"]; ok {
		dir = d
	}
	if !strings.Contains(template, "XXX") {
		return c.fail(1, "too few X's in template '%s'", template)
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	for {
		b := []byte(template)
		for i := len(b) - 1; i >= 0 && b[i] == 'X'; i-- {
			b[i] = letters[rand.IntN(len(letters))]
		}
		name := string(b)
		if dir != "" {
			name = strings.TrimRight(dir, "/") + "/" + name
		}
		var err error
		if _, isDir := opts["d"]; isDir {
			err = c.tree().mkdir(c.user(), c.dir, name, 0o700)
		} else {
			var d *description
			if d, err = c.tree().open(c.user(), c.dir, name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				d.release()
			}
		}
		if errors.Is(err, syscall.EEXIST) {
			continue
		}
		if err != nil {
			return c.fail(1, "failed to create file via template '%s': %s", template, errorText(err))
		}
		c.printf("%s\n", name)
		return 0
	}
}

func basename(c *invocation) int {
	if len(c.argv) < 2 {
		return c.fail(1, "missing operand")
	}
	b := path.Base(c.argv[1])
	if len(c.argv) > 2 && b != c.argv[2] {
		b = strings.TrimSuffix(b, c.argv[2])
	}
	c.printf("%s\n", b)
	return 0
}

func dirname(c *invocation) int {
	for _, a := range c.argv[1:] {
		c.printf("%s\n", path.Dir(strings.TrimRight(a, "/")))
	}
	return 0
}

func install(c *invocation) int {
	opts, names := c.getopt("dm:o:g:DTvp", map[string]string{"directory": "d", "mode": "m", "owner": "o", "group": "g"})
	if opts == nil {
		return 1
	}
	mode := fs.FileMode(0o755)
	if m, ok := opts["m"]; ok {
		var good bool
		if mode, good = parseMode(m, 0, true); !good {
			return c.fail(1, "invalid mode '%s'", m)
		}
	}
	finish := func(name string) error {
		if err := c.tree().chmod(c.user(), c.dir, name, func(fs.FileMode) fs.FileMode { return mode }); err != nil {
			return err
		}
		owner, group, known := c.ownersNamed(opts["o"] + ":" + opts["g"])
		if !known {
			return fmt.Errorf("invalid user '%s' or group '%s'", opts["o"], opts["g"])
		}
		if owner == "" && group == "" {
			return nil
		}
		return c.tree().chown(c.user(), c.dir, name, owner, group, true)
	}
	if _, ok := opts["d"]; ok {
		exit := 0
		for _, name := range names {
			err := c.mkdirAll(name, mode, true)
			if err == nil {
				err = finish(name)
			}
			if err != nil {
				exit = c.fail(1, "cannot create directory '%s': %s", name, errorText(err))
			}
		}
		return exit
	}
	if len(names) < 2 {
		return c.fail(1, "missing file operand")
	}
	target := names[len(names)-1]
	if _, ok := opts["D"]; ok {
		if err := c.mkdirAll(path.Dir(target), 0o755, true); err != nil {
			return c.fail(1, "cannot create directory '%s': %s", path.Dir(target), errorText(err))
		}
	}
	for _, from := range names[:len(names)-1] {
		to := target
		if st, err := c.stat(target); err == nil && st.IsDir() {
			to = path.Join(target, path.Base(from))
		}
		if _, err := c.lstat(to); err == nil {
			c.tree().unlink(c.user(), c.dir, to)
		}
		var err error
		if from == "/dev/stdin" {
			var d *description
			if d, err = c.open(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
				_, err = io.Copy(fdWriter{c.p.ctx, d}, c.stdin())
				d.release()
			}
		} else {
			err = c.copy(from, to)
		}
		if err == nil {
			err = finish(to)
		}
		if err != nil {
			return c.fail(1, "cannot create regular file '%s': %s", to, errorText(err))
		}
	}
	return 0
}

func base64Program(c *invocation) int {
	opts, names := c.getopt("diw:", map[string]string{"decode": "d", "wrap": "w"})
	if opts == nil {
		return 1
	}
	return c.files(names, func(_ string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if _, decode := opts["d"]; decode {
			out, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(data)), ""))
			c.Write(out)
			if err != nil {
				return errors.New("invalid input")
			}
			return nil
		}
		text := base64.StdEncoding.EncodeToString(data)
		width := 76
		if w, ok := opts["w"]; ok {
			width, _ = strconv.Atoi(w)
		}
		if width == 0 {
			c.printf("%s", text)
			return nil
		}
		for len(text) > width {
			c.printf("%s\n", text[:width])
			text = text[width:]
		}
		if text != "" {
			c.printf("%s\n", text)
		}
		return nil
	})
}

func sha256sum(c *invocation) int {
	opts, names := c.getopt("cbt", map[string]string{"check": "c", "status": "t"})
	if opts == nil {
		return 1
	}
	sum := func(r io.Reader) (string, error) {
		h := sha256.New()
		_, err := copyBlocks(h, r)
		return hex.EncodeToString(h.Sum(nil)), err
	}
	if _, check := opts["c"]; check {
		failed := 0
		c.files(names, func(_ string, r io.Reader) error {
			lines := bufio.NewScanner(r)
			for lines.Scan() {
				want, name, _ := strings.Cut(lines.Text(), "  ")
				got := ""
				if d, err := c.open(name, os.O_RDONLY, 0); err == nil {
					got, _ = sum(fdReader{c.p.ctx, d})
					d.release()
				}
				if got == want {
					c.printf("%s: OK\n", name)
				} else {
					failed++
					c.printf("%s: FAILED\n", name)
				}
			}
			return nil
		})
		if failed > 0 {
			return c.fail(1, "WARNING: %d computed checksum did NOT match", failed)
		}
		return 0
	}
	return c.files(names, func(name string, r io.Reader) error {
		h, err := sum(r)
		if err == nil {
			c.printf("%s  %s\n", h, name)
		}
		return err
	})
}

func timeout(c *invocation) int {
	opts, rest := c.leadingOptions("s:k:v", map[string]string{"signal": "s", "kill-after": "k", "foreground": "v", "preserve-status": "v", "verbose": "v"})
	if opts == nil {
		return 125
	}
	if len(rest) < 2 {
		return c.fail(125, "missing operand")
	}
	d, ok := parseSeconds(rest[0])
	if !ok {
		return c.fail(125, "invalid time interval '%s'", rest[0])
	}
	if c.node.which(c.user(), c.dir, rest[1], c.lookup) == "" {
		return c.fail(127, "failed to run command '%s': No such file or directory", rest[1])
	}
	sig := sigTERM
	if v, ok := opts["s"]; ok {
		if n, ok := signalNames[strings.TrimPrefix(v, "SIG")]; ok {
			sig = n
		} else if n, err := strconv.Atoi(v); err == nil {
			sig = n
		}
	}
	child, err := c.spawn(rest[1:], func(n *invocation) {
		n.p.mu.Lock()
		n.p.pgid = n.p.pid
		n.p.mu.Unlock()
	})
	if err != nil {
		return 125
	}
	var expired <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-child.done:
		return child.exit
	case <-c.p.ctx.Done():
		for _, p := range c.p.boot.find(-child.pid) {
			p.kill(sigTERM)
		}
		return 128 + sigTERM
	case <-expired:
		for _, p := range c.p.boot.find(-child.pid) {
			p.kill(sig)
		}
		<-child.done
		if sig == sigKILL {
			return 137
		}
		return 124
	}
}

func tee(c *invocation) int {
	opts, names := c.getopt("ai", map[string]string{"append": "a"})
	if opts == nil {
		return 1
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if _, ok := opts["a"]; ok {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	exit := 0
	outs := []io.Writer{c}
	for _, name := range names {
		d, err := c.open(name, flags, 0o666)
		if err != nil {
			exit = c.fail(1, "%s: %s", name, errorText(err))
			continue
		}
		defer d.release()
		outs = append(outs, fdWriter{c.p.ctx, d})
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := c.stdin().Read(buf)
		for i, w := range outs {
			if _, werr := w.Write(buf[:n]); werr != nil && i > 0 && n > 0 {
				exit = c.fail(1, "%s: %s", names[i-1], errorText(werr))
			}
		}
		if err != nil || c.broken != nil {
			return exit
		}
	}
}

func readlink(c *invocation) int {
	opts, names := c.getopt("femnqs", map[string]string{"canonicalize": "f"})
	if opts == nil {
		return 1
	}
	exit := 0
	_, full := opts["f"]
	if c.name() == "realpath" {
		full = true
	}
	for _, name := range names {
		if full {
			virt, err := c.tree().resolve(c.dir, name, true)
			if err != nil {
				exit = 1
				continue
			}
			c.printf("%s\n", virt)
			continue
		}
		st, err := c.lstat(name)
		if err != nil || st.Mode()&fs.ModeSymlink == 0 {
			exit = 1
			continue
		}
		target, _ := os.Readlink(c.tree().host(st.virt))
		c.printf("%s\n", target)
	}
	return exit
}

func which(c *invocation) int {
	exit := 0
	for _, a := range c.argv[1:] {
		if found := c.node.which(c.user(), c.dir, a, c.lookup); found != "" {
			c.printf("%s\n", found)
		} else {
			exit = 1
		}
	}
	return exit
}

func (c *invocation) resize(name string, size int64, grow bool) error {
	d, err := c.open(name, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer d.release()
	fi, err := d.file.Stat()
	if err != nil {
		return bare(err)
	}
	if grow && size <= fi.Size() {
		return nil
	}
	if more := size - fi.Size(); grow && c.tree().room(d.path, more) < more {
		return syscall.ENOSPC
	}
	return d.file.Truncate(size)
}

func truncateProgram(c *invocation) int {
	opts, names := c.getopt("s:c", map[string]string{"size": "s", "no-create": "c"})
	if opts == nil {
		return 1
	}
	size, ok := parseSize(opts["s"])
	if !ok {
		return c.fail(1, "Invalid number: '%s'", opts["s"])
	}
	for _, name := range names {
		if err := c.resize(name, size, false); err != nil {
			return c.fail(1, "cannot open '%s' for writing: %s", name, errorText(err))
		}
	}
	return 0
}

func fallocate(c *invocation) int {
	opts, names := c.getopt("l:", map[string]string{"length": "l"})
	if opts == nil || len(names) != 1 {
		return 1
	}
	size, ok := parseSize(opts["l"])
	if !ok {
		return c.fail(1, "invalid length value specified")
	}
	if err := c.resize(names[0], size, true); err != nil {
		return c.fail(1, "fallocate failed: %s", errorText(err))
	}
	return 0
}

func cmpProgram(c *invocation) int {
	opts, names := c.getopt("s", map[string]string{"quiet": "s", "silent": "s"})
	if opts == nil || len(names) != 2 {
		return 2
	}
	var data [2][]byte
	for i, name := range names {
		var err error
		if name == "-" {
			data[i], err = io.ReadAll(c.stdin())
		} else {
			data[i], err = c.readFile(name)
		}
		if err != nil {
			return c.fail(2, "%s: %s", name, errorText(err))
		}
	}
	if bytes.Equal(data[0], data[1]) {
		return 0
	}
	if _, silent := opts["s"]; !silent {
		c.printf("%s %s differ\n", names[0], names[1])
	}
	return 1
}

// du adds up the sizes of files: -k (the default), -b, -m, -s, -c and -x. What cannot be read is told and left out, as by du(1).
func du(c *invocation) int {
	opts, names := c.getopt("skmbchxa", map[string]string{"summarize": "s", "total": "c", "bytes": "b", "one-file-system": "x"})
	if opts == nil {
		return 1
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	_, one := opts["x"]
	_, summarize := opts["s"]
	unit := int64(1024)
	if _, b := opts["b"]; b {
		unit = 1
	} else if _, m := opts["m"]; m {
		unit = 1 << 20
	}
	exit := 0
	show := func(n int64, name string) { c.printf("%d\t%s\n", (n+unit-1)/unit, name) }
	seen := map[uint64]bool{} // what has several names is counted once, and a folder that was counted is not told again
	var size func(name string, on *fileSystem) int64
	size = func(name string, on *fileSystem) int64 {
		st, err := c.lstat(name)
		if err != nil {
			exit = c.fail(1, "cannot access '%s': %s", name, errorText(err))
			return 0
		}
		inode, links, _ := inodeOf(st.FileInfo, st.virt)
		if !st.IsDir() {
			if links > 1 && seen[inode] {
				return 0
			}
			seen[inode] = true
			return st.Size()
		}
		seen[inode] = true
		total := int64(4096)
		entries, err := c.tree().readdir(c.user(), c.dir, name)
		if err != nil {
			exit = c.fail(1, "cannot read directory '%s': %s", name, errorText(err))
		}
		for _, e := range entries {
			if c.p.ctx.Err() != nil {
				break
			}
			if one && c.tree().system(e.virt) != on {
				continue
			}
			total += size(path.Join(name, e.name), on)
		}
		if !summarize {
			show(total, name)
		}
		return total
	}
	all := int64(0)
	for _, name := range names {
		st, err := c.lstat(name)
		if err != nil {
			exit = c.fail(1, "cannot access '%s': %s", name, errorText(err))
			continue
		}
		if inode, _, _ := inodeOf(st.FileInfo, st.virt); seen[inode] {
			continue
		}
		n := size(name, c.tree().system(st.virt))
		if summarize || !st.IsDir() {
			show(n, name)
		}
		all += n
	}
	if _, total := opts["c"]; total {
		show(all, "total")
	}
	return exit
}

func yes(c *invocation) int {
	text := "y\n"
	if len(c.argv) > 1 {
		text = strings.Join(c.argv[1:], " ") + "\n"
	}
	block := []byte(strings.Repeat(text, 256))
	for c.broken == nil && c.p.ctx.Err() == nil {
		c.Write(block)
	}
	return 0
}

func seq(c *invocation) int {
	n := []int64{1, 1, 0}
	args := c.argv[1:]
	var vals []int64
	for _, a := range args {
		v, err := strconv.ParseInt(a, 10, 64)
		if err != nil {
			return c.fail(1, "invalid floating point argument: '%s'", a)
		}
		vals = append(vals, v)
	}
	switch len(vals) {
	case 1:
		n[2] = vals[0]
	case 2:
		n[0], n[2] = vals[0], vals[1]
	case 3:
		n[0], n[1], n[2] = vals[0], vals[1], vals[2]
	default:
		return c.fail(1, "missing operand")
	}
	for i := n[0]; n[1] != 0 && (n[1] > 0 && i <= n[2] || n[1] < 0 && i >= n[2]); i += n[1] {
		if c.printf("%d\n", i); c.broken != nil || c.p.ctx.Err() != nil {
			break
		}
	}
	return 0
}
