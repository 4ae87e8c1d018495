package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/webclient"
)

// disk is one volume of a rollback.
type disk struct {
	snapshot string
	attachment
	volume string // that takes its place
}

// Rollback is hypervisor.Provider's. A new volume of each snapshot takes the place of the one at its device; the old ones stay, tagged, until the snapshot is deleted.
//
// Every step asks first what is already done, so that one that was interrupted goes on: a volume that was made of the snapshot is used as long as the instance has not been
// started with it, which EC2's times of its attachment and of the instance's last start tell. All volumes are made before the first old one is taken away.
func (p *Provider) Rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	if err := p.rollback(ctx, vm, name); err != nil {
		return p.fail(vm, "go back to snapshot "+name, err)
	}
	return nil
}

func (p *Provider) rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	i, err := p.instance(ctx, vm)
	if err != nil {
		return err
	}
	if i.Placement == nil {
		return errors.New("ec2 does not say in which zone the instance is")
	}
	if i.State.Name != types.InstanceStateNameStopped {
		return fmt.Errorf("the instance is %s, not stopped: stop it first", i.State.Name)
	}
	sets, err := p.named(ctx, vm, name)
	if err != nil {
		return err
	}
	if len(sets) == 0 {
		return &hypervisor.NotFoundError{Node: vm.Node, What: "snapshot " + name}
	}
	s := which(sets)
	switch s.view(p.cfg.Settle).State {
	case hypervisor.Pending:
		return errors.New("the snapshot is still being copied: wait until it is ready")
	case hypervisor.Failed:
		return errors.New("the snapshot has failed or lacks volumes")
	}
	disks, hindrances, err := p.plan(ctx, i, s)
	if err != nil {
		return err
	}
	if len(hindrances) > 0 {
		return errors.New(hindrances[0])
	}
	for _, d := range disks {
		if err := p.choose(ctx, i, name, d); err != nil {
			return fmt.Errorf("%s: %w", d.device, err)
		}
	}
	for _, d := range disks {
		if err := p.until(ctx, d.volume, func(v types.Volume) (bool, error) {
			switch v.State {
			case types.VolumeStateAvailable, types.VolumeStateInUse:
				return true, nil
			case types.VolumeStateCreating:
				return false, nil
			}
			return false, fmt.Errorf("the new volume %s is %s", d.volume, v.State)
		}); err != nil {
			return fmt.Errorf("%s: %w", d.device, err)
		}
	}
	for _, d := range disks {
		if err := p.exchange(ctx, vm, name, d); err != nil {
			return fmt.Errorf("%s: %w", d.device, err)
		}
	}
	return nil
}

// CheckRollback is hypervisor.RollbackChecker's. It tries what a rollback asks for with DryRun. Whether keys of encrypted snapshots may be used cannot be tried.
func (p *Provider) CheckRollback(ctx context.Context, vm hypervisor.VM, name string, _ bool) ([]hypervisor.Problem, error) {
	texts, err := p.checkRollback(ctx, vm, name)
	if err != nil {
		return nil, p.fail(vm, "look whether it can go back to snapshot "+name, err)
	}
	var problems []hypervisor.Problem
	for _, text := range texts {
		problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: webclient.Clean(text)})
	}
	return problems, nil
}

func (p *Provider) checkRollback(ctx context.Context, vm hypervisor.VM, name string) ([]string, error) {
	i, err := p.instance(ctx, vm)
	if err != nil {
		return nil, err
	}
	sets, err := p.named(ctx, vm, name)
	if err != nil || len(sets) == 0 || !which(sets).complete() {
		return nil, err
	}
	disks, hindrances, err := p.plan(ctx, i, which(sets))
	if err != nil {
		return nil, err
	}
	trials := p.switchTrials(ctx, vm)
	for _, d := range disks {
		trials = append(trials, trial{what: "make a volume of snapshot " + d.snapshot, do: func(dry *bool) error {
			in := p.newVolume(i, name, d)
			in.DryRun = dry
			_, err := p.client.CreateVolume(ctx, in)
			return err
		}})
	}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs == nil || aws.ToString(m.DeviceName) != aws.ToString(i.RootDeviceName) {
			continue
		}
		volume, device := m.Ebs.VolumeId, m.DeviceName
		trials = append(trials,
			trial{what: "tag its volumes", rights: true, do: func(dry *bool) error {
				_, err := p.client.CreateTags(ctx, &ec2.CreateTagsInput{DryRun: dry, Resources: []string{aws.ToString(volume)}, Tags: replacedBy(vm, name)})
				return err
			}},
			trial{what: "detach its volumes", rights: true, do: func(dry *bool) error {
				_, err := p.client.DetachVolume(ctx, &ec2.DetachVolumeInput{DryRun: dry, VolumeId: volume, InstanceId: &vm.ID, Device: device})
				return err
			}},
			trial{what: "attach volumes to it", rights: true, do: func(dry *bool) error {
				_, err := p.client.AttachVolume(ctx, &ec2.AttachVolumeInput{DryRun: dry, VolumeId: volume, InstanceId: &vm.ID, Device: device})
				return err
			}},
			trial{what: "set DeleteOnTermination of its volumes", rights: true, do: func(dry *bool) error {
				in := deletion(vm, aws.ToString(device), aws.ToString(volume), aws.ToBool(m.Ebs.DeleteOnTermination))
				in.DryRun = dry
				_, err := p.client.ModifyInstanceAttribute(ctx, in)
				return err
			}})
	}
	refusals, err := p.refusals(trials)
	return append(hindrances, refusals...), err
}

// plan returns the disks of a set that is complete, in the order of their devices, and all reasons, one line each, for which the instance cannot go back to it. What can change while it runs, as its
// power, is not among them.
func (p *Provider) plan(ctx context.Context, i types.Instance, s set) (disks []*disk, hindrances []string, err error) {
	found := func(format string, args ...any) { hindrances = append(hindrances, fmt.Sprintf(format, args...)) }
	if i.RootDeviceType == types.DeviceTypeInstanceStore {
		found("the root of the instance is on instance store: it cannot be stopped")
	}
	devices := map[string]bool{}
	for _, x := range s.snapshots {
		id, volume := aws.ToString(x.SnapshotId), aws.ToString(x.VolumeId)
		a, ok := s.attachments[volume]
		if !ok {
			found("no tag of snapshot %s says where volume %s was attached", id, volume)
			continue
		}
		if x.StorageTier == types.StorageTierArchive {
			found("snapshot %s is archived: restore it first (aws ec2 restore-snapshot-tier --permanent-restore --snapshot-id %s)", id, id)
		}
		disks = append(disks, &disk{snapshot: id, attachment: a})
		devices[a.device] = true
	}
	slices.SortFunc(disks, func(a, b *disk) int { return strings.Compare(a.device, b.device) })
	volumes, err := p.volumes(ctx, filter("attachment.instance-id", aws.ToString(i.InstanceId)))
	if err != nil {
		return nil, nil, err
	}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs == nil {
			continue
		}
		id, device := aws.ToString(m.Ebs.VolumeId), aws.ToString(m.DeviceName)
		_, captured := s.attachments[id]
		// One that is neither in the snapshot nor made by a rollback would be deleted with the snapshot, and what is on it nowhere else.
		if !devices[device] || !captured && tagsOf(volumes[id].Tags)[tagSource] == "" {
			found("volume %s at %s was attached after the snapshot: detach it first", id, device)
		}
		for _, a := range volumes[id].Attachments {
			if other := aws.ToString(a.InstanceId); other != aws.ToString(i.InstanceId) {
				found("volume %s at %s is also attached to instance %s: detach it there first", id, device, other)
			}
		}
	}
	return disks, hindrances, nil
}

// newVolume is the request for a volume of a disk's snapshot, as the one that it was taken of.
func (p *Provider) newVolume(i types.Instance, name string, d *disk) *ec2.CreateVolumeInput {
	marks := map[string]string{tagSnapshot: name, tagInstance: aws.ToString(i.InstanceId), tagSource: d.snapshot, "Name": name + " " + d.device}
	in := &ec2.CreateVolumeInput{
		SnapshotId: &d.snapshot, VolumeType: d.kind, TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: p.tags(marks)}},
	}
	if i.Placement != nil {
		in.AvailabilityZone = i.Placement.AvailabilityZone
	}
	if d.iops > 0 {
		in.Iops = &d.iops
	}
	if d.throughput > 0 {
		in.Throughput = &d.throughput
	}
	return in
}

// replacedBy are the tags of a volume that the rollback to a snapshot takes away.
func replacedBy(vm hypervisor.VM, name string) []types.Tag {
	return []types.Tag{{Key: aws.String(tagReplaced), Value: &name}, {Key: aws.String(tagInstance), Value: &vm.ID}}
}

// deletion is the request that says whether a volume goes with its instance.
func deletion(vm hypervisor.VM, device, volume string, with bool) *ec2.ModifyInstanceAttributeInput {
	return &ec2.ModifyInstanceAttributeInput{InstanceId: &vm.ID, BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
		DeviceName: &device, Ebs: &types.EbsInstanceBlockDeviceSpecification{VolumeId: &volume, DeleteOnTermination: &with},
	}}}
}

// choose finds the volume that takes the place of a disk's, or makes it.
func (p *Provider) choose(ctx context.Context, i types.Instance, name string, d *disk) error {
	id, started := aws.ToString(i.InstanceId), aws.ToTime(i.LaunchTime)
	made, err := p.volumes(ctx, filter("tag:"+tagSource, d.snapshot), filter("tag:"+tagInstance, literal(id)))
	if err != nil {
		return err
	}
	for volume, v := range made {
		if tagsOf(v.Tags)[tagReplaced] != "" {
			continue // it has been written to
		}
		fresh := v.State == types.VolumeStateAvailable || v.State == types.VolumeStateCreating
		for _, a := range v.Attachments {
			fresh = aws.ToString(a.InstanceId) == id && aws.ToString(a.Device) == d.device && aws.ToTime(a.AttachTime).After(started)
		}
		if fresh {
			d.volume = volume
			return nil
		}
	}
	for salt := range 8 {
		// The same request after a crash, or after a lost answer, has the same token and finds the same volume; after the instance was started it is another.
		sum := sha256.Sum256([]byte(strings.Join([]string{name, id, d.snapshot, strconv.FormatInt(started.UnixNano(), 10), strconv.Itoa(salt)}, "\n")))
		in := p.newVolume(i, name, d)
		in.ClientToken = aws.String(hex.EncodeToString(sum[:]))
		out, err := p.client.CreateVolume(ctx, in)
		if err != nil {
			return fmt.Errorf("make a volume of %s: %w", d.snapshot, err)
		}
		volume := aws.ToString(out.VolumeId)
		v, err := p.volume(ctx, volume)
		if err != nil {
			return err
		}
		if v == nil || v.State == types.VolumeStateDeleted || v.State == types.VolumeStateDeleting || tagsOf(v.Tags)[tagReplaced] != "" {
			continue // the token is that of a volume that was used or deleted since
		}
		d.volume = volume
		return nil
	}
	return errors.New("volumes of earlier rollbacks were deleted again and again")
}

// volume that is there, nil for none. One that was just made may take a while to be shown.
func (p *Provider) volume(ctx context.Context, id string) (*types.Volume, error) {
	deadline := time.Now().Add(p.cfg.Settle)
	for attempt := 1; ; attempt++ {
		out, err := p.client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
		if err == nil && len(out.Volumes) == 1 {
			return &out.Volumes[0], nil
		}
		if err != nil && code(err) != "InvalidVolume.NotFound" {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, nil
		}
		if err := webclient.Pause(ctx, attempt, p.cfg.Poll); err != nil {
			return nil, err
		}
	}
}

// until waits for a volume to be as it should.
func (p *Provider) until(ctx context.Context, id string, right func(types.Volume) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Wait, fmt.Errorf("volume %s is not as it should be after %s", id, p.cfg.Wait))
	defer cancel()
	for attempt := 1; ; attempt++ {
		v, err := p.volume(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		if v == nil {
			return fmt.Errorf("volume %s is not there any more", id)
		}
		ok, err := right(*v)
		if ok || err != nil {
			return err
		}
		if err := webclient.Pause(ctx, attempt, p.cfg.Poll); err != nil {
			return err
		}
	}
}

// exchange takes the volume at a disk's device away and attaches the new one there.
func (p *Provider) exchange(ctx context.Context, vm hypervisor.VM, name string, d *disk) error {
	at := func() (string, bool, error) {
		i, err := p.instance(ctx, vm)
		if err != nil {
			return "", false, err
		}
		for _, m := range i.BlockDeviceMappings {
			if m.Ebs != nil && aws.ToString(m.DeviceName) == d.device {
				return aws.ToString(m.Ebs.VolumeId), aws.ToBool(m.Ebs.DeleteOnTermination), nil
			}
		}
		return "", false, nil
	}
	old, _, err := at()
	if err != nil {
		return err
	}
	if old != "" && old != d.volume {
		// The tags come first: a volume that is detached and has none would be lost, and one that was written to would be used again.
		if _, err := p.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{old}, Tags: replacedBy(vm, name)}); err != nil {
			return fmt.Errorf("tag the old volume %s: %w", old, err)
		}
		_, err := p.client.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &old, InstanceId: &vm.ID, Device: &d.device})
		if err != nil && code(err) != "IncorrectState" { // it is detached already
			return fmt.Errorf("detach the old volume %s: %w", old, err)
		}
		if err := p.until(ctx, old, func(v types.Volume) (bool, error) { return v.State == types.VolumeStateAvailable, nil }); err != nil {
			return fmt.Errorf("detach the old volume: %w", err)
		}
	}
	if old != d.volume {
		_, err := p.client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &d.volume, InstanceId: &vm.ID, Device: &d.device})
		if err != nil && code(err) != "VolumeInUse" { // an answer was lost and this is the second request; what it is attached to is looked at below
			return fmt.Errorf("attach volume %s: %w", d.volume, err)
		}
	}
	if err := p.until(ctx, d.volume, func(v types.Volume) (bool, error) {
		for _, a := range v.Attachments {
			if aws.ToString(a.InstanceId) != vm.ID || aws.ToString(a.Device) != d.device {
				return false, fmt.Errorf("volume %s is attached to %s at %s", d.volume, aws.ToString(a.InstanceId), aws.ToString(a.Device))
			}
			if a.State == types.VolumeAttachmentStateAttached {
				return true, nil
			}
		}
		return false, nil
	}); err != nil {
		return err
	}
	// DeleteOnTermination of a volume that is attached is false.
	current, deleted, err := at()
	if err != nil {
		return err
	}
	if current != d.volume {
		return fmt.Errorf("volume %s is attached there, not %s", current, d.volume)
	}
	if deleted == d.delete {
		return nil
	}
	_, err = p.client.ModifyInstanceAttribute(ctx, deletion(vm, d.device, d.volume, d.delete))
	if err != nil {
		return fmt.Errorf("set DeleteOnTermination: %w", err)
	}
	return nil
}
