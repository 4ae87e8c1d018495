package main

import (
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) opPauseCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause OP",
		Short: "Hold an operation before its next node, step or app",
		Long:  "Hold an operation before its next node; an export before its next step, an operation on apps before the next app. What is in work is finished first.",
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
				_, kind, _, _ := operation.ParseWorkflowID(workflowID)
				return c.printVerb(workflowID, "paused before "+operation.PausesBefore(kind)+"; what is in work is finished")
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the report")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}
