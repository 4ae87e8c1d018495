package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) storageCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "storage",
		Short:   "Move data to larger disks, and have quotas enforced there",
		Example: "  katoflow storage quota enable prod --nodes data-1 --path /mnt/data",
	})
	quota := group(&cobra.Command{
		Use:     "quota",
		Short:   "Switch the quotas of a file system on or off",
		Example: "  katoflow storage quota enable prod --nodes data-1 --path /mnt/data",
	})
	quota.AddCommand(c.quotaCommand(operation.QuotaEnable), c.quotaCommand(operation.QuotaDisable))
	cmd.AddCommand(c.relocateCommand(), quota)
	return cmd
}

// quotaFlags are the flags of the commands that switch quotas, as they were written.
type quotaFlags struct {
	rollingFlags
	action operation.QuotaAction
	path   string
}

func (c *cli) quotaCommand(action operation.QuotaAction) *cobra.Command {
	f := quotaFlags{action: action}
	cmd := &cobra.Command{
		Use:               string(action) + " CLUSTER --path PATH",
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.quota(cmd.Context(), args[0], &f) },
	}
	if action == operation.QuotaEnable {
		cmd.Short = "Have the quotas of a file system enforced, now and after each reboot"
		cmd.Long = `Mount the file system that is mounted at --path again with quotas, count what everybody uses (quotacheck), switch the quotas on
(quotaon), and see to it that they are on after a reboot: by a block in /etc/init.d/setup_helion_lxc or setup_stackato_lxc, where
there is one, otherwise by the options in /etc/fstab. Node by node; what is done already is left as it is.

On a kernel that has no quotas everything is as it was before, and the operation says so.`
		cmd.Example = `  # what would be done; nothing is changed
  katoflow storage quota enable prod --nodes data-1 --path /mnt/data --dry-run

  katoflow storage quota enable prod --nodes data-1,data-2 --path /mnt/data`
	} else {
		cmd.Short = "Take back what storage quota enable has done"
		cmd.Long = `Switch the quotas of the file system that is mounted at --path off (quotaoff), mount it again without them, and take away what has them
on after a reboot: katoflow's own block of the init script, and the options in /etc/fstab. Lines that somebody else has written into
the init script stay, and are told.`
		cmd.Example = `  katoflow storage quota disable prod --nodes data-1 --path /mnt/data`
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *quotaFlags) register(c *cli, cmd *cobra.Command) {
	f.rollingFlags.register(c, cmd, "nodes whose quotas are switched at once")
	cmd.Flags().StringVar(&f.path, "path", "", "where the file system is mounted")
	must(cmd.RegisterFlagCompletionFunc("path", cobra.NoFileCompletions)) // it is on the nodes
}

// input checks all flags and gives every problem at once.
func (f *quotaFlags) input(c *cli, cluster string) (operation.QuotaInput, error) {
	var problems []string
	v := f.values(c, cluster, &problems)
	in := operation.QuotaInput{Request: v.request, Action: f.action, Path: f.path,
		Rolling: operation.Rolling{Nodes: f.nodes, Batch: f.batch, NoCanary: !f.canary, Soak: v.soak, MaxFailures: v.maxFailures, Window: v.window}}
	if err := operation.CheckFolder(f.path); err != nil {
		problems = append(problems, "--path "+err.Error())
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if _, err := local.Select(in.Nodes, nil); err != nil {
		return in, badInputs([]string{err.Error()})
	}
	return in, nil
}

func (c *cli) quota(ctx context.Context, cluster string, f *quotaFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	d := newDetails("quotas of "+quoted(in.Path), in.Request, string(in.Action))
	d.rolling(in.Rolling)
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: in.Action.Kind(), workflow: operation.WorkflowQuota, input: in,
		summary: fmt.Sprintf("storage quota %s of %s on %s", in.Action, in.Path, cluster), details: d.text(in.Request)})
}

// relocateFlags are the flags of `storage relocate` as they were written.
type relocateFlags struct {
	requestFlags
	node, confirm                  string
	services, droplets, containers string
	force, keepSource, retire      bool
	maintenance                    bool
	given                          func(string) bool
}

func (c *cli) relocateCommand() *cobra.Command {
	var f relocateFlags
	cmd := &cobra.Command{
		Use:   "relocate CLUSTER --node NODE [--services PATH] [--droplets PATH] [--containers PATH] --confirm CLUSTER",
		Short: "Move services, droplets and containers of a node to larger disks",
		Long: `Move data of a node to other folders with kato relocate: stop its roles, keep the source beside itself, move, compare names, modes,
owners and sizes of all files with the source, start the roles, wait until the gates hold, and remove the source then. What fails
before the roles are started goes back to where it was, by itself; while anybody is asked, the node runs.

Before anything is changed it is seen to that the volume is mounted, large enough and mounted with quotas, that the filesystem service
does not go to NFS, and that containers do not go to a network disk. The folders are made where they are missing.`,
		Example: `  # what would be done; nothing is changed
  katoflow storage relocate prod --node data-1 --services /mnt/data/services --dry-run

  katoflow storage quota enable prod --nodes data-1 --path /mnt/data
  katoflow storage relocate prod --node data-1 --services /mnt/data/services --confirm prod

  # a DEA; its app instances are moved to other DEAs before
  katoflow storage relocate prod --node dea-1 --containers /mnt/containers --confirm prod`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.relocate(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *relocateFlags) register(c *cli, cmd *cobra.Command) {
	f.requestFlags.register(c, cmd, operation.Abort)
	flags := cmd.Flags()
	flags.StringVar(&f.node, "node", "", "the node whose data are moved")
	flags.StringVar(&f.services, "services", "", "folder on it that the data of services go to")
	flags.StringVar(&f.droplets, "droplets", "", "folder on it that droplets go to")
	flags.StringVar(&f.containers, "containers", "", "folder on it that containers go to")
	flags.StringVar(&f.confirm, "confirm", "", "the cluster's name once more")
	flags.BoolVar(&f.force, "force", false, "move them although a check has found what can be overruled")
	flags.BoolVar(&f.keepSource, "keep-source", false, "leave the source on the node, beside itself")
	flags.BoolVar(&f.retire, "retire", true, "move app instances of a DEA to other DEAs before")
	flags.BoolVar(&f.maintenance, "maintenance", false, "maintenance mode meanwhile")
	f.given = flags.Changed
	must(cmd.RegisterFlagCompletionFunc("node", c.completeNodes(&f.inventory)))
	for _, name := range []string{"services", "droplets", "containers", "confirm"} { // the folders are on the node
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// input checks all flags and gives every problem at once.
func (f *relocateFlags) input(c *cli, cluster string) (operation.RelocateInput, error) {
	var problems []string
	in := operation.RelocateInput{Request: f.request(c, cluster, &problems), Node: f.node, Services: f.services, Droplets: f.droplets, Containers: f.containers, Confirm: f.confirm,
		Force: f.force, KeepSource: f.keepSource, NoRetire: !f.retire, Maintenance: f.maintenance}
	for _, name := range []string{"services", "droplets", "containers"} {
		if f.given(name) && map[string]string{"services": f.services, "droplets": f.droplets, "containers": f.containers}[name] == "" {
			problems = append(problems, "--"+name+" is empty: name a folder on the node")
		}
	}
	if in.Node != "" {
		for _, problem := range checkNodes([]string{in.Node}) {
			problems = append(problems, strings.Replace(problem, "--nodes", "--node", 1))
		}
	}
	if in.Cluster != "" {
		for _, p := range in.Check() {
			for _, name := range []string{"services", "droplets", "containers", "node", "confirm"} {
				if strings.HasPrefix(p, name+" ") || strings.HasPrefix(p, name+":") {
					p = "--" + p
				}
			}
			problems = append(problems, p)
		}
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if local.Platform != inventory.PlatformALS {
		return in, badInput("cluster %s is a plain one, and has no kato", cluster)
	}
	if _, err := local.Select([]string{in.Node}, nil); err != nil {
		return in, badInputs([]string{"--node: " + err.Error()})
	}
	return in, nil
}

func (c *cli) relocate(ctx context.Context, cluster string, f *relocateFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	d := newDetails("kato relocate on "+quoted(in.Node), in.Request, "")
	for _, m := range in.Moves() {
		d.row(string(m.Kind), "to "+quoted(m.To))
	}
	d.flag(in.Force, "checks", "overruled where that is possible")
	d.flag(in.KeepSource, "source", "kept")
	d.flag(in.NoRetire, "app instances", "not moved to other DEAs before")
	d.flag(in.Maintenance, "maintenance mode", "on meanwhile")
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: operation.KindRelocate, workflow: operation.WorkflowRelocate, input: in,
		summary: fmt.Sprintf("storage relocate on %s of %s", in.Node, cluster), details: d.text(in.Request)})
}
