package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// rollbackFlags are the flags of `snapshot rollback` as they were written.
type rollbackFlags struct {
	requestFlags
	confirm  string
	noSafety bool
	rounds   int
}

func (c *cli) snapshotRollbackCommand() *cobra.Command {
	var f rollbackFlags
	cmd := &cobra.Command{
		Use:   "rollback CLUSTER SET",
		Short: "Put the disks of all VMs back to a set of snapshots",
		Long: `Put the disks of all VMs of a cluster back to the moment of a set, all of them or none.

The VMs are shut down; one that does not is switched off. Snapshots of what they are then become a set of their own, unless
--no-safety-snapshots: when the disks of one VM cannot be put back and you decide to abort, all go back to that. Then the Core
is switched on, and after it the others; what katoflow had on them at that moment is removed, kato started, and maintenance mode put
back as it was found before the set was taken.

Nodes that cannot be reached stand in no way: they are told. Everything that was written since the set was taken is gone afterwards,
so the cluster's name is asked for; where there is no terminal, or to skip that, give it with --confirm. From the first disk on a
rollback is not interrupted, also not by a cancel.`,
		Example: `  # what would be done; nothing is changed
  katoflow snapshot rollback prod nightly-20261122t020000z --dry-run

  katoflow snapshot rollback prod nightly-20261122t020000z
  katoflow snapshot rollback prod nightly-20261122t020000z --confirm prod --detach`,
		Args:              exactly("CLUSTER", "SET"),
		ValidArgsFunction: c.completeSets(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.snapshotRollback(cmd.Context(), args[0], args[1], &f)
		},
	}
	f.requestFlags.register(c, cmd, operation.Abort)
	flags := cmd.Flags()
	flags.StringVar(&f.confirm, "confirm", "", "the cluster's name, instead of being asked for it")
	flags.BoolVar(&f.noSafety, "no-safety-snapshots", false, "take no snapshots of what the VMs are before: there is no way back then")
	flags.IntVar(&f.rounds, "rounds", operation.DefaultSnapshotRounds, "how many rounds of snapshots are tried before anybody is asked")
	for _, name := range []string{"confirm", "rounds"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return cmd
}

// input checks all flags and gives every problem at once. The name of the cluster is asked for afterwards.
func (f *rollbackFlags) input(c *cli, cluster, set string) (operation.SnapshotRollbackInput, error) {
	var problems []string
	in := operation.SnapshotRollbackInput{Request: f.request(c, cluster, &problems), Set: set, Confirm: f.confirm, NoSafetySnapshots: f.noSafety, Rounds: f.rounds}
	if f.rounds < 1 {
		problems = append(problems, fmt.Sprintf("--rounds %d: write a number from 1 to 20", f.rounds))
	}
	asked := in
	if f.confirm == "" {
		asked.Confirm = cluster
	}
	local, err := f.settle(c, &in.Request, append(problems, asked.Check()...))
	if err != nil || local == nil {
		return in, err
	}
	if local.Hypervisor == nil {
		return in, badInput("cluster %s has no hypervisor in the inventory: write which provider its VMs run on, one of %s", cluster, strings.Join(inventory.HypervisorProviders(), ", "))
	}
	return in, nil
}

func (c *cli) snapshotRollback(ctx context.Context, cluster, set string, f *rollbackFlags) error {
	in, err := f.input(c, cluster, set)
	if err != nil {
		return err
	}
	if in.Confirm == "" && !in.DryRun {
		if err := c.confirmRollback(ctx, f.queue, cluster, set); err != nil {
			return err
		}
		in.Confirm = cluster
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: operation.KindSnapshotRollback, workflow: operation.WorkflowSnapshotRollback, input: in,
		summary: "Rollback of " + cluster + " to set " + set, details: rollbackDetails(in)})
}

// confirmRollback shows the set and asks for the cluster's name.
func (c *cli) confirmRollback(ctx context.Context, queue, cluster, set string) error {
	otherwise := fmt.Sprintf("confirm the rollback to set %s with --confirm %s", set, cluster)
	if !c.interactive() {
		return badInput("there is no terminal to ask on: %s", otherwise)
	}
	var found operation.SnapshotSet
	if err := c.look(ctx, queue, cluster, operation.KindSnapshotShow, operation.WorkflowSnapshotShow, "Set of snapshots of "+cluster,
		operation.SnapshotShowInput{Cluster: cluster, Set: set}, &found); err != nil {
		return err
	}
	if _, err := fmt.Fprint(c.err, view.SnapshotSet(&found, c.style(c.err))); err != nil {
		return err
	}
	answer, err := c.ask(ctx, fmt.Sprintf("Put %d VMs back to it? What was written since is gone. Type the cluster's name to confirm:", len(found.Snapshots)), otherwise)
	if err != nil {
		return err
	}
	if answer != cluster {
		return fail(exitAborted, "that is not %s: nothing was touched", cluster)
	}
	return nil
}

// rollbackDetails is what was asked for, for the Web UI.
func rollbackDetails(in operation.SnapshotRollbackInput) string {
	text := fmt.Sprintf("The disks of all VMs of the cluster `%s` go back to set `%s`, asked for by `%s`.\n\n", in.Cluster, in.Set, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
	if in.DryRun {
		text += "- dry run: nothing is changed\n"
	}
	if in.NoSafetySnapshots {
		text += "- no snapshots are taken before: there is no way back\n"
	}
	return operation.Shorten(text, 4000)
}
