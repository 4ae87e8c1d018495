package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// onVMs gives the cluster a hypervisor whose snapshots take 20 to 200 ms, and a bucket for the sets' manifests.
func onVMs(c *config) {
	c.s3 = true
	c.simulated = append(c.simulated, func(sc *simcluster.Config) {
		sc.Hypervisor = &simcluster.HypervisorConfig{CallMin: 20 * time.Millisecond, CallMax: 200 * time.Millisecond}
	})
}

// hypervisor of the simulated cluster.
func (s *site) hypervisor() *simcluster.Hypervisor {
	s.t.Helper()
	c, ok := s.cluster.(simulatedCluster)
	require.True(s.t, ok, "only the simulated cluster has a hypervisor")
	return c.Hypervisor()
}

// snapshot begins one by the CLI, detached.
func (s *site) snapshot(args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"snapshot", "create", s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attachTo(operation.KindSnapshot, id)
}

// snapshotDirectly begins it through the client and does not wait for anything.
func (s *site) snapshotDirectly(in operation.SnapshotInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name()
	return s.execute(operation.KindSnapshot, operation.WorkflowSnapshot, in.OperationID, in)
}

// whole requires that there is one snapshot of every node, all of one round, that the manifest says the same, and that the cluster is as it was before.
func (o *op) whole(r operation.Report) []simcluster.SnapshotState {
	o.t.Helper()
	set := r.Snapshot
	require.NotNil(o.t, set)
	require.NotEmpty(o.t, set.Location)
	have := o.hypervisor().Snapshots()
	var nodes []string
	for _, h := range have {
		nodes = append(nodes, h.Node)
		require.Equal(o.t, have[0].Name, h.Name, "all of one round")
	}
	require.ElementsMatch(o.t, o.names(), nodes, "one snapshot of every node, and none of another round")
	key := strings.TrimPrefix(set.Location, "s3://"+o.bucket.Name+"/")
	var manifest operation.SnapshotSet
	require.NoError(o.t, json.Unmarshal(o.object(key), &manifest))
	require.Equal(o.t, o.id, manifest.Set)
	require.Len(o.t, manifest.Snapshots, len(nodes))
	for _, s := range manifest.Snapshots {
		require.Equal(o.t, "vm-"+s.Node, s.VM)
		require.Equal(o.t, have[0].Name, s.Name)
	}
	if set.Moment.Measured {
		for _, h := range have {
			i := slices.IndexFunc(set.Snapshots, func(s operation.SnapshotOf) bool { return s.Node == h.Node })
			requested, completed := timeIn(o.t, set.Snapshots[i].Requested), timeIn(o.t, set.Snapshots[i].Completed)
			require.False(o.t, h.At.Before(requested) || h.At.After(completed), "%s: its moment lies between its request and its completion", h.Node)
		}
		require.LessOrEqual(o.t, have[len(have)-1].At.Sub(have[0].At), set.Moment.SkewBound.D(), "no two are further apart than the bound")
	}
	o.resumed()
	return have
}

// object reads one of the site's bucket.
func (s *site) object(key string) []byte {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := s.bucket.Server.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket.Name, Key: &key})
	require.NoError(s.t, err)
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	require.NoError(s.t, err)
	return b
}

func timeIn(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return at
}

// resumed requires that nothing that was stopped is left so, and that no command ran twice.
func (o *op) resumed() {
	o.t.Helper()
	require.False(o.t, o.cluster.Maintenance(), "maintenance mode was put back")
	for _, n := range o.cluster.Nodes() {
		require.True(o.t, n.Running(), "%s is on", n.Name())
		require.Empty(o.t, n.StoppedRoles(), "roles that are left stopped on %s", n.Name())
	}
	again := o.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(o.t, again)
}

func TestSnapshot_OfACluster_IsOneMoment(t *testing.T) {
	onlySimulated(t, "real VMs are in internal/hypervisor")
	t.Parallel()
	for name, c := range map[string]struct {
		args  []string
		quiet string
		// is says whether a snapshot was taken in the state that was asked for.
		is func(simcluster.SnapshotState) bool
	}{
		"by default": {quiet: "roles stopped", is: func(s simcluster.SnapshotState) bool { return s.Running && s.Maintenance && len(s.Roles) == 0 }},
		"in maintenance mode alone": {args: []string{"--quiesce", "maintenance"}, is: func(s simcluster.SnapshotState) bool {
			return s.Running && s.Maintenance && len(s.Roles) > 0
		}},
		"with nothing quiet": {args: []string{"--quiesce", "none"}, is: func(s simcluster.SnapshotState) bool { return s.Running && !s.Maintenance && len(s.Roles) > 0 }},
		"of VMs that are shut down": {args: []string{"--quiesce", "vms-stopped,roles-stopped"}, quiet: "VMs stopped", is: func(s simcluster.SnapshotState) bool {
			return !s.Running
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, onVMs)
			s.worker("")
			o := s.snapshot(append(c.args, "--max-skew", "10s")...)
			r := o.done(60 * time.Second)
			for _, have := range o.whole(r) {
				require.True(t, c.is(have), "%+v", have)
			}
			m := r.Snapshot.Moment
			require.True(t, m.Measured)
			require.Equal(t, c.quiet, m.Quiet)
			require.Equal(t, c.quiet != "", m.Inside, "%+v", m)
			require.Equal(t, 1, r.Snapshot.Round)
			for _, n := range s.names() {
				require.Equal(t, 1, s.hypervisor().Asked(n), n)
			}
			require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "moment: requested within ")
		})
	}
}

func TestSnapshotSets_ListedShownVerifiedAndDeleted(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	require.Contains(t, s.cli(0, "snapshot", "list", s.cluster.Name()).Stdout, "has no set of snapshots")
	first := s.snapshot("--quiesce", "none", "--note", "before the upgrade")
	first.done(60 * time.Second)
	second := s.snapshot("--quiesce", "none")
	second.done(60 * time.Second)
	var list operation.SnapshotSets
	require.NoError(t, s.cli(0, "snapshot", "list", s.cluster.Name(), "-o", "json").JSON(&list))
	require.Len(t, list.Sets, 2)
	require.Equal(t, []string{second.id, first.id}, []string{list.Sets[0].Set, list.Sets[1].Set}, "the newest first")
	require.Equal(t, "before the upgrade", list.Sets[1].Note)
	require.Contains(t, s.cli(0, "snapshot", "show", s.cluster.Name()).Stdout, "set "+second.id+" of ")
	require.Contains(t, s.cli(0, "snapshot", "show", s.cluster.Name(), first.id).Stdout, "vm-core")
	require.Contains(t, s.cli(0, "snapshot", "verify", s.cluster.Name(), first.id).Stdout, "set "+first.id+" is whole: all 5 snapshots are there")

	name := "katoflow-" + remote.EncodeID(first.id) + "-r1"
	// One of the first set is gone, and one stands in no manifest.
	s.hypervisor().Lose("dea-1", 0)
	s.hypervisor().Add("dea-2", "katoflow-terminated-r1")
	f := s.fault("a snapshot of a set is gone, and one stands in no manifest")
	out := s.cli(11, "snapshot", "verify", s.cluster.Name(), first.id)
	require.Contains(t, out.Stdout, "dea-1: its snapshot "+name+" is gone")
	require.Contains(t, out.Stdout, "a snapshot stands in no manifest: dea-2: katoflow-terminated-r1")

	require.Contains(t, s.cli(2, "snapshot", "delete", s.cluster.Name(), first.id).Stderr, "there is no terminal to ask on: say --yes")
	s.hypervisor().Host().FailCommand("vmctl delete", 1, 1, "the storage is away")
	require.Contains(t, s.cli(11, "snapshot", "delete", s.cluster.Name(), first.id, "--yes").Stdout, "could not be deleted, and the set stays in the list")
	s.cli(0, "snapshot", "delete", s.cluster.Name(), first.id, "--yes")
	require.NoError(t, s.cli(0, "snapshot", "list", s.cluster.Name(), "-o", "json").JSON(&list))
	require.Len(t, list.Sets, 1)
	for _, have := range s.hypervisor().Snapshots() {
		require.NotEqual(t, name, have.Name)
	}
	require.Contains(t, s.cli(2, "snapshot", "show", s.cluster.Name(), first.id).Stderr, "has no set "+first.id)
	f.end("verify names both, with an exit code of its own")
}

func TestSnapshotSets_ThatNoRuleKeeps_ArePruned(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	name := s.cluster.Name()
	stopped := s.snapshot() // roles stopped: of another sort than the others
	stopped.done(60 * time.Second)
	var running []string
	for range 3 {
		o := s.snapshot("--quiesce", "none")
		o.done(60 * time.Second)
		running = append(running, o.id)
	}
	all := len(s.hypervisor().Snapshots())
	require.Contains(t, s.cli(2, "snapshot", "prune", name, "--yes").Stderr, "nothing would be kept")
	require.Contains(t, s.cli(2, "snapshot", "prune", name, "--keep-last", "1").Stderr, "there is no terminal to ask on: look with --dry-run, then say --yes")

	dry := s.cli(0, "snapshot", "prune", name, "--keep-last", "1", "--dry-run").Stdout
	require.Contains(t, dry, "dry run: 2 sets would be deleted, 2 would stay, nothing was changed")
	require.Regexp(t, stopped.id+` .*kept +last`, dry)
	require.Regexp(t, running[2]+` .*kept +last`, dry)
	require.Regexp(t, running[0]+` .*would be deleted +no rule keeps it`, dry)
	require.Len(t, s.hypervisor().Snapshots(), all)

	f := s.fault("a snapshot cannot be deleted while sets are pruned")
	s.hypervisor().Host().FailCommand("vmctl delete", 1, 1, "the storage is away")
	out := s.cli(11, "snapshot", "prune", name, "--keep-last", "1", "--yes").Stdout
	require.Contains(t, out, "1 set could not be deleted; 1 set deleted, 2 kept")
	require.Contains(t, out, "the storage is away")
	require.Contains(t, s.cli(0, "snapshot", "prune", name, "--keep-last", "1", "--yes").Stdout, "1 set deleted, 2 kept")
	var list operation.SnapshotSets
	require.NoError(t, s.cli(0, "snapshot", "list", name, "-o", "json").JSON(&list))
	require.Equal(t, []string{running[2], stopped.id}, []string{list.Sets[0].Set, list.Sets[1].Set})
	require.Len(t, list.Sets, 2)
	require.Len(t, s.hypervisor().Snapshots(), all/2, "those of the sets that are kept, and no other")
	for _, set := range list.Sets {
		require.Contains(t, s.cli(0, "snapshot", "verify", name, set.Set).Stdout, "is whole")
	}
	f.end("told with its exit code, the other sets pruned, the rest by the next run")
}

func TestSnapshot_RoundThatDoesNotCount_IsDeletedAndTriedAgain(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	for name, c := range map[string]struct {
		args  []string
		spoil func(h *simcluster.Hypervisor)
		void  string
	}{
		"one of five fails":        {spoil: func(h *simcluster.Hypervisor) { h.FailSnapshots("dea-2", 1) }, void: "round 1: dea-2: command snapshot ended with exit code 1: vmctl: the storage of dea-2 gives no snapshot"},
		"one of five is too late":  {args: []string{"--max-skew", "1s"}, spoil: func(h *simcluster.Hypervisor) { h.SlowSnapshots("dea-1", 1500*time.Millisecond) }, void: "round 1: the skew may be "},
		"one of five never ends":   {args: []string{"--deadline", "4s"}, spoil: func(h *simcluster.Hypervisor) { h.SlowSnapshots("core", 5500*time.Millisecond) }, void: "round 1: core: the snapshot took longer than it may"},
		"two of five fail at once": {spoil: func(h *simcluster.Hypervisor) { h.FailSnapshots("dea-2", 1); h.FailSnapshots("core", 1) }, void: "(and 1 more)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, onVMs)
			s.worker("")
			c.spoil(s.hypervisor())
			f := s.fault("a snapshot of five: %s", name)
			o := s.snapshot(append(c.args, "--rounds", "5")...)
			o.until(60*time.Second, "a void round", func(r operation.Report) bool { return r.Snapshot != nil && len(r.Snapshot.Void) > 0 })
			for _, n := range s.names() {
				s.hypervisor().SlowSnapshots(n, 0)
			}
			r := o.done(60 * time.Second)
			o.whole(r)
			require.GreaterOrEqual(t, r.Snapshot.Round, 2)
			require.Contains(t, r.Snapshot.Void[0], c.void)
			f.end("void, its snapshots deleted, the cluster resumed, the next round counts")
		})
	}
}

func TestSnapshot_AnswerOfOneLost_IsFoundAndCounts(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	s.hypervisor().LoseAnswers("dea-1", 1)
	f := s.fault("the answer of a snapshot that was made is lost")
	o := s.snapshot()
	r := o.done(60 * time.Second)
	o.whole(r)
	require.Equal(t, 1, r.Snapshot.Round, "no round was void")
	f.end(wentOn)
}

func TestSnapshot_ShownLate_IsWaitedForAndDeletedWithItsRound(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	s.hypervisor().ShowLate("dea-1", 12*time.Second)
	s.hypervisor().FailSnapshots("core", 1)
	f := s.fault("a cloud shows snapshots 12 s after they were made, also one of a void round")
	o := s.snapshot("--quiesce", "none")
	r := o.done(90 * time.Second)
	require.Equal(t, 2, r.Snapshot.Round)
	for _, have := range s.hypervisor().Snapshots() {
		require.Equal(t, r.Snapshot.Snapshots[0].Name, have.Name, "one of the void round is left on %s", have.Node)
	}
	require.Len(t, s.hypervisor().Snapshots(), len(s.names()))
	f.end("waited for; of the void round nothing is left")
}

func TestSnapshot_EveryRoundFails_AsksAndLeavesNothingWhenAborted(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	s.hypervisor().FailSnapshots("dea-1", 1000)
	f := s.fault("every snapshot of one node fails")
	o := s.snapshot("--rounds", "2")
	q := o.question(60 * time.Second)
	require.Equal(t, "cluster/"+operation.StepSnapshots, q.Node+"/"+q.Step)
	require.Empty(t, s.hypervisor().Snapshots(), "nothing of a void round is left while it waits")
	o.resumed()
	o.decide(q, operation.Abort)
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseAborted, r.Phase)
	require.Len(t, r.Snapshot.Void, 2)
	require.Empty(t, s.hypervisor().Snapshots())
	f.end(parkedFor("snapshots ("+q.Cause.Type+")", "aborted, nothing left"))
}

func TestSnapshot_ThatCannotBeUsed_AsksAndIsNoSet(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	s.hypervisor().BreakSnapshots("mysql-1", 1)
	f := s.fault("a snapshot turns out to have failed while it is copied")
	o := s.snapshot()
	q := o.question(60 * time.Second)
	require.Equal(t, operation.StepUsable, q.Step)
	require.Contains(t, q.Cause.Message, "mysql-1: its snapshot katoflow-")
	o.decide(q, operation.Abort)
	_, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Empty(t, s.hypervisor().Snapshots())
	keys, err := s.bucket.Keys(context.Background())
	require.NoError(t, err)
	for key := range keys {
		require.NotContains(t, key, ".snapshots/", "no manifest")
	}
	f.end(parkedFor("usable ("+q.Cause.Type+")", "aborted, nothing left"))
}

func TestSnapshot_Preflight_NamesAllProblemsAtOnceAndTouchesNothing(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs, simulating(func(c *simcluster.Config) { c.Hypervisor.Quota = 1 }))
	s.worker("")
	s.snapshot("--quiesce", "none").done(60 * time.Second)
	f := s.fault("quota of snapshots exceeded, a VM that is not there")
	s.replace("vm: vm-core", "vm: vm-other")
	s.withoutCommand("stop")
	out := s.cli(7, "snapshot", "create", s.cluster.Name(), "--quiesce", "vms-stopped")
	require.Contains(t, out.Stderr, "the inventory has no hypervisor.command.stop: quiesce vms-stopped needs it")
	require.Contains(t, out.Stderr, "dea-1: it has 1 snapshots already, and 1 is the quota: delete one")
	require.Contains(t, out.Stderr, "core: command check ended with exit code 3: vmctl: no VM vm-other is here")
	require.Empty(t, s.cluster.Commands())
	f.end(refused)
}

func TestSnapshot_DryRun_ShowsWhatWouldBeDone(t *testing.T) {
	onlySimulated(t, "the commands are the same on real hosts")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	out := s.cli(0, "snapshot", "create", s.cluster.Name(), "--dry-run")
	for _, want := range []string{"stop-roles /home/stackato/bin/kato stop   # after the others; started before them", "snapshots snapshot katoflow-", " of VM vm-core   # command on hypervisor-1",
		"kato config set cloud_controller_ng maintenance_mode true"} {
		require.Contains(t, out.Stdout, want)
	}
	require.Empty(t, s.cluster.Commands())
	require.Empty(t, s.hypervisor().Snapshots())
}

func TestSnapshot_ClockOfANodeIsOff_CountsAllTheSame(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, onVMs)
	s.worker("")
	s.cluster.Node("dea-1").SkewClock(5 * time.Second)
	s.cluster.Node("mysql-1").SkewClock(-5 * time.Second)
	f := s.fault("clocks of two nodes are off by 5s")
	o := s.snapshot()
	r := o.done(60 * time.Second)
	o.whole(r)
	require.Equal(t, 1, r.Snapshot.Round)
	require.True(t, r.Snapshot.Moment.Inside, "%+v", r.Snapshot.Moment)
	i := slices.IndexFunc(r.Snapshot.Snapshots, func(n operation.SnapshotOf) bool { return n.Node == "dea-1" })
	require.InDelta(t, 5*time.Second, r.Snapshot.Snapshots[i].ClockOffset.D(), float64(time.Second))
	f.end(wentOn)
}

func TestSnapshot_Cancelled_ResumesTheClusterAndLeavesNothing(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	for step, slow := range map[string]string{operation.StepMaintenanceOn: "kato config set", operation.StepStopRoles: "kato stop", operation.StepSnapshots: "", operation.StepStartRoles: "kato start", operation.StepStopVMs: ""} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, onVMs, simulating(func(c *simcluster.Config) { c.Hypervisor.ShutdownTime = 12 * time.Second }))
			var args []string
			if step == operation.StepStopVMs {
				args = []string{"--quiesce", "vms-stopped"}
			}
			for _, n := range s.cluster.Nodes() {
				if slow != "" {
					n.SlowCommand(slow, -1, time.Minute)
				} else {
					s.hypervisor().SlowSnapshots(n.Name(), 4*time.Second)
				}
			}
			s.worker("")
			o := s.snapshot(args...)
			o.until(60*time.Second, "step "+step, func(r operation.Report) bool { return len(r.Nodes) > 0 && r.Nodes[0].Step == step })
			reached := time.Now()
			f := s.fault("snapshots cancelled in step %s", step)
			s.cli(0, "op", "cancel", o.id, "--detach")
			o.cancelReaches("")
			for _, n := range s.cluster.Nodes() {
				n.HealCommands()
			}
			r, err := o.end(60 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseCancelled, r.Phase)
			require.Empty(t, s.hypervisor().Snapshots())
			if step == operation.StepStopVMs {
				// What was asked to shut down has done so by then.
				require.NoError(t, waitFor(20*time.Second, "the shutdowns to be over", func() (bool, error) { return time.Since(reached) > 13*time.Second, nil }))
			}
			o.resumed()
			f.end("ended as cancelled, the cluster resumed, nothing left")
		})
	}
}

// TestKillMatrix_OfASnapshot kills the worker at every boundary of every activity and in the middle of what is stopped, taken and started.
func TestKillMatrix_OfASnapshot(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	m := matrix{
		site: func(t *testing.T) *site {
			s := newSite(t, nil, nil, onVMs)
			for _, n := range s.cluster.Nodes() {
				n.SlowCommand("kato stop", -1, 300*time.Millisecond)
				n.SlowCommand("kato start", -1, 300*time.Millisecond)
				s.hypervisor().SlowSnapshots(n.Name(), 500*time.Millisecond)
			}
			return s
		},
		start: func(s *site) *op { return s.snapshotDirectly(operation.SnapshotInput{}) },
		intact: func(o *op, _ int) {
			r := o.done(2 * time.Minute)
			for _, have := range o.whole(r) {
				require.Empty(o.t, have.Roles, "%s was snapshot with roles that ran", have.Node)
			}
		},
	}
	taking := func(ctx context.Context, o *op) (func(), error) {
		return nil, waitIn(ctx, "snapshots to be asked for", func() bool { return o.hypervisor().Asked("core") > 0 && o.hypervisor().Asked("dea-1") > 0 })
	}
	t.Run("points", func(t *testing.T) {
		m.lanes(t, "snapshot", 5, slices.Concat(
			boundaries("Resolve", "LockToken", "Preflight", "SnapshotReady", "Fence", "EnterMaintenance"),
			within("StopRoles", killPoint{name: "in stop", moment: inCommand("dea-1", "kato stop")}, killPoint{name: "in stop of the Core", moment: inCommand("core", "kato stop")}),
			within("TakeSnapshots", killPoint{name: "in the snapshots", moment: taking}),
			within("StartRoles", killPoint{name: "in start of the Core", moment: inCommand("core", "kato start")}, killPoint{name: "in start", moment: inCommand("dea-1", "kato start")}),
			boundaries("ClusterGates", "LeaveMaintenance", "Usable", "KeepSet")))
	})
	tellKills(t, "snapshot")
}

func TestSnapshot_TwoOperationsAtOnce_TheSecondWaitsOrIsRefused(t *testing.T) {
	onlySimulated(t, "a fault of the simulated hypervisor")
	t.Parallel()
	s := newSite(t, nil, nil, withDisks)
	s.worker("")
	set := s.takes()
	s.hypervisor().FailSnapshots("dea-1", 1)
	holder := s.snapshot("--rounds", "1")
	q := holder.question(60 * time.Second)
	f := s.fault("snapshots, a rollback and an upgrade while snapshots wait for an answer")
	for _, args := range [][]string{{"snapshot", "create", s.cluster.Name()}, {"snapshot", "rollback", s.cluster.Name(), set, "--confirm", s.cluster.Name()}, {"upgrade", "security", s.cluster.Name()}} {
		require.Contains(t, s.cli(6, args...).Stderr, holder.workflow+" is running on it")
	}
	queued := s.rollback(set, "--wait=5m")
	queued.until(30*time.Second, "the queue", func(r operation.Report) bool { return strings.Contains(r.Message, "held by "+holder.workflow) })
	require.Equal(t, "now", s.reads())
	holder.decide(q, operation.Retry)
	holder.done(60 * time.Second)
	queued.done(90 * time.Second)
	queued.holds("then")
	f.end("the others refused naming it, one with --wait done after it")
}
