package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/webclient"
)

// volume is what Cinder says of one.
type volume struct {
	ID          string `json:"id"`
	Status      string `json:"status"`
	Size        int64  `json:"size"`
	Multiattach bool   `json:"multiattach"`
	Attachments []struct {
		Server string `json:"server_id"`
	} `json:"attachments"`
}

func (p *Provider) volume(ctx context.Context, s *session, id string) (volume, error) {
	var one struct{ Volume volume }
	err := p.get(ctx, s.volumes, s.volumes.ServiceURL("volumes", id), &one)
	return one.Volume, err
}

// until waits for a volume to be as it should.
func (p *Provider) until(ctx context.Context, s *session, id string, right func(volume) bool) (volume, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Wait, fmt.Errorf("volume %s is not as it should be after %s", id, p.cfg.Wait))
	defer cancel()
	for {
		v, err := p.volume(ctx, s, id)
		switch {
		case err != nil:
			return v, err
		case right(v):
			return v, nil
		case strings.HasPrefix(v.Status, "error"):
			return v, fmt.Errorf("volume %s is %s: see cinder's log", id, v.Status)
		}
		if err := p.pause(ctx); err != nil {
			return v, err
		}
	}
}

// Rollback is hypervisor.Provider's.
//
// Volumes go back by Cinder's revert, which takes only the newest snapshot of a volume, and only a volume that is "available" (Cinder spec "volume revert to snapshot": "We would only support
// reverting a detached volume"). A server's volumes are not, even when it is shut off, and Nova detaches no root volume. Therefore the volume's state is set to available for the while, which leaves the
// attachment as it is and is an administrator's right (os-reset_status). Without it data volumes are detached and attached again at their device; a root volume is an error that says so, before anything is changed.
//
// A root disk of an image goes back by Nova's rebuild, which keeps the server's id and addresses. Nova starts a rebuilt server and stops it again when it was stopped before: the guest runs for a moment.
//
// Everything is done again by a second call, which goes on where a first one ended.
func (p *Provider) Rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	return p.change(ctx, vm, "go back to snapshot "+name, func(s *session, x server) error {
		x, err := p.stopped(ctx, s, vm, x)
		if err != nil {
			return err
		}
		sets, err := p.named(ctx, s, x.ID, name)
		if err != nil {
			return err
		}
		if len(sets) == 0 {
			return &hypervisor.NotFoundError{Node: vm.Node, What: "snapshot " + name}
		}
		made := which(sets)
		switch made.view().State {
		case hypervisor.Pending:
			return errors.New("the snapshot is still being copied: wait until it is ready")
		case hypervisor.Failed:
			return errors.New("the snapshot has failed or lacks disks")
		}
		hindrances, err := p.hindrances(ctx, s, x, made)
		if err != nil {
			return err
		}
		if len(hindrances) > 0 {
			return errors.New(hindrances[0])
		}
		volumes, image := made.byKind()
		// The root comes first: it is the one whose state may not be ours to set.
		root := rootDevice(x, volumes)
		slices.SortStableFunc(volumes, func(a, b part) int {
			if a.device == root && b.device != root {
				return -1
			}
			return strings.Compare(a.device, b.device)
		})
		for _, part := range volumes {
			if err := p.revert(ctx, s, x, part, part.device == root); err != nil {
				return fmt.Errorf("volume %s at %s: %w", part.volume, part.device, err)
			}
		}
		if image == "" {
			return nil
		}
		return p.rebuild(ctx, s, vm, x, image)
	})
}

// rebuild puts an image onto the root disk, and waits until the server is off again.
func (p *Provider) rebuild(ctx context.Context, s *session, vm hypervisor.VM, x server, image string) error {
	for attempt := 1; ; attempt++ {
		err := post(ctx, s.compute, s.compute.ServiceURL("servers", x.ID, "action"), map[string]any{"rebuild": map[string]any{"imageRef": image}})
		if err != nil && refused(err) && !connection.Unsent(err) || err != nil && attempt == attempts {
			return fmt.Errorf("rebuild from image %s: %w", image, err)
		}
		// A request whose answer was lost may be what the server is doing now. It is done again after that, because nobody knows.
		if _, waited := p.settled(ctx, s, vm); waited != nil || err == nil {
			return waited
		}
	}
}

// rootDevice is where the root volume of a server is attached, "" where it boots from an image: the first of its devices.
func rootDevice(x server, volumes []part) string {
	if x.bootsFromImage() || len(volumes) == 0 {
		return ""
	}
	return slices.MinFunc(volumes, func(a, b part) int {
		if c := len(a.device) - len(b.device); c != 0 {
			return c
		}
		return strings.Compare(a.device, b.device)
	}).device
}

// stopped returns the server when it is shut off. One that goes off, or is still rebuilt by an interrupted rollback, is waited for.
func (p *Provider) stopped(ctx context.Context, s *session, vm hypervisor.VM, x server) (server, error) {
	if x.Status == "REBUILD" || strings.HasPrefix(x.task(), "rebuild") || x.task() == "powering-off" {
		return p.settled(ctx, s, vm)
	}
	if x.Status != "SHUTOFF" || x.task() != "" {
		return x, fmt.Errorf("the server is %s %s, not shut off: stop it first", strings.ToLower(x.Status), x.task())
	}
	return x, nil
}

// settled waits until a server that is rebuilt is shut off again.
func (p *Provider) settled(ctx context.Context, s *session, vm hypervisor.VM) (server, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Wait, fmt.Errorf("the rebuilt server is not shut off after %s", p.cfg.Wait))
	defer cancel()
	for {
		x, err := p.server(ctx, s, vm)
		switch {
		case err != nil:
			return x, err
		case x.Status == "SHUTOFF" && x.task() == "":
			return x, nil
		case x.Status == "ERROR":
			return x, errors.New("nova could not rebuild the server: see its log")
		}
		if err := p.pause(ctx); err != nil {
			return x, err
		}
	}
}

// byKind are the snapshots of volumes, and the image of the root disk, "" for none.
func (x set) byKind() (volumes []part, image string) {
	for _, part := range x.parts {
		if part.volume == "" {
			image = part.id
		} else {
			volumes = append(volumes, part)
		}
	}
	return volumes, image
}

// CheckRollback is hypervisor.RollbackChecker's. That the account may reset a volume's status cannot be asked for.
func (p *Provider) CheckRollback(ctx context.Context, vm hypervisor.VM, name string, another bool) ([]hypervisor.Problem, error) {
	var problems []hypervisor.Problem
	err := p.on(ctx, vm, "look whether it can go back to snapshot "+name, func(s *session, x server) error {
		sets, err := p.named(ctx, s, x.ID, name)
		if err != nil || len(sets) == 0 || !which(sets).complete() {
			return err
		}
		made := which(sets)
		hindrances, err := p.hindrances(ctx, s, x, made)
		if volumes, _ := made.byKind(); another && len(volumes) > 0 {
			hindrances = append(hindrances, "cinder goes back only to the newest snapshot of a volume, and one that is taken before would be newer: go back without (--no-safety-snapshots)")
		}
		for _, text := range hindrances {
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: webclient.Clean(text)})
		}
		return err
	})
	return problems, err
}

// hindrances are all reasons, one line each, for which a server cannot go back to a set that is complete. What can change while it runs, as its power, is not among them.
func (p *Provider) hindrances(ctx context.Context, s *session, x server, made set) ([]string, error) {
	var found []string
	volumes, image := made.byKind()
	for _, v := range x.Volumes {
		if !slices.ContainsFunc(volumes, func(p part) bool { return p.volume == v.ID }) {
			found = append(found, fmt.Sprintf("volume %s was attached after the snapshot: detach it first", v.ID))
		}
	}
	if (image != "") != x.bootsFromImage() {
		found = append(found, "the server does not boot from what it booted from at the snapshot")
	}
	for _, part := range volumes {
		more, err := p.revertible(ctx, s, x, part)
		if err != nil {
			return found, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// revertible asks what keeps Cinder from going back to the snapshot of a volume: it must be the newest of its volume, whose size must be as it was.
func (p *Provider) revertible(ctx context.Context, s *session, x server, part part) (found []string, err error) {
	all, err := p.cinder(ctx, s, url.Values{"volume_id": {part.volume}})
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if other.Volume == part.volume && other.ID != part.id && moment(other.Created).After(part.created) && other.Status != "deleting" {
			found = append(found, fmt.Sprintf("snapshot %s (%s) of volume %s is newer, and cinder goes back only to the newest: delete it first", other.Name, other.ID, part.volume))
		}
	}
	v, err := p.volume(ctx, s, part.volume)
	if status(err) == http.StatusNotFound {
		return append(found, fmt.Sprintf("volume %s is gone", part.volume)), nil
	}
	if err != nil {
		return nil, err
	}
	if v.Size<<30 != part.size {
		found = append(found, fmt.Sprintf("volume %s was extended to %d GiB after the snapshot, and cinder does not go back over that", v.ID, v.Size))
	}
	for _, a := range v.Attachments {
		if a.Server != x.ID {
			found = append(found, fmt.Sprintf("volume %s is attached to server %s", v.ID, a.Server))
		}
	}
	return found, nil
}

func (p *Provider) setStatus(ctx context.Context, s *session, id, status string) error {
	return p.act(ctx, s.volumes, s.volumes.ServiceURL("volumes", id, "action"), map[string]any{"os-reset_status": map[string]any{"status": status}})
}

// revert puts one volume back, whatever an earlier call has done of it.
func (p *Provider) revert(ctx context.Context, s *session, x server, part part, root bool) error {
	v, err := p.until(ctx, s, part.volume, func(v volume) bool { return v.Status == "available" || v.Status == "in-use" })
	if err != nil {
		return err
	}
	detached := false
	if v.Status == "in-use" {
		err := p.setStatus(ctx, s, v.ID, "available")
		switch {
		case status(err) == http.StatusForbidden && root:
			return errors.New("cinder reverts only volumes that are not attached and nova detaches no root volume: give the account the right to reset a volume's status (os-reset_status)")
		case status(err) == http.StatusForbidden:
			detached = true
			if err := p.detach(ctx, s, x, v.ID); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("set its status: %w", err)
		}
	}
	if err := p.revertOnce(ctx, s, part); err != nil {
		if len(v.Attachments) > 0 && !detached && refused(err) {
			// Nothing was done: the volume is left as it was.
			err = errors.Join(err, p.setStatus(ctx, s, v.ID, "in-use"))
		}
		return err
	}
	if v, err = p.until(ctx, s, part.volume, func(v volume) bool { return v.Status == "available" || v.Status == "in-use" }); err != nil {
		return err
	}
	if len(v.Attachments) > 0 && !detached {
		if v.Status == "in-use" {
			return nil
		}
		if err := p.setStatus(ctx, s, v.ID, "in-use"); err != nil {
			return fmt.Errorf("set its status back: %w", err)
		}
		return nil
	}
	return p.attach(ctx, s, x, part)
}

func (p *Provider) revertOnce(ctx context.Context, s *session, part part) error {
	address := s.volumes.ServiceURL("volumes", part.volume, "action")
	lost := false
	err := p.reading(ctx, func() error {
		if lost { // what it may be doing comes first: it is done again after that, because nobody knows
			if _, err := p.until(ctx, s, part.volume, func(v volume) bool { return v.Status == "available" || v.Status == "in-use" }); err != nil {
				return err
			}
		}
		err := post(ctx, s.volumes, address, map[string]any{"revert": map[string]any{"snapshot_id": part.id}})
		if lost && (status(err) == http.StatusConflict || status(err) == http.StatusBadRequest) {
			if v, again := p.volume(ctx, s, part.volume); again == nil && v.Status == "reverting" {
				return nil
			}
		}
		lost = lost || err != nil && !refused(err)
		return err
	})
	if err != nil {
		return fmt.Errorf("revert it to snapshot %s: %w", part.id, err)
	}
	return nil
}

func (p *Provider) detach(ctx context.Context, s *session, x server, id string) error {
	err := p.reading(ctx, func() error {
		_, err := s.compute.Delete(ctx, s.compute.ServiceURL("servers", x.ID, "os-volume_attachments", id), nil)
		return err
	})
	if err != nil && status(err) != http.StatusNotFound {
		return fmt.Errorf("detach it: %w", err)
	}
	_, err = p.until(ctx, s, id, func(v volume) bool { return v.Status == "available" && len(v.Attachments) == 0 })
	return err
}

func (p *Provider) attach(ctx context.Context, s *session, x server, part part) error {
	body := map[string]any{"volumeAttachment": map[string]any{"volumeId": part.volume, "device": part.device}}
	err := p.act(ctx, s.compute, s.compute.ServiceURL("servers", x.ID, "os-volume_attachments"), body)
	if c := status(err); c == http.StatusConflict || c == http.StatusBadRequest {
		// An answer was lost and this was the second request. What it is attached to is looked at below.
		if v, again := p.volume(ctx, s, part.volume); again == nil && v.Status != "available" {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("attach it at %s: %w", part.device, err)
	}
	v, err := p.until(ctx, s, part.volume, func(v volume) bool { return v.Status == "in-use" })
	if err != nil {
		return err
	}
	for _, a := range v.Attachments {
		if a.Server != x.ID {
			return fmt.Errorf("it is attached to server %s", a.Server)
		}
	}
	return nil
}
