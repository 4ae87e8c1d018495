package e2e

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/share"
)

// killed counts over the whole matrix.
var killed, repeatedInAll atomic.Int64

// killPoint is a moment at which the worker is killed with SIGKILL.
type killPoint struct {
	name string
	// activity and event: the moment the event of that activity's n-th run stands in the history (of the operation, or of a node's child).
	activity string
	event    enumspb.EventType
	// program: the moment the program runs on the node named, or on the Core.
	program string
	on      string
	// child is the node whose child workflow has the event, "" for the operation's own.
	child string
	// moment waits for any other one. What it returns, nil for nothing, is done when the worker is dead.
	moment func(ctx context.Context, o *op) (after func(), err error)
}

const (
	scheduled = enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
	completed = enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
)

// boundaries are the moments before and after the activities named.
func boundaries(activities ...string) []killPoint {
	var out []killPoint
	for _, a := range activities {
		out = append(out, killPoint{name: a + " scheduled", activity: a, event: scheduled}, killPoint{name: a + " completed", activity: a, event: completed})
	}
	return out
}

// inChild are points in the workflow of a node.
func inChild(node string, points []killPoint) []killPoint {
	for i := range points {
		points[i].child = node
	}
	return points
}

// within are the moments before, in and after an activity.
func within(activity string, moments ...killPoint) []killPoint {
	around := boundaries(activity)
	return slices.Concat(around[:1], moments, around[1:])
}

// stepKills are the boundaries of every step of a node and the middle of every job; operationKills those of the operation itself.
func stepKills() []killPoint {
	return append(boundaries("Probe", "Retire", "Upgrade", "Reboot", "Proof", "Gates", "Record"),
		killPoint{name: "in retire", program: "kato", on: "core"}, killPoint{name: "in refresh", program: "apt-get"},
		killPoint{name: "in upgrade", program: "unattended-upgrades"}, killPoint{name: "in reboot", program: "reboot"})
}

func operationKills() []killPoint {
	return boundaries("Resolve", "LockToken", "Preflight", "Fence", "EnterMaintenance", "ClusterGates", "LeaveMaintenance")
}

// reached waits until a workflow's history has the point's event. One from before the last kill is none.
func (s *site) reached(ctx context.Context, workflowID string, p killPoint, after time.Time) error {
	name := map[int64]string{}
	for ctx.Err() == nil {
		it := s.client.GetWorkflowHistory(ctx, workflowID, "", true, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for it.HasNext() {
			e, err := it.Next()
			if err != nil {
				break // not there yet, or the long poll ended: asked again
			}
			if activityOf(e, name) == p.activity && e.EventType == p.event {
				if e.EventTime.AsTime().Before(after) {
					return fmt.Errorf("%s: %w", p.name, errPassed)
				}
				return nil
			}
		}
		time.Sleep(in(2*time.Millisecond, 20*time.Millisecond))
	}
	return fmt.Errorf("%s was not reached: %w", p.name, ctx.Err())
}

// activityOf is the activity an event is about; names collects the scheduled ones.
func activityOf(e *historypb.HistoryEvent, names map[int64]string) string {
	switch e.EventType {
	case scheduled:
		names[e.EventId] = e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName()
		return names[e.EventId]
	case completed:
		return names[e.GetActivityTaskCompletedEventAttributes().GetScheduledEventId()]
	}
	return ""
}

// commandRuns waits until a program is running, or has run, on a node.
func (s *site) commandRuns(ctx context.Context, node, program, argument string) error {
	for ctx.Err() == nil {
		for _, e := range s.cluster.Node(node).Commands() {
			if e.Argv[0] == program && (argument == "" || len(e.Argv) > 3 && e.Argv[len(e.Argv)-1] == argument) {
				return nil
			}
		}
		time.Sleep(in(2*time.Millisecond, 20*time.Millisecond))
	}
	return fmt.Errorf("%s did not run on %s: %w", program, node, ctx.Err())
}

// killAndRestart kills the worker and starts the next one.
func (s *site) killAndRestart(w *harness.Worker) *harness.Worker {
	s.t.Helper()
	w.Kill()
	killed.Add(1)
	return s.worker("")
}

// deas makes a cluster of a Core and so many DEAs whose jobs take long enough to be killed in their middle.
func deas(n int) siteOption {
	return func(c *config) {
		c.nodes = []nodeConfig{{name: "core", roles: []string{"primary", "controller", "router", "base"}}}
		for i := range n {
			c.nodes = append(c.nodes, nodeConfig{name: fmt.Sprintf("dea-%02d", i+1), roles: []string{"dea"}})
		}
		c.slow = 600 * time.Millisecond
	}
}

// TestKillMatrix kills the worker at every boundary of every step and in the middle of every job, one point a node, and requires that every
// command ran exactly once, every node was rebooted exactly once, and maintenance mode was put back. KATOFLOW_KILL_SEED changes the random part.
func TestKillMatrix(t *testing.T) {
	t.Parallel()
	points := stepKills()
	t.Run("points", func(t *testing.T) {
		for lane, mine := range lanesOf(t, 4, points) {
			t.Run(fmt.Sprintf("steps %d", lane+1), func(t *testing.T) {
				t.Parallel()
				killSteps(t, mine)
			})
		}
		upgrade := matrix{
			site:  func(t *testing.T) *site { return newSite(t, nil, nil, deas(1)) },
			start: func(s *site) *op { return s.startDirectly(operation.SecurityUpgradeInput{Maintenance: true}) },
			intact: func(o *op, _ int) {
				o.done(2 * time.Minute)
				o.intact(1)
			},
		}
		upgrade.lanes(t, "operation", 2, operationKills())
		if inThisPart(t) {
			t.Run("random moments", func(t *testing.T) {
				t.Parallel()
				killAtRandom(t)
			})
		}
	})
	tellKills(t, "security upgrade")
}

// tellKills prints what came of all kills so far and requires that they repeated nothing.
func tellKills(t *testing.T, of string) {
	part, err := share.Parse(os.Getenv(share.Variable))
	require.NoError(t, err)
	fmt.Printf("kill matrix (%s, %s, %s): %d kills tried so far, %d commands repeated\n", of, world(), part, killed.Load(), repeatedInAll.Load())
	require.Zero(t, repeatedInAll.Load())
}

// dealt counts the operations of each kill matrix that were dealt out.
var dealt = struct {
	sync.Mutex
	of map[string]int
}{of: map[string]int{}}

// inThisPart says whether the next operation of a matrix belongs to the part that is tried (package share): those of one matrix are dealt out in turn, whatever kinds of them it has.
func inThisPart(t *testing.T) bool {
	part, err := share.Parse(os.Getenv(share.Variable))
	require.NoError(t, err)
	matrix, _, _ := strings.Cut(t.Name(), "/")
	dealt.Lock()
	defer dealt.Unlock()
	i := dealt.of[matrix]
	dealt.of[matrix]++
	return part.Has(i)
}

// lanesOf deals the points out to so many operations, the lanes, and leaves out those that belong to other parts.
func lanesOf(t *testing.T, lanes int, points []killPoint) iter.Seq2[int, []killPoint] {
	return func(yield func(int, []killPoint) bool) {
		for lane := range lanes {
			var mine []killPoint
			for i := lane; i < len(points); i += lanes {
				mine = append(mine, points[i])
			}
			if inThisPart(t) && !yield(lane, mine) {
				return
			}
		}
	}
}

// matrix is what has to be known of a procedure so that its operations can be killed at every moment.
type matrix struct {
	site  func(t *testing.T) *site
	start func(s *site) *op
	// intact waits for the end and requires what must hold after so many kills.
	intact func(o *op, kills int)
}

// errPassed is a moment that lies before the kill before it.
var errPassed = errors.New("it had passed before the kill before it")

// lanes runs some operations side by side and kills the worker in each of them at several points, those of the first at the first, the lanes+1st and so on. The points
// come in the order of their moments, so that neighbours, whose moments may be close to each other, are of different operations. A moment that had passed before the kill before it
// is no point of its own: another operation is killed there.
func (m matrix) lanes(t *testing.T, name string, lanes int, points []killPoint) {
	for lane, mine := range lanesOf(t, lanes, points) {
		t.Run(fmt.Sprintf("%s %d", name, lane+1), func(t *testing.T) {
			t.Parallel()
			for round := 1; len(mine) > 0; round++ {
				t.Run(fmt.Sprintf("%s, %d kills", mine[0].name, len(mine)), func(t *testing.T) { mine = m.kill(t, mine) })
				if t.Failed() {
					return
				}
			}
		})
	}
}

// kill runs one operation and kills the worker at some points of it, one after the other. It returns the points that were passed.
func (m matrix) kill(t *testing.T, points []killPoint) (passed []killPoint) {
	s := m.site(t)
	w := s.worker("")
	o := m.start(s)
	kills := 0
	for _, p := range points {
		after, err := m.moment(o, p)
		if errors.Is(err, errPassed) && kills > 0 {
			passed = append(passed, p)
			continue
		}
		if err != nil {
			r, _ := o.report()
			require.NoError(t, err, "%s, after %d kills: %s %s %+v", p.name, kills, r.Phase, r.Message, r.Questions)
		}
		w.Kill()
		kills++
		killed.Add(1)
		o.killedAt = time.Now()
		if after != nil {
			after()
		}
		w = s.worker("")
	}
	t.Logf("killed %d times, %d points passed before their turn", kills, len(passed))
	m.intact(o, kills)
	return passed
}

// moment waits for a point's.
func (m matrix) moment(o *op, p killPoint) (after func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), stretched(60*time.Second))
	defer cancel()
	switch {
	case p.moment != nil:
		return p.moment(ctx, o)
	case p.program != "":
		return nil, o.commandRuns(ctx, p.on, p.program, "")
	case p.child != "":
		return nil, o.reached(ctx, operation.NodeWorkflowID(o.workflow, p.child), p, o.killedAt)
	default:
		return nil, o.reached(ctx, o.workflow, p, o.killedAt)
	}
}

// killSteps runs one operation over as many DEAs as there are points.
func killSteps(t *testing.T, points []killPoint) {
	s := newSite(t, nil, nil, deas(len(points)))
	for _, n := range s.cluster.Nodes() {
		n.SlowCommand("apt-get update", -1, in(300*time.Millisecond, time.Second))
		n.SlowCommand("kato node retire", -1, in(300*time.Millisecond, time.Second))
	}
	w := s.worker("")
	o := s.startDirectly(operation.SecurityUpgradeInput{Roles: []string{"dea"}, Request: operation.Request{}, Maintenance: true})
	for i, p := range points {
		node := fmt.Sprintf("dea-%02d", i+1)
		ctx, cancel := context.WithTimeout(context.Background(), stretched(90*time.Second))
		var err error
		switch {
		case p.on != "":
			err = s.commandRuns(ctx, p.on, p.program, s.cluster.Node(node).Address())
		case p.program != "":
			err = s.commandRuns(ctx, node, p.program, "")
		default:
			err = s.reached(ctx, operation.NodeWorkflowID(o.workflow, node), p, time.Time{})
		}
		cancel()
		if err != nil {
			r, _ := o.report()
			require.NoError(t, err, "%s on %s: %s %s %+v", p.name, node, r.Phase, r.Message, r.Questions)
		}
		w = s.killAndRestart(w)
	}
	o.done(2 * time.Minute)
	s.intact(1)
}

// intact requires what must hold whatever was killed.
func (s *site) intact(reboots int) {
	s.t.Helper()
	again := s.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(s.t, again, "commands that ran more than once")
	for _, n := range s.cluster.Nodes() {
		if n.Name() != "core" || len(s.cluster.Nodes()) == 2 {
			s.upgraded(reboots, n.Name())
			require.Equal(s.t, 1, s.ran(n.Name(), "unattended-upgrades"), n.Name())
		}
	}
	require.LessOrEqual(s.t, s.cluster.MaxOutOfService(), 1)
	require.False(s.t, s.cluster.Maintenance(), "maintenance mode was put back")
}

// killAtRandom kills the worker every so often, wherever it is.
func killAtRandom(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("KATOFLOW_KILL_SEED"), 10, 64)
	random := rand.New(rand.NewPCG(seed, 1))
	s := newSite(t, nil, nil, deas(6))
	w := s.worker("")
	o := s.startDirectly(operation.SecurityUpgradeInput{Maintenance: true, Batch: "2", Nodes: []string{"dea-01", "dea-02", "dea-03", "dea-04", "dea-05", "dea-06"}})
	for range 5 {
		timer := time.NewTimer(time.Duration(500+random.IntN(2500)) * time.Millisecond)
		<-timer.C
		if r, err := o.report(); err == nil && r.Finished() {
			break
		}
		w = s.killAndRestart(w)
	}
	o.done(3 * time.Minute)
	again := s.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(t, again)
	for i := range 6 {
		s.upgraded(1, fmt.Sprintf("dea-%02d", i+1))
	}
	require.LessOrEqual(t, s.cluster.MaxOutOfService(), 2)
	require.False(t, s.cluster.Maintenance())
}

// TestWorkerKilled_InMidJob_GoesOnWithinTenSeconds measures what an operator waits after a restart.
func TestWorkerKilled_InMidJob_GoesOnWithinTenSeconds(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(3*time.Second))
	w := s.worker("")
	o := s.startDirectly(operation.SecurityUpgradeInput{})
	ctx, cancel := context.WithTimeout(context.Background(), stretched(60*time.Second))
	defer cancel()
	require.NoError(t, s.commandRuns(ctx, "a", "unattended-upgrades", ""))
	f := s.fault("worker killed in the middle of apt")
	w.Kill()
	restarted := time.Now()
	s.worker("")
	// The job ends on the node by itself; that the operation goes on shows in the next command.
	require.NoError(t, s.commandRuns(ctx, "a", "reboot", ""))
	took := time.Since(restarted)
	t.Logf("the operation went on %s after the restart", took.Round(10*time.Millisecond))
	o.done(time.Minute)
	require.Empty(t, s.repeated())
	require.Less(t, took, 30*time.Second, "bounded; the figure is in make bench")
	f.end(wentOn)
}
