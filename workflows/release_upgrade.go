package workflows

// Upgrade of the platform to another release (kato node upgrade; kato.md §5):
//
//  1. the checklist: disk, memory, sudo and what is to be reached on each node, the Core's logins to all of them, and whether the safety of step 2 can be made;
//  2. the cluster is exported, or its nodes are snapshot, by an operation of its own;
//  3. kato on the Core brings itself up to date, and downloads the packages, while the cluster is live;
//  4. maintenance mode on;
//  5. node by node, in kato's order of roles: kato node upgrade --node on the Core, which retires a DEA, upgrades, validates and restarts; then the version is read from the node and from the Core, and the
//     node's gates hold;
//  6. maintenance mode as it was found;
//  7. what is left to do by hand is in the report: buildpacks that were lost, and the rest of the page's notes.
//
// The steps of one node are in release_upgrade_node.go.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// ReleaseUpgrade is the operation workflow. It completes with the report when every node has the version; otherwise it fails, or ends as cancelled, with the report in the details of its error.
func ReleaseUpgrade(ctx workflow.Context, in operation.ReleaseUpgradeInput) (*operation.Report, error) {
	return operate(ctx, operation.KindReleaseUpgrade, in.Request, "1", &releaseUpgrade{in: in})
}

type releaseUpgrade struct {
	rolling
	in operation.ReleaseUpgradeInput
	// core is which options kato has there; known what the nodes have told.
	core  activities.ReleaseCoreResult
	known activities.ReleaseNodesResult
	// begun: nodes are upgraded from here on, in maintenance mode.
	begun bool
}

// coreCeiling bounds what kato does on the Core before the nodes, the Core being away included.
const coreCeiling = 5 * time.Hour

func (u *releaseUpgrade) attach(r *run) {
	u.rolling = rolling{run: r, work: u, rollingOptions: rollingOptions{noCanary: u.in.NoCanary, soakFor: u.in.Soak, maxFailures: u.in.MaxFailures}}
	u.report.Release = &operation.ReleaseReport{To: u.in.To, Safety: u.in.SafetyOr()}
}

func (u *releaseUpgrade) check() []string { return u.in.Check() }

func (u *releaseUpgrade) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: u.in.Cluster, InventoryDigest: u.in.InventoryDigest, Nodes: u.in.Nodes, RoleOrder: u.in.RoleOrder}
}

func (u *releaseUpgrade) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

// wantsMaintenance: the mode is on from the first node on, and off while packages are downloaded, and between windows.
func (u *releaseUpgrade) wantsMaintenance() bool { return u.begun }

// ready goes through the checklist.
func (u *releaseUpgrade) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	warnings = u.setWindows(ctx, u.in.Window, operation.UnitNode)
	if u.plan.Core == "" {
		return []string{fmt.Sprintf("cluster %s has no kato, and so no release of it", u.in.Cluster)}, warnings, nil
	}
	var releases *activities.Releases
	if err := workflow.ExecuteActivity(following(ctx, "kato node upgrade on the Core, and its logins to the nodes", nodesWithin), releases.ReleaseCore,
		activities.ReleaseCoreInput{Operation: u.op, Nodes: names(u.plan)}).Get(ctx, &u.core); err != nil {
		return nil, nil, err
	}
	problems = u.core.Problems
	if u.in.Offline && !u.core.Dialect.Offline && len(u.core.Problems) == 0 {
		problems = append(problems, u.plan.Core+": kato node upgrade has no --offline there")
	}
	if u.known, err = u.askNodes(ctx, true); err != nil {
		return nil, nil, err
	}
	problems, warnings = append(problems, u.known.Problems...), append(warnings, u.known.Warnings...)
	if len(u.known.Marked) > 0 {
		warnings = append(warnings, "an upgrade has failed before on "+strings.Join(bound(u.known.Marked, 10), ", ")+": kato has left its mark there")
	}
	for _, n := range u.plan.Nodes {
		if v := u.known.Versions[n.Name]; v != "" && operation.CompareVersions(v, u.in.To) > 0 {
			problems = append(problems, fmt.Sprintf("%s: has version %s, which is newer than %s", n.Name, oneLine(v, 40), u.in.To))
		}
	}
	if len(u.todo()) == 0 {
		return problems, warnings, nil
	}
	switch {
	case u.plan.DEAs == 1:
		warnings = append(warnings, "there is one DEA: while it is upgraded no app runs, and kato may refuse to empty it")
	case u.plan.DEAs > 1:
		warnings = append(warnings, "the DEAs are emptied one at a time: whether the others have room for the apps of one, katoflow does not know")
	}
	return append(problems, u.safetyReady(ctx, u.in.SafetyOr(), u.in.Request, u.what())...), warnings, nil
}

// what follows the safety, for people.
func (u *releaseUpgrade) what() string { return "the upgrade to " + u.in.To }

// cached says that the Core has the packages for all nodes: by a download beforehand, or because nothing may be fetched.
func (u *releaseUpgrade) cached() bool {
	return u.core.Dialect.Cache && (u.in.Offline || !u.in.NoDownload)
}

// askNodes asks the nodes that are worked on which version they have.
func (u *releaseUpgrade) askNodes(ctx workflow.Context, checklist bool) (all activities.ReleaseNodesResult, err error) {
	var releases *activities.Releases
	all.Versions = map[string]string{}
	nodes := names(u.plan)
	if checklist && !slices.Contains(nodes, u.plan.Core) { // kato runs there, and has the packages there
		nodes = append(nodes, u.plan.Core)
	}
	for part := range slices.Chunk(nodes, nodesPerChunk) {
		var out activities.ReleaseNodesResult
		if err := workflow.ExecuteActivity(following(ctx, "version of "+count(len(part), "node"), nodesWithin), releases.ReleaseNodes, activities.ReleaseNodesInput{Cluster: u.in.Cluster, Nodes: part,
			Checklist: checklist, Cached: u.cached(), Offline: u.in.Offline, Force: u.in.Force}).Get(ctx, &out); err != nil {
			return all, err
		}
		for _, n := range part {
			if v := out.Versions[n]; v != "" {
				all.Versions[n] = v
			}
		}
		all.Openly, all.Marked = append(all.Openly, out.Openly...), append(all.Marked, out.Marked...)
		all.Problems, all.Warnings = append(all.Problems, out.Problems...), append(all.Warnings, out.Warnings...)
	}
	return all, nil
}

// todo are the nodes that have another version, or do not tell one.
func (u *releaseUpgrade) todo() (nodes []operation.PlannedNode) {
	for _, n := range u.plan.Nodes {
		if !operation.SameVersion(u.known.Versions[n.Name], u.in.To) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func (u *releaseUpgrade) nothing() string { return "it has version " + u.in.To + " already" }

// dryRun returns the commands of the nodes on which there is something to do.
func (u *releaseUpgrade) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	todo := u.todo()
	for i := range u.report.Nodes {
		if !slices.ContainsFunc(todo, func(n operation.PlannedNode) bool { return n.Name == u.report.Nodes[i].Name }) {
			u.report.Nodes[i].Notes = []string{u.nothing()}
		}
	}
	if len(todo) == 0 {
		return nil, nil
	}
	var releases *activities.Releases
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), releases.PlanRelease, activities.PlanReleaseInput{ReleaseNodeInput: activities.ReleaseNodeInput{NodeInput: activities.NodeInput{Operation: u.op},
		Dialect: u.core.Dialect, To: u.in.To, Cached: u.cached(), Offline: u.in.Offline}, Nodes: todo, UpdateKato: u.updates(), Download: u.downloads()}).Get(ctx, &out)
	if s := u.in.SafetyOr(); err == nil && s != operation.SafetyNone {
		out.Plans = slices.Insert(out.Plans, 0, operation.CommandPlan{Nodes: []string{operation.ClusterNode},
			Commands: []operation.PlannedCommand{{Step: operation.StepSafety, Command: map[operation.Safety]string{operation.SafetyExport: "katoflow backup create ", operation.SafetySnapshot: "katoflow snapshot create "}[s] + u.in.Cluster,
				Note: "by an operation of its own"}}})
	}
	return out.Plans, err
}

func (u *releaseUpgrade) updates() bool {
	return u.core.Dialect.UpdateKato && !u.in.NoUpdateKato && !u.in.Offline
}
func (u *releaseUpgrade) downloads() bool { return u.cached() && !u.in.Offline }

func (u *releaseUpgrade) nodeWorkflow() (name, what string) {
	return operation.WorkflowReleaseUpgradeNode, "upgrade to " + u.in.To
}

func (u *releaseUpgrade) nodeInput(task nodeTask) any {
	return nodeReleaseInput{nodeTask: task, Dialect: u.core.Dialect, To: u.in.To, Cached: u.report.Release.Downloaded, Offline: u.in.Offline}
}

func (u *releaseUpgrade) oneAtATime() {}

func (u *releaseUpgrade) first(*operation.NodeReport) {}

// tries: a node on which nothing was done says nothing of the release.
func (u *releaseUpgrade) tries(n *operation.NodeReport) bool {
	return n.Release != nil && n.Release.Upgraded
}

// answers: a node whose version kato does not tell as it is may be taken as upgraded, and where kato can roll a node back that may be asked for.
func (u *releaseUpgrade) answers(n *operation.NodeReport, f operation.Failure) (more []operation.Decision) {
	if operation.OutcomeUnknown(f.Type) {
		return nil
	}
	if n.Step == operation.StepNodeUpgrade && f.Type == operation.ErrVerify {
		more = append(more, operation.Accept)
	}
	upgraded := n.Release != nil && n.Release.Before != "" && !operation.SameVersion(n.Release.Before, u.in.To) // otherwise kato would go further back than that
	if u.core.Dialect.Rollback && upgraded && !n.Release.Back && (n.Step == operation.StepNodeUpgrade || n.Step == operation.StepGates || n.Step == operation.StepNodeBack) {
		more = append(more, operation.Back)
	}
	return more
}

func (u *releaseUpgrade) answered(d operation.Decision, next nodeTask) nodeTask {
	found := operation.ReleaseProgress{}
	if next.Progress.Release != nil {
		found = *next.Progress.Release
	}
	next.Progress.Release = &found
	switch d {
	case operation.Accept:
		found.Accepted = true
		next.FromStep, next.JobTry = operation.StepGates, 1
	case operation.Back:
		if next.FromStep != operation.StepNodeBack {
			next.JobTry = 1
		}
		next.FromStep = operation.StepNodeBack
	}
	return next
}

func (u *releaseUpgrade) steps(ctx workflow.Context) {
	// A window may have been waited for since the preflight.
	if !u.askAgain(ctx) {
		return
	}
	if done := u.done(); len(done) > 0 {
		// After a Reset a node's former workflow may still be at it, although it tells the version already.
		var ids []string
		for _, n := range done {
			ids = append(ids, operation.NodeWorkflowID(u.workflowID, n))
		}
		if err := awaitClosed(ctx, "wait for what was begun before a reset", ids...); err != nil && ctx.Err() != nil || !u.askAgain(ctx) {
			return
		}
	}
	done := u.done()
	for i := range u.report.Nodes {
		if n := &u.report.Nodes[i]; slices.Contains(done, n.Name) {
			n.Status, n.Notes = operation.NodeDone, []string{u.nothing()}
			if broken := u.baselineOf(n.Name); len(broken) > 0 {
				u.warn(fmt.Sprintf("%s has version %s and is not well: %s", n.Name, u.in.To, oneLine(broken[0].Check, 200)))
			}
		}
	}
	if len(done) == len(u.plan.Nodes) {
		return
	}
	u.report.Release.Buildpacks, _ = u.buildpacks(ctx)
	if !u.madeSafe(ctx) || !u.madeReady(ctx) || !u.awaitWindow(ctx) {
		return
	}
	u.begun = true
	if !u.enterMaintenance(ctx) {
		return
	}
	u.roll(ctx)
	u.afterwards(ctx)
}

// done are the names of the nodes that have the version.
func (u *releaseUpgrade) done() (done []string) {
	todo := u.todo()
	for _, n := range names(u.plan) {
		if !slices.ContainsFunc(todo, func(t operation.PlannedNode) bool { return t.Name == n }) {
			done = append(done, n)
		}
	}
	return done
}

// askAgain asks the versions once more; where that fails what was known holds. False: cancelled.
func (u *releaseUpgrade) askAgain(ctx workflow.Context) bool {
	now, err := u.askNodes(ctx, false)
	if err == nil {
		u.known.Versions = now.Versions
	}
	return ctx.Err() == nil
}

// madeSafe makes the export or the snapshot. False: cancelled or aborted.
func (u *releaseUpgrade) madeSafe(ctx workflow.Context) bool {
	kind := u.in.SafetyOr()
	if kind == operation.SafetyNone {
		return true
	}
	for try := 1; ; try++ {
		if u.goOn(ctx) != nil {
			return false
		}
		id := operation.SafetyID(u.op.ID, try)
		at, err := u.ownSafety(ctx, kind, u.in.Request, id, u.what(), func() {
			u.report.Message = fmt.Sprintf("%s of the cluster first, by operation %s", kind, id)
			u.refresh(ctx)
		})
		u.report.Message = ""
		// That operation had the lock meanwhile.
		if f := u.run.lockAgain(ctx); f != nil {
			u.lockFailure, u.aborting = f, true
			return false
		}
		if err == nil {
			u.report.Release.SafetyAt = at
			return true
		}
		if ctx.Err() != nil || u.aborting {
			return false
		}
		f := operation.FailureOf(err)
		f.Message = oneLine(fmt.Sprintf("the %s before the upgrade (%s): %s", kind, id, f.Message), 1000)
		switch u.decide(ctx, operation.StepSafety, try, f, operation.Retry, operation.Leave, operation.Abort) {
		case operation.Retry:
		case operation.Leave:
			u.warn(fmt.Sprintf("upgraded without the %s before", kind))
			return true
		default:
			return false
		}
	}
}

// decide asks about a step of the cluster, unless nobody is there: then it is aborted. It returns "" when the operation is being cancelled.
func (u *releaseUpgrade) decide(ctx workflow.Context, step string, try int, f *operation.Failure, choices ...operation.Decision) operation.Decision {
	d := operation.Abort
	if u.maxFailures == nil {
		d = u.ask(ctx, operation.ClusterNode, step, try, *f, choices...)
	} else {
		u.report.Warnings = append(u.report.Warnings, f.Message)
		u.record(ctx, operation.ClusterNode, step, try, d, "max-failures")
	}
	if d == operation.Abort {
		u.aborting = true
	}
	return d
}

// madeReady has kato update itself and download the packages, while the cluster is live. False: cancelled or aborted.
func (u *releaseUpgrade) madeReady(ctx workflow.Context) bool {
	var releases *activities.Releases
	if u.updates() {
		if ok, done := u.onCore(ctx, operation.StepUpdateKato, "kato node upgrade --update-kato", releases.UpdateKato); !ok {
			return false
		} else if !done {
			u.warn("kato on the Core was not brought up to date before")
		} else if !u.dialectAgain(ctx) {
			return false
		}
	}
	u.report.Release.Downloaded = u.in.Offline
	if u.downloads() {
		ok, done := u.onCore(ctx, operation.StepDownload, "kato node upgrade --download-only", releases.DownloadRelease)
		if !ok {
			return false
		}
		if u.report.Release.Downloaded = done; !done {
			u.warn("the packages were not downloaded before: every node fetches its own")
		}
	}
	return true
}

// dialectAgain asks which options kato has now that it is another one. False: cancelled.
func (u *releaseUpgrade) dialectAgain(ctx workflow.Context) bool {
	var releases *activities.Releases
	var now activities.ReleaseCoreResult
	err := workflow.ExecuteActivity(following(ctx, "kato node upgrade on the Core, as it is now", nodesWithin), releases.ReleaseCore, activities.ReleaseCoreInput{Operation: u.op}).Get(ctx, &now)
	switch {
	case err != nil && ctx.Err() == nil:
		u.warn("which options kato has after its update was not asked: " + operation.FailureOf(err).Message)
	case err == nil && len(now.Problems) > 0:
		u.warn("which options kato has after its update is not known: " + now.Problems[0])
	case err == nil:
		u.core.Dialect = now.Dialect
	}
	return ctx.Err() == nil
}

// onCore does one thing on the Core. ok is false when the operation is cancelled or aborted, done when it was skipped by an answer.
func (u *releaseUpgrade) onCore(ctx workflow.Context, step, summary string, activity any) (ok, done bool) {
	rebooted := false
	for try, job := 1, 1; ; try++ {
		if u.goOn(ctx) != nil {
			return false, false
		}
		u.report.Message = summary
		u.refresh(ctx)
		in := activities.CoreReleaseInput{NodeInput: activities.NodeInput{Operation: u.op, Node: operation.PlannedNode{Name: u.plan.Core}, JobTry: job, UnreachableAfter: max(u.plan.UnreachableAfter, u.plan.BootTimeout)},
			Dialect: u.core.Dialect, To: u.in.To}
		var out activities.JobResult
		err := workflow.ExecuteActivity(following(ctx, summary, coreCeiling), activity, in).Get(ctx, &out)
		u.report.Message = ""
		if ctx.Err() != nil {
			u.settleCore(ctx, step, try, activity, in)
			return false, false
		}
		if err == nil && !out.Interrupted {
			return true, true
		}
		f := operation.FailureOf(err)
		if err == nil {
			job++
			if !rebooted {
				rebooted = true
				continue
			}
			f = &operation.Failure{Type: operation.ErrInterrupted, Message: u.plan.Core + ": the node rebooted again in the middle of " + step + ": see why, then retry"}
		}
		choices := []operation.Decision{operation.Retry, operation.Skip, operation.Abort}
		unknown := operation.OutcomeUnknown(f.Type)
		if unknown { // it may still run, and kato does one thing at a time
			choices = []operation.Decision{operation.Retry, operation.Abort}
		} else if err != nil {
			job++
		}
		switch u.decide(ctx, step, try, f, choices...) {
		case operation.Retry:
		case operation.Skip:
			return true, false
		case operation.Abort:
			if unknown {
				u.warn("job " + f.Job + " may still run on the Core: the next operation finds it and waits")
			}
			return false, false
		default: // cancelled while the question was open
			if unknown {
				u.settleCore(ctx, step, try, activity, in)
			}
			return false, false
		}
	}
}

// settleCore follows what may still run on the Core to its end, while the operation is being cancelled. Where that cannot be done it is a question: wait for it, or leave it and let the report name it.
func (u *releaseUpgrade) settleCore(ctx workflow.Context, step string, try int, activity any, in activities.CoreReleaseInput) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	in.Settle = true
	for ; ; try++ {
		err := workflow.ExecuteActivity(following(ctx, "cancel: let kato end", coreCeiling), activity, in).Get(ctx, nil)
		if err == nil {
			return
		}
		f := operation.FailureOf(err)
		if !operation.OutcomeUnknown(f.Type) {
			u.warn(step + ": " + f.Message)
			return
		}
		if u.maxFailures != nil || u.ask(ctx, operation.ClusterNode, step, try+1, *f, operation.Wait, operation.Leave) != operation.Wait {
			u.warn("left while cancelling: " + f.Message)
			return
		}
	}
}

// buildpacks are those that the cluster has; where they cannot be read that is told.
func (u *releaseUpgrade) buildpacks(ctx workflow.Context) (all []string, ok bool) {
	var releases *activities.Releases
	if err := workflow.ExecuteActivity(looking(ctx, "buildpacks"), releases.Buildpacks, activities.OperationInput{Operation: u.op}).Get(ctx, &all); err != nil {
		u.warn("buildpacks that somebody has added are lost by an upgrade, and which there are was not read: " + operation.FailureOf(err).Message)
		return nil, false
	}
	return all, true
}

// afterwards writes into the report what is left to do by hand, when a node was upgraded.
func (u *releaseUpgrade) afterwards(ctx workflow.Context) {
	upgraded := false
	for i := range u.report.Nodes {
		n := &u.report.Nodes[i]
		upgraded = upgraded || n.Release != nil && (n.Release.Upgraded || n.Release.Accepted || n.Release.Begun)
	}
	if !upgraded {
		return
	}
	r := u.report.Release
	if len(r.Buildpacks) > 0 {
		ctx, _ := workflow.NewDisconnectedContext(ctx)
		if now, ok := u.buildpacks(ctx); ok {
			for _, b := range r.Buildpacks {
				if !slices.Contains(now, b) {
					r.Lost = append(r.Lost, b)
				}
			}
		}
	}
	if len(r.Lost) > 0 {
		r.Afterwards = append(r.Afterwards, "add these buildpacks again, which the upgrade has lost: "+strings.Join(r.Lost, ", "))
	}
	r.Afterwards = append(r.Afterwards,
		"where the network has a proxy, see that the App Store still knows it",
		"tell users to clear their browsers' caches before they open the Console",
		"where DEAs are made from a template (autoscaling), make it anew: it has the release of before")
	if len(u.known.Openly) > 0 {
		r.Afterwards = append(r.Afterwards, "take /etc/sudoers.d/nopasswd away again, with which kato node reset factory fails: on "+strings.Join(bound(u.known.Openly, 20), ", "))
	}
}

// found is what the preflight tells the starter.
func (u *releaseUpgrade) found() string {
	todo := u.todo()
	if len(todo) == 0 {
		return "every node has " + u.in.To + " already"
	}
	var from []string
	for _, n := range todo {
		if v := u.known.Versions[n.Name]; v != "" && !slices.Contains(from, v) {
			from = append(from, v)
		}
	}
	return fmt.Sprintf("%s to upgrade from %s to %s", count(len(todo), "node"), oneLine(strings.Join(bound(from, 5), ", "), 200), u.in.To)
}

// outcomeText is the message of an operation that ended well.
func (u *releaseUpgrade) outcomeText() string {
	n := 0
	for i := range u.report.Nodes {
		if p := u.report.Nodes[i].Release; p != nil && (p.Upgraded || p.Accepted) {
			n++
		}
	}
	if n == 0 {
		return "every node had " + u.in.To + " already"
	}
	text := fmt.Sprintf("%s upgraded to %s", count(n, "node"), u.in.To)
	if len(u.report.Release.Afterwards) > 0 {
		text += "; what is left to do by hand is in the report"
	}
	return text
}
