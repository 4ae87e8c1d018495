package ec2

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

func TestConformance_OnTheDouble_KeepsAllPromises(t *testing.T) {
	c := start(t)
	missing := hypervisor.VM{Node: "gone", ID: "i-0fffffffffffffff0"}
	var vms []hypervisor.VM
	for _, node := range []string{"n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"} {
		vms = append(vms, hypervisor.VM{Node: node, ID: c.Instance("m5.large", "/dev/sda1", "/dev/sdb")})
	}
	once := func(f hypervisortest.RequestFault) hypervisortest.Fault {
		return func(*testing.T, hypervisor.VM) func() {
			c.Fault(f)
			return c.ClearFaults
		}
	}
	pending := func(n int) hypervisortest.Fault {
		return func(t *testing.T, vm hypervisor.VM) func() {
			ids := c.Pend(vm.ID, n)
			return func() { c.Drop(ids...) }
		}
	}
	hypervisortest.Run(t, hypervisortest.Rig{
		New: func(t *testing.T) hypervisor.Provider {
			p, err := Open(configOf(c))
			require.NoError(t, err)
			return p
		},
		VMs: vms, Wait: limit,
		// Only an instance that was started writes.
		Write: func(_ *testing.T, vm hypervisor.VM, text string) { c.Started(vm.ID); c.Write(vm.ID, "/dev/sdb", text) },
		Read:  func(_ *testing.T, vm hypervisor.VM) string { return c.Content(vm.ID, "/dev/sdb") },
		Changes: func(*testing.T) int {
			n := 0
			for _, call := range c.Calls("") {
				if call.Form.Get("DryRun") != "true" && slices.Contains([]string{"CreateSnapshots", "DeleteSnapshot", "CreateVolume", "DeleteVolume", "CreateTags", "AttachVolume", "DetachVolume", "StopInstances",
					"StartInstances", "ModifyInstanceAttribute"}, call.Action) {
					n++
				}
			}
			return n
		},
		Missing: &missing,
		Full:    pending(5), // the limit of a volume
		Busy:    pending(1),
		Away: func(*testing.T, hypervisor.VM) func() {
			c.Fault(hypervisortest.RequestFault{Call: "*", Times: 1 << 20, Kind: hypervisortest.Unheard})
			return c.ClearFaults
		},
		LostAnswer: once(hypervisortest.RequestFault{Call: "CreateSnapshots", Times: 1, Kind: hypervisortest.Lose}),
		Slow: func(*testing.T, hypervisor.VM) func() {
			c.SetCopying(-1)
			return func() { c.SetCopying(0); c.Complete(false) }
		},
	})
}
