package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

// saturday is a Saturday at noon, UTC.
var saturday = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// within is a world that begins on saturday, and notes when nodes are begun.
func within(t *testing.T, plan operation.Plan) (*world, map[string]time.Time) {
	t.Helper()
	w := newWorld(t, plan)
	w.SetStartTime(saturday)
	begun := map[string]time.Time{}
	for _, n := range plan.Nodes {
		w.fake.during["Probe "+n.Name] = func(context.Context) {
			w.fake.mu.Lock()
			defer w.fake.mu.Unlock()
			begun[n.Name] = w.Now().UTC()
		}
	}
	return w, begun
}

// in requires that a node was begun in a span of time.
func beganIn(t *testing.T, begun map[string]time.Time, node, from, to string) {
	t.Helper()
	for _, limit := range []string{from, to} {
		_, err := time.Parse(time.RFC3339, limit)
		require.NoError(t, err)
	}
	at := begun[node].Format(time.RFC3339)
	require.True(t, from <= at && at < to, "%s was begun at %s, not from %s to %s", node, at, from, to)
}

func windowed(times ...string) func(*operation.SecurityUpgradeInput) {
	return func(in *operation.SecurityUpgradeInput) {
		in.Window = operation.WindowInput{Times: times, NodeTime: operation.Duration(10 * time.Minute)}
	}
}

func TestWindow_Closed_NothingIsBegunAndTheClusterIsFreeUntilItOpens(t *testing.T) {
	plan := alsPlan()
	plan.Nodes = plan.Nodes[:2]
	w, begun := within(t, plan)
	w.at(3*time.Hour, func() {
		r := w.now()
		require.Contains(t, r.Message, "waiting for the maintenance window Sat 22:00-04:00 Europe/Berlin; the cluster is free meanwhile")
		require.Equal(t, "Sat 22:00-04:00 Europe/Berlin: opens 2026-11-28T21:00:00Z", r.Window)
		require.Empty(t, begun)
		require.Zero(t, w.fake.count("EnterMaintenance"), "the cluster stays writable")
	})
	report, err := w.run(input(windowed("Sat 22:00-04:00 Europe/Berlin"), func(in *operation.SecurityUpgradeInput) { in.Maintenance = true }))
	require.NoError(t, err)
	beganIn(t, begun, "dea-1", "2026-11-28T21:00:00Z", "2026-11-29T03:00:00Z")
	require.Equal(t, "Sat 22:00-04:00 Europe/Berlin: open until 2026-11-29T03:00:00Z", report.Window)
	require.Contains(t, report.Warnings[0], "no maintenance window is open in which a node fits")
	require.Equal(t, 2, w.fake.count("LockToken"), "the lock was freed and taken again")
	require.Equal(t, 2, w.fake.count("Fence"), "and the leases with it")
	require.Equal(t, 1, w.fake.count("EnterMaintenance"))
	require.Equal(t, 1, w.fake.count("LeaveMaintenance"))
}

func TestWindow_ClosesBetweenTwoNodes_GoesOnInTheNextOne(t *testing.T) {
	plan := alsPlan()
	plan.Nodes = plan.Nodes[:3]
	w, begun := within(t, plan)
	w.at(12*time.Hour, func() {
		r := w.now()
		require.Equal(t, operation.NodeDone, node(t, r, "dea-1").Status)
		require.Contains(t, r.Message, "waiting for the maintenance window")
		require.Contains(t, r.Maintenance, "put back", "the cluster is writable between two windows")
	})
	_, err := w.run(input(windowed("Sat,Sun 12:00-13:00"), func(in *operation.SecurityUpgradeInput) {
		in.Maintenance, in.Soak = true, operation.Duration(2*time.Hour)
	}))
	require.NoError(t, err)
	beganIn(t, begun, "dea-1", "2026-11-28T12:00:00Z", "2026-11-28T13:00:00Z")
	beganIn(t, begun, "dea-2", "2026-11-29T12:00:00Z", "2026-11-29T13:00:00Z")
	beganIn(t, begun, "core", "2026-11-29T12:00:00Z", "2026-11-29T13:00:00Z")
	require.Equal(t, 2, w.fake.count("EnterMaintenance"), "on again in the next window")
	require.Equal(t, 2, w.fake.count("LeaveMaintenance"))
}

func TestWindow_TooLittleIsLeft_TheNextNodeWaitsForAnother(t *testing.T) {
	w, begun := within(t, plainPlan("a"))
	w.at(time.Hour, func() {
		require.Contains(t, w.now().Message, "of which 5m0s are left and a node is expected to take 10m0s")
		require.Equal(t, "11:30-12:05; Sun 10:00-11:00: opens 2026-11-29T10:00:00Z", w.now().Window)
	})
	in := input(windowed("11:30-12:05", "Sun 10:00-11:00"))
	_, err := w.run(in)
	require.NoError(t, err)
	beganIn(t, begun, "a", "2026-11-29T10:00:00Z", "2026-11-29T11:00:00Z")
}

func TestWindow_BegunNodesAreFinishedAfterItHasClosed(t *testing.T) {
	w, begun := within(t, plainPlan("a", "b"))
	w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a: exited 1")}
	w.at(3*time.Hour, func() { // the window has closed
		q := w.now().Questions[0]
		w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: q.Node, Step: q.Step, Try: q.Try, Decision: operation.Retry})
	})
	w.at(4*time.Hour, func() {
		require.Equal(t, operation.NodeDone, node(t, w.now(), "a").Status)
		require.Equal(t, operation.NodePending, node(t, w.now(), "b").Status)
	})
	_, err := w.run(input(windowed("12:00-13:00")))
	require.NoError(t, err)
	beganIn(t, begun, "b", "2026-11-29T12:00:00Z", "2026-11-29T13:00:00Z")
}

func TestWindow_CancelledWhileWaiting_EndsAtOnce(t *testing.T) {
	w, begun := within(t, plainPlan("a"))
	w.at(time.Hour, w.CancelWorkflow)
	report, err := w.run(input(windowed("Sun 12:00-13:00")))
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	require.Empty(t, begun)
	require.Equal(t, operation.NodeUntouched, node(t, report, "a").Status)
	require.Less(t, w.Now().Sub(saturday), 2*time.Hour)
}

func TestWindow_NodesCannotBeTakenAgain_IsAQuestion(t *testing.T) {
	w, begun := within(t, plainPlan("a"))
	w.fake.script["Fence"] = []error{nil, fail(operation.ErrUnreachable, "a: not reached")}
	w.at(25*time.Hour, func() {
		q := w.now().Questions[0]
		require.Equal(t, []string{operation.ClusterNode, operation.StepWindow}, []string{q.Node, q.Step})
		require.Empty(t, begun)
		w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: q.Node, Step: q.Step, Try: q.Try, Decision: operation.Retry})
	})
	_, err := w.run(input(windowed("Sun 12:00-18:00")))
	require.NoError(t, err)
	beganIn(t, begun, "a", "2026-11-29T12:00:00Z", "2026-11-29T18:00:00Z")
}

func TestWindow_BadInput_NothingAsked(t *testing.T) {
	for _, in := range []operation.WindowInput{{Times: []string{"Sat"}}, {NodeTime: operation.Duration(time.Hour)}, {Times: []string{"12:00-12:10"}}, {Times: []string{"12:00-13:00"}, NodeTime: -1}} {
		w := newWorld(t, plainPlan("a"))
		_, err := w.run(input(func(i *operation.SecurityUpgradeInput) { i.Window = in }))
		require.Equal(t, operation.ErrBadInput, typeOf(err), "%+v", in)
		require.Empty(t, w.fake.calls)
	}
}

func TestWindows_Needs_WhatWasMeasuredAndNeverMoreThanAWindow(t *testing.T) {
	now := windowNow{WindowSpan: operation.WindowSpan{From: saturday, To: saturday.Add(time.Hour)}}
	w := &windows{expected: 15 * time.Minute}
	require.Equal(t, 15*time.Minute, w.needs(now))
	w.took(20 * time.Minute)
	w.took(8 * time.Minute)
	require.Equal(t, 25*time.Minute, w.needs(now), "the longest and a quarter")
	w.took(3 * time.Hour)
	require.Equal(t, 54*time.Minute, w.needs(now), "it is begun when a window opens")
	(*windows)(nil).took(time.Hour)
}
