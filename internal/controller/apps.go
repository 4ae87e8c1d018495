package controller

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/webclient"
)

// The states of an app (kato.md §6.1).
const (
	Started = "STARTED"
	Stopped = "STOPPED"
)

// The states of an app's package: being staged or never staged, staged, failed to stage (kato.md §6.1).
const (
	Pending = "PENDING"
	Staged  = "STAGED"
	Failed  = "FAILED"
)

// The states of an instance (kato.md §6.1). Right after a start an instance is Down, too.
const (
	Running  = "RUNNING"
	Starting = "STARTING"
	Down     = "DOWN"
	Flapping = "FLAPPING"
)

// App as the controller keeps it (kato.md §6.1).
type App struct {
	GUID, Name, SpaceGUID string
	// State that is wanted: Started or Stopped. Whether instances run is told by Instances.
	State string
	// PackageState is Pending, Staged or Failed.
	PackageState string
	// Instances that are wanted.
	Instances int
	// Buildpack that the app asks for, else the one that was found for it; the user and query of a URL are left out.
	Buildpack string
	// RestartRequired after a change of its environment.
	RestartRequired bool
	// Version is another one after each start and each restage, and stays at a stop (kato.md §6.1; when it changes: the controller's source). Who kept it from before
	// can tell whether a start whose answer was lost has been carried out. "" when the controller does not say it.
	Version string
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
	Version         string `json:"version"`
}

func (e appEntity) app(guid string) App {
	return App{
		GUID: guid, Name: e.Name, SpaceGUID: e.Space, State: e.State, PackageState: e.PackageState, Instances: e.Instances,
		Buildpack: withoutCredentials(cmp.Or(e.Buildpack, e.Detected)), RestartRequired: bool(e.RestartRequired), Version: e.Version,
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

// SetAppState asks the controller to start or stop an app and returns the app as it answers; what its instances do then is AppInstances' to tell. Asking twice for
// the same is harmless: what is started is not started again. An app that is not staged is staged first. KindMaintenance while maintenance mode is on, KindNotFound when there is
// no such app, KindStagingFailed when the staging fails at once, KindOther with the name CF-AppPackageInvalid when the app has no bits (kato.md §4, §6.1).
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

// RestageApp asks the controller to stage an app anew and returns the app, which is Pending then as a rule. The controller stops the app, and starts it when it is
// staged: also one that was stopped before (the controller's source). KindNotStaged when it is being staged or never was (to start it stages it), KindNotFound when
// there is no such app (kato.md §6.1). Maintenance mode does not keep it from being done (kato.md §4).
//
// Done twice, the app is staged and restarted twice; while the first staging is at work the second is refused with KindNotStaged. So an answer that is lost is not followed by
// another try before the app's Version has shown that nothing was done, and where that cannot be found out the error is returned, with Retryable. A caller that may
// be begun anew after its own death compares the Version that it kept from before the first call.
func (c *Client) RestageApp(ctx context.Context, guid string) (App, error) {
	before, err := c.App(ctx, guid)
	if err != nil {
		return App{}, err
	}
	for n := 1; ; n++ {
		var r resource[appEntity]
		err := c.do(ctx, request{
			what: "restage app " + c.clean(guid), method: http.MethodPost, path: "/v2/apps/" + url.PathEscape(guid) + "/restage", once: true,
		}, &r)
		var e *Error
		switch {
		case err == nil && r.Metadata.GUID == before.GUID:
			return r.Entity.app(before.GUID), nil
		case err == nil: // the answer of a controller that does it as a job
			return c.App(ctx, guid)
		case !errors.As(err, &e) || !e.passing || before.Version == "":
			return App{}, err
		}
		c.log.Warn("the answer to a restage was lost, finding out what came of it", zap.String("app", c.clean(guid)), zap.Int("attempt", n), zap.String("error", e.Message))
		now, err := c.App(ctx, guid)
		switch {
		case err != nil:
			return App{}, err
		case now.Version != before.Version:
			return now, nil
		case n >= c.cfg.Attempts:
			return App{}, afterAttempts(e, n)
		}
		if err := webclient.Pause(ctx, n, c.cfg.MaxBackoff); err != nil {
			return App{}, err
		}
	}
}

// AppInstances returns the state of each instance that the controller knows of, by its index: Running, Starting, Down, Flapping and others. The refusals: KindStopped,
// KindNotStaged while the app is being staged, KindStagingFailed, KindNotFound (kato.md §6.1). There may be fewer than are wanted, or none: one version of the controller
// answers so, instead of KindNotStaged, while the app is being staged.
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

// PlacedApp is an app with the names of where it is.
type PlacedApp struct {
	App
	Org, Space string
}

// AppTree lists the apps of all spaces with the names of space and organization, sorted by organization, space and name. It asks as an admin, and fails with KindForbidden for
// anybody else, who would see a part. Where apps or spaces come while it reads, so that one has no place, it reads again; KindChanged when that goes on.
func (c *Client) AppTree(ctx context.Context) ([]PlacedApp, error) {
	return whole(ctx, c, "list apps with their places", c.appTreeOnce)
}

// appTreeOnce lists the apps and says whether every one has its place.
func (c *Client) appTreeOnce(ctx context.Context) (all []PlacedApp, complete bool, err error) {
	orgs, err := c.Organizations(ctx)
	if err != nil {
		return nil, false, err
	}
	spaces, err := c.Spaces(ctx)
	if err != nil {
		return nil, false, err
	}
	apps, err := c.Apps(ctx)
	if err != nil {
		return nil, false, err
	}
	orgNames := make(map[string]string, len(orgs))
	for _, o := range orgs {
		orgNames[o.GUID] = o.Name
	}
	places := make(map[string]PlacedApp, len(spaces))
	for _, s := range spaces {
		if org, known := orgNames[s.OrganizationGUID]; known {
			places[s.GUID] = PlacedApp{Org: org, Space: s.Name}
		}
	}
	all = make([]PlacedApp, len(apps))
	for i, a := range apps {
		place, known := places[a.SpaceGUID]
		if !known {
			return nil, false, nil
		}
		place.App = a
		all[i] = place
	}
	slices.SortFunc(all, func(a, b PlacedApp) int {
		return cmp.Or(strings.Compare(a.Org, b.Org), strings.Compare(a.Space, b.Space), strings.Compare(a.Name, b.Name))
	})
	return all, true, nil
}
