package activities

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Releases does what concerns the version of the platform (kato.md §5: kato node upgrade). Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times, as those of Nodes.
type Releases struct {
	Nodes *Nodes
	// Access tries logins from the Core, Apps asks the Cloud Controller.
	Access *Access
	Apps   *Apps
}

var (
	releaseScript  = script("release")
	katoSaysScript = script("kato_says")
)

// What the checklist asks of each node, and more of the Core, which has the packages for all (kato.md §5).
const (
	releaseDisk       = 4 << 30
	releaseDiskCore   = 10 << 30
	releaseMemory     = 512 << 20
	releaseMemoryCore = 1 << 30
	// reachWithin is how long one address is tried.
	reachWithin = 20 * time.Second
	// updateCeiling bounds what kato does on the Core before the nodes.
	updateCeiling = 4 * time.Hour
)

// releaseFacts is what one node tells.
type releaseFacts struct {
	version string
	// why there is no version.
	why string
	// marks are files of upgrades that have failed.
	marks []string
	// Of the checklist, sizes in bytes, -1 where they were not told.
	disk, memory     int64
	sudoAsks, openly bool
	unreached        []string
	untried          bool
}

// facts asks one node. The error is of package remote.
func (x *Releases) facts(ctx context.Context, s site, t target, all bool, urls []string) (releaseFacts, error) {
	args := append([]string{katoSeconds(s), s.cluster.Kato.Path, flag(all), s.cluster.Proxy.HTTP, s.cluster.Proxy.HTTPS, s.cluster.Proxy.NoProxy}, urls...)
	said, err := askFor(ctx, s.cluster.Kato.Timeout.Std()+time.Duration(len(urls))*reachWithin+time.Minute, x.Nodes.Connections, t.host, releaseScript, args...)
	if err != nil {
		return releaseFacts{}, err
	}
	return releaseOf(said), nil
}

// releaseOf reads what the script tells.
func releaseOf(said answer) releaseFacts {
	f := releaseFacts{marks: said.values["mark"], disk: -1, memory: -1, sudoAsks: said.value("sudo") != "", openly: said.value("nopasswd") != ""}
	switch why := failedWords(said, "version"); {
	case why != "":
		f.why = why
	default:
		if f.version = kato.ParseVersion([]byte(said.sections["version"])); f.version == "" {
			f.why = orNothing(lastLineOf(kato.Clean([]byte(said.sections["version"]))))
		}
	}
	if columns := strings.Fields(said.value("disk")); len(columns) >= 3 {
		if free, err := strconv.ParseInt(columns[2], 10, 64); err == nil {
			f.disk = free << 10
		}
	}
	if free, err := strconv.ParseInt(said.value("memory"), 10, 64); err == nil {
		f.memory = free << 10
	}
	for _, line := range said.values["reach"] {
		code, rest, _ := strings.Cut(line, " ")
		switch {
		case code == "none":
			f.untried = true
		case code != "0":
			f.unreached = append(f.unreached, oneLine(rest, 200))
		}
	}
	return f
}

// noVersion says that kato on a node does not tell its version, and what there is to do where it has vanished.
func (f releaseFacts) noVersion() string {
	text := "kato version does not tell one: " + f.why
	if strings.Contains(f.why, "not found") || strings.Contains(f.why, "No such file") || strings.Contains(f.why, "127") {
		text += "; " + withoutKato
	}
	return text
}

// withoutKato is the way out of the page (kato.md §5).
const withoutKato = "where an upgrade has left a node without kato, run on it, in /s/code/sentinel/cli: bin/sentinel upgrade VERSION 127.0.0.1 ITS-IP --skip-download"

// problems are what the checklist has against the node, and those of them that may be overruled.
func (f releaseFacts) problems(core, offline bool) (hard, soft []string) {
	if f.version == "" {
		hard = append(hard, f.noVersion())
	}
	if f.sudoAsks {
		hard = append(hard, "sudo asks for a password, and kato node upgrade needs it without: give the user NOPASSWD in /etc/sudoers.d for the time of the upgrade")
	}
	disk, memory := int64(releaseDisk), int64(releaseMemory)
	if core {
		disk, memory = releaseDiskCore, releaseMemoryCore
	}
	if f.disk >= 0 && f.disk < disk {
		soft = append(soft, fmt.Sprintf("/ has %s free, and an upgrade needs %s", operation.Size(f.disk), operation.Size(disk)))
	}
	if f.memory >= 0 && f.memory < memory {
		soft = append(soft, fmt.Sprintf("%s of memory are free, and an upgrade needs %s", operation.Size(f.memory), operation.Size(memory)))
	}
	if !offline {
		for _, u := range f.unreached {
			hard = append(hard, fmt.Sprintf("%s is not reached from it; see the proxy in the inventory, kato.releases for a mirror, or --offline where the packages are on the Core already", u))
		}
	}
	return hard, soft
}

// ReleaseNodesInput names the nodes that are asked.
type ReleaseNodesInput struct {
	Cluster string   `json:"cluster"`
	Nodes   []string `json:"nodes"`
	// Checklist asks what an upgrade needs there, too; Cached says that only the Core fetches packages, Offline that nobody does.
	Checklist bool `json:"checklist,omitempty"`
	Cached    bool `json:"cached,omitempty"`
	Offline   bool `json:"offline,omitempty"`
	// Force makes warnings of what disks and memory lack.
	Force bool `json:"force,omitempty"`
}

// ReleaseNodesResult is which version each node has; one that did not say is not in it. Problems and Warnings are one line each, with the node before it.
type ReleaseNodesResult struct {
	Versions map[string]string `json:"versions,omitempty"`
	// Openly are nodes on which sudo asks nobody for a password, by /etc/sudoers.d/nopasswd; Marked those with the mark of an upgrade that failed.
	Openly   []string `json:"openly,omitempty"`
	Marked   []string `json:"marked,omitempty"`
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// ReleaseNodes asks nodes, side by side, which version they have, and with Checklist whether they are ready to be upgraded. It changes nothing. A node that does not answer is no problem here: the preflight
// tells of it. The error says that the inventory has changed.
func (x *Releases) ReleaseNodes(ctx context.Context, in ReleaseNodesInput) (ReleaseNodesResult, error) {
	a := begin(ctx, "versions")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Cluster)
	if err != nil {
		return ReleaseNodesResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return ReleaseNodesResult{}, err
	}
	found, errs := make([]releaseFacts, len(targets)), make([]error, len(targets))
	each(len(targets), func(i int) {
		var urls []string
		if in.Checklist && !in.Offline && (!in.Cached || targets[i].node.Core) {
			urls = s.cluster.Kato.Releases
		}
		for try := 0; try < 2; try++ { // a connection lost by chance says nothing of the node
			if found[i], errs[i] = x.facts(a.ctx, s, targets[i], in.Checklist, urls); !remote.IsKind(errs[i], remote.KindTransport) || sleep(a.ctx, firstPause) != nil {
				break
			}
		}
	})
	if a.ctx.Err() != nil {
		return ReleaseNodesResult{}, ended(a.ctx)
	}
	out := ReleaseNodesResult{Versions: map[string]string{}}
	for i, name := range in.Nodes {
		if errs[i] != nil {
			continue
		}
		f := found[i]
		if f.version != "" {
			out.Versions[name] = f.version
		}
		if f.openly {
			out.Openly = append(out.Openly, name)
		}
		if len(f.marks) > 0 {
			out.Marked = append(out.Marked, name)
		}
		if !in.Checklist {
			continue
		}
		hard, soft := f.problems(targets[i].node.Core, in.Offline)
		if f.untried {
			out.Warnings = append(out.Warnings, name+": there is no curl, so that nobody knows whether it reaches where packages are fetched from")
		}
		if in.Force {
			for _, p := range soft {
				out.Warnings = append(out.Warnings, name+": "+p)
			}
			soft = nil
		}
		for _, p := range append(hard, soft...) {
			out.Problems = append(out.Problems, oneLine(name+": "+p, 600))
		}
	}
	return out, nil
}

// ReleaseCoreInput asks what the Core needs.
type ReleaseCoreInput struct {
	Operation Operation `json:"operation"`
	// Nodes are those that the Core logs in to.
	Nodes []string `json:"nodes"`
}

// ReleaseCoreResult is which options kato has there, and what stands in the way, one line each.
type ReleaseCoreResult struct {
	Dialect  kato.UpgradeDialect `json:"dialect"`
	Problems []string            `json:"problems,omitempty"`
}

// ReleaseCore asks the Core which options `kato node upgrade` has, and whether it gets to every node by key. It changes nothing. That the Core does not answer is told by the preflight.
func (x *Releases) ReleaseCore(ctx context.Context, in ReleaseCoreInput) (ReleaseCoreResult, error) {
	a := begin(ctx, "the Core")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return ReleaseCoreResult{}, err
	}
	core, err := s.core()
	if err != nil {
		return ReleaseCoreResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return ReleaseCoreResult{}, err
	}
	var out ReleaseCoreResult
	var said answer
	for try := 0; try < 3; try++ { // a connection lost by chance says nothing of kato
		if said, err = x.katoSays(a.ctx, s, core, s.kato().UpgradeHelp()); !remote.IsKind(err, remote.KindTransport) || sleep(a.ctx, firstPause) != nil {
			break
		}
	}
	if a.ctx.Err() != nil {
		return out, ended(a.ctx)
	}
	problem := func(format string, args ...any) {
		out.Problems = append(out.Problems, oneLine(core.node.Name+": "+fmt.Sprintf(format, args...), 600))
	}
	if err != nil {
		problem("which options kato node upgrade has could not be asked: %s", withoutNode(failureOf(nodeError(err)).Message, core.host.Name))
		return out, nil
	}
	switch out.Dialect, err = kato.ParseUpgradeHelp([]byte(said.sections["said"])); {
	case err != nil:
		problem("%s", err)
	case !out.Dialect.Version:
		problem("kato node upgrade has no --version there: it would go to whatever is the newest")
	}
	why := make([]string, len(targets))
	each(len(targets), func(i int) {
		if targets[i].node == core.node {
			return
		}
		try, err := x.Access.tryLogin(a.ctx, core, targets[i], 22, true, false, false)
		if err == nil && !try.in {
			why[i] = try.why
		}
	})
	if a.ctx.Err() != nil {
		return out, ended(a.ctx)
	}
	for i, w := range why {
		if w != "" {
			out.Problems = append(out.Problems, oneLine(fmt.Sprintf("%s: %s, the Core, does not get in by key, which kato node upgrade needs: %s; katoflow access grant %s", in.Nodes[i], core.node.Name, w, in.Operation.Cluster), 600))
		}
	}
	return out, nil
}

// katoSays is one short call of kato that only reads.
func (x *Releases) katoSays(ctx context.Context, s site, t target, argv []string) (answer, error) {
	return askFor(ctx, s.cluster.Kato.Timeout.Std()+time.Minute, x.Nodes.Connections, t.host, katoSaysScript, append([]string{katoSeconds(s)}, argv...)...)
}

// Buildpacks are the names of those that the Cloud Controller has: an upgrade loses those that somebody has added (kato.md §5). The error is of type Controller.
func (x *Releases) Buildpacks(ctx context.Context, in OperationInput) ([]string, error) {
	a := begin(ctx, "buildpacks")
	defer a.finish()
	c, err := x.Apps.client(in.Operation.Cluster)
	if err != nil {
		return nil, err
	}
	all, err := c.Buildpacks(a.ctx)
	if err != nil {
		if a.ctx.Err() != nil {
			return nil, ended(a.ctx)
		}
		return nil, controllerError(err)
	}
	out := make([]string, 0, len(all))
	for _, b := range all {
		out = append(out, oneLine(b.Name, 100))
	}
	slices.Sort(out)
	return out[:min(len(out), 1000)], nil
}

// OperationInput is only which operation asks.
type OperationInput struct {
	Operation Operation `json:"operation"`
}

// CoreReleaseInput is the input of a step on the Core before the nodes.
type CoreReleaseInput struct {
	NodeInput
	Dialect kato.UpgradeDialect `json:"dialect"`
	To      string              `json:"to"`
}

func (s site) updateKatoJob(op Operation, try int, d kato.UpgradeDialect) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, operation.ClusterNode, operation.StepUpdateKato, try), Lease: lease(op), Login: true, Env: s.proxy(), Argv: s.kato().UpdateKato(d)}
}

func (s site) downloadJob(op Operation, try int, d kato.UpgradeDialect, to, core string) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, operation.ClusterNode, operation.StepDownload, try), Lease: lease(op), Login: true, Env: s.proxy(), Argv: s.kato().DownloadRelease(d, to, core)}
}

// UpdateKato has kato on the Core bring itself up to date (job `update-kato`). The job is started at most once a try and never stopped. A Core that rebooted meanwhile is a result with Interrupted.
//
// Errors: RemoteExit; Verify when it ended well and said that it had failed; Lost, Timeout, Unreachable and what package remote tells of a node.
func (x *Releases) UpdateKato(ctx context.Context, in CoreReleaseInput) (JobResult, error) {
	return x.onCore(ctx, "update kato", in, func(s site, _ string) remote.JobSpec { return s.updateKatoJob(in.Operation, in.JobTry, in.Dialect) })
}

// DownloadRelease fetches the packages of the version to the Core (job `download`), from where the nodes take them. Errors as those of UpdateKato.
func (x *Releases) DownloadRelease(ctx context.Context, in CoreReleaseInput) (JobResult, error) {
	return x.onCore(ctx, "download", in, func(s site, core string) remote.JobSpec {
		return s.downloadJob(in.Operation, in.JobTry, in.Dialect, in.To, core)
	})
}

func (x *Releases) onCore(ctx context.Context, phase string, in CoreReleaseInput, job func(s site, core string) remote.JobSpec) (JobResult, error) {
	a := begin(ctx, phase)
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	id, err := nodeID(a.ctx, t)
	if err != nil {
		return JobResult{}, err
	}
	run := x.Nodes.job(in.NodeInput, t, job(s, id), updateCeiling)
	end, err := run.run(a)
	if err != nil {
		return JobResult{}, asking(err)
	}
	result, err := run.result(end)
	if err != nil || !result.Started || result.Interrupted {
		return result, err
	}
	text, err := x.output(a, t, ReleaseNodeInput{NodeInput: in.NodeInput}, run.spec.ID)
	if err != nil {
		return result, err
	}
	if said := refusal(text); said != "" {
		err = failJob(operation.ErrVerify, t.host.Name, run.spec.ID.Dir(), remote.Tail([]byte(text), maxTail), "%s ended well and said: %s", run.spec.ID.Step, said)
	}
	return result, err
}

// asking adds to the error of a job that takes too long what kato asks there.
func asking(err error) error {
	f := failureOf(err)
	if f.Type != operation.ErrTimeout {
		return err
	}
	asks := waitsFor(f.Tail)
	if asks == "" {
		return err
	}
	f.Message += asks + ". End it there, and see to what it asks for"
	return operation.NewError(f)
}

// ReleaseNodeInput is the input of a step on one node.
type ReleaseNodeInput struct {
	NodeInput
	Dialect kato.UpgradeDialect `json:"dialect"`
	To      string              `json:"to"`
	// Cached: the Core has the packages. Offline: nothing may be fetched.
	Cached  bool `json:"cached,omitempty"`
	Offline bool `json:"offline,omitempty"`
	// Progress is what was found before.
	Progress operation.ReleaseProgress `json:"progress"`
	// Again: the Core rebooted in the middle of the run before. kato is run whatever the version is by now: it stops by itself where the node is whole (kato.md §5).
	Again bool `json:"again,omitempty"`
	// Timeout of one run of kato; BootTimeout is how long a node may be away for its reboot.
	Timeout     operation.Duration `json:"timeout"`
	BootTimeout operation.Duration `json:"bootTimeout"`
}

// LookAtRelease asks one node which version it has. It changes nothing. Errors: RemoteExit when kato does not tell it; Unreachable, and what package remote tells of a node.
func (x *Releases) LookAtRelease(ctx context.Context, in ReleaseNodeInput) (operation.ReleaseProgress, error) {
	a := begin(ctx, "which version it has")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return operation.ReleaseProgress{}, err
	}
	out := in.Progress
	f, err := x.look(a, s, t, in, "")
	if err != nil {
		return out, err
	}
	if out.Before == "" {
		out.Before, out.Marks = f.version, f.marks
	}
	out.Now = f.version
	return out, nil
}

// look asks until kato tells the version: it may be restarted just then, and its node with it.
func (x *Releases) look(a *attempt, s site, t target, in ReleaseNodeInput, job string) (f releaseFacts, err error) {
	patience, silence := max(in.UnreachableAfter.D(), in.BootTimeout.D()), min(in.UnreachableAfter.D(), katoWithin)
	if in.Again {
		silence = patience
	}
	var silent time.Time
	for {
		err = a.persist(t.host.Name, patience, job, func(ctx context.Context) (err error) {
			f, err = x.facts(ctx, s, t, false, nil)
			return err
		})
		if err != nil || f.version != "" {
			return f, err
		}
		if silent.IsZero() {
			silent = time.Now()
		}
		switch {
		case time.Since(silent) > silence:
			return f, failJob(operation.ErrRemoteExit, t.host.Name, job, "", "%s", remote.Escape(f.noVersion()))
		case !a.pause(firstPause):
			return f, ended(a.ctx)
		}
	}
}

// upgradeWay is how kato is called in one run of it.
type upgradeWay struct{ resume, answer bool }

// name of the job: one try may have a run of each way.
func (w upgradeWay) name() string {
	name := operation.StepNodeUpgrade
	if w.resume {
		name += "-resume"
	}
	if w.answer {
		name += "-answer"
	}
	return name
}

// nodeUpgradeJob runs on the Core and is named after the node that is upgraded. answer gives kato one yes: before 3.4.1 it asks although it was told not to (kato.md §5).
func (s site) nodeUpgradeJob(in ReleaseNodeInput, node, core string, way upgradeWay) remote.JobSpec {
	u := kato.Upgrade{Node: node, Version: in.To, Offline: in.Offline, Resume: way.resume}
	if in.Cached || in.Offline {
		u.CacheIP = core
	}
	argv := s.kato().UpgradeNode(in.Dialect, u)
	if way.answer {
		argv = append([]string{"sh", "-c", `printf 'y\n' | "$@"`, "sh"}, argv...)
	}
	return remote.JobSpec{ID: jobID(in.Operation, in.Node.Name, way.name(), in.JobTry), Lease: lease(in.Operation), Login: true, Env: s.proxy(), Argv: argv}
}

// asksToGoOn reports whether kato has asked for a confirmation, and nothing else is said that a yes might be an answer to: of what failed, what is to be ignored, put back or removed.
func asksToGoOn(out string) bool {
	text := strings.ToLower(kato.Clean([]byte(out)))
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
	}
	return has("[y/n]", "(y/n)", "[yes/no]", "(yes/no)") && !has("fail", "error", "ignor", "restor", "roll", "revert", "delet", "remov", "overwrit")
}

// tellsToResume reports whether kato has said that an upgrade was interrupted and is to be resumed, which is more than naming the option in its usage.
func tellsToResume(out string) bool {
	text := strings.ToLower(kato.Clean([]byte(out)))
	return strings.Contains(text, "--resume") && !strings.Contains(text, "usage:")
}

// UpgradeNodeResult is how it ended, and what was found.
type UpgradeNodeResult struct {
	JobResult
	Progress operation.ReleaseProgress `json:"progress"`
}

// fromTheCore is a node that something is done to from the Core, with its id.
func (x *Releases) fromTheCore(ctx context.Context, in ReleaseNodeInput) (s site, t, core target, id string, err error) {
	if s, t, err = x.Nodes.where(in.Operation, in.Node.Name); err == nil {
		core, err = s.core()
	}
	if err == nil {
		id, err = nodeID(ctx, t)
	}
	return s, t, core, id, err
}

// jobOnCore is a run of kato there for a node. The Core's own may reboot it.
func (x *Releases) jobOnCore(in ReleaseNodeInput, core, t target, spec remote.JobSpec) jobRun {
	run := x.Nodes.job(in.NodeInput, core, spec, in.Timeout.D())
	if core.node == t.node {
		run.unreachableAfter = max(run.unreachableAfter, in.BootTimeout.D())
	}
	return run
}

// UpgradeNode upgrades one node to the version (job `node-upgrade` on the Core: kato node upgrade --node, which downloads, retires a DEA, upgrades, validates and restarts), and then reads the version from the
// node itself and from the Core: kato's exit code and words are no proof (kato.md §5). What kato itself demands is done in the same try: an upgrade that was interrupted is resumed where kato says so, once, and
// its question is answered, once, where it asks although it was told not to. Each run is a job of its own, started at most once a try and never stopped, because nobody knows what half an upgrade is.
//
// The Core rebooting in the middle, also by its own upgrade, is a result with Interrupted: see Again.
//
// Errors: RemoteExit when kato failed; Verify when it ended well and the node has another version, or kato left the mark of a failure; Lost; Timeout; Unreachable; and what package remote tells of a node.
func (x *Releases) UpgradeNode(ctx context.Context, in ReleaseNodeInput) (UpgradeNodeResult, error) {
	a := begin(ctx, "upgrade")
	defer a.finish()
	out := UpgradeNodeResult{Progress: in.Progress}
	s, t, core, id, err := x.fromTheCore(a.ctx, in)
	if err != nil {
		return out, err
	}
	coreID, err := nodeID(a.ctx, core)
	if err != nil {
		return out, err
	}
	job := func(way upgradeWay) jobRun {
		return x.jobOnCore(in, core, t, s.nodeUpgradeJob(in, id, coreID, way))
	}
	if in.Settle {
		return x.settleUpgrade(a, job, out)
	}
	if in.Again { // the Core has just booted
		if _, err := x.look(a, s, core, in, ""); err != nil {
			return out, err
		}
	} else if done, err := x.upgradedBefore(a, s, t, core, in, &out); done || err != nil {
		return out, err
	}
	way, err := x.furthest(a, core, job, in)
	if err != nil {
		return out, err
	}
	for {
		run := job(way)
		end, err := run.run(a)
		if err != nil {
			return out, asking(err)
		}
		result, failed := run.result(end)
		out.JobResult = JobResult{Started: result.Started, Interrupted: result.Interrupted, Notes: notes(append(out.Notes, result.Notes...)...)}
		if out.Interrupted {
			return out, nil
		}
		name := run.spec.ID.Dir()
		text := ""
		if end.State == remote.JobExited && !end.NeverStarted {
			if text, err = x.output(a, core, in, run.spec.ID); err != nil {
				return out, err
			}
		}
		said := refusal(text)
		switch {
		case end.State != remote.JobExited || failed == nil && said == "" && !asksToGoOn(text):
		case in.Dialect.Resume && !way.resume && tellsToResume(text):
			out.Notes = append(out.Notes, "kato said that the upgrade was interrupted: resumed")
			way = upgradeWay{resume: true}
			continue
		case !way.answer && asksToGoOn(text):
			f, err := x.look(a, s, t, in, name)
			if err != nil {
				return out, err
			}
			if f.version == in.Progress.Before && len(newMarks(f.marks, in.Progress.Marks)) == 0 {
				out.Notes = append(out.Notes, "kato asked whether to go on, although it was told not to ask: answered with yes")
				way.answer = true
				continue
			}
		}
		if failed != nil && end.State == remote.JobExited && end.ExitCode == 127 {
			f := failureOf(failed)
			f.Message += "; " + withoutKato
			failed = operation.NewError(f)
		}
		if failed != nil {
			return out, failed
		}
		return out, x.proveVersion(a, s, t, core, in, &out, proof{job: name, tail: remote.Tail([]byte(text), maxTail), said: said})
	}
}

// output is what a run of kato has printed, whole as far as it counts: what an attempt has heard of it begins where the one before ended.
func (x *Releases) output(a *attempt, core target, in ReleaseNodeInput, id remote.JobID) (text string, err error) {
	err = a.persist(core.host.Name, max(in.UnreachableAfter.D(), in.BootTimeout.D()), id.Dir(), func(ctx context.Context) error {
		out, err := x.Nodes.Jobs.Output(ctx, core.host, id, 256<<10)
		text = string(out)
		return err
	})
	return text, err
}

// furthest is the last run of a try that was begun: an attempt before may have been as far, and what it has judged is not judged anew.
func (x *Releases) furthest(a *attempt, core target, job func(upgradeWay) jobRun, in ReleaseNodeInput) (upgradeWay, error) {
	for _, way := range []upgradeWay{{resume: true, answer: true}, {resume: true}, {answer: true}} {
		var begun remote.JobStatus
		if err := a.persist(core.host.Name, max(in.UnreachableAfter.D(), in.BootTimeout.D()), "", func(ctx context.Context) (err error) {
			begun, err = x.Nodes.Jobs.Status(ctx, core.host, job(way).spec.ID)
			return err
		}); err != nil {
			return upgradeWay{}, err
		}
		if begun.State != remote.JobAbsent {
			return way, nil
		}
	}
	return upgradeWay{}, nil
}

// upgradedBefore reports whether a further try finds the node upgraded, so that there is nothing to start.
func (x *Releases) upgradedBefore(a *attempt, s site, t, core target, in ReleaseNodeInput, out *UpgradeNodeResult) (bool, error) {
	if in.JobTry < 2 {
		return false, nil
	}
	var begun remote.JobStatus
	err := a.persist(core.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		begun, err = x.Nodes.Jobs.Status(ctx, core.host, jobID(in.Operation, in.Node.Name, operation.StepNodeUpgrade, in.JobTry))
		return err
	})
	if err != nil || begun.State != remote.JobAbsent {
		return false, err
	}
	f, err := x.look(a, s, t, in, "")
	if err != nil {
		return false, err
	}
	if !kato.SameVersion(f.version, in.To) || len(newMarks(f.marks, in.Progress.Marks)) > 0 {
		return false, nil
	}
	out.Started, out.Progress.Now, out.Progress.Upgraded = true, f.version, true
	out.Notes = append(out.Notes, "it has version "+remote.Escape(f.version)+" by now: kato node upgrade was not run again; its gates say whether it is well")
	return true, nil
}

// proof is what a run of kato has left to be proved.
type proof struct{ job, tail, said string }

// proveVersion reads from the node itself and from the Core that a node has the version. What kato has said of a failure counts although it ended well: kato before 3.4.1 always does (kato.md §0.4).
func (x *Releases) proveVersion(a *attempt, s site, t, core target, in ReleaseNodeInput, out *UpgradeNodeResult, p proof) error {
	f, err := x.look(a, s, t, in, p.job)
	if err != nil {
		return err
	}
	out.Progress.Now = f.version
	verify := func(format string, args ...any) error {
		text := fmt.Sprintf("kato node upgrade ended well, "+format, args...)
		if p.said != "" {
			text += "; it said: " + p.said
		}
		return failJob(operation.ErrVerify, t.host.Name, p.job, p.tail, "%s", oneLine(text, 700))
	}
	if marks := newMarks(f.marks, in.Progress.Marks); len(marks) > 0 {
		_, file, _ := strings.Cut(marks[0], " ")
		return verify("and left %s, which marks an upgrade that failed; version %s", file, f.version)
	}
	if !kato.SameVersion(f.version, in.To) {
		return verify("and the node has version %s, not %s", f.version, in.To)
	}
	if p.said != "" {
		return verify("and the node has version %s, but it did not say that all is well", f.version)
	}
	if core.node != t.node {
		v, id, err := x.knownAs(a, s, t, core, in, p.job)
		if err != nil {
			return err
		}
		if v != "" {
			return verify("the node itself has version %s, and the Core knows it as %s: kato node version %s", f.version, v, id)
		}
	}
	out.Progress.Upgraded = true
	return nil
}

// knownAs is the version as which the Core knows a node, where it is another one than the node's own and stays so; "" where it is the same, or the Core does not tell.
func (x *Releases) knownAs(a *attempt, s site, t, core target, in ReleaseNodeInput, job string) (version, id string, err error) {
	if id, err = nodeID(a.ctx, t); err != nil {
		return "", "", err
	}
	for began := time.Now(); ; {
		var said answer
		if err := a.persist(core.host.Name, in.UnreachableAfter.D(), job, func(ctx context.Context) (err error) {
			said, err = x.katoSays(ctx, s, core, s.kato().NodeVersion(id))
			return err
		}); err != nil {
			return "", id, err
		}
		version = kato.ParseVersion([]byte(said.sections["said"]))
		switch {
		case failedWords(said, "said") != "" || version == "" || kato.SameVersion(version, in.To):
			return "", id, nil
		case time.Since(began) > min(in.UnreachableAfter.D(), katoWithin):
			return version, id, nil
		case !a.pause(firstPause):
			return "", id, ended(a.ctx)
		}
	}
}

// newMarks are those that were not there before.
func newMarks(now, before []string) []string {
	return slices.DeleteFunc(slices.Clone(now), func(m string) bool { return slices.Contains(before, m) })
}

// settleUpgrade follows whichever run there is to its end, and starts none.
func (x *Releases) settleUpgrade(a *attempt, job func(upgradeWay) jobRun, out UpgradeNodeResult) (UpgradeNodeResult, error) {
	var failed error
	for _, way := range []upgradeWay{{}, {answer: true}, {resume: true}, {resume: true, answer: true}} {
		run := job(way)
		end, err := run.run(a)
		if err != nil {
			return out, asking(err)
		}
		result, err := run.result(end)
		if result.Started {
			out.JobResult, failed = result, err
		}
	}
	return out, failed
}

func (s site) nodeBackJob(in ReleaseNodeInput, node string) remote.JobSpec {
	return remote.JobSpec{ID: jobID(in.Operation, in.Node.Name, operation.StepNodeBack, in.JobTry), Lease: lease(in.Operation), Login: true, Env: s.proxy(), Argv: s.kato().RollBackNode(in.Dialect, node)}
}

// RollBackNode brings a node back to the version before (job `node-back` on the Core: kato node upgrade --rollback --node, which only ALS 1.0 and Stackato have), and reads the version from it. Errors as those of
// UpgradeNode.
func (x *Releases) RollBackNode(ctx context.Context, in ReleaseNodeInput) (UpgradeNodeResult, error) {
	a := begin(ctx, "roll back")
	defer a.finish()
	out := UpgradeNodeResult{Progress: in.Progress}
	s, t, core, id, err := x.fromTheCore(a.ctx, in)
	if err != nil {
		return out, err
	}
	run := x.jobOnCore(in, core, t, s.nodeBackJob(in, id))
	end, err := run.run(a)
	if err != nil {
		return out, asking(err)
	}
	if out.JobResult, err = run.result(end); err != nil || !out.Started || in.Settle {
		return out, err
	}
	if out.Interrupted {
		return out, nil
	}
	text, err := x.output(a, core, in, run.spec.ID)
	if err != nil {
		return out, err
	}
	if said := refusal(text); said != "" {
		return out, failJob(operation.ErrVerify, t.host.Name, run.spec.ID.Dir(), remote.Tail([]byte(text), maxTail), "kato node upgrade --rollback ended well and said: %s", said)
	}
	f, err := x.look(a, s, t, in, run.spec.ID.Dir())
	if err != nil {
		return out, err
	}
	out.Progress.Now = f.version
	if f.version != in.Progress.Before {
		return out, failJob(operation.ErrVerify, t.host.Name, run.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "kato node upgrade --rollback ended well, and the node has version %s, not %s as before", remote.Escape(f.version), remote.Escape(in.Progress.Before))
	}
	out.Progress.Back, out.Progress.Upgraded = true, false
	return out, nil
}

// PlanReleaseInput asks for the commands of a dry run.
type PlanReleaseInput struct {
	ReleaseNodeInput
	// Nodes that are upgraded, in order.
	Nodes []operation.PlannedNode `json:"nodes"`
	// UpdateKato and Download are done before them.
	UpdateKato bool `json:"updateKato,omitempty"`
	Download   bool `json:"download,omitempty"`
}

// PlanRelease returns the commands of a dry run, made by the same code as those of a real one. It reaches no node.
func (x *Releases) PlanRelease(ctx context.Context, in PlanReleaseInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	var out PlanCommandsResult
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return out, err
	}
	core, err := s.core()
	if err != nil {
		return out, err
	}
	coreID, err := nodeID(a.ctx, core)
	if err != nil {
		return out, err
	}
	before, err := s.maintenancePlan(in.Operation)
	if err != nil {
		return out, err
	}
	var first []operation.PlannedCommand
	on := "on " + core.node.Name
	if in.UpdateKato {
		first = append(first, operation.PlannedCommand{Step: operation.StepUpdateKato, Command: show(s.updateKatoJob(in.Operation, 1, in.Dialect)), Note: on})
	}
	if in.Download {
		first = append(first, operation.PlannedCommand{Step: operation.StepDownload, Command: show(s.downloadJob(in.Operation, 1, in.Dialect, in.To, coreID)), Note: on + ", while the cluster is live"})
	}
	out.add(operation.ClusterNode, append(first, before...))
	for _, n := range in.Nodes {
		t, err := s.target(n.Name)
		if err != nil {
			return out, err
		}
		id, err := nodeID(a.ctx, t)
		if err != nil {
			return out, err
		}
		node := in.ReleaseNodeInput
		node.Node, node.JobTry = n, 1
		out.add(n.Name, []operation.PlannedCommand{{Step: operation.StepNodeUpgrade, Command: show(s.nodeUpgradeJob(node, id, coreID, upgradeWay{})), Note: on}})
	}
	return out, nil
}
