package simcluster

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
	"go.uber.org/zap"
	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// Cluster is a running simulated cluster.
type Cluster struct {
	cfg        Config
	dir        string
	temporary  bool
	log        *zap.Logger
	nodes      []*Node
	byName     map[string]*Node
	kato       *katodouble.Cluster
	ccng       *cloudcontroller.Joined // nil on a plain cluster
	manifest   katodouble.Manifest     // of kato's patches
	vendor     func()                  // ends the vendor's server; nil on a plain cluster
	commands   map[string]program
	hypervisor *Hypervisor // nil for none
	docker     *dockers
	programs   *programCache
	clientKey  ssh.PublicKey

	corePrivate []byte // key file of the Core's login user, which leads to all nodes
	corePublic  string
	started     time.Time

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	events []Event
	// out says why nodes are out of service now; worst is the most that were at once.
	out   map[string]map[string]bool
	worst int
	// neighbours are the clusters whose nodes can be reached.
	neighbours []*Cluster
}

// Start makes the nodes and begins to serve SSH on all of them. The nodes' files are made when a node is first used.
func Start(cfg Config) (*Cluster, error) {
	if cfg.Platform == "" {
		cfg.Platform = platformALS
	}
	if cfg.Platform != platformALS && cfg.Platform != platformPlain {
		return nil, fmt.Errorf("simcluster: platform %q is neither als nor plain", cfg.Platform)
	}
	if cfg.Network < 0 || cfg.Network > 254 {
		return nil, fmt.Errorf("simcluster: network %d is not 0 to 254", cfg.Network)
	}
	if cfg.Name == "" {
		cfg.Name = "demo"
	}
	if cfg.Nodes == nil {
		cfg.Nodes = DefaultNodes()
	}
	if cfg.BootTime == 0 {
		cfg.BootTime = 100 * time.Millisecond
	}
	if cfg.ShutdownTime == 0 {
		cfg.ShutdownTime = 5 * time.Millisecond
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.DockerVersion == "" {
		cfg.DockerVersion = "20.10.24"
	}
	if cfg.ImageRepository == "" {
		cfg.ImageRepository = DefaultImageRepository
	}
	if cfg.ImagePending == nil {
		cfg.ImagePending = DefaultImagePending()
	}
	version, err := parseDockerVersion(cfg.DockerVersion)
	if err != nil {
		return nil, fmt.Errorf("simcluster: %w", err)
	}
	c := &Cluster{cfg: cfg, dir: cfg.Dir, log: cfg.Logger, started: time.Now(), byName: map[string]*Node{}, programs: newProgramCache(), out: map[string]map[string]bool{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.commands = commandTable()
	c.docker = newDockers(c, version)
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "simcluster-")
		if err != nil {
			return nil, fmt.Errorf("simcluster: %w", err)
		}
		c.dir, c.temporary = dir, true
	}
	if err := c.start(); err != nil {
		c.Close()
		return nil, fmt.Errorf("simcluster: %w", err)
	}
	return c, nil
}

func (c *Cluster) start() error {
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return err
	}
	c.dir = dir
	if err := os.MkdirAll(filepath.Join(dir, "nodes"), 0o755); err != nil {
		return err
	}
	if err := c.writeClientKey(); err != nil {
		return err
	}
	for i, nc := range c.cfg.Nodes {
		if c.byName[nc.Name] != nil || nc.Name == "" || strings.ContainsAny(nc.Name, "/ ") {
			return fmt.Errorf("node name %q is empty, used twice or not a host name", nc.Name)
		}
		n, err := c.newNode(i, nc)
		if err != nil {
			return fmt.Errorf("node %s: %w", nc.Name, err)
		}
		c.nodes = append(c.nodes, n)
		c.byName[nc.Name] = n
	}
	if err := c.startHypervisor(); err != nil {
		return fmt.Errorf("hypervisor: %w", err)
	}
	if c.cfg.Platform == platformALS && len(c.nodes) > 0 {
		if err := c.writeCoreKey(); err != nil {
			return err
		}
	}
	if c.cfg.Platform == platformALS {
		c.kato = newKato(c)
		if c.ccng, err = newController(c); err != nil {
			return err
		}
		if err := c.startVendor(); err != nil {
			return err
		}
	}
	for _, n := range c.machines() {
		if err := n.firstBoot(); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	return c.writeKnownHosts()
}

// machines are the nodes, and the host of the hypervisor.
func (c *Cluster) machines() []*Node {
	all := c.Nodes()
	if c.hypervisor != nil {
		all = append(all, c.hypervisor.host)
	}
	return all
}

// nodeAddress gives every node its own loopback address where the host allows it, so that addresses tell nodes apart as in a real cluster.
func (c *Cluster) nodeAddress(i int) string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", c.cfg.Network, 1+i/250, 1+i%250)
}

// Close ends everything that runs on the nodes and removes the folder if it is a temporary one.
func (c *Cluster) Close() error {
	c.cancel()
	var ends sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, n := range c.machines() {
		slots <- struct{}{}
		ends.Go(func() {
			defer func() { <-slots }()
			n.shutdown()
			if c.temporary {
				os.RemoveAll(n.tree.root)
			}
		})
	}
	ends.Wait()
	c.wg.Wait()
	if c.ccng != nil {
		c.ccng.Close()
	}
	if c.vendor != nil {
		c.vendor()
	}
	if !c.temporary {
		return nil
	}
	return os.RemoveAll(c.dir)
}

func (c *Cluster) writeClientKey() error {
	file := c.ClientKeyPath()
	if old, err := os.ReadFile(file); err == nil { // a cluster started again in the same folder keeps its keys
		signer, err := ssh.ParsePrivateKey(old)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		c.clientKey = signer.PublicKey()
		return nil
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "simcluster")
	if err != nil {
		return err
	}
	if c.clientKey, err = ssh.NewPublicKey(public); err != nil {
		return err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	return os.WriteFile(file+".pub", ssh.MarshalAuthorizedKey(c.clientKey), 0o644)
}

// knownHost is one line of known_hosts.
func knownHost(address string, port int, key ssh.PublicKey) string {
	return fmt.Sprintf("[%s]:%d %s", address, port, ssh.MarshalAuthorizedKey(key))
}

func (c *Cluster) writeKnownHosts() error {
	var b strings.Builder
	for _, n := range c.machines() {
		b.WriteString(knownHost(n.address, n.port, n.originalKey.PublicKey()))
	}
	return os.WriteFile(c.KnownHostsPath(), []byte(b.String()), 0o644)
}

// startVendor serves the manifest of kato's patches, outside of the cluster.
func (c *Cluster) startVendor() error {
	c.manifest.Set(katodouble.DefaultPatches())
	url, stop, err := katodouble.ServeManifest("127.0.0.1:0", &c.manifest)
	if err != nil {
		return err
	}
	c.vendor = stop
	c.kato.SetManifest(url)
	return nil
}

// SetPatches replaces the vendor's patches. What nodes have fetched stays as it is.
func (c *Cluster) SetPatches(list []katodouble.Patch) { c.manifest.Set(list) }

// SetMaintenance switches maintenance mode as somebody does who asks the Cloud Controller for it.
func (c *Cluster) SetMaintenance(on bool) {
	if c.kato != nil {
		c.kato.SetMaintenance(on)
	}
}

// Dir is the folder of the cluster's files.
func (c *Cluster) Dir() string { return c.dir }

// Name of the cluster in the inventory.
func (c *Cluster) Name() string { return c.cfg.Name }

// ClientKeyPath is the private key file that logs in to every node.
func (c *Cluster) ClientKeyPath() string { return filepath.Join(c.dir, "id_ed25519") }

// KnownHostsPath holds the nodes' host keys as they were at the start.
func (c *Cluster) KnownHostsPath() string { return filepath.Join(c.dir, "known_hosts") }

// Node returns the node of that name, or nil.
func (c *Cluster) Node(name string) *Node { return c.byName[name] }

// Nodes in inventory order.
func (c *Cluster) Nodes() []*Node { return append([]*Node(nil), c.nodes...) }

// InventoryYAML is the inventory of the cluster, with absolute paths of the files it names.
func (c *Cluster) InventoryYAML() []byte {
	type sshSection struct {
		User       string   `yaml:"user,omitempty"`
		Port       int      `yaml:"port,omitempty"`
		KeyFiles   []string `yaml:"key_files,omitempty"`
		KnownHosts []string `yaml:"known_hosts,omitempty"`
	}
	type nodeSection struct {
		Name    string     `yaml:"name"`
		Address string     `yaml:"address"`
		Roles   []string   `yaml:"roles,omitempty,flow"`
		SSH     sshSection `yaml:"ssh"`
		VM      string     `yaml:"vm,omitempty"`
	}
	type hypervisorSection struct {
		Provider string              `yaml:"provider"`
		Hosts    []nodeSection       `yaml:"hosts"`
		Command  map[string][]string `yaml:"command"`
	}
	type clusterSection struct {
		Platform   string                   `yaml:"platform"`
		SSH        sshSection               `yaml:"ssh"`
		Controller *cloudcontroller.Section `yaml:"controller,omitempty"`
		Hypervisor *hypervisorSection       `yaml:"hypervisor,omitempty"`
		Nodes      []nodeSection            `yaml:"nodes"`
	}
	cs := clusterSection{Platform: c.cfg.Platform, SSH: sshSection{User: c.loginUser(), KeyFiles: []string{c.ClientKeyPath()}, KnownHosts: []string{c.KnownHostsPath()}}}
	if c.ccng != nil {
		cs.Controller = c.ccng.Section()
	}
	if h := c.hypervisor; h != nil {
		cs.Hypervisor = &hypervisorSection{Provider: "command", Hosts: []nodeSection{{Name: h.host.name, Address: h.host.address, SSH: sshSection{Port: h.host.port}}}, Command: map[string][]string{}}
		for field, verb := range map[string]string{"snapshot": "take", "find": "find", "delete": "delete", "rollback": "rollback"} {
			cs.Hypervisor.Command[field] = []string{"vmctl", verb, "{vm}", "{name}"}
		}
		for _, verb := range []string{"list", "power", "start", "stop", "kill", "check"} {
			cs.Hypervisor.Command[verb] = []string{"vmctl", verb, "{vm}"}
		}
	}
	for _, n := range c.nodes {
		node := nodeSection{Name: n.name, Address: n.address, Roles: n.cfg.Roles, SSH: sshSection{Port: n.port}}
		if c.hypervisor != nil {
			node.VM = "vm-" + n.name
		}
		cs.Nodes = append(cs.Nodes, node)
	}
	out, err := yaml.Marshal(map[string]map[string]clusterSection{"clusters": {c.cfg.Name: cs}})
	if err != nil {
		panic(err) // plain structs of strings always marshal
	}
	return out
}

// WriteInventory writes InventoryYAML to a file.
func (c *Cluster) WriteInventory(path string) error {
	return os.WriteFile(path, c.InventoryYAML(), 0o644)
}

func (c *Cluster) loginUser() string {
	if c.cfg.Platform == platformALS {
		return "stackato"
	}
	return "admin"
}

// LoginUser is the user name for SSH.
func (c *Cluster) LoginUser() string { return c.loginUser() }

// Event is something that happened to a node, besides the commands.
type Event struct {
	Time   time.Time `json:"time"`
	Node   string    `json:"node"`
	Kind   string    `json:"kind"` // boot, down, command, fault, out-of-service, in-service, package, session, frozen, thawed
	Detail string    `json:"detail"`
}

func (c *Cluster) event(node, kind, format string, args ...any) {
	e := Event{Time: time.Now(), Node: node, Kind: kind, Detail: fmt.Sprintf(format, args...)}
	c.mu.Lock()
	c.events = append(c.events, e)
	c.mu.Unlock()
	c.log.Debug(e.Detail, zap.String("node", node), zap.String("kind", kind))
}

// Events returns everything that happened so far, in order of time.
func (c *Cluster) Events() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := append([]Event(nil), c.events...)
	sort.SliceStable(out, func(i, j int) bool { return out[i].Time.Before(out[j].Time) })
	return out
}

// mark notes that a node is, or is no longer, out of service for a reason.
func (c *Cluster) mark(node, reason string, out bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reasons := c.out[node]
	if out {
		if reasons == nil {
			reasons = map[string]bool{}
			c.out[node] = reasons
		}
		reasons[reason] = true
	} else {
		delete(reasons, reason)
		if len(reasons) == 0 {
			delete(c.out, node)
		}
	}
	c.worst = max(c.worst, len(c.out))
}

// OutOfService names the nodes that are not in service now: down, booting, starting their roles, or having packages upgraded.
func (c *Cluster) OutOfService() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for name := range c.out {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}

// MaxOutOfService is the most nodes that were out of service at one moment since the start.
func (c *Cluster) MaxOutOfService() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.worst
}

// Maintenance says whether ALS's maintenance mode is on (kato.md §4).
func (c *Cluster) Maintenance() bool { return c.kato != nil && c.kato.Maintenance() }

// Controller is the cluster's Cloud Controller, whose maintenance mode is kato's; nil on a plain cluster.
func (c *Cluster) Controller() *cloudcontroller.Controller {
	if c.ccng == nil {
		return nil
	}
	return c.ccng.Controller
}

// ControllerURL is the address of the Cloud Controller; "" on a plain cluster.
func (c *Cluster) ControllerURL() string {
	if c.ccng == nil {
		return ""
	}
	return c.ccng.URL()
}

// Commands of all nodes, in order of their start.
func (c *Cluster) Commands() []Execution {
	var out []Execution
	for _, n := range c.nodes {
		out = append(out, n.Commands()...)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Start.Before(out[j].Start) })
	return out
}

// closedListener says whether an accept failed because the listener was closed.
func closedListener(err error) bool { return errors.Is(err, net.ErrClosed) }
