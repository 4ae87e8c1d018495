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
	"sync"
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
	Runner remote.Runner
	// Hosts by the name that VMs refer to.
	Hosts    map[string]remote.Host
	Commands Commands
	// Timeout of every command but snapshot and rollback; 0 = 2 min.
	Timeout time.Duration

	sessions overssh.Sessions
}

var _ hypervisor.Provider = (*Provider)(nil)

const (
	defaultTimeout = 2 * time.Minute
	// exitNone says that there is no snapshot of that name, or no such VM.
	exitNone = 3
	// atOnce is how many commands of one look run at the same time.
	atOnce = 16
	// maxPrinted is what is read of a command, in bytes.
	maxPrinted = 256 << 10
)

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
	host, ok := p.Hosts[vm.Host]
	if !ok {
		return remote.Result{}, fmt.Errorf("%s: the hypervisor has no host %q", vm.Node, vm.Host)
	}
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	result, err := p.Runner.Run(ctx, host, remote.Command{Argv: words(command, vm, name), AnyExit: true, MaxOutput: maxPrinted})
	if err != nil {
		// The command may have been heard: whoever changes something says so.
		return result, fmt.Errorf("%s: command %s on %s: %w", vm.Node, what, host.Name, err)
	}
	return result, nil
}

// well is the error of a command that did not end with 0.
func well(what string, vm hypervisor.VM, result remote.Result, err error) error {
	if err != nil || result.ExitCode == 0 {
		return err
	}
	said := remote.Escape(lastLine(result.Stderr))
	if said == "" {
		said = remote.Escape(lastLine(result.Stdout))
	}
	return fmt.Errorf("%s: command %s ended with exit code %d: %s", vm.Node, what, result.ExitCode, said)
}

func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}

func (p *Provider) timeout() time.Duration {
	if p.Timeout > 0 {
		return p.Timeout
	}
	return defaultTimeout
}

// Check asks power and check of every VM.
func (p *Provider) Check(ctx context.Context, vms []hypervisor.VM) ([]hypervisor.Problem, error) {
	found := make([][]hypervisor.Problem, len(vms))
	seen := map[string]string{}
	var problems []hypervisor.Problem
	for _, vm := range vms {
		key := vm.Host + "/" + vm.ID
		if other, twice := seen[key]; twice {
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: fmt.Sprintf("its VM %s is also that of %s: each node has its own", vm.ID, other)})
		}
		seen[key] = vm.Node
	}
	each(len(vms), func(i int) {
		vm := vms[i]
		problem := func(text string) {
			text = strings.TrimPrefix(text, vm.Node+": ")
			found[i] = append(found[i], hypervisor.Problem{Node: vm.Node, Text: text})
		}
		if len(p.Commands.Check) == 0 {
			result, err := p.run(ctx, "list", p.Commands.List, vm, "", p.timeout())
			if err := well("list", vm, result, err); err != nil {
				problem(err.Error())
			}
			return
		}
		result, err := p.run(ctx, "check", p.Commands.Check, vm, "", p.timeout())
		if err := well("check", vm, result, err); err != nil {
			problem(err.Error())
			return
		}
		for line := range strings.Lines(string(result.Stdout)) {
			if line = strings.TrimSpace(line); line != "" {
				problem(remote.Escape(line))
			}
		}
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, f := range found {
		problems = append(problems, f...)
	}
	return problems, nil
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
	host, ok := p.Hosts[vm.Host]
	if !ok {
		return nil, fmt.Errorf("%s: the hypervisor has no host %q", vm.Node, vm.Host)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	result, err := p.run(ctx, "list", p.Commands.List, vm, "", p.timeout())
	if err == nil && result.ExitCode == exitNone {
		return nil, &hypervisor.NotFoundError{Node: vm.Node, What: "VM " + vm.ID}
	}
	if err := well("list", vm, result, err); err != nil {
		return nil, err
	}
	session, err := p.sessions.To(ctx, p.Runner, host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", vm.Node, err)
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
	result, err := p.run(ctx, "find", p.Commands.Find, vm, name, p.timeout())
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
	result, err := p.run(ctx, "list", p.Commands.List, vm, "", p.timeout())
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
	result, err := p.run(ctx, "power", p.Commands.Power, vm, "", p.timeout())
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
	within := p.timeout()
	if what == "rollback" {
		within = 0
	}
	result, err := p.run(ctx, what, command, vm, name, within)
	if err != nil && !errors.Is(err, errNotConfigured) {
		return &hypervisor.UnknownError{Node: vm.Node, Err: err}
	}
	return well(what, vm, result, err)
}

// Close ends the sessions.
func (p *Provider) Close() error { return p.sessions.Close() }

// each calls do for 0..n-1, some at a time.
func each(n int, do func(i int)) {
	places := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			do(i)
		})
	}
	all.Wait()
}
