package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	// freezeAgain is the time between two tries to freeze while another freeze is at work on some node.
	freezeAgain = 5 * time.Second
	// thawWithin is how long a node may take to thaw, and to say so, beyond the deadline of the freeze.
	thawWithin = 30 * time.Second
)

// freezable names what forbids to freeze the file systems of nodes.
func (x *Snapshots) freezable(ctx context.Context, s site, nodes []string) []string {
	found := make([][]string, len(nodes))
	each(len(nodes), func(i int) {
		t, err := s.target(nodes[i])
		var wrong []string
		if err == nil {
			mounts := s.cluster.FrozenOf(t.node)
			if len(mounts) == 0 {
				wrong = []string{"the inventory names none of its mount points to freeze: write hypervisor.freeze.mounts, or freeze at the node"}
			} else {
				wrong, err = x.Freezer.CheckFreeze(ctx, t.host, mounts)
			}
		}
		for _, w := range wrong {
			found[i] = append(found[i], oneLine(nodes[i]+": "+w, 500))
		}
		if err != nil {
			found[i] = append(found[i], oneLine(failureOf(err).Message+" (whether its file systems can be frozen is not known)", 500))
		}
	})
	return slices.Concat(found...)
}

// freeze freezes the file systems of all nodes. Where a node still has another freeze, as one of an attempt whose worker was killed, all are let go and it is tried again until that one must be
// over. When one cannot be frozen the round is void. It returns when the round must be over: the nodes thaw by themselves then.
func (x *Snapshots) freeze(a *attempt, s site, all []*taking, in TakeSnapshotsInput) (limit time.Time) {
	deadline := s.cluster.FreezeDeadline()
	// A node whose file systems an earlier attempt left frozen answers when they thaw: that is waited for before anything is frozen.
	together(all, func(t *taking) { t.failed(x.leaseOf(a.ctx, s, t, in.Operation)) })
	if failedAny(all) {
		return limit
	}
	for began, n := time.Now(), 1; ; n++ {
		a.phase("freezing file systems")
		limit = time.Now().Add(min(deadline, in.Deadline.D()))
		last := time.Since(began) > deadline+thawWithin
		// No two attempts begin at the same time, not after a reset of the workflow or the activity either.
		id := fmt.Sprintf("%s-r%d-%s-%d", in.Operation.ID, in.Round, strconv.FormatInt(activity.GetInfo(a.ctx).StartedTime.UnixMilli(), 36), n)
		var busy atomic.Bool
		together(all, func(t *taking) {
			err := x.freezeOne(a.ctx, s, t, remote.FreezeSpec{ID: id, Deadline: deadline})
			if other := (*remote.Error)(nil); errors.As(err, &other) && other.Kind == remote.KindBusy && !last {
				busy.Store(true)
				return
			}
			t.failed(err)
		})
		if !busy.Load() || failedAny(all) || a.ctx.Err() != nil {
			return limit
		}
		x.thaw(a, s, all, in)
		if failedAny(all) || !a.pause(freezeAgain) {
			return limit
		}
	}
}

// failed takes down an error that names the node itself; nil is none.
func (t *taking) failed(err error) {
	if err != nil {
		f := failureOf(err)
		t.fail(f.Type, "%s", f.Message)
	}
}

// leaseOf takes the lease of a node, so that a superseded operation freezes nothing.
func (x *Snapshots) leaseOf(ctx context.Context, s site, t *taking, op Operation) error {
	on, err := s.target(t.vm.Node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cluster.FreezeDeadline()+answersWithin)
	defer cancel()
	_, err = x.Jobs.TakeLease(ctx, on.host, lease(op))
	return err
}

// freezeOne freezes one node.
func (x *Snapshots) freezeOne(ctx context.Context, s site, t *taking, spec remote.FreezeSpec) error {
	on, err := s.target(t.vm.Node)
	if err != nil {
		return err
	}
	spec.Mounts, t.freezeID, t.froze = s.cluster.FrozenOf(on.node), spec.ID, time.Now()
	t.held, err = x.Freezer.Freeze(ctx, on.host, spec)
	t.out.PreparedAt = time.Now().UnixNano()
	var told *remote.Error
	t.unsure = err != nil && (!errors.As(err, &told) || told.Kind == remote.KindTransport)
	return err
}

// thaw thaws what is frozen, on all nodes at once, and takes down when that was. It does not return before each node has said that nothing of it is frozen, or the time for that is over; an attempt
// that ends waits a moment only, for nodes that thaw because their connections end.
//
// No clock but the worker's is needed: what a node has said to be frozen before the first request, and was frozen when it was told to thaw after the last answer, was so in between.
func (x *Snapshots) thaw(a *attempt, s site, all []*taking, in TakeSnapshotsInput) {
	a.phase("thawing file systems")
	ctx := a.ctx
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
	}
	together(all, func(t *taking) {
		if t.held == nil && !t.unsure {
			return
		}
		t.out.ResumedAt = time.Now().UnixNano()
		end, err := x.thawOne(ctx, s, t, in.UnreachableAfter.D())
		held := t.held != nil
		t.held, t.unsure = nil, false
		if err != nil && failureOf(err).Type == operation.ErrFrozen {
			t.out.Failure = nil // this is worse than anything else
		}
		t.failed(err)
		if held && err == nil && end.By != remote.FreezeThawed {
			t.fail(operation.ErrSnapshot, "%s: its file systems did not stay frozen: %s", t.vm.Node, thawedBy(end.By))
		}
		if !end.FrozenAt.IsZero() && !end.ThawedAt.IsZero() {
			t.out.Frozen = operation.Duration(end.ThawedAt.Sub(end.FrozenAt))
		}
	})
	for _, t := range all {
		if t.givenUp && !failedAny(all) {
			t.fail(operation.ErrSnapshot, "%s: its snapshot was given up, because file systems had thawed", t.vm.Node)
		}
	}
}

// thawedBy says what has ended a freeze other than its thaw.
func thawedBy(by remote.FreezeEndBy) string {
	switch by {
	case remote.FreezeGone:
		return "the connection to the node ended"
	case remote.FreezeDeadline:
		return "the deadline of the freeze was over (hypervisor.freeze.deadline)"
	case remote.FreezeLost:
		return "somebody else has thawed them"
	case remote.FreezeKilled:
		return "a process of katoflow-freeze was killed there"
	}
	return "katoflow-freeze says " + oneLine(string(by), 20)
}

// thawOne returns how the freeze ended. Where the connection is gone, and with it the word of the end, the node thaws by itself and remembers when.
func (x *Snapshots) thawOne(ctx context.Context, s site, t *taking, unreachableAfter time.Duration) (end remote.FreezeEnd, err error) {
	limit := s.cluster.FreezeDeadline() + thawWithin
	if t.held != nil {
		within, cancel := context.WithTimeout(ctx, limit)
		end, err = t.held.Thaw(within)
		cancel()
		if err == nil || ctx.Err() != nil {
			return end, err
		}
	}
	on, wrong := s.target(t.vm.Node)
	if wrong != nil {
		return end, wrong
	}
	if unreachableAfter <= 0 {
		unreachableAfter = defaultUnreachableAfter
	}
	unknown := func(why string) error {
		return fail(operation.ErrFrozen, t.vm.Node, "%s: file systems may be frozen yet: look, and run there fsfreeze -u %s", why, oneLine(strings.Join(s.cluster.FrozenOf(on.node), " "), 300))
	}
	// A login may have to wait for the thaw.
	for until := time.Now().Add(limit + unreachableAfter); ; {
		within, cancel := context.WithDeadline(ctx, until)
		status, asked := x.Freezer.FreezeState(within, on.host, t.freezeID)
		cancel()
		switch {
		case ctx.Err() != nil:
			return end, err
		case asked == nil && status.Ended:
			return status.FreezeEnd, nil
		case asked == nil && !status.Found && time.Since(t.froze) > s.cluster.FreezeDeadline():
			return end, fail(operation.ErrSnapshot, t.vm.Node, "it does not remember the freeze: it was booted meanwhile")
		case asked == nil && status.Found && !status.Alive:
			return end, unknown("nothing looks after the freeze any more")
		case time.Now().After(until):
			return end, unknown("the node does not say that it has thawed")
		}
		if sleep(ctx, vmPoll) != nil {
			return end, err
		}
	}
}
