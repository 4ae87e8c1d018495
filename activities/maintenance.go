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

// The read-only mode of the Cloud Controller (kato.md §4). An operation that turns it on writes down on the Core how it found it, before anything else, so that
// whoever comes after a killed or terminated operation knows what to put back. See docs/maintenance.md.

// mostTries bounds the jobs of one kind that one operation may begin.
const mostTries = 50

var (
	maintenanceScript    = script("maintenance")
	setMaintenanceScript = script("maintenance_set")
	maintenanceNowScript = script("maintenance_now")
	forgetScript         = script("forget")
)

// maintenanceRecord is kept on the Core while an operation may have changed the mode.
type maintenanceRecord struct {
	Operation string `json:"operation"`
	Token     int64  `json:"token"`
	// Try of the job that wrote it: an operation may enter and leave more than once, and no two of its records are the same.
	Try int `json:"try,omitempty"`
	// Found is "on" or "off". It stands last.
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

func recordText(r maintenanceRecord) string {
	b, _ := json.Marshal(r) // strings and numbers
	return string(b)
}

// recordOwner is how all records of an operation begin.
func recordOwner(operation string) string {
	text, _, _ := strings.Cut(recordText(maintenanceRecord{Operation: operation}), `"token":`)
	return text
}

// maintenance is one look at the Core.
type maintenance struct {
	on       bool
	record   maintenanceRecord
	recorded bool
	// unreadable: there is a record, and it cannot be read.
	unreadable bool
	// said is what a dead-man did, "" for nothing; saidOf is its operation.
	said, saidOf string
}

func (m maintenance) of(operation string) bool { return m.recorded && m.record.Operation == operation }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// EnterMaintenance makes the Cloud Controller read-only (kato.md §4). Before it changes anything it writes down on the Core, in katoflow's own
// folder, how it found the mode. When the mode is on with the record of another operation, that one is closed (this one holds the cluster's lock)
// and could not clean up: what it had found counts. On without a record is the operator's own. Repeating it is harmless: the record of this
// operation stays as it was first written. Record, change and the read that proves it are one job, `maintenance-on`.
//
// Where the input allows it and the inventory wants it (maintenance.dead_man), the dead-man is armed; one that cannot be is a note.
//
// Errors: Maintenance when the mode cannot be read or set, reads otherwise afterwards, or the record cannot be written; Unreachable, Fenced and what package
// remote tells.
func (k *Kato) EnterMaintenance(ctx context.Context, in MaintenanceInput) (MaintenanceResult, error) {
	a := begin(ctx, "maintenance mode on")
	defer a.finish()
	s, core, err := k.where(in)
	if err != nil {
		return MaintenanceResult{}, err
	}
	have, err := k.look(a, s, core, in)
	if err != nil {
		return MaintenanceResult{}, err
	}
	out := MaintenanceResult{Found: onOff(have.on), Now: "on"}
	record, began := have.record, time.Now()
	switch {
	case have.of(in.Operation.ID):
		out.Found = have.record.Found
	case have.recorded && have.on:
		out.Found = have.record.Found
		out.note("maintenance mode was left on by operation %s, which had found it %s", have.record.Operation, have.record.Found)
	case have.on && have.unreadable:
		out.note("maintenance mode was on already, and the record on the Core of who set it cannot be read: it will stay on")
	case have.on:
		out.note("maintenance mode was on already and will stay on")
	}
	if have.said != "" {
		out.note("%s", have.said)
	}
	if !have.on || !have.of(in.Operation.ID) {
		try, err := k.nextTry(a, core, in, operation.StepMaintenanceOn, true)
		if err != nil {
			return MaintenanceResult{}, err
		}
		if !have.of(in.Operation.ID) {
			record = maintenanceRecord{Operation: in.Operation.ID, Token: in.Operation.Token, Try: try, Found: out.Found}
		}
		set := s.kato().SetMaintenance(true)
		if have.on {
			set = nil
		}
		began = time.Now()
		if _, err := k.change(a, s, core, in, operation.StepMaintenanceOn, try, recordText(record), set, true); err != nil {
			return MaintenanceResult{}, err
		}
	}
	if after := k.deadManTime(s); in.DeadMan && after > 0 {
		if err := k.arm(a, s, core, in, record, after); err != nil {
			if a.ctx.Err() != nil {
				return MaintenanceResult{}, ended(a.ctx)
			}
			out.note("the dead-man of maintenance mode could not be started: %s", failureOf(err).Message)
		} else {
			out.SignEvery = operation.Duration(after / 3)
		}
	}
	out.Ago = operation.Duration(time.Since(began))
	return out, nil
}

// note adds what the report is to tell.
func (r *MaintenanceResult) note(format string, args ...any) {
	text := oneLine(fmt.Sprintf(format, args...), 300)
	if r.Note == "" {
		r.Note = text
		return
	}
	r.Note = oneLine(r.Note+"; "+text, 600)
}

// LeaveMaintenance puts the mode back as the record of this operation says it was found, reads it, removes the record and ends the dead-man. Unless the input says
// that the last EnterMaintenance ended well, it first stops what that has left running, or waiting for its start, on the Core. Without a record of this operation
// there is nothing to put back; the note says so, and when the mode is on. Repeating it is harmless.
//
// A kato that gives no answer, as after a reboot of the Core until its role primary is started, is waited for as long as a node may be unreachable, and then tried once more. On
// a full disk, where no job can be started, the mode is put back without one: setting what was found is harmless to repeat.
//
// Errors as EnterMaintenance, and RemoteExit when a job cannot be stopped.
func (k *Kato) LeaveMaintenance(ctx context.Context, in MaintenanceInput) (MaintenanceResult, error) {
	a := begin(ctx, "maintenance mode as found")
	defer a.finish()
	s, core, err := k.where(in)
	if err != nil {
		return MaintenanceResult{}, err
	}
	if !in.Entered {
		// What this operation began may still run, or wait on the Core for its start: it must not set the mode after it was put back. An EnterMaintenance that ended
		// well has left nothing: its job has ended, and no other begins.
		if err := k.forbid(a, core, in, operation.StepMaintenanceOn); err != nil && failureOf(err).Type != operation.ErrDiskFull {
			return MaintenanceResult{}, err
		}
	}
	out, record, err := k.putBack(a, s, core, in)
	left := time.Now()
	if err == nil && record != "" {
		err = a.persist(core.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) error {
			_, err := ask(ctx, k.Connections, core.host, forgetScript, record)
			return err
		})
	}
	if err == nil && (in.DeadMan || k.deadManTime(s) > 0) {
		// It ends by itself when its record is gone; the next operation need not wait for that.
		err = k.forbid(a, core, in, stepDeadMan)
		if err != nil && failureOf(err).Type == operation.ErrDiskFull {
			err = nil
		}
	}
	out.Ago = operation.Duration(time.Since(left))
	return out, err
}

// putBack returns the record that is to be removed, "" when there is none of this operation.
func (k *Kato) putBack(a *attempt, s site, core target, in MaintenanceInput) (MaintenanceResult, string, error) {
	// Where it is known that the mode was found off nothing is read before it is put back: the cluster is read-only meanwhile.
	hurry := in.Entered && in.Found == "off"
	for round := 1; ; round++ {
		want := false
		if !hurry {
			have, err := k.lookPatiently(a, s, core, in)
			if err != nil {
				return MaintenanceResult{}, "", err
			}
			if !have.of(in.Operation.ID) {
				return nothingToPutBack(have, in.Operation.ID), "", nil
			}
			if want = have.record.Found == "on"; have.on == want {
				return MaintenanceResult{Found: have.record.Found, Now: have.record.Found}, recordText(have.record), nil
			}
			if want { // no operation turns it off that was on: somebody has
				out := MaintenanceResult{Found: "on", Now: "off"}
				out.note("maintenance mode was on before and has been turned off by hand meanwhile: it stays off")
				return out, recordText(have.record), nil
			}
		}
		hurry = false
		try, err := k.nextTry(a, core, in, operation.StepMaintenanceOff, round == 1)
		if err != nil {
			return MaintenanceResult{}, "", err
		}
		now, err := k.change(a, s, core, in, operation.StepMaintenanceOff, try, "", s.kato().SetMaintenance(want), want)
		switch {
		case err == nil && now.of(in.Operation.ID) && (now.record.Found == "on") == want:
			return MaintenanceResult{Found: now.record.Found, Now: now.record.Found}, recordText(now.record), nil
		case err == nil && round <= 2: // the record is gone, or says something else than was known
			continue
		case err == nil:
			err = failJob(operation.ErrMaintenance, core.host.Name, "", "", "the record of the maintenance mode changes all the time: see who else works on the Core, then retry")
		case round == 1 && k.silent(a, s, core, in, err):
			continue
		}
		return MaintenanceResult{}, "", err
	}
}

// silent reports whether a change failed because kato gives no answer at all, or the Core went down under it.
func (k *Kato) silent(a *attempt, s site, core target, in MaintenanceInput, err error) bool {
	switch failureOf(err).Type {
	case operation.ErrInterrupted:
		return true
	case operation.ErrMaintenance:
		_, err := k.look(a, s, core, in)
		return err != nil && a.ctx.Err() == nil && failureOf(err).Type == operation.ErrMaintenance
	}
	return false
}

// nothingToPutBack is the answer where the Core has no record of this operation.
func nothingToPutBack(have maintenance, operation string) MaintenanceResult {
	out := MaintenanceResult{Found: onOff(have.on), Now: onOff(have.on)}
	switch {
	case have.on && have.recorded:
		out.note("maintenance mode is on and left on: it is operation %s that has changed it, by the record on the Core", have.record.Operation)
	case have.on:
		out.note("maintenance mode is on and left on: there is no record on the Core of how it was found; turn it off by hand unless it is meant to be on")
	case have.said != "" && have.saidOf == operation:
		out.note("%s", have.said)
	default:
		out.note("this operation has no record on the Core: nothing to put back")
	}
	return out
}

func (k *Kato) where(in MaintenanceInput) (site, target, error) {
	s, err := k.Source.site(in.Operation.Cluster)
	if err != nil {
		return site{}, target{}, err
	}
	core, err := s.core()
	return s, core, err
}

// look reads the mode and the record.
func (k *Kato) look(a *attempt, s site, core target, in MaintenanceInput) (out maintenance, err error) {
	err = a.persist(core.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		out, err = lookAtMaintenance(ctx, k.Connections, s, core)
		return err
	})
	return out, err
}

// lookPatiently is look that waits for a kato that gives no answer.
func (k *Kato) lookPatiently(a *attempt, s site, core target, in MaintenanceInput) (maintenance, error) {
	limit := in.UnreachableAfter.D()
	if limit <= 0 {
		limit = defaultUnreachableAfter
	}
	began, wait := a.since("an answer of kato"), firstPause
	for {
		have, err := k.look(a, s, core, in)
		if err == nil || failureOf(err).Type != operation.ErrMaintenance || time.Since(began)+wait > limit {
			return have, err
		}
		a.phase("kato gives no answer, trying again: " + failureOf(err).Message)
		if !a.pause(wait) {
			return maintenance{}, ended(a.ctx)
		}
		wait = min(wait*2, longestPause)
	}
}

// lookAtMaintenance is one look. The error is the activity's where kato does not answer, and of package remote otherwise.
func lookAtMaintenance(ctx context.Context, c Connections, s site, core target) (maintenance, error) {
	argv := s.kato().ReadMaintenance()
	read, err := askFor(ctx, s.cluster.Kato.Timeout.Std()+time.Minute, c, core.host, maintenanceScript, append([]string{katoSeconds(s)}, argv...)...)
	if err != nil {
		return maintenance{}, err
	}
	out, err := readingOf(s, core, read)
	if err != nil {
		return maintenance{}, err
	}
	out.saidOf, out.said = deadManSaid(read.sections["said"])
	return out, nil
}

// readingOf is what a script told of the mode and the record.
func readingOf(s site, core target, read answer) (maintenance, error) {
	tail := remote.Tail([]byte(read.sections["mode"]), maxTail)
	if code := read.exit("mode-exit"); code != 0 {
		what := fmt.Sprintf("ended with exit code %d", code)
		if code == 124 {
			what = "gave no answer within " + s.cluster.Kato.Timeout.String()
		}
		return maintenance{}, failJob(operation.ErrMaintenance, core.host.Name, "", tail, "maintenance mode cannot be read: %s %s: see to kato on the Core, then retry",
			remote.Quote(s.kato().ReadMaintenance()), what)
	}
	var out maintenance
	var err error
	if out.on, err = kato.ParseBool([]byte(read.sections["mode"])); err != nil {
		return maintenance{}, failJob(operation.ErrMaintenance, core.host.Name, "", tail, "maintenance mode cannot be read: %v: see to kato on the Core, then retry", err)
	}
	text := read.sections["record"]
	out.record, out.recorded = parseRecord(text)
	out.unreadable = !out.recorded && strings.TrimSpace(text) != ""
	return out, nil
}

// nextTry is the try of the job of a step that an activity is to run: the first that has not ended. A try that has ended belongs to an earlier activity, which was
// answered by a person: what it did is verified before, by the caller. Only in a later attempt of the same activity (own) the try that ended last is this
// activity's own, and counts as it ended, unless the attempt before said that it had come to the next; so no attempt starts the command a second time by itself.
func (k *Kato) nextTry(a *attempt, core target, in MaintenanceInput, step string, own bool) (int, error) {
	try, mine := 1, 0
	for ; try < mostTries; try++ {
		var status remote.JobStatus
		id := jobID(in.Operation, operation.ClusterNode, step, try)
		err := a.persist(core.host.Name, in.UnreachableAfter.D(), id.Dir(), func(ctx context.Context) (err error) {
			status, err = k.Jobs.Status(ctx, core.host, id)
			return err
		})
		if err != nil {
			return 0, err
		}
		if status.State == remote.JobRunning {
			break
		}
		if status.State == remote.JobAbsent {
			if own && a.again && mine > 0 && a.previous.Job != id.Dir() {
				try = mine
			}
			break
		}
		mine = try
		if status.NeverStarted {
			mine = 0
		}
	}
	return try, nil
}

// modeJob is the job of a step: the record, kato's command and the read.
func (s site) modeJob(op Operation, step, record string, set []string, try int) remote.JobSpec {
	owner := recordOwner(op.ID)
	spec := s.maintenanceJob(op, step, true, try)
	spec.Argv = []string{"sh", "-c", setMaintenanceScript, "sh", record, owner, shellWords(set), shellWords(s.kato().ReadMaintenance())}
	return spec
}

// shellWords is a command as shell words, "" for none.
func shellWords(argv []string) string {
	if len(argv) == 0 {
		return ""
	}
	return remote.Quote(argv)
}

// change runs one try of a step's job to its end: it writes the record if there is one, runs kato's command if there is one, and verifies by a read that the mode
// is what is wanted. What it returns without an error is what was read last; where the record is another operation's, or gone, nothing was changed.
func (k *Kato) change(a *attempt, s site, core target, in MaintenanceInput, step string, try int, record string, set []string, want bool) (maintenance, error) {
	job := jobRun{jobs: k.Jobs, host: core.host, spec: s.modeJob(in.Operation, step, record, set, try), log: zap.NewNop(), unreachableAfter: in.UnreachableAfter.D(),
		ceiling: 2 * s.cluster.Kato.Timeout.Std(), connections: k.Connections}
	shown := job // what is told of it is kato's command, not the script around it
	shown.spec.Argv = set
	if len(set) == 0 {
		shown.spec.Argv = s.kato().ReadMaintenance()
	}
	end, err := job.run(a)
	var told answer
	switch {
	case err != nil && failureOf(err).Type == operation.ErrDiskFull && record == "":
		err = a.persist(core.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
			told, err = askFor(ctx, 2*s.cluster.Kato.Timeout.Std()+time.Minute, k.Connections, core.host, maintenanceNowScript, append([]string{katoSeconds(s)}, job.spec.Argv...)...)
			return err
		})
		end.State = remote.JobExited
	case err == nil && end.State == remote.JobExited && !end.NeverStarted:
		told, err = k.told(a, core, in, job.spec.ID, end.tail)
	}
	if err != nil {
		return maintenance{}, maintenanceError(err)
	}
	k.log(in, core, step, told.sections["set"])
	switch folder := told.value("unwritable"); {
	case end.NeverStarted:
		return maintenance{}, maintenanceError(shown.exited(end))
	case folder != "":
		return maintenance{}, failJob(operation.ErrMaintenance, core.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail),
			"the record of the maintenance mode cannot be written to %s, and nothing was changed: free some space there, then retry", remote.Escape(folder))
	case told.value("foreign") != "":
		return maintenance{}, nil
	case told.exit("set-exit") > 0:
		failed := end
		failed.ExitCode, failed.tail = told.exit("set-exit"), []byte(told.sections["set"])
		return maintenance{}, maintenanceError(shown.exited(failed))
	case end.State == remote.JobExited && !told.complete:
		return maintenance{}, maintenanceError(shown.exited(end))
	}
	// Interrupted or lost: the read tells, as it does for exit code 0, which is no proof (kato.md §0.4).
	var now maintenance
	if end.State == remote.JobExited {
		now, err = readingOf(s, core, told)
	} else {
		now, err = k.look(a, s, core, in)
	}
	if err != nil {
		if end.State == remote.JobInterrupted {
			return maintenance{}, failJob(operation.ErrInterrupted, core.host.Name, job.spec.ID.Dir(), "", "the Core rebooted while the job %s ran: retry", step)
		}
		return maintenance{}, err
	}
	if now.on == want {
		return now, nil
	}
	switch end.State {
	case remote.JobLost:
		return maintenance{}, job.lost(end)
	case remote.JobInterrupted:
		return maintenance{}, failJob(operation.ErrInterrupted, core.host.Name, job.spec.ID.Dir(), "", "the Core rebooted while the job %s ran, and it had no effect: retry", step)
	}
	return maintenance{}, failJob(operation.ErrMaintenance, core.host.Name, job.spec.ID.Dir(), remote.Tail([]byte(told.sections["set"]), maxTail),
		"kato said it was done, and maintenance mode is still %s: see to kato on the Core, then retry", onOff(now.on))
}

// told is what the job said, also when an earlier attempt has followed it.
func (k *Kato) told(a *attempt, core target, in MaintenanceInput, id remote.JobID, tail []byte) (answer, error) {
	if told := parseAnswer(tail); told.complete && (told.has("mode") || told.has("set") || told.value("foreign") != "" || told.value("unwritable") != "") {
		return told, nil
	}
	var out []byte
	err := a.persist(core.host.Name, in.UnreachableAfter.D(), id.Dir(), func(ctx context.Context) (err error) {
		out, err = k.Jobs.Output(ctx, core.host, id, 4*maxTail)
		return err
	})
	return parseAnswer(out), err
}

// log hands on what kato said.
func (k *Kato) log(in MaintenanceInput, core target, step, said string) {
	log := logOf(k.Logger, in.Operation, core.host.Name, step)
	for line := range strings.Lines(said) {
		if line = strings.TrimRight(line, " \t\r\n"); line != "" {
			log.Info("output", zap.String("line", remote.Escape(oneLine(line, maxLogLine))))
		}
	}
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

// maintenanceError gives a failed command the type that says what it was about; what says that the outcome is unknown keeps its own.
func maintenanceError(err error) error {
	f := operation.FailureOf(err)
	if f == nil || f.Type != operation.ErrRemoteExit && f.Type != operation.ErrTimeout {
		return err
	}
	f.Type = operation.ErrMaintenance
	return operation.NewError(*f)
}
