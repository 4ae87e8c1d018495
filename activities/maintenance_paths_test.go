package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// sessions sees every session that the activities of a bench open on nodes.
type sessions struct {
	*remote.Pool
	mu     sync.Mutex
	begun  []time.Time
	ended  []time.Time
	before func(n int) error // called with the session's number, from 1; an error is the session's
	after  func(n int) error
}

func (s *sessions) Run(ctx context.Context, h remote.Host, c remote.Command) (remote.Result, error) {
	s.mu.Lock()
	s.begun = append(s.begun, time.Now())
	n, before, after := len(s.begun), s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(n); err != nil {
			return remote.Result{}, err
		}
	}
	result, err := s.Pool.Run(ctx, h, c)
	s.mu.Lock()
	s.ended = append(s.ended, time.Now())
	s.mu.Unlock()
	if after != nil {
		if err := after(n); err != nil {
			return remote.Result{}, err
		}
	}
	return result, err
}

func (s *sessions) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun, s.ended, s.before, s.after = nil, nil, nil, nil
}

// count is how many of some times of sessions are between two times.
func (s *sessions) count(of *[]time.Time, from, to time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range *of {
		if at.After(from) && at.Before(to) {
			n++
		}
	}
	return n
}

func (b *bench) watched() *sessions {
	s := &sessions{Pool: b.pool}
	b.kato.Connections, b.jobs.Runner, b.nodes.Connections = s, s, s
	return s
}

// setTo are the runs of kato that set the mode.
func (b *bench) setTo(value string) (at []time.Time, ended []time.Time) {
	for _, e := range b.node("core").Commands() {
		if strings.HasSuffix(e.Command(), "maintenance_mode "+value) {
			at, ended = append(at, e.Start), append(ended, e.End)
		}
	}
	return at, ended
}

func entered(in MaintenanceInput, out MaintenanceResult) MaintenanceInput {
	in.Entered, in.Found = true, out.Found
	return in
}

// The cluster is read-only from the set to the set back: what lies between them and the export must be little.
func TestMaintenance_SessionsWhileTheModeIsOn_AreFew(t *testing.T) {
	b := start(t, alsConfig(), "")
	s := b.watched()
	in := b.maintenance("op-1", 100)
	out := b.enter(in)
	enterEnded := time.Now()
	_, set := b.setTo("true")
	if n := s.count(&s.begun, set[0], enterEnded); n > 1 {
		t.Errorf("%d sessions between the mode being on and the end of EnterMaintenance", n)
	}
	if age := enterEnded.Sub(set[0]); out.Ago.D() < age || out.Ago.D() > age+time.Minute {
		t.Errorf("it said that the mode was on for %s and it was for %s", out.Ago, age)
	}
	began := time.Now()
	b.leave(entered(in, out))
	back, _ := b.setTo("false")
	// One that follows the job may have begun already; it waits for nothing.
	if n := s.count(&s.ended, began, back[0]); n > 2 {
		t.Errorf("%d sessions before the mode was put back", n)
	}
	b.wantMaintenance(false)
}

// killed is what an attempt's session ends with when its worker is killed.
var errKilled = errors.New("killed")

// A worker is killed before and after every session that it opens on the Core. The next attempt ends well, and nothing was run twice.
func TestMaintenance_WorkerKilledAroundEverySession_NextAttemptEndsWell(t *testing.T) {
	b := start(t, alsConfig(), "")
	s := b.watched()
	number := 0
	for _, leaving := range []bool{false, true} {
		for _, hurry := range []bool{true, false} {
			if !leaving && !hurry {
				continue
			}
			for _, when := range []string{"before", "after"} {
				for session, more := 1, true; more && session < 40; session++ {
					number++
					in := b.maintenance(fmt.Sprintf("op-%d", number), int64(1000+number))
					name := fmt.Sprintf("leaving %v, hurry %v, %s session %d", leaving, hurry, when, session)
					do, last := b.kato.EnterMaintenance, in
					if leaving {
						out := b.enter(in)
						if hurry {
							last = entered(in, out)
						}
						do = b.kato.LeaveMaintenance
					}
					s.reset()
					ctx, cancel := context.WithCancel(context.Background())
					kill := func(n int) error {
						if n >= session {
							cancel()
							return errKilled
						}
						return nil
					}
					s.mu.Lock()
					if when == "before" {
						s.before = kill
					} else {
						s.after = kill
					}
					s.mu.Unlock()
					_, err := run(t, do, last, attemptOptions{ctx: ctx})
					more = err != nil
					cancel()
					s.reset()
					if more {
						wantFailure(t, err, operation.ErrWorker, true)
						// The next attempt, of whose former one the server heard late, or something.
						o := attemptOptions{resume: &Beat{}}
						if number%2 == 0 {
							step := operation.StepMaintenanceOn
							if leaving {
								step = operation.StepMaintenanceOff
							}
							o.resume.Job = jobID(in.Operation, operation.ClusterNode, step, 1).Dir()
						}
						if _, err := run(t, do, last, o); err != nil {
							t.Fatalf("%s: %v", name, operation.FailureOf(err))
						}
					}
					b.wantMaintenance(!leaving)
					if !leaving {
						b.leave(in)
					}
					b.wantMaintenance(false)
					if _, err := b.node("core").ReadFile(recordPath); err == nil {
						t.Errorf("%s: the record is still there", name)
					}
					on, _ := b.setTo("true")
					off, _ := b.setTo("false")
					if len(on) != number || len(off) != number {
						t.Fatalf("%s: set on %d times and off %d times in %d rounds", name, len(on), len(off), number)
					}
					if more && session == 39 {
						t.Errorf("%s: it never ends", name)
					}
				}
			}
		}
	}
	t.Logf("%d rounds", number)
}

func TestMaintenance_EnteredAgainAfterALeave_HasARecordOfItsOwn(t *testing.T) {
	b := start(t, alsConfig(), "")
	in := b.maintenance("op-1", 100)
	var records []string
	for range 3 {
		out := b.enter(in)
		if out.Found != "off" || out.Note != "" {
			t.Errorf("%+v", out)
		}
		record, err := b.node("core").ReadFile(recordPath)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, string(record))
		b.wantMaintenance(true)
		b.leave(entered(in, out))
		b.wantMaintenance(false)
	}
	if records[0] == records[1] || records[1] == records[2] {
		t.Errorf("%q", records)
	}
}

func TestMaintenance_TakenOverAndEnteredAgain_FoundIsWhatIsFoundThen(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.enter(b.maintenance("op-1", 100)) // and it is terminated
	in := b.maintenance("op-2", 200)
	first := b.enter(in)
	// The worker dies here and the next one enters again: the record is our own now.
	if again := b.enter(in); again.Found != "off" || again.Note != "" {
		t.Errorf("%+v", again)
	}
	b.leave(entered(in, first))
	b.wantMaintenance(false)
	b.byHand("true") // between the rounds somebody wants it on
	second := b.enter(in)
	if second.Found != "on" || !strings.Contains(second.Note, "will stay on") {
		t.Errorf("%+v", second)
	}
	if out := b.leave(entered(in, second)); out.Now != "on" {
		t.Errorf("%+v", out)
	}
	b.wantMaintenance(true)
	if _, err := b.node("core").ReadFile(recordPath); err == nil {
		t.Error("the record is still there")
	}
}

// Found off it is put back to off. Found on no operation ever turns it off: who has, wants it off.
func TestMaintenance_TurnedOffByHandMeanwhile_StaysOff(t *testing.T) {
	for _, found := range []string{"false", "true"} {
		t.Run("found "+found, func(t *testing.T) {
			b := start(t, alsConfig(), "")
			b.byHand(found)
			in := b.maintenance("op-1", 100)
			out := b.enter(in)
			b.byHand("false")
			back := b.leave(entered(in, out))
			if back.Now != "off" || (found == "true") != strings.Contains(back.Note, "by hand") {
				t.Errorf("%+v", back)
			}
			b.wantMaintenance(false)
			if _, err := b.node("core").ReadFile(recordPath); err == nil {
				t.Error("the record is still there")
			}
		})
	}
}

// An export that fills the Core's disk must not keep the cluster read-only.
func TestMaintenance_DiskFullMeanwhile_IsPutBackAllTheSame(t *testing.T) {
	for _, hurry := range []bool{true, false} {
		t.Run(fmt.Sprintf("hurry %v", hurry), func(t *testing.T) {
			b := start(t, alsConfig(), "")
			in := b.maintenance("op-1", 100)
			out := b.enter(in)
			if hurry {
				in = entered(in, out)
			}
			b.node("core").FillDisk(true)
			if back := b.leave(in); back.Now != "off" {
				t.Errorf("%+v", back)
			}
			b.wantMaintenance(false)
			if _, err := b.node("core").ReadFile(recordPath); err == nil {
				t.Error("the record is still there")
			}
			b.node("core").FillDisk(false)
			b.enter(b.maintenance("op-2", 200))
		})
	}
}

func TestMaintenance_DiskFullBefore_NothingIsChangedAndNothingIsLeft(t *testing.T) {
	b := start(t, alsConfig(), "")
	in := b.maintenance("op-1", 100)
	b.node("core").FillDisk(true)
	_, err := run(t, b.kato.EnterMaintenance, in, attemptOptions{})
	wantFailure(t, err, operation.ErrDiskFull, false, "core: ")
	if out := b.leave(in); out.Now != "off" {
		t.Errorf("%+v", out)
	}
	b.wantRuns("core", "kato config set", 0)
}

func TestMaintenance_CoreRebootedMeanwhile_LeaveWaitsForKato(t *testing.T) {
	for _, when := range []string{"before the leave", "while it is put back"} {
		t.Run(when, func(t *testing.T) {
			cfg := alsConfig()
			cfg.BootTime = 200 * time.Millisecond
			b := start(t, cfg, "")
			core := b.node("core")
			in := b.maintenance("op-1", 100)
			in.UnreachableAfter = operation.Duration(30 * time.Second)
			in = entered(in, b.enter(in))
			if when == "before the leave" {
				core.RebootNow()
				until(t, "it is down", func() bool { return core.Boots() == 2 })
				core.FailCommand("kato config set", 1, 1, "ERROR: cannot connect to doozer")
				core.FailCommand("kato config get", 3, 1, "ERROR: cannot connect to doozer")
			} else {
				core.HangCommand("kato config set", 1)
			}
			leaving := inBackground(t, b.kato.LeaveMaintenance, in, attemptOptions{})
			if when != "before the leave" {
				until(t, "it is being put back", func() bool { return b.ran("core", "kato config set") == 2 })
				core.RebootNow()
			}
			out, err := leaving.wait(t)
			if err != nil || out.Now != "off" {
				t.Fatalf("%+v %v", out, operation.FailureOf(err))
			}
			b.wantMaintenance(false)
		})
	}
}

func TestMaintenance_KatoCannotPutItBack_IsMaintenanceAndARetryTriesAgain(t *testing.T) {
	for name, fault := range map[string]func(b *bench){
		"exits 0 and does nothing": func(b *bench) { b.node("core").FailCommand("kato config set", 1, 0, "") },
		"fails":                    func(b *bench) { b.node("core").FailCommand("kato config set", 1, 3, "boom") },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, alsConfig(), "")
			in := b.maintenance("op-1", 100)
			in = entered(in, b.enter(in))
			fault(b)
			_, err := run(t, b.kato.LeaveMaintenance, in, attemptOptions{})
			wantFailure(t, err, operation.ErrMaintenance, false, "core: ")
			b.wantMaintenance(true)
			if _, err := b.node("core").ReadFile(recordPath); err != nil {
				t.Error("the record is gone although the mode was not put back")
			}
			b.leave(in)
			b.wantMaintenance(false)
		})
	}
}

func TestMaintenance_KatoPrompts_IsNoHang(t *testing.T) {
	b := start(t, alsConfig(), "kato:\n  timeout: 2s")
	b.node("core").KatoPrompts(true)
	began := time.Now()
	_, err := run(t, b.kato.EnterMaintenance, b.maintenance("op-1", 100), attemptOptions{})
	if err == nil {
		b.wantMaintenance(true)
	} else {
		wantFailure(t, err, operation.ErrMaintenance, false, "core: ")
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestMaintenance_RecordThatCannotBeRead_IsTold(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.byHand("true")
	must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("core"), attemptOptions{})) // makes the folder
	if err := b.node("core").WriteFile(recordPath, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if out := b.enter(b.maintenance("op-1", 100)); out.Found != "on" || !strings.Contains(out.Note, "cannot be read") {
		t.Errorf("%+v", out)
	}
}

func TestPreflight_MaintenanceModeOn_TellsByWhom(t *testing.T) {
	b := start(t, alsConfig(), "")
	warnings := func(id string, token int64) string {
		t.Helper()
		op := b.op
		op.ID, op.Token = id, token
		out := must[PreflightResult](t)(run(t, b.nodes.Preflight, PreflightInput{Operation: op, Nodes: []string{"dea-1"}, Others: []string{"core", "dea-2"}}, attemptOptions{}))
		for _, n := range out.Nodes {
			if len(n.Problems) > 0 {
				t.Errorf("%+v", n)
			}
			if n.Node == "core" {
				return strings.Join(n.Warnings, "\n")
			}
		}
		return ""
	}
	if w := warnings("op-2", 200); strings.Contains(w, "maintenance") {
		t.Error(w)
	}
	b.byHand("true")
	if w := warnings("op-2", 200); !strings.Contains(w, "set it by hand") {
		t.Error(w)
	}
	b.byHand("false")
	b.enter(b.maintenance("op-1", 100))
	if w := warnings("op-2", 200); !strings.Contains(w, "left by operation op-1, which is closed and had found it off") {
		t.Error(w)
	}
	if w := warnings("op-2", 0); !strings.Contains(w, "is on by operation op-1") || strings.Contains(w, "closed") {
		t.Error(w)
	}
	if w := warnings("op-1", 100); strings.Contains(w, "maintenance") {
		t.Error(w)
	}
	b.node("core").FailCommand("kato config get", 1, 1, "boom")
	if w := warnings("op-2", 200); !strings.Contains(w, "cannot be read") {
		t.Error(w)
	}
}
