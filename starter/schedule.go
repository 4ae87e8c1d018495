package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/operation"
)

func (c *cli) scheduleCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "schedule",
		Short: "Start operations at set times",
		Long: `Start operations at set times. A schedule lives in Temporal: it needs no machine of its own, and outlives this one.

A run is an operation like any other: it stands in katoflow op list, and is watched and answered in the same way. While a run goes
on, the next ones are left out. Nobody is there to answer a scheduled run: a question stays open for 15 minutes (--answer-within),
then the run is aborted and has failed. A run that fails does not pause its schedule.`,
		Example: `  katoflow schedule apply nightly --cron "0 3 * * *" --time-zone Europe/Paris -- upgrade security prod
  katoflow schedule list --max-age 26h
  katoflow schedule pause nightly --reason "data centre move"`,
	})
	cmd.AddCommand(c.scheduleApplyCommand(), c.scheduleListCommand(), c.scheduleShowCommand(), c.schedulePauseCommand(), c.scheduleResumeCommand(),
		c.scheduleTriggerCommand(), c.scheduleDeleteCommand())
	return cmd
}

// withSchedule checks the name, connects, and finds the schedule.
func (c *cli) withSchedule(ctx context.Context, name string, do func(s *server, h client.ScheduleHandle, is *client.ScheduleDescription) error) error {
	if err := operation.CheckScheduleName(name); err != nil {
		return badInput("%s", err)
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	h, is, err := s.schedule(ctx, name)
	if err != nil {
		return err
	}
	if is == nil {
		return s.noSchedule(ctx, name)
	}
	return do(s, h, is)
}

// schedule describes a schedule; the description is nil when there is none of that name.
func (s *server) schedule(ctx context.Context, name string) (client.ScheduleHandle, *client.ScheduleDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	h := s.ScheduleClient().GetHandle(ctx, operation.ScheduleID(name))
	is, err := h.Describe(ctx)
	if isNotFound(err) {
		return h, nil, nil
	}
	if err != nil {
		return nil, nil, s.explain(err)
	}
	return h, is, nil
}

func isNotFound(err error) bool {
	var notFound *serviceerror.NotFound
	return errors.As(err, &notFound)
}

// noSchedule says that there is none of that name, and which there are.
func (s *server) noSchedule(ctx context.Context, name string) error {
	names, err := s.scheduleNames(ctx)
	if err != nil || len(names) == 0 {
		return badInput("there is no schedule %q; make one with katoflow schedule apply", operationName(name))
	}
	const most = 12
	more := ""
	if len(names) > most {
		names, more = names[:most], ", ..."
	}
	return badInput("there is no schedule %q; there are %s%s", operationName(name), strings.Join(names, ", "), more)
}

// scheduleNames are the names of katoflow's schedules in the namespace, sorted. One that was made a moment ago may be missing.
func (s *server) scheduleNames(ctx context.Context) ([]string, error) {
	all, err := s.ScheduleClient().List(ctx, client.ScheduleListOptions{PageSize: 200})
	if err != nil {
		return nil, s.explain(err)
	}
	var names []string
	for all.HasNext() {
		entry, err := all.Next()
		if err != nil {
			return nil, s.explain(err)
		}
		if name, ours := operation.ScheduleName(entry.ID); ours {
			names = append(names, oneLine(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// completeSchedules offers the names of the schedules, for as many arguments as most; 0 is any number.
func (c *cli) completeSchedules(most int) cobra.CompletionFunc {
	return c.completeFromServer(most, cobra.ShellCompDirectiveDefault, func(ctx context.Context, s *server, args []string) ([]string, error) {
		names, err := s.scheduleNames(ctx)
		return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) }), err
	})
}
