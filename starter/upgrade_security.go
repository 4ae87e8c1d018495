package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// memoRequestedBy is the field of the memo that names who asked.
const memoRequestedBy = "requestedBy"

// Longest times that can be asked for.
const (
	longestSoak = 7 * 24 * time.Hour
	longestWait = 30 * 24 * time.Hour
)

// securityFlags are the flags of `upgrade security` as they were written.
type securityFlags struct {
	nodes, roles, roleOrder      []string
	batch, reboot, id            string
	canary, pin, retire          bool
	maintenance, dryRun, detach  bool
	soak, wait, answerWithin     textFlag
	maxFailures                  textFlag
	onDeadline, inventory, queue string
}

func (c *cli) upgradeSecurityCommand() *cobra.Command {
	var f securityFlags
	cmd := &cobra.Command{
		Use:   "security CLUSTER",
		Short: "Rolling security upgrade with reboots, node by node",
		Long: `Install all pending security updates on the nodes of a cluster and reboot them, a batch at a time.

Before anything is changed all nodes are asked whether they are ready; every problem is listed at once. Then the first
node goes alone (the canary), and the others follow in the order of their roles. The next node waits until the gates of the
whole cluster hold. A node that fails is asked about: answer with katoflow op decide.

The operation goes on whatever becomes of this command; Ctrl-C ends the watching only.`,
		Example: `  # what would be done, command by command; nothing is changed
  katoflow upgrade security prod --dry-run

  # two nodes at once, the canary watched for ten minutes before the others
  katoflow upgrade security prod --batch 2 --soak 10m

  # only the DEAs, reboot only where it is needed, at most one failed node
  katoflow upgrade security prod --roles dea --reboot if-required --max-failures 1

  # queue behind the operation that holds the cluster, and do not watch
  katoflow upgrade security prod --wait=4h --detach`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.upgradeSecurity(cmd.Context(), args[0], &f) },
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *securityFlags) register(c *cli, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.dryRun, "dry-run", false, "plan only: print the commands of every node, change nothing")
	flags.StringSliceVar(&f.nodes, "nodes", nil, "only these nodes, separated by commas")
	flags.StringSliceVar(&f.roles, "roles", nil, "only nodes with one of these roles")
	flags.StringVar(&f.batch, "batch", "1", "nodes out of service at once: a number, or a percentage such as 25%")
	flags.BoolVar(&f.canary, "canary", true, "the first node goes alone")
	durationFlag(flags, &f.soak, "soak", "", "how long the canary is watched before the others follow")
	flags.StringVar(&f.reboot, "reboot", string(operation.RebootAlways), "always, if-required or never")
	flags.StringSliceVar(&f.roleOrder, "role-order", nil, "order of the roles (als; default: dea, controller, router, base, primary, then the data services)")
	flags.BoolVar(&f.pin, "pin", false, "all nodes must reach exactly the canary's package versions")
	f.maxFailures.kind = "number"
	flags.Var(&f.maxFailures, "max-failures", "so many failed nodes are skipped without asking, one more aborts (default: every failed node is asked about)")
	flags.BoolVar(&f.maintenance, "maintenance", false, "maintenance mode on for the time of the operation (als)")
	flags.BoolVar(&f.retire, "retire", true, "move app instances away from a DEA before it is upgraded (als)")
	durationFlag(flags, &f.wait, "wait", "", "queue for the cluster while another operation holds it; --wait alone is 24h")
	flags.Lookup("wait").NoOptDefVal = "24h"
	flags.BoolVar(&f.detach, "detach", false, "return after the preflight (with --wait: once started) instead of watching")
	flags.StringVar(&f.id, "id", "", "operation id, used once only (default: made of date and chance)")
	durationFlag(flags, &f.answerWithin, "answer-within", "", "how long a question stays open (default 72h)")
	flags.StringVar(&f.onDeadline, "on-deadline", "", "what is decided when nobody answers: abort or skip (default abort)")
	flags.StringVar(&f.queue, "task-queue", operation.DefaultTaskQueue, "task queue of the worker that reaches the cluster")
	c.inventoryFlag(flags, &f.inventory)
	fixed := func(name string, values ...string) {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	fixed("reboot", string(operation.RebootAlways), string(operation.RebootIfRequired), string(operation.RebootNever))
	fixed("on-deadline", string(operation.Abort), string(operation.Skip))
	must(cmd.RegisterFlagCompletionFunc("nodes", c.completeNodes(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("roles", c.completeRoles(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("role-order", c.completeRoles(&f.inventory)))
	for _, name := range []string{"batch", "soak", "max-failures", "wait", "id", "answer-within", "task-queue"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// input checks all flags and gives every problem at once.
func (f *securityFlags) input(c *cli, cluster string) (operation.SecurityUpgradeInput, error) {
	var problems []string
	note := func(err error) {
		if err != nil {
			problems = append(problems, err.Error())
		}
	}
	in := operation.SecurityUpgradeInput{
		Request: operation.Request{OperationID: f.id, Cluster: cluster, RequestedBy: c.who(), DryRun: f.dryRun, OnDeadline: operation.Decision(f.onDeadline)},
		Nodes:   f.nodes, Roles: f.roles, Batch: f.batch, NoCanary: !f.canary, Reboot: operation.RebootPolicy(f.reboot), RoleOrder: f.roleOrder,
		Pin: f.pin, Maintenance: f.maintenance, NoRetire: !f.retire,
	}
	note(checkCluster(cluster))
	if in.OperationID == "" {
		in.OperationID = newID(c.now())
	} else {
		note(operation.CheckID(in.OperationID))
		if operation.ReservedID(in.OperationID) {
			problems = append(problems, fmt.Sprintf("operation id %q: this form belongs to the runs of schedules, choose another", in.OperationID))
		}
	}
	problems = append(problems, checkNodes(f.nodes)...)
	problems = append(problems, checkRoles("roles", f.roles)...)
	problems = append(problems, checkRoles("role-order", f.roleOrder)...)
	if f.batch == "" {
		problems = append(problems, `--batch is empty: write a number of nodes ("3") or a percentage ("25%")`)
	} else {
		_, err := operation.ParseBatch(f.batch)
		note(err)
	}
	switch in.Reboot {
	case operation.RebootAlways, operation.RebootIfRequired, operation.RebootNever:
	default:
		problems = append(problems, fmt.Sprintf("--reboot %q: choose always, if-required or never", operationName(f.reboot)))
	}
	switch in.OnDeadline {
	case "", operation.Abort, operation.Skip:
	default:
		problems = append(problems, fmt.Sprintf("--on-deadline %q: choose abort or skip", operationName(f.onDeadline)))
	}
	if f.maxFailures.text != "" {
		n, err := strconv.Atoi(f.maxFailures.text)
		if err != nil || n < 0 || n > 100_000 {
			problems = append(problems, fmt.Sprintf("--max-failures %q: write a number of nodes, 0 or more", operationName(f.maxFailures.text)))
		}
		in.MaxFailures = &n
	}
	in.Soak = f.soak.duration("soak", longestSoak, &problems)
	in.LockWait = f.wait.duration("wait", longestWait, &problems)
	in.AnswerWithin = f.answerWithin.duration("answer-within", longestWait, &problems)
	if f.queue == "" {
		problems = append(problems, "--task-queue is empty: name the queue of the worker that reaches the cluster")
	}
	if f.pin && !f.canary {
		problems = append(problems, "--pin needs the canary, whose versions the others must reach: leave --canary=false out")
	}
	if len(problems) > 0 {
		return in, badInputs(problems)
	}

	local, err := c.localCluster(f.inventory, cluster)
	if err != nil || local == nil {
		return in, err
	}
	in.InventoryDigest = local.Digest()
	_, err = local.Select(f.nodes, f.roles)
	note(err)
	note(local.CheckRoleOrder(f.roleOrder))
	return in, badInputs(problems)
}

// newID is a time for people and chance for uniqueness.
func newID(now time.Time) string {
	return now.UTC().Format("20060102-150405") + "-" + strings.ToLower(rand.Text()[:6])
}

// details is what was asked for, for the Web UI.
func details(in operation.SecurityUpgradeInput) string {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, value)
		}
	}
	code := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		return "`" + strings.Join(list, "`, `") + "`"
	}
	fmt.Fprintf(&b, "Rolling security upgrade of `%s`, asked for by `%s`.\n\n", in.Cluster, strings.ReplaceAll(oneLine(in.RequestedBy), "`", "'"))
	if in.DryRun {
		row("dry run", "nothing is changed")
	}
	row("nodes", code(in.Nodes))
	row("roles", code(in.Roles))
	row("batch", in.Batch)
	if in.NoCanary {
		row("canary", "none")
	}
	if in.Soak > 0 {
		row("soak", in.Soak.String())
	}
	row("reboot", string(in.Reboot))
	row("role order", code(in.RoleOrder))
	if in.Pin {
		row("versions", "pinned to the canary's")
	}
	if in.MaxFailures != nil {
		row("failed nodes skipped without asking", fmt.Sprint(*in.MaxFailures))
	}
	if in.Maintenance {
		row("maintenance mode", "on during the operation")
	}
	if in.NoRetire {
		row("app instances", "not moved away from the DEAs")
	}
	if in.LockWait > 0 {
		row("waits for the cluster", in.LockWait.String())
	}
	return operation.Shorten(b.String(), 4000)
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
		Memo: map[string]any{memoRequestedBy: who},
	}
}

// preflightEnd is how the start of an operation came out.
type preflightEnd struct {
	outcome operation.PreflightOutcome
	err     error
}

func (c *cli) upgradeSecurity(ctx context.Context, cluster string, f *securityFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, f.queue); err != nil {
		return err
	}

	workflowID := operation.WorkflowID(cluster, operation.KindSecurityUpgrade, in.OperationID)
	options := startOptions(workflowID, f.queue, cluster, operation.KindSecurityUpgrade, in.RequestedBy, "Rolling security upgrade of "+cluster, details(in))
	slow := time.AfterFunc(10*time.Second, func() {
		c.say("katoflow: no worker has taken operation %s yet, still waiting for one", in.OperationID)
	})
	defer slow.Stop()
	start := s.NewWithStartWorkflowOperation(options, operation.WorkflowSecurityUpgrade, in)
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
	if f.detach && in.LockWait > 0 {
		return c.detached(operation.PreflightOutcome{OperationID: in.OperationID, WorkflowID: workflowID}, "started")
	}
	if f.detach {
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
	if f.detach {
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
			text += fmt.Sprintf("%s, %s pending\n", plural(o.Nodes, "node"), plural(o.Pending, "package"))
		}
		for _, l := range view.PreflightNotes(o) {
			text += l + "\n"
		}
		return text + fmt.Sprintf("workflow %s\nwatch it with: katoflow op watch %s\n", o.WorkflowID, o.OperationID)
	})
}

// tellOutcome says what the preflight found and did not stop at. The report shows it again at the end.
func (c *cli) tellOutcome(w *watcher, o operation.PreflightOutcome) {
	if d, ok := w.display.(*plainDisplay); ok {
		d.line(c.now(), fmt.Sprintf("operation %s: preflight passed, %s, %s pending", o.OperationID, plural(o.Nodes, "node"), plural(o.Pending, "package")))
		for _, l := range view.PreflightNotes(o) {
			d.line(c.now(), l)
		}
		return
	}
	if l, ok := w.display.(*liveDisplay); ok {
		l.close(false)
		fmt.Fprintf(c.out, "operation %s: preflight passed, %s, %s pending\n", o.OperationID, plural(o.Nodes, "node"), plural(o.Pending, "package"))
		_ = writeLines(c.out, view.PreflightNotes(o))
	}
}

// discard shows nothing.
type discard struct{}

func (discard) show(*operation.Report, string) {}
func (discard) close(bool)                     {}
