package hypervisortest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// SSHD is a real sshd on loopback that logs in to this machine, as the user who runs the test.
type SSHD struct {
	User       string
	Port       int
	Key        string
	KnownHosts string
}

// SSHDPath is the program, which wants to be called by its whole path. It is in Debian's package openssh-server.
const SSHDPath = "/usr/sbin/sshd"

// ServeSSH starts it, and ends it with the test. Programs are looked for in the folder path first.
func ServeSSH(t testing.TB, path string) SSHD {
	t.Helper()
	if os.Getuid() == 0 {
		must(t, os.MkdirAll("/run/sshd", 0o755)) // its empty folder, which the machine's service makes otherwise
	}
	me, err := user.Current()
	must(t, err)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"host", "id"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file(name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	must(t, free.Close())
	must(t, os.WriteFile(file("config"), fmt.Appendf(nil, `ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile none
PrintMotd no
SetEnv PATH=%s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=%s
`, port, file("host"), file("id.pub"), path, dir), 0o600)) // a home of its own: what whoever runs the tests has in ~/.bashrc can take longer than virsh
	log, err := os.Create(file("log"))
	must(t, err)
	defer log.Close()
	server := exec.Command(SSHDPath, "-D", "-e", "-f", file("config"))
	server.Stdout, server.Stderr = log, log
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if said, err := os.ReadFile(file("log")); err == nil && t.Failed() {
			t.Logf("sshd's log:\n%s", said)
		}
	})
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("sshd does not answer within 30 s: %v", err)
		}
	}
	public, err := os.ReadFile(file("host.pub"))
	must(t, err)
	must(t, os.WriteFile(file("known_hosts"), fmt.Appendf(nil, "[127.0.0.1]:%d %s\n", port, strings.TrimSpace(string(public))), 0o600))
	return SSHD{User: me.Username, Port: port, Key: file("id"), KnownHosts: file("known_hosts")}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
