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
	var disks []*disk
	devices := map[string]bool{}
	for _, x := range s.snapshots {
		a, ok := s.attachments[aws.ToString(x.VolumeId)]
		if !ok {
			return fmt.Errorf("no tag of snapshot %s says where volume %s was attached", aws.ToString(x.SnapshotId), aws.ToString(x.VolumeId))
		}
		disks = append(disks, &disk{snapshot: aws.ToString(x.SnapshotId), attachment: a})
		devices[a.device] = true
	}
	slices.SortFunc(disks, func(a, b *disk) int { return strings.Compare(a.device, b.device) })
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil && !devices[aws.ToString(m.DeviceName)] {
			return fmt.Errorf("volume %s at %s was attached after the snapshot: detach it first", aws.ToString(m.Ebs.VolumeId), aws.ToString(m.DeviceName))
		}
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
	marks := map[string]string{tagSnapshot: name, tagInstance: id, tagSource: d.snapshot, "Name": name + " " + d.device}
	for salt := range 8 {
		// The same request after a crash, or after a lost answer, has the same token and finds the same volume; after the instance was started it is another.
		sum := sha256.Sum256([]byte(strings.Join([]string{name, id, d.snapshot, strconv.FormatInt(started.UnixNano(), 10), strconv.Itoa(salt)}, "\n")))
		in := &ec2.CreateVolumeInput{
			SnapshotId: &d.snapshot, AvailabilityZone: i.Placement.AvailabilityZone, ClientToken: aws.String(hex.EncodeToString(sum[:])), VolumeType: d.kind,
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: p.tags(marks)}},
		}
		if d.iops > 0 {
			in.Iops = &d.iops
		}
		if d.throughput > 0 {
			in.Throughput = &d.throughput
		}
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
	for {
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
		if err := p.pause(ctx); err != nil {
			return nil, err
		}
	}
}

func (p *Provider) pause(ctx context.Context) error {
	timer := time.NewTimer(p.cfg.Poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// until waits for a volume to be as it should.
func (p *Provider) until(ctx context.Context, id string, right func(types.Volume) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Wait, fmt.Errorf("volume %s is not as it should be after %s", id, p.cfg.Wait))
	defer cancel()
	for {
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
		if err := p.pause(ctx); err != nil {
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
		tags := []types.Tag{{Key: aws.String(tagReplaced), Value: &name}, {Key: aws.String(tagInstance), Value: &vm.ID}}
		if _, err := p.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{old}, Tags: tags}); err != nil {
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
	_, err = p.client.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &vm.ID, BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
		DeviceName: &d.device, Ebs: &types.EbsInstanceBlockDeviceSpecification{VolumeId: &d.volume, DeleteOnTermination: &d.delete},
	}}})
	if err != nil {
		return fmt.Errorf("set DeleteOnTermination: %w", err)
	}
	return nil
}
