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
	known activities.PatchesResult
	// left is what has to be told of the end: nil when everything that was asked for is done.
	left *operation.Failure
}

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
	p.known, err = askPatches(ctx, p.in.Cluster, names(p.plan), !p.in.DryRun)
	if err != nil {
		return nil, nil, err
	}
	problems, warnings = p.known.Problems, append(warnings, p.known.Warnings...)
	p.report.Patches = &operation.PatchReport{Action: p.in.Action, Patch: p.in.Patch, NoRestart: p.in.NoRestart, Patches: p.known.Patches}
	if p.in.Patch == "" || len(p.known.Unasked) == len(p.plan.Nodes) {
		return problems, warnings, nil
	}
	at := slices.IndexFunc(p.known.Patches, func(k operation.Patch) bool { return k.Name == p.in.Patch })
	switch {
	case at < 0:
		problems = append(problems, fmt.Sprintf("cluster: there is no patch %s for these nodes: kato knows %s", p.in.Patch, patchNames(p.known.Patches)))
	case p.in.Action == operation.PatchReinstall && p.known.Patches[at].InstalledCount == 0:
		problems = append(problems, fmt.Sprintf("cluster: %s is installed on none of these nodes: katoflow patch install %s %s", p.in.Patch, p.in.Cluster, p.in.Patch))
	}
	return problems, warnings, nil
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
func askPatches(ctx workflow.Context, cluster string, nodes []string, fetch bool) (activities.PatchesResult, error) {
	var patches *activities.Patches
	var all activities.PatchesResult
	var futures []workflow.Future
	for part := range slices.Chunk(nodes, nodesPerChunk) {
		futures = append(futures, workflow.ExecuteActivity(following(ctx, "which patches "+count(len(part), "node")+" have", nodesWithin), patches.PatchesStatus, activities.PatchesInput{Cluster: cluster, Nodes: part, Fetch: fetch}))
	}
	for _, f := range futures {
		var found activities.PatchesResult
		if err := f.Get(ctx, &found); err != nil {
			return all, err
		}
		all.Patches = operation.MergePatches(all.Patches, found.Patches)
		all.OnlyThisNode, all.Unasked = append(all.OnlyThisNode, found.OnlyThisNode...), append(all.Unasked, found.Unasked...)
		all.Problems, all.Warnings = append(all.Problems, found.Problems...), append(all.Warnings, found.Warnings...)
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
		}
	}
	p.warn("a dry run fetches no list of patches: it shows what kato knows already")
	if len(nodes) == 0 {
		return nil, nil
	}
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), patches.PlanPatches, activities.PlanPatchesInput{Operation: p.op, Nodes: nodes, Change: p.change(), OnlyThisNode: p.known.OnlyThisNode}).Get(ctx, &out)
	return out.Plans, err
}

// change is what is done to a node.
func (p *patch) change() operation.PatchInput {
	return operation.PatchInput{Action: p.in.Action, Patch: p.in.Patch, NoRestart: p.in.NoRestart}
}

// todo reports whether something is to be done on a node, as far as it is known. What was cut off of long lists is looked at by the node's own steps.
func (p *patch) todo(i int) bool {
	for _, k := range p.known.Patches {
		if p.in.Patch != "" && p.in.Patch != k.Name {
			continue
		}
		list, all := k.Installed, k.InstalledCount
		if p.in.Action == operation.PatchInstall {
			list, all = k.Missing, k.MissingCount
		}
		if slices.Contains(list, p.plan.Nodes[i].Name) || all > len(list) {
			return true
		}
	}
	return false
}

func (p *patch) nodeWorkflow() (name, what string) {
	return operation.WorkflowPatchNode, "patch " + string(p.in.Action)
}

func (p *patch) nodeInput(task nodeTask) any {
	return nodePatchInput{nodeTask: task, Change: p.change()}
}

func (p *patch) first(*operation.NodeReport) {}

func (p *patch) steps(ctx workflow.Context) {
	begun := false
	for i := range p.report.Nodes {
		if p.todo(i) {
			begun = true
			continue
		}
		p.report.Nodes[i].Status, p.report.Nodes[i].Notes = operation.NodeDone, []string{nothingToPatch(p.in.Action)}
	}
	if !begun {
		return
	}
	p.roll(ctx)
	if ctx.Err() == nil {
		p.after(ctx)
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
	found, err := askPatches(ctx, p.in.Cluster, names(p.plan), false)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		p.warn("which patches the nodes have at the end was not asked: " + operation.FailureOf(err).Message)
		return
	}
	p.report.Patches.Patches, p.report.Patches.Unasked = found.Patches, len(found.Unasked)
	for _, problem := range found.Problems {
		p.warn("at the end: " + problem)
	}
	p.left = p.undone(found)
}

// undone is what the nodes that are done should have, and have not any more.
func (p *patch) undone(found activities.PatchesResult) *operation.Failure {
	var wrong []string
	for i := range p.report.Nodes {
		n := &p.report.Nodes[i]
		if n.Status != operation.NodeDone || n.Patches == nil {
			continue
		}
		for _, k := range found.Patches {
			list := k.Missing
			if p.in.Action == operation.PatchRevert {
				list = k.Installed
			}
			if slices.Contains(n.Patches.Wanted, k.Name) && slices.Contains(list, n.Name) {
				wrong = append(wrong, fmt.Sprintf("%s: %s is not as it was left", n.Name, k.Name))
			}
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
		return out, operation.NewError(operation.Failure{Type: operation.ErrBadInput, Message: fmt.Sprintf("cluster %s has no kato, and so no patches of it", in.Cluster)})
	}
	found, err := askPatches(ctx, in.Cluster, names(plan), in.Fetch)
	if err != nil {
		return out, err
	}
	out.Patches, out.Problems, out.Warnings = append(out.Patches, found.Patches...), bound(found.Problems, 500), bound(found.Warnings, 100)
	return out, nil
}
