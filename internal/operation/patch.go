package operation

import (
	"slices"
	"strings"

	"github.com/katoflow/katoflow/internal/kato"
)

// Names of the workflows of `kato patch`, as registered, and their kinds.
const (
	WorkflowPatch       = "Patch"
	WorkflowPatchNode   = "PatchNode"
	WorkflowPatchStatus = "PatchStatus"

	KindPatchInstall   = "patch-install"
	KindPatchRevert    = "patch-revert"
	KindPatchReinstall = "patch-reinstall"
	KindPatchStatus    = "patch-status"
)

// Steps of one node, in order, beside probe and gates. They stand in reports, decisions and job names.
const (
	StepPatches = "patches" // what kato says is installed there, and what is not
	StepPatch   = "patch"   // kato patch install, revert or reinstall; the roles that it is for are restarted

	// JobRestartRoles restarts the roles after a further try of it, which does not do so for what an earlier one has done.
	JobRestartRoles = "restart-roles"
)

// PatchAction is what is done to patches.
type PatchAction string

// Actions, as kato names them.
const (
	PatchInstall   PatchAction = kato.PatchInstall
	PatchRevert    PatchAction = kato.PatchRevert
	PatchReinstall PatchAction = kato.PatchReinstall
)

// Kind of an operation that does it; "" for no action.
func (a PatchAction) Kind() string {
	switch a {
	case PatchInstall:
		return KindPatchInstall
	case PatchRevert:
		return KindPatchRevert
	case PatchReinstall:
		return KindPatchReinstall
	}
	return ""
}

// PatchInput asks for patches to be installed, reverted or installed again, node by node. Zero values are the defaults.
type PatchInput struct {
	Request
	Action PatchAction `json:"action"`
	// Patch is the name of the only one that is meant; "" = all.
	Patch string `json:"patch,omitempty"`
	// NoRestart leaves the roles that a patch is for as they run; it takes effect when they are restarted.
	NoRestart bool `json:"noRestart,omitempty"`
	// Nodes limits the operation to these; empty = all.
	Nodes []string `json:"nodes,omitempty"`
	// RoleOrder replaces the default order of roles.
	RoleOrder []string `json:"roleOrder,omitempty"`
	// Batch is a count or percentage of nodes at once (default "1").
	Batch string `json:"batch,omitempty"`
	// NoCanary lets the first batch be a whole one; otherwise the first node goes alone and is followed by the soak.
	NoCanary bool     `json:"noCanary,omitempty"`
	Soak     Duration `json:"soak,omitempty"`
	// MaxFailures: nil asks about every failed node; otherwise so many nodes are skipped without asking and one more aborts.
	MaxFailures *int `json:"maxFailures,omitempty"`
	// Window: no node is begun outside of it.
	Window WindowInput `json:"window,omitzero"`
}

// Check lists what is wrong with it, one line each.
func (in PatchInput) Check() []string {
	var problems []string
	if in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if in.Action.Kind() == "" {
		problems = append(problems, "action: choose install, revert or reinstall")
	}
	if in.Patch != "" {
		if err := kato.CheckPatchName(in.Patch); err != nil {
			problems = append(problems, err.Error())
		}
	} else if in.Action == PatchReinstall {
		problems = append(problems, "patch is missing: name the one that is to be installed again")
	}
	if in.Soak < 0 {
		problems = append(problems, "soak is negative")
	}
	if in.MaxFailures != nil && *in.MaxFailures < 0 {
		problems = append(problems, "max-failures is negative: 0 aborts at the first failed node")
	}
	return append(problems, in.Window.Check(UnitNode)...)
}

// Wanted are the patches of a node that something is to be done about: of those installed there, and those that are not.
func (in PatchInput) Wanted(installed, missing []string) []string {
	list := installed
	if in.Action == PatchInstall {
		list = missing
	}
	if in.Patch == "" {
		return slices.Clone(list)
	}
	if slices.Contains(list, in.Patch) {
		return []string{in.Patch}
	}
	return nil
}

// Patch is one that kato knows of, and where it is installed.
type Patch struct {
	Name string `json:"name"`
	// ID is kato's number of it, "" where it is not told.
	ID          string   `json:"id,omitempty"`
	Description string   `json:"description,omitempty"`
	Severity    string   `json:"severity,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	// Installed and Missing are the nodes that it concerns, at most MaxPatchNodes of each; the counts are of all.
	Installed      []string `json:"installed,omitempty"`
	Missing        []string `json:"missing,omitempty"`
	InstalledCount int      `json:"installedCount"`
	MissingCount   int      `json:"missingCount"`
}

// MaxPatchNodes is how many nodes of a patch are told.
const MaxPatchNodes = 50

// CutPatches shortens the lists of nodes.
func CutPatches(all []Patch) []Patch {
	all = slices.Clone(all)
	for i := range all {
		all[i].Installed = all[i].Installed[:min(len(all[i].Installed), MaxPatchNodes)]
		all[i].Missing = all[i].Missing[:min(len(all[i].Missing), MaxPatchNodes)]
	}
	return all
}

// MergePatches adds what some nodes have to what others have; each node is in one of them only. Nothing is cut off.
func MergePatches(all, more []Patch) []Patch {
	for _, p := range more {
		i := slices.IndexFunc(all, func(have Patch) bool { return have.Name == p.Name })
		if i < 0 {
			all = append(all, p)
			continue
		}
		have := &all[i]
		have.Installed, have.Missing = slices.Concat(have.Installed, p.Installed), slices.Concat(have.Missing, p.Missing)
		have.InstalledCount += p.InstalledCount
		have.MissingCount += p.MissingCount
		for _, role := range p.Roles {
			if !slices.Contains(have.Roles, role) {
				have.Roles = append(have.Roles, role)
			}
		}
	}
	slices.SortFunc(all, func(a, b Patch) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// PatchProgress is what the steps of a node have found so far.
type PatchProgress struct {
	// Wanted are the patches that something is done about there; of many the report has the first.
	Wanted []string `json:"wanted,omitempty"`
	// Roles that they are for, and that the node has.
	Roles []string `json:"roles,omitempty"`
	// OnlyThisNode: kato there has --only-this-node, and not --local.
	OnlyThisNode bool `json:"onlyThisNode,omitempty"`
	// Changed: kato says that it is so by now.
	Changed bool `json:"changed,omitempty"`
}

// PatchReport is what became of the patches of a cluster.
type PatchReport struct {
	Action PatchAction `json:"action"`
	// Patch is the only one that was meant, "" for all.
	Patch     string `json:"patch,omitempty"`
	NoRestart bool   `json:"noRestart,omitempty"`
	// Patches as they are at the end, or AsFound before.
	Patches []Patch `json:"patches"`
	AsFound bool    `json:"asFound,omitempty"`
	// Unasked is the number of nodes that did not say.
	Unasked int `json:"unasked,omitempty"`
}

// PatchStatusInput asks which patches there are, and where they are installed.
type PatchStatusInput struct {
	Cluster string `json:"cluster"`
	// InventoryDigest, if set, must be that of the worker's inventory.
	InventoryDigest string `json:"inventoryDigest,omitempty"`
	// Fetch has every node fetch the list of patches anew.
	Fetch bool `json:"fetch,omitempty"`
}

// PatchStatus is which patches there are, as far as it could be asked.
type PatchStatus struct {
	Cluster string `json:"cluster"`
	// At is when it was asked, UTC, RFC 3339.
	At string `json:"at"`
	// Nodes that were asked, all of the cluster.
	Nodes   int     `json:"nodes"`
	Patches []Patch `json:"patches"`
	// Problems are nodes that did not say, and Warnings what is wrong with their answers; one line each, with the node before it.
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}
