package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// deleteFlags are the flags of `backup delete`.
type deleteFlags struct {
	catalogFlags
	confirm string
	force   bool
}

func (c *cli) backupDeleteCommand() *cobra.Command {
	var f deleteFlags
	cmd := &cobra.Command{
		Use:   "delete CLUSTER ARCHIVE",
		Short: "Delete one archive",
		Long: `Delete one archive, the manifest first, so that one half deleted is never listed. The archive is shown and the cluster's
name asked for; where there is no terminal, or to skip that, give it with --confirm.

Object lock is said, with its date, and nothing is deleted then. What is not complete is deleted only with --force, which
also ends its upload; so is what an interrupted deletion has left. The archive of an operation that still runs stays.`,
		Example: `  katoflow backup delete prod nightly-20261122t020000z
  katoflow backup delete prod nightly-20261122t020000z --confirm prod
  katoflow backup delete prod 20261122-104756-k3f9qa --force --confirm prod`,
		Args:              exactly("CLUSTER", "ARCHIVE"),
		ValidArgsFunction: c.completeArchives(&f.inventory, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.backupDelete(cmd.Context(), args[0], args[1], f)
		},
	}
	cmd.Flags().StringVar(&f.confirm, "confirm", "", "the cluster's name, instead of being asked for it")
	cmd.Flags().BoolVar(&f.force, "force", false, "also delete what is not complete, and end its upload")
	must(cmd.RegisterFlagCompletionFunc("confirm", cobra.NoFileCompletions))
	f.register(c, cmd)
	return cmd
}

func (c *cli) backupDelete(ctx context.Context, cluster, archive string, f deleteFlags) error {
	var problems []string
	if archive == operation.LatestArchive {
		problems = append(problems, "archive latest is not deleted by that name, which may be another one by now: write the operation's id")
	}
	if f.confirm != "" && f.confirm != cluster {
		problems = append(problems, fmt.Sprintf("--confirm %q is not the name of the cluster, which is %s: nothing is deleted",
			operationName(f.confirm), operationName(cluster)))
	}
	if err := f.check(c, cluster, archive, problems); err != nil {
		return err
	}
	if f.confirm == "" {
		if err := c.confirmDelete(ctx, cluster, archive, f); err != nil {
			return err
		}
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, f.queue); err != nil {
		return err
	}
	in := operation.BackupDeleteInput{Archive: archive, Force: f.force, Request: operation.Request{OperationID: newID(c.now()), Cluster: cluster, RequestedBy: c.who()}}
	details := fmt.Sprintf("Deletes archive `%s` of `%s`, asked for by `%s`.", archive, cluster, oneLine(in.RequestedBy))
	report, code, err := c.keep(ctx, s, keeping{queue: f.queue, cluster: cluster, id: in.OperationID, kind: operation.KindBackupDelete,
		workflow: operation.WorkflowBackupDelete, in: in, summary: "Deletes archive " + archive + " of " + cluster, details: details})
	if err != nil {
		return err
	}
	return c.printKept(report, code)
}

// confirmDelete shows what would be deleted and asks for the cluster's name.
func (c *cli) confirmDelete(ctx context.Context, cluster, archive string, f deleteFlags) error {
	otherwise := fmt.Sprintf("confirm the deletion of archive %s with --confirm %s", archive, cluster)
	if !c.interactive() {
		return badInput("there is no terminal to ask on: %s", otherwise)
	}
	found, err := c.lookAtArchive(ctx, f.queue, cluster, archive)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(c.err, view.ArchiveDetails(&found, c.style(c.err))); err != nil {
		return err
	}
	which := ""
	if found.LastProven {
		which = ", the last one that is proven restorable,"
	}
	answer, err := c.ask(ctx, fmt.Sprintf("Delete archive %s%s for ever? Type the cluster's name to confirm:", archive, which), otherwise)
	if err != nil {
		return err
	}
	if answer != cluster {
		return fail(exitAborted, "that is not %s: nothing was deleted", cluster)
	}
	return nil
}
