package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Kato runs what kato does for the whole cluster, on the Core node. Its fields are set by the worker and not changed afterwards.
type Kato struct {
	Source      *Source
	Connections Connections
	Jobs        Jobs
	// Logger gets the output of jobs line by line; nil for none.
	Logger *zap.Logger
}

const (
	// retireCeiling bounds one `kato node retire`, which once hung on a password (kato.md §3.3).
	retireCeiling = 50 * time.Minute
	mostTries     = 50
)

// Retire moves the app instances of a DEA to other DEAs before it is upgraded (job `retire` on the Core: kato node retire --node ID, kato.md §3.3). The job
// is started at most once a try, and stopped when the operation is cancelled. kato has no command that tells where instances are, so its exit code
// is all that is known; the report says so.
func (k *Kato) Retire(ctx context.Context, in NodeInput) (JobResult, error) {
	a := begin(ctx, "retire")
	defer a.finish()
	s, err := k.Source.site(in.Operation.Cluster)
	if err != nil {
		return JobResult{}, err
	}
	t, err := s.target(in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	core, err := s.core()
	if err != nil {
		return JobResult{}, err
	}
	id, err := nodeID(a.ctx, t)
	if err != nil {
		return JobResult{}, err
	}
	job := jobRun{jobs: k.Jobs, host: core.host, spec: s.retireJob(in.Operation, in.Node.Name, id, in.JobTry), settle: in.Settle,
		log: logOf(k.Logger, in.Operation, in.Node.Name, operation.StepRetire), unreachableAfter: in.UnreachableAfter.D(), ceiling: retireCeiling}
	end, err := job.run(a)
	if err != nil {
		return JobResult{}, err
	}
	result, err := job.result(end)
	if err != nil {
		return result, err
	}
	if result.Interrupted {
		return result, failJob(operation.ErrInterrupted, core.host.Name, job.spec.ID.Dir(), "", "the Core rebooted while kato retired %s: retry", remote.Escape(in.Node.Name))
	}
	if result.Started {
		if said := refusal(string(end.tail)); said != "" {
			return result, failJob(operation.ErrVerify, core.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "kato node retire ended with 0 and said: %s", said)
		}
	}
	return result, nil
}

// refusal finds the words of a kato that fails and exits 0 (kato.md §0.4).
func refusal(out string) string {
	for line := range strings.Lines(kato.Clean([]byte(out))) {
		line = strings.TrimSpace(line)
		lower := strings.ToLower(line)
		if strings.HasPrefix(lower, "error") || strings.HasPrefix(lower, "usage:") || strings.HasPrefix(lower, "fatal") {
			return oneLine(line, 200)
		}
	}
	return ""
}

// maintenanceRecord is kept on the Core while an operation may have changed the mode.
type maintenanceRecord struct {
	Operation string `json:"operation"`
	Token     int64  `json:"token"`
	// Found is "on" or "off".
	Found string `json:"found"`
}

// parseRecord reads a record; one that cannot be read is none, and then the mode as it is counts as found.
func parseRecord(text string) (maintenanceRecord, bool) {
	var r maintenanceRecord
	if json.Unmarshal([]byte(strings.TrimSpace(text)), &r) != nil || r.Operation == "" || r.Found != "on" && r.Found != "off" {
		return maintenanceRecord{}, false
	}
	return r, true
}

// maintenance is one look at the Core.
type maintenance struct {
	on       bool
	record   maintenanceRecord
	recorded bool
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// EnterMaintenance makes the Cloud Controller read-only (kato.md §4). Before it changes anything it writes down on the Core, in katoflow's own
// folder, how it found the mode. When the mode is on with the record of another operation, that one is closed (this one holds the cluster's lock)
// and could not clean up: what it had found counts. On without a record is the operator's own. Repeating it is harmless: the record of this
// operation stays as it was first written.
//
// Errors: Maintenance when the mode cannot be read or set, or reads otherwise afterwards; Unreachable, Fenced and what package remote tells.
func (k *Kato) EnterMaintenance(ctx context.Context, in MaintenanceInput) (MaintenanceResult, error) {
	a := begin(ctx, "maintenance mode on")
	defer a.finish()
	s, core, err := k.where(in)
	if err != nil {
		return MaintenanceResult{}, err
	}
	have, err := k.read(a, s, core, in)
	if err != nil {
		return MaintenanceResult{}, err
	}
	out := MaintenanceResult{Found: onOff(have.on)}
	switch {
	case have.recorded && have.record.Operation == in.Operation.ID:
		out.Found = have.record.Found
	case have.recorded && have.on:
		out.Found = have.record.Found
		out.Note = oneLine(fmt.Sprintf("maintenance mode was left on by operation %s, which had found it %s", have.record.Operation, have.record.Found), 300)
	case have.on:
		out.Note = "maintenance mode was on already and will stay on"
	}
	if !have.recorded || have.record.Operation != in.Operation.ID {
		if err := k.writeRecord(a, s, core, in, maintenanceRecord{Operation: in.Operation.ID, Token: in.Operation.Token, Found: out.Found}); err != nil {
			return MaintenanceResult{}, err
		}
	}
	if out.Now, err = k.set(a, s, core, in, operation.StepMaintenanceOn, have, true); err != nil {
		return MaintenanceResult{}, err
	}
	return out, nil
}

// LeaveMaintenance stops what an EnterMaintenance of this operation has left running, or waiting for its start, on the Core; then it puts the mode back as
// the record of this operation says it was found, reads it, and removes the record. Without a record of this operation there is nothing to put back; the
// note says so, and when the mode is on. Repeating it is harmless. Errors as EnterMaintenance, and RemoteExit when a job cannot be stopped.
func (k *Kato) LeaveMaintenance(ctx context.Context, in MaintenanceInput) (MaintenanceResult, error) {
	a := begin(ctx, "maintenance mode as found")
	defer a.finish()
	s, core, err := k.where(in)
	if err != nil {
		return MaintenanceResult{}, err
	}
	// What this operation began may still run, or wait on the Core for its start: it must not set the mode after it was put back.
	for _, step := range []string{stepRecord, operation.StepMaintenanceOn} {
		if err := k.forbid(a, core, in, step); err != nil {
			return MaintenanceResult{}, err
		}
	}
	have, err := k.read(a, s, core, in)
	if err != nil {
		return MaintenanceResult{}, err
	}
	if !have.recorded || have.record.Operation != in.Operation.ID {
		out := MaintenanceResult{Found: onOff(have.on), Now: onOff(have.on), Note: "this operation has no record on the Core: nothing to put back"}
		switch {
		case have.on && have.recorded:
			out.Note = oneLine(fmt.Sprintf("maintenance mode is on and left on: it is operation %s that has changed it, by the record on the Core", have.record.Operation), 300)
		case have.on:
			out.Note = "maintenance mode is on and left on: there is no record on the Core of how it was found; turn it off by hand unless it is meant to be on"
		}
		return out, nil
	}
	out := MaintenanceResult{Found: have.record.Found}
	if out.Now, err = k.set(a, s, core, in, operation.StepMaintenanceOff, have, out.Found == "on"); err != nil {
		return MaintenanceResult{}, err
	}
	err = a.persist(core.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) error {
		_, err := ask(ctx, k.Connections, core.host, forgetScript, recordText(have.record))
		return err
	})
	return out, err
}

var (
	maintenanceScript = script("maintenance")
	forgetScript      = script("forget")
)

func (k *Kato) where(in MaintenanceInput) (site, target, error) {
	s, err := k.Source.site(in.Operation.Cluster)
	if err != nil {
		return site{}, target{}, err
	}
	core, err := s.core()
	return s, core, err
}

// read looks at the mode and the record.
func (k *Kato) read(a *attempt, s site, core target, in MaintenanceInput) (maintenance, error) {
	var read answer
	argv := s.kato().ReadMaintenance()
	err := a.persist(core.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		read, err = askFor(ctx, s.cluster.Kato.Timeout.Std()+time.Minute, k.Connections, core.host, maintenanceScript, append([]string{katoSeconds(s)}, argv...)...)
		return err
	})
	if err != nil {
		return maintenance{}, err
	}
	if code := read.exit("mode-exit"); code != 0 {
		what := fmt.Sprintf("ended with exit code %d", code)
		if code == 124 {
			what = "gave no answer within " + s.cluster.Kato.Timeout.String()
		}
		return maintenance{}, failJob(operation.ErrMaintenance, core.host.Name, "", remote.Tail([]byte(read.sections["mode"]), maxTail),
			"maintenance mode cannot be read: %s %s: see to kato on the Core, then retry", remote.Quote(argv), what)
	}
	var out maintenance
	if out.on, err = kato.ParseBool([]byte(read.sections["mode"])); err != nil {
		return maintenance{}, failJob(operation.ErrMaintenance, core.host.Name, "", remote.Tail([]byte(read.sections["mode"]), maxTail),
			"maintenance mode cannot be read: %v: see to kato on the Core, then retry", err)
	}
	out.record, out.recorded = parseRecord(read.sections["record"])
	return out, nil
}

// writeRecord runs as a job, so that an operation that was superseded cannot write over the record of the newer one.
func (k *Kato) writeRecord(a *attempt, s site, core target, in MaintenanceInput, r maintenanceRecord) error {
	return k.mutate(a, core, in, func(try int) remote.JobSpec {
		return remote.JobSpec{ID: jobID(in.Operation, operation.ClusterNode, stepRecord, try), Lease: lease(in.Operation),
			Argv: []string{"sh", "-c", keepScript, "sh", recordText(r)}, Interruptible: true}
	}, time.Minute, func() (bool, string, error) {
		have, err := k.read(a, s, core, in)
		return err == nil && have.recorded && have.record == r, "the record of the maintenance mode cannot be read back", err
	})
}

// forbid ends every try of a job that may still do something, and the first that was never started cannot be any more.
func (k *Kato) forbid(a *attempt, core target, in MaintenanceInput, step string) error {
	for try := 1; try < mostTries; try++ {
		id := jobID(in.Operation, operation.ClusterNode, step, try)
		var done bool
		err := a.persist(core.host.Name, in.UnreachableAfter.D(), id.Dir(), func(ctx context.Context) error {
			status, err := k.Jobs.Status(ctx, core.host, id)
			if err != nil || status.State != remote.JobAbsent && status.State != remote.JobRunning {
				return err
			}
			status, err = k.Jobs.Stop(ctx, core.host, id, stopGrace)
			// One that was started between the two is stopped; then the next try is the first that never was.
			done = err == nil && status.NeverStarted
			return err
		})
		if err != nil || done {
			return err
		}
	}
	return nil
}

// stepRecord names the jobs that write the record.
const stepRecord = "maintenance-record"

var keepScript = script("keep")

func recordText(r maintenanceRecord) string {
	b, _ := json.Marshal(r) // two strings and a number
	return string(b)
}

// set brings the mode to what is wanted, and reads it.
func (k *Kato) set(a *attempt, s site, core target, in MaintenanceInput, step string, have maintenance, want bool) (string, error) {
	if have.on == want {
		return onOff(want), nil
	}
	err := k.mutate(a, core, in, func(try int) remote.JobSpec { return s.maintenanceJob(in.Operation, step, want, try) }, s.cluster.Kato.Timeout.Std(),
		func() (bool, string, error) {
			now, err := k.read(a, s, core, in)
			return err == nil && now.on == want, "kato said it was done, and maintenance mode is still " + onOff(now.on), err
		})
	if err != nil {
		return "", err
	}
	return onOff(want), nil
}

// mutate runs one try of a job and verifies it by a read: the first that has not ended. A try that has ended belongs to an earlier activity, which was
// answered by a person: what it did is verified before, by the caller. Only in a later attempt of the same activity the try that ended last is this
// activity's own, and counts as it ended, unless the attempt before said that it had come to the next; so no attempt starts the command a second time by itself.
func (k *Kato) mutate(a *attempt, core target, in MaintenanceInput, spec func(try int) remote.JobSpec, ceiling time.Duration, verify func() (bool, string, error)) error {
	try, own := 1, 0
	for ; try < mostTries; try++ {
		var status remote.JobStatus
		id := spec(try).ID
		err := a.persist(core.host.Name, in.UnreachableAfter.D(), id.Dir(), func(ctx context.Context) (err error) {
			status, err = k.Jobs.Status(ctx, core.host, id)
			return err
		})
		if err != nil {
			return err
		}
		if status.State == remote.JobRunning {
			break
		}
		if status.State == remote.JobAbsent {
			if a.again && own > 0 && a.previous.Job != id.Dir() {
				try = own
			}
			break
		}
		own = try
		if status.NeverStarted {
			own = 0
		}
	}
	s := spec(try)
	job := jobRun{jobs: k.Jobs, host: core.host, spec: s, log: logOf(k.Logger, in.Operation, core.host.Name, s.ID.Step), unreachableAfter: in.UnreachableAfter.D(), ceiling: ceiling}
	end, err := job.run(a)
	if err == nil && end.State == remote.JobExited && end.ExitCode != 0 {
		err = job.exited(end)
	}
	if err != nil {
		return maintenanceError(err)
	}
	// Interrupted or lost: the read tells, as it does for exit code 0, which is no proof (kato.md §0.4).
	ok, why, err := verify()
	if err != nil {
		return err
	}
	if !ok {
		switch end.State {
		case remote.JobLost:
			return job.lost(end)
		case remote.JobInterrupted:
			why = "the Core rebooted while the job " + s.ID.Step + " ran, and it had no effect"
		}
		return failJob(operation.ErrMaintenance, core.host.Name, s.ID.Dir(), remote.Tail(end.tail, maxTail), "%s: see to kato on the Core, then retry", why)
	}
	return nil
}

// maintenanceError gives a failed command the type that says what it was about; what says that the outcome is unknown keeps its own.
func maintenanceError(err error) error {
	f := operation.FailureOf(err)
	if f == nil || f.Type != operation.ErrRemoteExit && f.Type != operation.ErrTimeout {
		return err
	}
	f.Type = operation.ErrMaintenance
	return operation.NewError(*f)
}
