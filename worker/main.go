// Command katoflow-worker carries out the operations that katoflow starts: it polls one Temporal task queue and reaches the nodes of its inventory
// over SSH. It may be stopped, killed and started again at any time.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// Exit codes.
const (
	exitFailed   = 1   // search attributes are missing, the server refuses us, the worker failed while running
	exitBadInput = 2   // flags, environment or inventory
	exitNoServer = 9   // no Temporal server answered within --connect-timeout
	exitAtOnce   = 130 // a second signal while stopping
)

func main() {
	os.Exit(command(os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// exitError is an error with the exit code it ends the process with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exit(code int, err error) error { return &exitError{code: code, err: err} }

func command(args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	ctx, stopped := stopSignals(stderr)
	defer stopped()
	cmd := newCommand(env, stdout, stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = &exitError{code: exitBadInput, err: fmt.Errorf("%w; see katoflow-worker --help", err)} // cobra's own errors are about flags
	}
	fmt.Fprintln(stderr, "katoflow-worker: "+e.Error())
	return e.code
}

// stopSignals returns a context that ends with the first SIGINT or SIGTERM; the second one ends the process at once.
func stopSignals(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-signals; !ok {
			return
		}
		cancel()
		if _, ok := <-signals; !ok {
			return
		}
		fmt.Fprintln(stderr, "katoflow-worker: stopped at once; what runs on the nodes goes on and is found again")
		os.Exit(exitAtOnce)
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}

// config is the command line, with the environment's values where a flag is absent.
type config struct {
	inventory, taskQueue, logFormat, logLevel, health string
	client                                            temporalkit.ClientOptions
	settings                                          temporalkit.Settings
	connectTimeout                                    time.Duration
	check                                             bool
}

// flagVariables are the environment variables that stand for absent flags. Temporal's own (TEMPORAL_ADDRESS...) are read by envconfig.
func flagVariables() map[string]string {
	return map[string]string{
		"inventory": "KATOFLOW_INVENTORY", "task-queue": "KATOFLOW_TASK_QUEUE", "log-format": "KATOFLOW_LOG_FORMAT",
		"log-level": "KATOFLOW_LOG_LEVEL", "health": "KATOFLOW_HEALTH",
	}
}

func newCommand(env func(string) (string, bool), stdout, stderr io.Writer) *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "katoflow-worker",
		Short: "Carry out katoflow's operations on the nodes of an inventory",
		Long: `Carry out katoflow's operations: poll a Temporal task queue and reach the nodes of the inventory over SSH.

The inventory file of the worker is the truth for its task queue; it is read again when it has changed.
The worker may be stopped, killed and started again at any time: jobs on the nodes run on and are found again.
SIGINT or SIGTERM stops it in an orderly way, a second one at once.

Temporal is found through temporal.toml and TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and so on, as with Temporal's own CLI.

Exit codes: 0 stopped as asked, 1 failed, 2 bad flag or inventory, 9 no Temporal server, 130 stopped at once.`,
		Example: `  # the inventory is checked with everything it refers to: keys, known_hosts, secrets
  katoflow-worker --inventory clusters.yaml --check

  # against a Temporal server on this machine
  katoflow-worker --inventory clusters.yaml

  # a site with its own task queue, a profile of temporal.toml, and a health endpoint on 127.0.0.1:9095
  katoflow-worker --inventory clusters.yaml --task-queue site-b --profile prod --health 9095`,
		Args:          cobra.NoArgs,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetVersionTemplate("katoflow-worker {{.Version}}\n")
	cmd.CompletionOptions.HiddenDefaultCmd = true
	f := cmd.Flags()
	f.StringVar(&c.inventory, "inventory", "", "file of clusters ($KATOFLOW_INVENTORY)")
	f.StringVar(&c.taskQueue, "task-queue", operation.DefaultTaskQueue, "Temporal task queue to poll ($KATOFLOW_TASK_QUEUE)")
	f.StringVar(&c.client.Profile, "profile", "", "profile of temporal.toml ($TEMPORAL_PROFILE)")
	f.StringVar(&c.client.Address, "address", "", "Temporal server as HOST:PORT (default $TEMPORAL_ADDRESS, the profile's, or 127.0.0.1:7233)")
	f.StringVar(&c.client.Namespace, "namespace", "", "Temporal namespace (default $TEMPORAL_NAMESPACE, the profile's, or default)")
	f.StringVar(&c.logFormat, "log-format", "", "json or console (default: console on a terminal, else json; $KATOFLOW_LOG_FORMAT)")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error ($KATOFLOW_LOG_LEVEL)")
	f.StringVar(&c.health, "health", "", "serve /healthz, /readyz and /metrics at [HOST:]PORT, HOST being 127.0.0.1 when absent (default: not served; $KATOFLOW_HEALTH)")
	f.IntVar(&c.settings.MaxActivities, "max-activities", temporalkit.DefaultMaxActivities, "activities at once")
	f.DurationVar(&c.settings.StopTimeout, "stop-timeout", temporalkit.DefaultStopTimeout, "how long activities may go on after a signal to stop")
	f.DurationVar(&c.connectTimeout, "connect-timeout", time.Minute, "how long to wait for the Temporal server at the start; 0 = one try")
	f.StringVar(&c.settings.DeploymentName, "deployment", "", "name of the worker deployment; switches Temporal's worker versioning on, with --build-id")
	f.StringVar(&c.settings.BuildID, "build-id", "", "build id of this worker in its deployment")
	f.BoolVar(&c.check, "check", false, "check the inventory and everything it refers to, then exit")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags(), env); err != nil {
			return exit(exitBadInput, err)
		}
		c.client.Env = envconfig.EnvLookupOS
		return c.run(cmd.Context(), env, stdout, stderr)
	}
	return cmd
}

// fromEnvironment sets the flags that are absent from the environment.
func fromEnvironment(flags *pflag.FlagSet, env func(string) (string, bool)) error {
	var failed error
	variables := flagVariables()
	flags.VisitAll(func(f *pflag.Flag) {
		name, ok := variables[f.Name]
		if !ok || f.Changed {
			return
		}
		if v, ok := env(name); ok && v != "" {
			if err := flags.Set(f.Name, v); err != nil && failed == nil {
				failed = fmt.Errorf("%s: %w", name, err)
			}
		}
	})
	return failed
}

// buildVersion is set by the linker: -ldflags "-X main.buildVersion=v1.2.3".
var buildVersion string

// version as the linker or the Go tool has stamped it into the binary.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if buildVersion != "" {
		return strings.TrimSpace(buildVersion + " " + runtime.Version())
	}
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(v, s.Value[:min(12, len(s.Value))]) {
			v += " " + s.Value[:min(12, len(s.Value))]
		}
	}
	return v + " " + info.GoVersion
}
