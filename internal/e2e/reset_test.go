package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/operation"
)

// resetPoint chooses the workflow task to which a run is reset: the id of its completed event.
type resetPoint func(history []*historypb.HistoryEvent) int64

// toTheBeginning is before the lock, the preflight and everything else.
func toTheBeginning(history []*historypb.HistoryEvent) int64 {
	for _, e := range history {
		if e.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			return e.EventId
		}
	}
	return 0
}

// toTheFirstNode is after lock and preflight, before the first node's child is started.
func toTheFirstNode(history []*historypb.HistoryEvent) int64 {
	for _, e := range history {
		if a := e.GetStartChildWorkflowExecutionInitiatedEventAttributes(); a != nil && strings.Contains(a.WorkflowId, "/node/") {
			return a.WorkflowTaskCompletedEventId
		}
	}
	return 0
}

// toTheLastTask repeats only the newest workflow task.
func toTheLastTask(history []*historypb.HistoryEvent) int64 {
	var id int64
	for _, e := range history {
		if e.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			id = e.EventId
		}
	}
	return id
}

// reset makes a new run of the operation from an earlier point, as the Web UI's Reset does.
func (o *op) reset(to resetPoint) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	former := o.describe(o.workflow)
	response, err := o.client.WorkflowService().ResetWorkflowExecution(ctx, &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: client.DefaultNamespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: o.workflow, RunId: former.Execution.RunId},
		Reason: "end-to-end test", RequestId: fmt.Sprint(shared.number.Add(1)), WorkflowTaskFinishEventId: to(o.history(o.workflow)),
	})
	require.NoError(o.t, err)
	require.NotEqual(o.t, former.Execution.RunId, response.RunId)
}

// describe a workflow's latest run; nil when there never was one.
func (s *site) describe(workflowID string) *workflowpb.WorkflowExecutionInfo {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d, err := s.client.DescribeWorkflowExecution(ctx, workflowID, "")
	if err != nil {
		return nil
	}
	return d.WorkflowExecutionInfo
}

func (s *site) isOpen(workflowID string) bool {
	d := s.describe(workflowID)
	return d != nil && d.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

// leaseToken reads the token of a node's lease, 0 when there is none.
func (s *site) leaseToken(node string) int64 {
	s.t.Helper()
	b, err := s.cluster.Node(node).ReadFile("/home/" + s.cluster.LoginUser() + "/.local/state/katoflow/lease")
	if err != nil {
		return 0
	}
	token, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
	require.NoError(s.t, err)
	return token
}

func TestReset_AtSeveralMomentsToSeveralPoints_RepeatsNoCommand(t *testing.T) {
	t.Parallel()
	moments := map[string]func(*op){
		"during an upgrade job": func(o *op) { o.runs("b", "unattended-upgrades") },
		"after a node is done": func(o *op) {
			o.until(30*time.Second, "the first node", func(r operation.Report) bool { return r.Counts()[operation.NodeDone] == 1 })
		},
		"while parked": func(o *op) { o.question(30 * time.Second) },
	}
	points := map[string]resetPoint{"to the beginning": toTheBeginning, "to the first node": toTheFirstNode, "to the last task": toTheLastTask}
	for moment, reached := range moments {
		for point, to := range points {
			t.Run(moment+" "+point, func(t *testing.T) {
				t.Parallel()
				if point != "to the beginning" {
					onlySimulated(t, "the nodes see the same of every reset, and most of the one that goes back furthest")
				}
				s := newSite(t, nil, nil, plain("a", "b", "c"), slow(time.Second))
				parked := moment == "while parked"
				if parked {
					s.cluster.Node("b").FailCommand("unattended-upgrades", 1, 1, "E: broken")
				}
				s.worker("")
				o := s.start()
				reached(o)
				token := s.leaseToken("c")
				lock := s.describe(operation.LockWorkflowID(s.cluster.Name()))
				require.NotZero(t, token)

				o.reset(to)
				if parked {
					q := o.question(30 * time.Second)
					require.Equal(t, "b/upgrade/1", q.Key(), "the same question again")
					o.decide(q, operation.Retry)
				}
				o.done(60 * time.Second)
				require.Empty(t, s.repeated())
				s.upgraded(1, "a", "b", "c")
				require.Equal(t, 1, s.cluster.MaxOutOfService(), "one node at a time")

				last := s.describe(operation.LockWorkflowID(s.cluster.Name()))
				require.NotEqual(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, last.Status, "the lock is free")
				if point == "to the beginning" {
					require.NotEqual(t, lock.Execution.RunId, last.Execution.RunId, "the new run has a lock of its own")
					require.Equal(t, s.describe(o.workflow).Execution.RunId, last.ParentExecution.RunId)
					require.Greater(t, s.leaseToken("c"), token)
				} else {
					require.Equal(t, lock.Execution.RunId, last.Execution.RunId, "the lock was held all the time")
					require.Equal(t, token, s.leaseToken("c"))
				}
			})
		}
	}
}

func TestReset_LongAfterAReboot_StillProvesIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(300*time.Millisecond))
	s.worker("")
	s.cluster.Node("b").SlowCommand("unattended-upgrades", 1, 8*time.Second) // longer than what the boot proof allows for
	o := s.start()
	s.runs("b", "unattended-upgrades")
	first := s.cluster.Node("a").Commands()
	rebooted := first[len(first)-1].Start
	require.NoError(t, waitFor(30*time.Second, "the first reboot to be 7 s ago", func() (bool, error) { return time.Since(rebooted) > 7*time.Second, nil }))
	o.reset(toTheBeginning)
	o.done(60 * time.Second)
	s.upgraded(1, "a", "b")
	require.Empty(t, s.repeated())
}

func TestReset_CancelledAfterwards_EndsSafelyAndFreesTheCluster(t *testing.T) {
	t.Parallel()
	for point, to := range map[string]resetPoint{"to the beginning": toTheBeginning, "to the first node": toTheFirstNode, "to the last task": toTheLastTask} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, plain("a", "b", "c"), slow(100*time.Millisecond))
			s.cluster.Node("b").SlowCommand("unattended-upgrades", 1, time.Minute)
			s.worker("")
			o := s.start()
			s.runs("b", "unattended-upgrades")
			o.reset(to)
			o.cli(0, "op", "cancel", o.id, "--detach")
			o.cancelReaches("b")
			s.cluster.Node("b").HealCommands()
			r, err := o.end(30 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseCancelled, r.Phase)
			require.False(t, s.isOpen(operation.LockWorkflowID(s.cluster.Name())), "the lock is free")
			for _, n := range s.names() {
				require.False(t, s.isOpen(operation.NodeWorkflowID(o.workflow, n)), "nothing works on %s any more", n)
				require.Empty(t, s.cluster.Node(n).HalfConfigured())
			}
			require.Empty(t, s.repeated())
			require.Zero(t, s.ran("c", "unattended-upgrades"))
			require.Zero(t, s.ran("b", "reboot")+s.ran("b", "systemctl"), "what may not be interrupted finished, nothing was started")
		})
	}
}

func TestReset_OfAnOperationThatHadEnded_HoldsTheLockAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.cluster.Node("b").FailCommand("unattended-upgrades", 1, 1, "E: broken")
	s.worker("")
	o := s.start("--max-failures", "0")
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseAborted, r.Phase)
	require.False(t, s.isOpen(operation.LockWorkflowID(s.cluster.Name())))
	token := s.leaseToken("a")

	o.reset(toTheFirstNode)
	r, err = o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseAborted, r.Phase, "what was tried has its recorded end: %s", r.Message)
	require.Greater(t, s.leaseToken("a"), token, "under a lock of its own")
	require.False(t, s.isOpen(operation.LockWorkflowID(s.cluster.Name())))
	require.Empty(t, s.repeated())
	s.upgraded(1, "a")
}
