package workflows

import (
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// maintenanceCeiling bounds one attempt to read or set maintenance mode, the Core being away for a reboot included.
const maintenanceCeiling = 30 * time.Minute

// enterMaintenance puts the cluster into maintenance mode and remembers how it was found. False: aborted or cancelled. A procedure may enter and leave more
// than once; whatever becomes of it, finish puts back what it has left.
func (r *run) enterMaintenance(ctx workflow.Context) bool {
	var kato *activities.Kato
	in := activities.MaintenanceInput{Operation: r.op, UnreachableAfter: r.plan.UnreachableAfter}
	r.readOnly, r.readOnlySince = true, workflow.Now(ctx) // from here on it is put back on every path
	r.report.Maintenance = "being set"
	for try := 1; ; try++ {
		var out activities.MaintenanceResult
		err := workflow.ExecuteActivity(following(ctx, "maintenance mode on", maintenanceCeiling), kato.EnterMaintenance, in).Get(ctx, &out)
		if err == nil {
			r.found = out.Found
			r.report.Maintenance = "on (was " + out.Found + ")"
			if out.Note != "" {
				r.report.Warnings = append(r.report.Warnings, out.Note)
			}
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
	defer func() {
		r.readOnly = false
		r.readOnlyFor += workflow.Now(ctx).Sub(r.readOnlySince)
		r.refresh(ctx)
	}()
	var kato *activities.Kato
	in := activities.MaintenanceInput{Operation: r.op, UnreachableAfter: r.plan.UnreachableAfter}
	for try := 1; ; try++ {
		var out activities.MaintenanceResult
		err := workflow.ExecuteActivity(following(ctx, "maintenance mode as found", maintenanceCeiling), kato.LeaveMaintenance, in).Get(ctx, &out)
		if out.Note != "" && !slices.Contains(r.report.Warnings, out.Note) {
			r.report.Warnings = append(r.report.Warnings, out.Note)
		}
		if err == nil && r.found == "off" && out.Now != "off" {
			err = operation.NewError(operation.Failure{Type: operation.ErrMaintenance, Message: "maintenance mode was off before and is " + out.Now +
				" now; its record on the Core is gone: set it back with kato, or look again"})
		}
		if err == nil {
			r.report.Maintenance = "put back (" + out.Now + ")"
			return
		}
		f := operation.FailureOf(err)
		if r.ask(ctx, operation.ClusterNode, operation.StepMaintenanceOff, try, *f, operation.Retry, operation.Leave) != operation.Retry {
			r.report.Maintenance = "left on: " + f.Message
			r.report.Warnings = append(r.report.Warnings, "maintenance mode was not put back: "+f.Message)
			return
		}
	}
}
