package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// onTheCore is a cluster whose Core has the role filesystem: kato exports there. One real host is enough for it.
func onTheCore(c *config) {
	exporting(c)
	c.nodes = []nodeConfig{{name: core, roles: []string{"base", "primary", "controller", "router", "filesystem"}}, {name: files, roles: []string{"base", "dea"}}}
	if onHosts() {
		c.nodes[0].roles = append(c.nodes[0].roles, "dea")
		c.nodes = c.nodes[:1]
	}
}

// twoRunning makes an old cluster and a new one that reach each other, the Core of the new one with the key of the old one. reversed: the old one's name comes after the new one's.
func twoRunning(t *testing.T, reversed bool, access bool) (old, target *site) {
	t.Helper()
	old = newSite(t, nil, nil, onTheCore, beside(1))
	target = old.second("", onTheCore, func(c *config) { c.simulated = append(c.simulated, func(c *simcluster.Config) { c.Network = 7 }) })
	if reversed {
		old, target = target, old
	}
	target.source = old
	if !onHosts() { // which have one network
		old.cluster.(simulatedCluster).Connect(target.cluster.(simulatedCluster).Cluster)
	}
	if access {
		old.letsIn(target)
	}
	return old, target
}

// letsIn gives the Core of another cluster what it needs to log in to the Core of this one: its key is accepted there, and it knows the host's.
func (s *site) letsIn(other *site) {
	s.t.Helper()
	if !onHosts() {
		require.NoError(s.t, s.simulated(core).AuthorizeKey(other.cluster.(simulatedCluster).CorePublicKey()))
		require.NoError(s.t, other.simulated(core).KnowHost(s.simulated(core)))
		return
	}
	key, err := other.cluster.(*hosts).CorePublicKey()
	require.NoError(s.t, err)
	to := s.cluster.Node(core).(host)
	require.NoError(s.t, to.AuthorizeKey(key))
	require.NoError(s.t, other.cluster.Node(core).(host).KnowHost(to.Host, to.Address()))
}

// fromHost begins the import of the running cluster old.
func (s *site) fromHost(old *site, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"backup", "restore", "--from-host", old.cluster.Name(), "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attachTo(operation.KindRestore, id)
}

// letGo requires that the old cluster is as it was: nothing runs there, nothing is left, and nobody holds it.
func (o *op) letGo(old *site) {
	o.t.Helper()
	old.read(o.site)
	source := old.attachTo(operation.KindHold, o.id+"-source")
	r, err := source.end(30 * time.Second)
	require.NoError(o.t, err)
	require.Equal(o.t, operation.PhaseDone, r.Phase)
	source.settled()
	o.settled()
}

// read takes the exports on an old Core for what kato of the new one has started there, over SSH and so outside of a job: one for each import.
func (s *site) read(by *site) {
	s.t.Helper()
	n := 0
	for _, e := range s.cluster.Node(core).Commands() {
		if strings.HasPrefix(e.Command(), "kato data export --cluster --base-dir /tmp/kato-export-") {
			n++
			s.byHands = append(s.byHands, e.Command())
		}
	}
	require.Equal(s.t, by.imports(core), n, "exports for imports")
}

func TestFromHost_ARunningCluster_IsHeldWhileItIsReadAndComesOver(t *testing.T) {
	t.Parallel()
	for name, reversed := range map[string]bool{"old before new": false, "new before old": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if onHosts() && reversed {
				t.Skip("the order of the locks is the workflow's: one of them is enough on real hosts")
			}
			old, target := twoRunning(t, reversed, true)
			target.worker("")
			old.controller().AddApp("moved", "live", cloudcontroller.App{Name: "web", Instances: 2})
			old.controller().AddApp("moved", "live", cloudcontroller.App{Name: "idle", State: "STOPPED"})
			target.controller().Empty()
			target.cluster.Node(core).SlowCommand("kato data import", -1, in(3*time.Second, 8*time.Second))
			require.Contains(t, target.cli(0, "backup", "restore", "--from-host", old.cluster.Node(core).Address(), "--cluster", target.cluster.Name(), "--dry-run").Stdout,
				"cluster "+old.cluster.Name()+" is held")
			require.Zero(t, target.imports(core))

			o := target.fromHost(old)
			target.eventually(60*time.Second, "kato to import", func() bool { return target.running(core, "kato data import") })
			require.True(t, old.cluster.Maintenance(), "the old cluster is read-only meanwhile")
			require.False(t, target.cluster.Maintenance())
			busy := old.cli(6, "apps", "restart", old.cluster.Name(), "--all").Stderr
			require.Contains(t, busy, operation.WorkflowID(old.cluster.Name(), operation.KindHold, o.id+"-source"))
			r := o.done(90 * time.Second)
			require.Equal(t, old.cluster.Name(), r.Restore.Running)
			require.Empty(t, r.Restore.Archive)
			require.NotNil(t, r.Restore.Recorded)
			require.Equal(t, r.Restore.Recorded, r.Restore.Found)
			require.Empty(t, r.Restore.Missing)
			require.Equal(t, r.Restore.Recorded.AppsStarted, outcomesOf(r)[operation.AppRunning])
			require.NotEmpty(t, target.guid("moved", "live", "web"))
			require.Equal(t, "STOPPED", target.controller().AppState(target.guid("moved", "live", "idle")))
			require.NotEmpty(t, old.guid("moved", "live", "web"), "nothing is taken from the old one")
			require.Equal(t, []int{1, 0}, []int{target.imports(core), old.imports(core)})
			require.Contains(t, target.cli(0, "op", "show", o.id).Stdout, "running cluster "+old.cluster.Name()+", held by "+o.id+"-source")
			o.letGo(old)
		})
	}
}

func TestFromHost_Preflight_NamesAllProblemsAtOnceAndTouchesNothing(t *testing.T) {
	t.Parallel()
	old, target := twoRunning(t, false, false)
	node := in(files, core)
	target.worker("")
	name := target.cluster.Name()
	args := []string{"backup", "restore", "--cluster", name, "--confirm", name, "--no-safety-backup", "--from-host"}
	for want, host := range map[string]string{"cannot be imported into itself": name, `called "elsewhere"`: "elsewhere", `called "192.0.2.1"`: "192.0.2.1"} {
		require.Contains(t, target.cli(2, append(args, host)...).Stderr, want)
	}
	require.Contains(t, target.cli(2, append(args, old.cluster.Name(), "latest")...).Stderr, "leave one out")
	require.Contains(t, target.cli(2, "backup", "restore", "latest", "--cluster", name, "--confirm", name, "--maintenance", "off").Stderr, "is for --from-host")
	require.Contains(t, target.cli(2, "backup", "restore", "--cluster", name, "--confirm", name).Stderr, "nothing is named to be imported")

	old.cluster.Node(node).SudoPassword(true)
	target.controller().SetMaintenance(true)
	stderr := target.cli(7, append(args, old.cluster.Name())...).Stderr
	for _, want := range []string{"the Core cannot log in to the Core of " + old.cluster.Name(), old.cluster.Name() + ": " + node + ": sudo asks", "maintenance mode is on"} {
		require.Contains(t, stderr, want)
	}
	target.controller().SetMaintenance(false)
	old.cluster.Node(node).SudoPassword(false)
	require.Zero(t, target.imports(core))
	require.False(t, old.cluster.Maintenance())
	require.False(t, target.locked())
}

func TestFromHost_OldClusterBusy_IsToldOrWaitedFor(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the lock does not depend on the nodes")
	old, target := twoRunning(t, false, true)
	target.worker("")
	target.controller().Empty()
	require.NoError(t, old.exporter(core).ExportTime(15*time.Second))
	other := old.backup("--maintenance", "off")
	old.eventually(60*time.Second, "the export", func() bool { return old.running(core, "kato data export") })
	name := target.cluster.Name()
	stderr := target.cli(7, "backup", "restore", "--from-host", old.cluster.Name(), "--cluster", name, "--confirm", name).Stderr
	require.Contains(t, stderr, "kato data export or import runs there already")
	require.Contains(t, stderr, old.cluster.Name()+": is busy: "+other.workflow)
	require.Zero(t, target.imports(core))
	other.done(90 * time.Second)
}

func TestFromHost_CancelledInTheImport_SeesItThroughAndLetsBothGo(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]func(old, target *site){
		"begins": func(_, target *site) {
			target.cluster.Node(core).SlowCommand("kato data import", -1, time.Minute)
		},
		"reads the old cluster": func(old, _ *site) {
			require.NoError(old.t, old.exporter(core).ExportTime(8*time.Second))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, target := twoRunning(t, false, true)
			target.worker("")
			target.controller().Empty()
			slow(old, target)
			f := target.fault("an import of a running cluster cancelled while kato %s", name)
			o := target.fromHost(old)
			at := map[string]func() bool{
				"begins":                func() bool { return target.running(core, "kato data import") },
				"reads the old cluster": func() bool { return old.running(core, "kato data export") },
			}[name]
			target.eventually(60*time.Second, "kato to begin", at)
			target.cli(0, "op", "cancel", o.id, "--detach")
			o.seesThrough()
			target.cluster.Node(core).HealCommands()
			r, err := o.end(90 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseCancelled, r.Phase)
			require.Equal(t, 1, target.imports(core))
			require.NotEmpty(t, target.guid("shop", "production", "orders"), "what kato was at has come over")
			o.letGo(old)
			f.end("the import seen through, the old cluster let go, then ended as cancelled")
		})
	}
}

func TestFromHost_AnotherMachineAtThatAddress_IsNotRead(t *testing.T) {
	t.Parallel()
	old := newSite(t, nil, nil, onTheCore, beside(1))
	target := old.second("", onTheCore) // simulated, with the same addresses at other ports: for the Core, that of the old one is its own
	if onHosts() {
		old.letsIn(target)
		require.NoError(t, target.cluster.Node(core).(host).AnswerAs(old.cluster.Node(core).Address()))
	}
	target.worker("")
	f := target.fault("another machine at the address of the old Core, as the new one sees it")
	stderr := target.cli(7, "backup", "restore", "--from-host", old.cluster.Name(), "--cluster", target.cluster.Name(), "--confirm", target.cluster.Name(), "--no-safety-backup").Stderr
	require.Contains(t, stderr, "for the Core of the target that is another machine")
	require.Zero(t, target.imports(core))
	require.False(t, old.locked())
	f.end(refused)
}

func TestFromHost_Reset_LeavesNoHoldBehind(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "a reset is a matter of the workflow")
	for name, to := range map[string]resetPoint{"to the beginning": toTheBeginning, "to before the hold": toBeforeTheHold, "to the last task": toTheLastTask} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, target := twoRunning(t, false, true)
			target.worker("")
			target.controller().Empty()
			target.cluster.Node(core).SlowCommand("kato data import", -1, in(3*time.Second, 10*time.Second))
			f := target.fault("an import of a running cluster is reset %s while kato reads", name)
			o := target.fromHost(old)
			target.eventually(60*time.Second, "kato to import", func() bool { return target.running(core, "kato data import") })
			target.eventually(60*time.Second, "kato to read the old cluster", func() bool { return !old.running(core, "kato data export") && target.running(core, "kato data import") })
			o.reset(to)
			// What of the former run still imports is asked about.
			r := o.until(90*time.Second, "the end or a question", func(r operation.Report) bool { return r.Finished() || len(r.Questions) > 0 })
			if len(r.Questions) > 0 {
				o.decide(r.Questions[0], operation.Abort)
			}
			r, err := o.end(90 * time.Second)
			t.Logf("%s %s %v", r.Phase, r.Message, err)
			require.LessOrEqual(t, target.imports(core), 1)
			target.eventually(60*time.Second, "kato to end", func() bool { return !target.running(core, "kato data import") })
			require.False(t, old.cluster.Maintenance())
			require.False(t, old.locked(), "the lock of the old cluster")
			require.False(t, target.locked(), "the lock of the new one")
			f.end("nothing imported twice, both clusters let go")
		})
	}
}

// toBeforeTheHold is the task in which the old cluster's hold was asked for.
func toBeforeTheHold(history []*historypb.HistoryEvent) int64 {
	for _, e := range history {
		if a := e.GetStartChildWorkflowExecutionInitiatedEventAttributes(); a != nil && strings.Contains(a.WorkflowId, "/"+operation.KindHold+"/") {
			return a.WorkflowTaskCompletedEventId
		}
	}
	return 0
}

func TestFromHost_HoldEndedWhileKatoReads_IsNotCalledAGoodImport(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "a hold is a matter of the workflow")
	old, target := twoRunning(t, true, true)
	target.worker("")
	target.controller().Empty()
	target.cluster.Node(core).SlowCommand("kato data import", -1, time.Minute)
	f := target.fault("the operation that holds a running cluster is cancelled while kato reads it")
	o := target.fromHost(old)
	target.eventually(60*time.Second, "kato to import", func() bool { return target.running(core, "kato data import") })
	target.cli(0, "op", "cancel", o.id+"-source")
	require.False(t, old.cluster.Maintenance())
	target.cluster.Node(core).HealCommands()
	q := o.question(60 * time.Second)
	require.Contains(t, q.Cause.Message, "was not held while kato read it")
	o.decide(q, operation.Retry)
	r := o.done(90 * time.Second)
	require.Equal(t, o.id+"-source-2", r.Restore.Held)
	require.Equal(t, 2, target.imports(core))
	old.read(target)
	o.settled()
	f.end("asked, held anew and imported again")
}

func TestFromHost_OldClusterBusy_IsWaitedFor(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the lock does not depend on the nodes")
	old, target := twoRunning(t, false, true)
	target.worker("")
	target.controller().Empty()
	require.NoError(t, old.exporter(core).ExportTime(4*time.Second))
	other := old.backup("--maintenance", "off")
	old.eventually(60*time.Second, "the export", func() bool { return old.running(core, "kato data export") })
	o := target.fromHost(old, "--wait=2m")
	other.done(90 * time.Second)
	o.done(90 * time.Second)
	o.letGo(old)
}

func TestFromHost_ImportFails_LetsTheOldClusterGoUntilTheNextTry(t *testing.T) {
	t.Parallel()
	old, target := twoRunning(t, true, true)
	target.worker("")
	target.controller().Empty()
	fails, once := katodouble.ImportFails, 1
	require.NoError(t, target.importer().ImportWith(katodouble.ImportPatch{Fault: &fails, Times: &once}))
	f := target.fault("the import of a running cluster fails and is tried again")
	o := target.fromHost(old)
	q := o.question(60 * time.Second)
	require.Equal(t, operation.StepImport, q.Step)
	require.False(t, old.cluster.Maintenance())
	require.False(t, old.locked())
	o.decide(q, operation.Retry)
	r := o.done(90 * time.Second)
	require.Equal(t, o.id+"-source-2", r.Restore.Held)
	require.Equal(t, 2, target.imports(core))
	old.read(target)
	again := old.attachTo(operation.KindHold, o.id+"-source-2")
	_, err := again.end(30 * time.Second)
	require.NoError(t, err)
	again.settled()
	o.settled()
	f.end("parked at import, the old cluster let go; retry: held anew, read again")
}

// holds is the moment an event of an activity stands in the history of the operation that holds the old cluster.
func holds(activity string, event enumspb.EventType) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		return nil, o.reached(ctx, operation.WorkflowID(o.source.cluster.Name(), operation.KindHold, o.id+"-source"), killPoint{name: activity + " of the hold", activity: activity, event: event}, o.killedAt)
	}
}

// TestKillMatrix_FromHost kills the worker around what an import of a running cluster has of its own, and requires that kato imported once, that everything came over, and that both
// clusters were let go.
func TestKillMatrix_FromHost(t *testing.T) {
	t.Parallel()
	t.Run("points", func(t *testing.T) {
		m := matrix{
			site: func(t *testing.T) *site {
				old, target := twoRunning(t, false, true)
				target.controller().Empty()
				require.NoError(t, old.exporter(core).ExportTime(in(800*time.Millisecond, 2*time.Second)))
				target.cluster.Node(core).SlowCommand("kato data import", -1, in(800*time.Millisecond, 2*time.Second))
				return target
			},
			start: func(s *site) *op {
				return s.restoreDirectly(operation.RestoreInput{FromHost: true, From: s.source.cluster.Name()})
			},
			intact: func(o *op, _ int) {
				r := o.done(2 * time.Minute)
				require.Equal(o.t, 1, o.imports(core), "runs of kato data import")
				require.Empty(o.t, r.Restore.Missing)
				require.Equal(o.t, r.Restore.Recorded, r.Restore.Found)
				o.letGo(o.source)
			},
		}
		m.lanes(t, "running", 3, slices.Concat(
			[]killPoint{{name: "in the hold", moment: holds("EnterMaintenance", scheduled)}, {name: "held", moment: holds("EnterMaintenance", completed)}},
			boundaries("PrepareSource"),
			within("Import", killPoint{name: "while kato reads", moment: func(ctx context.Context, o *op) (func(), error) {
				return nil, waitIn(ctx, "kato to read the old cluster", func() bool { return o.source.running(core, "kato data export") })
			}}, killPoint{name: "in import", moment: inCommand(core, "kato data import")}),
			[]killPoint{{name: "in letting go", moment: holds("LeaveMaintenance", scheduled)}}))
	})
	tellKills(t, "import of a running cluster")
}
