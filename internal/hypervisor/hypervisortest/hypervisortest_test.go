package hypervisortest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

// cloud is a provider in memory that keeps every promise but the one that broken names.
type cloud struct {
	broken string

	mu       sync.Mutex
	machines map[string]*machine
	made     int
	changes  int
	away     bool
	full     map[string]bool
	busy     map[string]bool
	lose     map[string]bool
	slow     map[string]bool
}

type machine struct {
	off       bool
	disk      string
	snapshots []kept
}

type kept struct {
	hypervisor.Snapshot
	disk string
}

type provider struct{ *cloud }

type shot struct {
	provider
	vm   hypervisor.VM
	name string
}

func (c *cloud) enter(ctx context.Context, vm hypervisor.VM) (*machine, error) {
	if err := ctx.Err(); err != nil && c.broken != "cancelled" {
		return nil, fmt.Errorf("%s: %w", vm.Node, err)
	}
	if c.away {
		return nil, fmt.Errorf("%s: the provider does not answer", vm.Node)
	}
	m := c.machines[vm.ID]
	if m == nil {
		return nil, &hypervisor.NotFoundError{Node: vm.Node, What: "VM " + vm.ID}
	}
	return m, nil
}

func (p provider) Check(ctx context.Context, vms []hypervisor.VM) ([]hypervisor.Problem, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []hypervisor.Problem
	for _, vm := range vms {
		_, err := p.enter(ctx, vm)
		missing := (*hypervisor.NotFoundError)(nil)
		switch {
		case errors.As(err, &missing):
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: missing.What + " is not there"})
		case err != nil:
			return nil, err
		case p.full[vm.ID] && p.broken != "full":
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: "no space"})
		case p.busy[vm.ID]:
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: "another snapshot is under way"})
		case vm.ID == "twin":
			problems = append(problems, hypervisor.Problem{Node: vm.Node, Text: "there are two"})
		}
		if p.broken == "first problem only" && len(problems) > 0 {
			break
		}
	}
	return problems, nil
}

func (p provider) Prepare(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Shot, error) {
	s := shot{p, vm, name}
	if p.broken == "prepare takes" {
		_, err := s.Take(ctx)
		return s, err
	}
	if p.broken == "leak" {
		go func() { <-make(chan struct{}) }()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.enter(ctx, vm)
	return s, err
}

func (s shot) Close() error { return nil }

func (s shot) Take(ctx context.Context) (hypervisor.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.enter(ctx, s.vm)
	if err != nil {
		return hypervisor.Snapshot{}, err
	}
	if i := s.index(m, s.name); i >= 0 && s.broken != "second of a name" {
		return m.snapshots[i].Snapshot, nil
	}
	s.made++
	s.changes++
	taken := hypervisor.Snapshot{Name: s.name, ID: fmt.Sprint("snap-", s.made), State: hypervisor.Ready}
	if s.slow[s.vm.ID] {
		taken.State = hypervisor.Pending
	}
	m.snapshots = append(m.snapshots, kept{taken, m.disk})
	if s.lose[s.vm.ID] {
		delete(s.lose, s.vm.ID)
		err := errors.New("connection lost")
		if s.broken == "lost answer" {
			return hypervisor.Snapshot{}, fmt.Errorf("%s: %w", s.vm.Node, err)
		}
		return hypervisor.Snapshot{}, &hypervisor.UnknownError{Node: s.vm.Node, Err: err}
	}
	return taken, nil
}

func (c *cloud) index(m *machine, name string) int {
	return slices.IndexFunc(m.snapshots, func(k kept) bool {
		return k.Name == name || c.broken == "find by beginning" && strings.HasPrefix(name, k.Name)
	})
}

func (p provider) Find(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Snapshot, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.enter(ctx, vm)
	if err != nil {
		return hypervisor.Snapshot{}, false, err
	}
	if i := p.index(m, name); i >= 0 {
		return m.snapshots[i].Snapshot, true, nil
	}
	return hypervisor.Snapshot{}, false, nil
}

func (p provider) List(ctx context.Context, vm hypervisor.VM, prefix string) ([]hypervisor.Snapshot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.enter(ctx, vm)
	if err != nil {
		return nil, err
	}
	var all []hypervisor.Snapshot
	for _, k := range m.snapshots {
		if strings.HasPrefix(k.Name, prefix) {
			all = append(all, k.Snapshot)
		}
	}
	if p.broken == "order" {
		slices.SortFunc(all, func(a, b hypervisor.Snapshot) int { return strings.Compare(a.Name, b.Name) })
	}
	return all, nil
}

func (p provider) Delete(ctx context.Context, vm hypervisor.VM, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.enter(ctx, vm)
	if err != nil {
		return err
	}
	i := p.index(m, name)
	if i < 0 {
		if p.broken == "delete of none" {
			return &hypervisor.NotFoundError{Node: vm.Node, What: name}
		}
		return nil
	}
	p.changes++
	m.snapshots = slices.Delete(m.snapshots, i, i+1)
	return nil
}

func (p provider) Rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.enter(ctx, vm)
	if err != nil {
		return err
	}
	if !m.off && p.broken != "rollback while on" {
		return fmt.Errorf("%s: is on", vm.Node)
	}
	i := p.index(m, name)
	if i < 0 {
		return &hypervisor.NotFoundError{Node: vm.Node, What: name}
	}
	if p.broken == "rollback once" && m.disk == "later 2" {
		return nil
	}
	m.disk = m.snapshots[i].disk
	return nil
}

func (p provider) Power(ctx context.Context, vm hypervisor.VM) (hypervisor.Power, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.enter(ctx, vm)
	if err != nil {
		return "", err
	}
	if m.off {
		return hypervisor.Off, nil
	}
	return hypervisor.On, nil
}

func (p provider) Start(ctx context.Context, vm hypervisor.VM) error { return p.power(ctx, vm, false) }

func (p provider) Stop(ctx context.Context, vm hypervisor.VM, _ bool) error {
	return p.power(ctx, vm, true)
}

func (p provider) power(ctx context.Context, vm hypervisor.VM, off bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.enter(ctx, vm)
	if err != nil {
		return err
	}
	if m.off && off && p.broken == "stop twice" {
		return fmt.Errorf("%s: is off already", vm.Node)
	}
	m.off = off
	return nil
}

func (p provider) Close() error { return nil }

func rig(broken string) hypervisortest.Rig {
	c := &cloud{broken: broken, machines: map[string]*machine{}, full: map[string]bool{}, busy: map[string]bool{}, lose: map[string]bool{}, slow: map[string]bool{}}
	r := hypervisortest.Rig{
		New:       func(*testing.T) hypervisor.Provider { return provider{c} },
		Wait:      2 * time.Second,
		Missing:   &hypervisor.VM{Node: "missing", ID: "missing"},
		Ambiguous: &hypervisor.VM{Node: "twin", ID: "twin"},
		Changes:   func(*testing.T) int { c.mu.Lock(); defer c.mu.Unlock(); return c.changes },
		Write:     func(_ *testing.T, vm hypervisor.VM, text string) { c.machines[vm.ID].disk = text },
		Read:      func(_ *testing.T, vm hypervisor.VM) string { return c.machines[vm.ID].disk },
	}
	set := func(of map[string]bool, ended func(*machine)) hypervisortest.Fault {
		return func(_ *testing.T, vm hypervisor.VM) func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			of[vm.ID] = true
			return func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(of, vm.ID)
				ended(c.machines[vm.ID])
			}
		}
	}
	nothing := func(*machine) {}
	r.Full, r.Busy, r.LostAnswer = set(c.full, nothing), set(c.busy, nothing), set(c.lose, nothing)
	r.Slow = set(c.slow, func(m *machine) {
		for i := range m.snapshots {
			m.snapshots[i].State = hypervisor.Ready
		}
	})
	r.Away = func(*testing.T, hypervisor.VM) func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.away = broken != "away"
		return func() { c.mu.Lock(); defer c.mu.Unlock(); c.away = false }
	}
	c.machines["twin"] = &machine{}
	for i := range 8 {
		id := fmt.Sprint("vm-", i)
		c.machines[id] = &machine{}
		r.VMs = append(r.VMs, hypervisor.VM{Node: fmt.Sprint("node-", i), ID: id})
	}
	return r
}

const brokenPromise = "HYPERVISORTEST_BROKEN_PROMISE"

func TestRun_ProviderThatKeepsEveryPromise_Passes(t *testing.T) {
	hypervisortest.Run(t, rig(os.Getenv(brokenPromise)))
}

// The suite runs in a process of its own, where it may fail.
func TestRun_ProviderThatBreaksAPromise_FailsThatCase(t *testing.T) {
	for broken, want := range map[string]string{
		"cancelled":          "Call_CancelledContext_ReturnsAtOnce",
		"full":               "Check_NoSpace_IsAProblem",
		"first problem only": "Check_SeveralTroubles_NamesAllAtOnce",
		"prepare takes":      "Prepare_WithoutTake_ChangesNothing",
		"leak":               "Find_BeforeAndAfterTake_FindsByName",
		"second of a name":   "Take_OfAnExistingName_ReturnsThatSnapshot",
		"lost answer":        "Take_AnswerLost_IsUnknownAndFindTells",
		"find by beginning":  "Find_BeforeAndAfterTake_FindsByName",
		"order":              "List_ByPrefix_OldestFirst",
		"delete of none":     "Delete_Repeated_IsNoError",
		"rollback while on":  "Rollback_OfAVMThatIsOn_IsRefused",
		"rollback once":      "Rollback_Twice_BringsBackTheMomentTwice",
		"stop twice":         "Power_StopAndStartRepeated_StaysSo",
		"away":               "Check_ProviderAway_IsAnError",
	} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRun_ProviderThatKeepsEveryPromise_Passes$", "-test.v", "-test.timeout=60s")
			run.Env = append(os.Environ(), brokenPromise+"="+broken)
			out, err := run.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestRun_ProviderThatKeepsEveryPromise_Passes/"+want+" ") {
				t.Errorf("%s did not fail (%v):\n%s", want, err, out)
			}
		})
	}
}
