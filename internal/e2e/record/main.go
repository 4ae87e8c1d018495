// Command record makes the corpus of histories that workflows/replay_test.go replays: it runs operations on a Temporal server of its own and simulated
// clusters, one for each way an operation can go, and keeps the history of each operation and of each of its children. `make histories` runs it.
//
// The histories of a release stay as they are as long as its operations may still be open somewhere; those of the coming one ("next") are recorded anew with
// every change of a workflow.
package main

import (
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/simcluster"
)

func main() {
	release := flag.String("release", "next", "release whose folder is written")
	only := flag.String("only", "", "record only this case and leave the others as they are")
	atOnce := flag.Int("at-once", 6, "operations at once")
	flag.Parse()
	began := time.Now()
	n, err := record(*release, *only, *atOnce)
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
	fmt.Printf("%d histories recorded for %s in %s\n", n, *release, time.Since(began).Round(time.Second))
}

var releaseForm = regexp.MustCompile(`^(next|v[0-9]+\.[0-9]+\.[0-9]+)$`)

// record runs all cases and then replaces the release's folder; nothing is replaced when one of them did not go as it should.
func record(release, only string, atOnce int) (int, error) {
	if !releaseForm.MatchString(release) {
		return 0, fmt.Errorf(`release %q: write "next" or a version such as v1.2.3`, release)
	}
	all := cases()
	if only != "" {
		all = slices.DeleteFunc(all, func(c scenario) bool { return c.name != only })
		if len(all) == 0 {
			return 0, fmt.Errorf("there is no case %q", only)
		}
	}
	dir, err := os.MkdirTemp("", "katoflow-record-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server, err := harness.StartTemporal(filepath.Join(dir, "temporal"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = server.Stop() }()
	c, err := server.Client()
	if err != nil {
		return 0, err
	}
	defer c.Close()

	// One worker has all clusters in its inventory.
	site := &harness.Site{Dir: dir, Temporal: server, Queue: "katoflow", Inventory: filepath.Join(dir, "inventory.yaml")}
	defer site.Close()
	inventory := "clusters:\n"
	runs := make([]*recording, len(all))
	for i, s := range all {
		cfg := simcluster.Config{Dir: filepath.Join(dir, s.name), Name: s.name, BootTime: 100 * time.Millisecond}
		if !s.als {
			cfg.Platform = "plain"
			for _, name := range []string{"a", "b", "c"} {
				cfg.Nodes = append(cfg.Nodes, simcluster.NodeConfig{Name: name})
			}
		}
		if s.storage != "" {
			cfg.Nodes = simcluster.DefaultNodes()
			for i := range cfg.Nodes {
				cfg.Nodes[i].Mounts = []simcluster.Mount{{Path: "/mnt/quota", Type: "ext4", Options: "rw,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0"}, {Path: "/mnt/plain", Type: "ext4"}}
			}
		}
		cfg.UpgradeTime, cfg.Autoscaling = s.upgradeTime, s.autoscaling
		if s.freezes {
			cfg.Nodes = simcluster.DefaultNodes()
			for i := range cfg.Nodes {
				cfg.Nodes[i].Mounts = []simcluster.Mount{{Path: "/mnt/data", Type: "ext4"}}
			}
		}
		if s.snapshot {
			cfg.Hypervisor = &simcluster.HypervisorConfig{Disks: true, CallMin: 20 * time.Millisecond, CallMax: 100 * time.Millisecond}
		}
		cluster, err := simcluster.Start(cfg)
		if err != nil {
			return 0, err
		}
		defer func() { _ = cluster.Close() }()
		_, body, _ := strings.Cut(string(cluster.InventoryYAML()), "clusters:\n")
		if s.freezes {
			body = strings.Replace(body, "    hypervisor:\n", "    hypervisor:\n      freeze: {mounts: [/mnt/data], deadline: 6s}\n", 1)
		}
		key := "  " + s.name + ":\n"
		limits := "    gates: {times: 2, interval: 100ms, timeout: 30s}\n    timeouts: {unreachable_after: 30s, boot: 30s, upgrade: 2m, apt_lock: 10s}\n"
		if s.impatient {
			limits = "    gates: {times: 2, interval: 100ms, timeout: 2s}\n    timeouts: {unreachable_after: 2s, boot: 3s, upgrade: 2m, apt_lock: 10s}\n"
		}
		if s.release { // what answers is a mirror to it
			limits += fmt.Sprintf("    kato: {releases: [%q]}\n", server.S3.URL)
		}
		if s.backup {
			bucket, err := archivetest.NewBucket(context.Background(), server.S3, s.name, false)
			if err != nil {
				return 0, err
			}
			defer bucket.Close()
			section, err := harness.S3Section(dir, server.S3.URL, bucket)
			if err != nil {
				return 0, err
			}
			limits += section
		}
		inventory += strings.Replace(body, key, key+limits+s.inventory, 1)
		if s.rehearse || s.fromHost {
			second, section, err := secondCluster(cluster, s)
			if err != nil {
				return 0, err
			}
			defer func() { _ = second.Close() }()
			inventory += section
		}
		runs[i] = &recording{Site: site, scenario: s, client: c, cluster: cluster}
	}
	if err := os.WriteFile(site.Inventory, []byte(inventory), 0o600); err != nil {
		return 0, err
	}
	if _, err := site.StartWorker(""); err != nil {
		return 0, err
	}

	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, r := range runs {
		group.Go(func() error {
			if err := r.run(); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return write(filepath.Join(harness.Root(), "workflows", "testdata", "history", release), runs, only == "", dir, harness.Root())
}

// secondCluster makes the second cluster of a scenario, and its section of the inventory: a scratch cluster, or the running one that is imported.
func secondCluster(first *simcluster.Cluster, s scenario) (*simcluster.Cluster, string, error) {
	name := s.second()
	const core = "core"
	cfg := simcluster.Config{Dir: filepath.Join(first.Dir(), "second"), Name: name, BootTime: 100 * time.Millisecond, Network: 2,
		Nodes: []simcluster.NodeConfig{{Name: core, Roles: []string{"base", "primary", "controller", "router", "filesystem", "mysql", "postgresql", "redis", "rabbit", "mongodb"}}}}
	second, err := simcluster.Start(cfg)
	if err != nil {
		return nil, "", err
	}
	first.Connect(second)
	if err := errors.Join(second.Node(core).AuthorizeKey(first.CorePublicKey()), first.Node(importer).KnowHost(second.Node(core))); err != nil {
		return nil, "", err
	}
	_, body, _ := strings.Cut(string(second.InventoryYAML()), "clusters:\n")
	key := "  " + name + ":\n"
	return second, strings.Replace(body, key, key+"    scratch: true\n    gates: {times: 2, interval: 100ms, timeout: 30s}\n    timeouts: {unreachable_after: 30s, boot: 30s, upgrade: 2m, apt_lock: 10s}\n", 1), nil
}

// write replaces the folder's content.
func write(folder string, runs []*recording, whole bool, private ...string) (int, error) {
	if whole {
		if err := os.RemoveAll(folder); err != nil {
			return 0, err
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return 0, err
	}
	n := 0
	for _, r := range runs {
		for name, h := range r.histories {
			anonymize(h)
			if err := check(h, private...); err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			if err := save(filepath.Join(folder, name+".json.gz"), h); err != nil {
				return 0, err
			}
			n++
		}
	}
	return n, nil
}

func save(path string, h *historypb.History) error {
	text, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(h)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestCompression) // the level is a valid one
	if _, err := z.Write(text); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}

// history reads all events of one run.
func history(c client.Client, workflowID, runID string) (*historypb.History, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var h historypb.History
	for it := c.GetWorkflowHistory(ctx, workflowID, runID, false, 0); it.HasNext(); {
		e, err := it.Next()
		if err != nil {
			return nil, err
		}
		h.Events = append(h.Events, e)
	}
	return &h, nil
}
