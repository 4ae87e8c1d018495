package activities

import (
	"context"
	"strings"
	"testing"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// onNode runs a script on a node as its login user, in the state folder, and returns what it printed.
func (b *bench) onNode(node, script string) string {
	b.t.Helper()
	out, err := b.pool.Run(context.Background(), b.host(node), remote.Command{Script: `cd "$HOME/.local/state/katoflow" || exit; ` + script, AnyExit: true})
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(out.Stdout))
}

// A start that waits on the node outlives its attempt. What settle says of it must stay true.
func TestSettle_StartStillWaitsOnTheNode_IsForbiddenOrFollowed(t *testing.T) {
	for _, c := range []struct {
		step, command string
		run           func(t *testing.T, b *bench, settle bool, o attemptOptions) (started bool, err error)
	}{
		{"repair", "dpkg --configure", func(t *testing.T, b *bench, settle bool, o attemptOptions) (bool, error) {
			in := b.input("plain-1")
			in.Settle = settle
			out, err := run(t, b.nodes.Repair, in, o)
			return out.Started, err
		}},
		{"reboot", rebootCommandName, func(t *testing.T, b *bench, settle bool, o attemptOptions) (bool, error) {
			in := b.rebootInput("plain-1")
			in.Settle = settle
			out, err := run(t, b.nodes.Reboot, in, o)
			return out.Started, err
		}},
	} {
		t.Run(c.step, func(t *testing.T) {
			b := start(t, simcluster.Config{}, "")
			must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{}))
			// Somebody else holds the lease's lock until the file is gone.
			b.onNode("plain-1", `: >held; (flock 9; while [ -e held ]; do sleep 0.05; done) 9>>lease.lock </dev/null >/dev/null 2>&1 &`)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = c.run(t, b, false, attemptOptions{ctx: ctx})
			}()
			until(t, "the start waits", func() bool { return b.onNode("plain-1", `cat tmp/*/script 2>/dev/null`) != "" })
			cancel() // as with a killed worker
			<-ended
			var started bool
			var err error
			settled := make(chan struct{})
			go func() {
				defer close(settled)
				started, err = c.run(t, b, true, attemptOptions{})
			}()
			b.onNode("plain-1", `rm held`)
			<-settled
			if err != nil {
				t.Fatal(operation.FailureOf(err))
			}
			status, err := b.jobs.Status(context.Background(), b.host("plain-1"), jobID(b.op, "plain-1", c.step, 1))
			if err != nil || status.State == remote.JobAbsent || started == status.NeverStarted {
				t.Errorf("settle says started=%v, the node %+v %v", started, status, err)
			}
			if ran := b.ran("plain-1", c.command); started != (ran == 1) {
				t.Errorf("settle says started=%v, and it ran %d times", started, ran)
			}
		})
	}
}
