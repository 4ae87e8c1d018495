package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/webclient"
)

// needs of a server.
type needs struct {
	id                           string
	snapshots, gigabytes, images int64
}

// Check is hypervisor.Provider's.
func (p *Provider) Check(ctx context.Context, vms []hypervisor.VM) ([]hypervisor.Problem, error) {
	s, err := p.login(ctx)
	var missing *missingError
	switch {
	case errors.As(err, &missing):
		return []hypervisor.Problem{{Text: fmt.Sprintf("openstack: %v in region %q: check region and roles", missing, p.cfg.Region)}}, nil
	case status(err) == http.StatusUnauthorized || status(err) == http.StatusForbidden:
		return []hypervisor.Problem{{Text: "openstack refuses the login: check user, project, domains and password, or the application credential"}}, nil
	case err != nil:
		return nil, fmt.Errorf("openstack does not answer: %w", webclient.Hide(err, p.text(err)))
	}
	problems := make([][]hypervisor.Problem, len(vms)+1)
	all := make([]needs, len(vms))
	var group errgroup.Group
	group.SetLimit(8)
	for i, vm := range vms {
		group.Go(func() error {
			var err error
			if problems[i], all[i], err = p.checkServer(ctx, s, vm); err != nil {
				return p.fail(vm, "check it", err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var sum needs
	for i, n := range all {
		first := slices.IndexFunc(all, func(x needs) bool { return x.id == n.id })
		if n.id != "" && first < i {
			problems[i] = append(problems[i], hypervisor.Problem{Node: vms[i].Node, Text: webclient.Clean("its server " + vms[i].ID + " is also that of " + vms[first].Node + ": name another")})
		}
		sum.snapshots, sum.gigabytes, sum.images = sum.snapshots+n.snapshots, sum.gigabytes+n.gigabytes, sum.images+n.images
	}
	quotas, err := p.quotas(ctx, s, sum)
	if err != nil {
		return nil, fmt.Errorf("openstack: read the quotas: %w", webclient.Hide(err, p.text(err)))
	}
	problems[len(vms)] = quotas
	return slices.Concat(problems...), nil
}

// quotas compares what is needed with what is left. A limit of -1 is none.
func (p *Provider) quotas(ctx context.Context, s *session, need needs) ([]hypervisor.Problem, error) {
	var problems []hypervisor.Problem
	compare := func(what string, limit, used, need int64) {
		if need > 0 && limit >= 0 && used+need > limit {
			problems = append(problems, hypervisor.Problem{Text: fmt.Sprintf("the project's quota of %s is %d, %d are used and %d are needed: raise it or delete some", what, limit, used, need)})
		}
	}
	var limits struct {
		Limits struct {
			Absolute struct{ MaxTotalSnapshots, TotalSnapshotsUsed, MaxTotalVolumeGigabytes, TotalGigabytesUsed int64 }
		}
	}
	if need.snapshots > 0 {
		if err := p.get(ctx, s.volumes, s.volumes.ServiceURL("limits"), &limits); err != nil {
			return nil, err
		}
		a := limits.Limits.Absolute
		compare("volume snapshots", a.MaxTotalSnapshots, a.TotalSnapshotsUsed, need.snapshots)
		// Snapshots count here unless the cloud says otherwise (no_snapshot_gb_quota), which it does not tell.
		compare("volume gigabytes", a.MaxTotalVolumeGigabytes, a.TotalGigabytesUsed, need.gigabytes)
	}
	if need.images > 0 {
		var usage struct {
			Usage map[string]struct{ Limit, Usage int64 }
		}
		err := p.get(ctx, s.image, s.image.ServiceURL("info", "usage"), &usage)
		if status(err) == http.StatusNotFound { // a Glance before Xena, or one without quotas
			return problems, nil
		}
		if err != nil {
			return nil, err
		}
		if q, ok := usage.Usage["image_count_total"]; ok {
			compare("images", q.Limit, q.Usage, need.images)
		}
		if q, ok := usage.Usage["image_count_uploading"]; ok {
			compare("images that are uploaded at once", q.Limit, q.Usage, need.images)
		}
	}
	return problems, nil
}

func (p *Provider) checkServer(ctx context.Context, s *session, vm hypervisor.VM) ([]hypervisor.Problem, needs, error) {
	var problems []hypervisor.Problem
	problem := func(format string, args ...any) {
		problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: webclient.Clean(fmt.Sprintf(format, args...))})
	}
	x, err := p.server(ctx, s, vm)
	var notFound *hypervisor.NotFoundError
	var ambiguous *ambiguousError
	switch {
	case errors.As(err, &notFound):
		problem("server %s is not there in this project: check its id or name", vm.ID)
		return problems, needs{}, nil
	case errors.As(err, &ambiguous):
		problem("%v", ambiguous)
		return problems, needs{}, nil
	case err != nil:
		return nil, needs{}, err
	}
	need := needs{id: x.ID}
	if x.Status != "ACTIVE" && x.Status != "SHUTOFF" {
		problem("server %s is %s: a snapshot is taken of one that is active or shut off", vm.ID, strings.ToLower(x.Status))
	}
	if x.task() != "" {
		problem("the task %s is under way on server %s: wait for its end", x.task(), vm.ID)
	}
	if x.bootsFromImage() {
		need.images = 1
		var one struct {
			Flavor struct {
				Ephemeral int64 `json:"OS-FLV-EXT-DATA:ephemeral"`
			}
		}
		err := p.get(ctx, s.compute, s.compute.ServiceURL("flavors", x.Flavor.ID), &one)
		if err != nil && status(err) != http.StatusNotFound { // a flavor that was deleted since
			return nil, need, err
		}
		if one.Flavor.Ephemeral > 0 {
			problem("server %s has an ephemeral disk of %d GiB, which is in no snapshot", vm.ID, one.Flavor.Ephemeral)
		}
	} else if len(x.Volumes) == 0 {
		problem("server %s has neither an image nor a volume", vm.ID)
	}
	for _, attached := range x.Volumes {
		v, err := p.volume(ctx, s, attached.ID)
		if err != nil {
			return nil, need, err
		}
		need.snapshots++
		need.gigabytes += v.Size
		if v.Status != "in-use" {
			problem("volume %s is %s, not in use: wait, or put it right", v.ID, v.Status)
		}
		if v.Multiattach {
			problem("volume %s may be attached to several servers, so no rollback of one can revert it", v.ID)
		}
		creating, err := p.cinder(ctx, s, url.Values{"volume_id": {v.ID}, "status": {"creating"}})
		if err != nil {
			return nil, need, err
		}
		for _, c := range creating {
			if c.Volume == v.ID && c.Status == "creating" {
				problem("snapshot %s (%s) of volume %s is under way: wait for its end", c.Name, c.ID, v.ID)
			}
		}
	}
	return problems, need, nil
}
