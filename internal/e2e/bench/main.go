// Command bench measures what katoflow adds to the nodes' own work and prints JSON. `make bench` runs it.
//
// The nodes are simulated: their commands take no time and a boot takes 100 ms, so that what is left is katoflow's, Temporal's and SSH's own. The
// floor is the same commands sent by a bare loop over the same SSH connections, which waits for a boot by asking every 100 ms.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

const bootTime = 100 * time.Millisecond

// figures are the output; seconds and counts.
type figures struct {
	// CostPerNode is the time from one node's start to the next one's, less the boot, median over the nodes.
	CostPerNode      float64 `json:"cost_per_node_s"`
	CostPerNodeFloor float64 `json:"cost_per_node_floor_s"`
	CostNodes        int     `json:"cost_nodes"`
	// Large is one operation over many nodes.
	Large largeFigures `json:"large"`
	// TakeOver is the time from the restart of a worker killed in mid-job to the operation's next command, less what the job still took.
	TakeOver []float64 `json:"worker_restart_to_going_on_s"`
	// Cancel is the time from the cancel request to the end of a running interruptible job.
	Cancel []float64 `json:"cancel_to_job_stopped_s"`
	// Apps is a restart of many apps, so many at once, each of which takes its time until it runs.
	Apps appsFigures `json:"apps"`
	// Snapshots are sets of snapshots of many nodes whose hypervisor takes 20 to 200 ms for each.
	Snapshots snapshotFigures `json:"snapshots"`
	// Frozen are sets of running nodes whose file systems are frozen meanwhile.
	Frozen snapshotFigures `json:"snapshots_frozen"`
	Demo   float64         `json:"demo_warm_s,omitempty"`
}

type largeFigures struct {
	Nodes              int     `json:"nodes"`
	Batch              int     `json:"batch"`
	Seconds            float64 `json:"seconds"`
	Phase              string  `json:"phase"`
	ChildEventsMax     int     `json:"events_a_node_in_its_child_max"`
	ParentEventsANode  float64 `json:"events_a_node_in_the_operation"`
	LargestEvents      int     `json:"largest_history_events"`
	LargestBytes       int64   `json:"largest_history_bytes"`
	WorkerPeakMiB      float64 `json:"worker_peak_mib"`
	MostOutOfServiceAt int     `json:"most_nodes_out_of_service"`
}

type appsFigures struct {
	Apps   int     `json:"apps"`
	AtOnce int     `json:"at_once"`
	Each   float64 `json:"each_s"`
	// Floor is the apps' own time: what they take one after the other, shared by so many at once.
	Floor   float64 `json:"floor_s"`
	Seconds float64 `json:"seconds"`
	Ratio   float64 `json:"ratio"`
}

type snapshotFigures struct {
	Nodes int `json:"nodes"`
	Sets  int `json:"sets"`
	// Requests lie behind the first one of their set by so much; Spread is the largest of each set.
	RequestP50  float64   `json:"request_behind_the_first_p50_s"`
	RequestP99  float64   `json:"request_behind_the_first_p99_s"`
	Spread      []float64 `json:"request_spread_s"`
	SlowestCall []float64 `json:"slowest_call_s"`
	// SkewOver is the skew bound less the slowest call; QuietOver the quiet interval less the slowest call; both of each set.
	SkewOver  []float64 `json:"skew_bound_above_the_slowest_call_s"`
	QuietOver []float64 `json:"quiet_interval_above_the_slowest_call_s"`
	Down      []float64 `json:"roles_stopped_s,omitempty"`
	// Held is the longest that the file systems of a node were frozen.
	Held []float64 `json:"file_systems_frozen_s,omitempty"`
}

func main() {
	nodes := flag.Int("nodes", 50, "nodes for the cost of a node")
	large := flag.Int("large", 500, "nodes of the large operation")
	trials := flag.Int("trials", 3, "trials of take-over and cancel")
	apps := flag.Int("apps", 1000, "apps that are restarted")
	onlyApps := flag.Bool("only-apps", false, "measure nothing but the apps")
	vms := flag.Int("vms", 100, "nodes that snapshots are taken of")
	onlySnapshots := flag.Bool("only-snapshots", false, "measure nothing but the snapshots")
	demo := flag.Bool("demo", true, "run the demo once and time it")
	flag.Parse()
	var out figures
	var err error
	switch {
	case *onlySnapshots:
		err = with(func(b *bench) (err error) {
			out.Snapshots, out.Frozen, err = b.allSnapshots(*vms, 5)
			return err
		})
	case *onlyApps:
		err = with(func(b *bench) (err error) {
			out.Apps, err = b.apps(*apps)
			return err
		})
	default:
		out, err = measure(*nodes, *large, *trials, *apps, *vms, *demo)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(out)
}

type bench struct {
	dir    string
	server *harness.Temporal
	client client.Client
	number int
}

// with starts Temporal for measurements.
func with(f func(b *bench) error) error {
	dir, err := os.MkdirTemp("", "katoflow-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server, err := harness.StartTemporal(filepath.Join(dir, "temporal"))
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop() }()
	c, err := server.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(&bench{dir: dir, server: server, client: c})
}

func measure(nodes, large, trials, apps, vms int, demo bool) (out figures, err error) {
	if demo {
		if out.Demo, err = timeDemo(); err != nil {
			return out, err
		}
	}
	err = with(func(b *bench) (err error) {
		out, err = b.all(out, nodes, large, trials, apps, vms)
		return err
	})
	return out, err
}

func (b *bench) all(out figures, nodes, large, trials, apps, vms int) (_ figures, err error) {
	out.CostNodes = nodes
	if out.CostPerNode, out.CostPerNodeFloor, err = b.cost(nodes); err != nil {
		return out, fmt.Errorf("cost per node: %w", err)
	}
	for range trials {
		s, err := b.takeOver()
		if err != nil {
			return out, fmt.Errorf("take over: %w", err)
		}
		out.TakeOver = append(out.TakeOver, s)
		if s, err = b.cancel(); err != nil {
			return out, fmt.Errorf("cancel: %w", err)
		}
		out.Cancel = append(out.Cancel, s)
	}
	slices.Sort(out.TakeOver)
	slices.Sort(out.Cancel)
	if out.Large, err = b.large(large); err != nil {
		return out, fmt.Errorf("large operation: %w", err)
	}
	if out.Apps, err = b.apps(apps); err != nil {
		return out, fmt.Errorf("apps: %w", err)
	}
	if out.Snapshots, out.Frozen, err = b.allSnapshots(vms, 5); err != nil {
		return out, fmt.Errorf("snapshots: %w", err)
	}
	return out, nil
}

// apps restarts apps that take appTime each until they run.
func (b *bench) apps(count int) (out appsFigures, err error) {
	const atOnce, appTime = 50, 10 * time.Second
	s, cluster, w, err := b.site(0, func(cfg *simcluster.Config) {
		cfg.Platform, cfg.Nodes = "als", []simcluster.NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller", "router"}}}
	})
	if err != nil {
		return out, err
	}
	defer func() { _ = cluster.Close() }()
	defer s.Close()
	cluster.Controller().Empty()
	cluster.Controller().FillMany(count)
	cluster.Controller().StartTime(appTime, 0)
	b.number++
	in := operation.AppsInput{Action: operation.AppRestart, Apps: []string{"*/*/*"}, AtOnce: atOnce}
	in.Cluster, in.OperationID = cluster.Name(), fmt.Sprintf("bench-%d", b.number)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	began := time.Now()
	run, err := b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: operation.WorkflowID(in.Cluster, operation.KindAppsRestart, in.OperationID), TaskQueue: s.Queue, WorkflowTaskTimeout: 5 * time.Second,
		TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(in.Cluster), operation.AttributeOperation.ValueSet(operation.KindAppsRestart))}, operation.WorkflowApps, in)
	if err == nil {
		err = run.Get(ctx, nil)
	}
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, w.Tail())
	}
	out = appsFigures{Apps: count, AtOnce: atOnce, Each: seconds(appTime), Floor: seconds(appTime) * float64(count) / atOnce, Seconds: seconds(time.Since(began))}
	out.Ratio = out.Seconds / out.Floor
	return out, nil
}

// allSnapshots takes sets of stopped roles, and others of frozen file systems.
func (b *bench) allSnapshots(count, sets int) (stopped, frozen snapshotFigures, err error) {
	if stopped, err = b.snapshots(count, sets); err == nil {
		frozen, err = b.snapshots(count, sets, operation.QuiesceFrozen, operation.QuiesceMaintenance)
	}
	return stopped, frozen, err
}

// snapshots takes sets of a cluster of so many nodes with the quiesce levels, the default ones where there are none, one after the other.
func (b *bench) snapshots(count, sets int, levels ...operation.Quiesce) (out snapshotFigures, err error) {
	s, cluster, w, err := b.site(0, func(cfg *simcluster.Config) {
		cfg.Platform = "als"
		cfg.Nodes = []simcluster.NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller", "router"}}}
		for i := 1; i < count; i++ {
			cfg.Nodes = append(cfg.Nodes, simcluster.NodeConfig{Name: fmt.Sprintf("dea-%03d", i), Roles: []string{"dea"}})
		}
		for i := range cfg.Nodes {
			cfg.Nodes[i].Mounts = []simcluster.Mount{{Path: "/mnt/data", Type: "ext4"}}
		}
		cfg.Hypervisor = &simcluster.HypervisorConfig{CallMin: 20 * time.Millisecond, CallMax: 200 * time.Millisecond}
	})
	if err != nil {
		return out, err
	}
	defer func() { _ = cluster.Close() }()
	defer s.Close()
	bucket, err := archivetest.NewBucket(context.Background(), b.server.S3, "sets-of-"+cluster.Name(), false)
	if err != nil {
		return out, err
	}
	defer bucket.Close()
	section, err := harness.S3Section(s.Dir, b.server.S3.URL, bucket)
	if err != nil {
		return out, err
	}
	text, err := os.ReadFile(s.Inventory)
	if err != nil {
		return out, err
	}
	key := "  " + cluster.Name() + ":\n"
	if err := os.WriteFile(s.Inventory, []byte(strings.NewReplacer(key, key+section, "    hypervisor:\n", "    hypervisor:\n      freeze: {mounts: [/mnt/data]}\n").Replace(string(text))), 0o600); err != nil {
		return out, err
	}
	out.Nodes, out.Sets = count, sets
	var behind []float64
	for range sets {
		b.number++
		in := operation.SnapshotInput{Quiesce: levels}
		in.Cluster, in.OperationID = cluster.Name(), fmt.Sprintf("bench-%d", b.number)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		run, err := b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: operation.WorkflowID(in.Cluster, operation.KindSnapshot, in.OperationID), TaskQueue: s.Queue, WorkflowTaskTimeout: 5 * time.Second,
			TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(in.Cluster), operation.AttributeOperation.ValueSet(operation.KindSnapshot))}, operation.WorkflowSnapshot, in)
		var report operation.Report
		if err == nil {
			err = run.Get(ctx, &report)
		}
		cancel()
		if err != nil {
			return out, fmt.Errorf("%w: %s", err, w.Tail())
		}
		set := report.Snapshot
		if set == nil || set.Moment == nil || !set.Moment.Measured || !set.Moment.Inside || len(set.Snapshots) != count {
			return out, fmt.Errorf("the set is no moment of %d nodes: %+v", count, set)
		}
		var first time.Time
		var requests []time.Time
		slowest := time.Duration(0)
		for _, snapshot := range set.Snapshots {
			requested, err := time.Parse(time.RFC3339Nano, snapshot.Requested)
			if err != nil {
				return out, err
			}
			completed, err := time.Parse(time.RFC3339Nano, snapshot.Completed)
			if err != nil {
				return out, err
			}
			if first.IsZero() || requested.Before(first) {
				first = requested
			}
			requests, slowest = append(requests, requested), max(slowest, completed.Sub(requested))
		}
		for _, r := range requests {
			behind = append(behind, seconds(r.Sub(first)))
		}
		out.Spread = append(out.Spread, seconds(set.Moment.RequestSpread.D()))
		out.SlowestCall = append(out.SlowestCall, seconds(slowest))
		out.SkewOver = append(out.SkewOver, seconds(set.Moment.SkewBound.D()-slowest))
		out.QuietOver = append(out.QuietOver, seconds(set.Moment.QuietInterval.D()-slowest))
		if set.Down > 0 {
			out.Down = append(out.Down, seconds(set.Down.D()))
		}
		if set.Frozen > 0 {
			out.Held = append(out.Held, seconds(set.Frozen.D()))
		}
	}
	slices.Sort(behind)
	out.RequestP50, out.RequestP99 = behind[len(behind)/2], behind[len(behind)*99/100]
	return out, nil
}

// timeDemo is the wall time of a warm `make demo ONCE=1`.
func timeDemo() (float64, error) {
	cmd := exec.Command(filepath.Join(harness.Root(), "deploy", "demo", "run"))
	cmd.Env = append(os.Environ(), "ONCE=1", "PORT=27233", "UI_PORT=28233")
	began := time.Now()
	if text, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("the demo: %w: %s", err, text)
	}
	return seconds(time.Since(began)), nil
}

// site starts a plain cluster and a worker.
func (b *bench) site(count int, change func(*simcluster.Config)) (*harness.Site, *simcluster.Cluster, *harness.Worker, error) {
	b.number++
	name := fmt.Sprintf("b%d", b.number)
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, nil, err
	}
	cfg := simcluster.Config{Dir: filepath.Join(dir, "cluster"), Name: name, Platform: "plain", BootTime: bootTime}
	for i := range count {
		cfg.Nodes = append(cfg.Nodes, simcluster.NodeConfig{Name: fmt.Sprintf("node-%03d", i+1)})
	}
	if change != nil {
		change(&cfg)
	}
	cluster, err := simcluster.Start(cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	s := &harness.Site{Dir: dir, Temporal: b.server, Queue: name, Inventory: filepath.Join(dir, "inventory.yaml")}
	key := "  " + name + ":\n"
	text := strings.Replace(string(cluster.InventoryYAML()), key, key+"    gates: {times: 1, interval: 100ms}\n", 1)
	if err := os.WriteFile(s.Inventory, []byte(text), 0o600); err != nil {
		return nil, nil, nil, err
	}
	w, err := s.StartWorker("")
	return s, cluster, w, err
}

// begin starts an operation.
func (b *bench) begin(s *harness.Site, cluster string, in operation.SecurityUpgradeInput) (client.WorkflowRun, error) {
	b.number++
	in.Cluster, in.OperationID = cluster, fmt.Sprintf("bench-%d", b.number)
	return b.client.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{
		ID: operation.WorkflowID(cluster, operation.KindSecurityUpgrade, in.OperationID), TaskQueue: s.Queue, WorkflowTaskTimeout: 5 * time.Second,
		TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(cluster), operation.AttributeOperation.ValueSet(operation.KindSecurityUpgrade)),
	}, operation.WorkflowSecurityUpgrade, in)
}

// cost compares katoflow with the floor on fresh nodes of the same kind, in one run.
func (b *bench) cost(count int) (ours, floor float64, err error) {
	s, cluster, w, err := b.site(count, nil)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = cluster.Close() }()
	defer s.Close()
	run, err := b.begin(s, cluster.Name(), operation.SecurityUpgradeInput{})
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := run.Get(ctx, nil); err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, w.Tail())
	}
	events, err := b.history(run.GetID())
	if err != nil {
		return 0, 0, err
	}
	var starts []time.Time
	for _, e := range events {
		if e.EventType == enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED && strings.Contains(e.GetStartChildWorkflowExecutionInitiatedEventAttributes().GetWorkflowId(), "/node/") {
			starts = append(starts, e.EventTime.AsTime())
		}
	}
	starts = append(starts, events[len(events)-1].EventTime.AsTime())
	var each []float64
	for i := 1; i < len(starts); i++ {
		each = append(each, seconds(starts[i].Sub(starts[i-1])-bootTime))
	}
	floors, err := b.floor(count)
	return median(each), median(floors), err
}

// floor sends the same commands without anything around them.
func (b *bench) floor(count int) ([]float64, error) {
	b.number++
	cfg := simcluster.Config{Dir: filepath.Join(b.dir, fmt.Sprintf("floor%d", b.number)), Name: "floor", Platform: "plain", BootTime: bootTime}
	for i := range count {
		cfg.Nodes = append(cfg.Nodes, simcluster.NodeConfig{Name: fmt.Sprintf("node-%03d", i+1)})
	}
	cluster, err := simcluster.Start(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cluster.Close() }()
	file, err := inventory.Parse("floor.yaml", cluster.InventoryYAML())
	if err != nil {
		return nil, err
	}
	c, err := file.Cluster("floor")
	if err != nil {
		return nil, err
	}
	pool := remote.NewPool(remote.Options{})
	defer func() { _ = pool.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var each []float64
	for _, n := range c.Nodes {
		h, err := file.Host(c, n, os.LookupEnv)
		if err != nil {
			return nil, err
		}
		h.ConnectTimeout = time.Second
		began := time.Now()
		for _, argv := range [][]string{{"sudo", "-n", "apt-get", "update"}, {"sudo", "-n", "unattended-upgrades", "-d"}} {
			if _, err := pool.Run(ctx, h, remote.Command{Argv: argv}); err != nil {
				return nil, err
			}
		}
		boot := []string{"cat", "/proc/sys/kernel/random/boot_id"}
		before, err := pool.Run(ctx, h, remote.Command{Argv: boot})
		if err != nil {
			return nil, err
		}
		_, _ = pool.Run(ctx, h, remote.Command{Argv: []string{"sudo", "-n", "reboot"}, AnyExit: true}) // the connection may be lost: that is the reboot
		for {
			after, err := pool.Run(ctx, h, remote.Command{Argv: boot})
			if err == nil && string(after.Stdout) != string(before.Stdout) {
				break
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			time.Sleep(100 * time.Millisecond)
		}
		if _, err := pool.Run(ctx, h, remote.Command{Argv: []string{"systemctl", "is-system-running"}}); err != nil {
			return nil, err
		}
		each = append(each, seconds(time.Since(began)-bootTime))
	}
	return each, nil
}

// takeOver kills the worker in mid-job and measures from the moment the next one is started.
func (b *bench) takeOver() (float64, error) {
	const job = 2 * time.Second
	s, cluster, w, err := b.site(1, func(c *simcluster.Config) { c.UpgradeTime = job })
	if err != nil {
		return 0, err
	}
	defer func() { _ = cluster.Close() }()
	defer s.Close()
	if _, err := b.begin(s, cluster.Name(), operation.SecurityUpgradeInput{}); err != nil {
		return 0, err
	}
	node := cluster.Nodes()[0]
	ran := func(program string) func() (bool, error) {
		return func() (bool, error) {
			return slices.ContainsFunc(node.Commands(), func(e simcluster.Execution) bool { return e.Argv[0] == program }), nil
		}
	}
	if err := harness.WaitFor(time.Minute, "the upgrade to begin", ran("unattended-upgrades")); err != nil {
		return 0, err
	}
	w.Kill()
	began := time.Now()
	if _, err := s.StartWorker(""); err != nil {
		return 0, err
	}
	if err := harness.WaitFor(time.Minute, "the operation to go on", ran("reboot")); err != nil {
		return 0, err
	}
	return seconds(time.Since(began)), nil
}

// cancel measures how soon a job that may be interrupted is stopped.
func (b *bench) cancel() (float64, error) {
	s, cluster, _, err := b.site(1, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = cluster.Close() }()
	defer s.Close()
	node := cluster.Nodes()[0]
	node.HangCommand("apt-get update", -1)
	run, err := b.begin(s, cluster.Name(), operation.SecurityUpgradeInput{})
	if err != nil {
		return 0, err
	}
	last := func(ended bool) func() (bool, error) {
		return func() (bool, error) {
			return slices.ContainsFunc(node.Commands(), func(e simcluster.Execution) bool { return e.Argv[0] == "apt-get" && !e.End.IsZero() == ended }), nil
		}
	}
	if err := harness.WaitFor(time.Minute, "the job to run", last(false)); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := b.client.CancelWorkflow(context.Background(), run.GetID(), ""); err != nil {
		return 0, err
	}
	if err := harness.WaitFor(time.Minute, "the job to be stopped", last(true)); err != nil {
		return 0, err
	}
	took := seconds(time.Since(began))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var cancelled *temporal.CanceledError
	if err := run.Get(ctx, nil); !errors.As(err, &cancelled) {
		return 0, fmt.Errorf("the operation did not end as cancelled: %w", err)
	}
	return took, nil
}

// large is one operation over many nodes, 25 at a time.
func (b *bench) large(count int) (out largeFigures, err error) {
	out.Nodes, out.Batch = count, 25
	s, cluster, w, err := b.site(count, nil)
	if err != nil {
		return out, err
	}
	defer func() { _ = cluster.Close() }()
	defer s.Close()
	began := time.Now()
	run, err := b.begin(s, cluster.Name(), operation.SecurityUpgradeInput{Batch: "25"})
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	var report operation.Report
	if err := run.Get(ctx, &report); err != nil {
		return out, fmt.Errorf("%w: %s", err, operation.Shorten(w.Tail(), 2000))
	}
	out.Seconds, out.Phase, out.MostOutOfServiceAt = seconds(time.Since(began)), report.Phase, cluster.MaxOutOfService()
	out.WorkerPeakMiB = peak(w.Pid())
	events, size, err := b.size(run.GetID())
	if err != nil {
		return out, err
	}
	out.LargestEvents, out.LargestBytes = events, size
	out.ParentEventsANode = float64(events) / float64(count)
	for _, n := range cluster.Nodes() {
		events, size, err := b.size(operation.NodeWorkflowID(run.GetID(), n.Name()))
		if err != nil {
			return out, err
		}
		out.ChildEventsMax = max(out.ChildEventsMax, events)
		out.LargestEvents, out.LargestBytes = max(out.LargestEvents, events), max(out.LargestBytes, size)
	}
	return out, nil
}

// size of a workflow's history in events and bytes, as the server counts them.
func (b *bench) size(workflowID string) (int, int64, error) {
	d, err := b.client.DescribeWorkflowExecution(context.Background(), workflowID, "")
	if err != nil {
		return 0, 0, err
	}
	info := d.GetWorkflowExecutionInfo()
	return int(info.GetHistoryLength()), info.GetHistorySizeBytes(), nil
}

func (b *bench) history(workflowID string) ([]*historypb.HistoryEvent, error) {
	var out []*historypb.HistoryEvent
	it := b.client.GetWorkflowHistory(context.Background(), workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// peak resident memory of a process in MiB; 0 where /proc does not tell.
func peak(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return float64(int(kib/1024*10)) / 10
		}
	}
	return 0
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}
