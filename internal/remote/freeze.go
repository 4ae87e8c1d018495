package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	freezeProgram = "/usr/local/sbin/katoflow-freeze"
	freezeVersion = "1"
	freezeStates  = "/run/katoflow-freeze"
	freezeMark    = "@katoflow-freeze "
	// MinFreeze and MaxFreeze bound FreezeSpec.Deadline.
	MinFreeze = 5 * time.Second
	MaxFreeze = 300 * time.Second
	// MaxFreezeMounts bounds FreezeSpec.Mounts.
	MaxFreezeMounts = 32
	// maxFreezeID is of the encoded id.
	maxFreezeID = 180
	maxMount    = 1000
	// mountLetters are what the program takes in a mount point.
	mountLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._+@:=-"
)

// Freezer freezes file systems of nodes by the program katoflow-freeze, which an administrator has installed on them (deploy/node). Whatever happens to the
// connection, the worker or the processes on the node, the file systems are thawed: at once when the connection ends, else at the deadline.
type Freezer struct {
	Runner Runner

	command []string // nil = by sudo
	states  string   // "" = freezeStates
}

// FreezeSpec says what is to be frozen, and for how long at most.
type FreezeSpec struct {
	// ID names this freeze on the node until a week after it or the node's next boot. It is used once: every try has another.
	ID string
	// Mounts are mount points, frozen in this order and thawed in reverse order.
	Mounts []string
	// Deadline from the beginning until the node thaws by itself, MinFreeze to MaxFreeze, rounded up to seconds. Freezing may take half of it.
	Deadline time.Duration
}

// CheckMount returns nil when a mount point of that name can be frozen by name: an absolute path without ".", ".." or a slash too many, of letters, digits and ._+@:=- alone, at most
// 1000 bytes. The error says what is wrong with it. Whether the node has it, and may freeze it, only CheckFreeze tells.
func CheckMount(mount string) error {
	switch {
	case mount == "" || mount[0] != '/':
		return fmt.Errorf("%s is no absolute path", strconv.QuoteToASCII(oneLine(mount, 100)))
	case len(mount) > maxMount:
		return fmt.Errorf("a mount point of %d bytes: at most %d", len(mount), maxMount)
	case strings.ContainsFunc(mount, func(r rune) bool { return !strings.ContainsRune(mountLetters, r) }):
		return fmt.Errorf("%s has other characters than letters, digits and /._+@:=-", strconv.QuoteToASCII(mount))
	case path.Clean(mount) != mount:
		return fmt.Errorf("%s is to be written %s", mount, path.Clean(mount))
	}
	return nil
}

// FreezeEndBy says what has ended a freeze.
type FreezeEndBy string

// What ends a freeze.
const (
	FreezeThawed   FreezeEndBy = "thaw"     // Thaw was called
	FreezeGone     FreezeEndBy = "gone"     // the connection, the worker or the context ended
	FreezeDeadline FreezeEndBy = "deadline" // nobody said anything until the deadline
	FreezeKilled   FreezeEndBy = "killed"   // a process on the node that looked after it was killed
	FreezeFailed   FreezeEndBy = "failed"   // not everything could be frozen in time
	FreezeLost     FreezeEndBy = "lost"     // somebody else on the node thawed a mount before, nobody knows when
)

// FreezeEnd is how a freeze ended. Both times are of the node's clock, and so that all mounts were frozen from the first to the second; both are zero when they never all were, and ThawedAt
// is with FreezeLost.
type FreezeEnd struct {
	FrozenAt, ThawedAt time.Time
	By                 FreezeEndBy
}

// FreezeStatus is what the node's memory has of a freeze.
type FreezeStatus struct {
	// Found is false when the freeze never began, or the node was booted since, which ends every freeze.
	Found bool
	// Alive: a process looks after it yet. When it neither is nor Ended, both were killed at once, and Mounts may be frozen: thaw them by `fsfreeze -u`.
	Alive bool
	Ended bool
	FreezeEnd
	// Mounts that may be frozen.
	Mounts []string
}

// Freeze is a freeze that holds. It ends by Thaw, at its deadline, with its context, or when nothing refers to it any more.
type Freeze struct {
	// FrozenAt is when all mounts were frozen, by the node's clock.
	FrozenAt time.Time
	session  *freezeSession
}

// Freeze freezes the mounts and returns when all are frozen. They are until Thaw, the deadline or the end of ctx, whichever comes first.
//
// Errors, after all of which nothing stays frozen (a file system whose freezing takes too long is thawed when the kernel is through with it):
//   - KindBusy: another freeze of the node is at work (Holder)
//   - KindJobConflict: the id was used before; FreezeState tells how that freeze ended
//   - KindMissingTool: the node lacks katoflow-freeze or a tool
//   - KindExit: a mount cannot be frozen, or not in time, or sudo refuses
//   - KindTransport, KindAuth, KindHostKey: see Pool.Run. What was frozen is thawed when the node notices, at the latest at the deadline
//   - an error without a kind: the spec is wrong, or ctx ended
func (f *Freezer) Freeze(ctx context.Context, h Host, spec FreezeSpec) (*Freeze, error) {
	id := EncodeID(spec.ID)
	switch {
	case spec.ID == "" || len(id) > maxFreezeID:
		return nil, fmt.Errorf("%s: freeze: an id of %d bytes: it needs 1 to %d, encoded", Escape(h.Name), len(spec.ID), maxFreezeID)
	case len(spec.Mounts) == 0 || len(spec.Mounts) > MaxFreezeMounts:
		return nil, fmt.Errorf("%s: freeze: %d mount points: it needs 1 to %d", Escape(h.Name), len(spec.Mounts), MaxFreezeMounts)
	case spec.Deadline < MinFreeze || spec.Deadline > MaxFreeze:
		return nil, fmt.Errorf("%s: freeze: a deadline of %s: it must be %s to %s", Escape(h.Name), spec.Deadline, MinFreeze, MaxFreeze)
	}
	for _, mount := range spec.Mounts {
		if err := CheckMount(mount); err != nil {
			return nil, fmt.Errorf("%s: freeze: %w", Escape(h.Name), err)
		}
	}
	argv := freezeCommand(f.sudo(), id, spec.Deadline, spec.Mounts)
	// The command outlives ctx by the moment in which the node says how it ended.
	running, cancel := context.WithTimeout(context.WithoutCancel(ctx), spec.Deadline+30*time.Second)
	in, out := io.Pipe()
	s := &freezeSession{host: h, in: in, out: out, cancel: cancel, frozen: make(chan struct{}), gone: make(chan struct{}), over: make(chan struct{})}
	s.record.heard = s.heard
	release := context.AfterFunc(ctx, s.letGo)
	go func() {
		s.result, s.err = f.Runner.Run(running, h, Command{Argv: argv, Stdin: in, Stdout: &s.record, AnyExit: true})
		release()
		cancel()
		_ = in.CloseWithError(io.ErrClosedPipe)
		close(s.over)
		s.leave()
	}()
	select {
	case <-s.frozen:
	case <-s.gone:
		s.letGo()
		select { // what it says after the end
		case <-s.over:
		case <-ctx.Done():
		}
	case <-ctx.Done():
		s.letGo()
		return nil, contextError(h.Name, ctx, "while freezing "+oneLine(strings.Join(spec.Mounts, " "), 200))
	}
	at := s.record.snapshot().FrozenAt
	if at.IsZero() || ctx.Err() != nil {
		s.letGo()
		if ctx.Err() != nil {
			return nil, contextError(h.Name, ctx, "while freezing "+oneLine(strings.Join(spec.Mounts, " "), 200))
		}
		return nil, s.failure()
	}
	held := &Freeze{FrozenAt: at, session: s}
	runtime.AddCleanup(held, func(s *freezeSession) { s.letGo() }, s)
	return held, nil
}

// FreezeCommand is what Freeze runs on a node, with that id.
func FreezeCommand(id string, deadline time.Duration, mounts []string) []string {
	return freezeCommand((*Freezer)(nil).sudo(), id, deadline, mounts)
}

func freezeCommand(program []string, id string, deadline time.Duration, mounts []string) []string {
	return append(append(program, "freeze", id, strconv.FormatInt(int64((deadline+time.Second-1)/time.Second), 10)), mounts...)
}

func (f *Freezer) sudo() []string {
	if f != nil && f.command != nil {
		return append([]string(nil), f.command...)
	}
	return []string{"sudo", "-n", freezeProgram}
}

// Gone is closed when the mounts are not frozen any more, or nobody here can say so because the connection is lost.
func (f *Freeze) Gone() <-chan struct{} { return f.session.gone }

// Thaw thaws the mounts and returns how the freeze ended, which may have been before. It can be called again. An error of KindTransport says that the connection was
// lost before the node told its end: the node thaws by itself, and FreezeState tells when it did. When ctx ends first, the freeze is let go as well.
func (f *Freeze) Thaw(ctx context.Context) (FreezeEnd, error) {
	defer runtime.KeepAlive(f)
	s := f.session
	s.thaw.Do(func() {
		go func() { _, _ = io.WriteString(s.out, "thaw\n") }() // a write that nobody reads ends with the command
	})
	select {
	case <-s.gone:
	case <-ctx.Done():
		s.letGo()
		return FreezeEnd{}, contextError(s.host.Name, ctx, "while thawing")
	}
	state := s.record.snapshot()
	if state.Ended {
		s.letGo()
		return state.FreezeEnd, nil
	}
	return FreezeEnd{}, s.failure()
}

// freezeSession is the command that holds a freeze.
type freezeSession struct {
	host   Host
	in     *io.PipeReader
	out    *io.PipeWriter
	cancel context.CancelFunc
	record freezeRecord
	thaw   sync.Once

	once struct{ frozen, gone, let sync.Once }
	// frozen and gone are closed when the record says so, over when the command has ended.
	frozen, gone, over chan struct{}
	result             Result // once over is closed
	err                error
}

func (s *freezeSession) heard(status FreezeStatus) {
	switch {
	case status.Ended:
		s.leave()
	case !status.FrozenAt.IsZero():
		s.once.frozen.Do(func() { close(s.frozen) })
	}
}

// leave says that the freeze does not hold any more, and lets the command end.
func (s *freezeSession) leave() {
	s.once.gone.Do(func() { close(s.gone) })
	s.letGo()
}

// letGo ends the command's standard input, at which the node thaws; a command that does not end then is given up, at once when it freezes yet.
func (s *freezeSession) letGo() {
	s.once.let.Do(func() {
		_ = s.out.Close()
		if state := s.record.snapshot(); state.FrozenAt.IsZero() && !state.Ended {
			s.cancel()
			return
		}
		go func() {
			timer := time.NewTimer(15 * time.Second)
			defer timer.Stop()
			select {
			case <-s.over:
			case <-timer.C:
				s.cancel()
			}
		}()
	})
}

// failure is why the command has ended, or gave up, without freezing or without telling its end.
func (s *freezeSession) failure() error {
	s.record.mu.Lock()
	said, problems := s.record.failed, s.record.problems
	s.record.mu.Unlock()
	select {
	case <-s.over:
	default:
		return fmt.Errorf("%s: the freeze was given up", Escape(s.host.Name))
	}
	if said == nil && s.err != nil {
		var e *Error
		if errors.As(s.err, &e) && e.Kind == KindTransport {
			return transportError(s.host.Name, e, "%s; file systems that are frozen thaw by themselves", e.Message)
		}
		return s.err
	}
	e := &Error{Kind: KindExit, Node: s.host.Name, ExitCode: s.result.ExitCode, Tail: Tail(s.result.Stderr, tailSize)}
	arg := func(i int) string {
		if i < len(said) {
			return oneLine(said[i], 100)
		}
		return "-"
	}
	switch arg(0) {
	case "busy":
		e.Kind, e.Holder = KindBusy, arg(1)
		if id, err := DecodeID(e.Holder); err == nil {
			e.Holder = id
		}
		e.Message = fmt.Sprintf("cannot freeze: another freeze is at work on the node, %s: wait for its end", Escape(e.Holder))
	case "used":
		e.Kind, e.Message = KindJobConflict, "cannot freeze: the id was used for a freeze before: every try needs its own"
	case "unfit":
		var all []string
		for _, p := range problems {
			if p[0] == "tool" {
				e.Kind = KindMissingTool
			}
			all = append(all, freezeProblem(p))
		}
		e.Message = "cannot freeze: " + strings.Join(all, "; ")
	case "slow":
		e.Message = fmt.Sprintf("cannot freeze: %s takes too long, it is thawed as soon as it is frozen, all others are: see what writes to it, or give a longer deadline", arg(1))
	case "slow-sync":
		e.Message = "cannot freeze: writing the file systems' caches to disk takes too long, nothing was frozen: see what writes, or give a longer deadline"
	case "refused":
		e.Message = fmt.Sprintf("cannot freeze %s, everything is thawed again: %s", arg(1), oneLine(strings.Join(said[min(2, len(said)):], " "), 200))
	case "killed":
		e.Message = "cannot freeze: a process of katoflow-freeze on the node was killed, everything is thawed again"
	case "stuck":
		e.Message = fmt.Sprintf("cannot thaw %s: run `fsfreeze -u` there as root", oneLine(strings.Join(said[1:], " "), 200))
	case "guard":
		e.Message = "cannot freeze: the process that would thaw in an emergency does not start: see the node's load"
	case "state":
		e.Kind, e.Message = KindDiskFull, "cannot freeze: nothing can be written to "+freezeStates+": free memory of /run, and let nobody remove files there"
	case "usage":
		e.Message = "cannot freeze: katoflow-freeze does not know what it was asked, it may be of another version: install deploy/node/katoflow-freeze again"
	default:
		e.Message = "cannot freeze: katoflow-freeze ended without a word"
		if p := sudoProblem(s.host, s.result); p != "" {
			e.Message = "cannot freeze: " + p
			if strings.Contains(p, "not installed") {
				e.Kind = KindMissingTool
			}
		} else if last := lastLine(string(s.result.Stderr)); last != "" {
			e.Message += ": " + oneLine(last, 200)
		}
	}
	return e
}

const installFreeze = "install deploy/node/katoflow-freeze as " + freezeProgram + ", owner root, mode 0755"

// sudoProblem is what sudo's complaint means; "" when there is none.
func sudoProblem(h Host, result Result) string {
	for line := range strings.Lines(string(result.Stderr)) {
		if !strings.HasPrefix(line, "sudo: ") && !strings.Contains(line, "not allowed to") {
			continue
		}
		if strings.Contains(line, "command not found") {
			return "katoflow-freeze is not installed: " + installFreeze
		}
		return fmt.Sprintf("sudo does not let %s run katoflow-freeze without a password (%s): install deploy/sudoers/katoflow-freeze there", Escape(h.User), oneLine(line, 120))
	}
	return ""
}

// freezeProblem is what the program has found, with what to do.
func freezeProblem(words []string) string {
	arg := func(i int) string {
		if i < len(words) {
			return oneLine(words[i], 200)
		}
		return "-"
	}
	switch arg(0) {
	case "missing":
		return "katoflow-freeze is not installed: " + installFreeze
	case "tool":
		return fmt.Sprintf("the node lacks %s: install it", arg(1))
	case "memory":
		return fmt.Sprintf("/run is not in memory but on %s (%s): without a tmpfs there nothing can be frozen", arg(1), arg(2))
	case "name":
		return "a mount point is no absolute path of letters, digits and ._+@:=-: name it otherwise or leave it out"
	case "mount":
		return fmt.Sprintf("%s is no mount point: name the place where its file system is mounted", arg(1))
	case "type":
		return fmt.Sprintf("%s is of type %s, which cannot be frozen: leave it out", arg(1), arg(2))
	case "twice":
		return fmt.Sprintf("%s is the same file system as another mount point of the list: leave one out", arg(1))
	case "needed":
		return fmt.Sprintf("%s cannot be frozen, %s is on it and not on a file system of its own: leave it out", arg(1), arg(2))
	}
	return oneLine(strings.Join(words, " "), 200)
}

// CheckFreeze returns what forbids a freeze of the mounts on h, each with what to do; none when it would begin. Nothing is changed. Errors: those of Pool.Run but KindExit.
func (f *Freezer) CheckFreeze(ctx context.Context, h Host, mounts []string) ([]string, error) {
	command := f.sudo()
	var problems, named []string
	for _, mount := range mounts {
		if err := CheckMount(mount); err != nil {
			problems = append(problems, err.Error()+": name it otherwise or leave it out")
			continue
		}
		named = append(named, mount)
	}
	var record freezeRecord
	script, err := scriptFiles.ReadFile("scripts/freeze_check.sh")
	if err != nil {
		panic(err) // a name in this package is wrong
	}
	result, err := f.Runner.Run(ctx, h, Command{Script: string(script), Args: append(append([]string{command[len(command)-1]}, append(command, "check")...), named...), Stdout: &record, AnyExit: true})
	if err != nil {
		return nil, err
	}
	for _, p := range record.problems {
		problems = append(problems, freezeProblem(p))
	}
	switch {
	case len(record.problems) == 0 && record.version == "":
		said := sudoProblem(h, result)
		if said == "" {
			said = fmt.Sprintf("katoflow-freeze does not answer (exit %d: %s): %s", result.ExitCode, oneLine(lastLine(string(result.Stderr)), 120), installFreeze)
		}
		problems = append(problems, said)
	case record.version != "" && record.version != freezeVersion:
		problems = []string{fmt.Sprintf("katoflow-freeze is of version %s and not %s: %s", oneLine(record.version, 20), freezeVersion, installFreeze)}
	}
	return problems, nil
}

// FreezeState reads what the node has in memory of the freeze of that id: how it ended, when the connection did not live to hear it. It needs no sudo.
func (f *Freezer) FreezeState(ctx context.Context, h Host, id string) (FreezeStatus, error) {
	states := f.states
	if states == "" {
		states = freezeStates
	}
	script, err := scriptFiles.ReadFile("scripts/freeze_state.sh")
	if err != nil {
		panic(err) // a name in this package is wrong
	}
	var record freezeRecord
	if _, err := f.Runner.Run(ctx, h, Command{Script: string(script), Args: []string{states + "/" + EncodeID(id)}, Stdout: &record}); err != nil {
		return FreezeStatus{}, err
	}
	return record.snapshot(), nil
}

// freezeRecord reads what katoflow-freeze says, the same lines on its standard output and in its state. Lines may come twice: the first of a kind counts.
type freezeRecord struct {
	heard func(FreezeStatus) // after every line; may be nil

	mu       sync.Mutex
	rest     []byte
	status   FreezeStatus
	lost     bool // a mount was not frozen any more when it was to be thawed
	failed   []string
	problems [][]string
	version  string
}

func (r *freezeRecord) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.rest = append(r.rest, b...)
	for {
		line, rest, whole := bytes.Cut(r.rest, []byte("\n"))
		if !whole {
			break
		}
		r.line(string(line))
		r.rest = append([]byte(nil), rest...)
	}
	if len(r.rest) > 64<<10 {
		r.rest = nil
	}
	r.mu.Unlock()
	if r.heard != nil {
		r.heard(r.snapshot())
	}
	return len(b), nil
}

func (r *freezeRecord) snapshot() FreezeStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Mounts = append([]string(nil), s.Mounts...)
	return s
}

func (r *freezeRecord) line(text string) {
	_, text, marked := strings.Cut(text, freezeMark)
	words := strings.Fields(text)
	if !marked || len(words) == 0 {
		return
	}
	s := &r.status
	without := func(mount string) {
		for i, m := range s.Mounts {
			if m == mount {
				s.Mounts = append(s.Mounts[:i:i], s.Mounts[i+1:]...)
				return
			}
		}
	}
	stamp := func() time.Time {
		ns, err := strconv.ParseInt(words[len(words)-1], 10, 64)
		if err != nil || len(words) < 3 {
			return time.Time{}
		}
		return time.Unix(0, ns)
	}
	switch word := words[0]; {
	case word == "state":
		s.Found = true
	case word == "alive":
		s.Alive = true
	case word == "version" && len(words) > 1:
		r.version = words[1]
	case word == "problem" && len(words) > 1:
		r.problems = append(r.problems, words[1:])
	case word == "fail" && r.failed == nil && len(words) > 1:
		r.failed = words[1:]
		s.Ended = s.Ended || words[1] == "slow" // the guard thaws it when the kernel is through
	case word == "tried" && len(words) > 1:
		without(words[1])
		if s.ThawedAt.IsZero() && !r.lost && !s.Ended {
			s.Mounts = append(s.Mounts, words[1])
		}
	case word == "failed" && len(words) > 1:
		without(words[1])
	case word == "all":
		if s.FrozenAt.IsZero() {
			s.FrozenAt = stamp()
		}
	case word == "thawed" && len(words) > 1:
		without(words[1])
		if at := stamp(); !r.lost && !s.FrozenAt.IsZero() && (s.ThawedAt.IsZero() || at.Before(s.ThawedAt)) {
			s.ThawedAt = at
		}
	case word == "lost" && len(words) > 1:
		without(words[1])
		r.lost, s.ThawedAt = true, time.Time{}
	case word == "end" && len(words) > 1 && !s.Ended:
		s.Ended, s.By, s.Mounts = true, FreezeEndBy(oneLine(words[1], 20)), nil
		if r.lost { // which could not be written to the state
			s.By = FreezeLost
		}
	}
}
