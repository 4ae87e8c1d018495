package e2e

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// elsewhere is the same cluster and inventory behind another task queue, so that two workers do not share their work.
func (s *site) elsewhere() *site {
	other := *s
	other.Site = &harness.Site{Dir: s.t.TempDir(), Temporal: s.Temporal, Queue: s.Queue + "-b", Inventory: s.Inventory}
	s.t.Cleanup(other.Close)
	return &other
}

func (o *op) terminate() { o.t.Helper(); o.kill(o.workflow) }

// endLock ends the cluster's lock as somebody might do in the Web UI.
func (o *op) endLock() { o.t.Helper(); o.kill(operation.LockWorkflowID(o.cluster.Name())) }

func (o *op) kill(workflowID string) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(o.t, o.client.TerminateWorkflow(ctx, workflowID, "", "end-to-end test"))
}

// startedAfter lists the operation's commands that began after a moment.
func (o *op) startedAfter(moment time.Time) []string {
	var out []string
	for _, e := range o.cluster.Commands() {
		if strings.HasPrefix(e.Job, remote.EncodeID(o.id)+"-z") && e.Start.After(moment) {
			out = append(out, e.Node+" "+e.Command())
		}
	}
	return out
}

func TestFence_WorkerCutOffBeforeItStartsAJob_StartsNothingOnceSuperseded(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(200*time.Millisecond))
	proxy, err := harness.StartProxy(s.Temporal.Address)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	release := s.cluster.Node("a").HoldAptLock(0)
	first := s.worker(proxy.Address)
	one := s.start()
	one.waits("a", "waiting for apt")

	// The worker is parted from Temporal and stands still just before it starts a job: it knows nothing of what follows.
	proxy.Cut()
	require.NoError(t, first.Freeze())
	defer first.Signal(syscall.SIGCONT)
	one.terminate()
	other := s.elsewhere()
	other.worker("")
	two := other.start()
	superseded := time.Now()
	require.Empty(t, one.startedAfter(superseded))
	release()
	first.Signal(syscall.SIGCONT)
	// It tries, and is refused; or it has noticed first that Temporal does not hear it, and leaves the work.
	require.NoError(t, waitFor(60*time.Second, "the first worker to give up", func() (bool, error) {
		return first.Contains("this one is superseded", 0) || first.Contains("activity left", 0), nil
	}))

	two.done(60 * time.Second)
	select {
	case <-first.Ended():
		t.Error("the first worker did not live through all of it")
	default:
	}
	require.Empty(t, one.startedAfter(superseded), "the superseded operation started nothing")
	require.Empty(t, s.repeated())
	require.Equal(t, 1, s.ran("a", "unattended-upgrades"))
	s.upgraded(1, "a", "b")
}

func TestFence_LockEndedByHandBeforeAJobIsStarted_IsRefusedByTheNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(200*time.Millisecond))
	release := s.cluster.Node("a").HoldAptLock(0)
	s.worker("")
	one := s.start()
	one.waits("a", "waiting for apt")
	one.endLock()
	other := s.elsewhere()
	other.worker("")
	two := other.start()
	superseded := time.Now()
	release()
	q := one.question(60 * time.Second)
	require.Equal(t, operation.ErrFenced, q.Cause.Type, q.Cause.Message)
	require.Contains(t, q.Cause.Message, two.id)
	two.done(60 * time.Second)
	one.decide(q, operation.Abort)
	r, err := one.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseAborted, r.Phase)
	require.Empty(t, one.startedAfter(superseded), "the superseded operation started nothing")
	require.Empty(t, s.repeated())
	s.upgraded(1, "a", "b")
}

func TestFence_LockEndedByHandWhilePaused_TheSecondOperationHasTheCluster(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(200*time.Millisecond))
	release := s.cluster.Node("a").HoldAptLock(0)
	s.worker("")
	one := s.start()
	one.waits("a", "waiting for apt")
	s.cli(0, "op", "pause", one.id)
	release()
	one.until(30*time.Second, "the first node", func(r operation.Report) bool { return r.Counts()[operation.NodeDone] == 1 && r.Paused })
	one.endLock()

	two := s.start()
	superseded := time.Now()
	s.cli(0, "op", "resume", one.id)
	r, err := one.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseFailed, r.Phase)
	require.Equal(t, operation.ErrClusterBusy, r.Failure.Type)
	require.Contains(t, r.Failure.Message, two.workflow)
	two.done(60 * time.Second)
	require.Empty(t, one.startedAfter(superseded))
	require.Empty(t, s.repeated())
	s.upgraded(2, "a") // by each of the two
	s.upgraded(1, "b")
}

func TestFence_LockEndedByHand_IsTakenAgainBeforeTheNextNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(time.Second))
	s.worker("")
	o := s.start()
	s.runs("a", "unattended-upgrades")
	token := s.leaseToken("b")
	o.endLock()
	s.runs("b", "unattended-upgrades")
	require.True(t, s.isOpen(operation.LockWorkflowID(s.cluster.Name())))
	require.Greater(t, s.leaseToken("b"), token)
	r := o.done(60 * time.Second)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "had been lost and was taken again")
	s.upgraded(1, "a", "b")
	require.Empty(t, s.repeated())
}

func TestFence_JobOfATerminatedOperationStillRuns_IsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(4*time.Second))
	s.inventory(strings.Replace(quickGates, "unreachable_after: 20s", "unreachable_after: 60s", 1)) // so long the job is waited for
	s.worker("")
	one := s.start()
	s.runs("a", "unattended-upgrades")
	one.terminate()
	two := s.start()
	two.done(60 * time.Second)
	var ended, began time.Time
	for _, e := range s.cluster.Node("a").Commands() {
		switch {
		case strings.HasPrefix(e.Job, remote.EncodeID(one.id)+"-z") && e.End.After(ended):
			ended = e.End
		case strings.HasPrefix(e.Job, remote.EncodeID(two.id)+"-z") && (began.IsZero() || e.Start.Before(began)):
			began = e.Start
		}
	}
	require.False(t, began.Before(ended), "the second operation began at %s, the first one's job ended at %s", began, ended)
	require.Empty(t, s.repeated())
	s.upgraded(1, "a", "b")
}

func TestFence_JobOfATerminatedOperationRunsOnAndOn_IsNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(15*time.Second))
	s.inventory(strings.Replace(quickGates, "unreachable_after: 20s", "unreachable_after: 3s", 1))
	s.worker("")
	one := s.start()
	s.runs("a", "unattended-upgrades")
	one.terminate()
	out, err := s.Katoflow(time.Minute, "upgrade", "security", s.cluster.Name(), "--detach")
	require.NoError(t, err)
	require.NotZero(t, out.Code)
	require.Contains(t, out.Stderr, "job upgrade of operation "+one.id+" still runs")
	require.Zero(t, s.ran("b", "apt-get"), "nothing was touched")
	require.NoError(t, waitFor(60*time.Second, "the job to end", func() (bool, error) { return s.ended("a", "unattended-upgrades"), nil }))
	require.Zero(t, s.ran("a", "reboot"))
}
