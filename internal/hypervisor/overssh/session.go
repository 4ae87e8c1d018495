// Package overssh sends commands to a host over one SSH session that is open already, any number of them side by side: nothing has to be looked up, dialled or started when they
// are sent. sshd allows ten sessions a connection; a round of snapshots has more VMs than that on one host.
package overssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/katoflow/katoflow/internal/remote"
)

// script reads commands, one a line after its number and as printf's %b understands it, runs each in the background, and tells how it ended with the last line that it printed. When its input ends it waits for
// those that run: a lost connection ends none of them.
const script = `printf 'open\n'
while read -r number command; do
	(
		said=$(sh -c "$(printf '%b' "$command")" </dev/null 2>&1)
		code=$?
		printf 'done %s %s %s\n' "$number" "$code" "$(printf '%s' "$said" | tail -n 1 | cut -c 1-500)"
	) &
done
wait
`

// Session is an open session on one host. It is safe for concurrent use.
type Session struct {
	host  string
	input *io.PipeWriter
	end   context.CancelFunc

	mu      sync.Mutex
	next    int
	waiting map[int]chan ended
	line    []byte

	open chan struct{} // closed when the host is listening
	over chan struct{} // closed when the session has ended, err then is why
	once sync.Once
	err  error
}

// oneLine writes a command of several lines in one.
var oneLine = strings.NewReplacer(`\`, `\\`, "\n", `\n`)

type ended struct {
	code int
	said string
}

// Open opens a session and waits until the host listens.
func Open(ctx context.Context, runner remote.Runner, host remote.Host) (*Session, error) {
	input, writer := io.Pipe()
	// The session outlives the call that opens it.
	lives, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &Session{host: host.Name, input: writer, end: end, waiting: map[int]chan ended{}, open: make(chan struct{}), over: make(chan struct{})}
	go func() {
		_, err := runner.Run(lives, host, remote.Command{Script: script, Stdin: input, Stdout: s})
		if err == nil {
			err = fmt.Errorf("%s: the session has ended", host.Name)
		}
		_ = input.CloseWithError(err)
		s.err = err
		close(s.over)
	}()
	select {
	case <-s.open:
		return s, nil
	case <-s.over:
		end()
		return nil, s.err
	case <-ctx.Done():
		_ = s.Close()
		return nil, ctx.Err()
	}
}

// Write takes what the host tells; it is for the session alone.
func (s *Session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = append(s.line, p...)
	for {
		i := bytes.IndexByte(s.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		s.told(string(s.line[:i]))
		s.line = s.line[i+1:]
	}
}

func (s *Session) told(line string) {
	if line == "open" {
		s.once.Do(func() { close(s.open) })
		return
	}
	words := strings.SplitN(line, " ", 4)
	if len(words) < 3 || words[0] != "done" {
		return // a login file prints something
	}
	number, err := strconv.Atoi(words[1])
	code, err2 := strconv.Atoi(words[2])
	if err != nil || err2 != nil {
		return
	}
	out := ended{code: code}
	if len(words) == 4 {
		out.said = words[3]
	}
	if c, ok := s.waiting[number]; ok {
		delete(s.waiting, number)
		c <- out
	}
}

// ErrUnknown is wrapped by the error of a command that was sent and whose end is not known.
var ErrUnknown = errors.New("whether it was carried out is unknown")

// Run sends a command and waits for its end: its exit code and the last line it printed. An error that wraps ErrUnknown says that it was sent, or may have been, and nobody knows how it
// ended; any other that it was not.
func (s *Session) Run(ctx context.Context, argv []string) (code int, said string, err error) {
	if err := remote.CheckArgv(argv); err != nil {
		return -1, "", err
	}
	// read -r keeps backslashes; it only takes away white space at the ends, which a quoted command does not have.
	line := oneLine.Replace(remote.Quote(argv))
	done := make(chan ended, 1)
	s.mu.Lock()
	s.next++
	number := s.next
	s.waiting[number] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, number)
		s.mu.Unlock()
	}()
	if _, err := fmt.Fprintf(s.input, "%d %s\n", number, line); err != nil {
		return -1, "", fmt.Errorf("%s: %w (%w)", s.host, err, ErrUnknown)
	}
	select {
	case e := <-done:
		return e.code, e.said, nil
	case <-s.over:
		return -1, "", fmt.Errorf("%w (%w)", s.err, ErrUnknown)
	case <-ctx.Done():
		return -1, "", fmt.Errorf("%s: %w (%w)", s.host, ctx.Err(), ErrUnknown)
	}
}

// Alive reports whether commands can be sent.
func (s *Session) Alive() bool {
	select {
	case <-s.over:
		return false
	default:
		return true
	}
}

// Close ends the session. What runs on the host goes on.
func (s *Session) Close() error {
	_ = s.input.Close()
	s.end()
	<-s.over
	return nil
}

// Sessions keeps one session a host. The zero value is ready.
type Sessions struct {
	mu   sync.Mutex
	open map[string]*opening
}

type opening struct {
	done    chan struct{}
	session *Session
	err     error
}

// To returns the session to a host, opened now if there is none that lives.
func (s *Sessions) To(ctx context.Context, runner remote.Runner, host remote.Host) (*Session, error) {
	s.mu.Lock()
	if s.open == nil {
		s.open = map[string]*opening{}
	}
	o := s.open[host.Name]
	if o != nil {
		select {
		case <-o.done:
			if o.err != nil || !o.session.Alive() {
				o = nil
			}
		default:
		}
	}
	first := o == nil
	if first {
		o = &opening{done: make(chan struct{})}
		s.open[host.Name] = o
	}
	s.mu.Unlock()
	if first {
		o.session, o.err = Open(ctx, runner, host)
		close(o.done)
		return o.session, o.err
	}
	select {
	case <-o.done:
		return o.session, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends all of them.
func (s *Sessions) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		<-o.done
		if o.session != nil {
			_ = o.session.Close()
		}
	}
	s.open = nil
	return nil
}
