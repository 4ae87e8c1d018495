package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
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

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const secretWord = "correct horse battery"

func passphrase(word string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(word), nil }
}

// redirect dials server whatever address is asked for.
func redirect(server *sshServer) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.listener.Addr().String())
	}
}

func TestAuth_EncryptedKeys_OpenWithThePassphraseOnly(t *testing.T) {
	oldRSA, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	//lint:ignore SA1019 the old format is what is tested
	block, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(oldRSA), []byte(secretWord), x509.PEMCipherAES128)
	if err != nil {
		t.Fatal(err)
	}
	oldFile := filepath.Join(folder, "old_rsa")
	if err := os.WriteFile(oldFile, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	accept := func(s *sshServer) {
		s.config.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, k := range []ssh.Signer{signerOf(t, s.user), signerOf(t, oldRSA)} {
				if string(k.PublicKey().Marshal()) == string(key.Marshal()) {
					return nil, nil
				}
			}
			return nil, errors.New("no")
		}
	}
	s := newSSHServer(t, accept)
	for name, file := range map[string]string{
		"openssh ed25519": writeKey(t, folder, "ed", s.user, secretWord),
		"old pem rsa":     oldFile,
	} {
		t.Run(name, func(t *testing.T) {
			p := newTestPool(t, Options{})
			h := s.hostEntry()
			h.KeyFiles = []string{file}
			for _, c := range []struct {
				ask  func() ([]byte, error)
				want string
			}{
				{nil, "is encrypted and no passphrase is set"},
				{passphrase("wrong guess"), "wrong passphrase for key file " + file},
				{func() ([]byte, error) { return nil, errors.New("KATOFLOW_PASS is not set") }, "KATOFLOW_PASS is not set"},
			} {
				h.Passphrase = c.ask
				_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
				wantError(t, err, KindAuth, c.want)
				if strings.Contains(err.Error(), "wrong guess") {
					t.Errorf("the passphrase is in the error: %v", err)
				}
			}
			h.Passphrase = passphrase(secretWord)
			mustRun(t, p, h, "true")
			p.Forget(h)
			mustRun(t, p, h, "true")
			// The key is decrypted and kept, which must not let a wrong passphrase pass.
			p.Forget(h)
			h.Passphrase = passphrase("wrong guess")
			_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
			wantError(t, err, KindAuth, "wrong passphrase")
		})
	}
}

func TestAuth_KeyFilesThatCannotBeUsed_AreNamedAndNothingIsDialled(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	folder := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	open := writeKey(t, folder, "open", s.user, "")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		filepath.Join(folder, "none"):      "none does not exist",
		folder:                             "is not a file",
		open:                               "can be read by others (mode 0644): chmod 600",
		write("rubbish", "rubbish", 0o600): "holds no private key",
		write("empty", "", 0o600):          "holds no private key",
		write("public", string(ssh.MarshalAuthorizedKey(signerOf(t, s.user).PublicKey())), 0o600):                   "holds no private key",
		write("pkcs8", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", 0o600): "PKCS#8",
	} {
		h := s.hostEntry()
		h.KeyFiles = append(h.KeyFiles, file)
		_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
		wantError(t, err, KindAuth, want)
	}
	h := s.hostEntry()
	h.KeyFiles = nil
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindAuth, "no key file and no agent")
	if s.accepted.Load() != 0 {
		t.Error("the node was dialled")
	}
}

func TestAuth_NoKeyAccepted_NamesTheKeysTried(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	h.KeyFiles = []string{writeKey(t, t.TempDir(), "other_key", other, "")}
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindAuth, "dea-1: ssh: no key accepted for stackato@127.0.0.1:", "other_key", ssh.FingerprintSHA256(signerOf(t, other).PublicKey()), "authorized_keys")
}

func TestAuth_SecondKeyFile_IsTriedToo(t *testing.T) {
	s := newSSHServer(t)
	h := s.hostEntry()
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	h.KeyFiles = append([]string{writeKey(t, t.TempDir(), "other", other, "")}, h.KeyFiles...)
	mustRun(t, newTestPool(t, Options{}), h, "true")
}

// serveAgent serves keys on a socket as ssh-agent does.
func serveAgent(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "agent") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(folder, "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c); _ = c.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait(); _ = os.RemoveAll(folder) })
	return filepath.Join(folder, "s")
}

func TestAuth_Agent_LogsIn(t *testing.T) {
	s := newSSHServer(t)
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: s.user}); err != nil {
		t.Fatal(err)
	}
	var open atomic.Int64
	socket := serveAgent(t, func(c net.Conn) { open.Add(1); _ = agent.ServeAgent(ring, c); open.Add(-1) })
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	file := h.KeyFiles[0]
	h.KeyFiles, h.AgentSocket = nil, socket
	mustRun(t, p, h, "true")
	eventually(t, "the agent's connection is closed after the login", 5*time.Second, func() bool { return open.Load() == 0 })

	// A key file that is not accepted, then the agent's.
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	h.KeyFiles = []string{writeKey(t, t.TempDir(), "other", other, "")}
	mustRun(t, p, h, "true")

	// No agent, but a good key file.
	h.KeyFiles, h.AgentSocket = []string{file}, socket+".gone"
	mustRun(t, p, h, "true")

	h.KeyFiles = nil
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindAuth, "no agent at "+socket+".gone")

	if err := ring.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	h.AgentSocket = socket
	p.Forget(h)
	empty := h
	empty.User = "another"
	_, err = p.Run(testContext(t), empty, Command{Argv: []string{"true"}})
	wantError(t, err, KindAuth, "holds no key")
}

func TestAuth_AgentThatHangs_EndsAtTheTimeout(t *testing.T) {
	s := newSSHServer(t)
	socket := serveAgent(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	h.KeyFiles, h.AgentSocket, h.ConnectTimeout = nil, socket, 300*time.Millisecond
	began := time.Now()
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindAuth, "agent at "+socket)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestAuth_ServerClosesDuringLogin_IsTransportWithItsBanner(t *testing.T) {
	s := newSSHServer(t, func(s *sshServer) {
		s.config.BannerCallback = func(ssh.ConnMetadata) string { return "System is booting up.\x1b[2J\r\nNot yet." }
		s.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			s.dropAll()
			return nil, errors.New("no")
		}
	})
	p := newTestPool(t, Options{})
	_, err := p.Run(testContext(t), s.hostEntry(), Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, "closed the connection during the login", `System is booting up.\x1b[2J`)
}
