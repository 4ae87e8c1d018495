package cloudcontroller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

var _ katodouble.Database = (*Controller)(nil)

// Dump returns everything that kato exports of the controller.
func (c *Controller) Dump(context.Context) (content katodouble.Content, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(time.Now())
	text := func(i *item, key string) string {
		s, _ := i.entity[key].(string)
		return s
	}
	number := func(i *item, key string) int {
		switch n := i.entity[key].(type) {
		case int:
			return n
		case float64: // of a request
			return int(n)
		}
		return 0
	}
	for _, o := range c.lists["organizations"] {
		content.Orgs = append(content.Orgs, text(o, "name"))
	}
	spaces := map[string]katodouble.SpaceEntry{}
	for _, s := range c.lists["spaces"] {
		org := c.find("organizations", text(s, "organization_guid"))
		if org == nil {
			continue
		}
		spaces[s.guid] = katodouble.SpaceEntry{Org: text(org, "name"), Name: text(s, "name")}
		content.Spaces = append(content.Spaces, spaces[s.guid])
	}
	for _, u := range c.lists["users"] {
		name := text(u, "username")
		content.Users = append(content.Users, katodouble.UserEntry{Name: name, Password: c.users[name].password, Admin: c.users[name].admin})
	}
	for _, a := range c.lists["apps"] {
		in, ok := spaces[text(a, "space_guid")]
		if !ok {
			continue
		}
		environment := map[string]any{}
		switch values := a.entity["environment_json"].(type) {
		case map[string]string:
			for key, value := range values {
				environment[key] = value
			}
		case map[string]any:
			environment = values
		}
		content.Apps = append(content.Apps, katodouble.AppEntry{
			GUID: a.guid, Org: in.Org, Space: in.Name, Name: text(a, "name"), State: text(a, "state"), PackageState: text(a, "package_state"),
			Instances: number(a, "instances"), Memory: number(a, "memory"), Disk: number(a, "disk_quota"), Buildpack: text(a, "buildpack"),
			Detected: text(a, "detected_buildpack"), Environment: environment,
		})
	}
	for _, list := range []string{"service_instances", "user_provided_service_instances"} {
		for _, i := range c.lists[list] {
			in, ok := spaces[text(i, "space_guid")]
			if !ok {
				continue
			}
			s := katodouble.ServiceEntry{GUID: i.guid, Org: in.Org, Space: in.Name, Name: text(i, "name")}
			if plan := c.find("service_plans", text(i, "service_plan_guid")); plan != nil {
				s.Plan = text(plan, "name")
				if offering := c.find("services", text(plan, "service_guid")); offering != nil {
					s.Service = text(offering, "label")
				}
			}
			content.Services = append(content.Services, s)
		}
	}
	return content, nil
}

// Load is what an import writes to the database. An app or service of the same org, space and name is replaced in place and has the archive's guid from then on, its
// own one is unknown; one of the same guid that has another name gets the archive's. All else of the controller stays, also a user of the same name with the
// password. Replaced apps keep their faults. Maintenance mode does not matter.
func (c *Controller) Load(_ context.Context, content katodouble.Content) error {
	for _, a := range content.Apps {
		if a.Org == "" || a.Space == "" || a.Name == "" || a.State != "STARTED" && a.State != "STOPPED" {
			return fmt.Errorf("app %q with the state %q is no record of the table apps", a.Path(), a.State)
		}
	}
	for _, u := range content.Users {
		c.mu.Lock()
		_, known := c.users[u.Name]
		c.mu.Unlock()
		if !known {
			c.AddUser(u.Name, u.Password, u.Admin)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.settle(now)
	for _, o := range content.Orgs {
		c.org(o)
	}
	for _, s := range content.Spaces {
		c.space(s.Org, s.Name)
	}
	for _, a := range content.Apps {
		c.loadApp(a, now)
	}
	for _, s := range content.Services {
		entity := map[string]any{"name": s.Name, "space_guid": c.space(s.Org, s.Space).guid}
		if s.Service == "" {
			entity["type"], entity["credentials"] = "user_provided_service_instance", map[string]any{"uri": "https://elsewhere.example.org"}
			c.load("user_provided_service_instances", s.GUID, entity)
			continue
		}
		entity["service_plan_guid"] = c.plan(s.Service, s.Plan).guid
		entity["type"], entity["credentials"] = "managed_service_instance", map[string]any{"password": "of-" + s.Name}
		c.load("service_instances", s.GUID, entity)
	}
	return nil
}

// loadApp writes one app; the caller holds mu.
func (c *Controller) loadApp(a katodouble.AppEntry, now time.Time) {
	if a.PackageState == "" {
		a.PackageState = "STAGED"
	}
	if a.Instances == 0 {
		a.Instances = 1
	}
	if a.Memory == 0 {
		a.Memory = 256
	}
	if a.Disk == 0 {
		a.Disk = 2048
	}
	if a.Environment == nil {
		a.Environment = map[string]any{}
	}
	i := c.load("apps", a.GUID, map[string]any{
		"name": a.Name, "space_guid": c.space(a.Org, a.Space).guid, "state": a.State, "package_state": a.PackageState, "instances": a.Instances,
		"buildpack": orNull(a.Buildpack), "detected_buildpack": orNull(a.Detected), "environment_json": a.Environment, "memory": a.Memory, "disk_quota": a.Disk,
		"version": guid(), "restart_required": false, "distribution_zone": "default", "sso_enabled": false, "production": false,
	})
	delete(c.staging, i)
	c.touched()
	i.life.stageFails, i.life.stageNo = false, false
	c.records[i.guid] = append(c.records[i.guid], AppWrite{now, "import"})
}

// load writes an object: in place of the one of this guid, and of the one of this name in this space; the caller holds mu.
func (c *Controller) load(list, guid string, entity map[string]any) *item {
	if of := c.objects[guid]; of != nil && of.list != list {
		guid = "" // of another kind, which the double's archives do not have
	}
	here := c.named(list, fmt.Sprint(entity["name"]), "space_guid", fmt.Sprint(entity["space_guid"]))
	same := c.find(list, guid)
	if same != nil && here != nil && here != same {
		c.remove(here.guid)
		here = same
	}
	if here == nil {
		here = same
	}
	if here == nil {
		here = c.add(list, entity)
	}
	here.entity = entity
	if guid != "" && guid != here.guid {
		delete(c.objects, here.guid)
		here.guid, c.objects[guid] = guid, here
	}
	return here
}

// plan of a service, with both unless they are there; the caller holds mu.
func (c *Controller) plan(service, plan string) *item {
	s := c.named("services", service, "", "")
	if s == nil {
		s = c.add("services", map[string]any{"label": service, "active": true, "bindable": true})
	}
	p := c.named("service_plans", plan, "service_guid", s.guid)
	if p == nil {
		p = c.add("service_plans", map[string]any{"name": plan, "service_guid": s.guid, "free": true, "public": true})
	}
	return p
}

// Redeploy is what an import does with an app that was started: it goes through the API, which refuses it in maintenance mode (kato.md §4; that kato does it so is
// [I]). The app's faults StagingFails, StagingHangs and StartRefused are met, AppTime and StartTime hold once it is staged. A caller that goes leaves the
// staging at work.
func (c *Controller) Redeploy(ctx context.Context, r katodouble.Redeployment) error {
	if c.InMaintenance() {
		return errMaintenance
	}
	now := time.Now()
	c.mu.Lock()
	a := c.appNamed(r.Org, r.Space, r.App)
	if a == nil {
		c.mu.Unlock()
		return notFound("apps", r.App)
	}
	if a.life.meets(StartRefused) {
		c.mu.Unlock()
		return apiError{400, 150001, "AppPackageInvalid", "The app package is invalid: bits have not been uploaded"}
	}
	before, takes := a.entity["package_state"], c.stageTime
	if r.Seconds > 0 {
		takes = time.Duration(r.Seconds * float64(time.Second))
	}
	a.entity["state"], a.entity["version"], a.entity["restart_required"] = "STARTED", guid(), false
	c.stageFor(a, now, takes, r.Fails)
	c.wrote(a, "redeploy", now)
	id := a.guid
	c.mu.Unlock()

	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c.mu.Lock()
		c.settle(time.Now())
		a := c.find("apps", id)
		state := any("")
		if a != nil {
			state = a.entity["package_state"]
		}
		if state == "FAILED" && r.Stops {
			a.entity["state"], a.entity["package_state"] = "STOPPED", before
			c.touched()
		}
		c.mu.Unlock()
		switch state {
		case "STAGED":
			return nil
		case "":
			return notFound("apps", id)
		case "FAILED":
			return apiError{400, 170001, "StagingError", "Staging error: staging failed"}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// appNamed finds an app; the caller holds mu.
func (c *Controller) appNamed(org, space, name string) *item {
	o := c.named("organizations", org, "", "")
	if o == nil {
		return nil
	}
	s := c.named("spaces", space, "organization_guid", o.guid)
	if s == nil {
		return nil
	}
	return c.named("apps", name, "space_guid", s.guid)
}

// AppGUID returns the guid of an app, "" for none of this name.
func (c *Controller) AppGUID(org, space, name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.appNamed(org, space, name); a != nil {
		return a.guid
	}
	return ""
}

// Empty removes every org, space, app and service, as on a cluster that is new; users stay.
func (c *Controller) Empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, list := range []string{"apps", "service_instances", "user_provided_service_instances", "service_plans", "services", "spaces", "organizations"} {
		for _, i := range slices.Clone(c.lists[list]) {
			c.remove(i.guid)
		}
	}
}
