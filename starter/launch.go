package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// longestWait is the longest time that can be asked for.
const longestWait = 30 * 24 * time.Hour

// requestFlags are those of every command that starts an operation on a cluster, as they were written.
type requestFlags struct {
	id                           string
	dryRun, detach               bool
	wait, answerWithin           textFlag
	onDeadline, inventory, queue string
	// deadlines are the decisions that can be made when nobody answers.
	deadlines []operation.Decision
}

// register adds the flags to the command that takes them.
func (f *requestFlags) register(c *cli, cmd *cobra.Command, deadlines ...operation.Decision) {
	f.deadlines = deadlines
	flags := cmd.Flags()
	flags.BoolVar(&f.dryRun, "dry-run", false, "plan only: print the commands of every node, change nothing")
	durationFlag(flags, &f.wait, "wait", "", "queue for the cluster while another operation holds it; --wait alone is 24h")
	flags.Lookup("wait").NoOptDefVal = "24h"
	flags.BoolVar(&f.detach, "detach", false, "return after the preflight (with --wait: once started) instead of watching")
	flags.StringVar(&f.id, "id", "", "operation id, used once only (default: made of date and chance)")
	durationFlag(flags, &f.answerWithin, "answer-within", "", "how long a question stays open (default 72h)")
	flags.StringVar(&f.onDeadline, "on-deadline", "", "what is decided when nobody answers: "+f.deadlineNames()+" (default abort)")
	flags.StringVar(&f.queue, "task-queue", operation.DefaultTaskQueue, "task queue of the worker that reaches the cluster")
	c.inventoryFlag(flags, &f.inventory)
	names := make([]string, len(deadlines))
	for i, d := range deadlines {
		names[i] = string(d)
	}
	must(cmd.RegisterFlagCompletionFunc("on-deadline", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"wait", "id", "answer-within", "task-queue"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

func (f *requestFlags) deadlineNames() string {
	names := make([]string, len(f.deadlines))
	for i, d := range f.deadlines {
		names[i] = string(d)
	}
	return strings.Join(names, " or ")
}

// request checks these flags and adds what is wrong with them to problems.
func (f *requestFlags) request(c *cli, cluster string, problems *[]string) operation.Request {
	r := operation.Request{OperationID: f.id, Cluster: cluster, RequestedBy: c.who(), DryRun: f.dryRun, OnDeadline: operation.Decision(f.onDeadline)}
	note := func(err error) {
		if err != nil {
			*problems = append(*problems, err.Error())
		}
	}
	note(checkCluster(cluster))
	if r.OperationID == "" {
		r.OperationID = newID(c.now())
	} else {
		note(operation.CheckID(r.OperationID))
		if operation.ReservedID(r.OperationID) {
			*problems = append(*problems, fmt.Sprintf("operation id %q: this form belongs to the runs of schedules, choose another", r.OperationID))
		}
	}
	if r.OnDeadline != "" && !slices.Contains(f.deadlines, r.OnDeadline) {
		*problems = append(*problems, fmt.Sprintf("--on-deadline %q: choose %s", operationName(f.onDeadline), f.deadlineNames()))
	}
	r.LockWait = f.wait.duration("wait", longestWait, problems)
	r.AnswerWithin = f.answerWithin.duration("answer-within", longestWait, problems)
	if f.queue == "" {
		*problems = append(*problems, "--task-queue is empty: name the queue of the worker that reaches the cluster")
	}
	return r
}

// settle ends the check of an operation's flags: with all problems, or with the cluster as the local inventory has it, whose digest goes into r. No inventory is nil.
func (f *requestFlags) settle(c *cli, r *operation.Request, problems []string) (*inventory.Cluster, error) {
	if len(problems) > 0 {
		return nil, badInputs(problems)
	}
	local, err := c.localCluster(f.inventory, r.Cluster)
	if err == nil && local != nil {
		r.InventoryDigest = local.Digest()
	}
	return local, err
}

// launch is an operation that is about to be started.
type launch struct {
	requestFlags
	request        operation.Request
	kind, workflow string
	input          any
	// summary and details are what was asked for, for the Web UI.
	summary, details string
}

// newID is a time for people and chance for uniqueness.
func newID(now time.Time) string {
	return now.UTC().Format("20060102-150405") + "-" + strings.ToLower(rand.Text()[:6])
}

// startOptions of an operation's workflow, the same for every kind.
func startOptions(workflowID, queue, cluster, kind, who, summary, details string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID: workflowID, TaskQueue: queue,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE, // an operation id is used once
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(cluster), operation.AttributeOperation.ValueSet(kind),
			operation.AttributePhase.ValueSet(operation.PhaseStarting), operation.AttributeNeedsOperator.ValueSet(false)),
		StaticSummary: operation.Shorten(summary, 400), StaticDetails: details,
		Memo: map[string]any{operation.MemoRequestedBy: who},
	}
}

// preflightEnd is how the start of an operation came out.
type preflightEnd struct {
	outcome operation.PreflightOutcome
	err     error
}

// launch starts an operation, waits for its preflight, and watches it to its end unless that is not wanted.
func (c *cli) launch(ctx context.Context, l launch) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, l.queue); err != nil {
		return err
	}

	workflowID := operation.WorkflowID(l.request.Cluster, l.kind, l.request.OperationID)
	options := startOptions(workflowID, l.queue, l.request.Cluster, l.kind, l.request.RequestedBy, l.summary, l.details)
	slow := time.AfterFunc(10*time.Second, func() {
		c.say("katoflow: no worker has taken operation %s yet, still waiting for one", l.request.OperationID)
	})
	defer slow.Stop()
	start := s.NewWithStartWorkflowOperation(options, l.workflow, l.input)
	handle, err := s.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			// Accepted, not completed: from here on the operation is there, and what it waits for can be shown. The update's id must be this
			// command's own: with the id of an earlier update the server would answer with that one's result and start nothing.
			UpdateName: operation.UpdatePreflight, UpdateID: updateOnce(operation.UpdatePreflight), WaitForStage: client.WorkflowUpdateStageAccepted,
		},
	})
	slow.Stop()
	if err != nil {
		return c.notStarted(ctx, s, workflowID, err)
	}
	w := c.newWatcher(s, workflowID)
	if l.detach && l.request.LockWait > 0 {
		return c.detached(operation.PreflightOutcome{OperationID: l.request.OperationID, WorkflowID: workflowID}, "started")
	}
	if l.detach {
		w.display = discard{}
	}

	// The preflight is waited for while the operation is watched: it may queue for the cluster for hours.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	end := make(chan preflightEnd, 1)
	go func() {
		var e preflightEnd
		e.err = awaitUpdate(watching, handle, &e.outcome)
		end <- e
		stop()
	}()
	err = w.run(watching)
	if ctx.Err() != nil {
		w.display.close(true)
		<-end
		return c.stopped(workflowID)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		w.display.close(true)
		stop()
		<-end
		return s.explain(err)
	}
	// Ended by the preflight's end, or because the operation has closed: then the answer to the update is there or lost with it.
	if err == nil {
		time.AfterFunc(5*time.Second, stop)
	}
	e := <-end
	if e.err != nil {
		w.display.close(false)
		return c.couldNotStart(ctx, s, workflowID, e.err)
	}
	if l.detach {
		return c.detached(e.outcome, "started, preflight passed")
	}
	c.tellOutcome(w, e.outcome)
	return c.follow(ctx, s, w)
}

// awaitUpdate waits for the end of an update through every outage of the server.
func awaitUpdate(ctx context.Context, handle client.WorkflowUpdateHandle, result any) error {
	for {
		err := handle.Get(ctx, result)
		var timeout *client.WorkflowUpdateServiceTimeoutOrCanceledError
		if err == nil || ctx.Err() != nil || !unreachable(err) && !errors.As(err, &timeout) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// notStarted explains why update-with-start failed.
func (c *cli) notStarted(ctx context.Context, s *server, workflowID string, err error) error {
	_, _, id, _ := operation.ParseWorkflowID(workflowID)
	switch {
	case ctx.Err() != nil:
		return &failure{code: exitInterrupted, lines: []string{fmt.Sprintf("interrupted while starting: operation %s may run all the same, see katoflow op show %s", id, workflowID)}}
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		return badInput("operation id %q has been used already: choose another --id, or leave it out; see katoflow op show %s", id, workflowID)
	case unreachable(err):
		return fail(exitNoServer, "the Temporal server at %s stopped answering: operation %s may have been started, see katoflow op show %s", s.address, id, workflowID)
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return c.couldNotStart(ctx, s, workflowID, err)
	}
	return s.explain(err)
}

// couldNotStart prints all problems that the operation found before it changed anything.
func (c *cli) couldNotStart(ctx context.Context, s *server, workflowID string, err error) error {
	// The closed operation says most; the update says enough when it cannot be read.
	octx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	report, code, oerr := s.outcome(octx, workflowID)
	if oerr != nil {
		var app *temporal.ApplicationError
		if !errors.As(err, &app) {
			return s.explain(err)
		}
		report, code = interpret(err, workflowID)
	}
	if c.output != "table" {
		if err := c.print(report, nil); err != nil {
			return err
		}
	}
	if code == exitDone { // it ended well and only the update's answer was lost
		return c.printEnd(report)
	}
	lines := view.FailureLines(report.Failure)
	if len(lines) == 0 {
		lines = []string{view.Outcome(report, c.now())}
	}
	return &failure{code: code, lines: lines}
}

// detached prints the ids and how to go on.
func (c *cli) detached(o operation.PreflightOutcome, how string) error {
	return c.print(o, func() string {
		text := fmt.Sprintf("operation %s %s\n", o.OperationID, how)
		if o.Nodes > 0 {
			text += foundText(o) + "\n"
		}
		for _, l := range view.PreflightNotes(o) {
			text += l + "\n"
		}
		return text + fmt.Sprintf("workflow %s\nwatch it with: katoflow op watch %s\n", o.WorkflowID, o.OperationID)
	})
}

// foundText is what the preflight found, in a few words.
func foundText(o operation.PreflightOutcome) string {
	if o.Found != "" {
		return o.Found
	}
	return fmt.Sprintf("%s, %s pending", plural(o.Nodes, "node"), plural(o.Pending, "package"))
}

// tellOutcome says what the preflight found and did not stop at. The report shows it again at the end.
func (c *cli) tellOutcome(w *watcher, o operation.PreflightOutcome) {
	if d, ok := w.display.(*plainDisplay); ok {
		d.line(c.now(), fmt.Sprintf("operation %s: preflight passed, %s", o.OperationID, foundText(o)))
		for _, l := range view.PreflightNotes(o) {
			d.line(c.now(), l)
		}
		return
	}
	if l, ok := w.display.(*liveDisplay); ok {
		l.close(false)
		fmt.Fprintf(c.out, "operation %s: preflight passed, %s\n", o.OperationID, foundText(o))
		_ = writeLines(c.out, view.PreflightNotes(o))
	}
}

// discard shows nothing.
type discard struct{}

func (discard) show(*operation.Report, string) {}
func (discard) close(bool)                     {}
