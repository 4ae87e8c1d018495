package vsphere

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

func TestConformance_OnTheSimulator_KeepsAllPromises(t *testing.T) {
	v := startVCenter(t, 9)
	missing, ambiguous := hypervisor.VM{Node: "gone", ID: "nowhere"}, hypervisor.VM{Node: "two", ID: "DC0_C0_RP0_VM0"}
	v.update(v.machine("DC0_C0_RP0_VM1"), types.PropertyChange{Name: "name", Val: "DC0_C0_RP0_VM0"})
	var vms []hypervisor.VM
	for i := range 8 {
		vms = append(vms, node("DC0_H0_VM"+string(rune('0'+i))))
	}
	hypervisortest.Run(t, hypervisortest.Rig{
		New: func(t *testing.T) hypervisor.Provider {
			p, err := Open(v.config())
			require.NoError(t, err)
			return p
		},
		VMs: vms, Missing: &missing, Ambiguous: &ambiguous,
		Write: func(_ *testing.T, vm hypervisor.VM, text string) { v.write(vm.ID, text) },
		Read:  func(_ *testing.T, vm hypervisor.VM) string { return v.content(vm.ID) },
		Changes: func(*testing.T) int {
			v.mu.Lock()
			defer v.mu.Unlock()
			n := 0
			for _, call := range v.calls {
				if strings.HasSuffix(call, "_Task") || slices.Contains([]string{"ShutdownGuest"}, call) {
					n++
				}
			}
			return n
		},
		Full: func(*testing.T, hypervisor.VM) func() {
			ds := v.model.Map().Any("Datastore").(*simulator.Datastore)
			before, full := ds.Summary, ds.Summary
			full.FreeSpace = 0
			v.update(ds, types.PropertyChange{Name: "summary", Val: full})
			return func() { v.update(ds, types.PropertyChange{Name: "summary", Val: before}) }
		},
		Busy: func(t *testing.T, vm hypervisor.VM) func() {
			before := simulator.TaskDelay
			simulator.TaskDelay = simulator.DelayConfig{MethodDelay: map[string]int{"LockHandoff": 0, "CreateSnapshotEx": 1500}}
			client := v.outside()
			machine := object.NewVirtualMachine(client.Client, v.machine(vm.ID).Reference())
			task, err := machine.CreateSnapshot(bounded(t), "somebody's", "", false, false)
			require.NoError(t, err)
			return func() {
				require.NoError(t, task.Wait(bounded(t)))
				simulator.TaskDelay = before
				removal, err := machine.RemoveSnapshot(bounded(t), "somebody's", false, nil)
				require.NoError(t, err)
				require.NoError(t, removal.Wait(bounded(t)))
				require.NoError(t, client.Logout(bounded(t)))
			}
		},
		Away: func(*testing.T, hypervisor.VM) func() {
			v.fault("*", 1<<20, unheard)
			return v.clearFaults
		},
		LostAnswer: func(*testing.T, hypervisor.VM) func() {
			v.fault("CreateSnapshot_Task", 1, lostAnswer)
			return v.clearFaults
		},
	})
}

func (v *vcenter) clearFaults() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = nil
}
