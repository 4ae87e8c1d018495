// Command simcluster runs a simulated cluster as a process, for the demo, and injects faults into it.
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
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/simcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "simcluster:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{Use: "simcluster", Short: "A simulated cluster of nodes behind real SSH servers", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(serveCommand(), faultCommand(), showCommand())
	return root
}

// readyFile is written when the cluster can be used.
type readyFile struct {
	Cluster    string `json:"cluster"`
	Inventory  string `json:"inventory"`
	KnownHosts string `json:"known_hosts"`
	Key        string `json:"key"`
	Control    string `json:"control"`
	Controller string `json:"controller,omitempty"` // URL of the Cloud Controller
	PID        int    `json:"pid"`
}

const controlFile = "control"

func serveCommand() *cobra.Command {
	var cfg simcluster.Config
	var nodesFile, ready string
	var count, control int
	var slow time.Duration
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a cluster until SIGTERM or Ctrl-C",
		Long: `Run a cluster until SIGTERM or Ctrl-C. The folder gets inventory.yaml, known_hosts, id_ed25519 and the nodes' files;
a folder used before keeps its keys, not its ports. An ALS cluster has a Cloud Controller too, whose certificate and password are in the folder.`,
		Example: "  simcluster serve --dir .demo/cluster --boot-time 2s --upgrade-time 3s\n  simcluster serve --dir /tmp/big --platform plain --count 500 --boot-time 100ms",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case nodesFile != "" && count > 0:
				return errors.New("--nodes-file and --count exclude each other")
			case count < 0 || count > 5000:
				return fmt.Errorf("--count %d is not between 1 and 5000", count)
			case nodesFile != "":
				nodes, err := readNodes(nodesFile)
				if err != nil {
					return err
				}
				cfg.Nodes = nodes
			case count > 0:
				cfg.Nodes = manyNodes(count, cfg.Platform)
			}
			if cfg.BootTime == 0 {
				cfg.BootTime = -1 // zero as asked, not the default
			}
			return serve(cmd.Context(), cmd.OutOrStdout(), cfg, control, ready)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Dir, "dir", ".demo/cluster", "folder of the cluster's files")
	f.StringVar(&cfg.Platform, "platform", "als", "als or plain")
	f.StringVar(&cfg.Name, "name", "demo", "name of the cluster in the inventory")
	f.StringVar(&nodesFile, "nodes-file", "", "YAML list of nodes: name, roles, kernel, container, apps, mounts (a list of path and size in bytes)")
	f.IntVar(&count, "count", 0, "run this many nodes instead of the demo's five")
	f.IntVar(&control, "control", 0, "port of the control API on 127.0.0.1 (0 = free)")
	f.DurationVar(&cfg.BootTime, "boot-time", 100*time.Millisecond, "how long a boot takes")
	f.DurationVar(&cfg.UpgradeTime, "upgrade-time", 0, "how long installing a node's updates takes")
	f.DurationVar(&cfg.RoleStartTime, "role-start-time", 0, "how long kato's roles take to start after a boot")
	f.DurationVar(&slow, "shutdown-time", 5*time.Millisecond, "how long a shutdown takes")
	f.StringVar(&ready, "ready-file", "", "written when the cluster is up (default DIR/ready)")
	cmd.PreRun = func(*cobra.Command, []string) {
		cfg.ShutdownTime = slow
		if ready == "" {
			ready = filepath.Join(cfg.Dir, "ready")
		}
	}
	return cmd
}

func readNodes(file string) ([]simcluster.NodeConfig, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []struct {
		Name      string   `yaml:"name"`
		Roles     []string `yaml:"roles"`
		Kernel    string   `yaml:"kernel"`
		Container bool     `yaml:"container"`
		Apps      int      `yaml:"apps"`
		Mounts    []struct {
			Path string `yaml:"path"`
			Size int64  `yaml:"size"`
			// Type and Options as /proc/mounts tells them.
			Type       string `yaml:"type"`
			Options    string `yaml:"options"`
			NotInFstab bool   `yaml:"not_in_fstab"`
		} `yaml:"mounts"`
	}
	if err := yaml.UnmarshalWithOptions(b, &list, yaml.DisallowUnknownField()); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var nodes []simcluster.NodeConfig
	for _, n := range list {
		node := simcluster.NodeConfig{Name: n.Name, Roles: n.Roles, Kernel: n.Kernel, Container: n.Container, Apps: n.Apps}
		for _, m := range n.Mounts {
			node.Mounts = append(node.Mounts, simcluster.Mount{Path: m.Path, Size: m.Size, Type: m.Type, Options: m.Options, NotInFstab: m.NotInFstab})
		}
		nodes = append(nodes, node)
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("%s: no nodes", file)
	}
	return nodes, nil
}

// manyNodes is a Core node and DEAs, or hosts without roles.
func manyNodes(count int, platform string) []simcluster.NodeConfig {
	nodes := make([]simcluster.NodeConfig, count)
	for i := range nodes {
		nodes[i] = simcluster.NodeConfig{Name: fmt.Sprintf("node-%03d", i+1)}
		if platform != "plain" {
			nodes[i].Roles = []string{"base", "dea"}
			if i == 0 {
				nodes[i].Roles = []string{"base", "primary", "controller", "router"}
			}
		}
	}
	return nodes
}

func serve(ctx context.Context, out io.Writer, cfg simcluster.Config, control int, ready string) (err error) {
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return err
	}
	os.Remove(ready)
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(control)))
	if err != nil {
		return fmt.Errorf("control port: %w", err)
	}
	defer l.Close()
	c, err := simcluster.Start(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	inventory := filepath.Join(c.Dir(), "inventory.yaml")
	if err := c.WriteInventory(inventory); err != nil {
		return err
	}
	url := "http://" + l.Addr().String()
	if err := os.WriteFile(filepath.Join(c.Dir(), controlFile), []byte(url+"\n"), 0o644); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(c.Dir(), controlFile))
	server := &http.Server{Handler: c.ControlHandler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	b, err := json.MarshalIndent(readyFile{c.Name(), inventory, c.KnownHostsPath(), c.ClientKeyPath(), url, c.ControllerURL(), os.Getpid()}, "", "  ")
	if err != nil {
		return err
	}
	if err := writeWhole(ready, append(b, '\n')); err != nil {
		return err
	}
	defer os.Remove(ready)
	fmt.Fprintf(out, "%d nodes, inventory %s, control %s\n", len(c.Nodes()), inventory, url)
	select {
	case <-ctx.Done():
	case err := <-served:
		return fmt.Errorf("control API: %w", err)
	}
	stop, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		server.Close()
	}
	return nil
}

// writeWhole makes a file appear with its whole content.
func writeWhole(file string, content []byte) error {
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// address finds the control API of a running cluster.
func address(dir, control string) (string, error) {
	if control != "" {
		if !strings.Contains(control, "://") {
			control = "http://127.0.0.1:" + control
		}
		return control, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, controlFile))
	if err != nil {
		return "", fmt.Errorf("no cluster runs in %s (start one with simcluster serve, or name its folder with --dir)", dir)
	}
	return strings.TrimSpace(string(b)), nil
}

func request(ctx context.Context, method, url string, body any) ([]byte, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, errors.New(strings.TrimSpace(string(b)))
	}
	return b, nil
}

func faultCommand() *cobra.Command {
	var dir, control string
	var help strings.Builder
	help.WriteString("Inject a fault into a node of a running cluster.\n\nFaults:\n")
	tw := tabwriter.NewWriter(&help, 2, 4, 2, ' ', 0)
	for _, f := range simcluster.Faults() {
		fmt.Fprintf(tw, "  %s %s\t%s\n", f.Name, f.Usage, f.Help)
	}
	tw.Flush()
	cmd := &cobra.Command{
		Use:     "fault NODE FAULT [ARG...]",
		Short:   "Inject a fault into a node",
		Long:    help.String(),
		Example: "  simcluster fault dea-1 never-return\n  simcluster fault dea-1 power-on\n  simcluster fault core fail-command 'apt-get update' 2 100 'E: no network'",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			url, err := address(dir, control)
			if err != nil {
				return err
			}
			rest := args[2:]
			if rest == nil {
				rest = []string{}
			}
			_, err = request(cmd.Context(), http.MethodPost, url+"/nodes/"+args[0]+"/faults/"+args[1], rest)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".demo/cluster", "folder of the cluster")
	cmd.Flags().StringVar(&control, "control", "", "port or URL of its control API, instead of --dir")
	return cmd
}

func showCommand() *cobra.Command {
	var dir, control, output string
	cmd := &cobra.Command{
		Use:       "show [status|events|commands]",
		Short:     "Show the nodes, what happened to them, or the commands that changed them",
		Example:   "  simcluster show\n  simcluster show commands -o json",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"status", "events", "commands"},
		RunE: func(cmd *cobra.Command, args []string) error {
			url, err := address(dir, control)
			if err != nil {
				return err
			}
			what := "status"
			if len(args) == 1 {
				what = args[0]
			}
			b, err := request(cmd.Context(), http.MethodGet, url+"/"+what, nil)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if output == "json" {
				_, err := out.Write(b)
				return err
			}
			if output != "table" {
				return fmt.Errorf("--output %q is neither table nor json", output)
			}
			return table(out, what, b)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".demo/cluster", "folder of the cluster")
	cmd.Flags().StringVar(&control, "control", "", "port or URL of its control API, instead of --dir")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func table(out io.Writer, what string, b []byte) error {
	tw := tabwriter.NewWriter(out, 2, 4, 2, ' ', 0)
	defer tw.Flush()
	clock := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Local().Format("15:04:05.000")
	}
	switch what {
	case "events":
		var list []simcluster.Event
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		for _, e := range list {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", clock(e.Time), e.Node, e.Kind, e.Detail)
		}
	case "commands":
		var list []simcluster.Execution
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		fmt.Fprintln(tw, "START\tEND\tNODE\tUSER\tEXIT\tCOMMAND")
		for _, e := range list {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\n", clock(e.Start), clock(e.End), e.Node, e.User, e.ExitCode, e.Command())
		}
	default:
		var s simcluster.ClusterStatus
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		fmt.Fprintln(tw, "NODE\tADDRESS\tROLES\tSTATE\tBOOTS\tKERNEL\tPENDING\tREBOOT")
		for _, n := range s.Nodes {
			state := "up"
			if !n.Running {
				state = "down"
			} else if len(n.OutOfService) > 0 {
				state = strings.Join(n.OutOfService, ",")
			}
			fmt.Fprintf(tw, "%s\t%s:%d\t%s\t%s\t%d\t%s\t%d\t%v\n", n.Name, n.Address, n.Port, strings.Join(n.Roles, ","), state, n.Boots, n.Kernel, n.Pending, n.RebootRequired)
		}
	}
	return nil
}
