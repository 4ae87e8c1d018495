package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/term"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) backupCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "backup",
		Short: "Make, list, verify, download, import, rehearse, delete and prune archives of a cluster",
		Long: `Make archives of a cluster in S3, and look after them.

ARCHIVE is the id of the operation that made it, or "latest", the newest complete one. The worker's inventory has the
bucket and its credentials; only download, and verify with --identity, read the bucket from here.`,
		Example: `  katoflow backup create prod
  katoflow backup list prod
  katoflow backup verify prod latest
  katoflow backup restore prod/latest --cluster standby --confirm standby
  katoflow backup rehearse prod --cluster scratch
  katoflow backup prune prod --keep-daily 14 --keep-monthly 12 --dry-run`,
	})
	cmd.AddCommand(c.backupCreateCommand(), c.backupListCommand(), c.backupShowCommand(), c.backupVerifyCommand(), c.backupDownloadCommand(), c.backupRestoreCommand(),
		c.backupRehearseCommand(), c.backupDeleteCommand(), c.backupPruneCommand())
	return cmd
}

// catalogFlags are those that every command on archives has.
type catalogFlags struct{ inventory, queue string }

func (f *catalogFlags) register(c *cli, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.queue, "task-queue", operation.DefaultTaskQueue, "task queue of the worker that reaches the cluster")
	c.inventoryFlag(cmd.Flags(), &f.inventory)
	must(cmd.RegisterFlagCompletionFunc("task-queue", cobra.NoFileCompletions))
}

// check lists what is wrong with the cluster, the archive ("" for none) and these flags; problems are those that the command has found itself.
func (f *catalogFlags) check(c *cli, cluster, archive string, problems []string) error {
	if err := checkCluster(cluster); err != nil {
		problems = append(problems, err.Error())
	}
	if archive != "" {
		if err := operation.CheckArchive(archive); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if f.queue == "" {
		problems = append(problems, "--task-queue is empty: name the queue of the worker that reaches the cluster")
	}
	if len(problems) > 0 {
		return badInputs(problems)
	}
	_, err := c.localCluster(f.inventory, cluster)
	return err
}

// clusterAndArchive are the arguments of the commands on one archive; without the second it is the latest.
func clusterAndArchive(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return exactly("CLUSTER", "ARCHIVE")(cmd, args)
}

func archiveOf(args []string) string {
	if len(args) < 2 {
		return operation.LatestArchive
	}
	return args[1]
}

// completeArchives offers clusters, then the backups that Temporal remembers: the bucket itself would have to be asked for through a worker.
func (c *cli) completeArchives(path *string, latest bool) cobra.CompletionFunc {
	if latest {
		return c.completeMade(path, operation.KindBackup, operation.LatestArchive, "the newest complete one")
	}
	return c.completeMade(path, operation.KindBackup, "", "")
}

// completeMade offers clusters, then the operations of a kind that ended well and so have made something, after one word more if there is one.
func (c *cli) completeMade(path *string, kind, first, why string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return c.completeClusters(path)(cmd, args, word)
		}
		if checkCluster(args[0]) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completeFromServer(2, cobra.ShellCompDirectiveKeepOrder, func(ctx context.Context, s *server, args []string) ([]string, error) {
			query := fmt.Sprintf("%s = %q", operation.AttributeCluster.GetName(), args[0])
			found, err := s.list(ctx, query, 30, func(l listed) bool { return l.Kind == kind && l.Phase == operation.PhaseDone })
			if err != nil {
				return nil, err
			}
			var words []string
			if first != "" {
				words = append(words, cobra.CompletionWithDesc(first, why))
			}
			for _, l := range found {
				words = append(words, cobra.CompletionWithDesc(oneLine(l.OperationID), oneLine(l.EndedAt)))
			}
			return words, nil
		})(cmd, args, word)
	}
}

// looksWithin is after when nobody waits any more for a look that no worker has taken.
const looksWithin = time.Hour

func (c *cli) lookAtArchives(ctx context.Context, queue, cluster, kind, workflow string, in, out any) error {
	return c.look(ctx, queue, cluster, kind, workflow, "Archives of "+cluster, in, out)
}

// look runs a workflow that only reads. It is no operation: it does not stand among those that changed something.
func (c *cli) look(ctx context.Context, queue, cluster, kind, workflow, summary string, in, out any) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, queue); err != nil {
		return err
	}
	workflowID := operation.WorkflowID(cluster, kind, newID(c.now()))
	options := startOptions(workflowID, queue, cluster, kind, c.who(), summary, "")
	options.TypedSearchAttributes = temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(cluster))
	options.WorkflowExecutionTimeout = looksWithin
	slow := time.AfterFunc(10*time.Second, func() { c.say("katoflow: no answer from a worker yet, still waiting for one; Ctrl-C ends this") })
	defer slow.Stop()
	if err := s.runShort(ctx, options, workflow, in, out); err != nil {
		return c.failed(ctx, s, workflowID, err)
	}
	return nil
}

// keeping is an operation on archives that is about to be started.
type keeping struct {
	queue, cluster, id, kind, workflow string
	in                                 any
	summary, details                   string
}

func (c *cli) optionsOf(k keeping) client.StartWorkflowOptions {
	return startOptions(operation.WorkflowID(k.cluster, k.kind, k.id), k.queue, k.cluster, k.kind, c.who(), k.summary, k.details)
}

// keep runs an operation on archives to its end and returns its report with the exit code. The error is one of the way there.
func (c *cli) keep(ctx context.Context, s *server, k keeping) (*operation.Report, int, error) {
	options := c.optionsOf(k)
	report := &operation.Report{}
	err := s.runShort(ctx, options, k.workflow, k.in, report)
	if err == nil {
		return report, exitDone, nil
	}
	var closed *temporal.WorkflowExecutionError
	if ctx.Err() != nil || !errors.As(err, &closed) {
		return nil, 0, c.failed(ctx, s, options.ID, err)
	}
	report, code := interpret(closed, options.ID)
	return report, code, nil
}

// printKept prints the report of an operation on archives or sets. One that could not begin is told on standard error only, unless a program reads it.
func (c *cli) printKept(report *operation.Report, code int) error {
	begun := report.Sets != nil || report.Catalog != nil && (report.Catalog.Archive != nil || report.Catalog.Prune != nil)
	if code == exitDone || begun || c.output != "table" {
		if err := c.printEnd(report); err != nil {
			return err
		}
	}
	if code == exitDone || begun && c.output == "table" {
		return ending(code)
	}
	return &failure{code: code, lines: view.FailureLines(report.Failure)}
}

// ask puts a question to a person and returns the line that is answered. Without a terminal to ask on it is bad input, and otherwise says what to do.
func (c *cli) ask(ctx context.Context, question, otherwise string) (string, error) {
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", badInput("there is no terminal to ask on: %s", otherwise)
	}
	fmt.Fprintf(c.err, "%s ", question)
	answer := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(f).ReadString('\n') // an end of the input answers nothing
		answer <- text
	}()
	select {
	case <-ctx.Done(): // the process ends; nothing else reads from the terminal
		return "", ctx.Err()
	case text := <-answer:
		return strings.TrimSpace(text), nil
	}
}
