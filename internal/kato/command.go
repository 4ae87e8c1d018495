package kato

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

// Info prints the roles of the local node; see ParseInfo (kato.md §3.5).
func (c CLI) Info() []string { return []string{c.Path, "info", "--json"} }
