// Package hypervisortest is the conformance suite of snapshot providers: what the comments of package hypervisor promise, seen from outside.
package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/katoflow/katoflow/internal/hypervisor"
)

// Fault sets a fault for a VM (or for the provider as a whole) and returns what ends it.
type Fault func(t *testing.T, vm hypervisor.VM) (end func())

// Rig is a provider with something behind it that has VMs. Each field that is nil leaves out its cases, which are skipped by name.
type Rig struct {
	// New returns a provider of its own each time; the suite closes it.
	New func(t *testing.T) hypervisor.Provider
	// VMs that are there and on, with no snapshot: at least one; the first 8 are taken at once.
	VMs []hypervisor.VM
	// Wait bounds the wait for Ready and for a change of power; 0 = 30 s.
	Wait time.Duration

	// Write puts a text into a place of the VM's disk that Read reads. Both are called while the VM is off.
	Write func(t *testing.T, vm hypervisor.VM, text string)
	Read  func(t *testing.T, vm hypervisor.VM) string
	// Changes counts what was changed at the provider until now, by whom ever.
	Changes func(t *testing.T) int

	// Missing is a VM that the provider does not have.
	Missing *hypervisor.VM
	// Ambiguous is one of whose name the provider has two.
	Ambiguous *hypervisor.VM
	// Full: no quota or space for a snapshot of the VM.
	Full Fault
	// Busy: a snapshot of the VM that somebody else takes is under way.
	Busy Fault
	// Away: the provider of the VM does not answer.
	Away Fault
	// LostAnswer: the next snapshot of the VM is taken, and its answer does not arrive.
	LostAnswer Fault
	// Slow: snapshots of the VM are Pending until the fault ends.
	Slow Fault
}

// Run proves all promises. It leaves the VMs on and without snapshots of its own.
func Run(t *testing.T, rig Rig) {
	if rig.Wait == 0 {
		rig.Wait = 30 * time.Second
	}
	if rig.New == nil || len(rig.VMs) == 0 {
		t.Fatal("a rig needs New and at least one VM")
	}
	for _, c := range []struct {
		name string
		has  bool
		run  func(s *suite)
	}{
		{"Find_BeforeAndAfterTake_FindsByName", true, (*suite).find},
		{"Take_OfAnExistingName_ReturnsThatSnapshot", true, (*suite).takeAgain},
		{"Prepare_WithoutTake_ChangesNothing", true, (*suite).prepare},
		{"Delete_Repeated_IsNoError", true, (*suite).delete},
		{"List_ByPrefix_OldestFirst", true, (*suite).list},
		{"Power_StopAndStartRepeated_StaysSo", true, (*suite).power},
		{"Rollback_OfAVMThatIsOn_IsRefused", true, (*suite).rollbackOn},
		{"Rollback_OfAMissingSnapshot_IsNotFound", true, (*suite).rollbackMissing},
		{"Rollback_Twice_BringsBackTheMomentTwice", rig.Write != nil && rig.Read != nil, (*suite).rollback},
		{"Take_EightAtOnce_AllAreTaken", true, (*suite).together},
		{"Call_CancelledContext_ReturnsAtOnce", true, (*suite).cancelled},
		{"Check_AllWell_NoProblem", true, (*suite).check},
		{"Check_UnknownVM_IsAProblem", rig.Missing != nil, (*suite).checkMissing},
		{"Check_AmbiguousVM_IsAProblem", rig.Ambiguous != nil, (*suite).checkAmbiguous},
		{"Check_NoSpace_IsAProblem", rig.Full != nil, func(s *suite) { s.checkFault(rig.Full) }},
		{"Check_SnapshotUnderWay_IsAProblem", rig.Busy != nil, func(s *suite) { s.checkFault(rig.Busy) }},
		{"Check_SeveralTroubles_NamesAllAtOnce", rig.Missing != nil && rig.Full != nil, (*suite).checkAll},
		{"Check_ProviderAway_IsAnError", rig.Away != nil, (*suite).away},
		{"Take_AnswerLost_IsUnknownAndFindTells", rig.LostAnswer != nil, (*suite).lost},
		{"Take_ProviderStillCopies_IsPendingThenReady", rig.Slow != nil, (*suite).pending},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.has {
				t.Skip("this rig has no such fault")
			}
			running := goleak.IgnoreCurrent()
			ctx, cancel := context.WithTimeout(context.Background(), 4*rig.Wait)
			defer cancel()
			s := &suite{T: t, ctx: ctx, rig: rig, provider: rig.New(t)}
			defer func() {
				s.sweep()
				if err := s.provider.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				// What was closed ends in its own time, and later on a busy machine.
				err := goleak.Find(running)
				for began := time.Now(); err != nil && time.Since(began) < rig.Wait; {
					err = goleak.Find(running)
				}
				if err != nil {
					t.Errorf("after close: %v", err)
				}
			}()
			c.run(s)
		})
	}
}

type suite struct {
	*testing.T
	ctx      context.Context
	rig      Rig
	provider hypervisor.Provider
}

// prefix of all names of a suite: what is left behind by a broken run is seen and swept by the next.
const prefix = "katoflow-conformance-"

func (s *suite) vm() hypervisor.VM { return s.rig.VMs[0] }

// sweep deletes the suite's snapshots and switches every VM on, also when the case has failed.
func (s *suite) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), 4*s.rig.Wait)
	defer cancel()
	s.ctx = ctx
	var all sync.WaitGroup
	for _, vm := range s.rig.VMs {
		all.Go(func() {
			left, err := s.provider.List(ctx, vm, prefix)
			if err != nil {
				s.Errorf("list what is left: %v", err)
			}
			for _, snapshot := range left {
				if err := s.provider.Delete(ctx, vm, snapshot.Name); err != nil {
					s.Errorf("delete what is left: %v", err)
				}
			}
			if err := s.provider.Start(ctx, vm); err != nil {
				s.Errorf("start what was stopped: %v", err)
			}
		})
	}
	all.Wait()
}

func (s *suite) no(err error, doing string) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", doing, err)
	}
}

// line asserts what every error is: one line that names the node.
func (s *suite) line(err error, node string) {
	s.Helper()
	if err == nil {
		s.Fatal("no error")
	}
	if strings.ContainsAny(err.Error(), "\r\n") || !strings.Contains(err.Error(), node) {
		s.Errorf("the error %q is not one line that names %s", err, node)
	}
}

func (s *suite) until(what string, done func() bool) {
	s.Helper()
	limit := time.NewTimer(s.rig.Wait)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-limit.C:
			s.Fatalf("not within %v: %s", s.rig.Wait, what)
		case <-tick.C:
		}
	}
}

func (s *suite) take(vm hypervisor.VM, name string) hypervisor.Snapshot {
	s.Helper()
	shot, err := s.provider.Prepare(s.ctx, vm, name)
	s.no(err, "prepare")
	defer s.closeShot(shot)
	taken, err := shot.Take(s.ctx)
	s.no(err, "take")
	if taken.Name != name || taken.ID == "" {
		s.Errorf("take of %s returned name %q and id %q", name, taken.Name, taken.ID)
	}
	return taken
}

func (s *suite) closeShot(shot hypervisor.Shot) {
	s.Helper()
	if err := shot.Close(); err != nil {
		s.Errorf("close the shot: %v", err)
	}
}

func (s *suite) lookup(vm hypervisor.VM, name string) (hypervisor.Snapshot, bool) {
	s.Helper()
	found, there, err := s.provider.Find(s.ctx, vm, name)
	s.no(err, "find")
	if there && found.Name != name {
		s.Errorf("find of %s returned %s", name, found.Name)
	}
	return found, there
}

func (s *suite) ready(vm hypervisor.VM, name string) {
	s.Helper()
	s.until(name+" is ready", func() bool {
		found, there := s.lookup(vm, name)
		if !there || found.State == hypervisor.Failed {
			s.Fatalf("%s: there %v, state %s", name, there, found.State)
		}
		return found.State == hypervisor.Ready
	})
}

func (s *suite) powered(vm hypervisor.VM, want hypervisor.Power) {
	s.Helper()
	s.until(vm.Node+" is "+string(want), func() bool {
		power, err := s.provider.Power(s.ctx, vm)
		s.no(err, "power")
		return power == want
	})
}

func (s *suite) off(vm hypervisor.VM) {
	s.Helper()
	s.no(s.provider.Stop(s.ctx, vm, true), "stop")
	s.powered(vm, hypervisor.Off)
}

func (s *suite) find() {
	const name = prefix + "find"
	if _, there := s.lookup(s.vm(), name); there {
		s.Fatal("found before it was taken")
	}
	taken := s.take(s.vm(), name)
	s.ready(s.vm(), name)
	found, there := s.lookup(s.vm(), name)
	if !there || found.ID != taken.ID {
		s.Errorf("found %v with id %q, taken was %q", there, found.ID, taken.ID)
	}
	if _, there := s.lookup(s.vm(), name+"-longer"); there {
		s.Error("a name that begins the same is found")
	}
	if len(s.rig.VMs) > 1 {
		if _, there := s.lookup(s.rig.VMs[1], name); there {
			s.Error("another VM's snapshot is found")
		}
	}
	// Nothing is kept in the provider: another one finds it too.
	other := s.rig.New(s.T)
	defer other.Close()
	if again, there, err := other.Find(s.ctx, s.vm(), name); err != nil || !there || again.ID != taken.ID {
		s.Errorf("another provider finds %v %q (%v)", there, again.ID, err)
	}
}

func (s *suite) takeAgain() {
	const name = prefix + "again"
	first := s.take(s.vm(), name)
	s.ready(s.vm(), name)
	if second := s.take(s.vm(), name); second.ID != first.ID {
		s.Errorf("the second has id %q, the first %q", second.ID, first.ID)
	}
	if all, err := s.provider.List(s.ctx, s.vm(), name); err != nil || len(all) != 1 {
		s.Errorf("%d snapshots of one name (%v)", len(all), err)
	}
}

func (s *suite) prepare() {
	const name = prefix + "prepare"
	before := 0
	if s.rig.Changes != nil {
		before = s.rig.Changes(s.T)
	}
	shot, err := s.provider.Prepare(s.ctx, s.vm(), name)
	s.no(err, "prepare")
	if _, there := s.lookup(s.vm(), name); there {
		s.Error("prepare has taken it")
	}
	s.closeShot(shot)
	if _, there := s.lookup(s.vm(), name); there {
		s.Error("close has taken it")
	}
	if s.rig.Changes != nil {
		if after := s.rig.Changes(s.T); after != before {
			s.Errorf("prepare and close made %d changes", after-before)
		}
	}
	// A shot's end takes nothing back.
	s.take(s.vm(), name)
	s.ready(s.vm(), name)
}

func (s *suite) delete() {
	const name, kept = prefix + "delete", prefix + "delete-kept"
	s.no(s.provider.Delete(s.ctx, s.vm(), name), "delete of none")
	s.take(s.vm(), name)
	s.ready(s.vm(), name)
	s.take(s.vm(), kept)
	s.ready(s.vm(), kept)
	for range 2 {
		s.no(s.provider.Delete(s.ctx, s.vm(), name), "delete")
		s.until(name+" is gone", func() bool { _, there := s.lookup(s.vm(), name); return !there })
	}
	if _, there := s.lookup(s.vm(), kept); !there {
		s.Error("a snapshot of another name is gone too")
	}
}

func (s *suite) list() {
	// Not in the order of the alphabet.
	want := []string{prefix + "list-b", prefix + "list-c", prefix + "list-a"}
	s.take(s.vm(), prefix+"other")
	s.ready(s.vm(), prefix+"other")
	for i, name := range want {
		taken := s.take(s.vm(), name)
		s.ready(s.vm(), name)
		// Providers tell whole seconds: the next one belongs to a later one.
		if i+1 < len(want) && !taken.Created.IsZero() {
			s.until("the next second", func() bool { return time.Now().Unix() > taken.Created.Unix() })
		}
	}
	all, err := s.provider.List(s.ctx, s.vm(), prefix+"list-")
	s.no(err, "list")
	var got []string
	for _, snapshot := range all {
		got = append(got, snapshot.Name)
	}
	if !slices.Equal(got, want) {
		s.Errorf("listed %q, taken %q", got, want)
	}
}

func (s *suite) power() {
	s.no(s.provider.Start(s.ctx, s.vm()), "start of one that is on")
	s.powered(s.vm(), hypervisor.On)
	for range 2 {
		s.off(s.vm())
	}
	s.no(s.provider.Stop(s.ctx, s.vm(), false), "stop of one that is off")
	s.powered(s.vm(), hypervisor.Off)
	for range 2 {
		s.no(s.provider.Start(s.ctx, s.vm()), "start")
		s.powered(s.vm(), hypervisor.On)
	}
}

func (s *suite) rollbackOn() {
	const name = prefix + "rollback-on"
	s.take(s.vm(), name)
	s.ready(s.vm(), name)
	s.line(s.provider.Rollback(s.ctx, s.vm(), name), s.vm().Node)
	s.powered(s.vm(), hypervisor.On)
}

func (s *suite) rollbackMissing() {
	s.off(s.vm())
	err := s.provider.Rollback(s.ctx, s.vm(), prefix+"none")
	s.line(err, s.vm().Node)
	if missing := (*hypervisor.NotFoundError)(nil); !errors.As(err, &missing) {
		s.Errorf("not a NotFoundError: %v", err)
	}
}

func (s *suite) rollback() {
	const name = prefix + "rollback"
	s.off(s.vm())
	s.rig.Write(s.T, s.vm(), "the moment")
	s.take(s.vm(), name)
	s.ready(s.vm(), name)
	for _, later := range []string{"later 1", "later 2"} {
		s.rig.Write(s.T, s.vm(), later)
		if got := s.rig.Read(s.T, s.vm()); got != later {
			s.Fatalf("the rig wrote %q and reads %q", later, got)
		}
		s.no(s.provider.Rollback(s.ctx, s.vm(), name), "rollback")
		s.powered(s.vm(), hypervisor.Off)
		if got := s.rig.Read(s.T, s.vm()); got != "the moment" {
			s.Errorf("after the rollback the disk says %q", got)
		}
	}
	s.ready(s.vm(), name)
}

func (s *suite) together() {
	const name = prefix + "together"
	vms := s.rig.VMs[:min(8, len(s.rig.VMs))]
	shots := make([]hypervisor.Shot, len(vms))
	for i, vm := range vms {
		shot, err := s.provider.Prepare(s.ctx, vm, name)
		s.no(err, "prepare")
		defer s.closeShot(shot)
		shots[i] = shot
	}
	taken, problems := make([]hypervisor.Snapshot, len(vms)), make([]error, len(vms))
	start := make(chan struct{})
	var all sync.WaitGroup
	for i, shot := range shots {
		all.Go(func() {
			<-start
			taken[i], problems[i] = shot.Take(s.ctx)
		})
	}
	close(start)
	all.Wait()
	for i, vm := range vms {
		if problems[i] != nil {
			s.Errorf("%s: %v", vm.Node, problems[i])
			continue
		}
		s.ready(vm, name)
		if found, _ := s.lookup(vm, name); found.ID != taken[i].ID {
			s.Errorf("%s: taken was %q, found %q", vm.Node, taken[i].ID, found.ID)
		}
	}
}

func (s *suite) cancelled() {
	const name = prefix + "cancelled"
	shot, err := s.provider.Prepare(s.ctx, s.vm(), name)
	s.no(err, "prepare")
	defer s.closeShot(shot)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	for what, call := range map[string]func() error{
		"check":  func() error { _, err := s.provider.Check(ctx, s.rig.VMs); return err },
		"find":   func() error { _, _, err := s.provider.Find(ctx, s.vm(), name); return err },
		"list":   func() error { _, err := s.provider.List(ctx, s.vm(), prefix); return err },
		"delete": func() error { return s.provider.Delete(ctx, s.vm(), name) },
		"power":  func() error { _, err := s.provider.Power(ctx, s.vm()); return err },
		"stop":   func() error { return s.provider.Stop(ctx, s.vm(), true) },
		"take":   func() error { _, err := shot.Take(ctx); return err },
	} {
		began := time.Now()
		if err := call(); !errors.Is(err, context.Canceled) {
			s.Errorf("%s: %v is not context.Canceled", what, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			s.Errorf("%s returned after %v", what, took)
		}
	}
	s.powered(s.vm(), hypervisor.On)
}

func (s *suite) problems(vms []hypervisor.VM) []hypervisor.Problem {
	s.Helper()
	problems, err := s.provider.Check(s.ctx, vms)
	s.no(err, "check")
	for _, p := range problems {
		if p.Text == "" || strings.ContainsAny(p.String(), "\r\n") {
			s.Errorf("the problem %q is not one line", p)
		}
	}
	return problems
}

func (s *suite) named(problems []hypervisor.Problem, node string) {
	s.Helper()
	if !slices.ContainsFunc(problems, func(p hypervisor.Problem) bool { return p.Node == node }) {
		s.Errorf("no problem of %s among %q", node, fmt.Sprint(problems))
	}
}

func (s *suite) check() {
	if problems := s.problems(s.rig.VMs); len(problems) != 0 {
		s.Errorf("problems where all is well: %v", problems)
	}
}

func (s *suite) checkMissing() {
	problems := s.problems(append(slices.Clone(s.rig.VMs), *s.rig.Missing))
	s.named(problems, s.rig.Missing.Node)
	if len(problems) != 1 {
		s.Errorf("not one problem: %v", problems)
	}
	_, err := s.provider.Prepare(s.ctx, *s.rig.Missing, prefix+"missing")
	s.line(err, s.rig.Missing.Node)
	if missing := (*hypervisor.NotFoundError)(nil); !errors.As(err, &missing) {
		s.Errorf("prepare: not a NotFoundError: %v", err)
	}
}

func (s *suite) checkAmbiguous() {
	s.named(s.problems([]hypervisor.VM{s.vm(), *s.rig.Ambiguous}), s.rig.Ambiguous.Node)
}

func (s *suite) checkFault(fault Fault) {
	end := sync.OnceFunc(fault(s.T, s.vm()))
	defer end()
	problems := s.problems(s.rig.VMs)
	// Quota and space belong to the provider in one place, to a VM in another.
	if !slices.ContainsFunc(problems, func(p hypervisor.Problem) bool { return p.Node == s.vm().Node || p.Node == "" }) {
		s.Errorf("no problem of %s or of the provider: %v", s.vm().Node, problems)
	}
	end()
	s.until("no problem after the fault", func() bool { return len(s.problems(s.rig.VMs)) == 0 })
}

func (s *suite) checkAll() {
	end := s.rig.Full(s.T, s.vm())
	defer end()
	problems := s.problems(append(slices.Clone(s.rig.VMs), *s.rig.Missing))
	s.named(problems, s.rig.Missing.Node)
	if len(problems) < 2 {
		s.Errorf("the missing VM and the missing space are not named at once: %v", problems)
	}
}

func (s *suite) away() {
	end := sync.OnceFunc(s.rig.Away(s.T, s.vm()))
	defer end()
	ctx, cancel := context.WithTimeout(s.ctx, s.rig.Wait)
	defer cancel()
	if problems, err := s.provider.Check(ctx, s.rig.VMs); err == nil && len(problems) == 0 {
		s.Error("check finds nothing wrong with a provider that is away")
	}
	if _, _, err := s.provider.Find(ctx, s.vm(), prefix+"away"); err == nil {
		s.Error("find answers for a provider that is away")
	}
	end()
	s.until("the provider answers again", func() bool { _, _, err := s.provider.Find(s.ctx, s.vm(), prefix+"away"); return err == nil })
}

func (s *suite) lost() {
	const name = prefix + "lost"
	shot, err := s.provider.Prepare(s.ctx, s.vm(), name)
	s.no(err, "prepare")
	defer s.closeShot(shot)
	end := sync.OnceFunc(s.rig.LostAnswer(s.T, s.vm()))
	defer end()
	ctx, cancel := context.WithTimeout(s.ctx, s.rig.Wait)
	defer cancel()
	_, err = shot.Take(ctx)
	s.line(err, s.vm().Node)
	if unknown := (*hypervisor.UnknownError)(nil); !errors.As(err, &unknown) {
		s.Errorf("not an UnknownError: %v", err)
	}
	end()
	s.until("find tells", func() bool {
		found, there, err := s.provider.Find(s.ctx, s.vm(), name)
		return err == nil && there && found.State == hypervisor.Ready
	})
	s.take(s.vm(), name)
	if all, err := s.provider.List(s.ctx, s.vm(), name); err != nil || len(all) != 1 {
		s.Errorf("%d snapshots after a lost answer and another try (%v)", len(all), err)
	}
}

func (s *suite) pending() {
	const name = prefix + "pending"
	end := sync.OnceFunc(s.rig.Slow(s.T, s.vm()))
	defer end()
	if taken := s.take(s.vm(), name); taken.State != hypervisor.Pending {
		s.Errorf("taken is %s", taken.State)
	}
	if found, there := s.lookup(s.vm(), name); !there || found.State != hypervisor.Pending {
		s.Errorf("found %v, %s", there, found.State)
	}
	end()
	s.ready(s.vm(), name)
}
