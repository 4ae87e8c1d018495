package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// Runner runs one short command on a node. *Pool is the one over SSH.
type Runner interface {
	// Run runs c on h to its end; see Pool.Run.
	Run(ctx context.Context, h Host, c Command) (Result, error)
}

const (
	defaultMaxOutput = 1 << 20
	tailSize         = 4 << 10
	// maxExec keeps the request below the 128 KiB that Linux allows one argument of execve (MAX_ARG_STRLEN): sshd hands the
	// whole command line to the login shell as one.
	maxExec = 120 << 10
)

// waits are the times a Pool waits for what may never come.
type waits struct {
	// drain is how long output may be silent after the exit code before a process left in the background, which still holds
	// the output open, is no longer waited for.
	drain time.Duration
	// stdin is how long a read of Command.Stdin is waited for when the command has ended.
	stdin time.Duration
	// kill is how long a session that was given up keeps its place among the node's sessions while the node ends it.
	kill time.Duration
	// refused is how long a server that opens no further session is asked again.
	refused time.Duration
}

func defaultWaits() waits {
	return waits{drain: 5 * time.Second, stdin: 100 * time.Millisecond, kill: 30 * time.Second, refused: 30 * time.Second}
}

// Run runs c on h and waits for its end. It opens the node's connection when there is none, and waits for a free place when
// Host.MaxSessions commands already run there.
//
// Argv is quoted by Quote and run by the login shell. A Script is run as `exec sh -c SCRIPT sh Args...`, the script quoted inside
// the exec request, so that any POSIX login shell will do, standard input belongs to Stdin alone, and the script's $1, $2... are Args. It
// may be some 100 KiB long. (A script fed over standard input would share it with Stdin, and a shell that reads ahead would swallow a part of
// it.) The script's text can be seen in the node's process list: secrets go over Stdin. There is no PTY. Without Stdin the
// command's standard input is at its end.
//
// Nothing is ever sent twice: only when a connection opened by an earlier Run turns out to be dead before the command was sent
// does Run dial once more.
//
// A command that has ended but left a process in the background holding its output is waited for until the output is silent
// for 5 s. Stdin is read until its end or the command's; a Read blocked at that moment is left behind after
// 100 ms. Stdout and Stderr are not written to after Run has returned.
//
// The exit code is in Result.ExitCode, 128+n when signal n ended the command. The Result is filled as far as known also when
// an error is returned. Errors:
//   - *Error of KindExit: the exit code was not 0 and AnyExit is false
//   - *Error of KindTransport: no connection, or it was lost. When the message says "unknown" the command was sent, and may or may not
//     have run to its end
//   - *Error of KindAuth, KindHostKey: the node was not logged into, nothing ran
//   - an error without a kind for which errors.Is finds context.Canceled or context.DeadlineExceeded: ctx ended. The command
//     was sent KILL, which does not reach processes of another user (sudo)
//   - an error without a kind: c cannot be sent (nothing ran), or Stdin or Stdout/Stderr failed (the command was stopped)
func (p *Pool) Run(ctx context.Context, h Host, c Command) (Result, error) {
	began := time.Now()
	line, label, err := c.line()
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	if ctx.Err() != nil {
		return Result{}, contextError(h.Name, ctx, "before "+label+" was sent")
	}
	if !p.begin() {
		return Result{}, transportError(h.Name, errPoolClosed, "ssh: %s", errPoolClosed)
	}
	defer p.wg.Done()
	n, err := p.enter(ctx, h)
	if err != nil {
		return Result{}, err
	}
	s, err := p.openSession(ctx, h, n)
	if err != nil {
		n.leave()
		return Result{Duration: time.Since(began)}, err
	}
	res, err := s.run(ctx, h, c, line, label)
	res.Duration = time.Since(began)
	return res, err
}

// line returns the exec request and a label for messages.
func (c Command) line() (line, label string, err error) {
	switch {
	case len(c.Argv) > 0 && c.Script != "":
		return "", "", errors.New("a command has either argv or a script, not both")
	case c.Script != "":
		argv := append([]string{"sh", "-c", c.Script, "sh"}, c.Args...)
		if err := CheckArgv(argv); err != nil {
			return "", "", err
		}
		line, label = "exec "+Quote(argv), "script"
	default:
		if err := CheckArgv(c.Argv); err != nil {
			return "", "", err
		}
		line = Quote(c.Argv)
		label = oneLine(line, 80)
	}
	if len(line) > maxExec {
		return "", "", fmt.Errorf("the command is %d bytes long, at most %d can be sent: hand data over standard input", len(line), maxExec)
	}
	return line, label, nil
}

// session is an open channel for one command, not yet sent.
type session struct {
	pool     *Pool
	node     *node
	conn     *connection
	channel  ssh.Channel
	requests <-chan *ssh.Request
}

// openSession opens a session channel on n's connection. The caller leaves n when it fails.
func (p *Pool) openSession(ctx context.Context, h Host, n *node) (*session, error) {
	redialled := false
	refusedSince := time.Time{}
	pause := 20 * time.Millisecond
	for {
		conn, cached, err := p.connect(ctx, h, n)
		if err != nil {
			return nil, err
		}
		channel, requests, err := conn.openChannel(ctx)
		if err == nil && ctx.Err() != nil {
			_ = channel.Close()
			p.wg.Go(func() { ssh.DiscardRequests(requests) })
		}
		if err == nil && ctx.Err() == nil {
			return &session{pool: p, node: n, conn: conn, channel: channel, requests: requests}, nil
		}
		p.release(conn)
		if ctx.Err() != nil {
			return nil, contextError(h.Name, ctx, "while opening a session")
		}
		var refused *ssh.OpenChannelError
		switch {
		case errors.As(err, &refused):
			// sshd says "open failed" beyond its MaxSessions; a session we have just closed may still count.
			now := time.Now()
			if refusedSince.IsZero() {
				refusedSince = now
			} else if now.Sub(refusedSince) > p.waits.refused {
				return nil, transportError(h.Name, err, "ssh: the server opens no further session (%s): lower max_sessions or raise MaxSessions in its sshd_config",
					oneLine(refused.Message, 80))
			}
			if err := sleep(ctx, pause); err != nil {
				return nil, contextError(h.Name, ctx, "while waiting for a free session")
			}
			pause = min(2*pause, time.Second)
		case cached && !redialled && p.ctx.Err() == nil:
			redialled = true
			p.drop(conn, err)
		default:
			p.drop(conn, err)
			return nil, transportError(h.Name, err, "ssh: connection to %s lost before the command was sent: %s", h.addr(), conn.why())
		}
	}
}

// run sends the command over the open session and owns the node's place and the connection from here on.
func (s *session) run(ctx context.Context, h Host, c Command, line, label string) (Result, error) {
	limit := c.MaxOutput
	if limit <= 0 {
		limit = defaultMaxOutput
	}
	tail, complaint := &tailBuffer{max: tailSize}, &tailBuffer{max: 1 << 10}
	var keptOut, keptErr *keptOutput
	stdout, stderr := &gate{}, &gate{}
	if c.Stdout != nil {
		stdout.w = c.Stdout
	} else {
		keptOut = &keptOutput{limit: limit}
		stdout.w = io.MultiWriter(keptOut, tail)
	}
	if c.Stderr != nil {
		stderr.w = io.MultiWriter(tail, complaint, c.Stderr)
	} else {
		keptErr = &keptOutput{limit: limit}
		stderr.w = io.MultiWriter(keptErr, tail, complaint)
	}
	result := func(code int) Result {
		// Nothing is written past this point: what a goroutine still reads is dropped, and the caller has its writers back.
		stdout.close()
		stderr.close()
		res := Result{ExitCode: code}
		if keptOut != nil {
			res.Stdout, res.Truncated = keptOut.b, keptOut.truncated
		}
		if keptErr != nil {
			res.Stderr, res.Truncated = keptErr.b, res.Truncated || keptErr.truncated
		}
		return res
	}

	// Everything that may block on the network is in goroutines that end with the channel or the connection. `over` is closed when the
	// channel is.
	sent := make(chan error, 1)
	s.pool.wg.Go(func() {
		ok, err := s.channel.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{line}))
		if err == nil && !ok {
			err = errRefused
		}
		sent <- err
	})
	exit := make(chan int, 1)
	over := make(chan struct{})
	s.pool.wg.Go(func() {
		defer close(over)
		watchExit(s.requests, exit)
	})

	var copies sync.WaitGroup
	failed := newFailure()
	copies.Go(func() { failed.set(copyOutput(stdout, s.channel), "writing the command's standard output") })
	copies.Go(func() { failed.set(copyOutput(stderr, s.channel.Stderr()), "writing the command's standard error") })
	copied := make(chan struct{})
	s.pool.wg.Go(func() {
		copies.Wait()
		close(copied)
	})

	abandon := func(kill bool) {
		// KILL, close, and keep the place until the node has ended the session, but not for ever.
		s.pool.wg.Go(func() {
			s.pool.wg.Go(func() {
				if kill {
					_, _ = s.channel.SendRequest("signal", false, ssh.Marshal(struct{ Signal string }{string(ssh.SIGKILL)}))
				}
				_ = s.channel.Close()
			})
			timer := time.NewTimer(s.pool.waits.kill)
			defer timer.Stop()
			select {
			case <-over:
			case <-s.conn.done:
			case <-timer.C:
			}
			s.pool.release(s.conn)
			s.node.leave()
		})
	}
	// broken is the end of a command whose exit code never came.
	broken := func() (Result, error) {
		s.conn.settle()
		timer := time.NewTimer(time.Second)
		select {
		case <-copied:
		case <-timer.C:
		}
		timer.Stop()
		abandon(false)
		if s.conn.alive() {
			return result(-1), transportError(h.Name, nil,
				"ssh: %s closed the session of %s without an exit code: whether it ran to its end is unknown", h.addr(), label)
		}
		return result(-1), transportError(h.Name, s.conn.cause(),
			"ssh: connection to %s lost while running %s (%s): whether it ran to its end is unknown", h.addr(), label, s.conn.why())
	}
	stopped := func() (Result, error) {
		abandon(true)
		return result(-1), contextError(h.Name, ctx, "while running "+label)
	}

	select {
	case err := <-sent:
		if errors.Is(err, errRefused) {
			abandon(false)
			return result(-1), authError(h.Name, err, "ssh: the server refuses to run commands for user %s: check its sshd_config and authorized_keys", Escape(h.User))
		}
		if err != nil {
			return broken()
		}
	case <-ctx.Done():
		return stopped()
	case <-s.conn.done:
		return broken()
	}

	stdinDone := make(chan struct{})
	go func() { // Close does not wait for it: it may be blocked in the caller's reader
		defer close(stdinDone)
		if c.Stdin != nil {
			err := copyInput(s.channel, c.Stdin)
			if err != nil {
				// No end of file is sent: half an input must not look like the whole.
				failed.set(err, "reading the command's standard input")
				return
			}
		}
		_ = s.channel.CloseWrite()
	}()

	// The command runs. Its end is the closed channel, or an exit code followed by silence.
	code, exited := -1, false
	var quiet *time.Ticker
	var tick <-chan time.Time
	defer func() {
		if quiet != nil {
			quiet.Stop()
		}
	}()
	var lastSeen, silentSince = int64(-1), time.Time{}
wait:
	for {
		select {
		case code = <-exit:
			exited, exit = true, nil
			quiet = time.NewTicker(s.pool.waits.drain / 10)
			tick = quiet.C
		case <-tick:
			seen := stdout.seen.Load() + stderr.seen.Load()
			if seen != lastSeen || stdout.writing.Load() || stderr.writing.Load() {
				lastSeen, silentSince = seen, time.Now()
			} else if time.Since(silentSince) >= s.pool.waits.drain {
				break wait
			}
		case <-over:
			break wait
		case <-failed.c:
			abandon(true)
			return result(-1), fmt.Errorf("%s: %s: %w", Escape(h.Name), failed.what, failed.err)
		case <-s.conn.done:
			// What came before the connection broke, the exit code among it, may not be read yet.
			timer := time.NewTimer(time.Second)
			select {
			case <-over:
				timer.Stop()
			case <-timer.C:
			}
			break wait
		case <-ctx.Done():
			return stopped()
		}
	}
	if !exited {
		select {
		case code = <-exit:
			exited = true
		default:
		}
	}
	if !exited {
		return broken()
	}
	select {
	case <-over:
		// All output is here; it only has to be copied.
		select {
		case <-copied:
		case <-failed.c:
		case <-ctx.Done():
			return stopped()
		}
	default:
	}
	select {
	case <-failed.c:
		abandon(false)
		return result(code), fmt.Errorf("%s: %s: %w", Escape(h.Name), failed.what, failed.err)
	default:
	}
	abandon(false)
	if c.Stdin != nil {
		timer := time.NewTimer(s.pool.waits.stdin)
		select {
		case <-stdinDone:
		case <-timer.C:
		}
		timer.Stop()
	}
	res := result(code)
	if code != 0 && !c.AnyExit {
		shown := Tail(tail.bytes(), tailSize)
		e := &Error{Kind: KindExit, Node: h.Name, ExitCode: code, Tail: shown, Message: fmt.Sprintf("%s: exit %d", label, code)}
		// The two streams come in no sure order, and it is standard error that says why.
		last := lastLine(Tail(complaint.bytes(), 1<<10))
		if last == "" {
			last = lastLine(shown)
		}
		if last != "" {
			e.Message += ": " + oneLine(last, 200)
		}
		return res, e
	}
	return res, nil
}

var errRefused = errors.New("exec request refused")

// contextError tells that ctx ended; it has no kind, and errors.Is finds ctx's error.
func contextError(node string, ctx context.Context, doing string) error {
	return fmt.Errorf("%s: stopped %s: %w", Escape(node), doing, ctx.Err())
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchExit reads the channel's requests to their end and hands over the exit code.
func watchExit(requests <-chan *ssh.Request, exit chan<- int) {
	told := false
	for r := range requests {
		code, ok := 0, false
		switch r.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				code, ok = int(m.Status), true
			}
		case "exit-signal":
			var m struct {
				Signal     string
				CoreDumped bool
				Error      string
				Lang       string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				code, ok = 128+signalNumber(m.Signal), true
			}
		}
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if ok && !told {
			told = true
			exit <- code
		}
	}
}

// signalNumber of a signal's name in RFC 4254 §6.10, as Linux numbers them; 0 for another.
func signalNumber(name string) int {
	switch ssh.Signal(name) {
	case ssh.SIGHUP:
		return 1
	case ssh.SIGINT:
		return 2
	case ssh.SIGQUIT:
		return 3
	case ssh.SIGILL:
		return 4
	case ssh.SIGABRT:
		return 6
	case ssh.SIGFPE:
		return 8
	case ssh.SIGKILL:
		return 9
	case ssh.SIGUSR1:
		return 10
	case ssh.SIGSEGV:
		return 11
	case ssh.SIGUSR2:
		return 12
	case ssh.SIGPIPE:
		return 13
	case ssh.SIGALRM:
		return 14
	case ssh.SIGTERM:
		return 15
	}
	return 0
}

// failure is the first failure of a caller's reader or writer.
type failure struct {
	once sync.Once
	c    chan struct{}
	err  error
	what string
}

func newFailure() *failure { return &failure{c: make(chan struct{})} }

func (f *failure) set(err error, what string) {
	if err == nil {
		return
	}
	f.once.Do(func() {
		f.err, f.what = err, what
		close(f.c)
	})
}

// gate passes output on until it is closed, and knows whether something is being passed on.
type gate struct {
	seen    atomic.Int64
	writing atomic.Bool
	mu      sync.Mutex
	closed  bool
	w       io.Writer
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return len(b), nil
	}
	g.writing.Store(true)
	defer g.writing.Store(false)
	g.seen.Add(int64(len(b)))
	return g.w.Write(b)
}

// close waits for a write that is under way.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

// copyOutput copies until the end of from and returns the error of a write only: a read fails with the connection, which is
// told elsewhere.
func copyOutput(to io.Writer, from io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// copyInput copies until the end of from and returns the error of a read only: a write fails when the command no longer reads.
func copyInput(to io.Writer, from io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// keptOutput keeps the first limit bytes.
type keptOutput struct {
	limit     int
	b         []byte
	truncated bool
}

func (k *keptOutput) Write(b []byte) (int, error) {
	n := min(len(b), k.limit-len(k.b))
	k.b = append(k.b, b[:n]...)
	k.truncated = k.truncated || n < len(b)
	return len(b), nil
}

// tailBuffer keeps the last max bytes of both streams as they came.
type tailBuffer struct {
	mu  sync.Mutex
	max int
	b   []byte
}

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if len(t.b) > 2*t.max {
		t.b = append(t.b[:0], t.b[len(t.b)-t.max:]...)
	}
	return len(b), nil
}

func (t *tailBuffer) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.b)
}

func lastLine(s string) string {
	s = strings.TrimRight(s, "\n\t ")
	return s[strings.LastIndexByte(s, '\n')+1:]
}
