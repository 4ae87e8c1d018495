package kato

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// CLI is the kato binary of a cluster.
type CLI struct {
	// Path of the binary: /home/stackato/bin/kato, or where the inventory says (kato.md §1).
	Path string
}

// Component and key of the maintenance mode, and the role that kato moves instances away from (kato.md §4, §3.3).
const (
	maintenanceComponent = "cloud_controller_ng"
	maintenanceKey       = "maintenance_mode"
)

// ReadMaintenance prints whether the Cloud Controller is read-only; see ParseBool (kato.md §4).
func (c CLI) ReadMaintenance() []string {
	return []string{c.Path, "config", "get", maintenanceComponent, maintenanceKey}
}

// SetMaintenance makes the Cloud Controller read-only, or not. Setting what is set already is harmless (kato.md §4).
func (c CLI) SetMaintenance(on bool) []string {
	value := "false"
	if on {
		value = "true"
	}
	return []string{c.Path, "config", "set", maintenanceComponent, maintenanceKey, value}
}

// Retire empties a DEA before it stops: new instances start on other DEAs first. node is the node's id, its IP address (kato.md §3.3, §1).
func (c CLI) Retire(node string) []string {
	return []string{c.Path, "node", "retire", "--node", node}
}

// ListNodes prints one line a node; see ParseNodeList (kato.md §3.3).
func (c CLI) ListNodes() []string { return []string{c.Path, "node", "list"} }

// Status prints the state of all roles on all nodes; see ParseStatus (kato.md §3.5).
func (c CLI) Status() []string { return []string{c.Path, "status", "--json"} }

// ProcessReady asks whether all processes of the local node are ready; see ParseReady. kato's own --block did not honour its
// time before 3.4.1, so it is not used and the caller bounds the call (kato.md §0.6).
func (c CLI) ProcessReady() []string { return []string{c.Path, "process", "ready", "all"} }

// Stop stops all roles of the local node, and Start starts them; kato does it in its own order (kato.md §2, §3.5).
func (c CLI) Stop() []string { return []string{c.Path, "stop"} }

// Start is the inverse of Stop. Of the nodes of a cluster the Core comes first (kato.md §3.5).
func (c CLI) Start() []string { return []string{c.Path, "start"} }

// Relocate moves data of the local node, whose roles are stopped: kind is services, droplets or containers, to a folder that is there. What it prints, and what a second call does, is not known (kato.md §3.7).
func (c CLI) Relocate(kind, to string) []string { return []string{c.Path, "relocate", kind, to} }

// Processes prints the state of all processes of the local node; see ParseProcesses (kato.md §3.5).
func (c CLI) Processes() []string { return []string{c.Path, "process", "list", "--json"} }

// Info prints the roles of the local node; see ParseInfo (kato.md §3.5).
func (c CLI) Info() []string { return []string{c.Path, "info", "--json"} }

// Export is what a `kato data export` takes along and where it puts it (kato.md §3.2).
type Export struct {
	// OnlyThisNode exports the node it runs on; otherwise the whole cluster.
	OnlyThisNode bool
	// Include and Exclude are selectors; see CheckSelectors.
	Include, Exclude []string
	// Folder for temporary files, and Path of the archive, both absolute.
	Folder, Path string
}

// Export writes an archive of the cluster's data. Only long options, whose meaning never changed; the seed's `-cluster` cannot match (kato.md §0.1, §0.10). It is
// to be run on the node with the role filesystem, in the login environment; its exit code 0 is no proof (kato.md §3.2, §0.4).
func (c CLI) Export(e Export) []string {
	mode := "--cluster"
	if e.OnlyThisNode {
		mode = "--only-this-node"
	}
	argv := []string{c.Path, "data", "export", mode}
	for _, s := range e.Include {
		argv = append(argv, "--"+s)
	}
	for _, s := range e.Exclude {
		argv = append(argv, "--exclude-"+s)
	}
	return append(argv, "--base-dir", e.Folder, e.Path)
}

// Import is what a `kato data import` reads, and how (kato.md §3.2).
type Import struct {
	// Folder for temporary files, and Path of the archive, both absolute.
	Folder, Path string
	// StagingSeconds bounds the staging of one app in an import of old data; 0 leaves it to kato.
	StagingSeconds int
}

// Import reads an archive into the whole cluster. Only long options (kato.md §0.1). Its exit code 0 is no proof, and apps that it could not redeploy are only
// listed at the end of its output: see ParseFailedApps (kato.md §3.2, §0.4).
func (c CLI) Import(i Import) []string {
	argv := []string{c.Path, "data", "import", "--cluster", "--base-dir", i.Folder}
	if i.StagingSeconds > 0 {
		argv = append(argv, "--timeout", strconv.Itoa(i.StagingSeconds))
	}
	return append(argv, i.Path)
}

// DatabaseHost prints where a data service's server is, which is an address elsewhere when the site runs an external one; those are not covered by an
// export (kato.md §3.1, §3.2). service is mysql or postgresql.
func (c CLI) DatabaseHost(service string) []string {
	return []string{c.Path, "config", "get", service + "_node", service + "/host"}
}

// Selectors of an export, in kato's order (kato.md §3.2). Parts can only be left out.
var (
	selectors = []string{"droplets", "packages", "resources", "license", "db-encryption-key", "main-db", "aok-db", "aok-config", "helion-rest-db", "stackato-rest-db",
		"filesystem", "harbor", "mysql", "postgresql", "mongodb", "memcached", "redis", "rabbit", "rabbit3"}
	parts = []string{"harbor-data", "harbor-metadata", "mysql-data", "mysql-metadata", "postgresql-data", "postgresql-metadata", "mongodb-data", "mongodb-metadata",
		"memcached-data", "memcached-metadata", "redis-data", "redis-metadata", "rabbit-data", "rabbit-metadata", "rabbit3-data", "rabbit3-metadata",
		"filesystem-data", "filesystem-user-creation"}
)

// Selectors returns what can be included, and what can be excluded.
func Selectors() (include, exclude []string) {
	return slices.Clone(selectors), slices.Concat(selectors, parts)
}

// CheckSelectors lists what is wrong with the selectors of an export, one line each.
func CheckSelectors(include, exclude []string) []string {
	var problems []string
	canInclude, canExclude := Selectors()
	for _, s := range include {
		if !slices.Contains(canInclude, s) {
			problems = append(problems, fmt.Sprintf("include %q: choose of %s", clip(s), strings.Join(canInclude, ", ")))
		}
		if slices.Contains(exclude, s) {
			problems = append(problems, fmt.Sprintf("%q is both included and excluded", clip(s)))
		}
	}
	for _, s := range exclude {
		if !slices.Contains(canExclude, s) {
			problems = append(problems, fmt.Sprintf("exclude %q: choose of %s", clip(s), strings.Join(canExclude, ", ")))
		}
	}
	return problems
}

func clip(s string) string {
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "") + "..."
	}
	return s
}

// Version prints kato's version (kato.md §3.8).
func (c CLI) Version() []string { return []string{c.Path, "version"} }

// Images lists what app containers are made from, the first one first; see ParseList (kato.md §7).
func (c CLI) Images() []string {
	return []string{c.Path, "config", "get", "fence", "docker/images", "--json"}
}

// SetImages makes a list of names what app containers are made from. Setting what is set already is harmless (kato.md §3.1).
func (c CLI) SetImages(names []string) []string {
	list, _ := json.Marshal(names) // strings
	return []string{c.Path, "config", "set", "--json", "fence", "docker/images", string(list)}
}
