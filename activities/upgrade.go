package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	aptPoll = 2 * time.Second
	// maxTranscript is how much of the end of a job's output is read, in bytes.
	maxTranscript = 512 << 10
	// refreshCeiling bounds one `apt-get update`; it may be stopped at any time.
	refreshCeiling = 30 * time.Minute
)

// Upgrade waits until nobody else holds the apt locks, fetches the package lists (job `refresh`: apt-get update), compares the candidates with
// the pins, and runs the documented command, `unattended-upgrades -d` (job `upgrade`), as root with the proxy of the cluster. The second job is never
// stopped once it runs; each is started at most once a try.
//
// A run that was interrupted, or that left packages half configured, is a result with NeedsRepair. Errors: AptLocked (nothing was started; the
// same try goes on waiting), Pin (nothing was upgraded), RemoteExit, Lost, Timeout, Unreachable, and what package remote tells of a node.
func (n *Nodes) Upgrade(ctx context.Context, in UpgradeInput) (UpgradeResult, error) {
	a := begin(ctx, "upgrade")
	defer a.finish()
	s, t, err := n.where(in.Operation, in.Node.Name)
	if err != nil {
		return UpgradeResult{}, err
	}
	refresh := n.job(in.NodeInput, t, s.refreshJob(in.Operation, t, in.JobTry), refreshCeiling)
	upgrade := n.job(in.NodeInput, t, s.upgradeJob(in.Operation, t, in.JobTry), in.Timeout.D())

	var out UpgradeResult
	if in.Settle {
		// The upgrade is looked for first: of the two it is the one that counts, and the one to be named when the node does not answer.
		end, err := upgrade.run(a)
		if err == nil && end.State == remote.JobAbsent {
			// The lists change nothing that counts, but nothing of ours should run when this returns.
			_, err = refresh.run(a)
		}
		if err != nil {
			return out, err
		}
		return n.afterUpgrade(a, t, in, upgrade, end, out)
	}
	var begun remote.JobStatus
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), upgrade.spec.ID.Dir(), func(ctx context.Context) (err error) {
		begun, err = n.Jobs.Status(ctx, t.host, upgrade.spec.ID)
		return err
	})
	if err != nil {
		return out, err
	}
	// What goes before the upgrade is not asked again once it was started: its packages may be the pins' by now, and its lock is our own.
	if begun.State == remote.JobAbsent {
		if out.Notes, err = n.beforeUpgrade(a, s, t, in, refresh); err != nil {
			return UpgradeResult{}, err
		}
	}
	end, err := upgrade.run(a)
	if err != nil {
		return UpgradeResult{}, err
	}
	return n.afterUpgrade(a, t, in, upgrade, end, out)
}

// beforeUpgrade is everything up to the start of the upgrade; all of it may be repeated.
func (n *Nodes) beforeUpgrade(a *attempt, s site, t target, in UpgradeInput, refresh jobRun) ([]string, error) {
	waited, err := n.waitForApt(a, t, in)
	if err != nil {
		return nil, err
	}
	said := notes(waited)
	end, err := refresh.run(a)
	if err != nil {
		return nil, err
	}
	switch result, err := refresh.result(end); {
	case err != nil:
		return nil, err
	case result.Interrupted:
		return nil, failJob(operation.ErrInterrupted, t.host.Name, refresh.spec.ID.Dir(), "", "the node rebooted while apt-get update ran: nothing was upgraded, retry")
	}
	said = append(said, notes(end.note)...)
	if n := parseRefresh(string(end.tail)); n > 0 {
		said = append(said, fmt.Sprintf("apt-get update could not fetch %d of its lists and ended well all the same", n))
	}
	if len(in.Pins) > 0 {
		if err := n.checkCandidates(a, t, in); err != nil {
			return nil, err
		}
		again, err := n.waitForApt(a, t, in)
		if err != nil {
			return nil, err
		}
		said = append(said, notes(again)...)
	}
	return said, nil
}

// waitForApt waits until no other process holds a lock of apt, dpkg or unattended-upgrades, and keeps the list of what is installed for the record. It
// takes no lock itself, so a process can still come between; then the job says so.
func (n *Nodes) waitForApt(a *attempt, t target, in UpgradeInput) (note string, err error) {
	limit := in.AptLockTimeout.D()
	list := packageList(in.Operation, in.Node.Name)
	var first lockHolder
	var began time.Time
	for {
		var read answer
		err := a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
			read, err = ask(ctx, n.Connections, t.host, prepareScript, list)
			return err
		})
		if err != nil {
			return "", err
		}
		if folder := read.value("unwritable"); folder != "" {
			return "", fail(operation.ErrDiskFull, t.host.Name, "the list of packages cannot be written to %s: free some space there, or correct its rights", remote.Escape(folder))
		}
		holders := parseLocks(read.values["lock"])
		if len(holders) == 0 {
			// A lock that only looked like one keeps the list from being written: that is for the record step to tell.
			if first.pid != 0 {
				return fmt.Sprintf("waited %s for apt: held by %s", time.Since(began).Round(time.Second), first), nil
			}
			return "", nil
		}
		began = a.since("apt locks")
		if first.pid == 0 {
			first = holders[0]
		}
		if waited := time.Since(began); waited+aptPoll > limit {
			return "", fail(operation.ErrAptLocked, t.host.Name, "the apt locks were held for %s, now by %s: see why, or wait for its end and retry; nothing was changed", limit, holders[0])
		}
		a.phase("waiting for apt: held by " + holders[0].String())
		if !a.pause(aptPoll) {
			return "", ended(a.ctx)
		}
	}
}

// packageList names the list of what was installed before an operation.
func packageList(op Operation, node string) string {
	return remote.JobID{Operation: op.ID, Node: node, Step: "packages"}.Dir()
}

// checkCandidates compares what apt would install with the canary's versions. Packages that the node does not have are no concern of it.
func (n *Nodes) checkCandidates(a *attempt, t target, in UpgradeInput) error {
	args := make([]string, 0, len(in.Pins))
	for _, p := range in.Pins {
		if packageName.MatchString(p.Name) {
			args = append(args, p.Name)
		}
	}
	var read answer
	err := a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		read, err = ask(ctx, n.Connections, t.host, candidatesScript, args...)
		return err
	})
	if err != nil {
		return err
	}
	policy := parsePolicy(read.sections["policy"])
	var wrong []string
	for _, p := range in.Pins {
		have, known := policy[p.Name]
		if !known || have.installed == "" || have.installed == p.Version || have.candidate == p.Version {
			continue
		}
		got := have.candidate
		if got == "" {
			got = "none"
		}
		wrong = append(wrong, fmt.Sprintf("%s would become %s, the canary has %s", p.Name, got, p.Version))
	}
	if len(wrong) == 0 {
		return nil
	}
	return fail(operation.ErrPin, t.host.Name, "%s: nothing was upgraded; let the mirrors agree and retry, or go on without the pin", some(wrong, 5))
}

// afterUpgrade judges the upgrade job by its end, by its transcript and by what dpkg says now.
func (n *Nodes) afterUpgrade(a *attempt, t target, in UpgradeInput, job jobRun, end jobEnd, out UpgradeResult) (UpgradeResult, error) {
	out.Notes = append(out.Notes, notes(end.note)...)
	switch end.State {
	case remote.JobAbsent:
		return out, nil
	case remote.JobInterrupted:
		out.Started, out.Interrupted, out.NeedsRepair = true, true, true
		return out, nil
	case remote.JobLost:
		return UpgradeResult{}, job.lost(end)
	}
	out.Started = true
	var read answer
	err := a.persist(t.host.Name, in.UnreachableAfter.D(), job.spec.ID.Dir(), func(ctx context.Context) (err error) {
		read, err = ask(ctx, n.Connections, t.host, upgradedScript)
		return err
	})
	if err != nil {
		return UpgradeResult{}, err
	}
	out.RebootRequired = read.value("reboot-required") == "1"
	packages, dirty := unfinished(read)
	if end.ExitCode == 0 {
		if len(packages) > 0 || dirty {
			out.NeedsRepair = true
			out.Notes = append(out.Notes, "unattended-upgrades ended well and left packages unfinished: "+some(append([]string{}, packages...), 5))
		}
		return out, nil
	}
	text, err := n.output(a, t, in.NodeInput, job.spec.ID)
	if err != nil {
		return UpgradeResult{}, err
	}
	end.tail = []byte(text)
	said := parseTranscript(text)
	switch {
	case said.locked && len(packages) == 0 && !dirty:
		// The job has ended, so that the retry has to be its next try: not the type that goes on waiting.
		return UpgradeResult{}, failJob(operation.ErrRemoteExit, t.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail),
			"another process took the apt locks at the same moment: nothing was upgraded, retry")
	case len(packages) > 0 || dirty || said.broken && strings.Contains(strings.ToLower(text), "dpkg was interrupted"):
		out.NeedsRepair = true
		out.Notes = append(out.Notes, fmt.Sprintf("unattended-upgrades ended with exit code %d and left packages unfinished: %s", end.ExitCode, some(packages, 5)))
		return out, nil
	}
	return UpgradeResult{}, job.exited(end)
}

// output is the end of a job's output.
func (n *Nodes) output(a *attempt, t target, in NodeInput, id remote.JobID) (string, error) {
	var out []byte
	err := a.persist(t.host.Name, in.UnreachableAfter.D(), id.Dir(), func(ctx context.Context) (err error) {
		out, err = n.Jobs.Output(ctx, t.host, id, maxTranscript)
		return err
	})
	return string(out), err
}

// Repair finishes what an interrupted dpkg has left (job `repair`: dpkg --configure -a), once nobody else holds the apt locks: Debian's own daily run
// may begin right after a boot. It is never stopped once it runs, and started at most once a try. Errors: as those of Upgrade.
func (n *Nodes) Repair(ctx context.Context, in NodeInput) (JobResult, error) {
	a := begin(ctx, "repair")
	defer a.finish()
	s, t, err := n.where(in.Operation, in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	job := n.job(in, t, s.repairJob(in.Operation, t, in.JobTry), s.cluster.Timeouts.Upgrade.Std())
	waited := ""
	if !in.Settle {
		var begun remote.JobStatus
		err = a.persist(t.host.Name, in.UnreachableAfter.D(), job.spec.ID.Dir(), func(ctx context.Context) (err error) {
			begun, err = n.Jobs.Status(ctx, t.host, job.spec.ID)
			return err
		})
		if err == nil && begun.State == remote.JobAbsent { // later the lock is its own
			waited, err = n.waitForApt(a, t, UpgradeInput{NodeInput: in, AptLockTimeout: operation.Duration(s.cluster.Timeouts.AptLock.Std())})
		}
		if err != nil {
			return JobResult{}, err
		}
	}
	end, err := job.run(a)
	if err != nil {
		return JobResult{}, err
	}
	out, err := job.result(end)
	out.Notes = append(notes(waited), out.Notes...)
	return out, err
}

// Record reads what the operation has changed on the node, from the list that was kept before the upgrade, and what is still pending. It only reads.
// Errors: Pin when a package is not at the canary's version; Verify when packages were to be upgraded and none was.
func (n *Nodes) Record(ctx context.Context, in RecordInput) (RecordResult, error) {
	a := begin(ctx, "record")
	defer a.finish()
	_, t, err := n.where(in.Operation, in.Node.Name)
	if err != nil {
		return RecordResult{}, err
	}
	args := []string{packageList(in.Operation, in.Node.Name)}
	for _, p := range in.Pins {
		if packageName.MatchString(p.Name) {
			args = append(args, p.Name)
		}
	}
	var read answer
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		read, err = ask(ctx, n.Connections, t.host, recordScript, args...)
		return err
	})
	if err != nil {
		return RecordResult{}, err
	}
	have := parsePackages(read.sections["pinned"])
	var wrong []string
	for _, p := range in.Pins {
		if version, there := have[p.Name]; there && version != p.Version {
			wrong = append(wrong, fmt.Sprintf("%s is %s, the canary has %s", p.Name, version, p.Version))
		}
	}
	if len(wrong) > 0 {
		return RecordResult{}, fail(operation.ErrPin, t.host.Name, "%s: install the canary's versions there, or go on without the pin", some(wrong, 5))
	}
	pending, _ := parsePending(read.sections["pending"])
	remaining := securityNames(pending)
	id := jobID(in.Operation, in.Node.Name, operation.StepUpgrade, in.UpgradeTries)
	var changes []operation.PackageChange
	known := read.value("list") == "1"
	if known {
		changes = changesOf(parsePackages(read.sections["before"]), parsePackages(read.sections["now"]))
	}
	if in.UpgradeTries > 0 && len(changes) == 0 && (!known || len(remaining) > 0) {
		text, err := n.output(a, t, in.NodeInput, id)
		if err != nil {
			return RecordResult{}, err
		}
		said := parseTranscript(text)
		if !known {
			changes = said.changes
		}
		if len(changes) == 0 && len(remaining) > 0 && !said.nothing {
			return RecordResult{}, failJob(operation.ErrVerify, t.host.Name, id.Dir(), remote.Tail([]byte(text), maxTail),
				"unattended-upgrades ended well, changed nothing, and %s still pending: see its output there", isOrAre(remaining))
		}
	}
	return RecordResult{Changes: changes[:min(len(changes), operation.MaxChanges)], Count: len(changes), Remaining: remaining[:min(len(remaining), 2*maxFailures)]}, nil
}

// some is the first few of list in one line.
func some(list []string, most int) string {
	if len(list) == 0 {
		return "dpkg's journal"
	}
	text := strings.Join(list[:min(len(list), most)], ", ")
	if more := len(list) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func isOrAre(packages []string) string {
	packages = slices.Clone(packages)
	if len(packages) == 1 {
		return packages[0] + " is"
	}
	return some(packages, 5) + " are"
}
