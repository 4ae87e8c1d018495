package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) opCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "op",
		Aliases: []string{"operation"},
		Short:   "List, watch and answer operations",
		Long: `List, show, watch, pause and answer operations.

OP is an operation's id, its whole workflow id, the name of a cluster (its running operation; for show and watch else its
last one), or "latest".`,
		Example: `  katoflow op list
  katoflow op watch prod
  katoflow op decide prod retry`,
	})
	cmd.AddCommand(c.opListCommand(), c.opShowCommand(), c.opWatchCommand(), c.opPauseCommand(), c.opResumeCommand(),
		c.opDecideCommand(), c.opSetBatchCommand(), c.opCancelCommand())
	return cmd
}

// withOperation connects and finds the operation that a person calls op.
func (c *cli) withOperation(ctx context.Context, op string, open bool, do func(s *server, workflowID string) error) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	workflowID, err := s.find(ctx, op, open)
	if err != nil {
		return err
	}
	return do(s, workflowID)
}

// Times of an update.
const (
	updateTimeout = time.Minute
	updateRetry   = time.Second
)

// update sends an update and waits until it has been carried out. With the same updateID it is carried out once, however often it is sent.
func (s *server) update(ctx context.Context, workflowID, name, updateID string, arg any) error {
	_, _, id, _ := operation.ParseWorkflowID(workflowID)
	ctx, cancel := context.WithTimeoutCause(ctx, updateTimeout, errNoAnswer)
	defer cancel()
	var outage error
	for {
		handle, err := s.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: workflowID, UpdateName: name, UpdateID: updateID, Args: []any{arg}, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
		if err == nil {
			err = handle.Get(ctx, nil)
		}
		var (
			app      *temporal.ApplicationError
			notFound *serviceerror.NotFound
			timeout  *client.WorkflowUpdateServiceTimeoutOrCanceledError
		)
		switch {
		case err == nil:
			return nil
		case errors.As(err, &app):
			return badInput("%s", oneLine(app.Message()))
		case errors.As(err, &notFound):
			return badInput("operation %s has ended already: see katoflow op show %s", id, id)
		case errors.Is(context.Cause(ctx), errNoAnswer):
			if outage != nil {
				return s.explain(outage)
			}
			return fail(exitNoWorker, "no worker has taken the %s of operation %s within %s: is katoflow-worker running? It may still be carried out later", name, id, updateTimeout)
		case ctx.Err() != nil:
			return ctx.Err()
		case !unreachable(err) && !errors.As(err, &timeout):
			return s.explain(err)
		}
		outage = err
		select {
		case <-ctx.Done():
		case <-time.After(updateRetry):
		}
	}
}

var errNoAnswer = errors.New("nobody answered")

// updateOnce is an id for an update that may be wanted again later, such as a second pause: every run of the command is one.
func updateOnce(name string) string { return name + "-" + strings.ToLower(rand.Text()) }

// verbResult is what a verb prints.
type verbResult struct {
	OperationID string `json:"operationId"`
	WorkflowID  string `json:"workflowId"`
	Result      string `json:"result"`
}

func (c *cli) printVerb(workflowID, result string) error {
	_, _, id, _ := operation.ParseWorkflowID(workflowID)
	return c.print(verbResult{OperationID: id, WorkflowID: workflowID, Result: result}, func() string {
		return fmt.Sprintf("operation %s: %s\n", oneLine(id), oneLine(result))
	})
}

// current asks the running operation for its report; a clear error when nobody answers.
func (s *server) current(ctx context.Context, workflowID string) (*operation.Report, error) {
	_, _, id, _ := operation.ParseWorkflowID(workflowID)
	qctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	report, closed, err := s.ask(qctx, workflowID)
	switch {
	case errors.Is(err, errGone):
		return nil, badInput("the server knows no operation %s", oneLine(workflowID))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		dctx, cancel := context.WithTimeout(ctx, describeTimeout)
		defer cancel()
		if _, derr := s.DescribeWorkflowExecution(dctx, workflowID, ""); derr != nil {
			return nil, s.explain(derr)
		}
		return nil, fail(exitNoWorker, "no worker answers for operation %s: start katoflow-worker (%s)", id, oneLine(err.Error()))
	case closed:
		return nil, badInput("operation %s has ended already: see katoflow op show %s", id, id)
	}
	return report, nil
}
