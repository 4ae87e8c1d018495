package workflows

// Patches ("Applying Updates" of the source page): what `kato patch install` does to the whole cluster from one VM is done with --local on each node, one at a time, so that a patch that breaks a role
// breaks it on one node,
//
//  1. before anything is changed, every node fetches the list of patches, through the network's proxy where kato was told of one, and says which it has;
//  2. the whole cluster is as well as it was before;
//  3. kato patch install --local on the node, which restarts the roles that the patches are for;
//  4. kato patch status there says that they are installed;
//  5. the node's gates hold several times in a row; next node.
//
// Nodes on which there is nothing to do are left alone. Revert and reinstall are the same with kato's other commands. The steps of one node are in patch_node.go.

import (
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// Patch is the operation workflow. It completes with the report when every node has what it should; otherwise it fails, or ends as cancelled, with the report in the details of its error.
func Patch(ctx workflow.Context, in operation.PatchInput) (*operation.Report, error) {
	return operate(ctx, in.Action.Kind(), in.Request, in.Batch, &patch{in: in})
}

type patch struct {
	rolling
	in    operation.PatchInput
	known patchesFound
	// left is what has to be told of the end: nil when everything that was asked for is done.
	left *operation.Failure
}

// patchesFound is what kato says on all nodes that were asked.
type patchesFound struct {
	list []operation.Patch // whole
	// nodes have what each node has and lacks.
	nodes                   map[string]*patchesOfNode
	onlyThisNode, unfetched []string
	problems                []string
}

type patchesOfNode struct{ installed, missing []string }

func (p *patch) attach(r *run) {
	p.rolling = rolling{run: r, work: p, rollingOptions: rollingOptions{noCanary: p.in.NoCanary, soakFor: p.in.Soak, maxFailures: p.in.MaxFailures}}
}

func (p *patch) check() []string { return p.in.Check() }

func (p *patch) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: p.in.Cluster, InventoryDigest: p.in.InventoryDigest, Nodes: p.in.Nodes, RoleOrder: p.in.RoleOrder}
}

func (p *patch) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

func (p *patch) wantsMaintenance() bool { return false }

// ready asks kato on all nodes that are worked on which patches they have.
func (p *patch) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	warnings = p.setWindows(ctx, p.in.Window, operation.UnitNode)
	if p.plan.Core == "" {
		return []string{noKato(p.in.Cluster)}, warnings, nil
	}
	p.known, err = askPatches(ctx, p.in.Cluster, names(p.plan), !p.in.DryRun)
	if err != nil {
		return nil, nil, err
	}
	problems, warnings = p.known.problems, append(warnings, p.known.warnings(p.plan)...)
	p.report.Patches = &operation.PatchReport{Action: p.in.Action, Patch: p.in.Patch, NoRestart: p.in.NoRestart, Patches: operation.CutPatches(p.known.list), AsFound: true}
	if p.in.Patch == "" || len(p.known.nodes) == 0 {
		return problems, warnings, nil
	}
	at := slices.IndexFunc(p.known.list, func(k operation.Patch) bool { return k.Name == p.in.Patch })
	switch {
	case at < 0:
		old := ""
		if p.in.DryRun {
			old = " (a dry run does not fetch the list of patches: katoflow patch status --fetch does)"
		}
		problems = append(problems, fmt.Sprintf("cluster: there is no patch %s for these nodes: kato knows %s%s", p.in.Patch, patchNames(p.known.list), old))
	case p.in.Action == operation.PatchReinstall && p.known.list[at].InstalledCount == 0:
		problems = append(problems, fmt.Sprintf("cluster: %s is installed on none of these nodes: katoflow patch install %s %s", p.in.Patch, p.in.Cluster, p.in.Patch))
	}
	return problems, warnings, nil
}

func noKato(cluster string) string {
	return fmt.Sprintf("cluster %s has no kato, and so no patches of it", cluster)
}

// warnings are what deserves a look, and stands in no way.
func (f patchesFound) warnings(plan operation.Plan) (out []string) {
	if n := len(f.unfetched); n > 0 {
		out = append(out, fmt.Sprintf("kato on %s (%s) cannot fetch the list of patches by itself: what is new may not be in it, and whether the manufacturer is reached was not tried", count(n, "node"), strings.Join(bound(f.unfetched, 5), ", ")))
	}
	for _, n := range plan.Nodes {
		has := f.nodes[n.Name]
		if has == nil || len(has.installed)+len(has.missing) > 0 {
			continue
		}
		for _, k := range f.list {
			if slices.ContainsFunc(k.Roles, n.HasRole) {
				out = append(out, fmt.Sprintf("%s: kato names no patch there, and %s elsewhere, which is for one of its roles", n.Name, k.Name))
				break
			}
		}
	}
	return bound(out, 20)
}

// patchNames are those of a list, in one line.
func patchNames(list []operation.Patch) string {
	if len(list) == 0 {
		return "none"
	}
	var all []string
	for _, p := range list {
		all = append(all, p.Name)
	}
	return oneLine(strings.Join(bound(all, 20), ", "), 400)
}

// askPatches asks nodes which patches they have, and fetches the list of patches before where that is wanted.
func askPatches(ctx workflow.Context, cluster string, nodes []string, fetch bool) (patchesFound, error) {
	var patches *activities.Patches
	all := patchesFound{nodes: map[string]*patchesOfNode{}}
	var futures []workflow.Future
	for part := range slices.Chunk(nodes, nodesPerChunk) {
		futures = append(futures, workflow.ExecuteActivity(following(ctx, "which patches "+count(len(part), "node")+" have", nodesWithin), patches.PatchesStatus, activities.PatchesInput{Cluster: cluster, Nodes: part, Fetch: fetch}))
	}
	i := 0
	for part := range slices.Chunk(nodes, nodesPerChunk) {
		var found activities.PatchesResult
		if err := futures[i].Get(ctx, &found); err != nil {
			return all, err
		}
		i++
		for _, n := range part {
			if !slices.Contains(found.Unasked, n) {
				all.nodes[n] = &patchesOfNode{}
			}
		}
		for _, k := range found.Patches {
			for _, n := range k.Installed {
				if of := all.nodes[n]; of != nil {
					of.installed = append(of.installed, k.Name)
				}
			}
			for _, n := range k.Missing {
				if of := all.nodes[n]; of != nil {
					of.missing = append(of.missing, k.Name)
				}
			}
		}
		all.list = operation.MergePatches(all.list, found.Patches)
		all.onlyThisNode, all.unfetched, all.problems = append(all.onlyThisNode, found.OnlyThisNode...), append(all.unfetched, found.Unfetched...), append(all.problems, found.Problems...)
	}
	return all, nil
}

// dryRun returns the commands of the nodes on which there is something to do.
func (p *patch) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var patches *activities.Patches
	var out activities.PlanCommandsResult
	var nodes []operation.PlannedNode
	for i, n := range p.plan.Nodes {
		if p.todo(i) {
			nodes = append(nodes, n)
		} else {
			p.report.Nodes[i].Notes = []string{nothingToPatch(p.in.Action)}
		}
	}
	p.warn("a dry run fetches no list of patches: it shows what kato knows already")
	if len(nodes) == 0 {
		return nil, nil
	}
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), patches.PlanPatches, activities.PlanPatchesInput{Operation: p.op, Nodes: nodes, Change: p.change(), OnlyThisNode: p.known.onlyThisNode}).Get(ctx, &out)
	return out.Plans, err
}

// change is what is done to a node.
func (p *patch) change() operation.PatchInput {
	return operation.PatchInput{Action: p.in.Action, Patch: p.in.Patch, NoRestart: p.in.NoRestart}
}

// todo reports whether something is to be done on a node. One that did not say is looked at by its own steps.
func (p *patch) todo(i int) bool {
	has := p.known.nodes[p.plan.Nodes[i].Name]
	return has == nil || len(p.in.Wanted(has.installed, has.missing)) > 0
}

func (p *patch) nodeWorkflow() (name, what string) {
	return operation.WorkflowPatchNode, "patch " + string(p.in.Action)
}

func (p *patch) nodeInput(task nodeTask) any {
	return nodePatchInput{nodeTask: task, Change: p.change()}
}

func (p *patch) first(*operation.NodeReport) {}

// tries: a node on which nothing was done says nothing of the patches.
func (p *patch) tries(n *operation.NodeReport) bool { return n.Patches != nil && n.Patches.Changed }

func (p *patch) steps(ctx workflow.Context) {
	// Since the preflight the cluster may have been somebody else's, as between maintenance windows, and a job of an older operation may have ended.
	if now, err := askPatches(ctx, p.in.Cluster, names(p.plan), false); err == nil {
		p.known = now
		p.report.Patches.Patches = operation.CutPatches(now.list)
	} else if ctx.Err() != nil {
		return
	}
	begun := false
	for i := range p.report.Nodes {
		if p.todo(i) {
			begun = true
			continue
		}
		p.report.Nodes[i].Status, p.report.Nodes[i].Notes = operation.NodeDone, []string{nothingToPatch(p.in.Action)}
	}
	if !begun {
		p.report.Patches.AsFound = false
		return
	}
	p.roll(ctx)
	if ctx.Err() == nil {
		p.after(ctx)
	}
	for i := range p.report.Nodes { // the whole lists are in the results of the nodes' own workflows
		if n := p.report.Nodes[i].Patches; n != nil {
			n.Wanted = n.Wanted[:min(len(n.Wanted), max(5, 2000/len(p.report.Nodes)))]
		}
	}
}

// nothingToPatch is why a node is left alone.
func nothingToPatch(action operation.PatchAction) string {
	switch action {
	case operation.PatchInstall:
		return "nothing to install there"
	case operation.PatchRevert:
		return "nothing to revert there"
	}
	return "not installed there"
}

// after asks all nodes once more, for the report. Every node was asked by its own steps, so that one that does not say is only told.
func (p *patch) after(ctx workflow.Context) {
	now, err := askPatches(ctx, p.in.Cluster, names(p.plan), false)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		p.warn("which patches the nodes have at the end was not asked: " + operation.FailureOf(err).Message)
		return
	}
	p.report.Patches.Patches, p.report.Patches.AsFound, p.report.Patches.Unasked = operation.CutPatches(now.list), false, len(p.plan.Nodes)-len(now.nodes)
	for _, problem := range bound(now.problems, 20) {
		p.warn("at the end: " + problem)
	}
	p.left = p.undone(now)
}

// undone is what the nodes that are done should have, and have not any more.
func (p *patch) undone(now patchesFound) *operation.Failure {
	var wrong []string
	for i := range p.report.Nodes {
		n := &p.report.Nodes[i]
		is := now.nodes[n.Name]
		if n.Status != operation.NodeDone || is == nil {
			continue
		}
		// A node that was left alone has nothing of it to do still.
		wanted := p.in.Wanted(is.installed, is.missing)
		if p.in.Action == operation.PatchReinstall {
			wanted = nil
		}
		if n.Patches != nil {
			there := is.installed
			if p.in.Action == operation.PatchRevert {
				there = is.missing
			}
			wanted = slices.DeleteFunc(slices.Clone(n.Patches.Wanted), func(name string) bool { return slices.Contains(there, name) })
		}
		for _, name := range wanted {
			wrong = append(wrong, fmt.Sprintf("%s: %s is not as it was left", n.Name, name))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &operation.Failure{Type: operation.ErrVerify, Message: fmt.Sprintf("%s: somebody else has changed it since, see katoflow patch status %s", wrong[0], p.in.Cluster), Problems: bound(wrong, 100)}
}

func (p *patch) fell() *operation.Failure { return p.left }

// found is what the preflight tells the starter.
func (p *patch) found() string {
	n := 0
	for i := range p.plan.Nodes {
		if p.todo(i) {
			n++
		}
	}
	if n == 0 {
		return "nothing to " + string(p.in.Action)
	}
	return fmt.Sprintf("something to %s on %s", p.in.Action, count(n, "node"))
}

// outcomeText is the message of an operation that ended well.
func (p *patch) outcomeText() string { return patchSummary(&p.report) }

// patchSummary is how far an operation on patches is.
func patchSummary(report *operation.Report) string {
	if report.Patches == nil {
		return "not begun"
	}
	changed, patches := 0, map[string]bool{}
	for i := range report.Nodes {
		if n := report.Nodes[i].Patches; n != nil && n.Changed {
			changed++
			for _, name := range n.Wanted {
				patches[name] = true
			}
		}
	}
	past := map[operation.PatchAction]string{operation.PatchInstall: "installed", operation.PatchRevert: "reverted", operation.PatchReinstall: "installed again"}[report.Patches.Action]
	if changed == 0 {
		return fmt.Sprintf("nothing %s, %s", past, count(len(report.Nodes), "node"))
	}
	return fmt.Sprintf("%s %s on %s of %d", countOf(len(patches), "patch", "patches"), past, count(changed, "node"), len(report.Nodes))
}

func countOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// PatchStatus tells which patches there are, and where they are installed. It changes nothing but, where that is asked for, kato's own copy of the list.
func PatchStatus(ctx workflow.Context, in operation.PatchStatusInput) (operation.PatchStatus, error) {
	out := operation.PatchStatus{Cluster: in.Cluster, At: stamp(ctx), Patches: []operation.Patch{}}
	var inventory *activities.Inventory
	var plan operation.Plan
	if err := workflow.ExecuteActivity(quick(ctx, "inventory"), inventory.Resolve, activities.ResolveInput{Cluster: in.Cluster, InventoryDigest: in.InventoryDigest}).Get(ctx, &plan); err != nil {
		return out, err
	}
	out.Nodes = len(plan.Nodes)
	if plan.Core == "" {
		return out, operation.NewError(operation.Failure{Type: operation.ErrBadInput, Message: noKato(in.Cluster)})
	}
	found, err := askPatches(ctx, in.Cluster, names(plan), in.Fetch)
	if err != nil {
		return out, err
	}
	out.Patches, out.Problems, out.Warnings = append(out.Patches, operation.CutPatches(found.list)...), bound(found.problems, 500), found.warnings(plan)
	return out, nil
}
