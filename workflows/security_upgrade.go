package workflows

// Rolling security upgrade ("Upgrade the VM" of the source page): on all cluster nodes, one node at a time,
//
//  1. the whole cluster is as well as it was before;
//  2. the node is reached and taken into our lease;
//  3. a DEA gives its app instances to others; the package lists are fetched; sudo unattended-upgrades -d, through the proxy if there is one;
//  4. the node is rebooted, to ensure that all new kernels, modules and libraries are loaded;
//  5. the reboot is proved;
//  6. the node's gates hold several times in a row;
//  7. what was installed is recorded; next node.
//
// Steps 2 to 7 of one node are in security_upgrade_node.go. The first node is the canary.

import (
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// SecurityUpgrade is the operation workflow. It completes with the report when every node is done; otherwise it fails, or ends as cancelled,
// with the report in the details of its error.
func SecurityUpgrade(ctx workflow.Context, in operation.SecurityUpgradeInput) (*operation.Report, error) {
	return operate(ctx, operation.KindSecurityUpgrade, in.Request, in.Batch, &securityUpgrade{in: in})
}

type securityUpgrade struct {
	rolling
	in   operation.SecurityUpgradeInput
	pins []operation.PackageVersion
}

func (u *securityUpgrade) attach(r *run) {
	u.rolling = rolling{run: r, work: u, rollingOptions: rollingOptions{noCanary: u.in.NoCanary, soakFor: u.in.Soak, maxFailures: u.in.MaxFailures}}
}

func (u *securityUpgrade) check() []string {
	var problems []string
	if u.in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	switch u.in.Reboot {
	case "", operation.RebootAlways, operation.RebootIfRequired, operation.RebootNever:
	default:
		problems = append(problems, fmt.Sprintf("reboot %q: choose always, if-required or never", operation.Shorten(string(u.in.Reboot), 40)))
	}
	if u.in.Soak < 0 {
		problems = append(problems, "soak is negative")
	}
	if u.in.Pin && u.in.NoCanary {
		problems = append(problems, "pin needs the canary, whose versions the others are pinned to")
	}
	if u.in.MaxFailures != nil && *u.in.MaxFailures < 0 {
		problems = append(problems, "max-failures is negative: 0 aborts at the first failed node")
	}
	if u.in.Then != nil && u.in.Cluster != "" {
		for _, p := range u.in.Then.After(u.in, nil).Check() {
			if !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
		}
		return problems
	}
	return append(problems, u.in.Window.Check(operation.UnitNode)...)
}

func (u *securityUpgrade) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: u.in.Cluster, InventoryDigest: u.in.InventoryDigest, Nodes: u.in.Nodes, Roles: u.in.Roles, RoleOrder: u.in.RoleOrder}
}

func (u *securityUpgrade) needs() activities.PreflightNeeds {
	return activities.PreflightNeeds{Packages: true, Reboot: u.in.Reboot != operation.RebootNever}
}
func (u *securityUpgrade) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	warnings = u.setWindows(ctx, u.in.Window, operation.UnitNode)
	if u.in.Then == nil {
		return nil, warnings, nil
	}
	// What stands in the way of the image should not be found when all nodes have been rebooted.
	deas := workingOn(u.plan, "dea")
	if len(deas) == 0 {
		return []string{"then image: none of the nodes is a DEA"}, warnings, nil
	}
	found, err := lookAtImages(ctx, u.run, u.in.Then.Images.Or(u.plan.Images), deas, false)
	if err == nil && u.in.Then.RestartApps {
		var apps activities.SelectAppsResult
		apps, err = selectApps(ctx, u.run)
		found.Problems, found.Warnings = append(found.Problems, apps.Problems...), append(found.Warnings, apps.Warnings...)
	}
	for _, w := range found.Warnings {
		if !strings.Contains(w, activities.VMNotUpToDate) { // it will be
			warnings = append(warnings, w)
		}
	}
	return found.Problems, warnings, err
}

// follows is the upgrade of the base image, where that was asked for.
func (u *securityUpgrade) follows() (next, bool) {
	if u.in.Then == nil {
		return next{}, false
	}
	return next{kind: operation.KindImageUpgrade, workflow: operation.WorkflowImageUpgrade, input: u.in.Then.After(u.in, workingOn(u.plan, "dea")),
		summary: "the upgrade of the docker base image of " + u.in.Cluster}, true
}
func (u *securityUpgrade) wantsMaintenance() bool { return u.in.Maintenance }

// dryRun returns the commands of all nodes.
func (u *securityUpgrade) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var nodes *activities.Nodes
	var out []operation.CommandPlan
	reboot := u.in.Reboot
	if reboot == "" {
		reboot = operation.RebootAlways
	}
	for part := range slices.Chunk(u.plan.Nodes, nodesPerChunk) {
		var result activities.PlanCommandsResult
		if err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), nodes.PlanCommands, activities.PlanCommandsInput{Operation: u.op, Nodes: part,
			Reboot: reboot, Retire: u.retires(), Maintenance: u.in.Maintenance, Pin: u.in.Pin}).Get(ctx, &result); err != nil {
			return nil, err
		}
		out = append(out, result.Plans...)
	}
	if u.in.Then != nil {
		out = append(out, operation.CommandPlan{Nodes: workingOn(u.plan, "dea"), Commands: []operation.PlannedCommand{{Step: "then", Command: "katoflow upgrade image " + u.in.Cluster,
			Note: "as an operation of its own; see its dry run"}}})
	}
	return out, nil
}

// retires reports whether DEAs give their instances away first. A cluster's only DEA has nowhere to give them.
func (u *securityUpgrade) retires() bool              { return !u.in.NoRetire && u.plan.DEAs > 1 }
func (u *securityUpgrade) steps(ctx workflow.Context) { u.roll(ctx) }

func (u *securityUpgrade) nodeWorkflow() (name, what string) {
	return operation.WorkflowSecurityUpgradeNode, "security upgrade"
}

func (u *securityUpgrade) nodeInput(task nodeTask) any {
	return nodeUpgradeInput{nodeTask: task, Reboot: u.in.Reboot, Retire: u.retires() && task.Node.HasRole("dea"), Pin: u.in.Pin, Pins: u.pins}
}

// first takes the canary's versions, where the others must reach them.
func (u *securityUpgrade) first(n *operation.NodeReport) {
	if !u.in.Pin {
		return
	}
	for _, c := range n.Changes {
		u.pins = append(u.pins, operation.PackageVersion{Name: c.Name, Version: c.To})
	}
}
