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
		{operation.StepGates, n.gatesOfChange},
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
	if len(n.found().Wanted) == 0 {
		return nil
	}
	var patches *activities.Patches
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
		n.note("the node rebooted in the middle of kato patch: run again")
		n.jobTry++
	}
	found := n.found()
	found.Changed = true
	if n.in.Change.NoRestart && len(found.Roles) > 0 {
		n.note("not restarted, so that nothing of it is in effect yet: kato restart " + strings.Join(found.Roles, " "))
	}
	return nil
}

// gatesOfChange are the node's gates, where something was changed.
func (n *nodePatch) gatesOfChange(ctx workflow.Context) error {
	if !n.found().Changed {
		return nil
	}
	return n.gates(ctx)
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
	if n.at.Step == operation.StepPatch && len(n.found().Wanted) > 0 {
		in := n.changeInput()
		in.Settle = true
		var patches *activities.Patches
		var out activities.JobResult
		if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let kato end"), n.ceiling()), patches.ChangePatches, in).Get(ctx, &out); err == nil && out.Started {
			state = "kato patch has ended well, its gates were not awaited: see katoflow patch status"
			if out.Interrupted {
				state = "the node rebooted in the middle of kato patch: see katoflow patch status"
			}
		}
	}
	return n.settled(state, err)
}
