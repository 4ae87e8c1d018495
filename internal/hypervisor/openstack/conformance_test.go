package openstack

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

func TestConformance_OnTheDouble_KeepsAllPromises(t *testing.T) {
	for what, fromImage := range map[string]bool{"servers of volumes": false, "servers of images": true} {
		t.Run(what, func(t *testing.T) {
			c := start(t)
			missing, ambiguous := hypervisor.VM{Node: "gone", ID: "nobody"}, hypervisor.VM{Node: "two", ID: "twin"}
			c.Server("twin", false, "/dev/vda")
			c.Server("twin", false, "/dev/vda")
			var vms []hypervisor.VM
			for _, node := range []string{"n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"} {
				vms = append(vms, hypervisor.VM{Node: node, ID: c.Server(node, fromImage, "/dev/vda", "/dev/vdb")})
			}
			disk := "/dev/vdb"
			if fromImage {
				disk = ""
			}
			rig := hypervisortest.Rig{
				New: func(t *testing.T) hypervisor.Provider {
					p, err := Open(configOf(c))
					require.NoError(t, err)
					return p
				},
				VMs: vms, Wait: limit, Missing: &missing, Ambiguous: &ambiguous,
				Write: func(_ *testing.T, vm hypervisor.VM, text string) { c.Write(vm.ID, disk, text) },
				Read:  func(_ *testing.T, vm hypervisor.VM) string { return c.Content(vm.ID, disk) },
				Changes: func(*testing.T) int {
					n := 0
					for _, call := range c.Calls("") {
						if slices.Contains([]string{"POST snapshots", "DELETE snapshots", "DELETE images", "createImage", "rebuild", "revert", "os-reset_status", "os-start", "os-stop"}, call.Name) {
							n++
						}
					}
					return n
				},
				Full: func(*testing.T, hypervisor.VM) func() {
					c.SetQuota(0)
					return func() { c.SetQuota(-1) }
				},
				Busy: func(_ *testing.T, vm hypervisor.VM) func() { return c.Begin(vm.ID, "/dev/vdb") },
				Away: func(*testing.T, hypervisor.VM) func() {
					c.Fault(hypervisortest.RequestFault{Call: "*", Times: 1 << 20, Kind: hypervisortest.Unheard})
					return c.ClearFaults
				},
				LostAnswer: func(*testing.T, hypervisor.VM) func() {
					c.Fault(hypervisortest.RequestFault{Call: "POST snapshots", Times: 1, Kind: hypervisortest.Lose})
					return c.ClearFaults
				},
			}
			if fromImage {
				// A snapshot of volumes alone is ready when its moment has passed.
				rig.Slow = func(*testing.T, hypervisor.VM) func() {
					c.SetSaving(-1)
					return func() { c.SetSaving(0); c.Saved() }
				}
			}
			hypervisortest.Run(t, rig)
		})
	}
}
