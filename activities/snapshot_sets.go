package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/operation"
)

const (
	setsBudget = 256 << 10 // what a list may take in a history, in bytes
	setsAtOnce = 8
)

// setStore opens the bucket with the manifests of a cluster's sets. The error is the activity's.
func (x *Snapshots) setStore(cluster string) (*archive.Store, error) {
	s, err := x.Source.site(cluster)
	if err != nil {
		return nil, err
	}
	return s.store(x.Logger)
}

// ListSets returns the sets of a cluster that have a manifest, the newest first and bounded. It reads only. The error is S3.
func (x *Snapshots) ListSets(ctx context.Context, in operation.SnapshotListInput) (operation.SnapshotSets, error) {
	a := begin(ctx, "list sets of snapshots")
	defer a.finish()
	limit := in.Limit
	if limit == 0 {
		limit = operation.DefaultArchives
	}
	if limit < 1 || limit > operation.MaxArchives {
		return operation.SnapshotSets{}, badInput(fmt.Sprintf("limit %d: write a number from 1 to %d", in.Limit, operation.MaxArchives))
	}
	store, err := x.setStore(in.Cluster)
	if err != nil {
		return operation.SnapshotSets{}, err
	}
	defer store.Close()
	refs, err := store.SnapshotSets(a.ctx, in.Cluster)
	if err != nil {
		return operation.SnapshotSets{}, x.storeFailed(a, err)
	}
	shown := refs[:min(len(refs), limit)]
	sets, err := x.summaries(a, store, shown)
	if err != nil {
		return operation.SnapshotSets{}, err
	}
	out := operation.SnapshotSets{Sets: []operation.SnapshotSummary{}}
	list, more := bounded(sets, limit, setsBudget, func(s operation.SnapshotSummary) operation.SnapshotSummary { return s })
	out.Sets, out.More = append(out.Sets, list...), more+len(refs)-len(shown)
	return out, nil
}

// summaries reads the manifests of sets, the set that was taken last first. One that cannot be read has a problem; one that has been deleted since it was listed is left out. The error is
// the activity's.
func (x *Snapshots) summaries(a *attempt, store *archive.Store, refs []archive.Ref) ([]operation.SnapshotSummary, error) {
	sets, errs := make([]operation.SnapshotSummary, len(refs)), make([]error, len(refs))
	places := make(chan struct{}, setsAtOnce)
	var all sync.WaitGroup
	for i, ref := range refs {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			set, err := readSet(a.ctx, store, ref)
			switch {
			case archive.IsKind(err, archive.KindNotFound): // deleted since it was listed
			case archive.IsKind(err, archive.KindCorrupt):
				sets[i] = operation.SnapshotSummary{Set: shortText(ref.Operation), Problem: oneLine(err.Error(), mostText)}
			case err != nil:
				errs[i] = err
			default:
				sets[i] = set.Summary()
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, x.storeFailed(a, err)
		}
	}
	sets = slices.DeleteFunc(sets, func(s operation.SnapshotSummary) bool { return s.Set == "" })
	// By when they were taken, not by when their manifests were written.
	slices.SortStableFunc(sets, func(a, b operation.SnapshotSummary) int { return strings.Compare(b.TakenAt, a.TakenAt) })
	return sets, nil
}

// readSet reads the manifest of a set; KindCorrupt when it is none.
func readSet(ctx context.Context, store *archive.Store, ref archive.Ref) (operation.SnapshotSet, error) {
	var set operation.SnapshotSet
	data, err := store.SnapshotSet(ctx, ref)
	if err != nil {
		return set, err
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return set, archive.Corrupt("the manifest of set %s cannot be read: %v", ref, err)
	}
	switch {
	case set.Format != operation.SnapshotSetFormat:
		return set, archive.Corrupt("the manifest of set %s has format %d, and this version reads %d", ref, set.Format, operation.SnapshotSetFormat)
	case set.Set != ref.Operation || set.Cluster != ref.Cluster:
		return set, archive.Corrupt("the manifest of set %s is that of another one", ref)
	}
	return set.Clean(func(s string) string { return shortText(s) }), nil
}

func (x *Snapshots) storeFailed(a *attempt, err error) error {
	if a.ctx.Err() != nil {
		return ended(a.ctx)
	}
	switch archive.KindOf(err) {
	case archive.KindNotFound:
		return badInput(err.Error())
	}
	return storeError("bucket", err)
}

// SetInput names a set of snapshots, or operation.LatestArchive.
type SetInput struct {
	Operation Operation `json:"operation"`
	Set       string    `json:"set"`
}

// find reads the manifest of a set, of the latest one by that name. The error is the activity's.
func (x *Snapshots) find(a *attempt, store *archive.Store, cluster, name string) (operation.SnapshotSet, error) {
	ref := archive.Ref{Cluster: cluster, Operation: name}
	if name == operation.LatestArchive {
		refs, err := store.SnapshotSets(a.ctx, cluster)
		if err != nil {
			return operation.SnapshotSet{}, x.storeFailed(a, err)
		}
		if len(refs) == 0 {
			return operation.SnapshotSet{}, badInput(fmt.Sprintf("cluster %s has no set of snapshots: take one with katoflow snapshot create %s", cluster, cluster))
		}
		// S3 knows to the second when a manifest was written: of the last ones the set counts that was taken last.
		var latest operation.SnapshotSet
		for _, r := range refs[:min(len(refs), 5)] {
			set, err := readSet(a.ctx, store, r)
			if err != nil && !archive.IsKind(err, archive.KindNotFound) && !archive.IsKind(err, archive.KindCorrupt) {
				return operation.SnapshotSet{}, x.storeFailed(a, err)
			}
			if err == nil && set.TakenAt > latest.TakenAt {
				latest = set
			}
		}
		if latest.Set != "" {
			return latest, nil
		}
		ref = refs[0]
	}
	set, err := readSet(a.ctx, store, ref)
	if archive.IsKind(err, archive.KindNotFound) {
		return set, badInput(fmt.Sprintf("cluster %s has no set %s: see katoflow snapshot list %s", cluster, shortText(name), cluster))
	}
	if err != nil {
		return set, x.storeFailed(a, err)
	}
	return set, nil
}

// ShowSet returns the manifest of a set. It reads only.
func (x *Snapshots) ShowSet(ctx context.Context, in operation.SnapshotShowInput) (operation.SnapshotSet, error) {
	a := begin(ctx, "look at the set")
	defer a.finish()
	store, err := x.setStore(in.Cluster)
	if err != nil {
		return operation.SnapshotSet{}, err
	}
	defer store.Close()
	return x.find(a, store, in.Cluster, in.Set)
}

// SetVerification is what the hypervisor has of a set.
type SetVerification struct {
	Set operation.SnapshotSet `json:"set"`
	// Problems by node: a snapshot that is gone, has failed, or is another one by now.
	Problems []string `json:"problems,omitempty"`
	// Orphans are snapshots of katoflow that stand in no manifest, as an operation leaves them that was terminated: "NODE: NAME".
	Orphans []string `json:"orphans,omitempty"`
}

// VerifySet asks the hypervisor for every snapshot of a set, and for those that stand in no manifest. It reads only. Errors: BadInput, S3, and Snapshot when the hypervisor does not answer.
func (x *Snapshots) VerifySet(ctx context.Context, in SetInput) (SetVerification, error) {
	a := begin(ctx, "asking the hypervisor for the set")
	defer a.finish()
	store, err := x.setStore(in.Operation.Cluster)
	if err != nil {
		return SetVerification{}, err
	}
	defer store.Close()
	set, err := x.find(a, store, in.Operation.Cluster, in.Set)
	if err != nil {
		return SetVerification{}, err
	}
	refs, err := store.SnapshotSets(a.ctx, in.Operation.Cluster)
	if err != nil {
		return SetVerification{}, x.storeFailed(a, err)
	}
	_, p, _, err := x.open(in.Operation.Cluster, nil)
	if err != nil {
		return SetVerification{}, err
	}
	defer func() { _ = p.Close() }()
	known := func(name string) bool {
		return slices.ContainsFunc(refs, func(r archive.Ref) bool { return strings.HasPrefix(name, roundsPrefix(r.Operation)) })
	}
	return x.stateOfSet(a, p, set, known)
}

// stateOfSet asks the hypervisor for every snapshot of a set, and with known for those of katoflow that it does not know. The error is the activity's.
func (x *Snapshots) stateOfSet(a *attempt, p hypervisor.Provider, set operation.SnapshotSet, known func(name string) bool) (SetVerification, error) {
	problems, orphans, errs := make([]string, len(set.Snapshots)), make([][]string, len(set.Snapshots)), make([]error, len(set.Snapshots))
	each(len(set.Snapshots), func(i int) {
		s := set.Snapshots[i]
		vm := hypervisor.VM{Node: s.Node, ID: s.VM, Host: s.Host}
		have, err := p.List(a.ctx, vm, snapshotPrefix)
		if err != nil {
			errs[i] = err
			return
		}
		there := false
		for _, h := range have {
			switch {
			case h.Name != s.Name && known != nil && !known(h.Name):
				orphans[i] = append(orphans[i], s.Node+": "+shortText(h.Name))
			case h.Name != s.Name:
			case h.State == hypervisor.Failed:
				there, problems[i] = true, s.Node+": its snapshot has failed"
			case anotherOne(s, h):
				there, problems[i] = true, fmt.Sprintf("%s: its snapshot is another one by now: %s, and was %s", s.Node, shortText(h.ID), s.ID)
			default:
				there = true
			}
		}
		if !there {
			problems[i] = s.Node + ": its snapshot " + s.Name + " is gone"
		}
	})
	if a.ctx.Err() != nil {
		return SetVerification{}, ended(a.ctx)
	}
	out := SetVerification{Set: set}
	for i := range set.Snapshots {
		if errs[i] != nil {
			return SetVerification{}, providerError(errs[i])
		}
		if problems[i] != "" {
			out.Problems = append(out.Problems, oneLine(problems[i], 300))
		}
		out.Orphans = append(out.Orphans, orphans[i]...)
	}
	out.Problems, out.Orphans = shortList(out.Problems, 100), shortList(out.Orphans, 100)
	return out, nil
}

// DeleteSet deletes every snapshot of a set, and when all are gone its manifest. It can be repeated; what an attempt before has deleted counts as deleted, and a set that is gone is no
// error to a later attempt. Errors: BadInput, S3, and Snapshot with what is left: the manifest stays then.
func (x *Snapshots) DeleteSet(ctx context.Context, in SetInput) error {
	a := begin(ctx, "deleting the set")
	defer a.finish()
	store, err := x.setStore(in.Operation.Cluster)
	if err != nil {
		return err
	}
	defer store.Close()
	ref := archive.Ref{Cluster: in.Operation.Cluster, Operation: in.Set}
	set, err := readSet(a.ctx, store, ref)
	if a.again && archive.IsKind(err, archive.KindNotFound) {
		return nil
	}
	if err != nil {
		return x.storeFailed(a, err)
	}
	_, p, _, err := x.open(in.Operation.Cluster, nil)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	return x.deleteSet(a, store, p, set)
}

// deleteSet deletes every snapshot of a set, and when all are gone its manifest. The error is the activity's.
func (x *Snapshots) deleteSet(a *attempt, store *archive.Store, p hypervisor.Provider, set operation.SnapshotSet) error {
	failures := make([]error, len(set.Snapshots))
	each(len(set.Snapshots), func(i int) {
		s := set.Snapshots[i]
		failures[i] = p.Delete(a.ctx, hypervisor.VM{Node: s.Node, ID: s.VM, Host: s.Host}, s.Name)
	})
	if a.ctx.Err() != nil {
		return ended(a.ctx)
	}
	var problems []string
	for _, err := range failures {
		if err != nil {
			problems = append(problems, oneLine(err.Error(), 300))
		}
	}
	if len(problems) > 0 {
		return operation.NewError(operation.Failure{Type: operation.ErrSnapshot, Problems: shortList(problems, 50),
			Message: oneLine(fmt.Sprintf("%d of %d snapshots could not be deleted, and the set stays in the list: %s", len(problems), len(set.Snapshots), problems[0]), maxMessage)})
	}
	if err := store.ForgetSnapshotSet(a.ctx, archive.Ref{Cluster: set.Cluster, Operation: set.Set}); err != nil {
		return x.storeFailed(a, err)
	}
	return nil
}

// --- prune -------------------------------------------------------------------------------------------------------------------------------

// setPlan is what a retention makes of the sets of a cluster.
type setPlan struct {
	keep []operation.KeptSet
	drop []operation.SnapshotSummary // the newest first
}

// planSets says which sets a retention keeps. Sets that were quiet in another way do not take each other's place: one with --quiesce none is no substitute for one of stopped roles. A set
// whose manifest cannot be read is kept for somebody to look at. The error is the activity's.
func (x *Snapshots) planSets(a *attempt, store *archive.Store, cluster string, rules operation.Retention) (setPlan, error) {
	var plan setPlan
	policy, err := retention(rules)
	if err != nil {
		return plan, err
	}
	keeper, err := archive.NewKeeper(policy)
	if err != nil {
		return plan, badInput(err.Error())
	}
	refs, err := store.SnapshotSets(a.ctx, cluster)
	if err != nil {
		return plan, x.storeFailed(a, err)
	}
	sets, err := x.summaries(a, store, refs)
	if err != nil {
		return plan, err
	}
	for _, set := range sets {
		taken, err := time.Parse(time.RFC3339Nano, set.TakenAt)
		if set.Problem != "" || err != nil {
			plan.keep = append(plan.keep, operation.KeptSet{SnapshotSummary: set, Reasons: []string{"cannot be read"}})
			continue
		}
		if reasons := keeper.Reasons(fmt.Sprint(set.Quiesce), taken); len(reasons) > 0 {
			plan.keep = append(plan.keep, operation.KeptSet{SnapshotSummary: set, Reasons: reasons})
		} else {
			plan.drop = append(plan.drop, set)
		}
	}
	return plan, nil
}

// PlanSetPrune says what a retention keeps of a cluster's sets and what it does not. It reads only, and asks no hypervisor. Errors: BadInput, S3.
func (x *Snapshots) PlanSetPrune(ctx context.Context, in operation.PruneInput) (operation.SetPruneReport, error) {
	a := begin(ctx, "plan the prune")
	defer a.finish()
	out := operation.SetPruneReport{Retention: in.Retention}
	store, err := x.setStore(in.Cluster)
	if err != nil {
		return out, err
	}
	defer store.Close()
	plan, err := x.planSets(a, store, in.Cluster, in.Retention)
	if err != nil {
		return out, err
	}
	out.Keep, out.MoreKept = bounded(plan.keep, operation.MaxArchives, setsBudget, func(k operation.KeptSet) operation.KeptSet { return k })
	// The oldest go first: what is left for the next run is what would be missed least if there is none.
	slices.Reverse(plan.drop)
	out.Delete, out.MoreDeleted = bounded(plan.drop, operation.MaxPrunedSets, setsBudget, func(s operation.SnapshotSummary) operation.PrunedSet {
		row := operation.PrunedSet{SnapshotSummary: s, Outcome: operation.PrunePlanned}
		if len(in.Only) > 0 && !slices.Contains(in.Only, s.Set) {
			row.Outcome = operation.PruneUnasked
		}
		return row
	})
	return out, nil
}

// PruneSetsInput names the sets that a plan has found.
type PruneSetsInput struct {
	Operation Operation           `json:"operation"`
	Retention operation.Retention `json:"retention"`
	// Delete are the ids of the sets that are deleted, if the retention still does not keep them.
	Delete []string `json:"delete"`
}

// PruneSets deletes the sets named, each only if the retention does not keep it by now either, and returns those that are still there. It can be repeated: what an attempt before has
// deleted counts as deleted. A set that cannot be deleted does not stop the others, and stays in the list. Errors: BadInput, S3, and Snapshot when the hypervisor cannot be used at all.
func (x *Snapshots) PruneSets(ctx context.Context, in PruneSetsInput) ([]PruneOutcome, error) {
	a := begin(ctx, "prune")
	defer a.finish()
	cluster := in.Operation.Cluster
	store, err := x.setStore(cluster)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	plan, err := x.planSets(a, store, cluster, in.Retention)
	if err != nil {
		return nil, err
	}
	_, p, _, err := x.open(cluster, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	var stay []PruneOutcome
	for i, name := range in.Delete {
		a.phase(fmt.Sprintf("delete set %d of %d", i+1, len(in.Delete)))
		if slices.ContainsFunc(plan.keep, func(k operation.KeptSet) bool { return k.Set == name }) {
			stay = append(stay, PruneOutcome{Archive: name, Outcome: operation.PruneUnasked, Problem: "the retention keeps it by now"})
			continue
		}
		set, err := readSet(a.ctx, store, archive.Ref{Cluster: cluster, Operation: name})
		if archive.IsKind(err, archive.KindNotFound) {
			continue // an attempt before has deleted it, or somebody else has
		}
		if err != nil && !archive.IsKind(err, archive.KindCorrupt) {
			return nil, x.storeFailed(a, err)
		}
		if err == nil {
			err = x.deleteSet(a, store, p, set)
		}
		if a.ctx.Err() != nil {
			return nil, ended(a.ctx)
		}
		if err != nil {
			stay = append(stay, PruneOutcome{Archive: name, Outcome: operation.PruneFailed, Problem: oneLine(operation.FailureOf(err).Message, mostText)})
		}
	}
	return stay, nil
}
