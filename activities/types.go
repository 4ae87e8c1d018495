// Package activities holds the hands of katoflow: idempotent side effects, one struct a subject. Workflows refer to the methods through nil
// pointers; worker/main.go sets the fields.
package activities

import "github.com/katoflow/katoflow/internal/operation"

// Operation identifies the running operation to an activity.
type Operation struct {
	ID         string `json:"id"`
	Cluster    string `json:"cluster"`
	WorkflowID string `json:"workflowId"`
	// Token fences older operations: the start time of the cluster lock's run in Unix nanoseconds. 0 in a dry run.
	Token int64 `json:"token,omitempty"`
}

// ResolveInput asks for the inventory, frozen into a plan.
type ResolveInput struct {
	Cluster         string   `json:"cluster"`
	InventoryDigest string   `json:"inventoryDigest,omitempty"`
	Nodes           []string `json:"nodes,omitempty"`
	Roles           []string `json:"roles,omitempty"`
	RoleOrder       []string `json:"roleOrder,omitempty"`
	// Export asks for the one node of an export instead of Nodes and Roles.
	Export *ExportRequest `json:"export,omitempty"`
	// Import is the cluster whose bucket has the archive of an import, which is done on the Core, instead of Nodes and Roles.
	Import string `json:"import,omitempty"`
	// Scratch: the import is a rehearsal, for which the cluster must be a scratch one and another one than Import.
	Scratch bool `json:"scratch,omitempty"`
	// Running: Import is a running cluster, which kato reads itself.
	Running bool `json:"running,omitempty"`
	// Core asks for the Core alone.
	Core bool `json:"core,omitempty"`
	// NoNodes: the operation reaches the Cloud Controller alone; the plan has no nodes, and no others.
	NoNodes bool `json:"noNodes,omitempty"`
}

// ExportRequest is what the inventory has to be asked about an export.
type ExportRequest struct {
	Node         string                 `json:"node,omitempty"`
	OnlyThisNode bool                   `json:"onlyThisNode,omitempty"`
	Include      []string               `json:"include,omitempty"`
	Exclude      []string               `json:"exclude,omitempty"`
	EncryptTo    []string               `json:"encryptTo,omitempty"`
	Transfer     operation.TransferMode `json:"transfer,omitempty"`
	ToPath       string                 `json:"toPath,omitempty"`
}

// LockTokenInput names the run of the cluster lock.
type LockTokenInput struct {
	WorkflowID string `json:"workflowId"`
	RunID      string `json:"runId"`
}

// LockHolderResult says who has a cluster to itself.
type LockHolderResult struct {
	// Holder is the workflow id of the operation, "" when the lock is free.
	Holder string `json:"holder,omitempty"`
	// RunID of the lock's run.
	RunID string `json:"runId,omitempty"`
	// Orphaned: the holder has ended and nobody will free the lock, as happens when an operation is reset to before its lock and then ends early.
	Orphaned bool `json:"orphaned,omitempty"`
}

// WorkflowsInput names workflows.
type WorkflowsInput struct {
	WorkflowIDs []string `json:"workflowIds"`
}

// PreflightInput asks about many nodes at once.
type PreflightInput struct {
	Operation Operation `json:"operation"`
	// Nodes to be worked on; Others only count for the baseline.
	Nodes  []string `json:"nodes,omitempty"`
	Others []string `json:"others,omitempty"`
	PreflightNeeds
	// WaitForJobs is how long a job of an older operation that still runs is waited for.
	WaitForJobs operation.Duration `json:"waitForJobs,omitempty"`
}

// PreflightNeeds is what an operation will do on the nodes that are worked on.
type PreflightNeeds struct {
	// Packages are installed: tools, rights and space for apt.
	Packages bool `json:"packages,omitempty"`
	// Reboot: sudo must allow it.
	Reboot bool `json:"needReboot,omitempty"`
}

// NodePreflight is what the preflight found on one node.
type NodePreflight struct {
	Node string `json:"node"`
	// Problems stop the operation; Warnings are only told. One line each.
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Broken are the gates that do not hold before the operation.
	Broken []operation.GateFailure `json:"broken,omitempty"`
	// Pending is the number of packages that the lists on the node show as upgradable.
	Pending        int    `json:"pending,omitempty"`
	Kernel         string `json:"kernel,omitempty"`
	RebootRequired bool   `json:"rebootRequired,omitempty"`
}

// PreflightResult is the answer for all nodes asked about, in their order.
type PreflightResult struct {
	Nodes []NodePreflight `json:"nodes"`
}

// FenceInput takes the lease of many nodes, so that no older operation can start anything there.
type FenceInput struct {
	Operation Operation `json:"operation"`
	Nodes     []string  `json:"nodes"`
	// Optional nodes may be unreachable; they are returned in FenceResult.Unreachable.
	Optional []string `json:"optional,omitempty"`
}

// FenceResult names the nodes that were not fenced, with the reason.
type FenceResult struct {
	Failed      []NodeFailure `json:"failed,omitempty"`
	Unreachable []string      `json:"unreachable,omitempty"`
}

// NodeFailure is a Failure with its node.
type NodeFailure struct {
	Node    string            `json:"node"`
	Failure operation.Failure `json:"failure"`
}

// ClusterGatesInput asks whether the whole cluster is as well as it was before.
type ClusterGatesInput struct {
	Operation Operation `json:"operation"`
	// Exclude are nodes in work, out of service or left out.
	Exclude []string `json:"exclude,omitempty"`
	// Baseline failures are not blamed.
	Baseline []operation.GateFailure `json:"baseline,omitempty"`
	Times    int                     `json:"times"`
	Interval operation.Duration      `json:"interval"`
	Timeout  operation.Duration      `json:"timeout"`
}

// GatesResult says whether the gates held Times in a row before the timeout.
type GatesResult struct {
	Held bool `json:"held"`
	// Failures of the last round, at most 20.
	Failures []operation.GateFailure `json:"failures,omitempty"`
	Rounds   int                     `json:"rounds"`
}

// NodeInput is the input of a step on one node.
type NodeInput struct {
	Operation Operation             `json:"operation"`
	Node      operation.PlannedNode `json:"node"`
	// JobTry is the try in the identity of the step's job.
	JobTry int `json:"jobTry"`
	// Settle starts nothing: it follows what already runs to its end and says how it ended. Used when the operation is being cancelled.
	Settle           bool               `json:"settle,omitempty"`
	UnreachableAfter operation.Duration `json:"unreachableAfter,omitempty"`
}

// ProbeResult of a reachable node whose lease is ours.
type ProbeResult struct {
	BootID string `json:"bootId"`
	// HalfConfigured names packages that dpkg has left unfinished before we began.
	HalfConfigured []string `json:"halfConfigured,omitempty"`
}

// JobResult is how a step's job ended.
type JobResult struct {
	// Started is false only with Settle, when the job never ran.
	Started bool `json:"started"`
	// Interrupted: the node rebooted in the middle.
	Interrupted bool     `json:"interrupted,omitempty"`
	Notes       []string `json:"notes,omitempty"`
}

// UpgradeInput is the input of the upgrade step.
type UpgradeInput struct {
	NodeInput
	AptLockTimeout operation.Duration `json:"aptLockTimeout,omitempty"`
	Timeout        operation.Duration `json:"timeout,omitempty"`
	// Pins are the canary's versions; a candidate that differs is refused before anything is touched.
	Pins []operation.PackageVersion `json:"pins,omitempty"`
}

// UpgradeResult is how the upgrade job ended.
type UpgradeResult struct {
	JobResult
	// NeedsRepair: dpkg was interrupted or left packages half configured; `repair` first, then the job's next try.
	NeedsRepair    bool `json:"needsRepair,omitempty"`
	RebootRequired bool `json:"rebootRequired,omitempty"`
}

// RebootInput is the input of the reboot step.
type RebootInput struct {
	NodeInput
	// Timeout until the node must be back after the reboot job began.
	Timeout operation.Duration `json:"timeout"`
}

// RebootResult says from which boot to which.
type RebootResult struct {
	JobResult
	// Earlier: the job was there when the activity first looked, so it may have begun long before (a Reset of the operation).
	Earlier      bool   `json:"earlier,omitempty"`
	BootIDBefore string `json:"bootIdBefore,omitempty"`
	BootIDAfter  string `json:"bootIdAfter,omitempty"`
}

// ProofInput is the input of the boot proof.
type ProofInput struct {
	NodeInput
	BootIDBefore string `json:"bootIdBefore"`
	// RebootBegan is the Temporal server's time before the reboot job was started (RFC 3339, with fractions); the operation's start where nothing closer is known. PID 1 must be younger than the time from
	// then to the start of this attempt, which the server recorded too (activity.Info.StartedTime): the clocks of node and worker are not needed.
	RebootBegan string `json:"rebootBegan"`
}

// NodeGatesInput is the input of a node's gates.
type NodeGatesInput struct {
	NodeInput
	Baseline []operation.GateFailure `json:"baseline,omitempty"`
	Times    int                     `json:"times"`
	Interval operation.Duration      `json:"interval"`
	Timeout  operation.Duration      `json:"timeout"`
}

// RecordInput is the input of the record step.
type RecordInput struct {
	NodeInput
	// UpgradeTries are the tries of the upgrade job whose packages count.
	UpgradeTries int `json:"upgradeTries"`
	// Pins that the node must have reached.
	Pins []operation.PackageVersion `json:"pins,omitempty"`
}

// RecordResult is what was installed.
type RecordResult struct {
	Changes []operation.PackageChange `json:"changes,omitempty"`
	// Count of all changes; Changes holds at most operation.MaxChanges.
	Count int `json:"count"`
	// Remaining security packages that are still pending although the upgrade ended well (held back, or a blacklist).
	Remaining []string `json:"remaining,omitempty"`
}

// MaintenanceInput turns the maintenance mode of an ALS cluster on or puts it back.
type MaintenanceInput struct {
	Operation        Operation          `json:"operation"`
	UnreachableAfter operation.Duration `json:"unreachableAfter,omitempty"`
	// DeadMan: the procedure allows a dead-man, where the inventory wants one.
	DeadMan bool `json:"deadMan,omitempty"`
	// Entered, for LeaveMaintenance: the last EnterMaintenance ended well, so that nothing of it can be under way; Found is what it said.
	Entered bool   `json:"entered,omitempty"`
	Found   string `json:"found,omitempty"`
}

// MaintenanceResult is the state before and after.
type MaintenanceResult struct {
	// Found is "on" or "off": the state that will be put back.
	Found string `json:"found"`
	Now   string `json:"now"`
	Note  string `json:"note,omitempty"`
	// Ago is how long before the end of the activity the mode was begun to be set (EnterMaintenance), or was seen put back (LeaveMaintenance).
	Ago operation.Duration `json:"ago,omitempty"`
	// SignEvery is how often a sign of life must be given, because a dead-man is armed; 0 = there is none.
	SignEvery operation.Duration `json:"signEvery,omitempty"`
}

// SignOfLifeInput shows the dead-man of maintenance mode that the operation lives.
type SignOfLifeInput struct {
	MaintenanceInput
	SignEvery operation.Duration `json:"signEvery"`
}

// PlanCommandsInput asks for the commands of a dry run.
type PlanCommandsInput struct {
	Operation   Operation               `json:"operation"`
	Nodes       []operation.PlannedNode `json:"nodes"`
	Reboot      operation.RebootPolicy  `json:"reboot"`
	Retire      bool                    `json:"retire,omitempty"`
	Maintenance bool                    `json:"maintenance,omitempty"`
	Pin         bool                    `json:"pin,omitempty"`
}

// PlanCommandsResult groups nodes whose commands are the same.
type PlanCommandsResult struct {
	Plans []operation.CommandPlan `json:"plans"`
}

// TrustInput asks the worker to learn host keys.
type TrustInput struct {
	Cluster string   `json:"cluster"`
	Nodes   []string `json:"nodes,omitempty"`
	// Accept lists "node SHA256:fingerprint" pairs the operator has confirmed; without them the keys are only shown.
	Accept []string `json:"accept,omitempty"`
	// Replace allows a changed key to be replaced by the confirmed one.
	Replace bool `json:"replace,omitempty"`
}

// TrustedKey is one host key seen.
type TrustedKey struct {
	Node        string `json:"node"`
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	// State is known, new, changed, added, replaced or error.
	State string `json:"state"`
	// Error in one line when State is error.
	Error string `json:"error,omitempty"`
}

// TrustResult lists the keys of all nodes asked about.
type TrustResult struct {
	Keys []TrustedKey `json:"keys"`
}
