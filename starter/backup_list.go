package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) backupListCommand() *cobra.Command {
	var (
		f          catalogFlags
		limit      int
		incomplete bool
	)
	cmd := &cobra.Command{
		Use:   "list CLUSTER",
		Short: "List the archives of a cluster, the newest first",
		Long: `List the archives of a cluster, the newest first, with what they hold, when they were last read back whole (VERIFIED),
and when they were last proven restorable, or failed to be (REHEARSED).

An archive is listed only when its manifest, which is written last, is there and agrees with the object. What is not
complete is counted, and listed with --incomplete: transfers under way, interrupted ones, and damaged archives.`,
		Example: `  katoflow backup list prod
  katoflow backup list prod --incomplete
  katoflow backup list prod --limit 3 -o json`,
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
			out := operation.ArchiveList{}
			in := operation.BackupListInput{Cluster: args[0], Limit: limit}
			if err := c.lookAtArchives(cmd.Context(), f.queue, args[0], operation.KindBackupList, operation.WorkflowBackupList, in, &out); err != nil {
				return err
			}
			return c.print(out, func() string { return view.Archives(args[0], &out, incomplete, c.style(c.out)) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", operation.DefaultArchives, "at most so many")
	cmd.Flags().BoolVar(&incomplete, "incomplete", false, "also what is not complete, with the reason")
	must(cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions))
	f.register(c, cmd)
	return cmd
}
