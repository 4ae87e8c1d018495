package ec2

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/webclient"
)

// shot is one CreateSnapshots with its own connection.
type shot struct {
	provider *Provider
	vm       hypervisor.VM
	name     string
	volumes  map[string]attachment
	line     *connection.Line

	mu   sync.Mutex
	made *hypervisor.Snapshot // what is known to be there
	sent bool                 // a request went out of which nobody knows
}

// Prepare is hypervisor.Provider's.
func (p *Provider) Prepare(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Shot, error) {
	what := "prepare snapshot " + name
	i, err := p.instance(ctx, vm)
	if err != nil {
		return nil, p.fail(vm, what, err)
	}
	s := &shot{provider: p, vm: vm, name: name, line: p.transport.Line()}
	sets, err := p.named(ctx, vm, name)
	if err != nil {
		return nil, p.fail(vm, what, err)
	}
	if len(sets) > 0 {
		there := which(sets).view(p.cfg.Settle)
		s.made = &there
		return s, nil
	}
	if s.volumes, err = p.attachments(ctx, i); err == nil && len(s.volumes) == 0 {
		err = errors.New("the instance has no EBS volume")
	}
	if most := p.mostVolumes(); err == nil && len(s.volumes) > most {
		err = fmt.Errorf("the instance has %d volumes, and no more than %d fit into the tags of a snapshot", len(s.volumes), most)
	}
	if err != nil {
		return nil, p.fail(vm, what, err)
	}
	if err := p.space(ctx, s.volumes); err != nil {
		return nil, p.fail(vm, what, err)
	}
	// The credentials are fetched now if they are not there yet.
	if _, err := p.credentials.Retrieve(ctx); err != nil {
		return nil, p.fail(vm, what, err)
	}
	if err := s.line.Warm(ctx, p.cfg.Warm, connection.Get(p.http, p.warm)); err != nil {
		s.line.Close()
		return nil, p.fail(vm, what, err)
	}
	return s, nil
}

// space waits until the newest snapshot of each volume, whoever took it, is old enough for another one.
func (p *Provider) space(ctx context.Context, volumes map[string]attachment) error {
	found, now, err := p.describeSnapshots(ctx, filter("volume-id", slices.Sorted(maps.Keys(volumes))...))
	if err != nil {
		return err
	}
	var wait time.Duration
	for _, x := range found {
		wait = max(wait, p.cfg.Spacing-now.Sub(aws.ToTime(x.StartTime)))
	}
	p.mu.Lock()
	for volume := range volumes {
		if at, ok := p.newest[volume]; ok {
			wait = max(wait, p.cfg.Spacing-time.Since(at))
		}
	}
	p.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(min(wait, p.cfg.Spacing))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// request of the shot, with a tag of its own each time: what a request made is never taken for part of what another one did.
func (s *shot) request() *ec2.CreateSnapshotsInput {
	return &ec2.CreateSnapshotsInput{
		InstanceSpecification: &types.InstanceSpecification{InstanceId: &s.vm.ID},
		Description:           aws.String(description(s.name, s.vm.Node)),
		TagSpecifications:     []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: s.provider.tags(s.marks())}},
	}
}

// marks are the tags of the shot's snapshots.
func (s *shot) marks() map[string]string {
	marks := map[string]string{tagSnapshot: s.name, tagInstance: s.vm.ID, tagRequest: rand.Text(), "Name": s.name + " " + s.vm.Node}
	for id, a := range s.volumes {
		marks[tagVolume+id] = a.String()
	}
	return marks
}

// mostVolumes of an instance: a snapshot has a tag for each.
func (p *Provider) mostVolumes() int { return mostTags - ownTags - len(p.cfg.Tags) }

// tags of a resource: the site's own and ours.
func (p *Provider) tags(marks map[string]string) []types.Tag {
	all := map[string]string{}
	maps.Copy(all, p.cfg.Tags)
	maps.Copy(all, marks)
	tags := make([]types.Tag, 0, len(all))
	for k, v := range all {
		tags = append(tags, types.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	slices.SortFunc(tags, func(a, b types.Tag) int { return strings.Compare(*a.Key, *b.Key) })
	return tags
}

// Take is hypervisor.Shot's: it returns with the answer of CreateSnapshots (see the package). A request that is throttled was not carried out and is sent again.
func (s *shot) Take(ctx context.Context) (hypervisor.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.provider
	resting, cancel := context.WithTimeout(ctx, restWithin)
	s.line.Rest(resting)
	cancel()
	if s.made == nil && s.sent {
		found, ok, err := p.Find(ctx, s.vm, s.name)
		if err != nil {
			return hypervisor.Snapshot{}, err
		}
		if ok {
			s.made = &found
		}
	}
	if s.made != nil {
		return *s.made, nil
	}
	input := s.request()
	out, err := p.client.CreateSnapshots(s.line.On(ctx), input, func(o *ec2.Options) {
		r, ok := o.Retryer.(aws.RetryerV2)
		if !ok {
			o.Retryer = aws.NopRetryer{}
			return
		}
		o.Retryer = once{r}
	})
	if err != nil && refused(err) {
		return hypervisor.Snapshot{}, p.fail(s.vm, "take snapshot "+s.name, err)
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for volume := range s.volumes {
		p.newest[volume] = now
	}
	if err != nil {
		s.sent = true
		p.unsure[s.vm.ID+"\n"+s.name] = now
		return hypervisor.Snapshot{}, &hypervisor.UnknownError{Node: s.vm.Node, Err: webclient.Hide(err, p.text(err))}
	}
	made := set{name: s.name, attachments: s.volumes}
	for _, x := range out.Snapshots {
		snapshot := types.Snapshot{
			SnapshotId: x.SnapshotId, VolumeId: x.VolumeId, VolumeSize: x.VolumeSize, State: x.State, StartTime: x.StartTime, Description: input.Description, Tags: input.TagSpecifications[0].Tags,
		}
		made.snapshots = append(made.snapshots, snapshot)
		p.taken[aws.ToString(x.SnapshotId)] = taken{snapshot, now}
	}
	view := made.view(0)
	s.made = &view
	return view, nil
}

// Close is hypervisor.Shot's.
func (s *shot) Close() error {
	s.line.Close()
	return nil
}
