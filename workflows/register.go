package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// Registry is where workflows are registered: a worker, a replayer or a test environment.
type Registry interface {
	RegisterWorkflowWithOptions(w any, options workflow.RegisterOptions)
}

// Register makes every workflow known under its name.
func Register(r Registry) {
	r.RegisterWorkflowWithOptions(SecurityUpgrade, workflow.RegisterOptions{Name: operation.WorkflowSecurityUpgrade})
	r.RegisterWorkflowWithOptions(SecurityUpgradeNode, workflow.RegisterOptions{Name: operation.WorkflowSecurityUpgradeNode})
	r.RegisterWorkflowWithOptions(ImageUpgrade, workflow.RegisterOptions{Name: operation.WorkflowImageUpgrade})
	r.RegisterWorkflowWithOptions(ImageUpgradeNode, workflow.RegisterOptions{Name: operation.WorkflowImageUpgradeNode})
	r.RegisterWorkflowWithOptions(Patch, workflow.RegisterOptions{Name: operation.WorkflowPatch})
	r.RegisterWorkflowWithOptions(PatchNode, workflow.RegisterOptions{Name: operation.WorkflowPatchNode})
	r.RegisterWorkflowWithOptions(PatchStatus, workflow.RegisterOptions{Name: operation.WorkflowPatchStatus})
	r.RegisterWorkflowWithOptions(ReleaseUpgrade, workflow.RegisterOptions{Name: operation.WorkflowReleaseUpgrade})
	r.RegisterWorkflowWithOptions(ReleaseUpgradeNode, workflow.RegisterOptions{Name: operation.WorkflowReleaseUpgradeNode})
	r.RegisterWorkflowWithOptions(Access, workflow.RegisterOptions{Name: operation.WorkflowAccess})
	r.RegisterWorkflowWithOptions(AccessNode, workflow.RegisterOptions{Name: operation.WorkflowAccessNode})
	r.RegisterWorkflowWithOptions(AccessCheck, workflow.RegisterOptions{Name: operation.WorkflowAccessCheck})
	r.RegisterWorkflowWithOptions(StorageQuota, workflow.RegisterOptions{Name: operation.WorkflowQuota})
	r.RegisterWorkflowWithOptions(StorageQuotaNode, workflow.RegisterOptions{Name: operation.WorkflowQuotaNode})
	r.RegisterWorkflowWithOptions(StorageRelocate, workflow.RegisterOptions{Name: operation.WorkflowRelocate})
	r.RegisterWorkflowWithOptions(Backup, workflow.RegisterOptions{Name: operation.WorkflowBackup})
	r.RegisterWorkflowWithOptions(Restore, workflow.RegisterOptions{Name: operation.WorkflowRestore})
	r.RegisterWorkflowWithOptions(Hold, workflow.RegisterOptions{Name: operation.WorkflowHold})
	r.RegisterWorkflowWithOptions(Snapshot, workflow.RegisterOptions{Name: operation.WorkflowSnapshot})
	r.RegisterWorkflowWithOptions(SnapshotRollback, workflow.RegisterOptions{Name: operation.WorkflowSnapshotRollback})
	r.RegisterWorkflowWithOptions(SnapshotList, workflow.RegisterOptions{Name: operation.WorkflowSnapshotList})
	r.RegisterWorkflowWithOptions(SnapshotShow, workflow.RegisterOptions{Name: operation.WorkflowSnapshotShow})
	r.RegisterWorkflowWithOptions(SnapshotVerify, workflow.RegisterOptions{Name: operation.WorkflowSnapshotVerify})
	r.RegisterWorkflowWithOptions(SnapshotPrune, workflow.RegisterOptions{Name: operation.WorkflowSnapshotPrune})
	r.RegisterWorkflowWithOptions(SnapshotDelete, workflow.RegisterOptions{Name: operation.WorkflowSnapshotDelete})
	r.RegisterWorkflowWithOptions(Apps, workflow.RegisterOptions{Name: operation.WorkflowApps})
	r.RegisterWorkflowWithOptions(AppsBatch, workflow.RegisterOptions{Name: operation.WorkflowAppsBatch})
	r.RegisterWorkflowWithOptions(AppsList, workflow.RegisterOptions{Name: operation.WorkflowAppsList})
	r.RegisterWorkflowWithOptions(ClusterLock, workflow.RegisterOptions{Name: operation.WorkflowClusterLock})
	r.RegisterWorkflowWithOptions(ClusterCheck, workflow.RegisterOptions{Name: operation.WorkflowClusterCheck})
	r.RegisterWorkflowWithOptions(ClusterTrust, workflow.RegisterOptions{Name: operation.WorkflowClusterTrust})
	r.RegisterWorkflowWithOptions(BackupList, workflow.RegisterOptions{Name: operation.WorkflowBackupList})
	r.RegisterWorkflowWithOptions(BackupShow, workflow.RegisterOptions{Name: operation.WorkflowBackupShow})
	r.RegisterWorkflowWithOptions(ClusterStatus, workflow.RegisterOptions{Name: operation.WorkflowClusterStatus})
	r.RegisterWorkflowWithOptions(BackupVerify, workflow.RegisterOptions{Name: operation.WorkflowBackupVerify})
	r.RegisterWorkflowWithOptions(BackupDelete, workflow.RegisterOptions{Name: operation.WorkflowBackupDelete})
	r.RegisterWorkflowWithOptions(BackupPrune, workflow.RegisterOptions{Name: operation.WorkflowBackupPrune})
}
