package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

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
	sets, errs := make([]operation.SnapshotSummary, len(shown)), make([]error, len(shown))
	places := make(chan struct{}, setsAtOnce)
	var all sync.WaitGroup
	for i, ref := range shown {
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
			return operation.SnapshotSets{}, x.storeFailed(a, err)
		}
	}
	sets = slices.DeleteFunc(sets, func(s operation.SnapshotSummary) bool { return s.Set == "" })
	// By when they were taken, not by when their manifests were written.
	slices.SortStableFunc(sets, func(a, b operation.SnapshotSummary) int { return strings.Compare(b.TakenAt, a.TakenAt) })
	out := operation.SnapshotSets{Sets: []operation.SnapshotSummary{}}
	list, more := bounded(sets, limit, setsBudget, func(s operation.SnapshotSummary) operation.SnapshotSummary { return s })
	out.Sets, out.More = append(out.Sets, list...), more+len(refs)-len(shown)
	return out, nil
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
			case h.Name != s.Name && !known(h.Name):
				orphans[i] = append(orphans[i], s.Node+": "+shortText(h.Name))
			case h.Name != s.Name:
			case h.State == hypervisor.Failed:
				there, problems[i] = true, s.Node+": its snapshot has failed"
			case s.ID != "" && h.ID != "" && h.ID != s.ID:
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
	if err := store.ForgetSnapshotSet(a.ctx, ref); err != nil {
		return x.storeFailed(a, err)
	}
	return nil
}
