package operation

// WorkflowClusterStatus tells how a cluster is; KindClusterStatus is its kind. It only reads.
const (
	WorkflowClusterStatus = "ClusterStatus"
	KindClusterStatus     = "cluster-status"
)

// DefaultFreeShare is the share of its file system, in percent, that data of services should leave free.
const DefaultFreeShare = 20

// StatusInput asks how a cluster is.
type StatusInput struct {
	Cluster string `json:"cluster"`
	// InventoryDigest, if set, must be that of the worker's inventory.
	InventoryDigest string `json:"inventoryDigest,omitempty"`
}

// ClusterStatus is how a cluster is, as far as it could be asked.
type ClusterStatus struct {
	Cluster  string `json:"cluster"`
	Platform string `json:"platform"`
	// At is when it was asked, UTC, RFC 3339.
	At string `json:"at"`
	// Holder is the workflow id of the operation that has the cluster's lock, "" for none.
	Holder string       `json:"holder,omitempty"`
	Nodes  []NodeStatus `json:"nodes"`
	// Backup is the newest archive, Rehearsal the one that was rehearsed last, and Snapshot the newest set; nil for none.
	Backup    *Archive         `json:"backup,omitempty"`
	Rehearsal *Archive         `json:"rehearsal,omitempty"`
	Snapshot  *SnapshotSummary `json:"snapshot,omitempty"`
	// Unknown is what could not be asked, one line each.
	Unknown []string `json:"unknown,omitempty"`
}

// NodeStatus is how one node is.
type NodeStatus struct {
	Node  string   `json:"node"`
	Roles []string `json:"roles,omitempty"`
	// Problem is why it could not be asked; all else is empty then.
	Problem string `json:"problem,omitempty"`
	// System as /etc/os-release calls it, and the kernel that runs; Container is what the node runs in where that kernel is not its own.
	System    string `json:"system,omitempty"`
	Kernel    string `json:"kernel,omitempty"`
	Container string `json:"container,omitempty"`
	// BootedAt, and PatchedAt, the last upgrade of a package in dpkg's log; UTC, RFC 3339, "" where it is not known.
	BootedAt  string `json:"bootedAt,omitempty"`
	PatchedAt string `json:"patchedAt,omitempty"`
	// Pending packages as the lists on the node have them, Security of which are from a security archive; -1 where apt cannot say, or where there are no lists.
	Pending  int `json:"pending"`
	Security int `json:"security"`
	// Held packages are kept back by apt-mark.
	Held           []string `json:"held,omitempty"`
	RebootRequired bool     `json:"rebootRequired,omitempty"`
	// Image is the docker base image that apps on a DEA get, and ImageBuiltAt when it was built; UTC, RFC 3339, "" where it is not known.
	Image        string `json:"image,omitempty"`
	ImageBuiltAt string `json:"imageBuiltAt,omitempty"`
	// Warnings, and Storage, what is wrong with where data services keep their data; one line each.
	Warnings []string `json:"warnings,omitempty"`
	Storage  []string `json:"storage,omitempty"`
}
