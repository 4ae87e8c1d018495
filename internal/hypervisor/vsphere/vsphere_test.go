package vsphere

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/vsphere/vspheretest"
)

const vm0 = "DC0_H0_VM0"

// limit is what a busy machine needs for anything; nothing runs into it.
const limit = 2 * time.Minute

func node(name string) hypervisor.VM { return hypervisor.VM{Node: "node-of-" + name, ID: name} }

// configOf the double. Connections are not kept warm: what a test says of them does not depend on how long it takes.
func configOf(v *vspheretest.VCenter) Config {
	return Config{URL: v.URL(), User: vspheretest.User, Password: vspheretest.Password, CA: v.CA(), FreeShare: 1e-9, Timeout: limit, Warm: time.Hour}
}

func open(t *testing.T, v *vspheretest.VCenter, change ...func(*Config)) *Provider {
	t.Helper()
	cfg := configOf(v)
	for _, f := range change {
		f(&cfg)
	}
	p, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// inBackground returns what waits for the end of something that is done meanwhile.
func inBackground(do func() error) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- do() }()
	return func() error { return <-done }
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func prepare(t *testing.T, p *Provider, vm hypervisor.VM, name string) hypervisor.Shot {
	t.Helper()
	s, err := p.Prepare(bounded(t), vm, name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func take(t *testing.T, p *Provider, vm hypervisor.VM, name string) hypervisor.Snapshot {
	t.Helper()
	snapshot, err := prepare(t, p, vm, name).Take(bounded(t))
	require.NoError(t, err)
	return snapshot
}

func TestTake_LostAnswer_IsUnknownAndFound(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	s := prepare(t, p, node(vm0), "op-1")
	v.Fault("CreateSnapshot_Task", 1, vspheretest.LostAnswer)
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, "node-of-"+vm0, unknown.Node)

	found, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	again, err := s.Take(bounded(t))
	require.NoError(t, err)
	require.Equal(t, found.ID, again.ID)
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0), "a second request would have made a second snapshot of that name")
}

func TestTake_Unheard_IsUnknownAndTakenByTheNextTry(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	s := prepare(t, p, node(vm0), "op-1")
	v.Fault("CreateSnapshot_Task", 1, vspheretest.Unheard)
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, err, &unknown)
	_, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
	_, err = s.Take(bounded(t))
	require.NoError(t, err)
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0))
}

func TestTake_SlowTask_ReturnsWhenItHasEnded(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.Hold()
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	wait := inBackground(func() error { _, err := s.Take(ctx); return err })
	v.Await("WaitForUpdatesEx", 1)
	require.Empty(t, v.Snapshots(vm0))
	release()
	require.NoError(t, wait())
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0), "the moment has passed when Take returns")
}

func TestTake_RequestIsRefused_IsAnErrorThatIsNotUnknown(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	s := prepare(t, p, node(vm0), "op-1")
	refuse(v, "CreateSnapshot_Task", &types.TooManySnapshotLevels{})
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.Error(t, err)
	require.False(t, errors.As(err, &unknown), "%v", err)
	require.Contains(t, err.Error(), "node-of-"+vm0)
	require.NotContains(t, err.Error(), "\n")
}

func TestTake_CancelledDuringTheTask_IsUnknown(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.Hold()
	s := prepare(t, p, node(vm0), "op-1")
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	wait := inBackground(func() error { _, err := s.Take(ctx); return err })
	v.Await("WaitForUpdatesEx", 1)
	cancel()
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, wait(), &unknown)
	// Find waits for the task: none would be wrong.
	found, again := false, bounded(t)
	wait = inBackground(func() (err error) { _, found, err = p.Find(again, node(vm0), "op-1"); return err })
	v.Await("WaitForUpdatesEx", 2)
	release()
	require.NoError(t, wait())
	require.True(t, found)
}

func TestList_WhileATaskMakesOne_WaitsForIt(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.Hold()
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	v.Fault("CreateSnapshot_Task", 1, vspheretest.LostAnswer)
	_, err := s.Take(ctx)
	require.Error(t, err)
	var list []hypervisor.Snapshot
	wait := inBackground(func() (err error) { list, err = p.List(ctx, node(vm0), "op-"); return err })
	v.Await("WaitForUpdatesEx", 1)
	release()
	require.NoError(t, wait())
	require.Len(t, list, 1, "whoever deletes what is listed leaves none")
}

func TestDelete_WhileTheTaskMakesIt_LeavesNone(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.Hold()
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	v.Fault("CreateSnapshot_Task", 1, vspheretest.LostAnswer)
	_, err := s.Take(ctx)
	require.Error(t, err)
	wait := inBackground(func() error { return p.Delete(ctx, node(vm0), "op-1") })
	v.Await("WaitForUpdatesEx", 1)
	release()
	require.NoError(t, wait())
	require.Len(t, v.Calls("RemoveSnapshot_Task"), 1)
	require.Empty(t, v.Snapshots(vm0))
	require.NoError(t, p.Delete(ctx, node(vm0), "op-1"))
}

func TestDelete_TwoOfOneName_BothAreGoneAndChildrenStay(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	first, second := prepare(t, p, node(vm0), "op-1"), prepare(t, p, node(vm0), "op-1")
	a, err := first.Take(bounded(t))
	require.NoError(t, err)
	_, err = second.Take(bounded(t))
	require.NoError(t, err)
	take(t, p, node(vm0), "op-2")
	found, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, a.ID, found.ID, "the older one counts")
	list, err := p.List(bounded(t), node(vm0), "op-")
	require.NoError(t, err)
	require.Len(t, list, 2, "each name once: %v", list)
	require.NoError(t, p.Delete(bounded(t), node(vm0), "op-1"))
	require.Equal(t, []string{"op-2"}, v.Snapshots(vm0))
}

func TestRollback_OfAVMThatIsOff_BringsItsDisksBackAndLeavesItOff(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	v.Write(vm0, "at the moment")
	take(t, p, node(vm0), "op-1")
	v.Write(vm0, "later")
	err := p.Rollback(bounded(t), node(vm0), "op-1")
	require.ErrorContains(t, err, "not switched off")
	require.Equal(t, "later", v.Content(vm0))
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	var notFound *hypervisor.NotFoundError
	require.ErrorAs(t, p.Rollback(bounded(t), node(vm0), "op-9"), &notFound)
	for range 2 {
		require.NoError(t, p.Rollback(bounded(t), node(vm0), "op-1"))
		require.Equal(t, "at the moment", v.Content(vm0))
		v.Write(vm0, "after the first time")
	}
	power, err := p.Power(bounded(t), node(vm0))
	require.NoError(t, err)
	require.Equal(t, hypervisor.Off, power)
}

func TestRollback_AnotherTaskIsUnderWay_WaitsForIt(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	v.Write(vm0, "at the moment")
	take(t, p, node(vm0), "op-1")
	v.Write(vm0, "later")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	_, end := v.Task(vm0, "reconfigure")
	refuse(v, "RevertToSnapshot_Task", &types.TaskInProgress{})
	ctx, before := bounded(t), len(v.Calls("WaitForUpdatesEx"))
	wait := inBackground(func() error { return p.Rollback(ctx, node(vm0), "op-1") })
	v.Await("WaitForUpdatesEx", before+1)
	require.Len(t, v.Calls("RevertToSnapshot_Task"), 1)
	require.Equal(t, "later", v.Content(vm0))
	end()
	require.NoError(t, wait())
	require.Equal(t, "at the moment", v.Content(vm0))
	require.Len(t, v.Calls("RevertToSnapshot_Task"), 2)
}

func TestRollback_AnswerLost_IsDoneAgain(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	v.Write(vm0, "at the moment")
	take(t, p, node(vm0), "op-1")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	for _, answer := range []vspheretest.Answer{vspheretest.LostAnswer, vspheretest.Unheard, vspheretest.Unavailable} {
		v.Write(vm0, "later")
		v.Fault("RevertToSnapshot_Task", 1, answer)
		require.NoError(t, p.Rollback(bounded(t), node(vm0), "op-1"))
		require.Equal(t, "at the moment", v.Content(vm0))
	}
}

func TestPowerAndDelete_AnswerLost_AreDoneOnce(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	v.Fault("PowerOffVM_Task", 1, vspheretest.LostAnswer)
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	require.False(t, v.On(vm0))
	v.Fault("RemoveSnapshot_Task", 1, vspheretest.LostAnswer)
	require.NoError(t, p.Delete(bounded(t), node(vm0), "op-1"))
	require.Empty(t, v.Snapshots(vm0))
	v.Fault("PowerOnVM_Task", 1, vspheretest.LostAnswer)
	require.NoError(t, p.Start(bounded(t), node(vm0)))
	require.True(t, v.On(vm0))
	v.Fault("ShutdownGuest", 1, vspheretest.LostAnswer)
	require.NoError(t, p.Stop(bounded(t), node(vm0), false))
	require.Eventually(t, func() bool { return !v.On(vm0) }, limit, 10*time.Millisecond)
}

func TestCheckRollback_WhatIsInTheWay_IsNamedAllAtOnceAndNothingIsChanged(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	for _, another := range []bool{false, true} {
		problems, err := p.CheckRollback(bounded(t), node(vm0), "op-1", another)
		require.NoError(t, err)
		require.Empty(t, problems)
	}
	v.Accessible(vm0, false)
	v.Deny("VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RevertToSnapshot")
	v.Update(v.Machine(vm0), types.PropertyChange{Name: "config.template", Val: true},
		types.PropertyChange{Name: "runtime.connectionState", Val: types.VirtualMachineConnectionStateDisconnected},
		types.PropertyChange{Name: "runtime.question", Val: types.VirtualMachineQuestionInfo{Id: "1", Text: "Moved\nor copied?"}})
	before := v.Changes()
	problems, err := p.CheckRollback(bounded(t), node(vm0), "op-1", true)
	require.NoError(t, err)
	var got []string
	for _, problem := range problems {
		require.Equal(t, "node-of-"+vm0, problem.Node)
		require.NotContains(t, problem.Text, "\n")
		got = append(got, problem.Text)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"is disconnected", "Moved", "is a template now", vm0 + "-Snapshot1.vmsn of snapshot op-1 cannot be read", "disk1.vmdk of snapshot op-1", "lacks the privileges VirtualMachine.State.RevertToSnapshot on"} {
		require.Contains(t, all, want)
	}
	require.NotContains(t, all, ".vmx ", "files that are not the snapshot's are not looked at")
	require.Equal(t, before, v.Changes(), "it only reads")

	problems, err = p.CheckRollback(bounded(t), node(vm0), "op-2", true)
	require.NoError(t, err)
	require.Empty(t, problems, "one that is not there is for Find to say")
}

func TestRollback_FilesAreGone_IsNamedAndNothingIsChanged(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	v.Write(vm0, "at the moment")
	take(t, p, node(vm0), "op-1")
	v.Write(vm0, "later")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	v.Accessible(vm0, false)
	require.ErrorContains(t, p.Rollback(bounded(t), node(vm0), "op-1"), "cannot be read")
	require.Empty(t, v.Calls("RevertToSnapshot_Task"))
	require.Equal(t, "later", v.Content(vm0))
	v.Accessible(vm0, true)
	require.NoError(t, p.Rollback(bounded(t), node(vm0), "op-1"))
	require.Equal(t, "at the moment", v.Content(vm0))
}

func TestStop_ByWhatTheGuestHas_AsksOrSaysThatNobodyHears(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	v.Tools(vm0, false)
	require.ErrorContains(t, p.Stop(bounded(t), node(vm0), false), "vmware tools do not run")
	require.Empty(t, v.Calls("ShutdownGuest"))
	power, err := p.Power(bounded(t), node(vm0))
	require.NoError(t, err)
	require.Equal(t, hypervisor.On, power)

	v.Tools(vm0, true)
	require.NoError(t, p.Stop(bounded(t), node(vm0), false))
	require.Eventually(t, func() bool {
		power, err := p.Power(bounded(t), node(vm0))
		return err == nil && power == hypervisor.Off
	}, limit, 10*time.Millisecond)
	require.Empty(t, v.Calls("PowerOffVM_Task"), "its power was not taken away")
	for _, hard := range []bool{false, true} {
		require.NoError(t, p.Stop(bounded(t), node(vm0), hard))
	}
	for range 2 {
		require.NoError(t, p.Start(bounded(t), node(vm0)))
		power, err = p.Power(bounded(t), node(vm0))
		require.NoError(t, err)
		require.Equal(t, hypervisor.On, power)
	}
}

func TestSession_Ended_LogsInAgain(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	s := prepare(t, p, node(vm0), "op-1")
	v.EndSessions()
	snapshot, err := s.Take(bounded(t))
	require.NoError(t, err)
	v.EndSessions()
	found, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, snapshot.ID, found.ID)
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0))
	require.Len(t, v.Calls("Login"), 3)
}

func TestSession_EndedDuringATask_TheTaskIsStillWaitedFor(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	release := v.Hold()
	s, ctx := prepare(t, p, node(vm0), "op-1"), bounded(t)
	wait := inBackground(func() error { _, err := s.Take(ctx); return err })
	v.Await("WaitForUpdatesEx", 1)
	v.EndSessions()
	release()
	require.NoError(t, wait())
	require.Equal(t, []string{"op-1"}, v.Snapshots(vm0))
}

func TestRead_AnswersLost_AreAskedForAgain(t *testing.T) {
	v := vspheretest.Start(t, 1)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	v.Fault("RetrievePropertiesEx", 2, vspheretest.LostAnswer)
	v.Fault("RetrieveProperties", 2, vspheretest.Unavailable)
	_, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
}

func TestTake_AllPrepared_OpensNoConnection(t *testing.T) {
	for name, with := range map[string]struct {
		machines int
		answer   vspheretest.Answer
	}{"40 VMs": {20, vspheretest.Heard}, "answers whose end comes later": {2, vspheretest.LateEnd}} {
		t.Run(name, func(t *testing.T) {
			v := vspheretest.Start(t, with.machines)
			p := open(t, v)
			v.Fault("CurrentTime", 1<<20, with.answer)
			var shots []hypervisor.Shot
			for _, name := range v.VMs() {
				shots = append(shots, prepare(t, p, node(name), "op-1"))
			}
			require.Len(t, shots, 2*with.machines)
			warm := map[string]bool{}
			for _, call := range v.Calls("CurrentTime") {
				warm[call.From] = true
			}
			require.GreaterOrEqual(t, len(warm), len(shots))
			errs, ctx := make(chan error, len(shots)), bounded(t)
			for _, s := range shots {
				go func() {
					_, err := s.Take(ctx)
					errs <- err
				}()
			}
			for range shots {
				require.NoError(t, <-errs)
			}
			for _, call := range v.Calls("CreateSnapshot_Task") {
				require.True(t, warm[call.From], "%s was not open before, or had another request", call.From)
				delete(warm, call.From)
			}
		})
	}
}

func TestCheck_AllIsWell_FindsNothing(t *testing.T) {
	v := vspheretest.Start(t, 1)
	problems, err := open(t, v).Check(bounded(t), []hypervisor.VM{node(vm0), {Node: "other", ID: "/DC0/vm/DC0_C0_RP0_VM0"}})
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestCheck_EachTrouble_IsNamedAllAtOnce(t *testing.T) {
	v := vspheretest.Start(t, 8)
	name := func(i int) string { return "DC0_H0_VM" + string(rune('0'+i)) }
	v.DiskMode(name(0), types.VirtualDiskModeIndependent_persistent)
	v.Disk(name(1), func(d *types.VirtualDisk) {
		d.Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			VirtualDeviceFileBackingInfo: d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).VirtualDeviceFileBackingInfo,
			CompatibilityMode:            string(types.VirtualDiskCompatibilityModePhysicalMode),
		}
	})
	v.Tools(name(2), false)
	v.Update(v.Machine(name(3)), types.PropertyChange{Name: "config.template", Val: true})
	v.Rename(name(4), name(5))
	defer v.Busy(name(6))()
	v.Update(v.Machine(name(7)), types.PropertyChange{Name: "runtime.connectionState", Val: types.VirtualMachineConnectionStateDisconnected})
	v.Update(v.Machine("DC0_C0_RP0_VM0"), types.PropertyChange{Name: "disabledMethod", Val: []string{"CreateSnapshot_Task"}})
	v.Update(v.Machine("DC0_C0_RP0_VM2"), types.PropertyChange{Name: "runtime.powerState", Val: types.VirtualMachinePowerStateSuspended})
	passing := v.Machine("DC0_C0_RP0_VM3")
	v.With(passing, func() {
		for _, device := range passing.Config.Hardware.Device {
			if bus, ok := device.(types.BaseVirtualSCSIController); ok {
				bus.GetVirtualSCSIController().SharedBus = types.VirtualSCSISharingPhysicalSharing
			}
		}
		passing.Config.Hardware.Device = append(passing.Config.Hardware.Device, &types.VirtualPCIPassthrough{VirtualDevice: types.VirtualDevice{Key: 13000, Backing: &types.VirtualPCIPassthroughDeviceBackingInfo{Id: "0000:03:00.0"}}})
	})

	v.Disk("DC0_C0_RP0_VM4", func(d *types.VirtualDisk) {
		d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Sharing = string(types.VirtualDiskSharingSharingMultiWriter)
	})
	for name, below := range map[string]int{"DC0_C0_RP0_VM5": 31, "DC0_C0_RP0_VM7": 30} {
		v.Disk(name, func(d *types.VirtualDisk) {
			for b := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo); below > 0; below-- {
				b.Parent = &types.VirtualDiskFlatVer2BackingInfo{}
				b = b.Parent
			}
		})
	}
	v.Update(v.Machine("DC0_C0_RP0_VM6"), types.PropertyChange{Name: "capability.snapshotOperationsSupported", Val: false})

	p := open(t, v, func(c *Config) { c.Quiesce = true })
	vms := []hypervisor.VM{
		node("DC0_C0_RP0_VM4"), node("DC0_C0_RP0_VM5"), node("DC0_C0_RP0_VM6"), node("DC0_C0_RP0_VM7"),
		node(name(0)), node(name(1)), node(name(2)), node(name(3)), node(name(5)), node(name(6)), node(name(7)), node("DC0_C0_RP0_VM0"), node("DC0_C0_RP0_VM1"), node("DC0_C0_RP0_VM2"),
		node("DC0_C0_RP0_VM3"), node("nowhere"),
		{Node: "twice", ID: "/DC0/vm/DC0_C0_RP0_VM1"},
	}
	problems, err := p.Check(bounded(t), vms)
	require.NoError(t, err)
	want := map[string]string{
		"node-of-" + name(0): "independent-persistent", "node-of-" + name(1): "raw device in physical mode", "node-of-" + name(2): "vmware tools do not run",
		"node-of-" + name(3): "template", "node-of-" + name(5): "2 VMs are called", "node-of-" + name(6): "createSnapshotEx is under way", "node-of-" + name(7): "disconnected",
		"node-of-DC0_C0_RP0_VM0": "disabled", "node-of-DC0_C0_RP0_VM2": "is suspended", "node-of-DC0_C0_RP0_VM3": "is a PCI device of the host", "node-of-nowhere": "is not there",
		"node-of-DC0_C0_RP0_VM4": "shared by several writers", "node-of-DC0_C0_RP0_VM5": "has 32 files one upon the other", "node-of-DC0_C0_RP0_VM6": "supports no snapshots",
		"twice": "also that of node-of-DC0_C0_RP0_VM1",
	}
	got := map[string]string{}
	for _, problem := range problems {
		got[problem.Node] += problem.Text
		require.NotContains(t, problem.Text, "\n")
	}
	require.Len(t, got, len(want), "%v", problems)
	for n, text := range want {
		require.Contains(t, got[n], text, "of %s", n)
	}
	require.Contains(t, got["node-of-DC0_C0_RP0_VM3"], "shares its bus")
}

func TestCheck_NoSpace_NamesTheDatastore(t *testing.T) {
	v := vspheretest.Start(t, 1)
	defer v.Full()()
	problems, err := open(t, v, func(c *Config) { c.FreeShare = 0.5 }).Check(bounded(t), []hypervisor.VM{node(vm0)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "datastore LocalDS_0 of node-of-"+vm0+" has 0 MiB free")
}

func TestCheck_PrivilegesThatLack_AreNamed(t *testing.T) {
	v := vspheretest.Start(t, 1)
	v.Deny("VirtualMachine.State.RemoveSnapshot", "VirtualMachine.Interact.PowerOff")
	problems, err := open(t, v).Check(bounded(t), []hypervisor.VM{node(vm0)})
	require.NoError(t, err)
	require.Equal(t, []hypervisor.Problem{{
		Node: "node-of-" + vm0,
		Text: vspheretest.User + " lacks the privileges VirtualMachine.State.RemoveSnapshot, VirtualMachine.Interact.PowerOff on VM " + vm0,
	}}, problems)

	v.Deny("Datastore.AllocateSpace")
	want := []hypervisor.Problem{{Text: vspheretest.User + " lacks the privileges Datastore.AllocateSpace on datastore LocalDS_0 of node-of-" + vm0}}
	for range 2 {
		problems, err = open(t, v).Check(bounded(t), []hypervisor.VM{node(vm0)})
		require.NoError(t, err)
		require.Equal(t, want, problems)
		// The VM's own files stay there, and those of a snapshot come to them.
		v.Disk(vm0, func(d *types.VirtualDisk) {
			file := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			file.Datastore, file.FileName = nil, "[elsewhere] disk.vmdk"
		})
	}
}

func TestCheck_WhoIsNotLetIn_IsToldWithoutThePassword(t *testing.T) {
	v := vspheretest.Start(t, 1)
	problems, err := open(t, v, func(c *Config) { c.Password = "falsches" }).Check(bounded(t), []hypervisor.VM{node(vm0)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "refuses the login")
	require.NotContains(t, problems[0].Text, "falsches")

	_, err = open(t, v, func(c *Config) { c.CA = nil }).Check(bounded(t), nil)
	require.ErrorContains(t, err, "certificate signed by unknown authority: name the file with the certificate of its authority in hypervisor.vsphere.ca_file")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	_, err = open(t, v, func(c *Config) { c.URL = "https://" + listener.Addr().String() }).Check(bounded(t), nil)
	require.ErrorContains(t, err, "does not answer")
}

func TestOpen_BadConfig_NamesTheField(t *testing.T) {
	for _, row := range []struct {
		cfg  Config
		want string
	}{
		{Config{URL: "ftp://x", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://u:p@x", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://x/ui", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://x//", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://x?", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://:443", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://x", User: "u"}, "password"},
		{Config{URL: "https://x", User: "u", Password: "p", CA: []byte("x")}, "CA"},
	} {
		_, err := Open(row.cfg)
		require.ErrorContains(t, err, row.want)
	}
}

func TestOpen_EachFormOfTheAddress_IsOne(t *testing.T) {
	v := vspheretest.Start(t, 1)
	for _, end := range []string{"", "/", "/sdk", "/sdk/"} {
		p := open(t, v, func(c *Config) { c.URL += end })
		require.Equal(t, v.URL()+"/sdk", p.address.String())
		_, err := p.Power(bounded(t), node(vm0))
		require.NoError(t, err)
	}
}

func TestFind_AVMThatWasMadeAnew_IsLookedUpAgain(t *testing.T) {
	v := vspheretest.Start(t, 2)
	p := open(t, v)
	take(t, p, node(vm0), "op-1")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	destroyed, err := object.NewVirtualMachine(v.Outside(), v.Machine(vm0).Reference()).Destroy(bounded(t))
	require.NoError(t, err)
	require.NoError(t, destroyed.Wait(bounded(t)))
	_, _, err = p.Find(bounded(t), node(vm0), "op-1")
	var notFound *hypervisor.NotFoundError
	require.ErrorAs(t, err, &notFound)
	v.Rename("DC0_H0_VM1", vm0)
	_, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
}
