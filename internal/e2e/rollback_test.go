package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

const notes = "/home/stackato/notes"

// writes puts a text on the disk of every node.
func (s *site) writes(text string) {
	s.t.Helper()
	for _, n := range s.names() {
		require.NoError(s.t, s.simulated(n).WriteFile(notes, []byte(text+" "+n)))
	}
}

// reads is the text on the disks of all nodes, "" when they do not all hold the same.
func (s *site) reads() string {
	s.t.Helper()
	text := ""
	for i, n := range s.names() {
		b, err := s.simulated(n).ReadFile(notes)
		require.NoError(s.t, err)
		this, of, _ := strings.Cut(string(b), " ")
		require.Equal(s.t, n, of, "each node has its own disk")
		if i > 0 && this != text {
			return ""
		}
		text = this
	}
	return text
}

// withDisks gives the cluster a hypervisor whose snapshots can be gone back to.
func withDisks(c *config) {
	onVMs(c)
	simulating(func(sc *simcluster.Config) { sc.Hypervisor.Disks = true })(c)
}

// taken is a site whose disks held "then" when a set was taken, and hold "now".
func taken(t *testing.T, args ...string) (s *site, set string) {
	t.Helper()
	s = newSite(t, nil, nil, withDisks)
	s.worker("")
	return s, s.takes(args...)
}

func (s *site) takes(args ...string) string {
	s.t.Helper()
	s.writes("then")
	o := s.snapshot(args...)
	o.done(60 * time.Second)
	s.writes("now")
	return o.id
}

// withoutCommand takes one of the hypervisor's commands out of the inventory.
func (s *site) withoutCommand(name string) {
	s.t.Helper()
	text, err := os.ReadFile(s.Inventory)
	require.NoError(s.t, err)
	without := regexp.MustCompile(`(?m)^ +`+name+`:\n(?: +- .*\n)+`).ReplaceAllString(string(text), "")
	require.NotEqual(s.t, string(text), without)
	require.NoError(s.t, os.WriteFile(s.Inventory, []byte(without), 0o600))
}

// rollback begins one by the CLI, detached.
func (s *site) rollback(set string, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"snapshot", "rollback", s.cluster.Name(), set, "--confirm", s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attachTo(operation.KindSnapshotRollback, id)
}

// rollbackDirectly begins it through the client and does not wait for anything.
func (s *site) rollbackDirectly(in operation.SnapshotRollbackInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster, in.Confirm = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name(), s.cluster.Name()
	return s.execute(operation.KindSnapshotRollback, operation.WorkflowSnapshotRollback, in.OperationID, in)
}

// holds requires that all disks hold a text, that the nodes have this operation's lease and none of an older one's jobs, and that the cluster is up.
func (o *op) holds(text string) {
	o.t.Helper()
	require.Equal(o.t, text, o.reads(), "what the disks of all nodes hold")
	o.resumed()
	token := o.leaseToken(o.names()[0])
	for _, n := range o.names() {
		require.Equal(o.t, token, o.leaseToken(n), "%s has the lease of this operation", n)
	}
	require.False(o.t, o.isOpen(operation.LockWorkflowID(o.cluster.Name())), "the lock is free")
}

func TestRollback_ToASet_BringsBackAllNodesAndCanBeUndone(t *testing.T) {
	onlySimulated(t, "a rollback needs the simulated hypervisor")
	t.Parallel()
	for _, quiesce := range []string{"maintenance,roles-stopped", "none", "vms-stopped,maintenance"} {
		t.Run(quiesce, func(t *testing.T) {
			t.Parallel()
			s, set := taken(t, "--quiesce", quiesce)
			before := s.leaseToken("core")
			o := s.rollback(set)
			r := o.done(90 * time.Second)
			o.holds("then")
			require.Greater(t, s.leaseToken("core"), before)
			require.Equal(t, operation.RolledToSet, r.Sets.Rollback.Moment)
			require.Empty(t, r.Warnings)
			shown := s.cli(0, "op", "show", o.id).Stdout
			require.Contains(t, shown, "the disks of all nodes hold the moment of the set")
			require.Contains(t, shown, "5 nodes back at ")
			for _, n := range s.names() {
				require.Equal(t, 1, s.hypervisor().RolledBack(n))
				jobs, err := os.ReadDir(filepath.Join(s.cluster.(simulatedCluster).Dir(), "nodes", n, "home/stackato/.local/state/katoflow/jobs"))
				require.NoError(t, err)
				for _, j := range jobs {
					require.NotContains(t, j.Name(), remote.EncodeID(set), "no job of the captured moment is left on %s", n)
				}
			}

			// What was before is a set of its own.
			var list operation.SnapshotSets
			require.NoError(t, s.cli(0, "snapshot", "list", s.cluster.Name(), "-o", "json").JSON(&list))
			require.Equal(t, []string{o.id, set}, []string{list.Sets[0].Set, list.Sets[1].Set})
			require.Equal(t, "before the rollback to set "+set, list.Sets[0].Note)
			back := s.rollback(o.id, "--no-safety-snapshots")
			back.done(90 * time.Second)
			back.holds("now")
			require.NoError(t, s.cli(0, "snapshot", "list", s.cluster.Name(), "-o", "json").JSON(&list))
			require.Len(t, list.Sets, 2)
		})
	}
}

func TestRollback_OfACluster_ThatWasInMaintenanceMode_LeavesItSo(t *testing.T) {
	onlySimulated(t, "a rollback needs the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, withDisks)
	s.worker("")
	c := s.cluster.(simulatedCluster)
	c.SetMaintenance(true)
	set := s.takes()
	c.SetMaintenance(false)
	o := s.rollback(set)
	o.done(90 * time.Second)
	require.True(t, s.cluster.Maintenance(), "it was on before the set was taken")
	require.Equal(t, "then", s.reads())
}

func TestRollback_OfAPlainCluster_TakesTheLeasesAnew(t *testing.T) {
	onlySimulated(t, "a rollback needs the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, withDisks, plain("a", "b"))
	s.worker("")
	set := s.takes()
	before := s.leaseToken("a")
	o := s.rollback(set)
	o.done(90 * time.Second)
	o.holds("then")
	require.Greater(t, s.leaseToken("a"), before)
}

func TestRollback_OneOfFiveCannotGoBack_AllGoOrNone(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	for name, c := range map[string]struct {
		args     []string
		decision operation.Decision
		choices  []operation.Decision
		phase    string
		came     string
	}{
		"retried":                  {decision: operation.Retry, choices: []operation.Decision{operation.Retry, operation.Abort}, phase: operation.PhaseDone, came: "put back when it was asked again, all nodes at the set"},
		"aborted":                  {decision: operation.Abort, choices: []operation.Decision{operation.Retry, operation.Abort}, phase: operation.PhaseAborted, came: "all nodes put back to before"},
		"without snapshots before": {args: []string{"--no-safety-snapshots"}, decision: operation.Leave, choices: []operation.Decision{operation.Retry, operation.Leave}, phase: operation.PhaseFailed, came: "the VMs left off, what each holds named"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, set := taken(t)
			s.hypervisor().FailRollbacks("dea-2", 1)
			f := s.fault("the disks of one VM of five cannot be put back, %s", name)
			o := s.rollback(set, c.args...)
			q := o.question(60 * time.Second)
			require.Equal(t, "dea-2/"+operation.StepRollback, q.Node+"/"+q.Step)
			require.Contains(t, q.Cause.Message, "the storage of dea-2 does not go back")
			require.Equal(t, c.choices, q.Choices)
			for _, n := range s.cluster.Nodes() {
				require.False(t, n.Running(), "%s stays off while it is asked", n.Name())
			}
			o.decide(q, c.decision)
			r, err := o.end(90 * time.Second)
			require.Equal(t, c.phase, r.Phase, r.Message)
			switch name {
			case "retried":
				require.NoError(t, err)
				o.holds("then")
				require.Equal(t, 1, s.hypervisor().RolledBack("core"), "those that were back stayed so")
			case "aborted":
				o.holds("now")
				require.Equal(t, operation.RolledNone, r.Sets.Rollback.Moment)
				require.Contains(t, r.Message, "the cluster is as it was before")
			default:
				require.Empty(t, s.reads())
				require.Equal(t, operation.RolledMixed, r.Sets.Rollback.Moment)
				require.Contains(t, strings.Join(r.Warnings, "\n"), "not known: dea-2")
				for _, n := range s.cluster.Nodes() {
					require.False(t, n.Running(), n.Name())
				}
				require.Equal(t, 4, r.Counts()[operation.NodeDone])
				require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "the VMs are off")
				// The next one brings them together again, although no node answers.
				again := s.rollback(set, "--no-safety-snapshots")
				again.done(90 * time.Second)
				again.holds("then")
			}
			f.end(parkedFor("rollback ("+q.Cause.Type+")", c.came))
		})
	}
}

func TestRollback_AnswerOfOneLost_IsDoneAgain(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s, set := taken(t)
	s.hypervisor().LoseRollbackAnswers("dea-1", 1)
	f := s.fault("the answer of a rollback that was done is lost")
	o := s.rollback(set)
	r := o.done(90 * time.Second)
	require.Empty(t, r.Answers)
	o.holds("then")
	f.end(wentOn)
}

func TestRollback_OfABrokenCluster_IsTheRemedy(t *testing.T) {
	onlySimulated(t, "a rollback needs the simulated hypervisor")
	t.Parallel()
	s, set := taken(t)
	s.replace("    hypervisor:\n", "    hypervisor:\n      stop_within: 1s\n")
	s.simulated("core").FillDisk(true)
	s.cluster.Node("dea-1").Refuse(true)
	s.cluster.Node("dea-1").DropConnections()
	s.cluster.Node("dea-2").PowerOff()
	s.hypervisor().HangShutdowns("mysql-1")
	s.hypervisor().Host().SlowCommand("vmctl stop", -1, 1500*time.Millisecond) // longer than stop_within: the time counts from the answer on
	f := s.fault("a cluster with a full Core, a node without SSH, one that is off, and one that does not shut down")
	o := s.rollback(set)
	o.until(60*time.Second, "the nodes to be on again", func(r operation.Report) bool {
		if !slices.ContainsFunc(r.Nodes, func(n operation.NodeReport) bool { return n.Step == operation.StepRollback }) {
			return r.Finished() || slices.ContainsFunc(r.Nodes, func(n operation.NodeReport) bool { return n.Step == operation.StepRecover })
		}
		s.simulated("core").FillDisk(false) // what was full is on the disk that goes away
		s.cluster.Node("dea-1").Refuse(false)
		return true
	})
	r := o.done(90 * time.Second)
	o.holds("then")
	require.Empty(t, r.Answers)
	told := strings.Join(r.Warnings, "\n")
	for _, want := range []string{"dea-1: ", "dea-2: ", "could not be fenced", "mysql-1: its power was taken away"} {
		require.Contains(t, told, want)
	}
	f.end("told, and gone back to the set")
}

func TestRollback_Preflight_NamesAllProblemsAtOnceAndTouchesNothing(t *testing.T) {
	onlySimulated(t, "a rollback needs the simulated hypervisor")
	t.Parallel()
	s, set := taken(t)
	name := s.cluster.Name()
	before := len(s.cluster.Commands())
	require.Contains(t, s.cli(2, "snapshot", "rollback", name, set).Stderr, "there is no terminal to ask on: confirm the rollback to set "+set+" with --confirm "+name)
	require.Contains(t, s.cli(2, "snapshot", "rollback", name, set, "--confirm", "other").Stderr, "write its name once more (--confirm "+name+")")
	require.Contains(t, s.cli(2, "snapshot", "rollback", name, "latest", "--confirm", name).Stderr, "set latest is not gone back to by that name")
	require.Contains(t, s.cli(2, "snapshot", "rollback", name, "no-such", "--confirm", name).Stderr, "has no set no-such")
	out := s.cli(0, "snapshot", "rollback", name, set, "--dry-run").Stdout
	for _, want := range []string{"stop-vms shut down VM vm-core", "snapshots snapshot katoflow-", "rollback put VM vm-dea-1 back to snapshot katoflow-", "start-vms switch VM vm-core on   # before the others", "start-roles /home/stackato/bin/kato start"} {
		require.Contains(t, out, want)
	}
	f := s.fault("a rollback to a set of which a snapshot is gone, a VM is another one, and a command is missing")
	s.hypervisor().Lose("dea-2", 0)
	s.replace("vm: vm-mysql-1", "vm: vm-other")
	s.withoutCommand("rollback")
	stderr := s.cli(7, "snapshot", "rollback", name, set, "--confirm", name, "--no-safety-snapshots").Stderr
	require.Contains(t, stderr, "dea-2: its snapshot katoflow-")
	require.Contains(t, stderr, "the inventory has no hypervisor.command.rollback: a rollback needs it")
	require.Contains(t, stderr, "mysql-1: the set has a snapshot of VM vm-mysql-1 on hypervisor-1, and in the inventory it is vm-other on hypervisor-1")
	require.Len(t, s.cluster.Commands(), before)
	for _, n := range s.cluster.Nodes() {
		require.True(t, n.Running())
	}
	require.Equal(t, "now", s.reads())
	f.end(refused)
}

func TestRollback_Cancelled_IsSeenThroughOnceDisksWerePutBack(t *testing.T) {
	onlySimulated(t, "a rollback needs the simulated hypervisor")
	t.Parallel()
	for step, want := range map[string]string{operation.StepStopVMs: "now", operation.StepSnapshots: "now", operation.StepRollback: "then"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withDisks, simulating(func(c *simcluster.Config) {
				if step == operation.StepStopVMs {
					c.Hypervisor.ShutdownTime = 12 * time.Second // longer than the word of a cancel takes
				}
			}))
			s.worker("")
			set := s.takes()
			for _, n := range s.names() {
				s.hypervisor().SlowSnapshots(n, 4*time.Second)
				s.hypervisor().SlowRollbacks(n, 4*time.Second)
			}
			o := s.rollback(set)
			o.until(60*time.Second, "step "+step, func(r operation.Report) bool { return len(r.Nodes) > 0 && r.Nodes[0].Step == step })
			reached := time.Now()
			f := s.fault("a rollback cancelled in step %s", step)
			s.cli(0, "op", "cancel", o.id, "--detach")
			r, err := o.end(2 * time.Minute)
			require.Error(t, err)
			require.Equal(t, operation.PhaseCancelled, r.Phase)
			if step == operation.StepStopVMs {
				// What was asked to shut down has done so by then.
				require.NoError(t, waitFor(20*time.Second, "the shutdowns to be over", func() (bool, error) { return time.Since(reached) > 13*time.Second, nil }))
			}
			o.holds(want)
			if want == "then" {
				require.Contains(t, strings.Join(r.Warnings, "\n"), "the rollback is seen through")
				f.end("seen through, then ended as cancelled")
				return
			}
			require.Len(t, s.hypervisor().Snapshots(), 5, "those of the set, and none of this operation")
			f.end("ended as cancelled, the cluster up as it was")
		})
	}
}

// TestKillMatrix_OfARollback kills the worker at every boundary of every activity and in the middle of what is stopped, put back and started.
func TestKillMatrix_OfARollback(t *testing.T) {
	onlySimulated(t, "a rollback needs the simulated hypervisor")
	t.Parallel()
	m := matrix{
		site: func(t *testing.T) *site {
			s := newSite(t, nil, nil, withDisks, simulating(func(c *simcluster.Config) { c.Hypervisor.ShutdownTime = 400 * time.Millisecond }))
			w := s.worker("")
			s.archive = s.takes()
			require.NoError(t, w.Stop())
			for _, n := range s.cluster.Nodes() {
				n.SlowCommand("kato start", -1, 300*time.Millisecond)
				s.hypervisor().SlowSnapshots(n.Name(), 300*time.Millisecond)
				s.hypervisor().SlowRollbacks(n.Name(), 500*time.Millisecond)
			}
			return s
		},
		start: func(s *site) *op { return s.rollbackDirectly(operation.SnapshotRollbackInput{Set: s.archive}) },
		intact: func(o *op, _ int) {
			r := o.done(2 * time.Minute)
			require.Empty(o.t, r.Answers)
			o.holds("then")
		},
	}
	down := func(ctx context.Context, o *op) (func(), error) {
		return nil, waitIn(ctx, "a VM to be off", func() bool { return !o.cluster.Node("dea-1").Running() })
	}
	back := func(ctx context.Context, o *op) (func(), error) {
		return nil, waitIn(ctx, "disks to be put back", func() bool { return o.hypervisor().RolledBack("core") > 0 || o.hypervisor().RolledBack("dea-1") > 0 })
	}
	t.Run("points", func(t *testing.T) {
		m.lanes(t, "rollback", 4, slices.Concat(
			boundaries("Resolve", "LockToken", "Preflight", "RollbackReady", "Fence"),
			within("StopVMs", killPoint{name: "in the shutdown", moment: down}),
			boundaries("TakeSnapshots", "Usable", "KeepSet"),
			within("RollbackVMs", killPoint{name: "in the rollback", moment: back}),
			boundaries("Recover"),
			within("StartRoles", killPoint{name: "in start of the Core", moment: inCommand("core", "kato start")}, killPoint{name: "in start", moment: inCommand("dea-1", "kato start")}),
			boundaries("EnterMaintenance", "ClusterGates", "LeaveMaintenance")))
	})
	tellKills(t, "rollback")
}
