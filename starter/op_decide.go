package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// decideFlags name the question that is answered.
type decideFlags struct {
	node, step, reason string
	try                int
}

func (c *cli) opDecideCommand() *cobra.Command {
	var f decideFlags
	decisions := []operation.Decision{operation.Retry, operation.Skip, operation.Abort, operation.Wait, operation.Degraded, operation.Leave, operation.Back, operation.Accept}
	cmd := &cobra.Command{
		Use:   "decide OP retry|skip|abort|wait|degraded|leave|back",
		Short: "Answer a question of an operation",
		Long: `Answer a question of an operation that is parked.

  retry      the failed step again
  skip       leave this node as it is and go on
  abort      start no further node, end in a safe state
  wait       look again whether it is well by now
  degraded   go on although a node is out of service
  leave      leave it as it is, the report names it
  back       put back what was moved, to where it was

Which of them a question takes is shown with it. --node, --step and --try say which question is meant and may be left out when
exactly one is open; an answer never hits another question than the one that was open when it was given.`,
		Example: `  katoflow op decide prod retry
  katoflow op decide prod skip --node dea-3 --reason "disk is being replaced"
  katoflow op decide 20261122-104756-k3f9qa --node dea-3 --step upgrade --try 2 abort`,
		Args: exactly("OP", "DECISION"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				words := make([]string, len(decisions))
				for i, d := range decisions {
					words[i] = string(d)
				}
				return words, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completeOperations(true)(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			decision := operation.Decision(args[1])
			if !slices.Contains(decisions, decision) {
				return badInput("decision %q: choose retry, skip, abort, wait, degraded, leave or back", operationName(args[1]))
			}
			if f.try < 0 {
				return badInput("--try %d: write the number that stands with the question", f.try)
			}
			return c.withOperation(cmd.Context(), args[0], true, func(s *server, workflowID string) error {
				return c.decide(cmd.Context(), s, workflowID, decision, f)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.node, "node", "", "node that the question is about, or cluster")
	flags.StringVar(&f.step, "step", "", "step that the question is about")
	flags.IntVar(&f.try, "try", 0, "try that the question is about")
	flags.StringVar(&f.reason, "reason", "", "why, for the report")
	for _, name := range []string{"node", "step", "try", "reason"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return cmd
}

func (c *cli) decide(ctx context.Context, s *server, workflowID string, decision operation.Decision, f decideFlags) error {
	report, err := s.current(ctx, workflowID)
	if err != nil {
		return err
	}
	q, err := chooseQuestion(report, f)
	if err != nil {
		if a := f.answered(report, decision); a != nil {
			return c.printVerb(workflowID, fmt.Sprintf("%s, step %s, try %d was answered already: %s", a.Node, a.Step, a.Try, a.Decision))
		}
		return err
	}
	request := operation.DecideRequest{Node: q.Node, Step: q.Step, Try: q.Try, Decision: decision, Reason: f.reason, Who: c.who()}
	if err := q.Check(request); err != nil {
		return badInput("%s, step %s, try %d: %s", oneLine(q.Node), oneLine(q.Step), q.Try, oneLine(err.Error()))
	}
	// The same answer to the same question is one update, however often it is sent; a question that is asked again is another one.
	updateID := fmt.Sprintf("%s-%s-%s-%s", operation.UpdateDecide, q.Key(), q.AskedAt, decision)
	if err := s.update(ctx, workflowID, operation.UpdateDecide, updateID, request); err != nil {
		return err
	}
	return c.printVerb(workflowID, fmt.Sprintf("%s, step %s, try %d: %s", q.Node, q.Step, q.Try, decision))
}

// chooseQuestion is the one open question that the flags describe.
func chooseQuestion(r *operation.Report, f decideFlags) (operation.Question, error) {
	var fitting []operation.Question
	for _, q := range r.Questions {
		if (f.node == "" || f.node == q.Node) && (f.step == "" || f.step == q.Step) && (f.try == 0 || f.try == q.Try) {
			fitting = append(fitting, q)
		}
	}
	switch {
	case len(fitting) == 1:
		return fitting[0], nil
	case len(r.Questions) == 0:
		return operation.Question{}, badInput("operation %s asks nothing at the moment (%s)", oneLine(r.OperationID), oneLine(r.Phase))
	}
	err := &failure{code: exitBadInput}
	if len(fitting) == 0 {
		err.lines = append(err.lines, "no open question fits "+f.words()+"; open are:")
		fitting = r.Questions
	} else {
		err.lines = append(err.lines, fmt.Sprintf("%d questions are open: say which one with --node, --step and --try:", len(fitting)))
	}
	for _, q := range fitting {
		err.lines = append(err.lines, "  "+view.DecideCommand(r.OperationID, q))
	}
	return operation.Question{}, err
}

// answered finds the same decision among the answers already given, so that a repeated command is not an error.
func (f decideFlags) answered(r *operation.Report, decision operation.Decision) *operation.Answer {
	if f.node == "" || f.step == "" || f.try == 0 {
		return nil
	}
	for i := len(r.Answers) - 1; i >= 0; i-- {
		if a := &r.Answers[i]; a.Node == f.node && a.Step == f.step && a.Try == f.try && a.Decision == decision {
			return a
		}
	}
	return nil
}

func (f decideFlags) words() string {
	var words []string
	if f.node != "" {
		words = append(words, "--node "+operationName(f.node))
	}
	if f.step != "" {
		words = append(words, "--step "+operationName(f.step))
	}
	if f.try != 0 {
		words = append(words, fmt.Sprintf("--try %d", f.try))
	}
	return strings.Join(words, " ")
}
