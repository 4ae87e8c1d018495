// Command devstack is a Temporal server, its Web UI and an S3 server in one binary, for demos, tests and small sites.
// It listens on the loopback interface only and has no authentication on Temporal and the Web UI.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes of devstack.
const (
	exitOK = 0
	// exitFailure: a part could not be started or failed while running.
	exitFailure = 1
	// exitUsage: the arguments or what they name (a port, a folder, a database file) cannot be used; nothing was started.
	exitUsage = 2
)

// usageError marks an error that the user corrects by changing the arguments or what they name.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit code. The first SIGINT or SIGTERM stops the running command in
// order, a second one ends the process at once.
func execute(args []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
			return
		}
		<-signals
		os.Exit(exitFailure)
	}()

	root := newRootCommand(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(stderr, "devstack: %v\n", err)
	if usage := (usageError{}); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

func newRootCommand(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "devstack",
		Short: "Temporal server, Web UI and S3 server in one process, on the loopback interface",
		Example: `  devstack server start-dev
  devstack server start-dev --data ~/.devstack --s3-bucket archives
  devstack server start-dev --port 0 --ports-file ports.json`,
		Args:          noArguments,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})

	server := &cobra.Command{
		Use:   "server",
		Short: "Run the servers",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	server.AddCommand(newStartCommand(stdout, stderr))
	root.AddCommand(server, newVersionCommand(stdout))
	return root
}

func newVersionCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of the three servers",
		Example: "  devstack version",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			for _, part := range partVersions() {
				if _, err := fmt.Fprintf(stdout, "%-16s %s\n", part.name, part.version); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown argument %q; see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}
