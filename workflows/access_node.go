package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// nodeAccessInput is the task, and what is done to the node's access.
type nodeAccessInput struct {
	nodeTask
	Change operation.AccessInput `json:"change"`
	// Given: the key is not that of From, but was given.
	Given bool `json:"given,omitempty"`
	// Passwords: password logins are switched. Keys: keys are changed.
	Passwords bool `json:"passwords,omitempty"`
	Keys      bool `json:"keys,omitempty"`
}

// AccessNode does the steps of one node.
func AccessNode(ctx workflow.Context, in nodeAccessInput) (nodeResult, error) {
	n := &nodeAccess{in: in, nodeRun: nodeRun{nodeTask: in.nodeTask}}
	return n.see(ctx, n)
}

// nodeAccess is the state of one node's child.
type nodeAccess struct {
	nodeRun
	in nodeAccessInput
}

func (n *nodeAccess) steps() []nodeStep {
	steps := []nodeStep{{operation.StepProbe, n.probe}}
	if n.in.Passwords {
		steps = append(steps, nodeStep{operation.StepPasswords, n.passwords})
	}
	if n.in.Keys {
		steps = append(steps, nodeStep{operation.StepKeys, n.keys}, nodeStep{operation.StepLogins, n.logins})
	}
	return steps
}

func (n *nodeAccess) firstJobTry(string) int                              { return 1 }
func (n *nodeAccess) backTo(*operation.Failure) (step string, jobTry int) { return "", 0 }

func (n *nodeAccess) accessInput() activities.AccessNodeInput {
	return activities.AccessNodeInput{NodeInput: n.input(), Change: n.in.Change, Given: n.in.Given, HostKeys: n.progress.HostKeys}
}

func (n *nodeAccess) keys(ctx workflow.Context) error {
	var access *activities.Access
	for again := false; ; again = true {
		var out activities.KeysResult
		if err := workflow.ExecuteActivity(following(ctx, n.summary("authorized_keys"), n.Plan.UnreachableAfter.D()), access.ChangeKeys, n.accessInput()).Get(ctx, &out); err != nil {
			return err
		}
		if out.Interrupted && !again { // what was done is done, the rest is done again
			n.jobTry++
			continue
		}
		n.note(out.Notes...)
		n.progress.HostKeys = out.HostKeys
		if out.Interrupted {
			return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.Node.Name + ": the node rebooted twice while its keys were changed: see why, then retry"})
		}
		return nil
	}
}

func (n *nodeAccess) logins(ctx workflow.Context) error {
	var access *activities.Access
	var out activities.JobResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("logins by key"), n.Plan.UnreachableAfter.D()), access.ProveLogins, n.accessInput()).Get(ctx, &out); err != nil {
		return err
	}
	n.note(out.Notes...)
	return nil
}

// trials is how often password logins are switched off when nobody was there to confirm it, because the worker was away or the node rebooted.
const trials = 3

func (n *nodeAccess) passwords(ctx workflow.Context) error {
	var access *activities.Access
	for try := 1; ; try++ {
		var out activities.PasswordsResult
		if err := workflow.ExecuteActivity(following(ctx, n.summary("password logins"), n.ceiling()), access.ChangePasswords, n.accessInput()).Get(ctx, &out); err != nil {
			return err
		}
		n.note(out.Notes...)
		switch {
		case !out.Reverted && !out.Interrupted:
			return nil
		case try == trials:
			return operation.NewError(operation.Failure{Type: operation.ErrVerify, Message: n.Node.Name + ": nobody confirmed in time that logins work without passwords, so that they are as they were: retry"})
		case out.Reverted:
			n.note("nobody confirmed the change in time, so that the node took it back: tried again")
		default:
			n.note("the node rebooted in the middle, and with that took the change back: tried again")
		}
		n.jobTry++
	}
}

func (n *nodeAccess) stateBefore(step string) string {
	switch step {
	case operation.StepLogins:
		return "its keys are changed, the logins were not tried"
	case operation.StepKeys, operation.StepProbe:
		return "its keys are as they were"
	}
	return "its password logins are as they were"
}

func (n *nodeAccess) settle(ctx workflow.Context) nodeResult {
	state := n.stateBefore(n.at.Step)
	var access *activities.Access
	in := n.accessInput()
	in.Settle = true
	switch n.at.Step {
	case operation.StepKeys:
		var out activities.KeysResult
		err := workflow.ExecuteActivity(following(ctx, n.summary("cancel: let it end"), n.Plan.UnreachableAfter.D()), access.ChangeKeys, in).Get(ctx, &out)
		if err == nil && out.Started && !out.Interrupted {
			state = "its keys are changed, the logins were not tried"
		}
		return n.settled(state, err)
	case operation.StepPasswords:
		var out activities.PasswordsResult
		err := workflow.ExecuteActivity(following(ctx, n.summary("cancel: take the trial back"), n.ceiling()), access.ChangePasswords, in).Get(ctx, &out)
		switch {
		case err != nil || !out.Started || out.Reverted:
		case out.Interrupted:
			state = "the node rebooted while its password logins were switched: see katoflow access check"
		default:
			state = "its password logins are switched"
		}
		return n.settled(state, err)
	}
	return n.settled(state, nil)
}
