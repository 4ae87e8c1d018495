package simcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	freezeProgram = "/usr/local/sbin/katoflow-freeze"
	freezeVersion = "1"
	freezeStates  = "/run/katoflow-freeze"
	freezeFails   = 9
)

// freezable are the types of file systems that can be frozen.
var freezable = []string{"ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs"}

// memoryMounts are the mount points of a node that are no disks, with their types.
var memoryMounts = map[string]string{"/run": "tmpfs", "/dev": "devtmpfs", "/dev/shm": "tmpfs", "/proc": "proc", "/sys": "sysfs"}

// freezer is what a node's kernel knows of frozen file systems, and the last run of katoflow-freeze.
type freezer struct {
	mu     sync.Mutex
	frozen []*fileSystem // in the order in which they were frozen
	thawed chan struct{} // closed when none is frozen any more; nil while none is
	run    *freezeRun    // nil before the first
}

// Frozen are the mount points that are frozen now, in the order in which they were frozen. While there are any, every command that is new on the node waits, as on one that logs in and runs sudo
// on a frozen /var; commands that run already go on.
func (n *Node) Frozen() []string {
	n.freezer.mu.Lock()
	defer n.freezer.mu.Unlock()
	var out []string
	for _, s := range n.freezer.frozen {
		out = append(out, s.mount)
	}
	return out
}

// freezeSystem freezes a file system for a process. Nobody can kill it on its way, only the node's end does.
func (n *Node) freezeSystem(p *process, s *fileSystem) error {
	n.mu.Lock()
	slow, refused := n.faults.slowFreeze[s.mount], n.faults.refuseFreeze[s.mount]
	n.mu.Unlock()
	switch {
	case refused != "":
		return errors.New(refused)
	case !slices.Contains(freezable, s.kind):
		return syscall.EOPNOTSUPP
	case slow > 0:
		timer := time.NewTimer(slow)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.boot.ctx.Done():
		}
	}
	f := &n.freezer
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case p.boot.ctx.Err() != nil:
		return errNodeDown
	case slices.Contains(f.frozen, s):
		return syscall.EBUSY
	case f.thawed == nil:
		f.thawed = make(chan struct{})
	}
	f.frozen = append(f.frozen, s)
	n.cluster.event(n.name, "frozen", "%s", s.mount)
	return nil
}

// thawSystem thaws a file system; EINVAL says that it is not frozen.
func (n *Node) thawSystem(s *fileSystem) error {
	f := &n.freezer
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.frozen, s)
	if i < 0 {
		return syscall.EINVAL
	}
	n.cluster.event(n.name, "thawed", "%s", s.mount) // before what waits for it can go on
	f.frozen = slices.Delete(f.frozen, i, i+1)
	if len(f.frozen) == 0 {
		close(f.thawed)
		f.thawed = nil
	}
	return nil
}

// thawAll thaws what is frozen, the last one first.
func (n *Node) thawAll() {
	n.freezer.mu.Lock()
	all := slices.Clone(n.freezer.frozen)
	n.freezer.mu.Unlock()
	for _, s := range slices.Backward(all) {
		_ = n.thawSystem(s) // somebody else may have thawed it
	}
}

// forgetFrozen is the end of a boot, whose processes are all gone.
func (n *Node) forgetFrozen() {
	f := &n.freezer
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen, f.run = nil, nil
	if f.thawed != nil {
		close(f.thawed)
		f.thawed = nil
	}
}

// thawCommand is a command that can be run while file systems are frozen.
var thawCommand = regexp.MustCompile(`^(exec )?(sudo (-n )?)?(/usr/sbin/|/sbin/)?fsfreeze (-u|--unfreeze) \S+$`)

// thaws says whether a command line does nothing but thaw.
func thaws(line string) bool {
	for command := range strings.SplitSeq(strings.NewReplacer("&&", "\n", ";", "\n").Replace(strings.TrimSpace(line)), "\n") {
		if !thawCommand.MatchString(strings.TrimSpace(command)) {
			return false
		}
	}
	return true
}

// untilThawed lets a command line that is new on the node wait while anything is frozen, or until its process is ended.
func (n *Node) untilThawed(p *process, line string) {
	if thaws(line) {
		return
	}
	for {
		n.freezer.mu.Lock()
		thawed := n.freezer.thawed
		n.freezer.mu.Unlock()
		if thawed == nil {
			return
		}
		select {
		case <-thawed:
		case <-p.ctx.Done():
			return
		}
	}
}

// fsfreezeProgram is fsfreeze(8): `fsfreeze -f|-u MOUNT`.
func fsfreezeProgram(c *invocation) int {
	opts, names := c.getopt("fu", map[string]string{"freeze": "f", "unfreeze": "u"})
	if opts == nil {
		return 1
	}
	_, freeze := opts["f"]
	_, thaw := opts["u"]
	switch {
	case freeze && thaw:
		return c.fail(1, "mutually exclusive arguments: --freeze --unfreeze")
	case !freeze && !thaw:
		return c.fail(1, "neither --freeze or --unfreeze specified")
	case len(names) == 0:
		return c.fail(1, "no filename specified")
	case len(names) > 1:
		return c.fail(1, "unexpected number of arguments")
	}
	st, err := c.stat(names[0])
	switch {
	case err != nil:
		return c.fail(1, "cannot open %s: %s", names[0], errorText(err))
	case !st.IsDir():
		return c.fail(1, "%s: is not a directory", names[0])
	}
	what := "unfreeze"
	if freeze {
		what = "freeze"
	}
	s := c.tree().system(st.virt)
	switch {
	case c.user() != superuser:
		err = syscall.EPERM
	case freeze && s == nil:
		err = syscall.EOPNOTSUPP
	case freeze:
		err = c.node.freezeSystem(c.p, s)
	case s == nil:
		err = syscall.EINVAL
	default:
		err = c.node.thawSystem(s)
	}
	if err != nil {
		return c.fail(1, "%s: %s failed: %s", names[0], what, errorText(err))
	}
	return 0
}

// place is where the file system of a path is mounted, and its type.
func (t *tree) place(name string) (mount, kind string) {
	for at, of := range memoryMounts {
		if below(name, at) && len(at) > len(mount) {
			mount, kind = at, of
		}
	}
	for _, s := range t.systems {
		if below(name, s.mount) && len(s.mount) > len(mount) {
			mount, kind = s.mount, s.kind
		}
	}
	return mount, kind
}

// mountName is what can be the name of a mount point for katoflow-freeze.
var mountName = regexp.MustCompile(`^/$|^/[A-Za-z0-9/._+@:=-]*[A-Za-z0-9._+@:=-]$`)

// unfit has a line for everything that forbids to freeze the mounts.
func (t *tree) unfit(mounts []string) (out []string) {
	if mount, kind := t.place(freezeStates); kind != "tmpfs" {
		out = append(out, fmt.Sprintf("memory %s %s", mount, kind))
	}
	seen := map[string]bool{}
	for _, m := range mounts {
		if !mountName.MatchString(m) {
			out = append(out, "name")
			continue
		}
		mount, kind := t.place(m)
		if mount != m {
			out = append(out, "mount "+m)
			continue
		}
		if !slices.Contains(freezable, kind) {
			out = append(out, fmt.Sprintf("type %s %s", m, kind))
		}
		if seen[m] {
			out = append(out, "twice "+m)
		}
		seen[m] = true
		needed := []string{freezeStates, "/dev", "/proc"}
		if m == "/" {
			needed = append(needed, "/var")
		}
		for _, name := range needed {
			if on, _ := t.place(name); on == m {
				out = append(out, fmt.Sprintf("needed %s %s", m, name))
			}
		}
	}
	return out
}

// freezeDouble does what the program katoflow-freeze does (deploy/node): `katoflow-freeze version | check MOUNT... | freeze ID SECONDS MOUNT...`.
func freezeDouble(c *invocation) int {
	mode := ""
	if len(c.argv) > 1 {
		mode = c.argv[1]
	}
	switch mode {
	case "version", "check":
		c.printf("@katoflow-freeze version %s\n", freezeVersion)
		if mode == "check" {
			for _, line := range c.tree().unfit(c.argv[2:]) {
				c.printf("@katoflow-freeze problem %s\n", line)
			}
			c.printf("@katoflow-freeze end\n")
		}
		return 0
	case "freeze":
		say, hush := c.buffered()
		r := &freezeRun{node: c.node, main: c.p, began: time.Now(), say: func(words ...string) {
			say("@katoflow-freeze " + strings.Join(words, " ") + "\n")
		}}
		exit := r.freeze(c)
		if !r.held || r.ended(c.p) == nil || r.abandoned.Load() {
			hush()
			return exit
		}
		// Its children outlive it, and tell what the guard does.
		c.node.cluster.wg.Go(func() {
			defer hush()
			select {
			case <-r.guard.done:
			case <-c.p.boot.ctx.Done():
			}
			if c.p.boot.ctx.Err() == nil && !r.abandoned.Load() {
				r.tell()
			}
		})
		return exit
	}
	c.printf("@katoflow-freeze fail usage %s\n", mode)
	return freezeFails
}

// buffered is standard output through a pipe, as sshd's is: a network that is cut holds nobody who writes a little.
func (c *invocation) buffered() (write func(string), finish func()) {
	r, w := newPipe()
	out, ctx := c.fds[1].retain(), c.p.boot.ctx
	c.node.cluster.wg.Go(func() {
		_, _ = io.Copy(fdWriter{ctx, out}, fdReader{ctx, r}) // who does not read does not hear
		r.release()
		out.release()
	})
	return func(text string) { _, _ = w.write(ctx, []byte(text)) }, sync.OnceFunc(w.release)
}

// freezeRun is one freeze of katoflow-freeze. Its processes are the main one, the guard, and one for each mount while the kernel freezes it. Each that is to be seen alive holds a lock.
type freezeRun struct {
	node    *Node
	id, dir string
	seconds int
	mounts  []string
	began   time.Time
	say     func(words ...string)
	lock    *description // of the node: inherited by all of them
	held    bool         // everything was frozen

	main, guard *process
	// abandoned: main process and guard are killed, so that neither does anything any more.
	abandoned atomic.Bool
}

func (r *freezeRun) limit() time.Duration { return time.Duration(r.seconds) * time.Second }

// lastFreeze is the last run of katoflow-freeze that had a guard; nil when this boot has had none.
func (n *Node) lastFreeze() *freezeRun {
	n.freezer.mu.Lock()
	defer n.freezer.mu.Unlock()
	return n.freezer.run
}

// over says that nothing looks after the freeze any more.
func (r *freezeRun) over() bool {
	for _, p := range []*process{r.main, r.guard} {
		select {
		case <-p.done:
		default:
			return r.abandoned.Load()
		}
	}
	return true
}

// ended is not nil when a process of the freeze is killed. On a node that goes down it is, also before: what its connections tell it then is not heard any more.
func (r *freezeRun) ended(p *process) error {
	switch {
	case r.abandoned.Load():
		return context.Canceled
	case !r.node.Running():
		return errNodeDown
	}
	return p.ctx.Err()
}

// guarded: the main process and the guard live.
func (r *freezeRun) guarded() bool { return r.ended(r.main) == nil && r.ended(r.guard) == nil }

func (r *freezeRun) stamp() string { return strconv.FormatInt(r.node.now().UnixNano(), 10) }

func (r *freezeRun) fail(words ...string) int {
	r.say(append([]string{"fail"}, words...)...)
	return freezeFails
}

// freeze is the main process.
func (r *freezeRun) freeze(c *invocation) int {
	if problem := r.read(c.argv[2:]); problem != nil {
		return r.fail(problem...)
	}
	if problems := c.tree().unfit(r.mounts); len(problems) > 0 {
		for _, line := range problems {
			r.say("problem", line)
		}
		return r.fail("unfit")
	}
	const killed = 128 + sigKILL
	failed := r.make(c.user())
	if failed != nil {
		return r.fail(failed...)
	}
	if r.lock = r.node.lockFile(c.p, freezeStates+"/lock", 2*time.Second); r.lock == nil {
		if r.ended(c.p) != nil {
			return killed
		}
		_ = os.RemoveAll(c.tree().host(r.dir)) // it is in memory only
		c.tree().disown(r.dir)
		holder, _ := r.node.ReadFile(freezeStates + "/holder") // it may not have said yet who it is
		if holder = bytes.TrimSpace(holder); len(holder) == 0 {
			holder = []byte("-")
		}
		return r.fail("busy", string(holder))
	}
	defer r.lock.release()
	held := r.node.lockFile(c.p, r.dir+"/held", 5*time.Second)
	if held == nil {
		return 1
	}
	defer held.release()
	if err := c.tree().put(freezeStates+"/holder", r.id+"\n", 0o644); err != nil {
		return r.fail("state")
	}
	why := r.startGuard(c.p)
	half := time.Duration((r.seconds+1)/2) * time.Second
	for _, m := range r.mounts {
		if why != nil || r.ended(c.p) != nil {
			break
		}
		why = r.freezeMount(c.p, m, half-time.Since(r.began))
	}
	switch {
	case r.ended(c.p) != nil:
		return killed
	case why != nil:
		r.note("failing")
		r.thaw(c.p)
		r.finish(c.p, "failed")
		r.tell()
		return r.fail(why...)
	}
	r.note("all", "-", r.stamp())
	r.held = true
	r.tell()
	by := r.wait(c)
	if r.ended(c.p) != nil {
		return killed
	}
	r.thaw(c.p)
	r.finish(c.p, by)
	if r.ended(c.p) != nil {
		return killed
	}
	r.tell()
	return 0
}

// read takes the arguments ID SECONDS MOUNT..., and returns what the program says when they are wrong.
func (r *freezeRun) read(args []string) (problem []string) {
	args = append(args, make([]string, max(0, 2-len(args)))...)
	id, seconds := args[0], args[1]
	if id == "" || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return []string{"usage", "id"}
	}
	if seconds == "" || seconds[0] == '0' || strings.Trim(seconds, "0123456789") != "" || len(seconds) > 3 {
		return []string{"usage", "seconds"}
	}
	r.seconds, _ = strconv.Atoi(seconds) // up to three digits
	if len(id) > 180 || r.seconds < 5 || r.seconds > 300 || len(args) < 3 || len(args) > 34 {
		return []string{"usage"}
	}
	r.id, r.dir, r.mounts = id, freezeStates+"/"+id, args[2:]
	return nil
}

// make makes the folder of the freeze.
func (r *freezeRun) make(user string) (problem []string) {
	t := r.node.tree
	if err := t.mkdir(user, "/", freezeStates, 0o755); err != nil && !errors.Is(err, syscall.EEXIST) {
		return []string{"state"}
	}
	if err := t.mkdir(user, "/", r.dir, 0o755); err != nil {
		return []string{"used", r.id}
	}
	for name, mode := range map[string]fs.FileMode{"state": 0o644, "held": 0o644, "guard": 0o644, "busy": 0o600} {
		d, err := t.open(user, "/", path.Join(r.dir, name), os.O_WRONLY|os.O_CREATE, mode)
		if err != nil {
			return []string{"state"}
		}
		d.release()
	}
	return nil
}

// lockFile opens a file as root and takes its lock within so long; below 0 = however long it takes. nil when it cannot.
func (n *Node) lockFile(p *process, name string, wait time.Duration) *description {
	d, err := n.tree.open(superuser, "/", name, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil
	}
	key, ok := d.key()
	if !ok || !n.locks.acquire(p, d, key, true, wait) {
		d.release()
		return nil
	}
	return d
}

// start begins another process of the freeze.
func (r *freezeRun) start(mode string, mounts []string, do func(*process) int) (*process, error) {
	argv := append([]string{"sh", freezeProgram, mode, r.id, strconv.Itoa(r.seconds)}, mounts...)
	p, err := r.main.boot.newProcess(r.node, r.main, superuser, argv)
	if err != nil {
		return nil, err
	}
	if mode == "guard" {
		p.mu.Lock()
		p.pgid, p.sid = p.pid, p.pid
		p.mu.Unlock()
	}
	lock := r.lock.retain()
	go func() {
		exit := do(p)
		lock.release()
		p.finish(exit)
	}()
	return p, nil
}

// startGuard starts the process that thaws when the main one is killed, and waits until it looks after it.
func (r *freezeRun) startGuard(p *process) (why []string) {
	ready := make(chan struct{})
	guard, err := r.start("guard", r.mounts, func(p *process) int { return r.watch(p, ready) })
	if err != nil {
		return []string{"guard"}
	}
	r.guard = guard
	r.node.freezer.mu.Lock()
	r.node.freezer.run = r
	r.node.freezer.mu.Unlock()
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case <-ready:
		return nil
	case <-guard.done:
	case <-timer.C:
	case <-p.ctx.Done():
	}
	return []string{"guard"}
}

// watch is the guard.
func (r *freezeRun) watch(p *process, ready chan<- struct{}) int {
	mine := r.node.lockFile(p, r.dir+"/guard", 5*time.Second)
	if mine == nil {
		return 1
	}
	defer mine.release()
	r.note("guarded")
	close(ready)
	by := "killed"
	held := r.node.lockFile(p, r.dir+"/held", r.limit()+5*time.Second)
	if held == nil {
		by = "deadline"
	}
	held.release()
	if r.noted("failing") {
		by = "failed"
	}
	r.thaw(p)
	// What the kernel is freezing yet can only be thawed when it is through.
	r.node.lockFile(p, r.dir+"/busy", time.Hour).release()
	r.thaw(p)
	r.finish(p, by)
	return 0
}

// freezeMount freezes one mount, as far as the time that is left allows; why says why it is not frozen.
func (r *freezeRun) freezeMount(p *process, m string, left time.Duration) (why []string) {
	if left <= 0 || !r.note("tried", m) {
		return []string{"slow", m}
	}
	said := ""
	one, err := r.start("one", []string{m}, func(p *process) int { return r.freezeOne(p, m, &said) })
	if err != nil {
		return []string{"killed", m}
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-one.done:
	case <-timer.C:
		return []string{"slow", m}
	case <-p.ctx.Done():
		return []string{"killed", m}
	}
	switch one.exit {
	case 0:
		r.note("frozen", m, r.stamp())
		return nil
	case 7:
		return []string{"refused", m, said}
	}
	return []string{"killed", m}
}

// freezeOne is the process that freezes one mount. Code 7: the kernel has refused; after any other failure it may be frozen.
func (r *freezeRun) freezeOne(p *process, m string, said *string) int {
	busy := r.node.lockFile(p, r.dir+"/busy", -1)
	if busy == nil {
		return 66
	}
	defer busy.release()
	if !r.guarded() {
		return 8
	}
	s := r.node.tree.system(m)
	if err := r.node.freezeSystem(p, s); err != nil {
		r.note("failed", m)
		*said = fmt.Sprintf("fsfreeze: %s: freeze failed: %s", m, errorText(err))
		return 7
	}
	if r.ended(p) == nil && !r.guarded() {
		_ = r.node.thawSystem(s) // the guard may have
		return 8
	}
	return 0
}

// wait returns what ends a freeze that holds: "thaw", "gone", "deadline" or "killed".
func (r *freezeRun) wait(c *invocation) string {
	ctx, cancel := context.WithTimeout(c.p.ctx, max(time.Second, r.limit()-time.Since(r.began)))
	defer cancel()
	heard := make(chan string, 1)
	in := c.fds[0].retain()
	go func() {
		defer in.release()
		line, from, b := "", fdReader{ctx, in}, make([]byte, 1)
		for len(line) < 64<<10 {
			k, err := from.Read(b)
			if k == 0 && err == nil {
				continue
			}
			if k == 0 || b[0] == '\n' {
				break
			}
			line += string(b[:k])
		}
		switch {
		case line == "thaw":
			heard <- "thaw"
		case ctx.Err() == nil:
			heard <- "gone"
		}
	}()
	select {
	case by := <-heard:
		return by
	case <-r.guard.done:
		return "killed"
	case <-ctx.Done():
		return "deadline"
	}
}

// note adds a line to the state.
func (r *freezeRun) note(words ...string) bool {
	d, err := r.node.tree.open(superuser, "/", r.dir+"/state", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return false
	}
	defer d.release()
	_, err = d.write(r.main.boot.ctx, []byte(strings.Join(words, " ")+"\n"))
	return err == nil
}

// state are the lines that were noted; false when they cannot be read.
func (r *freezeRun) state() (lines []string, ok bool) {
	text, err := os.ReadFile(r.node.tree.host(r.dir + "/state"))
	if err != nil {
		return nil, false
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), true
}

// noted: the state has a line that begins so.
func (r *freezeRun) noted(word string) bool {
	lines, _ := r.state()
	return slices.ContainsFunc(lines, func(line string) bool { return line == word || strings.HasPrefix(line, word+" ") })
}

// tell says what was noted.
func (r *freezeRun) tell() {
	lines, _ := r.state()
	for _, line := range lines {
		r.say(line)
	}
}

// pending are the mounts that may be frozen, the last one first; all when the state cannot be read.
func (r *freezeRun) pending() []string {
	lines, ok := r.state()
	var out []string
	if !ok {
		out = slices.Clone(r.mounts)
	}
	for _, line := range lines {
		word, mount, _ := strings.Cut(line, " ")
		mount, _, _ = strings.Cut(mount, " ")
		switch word {
		case "tried":
			out = append(out, mount)
		case "failed", "thawed":
			out = slices.DeleteFunc(out, func(m string) bool { return m == mount })
		}
	}
	slices.Reverse(out)
	return out
}

// freezes says whether the kernel is freezing a mount.
func (r *freezeRun) freezes(p *process) bool {
	d, err := r.node.tree.open(superuser, "/", r.dir+"/busy", os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer d.release()
	key, ok := d.key()
	return ok && !r.node.locks.acquire(p, d, key, true, 0)
}

// thaw thaws what may be frozen, but for what is being frozen yet. A process that is killed thaws nothing.
func (r *freezeRun) thaw(p *process) {
	late := r.freezes(p)
	for _, m := range r.pending() {
		if r.ended(p) != nil {
			return
		}
		if late {
			late = false
			continue
		}
		at := r.stamp()
		if err := r.node.thawSystem(r.node.tree.system(m)); err == nil || errors.Is(err, syscall.EINVAL) {
			r.note("thawed", m, at)
		}
	}
}

// finish notes what has ended the freeze, once nothing is frozen any more. The first word about it is the last.
func (r *freezeRun) finish(p *process, by string) {
	if r.ended(p) == nil && len(r.pending()) == 0 && !r.noted("end") {
		r.note("end", by, r.stamp())
	}
}
