package workflows

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// appsWithin is a world that begins on saturday, with so many apps that take so long to start, and notes when each was stopped.
func appsWithin(t *testing.T, apps int, takes time.Duration) (*world, map[string][]time.Time) {
	t.Helper()
	plan := alsPlan()
	plan.Nodes = nil // it reaches none
	w := newWorld(t, plan)
	w.SetStartTime(saturday)
	stopped := map[string][]time.Time{}
	name := func(fn any, name string) { w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name}) }
	name(func(context.Context, activities.SelectAppsInput) (out activities.SelectAppsResult, err error) {
		for i := range apps {
			out.Apps = append(out.Apps, operation.App{Org: "o", Space: "s", Name: fmt.Sprintf("app-%02d", i), GUID: fmt.Sprint(i)})
		}
		return out, nil
	}, "SelectApps")
	name(func(_ context.Context, in activities.AppInput) error {
		w.fake.mu.Lock()
		defer w.fake.mu.Unlock()
		stopped[in.App.Name] = append(stopped[in.App.Name], w.Now().UTC())
		return nil
	}, "StopApp")
	name(func(ctx context.Context, in activities.AppInput) error {
		return w.fake.call(ctx, "StartApp", in.App.Name)
	}, "StartApp")
	name(func(context.Context, activities.AppInput) error { return nil }, "AwaitApp")
	w.OnActivity("AwaitApp", mock.Anything, mock.Anything).Return(nil).After(takes)
	return w, stopped
}

func (w *world) apps(windows ...string) (operation.Report, error) {
	w.t.Helper()
	options := startOptions()
	options.ID = operation.WorkflowID("prod", operation.KindAppsRestart, "op-1")
	w.SetStartWorkflowOptions(options)
	w.ExecuteWorkflow(Apps, operation.AppsInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}, Action: operation.AppRestart, Apps: []string{"*/*/*"}, AtOnce: 2,
		Window: operation.WindowInput{Times: windows, NodeTime: operation.Duration(10 * time.Minute)}})
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.fake.calls)
	return reportOf(w.t, w)
}

func TestAppsWindow_TooShortForAll_TheRestIsDoneInTheNextAndTheClusterIsFreeBetween(t *testing.T) {
	w, stopped := appsWithin(t, 12, 5*time.Minute)
	w.at(2*time.Hour, func() {
		r := w.now()
		require.Contains(t, r.Message, "waiting for the maintenance window Sat,Sun 12:00-12:22")
		require.Contains(t, r.Message, "the cluster is free meanwhile")
		require.Equal(t, 8, r.Apps.Handled)
	})
	report, err := w.apps("Sat,Sun 12:00-12:22")
	require.NoError(t, err)
	require.Equal(t, map[string]int{operation.AppRunning: 12}, report.Apps.Counts)
	require.Equal(t, 2, w.fake.count("LockToken"), "the lock was freed and taken again")
	days := map[int]int{}
	for app, at := range stopped {
		require.Len(t, at, 1, "%s is stopped once", app)
		days[at[0].Day()]++
		require.Equal(t, 12, at[0].Hour(), "%s was stopped at %s", app, at[0])
		require.LessOrEqual(t, at[0].Minute(), 15, "%s takes 5 minutes and a quarter, and was begun at %s", app, at[0])
	}
	require.Equal(t, map[int]int{28: 8, 29: 4}, days)
}

func TestAppsWindow_Closed_NothingIsStoppedBeforeItOpens(t *testing.T) {
	w, stopped := appsWithin(t, 3, time.Minute)
	w.at(time.Hour, func() { require.Empty(t, stopped) })
	report, err := w.apps("22:00-23:00")
	require.NoError(t, err)
	require.Contains(t, report.Warnings[0], "no maintenance window is open in which an app fits: the first app waits (22:00-23:00: opens 2026-11-28T22:00:00Z)")
	for _, at := range stopped {
		require.Equal(t, 22, at[0].Hour())
	}
	require.Len(t, stopped, 3)
}

func TestAppsWindow_CancelledBetweenTwo_LeavesTheRestUntouched(t *testing.T) {
	w, stopped := appsWithin(t, 12, 5*time.Minute)
	w.at(2*time.Hour, w.CancelWorkflow)
	report, err := w.apps("Sat,Sun 12:00-12:22")
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, report.Phase)
	require.Equal(t, map[string]int{operation.AppRunning: 8, operation.AppUntouched: 4}, report.Apps.Counts)
	require.Len(t, stopped, 8)
}

func TestAppsWindow_ClosesWithAnAppLeftStopped_TheClusterIsKeptUntilThatIsAnswered(t *testing.T) {
	w, stopped := appsWithin(t, 12, 5*time.Minute)
	w.fake.script["StartApp app-00"] = []error{fail(operation.ErrController, "it is away")}
	w.at(2*time.Hour, func() {
		r := w.now()
		require.Len(t, r.Questions, 1)
		require.NotContains(t, r.Message, "waiting for the maintenance window", "an app is stopped: the cluster is not let go")
		require.Equal(t, 1, w.fake.count("LockToken"))
		q := r.Questions[0]
		w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: q.Node, Step: q.Step, Try: q.Try, Decision: operation.Retry, Who: "operator"})
	})
	report, err := w.apps("Sat,Sun 12:00-12:22")
	require.NoError(t, err)
	require.Equal(t, 12, report.Apps.Counts[operation.AppRunning])
	require.Equal(t, 2, w.fake.count("StartApp app-00"))
	require.Equal(t, 2, w.fake.count("LockToken"))
	require.Len(t, stopped, 12)
}

func TestAppsWindow_ManyAppsOverSeveralDays_AsManyAtOnceOnEachOfThem(t *testing.T) {
	w, stopped := appsWithin(t, 200, 5*time.Minute)
	report, err := w.apps("12:00-12:22")
	require.NoError(t, err)
	require.Equal(t, 200, report.Apps.Counts[operation.AppRunning])
	days := map[int]int{}
	for app, at := range stopped {
		require.Len(t, at, 1, "%s is stopped once", app)
		days[at[0].YearDay()]++
	}
	for day, n := range days {
		require.LessOrEqual(t, n, 8)
		require.True(t, n >= 7 || day == saturday.YearDay()+len(days)-1, "%d apps on day %d: %v", n, day, days)
	}
}

func TestAppsWindow_CancelledBeforeTheFirst_TellsAllOfThemAsUntouched(t *testing.T) {
	w, stopped := appsWithin(t, 3, time.Minute)
	w.at(time.Hour, w.CancelWorkflow)
	report, err := w.apps("22:00-23:00")
	require.Error(t, err)
	require.Equal(t, map[string]int{operation.AppUntouched: 3}, report.Apps.Counts)
	require.Empty(t, stopped)
}

func TestAppsWindow_AppsTakeLongerThanExpected_FewerAreBegun(t *testing.T) {
	w, stopped := appsWithin(t, 40, 20*time.Minute)
	_, err := w.apps("12:00-13:00")
	require.NoError(t, err)
	for app, at := range stopped {
		require.LessOrEqual(t, at[0].Minute(), 40, "%s was begun at %s", app, at[0])
	}
}
