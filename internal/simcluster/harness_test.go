package simcluster

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startCluster(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	c, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// oneNode starts a cluster of one node.
func oneNode(t testing.TB, cfg Config) *Node {
	t.Helper()
	if cfg.Nodes == nil {
		cfg.Nodes = []NodeConfig{{Name: "one", Roles: []string{"base", "primary", "controller", "router", "dea"}}}
	}
	return startCluster(t, cfg).Nodes()[0]
}

func clientConfig(t testing.TB, n *Node) *ssh.ClientConfig {
	t.Helper()
	text, err := os.ReadFile(n.cluster.ClientKeyPath())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return &ssh.ClientConfig{User: n.loginUser(), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(n.HostKey()), Timeout: 5 * time.Second}
}

func tryDial(t testing.TB, n *Node) (*ssh.Client, error) {
	t.Helper()
	return ssh.Dial("tcp", net.JoinHostPort(n.Address(), strconv.Itoa(n.Port())), clientConfig(t, n))
}

// dial logs in to a node, which may be just about to listen after a boot.
func dial(t testing.TB, n *Node) *ssh.Client {
	t.Helper()
	c, err := tryDial(t, n)
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(deadline); c, err = tryDial(t, n) {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

type result struct {
	out, err string
	exit     int
}

// run runs a command line in a session; exit is -1 when the connection broke and 128+n for a signal.
func run(t testing.TB, c *ssh.Client, command string, stdin ...string) result {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	if len(stdin) > 0 {
		s.Stdin = bytes.NewBufferString(stdin[0])
	}
	err = s.Run(command)
	r := result{out: out.String(), err: errs.String()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		r.exit = exit.ExitStatus()
		if exit.Signal() != "" {
			r.exit = 128 + signalNames[exit.Signal()]
		}
	case err != nil:
		r.exit = -1
	}
	return r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("did not happen in time: %s", what)
}
