package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/lab"
	"github.com/katoflow/katoflow/internal/operation"
)

var (
	//go:embed floor.sh
	floorScript string
	//go:embed playbook.yaml
	playbook []byte
	//go:embed ansible.cfg
	ansibleConfig []byte
)

// limit of one run.
const limit = 15 * time.Minute

// katoflow runs the operation with each gate held once.
func (b *bench) katoflow(ctx context.Context, s *site) (time.Duration, error) {
	return b.operation(ctx, s, "    gates: {times: 1, interval: 100ms}\n")
}

func (b *bench) katoflowWithWindow(ctx context.Context, s *site) (time.Duration, error) {
	return b.operation(ctx, s, "")
}

// operation is the time of a SecurityUpgrade from its request to its report. Server and worker are there before, as a service is.
func (b *bench) operation(ctx context.Context, s *site, settings string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name := s.cluster.Name()
	head := "  " + name + ":\n"
	text := strings.Replace(string(s.cluster.InventoryYAML()), head, head+settings, 1)
	inventory := filepath.Join(s.dir, "inventory.yaml")
	if err := os.WriteFile(inventory, []byte(text), 0o600); err != nil {
		return 0, err
	}
	worker, err := harness.StartProcess("katoflow-worker", filepath.Join(s.dir, "worker.log"), nil, b.worker, "--inventory", inventory, "--task-queue", name,
		"--address", b.temporal.Address, "--log-format", "json", "--log-level", "info")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %s", err, operation.Shorten(worker.Tail(), 2000))
		}
		err = errors.Join(err, worker.Stop())
	}()
	if err := harness.WaitFor(time.Minute, "the worker to be ready", func() (bool, error) {
		select {
		case <-worker.Ended():
			return false, errors.New("the worker ended")
		default:
		}
		return worker.Contains("worker ready", 0), nil
	}); err != nil {
		return 0, err
	}
	c, err := b.temporal.Client()
	if err != nil {
		return 0, err
	}
	defer c.Close()

	began := time.Now()
	in := operation.SecurityUpgradeInput{Batch: "1"}
	in.Cluster, in.OperationID = name, name
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: operation.WorkflowID(name, operation.KindSecurityUpgrade, in.OperationID), TaskQueue: name, WorkflowTaskTimeout: 5 * time.Second,
		TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(name), operation.AttributeOperation.ValueSet(operation.KindSecurityUpgrade)),
	}, operation.WorkflowSecurityUpgrade, in)
	if err != nil {
		return 0, err
	}
	var report operation.Report
	if err := run.Get(ctx, &report); err != nil {
		return 0, err
	}
	took = time.Since(began)
	for _, n := range report.Nodes {
		if n.Status != operation.NodeDone || n.Proof == nil || n.Proof.BootIDAfter == n.Proof.BootIDBefore || n.ChangeCount == 0 {
			return 0, fmt.Errorf("the report of %s shows no upgrade with a boot proof: %+v", n.Name, n)
		}
	}
	if b.timeline {
		return took, tell(ctx, c, run.GetID(), began)
	}
	return took, nil
}

// ansible is the time of an ansible-playbook from its start to its end.
func (b *bench) ansible(ctx context.Context, s *site) (time.Duration, error) {
	var hosts strings.Builder
	for _, h := range s.cluster.Hosts() {
		fmt.Fprintf(&hosts, "%s ansible_host=%s ansible_user=%s ansible_ssh_private_key_file=%s\n", h.Name(), h.Address(), lab.LoginUser, s.cluster.ClientKeyPath())
	}
	// What ansible.cfg cannot say without the path. ControlPersist as Ansible's documentation has it.
	config := string(ansibleConfig) + fmt.Sprintf("control_path_dir = %s\nssh_args = -C -o ControlMaster=auto -o ControlPersist=60s -o IdentitiesOnly=yes -o UserKnownHostsFile=%s -o GlobalKnownHostsFile=/dev/null\n",
		s.sockets(), s.cluster.KnownHostsPath())
	for name, text := range map[string][]byte{"hosts": []byte(hosts.String()), "ansible.cfg": []byte(config), "playbook.yaml": playbook} {
		if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
			return 0, err
		}
	}
	return s.command(ctx, "ansible-playbook", "-i", "hosts", "playbook.yaml")
}

// floor is the time of a bare loop over ssh.
func (b *bench) floor(ctx context.Context, s *site) (time.Duration, error) {
	var config strings.Builder
	for _, h := range s.cluster.Hosts() {
		fmt.Fprintf(&config, "Host %s\n  HostName %s\n", h.Name(), h.Address())
	}
	fmt.Fprintf(&config, "Host *\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile /dev/null\n  BatchMode yes\n  ConnectTimeout 1\n",
		lab.LoginUser, s.cluster.ClientKeyPath(), s.cluster.KnownHostsPath())
	// One connection a boot: each new one takes about a tenth of a second.
	fmt.Fprintf(&config, "  ControlMaster auto\n  ControlPersist 60\n  ControlPath %s/%%n\n", s.sockets())
	path := filepath.Join(s.dir, "ssh_config")
	if err := os.WriteFile(path, []byte(config.String()), 0o600); err != nil {
		return 0, err
	}
	argv := []string{"sh", "-c", floorScript, "sh", path}
	for _, h := range s.cluster.Hosts() {
		argv = append(argv, h.Name())
	}
	return s.command(ctx, argv...)
}

func (s *site) sockets() string { return filepath.Join(s.dir, "ssh") }

// command runs a peer and returns how long it took. The ssh masters that it leaves behind end here.
func (s *site) command(ctx context.Context, argv ...string) (took time.Duration, err error) {
	if err := os.Mkdir(s.sockets(), 0o700); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	log, err := os.Create(filepath.Join(s.dir, "output"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	// Nothing of the user's own configuration counts.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C.UTF-8", "ANSIBLE_CONFIG=" + filepath.Join(s.dir, "ansible.cfg")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	err = cmd.Run()
	took = time.Since(began)
	if text, readErr := os.ReadFile(log.Name()); err != nil && readErr == nil {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		err = fmt.Errorf("%w: %s", err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	masters, _ := filepath.Glob(filepath.Join(s.sockets(), "*"))
	for _, m := range masters {
		// One that is gone with its node needs no end.
		_ = exec.Command("ssh", "-F", "/dev/null", "-o", "ControlPath="+m, "-O", "exit", "node").Run()
	}
	return took, err
}
