package workflows

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// patchWorld is a world whose nodes have kato's patches.
type patchWorld struct {
	*world
	f *fake
	// has and lacks are the patches of each node that concern it.
	has, lacks map[string][]string
	// interrupted runs, by node.
	interrupted map[string]int
	asked       []activities.PatchesInput
	changed     []activities.ChangePatchesInput
	problems    []string
	// away did not say, when asked side by side.
	away []string
}

func newPatchWorld(t *testing.T) *patchWorld {
	w := &patchWorld{world: newWorld(t, alsPlan()), interrupted: map[string]int{}, has: map[string][]string{"fs-1": {"every"}},
		lacks: map[string][]string{"dea-1": {"dea-fix", "every"}, "dea-2": {"dea-fix", "every"}, "core": {"every"}}}
	w.f = w.fake
	for name, fn := range map[string]any{"PatchesStatus": w.PatchesStatus, "LookAtPatches": w.LookAtPatches, "ChangePatches": w.ChangePatches, "RestartRoles": w.RestartRoles, "PlanPatches": w.PlanPatches} {
		w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return w
}

func (w *patchWorld) PatchesStatus(ctx context.Context, in activities.PatchesInput) (activities.PatchesResult, error) {
	err := w.f.call(ctx, "PatchesStatus", "")
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.asked = append(w.asked, in)
	out := activities.PatchesResult{Problems: w.problems, Unasked: w.away}
	for _, n := range in.Nodes {
		if slices.Contains(w.away, n) {
			continue
		}
		for _, p := range w.has[n] {
			out.Patches = operation.MergePatches(out.Patches, []operation.Patch{{Name: p, Installed: []string{n}, InstalledCount: 1}})
		}
		for _, p := range w.lacks[n] {
			out.Patches = operation.MergePatches(out.Patches, []operation.Patch{{Name: p, Missing: []string{n}, MissingCount: 1}})
		}
	}
	return out, err
}

func (w *patchWorld) LookAtPatches(ctx context.Context, in activities.PatchInput) (operation.PatchProgress, error) {
	err := w.f.step(ctx, "LookAtPatches", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	return operation.PatchProgress{Wanted: in.Change.Wanted(w.has[in.Node.Name], w.lacks[in.Node.Name]), Roles: []string{"dea"}, OnlyThisNode: in.Node.Name == "dea-2"}, err
}

func (w *patchWorld) ChangePatches(ctx context.Context, in activities.ChangePatchesInput) (activities.JobResult, error) {
	err := w.f.step(ctx, "ChangePatches", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	out := activities.JobResult{Started: true}
	if err != nil || in.Settle {
		return out, err
	}
	if w.interrupted[in.Node.Name] > 0 {
		w.interrupted[in.Node.Name]--
		out.Interrupted = true
		return out, nil
	}
	w.changed = append(w.changed, in)
	from, to := w.lacks, w.has
	if in.Change.Action == operation.PatchRevert {
		from, to = to, from
	}
	for _, p := range in.Progress.Wanted {
		from[in.Node.Name] = slices.DeleteFunc(slices.Clone(from[in.Node.Name]), func(have string) bool { return have == p })
		to[in.Node.Name] = append(to[in.Node.Name], p)
	}
	return out, nil
}

func (w *patchWorld) RestartRoles(ctx context.Context, in activities.ChangePatchesInput) (activities.JobResult, error) {
	return activities.JobResult{Started: true}, w.f.step(ctx, "RestartRoles", in.NodeInput)
}

func (w *patchWorld) PlanPatches(ctx context.Context, in activities.PlanPatchesInput) (activities.PlanCommandsResult, error) {
	var out activities.PlanCommandsResult
	for _, n := range in.Nodes {
		out.Plans = append(out.Plans, operation.CommandPlan{Nodes: []string{n.Name}, Commands: []operation.PlannedCommand{{Step: "patch", Command: "kato patch"}}})
	}
	return out, w.f.call(ctx, "PlanPatches", "")
}

func (w *patchWorld) patch(changes ...func(*operation.PatchInput)) (operation.Report, error) {
	w.t.Helper()
	in := operation.PatchInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}, Action: operation.PatchInstall}
	for _, c := range changes {
		c(&in)
	}
	w.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: operation.WorkflowID("prod", in.Action.Kind(), "op-1"), TaskQueue: "test"})
	w.ExecuteWorkflow(Patch, in)
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.fake.calls)
	require.Equal(w.t, w.sent, w.settled, "every update was answered")
	return reportOf(w.t, w.world)
}

func TestPatch_AllNodes_OneAfterTheOtherAndThoseWithNothingToDoLeftAlone(t *testing.T) {
	w := newPatchWorld(t)
	report, err := w.patch()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"dea-1": "done", "dea-2": "done", "core": "done", "mysql-1": "done", "fs-1": "done"}, status(report))
	require.Equal(t, "2 patches installed on 3 nodes of 5", report.Message)
	var order []string
	for _, c := range w.changed {
		order = append(order, c.Node.Name)
	}
	require.Equal(t, []string{"dea-1", "dea-2", "core"}, order)
	require.Equal(t, []string{"dea-fix", "every"}, node(t, report, "dea-1").Patches.Wanted)
	require.True(t, w.changed[1].Progress.OnlyThisNode, "what the look has found goes to the command")
	require.Equal(t, []string{"nothing to install there"}, node(t, report, "mysql-1").Notes)
	require.Zero(t, w.f.count("Probe mysql-1"))
	require.Zero(t, w.f.count("Probe fs-1"))
	require.Less(t, w.f.place("Gates dea-1"), w.f.place("Probe dea-2"), "one node at a time")
	require.Less(t, w.f.place("Gates dea-2"), w.f.place("Probe core"), "one node at a time")
	require.Equal(t, []bool{true, false}, []bool{w.asked[0].Fetch, w.asked[len(w.asked)-1].Fetch}, "the list is fetched before, and only read at the end")
	every := report.Patches.Patches[1]
	require.Equal(t, "every", every.Name)
	require.Equal(t, [2]int{4, 0}, [2]int{every.InstalledCount, every.MissingCount})
	for _, n := range []string{"dea-1", "dea-2", "core"} {
		require.Less(t, w.f.place("ChangePatches "+n), w.f.place("Gates "+n), n)
	}
}

func TestPatch_FirstNodeHasNothingToDo_TheCanaryIsTheFirstThatHas(t *testing.T) {
	w := newPatchWorld(t)
	delete(w.lacks, "dea-1")
	w.f.during["ChangePatches dea-2"] = func(context.Context) {
		require.Zero(t, w.f.count("Probe core"), "the canary goes alone")
	}
	_, err := w.patch(func(in *operation.PatchInput) { in.Batch = "3" })
	require.NoError(t, err)
	require.Equal(t, 1, w.f.count("ChangePatches core"))
}

func TestPatch_Named_OnlyThatOne(t *testing.T) {
	w := newPatchWorld(t)
	report, err := w.patch(func(in *operation.PatchInput) { in.Patch, in.NoRestart = "dea-fix", true })
	require.NoError(t, err)
	require.Equal(t, "1 patch installed on 2 nodes of 5", report.Message)
	require.Zero(t, w.f.count("ChangePatches core"))
	require.Equal(t, "dea-fix", w.changed[0].Change.Patch)
	require.True(t, w.changed[0].Change.NoRestart)
	require.Contains(t, node(t, report, "dea-1").Notes, "not restarted, so that nothing of it is in effect yet: kato restart dea")
}

func TestPatch_NothingToDo_TouchesNothing(t *testing.T) {
	w := newPatchWorld(t)
	w.lacks = map[string][]string{}
	report, err := w.patch()
	require.NoError(t, err)
	require.Equal(t, "nothing installed, 5 nodes", report.Message)
	for _, c := range w.f.mutated() {
		require.Equal(t, "Fence", c, "nothing but the lease")
	}
}

func TestPatch_UnknownName_NothingIsTouchedAndThoseThereAreAreNamed(t *testing.T) {
	w := newPatchWorld(t)
	_, err := w.patch(func(in *operation.PatchInput) { in.Patch = "no-such-fix" })
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.Empty(t, w.f.mutated())
	report, _ := reportOf(t, w.world)
	require.Equal(t, []string{"cluster: there is no patch no-such-fix for these nodes: kato knows dea-fix, every"}, report.Failure.Problems)
}

func TestPatch_NodesThatCannotFetchTheList_AllNamedBeforeAnythingIsChanged(t *testing.T) {
	w := newPatchWorld(t)
	w.problems, w.away = []string{"dea-1: the list of patches cannot be fetched", "core: the list of patches cannot be fetched"}, []string{"dea-1", "core"}
	_, err := w.patch()
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.Empty(t, w.f.mutated())
	report, _ := reportOf(t, w.world)
	require.Equal(t, w.problems, report.Failure.Problems)
}

func TestPatch_FailsOnANode_IsAskedAndRetriedAsTheNextTry(t *testing.T) {
	w := newPatchWorld(t)
	w.f.script["ChangePatches dea-1"] = []error{fail(operation.ErrVerify, "dea-1: kato patch install ended well, and every not installed")}
	w.answer(operation.Retry)
	report, err := w.patch()
	require.NoError(t, err)
	require.Equal(t, []string{"dea-1/patch/1"}, w.world.asked)
	require.Equal(t, 1, w.f.count("ChangePatches dea-1 try=2"))
	require.Equal(t, 1, w.f.count("LookAtPatches dea-1"), "what there is to do was found once")
	require.Equal(t, 1, w.f.count("RestartRoles dea-1 try=2"), "what the first try may have done is in effect, too")
	require.Zero(t, w.f.count("RestartRoles dea-2"))
	require.Equal(t, "2 patches installed on 3 nodes of 5", report.Message)
}

func TestPatch_NodeRebootsInTheMiddle_RunAgainAndTold(t *testing.T) {
	w := newPatchWorld(t)
	w.interrupted["dea-1"] = 1
	report, err := w.patch()
	require.NoError(t, err)
	require.Contains(t, node(t, report, "dea-1").Notes, "the node rebooted in the middle of kato patch: looked at again")
	require.Equal(t, 1, w.f.count("ChangePatches dea-1 try=2"))

	w = newPatchWorld(t)
	w.interrupted["dea-1"] = 2
	w.answer(operation.Skip, operation.Abort)
	_, err = w.patch()
	require.Error(t, err)
	require.Equal(t, "dea-1/patch/1", w.world.asked[0])
}

func TestPatch_GatesDoNotHold_TheNextNodeIsNotBegun(t *testing.T) {
	w := newPatchWorld(t)
	w.f.down["dea-1"] = true
	w.answer(operation.Abort)
	report, err := w.patch()
	require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
	require.Equal(t, "failed", status(report)["dea-1"])
	require.Equal(t, "untouched", status(report)["dea-2"])
	require.Equal(t, "done", status(report)["mysql-1"])
}

func TestPatch_CancelledWhileKatoRuns_KatoIsLetEnd(t *testing.T) {
	w := newPatchWorld(t)
	w.f.during["ChangePatches dea-1"] = func(ctx context.Context) {
		delete(w.f.during, "ChangePatches dea-1")
		w.RegisterDelayedCallback(w.CancelWorkflow, 0)
		<-ctx.Done()
	}
	report, err := w.patch()
	require.Error(t, err)
	require.Equal(t, 1, w.f.count("ChangePatches dea-1 settle"))
	require.Equal(t, operation.PhaseCancelled, report.Phase)
	require.True(t, node(t, report, "dea-1").Patches.Changed)
	require.True(t, report.Patches.AsFound, "the table is that of before")
	require.Zero(t, w.f.count("ChangePatches dea-2"))
}

func TestPatch_Revert_TakesTheInstalledOnesAway(t *testing.T) {
	w := newPatchWorld(t)
	w.has = map[string][]string{"dea-1": {"dea-fix"}, "core": {"every"}, "fs-1": {"every"}}
	report, err := w.patch(func(in *operation.PatchInput) { in.Action, in.Patch = operation.PatchRevert, "every" })
	require.NoError(t, err)
	require.Equal(t, "1 patch reverted on 2 nodes of 5", report.Message)
	require.Equal(t, []string{"nothing to revert there"}, node(t, report, "dea-1").Notes)
}

func TestPatch_ReinstallWhereItIsNotInstalled_IsAProblem(t *testing.T) {
	w := newPatchWorld(t)
	_, err := w.patch(func(in *operation.PatchInput) { in.Action, in.Patch = operation.PatchReinstall, "dea-fix" })
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	report, _ := reportOf(t, w.world)
	require.Contains(t, report.Failure.Problems[0], "dea-fix is installed on none of these nodes")

	w = newPatchWorld(t)
	w.has["dea-2"], w.lacks["dea-2"] = []string{"dea-fix"}, nil
	report, err = w.patch(func(in *operation.PatchInput) { in.Action, in.Patch = operation.PatchReinstall, "dea-fix" })
	require.NoError(t, err)
	require.Equal(t, "1 patch installed again on 1 node of 5", report.Message)
}

func TestPatch_ChangedBySomebodyElseMeanwhile_IsNoSuccess(t *testing.T) {
	w := newPatchWorld(t)
	w.f.during["Gates core"] = func(context.Context) {
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		w.has["dea-1"], w.lacks["dea-1"] = []string{"every"}, []string{"dea-fix"}
	}
	report, err := w.patch()
	require.Equal(t, operation.ErrVerify, typeOf(err))
	require.Contains(t, report.Message, "dea-1: dea-fix is not as it was left")
}

func TestPatch_DryRun_ShowsTheNodesThatHaveSomethingToDo(t *testing.T) {
	w := newPatchWorld(t)
	report, err := w.patch(func(in *operation.PatchInput) { in.DryRun = true })
	require.NoError(t, err)
	require.False(t, w.asked[0].Fetch, "a dry run changes nothing, not even kato's copy of the list")
	var nodes []string
	for _, c := range report.Commands {
		nodes = append(nodes, c.Nodes...)
	}
	require.Equal(t, []string{"dea-1", "dea-2", "core"}, nodes)
	require.Empty(t, w.f.mutated())
	require.True(t, slices.ContainsFunc(report.Warnings, func(s string) bool { return strings.Contains(s, "a dry run fetches no list") }))
}

func TestPatch_BadInput_NamesAll(t *testing.T) {
	w := newPatchWorld(t)
	report, err := w.patch(func(in *operation.PatchInput) {
		in.Action, in.Patch, in.Soak = operation.PatchReinstall, "", operation.Duration(-time.Second)
	})
	require.Equal(t, operation.ErrBadInput, typeOf(err))
	require.Len(t, report.Failure.Problems, 2)
}

func TestPatch_LooksAgainBeforeTheFirstNode_WhatHasChangedMeanwhileCounts(t *testing.T) {
	w := newPatchWorld(t)
	w.lacks = map[string][]string{"core": {"every"}}
	w.has["dea-1"] = []string{"dea-fix"}
	w.f.during["Fence"] = func(context.Context) { // as when somebody reverts one between the preflight and a maintenance window
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		w.has["dea-1"], w.lacks["dea-1"] = nil, []string{"dea-fix"}
	}
	report, err := w.patch()
	require.NoError(t, err)
	require.Equal(t, []string{"dea-fix"}, node(t, report, "dea-1").Patches.Wanted)
	require.Equal(t, 1, w.f.count("ChangePatches dea-1"))
}

func TestPatch_LookFindsNothing_ThatNodeIsNoCanaryAndItsGatesHoldAllTheSame(t *testing.T) {
	w := newPatchWorld(t)
	w.f.during["Probe dea-1"] = func(context.Context) {
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		w.has["dea-1"], w.lacks["dea-1"] = append(w.has["dea-1"], w.lacks["dea-1"]...), nil
	}
	w.f.during["ChangePatches dea-2"] = func(context.Context) {
		require.Zero(t, w.f.count("Probe core"), "it goes alone, because dea-1 has shown nothing")
	}
	report, err := w.patch(func(in *operation.PatchInput) { in.Batch = "3" })
	require.NoError(t, err)
	require.Equal(t, 1, w.f.count("ChangePatches dea-1 settle"), "a run from before a Reset is followed to its end")
	require.Equal(t, 1, w.f.count("Gates dea-1"))
	require.Equal(t, "2 patches installed on 2 nodes of 5", report.Message)
}

func TestPatch_NodeNamesNoPatchThatOthersNameForItsRoles_IsTold(t *testing.T) {
	w := newPatchWorld(t)
	found := patchesFound{list: []operation.Patch{{Name: "dea-fix", Roles: []string{"dea"}}}, nodes: map[string]*patchesOfNode{"dea-1": {missing: []string{"dea-fix"}}, "dea-2": {}, "core": {}}, unfetched: []string{"core"}}
	warnings := strings.Join(found.warnings(w.f.plan), "\n")
	require.Contains(t, warnings, "dea-2: kato names no patch there, and dea-fix elsewhere, which is for one of its roles")
	require.NotContains(t, warnings, "core: kato names")
	require.Contains(t, warnings, "kato on 1 node (core) cannot fetch the list of patches by itself")
}

func TestPatch_PlainCluster_HasNoKato(t *testing.T) {
	w := newPatchWorld(t)
	w.f.plan.Core = ""
	_, err := w.patch()
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	report, _ := reportOf(t, w.world)
	require.Equal(t, []string{"cluster prod has no kato, and so no patches of it"}, report.Failure.Problems)
}

func TestTrim_ManyPatchesOnManyNodes_FitsIntoAReport(t *testing.T) {
	var report operation.Report
	var all []operation.Patch
	var names []string
	for range 1000 {
		name := strings.Repeat("n", 24)
		names = append(names, name)
		report.Nodes = append(report.Nodes, operation.NodeReport{Name: name, Status: operation.NodeDone, NodeProgress: operation.NodeProgress{Patches: &operation.PatchProgress{}}})
	}
	for range 300 {
		all = append(all, operation.Patch{Name: strings.Repeat("p", 30), Description: strings.Repeat("d", 300), Installed: names, Missing: names, InstalledCount: 1000})
		for i := range report.Nodes {
			report.Nodes[i].Patches.Wanted = append(report.Nodes[i].Patches.Wanted, strings.Repeat("p", 30))
		}
	}
	report.Patches = &operation.PatchReport{Patches: operation.CutPatches(all)}
	b, err := json.Marshal(trim(report))
	require.NoError(t, err)
	require.Less(t, len(b), 1<<20)
	require.NotNil(t, report.Nodes[0].Patches, "the operation's own report is left alone")
	require.Len(t, report.Patches.Patches[0].Installed, operation.MaxPatchNodes)
}
