package workflows

import (
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// ClusterCheck asks every node of a cluster what a preflight asks, from the worker that would do the work. It changes nothing and takes no lock.
// It fails with ErrPreflight, all problems in the Failure, when a node is not ready.
func ClusterCheck(ctx workflow.Context, req operation.Request) (*operation.Report, error) {
	req.DryRun = true
	return operate(ctx, operation.KindClusterCheck, req, "", &clusterCheck{req: req})
}

// clusterCheck is a procedure without steps.
type clusterCheck struct{ req operation.Request }

func (c *clusterCheck) check() []string {
	if c.req.Cluster == "" {
		return []string{"cluster is missing: name one of the inventory"}
	}
	return nil
}

func (c *clusterCheck) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: c.req.Cluster, InventoryDigest: c.req.InventoryDigest}
}
func (c *clusterCheck) needs() activities.PreflightNeeds {
	return activities.PreflightNeeds{Packages: true, Reboot: true}
}
func (c *clusterCheck) ready(workflow.Context) (problems, warnings []string, err error) {
	return nil, nil, nil
}
func (c *clusterCheck) wantsMaintenance() bool                                   { return false }
func (c *clusterCheck) steps(workflow.Context)                                   {}
func (c *clusterCheck) dryRun(workflow.Context) ([]operation.CommandPlan, error) { return nil, nil }

// ClusterTrust shows or learns the host keys of a cluster's nodes on the worker, whose known_hosts file is the one that counts.
func ClusterTrust(ctx workflow.Context, in activities.TrustInput) (activities.TrustResult, error) {
	options := workflow.GetActivityOptions(quick(ctx, "host keys of "+in.Cluster))
	options.RetryPolicy = &temporal.RetryPolicy{MaximumAttempts: 2}
	var inventory *activities.Inventory
	var out activities.TrustResult
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), inventory.Trust, in).Get(ctx, &out)
	return out, err
}
