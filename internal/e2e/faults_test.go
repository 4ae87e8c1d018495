package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/lab"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// eventually polls a condition that is read from outside of the operation.
func (s *site) eventually(limit time.Duration, what string, condition func() bool) {
	s.t.Helper()
	require.NoError(s.t, waitFor(limit, what, func() (bool, error) { return condition(), nil }))
}

// runs waits until a program runs on a node.
func (s *site) runs(node, program string) {
	s.t.Helper()
	s.eventually(30*time.Second, program+" on "+node, func() bool {
		for _, e := range s.cluster.Node(node).Commands() {
			if e.Argv[0] == program && e.End.IsZero() {
				return true
			}
		}
		return false
	})
}

// unpacking waits until dpkg is in the middle of its work on a node.
func (s *site) unpacking(node string) {
	s.t.Helper()
	seen := 0
	s.eventually(30*time.Second, "dpkg on "+node, func() bool {
		packages := s.cluster.Node(node).HalfConfigured()
		if !onHosts() {
			return len(packages) > 0
		}
		// There one package comes after the other, and this one's configuration takes its time: whatever happens next meets that, and not the moment in which another
		// is unpacked, after which dpkg wants a package installed anew.
		if slices.Contains(packages, lab.PackageSlow) {
			seen++
		}
		return seen >= 3
	})
}

// waits waits until an activity of the operation, or of a node's child, says in its heartbeat what it is waiting for.
func (o *op) waits(node, for_ string) {
	o.t.Helper()
	id := o.workflow
	if node != operation.ClusterNode {
		id = operation.NodeWorkflowID(id, node)
	}
	last := ""
	o.t.Cleanup(func() {
		if o.t.Failed() {
			o.t.Logf("last heartbeat of %s: %s", id, last)
		}
	})
	o.eventually(60*time.Second, "a heartbeat of "+id+" with "+for_, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		d, err := o.client.DescribeWorkflowExecution(ctx, id, "")
		if err != nil {
			return false
		}
		for _, a := range d.GetPendingActivities() {
			if beat, ok := beatOf(a); ok {
				if last = beat.Phase; strings.Contains(last, for_) {
					return true
				}
			}
		}
		return false
	})
}

func beatOf(a *workflowpb.PendingActivityInfo) (activities.Beat, bool) {
	var b activities.Beat
	var payloads *commonpb.Payloads = a.GetHeartbeatDetails()
	return b, payloads != nil && converter.GetDefaultDataConverter().FromPayloads(payloads, &b) == nil
}

// at waits until a node's child is at a step.
func (o *op) at(node, step string) {
	o.t.Helper()
	o.eventually(60*time.Second, node+" at "+step, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var at operation.NodeStep
		v, err := o.client.QueryWorkflow(ctx, operation.NodeWorkflowID(o.workflow, node), "", operation.QueryProgress)
		return err == nil && v.Get(&at) == nil && at.Step == step
	})
}

// parked waits until the server lists the operation as one that needs an operator, as a dashboard would find it.
func (o *op) parked(needs bool) {
	o.t.Helper()
	query := fmt.Sprintf("%s = '%s' AND %s = %v AND ExecutionStatus = 'Running'", operation.AttributeCluster.GetName(), o.cluster.Name(), operation.AttributeNeedsOperator.GetName(), needs)
	o.eventually(15*time.Second, query, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		answer, err := o.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query})
		return err == nil && len(answer.GetExecutions()) == 1 && answer.GetExecutions()[0].GetExecution().GetWorkflowId() == o.workflow
	})
}

// node of a report.
func nodeOf(t *testing.T, r operation.Report, name string) operation.NodeReport {
	t.Helper()
	for _, n := range r.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("%s is not in the report", name)
	return operation.NodeReport{}
}

// connectWithin shortens the time to connect, in the inventory as it was written last.
func (s *site) connectWithin(d string) {
	s.t.Helper()
	b, err := os.ReadFile(s.Inventory)
	require.NoError(s.t, err)
	user := "user: " + s.cluster.LoginUser() + "\n"
	require.Contains(s.t, string(b), user)
	require.NoError(s.t, os.WriteFile(s.Inventory, []byte(strings.Replace(string(b), user, "connect_timeout: "+d+"\n      "+user, 1)), 0o600))
}

// asks requires what is asked about.
func asks(t *testing.T, q operation.Question, node, step string, try int, errorType string) {
	t.Helper()
	require.Equal(t, fmt.Sprintf("%s/%s/%d %s", node, step, try, errorType), q.Key()+" "+q.Cause.Type, q.Cause.Message)
}

// limits writes the cluster's gates and timeouts; gates are quick.
func (s *site) limits(timeouts string, more ...string) {
	s.t.Helper()
	s.inventory("    gates: {times: 1, interval: 100ms, timeout: 5s}\n    timeouts: {" + timeouts + "}\n" + strings.Join(more, ""))
}

const patient = "unreachable_after: 60s, boot: 20s, upgrade: 2m, apt_lock: 30s"

func TestFault_ConnectionDroppedAgainAndAgain_EveryCommandRunsOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(1500*time.Millisecond))
	s.worker("")
	o := s.start()
	f := s.fault("SSH connections dropped again and again in the middle of apt")
	for _, node := range []string{"a", "b"} {
		n := s.cluster.Node(node)
		s.runs(node, "unattended-upgrades")
		for range 4 {
			before := n.Connections()
			n.DropConnections()
			s.eventually(10*time.Second, "a new connection to "+node, func() bool { return n.Connections() > before })
		}
	}
	o.done(60 * time.Second)
	s.upgraded(1, "a", "b")
	require.Empty(t, s.repeated())
	f.end(wentOn)
}

func TestFault_NetworkSilentForLongerThanTheKeepalive_GoesOn(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"upgrade", "gates", "cluster gates"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, plain("a", "b"), slow(time.Second))
			s.inventory("    gates: {times: 3, interval: 2s, timeout: 60s}\n    timeouts: {" + patient + "}\n")
			s.connectWithin("3s")
			s.worker("")
			o := s.start()
			silent := s.cluster.Node("a")
			f := s.fault("%s", "network silent for longer than the keepalive, in "+where)
			switch where {
			case "upgrade":
				s.unpacking("a")
				silent.Silence(true)
				o.waits("a", "connection lost")
			case "gates":
				o.at("a", operation.StepGates)
				silent.Silence(true)
				o.waits("a", "ssh: unreachable")
			case "cluster gates":
				s.unpacking("a")
				silent = s.cluster.Node("b")
				silent.Silence(true)
				o.waits(operation.ClusterNode, "ssh: unreachable")
				require.Empty(t, silent.Commands())
			}
			silent.Silence(false)
			r := o.done(60 * time.Second)
			require.Empty(t, r.Answers, "nobody was asked")
			s.upgraded(1, "a", "b")
			require.Empty(t, s.repeated())
			f.end(wentOn)
		})
	}
}

func TestFault_NodeNeverReturns_ParksAndDoesWhatIsDecided(t *testing.T) {
	t.Parallel()
	type world struct {
		*site
		*op
		question operation.Question
	}
	for name, c := range map[string]struct {
		then func(t *testing.T, w world)
		code int
	}{
		"retry after it was switched on": {code: 0, then: func(t *testing.T, w world) {
			w.site.cluster.Node("a").PowerOn()
			w.decide(w.question, operation.Retry)
			w.done(60 * time.Second)
			w.site.upgraded(1, "a", "b", "c")
		}},
		"retry too early, then again": {code: 0, then: func(t *testing.T, w world) {
			w.decide(w.question, operation.Retry)
			w.until(30*time.Second, "the second question", func(r operation.Report) bool { return len(r.Questions) == 1 && r.Questions[0].Try == 2 })
			q := w.op.question(time.Second)
			asks(t, q, "a", operation.StepReboot, 2, operation.ErrUnreachable)
			w.site.cluster.Node("a").PowerOn()
			w.decide(q, operation.Retry)
			w.done(60 * time.Second)
			w.site.upgraded(1, "a", "b", "c")
		}},
		"skip and go on degraded": {code: 3, then: func(t *testing.T, w world) {
			w.decide(w.question, operation.Skip)
			q := w.outOfService(t)
			w.decide(q, operation.Degraded)
			r, err := w.end(60 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseFailed, r.Phase)
			require.Equal(t, operation.NodeSkipped, nodeOf(t, r, "a").Status)
			require.True(t, nodeOf(t, r, "a").OutOfService)
			require.Equal(t, []string{"a"}, r.LeftOut)
			w.site.upgraded(1, "b", "c")
		}},
		"skip and wait until it is back": {code: 3, then: func(t *testing.T, w world) {
			w.decide(w.question, operation.Skip)
			q := w.outOfService(t)
			w.site.cluster.Node("a").PowerOn()
			w.decide(q, operation.Wait)
			r, err := w.end(60 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.NodeSkipped, nodeOf(t, r, "a").Status)
			require.False(t, nodeOf(t, r, "a").OutOfService)
			require.Empty(t, r.LeftOut)
			w.site.upgraded(1, "b", "c")
			require.Equal(t, 1, w.site.cluster.MaxOutOfService())
		}},
		"skip and abort": {code: 4, then: func(t *testing.T, w world) {
			w.decide(w.question, operation.Skip)
			w.decide(w.outOfService(t), operation.Abort)
			r, err := w.end(60 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseAborted, r.Phase)
			require.Empty(t, w.site.cluster.Node("b").Commands())
		}},
		"abort": {code: 4, then: func(t *testing.T, w world) {
			w.decide(w.question, operation.Abort)
			r, err := w.end(60 * time.Second)
			require.Error(t, err)
			require.Equal(t, operation.PhaseAborted, r.Phase)
			require.Equal(t, operation.NodeFailed, nodeOf(t, r, "a").Status)
			require.Equal(t, operation.NodeUntouched, nodeOf(t, r, "b").Status)
			require.Empty(t, w.site.cluster.Node("b").Commands())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.code == 4 || name == "retry too early, then again" {
				onlySimulated(t, "the node sees nothing of these answers that it does not see of the others")
			}
			s := newSite(t, nil, nil, plain("a", "b", "c"))
			s.limits("unreachable_after: " + in("5s", "20s") + ", boot: " + bootLimit().String() + ", upgrade: 2m, apt_lock: 30s")
			s.worker("")
			s.cluster.Node("a").NeverReturn(true)
			f := s.fault("%s", "node does not return from its reboot; "+name)
			o := s.start("--batch", "1")
			q := o.question(30 * time.Second)
			asks(t, q, "a", operation.StepReboot, 1, operation.ErrNotReturned)
			o.parked(true)
			r, err := o.report()
			require.NoError(t, err)
			require.Equal(t, operation.PhaseBlocked, r.Phase)
			show := s.cli(0, "op", "show", o.id).Stdout
			require.Contains(t, show, "katoflow op decide "+o.id+" --node a --step reboot --try 1 retry")
			require.Contains(t, show, "did not come back within "+bootLimit().String()+" of its reboot")
			require.Empty(t, s.cluster.Node("b").Commands(), "the next node waits for the answer")

			c.then(t, world{s, o, q})
			s.cli(c.code, "op", "watch", o.id)
			require.Equal(t, 1, s.ran("a", "reboot"), "a retry waits again, it does not reboot again")
			require.Empty(t, s.repeated())
			f.end(parkedFor("reboot (NotReturned)", name))
		})
	}
}

// outOfService waits for the question that follows a skip of a node that is down.
func (o *op) outOfService(t *testing.T) operation.Question {
	t.Helper()
	var q operation.Question
	o.until(30*time.Second, "the out-of-service question", func(r operation.Report) bool {
		for _, open := range r.Questions {
			if open.Step == operation.StepOutOfService {
				q = open
			}
		}
		return q.Step != ""
	})
	asks(t, q, "a", operation.StepOutOfService, 1, operation.ErrOutOfService)
	require.Equal(t, []operation.Decision{operation.Wait, operation.Degraded, operation.Abort}, q.Choices)
	require.Empty(t, o.cluster.Node("b").Commands(), "the batch is full")
	require.Equal(t, 1, o.cluster.MaxOutOfService())
	return q
}

func TestFault_HostKeyChangedBeforeItsTurn_AsksAndRunsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.limits(patient)
	s.worker("")
	n := s.cluster.Node("a")
	release := n.HoldAptLock(0) // the node's turn has come and nothing has run yet
	o := s.start()
	o.waits("a", "waiting for apt")
	f := s.fault("host key changed before the first command")
	n.ChangeHostKey()
	n.DropConnections()
	q := o.question(20 * time.Second)
	asks(t, q, "a", operation.StepUpgrade, 1, operation.ErrSSHHostKey)
	require.Contains(t, q.Cause.Message, "a: ")
	require.Empty(t, n.Commands())
	release()
	n.RestoreHostKey()
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	s.upgraded(1, "a")
	require.Empty(t, s.repeated())
	f.end(parkedFor("upgrade (SSHHostKey), nothing run", "retried"))
}

func TestFault_HostKeyOfALaterNodeChanged_TheGatesSaySoBeforeItIsTouched(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(500*time.Millisecond))
	s.limits(patient)
	s.worker("")
	o := s.start()
	s.unpacking("a")
	b := s.cluster.Node("b")
	f := s.fault("host key of a later node changed")
	b.ChangeHostKey()
	b.DropConnections()
	q := o.question(30 * time.Second)
	asks(t, q, operation.ClusterNode, operation.StepClusterGates, 1, operation.ErrGates)
	require.Contains(t, q.Cause.Message, "b: ssh: host key not accepted")
	require.Empty(t, b.Commands())
	b.RestoreHostKey()
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	s.upgraded(1, "a", "b")
	f.end(parkedFor("the gates of the cluster, that node untouched", "retried"))
}

func TestFault_HostKeyChangedByTheReboot_Asks(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(500*time.Millisecond))
	s.limits(patient)
	s.worker("")
	o := s.start()
	s.unpacking("a")
	f := s.fault("host key changed while the node reboots")
	s.cluster.Node("a").ChangeHostKey() // the open connection lives on until the reboot
	q := o.question(30 * time.Second)
	asks(t, q, "a", operation.StepReboot, 1, operation.ErrSSHHostKey)
	s.cluster.Node("a").RestoreHostKey()
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	s.upgraded(1, "a")
	require.Empty(t, s.repeated())
	f.end(parkedFor("reboot (SSHHostKey)", "retried"))
}

func TestFault_AptLockHeld_IsWaitedForAndSaid(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.worker("")
	release := s.cluster.Node("a").HoldAptLock(0)
	o := s.start()
	o.waits("a", "waiting for apt: held by")
	require.Empty(t, s.cluster.Node("a").Commands())
	release()
	r := o.done(30 * time.Second)
	require.Contains(t, strings.Join(nodeOf(t, r, "a").Notes, "\n"), "waited")
	require.Contains(t, strings.Join(nodeOf(t, r, "a").Notes, "\n"), "for apt: held by pid")
	require.Contains(t, strings.Join(r.Warnings, "\n"), "a: apt is in use by pid")
	s.upgraded(1, "a")
}

func TestFault_AptLockHeldTooLong_AsksNamingTheHolder(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.limits("unreachable_after: 20s, boot: 20s, upgrade: 2m, apt_lock: 3s")
	s.worker("")
	n := s.cluster.Node("a")
	release := n.HoldAptLock(0)
	f := s.fault("apt locked by another process for longer than apt_lock")
	o := s.start()
	q := o.question(30 * time.Second)
	asks(t, q, "a", operation.StepUpgrade, 1, operation.ErrAptLocked)
	require.Regexp(t, `held for 3s, now by pid [0-9]+ \(apt\.systemd\.dai`, q.Cause.Message)
	require.Empty(t, n.Commands())
	release()
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	s.upgraded(1, "a")
	require.Equal(t, 1, s.ran("a", "unattended-upgrades"))
	f.end(parkedFor("upgrade (AptLocked), naming the holder", "retried"))
}

func TestFault_DiskFullBeforeTheJob_AsksWithNothingStarted(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.worker("")
	n := s.cluster.Node("a")
	release := n.HoldAptLock(0)
	o := s.start()
	o.waits("a", "waiting for apt")
	f := s.fault("/ full before the job")
	n.FillDisk(true)
	release()
	q := o.question(30 * time.Second)
	asks(t, q, "a", operation.StepUpgrade, 1, operation.ErrDiskFull)
	require.Empty(t, n.Commands())
	n.FillDisk(false)
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	s.upgraded(1, "a")
	require.Empty(t, s.repeated())
	f.end(parkedFor("upgrade (DiskFull), nothing started", "retried with space"))
}

func TestFault_DiskFullInThePreflight_IsAProblemAndNothingIsTouched(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	f := s.fault("/ full in the preflight")
	s.cluster.Node("b").FillDisk(true)
	out := s.cli(7, "upgrade", "security", s.cluster.Name())
	require.Contains(t, out.Stderr, "b: 0 MB free in /, at least 500 MB are needed: free some space")
	require.Empty(t, s.cluster.Commands())
	f.end(refused)
}

func TestFault_UpgradeCommandFails_RetryStartsExactlyOneMore(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.worker("")
	s.cluster.Node("a").FailCommand("unattended-upgrades", 1, 7, "E: the archive is on fire")
	f := s.fault("unattended-upgrades ends with an error")
	o := s.start()
	q := o.question(30 * time.Second)
	asks(t, q, "a", operation.StepUpgrade, 1, operation.ErrRemoteExit)
	require.Contains(t, q.Cause.Message, "ended with exit code 7: E: the archive is on fire")
	require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "| E: the archive is on fire")
	require.Equal(t, 1, s.ran("a", "unattended-upgrades"))
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	require.Equal(t, 2, s.ran("a", "unattended-upgrades"))
	s.upgraded(1, "a")
	require.Empty(t, s.repeated())
	f.end(parkedFor("upgrade (RemoteExit)", "the retry ran it once more"))
}

func TestFault_UpgradeEndsWellAndDidNothing_IsNotBelieved(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.worker("")
	s.cluster.Node("a").FailCommand("unattended-upgrades", 1, 0, "")
	f := s.fault("unattended-upgrades ends well and did nothing")
	o := s.start()
	q := o.question(30 * time.Second)
	asks(t, q, "a", operation.StepRecord, 1, operation.ErrVerify)
	require.Contains(t, q.Cause.Message, "changed nothing")
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	require.Equal(t, 2, s.ran("a", "unattended-upgrades"), "the retry upgrades again")
	s.upgraded(2, "a")
	require.Empty(t, s.repeated())
	f.end(parkedFor("record (Verify)", "the retry upgraded and rebooted"))
}

func TestFault_RebootedBySomethingElseInMidUpgrade_RepairedUpgradedAgainAndRebootedByUs(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(1500*time.Millisecond))
	s.worker("")
	o := s.start()
	s.unpacking("a")
	n := s.cluster.Node("a")
	f := s.fault("node reset by something else in the middle of apt")
	n.RebootNow()
	r := o.done(60 * time.Second)
	s.upgraded(2, "a")
	var ran []string
	for _, e := range n.Commands() {
		ran = append(ran, e.Command())
	}
	require.Equal(t, []string{"apt-get update", "unattended-upgrades -d", "dpkg --configure -a", "apt-get update", "unattended-upgrades -d", "reboot"}, ran)
	report := nodeOf(t, r, "a")
	require.Contains(t, strings.Join(report.Notes, "\n"), "the upgrade was interrupted: repaired with dpkg --configure -a")
	require.Equal(t, n.BootID(), report.Proof.BootIDAfter)
	require.Empty(t, s.repeated())
	f.end(wentOn + ": repaired, upgraded again, rebooted by us")
}

func TestFault_RebootDoesNothing_IsNotBelieved(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.limits("unreachable_after: 20s, boot: " + bootLimit().String() + ", upgrade: 2m, apt_lock: 30s")
	s.worker("")
	n := s.cluster.Node("a")
	n.RebootDoesNothing(true)
	f := s.fault("reboot says it is done and does nothing")
	o := s.start()
	q := o.question(30 * time.Second)
	asks(t, q, "a", operation.StepReboot, 1, operation.ErrNotReturned)
	require.Contains(t, q.Cause.Message, "the boot id is still the same")
	require.Empty(t, s.cluster.Node("b").Commands())
	n.RebootDoesNothing(false)
	n.RebootNow() // the operator, by hand
	o.decide(q, operation.Retry)
	o.done(30 * time.Second)
	s.upgraded(1, "a", "b")
	require.Equal(t, 1, s.ran("a", "reboot"))
	f.end(parkedFor("reboot (NotReturned)", "retried after a reboot by hand"))
}

func TestFault_OldKernelAfterTheReboot_FailsTheBootProof(t *testing.T) {
	onlySimulated(t, "a container has no kernel of its own")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	n := s.simulated("a")
	n.KernelNotUpdated(true)
	o := s.start()
	q := o.question(30 * time.Second)
	asks(t, q, "a", operation.StepProof, 1, operation.ErrBootProof)
	require.Contains(t, q.Cause.Message, simcluster.DefaultKernel)
	require.Contains(t, q.Cause.Message, simcluster.DefaultNewKernel)
	require.Empty(t, s.cluster.Node("b").Commands())
	n.KernelNotUpdated(false)
	boots := n.Boots()
	n.RebootNow()
	s.eventually(10*time.Second, "the node to be back", func() bool { return n.Boots() > boots && n.Running() })
	o.decide(q, operation.Retry)
	r := o.done(30 * time.Second)
	require.Contains(t, nodeOf(t, r, "a").Proof.Kernel, simcluster.DefaultNewKernel)
}

func TestFault_SecondOperationAtOnce_IsBusyAndTouchesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	release := s.cluster.Node("b").HoldAptLock(0)
	first := s.start()
	first.waits("b", "waiting for apt")
	out := s.cli(6, "upgrade", "security", s.cluster.Name(), "--id", first.id+"-second")
	require.Contains(t, out.Stderr, first.workflow+" is running on it")
	require.Len(t, strings.Split(strings.TrimSpace(out.Stderr), "\n"), 1, out.Stderr)
	third := s.start("--wait=2m", "--reboot", "never")
	third.until(20*time.Second, "the third to queue", func(r operation.Report) bool { return strings.Contains(r.Message, "held by "+first.workflow) })
	release()
	ended := first.done(60 * time.Second)
	third.done(60 * time.Second)
	s.upgraded(1, "a", "b")
	closed, err := time.Parse(time.RFC3339, ended.EndedAt)
	require.NoError(t, err)
	require.Empty(t, s.repeated())
	by := map[string]int{}
	for _, e := range s.cluster.Commands() {
		for _, o := range []*op{first, third} {
			if strings.HasPrefix(e.Job, remote.EncodeID(o.id)+"-z") {
				by[o.id]++
				if o == third {
					require.False(t, e.Start.Before(closed), "%s ran before the first operation had ended", e.Command())
				}
			}
		}
		require.NotContains(t, e.Job, "second")
	}
	require.Equal(t, map[string]int{first.id: 6, third.id: 4}, by)
}
