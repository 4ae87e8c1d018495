package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
)

// backupFlags are the flags of `backup create` as they were written.
type backupFlags struct {
	requestFlags
	node, maintenance, toPath, transfer string
	onlyThisNode, noSpaceCheck          bool
	include, exclude, encryptTo         []string
	flags                               *pflag.FlagSet
}

func (c *cli) backupCreateCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "create CLUSTER",
		Short: "Export a cluster into an archive that is proved to be whole",
		Long: `Run kato data export on the node with the role filesystem, read the archive there, and move it to the cluster's bucket. The
Cloud Controller is read-only for the time of the export and no longer. An archive is listed only when its manifest is written, and
that is written last, when S3 has recorded the checksums that the node has computed.

Before anything is changed the nodes, the bucket and the Cloud Controller are asked for all that an export needs; every problem is
listed at once. The operation goes on whatever becomes of this command; Ctrl-C ends the watching only.

External databases, and connection data that apps have baked in, are not in an export.`,
		Example: `  # what would be done, command by command; nothing is changed
  katoflow backup create prod --dry-run

  # everything, to the bucket of the inventory
  katoflow backup create prod

  # without the droplets, encrypted, and the cluster stays writable
  katoflow backup create prod --exclude droplets --encrypt-to age1... --maintenance off

  # to a mounted file system instead of S3
  katoflow backup create prod --to-path /mnt/backup`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.backupCreate(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *backupFlags) register(c *cli, cmd *cobra.Command) {
	f.requestFlags.register(c, cmd, operation.Abort)
	flags := cmd.Flags()
	f.flags = flags
	flags.StringVar(&f.node, "node", "", "node that exports (default: the inventory's, else the one with the role filesystem)")
	flags.BoolVar(&f.onlyThisNode, "only-this-node", false, "export one node instead of the cluster: --node, or the Core")
	flags.StringSliceVar(&f.include, "include", nil, "only these parts, in kato's words (default: all but resources and aok-config)")
	flags.StringSliceVar(&f.exclude, "exclude", nil, "not these parts, in kato's words")
	flags.StringVar(&f.maintenance, "maintenance", string(operation.MaintenanceAuto), "maintenance mode during the export: auto (on for a cluster, off for one node), on or off")
	flags.StringVar(&f.toPath, "to-path", "", "folder of a mounted file system on the node, instead of S3")
	flags.StringSliceVar(&f.encryptTo, "encrypt-to", nil, "encrypt to these age or SSH public keys")
	flags.StringVar(&f.transfer, "transfer", string(operation.TransferAuto), "who moves the archive: worker, direct (the node itself), or auto (direct where the node reaches S3)")
	flags.BoolVar(&f.noSpaceCheck, "no-space-check", false, "begin although the data may not fit where the archive is staged")
	fixed := func(name string, values ...string) {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	include, exclude := kato.Selectors()
	fixed("include", include...)
	fixed("exclude", exclude...)
	fixed("maintenance", string(operation.MaintenanceAuto), string(operation.MaintenanceOn), string(operation.MaintenanceOff))
	fixed("transfer", string(operation.TransferAuto), string(operation.TransferWorker), string(operation.TransferDirect))
	must(cmd.RegisterFlagCompletionFunc("node", c.completeNodes(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("to-path", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("encrypt-to", cobra.NoFileCompletions))
}

// input checks all flags and gives every problem at once.
func (f *backupFlags) input(c *cli, cluster string) (operation.BackupInput, error) {
	var problems []string
	in := operation.BackupInput{Request: f.request(c, cluster, &problems), Node: f.node, OnlyThisNode: f.onlyThisNode, Include: f.include, Exclude: f.exclude,
		Maintenance: operation.MaintenanceChoice(f.maintenance), Transfer: operation.TransferMode(f.transfer), EncryptTo: f.encryptTo, ToPath: f.toPath, NoSpaceCheck: f.noSpaceCheck}
	if f.node != "" {
		problems = append(problems, checkNodes([]string{f.node})...)
	}
	// What a command substitution left empty must not become a plain archive, or a whole one.
	for _, given := range []struct {
		name  string
		empty bool
	}{{"encrypt-to", len(f.encryptTo) == 0}, {"exclude", len(f.exclude) == 0}, {"include", len(f.include) == 0}, {"node", f.node == ""}, {"to-path", f.toPath == ""}} {
		if given.empty && f.flags.Changed(given.name) {
			problems = append(problems, "--"+given.name+" is empty: give it a value, or leave it out")
		}
	}
	switch in.Maintenance {
	case operation.MaintenanceAuto, operation.MaintenanceOn, operation.MaintenanceOff:
	default:
		problems = append(problems, fmt.Sprintf("--maintenance %q: choose auto, on or off", operationName(f.maintenance)))
	}
	switch in.Transfer {
	case operation.TransferAuto, operation.TransferWorker:
	case operation.TransferDirect:
		if len(f.encryptTo) > 0 {
			problems = append(problems, "--transfer direct cannot be encrypted, because the node sends what it has: use --transfer worker")
		}
	default:
		problems = append(problems, fmt.Sprintf("--transfer %q: choose auto, worker or direct", operationName(f.transfer)))
	}
	problems = append(problems, kato.CheckSelectors(f.include, f.exclude)...)
	if len(f.encryptTo) > 0 {
		if err := archive.CheckRecipients(f.encryptTo); err != nil {
			problems = append(problems, "--encrypt-to: "+err.Error())
		}
	}
	if f.toPath != "" {
		problems = append(problems, operation.CheckToPath(in)...)
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if local.Platform != inventory.PlatformALS {
		return in, badInput("cluster %s is a plain one: only an ALS cluster has kato data export", cluster)
	}
	if f.node != "" {
		_, err = local.Select([]string{f.node}, nil)
	}
	if err != nil {
		return in, badInput("%s", err.Error())
	}
	return in, nil
}

func (c *cli) backupCreate(ctx context.Context, cluster string, f *backupFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: operation.KindBackup, workflow: operation.WorkflowBackup, input: in,
		summary: "Export of " + cluster, details: backupDetails(in)})
}

// backupDetails is what was asked for, for the Web UI.
func backupDetails(in operation.BackupInput) string {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, value)
		}
	}
	code := func(list ...string) string {
		if len(list) == 0 || len(list) == 1 && list[0] == "" {
			return ""
		}
		return "`" + strings.Join(list, "`, `") + "`"
	}
	what := "the cluster `" + in.Cluster + "`"
	if in.OnlyThisNode {
		what = "one node of `" + in.Cluster + "`"
	}
	fmt.Fprintf(&b, "Export of %s, asked for by `%s`.\n\n", what, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
	if in.DryRun {
		row("dry run", "nothing is changed")
	}
	row("node", code(in.Node))
	row("included", code(in.Include...))
	row("excluded", code(in.Exclude...))
	row("maintenance mode", string(in.Maintenance))
	row("to", code(in.ToPath))
	row("transfer", string(in.Transfer))
	if len(in.EncryptTo) > 0 {
		row("encrypted to", fmt.Sprintf("%d public keys", len(in.EncryptTo)))
	}
	if in.LockWait > 0 {
		row("waits for the cluster", in.LockWait.String())
	}
	return operation.Shorten(b.String(), 4000)
}
