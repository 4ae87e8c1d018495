package vsphere

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/vsphere/vspheretest"
)

// refuse has the next request of a method answered with a fault.
func refuse(v *vspheretest.VCenter, method string, fault types.BaseMethodFault) {
	v.Model.Service.AddFaultRule(&simulator.FaultInjectionRule{
		MethodName: method, ObjectType: "*", ObjectName: "*", Probability: 1, MaxCount: 1, Enabled: true, FaultType: simulator.FaultTypeCustom, Fault: fault, Message: "refused",
	})
}

// unknown requires an *UnknownError in one line that names the node and the server and holds no secret.
func unknown(t *testing.T, err error) {
	t.Helper()
	require.ErrorAs(t, err, new(*hypervisor.UnknownError))
	require.Contains(t, err.Error(), "node-of-"+vm0+": ")
	require.Contains(t, err.Error(), "vsphere 127.0.0.1:")
	require.NotContains(t, err.Error(), "\n")
	require.NotContains(t, err.Error(), vspheretest.Password)
}

// known requires an error that is no *UnknownError.
func known(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.False(t, errors.As(err, new(*hypervisor.UnknownError)), "%v", err)
}

func TestTake_OutageDuringTheTask_IsWaitedFor(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.Hold()
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	v.Fault("WaitForUpdatesEx", 1, func(w http.ResponseWriter, _ func() *http.Response) {
		v.Fault("*", 12, vspheretest.Unheard)
		vspheretest.Unheard(w, nil)
	})
	wait := inBackground(func() error { _, err := s.Take(ctx); return err })
	v.Await("WaitForUpdatesEx", 2) // the vCenter is there again
	release()
	require.NoError(t, wait())
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0))
}

func TestChanges_NoAnswer_AreUnknown(t *testing.T) {
	v := vspheretest.Start(t, 2)
	p := open(t, v)
	ctx, vm := bounded(t), node(vm0)
	take(t, p, vm, "op-1")
	require.NoError(t, p.Stop(ctx, vm, true))
	v.Write(vm0, "later")
	for method, do := range map[string]func() error{
		"RevertToSnapshot_Task": func() error { return p.Rollback(ctx, vm, "op-1") },
		"PowerOnVM_Task":        func() error { return p.Start(ctx, vm) },
		"RemoveSnapshot_Task":   func() error { return p.Delete(ctx, vm, "op-1") },
	} {
		v.Fault(method, 1<<20, vspheretest.Unheard)
		unknown(t, do())
		v.ClearFaults()
	}
	require.Equal(t, "later", v.Content(vm0))
	require.False(t, v.On(vm0))
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0))

	v.Fault("*", 1<<20, vspheretest.Unavailable)
	unknown(t, p.Rollback(ctx, vm, "op-1"))
	v.ClearFaults()
	refuse(v, "RevertToSnapshot_Task", &types.NoPermission{})
	known(t, p.Rollback(ctx, vm, "op-1"))
	require.NoError(t, p.Rollback(ctx, vm, "op-1"))
	require.NoError(t, p.Start(ctx, vm))
	v.Fault("PowerOffVM_Task", 1<<20, vspheretest.Unheard)
	unknown(t, p.Stop(ctx, vm, true))
	require.True(t, v.On(vm0))
}

func TestRollback_TaskIsForgotten_IsUnknown(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	v.Fault("RevertToSnapshot_Task", 1, vspheretest.Started("RevertToSnapshot_Task", types.ManagedObjectReference{Type: "Task", Value: "task-0"}))
	err := p.Rollback(bounded(t), node(vm0), "op-1")
	unknown(t, err)
	require.ErrorContains(t, err, "has forgotten the task")
}

func TestRollback_LoginIsRefusedDuringTheTask_IsUnknown(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	ref, end := v.Task(vm0, "revert")
	defer end()
	v.Fault("RevertToSnapshot_Task", 1, vspheretest.Started("RevertToSnapshot_Task", ref))
	v.Fault("WaitForUpdatesEx", 1, func(w http.ResponseWriter, forward func() *http.Response) {
		v.EndSessions()
		refuse(v, "Login", &types.InvalidLogin{})
		vspheretest.Heard(w, forward)
	})
	err := p.Rollback(bounded(t), node(vm0), "op-1")
	unknown(t, err)
	require.ErrorContains(t, err, "the login is refused")
}

func TestFind_ItsContextEndsAndNothingIsAnswered_ReturnsSoon(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	defer v.HoldEnd()()
	s := prepare(t, p, node(vm0), "op-1")
	v.Fault("CreateSnapshot_Task", 1, vspheretest.LostAnswer)
	_, err := s.Take(bounded(t))
	unknown(t, err)
	done := make(chan struct{})
	defer close(done)
	for _, do := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, _, err := p.Find(ctx, node(vm0), "op-1"); return err },
		func(ctx context.Context) error { _, err := s.Take(ctx); return err },
	} {
		before := len(v.Calls("WaitForUpdatesEx"))
		ctx, cancel := context.WithCancel(bounded(t))
		ended := make(chan error, 1)
		go func() { ended <- do(ctx) }()
		v.Await("WaitForUpdatesEx", before+1)
		v.Fault("*", 1<<20, func(http.ResponseWriter, func() *http.Response) { <-done })
		cancel()
		select {
		case err := <-ended:
			require.ErrorContains(t, err, "node-of-"+vm0)
		case <-time.After(limit / 2): // a request may take all of limit
			require.FailNow(t, "it waits for a vCenter that hangs, without its caller")
		}
		v.ClearFaults()
	}
}

func TestFind_ListedBeforeItsTaskEnds_WaitsForTheEnd(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.HoldEnd()
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	v.Fault("CreateSnapshot_Task", 1, vspheretest.LostAnswer)
	_, err := s.Take(ctx)
	unknown(t, err)
	require.Eventually(t, func() bool { return len(v.Snapshots(vm0)) == 1 }, limit, time.Millisecond)
	found := false
	wait := inBackground(func() (err error) { _, found, err = p.Find(ctx, node(vm0), "op-1"); return err })
	v.Await("WaitForUpdatesEx", 1)
	release()
	require.NoError(t, wait())
	require.True(t, found)
}

func TestTake_TaskEndsInAnError_IsThatError(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.HoldAndFail(&types.ApplicationQuiesceFault{})
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	wait := inBackground(func() error { _, err := s.Take(ctx); return err })
	v.Await("WaitForUpdatesEx", 1)
	release()
	err := wait()
	known(t, err)
	require.ErrorContains(t, err, "it failed (ApplicationQuiesceFault)")
	require.Empty(t, v.Snapshots(vm0))
}

func TestTake_LoginIsRefused_IsNotUnknown(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	s := prepare(t, p, node(vm0), "op-1")
	v.EndSessions()
	refuse(v, "Login", &types.InvalidLogin{})
	_, err := s.Take(bounded(t))
	known(t, err)
	require.ErrorContains(t, err, "the login is refused")
	require.Empty(t, v.Snapshots(vm0))
}

func TestLogin_Refused_IsNotTriedAgain(t *testing.T) {
	v := vspheretest.Start(t, 2)
	p := open(t, v, func(c *Config) { c.Password = "falsches" })
	var group sync.WaitGroup
	for _, name := range v.VMs() {
		group.Go(func() {
			_, err := p.Power(bounded(t), node(name))
			if err == nil || !strings.Contains(err.Error(), "the login is refused") {
				t.Errorf("%v", err)
			}
		})
	}
	group.Wait()
	problems, err := p.Check(bounded(t), []hypervisor.VM{node(vm0)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Len(t, v.Calls("Login"), 1, "a few more would lock the account")
}

func TestLookup_ManyNames_AreListedOnce(t *testing.T) {
	v := vspheretest.Start(t, 10)
	p := open(t, v)
	var vms []hypervisor.VM
	for _, name := range v.VMs() {
		vms = append(vms, node(name))
	}
	var group sync.WaitGroup
	for _, vm := range vms {
		group.Go(func() {
			if _, err := p.Power(bounded(t), vm); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	group.Wait()
	// A machine that is busy may take longer than a listing is good for.
	require.Less(t, len(v.Calls("CreateContainerView")), len(vms)/2)
	before := len(v.Calls("CreateContainerView"))
	problems, err := p.Check(bounded(t), vms)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Len(t, v.Calls("CreateContainerView"), before+1, "one listing for all, and a new one")
}

func TestLookup_SessionEndsWithTheView_IsDoneAgain(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	v.Fault("RetrievePropertiesEx", 1, func(w http.ResponseWriter, forward func() *http.Response) {
		v.EndSessions()
		vspheretest.Heard(w, forward)
	})
	_, err := p.Power(bounded(t), node(vm0))
	require.NoError(t, err)
	require.Len(t, v.Calls("Login"), 2)
}

func TestSession_EndedWhileATaskIsWatched_IsBegunAgainAndTheTaskWaitedFor(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.Hold()
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	over := make(chan struct{})
	// The first tells how the task is, and the second waits for a change.
	v.Fault("WaitForUpdatesEx", 1, vspheretest.Heard)
	v.Fault("WaitForUpdatesEx", 1, func(w http.ResponseWriter, forward func() *http.Response) {
		<-over
		vspheretest.Heard(w, forward)
	})
	wait := inBackground(func() error { _, err := s.Take(ctx); return err })
	v.Await("WaitForUpdatesEx", 2)
	v.EndSessions()
	close(over)
	v.Await("Login", 2)
	v.Await("WaitForUpdatesEx", 4) // the second again, which has no collector any more, and then a new one's first
	release()
	require.NoError(t, wait())
	require.Len(t, v.Calls("Login"), 2)
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0))
}

func TestClose_OfASession_EndsItAndBeginsNone(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	_, err := p.Power(bounded(t), node(vm0))
	require.NoError(t, err)
	require.Equal(t, 1, v.Sessions())
	require.NoError(t, p.Close())
	require.Len(t, v.Calls("Logout"), 1)
	require.Zero(t, v.Sessions())
	_, err = p.Power(bounded(t), node(vm0))
	require.ErrorContains(t, err, "closed")

	p = open(t, v)
	_, err = p.Power(bounded(t), node(vm0))
	require.NoError(t, err)
	v.EndSessions()
	require.NoError(t, p.Close())
	require.Len(t, v.Calls("Login"), 2, "nobody logs in to log out")
	require.Zero(t, v.Sessions())
}

func TestClose_DuringALogin_LeavesNoSession(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	answer := make(chan struct{})
	v.Fault("Login", 1, func(w http.ResponseWriter, forward func() *http.Response) {
		<-answer
		vspheretest.Heard(w, forward)
	})
	ctx := bounded(t)
	power := inBackground(func() error { _, err := p.Power(ctx, node(vm0)); return err })
	v.Await("Login", 1)
	closing := inBackground(p.Close)
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.closed
	}, limit, time.Millisecond)
	close(answer)
	require.NoError(t, closing())
	require.ErrorContains(t, power(), "closed")
	require.Zero(t, v.Sessions())
	require.Len(t, v.Calls("Logout"), 1)
}

func TestRollback_SwitchedOnMeanwhile_IsNotDone(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	v.Write(vm0, "later")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	outside := object.NewVirtualMachine(v.Outside(), v.Machine(vm0).Reference())
	v.Fault("RevertToSnapshot_Task", 1, func(w http.ResponseWriter, _ func() *http.Response) {
		if on, err := outside.PowerOn(context.Background()); err == nil {
			_ = on.Wait(context.Background())
		}
		vspheretest.Unheard(w, nil)
	})
	err := p.Rollback(bounded(t), node(vm0), "op-1")
	known(t, err)
	require.ErrorContains(t, err, "not switched off")
	require.Len(t, v.Calls("RevertToSnapshot_Task"), 1)
	require.Equal(t, "later", v.Content(vm0))
}

func TestDelete_TaskIsForgottenAndTheSnapshotStays_IsAnError(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	v.Fault("RemoveSnapshot_Task", 1, vspheretest.Started("RemoveSnapshot_Task", types.ManagedObjectReference{Type: "Task", Value: "task-0"}))
	err := p.Delete(bounded(t), node(vm0), "op-1")
	require.ErrorContains(t, err, "node-of-"+vm0)
	require.ErrorContains(t, err, "still there")
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0))
	require.NoError(t, p.Delete(bounded(t), node(vm0), "op-1"))
	require.Empty(t, v.Snapshots(vm0))
}

func TestDelete_DisksNeedConsolidation_AreConsolidatedOrSaidToNeedIt(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	need := func() {
		v.Update(v.Machine(vm0), types.PropertyChange{Name: "runtime.consolidationNeeded", Val: true})
	}
	take(t, p, node(vm0), "op-1")
	need()
	require.NoError(t, p.Delete(bounded(t), node(vm0), "op-1"))
	require.Empty(t, v.Snapshots(vm0))
	require.Len(t, v.Calls("ConsolidateVMDisks_Task"), 1)

	take(t, p, node(vm0), "op-2")
	need()
	ref, end := v.Task(vm0, "nothing")
	end()
	v.Fault("ConsolidateVMDisks_Task", 1, vspheretest.Started("ConsolidateVMDisks_Task", ref))
	err := p.Delete(bounded(t), node(vm0), "op-2")
	known(t, err)
	require.ErrorContains(t, err, "still need consolidation")
	require.Empty(t, v.Snapshots(vm0))
	require.NoError(t, p.Delete(bounded(t), node(vm0), "op-2"), "done again it consolidates them")
	require.Len(t, v.Calls("ConsolidateVMDisks_Task"), 3)
}

func TestDelete_SomebodyConsolidates_IsWaitedFor(t *testing.T) {
	for _, what := range []string{"consolidateDisks", "removeAllSnapshots"} {
		v := vspheretest.Start(t, 1)
		p := open(t, v)
		_, end := v.Task(vm0, what)
		ctx := bounded(t)
		wait := inBackground(func() error { return p.Delete(ctx, node(vm0), "op-1") })
		v.Await("WaitForUpdatesEx", 1)
		end()
		require.NoError(t, wait())
	}
}

func TestStart_ItsTaskDoesNotEnd_SaysWhatTheVMAsks(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v, func(c *Config) { c.PowerTimeout = 50 * time.Millisecond })
	require.NoError(t, open(t, v).Stop(bounded(t), node(vm0), true))
	v.Update(v.Machine(vm0), types.PropertyChange{Name: "runtime.question", Val: types.VirtualMachineQuestionInfo{Id: "1", Text: "Moved\nor copied?"}})
	ref, end := v.Task(vm0, "powerOn")
	defer end()
	v.Fault("PowerOnVM_Task", 1, vspheretest.Started("PowerOnVM_Task", ref))
	err := p.Start(bounded(t), node(vm0))
	unknown(t, err)
	require.ErrorContains(t, err, "has not ended within 50ms")
	require.ErrorContains(t, err, "waits for an answer: Moved")
}
