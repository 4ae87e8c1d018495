package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) snapshotCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "snapshot",
		Short: "Take snapshots of all VMs of a cluster at one moment, and go back to them",
		Long: `Take snapshots of all VMs of a cluster at one moment, look after them, and go back to them.

SET is the id of the operation that took it. The worker's inventory says which hypervisor the VMs run on, and which bucket has
the sets' manifests.`,
		Example: `  katoflow snapshot create prod
  katoflow snapshot create prod --quiesce maintenance --max-skew 500ms
  katoflow snapshot list prod
  katoflow snapshot verify prod
  katoflow snapshot rollback prod 20261122-104756-k3f9qa`,
	})
	cmd.AddCommand(c.snapshotCreateCommand(), c.snapshotListCommand(), c.snapshotShowCommand(), c.snapshotVerifyCommand(), c.snapshotDeleteCommand(),
		c.snapshotPruneCommand(), c.snapshotRollbackCommand())
	return cmd
}

// snapshotFlags are the flags of `snapshot create` as they were written.
type snapshotFlags struct {
	requestFlags
	quiesce           []string
	maxSkew, deadline textFlag
	rounds            int
	note              string
	flags             *pflag.FlagSet
}

func (c *cli) snapshotCreateCommand() *cobra.Command {
	var f snapshotFlags
	cmd := &cobra.Command{
		Use:   "create CLUSTER",
		Short: "Take snapshots of all VMs at one moment, and say how good the moment was",
		Long: `Take snapshots of all VMs of a cluster, requested at the same instant once every node is ready, and write down how good the
moment was: how far the requests were apart, how far any two snapshots may be apart at most, and whether all of them lie in a
time in which nothing was written.

--quiesce says what is done so that they fit together: maintenance (the Cloud Controller is read-only), roles-stopped (kato stop on
every node), frozen (the file systems that the inventory names are frozen while the snapshots are taken), vms-stopped (the VMs are
shut down), or none. The default is maintenance and roles-stopped, and none on a plain cluster. Whatever is stopped is started
again, and whatever is frozen thawed, whatever happens.

A round is void when a snapshot fails, takes longer than --deadline, or the skew may be more than --max-skew: what there is of it is
deleted, the cluster resumed, and the next round tried.`,
		Example: `  # what would be done; nothing is changed
  katoflow snapshot create prod --dry-run

  # all roles stopped for the moment of the snapshots
  katoflow snapshot create prod

  # of VMs that are shut down
  katoflow snapshot create prod --quiesce vms-stopped,maintenance

  # of running VMs whose file systems are frozen for the moment of the snapshots
  katoflow snapshot create prod --quiesce frozen,maintenance

  # void if two snapshots may be more than half a second apart
  katoflow snapshot create prod --quiesce maintenance --max-skew 500ms --rounds 5`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.snapshotCreate(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *snapshotFlags) register(c *cli, cmd *cobra.Command) {
	f.requestFlags.register(c, cmd, operation.Abort)
	flags := cmd.Flags()
	f.flags = flags
	var levels []string
	for _, l := range operation.QuiesceLevels() {
		levels = append(levels, string(l))
	}
	flags.StringSliceVar(&f.quiesce, "quiesce", nil, "what is done so that the snapshots fit together: "+strings.Join(levels, ", ")+" (default: maintenance and roles-stopped, none on a plain cluster)")
	durationFlag(flags, &f.maxSkew, "max-skew", "", "a round whose snapshots may be further apart does not count")
	durationFlag(flags, &f.deadline, "deadline", "", "a round that takes longer does not count (default "+operation.DefaultSnapshotDeadline.String()+")")
	flags.IntVar(&f.rounds, "rounds", operation.DefaultSnapshotRounds, "how many rounds are tried before anybody is asked")
	flags.StringVar(&f.note, "note", "", "one line that is kept with the set")
	must(cmd.RegisterFlagCompletionFunc("quiesce", cobra.FixedCompletions(levels, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"max-skew", "deadline", "rounds", "note"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// input checks all flags and gives every problem at once.
func (f *snapshotFlags) input(c *cli, cluster string) (operation.SnapshotInput, error) {
	var problems []string
	in := operation.SnapshotInput{Request: f.request(c, cluster, &problems), Rounds: f.rounds, Note: f.note,
		MaxSkew: f.maxSkew.duration("max-skew", longestWait, &problems), Deadline: f.deadline.duration("deadline", longestWait, &problems)}
	for _, q := range f.quiesce {
		in.Quiesce = append(in.Quiesce, operation.Quiesce(strings.TrimSpace(q)))
	}
	if f.flags.Changed("quiesce") && len(f.quiesce) == 0 {
		problems = append(problems, "--quiesce is empty: give it a value, or leave it out")
	}
	if f.rounds < 1 {
		problems = append(problems, fmt.Sprintf("--rounds %d: write a number from 1 to 20", f.rounds))
	}
	flagged := func(platform string) []string {
		wrong := in.Check(platform)
		for i := range wrong {
			wrong[i] = "--" + wrong[i]
		}
		return slices.DeleteFunc(wrong, func(p string) bool { return strings.HasPrefix(p, "--cluster ") })
	}
	local, err := f.settle(c, &in.Request, append(problems, flagged("")...))
	if err != nil || local == nil {
		return in, err
	}
	if problems := flagged(string(local.Platform)); len(problems) > 0 {
		return in, badInputs(problems)
	}
	if local.Hypervisor == nil {
		return in, badInput("cluster %s has no hypervisor in the inventory: write which provider its VMs run on, one of %s", cluster, strings.Join(inventory.HypervisorProviders(), ", "))
	}
	if slices.Contains(in.Quiesce, operation.QuiesceFrozen) {
		for _, n := range local.Nodes {
			if len(local.FrozenOf(n)) == 0 {
				problems = append(problems, fmt.Sprintf("--quiesce frozen: the inventory names no mount points of %s to freeze: write hypervisor.freeze.mounts, or freeze at the node", n.Name))
			}
		}
		if conflict := local.FreezeConflict(); conflict != "" {
			problems = append(problems, "--quiesce frozen: "+conflict)
		}
		if len(problems) > 0 {
			return in, badInputs(problems)
		}
	}
	return in, nil
}

func (c *cli) snapshotCreate(ctx context.Context, cluster string, f *snapshotFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: operation.KindSnapshot, workflow: operation.WorkflowSnapshot, input: in,
		summary: "Snapshots of " + cluster, details: snapshotDetails(in)})
}

// snapshotDetails is what was asked for, for the Web UI.
func snapshotDetails(in operation.SnapshotInput) string {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, value)
		}
	}
	fmt.Fprintf(&b, "Snapshots of all VMs of the cluster `%s`, asked for by `%s`.\n\n", in.Cluster, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
	if in.DryRun {
		row("dry run", "nothing is changed")
	}
	var levels []string
	for _, q := range in.Quiesce {
		levels = append(levels, string(q))
	}
	row("quiesce", strings.Join(levels, ", "))
	if in.MaxSkew > 0 {
		row("skew at most", in.MaxSkew.String())
	}
	if in.Deadline > 0 {
		row("deadline of a round", in.Deadline.String())
	}
	row("rounds", fmt.Sprint(in.Rounds))
	row("note", strings.ReplaceAll(oneLine(in.Note), "`", "'"))
	if in.LockWait > 0 {
		row("waits for the cluster", in.LockWait.String())
	}
	return operation.Shorten(b.String(), 4000)
}

func snapshotOptions(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
	f := &snapshotFlags{}
	f.register(c, cmd)
	return func(cluster string) (prepared, error) {
		in, err := f.input(c, cluster)
		return prepared{input: &in, queue: f.queue, details: func() string { return snapshotDetails(in) }}, err
	}
}
