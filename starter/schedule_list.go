package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// longestMaxAge that can be asked for.
const longestMaxAge = 10 * 365 * 24 * time.Hour

func (c *cli) scheduleListCommand() *cobra.Command {
	var maxAge textFlag
	cmd := &cobra.Command{
		Use:   "list [NAME...]",
		Short: "List schedules: next time, last success and failure, runs that were missed",
		Long: fmt.Sprintf(`List all schedules, or those named: when they run next, how old the last success is, when a run last failed, and how many runs
were left out because the one before was not done, or because Temporal was down for longer than the catch-up window.

With --max-age the exit code is %d when a schedule's last success ended longer ago, or none is known, also where it is paused; each such
schedule is named on standard error. Temporal forgets runs after the namespace's retention, which must be longer than --max-age.`, exitTooOld),
		Example: `  katoflow schedule list
  katoflow schedule list -o json

  # for monitoring: a nightly run that fails twice is told
  katoflow schedule list nightly --max-age 26h`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: c.completeSchedules(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.listSchedules(cmd.Context(), args, &maxAge)
		},
	}
	durationFlag(cmd.Flags(), &maxAge, "max-age", "", fmt.Sprintf("exit code %d when a last success is older", exitTooOld))
	must(cmd.RegisterFlagCompletionFunc("max-age", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) listSchedules(ctx context.Context, names []string, maxAge *textFlag) error {
	var problems []string
	limit := maxAge.duration("max-age", longestMaxAge, &problems).D()
	if maxAge.text != "" && limit == 0 && len(problems) == 0 {
		problems = append(problems, "--max-age 0s: write how old a last success may be, such as 26h")
	}
	for _, n := range names {
		if err := operation.CheckScheduleName(n); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if len(problems) > 0 {
		return badInputs(problems)
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	named := len(names) > 0
	if !named {
		if names, err = s.scheduleNames(ctx); err != nil {
			return err
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	found := make([]*scheduleState, len(names))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, name := range names {
		group.Go(func() error {
			_, is, err := s.schedule(gctx, name)
			if err != nil {
				return err
			}
			if is == nil {
				if named {
					return s.noSchedule(gctx, name)
				}
				return nil // deleted a moment ago
			}
			found[i], err = s.scheduleState(gctx, name, is, c.now())
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(f *scheduleState) bool { return f == nil })
	var old []string
	for _, f := range found {
		f.Runs = nil
		if limit == 0 {
			continue
		}
		suffix := ""
		if f.Paused {
			suffix = "; it is paused"
			if f.Note != "" {
				suffix += ": " + f.Note
			}
		}
		switch {
		case f.LastSuccessAge == nil:
			old = append(old, fmt.Sprintf("schedule %s: no success is known%s", f.Name, suffix))
		case time.Duration(*f.LastSuccessAge)*time.Second > limit:
			old = append(old, fmt.Sprintf("schedule %s: its last success is %s old, more than %s%s", f.Name, view.Age(*f.LastSuccessAge), limit, suffix))
		default:
			continue
		}
		f.TooOld = true
	}
	if err := c.print(found, func() string {
		if len(found) == 0 {
			return "no schedules; make one with katoflow schedule apply\n"
		}
		rows := make([]view.ScheduleRow, len(found))
		for i, f := range found {
			rows[i] = f.row()
		}
		return view.Schedules(rows, c.style(c.out))
	}); err != nil {
		return err
	}
	if len(old) > 0 {
		return &failure{code: exitTooOld, lines: old}
	}
	return nil
}

// row is a schedule in a table.
func (f *scheduleState) row() view.ScheduleRow {
	r := view.ScheduleRow{Name: f.Name, Cluster: f.Cluster, Operation: f.Operation, When: when(f.ScheduleDefinition), TimeZone: f.TimeZone, Paused: f.Paused,
		Running: f.Running != nil, Age: f.LastSuccessAge, TooOld: f.TooOld, SkippedOverlap: f.SkippedOverlap, MissedCatchUp: f.MissedCatchUp}
	if len(f.Next) > 0 {
		r.Next = f.Next[0]
	}
	if f.LastSuccess != nil {
		r.LastSuccess = f.LastSuccess.EndedAt
	}
	if f.LastFailure != nil {
		r.LastFailure = f.LastFailure.EndedAt
	}
	return r
}
