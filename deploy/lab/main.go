// Command lab makes a cluster of real Debian hosts on this machine, for trying katoflow on more than a simulation. `make lab-up` runs it. It needs root on
// Linux.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// folder of the lab that people use; it is named by --name and can be changed for none of its parts.
func folder(name string) string { return filepath.Join("/var/lib/katoflow-lab", name) }

func newCommand() *cobra.Command {
	root := &cobra.Command{Use: "lab", Short: "A cluster of real Debian hosts on this machine", SilenceUsage: true, SilenceErrors: true}
	name := root.PersistentFlags().String("name", "lab", "name of the lab: 1 to 6 of a-z and 0-9")
	root.AddCommand(upCommand(name, true), upCommand(name, false), downCommand(name), statusCommand(name), faultCommand(name), faultsCommand())
	return root
}

// settings of a lab.
type settings struct {
	nodes                   int
	platform, kato, sudoers string
	docker                  bool
	images, registry        bool
}

// upCommand is `up`, which leaves the lab running in the background, or `run`, which is what runs there.
func upCommand(name *string, background bool) *cobra.Command {
	var s settings
	cmd := &cobra.Command{Use: "run", Short: "Run the lab until Ctrl-C or `lab down`", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), cmd.ErrOrStderr(), *name, s) }
	if background {
		cmd.Use, cmd.Short = "up", "Make and boot the lab; nothing is done when it is up already"
		cmd.Example = "  lab up --nodes 5\n  lab up --platform plain --nodes 3"
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return up(cmd, *name, s) }
	}
	f := cmd.Flags()
	f.IntVar(&s.nodes, "nodes", 5, "number of hosts")
	f.StringVar(&s.platform, "platform", "als", "als (a Core, DEAs and data services, with the kato double) or plain")
	f.StringVar(&s.kato, "kato", "bin/kato", "compiled kato double")
	f.StringVar(&s.sudoers, "sudoers", "deploy/sudoers/katoflow", "sudoers file that the hosts get, with --images the one of that name and -images too")
	f.BoolVar(&s.docker, "docker", true, "docker on the dea hosts")
	f.BoolVar(&s.images, "images", false, "a docker base image on the dea hosts, in which packages are pending, and sudo for docker there")
	f.BoolVar(&s.registry, "registry", false, "a docker registry for them")
	return cmd
}

func (s settings) check() error {
	if s.nodes < 1 || s.nodes > 60 {
		return fmt.Errorf("--nodes %d is not between 1 and 60", s.nodes)
	}
	if s.platform != "als" && s.platform != "plain" {
		return fmt.Errorf("--platform %q: choose als or plain", s.platform)
	}
	if s.images && s.platform != "als" {
		return errors.New("--images needs --platform als: docker is on dea hosts")
	}
	return nil
}

// up starts `run` in the background and waits until the hosts are up.
func up(cmd *cobra.Command, name string, s settings) error {
	if err := errors.Join(s.check(), lab.Supported()); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if _, err := call(cmd.Context(), name, http.MethodGet, "/status", nil); err == nil {
		fmt.Fprintln(out, "the lab is up already; `make lab-down` ends it")
		return describe(cmd.Context(), out, name)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.CreateTemp("", "katoflow-lab-"+name+"-*.log")
	if err != nil {
		return err
	}
	defer log.Close()
	run := exec.Command(self, "run", "--name", name, "--nodes", strconv.Itoa(s.nodes), "--platform", s.platform, "--kato", s.kato, "--sudoers", s.sudoers, fmt.Sprintf("--docker=%v", s.docker),
		fmt.Sprintf("--images=%v", s.images), fmt.Sprintf("--registry=%v", s.registry))
	run.Stdout, run.Stderr, run.SysProcAttr = log, log, &syscall.SysProcAttr{Setsid: true}
	if err := run.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	began := time.Now()
	fmt.Fprintf(out, "making %d hosts (the first time the base system is fetched, a minute or two)\n", s.nodes)
	for {
		select {
		case <-ended:
			b, _ := os.ReadFile(log.Name())
			_ = os.Remove(log.Name())
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			return fmt.Errorf("the lab was not made: %s", strings.TrimPrefix(lines[len(lines)-1], "lab: "))
		case <-cmd.Context().Done():
			_ = run.Process.Signal(syscall.SIGTERM)
			<-ended
			_ = os.Remove(log.Name())
			return errors.New("interrupted: the lab was removed")
		case <-time.After(100 * time.Millisecond):
		}
		if _, err := call(cmd.Context(), name, http.MethodGet, "/status", nil); err == nil {
			break
		}
	}
	_ = os.Rename(log.Name(), filepath.Join(folder(name), "lab.log"))
	fmt.Fprintf(out, "up after %s\n", time.Since(began).Round(time.Second))
	return describe(cmd.Context(), out, name)
}

// describe says how to use a lab that is up.
func describe(ctx context.Context, out io.Writer, name string) error {
	if err := status(ctx, out, name); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n  export KATOFLOW_INVENTORY=%s\n  ssh -i %s -o UserKnownHostsFile=%s %s@ADDRESS\n", filepath.Join(folder(name), "inventory.yaml"),
		filepath.Join(folder(name), "cluster-"+name, "id_ed25519"), filepath.Join(folder(name), "cluster-"+name, "known_hosts"), lab.LoginUser)
	return nil
}

// serve makes the lab and holds it until it is to end.
func serve(ctx context.Context, log io.Writer, name string, s settings) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	sudoers, err := os.ReadFile(s.sudoers)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(log, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
	}
	l, err := lab.Open(ctx, lab.Config{Name: name, Kato: s.kato, Sudoers: sudoers, Log: say})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	nodes := lab.DefaultNodes(s.nodes)
	if s.platform == "plain" {
		for i := range nodes {
			nodes[i] = lab.NodeConfig{Name: fmt.Sprintf("node-%d", i+1)}
		}
	}
	cfg := lab.ClusterConfig{Name: name, Platform: s.platform, Nodes: nodes, Docker: s.docker, Images: s.images, Registry: s.registry}
	if s.images {
		b, err := os.ReadFile(s.sudoers + "-images")
		if err != nil {
			return err
		}
		cfg.Sudoers = map[string][]byte{"katoflow-images": b}
	}
	c, err := l.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(c.Close(), err) }()
	if err := os.WriteFile(filepath.Join(l.Dir(), "inventory.yaml"), c.InventoryYAML(), 0o600); err != nil {
		return err
	}
	ctx, down := context.WithCancel(ctx)
	defer down()
	listener, err := net.Listen("unix", filepath.Join(l.Dir(), "control"))
	if err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(l.Dir(), "control"), 0o600); err != nil {
		return err
	}
	server := &http.Server{Handler: c.ControlHandler(down), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return server.Shutdown(stop)
}

// call asks the running lab.
func call(ctx context.Context, name, method, path string, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(folder(name), "control"))
	}}}
	r, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, errors.New("the lab is not up: `make lab-up`")
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 != 2 {
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return text, nil
}

func downCommand(name *string) *cobra.Command {
	return &cobra.Command{Use: "down", Short: "End the lab and remove all of it, also a half-made one", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := lab.Supported(); err != nil {
			return err
		}
		if _, err := call(cmd.Context(), *name, http.MethodPost, "/down", nil); err == nil {
			for range 600 {
				if _, err := os.Stat(folder(*name)); errors.Is(err, os.ErrNotExist) {
					fmt.Fprintln(cmd.OutOrStdout(), "the lab is down")
					return nil
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		if err := lab.Clean(cmd.Context(), *name, ""); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "the lab is down")
		return nil
	}}
}

func status(ctx context.Context, out io.Writer, name string) error {
	b, err := call(ctx, name, http.MethodGet, "/status", nil)
	if err != nil {
		return err
	}
	var hosts []lab.HostStatus
	if err := json.Unmarshal(b, &hosts); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tADDRESS\tSTATE\tBOOTS\tPENDING\tROLES")
	for _, h := range hosts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", h.Name, h.Address, map[bool]string{true: "up", false: "down"}[h.Up], h.Boots, h.Pending, strings.Join(h.Roles, ","))
	}
	return w.Flush()
}

func statusCommand(name *string) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show the hosts", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return status(cmd.Context(), cmd.OutOrStdout(), *name)
	}}
}

func faultCommand(name *string) *cobra.Command {
	return &cobra.Command{Use: "fault HOST FAULT [ARGUMENT...]", Short: "Break something; `lab faults` lists what",
		Example: "  lab fault dea-1 silence on\n  lab fault core power-off", Args: cobra.MinimumNArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
			_, err := call(cmd.Context(), *name, http.MethodPost, "/nodes/"+args[0]+"/faults/"+args[1], args[2:])
			return err
		}}
}

func faultsCommand() *cobra.Command {
	return &cobra.Command{Use: "faults", Short: "List the faults", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		for _, f := range lab.Faults() {
			fmt.Fprintf(w, "%s\t%s\n", strings.TrimSpace(f.Name+" "+f.Usage), f.Help)
		}
		return w.Flush()
	}}
}
