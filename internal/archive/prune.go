package archive

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Policy says how many archives are kept, of each cluster and of each sort of export (mode, selectors, and the node of an export of one node):
// a partial export never takes the place of a whole one.
type Policy struct {
	// Last archives are kept.
	Last int `json:"last,omitempty"`
	// Daily, Weekly and Monthly keep the newest archive of each of so many days, ISO weeks and months that have one.
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	// Zone is in which days begin (default UTC).
	Zone *time.Location `json:"-"`
}

// Plan is what a policy makes of archives, the newest first.
type Plan struct {
	Keep   []Kept         `json:"keep"`
	Delete []Entry        `json:"delete"`
	Failed []PruneFailure `json:"failed,omitempty"`
}

// Kept is an archive that stays, with all reasons: "last", "daily 2026-11-22", "weekly 2026-W47", "monthly 2026-11", "last verified", "last proven
// restorable", "damaged".
type Kept struct {
	Entry
	Reasons []string `json:"reasons"`
}

// PruneFailure is an archive that should have been deleted and is still there.
type PruneFailure struct {
	Ref
	Kind  Kind   `json:"kind"`
	Error string `json:"error"`
}

// PlanPrune says which archives the policy keeps and which it does not. The last one that was verified well is always kept, and so is the last one that is proven
// restorable. One that is known to be damaged takes no place of a good one, and is kept for somebody to look at. Entries that are not complete are left out: they are no
// archives. A policy that keeps nothing is refused with KindBadInput.
func PlanPrune(archives []Entry, policy Policy) (Plan, error) {
	keeper, err := NewKeeper(policy)
	if err != nil {
		return Plan{}, err
	}
	var complete []Entry
	for _, entry := range archives {
		if entry.Complete && entry.Manifest != nil {
			complete = append(complete, entry)
		}
	}
	slices.SortFunc(complete, newestFirst)
	// The last verified one is the one that was exported last, not the one that was looked at last.
	verified := map[string]Ref{}
	for _, entry := range complete {
		group := sortOf(*entry.Manifest)
		if _, ok := verified[group]; !ok && entry.Verified != nil && entry.Verified.OK {
			verified[group] = entry.Ref
		}
	}
	proven := LastProven(complete)
	var plan Plan
	for _, entry := range complete {
		if entry.Verified != nil && !entry.Verified.OK {
			plan.Keep = append(plan.Keep, Kept{entry, []string{"damaged"}})
			continue
		}
		name := sortOf(*entry.Manifest)
		reasons := keeper.Reasons(name, entry.Manifest.Started)
		if verified[name] == entry.Ref {
			reasons = append(reasons, "last verified")
		}
		if proven[entry.Ref] {
			reasons = append(reasons, "last proven restorable")
		}
		if len(reasons) > 0 {
			plan.Keep = append(plan.Keep, Kept{entry, reasons})
		} else {
			plan.Delete = append(plan.Delete, entry)
		}
	}
	return plan, nil
}

// Keeper says of things that come newest first which of them a policy keeps. Things of different sorts are counted by themselves.
type Keeper struct {
	policy Policy
	sorts  map[string]*keptOf
}

type keptOf struct {
	last    int
	periods [3]map[string]bool
}

// NewKeeper of a policy; one that keeps nothing is refused with KindBadInput.
func NewKeeper(policy Policy) (*Keeper, error) {
	if policy.Last < 0 || policy.Daily < 0 || policy.Weekly < 0 || policy.Monthly < 0 {
		return nil, badInput("retention: a number is negative")
	}
	if policy.Last+policy.Daily+policy.Weekly+policy.Monthly == 0 {
		return nil, badInput("retention: nothing would be kept: say how many last, daily, weekly or monthly ones stay")
	}
	if policy.Zone == nil {
		policy.Zone = time.UTC
	}
	return &Keeper{policy: policy, sorts: map[string]*keptOf{}}, nil
}

// Reasons why the next thing of a sort is kept, none when it is not: "last", "daily 2026-11-22", "weekly 2026-W47", "monthly 2026-11".
func (k *Keeper) Reasons(sort string, at time.Time) []string {
	kept := k.sorts[sort]
	if kept == nil {
		kept = &keptOf{periods: [3]map[string]bool{{}, {}, {}}}
		k.sorts[sort] = kept
	}
	var reasons []string
	if kept.last++; kept.last <= k.policy.Last {
		reasons = append(reasons, "last")
	}
	at = at.In(k.policy.Zone)
	year, week := at.ISOWeek()
	for i, period := range []struct {
		keep       int
		name, when string
	}{
		{k.policy.Daily, "daily", at.Format("2006-01-02")},
		{k.policy.Weekly, "weekly", fmt.Sprintf("%d-W%02d", year, week)},
		{k.policy.Monthly, "monthly", at.Format("2006-01")},
	} {
		if seen := kept.periods[i]; len(seen) < period.keep && !seen[period.when] {
			seen[period.when] = true
			reasons = append(reasons, period.name+" "+period.when)
		}
	}
	return reasons
}

// sortOf names the archives that replace each other.
func sortOf(m Manifest) string {
	include, exclude := slices.Sorted(slices.Values(m.Include)), slices.Sorted(slices.Values(m.Exclude))
	node := ""
	if m.Mode == "only-this-node" {
		node = m.Node
	}
	return strings.Join([]string{m.Cluster, m.Mode, node, strings.Join(include, ","), strings.Join(exclude, ",")}, "\x00")
}
