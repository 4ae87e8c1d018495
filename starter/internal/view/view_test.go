package view

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/katoflow/katoflow/internal/operation"
)

// go test ./starter/internal/view -update writes the golden files anew.
var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 11, 22, 12, 10, 0, 0, time.UTC)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

func at(minutes int) string {
	return now.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339)
}

func base(phase string) *operation.Report {
	return &operation.Report{
		OperationID: "20261122-120000-k3f9qa", WorkflowID: "op/prod/upgrade-security/20261122-120000-k3f9qa", Kind: operation.KindSecurityUpgrade,
		Cluster: "prod", RequestedBy: "ada@desk", Phase: phase, StartedAt: at(-10), Batch: "1", Slots: 1,
		Nodes: []operation.NodeReport{
			{Name: "dea-1", Roles: []string{"base", "dea"}, Status: operation.NodeDone, Step: operation.StepRecord, Try: 1, StartedAt: at(-9), EndedAt: at(-6),
				NodeProgress: operation.NodeProgress{Upgraded: true, ChangeCount: 12, Proof: &operation.BootProof{Kernel: "6.1.0-28-amd64, as the boot loader names it"}}},
			{Name: "dea-2", Roles: []string{"base", "dea"}, Status: operation.NodeRunning, Step: operation.StepReboot, Try: 1, StartedAt: at(-5), Pending: 7},
			{Name: "mysql", Roles: []string{"base", "mysql"}, Status: operation.NodePending, Pending: 3},
			{Name: "core", Roles: []string{"base", "primary", "controller", "router"}, Status: operation.NodePending},
		},
	}
}

func parked() *operation.Report {
	r := base(operation.PhaseBlocked)
	f := operation.Failure{Type: operation.ErrRemoteExit, Message: "dea-2: unattended-upgrades ended with exit code 1: see the end of its output", Tail: "E: Sub-process returned an error\nlast line", Job: "20261122-dea-2-upgrade-2"}
	r.Nodes[1].Status, r.Nodes[1].Step, r.Nodes[1].Try, r.Nodes[1].Failure = operation.NodeWaiting, operation.StepUpgrade, 2, &f
	r.Questions = []operation.Question{{Node: "dea-2", Step: operation.StepUpgrade, Try: 2, Cause: f, Choices: []operation.Decision{operation.Retry, operation.Skip, operation.Abort},
		AskedAt: at(-1), AnswerBy: at(72 * 60)}}
	r.Answers = []operation.Answer{{DecideRequest: operation.DecideRequest{Node: "dea-2", Step: operation.StepUpgrade, Try: 1, Decision: operation.Retry, Reason: "mirror was down", Who: "ada@desk"}, At: at(-3), By: "operator"}}
	r.Warnings = []string{"mysql: 312 MiB are free on /var"}
	r.BrokenBefore = []operation.GateFailure{{Node: "core", Check: "process ready: harbor"}}
	return r
}

func done() *operation.Report {
	r := base(operation.PhaseDone)
	r.EndedAt, r.Message, r.Maintenance = at(0), "4 of 4 nodes done", "put back (off)"
	for i := range r.Nodes {
		n := &r.Nodes[i]
		n.Status, n.Step, n.Try, n.StartedAt, n.EndedAt = operation.NodeDone, operation.StepRecord, 1, at(-9+2*i), at(-7+2*i)
		n.Upgraded, n.ChangeCount = true, 10+i
		n.Proof = &operation.BootProof{Kernel: "not applicable (container)"}
	}
	r.Nodes[2].Notes = []string{"dpkg was interrupted and has been repaired", "waited 40s for apt"}
	return r
}

func failed() *operation.Report {
	r := parked()
	r.Phase, r.EndedAt, r.Message, r.Questions = operation.PhaseAborted, at(0), "aborted: 1 of 4 nodes done", nil
	r.Failure = &operation.Failure{Type: operation.ErrOperatorAbort, Message: r.Message}
	r.Nodes[1].Status, r.Nodes[1].OutOfService, r.Nodes[1].EndedAt = operation.NodeFailed, true, at(-1)
	r.Nodes[2].Status, r.Nodes[3].Status = operation.NodeUntouched, operation.NodeUntouched
	return r
}

func planned() *operation.Report {
	r := base(operation.PhaseDone)
	r.DryRun, r.EndedAt, r.Message = true, at(-10), "dry run: 4 nodes planned, nothing was changed"
	for i := range r.Nodes {
		r.Nodes[i] = operation.NodeReport{Name: r.Nodes[i].Name, Roles: r.Nodes[i].Roles, Status: operation.NodePlanned, Pending: i}
	}
	r.Commands = []operation.CommandPlan{
		{Nodes: []string{"dea-1", "dea-2"}, Commands: []operation.PlannedCommand{{Step: "retire", Command: "kato node retire 10.0.0.2"}, {Step: "upgrade", Command: "sudo -n unattended-upgrades -d", Note: "after apt's locks are free"}}},
		{Nodes: []string{"mysql", "core"}, Commands: []operation.PlannedCommand{{Step: "upgrade", Command: "sudo -n unattended-upgrades -d"}}},
	}
	return r
}

// large is an operation over 500 nodes in its middle.
func large() *operation.Report {
	r := base(operation.PhaseBlocked)
	r.Batch, r.Slots, r.Nodes = "5%", 25, nil
	for i := range 500 {
		n := operation.NodeReport{Name: fmt.Sprintf("node-%03d", i), Roles: []string{"web"}, Status: operation.NodePending}
		switch {
		case i < 200:
			n.Status, n.Step, n.Try, n.StartedAt, n.EndedAt = operation.NodeDone, operation.StepRecord, 1, at(-200+i), at(-198+i)
		case i < 224:
			n.Status, n.Step, n.Try, n.StartedAt = operation.NodeRunning, operation.StepUpgrade, 1, at(-1)
		case i == 224:
			n.Status, n.Step, n.Try, n.StartedAt = operation.NodeWaiting, operation.StepReboot, 1, at(-20)
			n.Failure = &operation.Failure{Type: operation.ErrNotReturned, Message: "node-224: not back 15m after its reboot began"}
			r.Questions = []operation.Question{{Node: n.Name, Step: n.Step, Try: 1, Cause: *n.Failure, Choices: []operation.Decision{operation.Retry, operation.Skip, operation.Abort}, AskedAt: at(-1)}}
		}
		r.Nodes = append(r.Nodes, n)
	}
	return r
}

// hostile puts into every text of a report what must not reach a terminal.
func hostile() *operation.Report {
	const evil = "\x1b[2J\x1b]0;owned\x07\u009b31m\u202egnp\r\n\xff"
	r := parked()
	r.Cluster, r.OperationID, r.Message, r.RequestedBy, r.Maintenance, r.Batch = "c"+evil, "o"+evil, "m"+evil, "r"+evil, "ma"+evil, "b"+evil
	r.Kind, r.Phase, r.StartedAt, r.EndedAt = "k"+evil, "p"+evil, "s"+evil, "e"+evil
	for i := range r.Nodes {
		n := &r.Nodes[i]
		n.Name, n.Roles, n.Step, n.Notes, n.Status = n.Name+evil, []string{"role" + evil}, "step"+evil, []string{"note" + evil}, n.Status+evil
		n.Failure = &operation.Failure{Type: "T" + evil, Message: "M" + evil, Tail: "tail" + evil, Job: "J" + evil}
	}
	q := &r.Questions[0]
	q.Node, q.Step, q.Cause.Message, q.Choices, q.AnswerBy = "n"+evil, "s"+evil, "c"+evil, []operation.Decision{"x" + evil}, "a"+evil
	r.Answers[0] = operation.Answer{DecideRequest: operation.DecideRequest{Node: evil, Step: evil, Decision: evil, Reason: evil, Who: evil}, At: evil, By: evil}
	r.Warnings, r.LeftOut, r.BrokenBefore = []string{evil}, []string{evil}, []operation.GateFailure{{Node: evil, Check: evil}}
	r.Failure = &operation.Failure{Type: evil, Message: "F" + evil, Problems: []string{evil}}
	r.Commands = []operation.CommandPlan{{Nodes: []string{evil}, Commands: []operation.PlannedCommand{{Step: evil, Command: evil, Note: evil}}}}
	return r
}

func TestFrame_SampleReports_LookAsRecorded(t *testing.T) {
	plain := Style{Width: 120, Height: 30}
	for name, frame := range map[string][]string{
		"frame-running":          Frame(base(operation.PhaseRunning), "", now, plain),
		"frame-running-narrow":   Frame(base(operation.PhaseRunning), "", now, Style{Width: 60, Height: 30}),
		"frame-running-color":    Frame(base(operation.PhaseRunning), "", now, Style{Width: 120, Height: 30, Color: true}),
		"frame-outage":           Frame(base(operation.PhaseRunning), "server unreachable for 12s, retrying", now, plain),
		"frame-parked":           Frame(parked(), "", now, plain),
		"frame-done":             Frame(done(), "", now, plain),
		"frame-500-nodes":        Frame(large(), "", now, Style{Width: 100, Height: 24}),
		"frame-500-nodes-12rows": Frame(large(), "", now, Style{Width: 100, Height: 12}),
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, strings.Join(frame, "\n")+"\n") })
	}
}

func TestReport_SampleReports_LookAsRecorded(t *testing.T) {
	for name, r := range map[string]*operation.Report{
		"report-running": base(operation.PhaseRunning), "report-parked": parked(), "report-done": done(), "report-failed": failed(), "report-dry-run": planned(), "report-hostile": hostile(),
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, Report(r, now, Style{})) })
	}
}

func TestFrame_AnySize_Fits(t *testing.T) {
	for _, r := range []*operation.Report{base(operation.PhaseRunning), parked(), done(), failed(), large(), hostile()} {
		for _, color := range []bool{false, true} {
			for width := 1; width < 130; width += 7 {
				for height := 1; height < 40; height += 3 {
					lines := Frame(r, "server unreachable for 12s, retrying", now, Style{Width: width, Height: height, Color: color})
					if len(lines) > height {
						t.Fatalf("%d lines in %d rows", len(lines), height)
					}
					for _, l := range lines {
						if w := text.StringWidthWithoutEscSequences(l); w > width {
							t.Fatalf("width %d, color %v: a line of %d columns: %q", width, color, w, l)
						}
						if strings.Count(l, "\x1b[") > 0 && !strings.HasSuffix(l, "\x1b[0m") && strings.LastIndex(l, "\x1b[0m") < strings.LastIndex(l, "\x1b[") {
							t.Fatalf("the colour runs on after the line: %q", l)
						}
					}
				}
			}
		}
	}
}

func TestAllText_HostileReport_HoldsNoControlCharacter(t *testing.T) {
	r := hostile()
	var all []string
	all = append(all, strings.Split(Report(r, now, Style{}), "\n")...)
	all = append(all, Frame(r, "notice\x1b[2J", now, Style{})...)
	all = append(all, Frame(r, "", now, Style{Width: 80, Height: 24})...)
	all = append(all, Changes(nil, r)...)
	all = append(all, Changes(parked(), r)...)
	all = append(all, Outcome(r, now))
	all = append(all, FailureLines(r.Failure)...)
	all = append(all, PreflightNotes(operation.PreflightOutcome{BrokenBefore: r.BrokenBefore, Warnings: r.Warnings})...)
	const evil = "\x1b[2J\u202e\u009b"
	all = append(all, strings.Split(List([]ListRow{{ID: evil, Kind: evil, Cluster: evil, Phase: evil, Node: evil, RequestedBy: evil, StartedAt: evil, EndedAt: evil}}, now, Style{}), "\n")...)
	all = append(all, strings.Split(Clusters([]ClusterRow{{Name: evil, Platform: evil, Roles: []string{evil}}}, Style{}), "\n")...)
	all = append(all, strings.Split(Cluster(evil, evil, evil, []NodeRow{{Name: evil, Address: evil, User: evil, Bastion: evil, Roles: []string{evil}, Gates: []string{evil}}}, GateTimes{Interval: evil, Timeout: evil}, Style{}), "\n")...)
	all = append(all, strings.Split(Keys([]KeyRow{{evil, evil, evil, evil, evil}}, Style{}), "\n")...)
	all = append(all, strings.Split(Check(r, Style{}), "\n")...)
	if len(all) < 60 {
		t.Fatalf("only %d lines", len(all))
	}
	for _, l := range all {
		for _, c := range l {
			if !unicode.IsPrint(c) {
				t.Errorf("%q holds %U", l, c)
			}
		}
	}
}

func TestChanges_FromReportToReport_OneLineAChange(t *testing.T) {
	running := base(operation.PhaseRunning)
	rebooted := base(operation.PhaseRunning)
	rebooted.Nodes[1].Step = operation.StepProof
	finished := base(operation.PhaseRunning)
	finished.Nodes[1].Status, finished.Nodes[1].EndedAt, finished.Nodes[1].ChangeCount, finished.Nodes[1].Upgraded = operation.NodeDone, at(-2), 7, true
	paused := base(operation.PhasePaused)
	paused.Paused, paused.Batch, paused.Slots = true, "2", 2
	for _, c := range []struct {
		name          string
		before, after *operation.Report
		want          []string
	}{
		{"first look", nil, running, []string{"operation running", "dea-1 done after 3m00s: 12 packages", "dea-2 reboot running (try 1)"}},
		{"nothing new", running, base(operation.PhaseRunning), nil},
		{"next step", running, rebooted, []string{"dea-2 proof running (try 1)"}},
		{"node done", running, finished, []string{"dea-2 done after 3m00s: 7 packages"}},
		{"paused, batch", running, paused, []string{"operation paused", "paused before the next node; go on with: katoflow op resume 20261122-120000-k3f9qa", "batch 2: 2 at once"}},
		{"parked", running, parked(), []string{
			"operation blocked", "dea-2 upgrade waiting (try 2)",
			"question: dea-2 upgrade (try 2), retry, skip or abort until 2026-11-25 12:10:00 UTC: dea-2: unattended-upgrades ended with exit code 1: see the end of its output",
			"answer with: katoflow op decide 20261122-120000-k3f9qa --node dea-2 --step upgrade --try 2 retry",
			"answered: dea-2 upgrade (try 1): retry by operator ada@desk, mirror was down", "warning: mysql: 312 MiB are free on /var",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Changes(c.before, c.after)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestRemaining_HalfDone_IsMedianTimesNodesLeftOverSlots(t *testing.T) {
	r := base(operation.PhaseRunning) // one done in 3m, one running for 5m, two pending
	if got, ok := remaining(r, now); !ok || got != 6*time.Minute {
		t.Errorf("got %s, %v; want 6m", got, ok)
	}
	r.Slots = 2
	if got, ok := remaining(r, now); !ok || got != 3*time.Minute {
		t.Errorf("two at once: got %s, %v; want 3m", got, ok)
	}
	r.Paused = true
	if got, ok := remaining(r, now); ok {
		t.Errorf("paused: got %s, want nothing", got)
	}
}

func TestPick_MoreNodesThanRows_KeepsThoseThatNeedAttention(t *testing.T) {
	r := large()
	shown := pick(r.Nodes, 30)
	if len(shown) != 30 {
		t.Fatalf("%d nodes", len(shown))
	}
	seen := map[string]int{}
	for i, n := range shown {
		seen[r.Nodes[n].Status]++
		if i > 0 && shown[i-1] >= n {
			t.Fatalf("not in the order of the operation: %v", shown)
		}
	}
	if seen[operation.NodeWaiting] != 1 || seen[operation.NodeRunning] != 24 {
		t.Errorf("shown are %v", seen)
	}
}
