package operation

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJudgeMoment_OfMeasuredTimes_SaysHowGoodItWas(t *testing.T) {
	at := func(ms int) time.Time {
		return time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
	}
	ms := func(n int) Duration { return Duration(time.Duration(n) * time.Millisecond) }
	// Two nodes, the second of which has a clock that is 5 s ahead.
	ahead := 5 * time.Second
	good := func() []MeasuredSnapshot {
		return []MeasuredSnapshot{
			{Requested: at(1000), Completed: at(1200), Prepared: at(700), Resumed: at(1500), Error: 2 * time.Millisecond},
			{Requested: at(1010), Completed: at(1400), Prepared: at(800).Add(ahead), Resumed: at(1600).Add(ahead), Offset: ahead, Error: 3 * time.Millisecond},
		}
	}
	for name, row := range map[string]struct {
		quiet  string
		change func([]MeasuredSnapshot)
		want   Moment
	}{
		"inside, with a clock that is 5s ahead": {"roles stopped", nil, Moment{Measured: true, RequestSpread: ms(10), SkewBound: ms(400), Quiet: "roles stopped",
			QuietInterval: ms(1498 - 803), Inside: true, ClockError: ms(3)}},
		"nothing quiet": {"", nil, Moment{Measured: true, RequestSpread: ms(10), SkewBound: ms(400)}},
		"one node resumed before another's snapshot was complete": {"roles stopped", func(s []MeasuredSnapshot) { s[0].Resumed = at(1399) },
			Moment{Measured: true, RequestSpread: ms(10), SkewBound: ms(400), Quiet: "roles stopped", QuietInterval: ms(1397 - 803), ClockError: ms(3)}},
		"inside only if the clock's error is forgotten": {"roles stopped", func(s []MeasuredSnapshot) { s[0].Resumed = at(1401) },
			Moment{Measured: true, RequestSpread: ms(10), SkewBound: ms(400), Quiet: "roles stopped", QuietInterval: ms(1399 - 803), ClockError: ms(3)}},
		"requested before the last node was prepared": {"roles stopped", func(s []MeasuredSnapshot) { s[1].Prepared = at(1001).Add(ahead) },
			Moment{Measured: true, RequestSpread: ms(10), SkewBound: ms(400), Quiet: "roles stopped", QuietInterval: ms(1498 - 1004), ClockError: ms(3)}},
		"an offset that was not measured counts as it is": {"roles stopped", func(s []MeasuredSnapshot) { s[1].Offset = 0 },
			Moment{Measured: true, RequestSpread: ms(10), SkewBound: ms(400), Quiet: "roles stopped", ClockError: ms(3)}},
		"a request that nobody knows": {"roles stopped", func(s []MeasuredSnapshot) { s[1].Requested = time.Time{} },
			Moment{Quiet: "roles stopped", QuietInterval: ms(1498 - 803), ClockError: ms(3)}},
		"an end of the quiet that nobody knows": {"roles stopped", func(s []MeasuredSnapshot) { s[1].Resumed = time.Time{} },
			Moment{Measured: true, RequestSpread: ms(10), SkewBound: ms(400), Quiet: "roles stopped", ClockError: ms(2)}},
	} {
		t.Run(name, func(t *testing.T) {
			all := good()
			if row.change != nil {
				row.change(all)
			}
			require.Equal(t, row.want, JudgeMoment(row.quiet, all))
		})
	}
	require.Equal(t, Moment{}, JudgeMoment("", nil), "of no snapshot nothing is known")
}

func TestSnapshotInput_Check_NamesWhatIsWrong(t *testing.T) {
	in := func(change func(*SnapshotInput)) SnapshotInput {
		s := SnapshotInput{Request: Request{Cluster: "prod"}}
		change(&s)
		return s
	}
	for want, row := range map[string]struct {
		platform string
		in       SnapshotInput
	}{
		"cluster is missing: name one of the inventory":                                                  {"", SnapshotInput{}},
		`quiesce "frosty": choose of vms-stopped, roles-stopped, frozen, maintenance, none`:              {"als", in(func(s *SnapshotInput) { s.Quiesce = []Quiesce{"frosty"} })},
		"quiesce roles-stopped: only an ALS cluster has kato; choose vms-stopped, frozen or none":        {"plain", in(func(s *SnapshotInput) { s.Quiesce = []Quiesce{QuiesceRolesStopped} })},
		"quiesce none goes with nothing else":                                                            {"als", in(func(s *SnapshotInput) { s.Quiesce = []Quiesce{QuiesceNone, QuiesceMaintenance} })},
		"quiesce frozen does not go with vms-stopped: a VM that is off writes nothing, leave frozen out": {"als", in(func(s *SnapshotInput) { s.Quiesce = []Quiesce{QuiesceVMsStopped, QuiesceFrozen} })},
		"max-skew is negative":                   {"als", in(func(s *SnapshotInput) { s.MaxSkew = -1 })},
		"deadline 500ms: at least 1s":            {"als", in(func(s *SnapshotInput) { s.Deadline = Duration(500 * time.Millisecond) })},
		"rounds 21: write a number from 1 to 20": {"als", in(func(s *SnapshotInput) { s.Rounds = 21 })},
		"note: one line of at most 200 bytes":    {"als", in(func(s *SnapshotInput) { s.Note = "a\nb" })},
	} {
		require.Equal(t, []string{want}, row.in.Check(row.platform))
	}
	require.Empty(t, in(func(s *SnapshotInput) {
		s.Quiesce = []Quiesce{QuiesceMaintenance, QuiesceVMsStopped, QuiesceRolesStopped}
	}).Check("als"))
	require.Empty(t, in(func(s *SnapshotInput) { s.Quiesce = []Quiesce{QuiesceFrozen} }).Check("plain"))
	require.Equal(t, []Quiesce{QuiesceRolesStopped, QuiesceMaintenance}, SnapshotInput{}.Levels("als"))
	require.Equal(t, []Quiesce{QuiesceNone}, SnapshotInput{}.Levels("plain"))
	require.Equal(t, []Quiesce{QuiesceVMsStopped, QuiesceRolesStopped}, SnapshotInput{Quiesce: []Quiesce{QuiesceRolesStopped, QuiesceVMsStopped, QuiesceRolesStopped}}.Levels("als"))
}
