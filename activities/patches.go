package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Patches does what concerns the patches of kato ("Applying Updates" of the source page; kato.md §3.6). Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times, as those of Nodes.
type Patches struct {
	Nodes *Nodes
}

var patchesScript = script("patches")

// nodePatches is what kato says on one node.
type nodePatches struct {
	dialect kato.PatchDialect
	list    []kato.NodePatch
	// unfetched: this kato cannot fetch the list by itself.
	unfetched bool
}

// noPatches is why kato did not say which patches a node has, although the node answered.
type noPatches struct{ why string }

func (e noPatches) Error() string { return e.why }

// read asks one node which patches it has. kato's exit codes are not believed, its words are. The error is of package remote, or a noPatches.
func (x *Patches) read(ctx context.Context, s site, t target, fetch bool) (nodePatches, error) {
	id, err := nodeID(ctx, t)
	if err != nil {
		return nodePatches{}, err
	}
	ask := func(fetch bool, form string) (answer, error) {
		// Four calls of kato at most, each with its own limit.
		return askFor(ctx, 4*s.cluster.Kato.Timeout.Std()+time.Minute, x.Nodes.Connections, t.host, patchesScript, katoSeconds(s), s.cluster.Kato.Path, flag(fetch), form)
	}
	said, err := ask(fetch, "json")
	if err != nil {
		return nodePatches{}, err
	}
	var out nodePatches
	if out.dialect, err = kato.ParsePatchHelp([]byte(said.sections["help"])); err != nil {
		return nodePatches{}, noPatches{fmt.Sprintf("kato patch --help does not tell its options: %s", orNothing(lastLineOf(kato.Clean([]byte(said.sections["help"])))))}
	}
	if fetch {
		switch why := failedWords(said, "fetch"); {
		case strings.HasPrefix(strings.ToLower(why), "usage"): // kato.md §3.6: not every version's reference has it
			out.unfetched = true
		case why != "":
			return nodePatches{}, noPatches{fmt.Sprintf("the list of patches cannot be fetched: %s; where the network has a proxy, tell kato there: kato op upstream_proxy set HOST:PORT", why)}
		}
	}
	if said.has("json") && failedWords(said, "json") == "" {
		all, err := kato.ParsePatches([]byte(said.sections["json"]))
		if err == nil && !slices.ContainsFunc(all.List, func(p kato.Patch) bool { return !p.Told }) {
			if out.list, err = kato.OnNode(id, t.node.Roles, all, kato.Patches{}); err != nil {
				return nodePatches{}, noPatches{err.Error()}
			}
			return out, nil
		}
	}
	if said, err = ask(false, "text"); err != nil {
		return nodePatches{}, err
	}
	var read [2]kato.Patches
	for i, section := range []string{"all", "open"} {
		if why := failedWords(said, section); why != "" {
			return nodePatches{}, noPatches{"kato patch status: " + why}
		}
		if read[i], err = kato.ParsePatches([]byte(said.sections[section])); err != nil {
			return nodePatches{}, noPatches{err.Error()}
		}
	}
	if out.list, err = kato.OnNode(id, t.node.Roles, read[0], read[1]); err != nil {
		return nodePatches{}, noPatches{err.Error()}
	}
	return out, nil
}

func orNothing(text string) string {
	if text == "" {
		return "it says nothing"
	}
	return oneLine(text, 200)
}

// failedWords is how one call of kato has failed, "" when it has not: its words, or its exit code.
func failedWords(said answer, section string) string {
	text := said.sections[section]
	words := refusal(text)
	switch code := said.exit(section + "-exit"); {
	case words != "":
		return words
	case code == 124:
		return "kato did not answer in time" + waitsFor(text)
	case code != 0:
		return fmt.Sprintf("exit code %d: %s", code, orNothing(lastLineOf(kato.Clean([]byte(text)))))
	}
	return ""
}

// waitsFor is the question at the end of an output that nobody answers (kato.md §0.5), "" for none.
func waitsFor(out string) string {
	text := kato.Clean([]byte(out))
	last := strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
	if strings.HasSuffix(text, "\n") || !strings.HasSuffix(last, ":") && !strings.HasSuffix(last, "?") && !strings.HasSuffix(last, "]") {
		return ""
	}
	return fmt.Sprintf(": it asks %q, and nobody is there to answer", operation.Shorten(last, 100))
}

// PatchesInput names the nodes that are asked.
type PatchesInput struct {
	Cluster string   `json:"cluster"`
	Nodes   []string `json:"nodes"`
	// Fetch has each fetch the list of patches anew before, which changes nothing that runs.
	Fetch bool `json:"fetch,omitempty"`
}

// PatchesResult is which patches there are, and which nodes have them.
type PatchesResult struct {
	Patches []operation.Patch `json:"patches,omitempty"`
	// OnlyThisNode are the nodes whose kato has that option, and not --local.
	OnlyThisNode []string `json:"onlyThisNode,omitempty"`
	// Unfetched are nodes whose kato cannot fetch the list by itself.
	Unfetched []string `json:"unfetched,omitempty"`
	// Unasked are nodes that did not say. Problems are why, one line each, with the node before it.
	Unasked  []string `json:"unasked,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

// PatchesStatus asks nodes, side by side, which patches kato knows of and which are installed there. It changes nothing but, with Fetch, kato's own copy of the list. A node that does not say is in the result;
// the error says that the inventory has changed.
func (x *Patches) PatchesStatus(ctx context.Context, in PatchesInput) (PatchesResult, error) {
	a := begin(ctx, "asking kato")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Cluster)
	if err != nil {
		return PatchesResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return PatchesResult{}, err
	}
	found, errs := make([]nodePatches, len(targets)), make([]error, len(targets))
	each(len(targets), func(i int) {
		for try := 0; try < 2; try++ { // a connection lost by chance is no problem of the node
			if found[i], errs[i] = x.read(a.ctx, s, targets[i], in.Fetch); !remote.IsKind(errs[i], remote.KindTransport) || sleep(a.ctx, firstPause) != nil {
				break
			}
		}
	})
	if a.ctx.Err() != nil {
		return PatchesResult{}, ended(a.ctx)
	}
	var out PatchesResult
	for i, name := range in.Nodes {
		if errs[i] != nil {
			out.Unasked = append(out.Unasked, name)
			why := ""
			if said := (noPatches{}); errors.As(errs[i], &said) {
				why = said.why
			} else {
				why = "kato could not be asked: " + withoutNode(failureOf(errs[i]).Message, targets[i].host.Name)
			}
			out.Problems = append(out.Problems, oneLine(name+": "+remote.Escape(why), 500))
			continue
		}
		if found[i].dialect.OnlyThisNode {
			out.OnlyThisNode = append(out.OnlyThisNode, name)
		}
		if found[i].unfetched {
			out.Unfetched = append(out.Unfetched, name)
		}
		out.Patches = operation.MergePatches(out.Patches, patchesOf(name, found[i].list))
	}
	return out, nil
}

// patchesOf is one node's patches, in the operation's words.
func patchesOf(node string, list []kato.NodePatch) []operation.Patch {
	out := make([]operation.Patch, 0, len(list))
	for _, p := range list {
		roles := make([]string, 0, len(p.Roles))
		for _, r := range p.Roles {
			roles = append(roles, oneLine(r, 40))
		}
		row := operation.Patch{Name: p.Name, ID: oneLine(p.ID, 20), Description: oneLine(p.Description, 300), Severity: oneLine(p.Severity, 40), Roles: roles[:min(len(roles), 20)]}
		if p.Installed {
			row.Installed, row.InstalledCount = []string{node}, 1
		} else {
			row.Missing, row.MissingCount = []string{node}, 1
		}
		out = append(out, row)
	}
	return out
}

// PatchInput is the input of a step on one node.
type PatchInput struct {
	NodeInput
	// Change is what is asked for; its Request is not looked at.
	Change operation.PatchInput `json:"change"`
}

// LookAtPatches asks one node what there is to do. It changes nothing. Errors: Verify when kato does not tell it; Unreachable, and what package remote tells of a node.
func (x *Patches) LookAtPatches(ctx context.Context, in PatchInput) (operation.PatchProgress, error) {
	a := begin(ctx, "which patches it has")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return operation.PatchProgress{}, err
	}
	said, err := x.look(a, s, t, in.NodeInput, "")
	if err != nil {
		return operation.PatchProgress{}, err
	}
	out := operation.PatchProgress{OnlyThisNode: said.dialect.OnlyThisNode}
	installed, missing := split(said.list)
	out.Wanted = in.Change.Wanted(installed, missing)
	for _, p := range said.list {
		if !slices.Contains(out.Wanted, p.Name) {
			continue
		}
		for _, role := range p.Roles {
			if slices.Contains(t.node.Roles, role) && !slices.Contains(out.Roles, role) {
				out.Roles = append(out.Roles, role)
			}
		}
	}
	return out, nil
}

// katoWithin is how long kato may not tell its patches, as while roles of its own are restarted.
const katoWithin = time.Minute

// look is read that a step needs: what kato does not tell in time is its error.
func (x *Patches) look(a *attempt, s site, t target, in NodeInput, job string) (said nodePatches, err error) {
	for began := a.since("kato patch status"); ; {
		var silent *noPatches
		err = a.persist(t.host.Name, in.UnreachableAfter.D(), job, func(ctx context.Context) (err error) {
			silent = nil
			said, err = x.read(ctx, s, t, false)
			if told := (noPatches{}); errors.As(err, &told) {
				silent, err = &told, nil
			}
			return err
		})
		switch {
		case err != nil || silent == nil:
			return said, err
		case time.Since(began) > min(in.UnreachableAfter.D(), katoWithin):
			return said, failJob(operation.ErrVerify, t.host.Name, job, "", "which patches it has is not known: %s", remote.Escape(silent.why))
		case !a.pause(firstPause):
			return said, ended(a.ctx)
		}
	}
}

func split(list []kato.NodePatch) (installed, missing []string) {
	for _, p := range list {
		if p.Installed {
			installed = append(installed, p.Name)
		} else {
			missing = append(missing, p.Name)
		}
	}
	return installed, missing
}

// ChangePatchesInput is what is done, as the look before has found it.
type ChangePatchesInput struct {
	PatchInput
	Progress operation.PatchProgress `json:"progress"`
	// Timeout of kato's run.
	Timeout operation.Duration `json:"timeout"`
}

// ChangePatches installs, reverts or installs again what is wanted on one node (job `patch`: kato patch ... --local, as the login user in a login shell), and then reads whether it is so: kato's exit code and words
// are no proof. The job is started at most once a try and never stopped, as nobody knows what a half applied patch is. A node that rebooted meanwhile is a result with Interrupted.
//
// Errors: RemoteExit when kato failed; Verify when it ended well and did not do it, or did not tell; Lost; Timeout, which says what kato asks where it waits for an answer; Unreachable; and what package
// remote tells of a node.
func (x *Patches) ChangePatches(ctx context.Context, in ChangePatchesInput) (JobResult, error) {
	a := begin(ctx, "patch")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	if done, err := x.already(a, s, t, in); err != nil || done {
		return JobResult{Started: true, Notes: []string{"it was so by then: kato patch was not run again"}}, err
	}
	job := x.Nodes.job(in.NodeInput, t, s.patchJob(in.Operation, t, in.JobTry, in.Change, in.Progress.OnlyThisNode), in.Timeout.D())
	name := job.spec.ID.Dir()
	end, err := job.run(a)
	if err != nil {
		if f := failureOf(err); f.Type == operation.ErrTimeout {
			if asks := waitsFor(f.Tail); asks != "" {
				f.Message += asks + ". End it there, and see to what it asks for"
				err = operation.NewError(f)
			}
		}
		return JobResult{}, err
	}
	result, err := job.result(end)
	if err != nil || !result.Started || result.Interrupted || in.Settle {
		return result, err
	}
	said := refusal(string(end.tail))
	now, err := x.look(a, s, t, in.NodeInput, name)
	if err != nil {
		return result, err
	}
	switch wrong := undone(in.Change.Action, in.Progress.Wanted, now.list); {
	case len(wrong) > 0:
		if said != "" {
			said = "; it said: " + said
		}
		return result, failJob(operation.ErrVerify, t.host.Name, name, remote.Tail(end.tail, maxTail), "kato patch %s ended well, and %s%s", in.Change.Action, some(wrong, 5), said)
	case said != "" && in.Change.Action == operation.PatchReinstall: // it was there before, so that its being there says nothing
		return result, failJob(operation.ErrVerify, t.host.Name, name, remote.Tail(end.tail, maxTail), "kato patch reinstall ended well and said: %s", said)
	case said != "":
		result.Notes = append(result.Notes, oneLine("kato patch ended well, the patches are as they should be, and it said: "+said, 300))
	}
	return result, nil
}

// already reports whether a further try finds all as it should be, so that there is nothing to start: the try before did it and could not be heard, or somebody did it by hand.
func (x *Patches) already(a *attempt, s site, t target, in ChangePatchesInput) (bool, error) {
	if in.JobTry < 2 || in.Settle || in.Change.Action == operation.PatchReinstall {
		return false, nil
	}
	var begun remote.JobStatus
	err := a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		begun, err = x.Nodes.Jobs.Status(ctx, t.host, jobID(in.Operation, t.node.Name, operation.StepPatch, in.JobTry))
		return err
	})
	if err != nil || begun.State != remote.JobAbsent {
		return false, err
	}
	now, err := x.look(a, s, t, in.NodeInput, "")
	return err == nil && len(undone(in.Change.Action, in.Progress.Wanted, now.list)) == 0, err
}

// undone are the wanted patches that are not as they should be on a node, each with what it is instead. One that kato does not name any more is not as it should be.
func undone(action operation.PatchAction, wanted []string, now []kato.NodePatch) (wrong []string) {
	for _, name := range wanted {
		at := slices.IndexFunc(now, func(p kato.NodePatch) bool { return p.Name == name })
		switch {
		case at < 0:
			wrong = append(wrong, name+" not named by kato patch status any more")
		case action == operation.PatchRevert && now[at].Installed:
			wrong = append(wrong, name+" still installed")
		case action != operation.PatchRevert && !now[at].Installed:
			wrong = append(wrong, name+" not installed")
		}
	}
	return wrong
}

// RestartRoles restarts the roles that the patches of a node are for (job `restart-roles`: kato restart ROLE...), which kato patch itself does only for what it does in that very run: after a try that failed
// in its middle the next one leaves the roles of what was done before. Restarting again is harmless but for the time. The node's gates say whether they run.
//
// Errors: RemoteExit; Verify when it ended well and said that it had failed; Lost, Timeout, Unreachable and what package remote tells of a node. A node that rebooted meanwhile is a result with Interrupted.
func (x *Patches) RestartRoles(ctx context.Context, in ChangePatchesInput) (JobResult, error) {
	a := begin(ctx, "restart roles")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	job := x.Nodes.job(in.NodeInput, t, remote.JobSpec{ID: jobID(in.Operation, t.node.Name, operation.JobRestartRoles, in.JobTry), Lease: lease(in.Operation), Login: true,
		Argv: s.kato().RestartRoles(in.Progress.Roles)}, in.Timeout.D())
	end, err := job.run(a)
	if err != nil {
		return JobResult{}, err
	}
	result, err := job.result(end)
	if said := refusal(string(end.tail)); err == nil && said != "" && result.Started && !result.Interrupted {
		err = failJob(operation.ErrVerify, t.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "kato restart ended well and said: %s", said)
	}
	return result, err
}

// patchJob is kato's own command on the node itself.
func (s site) patchJob(op Operation, t target, try int, change operation.PatchInput, onlyThisNode bool) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, t.node.Name, operation.StepPatch, try), Lease: lease(op), Login: true,
		Argv: s.kato().ChangePatches(kato.PatchDialect{OnlyThisNode: onlyThisNode}, string(change.Action), change.Patch, change.NoRestart)}
}

// PlanPatchesInput asks for the commands of a dry run.
type PlanPatchesInput struct {
	Operation Operation               `json:"operation"`
	Nodes     []operation.PlannedNode `json:"nodes"`
	Change    operation.PatchInput    `json:"change"`
	// OnlyThisNode are the nodes whose kato has that option.
	OnlyThisNode []string `json:"onlyThisNode,omitempty"`
}

// PlanPatches returns the commands of a dry run, made by the same code as those of a real one. It reaches no node.
func (x *Patches) PlanPatches(ctx context.Context, in PlanPatchesInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	var out PlanCommandsResult
	for _, planned := range in.Nodes {
		t, err := s.target(planned.Name)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		spec := s.patchJob(in.Operation, t, 1, in.Change, slices.Contains(in.OnlyThisNode, planned.Name))
		out.add(planned.Name, []operation.PlannedCommand{{Step: operation.StepPatch, Command: show(spec)}})
	}
	return out, nil
}
