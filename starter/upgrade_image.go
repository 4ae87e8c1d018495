package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

// imageFlags are the flags of `upgrade image` as they were written.
type imageFlags struct {
	rollingFlags
	images                operation.ImageSettings
	rollback, restartApps bool
	atOnce                int
	appTimeout            textFlag
	flags                 *pflag.FlagSet
}

func (c *cli) upgradeImageCommand() *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   "image CLUSTER",
		Short: "Upgrade the docker base image of app containers, DEA by DEA",
		Long: `Build the docker base image of app containers anew with all security updates, on each DEA, and make it the latest. With --registry the
first DEA builds and pushes it, and the others pull it by its digest.

What was latest is kept for --rollback. Apps get the new image when they are restarted: --restart-apps does it, and docker on each DEA is
asked which apps still run on an older one. Where autoscaling makes DEAs, their template is asked about. Exit code 12 says that some apps do not run.`,
		Example: `  # what would be done, command by command; nothing is changed
  katoflow upgrade image prod --dry-run

  # and then restart all apps that run
  katoflow upgrade image prod --restart-apps

  # build it once, and share it
  katoflow upgrade image prod --registry registry.example.com:5000/stack-alsek

  # back to the image of before
  katoflow upgrade image prod --rollback`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.upgradeImage(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *imageFlags) register(c *cli, cmd *cobra.Command) {
	f.rollingFlags.register(c, cmd, "DEAs that build at once")
	flags := cmd.Flags()
	f.flags = flags
	flags.StringVar(&f.images.Repository, "repository", "", "the image's name without a tag (default: the inventory's, or "+operation.DefaultImageRepository+")")
	flags.StringVar(&f.images.Base, "base-tag", "", "the tag that is built on (default: the inventory's, or "+operation.BaseTag+")")
	flags.StringVar(&f.images.Registry, "registry", "", "build once and share as HOST[:PORT]/NAME (default: the inventory's, or none)")
	flags.BoolVar(&f.rollback, "rollback", false, "make latest what it was before the last upgrade; nothing is built")
	flags.BoolVar(&f.restartApps, "restart-apps", false, "restart the apps that run, when every DEA is done")
	flags.IntVar(&f.atOnce, "apps-at-once", operation.DefaultAppsAtOnce, fmt.Sprintf("how many apps are restarted at a time, 1 to %d", operation.MaxAppsAtOnce))
	durationFlag(flags, &f.appTimeout, "app-timeout", "", "how long one app may take until it runs (default 15m)")
	for _, name := range []string{"repository", "base-tag", "registry", "apps-at-once", "app-timeout"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// input checks all flags and gives every problem at once.
func (f *imageFlags) input(c *cli, cluster string) (operation.ImageUpgradeInput, error) {
	var problems []string
	v := f.values(c, cluster, &problems)
	in := operation.ImageUpgradeInput{Request: v.request, Nodes: f.nodes, Images: f.images, Batch: f.batch, NoCanary: !f.canary, Soak: v.soak, MaxFailures: v.maxFailures, Window: v.window,
		Rollback: f.rollback, RestartApps: f.restartApps}
	for name, value := range map[string]string{"repository": f.images.Repository, "base-tag": f.images.Base, "registry": f.images.Registry} {
		if f.flags.Changed(name) && value == "" {
			problems = append(problems, "--"+name+" is empty: give it a value, or leave it out")
		}
	}
	if f.restartApps || f.flags.Changed("apps-at-once") {
		in.AppsAtOnce = f.atOnce
	}
	if f.flags.Changed("apps-at-once") && f.atOnce < 1 {
		problems = append(problems, fmt.Sprintf("--apps-at-once %d: write a number from 1 to %d", f.atOnce, operation.MaxAppsAtOnce))
		in.AppsAtOnce = 1
	}
	in.AppTimeout = f.appTimeout.duration("app-timeout", longestWait, &problems)
	if in.Cluster != "" {
		rest := in
		rest.Window, rest.Soak, rest.MaxFailures = operation.WindowInput{}, 0, nil // checked above
		for _, p := range rest.Check() {
			problems = append(problems, "--"+p)
		}
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if local.Platform != inventory.PlatformALS {
		return in, badInput("cluster %s is a plain one, and has no DEAs", cluster)
	}
	if f.restartApps && local.Controller == nil {
		return in, badInput("cluster %s has no controller in the inventory: write url, user and password of its Cloud Controller, or leave --restart-apps out", cluster)
	}
	if _, err := local.Select(f.nodes, []string{"dea"}); err != nil {
		return in, badInputs([]string{err.Error()})
	}
	return in, nil
}

// imageDetails is what was asked for, for the Web UI.
func imageDetails(in operation.ImageUpgradeInput) string {
	var b strings.Builder
	quote := func(s string) string { return "`" + strings.ReplaceAll(oneLine(s), "`", "'") + "`" }
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, value)
		}
	}
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return quote(s)
	}
	what := "Upgrade"
	if in.Rollback {
		what = "Rollback"
	}
	fmt.Fprintf(&b, "%s of the docker base image of %s, asked for by %s.\n\n", what, quote(in.Cluster), quote(in.RequestedBy))
	if in.DryRun {
		row("dry run", "nothing is changed")
	}
	row("nodes", code(strings.Join(in.Nodes, ", ")))
	row("batch", in.Batch)
	if in.NoCanary {
		row("canary", "none")
	}
	if in.Soak > 0 {
		row("soak", in.Soak.String())
	}
	row("repository", code(in.Images.Repository))
	row("built on tag", code(in.Images.Base))
	row("registry", code(in.Images.Registry))
	if in.RestartApps {
		row("apps", fmt.Sprintf("all that run are restarted, %d at once", max(in.AppsAtOnce, 1)))
	}
	if in.MaxFailures != nil {
		row("failed nodes skipped without asking", fmt.Sprint(*in.MaxFailures))
	}
	row("maintenance window", code(strings.Join(in.Window.Times, ", ")))
	if in.LockWait > 0 {
		row("waits for the cluster", in.LockWait.String())
	}
	return operation.Shorten(b.String(), 4000)
}

func (c *cli) upgradeImage(ctx context.Context, cluster string, f *imageFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: operation.KindImageUpgrade, workflow: operation.WorkflowImageUpgrade, input: in,
		summary: "Upgrade of the docker base image of " + cluster, details: imageDetails(in)})
}
