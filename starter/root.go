package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/contrib/envconfig"
	"golang.org/x/term"

	"github.com/katoflow/katoflow/starter/internal/view"
)

// surroundings are what a process has around it; tests bring their own.
type surroundings struct {
	in          io.Reader
	out, err    io.Writer
	getenv      func(string) string
	temporalEnv envconfig.EnvLookup
	now         func() time.Time
}

// cli is one run of the command line.
type cli struct {
	surroundings
	output                      string
	profile, address, namespace string
	noColor                     bool
}

// run executes one command line and returns its exit code.
func run(args []string, s surroundings) int {
	// The first signal ends what the command does in order; after it the next one has its usual effect.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot(&cli{surroundings: s})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	f := asFailure(err)
	if ctx.Err() != nil && !f.said && (f.code == exitError || f.code == exitNoServer) { // a call that the signal has ended
		f = &failure{code: exitInterrupted, lines: []string{"interrupted"}}
	}
	if !f.said {
		for _, line := range f.lines {
			fmt.Fprintln(s.err, "katoflow: "+line)
		}
	}
	return f.code
}

func newRoot(c *cli) *cobra.Command {
	var codes strings.Builder
	for _, e := range exitCodes() {
		fmt.Fprintf(&codes, "  %-4d %s\n", e.code, e.meaning)
	}
	root := &cobra.Command{
		Use:   "katoflow",
		Short: "Maintenance procedures of a cluster as durable workflows",
		Long: `katoflow starts, watches and answers the maintenance operations of a cluster of VMs.
The work itself is done by katoflow-worker; an operation goes on whatever becomes of this command.

The Temporal server is found through temporal.toml, TEMPORAL_* or --profile, --address and --namespace.
An operation (OP) is named by its id, by its whole workflow id, by its cluster when that is unambiguous, or as "latest".

Exit codes:
` + codes.String(),
		Example: `  katoflow init
  katoflow cluster check prod
  katoflow upgrade security prod --dry-run
  katoflow upgrade security prod --batch 2 --soak 5m
  katoflow op watch prod`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(root)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return badInput("%s; see %s --help", oneLine(err.Error()), cmd.CommandPath())
	})
	root.CompletionOptions.DisableDefaultCmd = true
	flags := root.PersistentFlags()
	flags.StringVarP(&c.output, "output", "o", "table", "what the result is printed as: table, json or yaml")
	flags.StringVar(&c.profile, "profile", "", "profile in temporal.toml (default: TEMPORAL_PROFILE, else \"default\")")
	flags.StringVar(&c.address, "address", "", "Temporal server as HOST:PORT (default: TEMPORAL_ADDRESS, the profile's, else 127.0.0.1:7233)")
	flags.StringVar(&c.namespace, "namespace", "", "Temporal namespace (default: TEMPORAL_NAMESPACE, the profile's, else \"default\")")
	flags.BoolVar(&c.noColor, "no-color", false, "no colours (also with NO_COLOR set)")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"profile", "address", "namespace"} {
		must(root.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch c.output {
		case "table", "json", "yaml":
			return nil
		}
		return badInput("--output %q: choose table, json or yaml", c.output)
	}
	root.AddCommand(c.upgradeCommand(), c.patchCommand(), c.accessCommand(), c.storageCommand(), c.backupCommand(), c.snapshotCommand(), c.appsCommand(), c.opCommand(), c.scheduleCommand(), c.clusterCommand(), c.initCommand(), c.schemaCommand(), c.completionCommand(), c.versionCommand())
	root.InitDefaultHelpCmd()
	for _, sub := range root.Commands() {
		if sub.Name() == "help" {
			sub.Example = "  katoflow help op decide"
		}
	}
	return root
}

// must is for registrations that can fail only by a mistake in this source.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// group makes a command that only has others below it: without arguments it prints its help, an unknown word is bad input.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := ""
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf(": did you mean %s?", strings.Join(near, " or "))
		}
		return badInput("unknown command %q%s; see %s --help", operationName(args[0]), hint, cmd.CommandPath())
	}
	return cmd
}

// exactly checks the number of arguments and names what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return badInput("%s is missing: %s; see %s --help", names[len(args)], cmd.UseLine(), cmd.CommandPath())
		}
		if len(args) > len(names) {
			hint := ""
			if cmd.Flags().Changed("wait") {
				hint = " (a flag's optional value needs an equals sign: --wait=2h)"
			}
			return badInput("argument %q is one too many%s; see %s --help", operationName(args[len(names)]), hint, cmd.CommandPath())
		}
		return nil
	}
}

// operationName makes an argument fit to be repeated in a message.
func operationName(arg string) string { return oneLine(shorten(arg, 80)) }

func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// terminalOf returns the file behind w when it is a terminal on which the cursor can be moved.
func (c *cli) terminalOf(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || c.getenv("TERM") == "dumb" {
		return nil, false
	}
	return f, true
}

// style is how text for w may look.
func (c *cli) style(w io.Writer) view.Style {
	f, ok := c.terminalOf(w)
	if !ok {
		return view.Style{}
	}
	s := view.Style{Color: !c.noColor && c.getenv("NO_COLOR") == ""}
	if width, height, err := term.GetSize(int(f.Fd())); err == nil {
		s.Width, s.Height = width, height
	}
	return s
}
