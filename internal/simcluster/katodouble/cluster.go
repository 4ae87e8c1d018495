package katodouble

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// State of a role or a process, in kato's words (kato.md §3.5).
type State string

// The states.
const (
	Running  State = "RUNNING"
	Starting State = "STARTING"
	Stopped  State = "STOPPED"
	Fatal    State = "FATAL"
)

// roleOrder is the start order of kato.md §2.
var roleOrder = []string{"base", "mdns", "primary", "controller", "router", "dea", "postgresql", "mysql", "rabbit", "rabbit3", "mongodb", "redis", "filesystem", "harbor", "memcached", "load_balancer"}

// Processes of a role (kato.md §2).
func Processes(role string) []string {
	switch role {
	case "base":
		return []string{"cloud_events", "logyard", "logyard_remote", "systail"}
	case "mdns":
		return []string{"app_mdns", "avahi_daemon"}
	case "primary":
		return []string{"config_redis", "nats_server", "postgresql", "redis_server"}
	case "controller":
		return []string{"cloud_controller_ng", "cc_nginx", "stackato_rest", "app_store", "aok", "health_manager"}
	case "router":
		return []string{"router2g"}
	case "dea":
		return []string{"dea_ng", "dir_server", "fence", "apptail"}
	case "mysql", "postgresql":
		return []string{role, role + "_node", role + "_gateway", "redis_server"}
	case "redis", "mongodb":
		return []string{role + "_node", role + "_gateway", "redis_server"}
	case "harbor":
		return []string{"harbor_node", "harbor_gateway", "harbor_proxy_connector", "harbor_redis"}
	case "load_balancer":
		return []string{"nginx_load_balancer"}
	}
	return []string{role + "_node", role + "_gateway"}
}

// Cluster is the state all nodes' kato share.
type Cluster struct {
	mu      sync.Mutex
	version string
	nodes   map[string]*node
	order   []string
	config  map[string]any // component -> nested maps
	history []Command
	legacy  bool            // status hangs while a node is offline
	exports map[string]bool // by the node they run on; whether they are of the whole cluster
	imports map[string]bool // likewise
	// upgrades likewise, of nodes; never of the whole cluster.
	upgrades map[string]bool
	marked   func(id string, there bool) // see OnMarker
	upgraded func(id string)             // see OnUpgraded
	main     Database                    // nil: no Cloud Controller is joined
	// manifest is the URL of the vendor's.
	manifest string

	// Of the kato of a real node, which asks the other nodes for their state (Site.Run); never set in process.
	localAway bool                  // the local node does not answer
	coreAway  string                // the Core's id, when it does not answer
	refresh   func(context.Context) // asks again, while a command waits
	// exportBegin and importBegin do what beginExport and beginImport do in process.
	exportBegin func(ctx context.Context, id string, whole bool) (Export, func(), error)
	importBegin func(ctx context.Context, id string, whole bool) (Import, func(), error)
	// patchTake, patchFetch and nodeChange likewise what takePatches, fetchFor and changeNode do.
	patchTake  func(ctx context.Context, id string) (NodePatches, error)
	patchFetch func(ctx context.Context, id, name string) error
	nodeChange func(ctx context.Context, id string, p StatePatch) error
	// relocateTake likewise what takeRelocation does.
	relocateTake func(ctx context.Context, id string) (Relocate, error)
	// upgradeTake, upgradeBegin and nodeRetire likewise what takeUpgrade, beginUpgrade and retireNow do.
	upgradeTake  func(ctx context.Context, id string, want UpgradeRequest) (Upgrade, error)
	upgradeBegin func(ctx context.Context, id string) (func(), error)
	nodeRetire   func(ctx context.Context, id string) error
}

type node struct {
	id, name       string
	version        string
	roles          []string
	up             bool
	booted         time.Time
	startTime      time.Duration
	restartTime    time.Duration
	stopped        map[string]bool
	never          map[string]bool // since the next boot
	stuck          map[string]bool // never, as of this boot
	restarted      map[string]time.Time
	apps, capacity int
	retired        bool
	exitZero       bool
	prompts        bool
	export         Export
	imports        Import
	patches        NodePatches
	relocate       Relocate
	upgrade        Upgrade
	boot           time.Time // of this boot, by the clock of what it is known from: it only tells boots apart
}

// Command is one kato call, as `kato history` keeps it (kato.md §1).
type Command struct {
	Time time.Time `json:"time"`
	Node string    `json:"node"`
	Args []string  `json:"args"`
	Exit int       `json:"exit"`
}

// New makes a cluster without nodes.
func New(version string) *Cluster {
	return &Cluster{version: version, nodes: map[string]*node{}, config: map[string]any{
		"cloud_controller_ng": map[string]any{"maintenance_mode": false},
		"cluster":             map[string]any{"endpoint": "api.demo.example.com"},
		"mysql_node":          map[string]any{"mysql": map[string]any{"host": localDatabase, "port": int64(3306)}},
		"postgresql_node":     map[string]any{"postgresql": map[string]any{"host": localDatabase, "port": int64(5432)}},
		"fence":               map[string]any{"docker": map[string]any{"images": []any{"stackato/stack-alsek", "stackato/stack/alsek"}}},
	}}
}

// localDatabase is where the data services' databases are until an external one is configured; the key is known, its first value is not (kato.md §3.1).
const localDatabase = "127.0.0.1"

// SetDatabaseHost configures where the database of a data service ("mysql" or "postgresql") is; "" = on its own node.
func (c *Cluster) SetDatabaseHost(service, host string) error {
	change, err := DatabaseHost(service, host)
	if err != nil {
		return err
	}
	return c.ChangeConfig([]ConfigChange{change})
}

// DatabaseHost is the change of the configuration that SetDatabaseHost makes.
func DatabaseHost(service, host string) (ConfigChange, error) {
	if service != "mysql" && service != "postgresql" {
		return ConfigChange{}, fmt.Errorf("%q is neither mysql nor postgresql", service)
	}
	if host == "" {
		host = localDatabase
	}
	return ConfigChange{Path: []string{service + "_node", service, "host"}, Value: host}, nil
}

// AddNode adds a running node. id is its address (kato.md §1), apps the instances a DEA runs.
func (c *Cluster) AddNode(id, name string, roles []string, apps int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sorted := slices.Clone(roles)
	if !slices.Contains(sorted, "base") {
		sorted = append(sorted, "base") // mandatory on every node
	}
	slices.SortStableFunc(sorted, func(a, b string) int { return slices.Index(roleOrder, a) - slices.Index(roleOrder, b) })
	n := &node{id: id, name: name, version: c.version, roles: sorted, up: true, booted: time.Now(), stopped: map[string]bool{}, never: map[string]bool{}, stuck: map[string]bool{}, restarted: map[string]time.Time{}}
	n.boot = n.booted
	if slices.Contains(roles, "dea") {
		n.apps, n.capacity = apps, 3*apps
	}
	c.nodes[id] = n
	c.order = append(c.order, id)
	if cl := c.config["cluster"].(map[string]any); slices.Contains(roles, "primary") {
		cl["mbusip"] = id
	}
}

func (c *Cluster) with(id string, f func(*node)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[id]; n != nil {
		f(n)
	}
}

// NodeUp tells that a node has booted; its roles go STOPPED, STARTING, RUNNING over startTime, unless its components are upgraded by half.
func (c *Cluster) NodeUp(id string, startTime time.Duration) {
	c.with(id, func(n *node) {
		n.up, n.booted, n.startTime, n.retired = true, time.Now(), startTime, false
		n.stopped = map[string]bool{}
		n.stuck = map[string]bool{}
		n.restarted = map[string]time.Time{}
		n.boot = n.booted
		for r := range n.never {
			n.stuck[r] = true
		}
		if n.upgrade.Interrupted != "" {
			n.stopped = set(n.roles)
		}
	})
}

// SetRestartTime says how long a role of a node that is restarted takes from STARTING to RUNNING.
func (c *Cluster) SetRestartTime(id string, d time.Duration) {
	c.with(id, func(n *node) { n.restartTime = d })
}

// NodeDown tells that a node is off.
func (c *Cluster) NodeDown(id string) { c.with(id, func(n *node) { n.up = false }) }

// SetExitAlwaysZero makes every command of the node's kato exit 0 (kato.md §0.4).
func (c *Cluster) SetExitAlwaysZero(id string, on bool) {
	c.with(id, func(n *node) { n.exitZero = on })
}

// SetPrompts makes the node's kato ask for a sudo password and wait (kato.md §0.5).
func (c *Cluster) SetPrompts(id string, on bool) { c.with(id, func(n *node) { n.prompts = on }) }

// SetLegacyStatus makes `kato status` hang while any node is offline (kato.md §0.7).
func (c *Cluster) SetLegacyStatus(on bool) {
	c.mu.Lock()
	c.legacy = on
	c.mu.Unlock()
}

// StopRole stops a role until the next boot.
func (c *Cluster) StopRole(id, role string) { c.with(id, func(n *node) { n.stopped[role] = true }) }

// RoleNeverStarts keeps a role STARTING after every boot from the next on.
func (c *Cluster) RoleNeverStarts(id, role string) {
	c.with(id, func(n *node) { n.never[role] = true })
}

// StartRole starts a role and heals RoleNeverStarts.
func (c *Cluster) StartRole(id, role string) {
	c.with(id, func(n *node) {
		delete(n.stopped, role)
		delete(n.never, role)
		delete(n.stuck, role)
	})
}

// Maintenance says whether cloud_controller_ng's maintenance_mode is on (kato.md §4).
func (c *Cluster) Maintenance() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.config["cloud_controller_ng"].(map[string]any)["maintenance_mode"]
	return v == true || v == "true"
}

// SetMaintenance switches it, as the Cloud Controller does when it is asked to (kato.md §4).
func (c *Cluster) SetMaintenance(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config["cloud_controller_ng"].(map[string]any)["maintenance_mode"] = on
}

// Apps is the number of app instances on a node.
func (c *Cluster) Apps(id string) (apps int) {
	c.with(id, func(n *node) { apps = n.apps })
	return apps
}

// History returns the commands run so far.
func (c *Cluster) History() []Command {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.history)
}

// roleState follows the clock since the boot: the first third STOPPED, then STARTING. A role that was restarted is STARTING all the while.
func (n *node) roleState(role string) State {
	switch {
	case n.stopped[role]:
		return Stopped
	case n.stuck[role], time.Since(n.restarted[role]) < n.restartTime:
		return Starting
	}
	switch since := time.Since(n.booted); {
	case since >= n.startTime:
		return Running
	case since >= n.startTime/3:
		return Starting
	}
	return Stopped
}

func (n *node) processes() map[string]State {
	out := map[string]State{}
	for _, r := range n.roles {
		st := n.roleState(r)
		for _, p := range Processes(r) {
			if old, shared := out[p]; !shared || old != Running { // a process of two roles runs when one of them does
				out[p] = st
			}
		}
	}
	return out
}

func (n *node) ready(process string) (ready, known bool) {
	all := n.processes()
	if process == "all" {
		for _, st := range all {
			if st != Running {
				return false, true
			}
		}
		return true, true
	}
	st, ok := all[process]
	return st == Running, ok
}

// retire moves a DEA's instances to other DEAs with room (kato.md §3.3).
func (c *Cluster) retire(n *node) error {
	if !slices.Contains(n.roles, "dea") {
		return fmt.Errorf("node %s does not have the dea role", n.id)
	}
	var others []*node
	room := 0
	for _, id := range c.order {
		o := c.nodes[id]
		if o != n && o.up && !o.retired && slices.Contains(o.roles, "dea") && o.roleState("dea") == Running {
			others = append(others, o)
			room += o.capacity - o.apps
		}
	}
	if room < n.apps {
		return fmt.Errorf("cannot retire %s: %d app instances need room on other DEAs, %d left", n.id, n.apps, room)
	}
	sort.SliceStable(others, func(i, j int) bool { return others[i].apps < others[j].apps })
	for i := 0; n.apps > 0; i++ {
		if o := others[i%len(others)]; o.apps < o.capacity {
			o.apps++
			n.apps--
		}
	}
	n.retired = true
	return nil
}
