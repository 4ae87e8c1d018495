package vsphere

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vapi/vm/dataset"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
)

func dataSetInfo() *dataset.Info { return &dataset.Info{Name: "disk"} }

const vm0 = "DC0_H0_VM0"

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
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
	v := startVCenter(t, 1)
	p := v.open()
	s := prepare(t, p, node(vm0), "op-1")
	v.fault("CreateSnapshot_Task", 1, lostAnswer)
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
	require.Equal(t, []string{"op-1"}, v.names(vm0), "a second request would have made a second snapshot of that name")
}

func TestTake_Unheard_IsUnknownAndTakenByTheNextTry(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	s := prepare(t, p, node(vm0), "op-1")
	v.fault("CreateSnapshot_Task", 1, unheard)
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, err, &unknown)
	_, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
	_, err = s.Take(bounded(t))
	require.NoError(t, err)
	require.Equal(t, []string{"op-1"}, v.names(vm0))
}

func TestTake_SlowTask_ReturnsWhenItHasEnded(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	slowTasks(t, 400, "CreateSnapshotEx")
	s := prepare(t, p, node(vm0), "op-1")
	v.write(vm0, "before the request")
	done := make(chan error, 1)
	go func() {
		_, err := s.Take(bounded(t))
		done <- err
	}()
	v.await("CreateSnapshot_Task")
	require.Empty(t, v.names(vm0))
	require.NoError(t, <-done)
	require.Equal(t, []string{"op-1"}, v.names(vm0), "the moment has passed when Take returns")
}

func TestTake_TaskFails_IsAnErrorThatIsNotUnknown(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	s := prepare(t, p, node(vm0), "op-1")
	v.model.Service.AddFaultRule(&simulator.FaultInjectionRule{
		MethodName: "CreateSnapshot_Task", ObjectType: "*", ObjectName: "*", Probability: 1, MaxCount: 1, Enabled: true,
		FaultType: simulator.FaultTypeCustom, Fault: &types.TooManySnapshotLevels{}, Message: "too many levels",
	})
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.Error(t, err)
	require.False(t, errors.As(err, &unknown), "%v", err)
	require.Contains(t, err.Error(), "node-of-"+vm0)
	require.NotContains(t, err.Error(), "\n")
}

func TestTake_CancelledDuringTheTask_IsUnknown(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	slowTasks(t, 500, "CreateSnapshotEx")
	s := prepare(t, p, node(vm0), "op-1")
	ctx, cancel := context.WithCancel(bounded(t))
	done := make(chan error, 1)
	go func() {
		_, err := s.Take(ctx)
		done <- err
	}()
	v.await("WaitForUpdatesEx")
	cancel()
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, <-done, &unknown)
	// Find waits for the task: none would be wrong.
	_, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
}

func TestDelete_WhileTheTaskMakesIt_LeavesNone(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	slowTasks(t, 400, "CreateSnapshotEx")
	s := prepare(t, p, node(vm0), "op-1")
	v.fault("CreateSnapshot_Task", 1, lostAnswer)
	_, err := s.Take(bounded(t))
	require.Error(t, err)
	require.NoError(t, p.Delete(bounded(t), node(vm0), "op-1"))
	require.Empty(t, v.names(vm0))
	require.NoError(t, p.Delete(bounded(t), node(vm0), "op-1"))
}

func TestDelete_TwoOfOneName_BothAreGoneAndChildrenStay(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
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
	require.Equal(t, []string{"op-2"}, v.names(vm0))
}

func TestRollback_OfAVMThatIsOff_BringsItsDisksBackAndLeavesItOff(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	v.write(vm0, "at the moment")
	take(t, p, node(vm0), "op-1")
	v.write(vm0, "later")
	err := p.Rollback(bounded(t), node(vm0), "op-1")
	require.ErrorContains(t, err, "not switched off")
	require.Equal(t, "later", v.content(vm0))
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	var notFound *hypervisor.NotFoundError
	require.ErrorAs(t, p.Rollback(bounded(t), node(vm0), "op-9"), &notFound)
	for range 2 {
		require.NoError(t, p.Rollback(bounded(t), node(vm0), "op-1"))
		require.Equal(t, "at the moment", v.content(vm0))
		v.write(vm0, "after the first time")
	}
	power, err := p.Power(bounded(t), node(vm0))
	require.NoError(t, err)
	require.Equal(t, hypervisor.Off, power)
}

func TestRollback_AnotherTaskIsUnderWay_WaitsForIt(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	v.write(vm0, "at the moment")
	take(t, p, node(vm0), "op-1")
	v.write(vm0, "later")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	v.model.Service.AddFaultRule(&simulator.FaultInjectionRule{
		MethodName: "RevertToSnapshot_Task", ObjectType: "*", ObjectName: "*", Probability: 1, MaxCount: 1, Enabled: true, FaultType: simulator.FaultTypeCustom, Fault: &types.TaskInProgress{}, Message: "busy",
	})
	require.NoError(t, p.Rollback(bounded(t), node(vm0), "op-1"))
	require.Equal(t, "at the moment", v.content(vm0))
	require.Equal(t, 2, v.count("RevertToSnapshot_Task"))
}

func TestStop_ByWhatTheGuestHas_AsksOrSaysThatNobodyHears(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	v.update(v.machine(vm0), types.PropertyChange{Name: "guest.toolsRunningStatus", Val: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)})
	require.ErrorContains(t, p.Stop(bounded(t), node(vm0), false), "vmware tools do not run")
	require.Zero(t, v.count("ShutdownGuest"))
	power, err := p.Power(bounded(t), node(vm0))
	require.NoError(t, err)
	require.Equal(t, hypervisor.On, power)

	v.update(v.machine(vm0), types.PropertyChange{Name: "guest.toolsRunningStatus", Val: string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)})
	require.NoError(t, p.Stop(bounded(t), node(vm0), false))
	require.Eventually(t, func() bool {
		power, err := p.Power(bounded(t), node(vm0))
		return err == nil && power == hypervisor.Off
	}, 20*time.Second, 10*time.Millisecond)
	require.Zero(t, v.count("PowerOffVM_Task"), "its power was not taken away")
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
	v := startVCenter(t, 1)
	p := v.open()
	s := prepare(t, p, node(vm0), "op-1")
	v.endSessions()
	snapshot, err := s.Take(bounded(t))
	require.NoError(t, err)
	v.endSessions()
	found, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, snapshot.ID, found.ID)
	require.Equal(t, []string{"op-1"}, v.names(vm0))
	require.Equal(t, 3, v.count("Login"))
}

func TestSession_EndedDuringATask_TheTaskIsStillWaitedFor(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	slowTasks(t, 1500, "CreateSnapshotEx")
	s := prepare(t, p, node(vm0), "op-1")
	done := make(chan error, 1)
	go func() {
		_, err := s.Take(bounded(t))
		done <- err
	}()
	v.await("CreateFilter")
	v.endSessions()
	require.NoError(t, <-done)
	require.Equal(t, []string{"op-1"}, v.names(vm0))
}

func TestRead_AnswersLost_AreAskedForAgain(t *testing.T) {
	v := startVCenter(t, 1)
	p := v.open()
	take(t, p, node(vm0), "op-1")
	v.fault("RetrievePropertiesEx", 2, lostAnswer)
	v.fault("RetrieveProperties", 2, unavailable)
	_, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
}

func TestTake_AllPrepared_OpensNoConnection(t *testing.T) {
	v := startVCenter(t, 20)
	p := v.open()
	var shots []hypervisor.Shot
	for _, m := range v.model.Map().All("VirtualMachine") {
		shots = append(shots, prepare(t, p, node(m.(*simulator.VirtualMachine).Name), "op-1"))
	}
	require.GreaterOrEqual(t, len(shots), 40)
	warm := map[string]bool{}
	for _, address := range v.addresses("CurrentTime") {
		warm[address] = true
	}
	require.Len(t, warm, len(shots))
	errs := make(chan error)
	for _, s := range shots {
		go func() {
			_, err := s.Take(bounded(t))
			errs <- err
		}()
	}
	for range shots {
		require.NoError(t, <-errs)
	}
	for _, address := range v.addresses("CreateSnapshot_Task") {
		require.True(t, warm[address], "%s was not open before", address)
		delete(warm, address)
	}
	require.Empty(t, warm, "each request had the connection of its own")
}

func TestCheck_AllIsWell_FindsNothing(t *testing.T) {
	v := startVCenter(t, 1)
	problems, err := v.open().Check(bounded(t), []hypervisor.VM{node(vm0), {Node: "other", ID: "/DC0/vm/DC0_C0_RP0_VM0"}})
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestCheck_EachTrouble_IsNamedAllAtOnce(t *testing.T) {
	v := startVCenter(t, 8)
	slowTasks(t, 3000, "CreateSnapshotEx")
	disk := func(m *simulator.VirtualMachine, change func(*types.VirtualDisk)) {
		v.model.Service.Context.WithLock(m, func() {
			for _, d := range object.VirtualDeviceList(m.Config.Hardware.Device).SelectByType((*types.VirtualDisk)(nil)) {
				change(d.(*types.VirtualDisk))
			}
		})
	}
	name := func(i int) string { return "DC0_H0_VM" + string(rune('0'+i)) }
	disk(v.machine(name(0)), func(d *types.VirtualDisk) {
		d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode = string(types.VirtualDiskModeIndependent_persistent)
	})
	disk(v.machine(name(1)), func(d *types.VirtualDisk) {
		d.Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			VirtualDeviceFileBackingInfo: d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).VirtualDeviceFileBackingInfo,
			CompatibilityMode:            string(types.VirtualDiskCompatibilityModePhysicalMode),
		}
	})
	v.update(v.machine(name(2)), types.PropertyChange{Name: "guest.toolsRunningStatus", Val: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)})
	v.update(v.machine(name(3)), types.PropertyChange{Name: "config.template", Val: true})
	v.update(v.machine(name(4)), types.PropertyChange{Name: "name", Val: name(5)})
	_, err := object.NewVirtualMachine(v.outside().Client, v.machine(name(6)).Reference()).CreateSnapshot(bounded(t), "somebody's", "", false, false)
	require.NoError(t, err)
	v.update(v.machine(name(7)), types.PropertyChange{Name: "runtime.connectionState", Val: types.VirtualMachineConnectionStateDisconnected})
	v.update(v.machine("DC0_C0_RP0_VM0"), types.PropertyChange{Name: "disabledMethod", Val: []string{"CreateSnapshot_Task"}})

	p := v.open(func(c *Config) { c.Quiesce = true })
	vms := []hypervisor.VM{
		node(name(0)), node(name(1)), node(name(2)), node(name(3)), node(name(5)), node(name(6)), node(name(7)), node("DC0_C0_RP0_VM0"), node("DC0_C0_RP0_VM1"), node("nowhere"),
		{Node: "twice", ID: "/DC0/vm/DC0_C0_RP0_VM1"},
	}
	problems, err := p.Check(bounded(t), vms)
	require.NoError(t, err)
	want := map[string]string{
		"node-of-" + name(0): "independent-persistent", "node-of-" + name(1): "raw device in physical mode", "node-of-" + name(2): "vmware tools do not run",
		"node-of-" + name(3): "template", "node-of-" + name(5): "2 VMs are called", "node-of-" + name(6): "createSnapshotEx is under way", "node-of-" + name(7): "disconnected",
		"node-of-DC0_C0_RP0_VM0": "disabled", "node-of-nowhere": "is not there", "twice": "also that of node-of-DC0_C0_RP0_VM1",
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
}

func TestCheck_NoSpace_NamesTheDatastore(t *testing.T) {
	v := startVCenter(t, 1)
	ds := v.model.Map().Any("Datastore").(*simulator.Datastore)
	summary := ds.Summary
	summary.FreeSpace = 0
	v.update(ds, types.PropertyChange{Name: "summary", Val: summary})
	problems, err := v.open(func(c *Config) { c.FreeShare = 0.5 }).Check(bounded(t), []hypervisor.VM{node(vm0)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "datastore "+summary.Name+" of node-of-"+vm0+" has 0 MiB free")
}

func TestCheck_WhoIsNotLetIn_IsToldWithoutThePassword(t *testing.T) {
	v := startVCenter(t, 1)
	problems, err := v.open(func(c *Config) { c.Password = "falsches" }).Check(bounded(t), []hypervisor.VM{node(vm0)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "refuses the login")
	require.NotContains(t, problems[0].Text, "falsches")

	_, err = v.open(func(c *Config) { c.CA = nil }).Check(bounded(t), nil)
	require.ErrorContains(t, err, "certificate")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	_, err = v.open(func(c *Config) { c.URL = "https://" + listener.Addr().String() }).Check(bounded(t), nil)
	require.ErrorContains(t, err, "does not answer")
}

func TestOpen_BadConfig_NamesTheField(t *testing.T) {
	for _, row := range []struct {
		cfg  Config
		want string
	}{
		{Config{URL: "ftp://x", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://u:p@x", User: "u", Password: "p"}, "url"},
		{Config{URL: "https://x", User: "u"}, "password"},
		{Config{URL: "https://x", User: "u", Password: "p", CA: []byte("x")}, "CA"},
	} {
		_, err := Open(row.cfg)
		require.ErrorContains(t, err, row.want)
	}
}

func TestFind_AVMThatWasMadeAnew_IsLookedUpAgain(t *testing.T) {
	v := startVCenter(t, 2)
	p := v.open()
	take(t, p, node(vm0), "op-1")
	require.NoError(t, p.Stop(bounded(t), node(vm0), true))
	destroyed, err := object.NewVirtualMachine(v.outside().Client, v.machine(vm0).Reference()).Destroy(bounded(t))
	require.NoError(t, err)
	require.NoError(t, destroyed.Wait(bounded(t)))
	_, _, err = p.Find(bounded(t), node(vm0), "op-1")
	var notFound *hypervisor.NotFoundError
	require.ErrorAs(t, err, &notFound)
	v.update(v.machine("DC0_H0_VM1"), types.PropertyChange{Name: "name", Val: vm0})
	_, ok, err := p.Find(bounded(t), node(vm0), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
}
