package main

import (
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) opResumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "resume OP",
		Short:             "Let a paused operation go on",
		Example:           "  katoflow op resume prod",
		Args:              exactly("OP"),
		ValidArgsFunction: c.completeOperations(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withOperation(cmd.Context(), args[0], true, func(s *server, workflowID string) error {
				request := operation.ResumeRequest{Who: c.who()}
				if err := s.update(cmd.Context(), workflowID, operation.UpdateResume, updateOnce(operation.UpdateResume), request); err != nil {
					return err
				}
				return c.printVerb(workflowID, "goes on")
			})
		},
	}
}
