package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

func (h *Host) dockerDir() string { return filepath.Join(h.dir, "docker") }

// startDocker runs a docker daemon in the host's network. It lives outside of the host's namespaces, because dockerd refuses to start in nspawn; the
// host sees its socket, and it outlives the host's reboots.
func (h *Host) startDocker(ctx context.Context) error {
	if _, err := exec.LookPath("dockerd"); err != nil {
		return errors.New("docker is not installed: apt-get install docker.io")
	}
	d := h.dockerDir()
	if err := os.MkdirAll(d, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	group := h.group("docker")
	cmd := exec.Command("sh", "-c", intoGroup, "sh", group, "nsenter", "--net=/run/netns/"+h.netns(), "dockerd", "--data-root", d+"/data", "--exec-root", d+"/exec",
		"--pidfile", d+"/pid", "-H", "unix://"+d+"/docker.sock", "--group", "1000", "--cgroup-parent", "/"+group, "--bridge=none", "--iptables=false", "--ip6tables=false")
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, ownGroup()
	if err := cmd.Start(); err != nil {
		return err
	}
	h.docker = cmd
	for {
		if out, err := exec.CommandContext(ctx, "docker", "-H", "unix://"+d+"/docker.sock", "version", "--format", "{{.Server.Version}}").Output(); err == nil && len(out) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("dockerd of %s did not answer: see %s/log", h.Name(), d)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (h *Host) stopDocker() {
	if h.docker == nil {
		return
	}
	_ = h.docker.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = h.docker.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = h.docker.Process.Kill()
		<-done
	}
	h.docker = nil
}
