package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// nodeUpgradeInput is what a node's child workflow starts from: a node, a step and a try.
type nodeUpgradeInput struct {
	Operation activities.Operation  `json:"operation"`
	Node      operation.PlannedNode `json:"node"`
	// Began is the start of the operation by the server's clock, which a Reset does not change, RFC 3339 with fractions.
	Began string `json:"began"`
	// FromStep is the first step to do, Try which try of it this is; every other step is in its first.
	FromStep string `json:"fromStep"`
	Try      int    `json:"try"`
	// JobTry is the try in the names of the jobs of FromStep: it stays while the outcome of a job is unknown, so that the job is taken up again.
	JobTry int `json:"jobTry"`
	// Round counts how often the node went back to its upgrade; it keeps the tries of the later steps apart.
	Round int `json:"round,omitempty"`
	// Settle starts nothing: it follows what runs to its end, while the operation is being cancelled.
	Settle   bool                       `json:"settle,omitempty"`
	Progress operation.NodeProgress     `json:"progress"`
	Reboot   operation.RebootPolicy     `json:"reboot,omitempty"`
	Retire   bool                       `json:"retire,omitempty"`
	Pin      bool                       `json:"pin,omitempty"`
	Pins     []operation.PackageVersion `json:"pins,omitempty"`
	Baseline []operation.GateFailure    `json:"baseline,omitempty"`
	Plan     nodeLimits                 `json:"plan"`
}

// nodeLimits are the site's numbers.
type nodeLimits struct {
	GateTimes        int                `json:"gateTimes"`
	GateInterval     operation.Duration `json:"gateInterval"`
	GateTimeout      operation.Duration `json:"gateTimeout"`
	UnreachableAfter operation.Duration `json:"unreachableAfter"`
	BootTimeout      operation.Duration `json:"bootTimeout"`
	UpgradeTimeout   operation.Duration `json:"upgradeTimeout"`
	AptLockTimeout   operation.Duration `json:"aptLockTimeout"`
}

// nodeUpgradeResult is how the child ended: done, failed (a step, its try and its cause) or cancelled (in a named state).
type nodeUpgradeResult struct {
	Status   string                 `json:"status"`
	Step     string                 `json:"step"`
	Try      int                    `json:"try"`
	JobTry   int                    `json:"jobTry"`
	Failure  *operation.Failure     `json:"failure,omitempty"`
	Progress operation.NodeProgress `json:"progress"`
	// State is what the node was left as, when cancelled.
	State string `json:"state,omitempty"`
	// Settled: it was already tried to bring the node to a safe state.
	Settled bool `json:"settled,omitempty"`
}

// retry is the input for the failed step's next try. A job whose outcome is unknown keeps its name and is taken up again. An upgrade that did
// nothing although it ended well is only found out when it is recorded: there the node goes back to the upgrade, and its reboot follows again.
func (in nodeUpgradeInput) retry(out nodeUpgradeResult) nodeUpgradeInput {
	in.FromStep, in.Try, in.JobTry, in.Progress = out.Step, out.Try+1, out.JobTry, out.Progress
	switch {
	case out.Failure == nil || operation.OutcomeUnknown(out.Failure.Type):
	case out.Failure.Type == operation.ErrVerify && out.Step == operation.StepRecord:
		in.Round++
		in.FromStep, in.JobTry = operation.StepUpgrade, out.Progress.UpgradeTries+1
		in.Try = max(in.Try, in.JobTry)
	default:
		in.JobTry++
	}
	return in
}

// SecurityUpgradeNode does the steps of one node. It never parks: what fails is its result, and the operation asks.
func SecurityUpgradeNode(ctx workflow.Context, in nodeUpgradeInput) (nodeUpgradeResult, error) {
	n := &nodeUpgrade{in: in, progress: in.Progress, jobTry: 1}
	if err := workflow.SetQueryHandlerWithOptions(ctx, operation.QueryProgress,
		func() (operation.NodeStep, error) { return n.at, nil },
		workflow.QueryHandlerOptions{Description: "The step the node is at"}); err != nil {
		return nodeUpgradeResult{}, err
	}
	if in.Settle {
		n.enter(ctx, in.FromStep, in.Try, in.JobTry)
		return n.settle(ctx), nil
	}
	return n.run(ctx), nil
}

// nodeUpgrade is the state of one node's child.
type nodeUpgrade struct {
	in       nodeUpgradeInput
	progress operation.NodeProgress
	at       operation.NodeStep
	jobTry   int
}

// run does the steps in order, from the one it was told to begin with.
func (n *nodeUpgrade) run(ctx workflow.Context) nodeUpgradeResult {
	steps := []struct {
		name string
		do   func(workflow.Context) error
	}{
		{operation.StepProbe, n.probe},
		{operation.StepRetire, n.retire},
		{operation.StepUpgrade, n.upgrade},
		{operation.StepReboot, n.reboot},
		{operation.StepProof, n.proof},
		{operation.StepGates, n.gates},
		{operation.StepRecord, n.record},
	}
	begun := false
	for _, step := range steps {
		if step.name == n.in.FromStep {
			begun = true
			n.enter(ctx, step.name, n.in.Try, n.in.JobTry)
		} else if !begun {
			continue
		} else {
			jobTry := 1
			if step.name == operation.StepReboot {
				jobTry += n.progress.RebootJobTry
			}
			n.enter(ctx, step.name, 1+n.in.Round, jobTry)
		}
		if ctx.Err() != nil {
			return n.cancelled(n.stateBefore(step.name))
		}
		if err := step.do(ctx); err != nil {
			if isCancel(err) || ctx.Err() != nil {
				ctx, _ = workflow.NewDisconnectedContext(ctx)
				return n.settle(ctx)
			}
			return n.failed(operation.FailureOf(err))
		}
	}
	if !begun {
		return n.failed(&operation.Failure{Type: operation.ErrInternal, Message: fmt.Sprintf("%s: there is no step %q", n.in.Node.Name, n.in.FromStep)})
	}
	return n.end(operation.NodeDone)
}

func (n *nodeUpgrade) enter(ctx workflow.Context, step string, try, jobTry int) {
	n.at, n.jobTry = operation.NodeStep{Step: step, Try: try, Since: stamp(ctx)}, jobTry
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s**: step **%s**, try %d, since %s\n", cell(n.in.Node.Name, 80), step, try, n.at.Since))
}

func (n *nodeUpgrade) end(status string) nodeUpgradeResult {
	return nodeUpgradeResult{Status: status, Step: n.at.Step, Try: n.at.Try, JobTry: n.jobTry, Progress: n.progress}
}

func (n *nodeUpgrade) failed(f *operation.Failure) nodeUpgradeResult {
	out := n.end(operation.NodeFailed)
	out.Failure = f
	return out
}

func (n *nodeUpgrade) cancelled(state string) nodeUpgradeResult {
	out := n.end(operation.NodeCancelled)
	out.State, out.Settled = state, true
	return out
}

// input of an activity on this node; the summary names node, step and try.
func (n *nodeUpgrade) input() activities.NodeInput {
	return activities.NodeInput{Operation: n.in.Operation, Node: n.in.Node, JobTry: n.jobTry, UnreachableAfter: n.in.Plan.UnreachableAfter}
}

func (n *nodeUpgrade) summary(what string) string {
	if n.jobTry > 1 {
		return fmt.Sprintf("%s: %s (try %d)", n.in.Node.Name, what, n.jobTry)
	}
	return n.in.Node.Name + ": " + what
}

// probe reaches the node and takes its lease. Packages that somebody left half configured are repaired first.
func (n *nodeUpgrade) probe(ctx workflow.Context) error {
	var nodes *activities.Nodes
	var out activities.ProbeResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("reach it, take the lease"), n.in.Plan.UnreachableAfter.D()), nodes.Probe, n.input()).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.HalfConfigured = len(out.HalfConfigured) > 0
	return nil
}

// retire moves the app instances of a DEA to others.
func (n *nodeUpgrade) retire(ctx workflow.Context) error {
	if !n.in.Retire {
		return nil
	}
	var kato *activities.Kato
	var out activities.JobResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("retire: move app instances to other DEAs"), retireCeiling), kato.Retire, n.input()).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.Retired = true
	n.note(out.Notes...)
	return nil
}

// retireCeiling bounds one `kato node retire`.
const retireCeiling = time.Hour

// upgrade fetches the package lists and runs unattended-upgrades -d. What was interrupted is repaired once and then tried again.
func (n *nodeUpgrade) upgrade(ctx workflow.Context) error {
	var nodes *activities.Nodes
	if n.progress.HalfConfigured {
		if err := n.repair(ctx, "packages were half configured before the upgrade"); err != nil {
			return err
		}
	}
	for repaired := false; ; repaired = true {
		var out activities.UpgradeResult
		if err := workflow.ExecuteActivity(following(ctx, n.summary("unattended-upgrades -d"), n.upgradeCeiling()), nodes.Upgrade, n.upgradeInput()).Get(ctx, &out); err != nil {
			return err
		}
		n.note(out.Notes...)
		if !out.NeedsRepair {
			n.progress.Upgraded, n.progress.UpgradeTries, n.progress.RebootRequired = true, n.jobTry, out.RebootRequired
			return nil
		}
		why := "dpkg left packages half configured"
		if out.Interrupted {
			why = "the upgrade was interrupted"
		}
		if repaired {
			return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: fmt.Sprintf(
				"%s: %s again after a repair: look at `dpkg --audit` and /var/log/dpkg.log there", n.in.Node.Name, why)})
		}
		if err := n.repair(ctx, why); err != nil {
			return err
		}
	}
}

func (n *nodeUpgrade) upgradeCeiling() time.Duration {
	return n.in.Plan.UpgradeTimeout.D() + n.in.Plan.AptLockTimeout.D() + n.in.Plan.UnreachableAfter.D()
}

func (n *nodeUpgrade) upgradeInput() activities.UpgradeInput {
	return activities.UpgradeInput{NodeInput: n.input(), AptLockTimeout: n.in.Plan.AptLockTimeout, Timeout: n.in.Plan.UpgradeTimeout, Pins: n.in.Pins}
}

// repair runs dpkg --configure -a; the upgrade job's next try follows.
func (n *nodeUpgrade) repair(ctx workflow.Context, why string) error {
	var nodes *activities.Nodes
	var out activities.JobResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("dpkg --configure -a"), n.upgradeCeiling()), nodes.Repair, n.input()).Get(ctx, &out); err != nil {
		return err
	}
	if out.Interrupted {
		return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.in.Node.Name + ": rebooted in the middle of dpkg --configure -a; retry runs it again"})
	}
	n.note(why + ": repaired with dpkg --configure -a")
	n.note(out.Notes...)
	n.progress.HalfConfigured = false
	n.jobTry++
	return nil
}

// reboot restarts the node as the policy says, and waits until it is back.
func (n *nodeUpgrade) reboot(ctx workflow.Context) error {
	switch {
	case n.in.Reboot == operation.RebootNever:
		n.note("not rebooted: the policy says never")
		return nil
	case n.in.Reboot == operation.RebootIfRequired && !n.progress.RebootRequired:
		n.note("not rebooted: nothing requires it")
		return nil
	}
	if n.progress.RebootBegan == "" || n.progress.RebootJobTry != n.jobTry {
		n.progress.RebootBegan, n.progress.RebootJobTry = workflow.Now(ctx).UTC().Format(time.RFC3339Nano), n.jobTry
	}
	var nodes *activities.Nodes
	var out activities.RebootResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("reboot and wait for it to return"), n.rebootCeiling()), nodes.Reboot, n.rebootInput()).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.BootIDBefore = out.BootIDBefore
	if out.Earlier { // by a run before a Reset, or by an attempt that nobody heard of any more
		n.progress.RebootBegan = n.in.Began
	}
	n.note(out.Notes...)
	return nil
}

func (n *nodeUpgrade) rebootCeiling() time.Duration {
	return n.in.Plan.BootTimeout.D() + n.in.Plan.UnreachableAfter.D()
}

func (n *nodeUpgrade) rebootInput() activities.RebootInput {
	return activities.RebootInput{NodeInput: n.input(), Timeout: n.in.Plan.BootTimeout}
}

// proof shows that the node truly rebooted into what was installed.
func (n *nodeUpgrade) proof(ctx workflow.Context) error {
	if n.progress.BootIDBefore == "" {
		return nil
	}
	var nodes *activities.Nodes
	var out operation.BootProof
	if err := workflow.ExecuteActivity(following(ctx, n.summary("boot proof"), n.in.Plan.UnreachableAfter.D()), nodes.Proof, activities.ProofInput{NodeInput: n.input(),
		BootIDBefore: n.progress.BootIDBefore, RebootBegan: n.progress.RebootBegan}).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.Proof = &out
	return nil
}

// gates must hold several times in a row.
func (n *nodeUpgrade) gates(ctx workflow.Context) error {
	var nodes *activities.Nodes
	var out activities.GatesResult
	err := workflow.ExecuteActivity(following(ctx, n.summary("gates"), n.in.Plan.GateTimeout.D()), nodes.Gates, activities.NodeGatesInput{NodeInput: n.input(),
		Baseline: n.in.Baseline, Times: n.in.Plan.GateTimes, Interval: n.in.Plan.GateInterval, Timeout: n.in.Plan.GateTimeout}).Get(ctx, &out)
	if err != nil {
		return err
	}
	if !out.Held {
		return operation.NewError(gatesFailure(n.in.Node.Name, out, nil))
	}
	return nil
}

// record notes what was installed, and holds it against the canary's versions.
func (n *nodeUpgrade) record(ctx workflow.Context) error {
	var nodes *activities.Nodes
	var out activities.RecordResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("what was installed"), n.in.Plan.UnreachableAfter.D()), nodes.Record, activities.RecordInput{NodeInput: n.input(),
		UpgradeTries: n.progress.UpgradeTries, Pins: n.in.Pins}).Get(ctx, &out); err != nil {
		return err
	}
	if n.in.Pin && len(n.in.Pins) == 0 && out.Count > len(out.Changes) {
		return operation.NewError(operation.Failure{Type: operation.ErrPin, Message: fmt.Sprintf(
			"%s: %d packages changed, at most %d can be pinned: run without --pin", n.in.Node.Name, out.Count, operation.MaxChanges)})
	}
	n.progress.Changes, n.progress.ChangeCount = out.Changes, out.Count
	if len(out.Remaining) > 0 {
		n.note(fmt.Sprintf("%s still pending after the upgrade: %s", count(len(out.Remaining), "package"), oneLine(fmt.Sprint(bound(out.Remaining, 5)), 200)))
	}
	return nil
}

// note adds lines to the report, each once.
func (n *nodeUpgrade) note(lines ...string) {
	for _, l := range lines {
		seen := false
		for _, have := range n.progress.Notes {
			seen = seen || have == l
		}
		if !seen && len(n.progress.Notes) < 20 {
			n.progress.Notes = append(n.progress.Notes, l)
		}
	}
}

// stateBefore names the state of a node that is cancelled between two steps.
func (n *nodeUpgrade) stateBefore(step string) string {
	switch step {
	case operation.StepProbe:
		return "untouched"
	case operation.StepRetire:
		return "not upgraded"
	case operation.StepUpgrade:
		if n.progress.Retired {
			return "retired, not upgraded: its instances run on other DEAs"
		}
		return "not upgraded"
	case operation.StepReboot:
		return "upgraded, not rebooted"
	case operation.StepProof:
		if n.progress.BootIDBefore == "" {
			return "upgraded, not rebooted"
		}
		return "upgraded and rebooted, the reboot is not proved"
	}
	return "upgraded and rebooted, its gates were not awaited"
}

// settle ends a cancelled step: a job that may not be interrupted is followed to its end, and nothing is started. ctx is not cancelled.
func (n *nodeUpgrade) settle(ctx workflow.Context) nodeUpgradeResult {
	var nodes *activities.Nodes
	var kato *activities.Kato
	state, err := n.stateBefore(n.at.Step), error(nil)
	switch n.at.Step {
	case operation.StepRetire:
		in := n.input()
		in.Settle = true
		var out activities.JobResult
		if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let a retire end"), retireCeiling), kato.Retire, in).Get(ctx, &out); err == nil && out.Started {
			state = "retired or partly retired, not upgraded"
		}
	case operation.StepUpgrade:
		in := n.upgradeInput()
		in.Settle = true
		var out activities.UpgradeResult
		if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let the packages finish"), n.upgradeCeiling()), nodes.Upgrade, in).Get(ctx, &out); err == nil && out.Started {
			state = "upgraded, not rebooted"
			if out.NeedsRepair {
				state = "the upgrade was interrupted: run dpkg --configure -a there, or start the operation again"
			}
			n.progress.Upgraded = !out.NeedsRepair
			if !out.NeedsRepair {
				break
			}
		}
		if err == nil { // a repair may be what runs
			repair := n.input()
			repair.Settle = true
			var done activities.JobResult
			if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let a repair end"), n.upgradeCeiling()), nodes.Repair, repair).Get(ctx, &done); err == nil && done.Started {
				state = "repaired with dpkg --configure -a, not upgraded"
			}
		}
	case operation.StepReboot:
		in := n.rebootInput()
		in.Settle = true
		var out activities.RebootResult
		if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: wait for it to return"), n.rebootCeiling()), nodes.Reboot, in).Get(ctx, &out); err == nil && out.Started {
			n.progress.BootIDBefore = out.BootIDBefore
			state = "upgraded and rebooted, the reboot is not proved"
		}
	}
	if err != nil {
		f := operation.FailureOf(err)
		out := n.failed(f)
		out.Settled = true
		if !operation.OutcomeUnknown(f.Type) { // it is known how the job ended: badly, and nothing runs any more
			out.Status, out.State = operation.NodeCancelled, "step "+n.at.Step+" failed: "+f.Message
		}
		return out
	}
	return n.cancelled(state)
}
