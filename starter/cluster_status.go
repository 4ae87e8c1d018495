package main

import (
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) clusterStatusCommand() *cobra.Command {
	var f catalogFlags
	cmd := &cobra.Command{
		Use:   "status CLUSTER",
		Short: "Show how a cluster is: pending packages, reboots, last backup and snapshots",
		Long: `Let the worker ask every node how it is, and show it: system and kernel, packages that are pending as its lists have them and how
many of them are from a security archive, packages kept back, whether a reboot is required, and when dpkg last upgraded
anything. Above it stands who works on the cluster, and what there is to go back to: the last backup, the last rehearsal and
the last set of snapshots. Data services whose data is on the root volume, on NFS or on a file system that is nearly full are
named.

Nothing is changed, and no lock is taken. A node that does not answer is named, and the others are shown.`,
		Example: `  katoflow cluster status prod
  katoflow cluster status prod -o json | jq '.nodes[] | select(.rebootRequired) | .node'`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(c, args[0], "", nil); err != nil {
				return err
			}
			in, out := operation.StatusInput{Cluster: args[0]}, operation.ClusterStatus{}
			local, err := c.localCluster(f.inventory, args[0])
			if err != nil {
				return err
			}
			if local != nil {
				in.InventoryDigest = local.Digest()
			}
			if err := c.look(cmd.Context(), f.queue, args[0], operation.KindClusterStatus, operation.WorkflowClusterStatus, "Status of "+args[0], in, &out); err != nil {
				return err
			}
			return c.print(out, func() string { return view.Status(&out, c.now(), c.style(c.out)) })
		},
	}
	f.register(c, cmd)
	return cmd
}
