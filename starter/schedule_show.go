package main

import (
	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) scheduleShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a schedule: what it starts and when, its last runs and how they ended",
		Example: `  katoflow schedule show nightly
  katoflow schedule show nightly -o json`,
		Args:              exactly("NAME"),
		ValidArgsFunction: c.completeSchedules(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return c.withSchedule(ctx, args[0], func(s *server, _ client.ScheduleHandle, is *client.ScheduleDescription) error {
				state, err := s.scheduleState(ctx, args[0], is, c.now())
				if err != nil {
					return err
				}
				s.addMessages(ctx, state)
				if zone, err := loadZone(state.TimeZone); err == nil && is.Schedule.Spec != nil {
					state.DaylightSaving = daylightSaving(is.Schedule.Spec.Calendars, zone, c.now())
				}
				return c.print(state, func() string { return view.Schedule(state.shown(c), c.style(c.out)) })
			})
		},
	}
}

// shown is a schedule with everything about it.
func (f *scheduleState) shown(c *cli) view.ScheduleDetails {
	d := view.ScheduleDetails{ScheduleRow: f.row(), Command: c.commandLine(f.ScheduleDefinition), Jitter: f.Jitter.D(), CatchUp: f.CatchUp.D(), Note: f.Note, Next: f.Next,
		DaylightSaving: f.DaylightSaving, Started: f.Started, AppliedBy: f.AppliedBy, CreatedAt: f.CreatedAt, UpdatedAt: f.UpdatedAt}
	if f.Running != nil {
		d.RunningID = f.Running.OperationID
	}
	for _, r := range f.Runs {
		d.Runs = append(d.Runs, view.ScheduleRun{ID: r.OperationID, Result: r.Result, StartedAt: r.StartedAt, Seconds: r.Seconds, Message: r.Message})
	}
	return d
}
