package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// openSSHD is the real sshd, one process a connection (sshd -i), with a configuration of its own, on loopback, as the user who
// runs the test.
type openSSHD struct {
	t        *testing.T
	folder   string
	listener net.Listener
	accepted atomic.Int64
	log      lockedBuffer

	mu    sync.Mutex
	procs map[*exec.Cmd]bool
	wg    sync.WaitGroup
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func findSSHD(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"ssh-keygen", "ssh-agent", "ssh-add"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed (Debian: openssh-client)", name)
		}
	}
	for _, path := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"} {
		if _, err := os.Stat(path); err == nil {
			if os.Getuid() == 0 {
				// As root sshd wants its empty folder, which the system's service otherwise makes.
				if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
					t.Skipf("no /run/sshd: %v", err)
				}
			}
			return path
		}
	}
	t.Skip("sshd is not installed (Debian: openssh-server)")
	return ""
}

// newOpenSSHD starts it with extra lines in its configuration.
func newOpenSSHD(t *testing.T, lines ...string) *openSSHD {
	t.Helper()
	path := findSSHD(t)
	checkLeaks(t)
	s := &openSSHD{t: t, folder: t.TempDir(), procs: map[*exec.Cmd]bool{}}
	for kind, bits := range map[string]string{"ed25519": "256", "ecdsa": "256", "rsa": "2048"} {
		s.tool("ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "", "-f", s.file("host_"+kind))
	}
	s.tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", s.file("id"))
	s.copyFile("id.pub", "authorized_keys")
	config := append([]string{
		"HostKey " + s.file("host_ed25519"), "HostKey " + s.file("host_ecdsa"), "HostKey " + s.file("host_rsa"),
		"AuthorizedKeysFile " + s.file("authorized_keys"), "StrictModes no", "UsePAM no", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "PidFile none", "PrintMotd no", "LogLevel VERBOSE",
		"SetEnv HOME=" + s.folder, // what whoever runs the tests has in ~/.bashrc can take longer than the tests
	}, lines...)
	if err := os.WriteFile(s.file("sshd_config"), []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.tool(path, "-t", "-f", s.file("sshd_config"))
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.wg.Go(func() { s.serve(path, conn) })
		}
	})
	t.Cleanup(func() {
		_ = s.listener.Close()
		s.killAll()
		s.wg.Wait()
		if t.Failed() {
			t.Logf("sshd's log:\n%s", s.log.String())
		}
	})
	return s
}

func (s *openSSHD) serve(path string, conn net.Conn) {
	f, err := conn.(*net.TCPConn).File()
	_ = conn.Close()
	if err != nil {
		return
	}
	cmd := exec.Command(path, "-i", "-e", "-f", s.file("sshd_config"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, &s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it divides itself into two processes
	cmd.WaitDelay = 100 * time.Millisecond                // what a command left behind may hold the log open
	s.mu.Lock()
	err = cmd.Start()
	if err == nil {
		s.procs[cmd] = true
	}
	s.mu.Unlock()
	_ = f.Close()
	if err != nil {
		s.t.Error(err)
		return
	}
	_ = cmd.Wait()
	s.mu.Lock()
	delete(s.procs, cmd)
	s.mu.Unlock()
}

// killAll ends all connections' sshd with SIGKILL.
func (s *openSSHD) killAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cmd := range s.procs {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

func (s *openSSHD) file(name string) string { return filepath.Join(s.folder, name) }

func (s *openSSHD) copyFile(from, to string) {
	s.t.Helper()
	b, err := os.ReadFile(s.file(from))
	if err == nil {
		err = os.WriteFile(s.file(to), b, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *openSSHD) tool(name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s *openSSHD) publicKey(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.file(name + ".pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// hostEntry is how a pool reaches it, with its ECDSA key alone in known_hosts.
func (s *openSSHD) hostEntry() Host {
	s.t.Helper()
	u, err := user.Current()
	if err != nil {
		s.t.Fatal(err)
	}
	h := Host{Name: "core", Address: "127.0.0.1", Port: s.listener.Addr().(*net.TCPAddr).Port, User: u.Username, ConnectTimeout: 20 * time.Second,
		KeyFiles: []string{s.file("id")}, KnownHosts: []string{s.file("known_hosts")}}
	s.know(h, "", s.publicKey("host_ecdsa"))
	return h
}

// know writes the known_hosts file with one line for h.
func (s *openSSHD) know(h Host, marker, key string) {
	s.t.Helper()
	line := fmt.Sprintf("%s[%s]:%d %s\n", marker, h.Address, h.Port, key)
	if err := os.WriteFile(h.KnownHosts[0], []byte(line), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestOpenSSH_Run_StreamsAndExitCodes(t *testing.T) {
	s := newOpenSSHD(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	if res := mustRun(t, p, h, "printf", "%s|", "it's", "", "$HOME", "a\nb", "\xff"); string(res.Stdout) != "it's||$HOME|a\nb|\xff|" {
		t.Errorf("got %q", res.Stdout)
	}
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 143, "kill -KILL $$": 137, "nosuchcommand": 127} {
		res, err := p.Run(testContext(t), h, Command{Script: script, AnyExit: true})
		if err != nil || res.ExitCode != want {
			t.Errorf("%s: exit %d, want %d: %v", script, res.ExitCode, want, err)
		}
	}
	data := bytes.Repeat([]byte("0123456789abcdef\x00\xff"), 300000)
	sum := sha256.New()
	res, err := p.Run(testContext(t), h, Command{Script: "echo started >&2; cat", Stdin: bytes.NewReader(data), Stdout: sum})
	want := sha256.Sum256(data)
	if err != nil || !bytes.Equal(sum.Sum(nil), want[:]) || string(res.Stderr) != "started\n" {
		t.Errorf("%v: stream of %d bytes came back otherwise; stderr %q", err, len(data), res.Stderr)
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestOpenSSH_LoginShells_UnderstandScripts(t *testing.T) {
	for name, shell := range quoteShells(t) {
		t.Run(name, func(t *testing.T) {
			s := newOpenSSHD(t, `ForceCommand exec `+strings.Join(shell, " ")+` -c "$SSH_ORIGINAL_COMMAND"`)
			p := newTestPool(t, Options{})
			res, err := p.Run(testContext(t), s.hostEntry(), Command{Script: "printf '%s|' \"$@\" 'it''s'\ncat", Args: []string{"a'b", "$x"}, Stdin: strings.NewReader("in")})
			if err != nil || string(res.Stdout) != "a'b|$x|its|in" {
				t.Errorf("%v %q", err, res.Stdout)
			}
		})
	}
}

func TestOpenSSH_KeysMadeBySSHKeygen_AndAgentProcess_LogIn(t *testing.T) {
	s := newOpenSSHD(t)
	h := s.hostEntry()
	for _, c := range [][]string{{"-t", "ed25519"}, {"-t", "ecdsa"}, {"-t", "rsa", "-b", "2048", "-m", "PEM"}} {
		t.Run(strings.Join(c, " "), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "id")
			s.tool("ssh-keygen", append(append([]string{"-q"}, c...), "-N", secretWord, "-f", file)...)
			pub, err := os.ReadFile(file + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.file("authorized_keys"), pub, 0o600); err != nil {
				t.Fatal(err)
			}
			p := newTestPool(t, Options{})
			h := h
			h.KeyFiles, h.Passphrase = []string{file}, passphrase(secretWord)
			mustRun(t, p, h, "true")
			h.Passphrase = passphrase("other")
			p.Forget(h)
			_, err = p.Run(testContext(t), h, Command{Argv: []string{"true"}})
			wantError(t, err, KindAuth, "wrong passphrase")
		})
	}
	t.Run("agent", func(t *testing.T) {
		folder, err := os.MkdirTemp("", "agent")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(folder)
		socket := filepath.Join(folder, "s")
		agent := exec.Command("ssh-agent", "-D", "-a", socket)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
		eventually(t, "the agent listens", 10*time.Second, func() bool { _, err := os.Stat(socket); return err == nil })
		add := exec.Command("ssh-add", "-q", s.file("id"))
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		s.copyFile("id.pub", "authorized_keys")
		h := h
		h.KeyFiles, h.AgentSocket = nil, socket
		mustRun(t, newTestPool(t, Options{}), h, "true")
	})
	t.Run("none", func(t *testing.T) {
		if err := os.WriteFile(s.file("authorized_keys"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := newTestPool(t, Options{}).Run(testContext(t), h, Command{Argv: []string{"true"}})
		wantError(t, err, KindAuth, "no key accepted for "+h.User+"@127.0.0.1", s.file("id"))
	})
}

func TestOpenSSH_HostKeys_KnownHashedSignedAndChanged(t *testing.T) {
	s := newOpenSSHD(t)
	h := s.hostEntry()
	run := func() error {
		p := NewPool(Options{})
		defer p.Close()
		_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
		return err
	}
	for _, key := range []string{"host_ed25519", "host_ecdsa", "host_rsa"} {
		s.know(h, "", s.publicKey(key))
		if err := run(); err != nil {
			t.Errorf("only %s known: %v", key, err)
		}
	}
	s.tool("ssh-keygen", "-q", "-H", "-f", h.KnownHosts[0])
	if b, _ := os.ReadFile(h.KnownHosts[0]); !bytes.HasPrefix(b, []byte("|1|")) {
		t.Fatalf("not hashed: %q", b)
	}
	if err := run(); err != nil {
		t.Errorf("hashed: %v", err)
	}

	s.tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", s.file("other"))
	s.know(h, "", s.publicKey("other"))
	err := run()
	fingerprint := func(key string) string {
		return strings.Fields(s.tool("ssh-keygen", "-l", "-f", s.file(key+".pub")))[1]
	}
	wantError(t, err, KindHostKey, "has changed", "expected "+fingerprint("other"), "offered "+fingerprint("host_ed25519"))

	keys, err := ScanHostKeys(testContext(t), h)
	if err != nil || len(keys) != 3 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for i, key := range []string{"host_ed25519", "host_ecdsa", "host_rsa"} {
		if got := ssh.FingerprintSHA256(keys[i]); got != fingerprint(key) {
			t.Errorf("%s: %s, want %s", key, got, fingerprint(key))
		}
	}
	if err := ReplaceKnownHost(h.KnownHosts[0], h, keys...); err != nil {
		t.Fatal(err)
	}
	if err := run(); err != nil {
		t.Errorf("after trust: %v", err)
	}
}

func TestOpenSSH_HostCertificate_IsAcceptedFromItsAuthorityOnly(t *testing.T) {
	findSSHD(t)
	folder := t.TempDir()
	keygen := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	file := func(name string) string { return filepath.Join(folder, name) }
	keygen("-t", "rsa", "-b", "2048", "-N", "", "-C", "", "-f", file("ca"))
	keygen("-t", "ed25519", "-N", "", "-C", "", "-f", file("host"))
	keygen("-s", file("ca"), "-I", "core", "-h", "-n", "127.0.0.1", "-V", "+1h", file("host.pub"))
	s := newOpenSSHD(t, "HostKey "+file("host"), "HostCertificate "+file("host-cert.pub"))
	h := s.hostEntry()
	ca, err := os.ReadFile(file("ca.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.know(h, "@cert-authority ", string(ca))
	mustRun(t, newTestPool(t, Options{}), h, "true")

	s.know(h, "@cert-authority ", s.publicKey("host_rsa"))
	_, err = newTestPool(t, Options{}).Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindHostKey, "certificate", "not accepted")
}

func TestOpenSSH_Bastion_ForwardsOrRefuses(t *testing.T) {
	bastion, node := newOpenSSHD(t), newOpenSSHD(t)
	b, h := bastion.hostEntry(), node.hostEntry()
	b.Name = "gate"
	h.Bastion = &b
	p := newTestPool(t, Options{})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b, n := bastion.accepted.Load(), node.accepted.Load(); b != 1 || n != 1 {
		t.Errorf("%d connections to the bastion, %d to the node", b, n)
	}
	bastion.killAll()
	mustRun(t, p, h, "true")

	gone := h
	gone.Port = 1
	_, err := p.Run(testContext(t), gone, Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "core: ssh: bastion gate cannot reach 127.0.0.1:1")

	closed := newOpenSSHD(t, "AllowTcpForwarding no")
	c := closed.hostEntry()
	c.Name = "closed"
	h.Bastion = &c
	q := NewPool(Options{})
	defer q.Close()
	_, err = q.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindAuth, "bastion closed refuses to forward")
}

func TestOpenSSH_MaxSessionsBelowOurs_AllRunsEndWell(t *testing.T) {
	s := newOpenSSHD(t, "MaxSessions 2")
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if _, err := p.Run(testContext(t), h, Command{Argv: []string{"sleep", "0.1"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestOpenSSH_HundredRunsAtOnce_OneConnection(t *testing.T) {
	s := newOpenSSHD(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	began := time.Now()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("100 runs took %s", time.Since(began))
	began = time.Now()
	for range 20 {
		mustRun(t, p, h, "true")
	}
	t.Logf("one run after the other took %s each", time.Since(began)/20)
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// runningPID waits for a process id written to file, and ends that process at the test's end.
func runningPID(t *testing.T, file string) int {
	t.Helper()
	pid := 0
	eventually(t, "the command runs", 20*time.Second, func() bool {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0 && bytes.HasSuffix(b, []byte("\n"))
	})
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return pid
}

func TestOpenSSH_KilledMidCommand_IsTransportAndNotSentAgain(t *testing.T) {
	s := newOpenSSHD(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	mark := s.file("pid")
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(testContext(t), h, Command{Script: `echo $$ >> "$1"; exec sleep 100`, Args: []string{mark}})
		done <- err
	}()
	runningPID(t, mark)
	s.killAll()
	wantError(t, <-done, KindTransport, "lost while running script", "unknown")
	mustRun(t, p, h, "true")
	if b, _ := os.ReadFile(mark); bytes.Count(b, []byte("\n")) != 1 {
		t.Errorf("started again: %q", b)
	}
}

func TestOpenSSH_ContextEnds_ProcessIsKilled(t *testing.T) {
	s := newOpenSSHD(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	mark := s.file("pid")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(ctx, h, Command{Script: `echo $$ > "$1"; exec sleep 100`, Args: []string{mark}})
		done <- err
	}()
	pid := runningPID(t, mark)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if os.Getuid() == 0 {
		t.Log("sshd passes no signal on to a session of root: whether the process ends is seen only where the test's user is another")
	} else {
		eventually(t, "the process is gone", 10*time.Second, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	}
	mustRun(t, p, h, "true")
}

func TestOpenSSH_ProcessLeftBehindHoldingTheOutput_IsNotWaitedForForEver(t *testing.T) {
	s := newOpenSSHD(t)
	p := newTestPool(t, Options{})
	p.waits.drain = 500 * time.Millisecond
	h := s.hostEntry()
	mark := s.file("pid")
	began := time.Now()
	res, err := p.Run(testContext(t), h, Command{Script: `sleep 100 & echo $! > "$1"; echo started; exit 4`, Args: []string{mark}, AnyExit: true})
	runningPID(t, mark)
	if err != nil || res.ExitCode != 4 || string(res.Stdout) != "started\n" {
		t.Errorf("%v: exit %d %q", err, res.ExitCode, res.Stdout)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestOpenSSH_SilentCommand_IsKeptAlive(t *testing.T) {
	s := newOpenSSHD(t)
	p := newTestPool(t, Options{KeepaliveInterval: 200 * time.Millisecond})
	mustRun(t, p, s.hostEntry(), "sleep", "2")
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
