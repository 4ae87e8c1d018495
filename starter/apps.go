package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) appsCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "apps",
		Short: "List, restart and redeploy the apps of a cluster",
		Long: `List, restart and redeploy apps through the cluster's Cloud Controller, which the worker's inventory names (controller).

Apps are named ORG/SPACE/APP; each part may have the wildcards * and ?. An app that is stopped is left stopped.`,
		Example: `  katoflow apps list prod
  katoflow apps restart prod --all --apps-at-once 20
  katoflow apps redeploy prod "shop/*/orders"`,
	})
	cmd.AddCommand(c.appsListCommand(), c.appsRestartCommand(), c.appsRedeployCommand(), c.appsReportCommand())
	return cmd
}

// appsFlags are the flags of `apps restart` and `apps redeploy` as they were written.
type appsFlags struct {
	requestFlags
	windowFlags
	action     operation.AppAction
	apps       []string
	all        bool
	atOnce     int
	timeout    textFlag
	fromReport string
	flags      *pflag.FlagSet
}

func (c *cli) appsRestartCommand() *cobra.Command {
	f := appsFlags{action: operation.AppRestart}
	cmd := &cobra.Command{
		Use:   "restart CLUSTER [ORG/SPACE/APP...]",
		Short: "Stop and start apps, and wait until every instance runs",
		Long: `Stop and start apps, so many at once, and wait for each until every instance runs. While it starts an app is away, also one with
several instances: the API has no other restart.

What the operation has stopped it starts again whatever happens to it: a cancel, an abort, a worker's death. An app that was
stopped before stays so. Maintenance mode must be off. Exit code 12 says that some apps do not run; apps redeploy --from-report
takes those again.`,
		Example: `  # which apps that would be; nothing is changed
  katoflow apps restart prod --all --dry-run

  # everything of an org, 20 at once
  katoflow apps restart prod "shop/*/*" --apps-at-once 20

  # all of them, in as many nights as it takes
  katoflow apps restart prod --all --window "daily 01:00-04:00 Europe/Berlin" --detach`,
	}
	return c.appsRoll(cmd, &f)
}

func (c *cli) appsRedeployCommand() *cobra.Command {
	f := appsFlags{action: operation.AppRestage}
	cmd := &cobra.Command{
		Use:   "redeploy CLUSTER [ORG/SPACE/APP...]",
		Short: "Stage apps anew, and wait until every instance runs",
		Long: `Stage apps anew from what was pushed, with the buildpacks and services of today, and wait for each until every instance runs. That is
more than a restart: connection data that is baked in while staging is made anew.

An app that is stopped stays so. Maintenance mode must be off. Exit code 12 says that some apps do not run.`,
		Example: `  # one app in every space
  katoflow apps redeploy prod "shop/*/orders"

  # what failed the last time
  katoflow apps redeploy prod --from-report 20261122-031500-abcdef`,
	}
	return c.appsRoll(cmd, &f)
}

func (c *cli) appsRoll(cmd *cobra.Command, f *appsFlags) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return c.completeClusters(&f.inventory)(cmd, args, word)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return badInput("CLUSTER is missing: katoflow apps %s CLUSTER", cmd.Name())
		}
		return c.appsDo(cmd.Context(), args[0], args[1:], f)
	}
	f.register(c, cmd)
	cmd.Flags().StringVar(&f.fromReport, "from-report", "", "the apps that failed, or were left, in a report: an operation's id, or a .json file that op show -o json has written")
	must(cmd.RegisterFlagCompletionFunc("from-report", c.completeOperations(false)))
	return cmd
}

// register adds the flags to the command that takes them.
func (f *appsFlags) register(c *cli, cmd *cobra.Command) {
	f.requestFlags.register(c, cmd, operation.Abort)
	f.windowFlags.register(cmd, operation.UnitApp)
	flags := cmd.Flags()
	f.flags = flags
	flags.StringSliceVar(&f.apps, "app", nil, "ORG/SPACE/APP, with wildcards; may be given several times")
	flags.BoolVar(&f.all, "all", false, "every app of the cluster")
	flags.IntVar(&f.atOnce, "apps-at-once", operation.DefaultAppsAtOnce, fmt.Sprintf("how many apps are handled at a time, 1 to %d", operation.MaxAppsAtOnce))
	durationFlag(flags, &f.timeout, "app-timeout", "", "how long one app may take until it runs (default 15m)")
	for _, name := range []string{"app", "apps-at-once", "app-timeout"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// input checks all flags and gives every problem at once. Apps of a report are added by the caller.
func (f *appsFlags) input(c *cli, cluster string, named []string) (operation.AppsInput, error) {
	var problems []string
	in := operation.AppsInput{Request: f.request(c, cluster, &problems), Action: f.action, Apps: append(slices.Clone(named), f.apps...), AtOnce: f.atOnce}
	in.AppTimeout = f.timeout.duration("app-timeout", longestWait, &problems)
	in.Window = f.window(&problems)
	if f.atOnce < 1 {
		problems = append(problems, fmt.Sprintf("--apps-at-once %d: write a number from 1 to %d", f.atOnce, operation.MaxAppsAtOnce))
		in.AtOnce = 1
	}
	chosen := 0
	for _, is := range []bool{f.all, len(in.Apps) > 0, f.fromReport != ""} {
		if is {
			chosen++
		}
	}
	switch {
	case f.flags.Changed("app") && len(f.apps) == 0:
		problems = append(problems, "--app is empty: give it a value, or leave it out")
	case f.flags.Changed("from-report") && f.fromReport == "":
		problems = append(problems, "--from-report is empty: give it an operation's id or a file, or leave it out")
	case chosen == 0:
		problems = append(problems, "no apps are named: write ORG/SPACE/APP, or --all for every app of the cluster")
	case chosen > 1:
		problems = append(problems, "apps are named in two ways: write their names, --all or --from-report")
	}
	if f.all {
		in.Apps = []string{"*/*/*"}
	}
	if f.fromReport == "" && chosen == 1 && in.Cluster != "" {
		rest := in
		rest.Window = operation.WindowInput{} // checked above
		problems = append(problems, rest.Check()...)
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if local.Platform != inventory.PlatformALS || local.Controller == nil {
		return in, badInput("cluster %s has no controller in the inventory: write url, user and password of its Cloud Controller", cluster)
	}
	return in, nil
}

func (c *cli) appsDo(ctx context.Context, cluster string, named []string, f *appsFlags) error {
	in, err := f.input(c, cluster, named)
	if err != nil {
		return err
	}
	kind := operation.KindAppsRestart
	if f.action == operation.AppRestage {
		kind = operation.KindAppsRedeploy
	}
	if f.fromReport != "" {
		if in.Only, err = c.failedApps(ctx, cluster, f.fromReport); err != nil {
			return err
		}
		if problems := in.Check(); len(problems) > 0 {
			return badInputs(problems)
		}
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: kind, workflow: operation.WorkflowApps, input: in,
		summary: fmt.Sprintf("%s of apps of %s", in.Action, cluster), details: appsDetails(in)})
}

// appsDetails is what was asked for, for the Web UI.
func appsDetails(in operation.AppsInput) string {
	text := fmt.Sprintf("%s of apps of `%s`, asked for by `%s`.\n\n", in.Action, in.Cluster, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
	all := slices.Clone(in.Apps)
	for _, a := range in.Only {
		all = append(all, a.Name)
	}
	shown := all[:min(len(all), 50)]
	for _, p := range shown {
		text += "- `" + strings.ReplaceAll(oneLine(p), "`", "'") + "`\n"
	}
	if more := len(all) - len(shown); more > 0 {
		text += fmt.Sprintf("- and %d more\n", more)
	}
	for _, w := range in.Window.Times {
		text += "\nMaintenance window: `" + strings.ReplaceAll(oneLine(w), "`", "'") + "`\n"
	}
	return operation.Shorten(text, 4000)
}

// reportNamed is the report of an operation, or of a file that holds one as JSON.
func (c *cli) reportNamed(ctx context.Context, name string) (*operation.Report, error) {
	if strings.HasSuffix(name, ".json") {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, badInput("the report cannot be read: %s", oneLine(err.Error()))
		}
		var r operation.Report
		if err := json.Unmarshal(data, &r); err != nil || r.WorkflowID == "" {
			return nil, badInput("%s is no report of an operation: write its id, or a file made by katoflow op show OPERATION -o json", oneLine(name))
		}
		return &r, nil
	}
	s, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	id, err := s.find(ctx, name, false)
	if err != nil {
		return nil, err
	}
	r, err := c.snapshot(ctx, s, id)
	if err == nil && r.Apps == nil && r.Finished() { // one that was terminated leaves no report but what its workflow last knew
		qctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		var last operation.Report
		if v, qerr := s.QueryWorkflow(qctx, id, "", operation.QueryReport); qerr == nil && v.Get(&last) == nil && last.Apps != nil {
			last.Phase, last.Message = r.Phase, r.Message
			return &last, nil
		}
	}
	return r, err
}

// failedApps are the apps of a cluster that a report says have failed, or that its operation has left stopped.
func (c *cli) failedApps(ctx context.Context, cluster, name string) ([]operation.AppChoice, error) {
	r, err := c.reportNamed(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case r.Apps == nil:
		return nil, badInput("operation %s is not about apps: it has no report of them", oneLine(r.OperationID))
	case r.Cluster != cluster:
		return nil, badInput("operation %s was on cluster %s, not on %s", oneLine(r.OperationID), oneLine(r.Cluster), cluster)
	case !r.Finished():
		return nil, badInput("operation %s still runs: wait for its end, or cancel it", oneLine(r.OperationID))
	}
	var failed []operation.AppChoice
	for _, a := range r.Apps.Apps {
		if a.Outcome == operation.AppFailed || a.Outcome == operation.AppUntouched {
			failed = append(failed, operation.AppChoice{GUID: a.GUID, Name: a.String(), Stopped: a.LeftStopped})
		}
	}
	if all := r.Apps.Counts[operation.AppFailed] + r.Apps.Counts[operation.AppUntouched]; all > len(failed) {
		return nil, badInput("%d apps are not done in operation %s, and its report names %d: select them by org, as with ORG/*/*", all, oneLine(r.OperationID), len(failed))
	}
	if len(failed) == 0 {
		return nil, badInput("no app has failed in operation %s", oneLine(r.OperationID))
	}
	return failed, nil
}

func (c *cli) appsListCommand() *cobra.Command {
	var f catalogFlags
	var quick bool
	cmd := &cobra.Command{
		Use:   "list CLUSTER [ORG/SPACE/APP...]",
		Short: "List apps, and how many of their instances run",
		Long: `List apps by org, space and name, with the instances that are wanted and those that run. For the latter every started app is asked about;
--quick leaves that out.`,
		Example: `  katoflow apps list prod
  katoflow apps list prod "shop/*/*" -o json
  katoflow apps list prod --quick`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			var problems []string
			for _, p := range args[1:] {
				if err := operation.CheckAppPattern(p); err != nil {
					problems = append(problems, err.Error())
				}
			}
			if err := f.check(c, args[0], "", problems); err != nil {
				return err
			}
			out := operation.AppList{}
			in := operation.AppsListInput{Cluster: args[0], Apps: args[1:], Instances: !quick}
			if err := c.look(cmd.Context(), f.queue, args[0], operation.KindAppsList, operation.WorkflowAppsList, "Apps of "+args[0], in, &out); err != nil {
				return err
			}
			return c.print(out, func() string { return view.Apps(args[0], &out, c.style(c.out)) })
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "do not ask for instances")
	f.register(c, cmd)
	return cmd
}

func (c *cli) appsReportCommand() *cobra.Command {
	var asCSV bool
	cmd := &cobra.Command{
		Use:   "report OPERATION",
		Short: "Show what became of every app in an operation",
		Long: `Show what became of every app in an operation on apps: its outcome, why, and what its owner has to do. OPERATION is an id, or a .json
file that katoflow op show -o json has written.`,
		Example: `  katoflow apps report latest
  katoflow apps report 20261122-031500-abcdef --csv >apps.csv`,
		Args:              exactly("OPERATION"),
		ValidArgsFunction: c.completeOperations(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.reportNamed(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if r.Apps == nil {
				return badInput("operation %s is not about apps: it has no report of them", oneLine(r.OperationID))
			}
			if asCSV {
				return writeAppsCSV(c, r.Apps)
			}
			return c.print(r.Apps, func() string { return view.AppResults(r.Apps, true, c.style(c.out)) })
		},
	}
	cmd.Flags().BoolVar(&asCSV, "csv", false, "as comma-separated values")
	return cmd
}

func writeAppsCSV(c *cli, apps *operation.AppsReport) error {
	w := csv.NewWriter(c.out)
	_ = w.Write([]string{"org", "space", "app", "instances", "outcome", "seconds", "reason", "to do"}) // told by Error
	for _, a := range apps.Apps {
		_ = w.Write([]string{plainCell(a.Org), plainCell(a.Space), plainCell(a.Name), fmt.Sprint(a.Instances), a.Outcome, fmt.Sprintf("%.1f", a.Took.D().Seconds()), plainCell(a.Reason), plainCell(a.ToDo)})
	}
	w.Flush()
	return w.Error()
}

// plainCell keeps a spreadsheet from taking a name for a formula.
func plainCell(s string) string {
	if s = oneLine(s); s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
