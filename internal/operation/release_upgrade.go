package operation

import (
	"slices"

	"github.com/katoflow/katoflow/internal/kato"
)

// Names of the workflows of `katoflow upgrade release`, as registered, and their kind.
const (
	WorkflowReleaseUpgrade     = "ReleaseUpgrade"
	WorkflowReleaseUpgradeNode = "ReleaseUpgradeNode"

	KindReleaseUpgrade = "release-upgrade"
)

// Steps of the cluster, in order: beside them the backup or snapshot before (StepSafety) and maintenance mode.
const (
	StepUpdateKato = "update-kato" // kato node upgrade --update-kato
	StepDownload   = "download"    // kato node upgrade --download-only, while the cluster is live
)

// Steps of one node, in order, beside probe and gates.
const (
	StepRelease     = "release"      // which version it has
	StepNodeUpgrade = "node-upgrade" // kato node upgrade --node, on the Core
	StepNodeBack    = "node-back"    // kato node upgrade --rollback --node, by an answer
)

// Safety is what is made of a cluster before it is changed in a way that nobody can take back.
type Safety string

// The kinds of it.
const (
	SafetyExport   Safety = "export"   // kato data export, kept as `backup create` does it
	SafetySnapshot Safety = "snapshot" // a snapshot of all nodes at one moment
	SafetyNone     Safety = "none"
)

// Safeties lists them.
func Safeties() []Safety { return []Safety{SafetyExport, SafetySnapshot, SafetyNone} }

// ReleaseUpgradeInput asks for a cluster to be brought to another version of its platform, node by node. Zero values are the defaults.
type ReleaseUpgradeInput struct {
	Request
	// To is the version.
	To string `json:"to"`
	// Safety before it; "" is an export.
	Safety Safety `json:"safety,omitempty"`
	// RoleOrder replaces the default order of roles.
	RoleOrder []string `json:"roleOrder,omitempty"`
	// NoUpdateKato leaves kato as it is before the upgrade, and NoDownload has every node fetch its packages when it is upgraded.
	NoUpdateKato bool `json:"noUpdateKato,omitempty"`
	NoDownload   bool `json:"noDownload,omitempty"`
	// Offline: the packages are on the Core already, and nothing is fetched.
	Offline bool `json:"offline,omitempty"`
	// Force overrules what the checklist asks of disks and memory.
	Force bool `json:"force,omitempty"`
	// Rolling: kato upgrades one node at a time, so that there is no batch.
	Rolling
}

// SafetyOr is what is made before, or its default.
func (in ReleaseUpgradeInput) SafetyOr() Safety {
	if in.Safety == "" {
		return SafetyExport
	}
	return in.Safety
}

// Check lists what is wrong with it, one line each.
func (in ReleaseUpgradeInput) Check() []string {
	var problems []string
	if in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if err := kato.CheckVersion(in.To); err != nil {
		problems = append(problems, "to: "+err.Error())
	}
	if !slices.Contains(Safeties(), in.SafetyOr()) {
		problems = append(problems, "safety: choose export, snapshot or none")
	}
	if in.Batch != "" && in.Batch != "1" {
		problems = append(problems, "batch: kato upgrades one node at a time")
	}
	return append(problems, in.Rolling.Check()...)
}

// ReleaseProgress is what the steps of a node have found so far.
type ReleaseProgress struct {
	// Before is the version that kato told there at first, Now the one that it told last; "" for none.
	Before string `json:"before,omitempty"`
	Now    string `json:"now,omitempty"`
	// Marks are files of upgrades that had failed before, each as its time and its name.
	Marks []string `json:"marks,omitempty"`
	// Upgraded: kato has upgraded it. Begun: it may have, because it was let end while the operation was being cancelled. Accepted: an answer took it as upgraded, whatever kato says. Back: it was rolled back.
	Upgraded bool `json:"upgraded,omitempty"`
	Begun    bool `json:"begun,omitempty"`
	Accepted bool `json:"accepted,omitempty"`
	Back     bool `json:"back,omitempty"`
}

// ReleaseReport is what became of an upgrade to another version.
type ReleaseReport struct {
	To string `json:"to"`
	// Safety is what was made before, and SafetyAt where it is: the archive, or the name of the set; "" while there is none.
	Safety   Safety `json:"safety"`
	SafetyAt string `json:"safetyAt,omitempty"`
	// Downloaded: the packages were on the Core before the first node.
	Downloaded bool `json:"downloaded,omitempty"`
	// Buildpacks that the cluster had before, by name, and Lost those that it has no more.
	Buildpacks []string `json:"buildpacks,omitempty"`
	Lost       []string `json:"lost,omitempty"`
	// Afterwards is what is left to do by hand, one line each.
	Afterwards []string `json:"afterwards,omitempty"`
}

// CompareVersions is negative where a is older than b, 0 where they are the same, and positive otherwise.
func CompareVersions(a, b string) int { return kato.CompareVersions(a, b) }

// SameVersion reports whether a node that tells a version has the one that is wanted.
func SameVersion(has, wanted string) bool { return kato.SameVersion(has, wanted) }

// UpgradeDialect is which options `kato node upgrade` has on a cluster.
type UpgradeDialect = kato.UpgradeDialect
