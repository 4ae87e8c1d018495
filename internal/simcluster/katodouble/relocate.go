package katodouble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// RelocateFault is what goes wrong with `kato relocate`.
type RelocateFault string

// The faults. What kato prints and leaves behind when it fails is not known (kato.md §3.7): these are the cases a caller has to tell from success.
const (
	// RelocateFails prints an error and exits with 1 before anything is done.
	RelocateFails RelocateFault = "fails"
	// RelocateHalf prints an error and exits with 1 when a part of the content is in the new place; the old place is as it was.
	RelocateHalf RelocateFault = "half"
	// RelocateSilent says that it is done and exits 0; nothing is changed.
	RelocateSilent RelocateFault = "silent"
	// RelocateLosesFile does its work and exits 0; one file is missing in the copy.
	RelocateLosesFile RelocateFault = "loses-file"
	// RelocateLosesOwner does its work and exits 0; one file of another user's is root's in the copy.
	RelocateLosesOwner RelocateFault = "loses-owner"
	// RelocateLosesOptions does its work and exits 0; of containers it leaves /etc/default/docker empty (kato.md §3.7). It does not concern the other kinds.
	RelocateLosesOptions RelocateFault = "loses-options"
	// RelocateHangs copies a part and never ends; the old place is as it was.
	RelocateHangs RelocateFault = "hangs"
)

// RelocateFaults lists them.
func RelocateFaults() []RelocateFault {
	return []RelocateFault{RelocateFails, RelocateHalf, RelocateSilent, RelocateLosesFile, RelocateLosesOwner, RelocateLosesOptions, RelocateHangs}
}

// Relocate says what `kato relocate` on a node does. It survives a reboot.
type Relocate struct {
	// Seconds that a copy takes; 0 = as long as copying takes.
	Seconds float64 `json:"seconds,omitempty"`
	// RemoveOriginal: the original folder is removed in the end, and not moved aside to its name with .old.
	RemoveOriginal bool `json:"remove_original,omitempty"`
	// Fault of the next Times relocations that have something to do, of all when Times is negative.
	Fault RelocateFault `json:"fault,omitempty"`
	Times int           `json:"times,omitempty"`
}

// RelocatePatch is the part of a StatePatch about relocations: what it names is changed. Heal makes all else as it was at the start first.
type RelocatePatch struct {
	Heal           bool           `json:"heal,omitempty"`
	Seconds        *float64       `json:"seconds,omitempty"`
	RemoveOriginal *bool          `json:"remove_original,omitempty"`
	Fault          *RelocateFault `json:"fault,omitempty"`
	Times          *int           `json:"times,omitempty"`
}

// ParseRelocatePatch reads the JSON of a RelocatePatch.
func ParseRelocatePatch(text string) (p RelocatePatch, err error) {
	if err := decode([]byte(text), &p); err != nil {
		return p, fmt.Errorf("not the JSON of a relocation's settings: %w", err)
	}
	return p, nil
}

// apply returns r changed by p, or an error for a value that makes no sense.
func (r Relocate) apply(p *RelocatePatch) (Relocate, error) {
	if p == nil {
		return r, nil
	}
	if p.Heal {
		r = Relocate{}
	}
	put(&r.Seconds, p.Seconds)
	put(&r.RemoveOriginal, p.RemoveOriginal)
	put(&r.Fault, p.Fault)
	put(&r.Times, p.Times)
	switch {
	case r.Seconds < 0:
		return r, errors.New("a relocation has no negative duration")
	case r.Fault != "" && !slices.Contains(RelocateFaults(), r.Fault):
		return r, fmt.Errorf("%q is no fault of a relocation: choose from %v", r.Fault, RelocateFaults())
	}
	return r, nil
}

// take returns what one relocation does; its fault is used up.
func (r *Relocate) take() Relocate {
	now := *r
	switch {
	case r.Times == 0:
		now.Fault = ""
	case r.Times > 0:
		if r.Times--; r.Times == 0 {
			r.Fault = ""
		}
	}
	return now
}

// takeRelocation begins a relocation on a node.
func (c *Cluster) takeRelocation(_ context.Context, id string) (now Relocate, err error) {
	err = away{id}
	c.with(id, func(n *node) {
		if n.up {
			now, err = n.relocate.take(), nil
		}
	})
	return now, err
}

// Relocated is what lies in a folder: a name below it, and what it is.
type Relocated struct {
	// Name relative to the folder, "." for itself.
	Name   string
	Folder bool
	// Regular: it is a file with content.
	Regular bool
	// File is the same for all names of one file (hard links), and differs between files.
	File string
	// Root: it is root's.
	Root bool
}

// Folders are what `kato relocate` does on its node with the rights of root, which it has by sudo. Names are absolute.
type Folders interface {
	// Resolve is the name of an existing folder without any link in it; the error is that there is none.
	Resolve(ctx context.Context, name string) (string, error)
	// Exists says whether there is anything of that name, a link that leads nowhere as well.
	Exists(ctx context.Context, name string) (bool, error)
	// IsLink says whether the name is a symbolic link.
	IsLink(ctx context.Context, name string) (bool, error)
	// List is the folder itself and all below it, sockets left out, folders before what is in them.
	List(ctx context.Context, folder string) ([]Relocated, error)
	// Copy copies these entries of a folder, of folders without their content, into another one, with modes, owners, times, symbolic links, and the hard links between
	// them. What was copied before an error stays. A disk that is full is syscall.ENOSPC.
	Copy(ctx context.Context, from, to string, entries []Relocated) error
	// GiveToRoot makes root the owner of a file.
	GiveToRoot(ctx context.Context, name string) error
	// Empty takes the content of a file away, if there is one.
	Empty(ctx context.Context, name string) error
	// Switch makes name a symbolic link to target, in the place of the folder that is there. This one is moved to aside; with aside "" it is removed. A symbolic link is
	// replaced, and what it led to stays.
	Switch(ctx context.Context, name, target, aside string) error
}

// dockerDefaults has docker's DOCKER_OPTS.
const dockerDefaults = "/etc/default/docker"

// RelocateSource is where the data of a kind lie at first (kato.md §3.7), "" for what is no kind. Where containers lie is docker's default.
func RelocateSource(kind string) string {
	switch kind {
	case "services":
		return "/var/stackato/services"
	case "droplets":
		return "/home/stackato/stackato/data"
	case "containers":
		return "/var/lib/docker"
	}
	return ""
}

// relocate is `kato relocate` (kato.md §3.7): on the local node, one kind a call.
func (k *call) relocate(args []string) int {
	_, rest, ok := k.parse(args, "v")
	if !ok || len(rest) != 2 || RelocateSource(rest[0]) == "" {
		return k.usage()
	}
	kind, to := rest[0], rest[1]
	source := RelocateSource(kind)
	if k.Sudo != nil && k.Sudo(k.ctx) != nil {
		return k.prompt()
	}
	if k.Folders == nil || k.Files == nil {
		return k.fail("Could not relocate %s: Read-only file system", kind)
	}
	if !path.IsAbs(to) {
		return k.fail("%s does not exist", to)
	}
	to = path.Clean(to)
	target, err := k.Folders.Resolve(k.ctx, to)
	if err != nil {
		return k.notRelocated(kind, to+" does not exist")
	}
	if k.started() {
		return k.fail("Could not relocate %s: %s: Device or resource busy", kind, source)
	}
	from, err := k.Folders.Resolve(k.ctx, source)
	if err != nil {
		return k.notRelocated(kind, source+" does not exist")
	}
	if from == target {
		return k.fail("%s is already there", kind)
	}
	if strings.HasPrefix(target+"/", from+"/") || strings.HasPrefix(from+"/", target+"/") {
		return k.fail("Could not relocate %s: %s and %s lie in one another", kind, from, to)
	}
	take := k.c.takeRelocation
	if k.c.relocateTake != nil {
		take = k.c.relocateTake
	}
	m := &mover{kind: kind, source: source, from: from, to: to, target: target, call: k}
	if exit := m.prepare(); exit != 0 {
		return exit
	}
	if m.now, err = take(k.ctx, k.local.id); err != nil {
		return k.notRelocated(kind, err.Error())
	}
	return m.run()
}

// notRelocated says why, unless kato was told to end.
func (k *call) notRelocated(kind, why string) int {
	if k.ctx.Err() != nil {
		return killedByTerm
	}
	if strings.HasSuffix(why, " does not exist") {
		return k.fail("%s", why)
	}
	return k.fail("Could not relocate %s: %s", kind, why)
}

// started says whether a role of the local node is.
func (k *call) started() bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return slices.ContainsFunc(k.local.roles, func(r string) bool { return k.local.roleState(r) != Stopped })
}

// mover relocates one kind.
type mover struct {
	*call
	now          Relocate
	kind         string
	source, from string // the name of the place, and the folder that it leads to
	to, target   string // likewise of the new place
	aside        string // where the original folder goes
}

// prepare looks at what can be known before anything is copied.
func (m *mover) prepare() (exit int) {
	mounts, err := m.mounts()
	if err != nil {
		return m.notRelocated(m.kind, err.Error())
	}
	if options := mountOptions(mounts, m.target); !slices.ContainsFunc(options, func(o string) bool {
		name, _, _ := strings.Cut(o, "=")
		return name == "usrquota" || name == "usrjquota"
	}) {
		io.WriteString(m.Stderr, "WARNING: "+m.to+" is on a file system that is not mounted with quotas: file system quotas cannot be enforced\n")
	}
	m.aside = m.source + ".old"
	return 0
}

// mounts is /proc/mounts.
func (m *mover) mounts() (string, error) {
	r, _, err := m.Files.Open("/proc/mounts")
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), errors.Join(err, r.Close())
}

// mountOptions are those of the mount that a path lies on; the last one of a mount point covers those before.
func mountOptions(mounts, name string) (options []string) {
	longest := -1
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[1])
		if (at == "/" || name == at || strings.HasPrefix(name, at+"/")) && len(at) >= longest {
			longest, options = len(at), strings.Split(f[3], ",")
		}
	}
	return options
}

func (m *mover) run() int {
	if m.now.Fault == RelocateFails {
		return m.fail("Could not relocate %s: Input/output error", m.kind)
	}
	if m.now.Fault == RelocateSilent {
		return m.finished()
	}
	link, err := m.Folders.IsLink(m.ctx, m.source)
	if err != nil {
		return m.notRelocated(m.kind, err.Error())
	}
	if m.now.RemoveOriginal {
		m.aside = ""
	} else if there, err := m.Folders.Exists(m.ctx, m.aside); err != nil || there && !link {
		if err == nil {
			err = fmt.Errorf("%s: File exists", m.aside)
		}
		return m.notRelocated(m.kind, err.Error())
	}
	m.printf("Copying %s to %s...\n", m.source, m.to)
	done, err := m.copy()
	switch {
	case m.ctx.Err() != nil:
		return killedByTerm // what was copied stays
	case errors.Is(err, syscall.ENOSPC):
		return m.fail("Could not copy %s to %s: No space left on device", m.source, m.to)
	case err != nil:
		return m.fail("Could not copy %s to %s: %v", m.source, m.to, err)
	case !done:
		return m.fail("Could not copy %s to %s: Input/output error", m.source, m.to)
	}
	if m.now.Fault == RelocateLosesOptions && m.kind == "containers" {
		if err := m.Folders.Empty(m.ctx, dockerDefaults); err != nil {
			return m.notRelocated(m.kind, err.Error())
		}
	}
	if err := m.Folders.Switch(m.ctx, m.source, m.to, m.aside); err != nil {
		return m.notRelocated(m.kind, err.Error())
	}
	return m.finished()
}

func (m *mover) finished() int {
	m.printf("Relocated %s to %s\n", m.kind, m.to)
	return 0
}

// relocateSteps is in how many steps files are copied: kato can be killed between them.
const relocateSteps = 4

// copy copies the content. done is false when a fault has ended it half way.
func (m *mover) copy() (done bool, err error) {
	began := time.Now()
	all, err := m.Folders.List(m.ctx, m.from)
	if err != nil {
		return false, err
	}
	slices.SortFunc(all, func(a, b Relocated) int { return strings.Compare(a.Name, b.Name) })
	var folders []Relocated
	var files [][]Relocated // the names of one file are copied together, or they would be several files
	place := map[string]int{}
	for _, e := range all {
		if e.Folder {
			folders = append(folders, e)
			continue
		}
		at, known := place[e.File]
		if !known {
			at = len(files)
			place[e.File] = at
			files = append(files, nil)
		}
		files[at] = append(files[at], e)
	}
	lost := ""
	switch m.now.Fault {
	case RelocateLosesFile:
		for i, names := range slices.Backward(files) {
			if len(names) == 1 && names[0].Regular {
				files = slices.Delete(files, i, i+1)
				break
			}
		}
	case RelocateLosesOwner:
		for _, names := range files {
			if names[0].Regular && !names[0].Root {
				lost = names[0].Name
				break
			}
		}
	}
	if err := m.Folders.Copy(m.ctx, m.from, m.target, folders); err != nil {
		return false, err
	}
	for step := range relocateSteps {
		if step == relocateSteps/2 {
			switch m.now.Fault {
			case RelocateHalf:
				return false, nil
			case RelocateHangs:
				<-m.ctx.Done()
				return false, m.ctx.Err()
			}
		}
		chunk := slices.Concat(files[len(files)*step/relocateSteps : len(files)*(step+1)/relocateSteps]...)
		if len(chunk) > 0 {
			if err := m.Folders.Copy(m.ctx, m.from, m.target, chunk); err != nil {
				return false, err
			}
		}
		if err := m.wait(time.Until(began.Add(seconds(m.now.Seconds) * time.Duration(step+1) / relocateSteps))); err != nil {
			return false, err
		}
	}
	if err := m.Folders.Copy(m.ctx, m.from, m.target, folders); err != nil { // their times, which files have changed
		return false, err
	}
	if lost != "" {
		return true, m.Folders.GiveToRoot(m.ctx, path.Join(m.target, lost))
	}
	return true, nil
}
