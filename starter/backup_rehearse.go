package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

// rehearseFlags are the flags of `backup rehearse` as they were written.
type rehearseFlags struct{ importFlags }

func (c *cli) backupRehearseCommand() *cobra.Command {
	var f rehearseFlags
	cmd := &cobra.Command{
		Use:   "rehearse CLUSTER[/ARCHIVE] --cluster SCRATCH",
		Short: "Prove that an archive can be restored, in a cluster whose content may be thrown away",
		Long: fmt.Sprintf(`Do with an archive of CLUSTER in SCRATCH what backup restore does, and remember beside the archive what came of it. It is proven restorable when
nothing that its manifest has is missing in SCRATCH afterwards, and every app runs that was started. Without ARCHIVE it is the latest.

SCRATCH has scratch: true in the worker's inventory. What it has of the archive's organizations is deleted there first, so that nothing counts that was there
before; nobody is asked for its name, and no backup of it is made.

Nobody is asked either when something is missing or apps do not run: that is told, with exit code %d. The last archive that is proven restorable is
never pruned.`, exitAppsFailed),
		Example: `  katoflow backup rehearse prod --cluster scratch
  katoflow backup rehearse prod/nightly-20261122t020000z --cluster scratch --detach

  # every Sunday, the latest
  katoflow schedule apply rehearsal --cron "0 9 * * sun" -- backup rehearse prod --cluster scratch`,
		Args:              exactly("CLUSTER[/ARCHIVE]"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.backupRehearse(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *rehearseFlags) register(c *cli, cmd *cobra.Command) {
	f.importFlags.register(c, cmd, "scratch cluster that the archive is imported into")
}

// input checks all flags and gives every problem at once. name is CLUSTER or CLUSTER/ARCHIVE.
func (f *rehearseFlags) input(c *cli, name string) (operation.RestoreInput, error) {
	in := operation.RestoreInput{Rehearsal: true, From: name, Archive: operation.LatestArchive}
	if cluster, archive, both := strings.Cut(name, "/"); both {
		in.From, in.Archive = cluster, archive
	}
	var problems []string
	if err := checkCluster(in.From); err != nil {
		problems = append(problems, err.Error())
	}
	return f.importFlags.input(c, in, problems)
}

func (c *cli) backupRehearse(ctx context.Context, name string, f *rehearseFlags) error {
	in, err := f.input(c, name)
	if err != nil {
		return err
	}
	return c.launchImport(ctx, f.requestFlags, in, "Rehearsal")
}
