package katodouble

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Generation is a line of kato's versions, as far as `kato patch` is concerned (kato.md §0.1, §3.6).
type Generation string

// The generations.
const (
	// Generation34 is Stackato 3.4.2's: the status tells the nodes of each patch.
	Generation34 Generation = "3.4"
	// GenerationALS is that of ALS 1.1 and 1.2: the same options, and a status that does not tell the nodes.
	GenerationALS Generation = "als"
	// Generation10 is that of ALS 1.0: --only-this-node and no JSON.
	Generation10 Generation = "1.0"
)

// PatchFault is what goes wrong with `kato patch`.
type PatchFault string

// The faults. What kato prints and leaves behind when it fails is not known (kato.md §9): these are the cases a caller has to tell from success.
const (
	// PatchFails prints an error and exits with 1; nothing is changed.
	PatchFails PatchFault = "fails"
	// PatchHalf does the first of several and fails at the second, as PatchFails does; no role is restarted. One alone fails.
	PatchHalf PatchFault = "half"
	// PatchSilent says that it is done and exits 0; nothing is changed, and no role restarted.
	PatchSilent PatchFault = "silent"
	// PatchHangs asks for a password and waits until it is killed, whatever its standard input is; nothing is changed.
	PatchHangs PatchFault = "hangs"
	// PatchBreaks does its work; the roles that it restarts stay STARTING until StatePatch.Start or the next boot.
	PatchBreaks PatchFault = "breaks"
	// PatchNoJSON: `kato patch status --json` crashes, as once it did (kato.md §3.6). It lasts as long as it is set, whatever Times is.
	PatchNoJSON PatchFault = "nojson"
	// PatchNoManifest: neither the manifest nor a patch can be fetched. It lasts as long as it is set, whatever Times is.
	PatchNoManifest PatchFault = "nomanifest"
)

// PatchFaults lists them.
func PatchFaults() []PatchFault {
	return []PatchFault{PatchFails, PatchHalf, PatchSilent, PatchHangs, PatchBreaks, PatchNoJSON, PatchNoManifest}
}

// lasting says whether a fault is not used up.
func (f PatchFault) lasting() bool { return f == PatchNoJSON || f == PatchNoManifest }

// NodePatches is what a node knows of the vendor's patches, and what `kato patch` does there. It survives a reboot.
type NodePatches struct {
	// Manifest is the one that was fetched last; Fetched says that one was.
	Manifest []Patch `json:"manifest,omitempty"`
	Fetched  bool    `json:"fetched"`
	// Installed are the names of patches.
	Installed []string `json:"installed,omitempty"`
	// UpstreamProxy is the HOST:PORT by which it fetches, or ""; `kato op upstream_proxy set` sets it. NoProxy are the hosts, with commas between them, that are
	// asked past it.
	UpstreamProxy string `json:"upstream_proxy,omitempty"`
	ProxyUser     string `json:"proxy_user,omitempty"`
	ProxyPassword string `json:"proxy_password,omitempty"`
	NoProxy       string `json:"no_proxy,omitempty"`
	// Generation of the node's kato; "" = Generation34.
	Generation Generation `json:"generation,omitempty"`
	// Seconds that each patch takes.
	Seconds float64 `json:"seconds,omitempty"`
	// Fault of the next Times installs, reverts and reinstalls that have something to do on the node, of all when Times is negative.
	Fault PatchFault `json:"fault,omitempty"`
	Times int        `json:"times,omitempty"`
}

// PatchesPatch is the part of a StatePatch about patches: what it names is changed, of lists what is not nil. Heal takes the fault and Seconds away first; what is
// installed, the manifest, the proxy and the generation stay. Install and Revert change single names of what is installed.
type PatchesPatch struct {
	Heal          bool        `json:"heal,omitempty"`
	Manifest      []Patch     `json:"manifest,omitzero"`
	Fetched       *bool       `json:"fetched,omitempty"`
	Installed     []string    `json:"installed,omitzero"`
	Install       []string    `json:"install,omitempty"`
	Revert        []string    `json:"revert,omitempty"`
	UpstreamProxy *string     `json:"upstream_proxy,omitempty"`
	ProxyUser     *string     `json:"proxy_user,omitempty"`
	ProxyPassword *string     `json:"proxy_password,omitempty"`
	NoProxy       *string     `json:"no_proxy,omitempty"`
	Generation    *Generation `json:"generation,omitempty"`
	Seconds       *float64    `json:"seconds,omitempty"`
	Fault         *PatchFault `json:"fault,omitempty"`
	Times         *int        `json:"times,omitempty"`
}

// ParsePatchesPatch reads the JSON of a PatchesPatch.
func ParsePatchesPatch(text string) (p PatchesPatch, err error) {
	if err := decode([]byte(text), &p); err != nil {
		return p, fmt.Errorf("not the JSON of a node's patches: %w", err)
	}
	return p, nil
}

// apply returns s changed by p, or an error for a value that makes no sense.
func (s NodePatches) apply(p *PatchesPatch) (NodePatches, error) {
	if p == nil {
		return s, nil
	}
	if p.Heal {
		s.Fault, s.Times, s.Seconds = "", 0, 0
	}
	put(&s.Fetched, p.Fetched)
	put(&s.UpstreamProxy, p.UpstreamProxy)
	put(&s.ProxyUser, p.ProxyUser)
	put(&s.ProxyPassword, p.ProxyPassword)
	put(&s.NoProxy, p.NoProxy)
	put(&s.Generation, p.Generation)
	put(&s.Seconds, p.Seconds)
	put(&s.Fault, p.Fault)
	put(&s.Times, p.Times)
	if p.Manifest != nil {
		s.Manifest = slices.Clone(p.Manifest)
	}
	if p.Installed != nil {
		s.Installed = p.Installed
	}
	s.Installed = slices.DeleteFunc(slices.Clone(s.Installed), func(name string) bool { return slices.Contains(p.Revert, name) })
	for _, name := range p.Install {
		if !slices.Contains(s.Installed, name) {
			s.Installed = append(s.Installed, name)
		}
	}
	switch {
	case s.Seconds < 0:
		return s, errors.New("a patch has no negative duration")
	case s.Fault != "" && !slices.Contains(PatchFaults(), s.Fault):
		return s, fmt.Errorf("%q is no fault of patches: choose from %v", s.Fault, PatchFaults())
	case !slices.Contains([]Generation{"", Generation34, GenerationALS, Generation10}, s.Generation):
		return s, fmt.Errorf("%q is no generation of kato: choose %s, %s or %s", s.Generation, Generation34, GenerationALS, Generation10)
	}
	return s, nil
}

// take returns what one install, revert or reinstall does; its fault is used up.
func (s *NodePatches) take() NodePatches {
	now := *s
	switch {
	case s.Fault.lasting():
	case s.Times == 0:
		now.Fault = ""
	case s.Times > 0:
		if s.Times--; s.Times == 0 {
			s.Fault = ""
		}
	}
	return now
}

// Patches returns what a node knows of patches, and false for an unknown id.
func (c *Cluster) Patches(id string) (p NodePatches, ok bool) {
	c.with(id, func(n *node) { p, ok = n.patches, true })
	return p, ok
}

// away is the error of a node that does not answer.
type away struct{ id string }

func (e away) Error() string { return "Could not connect to node " + e.id + ": No route to host" }

// takePatches begins a change of a node's patches.
func (c *Cluster) takePatches(_ context.Context, id string) (now NodePatches, err error) {
	err = away{id}
	c.with(id, func(n *node) {
		if n.up {
			now, err = n.patches.take(), nil
		}
	})
	return now, err
}

// changeNode is PatchNode of a node that is up.
func (c *Cluster) changeNode(_ context.Context, id string, p StatePatch) error {
	up := false
	c.with(id, func(n *node) { up = n.up })
	if !up {
		return away{id}
	}
	return c.PatchNode(id, p)
}

// fetchFor fetches for a node as fetch does, and gives it the manifest.
func (c *Cluster) fetchFor(ctx context.Context, dial dialer, id, name string) error {
	list, err := c.fetch(ctx, dial, id, name)
	if err != nil || name != "" {
		return err
	}
	return c.changeNode(ctx, id, StatePatch{Patches: fetched(list)})
}

// fetched gives a node a manifest.
func fetched(list []Patch) *PatchesPatch {
	return &PatchesPatch{Manifest: append([]Patch{}, list...), Fetched: new(true)}
}
