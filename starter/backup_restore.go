package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) backupRestoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore {[CLUSTER/]ARCHIVE | --from-host OLD} --cluster TARGET --confirm TARGET",
		Short: "Import an archive, or a running cluster, and say of each app what became of it",
		Long: `Bring an archive from its bucket to the Core of TARGET, read it there, run kato data import on it, hold what came back against the archive's
manifest, and see to the apps that do not run: they are staged anew and started, so many at once.

ARCHIVE is one of TARGET's own, or CLUSTER/ARCHIVE of another cluster of the inventory; "latest" is the newest complete one. An import changes
everything in TARGET, so its name is asked for once more. A cluster that has apps is backed up before, by an operation of its own
(ID-safety), unless --no-safety-backup says that this is not needed.

--from-host imports a running cluster without an archive between: kato on TARGET's Core logs in to OLD's by key and reads it. OLD is a cluster of the
inventory, or the address of its Core. It is held meanwhile by an operation of its own (ID-source), in maintenance mode unless --maintenance off says
otherwise, and is as it was afterwards.

Before anything is changed the archive, the nodes and the Cloud Controller are asked for all that an import needs; every problem is listed at
once. kato's import itself is never interrupted, also not by a cancel. Exit code 12 says that some apps do not run: apps redeploy
--from-report takes those again.`,
		Example: `  # what would be done; nothing is changed
  katoflow backup restore prod/latest --cluster standby --dry-run

  # an archive of prod into standby
  katoflow backup restore prod/nightly-20261122t020000z --cluster standby --confirm standby

  # the running cluster old into new
  katoflow backup restore --from-host old --cluster new --confirm new

  # every app that was started is staged anew, because its database has another address here
  katoflow backup restore prod/latest --cluster standby --confirm standby --restage all --apps-at-once 20`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.backupRestore(cmd.Context(), args, &f) },
	}
	f.register(c, cmd)
	return cmd
}

// importFlags are the flags of every command that imports an archive into a cluster, as they were written.
type importFlags struct {
	requestFlags
	cluster, transfer, restage string
	noSpaceCheck               bool
	atOnce                     int
	timeout, stagingTimeout    textFlag
}

// register adds the flags to the command that takes them.
func (f *importFlags) register(c *cli, cmd *cobra.Command, cluster string) {
	f.requestFlags.register(c, cmd, operation.Abort)
	flags := cmd.Flags()
	flags.StringVar(&f.cluster, "cluster", "", cluster)
	flags.StringVar(&f.transfer, "transfer", string(operation.TransferAuto), "who moves the archive: worker, direct (the node itself), or auto (direct where the node reaches S3)")
	flags.StringVar(&f.restage, "restage", string(operation.RestageFailed), "which apps are staged anew after the import: failed (those that do not run), all (that were started), none, or a FILE with an app a line, ORG/SPACE/APP with * for any: those, and what does not run")
	flags.IntVar(&f.atOnce, "apps-at-once", operation.DefaultAppsAtOnce, fmt.Sprintf("how many apps are handled at a time, 1 to %d", operation.MaxAppsAtOnce))
	durationFlag(flags, &f.timeout, "app-timeout", "", "how long one app may take until it runs (default 15m)")
	durationFlag(flags, &f.stagingTimeout, "staging-timeout", "", "how long kato lets one app of an old archive stage (default: kato's)")
	flags.BoolVar(&f.noSpaceCheck, "no-space-check", false, "begin although the archive may not fit on the node")
	fixed := func(name string, values ...string) {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	fixed("transfer", string(operation.TransferAuto), string(operation.TransferWorker), string(operation.TransferDirect))
	must(cmd.RegisterFlagCompletionFunc("restage", cobra.FixedCompletions([]string{string(operation.RestageFailed), string(operation.RestageAll), string(operation.RestageNone)}, cobra.ShellCompDirectiveDefault)))
	must(cmd.RegisterFlagCompletionFunc("cluster", c.completeClusters(&f.inventory)))
	for _, name := range []string{"apps-at-once", "app-timeout", "staging-timeout"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// input checks all flags and gives every problem at once. in has what is the command's own; problems are those that it has found itself.
func (f *importFlags) input(c *cli, in operation.RestoreInput, problems []string) (operation.RestoreInput, error) {
	if f.cluster == "" {
		problems = append(problems, "--cluster is missing: name the cluster that the archive is imported into")
	} else {
		in.Request = f.request(c, f.cluster, &problems)
	}
	in.Transfer, in.Restage = operation.TransferMode(f.transfer), operation.RestagePolicy(f.restage)
	switch in.Restage {
	case operation.RestageFailed, operation.RestageAll, operation.RestageNone:
	default:
		var err error
		in.Restage = operation.RestageFailed
		if in.RestageApps, err = appsOfFile(f.restage); err != nil {
			problems = append(problems, "--restage: "+err.Error())
		}
	}
	in.AtOnce, in.NoSpaceCheck = f.atOnce, f.noSpaceCheck
	in.AppTimeout = f.timeout.duration("app-timeout", longestWait, &problems)
	in.StagingTimeout = f.stagingTimeout.duration("staging-timeout", longestWait, &problems)
	if f.atOnce < 1 {
		problems = append(problems, fmt.Sprintf("--apps-at-once %d: write a number from 1 to %d", f.atOnce, operation.MaxAppsAtOnce))
		in.AtOnce = 1
	}
	if len(problems) == 0 {
		problems = append(problems, in.Check()...)
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	switch {
	case local.Platform != inventory.PlatformALS:
		return in, badInput("cluster %s is a plain one: only an ALS cluster has kato data import", f.cluster)
	case in.Rehearsal && !local.Scratch:
		return in, badInput("cluster %s is no scratch cluster, and a rehearsal throws its content away: if that may be, write scratch: true at it in the inventory", f.cluster)
	case local.Controller == nil:
		return in, badInput("cluster %s has no controller in the inventory, which says what came back: write url, user and password of its Cloud Controller", f.cluster)
	}
	return in, nil
}

// maxAppsFile bounds a file that names apps, in bytes.
const maxAppsFile = 512 << 10

// appsOfFile reads patterns of apps: one a line; empty lines and those that begin with # mean nothing.
func appsOfFile(name string) ([]string, error) {
	shown := operationName(name)
	data, err := readUpTo(name, maxAppsFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("choose failed, all or none, or a file that names apps: there is no file %q", shown)
	case err != nil:
		return nil, fmt.Errorf("%s", oneLine(err.Error()))
	}
	var apps []string
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := operation.CheckAppPattern(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", shown, number, err)
		}
		apps = append(apps, line)
	}
	if len(apps) == 0 {
		return nil, fmt.Errorf("the file %q names no app: write ORG/SPACE/APP, one a line", shown)
	}
	return apps, nil
}

// launchImport starts the operation.
func (c *cli) launchImport(ctx context.Context, f requestFlags, in operation.RestoreInput, what string) error {
	return c.launch(ctx, launch{requestFlags: f, request: in.Request, kind: in.Kind(), workflow: operation.WorkflowRestore, input: in,
		summary: what + " of " + importedName(in) + " in " + in.Cluster, details: restoreDetails(in)})
}

// importedName is what is imported, for people.
func importedName(in operation.RestoreInput) string {
	if in.FromHost {
		return "the running cluster " + in.From
	}
	return in.Source() + "/" + in.Archive
}

// restoreFlags are the flags of `backup restore` as they were written.
type restoreFlags struct {
	importFlags
	confirm, fromHost, maintenance string
	noSafetyBackup                 bool
}

// register adds the flags to the command that takes them.
func (f *restoreFlags) register(c *cli, cmd *cobra.Command) {
	f.importFlags.register(c, cmd, "cluster that the archive is imported into")
	cmd.Flags().StringVar(&f.confirm, "confirm", "", "its name once more")
	cmd.Flags().BoolVar(&f.noSafetyBackup, "no-safety-backup", false, "import into a cluster that has apps without a backup of it before")
	cmd.Flags().StringVar(&f.fromHost, "from-host", "", "import this running cluster instead of an archive: its name in the inventory, or the address of its Core")
	cmd.Flags().StringVar(&f.maintenance, "maintenance", string(operation.MaintenanceAuto), "maintenance mode of the cluster of --from-host while it is read: auto (on), on or off")
	must(cmd.RegisterFlagCompletionFunc("confirm", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("from-host", c.completeClusters(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("maintenance", cobra.FixedCompletions([]string{string(operation.MaintenanceAuto), string(operation.MaintenanceOn), string(operation.MaintenanceOff)}, cobra.ShellCompDirectiveNoFileComp)))
}

func (f *restoreFlags) input(c *cli, args []string) (operation.RestoreInput, error) {
	in := operation.RestoreInput{Confirm: f.confirm, NoSafetyBackup: f.noSafetyBackup, Maintenance: operation.MaintenanceChoice(f.maintenance)}
	var problems []string
	name := ""
	switch {
	case len(args) == 0 && f.fromHost == "":
		problems = append(problems, "nothing is named to be imported: write [CLUSTER/]ARCHIVE, or --from-host OLD for a running cluster")
	case len(args) > 0 && f.fromHost != "":
		problems = append(problems, "both an archive and --from-host are given: leave one out")
	case f.fromHost != "":
		name, err := c.clusterOfHost(f.inventory, f.fromHost)
		if err != nil {
			problems = append(problems, "--from-host: "+err.Error())
		}
		in.FromHost, in.From = true, name
	case f.maintenance != string(operation.MaintenanceAuto):
		problems = append(problems, "--maintenance is for --from-host: an archive's cluster is not touched")
	}
	if len(args) > 0 {
		name = args[0]
		in.From, in.Archive = operation.ParseArchiveName(name)
	}
	if strings.HasPrefix(name, "/") {
		problems = append(problems, fmt.Sprintf("archive %q: write [CLUSTER/]ARCHIVE", operationName(name)))
	}
	return f.importFlags.input(c, in, problems)
}

// clusterOfHost is the cluster of that name, or the one whose Core has that address or name, as far as there is an inventory here.
func (c *cli) clusterOfHost(flag, host string) (string, error) {
	path := c.inventoryPath(flag)
	if path == "" {
		if err := operation.CheckCluster(host); err != nil {
			return "", fmt.Errorf("%q is no name of a cluster: write the name that the worker's inventory has for it, or say --inventory FILE", operationName(host))
		}
		return host, nil
	}
	file, err := inventory.Load(path)
	if err != nil {
		return "", err
	}
	var of []string
	for _, cluster := range file.Clusters {
		if cluster.Name == host {
			return host, nil
		}
		if core := cluster.CoreNode(); core != nil && (core.Address == host || core.Name == host) {
			of = append(of, cluster.Name)
		}
	}
	switch len(of) {
	case 0:
		return "", fmt.Errorf("no cluster of the inventory is called %q or has a Core of that address: add it there", operationName(host))
	case 1:
		return of[0], nil
	}
	return "", fmt.Errorf("%q is the Core of several clusters: name one of %s", operationName(host), strings.Join(of, ", "))
}

func (c *cli) backupRestore(ctx context.Context, args []string, f *restoreFlags) error {
	in, err := f.input(c, args)
	if err != nil {
		return err
	}
	return c.launchImport(ctx, f.requestFlags, in, "Import")
}

// restoreDetails is what was asked for, for the Web UI.
func restoreDetails(in operation.RestoreInput) string {
	what := "Import"
	if in.Rehearsal {
		what = "Rehearsal: import"
	}
	text := fmt.Sprintf(what+" of `%s` into the cluster `%s`, asked for by `%s`.\n\n- transfer: %s\n- staged anew afterwards: %s\n", importedName(in), in.Cluster,
		strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"), in.Transfer, in.Restage)
	if n := len(in.RestageApps); n > 0 {
		text += fmt.Sprintf("- and, although they run: %d patterns, `%s` first\n", n, strings.ReplaceAll(oneLine(in.RestageApps[0]), "`", "'"))
	}
	if in.DryRun {
		text += "- dry run: nothing is changed\n"
	}
	return operation.Shorten(text, 4000)
}
