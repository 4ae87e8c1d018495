package workflows

import (
	"slices"
	"time"

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
type clusterCheck struct {
	*run
	req operation.Request
}

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

func (c *clusterCheck) attach(r *run) { c.run = r }

// ready looks at where data services keep their data ("Persistent Storage" of the source page).
func (c *clusterCheck) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	if workflow.GetVersion(ctx, "check-storage", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return nil, nil, nil
	}
	var nodes *activities.Nodes
	var out activities.StorageResult
	if err := workflow.ExecuteActivity(following(ctx, "where data services keep their data", nodesWithin), nodes.Storage, activities.NodesStatusInput{Cluster: c.req.Cluster, Nodes: names(c.plan)}).Get(ctx, &out); err != nil {
		if ctx.Err() != nil {
			return nil, nil, err
		}
		out.Warnings = append(out.Warnings, operation.Shorten("where data services keep their data is not known: "+operation.FailureOf(err).Message, 400))
	}
	return nil, out.Warnings, nil
}
func (c *clusterCheck) wantsMaintenance() bool                                   { return false }
func (c *clusterCheck) steps(workflow.Context)                                   {}
func (c *clusterCheck) dryRun(workflow.Context) ([]operation.CommandPlan, error) { return nil, nil }

// names of a plan's nodes, in its order.
func names(plan operation.Plan) []string {
	out := make([]string, len(plan.Nodes))
	for i, n := range plan.Nodes {
		out[i] = n.Name
	}
	return out
}

// workingOn are the plan's nodes with a role.
func workingOn(plan operation.Plan, role string) []string {
	var out []string
	for _, n := range plan.Nodes {
		if n.HasRole(role) {
			out = append(out, n.Name)
		}
	}
	return out
}

// ClusterStatus tells how a cluster is: its nodes, who works on it, and what there is to go back to. It reads only. What cannot be asked is told, and is no error.
func ClusterStatus(ctx workflow.Context, in operation.StatusInput) (operation.ClusterStatus, error) {
	var (
		inventory *activities.Inventory
		nodes     *activities.Nodes
		locks     *activities.Locks
		catalog   *activities.Catalog
		snapshots *activities.Snapshots
		plan      operation.Plan
	)
	out := operation.ClusterStatus{Cluster: in.Cluster, At: stamp(ctx)}
	if err := workflow.ExecuteActivity(quick(ctx, "inventory"), inventory.Resolve, activities.ResolveInput{Cluster: in.Cluster, InventoryDigest: in.InventoryDigest}).Get(ctx, &plan); err != nil {
		return out, err
	}
	out.Platform = plan.Platform
	soon := func(summary string) workflow.Context {
		options := workflow.GetActivityOptions(quick(ctx, summary))
		options.ScheduleToCloseTimeout = statusWithin
		return workflow.WithActivityOptions(ctx, options)
	}
	asked := workflow.ExecuteActivity(following(ctx, "how the nodes are", nodesWithin), nodes.NodesStatus, activities.NodesStatusInput{Cluster: in.Cluster, Nodes: names(plan)})
	deas := workingOn(plan, "dea")
	var images []activities.ImageStatus
	var built workflow.Future
	if len(deas) > 0 && workflow.GetVersion(ctx, "status-images", workflow.DefaultVersion, 1) >= 1 {
		var docker *activities.Images
		built = workflow.ExecuteActivity(following(ctx, "the images of the DEAs", nodesWithin), docker.ImagesStatus,
			activities.ImagesStatusInput{Cluster: in.Cluster, Nodes: deas, Images: operation.ImageSettings{}.Or(plan.Images)})
	}
	holder := workflow.ExecuteActivity(soon("who works on the cluster"), locks.LockHolder, in.Cluster)
	archives := workflow.ExecuteActivity(soon("its archives"), catalog.ListArchives, operation.BackupListInput{Cluster: in.Cluster, Limit: operation.DefaultArchives})
	sets := workflow.ExecuteActivity(soon("its sets of snapshots"), snapshots.ListSets, operation.SnapshotListInput{Cluster: in.Cluster, Limit: 1})
	unknown := func(what string, err error) {
		if err != nil {
			out.Unknown = append(out.Unknown, operation.Shorten(what+": "+operation.FailureOf(err).Message, 400))
		}
	}

	var states activities.NodesStatusResult
	if err := asked.Get(ctx, &states); err != nil {
		return out, err
	}
	out.Nodes = states.Nodes
	if built != nil {
		unknown("images of the DEAs", built.Get(ctx, &images))
		var problems []string
		for i, image := range images {
			at := slices.IndexFunc(out.Nodes, func(n operation.NodeStatus) bool { return n.Node == deas[i] })
			if at < 0 || out.Nodes[at].Problem != "" {
				continue
			}
			out.Nodes[at].Image, out.Nodes[at].ImageBuiltAt = image.Name, image.BuiltAt
			if image.Problem != "" {
				problems = append(problems, operation.Shorten("image of "+deas[i]+": "+image.Problem, 400))
			}
		}
		out.Unknown = append(out.Unknown, bound(problems, 5)...)
	}
	var held activities.LockHolderResult
	unknown("who works on the cluster", holder.Get(ctx, &held))
	out.Holder = held.Holder
	var list operation.ArchiveList
	unknown("archives", archives.Get(ctx, &list))
	for i := range list.Archives {
		a := &list.Archives[i]
		if out.Backup == nil {
			out.Backup = a
		}
		if a.Rehearsed != nil && (out.Rehearsal == nil || a.Rehearsed.At > out.Rehearsal.Rehearsed.At) {
			out.Rehearsal = a
		}
	}
	var taken operation.SnapshotSets
	unknown("sets of snapshots", sets.Get(ctx, &taken))
	if len(taken.Sets) > 0 {
		out.Snapshot = &taken.Sets[0]
	}
	return out, nil
}

// nodesWithin bounds the look at all nodes, each of which has its own time.
const nodesWithin = 10 * time.Minute

// statusWithin is how long whoever asks how a cluster is waits for what is not one of its nodes.
const statusWithin = 30 * time.Second

// ClusterTrust shows or learns the host keys of a cluster's nodes on the worker, whose known_hosts file is the one that counts.
func ClusterTrust(ctx workflow.Context, in activities.TrustInput) (activities.TrustResult, error) {
	options := workflow.GetActivityOptions(quick(ctx, "host keys of "+in.Cluster))
	options.RetryPolicy = &temporal.RetryPolicy{MaximumAttempts: 2}
	var inventory *activities.Inventory
	var out activities.TrustResult
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), inventory.Trust, in).Get(ctx, &out)
	return out, err
}
