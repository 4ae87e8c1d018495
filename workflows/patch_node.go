package workflows

import (
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// nodePatchInput is the task, and what is done to the patches of the node.
type nodePatchInput struct {
	nodeTask
	Change operation.PatchInput `json:"change"`
}

// PatchNode does the steps of one node.
func PatchNode(ctx workflow.Context, in nodePatchInput) (nodeResult, error) {
	n := &nodePatch{in: in, nodeRun: nodeRun{nodeTask: in.nodeTask}}
	return n.see(ctx, n)
}

// nodePatch is the state of one node's child.
type nodePatch struct {
	nodeRun
	in nodePatchInput
}

func (n *nodePatch) steps() []nodeStep {
	return []nodeStep{
		{operation.StepProbe, n.probe},
		{operation.StepPatches, n.look},
		{operation.StepPatch, n.change},
		{operation.StepGates, n.gates},
	}
}

func (n *nodePatch) firstJobTry(string) int                              { return 1 }
func (n *nodePatch) backTo(*operation.Failure) (step string, jobTry int) { return "", 0 }
func (n *nodePatch) patchInput() activities.PatchInput {
	return activities.PatchInput{NodeInput: n.input(), Change: n.in.Change}
}

// found is what is known so far; it is a copy of what a former try has found.
func (n *nodePatch) found() *operation.PatchProgress {
	found := operation.PatchProgress{}
	if n.progress.Patches != nil {
		found = *n.progress.Patches
	}
	n.progress.Patches = &found
	return n.progress.Patches
}

// look keeps what is to be done, so that a later try is held against it.
func (n *nodePatch) look(ctx workflow.Context) error {
	var patches *activities.Patches
	var out operation.PatchProgress
	if err := workflow.ExecuteActivity(following(ctx, n.summary("which patches it has"), n.Plan.UnreachableAfter.D()), patches.LookAtPatches, n.patchInput()).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.Patches = &out
	if len(out.Wanted) == 0 {
		n.note(nothingToPatch(n.in.Change.Action))
	}
	return nil
}

func (n *nodePatch) changeInput() activities.ChangePatchesInput {
	return activities.ChangePatchesInput{PatchInput: n.patchInput(), Progress: *n.found(), Timeout: n.Plan.UpgradeTimeout}
}

// change has kato do it. A reboot of the node in the middle is told, and kato is run once more: what it had done already it leaves.
func (n *nodePatch) change(ctx workflow.Context) error {
	var patches *activities.Patches
	if len(n.found().Wanted) == 0 {
		// After a Reset it may be that a try from before has done it: that one is followed to its end.
		in := n.changeInput()
		in.Settle = true
		return workflow.ExecuteActivity(following(ctx, n.summary("nothing to do: is kato patch at work?"), n.ceiling()), patches.ChangePatches, in).Get(ctx, nil)
	}
	rebooted := false
	for again := false; ; again = true {
		var out activities.JobResult
		if err := workflow.ExecuteActivity(following(ctx, n.summary("kato patch "+string(n.in.Change.Action)), n.ceiling()), patches.ChangePatches, n.changeInput()).Get(ctx, &out); err != nil {
			return err
		}
		n.note(out.Notes...)
		if !out.Interrupted {
			break
		}
		if again {
			return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.Node.Name + ": the node rebooted again in the middle of kato patch: see why, then retry"})
		}
		n.note("the node rebooted in the middle of kato patch: looked at again")
		n.jobTry++
		rebooted = true
	}
	found := n.found()
	found.Changed = true
	switch {
	case n.in.Change.NoRestart && len(found.Roles) > 0:
		n.note("not restarted, so that nothing of it is in effect yet: kato restart " + strings.Join(found.Roles, " "))
	case n.in.Change.NoRestart:
		n.note("not restarted, so that nothing of it is in effect yet: kato restart there")
	case n.jobTry > 1 && !rebooted && len(found.Roles) > 0 && n.in.Change.Action != operation.PatchReinstall:
		return n.restart(ctx)
	}
	return nil
}

// restart is for what a try before has done: kato restarts the roles only of what it does in that very run.
func (n *nodePatch) restart(ctx workflow.Context) error {
	var patches *activities.Patches
	var out activities.JobResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("kato restart "+strings.Join(n.found().Roles, " ")), n.ceiling()), patches.RestartRoles, n.changeInput()).Get(ctx, &out); err != nil {
		return err
	}
	n.note(out.Notes...)
	return nil // after a reboot in its middle they have been started anew, too
}

func (n *nodePatch) stateBefore(step string) string {
	switch {
	case step == operation.StepGates && n.progress.Patches != nil && n.progress.Patches.Changed:
		return "patched, its gates were not awaited"
	case step == operation.StepGates:
		return "untouched: there was nothing to do"
	}
	return "not patched"
}

func (n *nodePatch) settle(ctx workflow.Context) nodeResult {
	state, err := n.stateBefore(n.at.Step), error(nil)
	if n.at.Step != operation.StepPatch {
		return n.settled(state, nil)
	}
	in := n.changeInput()
	in.Settle = true
	var patches *activities.Patches
	var out activities.JobResult
	if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let kato end"), n.ceiling()), patches.ChangePatches, in).Get(ctx, &out); err != nil {
		return n.settled(state, err)
	}
	if out.Started {
		n.found().Changed = !out.Interrupted
		state = "kato patch has ended well, its gates were not awaited: see katoflow patch status"
		if out.Interrupted {
			state = "the node rebooted in the middle of kato patch: see katoflow patch status"
		}
	}
	if n.jobTry > 1 && len(n.found().Roles) > 0 { // a restart may be what runs
		err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let a restart end"), n.ceiling()), patches.RestartRoles, in).Get(ctx, nil)
	}
	return n.settled(state, err)
}
