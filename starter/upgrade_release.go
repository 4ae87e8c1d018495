package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

// releaseFlags are the flags of `upgrade release` as they were written.
type releaseFlags struct {
	rollingFlags
	to, safety           string
	roleOrder            []string
	updateKato, download bool
	offline, force       bool
}

func (c *cli) upgradeReleaseCommand() *cobra.Command {
	var f releaseFlags
	cmd := &cobra.Command{
		Use:   "release CLUSTER --to VERSION",
		Short: "Upgrade the platform to another release, node by node (als)",
		Long: `Bring every node of a cluster to another release of its platform with kato node upgrade: the cluster is exported or its nodes are
snapshot, kato brings itself up to date and downloads the packages while the cluster is live, maintenance mode goes on, and the nodes
are upgraded one at a time in kato's order of roles, DEAs emptied first. After each node its version is read from the node and from
the Core, and its gates must hold. Then maintenance mode is as it was found, and the report names what is left to do by hand.

Before anything is changed the whole checklist is gone through on every node: disk and memory, sudo without a password, the Core's
logins by key, the addresses that packages come from, and whether the export or the snapshot can be made. A node that fails is asked
about: answer with katoflow op decide. Nodes that have the version already are left alone, so that the command may be repeated.`,
		Example: `  # what would be done, command by command; nothing is changed
  katoflow upgrade release prod --to 1.3.0 --dry-run

  # with snapshots of all nodes before, in a maintenance window
  katoflow upgrade release prod --to 1.3.0 --safety snapshot --window 'Sat 22:00-04:00 Europe/Berlin'

  # the packages are on the Core already, by kato node upgrade --download-only
  katoflow upgrade release prod --to 1.3.0 --offline`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.upgradeRelease(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *releaseFlags) register(c *cli, cmd *cobra.Command) {
	f.rollingFlags.register(c, cmd, "")
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "the version, such as 1.3.0")
	flags.StringVar(&f.safety, "safety", string(operation.SafetyExport), "what is made of the cluster before: export, snapshot or none")
	flags.StringSliceVar(&f.roleOrder, "role-order", nil, "order of the roles (default: dea, controller, router, base, primary, then the data services)")
	flags.BoolVar(&f.updateKato, "update-kato", true, "have kato bring itself up to date before")
	flags.BoolVar(&f.download, "download", true, "download the packages to the Core before, while the cluster is live")
	flags.BoolVar(&f.offline, "offline", false, "the packages are on the Core already: fetch nothing")
	flags.BoolVar(&f.force, "force", false, "although a disk or the memory is smaller than the checklist asks")
	must(cmd.RegisterFlagCompletionFunc("to", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("safety", cobra.FixedCompletions([]string{string(operation.SafetyExport), string(operation.SafetySnapshot), string(operation.SafetyNone)}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("role-order", c.completeRoles(&f.inventory)))
}

// input checks all flags and gives every problem at once.
func (f *releaseFlags) input(c *cli, cluster string) (operation.ReleaseUpgradeInput, error) {
	var problems []string
	v := f.values(c, cluster, &problems)
	in := operation.ReleaseUpgradeInput{Request: v.request, To: f.to, Safety: operation.Safety(f.safety), RoleOrder: f.roleOrder, NoUpdateKato: !f.updateKato, NoDownload: !f.download, Offline: f.offline, Force: f.force,
		Rolling: operation.Rolling{Nodes: f.nodes, NoCanary: !f.canary, Soak: v.soak, MaxFailures: v.maxFailures, Window: v.window}}
	if f.safety == "" {
		problems = append(problems, "--safety is empty: choose export, snapshot or none")
	}
	if f.to == "" {
		problems = append(problems, "--to is missing: name the version, such as 1.3.0")
	}
	problems = append(problems, checkRoles("role-order", f.roleOrder)...)
	if in.Cluster != "" && f.to != "" {
		rest := in
		rest.Rolling = operation.Rolling{} // checked above
		for _, p := range rest.Check() {
			problems = append(problems, "--"+strings.TrimPrefix(p, "--"))
		}
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if local.Platform != inventory.PlatformALS {
		return in, badInput("cluster %s is a plain one, and has no kato", cluster)
	}
	problems = nil
	if _, err := local.Select(in.Nodes, nil); err != nil {
		problems = append(problems, err.Error())
	}
	if err := local.CheckRoleOrder(f.roleOrder); err != nil {
		problems = append(problems, err.Error())
	}
	return in, badInputs(problems)
}

func (c *cli) upgradeRelease(ctx context.Context, cluster string, f *releaseFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	d := newDetails("upgrade to "+quoted(in.To), in.Request, "")
	d.row("before it", string(in.Safety))
	d.rolling(in.Rolling)
	if len(in.RoleOrder) > 0 {
		d.row("role order", quoted(strings.Join(in.RoleOrder, ", ")))
	}
	d.flag(in.NoUpdateKato, "kato", "not brought up to date before")
	d.flag(in.NoDownload, "packages", "fetched by every node itself")
	d.flag(in.Offline, "packages", "on the Core already")
	d.flag(in.Force, "disk and memory", "not as the checklist asks")
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: operation.KindReleaseUpgrade, workflow: operation.WorkflowReleaseUpgrade, input: in,
		summary: fmt.Sprintf("upgrade of %s to %s", cluster, in.To), details: d.text(in.Request)})
}
