package workflows

// Relocation of data of one node to larger disks ("Relocating Services, Droplets, and Containers" of the source page). Before anything is changed: the volume is mounted, large enough and has quotas, it is no NFS
// for the filesystem service and no network disk for containers. Then
//
//  1. app instances are moved to other DEAs, where the node is one;
//  2. kato stop;
//  3. for services, droplets and containers, as asked for: the folder is made, the source kept beside itself by hard links; kato relocate KIND FOLDER; then names, modes, owners and sizes of all files there are
//     held against the source. What fails goes back to where it was, whatever kato has made of it;
//  4. kato start, and the gates of the cluster hold;
//  5. the source is removed.
//
// So while anybody is asked about a failure, the node runs. Until 4, nothing is written by anybody but kato relocate, and going back loses nothing; after that only an operator's answer goes back. A cancel ends
// where it is known that nothing is half done.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// StorageRelocate is the operation workflow. It completes with the report when all data that were asked for are at their new place and the gates held; otherwise it fails, or ends as cancelled, with the report
// in the details of its error.
func StorageRelocate(ctx workflow.Context, in operation.RelocateInput) (*operation.Report, error) {
	return operate(ctx, operation.KindRelocate, in.Request, "", &relocate{in: in})
}

type relocate struct {
	oneNode
	in  operation.RelocateInput
	out *operation.StorageReport
	// tries are how often each job was run, by its step; asked how often each step was asked about.
	tries, asked map[string]int
	// boots are those in which the sources were kept, by kind; retired that a retire was begun, and no kato start has followed it.
	boots   map[operation.StorageKind]string
	retired bool
	// stuck: it was left so that it is not known what runs on the node, or where its data are. Nothing is started there any more.
	stuck bool
	// left are gates that did not hold, and were left so.
	left *operation.Failure
}

func (p *relocate) attach(r *run) {
	p.run = r
	p.tries, p.asked, p.boots = map[string]int{}, map[string]int{}, map[operation.StorageKind]string{}
	p.out = &operation.StorageReport{Moves: p.in.Moves()}
	p.report.Storage = p.out
}

func (p *relocate) check() []string { return p.in.Check() }

func (p *relocate) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: p.in.Cluster, InventoryDigest: p.in.InventoryDigest, Nodes: []string{p.in.Node}}
}

func (p *relocate) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

func (p *relocate) wantsMaintenance() bool { return p.in.Maintenance }

// retires reports whether app instances leave the node before.
func (p *relocate) retires() bool {
	return !p.in.NoRetire && p.plan.DEAs > 1 && p.plan.Nodes[0].HasRole("dea")
}

// ready looks at the data and at the folders that they are to go to.
func (p *relocate) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	p.report.Slots = 0 // one node, and no batch
	if p.plan.Core == "" {
		return []string{fmt.Sprintf("cluster: cluster %s has no kato, which relocates data", p.in.Cluster)}, nil, nil
	}
	var storage *activities.Storage
	var found activities.RelocateReadyResult
	err = workflow.ExecuteActivity(following(ctx, "data and where they go", measureWithin), storage.RelocateReady,
		activities.RelocateReadyInput{Operation: p.op, Node: p.plan.Nodes[0], Moves: p.in.Moves(), Force: p.in.Force}).Get(ctx, &found)
	if err != nil {
		return nil, nil, err
	}
	p.out.Moves = found.Moves
	return found.Problems, found.Warnings, nil
}

// measureWithin bounds a look at data, which are counted.
const measureWithin = 3 * time.Hour

// found is what the starter says when the preflight has passed.
func (p *relocate) found() string {
	var parts []string
	for _, i := range p.todo() {
		m := p.out.Moves[i]
		parts = append(parts, fmt.Sprintf("%s (%s) to %s", m.Kind, operation.Size(m.Bytes), m.To))
	}
	if len(parts) == 0 {
		return "nothing to move on " + p.in.Node
	}
	return fmt.Sprintf("on %s: %s", p.in.Node, strings.Join(parts, ", "))
}

func (p *relocate) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	if len(p.todo()) == 0 {
		return nil, nil
	}
	var storage *activities.Storage
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), storage.PlanRelocate, activities.PlanRelocateInput{Operation: p.op, Node: p.plan.Nodes[0], Moves: p.out.Moves,
		Retire: p.retires(), KeepSource: p.in.KeepSource, Maintenance: p.in.Maintenance}).Get(ctx, &out)
	return out.Plans, err
}

// todo are the moves that are not done.
func (p *relocate) todo() (out []int) {
	for i := range p.out.Moves {
		switch p.out.Moves[i].Outcome {
		case operation.Moved, operation.MovedLeft, operation.WasThere:
		default:
			out = append(out, i)
		}
	}
	return out
}

func (p *relocate) steps(ctx workflow.Context) {
	p.takeUp(ctx)
	// Who cancels sees why nothing ends.
	workflow.GoNamed(ctx, "cancel", func(ctx workflow.Context) {
		ctx.Done().Receive(ctx, nil)
		p.remark("cancelled: the step is not interrupted; what is not done then goes back, and the roles are started")
		p.refresh(ctx)
	})
	if len(p.todo()) > 0 && p.retire(ctx) {
		p.rounds(ctx)
	}
	if p.retired && !p.stuck { // a DEA that was retired takes no instances until it is started
		disconnected, _ := workflow.NewDisconnectedContext(ctx)
		p.startRoles(disconnected)
		p.settleDown(disconnected, nil)
	}
	for _, i := range p.todo() {
		if m := &p.out.Moves[i]; m.Outcome == "" {
			m.Outcome = operation.NotMoved
		}
	}
	p.aborting = p.aborting || p.stuck
	p.leave(ctx, len(p.todo()) == 0 && !p.stuck)
}

// retire moves app instances to other DEAs. False: cancelled or aborted.
func (p *relocate) retire(ctx workflow.Context) bool {
	if !p.retires() {
		return true
	}
	var kato *activities.Kato
	for job, try := 1, 1; ; try++ {
		if p.goOn(ctx) != nil {
			return false
		}
		p.at(ctx, operation.StepRetire, try)
		p.retired = true
		in := p.nodeInput(job)
		err := workflow.ExecuteActivity(following(ctx, p.summary("retire: move app instances to other DEAs"), retireCeiling), kato.Retire, in).Get(ctx, nil)
		if err == nil {
			return true
		}
		if ctx.Err() != nil || p.aborting { // a job of it that still runs does no harm, and is not left alone
			disconnected, _ := workflow.NewDisconnectedContext(ctx)
			in.Settle = true
			_ = workflow.ExecuteActivity(following(disconnected, p.summary("cancel: let a retire end"), retireCeiling), kato.Retire, in).Get(disconnected, nil)
			return false
		}
		f := operation.FailureOf(err)
		if !operation.OutcomeUnknown(f.Type) {
			job++
		}
		switch p.failed(ctx, try, *f, operation.Retry, operation.Leave, operation.Abort) {
		case operation.Retry:
		case operation.Leave:
			p.node.Failure = nil
			p.remark("its app instances were not moved to other DEAs before")
			return true
		default:
			return false
		}
	}
}

func (p *relocate) nodeInput(job int) activities.NodeInput {
	return activities.NodeInput{Operation: p.op, Node: p.plan.Nodes[0], JobTry: job, UnreachableAfter: p.plan.UnreachableAfter}
}

func (p *relocate) summary(what string) string { return p.node.Name + ": " + what }

// rounds goes on until all is moved, or nobody wants it any more.
func (p *relocate) rounds(ctx workflow.Context) {
	for try := 1; len(p.todo()) > 0; try++ {
		if p.goOn(ctx) != nil {
			return
		}
		step, f := p.round(ctx)
		if f == nil || p.stuck || p.aborting || ctx.Err() != nil {
			return
		}
		p.at(ctx, step, try)
		if p.failed(ctx, try, *f, operation.Retry, operation.Abort) != operation.Retry {
			return
		}
	}
}

// round stops the roles, moves what is to be moved, and starts them again. It returns the step that failed, after which all is as it was but for what was moved before it.
func (p *relocate) round(given workflow.Context) (at string, failure *operation.Failure) {
	ctx, _ := workflow.NewDisconnectedContext(given) // a node is not left with its roles stopped
	began := workflow.Now(ctx)
	if failure = p.stopRoles(ctx); p.stuck {
		return p.node.Step, failure
	}
	at = p.node.Step
	var moved []int
	for _, i := range p.todo() {
		if failure != nil || given.Err() != nil || p.aborting {
			break
		}
		if failure = p.move(ctx, i); p.stuck {
			return p.node.Step, failure
		}
		at = p.node.Step
		if failure == nil {
			moved = append(moved, i)
			continue
		}
		p.node.Failure = failure
		if (failure.Type == operation.ErrInterrupted || failure.Type == operation.ErrLost) && !p.stopAgain(ctx, i) {
			return at, failure
		}
		if !p.back(ctx, i, true) {
			return at, failure
		}
		p.out.Moves[i].Outcome = operation.NotMoved
	}
	p.startRoles(ctx)
	p.out.Down += operation.Duration(workflow.Now(ctx).Sub(began))
	p.settleDown(ctx, moved)
	return at, failure
}

// settleDown waits until the cluster is as well as it was, and removes the sources then. Where it is not, the data can go back.
func (p *relocate) settleDown(ctx workflow.Context, moved []int) {
	outcome := operation.Moved
	for {
		f := p.gates(ctx)
		if f == nil {
			break
		}
		choices := []operation.Decision{operation.Retry, operation.Leave}
		if len(moved) > 0 { // never by a deadline: what was written since would be lost
			f.Message = operation.Shorten(f.Message, 800) + "; back puts the data back to where they were, without what was written since; leave ends with them at the new place, the source kept"
			choices = append(choices, operation.Back)
		}
		p.asked[operation.StepGates]++
		decision := p.failed(ctx, p.asked[operation.StepGates], *f, choices...)
		if decision == operation.Retry {
			continue
		}
		p.left = f
		if decision == operation.Back {
			p.goBack(ctx, moved)
			p.aborting = true
			return
		}
		p.node.Failure = nil
		p.remark("left so: " + f.Message)
		outcome = operation.MovedLeft
		break
	}
	for _, i := range moved {
		p.out.Moves[i].Outcome = outcome
		p.tidy(ctx, i, outcome == operation.MovedLeft || p.in.KeepSource)
	}
}

// goBack puts data back that the node has begun to use at their new place: somebody wants that.
func (p *relocate) goBack(ctx workflow.Context, moved []int) {
	began := workflow.Now(ctx)
	if !p.stopAgain(ctx, moved...) {
		return
	}
	for _, i := range slices.Backward(moved) {
		if !p.back(ctx, i, false) {
			return
		}
		p.out.Moves[i].Outcome = operation.NotMoved
	}
	p.startRoles(ctx)
	p.out.Down += operation.Duration(workflow.Now(ctx).Sub(began))
	for {
		f := p.gates(ctx)
		if f == nil {
			return
		}
		p.asked[operation.StepGates]++
		if p.failed(ctx, p.asked[operation.StepGates], *f, operation.Retry, operation.Leave) != operation.Retry {
			p.remark("left so: " + f.Message)
			return
		}
	}
}

// open says of data that it is not known where they are, or what becomes of them.
func (p *relocate) open(moves []int) {
	for _, i := range moves {
		p.out.Moves[i].Outcome = operation.MoveOpen
	}
	p.out.SourceKept = true
}

// stopAgain stops the roles before data go back: after a reboot they run. False: that was left, and so the data.
func (p *relocate) stopAgain(ctx workflow.Context, moves ...int) bool {
	left := p.untilDoneOrLeft(ctx, operation.StepStopRoles, func(int) error {
		_, err := p.job(ctx, operation.StepStopRoles, p.stop(ctx))
		return err
	})
	if left == nil {
		return true
	}
	p.stuck = true
	p.remark("its roles were not stopped, so that its data stay where they are, and their sources are kept: " + left.Message)
	p.open(moves)
	return false
}

// stopRoles is kato stop. p.stuck: it is not known whether it still runs, and that was left so.
func (p *relocate) stopRoles(ctx workflow.Context) *operation.Failure {
	return p.known(ctx, operation.StepStopRoles, p.stop(ctx))
}

// stop is one kato stop.
func (p *relocate) stop(ctx workflow.Context) step {
	var snapshots *activities.Snapshots
	return func(job int, settle bool) (bool, error) {
		return p.roles(ctx, "kato stop", snapshots.StopRoles, job, settle)
	}
}

// startRoles is kato start; the gates say whether it did.
func (p *relocate) startRoles(ctx workflow.Context) {
	var snapshots *activities.Snapshots
	left := p.untilDoneOrLeft(ctx, operation.StepStartRoles, func(int) error {
		_, err := p.job(ctx, operation.StepStartRoles, func(job int, settle bool) (bool, error) {
			return p.roles(ctx, "kato start", snapshots.StartRoles, job, settle)
		})
		return err
	})
	p.retired = false
	if left != nil {
		p.remark("its roles were not started: " + left.Message)
	}
}

func (p *relocate) roles(ctx workflow.Context, what string, activity any, job int, settle bool) (started bool, err error) {
	var out activities.NodesResult
	in := activities.NodesInput{Operation: p.op, Nodes: []string{p.node.Name}, Tries: map[string]int{p.node.Name: job}, Settle: settle, UnreachableAfter: p.plan.UnreachableAfter}
	if err := workflow.ExecuteActivity(following(ctx, p.summary(what), nodesCeiling+p.plan.UnreachableAfter.D()), activity, in).Get(ctx, &out); err != nil {
		return true, err
	}
	if len(out.Nodes) != 1 || out.Nodes[0].Failure == nil {
		return len(out.Nodes) != 1 || out.Nodes[0].Started, nil
	}
	return true, operation.NewError(*out.Nodes[0].Failure)
}

// step is one thing done on the node, as a job of that try; with settle it starts nothing, sees to it that nothing does, and says whether it was ever started.
type step func(job int, settle bool) (started bool, err error)

// job does a step with the next try of its job, which is the same one again as long as the outcome is not known.
func (p *relocate) job(ctx workflow.Context, name string, do step) (never bool, err error) {
	p.at(ctx, name, p.tries[name]+1)
	if _, err = do(p.tries[name]+1, false); err == nil {
		p.tries[name]++
		return false, nil
	}
	switch f := operation.FailureOf(err); f.Type {
	case operation.ErrDiskFull, operation.ErrMissingTool, operation.ErrRemoteBusy: // most likely it could not be started
		started, settleErr := do(p.tries[name]+1, true)
		if never = settleErr == nil && !started; never {
			p.tries[name]++
		}
	default:
		if !operation.OutcomeUnknown(f.Type) {
			p.tries[name]++
		}
	}
	return never, err
}

// known does a step until it is known how it ended: nothing else may be done while it may still run. p.stuck: that was left so.
func (p *relocate) known(ctx workflow.Context, name string, do step) *operation.Failure {
	for {
		never, err := p.job(ctx, name, do)
		if err == nil {
			return nil
		}
		f := operation.FailureOf(err)
		if never || !operation.OutcomeUnknown(f.Type) && f.Type != operation.ErrLost {
			return f
		}
		p.asked[name]++
		switch decision := p.failed(ctx, p.asked[name], *f, operation.Retry, operation.Leave); {
		case decision != operation.Retry:
			p.stuck = true
			p.remark("step "+name+" may still run there, so that nothing else was done: its roles may be stopped, and what was kept of its data is beside them", f.Message)
			return f
		case f.Type == operation.ErrLost: // somebody has looked
			return f
		}
	}
}

// moveInput is that of a step of a move.
func (p *relocate) moveInput(i, job int, settle bool) activities.MoveInput {
	in := activities.MoveInput{NodeInput: p.nodeInput(job), Move: p.out.Moves[i], Force: p.in.Force, Boot: p.boots[p.out.Moves[i].Kind]}
	in.Settle = settle
	return in
}

// relocationCeiling bounds one step that reads or writes all data of a kind.
const relocationCeiling = transferCeiling

// move moves one kind of data, and sees that they have come whole. p.stuck: it is not known what runs there.
func (p *relocate) move(ctx workflow.Context, i int) (f *operation.Failure) {
	var storage *activities.Storage
	m := &p.out.Moves[i]
	m.Outcome = operation.MoveOpen
	var kept activities.KeepResult
	var ran activities.JobResult
	var compared activities.CompareResult
	if f = p.moveStep(ctx, i, operation.StepKeep, "keep the source of "+string(m.Kind), storage.KeepSource, &kept, &kept.JobResult); f == nil {
		p.boots[m.Kind] = kept.Boot
		f = p.moveStep(ctx, i, operation.StepRelocate, "kato relocate "+string(m.Kind)+" "+m.To, storage.RelocateData, &ran, &ran)
	}
	if f == nil {
		f = p.moveStep(ctx, i, operation.StepCompare, "compare "+string(m.Kind), storage.CompareCopy, &compared, &compared.JobResult)
	}
	if p.stuck {
		p.open([]int{i})
	}
	if f == nil {
		m.Files, m.Bytes = compared.Files, compared.Bytes
	}
	return f
}

// moveStep is one step of a move; out is what it tells, in which job is.
func (p *relocate) moveStep(ctx workflow.Context, i int, name, what string, activity, out any, job *activities.JobResult) *operation.Failure {
	return p.known(ctx, name+"-"+string(p.out.Moves[i].Kind), func(try int, settle bool) (bool, error) {
		*job = activities.JobResult{}
		err := workflow.ExecuteActivity(following(ctx, p.summary(what), relocationCeiling), activity, p.moveInput(i, try, settle)).Get(ctx, out)
		p.remark(job.Notes...)
		return job.Started, err
	})
}

// putRight does a step that sets data right until it is done, or left.
func (p *relocate) putRight(ctx workflow.Context, i int, name, what string, activity any, change func(*activities.MoveInput)) *operation.Failure {
	name += "-" + string(p.out.Moves[i].Kind)
	return p.untilDoneOrLeft(ctx, name, func(int) error {
		_, err := p.job(ctx, name, func(try int, settle bool) (bool, error) {
			in := p.moveInput(i, try, settle)
			change(&in)
			var out activities.JobResult
			err := workflow.ExecuteActivity(following(ctx, p.summary(what), relocationCeiling), activity, in).Get(ctx, &out)
			p.remark(out.Notes...)
			return out.Started, err
		})
		return err
	})
}

// back puts data back to where they were; discard when nobody has written to their new place. False: that was left, and it is not known where they are.
func (p *relocate) back(ctx workflow.Context, i int, discard bool) bool {
	var storage *activities.Storage
	m := p.out.Moves[i]
	left := p.putRight(ctx, i, operation.StepSwitchBack, "put "+string(m.Kind)+" back", storage.SwitchBack, func(in *activities.MoveInput) { in.Discard = discard })
	if left == nil {
		return true
	}
	p.stuck = true
	p.open([]int{i})
	p.remark(fmt.Sprintf("%s were not put back, so that the roles were not started: %s; what was kept is in %s", m.Kind, left.Message, m.Kept))
	return false
}

// tidy removes the source that was kept, or says where it is.
func (p *relocate) tidy(ctx workflow.Context, i int, stays bool) {
	var storage *activities.Storage
	m := &p.out.Moves[i]
	left := p.putRight(ctx, i, operation.StepTidy, "remove the source of "+string(m.Kind), storage.TidySource, func(in *activities.MoveInput) { in.Stays = stays })
	if left != nil {
		p.remark("the source of " + string(m.Kind) + " was not removed: " + left.Message)
		if left.Type == operation.ErrVerify { // they are not where they were moved to
			m.Outcome = operation.MoveOpen
		}
	}
	p.out.SourceKept = p.out.SourceKept || stays || left != nil
}

// gates says what does not hold that held before; nil when all does.
func (p *relocate) gates(ctx workflow.Context) *operation.Failure {
	p.at(ctx, operation.StepGates, p.asked[operation.StepGates]+1)
	var nodes *activities.Nodes
	var result activities.GatesResult
	err := workflow.ExecuteActivity(following(ctx, "gates of the cluster", p.plan.GateTimeout.D()), nodes.ClusterGates, activities.ClusterGatesInput{Operation: p.op,
		Baseline: p.report.BrokenBefore, Times: p.plan.GateTimes, Interval: p.plan.GateInterval, Timeout: p.plan.GateTimeout}).Get(ctx, &result)
	if err == nil && result.Held {
		p.left = nil
		return nil
	}
	f := gatesFailure("the cluster", result, err)
	return &f
}

// movedSummary says how much was moved.
func movedSummary(report *operation.Report) string {
	var parts []string
	for _, m := range report.Storage.Moves {
		switch m.Outcome {
		case operation.Moved, operation.MovedLeft:
			parts = append(parts, fmt.Sprintf("%s (%s, %s) moved to %s", m.Kind, operation.Size(m.Bytes), count(m.Files, "file"), m.To))
		case operation.WasThere:
			parts = append(parts, fmt.Sprintf("%s were in %s already", m.Kind, m.To))
		}
	}
	if len(parts) == 0 {
		return "nothing was moved"
	}
	return strings.Join(parts, ", ")
}

// outcomeText is the message of an operation that ended well.
func (p *relocate) outcomeText() string { return movedSummary(&p.report) }

// soFar is the message of an operation that did not come to its end.
func (p *relocate) soFar() string {
	text := movedSummary(&p.report)
	var not []string
	for _, i := range p.todo() {
		if m := p.out.Moves[i]; m.Outcome == operation.MoveOpen {
			not = append(not, fmt.Sprintf("where %s are is not known, the source is in %s", m.Kind, m.Kept))
		}
	}
	return strings.Join(append([]string{text}, not...), "; ")
}

// fell says that gates were left that do not hold.
func (p *relocate) fell() *operation.Failure {
	if p.left == nil {
		return nil
	}
	return &operation.Failure{Type: p.left.Type, Message: oneLine(p.outcomeText()+"; left so: "+p.left.Message, 1000)}
}
