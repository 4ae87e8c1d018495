package activities

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Connections runs short commands on nodes; *remote.Pool does it over SSH.
type Connections interface {
	Run(ctx context.Context, h remote.Host, c remote.Command) (remote.Result, error)
	// Forget drops the connection to h, so that the next Run dials anew.
	Forget(h remote.Host)
}

// Jobs runs durable jobs on nodes; *remote.Jobs does.
type Jobs interface {
	TakeLease(ctx context.Context, h remote.Host, l remote.Lease) (bootID string, err error)
	Start(ctx context.Context, h remote.Host, s remote.JobSpec) (remote.JobStatus, error)
	Status(ctx context.Context, h remote.Host, id remote.JobID) (remote.JobStatus, error)
	Follow(ctx context.Context, h remote.Host, id remote.JobID, from int64, sink func(chunk []byte, offset int64)) (remote.JobStatus, error)
	Output(ctx context.Context, h remote.Host, id remote.JobID, max int) ([]byte, error)
	Stop(ctx context.Context, h remote.Host, id remote.JobID, grace time.Duration) (remote.JobStatus, error)
	Running(ctx context.Context, h remote.Host) ([]remote.JobStatus, error)
	Sweep(ctx context.Context, h remote.Host, outputOlderThan, tombstonesOlderThan time.Duration) error
}

const (
	// stopWithin is how long a cancelled activity may take to stop its job.
	stopWithin = 10 * time.Second
	stopGrace  = 3 * time.Second
	maxLogLine = 2 << 10
)

// jobRun is one job to be started, or only followed, to its end.
type jobRun struct {
	jobs Jobs
	host remote.Host
	spec remote.JobSpec
	log  *zap.Logger
	// settle starts nothing, and sees to it that no start still under way does: see forbid.
	settle           bool
	unreachableAfter time.Duration
	// ceiling of the job's time; 0 = none.
	ceiling time.Duration
	// connections to ask the node why the job failed, nil for not to; folders that the job writes to, beside the usual ones.
	connections Connections
	folders     []string
}

// jobEnd is how it ended; the state is absent only with settle.
type jobEnd struct {
	remote.JobStatus
	tail []byte
	// note is what the report says about it, "" for nothing.
	note string
	// full are the file systems that were full just after it had failed, with what they lacked.
	full []string
}

// underWay looks for the job after its start was refused with err because it was started with another command before: the inventory was changed since. It is
// the same step of the same operation, so it counts as it is. Anything else is err.
func underWay(ctx context.Context, jobs Jobs, h remote.Host, id remote.JobID, err error) (remote.JobStatus, string, error) {
	if !remote.IsKind(err, remote.KindJobConflict) {
		return remote.JobStatus{}, "", err
	}
	status, lookErr := jobs.Status(ctx, h, id)
	switch {
	case lookErr != nil:
		return status, "", lookErr
	case status.State == remote.JobAbsent:
		return status, "", err
	}
	return status, "the job " + id.Step + " was started with another command before (the inventory has changed since, or the operation was reset): it counts as it ran", nil
}

// forbid sees to it that a job that was not started never is, whatever start of it is still under way on the node, and ends one that may be
// interrupted. One that may not is left alone. It returns what is known then: absent when the job never ran and never will.
func forbid(ctx context.Context, jobs Jobs, h remote.Host, id remote.JobID) (remote.JobStatus, error) {
	status, err := jobs.Stop(ctx, h, id, stopGrace)
	if remote.IsKind(err, remote.KindExit) {
		// Most likely it runs and may not be interrupted.
		now, lookErr := jobs.Status(ctx, h, id)
		if lookErr != nil {
			return now, lookErr
		}
		if now.State == remote.JobAbsent {
			return now, err
		}
		status = now
	} else if err != nil {
		return status, err
	}
	if status.NeverStarted {
		status.State = remote.JobAbsent
	}
	return status, nil
}

// run starts the job, or takes up the one that was started before, and follows it to its end. Lost connections are retried for unreachableAfter. The
// error is the activity's; how the job itself ended is not an error here.
//
// When the workflow cancels, an interruptible job is stopped within stopWithin; any other goes on, and so does every job when only the attempt
// ends (a worker that stops, a pause, a timeout).
func (r jobRun) run(a *attempt) (jobEnd, error) {
	id := r.spec.ID
	name := id.Dir()
	out := &jobOutput{log: r.log, next: a.resumeAt(name)}
	defer out.flush()
	a.at(name, out.next)

	var status remote.JobStatus
	var note string
	err := r.patiently(a, func(ctx context.Context) (err error) {
		if r.settle {
			status, err = forbid(ctx, r.jobs, r.host, id)
		} else {
			a.phase("start " + id.Step)
			status, err = r.jobs.Start(ctx, r.host, r.spec)
			if err != nil {
				status, note, err = underWay(ctx, r.jobs, r.host, id, err)
			}
		}
		return err
	})
	if err != nil {
		return jobEnd{}, err
	}
	if status.State == remote.JobAbsent {
		return jobEnd{JobStatus: status}, nil
	}
	began := a.since("job " + name)
	for {
		a.phase(id.Step + " runs")
		ctx, cancel := context.WithCancel(a.ctx)
		if r.ceiling > 0 && status.State == remote.JobRunning {
			cancel()
			ctx, cancel = context.WithDeadline(a.ctx, began.Add(r.ceiling))
		}
		// Follow also hands over what a job that has ended already had to say.
		status, err = r.jobs.Follow(ctx, r.host, id, out.next, func(chunk []byte, offset int64) {
			out.write(chunk, offset)
			a.at(name, out.next)
		})
		late := ctx.Err() != nil && a.ctx.Err() == nil
		cancel()
		switch {
		case err == nil && status.State != remote.JobRunning:
			return jobEnd{JobStatus: status, tail: out.tail, note: note, full: r.full(a, status)}, nil
		case late:
			return jobEnd{}, r.tooLong(a, out)
		case a.ctx.Err() != nil:
			return jobEnd{}, r.leave(a)
		case err != nil && !remote.IsKind(err, remote.KindTransport):
			return jobEnd{}, withJob(nodeError(err), name)
		case err == nil:
			continue
		}
		// The connection is lost: time without contact counts from here until a status was read.
		if !a.pause(firstPause) {
			return jobEnd{}, r.leave(a)
		}
		// The ceiling holds for what was read here, too.
		err = r.patiently(a, func(ctx context.Context) (err error) {
			status, err = r.jobs.Status(ctx, r.host, id)
			return err
		})
		if err != nil {
			return jobEnd{}, err
		}
	}
}

// patiently is persist that stops the job where the workflow cancels it.
func (r jobRun) patiently(a *attempt, try func(ctx context.Context) error) error {
	err := a.persist(r.host.Name, r.unreachableAfter, r.spec.ID.Dir(), try)
	if err != nil && a.ctx.Err() != nil {
		return r.leave(a)
	}
	return err
}

// leave is what happens to the job when the attempt has ended.
func (r jobRun) leave(a *attempt) error {
	if !cancelled(a.ctx) || !r.spec.Interruptible || r.settle {
		return ended(a.ctx)
	}
	if err := r.stop(a); err != nil {
		r.log.Warn("the job could not be stopped", zap.String("job", r.spec.ID.Dir()), zap.String("error", failureOf(err).Message))
	}
	return ended(a.ctx)
}

func (r jobRun) stop(a *attempt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), stopWithin)
	defer cancel()
	_, err := r.jobs.Stop(ctx, r.host, r.spec.ID, stopGrace)
	return err
}

// tooLong is the error of a job that has reached its ceiling. One that may be interrupted is ended, so that the next try finds the way free.
func (r jobRun) tooLong(a *attempt, out *jobOutput) error {
	name, tail := r.spec.ID.Dir(), remote.Tail(out.tail, maxTail)
	if r.spec.Interruptible && !r.settle {
		if err := r.stop(a); err == nil {
			return failJob(operation.ErrRemoteExit, r.host.Name, name, tail, "%s took longer than %s and was stopped: see its output, then retry", r.spec.ID.Step, r.ceiling)
		}
	}
	return failJob(operation.ErrTimeout, r.host.Name, name, tail, "%s takes longer than %s and still runs as job %s: see what it waits for; a retry goes on waiting", r.spec.ID.Step, r.ceiling, name)
}

// result judges a job for which only exit code 0 is good and a reboot in the middle is worth telling.
func (r jobRun) result(end jobEnd) (JobResult, error) {
	switch end.State {
	case remote.JobAbsent:
		return JobResult{}, nil
	case remote.JobInterrupted:
		return JobResult{Started: true, Interrupted: true, Notes: notes(end.note)}, nil
	case remote.JobLost:
		return JobResult{Started: true}, r.lost(end)
	}
	if end.ExitCode != 0 {
		return JobResult{Started: true}, r.exited(end)
	}
	return JobResult{Started: true, Notes: notes(end.note)}, nil
}

func (r jobRun) lost(end jobEnd) error {
	return failJob(operation.ErrLost, r.host.Name, r.spec.ID.Dir(), remote.Tail(end.tail, maxTail),
		"%s was started and nobody knows how it ended (killed, or out of memory?): look at the node before you retry", r.spec.ID.Step)
}

func (r jobRun) exited(end jobEnd) error {
	if end.NeverStarted {
		return failJob(operation.ErrRemoteExit, r.host.Name, r.spec.ID.Dir(), "", "%s was called off before it started, by an operation that was being cancelled: nothing was done, retry", r.spec.ID.Step)
	}
	tail := remote.Tail(end.tail, maxTail)
	said := ""
	if line := tellingLine(string(end.tail)); line != "" {
		said = ": " + operation.Shorten(remote.Escape(line), 300)
	}
	full := ""
	if len(end.full) > 0 {
		full = "; " + strings.Join(end.full, ", ")
	}
	return failJob(operation.ErrRemoteExit, r.host.Name, r.spec.ID.Dir(), tail, "%s ended with exit code %d%s%s", remote.Quote(r.spec.Argv), end.ExitCode, said, full)
}

var fullScript = script("full")

const (
	// fullWithin bounds the look at the disks: a job's end waits for it.
	fullWithin = 15 * time.Second
	// A file system counts as full below so many KiB, or so many inodes, for a user who is not root.
	fullBelow       = 1 << 10
	fullBelowInodes = 16
)

// full asks a node for its full file systems when a job has just failed there: what a program can still write of its reason is cut off by them, or names no disk.
// It is a help to the operator, so that no answer is none.
func (r jobRun) full(a *attempt, status remote.JobStatus) []string {
	if r.connections == nil || status.State != remote.JobExited || status.NeverStarted || status.ExitCode == 0 {
		return nil
	}
	said, err := askFor(a.ctx, fullWithin, r.connections, r.host, fullScript, r.folders...)
	if err != nil {
		r.log.Info("which file systems are full was not read: " + failureOf(err).Message)
		return nil
	}
	var all []string
	for _, fs := range parseSpace(said.sections["k"]) {
		if fs.free < fullBelow {
			all = append(all, fmt.Sprintf("%s is full (%d KiB free)", remote.Escape(fs.mount), fs.free))
		}
	}
	for _, fs := range parseSpace(said.sections["i"]) {
		// btrfs and others have no fixed number: it is told as 0 of 0.
		if fs.free < fullBelowInodes && fs.size > 0 {
			all = append(all, fmt.Sprintf("%s is out of inodes (%d free)", remote.Escape(fs.mount), fs.free))
		}
	}
	return all
}

// jobOutput hands a job's output to the log line by line and keeps its end.
type jobOutput struct {
	log  *zap.Logger
	next int64 // offset of the byte that comes next
	line []byte
	tail []byte
}

func (o *jobOutput) write(chunk []byte, offset int64) {
	o.next = offset + int64(len(chunk))
	o.tail = append(o.tail, chunk...)
	if len(o.tail) > 4*maxTail {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-2*maxTail:]...)
	}
	for len(chunk) > 0 {
		head, rest, whole := bytes.Cut(chunk, []byte("\n"))
		if room := maxLogLine - len(o.line); room > 0 {
			o.line = append(o.line, head[:min(room, len(head))]...)
		}
		if whole {
			o.flush()
		}
		chunk = rest
	}
}

func (o *jobOutput) flush() {
	if line := strings.TrimRight(string(o.line), " \t\r"); line != "" {
		o.log.Info("output", zap.String("line", remote.Escape(line)))
	}
	o.line = o.line[:0]
}

// withJob names the job in a typed error.
func withJob(err error, job string) error {
	var app *temporal.ApplicationError
	if job == "" || !errors.As(err, &app) || !app.NonRetryable() {
		return err
	}
	f := operation.FailureOf(app)
	if f.Job == "" {
		f.Job = job
	}
	return operation.NewError(*f)
}

// withoutNode takes a leading "node: " away where the message is put after the same.
func withoutNode(message, node string) string {
	return strings.TrimPrefix(message, remote.Escape(node)+": ")
}

// tellingLine is what a program's output says of its failure: the last line that dpkg or apt marks as an error, with what explains it in the next one, or the
// last line of all. unattended-upgrades goes on to talk after an error.
func tellingLine(s string) string {
	lines := strings.Split(s, "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if strings.HasPrefix(line, "dpkg: error") && i+1 < len(lines) {
			return line + " " + strings.TrimSpace(lines[i+1])
		}
		if strings.HasPrefix(line, "dpkg: error") || strings.HasPrefix(line, "E: ") || strings.HasPrefix(line, "Err:") {
			return line
		}
	}
	return lastLineOf(s)
}

func lastLineOf(s string) string {
	s = strings.TrimRight(s, "\n\t ")
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}
