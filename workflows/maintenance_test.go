package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

func withMaintenance(in *operation.SecurityUpgradeInput) { in.Maintenance = true }

func TestMaintenance_EnteredWell_LeaveKnowsIt(t *testing.T) {
	for _, found := range []string{"off", "on"} {
		w := newWorld(t, plainPlan("a"))
		w.fake.found = found
		_, err := w.run(input(withMaintenance))
		require.NoError(t, err)
		require.Len(t, w.fake.maintenanceInputs, 2)
		leave := w.fake.maintenanceInputs[1]
		require.True(t, leave.Entered, "nothing of the enter can be under way")
		require.Equal(t, found, leave.Found)
	}
}

// An enter that did not end well may have left something on the Core that leaving must stop first.
func TestMaintenance_NotEnteredWell_LeaveStopsWhatMayBeUnderWay(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"failed and aborted": func(w *world) {
			w.fake.script["EnterMaintenance"] = []error{fail(operation.ErrUnreachable, "core: not reached")}
			w.answer(operation.Abort)
		},
		"cancelled": func(w *world) {
			w.fake.during["EnterMaintenance"] = func(ctx context.Context) {
				w.RegisterDelayedCallback(w.CancelWorkflow, 0)
				<-ctx.Done()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, plainPlan("a"))
			prepare(w)
			_, err := w.run(input(withMaintenance))
			require.Error(t, err)
			require.Equal(t, 1, w.fake.count("LeaveMaintenance"))
			leave := w.fake.maintenanceInputs[len(w.fake.maintenanceInputs)-1]
			require.False(t, leave.Entered)
		})
	}
}

func TestMaintenance_DeadManArmed_SignsAreGivenUntilTheModeIsPutBack(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.signEvery, w.fake.signed, w.fake.signing = 10*time.Minute, make(chan struct{}), make(chan struct{})
	w.fake.during["Gates a"] = func(context.Context) {
		select {
		case <-w.fake.signed:
		case <-time.After(20 * time.Second):
		}
	}
	w.fake.during["LeaveMaintenance"] = func(context.Context) {
		select {
		case <-w.fake.signing:
			t.Error("the signs ended before the mode was put back")
		default:
		}
	}
	_, err := w.run(input(withMaintenance))
	require.NoError(t, err)
	require.Equal(t, 1, w.fake.count("SignOfLife"))
	require.Less(t, w.fake.place("EnterMaintenance"), w.fake.place("SignOfLife"))
	select {
	case <-w.fake.signing:
	case <-time.After(20 * time.Second):
		t.Error("the signs go on although the operation has ended")
	}
}

func TestMaintenance_NoDeadMan_NoSigns(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	_, err := w.run(input(withMaintenance))
	require.NoError(t, err)
	require.Zero(t, w.fake.count("SignOfLife"))
}

// A procedure has no dead-man unless it says so: an import, a snapshot, a release upgrade and a relocation must never have one.
func TestDeadMan_Procedures_OnlyThoseThatSaySo(t *testing.T) {
	for p, want := range map[procedure]bool{&backup{}: true, &securityUpgrade{}: true, &clusterCheck{}: false} {
		_, allowed := p.(deadManAllowed)
		require.Equal(t, want, allowed, "%T", p)
	}
}
