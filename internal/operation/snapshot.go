package operation

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Names of the workflow and the kind of an operation that takes a set of snapshots.
const (
	WorkflowSnapshot = "Snapshot"
	KindSnapshot     = "snapshot-create"
)

// Steps of a set of snapshots, in order.
const (
	StepStopRoles   = "stop-roles"  // kato stop on every node, the Core last
	StepStopVMs     = "stop-vms"    // the VMs shut down
	StepSnapshots   = "snapshots"   // all snapshots at the same instant
	StepStartVMs    = "start-vms"   // the VMs on again
	StepStartRoles  = "start-roles" // kato start on every node, the Core first
	StepResumed     = "resumed"     // the gates of the cluster hold again
	StepDiscard     = "discard"     // snapshots of a round that is void are deleted
	StepUsable      = "usable"      // the provider has copied what it copies
	StepSetManifest = "manifest"    // the set's manifest written, last of all
)

// Steps of a rollback that it has not in common with a set, in order.
const (
	StepRollback = "rollback"  // the disks of all VMs put back
	StepPutBack  = "undo"      // they could not all be: the disks as they were before the rollback
	StepRecover  = "recover"   // the nodes answer, have this operation's lease, and no jobs of that moment
	StepReadOnly = "read-only" // maintenance mode of that moment taken over, so that it can be put back as it was found
)

// ErrSnapshot says that a set of snapshots is not complete, or that its moment is not as good as was asked for.
const ErrSnapshot = "Snapshot"

// ErrFrozen says that file systems of a node may be frozen yet, and nothing there thaws them by itself.
const ErrFrozen = "Frozen"

// Quiesce is one thing that is done so that the snapshots of several nodes fit together, as the source page ("Snapshots") names them.
type Quiesce string

// Levels of quiescence; they can be combined. What each guarantees and costs is in docs/snapshots.md.
const (
	QuiesceVMsStopped   Quiesce = "vms-stopped"   // "snapshot VMs in a stopped state"
	QuiesceRolesStopped Quiesce = "roles-stopped" // "run kato stop on all roles"
	QuiesceFrozen       Quiesce = "frozen"        // the inventory's file systems hold every write back while the snapshots are taken
	QuiesceMaintenance  Quiesce = "maintenance"   // "put the cluster in Maintenance Mode"
	QuiesceNone         Quiesce = "none"          // nothing: each node as after a power cut
)

// QuiesceLevels are all of them, the strongest first.
func QuiesceLevels() []Quiesce {
	return []Quiesce{QuiesceVMsStopped, QuiesceRolesStopped, QuiesceFrozen, QuiesceMaintenance, QuiesceNone}
}

// Defaults of a set of snapshots.
const (
	// DefaultSnapshotRounds is how often a round is tried before the operator is asked.
	DefaultSnapshotRounds = 3
	// DefaultSnapshotDeadline bounds one round from the first request to the last completion.
	DefaultSnapshotDeadline = Duration(10 * time.Minute)
)

// SnapshotInput asks for snapshots of all VMs of a cluster, taken at one moment. Zero values are the defaults.
type SnapshotInput struct {
	Request
	// Quiesce levels; none is the platform's default: maintenance and roles-stopped on an als cluster, none on a plain one.
	Quiesce []Quiesce `json:"quiesce,omitempty"`
	// MaxSkew voids a round whose skew bound is larger; 0 for no limit.
	MaxSkew Duration `json:"maxSkew,omitempty"`
	// Deadline voids a round that takes longer.
	Deadline Duration `json:"deadline,omitempty"`
	// Rounds are tried before anybody is asked.
	Rounds int `json:"rounds,omitempty"`
	// Note is kept in the manifest, one line.
	Note string `json:"note,omitempty"`
}

// Levels are the quiesce levels of a request on a platform, each once, the strongest first.
func (in SnapshotInput) Levels(platform string) []Quiesce {
	asked := in.Quiesce
	if len(asked) == 0 {
		asked = []Quiesce{QuiesceNone}
		if platform == "als" {
			asked = []Quiesce{QuiesceRolesStopped, QuiesceMaintenance}
		}
	}
	var out []Quiesce
	for _, l := range QuiesceLevels() {
		if slices.Contains(asked, l) {
			out = append(out, l)
		}
	}
	return out
}

// RoundDeadline is the deadline of a round, or its default.
func (in SnapshotInput) RoundDeadline() Duration {
	if in.Deadline > 0 {
		return in.Deadline
	}
	return DefaultSnapshotDeadline
}

// Check lists what is wrong with the request, one line each. platform is "" where it is not known yet.
func (in SnapshotInput) Check(platform string) []string {
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if in.Cluster == "" {
		problem("cluster is missing: name one of the inventory")
	}
	var names []string
	for _, l := range QuiesceLevels() {
		names = append(names, string(l))
	}
	for _, q := range in.Quiesce {
		switch {
		case !slices.Contains(QuiesceLevels(), q):
			problem("quiesce %q: choose of %s", Shorten(string(q), 40), strings.Join(names, ", "))
		case platform == "plain" && (q == QuiesceRolesStopped || q == QuiesceMaintenance):
			problem("quiesce %s: only an ALS cluster has kato; choose vms-stopped, frozen or none", q)
		}
	}
	has := func(q Quiesce) bool { return slices.Contains(in.Quiesce, q) }
	if has(QuiesceNone) && len(in.Quiesce) > 1 {
		problem("quiesce none goes with nothing else")
	}
	if has(QuiesceFrozen) && has(QuiesceVMsStopped) {
		problem("quiesce frozen does not go with vms-stopped: a VM that is off writes nothing, leave frozen out")
	}
	if in.MaxSkew < 0 {
		problem("max-skew is negative")
	}
	if in.Deadline < 0 || in.Deadline > 0 && in.Deadline < Duration(time.Second) {
		problem("deadline %s: at least 1s", in.Deadline)
	}
	if in.Rounds < 0 || in.Rounds > 20 {
		problem("rounds %d: write a number from 1 to 20", in.Rounds)
	}
	if len(in.Note) > 200 || strings.ContainsAny(in.Note, "\n\r\x00") {
		problem("note: one line of at most 200 bytes")
	}
	return problems
}

// SnapshotOf is the snapshot of one node in a set.
type SnapshotOf struct {
	Node string `json:"node"`
	// VM is the provider's name for it, Host the hypervisor that has it, where there are several.
	VM   string `json:"vm"`
	Host string `json:"host,omitempty"`
	// Name of the snapshot, and ID that the provider has for it.
	Name string `json:"name"`
	ID   string `json:"id,omitempty"`
	// Requested and Completed are the times between which its moment lies, by the clock of the worker that took all of the set (RFC 3339, with fractions).
	Requested string `json:"requested,omitempty"`
	Completed string `json:"completed,omitempty"`
	// Prepared and Resumed are between which nothing wrote on the node, by the same clock: its file systems frozen, roles stopped, or shut down.
	Prepared string `json:"prepared,omitempty"`
	Resumed  string `json:"resumed,omitempty"`
	// ClockOffset is the node's clock less the worker's, ClockError how far that may be wrong.
	ClockOffset Duration `json:"clockOffset,omitempty"`
	ClockError  Duration `json:"clockError,omitempty"`
	// Size in bytes, 0 where the provider does not tell.
	Size int64 `json:"size,omitempty"`
}

// Snapshotted is what a Report says of a set of snapshots.
type Snapshotted struct {
	// Set is the operation that took it, its name in all lists.
	Set      string    `json:"set"`
	Provider string    `json:"provider,omitempty"`
	Quiesce  []Quiesce `json:"quiesce"`
	// Round that counted, and Void why earlier ones did not.
	Round int      `json:"round,omitempty"`
	Void  []string `json:"void,omitempty"`
	// Moment says how good the moment was.
	Moment *Moment `json:"moment,omitempty"`
	// Snapshots by node, in inventory order.
	Snapshots []SnapshotOf `json:"snapshots,omitempty"`
	// Location of the manifest, s3://BUCKET/KEY.
	Location string `json:"location,omitempty"`
	// Down is how long roles or VMs were stopped.
	Down Duration `json:"down,omitempty"`
	// Frozen is the longest that the file systems of a node were frozen in the round that counted.
	Frozen Duration `json:"frozen,omitempty"`
	// MaintenanceFound is how the maintenance mode was found: what a rollback puts back.
	MaintenanceFound string `json:"maintenanceFound,omitempty"`
}

// Moment is how good the moment of a set is.
type Moment struct {
	// Measured is false where a worker died in the middle, so that some snapshot's request is not known: spread and skew are not there then.
	Measured bool `json:"measured"`
	// RequestSpread is from the first request to the last.
	RequestSpread Duration `json:"requestSpread,omitempty"`
	// SkewBound is from the earliest request to the latest completion: no two snapshots are further apart.
	SkewBound Duration `json:"skewBound,omitempty"`
	// Quiet says by what nothing was written: "VMs stopped", "file systems frozen", "roles stopped"; "" where nothing of it was asked for.
	Quiet string `json:"quiet,omitempty"`
	// QuietInterval is from the latest prepared to the earliest resumed, both taken at the worse end of the clock's error.
	QuietInterval Duration `json:"quietInterval,omitempty"`
	// Inside: every snapshot lies in the quiet interval.
	Inside bool `json:"inside,omitempty"`
	// ClockError is the largest of the nodes whose clocks were used.
	ClockError Duration `json:"clockError,omitempty"`
}

// String is what a person reads of it.
func (m Moment) String() string {
	round := func(d Duration) time.Duration { return d.D().Round(100 * time.Microsecond) }
	text := "skew not measured"
	if m.Measured {
		text = fmt.Sprintf("requested within %s, no two further apart than %s", round(m.RequestSpread), round(m.SkewBound))
	}
	switch {
	case m.Quiet == "":
		return text + "; nothing was quiet"
	case m.Inside:
		return fmt.Sprintf("%s; all inside %s in which nothing was written (%s)", text, m.QuietInterval.D().Round(time.Millisecond), m.Quiet)
	}
	return fmt.Sprintf("%s; not all inside the time in which nothing was written (%s)", text, m.Quiet)
}

// MeasuredSnapshot is one node's times, for JudgeMoment. Requested and Completed are of the clock that took the set, Prepared and Resumed of the node's, which is Offset ahead of the
// other and may be wrong by Error. The zero time is one that is not known.
type MeasuredSnapshot struct {
	Requested, Completed time.Time
	Prepared, Resumed    time.Time
	Offset, Error        time.Duration
}

// JudgeMoment says how good the moment of these snapshots was. quiet is by what nothing was written, "" for nothing: then Prepared and Resumed are not looked at.
//
// A snapshot's moment is only known to lie between its request and its completion. So the bound of the skew is from the earliest request to the latest completion, and a snapshot lies in
// the quiet interval when both do. A node's clock is corrected by its offset, and its error counts against the interval at both ends.
func JudgeMoment(quiet string, all []MeasuredSnapshot) Moment {
	m := Moment{Measured: len(all) > 0, Quiet: quiet}
	var first, last, done, from, to time.Time
	known := len(all) > 0
	for _, s := range all {
		if s.Requested.IsZero() || s.Completed.IsZero() {
			m.Measured = false
		}
		if first.IsZero() || s.Requested.Before(first) {
			first = s.Requested
		}
		if s.Requested.After(last) {
			last = s.Requested
		}
		if s.Completed.After(done) {
			done = s.Completed
		}
		if quiet == "" {
			continue
		}
		if s.Prepared.IsZero() || s.Resumed.IsZero() {
			known = false
			continue
		}
		prepared, resumed := s.Prepared.Add(-s.Offset).Add(s.Error), s.Resumed.Add(-s.Offset).Add(-s.Error)
		if prepared.After(from) {
			from = prepared
		}
		if to.IsZero() || resumed.Before(to) {
			to = resumed
		}
		m.ClockError = max(m.ClockError, Duration(s.Error))
	}
	if m.Measured {
		m.RequestSpread, m.SkewBound = Duration(last.Sub(first)), Duration(done.Sub(first))
	}
	if quiet != "" && known && to.After(from) {
		m.QuietInterval = Duration(to.Sub(from))
		m.Inside = m.Measured && !first.Before(from) && !done.After(to)
	}
	return m
}

// --- rollback ----------------------------------------------------------------------------------------------------------------------------

// Names of the workflow and the kind of an operation that goes back to a set of snapshots.
const (
	WorkflowSnapshotRollback = "SnapshotRollback"
	KindSnapshotRollback     = "snapshot-rollback"
)

// SnapshotRollbackInput asks for all VMs of a cluster to be put back to the moment of a set.
type SnapshotRollbackInput struct {
	Request
	// Set that is gone back to; not LatestArchive.
	Set string `json:"set"`
	// Confirm is the name of the cluster once more; a dry run needs none.
	Confirm string `json:"confirm,omitempty"`
	// NoSafetySnapshots takes none of the VMs before: then there is no way back.
	NoSafetySnapshots bool `json:"noSafetySnapshots,omitempty"`
	// Rounds of the safety snapshots, as of SnapshotInput.
	Rounds int `json:"rounds,omitempty"`
}

// Check lists what is wrong with the request, one line each.
func (in SnapshotRollbackInput) Check() []string {
	var problems []string
	if in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if in.Set == LatestArchive {
		problems = append(problems, "set latest is not gone back to by that name: write the id of the operation that took it")
	} else if err := CheckSnapshotSet(in.Set); err != nil {
		problems = append(problems, err.Error())
	}
	if !in.DryRun && in.Confirm != in.Cluster {
		problems = append(problems, fmt.Sprintf("confirm: a rollback throws away what was written in cluster %s since: write its name once more (--confirm %s)", in.Cluster, in.Cluster))
	}
	if in.Rounds < 0 || in.Rounds > 20 {
		problems = append(problems, fmt.Sprintf("rounds %d: write a number from 1 to 20", in.Rounds))
	}
	return problems
}

// RollbackReport is what a Report says of a rollback.
type RollbackReport struct {
	// Set that was gone back to, and when it was taken (RFC 3339).
	Set     string `json:"set"`
	TakenAt string `json:"takenAt,omitempty"`
	// Provider as it is called in the inventory.
	Provider string `json:"provider,omitempty"`
	// Quiesce levels of the set.
	Quiesce []Quiesce `json:"quiesce,omitempty"`
	// Moment of the cluster's disks at the end, one of the Rolled constants.
	Moment string `json:"moment,omitempty"`
	// Down is how long the VMs were off or their roles away.
	Down Duration `json:"down,omitempty"`
}

// What the disks of a cluster hold after a rollback.
const (
	RolledToSet = "set"       // the moment of the set, all of them
	RolledNone  = "as before" // what they held before the rollback, all of them
	RolledMixed = "mixed"     // some of them the one, some the other: the VMs stay off
)

// --- sets in the bucket ------------------------------------------------------------------------------------------------------------------

// SnapshotSet is the manifest of a set, written last: a set without it is none. It is kept in the cluster's bucket.
type SnapshotSet struct {
	// Format of this file.
	Format   int    `json:"format"`
	Cluster  string `json:"cluster"`
	Platform string `json:"platform"`
	Snapshotted
	// TakenAt is the completion of the last snapshot, RFC 3339.
	TakenAt string `json:"takenAt"`
	Who     string `json:"who,omitempty"`
	Note    string `json:"note,omitempty"`
	// Nodes of the cluster with their roles, as they were.
	Nodes []PlannedNode `json:"nodes"`
	// Core node, on als.
	Core string `json:"core,omitempty"`
	// BrokenBefore are the gates that did not hold before it was taken: after a rollback to it they need not hold either.
	BrokenBefore []GateFailure `json:"brokenBefore,omitempty"`
}

// SnapshotSetFormat is the format that this version writes.
const SnapshotSetFormat = 1

// SnapshotSummary is what a list tells of a set.
type SnapshotSummary struct {
	Set string `json:"set"`
	// TakenAt is UTC, RFC 3339.
	TakenAt   string    `json:"takenAt,omitempty"`
	Snapshots int       `json:"snapshots,omitempty"`
	Quiesce   []Quiesce `json:"quiesce,omitempty"`
	Provider  string    `json:"provider,omitempty"`
	Moment    *Moment   `json:"moment,omitempty"`
	Who       string    `json:"who,omitempty"`
	Note      string    `json:"note,omitempty"`
	// Problem is why its manifest cannot be read.
	Problem string `json:"problem,omitempty"`
}

// Summary of a set.
func (s SnapshotSet) Summary() SnapshotSummary {
	return SnapshotSummary{Set: s.Set, TakenAt: s.TakenAt, Snapshots: len(s.Snapshots), Quiesce: s.Quiesce, Provider: s.Provider, Moment: s.Moment, Who: s.Who, Note: s.Note}
}

// Clean returns the set with every text passed through clean: whoever can write to the bucket has written them.
func (s SnapshotSet) Clean(clean func(string) string) SnapshotSet {
	for _, text := range []*string{&s.Cluster, &s.Platform, &s.Set, &s.Provider, &s.Location, &s.MaintenanceFound, &s.TakenAt, &s.Who, &s.Note, &s.Core} {
		*text = clean(*text)
	}
	all := func(list []string) []string {
		out := slices.Clone(list)
		for i := range out {
			out[i] = clean(out[i])
		}
		return out
	}
	s.Void = all(s.Void)
	s.Quiesce = slices.Clone(s.Quiesce)
	for i := range s.Quiesce {
		s.Quiesce[i] = Quiesce(clean(string(s.Quiesce[i])))
	}
	s.Snapshots = slices.Clone(s.Snapshots)
	for i := range s.Snapshots {
		n := &s.Snapshots[i]
		for _, text := range []*string{&n.Node, &n.VM, &n.Host, &n.Name, &n.ID, &n.Requested, &n.Completed, &n.Prepared, &n.Resumed} {
			*text = clean(*text)
		}
	}
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		s.Nodes[i].Name, s.Nodes[i].Roles = clean(s.Nodes[i].Name), all(s.Nodes[i].Roles)
	}
	s.BrokenBefore = slices.Clone(s.BrokenBefore)
	for i := range s.BrokenBefore {
		g := &s.BrokenBefore[i]
		g.Node, g.Check = clean(g.Node), clean(g.Check)
	}
	if s.Moment != nil {
		m := *s.Moment
		m.Quiet = clean(m.Quiet)
		s.Moment = &m
	}
	return s
}

// Names of the workflows and kinds of what is done with sets.
const (
	WorkflowSnapshotList   = "SnapshotList"
	WorkflowSnapshotShow   = "SnapshotShow"
	WorkflowSnapshotVerify = "SnapshotVerify"
	WorkflowSnapshotDelete = "SnapshotDelete"
	WorkflowSnapshotPrune  = "SnapshotPrune"

	KindSnapshotList   = "snapshot-list"
	KindSnapshotShow   = "snapshot-show"
	KindSnapshotVerify = "snapshot-verify"
	KindSnapshotDelete = "snapshot-delete"
	KindSnapshotPrune  = "snapshot-prune"
)

// SnapshotListInput asks for the sets of a cluster.
type SnapshotListInput struct {
	Cluster string `json:"cluster"`
	// Limit of the list (default DefaultArchives).
	Limit int `json:"limit,omitempty"`
}

// SnapshotSets is a list of sets, the newest first; More are left out.
type SnapshotSets struct {
	Sets []SnapshotSummary `json:"sets"`
	More int               `json:"more,omitempty"`
}

// SnapshotShowInput names a set, or LatestArchive.
type SnapshotShowInput struct {
	Cluster string `json:"cluster"`
	Set     string `json:"set"`
}

// SnapshotSetInput asks for something to be done with a set.
type SnapshotSetInput struct {
	Request
	Set string `json:"set"`
}

// CheckSnapshotSet says what is wrong with the name of a set.
func CheckSnapshotSet(name string) error {
	if !idForm.MatchString(name) {
		return fmt.Errorf("set %q: write the id of the operation that took it, as katoflow snapshot list shows it", Shorten(name, 80))
	}
	return nil
}

// SetReport is the part of a Report that an operation on a set has.
type SetReport struct {
	Set *SnapshotSet `json:"set,omitempty"`
	// Problems are what is wrong with it, by node; Orphans are snapshots of katoflow that stand in no manifest.
	Problems []string `json:"problems,omitempty"`
	Orphans  []string `json:"orphans,omitempty"`
	// Prune is what a retention keeps of the sets, and what it does not.
	Prune *SetPruneReport `json:"prune,omitempty"`
	// Rollback is what became of a rollback; the Report's Snapshot is the set that was taken before it.
	Rollback *RollbackReport `json:"rollback,omitempty"`
}

// MaxPrunedSets is how many sets one prune deletes; the next one goes on.
const MaxPrunedSets = 200

// SetPruneReport is what a retention keeps of a cluster's sets and what it does not.
type SetPruneReport struct {
	Retention Retention `json:"retention"`
	// Keep are the sets that stay, with all reasons, the newest first; MoreKept are left out here.
	Keep     []KeptSet `json:"keep,omitempty"`
	MoreKept int       `json:"moreKept,omitempty"`
	// Delete are those that do not, the oldest first; MoreDeleted are left for the next run.
	Delete      []PrunedSet `json:"delete,omitempty"`
	MoreDeleted int         `json:"moreDeleted,omitempty"`
}

// KeptSet is a set that stays.
type KeptSet struct {
	SnapshotSummary
	// Reasons: "last", "daily 2026-11-22", "weekly 2026-W47", "monthly 2026-11", "cannot be read".
	Reasons []string `json:"reasons"`
}

// PrunedSet is a set that the retention does not keep.
type PrunedSet struct {
	SnapshotSummary
	// Outcome is one of PrunePlanned, PruneDeleted, PruneFailed and PruneUnasked; Why it is still there.
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"`
}

// Count returns how many sets had an outcome.
func (p *SetPruneReport) Count(outcome string) int {
	n := 0
	for i := range p.Delete {
		if p.Delete[i].Outcome == outcome {
			n++
		}
	}
	return n
}
