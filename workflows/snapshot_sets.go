package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// What is done with sets of snapshots asks the bucket and the hypervisor. None of it reaches a node, takes the cluster's lock, or asks anything.

// SnapshotList returns the sets of a cluster, the newest first.
func SnapshotList(ctx workflow.Context, in operation.SnapshotListInput) (operation.SnapshotSets, error) {
	var snapshots *activities.Snapshots
	var out operation.SnapshotSets
	err := workflow.ExecuteActivity(looking(ctx, "sets of snapshots of "+in.Cluster), snapshots.ListSets, in).Get(ctx, &out)
	return out, err
}

// SnapshotShow returns the manifest of one set.
func SnapshotShow(ctx workflow.Context, in operation.SnapshotShowInput) (operation.SnapshotSet, error) {
	var snapshots *activities.Snapshots
	var out operation.SnapshotSet
	err := workflow.ExecuteActivity(looking(ctx, "set "+in.Set+" of "+in.Cluster), snapshots.ShowSet, in).Get(ctx, &out)
	return out, err
}

// SnapshotVerify asks the hypervisor whether every snapshot of a set is there and can be gone back to. It fails with ErrSnapshot when one is not.
func SnapshotVerify(ctx workflow.Context, in operation.SnapshotSetInput) (*operation.Report, error) {
	if in.Set == "" {
		in.Set = operation.LatestArchive
	}
	k := &keeping{req: in.Request, kind: operation.KindSnapshotVerify}
	if err := operation.CheckSnapshotSet(in.Set); err != nil {
		k.problems = append(k.problems, err.Error())
	}
	return k.run(ctx, func(ctx workflow.Context) *operation.Failure {
		var snapshots *activities.Snapshots
		var found activities.SetVerification
		if err := workflow.ExecuteActivity(looking(ctx, "set "+in.Set), snapshots.VerifySet, activities.SetInput{Operation: k.operation(), Set: in.Set}).Get(ctx, &found); err != nil {
			return operation.FailureOf(err)
		}
		k.report.Sets = &operation.SetReport{Set: &found.Set, Problems: found.Problems, Orphans: found.Orphans}
		for _, o := range found.Orphans {
			k.report.Warnings = append(k.report.Warnings, "a snapshot stands in no manifest: "+o)
		}
		if n := len(found.Problems); n > 0 {
			return &operation.Failure{Type: operation.ErrSnapshot, Problems: found.Problems,
				Message: operation.Shorten(fmt.Sprintf("set %s cannot be gone back to: %s of %d: %s", found.Set.Set, count(n, "problem"), len(found.Set.Snapshots), found.Problems[0]), 1024)}
		}
		k.report.Message = fmt.Sprintf("set %s is whole: all %s are there", found.Set.Set, count(len(found.Set.Snapshots), "snapshot"))
		return nil
	})
}

// SnapshotDelete deletes the snapshots of a set, then its manifest. It fails with ErrSnapshot when one could not be deleted; the set stays in the list then.
func SnapshotDelete(ctx workflow.Context, in operation.SnapshotSetInput) (*operation.Report, error) {
	k := &keeping{req: in.Request, kind: operation.KindSnapshotDelete}
	if err := operation.CheckSnapshotSet(in.Set); err != nil {
		k.problems = append(k.problems, err.Error())
	} else if in.Set == operation.LatestArchive {
		k.problems = append(k.problems, "set latest is not deleted by that name: write the id of the operation that took it")
	}
	return k.run(ctx, func(ctx workflow.Context) *operation.Failure {
		var snapshots *activities.Snapshots
		var set operation.SnapshotSet
		if err := workflow.ExecuteActivity(looking(ctx, "set "+in.Set), snapshots.ShowSet, operation.SnapshotShowInput{Cluster: in.Cluster, Set: in.Set}).Get(ctx, &set); err != nil {
			return operation.FailureOf(err)
		}
		k.report.Sets = &operation.SetReport{Set: &set}
		k.say(ctx, "deleting "+count(len(set.Snapshots), "snapshot"))
		if err := workflow.ExecuteActivity(keepingOn(ctx, "delete set "+in.Set), snapshots.DeleteSet, activities.SetInput{Operation: k.operation(), Set: in.Set}).Get(ctx, nil); err != nil {
			return operation.FailureOf(err)
		}
		k.report.Message = fmt.Sprintf("set %s and its %s are deleted", in.Set, count(len(set.Snapshots), "snapshot"))
		return nil
	})
}

// SnapshotPrune deletes the sets that a retention does not keep, the oldest first. It fails with ErrSnapshot when one could not be deleted; such a set stays in the list.
func SnapshotPrune(ctx workflow.Context, in operation.PruneInput) (*operation.Report, error) {
	k := &keeping{req: in.Request, kind: operation.KindSnapshotPrune, problems: in.Retention.Check()}
	return k.run(ctx, func(ctx workflow.Context) *operation.Failure {
		var snapshots *activities.Snapshots
		prune := &operation.SetPruneReport{}
		if err := workflow.ExecuteActivity(looking(ctx, "what the retention keeps: "+in.Retention.String()), snapshots.PlanSetPrune, in).Get(ctx, prune); err != nil {
			return operation.FailureOf(err)
		}
		k.report.Sets = &operation.SetReport{Prune: prune}
		if in.DryRun {
			k.report.Message = fmt.Sprintf("dry run: %s would be deleted, %d would stay, nothing was changed", count(prune.Count(operation.PrunePlanned)+prune.MoreDeleted, "set"),
				len(prune.Keep)+prune.MoreKept)
			return nil
		}
		var doomed []string
		for i := range prune.Delete {
			if prune.Delete[i].Outcome == operation.PrunePlanned {
				doomed = append(doomed, prune.Delete[i].Set)
			}
		}
		if len(doomed) > 0 {
			k.say(ctx, "deleting "+count(len(doomed), "set"))
			var stay []activities.PruneOutcome
			if err := workflow.ExecuteActivity(keepingOn(ctx, "delete "+count(len(doomed), "set")), snapshots.PruneSets,
				activities.PruneSetsInput{Operation: k.operation(), Retention: in.Retention, Delete: doomed}).Get(ctx, &stay); err != nil {
				return operation.FailureOf(err)
			}
			prunedSets(prune, stay)
		}
		k.report.Message = setPruneSummary(prune)
		failed := prune.Count(operation.PruneFailed)
		if failed == 0 {
			return nil
		}
		f := operation.Failure{Type: operation.ErrSnapshot, Message: fmt.Sprintf("%s could not be deleted; %s", count(failed, "set"), k.report.Message)}
		for i := range prune.Delete {
			if d := &prune.Delete[i]; d.Outcome == operation.PruneFailed {
				f.Problems = append(f.Problems, d.Set+": "+d.Why)
			}
		}
		f.Problems = bound(f.Problems, 50)
		return &f
	})
}

// prunedSets puts what became of the sets into the report.
func prunedSets(prune *operation.SetPruneReport, stay []activities.PruneOutcome) {
	outcomes := map[string]activities.PruneOutcome{}
	for _, o := range stay {
		outcomes[o.Archive] = o
	}
	for i := range prune.Delete {
		d := &prune.Delete[i]
		if d.Outcome != operation.PrunePlanned {
			continue
		}
		d.Outcome = operation.PruneDeleted
		if o, ok := outcomes[d.Set]; ok {
			d.Outcome, d.Why = o.Outcome, o.Problem
		}
	}
}

func setPruneSummary(prune *operation.SetPruneReport) string {
	text := fmt.Sprintf("%s deleted, %d kept", count(prune.Count(operation.PruneDeleted), "set"), len(prune.Keep)+prune.MoreKept)
	if n := prune.Count(operation.PruneUnasked); n > 0 {
		text += fmt.Sprintf(", %d not confirmed", n)
	}
	if prune.MoreDeleted > 0 {
		text += fmt.Sprintf(", %d left for the next run", prune.MoreDeleted)
	}
	return text
}
