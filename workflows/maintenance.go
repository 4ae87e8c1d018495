package workflows

import (
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

const (
	// maintenanceCeiling bounds one attempt to read or set maintenance mode, the Core being away for a reboot included.
	maintenanceCeiling = 30 * time.Minute
	// signCeiling is longer than any operation.
	signCeiling = 90 * 24 * time.Hour
)

// leftOn is how a report begins its word of a mode that could not be put back.
const leftOn = "left on: "

// readOnlyMode is what an operation knows of the cluster's maintenance mode.
type readOnlyMode struct {
	found         string        // as it was found
	readOnly      bool          // it is to be put back
	entered       bool          // it is on, and nothing that sets it is under way any more
	readOnlySince time.Time     // when it was begun to be set
	readOnlyFor   time.Duration // how long it was on by this operation, all together
	endSigns      func()        // ends the signs of life for the dead-man; nil for none
}

// A procedure whose cluster may become writable again while nobody is there to go on with it may have a dead-man. Never one that would be broken by that, as an
// import, a snapshot, a release upgrade or a relocation of storage: those do not have this method.
type deadManAllowed interface{ deadManAllowed() }

// What an export has written is thrown away when maintenance mode ended before it.
func (b *backup) deadManAllowed() {}

// Maintenance mode only keeps the upgrade of the hosts from being disturbed.
func (u *securityUpgrade) deadManAllowed() {}

func (r *run) maintenanceInput() activities.MaintenanceInput {
	_, deadMan := r.procedure.(deadManAllowed)
	return activities.MaintenanceInput{Operation: r.op, UnreachableAfter: r.plan.UnreachableAfter, DeadMan: deadMan}
}

// warn adds a warning, once.
func (r *run) warn(text string) {
	if text != "" && !slices.Contains(r.report.Warnings, text) {
		r.report.Warnings = append(r.report.Warnings, text)
	}
}

// enterMaintenance puts the cluster into maintenance mode and remembers how it was found. False: aborted or cancelled. A procedure may enter and leave more
// than once; whatever becomes of it, finish puts back what it has left.
func (r *run) enterMaintenance(ctx workflow.Context) bool {
	var kato *activities.Kato
	in := r.maintenanceInput()
	r.readOnly, r.entered, r.readOnlySince = true, false, workflow.Now(ctx) // from here on it is put back on every path
	r.report.Maintenance = "being set"
	for try := 1; ; try++ {
		var out activities.MaintenanceResult
		err := workflow.ExecuteActivity(following(ctx, "maintenance mode on", maintenanceCeiling), kato.EnterMaintenance, in).Get(ctx, &out)
		if err == nil {
			r.found, r.entered, r.readOnlySince = out.Found, true, workflow.Now(ctx).Add(-out.Ago.D())
			r.report.Maintenance = "on (was " + out.Found + ")"
			r.warn(out.Note)
			r.giveSigns(ctx, in, out.SignEvery)
			r.refresh(ctx)
			return true
		}
		if isCancel(err) || ctx.Err() != nil {
			return false
		}
		switch r.ask(ctx, operation.ClusterNode, operation.StepMaintenanceOn, try, *operation.FailureOf(err), operation.Retry, operation.Abort) {
		case operation.Retry:
		case operation.Abort:
			r.aborting = true
			return false
		default:
			return false
		}
	}
}

// leaveMaintenance puts the mode back as it was found. A cluster that stays read-only is a question, not a log line. ctx is not cancelled.
func (r *run) leaveMaintenance(ctx workflow.Context) {
	var back time.Duration // how long it was back when the activity ended
	defer func() {
		r.readOnly, r.entered = false, false
		r.readOnlyFor += max(workflow.Now(ctx).Sub(r.readOnlySince)-back, 0)
		r.refresh(ctx)
	}()
	if r.endSigns != nil {
		// They are not waited for: what they write means nothing without the record.
		defer r.endSigns()
		r.endSigns = nil
	}
	var kato *activities.Kato
	in := r.maintenanceInput()
	in.Entered, in.Found = r.entered, r.found
	for try := 1; ; try++ {
		var out activities.MaintenanceResult
		err := workflow.ExecuteActivity(following(ctx, "maintenance mode as found", maintenanceCeiling), kato.LeaveMaintenance, in).Get(ctx, &out)
		r.warn(out.Note)
		if err == nil && r.found == "off" && out.Now != "off" {
			err = operation.NewError(operation.Failure{Type: operation.ErrMaintenance, Message: "maintenance mode was off before and is " + out.Now +
				" now; its record on the Core is gone: set it back with kato, or look again"})
		}
		if err == nil {
			r.report.Maintenance = "put back (" + out.Now + ")"
			back = out.Ago.D()
			return
		}
		f := operation.FailureOf(err)
		if r.ask(ctx, operation.ClusterNode, operation.StepMaintenanceOff, try, *f, operation.Retry, operation.Leave) != operation.Retry {
			r.report.Maintenance = leftOn + f.Message
			r.report.Warnings = append(r.report.Warnings, "maintenance mode was not put back: "+f.Message)
			return
		}
	}
}

// giveSigns shows the dead-man that the operation lives, beside the steps, until the mode is put back.
func (r *run) giveSigns(ctx workflow.Context, in activities.MaintenanceInput, every operation.Duration) {
	if every <= 0 {
		return
	}
	var kato *activities.Kato
	disconnected, _ := workflow.NewDisconnectedContext(ctx) // until the cleanup of a cancelled operation is done
	signs, cancel := workflow.WithCancel(disconnected)
	options := workflow.GetActivityOptions(following(signs, "sign of life for the dead-man on the Core", signCeiling))
	options.WaitForCancellation = false
	workflow.ExecuteActivity(workflow.WithActivityOptions(signs, options), kato.SignOfLife, activities.SignOfLifeInput{MaintenanceInput: in, SignEvery: every})
	r.endSigns = cancel
}
