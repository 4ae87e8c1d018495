// Package command is the provider of snapshots by the site's own commands, run on a host over SSH.
//
// Each command is a list of words in which {vm}, {node} and {name} stand for the VM, the node and the snapshot's name. It is run by the login user without a terminal and with its
// standard input closed. Exit code 0 is well, and what it prints on standard error is told when it is not. The commands have to keep what package hypervisor promises:
//
//   - snapshot takes one of all disks of the VM and ends when its moment is over. One of that name that is there already is no error. It may print id=TEXT as its last line.
//   - find prints the state of one, pending, ready or failed, as its first word; then, if it likes, id=TEXT, created=RFC3339 and size=BYTES, one word each, on the same line. None of that
//     name is exit code 3.
//   - list prints the names of all snapshots of the VM, one a line, the oldest first. No such VM is exit code 3.
//   - delete removes one, and rollback puts the disks of a VM that is off back to it. None of that name is no error to delete.
//   - power prints on, off or another word. start switches the VM on, stop asks the guest to shut down, kill takes its power away; none of them waits.
//   - check prints what stands in the way of a snapshot, one problem a line; it is asked once a VM.
package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/overssh"
	"github.com/katoflow/katoflow/internal/remote"
)

// Commands are the site's, with their arguments; those that may be left out are empty.
type Commands struct {
	Snapshot, Find, List, Delete              []string
	Rollback, Power, Start, Stop, Kill, Check []string
}

// Provider runs them. Its fields are not changed afterwards.
type Provider struct {
	// Hosts that they run on. The time that Hosts gives a command is not for snapshot and rollback.
	overssh.Hosts
	Commands Commands
}

var _ hypervisor.Provider = (*Provider)(nil)

// exitNone says that there is no snapshot of that name, or no such VM.
const exitNone = 3

// errNotConfigured is of a command that the inventory does not have.
var errNotConfigured = errors.New("the inventory has no such command")

// words fills the placeholders in. What comes out is quoted by package remote.
func words(command []string, vm hypervisor.VM, name string) []string {
	fill := strings.NewReplacer("{vm}", vm.ID, "{node}", vm.Node, "{name}", name)
	out := make([]string, len(command))
	for i, w := range command {
		out[i] = fill.Replace(w)
	}
	return out
}

// run runs a command on the VM's host. what is for messages.
func (p *Provider) run(ctx context.Context, what string, command []string, vm hypervisor.VM, name string, within time.Duration) (remote.Result, error) {
	if len(command) == 0 {
		return remote.Result{}, fmt.Errorf("%s: hypervisor.command.%s: %w", vm.Node, what, errNotConfigured)
	}
	// A command that failed to answer may have been heard: whoever changes something says so.
	return p.Run(ctx, vm, "command "+what, remote.Command{Argv: words(command, vm, name)}, within)
}

// well is the error of a command that did not end with 0.
func well(what string, vm hypervisor.VM, result remote.Result, err error) error {
	return overssh.Well("command "+what, vm, result, err)
}

// Check asks check of every VM, or list where there is none.
func (p *Provider) Check(ctx context.Context, vms []hypervisor.VM) ([]hypervisor.Problem, error) {
	return overssh.CheckEach(ctx, vms, func(vm hypervisor.VM) (problems []string) {
		if len(p.Commands.Check) == 0 {
			result, err := p.run(ctx, "list", p.Commands.List, vm, "", p.Within())
			if err := well("list", vm, result, err); err != nil {
				problems = append(problems, err.Error())
			}
			return problems
		}
		result, err := p.run(ctx, "check", p.Commands.Check, vm, "", p.Within())
		if err := well("check", vm, result, err); err != nil {
			return []string{err.Error()}
		}
		for line := range strings.Lines(string(result.Stdout)) {
			if line = strings.TrimSpace(line); line != "" {
				problems = append(problems, remote.Escape(line))
			}
		}
		return problems
	})
}

// shot is a snapshot that only needs to be sent, over a session that is open.
type shot struct {
	p       *Provider
	vm      hypervisor.VM
	name    string
	session *overssh.Session
}

// Prepare opens the session to the VM's host, which all VMs of that host share, so that Take only sends a line.
func (p *Provider) Prepare(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Shot, error) {
	result, err := p.run(ctx, "list", p.Commands.List, vm, "", p.Within())
	if err == nil && result.ExitCode == exitNone {
		return nil, &hypervisor.NotFoundError{Node: vm.Node, What: "VM " + vm.ID}
	}
	if err := well("list", vm, result, err); err != nil {
		return nil, err
	}
	session, err := p.Session(ctx, vm)
	if err != nil {
		return nil, err
	}
	return &shot{p: p, vm: vm, name: name, session: session}, nil
}

// Take runs the command snapshot. Where its end is not known, so is whether it was carried out.
func (s *shot) Take(ctx context.Context) (hypervisor.Snapshot, error) {
	code, said, err := s.session.Run(ctx, words(s.p.Commands.Snapshot, s.vm, s.name))
	switch {
	case errors.Is(err, overssh.ErrUnknown):
		return hypervisor.Snapshot{}, &hypervisor.UnknownError{Node: s.vm.Node, Err: err}
	case err != nil:
		return hypervisor.Snapshot{}, fmt.Errorf("%s: %w", s.vm.Node, err)
	case code != 0:
		return hypervisor.Snapshot{}, fmt.Errorf("%s: command snapshot ended with exit code %d: %s", s.vm.Node, code, remote.Escape(said))
	}
	out := hypervisor.Snapshot{Name: s.name, State: hypervisor.Pending}
	fields(&out, strings.Fields(said))
	return out, nil
}

// fields reads what a command may tell of a snapshot.
func fields(out *hypervisor.Snapshot, words []string) {
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "id":
			out.ID = value
		case "created":
			out.Created, _ = time.Parse(time.RFC3339, value)
		case "size":
			out.Size, _ = strconv.ParseInt(value, 10, 64)
		}
	}
}

// Close has nothing to give back: the session is the provider's.
func (s *shot) Close() error { return nil }

// Find runs the command find.
func (p *Provider) Find(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Snapshot, bool, error) {
	result, err := p.run(ctx, "find", p.Commands.Find, vm, name, p.Within())
	if err == nil && result.ExitCode == exitNone {
		return hypervisor.Snapshot{}, false, nil
	}
	if err := well("find", vm, result, err); err != nil {
		return hypervisor.Snapshot{}, false, err
	}
	out := hypervisor.Snapshot{Name: name}
	told := strings.Fields(string(result.Stdout))
	if len(told) > 0 {
		out.State = hypervisor.State(told[0])
	}
	if !slices.Contains([]hypervisor.State{hypervisor.Pending, hypervisor.Ready, hypervisor.Failed}, out.State) {
		return hypervisor.Snapshot{}, false, fmt.Errorf("%s: command find printed %q: its first word is to be pending, ready or failed", vm.Node, remote.Escape(firstOf(told)))
	}
	fields(&out, told[1:])
	return out, true, nil
}

func firstOf(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return fields[0]
}

// List runs the command list, and find for each that fits.
func (p *Provider) List(ctx context.Context, vm hypervisor.VM, prefix string) ([]hypervisor.Snapshot, error) {
	result, err := p.run(ctx, "list", p.Commands.List, vm, "", p.Within())
	if err := well("list", vm, result, err); err != nil {
		return nil, err
	}
	var out []hypervisor.Snapshot
	for line := range strings.Lines(string(result.Stdout)) {
		name := strings.TrimSpace(line)
		if name == "" || !strings.HasPrefix(name, prefix) {
			continue
		}
		have, there, err := p.Find(ctx, vm, name)
		if err != nil {
			return nil, err
		}
		if there {
			out = append(out, have)
		}
	}
	return out, nil
}

// Delete runs the command delete.
func (p *Provider) Delete(ctx context.Context, vm hypervisor.VM, name string) error {
	return p.change(ctx, "delete", p.Commands.Delete, vm, name)
}

// Rollback runs the command rollback, when the VM is off.
func (p *Provider) Rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	power, err := p.Power(ctx, vm)
	if err != nil {
		return err
	}
	if power != hypervisor.Off {
		return fmt.Errorf("%s: its VM is %s: only one that is off is put back", vm.Node, power)
	}
	if _, there, err := p.Find(ctx, vm, name); err != nil {
		return err
	} else if !there {
		return &hypervisor.NotFoundError{Node: vm.Node, What: "snapshot " + name}
	}
	return p.change(ctx, "rollback", p.Commands.Rollback, vm, name)
}

// Power runs the command power.
func (p *Provider) Power(ctx context.Context, vm hypervisor.VM) (hypervisor.Power, error) {
	result, err := p.run(ctx, "power", p.Commands.Power, vm, "", p.Within())
	if err := well("power", vm, result, err); err != nil {
		return "", err
	}
	switch word := hypervisor.Power(firstOf(strings.Fields(string(result.Stdout)))); word {
	case hypervisor.On, hypervisor.Off:
		return word, nil
	case "":
		return "", fmt.Errorf("%s: command power printed nothing: it is to print on, off or another word", vm.Node)
	}
	return hypervisor.Other, nil
}

// Start runs the command start.
func (p *Provider) Start(ctx context.Context, vm hypervisor.VM) error {
	return p.change(ctx, "start", p.Commands.Start, vm, "")
}

// Stop runs the command stop, or kill.
func (p *Provider) Stop(ctx context.Context, vm hypervisor.VM, hard bool) error {
	if hard {
		return p.change(ctx, "kill", p.Commands.Kill, vm, "")
	}
	return p.change(ctx, "stop", p.Commands.Stop, vm, "")
}

// change runs a command that changes something and may be repeated.
func (p *Provider) change(ctx context.Context, what string, command []string, vm hypervisor.VM, name string) error {
	within := p.Within()
	if what == "rollback" {
		within = 0
	}
	result, err := p.run(ctx, what, command, vm, name, within)
	if err != nil && !errors.Is(err, errNotConfigured) {
		return &hypervisor.UnknownError{Node: vm.Node, Err: err}
	}
	return well(what, vm, result, err)
}
