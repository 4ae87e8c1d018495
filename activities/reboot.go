package activities

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// How a node that reboots is looked for. A look at one that is down costs a packet, so there are many of them, and each is short: what answers late,
// or was cut off in mid-answer, must not keep the next look from finding the node up.
const (
	// lookPause is between two looks while the node answers with its old boot id, and the longest one.
	lookPause = 200 * time.Millisecond
	// shortestPause is between two looks at a node that does not answer; a long absence needs no such haste.
	shortestPause = 50 * time.Millisecond
	// lookDial grows with the absence up to lookDialThrough, for networks on which an answer takes that long.
	lookDial = 300 * time.Millisecond
	// lookDialThrough is for a bastion, where each dial stays behind until the bastion itself gives it up.
	lookDialThrough = time.Second
	// lookConnect includes a login on a machine that is busy with its boot.
	lookConnect = 3 * time.Second
	lookAnswer  = 3 * time.Second
	// refusedPause is the first pause after an sshd of the new boot has ended a connection, each next one is four times as long up to refusedMost: pam_nologin lets
	// nobody in while the system starts, mostly for some milliseconds, and an sshd counts refused logins and shuts out who has many (PerSourcePenalties). What
	// the sshd of the old boot counts goes down with it.
	refusedPause = 100 * time.Millisecond
	refusedMost  = 2 * time.Second
	// thoroughEvery is how often a look has all the time that the host's own settings give.
	thoroughEvery = 30 * time.Second
)

// Reboot restarts the node as a job and waits until it answers with another boot id than the one the job stored when it started. A later attempt
// finds the job: it starts nothing more, and when the boot id is another already it is done. A connection that is refused or breaks is what a
// reboot looks like.
//
// Errors: NotReturned when the node is not back within Timeout after the job began (a retry waits again, it does not reboot again), SSHHostKey at once
// when it comes back with another key, RemoteExit when the command failed, and what package remote tells of a node.
func (n *Nodes) Reboot(ctx context.Context, in RebootInput) (RebootResult, error) {
	a := begin(ctx, "reboot")
	defer a.finish()
	s, t, err := n.where(in.Operation, in.Node.Name)
	if err != nil {
		return RebootResult{}, err
	}
	job := n.job(in.NodeInput, t, s.rebootJob(in.Operation, t, in.JobTry), 0)
	id := job.spec.ID
	log := job.log
	a.at(id.Dir(), 0)

	// The node is met once before the reboot is started, so that silence afterwards is the reboot's and not somebody else's. An attempt that comes
	// later may find it down already.
	key := "reboot " + id.Dir()
	begun := a.previous.For == key
	patience := in.UnreachableAfter.D()
	if begun {
		patience = max(in.Timeout.D()-time.Since(a.since(key)), time.Second)
	}
	var status remote.JobStatus
	err = a.persist(t.host.Name, patience, id.Dir(), func(ctx context.Context) (err error) {
		if in.Settle {
			status, err = forbid(ctx, n.Jobs, t.host, id)
		} else {
			status, err = n.Jobs.Status(ctx, t.host, id)
		}
		if err != nil {
			n.Connections.Forget(t.host)
		}
		return err
	})
	switch f := operation.FailureOf(err); {
	case f != nil && f.Type == operation.ErrUnreachable && begun:
		return RebootResult{}, notReturned(t, id, in.Timeout.D(), "no answer")
	case err != nil:
		return RebootResult{}, err
	case status.State == remote.JobAbsent && in.Settle:
		return RebootResult{}, nil
	}
	earlier := !begun && status.State != remote.JobAbsent
	began := a.since(key)
	a.phase("waiting for the node to return")
	last, note, pause, thorough := "", "", lookPause, began
	gone, refused := false, 0 // whether it has been silent, and how often in a row it has refused since
	for tries := 0; !rebooted(status.BootID, status.CurrentBootID); tries++ {
		if status.State == remote.JobExited && status.ExitCode != 0 {
			return RebootResult{}, n.rebootRefused(a, job, status)
		}
		if time.Since(began) > in.Timeout.D() {
			return RebootResult{}, notReturned(t, id, in.Timeout.D(), last)
		}
		if tries > 0 && !a.pause(pause) {
			return RebootResult{}, ended(a.ctx)
		}
		pause = lookPause
		h, within := t.host, max(t.host.ConnectTimeout, 10*time.Second)+20*time.Second
		if status.State != remote.JobAbsent && time.Since(thorough) < thoroughEvery {
			h, within = hurried(h, time.Since(began)), lookConnect+lookAnswer
		} else {
			thorough = time.Now()
		}
		ctx, cancel := context.WithTimeout(a.ctx, within)
		var now remote.JobStatus
		if status.State == remote.JobAbsent {
			// Also when a start was cut off: it starts at most once.
			if now, err = n.Jobs.Start(ctx, h, job.spec); err != nil {
				now, note, err = underWay(ctx, n.Jobs, h, id, err)
			}
		} else {
			now, err = n.Jobs.Status(ctx, h, id)
		}
		cancel()
		switch {
		case a.ctx.Err() != nil:
			return RebootResult{}, ended(a.ctx)
		case err == nil:
			refused = 0
			if status = now; status.State != remote.JobAbsent {
				last = "the reboot was accepted but the boot id is still the same"
			}
		case comesBack(err):
			n.Connections.Forget(t.host)
			last = withoutNode(failureOf(err).Message, t.host.Name)
			switch {
			case remote.IsSilence(err):
				gone, refused = true, 0
			case gone:
				refused++
			default: // it is going down
				continue
			}
			pause = pauseBeforeLook(t.host, time.Since(began), refused)
		default:
			return RebootResult{}, withJob(nodeError(err), id.Dir())
		}
	}
	before := status.BootID
	log.Info("back after the reboot", zap.String("bootId", remote.Escape(status.CurrentBootID)))
	return RebootResult{JobResult: JobResult{Started: true, Notes: notes(note)}, Earlier: earlier, BootIDBefore: before, BootIDAfter: status.CurrentBootID}, nil
}

// hurried is the host with the times of a short look.
func hurried(h remote.Host, away time.Duration) remote.Host {
	h.DialTimeout = min(max(away/10, lookDial), lookDialThrough)
	if h.Bastion != nil {
		h.DialTimeout = lookDialThrough
	}
	if h.ConnectTimeout <= 0 || h.ConnectTimeout > lookConnect {
		h.ConnectTimeout = lookConnect
	}
	return h
}

// pauseBeforeLook is a hundredth of the time that a silent node is away, within bounds. A bastion logs every dial that fails, so it gets fewer. refused is how often
// in a row the node's sshd ended the connection.
func pauseBeforeLook(h remote.Host, away time.Duration, refused int) time.Duration {
	switch {
	case refused > 0:
		return min(refusedPause<<(2*min(refused-1, 8)), refusedMost)
	case h.Bastion != nil:
		return lookPause
	}
	return min(max(away/100, shortestPause), lookPause)
}

// comesBack tells whether an error is one that a reboot explains: lost connections, and a refused login, because pam_nologin lets only root in while a
// system starts or stops.
func comesBack(err error) bool {
	if remote.IsKind(err, remote.KindTransport) || remote.IsKind(err, remote.KindAuth) {
		return true
	}
	return remote.KindOf(err) == "" // a call that took longer than it was given
}

// rebooted needs both ids: a failed read is never a difference.
func rebooted(before, now string) bool {
	return before != "" && before != "?" && now != "" && before != now
}

func notReturned(t target, id remote.JobID, timeout time.Duration, last string) error {
	if last == "" {
		last = "no answer"
	}
	return failJob(operation.ErrNotReturned, t.host.Name, id.Dir(), "", "did not come back within %s of its reboot (%s): look at its console, then retry to go on waiting",
		timeout, operation.Shorten(last, 300))
}

// rebootRefused is the error of a reboot command that failed.
func (n *Nodes) rebootRefused(a *attempt, job jobRun, status remote.JobStatus) error {
	out, err := n.Jobs.Output(a.ctx, job.host, job.spec.ID, maxTail)
	if err != nil {
		job.log.Warn("the output of the reboot command was not read: " + failureOf(err).Message)
	}
	return job.exited(jobEnd{JobStatus: status, tail: out})
}

// Proof reads the evidence that the node rebooted: another boot id, a PID 1 younger than the reboot job, and the kernel that the boot loader names. It
// only reads. Error: BootProof when the evidence speaks against it.
func (n *Nodes) Proof(ctx context.Context, in ProofInput) (operation.BootProof, error) {
	a := begin(ctx, "boot proof")
	defer a.finish()
	_, t, err := n.where(in.Operation, in.Node.Name)
	if err != nil {
		return operation.BootProof{}, err
	}
	rebootBegan, err := time.Parse(time.RFC3339Nano, in.RebootBegan)
	if err != nil {
		return operation.BootProof{}, fail(operation.ErrInternal, in.Node.Name, "boot proof: the time %q is none", operation.Shorten(in.RebootBegan, 40))
	}
	var read answer
	var readAt time.Time
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		read, err = ask(ctx, n.Connections, t.host, proofScript)
		readAt = time.Now()
		return err
	})
	if err != nil {
		return operation.BootProof{}, err
	}
	// The server's clock recorded both times; how long this attempt has taken since is this worker's.
	atServer := activity.GetInfo(ctx).StartedTime.Add(readAt.Sub(a.began))
	return judgeBoot(in.Node.Name, read, in.BootIDBefore, atServer.Sub(rebootBegan))
}

const proofSlack = 5 * time.Second

// judgeBoot holds what a node tells against the time since its reboot job was begun.
func judgeBoot(node string, read answer, before string, since time.Duration) (operation.BootProof, error) {
	out := operation.BootProof{BootIDBefore: before, BootIDAfter: oneLine(read.value("boot"), 64), KernelRunning: oneLine(read.value("release"), 128)}
	if !rebooted(before, read.value("boot")) {
		if read.value("boot") == "" {
			return out, fail(operation.ErrBootProof, node, "the boot id cannot be read, so the reboot is not proved: look at /proc/sys/kernel/random/boot_id there")
		}
		return out, fail(operation.ErrBootProof, node, "the boot id is the same as before the reboot: it did not reboot")
	}
	container := oneLine(read.value("container"), 64)
	age, ok := initAge(read.sections["init"], read.value("uptime"), read.value("ticks"), container != "")
	if !ok {
		return out, fail(operation.ErrBootProof, node, "the start of PID 1 cannot be read from /proc: the reboot is not proved")
	}
	limit := (since + proofSlack).Seconds()
	if age >= limit {
		return out, fail(operation.ErrBootProof, node, "PID 1 has been running for %.0fs, but the reboot began only %.0fs ago: it did not restart", age, since.Seconds())
	}
	out.Init = fmt.Sprintf("PID 1 started %.0fs before it was read, the reboot began %.0fs before", age, since.Seconds())
	var err error
	out.Kernel, err = judgeKernel(node, read, out.KernelRunning, container)
	return out, err
}

// judgeKernel says whether the kernel that runs is the one the node was to boot.
func judgeKernel(node string, read answer, running, container string) (string, error) {
	if container != "" {
		return "not applicable (container)", nil
	}
	if running == "" {
		return "not proved: uname gives no release", nil
	}
	wanted, by := "", "as the boot loader names it"
	if read.has("grub") {
		if wanted = defaultKernel(read.sections["grub"], read.sections["environment"]); wanted == "" {
			return "not proved: the default of grub.cfg names no kernel that can be told", nil
		}
	} else {
		wanted, by = newestKernel(read.sections["kernels"]), "the newest in /boot"
		if wanted == "" {
			return "not proved: there is no boot loader configuration and no kernel in /boot that can be read", nil
		}
	}
	if wanted != running {
		return "", fail(operation.ErrBootProof, node, "it runs kernel %s, but %s is %s: see what it booted", running, map[bool]string{true: "the boot loader's default", false: "the newest in /boot"}[read.has("grub")], oneLine(wanted, 128))
	}
	return running + ", " + by, nil
}
