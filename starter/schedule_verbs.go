package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/operation"
)

// scheduleResult is what a verb prints.
type scheduleResult struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	// OperationID and WorkflowID of the run that was triggered, or that goes on.
	OperationID string `json:"operationId,omitempty"`
	WorkflowID  string `json:"workflowId,omitempty"`
}

func (c *cli) printScheduleVerb(r scheduleResult) error {
	return c.print(r, func() string { return fmt.Sprintf("schedule %s %s\n", oneLine(r.Name), oneLine(r.Result)) })
}

// mostReason is how long the note of a pause may be, in bytes.
const mostReason = 400

func (c *cli) schedulePauseCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause NAME",
		Short: "Start nothing more until the schedule is resumed",
		Long:  "Pause a schedule: it starts nothing more until it is resumed, whatever is applied meanwhile. A run that goes on goes on.",
		Example: `  katoflow schedule pause nightly --reason "data centre move until Monday"
  katoflow schedule resume nightly`,
		Args:              exactly("NAME"),
		ValidArgsFunction: c.completeSchedules(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, name := cmd.Context(), args[0]
			return c.withSchedule(ctx, name, func(s *server, h client.ScheduleHandle, is *client.ScheduleDescription) error {
				paused := isPaused(is)
				if paused && reason == "" {
					return c.printScheduleVerb(scheduleResult{Name: name, Result: strings.TrimSuffix("is paused already: "+stateNote(is), ": ")})
				}
				note := "paused by " + c.who()
				if reason != "" {
					note += ": " + oneLine(reason)
				}
				if err := h.Pause(ctx, client.SchedulePauseOptions{Note: operation.Shorten(note, mostReason)}); err != nil {
					return s.explain(err)
				}
				if paused {
					return c.printScheduleVerb(scheduleResult{Name: name, Result: "was paused already; the reason is new"})
				}
				return c.printScheduleVerb(scheduleResult{Name: name, Result: "is paused"})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, shown with the schedule")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) scheduleResumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "resume NAME",
		Short:             "End a pause",
		Long:              "End a pause. What would have run meanwhile is not made up for: katoflow schedule trigger starts a run now.",
		Example:           "  katoflow schedule resume nightly",
		Args:              exactly("NAME"),
		ValidArgsFunction: c.completeSchedules(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, name := cmd.Context(), args[0]
			return c.withSchedule(ctx, name, func(s *server, h client.ScheduleHandle, is *client.ScheduleDescription) error {
				if !isPaused(is) {
					return c.printScheduleVerb(scheduleResult{Name: name, Result: "is not paused"})
				}
				if err := h.Unpause(ctx, client.ScheduleUnpauseOptions{Note: "resumed by " + c.who()}); err != nil {
					return s.explain(err)
				}
				return c.printScheduleVerb(scheduleResult{Name: name, Result: "is resumed"})
			})
		},
	}
}

func (c *cli) scheduleDeleteCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use:   "delete NAME --confirm NAME",
		Short: "Delete a schedule; its runs are not touched",
		Long: `Delete a schedule. What has run stays in katoflow op list, and a run that goes on goes on. The name must be given again with --confirm.

To stop a schedule for a while, pause it.`,
		Example:           "  katoflow schedule delete nightly --confirm nightly",
		Args:              exactly("NAME"),
		ValidArgsFunction: c.completeSchedules(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, name := cmd.Context(), args[0]
			if err := operation.CheckScheduleName(name); err != nil {
				return badInput("%s", err)
			}
			switch confirm {
			case name:
			case "":
				return badInput("schedule %s is not deleted: confirm it with --confirm %s", name, name)
			default:
				return badInput("--confirm %q is not the name of the schedule, which is %s: nothing is deleted", operationName(confirm), name)
			}
			return c.withSchedule(ctx, name, func(s *server, h client.ScheduleHandle, is *client.ScheduleDescription) error {
				if err := h.Delete(ctx); err != nil && !isNotFound(err) {
					return s.explain(err)
				}
				r := scheduleResult{Name: name, Result: "is deleted"}
				if going := is.Info.RunningWorkflows; len(going) > 0 {
					r.WorkflowID, r.OperationID = going[0].WorkflowID, operation.IDFromWorkflow(going[0].WorkflowID)
					r.Result += "; its run " + r.OperationID + " goes on"
				}
				return c.printScheduleVerb(r)
			})
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the schedule's name again")
	must(cmd.RegisterFlagCompletionFunc("confirm", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) scheduleTriggerCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "trigger NAME",
		Short: "Start a run now",
		Long: `Start a run of a schedule now, also where it is paused. The run is as every other of its runs. Where one goes on already nothing is started and the
exit code is 6.

With --wait the run is watched and its exit code is the command's; Ctrl-C ends the watching only.`,
		Example: `  katoflow schedule trigger nightly
  katoflow schedule trigger nightly --wait`,
		Args:              exactly("NAME"),
		ValidArgsFunction: c.completeSchedules(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, name := cmd.Context(), args[0]
			return c.withSchedule(ctx, name, func(s *server, h client.ScheduleHandle, is *client.ScheduleDescription) error {
				return c.trigger(ctx, s, h, is, name, wait)
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "watch the run until it ends")
	return cmd
}

// runsApart is how long after one run the next may be triggered.
const runsApart = 1100 * time.Millisecond

// triggerPatience is how long a triggered run may take to be started.
const triggerPatience = 30 * time.Second

func (c *cli) trigger(ctx context.Context, s *server, h client.ScheduleHandle, before *client.ScheduleDescription, name string, wait bool) error {
	if going := before.Info.RunningWorkflows; len(going) > 0 {
		id := operation.IDFromWorkflow(going[0].WorkflowID)
		return fail(exitBusy, "schedule %s was not triggered: its run %s goes on; see katoflow op watch %s", name, id, id)
	}
	if action, ok := before.Schedule.Action.(*client.ScheduleWorkflowAction); ok {
		if err := s.requireWorker(ctx, action.TaskQueue); err != nil {
			return err
		}
	}
	known := map[client.ScheduleWorkflowExecution]bool{}
	for _, a := range before.Info.RecentActions {
		// Temporal tells the runs apart by the second: two in the same one would be the same workflow.
		if since := c.now().Sub(a.ActualTime); since.Abs() < runsApart {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(runsApart - since):
			}
		}
		if a.StartWorkflowResult != nil {
			known[*a.StartWorkflowResult] = true
		}
	}
	if err := h.Trigger(ctx, client.ScheduleTriggerOptions{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP}); err != nil {
		return s.explain(err)
	}
	workflowID := ""
	for deadline := time.Now().Add(triggerPatience); workflowID == ""; {
		dctx, cancel := context.WithTimeout(ctx, updateTimeout)
		is, err := h.Describe(dctx)
		cancel()
		switch {
		case ctx.Err() != nil:
			return &failure{code: exitInterrupted, lines: []string{"interrupted: schedule " + name + " has been triggered, see katoflow schedule show " + name}}
		case err != nil && !unreachable(err):
			return s.explain(err)
		case err == nil && is.Info.NumActionsSkippedOverlap > before.Info.NumActionsSkippedOverlap:
			return fail(exitBusy, "schedule %s was not triggered: a run was started a moment before; see katoflow schedule show %s", name, name)
		case err == nil:
			for _, a := range is.Info.RecentActions {
				if r := a.StartWorkflowResult; r != nil && !known[*r] {
					workflowID = r.WorkflowID
				}
			}
		}
		if workflowID == "" && time.Now().After(deadline) {
			return fail(exitError, "schedule %s has been triggered, and no run was started within %s: see katoflow schedule show %s, and whether Temporal's own workers run", name, triggerPatience, name)
		}
		if workflowID == "" {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	id := operation.IDFromWorkflow(workflowID)
	if wait {
		w := c.newWatcher(s, workflowID)
		w.starting = true
		c.say("katoflow: schedule %s has started operation %s", name, id)
		return c.follow(ctx, s, w)
	}
	return c.print(scheduleResult{Name: name, Result: "triggered", OperationID: id, WorkflowID: workflowID}, func() string {
		return fmt.Sprintf("schedule %s has started operation %s\nworkflow %s\nwatch it with: katoflow op watch %s\n", name, id, workflowID, id)
	})
}
