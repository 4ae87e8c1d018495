package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) patchCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "patch",
		Short:   "Show, install and revert kato's patches (als)",
		Example: "  katoflow patch status prod",
	})
	cmd.AddCommand(c.patchStatusCommand(),
		c.patchChangeCommand(operation.PatchInstall, "Install patches, node by node", `Install the patches that kato knows of, or one of them, on every node that they are for: with kato patch install --local on one node
after the other, where kato patch install would do all nodes at once. Before anything is changed every node fetches the list of patches,
which shows whether it reaches the manufacturer through the network's proxy (kato op upstream_proxy).

kato restarts the roles that a patch is for. The next node waits until they run, the node's gates hold, and kato patch status says that
the patches are installed. A node that fails is asked about: answer with katoflow op decide.`,
			`  # what would be done, command by command; nothing is changed
  katoflow patch install prod --dry-run

  # one of them, on one node, which is what kato patch install --local does
  katoflow patch install prod dea-memory-usage-reporting --local dea-1

  # and then on all
  katoflow patch install prod dea-memory-usage-reporting`),
		c.patchChangeCommand(operation.PatchRevert, "Revert patches, node by node", `Take a patch away from every node that has it, or all patches (--all), with kato patch revert --local on one node after the other. kato
restarts the roles that it is for, and the next node waits for them as in an installation.`,
			`  katoflow patch revert prod dea-memory-usage-reporting`),
		c.patchChangeCommand(operation.PatchReinstall, "Install a patch again where it is installed", `Install a patch again on every node that has it, with kato patch reinstall --local on one node after the other, as in an installation.`,
			`  katoflow patch reinstall prod dea-memory-usage-reporting`))
	return cmd
}

func (c *cli) patchStatusCommand() *cobra.Command {
	var f catalogFlags
	var fetch bool
	cmd := &cobra.Command{
		Use:   "status CLUSTER",
		Short: "Show which patches there are, and where they are installed",
		Long: `Let the worker ask kato on every node which patches it knows of, and show them in one table: what a patch is for, on how many nodes
it is installed, and on which it is missing. All versions of kato are read, those that print JSON and those that do not.

Nothing is changed, and no lock is taken. A node that does not answer is named, and the others are shown; the exit code is 1 then. With --fetch every node first
fetches the list of patches, which shows whether it reaches the manufacturer.`,
		Example: `  katoflow patch status prod
  katoflow patch status prod --fetch
  katoflow patch status prod -o json | jq '.patches[] | select(.missingCount > 0) | .name'`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(c, args[0], "", nil); err != nil {
				return err
			}
			local, err := c.localCluster(f.inventory, args[0])
			if err != nil {
				return err
			}
			in, out := operation.PatchStatusInput{Cluster: args[0], Fetch: fetch}, operation.PatchStatus{}
			if local != nil {
				if local.Platform != inventory.PlatformALS {
					return badInput("cluster %s is a plain one, and has no kato", args[0])
				}
				in.InventoryDigest = local.Digest()
			}
			if err := c.look(cmd.Context(), f.queue, args[0], operation.KindPatchStatus, operation.WorkflowPatchStatus, "Patches of "+args[0], in, &out); err != nil {
				return err
			}
			if err := c.print(out, func() string { return view.PatchStatus(&out, c.style(c.out)) }); err != nil {
				return err
			}
			if len(out.Problems) > 0 {
				return &failure{code: exitError, said: true}
			}
			return nil
		},
	}
	f.register(c, cmd)
	cmd.Flags().BoolVar(&fetch, "fetch", false, "have every node fetch the list of patches before")
	return cmd
}

// patchFlags are the flags of the commands that change patches, as they were written.
type patchFlags struct {
	rollingFlags
	action    operation.PatchAction
	local     string
	noRestart bool
	all       bool
	roleOrder []string
	flags     *pflag.FlagSet
}

func (c *cli) patchChangeCommand(action operation.PatchAction, short, long, example string) *cobra.Command {
	f := patchFlags{action: action}
	use, args := string(action)+" CLUSTER [PATCH]", clusterAndPatch
	if action == operation.PatchReinstall {
		use, args = string(action)+" CLUSTER PATCH", exactly("CLUSTER", "PATCH")
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args,
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 1 {
				name = args[1]
			}
			return c.patch(cmd.Context(), args[0], name, len(args) > 1, &f)
		},
	}
	f.register(c, cmd)
	return cmd
}

// clusterAndPatch are the arguments of the commands that may mean one patch or all.
func clusterAndPatch(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return exactly("CLUSTER", "PATCH")(cmd, args)
}

// register adds the flags to the command that takes them.
func (f *patchFlags) register(c *cli, cmd *cobra.Command) {
	f.rollingFlags.register(c, cmd, "nodes that kato patches at once")
	flags := cmd.Flags()
	f.flags = flags
	flags.StringVar(&f.local, "local", "", "only this node, as kato patch --local does; --nodes for several")
	flags.BoolVar(&f.noRestart, "no-restart", false, "do not restart the roles that a patch is for; it takes effect when they are restarted")
	flags.StringSliceVar(&f.roleOrder, "role-order", nil, "order of the roles (default: dea, controller, router, base, primary, then the data services)")
	if f.action == operation.PatchRevert {
		flags.BoolVar(&f.all, "all", false, "revert all patches that are installed")
	}
	must(cmd.RegisterFlagCompletionFunc("local", c.completeNodes(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("role-order", c.completeRoles(&f.inventory)))
}

// input checks all flags and gives every problem at once. patch is "" for all of them; named says that it was given.
func (f *patchFlags) input(c *cli, cluster, patch string, named bool) (operation.PatchInput, error) {
	var problems []string
	v := f.values(c, cluster, &problems)
	in := operation.PatchInput{Request: v.request, Action: f.action, Patch: patch, NoRestart: f.noRestart, Nodes: f.nodes, RoleOrder: f.roleOrder, Batch: f.batch, NoCanary: !f.canary,
		Soak: v.soak, MaxFailures: v.maxFailures, Window: v.window}
	if f.flags.Changed("local") {
		switch {
		case len(f.nodes) > 0:
			problems = append(problems, "--local and --nodes: give one of them")
		case f.local == "":
			problems = append(problems, "--local is empty: name a node, or leave it out")
		default:
			problems = append(problems, checkNodes([]string{f.local})...)
			in.Nodes = []string{f.local}
		}
	}
	switch {
	case named && patch == "":
		problems = append(problems, "PATCH is empty: write its name as katoflow patch status shows it, or leave it out")
	case f.action == operation.PatchRevert && patch == "" && !f.all:
		problems = append(problems, "which patch? Name it, or give --all to revert every one that is installed")
	case f.all && patch != "":
		problems = append(problems, "--all and a patch: give one of them")
	}
	problems = append(problems, checkRoles("role-order", f.roleOrder)...)
	if in.Cluster != "" {
		rest := in
		rest.Window, rest.Soak, rest.MaxFailures = operation.WindowInput{}, 0, nil // checked above
		problems = append(problems, rest.Check()...)
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if local.Platform != inventory.PlatformALS {
		return in, badInput("cluster %s is a plain one, and has no kato", cluster)
	}
	if _, err := local.Select(in.Nodes, nil); err != nil {
		problems = append(problems, err.Error())
	}
	if err := local.CheckRoleOrder(f.roleOrder); err != nil {
		problems = append(problems, err.Error())
	}
	return in, badInputs(problems)
}

// patchDetails is what was asked for, for the Web UI.
func patchDetails(in operation.PatchInput) string {
	var b strings.Builder
	quote := func(s string) string { return "`" + strings.ReplaceAll(oneLine(s), "`", "'") + "`" }
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, value)
		}
	}
	list := func(all []string) string {
		if len(all) == 0 {
			return ""
		}
		return quote(strings.Join(all, ", "))
	}
	what := "all patches"
	if in.Patch != "" {
		what = "the patch " + quote(in.Patch)
	}
	fmt.Fprintf(&b, "kato patch %s of %s on %s, asked for by %s.\n\n", in.Action, what, quote(in.Cluster), quote(in.RequestedBy))
	if in.DryRun {
		row("dry run", "nothing is changed")
	}
	row("nodes", list(in.Nodes))
	row("batch", in.Batch)
	if in.NoCanary {
		row("canary", "none")
	}
	if in.Soak > 0 {
		row("soak", in.Soak.String())
	}
	row("role order", list(in.RoleOrder))
	if in.NoRestart {
		row("roles", "not restarted")
	}
	if in.MaxFailures != nil {
		row("failed nodes skipped without asking", fmt.Sprint(*in.MaxFailures))
	}
	row("maintenance window", list(in.Window.Times))
	if in.LockWait > 0 {
		row("waits for the cluster", in.LockWait.String())
	}
	return operation.Shorten(b.String(), 4000)
}

func (c *cli) patch(ctx context.Context, cluster, patch string, named bool, f *patchFlags) error {
	in, err := f.input(c, cluster, patch, named)
	if err != nil {
		return err
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: in.Action.Kind(), workflow: operation.WorkflowPatch, input: in,
		summary: fmt.Sprintf("kato patch %s on %s", in.Action, cluster), details: patchDetails(in)})
}
