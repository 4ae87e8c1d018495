package controller

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Organization of a cluster.
type Organization struct{ GUID, Name string }

// Space of an organization.
type Space struct{ GUID, Name, OrganizationGUID string }

// The states of an app (kato.md §6.1).
const (
	Started = "STARTED"
	Stopped = "STOPPED"
)

// App as the controller keeps it (kato.md §6.1).
type App struct {
	GUID, Name, SpaceGUID string
	// State that is wanted: Started or Stopped. Whether instances run is told by Instances.
	State string
	// PackageState is PENDING, STAGED or FAILED.
	PackageState string
	// Instances that are wanted.
	Instances int
	// Buildpack that the app asks for, else the one that was found for it; the user and query of a URL are left out.
	Buildpack string
	// RestartRequired after a change of its environment.
	RestartRequired bool
}

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

// appEntity leaves out what an app keeps in its environment: passwords often are.
type appEntity struct {
	Name            string `json:"name"`
	Space           string `json:"space_guid"`
	State           string `json:"state"`
	PackageState    string `json:"package_state"`
	Instances       int    `json:"instances"`
	Buildpack       string `json:"buildpack"`
	Detected        string `json:"detected_buildpack"`
	RestartRequired truth  `json:"restart_required"`
}

func (e appEntity) app(guid string) App {
	return App{
		GUID: guid, Name: e.Name, SpaceGUID: e.Space, State: e.State, PackageState: e.PackageState, Instances: e.Instances,
		Buildpack: withoutCredentials(cmp.Or(e.Buildpack, e.Detected)), RestartRequired: bool(e.RestartRequired),
	}
}

// Apps lists the apps of all spaces.
func (c *Client) Apps(ctx context.Context) ([]App, error) {
	return listAs(ctx, c, "apps", func(guid string, e appEntity) App { return e.app(guid) })
}

// App asks for one app; KindNotFound when there is none.
func (c *Client) App(ctx context.Context, guid string) (App, error) {
	var r resource[appEntity]
	err := c.do(ctx, request{what: "read app " + c.clean(guid), method: http.MethodGet, path: "/v2/apps/" + url.PathEscape(guid)}, &r)
	if err != nil {
		return App{}, err
	}
	return r.Entity.app(r.Metadata.GUID), nil
}

// SetAppState asks the controller to start or stop an app and returns the app as it answers. Asking twice for the same is harmless. KindMaintenance
// while maintenance mode is on, KindNotFound when there is no such app (kato.md §4, §6.1).
func (c *Client) SetAppState(ctx context.Context, guid, state string) (App, error) {
	var r resource[appEntity]
	err := c.do(ctx, request{
		what: "set app " + c.clean(guid) + " to " + c.clean(state), method: http.MethodPut, path: "/v2/apps/" + url.PathEscape(guid), body: map[string]any{"state": state},
	}, &r)
	if err != nil {
		return App{}, err
	}
	return r.Entity.app(r.Metadata.GUID), nil
}

// AppInstances returns the state of each instance that the controller knows of, by its index: RUNNING, STARTING, DOWN, FLAPPING and others. KindNotStaged
// while the app is being staged; KindOther with the name CF-InstancesError for a stopped one (kato.md §6.1).
func (c *Client) AppInstances(ctx context.Context, guid string) (map[int]string, error) {
	what := "ask for the instances of app " + c.clean(guid)
	var answer map[string]struct {
		State string `json:"state"`
	}
	if err := c.do(ctx, request{what: what, method: http.MethodGet, path: "/v2/apps/" + url.PathEscape(guid) + "/instances"}, &answer); err != nil {
		return nil, err
	}
	instances := make(map[int]string, len(answer))
	for index, instance := range answer {
		i, err := strconv.Atoi(index)
		if err != nil {
			return nil, c.failure(KindAnswer, what, "an instance without a number", "check controller.url")
		}
		instances[i] = instance.State
	}
	return instances, nil
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
