package workflows

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

func TestSecurityUpgrade_AllWell_EveryNodeDoneInOrder(t *testing.T) {
	w := newWorld(t, alsPlan())
	report, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, operation.PhaseDone, report.Phase)
	var want []string
	want = append(want, "Resolve", "LockToken", "Preflight", "Fence")
	for _, n := range w.fake.plan.Nodes {
		want = append(want, "ClusterGates", "Probe "+n.Name)
		if n.HasRole("dea") {
			want = append(want, "Retire "+n.Name)
		}
		for _, s := range []string{"Upgrade", "Reboot", "Proof", "Gates", "Record"} {
			want = append(want, s+" "+n.Name)
		}
	}
	want = append(want, "ClusterGates")
	require.Equal(t, want, w.fake.calls)
	require.Equal(t, 1, w.fake.most, "one node at a time")
}

func TestSecurityUpgrade_DryRun_NothingMutatedAndNoLock(t *testing.T) {
	w := newWorld(t, alsPlan())
	report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.DryRun = true; in.Maintenance = true }))
	require.NoError(t, err)
	require.Equal(t, []string{"Resolve", "Preflight", "PlanCommands"}, w.fake.calls)
	require.Equal(t, operation.NodePlanned, report.Nodes[0].Status)
	require.NotEmpty(t, report.Commands)
}

func TestSecurityUpgrade_BadInput_NothingAsked(t *testing.T) {
	minus := -1
	for name, change := range map[string]func(*operation.SecurityUpgradeInput){
		"no cluster":     func(in *operation.SecurityUpgradeInput) { in.Cluster = "" },
		"batch 0":        func(in *operation.SecurityUpgradeInput) { in.Batch = "0" },
		"batch 120 %":    func(in *operation.SecurityUpgradeInput) { in.Batch = "120%" },
		"reboot":         func(in *operation.SecurityUpgradeInput) { in.Reboot = "sometimes" },
		"pin, no canary": func(in *operation.SecurityUpgradeInput) { in.Pin, in.NoCanary = true, true },
		"max failures":   func(in *operation.SecurityUpgradeInput) { in.MaxFailures = &minus },
		"soak":           func(in *operation.SecurityUpgradeInput) { in.Soak = -1 },
		"on deadline":    func(in *operation.SecurityUpgradeInput) { in.OnDeadline = "retry" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, alsPlan())
			report, err := w.run(input(change))
			require.Equal(t, operation.ErrBadInput, typeOf(err))
			require.Equal(t, operation.PhaseFailed, report.Phase)
			require.Empty(t, w.fake.calls)
		})
	}
}

func TestSecurityUpgrade_PreflightProblemsOnThreeNodes_AllListedNothingMutated(t *testing.T) {
	w := newWorld(t, alsPlan())
	for _, n := range []string{"dea-1", "core", "fs-1"} {
		w.fake.preflight[n] = activities.NodePreflight{Problems: []string{"sudo asks for a password"}}
	}
	free, told := false, false
	w.SetOnChildWorkflowCompletedListener(func(info *workflow.Info, _ converter.EncodedValue, _ error) {
		free = free || info.WorkflowType.Name == operation.WorkflowClusterLock
	})
	w.at(0, func() {
		w.UpdateWorkflow(operation.UpdatePreflight, "", &rejecting{t: t, complete: func(err error) {
			f := operation.FailureOf(err)
			require.Len(t, f.Problems, 3)
			require.True(t, free, "it can be begun again at once")
			told = true
		}})
	})
	report, err := w.run(input())
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.Equal(t, []string{"dea-1: sudo asks for a password", "core: sudo asks for a password", "fs-1: sudo asks for a password"}, report.Failure.Problems)
	require.True(t, told)
	require.Empty(t, w.fake.mutated())
	require.Equal(t, operation.NodeUntouched, report.Nodes[0].Status)
}

type rejecting struct {
	t        *testing.T
	complete func(error)
}

func (r *rejecting) Accept()                   {}
func (r *rejecting) Reject(err error)          { r.t.Errorf("the update was rejected: %v", err) }
func (r *rejecting) Complete(_ any, err error) { r.complete(err) }

func TestSecurityUpgrade_StepFailsAndOutcomeIsKnown_RetryStartsTheNextJob(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b"))
	w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a: unattended-upgrades exited 1")}
	w.answer(operation.Retry)
	report, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, []string{"a/upgrade/1"}, w.asked)
	require.Equal(t, 1, w.fake.count("Upgrade a"))
	require.Equal(t, 1, w.fake.count("Upgrade a try=2"))
	require.Equal(t, 1, w.fake.count("Probe a"), "a retry begins at the failed step")
	require.Equal(t, operation.NodeDone, node(t, report, "a").Status)
	require.Equal(t, "operator", report.Answers[0].By)
}

func TestSecurityUpgrade_UpgradeDidNothing_RetryUpgradesAndRebootsAgain(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.script["Record a"] = []error{fail(operation.ErrVerify, "a: changed nothing"), fail(operation.ErrVerify, "a: changed nothing")}
	w.answer(operation.Retry, operation.Retry)
	_, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, []string{"a/record/1", "a/record/2"}, w.asked, "no question comes twice under one key")
	for _, step := range []string{"Upgrade a", "Reboot a"} {
		for _, try := range []string{"", " try=2", " try=3"} {
			require.Equal(t, 1, w.fake.count(step+try), step+try)
		}
	}
}

func TestSecurityUpgrade_StepFailsAndOutcomeIsUnknown_RetryTakesTheSameJobUp(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.script["Upgrade a"] = []error{fail(operation.ErrUnreachable, "a: not reached for 10m0s")}
	w.answer(operation.Retry)
	_, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, 2, w.fake.count("Upgrade a"), "the same try of the job")
	require.Zero(t, w.fake.count("Upgrade a try=2"))
}

func TestSecurityUpgrade_NodeNeverReturns_ParksAndAsks(t *testing.T) {
	for name, c := range map[string]struct {
		decision operation.Decision
		phase    string
		node     string
	}{
		"retry": {operation.Retry, operation.PhaseDone, operation.NodeDone},
		"skip":  {operation.Skip, operation.PhaseFailed, operation.NodeSkipped},
		"abort": {operation.Abort, operation.PhaseAborted, operation.NodeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b"))
			w.fake.script["Reboot a"] = []error{fail(operation.ErrNotReturned, "a: did not come back within 15m0s")}
			w.at(5*time.Second, func() {
				r := w.now()
				require.Equal(t, operation.PhaseBlocked, r.Phase)
				require.Equal(t, operation.NodeWaiting, node(t, r, "a").Status)
				require.Equal(t, operation.NodePending, node(t, r, "b").Status, "nothing else is begun meanwhile")
			})
			w.answer(c.decision)
			report, _ := w.run(input())
			require.Equal(t, c.phase, report.Phase)
			require.Equal(t, c.node, node(t, report, "a").Status)
			if c.decision == operation.Abort {
				require.Equal(t, operation.NodeUntouched, node(t, report, "b").Status)
			} else {
				require.Equal(t, operation.NodeDone, node(t, report, "b").Status)
			}
		})
	}
}

func TestSecurityUpgrade_SkippedNodeOutOfService_FillsTheBatchAndParksAgain(t *testing.T) {
	for name, decisions := range map[string][]operation.Decision{
		"degraded":      {operation.Skip, operation.Degraded},
		"wait, no help": {operation.Skip, operation.Wait, operation.Degraded},
		"abort":         {operation.Skip, operation.Abort},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b", "c"))
			w.fake.down["a"] = true
			w.fake.script["Reboot a"] = []error{fail(operation.ErrNotReturned, "a: did not come back")}
			w.answer(decisions...)
			report, _ := w.run(input())
			require.Equal(t, "a/out-of-service/1", w.asked[1])
			require.True(t, node(t, report, "a").OutOfService)
			last := decisions[len(decisions)-1]
			if last == operation.Degraded {
				require.Equal(t, operation.PhaseFailed, report.Phase, "a skipped node is no success")
				require.Equal(t, []string{"a"}, report.LeftOut)
				require.Contains(t, w.fake.excluded[len(w.fake.excluded)-1], "a")
				require.Equal(t, operation.NodeDone, node(t, report, "c").Status)
			} else {
				require.Equal(t, operation.PhaseAborted, report.Phase)
				require.Equal(t, operation.NodeUntouched, node(t, report, "b").Status)
			}
		})
	}
}

func TestSecurityUpgrade_SkippedNodeRecovers_WaitFreesTheSlot(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b"))
	w.fake.down["a"] = true
	w.fake.script["Reboot a"] = []error{fail(operation.ErrNotReturned, "a: did not come back")}
	w.answer(operation.Skip, operation.Wait)
	w.at(15*time.Second, func() { w.fake.mu.Lock(); w.fake.down["a"] = false; w.fake.mu.Unlock() })
	report, _ := w.run(input())
	require.False(t, node(t, report, "a").OutOfService)
	require.Empty(t, report.LeftOut)
	require.Equal(t, operation.NodeDone, node(t, report, "b").Status)
}

func TestSecurityUpgrade_MaxFailures_DecidesWithoutAPerson(t *testing.T) {
	for allowed, want := range map[int]string{0: operation.PhaseAborted, 1: operation.PhaseAborted, 2: operation.PhaseFailed} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b", "c", "d"))
			w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a: exited 1")}
			w.fake.script["Upgrade b"] = []error{fail(operation.ErrRemoteExit, "b: exited 1")}
			report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.MaxFailures = &allowed }))
			require.Error(t, err)
			require.Equal(t, want, report.Phase)
			require.Empty(t, w.asked)
			require.Equal(t, "max-failures", report.Answers[0].By)
		})
	}
}

func TestSecurityUpgrade_NobodyAnswers_DeadlinePolicyDecides(t *testing.T) {
	for _, d := range []operation.Decision{"", operation.Abort, operation.Skip} {
		t.Run(string(d), func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b"))
			w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a: exited 1")}
			report, _ := w.run(input(func(in *operation.SecurityUpgradeInput) {
				in.AnswerWithin, in.OnDeadline = operation.Duration(time.Hour), d
			}))
			require.Equal(t, "deadline", report.Answers[0].By)
			if d == operation.Skip {
				require.Equal(t, operation.NodeDone, node(t, report, "b").Status)
			} else {
				require.Equal(t, operation.PhaseAborted, report.Phase)
			}
		})
	}
}

func TestSecurityUpgrade_WrongAnswers_AreRejected(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a: exited 1")}
	w.fake.script["Gates a"] = []error{fail(operation.ErrGates, "a: gates do not hold")}
	right := operation.DecideRequest{Node: "a", Step: "upgrade", Try: 1, Decision: operation.Retry}
	w.at(5*time.Second, func() {
		for _, change := range []func(*operation.DecideRequest){
			func(r *operation.DecideRequest) { r.Node = "b" },
			func(r *operation.DecideRequest) { r.Step = "reboot" },
			func(r *operation.DecideRequest) { r.Try = 2 },
			func(r *operation.DecideRequest) { r.Decision = operation.Leave },
			func(r *operation.DecideRequest) { r.Decision = "" },
		} {
			wrong := right
			change(&wrong)
			w.rejected(operation.UpdateDecide, wrong)
		}
	})
	w.at(6*time.Second, func() { w.accepted(operation.UpdateDecide, right) })
	w.at(7*time.Second, func() {
		w.rejected(operation.UpdateDecide, right) // repeated: the open question is another one by now
		w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: "a", Step: "gates", Try: 1, Decision: operation.Retry})
	})
	report, err := w.run(input())
	require.NoError(t, err)
	require.Len(t, report.Answers, 2)
}

func TestSecurityUpgrade_TwoQuestionsAtOnce_AnsweredInAnyOrder(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b", "c"))
	w.fake.script["Upgrade b"] = []error{fail(operation.ErrRemoteExit, "b: exited 1")}
	w.fake.script["Upgrade c"] = []error{fail(operation.ErrRemoteExit, "c: exited 1")}
	w.at(5*time.Second, func() {
		require.Len(t, w.now().Questions, 2)
		w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: "c", Step: "upgrade", Try: 1, Decision: operation.Skip})
	})
	w.at(6*time.Second, func() {
		w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: "b", Step: "upgrade", Try: 1, Decision: operation.Retry})
	})
	report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Batch = "2" }))
	require.Equal(t, operation.ErrNodesFailed, typeOf(err))
	require.Equal(t, map[string]string{"a": operation.NodeDone, "b": operation.NodeDone, "c": operation.NodeSkipped}, status(report))
}

func TestSecurityUpgrade_PausedBetweenNodes_NothingBegunUntilResumed(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b"))
	w.fake.during["Upgrade a"] = func(context.Context) {
		w.RegisterDelayedCallback(func() {
			w.accepted(operation.UpdatePause, operation.PauseRequest{Who: "operator"})
			w.rejected(operation.UpdatePause, operation.PauseRequest{})
		}, 0)
	}
	w.at(time.Hour, func() {
		require.Equal(t, operation.PhasePaused, w.now().Phase)
		require.Equal(t, operation.NodeDone, node(t, w.now(), "a").Status, "what was begun ends")
		require.Equal(t, -1, w.fake.place("Probe b"))
		w.accepted(operation.UpdateResume, operation.ResumeRequest{Who: "operator"})
	})
	report, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, operation.NodeDone, node(t, report, "b").Status)
}

func TestSecurityUpgrade_SetBatch_TakesEffectFromTheNextNode(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b", "c", "d", "e", "f"))
	w.fake.during["Upgrade a"] = func(context.Context) {
		w.RegisterDelayedCallback(func() {
			w.rejected(operation.UpdateSetBatch, operation.SetBatchRequest{Batch: "0"})
			w.rejected(operation.UpdateSetBatch, operation.SetBatchRequest{})
			w.rejected(operation.UpdateSetBatch, operation.SetBatchRequest{Batch: "7"}) // more than there are
			w.accepted(operation.UpdateSetBatch, operation.SetBatchRequest{Batch: "50%"})
		}, 0)
	}
	w.fake.during["Probe b"], w.fake.during["Probe c"] = w.fake.atOnce(2), w.fake.atOnce(2)
	report, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, 3, report.Slots)
	require.GreaterOrEqual(t, w.fake.most, 2)
}

func TestSecurityUpgrade_Canary_GoesAloneThenSoak(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b", "c"))
	w.at(10*time.Minute, func() {
		require.Equal(t, operation.NodeDone, node(t, w.now(), "a").Status)
		require.Equal(t, -1, w.fake.place("Probe b"), "soaking")
	})
	w.fake.during["Probe b"], w.fake.during["Probe c"] = w.fake.atOnce(2), w.fake.atOnce(2)
	report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Batch, in.Soak = "3", operation.Duration(time.Hour) }))
	require.NoError(t, err)
	require.Less(t, w.fake.place("Record a"), w.fake.place("Probe b"))
	require.Equal(t, 2, w.fake.most)
	require.Equal(t, operation.PhaseDone, report.Phase)
}

func TestSecurityUpgrade_CanaryFails_TheNextNodeIsTheCanary(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b", "c"))
	w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a: exited 1")}
	w.answer(operation.Skip)
	_, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Batch = "3" }))
	require.Equal(t, operation.ErrNodesFailed, typeOf(err))
	require.Less(t, w.fake.place("Record b"), w.fake.place("Probe c"), "b goes alone")
}

func TestSecurityUpgrade_Pin_OthersGetTheCanarysVersions(t *testing.T) {
	w := newWorld(t, plainPlan("a", "b"))
	w.fake.changes["a"] = []operation.PackageChange{{Name: "openssl", From: "1", To: "2"}}
	_, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Pin = true }))
	require.NoError(t, err)
	require.Empty(t, w.fake.pinsSeen["a"])
	require.Equal(t, []operation.PackageVersion{{Name: "openssl", Version: "2"}}, w.fake.pinsSeen["b"])
}

func TestSecurityUpgrade_RebootPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		policy  operation.RebootPolicy
		needs   bool
		reboots int
	}{
		"always":               {operation.RebootAlways, false, 1},
		"default":              {"", false, 1},
		"if required, needed":  {operation.RebootIfRequired, true, 1},
		"if required, not":     {operation.RebootIfRequired, false, 0},
		"never, though needed": {operation.RebootNever, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, plainPlan("a"))
			w.fake.needsReboot["a"] = c.needs
			report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Reboot = c.policy }))
			require.NoError(t, err)
			require.Equal(t, c.reboots, w.fake.count("Reboot a"))
			require.Equal(t, c.reboots, w.fake.count("Proof a"), "no reboot without a proof, no proof without a reboot")
			require.Equal(t, c.reboots == 1, report.Nodes[0].Proof != nil)
		})
	}
}

func TestSecurityUpgrade_Interrupted_RepairedOnceThenAsked(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.interrupted["a"] = 1
	report, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, []string{"Upgrade a", "Repair a", "Upgrade a try=2"}, w.fake.calls[6:9])
	require.Contains(t, strings.Join(report.Nodes[0].Notes, "\n"), "dpkg --configure -a")

	w = newWorld(t, plainPlan("a"))
	w.fake.interrupted["a"] = 2
	w.answer(operation.Retry)
	_, err = w.run(input())
	require.NoError(t, err)
	require.Equal(t, []string{"a/upgrade/1"}, w.asked)
	require.Equal(t, 1, w.fake.count("Upgrade a try=3"))
}

func TestSecurityUpgrade_HalfConfiguredBefore_RepairedFirst(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.halfBefore["a"] = true
	_, err := w.run(input())
	require.NoError(t, err)
	require.Less(t, w.fake.place("Repair a"), w.fake.place("Upgrade a try=2"))
	require.Zero(t, w.fake.count("Upgrade a"))
}

func TestSecurityUpgrade_ClusterGatesDoNotHold_Asks(t *testing.T) {
	for _, d := range []operation.Decision{operation.Retry, operation.Degraded, operation.Abort} {
		t.Run(string(d), func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b"))
			w.fake.clusterDown = 1
			w.answer(d)
			report, err := w.run(input())
			require.Equal(t, "cluster/cluster-gates/1", w.asked[0])
			switch d {
			case operation.Abort:
				require.Equal(t, operation.ErrOperatorAbort, typeOf(err))
				require.Equal(t, -1, w.fake.place("Probe a"))
			case operation.Degraded:
				require.NoError(t, err)
				require.Equal(t, []string{"fs-1"}, report.LeftOut)
			default:
				require.NoError(t, err)
			}
		})
	}
}

func TestSecurityUpgrade_TransientError_RetriedWithoutAsking(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.script["Probe a"] = []error{temporal.NewApplicationError("worker shut down", operation.ErrWorker), temporal.NewApplicationError("again", operation.ErrSSHTransport)}
	_, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, 3, w.fake.count("Probe a"))
}

func TestSecurityUpgrade_Maintenance_PutBackOnEveryPath(t *testing.T) {
	for name, c := range map[string]func(w *world){
		"done": func(*world) {},
		"failed": func(w *world) {
			w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a")}
			w.answer(operation.Skip)
		},
		"abort": func(w *world) {
			w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a")}
			w.answer(operation.Abort)
		},
		"cancel": func(w *world) {
			w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a")}
			w.at(20*time.Second, w.CancelWorkflow)
		},
		"not set": func(w *world) {
			w.fake.script["EnterMaintenance"] = []error{fail(operation.ErrMaintenance, "kato hangs")}
			w.answer(operation.Abort)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, found := range []string{"off", "on"} {
				w := newWorld(t, plainPlan("a", "b"))
				w.fake.found, w.fake.maintenance = found, found
				c(w)
				report, _ := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Maintenance = true }))
				require.Equal(t, found, w.fake.maintenance)
				require.Equal(t, 1, w.fake.count("LeaveMaintenance"))
				require.Contains(t, report.Maintenance, "put back")
			}
		})
	}
}

func TestSecurityUpgrade_MaintenanceCannotBePutBack_IsAQuestion(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.script["LeaveMaintenance"] = []error{fail(operation.ErrMaintenance, "kato hangs"), fail(operation.ErrMaintenance, "kato hangs")}
	w.answer(operation.Retry, operation.Leave)
	report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Maintenance = true }))
	require.NoError(t, err)
	require.Equal(t, []string{"cluster/maintenance-off/1", "cluster/maintenance-off/2"}, w.asked)
	require.Contains(t, report.Maintenance, "left on")
}

func TestSecurityUpgrade_CancelledInAStep_SettlesNamesTheStateAndCleansUp(t *testing.T) {
	for step, want := range map[string]struct{ settled, state string }{
		"Probe a":   {"", "untouched"},
		"Upgrade a": {"Upgrade a settle", "upgraded, not rebooted"},
		"Reboot a":  {"Reboot a settle", "upgraded and rebooted, the reboot is not proved"},
		"Proof a":   {"", "upgraded and rebooted, the reboot is not proved"},
		"Gates a":   {"", "upgraded and rebooted, its gates were not awaited"},
	} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b"))
			w.fake.during[step] = func(ctx context.Context) {
				w.fake.mu.Lock()
				delete(w.fake.during, step)
				w.fake.mu.Unlock()
				w.RegisterDelayedCallback(w.CancelWorkflow, 0)
				<-ctx.Done()
			}
			report, err := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Maintenance = true }))
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			require.Equal(t, operation.PhaseCancelled, report.Phase)
			require.Equal(t, operation.NodeCancelled, node(t, report, "a").Status)
			require.Contains(t, strings.Join(node(t, report, "a").Notes, "\n"), want.state)
			require.Equal(t, operation.NodeUntouched, node(t, report, "b").Status)
			if want.settled != "" {
				require.Equal(t, 1, w.fake.count(want.settled))
			}
			require.Equal(t, "off", w.fake.maintenance)
		})
	}
}

func TestSecurityUpgrade_CancelledWithAnUnreachableNode_AsksWaitOrLeave(t *testing.T) {
	for _, d := range []operation.Decision{operation.Wait, operation.Leave} {
		t.Run(string(d), func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b"))
			lost := operation.NewError(operation.Failure{Type: operation.ErrUnreachable, Message: "a: not reached for 10m0s", Job: "op-1.a.upgrade.1"})
			w.fake.script["Upgrade a"] = []error{lost, lost}
			w.at(5*time.Second, w.CancelWorkflow)
			w.at(20*time.Second, w.CancelWorkflow) // a second one changes nothing
			w.answer(d)
			report, err := w.run(input())
			require.True(t, temporal.IsCanceledError(err))
			require.Len(t, w.asked, 1)
			notes := strings.Join(node(t, report, "a").Notes, "\n")
			if d == operation.Leave {
				require.Equal(t, operation.NodeFailed, node(t, report, "a").Status)
				require.Contains(t, notes, "op-1.a.upgrade.1 may still run")
			} else {
				require.Equal(t, operation.NodeCancelled, node(t, report, "a").Status)
				require.Equal(t, 2, w.fake.count("Upgrade a settle"))
			}
		})
	}
}

func TestSecurityUpgrade_CancelledWhilePausedSoakingOrAsking_EndsAtOnce(t *testing.T) {
	for name, c := range map[string]func(w *world, in *operation.SecurityUpgradeInput){
		"soaking": func(_ *world, in *operation.SecurityUpgradeInput) { in.Soak = operation.Duration(time.Hour) },
		"paused": func(w *world, _ *operation.SecurityUpgradeInput) {
			w.fake.during["Upgrade a"] = func(context.Context) {
				w.RegisterDelayedCallback(func() { w.accepted(operation.UpdatePause, operation.PauseRequest{}) }, 0)
			}
		},
		"asking": func(w *world, _ *operation.SecurityUpgradeInput) {
			w.fake.script["Gates a"] = []error{fail(operation.ErrGates, "a: gates do not hold")}
		},
		"cluster gates asking": func(w *world, _ *operation.SecurityUpgradeInput) { w.fake.clusterDown = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, plainPlan("a", "b"))
			in := input()
			c(w, &in)
			began := w.Now()
			w.at(time.Minute, w.CancelWorkflow)
			report, err := w.run(in)
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			require.Equal(t, operation.NodeUntouched, node(t, report, "b").Status)
			require.Less(t, w.Now().Sub(began), 5*time.Minute)
		})
	}
}

func TestSecurityUpgrade_ChildCancelledAlone_IsAQuestion(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	w.fake.during["Gates a"] = func(ctx context.Context) {
		w.fake.mu.Lock()
		delete(w.fake.during, "Gates a")
		w.fake.mu.Unlock()
		w.RegisterDelayedCallback(func() { w.CancelWorkflowByID(operation.NodeWorkflowID(startOptions().ID, "a"), "") }, 0)
		<-ctx.Done()
	}
	w.answer(operation.Retry)
	report, err := w.run(input())
	require.NoError(t, err)
	require.Equal(t, []string{"a/gates/1"}, w.asked)
	require.Equal(t, operation.PhaseDone, report.Phase)
}

func TestSecurityUpgrade_Notifications_SentAndNeverFatal(t *testing.T) {
	plan := plainPlan("a")
	plan.NotifyOn = []string{operation.EventParked, operation.EventDone}
	w := newWorld(t, plan)
	w.fake.script["Upgrade a"] = []error{fail(operation.ErrRemoteExit, "a: exited 1")}
	w.fake.script["Notify"] = []error{fail(operation.ErrInternal, "the site's webhook answers 500")}
	w.answer(operation.Retry)
	report, err := w.run(input())
	require.NoError(t, err)
	require.Len(t, w.fake.notifications, 2)
	require.Equal(t, operation.EventParked, w.fake.notifications[0].Event)
	require.Len(t, w.fake.notifications[0].Questions, 1)
	require.Equal(t, operation.EventDone, w.fake.notifications[1].Event)
	require.NotEqual(t, w.fake.notifications[0].ID, w.fake.notifications[1].ID)
	require.Contains(t, strings.Join(report.Warnings, "\n"), "webhook answers 500")
}

func TestSecurityUpgrade_NoOperationID_TakenFromTheWorkflowID(t *testing.T) {
	w := newWorld(t, plainPlan("a"))
	in := input()
	in.OperationID = ""
	report, err := w.run(in)
	require.NoError(t, err)
	require.Equal(t, "op-1", report.OperationID)
}

func TestSecurityUpgrade_RandomFailuresAndAnswers_NeverMoreOutOfServiceThanTheBatch(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			var names []string
			for i := range 12 {
				names = append(names, fmt.Sprintf("n%02d", i))
			}
			w := newWorld(t, plainPlan(names...))
			largest := 1 + random.IntN(4)
			for _, n := range names {
				for _, step := range []string{"Upgrade", "Reboot", "Proof", "Gates"} {
					for _, suffix := range []string{"", " try=2", " try=3"} {
						if random.IntN(8) == 0 {
							w.fake.script[step+" "+n+suffix] = []error{fail(operation.ErrRemoteExit, n+": exited 1")}
						}
					}
				}
				w.fake.down[n] = random.IntN(10) == 0
			}
			degraded := 0
			for i := range 400 {
				w.at(time.Duration(i+1)*10*time.Second, func() {
					if w.IsWorkflowCompleted() {
						return
					}
					report := w.now()
					out := 0
					for _, n := range report.Nodes {
						if n.Status == operation.NodeRunning || n.Status == operation.NodeWaiting || n.OutOfService {
							out++
						}
					}
					require.LessOrEqual(t, out, largest+degraded, "more nodes out of service than the batch")
					for _, q := range report.Questions[:min(1, len(report.Questions))] {
						d := q.Choices[random.IntN(len(q.Choices))]
						if d == operation.Abort && random.IntN(4) > 0 {
							d = q.Choices[0]
						}
						if q.Step == operation.StepOutOfService && d == operation.Wait {
							w.fake.mu.Lock()
							w.fake.down[q.Node] = false
							w.fake.mu.Unlock()
						}
						if d == operation.Degraded {
							degraded++
						}
						w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: q.Node, Step: q.Step, Try: q.Try, Decision: d})
					}
				})
			}
			report, _ := w.run(input(func(in *operation.SecurityUpgradeInput) { in.Batch = fmt.Sprint(largest) }))
			require.True(t, report.Finished())
			for _, n := range report.Nodes {
				require.Contains(t, []string{operation.NodeDone, operation.NodeSkipped, operation.NodeFailed, operation.NodeUntouched}, n.Status, n.Name)
				if n.Status == operation.NodeDone {
					require.NotNil(t, n.Proof, "%s is done without a boot proof", n.Name)
				}
			}
		})
	}
}
