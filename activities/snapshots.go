package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Hypervisors opens the provider that a cluster's VMs run on, as its inventory says.
type Hypervisors interface {
	Open(file *inventory.File, c *inventory.Cluster, env func(string) (string, bool)) (hypervisor.Provider, error)
}

// Snapshots takes snapshots of all VMs of a cluster at one moment ("Snapshots" of the source page). Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times. What stops and starts roles is a durable job; a snapshot is found again by its name, which is derived from the operation and the
// round.
type Snapshots struct {
	Source      *Source
	Connections Connections
	Jobs        Jobs
	Hypervisors Hypervisors
	Freezer     *remote.Freezer
	// Logger gets the output of jobs line by line; nil for none.
	Logger *zap.Logger
}

const (
	// snapshotPrefix is how the names of all snapshots of katoflow begin.
	snapshotPrefix = "katoflow-"
	// rolesCeiling bounds one `kato stop` or `kato start` of all roles of a node.
	rolesCeiling = 30 * time.Minute
	// stoppedWithin is how long processes may take to end after `kato stop` has.
	stoppedWithin = 2 * time.Minute
	// settleSnapshot is how long a request whose answer was lost is looked for.
	settleSnapshot = 30 * time.Second
	// settleAgain is how long an attempt looks for what an attempt before it, which was lost, may have asked for.
	settleAgain = 15 * time.Second
	// maxSnapshotID bounds what a provider calls a snapshot: one id for each of 46 disks of an EC2 instance.
	maxSnapshotID = 2048
	// answersWithin is how long a node may take to answer, beyond the time for which a freeze that was left may hold it up.
	answersWithin = time.Minute
	// settleFrozen is how long while file systems are frozen: what writes to them waits.
	settleFrozen = 3 * time.Second
	// vmPoll is the time between two looks at a VM's power, or at a snapshot that is copied.
	vmPoll = time.Second
)

var (
	stopRolesScript  = plainScript("stop_roles")
	startRolesScript = plainScript("start_roles")
	processesScript  = script("processes")
)

// snapshotName of a round of an operation; roundsPrefix is how those of all its rounds begin.
func snapshotName(op Operation, round int) string { return roundsPrefix(op.ID) + strconv.Itoa(round) }

func roundsPrefix(id string) string { return snapshotPrefix + remote.EncodeID(id) + "-r" }

// NodesInput is the input of a step that is done on many nodes side by side.
type NodesInput struct {
	Operation Operation `json:"operation"`
	Nodes     []string  `json:"nodes"`
	// Tries are those of the nodes' jobs; 1 for a node that is not named.
	Tries map[string]int `json:"tries,omitempty"`
	// Snapshots that the step is about, one of each node.
	Snapshots []operation.SnapshotOf `json:"snapshots,omitempty"`
	// Hard: a VM that does not shut down in time has its power taken away.
	Hard bool `json:"hard,omitempty"`
	// Settle starts nothing: it follows what already runs to its end.
	Settle           bool               `json:"settle,omitempty"`
	UnreachableAfter operation.Duration `json:"unreachableAfter,omitempty"`
}

// NodeOutcome is what became of a step on one node.
type NodeOutcome struct {
	Node string `json:"node"`
	// Started is false only with Settle, when the job never ran.
	Started bool `json:"started,omitempty"`
	// Stamp is the moment that counts, by the node's clock, in Unix nanoseconds: when roles had stopped, or before they were started.
	Stamp   int64              `json:"stamp,omitempty"`
	Failure *operation.Failure `json:"failure,omitempty"`
	Notes   []string           `json:"notes,omitempty"`
}

// NodesResult is what became of it on each node.
type NodesResult struct {
	Nodes []NodeOutcome `json:"nodes"`
}

func (s site) rolesJob(op Operation, node, step string, try int) remote.JobSpec {
	text, argv := stopRolesScript, s.kato().Stop()
	if step == operation.StepStartRoles {
		text, argv = startRolesScript, s.kato().Start()
	}
	return remote.JobSpec{ID: jobID(op, node, step, try), Lease: lease(op), Login: true, Argv: append([]string{"sh", "-c", text, "sh"}, argv...)}
}

// StopRoles stops all roles of nodes, side by side, as the job `stop-roles` on each (kato stop, kato.md §3.5), at most once a try. Exit code 0 is not believed: none of the node's
// processes may run afterwards, but for those of kato.Infrastructure. The outcome of each node has the moment by the node's clock when its job had ended.
//
// Failures, by node: RemoteExit when kato failed; Verify when processes still run; Interrupted when the node rebooted; Lost; Unreachable and what package remote tells.
func (x *Snapshots) StopRoles(ctx context.Context, in NodesInput) (NodesResult, error) {
	return x.onNodes(ctx, "stopping roles", in, func(a *attempt, s site, t target) (NodeOutcome, error) {
		out, err := x.roles(a, s, t, in, operation.StepStopRoles)
		if err != nil || !out.Started || in.Settle {
			return out, err
		}
		return out, x.stopped(a, s, t, in)
	})
}

// StartRoles starts all roles of nodes, side by side, as the job `start-roles` on each (kato start), at most once a try. The outcome of each node has the moment by the node's clock
// before its job began. That the roles run is for the gates to say. Failures as StopRoles.
func (x *Snapshots) StartRoles(ctx context.Context, in NodesInput) (NodesResult, error) {
	return x.onNodes(ctx, "starting roles", in, func(a *attempt, s site, t target) (NodeOutcome, error) {
		return x.roles(a, s, t, in, operation.StepStartRoles)
	})
}

// onNodes does one thing on all nodes side by side. What fails on a node is in its outcome; the error is that of an attempt that ended.
func (x *Snapshots) onNodes(ctx context.Context, phase string, in NodesInput, do func(a *attempt, s site, t target) (NodeOutcome, error)) (NodesResult, error) {
	a := begin(ctx, phase)
	defer a.finish()
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return NodesResult{}, err
	}
	out := NodesResult{Nodes: make([]NodeOutcome, len(in.Nodes))}
	each(len(in.Nodes), func(i int) {
		name := in.Nodes[i]
		t, err := s.target(name)
		if err == nil {
			out.Nodes[i], err = do(a, s, t)
		}
		out.Nodes[i].Node = name
		if err != nil {
			out.Nodes[i].Failure = operation.FailureOf(nodeError(err))
		}
	})
	if a.ctx.Err() != nil {
		return NodesResult{}, ended(a.ctx)
	}
	return out, nil
}

func (x *Snapshots) roles(a *attempt, s site, t target, in NodesInput, step string) (NodeOutcome, error) {
	name := t.node.Name
	job := jobRun{jobs: x.Jobs, host: t.host, spec: s.rolesJob(in.Operation, name, step, in.Tries[name]), settle: in.Settle, connections: x.Connections,
		log: logOf(x.Logger, in.Operation, name, step), unreachableAfter: in.UnreachableAfter.D(), ceiling: rolesCeiling}
	end, err := job.run(a)
	if err != nil {
		return NodeOutcome{}, err
	}
	result, err := job.result(end)
	out := NodeOutcome{Started: result.Started, Notes: result.Notes}
	switch {
	case in.Settle: // that it does not run any more is all that is asked
		return out, nil
	case err != nil || !result.Started:
		return out, err
	case result.Interrupted:
		return out, failJob(operation.ErrInterrupted, t.host.Name, job.spec.ID.Dir(), "", "the node rebooted in the middle of step %s: retry", step)
	}
	var said []byte
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), job.spec.ID.Dir(), func(ctx context.Context) (err error) {
		said, err = x.Jobs.Output(ctx, t.host, job.spec.ID, maxTail)
		return err
	})
	if err != nil {
		return out, err
	}
	if words := refusal(string(said)); words != "" {
		return out, failJob(operation.ErrVerify, t.host.Name, job.spec.ID.Dir(), remote.Tail(said, maxTail), "kato ended with 0 and said: %s", words)
	}
	out.Stamp, _ = strconv.ParseInt(parseAnswer(said).value("stamp"), 10, 64)
	return out, nil
}

// stopped waits until nothing of the node's roles runs any more.
func (x *Snapshots) stopped(a *attempt, s site, t target, in NodesInput) error {
	for began := time.Now(); ; {
		var found answer
		err := a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
			found, err = askFor(ctx, time.Minute+s.cluster.Kato.Timeout.Std(), x.Connections, t.host, processesScript, katoSeconds(s), s.cluster.Kato.Path)
			return err
		})
		if err != nil {
			return err
		}
		states, err := kato.ParseProcesses([]byte(found.sections["processes"]))
		if err != nil {
			return fail(operation.ErrVerify, t.host.Name, "whether its roles have stopped cannot be read: %v (exit %s)", err, oneLine(found.value("processes-exit"), 5))
		}
		var living []string
		for process, state := range states {
			if !kato.Infrastructure(process) && (state == "running" || state == "starting") {
				living = append(living, process)
			}
		}
		if len(living) == 0 {
			return nil
		}
		slices.Sort(living)
		if time.Since(began) > stoppedWithin {
			return fail(operation.ErrVerify, t.host.Name, "kato stop has ended and %s still %s: see kato process list there", shortNames(living), map[bool]string{true: "runs", false: "run"}[len(living) == 1])
		}
		a.phase(t.node.Name + ": waiting for " + shortNames(living) + " to stop")
		if !a.pause(vmPoll) {
			return ended(a.ctx)
		}
	}
}

func shortNames(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// --- the provider ------------------------------------------------------------------------------------------------------------------------

// vm is what the inventory says of a node's VM.
func vmOf(c *inventory.Cluster, n *inventory.Node) hypervisor.VM {
	id, host := c.VMOf(n)
	return hypervisor.VM{Node: n.Name, ID: id, Host: host}
}

// open opens the provider; the caller closes it. vms are those of the nodes named.
func (x *Snapshots) open(cluster string, nodes []string) (s site, p hypervisor.Provider, vms []hypervisor.VM, err error) {
	if s, err = x.Source.site(cluster); err != nil {
		return s, nil, nil, err
	}
	if s.cluster.Hypervisor == nil {
		return s, nil, nil, operation.NewError(operation.Failure{Type: operation.ErrInternal,
			Message: fmt.Sprintf("cluster %s has no hypervisor in the worker's inventory any more", remote.Escape(cluster))})
	}
	for _, name := range nodes {
		n, err := s.cluster.Node(name)
		if err != nil {
			return s, nil, nil, operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: oneLine("the worker's inventory has changed: "+err.Error(), maxMessage)})
		}
		vms = append(vms, vmOf(s.cluster, n))
	}
	if p, err = x.Hypervisors.Open(s.file, s.cluster, s.env); err != nil {
		return s, nil, nil, operation.NewError(operation.Failure{Type: operation.ErrSnapshot, Message: oneLine("the hypervisor cannot be used: "+err.Error(), maxMessage)})
	}
	return s, p, vms, nil
}

// providerError is the activity's error for one of the provider's.
func providerError(err error) error {
	return operation.NewError(operation.Failure{Type: operation.ErrSnapshot, Message: oneLine(err.Error(), maxMessage)})
}

// SnapshotReadyInput asks what a set of snapshots needs.
type SnapshotReadyInput struct {
	Operation Operation           `json:"operation"`
	Nodes     []string            `json:"nodes"`
	Quiesce   []operation.Quiesce `json:"quiesce"`
}

// SnapshotReadyResult is what was found, nothing changed.
type SnapshotReadyResult struct {
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Provider as it is called in the inventory.
	Provider string `json:"provider,omitempty"`
}

// SnapshotReady asks the provider and the bucket for all that a set of snapshots needs; every problem at once. It changes nothing.
func (x *Snapshots) SnapshotReady(ctx context.Context, in SnapshotReadyInput) (SnapshotReadyResult, error) {
	a := begin(ctx, "asking the hypervisor")
	defer a.finish()
	var out SnapshotReadyResult
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return out, err
	}
	problem := func(format string, args ...any) {
		out.Problems = append(out.Problems, oneLine(fmt.Sprintf(format, args...), 500))
	}
	out.Problems = missingForSets(s.cluster)
	if s.cluster.S3 != nil {
		if err := x.checkStore(a.ctx, s); err != nil {
			problem("bucket: %s", operation.FailureOf(err).Message)
		}
	}
	if s.cluster.Hypervisor == nil {
		return out, nil
	}
	out.Provider = s.cluster.Hypervisor.Provider
	if slices.Contains(in.Quiesce, operation.QuiesceVMsStopped) {
		out.Problems = append(out.Problems, missingCommands(s.cluster.Hypervisor, "quiesce vms-stopped", "power", "start", "stop")...)
	}
	if slices.Contains(in.Quiesce, operation.QuiesceFrozen) {
		out.Problems = append(out.Problems, x.freezable(a.ctx, s, in.Nodes)...)
		if conflict := s.cluster.FreezeConflict(); conflict != "" {
			problem("quiesce frozen: %s", conflict)
		}
	}
	_, p, vms, err := x.open(in.Operation.Cluster, in.Nodes)
	if err != nil {
		problem("%s", operation.FailureOf(err).Message)
		return out, nil
	}
	defer func() { _ = p.Close() }()
	found, err := p.Check(a.ctx, vms)
	if a.ctx.Err() != nil {
		return out, ended(a.ctx)
	}
	if err != nil {
		problem("%s: %v", out.Provider, err)
	}
	for _, f := range found {
		problem("%s", f.String())
	}
	if slices.Contains(in.Quiesce, operation.QuiesceNone) {
		out.Warnings = append(out.Warnings, "quiesce none: every snapshot is as after a power cut at its own moment, and the nodes' moments differ by the skew")
	}
	return out, nil
}

// checkStore writes, reads and removes a probe in the bucket.
func (x *Snapshots) checkStore(ctx context.Context, s site) error {
	store, err := s.store(x.Logger)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.Check(ctx); err != nil {
		return storeError("bucket", err)
	}
	return nil
}

// TakeSnapshotsInput is one round.
type TakeSnapshotsInput struct {
	Operation Operation `json:"operation"`
	Nodes     []string  `json:"nodes"`
	Round     int       `json:"round"`
	// Deadline of the round, from the first request on.
	Deadline operation.Duration `json:"deadline"`
	// Clocks: the nodes' clocks are measured, because they can be asked and their times count.
	Clocks bool `json:"clocks,omitempty"`
	// VMsOff: the VMs are shut down, which is proved before and after.
	VMsOff bool `json:"vmsOff,omitempty"`
	// Frozen: the file systems that the inventory names are frozen from before the first request until after the last answer.
	Frozen           bool               `json:"frozen,omitempty"`
	UnreachableAfter operation.Duration `json:"unreachableAfter,omitempty"`
}

// TakenSnapshot is one node of a round.
type TakenSnapshot struct {
	operation.SnapshotOf
	// PreparedAt and ResumedAt are between which the activity itself kept the node quiet, by the worker's clock in Unix nanoseconds; 0 when it did not.
	PreparedAt int64 `json:"preparedAt,omitempty"`
	ResumedAt  int64 `json:"resumedAt,omitempty"`
	// Frozen is how long its file systems were, by its own clock.
	Frozen operation.Duration `json:"frozen,omitempty"`
	// Found: it was there already, made by an earlier attempt whose request is not known.
	Found   bool               `json:"found,omitempty"`
	Failure *operation.Failure `json:"failure,omitempty"`
}

// TakeSnapshotsResult is a round, void when a node has a failure.
type TakeSnapshotsResult struct {
	Taken []TakenSnapshot `json:"taken"`
	// Asked: a request was sent. What came of it may be shown late, or be carried out late.
	Asked bool `json:"asked,omitempty"`
}

// taking is one node of a round under way.
type taking struct {
	vm   hypervisor.VM
	shot hypervisor.Shot
	// held freezes its file systems, by that id; nil when they are not frozen.
	held     *remote.Freeze
	freezeID string
	// unsure: the freeze failed, and whether the node has thawed is not known. froze is when it began.
	unsure bool
	froze  time.Time
	// givenUp: its request was, because another node had thawed.
	givenUp bool
	out     TakenSnapshot
}

func (t *taking) fail(errorType, format string, args ...any) {
	if t.out.Failure == nil {
		t.out.Failure = &operation.Failure{Type: errorType, Message: oneLine(fmt.Sprintf(format, args...), maxMessage)}
	}
}

// TakeSnapshots takes one round: everything is made ready for all nodes first, then all requests are sent at the same instant. A snapshot that an earlier attempt has made is found by its
// name and not taken again. A node that fails is in the result, and the round then is void; nothing of it is deleted here. Only an attempt that ended is an error.
//
// With Frozen the file systems of all nodes are frozen before the first request and thawed after the last answer, or when anything fails. When this attempt ends in any other way, its connections
// end and the nodes thaw by themselves, at the latest at the deadline of the inventory.
func (x *Snapshots) TakeSnapshots(ctx context.Context, in TakeSnapshotsInput) (TakeSnapshotsResult, error) {
	a := begin(ctx, "making the snapshots ready")
	defer a.finish()
	s, p, vms, err := x.open(in.Operation.Cluster, in.Nodes)
	if err != nil {
		return TakeSnapshotsResult{}, err
	}
	defer func() { _ = p.Close() }()
	name := snapshotName(in.Operation, in.Round)
	if in.Frozen && a.again {
		// What an earlier attempt has asked for may be taken at any time yet, when nothing is frozen any more.
		out := TakeSnapshotsResult{Asked: true}
		for _, vm := range vms {
			out.Taken = append(out.Taken, TakenSnapshot{SnapshotOf: operation.SnapshotOf{Node: vm.Node, VM: vm.ID, Host: vm.Host, Name: name},
				Failure: &operation.Failure{Type: operation.ErrSnapshot, Message: vm.Node + ": a worker was lost while the snapshots were taken, and its freeze with it"}})
		}
		return out, nil
	}
	all := make([]*taking, len(vms))
	for i, vm := range vms {
		all[i] = &taking{vm: vm, out: TakenSnapshot{SnapshotOf: operation.SnapshotOf{Node: vm.Node, VM: vm.ID, Host: vm.Host, Name: name}}}
	}
	defer func() {
		for _, t := range all {
			if t.shot != nil {
				_ = t.shot.Close()
			}
		}
	}()
	settleBefore := time.Duration(0)
	if a.again {
		settleBefore = settleAgain
	}
	together(all, func(t *taking) { x.makeReady(a.ctx, p, t, name, settleBefore) })
	if in.Clocks {
		together(all, func(t *taking) { x.measureClock(a.ctx, s, t) })
	}
	if in.VMsOff {
		together(all, func(t *taking) { requireOff(a.ctx, p, t, "before") })
	}
	if a.ctx.Err() != nil {
		return TakeSnapshotsResult{}, ended(a.ctx)
	}
	limit, settle := time.Now().Add(in.Deadline.D()), settleSnapshot
	if in.Frozen && !failedAny(all) {
		limit, settle = x.freeze(a, s, all, in), settleFrozen
	}
	if !failedAny(all) {
		x.fire(a, p, all, name, limit, settle)
		if in.VMsOff {
			together(all, func(t *taking) { requireOff(a.ctx, p, t, "after") })
		}
	}
	if in.Frozen {
		x.thaw(a, s, all, in)
	}
	if a.ctx.Err() != nil {
		return TakeSnapshotsResult{}, ended(a.ctx)
	}
	var out TakeSnapshotsResult
	for _, t := range all {
		out.Taken = append(out.Taken, t.out)
		out.Asked = out.Asked || t.out.Requested != "" || t.out.Found
	}
	return out, nil
}

// together does something for all nodes at once: unlike each, without a bound, because they wait for each other.
func together(all []*taking, do func(t *taking)) {
	var wait sync.WaitGroup
	for _, t := range all {
		wait.Go(func() { do(t) })
	}
	wait.Wait()
}

func failedAny(all []*taking) bool {
	return slices.ContainsFunc(all, func(t *taking) bool { return t.out.Failure != nil })
}

// makeReady finds the snapshot, for which it looks for so long, or makes its request ready.
func (x *Snapshots) makeReady(ctx context.Context, p hypervisor.Provider, t *taking, name string, settle time.Duration) {
	have, there, err := p.Find(ctx, t.vm, name)
	for began := time.Now(); err == nil && !there && time.Since(began) < settle && sleep(ctx, vmPoll) == nil; {
		have, there, err = p.Find(ctx, t.vm, name)
	}
	switch {
	case err != nil:
		t.fail(operation.ErrSnapshot, "%v", err)
	case there:
		t.found(have)
	default:
		if t.shot, err = p.Prepare(ctx, t.vm, name); err != nil {
			t.fail(operation.ErrSnapshot, "%v", err)
		}
	}
}

// found notes a snapshot whose request nobody remembers: it is complete by now.
func (t *taking) found(have hypervisor.Snapshot) {
	t.out.Found, t.out.ID, t.out.Size, t.out.Completed = true, oneLine(have.ID, maxSnapshotID), have.Size, stampOf(time.Now())
	if have.State == hypervisor.Failed {
		t.fail(operation.ErrSnapshot, "%s: the snapshot %s has failed", t.vm.Node, have.Name)
	}
}

func stampOf(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func requireOff(ctx context.Context, p hypervisor.Provider, t *taking, when string) {
	switch power, err := p.Power(ctx, t.vm); {
	case err != nil:
		t.fail(operation.ErrSnapshot, "%v", err)
	case power != hypervisor.Off:
		t.fail(operation.ErrSnapshot, "%s: its VM was to be off, and is not (%s, %s the snapshots)", t.vm.Node, power, when)
	case when == "before":
		t.out.PreparedAt = time.Now().UnixNano()
	default:
		t.out.ResumedAt = time.Now().UnixNano()
	}
}

// measureClock compares the node's clock with this worker's.
func (x *Snapshots) measureClock(ctx context.Context, s site, t *taking) {
	target, err := s.target(t.vm.Node)
	if err != nil {
		t.fail(operation.ErrInternal, "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cluster.FreezeDeadline()+answersWithin)
	defer cancel()
	offset, within, err := remote.ClockOffset(ctx, x.Connections, target.host)
	if err != nil {
		t.fail(operation.ErrSnapshot, "its clock cannot be read: %s", failureOf(err).Message)
		return
	}
	t.out.ClockOffset, t.out.ClockError = operation.Duration(offset), operation.Duration(within)
}

// fire sends all requests at the same instant and waits for all answers, until the limit. A lost answer is looked for until it has settled.
func (x *Snapshots) fire(a *attempt, p hypervisor.Provider, all []*taking, name string, limit time.Time, settle time.Duration) {
	counts, void := context.WithCancel(a.ctx)
	defer void()
	ctx, cancel := context.WithDeadline(counts, limit)
	defer cancel()
	var thawed atomic.Bool
	for _, t := range all {
		if t.held != nil {
			gone := t.held.Gone()
			go func() {
				select {
				case <-gone: // the round does not count any more: what waits for it can go on
					thawed.Store(true)
					void()
				case <-counts.Done():
				}
			}()
		}
	}
	a.phase("taking the snapshots")
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	for _, t := range all {
		if t.shot == nil {
			continue
		}
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			requested := time.Now()
			got, err := t.shot.Take(ctx)
			completed := time.Now()
			t.out.Requested, t.out.Completed = stampOf(requested), stampOf(completed)
			if err == nil {
				t.out.ID, t.out.Size = oneLine(got.ID, maxSnapshotID), got.Size
				if got.State == hypervisor.Failed {
					t.fail(operation.ErrSnapshot, "%s: the provider says that the snapshot has failed", t.vm.Node)
				}
				return
			}
			if t.givenUp = thawed.Load(); !t.givenUp {
				x.lookFor(counts, p, t, name, settle, ctx.Err() != nil, err)
			}
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

// lookFor finds out what became of a request that failed, for no longer than settle. One that was carried out all the same counts, as complete when it was seen.
func (x *Snapshots) lookFor(ctx context.Context, p hypervisor.Provider, t *taking, name string, settle time.Duration, late bool, cause error) {
	var unknown *hypervisor.UnknownError
	if late {
		t.fail(operation.ErrSnapshot, "%s: the snapshot took longer than it may (deadline of the round, or of the freeze): %v", t.vm.Node, cause)
		return
	}
	if !errors.As(cause, &unknown) {
		t.fail(operation.ErrSnapshot, "%v", cause)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		have, there, err := p.Find(ctx, t.vm, name)
		if err == nil && there {
			t.out.ID, t.out.Size, t.out.Completed = oneLine(have.ID, maxSnapshotID), have.Size, stampOf(time.Now())
			if have.State == hypervisor.Failed {
				t.fail(operation.ErrSnapshot, "%s: the snapshot has failed", t.vm.Node)
			}
			return
		}
		if sleep(ctx, vmPoll) != nil {
			t.fail(operation.ErrSnapshot, "%v", cause)
			return
		}
	}
}

// StopVMs asks the guests to shut down and waits until their VMs are off. A VM that is off is left so. One that is not off in time has its power taken away with Hard, and is a failure
// otherwise. Failures, by node: Snapshot, when the provider refuses or the VM is not off in time.
func (x *Snapshots) StopVMs(ctx context.Context, in NodesInput) (NodesResult, error) {
	stop := func(hard bool) switching {
		return func(ctx context.Context, p hypervisor.Provider, vm hypervisor.VM) error { return p.Stop(ctx, vm, hard) }
	}
	ways := []switching{stop(false)}
	if in.Hard {
		ways = append(ways, stop(true))
	}
	return x.switchVMs(ctx, "shutting the VMs down", in, hypervisor.Off, ways...)
}

// switching is one way to switch a VM.
type switching func(context.Context, hypervisor.Provider, hypervisor.VM) error

// StartVMs switches VMs on and waits until they are. That the nodes answer is for the gates to say. Failures as StopVMs.
func (x *Snapshots) StartVMs(ctx context.Context, in NodesInput) (NodesResult, error) {
	return x.switchVMs(ctx, "switching the VMs on", in, hypervisor.On, func(ctx context.Context, p hypervisor.Provider, vm hypervisor.VM) error { return p.Start(ctx, vm) })
}

func (x *Snapshots) switchVMs(ctx context.Context, phase string, in NodesInput, want hypervisor.Power, ways ...switching) (NodesResult, error) {
	a := begin(ctx, phase)
	defer a.finish()
	s, p, vms, err := x.open(in.Operation.Cluster, in.Nodes)
	if err != nil {
		return NodesResult{}, err
	}
	defer func() { _ = p.Close() }()
	within := s.cluster.Hypervisor.StopWithin.Std()
	out := NodesResult{Nodes: make([]NodeOutcome, len(vms))}
	each(len(vms), func(i int) {
		out.Nodes[i] = NodeOutcome{Node: vms[i].Node, Started: true}
		var err error
		for n, way := range ways {
			if n > 0 {
				out.Nodes[i].Notes = append(out.Nodes[i].Notes, oneLine("its power was taken away: "+err.Error(), maxMessage))
			}
			if err = switchVM(a, p, vms[i], want, within, way); err == nil || a.ctx.Err() != nil {
				break
			}
		}
		if err != nil {
			out.Nodes[i].Failure = operation.FailureOf(providerError(err))
		}
	})
	if a.ctx.Err() != nil {
		return NodesResult{}, ended(a.ctx)
	}
	return out, nil
}

func switchVM(a *attempt, p hypervisor.Provider, vm hypervisor.VM, want hypervisor.Power, within time.Duration, do switching) error {
	asked := false
	var last error
	for began := time.Now(); ; {
		power, err := p.Power(a.ctx, vm)
		switch {
		case err != nil:
			last = err
		case power == want:
			return nil
		case !asked:
			if last = do(a.ctx, p, vm); last == nil {
				asked, began = true, time.Now()
			}
		default:
			last = fmt.Errorf("%s: its VM is %s, %s after it was to be %s", vm.Node, power, within, want)
		}
		if last != nil && time.Since(began) > within {
			return last
		}
		if !a.pause(vmPoll) {
			return ended(a.ctx)
		}
	}
}

// DiscardInput names the snapshots of an operation that are deleted.
type DiscardInput struct {
	Operation Operation `json:"operation"`
	Nodes     []string  `json:"nodes"`
	// Keep is the round that stays; 0 for none.
	Keep int `json:"keep,omitempty"`
	// Asked is how long ago the last request of a round that does not stay was sent; nil where what may come of one late is not waited for.
	Asked            *operation.Duration `json:"asked,omitempty"`
	UnreachableAfter operation.Duration  `json:"unreachableAfter,omitempty"`
}

const (
	// discardLooks is how often, vmPoll apart, the provider must show nothing that is to be deleted.
	discardLooks = 3
	// lateRequest is how long after a request what came of it is looked for: it may be carried out late when its answer was lost, and be shown late when it was not.
	lateRequest = 30 * time.Second
)

// Discard deletes all snapshots of an operation but those of the round that stays, and looks until none is there any more; with Asked until half a minute after the last request. Repeating it is
// harmless. The error is Snapshot, with what is left by node.
func (x *Snapshots) Discard(ctx context.Context, in DiscardInput) error {
	a := begin(ctx, "deleting snapshots")
	defer a.finish()
	_, p, vms, err := x.open(in.Operation.Cluster, in.Nodes)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	keep := ""
	if in.Keep > 0 {
		keep = snapshotName(in.Operation, in.Keep)
	}
	limit := in.UnreachableAfter.D()
	if limit <= 0 {
		limit = defaultUnreachableAfter
	}
	var until time.Time
	if in.Asked != nil {
		until = time.Now().Add(lateRequest - in.Asked.D())
	}
	failures := make([]error, len(vms))
	each(len(vms), func(i int) { failures[i] = discard(a, p, vms[i], roundsPrefix(in.Operation.ID), keep, until, limit) })
	if a.ctx.Err() != nil {
		return ended(a.ctx)
	}
	var problems []string
	for _, err := range failures {
		if err != nil {
			problems = append(problems, oneLine(err.Error(), 500))
		}
	}
	if len(problems) > 0 {
		return operation.NewError(operation.Failure{Type: operation.ErrSnapshot, Message: oneLine("snapshots are left: "+problems[0], maxMessage), Problems: problems})
	}
	return nil
}

// discard looks discardLooks times, and at least until then.
func discard(a *attempt, p hypervisor.Provider, vm hypervisor.VM, prefix, keep string, until time.Time, limit time.Duration) error {
	var last error
	for began, clean := time.Now(), 0; ; {
		found, err := p.List(a.ctx, vm, prefix)
		last = err
		left := 0
		for _, have := range found {
			if have.Name == keep {
				continue
			}
			left++
			if err := p.Delete(a.ctx, vm, have.Name); err != nil {
				last = err
			}
		}
		if clean++; err != nil || left > 0 {
			clean = 0
		}
		if clean >= discardLooks && time.Now().After(until) {
			return nil
		}
		if clean == 0 && time.Since(began) > limit {
			if last == nil {
				last = fmt.Errorf("%s: %d snapshots come back as they are deleted", vm.Node, left)
			}
			return last
		}
		if !a.pause(vmPoll) {
			return ended(a.ctx)
		}
	}
}

// UsableInput names the snapshots of a round.
type UsableInput struct {
	Operation        Operation          `json:"operation"`
	Nodes            []string           `json:"nodes"`
	Round            int                `json:"round"`
	UnreachableAfter operation.Duration `json:"unreachableAfter,omitempty"`
}

// UsableResult has what the provider says of each snapshot when it can be gone back to.
type UsableResult struct {
	Snapshots []operation.SnapshotOf `json:"snapshots"`
}

// Usable waits until every snapshot of a round can be gone back to. A provider that does not answer is asked again for UnreachableAfter. It only reads. The error is Snapshot when one
// has failed or is gone.
func (x *Snapshots) Usable(ctx context.Context, in UsableInput) (UsableResult, error) {
	a := begin(ctx, "waiting until the snapshots can be used")
	defer a.finish()
	_, p, vms, err := x.open(in.Operation.Cluster, in.Nodes)
	if err != nil {
		return UsableResult{}, err
	}
	defer func() { _ = p.Close() }()
	name := snapshotName(in.Operation, in.Round)
	limit := in.UnreachableAfter.D()
	if limit <= 0 {
		limit = defaultUnreachableAfter
	}
	out := UsableResult{Snapshots: make([]operation.SnapshotOf, len(vms))}
	failures := make([]error, len(vms))
	each(len(vms), func(i int) {
		have, err := usable(a, p, vms[i], name, limit)
		out.Snapshots[i] = operation.SnapshotOf{Node: vms[i].Node, VM: vms[i].ID, Host: vms[i].Host, Name: name, ID: oneLine(have.ID, maxSnapshotID), Size: have.Size}
		failures[i] = err
	})
	if a.ctx.Err() != nil {
		return UsableResult{}, ended(a.ctx)
	}
	for _, err := range failures {
		if err != nil {
			return UsableResult{}, providerError(err)
		}
	}
	return out, nil
}

func usable(a *attempt, p hypervisor.Provider, vm hypervisor.VM, name string, limit time.Duration) (hypervisor.Snapshot, error) {
	var silent, missing time.Time
	for {
		have, there, err := p.Find(a.ctx, vm, name)
		if missing.IsZero() || err == nil && there {
			missing = time.Now()
		}
		switch {
		case a.ctx.Err() != nil:
			return have, ended(a.ctx)
		case err != nil:
			if silent.IsZero() {
				silent = time.Now()
			}
			if time.Since(silent) > limit {
				return have, err
			}
		case !there && time.Since(missing) > lateRequest: // a cloud may show late what it has made
			return have, fmt.Errorf("%s: its snapshot %s is gone", vm.Node, name)
		case !there:
			silent = time.Time{}
		case have.State == hypervisor.Failed:
			return have, fmt.Errorf("%s: its snapshot %s has failed", vm.Node, name)
		case have.State == hypervisor.Ready:
			return have, nil
		default:
			silent = time.Time{}
		}
		if !a.pause(vmPoll) {
			return have, ended(a.ctx)
		}
	}
}

// KeepSet writes the manifest of a set into the cluster's bucket, the last thing of all: without it there is no set. Repeating it writes the same again. It returns where it is. The
// error is S3.
func (x *Snapshots) KeepSet(ctx context.Context, set operation.SnapshotSet) (string, error) {
	a := begin(ctx, "writing the set's manifest")
	defer a.finish()
	s, err := x.Source.site(set.Cluster)
	if err != nil {
		return "", err
	}
	store, err := s.store(x.Logger)
	if err != nil {
		return "", err
	}
	defer store.Close()
	ref := archive.Ref{Cluster: set.Cluster, Operation: set.Set}
	location := "s3://" + s.cluster.S3.Bucket + "/" + store.SnapshotSetKey(ref)
	set.Location = location
	data, err := json.MarshalIndent(set, "", " ")
	if err != nil {
		return "", operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: "the manifest cannot be written: " + err.Error()})
	}
	if err := store.KeepSnapshotSet(a.ctx, ref, append(data, '\n')); err != nil {
		if a.ctx.Err() != nil {
			return "", ended(a.ctx)
		}
		return "", storeError("bucket", err)
	}
	return location, nil
}

// PlanSnapshotsInput asks for the commands of a dry run.
type PlanSnapshotsInput struct {
	Operation Operation           `json:"operation"`
	Nodes     []string            `json:"nodes"`
	Quiesce   []operation.Quiesce `json:"quiesce"`
}

// PlanSnapshots returns the commands of a dry run, made by the same code as those of a real one. It reaches no node and no hypervisor.
func (x *Snapshots) PlanSnapshots(ctx context.Context, in PlanSnapshotsInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	does := func(q operation.Quiesce) bool { return slices.Contains(in.Quiesce, q) }
	var out PlanCommandsResult
	add := func(node string, commands ...operation.PlannedCommand) {
		if len(commands) > 0 {
			out.Plans = append(out.Plans, operation.CommandPlan{Nodes: []string{node}, Commands: commands})
		}
	}
	if does(operation.QuiesceMaintenance) {
		core, err := s.core()
		if err != nil {
			return PlanCommandsResult{}, err
		}
		add(operation.ClusterNode,
			operation.PlannedCommand{Step: operation.StepMaintenanceOn, Command: show(s.maintenanceJob(in.Operation, operation.StepMaintenanceOn, true, 1)), Note: "on " + core.node.Name + ", unless it is on"},
			operation.PlannedCommand{Step: operation.StepMaintenanceOff, Command: show(s.maintenanceJob(in.Operation, operation.StepMaintenanceOff, false, 1)), Note: "on " + core.node.Name + ", after all has been started, unless it was on before"})
	}
	for _, name := range in.Nodes {
		t, err := s.target(name)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		vm := vmOf(s.cluster, t.node)
		var commands []operation.PlannedCommand
		command := func(step, text, note string) {
			commands = append(commands, operation.PlannedCommand{Step: step, Command: remote.Escape(text), Note: note})
		}
		order := ""
		if t.node == s.cluster.CoreNode() {
			order = "after the others; started before them"
		}
		if does(operation.QuiesceRolesStopped) {
			command(operation.StepStopRoles, remote.Quote(s.kato().Stop()), order)
		}
		if does(operation.QuiesceVMsStopped) {
			command(operation.StepStopVMs, "shut down VM "+vm.ID, onHost(vm))
		}
		if does(operation.QuiesceFrozen) {
			command(operation.StepSnapshots, remote.Quote(remote.FreezeCommand("ID", s.cluster.FreezeDeadline(), s.cluster.FrozenOf(t.node))), "before the snapshots of all nodes; thawed after them")
		}
		command(operation.StepSnapshots, "snapshot "+snapshotName(in.Operation, 1)+" of VM "+vm.ID, s.cluster.Hypervisor.Provider+onHost(vm))
		if does(operation.QuiesceVMsStopped) {
			command(operation.StepStartVMs, "switch VM "+vm.ID+" on", onHost(vm))
		}
		if does(operation.QuiesceRolesStopped) {
			command(operation.StepStartRoles, remote.Quote(s.kato().Start()), order)
		}
		add(name, commands...)
	}
	return out, nil
}

func onHost(vm hypervisor.VM) string {
	if vm.Host == "" {
		return ""
	}
	return " on " + vm.Host
}
