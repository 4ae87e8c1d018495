package main

import "github.com/spf13/cobra"

func (c *cli) opWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch OP",
		Short: "Watch an operation until it ends",
		Long: `Watch an operation until it ends: a live table on a terminal, one line a change elsewhere.

Server and worker may come and go meanwhile. Ctrl-C ends the watching, never the operation. The exit code is the operation's.`,
		Example: `  katoflow op watch prod
  katoflow op watch latest -o json >report.json`,
		Args:              exactly("OP"),
		ValidArgsFunction: c.completeOperations(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withOperation(cmd.Context(), args[0], false, func(s *server, workflowID string) error {
				return c.follow(cmd.Context(), s, c.newWatcher(s, workflowID))
			})
		},
	}
}
