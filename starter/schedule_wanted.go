package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

// Limits of what a schedule may ask for.
const (
	longestJitter  = 12 * time.Hour
	shortestCatch  = 10 * time.Second // Temporal's own
	longestCatchUp = 7 * 24 * time.Hour
)

// wantedSchedule is a schedule that was checked and can be applied.
type wantedSchedule struct {
	operation.ScheduleDefinition
	// paused: it is created so. A schedule that is there keeps its state.
	paused    bool
	zone      *time.Location
	calendars []client.ScheduleCalendarSpec
	of        schedulable
	operation prepared
}

// schedulePart is what a problem is about, so that a file can be pointed into: the name of a field, with an index for lists.
type schedulePart struct {
	field string
	index int
}

// want checks a definition; report is called for every problem. options has been filled by the caller, or is nil where the operation is not known.
func want(d operation.ScheduleDefinition, jitter, catchUp string, paused bool, options *optionSet, report func(at schedulePart, problem string)) *wantedSchedule {
	w := &wantedSchedule{ScheduleDefinition: d, paused: paused}
	bad := false
	note := func(at schedulePart, err error) {
		if err != nil {
			bad = true
			report(at, err.Error())
		}
	}
	note(schedulePart{field: "name"}, operation.CheckScheduleName(d.Name))
	if d.TimeZone == "" {
		w.TimeZone = "UTC"
	}
	var err error
	w.zone, err = loadZone(w.TimeZone)
	note(schedulePart{field: "time_zone"}, err)
	w.Jitter, err = scheduleDuration("jitter", jitter, 0, 0, longestJitter)
	note(schedulePart{field: "jitter"}, err)
	w.CatchUp, err = scheduleDuration("catch-up", catchUp, operation.DefaultCatchUp, shortestCatch, longestCatchUp)
	note(schedulePart{field: "catch_up"}, err)
	if len(d.Cron)+len(d.Calendar) == 0 {
		note(schedulePart{}, errors.New(`when it runs is missing: give cron, such as "0 3 * * *", or calendar`))
	}
	for i, line := range d.Cron {
		c, err := parseCron(line)
		note(schedulePart{"cron", i}, err)
		w.calendars = append(w.calendars, c)
		if err == nil {
			w.Cron[i] = c.Comment
		}
	}
	for i, fields := range d.Calendar {
		c, err := parseCalendarFields(fields)
		note(schedulePart{"calendar", i}, err)
		w.calendars = append(w.calendars, c)
	}
	if d.Cluster == "" {
		note(schedulePart{}, errors.New("the cluster is missing"))
	}
	if options == nil && d.Cluster != "" {
		note(schedulePart{field: "cluster"}, checkCluster(d.Cluster))
	}
	if options != nil && d.Cluster != "" {
		w.of, w.Operation, w.Options = options.schedulable, options.command, options.given()
		w.operation, err = options.build(d.Cluster)
		if err != nil {
			bad = true
			for _, line := range asFailure(err).lines {
				report(schedulePart{field: "options"}, line)
			}
		}
	}
	if bad || options == nil {
		return nil
	}
	w.operation.input.Schedule(w.ScheduleDefinition)
	return w
}

// scheduleDuration reads a time with a unit.
func scheduleDuration(what, text string, standard operation.Duration, least, most time.Duration) (operation.Duration, error) {
	if text == "" {
		return standard, nil
	}
	d, err := time.ParseDuration(strings.TrimSpace(text))
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s %q: write a number with a unit, such as 30s, 10m or 3h", what, operationName(text))
	case d < least || d > most:
		return 0, fmt.Errorf("%s %s: must be between %s and %s", what, d, least, most)
	case d%time.Second != 0:
		return 0, fmt.Errorf("%s %s: must be whole seconds", what, d)
	}
	return operation.Duration(d), nil
}

// Memo fields of a schedule's action besides those of every operation.
const memoAppliedBy = "appliedBy"

// action is what Temporal starts. Temporal appends the nominal time to the workflow id.
func (w *wantedSchedule) action(who string) *client.ScheduleWorkflowAction {
	cluster := cmp.Or(w.operation.cluster, w.Cluster)
	options := startOptions(operation.WorkflowID(cluster, w.of.kind, w.Name), w.operation.queue, cluster, w.of.kind, "schedule "+w.Name,
		w.of.title+" of "+w.Cluster+", schedule "+w.Name, w.operation.details())
	options.Memo[operation.MemoSchedule] = w.ScheduleDefinition
	options.Memo[memoAppliedBy] = who
	return &client.ScheduleWorkflowAction{
		ID: options.ID, Workflow: w.of.workflow, Args: []any{w.operation.input}, TaskQueue: options.TaskQueue, Memo: options.Memo,
		TypedSearchAttributes: options.TypedSearchAttributes, StaticSummary: options.StaticSummary, StaticDetails: options.StaticDetails,
	}
}

func (w *wantedSchedule) spec() *client.ScheduleSpec {
	return &client.ScheduleSpec{Calendars: w.calendars, TimeZoneName: w.TimeZone, Jitter: w.Jitter.D()}
}

// policies: a night is skipped while the one before still runs, and a failed night stops nothing.
func (w *wantedSchedule) policies() *client.SchedulePolicies {
	return &client.SchedulePolicies{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: w.CatchUp.D()}
}

// changes says what applying would change of a schedule that is there; nothing when it is as wanted.
func (w *wantedSchedule) changes(is *client.ScheduleDescription) []string {
	old, known := definitionOf(is)
	if !known {
		return []string{"it is not as katoflow left it, and is written anew"}
	}
	var out []string
	row := func(what, from, to string) {
		if from == to {
			return
		}
		show := func(s string) string {
			if s == "" {
				return "(none)"
			}
			return s
		}
		out = append(out, fmt.Sprintf("%s: %s -> %s", what, show(from), show(to)))
	}
	row("cluster", old.Cluster, w.Cluster)
	row("operation", old.Operation, w.Operation)
	names := map[string]bool{}
	for _, options := range []map[string]string{old.Options, w.Options} {
		for name := range options {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		row("option "+name, old.Options[name], w.Options[name])
	}
	row("when", when(old), when(w.ScheduleDefinition))
	row("time zone", old.TimeZone, w.TimeZone)
	row("jitter", old.Jitter.String(), w.Jitter.String())
	row("catch-up", old.CatchUp.String(), w.CatchUp.String())
	if len(out) == 0 && !w.same(&is.Schedule) {
		out = append(out, "it was changed elsewhere, or by another version of katoflow, and is written anew")
	}
	return out
}

// when is a definition's times in one line.
func when(d operation.ScheduleDefinition) string {
	parts := slices.Clone(d.Cron)
	for _, c := range d.Calendar {
		parts = append(parts, calendarText(c))
	}
	return strings.Join(parts, "; ")
}

// definitionOf is the definition that a schedule carries with it; false when it has none that can be read.
func definitionOf(is *client.ScheduleDescription) (operation.ScheduleDefinition, bool) {
	var d operation.ScheduleDefinition
	action, ok := is.Schedule.Action.(*client.ScheduleWorkflowAction)
	if !ok {
		return d, false
	}
	return d, plain(action.Memo[operation.MemoSchedule], &d) && d.Name != ""
}

// plain reads a value of a description, which is a payload there.
func plain(value, into any) bool {
	p, ok := value.(*commonpb.Payload)
	return ok && converter.GetDefaultDataConverter().FromPayload(p, into) == nil
}

// same compares what Temporal holds with what applying would write. Who applied it and the operator's pause do not count.
func (w *wantedSchedule) same(is *client.Schedule) bool {
	action, ok := is.Action.(*client.ScheduleWorkflowAction)
	if !ok || is.Spec == nil || is.Policy == nil {
		return false
	}
	wanted := w.action("")
	if action.ID != wanted.ID || action.TaskQueue != wanted.TaskQueue || action.Workflow != wanted.Workflow || len(action.Args) != 1 ||
		action.StaticSummary != "" && action.StaticSummary != wanted.StaticSummary ||
		action.WorkflowExecutionTimeout != 0 || action.WorkflowRunTimeout != 0 || action.RetryPolicy != nil {
		return false
	}
	var has, wants any
	if !plain(action.Args[0], &has) {
		return false
	}
	p, err := converter.GetDefaultDataConverter().ToPayload(w.operation.input)
	if err != nil || !plain(p, &wants) || !reflect.DeepEqual(has, wants) {
		return false
	}
	for _, key := range []temporal.SearchAttributeKeyKeyword{operation.AttributeCluster, operation.AttributeOperation} {
		a, _ := action.TypedSearchAttributes.GetKeyword(key)
		if b, _ := wanted.TypedSearchAttributes.GetKeyword(key); a != b {
			return false
		}
	}
	spec := w.spec()
	return slices.Equal(calendarTexts(is.Spec.Calendars), calendarTexts(spec.Calendars)) && len(is.Spec.Intervals) == 0 && len(is.Spec.CronExpressions) == 0 &&
		len(is.Spec.Skip) == 0 && is.Spec.StartAt.IsZero() && is.Spec.EndAt.IsZero() && is.Spec.TimeZoneName == spec.TimeZoneName && is.Spec.Jitter == spec.Jitter &&
		*is.Policy == *w.policies()
}

// calendarTexts writes calendars in one form: the server leaves out what is the same as its standard.
func calendarTexts(calendars []client.ScheduleCalendarSpec) []string {
	out := make([]string, len(calendars))
	for i, c := range calendars {
		var b strings.Builder
		for _, field := range [][]client.ScheduleRange{c.Second, c.Minute, c.Hour, c.DayOfMonth, c.Month, c.DayOfWeek, c.Year} {
			for _, r := range field {
				fmt.Fprintf(&b, "%d-%d/%d,", r.Start, max(r.Start, r.End), max(1, r.Step))
			}
			b.WriteByte(' ')
		}
		out[i] = b.String() + c.Comment
	}
	return out
}
