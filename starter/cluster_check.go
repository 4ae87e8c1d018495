package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) clusterCheckCommand() *cobra.Command {
	var path, queue string
	cmd := &cobra.Command{
		Use:   "check CLUSTER",
		Short: "Ask every node whether it is ready, without changing anything",
		Long: `Check the local inventory file if there is one, then let the worker ask every node of the cluster what the preflight of an
operation would ask: login, host key, tools, sudo, space, locks, gates. All problems are listed; nothing is changed.`,
		Example: `  katoflow cluster check prod
  katoflow cluster check prod --inventory clusters.yaml -o json`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&path),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.clusterCheck(cmd.Context(), args[0], path, queue)
		},
	}
	c.inventoryFlag(cmd.Flags(), &path)
	cmd.Flags().StringVar(&queue, "task-queue", operation.DefaultTaskQueue, "task queue of the worker that reaches the cluster")
	must(cmd.RegisterFlagCompletionFunc("task-queue", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) clusterCheck(ctx context.Context, cluster, path, queue string) error {
	if err := checkCluster(cluster); err != nil {
		return badInput("%s", err.Error())
	}
	in := operation.Request{OperationID: newID(c.now()), Cluster: cluster, RequestedBy: c.who(), DryRun: true}
	local, err := c.localCluster(path, cluster)
	if err != nil {
		return err
	}
	if local != nil {
		in.InventoryDigest = local.Digest()
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, queue); err != nil {
		return err
	}
	workflowID := operation.WorkflowID(cluster, operation.KindClusterCheck, in.OperationID)
	options := startOptions(workflowID, queue, cluster, operation.KindClusterCheck, in.RequestedBy, "Check of "+cluster, "")
	report := &operation.Report{}
	code := exitDone
	if err := s.runShort(ctx, options, operation.WorkflowClusterCheck, in, report); err != nil {
		var closed *temporal.WorkflowExecutionError
		if !errors.As(err, &closed) {
			return c.failed(ctx, s, workflowID, err)
		}
		report, code = interpret(closed, workflowID)
	}
	if code == exitDone || c.output != "table" {
		if err := c.print(report, func() string { return view.Check(report, c.style(c.out)) }); err != nil {
			return err
		}
	}
	if code != exitDone {
		return &failure{code: code, lines: view.FailureLines(report.Failure)}
	}
	return nil
}
