package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

// listed is one operation as the server's list of workflows has it.
type listed struct {
	OperationID   string `json:"operationId"`
	WorkflowID    string `json:"workflowId"`
	Kind          string `json:"kind"`
	Cluster       string `json:"cluster"`
	Phase         string `json:"phase"`
	Open          bool   `json:"open"`
	NeedsOperator bool   `json:"needsOperator,omitempty"`
	Node          string `json:"node,omitempty"`
	RequestedBy   string `json:"requestedBy,omitempty"`
	// StartedAt and EndedAt are UTC, RFC 3339.
	StartedAt string `json:"startedAt"`
	EndedAt   string `json:"endedAt,omitempty"`
}

// rolling reports whether the operation is one that works on nodes: a check, a confirmation of keys or the verification of an archive is never meant
// by "latest" or by the cluster's name.
func (l listed) rolling() bool {
	return l.Kind != operation.KindClusterCheck && l.Kind != operation.KindClusterTrust && !operation.OnArchives(l.Kind)
}

// mostScanned bounds how many operations a search by id looks through.
const mostScanned = 5000

// list returns at most limit operations for which keep holds, open ones first; query is added to the visibility query. Of an operation that was
// reset, which has several runs, it is the newest.
func (s *server) list(ctx context.Context, query string, limit int, keep func(listed) bool) ([]listed, error) {
	full := operation.AttributeOperation.GetName() + " IS NOT NULL"
	if query != "" {
		full += " AND " + query
	}
	var out []listed
	var page []byte
	runs := map[string]bool{}
	for seen := 0; seen < mostScanned; {
		answer, err := s.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: s.namespace, PageSize: 200, NextPageToken: page, Query: full,
		})
		if err != nil {
			return nil, s.explain(err)
		}
		for _, e := range answer.GetExecutions() {
			seen++
			l, ok := listing(e)
			if !ok || runs[l.WorkflowID] { // the server lists open runs first, then those that closed last
				continue
			}
			runs[l.WorkflowID] = true
			if keep != nil && !keep(l) {
				continue
			}
			if out = append(out, l); len(out) == limit {
				return out, nil
			}
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	return out, nil
}

func listing(e *workflowpb.WorkflowExecutionInfo) (listed, bool) {
	id := e.GetExecution().GetWorkflowId()
	cluster, kind, op, err := operation.ParseWorkflowID(id)
	if err != nil || strings.Contains(op, "/") || e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW {
		return listed{}, false
	}
	l := listed{OperationID: op, WorkflowID: id, Kind: kind, Cluster: cluster, Open: e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		StartedAt: e.GetStartTime().AsTime().UTC().Format(time.RFC3339)}
	if e.GetCloseTime() != nil {
		l.EndedAt = e.GetCloseTime().AsTime().UTC().Format(time.RFC3339)
	}
	decode := converter.GetDefaultDataConverter()
	fields := e.GetSearchAttributes().GetIndexedFields()
	for name, to := range map[string]any{
		operation.AttributePhase.GetName(): &l.Phase, operation.AttributeNode.GetName(): &l.Node, operation.AttributeNeedsOperator.GetName(): &l.NeedsOperator,
	} {
		if p := fields[name]; p != nil {
			_ = decode.FromPayload(p, to) // an attribute that cannot be read is shown empty
		}
	}
	if p := e.GetMemo().GetFields()[operation.MemoRequestedBy]; p != nil {
		_ = decode.FromPayload(p, &l.RequestedBy)
	}
	if !l.Open {
		l.NeedsOperator = false
		l.Phase = closedPhase(e.GetStatus(), l.Phase)
	}
	return l, true
}

// closedPhase corrects the phase that a closed workflow last wrote by how the server says it ended.
func closedPhase(status enumspb.WorkflowExecutionStatus, phase string) string {
	switch status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		return operation.PhaseCancelled
	case enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		return "terminated"
	case enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return "timed out"
	case enumspb.WORKFLOW_EXECUTION_STATUS_FAILED:
		if phase != operation.PhaseAborted {
			return operation.PhaseFailed
		}
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		return operation.PhaseDone
	}
	return phase
}

// searchPatience covers the moment until the server lists an operation that has just been started.
const searchPatience = 2 * time.Second

// find returns the workflow id of the operation that a person calls op. open: it must still be running.
func (s *server) find(ctx context.Context, op string, open bool) (string, error) {
	if strings.Contains(op, "/") {
		if _, _, _, err := operation.ParseWorkflowID(op); err != nil {
			return "", badInput("%s", oneLine(err.Error()))
		}
		return op, nil
	}
	if op == "" {
		return "", badInput("the operation is missing: give its id, its cluster, or latest")
	}
	deadline := time.Now().Add(searchPatience)
	for {
		id, err := s.search(ctx, op, open)
		if err != nil || id != "" {
			return id, err
		}
		if time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	switch {
	case op == "latest" && open:
		return "", badInput("no operation is running; see katoflow op list --all")
	case op == "latest":
		return "", badInput("there is no operation yet; start one, such as katoflow upgrade security CLUSTER")
	}
	return "", badInput("no operation or cluster with an operation is called %q; see katoflow op list --all", operationName(op))
}

// search is find without patience; "" when there is nothing by that name.
func (s *server) search(ctx context.Context, op string, open bool) (string, error) {
	if op == "latest" {
		query := ""
		if open {
			query = running
		}
		all, err := s.list(ctx, query, mostScanned, listed.rolling)
		if err != nil || len(all) == 0 {
			return "", err
		}
		if open && len(all) > 1 {
			return "", ambiguous(op, all)
		}
		// The same one for every verb: what runs, else what ended last.
		if going := slices.DeleteFunc(slices.Clone(all), func(l listed) bool { return !l.Open }); len(going) == 1 {
			return going[0].WorkflowID, nil
		}
		return newest(all).WorkflowID, nil
	}
	all, err := s.list(ctx, "", mostScanned, func(l listed) bool { return l.OperationID == op || l.Cluster == op && l.rolling() })
	if err != nil {
		return "", err
	}
	var byID, byCluster, going []listed
	for _, l := range all {
		if l.OperationID == op {
			byID = append(byID, l)
			continue
		}
		byCluster = append(byCluster, l)
		if l.Open {
			going = append(going, l)
		}
	}
	switch {
	case len(byID) == 1 && len(going) == 0:
		return byID[0].WorkflowID, nil
	case len(byID) > 0:
		return "", ambiguous(op, append(byID, going...))
	case len(going) == 1:
		return going[0].WorkflowID, nil
	case len(going) > 1:
		return "", ambiguous(op, going)
	case len(byCluster) > 0 && open:
		return "", badInput("no operation is running on cluster %q; see katoflow op list --cluster %s --all", operationName(op), operationName(op))
	case len(byCluster) > 0:
		return newest(byCluster).WorkflowID, nil
	}
	return "", nil
}

// running limits a visibility query to open workflows.
const running = `ExecutionStatus = "Running"`

func newest(all []listed) listed {
	return slices.MaxFunc(all, func(a, b listed) int { return strings.Compare(a.StartedAt, b.StartedAt) })
}

func ambiguous(op string, all []listed) error {
	const most = 10
	f := &failure{code: exitBadInput, lines: []string{fmt.Sprintf("%q can mean %d operations: give the workflow id of one of them", operationName(op), len(all))}}
	for i, l := range all {
		if i == most {
			f.lines = append(f.lines, fmt.Sprintf("  and %d more", len(all)-most))
			break
		}
		f.lines = append(f.lines, "  "+oneLine(l.WorkflowID))
	}
	return f
}

// errGone: the server has no such operation.
var errGone = errors.New("no such operation")

// ask queries the report of an operation. closed is true, with a nil report, when it has ended.
func (s *server) ask(ctx context.Context, workflowID string) (report *operation.Report, closed bool, err error) {
	answer, err := s.QueryWorkflowWithOptions(ctx, &client.QueryWorkflowWithOptionsRequest{
		WorkflowID: workflowID, QueryType: operation.QueryReport, QueryRejectCondition: enumspb.QUERY_REJECT_CONDITION_NOT_OPEN,
	})
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound):
		return nil, false, errGone
	case err != nil:
		return nil, false, err
	case answer.QueryRejected != nil:
		return nil, true, nil
	}
	report = &operation.Report{}
	if err := answer.QueryResult.Get(report); err != nil {
		return nil, false, fmt.Errorf("the worker's report cannot be read; is it of another version? %w", err)
	}
	return report, false, nil
}

// outcome of an operation that has closed: its report and the exit code that belongs to it. It waits when the operation has not.
func (s *server) outcome(ctx context.Context, workflowID string) (*operation.Report, int, error) {
	report := &operation.Report{}
	err := s.GetWorkflow(ctx, workflowID, "").Get(ctx, report)
	code := exitDone
	if err != nil {
		var closed *temporal.WorkflowExecutionError
		var notFound *serviceerror.NotFound
		switch {
		case errors.As(err, &notFound):
			return nil, exitBadInput, errGone
		case !errors.As(err, &closed):
			return nil, exitError, err
		}
		report, code = interpret(closed, workflowID)
	} else if report.Phase == "" {
		*report = *skeleton(workflowID)
		report.Phase = operation.PhaseDone
	}
	if report.EndedAt == "" || report.StartedAt == "" {
		if d, err := s.DescribeWorkflowExecution(ctx, workflowID, ""); err == nil {
			info := d.GetWorkflowExecutionInfo()
			if report.StartedAt == "" && info.GetStartTime() != nil {
				report.StartedAt = info.GetStartTime().AsTime().UTC().Format(time.RFC3339)
			}
			if report.EndedAt == "" && info.GetCloseTime() != nil {
				report.EndedAt = info.GetCloseTime().AsTime().UTC().Format(time.RFC3339)
			}
		}
	}
	return report, code, nil
}

// skeleton is what is known of an operation by its workflow id alone.
func skeleton(workflowID string) *operation.Report {
	cluster, kind, id, _ := operation.ParseWorkflowID(workflowID)
	return &operation.Report{OperationID: id, WorkflowID: workflowID, Kind: kind, Cluster: cluster, Nodes: []operation.NodeReport{}}
}

// interpret reads the error that a workflow closed with.
func interpret(err error, workflowID string) (*operation.Report, int) {
	var (
		cancelled  *temporal.CanceledError
		terminated *temporal.TerminatedError
		timeout    *temporal.TimeoutError
		app        *temporal.ApplicationError
	)
	report := skeleton(workflowID)
	switch {
	case errors.As(err, &app):
		var f operation.Failure
		var r operation.Report
		switch {
		case app.Details(&f, &r) == nil && f.Type != "" && r.WorkflowID != "":
			report = &r
		case app.Details(&r) == nil && r.WorkflowID != "":
			report = &r
		default:
			report.Phase = operation.PhaseFailed
		}
		failed := operation.FailureOf(err)
		if report.Failure == nil {
			report.Failure = failed
		}
		if report.Message == "" {
			report.Message = failed.Message
		}
		if !report.Finished() {
			report.Phase = operation.PhaseFailed
		}
		return report, codeOfType(app.Type())
	case errors.As(err, &cancelled):
		var r operation.Report
		if cancelled.HasDetails() && cancelled.Details(&r) == nil && r.WorkflowID != "" {
			report = &r
		}
		report.Phase = operation.PhaseCancelled
		return report, exitCancelled
	case errors.As(err, &terminated):
		report.Phase, report.Message = operation.PhaseFailed, "terminated from outside: no cleanup was run; check its nodes and the maintenance mode"
	case errors.As(err, &timeout):
		report.Phase, report.Message = operation.PhaseFailed, "timed out as a whole: no cleanup was run; check its nodes and the maintenance mode"
	default:
		report.Phase, report.Message = operation.PhaseFailed, oneLine(err.Error())
	}
	return report, exitError
}
