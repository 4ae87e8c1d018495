package e2e

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

// coreAlone is an ALS cluster of one node: operations on apps reach its Cloud Controller only.
func coreAlone(c *config) {
	c.nodes = []nodeConfig{{name: core, roles: []string{"base", "primary", "controller", "router"}}}
}

// controller is the double of the cluster's Cloud Controller.
func (s *site) controller() *cloudcontroller.Controller {
	return s.cluster.(interface {
		Controller() *cloudcontroller.Controller
	}).Controller()
}

// apps begins an operation on apps by the CLI, detached, and returns when its preflight has passed.
func (s *site) apps(verb string, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"apps", verb, s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attachTo("apps-"+verb, id)
}

// appsDirectly begins it through the client and does not wait for anything.
func (s *site) appsDirectly(in operation.AppsInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name()
	kind := operation.KindAppsRestart
	if in.Action == operation.AppRestage {
		kind = operation.KindAppsRedeploy
	}
	return s.execute(kind, operation.WorkflowApps, in.OperationID, in)
}

// writes are what was written to an app, in order.
func writes(c *cloudcontroller.Controller, guid string) []string {
	var all []string
	for _, w := range c.AppRecord(guid) {
		all = append(all, w.What)
	}
	return all
}

// times of an outcome in a report.
func outcomesOf(r operation.Report) map[string]int {
	counts := map[string]int{}
	for _, a := range r.Apps.Apps {
		counts[a.Outcome]++
	}
	return counts
}

func TestApps_RestartAll_EachIsStoppedAndStartedOnceAndStoppedOnesStaySo(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	c.StartTime(300*time.Millisecond, 300*time.Millisecond)
	stopped := c.AddApp("shop", "staging", cloudcontroller.App{Name: "old", State: "STOPPED"})
	shown := s.cli(0, "apps", "list", s.cluster.Name()).Stdout
	require.Regexp(t, `shop/production/storefront +started +3/3 +running`, shown)
	require.Regexp(t, `shop/staging/old +stopped`, shown)

	o := s.apps("restart", "--all", "--apps-at-once", "2")
	r := o.done(60 * time.Second)
	require.Equal(t, map[string]int{operation.AppRunning: 5, operation.AppStopped: 3}, outcomesOf(r))
	require.Equal(t, 8, r.Apps.Total)
	require.Equal(t, 8, r.Apps.Handled)
	require.Empty(t, writes(c, stopped))
	listed := operation.AppList{}
	require.NoError(t, json.Unmarshal([]byte(s.cli(0, "apps", "list", s.cluster.Name(), "-o", "json").Stdout), &listed))
	require.Len(t, listed.Apps, 8)
	for _, a := range listed.Apps {
		if a.State == "STARTED" {
			require.Equal(t, []string{"STOPPED", "STARTED"}, writes(c, a.GUID), a.String())
			require.Equal(t, "running", a.Health)
			require.Equal(t, a.Instances, a.Running)
		}
	}
	require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "restart of 8 apps: 5 running, 3 stopped")
	rows, err := csv.NewReader(strings.NewReader(s.cli(0, "apps", "report", o.id, "--csv").Stdout)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 9)
	require.False(t, o.inHistory(controllerPassword, o.workflow), "the Cloud Controller's password in the history")
}

func TestApps_BadInput_OneLineEachAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	name := s.cluster.Name()
	for want, args := range map[string][]string{
		"no apps are named":                                 {"restart", name},
		"apps are named in two ways":                        {"restart", name, "shop/*/*", "--all"},
		`app "shop/*": write ORG/SPACE/APP`:                 {"restart", name, "shop/*"},
		`the pattern "[a" is not closed`:                    {"redeploy", name, "shop/*/[a"},
		"--apps-at-once 0":                                  {"restart", name, "--all", "--apps-at-once", "0"},
		"apps at once 201":                                  {"restart", name, "--all", "--apps-at-once", "201"},
		"--app is empty":                                    {"restart", name, "--app", ""},
		`--app-time "soon"`:                                 {"restart", name, "--all", "--window", "Sat 22:00-04:00", "--app-time", "soon"},
		"--app-time goes with window":                       {"restart", name, "--all", "--app-time", "5m"},
		"--window of 10m":                                   {"redeploy", name, "--all", "--window", "22:00-22:10"},
		"--from-report is empty":                            {"restart", name, "--from-report", ""},
		"the report cannot be read":                         {"redeploy", name, "--from-report", "nothing.json"},
		"no operation or cluster with an operation is call": {"redeploy", name, "--from-report", "never"},
	} {
		out := s.cli(2, append([]string{"apps"}, args...)...)
		require.Contains(t, out.Stderr, want)
		require.Len(t, strings.Split(strings.TrimSpace(out.Stderr), "\n"), 1, out.Stderr)
	}
	out := s.cli(7, "apps", "restart", name, "nowhere/*/*", "shop/production/none")
	require.Contains(t, out.Stderr, "app nowhere/*/*: there is none")
	require.Contains(t, out.Stderr, "app shop/production/none: there is none")
	s.controller().SetMaintenance(true)
	require.Contains(t, s.cli(7, "apps", "restart", name, "--all").Stderr, "maintenance mode is on")
	s.controller().SetMaintenance(false)
	require.Contains(t, s.cli(0, "apps", "restart", name, "--all", "--dry-run").Stdout, `PUT /v2/apps/GUID {"state": "STOPPED"}`)
	require.Zero(t, s.controller().Count("PUT", "/v2/apps"))
	require.Zero(t, s.controller().Count("POST", "/v2/apps"))
}

func TestApps_SomeFail_AreToldAndTriedAgainFromTheReport(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guids := map[string]string{}
	for _, a := range []string{"stages-not", "flaps", "crashes", "starts-never", "runs-partly", "gone", "well", "passing"} {
		guids[a] = c.AddApp("broken", "dev", cloudcontroller.App{Name: a, Instances: 2})
	}
	c.StartTime(200*time.Millisecond, 0)
	for app, fault := range map[string]cloudcontroller.AppFault{"stages-not": cloudcontroller.StagingFails, "flaps": cloudcontroller.InstancesFlap, "crashes": cloudcontroller.InstancesCrash,
		"starts-never": cloudcontroller.InstancesStayStarting, "runs-partly": cloudcontroller.SomeInstancesRun, "gone": cloudcontroller.AppDeleted} {
		c.FailApp(guids[app], fault, -1)
	}
	c.Fail("/v2/apps/"+guids["passing"], 3, 502)
	f := s.fault("apps fail in six ways, and one meets 502s")
	out := s.cli(12, "apps", "redeploy", s.cluster.Name(), "broken/*/*", "--apps-at-once", "8", "--app-timeout", "6s")
	for app, why := range map[string]string{"stages-not": "its staging failed", "flaps": "crash again and again", "crashes": "0 of 2 instances run after 6s", "starts-never": "0 of 2 instances run after 6s",
		"runs-partly": "1 of 2 instances run after 6s"} {
		require.Regexp(t, "broken/dev/"+app+" +failed .*"+why, out.Stdout)
	}
	require.Regexp(t, "broken/dev/gone +gone", out.Stdout)
	require.Contains(t, out.Stdout, "2 restaged, 5 failed, 1 gone")
	f.end("told one by one, exit code 12; those tried again from the report ran")

	id := s.latest(operation.KindAppsRedeploy)
	for app, guid := range guids {
		c.HealApp(guid)
		require.NotContains(t, writes(c, guid), "STOPPED", app)
	}
	again := s.apps("redeploy", "--from-report", id)
	r := again.done(60 * time.Second)
	require.Equal(t, map[string]int{operation.AppRestaged: 5}, outcomesOf(r))

	// The report of the first, as a file, names the same.
	file := filepath.Join(s.Dir, "report.json")
	require.NoError(t, os.WriteFile(file, []byte(s.cli(0, "op", "show", id, "-o", "json").Stdout), 0o600))
	require.Contains(t, s.cli(0, "apps", "restart", s.cluster.Name(), "--from-report", file, "--dry-run").Stdout, "dry run: 5 apps planned")
}

// latest is the id of the newest operation of a kind on the site's cluster.
func (s *site) latest(kind string) string {
	s.t.Helper()
	var all []struct {
		OperationID string `json:"operationId"`
		Kind        string `json:"kind"`
	}
	id := ""
	require.NoError(s.t, waitFor(20*time.Second, "the operation in the list", func() (bool, error) {
		if err := json.Unmarshal([]byte(s.cli(0, "op", "list", "--all", "--cluster", s.cluster.Name(), "-o", "json").Stdout), &all); err != nil {
			return false, err
		}
		for _, l := range all {
			if l.Kind == kind {
				id = l.OperationID
				return true, nil
			}
		}
		return false, nil
	}))
	return id
}

func TestApps_MaintenanceSetMeanwhile_NoAppStaysStopped(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guids := c.FillMany(12)
	started := func() int {
		n := 0
		for _, g := range guids {
			if c.AppState(g) == "STARTED" {
				n++
			}
		}
		return n
	}
	before := started()
	c.StartTime(time.Second, 0)
	f := s.fault("maintenance mode set by somebody in the middle of a restart of apps")
	o := s.apps("restart", "--all", "--apps-at-once", "3", "--app-timeout", "5s")
	s.eventually(20*time.Second, "apps being restarted", func() bool { return c.Count("PUT", "/v2/apps") > 3 })
	c.SetMaintenance(true)
	// Those that are stopped are tried again and again; those to come are refused, and stay as they are.
	asked := c.Count("PUT", "/v2/apps")
	s.eventually(40*time.Second, "starts being refused", func() bool { return c.Count("PUT", "/v2/apps") > asked+6 })
	c.SetMaintenance(false)
	r, _ := o.end(60 * time.Second)
	require.True(t, r.Finished())
	require.Equal(t, before, started(), "every app that ran before is started again: %+v", r.Apps)
	f.end("those not begun failed by name, one that was stopped was started when it was over")
}

func TestApps_StartRefused_AsksAndTheRetryStartsIt(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guid := c.AddApp("broken", "dev", cloudcontroller.App{Name: "refused"})
	c.FailApp(guid, cloudcontroller.StartRefused, 1)
	f := s.fault("an app that was stopped is refused its start")
	o := s.apps("restart", "broken/*/*")
	q := o.question(40 * time.Second)
	require.Equal(t, []string{operation.ClusterNode, operation.StepStart}, []string{q.Node, q.Step})
	require.Contains(t, q.Cause.Message, "broken/dev/refused")
	require.Contains(t, q.Cause.Message, "bits have not been uploaded")
	require.Equal(t, "STOPPED", c.AppState(guid))
	o.decide(q, operation.Retry)
	r := o.done(40 * time.Second)
	require.Equal(t, map[string]int{operation.AppRunning: 1}, outcomesOf(r))
	require.Equal(t, "STARTED", c.AppState(guid))
	f.end("asked at start, started by the retry")
}

func TestApps_LeftStopped_TheNextOnesReportStartsThem(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guid := c.AddApp("broken", "dev", cloudcontroller.App{Name: "refu*ed  twice"}) // no pattern means it by this name
	c.FailApp(guid, cloudcontroller.StartRefused, 1)
	o := s.apps("restart", "broken/*/*")
	s.cli(0, "op", "pause", o.id) // a pause keeps nobody from asking
	o.decide(o.question(40*time.Second), operation.Leave)
	r, err := o.end(40 * time.Second)
	require.Error(t, err)
	require.True(t, r.Apps.Apps[0].LeftStopped)
	require.Equal(t, "STOPPED", c.AppState(guid))
	require.Contains(t, s.cli(0, "apps", "restart", s.cluster.Name(), "broken/*/*").Stdout, "1 stopped before and left so")
	require.Equal(t, "STOPPED", c.AppState(guid))
	again := s.apps("restart", "--from-report", o.id)
	require.Equal(t, map[string]int{operation.AppRunning: 1}, outcomesOf(again.done(40*time.Second)))
	require.Equal(t, "STARTED", c.AppState(guid))
}

func TestApps_BatchTerminatedAlone_NothingIsCalledRestartedThatMayNotBe(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guids := c.FillMany(20)
	c.StartTime(time.Second, 0)
	f := s.fault("one batch of a restart of apps is terminated")
	o := s.apps("restart", "--all", "--apps-at-once", "2")
	s.eventually(20*time.Second, "apps being restarted", func() bool { return c.Count("PUT", "/v2/apps") > 4 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, s.client.TerminateWorkflow(ctx, operation.NodeWorkflowID(o.workflow, "apps-1"), "", "a test"))
	q := o.question(40 * time.Second)
	require.Contains(t, q.Cause.Message, "perhaps stopped by this operation")
	o.decide(q, operation.Retry)
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Zero(t, outcomesOf(r)[operation.AppRunning])
	for _, g := range guids {
		require.Equal(t, "STARTED", c.AppState(g))
	}
	f.end("asked, every app started, none called restarted")
}

func TestApps_Terminated_WhatWasStoppedIsStarted(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guids := c.FillMany(60)
	f := s.fault("restart of apps terminated between stop and start of some")
	o := s.apps("restart", "--all", "--apps-at-once", "6")
	s.between(guids)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, s.client.TerminateWorkflow(ctx, o.workflow, "", "a test"))
	c.Delay(0)
	s.eventually(40*time.Second, "its batches to end", func() bool {
		for _, n := range []int{1, 2, 3} {
			if d := s.describe(operation.NodeWorkflowID(o.workflow, fmt.Sprintf("apps-%d", n))); d != nil && d.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				return false
			}
		}
		return true
	})
	begun := 0
	for _, g := range guids {
		if w := writes(c, g); len(w) > 0 {
			begun++
			wasRestarted(t, w)
		}
	}
	require.Less(t, begun, 60)
	f.end("no app stayed stopped, the others are untouched")
}

func TestApps_Reset_RepeatsNoWrite(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	now := time.Now().UTC()
	for name, window := range map[string][]string{
		"at all times": nil,
		"in a window":  {"--window", now.Add(-2*time.Hour).Format("15:04-") + now.Add(2*time.Hour).Format("15:04"), "--app-time", "1m"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, coreAlone)
			s.worker("")
			c := s.controller()
			guids := c.FillMany(60)
			c.StartTime(300*time.Millisecond, 0)
			o := s.apps("restart", append([]string{"--all", "--apps-at-once", "10"}, window...)...)
			s.eventually(20*time.Second, "apps being restarted", func() bool { return c.Count("PUT", "/v2/apps") > 20 })
			o.reset(toTheBeginning)
			r := o.done(2 * time.Minute)
			require.Equal(t, map[string]int{operation.AppRunning: len(guids) + 5, operation.AppStopped: 2}, outcomesOf(r))
			for _, g := range guids {
				require.Equal(t, []string{"STOPPED", "STARTED"}, writes(c, g))
			}
			require.Empty(t, r.Warnings)
		})
	}
}

func TestApps_FrozenWorker_WritesNothingWhenItWakes(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	w := s.worker("")
	c := s.controller()
	guid := c.AddApp("frozen", "dev", cloudcontroller.App{Name: "a"})
	c.Fail("PUT /v2/apps/"+guid, -1, 502)
	f := s.fault("a worker is frozen in the stop of an app, and wakes when another one has done it")
	o := s.apps("restart", "frozen/*/*")
	s.eventually(30*time.Second, "the stop to be refused for a while", func() bool { return c.Count("PUT", "/v2/apps/"+guid) > 2 })
	require.NoError(t, w.Freeze())
	c.Heal()
	s.worker("")
	require.Equal(t, map[string]int{operation.AppRunning: 1}, outcomesOf(o.done(60*time.Second)))
	before, asleep := len(writes(c, guid)), w.Size()
	w.Signal(syscall.SIGCONT)
	// Which of the two it is depends on what it hears of first: that its attempt is no longer wanted, or that the Cloud Controller has refused it once more.
	s.eventually(30*time.Second, "the first to give up", func() bool {
		return w.Contains("activity left", asleep) || w.Contains("activity failed", asleep)
	})
	require.Len(t, writes(c, guid), before, "%v", writes(c, guid))
	require.Equal(t, "STARTED", c.AppState(guid))
	f.end("done by the other, nothing written by the first")
}

// between waits for a moment at which some of the apps are stopped and not yet started, and makes it last until the controller's delay is taken back.
func (s *site) between(guids []string) {
	s.t.Helper()
	c := s.controller()
	s.eventually(20*time.Second, "apps being restarted", func() bool { return c.Count("PUT", "/v2/apps") > 8 })
	c.Delay(8 * time.Second) // longer than a cancel takes to reach an activity by its heartbeats
	s.eventually(30*time.Second, "an app that is stopped", func() bool {
		return slices.ContainsFunc(guids, func(g string) bool { return c.AppState(g) == "STOPPED" })
	})
}

// wasRestarted wants one stop, and a start after it. A start whose heartbeats do not come through on a busy machine while the controller takes its time is asked for
// once more, which changes nothing.
func wasRestarted(t *testing.T, writes []string) {
	t.Helper()
	require.Equal(t, []string{"STOPPED", "STARTED"}, slices.Compact(slices.Clone(writes)))
	require.Equal(t, "STARTED", writes[1], "%v", writes)
}

func TestApps_CancelledInTheMiddle_WhatWasStoppedIsStarted(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guids := c.FillMany(60)
	f := s.fault("restart of apps cancelled between stop and start of some")
	o := s.apps("restart", "--all", "--apps-at-once", "6")
	s.between(guids)
	begun := func() int {
		n := 0
		for _, g := range guids {
			if len(writes(c, g)) > 0 {
				n++
			}
		}
		return n
	}
	before := begun()
	s.cli(0, "op", "cancel", o.id, "--detach")
	c.Delay(0)
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.LessOrEqual(t, begun(), before+2*6, "apps were begun after the cancel")
	require.GreaterOrEqual(t, outcomesOf(r)[operation.AppUntouched], 60-before-2*6)
	require.LessOrEqual(t, outcomesOf(r)[operation.AppFailed], 6)
	for _, g := range guids {
		if w := writes(c, g); len(w) > 0 {
			wasRestarted(t, w)
		}
	}
	f.end("no app stayed stopped, the others are untouched")
}

func TestApps_PausedAndResumed_NoAppIsBegunMeanwhile(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	c.FillMany(40)
	c.StartTime(500*time.Millisecond, 0)
	o := s.apps("restart", "--all", "--apps-at-once", "4")
	s.eventually(20*time.Second, "apps being restarted", func() bool { return c.Count("PUT", "/v2/apps") > 8 })
	s.cli(0, "op", "pause", o.id)
	running, puts := 0, 0
	s.eventually(30*time.Second, "what was begun to run, and nothing to be begun", func() bool {
		listed := operation.AppList{}
		require.NoError(t, json.Unmarshal([]byte(s.cli(0, "apps", "list", s.cluster.Name(), "-o", "json").Stdout), &listed))
		if n := c.Count("PUT", "/v2/apps"); n != puts || slices.ContainsFunc(listed.Apps, func(a operation.AppStatus) bool { return a.State == "STARTED" && a.Health != "running" }) {
			running, puts = 0, n
			return false
		}
		running++
		return running == 4 // looks, each a command of its own
	})
	require.Less(t, puts, 2*40)
	s.cli(0, "op", "resume", o.id)
	r := o.done(3 * time.Minute)
	require.Empty(t, outcomesOf(r)[operation.AppFailed])
}

// appsMatrix is a restart of a few apps whose steps take long enough to be killed in their middle.
func appsMatrix(in operation.AppsInput) matrix {
	return matrix{
		site: func(t *testing.T) *site {
			s := newSite(t, nil, nil, coreAlone)
			s.controller().StartTime(400*time.Millisecond, 0)
			return s
		},
		start: func(s *site) *op { return s.appsDirectly(in) },
		intact: func(o *op, _ int) {
			r := o.done(2 * time.Minute)
			c := o.controller()
			for _, a := range r.Apps.Apps {
				if a.Outcome == operation.AppStopped {
					require.Empty(o.t, writes(c, a.GUID))
					continue
				}
				require.Contains(o.t, []string{operation.AppRunning, operation.AppRestaged}, a.Outcome)
				// Written again is only what a killed worker was writing: never a second round.
				var once []string
				for _, w := range writes(c, a.GUID) {
					if len(once) == 0 || once[len(once)-1] != w {
						once = append(once, w)
					}
				}
				first := map[operation.AppAction]string{operation.AppRestart: "STOPPED", operation.AppRestage: "restage"}[in.Action]
				require.Equal(o.t, []string{first, "STARTED"}, once, a.String())
			}
		},
	}
}

// inWrite is the moment the Cloud Controller is asked for a change, before it has answered.
func inWrite(method, path string, n int) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		c := o.controller()
		if !o.killedAt.IsZero() && c.Count(method, path) >= n {
			return nil, errPassed
		}
		c.Delay(300 * time.Millisecond)
		return func() { c.Delay(0) }, waitIn(ctx, method+" "+path, func() bool { return c.Count(method, path) >= n })
	}
}

// TestKillMatrix_OfApps kills the worker at the boundaries of every activity of a restart and of a redeployment, and between the stop and the start of an app, and
// requires that no app stays stopped or goes through it twice.
func TestKillMatrix_OfApps(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	t.Run("points", func(t *testing.T) {
		restart := appsMatrix(operation.AppsInput{Action: operation.AppRestart, Apps: []string{"*/*/*"}, AtOnce: 2})
		restart.lanes(t, "restart", 3, slices.Concat(boundaries("Resolve", "LockToken", "SelectApps"), []killPoint{
			{name: "in a stop", moment: inWrite("PUT", "/v2/apps", 1)}, {name: "between stop and start", moment: inWrite("PUT", "/v2/apps", 2)},
			{name: "in a wait", moment: inWrite("GET", "/v2/apps/", 3)}, {name: "in the middle", moment: inWrite("PUT", "/v2/apps", 5)}, {name: "late", moment: inWrite("PUT", "/v2/apps", 9)}}))
		redeploy := appsMatrix(operation.AppsInput{Action: operation.AppRestage, Apps: []string{"*/*/*"}, AtOnce: 2})
		redeploy.lanes(t, "redeploy", 2, []killPoint{{name: "in a restage", moment: inWrite("POST", "/v2/apps", 1)}, {name: "in a start", moment: inWrite("PUT", "/v2/apps", 2)}})
	})
	tellKills(t, "apps")
}

// Not a matter of time: how much faster than one by one, and how long histories are.
func TestApps_AThousandOfWhich37FailIn5Ways_AreEachToldAndHistoriesStayShort(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, coreAlone)
	s.worker("")
	c := s.controller()
	guids := c.FillMany(1000)
	c.StartTime(500*time.Millisecond, 500*time.Millisecond)
	faults := []cloudcontroller.AppFault{cloudcontroller.StagingFails, cloudcontroller.InstancesCrash, cloudcontroller.InstancesStayStarting, cloudcontroller.SomeInstancesRun, cloudcontroller.AppDeleted}
	broken := map[string]cloudcontroller.AppFault{}
	for i := 0; len(broken) < 37; i++ {
		if guid := guids[i*13%1000]; c.AppState(guid) == "STARTED" && broken[guid] == "" {
			broken[guid] = faults[len(broken)%len(faults)]
			c.FailApp(guid, broken[guid], -1)
		}
	}
	o := s.apps("redeploy", "--all", "--apps-at-once", "50", "--app-timeout", "8s")
	r, err := o.end(4 * time.Minute)
	require.Error(t, err)
	failed := map[string]bool{}
	for _, a := range r.Apps.Apps {
		if a.Outcome == operation.AppFailed || a.Outcome == operation.AppGone {
			failed[a.GUID] = true
			require.NotEmpty(t, a.Reason)
			require.Equal(t, broken[a.GUID] == cloudcontroller.AppDeleted, a.Outcome == operation.AppGone)
		}
	}
	require.Len(t, failed, 37)
	for guid := range broken {
		require.True(t, failed[guid])
	}
	require.Equal(t, r.Apps.Total, r.Apps.Handled)
	longest := len(s.history(o.workflow))
	for _, e := range s.history(o.workflow) {
		if a := e.GetChildWorkflowExecutionStartedEventAttributes(); a != nil {
			longest = max(longest, len(s.history(a.WorkflowExecution.WorkflowId)))
		}
	}
	require.Less(t, longest, 4096)
	t.Logf("%d apps in %s, the longest history has %d events", r.Apps.Total, appsTook(r), longest)
}

func appsTook(r operation.Report) time.Duration {
	began, _ := time.Parse(time.RFC3339, r.StartedAt)
	ended, _ := time.Parse(time.RFC3339, r.EndedAt)
	return ended.Sub(began)
}
