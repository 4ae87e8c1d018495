package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dockerRun is where a host has the folder of its daemon's socket; /run/docker.sock is a link into it. The folder and not the socket is mounted there, so that the host
// can boot before its daemon runs.
const dockerRun = "/run/katoflow-docker"

// dockerClient is where a host has this machine's client; /usr/bin/docker is a link to it, so that it can be made to fail as other programs.
const dockerClient = "usr/local/lib/katoflow-lab/docker"

const dockerTmpfiles = "L /run/docker.sock - - - - " + dockerRun + "/docker.sock\n"

// daemon is a docker daemon. It lives outside of the hosts, because dockerd refuses to start in nspawn.
type daemon struct {
	dir string
	// group is the daemon's control group, and apps that of its containers.
	group, apps string
	cmd         *exec.Cmd
	ended       chan struct{} // closed when cmd has ended
}

// inPrivate runs the arguments with a /run of their own. What the daemon mounts, and what containerd leaves in /run/containerd, is gone with the last of its processes.
const inPrivate = `mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"`

// start runs a docker daemon with its files in d.dir, in the network that the program and arguments of enter lead to, and waits until it answers.
func (d *daemon) start(ctx context.Context, enter []string, args ...string) error {
	if _, err := exec.LookPath("dockerd"); err != nil {
		return errors.New("docker is not installed: apt-get install docker.io")
	}
	if err := os.MkdirAll(filepath.Join(d.dir, "run"), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := slices.Concat([]string{"-c", intoGroup, "sh", d.group}, enter, []string{"unshare", "--mount", "sh", "-c", inPrivate, "sh", "dockerd", "--data-root", d.dir + "/data", "--exec-root", d.dir + "/exec",
		"--pidfile", d.dir + "/pid", "-H", d.socket(), "--group", strconv.Itoa(loginID), "--cgroup-parent", "/" + d.apps, "--storage-driver", "overlay2", "--ip6tables=false"}, args)
	cmd := exec.Command("sh", argv...)
	cmd.Env = dockerEnvironment // a proxy of this machine is not the hosts'
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, ownGroup()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	d.cmd, d.ended = cmd, ended
	go func() { _ = cmd.Wait(); close(ended) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.dir+"/run/docker.sock")
	}}}
	for {
		if ping(ctx, client, "http://docker/_ping") {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("dockerd ended: %s", lastLine(filepath.Join(d.dir, "log")))
		case <-ctx.Done():
			return fmt.Errorf("dockerd did not answer: see %s/log", d.dir)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ping reports whether a server answers.
func ping(ctx context.Context, client *http.Client, url string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	answer, err := client.Do(r)
	if err != nil {
		return false
	}
	return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
}

var dockerEnvironment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}

func (d *daemon) socket() string { return "unix://" + d.dir + "/run/docker.sock" }

// docker runs the client and returns what it prints; its complaints are in the error.
func (d *daemon) docker(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", d.socket()}, args...)...)
	var complaints bytes.Buffer
	cmd.Stdin, cmd.Stderr, cmd.Env, cmd.WaitDelay = stdin, &complaints, dockerEnvironment, 5*time.Second
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("docker %s: %w: %s", strings.Join(args[:min(len(args), 2)], " "), err, strings.TrimSpace(complaints.String()))
	}
	return out, nil
}

// end asks the daemon to end, which writes what it has to write.
func (d *daemon) end() {
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.ended:
		case <-time.After(10 * time.Second):
		}
	}
	d.kill()
}

// kill ends the daemon and its containers at once.
func (d *daemon) kill() {
	for range 100 {
		all := append(groupProcesses(d.group), groupProcesses(d.apps)...)
		if len(all) == 0 {
			break
		}
		for _, p := range all {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	d.cmd = nil
}

// groupProcesses are those of a control group and the groups below it.
func groupProcesses(group string) []int {
	var out []int
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		tops, _ := filepath.Glob(pattern + group)
		for _, top := range tops {
			_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
				if err != nil || e.Name() != "cgroup.procs" {
					return nil // a group may go at any time
				}
				b, _ := os.ReadFile(path)
				for _, word := range strings.Fields(string(b)) {
					if p, err := strconv.Atoi(word); err == nil && p > 1 && !slices.Contains(out, p) {
						out = append(out, p)
					}
				}
				return nil
			})
		}
	}
	return out
}

func lastLine(path string) string {
	b, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// startDocker runs a docker daemon in the host's network. The host sees its socket, and the folder of its images where docker info says that it is; the daemon and its
// containers outlive the host's reboots.
func (h *Host) startDocker(ctx context.Context) error {
	args := []string{"--bridge=none", "--iptables=false"}
	if h.c.cfg.Images {
		// Containers have the daemon's usual network, and go out by the host's address.
		args = []string{"--insecure-registry", h.c.lab.registryAddress()}
		data, err := h.c.lab.imageData(ctx)
		if err != nil {
			return fmt.Errorf("the base image: %w", err)
		}
		if err := run(ctx, "cp", "-aT", data, filepath.Join(h.docker.dir, "data")); err != nil {
			return err
		}
	}
	return h.docker.start(ctx, []string{"nsenter", "--net=/run/netns/" + h.netns()}, args...)
}

// startDocker runs the daemons of the hosts that have one, and the registry, and returns at once; wait waits for them.
func (c *Cluster) startDocker(ctx context.Context) (wait func() error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	var started []chan error
	start := func(what string, do func(context.Context) error) {
		done := make(chan error, 1)
		started = append(started, done)
		go func() {
			if err := do(ctx); err != nil {
				done <- fmt.Errorf("%s: %w", what, err)
			}
			close(done)
		}()
	}
	if c.cfg.Registry {
		start("the registry", func(ctx context.Context) error { return c.lab.startRegistry(ctx, c.cfg.Images) })
	}
	for _, h := range c.hosts {
		if h.docker != nil {
			start("docker of "+h.Name(), h.startDocker)
		}
	}
	return func() error {
		defer cancel()
		var all []error
		for _, done := range started {
			all = append(all, <-done)
		}
		return errors.Join(all...)
	}
}

// Docker runs docker's client with the daemon of the host, from outside of it, and returns what it prints.
func (h *Host) Docker(ctx context.Context, args ...string) ([]byte, error) {
	if h.docker == nil {
		return nil, fmt.Errorf("%s has no docker", h.Name())
	}
	out, err := h.docker.docker(ctx, nil, args...)
	if err != nil {
		return out, fmt.Errorf("%s: %w", h.Name(), err)
	}
	return out, nil
}
