package operation

// Node outcomes.
const (
	NodePending   = "pending"
	NodeRunning   = "running"
	NodeWaiting   = "waiting"   // a question about it is open
	NodeDone      = "done"      // upgraded, rebooted as the policy says, proved, gates held
	NodeSkipped   = "skipped"   // an operator or a policy said skip
	NodeFailed    = "failed"    // failed while aborting or cancelling
	NodeCancelled = "cancelled" // in a safe state, see its notes
	NodeUntouched = "untouched" // never started
	NodePlanned   = "planned"   // dry run
)

// PlannedNode is a node as the operation has frozen it.
type PlannedNode struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles,omitempty"`
	Core  bool     `json:"core,omitempty"`
}

// HasRole reports whether the node has the role.
func (n PlannedNode) HasRole(role string) bool {
	for _, r := range n.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// Plan is the inventory frozen at the start of an operation.
type Plan struct {
	Cluster  string `json:"cluster"`
	Platform string `json:"platform"`
	Digest   string `json:"digest"`
	// Nodes to work on, in order.
	Nodes []PlannedNode `json:"nodes"`
	// Others are the cluster's nodes that are not worked on; they count in the cluster gates.
	Others []string `json:"others,omitempty"`
	// Core is the Core node's name (als).
	Core string `json:"core,omitempty"`
	// DEAs is the number of nodes with the role dea in the cluster.
	DEAs             int      `json:"deas,omitempty"`
	GateTimes        int      `json:"gateTimes"`
	GateInterval     Duration `json:"gateInterval"`
	GateTimeout      Duration `json:"gateTimeout"`
	UnreachableAfter Duration `json:"unreachableAfter"`
	BootTimeout      Duration `json:"bootTimeout"`
	UpgradeTimeout   Duration `json:"upgradeTimeout"`
	AptLockTimeout   Duration `json:"aptLockTimeout"`
	// ExportTimeout is the ceiling of one export (als).
	ExportTimeout Duration `json:"exportTimeout,omitempty"`
	// Images are the names of the docker base image, as the inventory has them (als).
	Images ImageSettings `json:"images,omitzero"`
	// KeepReports: the cluster has a bucket for them.
	KeepReports bool `json:"keepReports,omitempty"`
	// NotifyOn are the events the site wants to hear of: parked, failed, done.
	NotifyOn []string `json:"notifyOn,omitempty"`
}

// NodeReport is one node in a Report.
type NodeReport struct {
	Name   string   `json:"name"`
	Roles  []string `json:"roles,omitempty"`
	Status string   `json:"status"`
	// Step it is at, or was at last, and which try of it.
	Step string `json:"step,omitempty"`
	Try  int    `json:"try,omitempty"`
	// StartedAt and EndedAt are UTC, RFC 3339.
	StartedAt string `json:"startedAt,omitempty"`
	EndedAt   string `json:"endedAt,omitempty"`
	// OutOfService: its gates did not hold when it was skipped.
	OutOfService bool     `json:"outOfService,omitempty"`
	Pending      int      `json:"pendingBefore,omitempty"`
	Failure      *Failure `json:"failure,omitempty"`
	NodeProgress
}

// NodeStep is what a node's child workflow answers to the query `progress`.
type NodeStep struct {
	Step string `json:"step"`
	// Try of the step, and Since when it is at it (UTC, RFC 3339).
	Try   int    `json:"try"`
	Since string `json:"since"`
}

// GateFailure is one check that does not hold. Two are the same failure when both fields are equal.
type GateFailure struct {
	Node  string `json:"node"`
	Check string `json:"check"`
}

// String is "node: check".
func (g GateFailure) String() string { return g.Node + ": " + g.Check }

// PlannedCommand is one command of a dry run, as it would be run.
type PlannedCommand struct {
	Step    string `json:"step"`
	Command string `json:"command"`
	// Note says when it is run, where that depends on something.
	Note string `json:"note,omitempty"`
}

// CommandPlan is the list of commands that some nodes have in common.
type CommandPlan struct {
	Nodes    []string         `json:"nodes"`
	Commands []PlannedCommand `json:"commands"`
}

// Report is the result of an operation, and at any moment what the query `report` answers.
type Report struct {
	OperationID string `json:"operationId"`
	WorkflowID  string `json:"workflowId"`
	Kind        string `json:"kind"`
	Cluster     string `json:"cluster"`
	RequestedBy string `json:"requestedBy,omitempty"`
	// Phase is one of the phases; done, failed, aborted and cancelled are final.
	Phase string `json:"phase"`
	// Message is one line for a person.
	Message string `json:"message,omitempty"`
	// StartedAt, UpdatedAt and EndedAt are UTC, RFC 3339.
	StartedAt string `json:"startedAt"`
	UpdatedAt string `json:"updatedAt,omitempty"`
	EndedAt   string `json:"endedAt,omitempty"`
	DryRun    bool   `json:"dryRun,omitempty"`
	Paused    bool   `json:"paused,omitempty"`
	// Window are the maintenance windows, with when the open one closes or the next one opens; "" for none.
	Window string `json:"window,omitempty"`
	// Batch as asked for, and Slots, the number of nodes that makes now.
	Batch string       `json:"batch,omitempty"`
	Slots int          `json:"slots,omitempty"`
	Nodes []NodeReport `json:"nodes"`
	// BrokenBefore is what did not hold before the operation began; it is not blamed on it.
	BrokenBefore []GateFailure `json:"brokenBefore,omitempty"`
	// LeftOut are nodes that the cluster gates no longer look at, by an answer.
	LeftOut  []string `json:"leftOut,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Failure is why the operation could not start, or ended early.
	Failure   *Failure   `json:"failure,omitempty"`
	Questions []Question `json:"questions,omitempty"`
	Answers   []Answer   `json:"answers,omitempty"`
	// Maintenance: "" (not asked for), "on", "put back (off)", "put back (on)", "left on: ...".
	Maintenance string        `json:"maintenance,omitempty"`
	Commands    []CommandPlan `json:"commands,omitempty"`
	// Next is the workflow id of the operation that follows this one, "" for none.
	Next string `json:"next,omitempty"`
	// Export is the archive that an export made.
	Export *Exported `json:"export,omitempty"`
	// Restore is what an import brought back.
	Restore *Restored `json:"restore,omitempty"`
	// Catalog is set by operations on archives, which have no nodes.
	Catalog *CatalogReport `json:"catalog,omitempty"`
	// Apps is set by operations on apps.
	Apps *AppsReport `json:"apps,omitempty"`
	// Snapshot is the set that was taken.
	Snapshot *Snapshotted `json:"snapshot,omitempty"`
	// Sets is set by operations on sets of snapshots.
	Sets *SetReport `json:"sets,omitempty"`
	// Image is what became of the docker base image.
	Image *ImageReport `json:"image,omitempty"`
	// Patches is what became of kato's patches.
	Patches *PatchReport `json:"patches,omitempty"`
	// Storage is what became of a relocation.
	Storage *StorageReport `json:"storage,omitempty"`
	// Release is what became of an upgrade to another version of the platform.
	Release *ReleaseReport `json:"release,omitempty"`
}

// Counts of nodes by status.
func (r *Report) Counts() map[string]int {
	c := map[string]int{}
	for i := range r.Nodes {
		c[r.Nodes[i].Status]++
	}
	return c
}

// Finished reports whether the phase is final.
func (r *Report) Finished() bool {
	switch r.Phase {
	case PhaseDone, PhaseFailed, PhaseAborted, PhaseCancelled:
		return true
	}
	return false
}

// PreflightOutcome is the result of the update `preflight`: what the starter shows at once.
type PreflightOutcome struct {
	OperationID string `json:"operationId"`
	WorkflowID  string `json:"workflowId"`
	Nodes       int    `json:"nodes"`
	Pending     int    `json:"pendingPackages"`
	// Found is what else the preflight found, in one line.
	Found        string        `json:"found,omitempty"`
	BrokenBefore []GateFailure `json:"brokenBefore,omitempty"`
	Warnings     []string      `json:"warnings,omitempty"`
}

// Events that a notification is sent for.
const (
	EventParked = "parked"
	EventFailed = "failed"
	EventDone   = "done"
)

// Notification is the JSON that a webhook gets as its body and a command on its standard input.
type Notification struct {
	Event       string     `json:"event"`
	Cluster     string     `json:"cluster"`
	Kind        string     `json:"kind"`
	OperationID string     `json:"operationId"`
	WorkflowID  string     `json:"workflowId"`
	Message     string     `json:"message"`
	Questions   []Question `json:"questions,omitempty"`
	// ID is the same for every delivery of one notification.
	ID string `json:"id"`
}
