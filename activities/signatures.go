package activities

import (
	"context"

	"github.com/katoflow/katoflow/internal/operation"
)

// Inventory answers from the worker's own cluster file, which is the truth: a starter's file is only compared with it.
type Inventory struct{}

// Nodes does the work on the nodes.
type Nodes struct{}

// Kato runs the procedures that kato knows, on the Core node.
type Kato struct{}

// Locks knows the cluster locks.
type Locks struct{}

// Notifier sends notifications.
type Notifier struct{}

func unfinished(what string) error {
	return operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: what + ": not in this build"})
}

func (a *Inventory) Resolve(ctx context.Context, in ResolveInput) (operation.Plan, error) {
	return operation.Plan{}, unfinished("resolve")
}
func (a *Inventory) Trust(ctx context.Context, in TrustInput) (TrustResult, error) {
	return TrustResult{}, unfinished("trust")
}
func (a *Locks) LockToken(ctx context.Context, in LockTokenInput) (int64, error) {
	return 0, unfinished("lock token")
}
func (a *Locks) LockHolder(ctx context.Context, cluster string) (string, error) {
	return "", unfinished("lock holder")
}
func (a *Nodes) Preflight(ctx context.Context, in PreflightInput) (PreflightResult, error) {
	return PreflightResult{}, unfinished("preflight")
}
func (a *Nodes) Fence(ctx context.Context, in FenceInput) (FenceResult, error) {
	return FenceResult{}, unfinished("fence")
}
func (a *Nodes) ClusterGates(ctx context.Context, in ClusterGatesInput) (GatesResult, error) {
	return GatesResult{}, unfinished("cluster gates")
}
func (a *Nodes) Probe(ctx context.Context, in NodeInput) (ProbeResult, error) {
	return ProbeResult{}, unfinished("probe")
}
func (a *Nodes) Upgrade(ctx context.Context, in UpgradeInput) (UpgradeResult, error) {
	return UpgradeResult{}, unfinished("upgrade")
}
func (a *Nodes) Repair(ctx context.Context, in NodeInput) (JobResult, error) {
	return JobResult{}, unfinished("repair")
}
func (a *Nodes) Reboot(ctx context.Context, in RebootInput) (RebootResult, error) {
	return RebootResult{}, unfinished("reboot")
}
func (a *Nodes) Proof(ctx context.Context, in ProofInput) (operation.BootProof, error) {
	return operation.BootProof{}, unfinished("proof")
}
func (a *Nodes) Gates(ctx context.Context, in NodeGatesInput) (GatesResult, error) {
	return GatesResult{}, unfinished("gates")
}
func (a *Nodes) Record(ctx context.Context, in RecordInput) (RecordResult, error) {
	return RecordResult{}, unfinished("record")
}
func (a *Nodes) PlanCommands(ctx context.Context, in PlanCommandsInput) (PlanCommandsResult, error) {
	return PlanCommandsResult{}, unfinished("plan commands")
}
func (a *Kato) Retire(ctx context.Context, in NodeInput) (JobResult, error) {
	return JobResult{}, unfinished("retire")
}
func (a *Kato) EnterMaintenance(ctx context.Context, in MaintenanceInput) (MaintenanceResult, error) {
	return MaintenanceResult{}, unfinished("enter maintenance")
}
func (a *Kato) LeaveMaintenance(ctx context.Context, in MaintenanceInput) (MaintenanceResult, error) {
	return MaintenanceResult{}, unfinished("leave maintenance")
}
func (a *Notifier) Notify(ctx context.Context, in operation.Notification) error {
	return unfinished("notify")
}
