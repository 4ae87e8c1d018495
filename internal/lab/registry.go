package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const registryProgram = "docker-registry"

func (l *Lab) registryAddress() string { return net.JoinHostPort(l.bridge.String(), "5000") }

// writeRegistry writes the configuration of a docker registry with its files in dir, and returns its path.
func writeRegistry(dir, address string) (string, error) {
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "data"), address)
	return config, errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(config, []byte(text), 0o644))
}

// startRegistry runs a docker registry at the bridge, once for the lab. It is gone with the lab. With images it has the layers of seedImage.
func (l *Lab) startRegistry(ctx context.Context, images bool) error {
	seed := ""
	if images {
		if _, err := l.imageData(ctx); err != nil {
			return err
		}
		seed = l.seedRegistry
	}
	l.registryMu.Lock()
	defer l.registryMu.Unlock()
	if l.registry != nil {
		return nil
	}
	program, err := exec.LookPath(registryProgram)
	if err != nil {
		return errors.New("not installed: apt-get install docker-registry")
	}
	dir := filepath.Join(l.cfg.Dir, "registry")
	config, err := writeRegistry(dir, l.registryAddress())
	if err != nil {
		return err
	}
	if seed != "" {
		if err := run(ctx, "cp", "-a", seed, filepath.Join(dir, "data")); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("sh", "-c", intoGroup, "sh", "katoflow-"+l.cfg.Name+"/registry", program, "serve", config)
	cmd.Env = dockerEnvironment
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, ownGroup()
	if err := cmd.Start(); err != nil {
		return err
	}
	l.registry = cmd
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		if ping(ctx, client, "http://"+l.registryAddress()+"/v2/") {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended: %s", lastLine(log.Name()))
		case <-ctx.Done():
			return fmt.Errorf("no answer: see %s", log.Name())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Registry is the address of the lab's docker registry, HOST:PORT, which daemons of hosts with images use without TLS; "" where the cluster has not asked for one. All
// clusters of a lab have the same one.
func (c *Cluster) Registry() string {
	if !c.cfg.Registry {
		return ""
	}
	return c.lab.registryAddress()
}
