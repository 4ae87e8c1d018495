package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// clusterAndSet are the arguments of the commands on one set; without the second it is the latest.
func clusterAndSet(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return exactly("CLUSTER", "SET")(cmd, args)
}

// checkSet lists what is wrong with the arguments and flags of a command on a set.
func (f *catalogFlags) checkSet(c *cli, cluster, set string) error {
	var problems []string
	if err := operation.CheckSnapshotSet(set); err != nil {
		problems = append(problems, err.Error())
	}
	return f.check(c, cluster, "", problems)
}

// completeSets offers clusters, then the sets that Temporal remembers.
func (c *cli) completeSets(path *string) cobra.CompletionFunc {
	return c.completeMade(path, operation.KindSnapshot, "", "")
}

func (c *cli) snapshotListCommand() *cobra.Command {
	var (
		f     catalogFlags
		limit int
	)
	cmd := &cobra.Command{
		Use:   "list CLUSTER",
		Short: "List the sets of snapshots of a cluster, the newest first",
		Long: `List the sets of snapshots of a cluster, the newest first, with how good their moments were. A set is listed only when its
manifest is there, which is written when every snapshot can be gone back to.`,
		Example: `  katoflow snapshot list prod
  katoflow snapshot list prod --limit 3 -o json`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			var problems []string
			if limit < 1 || limit > operation.MaxArchives {
				problems = append(problems, fmt.Sprintf("--limit %d: write a number from 1 to %d", limit, operation.MaxArchives))
			}
			if err := f.check(c, args[0], "", problems); err != nil {
				return err
			}
			var out operation.SnapshotSets
			err := c.look(cmd.Context(), f.queue, args[0], operation.KindSnapshotList, operation.WorkflowSnapshotList, "Sets of snapshots of "+args[0],
				operation.SnapshotListInput{Cluster: args[0], Limit: limit}, &out)
			if err != nil {
				return err
			}
			return c.print(out, func() string { return view.SnapshotSets(args[0], &out, c.style(c.out)) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", operation.DefaultArchives, "at most so many")
	must(cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions))
	f.register(c, cmd)
	return cmd
}

func (c *cli) snapshotShowCommand() *cobra.Command {
	var f catalogFlags
	cmd := &cobra.Command{
		Use:   "show CLUSTER [SET]",
		Short: "Show a set of snapshots: its moment, and each of them",
		Long:  `Show everything about a set: how good its moment was, what was quiet, and every snapshot. Without SET it is the latest.`,
		Example: `  katoflow snapshot show prod
  katoflow snapshot show prod nightly-20261122t020000z -o json`,
		Args:              clusterAndSet,
		ValidArgsFunction: c.completeSets(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.checkSet(c, args[0], archiveOf(args)); err != nil {
				return err
			}
			var out operation.SnapshotSet
			err := c.look(cmd.Context(), f.queue, args[0], operation.KindSnapshotShow, operation.WorkflowSnapshotShow, "Set of snapshots of "+args[0],
				operation.SnapshotShowInput{Cluster: args[0], Set: archiveOf(args)}, &out)
			if err != nil {
				return err
			}
			return c.print(out, func() string { return view.SnapshotSet(&out, c.style(c.out)) })
		},
	}
	f.register(c, cmd)
	return cmd
}

func (c *cli) snapshotVerifyCommand() *cobra.Command {
	var f catalogFlags
	cmd := &cobra.Command{
		Use:   "verify CLUSTER [SET]",
		Short: "Ask the hypervisor whether every snapshot of a set is there",
		Long: `Ask the hypervisor whether every snapshot of a set is still there and the same one, and name those of katoflow that stand in no
manifest. Without SET it is the latest.`,
		Example: `  katoflow snapshot verify prod
  katoflow snapshot verify prod nightly-20261122t020000z`,
		Args:              clusterAndSet,
		ValidArgsFunction: c.completeSets(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.checkSet(c, args[0], archiveOf(args)); err != nil {
				return err
			}
			return c.onSet(cmd.Context(), f.queue, args[0], archiveOf(args), operation.KindSnapshotVerify, operation.WorkflowSnapshotVerify, "Verification of a set of snapshots of ")
		},
	}
	f.register(c, cmd)
	return cmd
}

func (c *cli) snapshotDeleteCommand() *cobra.Command {
	var (
		f   catalogFlags
		yes bool
	)
	cmd := &cobra.Command{
		Use:   "delete CLUSTER SET",
		Short: "Delete the snapshots of a set, and the set",
		Long: `Delete all snapshots of a set at the hypervisor, then the set's manifest. A set of which a snapshot cannot be deleted stays in the
list. It is asked for unless --yes is given.`,
		Example: `  katoflow snapshot delete prod nightly-20261122t020000z
  katoflow snapshot delete prod nightly-20261122t020000z --yes`,
		Args:              exactly("CLUSTER", "SET"),
		ValidArgsFunction: c.completeSets(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.checkSet(c, args[0], args[1]); err != nil {
				return err
			}
			if args[1] == operation.LatestArchive {
				return badInput("set latest is not deleted by that name: write the id of the operation that took it")
			}
			if !yes {
				answer, err := c.ask(cmd.Context(), fmt.Sprintf("Delete set %s of %s with all its snapshots? [y/N]", args[1], args[0]), "say --yes")
				if err != nil {
					return err
				}
				if a := strings.ToLower(answer); a != "y" && a != "yes" {
					return fail(exitAborted, "nothing was deleted")
				}
			}
			return c.onSet(cmd.Context(), f.queue, args[0], args[1], operation.KindSnapshotDelete, operation.WorkflowSnapshotDelete, "Deletion of a set of snapshots of ")
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "delete without asking")
	f.register(c, cmd)
	return cmd
}

func (c *cli) snapshotPruneCommand() *cobra.Command {
	f := &pruneFlags{}
	cmd := &cobra.Command{
		Use:   "prune CLUSTER",
		Short: "Delete the sets of snapshots that a retention does not keep",
		Long: `Delete the sets of a cluster that no rule keeps, with all their snapshots. --keep-last keeps so many of the newest;
--keep-daily, --keep-weekly and --keep-monthly keep the newest of each of so many days, ISO weeks and months that have one.
Rules add up. They count each choice of quiesce levels by itself: a set of running VMs never takes the place of one of
stopped roles. A set whose manifest cannot be read stays.

What would be deleted is shown with the reasons, and asked for unless --yes is given.`,
		Example: `  katoflow snapshot prune prod --keep-last 3 --keep-weekly 4 --dry-run
  katoflow snapshot prune prod --keep-last 3 --yes

  # after the snapshots of the night
  katoflow schedule apply thin-out --cron "0 6 * * *" -- snapshot prune prod --keep-last 3 --keep-weekly 4`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.prune(cmd.Context(), args[0], f, prunedSets) },
	}
	f.register(c, cmd, prunedSets)
	return cmd
}

// onSet runs an operation on a set to its end.
func (c *cli) onSet(ctx context.Context, queue, cluster, set, kind, workflow, summary string) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, queue); err != nil {
		return err
	}
	in := operation.SnapshotSetInput{Request: operation.Request{OperationID: newID(c.now()), Cluster: cluster, RequestedBy: c.who()}, Set: set}
	k := keeping{queue: queue, cluster: cluster, id: in.OperationID, kind: kind, workflow: workflow, in: in, summary: summary + cluster, details: "Set `" + set + "`."}
	report, code, err := c.keep(ctx, s, k)
	if err != nil {
		return err
	}
	if code == exitDone || report.Sets != nil {
		if err := c.printEnd(report); err != nil {
			return err
		}
		return ending(code)
	}
	return &failure{code: code, lines: view.FailureLines(report.Failure)}
}
