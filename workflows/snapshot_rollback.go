package workflows

// Going back to a set of snapshots ("Snapshots" of the source page): "a snapshot rollback of multiple nodes which is not perfectly in sync may not return the cluster to a fully functional
// state". So all nodes of the set go back, or none:
//
//  1. the VMs shut down; one that does not is switched off, as its disks are thrown away;
//  2. snapshots of them as they are, a set of its own: the way back;
//  3. the disks of all VMs put back to the set. Where one cannot be, all are put back to 2;
//  4. the Core on, then the others. What comes up is the captured moment: maintenance mode on, roles stopped, old leases and jobs;
//  5. the leases taken anew, the jobs of that moment removed; kato start on the Core, then on the others;
//  6. the gates hold; maintenance mode as it was found before the set was taken.
//
// Until 3 the operation can be cancelled and everything is started again; from then on it is seen through. What was done is known from the history alone: the nodes do not remember.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// SnapshotRollback is the operation workflow. It completes with the report when the disks of all nodes hold the moment of the set and the cluster is up; otherwise it fails, or ends as
// cancelled, with the report in the details of its error.
func SnapshotRollback(ctx workflow.Context, in operation.SnapshotRollbackInput) (*operation.Report, error) {
	return operate(ctx, operation.KindSnapshotRollback, in.Request, "", &rollback{in: in})
}

type rollback struct {
	*machines
	in  operation.SnapshotRollbackInput
	set operation.SnapshotSet
	// safety takes the snapshots before; nil for none.
	safety *snapshot
	out    *operation.RollbackReport
	// begun: disks may have been put back, so that it is seen through. holds is what those of each node hold, as far as that is known.
	begun     bool
	holds     map[string]string
	downSince time.Time
}

func (b *rollback) attach(r *run) {
	b.machines = allMachines(r)
	b.out, b.holds = &operation.RollbackReport{Set: b.in.Set}, map[string]string{}
	b.report.Sets = &operation.SetReport{Rollback: b.out}
}

func (b *rollback) check() []string { return b.in.Check() }

func (b *rollback) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: b.in.Cluster, InventoryDigest: b.in.InventoryDigest}
}

func (b *rollback) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

// nodesMayBeAway: who goes back to a set may have good reasons.
func (b *rollback) nodesMayBeAway() {}

// wantsMaintenance is false because the cluster goes back to how it was.
func (b *rollback) wantsMaintenance() bool { return false }

// ready asks the bucket for the set and the hypervisor for its snapshots.
func (b *rollback) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	b.report.Slots = 0 // all nodes at once, always
	var snapshots *activities.Snapshots
	var found activities.RollbackReadyResult
	err = workflow.ExecuteActivity(following(ctx, "what a rollback to set "+b.in.Set+" needs", time.Hour), snapshots.RollbackReady, activities.RollbackReadyInput{
		SetInput: activities.SetInput{Operation: b.op, Set: b.in.Set}, Nodes: b.names(), Safety: !b.in.NoSafetySnapshots}).Get(ctx, &found)
	if err != nil {
		return nil, nil, err
	}
	b.set = found.Set
	b.out.TakenAt, b.out.Provider, b.out.Quiesce = b.set.TakenAt, b.set.Provider, b.set.Quiesce
	return found.Problems, found.Warnings, nil
}

// found is what the starter says when the preflight has passed.
func (b *rollback) found() string {
	text := fmt.Sprintf("%s back to %s", count(len(b.plan.Nodes), "node"), when(b.set.TakenAt))
	if b.in.NoSafetySnapshots {
		return text + ", without snapshots of what they are now"
	}
	return text
}

// when is a time of a manifest, to the second.
func when(stamp string) string {
	t, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return "a moment that the set does not tell"
	}
	return t.UTC().Format(time.RFC3339)
}

func (b *rollback) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var snapshots *activities.Snapshots
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), snapshots.PlanRollback,
		activities.PlanRollbackInput{Operation: b.op, Set: b.set, Safety: !b.in.NoSafetySnapshots}).Get(ctx, &out)
	return out.Plans, err
}

func (b *rollback) steps(ctx workflow.Context) {
	// Who cancels sees why nothing ends.
	workflow.GoNamed(ctx, "cancel", func(ctx workflow.Context) {
		ctx.Done().Receive(ctx, nil)
		if b.begun {
			b.warn("cancelled after disks had been put back: the rollback is seen through")
			b.refresh(ctx)
		}
	})
	b.begin(ctx)
	if b.goOn(ctx) != nil {
		b.leave(ctx, false)
		return
	}
	b.downSince = workflow.Now(ctx)
	given := ctx
	off := b.stopVMs(ctx)
	prepared := off && b.takeSafety(ctx) && b.goOn(ctx) == nil
	ctx, _ = workflow.NewDisconnectedContext(ctx) // a cluster is not left switched off, nor half gone back
	if !off {
		b.endShutdowns(ctx)
	}
	moment := operation.RolledNone
	if prepared {
		b.begun = true
		moment = b.putBack(ctx)
	}
	if moment == operation.RolledMixed {
		b.out.Moment = moment
		b.leaveMixed(ctx)
		return
	}
	b.comeUp(ctx, moment == operation.RolledToSet)
	b.out.Moment, b.out.Down = moment, operation.Duration(workflow.Now(ctx).Sub(b.downSince))
	if !b.begun && b.safety != nil && b.report.Snapshot.Location == "" {
		b.safety.discard(ctx, 0, true)
	}
	b.leave(given, moment == operation.RolledToSet)
}

// leaveMixed ends with VMs that stay off, and says of each what its disks hold.
func (b *rollback) leaveMixed(ctx workflow.Context) {
	hold := map[string][]string{}
	for i := range b.report.Nodes {
		n := &b.report.Nodes[i]
		what, known := b.holds[n.Name]
		if !known {
			what = "not known"
		}
		hold[what] = append(hold[what], n.Name)
		n.Status, n.EndedAt = operation.NodeFailed, stamp(ctx)
		if what == operation.RolledToSet {
			n.Status = operation.NodeDone
		}
	}
	text := "the VMs were left off; what their disks hold:"
	for _, what := range []string{operation.RolledToSet, operation.RolledNone, "not known"} {
		if nodes := hold[what]; len(nodes) > 0 {
			text += fmt.Sprintf(" %s: %s;", what, strings.Join(bound(nodes, 20), ", "))
		}
	}
	b.warn(strings.TrimSuffix(text, ";"))
	b.refresh(ctx)
}

func (b *rollback) stopVMs(ctx workflow.Context) bool {
	var snapshots *activities.Snapshots
	return b.onNodes(ctx, b.names(), sideBySide{step: operation.StepStopVMs, what: "shut the VMs down", activity: snapshots.StopVMs, otherwise: operation.Abort, hard: true,
		done: func(o activities.NodeOutcome) {
			for _, note := range o.Notes {
				b.warn(o.Node + ": " + note)
			}
		}})
}

// takeSafety takes a set of what the VMs are before, with its manifest. False: cancelled or aborted.
func (b *rollback) takeSafety(ctx workflow.Context) bool {
	if b.in.NoSafetySnapshots {
		return true
	}
	levels := []operation.Quiesce{operation.QuiesceVMsStopped}
	b.safety = &snapshot{machines: b.machines, levels: levels, provider: b.set.Provider,
		in: operation.SnapshotInput{Request: b.in.Request, Quiesce: levels, Rounds: b.in.Rounds, Note: operation.Shorten("before the rollback to set "+b.set.Set, 200)}}
	b.report.Snapshot = &operation.Snapshotted{Set: b.req.OperationID, Quiesce: levels, Provider: b.set.Provider}
	return b.safety.rounds(ctx, func(ctx workflow.Context) *operation.Failure {
		b.safety.taken = nil
		b.report.Snapshot.Moment, b.report.Snapshot.Snapshots = nil, nil
		if f := b.safety.take(ctx); f != nil {
			return f
		}
		return b.safety.judge()
	}) && b.safety.keep(ctx)
}

// byNode are the snapshots of a set.
func byNode(all []operation.SnapshotOf) map[string]operation.SnapshotOf {
	out := map[string]operation.SnapshotOf{}
	for _, s := range all {
		out[s.Node] = s
	}
	return out
}

// putBack puts the disks of all nodes back, or of none, and says what they hold.
func (b *rollback) putBack(ctx workflow.Context) string {
	if b.disks(ctx, operation.StepRollback, "put the disks back", operation.RolledToSet, b.set.Snapshots) {
		return operation.RolledToSet
	}
	if b.safety == nil {
		return operation.RolledMixed
	}
	b.warn("not all disks could be put back: the way back to before was taken")
	if b.disks(ctx, operation.StepPutBack, "put the disks back to before", operation.RolledNone, b.report.Snapshot.Snapshots) {
		return operation.RolledNone
	}
	return operation.RolledMixed
}

// disks puts those of all nodes back to snapshots. False: not all of them, by decision.
func (b *rollback) disks(ctx workflow.Context, step, what, moment string, to []operation.SnapshotOf) bool {
	otherwise := operation.Leave
	if step == operation.StepRollback && b.safety != nil {
		otherwise = operation.Abort // there is a way back
	}
	for _, n := range b.names() {
		if b.holds[n] != "" {
			b.holds[n] = "not known"
		}
	}
	var snapshots *activities.Snapshots
	return b.onNodes(ctx, b.names(), sideBySide{step: step, what: what, activity: snapshots.RollbackVMs, otherwise: otherwise, to: byNode(to),
		done: func(o activities.NodeOutcome) { b.holds[o.Node] = moment }})
}

// comeUp switches the VMs on, the Core first, and waits until the cluster is up. What does not come up is a question.
func (b *rollback) comeUp(ctx workflow.Context, back bool) {
	var snapshots *activities.Snapshots
	for _, group := range slices.Backward(b.coreLast()) {
		b.onNodes(ctx, group, sideBySide{step: operation.StepStartVMs, what: "switch the VMs on", activity: snapshots.StartVMs, otherwise: operation.Leave})
		b.onNodes(ctx, group, sideBySide{step: operation.StepRecover, what: "wait for the nodes", activity: snapshots.Recover, otherwise: operation.Leave})
	}
	if b.plan.Platform == "als" {
		for _, n := range b.names() {
			b.down[n], b.stopped[n] = true, 0 // by the boot: no stop of ours can still run there
		}
		b.startRoles(ctx)
	}
	if back {
		b.report.BrokenBefore = b.set.BrokenBefore
		if slices.Contains(b.set.Quiesce, operation.QuiesceMaintenance) {
			b.takeOverMaintenance(ctx)
		}
	}
	b.resumed(ctx)
	if b.readOnly {
		b.leaveMaintenance(ctx)
	}
}

// takeOverMaintenance makes the mode of the captured moment, which is on, this operation's own: the Core's disk has the record of how it was found then.
func (b *rollback) takeOverMaintenance(ctx workflow.Context) {
	b.at(ctx, operation.StepReadOnly)
	before := slices.Clone(b.report.Warnings)
	if !b.enterMaintenance(ctx) {
		return
	}
	switch found := b.set.MaintenanceFound; found {
	case b.run.found:
		b.report.Warnings = before // that another operation had left it on is what was to be expected
	case "":
	default:
		b.warn(fmt.Sprintf("maintenance mode was found %s before the set was taken, and the Core's disk does not say so: it stays %s", found, b.run.found))
	}
}

// soFar is the message of a rollback that ended before anything went back.
func (b *rollback) soFar() string {
	switch b.out.Moment {
	case "":
		return "nothing was touched"
	case operation.RolledMixed:
		return "the VMs are off, and not all disks hold the same moment"
	}
	if b.report.Snapshot != nil && b.report.Snapshot.Location != "" {
		return "the cluster is as it was before; set " + b.req.OperationID + " stays"
	}
	return "the cluster is as it was before"
}

// outcomeText is the message of an operation that ended well.
func (b *rollback) outcomeText() string {
	if b.out.Moment != operation.RolledToSet {
		return ""
	}
	text := fmt.Sprintf("%s back at %s, set %s", count(len(b.plan.Nodes), "node"), when(b.set.TakenAt), b.set.Set)
	if b.safety != nil {
		text += "; what they were before is set " + b.req.OperationID
	}
	return strings.TrimSpace(text)
}
