package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// nodeUpgradeInput is the task, and how the security upgrade is to be done.
type nodeUpgradeInput struct {
	nodeTask
	Reboot operation.RebootPolicy     `json:"reboot,omitempty"`
	Retire bool                       `json:"retire,omitempty"`
	Pin    bool                       `json:"pin,omitempty"`
	Pins   []operation.PackageVersion `json:"pins,omitempty"`
}

// SecurityUpgradeNode does the steps of one node.
func SecurityUpgradeNode(ctx workflow.Context, in nodeUpgradeInput) (nodeResult, error) {
	n := &nodeUpgrade{in: in, nodeRun: nodeRun{nodeTask: in.nodeTask}}
	return n.see(ctx, n)
}

// nodeUpgrade is the state of one node's child.
type nodeUpgrade struct {
	nodeRun
	in nodeUpgradeInput
}

func (n *nodeUpgrade) steps() []nodeStep {
	return []nodeStep{
		{operation.StepProbe, n.probe},
		{operation.StepRetire, n.retire},
		{operation.StepUpgrade, n.upgrade},
		{operation.StepReboot, n.reboot},
		{operation.StepProof, n.proof},
		{operation.StepGates, n.gates},
		{operation.StepRecord, n.record},
	}
}

func (n *nodeUpgrade) firstJobTry(step string) int {
	if step == operation.StepReboot {
		return 1 + n.progress.RebootJobTry
	}
	return 1
}

// backTo: an upgrade that did nothing although it ended well is only found out when it is recorded. There the node goes back to the upgrade, and its reboot follows again.
func (n *nodeUpgrade) backTo(f *operation.Failure) (string, int) {
	if f.Type == operation.ErrVerify && n.at.Step == operation.StepRecord {
		return operation.StepUpgrade, n.progress.UpgradeTries + 1
	}
	return "", 0
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
		if err := workflow.ExecuteActivity(following(ctx, n.summary("unattended-upgrades -d"), n.ceiling()), nodes.Upgrade, n.upgradeInput()).Get(ctx, &out); err != nil {
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
				"%s: %s again after a repair: look at `dpkg --audit` and /var/log/dpkg.log there", n.Node.Name, why)})
		}
		if err := n.repair(ctx, why); err != nil {
			return err
		}
	}
}

func (n *nodeUpgrade) upgradeInput() activities.UpgradeInput {
	return activities.UpgradeInput{NodeInput: n.input(), AptLockTimeout: n.Plan.AptLockTimeout, Timeout: n.Plan.UpgradeTimeout, Pins: n.in.Pins}
}

// repair runs dpkg --configure -a; the upgrade job's next try follows.
func (n *nodeUpgrade) repair(ctx workflow.Context, why string) error {
	var nodes *activities.Nodes
	var out activities.JobResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("dpkg --configure -a"), n.ceiling()), nodes.Repair, n.input()).Get(ctx, &out); err != nil {
		return err
	}
	if out.Interrupted {
		return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.Node.Name + ": rebooted in the middle of dpkg --configure -a; retry runs it again"})
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
		n.progress.RebootBegan = n.Began
	}
	n.note(out.Notes...)
	return nil
}

func (n *nodeUpgrade) rebootCeiling() time.Duration {
	return n.Plan.BootTimeout.D() + n.Plan.UnreachableAfter.D()
}

func (n *nodeUpgrade) rebootInput() activities.RebootInput {
	return activities.RebootInput{NodeInput: n.input(), Timeout: n.Plan.BootTimeout}
}

// proof shows that the node truly rebooted into what was installed.
func (n *nodeUpgrade) proof(ctx workflow.Context) error {
	if n.progress.BootIDBefore == "" {
		return nil
	}
	var nodes *activities.Nodes
	var out operation.BootProof
	if err := workflow.ExecuteActivity(following(ctx, n.summary("boot proof"), n.Plan.UnreachableAfter.D()), nodes.Proof, activities.ProofInput{NodeInput: n.input(),
		BootIDBefore: n.progress.BootIDBefore, RebootBegan: n.progress.RebootBegan}).Get(ctx, &out); err != nil {
		return err
	}
	n.progress.Proof = &out
	return nil
}

// record notes what was installed, and holds it against the canary's versions.
func (n *nodeUpgrade) record(ctx workflow.Context) error {
	var nodes *activities.Nodes
	var out activities.RecordResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("what was installed"), n.Plan.UnreachableAfter.D()), nodes.Record, activities.RecordInput{NodeInput: n.input(),
		UpgradeTries: n.progress.UpgradeTries, Pins: n.in.Pins}).Get(ctx, &out); err != nil {
		return err
	}
	if n.in.Pin && len(n.in.Pins) == 0 && out.Count > len(out.Changes) {
		return operation.NewError(operation.Failure{Type: operation.ErrPin, Message: fmt.Sprintf(
			"%s: %d packages changed, at most %d can be pinned: run without --pin", n.Node.Name, out.Count, operation.MaxChanges)})
	}
	n.progress.Changes, n.progress.ChangeCount = out.Changes, out.Count
	if len(out.Remaining) > 0 {
		n.note(fmt.Sprintf("%s still pending after the upgrade: %s", count(len(out.Remaining), "package"), oneLine(fmt.Sprint(bound(out.Remaining, 5)), 200)))
	}
	return nil
}

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

func (n *nodeUpgrade) settle(ctx workflow.Context) nodeResult {
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
		if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let the packages finish"), n.ceiling()), nodes.Upgrade, in).Get(ctx, &out); err == nil && out.Started {
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
			if err = workflow.ExecuteActivity(following(ctx, n.summary("cancel: let a repair end"), n.ceiling()), nodes.Repair, repair).Get(ctx, &done); err == nil && done.Started {
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
	return n.settled(state, err)
}
