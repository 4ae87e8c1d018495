package katodouble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// UpgradeFault is what goes wrong with `kato node upgrade`.
type UpgradeFault string

// The faults. What kato prints and leaves behind when it fails is not known (kato.md §9): these are the cases a caller has to tell from success.
const (
	// UpgradeFails prints an error and exits with 1 at the inspection before; nothing is changed.
	UpgradeFails UpgradeFault = "fails"
	// UpgradeNetwork breaks the download off: an error and exit code 1; nothing is changed. It does not concern an upgrade that downloads nothing.
	UpgradeNetwork UpgradeFault = "network"
	// UpgradeInterrupted breaks off in the middle of the components: an error and exit code 1; the node's roles are stopped.
	UpgradeInterrupted UpgradeFault = "interrupted"
	// UpgradeUnthrown leaves the node as UpgradeInterrupted does, says that it is done and exits 0; only the marker file tells (kato.md §5).
	UpgradeUnthrown UpgradeFault = "unthrown"
	// UpgradeValidation upgrades the components; the node's last role stays STARTING, an error and exit code 1.
	UpgradeValidation UpgradeFault = "validation"
	// UpgradeHangs leaves the node as UpgradeInterrupted does, and never ends.
	UpgradeHangs UpgradeFault = "hangs"
	// UpgradeAsks asks whether to continue, although --skip-confirmation was given, and waits for an answer.
	UpgradeAsks UpgradeFault = "asks"
	// UpgradeStale does its work and exits 0; the version stays the old one.
	UpgradeStale UpgradeFault = "stale"
	// UpgradeSilent says that it is done and exits 0; nothing is changed.
	UpgradeSilent UpgradeFault = "silent"
	// UpgradeLosesKato does as UpgradeInterrupted, and the node has no kato any more.
	UpgradeLosesKato UpgradeFault = "loses-kato"
	// UpgradeDownload lets --download-only crash; nothing is cached. It concerns no upgrade, and the other faults no --download-only.
	UpgradeDownload UpgradeFault = "download"
)

// UpgradeFaults lists them.
func UpgradeFaults() []UpgradeFault {
	return []UpgradeFault{UpgradeFails, UpgradeNetwork, UpgradeInterrupted, UpgradeUnthrown, UpgradeValidation, UpgradeHangs, UpgradeAsks, UpgradeStale, UpgradeSilent, UpgradeLosesKato, UpgradeDownload}
}

// UpgradeReboots is the Upgrade.Restart of a node whose machine is rebooted in the end.
const UpgradeReboots = "reboot"

// UpgradeMarker is the file on a node that says that its upgrade failed (kato.md §5).
const UpgradeMarker = "/home/stackato/.kato-upgrade-failed"

// MarkerText is what the file says.
const MarkerText = "The upgrade of this node failed.\n"

// Upgrade says what `kato node upgrade` of a node does, and what it has done there. It survives a reboot.
type Upgrade struct {
	// Releases are the versions on offer to the kato of this node, the newest last; empty = none is newer.
	Releases []string `json:"releases,omitempty"`
	// Seconds that the upgrade of the components takes, and DownloadSeconds that the download before it does.
	Seconds         float64 `json:"seconds,omitempty"`
	DownloadSeconds float64 `json:"download_seconds,omitempty"`
	// Restart is what is restarted in the end: "" = the node's roles, UpgradeReboots = the machine.
	Restart string `json:"restart,omitempty"`
	// Old: the options are those of ALS 1.0 and Stackato, whatever the version.
	Old bool `json:"old,omitempty"`
	// NeedsUpdate: the node's kato upgrades nothing until --update-kato ran there.
	NeedsUpdate bool `json:"needs_update,omitempty"`
	// Fault of the next Times upgrades of the node that have something to do, of all when Times is negative.
	Fault UpgradeFault `json:"fault,omitempty"`
	Times int          `json:"times,omitempty"`

	// Previous is the version before the last upgrade, to which it can be rolled back.
	Previous string `json:"previous,omitempty"`
	// Cached are the versions that were downloaded to this node.
	Cached []string `json:"cached,omitempty"`
	// Interrupted is the version whose components were begun with and not ended with. The node's roles do not start then, not even at a boot.
	Interrupted string `json:"interrupted,omitempty"`
	// KatoUpdated: --update-kato ran here.
	KatoUpdated bool `json:"kato_updated,omitempty"`
	// FailedMarker: the file UpgradeMarker was written and not removed since by an upgrade or a roll back.
	FailedMarker bool `json:"failed_marker,omitempty"`
	// NoKato: the node has no kato.
	NoKato bool `json:"no_kato,omitempty"`
}

// UpgradePatch is the part of a StatePatch about upgrades: what it names is changed, of lists what is not nil. Heal ends the fault first, gives the node its kato back and makes upgrades take no
// time; what is on offer, how upgrades restart, and what they have done stay. Version is the node's own. Cache adds single versions to Cached.
type UpgradePatch struct {
	Heal            bool          `json:"heal,omitempty"`
	Version         *string       `json:"version,omitempty"`
	Releases        []string      `json:"releases,omitzero"`
	Seconds         *float64      `json:"seconds,omitempty"`
	DownloadSeconds *float64      `json:"download_seconds,omitempty"`
	Restart         *string       `json:"restart,omitempty"`
	Old             *bool         `json:"old,omitempty"`
	NeedsUpdate     *bool         `json:"needs_update,omitempty"`
	Fault           *UpgradeFault `json:"fault,omitempty"`
	Times           *int          `json:"times,omitempty"`
	Previous        *string       `json:"previous,omitempty"`
	Cached          []string      `json:"cached,omitzero"`
	Cache           []string      `json:"cache,omitempty"`
	Interrupted     *string       `json:"interrupted,omitempty"`
	KatoUpdated     *bool         `json:"kato_updated,omitempty"`
	FailedMarker    *bool         `json:"failed_marker,omitempty"`
	NoKato          *bool         `json:"no_kato,omitempty"`
}

// String is its JSON.
func (p UpgradePatch) String() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // plain values always marshal
	}
	return string(b)
}

// ParseUpgradePatch reads the JSON of an UpgradePatch.
func ParseUpgradePatch(text string) (p UpgradePatch, err error) {
	if err := decode([]byte(text), &p); err != nil {
		return p, fmt.Errorf("not the JSON of an upgrade's settings: %w", err)
	}
	return p, nil
}

// apply returns u changed by p, or an error for a value that makes no sense.
func (u Upgrade) apply(p *UpgradePatch) (Upgrade, error) {
	if p == nil {
		return u, nil
	}
	if p.Heal {
		u.Fault, u.Times, u.Seconds, u.DownloadSeconds, u.NoKato = "", 0, 0, 0, false
	}
	put(&u.Seconds, p.Seconds)
	put(&u.DownloadSeconds, p.DownloadSeconds)
	put(&u.Restart, p.Restart)
	put(&u.Old, p.Old)
	put(&u.NeedsUpdate, p.NeedsUpdate)
	put(&u.Fault, p.Fault)
	put(&u.Times, p.Times)
	put(&u.Previous, p.Previous)
	put(&u.Interrupted, p.Interrupted)
	put(&u.KatoUpdated, p.KatoUpdated)
	put(&u.FailedMarker, p.FailedMarker)
	put(&u.NoKato, p.NoKato)
	if p.Releases != nil {
		u.Releases = slices.Clone(p.Releases)
	}
	if p.Cached != nil {
		u.Cached = p.Cached
	}
	u.Cached = slices.Clone(u.Cached)
	for _, v := range p.Cache {
		if !slices.Contains(u.Cached, v) {
			u.Cached = append(u.Cached, v)
		}
	}
	switch {
	case p.Version != nil && *p.Version == "":
		return u, errors.New("a node has a version")
	case u.Seconds < 0 || u.DownloadSeconds < 0:
		return u, errors.New("an upgrade has no negative duration")
	case u.Restart != "" && u.Restart != UpgradeReboots:
		return u, fmt.Errorf("%q is not what an upgrade restarts: choose %q, or none for the roles", u.Restart, UpgradeReboots)
	case u.Fault != "" && !slices.Contains(UpgradeFaults(), u.Fault):
		return u, fmt.Errorf("%q is no fault of an upgrade: choose from %v", u.Fault, UpgradeFaults())
	}
	return u, nil
}

// UpgradeRequest is the body of POST /upgrades: what is begun on a node.
type UpgradeRequest struct {
	// Download: a version is downloaded and nothing upgraded.
	Download bool `json:"download,omitempty"`
	// There: nothing has to be downloaded for the upgrade.
	There bool `json:"there,omitempty"`
	// Uninspected: the inspection before it is passed over.
	Uninspected bool `json:"uninspected,omitempty"`
}

// strikes says whether a fault concerns what is begun.
func (want UpgradeRequest) strikes(f UpgradeFault) bool {
	switch f {
	case UpgradeNetwork:
		return !want.Download && !want.There
	case UpgradeFails:
		return !want.Download && !want.Uninspected
	}
	return want.Download == (f == UpgradeDownload)
}

// take returns what one upgrade, or download, does; its fault is used up.
func (u *Upgrade) take(want UpgradeRequest) Upgrade {
	now := *u
	switch {
	case u.Times == 0, !want.strikes(u.Fault):
		now.Fault = ""
	case u.Times > 0:
		if u.Times--; u.Times == 0 {
			u.Fault = ""
		}
	}
	return now
}

// takeUpgrade begins an upgrade of a node, or a download.
func (c *Cluster) takeUpgrade(_ context.Context, id string, want UpgradeRequest) (now Upgrade, err error) {
	err = away{id}
	c.with(id, func(n *node) {
		if n.up {
			now, err = n.upgrade.take(want), nil
		}
	})
	return now, err
}

// errUpgrading is how an upgrade is refused while another one runs.
var errUpgrading = errors.New("another upgrade is running")

// beginUpgrade takes the place of an upgrade that runs on a node, of whichever one. release gives it back.
func (c *Cluster) beginUpgrade(_ context.Context, id string) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, running := c.upgrades[id]; running {
		return nil, errUpgrading
	}
	return c.hold(&c.upgrades, id, false), nil
}

// retireNow retires a node at once.
func (c *Cluster) retireNow(_ context.Context, id string) error {
	err := error(away{id})
	c.with(id, func(n *node) {
		if n.up {
			err = c.retire(n)
		}
	})
	return err
}

// Version of a node, and false for an unknown id.
func (c *Cluster) Version(id string) (version string, ok bool) {
	c.with(id, func(n *node) { version, ok = n.version, true })
	return version, ok
}

// Upgrade is what upgrades of a node do and have done, and false for an unknown id.
func (c *Cluster) Upgrade(id string) (u Upgrade, ok bool) {
	c.with(id, func(n *node) { u, ok = n.upgrade, true })
	return u, ok
}

// PutBackUpgrade makes a node's version, and what upgrades have done there, what they were in a state of before, as its disk is put back. What upgrades are to do stays.
func (c *Cluster) PutBackUpgrade(s NodeState) {
	c.with(s.ID, func(n *node) {
		u, was := &n.upgrade, s.Upgrade
		n.version = s.Version
		u.Previous, u.Cached, u.Interrupted, u.KatoUpdated, u.FailedMarker, u.NoKato = was.Previous, was.Cached, was.Interrupted, was.KatoUpdated, was.FailedMarker, was.NoKato
	})
}

// OnMarker is told when the file UpgradeMarker of a node is to be there, or no more.
func (c *Cluster) OnMarker(f func(id string, there bool)) { c.marked = f }

// OnUpgraded is told when the components of a node have been upgraded.
func (c *Cluster) OnUpgraded(f func(id string)) { c.upgraded = f }

// oldUpgrades says whether `kato node upgrade` has the options of ALS 1.0 and of Stackato on a node (kato.md §5).
func (n *node) oldUpgrades() bool {
	return n.upgrade.Old || slices.ContainsFunc([]string{"1.0", "2.", "3."}, func(begin string) bool { return strings.HasPrefix(n.version, begin) })
}

// wholeUpgrades says whether an upgrade on the Core is one of all nodes without being told, as since ALS 1.3 (kato.md §0.8).
func (n *node) wholeUpgrades() bool {
	major, rest, _ := strings.Cut(n.version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	first, err := strconv.Atoi(major)
	second, _ := strconv.Atoi(minor)
	return err == nil && !n.oldUpgrades() && (first > 1 || second > 2)
}
