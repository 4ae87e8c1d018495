package vsphere

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
	"github.com/katoflow/katoflow/internal/hypervisor/vsphere/vspheretest"
)

func TestConformance_OnTheSimulator_KeepsAllPromises(t *testing.T) {
	v := vspheretest.Start(t, 9)
	missing, ambiguous := hypervisor.VM{Node: "gone", ID: "nowhere"}, hypervisor.VM{Node: "two", ID: "DC0_C0_RP0_VM0"}
	v.Rename("DC0_C0_RP0_VM1", "DC0_C0_RP0_VM0")
	var vms []hypervisor.VM
	for i := range 8 {
		vms = append(vms, node("DC0_H0_VM"+string(rune('0'+i))))
	}
	hypervisortest.Run(t, hypervisortest.Rig{
		New: func(t *testing.T) hypervisor.Provider {
			p, err := Open(configOf(v))
			require.NoError(t, err)
			return p
		},
		VMs: vms, Wait: limit, Missing: &missing, Ambiguous: &ambiguous,
		Write:   func(_ *testing.T, vm hypervisor.VM, text string) { v.Write(vm.ID, text) },
		Read:    func(_ *testing.T, vm hypervisor.VM) string { return v.Content(vm.ID) },
		Changes: func(*testing.T) int { return v.Changes() },
		Full:    func(*testing.T, hypervisor.VM) func() { return v.Full() },
		Busy:    func(_ *testing.T, vm hypervisor.VM) func() { return v.Busy(vm.ID) },
		Away: func(*testing.T, hypervisor.VM) func() {
			v.Fault("*", 1<<20, vspheretest.Unheard)
			return v.ClearFaults
		},
		LostAnswer: func(*testing.T, hypervisor.VM) func() {
			v.Fault("CreateSnapshot_Task", 1, vspheretest.LostAnswer)
			return v.ClearFaults
		},
	})
}
