package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/e2e/harness"
)

// sshServer is OpenSSH's sshd on a loopback port, with keys of its own, for the user who runs it.
type sshServer struct {
	*harness.Process
	dir, user string
	port      int
	files     string // where its files are made
}

// startSSHD runs it with its own files in dir, and makes those to be moved in files.
func startSSHD(dir, files string) (*sshServer, error) {
	binary := ""
	for _, path := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"} {
		if _, err := os.Stat(path); err == nil {
			binary = path
			break
		}
	}
	if binary == "" {
		return nil, fmt.Errorf("sshd is not installed (Debian: openssh-server)")
	}
	if os.Getuid() == 0 { // its empty folder, which the system's service otherwise makes
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	s := &sshServer{dir: dir, files: files, user: me.Username}
	for _, key := range []string{"host", "id"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", s.file(key)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	hostKey, err := os.ReadFile(s.file("host.pub"))
	if err != nil {
		return nil, err
	}
	config := []string{"HostKey " + s.file("host"), "AuthorizedKeysFile " + s.file("id.pub"), "StrictModes no", "UsePAM no", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "PidFile none", "PrintMotd no", "MaxSessions 20",
		// Shells read the user's own start files for every command of ssh; those of whoever runs this are not measured.
		"SetEnv SHLVL=1", "ListenAddress 127.0.0.1", fmt.Sprint("Port ", s.port)}
	for name, text := range map[string]string{"known_hosts": fmt.Sprintf("[127.0.0.1]:%d %s", s.port, hostKey), "sshd_config": strings.Join(config, "\n") + "\n"} {
		if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if s.Process, err = harness.StartProcess("sshd", s.file("sshd.log"), nil, binary, "-D", "-e", "-f", s.file("sshd_config")); err != nil {
		return nil, err
	}
	return s, harness.WaitFor(20*time.Second, "sshd to answer", func() (bool, error) {
		select {
		case <-s.Ended():
			return false, fmt.Errorf("sshd ended: %s", s.Tail())
		default:
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
}

func (s *sshServer) file(name string) string { return filepath.Join(s.dir, name) }

func (s *sshServer) reached() login {
	return login{Address: "127.0.0.1", Port: s.port, User: s.user, Key: s.file("id"), KnownHosts: s.file("known_hosts")}
}

// make writes a file that cannot be compressed.
func (s *sshServer) make(size int64) (file, error) {
	f := file{path: filepath.Join(s.files, "export.tgz"), size: size}
	out, err := os.Create(f.path)
	if err != nil {
		return f, err
	}
	sum := sha256.New()
	_, err = io.CopyBuffer(io.MultiWriter(out, sum), io.LimitReader(rand.NewChaCha8([32]byte{1}), f.size), make([]byte, 1<<20))
	f.sum = hex.EncodeToString(sum.Sum(nil))
	return f, errors.Join(err, out.Close())
}

func (s *sshServer) remove(f file) error { return os.Remove(f.path) }

func (s *sshServer) lead(endpoint string) (string, error) { return endpoint, nil }

func (s *sshServer) close() error {
	s.Kill()
	return nil
}
