package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// handlers registers the verbs of every operation, before anything can block.
func (r *run) handlers(ctx workflow.Context) error {
	if err := workflow.SetQueryHandlerWithOptions(ctx, operation.QueryReport,
		func() (operation.Report, error) { return r.trimmedWithQuestions(), nil },
		workflow.QueryHandlerOptions{Description: "How far the operation is, node by node"}); err != nil {
		return err
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, operation.UpdatePreflight, r.onPreflight,
		workflow.UpdateHandlerOptions{Description: "Waits for the preflight and returns its outcome"}); err != nil {
		return err
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, operation.UpdatePause, r.onPause,
		workflow.UpdateHandlerOptions{Description: `Hold before the next node, step or app: {"who": "...", "reason": "..."}`, Validator: r.mayPause}); err != nil {
		return err
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, operation.UpdateResume, r.onResume,
		workflow.UpdateHandlerOptions{Description: `Go on after a pause: {"who": "..."}`, Validator: r.mayResume}); err != nil {
		return err
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, operation.UpdateDecide, r.onDecide,
		workflow.UpdateHandlerOptions{Description: `Answer an open question: {"node": "...", "step": "...", "try": 1, "decision": "retry"}`, Validator: r.mayDecide}); err != nil {
		return err
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, operation.UpdateSetBatch, r.onSetBatch,
		workflow.UpdateHandlerOptions{Description: `How many nodes at once from now on: {"batch": "2"} or {"batch": "25%"}`, Validator: r.maySetBatch})
}

func (r *run) onPreflight(ctx workflow.Context) (operation.PreflightOutcome, error) {
	if err := workflow.Await(ctx, func() bool { return r.preflightSettled }); err != nil {
		return operation.PreflightOutcome{}, err
	}
	if r.preflightFailure != nil {
		return operation.PreflightOutcome{}, operation.NewError(*r.preflightFailure)
	}
	return r.preflight, nil
}

// going says why a verb comes too late.
func (r *run) going() error {
	if r.cleanup {
		return fmt.Errorf("operation %s is ending", r.req.OperationID)
	}
	return nil
}

func (r *run) mayPause(operation.PauseRequest) error {
	if r.report.Paused {
		return fmt.Errorf("operation %s is paused already", r.req.OperationID)
	}
	return r.going()
}

func (r *run) onPause(ctx workflow.Context, in operation.PauseRequest) error {
	r.report.Paused = true
	r.report.Message = line("paused", in.Who, in.Reason)
	r.refresh(ctx)
	return nil
}

func (r *run) mayResume(operation.ResumeRequest) error {
	if !r.report.Paused {
		return fmt.Errorf("operation %s is not paused", r.req.OperationID)
	}
	return nil
}

func (r *run) onResume(ctx workflow.Context, in operation.ResumeRequest) error {
	r.report.Paused = false
	r.report.Message = line("resumed", in.Who, "")
	r.refresh(ctx)
	return nil
}

func (r *run) maySetBatch(in operation.SetBatchRequest) error {
	if _, err := operation.ParseBatch(in.Batch); err != nil {
		return err
	}
	if in.Batch == "" {
		return fmt.Errorf("batch is missing: write a number of nodes or a percentage")
	}
	if _, ok := r.procedure.(oneAtATime); ok {
		return fmt.Errorf("operation %s does one node at a time, and has no batch of them", r.req.OperationID)
	}
	if r.preflightSettled && len(r.plan.Nodes) == 0 {
		return fmt.Errorf("operation %s has no nodes, and no batch of them", r.req.OperationID)
	}
	if b, _ := operation.ParseBatch(in.Batch); r.preflightSettled && b.Exceeds(len(r.plan.Nodes)) {
		return fmt.Errorf("batch %s is more than the operation's %s: write a number up to that, or 100%%", b, count(len(r.plan.Nodes), "node"))
	}
	return r.going()
}

func (r *run) onSetBatch(ctx workflow.Context, in operation.SetBatchRequest) error {
	b, err := operation.ParseBatch(in.Batch)
	if err != nil {
		return err
	}
	r.batch, r.report.Batch = b, b.String()
	r.report.Slots = b.Of(len(r.plan.Nodes))
	r.report.Message = line("batch is now "+b.String(), in.Who, "")
	r.refresh(ctx)
	return nil
}

// mayDecide takes an answer only for the question that is open, in exactly the try it was asked for.
func (r *run) mayDecide(in operation.DecideRequest) error {
	q := r.find(in.Key())
	if q == nil {
		return fmt.Errorf("no question is open about %s, step %s, try %d: see `katoflow op show %s`",
			operation.Shorten(in.Node, 80), operation.Shorten(in.Step, 40), in.Try, r.req.OperationID)
	}
	return q.Check(in)
}

func (r *run) onDecide(ctx workflow.Context, in operation.DecideRequest) error {
	q := r.find(in.Key())
	if q == nil {
		return fmt.Errorf("the question was answered a moment ago")
	}
	r.answer(ctx, q, in, "operator")
	return nil
}

// find returns the open, unanswered question with a key.
func (r *run) find(key string) *question {
	for _, q := range r.questions {
		if q.Key() == key && q.answer == nil {
			return q
		}
	}
	return nil
}

func (r *run) answer(ctx workflow.Context, q *question, in operation.DecideRequest, by string) {
	in.Reason, in.Who = oneLine(in.Reason, 200), oneLine(in.Who, 80)
	a := operation.Answer{DecideRequest: in, At: stamp(ctx), By: by}
	q.answer = &a
	r.report.Answers = append(r.report.Answers, a)
}

// ask parks the operation, or a part of it, until an operator answers or the deadline policy does. It returns "" when the context was cancelled
// meanwhile, and Abort when the operation is aborted by another answer.
func (r *run) ask(ctx workflow.Context, node, step string, try int, cause operation.Failure, choices ...operation.Decision) operation.Decision {
	within := r.req.AnswerWithin
	if within <= 0 {
		within = operation.DefaultAnswerWithin
	}
	// A key is used once, so that a late answer never hits a later question.
	try = max(try, r.lastTry[node+"/"+step]+1)
	r.lastTry[node+"/"+step] = try
	now := workflow.Now(ctx)
	q := &question{Question: operation.Question{Node: node, Step: step, Try: try, Cause: cause, Choices: choices,
		AskedAt: stamp(ctx), AnswerBy: now.Add(within.D()).UTC().Format(time.RFC3339)}}
	r.questions = append(r.questions, q)
	r.refresh(ctx)
	r.notify(ctx, operation.EventParked, q.Question)
	aborted := func() bool { return r.aborting && slices.Contains(choices, operation.Abort) }
	answered, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout:      within.D(),
		TimerOptions: workflow.TimerOptions{Summary: operation.Shorten("decision for "+node+", "+step, 400)},
	}, func() bool { return q.answer != nil || aborted() })
	r.questions = slices.DeleteFunc(r.questions, func(o *question) bool { return o == q })
	defer r.refresh(ctx)
	switch {
	case q.answer != nil:
		return q.answer.Decision
	case err != nil:
		return ""
	case !answered:
		d := r.onDeadline(choices)
		r.answer(ctx, q, operation.DecideRequest{Node: node, Step: step, Try: try, Decision: d, Reason: "nobody answered within " + within.String()}, "deadline")
		return d
	}
	return operation.Abort
}

// onDeadline is the decision that nobody made: the request's, where the question takes it, else the safest one.
func (r *run) onDeadline(choices []operation.Decision) operation.Decision {
	for _, d := range []operation.Decision{r.req.OnDeadline, operation.Abort, operation.Leave} {
		if d != "" && slices.Contains(choices, d) {
			return d
		}
	}
	return choices[len(choices)-1]
}

// openQuestions are those without an answer, oldest first.
func (r *run) openQuestions() []operation.Question {
	var out []operation.Question
	for _, q := range r.questions {
		if q.answer == nil {
			out = append(out, q.Question)
		}
	}
	return out
}

func (r *run) trimmedWithQuestions() operation.Report {
	out := r.report
	out.Questions = r.openQuestions()
	out.Nodes = slices.Clone(out.Nodes)
	for i := range out.Nodes { // the output stands in the question already
		if slices.ContainsFunc(out.Questions, func(q operation.Question) bool { return q.Node == out.Nodes[i].Name }) {
			out.Nodes[i].Failure = withoutTail(out.Nodes[i].Failure, 1024)
		}
	}
	return trim(out)
}

// line joins what was done, by whom and why.
func line(what, who, why string) string {
	if who = oneLine(who, 80); who != "" {
		what += " by " + who
	}
	if why = oneLine(why, 200); why != "" {
		what += ": " + why
	}
	return what
}
