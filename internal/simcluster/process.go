package simcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The signals the simulated kernel knows.
const (
	sigHUP  = 1
	sigINT  = 2
	sigKILL = 9
	sigPIPE = 13
	sigTERM = 15
)

var signalNames = map[string]int{"0": 0, "HUP": sigHUP, "INT": sigINT, "QUIT": 3, "KILL": sigKILL, "USR1": 10, "USR2": 12, "PIPE": sigPIPE, "ALRM": 14, "TERM": sigTERM, "CONT": 18, "STOP": 19}

// description is an open file description: shared by every process that inherited it and closed with the last of them. A flock
// belongs to it, as on Linux.
type description struct {
	refs    atomic.Int32
	read    func(context.Context, []byte) (int, error)
	write   func(context.Context, []byte) (int, error)
	onClose func()

	file *os.File // the host's file of a regular file
	path string   // in the node's tree
	lock *flockEntry
}

func newDescription() *description {
	d := &description{}
	d.refs.Store(1)
	return d
}

func (d *description) retain() *description {
	if d != nil {
		d.refs.Add(1)
	}
	return d
}

func (d *description) release() {
	if d == nil || d.refs.Add(-1) != 0 {
		return
	}
	if d.lock != nil {
		d.lock.unlock(d)
	}
	if d.onClose != nil {
		d.onClose()
	}
	if d.file != nil {
		d.file.Close()
	}
}

func discardDescription() *description {
	d := newDescription()
	d.read = func(context.Context, []byte) (int, error) { return 0, io.EOF }
	d.write = func(_ context.Context, b []byte) (int, error) { return len(b), nil }
	return d
}

// stringDescription reads from s; used for here-documents.
func stringDescription(s string) *description {
	d := newDescription()
	var mu sync.Mutex
	d.read = func(_ context.Context, b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if s == "" {
			return 0, io.EOF
		}
		n := copy(b, s)
		s = s[n:]
		return n, nil
	}
	return d
}

// bufferDescription keeps what is written, for command substitutions.
func bufferDescription(w io.Writer) *description {
	d := newDescription()
	var mu sync.Mutex
	d.write = func(_ context.Context, b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return w.Write(b)
	}
	return d
}

const pipeCapacity = 64 << 10

// pipe is a ring of Linux's capacity.
type pipe struct {
	mu             sync.Mutex
	ring           []byte // made by the first write
	at, held       int    // where the content begins, and its length
	rclosed, wdone bool
	// changed is closed when something has changed that somebody waits for; nil while nobody does.
	changed chan struct{}
}

// newPipe returns the two ends of a pipe.
func newPipe() (r, w *description) {
	p := &pipe{}
	r, w = newDescription(), newDescription()
	r.read, w.write = p.read, p.write
	r.onClose = func() { p.update(func() { p.rclosed, p.ring, p.held = true, nil, 0 }) }
	w.onClose = func() { p.update(func() { p.wdone = true }) }
	return r, w
}

func (p *pipe) update(f func()) {
	p.mu.Lock()
	f()
	p.wake()
	p.mu.Unlock()
}

// wake lets those who wait look again; p.mu is held.
func (p *pipe) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// wait gives p.mu up until something changes.
func (p *pipe) wait(ctx context.Context) error {
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	changed := p.changed
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipe) read(ctx context.Context, b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.held == 0 {
		if p.wdone || p.rclosed {
			return 0, io.EOF
		}
		if err := p.wait(ctx); err != nil {
			return 0, err
		}
	}
	n := 0
	for n < len(b) && p.held > 0 {
		k := copy(b[n:], p.ring[p.at:min(pipeCapacity, p.at+p.held)])
		n, p.at, p.held = n+k, (p.at+k)%pipeCapacity, p.held-k
	}
	p.wake()
	return n, nil
}

func (p *pipe) write(ctx context.Context, b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(b) {
		if p.rclosed {
			return n, syscall.EPIPE
		}
		if p.held == pipeCapacity {
			if err := p.wait(ctx); err != nil {
				return n, err
			}
			continue
		}
		if p.ring == nil {
			p.ring = make([]byte, pipeCapacity)
		}
		end := (p.at + p.held) % pipeCapacity
		k := copy(p.ring[end:min(pipeCapacity, end+pipeCapacity-p.held)], b[n:])
		n, p.held = n+k, p.held+k
		p.wake()
	}
	return n, nil
}

// process is one process of a node, from its start to the release of its descriptors.
type process struct {
	pid, ppid int
	node      *Node
	boot      *bootState
	started   time.Time
	// packages are those of the container that the process is in; nil on the node itself. They are set before it does anything.
	packages *packageState

	mu        sync.Mutex
	argv      []string
	user      string
	pgid, sid int
	job       string // the durable job whose wrapper is the process or an ancestor
	signal    int    // that ended it

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	exit   int // valid once done is closed
}

// bootState is the node between two boots: its process table ends with it.
type bootState struct {
	id      string
	started time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	ended  bool
	nextID int
	procs  map[int]*process
}

var errNodeDown = errors.New("the node is going down")

// newProcess adds a process to the boot's table. Its parent may be nil (a login).
func (b *bootState) newProcess(n *Node, parent *process, user string, argv []string) (*process, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return nil, errNodeDown
	}
	b.nextID++
	p := &process{pid: b.nextID, node: n, boot: b, started: time.Now(), argv: argv, user: user, done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(b.ctx)
	if parent != nil {
		parent.mu.Lock()
		p.ppid, p.pgid, p.sid, p.job = parent.pid, parent.pgid, parent.sid, parent.job
		parent.mu.Unlock()
		p.packages = parent.packages
	} else {
		p.ppid, p.pgid, p.sid = 1, p.pid, p.pid
	}
	b.procs[p.pid] = p
	b.wg.Add(1)
	return p, nil
}

// finish takes p out of the table; its descriptors have been released by then.
func (p *process) finish(exit int) {
	p.mu.Lock()
	if p.signal != 0 {
		exit = 128 + p.signal
	}
	p.mu.Unlock()
	p.exit = exit
	p.cancel()
	p.boot.mu.Lock()
	delete(p.boot.procs, p.pid)
	p.boot.mu.Unlock()
	close(p.done)
	p.boot.wg.Done()
}

// kill delivers a signal. All known signals but 0 and CONT end a process: there are no handlers.
func (p *process) kill(sig int) {
	if sig == 0 || sig == 18 {
		return
	}
	p.mu.Lock()
	if p.signal == 0 {
		p.signal = sig
	}
	p.mu.Unlock()
	p.cancel()
}

func (p *process) setArgv(argv []string) {
	p.mu.Lock()
	p.argv = argv
	p.mu.Unlock()
}

func (p *process) snapshot() (argv []string, user string, pgid, sid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.argv, p.user, p.pgid, p.sid
}

// find returns the processes a kill(2) with this pid means: one, or a group when negative.
func (b *bootState) find(pid int) []*process {
	b.mu.Lock()
	defer b.mu.Unlock()
	if pid > 0 {
		if p := b.procs[pid]; p != nil {
			return []*process{p}
		}
		return nil
	}
	var out []*process
	for _, p := range b.procs {
		if _, _, pgid, _ := p.snapshot(); pgid == -pid {
			out = append(out, p)
		}
	}
	return out
}

func (b *bootState) list() []*process {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*process, 0, len(b.procs))
	for _, p := range b.procs {
		out = append(out, p)
	}
	return out
}

// end kills everything and waits until the last process has let go of its files.
func (b *bootState) end() {
	b.mu.Lock()
	b.ended = true
	for _, p := range b.procs {
		p.mu.Lock()
		if p.signal == 0 {
			p.signal = sigKILL
		}
		p.mu.Unlock()
	}
	b.mu.Unlock()
	b.cancel()
	b.wg.Wait()
}

// sleep waits unless the process is ended first; it says whether the time passed.
func (p *process) sleep(d time.Duration) bool {
	if d <= 0 {
		return p.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// fileKey identifies a file whatever its name: two names of one file share their locks, and a renamed file keeps them.
type fileKey struct{ inode uint64 }

// key of the file that is open; false when it is none.
func (d *description) key() (fileKey, bool) {
	if d == nil || d.file == nil {
		return fileKey{}, false
	}
	fi, err := d.file.Stat()
	if err != nil {
		return fileKey{}, false
	}
	inode, _, _ := inodeOf(fi, d.path)
	return fileKey{inode}, true
}

// lockTable holds the flocks of a node.
type lockTable struct {
	mu      sync.Mutex
	entries map[fileKey]*flockEntry
}

type flockEntry struct {
	table   *lockTable
	key     fileKey
	mu      sync.Mutex
	holders map[*description]flockHold
	changed chan struct{}
	users   int // descriptions that hold or wait
}

type flockHold struct {
	exclusive bool
	pid       int
}

func newLockTable() *lockTable { return &lockTable{entries: map[fileKey]*flockEntry{}} }

// acquire takes a lock on d; wait < 0 waits for ever, 0 not at all.
func (t *lockTable) acquire(p *process, d *description, key fileKey, exclusive bool, wait time.Duration) bool {
	t.mu.Lock()
	e := t.entries[key]
	if e == nil {
		e = &flockEntry{table: t, key: key, holders: map[*description]flockHold{}, changed: make(chan struct{})}
		t.entries[key] = e
	}
	e.users++
	t.mu.Unlock()
	var timeout <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		timeout = timer.C
	}
	for {
		e.mu.Lock()
		free := true
		for holder, h := range e.holders {
			if holder != d && (exclusive || h.exclusive) {
				free = false
			}
		}
		if free {
			_, again := e.holders[d]
			e.holders[d] = flockHold{exclusive, p.pid}
			d.lock = e
			e.mu.Unlock()
			if again {
				e.drop()
			}
			return true
		}
		changed := e.changed
		e.mu.Unlock()
		if wait == 0 {
			e.drop()
			return false
		}
		select {
		case <-changed:
		case <-timeout:
			e.drop()
			return false
		case <-p.ctx.Done():
			e.drop()
			return false
		}
	}
}

// drop forgets an entry nobody uses any more.
func (e *flockEntry) drop() {
	e.table.mu.Lock()
	if e.users--; e.users == 0 {
		delete(e.table.entries, e.key)
	}
	e.table.mu.Unlock()
}

func (e *flockEntry) unlock(d *description) {
	e.mu.Lock()
	_, held := e.holders[d]
	delete(e.holders, d)
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()
	if held {
		e.drop()
	}
}

// procLocks renders the FLOCK lines of /proc/locks.
func (t *lockTable) procLocks(next int) string {
	t.mu.Lock()
	entries := make([]*flockEntry, 0, len(t.entries))
	for _, e := range t.entries {
		entries = append(entries, e)
	}
	t.mu.Unlock()
	out := ""
	for _, e := range entries {
		e.mu.Lock()
		for _, h := range e.holders {
			mode := "READ "
			if h.exclusive {
				mode = "WRITE"
			}
			out += fmt.Sprintf("%d: FLOCK  ADVISORY  %s %d 08:01:%d 0 EOF\n", next, mode, h.pid, e.key.inode)
			next++
		}
		e.mu.Unlock()
	}
	return out
}
