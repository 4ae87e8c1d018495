package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// nodeReleaseInput is the task, and which release the node gets.
type nodeReleaseInput struct {
	nodeTask
	Dialect operation.UpgradeDialect `json:"dialect"`
	To      string                   `json:"to"`
	Cached  bool                     `json:"cached,omitempty"`
	Offline bool                     `json:"offline,omitempty"`
}

// ReleaseUpgradeNode does the steps of one node. One that was rolled back, by an answer, ends as skipped.
func ReleaseUpgradeNode(ctx workflow.Context, in nodeReleaseInput) (nodeResult, error) {
	n := &nodeRelease{in: in, nodeRun: nodeRun{nodeTask: in.nodeTask}}
	out, err := n.see(ctx, n)
	if out.Status == operation.NodeDone && n.found().Back {
		out.Status = operation.NodeSkipped
	}
	return out, err
}

// nodeRelease is the state of one node's child.
type nodeRelease struct {
	nodeRun
	in nodeReleaseInput
}

func (n *nodeRelease) steps() []nodeStep {
	gates := nodeStep{operation.StepGates, n.gates}
	if n.FromStep == operation.StepNodeBack {
		return []nodeStep{{operation.StepNodeBack, n.back}, gates}
	}
	return []nodeStep{{operation.StepProbe, n.probe}, {operation.StepRelease, n.look}, {operation.StepNodeUpgrade, n.upgrade}, gates}
}

func (n *nodeRelease) firstJobTry(string) int                              { return 1 }
func (n *nodeRelease) backTo(*operation.Failure) (step string, jobTry int) { return "", 0 }

// found is what is known so far; it is a copy of what a former try has found.
func (n *nodeRelease) found() *operation.ReleaseProgress {
	found := operation.ReleaseProgress{}
	if n.progress.Release != nil {
		found = *n.progress.Release
	}
	n.progress.Release = &found
	return n.progress.Release
}

func (n *nodeRelease) releaseInput() activities.ReleaseNodeInput {
	return activities.ReleaseNodeInput{NodeInput: n.input(), Dialect: n.in.Dialect, To: n.in.To, Cached: n.in.Cached, Offline: n.in.Offline, Progress: *n.found(), Timeout: n.Plan.UpgradeTimeout, BootTimeout: n.Plan.BootTimeout}
}

// look keeps which version it had.
func (n *nodeRelease) look(ctx workflow.Context) error {
	var releases *activities.Releases
	var out operation.ReleaseProgress
	if err := workflow.ExecuteActivity(following(ctx, n.summary("which version it has"), n.Plan.UnreachableAfter.D()+n.Plan.BootTimeout.D()), releases.LookAtRelease, n.releaseInput()).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.Release = &out
	return nil
}

// upgrade has kato do it. When the Core rebooted in the middle, as it may by its own upgrade, kato is run once more: it stops by itself where the node is whole, and says where it is not.
func (n *nodeRelease) upgrade(ctx workflow.Context) error {
	for again := false; ; again = true {
		out, err := n.run(ctx, fmt.Sprintf("kato node upgrade to %s", n.in.To), again, false)
		if err != nil {
			return err
		}
		if !out.Interrupted {
			return nil
		}
		if again {
			return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.Node.Name + ": the Core rebooted again in the middle of kato node upgrade: see why, then retry"})
		}
		if n.Node.Core {
			n.note("the Core rebooted in its own upgrade: kato was asked once more whether it is whole")
		} else {
			n.note("the Core rebooted in the middle of kato node upgrade: run again")
		}
		n.jobTry++
	}
}

func (n *nodeRelease) run(ctx workflow.Context, what string, again, settle bool) (out activities.UpgradeNodeResult, err error) {
	var releases *activities.Releases
	in := n.releaseInput()
	in.Again, in.Settle = again, settle
	if err = workflow.ExecuteActivity(following(ctx, n.summary(what), n.upgradeCeiling()), releases.UpgradeNode, in).Get(ctx, &out); err != nil {
		return out, err
	}
	n.note(out.Notes...)
	n.progress.Release = &out.Progress
	return out, nil
}

// upgradeCeiling: one try may have three runs of kato.
func (n *nodeRelease) upgradeCeiling() time.Duration {
	return 3*n.Plan.UpgradeTimeout.D() + 2*n.Plan.BootTimeout.D() + n.Plan.UnreachableAfter.D()
}

// back has kato bring the node back to the version before.
func (n *nodeRelease) back(ctx workflow.Context) error {
	for again := false; ; again = true {
		out, err := n.rollBack(ctx, "kato node upgrade --rollback", false)
		if err != nil {
			return err
		}
		if !out.Interrupted {
			n.note("rolled back to " + out.Progress.Now)
			return nil
		}
		if again {
			return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.Node.Name + ": the Core rebooted again in the middle of the roll back: see why, then retry"})
		}
		n.jobTry++
	}
}

func (n *nodeRelease) rollBack(ctx workflow.Context, what string, settle bool) (out activities.UpgradeNodeResult, err error) {
	var releases *activities.Releases
	in := n.releaseInput()
	in.Settle = settle
	if err = workflow.ExecuteActivity(following(ctx, n.summary(what), n.upgradeCeiling()), releases.RollBackNode, in).Get(ctx, &out); err != nil {
		return out, err
	}
	n.note(out.Notes...)
	n.progress.Release = &out.Progress
	return out, nil
}

func (n *nodeRelease) stateBefore(step string) string {
	switch found := n.found(); {
	case step == operation.StepGates && found.Back:
		return "rolled back, its gates were not awaited"
	case step == operation.StepGates && (found.Upgraded || found.Accepted):
		return "upgraded to " + n.in.To + ", its gates were not awaited"
	}
	return "not upgraded"
}

func (n *nodeRelease) settle(ctx workflow.Context) nodeResult {
	state := n.stateBefore(n.at.Step)
	var out activities.UpgradeNodeResult
	var err error
	switch n.at.Step {
	case operation.StepNodeUpgrade:
		out, err = n.run(ctx, "cancel: let kato end", false, true)
	case operation.StepNodeBack:
		out, err = n.rollBack(ctx, "cancel: let kato end", true)
	}
	if err == nil && out.Started {
		n.found().Begun = true
		state = "kato node upgrade has ended, its version and its gates were not read: see kato version there"
		if out.Interrupted {
			state = "the Core rebooted in the middle of kato node upgrade: see kato version there"
		}
	}
	return n.settled(state, err)
}
