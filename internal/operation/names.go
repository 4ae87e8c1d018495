package operation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"go.temporal.io/sdk/temporal"
)

// DefaultTaskQueue is polled by a worker that is not told otherwise. A site that alone reaches its nodes has its own.
const DefaultTaskQueue = "katoflow"

// Names of the workflows, as registered.
const (
	WorkflowSecurityUpgrade     = "SecurityUpgrade"
	WorkflowSecurityUpgradeNode = "SecurityUpgradeNode"
	WorkflowBackup              = "Backup"
	WorkflowClusterLock         = "ClusterLock"
	WorkflowClusterCheck        = "ClusterCheck"
	WorkflowClusterTrust        = "ClusterTrust"
)

// Kinds of operations, as they stand in workflow ids and in the KatoflowOperation search attribute.
const (
	KindSecurityUpgrade = "upgrade-security"
	KindBackup          = "backup-create"
	KindClusterCheck    = "cluster-check"
	KindClusterTrust    = "cluster-trust"
)

// Names of the message handlers of every operation workflow. Each update takes exactly one struct.
const (
	// UpdatePreflight waits until the preflight has ended: its result is a PreflightOutcome, its error what stops the operation.
	UpdatePreflight = "preflight"
	UpdatePause     = "pause"     // PauseRequest
	UpdateResume    = "resume"    // ResumeRequest
	UpdateDecide    = "decide"    // DecideRequest
	UpdateSetBatch  = "set-batch" // SetBatchRequest
	QueryReport     = "report"    // Report
	// QueryProgress is answered by a node's child workflow: NodeStep.
	QueryProgress = "progress"
)

// MemoRequestedBy is the field of the memo of every operation workflow that names who asked.
const MemoRequestedBy = "requestedBy"

// Search attributes of every operation workflow. `katoflow init` registers them.
var (
	AttributeCluster       = temporal.NewSearchAttributeKeyKeyword("KatoflowCluster")
	AttributeOperation     = temporal.NewSearchAttributeKeyKeyword("KatoflowOperation")
	AttributePhase         = temporal.NewSearchAttributeKeyKeyword("KatoflowPhase")
	AttributeNode          = temporal.NewSearchAttributeKeyKeyword("KatoflowNode")
	AttributeNeedsOperator = temporal.NewSearchAttributeKeyBool("KatoflowNeedsOperator")
)

// Phases of an operation, the values of KatoflowPhase.
const (
	PhaseStarting  = "starting"  // inventory, lock, preflight
	PhaseRunning   = "running"   // steps on nodes
	PhaseBlocked   = "blocked"   // a question is open
	PhasePaused    = "paused"    // held by an operator, see PausesBefore
	PhaseCleanup   = "cleanup"   // putting back what was changed
	PhaseDone      = "done"      // every node done
	PhaseFailed    = "failed"    // ended with failed nodes, or could not start
	PhaseAborted   = "aborted"   // an operator or a policy said abort
	PhaseCancelled = "cancelled" // cancelled, in a safe state
)

// OnOneNode reports whether operations of a kind are several steps on one node: exports, imports and relocations.
func OnOneNode(kind string) bool {
	return kind == KindBackup || kind == KindRestore || kind == KindRehearse || kind == KindHold || kind == KindRelocate
}

// PausesBefore is what a paused operation of a kind does not begin, "the next node" in most of them.
func PausesBefore(kind string) string {
	switch {
	case OnOneNode(kind):
		return "the next step"
	case OnApps(kind):
		return "the next app"
	case kind == KindSnapshot:
		return "the next round"
	case kind == KindSnapshotRollback:
		return "the rollback itself"
	}
	return "the next node"
}

// ClusterNode is the node name under which questions about the whole cluster are asked.
const ClusterNode = "cluster"

// WorkflowID of an operation: op/CLUSTER/KIND/ID.
func WorkflowID(cluster, kind, id string) string {
	return "op/" + cluster + "/" + kind + "/" + id
}

// NodeWorkflowID of the child that works on a node.
func NodeWorkflowID(operationWorkflowID, node string) string {
	return operationWorkflowID + "/node/" + node
}

// LockWorkflowID of a cluster's exclusive lock.
func LockWorkflowID(cluster string) string { return "lock/cluster/" + cluster }

// ParseWorkflowID takes an operation's workflow id apart. A schedule appends a time stamp to the id (nightly-2026-11-22T03:00:00Z), which belongs to
// the operation id and is written there as nightly-20261122t030000z. A child's id may go on behind the operation's with more parts.
func ParseWorkflowID(workflowID string) (cluster, kind, id string, err error) {
	parts := strings.SplitN(workflowID, "/", 4)
	if len(parts) != 4 || parts[0] != "op" || parts[1] == "" || parts[2] == "" || parts[3] == "" {
		return "", "", "", fmt.Errorf("%q is not an operation: expected op/CLUSTER/KIND/ID", workflowID)
	}
	last, child, isChild := strings.Cut(parts[3], "/")
	if id = operationID(last); isChild {
		id += "/" + child
	}
	return parts[1], parts[2], id, nil
}

var idForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckID says what is wrong with an operation id chosen by a person.
func CheckID(id string) error {
	if !idForm.MatchString(id) {
		return fmt.Errorf("operation id %q: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit", id)
	}
	return nil
}

// IDFromWorkflow returns the operation id of a run that got none in its input, such as a scheduled one: the last part of the workflow
// id when it has the form of an id, else a digest of the whole workflow id, which Temporal keeps unique.
func IDFromWorkflow(workflowID string) string {
	if _, _, id, err := ParseWorkflowID(workflowID); err == nil && idForm.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(workflowID))
	return "w-" + hex.EncodeToString(sum[:10])
}
