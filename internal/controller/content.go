package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/katoflow/katoflow/internal/archive"
)

// UserProvided is the name of the service of an instance that a user provided.
const UserProvided = "user-provided"

// Content reads what the cluster holds, as a manifest keeps it: organizations, spaces, apps and services by name, everything sorted. It asks as
// an admin and fails with KindForbidden for anybody else, who would see a part. Reading changes nothing and may be repeated; it works in
// maintenance mode, and only then is exact (see the package).
func (c *Client) Content(ctx context.Context) (archive.Content, error) {
	content, err := whole(ctx, c, "read the content", c.contentOnce)
	if err != nil {
		return content, err
	}
	users, err := c.Users(ctx)
	if err != nil {
		return content, err
	}
	for _, u := range users {
		if u.Name != "" {
			content.Users = append(content.Users, u.Name)
		}
	}
	slices.Sort(content.Users)
	info, err := c.StackatoInfo(ctx)
	content.Endpoint = info.Endpoint
	return content, err
}

// whole reads by lists that belong together, as an admin, until everything has its place in what read returns, a bounded number of times.
func whole[T any](ctx context.Context, c *Client, what string, read func(ctx context.Context) (T, bool, error)) (T, error) {
	var none T
	if err := c.CheckAdmin(ctx); err != nil {
		return none, err
	}
	for range passes {
		all, complete, err := read(ctx)
		if err != nil {
			return none, err
		}
		if complete {
			return all, nil
		}
	}
	e := c.failure(KindChanged, what, fmt.Sprintf("spaces came or went each of the %d times it was read", passes), "switch on maintenance mode, or try later")
	e.passing = true
	return none, e
}

// contentOnce reads the content and says whether every entry has its place in it.
func (c *Client) contentOnce(ctx context.Context) (content archive.Content, complete bool, err error) {
	labels, err := c.planNames(ctx)
	if err != nil {
		return content, false, err
	}
	orgs, err := c.Organizations(ctx)
	if err != nil {
		return content, false, err
	}
	spaces, err := c.Spaces(ctx)
	if err != nil {
		return content, false, err
	}
	apps, err := c.Apps(ctx)
	if err != nil {
		return content, false, err
	}
	services, err := c.ServiceInstances(ctx)
	if err != nil {
		return content, false, err
	}

	inSpace := make(map[string]*archive.Space, len(spaces))
	for _, s := range spaces {
		inSpace[s.GUID] = &archive.Space{Name: s.Name}
	}
	content = archive.Content{Orgs: len(orgs), Spaces: len(spaces), Apps: len(apps), Services: len(services)}
	for _, a := range apps {
		space := inSpace[a.SpaceGUID]
		if space == nil {
			return content, false, nil
		}
		space.Apps = append(space.Apps, archive.App{Name: a.Name, State: a.State, Instances: a.Instances, Buildpack: a.Buildpack})
		if a.State == Started {
			content.AppsStarted++
			content.Instances += a.Instances
		}
	}
	for _, s := range services {
		space := inSpace[s.SpaceGUID]
		if space == nil {
			return content, false, nil
		}
		service := archive.Service{Name: s.Name, Service: UserProvided}
		if !s.UserProvided {
			service.Service, service.Plan = labels[s.PlanGUID].service, labels[s.PlanGUID].plan
		}
		space.Services = append(space.Services, service)
	}
	inOrg := make(map[string][]archive.Space, len(orgs))
	for _, s := range spaces {
		space := inSpace[s.GUID]
		slices.SortFunc(space.Apps, func(a, b archive.App) int { return strings.Compare(a.Name, b.Name) })
		slices.SortFunc(space.Services, func(a, b archive.Service) int { return strings.Compare(a.Name, b.Name) })
		inOrg[s.OrganizationGUID] = append(inOrg[s.OrganizationGUID], *space)
	}
	for _, o := range orgs {
		spaces := inOrg[o.GUID]
		delete(inOrg, o.GUID)
		slices.SortFunc(spaces, func(a, b archive.Space) int { return strings.Compare(a.Name, b.Name) })
		content.List = append(content.List, archive.Org{Name: o.Name, Spaces: spaces})
	}
	slices.SortFunc(content.List, func(a, b archive.Org) int { return strings.Compare(a.Name, b.Name) })
	return content, len(inOrg) == 0, nil
}

type planName struct{ service, plan string }

// planNames returns the names of service and plan by the plan's guid. A service that is gone has no name.
func (c *Client) planNames(ctx context.Context) (map[string]planName, error) {
	services, err := c.Services(ctx)
	if err != nil {
		return nil, err
	}
	plans, err := c.ServicePlans(ctx)
	if err != nil {
		return nil, err
	}
	labels := make(map[string]string, len(services))
	for _, s := range services {
		labels[s.GUID] = s.Label
	}
	names := make(map[string]planName, len(plans))
	for _, p := range plans {
		names[p.GUID] = planName{service: cmp.Or(labels[p.ServiceGUID], "unknown"), plan: p.Name}
	}
	return names, nil
}
