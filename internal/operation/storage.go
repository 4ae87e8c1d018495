package operation

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Names of the workflows of storage, as registered, and their kinds.
const (
	WorkflowQuota     = "StorageQuota"
	WorkflowQuotaNode = "StorageQuotaNode"
	WorkflowRelocate  = "StorageRelocate"

	KindQuotaEnable  = "storage-quota-enable"
	KindQuotaDisable = "storage-quota-disable"
	KindRelocate     = "storage-relocate"
)

// Steps of storage, beside probe, retire, stop-roles, start-roles, gates and tidy. They stand in reports, decisions and job names; those of a relocation with the kind of data after a hyphen.
const (
	StepQuota = "quota" // options, quotacheck, quotaon, and what keeps them over a reboot

	StepKeep       = "keep"        // the folder that the data go to is made, the source kept beside itself by hard links
	StepRelocate   = "relocate"    // kato relocate
	StepCompare    = "compare"     // names, modes, owners and sizes of all files, held against the source
	StepSwitchBack = "switch-back" // the data are where they were
)

// QuotaAction is what is done to the quotas of a file system.
type QuotaAction string

// Actions, as the commands are called.
const (
	QuotaEnable  QuotaAction = "enable"
	QuotaDisable QuotaAction = "disable"
)

// Kind of an operation that does it; "" for no action.
func (a QuotaAction) Kind() string {
	switch a {
	case QuotaEnable:
		return KindQuotaEnable
	case QuotaDisable:
		return KindQuotaDisable
	}
	return ""
}

// QuotaInput asks for the quotas of a file system to be switched on or off, node by node.
type QuotaInput struct {
	Request
	Action QuotaAction `json:"action"`
	// Path is where the file system is mounted.
	Path string `json:"path"`
	Rolling
}

// Check lists what is wrong with it, one line each.
func (in QuotaInput) Check() []string {
	var problems []string
	if in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if in.Action.Kind() == "" {
		problems = append(problems, "action: choose enable or disable")
	}
	if err := CheckFolder(in.Path); err != nil {
		problems = append(problems, "path "+err.Error())
	}
	return append(problems, in.Rolling.Check()...)
}

// folderForm leaves out what /proc/mounts and /etc/fstab write otherwise than it is.
var folderForm = regexp.MustCompile(`^(/[A-Za-z0-9._@+,-]+)+$`)

// CheckFolder says what is wrong with a full path of a folder on a node.
func CheckFolder(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("is missing: write such as /mnt/data")
	case len(name) > 1000 || !folderForm.MatchString(name) || path.Clean(name) != name:
		return fmt.Errorf("%q is not the full path of a folder in its shortest form, of letters, digits and ._@+,-: write such as /mnt/data", Shorten(name, 60))
	}
	return nil
}

// StorageKind is a kind of data that kato relocates (kato.md §3.7).
type StorageKind string

// Kinds, as kato names them.
const (
	Services   StorageKind = "services"
	Droplets   StorageKind = "droplets"
	Containers StorageKind = "containers"
)

// RelocateInput asks for data of one node to be moved to other folders. Zero values are the defaults.
type RelocateInput struct {
	Request
	// Node whose data are moved.
	Node string `json:"node"`
	// Services, Droplets and Containers are the folders that these are moved to; "" leaves them where they are.
	Services   string `json:"services,omitempty"`
	Droplets   string `json:"droplets,omitempty"`
	Containers string `json:"containers,omitempty"`
	// Confirm is the name of the cluster once more; a dry run needs none.
	Confirm string `json:"confirm,omitempty"`
	// Force moves them although a check has found what can be overruled.
	Force bool `json:"force,omitempty"`
	// KeepSource leaves the source on the node, beside itself, when all is done.
	KeepSource bool `json:"keepSource,omitempty"`
	// NoRetire leaves app instances on a dea until its roles are stopped; otherwise they are moved to other ones before.
	NoRetire bool `json:"noRetire,omitempty"`
	// Maintenance has maintenance mode on meanwhile.
	Maintenance bool `json:"maintenance,omitempty"`
}

// Moves are what is asked for, in the order in which it is done.
func (in RelocateInput) Moves() []StorageMove {
	var out []StorageMove
	for _, m := range []StorageMove{{Kind: Services, To: in.Services}, {Kind: Droplets, To: in.Droplets}, {Kind: Containers, To: in.Containers}} {
		if m.To != "" {
			out = append(out, m)
		}
	}
	return out
}

// Check lists what is wrong with it, one line each.
func (in RelocateInput) Check() []string {
	var problems []string
	if in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if in.Node == "" {
		problems = append(problems, "node is missing: name the one whose data are to be moved")
	}
	if in.Cluster != "" && !in.DryRun && in.Confirm != in.Cluster {
		problems = append(problems, fmt.Sprintf("confirm: a relocation stops the node's roles and moves its data: write the name of cluster %s once more (--confirm %s)", in.Cluster, in.Cluster))
	}
	moves := in.Moves()
	if len(moves) == 0 {
		problems = append(problems, "nothing is to be moved: say with services, droplets or containers where to")
	}
	for i, m := range moves {
		if err := CheckFolder(m.To); err != nil {
			problems = append(problems, string(m.Kind)+" "+err.Error())
			continue
		}
		for _, other := range moves[:i] {
			if within(m.To, other.To) || within(other.To, m.To) {
				problems = append(problems, fmt.Sprintf("%s and %s need folders of their own, neither within the other: %s, %s", other.Kind, m.Kind, other.To, m.To))
			}
		}
	}
	return problems
}

// within reports whether a path is a folder or lies in it.
func within(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

// What became of the data of one kind.
const (
	Moved     = "moved"             // they are at the new place, compared, and the gates held there
	MovedLeft = "moved, gates left" // as moved, but the gates did not hold, and that was left so
	WasThere  = "was there"         // they had been at the new place before
	NotMoved  = "where it was"      // they are at the old place
	MoveOpen  = "not known"         // a question about it was left open
)

// StorageMove is the way of one kind of data.
type StorageMove struct {
	Kind StorageKind `json:"kind"`
	// From is the path as kato knows it, Real the folder that it led to, To the folder where the data go.
	From string `json:"from,omitempty"`
	Real string `json:"real,omitempty"`
	To   string `json:"to"`
	// Kept is where the source is kept meanwhile.
	Kept string `json:"kept,omitempty"`
	// Mount is where the file system of the new place is mounted, Device its device.
	Mount  string `json:"mount,omitempty"`
	Device string `json:"device,omitempty"`
	// Bytes that the data take, and Files, those that were compared.
	Bytes int64 `json:"bytes,omitempty"`
	Files int   `json:"files,omitempty"`
	// Outcome is one of the words above; "" while it is not known.
	Outcome string `json:"outcome,omitempty"`
}

// StorageReport is what became of a relocation.
type StorageReport struct {
	Moves []StorageMove `json:"moves"`
	// Down is how long the node's roles were stopped, in all.
	Down Duration `json:"down,omitempty"`
	// SourceKept: what was kept of the sources is still on the node.
	SourceKept bool `json:"sourceKept,omitempty"`
}
