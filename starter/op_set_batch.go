package main

import (
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) opSetBatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set-batch OP N|P%",
		Short: "Change how many nodes are worked on at once",
		Long:  "Change how many nodes may be out of service at once, from the next node on.",
		Example: `  katoflow op set-batch prod 3
  katoflow op set-batch prod 25%`,
		Args:              exactly("OP", "N|P%"),
		ValidArgsFunction: c.completeOperations(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			batch, err := operation.ParseBatch(args[1])
			if err != nil || args[1] == "" {
				return badInput("batch %q: write a number of nodes from 1 (\"3\") or a percentage from 1%% to 100%% (\"25%%\")", operationName(args[1]))
			}
			return c.withOperation(cmd.Context(), args[0], true, func(s *server, workflowID string) error {
				request := operation.SetBatchRequest{Batch: batch.String(), Who: c.who()}
				if err := s.update(cmd.Context(), workflowID, operation.UpdateSetBatch, updateOnce(operation.UpdateSetBatch), request); err != nil {
					return err
				}
				return c.printVerb(workflowID, "batch "+batch.String()+" from the next node on")
			})
		},
	}
}
