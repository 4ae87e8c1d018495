package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/operation"
)

// scheduleRun is one run of a schedule.
type scheduleRun struct {
	OperationID string `json:"operationId"`
	WorkflowID  string `json:"workflowId"`
	// Result is the phase: done is a success, every other final one a failure.
	Result string `json:"result"`
	// StartedAt and EndedAt are UTC, RFC 3339.
	StartedAt string `json:"startedAt"`
	EndedAt   string `json:"endedAt,omitempty"`
	// Seconds it took, so far where it has not ended.
	Seconds int64 `json:"seconds"`
	// Message of the operation's report; in show only.
	Message string `json:"message,omitempty"`
}

// scheduleState is how a schedule stands.
type scheduleState struct {
	operation.ScheduleDefinition
	Paused bool `json:"paused"`
	// Note of the last pause or resume.
	Note string `json:"note,omitempty"`
	// Next times as Temporal has them, with jitter, RFC 3339 in the schedule's zone.
	Next        []string     `json:"next"`
	Running     *scheduleRun `json:"running,omitempty"`
	LastSuccess *scheduleRun `json:"lastSuccess,omitempty"`
	LastFailure *scheduleRun `json:"lastFailure,omitempty"`
	// LastSuccessAge is how long ago the last success ended, in seconds; absent when none is known.
	LastSuccessAge *int64 `json:"lastSuccessAgeSeconds,omitempty"`
	// TooOld is set by --max-age.
	TooOld bool `json:"tooOld,omitempty"`
	// Started counts the runs that were begun, SkippedOverlap those left out because the one before was not done, MissedCatchUp those whose
	// time had passed too long ago when Temporal was back.
	Started        int `json:"started"`
	SkippedOverlap int `json:"skippedOverlap"`
	MissedCatchUp  int `json:"missedCatchUp"`
	// Runs are the last ones, newest first; in show only.
	Runs []scheduleRun `json:"runs,omitempty"`
	// DaylightSaving says what the clocks' changes within a year do; in show only.
	DaylightSaving []string `json:"daylightSaving,omitempty"`
	// CreatedAt and UpdatedAt are UTC, RFC 3339.
	CreatedAt string `json:"createdAt,omitempty"`
	UpdatedAt string `json:"updatedAt,omitempty"`
	AppliedBy string `json:"appliedBy,omitempty"`
}

// runsRead is how many of the newest runs are read at once.
const runsRead = 50

// Parts of a visibility query.
const closedWell, closedBadly = `ExecutionStatus = "Completed"`, `ExecutionStatus IN ("Failed", "Canceled", "Terminated", "TimedOut")`

// scheduleState reads everything about one schedule that visibility and its description tell.
func (s *server) scheduleState(ctx context.Context, name string, is *client.ScheduleDescription, now time.Time) (*scheduleState, error) {
	out := &scheduleState{Next: []string{}}
	if d, known := definitionOf(is); known {
		out.ScheduleDefinition = d
	} else if action, ok := is.Schedule.Action.(*client.ScheduleWorkflowAction); ok { // not made by katoflow schedule apply
		out.Operation = oneLine(fmt.Sprint(action.Workflow))
		out.Cluster, _ = action.TypedSearchAttributes.GetKeyword(operation.AttributeCluster)
	}
	out.Name = name
	if action, ok := is.Schedule.Action.(*client.ScheduleWorkflowAction); ok {
		_ = plain(action.Memo[memoAppliedBy], &out.AppliedBy) // shown only
	}
	zone, err := loadZone(out.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	out.Paused, out.Note = isPaused(is), stateNote(is)
	for _, t := range is.Info.NextActionTimes {
		if len(out.Next) < nextShown {
			out.Next = append(out.Next, t.In(zone).Format(time.RFC3339))
		}
	}
	out.Started, out.SkippedOverlap, out.MissedCatchUp = is.Info.NumActions, is.Info.NumActionsSkippedOverlap, is.Info.NumActionsMissedCatchupWindow
	out.CreatedAt = is.Info.CreatedAt.UTC().Format(time.RFC3339)
	if !is.Info.LastUpdateAt.IsZero() && is.Info.LastUpdateAt.Unix() > 0 {
		out.UpdatedAt = is.Info.LastUpdateAt.UTC().Format(time.RFC3339)
	}
	if err := s.addRuns(ctx, out, now, runsRead); err != nil {
		return nil, err
	}
	return out, nil
}

// addRuns finds the runs through visibility: the schedule itself remembers only its last few, and not how they ended. The newest, as many as read, are
// looked at all; where the last success or failure is not among them it is asked for.
func (s *server) addRuns(ctx context.Context, out *scheduleState, now time.Time, read int) error {
	mine := fmt.Sprintf("TemporalScheduledById = %q", operation.ScheduleID(out.Name))
	found, err := s.list(ctx, mine, read, nil)
	if err != nil {
		return err
	}
	all := len(found) < read
	slices.SortStableFunc(found, func(a, b listed) int { return strings.Compare(b.StartedAt, a.StartedAt) })
	last := func(of []listed, which func(listed) bool) *scheduleRun {
		var newest *scheduleRun
		for _, l := range of {
			if which(l) && (newest == nil || l.EndedAt > newest.EndedAt) {
				r := runOf(l, now)
				newest = &r
			}
		}
		return newest
	}
	succeeded := func(l listed) bool { return !l.Open && l.Phase == operation.PhaseDone }
	failed := func(l listed) bool { return !l.Open && l.Phase != operation.PhaseDone }
	out.Running = last(found, func(l listed) bool { return l.Open })
	out.LastSuccess, out.LastFailure = last(found, succeeded), last(found, failed)
	for _, rare := range []struct {
		to     **scheduleRun
		status string
		which  func(listed) bool
	}{{&out.LastSuccess, closedWell, succeeded}, {&out.LastFailure, closedBadly, failed}} {
		if *rare.to != nil || all {
			continue
		}
		older, err := s.list(ctx, mine+" AND "+rare.status, 1, nil) // the server lists those first that closed last
		if err != nil {
			return err
		}
		*rare.to = last(older, rare.which)
	}
	if out.LastSuccess != nil {
		if ended, err := time.Parse(time.RFC3339, out.LastSuccess.EndedAt); err == nil {
			age := max(0, int64(now.Sub(ended)/time.Second))
			out.LastSuccessAge = &age
		}
	}
	for _, l := range found {
		if len(out.Runs) < runsShown {
			out.Runs = append(out.Runs, runOf(l, now))
		}
	}
	return nil
}

// runsShown is how many of the last runs show tells about.
const runsShown = 10

func runOf(l listed, now time.Time) scheduleRun {
	r := scheduleRun{OperationID: l.OperationID, WorkflowID: l.WorkflowID, Result: l.Phase, StartedAt: l.StartedAt, EndedAt: l.EndedAt}
	begin, err := time.Parse(time.RFC3339, l.StartedAt)
	end, eerr := time.Parse(time.RFC3339, l.EndedAt)
	if eerr != nil {
		end = now
	}
	if err == nil {
		r.Seconds = max(0, int64(end.Sub(begin)/time.Second))
	}
	if r.Result == "" {
		r.Result = operation.PhaseStarting
	}
	return r
}

// addMessages reads the operations' own results.
func (s *server) addMessages(ctx context.Context, out *scheduleState) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range out.Runs {
		r := &out.Runs[i]
		if r.EndedAt == "" {
			continue
		}
		group.Go(func() error {
			octx, cancel := context.WithTimeout(ctx, describeTimeout)
			defer cancel()
			if report, _, err := s.outcome(octx, r.WorkflowID); err == nil { // what cannot be read is not shown
				r.Message = oneLine(report.Message)
				if report.Phase != "" {
					r.Result = oneLine(report.Phase)
				}
			}
			return nil
		})
	}
	_ = group.Wait()
}

// atOnce bounds the calls to the server that are made in parallel.
const atOnce = 8
