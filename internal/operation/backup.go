package operation

import (
	"fmt"
	"path"
	"strings"
)

// MaintenanceChoice says whether an export runs with the Cloud Controller read-only.
type MaintenanceChoice string

// The source page wants maintenance mode for busy clusters, so auto is on for an export of a cluster and off for that of one node.
const (
	MaintenanceAuto MaintenanceChoice = "auto"
	MaintenanceOn   MaintenanceChoice = "on"
	MaintenanceOff  MaintenanceChoice = "off"
)

// TransferMode says who moves the archive to S3.
type TransferMode string

// Transfer modes.
const (
	TransferAuto   TransferMode = "auto"   // direct where the node has curl and reaches S3, else by the worker
	TransferWorker TransferMode = "worker" // the worker reads ranges over SSH
	TransferDirect TransferMode = "direct" // the node uploads to presigned URLs
)

// Steps of an export, in order. They stand in reports, decisions and job names.
const (
	StepPrepare  = "prepare"  // the folder for the archive on the node; what the Cloud Controller has
	StepExport   = "export"   // kato data export
	StepCheck    = "check"    // the archive can be read: size, SHA-256
	StepTransfer = "transfer" // to S3 or to its place, the manifest last
	StepTidy     = "tidy"     // the staged file removed
)

// BackupInput asks for an export of an ALS cluster. Zero values are the defaults.
type BackupInput struct {
	Request
	// Node the export runs on (default: the inventory's export.node, else the one with the role filesystem; with OnlyThisNode the Core).
	Node string `json:"node,omitempty"`
	// OnlyThisNode exports that node alone (kato data export --only-this-node) instead of the whole cluster.
	OnlyThisNode bool `json:"onlyThisNode,omitempty"`
	// Include and Exclude are kato's selectors (kato.md §3.2); none of both is kato's own choice: everything but resources and aok-config.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Maintenance mode during the export (default auto).
	Maintenance MaintenanceChoice `json:"maintenance,omitempty"`
	// Transfer mode (default auto).
	Transfer TransferMode `json:"transfer,omitempty"`
	// EncryptTo are age or SSH public keys; none for a plain archive.
	EncryptTo []string `json:"encryptTo,omitempty"`
	// ToPath is the folder of a mounted file system on the node that the archive is put into, instead of S3.
	ToPath string `json:"toPath,omitempty"`
	// NoSpaceCheck lets the export begin although the data, by its size, may not fit where the archive is staged.
	NoSpaceCheck bool `json:"noSpaceCheck,omitempty"`
}

// Exported is what a Report says of the archive that an export made.
type Exported struct {
	// Location is s3://BUCKET/KEY, or NODE:PATH.
	Location string `json:"location"`
	// Size in bytes and SHA256, in hexadecimal, of the export; StoredSize is larger when it is encrypted.
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"`
	StoredSize int64  `json:"storedSize,omitempty"`
	// Entries of the archive, as tar lists them.
	Entries int64 `json:"entries,omitempty"`
	// Transfer is how it was moved: worker or direct; Parts how many parts of the upload there are.
	Transfer TransferMode `json:"transfer,omitempty"`
	Parts    int          `json:"parts,omitempty"`
	// Encrypted to age or SSH keys.
	Encrypted bool `json:"encrypted,omitempty"`
	// Contents counted by the Cloud Controller before the export; nil when it was not asked.
	Contents *ExportedContents `json:"contents,omitempty"`
	// ExportTime, MaintenanceTime and TransferTime are how long each lasted.
	ExportTime      Duration `json:"exportTime,omitempty"`
	MaintenanceTime Duration `json:"maintenanceTime,omitempty"`
	TransferTime    Duration `json:"transferTime,omitempty"`
}

// ExportedContents counts what the Cloud Controller had.
type ExportedContents struct {
	Orgs        int `json:"orgs"`
	Spaces      int `json:"spaces"`
	Apps        int `json:"apps"`
	AppsStarted int `json:"appsStarted"`
	Services    int `json:"services"`
	// Users is 0 when they were not recorded.
	Users int `json:"users,omitempty"`
}

// String is what a person reads.
func (c ExportedContents) String() string {
	n := func(n int, what string) string {
		if n != 1 {
			what += "s"
		}
		return fmt.Sprintf("%d %s", n, what)
	}
	text := fmt.Sprintf("%s, %s, %s (%d started), %s", n(c.Orgs, "org"), n(c.Spaces, "space"), n(c.Apps, "app"), c.AppsStarted, n(c.Services, "service"))
	if c.Users > 0 {
		text += ", " + n(c.Users, "user")
	}
	return text
}

// CheckToPath lists what is wrong with a backup to a mounted file system.
func CheckToPath(in BackupInput) []string {
	var problems []string
	if !path.IsAbs(in.ToPath) || path.Clean(in.ToPath) != in.ToPath || in.ToPath == "/" || strings.ContainsAny(in.ToPath, "\x00\n") {
		problems = append(problems, "to-path: write the full path of a folder, such as /mnt/backup")
	}
	if len(in.EncryptTo) > 0 {
		problems = append(problems, "encrypt-to goes with an archive in S3, not with to-path: a file system is written as kato writes")
	}
	if in.Transfer != "" && in.Transfer != TransferAuto {
		problems = append(problems, "transfer "+Shorten(string(in.Transfer), 20)+" goes with an archive in S3, not with to-path")
	}
	return problems
}
