package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) opCancelCommand() *cobra.Command {
	var (
		reason string
		detach bool
	)
	cmd := &cobra.Command{
		Use:   "cancel OP",
		Short: "End an operation in a safe state",
		Long: `End an operation: nothing new is begun, what may not be interrupted is finished, what was changed is put back.

The command waits and shows what is still being finished; Ctrl-C ends the waiting only. It ends with exit code 0 when the
operation was cancelled as asked, else with the operation's own.`,
		Example: `  katoflow op cancel prod --reason "wrong window"
  katoflow op cancel prod --detach`,
		Args:              exactly("OP"),
		ValidArgsFunction: c.completeOperations(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withOperation(cmd.Context(), args[0], false, func(s *server, workflowID string) error {
				return c.cancel(cmd.Context(), s, workflowID, reason, detach)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, kept in the history")
	cmd.Flags().BoolVar(&detach, "detach", false, "return once the operation knows, without waiting for its end")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) cancel(ctx context.Context, s *server, workflowID, reason string, detach bool) error {
	_, _, id, _ := operation.ParseWorkflowID(workflowID)
	dctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	d, err := s.DescribeWorkflowExecution(dctx, workflowID, "")
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound):
		return badInput("the server knows no operation %s", oneLine(workflowID))
	case err != nil:
		return s.explain(err)
	}
	switch status := d.GetWorkflowExecutionInfo().GetStatus(); status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		return c.printVerb(workflowID, "has been cancelled already")
	default:
		return badInput("operation %s has ended already: see katoflow op show %s", id, id)
	}
	said := "is being cancelled"
	if d.GetWorkflowExtendedInfo().GetCancelRequested() {
		said = "is being cancelled already"
	} else {
		text := "katoflow op cancel by " + c.who()
		if reason != "" {
			text += ": " + reason
		}
		err := s.CancelWorkflowWithOptions(dctx, client.CancelWorkflowOptions{WorkflowID: workflowID, Reason: operation.Shorten(text, 400)})
		switch {
		case errors.As(err, &notFound):
			return badInput("operation %s has ended meanwhile: see katoflow op show %s", id, id)
		case err != nil:
			return s.explain(err)
		}
	}
	if detach {
		return c.printVerb(workflowID, said)
	}
	c.say("operation %s %s: what may not be interrupted is finished first", id, said)
	report, code, err := c.watchToEnd(ctx, s, c.newWatcher(s, workflowID))
	if err != nil {
		return err
	}
	if err := c.printEnd(report); err != nil {
		return err
	}
	if code == exitCancelled {
		return nil
	}
	if code == exitDone {
		c.say("katoflow: operation %s was done before it could be cancelled", id)
	}
	return ending(code)
}
