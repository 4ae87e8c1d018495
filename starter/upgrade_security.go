package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

// longestSoak is the longest time that can be asked for.
const longestSoak = 7 * 24 * time.Hour

// securityFlags are the flags of `upgrade security` as they were written.
type securityFlags struct {
	rollingFlags
	roles, roleOrder         []string
	reboot, then             string
	pin, retire, maintenance bool
	restartApps              bool
}

func (c *cli) upgradeSecurityCommand() *cobra.Command {
	var f securityFlags
	cmd := &cobra.Command{
		Use:   "security CLUSTER",
		Short: "Rolling security upgrade with reboots, node by node",
		Long: `Install all pending security updates on the nodes of a cluster and reboot them, a batch at a time.

Before anything is changed all nodes are asked whether they are ready; every problem is listed at once. Then the first
node goes alone (the canary), and the others follow in the order of their roles. The next node waits until the gates of the
whole cluster hold. A node that fails is asked about: answer with katoflow op decide.

The operation goes on whatever becomes of this command; Ctrl-C ends the watching only.`,
		Example: `  # what would be done, command by command; nothing is changed
  katoflow upgrade security prod --dry-run

  # two nodes at once, the canary watched for ten minutes before the others
  katoflow upgrade security prod --batch 2 --soak 10m

  # only the DEAs, reboot only where it is needed, at most one failed node
  katoflow upgrade security prod --roles dea --reboot if-required --max-failures 1

  # begin with nodes on Saturday nights only, as long as a node fits in
  katoflow upgrade security prod --window 'Sat 22:00-04:00 Europe/Berlin' --node-time 20m --detach

  # and then the docker base image of the apps, and restart them
  katoflow upgrade security prod --then image --restart-apps

  # queue behind the operation that holds the cluster, and do not watch
  katoflow upgrade security prod --wait=4h --detach`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.upgradeSecurity(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *securityFlags) register(c *cli, cmd *cobra.Command) {
	flags := cmd.Flags()
	f.rollingFlags.register(c, cmd, "nodes out of service at once")
	flags.StringSliceVar(&f.roles, "roles", nil, "only nodes with one of these roles")
	flags.StringVar(&f.reboot, "reboot", string(operation.RebootAlways), "always, if-required or never")
	flags.StringSliceVar(&f.roleOrder, "role-order", nil, "order of the roles (als; default: dea, controller, router, base, primary, then the data services)")
	flags.BoolVar(&f.pin, "pin", false, "all nodes must reach exactly the canary's package versions")
	flags.BoolVar(&f.maintenance, "maintenance", false, "maintenance mode on for the time of the operation (als)")
	flags.BoolVar(&f.retire, "retire", true, "move app instances away from a DEA before it is upgraded (als)")
	flags.StringVar(&f.then, "then", "", `"image" goes on with the upgrade of the docker base image when every node is done (als)`)
	flags.BoolVar(&f.restartApps, "restart-apps", false, "with --then image: restart the apps that run when every DEA has its image")
	fixed := func(name string, values ...string) {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	fixed("then", "image")
	fixed("reboot", string(operation.RebootAlways), string(operation.RebootIfRequired), string(operation.RebootNever))
	must(cmd.RegisterFlagCompletionFunc("roles", c.completeRoles(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("role-order", c.completeRoles(&f.inventory)))
}

// input checks all flags and gives every problem at once.
func (f *securityFlags) input(c *cli, cluster string) (operation.SecurityUpgradeInput, error) {
	var problems []string
	note := func(err error) {
		if err != nil {
			problems = append(problems, err.Error())
		}
	}
	v := f.values(c, cluster, &problems)
	in := operation.SecurityUpgradeInput{
		Request: v.request,
		Nodes:   f.nodes, Roles: f.roles, Batch: f.batch, NoCanary: !f.canary, Soak: v.soak, MaxFailures: v.maxFailures, Reboot: operation.RebootPolicy(f.reboot), RoleOrder: f.roleOrder,
		Pin: f.pin, Maintenance: f.maintenance, NoRetire: !f.retire, Window: v.window,
	}
	problems = append(problems, checkRoles("roles", f.roles)...)
	problems = append(problems, checkRoles("role-order", f.roleOrder)...)
	switch in.Reboot {
	case operation.RebootAlways, operation.RebootIfRequired, operation.RebootNever:
	default:
		problems = append(problems, fmt.Sprintf("--reboot %q: choose always, if-required or never", operationName(f.reboot)))
	}
	if f.pin && !f.canary {
		problems = append(problems, "--pin needs the canary, whose versions the others must reach: leave --canary=false out")
	}
	switch f.then {
	case "":
		if f.restartApps {
			problems = append(problems, "--restart-apps goes with --then image")
		}
	case "image":
		in.Then = &operation.ImageUpgradeInput{RestartApps: f.restartApps}
	default:
		problems = append(problems, fmt.Sprintf("--then %q: choose image, or leave it out", operationName(f.then)))
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if in.Then != nil && local.Platform != inventory.PlatformALS {
		return in, badInput("cluster %s is a plain one, and has no DEAs for --then image", cluster)
	}
	if f.restartApps && local.Controller == nil {
		return in, badInput("cluster %s has no controller in the inventory: write url, user and password of its Cloud Controller, or leave --restart-apps out", cluster)
	}
	_, err = local.Select(f.nodes, f.roles)
	note(err)
	note(local.CheckRoleOrder(f.roleOrder))
	return in, badInputs(problems)
}

// details is what was asked for, for the Web UI.
func details(in operation.SecurityUpgradeInput) string {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, value)
		}
	}
	code := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		return "`" + strings.Join(list, "`, `") + "`"
	}
	fmt.Fprintf(&b, "Rolling security upgrade of `%s`, asked for by `%s`.\n\n", in.Cluster, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
	if in.DryRun {
		row("dry run", "nothing is changed")
	}
	row("nodes", code(in.Nodes))
	row("roles", code(in.Roles))
	row("batch", in.Batch)
	if in.NoCanary {
		row("canary", "none")
	}
	if in.Soak > 0 {
		row("soak", in.Soak.String())
	}
	row("reboot", string(in.Reboot))
	row("role order", code(in.RoleOrder))
	if in.Pin {
		row("versions", "pinned to the canary's")
	}
	if in.MaxFailures != nil {
		row("failed nodes skipped without asking", fmt.Sprint(*in.MaxFailures))
	}
	if in.Maintenance {
		row("maintenance mode", "on during the operation")
	}
	if in.NoRetire {
		row("app instances", "not moved away from the DEAs")
	}
	if in.Then != nil {
		row("then", "the docker base image is upgraded")
	}
	row("maintenance window", code(in.Window.Times))
	if in.LockWait > 0 {
		row("waits for the cluster", in.LockWait.String())
	}
	return operation.Shorten(b.String(), 4000)
}

func (c *cli) upgradeSecurity(ctx context.Context, cluster string, f *securityFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: operation.KindSecurityUpgrade, workflow: operation.WorkflowSecurityUpgrade, input: in,
		summary: "Rolling security upgrade of " + cluster, details: details(in)})
}
