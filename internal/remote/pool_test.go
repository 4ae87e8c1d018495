package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPool_HundredRunsAtOnce_OneConnectionAndNoMoreSessionsThanAllowed(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	h.MaxSessions = 5
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := p.Run(testContext(t), h, Command{Argv: []string{"sleep", "0.02"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if n := s.peak.Load(); n > 5 || n < 2 {
		t.Errorf("%d sessions at once", n)
	}
}

func TestPool_HostsOfOneIdentity_ShareAConnectionAndKeepTheirNames(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	a := s.hostEntry()
	b := a
	b.Name = "dea-2"
	mustRun(t, p, a, "true")
	_, err := p.Run(testContext(t), b, Command{Argv: []string{"false"}})
	wantError(t, err, KindExit, "dea-2: false: exit 1")
	c := a
	c.User = "other"
	_, err = p.Run(testContext(t), c, Command{Argv: []string{"true"}})
	if err != nil {
		t.Error(err)
	}
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections, want one for each user", n)
	}
}

func TestPool_CachedConnectionDied_NextRunDialsAgainByItself(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	for range 20 {
		mustRun(t, p, h, "true")
		s.dropAll() // seen by the pool at once, a moment later, or only when it opens the next session
	}
	mustRun(t, p, h, "true")
	if n := s.execs.Load(); n != 21 {
		t.Errorf("%d commands sent", n)
	}
}

func TestPool_Forget_ClosesTheConnection(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	p.Forget(h)
	mustRun(t, p, h, "true")
	p.Forget(h)
	eventually(t, "the connection is closed", 5*time.Second, func() bool { return s.open() == 0 })
	mustRun(t, p, h, "true")
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestPool_IdleConnection_IsClosedAndLeavesNothing(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{IdleTimeout: 100 * time.Millisecond, KeepaliveInterval: 40 * time.Millisecond})
	h := s.hostEntry()
	mustRun(t, p, h, "sleep", "0.5")
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections while a command ran", n)
	}
	eventually(t, "the connection is closed", 5*time.Second, func() bool { return s.open() == 0 })
	eventually(t, "the pool is empty", 5*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.nodes) == 0
	})
	mustRun(t, p, h, "true")
}

func TestPool_Closed_RunningCommandsFailAndNewOnesAreRefused(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(testContext(t), h, Command{Argv: []string{"sleep", "100"}})
		done <- err
	}()
	eventually(t, "the command runs", 5*time.Second, func() bool { return s.sessions.Load() == 1 })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-done, KindTransport, "pool is closed")
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "pool is closed")
	p.Forget(h)
}

func TestPool_ClosedWhileDialling_EndsAtOnce(t *testing.T) {
	s := newSSHServer(t)
	s.silent.Store(true)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	h.ConnectTimeout = time.Minute
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
		done <- err
	}()
	eventually(t, "it dials", 5*time.Second, func() bool { return s.open() == 1 })
	_ = p.Close()
	wantError(t, <-done, KindTransport)
}

func TestPool_ServerTakesFewerSessions_RunsWaitAndAllEndWell(t *testing.T) {
	s := newSSHServer(t, func(s *sshServer) { s.maxSessions = 2 })
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if _, err := p.Run(testContext(t), h, Command{Argv: []string{"sleep", "0.05"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestPool_ServerTakesNoSession_GivesUpWithAdvice(t *testing.T) {
	s := newSSHServer(t, func(s *sshServer) { s.maxSessions = 1 })
	p := newTestPool(t, Options{})
	p.waits.refused = 300 * time.Millisecond
	h := s.hostEntry()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		_, _ = p.Run(ctx, h, Command{Argv: []string{"sleep", "100"}})
		close(done)
	}()
	eventually(t, "the command runs", 5*time.Second, func() bool { return s.sessions.Load() == 1 })
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "opens no further session", "MaxSessions")
	cancel()
	<-done
}

func TestPool_WaitingForAPlace_EndsWithTheContext(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	h.MaxSessions = 1
	long, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		_, _ = p.Run(long, h, Command{Argv: []string{"sleep", "100"}})
		close(done)
	}()
	eventually(t, "the command runs", 5*time.Second, func() bool { return s.sessions.Load() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Run(ctx, h, Command{Argv: []string{"true"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	stop()
	<-done
}

// proxy passes bytes on to a server until it is cut: then it swallows them, as a network without a route does.
type proxy struct {
	listener net.Listener
	cut      atomic.Bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{listener: l}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	pass := func(to io.Writer, from io.Reader) {
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if !x.cut.Load() {
				_, _ = to.Write(buf[:n])
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			wg.Go(func() { pass(in, out); _ = in.Close() })
			wg.Go(func() { pass(out, in); _ = out.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return x
}

// throughProxy returns s's host entry with the proxy's port.
func throughProxy(t *testing.T, s *sshServer) (Host, *proxy) {
	t.Helper()
	h := s.hostEntry()
	x := newProxy(t, s.listener.Addr().String())
	h.Port = x.listener.Addr().(*net.TCPAddr).Port
	if err := AppendKnownHost(h.KnownHosts[0], h, signerOf(t, s.host).PublicKey()); err != nil {
		t.Fatal(err)
	}
	return h, x
}

func TestPool_NetworkCutWithoutReset_IsFoundByKeepalive(t *testing.T) {
	s := newSSHServer(t)
	const interval = 200 * time.Millisecond
	p := newTestPool(t, Options{KeepaliveInterval: interval})
	h, x := throughProxy(t, s)
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(testContext(t), h, Command{Argv: []string{"sleep", "100"}})
		done <- err
	}()
	eventually(t, "the command runs", 5*time.Second, func() bool { return s.sessions.Load() == 1 })
	select {
	case err := <-done:
		t.Fatalf("a silent command was taken for a dead node: %v", err)
	case <-time.After(8 * interval):
	}
	x.cut.Store(true)
	began := time.Now()
	wantError(t, <-done, KindTransport, "no sign of life", "unknown")
	// 3 to 3.5 intervals; at the default interval of 5 s that is 15 to 17.5 s.
	if took := time.Since(began); took < 2*interval || took > 10*interval {
		t.Errorf("found after %s", took)
	}
}

func TestPool_NetworkCutBetweenCommands_NextRunDialsAgain(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{KeepaliveInterval: 200 * time.Millisecond})
	h, x := throughProxy(t, s)
	mustRun(t, p, h, "true")
	x.cut.Store(true)
	time.AfterFunc(500*time.Millisecond, func() { x.cut.Store(false) })
	// Nothing was lost for good: what was swallowed has broken the stream, and the command has not been sent.
	if _, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if n := s.execs.Load(); n != 2 {
		t.Errorf("%d commands were sent", n)
	}
}

func TestDial_NodeThatDoesNotAnswer_IsTransportWithReason(t *testing.T) {
	s := newSSHServer(t)
	h := s.hostEntry()
	closed := h
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	p := newTestPool(t, Options{})
	_, err = p.Run(testContext(t), closed, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "dea-1: ssh: connection refused by 127.0.0.1:", "is sshd running?")
	wantSilence(t, err, true)

	s.silent.Store(true)
	h.ConnectTimeout = 300 * time.Millisecond
	began := time.Now()
	_, err = p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "did not finish the SSH handshake within 300ms")
	wantSilence(t, err, true)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}

	hang := newTestPool(t, Options{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }})
	_, err = hang.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "no answer from 127.0.0.1:", "within 300ms")
	wantSilence(t, err, true)

	short := h
	short.ConnectTimeout, short.DialTimeout = time.Minute, 100*time.Millisecond
	began = time.Now()
	_, err = hang.Run(testContext(t), short, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "no answer from 127.0.0.1:", "within 100ms")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}

	for _, greeting := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-x\r\n", ""} {
		odd := newTestPool(t, Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() { _, _ = io.WriteString(b, greeting); _ = b.Close() }()
			return a, nil
		}})
		_, err = odd.Run(testContext(t), h, Command{Argv: []string{"true"}})
		wantError(t, err, KindTransport, "broke off the handshake")
		wantSilence(t, err, false)
	}
}

func TestDial_CallerGivesUp_OthersStillGetTheConnection(t *testing.T) {
	s := newSSHServer(t)
	release := make(chan struct{})
	p := newTestPool(t, Options{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		<-release
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}})
	h := s.hostEntry()
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := p.Run(ctx, h, Command{Argv: []string{"true"}}); first <- err }()
	go func() { _, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}}); second <- err }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := <-second; err != nil {
		t.Error(err)
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestDial_Bastion_CarriesManyNodesOverOneConnection(t *testing.T) {
	bastion := newSSHServer(t)
	b := bastion.hostEntry()
	b.Name = "gate"
	var nodes []Host
	for range 3 {
		s := newSSHServer(t)
		h := s.hostEntry()
		h.Bastion = &b
		nodes = append(nodes, h)
	}
	p := newTestPool(t, Options{}) // after the servers, so that it is closed before them
	var wg sync.WaitGroup
	for _, h := range nodes {
		for range 3 {
			wg.Go(func() {
				if _, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if n := bastion.accepted.Load(); n != 1 {
		t.Errorf("%d connections to the bastion", n)
	}
	// The bastion goes down and comes back: the nodes' connections died with it.
	bastion.dropAll()
	for _, h := range nodes {
		mustRun(t, p, h, "true")
	}

	dead := nodes[0]
	dead.Port = 1
	_, err := p.Run(testContext(t), dead, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "dea-1: ssh: bastion gate cannot reach 127.0.0.1:1")
}

func TestDial_BastionWithOtherHostKey_IsRefusedBeforeTheNode(t *testing.T) {
	bastion, s := newSSHServer(t), newSSHServer(t)
	b, h := bastion.hostEntry(), s.hostEntry()
	b.Name = "gate"
	if err := ReplaceKnownHost(b.KnownHosts[0], b, signerOf(t, s.host).PublicKey()); err != nil {
		t.Fatal(err)
	}
	h.Bastion = &b
	p := newTestPool(t, Options{})
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindHostKey, "dea-1: bastion gate: ssh: host key of [127.0.0.1]:", "has changed")
	if s.accepted.Load() != 0 {
		t.Error("the node was dialled")
	}
}

func TestDial_SilentNodeBehindBastion_EndsAtTheTimeout(t *testing.T) {
	bastion, s := newSSHServer(t), newSSHServer(t)
	s.silent.Store(true)
	b, h := bastion.hostEntry(), s.hostEntry()
	h.Bastion, h.ConnectTimeout = &b, 300*time.Millisecond
	p := newTestPool(t, Options{})
	began := time.Now()
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "did not finish the SSH handshake")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

func wantSilence(t *testing.T, err error, want bool) {
	t.Helper()
	if got := IsSilence(err); got != want {
		t.Errorf("silence %v: %v", got, err)
	}
}

func TestDial_HandshakeSlowerThanTheDial_IsWaitedFor(t *testing.T) {
	s := newSSHServer(t)
	h := s.hostEntry()
	h.DialTimeout = 200 * time.Millisecond
	p := newTestPool(t, Options{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &slowConn{Conn: conn, after: 400 * time.Millisecond}, err
	}})
	if _, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}}); err != nil {
		t.Error(err)
	}
}

// slowConn hands over nothing for a while.
type slowConn struct {
	net.Conn
	after time.Duration
	once  sync.Once
}

func (s *slowConn) Read(b []byte) (int, error) {
	s.once.Do(func() { <-time.After(s.after) })
	return s.Conn.Read(b)
}

func TestDial_LongAddressFromInventory_StaysOneCleanLine(t *testing.T) {
	h := Host{Name: "a\x1b[2J", Address: "no such\nhost\x1b]0;x\x07" + strings.Repeat("x", 300), User: "u", KeyFiles: []string{filepath.Join(t.TempDir(), "k\n")}}
	p := newTestPool(t, Options{})
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindHostKey)
	h.KnownHosts = []string{filepath.Join(t.TempDir(), "known")}
	_ = os.WriteFile(h.KnownHosts[0], nil, 0o600)
	_, err = p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindAuth, "does not exist")
	if strings.ContainsAny(err.Error(), "\x07") {
		t.Errorf("%q", err)
	}
}

func BenchmarkRun_Loopback(b *testing.B) {
	t := &testing.T{}
	s := newSSHServer(t)
	h := Host{Name: "n", Address: "127.0.0.1", Port: s.port(), User: "u"}
	folder := b.TempDir()
	h.KeyFiles = []string{writeKey(t, folder, "id", s.user, "")}
	h.KnownHosts = []string{filepath.Join(folder, "known_hosts")}
	if err := AppendKnownHost(h.KnownHosts[0], h, signerOf(t, s.host).PublicKey()); err != nil {
		b.Fatal(err)
	}
	p := NewPool(Options{})
	defer p.Close()
	for b.Loop() {
		if _, err := p.Run(context.Background(), h, Command{Argv: []string{"true"}}); err != nil {
			b.Fatal(err)
		}
	}
}
