package vsphere

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/webclient"
)

// ofRollback are the properties of a VM that hindrances looks at.
var ofRollback = []string{"runtime", "config.template", "layoutEx"}

const notOff = verdict("the VM is not switched off: stop it first")

// Rollback is hypervisor.Provider's. The VM's configuration goes back too: a disk that was added since leaves the VM, and its files stay.
func (p *Provider) Rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	what := "go back to snapshot " + name
	_, machine, props, err := p.read(ctx, vm, ofRollback...)
	if err == nil && power(props.Runtime.PowerState) != hypervisor.Off {
		err = notOff
	}
	var list []hypervisor.Snapshot
	if err == nil {
		list, err = p.named(ctx, vm, name)
	}
	if err == nil && len(list) == 0 {
		err = &hypervisor.NotFoundError{Node: vm.Node, What: "snapshot " + name}
	}
	if err == nil {
		if found := hindrances(vm, props, list[0]); len(found) > 0 {
			err = verdict(found[0])
		}
	}
	if err == nil {
		leaveOff := true
		err = p.run(ctx, vm, p.cfg.TaskTimeout, func(client *vim25.Client) (types.ManagedObjectReference, error) {
			// vSphere reverts a VM that runs, too, and one that was waited for may have been switched on meanwhile.
			var now mo.VirtualMachine
			if err := machine.Properties(ctx, machine.Reference(), []string{"runtime.powerState"}, &now); err != nil {
				return types.ManagedObjectReference{}, err
			}
			if power(now.Runtime.PowerState) != hypervisor.Off {
				return types.ManagedObjectReference{}, notOff
			}
			res, err := methods.RevertToSnapshot_Task(ctx, client, &types.RevertToSnapshot_Task{
				This: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: list[0].ID}, SuppressPowerOn: &leaveOff,
			})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		})
	}
	if err != nil {
		return p.lost(vm, what, err)
	}
	return nil
}

// CheckRollback is hypervisor.RollbackChecker's. One more snapshot is in the way of none.
func (p *Provider) CheckRollback(ctx context.Context, vm hypervisor.VM, name string, _ bool) ([]hypervisor.Problem, error) {
	what := "look whether it can go back to snapshot " + name
	_, machine, props, err := p.read(ctx, vm, ofRollback...)
	if err != nil {
		return nil, p.fail(vm, what, err)
	}
	list, err := p.named(ctx, vm, name)
	if err != nil {
		return nil, p.fail(vm, what, err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	found := hindrances(vm, props, list[0])
	if text := p.lacks(ctx, machine.Reference(), "VM "+vm.ID, rollbackPrivileges); text != "" {
		found = append(found, text)
	}
	var problems []hypervisor.Problem
	for _, text := range found {
		problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: webclient.Clean(text)})
	}
	return problems, nil
}

// hindrances are all reasons, one line each, for which a VM cannot go back to a snapshot that is there. Its power is not among them.
func hindrances(vm hypervisor.VM, props mo.VirtualMachine, snapshot hypervisor.Snapshot) []string {
	var found []string
	if state := props.Runtime.ConnectionState; state != types.VirtualMachineConnectionStateConnected {
		found = append(found, fmt.Sprintf("VM %s is %s: its host does not answer for it", vm.ID, state))
	}
	if q := props.Runtime.Question; q != nil {
		found = append(found, fmt.Sprintf("VM %s waits for an answer: %s", vm.ID, q.Text))
	}
	if props.Config != nil && props.Config.Template {
		found = append(found, fmt.Sprintf("%s is a template now: convert it to a VM first", vm.ID))
	}
	if props.LayoutEx == nil {
		return found
	}
	for _, s := range props.LayoutEx.Snapshot {
		if s.Key.Value != snapshot.ID {
			continue
		}
		keys := map[int32]bool{s.DataKey: true}
		for _, disk := range s.Disk {
			for _, link := range disk.Chain {
				for _, key := range link.FileKey {
					keys[key] = true
				}
			}
		}
		for _, file := range props.LayoutEx.File {
			if keys[file.Key] && file.Accessible != nil && !*file.Accessible {
				found = append(found, fmt.Sprintf("the file %s of snapshot %s cannot be read: see whether its datastore is there, and bring the file back", file.Name, snapshot.Name))
			}
		}
	}
	return found
}
