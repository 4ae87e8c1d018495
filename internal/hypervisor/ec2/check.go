package ec2

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/webclient"
)

// atOnce is how many ids or values one request names.
const atOnce = 100

// Check is hypervisor.Provider's. Quotas of the account are asked for nowhere, because EC2 has no call for them: a request that exceeds one is refused with its name.
func (p *Provider) Check(ctx context.Context, vms []hypervisor.VM) ([]hypervisor.Problem, error) {
	var problems []hypervisor.Problem
	problem := func(node, format string, args ...any) {
		problems = append(problems, hypervisor.Problem{Node: node, Text: webclient.Clean(fmt.Sprintf(format, args...))})
	}
	noAnswer := func(err error) error {
		return fmt.Errorf("ec2 %s does not answer: %w", p.cfg.Region, webclient.Hide(err, p.text(err)))
	}
	if _, err := p.credentials.Retrieve(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, noAnswer(err)
		}
		problem("", "there are no credentials for ec2: %s", p.text(err))
		return problems, nil
	}
	instances := map[string]types.Instance{}
	for ids := range slices.Chunk(idsOf(vms), atOnce) {
		err := pages(func(token *string) (*string, error) {
			page, err := p.client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{Filters: []types.Filter{filter("instance-id", ids...)}, NextToken: token, MaxResults: aws.Int32(pageSize)})
			if err != nil {
				return nil, err
			}
			for _, r := range page.Reservations {
				for _, i := range r.Instances {
					if i.State != nil && i.State.Name != types.InstanceStateNameTerminated {
						instances[aws.ToString(i.InstanceId)] = i
					}
				}
			}
			return page.NextToken, nil
		})
		if barred(err) {
			problem("", "ec2 %s refuses to list instances: %s", p.cfg.Region, p.text(err))
			return problems, nil
		}
		if err != nil {
			return nil, noAnswer(err)
		}
	}
	stores, trouble, err := p.instanceStores(ctx, slices.Collect(maps.Values(instances))...)
	if err != nil {
		return nil, noAnswer(err)
	}
	if trouble != "" {
		problem("", "%s", trouble)
	}

	results := make([][]hypervisor.Problem, len(vms))
	var group errgroup.Group
	group.SetLimit(8)
	first := map[string]string{}
	for n, vm := range vms {
		i, ok := instances[vm.ID]
		switch {
		case !ok:
			problem(vm.Node, "instance %s is not there in %s, or we may not see it: write an id such as i-0123456789abcdef0", vm.ID, p.cfg.Region)
			continue
		case first[vm.ID] != "":
			problem(vm.Node, "its instance %s is also that of %s: name another", vm.ID, first[vm.ID])
			continue
		}
		first[vm.ID] = vm.Node
		group.Go(func() error {
			var err error
			results[n], err = p.checkInstance(ctx, vm, i, stores)
			if err != nil {
				return p.fail(vm, "check it", err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return append(problems, slices.Concat(results...)...), nil
}

func idsOf(vms []hypervisor.VM) []string {
	var ids []string
	for _, vm := range vms {
		ids = append(ids, literal(vm.ID))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// instanceStores tells, of the kinds of instances, which have disks that are in no snapshot. Who may not ask is told so in trouble, because nothing is known of them then.
func (p *Provider) instanceStores(ctx context.Context, instances ...types.Instance) (stores map[types.InstanceType]bool, trouble string, err error) {
	var kinds []types.InstanceType
	for _, i := range instances {
		kinds = append(kinds, i.InstanceType)
	}
	slices.Sort(kinds)
	stores = map[types.InstanceType]bool{}
	for some := range slices.Chunk(slices.Compact(kinds), atOnce) {
		err := pages(func(token *string) (*string, error) {
			page, err := p.client.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: some, NextToken: token})
			if err != nil {
				return nil, err
			}
			for _, t := range page.InstanceTypes {
				stores[t.InstanceType] = aws.ToBool(t.InstanceStorageSupported)
			}
			return page.NextToken, nil
		})
		if barred(err) {
			return nil, fmt.Sprintf("ec2 %s does not tell which instances have instance store volumes: %s: allow ec2:DescribeInstanceTypes", p.cfg.Region, p.text(err)), nil
		}
		if err != nil {
			return nil, "", err
		}
	}
	return stores, "", nil
}

// storesOf says what is wrong with an instance that has, or may have, disks that are in no snapshot; "" for nothing. stores nil is for what is unknown of all.
func storesOf(i types.Instance, stores map[types.InstanceType]bool) string {
	has, known := stores[i.InstanceType]
	switch {
	case has:
		return fmt.Sprintf("instance %s is a %s, which has instance store volumes: they are in no snapshot and are empty after a stop", aws.ToString(i.InstanceId), i.InstanceType)
	case stores != nil && !known:
		return fmt.Sprintf("ec2 does not tell whether instance %s, a %s, has instance store volumes, which are in no snapshot", aws.ToString(i.InstanceId), i.InstanceType)
	}
	return ""
}

// pendingLimit is how many snapshots of a volume may be pending at once ("Concurrent snapshots per ... volume", Amazon EBS endpoints and quotas).
func pendingLimit(kind types.VolumeType) int {
	if kind == types.VolumeTypeSt1 || kind == types.VolumeTypeSc1 {
		return 1
	}
	return 5
}

func (p *Provider) checkInstance(ctx context.Context, vm hypervisor.VM, i types.Instance, stores map[types.InstanceType]bool) ([]hypervisor.Problem, error) {
	var problems []hypervisor.Problem
	problem := func(format string, args ...any) {
		problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: webclient.Clean(fmt.Sprintf(format, args...))})
	}
	if i.State.Name != types.InstanceStateNameRunning && i.State.Name != types.InstanceStateNameStopped {
		problem("instance %s is %s: wait until it runs or is stopped", vm.ID, i.State.Name)
	}
	switch {
	case i.RootDeviceType == types.DeviceTypeInstanceStore:
		problem("instance %s has its root on instance store, which is in no snapshot, and cannot be stopped", vm.ID)
	case storesOf(i, stores) != "":
		problem("%s", storesOf(i, stores))
	}
	volumes, err := p.attached(ctx, i)
	if barred(err) {
		problem("ec2 refuses to list its volumes: %s: allow ec2:DescribeVolumes", p.text(err))
		return problems, nil
	}
	if err != nil {
		return nil, err
	}
	if most := p.mostVolumes(); len(volumes) == 0 || len(volumes) > most {
		problem("instance %s has %d EBS volumes: a snapshot is made of one to %d", vm.ID, len(volumes), most)
	}
	pending := map[string]int{}
	var ids []string
	for id, v := range volumes {
		ids = append(ids, id)
		if aws.ToBool(v.MultiAttachEnabled) {
			problem("volume %s may be attached to several instances, so no rollback of one can replace it", id)
		}
	}
	slices.Sort(ids)
	if len(ids) > 0 {
		under, _, err := p.describeSnapshots(ctx, filter("volume-id", ids...), filter("status", "pending"))
		if barred(err) {
			problem("ec2 refuses to list snapshots: %s: allow ec2:DescribeSnapshots", p.text(err))
			return problems, nil
		}
		if err != nil {
			return nil, err
		}
		for _, s := range under {
			pending[aws.ToString(s.VolumeId)]++
		}
	}
	for _, id := range ids {
		switch n, limit := pending[id], pendingLimit(volumes[id].VolumeType); {
		case n >= limit:
			problem("%d snapshots of volume %s are pending, the most that a %s volume may have: wait until they are copied, also those that were deleted", n, id, volumes[id].VolumeType)
		case n > 0:
			problem("a snapshot of volume %s is under way: wait for its end", id)
		}
	}
	texts, err := p.refusals(append(p.switchTrials(ctx, vm), trial{what: "create snapshots of it", do: func(dry *bool) error {
		_, err := p.client.CreateSnapshots(ctx, &ec2.CreateSnapshotsInput{DryRun: dry, InstanceSpecification: &types.InstanceSpecification{InstanceId: &vm.ID},
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: p.tags(map[string]string{tagSnapshot: "check", tagInstance: vm.ID})}}})
		return err
	}}))
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		problem("%s", text)
	}
	slices.SortFunc(problems, func(a, b hypervisor.Problem) int { return strings.Compare(a.Text, b.Text) })
	return problems, nil
}

// trial is a request that is tried with DryRun, which changes nothing.
type trial struct {
	what string
	// rights: only whether it is allowed is asked, because EC2 would refuse it of an instance that runs.
	rights bool
	do     func(dry *bool) error
}

// refusals returns what EC2 would refuse, one line each.
func (p *Provider) refusals(trials []trial) ([]string, error) {
	var found []string
	for _, t := range trials {
		err := t.do(aws.Bool(true))
		switch c := code(err); {
		case err == nil, c == "DryRunOperation":
		case c == "UnauthorizedOperation" || c == "AccessDenied":
			found = append(found, fmt.Sprintf("we may not %s: allow it in IAM", t.what))
		case c == "" || !refused(err) || throttled(err):
			return nil, err
		case t.rights || strings.HasPrefix(c, "Incorrect") || c == "UnsupportedOperation":
			// of its state, which is looked at besides
		default:
			found = append(found, fmt.Sprintf("ec2 would refuse to %s: %s", t.what, p.text(err)))
		}
	}
	return found, nil
}

// switchTrials are those of stopping and starting an instance.
func (p *Provider) switchTrials(ctx context.Context, vm hypervisor.VM) []trial {
	return []trial{
		{what: "stop it", do: func(dry *bool) error {
			_, err := p.client.StopInstances(ctx, &ec2.StopInstancesInput{DryRun: dry, InstanceIds: []string{vm.ID}})
			return err
		}},
		{what: "start it", do: func(dry *bool) error {
			_, err := p.client.StartInstances(ctx, &ec2.StartInstancesInput{DryRun: dry, InstanceIds: []string{vm.ID}})
			return err
		}},
	}
}
