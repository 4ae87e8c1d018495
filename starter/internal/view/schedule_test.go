package view

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func scheduleRows() []ScheduleRow {
	hour, days := int64(11*3600+125), int64(3*86400+5*3600)
	return []ScheduleRow{
		{Name: "nightly", Cluster: "prod", Operation: "upgrade security", When: "0 3 * * *", TimeZone: "Europe/Paris", Next: "2026-11-23T03:00:00+01:00",
			LastSuccess: "2026-11-22T02:12:41Z", Age: &hour},
		{Name: "weekly", Cluster: "test", Operation: "upgrade security", When: "30 4 * * sat", TimeZone: "UTC", Paused: true, Next: "2026-11-28T04:30:00Z",
			LastSuccess: "2026-11-19T04:41:00Z", LastFailure: "2026-11-21T04:33:00Z", Age: &days, TooOld: true, SkippedOverlap: 1, MissedCatchUp: 2},
		{Name: "new", Cluster: "test", Operation: "upgrade security", When: "0 5 1 * *", TimeZone: "UTC", Running: true, Next: "2026-12-01T05:00:00Z"},
	}
}

func scheduleDetails(row ScheduleRow) ScheduleDetails {
	return ScheduleDetails{ScheduleRow: row, Command: []string{"katoflow", "upgrade", "security", "prod", "--batch=2"}, Jitter: 5 * time.Minute, CatchUp: 6 * time.Hour,
		Next: []string{"2026-11-23T03:01:10+01:00", "2026-11-24T03:04:59+01:00"}, Started: 12, AppliedBy: "ada@desk", CreatedAt: "2026-10-01T09:00:00Z",
		DaylightSaving: []string{"2027-03-28 clocks go forward: 02:00 to 03:00 does not exist that day, no run falls into it"},
		Runs: []ScheduleRun{
			{ID: "nightly-20261122t020000z", Result: "done", StartedAt: "2026-11-22T02:00:00Z", Seconds: 761, Message: "4 of 4 nodes done"},
			{ID: "nightly-20261121t020000z", Result: "failed", StartedAt: "2026-11-21T02:00:00Z", Seconds: 2, Message: "cluster prod is busy"},
		}}
}

func TestSchedules_EveryState_MatchesItsGoldenFile(t *testing.T) {
	rows := scheduleRows()
	golden(t, "schedules", Schedules(rows, Style{}))
	golden(t, "schedules-narrow-color", Schedules(rows, Style{Color: true, Width: 100}))
	golden(t, "schedule", Schedule(scheduleDetails(rows[0]), Style{}))
	paused := scheduleDetails(rows[1])
	paused.Note, paused.Runs, paused.Next = "paused by ada@desk: data centre move", nil, nil
	golden(t, "schedule-paused", Schedule(paused, Style{}))
	golden(t, "schedules-applied", Applied([]AppliedRow{
		{Name: "nightly", Result: "updated", DryRun: true, Paused: true, Note: "why", Changes: []string{"jitter: 0s -> 5m0s"}, Next: []string{"2026-11-23T03:00:00+01:00"}},
		{Name: "weekly", Result: "created", Next: []string{"2026-11-28T04:30:00Z", "2026-12-05T04:30:00Z"}, Warnings: []string{"both must match"}},
	}, Style{}))
}

func TestSchedules_HostileText_ReachesNoTerminal(t *testing.T) {
	const evil = "\x1b[2J\x1b]0;owned\x07\u009b31m\u202egnp\r\n\xff"
	row := ScheduleRow{Name: evil, Cluster: evil, Operation: evil, When: evil, TimeZone: evil, Next: evil, LastSuccess: evil, LastFailure: evil}
	d := ScheduleDetails{ScheduleRow: row, Command: []string{evil}, Note: evil, RunningID: evil, Next: []string{evil}, DaylightSaving: []string{evil}, AppliedBy: evil,
		CreatedAt: evil, UpdatedAt: evil, Runs: []ScheduleRun{{ID: evil, Result: evil, StartedAt: evil, Message: evil}}}
	applied := []AppliedRow{{Name: evil, Result: evil, Note: evil, Paused: true, Changes: []string{evil}, Next: []string{evil}, Warnings: []string{evil}}}
	for _, text := range []string{Schedules([]ScheduleRow{row}, Style{}), Schedule(d, Style{}), Applied(applied, Style{})} {
		require.False(t, strings.ContainsAny(text, "\x1b\x07\r\u009b\u202e"), "%q", text)
	}
}

func TestAge_Seconds_AreForPeople(t *testing.T) {
	for seconds, want := range map[int64]string{0: "0s", 59: "59s", 185: "3m05s", 2 * 3600: "2h00m", 47 * 3600: "47h00m", 76 * 3600: "3d04h"} {
		require.Equal(t, want, Age(seconds))
	}
}
