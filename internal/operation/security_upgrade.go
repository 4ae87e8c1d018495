package operation

import "time"

// RebootPolicy says when a node is rebooted after its upgrade.
type RebootPolicy string

// Reboot policies. The source page says every node should be rebooted, so always is the default.
const (
	RebootAlways     RebootPolicy = "always"
	RebootIfRequired RebootPolicy = "if-required"
	RebootNever      RebootPolicy = "never"
)

// Steps of the security upgrade on one node, in order. They stand in reports, decisions and job names.
const (
	StepProbe   = "probe"   // reach the node, take the lease, boot id, space
	StepRetire  = "retire"  // move app instances to other DEAs
	StepUpgrade = "upgrade" // package lists (job "refresh"), then unattended-upgrades (job "upgrade")
	StepRepair  = "repair"  // dpkg --configure -a after an interrupted run
	StepReboot  = "reboot"  // reboot and wait for the node to return
	StepProof   = "proof"   // boot proof
	StepGates   = "gates"   // the node's gates
	StepRecord  = "record"  // what was installed
)

// StepRefresh is the job of the upgrade step that fetches the package lists.
const StepRefresh = "refresh"

// Steps of the operation itself, for questions about the cluster.
const (
	StepClusterGates   = "cluster-gates"
	StepOutOfService   = "out-of-service"
	StepMaintenanceOn  = "maintenance-on"
	StepMaintenanceOff = "maintenance-off"
	StepFinalGates     = "final-gates"
)

// DefaultAnswerWithin bounds a park when the request does not say.
const DefaultAnswerWithin = Duration(72 * time.Hour)

// Request is the part of an input that every operation has.
type Request struct {
	// OperationID is single-use. Empty (schedules): taken from the workflow id.
	OperationID string `json:"operationId,omitempty"`
	Cluster     string `json:"cluster"`
	// InventoryDigest of the cluster as the starter's file has it; empty when the starter has no file. It must agree with the worker's.
	InventoryDigest string `json:"inventoryDigest,omitempty"`
	// RequestedBy is shown, never trusted.
	RequestedBy string `json:"requestedBy,omitempty"`
	// DryRun reads and plans; nothing is mutated.
	DryRun bool `json:"dryRun,omitempty"`
	// LockWait is how long to queue for the cluster's lock; 0 fails at once naming the holder.
	LockWait Duration `json:"lockWait,omitempty"`
	// StartWithin is how long after its start a worker must have taken the operation up (0 = no limit): the scheduled work of the night never begins at noon.
	StartWithin Duration `json:"startWithin,omitempty"`
	// AnswerWithin bounds every park (0 = 72h); OnDeadline is decided then (default abort; skip where the question takes it).
	AnswerWithin Duration `json:"answerWithin,omitempty"`
	OnDeadline   Decision `json:"onDeadline,omitempty"`
}

// SecurityUpgradeInput asks for a rolling security upgrade. Zero values are the defaults.
type SecurityUpgradeInput struct {
	Request
	// Nodes and Roles limit the operation; both empty = all nodes. With both, a node must be named and have a named role.
	Nodes []string `json:"nodes,omitempty"`
	Roles []string `json:"roles,omitempty"`
	// Batch is a count or percentage of nodes out of service at once (default "1").
	Batch string `json:"batch,omitempty"`
	// NoCanary lets the first batch be a whole one; otherwise the first node goes alone and is followed by the soak.
	NoCanary bool `json:"noCanary,omitempty"`
	// Soak after the canary.
	Soak Duration `json:"soak,omitempty"`
	// Reboot policy (default always).
	Reboot RebootPolicy `json:"reboot,omitempty"`
	// RoleOrder replaces the default order of roles (als).
	RoleOrder []string `json:"roleOrder,omitempty"`
	// Pin: every other node must reach exactly the canary's versions.
	Pin bool `json:"pin,omitempty"`
	// MaxFailures: nil asks about every failed node; otherwise so many nodes are skipped without asking and one more aborts.
	MaxFailures *int `json:"maxFailures,omitempty"`
	// Maintenance mode on for the time of the operation (als).
	Maintenance bool `json:"maintenance,omitempty"`
	// NoRetire leaves app instances on a DEA that is about to be upgraded (als).
	NoRetire bool `json:"noRetire,omitempty"`
	// Window: no node is begun outside of it.
	Window WindowInput `json:"window,omitzero"`
	// Then is the upgrade of the docker base image that follows when every node is done, as an operation of its own with the same id (als). Its request, nodes and windows are this one's.
	Then *ImageUpgradeInput `json:"then,omitempty"`
}

// MaxChanges is how many changed packages of a node are kept by name; --pin needs them all.
const MaxChanges = 200

// PackageVersion is an installed package.
type PackageVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// PackageChange is a package that an upgrade changed.
type PackageChange struct {
	Name string `json:"name"`
	From string `json:"from,omitempty"`
	To   string `json:"to"`
}

// BootProof is the evidence that a node truly rebooted into what was installed.
type BootProof struct {
	// BootIDBefore is the one stored when the reboot job started; BootIDAfter the one read afterwards.
	BootIDBefore string `json:"bootIdBefore"`
	BootIDAfter  string `json:"bootIdAfter"`
	// Init says how the start of PID 1 was tied to the time after the reboot job began.
	Init string `json:"init"`
	// Kernel is "6.1.0-28-amd64, as the boot loader names it", "not applicable (container)" or "not proved: ...".
	Kernel string `json:"kernel"`
	// KernelRunning is uname -r after the reboot.
	KernelRunning string `json:"kernelRunning,omitempty"`
}

// NodeProgress is what the steps of a node have found so far; a retry of a later step gets it again.
type NodeProgress struct {
	// Retired is true once the DEA's instances were moved.
	Retired bool `json:"retired,omitempty"`
	// HalfConfigured: dpkg had unfinished packages before the upgrade.
	HalfConfigured bool `json:"halfConfigured,omitempty"`
	// UpgradeTries is how many tries of the upgrade job there were.
	UpgradeTries int `json:"upgradeTries,omitempty"`
	// Upgraded is true once the upgrade job has ended well.
	Upgraded       bool            `json:"upgraded,omitempty"`
	Changes        []PackageChange `json:"changes,omitempty"`
	ChangeCount    int             `json:"changeCount,omitempty"`
	RebootRequired bool            `json:"rebootRequired,omitempty"`
	// RebootBegan is the workflow's time before the reboot job, RFC 3339 with fractions: the upper bound of PID 1's age afterwards.
	RebootBegan string `json:"rebootBegan,omitempty"`
	// RebootJobTry is the try of the reboot job whose boot id counts.
	RebootJobTry int        `json:"rebootJobTry,omitempty"`
	BootIDBefore string     `json:"bootIdBefore,omitempty"`
	Proof        *BootProof `json:"proof,omitempty"`
	// Image is what the upgrade of the docker base image has found.
	Image *ImageProgress `json:"image,omitempty"`
	// HostKeys are those that the node has told of itself, as TYPE KEY.
	HostKeys []string `json:"hostKeys,omitempty"`
	// Patches is what was found and done by kato patch.
	Patches *PatchProgress `json:"patches,omitempty"`
	// Release is what was found and done by kato node upgrade.
	Release *ReleaseProgress `json:"release,omitempty"`
	// Notes for the report, one line each: repaired, waited for apt, rebooted by something else.
	Notes []string `json:"notes,omitempty"`
}
