package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// binary is the program under test, built once.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "katoflow-worker-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	build := exec.Command("go", "build", "-ldflags", "-X main.buildVersion=v0.0.0-test", "-o", filepath.Join(dir, "katoflow-worker"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	os.Setenv("KATOFLOW_WORKER_UNDER_TEST", filepath.Join(dir, "katoflow-worker"))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// program is a run of the binary.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	out  bytes.Buffer
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start runs the binary with a clean environment and env.
func start(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(os.Getenv("KATOFLOW_WORKER_UNDER_TEST"), args...), done: make(chan struct{})}
	p.cmd.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// exit waits for the end and returns the exit code.
func (p *program) exit(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("still running after %s: %s", within, p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (p *program) waitFor(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.text(), text); {
		if time.Now().After(deadline) {
			t.Fatalf("never said %q: %s", text, p.text())
		}
		select {
		case <-p.done:
			if !strings.Contains(p.text(), text) {
				t.Fatalf("ended without %q: %s", text, p.text())
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// goodInventory is a file whose references all exist.
func goodInventory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"id":          pem.EncodeToMemory(block),
		"known_hosts": append([]byte("127.0.0.1 "), ssh.MarshalAuthorizedKey(host)...),
		"clusters.yaml": []byte("clusters:\n  lab:\n    ssh: {user: admin, key_files: [id], known_hosts: [known_hosts]}\n" +
			"    nodes: [{name: n1, address: 127.0.0.1}]\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "clusters.yaml")
}

// closedPort is an address at which nothing listens, and nothing else is going to while the test runs: the port is taken.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port)
}

// freePort is an address at which something may listen later.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestWorker_BadInput_ExitsWith2AndSaysWhatToFix(t *testing.T) {
	good := goodInventory(t)
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("clusters:\n  lab:\n    platfrom: plain\n    nodes: [{name: 'a; reboot', address: 127.0.0.1}, {name: b, address: 127.0.0.1, port: x}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  []string
		args []string
		want []string
	}{
		"no inventory":      {nil, nil, []string{"--inventory", "KATOFLOW_INVENTORY"}},
		"inventory missing": {nil, []string{"--inventory", "/nonexistent.yaml"}, []string{"/nonexistent.yaml", "no such file"}},
		"inventory by env":  {[]string{"KATOFLOW_INVENTORY=/nonexistent.yaml"}, nil, []string{"/nonexistent.yaml"}},
		"bad inventory":     {nil, []string{"--inventory", bad}, []string{"bad.yaml:3", "platfrom", "bad.yaml:4", "reboot", "port", "problems"}},
		"unknown flag":      {nil, []string{"--nope"}, []string{"--nope", "--help"}},
		"argument":          {nil, []string{"start"}, []string{"start"}},
		"log level":         {nil, []string{"--inventory", good, "--log-level", "loud"}, []string{"loud", "debug, info"}},
		"log format by env": {[]string{"KATOFLOW_LOG_FORMAT=xml"}, []string{"--inventory", good}, []string{"xml", "console"}},
		"max activities":    {nil, []string{"--inventory", good, "--max-activities", "0"}, []string{"--max-activities 0"}},
		"unit":              {nil, []string{"--inventory", good, "--stop-timeout", "45"}, []string{"--stop-timeout"}},
		"health":            {nil, []string{"--inventory", good, "--health", "x:y"}, []string{"--health", "x:y"}},
		"task queue":        {nil, []string{"--inventory", good, "--task-queue", ""}, []string{"--task-queue"}},
		"half a deployment": {nil, []string{"--inventory", good, "--deployment", "site"}, []string{"build id"}},
		"unknown profile":   {nil, []string{"--inventory", good, "--profile", "nope"}, []string{"nope", "temporal.toml"}},
		"address":           {nil, []string{"--inventory", good, "--address", "here"}, []string{"here", "HOST:PORT"}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			p := start(t, c.env, c.args...)
			if code := p.exit(t, 20*time.Second); code != exitBadInput {
				t.Errorf("exit code %d, want 2", code)
			}
			for _, want := range c.want {
				if !strings.Contains(p.text(), want) {
					t.Errorf("no %q in %s", want, p.text())
				}
			}
		})
	}
}

func TestWorker_Check_LooksAtEverythingTheInventoryRefersTo(t *testing.T) {
	good := goodInventory(t)
	p := start(t, nil, "--inventory", good, "--check")
	if code := p.exit(t, 20*time.Second); code != 0 || !strings.Contains(p.text(), "1 nodes") {
		t.Errorf("%d %s", code, p.text())
	}
	dir := filepath.Dir(good)
	if err := errors.Join(os.Chmod(filepath.Join(dir, "id"), 0o644), os.Remove(filepath.Join(dir, "known_hosts"))); err != nil {
		t.Fatal(err)
	}
	p = start(t, []string{"KATOFLOW_INVENTORY=" + good}, "--check")
	if code := p.exit(t, 20*time.Second); code != exitBadInput || !strings.Contains(p.text(), "chmod 600") || !strings.Contains(p.text(), "known_hosts") {
		t.Errorf("%d %s", code, p.text())
	}
}

func TestWorker_VersionAndHelp_ExitWith0(t *testing.T) {
	p := start(t, nil, "--version")
	if code := p.exit(t, 20*time.Second); code != 0 || !strings.HasPrefix(p.text(), "katoflow-worker v0.0.0-test go1.") {
		t.Errorf("%d %q", code, p.text())
	}
	p = start(t, nil, "--help")
	if code := p.exit(t, 20*time.Second); code != 0 {
		t.Errorf("%d", code)
	}
	for _, want := range []string{"Examples:", "Exit codes:", "--stop-timeout", "TEMPORAL_ADDRESS"} {
		if !strings.Contains(p.text(), want) {
			t.Errorf("no %q in the help", want)
		}
	}
}

func TestWorker_NoServer_ExitsWith9WithinItsTimeAndNamesTheAddress(t *testing.T) {
	address := closedPort(t)
	began := time.Now()
	p := start(t, []string{"TEMPORAL_ADDRESS=" + address}, "--inventory", goodInventory(t), "--connect-timeout", "1s")
	if code := p.exit(t, 20*time.Second); code != exitNoServer {
		t.Errorf("exit code %d, want 9", code)
	}
	if took := time.Since(began); took > 15*time.Second { // a busy machine's share
		t.Errorf("took %s", took)
	}
	if !strings.Contains(p.text(), "katoflow-worker: no Temporal server answers at "+address+" (connection refused)") {
		t.Error(p.text())
	}
}

func TestWorker_SignalWhileWaitingForTheServer_ExitsWith0(t *testing.T) {
	p := start(t, nil, "--inventory", goodInventory(t), "--address", closedPort(t))
	p.waitFor(t, "waiting for the Temporal server")
	p.signal(t, syscall.SIGTERM)
	if code := p.exit(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d: %s", code, p.text())
	}
}

func devstackBinary(t *testing.T) string {
	t.Helper()
	binary, err := filepath.Abs("../bin/devstack")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("bin/devstack is not built: run `make bin/devstack`")
	}
	return binary
}

// devstack starts a server at the port (0 = a free one) and returns its address.
func devstack(t *testing.T, port string) (string, *os.Process) {
	t.Helper()
	binary := devstackBinary(t)
	ports := filepath.Join(t.TempDir(), "ports.json")
	cmd := exec.Command(binary, "server", "start-dev", "--port", port, "--no-s3", "--headless", "--ports-file", ports)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // nothing of it is kept
		<-ended
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		var stack struct{ Frontend string }
		if data, err := os.ReadFile(ports); err == nil && json.Unmarshal(data, &stack) == nil && stack.Frontend != "" {
			return stack.Frontend, cmd.Process
		}
		select {
		case <-ended:
			t.Fatalf("devstack ended: %s", out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal("devstack was not ready within a minute")
	return "", nil
}

var healthLine = regexp.MustCompile(`"health endpoint","address":"([^"]+)"`)

func ready(t *testing.T, p *program) readiness {
	t.Helper()
	m := healthLine.FindStringSubmatch(p.text())
	if m == nil {
		t.Fatalf("no health endpoint: %s", p.text())
	}
	resp, err := http.Get("http://" + m[1] + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var r readiness
	if err != nil || json.Unmarshal(body, &r) != nil || r.Ready != (resp.StatusCode == 200) {
		t.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	return r
}

func TestWorker_Server_IsUsedUntilASignalStopsItOrderly(t *testing.T) {
	address, server := devstack(t, "0")
	inventoryPath := goodInventory(t)

	t.Run("ready-and-stopped", func(t *testing.T) {
		p := start(t, []string{"KATOFLOW_HEALTH=0"}, "--inventory", inventoryPath, "--address", address, "--task-queue", "q1")
		p.waitFor(t, `"worker ready"`)
		if r := ready(t, p); !r.Ready || r.LastContact == "" {
			t.Errorf("%+v", r)
		}
		p.signal(t, syscall.SIGINT)
		if code := p.exit(t, 20*time.Second); code != 0 || !strings.Contains(p.text(), `"stopped"`) {
			t.Errorf("exit code %d: %s", code, p.text())
		}
		for _, text := range strings.Split(strings.TrimSpace(p.text()), "\n") {
			var line map[string]any
			if err := json.Unmarshal([]byte(text), &line); err != nil || line["msg"] == nil {
				t.Errorf("not a JSON log line: %q", text)
			}
		}
	})
	t.Run("deployment", func(t *testing.T) {
		p := start(t, nil, "--inventory", inventoryPath, "--address", address, "--deployment", "site", "--build-id", "b7", "--log-format", "console")
		p.waitFor(t, "worker ready")
		p.signal(t, syscall.SIGTERM)
		if code := p.exit(t, 20*time.Second); code != 0 || !strings.Contains(p.text(), "b7") || strings.Contains(p.text(), "\x1b") {
			t.Errorf("exit code %d: %s", code, p.text())
		}
	})
	t.Run("unknown-namespace", func(t *testing.T) {
		p := start(t, []string{"TEMPORAL_NAMESPACE=nowhere"}, "--inventory", inventoryPath, "--address", address)
		if code := p.exit(t, 20*time.Second); code != exitFailed || !strings.Contains(p.text(), `namespace "nowhere" does not exist`) {
			t.Errorf("exit code %d: %s", code, p.text())
		}
	})
	t.Run("missing-search-attribute", func(t *testing.T) {
		c, err := temporalkit.LoadClient(t.Context(), temporalkit.ClientOptions{Address: address, ConfigFile: os.DevNull})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.OperatorService().RemoveSearchAttributes(t.Context(), &operatorservice.RemoveSearchAttributesRequest{Namespace: "default", SearchAttributes: []string{"KatoflowNode"}}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); temporalkit.CheckSearchAttributes(t.Context(), c, "default") == nil; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the attribute stays")
			}
		}
		p := start(t, nil, "--inventory", inventoryPath, "--address", address)
		if code := p.exit(t, 20*time.Second); code != exitFailed || !strings.Contains(p.text(), "KatoflowNode") || !strings.Contains(p.text(), "katoflow init") {
			t.Errorf("exit code %d: %s", code, p.text())
		}
		if _, err := temporalkit.RegisterSearchAttributes(t.Context(), c, "default"); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); temporalkit.CheckSearchAttributes(t.Context(), c, "default") != nil; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the attribute does not come back")
			}
		}
	})
	// Last: the server is gone afterwards.
	t.Run("server-lost-then-second-signal", func(t *testing.T) {
		p := start(t, nil, "--inventory", inventoryPath, "--address", address, "--health", "0")
		p.waitFor(t, `"worker ready"`)
		if err := harness.Freeze(server.Pid); err != nil { // an orderly stop waits for its answer
			t.Fatal(err)
		}
		p.signal(t, syscall.SIGTERM)
		p.waitFor(t, "a second signal stops at once")
		p.signal(t, syscall.SIGTERM)
		if code := p.exit(t, 5*time.Second); code != exitAtOnce {
			t.Errorf("exit code %d: %s", code, p.text())
		}
	})
}

func TestWorker_ServerComesLateAndDies_IsWaitedForAndMissed(t *testing.T) {
	devstackBinary(t)
	address := freePort(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, nil, "--inventory", goodInventory(t), "--address", address, "--health", ":0")
	p.waitFor(t, "waiting for the Temporal server")
	if r := ready(t, p); r.Ready {
		t.Error("ready without a server")
	}
	_, server := devstack(t, port)
	p.waitFor(t, `"worker ready"`)
	if r := ready(t, p); !r.Ready {
		t.Errorf("%+v", r)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ready(t, p).Ready; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server's death is not noticed")
		}
	}
	p.signal(t, syscall.SIGTERM)
	if code := p.exit(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d: %s", code, p.text())
	}
}
