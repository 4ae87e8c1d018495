package main

import (
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) opPauseCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause OP",
		Short: "Hold an operation before its next node",
		Long:  "Hold an operation before its next node. Nodes in work are finished first.",
		Example: `  katoflow op pause prod
  katoflow op pause prod --reason "release at noon"`,
		Args:              exactly("OP"),
		ValidArgsFunction: c.completeOperations(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withOperation(cmd.Context(), args[0], true, func(s *server, workflowID string) error {
				request := operation.PauseRequest{Who: c.who(), Reason: reason}
				if err := s.update(cmd.Context(), workflowID, operation.UpdatePause, updateOnce(operation.UpdatePause), request); err != nil {
					return err
				}
				return c.printVerb(workflowID, "paused before its next node; nodes in work are finished")
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the report")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}
