package vsphere

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/webclient"
)

// Privileges of what a set of snapshots needs, from its taking to its rollback, and of a rollback alone.
var (
	privileges = []string{
		"VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot", "VirtualMachine.State.RevertToSnapshot",
		"VirtualMachine.Interact.PowerOn", "VirtualMachine.Interact.PowerOff",
	}
	rollbackPrivileges = privileges[2:]
	// datastorePrivileges are needed on the datastores, because a snapshot takes space there.
	datastorePrivileges = []string{"Datastore.AllocateSpace"}
)

// need is the space that VMs need on datastores; all on which a snapshot makes files are in it.
type need map[types.ManagedObjectReference]int64

// Check is hypervisor.Provider's.
func (p *Provider) Check(ctx context.Context, vms []hypervisor.VM) ([]hypervisor.Problem, error) {
	began := time.Now()
	client, err := p.connect(ctx)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return []hypervisor.Problem{{Text: fmt.Sprintf("vsphere %s refuses the login of %s: check user and password", p.address.Host, webclient.Clean(p.cfg.User))}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("vsphere %s does not answer: %w", p.address.Host, webclient.Hide(err, p.text(err)))
	}
	problems := make([][]hypervisor.Problem, len(vms))
	needs := make([]need, len(vms))
	refs := make([]types.ManagedObjectReference, len(vms))
	var group errgroup.Group
	group.SetLimit(16)
	for i, vm := range vms {
		group.Go(func() error {
			var err error
			refs[i], problems[i], needs[i], err = p.checkVM(ctx, vm, began)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, vm := range vms {
		first := slices.Index(refs, refs[i])
		if first < i && refs[i].Value != "" {
			problems[i] = append(problems[i], hypervisor.Problem{Node: vm.Node, Text: "its VM " + vm.ID + " is also that of " + vms[first].Node + ": name another"})
		}
	}
	all := slices.Concat(problems...)
	total, nodes := need{}, map[types.ManagedObjectReference][]string{}
	for i, n := range needs {
		for ref, bytes := range n {
			total[ref] += bytes
			nodes[ref] = append(nodes[ref], vms[i].Node)
		}
	}
	for ref, bytes := range total {
		var ds mo.Datastore
		if err := p.reading(ctx, func() error { return property.DefaultCollector(client).RetrieveOne(ctx, ref, []string{"summary"}, &ds) }); err != nil {
			return nil, fmt.Errorf("vsphere %s: read datastore %s: %w", p.address.Host, ref.Value, webclient.Hide(err, p.text(err)))
		}
		switch s := ds.Summary; {
		case !s.Accessible:
			all = append(all, hypervisor.Problem{Text: fmt.Sprintf("datastore %s of %s is not accessible", webclient.Clean(s.Name), strings.Join(nodes[ref], ", "))})
		case s.FreeSpace < bytes:
			all = append(all, hypervisor.Problem{Text: fmt.Sprintf("datastore %s of %s has %d MiB free, %d MiB are wanted for what is written after the snapshots: free some",
				webclient.Clean(s.Name), strings.Join(nodes[ref], ", "), s.FreeSpace>>20, bytes>>20)})
		}
		if text := p.lacks(ctx, ref, "datastore "+ds.Summary.Name+" of "+strings.Join(nodes[ref], ", "), datastorePrivileges); text != "" {
			all = append(all, hypervisor.Problem{Text: webclient.Clean(text)})
		}
	}
	return all, nil
}

// checkVM looks for what stands in the way of a snapshot of one VM, which is looked up in a listing that began at since or later. Its reference is empty where it is not found.
func (p *Provider) checkVM(ctx context.Context, vm hypervisor.VM, since time.Time) (types.ManagedObjectReference, []hypervisor.Problem, need, error) {
	var ref types.ManagedObjectReference
	var problems []hypervisor.Problem
	problem := func(format string, args ...any) {
		problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: webclient.Clean(fmt.Sprintf(format, args...))})
	}
	client, machine, err := p.resolve(ctx, vm, since) // not from memory: a second VM of that name may have come
	var notFound *hypervisor.NotFoundError
	var ambiguous *ambiguousError
	switch {
	case errors.As(err, &notFound):
		problem("VM %s is not there, or %s may not see it: check the inventory path or name", vm.ID, p.cfg.User)
		return ref, problems, nil, nil
	case errors.As(err, &ambiguous):
		problem("%v", ambiguous)
		return ref, problems, nil, nil
	case err != nil:
		return ref, nil, nil, p.fail(vm, "look for it", err)
	}
	ref = machine.Reference()
	var props mo.VirtualMachine
	err = p.reading(ctx, func() error {
		props = mo.VirtualMachine{}
		return machine.Properties(ctx, ref, []string{"runtime", "config", "recentTask", "capability", "disabledMethod", "datastore", "guest.toolsRunningStatus"}, &props)
	})
	if err != nil {
		return ref, nil, nil, p.fail(vm, "read it", err)
	}
	if props.Runtime.ConnectionState != types.VirtualMachineConnectionStateConnected {
		problem("VM %s is %s: its host does not answer for it", vm.ID, props.Runtime.ConnectionState)
	}
	if props.Config == nil {
		problem("the configuration of VM %s cannot be read: check the rights of %s", vm.ID, p.cfg.User)
		return ref, problems, nil, nil
	}
	if props.Runtime.PowerState == types.VirtualMachinePowerStateSuspended {
		problem("VM %s is suspended, and vsphere would take its memory too: switch it on or off first", vm.ID)
	}
	if props.Config.Template {
		problem("%s is a template, not a VM", vm.ID)
	}
	if props.Runtime.ConsolidationNeeded {
		problem("the disks of VM %s need consolidation: consolidate them first", vm.ID)
	}
	if props.Runtime.Question != nil {
		problem("VM %s waits for an answer: %s", vm.ID, props.Runtime.Question.Text)
	}
	for _, method := range props.DisabledMethod {
		if method == "CreateSnapshot_Task" || method == "CreateSnapshotEx_Task" {
			problem("snapshots of VM %s are disabled at the moment, as backup software does while it works", vm.ID)
			break
		}
	}
	if p.cfg.Quiesce && power(props.Runtime.PowerState) == hypervisor.On && !toolsRun(props) {
		problem("vmware tools do not run in VM %s, so its file systems would not be quiesced: start open-vm-tools or ask for no quiescing", vm.ID)
	}
	if !props.Capability.SnapshotOperationsSupported {
		problem("VM %s supports no snapshots, says vsphere: look what it has that does not go with them, such as fault tolerance", vm.ID)
	}
	infos, err := p.underWay(ctx, client, props.RecentTask)
	if err != nil {
		return ref, nil, nil, p.fail(vm, "read its tasks", err)
	}
	for _, info := range infos {
		problem("the task %s is under way on VM %s: wait for its end", info.DescriptionId, vm.ID)
	}
	if text := p.lacks(ctx, ref, "VM "+vm.ID, privileges); text != "" {
		problem("%s", text)
	}

	devices := object.VirtualDeviceList(props.Config.Hardware.Device)
	for _, device := range devices {
		if scsi, ok := device.(types.BaseVirtualSCSIController); ok && scsi.GetVirtualSCSIController().SharedBus != types.VirtualSCSISharingNoSharing &&
			scsi.GetVirtualSCSIController().SharedBus != "" {
			problem("%s of VM %s shares its bus, and vsphere takes no snapshot of such a VM", devices.Name(device), vm.ID)
		}
		switch device.GetVirtualDevice().Backing.(type) {
		case *types.VirtualPCIPassthroughDeviceBackingInfo, *types.VirtualPCIPassthroughDynamicBackingInfo:
			problem("%s of VM %s is a PCI device of the host, and vsphere takes no snapshot of such a VM", devices.Name(device), vm.ID)
		}
	}
	wants, names := need{}, map[string]bool{}
	for _, device := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		disk := device.(*types.VirtualDisk)
		name := devices.Name(device)
		if info, ok := device.GetVirtualDevice().DeviceInfo.(*types.Description); ok {
			name = info.Label
		}
		mode, sharing, raw := diskMode(disk)
		switch {
		case raw:
			problem("%s of VM %s is a raw device in physical mode, which is in no snapshot", name, vm.ID)
		case strings.HasPrefix(mode, "independent") || mode == string(types.VirtualDiskModeNonpersistent):
			problem("%s of VM %s is %s, so it is in no snapshot: make it persistent", name, vm.ID, strings.ReplaceAll(mode, "_", "-"))
		}
		if sharing == string(types.VirtualDiskSharingSharingMultiWriter) {
			problem("%s of VM %s is shared by several writers, and vsphere takes no snapshot of such a VM", name, vm.ID)
		}
		if below := parents(disk.Backing); below >= chain {
			problem("%s of VM %s has %d files one upon the other, the most that vsphere allows: delete some snapshots", name, vm.ID, below+1)
		}
		if backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok && backing.GetVirtualDeviceFileBackingInfo().Datastore != nil {
			file := backing.GetVirtualDeviceFileBackingInfo()
			wants[*file.Datastore] += int64(float64(max(disk.CapacityInBytes, disk.CapacityInKB*1024)) * p.cfg.FreeShare)
			names[datastoreOf(file.FileName)] = true
		}
	}
	// A snapshot's own files are where the VM's are.
	homes := map[string]bool{datastoreOf(props.Config.Files.VmPathName): true, datastoreOf(props.Config.Files.SnapshotDirectory): true}
	maps.DeleteFunc(homes, func(name string, _ bool) bool { return name == "" || names[name] })
	for _, ref := range props.Datastore {
		if _, is := wants[ref]; is || len(homes) == 0 {
			continue
		}
		var ds mo.Datastore
		err := p.reading(ctx, func() error { return property.DefaultCollector(client).RetrieveOne(ctx, ref, []string{"name"}, &ds) })
		if err != nil && !answered(err) { // one that may not be read, as that of an installation medium, is none of ours
			return ref, nil, nil, p.fail(vm, "read its datastores", err)
		}
		if homes[ds.Name] {
			wants[ref] = 0
		}
	}
	return ref, problems, wants, nil
}

// datastoreOf is the name of the datastore in a path such as "[name] directory/file".
func datastoreOf(path string) string {
	var p object.DatastorePath
	p.FromString(path)
	return p.Datastore
}

// diskMode returns a disk's mode, how it is shared, and whether it is a raw device in physical mode.
func diskMode(disk *types.VirtualDisk) (mode, sharing string, raw bool) {
	switch b := disk.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return b.DiskMode, b.Sharing, false
	case *types.VirtualDiskSeSparseBackingInfo:
		return b.DiskMode, "", false
	case *types.VirtualDiskSparseVer2BackingInfo:
		return b.DiskMode, "", false
	case *types.VirtualDiskFlatVer1BackingInfo:
		return b.DiskMode, "", false
	case *types.VirtualDiskSparseVer1BackingInfo:
		return b.DiskMode, "", false
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return b.DiskMode, b.Sharing, b.CompatibilityMode == string(types.VirtualDiskCompatibilityModePhysicalMode)
	case *types.VirtualDiskRawDiskVer2BackingInfo, *types.VirtualDiskPartitionedRawDiskVer2BackingInfo:
		return "", "", true
	}
	return "", "", false
}

// parents counts the files below the one that a disk writes to: of each snapshot, and what a linked clone shares with others.
func parents(backing types.BaseVirtualDeviceBackingInfo) int {
	n := 0
	for b := reflect.ValueOf(backing); b.Kind() == reflect.Pointer && !b.IsNil(); n++ {
		parent := b.Elem().FieldByName("Parent")
		if !parent.IsValid() || parent.IsNil() {
			break
		}
		b = parent
	}
	return n
}

// lacks says which of the privileges we have not on a VM or a datastore, "" for none. A server that cannot be asked, such as an old ESXi host, is believed to grant them.
func (p *Provider) lacks(ctx context.Context, entity types.ManagedObjectReference, what string, privileges []string) string {
	client, err := p.connect(ctx)
	if err != nil || client.ServiceContent.AuthorizationManager == nil {
		return ""
	}
	current, err := session.NewManager(client).UserSession(ctx)
	if err != nil || current == nil {
		return ""
	}
	granted, err := object.NewAuthorizationManager(client).HasPrivilegeOnEntity(ctx, entity, current.Key, privileges)
	if err != nil || len(granted) != len(privileges) {
		return ""
	}
	var missing []string
	for i, privilege := range privileges {
		if !granted[i] {
			missing = append(missing, privilege)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("%s lacks the privileges %s on %s", p.cfg.User, strings.Join(missing, ", "), what)
}
