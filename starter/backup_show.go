package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) backupShowCommand() *cobra.Command {
	var f catalogFlags
	cmd := &cobra.Command{
		Use:   "show CLUSTER [ARCHIVE]",
		Short: "Show an archive: what it holds, where it is, whether it was verified",
		Long: `Show everything about an archive but its parts: where it is, what was exported, sizes and checksums, to whom it is
encrypted, what object lock says, when it was last verified, and what the Cloud Controller had before the export. Without
ARCHIVE it is the latest. What is not complete is shown with the reason.`,
		Example: `  katoflow backup show prod
  katoflow backup show prod nightly-20261122t020000z
  katoflow backup show prod latest -o json`,
		Args:              clusterAndArchive,
		ValidArgsFunction: c.completeArchives(&f.inventory, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(c, args[0], archiveOf(args), nil); err != nil {
				return err
			}
			out, err := c.lookAtArchive(cmd.Context(), f.queue, args[0], archiveOf(args))
			if err != nil {
				return err
			}
			return c.print(out, func() string { return view.ArchiveDetails(&out, c.style(c.out)) })
		},
	}
	f.register(c, cmd)
	return cmd
}

// lookAtArchive asks the worker for one archive.
func (c *cli) lookAtArchive(ctx context.Context, queue, cluster, archive string) (operation.ArchiveDetails, error) {
	var out operation.ArchiveDetails
	in := operation.BackupShowInput{Cluster: cluster, Archive: archive}
	err := c.lookAtArchives(ctx, queue, cluster, operation.KindBackupShow, operation.WorkflowBackupShow, in, &out)
	return out, err
}
