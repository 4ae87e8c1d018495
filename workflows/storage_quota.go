package workflows

// Quotas ("Enabling Filesystem Quotas" of the source page): on each node, one after the other,
//
//  1. the file system is mounted again with the options for quotas;
//  2. quotacheck counts what everybody uses, quotaon switches them on; on a kernel without quotas all is as it was then, and that is the end;
//  3. what has them on after a reboot: a block in setup_helion_lxc (or setup_stackato_lxc), as the page has it, or the options in /etc/fstab;
//  4. the node's gates hold; next node.
//
// Switching them off is the same backwards. Nodes on which there is nothing to do are left alone.

import (
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// StorageQuota is the operation workflow. It completes with the report when every node has what it should; otherwise it fails, or ends as cancelled, with the report in the details of its error.
func StorageQuota(ctx workflow.Context, in operation.QuotaInput) (*operation.Report, error) {
	return operate(ctx, in.Action.Kind(), in.Request, in.Batch, &quotas{in: in})
}

type quotas struct {
	rolling
	in   operation.QuotaInput
	done []string // nodes on which there is nothing to do
}

func (p *quotas) attach(r *run) {
	p.rolling = rolling{run: r, work: p, rollingOptions: rollingOptions{noCanary: p.in.NoCanary, soakFor: p.in.Soak, maxFailures: p.in.MaxFailures}}
}

func (p *quotas) check() []string { return p.in.Check() }

func (p *quotas) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: p.in.Cluster, InventoryDigest: p.in.InventoryDigest, Nodes: p.in.Nodes}
}

func (p *quotas) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

func (p *quotas) wantsMaintenance() bool { return false }

// ready asks all nodes that are worked on how their quotas are.
func (p *quotas) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	warnings = p.setWindows(ctx, p.in.Window, operation.UnitNode)
	found, err := p.look(ctx)
	return found.Problems, append(warnings, bound(found.Warnings, 50)...), err
}

func (p *quotas) look(ctx workflow.Context) (all activities.StorageReadyResult, err error) {
	var storage *activities.Storage
	for part := range slices.Chunk(names(p.plan), nodesPerChunk) {
		var out activities.StorageReadyResult
		if err := workflow.ExecuteActivity(following(ctx, "quotas of "+count(len(part), "node"), nodesWithin), storage.QuotaReady,
			activities.QuotaReadyInput{Cluster: p.in.Cluster, Nodes: part, Action: p.in.Action, Path: p.in.Path}).Get(ctx, &out); err != nil {
			return all, err
		}
		all.Problems, all.Warnings, all.Done = append(all.Problems, out.Problems...), append(all.Warnings, out.Warnings...), append(all.Done, out.Done...)
	}
	p.done = all.Done
	return all, nil
}

// dryRun returns the commands of the nodes on which there is something to do.
func (p *quotas) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var nodes []operation.PlannedNode
	for i, n := range p.plan.Nodes {
		if slices.Contains(p.done, n.Name) {
			p.report.Nodes[i].Notes = []string{p.nothing()}
		} else {
			nodes = append(nodes, n)
		}
	}
	var storage *activities.Storage
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), storage.PlanQuota, activities.PlanQuotaInput{Operation: p.op, Nodes: nodes, Action: p.in.Action, Path: p.in.Path}).Get(ctx, &out)
	return out.Plans, err
}

func (p *quotas) nothing() string {
	if p.in.Action == operation.QuotaDisable {
		return "quotas of " + p.in.Path + " were off already"
	}
	return "quotas of " + p.in.Path + " were on already, and are kept over a reboot"
}

func (p *quotas) nodeWorkflow() (name, what string) {
	return operation.WorkflowQuotaNode, "quota " + string(p.in.Action)
}

func (p *quotas) nodeInput(task nodeTask) any {
	return nodeQuotaInput{nodeTask: task, Action: p.in.Action, Path: p.in.Path}
}

func (p *quotas) first(*operation.NodeReport) {}

func (p *quotas) steps(ctx workflow.Context) {
	// A maintenance window may have been waited for since the preflight.
	if _, err := p.look(ctx); err != nil {
		p.done = nil // each node's own steps look
	}
	begun := ctx.Err() == nil
	for i := range p.report.Nodes {
		if begun && slices.Contains(p.done, p.report.Nodes[i].Name) {
			p.report.Nodes[i].Status, p.report.Nodes[i].Notes = operation.NodeDone, []string{p.nothing()}
		}
	}
	if begun && len(p.done) < len(p.report.Nodes) {
		p.roll(ctx)
	}
}

// found is what the preflight tells the starter.
func (p *quotas) found() string {
	if n := len(p.plan.Nodes) - len(p.done); n > 0 {
		return fmt.Sprintf("quotas of %s to %s on %s", p.in.Path, p.in.Action, count(n, "node"))
	}
	return "nothing to " + string(p.in.Action)
}

// outcomeText is the message of an operation that ended well.
func (p *quotas) outcomeText() string {
	word := "on"
	if p.in.Action == operation.QuotaDisable {
		word = "off"
	}
	return fmt.Sprintf("quotas of %s are %s, %s", p.in.Path, word, count(len(p.report.Nodes), "node"))
}

// nodeQuotaInput is the task, and what is done to the node's quotas.
type nodeQuotaInput struct {
	nodeTask
	Action operation.QuotaAction `json:"action"`
	Path   string                `json:"path"`
}

// StorageQuotaNode does the steps of one node.
func StorageQuotaNode(ctx workflow.Context, in nodeQuotaInput) (nodeResult, error) {
	n := &nodeQuota{in: in, nodeRun: nodeRun{nodeTask: in.nodeTask}}
	return n.see(ctx, n)
}

// nodeQuota is the state of one node's child.
type nodeQuota struct {
	nodeRun
	in nodeQuotaInput
}

func (n *nodeQuota) steps() []nodeStep {
	return []nodeStep{{operation.StepProbe, n.probe}, {operation.StepQuota, n.quota}, {operation.StepGates, n.gates}}
}

func (n *nodeQuota) firstJobTry(string) int                              { return 1 }
func (n *nodeQuota) backTo(*operation.Failure) (step string, jobTry int) { return "", 0 }

func (n *nodeQuota) switchQuotas(ctx workflow.Context, what string, settle bool) (out activities.JobResult, err error) {
	var storage *activities.Storage
	in := activities.QuotaNodeInput{NodeInput: n.input(), Action: n.in.Action, Path: n.in.Path}
	in.Settle = settle
	err = workflow.ExecuteActivity(following(ctx, n.summary(what), relocationCeiling), storage.SwitchQuotas, in).Get(ctx, &out)
	return out, err
}

// quota switches them. After a reboot in the middle what was done is looked at, and the rest is done.
func (n *nodeQuota) quota(ctx workflow.Context) error {
	for again := false; ; again = true {
		out, err := n.switchQuotas(ctx, "quotas of "+n.in.Path, false)
		if err != nil {
			return err
		}
		n.note(out.Notes...)
		if !out.Interrupted {
			return nil
		}
		if again {
			return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.Node.Name + ": the node rebooted again in the middle of quotacheck or quotaon: see why, then retry"})
		}
		n.note("the node rebooted while its quotas were switched: looked at again")
		n.jobTry++
	}
}

func (n *nodeQuota) stateBefore(step string) string {
	if step == operation.StepGates {
		return "its quotas are switched, its gates were not awaited"
	}
	return "its quotas are as they were"
}

func (n *nodeQuota) settle(ctx workflow.Context) nodeResult {
	state := n.stateBefore(n.at.Step)
	if n.at.Step != operation.StepQuota {
		return n.settled(state, nil)
	}
	out, err := n.switchQuotas(ctx, "cancel: let it end", true)
	switch {
	case err != nil || !out.Started:
	case out.Interrupted:
		state = "the node rebooted while its quotas were switched: start the operation again to see"
	default:
		state = "its quotas are switched, its gates were not awaited"
	}
	return n.settled(state, err)
}
