package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

// small is an ALS cluster of a Core and one DEA, which goes first and has nowhere to move its instances to.
func small(c *config) {
	c.nodes = []nodeConfig{{name: "core", roles: []string{"base", "primary", "controller", "router"}}, {name: "dea-1", roles: []string{"base", "dea"}}}
}

// cancel ends the operation by the CLI and requires that it was cancelled as asked. It returns the report and how long it took.
func (o *op) cancel() (operation.Report, time.Duration) {
	o.t.Helper()
	began := time.Now()
	o.cli(0, "op", "cancel", o.id, "--reason", "wrong window")
	took := time.Since(began)
	r, err := o.end(time.Second)
	require.True(o.t, temporal.IsCanceledError(err), "%v", err)
	require.Equal(o.t, operation.PhaseCancelled, r.Phase)
	return r, took
}

// cancelReaches waits until a node's own workflow knows of the cancel, or with no node the operation's: before, it goes on when the node does.
func (o *op) cancelReaches(node string) {
	o.t.Helper()
	child := o.workflow
	if node != "" {
		child = operation.NodeWorkflowID(o.workflow, node)
	}
	o.eventually(20*time.Second, "the cancel to reach "+child, func() bool {
		return slices.ContainsFunc(o.history(child), func(e *historypb.HistoryEvent) bool {
			return e.EventType == enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
		})
	})
}

// clean requires that nothing of a cancelled operation is left: the lock is free, maintenance mode is off, no package is half installed, nothing runs.
func (s *site) clean() {
	s.t.Helper()
	require.False(s.t, s.cluster.Maintenance())
	for _, n := range s.cluster.Nodes() {
		require.Empty(s.t, n.HalfConfigured(), n.Name())
		for _, e := range n.Commands() {
			require.False(s.t, e.End.IsZero(), "%s still runs on %s", e.Command(), n.Name())
		}
	}
	require.Empty(s.t, s.repeated())
	require.False(s.t, s.locked(), "the lock is held")
}

// locked asks the server whether somebody holds the cluster.
func (s *site) locked() bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d, err := s.client.DescribeWorkflowExecution(ctx, operation.LockWorkflowID(s.cluster.Name()), "")
	if err != nil {
		require.ErrorContains(s.t, err, "not found")
		return false
	}
	return d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

func TestCancel_InEveryPhase_EndsInANamedSafeState(t *testing.T) {
	t.Parallel()
	const dea = "dea-1"
	type world struct {
		*site
		*op
		dea machine
	}
	for name, c := range map[string]struct {
		fault func(n machine)
		args  []string
		// reach waits until the operation is where it is to be cancelled.
		reach func(t *testing.T, w world)
		// state that the report names for the node; "" for an untouched one.
		state string
		// held is done between the cancel and the command that waits for its end, where the node must not go on before.
		held func(t *testing.T, w world)
		// quick: nothing has to be finished first.
		quick   bool
		reboots int
	}{
		"waiting for apt": {
			fault: func(n machine) { n.HoldAptLock(0) },
			reach: func(t *testing.T, w world) { w.waits(dea, "waiting for apt") },
			state: "not upgraded", quick: true,
		},
		"fetching package lists": {
			fault: func(n machine) { n.HangCommand("apt-get update", 1) },
			reach: func(t *testing.T, w world) { w.runs(dea, "apt-get") },
			state: "not upgraded", quick: true,
		},
		"upgrading": {
			reach: func(t *testing.T, w world) { w.unpacking(dea) },
			held: func(t *testing.T, w world) {
				require.NotEmpty(t, w.dea.HalfConfigured(), "the cancel came in the middle of dpkg's work")
			},
			state: "upgraded, not rebooted",
		},
		"rebooting": {
			fault: func(n machine) { n.NeverReturn(true) },
			reach: func(t *testing.T, w world) {
				w.eventually(30*time.Second, "the node to be down", func() bool { return !w.dea.Running() })
			},
			held: func(t *testing.T, w world) {
				w.dea.NeverReturn(false)
				w.dea.PowerOn()
			},
			state: "upgraded and rebooted, the reboot is not proved", reboots: 1,
		},
		"gates": {
			fault: func(n machine) { n.RoleNeverStarts("dea") },
			reach: func(t *testing.T, w world) { w.waits(dea, "kato: not ready") },
			state: "upgraded and rebooted, its gates were not awaited", quick: true, reboots: 1,
		},
		"gates of the cluster": {
			reach: func(t *testing.T, w world) {
				w.unpacking(dea)
				w.site.cluster.Node("core").StopRole("controller")
				w.waits(operation.ClusterNode, "core: ")
			},
			quick: true, reboots: 1,
		},
		"soaking": {
			args: []string{"--soak", "10m"},
			reach: func(t *testing.T, w world) {
				w.until(30*time.Second, "the soak", func(r operation.Report) bool { return strings.HasPrefix(r.Message, "soaking for 10m0s") })
			},
			quick: true, reboots: 1,
		},
		"paused": {
			fault: func(n machine) { n.HoldAptLock(0) },
			reach: func(t *testing.T, w world) {
				w.waits(dea, "waiting for apt")
				w.cli(0, "op", "pause", w.id)
				w.dea.Heal()
				w.until(30*time.Second, "the node to end", func(r operation.Report) bool { return r.Counts()[operation.NodeDone] == 1 })
			},
			quick: true, reboots: 1,
		},
		"parked": {
			fault: func(n machine) { n.FailCommand("unattended-upgrades", 1, 1, "") },
			reach: func(t *testing.T, w world) { w.op.question(30 * time.Second) },
			quick: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, small, slow(2*time.Second))
			s.inventory("    gates: {times: 1, interval: 100ms, timeout: 60s}\n    timeouts: {" + patient + "}\n")
			s.worker("")
			n := s.cluster.Node(dea)
			if c.fault != nil {
				c.fault(n)
			}
			o := s.start(append([]string{"--maintenance"}, c.args...)...)
			c.reach(t, world{s, o, n})
			require.True(t, s.cluster.Maintenance())
			began := time.Now()
			if c.held != nil {
				require.NoError(t, s.client.CancelWorkflow(context.Background(), o.workflow, ""))
				o.cancelReaches(dea)
				c.held(t, world{s, o, n})
			}
			r, took := o.cancel()
			if c.quick {
				require.Less(t, took, 45*time.Second) // what it waits for lasts for longer, or for ever
			}
			for _, e := range n.Commands() {
				if e.Argv[0] == "apt-get" {
					require.Less(t, e.End.Sub(began), 30*time.Second, "an interruptible job is stopped in time")
				}
			}
			node := nodeOf(t, r, dea)
			if c.state != "" {
				require.Equal(t, operation.NodeCancelled, node.Status)
				require.Contains(t, node.Notes, "cancelled: "+c.state)
			}
			require.Equal(t, c.reboots, n.Boots()-1)
			require.Equal(t, operation.NodeUntouched, nodeOf(t, r, "core").Status)
			require.Equal(t, "put back (off)", r.Maintenance)
			for _, e := range s.cluster.Node("core").Commands() {
				require.Equal(t, "kato", e.Argv[0], "the core is only asked to set maintenance mode")
			}
			s.clean()

			// The cluster is free: the next operation begins at once and mends everything.
			n.Heal()
			n.StartRole("dea")
			s.cluster.Node("core").StartRole("controller")
			s.start("--nodes", dea, "--reboot", "never").done(60 * time.Second)
			require.Zero(t, n.PendingCount())
			s.clean()
		})
	}
}

func TestCancel_InThePreflight_NothingIsTouched(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	n := s.cluster.Node("b")
	n.Silence(true)
	o := s.startDirectly(operation.SecurityUpgradeInput{})
	o.until(20*time.Second, "the preflight", func(r operation.Report) bool { return r.Message == "asking all nodes" })
	r, took := o.cancel()
	require.Less(t, took, 45*time.Second) // what it waits for lasts for longer, or for ever
	require.Equal(t, operation.NodeUntouched, nodeOf(t, r, "a").Status)
	require.Empty(t, s.cluster.Commands())
	s.clean()
	n.Silence(false)
	s.start().done(60 * time.Second)
}

func TestCancel_QueuedForTheLock_LeavesTheHolderAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(1500*time.Millisecond))
	s.worker("")
	release := s.cluster.Node("a").HoldAptLock(0)
	first := s.start()
	first.waits("a", "waiting for apt")
	second := s.start("--wait=10m")
	second.until(20*time.Second, "the second to queue", func(r operation.Report) bool { return strings.Contains(r.Message, "held by "+first.workflow) })
	_, took := second.cancel()
	require.Less(t, took, 45*time.Second) // what it waits for lasts for longer, or for ever
	require.True(t, s.locked())
	release()
	first.done(60 * time.Second)
	s.upgraded(1, "a")
	s.clean()
}

func TestCancel_NodeUnreachable_AsksWaitOrLeave(t *testing.T) {
	t.Parallel()
	for _, decision := range []operation.Decision{operation.Wait, operation.Leave} {
		t.Run(string(decision), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, small, slow(2*time.Second))
			s.limits("unreachable_after: 3s, boot: 20s, upgrade: 2m, apt_lock: 30s")
			s.worker("")
			o := s.start("--maintenance")
			s.unpacking("dea-1")
			n := s.cluster.Node("dea-1")
			cut := n.Refuse
			if onHosts() { // where a package restarts sshd
				cut = n.Silence
			}
			cut(true)
			n.DropConnections()
			require.NoError(t, s.client.CancelWorkflow(context.Background(), o.workflow, ""))
			q := o.question(30 * time.Second)
			asks(t, q, "dea-1", operation.StepUpgrade, q.Try, operation.ErrUnreachable)
			require.Equal(t, []operation.Decision{operation.Wait, operation.Leave}, q.Choices)
			o.parked(true)
			require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "dea-1 upgrade (try ")
			// A second cancel changes nothing, whoever sends it.
			require.Contains(t, s.cli(0, "op", "cancel", o.id, "--detach").Stdout, "is being cancelled already")
			require.NoError(t, s.client.CancelWorkflow(context.Background(), o.workflow, ""))
			require.Equal(t, q, o.question(5*time.Second))
			require.True(t, s.locked(), "the cluster is not free yet")
			if decision == operation.Wait {
				cut(false)
			}
			o.decide(q, decision)
			r, err := o.end(30 * time.Second)
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			node := nodeOf(t, r, "dea-1")
			notes := strings.Join(node.Notes, "\n")
			if decision == operation.Wait {
				require.Equal(t, operation.NodeCancelled, node.Status)
				require.Contains(t, notes, "cancelled: upgraded, not rebooted")
			} else {
				require.Equal(t, operation.NodeFailed, node.Status)
				require.Contains(t, notes, "left while cancelling: dea-1: not reached for")
				require.Regexp(t, `job `+jobOf(s, "dea-1", "unattended-upgrades")+` may still run there; the next operation finds it`, notes)
				cut(false)
				s.eventually(20*time.Second, "the job to end", func() bool {
					return s.ended("dea-1", "unattended-upgrades") && n.PendingCount() == 0 && len(n.HalfConfigured()) == 0
				})
			}
			require.Equal(t, operation.NodeUntouched, nodeOf(t, r, "core").Status)
			require.Equal(t, 1, s.ran("dea-1", "unattended-upgrades"))
			require.Zero(t, s.ran("dea-1", "reboot"))
			s.clean()
		})
	}
}

// jobOf is the job that ran a program on a node.
func jobOf(s *site, node, program string) string {
	for _, e := range s.cluster.Node(node).Commands() {
		if e.Argv[0] == program {
			return e.Job
		}
	}
	return program + " did not run"
}

func TestCancel_AgainWhilePackagesFinish_ChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, small, slow(4*time.Second))
	s.worker("")
	o := s.start("--maintenance")
	s.unpacking("dea-1")
	for range 4 {
		require.NoError(t, s.client.CancelWorkflow(context.Background(), o.workflow, ""))
		require.NoError(t, s.client.CancelWorkflow(context.Background(), operation.NodeWorkflowID(o.workflow, "dea-1"), ""))
	}
	require.NotEmpty(t, s.cluster.Node("dea-1").HalfConfigured(), "the cancels came in the middle of dpkg's work")
	s.cli(5, "op", "watch", o.id)
	r, err := o.end(time.Second)
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	require.Contains(t, nodeOf(t, r, "dea-1").Notes, "cancelled: upgraded, not rebooted")
	require.Zero(t, s.cluster.Node("dea-1").PendingCount())
	s.clean()
}

func TestCancel_OfAnEndedOrUnknownOperation_SaysSo(t *testing.T) {
	onlySimulated(t, "the answer does not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.worker("")
	o := s.start()
	o.done(30 * time.Second)
	require.Contains(t, s.cli(2, "op", "cancel", o.id).Stderr, "has ended already")
	require.Contains(t, s.cli(2, "op", "cancel", o.id+"-no").Stderr, "no operation or cluster")
}
