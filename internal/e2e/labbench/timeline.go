package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
)

// span is an activity in a history.
type span struct {
	name             string
	scheduled, begun time.Time
	ended            time.Time
	workflow         string
}

// tell writes the activities of an operation and of its nodes in the order of time: when each was scheduled, how long it waited for a worker, and how
// long it took.
func tell(ctx context.Context, c client.Client, workflowID string, began time.Time) error {
	spans, err := spansOf(ctx, c, workflowID)
	if err != nil {
		return err
	}
	it := c.GetWorkflowHistory(ctx, workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return err
		}
		if e.EventType != enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED {
			continue
		}
		id := e.GetStartChildWorkflowExecutionInitiatedEventAttributes().GetWorkflowId()
		if !strings.HasPrefix(id, workflowID) {
			continue
		}
		more, err := spansOf(ctx, c, id)
		if err != nil {
			return err
		}
		spans = append(spans, more...)
	}
	slices.SortFunc(spans, func(a, b span) int { return a.scheduled.Compare(b.scheduled) })
	last := began
	sums := map[string]time.Duration{}
	var names []string
	for _, s := range spans {
		took, between := s.ended.Sub(s.begun), s.begun.Sub(last)
		if between > 0 {
			sums["between"] += between
		}
		if _, seen := sums[s.name]; !seen {
			names = append(names, s.name)
		}
		sums[s.name] += took
		fmt.Fprintf(os.Stderr, "  %7.3f  +%.3f waited %.3f took %6.3f  %-20s %s\n", s.scheduled.Sub(began).Seconds(), between.Seconds(), s.begun.Sub(s.scheduled).Seconds(),
			took.Seconds(), s.name, strings.TrimPrefix(s.workflow, workflowID))
		last = s.ended
	}
	for _, n := range append(names, "between") {
		fmt.Fprintf(os.Stderr, "  sum %-20s %7.3f\n", n, sums[n].Seconds())
	}
	return nil
}

func spansOf(ctx context.Context, c client.Client, workflowID string) ([]span, error) {
	open := map[int64]*span{}
	var order []int64
	it := c.GetWorkflowHistory(ctx, workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return nil, err
		}
		at := e.EventTime.AsTime()
		switch e.EventType {
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
			open[e.EventId] = &span{name: e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName(), scheduled: at, workflow: workflowID}
			order = append(order, e.EventId)
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED:
			open[e.GetActivityTaskStartedEventAttributes().GetScheduledEventId()].begun = at
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			open[e.GetActivityTaskCompletedEventAttributes().GetScheduledEventId()].ended = at
		}
	}
	var out []span
	for _, id := range order {
		if !open[id].ended.IsZero() {
			out = append(out, *open[id])
		}
	}
	return out, nil
}
