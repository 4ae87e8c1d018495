package activities

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// armed enters maintenance mode with a dead-man.
func (b *bench) armed(id string, token int64, after time.Duration) (MaintenanceInput, MaintenanceResult) {
	b.t.Helper()
	b.kato.deadMan = after
	in := b.maintenance(id, token)
	in.DeadMan = true
	out := b.enter(in)
	if out.SignEvery.D() != after/3 {
		b.t.Fatalf("%+v", out)
	}
	if !b.deadManLives(id) {
		b.t.Fatal("the dead-man does not run")
	}
	return entered(in, out), out
}

func (b *bench) deadManLives(id string) bool {
	b.t.Helper()
	running, err := b.jobs.Running(context.Background(), b.host("core"))
	if err != nil {
		return true // the Core is away
	}
	return slices.ContainsFunc(running, func(j remote.JobStatus) bool { return j.ID.Step == stepDeadMan && j.ID.Operation == id })
}

func (b *bench) warningsOf(id string, token int64, wait time.Duration) (warnings, problems string) {
	b.t.Helper()
	op := b.op
	op.ID, op.Token = id, token
	out := must[PreflightResult](b.t)(run(b.t, b.nodes.Preflight, PreflightInput{Operation: op, Nodes: []string{"dea-1"}, Others: []string{"core", "dea-2"}, WaitForJobs: operation.Duration(wait)}, attemptOptions{}))
	for _, n := range out.Nodes {
		problems += strings.Join(n.Problems, "\n")
		if n.Node == "core" {
			warnings = strings.Join(n.Warnings, "\n")
		}
	}
	return warnings, problems
}

func (b *bench) fence(id string, token int64) {
	b.t.Helper()
	op := b.op
	op.ID, op.Token = id, token
	if out := must[FenceResult](b.t)(run(b.t, b.nodes.Fence, FenceInput{Operation: op, Nodes: []string{"core", "dea-1", "dea-2"}}, attemptOptions{})); len(out.Failed) > 0 {
		b.t.Errorf("%+v", out)
	}
}

func TestDeadMan_OperationIsSilent_PutsTheModeBackAndItIsTold(t *testing.T) {
	b := start(t, alsConfig(), "")
	in, _ := b.armed("op-1", 100, 3*time.Second)
	until(t, "the dead-man acts", func() bool { return !b.cluster.Maintenance() })
	until(t, "the dead-man ends", func() bool { return !b.deadManLives("op-1") })
	if _, err := b.node("core").ReadFile(recordPath); err == nil {
		t.Error("the record is still there")
	}
	const says = "the dead-man of operation op-1 put maintenance mode back (off) at "
	if w, p := b.warningsOf("op-2", 200, 0); !strings.Contains(w, says) || p != "" {
		t.Errorf("%s\n%s", w, p)
	}
	// The worker comes back.
	if out := b.leave(in); out.Now != "off" || !strings.Contains(out.Note, says) || !strings.Contains(out.Note, "after 3 s without a sign of life") {
		t.Errorf("%+v", out)
	}
	b.wantRuns("core", "kato config set", 2)
	// The next operation hears of it once.
	next := b.maintenance("op-2", 200)
	if out := b.enter(next); !strings.Contains(out.Note, says) || out.Found != "off" {
		t.Errorf("%+v", out)
	}
	b.leave(next)
	if out := b.enter(b.maintenance("op-3", 300)); out.Note != "" {
		t.Errorf("%+v", out)
	}
}

func TestDeadMan_SignsOfLife_KeepItQuietUntilTheyEnd(t *testing.T) {
	b := start(t, alsConfig(), "")
	in, out := b.armed("op-1", 100, 3*time.Second)
	ctx, cancel := context.WithCancelCause(context.Background())
	signs := inBackground(t, func(ctx context.Context, in SignOfLifeInput) (struct{}, error) {
		return struct{}{}, b.kato.SignOfLife(ctx, in)
	},
		SignOfLifeInput{MaintenanceInput: in, SignEvery: out.SignEvery}, attemptOptions{ctx: ctx})
	life := func() string {
		b, _ := b.node("core").ReadFile(strings.Replace(recordPath, ".json", ".life", 1))
		return string(b)
	}
	seen := map[string]bool{}
	until(t, "signs for twice its time", func() bool {
		seen[life()] = true
		return len(seen) > 7
	})
	b.wantMaintenance(true)
	cancel(temporal.NewCanceledError()) // worker and Temporal are gone
	if _, err := signs.wait(t); !temporal.IsCanceledError(err) {
		t.Errorf("%v", err)
	}
	until(t, "the dead-man acts", func() bool { return !b.cluster.Maintenance() })
}

func TestSignOfLife_RecordIsGone_Ends(t *testing.T) {
	b := start(t, alsConfig(), "")
	in := b.maintenance("op-1", 100)
	b.enter(in)
	b.leave(in)
	if _, err := run(t, func(ctx context.Context, in SignOfLifeInput) (struct{}, error) {
		return struct{}{}, b.kato.SignOfLife(ctx, in)
	},
		SignOfLifeInput{MaintenanceInput: in, SignEvery: operation.Duration(time.Hour)}, attemptOptions{}); err != nil {
		t.Error(err)
	}
}

func TestDeadMan_JobOfTheOperationLives_Waits(t *testing.T) {
	for name, where := range map[string]string{"on another node": "dea-2", "on the Core": "core"} {
		t.Run(name, func(t *testing.T) {
			b := start(t, alsConfig(), "")
			in, _ := b.armed("op-1", 100, time.Second)
			id := remote.JobID{Operation: "op-1", Node: where, Step: operation.StepExport, Try: 1}
			if _, err := b.jobs.Start(context.Background(), b.host(where), remote.JobSpec{ID: id, Lease: lease(in.Operation), Argv: []string{"sleep", "1000"}, Interruptible: true}); err != nil {
				t.Fatal(err)
			}
			dead := jobID(in.Operation, operation.ClusterNode, stepDeadMan, 1)
			until(t, "it sees the job", func() bool {
				said, err := b.jobs.Output(context.Background(), b.host("core"), dead, 4096)
				return err == nil && strings.Contains(string(said), "these jobs still live")
			})
			b.wantMaintenance(true)
			if _, err := b.jobs.Stop(context.Background(), b.host(where), id, time.Second); err != nil {
				t.Fatal(err)
			}
			until(t, "the dead-man acts", func() bool { return !b.cluster.Maintenance() })
		})
	}
}

func TestDeadMan_NodeCannotBeAsked_Waits(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("dea-2").NoCoreAccess(true)
	in, _ := b.armed("op-1", 100, time.Second)
	dead := jobID(in.Operation, operation.ClusterNode, stepDeadMan, 1)
	until(t, "it sees that it cannot ask", func() bool {
		said, err := b.jobs.Output(context.Background(), b.host("core"), dead, 4096)
		return err == nil && strings.Contains(string(said), "cannot be asked")
	})
	b.wantMaintenance(true)
	b.node("dea-2").NoCoreAccess(false)
	until(t, "the dead-man acts", func() bool { return !b.cluster.Maintenance() })
}

func TestDeadMan_KatoFails_TriesAgain(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.armed("op-1", 100, time.Second)
	b.node("core").FailCommand("kato config set", 2, 0, "")
	until(t, "the dead-man acts", func() bool { return !b.cluster.Maintenance() })
	b.wantRuns("core", "kato config set", 4)
}

func TestDeadMan_FoundOn_LeavesItOn(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.byHand("true")
	b.armed("op-1", 100, time.Second)
	until(t, "it ends", func() bool { return !b.deadManLives("op-1") })
	b.wantMaintenance(true)
	if _, err := b.node("core").ReadFile(recordPath); err == nil {
		t.Error("the record is still there")
	}
}

func TestDeadMan_Leave_EndsItAndTheNextRoundHasItsOwn(t *testing.T) {
	b := start(t, alsConfig(), "")
	for range 2 {
		in, _ := b.armed("op-1", 100, time.Hour)
		b.leave(in)
		b.wantMaintenance(false)
		if b.deadManLives("op-1") {
			t.Error("the dead-man lives")
		}
	}
	if _, err := b.node("core").ReadFile(strings.Replace(recordPath, ".json", ".life", 1)); err == nil {
		t.Error("its file is still there")
	}
}

func TestDeadMan_RecordOfAnotherOperation_EndsAndTouchesNothing(t *testing.T) {
	for name, record := range map[string]string{"another operation": recordText(maintenanceRecord{Operation: "op-2", Token: 200, Try: 1, Found: "off"}),
		"another token": recordText(maintenanceRecord{Operation: "op-1", Token: 101, Try: 1, Found: "off"}), "unreadable": "{"} {
		t.Run(name, func(t *testing.T) {
			b := start(t, alsConfig(), "")
			b.armed("op-1", 100, time.Second)
			if err := b.node("core").WriteFile(recordPath, []byte(record+"\n")); err != nil {
				t.Fatal(err)
			}
			until(t, "it ends", func() bool { return !b.deadManLives("op-1") })
			b.wantMaintenance(true)
			if now, _ := b.node("core").ReadFile(recordPath); string(now) != record+"\n" {
				t.Errorf("%s", now)
			}
		})
	}
}

func TestDeadMan_CoreRebooted_TheNextSignOfLifeStartsItAnew(t *testing.T) {
	cfg := alsConfig()
	cfg.BootTime = 100 * time.Millisecond
	b := start(t, cfg, "")
	in, _ := b.armed("op-1", 100, time.Hour)
	in.UnreachableAfter = operation.Duration(30 * time.Second)
	b.node("core").RebootNow()
	until(t, "it is back", func() bool { return b.node("core").Boots() == 2 && !b.deadManLives("op-1") })
	b.wantMaintenance(true)
	ctx, cancel := context.WithCancelCause(context.Background())
	signs := inBackground(t, func(ctx context.Context, in SignOfLifeInput) (struct{}, error) {
		return struct{}{}, b.kato.SignOfLife(ctx, in)
	},
		SignOfLifeInput{MaintenanceInput: in, SignEvery: operation.Duration(100 * time.Millisecond)}, attemptOptions{ctx: ctx})
	until(t, "it is started anew", func() bool { return b.deadManLives("op-1") })
	b.leave(in)
	if _, err := signs.wait(t); err != nil { // without a record there is nothing to give signs for
		t.Error(err)
	}
	cancel(nil)
	b.wantMaintenance(false)
	until(t, "it ends", func() bool { return !b.deadManLives("op-1") })
}

func TestDeadMan_NotAllowedOrNotWanted_IsNotArmed(t *testing.T) {
	b := start(t, alsConfig(), "")
	in := b.maintenance("op-1", 100)
	in.DeadMan = true
	if out := b.enter(in); out.SignEvery != 0 || b.deadManLives("op-1") {
		t.Errorf("armed although the inventory does not want it: %+v", out)
	}
	b.leave(in)
	b.kato.deadMan = time.Hour
	in = b.maintenance("op-2", 200)
	if out := b.enter(in); out.SignEvery != 0 || b.deadManLives("op-2") {
		t.Errorf("armed although the procedure does not allow it: %+v", out)
	}
	b.leave(in)
}

func TestDeadMan_InventoryWantsIt_IsArmedWithItsTime(t *testing.T) {
	b := start(t, alsConfig(), "maintenance:\n  dead_man: 30m")
	in := b.maintenance("op-1", 100)
	in.DeadMan = true
	if out := b.enter(in); out.SignEvery.D() != 10*time.Minute || !b.deadManLives("op-1") {
		t.Errorf("%+v", out)
	}
	b.leave(in)
}

// An operation is terminated, and the next one begins long before the dead-man's time is over.
func TestDeadMan_OfAClosedOperation_ActsAtOnceForTheNextOne(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.armed("op-1", 100, time.Hour)
	// Without the lock nobody knows whether it is closed.
	if w, p := b.warningsOf("op-2", 0, 30*time.Second); !strings.Contains(w, "is on by operation op-1") || p != "" || !b.deadManLives("op-1") {
		t.Errorf("%s\n%s", w, p)
	}
	if w, p := b.warningsOf("op-2", 200, 30*time.Second); !strings.Contains(w, "because its operation is closed") || p != "" {
		t.Errorf("%s\n%s", w, p)
	}
	b.wantMaintenance(false)
	b.fence("op-2", 200)
}

func TestDeadMan_OfAClosedOperationThatCannotAskANode_IsStoppedForTheNextOne(t *testing.T) {
	b := start(t, alsConfig(), "")
	b.node("dea-2").NoCoreAccess(true)
	b.armed("op-1", 100, time.Hour)
	w, p := b.warningsOf("op-2", 200, 3*time.Second)
	if !strings.Contains(w, "could not ask all nodes, and was stopped") || !strings.Contains(w, "left by operation op-1") || p != "" {
		t.Errorf("%s\n%s", w, p)
	}
	b.fence("op-2", 200)
	in := b.maintenance("op-2", 200)
	if out := b.enter(in); out.Found != "off" {
		t.Errorf("%+v", out)
	}
	b.leave(in)
	b.wantMaintenance(false)
}

// The script under this machine's shells, with doubles of kato, ssh and the list of jobs.
func TestDeadManScript_EveryShell_ActsOnlyWhenItMay(t *testing.T) {
	const record = `{"operation":"op-1","token":1,"try":1,"found":"off"}`
	job := func(operation, step string) string {
		return "@katoflow job - 0 boot 1 held 5 0 dir 1 " + operation + " cluster " + step + " 1 sum 1 boot\n"
	}
	for _, shell := range shellsToTry(t) {
		for name, c := range map[string]struct {
			record, here, there, life string
			acts                      bool
		}{
			"alone":                 {record: record, here: job("op--1", "maintenance--dead--man") + "@katoflow boot b\n@katoflow end\n", there: "@katoflow end\n", acts: true},
			"others' jobs":          {record: record, here: job("op--2", "export") + "@katoflow end\n", there: "login text\n" + job("op--2", "export") + "@katoflow end\n", acts: true},
			"closed":                {record: record, here: "@katoflow end\n", there: "@katoflow end\n", life: "closed", acts: true},
			"a job here":            {record: record, here: job("op--1", "export") + "@katoflow end\n", there: "@katoflow end\n"},
			"a job there":           {record: record, here: "@katoflow end\n", there: job("op--1", "export") + "@katoflow end\n"},
			"nothing heard there":   {record: record, here: "@katoflow end\n", there: ""},
			"cut off there":         {record: record, here: "@katoflow end\n", there: job("op--2", "export")},
			"nothing heard here":    {record: record, here: "", there: "@katoflow end\n"},
			"no record":             {here: "@katoflow end\n", there: "@katoflow end\n"},
			"of another one":        {record: strings.Replace(record, "op-1", "op-2", 1), here: "@katoflow end\n", there: "@katoflow end\n"},
			"closed and a job here": {record: record, here: job("op--1", "export") + "@katoflow end\n", there: "@katoflow end\n", life: "closed"},
		} {
			t.Run(shell[0]+"/"+name, func(t *testing.T) {
				t.Parallel()
				home, bin := t.TempDir(), t.TempDir()
				folder := filepath.Join(home, ".local/state/katoflow")
				write := func(path, text string, mode os.FileMode) {
					t.Helper()
					if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, []byte(text), mode); err != nil {
						t.Fatal(err)
					}
				}
				write(filepath.Join(home, "here"), c.here, 0o600)
				write(filepath.Join(home, "there"), c.there, 0o600)
				write(filepath.Join(home, "mode"), "true", 0o600)
				write(filepath.Join(bin, "ssh"), "#!/bin/sh\nprintf '%s\\n' \"$*\" >>\"$HOME/asked\"\ncat \"$HOME/there\"\n", 0o755)
				if c.record != "" {
					write(filepath.Join(folder, "maintenance.json"), c.record+"\n", 0o600)
				}
				if c.life != "" {
					write(filepath.Join(folder, "maintenance.life"), c.life+"\n", 0o600)
				}
				limit := "0"
				if c.life != "" {
					limit = "3600"
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				cmd := exec.CommandContext(ctx, shell[0], append(slices.Clone(shell[1:]), "-c", deadManScript, "sh", record, limit, "1", `sh -c 'printf false >"$HOME/mode"'`,
					`sh -c 'cat "$HOME/mode"'`, "off", `cat "$HOME/here"`, "op--1", "maintenance--dead--man", "192.0.2.7")...)
				cmd.Env = append(os.Environ(), "HOME="+home, "PATH="+bin+":"+os.Getenv("PATH"))
				said := filepath.Join(home, "said")
				out, err := os.Create(said)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = out.Close() }()
				cmd.Stdout = out
				ended := make(chan error, 1)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				go func() { ended <- cmd.Wait() }()
				exits := c.acts || c.record != record
				if exits {
					if err := <-ended; err != nil {
						t.Errorf("it ended: %v", err)
					}
				} else {
					until(t, "it says why it does not act", func() bool { return strings.Contains(readOr(said), "no sign of life; ") })
				}
				mode, _ := os.ReadFile(filepath.Join(home, "mode"))
				_, err = os.Stat(filepath.Join(folder, "maintenance.json"))
				if !exits { // without its record it ends by itself
					if err := os.Remove(filepath.Join(folder, "maintenance.json")); err != nil {
						t.Error(err)
					}
					if err := <-ended; err != nil {
						t.Errorf("without its record: %v", err)
					}
				}
				if acted := string(mode) == "false"; acted != c.acts || c.record != "" && (err != nil) != c.acts {
					t.Errorf("mode %s, record %v", mode, err)
				}
				if of, said := deadManSaid(readOr(filepath.Join(folder, "maintenance.said"))); c.acts && (of != "op-1" || !strings.Contains(said, "put maintenance mode back (off) at 20")) {
					t.Errorf("%q %q", of, said)
				}
			})
		}
	}
}

func readOr(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
