package operation

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// WorkflowRestore is the workflow that imports an archive into a cluster, as registered. Its operations are of KindRestore, or of KindRehearse where that is only done to see
// whether the archive can be restored.
const (
	WorkflowRestore = "Restore"
	KindRestore     = "backup-restore"
	KindRehearse    = "backup-rehearse"
)

// Steps of an import, in order, beside StepPrepare, StepCheck and StepTidy of an export, and StepRecord where a rehearsal writes beside the archive what it found.
const (
	StepSafety = "safety" // a backup of the cluster that is imported into, an operation of its own
	StepFetch  = "fetch"  // the archive from its bucket to the node
	StepEmpty  = "empty"  // of a rehearsal: what the scratch cluster has of the archive's organizations is deleted
	StepHold   = "hold"   // of a running cluster: it is held by an operation of its own
	StepImport = "import" // kato data import
	StepVerify = "verify" // what came back, read from the Cloud Controller and held against the manifest
	StepApps   = "apps"   // apps that are not as they were recorded
)

// ErrRestored says that an import ended and not everything of the archive was found afterwards.
const ErrRestored = "Restored"

// RestagePolicy says which apps are staged anew after an import.
type RestagePolicy string

// Policies. kato's import redeploys the apps by itself (kato.md §3.2).
const (
	RestageFailed RestagePolicy = "failed" // those that do not run afterwards
	RestageAll    RestagePolicy = "all"    // every app that was started: connection data that is baked in while staging is made anew
	RestageNone   RestagePolicy = "none"   // none: they are only looked at
)

// RestoreInput asks for an archive to be imported into an ALS cluster (Request.Cluster). Zero values are the defaults.
type RestoreInput struct {
	Request
	// From is the cluster whose bucket has the archive (default: the same), and Archive the operation that made it, or LatestArchive.
	From    string `json:"from,omitempty"`
	Archive string `json:"archive"`
	// FromHost: kato reads From itself, a running cluster, over SSH from Core to Core, instead of an archive of it. It is held meanwhile, with Maintenance mode on unless that is off.
	FromHost    bool              `json:"fromHost,omitempty"`
	Maintenance MaintenanceChoice `json:"maintenance,omitempty"`
	// Confirm is the name of the cluster once more; a rehearsal needs none.
	Confirm string `json:"confirm,omitempty"`
	// Rehearsal imports into a scratch cluster, whose content is not backed up before, and remembers beside the archive what came of it.
	Rehearsal bool `json:"rehearsal,omitempty"`
	// Transfer mode (default auto).
	Transfer TransferMode `json:"transfer,omitempty"`
	// Restage policy (default failed); AtOnce and AppTimeout as of AppsInput.
	Restage RestagePolicy `json:"restage,omitempty"`
	// RestageApps are patterns as in AppsInput: apps that are staged anew beside those of the policy, although they run.
	RestageApps []string `json:"restageApps,omitempty"`
	AtOnce      int      `json:"atOnce,omitempty"`
	AppTimeout  Duration `json:"appTimeout,omitempty"`
	// StagingTimeout of one app in an import of old data, kato's --timeout (0 = kato's own).
	StagingTimeout Duration `json:"stagingTimeout,omitempty"`
	// NoSafetyBackup imports into a cluster that has apps without a backup of it before.
	NoSafetyBackup bool `json:"noSafetyBackup,omitempty"`
	// NoSpaceCheck imports although the data may not fit.
	NoSpaceCheck bool `json:"noSpaceCheck,omitempty"`
}

// Restages reports whether an app that runs is staged anew all the same.
func (in RestoreInput) Restages(org, space, app string) bool {
	return slices.ContainsFunc(in.RestageApps, func(p string) bool { return MatchApp(p, org, space, app) })
}

// Kind of the operation.
func (in RestoreInput) Kind() string {
	if in.Rehearsal {
		return KindRehearse
	}
	return KindRestore
}

// Source is the cluster whose bucket has the archive.
func (in RestoreInput) Source() string {
	if in.From != "" {
		return in.From
	}
	return in.Cluster
}

// Check lists what is wrong with the request, one line each.
func (in RestoreInput) Check() []string {
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if in.Cluster == "" {
		problem("cluster is missing: name one of the inventory")
	}
	if in.From != "" {
		if err := CheckCluster(in.From); err != nil {
			problems = append(problems, err.Error())
		}
	}
	switch in.Maintenance {
	case "", MaintenanceAuto, MaintenanceOn, MaintenanceOff:
	default:
		problem("maintenance %q: choose auto, on or off", Shorten(string(in.Maintenance), 40))
	}
	switch {
	case in.FromHost && in.Archive != "":
		problem("both an archive and a running cluster are named: leave one out")
	case in.FromHost && in.Rehearsal:
		problem("a running cluster cannot be rehearsed: make an archive of it")
	case in.FromHost && in.Source() == in.Cluster:
		problem("cluster %s cannot be imported into itself", in.Cluster)
	}
	if in.FromHost {
	} else if in.Archive == "" {
		problem("archive is missing: name the operation that made it, or %s", LatestArchive)
	} else if in.Archive != LatestArchive {
		if err := CheckArchive(in.Archive); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if in.Rehearsal {
		if in.Source() == in.Cluster && in.Cluster != "" {
			problem("the archive is of cluster %s itself: rehearse it in another one, which has scratch: true in the inventory", in.Cluster)
		}
	} else if !in.DryRun && in.Confirm != in.Cluster {
		problem("confirm: an import changes everything in cluster %s: write its name once more (--confirm %s)", in.Cluster, in.Cluster)
	}
	switch in.Transfer {
	case "", TransferAuto, TransferWorker, TransferDirect:
	default:
		problem("transfer %q: choose auto, worker or direct", Shorten(string(in.Transfer), 40))
	}
	switch in.Restage {
	case "", RestageFailed, RestageAll, RestageNone:
	default:
		problem("restage %q: choose failed, all or none", Shorten(string(in.Restage), 40))
	}
	if n := len(in.RestageApps); n > MaxAppPatterns {
		problem("%d apps to be staged anew are named: at most %d, or a pattern such as ORG/*/*", n, MaxAppPatterns)
	}
	for _, p := range in.RestageApps {
		if err := CheckAppPattern(p); err != nil {
			problems = append(problems, "restage: "+err.Error())
		}
	}
	if in.AtOnce < 0 || in.AtOnce > MaxAppsAtOnce {
		problem("apps at once %d: write a number from 1 to %d", in.AtOnce, MaxAppsAtOnce)
	}
	if in.AppTimeout < 0 || in.StagingTimeout < 0 {
		problem("a timeout is negative")
	}
	return problems
}

// WorkflowHold is the workflow that holds a cluster for the operation of another one, as registered.
const (
	WorkflowHold = "ClusterHold"
	KindHold     = "cluster-hold"
)

// Signals between an operation and the one that holds another cluster for it.
const (
	SignalHeld     = "held"      // a Held
	SignalReadOnly = "read-only" // the other locks are there too: maintenance mode may be set
	SignalLetGo    = "let-go"    // it is not needed any more
)

// Held says how far a hold is.
type Held struct {
	// Operation that holds the cluster.
	Operation string `json:"operation"`
	// Ready: it is in maintenance mode too, if that was wanted.
	Ready bool `json:"ready,omitempty"`
}

// HoldInput asks for a cluster to be held: its lock, its nodes' leases and, if wanted, its maintenance mode.
type HoldInput struct {
	Request
	// For is the workflow id of the operation that it is held for.
	For         string `json:"for"`
	Maintenance bool   `json:"maintenance,omitempty"`
}

// SafetyID is the id of the operation that backs a cluster up before an import or a release upgrade with that id, in that try.
func SafetyID(id string, try int) string { return childID(id, "safety", try) }

// SafetyCheckID is that of the dry run of it.
func SafetyCheckID(id string) string { return childID(id, "safety-check", 1) }

// SourceID is that of the operation that holds the running cluster which is imported.
func SourceID(id string, try int) string { return childID(id, "source", try) }

func childID(id, what string, try int) string {
	if len(id) > 50 { // an id has at most 63 characters
		sum := sha256.Sum256([]byte(id))
		id = fmt.Sprintf("%s-%x", strings.Trim(id[:40], "-"), sum[:4])
	}
	if try > 1 {
		return fmt.Sprintf("%s-%s-%d", id, what, try)
	}
	return id + "-" + what
}

// CheckCluster says what is wrong with the name of a cluster.
func CheckCluster(name string) error {
	if !idForm.MatchString(name) {
		return fmt.Errorf("cluster %q: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit", Shorten(name, 80))
	}
	return nil
}

// ParseArchiveName takes [CLUSTER/]ARCHIVE apart.
func ParseArchiveName(name string) (cluster, archive string) {
	if before, after, both := strings.Cut(name, "/"); both {
		return before, after
	}
	return "", name
}

// Restored is what a Report says of an import.
type Restored struct {
	// Running is the cluster that was read instead of an archive, and Held the operation that held it meanwhile.
	Running string `json:"running,omitempty"`
	Held    string `json:"held,omitempty"`
	// Archive is CLUSTER/OPERATION, and Made when its export began (UTC, RFC 3339).
	Archive string `json:"archive,omitempty"`
	Made    string `json:"made,omitempty"`
	// Safety is where the backup is that was made of the cluster before.
	Safety string `json:"safety,omitempty"`
	// Size in bytes and SHA256, in hexadecimal, as the node read them.
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// Transfer is how it was moved: worker or direct.
	Transfer TransferMode `json:"transfer,omitempty"`
	// Recorded is what the cluster of the archive had before its export, nil when that was not read then; Found is what this one has after the import.
	Recorded *ExportedContents `json:"recorded,omitempty"`
	Found    *ExportedContents `json:"found,omitempty"`
	// Missing are recorded things that were not found, such as "app shop/prod/orders", at most MaxMissing; More of them are missing beside.
	Missing []string `json:"missing,omitempty"`
	More    int      `json:"moreMissing,omitempty"`
	// Named are the apps that kato said have failed, at most MaxMissing.
	Named []string `json:"named,omitempty"`
	// Rehearsal is what is remembered beside the archive, nil when the operation was none, or found nothing out about it.
	Rehearsal *ArchiveRehearsal `json:"rehearsal,omitempty"`
	// FetchTime and ImportTime are how long each lasted.
	FetchTime  Duration `json:"fetchTime,omitempty"`
	ImportTime Duration `json:"importTime,omitempty"`
}

// MaxMissing bounds the lists of Restored.
const MaxMissing = 200
