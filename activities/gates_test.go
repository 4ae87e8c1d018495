package activities

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster"
)

func alsConfig() simcluster.Config {
	return simcluster.Config{Platform: "als", Nodes: clusterOf("core", "dea-1", "dea-2")}
}

func (b *bench) gates(times int, timeout time.Duration, exclude ...string) ClusterGatesInput {
	return ClusterGatesInput{Operation: b.op, Exclude: exclude, Times: times, Interval: operation.Duration(20 * time.Millisecond), Timeout: operation.Duration(timeout)}
}

func checks(r GatesResult) string {
	var all []string
	for _, f := range r.Failures {
		all = append(all, f.String())
	}
	return strings.Join(all, "\n")
}

func TestClusterGates_HealthyCluster_HoldAsOftenAsAsked(t *testing.T) {
	b := start(t, alsConfig(), "")
	out := must[GatesResult](t)(run(t, b.nodes.ClusterGates, b.gates(3, 20*time.Second), attemptOptions{}))
	if !out.Held || out.Rounds != 3 || len(out.Failures) != 0 {
		t.Errorf("%+v", out)
	}
	if c := b.cluster.Commands(); len(c) != 0 {
		t.Errorf("gates changed something: %v", c)
	}
}

func TestClusterGates_EachFault_HasItsCheck(t *testing.T) {
	b := start(t, alsConfig(), "gates:\n  commands: [\"test -e /etc/hostname\", \"test ! -e /tmp/broken\"]")
	b.node("dea-1").DegradeSystem(true)
	b.node("dea-1").StopRole("dea")
	b.node("dea-2").PowerOff()
	if err := b.node("core").WriteFile("/tmp/broken", []byte("x")); err != nil {
		t.Fatal(err)
	}
	out := must[GatesResult](t)(run(t, b.nodes.ClusterGates, b.gates(1, time.Second), attemptOptions{}))
	want := []string{
		"core: command: test ! -e /tmp/broken (exit 1)",
		"dea-1: system: demo.service failed", "dea-1: kato: not ready (exit 1)", "dea-1: role: dea is stopped",
		"dea-2: ssh: unreachable",
	}
	if got := checks(out); out.Held || out.Rounds < 2 || got != strings.Join(want, "\n") {
		t.Errorf("held %v after %d rounds:\n%s", out.Held, out.Rounds, got)
	}
	in := b.gates(2, 20*time.Second)
	in.Baseline = out.Failures
	if out := must[GatesResult](t)(run(t, b.nodes.ClusterGates, in, attemptOptions{})); !out.Held {
		t.Errorf("the baseline is blamed:\n%s", checks(out))
	}
	if out := must[GatesResult](t)(run(t, b.nodes.ClusterGates, b.gates(1, time.Second, "core", "dea-1", "dea-2"), attemptOptions{})); !out.Held {
		t.Errorf("excluded nodes are asked:\n%s", checks(out))
	}
}

func TestClusterGates_StillBroken_IsNotHeldAtTheTimeoutAndNoError(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("dea-1").StopRole("dea")
	out := must[GatesResult](t)(run(t, b.nodes.ClusterGates, b.gates(2, 2*time.Second, "core", "dea-2"), attemptOptions{}))
	if out.Held || out.Rounds < 2 || len(out.Failures) == 0 {
		t.Errorf("%+v", out)
	}
}

func TestGates_NodeBecomesWell_HoldInARow(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("dea-1").StopRole("dea")
	in := NodeGatesInput{NodeInput: b.input("dea-1"), Times: 2, Interval: operation.Duration(20 * time.Millisecond), Timeout: operation.Duration(30 * time.Second)}
	first := inBackground(t, b.nodes.Gates, in, attemptOptions{})
	until(t, "a round is over", func() bool { return b.node("dea-1").Running() })
	b.node("dea-1").StartRole("dea")
	if out, err := first.wait(t); err != nil || !out.Held || out.Rounds < 2 {
		t.Errorf("%+v %v", out, err)
	}
}

func TestGates_CoreSilent_IsTheSameFindingAsInThePreflight(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("core").FailCommand("kato status", -1, 1, "")
	pre := must[PreflightResult](t)(run(t, b.nodes.Preflight, PreflightInput{Operation: b.op, Nodes: []string{"core", "dea-1", "dea-2"}}, attemptOptions{}))
	var baseline []operation.GateFailure
	for _, n := range pre.Nodes {
		baseline = append(baseline, n.Broken...)
	}
	if !slices.Contains(baseline, operation.GateFailure{Node: "dea-1", Check: coreSilent + " (exit 1)"}) {
		t.Errorf("%v", baseline)
	}
	in := NodeGatesInput{NodeInput: b.input("dea-1"), Baseline: baseline, Times: 1, Timeout: operation.Duration(time.Second)}
	if out := must[GatesResult](t)(run(t, b.nodes.Gates, in, attemptOptions{})); !out.Held {
		t.Errorf("%s", checks(out))
	}
	cluster := b.gates(1, 100*time.Millisecond)
	if out := must[GatesResult](t)(run(t, b.nodes.ClusterGates, cluster, attemptOptions{})); checks(out) != "core: "+coreSilent+" (exit 1)" {
		t.Errorf("of the cluster: %s", checks(out))
	}
	cluster.Baseline = baseline
	if out := must[GatesResult](t)(run(t, b.nodes.ClusterGates, cluster, attemptOptions{})); !out.Held {
		t.Errorf("of the cluster: %s", checks(out))
	}
}

func TestGates_KatoHangs_IsNotReadyAfterItsTime(t *testing.T) {
	b := start(t, alsConfig(), "kato:\n  timeout: 1s")
	b.node("dea-1").HangCommand("kato process ready", 1)
	in := NodeGatesInput{NodeInput: b.input("dea-1"), Times: 1, Timeout: operation.Duration(time.Second)}
	out := must[GatesResult](t)(run(t, b.nodes.Gates, in, attemptOptions{}))
	if got := checks(out); got != "dea-1: kato: not ready (no answer within 1s)" {
		t.Error(got)
	}
}

func preflightOf(t *testing.T, r PreflightResult, node string) NodePreflight {
	t.Helper()
	for _, n := range r.Nodes {
		if n.Node == node {
			return n
		}
	}
	t.Fatalf("%s is not in %+v", node, r)
	return NodePreflight{}
}

func TestPreflight_HealthyCluster_HasNoProblemsAndChangesNothing(t *testing.T) {
	b := start(t, alsConfig(), "")
	out := must[PreflightResult](t)(run(t, b.nodes.Preflight, PreflightInput{Operation: b.op, Nodes: []string{"dea-1", "core"}, Others: []string{"dea-2"}, PreflightNeeds: PreflightNeeds{Packages: true, Reboot: true}}, attemptOptions{}))
	for i, name := range []string{"dea-1", "core", "dea-2"} {
		n := out.Nodes[i]
		if n.Node != name || len(n.Problems)+len(n.Warnings)+len(n.Broken) != 0 {
			t.Errorf("%+v", n)
		}
		if i < 2 && (n.Pending != len(simcluster.DefaultPending()) || n.Kernel != simcluster.DefaultKernel || n.RebootRequired) {
			t.Errorf("%+v", n)
		}
	}
	if c := b.cluster.Commands(); len(c) != 0 {
		t.Errorf("%v", c)
	}
}

func TestPreflight_ManyFaults_AreAllTold(t *testing.T) {
	b := start(t, simcluster.Config{Platform: "plain", Nodes: []simcluster.NodeConfig{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}, {Name: "e"}}}, "")
	b.node("a").SudoPassword(true)
	b.node("b").FillDisk(true)
	b.node("c").ChangeHostKey()
	b.node("d").PowerOff()
	b.node("e").SkewClock(2 * time.Hour)
	if _, err := b.node("e").ReadFile("/etc/hostname"); err != nil { // makes its files
		t.Fatal(err)
	}
	lists, err := filepath.Glob(filepath.Join(b.cluster.Dir(), "nodes", "e", "var", "lib", "apt", "lists", "*_Packages"))
	if err != nil || len(lists) != 1 {
		t.Fatal(lists, err)
	}
	old := time.Now().Add(-10*24*time.Hour - time.Minute)
	if err := os.Chtimes(lists[0], old, old); err != nil {
		t.Fatal(err)
	}
	defer b.node("e").HoldAptLock(0)()
	out := must[PreflightResult](t)(run(t, b.nodes.Preflight, PreflightInput{Operation: b.op, Nodes: []string{"a", "b", "c", "d", "e"}, PreflightNeeds: PreflightNeeds{Packages: true, Reboot: true}}, attemptOptions{}))
	for name, want := range map[string]string{"a": "sudo does not let admin run without a password: apt-get update; unattended-upgrades -d; dpkg --configure -a; /sbin/reboot",
		"b": "0 MB free in /, at least 500 MB are needed", "c": "has changed", "d": "refused"} {
		n := preflightOf(t, out, name)
		if len(n.Problems) == 0 || !strings.Contains(n.Problems[0], want) {
			t.Errorf("%+v", n)
		}
	}
	e := preflightOf(t, out, "e")
	if got := strings.Join(e.Warnings, "\n"); len(e.Problems) != 0 || !strings.Contains(got, "apt is in use by pid") || !strings.Contains(got, "ahead of the worker") || !strings.Contains(got, "package lists are 10 days old") {
		t.Errorf("%+v", e)
	}
	if got := fmt.Sprint(preflightOf(t, out, "c").Broken, preflightOf(t, out, "d").Broken); got != "[c: ssh: host key not accepted] [d: ssh: unreachable]" {
		t.Error(got)
	}
}

func TestPreflight_JobOfAnOlderOperation_IsWaitedForAndThenAProblem(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: 4 * time.Second}, "")
	stop := make(chan struct{})
	older := inBackground(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{stop: stop})
	until(t, "the upgrade runs", func() bool { return b.ran("plain-1", "unattended-upgrades") == 1 })
	close(stop)
	older.wait(t)

	newer := b.op
	newer.ID, newer.Token = "op-2", 200
	in := PreflightInput{Operation: newer, Nodes: []string{"plain-1"}}
	out := must[PreflightResult](t)(run(t, b.nodes.Preflight, in, attemptOptions{}))
	if p := out.Nodes[0].Problems; len(p) != 1 || !strings.Contains(p[0], "job upgrade of operation op-1 still runs") {
		t.Errorf("%v", p)
	}
	fence := must[FenceResult](t)(run(t, b.nodes.Fence, FenceInput{Operation: newer, Nodes: []string{"plain-1"}}, attemptOptions{}))
	if len(fence.Failed) != 1 || fence.Failed[0].Failure.Type != operation.ErrRemoteBusy {
		t.Errorf("%+v", fence)
	}
	in.WaitForJobs = operation.Duration(30 * time.Second)
	out = must[PreflightResult](t)(run(t, b.nodes.Preflight, in, attemptOptions{}))
	if p := out.Nodes[0].Problems; len(p) != 0 {
		t.Errorf("%v", p)
	}
}

func TestPreflight_KatoAndInventoryDisagree_IsAWarning(t *testing.T) {
	b := start(t, alsConfig(), "")
	text := string(b.cluster.InventoryYAML())
	gone := b.node("dea-2").Address()
	text = strings.Replace(text, gone, "127.9.9.9", 1)
	rewrite(t, b.path, text)
	out := must[PreflightResult](t)(run(t, b.nodes.Preflight, PreflightInput{Operation: b.op, Nodes: []string{"core"}}, attemptOptions{}))
	got := strings.Join(preflightOf(t, out, "core").Warnings, "\n")
	if !strings.Contains(got, "does not have dea-2 (127.9.9.9)") || !strings.Contains(got, "has "+gone+", which the inventory does not have") {
		t.Error(got)
	}
}

func TestFence_SomeNodesAway_AreTold(t *testing.T) {
	b := start(t, simcluster.Config{Platform: "plain", Nodes: []simcluster.NodeConfig{{Name: "a"}, {Name: "b"}, {Name: "c"}}}, "")
	b.node("b").ChangeHostKey()
	b.node("c").PowerOff()
	out := must[FenceResult](t)(run(t, b.nodes.Fence, FenceInput{Operation: b.op, Nodes: []string{"a"}, Optional: []string{"b", "c"}}, attemptOptions{}))
	if len(out.Failed) != 1 || out.Failed[0].Node != "b" || out.Failed[0].Failure.Type != operation.ErrSSHHostKey || !slices.Equal(out.Unreachable, []string{"c"}) {
		t.Errorf("%+v", out)
	}
}
