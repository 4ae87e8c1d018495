package inventory

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// Path is where the file was loaded from, as it was named to Load.
func (f *File) Path() string { return f.path }

// ClusterNames returns the names of all clusters, sorted.
func (f *File) ClusterNames() []string {
	names := make([]string, 0, len(f.Clusters))
	for name := range f.Clusters {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Cluster returns the cluster of that name; the error for an unknown one names those there are.
func (f *File) Cluster(name string) (*Cluster, error) {
	if c, ok := f.Clusters[name]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("unknown cluster %s: clusters in %s are %s", quote(name), printable(f.path), orNone(f.ClusterNames()))
}

// Node returns the node of that name; the error for an unknown one names those there are.
func (c *Cluster) Node(name string) (*Node, error) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	names := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		names[i] = n.Name
	}
	if near := nearest(name, names[:min(len(names), 500)]); near != "" {
		return nil, fmt.Errorf("unknown node %s in cluster %s: did you mean %s?", quote(name), quote(c.Name), quote(near))
	}
	return nil, fmt.Errorf("unknown node %s in cluster %s: nodes there are %s", quote(name), quote(c.Name), orNone(names))
}

// CoreNode returns the Core node of an als cluster: the one marked core, else the one with the role primary. nil on plain clusters.
func (c *Cluster) CoreNode() *Node {
	if c.Platform != PlatformALS {
		return nil
	}
	var primary *Node
	for _, n := range c.Nodes {
		if n.Core {
			return n
		}
		if primary == nil && n.HasRole("primary") {
			primary = n
		}
	}
	return primary
}

// ExportSettings returns the cluster's export section with its defaults, also when the file has none.
func (c *Cluster) ExportSettings() Export {
	var e Export
	if c.Export != nil {
		e = *c.Export
	}
	e.fillDefaults()
	return e
}

// ExportNode returns the node on which exports run: the one that the export section names, else the only one with the role filesystem,
// because some steps of an export of the cluster are local there (kato.md §3.2). The error says what to write in the inventory.
func (c *Cluster) ExportNode() (*Node, error) {
	if c.Export != nil && c.Export.Node != "" {
		return c.Node(c.Export.Node)
	}
	var names []string
	var found *Node
	for _, n := range c.Nodes {
		if n.HasRole("filesystem") {
			found = n
			names = append(names, n.Name)
		}
	}
	switch {
	case c.Platform != PlatformALS:
		return nil, fmt.Errorf("cluster %s is not an als cluster: only those have exports", quote(c.Name))
	case len(names) == 0:
		return nil, fmt.Errorf("no node of cluster %s has the role filesystem: name the node that exports as export.node in the inventory", quote(c.Name))
	case len(names) > 1:
		return nil, fmt.Errorf("several nodes of cluster %s have the role filesystem (%s): name the one that exports as export.node in the inventory",
			quote(c.Name), quoteAll(names))
	}
	return found, nil
}

// Roles returns every role that some node of the cluster has: in kato's start order on als, else in file order.
func (c *Cluster) Roles() []string {
	var roles []string
	for _, n := range c.Nodes {
		for _, r := range n.Roles {
			if !slices.Contains(roles, r) {
				roles = append(roles, r)
			}
		}
	}
	if c.Platform == PlatformALS {
		order := RoleNames()
		slices.SortStableFunc(roles, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	}
	return roles
}

// DeadMan returns how long an operation may be silent before maintenance mode is put back by the Core itself; 0 = there is no dead-man.
func (c *Cluster) DeadMan() time.Duration {
	if c.Maintenance == nil {
		return 0
	}
	return c.Maintenance.DeadMan.Std()
}

// HasRole tells whether r is among the node's roles.
func (n *Node) HasRole(r string) bool { return slices.Contains(n.Roles, r) }

// GateCommandsOf returns the site's own checks for the node: its own where it has some, else the cluster's.
func (c *Cluster) GateCommandsOf(n *Node) []string {
	if len(n.GateCommands) > 0 {
		return n.GateCommands
	}
	return c.Gates.Commands
}

// SSHOf returns how to log in to the node: the cluster's section with the node's own fields over it.
func (c *Cluster) SSHOf(n *Node) SSH {
	s := c.SSH
	override(&s.User, n.SSH.User)
	override(&s.Port, n.SSH.Port)
	if len(n.SSH.KeyFiles) > 0 {
		s.KeyFiles = n.SSH.KeyFiles
	}
	override(&s.Passphrase, n.SSH.Passphrase)
	override(&s.Agent, n.SSH.Agent)
	if len(n.SSH.KnownHosts) > 0 {
		s.KnownHosts = n.SSH.KnownHosts
	}
	override(&s.Bastion, n.SSH.Bastion)
	override(&s.ConnectTimeout, n.SSH.ConnectTimeout)
	override(&s.MaxSessions, n.SSH.MaxSessions)
	return s
}

func override[T comparable](field *T, value T) {
	var zero T
	if value != zero {
		*field = value
	}
}

// ResolvePath makes a path of the file usable: "~/" is the home of the user who runs this process, and a relative path is relative
// to the inventory's folder.
func (f *File) ResolvePath(p string) string {
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(f.folder, p)
}
