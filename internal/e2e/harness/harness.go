// Package harness runs the real parts of katoflow for end-to-end tests, the benchmark and the recorder of histories: Temporal (devstack), workers
// and the CLI as processes of their own, and a simulated cluster inside this one, so that it lives on when they are killed.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
)

// Root is the folder of the module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Binary is the path of a binary that `make build` makes.
func Binary(name string) (string, error) {
	path := filepath.Join(Root(), "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("bin/%s is not built: run `make build`", name)
	}
	return path, nil
}

// Process is a child process whose output goes to a file.
type Process struct {
	Name string
	Log  string // path of its combined output

	cmd  *exec.Cmd
	out  *os.File
	done chan struct{}
	err  error
}

// StartProcess runs a binary with only the given environment (and PATH, HOME, TMPDIR).
func StartProcess(name, log string, env []string, binary string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, Log: log, out: out, done: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(log), "TMPDIR=" + os.TempDir()}, env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		_ = out.Close()
		return nil, err
	}
	unguard, err := guard(p.Pid())
	if err != nil {
		p.Signal(syscall.SIGKILL)
		_ = p.cmd.Wait()
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		unguard()
		_ = out.Close()
		close(p.done)
	}()
	return p, nil
}

// guard starts a shell that kills a process group when this process has ended, however it ended: a test that panics leaves nothing behind.
func guard(group int) (end func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("sh", "-c", `cat >/dev/null; kill -KILL "-$1" 2>/dev/null`, "sh", strconv.Itoa(group))
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	return func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = w.Close()
	}, nil
}

// Pid of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process alone.
func (p *Process) Signal(s syscall.Signal) { _ = syscall.Kill(p.Pid(), s) }

// Freeze stops the process where it stands, until it is sent SIGCONT.
func (p *Process) Freeze() error { return Freeze(p.Pid()) }

// Freeze sends SIGSTOP to a process and waits until none of its threads runs: on a busy machine some go on for a while. Where there is no /proc it does not wait.
func Freeze(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		threads, err := os.ReadDir(tasks)
		running := 0
		for _, t := range threads {
			stat, err := os.ReadFile(filepath.Join(tasks, t.Name(), "stat"))
			// The state is the field after the command's name, which is in parentheses.
			if after := stat[bytes.LastIndexByte(stat, ')')+1:]; err == nil && len(after) > 1 && after[1] != 'T' {
				running++
			}
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && running == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("process %d still runs 10s after SIGSTOP", pid)
		}
	}
}

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop sends SIGTERM, and SIGKILL when that does not help within 15 s.
func (p *Process) Stop() error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(15 * time.Second):
		p.Kill()
		return fmt.Errorf("%s did not stop within 15 s of SIGTERM", p.Name)
	}
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Tail of the process's output, for messages.
func (p *Process) Tail() string {
	b, _ := os.ReadFile(p.Log)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// Size of the output so far, in bytes.
func (p *Process) Size() int64 {
	fi, err := os.Stat(p.Log)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// Contains reports whether the output has a text after offset.
func (p *Process) Contains(text string, offset int64) bool {
	b, _ := os.ReadFile(p.Log)
	return offset <= int64(len(b)) && bytes.Contains(b[offset:], []byte(text))
}

// Temporal is a running devstack.
type Temporal struct {
	*Process
	// Address of the frontend and UI of the Web UI, HOST:PORT.
	Address, UI string
	// S3 is the server beside it; its keys are random and stay with the data.
	S3 archivetest.Server

	dir  string
	args []string
}

// StartTemporal runs devstack, Temporal and S3, with its data in dir; ports are chosen free.
func StartTemporal(dir string, extra ...string) (*Temporal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	t := &Temporal{dir: dir, Address: "127.0.0.1:" + strconv.Itoa(ports[0]), UI: "127.0.0.1:" + strconv.Itoa(ports[1])}
	t.args = append([]string{"server", "start-dev", "--port", strconv.Itoa(ports[0]), "--ui-port", strconv.Itoa(ports[1]), "--s3-port", strconv.Itoa(ports[2]),
		"--data", filepath.Join(dir, "data"), "--ports-file", filepath.Join(dir, "ports.json")}, extra...)
	return t, t.Start()
}

// Start runs it, again after Kill on the same ports and data, and waits until it answers.
func (t *Temporal) Start() error {
	binary, err := Binary("devstack")
	if err != nil {
		return err
	}
	ready := filepath.Join(t.dir, "ports.json")
	_ = os.Remove(ready)
	t.Process, err = StartProcess("devstack", filepath.Join(t.dir, "devstack.log"), nil, binary, t.args...)
	if err != nil {
		return err
	}
	err = WaitFor(90*time.Second, "devstack to answer", func() (bool, error) {
		select {
		case <-t.Ended():
			return false, fmt.Errorf("devstack ended: %s", t.Tail())
		default:
		}
		st, err := os.Stat(ready)
		return err == nil && st.Size() > 0, nil
	})
	if err != nil {
		return err
	}
	return t.readS3(ready)
}

// readS3 takes the S3 server's address and keys from devstack's ports file.
func (t *Temporal) readS3(ports string) error {
	b, err := os.ReadFile(ports)
	if err != nil {
		return err
	}
	var found struct {
		S3 struct{ Endpoint, Region, AccessKey, SecretKey string }
	}
	if err := json.Unmarshal(b, &found); err != nil {
		return fmt.Errorf("%s: %w", ports, err)
	}
	t.S3 = archivetest.Server{URL: found.S3.Endpoint, Region: found.S3.Region, AccessKey: found.S3.AccessKey, SecretKey: found.S3.SecretKey}
	return nil
}

// Client connects to it.
func (t *Temporal) Client() (client.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return client.DialContext(ctx, client.Options{HostPort: t.Address, Logger: silent{}})
}

type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

// Site is a worker's configuration: where Temporal is, which queue it polls, which inventory it has.
type Site struct {
	Dir       string
	Temporal  *Temporal
	Queue     string
	Inventory string
	// Env is added to the workers' environment.
	Env []string

	mu      sync.Mutex
	workers []*Worker
	count   int
}

// S3Section makes the lines of an inventory's cluster that name a bucket, seen at endpoint, and writes the keys into files of dir that they refer to.
func S3Section(dir, endpoint string, bucket *archivetest.Bucket, more ...string) (string, error) {
	access, secret := filepath.Join(dir, "s3-access-key"), filepath.Join(dir, "s3-secret-key")
	for file, key := range map[string]string{access: bucket.Server.AccessKey, secret: bucket.Server.SecretKey} {
		if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("    s3: {endpoint: %q, region: %s, bucket: %s, path_style: true, access_key: {file: %q}, secret_key: {file: %q}%s}\n",
		endpoint, bucket.Server.Region, bucket.Name, access, secret, strings.Join(append([]string{""}, more...), ", ")), nil
}

// Worker is a katoflow-worker process.
type Worker struct{ *Process }

// StartWorker starts one more worker and waits until it polls. address replaces Temporal's own, for a worker behind a proxy.
func (s *Site) StartWorker(address string, extra ...string) (*Worker, error) {
	binary, err := Binary("katoflow-worker")
	if err != nil {
		return nil, err
	}
	if address == "" {
		address = s.Temporal.Address
	}
	s.mu.Lock()
	s.count++
	log := filepath.Join(s.Dir, fmt.Sprintf("worker-%d.log", s.count))
	s.mu.Unlock()
	args := append([]string{"--inventory", s.Inventory, "--task-queue", s.Queue, "--address", address, "--log-format", "json", "--log-level", "info"}, extra...)
	p, err := StartProcess("katoflow-worker", log, s.Env, binary, args...)
	if err != nil {
		return nil, err
	}
	w := &Worker{p}
	s.mu.Lock()
	s.workers = append(s.workers, w)
	s.mu.Unlock()
	return w, WaitFor(60*time.Second, "the worker to be ready", func() (bool, error) {
		select {
		case <-p.Ended():
			return false, fmt.Errorf("the worker ended: %s", p.Tail())
		default:
		}
		return p.Contains("worker ready", 0), nil
	})
}

// Close ends every worker.
func (s *Site) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.workers {
		w.Kill()
	}
	s.workers = nil
}

// Output of a command-line call.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// Katoflow runs the CLI to its end, at most for limit.
func (s *Site) Katoflow(limit time.Duration, args ...string) (Output, error) {
	cmd, stdout, stderr, err := s.command(args...)
	if err != nil {
		return Output{}, err
	}
	if err := cmd.Start(); err != nil {
		return Output{}, err
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	timer.Stop()
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return out, err
	}
	if out.Code == -1 {
		return out, fmt.Errorf("katoflow %s did not end within %s", strings.Join(args, " "), limit)
	}
	return out, nil
}

// asksWorker says whether a command takes --task-queue: it has a worker do the work.
func asksWorker(command, verb string) bool {
	switch command {
	case "upgrade", "patch", "access", "storage", "snapshot":
		return true
	case "cluster":
		return verb != "show"
	case "backup":
		return verb != "download"
	case "apps":
		return verb != "report"
	}
	return false
}

func (s *Site) command(args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer, error) {
	binary, err := Binary("katoflow")
	if err != nil {
		return nil, nil, nil, err
	}
	if len(args) > 1 && !slices.Contains(args, "--task-queue") && asksWorker(args[0], args[1]) {
		args = append(args, "--task-queue", s.Queue)
	}
	cmd := exec.Command(binary, args...)
	address := "127.0.0.1:1"
	if s.Temporal != nil {
		address = s.Temporal.Address
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "TEMPORAL_ADDRESS=" + address, "KATOFLOW_INVENTORY=" + s.Inventory, "TERM=dumb"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return cmd, &stdout, &stderr, nil
}

// WaitFor polls until the condition holds; an error of it ends the wait.
func WaitFor(limit time.Duration, what string, condition func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := condition()
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Proxy forwards TCP connections to target until it is cut, so that a process can be parted from Temporal.
type Proxy struct {
	Address string

	listener net.Listener
	target   string
	mu       sync.Mutex
	cut      bool
	open     map[net.Conn]bool
}

// StartProxy listens on a free loopback port.
func StartProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{Address: l.Addr().String(), listener: l, target: target, open: map[net.Conn]bool{}}
	go p.serve()
	return p, nil
}

func (p *Proxy) serve() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		cut := p.cut
		p.mu.Unlock()
		if cut {
			_ = in.Close()
			continue
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.open[in], p.open[out] = true, true
		p.mu.Unlock()
		pipe := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			_ = to.Close()
			_ = from.Close()
			p.mu.Lock()
			delete(p.open, to)
			delete(p.open, from)
			p.mu.Unlock()
		}
		go pipe(in, out)
		go pipe(out, in)
	}
}

// Cut ends all connections and refuses new ones; Mend takes them again.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.open {
		_ = c.Close()
	}
}

// Mend undoes Cut.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// Close ends the proxy.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.Cut()
}

// freePorts asks the system for ports that are free now.
func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

// JSON decodes the standard output of a call with -o json.
func (o Output) JSON(into any) error { return json.Unmarshal([]byte(o.Stdout), into) }
