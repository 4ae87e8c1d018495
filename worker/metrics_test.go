package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/mocks"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/katoflow/katoflow/internal/operation"
)

func scrape(t *testing.T, m *scheduleMetrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	metricsHandler(m).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetrics_NotConnected_SayOnlyThatNothingIsKnown(t *testing.T) {
	got := scrape(t, &scheduleMetrics{})
	if !strings.Contains(got, "katoflow_schedules_up 0\n") || strings.Contains(got, "katoflow_schedule_") {
		t.Error(got)
	}
}

func TestMetrics_OfSchedules_TellLastSuccessLastFailureAndCounts(t *testing.T) {
	temporal, schedules, list, handle := &mocks.Client{}, &mocks.ScheduleClient{}, &mocks.ScheduleListIterator{}, &mocks.ScheduleHandle{}
	temporal.On("ScheduleClient").Return(schedules)
	schedules.On("List", mock.Anything, mock.Anything).Return(list, nil)
	for _, id := range []string{"somebody-elses", operation.ScheduleID("nightly")} {
		list.On("HasNext").Return(true).Once()
		list.On("Next").Return(&client.ScheduleListEntry{ID: id}, nil).Once()
	}
	list.On("HasNext").Return(false)
	definition, err := converter.GetDefaultDataConverter().ToPayload(operation.ScheduleDefinition{Name: "nightly", Cluster: "prod", Operation: "backup create"})
	if err != nil {
		t.Fatal(err)
	}
	schedules.On("GetHandle", mock.Anything, operation.ScheduleID("nightly")).Return(handle)
	handle.On("Describe", mock.Anything).Return(&client.ScheduleDescription{
		Schedule: client.Schedule{State: &client.ScheduleState{Paused: true}, Action: &client.ScheduleWorkflowAction{Memo: map[string]any{operation.MemoSchedule: (*commonpb.Payload)(definition)}}},
		Info:     client.ScheduleInfo{NumActions: 7, NumActionsSkippedOverlap: 2, NumActionsMissedCatchupWindow: 1}}, nil)
	answer := func(status string, at int64) {
		var found []*workflowpb.WorkflowExecutionInfo
		if at > 0 {
			found = append(found, &workflowpb.WorkflowExecutionInfo{CloseTime: timestamppb.New(time.Unix(at, 0))})
		}
		temporal.On("ListWorkflow", mock.Anything, mock.MatchedBy(func(r *workflowservice.ListWorkflowExecutionsRequest) bool {
			return r.Namespace == "site" && strings.Contains(r.Query, `TemporalScheduledById = "schedule/nightly"`) && strings.Contains(r.Query, status)
		})).Return(&workflowservice.ListWorkflowExecutionsResponse{Executions: found}, nil)
	}
	answer("Completed", 1_700_000_000)
	answer("Terminated", 1_600_000_000)
	answer("Running", 0)
	m := &scheduleMetrics{}
	m.connected(temporal, "site")
	got := scrape(t, m)
	labels := `{cluster="prod",operation="backup create",schedule="nightly"}`
	for _, want := range []string{"katoflow_schedules_up 1", "katoflow_schedule_last_success_timestamp_seconds" + labels + " 1.7e+09", "katoflow_schedule_last_failure_timestamp_seconds" + labels + " 1.6e+09",
		"katoflow_schedule_paused" + labels + " 1", "katoflow_schedule_running" + labels + " 0", "katoflow_schedule_runs_total" + labels + " 7", "katoflow_schedule_skipped_total" + labels + " 2",
		"katoflow_schedule_missed_total" + labels + " 1"} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "somebody") {
		t.Error("a schedule that is not katoflow's is told")
	}
	scrape(t, m)
	schedules.AssertNumberOfCalls(t, "List", 1) // a second scrape asks nothing
}
