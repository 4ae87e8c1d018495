package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// RollbackReadyInput asks what a rollback to a set needs.
type RollbackReadyInput struct {
	SetInput
	// Nodes of the cluster, all of them.
	Nodes []string `json:"nodes"`
	// Safety: snapshots are taken before, for which there has to be room.
	Safety bool `json:"safety,omitempty"`
}

// RollbackReadyResult is what was found, nothing changed.
type RollbackReadyResult struct {
	Set      operation.SnapshotSet `json:"set"`
	Problems []string              `json:"problems,omitempty"`
	Warnings []string              `json:"warnings,omitempty"`
}

// RollbackReady looks whether the set is one of exactly these nodes and VMs, whether all its snapshots can be gone back to, and whether the provider can do what a rollback needs; every
// problem at once. It changes nothing. Errors: BadInput for a set that is not there, S3, and Snapshot when the hypervisor does not answer at all.
func (x *Snapshots) RollbackReady(ctx context.Context, in RollbackReadyInput) (RollbackReadyResult, error) {
	a := begin(ctx, "asking the hypervisor for the set")
	defer a.finish()
	var out RollbackReadyResult
	problem := func(format string, args ...any) {
		out.Problems = append(out.Problems, oneLine(fmt.Sprintf(format, args...), 500))
	}
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return out, err
	}
	if out.Problems = missingForSets(s.cluster); len(out.Problems) > 0 {
		return out, nil
	}
	store, err := x.setStore(in.Operation.Cluster)
	if err != nil {
		return out, err
	}
	defer store.Close()
	if out.Set, err = x.find(a, store, in.Operation.Cluster, in.Set); err != nil {
		return out, err
	}
	h := s.cluster.Hypervisor
	if h.Provider != out.Set.Provider {
		problem("the set was taken by provider %s, and the inventory has %s", out.Set.Provider, h.Provider)
		return out, nil
	}
	out.Problems = append(out.Problems, missingCommands(h, "a rollback", "rollback", "power", "start", "stop")...)
	if len(missingCommands(h, "", "kill")) > 0 {
		out.Warnings = append(out.Warnings, "the inventory has no hypervisor.command.kill: a VM that does not shut down will be asked about")
	}
	_, p, vms, err := x.open(in.Operation.Cluster, in.Nodes)
	if err != nil {
		return out, err
	}
	defer func() { _ = p.Close() }()
	for _, problemOf := range differences(out.Set, vms) {
		problem("%s", problemOf)
	}
	state, err := x.stateOfSet(a, p, out.Set, nil)
	if err != nil {
		return out, err
	}
	for _, text := range state.Problems {
		problem("%s", text)
	}
	if checker, ok := p.(hypervisor.RollbackChecker); ok && len(state.Problems) == 0 {
		found := slices.Concat(checkRollback(a.ctx, checker, out.Set, in.Safety)...)
		if a.ctx.Err() != nil {
			return out, ended(a.ctx)
		}
		for _, f := range found {
			problem("%s", f.String())
		}
	}
	if in.Safety {
		found, err := p.Check(a.ctx, vms)
		if a.ctx.Err() != nil {
			return out, ended(a.ctx)
		}
		if err != nil {
			return out, providerError(err)
		}
		for _, f := range found {
			problem("for the snapshots that are taken before: %s", f.String())
		}
	}
	out.Problems = shortList(out.Problems, 200)
	return out, nil
}

// checkRollback asks what keeps the VMs of a set, all of whose snapshots are there, from going back to it.
func checkRollback(ctx context.Context, p hypervisor.RollbackChecker, set operation.SnapshotSet, another bool) [][]hypervisor.Problem {
	found := make([][]hypervisor.Problem, len(set.Snapshots))
	each(len(found), func(i int) {
		to, err := set.Snapshots[i], error(nil)
		if found[i], err = p.CheckRollback(ctx, hypervisor.VM{Node: to.Node, ID: to.VM, Host: to.Host}, to.Name, another); err != nil {
			found[i] = append(found[i], hypervisor.Problem{Text: err.Error()})
		}
	})
	return found
}

// missingForSets is what a cluster lacks for sets of snapshots as a whole, one line each.
func missingForSets(c *inventory.Cluster) []string {
	var out []string
	if c.Hypervisor == nil {
		out = append(out, fmt.Sprintf("cluster %s has no hypervisor in the worker's inventory: write which provider its VMs run on", c.Name))
	}
	if c.S3 == nil {
		out = append(out, fmt.Sprintf("cluster %s has no s3 section in the worker's inventory: the set's manifest is kept there", c.Name))
	}
	return out
}

// missingCommands are those of the site's own commands that something needs and the inventory does not have, one line each. Other providers have none.
func missingCommands(h *inventory.Hypervisor, what string, names ...string) []string {
	if h.Provider != inventory.ProviderCommand || h.Command == nil {
		return nil
	}
	have := map[string][]string{"rollback": h.Command.Rollback, "power": h.Command.Power, "start": h.Command.Start, "stop": h.Command.Stop, "kill": h.Command.Kill}
	var out []string
	for _, name := range names {
		if len(have[name]) == 0 {
			out = append(out, fmt.Sprintf("the inventory has no hypervisor.command.%s: %s needs it", name, what))
		}
	}
	return out
}

// differences says in what a set is not one of these VMs, one line each.
func differences(set operation.SnapshotSet, vms []hypervisor.VM) []string {
	var out []string
	for _, vm := range vms {
		i := slices.IndexFunc(set.Snapshots, func(s operation.SnapshotOf) bool { return s.Node == vm.Node })
		switch {
		case i < 0:
			out = append(out, fmt.Sprintf("%s: the set has no snapshot of it, and all nodes go back or none: take it out of the cluster first", vm.Node))
		case set.Snapshots[i].VM != vm.ID || set.Snapshots[i].Host != vm.Host:
			out = append(out, fmt.Sprintf("%s: the set has a snapshot of VM %s%s, and in the inventory it is %s%s", vm.Node, set.Snapshots[i].VM, onHost(hypervisor.VM{Host: set.Snapshots[i].Host}), vm.ID, onHost(vm)))
		}
	}
	for _, have := range set.Snapshots {
		if !slices.ContainsFunc(vms, func(vm hypervisor.VM) bool { return vm.Node == have.Node }) {
			out = append(out, fmt.Sprintf("%s: the set has a snapshot of it, and the inventory no such node: all nodes go back or none", have.Node))
		}
	}
	return out
}

// RollbackVMs puts the disks of VMs that are off back to the snapshots of the input, side by side, and leaves them off. It can be repeated: the same is done again. A provider that does not
// answer is asked again for UnreachableAfter. Failures, by node: Snapshot, when the VM is not off, its snapshot is gone, failed or another one by now, or the provider refuses.
func (x *Snapshots) RollbackVMs(ctx context.Context, in NodesInput) (NodesResult, error) {
	a := begin(ctx, "putting the disks back")
	defer a.finish()
	_, p, _, err := x.open(in.Operation.Cluster, nil)
	if err != nil {
		return NodesResult{}, err
	}
	defer func() { _ = p.Close() }()
	limit := in.UnreachableAfter.D()
	if limit <= 0 {
		limit = defaultUnreachableAfter
	}
	out := NodesResult{Nodes: make([]NodeOutcome, len(in.Nodes))}
	each(len(in.Nodes), func(i int) {
		out.Nodes[i] = NodeOutcome{Node: in.Nodes[i], Started: true}
		at := slices.IndexFunc(in.Snapshots, func(s operation.SnapshotOf) bool { return s.Node == in.Nodes[i] })
		err := fmt.Errorf("%s: there is no snapshot of it", in.Nodes[i])
		if at >= 0 {
			err = rollBack(a, p, in.Snapshots[at], limit)
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

// rollBack does it for one VM. What is asked is asked again while the provider does not answer; a rollback whose answer was lost is done again.
func rollBack(a *attempt, p hypervisor.Provider, to operation.SnapshotOf, limit time.Duration) error {
	vm := hypervisor.VM{Node: to.Node, ID: to.VM, Host: to.Host}
	once := func() (final bool, err error) {
		power, err := p.Power(a.ctx, vm)
		if err != nil {
			return false, err
		}
		if power != hypervisor.Off {
			return true, fmt.Errorf("%s: its VM is %s: only one that is off is put back", vm.Node, power)
		}
		have, there, err := p.Find(a.ctx, vm, to.Name)
		switch {
		case err != nil:
			return false, err
		case !there:
			return true, fmt.Errorf("%s: its snapshot %s is gone", vm.Node, to.Name)
		case have.State != hypervisor.Ready:
			return true, fmt.Errorf("%s: its snapshot %s is %s", vm.Node, to.Name, have.State)
		case anotherOne(to, have):
			return true, fmt.Errorf("%s: its snapshot is another one by now: %s, and was %s", vm.Node, shortText(have.ID), to.ID)
		}
		err = p.Rollback(a.ctx, vm, to.Name)
		var unknown *hypervisor.UnknownError
		return err == nil || !errors.As(err, &unknown), err
	}
	for began := time.Now(); ; {
		final, err := once()
		if final || time.Since(began) > limit {
			return err
		}
		a.phase(oneLine(err.Error(), maxMessage))
		if !a.pause(vmPoll) {
			return ended(a.ctx)
		}
	}
}

// anotherOne reports whether a snapshot of that name is not the one that was taken.
func anotherOne(was operation.SnapshotOf, have hypervisor.Snapshot) bool {
	return was.ID != "" && have.ID != "" && have.ID != was.ID
}

// Recover waits until nodes answer whose disks were put back, takes their leases, and removes the jobs of that moment. It can be repeated. Failures, by node: Unreachable, Fenced and what
// package remote tells.
func (x *Snapshots) Recover(ctx context.Context, in NodesInput) (NodesResult, error) {
	return x.onNodes(ctx, "waiting for the nodes", in, func(a *attempt, s site, t target) (NodeOutcome, error) {
		limit := max(in.UnreachableAfter.D(), s.cluster.Timeouts.Boot.Std())
		err := a.persist(t.host.Name, limit, "", func(ctx context.Context) error {
			_, err := x.Jobs.TakeLease(ctx, t.host, lease(in.Operation))
			return err
		})
		if err == nil {
			err = a.persist(t.host.Name, limit, "", func(ctx context.Context) error { return x.Jobs.Sweep(ctx, t.host, 0, 0) })
		}
		return NodeOutcome{Started: true}, err
	})
}

// PlanRollbackInput asks for the commands of a dry run.
type PlanRollbackInput struct {
	Operation Operation             `json:"operation"`
	Set       operation.SnapshotSet `json:"set"`
	Safety    bool                  `json:"safety,omitempty"`
}

// PlanRollback returns the commands of a dry run, made by the same code as those of a real one. It reaches no node and no hypervisor.
func (x *Snapshots) PlanRollback(ctx context.Context, in PlanRollbackInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	var out PlanCommandsResult
	for _, to := range in.Set.Snapshots {
		t, err := s.target(to.Node)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		vm := hypervisor.VM{Node: to.Node, ID: to.VM, Host: to.Host}
		var commands []operation.PlannedCommand
		command := func(step, text, note string) {
			commands = append(commands, operation.PlannedCommand{Step: step, Command: remote.Escape(text), Note: note})
		}
		order := "after the Core"
		if t.node == s.cluster.CoreNode() {
			order = "before the others"
		}
		if s.cluster.CoreNode() == nil {
			order = ""
		}
		command(operation.StepStopVMs, "shut down VM "+vm.ID, "its power is taken away after "+s.cluster.Hypervisor.StopWithin.String())
		if in.Safety {
			command(operation.StepSnapshots, "snapshot "+snapshotName(in.Operation, 1)+" of VM "+vm.ID, "what it is before, as a set of its own")
		}
		command(operation.StepRollback, "put VM "+vm.ID+" back to snapshot "+to.Name, s.cluster.Hypervisor.Provider+onHost(vm))
		command(operation.StepStartVMs, "switch VM "+vm.ID+" on", order)
		if s.als() {
			command(operation.StepStartRoles, remote.Quote(s.kato().Start()), order)
		}
		out.Plans = append(out.Plans, operation.CommandPlan{Nodes: []string{to.Node}, Commands: commands})
	}
	return out, nil
}
