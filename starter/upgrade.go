package main

import (
	"github.com/spf13/cobra"
)

func (c *cli) upgradeCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "upgrade",
		Short:   "Upgrade the nodes of a cluster, the image of its apps, and its release",
		Example: "  katoflow upgrade security prod --dry-run",
	})
	cmd.AddCommand(c.upgradeSecurityCommand(), c.upgradeImageCommand(), c.upgradeReleaseCommand())
	return cmd
}
