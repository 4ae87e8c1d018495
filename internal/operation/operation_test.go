package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
)

func TestParseBatch_Good(t *testing.T) {
	for _, c := range []struct {
		text            string
		of1, of7, of500 int
		written         string
	}{
		{"", 1, 1, 1, "1"}, {"1", 1, 1, 1, "1"}, {"3", 1, 3, 3, "3"}, {"1%", 1, 1, 5, "1%"}, {"25%", 1, 1, 125, "25%"}, {"50%", 1, 3, 250, "50%"}, {"100%", 1, 7, 500, "100%"},
	} {
		b, err := ParseBatch(c.text)
		require.NoError(t, err, c.text)
		require.Equal(t, []int{c.of1, c.of7, c.of500}, []int{b.Of(1), b.Of(7), b.Of(500)}, c.text)
		require.Equal(t, c.written, b.String())
	}
}

func TestParseBatch_Bad_SaysWhatIsRight(t *testing.T) {
	for _, s := range []string{"0", "0%", "-1", "+1", "120%", "101%", "abc", "1.5", "99999999999999999999", "%", "3 ", "1%%", "0x3", "3\x1b[31m", "٣"} {
		_, err := ParseBatch(s)
		require.ErrorContains(t, err, "write a number of nodes from 1", "%q", s)
		require.NotContains(t, err.Error(), "\x1b")
	}
}

func FuzzParseBatch(f *testing.F) {
	for _, s := range []string{"1", "25%", "0", "120%", "1.5", "-1", "abc", "\x00"} {
		f.Add(s, 7)
	}
	f.Fuzz(func(t *testing.T, s string, total int) {
		b, err := ParseBatch(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b\x00") || len(err.Error()) > 1000 {
				t.Fatalf("message not safe: %q", err)
			}
			return
		}
		total = max(1, min(total, 1<<20))
		if n := b.Of(total); n > total || n < 1 {
			t.Fatalf("%q of %d is %d", s, total, n)
		}
		if again, err := ParseBatch(b.String()); err != nil || again != b {
			t.Fatalf("%q is written as %q, which is read as %v, %v", s, b, again, err)
		}
	})
}

func TestDuration_JSON_NeedsAUnit(t *testing.T) {
	b, err := json.Marshal(struct{ D Duration }{Duration(90 * time.Second)})
	require.NoError(t, err)
	require.JSONEq(t, `{"D":"1m30s"}`, string(b))
	var d Duration
	require.NoError(t, json.Unmarshal([]byte(`"10m"`), &d))
	require.Equal(t, 10*time.Minute, d.D())
	require.NoError(t, json.Unmarshal([]byte(`""`), &d))
	require.Zero(t, d)
	for _, bad := range []string{`10`, `"10"`, `"ten"`, `{}`} {
		require.Error(t, json.Unmarshal([]byte(bad), &d), bad)
	}
}

func TestIDs_FormsAndFallback(t *testing.T) {
	require.NoError(t, CheckID("20261122-0300-a"))
	for _, bad := range []string{"", "-a", "a-", "A", "a/b", "a b", "a;reboot", strings.Repeat("a", 64)} {
		require.Error(t, CheckID(bad), bad)
	}
	cluster, kind, id, err := ParseWorkflowID("op/prod/upgrade-security/x-1")
	require.NoError(t, err)
	require.Equal(t, []string{"prod", "upgrade-security", "x-1"}, []string{cluster, kind, id})
	for _, bad := range []string{"", "op", "op/a/b", "op//b/c", "lock/cluster/prod/x"} {
		_, _, _, err := ParseWorkflowID(bad)
		require.Error(t, err, bad)
	}
	require.Equal(t, "x-1", IDFromWorkflow("op/prod/upgrade-security/x-1"))
	scheduled := IDFromWorkflow("op/prod/upgrade-security/nightly-2026-11-22T03:00:00Z")
	require.Equal(t, "nightly-20261122t030000z", scheduled)
	require.NoError(t, CheckID(scheduled))
	require.True(t, ReservedID(scheduled), "no person may choose the id of a scheduled run")
	require.False(t, ReservedID("20261122-030000-k3f9qa"))
	_, _, id, err = ParseWorkflowID(NodeWorkflowID("op/prod/upgrade-security/nightly-2026-11-22T03:00:00Z", "dea-1"))
	require.NoError(t, err)
	require.Equal(t, "nightly-20261122t030000z/node/dea-1", id)
	longest := strings.Repeat("a", 40)
	require.NoError(t, CheckScheduleName(longest))
	require.NoError(t, CheckID(IDFromWorkflow("op/prod/upgrade-security/"+longest+"-2026-11-22T03:00:00Z")))
	for _, bad := range []string{"", "-a", "a-", "A", "a/b", "a b", "a;reboot", "a\x1b[2J", "é", longest + "a"} {
		require.Error(t, CheckScheduleName(bad), bad)
	}
	require.NotEqual(t, scheduled, IDFromWorkflow("op/prod/upgrade-security/nightly-2026-11-23T03:00:00Z"), "every night has its own")
}

func TestQuestion_Check_TakesOnlyItsChoices(t *testing.T) {
	q := Question{Node: "a", Step: "upgrade", Try: 2, Choices: []Decision{Retry, Abort}}
	require.NoError(t, q.Check(DecideRequest{Decision: Retry}))
	require.ErrorContains(t, q.Check(DecideRequest{Decision: Skip}), "choose one of retry, abort")
	require.Equal(t, q.Key(), DecideRequest{Node: "a", Step: "upgrade", Try: 2}.Key())
	require.NotEqual(t, q.Key(), DecideRequest{Node: "a", Step: "upgrade", Try: 1}.Key())
}

func TestFailureOf_EveryKindOfError(t *testing.T) {
	require.Nil(t, FailureOf(nil))
	full := Failure{Type: ErrRemoteExit, Message: "a: exited 1", Tail: "E: broken", Job: "op.a.upgrade.1"}
	got := FailureOf(fmt.Errorf("wrapped: %w", NewError(full)))
	require.Equal(t, &full, got)
	require.Equal(t, &Failure{Type: "Other", Message: "m"}, FailureOf(temporal.NewApplicationError("m", "Other")))
	require.Equal(t, ErrTimeout, FailureOf(temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_HEARTBEAT, nil)).Type)
	require.Equal(t, ErrCancelled, FailureOf(temporal.NewCanceledError()).Type)
	require.Equal(t, ErrInternal, FailureOf(errors.New("x")).Type)
	require.Equal(t, ErrInternal, FailureOf(context.DeadlineExceeded).Type)
	require.LessOrEqual(t, len(FailureOf(errors.New(strings.Repeat("x", 5000))).Message), 1024)
}

func TestOutcomeUnknown_KnownEndsAreNotTakenUpAgain(t *testing.T) {
	for _, known := range []string{ErrRemoteExit, ErrInterrupted, ErrLost, ErrVerify, ErrGates, ErrBootProof, ErrPin, ErrJobConflict} {
		require.False(t, OutcomeUnknown(known), known)
	}
	for _, unknown := range []string{ErrUnreachable, ErrTimeout, ErrNotReturned, ErrSSHHostKey, ErrCancelled} {
		require.True(t, OutcomeUnknown(unknown), unknown)
	}
}

func TestShorten_CutsAtARune(t *testing.T) {
	require.Equal(t, "abc", Shorten("abc", 3))
	for max := 4; max < 30; max++ {
		got := Shorten(strings.Repeat("ä€", 20), max)
		require.True(t, utf8.ValidString(got), "%q", got)
		require.LessOrEqual(t, len(got), max)
	}
}
