package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// machines are all nodes of a cluster with their VMs: what is done with them side by side, and not one node after the other.
type machines struct {
	*run
	tries map[string]int // by step and node: the try of the node's job
	// down are the nodes whose roles may have been stopped: they are to be started again on every path.
	down map[string]bool
	// stopped and started are the moments of a round by the nodes' clocks, in Unix nanoseconds.
	stopped, started map[string]int64
}

func allMachines(r *run) *machines {
	return &machines{run: r, tries: map[string]int{}, down: map[string]bool{}, stopped: map[string]int64{}, started: map[string]int64{}}
}

// begin shows that all nodes are worked on.
func (m *machines) begin(ctx workflow.Context) {
	for i := range m.report.Nodes {
		m.report.Nodes[i].Status, m.report.Nodes[i].StartedAt = operation.NodeRunning, stamp(ctx)
	}
}

// names of all nodes, in the plan's order.
func (m *machines) names() []string { return names(m.plan) }

// coreLast groups the nodes for stopping: all but the Core side by side, then the Core, which the others need.
func (m *machines) coreLast() [][]string {
	var others, core []string
	for _, n := range m.plan.Nodes {
		if n.Core {
			core = append(core, n.Name)
		} else {
			others = append(others, n.Name)
		}
	}
	return slices.DeleteFunc([][]string{others, core}, func(g []string) bool { return len(g) == 0 })
}

// sideBySide is a step that is done on many nodes at once.
type sideBySide struct {
	step, what string
	activity   any // of activities.NodesInput, which returns activities.NodesResult
	// otherwise is what can be decided beside retry.
	otherwise operation.Decision
	// settle starts nothing: it follows what already runs to its end.
	settle bool
	// hard: a VM that does not shut down is switched off.
	hard bool
	// to are the snapshots that the step is about, by node.
	to map[string]operation.SnapshotOf
	// done is told of every node that is.
	done func(activities.NodeOutcome)
}

// onNodes does a step on many nodes side by side, and asks about those that fail. False: it was decided otherwise than to retry, or the operation was cancelled.
func (m *machines) onNodes(ctx workflow.Context, nodes []string, do sideBySide) bool {
	step := do.step
	m.at(ctx, step)
	try := func(node string) int { return max(m.tries[step+"/"+node], 1) }
	for asked := 1; len(nodes) > 0; asked++ {
		var futures []workflow.Future
		var parts [][]string
		for part := range slices.Chunk(nodes, nodesPerChunk) {
			in := activities.NodesInput{Operation: m.op, Nodes: part, Tries: map[string]int{}, Settle: do.settle, Hard: do.hard, UnreachableAfter: m.plan.UnreachableAfter}
			for _, n := range part {
				in.Tries[n] = try(n)
				if to, ok := do.to[n]; ok {
					in.Snapshots = append(in.Snapshots, to)
				}
			}
			parts = append(parts, part)
			futures = append(futures, workflow.ExecuteActivity(following(ctx, fmt.Sprintf("%s on %s", do.what, count(len(part), "node")), nodesCeiling+m.plan.UnreachableAfter.D()), do.activity, in))
		}
		var failed []activities.NodeOutcome
		for i, future := range futures {
			var out activities.NodesResult
			if err := future.Get(ctx, &out); err != nil {
				for _, n := range parts[i] {
					failed = append(failed, activities.NodeOutcome{Node: n, Failure: operation.FailureOf(err)})
				}
				continue
			}
			for _, o := range out.Nodes {
				if o.Failure != nil {
					failed = append(failed, o)
				} else if do.done != nil {
					do.done(o)
				}
			}
		}
		if ctx.Err() != nil {
			return false
		}
		nodes = nil
		if len(failed) == 0 {
			break
		}
		for _, o := range failed {
			m.failedNode(o, true)
			nodes = append(nodes, o.Node)
		}
		decision := m.ask(ctx, m.askedAbout(failed), step, asked, together(failed), operation.Retry, do.otherwise)
		for _, o := range failed {
			m.failedNode(o, false)
		}
		switch decision {
		case operation.Retry:
			for _, o := range failed {
				// A job whose outcome is unknown keeps its name and is taken up again.
				if !operation.OutcomeUnknown(o.Failure.Type) {
					m.tries[step+"/"+o.Node] = try(o.Node) + 1
				}
			}
		case operation.Abort:
			m.aborting = true
			return false
		default:
			for _, o := range failed {
				m.warn(fmt.Sprintf("%s: step %s was left as it is: %s", o.Node, step, o.Failure.Message))
			}
			return false
		}
	}
	return true
}

// nodesCeiling bounds a step on many nodes.
const nodesCeiling = 2 * time.Hour

// nextTries gives the jobs of a step other names in the next round.
func (m *machines) nextTries(step string, nodes []string) {
	for _, n := range nodes {
		m.tries[step+"/"+n] = max(m.tries[step+"/"+n], 1) + 1
	}
}

// askedAbout is the node that a question is about: the only one that failed, or the cluster.
func (m *machines) askedAbout(failed []activities.NodeOutcome) string {
	if len(failed) == 1 {
		return failed[0].Node
	}
	return operation.ClusterNode
}

// together is one failure for those of several nodes.
func together(failed []activities.NodeOutcome) operation.Failure {
	f := *failed[0].Failure
	if len(failed) == 1 {
		return f
	}
	f.Problems = nil
	for _, o := range failed {
		f.Problems = append(f.Problems, operation.Shorten(o.Failure.Message, 500))
	}
	f.Problems = bound(f.Problems, 50)
	f.Message = operation.Shorten(fmt.Sprintf("%s (and %d more)", failed[0].Failure.Message, len(failed)-1), 1024)
	return f
}

func (m *machines) failedNode(o activities.NodeOutcome, waits bool) {
	if i, ok := m.index[o.Node]; ok {
		n := &m.report.Nodes[i]
		n.Status, n.Failure = operation.NodeRunning, nil
		if waits {
			n.Status, n.Failure = operation.NodeWaiting, o.Failure
		}
	}
}

// at shows the step at all nodes.
func (m *machines) at(ctx workflow.Context, step string) {
	try := 1
	if m.report.Snapshot != nil {
		try = m.report.Snapshot.Round
	}
	for i := range m.report.Nodes {
		m.report.Nodes[i].Step, m.report.Nodes[i].Try = step, try
	}
	m.refresh(ctx)
}

// startRoles starts the Core first, then the others side by side. A stop that may still run is waited for before.
func (m *machines) startRoles(ctx workflow.Context) {
	var snapshots *activities.Snapshots
	for _, group := range slices.Backward(m.coreLast()) {
		group = slices.DeleteFunc(slices.Clone(group), func(n string) bool { return !m.down[n] })
		unknown := slices.DeleteFunc(slices.Clone(group), func(n string) bool { _, known := m.stopped[n]; return known })
		if len(unknown) > 0 {
			m.onNodes(ctx, unknown, sideBySide{step: operation.StepStopRoles, what: "wait for kato stop", activity: snapshots.StopRoles, otherwise: operation.Leave, settle: true})
		}
		m.onNodes(ctx, group, sideBySide{step: operation.StepStartRoles, what: "kato start", activity: snapshots.StartRoles, otherwise: operation.Leave,
			done: func(o activities.NodeOutcome) { m.started[o.Node] = o.Stamp }})
		m.nextTries(operation.StepStopRoles, group)
		m.nextTries(operation.StepStartRoles, group)
	}
}

// endShutdowns sees shutdowns through that were interrupted: a VM that was asked to shut down is on for a while, and would go off after it was found on. ctx is not cancelled. One that
// does not go off stays on, and that is as good.
func (m *machines) endShutdowns(ctx workflow.Context) {
	m.at(ctx, operation.StepStopVMs)
	var snapshots *activities.Snapshots
	var futures []workflow.Future
	for part := range slices.Chunk(m.names(), nodesPerChunk) {
		futures = append(futures, workflow.ExecuteActivity(following(ctx, fmt.Sprintf("see the shutdown of %s through", count(len(part), "node")), nodesCeiling+m.plan.UnreachableAfter.D()),
			snapshots.StopVMs, activities.NodesInput{Operation: m.op, Nodes: part, UnreachableAfter: m.plan.UnreachableAfter}))
	}
	for _, future := range futures {
		_ = future.Get(ctx, nil)
	}
}

// resumed waits until the cluster is as well as it was before.
func (m *machines) resumed(ctx workflow.Context) {
	m.at(ctx, operation.StepResumed)
	var nodes *activities.Nodes
	for try := 1; ; try++ {
		var result activities.GatesResult
		err := workflow.ExecuteActivity(following(ctx, "gates of the cluster", m.plan.GateTimeout.D()), nodes.ClusterGates, activities.ClusterGatesInput{Operation: m.op,
			Baseline: m.report.BrokenBefore, Times: m.plan.GateTimes, Interval: m.plan.GateInterval, Timeout: m.plan.GateTimeout}).Get(ctx, &result)
		if err == nil && result.Held {
			return
		}
		cause := gatesFailure("the cluster", result, err)
		if m.ask(ctx, operation.ClusterNode, operation.StepResumed, try, cause, operation.Retry, operation.Leave) != operation.Retry {
			m.warn("the cluster is not as well as it was before: " + cause.Message)
			return
		}
	}
}

// until tries until it is done. False: cancelled or aborted.
func (m *machines) until(ctx workflow.Context, step string, do func() error) bool {
	m.at(ctx, step)
	for try := 1; ; try++ {
		if f := m.goOn(ctx); f != nil {
			return false
		}
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil || m.aborting {
			return false
		}
		switch m.ask(ctx, operation.ClusterNode, step, try, *operation.FailureOf(err), operation.Retry, operation.Abort) {
		case operation.Retry:
		case operation.Abort:
			m.aborting = true
			return false
		default:
			return false
		}
	}
}

// leave ends with all nodes.
func (m *machines) leave(ctx workflow.Context, ok bool) {
	for i := range m.report.Nodes {
		n := &m.report.Nodes[i]
		n.EndedAt = stamp(ctx)
		switch {
		case ok:
			n.Status, n.Failure = operation.NodeDone, nil
		case ctx.Err() != nil:
			n.Status = operation.NodeCancelled
		default:
			n.Status = operation.NodeFailed
		}
	}
	m.refresh(ctx)
}
