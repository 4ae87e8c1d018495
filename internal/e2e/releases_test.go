package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// upgradable is what a node has of releases, with its faults.
type upgradable interface {
	machine
	UpgradeWith(p katodouble.UpgradePatch) error
	HealUpgrade() error
	KatoVersion() (string, error)
	KatoUpgrade() (katodouble.Upgrade, error)
}

// The releases of the tests; clusters have the first one.
const (
	releaseFrom = "1.2.0"
	releaseTo   = "1.3.0"
)

// withReleases is an ALS cluster of a Core and two DEAs, which sudo asks for nothing.
func withReleases(c *config) {
	withPatches(c)
	c.everything = true
}

// released makes a site whose Core has a release on offer, and where what it comes from is reached.
func released(t *testing.T, options ...siteOption) *site {
	t.Helper()
	s := newSite(t, nil, nil, append([]siteOption{withReleases}, options...)...)
	mirror := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(mirror.Close)
	s.kato = fmt.Sprintf("    kato: {timeout: 20s, releases: [\"http://%s\"]}\n", s.lead(strings.TrimPrefix(mirror.URL, "http://")))
	s.inventory(quickGates)
	for _, n := range s.names() {
		s.upgradeWith(n, katodouble.UpgradePatch{Version: new(releaseFrom), Releases: []string{releaseFrom, releaseTo}})
	}
	return s
}

func (s *site) upgradeWith(node string, p katodouble.UpgradePatch) {
	s.t.Helper()
	require.NoError(s.t, s.cluster.Node(node).(upgradable).UpgradeWith(p))
}

// releaseOf is the version of a node.
func (s *site) releaseOf(node string) string {
	s.t.Helper()
	v, err := s.cluster.Node(node).(upgradable).KatoVersion()
	require.NoError(s.t, err)
	return v
}

// release begins an upgrade by the CLI, detached, and returns when its preflight has passed. Nothing is made of the cluster before, unless the arguments say so.
func (s *site) release(args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	if !slices.Contains(args, "--safety") {
		args = append(args, "--safety", "none")
	}
	s.cli(0, append([]string{"upgrade", "release", s.cluster.Name(), "--to", releaseTo, "--force"}, append(args, "--id", id, "--detach")...)...)
	return s.attachTo(operation.KindReleaseUpgrade, id)
}

// releaseDirectly begins one through the client and does not wait for anything.
func (s *site) releaseDirectly(in operation.ReleaseUpgradeInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster, in.To, in.Force = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name(), releaseTo, true
	if in.Safety == "" {
		in.Safety = operation.SafetyNone
	}
	return s.execute(operation.KindReleaseUpgrade, operation.WorkflowReleaseUpgrade, in.OperationID, in)
}

// nodeUpgrades are the runs of kato node upgrade on the Core.
func (s *site) nodeUpgrades() (out []string) {
	for _, e := range s.cluster.Node("core").Commands() {
		if len(e.Argv) > 2 && e.Argv[0] == "kato" && e.Argv[1] == "node" && e.Argv[2] == "upgrade" {
			out = append(out, strings.Join(e.Argv[3:], " "))
		}
	}
	return out
}

// oneByOne requires that no two runs of kato node upgrade were under way on the Core at any time.
func (s *site) oneByOne() {
	s.t.Helper()
	var last execution
	for _, e := range s.cluster.Node("core").Commands() {
		if len(e.Argv) < 3 || e.Argv[0] != "kato" || e.Argv[2] != "upgrade" {
			continue
		}
		require.False(s.t, last.Start.IsZero() == false && (last.End.IsZero() || e.Start.Before(last.End)), "%s at %s began before the end of %s at %s", e.Command(), e.Start, last.Command(), last.End)
		last = e
	}
}

// address of a node, as kato knows it.
func (s *site) address(node string) string {
	s.t.Helper()
	return s.cluster.Node(node).Address()
}

// allReleased requires that every node has the release and runs, that maintenance mode is off and that nothing ran twice.
func (s *site) allReleased() {
	s.t.Helper()
	for _, n := range s.names() {
		require.Equal(s.t, releaseTo, s.releaseOf(n), n)
		u, err := s.cluster.Node(n).(upgradable).KatoUpgrade()
		require.NoError(s.t, err)
		require.Empty(s.t, u.Interrupted, n)
	}
	require.False(s.t, s.cluster.Maintenance())
	s.oneByOne()
	again := s.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(s.t, again, "commands that ran more than once")
}

func TestReleases_OfEveryGeneration_NodeByNodeInMaintenanceMode(t *testing.T) {
	t.Parallel()
	for name, old := range map[string]bool{"1.1 to 1.3": false, "1.0": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := released(t)
			for _, n := range s.names() {
				s.upgradeWith(n, katodouble.UpgradePatch{Old: new(old), NeedsUpdate: new(true)})
			}
			s.worker("")
			shown := s.cli(0, "upgrade", "release", s.cluster.Name(), "--to", releaseTo, "--safety", "none", "--force", "--dry-run").Stdout
			require.Contains(t, shown, "kato node upgrade --update-kato --skip-confirmation")
			require.Contains(t, shown, "kato node upgrade --node "+s.address("dea-1")+" --version "+releaseTo)
			require.Equal(t, !old, strings.Contains(shown, "--download-only --cache-ip "+s.address("core")))
			require.Empty(t, s.cluster.Commands(), "a dry run changes nothing")

			o := s.release()
			r := o.done(2 * time.Minute)
			s.allReleased()
			require.Equal(t, "3 nodes upgraded to "+releaseTo+"; what is left to do by hand is in the report", r.Message)
			require.NotEmpty(t, r.Release.Afterwards)
			require.Equal(t, "put back (off)", r.Maintenance)
			cache := " --cache-ip " + s.address("core")
			want := []string{"--update-kato --skip-confirmation", "--download-only" + cache + " --version " + releaseTo + " --skip-confirmation"}
			if old {
				cache, want = "", want[:1]
			}
			for _, n := range []string{"dea-1", "dea-2", "core"} { // in kato's order of roles
				want = append(want, "--node "+s.address(n)+" --version "+releaseTo+cache+" --skip-confirmation")
			}
			require.Equal(t, want, s.nodeUpgrades())
			require.LessOrEqual(t, s.cluster.MaxOutOfService(), 1)
			text := s.cli(0, "op", "show", o.id).Stdout
			require.Contains(t, text, releaseFrom+" → "+releaseTo)
			require.Contains(t, text, "left to do by hand:")

			// Nothing is done twice.
			before := len(s.cluster.Commands())
			r = s.release().done(time.Minute)
			require.Equal(t, "every node had "+releaseTo+" already", r.Message)
			require.Len(t, s.cluster.Commands(), before)
		})
	}
}

func TestReleases_Preflight_NamesEveryProblemAtOnce_AndTouchesNothing(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.worker("")
	f := s.fault("the Core gets into a node no more, nothing is reached, and there is no bucket")
	s.kato = "    kato: {timeout: 20s, releases: [\"http://" + s.lead("127.0.0.1:9") + "\"]}\n"
	s.inventory(quickGates)
	s.onlyWorker("dea-2")
	out := s.cli(7, "upgrade", "release", s.cluster.Name(), "--to", releaseTo)
	for _, p := range []string{`core: http://.* is not reached from it`, `dea-2: core, the Core, does not get in by key, .*katoflow access grant`, `cluster: the export before it: .*--safety says what else may be made`} {
		require.Regexp(t, p, out.Stderr)
	}
	f.end("all named before anything was changed")
	require.Empty(t, s.cluster.Commands())
	for _, n := range s.names() {
		require.Equal(t, releaseFrom, s.releaseOf(n))
	}
}

// What kato demands is done in the same try; what it does not tell is asked.
func TestReleases_KatoDoesNotEndWell_IsResumedOrAnsweredOrAsked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault katodouble.UpgradeFault
		// note is in the report where nobody is asked; says is the question otherwise.
		note, says string
		runs       int // of kato for dea-1
	}{
		"fails at the inspection":        {katodouble.UpgradeFails, "", `ended with exit code 1`, 2},
		"is interrupted":                 {katodouble.UpgradeInterrupted, "kato said that the upgrade was interrupted: resumed", "", 2},
		"asks although told not to":      {katodouble.UpgradeAsks, "answered with yes", "", 2},
		"says done and did nothing":      {katodouble.UpgradeSilent, "", `ended well, and the node has version ` + releaseFrom + `, not ` + releaseTo, 2},
		"does not throw what went wrong": {katodouble.UpgradeUnthrown, "", `ended well, and left .*kato-upgrade-failed`, 3},
		"does not change the version":    {katodouble.UpgradeStale, "", `ended well, and the node has version ` + releaseFrom, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := released(t)
			s.upgradeWith("dea-1", katodouble.UpgradePatch{Fault: new(c.fault), Times: new(1)})
			s.worker("")
			o := s.release()
			f := s.fault("kato node upgrade %s", name)
			if c.says != "" {
				q := o.question(time.Minute)
				require.Equal(t, [2]string{"dea-1", operation.StepNodeUpgrade}, [2]string{q.Node, q.Step})
				require.Regexp(t, c.says, q.Cause.Message)
				require.Equal(t, releaseFrom, s.releaseOf("dea-2"), "the next node is not begun")
				o.decide(q, operation.Retry)
				f.end(parkedFor(q.Step, "retried: upgraded"))
			} else {
				f.end(wentOn)
			}
			r := o.done(2 * time.Minute)
			s.allReleased()
			if c.note != "" {
				require.Contains(t, strings.Join(nodeOf(t, r, "dea-1").Notes, "\n"), c.note)
			}
			runs := slices.DeleteFunc(s.nodeUpgrades(), func(l string) bool { return !strings.Contains(l, "--node "+s.address("dea-1")+" ") })
			require.Len(t, runs, c.runs, "%v", runs)
		})
	}
}

func TestReleases_NetworkLostInTheDownload_AsksAndGoesOn(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.upgradeWith("core", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeDownload), Times: new(1)})
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeNetwork), Times: new(1)})
	s.worker("")
	o := s.release()
	f := s.fault("kato node upgrade --download-only crashes, and a node loses the network in its own download")
	q := o.question(time.Minute)
	require.Equal(t, [2]string{operation.ClusterNode, operation.StepDownload}, [2]string{q.Node, q.Step})
	require.False(t, s.cluster.Maintenance(), "the cluster is live")
	o.decide(q, operation.Skip)
	q = o.question(time.Minute)
	require.Equal(t, [2]string{"dea-1", operation.StepNodeUpgrade}, [2]string{q.Node, q.Step})
	require.Contains(t, q.Cause.Message, "Could not download")
	require.True(t, s.cluster.Maintenance())
	o.decide(q, operation.Retry)
	r := o.done(2 * time.Minute)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "every node fetches its own")
	s.allReleased()
	f.end("asked twice: skipped, and retried")
}

func TestReleases_VersionStaysOld_MayBeAccepted(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeStale), Times: new(-1)})
	s.worker("")
	o := s.release()
	f := s.fault("kato tells the old version for ever")
	q := o.question(time.Minute)
	require.Contains(t, q.Choices, operation.Accept)
	o.decide(q, operation.Accept)
	r := o.done(2 * time.Minute)
	require.True(t, nodeOf(t, r, "dea-1").Release.Accepted)
	require.Equal(t, releaseTo, s.releaseOf("core"))
	f.end("accepted by an answer; its gates held")
}

func TestReleases_ValidationFails_RolledBackWhereKatoCan(t *testing.T) {
	t.Parallel()
	s := released(t)
	for _, n := range s.names() {
		s.upgradeWith(n, katodouble.UpgradePatch{Old: new(true)})
	}
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeValidation), Times: new(1)})
	s.worker("")
	o := s.release()
	f := s.fault("the validation after the upgrade of a node fails")
	q := o.question(time.Minute)
	require.Equal(t, [2]string{"dea-1", operation.StepNodeUpgrade}, [2]string{q.Node, q.Step})
	require.Contains(t, q.Choices, operation.Back)
	o.decide(q, operation.Back)
	r, err := o.end(2 * time.Minute)
	require.Error(t, err, "a node that was rolled back is not done")
	require.Equal(t, operation.NodeSkipped, nodeOf(t, r, "dea-1").Status)
	require.Equal(t, releaseFrom, s.releaseOf("dea-1"))
	require.Equal(t, releaseTo, s.releaseOf("dea-2"))
	require.Equal(t, releaseTo, s.releaseOf("core"))
	require.False(t, s.cluster.Maintenance())
	require.Empty(t, s.repeated())
	f.end("rolled back by an answer; the others were upgraded")
}

func TestReleases_RoleDoesNotRunAfterwards_TheNextNodeWaits(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.inventory("    gates: {times: 1, interval: 100ms, timeout: 5s}\n    timeouts: {" + patient + "}\n")
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeValidation), Times: new(1)})
	s.worker("")
	o := s.release()
	f := s.fault("a role of an upgraded node does not run")
	q := o.question(time.Minute)
	require.Equal(t, [2]string{"dea-1", operation.StepNodeUpgrade}, [2]string{q.Node, q.Step})
	o.decide(q, operation.Retry)
	q = o.question(time.Minute)
	require.Equal(t, [2]string{"dea-1", operation.StepGates}, [2]string{q.Node, q.Step})
	require.Equal(t, releaseFrom, s.releaseOf("dea-2"))
	s.cluster.Node("dea-1").StartRole("dea")
	o.decide(q, operation.Retry)
	o.done(2 * time.Minute)
	s.allReleased()
	f.end("asked: retried, which upgraded nothing again; asked for its gates; retried when it ran")
}

func TestReleases_KatoIsGone_TheQuestionSaysWhatToRun(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.upgradeWith("core", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeLosesKato), Times: new(1)})
	s.worker("")
	o := s.release()
	f := s.fault("its own upgrade leaves the Core without kato")
	q := o.question(2 * time.Minute)
	require.Equal(t, [2]string{"core", operation.StepNodeUpgrade}, [2]string{q.Node, q.Step})
	require.Contains(t, q.Cause.Message, "bin/sentinel upgrade VERSION 127.0.0.1 ITS-IP --skip-download")
	require.NoError(t, s.cluster.Node("core").(upgradable).HealUpgrade())
	o.decide(q, operation.Retry)
	o.done(2 * time.Minute)
	s.allReleased()
	f.end(parkedFor(q.Step, "mended by hand, retried: resumed"))
}

func TestReleases_KatoHangs_TheRetryWaitsAndAnEndByHandIsFound(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.limits("unreachable_after: 60s, boot: 20s, upgrade: 5s, apt_lock: 1s")
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeHangs), Times: new(1)})
	s.worker("")
	o := s.release()
	f := s.fault("kato node upgrade never ends")
	q := o.question(time.Minute)
	require.Equal(t, [2]string{"dea-1", operation.StepNodeUpgrade}, [2]string{q.Node, q.Step})
	require.Equal(t, operation.ErrTimeout, q.Cause.Type)
	require.Equal(t, []operation.Decision{operation.Retry, operation.Abort}, q.Choices, "no other node is begun beside it")
	// The way out of somebody who knows no better.
	s.cluster.Node("core").RebootNow()
	o.decide(q, operation.Retry)
	r := o.done(3 * time.Minute)
	require.Contains(t, strings.Join(nodeOf(t, r, "dea-1").Notes, "\n"), "kato said that the upgrade was interrupted: resumed")
	s.allReleased()
	f.end(parkedFor(q.Step, "the Core rebooted by hand, retried: run again and resumed"))
}

// The machine of the Core reboots in its own upgrade, and those of the DEAs in theirs.
func TestReleases_MachinesReboot_TheirOwnUpgradesAreSeenThrough(t *testing.T) {
	t.Parallel()
	s := released(t)
	for _, n := range s.names() {
		s.upgradeWith(n, katodouble.UpgradePatch{Restart: new(katodouble.UpgradeReboots)})
	}
	s.worker("")
	f := s.fault("every node reboots in its upgrade, the Core too, on which kato runs")
	r := s.release().done(4 * time.Minute)
	s.allReleased()
	require.Contains(t, strings.Join(nodeOf(t, r, "core").Notes, "\n"), "the Core rebooted in its own upgrade: kato was asked once more whether it is whole")
	f.end(wentOn)
}

func TestReleases_CoreRebootsInAnotherNodesUpgrade_ItIsResumed(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Seconds: new(in(4.0, 15.0))})
	s.worker("")
	o := s.release()
	f := s.fault("the Core is rebooted by something else in the middle of a DEA's upgrade")
	s.eventually(time.Minute, "kato upgrades dea-1", func() bool { return s.upgradingNow("dea-1") })
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Seconds: new(0.5)})
	s.cluster.Node("core").RebootNow()
	r := o.done(4 * time.Minute)
	notes := strings.Join(nodeOf(t, r, "dea-1").Notes, "\n")
	require.Contains(t, notes, "the Core rebooted in the middle of kato node upgrade: run again")
	require.Contains(t, notes, "kato said that the upgrade was interrupted: resumed")
	s.allReleased()
	f.end("run again, and resumed")
}

// upgradingNow says whether the components of a node are being upgraded.
func (s *site) upgradingNow(node string) bool {
	u, err := s.cluster.Node(node).(upgradable).KatoUpgrade()
	return err == nil && u.Interrupted != ""
}

func TestReleases_Cancelled_KatoIsLetEnd(t *testing.T) {
	t.Parallel()
	s := released(t)
	s.upgradeWith("dea-1", katodouble.UpgradePatch{Seconds: new(in(2.0, 10.0))})
	s.worker("")
	o := s.releaseDirectly(operation.ReleaseUpgradeInput{})
	s.eventually(time.Minute, "kato upgrades dea-1", func() bool { return s.upgradingNow("dea-1") })
	f := s.fault("cancelled in the middle of kato node upgrade")
	s.cli(0, "op", "cancel", o.id)
	r, err := o.end(90 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Equal(t, releaseTo, s.releaseOf("dea-1"), "it was let end")
	require.Equal(t, releaseFrom, s.releaseOf("dea-2"))
	require.False(t, s.cluster.Maintenance())
	require.Empty(t, s.repeated())
	f.end("kato was let end, the next node was not begun, maintenance mode was put back")
}

func TestReleases_WithAnExport_IsMadeBeforeAndNamed(t *testing.T) {
	t.Parallel()
	s := released(t, func(c *config) {
		c.s3 = true
		c.nodes[0].roles = append(c.nodes[0].roles, "filesystem")
	})
	s.worker("")
	o := s.release("--safety", "export")
	r := o.done(3 * time.Minute)
	s.allReleased()
	require.Equal(t, operation.SafetyExport, r.Release.Safety)
	require.Contains(t, r.Release.SafetyAt, "s3://")
	report, err := s.attachTo(operation.KindBackup, operation.SafetyID(o.id, 1)).end(10 * time.Second)
	require.NoError(t, err)
	require.Equal(t, r.Release.SafetyAt, report.Export.Location)
	require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "export before it: s3://")
}

func TestReleases_WithSnapshots_AreTakenBeforeAndNamed(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "its hosts are no VMs")
	s := released(t, onVMs)
	s.worker("")
	o := s.release("--safety", "snapshot", "--nodes", "dea-1")
	r := o.done(2 * time.Minute)
	require.Equal(t, operation.SafetyID(o.id, 1), r.Release.SafetyAt)
	require.Equal(t, releaseTo, s.releaseOf("dea-1"))
	require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "snapshot before it: "+r.Release.SafetyAt)
	require.Contains(t, s.cli(0, "snapshot", "list", s.cluster.Name()).Stdout, r.Release.SafetyAt)
	require.False(t, s.cluster.Maintenance())
}

// TestKillMatrix_OfReleases kills the worker at every boundary of every step and in the middle of kato node upgrade, and requires that kato ran exactly once for each node.
func TestKillMatrix_OfReleases(t *testing.T) {
	t.Parallel()
	t.Run("points", func(t *testing.T) {
		m := matrix{
			site: func(t *testing.T) *site {
				s := released(t)
				for _, n := range s.names() {
					s.upgradeWith(n, katodouble.UpgradePatch{Seconds: new(0.4), DownloadSeconds: new(0.3)})
				}
				return s
			},
			start: func(s *site) *op { return s.releaseDirectly(operation.ReleaseUpgradeInput{}) },
			intact: func(o *op, _ int) {
				o.done(3 * time.Minute)
				require.Len(o.t, o.nodeUpgrades(), 5, "%v", o.nodeUpgrades())
				o.allReleased()
			},
		}
		inUpgrade := killPoint{name: "in kato node upgrade", moment: func(ctx context.Context, o *op) (func(), error) {
			return nil, waitIn(ctx, "kato upgrades dea-1", func() bool { return o.upgradingNow("dea-1") })
		}}
		m.lanes(t, "operation", 2, boundaries("ReleaseCore", "ReleaseNodes", "Buildpacks", "UpdateKato", "DownloadRelease", "EnterMaintenance", "LeaveMaintenance"))
		m.lanes(t, "node", 2, inChild("dea-1", slices.Concat(boundaries("Probe", "LookAtRelease"), within("UpgradeNode", inUpgrade), boundaries("Gates"))))
		m.lanes(t, "the Core itself", 1, inChild("core", boundaries("UpgradeNode")))
		// Each try may have further runs of kato, which a new worker has to find.
		for fault, run := range map[katodouble.UpgradeFault]string{katodouble.UpgradeInterrupted: "--resume", katodouble.UpgradeAsks: "printf 'y"} {
			further := m
			further.site = func(t *testing.T) *site {
				s := m.site(t)
				s.upgradeWith("dea-1", katodouble.UpgradePatch{Fault: new(fault), Times: new(1), Seconds: new(in(3.0, 6.0))})
				return s
			}
			further.intact = func(o *op, _ int) {
				o.done(3 * time.Minute)
				require.Len(o.t, o.nodeUpgrades(), 6, "%v", o.nodeUpgrades())
				o.allReleased()
			}
			further.lanes(t, string(fault), 1, inChild("dea-1", within("UpgradeNode", killPoint{name: "in the further run of kato", moment: inProcess("core", run)})))
		}
	})
	tellKills(t, "releases")
}
