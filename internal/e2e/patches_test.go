package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// withPatches is an ALS cluster of a Core and two DEAs, for which the manufacturer has the patches of the source page and one more.
func withPatches(c *config) {
	c.nodes = []nodeConfig{{name: "core", roles: []string{"base", "primary", "controller", "router"}}, {name: "dea-1", roles: []string{"base", "dea"}, calm: true}, {name: "dea-2", roles: []string{"base", "dea"}, calm: true}}
}

const (
	deaPatch  = "dea-memory-usage-reporting"
	corePatch = "vsphere-autoscaling-fix"
	basePatch = "log-stream-reconnect"
)

// patchesOf are those that are installed on a node, in order.
func (s *site) patchesOf(node string) []string {
	s.t.Helper()
	p, err := s.cluster.Node(node).Patches()
	require.NoError(s.t, err)
	out := slices.Clone(p.Installed)
	slices.Sort(out)
	return out
}

// patchWith changes what `kato patch` does on nodes.
func (s *site) patchWith(p katodouble.PatchesPatch, nodes ...string) {
	s.t.Helper()
	for _, n := range nodes {
		require.NoError(s.t, s.cluster.Node(n).PatchWith(p), n)
	}
}

// patchFault makes the next run of `kato patch` on a node go wrong.
func (s *site) patchFault(node string, f katodouble.PatchFault) {
	s.t.Helper()
	s.patchWith(katodouble.PatchesPatch{Fault: new(f), Times: new(1)}, node)
}

// patched requires that every node has the patches that are for it, and that kato ran once for it.
func (s *site) patched() {
	s.t.Helper()
	require.Equal(s.t, []string{basePatch, corePatch}, s.patchesOf("core"))
	require.Equal(s.t, []string{deaPatch, basePatch}, s.patchesOf("dea-1"))
	require.Equal(s.t, []string{deaPatch, basePatch}, s.patchesOf("dea-2"))
	again := s.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(s.t, again, "commands that ran more than once")
}

// katoPatches counts the runs of `kato patch` that change something on a node.
func (s *site) katoPatches(node string) (out []string) {
	for _, e := range s.cluster.Node(node).Commands() {
		if len(e.Argv) > 1 && e.Argv[0] == "kato" && e.Argv[1] == "patch" {
			out = append(out, strings.Join(e.Argv[2:], " "))
		}
	}
	return out
}

// katoRestarts are the roles that katoflow has had restarted on a node.
func (s *site) katoRestarts(node string) (out []string) {
	for _, e := range s.cluster.Node(node).Commands() {
		if len(e.Argv) > 1 && e.Argv[0] == "kato" && e.Argv[1] == "restart" {
			out = append(out, strings.Join(e.Argv[2:], " "))
		}
	}
	return out
}

// patch begins one of the commands by the CLI, detached, and returns when its preflight has passed.
func (s *site) patch(action operation.PatchAction, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"patch", string(action), s.cluster.Name()}, append(args, "--id", id, "--detach")...)...)
	return s.attachTo(action.Kind(), id)
}

// patchDirectly begins an installation through the client and does not wait for anything.
func (s *site) patchDirectly(in operation.PatchInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster, in.Action = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name(), operation.PatchInstall
	return s.execute(operation.KindPatchInstall, operation.WorkflowPatch, in.OperationID, in)
}

// patchStatus is the table, by patch: where it is installed, and where it is missing.
func (s *site) patchStatus(args ...string) map[string][2][]string {
	s.t.Helper()
	var said operation.PatchStatus
	require.NoError(s.t, json.Unmarshal([]byte(s.cli(0, append([]string{"patch", "status", s.cluster.Name(), "-o", "json"}, args...)...).Stdout), &said))
	out := map[string][2][]string{}
	for _, p := range said.Patches {
		require.Equal(s.t, [2]int{len(p.Installed), len(p.Missing)}, [2]int{p.InstalledCount, p.MissingCount})
		require.Equal(s.t, "required", p.Severity)
		require.NotEmpty(s.t, p.Roles)
		slices.Sort(p.Installed)
		slices.Sort(p.Missing)
		out[p.Name] = [2][]string{p.Installed, p.Missing}
	}
	return out
}

func TestPatches_OfEveryGenerationOfKato_InstalledRevertedAndReinstalled(t *testing.T) {
	t.Parallel()
	for _, generation := range []katodouble.Generation{katodouble.Generation34, katodouble.GenerationALS, katodouble.Generation10} {
		t.Run(string(generation), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withPatches)
			s.patchWith(katodouble.PatchesPatch{Generation: new(generation)}, s.names()...)
			s.worker("")
			require.Equal(t, map[string][2][]string{deaPatch: {nil, {"dea-1", "dea-2"}}, corePatch: {nil, {"core"}}, basePatch: {nil, {"core", "dea-1", "dea-2"}}}, s.patchStatus("--fetch"))
			here := "--local"
			if generation == katodouble.Generation10 {
				here = "--only-this-node"
			}
			shown := s.cli(0, "patch", "install", s.cluster.Name(), "--dry-run").Stdout
			require.Contains(t, shown, "kato patch install "+here+"\n")
			require.Empty(t, s.cluster.Commands(), "a dry run changes nothing")

			// One on one node, then all on all.
			s.patch(operation.PatchInstall, deaPatch, "--local", "dea-2").done(60 * time.Second)
			require.Equal(t, []string{deaPatch}, s.patchesOf("dea-2"))
			require.Empty(t, s.patchesOf("dea-1"))
			o := s.patch(operation.PatchInstall)
			r := o.done(90 * time.Second)
			s.patched()
			require.Equal(t, "3 patches installed on 3 nodes of 3", r.Message)
			require.Equal(t, []string{basePatch}, r.Nodes[1].Patches.Wanted, "of what is there nothing is done")
			require.Equal(t, []string{"install " + here + " " + deaPatch, "install " + here}, s.katoPatches("dea-2"))
			require.LessOrEqual(t, s.cluster.MaxOutOfService(), 1)
			text := s.cli(0, "op", "show", o.id).Stdout
			require.Regexp(t, deaPatch+` +required +dea +2 of 2 +-`, text)
			require.Equal(t, map[string][2][]string{deaPatch: {{"dea-1", "dea-2"}, nil}, corePatch: {{"core"}, nil}, basePatch: {{"core", "dea-1", "dea-2"}, nil}}, s.patchStatus())
			require.Contains(t, s.cli(0, "patch", "status", s.cluster.Name()).Stdout, "3 patches, installed everywhere")

			// Nothing is done twice.
			before := len(s.cluster.Commands())
			r = s.patch(operation.PatchInstall).done(60 * time.Second)
			require.Equal(t, "nothing installed, 3 nodes", r.Message)
			require.Len(t, s.cluster.Commands(), before)

			s.patch(operation.PatchReinstall, deaPatch, "--local", "dea-1").done(60 * time.Second)
			require.Equal(t, "reinstall "+here+" "+deaPatch, s.katoPatches("dea-1")[1])
			s.patch(operation.PatchRevert, deaPatch).done(60 * time.Second)
			require.Equal(t, []string{basePatch}, s.patchesOf("dea-1"))
			require.Equal(t, []string{basePatch}, s.patchesOf("dea-2"))
			require.Equal(t, []string{"install " + here}, s.katoPatches("core"), "which it was not for")
			s.patch(operation.PatchRevert, "--all", "--no-restart", "--nodes", "dea-1,core").done(60 * time.Second)
			require.Empty(t, s.patchesOf("dea-1"))
			require.Empty(t, s.patchesOf("core"))
			require.Equal(t, []string{basePatch}, s.patchesOf("dea-2"))
			require.Empty(t, s.repeated())
		})
	}
}

func TestPatches_Preflight_NamesEveryProblemAtOnce_AndTouchesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	s.worker("")
	out := s.cli(7, "patch", "install", s.cluster.Name(), "no-such-fix")
	require.Contains(t, out.Stderr, "there is no patch no-such-fix for these nodes: kato knows "+deaPatch+", "+basePatch+", "+corePatch)
	f := s.fault("one node does not reach the manufacturer by its proxy, one not at all")
	s.patchWith(katodouble.PatchesPatch{UpstreamProxy: new("127.0.0.1:9")}, "dea-1")
	s.patchWith(katodouble.PatchesPatch{Fault: new(katodouble.PatchNoManifest)}, "core")
	out = s.cli(7, "patch", "install", s.cluster.Name())
	require.Regexp(t, `dea-1: the list of patches cannot be fetched: .*kato op upstream_proxy set HOST:PORT`, out.Stderr)
	require.Regexp(t, `core: the list of patches cannot be fetched: .*kato op upstream_proxy set HOST:PORT`, out.Stderr)
	out = s.cli(1, "patch", "status", s.cluster.Name(), "--fetch")
	require.Contains(t, out.Stdout, "dea-1: the list of patches cannot be fetched")
	require.Regexp(t, deaPatch+` +required +dea +0 of 1 +dea-2`, out.Stdout, "the others are shown")
	f.end("both named before anything was changed")
	require.Empty(t, s.cluster.Commands())

	s.patchWith(katodouble.PatchesPatch{UpstreamProxy: new("")}, "dea-1")
	s.patchWith(katodouble.PatchesPatch{Heal: true}, "core")
	f = s.fault("a node is off")
	s.cluster.Node("dea-2").PowerOff()
	out = s.cli(7, "patch", "install", s.cluster.Name())
	require.Contains(t, out.Stderr, "dea-2: ")
	f.end("named before anything was changed")
	require.Empty(t, s.cluster.Commands())
}

// What goes wrong on a node is asked about, and a retry does it.
func TestPatches_KatoFails_AsksAndGoesOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault    katodouble.PatchFault
		exitZero bool
		says     string
		has      []string // on dea-1 when it asks
	}{
		"fails":                   {katodouble.PatchFails, false, `ended with exit code 1.*could not be applied`, nil},
		"fails with exit code 0":  {katodouble.PatchFails, true, `ended well, and .* not installed; it said: ERROR: .*could not be applied`, nil},
		"does nothing, says done": {katodouble.PatchSilent, false, `ended well, and .* not installed`, nil},
		"does one of two":         {katodouble.PatchHalf, false, `ended with exit code 1.*could not be applied`, []string{deaPatch}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withPatches)
			s.worker("")
			s.patchFault("dea-1", c.fault)
			if c.exitZero {
				onlySimulated(t, "the switch for exit codes is the simulated cluster's")
				s.simulated("dea-1").ExitZeroOnFailure(true)
			}
			o := s.patch(operation.PatchInstall)
			f := s.fault("kato patch %s", name)
			q := o.question(60 * time.Second)
			require.Equal(t, [2]string{"dea-1", operation.StepPatch}, [2]string{q.Node, q.Step})
			require.Regexp(t, c.says, q.Cause.Message)
			require.ElementsMatch(t, c.has, s.patchesOf("dea-1"))
			require.Empty(t, s.patchesOf("dea-2"), "the next node is not begun")
			o.decide(q, operation.Retry)
			o.done(90 * time.Second)
			s.patched()
			require.Equal(t, []string{"dea base"}, s.katoRestarts("dea-1"), "the roles of what the first try has done are restarted, too")
			require.Empty(t, s.katoRestarts("dea-2"))
			f.end(parkedFor(q.Step, "retried: installed"))
		})
	}
}

func TestPatches_JSONCrashes_TheTextIsRead(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	s.worker("")
	s.patchWith(katodouble.PatchesPatch{Fault: new(katodouble.PatchNoJSON)}, "core", "dea-2")
	f := s.fault("kato patch status --json crashes")
	s.patch(operation.PatchInstall).done(90 * time.Second)
	s.patched()
	f.end("the text was read instead")
}

func TestPatches_RestartedRoleDoesNotRun_TheNextNodeWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	s.inventory("    gates: {times: 1, interval: 100ms, timeout: 5s}\n    timeouts: {" + patient + "}\n")
	s.worker("")
	s.patchFault("dea-1", katodouble.PatchBreaks)
	o := s.patch(operation.PatchInstall, deaPatch)
	f := s.fault("a patched role does not come back")
	q := o.question(60 * time.Second)
	require.Equal(t, [2]string{"dea-1", operation.StepGates}, [2]string{q.Node, q.Step})
	require.Empty(t, s.patchesOf("dea-2"))
	s.cluster.Node("dea-1").StartRole("dea")
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	require.Equal(t, []string{deaPatch}, s.patchesOf("dea-2"))
	require.Len(t, s.katoPatches("dea-1"), 1)
	f.end(parkedFor(q.Step, "retried when it ran: the next node followed"))
}

func TestPatches_KatoAsksForAPassword_TheQuestionSaysWhat(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	s.limits("unreachable_after: 60s, boot: 20s, upgrade: 5s, apt_lock: 1s")
	s.worker("")
	s.patchFault("dea-1", katodouble.PatchHangs)
	o := s.patch(operation.PatchInstall, deaPatch)
	f := s.fault("kato patch waits for a password")
	q := o.question(60 * time.Second)
	require.Equal(t, [2]string{"dea-1", operation.StepPatch}, [2]string{q.Node, q.Step})
	require.Contains(t, q.Cause.Message, "'s password:\", and nobody is there to answer. End it there")
	// The way out of somebody who knows no better.
	s.cluster.Node("dea-1").RebootNow()
	o.decide(q, operation.Retry)
	r := o.done(120 * time.Second)
	require.Equal(t, []string{deaPatch}, s.patchesOf("dea-1"))
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "rebooted in the middle of kato patch: looked at again")
	require.Empty(t, s.repeated())
	f.end(parkedFor(q.Step, "the node rebooted by hand, retried: run again"))
}

func TestPatches_NodeRebootsInTheMiddle_RunAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	s.worker("")
	s.patchWith(katodouble.PatchesPatch{Seconds: new(in(3.0, 15.0))}, "dea-1")
	o := s.patchDirectly(operation.PatchInput{})
	f := s.fault("the node is rebooted by something else in the middle of kato patch")
	ctx, cancel := context.WithTimeout(context.Background(), stretched(60*time.Second))
	defer cancel()
	require.NoError(t, s.patchRuns(ctx, "dea-1"))
	s.cluster.Node("dea-1").RebootNow()
	s.patchWhenUp(ctx, "dea-1", katodouble.PatchesPatch{Heal: true})
	r := o.done(120 * time.Second)
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "rebooted in the middle of kato patch: looked at again")
	s.patched()
	f.end(wentOn)
}

// patchWhenUp is patchWith on a node that may be booting.
func (s *site) patchWhenUp(ctx context.Context, node string, p katodouble.PatchesPatch) {
	s.t.Helper()
	var err error
	for ctx.Err() == nil {
		if err = s.cluster.Node(node).PatchWith(p); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	require.NoError(s.t, err)
}

// patchRuns waits until `kato patch install` runs, or has run, on a node. A real host's record has it when it has ended.
func (s *site) patchRuns(ctx context.Context, node string) error {
	for ctx.Err() == nil {
		if len(s.katoPatches(node)) > 0 || onHosts() && s.running(node, "kato patch install") {
			return nil
		}
		time.Sleep(in(2*time.Millisecond, 20*time.Millisecond))
	}
	return fmt.Errorf("kato patch did not run on %s: %w", node, ctx.Err())
}

func TestPatches_NoRestart_TheRolesRunOnAndTheReportSaysSo(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	s.worker("")
	r := s.patch(operation.PatchInstall, "--no-restart").done(60 * time.Second)
	s.patched()
	for _, n := range r.Nodes {
		require.Contains(t, strings.Join(n.Notes, "\n"), "not restarted, so that nothing of it is in effect yet: kato restart ", n.Name)
	}
	require.Equal(t, []string{"install --local --no-restart"}, s.katoPatches("core"))
}

func TestPatches_Cancelled_KatoIsLetEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	s.worker("")
	s.patchWith(katodouble.PatchesPatch{Seconds: new(in(2.0, 10.0))}, "dea-1")
	o := s.patchDirectly(operation.PatchInput{})
	ctx, cancel := context.WithTimeout(context.Background(), stretched(60*time.Second))
	defer cancel()
	require.NoError(t, s.patchRuns(ctx, "dea-1"))
	f := s.fault("cancelled in the middle of kato patch")
	s.cli(0, "op", "cancel", o.id)
	r, err := o.end(90 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Equal(t, []string{deaPatch, basePatch}, s.patchesOf("dea-1"), "it was let end")
	require.Empty(t, s.patchesOf("dea-2"))
	require.Empty(t, s.repeated())
	f.end("kato was let end, the next node was not begun")
}

// TestKillMatrix_OfPatches kills the worker at every boundary of every step and in the middle of kato patch, and requires that kato ran exactly once.
func TestKillMatrix_OfPatches(t *testing.T) {
	t.Parallel()
	oneDEA := func(c *config) { c.nodes = c.nodes[:2] }
	t.Run("points", func(t *testing.T) {
		m := matrix{
			site: func(t *testing.T) *site {
				s := newSite(t, nil, nil, withPatches, oneDEA)
				s.patchWith(katodouble.PatchesPatch{Seconds: new(0.4)}, s.names()...)
				return s
			},
			start: func(s *site) *op { return s.patchDirectly(operation.PatchInput{}) },
			intact: func(o *op, _ int) {
				o.done(2 * time.Minute)
				for _, n := range o.names() {
					require.Equal(o.t, []string{"install --local"}, o.katoPatches(n), n)
				}
				require.Equal(o.t, []string{deaPatch, basePatch}, o.patchesOf("dea-1"))
				require.Equal(o.t, []string{basePatch, corePatch}, o.patchesOf("core"))
				again := o.repeated()
				repeatedInAll.Add(int64(len(again)))
				require.Empty(o.t, again)
			},
		}
		m.lanes(t, "operation", 2, boundaries("Resolve", "LockToken", "PatchesStatus", "Fence", "ClusterGates"))
		m.lanes(t, "node", 2, inChild("dea-1", slices.Concat(boundaries("Probe", "LookAtPatches"), within("ChangePatches", killPoint{name: "in kato patch", moment: func(ctx context.Context, o *op) (func(), error) {
			return nil, o.patchRuns(ctx, "dea-1")
		}}), boundaries("Gates"))))
	})
	tellKills(t, "patches")
}
