package activities

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/katoflow/katoflow/internal/remote"
)

// rangeServer sends or takes ranges of a file on a node over a few sessions that stay: a session a range would cost the start of a login shell each time.
type rangeServer struct {
	runner remote.Runner
	host   remote.Host
	path   string
	script string

	mu   sync.Mutex
	idle []*rangeSession
	shut bool
}

// rangeSession is one script that waits for orders.
type rangeSession struct {
	orders *io.PipeWriter
	bytes  *io.PipeReader
	cancel context.CancelFunc
	// ended is closed when the script has ended; err is how, then.
	ended chan struct{}
	err   error
}

// errShort says that the script ended before a range did, which is what a file that is too short looks like.
var errShort = errors.New("the file ended")

var serveScript = plainScript("range_serve")

// open orders a range. The reader ends early when the file is shorter; it must be closed.
func (r *rangeServer) open(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	s := r.take()
	b := &rangeBody{server: r, session: s, left: length, stop: context.AfterFunc(ctx, s.cancel)}
	// An order is a line, and is read as soon as the session is there, or never.
	if _, err := fmt.Fprintf(s.orders, "%d %d\n", offset, length); err != nil {
		b.stop()
		s.end()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case s.err != nil:
			return nil, s.err
		}
		return nil, err
	}
	return b, nil
}

// take returns a session that waits, or a new one.
func (r *rangeServer) take() *rangeSession {
	r.mu.Lock()
	for len(r.idle) > 0 {
		s := r.idle[len(r.idle)-1]
		r.idle = r.idle[:len(r.idle)-1]
		select {
		case <-s.ended:
			continue // the connection was lost meanwhile
		default:
			r.mu.Unlock()
			return s
		}
	}
	r.mu.Unlock()
	// The session outlives the range that it was opened for.
	ctx, cancel := context.WithCancel(context.Background())
	ordersOut, ordersIn := io.Pipe()
	bytesOut, bytesIn := io.Pipe()
	s := &rangeSession{orders: ordersIn, bytes: bytesOut, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		result, err := r.runner.Run(ctx, r.host, remote.Command{Script: r.script, Args: []string{r.path}, Stdin: ordersOut, Stdout: bytesIn, AnyExit: true})
		switch {
		case err == nil && result.ExitCode > 128:
			err = &remote.Error{Kind: remote.KindTransport, Node: r.host.Name, Message: fmt.Sprintf("the session was ended (exit %d)", result.ExitCode)}
		case err == nil && result.ExitCode > 5:
			err = &remote.Error{Kind: remote.KindExit, Node: r.host.Name, ExitCode: result.ExitCode, Message: fmt.Sprintf("ranges of %s cannot be moved: exit %d: %s", remote.Escape(r.path),
				result.ExitCode, oneLine(remote.Tail(result.Stderr, maxTail), 200))}
		case err == nil:
			err = errShort
		}
		s.err = err
		_ = ordersOut.CloseWithError(err)
		_ = bytesIn.CloseWithError(err)
	}()
	return s
}

func (r *rangeServer) give(s *rangeSession) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.shut {
		r.idle = append(r.idle, s)
		return
	}
	s.end()
}

// close ends all sessions that wait, and each other when its range is closed.
func (r *rangeServer) close() {
	r.mu.Lock()
	idle := r.idle
	r.idle, r.shut = nil, true
	r.mu.Unlock()
	for _, s := range idle {
		s.end()
	}
}

func (s *rangeSession) end() {
	_ = s.orders.Close()
	_ = s.bytes.Close()
	s.cancel()
	<-s.ended
}

// rangeBody is one range.
type rangeBody struct {
	server  *rangeServer
	session *rangeSession
	left    int64
	stop    func() bool
	failed  bool
}

func (b *rangeBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.session.bytes.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil {
		b.failed = true
		if errors.Is(err, errShort) {
			err = io.EOF
		}
		err = sourceError(err)
	}
	return n, err
}

func (b *rangeBody) Close() error {
	if b.session == nil {
		return nil
	}
	stopped := b.stop()
	s := b.session
	b.session = nil
	if stopped && !b.failed && b.left == 0 {
		b.server.give(s)
	} else {
		s.end()
	}
	return nil
}
