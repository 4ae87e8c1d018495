package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
)

// watch follows the operation with the CLI until the test ends.
func (o *op) watch() *harness.Process {
	o.t.Helper()
	binary, err := harness.Binary("katoflow")
	require.NoError(o.t, err)
	p, err := harness.StartProcess("katoflow op watch", filepath.Join(o.Dir, "watch.log"), []string{"TEMPORAL_ADDRESS=" + o.Temporal.Address, "TERM=dumb"}, binary, "op", "watch", o.workflow)
	require.NoError(o.t, err)
	o.t.Cleanup(p.Kill)
	return p
}

func TestTemporalKilled_InMidUpgradeDuringARebootAndWhileParked_GoesOn(t *testing.T) {
	t.Parallel()
	server, err := harness.StartTemporal(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { server.Kill() })
	c, err := server.Client()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := newSite(t, server, c, plain("a", "b", "c"), slow(2*time.Second))
	s.cluster.Node("b").SlowBoot(3 * time.Second)
	s.cluster.Node("c").FailCommand("unattended-upgrades", 1, 1, "E: it is broken")
	w := s.worker("")
	o := s.start()
	watch := o.watch()

	// outage kills the server, lets something happen meanwhile, and starts it again on the same data.
	var told int64
	size := func() int64 {
		b, err := os.ReadFile(watch.Log)
		require.NoError(t, err)
		return int64(len(b))
	}
	outage := func(meanwhile string, happened func() bool) {
		server.Kill()
		require.NoError(t, waitFor(30*time.Second, "the watch to say that the server is away", func() (bool, error) { return watch.Contains("retrying", told), nil }))
		require.NoError(t, waitFor(30*time.Second, meanwhile, func() (bool, error) { return happened(), nil }))
		told = size()
		require.NoError(t, server.Start())
		require.NoError(t, waitFor(60*time.Second, "the watch to go on", func() (bool, error) { return watch.Contains("back again", told), nil }))
		told = size()
	}

	f := s.fault("Temporal killed in mid-upgrade, during a reboot and while parked")
	s.runs("a", "unattended-upgrades")
	outage("the upgrade to end on the node", func() bool { return s.ended("a", "unattended-upgrades") })

	require.NoError(t, waitFor(60*time.Second, "b to be down", func() (bool, error) { return !s.cluster.Node("b").Running(), nil }))
	outage("b to be back", func() bool { return s.cluster.Node("b").Running() })

	q := o.question(60 * time.Second)
	outage("nothing", func() bool { return true })
	require.Equal(t, q, o.question(60*time.Second), "the question is still the same")
	o.decide(q, operation.Retry)

	o.done(60 * time.Second)
	s.upgraded(1, "a", "b", "c")
	require.Empty(t, s.repeated())
	for node, runs := range map[string]int{"a": 1, "b": 1, "c": 2} {
		require.Equal(t, runs, s.ran(node, "unattended-upgrades"), node)
	}
	require.Equal(t, 1, s.cluster.MaxOutOfService(), "one node at a time")
	select {
	case <-watch.Ended():
	case <-time.After(20 * time.Second):
		t.Error("the watch did not end with the operation")
	}
	said, _ := os.ReadFile(watch.Log)
	t.Log(string(said))
	require.Contains(t, string(said), "3 of 3 nodes done")
	select {
	case <-w.Ended():
		t.Error("the worker did not outlive the outages")
	default:
	}
	f.end(wentOn)
}

// ended reports whether a program has run on a node and does no more.
func (s *site) ended(node, program string) bool {
	ran := false
	for _, e := range s.cluster.Node(node).Commands() {
		if e.Argv[0] == program {
			if e.End.IsZero() {
				return false
			}
			ran = true
		}
	}
	return ran
}
