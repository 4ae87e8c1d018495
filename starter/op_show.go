package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) opShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show OP",
		Short: "Show how an operation stands, node by node",
		Example: `  katoflow op show prod
  katoflow op show 20261122-104756-k3f9qa -o json
  katoflow op show latest`,
		Args:              exactly("OP"),
		ValidArgsFunction: c.completeOperations(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withOperation(cmd.Context(), args[0], false, func(s *server, workflowID string) error {
				report, err := c.snapshot(cmd.Context(), s, workflowID)
				if err != nil {
					return err
				}
				return c.printEnd(report)
			})
		},
	}
}

// snapshot is the report of a running or a closed operation. Where no worker answers it is what the server alone knows, with a warning.
func (c *cli) snapshot(ctx context.Context, s *server, workflowID string) (*operation.Report, error) {
	w := &watcher{server: s, workflowID: workflowID, now: c.now}
	closed, err := w.look(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, errGone):
		return nil, badInput("the server knows no operation %s", oneLine(workflowID))
	case closed:
		report, _, err := s.outcome(ctx, workflowID)
		if err != nil {
			return nil, s.explain(err)
		}
		return report, nil
	case err == nil:
		return w.last, nil
	}
	dctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, derr := s.DescribeWorkflowExecution(dctx, workflowID, "")
	if derr != nil {
		return nil, s.explain(derr)
	}
	report := skeleton(workflowID)
	if l, ok := listing(d.GetWorkflowExecutionInfo()); ok {
		report.Phase, report.RequestedBy = l.Phase, l.RequestedBy
	}
	report.StartedAt = d.GetWorkflowExecutionInfo().GetStartTime().AsTime().UTC().Format(time.RFC3339)
	report.Message = "no worker answers, so its nodes are not known: start katoflow-worker"
	c.say("katoflow: no worker answers for operation %s: %s", report.OperationID, oneLine(err.Error()))
	return report, nil
}
