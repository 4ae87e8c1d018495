package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// ClusterConfig describes a cluster of hosts.
type ClusterConfig struct {
	// Name in the inventory; default "lab".
	Name string
	// Platform is "als" (default: hosts carry the kato double) or "plain".
	Platform string
	// Nodes in inventory order; nil = DefaultNodes.
	Nodes []NodeConfig
	// RoleStart is how long after a boot kato's roles take to run.
	RoleStart time.Duration
	// Docker gives hosts with the dea role a docker daemon of their own, at /run/docker.sock.
	Docker bool
	// Images gives these daemons BaseImage and their containers a network. It implies Docker.
	Images bool
	// Registry runs a docker registry in the lab (Cluster.Registry).
	Registry bool
	// Sudoers are files in the hosts' /etc/sudoers.d beside that of Config.Sudoers, by name.
	Sudoers map[string][]byte
	// Programs are files in the hosts' /usr/local/sbin, by name.
	Programs map[string][]byte
	// DiskSize and SrvSize are the bytes of the hosts' root and of the volume at /srv, which takes space on this machine only as it is filled; defaults 1.5 GiB and
	// 256 MiB. On an ALS host with the role filesystem a folder of the volume is at /mnt/backup too.
	DiskSize, SrvSize int64
}

// NodeConfig describes a host.
type NodeConfig struct {
	Name string
	// Roles are kato's role names (kato.md §2).
	Roles []string
	// Slow is how long the configuration of PackageSlow takes; default 1 s.
	Slow time.Duration
	// Shell is the login user's; default /bin/bash. BusyboxShell is a shell of busybox.
	Shell string
	// Apps is the number of app instances that a DEA runs; default 4.
	Apps int
	// Pending are the packages to be upgraded, of the lab's; nil = all but PackageBroken.
	Pending []string
	// Disks are file systems of its own beside / and /srv.
	Disks []Disk
}

// BusyboxShell is busybox under the name sh.
const BusyboxShell = "/usr/local/lib/busybox/sh"

// DefaultNodes returns n nodes of an ALS cluster: a Core node and two DEAs, then data services, then more DEAs.
func DefaultNodes(n int) []NodeConfig {
	all := []NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller", "router"}}, {Name: "dea-1", Roles: []string{"base", "dea"}},
		{Name: "dea-2", Roles: []string{"base", "dea"}}, {Name: "mysql-1", Roles: []string{"base", "mysql"}}, {Name: "filesystem-1", Roles: []string{"base", "filesystem"}}}
	for i := len(all); i < n; i++ {
		all = append(all, NodeConfig{Name: fmt.Sprintf("dea-%d", i-2), Roles: []string{"base", "dea"}})
	}
	return all[:n]
}

// Cluster is a running cluster of hosts.
type Cluster struct {
	lab   *Lab
	cfg   ClusterConfig
	dir   string
	hosts []*Host
	ccng  *cloudcontroller.Joined // nil on a plain cluster
	// databaseURL is where the hosts' katos find its content.
	databaseURL string
	// manifest is that of kato's patches, at manifestURL; vendor ends its server, nil on a plain cluster.
	manifest    katodouble.Manifest
	manifestURL string
	vendor      func()

	mu      sync.Mutex
	away    map[*Host]bool
	maxAway int
	outages map[*Host][]Outage
}

// LoginUser is the user name for SSH.
const LoginUser = "stackato"

// Start makes and boots a cluster, all hosts side by side, and returns when each answers and its systemd is done with the boot.
func (l *Lab) Start(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	if cfg.Name == "" {
		cfg.Name = "lab"
	}
	if cfg.Platform == "" {
		cfg.Platform = "als"
	}
	if cfg.Nodes == nil {
		cfg.Nodes = DefaultNodes(5)
	}
	if cfg.DiskSize == 0 {
		cfg.DiskSize = diskSize
	}
	if cfg.SrvSize == 0 {
		cfg.SrvSize = srvSize
	}
	dir := filepath.Join(l.cfg.Dir, "cluster-"+cfg.Name)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, fmt.Errorf("the lab has a cluster %s already: %w", cfg.Name, err)
	}
	c := &Cluster{lab: l, cfg: cfg, dir: dir, away: map[*Host]bool{}, outages: map[*Host][]Outage{}}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", c.ClientKeyPath()); err != nil {
		return err
	}
	for _, n := range c.cfg.Nodes {
		if err := n.checkDisks(); err != nil {
			return err
		}
		number, err := c.lab.claim()
		if err != nil {
			return err
		}
		h := newHost(c, n, number)
		c.hosts = append(c.hosts, h)
	}
	if c.cfg.Platform == "als" {
		if err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", LoginUser+"@"+c.core().Name(), "-f", c.coreKeyPath()); err != nil {
			return err
		}
		var err error
		if c.ccng, err = c.startController(); err != nil { // before the hosts are made, whose katos know its address
			return err
		}
		if err := c.startVendor(); err != nil {
			return err
		}
	}
	// The disks are made one after the other, which is quick; booting is what takes time.
	for _, h := range c.hosts {
		if err := h.make(ctx); err != nil {
			return fmt.Errorf("%s: %w", h.Name(), err)
		}
	}
	if err := c.writeKnownHosts(); err != nil {
		return err
	}
	if c.cfg.Platform == "als" {
		if err := c.introduceHosts(); err != nil {
			return err
		}
	}
	docker := c.startDocker(ctx)
	if err := errors.Join(c.boot(ctx), docker()); err != nil {
		return err
	}
	c.mu.Lock()
	c.maxAway = 0
	c.mu.Unlock()
	return nil
}

// boot boots all hosts and waits for them.
func (c *Cluster) boot(ctx context.Context) error {
	for _, h := range c.hosts {
		h.boot()
	}
	for _, h := range c.hosts {
		if err := h.WaitUp(ctx, 2*time.Minute); err != nil {
			return err
		}
		c.mark(h, false)
	}
	return nil
}

// Close ends the hosts and removes what is theirs.
func (c *Cluster) Close() error {
	if c.ccng != nil {
		c.ccng.Close()
	}
	if c.vendor != nil {
		c.vendor()
	}
	var all []error
	var done sync.WaitGroup
	var mu sync.Mutex
	for _, h := range c.hosts {
		done.Go(func() {
			if err := h.remove(); err != nil {
				mu.Lock()
				all = append(all, fmt.Errorf("%s: %w", h.Name(), err))
				mu.Unlock()
			}
		})
	}
	done.Wait()
	if len(all) == 0 {
		all = append(all, os.RemoveAll(c.dir))
	}
	return errors.Join(all...)
}

// Name of the cluster.
func (c *Cluster) Name() string { return c.cfg.Name }

// Dir holds the cluster's key and known_hosts, and the certificate and password of its Cloud Controller.
func (c *Cluster) Dir() string { return c.dir }

// ClientKeyPath is the private key file that logs in to every host.
func (c *Cluster) ClientKeyPath() string { return filepath.Join(c.dir, "id_ed25519") }

// KnownHostsPath holds the hosts' keys as they were made.
func (c *Cluster) KnownHostsPath() string { return filepath.Join(c.dir, "known_hosts") }

// Hosts in inventory order.
func (c *Cluster) Hosts() []*Host { return append([]*Host(nil), c.hosts...) }

// Host of that name, or nil.
func (c *Cluster) Host(name string) *Host {
	for _, h := range c.hosts {
		if h.cfg.Name == name {
			return h
		}
	}
	return nil
}

// MaxAway is the largest number of hosts that were down or booting at the same time since the cluster was started.
func (c *Cluster) MaxAway() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.maxAway
}

func (c *Cluster) mark(h *Host, away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, now := c.away[h], time.Now()
	if away {
		c.away[h] = true
	} else {
		delete(c.away, h)
	}
	c.maxAway = max(c.maxAway, len(c.away))
	switch all := c.outages[h]; {
	case away && !was:
		c.outages[h] = append(all, Outage{Down: now})
	case !away && was:
		all[len(all)-1].Up = now
	}
}

// Outage is a time in which a host was down or booting.
type Outage struct {
	Down time.Time
	// Up is when its sshd answered again; zero while it does not.
	Up time.Time
}

// Outages of the host, in order; the first is its first boot.
func (h *Host) Outages() []Outage {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return append([]Outage(nil), h.c.outages[h]...)
}

func (c *Cluster) writeKnownHosts() error {
	var out bytes.Buffer
	for _, h := range c.hosts {
		lines, err := h.knownHosts(h.Address())
		if err != nil {
			return err
		}
		out.Write(lines)
	}
	return os.WriteFile(c.KnownHostsPath(), out.Bytes(), 0o644)
}

// knownHosts are the host's lines of known_hosts, under its names.
func (h *Host) knownHosts(names ...string) ([]byte, error) {
	var out bytes.Buffer
	for _, kind := range hostKeyKinds {
		b, err := os.ReadFile(h.path("etc/ssh/ssh_host_" + kind + "_key.pub"))
		if err != nil {
			return nil, err
		}
		words := strings.Fields(string(b))
		fmt.Fprintf(&out, "%s %s %s\n", strings.Join(names, ","), words[0], words[1])
	}
	return out.Bytes(), nil
}

// core is the host with the role primary, the first one where none has it.
func (c *Cluster) core() *Host {
	for _, h := range c.hosts {
		if slices.Contains(h.cfg.Roles, "primary") {
			return h
		}
	}
	return c.hosts[0]
}

// coreKeyPath is the key of the Core's login user, which leads to all hosts.
func (c *Cluster) coreKeyPath() string { return filepath.Join(c.dir, "core_ed25519") }

// introduceHosts lets the Core know all hosts, and every host itself.
func (c *Cluster) introduceHosts() error {
	var all []byte
	for _, h := range c.hosts {
		own, err := h.knownHosts(h.Name(), h.Address())
		if err != nil {
			return err
		}
		all = append(all, own...)
		if err := h.write("home/stackato/.ssh/known_hosts", string(own), 0o644, loginID); err != nil {
			return err
		}
	}
	return c.core().write("home/stackato/.ssh/known_hosts", string(all), 0o644, loginID)
}

// CorePublicKey is the public key of the Core's login user, a line of authorized_keys.
func (c *Cluster) CorePublicKey() (string, error) {
	b, err := os.ReadFile(c.coreKeyPath() + ".pub")
	return string(b), err
}

// AuthorizeKey lets the holder of a key, a line of authorized_keys, log in to the host as the login user, as `kato data import` of an old Core's host needs it
// (kato.md §3.2).
func (h *Host) AuthorizeKey(public string) error {
	return h.addLines("authorized_keys", public, 0o600)
}

// KnowHost puts another host's keys, under the name or address given, into the login user's known_hosts.
func (h *Host) KnowHost(other *Host, name string) error {
	lines, err := other.knownHosts(name)
	if err != nil {
		return err
	}
	return h.addLines("known_hosts", string(lines), 0o644)
}

// addLines adds lines to a file of the login user's ssh.
func (h *Host) addLines(name, lines string, mode os.FileMode) error {
	file := "home/" + LoginUser + "/.ssh/" + name
	b, err := os.ReadFile(h.path(file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return h.write(file, string(b)+strings.TrimSpace(lines)+"\n", mode, loginID)
}

// InventoryYAML is the inventory of the cluster, with absolute paths of the files it names.
func (c *Cluster) InventoryYAML() []byte {
	type ssh struct {
		User       string   `yaml:"user"`
		KeyFiles   []string `yaml:"key_files"`
		KnownHosts []string `yaml:"known_hosts"`
	}
	type node struct {
		Name    string   `yaml:"name"`
		Address string   `yaml:"address"`
		Roles   []string `yaml:"roles,omitempty,flow"`
	}
	type cluster struct {
		Platform   string                   `yaml:"platform"`
		SSH        ssh                      `yaml:"ssh"`
		Controller *cloudcontroller.Section `yaml:"controller,omitempty"`
		Nodes      []node                   `yaml:"nodes"`
	}
	out := cluster{Platform: c.cfg.Platform, SSH: ssh{User: LoginUser, KeyFiles: []string{c.ClientKeyPath()}, KnownHosts: []string{c.KnownHostsPath()}}}
	if c.ccng != nil {
		out.Controller = c.ccng.Section()
	}
	for _, h := range c.hosts {
		out.Nodes = append(out.Nodes, node{Name: h.Name(), Address: h.Address(), Roles: h.cfg.Roles})
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(map[string]map[string]cluster{"clusters": {c.cfg.Name: out}}); err != nil {
		panic(err) // plain structs of strings always marshal
	}
	return b.Bytes()
}
