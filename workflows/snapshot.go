package workflows

// Snapshots of all nodes at one moment ("Snapshots" of the source page). The system state of cluster nodes is highly interdependent, so a set of them is worth as much as its moment is
// good. A round is
//
//  1. the cluster in maintenance mode;
//  2. kato stop on all nodes, side by side, the Core last;
//  3. the VMs shut down;
//  4. every snapshot requested at the same instant, once all nodes are ready and their file systems frozen;
//  5. the VMs on, kato start on the Core, then on the others; the gates hold; maintenance mode as found;
//
// of which 1 to 3 are done as the quiesce levels say. A round whose snapshots are not all there, or whose moment is not as good as was asked for, is void: what there is of it
// is deleted, and the next one is tried. Of the round that counts
//
//  6. every snapshot is waited for until it can be gone back to;
//  7. the set's manifest is written, the last thing of all.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// Snapshot is the operation workflow. It completes with the report when the set's manifest is written; otherwise it fails, or ends as cancelled, with the report in the details of its
// error. Whatever becomes of it, the cluster is resumed, and no snapshot is left that is not in a manifest.
func Snapshot(ctx workflow.Context, in operation.SnapshotInput) (*operation.Report, error) {
	return operate(ctx, operation.KindSnapshot, in.Request, "", &snapshot{in: in})
}

type snapshot struct {
	*machines
	in operation.SnapshotInput

	levels   []operation.Quiesce
	provider string
	// off says that VMs may be: they are to be started again on every path. stopping: some may be on their way down.
	off      bool
	stopping bool
	// froze: file systems may have been frozen in this round.
	froze     bool
	downSince time.Time
	taken     []activities.TakenSnapshot
	// began: a round was begun, so that there may be snapshots.
	began bool
	// asked is when the last request of a round was sent; void that of a round that does not count. Zero for never.
	asked, void time.Time
}

func (s *snapshot) attach(r *run) { s.machines = allMachines(r) }

func (s *snapshot) check() []string { return s.in.Check("") }

func (s *snapshot) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: s.in.Cluster, InventoryDigest: s.in.InventoryDigest}
}

func (s *snapshot) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

// wantsMaintenance is false because the mode is on for the time of a round alone.
func (s *snapshot) wantsMaintenance() bool { return false }

func (s *snapshot) does(q operation.Quiesce) bool { return slices.Contains(s.levels, q) }

// ready asks the hypervisor and the bucket for what a set needs of them.
func (s *snapshot) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	s.report.Slots = 0 // all nodes at once, always
	s.levels = s.in.Levels(s.plan.Platform)
	s.report.Snapshot = &operation.Snapshotted{Set: s.req.OperationID, Quiesce: s.levels}
	if wrong := s.in.Check(s.plan.Platform); len(wrong) > 0 {
		return wrong, nil, nil
	}
	var snapshots *activities.Snapshots
	var out activities.SnapshotReadyResult
	err = workflow.ExecuteActivity(following(ctx, "what a set of snapshots needs", time.Hour), snapshots.SnapshotReady,
		activities.SnapshotReadyInput{Operation: s.op, Nodes: s.names(), Quiesce: s.levels}).Get(ctx, &out)
	s.provider, s.report.Snapshot.Provider = out.Provider, out.Provider
	return out.Problems, out.Warnings, err
}

// found is what the starter says when the preflight has passed.
func (s *snapshot) found() string {
	var levels []string
	for _, l := range s.levels {
		levels = append(levels, string(l))
	}
	return fmt.Sprintf("%s by %s, quiesce %s", count(len(s.plan.Nodes), "node"), s.provider, strings.Join(levels, ", "))
}

func (s *snapshot) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var snapshots *activities.Snapshots
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), snapshots.PlanSnapshots, activities.PlanSnapshotsInput{Operation: s.op, Nodes: s.names(), Quiesce: s.levels}).Get(ctx, &out)
	return out.Plans, err
}

func (s *snapshot) steps(ctx workflow.Context) {
	s.begin(ctx)
	ok := s.rounds(ctx, s.oneRound) && s.keep(ctx)
	if !ok && s.began {
		s.discard(ctx, 0, true)
	}
	if !ok {
		s.report.Snapshot.Snapshots, s.report.Snapshot.Moment = nil, nil
	}
	s.leave(ctx, ok)
}

// rounds tries until a round counts; what there is of one that does not is deleted. False: cancelled or aborted.
func (s *snapshot) rounds(ctx workflow.Context, one func(workflow.Context) *operation.Failure) bool {
	most := s.in.Rounds
	if most == 0 {
		most = operation.DefaultSnapshotRounds
	}
	for tried := 1; ; tried++ {
		if f := s.goOn(ctx); f != nil {
			return false
		}
		s.report.Snapshot.Round++
		void := one(ctx)
		if void == nil {
			return true
		}
		s.void = s.asked
		if ctx.Err() != nil || s.aborting {
			return false
		}
		s.report.Snapshot.Void = append(s.report.Snapshot.Void, operation.Shorten(fmt.Sprintf("round %d: %s", s.report.Snapshot.Round, void.Message), 500))
		s.discard(ctx, 0, false)
		if ctx.Err() != nil || s.aborting {
			return false
		}
		if tried < most {
			continue
		}
		tried = 0
		switch s.ask(ctx, operation.ClusterNode, operation.StepSnapshots, s.report.Snapshot.Round, *void, operation.Retry, operation.Abort) {
		case operation.Retry:
		case operation.Abort:
			s.aborting = true
		}
		if ctx.Err() != nil || s.aborting {
			return false
		}
	}
}

// oneRound is one round from the first thing that is stopped to the last that is started. The failure is why it does not count; it is resumed all the same.
func (s *snapshot) oneRound(ctx workflow.Context) *operation.Failure {
	s.stopped, s.started, s.down, s.taken, s.off = map[string]int64{}, map[string]int64{}, map[string]bool{}, nil, false
	s.froze = false
	s.report.Snapshot.Moment, s.report.Snapshot.Snapshots, s.report.Snapshot.Frozen = nil, nil, 0
	f := s.quiet(ctx)
	if f == nil {
		f = s.take(ctx)
	}
	if f != nil && f.Type == operation.ErrFrozen {
		// Nothing else goes on there before somebody has thawed it.
		switch s.ask(ctx, operation.ClusterNode, operation.StepSnapshots, s.report.Snapshot.Round, *f, operation.Retry, operation.Abort) {
		case operation.Retry:
		case operation.Abort:
			s.aborting = true
		}
	}
	s.resume(ctx)
	if f == nil {
		f = s.judge()
	}
	return f
}

// quiet prepares all nodes.
func (s *snapshot) quiet(ctx workflow.Context) *operation.Failure {
	stopped := &operation.Failure{Type: operation.ErrCancelled, Message: "not all nodes were made quiet"}
	if s.does(operation.QuiesceMaintenance) {
		s.at(ctx, operation.StepMaintenanceOn)
		if !s.enterMaintenance(ctx) {
			return stopped
		}
	}
	if s.does(operation.QuiesceRolesStopped) {
		s.downSince = workflow.Now(ctx)
		for _, group := range s.coreLast() {
			if !s.stopRoles(ctx, group) {
				return stopped
			}
		}
	}
	if s.does(operation.QuiesceVMsStopped) {
		if s.downSince.IsZero() {
			s.downSince = workflow.Now(ctx)
		}
		if !s.stopVMs(ctx) {
			return stopped
		}
	}
	return nil
}

func (s *snapshot) stopRoles(ctx workflow.Context, nodes []string) bool {
	var snapshots *activities.Snapshots
	for _, n := range nodes {
		s.down[n] = true
	}
	return s.onNodes(ctx, nodes, sideBySide{step: operation.StepStopRoles, what: "kato stop", activity: snapshots.StopRoles, otherwise: operation.Abort,
		done: func(o activities.NodeOutcome) { s.stopped[o.Node] = o.Stamp }})
}

func (s *snapshot) stopVMs(ctx workflow.Context) bool {
	s.off, s.stopping = true, true
	var snapshots *activities.Snapshots
	s.stopping = !s.onNodes(ctx, s.names(), sideBySide{step: operation.StepStopVMs, what: "shut the VMs down", activity: snapshots.StopVMs, otherwise: operation.Abort})
	return !s.stopping
}

// take is the barrier: one activity makes everything ready and sends all requests at the same instant.
func (s *snapshot) take(ctx workflow.Context) *operation.Failure {
	s.at(ctx, operation.StepSnapshots)
	s.began, s.froze = true, s.does(operation.QuiesceFrozen)
	var snapshots *activities.Snapshots
	var out activities.TakeSnapshotsResult
	deadline := s.in.RoundDeadline()
	err := workflow.ExecuteActivity(following(ctx, fmt.Sprintf("snapshots of %s, round %d", count(len(s.plan.Nodes), "node"), s.report.Snapshot.Round), deadline.D()+time.Hour), snapshots.TakeSnapshots,
		activities.TakeSnapshotsInput{Operation: s.op, Nodes: s.names(), Round: s.report.Snapshot.Round, Deadline: deadline,
			Clocks: !s.does(operation.QuiesceVMsStopped), VMsOff: s.does(operation.QuiesceVMsStopped), Frozen: s.does(operation.QuiesceFrozen), UnreachableAfter: s.plan.UnreachableAfter}).Get(ctx, &out)
	if err != nil || out.Asked {
		s.asked = workflow.Now(ctx)
	}
	if err != nil {
		return operation.FailureOf(err)
	}
	s.taken = out.Taken
	var failed []activities.NodeOutcome
	for _, t := range out.Taken {
		if t.Failure != nil {
			failed = append(failed, activities.NodeOutcome{Node: t.Node, Failure: t.Failure})
		}
	}
	// What nobody but the operator can mend comes first.
	rank := func(o activities.NodeOutcome) int {
		if o.Failure.Type == operation.ErrFrozen {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(failed, func(a, b activities.NodeOutcome) int { return rank(a) - rank(b) })
	if len(failed) > 0 {
		f := together(failed)
		return &f
	}
	return nil
}

// resume starts what this round has stopped, whatever became of it, and puts maintenance mode back. What cannot be started is a question.
func (s *snapshot) resume(ctx workflow.Context) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var snapshots *activities.Snapshots
	if s.off {
		if s.stopping {
			s.endShutdowns(ctx)
		}
		s.onNodes(ctx, s.names(), sideBySide{step: operation.StepStartVMs, what: "switch the VMs on", activity: snapshots.StartVMs, otherwise: operation.Leave})
		s.off = false
	}
	if len(s.down) > 0 {
		s.startRoles(ctx)
	}
	if !s.downSince.IsZero() || s.froze {
		s.resumed(ctx)
	}
	if !s.downSince.IsZero() {
		s.report.Snapshot.Down += operation.Duration(workflow.Now(ctx).Sub(s.downSince))
		s.downSince = time.Time{}
	}
	if s.readOnly {
		s.report.Snapshot.MaintenanceFound = s.run.found
		s.leaveMaintenance(ctx)
	}
}

// judge says how good the moment of the round was. The failure is why it does not count.
func (s *snapshot) judge() *operation.Failure {
	void := func(format string, args ...any) *operation.Failure {
		return &operation.Failure{Type: operation.ErrSnapshot, Message: operation.Shorten(fmt.Sprintf(format, args...), 1024)}
	}
	quiet := ""
	switch {
	case s.does(operation.QuiesceVMsStopped):
		quiet = "VMs stopped"
	case s.does(operation.QuiesceFrozen):
		quiet = "file systems frozen"
	case s.does(operation.QuiesceRolesStopped):
		quiet = "roles stopped"
	}
	var measured []operation.MeasuredSnapshot
	out := s.report.Snapshot
	for _, t := range s.taken {
		m := operation.MeasuredSnapshot{Requested: timeOf(t.Requested), Completed: timeOf(t.Completed), Offset: t.ClockOffset.D(), Error: t.ClockError.D()}
		prepared, resumed := t.PreparedAt, t.ResumedAt
		if prepared > 0 { // by the worker's clock, as the requests are
			m.Offset, m.Error = 0, 0
		} else if quiet == "roles stopped" {
			prepared, resumed = s.stopped[t.Node], s.started[t.Node]
		}
		if prepared > 0 && resumed > 0 {
			m.Prepared, m.Resumed = time.Unix(0, prepared), time.Unix(0, resumed)
			t.SnapshotOf.Prepared, t.SnapshotOf.Resumed = fine(m.Prepared.Add(-m.Offset)), fine(m.Resumed.Add(-m.Offset))
		}
		out.Frozen = max(out.Frozen, t.Frozen)
		measured = append(measured, m)
		out.Snapshots = append(out.Snapshots, t.SnapshotOf)
	}
	moment := operation.JudgeMoment(quiet, measured)
	out.Moment = &moment
	switch {
	case !moment.Measured && s.in.MaxSkew > 0:
		return void("a worker died while the snapshots were taken, so that their skew is not known")
	case s.in.MaxSkew > 0 && moment.SkewBound > s.in.MaxSkew:
		return void("the skew may be %s, and %s is the limit", moment.SkewBound.D().Round(time.Millisecond), s.in.MaxSkew)
	case quiet != "" && moment.Measured && !moment.Inside:
		return void("not every snapshot lies in the time in which nothing was written (%s)", quiet)
	}
	if !moment.Measured {
		s.warn("a worker died while the snapshots were taken: their skew is not known")
	}
	return nil
}

// timeOf reads a time of an activity; the zero time for none.
func timeOf(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

func fine(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// keep waits until the snapshots can be used, and writes the manifest. False: cancelled or aborted.
func (s *snapshot) keep(ctx workflow.Context) bool {
	var snapshots *activities.Snapshots
	out := s.report.Snapshot
	ok := s.until(ctx, operation.StepUsable, func() error {
		var usable activities.UsableResult
		err := workflow.ExecuteActivity(following(ctx, "until every snapshot can be used", usableCeiling), snapshots.Usable,
			activities.UsableInput{Operation: s.op, Nodes: s.names(), Round: out.Round, UnreachableAfter: s.plan.UnreachableAfter}).Get(ctx, &usable)
		for _, have := range usable.Snapshots {
			for i := range out.Snapshots {
				if out.Snapshots[i].Node == have.Node {
					out.Snapshots[i].ID, out.Snapshots[i].Size = have.ID, have.Size
				}
			}
		}
		return err
	})
	if ok && out.Round > 1 && !s.void.IsZero() {
		s.discard(ctx, out.Round, true) // what was asked for in a round before may have come since
	}
	return ok && s.until(ctx, operation.StepSetManifest, func() error {
		return workflow.ExecuteActivity(quick(ctx, "manifest of the set"), snapshots.KeepSet, s.set()).Get(ctx, &out.Location)
	})
}

// usableCeiling bounds the copying of a snapshot.
const usableCeiling = 7 * 24 * time.Hour

// set is the manifest.
func (s *snapshot) set() operation.SnapshotSet {
	set := operation.SnapshotSet{Format: operation.SnapshotSetFormat, Cluster: s.in.Cluster, Platform: s.plan.Platform, Snapshotted: *s.report.Snapshot, Who: s.in.RequestedBy, Note: s.in.Note,
		Nodes: s.plan.Nodes, Core: s.plan.Core, BrokenBefore: s.report.BrokenBefore}
	for _, have := range set.Snapshots {
		if have.Completed > set.TakenAt { // all of one form, in UTC
			set.TakenAt = have.Completed
		}
	}
	return set
}

// discard deletes the snapshots of all rounds but the one that is kept, 0 for none; the last time also what comes late. What cannot be deleted is a question.
func (s *snapshot) discard(ctx workflow.Context, keep int, last bool) {
	var snapshots *activities.Snapshots
	var asked *operation.Duration
	since := s.void
	if keep == 0 {
		since = s.asked
	}
	if last && !since.IsZero() {
		asked = new(operation.Duration(workflow.Now(ctx).Sub(since)))
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	s.at(ctx, operation.StepDiscard)
	for try := 1; ; try++ {
		err := workflow.ExecuteActivity(following(ctx, "delete the snapshots of what does not count", time.Hour), snapshots.Discard,
			activities.DiscardInput{Operation: s.op, Nodes: s.names(), Keep: keep, Asked: asked, UnreachableAfter: s.plan.UnreachableAfter}).Get(ctx, nil)
		if err == nil {
			return
		}
		f := operation.FailureOf(err)
		if s.ask(ctx, operation.ClusterNode, operation.StepDiscard, try, *f, operation.Retry, operation.Leave) != operation.Retry {
			s.warn("snapshots were left at the hypervisor: " + f.Message)
			return
		}
	}
}

// outcomeText is the message of an operation that ended well.
func (s *snapshot) outcomeText() string {
	out := s.report.Snapshot
	if out == nil || out.Location == "" || out.Moment == nil {
		return ""
	}
	return fmt.Sprintf("%s at one moment: %s", count(len(out.Snapshots), "snapshot"), out.Moment)
}
