package activities

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

func (b *bench) maintenance(id string, token int64) MaintenanceInput {
	op := b.op
	op.ID, op.Token = id, token
	return MaintenanceInput{Operation: op, UnreachableAfter: operation.Duration(5 * time.Second)}
}

func (b *bench) enter(in MaintenanceInput) MaintenanceResult {
	b.t.Helper()
	return must[MaintenanceResult](b.t)(run(b.t, b.kato.EnterMaintenance, in, attemptOptions{}))
}

func (b *bench) leave(in MaintenanceInput) MaintenanceResult {
	b.t.Helper()
	return must[MaintenanceResult](b.t)(run(b.t, b.kato.LeaveMaintenance, in, attemptOptions{}))
}

// byHand sets the mode as an operator would.
func (b *bench) byHand(value string) {
	b.t.Helper()
	_, err := b.pool.Run(context.Background(), b.host("core"), remote.Command{Script: `exec sh -l -c '/home/stackato/bin/kato config set cloud_controller_ng maintenance_mode "$1"' sh "$1"`, Args: []string{value}})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) wantMaintenance(on bool) {
	b.t.Helper()
	if b.cluster.Maintenance() != on {
		b.t.Errorf("maintenance mode is %v", !on)
	}
}

const recordPath = "/home/stackato/.local/state/katoflow/maintenance.json"

func TestMaintenance_FoundOff_IsPutBackOff(t *testing.T) {
	b := start(t, alsConfig(), "")
	in := b.maintenance("op-1", 100)
	for range 2 {
		if out := b.enter(in); out.Found != "off" || out.Now != "on" {
			t.Errorf("%+v", out)
		}
		b.wantMaintenance(true)
	}
	b.wantRuns("core", "kato config set", 1)
	for i := range 2 {
		out := b.leave(in)
		if out.Found != "off" || out.Now != "off" || (out.Note != "") != (i == 1) {
			t.Errorf("%+v", out)
		}
		b.wantMaintenance(false)
	}
	b.wantRuns("core", "kato config set", 2)
	if _, err := b.node("core").ReadFile(recordPath); err == nil {
		t.Error("the record is still there")
	}
	for _, e := range b.node("core").Commands() {
		if e.User != "stackato" {
			t.Errorf("kato ran as %s", e.User)
		}
	}
}

func TestMaintenance_FoundOn_StaysOn(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.byHand("true")
	in := b.maintenance("op-1", 100)
	if out := b.enter(in); out.Found != "on" || out.Now != "on" || out.Note == "" {
		t.Errorf("%+v", out)
	}
	if out := b.leave(in); out.Found != "on" || out.Now != "on" {
		t.Errorf("%+v", out)
	}
	b.wantMaintenance(true)
	b.wantRuns("core", "kato config set", 1) // ours by hand
}

func TestMaintenance_LeftOnByAClosedOperation_ItsRecordCounts(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.enter(b.maintenance("op-1", 100)) // and it is terminated
	in := b.maintenance("op-2", 200)
	if out := b.enter(in); out.Found != "off" || out.Now != "on" || !strings.Contains(out.Note, "op-1") {
		t.Errorf("%+v", out)
	}
	if out := b.leave(in); out.Now != "off" {
		t.Errorf("%+v", out)
	}
	b.wantMaintenance(false)
}

func TestMaintenance_StaleRecordAndModeOff_TheModeCounts(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.byHand("true")
	b.enter(b.maintenance("op-1", 100)) // found on, and terminated
	b.byHand("false")
	in := b.maintenance("op-2", 200)
	if out := b.enter(in); out.Found != "off" {
		t.Errorf("%+v", out)
	}
	b.leave(in)
	b.wantMaintenance(false)
}

// A worker can be killed between any two things that it does on the Core. Each state that leaves is made here, and then the next attempt runs.
func TestMaintenance_KilledAnywhere_TheNextAttemptEndsWell(t *testing.T) {
	b := start(t, alsConfig(), "")
	record := recordText(maintenanceRecord{Operation: "op-1", Token: 100, Found: "off"})
	in := b.maintenance("op-1", 100)

	t.Run("record written and mode not set", func(t *testing.T) {
		must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("core"), attemptOptions{})) // makes the folder
		if err := b.node("core").WriteFile(recordPath, []byte(record+"\n")); err != nil {
			t.Fatal(err)
		}
		if out := b.enter(in); out.Found != "off" || out.Now != "on" {
			t.Errorf("%+v", out)
		}
	})
	t.Run("mode set and not answered", func(t *testing.T) {
		if out := b.enter(in); out.Found != "off" || out.Now != "on" {
			t.Errorf("%+v", out)
		}
	})
	t.Run("put back and record not removed", func(t *testing.T) {
		b.leave(in)
		if err := b.node("core").WriteFile(recordPath, []byte(record+"\n")); err != nil {
			t.Fatal(err)
		}
		if out := b.leave(in); out.Found != "off" || out.Now != "off" {
			t.Errorf("%+v", out)
		}
		if _, err := b.node("core").ReadFile(recordPath); err == nil {
			t.Error("the record is still there")
		}
	})
	t.Run("cut record", func(t *testing.T) {
		if err := b.node("core").WriteFile(recordPath, []byte(record[:12])); err != nil {
			t.Fatal(err)
		}
		if out := b.enter(in); out.Found != "off" || out.Now != "on" {
			t.Errorf("%+v", out)
		}
		b.leave(in)
	})
	b.wantMaintenance(false)
}

func TestMaintenance_Superseded_IsFencedAndChangesNothing(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.enter(b.maintenance("op-2", 200))
	_, err := run(t, b.kato.EnterMaintenance, b.maintenance("op-1", 100), attemptOptions{})
	wantFailure(t, err, operation.ErrFenced, false, "op-2")
	record, readErr := b.node("core").ReadFile(recordPath)
	if r, ok := parseRecord(string(record)); readErr != nil || !ok || r.Operation != "op-2" {
		t.Errorf("%s %v", record, readErr)
	}
	if out := b.leave(b.maintenance("op-1", 100)); out.Note == "" {
		t.Errorf("%+v", out)
	}
	b.wantMaintenance(true)
}

func TestMaintenance_KatoExitsZeroAndDoesNothing_IsMaintenanceAndARetryTriesAgain(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("core").FailCommand("kato config set", 1, 0, "")
	in := b.maintenance("op-1", 100)
	_, err := run(t, b.kato.EnterMaintenance, in, attemptOptions{})
	wantFailure(t, err, operation.ErrMaintenance, false, "core: ", "still off")
	b.enter(in)
	b.wantMaintenance(true)
	b.leave(in)
}

func TestMaintenance_KatoHangs_IsMaintenanceAfterItsTime(t *testing.T) {
	b := start(t, alsConfig(), "kato:\n  timeout: 1s")
	in := b.maintenance("op-1", 100)
	b.node("core").HangCommand("kato config get", 1)
	_, err := run(t, b.kato.EnterMaintenance, in, attemptOptions{})
	wantFailure(t, err, operation.ErrMaintenance, false, "core: ", "gave no answer within 1s")
	b.node("core").HangCommand("kato config set", 1)
	_, err = run(t, b.kato.EnterMaintenance, in, attemptOptions{})
	wantFailure(t, err, operation.ErrMaintenance, false, "core: ", "took longer than 2s and was stopped")
	b.enter(in)
	b.leave(in)
	b.wantMaintenance(false)
}

func TestMaintenance_SetStillRunsWhenItIsPutBack_IsStoppedFirst(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("core").SlowCommand("kato config set", 1, 3*time.Second)
	in := b.maintenance("op-1", 100)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	enter := inBackground(t, b.kato.EnterMaintenance, in, attemptOptions{ctx: ctx})
	until(t, "kato sets the mode", func() bool { return b.ran("core", "kato config set") == 1 })
	cancel() // as with a killed worker: the job goes on
	_, err := enter.wait(t)
	wantFailure(t, err, operation.ErrWorker, true)
	if out := b.leave(in); out.Found != "off" || out.Now != "off" {
		t.Errorf("%+v", out)
	}
	running, err := b.jobs.Running(context.Background(), b.host("core"))
	if err != nil || len(running) != 0 {
		t.Errorf("%+v %v", running, err)
	}
	b.wantMaintenance(false)
	// And none that another attempt of then still hands over can start.
	s, err := b.jobs.Status(context.Background(), b.host("core"), jobID(in.Operation, operation.ClusterNode, operation.StepMaintenanceOn, 2))
	if err != nil || !s.NeverStarted {
		t.Errorf("%+v %v", s, err)
	}
	// The operation may be reset, and then enters again.
	if out := b.enter(in); out.Now != "on" {
		t.Errorf("%+v", out)
	}
	b.leave(in)
	b.wantMaintenance(false)
}

func TestMaintenance_OnWithoutARecord_IsToldWhenNothingIsPutBack(t *testing.T) {
	b := start(t, alsConfig(), "")
	in := b.maintenance("op-1", 100)
	b.enter(in)
	b.onNode("core", "rm maintenance.json")
	if out := b.leave(in); out.Found != "on" || out.Now != "on" || !strings.Contains(out.Note, "maintenance mode is on") {
		t.Errorf("%+v", out)
	}
}

func TestMaintenance_NextAttemptOfTheSameActivity_NeverRunsTheCommandAgainByItself(t *testing.T) {
	b := start(t, alsConfig(), "")
	in := b.maintenance("op-1", 100)
	id := func(try int) remote.JobID {
		return jobID(in.Operation, operation.ClusterNode, operation.StepMaintenanceOn, try)
	}
	again := attemptOptions{resume: &Beat{Job: id(1).Dir()}}
	b.node("core").FailCommand("kato config set", 2, 1, "boom")
	_, err := run(t, b.kato.EnterMaintenance, in, attemptOptions{})
	wantFailure(t, err, operation.ErrMaintenance, false, "boom")
	_, err = run(t, b.kato.EnterMaintenance, in, again)
	wantFailure(t, err, operation.ErrMaintenance, false, "boom")
	b.wantRuns("core", "kato config set", 1)

	// The exit code never reached the disk.
	b.onNode("core", `printf '%-31s\n' '- 0' >jobs/`+id(1).Dir()+`/exit`)
	_, err = run(t, b.kato.EnterMaintenance, in, again)
	wantFailure(t, err, operation.ErrLost, false, "nobody knows how it ended")
	b.wantRuns("core", "kato config set", 1)

	// A person says retry: another activity, and the next try. Its worker is killed before the start, and then after it.
	next := attemptOptions{resume: &Beat{Job: id(2).Dir()}}
	_, err = run(t, b.kato.EnterMaintenance, in, next)
	wantFailure(t, err, operation.ErrMaintenance, false, "boom")
	b.wantRuns("core", "kato config set", 2)
	_, err = run(t, b.kato.EnterMaintenance, in, next)
	wantFailure(t, err, operation.ErrMaintenance, false, "boom")
	b.wantRuns("core", "kato config set", 2)
	if out := b.enter(in); out.Now != "on" {
		t.Errorf("%+v", out)
	}
	b.leave(in)
}
