package controller

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Organization of a cluster.
type Organization struct{ GUID, Name string }

// Space of an organization.
type Space struct{ GUID, Name, OrganizationGUID string }

// ServiceInstance is a service of a space.
type ServiceInstance struct {
	GUID, Name, SpaceGUID string
	// PlanGUID is "" for one that a user provided.
	PlanGUID     string
	UserProvided bool
}

// ServicePlan of a service.
type ServicePlan struct{ GUID, Name, ServiceGUID string }

// Service is an offering, such as mysql.
type Service struct{ GUID, Label string }

// Organizations lists all organizations.
func (c *Client) Organizations(ctx context.Context) ([]Organization, error) {
	type entity struct {
		Name string `json:"name"`
	}
	return listAs(ctx, c, "organizations", func(guid string, e entity) Organization { return Organization{GUID: guid, Name: e.Name} })
}

// DeleteOrganization deletes an organization with all its spaces, apps and services. One that is not there is no error. KindMaintenance while maintenance mode is on (kato.md §4);
// that the controller takes recursive is its API as version 2 documents it.
func (c *Client) DeleteOrganization(ctx context.Context, guid string) error {
	err := c.do(ctx, request{what: "delete organization " + c.clean(guid), method: http.MethodDelete, path: "/v2/organizations/" + url.PathEscape(guid) + "?recursive=true"}, nil)
	if IsKind(err, KindNotFound) {
		return nil
	}
	return err
}

// Spaces lists the spaces of all organizations.
func (c *Client) Spaces(ctx context.Context) ([]Space, error) {
	type entity struct {
		Name         string `json:"name"`
		Organization string `json:"organization_guid"`
	}
	return listAs(ctx, c, "spaces", func(guid string, e entity) Space {
		return Space{GUID: guid, Name: e.Name, OrganizationGUID: e.Organization}
	})
}

// ServiceInstances lists the services of all spaces, those that a user provided too.
func (c *Client) ServiceInstances(ctx context.Context) ([]ServiceInstance, error) {
	type entity struct {
		Name  string `json:"name"`
		Space string `json:"space_guid"`
		Plan  string `json:"service_plan_guid"`
	}
	managed, err := listAs(ctx, c, "service_instances", func(guid string, e entity) ServiceInstance {
		return ServiceInstance{GUID: guid, Name: e.Name, SpaceGUID: e.Space, PlanGUID: e.Plan}
	})
	if err != nil {
		return nil, err
	}
	provided, err := listAs(ctx, c, "user_provided_service_instances", func(guid string, e entity) ServiceInstance {
		return ServiceInstance{GUID: guid, Name: e.Name, SpaceGUID: e.Space, UserProvided: true}
	})
	if err != nil {
		return nil, err
	}
	// A controller may list those of users among the others, too.
	ofUsers := make(map[string]bool, len(provided))
	for _, s := range provided {
		ofUsers[s.GUID] = true
	}
	managed = slices.DeleteFunc(managed, func(s ServiceInstance) bool { return ofUsers[s.GUID] })
	return append(managed, provided...), nil
}

// ServicePlans lists the plans of all services.
func (c *Client) ServicePlans(ctx context.Context) ([]ServicePlan, error) {
	type entity struct {
		Name    string `json:"name"`
		Service string `json:"service_guid"`
	}
	return listAs(ctx, c, "service_plans", func(guid string, e entity) ServicePlan {
		return ServicePlan{GUID: guid, Name: e.Name, ServiceGUID: e.Service}
	})
}

// Services lists the offerings.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	type entity struct {
		Label string `json:"label"`
	}
	return listAs(ctx, c, "services", func(guid string, e entity) Service { return Service{GUID: guid, Label: e.Label} })
}

func listAs[E, T any](ctx context.Context, c *Client, what string, convert func(guid string, e E) T) ([]T, error) {
	found, err := list[E](ctx, c, what)
	if err != nil {
		return nil, err
	}
	all := make([]T, len(found))
	for i, r := range found {
		all[i] = convert(r.Metadata.GUID, r.Entity)
	}
	return all, nil
}

// withoutCredentials takes user, password and query out of a URL: the buildpack of an app may be a private repository.
func withoutCredentials(s string) string {
	scheme, _, isURL := strings.Cut(s, "://")
	if !isURL {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		return scheme + "://..."
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// Buildpack by which apps are staged.
type Buildpack struct{ GUID, Name string }

// Buildpacks lists those of the cluster: the platform's, and those that somebody has added. Its API is that of version 2 of the Cloud Controller; what ALS has of it is not in its documentation.
func (c *Client) Buildpacks(ctx context.Context) ([]Buildpack, error) {
	type entity struct {
		Name string `json:"name"`
	}
	return listAs(ctx, c, "buildpacks", func(guid string, e entity) Buildpack { return Buildpack{GUID: guid, Name: e.Name} })
}
