package activities

import (
	"context"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	outputKept    = 14 * 24 * time.Hour
	tombstoneKept = 90 * 24 * time.Hour
	fenceWithin   = 5 * time.Second
)

// Fence takes the lease of all nodes named, in parallel, so that no older operation can start anything there. Taking it again changes nothing. A node
// that refuses, or that is not reached within 5 s, is in the result and no error; Optional nodes may be unreachable.
func (n *Nodes) Fence(ctx context.Context, in FenceInput) (FenceResult, error) {
	a := begin(ctx, "take the leases")
	defer a.finish()
	s, err := n.Source.site(in.Operation.Cluster)
	if err != nil {
		return FenceResult{}, err
	}
	names := append(append([]string{}, in.Nodes...), in.Optional...)
	targets, err := s.targets(names)
	if err != nil {
		return FenceResult{}, err
	}
	failures := make([]*operation.Failure, len(names))
	each(len(names), func(i int) {
		began := time.Now()
		for {
			_, err := n.Jobs.TakeLease(a.ctx, targets[i].host, lease(in.Operation))
			if err == nil || a.ctx.Err() != nil {
				return
			}
			if !remote.IsKind(err, remote.KindTransport) || time.Since(began) > fenceWithin {
				f := failureOf(err)
				if f.Type == operation.ErrSSHTransport {
					f.Type = operation.ErrUnreachable
				}
				failures[i] = &f
				return
			}
			if !a.pause(firstPause) {
				return
			}
		}
	})
	if a.ctx.Err() != nil {
		return FenceResult{}, ended(a.ctx)
	}
	var out FenceResult
	for i, f := range failures {
		switch {
		case f == nil:
		case i >= len(in.Nodes) && f.Type == operation.ErrUnreachable:
			out.Unreachable = append(out.Unreachable, names[i])
		default:
			out.Failed = append(out.Failed, NodeFailure{Node: names[i], Failure: *f})
		}
	}
	return out, nil
}

// Probe reaches the node, takes its lease, and reads its boot id and what dpkg has left unfinished. Old outputs of jobs are removed. It changes
// nothing else, and repeating it is harmless. Errors: Unreachable, Fenced, RemoteBusy and what package remote tells of a node.
func (n *Nodes) Probe(ctx context.Context, in NodeInput) (ProbeResult, error) {
	a := begin(ctx, "probe")
	defer a.finish()
	_, t, err := n.where(in.Operation, in.Node.Name)
	if err != nil {
		return ProbeResult{}, err
	}
	var out ProbeResult
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		out.BootID, err = n.Jobs.TakeLease(ctx, t.host, lease(in.Operation))
		return err
	})
	if err != nil {
		return ProbeResult{}, err
	}
	var read answer
	var reading, sweeping sync.WaitGroup
	reading.Go(func() {
		err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
			read, err = ask(ctx, n.Connections, t.host, probeScript)
			return err
		})
	})
	sweeping.Go(func() {
		// Old outputs harm nobody until the next operation; the step does not fail for them.
		if err := n.Jobs.Sweep(a.ctx, t.host, outputKept, tombstoneKept); err != nil && a.ctx.Err() == nil {
			logOf(n.Logger, in.Operation, in.Node.Name, operation.StepProbe).Warn("old job outputs were not removed: " + failureOf(err).Message)
		}
	})
	reading.Wait()
	sweeping.Wait()
	if err != nil {
		return ProbeResult{}, err
	}
	packages, dirty := unfinished(read)
	if len(parseLocks(read.values["lock"])) > 0 {
		// Somebody's run of apt is in the middle of its work: the upgrade waits for its end, and then judges what it has left.
		packages, dirty = nil, false
	}
	if dirty && len(packages) == 0 {
		packages = []string{"dpkg"}
	}
	out.HalfConfigured = packages[:min(len(packages), maxFailures)]
	return out, nil
}
