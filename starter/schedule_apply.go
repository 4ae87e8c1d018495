package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// applyFlags are the flags of `schedule apply` as they were written.
type applyFlags struct {
	file, cluster, zone, inventory string
	cron                           []string
	jitter, catchUp                textFlag
	paused, dryRun                 bool
}

// nextShown is how many of the next times are shown.
const nextShown = 5

func (c *cli) scheduleApplyCommand() *cobra.Command {
	var f applyFlags
	cmd := &cobra.Command{
		Use:   "apply NAME --cron CRON [flags] -- OPERATION CLUSTER [its flags] | apply -f FILE",
		Short: "Make schedules, or change them to what is asked for",
		Long: `Make a schedule from flags, or schedules from a file, or change those that are there. Applying again changes nothing. Schedules that are
not in the file stay as they are. A schedule that an operator has paused stays paused.

Behind -- stands the operation as it would be started by hand. Everything is checked before anything is written; with an inventory
file the clusters, nodes and roles too.

Cron has five fields: minute, hour, day of month, month, day of week. Where both days are limited, both must match.`,
		Example: `  # every night at three, within five minutes, by the clock of Paris
  katoflow schedule apply nightly --cron "0 3 * * *" --time-zone Europe/Paris --jitter 5m -- upgrade security prod --reboot if-required

  # on Saturdays; a question stays open for two hours, and a busy cluster is waited for
  katoflow schedule apply weekly --cron "30 4 * * sat" -- upgrade security prod --answer-within 2h --wait=3h

  # what would be changed, and the next times; nothing is written
  katoflow schedule apply -f schedules.yaml --dry-run`,
		ValidArgsFunction: c.completeApply,
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := c.wantedSchedules(cmd, args, &f)
			if err != nil {
				return err
			}
			return c.applySchedules(cmd.Context(), wanted, f.dryRun)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "YAML file with a list of schedules, - for standard input")
	flags.StringVar(&f.cluster, "cluster", "", "the cluster, where it does not stand behind --")
	flags.StringArrayVar(&f.cron, "cron", nil, `when, in five fields, such as "0 3 * * *"; may be given several times`)
	flags.StringVar(&f.zone, "time-zone", "", "IANA name of the zone in which the times are meant (default UTC)")
	durationFlag(flags, &f.jitter, "jitter", "", "begin by chance up to so much later (default 0s)")
	durationFlag(flags, &f.catchUp, "catch-up", "", "how late a run may begin after an outage of Temporal (default 6h)")
	flags.BoolVar(&f.paused, "paused", false, "a schedule that is made now begins paused")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be changed and the next times, write nothing")
	c.inventoryFlag(flags, &f.inventory)
	must(cmd.RegisterFlagCompletionFunc("cluster", c.completeClusters(&f.inventory)))
	must(cmd.MarkFlagFilename("file", "yaml", "yml"))
	for _, name := range []string{"cron", "time-zone", "jitter", "catch-up"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return cmd
}

// completeApply offers the names of schedules first, behind -- the operations.
func (c *cli) completeApply(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeSchedules(1)(cmd, args, toComplete)
	}
	var words []string
	for _, s := range schedulables() {
		parts := strings.Fields(s.command)
		if n := len(args) - 1; n < len(parts) && strings.Join(parts[:n], " ") == strings.Join(args[1:], " ") {
			words = append(words, parts[n])
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// wantedSchedules reads and checks everything; nothing was touched when it fails.
func (c *cli) wantedSchedules(cmd *cobra.Command, args []string, f *applyFlags) ([]*wantedSchedule, error) {
	path := c.inventoryPath(f.inventory)
	if path != "" { // told once, not for every schedule
		if _, err := inventory.Load(path); err != nil {
			return nil, err
		}
	}
	if cmd.Flags().Changed("file") {
		var problems []string
		for _, name := range []string{"cluster", "cron", "time-zone", "jitter", "catch-up", "paused"} {
			if cmd.Flags().Changed(name) {
				problems = append(problems, fmt.Sprintf("--%s cannot be given with --file: it stands in the file", name))
			}
		}
		if len(args) > 0 {
			problems = append(problems, fmt.Sprintf("argument %q is one too many with --file", operationName(args[0])))
		}
		if len(problems) > 0 {
			return nil, badInputs(problems)
		}
		return c.loadSchedules(f.file, f.inventory)
	}
	w, err := c.scheduleFromFlags(cmd, args, f)
	if err != nil {
		return nil, err
	}
	return []*wantedSchedule{w}, nil
}

// scheduleFromFlags reads NAME [flags] -- OPERATION [CLUSTER] [its flags].
func (c *cli) scheduleFromFlags(cmd *cobra.Command, args []string, f *applyFlags) (*wantedSchedule, error) {
	const usage = `katoflow schedule apply NAME --cron "0 3 * * *" -- upgrade security CLUSTER`
	dash := cmd.ArgsLenAtDash()
	switch {
	case len(args) == 0 || dash == 0:
		return nil, badInput("NAME is missing: %s, or -f FILE; see %s --help", usage, cmd.CommandPath())
	case dash < 0 && len(args) > 1:
		return nil, badInput("argument %q: the operation stands behind --: %s", operationName(args[1]), usage)
	case dash < 0 || dash == len(args):
		return nil, badInput("the operation is missing: %s", usage)
	case dash > 1:
		return nil, badInput("argument %q is one too many before --: %s", operationName(args[1]), usage)
	}
	words := args[dash:]
	if words[0] == "katoflow" {
		words = words[1:]
	}
	kind, rest, err := kindOf(words)
	if err != nil {
		return nil, badInput("%s", err)
	}
	options := kind.newOptions(c, f.inventory)
	others, err := options.parse(rest)
	if err != nil {
		return nil, err
	}
	d := operation.ScheduleDefinition{Name: args[0], Cluster: f.cluster, Cron: f.cron, TimeZone: f.zone}
	var problems []string
	note := func(problem string) { problems = append(problems, problem) }
	if len(others) > 0 {
		if f.cluster != "" && f.cluster != others[0] {
			note(fmt.Sprintf("--cluster %s and %s are not the same cluster", operationName(f.cluster), operationName(others[0])))
		}
		d.Cluster = others[0]
	}
	if len(others) > 1 {
		note(fmt.Sprintf("argument %q is one too many: %s", operationName(others[1]), usage))
	}
	if cmd.Flags().Changed("time-zone") && f.zone == "" {
		note("--time-zone is empty: write an IANA name such as Europe/Paris, or UTC")
	}
	w := want(d, f.jitter.text, f.catchUp.text, f.paused, options, func(_ schedulePart, problem string) { note(problem) })
	return w, badInputs(problems)
}

// kindOf finds the operation whose command words begins with.
func kindOf(words []string) (schedulable, []string, error) {
	for _, s := range schedulables() {
		n := len(strings.Fields(s.command))
		if len(words) >= n && strings.Join(words[:n], " ") == s.command {
			return s, words[n:], nil
		}
	}
	begin := words
	for i, w := range words {
		if strings.HasPrefix(w, "-") || i == 2 {
			begin = words[:i]
			break
		}
	}
	_, err := kindNamed(strings.Join(begin, " "))
	return schedulable{}, nil, err
}

// Results of applying.
const (
	scheduleCreated   = "created"
	scheduleUpdated   = "updated"
	scheduleUnchanged = "unchanged"
)

// applied is what became of one schedule.
type applied struct {
	Name      string `json:"name"`
	Cluster   string `json:"cluster"`
	Operation string `json:"operation"`
	// Result is created, updated or unchanged; with DryRun what it would be.
	Result  string   `json:"result"`
	DryRun  bool     `json:"dryRun,omitempty"`
	Changes []string `json:"changes,omitempty"`
	Paused  bool     `json:"paused,omitempty"`
	Note    string   `json:"note,omitempty"`
	// Next times, RFC 3339 in the schedule's zone, without jitter.
	Next     []string `json:"next"`
	Warnings []string `json:"warnings,omitempty"`
}

func (c *cli) applySchedules(ctx context.Context, wanted []*wantedSchedule, dryRun bool) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	results := []applied{}
	for _, w := range wanted {
		r, err := c.applySchedule(ctx, s, w, dryRun)
		if err != nil {
			if len(results) > 0 {
				if perr := c.printApplied(results); perr != nil {
					return perr
				}
			}
			f := asFailure(err)
			return &failure{code: f.code, lines: []string{fmt.Sprintf("schedule %s was not applied: %s", w.Name, strings.Join(f.lines, "; "))}}
		}
		results = append(results, r)
	}
	if err := c.printApplied(results); err != nil {
		return err
	}
	told := map[string]bool{}
	for _, w := range wanted {
		if queue := w.operation.queue; !told[queue] {
			told[queue] = true
			if err := s.requireWorker(ctx, queue); err != nil {
				c.say("katoflow: warning: %s", strings.Join(asFailure(err).lines, "; "))
			}
		}
	}
	return nil
}

func (c *cli) printApplied(results []applied) error {
	return c.print(results, func() string {
		rows := make([]view.AppliedRow, len(results))
		for i, r := range results {
			rows[i] = view.AppliedRow{Name: r.Name, Result: r.Result, DryRun: r.DryRun, Changes: r.Changes, Paused: r.Paused, Note: r.Note, Next: r.Next, Warnings: r.Warnings}
		}
		return view.Applied(rows, c.style(c.out))
	})
}

// applySchedule makes or changes one schedule, or only says what it would do.
func (c *cli) applySchedule(ctx context.Context, s *server, w *wantedSchedule, dryRun bool) (applied, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	out := applied{Name: w.Name, Cluster: w.Cluster, Operation: w.Operation, DryRun: dryRun, Next: w.next(c.now()), Warnings: w.warnings()}
	for {
		h, is, err := s.schedule(ctx, w.Name)
		if err != nil {
			return out, err
		}
		if is == nil {
			out.Result, out.Paused = scheduleCreated, w.paused
			if dryRun {
				return out, nil
			}
			err := c.createSchedule(ctx, s, w)
			if errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
				continue // somebody else has just made it
			}
			if err != nil {
				return out, s.explain(err)
			}
			return out, nil
		}
		out.Changes = w.changes(is)
		out.Paused, out.Note = isPaused(is), stateNote(is)
		if len(out.Changes) == 0 {
			out.Result = scheduleUnchanged
			return out, nil
		}
		out.Result = scheduleUpdated
		if dryRun {
			return out, nil
		}
		err = h.Update(ctx, client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			next := in.Description.Schedule // with its state: an operator's pause is not ours to end
			next.Spec, next.Action, next.Policy = w.spec(), w.action(c.who()), w.policies()
			return &client.ScheduleUpdate{Schedule: &next}, nil
		}})
		if isNotFound(err) {
			continue // somebody has just deleted it
		}
		if err != nil {
			return out, s.explain(err)
		}
		return out, nil
	}
}

func (c *cli) createSchedule(ctx context.Context, s *server, w *wantedSchedule) error {
	note := ""
	if w.paused {
		note = "made paused by " + c.who()
	}
	policies := w.policies()
	_, err := s.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID: operation.ScheduleID(w.Name), Spec: *w.spec(), Action: w.action(c.who()), Overlap: policies.Overlap, CatchupWindow: policies.CatchupWindow,
		Paused: w.paused, Note: note,
	})
	return err
}

// next are the next times without jitter.
func (w *wantedSchedule) next(now time.Time) []string {
	out := []string{}
	for _, t := range occurrences(w.calendars, w.zone, now, nextShown) {
		out = append(out, t.In(w.zone).Format(time.RFC3339))
	}
	return out
}

// warnings are what is allowed and may surprise.
func (w *wantedSchedule) warnings() []string {
	var out []string
	for _, c := range w.calendars {
		month, week := 0, 0
		for d := range 32 {
			if d > 0 && covered(c.DayOfMonth, d) {
				month++
			}
			if d < 7 && covered(c.DayOfWeek, d) {
				week++
			}
		}
		if month < 31 && week < 7 {
			out = append(out, fmt.Sprintf("%s: both the day of the month and the day of the week must match (other crons take either)", c.Comment))
		}
	}
	return out
}

func isPaused(is *client.ScheduleDescription) bool {
	return is.Schedule.State != nil && is.Schedule.State.Paused
}

// stateNote is the note that came with the last pause or resume.
func stateNote(is *client.ScheduleDescription) string {
	if is.Schedule.State == nil {
		return ""
	}
	return oneLine(is.Schedule.State.Note)
}
