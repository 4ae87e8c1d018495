package remote

import (
	"context"
	"errors"
	"fmt"
)

// check returns an error when the lease cannot be taken anywhere.
func (l Lease) check() error {
	if l.Token <= 0 {
		return errors.New("lease: the token must be the start time of the lock's run, in nanoseconds")
	}
	if l.Operation == "" || len(l.Operation) > maxIDPart {
		return fmt.Errorf("lease: the operation must have 1 to %d bytes", maxIDPart)
	}
	return nil
}

// TakeLease makes l the node's lease and returns the node's boot id. It creates the state folder. A lease is never released, only
// superseded by one with a higher token; taking the same again changes nothing.
//
// Errors: KindFenced when the node holds a higher token, or the same of another operation (Holder names it); KindBusy when l is
// higher but a job of another operation still runs on the node (Holder), or the lease stayed locked for 10 s; KindDiskFull,
// KindMissingTool, KindTransport.
func (j *Jobs) TakeLease(ctx context.Context, h Host, l Lease) (bootID string, err error) {
	if err := l.check(); err != nil {
		return "", fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	reply, err := j.run(ctx, h, call{
		scripts: []string{"take.sh"}, create: true, what: "take the node's lease",
		args: []string{fmt.Sprint(l.Token), EncodeID(l.Operation), j.text("facts.sh", "lease.sh", "take_locked.sh")},
	})
	return reply.bootID, err
}
