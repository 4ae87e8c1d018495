package cloudcontroller

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a Controller. The zero value is a controller whose admin is admin@demo.example.com with the password "demo-password".
type Options struct {
	// User and Password of the admin.
	User, Password string
	// Maintenance says whether maintenance mode is on, and SetMaintenance switches it; nil for a state of the controller's own.
	Maintenance    func() bool
	SetMaintenance func(on bool)
	// Nodes returns the roles of each node by its address, for /v2/stackato/info; nil for none.
	Nodes func() map[string][]string
	// Components returns the state of each process by its node's address, RUNNING, STARTING, STOPPED or ROGUE, for /v2/stackato/components; nil for every process of
	// the nodes' roles as RUNNING.
	Components func() map[string]map[string]string
	// VendorVersion (default "v3.4.2") and Endpoint, the API's host name (default "api.demo.example.com").
	VendorVersion, Endpoint string
	// Version is the VendorVersion of the moment; nil = VendorVersion.
	Version func() string
	// TokenLife of an access token (default 10m). Refresh tokens do not expire.
	TokenLife time.Duration
}

// Controller is one Cloud Controller with its login. All methods can be used at any time by several goroutines.
type Controller struct {
	options Options
	mux     *http.ServeMux

	mu           sync.Mutex
	maintenance  bool // when Options does not say
	users        map[string]user
	access       map[string]grant // by access token
	refresh      map[string]string
	lists        map[string][]*item // by path segment, in the order of creation
	objects      map[string]*item   // by guid
	requests     []Request
	faults       []*fault
	delay        time.Duration
	afterPage    func(path string)
	omitEndpoint bool

	// of apps
	startTime, startSpread, stageTime time.Duration
	emptyWhileStaging                 bool
	staging                           map[*item]bool        // the apps that are being staged
	records                           map[string][]AppWrite // by guid, also of those that are gone
	revision, starts                  int                   // of all apps: counts changes, and starts

	noSupervisord map[string]bool
	processStates map[string]map[string]string // by node and process, where it was set
}

type user struct {
	guid, password string
	admin          bool
}

type grant struct {
	user    string
	expires time.Time
}

// item is an object of the API.
type item struct {
	list, guid string
	created    time.Time
	entity     map[string]any
	// of an app
	instances map[string]string // index -> state, when set
	life      life
}

// Request that was answered.
type Request struct {
	Time         time.Time
	Method, Path string
	// User that the token belongs to, "" without one.
	User string
	// Grant is the type that was asked for at the login, "" elsewhere.
	Grant string
	// Status of the answer, 0 for a connection that was reset.
	Status int
}

// vendorVersion is that of now.
func (c *Controller) vendorVersion() string {
	if c.options.Version != nil {
		return c.options.Version()
	}
	return c.options.VendorVersion
}

// New makes a controller without organizations.
func New(o Options) *Controller {
	if o.User == "" {
		o.User = "admin@demo.example.com"
	}
	if o.Password == "" {
		o.Password = "demo-password"
	}
	if o.VendorVersion == "" {
		o.VendorVersion = "v3.4.2"
	}
	if o.Endpoint == "" {
		o.Endpoint = "api.demo.example.com"
	}
	if o.TokenLife <= 0 {
		o.TokenLife = 10 * time.Minute
	}
	c := &Controller{
		options: o, users: map[string]user{}, access: map[string]grant{}, refresh: map[string]string{}, lists: map[string][]*item{}, objects: map[string]*item{},
		staging: map[*item]bool{}, records: map[string][]AppWrite{}, noSupervisord: map[string]bool{}, processStates: map[string]map[string]string{},
	}
	c.AddUser(o.User, o.Password, true)
	c.addStandard()
	c.routes()
	return c
}

func guid() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// RemoveUser removes an account.
func (c *Controller) RemoveUser(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(c.users[name].guid)
	delete(c.users, name)
}

// AddUser adds an account, or gives one another password. Who is no admin may read no list but empty ones.
func (c *Controller) AddUser(name, password string, admin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.find("users", c.users[name].guid)
	if u == nil {
		u = c.add("users", map[string]any{"username": name, "active": true, "default_space_guid": nil})
	}
	u.entity["admin"] = admin
	c.users[name] = user{guid: u.guid, password: password, admin: admin}
}

// User and Password are the admin's.
func (c *Controller) User() string     { return c.options.User }
func (c *Controller) Password() string { return c.options.Password }

// InMaintenance says whether maintenance mode is on.
func (c *Controller) InMaintenance() bool {
	if c.options.Maintenance != nil {
		return c.options.Maintenance()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.maintenance
}

// SetMaintenance switches maintenance mode, as PUT /v2/stackato/config does (kato.md §4).
func (c *Controller) SetMaintenance(on bool) {
	if c.options.SetMaintenance != nil {
		c.options.SetMaintenance(on)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maintenance = on
}

// add appends an object; the caller holds mu.
func (c *Controller) add(list string, entity map[string]any) *item {
	c.touched()
	i := &item{list: list, guid: guid(), created: time.Now().UTC(), entity: entity}
	c.lists[list], c.objects[i.guid] = append(c.lists[list], i), i
	return i
}

// named finds the object of a name, with the guid of what it belongs to under the key, or nil; the caller holds mu.
func (c *Controller) named(list, name, key, belongs string) *item {
	for _, i := range c.lists[list] {
		if (i.entity["name"] == name || i.entity["label"] == name) && (key == "" || i.entity[key] == belongs) {
			return i
		}
	}
	return nil
}

// AddOrg adds an organization unless there is one of this name.
func (c *Controller) AddOrg(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.org(name)
}

func (c *Controller) org(name string) *item {
	if o := c.named("organizations", name, "", ""); o != nil {
		return o
	}
	return c.add("organizations", map[string]any{"name": name, "status": "active", "billing_enabled": false})
}

// AddSpace adds a space, and its organization, unless they are there.
func (c *Controller) AddSpace(org, space string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.space(org, space)
}

func (c *Controller) space(org, space string) *item {
	o := c.org(org)
	if s := c.named("spaces", space, "organization_guid", o.guid); s != nil {
		return s
	}
	return c.add("spaces", map[string]any{"name": space, "organization_guid": o.guid})
}

// App to add.
type App struct {
	Name string
	// State is STARTED (default) or STOPPED.
	State string
	// PackageState is STAGED (default), PENDING or FAILED.
	PackageState string
	// Instances that are wanted (default 1).
	Instances int
	// Buildpack that is asked for, and Detected the one that was found.
	Buildpack, Detected string
	// Environment of the app.
	Environment map[string]string
}

// AddApp adds an app, with its organization and space unless they are there, and returns its guid.
func (c *Controller) AddApp(org, space string, a App) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.State == "" {
		a.State = "STARTED"
	}
	if a.PackageState == "" {
		a.PackageState = "STAGED"
	}
	if a.Instances == 0 {
		a.Instances = 1
	}
	if a.Environment == nil {
		a.Environment = map[string]string{}
	}
	return c.add("apps", map[string]any{
		"name": a.Name, "space_guid": c.space(org, space).guid, "state": a.State, "package_state": a.PackageState, "instances": a.Instances,
		"buildpack": orNull(a.Buildpack), "detected_buildpack": orNull(a.Detected), "environment_json": a.Environment, "memory": 256, "disk_quota": 2048,
		"version": guid(), "restart_required": false, "distribution_zone": "default", "sso_enabled": false, "production": false,
	}).guid
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// AddService adds a service instance of a service's plan, with all that it belongs to unless it is there, and returns its guid.
func (c *Controller) AddService(org, space, name, service, plan string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.plan(service, plan)
	return c.add("service_instances", map[string]any{
		"name": name, "space_guid": c.space(org, space).guid, "service_plan_guid": p.guid, "type": "managed_service_instance",
		"credentials": map[string]any{"password": "of-" + name},
	}).guid
}

// AddUserProvidedService adds a service instance that a user provided, and returns its guid.
func (c *Controller) AddUserProvidedService(org, space, name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.add("user_provided_service_instances", map[string]any{
		"name": name, "space_guid": c.space(org, space).guid, "type": "user_provided_service_instance", "credentials": map[string]any{"uri": "https://elsewhere.example.org"},
	}).guid
}

// Remove takes an object of any kind away.
func (c *Controller) Remove(guid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(guid)
}

func (c *Controller) remove(guid string) {
	if gone := c.objects[guid]; gone != nil {
		c.touched()
		c.lists[gone.list] = slices.DeleteFunc(c.lists[gone.list], func(i *item) bool { return i == gone })
		delete(c.objects, guid)
		delete(c.staging, gone)
	}
}

// AppState returns the state of an app, "" for none of this guid.
func (c *Controller) AppState(guid string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.find("apps", guid); a != nil {
		state, _ := a.entity["state"].(string)
		return state
	}
	return ""
}

// SetInstances says what is answered as the states of an app's instances, until HealApp; without one, it is what StartTime and the app's faults make of them.
func (c *Controller) SetInstances(guid string, states ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.find("apps", guid); a != nil {
		a.instances = map[string]string{}
		for i, s := range states {
			a.instances[fmt.Sprint(i)] = s
		}
	}
}

// find returns the object of a guid, or nil; the caller holds mu.
func (c *Controller) find(list, guid string) *item {
	if i := c.objects[guid]; i != nil && i.list == list {
		return i
	}
	return nil
}

// Fill adds orgs with spaces and apps in each, named org-1, space-1, app-1 and so on, every third app stopped, and a mysql service in each space.
func (c *Controller) Fill(orgs, spaces, apps int) {
	for o := range orgs {
		org := fmt.Sprintf("org-%d", o+1)
		c.AddOrg(org)
		for s := range spaces {
			space := fmt.Sprintf("space-%d", s+1)
			c.AddService(org, space, "db", "mysql", "free")
			for a := range apps {
				app := App{Name: fmt.Sprintf("app-%d", a+1), Instances: a%3 + 1, Detected: "Ruby/Rack"}
				if a%3 == 2 {
					app.State = "STOPPED"
				}
				c.AddApp(org, space, app)
			}
		}
	}
}

// Requests returns what was answered so far.
func (c *Controller) Requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Count returns how many requests of a method had a path that begins so; "" for every method.
func (c *Controller) Count(method, path string) int {
	n := 0
	for _, r := range c.Requests() {
		if (method == "" || r.Method == method) && strings.HasPrefix(r.Path, path) {
			n++
		}
	}
	return n
}
