package operation

import (
	"fmt"
	"strings"
)

// Names of the workflows that look after archives, as registered.
const (
	WorkflowBackupList   = "BackupList"
	WorkflowBackupShow   = "BackupShow"
	WorkflowBackupVerify = "BackupVerify"
	WorkflowBackupDelete = "BackupDelete"
	WorkflowBackupPrune  = "BackupPrune"
)

// Kinds of the operations on archives. They reach no node and take no lock: a cluster can be worked on meanwhile.
const (
	KindBackupList   = "backup-list"
	KindBackupShow   = "backup-show"
	KindBackupVerify = "backup-verify"
	KindBackupDelete = "backup-delete"
	KindBackupPrune  = "backup-prune"
)

// OnArchives reports whether operations of a kind are on archives or sets of snapshots only, so that "the operation of this cluster" never means one of them.
func OnArchives(kind string) bool {
	switch kind {
	case KindBackupList, KindBackupShow, KindBackupVerify, KindBackupDelete, KindBackupPrune, KindSnapshotList, KindSnapshotShow, KindSnapshotVerify, KindSnapshotDelete, KindSnapshotPrune:
		return true
	}
	return false
}

// Error types of operations that use the archive bucket.
const (
	ErrS3      = "S3"      // the bucket cannot be used as it is configured, or does not answer
	ErrArchive = "Archive" // an archive is damaged, not complete, locked, or could not be deleted
)

// LatestArchive stands for the newest complete archive of a cluster.
const LatestArchive = "latest"

// Limits of what is told of archives at once: a history holds no long lists.
const (
	DefaultArchives = 50
	MaxArchives     = 500
	// MaxPruned is how many archives one prune deletes; the next one goes on.
	MaxPruned = 1000
)

// BackupListInput asks for the archives of a cluster.
type BackupListInput struct {
	Cluster string `json:"cluster"`
	// Limit of the archives, and of what is not one (0 = DefaultArchives, at most MaxArchives).
	Limit int `json:"limit,omitempty"`
}

// BackupShowInput asks for one archive.
type BackupShowInput struct {
	Cluster string `json:"cluster"`
	// Archive is the id of the operation that made it, or LatestArchive.
	Archive string `json:"archive"`
}

// BackupVerifyInput asks for an archive to be read back whole.
type BackupVerifyInput struct {
	Request
	// Archive is the id of the operation that made it (default LatestArchive, found when the operation begins).
	Archive string `json:"archive,omitempty"`
}

// BackupDeleteInput asks for an archive to be deleted.
type BackupDeleteInput struct {
	Request
	// Archive is the id of the operation that made it; never LatestArchive.
	Archive string `json:"archive"`
	// Force also deletes what is not complete, and ends its upload.
	Force bool `json:"force,omitempty"`
}

// PruneInput asks for everything to be deleted that the retention does not keep, of a cluster's archives or of its sets of snapshots. Request.DryRun only says what that is.
type PruneInput struct {
	Request
	Retention
	// Only, when given, are the ids of the archives or sets that may be deleted: those an operator has seen and confirmed.
	Only []string `json:"only,omitempty"`
}

// Retention says how many archives are kept, of each sort of export, or how many sets of snapshots, of each choice of quiesce levels.
type Retention struct {
	// KeepLast archives are kept.
	KeepLast int `json:"keepLast,omitempty"`
	// KeepDaily, KeepWeekly and KeepMonthly keep the newest archive of each of so many days, ISO weeks and months that have one.
	KeepDaily   int `json:"keepDaily,omitempty"`
	KeepWeekly  int `json:"keepWeekly,omitempty"`
	KeepMonthly int `json:"keepMonthly,omitempty"`
	// TimeZone is the IANA name of the zone in which days begin (default UTC).
	TimeZone string `json:"timeZone,omitempty"`
}

// maxKeep is more archives than anybody has.
const maxKeep = 100_000

// Check lists what is wrong with a retention; the time zone is checked where it is used.
func (r Retention) Check() []string {
	var problems []string
	for _, n := range []struct {
		name string
		keep int
	}{{"keep-last", r.KeepLast}, {"keep-daily", r.KeepDaily}, {"keep-weekly", r.KeepWeekly}, {"keep-monthly", r.KeepMonthly}} {
		if n.keep < 0 || n.keep > maxKeep {
			problems = append(problems, fmt.Sprintf("%s %d: write a number from 0 to %d", n.name, n.keep, maxKeep))
		}
	}
	if len(problems) == 0 && r.KeepLast+r.KeepDaily+r.KeepWeekly+r.KeepMonthly == 0 {
		problems = append(problems, "nothing would be kept: give at least one of keep-last, keep-daily, keep-weekly, keep-monthly")
	}
	return problems
}

// String is "7 last, 14 daily, 8 weekly, 12 monthly (Europe/Paris)".
func (r Retention) String() string {
	var parts []string
	for _, n := range []struct {
		name string
		keep int
	}{{"last", r.KeepLast}, {"daily", r.KeepDaily}, {"weekly", r.KeepWeekly}, {"monthly", r.KeepMonthly}} {
		if n.keep > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.keep, n.name))
		}
	}
	text := strings.Join(parts, ", ")
	if r.TimeZone != "" {
		text += " (" + r.TimeZone + ")"
	}
	return text
}

// CheckArchive says what is wrong with the name of an archive.
func CheckArchive(name string) error {
	if !idForm.MatchString(name) {
		return fmt.Errorf("archive %q: write the id of the operation that made it, as katoflow backup list shows it", Shorten(name, 80))
	}
	return nil
}

// Archive is what a list tells of an archive, or of what is not one.
type Archive struct {
	// Operation is the id of the operation that made it, and its name.
	Operation string `json:"operation"`
	Cluster   string `json:"cluster"`
	// Complete: the manifest is there and agrees with the object. Only then it is an archive; Reason says why it is not.
	Complete bool   `json:"complete"`
	Reason   string `json:"reason,omitempty"`
	// StartedAt and EndedAt of the export, UTC, RFC 3339. Of what has no manifest StartedAt is when its object was written, if it has one.
	StartedAt string `json:"startedAt,omitempty"`
	EndedAt   string `json:"endedAt,omitempty"`
	// Mode, Include and Exclude are what was exported (kato.md §3.2).
	Mode    string   `json:"mode,omitempty"`
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Node on which the export was made, and who asked for it.
	Node        string `json:"node,omitempty"`
	RequestedBy string `json:"requestedBy,omitempty"`
	// Size of the export and StoredSize of the object, in bytes.
	Size       int64 `json:"size"`
	StoredSize int64 `json:"storedSize"`
	// Encrypted with age.
	Encrypted bool `json:"encrypted,omitempty"`
	// Verified is what the last reading back found.
	Verified *ArchiveVerification `json:"verified,omitempty"`
	// Rehearsed is what the last rehearsal found.
	Rehearsed *ArchiveRehearsal `json:"rehearsed,omitempty"`
}

// ArchiveVerification is the result of reading an archive back.
type ArchiveVerification struct {
	// At is when it ended, UTC, RFC 3339.
	At string `json:"at"`
	// OK: every part and the whole agree with the manifest; Problem is the first that does not.
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
	// Bytes of the object that were read.
	Bytes int64 `json:"bytes"`
	// SHA256 of the whole export, hexadecimal; empty where an encrypted archive was compared as it is stored.
	SHA256 string `json:"sha256,omitempty"`
	Who    string `json:"who,omitempty"`
}

// ArchiveRehearsal is the result of importing an archive into a scratch cluster.
type ArchiveRehearsal struct {
	// At is when it ended, UTC, RFC 3339.
	At string `json:"at"`
	// OK: the archive is proven restorable. All that its manifest has was there afterwards, and every app ran that was started; Problem is why not.
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
	// Operation that rehearsed, Cluster that was imported into.
	Operation string `json:"operation"`
	Cluster   string `json:"cluster"`
	// AppsRunning and AppsFailed of those that were started before the export.
	AppsRunning int `json:"appsRunning"`
	AppsFailed  int `json:"appsFailed"`
	// KatoVersion of the archive, PlatformVersion of the cluster that was imported into.
	KatoVersion     string `json:"katoVersion,omitempty"`
	PlatformVersion string `json:"platformVersion,omitempty"`
	Who             string `json:"who,omitempty"`
}

// ArchiveList is the archives of a cluster, the newest first.
type ArchiveList struct {
	// Bucket and Prefix in which they are.
	Bucket   string    `json:"bucket"`
	Prefix   string    `json:"prefix,omitempty"`
	Archives []Archive `json:"archives"`
	// Incomplete is what is not an archive: transfers under way, interrupted ones, damaged ones.
	Incomplete []Archive `json:"incomplete,omitempty"`
	// More archives, and more of what is not one, than the limit lets through.
	More           int `json:"more,omitempty"`
	MoreIncomplete int `json:"moreIncomplete,omitempty"`
}

// ArchiveLock is what the bucket's object lock says of an archive.
type ArchiveLock struct {
	// Mode is GOVERNANCE or COMPLIANCE, Until when it ends (UTC, RFC 3339).
	Mode  string `json:"mode,omitempty"`
	Until string `json:"until,omitempty"`
	// Held: there is a legal hold, which has no end.
	Held bool `json:"held,omitempty"`
}

// String is "GOVERNANCE until 2026-12-22T03:00:00Z".
func (l ArchiveLock) String() string {
	switch {
	case l.Held:
		return "legal hold"
	case l.Until != "":
		return strings.TrimSpace(l.Mode + " until " + l.Until)
	}
	return ""
}

// ArchiveDetails is everything that is told of one archive. The list of its parts stays in its manifest.
type ArchiveDetails struct {
	Archive
	// LastProven: no newer archive of its sort is proven restorable.
	LastProven bool   `json:"lastProven,omitempty"`
	Bucket     string `json:"bucket"`
	// Key of the object; ManifestKey of the manifest beside it.
	Key         string `json:"key"`
	ManifestKey string `json:"manifestKey"`
	// SHA256 of the whole export, hexadecimal, and Checksum of the object as S3 has it.
	SHA256   string `json:"sha256,omitempty"`
	Checksum string `json:"checksum,omitempty"`
	Parts    int    `json:"parts,omitempty"`
	// PartSize in bytes of every part but the last.
	PartSize   int64        `json:"partSize,omitempty"`
	Recipients []string     `json:"recipients,omitempty"`
	Lock       *ArchiveLock `json:"lock,omitempty"`

	Platform        string `json:"platform,omitempty"`
	PlatformVersion string `json:"platformVersion,omitempty"`
	KatoVersion     string `json:"katoVersion,omitempty"`
	// ExportFile is the file's name on the node.
	ExportFile string `json:"exportFile,omitempty"`
	// Nodes of the cluster at the time, with their roles; MoreNodes are left out here.
	Nodes     []PlannedNode   `json:"nodes,omitempty"`
	MoreNodes int             `json:"moreNodes,omitempty"`
	Content   *ArchiveContent `json:"content,omitempty"`
}

// ArchiveContent is what the Cloud Controller had before the export.
type ArchiveContent struct {
	Orgs        int `json:"orgs"`
	Spaces      int `json:"spaces"`
	Apps        int `json:"apps"`
	AppsStarted int `json:"appsStarted"`
	Instances   int `json:"instances"`
	Services    int `json:"services"`
	// Users is 0 when they were not recorded; Endpoint is the host name of the cluster's API.
	Users    int    `json:"users,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	// AppList and ServiceList have the names; MoreApps and MoreServices are left out here and stand in the manifest.
	AppList      []ArchivedApp     `json:"appList,omitempty"`
	MoreApps     int               `json:"moreApps,omitempty"`
	ServiceList  []ArchivedService `json:"serviceList,omitempty"`
	MoreServices int               `json:"moreServices,omitempty"`
}

// ArchivedApp is an app as it was before the export.
type ArchivedApp struct {
	Org       string `json:"org"`
	Space     string `json:"space"`
	Name      string `json:"name"`
	State     string `json:"state"`
	Instances int    `json:"instances"`
	Buildpack string `json:"buildpack,omitempty"`
}

// ArchivedService is a service instance as it was before the export.
type ArchivedService struct {
	Org     string `json:"org"`
	Space   string `json:"space"`
	Name    string `json:"name"`
	Service string `json:"service,omitempty"`
	Plan    string `json:"plan,omitempty"`
}

// CatalogReport is the part of a Report that an operation on archives has.
type CatalogReport struct {
	Bucket string `json:"bucket,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	// Archive that was verified or deleted, as it was before.
	Archive *Archive `json:"archive,omitempty"`
	// Verification is what reading it back found.
	Verification *ArchiveVerification `json:"verification,omitempty"`
	Prune        *PruneReport         `json:"prune,omitempty"`
}

// PruneReport is what a retention keeps and what it does not.
type PruneReport struct {
	Retention Retention `json:"retention"`
	// Keep are the archives that stay, with all reasons, the newest first; MoreKept are left out here.
	Keep     []KeptArchive `json:"keep,omitempty"`
	MoreKept int           `json:"moreKept,omitempty"`
	// Delete are those that do not, the oldest first; MoreDeleted are left for the next run.
	Delete      []PrunedArchive `json:"delete,omitempty"`
	MoreDeleted int             `json:"moreDeleted,omitempty"`
	// Uploads are what dead operations have left, older than 24 h, aborted unless it is a dry run; MoreUploads are left for the next run.
	Uploads     []LeftoverUpload `json:"uploads,omitempty"`
	MoreUploads int              `json:"moreUploads,omitempty"`
}

// KeptArchive is an archive that stays.
type KeptArchive struct {
	Archive
	// Reasons: "last", "daily 2026-11-22", "weekly 2026-W47", "monthly 2026-11", "last verified", "last proven restorable".
	Reasons []string `json:"reasons"`
}

// What became of an archive that the retention does not keep.
const (
	PrunePlanned = "would be deleted" // dry run
	PruneDeleted = "deleted"
	PruneLocked  = "locked" // object lock keeps it; a later run deletes it
	PruneFailed  = "failed"
	PruneUnasked = "not confirmed" // it is not among those that an operator has confirmed
)

// PrunedArchive is an archive that the retention does not keep.
type PrunedArchive struct {
	Archive
	// Outcome is one of the values above, Problem why it is still there.
	Outcome string `json:"outcome"`
	Problem string `json:"problem,omitempty"`
}

// LeftoverUpload is a multipart upload of an operation that does not run any more. Its parts take space and stand in no list.
type LeftoverUpload struct {
	Operation string `json:"operation"`
	// Begun is UTC, RFC 3339.
	Begun string `json:"begun"`
}

// Count returns how many archives had an outcome.
func (p *PruneReport) Count(outcome string) int {
	n := 0
	for i := range p.Delete {
		if p.Delete[i].Outcome == outcome {
			n++
		}
	}
	return n
}

// Size writes a number of bytes for people: 512 B, 1.5 KiB, 20 MiB.
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1023.5 && unit < 4 {
		value /= 1024
		unit++
	}
	text := fmt.Sprintf("%.1f", value)
	if value >= 99.95 {
		text = fmt.Sprintf("%.0f", value)
	}
	return strings.TrimSuffix(text, ".0") + " " + []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
}
