package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// patience of a test for anything that must happen.
const patience = 60 * time.Second

// site is a Temporal server with a worker that plays operations, and the command as its users run it.
type site struct {
	t       *testing.T
	server  *testsuite.DevServer
	options testsuite.DevServerOptions
	worker  worker.Worker
	env     []string
}

// newSite starts devstack; tests that need it skip where it has not been built.
func newSite(t *testing.T) *site {
	t.Helper()
	binary, err := filepath.Abs(filepath.Join("..", "bin", "devstack"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("bin/devstack is not built: run `make build` first")
	}
	home := t.TempDir()
	// The file name makes the server's state outlive a restart.
	s := &site{t: t, options: testsuite.DevServerOptions{
		ExistingPath: binary, DBFilename: filepath.Join(home, "temporal.db"), LogLevel: "error", ExtraArgs: []string{"--no-s3"},
		ClientOptions: &client.Options{Logger: temporalkit.NewZap(nil)}, Stdout: io.Discard, Stderr: io.Discard,
	}}
	s.startServer()
	s.options.ClientOptions.HostPort = s.server.FrontendHostPort()
	t.Cleanup(s.stopServer)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TEMPORAL_") && !strings.HasPrefix(v, "KATOFLOW_") && !strings.HasPrefix(v, "HOME=") && !strings.HasPrefix(v, "XDG_") {
			s.env = append(s.env, v)
		}
	}
	s.env = append(s.env, "HOME="+home, "TEMPORAL_ADDRESS="+s.server.FrontendHostPort(), "TERM=xterm")
	return s
}

func (s *site) startServer() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server, err := testsuite.StartDevServer(ctx, s.options)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server = server
}

func (s *site) stopServer() {
	if s.server != nil {
		s.server.Client().Close()
		_ = s.server.Stop() // it reports the signal that ended it
		s.server = nil
	}
}

// startWorker plays every operation by its id, see played.
func (s *site) startWorker() {
	s.t.Helper()
	w := worker.New(s.server.Client(), operation.DefaultTaskQueue, worker.Options{WorkerStopTimeout: time.Second})
	w.RegisterWorkflowWithOptions(playUpgrade, workflow.RegisterOptions{Name: operation.WorkflowSecurityUpgrade})
	w.RegisterWorkflowWithOptions(playNode, workflow.RegisterOptions{Name: operation.WorkflowSecurityUpgradeNode})
	w.RegisterWorkflowWithOptions(playCheck, workflow.RegisterOptions{Name: operation.WorkflowClusterCheck})
	w.RegisterWorkflowWithOptions(playTrust, workflow.RegisterOptions{Name: operation.WorkflowClusterTrust})
	w.RegisterActivity(&activities.Locks{}) // the queue must be polled for activities too
	if err := w.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.worker = w
	s.t.Cleanup(s.stopWorker)
	s.wait("the worker polls", func() bool {
		return (&server{Client: s.server.Client(), namespace: "default"}).requireWorker(context.Background(), operation.DefaultTaskQueue) == nil
	})
}

func (s *site) stopWorker() {
	if s.worker != nil {
		s.worker.Stop()
		s.worker = nil
	}
}

func (s *site) wait(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// process is one run of the command.
type process struct {
	s        *site
	cmd      *exec.Cmd
	out, err lockedBuffer
	ended    chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs the command in the background.
func (s *site) start(args ...string) *process {
	s.t.Helper()
	p := &process{s: s, cmd: exec.Command("katoflow", args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = s.env, &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its code is looked at
		close(p.ended)
	}()
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// end waits for the exit code.
func (p *process) end(want int) *process {
	p.s.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.s.t.Fatalf("%v did not end within %s\nstdout: %s\nstderr: %s", p.cmd.Args, patience, &p.out, &p.err)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != want {
		p.s.t.Errorf("%v: exit code %d, want %d\nstdout: %s\nstderr: %s", p.cmd.Args, got, want, &p.out, &p.err)
	}
	return p
}

// says waits until both outputs together hold the text.
func (p *process) says(text string) *process {
	p.s.t.Helper()
	deadline := time.Now().Add(patience)
	for !strings.Contains(p.out.String()+p.err.String(), text) {
		select {
		case <-p.ended:
			if !strings.Contains(p.out.String()+p.err.String(), text) {
				p.s.t.Fatalf("%v ended without saying %q\nstdout: %s\nstderr: %s", p.cmd.Args, text, &p.out, &p.err)
			}
			return p
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.s.t.Fatalf("%v did not say %q\nstdout: %s\nstderr: %s", p.cmd.Args, text, &p.out, &p.err)
		}
	}
	return p
}

// run runs the command to its end.
func (s *site) run(code int, args ...string) *process {
	s.t.Helper()
	return s.start(args...).end(code)
}

func (p *process) report() operation.Report {
	p.s.t.Helper()
	var r operation.Report
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil {
		p.s.t.Fatalf("%v: %v in %s", p.cmd.Args, err, &p.out)
	}
	return r
}

// played is an operation as an operator meets it; what it does is the first word of its id.
type played struct {
	report    operation.Report
	settled   bool
	failure   *operation.Failure
	questions []operation.Question
	going     bool
}

func playUpgrade(ctx workflow.Context, in operation.SecurityUpgradeInput) (*operation.Report, error) {
	scene, _, _ := strings.Cut(in.OperationID, "-")
	info := workflow.GetInfo(ctx)
	p := &played{going: true, report: operation.Report{OperationID: in.OperationID, WorkflowID: info.WorkflowExecution.ID, Kind: operation.KindSecurityUpgrade,
		Cluster: in.Cluster, RequestedBy: in.RequestedBy, Phase: operation.PhaseStarting, StartedAt: workflow.Now(ctx).UTC().Format(time.RFC3339), Batch: in.Batch, Slots: 1,
		Nodes: []operation.NodeReport{{Name: "dea-1", Roles: []string{"dea"}, Status: operation.NodePending}, {Name: "core", Roles: []string{"primary"}, Status: operation.NodePending}}}}
	if err := p.handlers(ctx); err != nil {
		return nil, err
	}
	if scene == "queue" {
		p.report.Message = "waiting for the cluster: held by op/other"
		if err := workflow.Await(ctx, func() bool { return p.report.Batch == "2" }); err != nil {
			return nil, err
		}
		p.report.Message = ""
	}
	switch scene {
	case "problems":
		p.failure = &operation.Failure{Type: operation.ErrPreflight, Message: "3 problems on 3 nodes: nothing was changed", Problems: []string{"dea-1: no sudo", "dea-2: disk full", "core: \x1b[2Jkey"}}
	case "busy":
		p.failure = &operation.Failure{Type: operation.ErrClusterBusy, Message: "cluster prod is busy: op/prod/x/1 is running on it"}
	case "bad":
		p.failure = &operation.Failure{Type: operation.ErrBadInput, Message: "unknown node; and 1 more", Problems: []string{"unknown node", "unknown role"}}
	}
	p.settled = true
	if p.failure == nil {
		p.report.Phase = operation.PhaseRunning
		p.play(ctx, scene)
	}
	err := p.close(ctx)
	dctx, _ := workflow.NewDisconnectedContext(ctx)
	if aerr := workflow.Await(dctx, func() bool { return workflow.AllHandlersFinished(ctx) }); aerr != nil {
		return nil, aerr
	}
	if err != nil {
		return nil, err
	}
	return &p.report, nil
}

func (p *played) handlers(ctx workflow.Context) error {
	return errors.Join(
		workflow.SetQueryHandler(ctx, operation.QueryReport, func() (operation.Report, error) {
			r := p.report
			r.Questions = p.questions
			return r, nil
		}),
		workflow.SetUpdateHandler(ctx, operation.UpdatePreflight, func(ctx workflow.Context) (operation.PreflightOutcome, error) {
			if err := workflow.Await(ctx, func() bool { return p.settled }); err != nil {
				return operation.PreflightOutcome{}, err
			}
			if p.failure != nil {
				return operation.PreflightOutcome{}, operation.NewError(*p.failure)
			}
			return operation.PreflightOutcome{OperationID: p.report.OperationID, WorkflowID: p.report.WorkflowID, Nodes: 2, Pending: 9, Warnings: []string{"core: little space"}}, nil
		}),
		workflow.SetUpdateHandlerWithOptions(ctx, operation.UpdatePause, func(workflow.Context, operation.PauseRequest) error { p.report.Paused = true; return nil },
			workflow.UpdateHandlerOptions{Validator: func(operation.PauseRequest) error {
				if p.report.Paused {
					return fmt.Errorf("operation %s is paused already", p.report.OperationID)
				}
				return nil
			}}),
		workflow.SetUpdateHandler(ctx, operation.UpdateResume, func(workflow.Context, operation.ResumeRequest) error { p.report.Paused = false; return nil }),
		workflow.SetUpdateHandler(ctx, operation.UpdateSetBatch, func(_ workflow.Context, r operation.SetBatchRequest) error { p.report.Batch = r.Batch; return nil }),
		workflow.SetUpdateHandlerWithOptions(ctx, operation.UpdateDecide, func(ctx workflow.Context, r operation.DecideRequest) error {
			p.questions = slices.DeleteFunc(p.questions, func(q operation.Question) bool { return q.Key() == r.Key() })
			p.report.Answers = append(p.report.Answers, operation.Answer{DecideRequest: r, At: workflow.Now(ctx).UTC().Format(time.RFC3339), By: "operator"})
			return nil
		}, workflow.UpdateHandlerOptions{Validator: func(r operation.DecideRequest) error {
			for _, q := range p.questions {
				if q.Key() == r.Key() {
					return q.Check(r)
				}
			}
			return fmt.Errorf("no question is open about %s", r.Key())
		}}),
	)
}

func (p *played) play(ctx workflow.Context, scene string) {
	n := &p.report.Nodes[0]
	n.Status, n.StartedAt = operation.NodeRunning, workflow.Now(ctx).UTC().Format(time.RFC3339)
	switch scene {
	case "park":
		f := operation.Failure{Type: operation.ErrRemoteExit, Message: "apt failed"}
		for _, node := range []string{"dea-1", "core"} {
			p.questions = append(p.questions, operation.Question{Node: node, Step: operation.StepUpgrade, Try: 1, Cause: f, AskedAt: workflow.Now(ctx).UTC().Format(time.RFC3339),
				Choices: []operation.Decision{operation.Retry, operation.Skip, operation.Abort}})
		}
		p.report.Phase, n.Status, n.Step, n.Try, n.Failure = operation.PhaseBlocked, operation.NodeWaiting, operation.StepUpgrade, 1, &f
		_ = workflow.Await(ctx, func() bool { return len(p.questions) == 0 }) // ends with the answers or a cancel, which close looks at
	case "hold":
		child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: operation.NodeWorkflowID(p.report.WorkflowID, n.Name)})
		_ = workflow.ExecuteChildWorkflow(child, operation.WorkflowSecurityUpgradeNode).Get(ctx, nil) // ends by a cancel
	}
	for i := range p.report.Nodes {
		p.report.Nodes[i].Status, p.report.Nodes[i].EndedAt = operation.NodeDone, workflow.Now(ctx).UTC().Format(time.RFC3339)
	}
}

func (p *played) close(ctx workflow.Context) error {
	ended := func(phase, errorType string) error {
		p.report.Phase, p.report.Message = phase, phase
		f := operation.Failure{Type: errorType, Message: phase}
		return temporal.NewApplicationErrorWithOptions(phase, errorType, temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{f, p.report}})
	}
	if p.failure != nil {
		p.report.Phase, p.report.Failure = operation.PhaseFailed, p.failure
		return temporal.NewApplicationErrorWithOptions(p.failure.Message, p.failure.Type, temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{*p.failure, p.report}})
	}
	if ctx.Err() != nil {
		dctx, _ := workflow.NewDisconnectedContext(ctx)
		p.report.Phase = operation.PhaseCleanup
		if err := workflow.Sleep(dctx, 2*time.Second); err != nil {
			return err
		}
		p.report.Phase = operation.PhaseCancelled
		return temporal.NewCanceledError(p.report)
	}
	for _, a := range p.report.Answers {
		switch a.Decision {
		case operation.Abort:
			return ended(operation.PhaseAborted, operation.ErrOperatorAbort)
		case operation.Skip:
			return ended(operation.PhaseFailed, operation.ErrNodesFailed)
		}
	}
	p.report.Phase, p.report.EndedAt = operation.PhaseDone, workflow.Now(ctx).UTC().Format(time.RFC3339)
	return nil
}

func playNode(ctx workflow.Context) error {
	err := workflow.SetQueryHandler(ctx, operation.QueryProgress, func() (operation.NodeStep, error) {
		return operation.NodeStep{Step: operation.StepReboot, Try: 3, Since: workflow.Now(ctx).UTC().Format(time.RFC3339)}, nil
	})
	if err != nil {
		return err
	}
	return workflow.Await(ctx, func() bool { return false })
}

func playCheck(ctx workflow.Context, in operation.Request) (*operation.Report, error) {
	r := operation.Report{OperationID: in.OperationID, WorkflowID: workflow.GetInfo(ctx).WorkflowExecution.ID, Cluster: in.Cluster, Phase: operation.PhaseDone,
		Nodes: []operation.NodeReport{{Name: "dea-1", Pending: 4}}, Warnings: []string{"digest " + in.InventoryDigest}}
	if in.Cluster == "ill" {
		return nil, operation.NewError(operation.Failure{Type: operation.ErrPreflight, Message: "2 problems on 2 nodes", Problems: []string{"dea-1: no sudo", "core: unreachable"}})
	}
	return &r, nil
}

func playTrust(_ workflow.Context, in activities.TrustInput) (activities.TrustResult, error) {
	keys := []activities.TrustedKey{{Node: "dea-1", Type: "ssh-ed25519", Fingerprint: "SHA256:aaa", State: "new"}, {Node: "core", Type: "ssh-ed25519", Fingerprint: "SHA256:bbb", State: "changed"}}
	for i := range keys {
		if slices.Contains(in.Accept, keys[i].Node+" "+keys[i].Fingerprint) {
			keys[i].State = map[string]string{"new": "added", "changed": "replaced"}[keys[i].State]
		}
	}
	return activities.TrustResult{Keys: keys}, nil
}

// TestServer shares one server and one worker.
func TestServer(t *testing.T) {
	s := newSite(t)
	t.Run("Upgrade_NoWorkerPolls_SaysSoAtOnce", func(t *testing.T) {
		s.t = t
		begin := time.Now()
		p := s.run(exitNoWorker, "upgrade", "security", "prod")
		if got := p.err.String(); !strings.HasPrefix(got, `katoflow: no worker polls the task queue "katoflow" for workflows`) || strings.Count(got, "\n") != 1 {
			t.Errorf("got %q", got)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		s.run(exitNoWorker, "cluster", "check", "prod")
	})
	s.t = t
	s.startWorker()
	cases := map[string]func(*testing.T){
		"Upgrade_GoesWell_PrintsChangesAndReport": func(t *testing.T) {
			p := s.run(exitDone, "upgrade", "security", "prod", "--id", "ok-1")
			for _, want := range []string{"operation ok-1: preflight passed, 2 nodes, 9 packages pending", "warning: core: little space", "upgrade-security of prod  ok-1  done", "2 nodes: 2 done"} {
				if !strings.Contains(p.out.String(), want) {
					t.Errorf("%q is not in\n%s", want, &p.out)
				}
			}
			if p.err.String() != "" {
				t.Errorf("stderr: %s", &p.err)
			}
			if strings.Contains(p.out.String(), "\x1b") {
				t.Errorf("escape codes without a terminal: %q", &p.out)
			}
		},
		"Upgrade_JSON_OnlyTheReportOnStandardOutput": func(t *testing.T) {
			p := s.run(exitDone, "upgrade", "security", "prod", "--id", "ok-2", "-o", "json")
			if r := p.report(); r.Phase != operation.PhaseDone || r.OperationID != "ok-2" || r.RequestedBy == "" {
				t.Errorf("got %+v", r)
			}
		},
		"Upgrade_IDUsedTwice_IsBadInput": func(t *testing.T) {
			s.run(exitDone, "upgrade", "security", "prod", "--id", "ok-3")
			p := s.run(exitBadInput, "upgrade", "security", "prod", "--id", "ok-3")
			if got := p.err.String(); !strings.Contains(got, `operation id "ok-3" has been used already`) || strings.Count(got, "\n") != 1 {
				t.Errorf("got %q", got)
			}
			s.run(exitDone, "upgrade", "security", "prod", "--id", "hold-3", "--detach")
			s.run(exitBadInput, "upgrade", "security", "prod", "--id", "hold-3") // while it runs
			s.run(exitDone, "op", "cancel", "hold-3")
		},
		"Upgrade_PreflightFails_ListsAllProblems": func(t *testing.T) {
			p := s.run(exitPreflight, "upgrade", "security", "prod", "--id", "problems-1")
			want := "katoflow: 3 problems on 3 nodes: nothing was changed\nkatoflow:   dea-1: no sudo\nkatoflow:   dea-2: disk full\nkatoflow:   core: \\x1b[2Jkey\n"
			if got := p.err.String(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			p = s.run(exitPreflight, "upgrade", "security", "prod", "--id", "problems-2", "-o", "json")
			if r := p.report(); r.Failure == nil || len(r.Failure.Problems) != 3 {
				t.Errorf("got %+v", r)
			}
			s.run(exitPreflight, "op", "watch", "problems-1").says("dea-2: disk full")
			s.run(exitDone, "op", "show", "problems-1").says("dea-2: disk full")
		},
		"Upgrade_RefusedByTheWorker_HasItsExitCode": func(t *testing.T) {
			s.run(exitBusy, "upgrade", "security", "prod", "--id", "busy-1").says("cluster prod is busy: op/prod/x/1 is running on it")
			p := s.run(exitBadInput, "upgrade", "security", "prod", "--id", "bad-1")
			if got, want := p.err.String(), "katoflow: unknown node\nkatoflow: unknown role\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		},
		"Upgrade_Queued_ShowsWhoHoldsTheCluster": func(t *testing.T) {
			p := s.start("upgrade", "security", "prod", "--id", "queue-1", "--wait").says("waiting for the cluster: held by op/other")
			s.run(exitDone, "op", "set-batch", "queue-1", "2")
			p.end(exitDone).says("preflight passed")
			s.run(exitDone, "upgrade", "security", "prod", "--id", "queue-2", "--wait=1h", "--detach").says("watch it with: katoflow op watch queue-2")
			s.run(exitDone, "op", "set-batch", "queue-2", "2")
			s.run(exitDone, "op", "watch", "queue-2")
		},
		"Upgrade_InterruptedOnce_OnlyTheWatchingEnds": func(t *testing.T) {
			p := s.start("upgrade", "security", "intr", "--id", "hold-1").says("dea-1 reboot running (try 3)")
			if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			p.end(exitInterrupted).says("operation hold-1 goes on: watch it again with katoflow op watch hold-1")
			if r := s.run(exitDone, "op", "show", "intr", "-o", "json").report(); r.Phase != operation.PhaseRunning || r.Nodes[0].Step != operation.StepReboot || r.Nodes[0].Try != 3 {
				t.Errorf("after the interrupt: %+v", r)
			}
			s.run(exitDone, "op", "cancel", "intr")
			s.run(exitCancelled, "op", "watch", "hold-1")
		},
		"Decide_SeveralQuestions_AsksWhichOne": func(t *testing.T) {
			w := s.start("upgrade", "security", "parked", "--id", "park-1").says("answer with: katoflow op decide park-1 --node core --step upgrade --try 1 retry")
			s.run(exitBadInput, "op", "decide", "parked", "retry").says("katoflow op decide park-1 --node dea-1 --step upgrade --try 1 retry")
			s.run(exitBadInput, "op", "decide", "parked", "wait", "--node", "dea-1").says("choose one of retry, skip, abort")
			s.run(exitBadInput, "op", "decide", "parked", "retry", "--node", "dea-7").says("no open question fits --node dea-7")
			s.run(exitDone, "op", "decide", "parked", "retry", "--node", "dea-1", "--step", "upgrade", "--try", "1", "--reason", "mirror is back")
			s.run(exitDone, "op", "decide", "parked", "retry", "--node", "dea-1", "--step", "upgrade", "--try", "1").says("was answered already: retry")
			s.run(exitBadInput, "op", "decide", "parked", "skip", "--node", "dea-1", "--step", "upgrade", "--try", "1").says("no open question fits")
			s.run(exitDone, "op", "decide", "parked", "skip") // one is left
			w.end(exitNodesFailed).says("mirror is back")
			s.run(exitBadInput, "op", "decide", "park-1", "retry").says("has ended already")
		},
		"Decide_Abort_EndsWithItsExitCode": func(t *testing.T) {
			w := s.start("upgrade", "security", "aborted", "--id", "park-2", "-o", "yaml").says("question: core upgrade (try 1)")
			s.run(exitDone, "op", "decide", "park-2", "abort", "--node", "core")
			s.run(exitDone, "op", "decide", "park-2", "retry")
			w.end(exitAborted)
			if !strings.HasPrefix(w.out.String(), "operationId: park-2\n") {
				t.Errorf("got %s", &w.out)
			}
		},
		"PauseResumeSetBatch_RunningOperation_IsTold": func(t *testing.T) {
			w := s.start("upgrade", "security", "paused", "--id", "hold-2").says("running (try 3)")
			s.run(exitDone, "op", "pause", "paused", "--reason", "lunch").says("operation hold-2: paused")
			w.says("paused before the next node; go on with: katoflow op resume hold-2")
			s.run(exitBadInput, "op", "pause", "paused").says("operation hold-2 is paused already")
			s.run(exitDone, "op", "resume", "op/paused/upgrade-security/hold-2")
			s.run(exitDone, "op", "set-batch", "hold-2", "25%", "-o", "json").says(`"result": "batch 25% from the next node on"`)
			if r := s.run(exitDone, "op", "show", "hold-2", "-o", "json").report(); r.Paused || r.Batch != "25%" {
				t.Errorf("got %+v", r)
			}
			s.run(exitDone, "op", "cancel", "hold-2", "--detach").says("is being cancelled")
			w.end(exitCancelled)
		},
		"Cancel_Twice_SaysSoAndWaitsForTheEnd": func(t *testing.T) {
			s.run(exitDone, "upgrade", "security", "stopped", "--id", "hold-4", "--detach").says("watch it with: katoflow op watch hold-4")
			first := s.start("op", "cancel", "stopped", "--reason", "wrong window").says("what may not be interrupted is finished first")
			s.run(exitDone, "op", "cancel", "hold-4").says("is being cancelled already")
			first.end(exitDone).says("operation cancelled").says("hold-4  cancelled")
			s.run(exitDone, "op", "cancel", "hold-4").says("has been cancelled already")
			s.run(exitDone, "upgrade", "security", "stopped", "--id", "ok-4")
			s.run(exitBadInput, "op", "cancel", "ok-4").says("has ended already")
		},
		"Names_UnknownOrAmbiguous_AreBadInput": func(t *testing.T) {
			s.run(exitBadInput, "op", "show", "nobody").says(`is called "nobody"`)
			s.run(exitBadInput, "op", "show", "op/x").says("expected op/CLUSTER/KIND/ID")
			s.run(exitBadInput, "op", "watch", "op/prod/upgrade-security/nothing").says("the server knows no operation op/prod/upgrade-security/nothing")
			s.run(exitDone, "upgrade", "security", "twin", "--id", "hold-5", "--detach")
			s.run(exitDone, "upgrade", "security", "twin", "--id", "hold-6", "--detach")
			s.wait("both are listed", func() bool {
				return strings.Count(s.run(exitDone, "op", "list", "--cluster", "twin").out.String(), "hold-") == 2
			})
			s.run(exitBadInput, "op", "pause", "twin").says("op/twin/upgrade-security/hold-6")
			s.run(exitDone, "op", "cancel", "hold-5")
			s.run(exitDone, "op", "cancel", "hold-6")
			s.run(exitBadInput, "op", "pause", "twin").says(`no operation is running on cluster "twin"`)
			s.run(exitDone, "op", "show", "twin").says("cancelled")
		},
		"List_ByState_FindsThem": func(t *testing.T) {
			s.run(exitDone, "upgrade", "security", "listed", "--id", "ok-7")
			s.run(exitDone, "upgrade", "security", "listed", "--id", "hold-7", "--detach")
			s.wait("the running one is listed", func() bool {
				out := s.run(exitDone, "op", "list", "--cluster", "listed", "-o", "json").out.String()
				return strings.Contains(out, `"hold-7"`) && !strings.Contains(out, `"ok-7"`)
			})
			s.wait("the closed one is listed with --all", func() bool {
				var all []listed
				out := s.run(exitDone, "op", "list", "--cluster", "listed", "--all", "-o", "json").out.String()
				return json.Unmarshal([]byte(out), &all) == nil && len(all) == 2 && all[0].OperationID == "hold-7" && all[0].Open && all[1].Phase == operation.PhaseDone && all[1].RequestedBy != ""
			})
			s.run(exitDone, "op", "list", "--cluster", "listed", "--needs-operator").says("no operation is running")
			s.run(exitDone, "__complete", "op", "watch", "").says("hold-7")
			s.run(exitDone, "op", "cancel", "listed")
		},
		"Check_WellAndIll_ListsProblems": func(t *testing.T) {
			s.run(exitDone, "cluster", "check", "prod").says("prod: 1 node ready")
			p := s.run(exitPreflight, "cluster", "check", "ill")
			if got, want := p.err.String(), "katoflow: 2 problems on 2 nodes\nkatoflow:   dea-1: no sudo\nkatoflow:   core: unreachable\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			file := filepath.Join(t.TempDir(), "clusters.yaml")
			if err := os.WriteFile(file, []byte("clusters: {prod: {nodes: [{name: a, address: 10.0.0.1}]}}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.run(exitDone, "cluster", "check", "prod", "--inventory", file).says("digest sha256:")
		},
		"Trust_NewAndChangedKeys_NeedsAYesAndReplace": func(t *testing.T) {
			s.run(exitBadInput, "cluster", "trust", "prod").says("SHA256:aaa").says("there is no terminal to ask on")
			s.run(exitPreflight, "cluster", "trust", "prod", "--yes").says("added").says("core: its host key has changed to SHA256:bbb")
			p := s.run(exitDone, "cluster", "trust", "prod", "--yes", "--replace", "-o", "json")
			var r activities.TrustResult
			if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil || r.Keys[1].State != "replaced" {
				t.Errorf("%v: %s", err, &p.out)
			}
		},
		"Init_FreshNamespace_AddsOnce": func(t *testing.T) {
			_, err := s.server.Client().WorkflowService().RegisterNamespace(context.Background(), &workflowservice.RegisterNamespaceRequest{
				Namespace: "fresh", WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour), HistoryArchivalState: enumspb.ARCHIVAL_STATE_DISABLED})
			if err != nil {
				t.Fatal(err)
			}
			s.run(exitDone, "init").says("has all search attributes already")
			s.run(exitBadInput, "op", "list", "--namespace", "absent").says(`namespace "absent" does not exist`)
			s.wait("the namespace is known", func() bool {
				_, err := s.server.Client().WorkflowService().ListWorkflowExecutions(context.Background(), &workflowservice.ListWorkflowExecutionsRequest{Namespace: "fresh"})
				return err == nil
			})
			s.run(exitBadInput, "op", "list", "--namespace", "fresh").says("katoflow init")
			s.run(exitDone, "init", "--namespace", "fresh").says("added KatoflowCluster, KatoflowOperation, KatoflowPhase, KatoflowNode, KatoflowNeedsOperator")
			s.wait("they are there", func() bool {
				return strings.Contains(s.run(exitDone, "init", "--namespace", "fresh").out.String(), "has all search attributes already")
			})
		},
		"Watch_Terminated_IsAnErrorThatSaysWhatToLookAt": func(t *testing.T) {
			s.run(exitDone, "upgrade", "security", "ended", "--id", "hold-8", "--detach")
			w := s.start("op", "watch", "hold-8").says("running")
			if err := s.server.Client().TerminateWorkflow(context.Background(), "op/ended/upgrade-security/hold-8", "", "test"); err != nil {
				t.Fatal(err)
			}
			w.end(exitError).says("no cleanup was run")
		},
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range cases {
			if !yield(n) {
				return
			}
		}
	}) {
		t.Run(name, func(t *testing.T) {
			s.t = t
			cases[name](t)
		})
	}
	s.t = t
}

func TestWatch_WorkerAndServerGoAndComeBack_GoesOn(t *testing.T) {
	s := newSite(t)
	s.startWorker()
	w := s.start("upgrade", "security", "prod", "--id", "hold-1").says("dea-1 reboot running (try 3)")
	s.stopWorker()
	w.says("no worker answers for 0s, retrying")
	s.startWorker()
	w.says("back again")
	s.stopWorker()
	s.stopServer()
	w.says("server unreachable for 0s, retrying")
	s.startServer()
	s.startWorker()
	s.wait("it is told twice that it is back", func() bool { return strings.Count(w.out.String(), "back again") == 2 })
	s.run(exitDone, "op", "cancel", "hold-1")
	w.end(exitCancelled)
	if err := w.cmd.Process.Signal(syscall.Signal(0)); err == nil {
		t.Error("the command is still there")
	}
}
