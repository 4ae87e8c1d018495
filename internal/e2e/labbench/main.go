// Command labbench holds katoflow against its peers on real hosts and prints JSON. `make lab-bench` runs it, as root on Linux.
//
// Each round makes the same rolling security upgrade of freshly made hosts three times: by katoflow, by ansible-playbook, and by a bare loop over ssh,
// which is the floor. The order changes from round to round, so that whatever else the machine does hurts all of them alike. A run counts
// only when every host has really been upgraded and rebooted, once.
//
// katoflow runs as in production, with every gate and the boot proof; each gate has to hold once, as in the peers. What the default stability
// window costs is measured beside.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/lab"
)

// figures are the output. Times are seconds of one rolling upgrade of all nodes, in the order of the rounds.
type figures struct {
	Nodes int `json:"nodes"`
	// AnsibleVersion is what ansible-playbook says of itself, CPUs the number that all hosts and the contenders share.
	AnsibleVersion string `json:"ansible_version"`
	CPUs           int    `json:"cpus"`

	Katoflow times `json:"katoflow"`
	Ansible  times `json:"ansible"`
	Floor    times `json:"floor"`
	// WithWindow is katoflow with the default gates, which have to hold 3 times, 5 s apart, on every node.
	WithWindow *times `json:"katoflow_default_window,omitempty"`
	// The ratios are katoflow's time to the peer's in the same round.
	ToFloor   ratios `json:"katoflow_to_floor"`
	ToAnsible ratios `json:"katoflow_to_ansible"`
	// NearFloor: the median of the ratios to the floor is at most 1.05.
	NearFloor bool `json:"at_most_1.05_of_floor_in_the_median"`
	// AheadOfAnsible: katoflow was faster in every round.
	AheadOfAnsible bool `json:"ahead_of_ansible_in_every_round"`
}

type times struct {
	Seconds []float64 `json:"s"`
	Median  float64   `json:"median_s"`
}

type ratios struct {
	Each   []float64 `json:"each"`
	Median float64   `json:"median"`
	// OfMedians is the ratio of the two medians.
	OfMedians float64 `json:"of_medians"`
}

func main() {
	nodes := flag.Int("nodes", 5, "hosts of the cluster")
	rounds := flag.Int("rounds", 5, "rounds")
	window := flag.Int("window", 1, "runs of katoflow with the default stability window")
	timeline := flag.Bool("timeline", false, "tell on standard error where katoflow's time went")
	worker := flag.String("worker", "", "katoflow-worker to measure (default: bin/katoflow-worker)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{nodes: *nodes, rounds: *rounds, window: *window, timeline: *timeline, worker: *worker}
	out, err := b.measure(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "labbench:", err)
		stop()
		os.Exit(1)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(out)
}

type bench struct {
	nodes, rounds, window int
	timeline              bool
	worker                string // path of katoflow-worker

	dir      string
	lab      *lab.Lab
	temporal *harness.Temporal
	number   int // of the run
}

// sudoers of the hosts: Ansible's become needs all of it.
const sudoers = lab.LoginUser + " ALL=(ALL) NOPASSWD: ALL\n"

// contender makes a rolling upgrade of a cluster; what it does before and after belongs to the time it is given.
type contender struct {
	name string
	run  func(ctx context.Context, s *site) (time.Duration, error)
	into *times
}

func (b *bench) measure(ctx context.Context) (out figures, err error) {
	if b.nodes < 1 || b.rounds < 1 {
		return out, errors.New("at least one node and one round")
	}
	if err := lab.Supported(); err != nil {
		return out, err
	}
	version, err := exec.CommandContext(ctx, "ansible-playbook", "--version").Output()
	if err != nil {
		return out, fmt.Errorf("ansible-playbook cannot be run: apt-get install --no-install-recommends ansible: %w", err)
	}
	if b.worker == "" {
		if b.worker, err = harness.Binary("katoflow-worker"); err != nil {
			return out, err
		}
	}
	if b.dir, err = os.MkdirTemp("", "labbench-"); err != nil {
		return out, err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	if b.lab, err = lab.Open(ctx, lab.Config{Name: "bench", Sudoers: []byte(sudoers), Log: b.detail}); err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	if b.temporal, err = harness.StartTemporal(filepath.Join(b.dir, "temporal")); err != nil {
		return out, err
	}
	defer func() { _ = b.temporal.Stop() }()

	out.Nodes, out.CPUs = b.nodes, runtime.NumCPU()
	out.AnsibleVersion, _, _ = strings.Cut(string(version), "\n")
	contenders := []contender{{"katoflow", b.katoflow, &out.Katoflow}, {"ansible", b.ansible, &out.Ansible}, {"floor", b.floor, &out.Floor}}
	for round := range b.rounds {
		// Rotated, so that each is first, second and last.
		for i := range contenders {
			if err := b.once(ctx, round, contenders[(round+i)%len(contenders)]); err != nil {
				return out, err
			}
		}
	}
	if b.window > 0 {
		out.WithWindow = &times{}
		for round := range b.window {
			if err := b.once(ctx, round, contender{"katoflow with the default window", b.katoflowWithWindow, out.WithWindow}); err != nil {
				return out, err
			}
		}
		out.WithWindow.Median = median(out.WithWindow.Seconds)
	}
	for _, c := range contenders {
		c.into.Median = median(c.into.Seconds)
	}
	out.ToFloor, out.ToAnsible = compare(out.Katoflow, out.Floor), compare(out.Katoflow, out.Ansible)
	out.NearFloor = out.ToFloor.Median <= 1.05
	out.AheadOfAnsible = slices.Max(out.ToAnsible.Each) < 1
	return out, nil
}

// site is what one run is made on.
type site struct {
	dir     string
	cluster *lab.Cluster
}

// once makes hosts, lets a contender upgrade them, and looks at what it did.
func (b *bench) once(ctx context.Context, round int, c contender) (err error) {
	b.number++
	name := fmt.Sprintf("b%d", b.number)
	s := &site{dir: filepath.Join(b.dir, name)}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return err
	}
	cfg := lab.ClusterConfig{Name: name, Platform: "plain"}
	for i := range b.nodes {
		cfg.Nodes = append(cfg.Nodes, lab.NodeConfig{Name: fmt.Sprintf("node-%d", i+1)})
	}
	if s.cluster, err = b.hosts(ctx, cfg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.cluster.Close()) }()
	took, err := c.run(ctx, s)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	for _, h := range s.cluster.Hosts() {
		if err := check(ctx, h, "2.0", 2); err != nil {
			return fmt.Errorf("%s has ended well, but %w", c.name, err)
		}
	}
	c.into.Seconds = append(c.into.Seconds, seconds(took))
	b.progress("round %d: %s: %.3f s", round+1, c.name, seconds(took))
	return nil
}

// hosts makes a cluster of which every host is well. Now and then a unit fails in the first boot of a host on a busy machine; such a cluster is made again,
// since no contender has seen it yet.
func (b *bench) hosts(ctx context.Context, cfg lab.ClusterConfig) (*lab.Cluster, error) {
	for tries := 1; ; tries++ {
		c, err := b.lab.Start(ctx, cfg)
		if err != nil {
			return nil, err
		}
		for _, h := range c.Hosts() {
			if err = check(ctx, h, "1.0", 1); err != nil {
				break
			}
		}
		if err == nil {
			return c, nil
		}
		err = errors.Join(fmt.Errorf("before the run: %w", err), c.Close())
		if tries == 3 || ctx.Err() != nil {
			return nil, err
		}
		b.progress("%v; made again", err)
	}
}

// check holds the versions of the lab's packages on a host, and how often it was booted, against what they should be.
func check(ctx context.Context, h *lab.Host, version string, boots int) error {
	if n := h.Boots(); n != boots {
		return fmt.Errorf("%s was booted %d times, not %d", h.Name(), n, boots)
	}
	packages := []string{lab.PackageQuick, lab.PackageSlow, lab.PackageReboot, lab.PackageSSH}
	text, err := h.Exec(ctx, `dpkg-query -W -f='${Package} ${db:Status-Abbrev}${Version}\n' "$@"`, packages...)
	if err != nil {
		return err
	}
	for _, p := range packages {
		if !strings.Contains(text, p+" ii "+version+"\n") {
			return fmt.Errorf("%s has not version %s of %s: %s", h.Name(), version, p, strings.TrimSpace(text))
		}
	}
	if state, err := h.Exec(ctx, "systemctl is-system-running || systemctl list-units --state=failed --plain --no-legend"); err != nil || state != "running\n" {
		return fmt.Errorf("%s is not well: %s", h.Name(), strings.Join(strings.Fields(state), " "))
	}
	return nil
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// detail is what the lab has to say; only the making of the golden tree is worth a line.
func (b *bench) detail(format string, args ...any) {
	if strings.Contains(format, "golden") {
		b.progress(format, args...)
	}
}

func compare(ours, theirs times) (out ratios) {
	for i := range ours.Seconds {
		out.Each = append(out.Each, rounded(ours.Seconds[i]/theirs.Seconds[i]))
	}
	out.Median, out.OfMedians = rounded(median(out.Each)), rounded(ours.Median/theirs.Median)
	return out
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

func rounded(v float64) float64 { return float64(int(v*1000+0.5)) / 1000 }

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.SortedFunc(slices.Values(v), cmp.Compare)
	if n := len(v); n%2 == 0 {
		return rounded((v[n/2-1] + v[n/2]) / 2)
	}
	return v[len(v)/2]
}
