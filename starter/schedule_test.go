package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/operation"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// offline is a command line that reaches nothing.
func offline() *cli {
	return &cli{output: "table", surroundings: surroundings{getenv: func(string) string { return "" }, now: time.Now, out: &bytes.Buffer{}, err: &bytes.Buffer{}}}
}

// The files beside testdata/schedules/*.yaml are written by: go test -run TestScheduleFile_GoldenFiles ./starter -update
//
// A .json is what would be given to Temporal, a .problems is everything that is wrong with the file.
func TestScheduleFile_GoldenFiles(t *testing.T) {
	inputs, err := filepath.Glob("testdata/schedules/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, inputs)
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(input)
			require.NoError(t, err)
			wanted, err := offline().parseSchedules(filepath.Base(input), data, "")
			var got []byte
			golden := "testdata/schedules/" + name + ".json"
			if err != nil {
				golden = "testdata/schedules/" + name + ".problems"
				got = []byte(err.Error() + "\n")
				for _, line := range asFailure(err).lines {
					require.NotRegexp(t, `[\x00-\x1f\x7f]|\x{202e}`, line)
				}
				require.Equal(t, exitBadInput, asFailure(err).code)
			} else {
				got = described(t, wanted)
			}
			require.Equal(t, strings.HasPrefix(name, "bad-"), strings.HasSuffix(golden, ".problems"), "%s", got)
			if *update {
				require.NoError(t, os.WriteFile(golden, got, 0o644))
				return
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		})
	}
}

// described is what Temporal would be given, as JSON.
func described(t *testing.T, wanted []*wantedSchedule) []byte {
	t.Helper()
	type one struct {
		Definition operation.ScheduleDefinition
		WorkflowID string
		Workflow   any
		TaskQueue  string
		Input      any
		Spec       []string
		TimeZone   string
		Jitter     string
		CatchUp    string
		Overlap    string
		Paused     bool
		Command    string
		Summary    string
	}
	var out []one
	for _, w := range wanted {
		a, p := w.action("tester@host"), w.policies()
		require.Equal(t, []any{"schedule " + w.Name, "tester@host"}, []any{a.Memo[operation.MemoRequestedBy], a.Memo[memoAppliedBy]})
		require.False(t, p.PauseOnFailure)
		out = append(out, one{Definition: w.ScheduleDefinition, WorkflowID: a.ID, Workflow: a.Workflow, TaskQueue: a.TaskQueue, Input: a.Args[0], Spec: calendarTexts(w.spec().Calendars),
			TimeZone: w.spec().TimeZoneName, Jitter: w.spec().Jitter.String(), CatchUp: p.CatchupWindow.String(), Overlap: p.Overlap.String(), Paused: w.paused,
			Command: strings.Join(offline().commandLine(w.ScheduleDefinition), " "), Summary: a.StaticSummary})
	}
	b, err := json.MarshalIndent(out, "", "  ")
	require.NoError(t, err)
	return append(b, '\n')
}

func TestScheduleFile_TooLarge_IsRefused(t *testing.T) {
	_, err := offline().parseSchedules("big.yaml", bytes.Repeat([]byte("# x\n"), maxScheduleFile/4+1), "")
	require.ErrorContains(t, err, "big.yaml: is larger than 1 MiB")
	_, err = offline().parseSchedules("noise.yaml", []byte("- name: \xff\xfe"), "")
	require.ErrorContains(t, err, "noise.yaml:1: byte 0xff is not UTF-8")
}

// FuzzScheduleFile: whatever the file, problems are single printable lines, and what is taken can be applied.
func FuzzScheduleFile(f *testing.F) {
	inputs, _ := filepath.Glob("testdata/schedules/*.yaml")
	for _, input := range inputs {
		data, _ := os.ReadFile(input)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		wanted, err := offline().parseSchedules("fuzz.yaml", data, "")
		if err != nil {
			for _, line := range asFailure(err).lines {
				require.NotRegexp(t, `[\x00-\x1f\x7f]`, line)
			}
			return
		}
		require.NotEmpty(t, wanted)
		for _, w := range wanted {
			require.NotNil(t, w)
			require.NotEmpty(t, w.action("x").ID)
			require.NotEmpty(t, w.next(time.Now()))
		}
	})
}

func TestCron_Lines_AreReadAsCronReadsThem(t *testing.T) {
	after := time.Date(2026, 11, 22, 14, 0, 0, 0, time.UTC) // a Sunday
	for line, want := range map[string]string{
		"0 3 * * *":         "2026-11-23 03:00, 2026-11-24 03:00, 2026-11-25 03:00",
		"*/20 14 * * *":     "2026-11-22 14:20, 2026-11-22 14:40, 2026-11-23 14:00",
		"5,35 9-17/8 * * *": "2026-11-22 17:05, 2026-11-22 17:35, 2026-11-23 09:05",
		"10/25 0 * * *":     "2026-11-23 00:10, 2026-11-23 00:35, 2026-11-24 00:10",
		"0 3 * * 7":         "2026-11-29 03:00, 2026-12-06 03:00, 2026-12-13 03:00",
		"0 3 * * FRI-sun":   "2026-11-27 03:00, 2026-11-28 03:00, 2026-11-29 03:00",
		"0 3 * * 1-7/3":     "2026-11-23 03:00, 2026-11-26 03:00, 2026-11-29 03:00",
		"0 3 31 * *":        "2026-12-31 03:00, 2027-01-31 03:00, 2027-03-31 03:00",
		"0 3 13 * fri":      "2027-08-13 03:00, 2028-10-13 03:00, 2029-04-13 03:00",
		"0 3 29 feb *":      "2028-02-29 03:00, 2032-02-29 03:00, 2036-02-29 03:00",
		"@weekly":           "2026-11-29 00:00, 2026-12-06 00:00, 2026-12-13 00:00",
		"@hourly":           "2026-11-22 15:00, 2026-11-22 16:00, 2026-11-22 17:00",
	} {
		c, err := parseCron(line)
		require.NoError(t, err, line)
		var got []string
		for _, at := range occurrences([]client.ScheduleCalendarSpec{c}, time.UTC, after, 3) {
			got = append(got, at.Format("2006-01-02 15:04"))
		}
		require.Equal(t, want, strings.Join(got, ", "), line)
	}
	for _, bad := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8", "-1 * * * *", "1- * * * *", "+1 * * * *",
		"1,,2 * * * *", "* * L * *", "@every 5m", "? * * * *", "0 0 31 apr *", "CRON_TZ=UTC 0 3 * * *", "a * * * *", "*/ * * * *", "1-2-3 * * * *"} {
		_, err := parseCron(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestOccurrences_DaylightSaving_MissingTimesAreLeftOutAndRepeatedOnesComeTwice(t *testing.T) {
	paris, err := loadZone("Europe/Paris")
	require.NoError(t, err)
	half, err := parseCron("30 2 * * *")
	require.NoError(t, err)
	three, err := parseCron("0 3 * * *")
	require.NoError(t, err)
	times := func(c client.ScheduleCalendarSpec, after time.Time) string {
		var got []string
		for _, at := range occurrences([]client.ScheduleCalendarSpec{c}, paris, after, 3) {
			got = append(got, at.UTC().Format("02T15:04"))
		}
		return strings.Join(got, " ")
	}
	spring := time.Date(2027, 3, 27, 12, 0, 0, 0, time.UTC)
	autumn := time.Date(2027, 10, 30, 12, 0, 0, 0, time.UTC)
	require.Equal(t, "29T00:30 30T00:30 31T00:30", times(half, spring), "02:30 does not exist on the 28th")
	require.Equal(t, "31T00:30 31T01:30 01T01:30", times(half, autumn), "02:30 comes twice on the 31st")
	require.Equal(t, "28T01:00 29T01:00 30T01:00", times(three, spring))
	require.Equal(t, "31T02:00 01T02:00 02T02:00", times(three, autumn))

	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	require.Equal(t, []string{
		"2027-03-28 clocks go forward: 02:00 to 03:00 does not exist that day, so the run at 02:30 is left out",
		"2027-10-31 clocks go back: 02:00 to 03:00 comes twice that day, and so does the run at 02:30",
	}, daylightSaving([]client.ScheduleCalendarSpec{half}, paris, now))
	require.Equal(t, []string{
		"2027-03-28 clocks go forward: 02:00 to 03:00 does not exist that day, no run falls into it",
		"2027-10-31 clocks go back: 02:00 to 03:00 comes twice that day, no run falls into it",
	}, daylightSaving([]client.ScheduleCalendarSpec{three}, paris, now))
	require.Equal(t, []string{"clocks do not change in UTC within a year"}, daylightSaving([]client.ScheduleCalendarSpec{half}, time.UTC, now))
}

func TestSchedulables_EveryOperation_CanBeScheduledByItsCommand(t *testing.T) {
	root := newRoot(offline())
	for _, s := range schedulables() {
		cmd, rest, err := root.Find(strings.Fields(s.command))
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, "katoflow "+s.command, cmd.CommandPath())
		options := s.newOptions(offline(), "")
		require.NotNil(t, options.flags.Lookup("task-queue"), "%s takes no --task-queue", s.command)
		if !operation.OnArchives(s.kind) { // those ask nothing
			require.NotNil(t, options.flags.Lookup("answer-within"), "%s takes no --answer-within", s.command)
		}
		if s.kind == operation.KindBackupPrune || s.kind == operation.KindSnapshotPrune { // nothing is its standard
			require.NoError(t, options.set("keep-last", "7"))
		}
		if operation.OnApps(s.kind) { // none is meant unless it is named
			require.NoError(t, options.set("all", "true"))
		}
		cluster := "prod"
		if s.kind == operation.KindRehearse { // it is done in another one
			cluster = "scratch"
			require.NoError(t, options.set("cluster", cluster))
		}
		p, err := options.build("prod")
		require.NoError(t, err)
		p.input.Schedule(operation.ScheduleDefinition{Name: "nightly", CatchUp: operation.DefaultCatchUp})
		b, err := json.Marshal(p.input)
		require.NoError(t, err)
		var in operation.Request
		require.NoError(t, json.Unmarshal(b, &in))
		require.Equal(t, operation.Request{Cluster: cluster, RequestedBy: "schedule nightly", AnswerWithin: operation.DefaultScheduledAnswerWithin, StartWithin: operation.DefaultCatchUp}, in, s.command)
	}
}

func TestUpgradeSecurity_IDOfAScheduledRun_IsRefused(t *testing.T) {
	var out bytes.Buffer
	code := run([]string{"upgrade", "security", "prod", "--id", "nightly-20261122t030000z"}, surroundings{out: &out, err: &out, getenv: func(string) string { return "" }, now: time.Now})
	require.Equal(t, exitBadInput, code)
	require.Contains(t, out.String(), "this form belongs to the runs of schedules")
}

func TestScheduleDocs_ExampleFile_CanBeApplied(t *testing.T) {
	text, err := os.ReadFile("../docs/schedules.md")
	require.NoError(t, err)
	_, example, found := strings.Cut(string(text), "```yaml\n")
	require.True(t, found)
	example, _, _ = strings.Cut(example, "```")
	wanted, err := offline().parseSchedules("schedules.md", []byte(example), "")
	require.NoError(t, err)
	require.Len(t, wanted, 3)
	for _, w := range wanted {
		require.Contains(t, string(text), w.Name)
	}
}
