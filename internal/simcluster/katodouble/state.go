package katodouble

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
)

// NodeState is what a node knows of itself: the answer to GET /state of its Agent.
type NodeState struct {
	ID      string `json:"id"`
	Version string `json:"version"`
	// Booted is the start of the node's agent. UpSeconds since then are counted by the node itself, so that they are right when its clock is not.
	Booted    time.Time `json:"booted"`
	UpSeconds float64   `json:"up_seconds"`
	// RoleStartSeconds is how long roles take from the boot to RUNNING.
	RoleStartSeconds float64 `json:"role_start_seconds"`
	// RoleRestartSeconds is how long one that is restarted takes. Restarted are the roles that were in this boot, and how many seconds ago, counted as UpSeconds are.
	RoleRestartSeconds float64            `json:"role_restart_seconds"`
	Restarted          map[string]float64 `json:"restarted"`
	// Roles are the states as of the answer.
	Roles map[string]State `json:"roles"`
	// Stopped roles stay so until the next boot; those of NeverStart stay STARTING from the next boot on, those of Stuck do so in this one.
	Stopped    []string `json:"stopped"`
	NeverStart []string `json:"never_start"`
	Stuck      []string `json:"stuck"`
	// Apps is the number of app instances, Capacity the most that fit.
	Apps     int  `json:"apps"`
	Capacity int  `json:"capacity"`
	Retired  bool `json:"retired"`
	ExitZero bool `json:"exit_zero"`
	Prompts  bool `json:"prompts"`
	// LegacyStatus: `kato status` hangs on every node while any node is offline, if a node that answers says so.
	LegacyStatus bool `json:"legacy_status"`
	// Export is what the next exports do.
	Export Export `json:"export"`
	// Exporting: an export runs.
	Exporting bool `json:"exporting"`
	// Import and Importing likewise.
	Import    Import `json:"import"`
	Importing bool   `json:"importing"`
	// Patches is what it knows of the vendor's.
	Patches NodePatches `json:"patches"`
	// Relocate is what the next relocations do.
	Relocate Relocate `json:"relocate"`
	// Upgrade is what the next upgrades do, and what the last ones did. Upgrading: one runs on this node, of whichever one.
	Upgrade   Upgrade `json:"upgrade"`
	Upgrading bool    `json:"upgrading"`
}

// StatePatch is the body of PATCH /state: what it names is changed, the rest stays.
type StatePatch struct {
	Apps      *int `json:"apps,omitempty"`
	AppsDelta int  `json:"apps_delta,omitempty"`
	Capacity  *int `json:"capacity,omitempty"`
	// Retired, ExitZero (kato.md §0.4), Prompts (§0.5) and LegacyStatus (§0.7) as in NodeState.
	Retired      *bool          `json:"retired,omitempty"`
	ExitZero     *bool          `json:"exit_zero,omitempty"`
	Prompts      *bool          `json:"prompts,omitempty"`
	LegacyStatus *bool          `json:"legacy_status,omitempty"`
	Export       *ExportPatch   `json:"export,omitempty"`
	Import       *ImportPatch   `json:"import,omitempty"`
	Patches      *PatchesPatch  `json:"patches,omitempty"`
	Relocate     *RelocatePatch `json:"relocate,omitempty"`
	Upgrade      *UpgradePatch  `json:"upgrade,omitempty"`
	// Stop stops roles until the next boot, NeverStart keeps them STARTING from the next boot on, Start heals both. Resume ends only
	// Stop, as `kato start` does.
	Stop       []string `json:"stop,omitempty"`
	NeverStart []string `json:"never_start,omitempty"`
	Start      []string `json:"start,omitempty"`
	Resume     []string `json:"resume,omitempty"`
	// Restart restarts roles, also those that were stopped. Those of Stuck stay STARTING in this boot, until Start, or until Unstick, which comes first and does not concern NeverStart's.
	Restart []string `json:"restart,omitempty"`
	Stuck   []string `json:"stuck,omitempty"`
	Unstick []string `json:"unstick,omitempty"`
}

func (p StatePatch) empty() bool { return reflect.DeepEqual(p, StatePatch{}) }

func set(list []string) map[string]bool {
	out := map[string]bool{}
	for _, v := range list {
		out[v] = true
	}
	return out
}

func sortedKeys(m map[string]bool) []string {
	return append([]string{}, slices.Sorted(maps.Keys(m))...) // never nil: JSON has [] then
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// NodeState returns the state of a node of the cluster, and false for an unknown id.
func (c *Cluster) NodeState(id string) (s NodeState, ok bool) {
	c.with(id, func(n *node) {
		ok = true
		s = NodeState{ID: n.id, Version: n.version, Booted: n.boot, UpSeconds: time.Since(n.booted).Seconds(), RoleStartSeconds: n.startTime.Seconds(), RoleRestartSeconds: n.restartTime.Seconds(),
			Roles: map[string]State{}, Restarted: map[string]float64{},
			Stopped: sortedKeys(n.stopped), NeverStart: sortedKeys(n.never), Stuck: sortedKeys(n.stuck),
			Apps: n.apps, Capacity: n.capacity, Retired: n.retired, ExitZero: n.exitZero, Prompts: n.prompts, LegacyStatus: c.legacy, Export: n.export, Import: n.imports,
			Patches: n.patches, Relocate: n.relocate, Upgrade: n.upgrade}
		_, s.Exporting = c.exports[id]
		_, s.Importing = c.imports[id]
		_, s.Upgrading = c.upgrades[id]
		for _, r := range n.roles {
			s.Roles[r] = n.roleState(r)
		}
		for r, at := range n.restarted {
			s.Restarted[r] = time.Since(at).Seconds()
		}
	})
	return s, ok
}

// SetNodeState makes a node what it said of itself, and up. LegacyStatus, which is the whole cluster's here, is only ever switched on.
func (c *Cluster) SetNodeState(s NodeState) {
	c.with(s.ID, func(n *node) {
		n.up, n.booted, n.startTime = true, time.Now().Add(-seconds(s.UpSeconds)), seconds(s.RoleStartSeconds)
		n.stopped, n.never, n.stuck = set(s.Stopped), set(s.NeverStart), set(s.Stuck)
		n.apps, n.capacity, n.retired, n.exitZero, n.prompts = s.Apps, s.Capacity, s.Retired, s.ExitZero, s.Prompts
		n.export, n.imports, n.patches, n.relocate, n.upgrade, n.boot = s.Export, s.Import, s.Patches, s.Relocate, s.Upgrade, s.Booted
		if s.Version != "" { // of an agent that did not know it
			n.version = s.Version
		}
		n.restartTime, n.restarted = seconds(s.RoleRestartSeconds), map[string]time.Time{}
		for r, ago := range s.Restarted {
			n.restarted[r] = time.Now().Add(-seconds(ago))
		}
		c.legacy = c.legacy || s.LegacyStatus
	})
}

// PatchNode changes the state of a node as p says, or not at all: an unknown role, or more apps than fit, are errors.
func (c *Cluster) PatchNode(id string, p StatePatch) error {
	err := fmt.Errorf("node %s is not part of the cluster", id)
	marker, was := false, false
	c.with(id, func(n *node) {
		err = nil
		for _, r := range slices.Concat(p.Stop, p.NeverStart, p.Start, p.Resume, p.Restart, p.Stuck, p.Unstick) {
			if !slices.Contains(n.roles, r) {
				err = fmt.Errorf("role %q is not enabled on node %s: it has %s", r, id, strings.Join(n.roles, ", "))
				return
			}
		}
		apps, capacity := n.apps, n.capacity
		if p.Apps != nil {
			apps = *p.Apps
		}
		if p.Capacity != nil {
			capacity = *p.Capacity
		}
		if apps += p.AppsDelta; apps < 0 || apps > capacity {
			err = fmt.Errorf("node %s cannot have %d app instances: its capacity is %d", id, apps, capacity)
			return
		}
		export, wrong := n.export.apply(p.Export)
		if wrong != nil {
			err = wrong
			return
		}
		imports, wrong := n.imports.apply(p.Import)
		if wrong != nil {
			err = wrong
			return
		}
		patches, wrong := n.patches.apply(p.Patches)
		if wrong != nil {
			err = wrong
			return
		}
		relocate, wrong := n.relocate.apply(p.Relocate)
		if wrong != nil {
			err = wrong
			return
		}
		upgrade, wrong := n.upgrade.apply(p.Upgrade)
		if wrong != nil {
			err = wrong
			return
		}
		was, marker = n.upgrade.FailedMarker, upgrade.FailedMarker
		if p.Upgrade != nil {
			put(&n.version, p.Upgrade.Version)
		}
		n.apps, n.capacity, n.export, n.imports, n.patches, n.relocate, n.upgrade = apps, capacity, export, imports, patches, relocate, upgrade
		for to, from := range map[*bool]*bool{&n.retired: p.Retired, &n.exitZero: p.ExitZero, &n.prompts: p.Prompts, &c.legacy: p.LegacyStatus} {
			if from != nil {
				*to = *from
			}
		}
		for _, r := range p.Stop {
			n.stopped[r] = true
		}
		for _, r := range p.NeverStart {
			n.never[r] = true
		}
		for _, r := range p.Resume {
			delete(n.stopped, r)
		}
		for _, r := range p.Restart {
			delete(n.stopped, r)
			n.restarted[r] = time.Now()
		}
		for _, r := range p.Unstick {
			if !n.never[r] {
				delete(n.stuck, r)
			}
		}
		for _, r := range p.Stuck {
			n.stuck[r] = true
		}
		for _, r := range p.Start {
			delete(n.stopped, r)
			delete(n.never, r)
			delete(n.stuck, r)
		}
	})
	if c.marked != nil && marker != was {
		c.marked(id, marker)
	}
	return err
}

// difference is the patch that makes before into after, as far as kato's commands change a node.
func difference(before, after NodeState) (p StatePatch) {
	p.AppsDelta = after.Apps - before.Apps
	if after.Retired != before.Retired {
		p.Retired = &after.Retired
	}
	was, is := set(before.Stopped), set(after.Stopped)
	for _, r := range after.Stopped {
		if !was[r] {
			p.Stop = append(p.Stop, r)
		}
	}
	for _, r := range before.Stopped {
		if !is[r] {
			p.Resume = append(p.Resume, r)
		}
	}
	return p
}

// Config returns a copy of the cluster's shared configuration: component -> nested maps.
func (c *Cluster) Config() map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return clone(c.config).(map[string]any)
}

// SetConfig replaces the shared configuration. cloud_controller_ng and cluster are kept as maps, which others rely on.
func (c *Cluster) SetConfig(config map[string]any) {
	config = clone(config).(map[string]any)
	for _, component := range []string{"cloud_controller_ng", "cluster"} {
		if _, ok := config[component].(map[string]any); !ok {
			config[component] = map[string]any{}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config = config
}

func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, e := range v {
			out[key] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	}
	return v
}

// ConfigChange sets, or deletes, one value of the configuration. Two changes of different paths never undo each other, in whatever order
// they come.
type ConfigChange struct {
	Path   []string `json:"path"`
	Value  any      `json:"value"`
	Delete bool     `json:"delete,omitempty"`
}

// ChangeConfig does the changes in their order, or none: a path shorter than component and key is an error.
func (c *Cluster) ChangeConfig(changes []ConfigChange) error {
	for _, ch := range changes {
		if len(ch.Path) < 2 {
			return fmt.Errorf("config path %q is not a component and a key", strings.Join(ch.Path, "/"))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range changes {
		m := c.config
		last := len(ch.Path) - 1
		for _, w := range ch.Path[:last] {
			next, isMap := m[w].(map[string]any)
			if !isMap {
				if ch.Delete {
					m = nil
					break
				}
				next = map[string]any{}
				m[w] = next
			}
			m = next
		}
		switch {
		case !ch.Delete:
			m[ch.Path[last]] = clone(ch.Value)
		case m != nil:
			delete(m, ch.Path[last])
		}
	}
	return nil
}

// configChanges makes before into after by single values, so that what somebody else has set beside them stays.
func configChanges(before, after map[string]any, path ...string) (out []ConfigChange) {
	for _, key := range slices.Sorted(maps.Keys(after)) {
		old, had := before[key]
		if had && reflect.DeepEqual(old, after[key]) {
			continue
		}
		p := append(slices.Clone(path), key)
		if m, isMap := after[key].(map[string]any); isMap && (len(m) > 0 || len(p) < 2) {
			oldMap, _ := old.(map[string]any)
			out = append(out, configChanges(oldMap, m, p...)...)
			continue
		}
		out = append(out, ConfigChange{Path: p, Value: after[key]})
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, still := after[key]; !still {
			out = append(out, ConfigChange{Path: append(slices.Clone(path), key), Delete: true})
		}
	}
	return out
}

// SetHistory replaces what `kato history` shows.
func (c *Cluster) SetHistory(history []Command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = slices.Clone(history)
}

// decode reads one JSON value strictly: unknown fields and anything after it are errors.
func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}

// numbers makes the types that kato's config set guesses out of those that JSON was read into: whole numbers stay whole.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			v[key] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil && !math.IsInf(f, 0) {
			return f
		}
		return v.String()
	}
	return v
}

func decodeConfig(b []byte) (map[string]any, error) {
	var m map[string]any
	if err := decode(b, &m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("the configuration is not an object")
	}
	return numbers(m).(map[string]any), nil
}
