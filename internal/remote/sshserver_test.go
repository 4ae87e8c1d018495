package remote

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

// sshServer is an SSH server in the test's process: it runs commands by a shell of this machine and forwards streams.
type sshServer struct {
	t        *testing.T
	listener net.Listener
	config   *ssh.ServerConfig
	host     ed25519.PrivateKey
	user     ed25519.PrivateKey

	// Set before the first connection.
	shell       []string
	maxSessions int
	refusal     string // of every session when not empty
	// beforeExec is asked for every exec request; an error makes the server drop the connection.
	beforeExec func(line string) error
	// silent makes the server take connections and say nothing.
	silent atomic.Bool

	accepted atomic.Int64
	execs    atomic.Int64
	sessions atomic.Int64
	peak     atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newSSHServer(t *testing.T, change ...func(*sshServer)) *sshServer {
	t.Helper()
	checkLeaks(t)
	s := &sshServer{t: t, conns: map[net.Conn]bool{}, shell: []string{"/bin/sh", "-c"}}
	_, s.host, _ = ed25519.GenerateKey(rand.Reader)
	_, s.user, _ = ed25519.GenerateKey(rand.Reader)
	s.config = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if bytes.Equal(key.Marshal(), signerOf(t, s.user).PublicKey().Marshal()) {
			return nil, nil
		}
		return nil, errors.New("not that key")
	}}
	s.config.AddHostKey(signerOf(t, s.host))
	for _, c := range change {
		c(s)
	}
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		_ = s.listener.Close()
		s.dropAll()
		s.wg.Wait()
	})
	return s
}

func (s *sshServer) port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// hostEntry is how a pool reaches the server: with key file and known_hosts file in a folder of the test's.
func (s *sshServer) hostEntry() Host {
	folder := s.t.TempDir()
	h := Host{Name: "dea-1", Address: "127.0.0.1", Port: s.port(), User: "stackato", ConnectTimeout: 5 * time.Second,
		KeyFiles:   []string{writeKey(s.t, folder, "id", s.user, "")},
		KnownHosts: []string{filepath.Join(folder, "known_hosts")}}
	if err := AppendKnownHost(h.KnownHosts[0], h, signerOf(s.t, s.host).PublicKey()); err != nil {
		s.t.Fatal(err)
	}
	return h
}

func (s *sshServer) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.accepted.Add(1)
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			defer func() {
				_ = conn.Close()
				s.mu.Lock()
				delete(s.conns, conn)
				s.mu.Unlock()
			}()
			s.serve(conn)
		})
	}
}

// dropAll ends all connections as a reboot would.
func (s *sshServer) dropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
}

func (s *sshServer) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *sshServer) serve(conn net.Conn) {
	if s.silent.Load() {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	server, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	defer server.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { ssh.DiscardRequests(requests) })
	var live atomic.Int64
	for c := range channels {
		switch c.ChannelType() {
		case "session":
			if s.refusal != "" {
				_ = c.Reject(ssh.ConnectionFailed, s.refusal)
				continue
			}
			if n := live.Add(1); s.maxSessions > 0 && n > int64(s.maxSessions) {
				live.Add(-1)
				_ = c.Reject(ssh.ConnectionFailed, "open failed")
				continue
			}
			wg.Go(func() {
				defer live.Add(-1)
				s.session(conn, c)
			})
		case "direct-tcpip":
			wg.Go(func() { s.forward(c) })
		default:
			_ = c.Reject(ssh.UnknownChannelType, "no")
		}
	}
}

func (s *sshServer) forward(c ssh.NewChannel) {
	var m struct {
		Host  string
		Port  uint32
		From  string
		FromP uint32
	}
	_ = ssh.Unmarshal(c.ExtraData(), &m)
	to, err := net.Dial("tcp", net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port))))
	if err != nil {
		_ = c.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	channel, requests, err := c.Accept()
	if err != nil {
		_ = to.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(to, channel); _ = to.Close() })
	wg.Go(func() { _, _ = io.Copy(channel, to); _ = channel.Close() })
	wg.Wait()
}

func (s *sshServer) session(conn net.Conn, c ssh.NewChannel) {
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	n := s.sessions.Add(1)
	for {
		peak := s.peak.Load()
		if n <= peak || s.peak.CompareAndSwap(peak, n) {
			break
		}
	}
	defer s.sessions.Add(-1)
	var cmd *exec.Cmd
	done := make(chan error, 1)
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				if cmd != nil {
					_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
					<-done
				}
				return
			}
			switch r.Type {
			case "exec":
				var m struct{ Line string }
				_ = ssh.Unmarshal(r.Payload, &m)
				s.execs.Add(1)
				if s.beforeExec != nil {
					if err := s.beforeExec(m.Line); err != nil {
						_ = conn.Close()
						return
					}
				}
				cmd = exec.Command(s.shell[0], append(s.shell[1:len(s.shell):len(s.shell)], m.Line)...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
				in, _ := cmd.StdinPipe()
				if err := cmd.Start(); err != nil {
					_ = r.Reply(false, nil)
					return
				}
				_ = r.Reply(true, nil)
				go func() { _, _ = io.Copy(in, channel); _ = in.Close() }()
				go func() { done <- cmd.Wait() }()
			case "signal":
				if cmd != nil {
					_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				}
			default:
				if r.WantReply {
					_ = r.Reply(false, nil)
				}
			}
		case <-done:
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				name := map[syscall.Signal]string{syscall.SIGKILL: "KILL", syscall.SIGTERM: "TERM", syscall.SIGSEGV: "SEGV"}[status.Signal()]
				_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
					Signal string
					Core   bool
					Error  string
					Lang   string
				}{Signal: name}))
			} else {
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status.ExitStatus())}))
			}
			return
		}
	}
}

func signerOf(t *testing.T, key crypto.Signer) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// writeKey writes a private key in OpenSSH's format, encrypted when passphrase is not empty.
func writeKey(t *testing.T, folder, name string, key crypto.PrivateKey, passphrase string) string {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// newTestPool returns a pool that is closed at the test's end, after which nothing of it may run.
func newTestPool(t *testing.T, opts Options) *Pool {
	t.Helper()
	checkLeaks(t)
	p := NewPool(opts)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// checkLeaks fails the test when goroutines started from now on outlive it. One is not ours: golang.org/x/crypto waits for ever for a stream that was asked for while its connection died (between
// dropAll and Close of the mux); whoever asked has gone on by then (dialThrough).
func checkLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("golang.org/x/crypto/ssh.(*Client).DialContext.func1"))
	})
}

// eventually polls a condition.
func eventually(t *testing.T, what string, within time.Duration, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustRun(t *testing.T, p Runner, h Host, argv ...string) Result {
	t.Helper()
	res, err := p.Run(testContext(t), h, Command{Argv: argv})
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return res
}

func wantError(t *testing.T, err error, kind Kind, parts ...string) {
	t.Helper()
	if !IsKind(err, kind) {
		t.Fatalf("want an error of kind %q, got kind %q: %v", kind, KindOf(err), err)
	}
	if text := err.Error(); strings.ContainsAny(text, "\n\r\x1b") {
		t.Errorf("error is not one clean line: %q", text)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q: %v", part, err)
		}
	}
}
