package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
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
	encrypted bool
	volume    string // that takes its place
}

// Rollback is hypervisor.Provider's. A new volume of each snapshot takes the place of the one at its device; the old ones stay, tagged, until the snapshot is deleted.
//
// Every step asks first what is already done, so that one that was interrupted goes on: a volume that was made of the snapshot is used as long as the instance has not been
// started with it, which its tag and the instance's last start tell. All volumes are made before the first old one is taken away.
func (p *Provider) Rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	if err := p.rollback(ctx, vm, name); err != nil {
		return p.failChange(vm, "go back to snapshot "+name, err)
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
			switch {
			case !unwritten(v, i, d):
				return false, fmt.Errorf("the new volume %s is %s, or was used meanwhile: go back again for another one", d.volume, v.State)
			case v.State == types.VolumeStateCreating:
				return false, nil
			}
			return true, nil
		}); err != nil {
			return fmt.Errorf("%s: %w%s", d.device, err, d.hint())
		}
	}
	for _, d := range disks {
		if err := p.exchange(ctx, vm, i, name, d); err != nil {
			return fmt.Errorf("%s: %w", d.device, err)
		}
	}
	return nil
}

// launched is an instance's last start, as a tag says it.
func launched(i types.Instance) string {
	return aws.ToTime(i.LaunchTime).UTC().Format(time.RFC3339Nano)
}

// unwritten tells whether a volume that was made of a disk's snapshot still is what the snapshot is: it was never attached, or by a rollback since the instance was last started, and is there now or nowhere.
func unwritten(v types.Volume, i types.Instance, d *disk) bool {
	tags := tagsOf(v.Tags)
	used := tags[tagUsed]
	if tags[tagReplaced] != "" || used != "" && used != launched(i) {
		return false
	}
	switch v.State {
	case types.VolumeStateCreating, types.VolumeStateAvailable:
		return len(v.Attachments) == 0
	case types.VolumeStateInUse:
		return used != "" && len(v.Attachments) == 1 && aws.ToString(v.Attachments[0].InstanceId) == aws.ToString(i.InstanceId) && aws.ToString(v.Attachments[0].Device) == d.device
	}
	return false
}

// hint of what may be the matter with a new volume: of an encrypted snapshot EC2 makes one and takes it back when the key may not be used.
func (d *disk) hint() string {
	if !d.encrypted {
		return ""
	}
	return " (snapshot " + d.snapshot + " is encrypted: allow kms:CreateGrant, Decrypt, DescribeKey, GenerateDataKeyWithoutPlaintext and ReEncrypt* with its key)"
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
	stores, trouble, err := p.instanceStores(ctx, i)
	if err != nil {
		return nil, err
	}
	if trouble == "" {
		trouble = storesOf(i, stores)
	}
	if trouble != "" {
		hindrances = append(hindrances, trouble)
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
				_, err := p.client.CreateTags(ctx, &ec2.CreateTagsInput{DryRun: dry, Resources: []string{aws.ToString(volume)}, Tags: replacedBy(vm, name, aws.ToString(device))})
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
		if devices[a.device] {
			found("two snapshots are of the volume at %s: delete the one that is not the set's", a.device)
		}
		disks = append(disks, &disk{snapshot: id, attachment: a, encrypted: aws.ToBool(x.Encrypted)})
		devices[a.device] = true
	}
	slices.SortFunc(disks, func(a, b *disk) int { return strings.Compare(a.device, b.device) })
	volumes, err := p.attached(ctx, i)
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
	marks := map[string]string{tagSnapshot: name, tagInstance: aws.ToString(i.InstanceId), tagSource: d.snapshot, tagDevice: d.device, "Name": name + " " + d.device}
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

// replacedBy are the tags of a volume that the rollback to a snapshot takes away from a device.
func replacedBy(vm hypervisor.VM, name, device string) []types.Tag {
	return []types.Tag{{Key: aws.String(tagReplaced), Value: &name}, {Key: aws.String(tagInstance), Value: &vm.ID}, {Key: aws.String(tagDevice), Value: &device}}
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
	for _, volume := range slices.Sorted(maps.Keys(made)) {
		if unwritten(made[volume], i, d) {
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
		if code(err) == "IdempotentParameterMismatch" {
			continue // the site's tags were others then
		}
		if err != nil {
			return fmt.Errorf("make a volume of %s: %w", d.snapshot, err)
		}
		volume := aws.ToString(out.VolumeId)
		v, err := p.volume(ctx, volume)
		if err != nil {
			return err
		}
		if v == nil || !unwritten(*v, i, d) {
			continue // the token is that of a volume that was used or deleted since, or is attached elsewhere
		}
		d.volume = volume
		return nil
	}
	return fmt.Errorf("the volumes that are made of %s are deleted, attached elsewhere or fail, again and again%s", d.snapshot, d.hint())
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

// exchange takes the volume at a disk's device away and attaches the new one there. was is the instance as the rollback found it: it has to be off all the time.
func (p *Provider) exchange(ctx context.Context, vm hypervisor.VM, was types.Instance, name string, d *disk) error {
	at := func() (string, bool, error) {
		i, err := p.instance(ctx, vm)
		if err != nil {
			return "", false, err
		}
		if i.State.Name != types.InstanceStateNameStopped || launched(i) != launched(was) {
			return "", false, fmt.Errorf("the instance was started meanwhile, and is %s: stop it and go back again", i.State.Name)
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
		if _, err := p.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{old}, Tags: replacedBy(vm, name, d.device)}); err != nil {
			return fmt.Errorf("tag the old volume %s: %w", old, err)
		}
		if _, _, err := at(); err != nil {
			return err
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
		if _, _, err := at(); err != nil {
			return err
		}
		// From now on it may be written to.
		mark := []types.Tag{{Key: aws.String(tagUsed), Value: aws.String(launched(was))}}
		if _, err := p.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{d.volume}, Tags: mark}); err != nil {
			return fmt.Errorf("tag the new volume %s: %w", d.volume, err)
		}
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
	current, deleted, err := at()
	for attempt, began := 1, time.Now(); err == nil && current != d.volume && time.Since(began) < p.cfg.Settle; attempt++ {
		if err := webclient.Pause(ctx, attempt, p.cfg.Poll); err != nil {
			return err
		}
		current, deleted, err = at()
	}
	if err != nil {
		return err
	}
	if current != d.volume {
		return fmt.Errorf("volume %s was attached, and the instance has %q there", d.volume, current)
	}
	// DeleteOnTermination of a volume that is attached is false.
	if deleted == d.delete {
		return nil
	}
	_, err = p.client.ModifyInstanceAttribute(ctx, deletion(vm, d.device, d.volume, d.delete))
	if err != nil {
		return fmt.Errorf("set DeleteOnTermination: %w", err)
	}
	return nil
}
