package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
)

// siteSchedule is a schedule of a site, as `schedule show -o json` has it.
type siteSchedule struct {
	*site
	name string
}

type scheduleRun struct {
	OperationID, WorkflowID, Result, Message string
	Seconds                                  int64
}

type scheduleShown struct {
	operation.ScheduleDefinition
	Paused                                 bool
	Note                                   string
	Next                                   []string
	Running                                *scheduleRun
	LastSuccess, LastFailure               *scheduleRun
	LastSuccessAgeSeconds                  *int64
	TooOld                                 bool
	Started, SkippedOverlap, MissedCatchUp int
	Runs                                   []scheduleRun
	DaylightSaving                         []string
}

type scheduleApplied struct {
	Name, Result, Note string
	DryRun, Paused     bool
	Changes, Next      []string
}

// never is a cron line that comes once a year, so that a test's schedule does not fire by itself.
const never = "0 0 1 1 *"

// schedule makes a schedule of security upgrades on the site's cluster that only a trigger starts. It is deleted when the test ends.
func (s *site) schedule(options ...string) *siteSchedule {
	s.t.Helper()
	sc := &siteSchedule{site: s, name: s.cluster.Name() + "-nightly"}
	s.t.Cleanup(func() {
		_ = s.client.ScheduleClient().GetHandle(context.Background(), operation.ScheduleID(sc.name)).Delete(context.Background())
	})
	require.Equal(s.t, "created", sc.apply(0, []string{"--cron", never}, options...).Result)
	return sc
}

// apply by flags; options are the operation's.
func (sc *siteSchedule) apply(code int, flags []string, options ...string) scheduleApplied {
	sc.t.Helper()
	args := append([]string{"schedule", "apply", sc.name, "-o", "json"}, flags...)
	args = append(args, "--", "upgrade", "security", sc.cluster.Name(), "--task-queue", sc.Queue)
	var out []scheduleApplied
	require.NoError(sc.t, sc.cli(code, append(args, options...)...).JSON(&out))
	require.Len(sc.t, out, 1)
	return out[0]
}

func (sc *siteSchedule) shown() scheduleShown {
	sc.t.Helper()
	var out scheduleShown
	require.NoError(sc.t, sc.cli(0, "schedule", "show", sc.name, "-o", "json").JSON(&out))
	return out
}

// until polls `schedule show` until the condition holds.
func (sc *siteSchedule) until(limit time.Duration, what string, condition func(scheduleShown) bool) scheduleShown {
	sc.t.Helper()
	var last scheduleShown
	err := waitFor(limit, what, func() (bool, error) {
		last = sc.shown()
		return condition(last), nil
	})
	require.NoError(sc.t, err, "last seen: %+v", last)
	return last
}

// trigger starts a run and returns it.
func (sc *siteSchedule) trigger() *op {
	sc.t.Helper()
	var out scheduleRun
	require.NoError(sc.t, sc.cli(0, "schedule", "trigger", sc.name, "-o", "json").JSON(&out))
	return sc.run(out)
}

func (sc *siteSchedule) run(r scheduleRun) *op {
	return &op{site: sc.site, id: r.OperationID, workflow: r.WorkflowID, run: sc.client.GetWorkflow(context.Background(), r.WorkflowID, "")}
}

// spec changes the schedule behind katoflow's back.
func (sc *siteSchedule) spec(change func(*client.ScheduleSpec)) {
	sc.t.Helper()
	require.NoError(sc.t, sc.client.ScheduleClient().GetHandle(context.Background(), operation.ScheduleID(sc.name)).Update(context.Background(),
		client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			change(in.Description.Schedule.Spec)
			return &client.ScheduleUpdate{Schedule: &in.Description.Schedule}, nil
		}}))
}

func TestSchedule_AppliedAgainAndChanged_IsIdempotentAndAPauseSurvives(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	sc := s.schedule()
	require.Equal(t, "unchanged", sc.apply(0, []string{"--cron", never}).Result)

	nightly := []string{"--cron", "30 2 * * *", "--time-zone", "Europe/Paris"}
	dry := sc.apply(0, append([]string{"--dry-run"}, nightly...), "--batch", "2")
	require.Equal(t, []any{"updated", true}, []any{dry.Result, dry.DryRun})
	require.Equal(t, []string{"option batch: (none) -> 2", "when: 0 0 1 1 * -> 30 2 * * *", "time zone: UTC -> Europe/Paris"}, dry.Changes)
	require.Len(t, dry.Next, 5)
	require.Equal(t, "unchanged", sc.apply(0, []string{"--cron", never}).Result, "a dry run writes nothing")

	s.cli(0, "schedule", "pause", sc.name, "--reason", "data centre \x1b[2J move")
	require.Contains(t, s.cli(0, "schedule", "pause", sc.name).Stdout, "is paused already")
	changed := sc.apply(0, nightly, "--batch", "2")
	require.Equal(t, []any{"updated", true, dry.Changes, dry.Next}, []any{changed.Result, changed.Paused, changed.Changes, changed.Next})
	shown := sc.shown()
	require.True(t, shown.Paused)
	require.Contains(t, shown.Note, `: data centre \x1b[2J move`)
	require.Equal(t, changed.Next, shown.Next, "the times said beforehand are those that Temporal has")
	require.Equal(t, map[string]string{"batch": "2", "task-queue": s.Queue}, shown.Options)
	require.Contains(t, strings.Join(shown.DaylightSaving, "\n"), "does not exist that day, so the run at 02:30 is left out")
	text := s.cli(0, "schedule", "show", sc.name).Stdout
	for _, want := range []string{"paused", "data centre", "Europe/Paris", "clocks go back", "upgrade security " + s.cluster.Name() + " --batch=2", "next times, were it not paused"} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "\x1b")

	s.cli(0, "schedule", "resume", sc.name)
	require.Contains(t, s.cli(0, "schedule", "resume", sc.name).Stdout, "is not paused")
	require.False(t, sc.shown().Paused)

	// What somebody changed by other means is put back.
	sc.spec(func(spec *client.ScheduleSpec) { spec.Jitter = time.Hour })
	again := sc.apply(0, nightly, "--batch", "2")
	require.Equal(t, "updated", again.Result)
	require.Contains(t, again.Changes[0], "changed elsewhere")
	require.Equal(t, "unchanged", sc.apply(0, nightly, "--batch", "2").Result)

	// The same from a file.
	file := s.write("schedules.yaml", fmt.Sprintf("- name: %s\n  cluster: %s\n  operation: upgrade security\n  options: {batch: 2, task-queue: %s}\n  cron: 30 2 * * *\n  time_zone: Europe/Paris\n",
		sc.name, s.cluster.Name(), s.Queue))
	require.Contains(t, s.cli(0, "schedule", "apply", "-f", file).Stdout, "schedule "+sc.name+" unchanged")

	s.eventually(20*time.Second, "the schedule in the list", func() bool {
		return strings.Contains(s.cli(0, "schedule", "list").Stdout, sc.name)
	})
	require.Contains(t, s.cli(2, "schedule", "delete", sc.name).Stderr, "--confirm "+sc.name)
	require.Contains(t, s.cli(2, "schedule", "delete", sc.name, "--confirm", "other").Stderr, "nothing is deleted")
	s.cli(0, "schedule", "delete", sc.name, "--confirm", sc.name)
	require.Regexp(t, `there is no schedule "`+sc.name+`"`, s.cli(2, "schedule", "show", sc.name).Stderr)
	require.Empty(t, s.cluster.Commands())
}

func TestSchedule_TriggeredTwice_UpgradesTwiceWithJobsOfItsOwn(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	sc := s.schedule("--canary=false")
	require.Regexp(t, "^katoflow: schedule "+sc.name+": no success is known$", strings.TrimSpace(s.cli(10, "schedule", "list", sc.name, "--max-age", "26h").Stderr))

	first := sc.trigger()
	require.Contains(t, s.cli(6, "schedule", "trigger", sc.name).Stderr, first.id+" goes on")
	require.Contains(t, s.cli(0, "op", "list").Stdout, first.id)
	report := first.done(60 * time.Second)
	require.Equal(t, []string{first.id, "schedule " + sc.name}, []string{report.OperationID, report.RequestedBy})
	require.Equal(t, operation.IDFromWorkflow(first.workflow), first.id)
	require.Contains(t, s.cli(0, "op", "show", first.id).Stdout, "2 of 2 nodes done")
	s.upgraded(1, "a", "b")

	sc.until(20*time.Second, "the first run to be over", func(r scheduleShown) bool { return r.Running == nil && r.LastSuccess != nil })
	out := s.cli(0, "schedule", "trigger", sc.name, "--wait")
	require.Contains(t, out.Stdout, "2 of 2 nodes done")
	s.upgraded(2, "a", "b")
	require.Empty(t, s.repeated(), "no job was taken up again")
	shown := sc.until(20*time.Second, "both runs", func(r scheduleShown) bool {
		return len(r.Runs) == 2 && r.LastSuccess != nil && r.LastSuccess.OperationID != first.id
	})
	require.NotEqual(t, shown.Runs[0].OperationID, shown.Runs[1].OperationID)
	require.Equal(t, first.id, shown.Runs[1].OperationID)
	require.Equal(t, shown.Runs[0].OperationID, shown.LastSuccess.OperationID)
	for _, r := range shown.Runs {
		require.Equal(t, []string{operation.PhaseDone, "2 of 2 nodes done"}, []string{r.Result, r.Message})
		require.NoError(t, operation.CheckID(r.OperationID))
	}
	for _, node := range s.names() {
		jobs := map[string]bool{}
		for _, e := range s.cluster.Node(node).Commands() {
			if e.Argv[0] == "unattended-upgrades" {
				jobs[e.Job] = true
			}
		}
		require.Len(t, jobs, 2, "jobs of the upgrade on %s", node)
	}
	var latest operation.Report
	require.NoError(t, s.cli(0, "op", "show", s.cluster.Name(), "-o", "json").JSON(&latest))
	require.Equal(t, shown.Runs[0].OperationID, latest.OperationID)

	require.Empty(t, s.cli(0, "schedule", "list", sc.name, "--max-age", "26h").Stderr)
	s.eventually(20*time.Second, "the success to be two seconds old", func() bool { return *sc.shown().LastSuccessAgeSeconds >= 2 })
	require.Contains(t, s.cli(10, "schedule", "list", sc.name, "--max-age", "1s").Stderr, sc.name+": its last success is ")
}

func TestSchedule_FiresWhileAnotherOperationHoldsTheCluster_FailsNamingItAndGoesOnFiring(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	s.cluster.Node("a").FailCommand("unattended-upgrades", 1, 1, "E: no")
	holder := s.start()
	q := holder.question(30 * time.Second)

	sc := s.schedule()
	sc.spec(func(spec *client.ScheduleSpec) { // a cron line cannot come every two seconds
		spec.Calendars, spec.Intervals = nil, []client.ScheduleIntervalSpec{{Every: 2 * time.Second}}
	})
	shown := sc.until(30*time.Second, "two failures", func(r scheduleShown) bool {
		failed := 0
		for _, r := range r.Runs {
			if r.Result == operation.PhaseFailed {
				failed++
			}
		}
		return failed >= 2 && r.LastFailure != nil
	})
	require.False(t, shown.Paused, "a failed run does not pause the schedule")
	require.Nil(t, shown.LastSuccess)
	for _, r := range shown.Runs {
		if r.Result == operation.PhaseFailed {
			require.Contains(t, r.Message, "cluster "+s.cluster.Name()+" is busy: "+holder.workflow)
		}
	}
	require.Contains(t, s.cli(10, "schedule", "list", sc.name, "--max-age", "1h").Stderr, "no success is known")
	require.Zero(t, s.ran("b", "unattended-upgrades"), "nothing was touched")

	// The holder ends, and the next run that fires by itself upgrades. Its successors are left out while it goes on.
	s.cluster.Node("a").SlowCommand("unattended-upgrades", 1, 5*time.Second)
	holder.decide(q, operation.Skip)
	_, err := holder.end(60 * time.Second)
	require.Error(t, err)
	shown = sc.until(60*time.Second, "a success", func(r scheduleShown) bool { return r.LastSuccess != nil && r.SkippedOverlap > 0 })
	s.cli(0, "schedule", "pause", sc.name)
	require.NotNil(t, shown.LastFailure)
	require.Contains(t, s.cli(0, "schedule", "list", sc.name, "--max-age", "1h").Stdout, sc.name)
	sc.until(60*time.Second, "the end of the last run", func(r scheduleShown) bool { return r.Running == nil })
	require.Empty(t, s.repeated())
}

func TestSchedule_RunWithWait_QueuesForTheCluster(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.worker("")
	s.cluster.Node("a").FailCommand("unattended-upgrades", 1, 1, "E: no")
	holder := s.start()
	q := holder.question(30 * time.Second)
	sc := s.schedule("--wait=10m")
	run := sc.trigger()
	run.until(30*time.Second, "the queue", func(r operation.Report) bool { return strings.Contains(r.Message, "held by "+holder.workflow) })
	// The schedule can be deleted meanwhile: its run goes on.
	require.Contains(t, s.cli(0, "schedule", "delete", sc.name, "--confirm", sc.name).Stdout, "its run "+run.id+" goes on")
	holder.decide(q, operation.Retry)
	holder.done(60 * time.Second)
	run.done(60 * time.Second)
	s.upgraded(2, "a")
	require.Empty(t, s.repeated())
}

func TestSchedule_RunFailsAndNobodyAnswers_IsAbortedToldAndTheScheduleGoesOn(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	m := &mailbox{code: http.StatusNoContent}
	told, _ := s.secrets(m)
	s.worker("")
	sc := s.schedule("--answer-within", "2s")
	s.cluster.Node("a").FailCommand("unattended-upgrades", 1, 1, "E: no")

	out := s.cli(4, "schedule", "trigger", sc.name, "--wait")
	require.Contains(t, out.Stdout, "aborted")
	shown := sc.until(20*time.Second, "the failure", func(r scheduleShown) bool { return r.LastFailure != nil && r.Running == nil })
	require.Equal(t, []any{operation.PhaseAborted, false}, []any{shown.Runs[0].Result, shown.Paused})
	require.Nil(t, shown.LastSuccess)
	r, err := sc.run(shown.Runs[0]).end(10 * time.Second)
	require.Error(t, err, "the run has failed")
	require.Equal(t, "deadline", r.Answers[0].By)
	s.eventually(20*time.Second, "the notification of the failure", func() bool {
		b, _ := os.ReadFile(told)
		return strings.Contains(string(b), `"event":"failed"`)
	})
	require.Zero(t, s.ran("b", "unattended-upgrades"))
	s.cli(10, "schedule", "list", sc.name, "--max-age", "1h")

	// The next night is a new one.
	sc.trigger().done(60 * time.Second)
	s.upgraded(1, "a", "b")
	shown = sc.until(20*time.Second, "the success", func(r scheduleShown) bool { return r.LastSuccess != nil })
	require.NotNil(t, shown.LastFailure)
	s.cli(0, "schedule", "list", sc.name, "--max-age", "1h")
	require.Empty(t, s.repeated())
}

func TestSchedule_BadInput_OneLineEachAndNothingIsWritten(t *testing.T) {
	onlySimulated(t, "bad input touches no node")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	c, name := s.cluster.Name(), s.cluster.Name()+"-bad"
	upgrade := func(flags ...string) []string {
		return append([]string{"apply", name, "--cron", never}, flags...)
	}
	for what, row := range map[string]struct {
		args []string
		code int
		line string
	}{
		"unknown node":        {upgrade("--", "upgrade", "security", c, "--nodes", "z"), 2, `"z".*a`},
		"unknown cluster":     {upgrade("--", "upgrade", "security", "nowhere"), 2, `cluster "nowhere"`},
		"unknown operation":   {upgrade("--", "reboot", "everything", c), 2, `operation "reboot everything" cannot be scheduled: choose "upgrade security"`},
		"no operation":        {upgrade(), 2, `operation is missing`},
		"two clusters":        {upgrade("--cluster", "x", "--", "upgrade", "security", c), 2, `not the same cluster`},
		"dry run":             {upgrade("--", "upgrade", "security", c, "--dry-run"), 2, `--dry-run cannot be given to a schedule`},
		"an id of a schedule": {[]string{"apply", name + "-20260101t000000z/x", "--cron", never, "--", "upgrade", "security", c}, 2, `schedule ".*": use 1 to 40`},
		"zone":                {upgrade("--time-zone", "Europe/Pariss", "--", "upgrade", "security", c), 2, `time zone "Europe/Pariss": there is no such zone`},
		"cron":                {[]string{"apply", name, "--cron", "0 25 * * *", "--", "upgrade", "security", c}, 2, `cron "0 25 \* \* \*": hour "25": write a number from 0 to 23`},
		"a day that is not":   {[]string{"apply", name, "--cron", "0 3 30 feb *", "--", "upgrade", "security", c}, 2, `no such day comes`},
		"file and flags":      {[]string{"apply", "-f", s.write("x.yaml", "[]"), "--cron", never}, 2, `--cron cannot be given with --file`},
		"no file":             {[]string{"apply", "-f", s.Dir + "/nowhere.yaml"}, 2, `nowhere\.yaml`},
		"show of none":        {[]string{"show", "c0-none"}, 2, `there is no schedule "c0-none"`},
		"trigger of none":     {[]string{"trigger", "c0-none"}, 2, `there is no schedule "c0-none"`},
		"list of none":        {[]string{"list", "c0-none"}, 2, `there is no schedule "c0-none"`},
		"delete of none":      {[]string{"delete", "c0-none", "--confirm", "c0-none"}, 2, `there is no schedule "c0-none"`},
		"odd name":            {[]string{"pause", "a;\x1b[2Jb"}, 2, `schedule "a;.*b": use 1 to 40`},
		"no server":           {[]string{"list", "--address", "127.0.0.1:1"}, 9, `127\.0\.0\.1:1`},
		"no server for apply": {upgrade("--address", "127.0.0.1:1", "--", "upgrade", "security", c), 9, `127\.0\.0\.1:1`},
	} {
		t.Run(what, func(t *testing.T) {
			out := s.in(t).cli(row.code, append([]string{"schedule"}, row.args...)...)
			require.Empty(t, out.Stdout)
			require.Regexp(t, `^katoflow: `, out.Stderr)
			require.Regexp(t, row.line, out.Stderr)
			require.Equal(t, 1, strings.Count(out.Stderr, "\n"), out.Stderr)
			require.NotRegexp(t, `[\x00-\x08\x0b-\x1f\x7f]`, out.Stderr)
		})
	}
	t.Run("file", func(t *testing.T) {
		file := s.write("bad.yaml", "- name: "+name+"\n  cluster: "+c+"\n  operation: upgrade security\n  cron: 0 3 * * *\n- name: "+name+"2\n  cluster: "+c+"\n  operation: upgrade security\n  cron: 0 3 * *\n  options: {nodes: [z]}\n")
		out := s.in(t).cli(2, "schedule", "apply", "-f", file)
		lines := strings.Split(strings.TrimSpace(out.Stderr), "\n")
		require.Len(t, lines, 2, out.Stderr)
		require.Regexp(t, `bad\.yaml:8:.*\[1\]\.cron: cron "0 3 \* \*": write five fields`, lines[0])
		require.Regexp(t, `bad\.yaml:9:.*\[1\]\.options.*"z"`, lines[1])
	})
	require.Contains(t, s.cli(2, "schedule", "show", name).Stderr, "there is no schedule", "the first of the file was not written either")
	// Nobody would do the work.
	sc := s.schedule()
	sc.apply(0, []string{"--cron", never}, "--task-queue", "nobody-is-here")
	require.Contains(t, s.cli(8, "schedule", "trigger", sc.name).Stderr, `no worker polls the task queue "nobody-is-here"`)
	require.Empty(t, s.cluster.Commands())
}

func TestSchedule_NoWorkerForLongerThanTheCatchUpWindow_TheRunFailsAndTouchesNothing(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	m := &mailbox{code: http.StatusNoContent}
	s.secrets(m)
	sc := s.schedule()
	sc.apply(0, []string{"--cron", never, "--catch-up", "10s"})
	// As a time that comes while no worker is there; the CLI would refuse to trigger it.
	require.NoError(t, s.client.ScheduleClient().GetHandle(context.Background(), operation.ScheduleID(sc.name)).Trigger(context.Background(), client.ScheduleTriggerOptions{}))
	late := sc.until(20*time.Second, "the run", func(r scheduleShown) bool { return r.Running != nil })
	s.eventually(20*time.Second, "the catch-up window to pass", func() bool { return sc.shown().Running.Seconds > 10 })
	s.worker("")
	r, err := sc.run(*late.Running).end(30 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.ErrTooLate, r.Failure.Type)
	require.Contains(t, r.Message, "no worker took the operation up within 10s")
	require.Empty(t, s.cluster.Commands())
	s.eventually(20*time.Second, "the notification", func() bool { return len(m.events()) == 1 && m.events()[0] == operation.EventFailed })
	// A run in time is one like any other.
	sc.trigger().done(60 * time.Second)
	s.upgraded(1, "a")
}

func TestSchedule_TemporalIsDownForLongerThanTheCatchUpWindow_RunsAreMissedAndTheScheduleGoesOn(t *testing.T) {
	onlySimulated(t, "schedules do not depend on the nodes")
	t.Parallel()
	server, err := harness.StartTemporal(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	c, err := server.Client()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := newSite(t, server, c, plain("a"))
	s.worker("")
	sc := s.schedule()
	sc.apply(0, []string{"--cron", never, "--catch-up", "10s"})
	sc.spec(func(spec *client.ScheduleSpec) {
		spec.Calendars, spec.Intervals = nil, []client.ScheduleIntervalSpec{{Every: 3 * time.Second}}
	})
	before := sc.until(60*time.Second, "a success", func(r scheduleShown) bool { return r.LastSuccess != nil })
	require.Zero(t, before.MissedCatchUp)
	server.Kill()
	down := time.Now()
	require.Contains(t, s.cli(9, "schedule", "list", sc.name, "--max-age", "1h").Stderr, server.Address)
	s.eventually(60*time.Second, "the window to pass", func() bool { return time.Since(down) > 20*time.Second })
	require.NoError(t, server.Start())
	after := sc.until(90*time.Second, "a run after the outage", func(r scheduleShown) bool {
		return r.LastSuccess != nil && r.LastSuccess.OperationID > before.LastSuccess.OperationID && r.MissedCatchUp > 0
	})
	require.False(t, after.Paused)
	s.cli(0, "schedule", "pause", sc.name)
	sc.until(60*time.Second, "the end of the last run", func(r scheduleShown) bool { return r.Running == nil })
	require.Empty(t, s.repeated())
}
