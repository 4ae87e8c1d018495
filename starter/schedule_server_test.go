package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// startNights plays scheduled runs: one with a batch of 2 fails, every other is done.
func (s *site) startNights() {
	s.t.Helper()
	w := worker.New(s.server.Client(), operation.DefaultTaskQueue, worker.Options{})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context, in operation.SecurityUpgradeInput) (*operation.Report, error) {
		id := workflow.GetInfo(ctx).WorkflowExecution.ID
		if in.Batch == "2" {
			return nil, operation.NewError(operation.Failure{Type: operation.ErrNodesFailed, Message: "1 of 2 nodes done, the others are not"})
		}
		return &operation.Report{OperationID: operation.IDFromWorkflow(id), WorkflowID: id, Cluster: in.Cluster, Phase: operation.PhaseDone, Message: "2 of 2 nodes done"}, nil
	}, workflow.RegisterOptions{Name: operation.WorkflowSecurityUpgrade})
	w.RegisterActivity(&activities.Locks{})
	require.NoError(s.t, w.Start())
	s.t.Cleanup(w.Stop)
}

func TestScheduleState_LastSuccessOrFailureIsOlderThanTheRunsRead_IsAskedFor(t *testing.T) {
	s := newSite(t)
	s.startNights()
	night := func(batch string, code int) {
		s.run(0, "schedule", "apply", "nightly", "--cron", "0 0 1 1 *", "--", "upgrade", "security", "prod", "--batch", batch)
		s.run(code, "schedule", "trigger", "nightly", "--wait")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	srv := &server{Client: s.server.Client(), namespace: "default"}
	state := func(read int) scheduleState {
		out := scheduleState{ScheduleDefinition: operation.ScheduleDefinition{Name: "nightly"}}
		require.NoError(t, srv.addRuns(ctx, &out, time.Now(), read))
		return out
	}
	closed := func(n int) {
		s.wait("the runs are listed", func() bool { st := state(50); return len(st.Runs) == n && st.Running == nil })
	}
	require.Nil(t, state(50).LastSuccess)

	night("1", exitDone)
	night("2", exitNodesFailed)
	night("2", exitNodesFailed)
	closed(3)
	for _, read := range []int{1, 2, 50} {
		st := state(read)
		require.NotNil(t, st.LastSuccess, "the success is older than the %d runs read", read)
		require.Equal(t, "done", st.LastSuccess.Result)
		require.Equal(t, st.Runs[0], *st.LastFailure)
		require.Greater(t, st.LastFailure.WorkflowID, st.LastSuccess.WorkflowID, "the ids carry the time")
	}
	night("1", exitDone)
	closed(4)
	one, all := state(1), state(50)
	require.Equal(t, all.Runs[0], *one.LastSuccess)
	require.Equal(t, all.Runs[1], *one.LastFailure, "the newest of the failures")

	// An operation that was reset is one run of its schedule, in its newest state.
	failed := all.Runs[1].WorkflowID
	d, err := srv.DescribeWorkflowExecution(ctx, failed, "")
	require.NoError(t, err)
	_, err = srv.ResetWorkflowExecution(ctx, &workflowservice.ResetWorkflowExecutionRequest{Namespace: "default", RequestId: "once", WorkflowTaskFinishEventId: 4,
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: failed, RunId: d.GetWorkflowExecutionInfo().GetExecution().GetRunId()}})
	require.NoError(t, err)
	s.wait("the run anew", func() bool {
		c, err := srv.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: "default",
			Query: `TemporalScheduledById = "schedule/nightly" AND ExecutionStatus = "Failed" AND WorkflowId = "` + failed + `"`})
		return err == nil && c.GetCount() == 2
	})
	require.Len(t, state(50).Runs, 4)

	// The command says the same.
	var listed []scheduleState
	require.NoError(t, json.Unmarshal([]byte(s.run(0, "schedule", "list", "-o", "json", "--max-age", "1h").out.String()), &listed))
	require.Equal(t, all.LastSuccess.WorkflowID, listed[0].LastSuccess.WorkflowID)
	require.Equal(t, 4, listed[0].Started)
}

func TestScheduleVerbs_OtherSchedulesInTheNamespace_AreLeftAlone(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	foreign := func(id string) {
		_, err := s.server.Client().ScheduleClient().Create(ctx, client.ScheduleOptions{ID: id, Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: 24 * time.Hour}}},
			Action: &client.ScheduleWorkflowAction{ID: "x", Workflow: "Foreign", TaskQueue: "foreign"}})
		require.NoError(t, err)
	}
	foreign("theirs")
	foreign("schedule/odd") // made by hand under a name of ours
	s.wait("both are listed", func() bool {
		all, err := s.server.Client().ScheduleClient().List(ctx, client.ScheduleListOptions{})
		n := 0
		for err == nil && all.HasNext() {
			if _, err = all.Next(); err == nil {
				n++
			}
		}
		return n == 2
	})
	out := s.run(0, "schedule", "list").out.String()
	require.NotContains(t, out, "theirs")
	require.Regexp(t, `(?m)^odd +Foreign`, out)
	s.run(0, "schedule", "show", "odd")
	s.run(exitBadInput, "schedule", "delete", "theirs", "--confirm", "theirs")
	s.run(0, "schedule", "apply", "odd", "--cron", "0 3 * * *", "--", "upgrade", "security", "prod").says("updated").says("not as katoflow left it")
	s.run(0, "schedule", "apply", "odd", "--cron", "0 3 * * *", "--", "upgrade", "security", "prod").says("unchanged")
	// One that is made paused stays so, and one that is there does not become it.
	paused := []string{"schedule", "apply", "calm", "--cron", "0 3 * * *", "--paused", "--", "upgrade", "security", "prod"}
	s.run(0, paused...).says("created, paused")
	s.run(0, paused...).says("unchanged, paused (made paused by ")
	s.run(0, "schedule", "resume", "calm")
	s.run(0, paused...).says("unchanged\n")
	s.run(0, "schedule", "list", "calm").says("on ")
}
