package main

import (
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// shownCluster is a cluster of the local file.
type shownCluster struct {
	Name     string             `json:"name"`
	Platform inventory.Platform `json:"platform"`
	Digest   string             `json:"digest"`
	Roles    []string           `json:"roles,omitempty"`
	// Nodes in the order in which a rolling procedure takes them.
	Nodes []shownNode     `json:"nodes"`
	Gates inventory.Gates `json:"gates"`
}

type shownNode struct {
	Name    string   `json:"name"`
	Address string   `json:"address"`
	User    string   `json:"user"`
	Port    int      `json:"port"`
	Bastion string   `json:"bastion,omitempty"`
	Roles   []string `json:"roles,omitempty"`
	Core    bool     `json:"core,omitempty"`
	// Gates are the site's own checks for this node.
	Gates []string `json:"gates,omitempty"`
}

func (c *cli) clusterShowCommand() *cobra.Command {
	var path string
	var roleOrder []string
	cmd := &cobra.Command{
		Use:   "show [CLUSTER]",
		Short: "Show the clusters of the local inventory file",
		Long: `Check the local inventory file and show its clusters, or the nodes of one in the order in which a rolling upgrade would take
them, with their roles and gates. No server and no worker is asked.`,
		Example: `  katoflow cluster show --inventory clusters.yaml
  katoflow cluster show prod
  katoflow cluster show prod --role-order controller,dea -o yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return exactly("CLUSTER")(cmd, args)
		},
		ValidArgsFunction: c.completeClusters(&path),
		RunE: func(_ *cobra.Command, args []string) error {
			file := c.inventoryPath(path)
			if file == "" {
				return badInput("no inventory file: give --inventory FILE or set KATOFLOW_INVENTORY")
			}
			loaded, err := inventory.Load(file)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return c.showClusters(loaded)
			}
			cluster, err := loaded.Cluster(args[0])
			if err != nil {
				return badInput("%s", err.Error())
			}
			if err := cluster.CheckRoleOrder(roleOrder); err != nil {
				return badInput("%s", err.Error())
			}
			return c.showCluster(cluster, roleOrder)
		},
	}
	cmd.Flags().StringSliceVar(&roleOrder, "role-order", nil, "order of the roles, as upgrade security takes it (als)")
	c.inventoryFlag(cmd.Flags(), &path)
	must(cmd.RegisterFlagCompletionFunc("role-order", c.completeRoles(&path)))
	return cmd
}

func shown(cluster *inventory.Cluster, roleOrder []string) shownCluster {
	out := shownCluster{Name: cluster.Name, Platform: cluster.Platform, Digest: cluster.Digest(), Roles: cluster.Roles(), Nodes: []shownNode{}, Gates: cluster.Gates}
	for _, n := range cluster.Order(roleOrder) {
		ssh := cluster.SSHOf(n)
		out.Nodes = append(out.Nodes, shownNode{Name: n.Name, Address: n.Address, User: ssh.User, Port: ssh.Port, Bastion: ssh.Bastion, Roles: n.Roles, Core: n.Core,
			Gates: cluster.GateCommandsOf(n)})
	}
	return out
}

func (c *cli) showClusters(file *inventory.File) error {
	all := []shownCluster{}
	for _, name := range file.ClusterNames() {
		all = append(all, shown(file.Clusters[name], nil))
	}
	return c.print(all, func() string {
		rows := make([]view.ClusterRow, len(all))
		for i, s := range all {
			rows[i] = view.ClusterRow{Name: s.Name, Platform: string(s.Platform), Nodes: len(s.Nodes), Roles: s.Roles}
		}
		return view.Clusters(rows, c.style(c.out))
	})
}

func (c *cli) showCluster(cluster *inventory.Cluster, roleOrder []string) error {
	s := shown(cluster, roleOrder)
	return c.print(s, func() string {
		rows := make([]view.NodeRow, len(s.Nodes))
		for i, n := range s.Nodes {
			rows[i] = view.NodeRow{Name: n.Name, Address: n.Address, User: n.User, Port: n.Port, Bastion: n.Bastion, Roles: n.Roles, Core: n.Core, Gates: n.Gates}
		}
		return view.Cluster(s.Name, string(s.Platform), s.Digest, rows, view.GateTimes{Times: s.Gates.Times, Interval: s.Gates.Interval.String(), Timeout: s.Gates.Timeout.String()},
			c.style(c.out))
	})
}
