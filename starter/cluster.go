package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) clusterCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "cluster",
		Short: "Check, show and trust the nodes of a cluster",
		Example: `  katoflow cluster status prod
  katoflow cluster show --inventory clusters.yaml
  katoflow cluster check prod
  katoflow cluster trust prod`,
	})
	cmd.AddCommand(c.clusterCheckCommand(), c.clusterShowCommand(), c.clusterStatusCommand(), c.clusterTrustCommand())
	return cmd
}

// runShort starts a workflow that ends soon and waits for its result, through outages of the server.
func (s *server) runShort(ctx context.Context, options client.StartWorkflowOptions, workflow string, in, out any) error {
	run, err := s.ExecuteWorkflow(ctx, options, workflow, in)
	if err != nil {
		return s.explain(err)
	}
	for {
		err := run.Get(ctx, out)
		var closed *temporal.WorkflowExecutionError
		if err == nil || ctx.Err() != nil || errors.As(err, &closed) || !unreachable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// failureLine is what a short workflow failed with.
func (c *cli) failed(ctx context.Context, s *server, workflowID string, err error) error {
	if ctx.Err() != nil {
		return &failure{code: exitInterrupted, lines: []string{"interrupted: " + workflowID + " ends by itself"}}
	}
	var closed *temporal.WorkflowExecutionError
	if !errors.As(err, &closed) {
		return s.explain(err)
	}
	f := operation.FailureOf(closed)
	lines := f.Problems
	if len(lines) == 0 {
		lines = []string{f.Message}
	}
	out := &failure{code: codeOfType(f.Type)}
	for _, l := range lines {
		out.lines = append(out.lines, oneLine(l))
	}
	return out
}
