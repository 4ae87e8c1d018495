package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// pruneFlags are the flags of `backup prune` and `snapshot prune`.
type pruneFlags struct {
	catalogFlags
	operation.Retention
	dryRun, yes bool
}

func (c *cli) backupPruneCommand() *cobra.Command {
	f := &pruneFlags{}
	cmd := &cobra.Command{
		Use:   "prune CLUSTER",
		Short: "Delete the archives that a retention does not keep",
		Long: `Delete the archives of a cluster that no rule keeps. --keep-last keeps so many of the newest; --keep-daily, --keep-weekly
and --keep-monthly keep the newest of each of so many days, ISO weeks and months that have one. Rules add up. They count
each sort of export by itself: a partial export never takes the place of a whole one. The last archive that was verified
well always stays, and so do the last one that is proven restorable (backup rehearse) and what object lock keeps.

What would be deleted is shown with the reasons, and asked for unless --yes is given. Uploads that operations have left
which do not run any more are aborted when they are older than 24 hours.`,
		Example: `  katoflow backup prune prod --keep-daily 14 --keep-weekly 8 --keep-monthly 12 --dry-run
  katoflow backup prune prod --keep-last 7 --yes

  # every Sunday; days begin by the clock of Paris
  katoflow schedule apply prune --cron "0 6 * * sun" -- backup prune prod --keep-daily 14 --keep-monthly 12 --time-zone Europe/Paris`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.prune(cmd.Context(), args[0], f, prunedArchives)
		},
	}
	f.register(c, cmd, prunedArchives)
	return cmd
}

// pruned is what a prune thins out.
type pruned struct {
	// one of them: "archive".
	one, kind, workflow string
	// plan is what an operator is asked about: which would be deleted, and the question.
	plan func(*operation.Report) (ids []string, question string)
}

var (
	prunedArchives = pruned{"archive", operation.KindBackupPrune, operation.WorkflowBackupPrune, func(r *operation.Report) (ids []string, question string) {
		if r.Catalog == nil || r.Catalog.Prune == nil {
			return nil, ""
		}
		p := r.Catalog.Prune
		for i := range p.Delete {
			if p.Delete[i].Outcome == operation.PrunePlanned {
				ids = append(ids, p.Delete[i].Operation)
			}
		}
		if len(ids)+len(p.Uploads) == 0 {
			return nil, ""
		}
		return ids, fmt.Sprintf("Delete %s and abort %s?", plural(len(ids), "archive"), plural(len(p.Uploads)+p.MoreUploads, "upload"))
	}}
	prunedSets = pruned{"set", operation.KindSnapshotPrune, operation.WorkflowSnapshotPrune, func(r *operation.Report) (ids []string, question string) {
		if r.Sets == nil || r.Sets.Prune == nil {
			return nil, ""
		}
		p := r.Sets.Prune
		for i := range p.Delete {
			if p.Delete[i].Outcome == operation.PrunePlanned {
				ids = append(ids, p.Delete[i].Set)
			}
		}
		if len(ids) == 0 {
			return nil, ""
		}
		return ids, fmt.Sprintf("Delete %s with all snapshots?", plural(len(ids), "set"))
	}}
)

// register adds the flags to the command that takes them.
func (f *pruneFlags) register(c *cli, cmd *cobra.Command, of pruned) {
	flags := cmd.Flags()
	flags.IntVar(&f.KeepLast, "keep-last", 0, "keep so many of the newest "+of.one+"s")
	flags.IntVar(&f.KeepDaily, "keep-daily", 0, "keep the newest "+of.one+" of each of so many days")
	flags.IntVar(&f.KeepWeekly, "keep-weekly", 0, "keep the newest "+of.one+" of each of so many weeks")
	flags.IntVar(&f.KeepMonthly, "keep-monthly", 0, "keep the newest "+of.one+" of each of so many months")
	flags.StringVar(&f.TimeZone, "time-zone", "", "IANA name of the zone in which days begin (default UTC)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be kept and deleted, change nothing")
	flags.BoolVar(&f.yes, "yes", false, "delete without asking")
	for _, name := range []string{"keep-last", "keep-daily", "keep-weekly", "keep-monthly", "time-zone"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	f.catalogFlags.register(c, cmd)
}

// input checks all flags and gives every problem at once.
func (f *pruneFlags) input(c *cli, cluster string) (operation.PruneInput, error) {
	in := operation.PruneInput{Retention: f.Retention,
		Request: operation.Request{OperationID: newID(c.now()), Cluster: cluster, RequestedBy: c.who(), DryRun: f.dryRun}}
	var problems []string
	for _, p := range f.Retention.Check() {
		if strings.HasPrefix(p, "keep-") {
			p = "--" + p
		}
		problems = append(problems, p)
	}
	if f.TimeZone != "" {
		if _, err := loadZone(f.TimeZone); err != nil {
			problems = append(problems, strings.Replace(err.Error(), "time zone", "--time-zone", 1))
		}
	}
	return in, f.check(c, cluster, "", problems)
}

func pruneDetails(in operation.PruneInput, of pruned) string {
	return fmt.Sprintf("Keeps %s of the %ss of `%s`, asked for by `%s`.", in.Retention, of.one, in.Cluster, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
}

func (c *cli) prune(ctx context.Context, cluster string, f *pruneFlags, of pruned) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	asks := !f.yes && !f.dryRun
	const otherwise = "look with --dry-run, then say --yes"
	if asks && !c.interactive() {
		return badInput("there is no terminal to ask on: %s", otherwise)
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, f.queue); err != nil {
		return err
	}
	run := func(in operation.PruneInput) (*operation.Report, int, error) {
		return c.keep(ctx, s, keeping{queue: f.queue, cluster: cluster, id: in.OperationID, kind: of.kind, workflow: of.workflow,
			in: in, summary: "Retention of the " + of.one + "s of " + cluster, details: pruneDetails(in, of)})
	}
	if !asks {
		report, code, err := run(in)
		if err != nil {
			return err
		}
		return c.printKept(report, code)
	}
	plan := in
	plan.DryRun = true
	report, code, err := run(plan)
	if err != nil {
		return err
	}
	if code != exitDone {
		return c.printKept(report, code)
	}
	planned, question := of.plan(report)
	if question == "" {
		return c.printEnd(report)
	}
	// The plan is no result yet, so that with -o json only the outcome stands on standard output.
	if _, err := fmt.Fprint(c.err, view.Report(report, c.now(), c.style(c.err))); err != nil {
		return err
	}
	answer, err := c.ask(ctx, question+" [y/N]", otherwise)
	if err != nil {
		return err
	}
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return fail(exitAborted, "nothing was deleted")
	}
	in.OperationID, in.Only = newID(c.now()), planned
	if report, code, err = run(in); err != nil {
		return err
	}
	return c.printKept(report, code)
}
