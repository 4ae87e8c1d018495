package activities

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Storage does what concerns the file systems of nodes ("Persistent Storage" of the source page; kato.md §3.7). Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times, as those of Nodes.
type Storage struct {
	Nodes *Nodes
}

const (
	// quotaWithin bounds a job that switches quotas: quotacheck reads all inodes of a file system.
	quotaWithin = 6 * time.Hour
	// measureWithin bounds a look at data, which are counted.
	measureWithin = 2 * time.Hour
	// relocateCeiling bounds one job of a relocation.
	relocateCeiling = 24 * time.Hour
	// roomToSpare is how many percent more than the data a file system must have free for them, and inodesToSpare how many inodes.
	roomToSpare   = 10
	inodesToSpare = 1000
)

var (
	quotaLookScript    = script("storage", "quota", "quota_look")
	quotaSwitchScript  = script("storage", "quota", "quota_switch")
	relocateLookScript = script("storage", "relocate", "relocate_look")
	keepScript         = script("storage", "relocate", "relocate_keep")
	compareScript      = script("storage", "relocate", "relocate_compare")
	switchBackScript   = script("storage", "relocate", "relocate_back")
	tidySourceScript   = script("storage", "relocate", "relocate_tidy")
	runRelocateScript  = plainScript("relocate_run")
)

// noRootShell says that sudo does not let katoflow do what the storage commands do.
func noRootShell(t target, what string) string {
	return fmt.Sprintf("sudo does not let %s run a shell without a password, which %s needs: install deploy/sudoers/katoflow-shell there", t.host.User, what)
}

// mayBeRoot asks whether sudo runs a shell on a node. The error is of package remote.
func (x *Storage) mayBeRoot(ctx context.Context, t target) (bool, error) {
	if t.host.User == "root" {
		return true, nil
	}
	result, err := x.Nodes.Connections.Run(ctx, t.host, remote.Command{Argv: []string{"sudo", "-n", "sh", "-c", "true"}, AnyExit: true})
	return err == nil && result.ExitCode == 0, err
}

// --- quotas ------------------------------------------------------------------------------------------------------------------------------

// QuotaReadyInput names the nodes that are asked.
type QuotaReadyInput struct {
	Cluster string                `json:"cluster"`
	Nodes   []string              `json:"nodes"`
	Action  operation.QuotaAction `json:"action"`
	Path    string                `json:"path"`
}

// StorageReadyResult is what was found, one line each, with the node before it.
type StorageReadyResult struct {
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Done are nodes on which there is nothing to do.
	Done []string `json:"done,omitempty"`
}

// quotaState is how a node has the quotas of a file system.
type quotaState struct {
	mount, kind   string
	options       bool
	plain         bool // mounted with usrquota or grpquota, which katoflow does not do
	on            int  // of users' and groups' quotas
	kept          string
	lacks         []string
	script, fstab string
	lines         int // of /etc/fstab for it
}

func (x *Storage) quotaState(ctx context.Context, t target, path string) (quotaState, error) {
	said, err := askRoot(ctx, askWithin, x.Nodes.Connections, t.host, quotaLookScript, path)
	if err != nil {
		return quotaState{}, err
	}
	on, _ := strconv.Atoi(said.value("on"))
	lines, _ := strconv.Atoi(said.value("lines"))
	return quotaState{lines: lines, plain: said.value("plain") != "", mount: said.value("mount"), kind: said.value("type"), options: said.value("options") != "", on: on, kept: said.value("kept"), lacks: said.values["lacks"],
		script: said.value("script"), fstab: said.value("fstab")}, nil
}

// is says whether there is nothing left to do.
func (q quotaState) is(action operation.QuotaAction) bool {
	if action == operation.QuotaDisable {
		return !q.options && q.on == 0 && q.kept == ""
	}
	return q.options && q.on == 2 && q.kept != ""
}

// problem is why quotas cannot be switched there, "" for nothing.
func (q quotaState) problem(action operation.QuotaAction, path string) string {
	switch {
	case q.kind == "" && q.mount != "":
		return fmt.Sprintf("nothing is mounted at %s: it lies on the file system of %s", path, remote.Escape(q.mount))
	case q.kind == "":
		return fmt.Sprintf("nothing is mounted at %s", path)
	case q.kind != "ext2" && q.kind != "ext3" && q.kind != "ext4":
		return fmt.Sprintf("%s is a file system of type %s: the quotas of the procedure are for ext2, ext3 and ext4", path, remote.Escape(q.kind))
	case len(q.lacks) > 0 && (action == operation.QuotaEnable || q.on > 0):
		return fmt.Sprintf("%s is missing there: apt-get install quota", strings.Join(q.lacks, ", "))
	case action == operation.QuotaDisable && q.plain:
		return fmt.Sprintf("%s is mounted with usrquota or grpquota, which katoflow does not do: whoever has done it is to take it back", path)
	case q.lines > 1:
		return fmt.Sprintf("%s stands %d times in /etc/fstab: leave one of them", path, q.lines)
	case action == operation.QuotaEnable && q.script == "" && q.fstab == "":
		return fmt.Sprintf("%s is not in /etc/fstab, and there is no setup_helion_lxc or setup_stackato_lxc: quotas could not be kept over a reboot", path)
	}
	return ""
}

// QuotaReady asks nodes, side by side, whether the quotas of a file system can be switched there. It changes nothing. A node that does not answer is none of its problems: the preflight tells of it.
func (x *Storage) QuotaReady(ctx context.Context, in QuotaReadyInput) (StorageReadyResult, error) {
	a := begin(ctx, "quotas")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Cluster)
	if err != nil {
		return StorageReadyResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return StorageReadyResult{}, err
	}
	found := make([]StorageReadyResult, len(targets))
	each(len(targets), func(i int) {
		t, name := targets[i], in.Nodes[i]
		root, err := x.mayBeRoot(a.ctx, t)
		if err != nil {
			return
		}
		if !root {
			found[i].Problems = []string{name + ": " + noRootShell(t, "switching quotas")}
			return
		}
		state, err := x.quotaState(a.ctx, t, in.Path)
		switch {
		case err != nil:
			found[i].Problems = []string{name + ": how its quotas are cannot be read: " + withoutNode(failureOf(nodeError(err)).Message, name)}
		case state.problem(in.Action, in.Path) != "":
			found[i].Problems = []string{name + ": " + state.problem(in.Action, in.Path)}
		case state.is(in.Action):
			found[i].Done = []string{name}
		case in.Action == operation.QuotaDisable && strings.HasSuffix(state.kept, " by hand"):
			found[i].Warnings = []string{fmt.Sprintf("%s: lines that are not katoflow's switch them on again at each boot: take them out of %s", name, remote.Escape(strings.TrimSuffix(state.kept, " by hand")))}
		}
	})
	if a.ctx.Err() != nil {
		return StorageReadyResult{}, ended(a.ctx)
	}
	var out StorageReadyResult
	for _, f := range found {
		out.Problems, out.Warnings, out.Done = append(out.Problems, f.Problems...), append(out.Warnings, f.Warnings...), append(out.Done, f.Done...)
	}
	return out, nil
}

// QuotaNodeInput is the input of the step on one node.
type QuotaNodeInput struct {
	NodeInput
	Action operation.QuotaAction `json:"action"`
	Path   string                `json:"path"`
}

func quotaJob(op Operation, t target, try int, action operation.QuotaAction, path string) remote.JobSpec {
	word := "on"
	if action == operation.QuotaDisable {
		word = "off"
	}
	return asRoot(op, t, operation.StepQuota, try, "sh", "-c", quotaSwitchScript, "sh", word, path)
}

// SwitchQuotas switches the quotas of a file system on or off (job `quota`, as root): it is mounted again with or without the options, quotacheck and quotaon, or quotaoff, and what keeps them over a reboot is written
// or taken away. It does only what is not done yet; where quotaon fails, the options are taken away again. How it is afterwards is read from the node.
//
// Errors: RemoteExit with what failed, such as a kernel without quotas; Verify when the job says that it is done and it is not; Unreachable, Lost, and what package remote tells of a node.
func (x *Storage) SwitchQuotas(ctx context.Context, in QuotaNodeInput) (JobResult, error) {
	a := begin(ctx, "quotas")
	defer a.finish()
	_, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	spec := quotaJob(in.Operation, t, in.JobTry, in.Action, in.Path)
	said, out, err := x.Nodes.told(a, t, in.NodeInput, x.Nodes.job(in.NodeInput, t, spec, quotaWithin))
	if err != nil || !out.Started || out.Interrupted || in.Settle {
		return out, err
	}
	var state quotaState
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		state, err = x.quotaState(ctx, t, in.Path)
		return err
	})
	byHand := strings.HasSuffix(state.kept, " by hand")
	switch {
	case err != nil:
		return out, err
	case in.Action == operation.QuotaDisable && byHand:
		state.kept = ""
		out.Notes = append(out.Notes, "lines that are not katoflow's switch them on again at the next boot: take them out of "+remote.Escape(strings.TrimSuffix(said.value("kept")+state.script, " by hand")))
	}
	if !state.is(in.Action) {
		return out, failJob(operation.ErrVerify, t.host.Name, spec.ID.Dir(), "", "the quotas of %s were switched, and are not so: %d of 2 are on, options in /proc/mounts: %v, kept over a reboot: %s", in.Path, state.on, state.options,
			orNothingKept(state.kept))
	}
	changed := said.values["changed"]
	switch {
	case in.Action == operation.QuotaDisable && len(changed)+len(said.values["forgotten"]) == 0:
		out.Notes = append(out.Notes, "quotas were off already")
	case in.Action == operation.QuotaDisable:
		out.Notes = append(out.Notes, "quotas of "+in.Path+" are off")
	case len(changed) == 0:
		out.Notes = append(out.Notes, "quotas were on already, kept by "+remote.Escape(state.kept))
	default:
		out.Notes = append(out.Notes, "quotas of "+in.Path+" are on, kept over a reboot by "+remote.Escape(state.kept))
	}
	out.Notes = notes(out.Notes...)
	return out, nil
}

func orNothingKept(kept string) string {
	if kept == "" {
		return "no"
	}
	return "by " + remote.Escape(kept)
}

// PlanQuotaInput asks for the commands of a dry run.
type PlanQuotaInput struct {
	Operation Operation               `json:"operation"`
	Nodes     []operation.PlannedNode `json:"nodes"`
	Action    operation.QuotaAction   `json:"action"`
	Path      string                  `json:"path"`
}

// quotaOptions are those of the source page.
const quotaOptions = "usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0"

// PlanQuota tells what a dry run shows. It reaches no node.
func (x *Storage) PlanQuota(ctx context.Context, in PlanQuotaInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	var out PlanCommandsResult
	for _, n := range in.Nodes {
		var commands []operation.PlannedCommand
		command := func(note string, argv ...string) {
			commands = append(commands, operation.PlannedCommand{Step: operation.StepQuota, Command: remote.Quote(argv), Note: note})
		}
		if in.Action == operation.QuotaEnable {
			command("if it is not", "mount", "-o", "remount,"+quotaOptions, in.Path)
			command("if quotas are off", "quotacheck", "-vgumb", in.Path)
			command("if quotas are off; if it fails, all is taken back", "quotaon", "-v", in.Path)
			commands = append(commands, operation.PlannedCommand{Step: operation.StepQuota, Command: "a block in /etc/init.d/setup_helion_lxc or setup_stackato_lxc, where there is one; otherwise the options into /etc/fstab", Note: "so that they are on after a reboot"})
		} else {
			commands = append(commands, operation.PlannedCommand{Step: operation.StepQuota, Command: "katoflow's block out of /etc/init.d/setup_helion_lxc or setup_stackato_lxc, the options out of /etc/fstab"})
			command("if quotas are on", "quotaoff", "-v", in.Path)
			command("", "mount", "-o", "remount,usrjquota=,grpjquota=", in.Path)
			command("", "rm", "-f", in.Path+"/aquota.user", in.Path+"/aquota.group")
		}
		out.add(n.Name, commands)
	}
	return out, nil
}

// --- relocation --------------------------------------------------------------------------------------------------------------------------

// RelocateReadyInput asks whether data can be moved.
type RelocateReadyInput struct {
	Operation Operation               `json:"operation"`
	Node      operation.PlannedNode   `json:"node"`
	Moves     []operation.StorageMove `json:"moves"`
	Force     bool                    `json:"force,omitempty"`
}

// RelocateReadyResult is what was found, one line each, with the node before it, and the moves with what they are about.
type RelocateReadyResult struct {
	Problems []string                `json:"problems,omitempty"`
	Warnings []string                `json:"warnings,omitempty"`
	Moves    []operation.StorageMove `json:"moves"`
}

// dataPath is where kato knows the data of a kind.
func dataPath(c *inventory.Cluster, kind operation.StorageKind) string {
	switch kind {
	case operation.Services:
		return c.Kato.Services
	case operation.Droplets:
		return c.Kato.Droplets
	}
	return c.Kato.Containers
}

// keptMark is in the name of what an operation keeps, before its id.
const keptMark = ".katoflow-"

// keptAt is where the source of an operation is kept: beside itself, so that it needs no space.
func keptAt(op Operation, real string) string { return real + keptMark + remote.EncodeID(op.ID) }

// RelocateReady looks at the data and at the folders that they are to go to. It changes nothing. That a node does not answer is told by the preflight.
func (x *Storage) RelocateReady(ctx context.Context, in RelocateReadyInput) (RelocateReadyResult, error) {
	a := begin(ctx, "data and where they go")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return RelocateReadyResult{}, err
	}
	out := RelocateReadyResult{Moves: slices.Clone(in.Moves)}
	root, err := x.mayBeRoot(a.ctx, t)
	if a.ctx.Err() != nil {
		return out, ended(a.ctx)
	}
	if err != nil {
		return out, nil
	}
	if !root {
		out.Problems = []string{t.node.Name + ": " + noRootShell(t, "a relocation")}
		return out, nil
	}
	var args []string
	for i := range out.Moves {
		m := &out.Moves[i]
		m.From = dataPath(s.cluster, m.Kind)
		args = append(args, string(m.Kind), m.From, m.To)
	}
	said, err := askRoot(a.ctx, measureWithin, x.Nodes.Connections, t.host, relocateLookScript, args...)
	if a.ctx.Err() != nil {
		return out, ended(a.ctx)
	}
	if err != nil {
		out.Problems = []string{t.node.Name + ": its data cannot be looked at: " + withoutNode(failureOf(nodeError(err)).Message, t.node.Name)}
		return out, nil
	}
	j := relocateJudge{node: t.node, force: in.Force, needs: map[string]int64{}, inodes: map[string]int64{}}
	for i := range out.Moves {
		m := &out.Moves[i]
		facts := map[string]string{}
		for line := range strings.Lines(said.sections[string(m.Kind)]) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			value = strings.TrimSpace(value)
			if real, _, own := strings.Cut(value, keptAt(in.Operation, "")); own && key == "kept" { // by this operation itself, before a Reset
				facts["own"] = real
				continue
			}
			facts[key] = value
		}
		j.judge(m, facts)
		m.Kept = keptAt(in.Operation, m.Real)
	}
	j.space()
	out.Problems, out.Warnings = j.problems, j.warnings
	return out, nil
}

// relocateJudge says what speaks against moves.
type relocateJudge struct {
	node               *inventory.Node
	force              bool
	problems, warnings []string
	// needs are the KiB that go to the file system of each place, inodes how many files; free and freeInodes what it has. places are in the order in which they came.
	needs, inodes map[string]int64
	places        []fileSystem
	freeInodes    []int64
}

func (j *relocateJudge) problem(format string, args ...any) {
	j.problems = append(j.problems, oneLine(j.node.Name+": "+fmt.Sprintf(format, args...), 400))
}

func (j *relocateJudge) warn(format string, args ...any) {
	j.warnings = append(j.warnings, oneLine(j.node.Name+": "+fmt.Sprintf(format, args...), 400))
}

// unless is a problem that --force overrules.
func (j *relocateJudge) unless(format string, args ...any) {
	if j.force {
		j.warn(format, args...)
	} else {
		j.problem("%s (--force overrules this)", fmt.Sprintf(format, args...))
	}
}

var networkTypes = []string{"nfs", "nfs4", "cifs", "smb3", "smbfs", "glusterfs", "ceph", "fuse.glusterfs", "fuse.ceph", "9p", "afs"}

func (j *relocateJudge) judge(m *operation.StorageMove, is map[string]string) {
	kind, from := m.Kind, remote.Escape(m.From)
	m.Real = is["real"]
	if own := is["own"]; own != "" {
		m.Real, m.Mount, m.Device = own, is["mount"], is["device"]
		return
	}
	used, _ := strconv.ParseInt(is["used"], 10, 64)
	m.Bytes = used << 10
	switch real := remote.Escape(m.Real); {
	case is["folder"] == "":
		j.problem("%s: there is no folder %s, which kato moves", kind, from)
		return
	case is["kept"] != "":
		kept := is["kept"]
		id, _, _ := strings.Cut(kept[strings.LastIndex(kept, keptMark)+len(keptMark):], ".")
		if decoded, err := remote.DecodeID(id); err == nil {
			id = decoded
		}
		j.problem("%s: what operation %s has kept is still there: see what became of it (katoflow op show %s), then remove %s", kind, remote.Escape(id), remote.Escape(id), remote.Escape(kept))
		return
	case is["target"] != "" && is["target"] == m.Real:
		m.Outcome = operation.WasThere
		j.warn("%s are in %s already", kind, m.To)
		return
	case is["mount-itself"] != "":
		j.problem("%s: %s is a file system of its own, which kato cannot move aside: unmount it, or change what is mounted there", kind, real)
		return
	case operation.CheckFolder(m.Real) != nil:
		j.problem("%s: %s leads to %s, which has letters that this cannot handle", kind, from, real)
		return
	case m.To == m.Real || strings.HasPrefix(m.To, m.Real+"/") || strings.HasPrefix(m.Real, m.To+"/"):
		j.problem("%s: %s and %s lie in one another", kind, real, m.To)
		return
	}
	if is["target"] != "" {
		switch {
		case is["target-folder"] == "":
			j.problem("%s: %s is not a folder", kind, m.To)
		case is["target"] != m.To:
			j.problem("%s: %s leads to %s: name that", kind, m.To, remote.Escape(is["target"]))
		case is["target-entry"] != "":
			j.problem("%s: %s is not empty: there is %s", kind, m.To, remote.Escape(is["target-entry"]))
		}
	}
	if below := is["below"]; below != "" && kind != operation.Containers { // docker's own are gone when it is stopped
		j.problem("%s: %s is mounted within %s: unmount it", kind, remote.Escape(below), remote.Escape(m.Real))
	}
	mount, device := is["mount"], is["device"]
	m.Mount, m.Device = mount, device
	j.source(m, is)
	place := parseSpace(is["space"])
	switch {
	case mount != "" && mount == is["source-mount"]:
		j.problem("%s: %s lies on the file system where they are, that of %s: mount the volume there", kind, m.To, remote.Escape(mount))
	case mount == "/" || mount == "":
		j.unless("%s: nothing is mounted above %s, so that they would stay on the root file system: mount the volume there", kind, m.To)
	case is["fstab"] == "":
		j.warn("%s: %s is not in /etc/fstab: see to it that it is mounted at each boot before kato starts", kind, remote.Escape(mount))
	}
	if is["read-only"] != "" {
		j.problem("%s: %s is mounted read-only", kind, remote.Escape(mount))
	}
	switch fileSystem := remote.Escape(is["type"]); {
	case slices.Contains(networkTypes, is["type"]) && kind == operation.Containers:
		j.unless("containers: %s is a network file system (%s), on which containers are slow", remote.Escape(mount), fileSystem)
	case strings.HasPrefix(is["type"], "nfs") && slices.Contains(j.node.Roles, "filesystem"):
		j.problem("%s: %s is NFS, to which the filesystem service must not go: use block storage or SSHFS (\"Persistent Storage\")", kind, remote.Escape(mount))
	case slices.Contains(networkTypes, is["type"]):
		j.unless("%s: %s is a network file system (%s): use block storage", kind, remote.Escape(mount), fileSystem)
	}
	if kind == operation.Containers && is["network"] != "" {
		j.unless("containers: %s is on %s (%s), on which containers are slow (\"For performance reasons, containers should not be relocated to EBS volumes\")", remote.Escape(mount), remote.Escape(is["network"]), remote.Escape(device))
	}
	if is["quotas"] == "" {
		j.unless("%s: %s is not mounted with quotas, so that those of kato would not be enforced: katoflow storage quota enable CLUSTER --nodes %s --path %s", kind, remote.Escape(mount), j.node.Name, remote.Escape(mount))
	}
	entries, _ := strconv.ParseInt(is["entries"], 10, 64)
	if len(place) == 0 {
		j.problem("%s: how much is free in %s cannot be read", kind, m.To)
		return
	}
	j.needs[mount] += used
	j.inodes[mount] += entries
	if !slices.ContainsFunc(j.places, func(f fileSystem) bool { return f.mount == place[0].mount }) {
		free := int64(-1)
		if inodes := parseSpace(is["inodes"]); len(inodes) > 0 && inodes[0].size > 0 {
			free = inodes[0].free
		}
		place[0].mount = mount
		j.places, j.freeInodes = append(j.places, place[0]), append(j.freeInodes, free)
	}
}

// source holds what keeping the source needs, which are folders, against what is free where it lies.
func (j *relocateJudge) source(m *operation.StorageMove, is map[string]string) {
	folders, _ := strconv.ParseInt(is["folders"], 10, 64)
	if space := parseSpace(is["source-space"]); len(space) > 0 && space[0].free < folders*4+fullBelow {
		j.problem("%s: %s has %s free, and keeping the source there by hard links needs %s for its %d folders", m.Kind, remote.Escape(space[0].mount), operation.Size(space[0].free<<10), operation.Size((folders*4+fullBelow)<<10), folders)
	}
	if inodes := parseSpace(is["source-inodes"]); len(inodes) > 0 && inodes[0].size > 0 && inodes[0].free < folders+inodesToSpare {
		j.problem("%s: %s has %d inodes free, and keeping the source there by hard links needs %d", m.Kind, remote.Escape(inodes[0].mount), inodes[0].free, folders+inodesToSpare)
	}
}

// space holds what is needed against what is free.
func (j *relocateJudge) space() {
	for i, p := range j.places {
		need := j.needs[p.mount] + j.needs[p.mount]*roomToSpare/100
		if need > p.free {
			j.problem("%s has %s free, and %s are needed (%s of data and %d%% to spare)", remote.Escape(p.mount), operation.Size(p.free<<10), operation.Size(need<<10), operation.Size(j.needs[p.mount]<<10), roomToSpare)
		}
		if files := j.inodes[p.mount] + inodesToSpare; j.freeInodes[i] >= 0 && files > j.freeInodes[i] {
			j.problem("%s has %d inodes free, and %d are needed", remote.Escape(p.mount), j.freeInodes[i], files)
		}
	}
}

// MoveInput is the input of a step of the move of one kind of data.
type MoveInput struct {
	NodeInput
	Move operation.StorageMove `json:"move"`
	// Force: files that are open to write are no hindrance.
	Force bool `json:"force,omitempty"`
	// Boot of the node in which the source was kept, as KeepSource has told it.
	Boot string `json:"boot,omitempty"`
	// Discard, when going back: what is at the new place is thrown away. Nothing was written there by anybody but kato relocate.
	Discard bool `json:"discard,omitempty"`
	// Stays, when tidying: the source that was kept stays.
	Stays bool `json:"stays,omitempty"`
}

// moveStep is the name of a step of the move of one kind, in reports and job names.
func moveStep(step string, kind operation.StorageKind) string { return step + "-" + string(kind) }

func moveJob(in MoveInput, t target, step, text string, more ...string) remote.JobSpec {
	m := in.Move
	return asRoot(in.Operation, t, moveStep(step, m.Kind), in.JobTry, append([]string{"sh", "-c", text, "sh", string(m.Kind), m.From, m.Real, m.To, m.Kept}, more...)...)
}

// moveStepOf runs the job of a script, and turns a reboot in its middle into a failure: what it does can be done again from its beginning.
func (x *Storage) moveStepOf(a *attempt, in MoveInput, step, text string, more ...string) (answer, JobResult, error) {
	_, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return answer{}, JobResult{}, err
	}
	spec := moveJob(in, t, step, text, more...)
	said, out, err := x.Nodes.told(a, t, in.NodeInput, x.Nodes.job(in.NodeInput, t, spec, relocateCeiling))
	switch {
	case said.value("rebooted") != "":
		return said, out, failJob(operation.ErrInterrupted, t.host.Name, spec.ID.Dir(), "", "the node has rebooted since the source of %s was kept", in.Move.Kind)
	case err != nil || !out.Started || in.Settle:
		return said, out, err
	case out.Interrupted:
		return said, out, failJob(operation.ErrInterrupted, t.host.Name, spec.ID.Dir(), "", "the node rebooted in the middle of step %s", spec.ID.Step)
	case said.value("done") == "":
		return said, out, failJob(operation.ErrVerify, t.host.Name, spec.ID.Dir(), "", "step %s ended with 0 and did not say that it is done", spec.ID.Step)
	}
	return said, out, nil
}

// KeepResult is how the source was kept.
type KeepResult struct {
	JobResult
	// Boot of the node in which it was: what is done next is done in the same one, or not at all.
	Boot string `json:"boot,omitempty"`
}

// KeepSource makes the folder that the data go to, with owner and mode of the source, and keeps the source beside itself by hard links (job `keep-KIND`, as root), so that nothing that kato does to it loses it. Docker is stopped for
// its own data.
//
// Errors: RemoteExit with what is in the way; Interrupted after a reboot in the middle; Unreachable, Lost, and what package remote tells of a node. What it has begun is taken back by SwitchBack.
func (x *Storage) KeepSource(ctx context.Context, in MoveInput) (KeepResult, error) {
	a := begin(ctx, "keep "+string(in.Move.Kind))
	defer a.finish()
	said, job, err := x.moveStepOf(a, in, operation.StepKeep, keepScript, in.Move.Mount, in.Move.Device, flag(in.Force))
	out := KeepResult{JobResult: job, Boot: said.value("boot")}
	for _, busy := range said.values["busy"] {
		out.Notes = append(out.Notes, remote.Escape(busy)+" had files of "+string(in.Move.Kind)+" open although the roles are stopped")
	}
	out.Notes = notes(out.Notes...)
	return out, err
}

// RelocateData is kato relocate (job `relocate-KIND`), at most once a try; it is never interrupted. That it ends with 0 is not believed: CompareCopy looks.
//
// Errors: RemoteExit, or Verify, when kato says that it failed; Interrupted after a reboot in the middle; Unreachable, Lost, and what package remote tells of a node.
func (x *Storage) RelocateData(ctx context.Context, in MoveInput) (JobResult, error) {
	a := begin(ctx, "kato relocate "+string(in.Move.Kind))
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	job := x.Nodes.job(in.NodeInput, t, s.relocateJob(in), relocateCeiling)
	job.folders = []string{path.Dir(in.Move.To)}
	end, err := job.run(a)
	if err != nil {
		return JobResult{}, err
	}
	if end.State == remote.JobExited && end.ExitCode != 0 && !end.NeverStarted && !in.Settle {
		if parseAnswer(end.tail).value("rebooted") != "" {
			return JobResult{Started: true}, failJob(operation.ErrInterrupted, t.host.Name, job.spec.ID.Dir(), "", "the node has rebooted since the source of %s was kept", in.Move.Kind)
		}
		return JobResult{Started: true}, failJob(operation.ErrRemoteExit, t.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "kato relocate %s ended with exit code %d: %s%s", in.Move.Kind, end.ExitCode,
			orNothing(tellingLine(string(end.tail))), strings.TrimSuffix("; "+strings.Join(end.full, ", "), "; "))
	}
	out, err := job.result(end)
	switch {
	case err != nil || !out.Started || in.Settle:
		return out, err
	case out.Interrupted:
		return out, failJob(operation.ErrInterrupted, t.host.Name, job.spec.ID.Dir(), "", "the node rebooted in the middle of kato relocate %s", in.Move.Kind)
	}
	if words := refusal(string(end.tail)); words != "" {
		return out, failJob(operation.ErrVerify, t.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "kato relocate %s ended with 0 and said: %s", in.Move.Kind, words)
	}
	return out, nil
}

func (s site) relocateJob(in MoveInput) remote.JobSpec {
	return remote.JobSpec{ID: jobID(in.Operation, in.Node.Name, moveStep(operation.StepRelocate, in.Move.Kind), in.JobTry), Lease: lease(in.Operation), Login: true,
		Argv: append([]string{"sh", "-c", runRelocateScript, "sh", in.Boot, in.Move.Mount, in.Move.To}, s.kato().Relocate(string(in.Move.Kind), in.Move.To)...)}
}

// CompareResult is what was compared.
type CompareResult struct {
	JobResult
	Files int `json:"files,omitempty"`
	// Bytes that the data take at the new place.
	Bytes int64 `json:"bytes,omitempty"`
}

// CompareCopy looks where the data are now, and holds names, kinds, modes, owners and sizes of all of it against the source that was kept (job `compare-KIND`, as root); docker is started again.
//
// Errors: Verify when they are not there, or not all of it as it was; Interrupted, Unreachable, Lost, and what package remote tells of a node.
func (x *Storage) CompareCopy(ctx context.Context, in MoveInput) (CompareResult, error) {
	a := begin(ctx, "compare "+string(in.Move.Kind))
	defer a.finish()
	said, job, err := x.moveStepOf(a, in, operation.StepCompare, compareScript)
	out := CompareResult{JobResult: job}
	if err != nil {
		if f := failureOf(err); f.Type == operation.ErrRemoteExit && said.value("failed") != "" {
			f.Type = operation.ErrVerify
			return out, operation.NewError(f)
		}
		return out, err
	}
	out.Files, _ = strconv.Atoi(said.value("files"))
	size, _ := strconv.ParseInt(said.value("size"), 10, 64)
	out.Bytes = size << 10
	if now := said.value("now"); now != in.Move.To && now != "" {
		out.Notes = append(out.Notes, fmt.Sprintf("%s are in %s", in.Move.Kind, remote.Escape(now)))
	}
	if said.value("options") != "" {
		out.Notes = append(out.Notes, "kato relocate has changed /etc/default/docker: see that its options are still there")
	}
	out.Notes = notes(out.Notes...)
	return out, nil
}

// SwitchBack puts the data of one kind back to where they were, from what KeepSource has kept (job `switch-back-KIND`, as root). Nothing to put back is done as well.
//
// Errors: RemoteExit with what is in the way; Interrupted, Unreachable, Lost, and what package remote tells of a node.
func (x *Storage) SwitchBack(ctx context.Context, in MoveInput) (JobResult, error) {
	a := begin(ctx, "switch "+string(in.Move.Kind)+" back")
	defer a.finish()
	said, out, err := x.moveStepOf(a, in, operation.StepSwitchBack, switchBackScript, flag(in.Discard), in.Move.Mount)
	if found := said.value("found"); found != "" {
		out.Notes = append(out.Notes, fmt.Sprintf("what was left of the source is in %s", remote.Escape(found)))
	}
	out.Notes = append(out.Notes, leftBehind(said)...)
	if said.value("stays") != "" {
		out.Notes = append(out.Notes, fmt.Sprintf("what was written to %s since is still in %s: remove it before you move them there again", in.Move.Kind, in.Move.To))
	}
	if said.value("unmounted") != "" {
		out.Notes = append(out.Notes, fmt.Sprintf("nothing is mounted at %s any more: what was copied to %s may still be there when it is", remote.Escape(in.Move.Mount), in.Move.To))
	}
	out.Notes = notes(out.Notes...)
	return out, err
}

// TidySource removes the source that was kept (job `tidy-KIND`, as root), or leaves it, when the data are at their new place.
//
// Errors: Verify when they are not at their new place; RemoteExit with what is in the way; Interrupted, Unreachable, Lost, and what package remote tells of a node.
func (x *Storage) TidySource(ctx context.Context, in MoveInput) (JobResult, error) {
	a := begin(ctx, "tidy "+string(in.Move.Kind))
	defer a.finish()
	said, out, err := x.moveStepOf(a, in, operation.StepTidy, tidySourceScript, flag(in.Stays))
	if err != nil && said.value("elsewhere") != "" {
		f := failureOf(err)
		f.Type = operation.ErrVerify
		err = operation.NewError(f)
	}
	out.Notes = append(out.Notes, leftBehind(said)...)
	if in.Stays && err == nil {
		out.Notes = append(out.Notes, fmt.Sprintf("the source of %s stays in %s", in.Move.Kind, remote.Escape(in.Move.Kept)))
	}
	out.Notes = notes(out.Notes...)
	return out, err
}

// leftBehind tells what kato has left beside the data.
func leftBehind(said answer) (out []string) {
	for _, left := range said.values["left"] {
		out = append(out, fmt.Sprintf("kato has left %s there: remove it when it is not needed", remote.Escape(left)))
	}
	return out
}

// PlanRelocateInput asks for the commands of a dry run.
type PlanRelocateInput struct {
	Operation   Operation               `json:"operation"`
	Node        operation.PlannedNode   `json:"node"`
	Moves       []operation.StorageMove `json:"moves"`
	Retire      bool                    `json:"retire,omitempty"`
	KeepSource  bool                    `json:"keepSource,omitempty"`
	Maintenance bool                    `json:"maintenance,omitempty"`
}

// PlanRelocate tells what a dry run shows. It reaches no node.
func (x *Storage) PlanRelocate(ctx context.Context, in PlanRelocateInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	var commands []operation.PlannedCommand
	command := func(step, text, note string) {
		commands = append(commands, operation.PlannedCommand{Step: step, Command: text, Note: note})
	}
	var out PlanCommandsResult
	if in.Maintenance {
		mode, err := s.maintenancePlan(in.Operation)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		out.add(operation.ClusterNode, mode)
	}
	if in.Retire {
		core, err := s.core()
		if err != nil {
			return PlanCommandsResult{}, err
		}
		id, err := nodeID(a.ctx, t)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		command(operation.StepRetire, show(s.retireJob(in.Operation, in.Node.Name, id, 1)), "on "+core.node.Name)
	}
	command(operation.StepStopRoles, remote.Quote(s.kato().Stop()), "")
	for _, m := range in.Moves {
		if m.Outcome == operation.WasThere {
			continue
		}
		if m.Kind == operation.Containers {
			command(moveStep(operation.StepKeep, m.Kind), "service docker stop", "where it runs; it is started again afterwards")
		}
		command(moveStep(operation.StepKeep, m.Kind), remote.Quote([]string{"mkdir", "-p", m.To}), "with the owner and the mode of "+m.Real)
		command(moveStep(operation.StepKeep, m.Kind), remote.Quote([]string{"cp", "-al", m.Real, m.Kept}), "hard links: the source is kept")
		command(moveStep(operation.StepRelocate, m.Kind), remote.Quote(s.kato().Relocate(string(m.Kind), m.To)), "")
		command(moveStep(operation.StepCompare, m.Kind), "names, modes, owners and sizes of all files of "+m.Kept+" and "+m.To, "where they differ, all goes back")
	}
	command(operation.StepStartRoles, remote.Quote(s.kato().Start()), "")
	if !in.KeepSource {
		for _, m := range in.Moves {
			if m.Outcome != operation.WasThere {
				command(moveStep(operation.StepTidy, m.Kind), remote.Quote([]string{"rm", "-rf", m.Kept}), "when the gates hold")
			}
		}
	}
	out.add(in.Node.Name, commands)
	return out, nil
}
