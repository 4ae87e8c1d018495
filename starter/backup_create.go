package main

import "github.com/spf13/cobra"

func (c *cli) backupCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "create CLUSTER",
		Short:   "Export a cluster into an archive",
		Example: "  katoflow backup create prod",
		Args:    exactly("CLUSTER"),
		RunE: func(*cobra.Command, []string) error {
			return fail(exitError, "this katoflow cannot make archives yet")
		},
	}
}
