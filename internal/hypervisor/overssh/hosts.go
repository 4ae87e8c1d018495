package overssh

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	defaultTimeout = 2 * time.Minute
	// atOnce is how many commands of one look run at the same time.
	atOnce = 16
	// maxPrinted is what is read of a command, in bytes.
	maxPrinted = 1 << 20
)

// Hosts are the machines that a provider's commands run on. Its fields are not changed afterwards.
type Hosts struct {
	Runner remote.Runner
	// ByName has each by the name that VMs refer to.
	ByName map[string]remote.Host
	// Timeout of a command that has none of its own; 0 = 2 min.
	Timeout time.Duration

	sessions Sessions
}

// Within is the time that a command has which has none of its own.
func (h *Hosts) Within() time.Duration {
	if h.Timeout > 0 {
		return h.Timeout
	}
	return defaultTimeout
}

// Of returns the host that has a VM.
func (h *Hosts) Of(vm hypervisor.VM) (remote.Host, error) {
	host, ok := h.ByName[vm.Host]
	if !ok {
		return remote.Host{}, fmt.Errorf("%s: the hypervisor has no host %q", vm.Node, vm.Host)
	}
	return host, nil
}

// Run runs a command on the VM's host and waits for its end, whatever its exit code; what is for messages, within 0 is no limit. An error says that nobody knows whether it was carried out.
func (h *Hosts) Run(ctx context.Context, vm hypervisor.VM, what string, command remote.Command, within time.Duration) (remote.Result, error) {
	host, err := h.Of(vm)
	if err != nil {
		return remote.Result{}, err
	}
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	command.AnyExit, command.MaxOutput = true, maxPrinted
	result, err := h.Runner.Run(ctx, host, command)
	if err != nil {
		return result, fmt.Errorf("%s: %s on %s: %w", vm.Node, what, host.Name, err)
	}
	return result, nil
}

// Session returns the session to the VM's host, which all VMs of that host share.
func (h *Hosts) Session(ctx context.Context, vm hypervisor.VM) (*Session, error) {
	host, err := h.Of(vm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.Within())
	defer cancel()
	session, err := h.sessions.To(ctx, h.Runner, host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", vm.Node, err)
	}
	return session, nil
}

// Close ends the sessions.
func (h *Hosts) Close() error { return h.sessions.Close() }

// Well is the error of a command that did not end with 0: the last line that it printed.
func Well(what string, vm hypervisor.VM, result remote.Result, err error) error {
	if err != nil || result.ExitCode == 0 {
		return err
	}
	return fmt.Errorf("%s: %s ended with exit code %d: %s", vm.Node, what, result.ExitCode, Said(result))
}

// Said is the last line that a command printed, of its errors where it has any.
func Said(result remote.Result) string {
	if said := lastLine(result.Stderr); said != "" {
		return remote.Escape(said)
	}
	return remote.Escape(lastLine(result.Stdout))
}

func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// Twice returns the VMs that the same host has under the same name as one before them, as problems.
func Twice(vms []hypervisor.VM) []hypervisor.Problem {
	var problems []hypervisor.Problem
	seen := map[string]string{}
	for _, vm := range vms {
		key := vm.Host + "/" + vm.ID
		if other, twice := seen[key]; twice {
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: fmt.Sprintf("its VM %s is also that of %s: each node has its own", vm.ID, other)})
		}
		seen[key] = vm.Node
	}
	return problems
}

// CheckEach asks for the problems of every VM, several at a time, after those that Twice finds. What ask returns may begin with the node's name, which is taken away.
func CheckEach(ctx context.Context, vms []hypervisor.VM, ask func(vm hypervisor.VM) []string) ([]hypervisor.Problem, error) {
	found := make([][]string, len(vms))
	Each(len(vms), func(i int) { found[i] = ask(vms[i]) })
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	problems := Twice(vms)
	for i, vm := range vms {
		for _, text := range found[i] {
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: strings.TrimPrefix(text, vm.Node+": ")})
		}
	}
	return problems, nil
}

// Each calls do for 0..n-1, some at a time.
func Each(n int, do func(i int)) {
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
