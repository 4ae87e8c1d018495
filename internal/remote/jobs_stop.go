package remote

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// killWait is how long a job is waited for after KILL.
const killWait = 10 * time.Second

// Stop ends an interruptible job: TERM to the payload's process group, KILL when it has not ended after grace. It returns the status
// afterwards, exited with what the payload made of the signal (143 and 137 without a handler). A job that was never started is marked
// so that it can never be started any more, and has exited with 143 and NeverStarted, whoever holds the lease; a job that has ended is left as it is. A payload that runs by
// sudo is signalled by `sudo -n kill`, which sudoers must allow.
//
// Errors: KindExit when the job runs and is not interruptible, or does not end; KindTransport, after which Stop may be called again.
func (j *Jobs) Stop(ctx context.Context, h Host, id JobID, grace time.Duration) (JobStatus, error) {
	if err := id.check(); err != nil {
		return JobStatus{}, fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	var status JobStatus
	for _, step := range []struct {
		signal string
		wait   time.Duration
	}{{"TERM", grace}, {"KILL", killWait}} {
		reply, err := j.run(ctx, h, call{
			scripts: []string{"stop.sh"}, create: true, what: "stop job " + id.String(),
			args: []string{id.Dir(), step.signal, id.meta("-", false), callID(), j.text("facts.sh", "stop_locked.sh")},
		})
		if err != nil {
			return JobStatus{}, err
		}
		if status, err = reply.one(h, id); err != nil {
			return status, err
		}
		for began := time.Now(); status.State == JobRunning && time.Since(began) < step.wait; {
			left := min(step.wait-time.Since(began), j.slice())
			if status, err = j.followOnce(ctx, h, id, &followed{}, left); err != nil {
				return status, err
			}
		}
		if status.State != JobRunning {
			return status, nil
		}
	}
	return status, &Error{Kind: KindExit, Node: h.Name, ExitCode: 9,
		Message: fmt.Sprintf("job %s does not end, neither by TERM nor by KILL: see whether sudoers lets the login user run kill", id)}
}

// Sweep removes the output and the scripts of jobs that ended longer than outputOlderThan ago, their tombstones after
// tombstonesOlderThan, preparations and secrets that a kill left behind. Ages are measured by the node's clock alone, in whole
// seconds. Sweeping twice is harmless; a job that runs is never touched, and the tombstones of the operation that holds the lease stay.
func (j *Jobs) Sweep(ctx context.Context, h Host, outputOlderThan, tombstonesOlderThan time.Duration) error {
	seconds := func(d time.Duration) string { return strconv.FormatInt(int64(max(d, 0)/time.Second), 10) }
	_, err := j.run(ctx, h, call{
		scripts: []string{"sweep.sh"}, create: true, what: "sweep old jobs",
		args: []string{seconds(outputOlderThan), seconds(tombstonesOlderThan), j.text("facts.sh", "vaults.sh", "sweep_locked.sh")},
	})
	return err
}
