package workflows

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// storageWorld is a world with a DEA whose data are moved.
type storageWorld struct {
	*world
	f *fake
	// never: a job that failed to start was not started by anybody.
	never bool
	// moved data are at their new place; stopped: the roles are.
	moved, stopped bool
	inputs         []activities.MoveInput
}

func newStorageWorld(t *testing.T) *storageWorld {
	plan := alsPlan()
	i := slices.IndexFunc(plan.Nodes, func(n operation.PlannedNode) bool { return n.Name == "dea-1" })
	plan.Nodes = plan.Nodes[i : i+1]
	w := &storageWorld{world: newWorld(t, plan)}
	w.f = w.fake
	for name, fn := range map[string]any{"RelocateReady": w.RelocateReady, "KeepSource": w.KeepSource, "RelocateData": w.RelocateData, "CompareCopy": w.CompareCopy, "SwitchBack": w.SwitchBack,
		"TidySource": w.TidySource, "StopRoles": w.StopRoles, "StartRoles": w.StartRoles} {
		w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return w
}

func (w *storageWorld) RelocateReady(_ context.Context, in activities.RelocateReadyInput) (activities.RelocateReadyResult, error) {
	out := activities.RelocateReadyResult{Moves: in.Moves}
	for i := range out.Moves {
		m := &out.Moves[i]
		m.From, m.Real, m.Kept, m.Mount = "/var/"+string(m.Kind), "/var/"+string(m.Kind), "/var/"+string(m.Kind)+".katoflow-op", "/mnt/ebs"
	}
	return out, nil
}

// step is one of a move.
func (w *storageWorld) step(ctx context.Context, name string, in activities.MoveInput, done func()) (activities.JobResult, error) {
	err := w.f.step(ctx, name, in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.inputs = append(w.inputs, in)
	if err == nil && !in.Settle {
		done()
	}
	return activities.JobResult{Started: !in.Settle || !w.never}, err
}

func (w *storageWorld) KeepSource(ctx context.Context, in activities.MoveInput) (activities.KeepResult, error) {
	out, err := w.step(ctx, "KeepSource", in, func() {
		if !w.stopped {
			w.t.Error("the source is kept while the roles run")
		}
	})
	return activities.KeepResult{JobResult: out, Boot: "boot-1"}, err
}

func (w *storageWorld) RelocateData(ctx context.Context, in activities.MoveInput) (activities.JobResult, error) {
	if in.Boot != "boot-1" && !in.Settle {
		w.t.Errorf("it is not told in which boot the source was kept: %q", in.Boot)
	}
	return w.step(ctx, "RelocateData", in, func() { w.moved = true })
}

func (w *storageWorld) CompareCopy(ctx context.Context, in activities.MoveInput) (activities.CompareResult, error) {
	out, err := w.step(ctx, "CompareCopy", in, func() {})
	return activities.CompareResult{JobResult: out, Files: 3, Bytes: 4096}, err
}

func (w *storageWorld) SwitchBack(ctx context.Context, in activities.MoveInput) (activities.JobResult, error) {
	return w.step(ctx, "SwitchBack", in, func() {
		if !w.stopped {
			w.t.Error("data go back while the roles run")
		}
		w.moved = false
	})
}

func (w *storageWorld) TidySource(ctx context.Context, in activities.MoveInput) (activities.JobResult, error) {
	return w.step(ctx, "TidySource", in, func() {})
}

func (w *storageWorld) roles(ctx context.Context, name string, in activities.NodesInput, stopped bool) (activities.NodesResult, error) {
	node := in.Nodes[0]
	var notes []string
	if in.Settle {
		notes = append(notes, "settle")
	}
	if in.Tries[node] > 1 {
		notes = append(notes, fmt.Sprintf("try=%d", in.Tries[node]))
	}
	err := w.f.call(ctx, name, node, notes...)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if err == nil && !in.Settle {
		w.stopped = stopped
	}
	return activities.NodesResult{Nodes: []activities.NodeOutcome{{Node: node, Started: true}}}, err
}

func (w *storageWorld) StopRoles(ctx context.Context, in activities.NodesInput) (activities.NodesResult, error) {
	return w.roles(ctx, "StopRoles", in, true)
}

func (w *storageWorld) StartRoles(ctx context.Context, in activities.NodesInput) (activities.NodesResult, error) {
	return w.roles(ctx, "StartRoles", in, false)
}

// relocate runs the operation.
func (w *storageWorld) relocate(change func(*operation.RelocateInput)) (operation.Report, error) {
	w.t.Helper()
	in := operation.RelocateInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}, Node: "dea-1", Services: "/mnt/ebs/services", Containers: "/mnt/ebs/containers", Confirm: "prod"}
	if change != nil {
		change(&in)
	}
	w.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: operation.WorkflowID("prod", operation.KindRelocate, "op-1"), TaskQueue: "test"})
	w.ExecuteWorkflow(StorageRelocate, in)
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.fake.calls)
	require.Equal(w.t, w.sent, w.settled, "every update was answered")
	return reportOf(w.t, w.world)
}

// times an activity was to do something.
func (w *storageWorld) times(name string) (n int) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	for _, c := range w.f.calls {
		if strings.HasPrefix(c, name+" ") && !strings.HasSuffix(c, " settle") {
			n++
		}
	}
	return n
}

// movedTo are the outcomes by kind.
func movedTo(r operation.Report) map[operation.StorageKind]string {
	out := map[operation.StorageKind]string{}
	for _, m := range r.Storage.Moves {
		out[m.Kind] = m.Outcome
	}
	return out
}

func TestRelocate_GoesWell_OneStopForAllKinds(t *testing.T) {
	w := newStorageWorld(t)
	r, err := w.relocate(nil)
	require.NoError(t, err)
	require.Equal(t, map[operation.StorageKind]string{operation.Services: operation.Moved, operation.Containers: operation.Moved}, movedTo(r))
	for name, times := range map[string]int{"Retire": 1, "StopRoles": 1, "KeepSource": 2, "RelocateData": 2, "CompareCopy": 2, "StartRoles": 1, "TidySource": 2, "SwitchBack": 0} {
		require.Equal(t, times, w.times(name), name)
	}
	require.Less(t, w.f.place("StartRoles dea-1"), w.f.place("TidySource dea-1"))
	require.False(t, r.Storage.SourceKept)
}

func TestRelocate_AJobThatCouldNotBeStarted_GoesBackAtOnce(t *testing.T) {
	for _, never := range []bool{true, false} {
		t.Run(fmt.Sprint("never ", never), func(t *testing.T) {
			w := newStorageWorld(t)
			w.never = never
			w.f.script["RelocateData dea-1"] = []error{fail(operation.ErrDiskFull, "dea-1: no space")}
			if never {
				w.answer(operation.Abort)
			} else {
				w.answer(operation.Leave)
			}
			r, err := w.relocate(nil)
			require.Error(t, err)
			if never {
				require.Equal(t, []string{"dea-1/relocate-services/1"}, w.asked)
				require.Equal(t, 1, w.times("SwitchBack"))
				require.Equal(t, 1, w.times("StartRoles"))
				require.Equal(t, operation.NotMoved, movedTo(r)[operation.Services])
				return
			}
			require.Zero(t, w.times("SwitchBack"), "it may still run")
			require.Zero(t, w.times("StartRoles"))
			require.Equal(t, operation.MoveOpen, movedTo(r)[operation.Services])
			require.Equal(t, operation.PhaseAborted, r.Phase)
		})
	}
}

func TestRelocate_NobodyKnowsHowItEnded_RolesAreStoppedAgainBeforeItGoesBack(t *testing.T) {
	w := newStorageWorld(t)
	w.f.script["RelocateData dea-1"] = []error{fail(operation.ErrLost, "dea-1: lost")}
	w.answer(operation.Retry, operation.Retry)
	r, err := w.relocate(func(in *operation.RelocateInput) { in.Containers = "" })
	require.NoError(t, err)
	require.Equal(t, operation.Moved, movedTo(r)[operation.Services])
	require.Equal(t, []string{"dea-1/relocate-services/1", "dea-1/relocate-services/2"}, w.asked)
	require.Equal(t, 3, w.times("StopRoles"), "for each round, and before it went back")
	require.Equal(t, 2, w.times("RelocateData"))
	require.Equal(t, 2, w.times("StartRoles"))
}

func TestRelocate_OneKindFails_TheOneBeforeStaysMoved(t *testing.T) {
	w := newStorageWorld(t)
	w.f.script["CompareCopy dea-1"] = []error{nil, fail(operation.ErrVerify, "dea-1: differs")}
	w.answer(operation.Abort)
	r, err := w.relocate(nil)
	require.Error(t, err)
	require.Equal(t, map[operation.StorageKind]string{operation.Services: operation.Moved, operation.Containers: operation.NotMoved}, movedTo(r))
	require.Equal(t, 1, w.times("TidySource"))
	require.Equal(t, 1, w.times("SwitchBack"))
	require.Equal(t, 1, w.times("StartRoles"))
}

func TestRelocate_GatesDoNotHoldAndNobodyAnswers_TheDataStayAndTheSourceToo(t *testing.T) {
	w := newStorageWorld(t)
	w.f.clusterDown = 100
	r, err := w.relocate(func(in *operation.RelocateInput) { in.AnswerWithin = operation.Duration(time.Hour) })
	require.Equal(t, operation.ErrGates, typeOf(err))
	require.Equal(t, operation.MovedLeft, movedTo(r)[operation.Services])
	require.Zero(t, w.times("SwitchBack"), "what was written since would be lost")
	require.True(t, r.Storage.SourceKept)
	for _, in := range w.inputs[len(w.inputs)-2:] {
		require.True(t, in.Stays)
	}
}

func TestRelocate_CancelledWhenInstancesHaveLeft_TheDEAIsStartedAgain(t *testing.T) {
	w := newStorageWorld(t)
	w.f.during["Retire dea-1"] = func(ctx context.Context) {
		w.f.mu.Lock()
		delete(w.f.during, "Retire dea-1")
		w.f.mu.Unlock()
		w.RegisterDelayedCallback(w.CancelWorkflow, 0)
		<-ctx.Done()
	}
	r, err := w.relocate(nil)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Zero(t, w.times("StopRoles"))
	require.Equal(t, 1, w.times("StartRoles"))
	require.Equal(t, operation.NotMoved, movedTo(r)[operation.Services])
}
