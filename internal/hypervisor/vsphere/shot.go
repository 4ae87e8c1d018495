package vsphere

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/webclient"
)

// shot is one CreateSnapshot_Task with its own connection.
type shot struct {
	provider *Provider
	client   *vim25.Client
	machine  *object.VirtualMachine
	vm       hypervisor.VM
	name     string
	line     *connection.Line

	mu   sync.Mutex
	made *hypervisor.Snapshot // what is known to be there
	sent bool                 // a request went out of which nobody knows
}

// Prepare is hypervisor.Provider's.
func (p *Provider) Prepare(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Shot, error) {
	what := "prepare snapshot " + name
	client, machine, _, err := p.read(ctx, vm, "runtime.powerState")
	if err != nil {
		return nil, p.fail(vm, what, err)
	}
	s := &shot{provider: p, client: client, machine: machine, vm: vm, name: name, line: p.transport.Line()}
	list, err := p.named(ctx, vm, name)
	if err != nil {
		return nil, p.fail(vm, what, err)
	}
	if len(list) > 0 {
		s.made = &list[0]
		return s, nil
	}
	err = p.reading(ctx, func() error {
		return s.line.Warm(ctx, p.cfg.Warm, func(ctx context.Context) error {
			_, err := methods.GetCurrentTime(ctx, client)
			return err
		})
	})
	if err != nil {
		s.line.Close()
		return nil, p.fail(vm, what, err)
	}
	return s, nil
}

// Take is hypervisor.Shot's: it returns when the snapshot's task has ended (see the package).
func (s *shot) Take(ctx context.Context) (hypervisor.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resting, cancel := context.WithTimeout(ctx, restWithin)
	s.line.Rest(resting)
	cancel()
	what := "take snapshot " + s.name
	if s.made == nil && s.sent {
		// An earlier request of this shot may have been carried out.
		list, err := s.provider.named(ctx, s.vm, s.name)
		if err != nil {
			return hypervisor.Snapshot{}, s.unknown(what, err)
		}
		if len(list) > 0 {
			s.made = &list[0]
		}
	}
	if s.made != nil {
		return *s.made, nil
	}
	ctx = s.line.On(ctx)
	created, err := s.machine.CreateSnapshot(ctx, s.name, "katoflow", false, s.provider.cfg.Quiesce)
	if err != nil {
		if certain(err) || connection.Unsent(err) {
			return hypervisor.Snapshot{}, s.provider.fail(s.vm, what, err)
		}
		return hypervisor.Snapshot{}, s.unknown(what, err)
	}
	info, err := s.provider.await(ctx, s.vm, s.client, created.Reference(), s.provider.cfg.TaskTimeout)
	var failed task.Error
	switch {
	case errors.As(err, &failed):
		return hypervisor.Snapshot{}, s.provider.fail(s.vm, what, err)
	case err != nil:
		return hypervisor.Snapshot{}, s.unknown(what, err)
	}
	snapshot := hypervisor.Snapshot{Name: s.name, State: hypervisor.Ready}
	if ref, ok := info.Result.(types.ManagedObjectReference); ok {
		snapshot.ID = ref.Value
	}
	if info.CompleteTime != nil {
		snapshot.Created = *info.CompleteTime
	}
	s.made = &snapshot
	return snapshot, nil
}

func (s *shot) unknown(what string, err error) error {
	s.sent = true
	p := s.provider
	return &hypervisor.UnknownError{Node: s.vm.Node, Err: webclient.Hide(err, fmt.Sprintf("vsphere %s: %s: %s", p.address.Host, what, p.text(err)))}
}

// Close is hypervisor.Shot's.
func (s *shot) Close() error {
	s.line.Close()
	return nil
}
