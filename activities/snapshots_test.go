package activities

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/operation"
)

// silent is a provider that is asked and does not answer.
type silent struct{ hypervisor.Provider }

func (silent) Find(ctx context.Context, _ hypervisor.VM, _ string) (hypervisor.Snapshot, bool, error) {
	<-ctx.Done()
	return hypervisor.Snapshot{}, false, ctx.Err()
}

func TestSnapshots_LostAnswer_IsLookedForNoLongerThanItMay(t *testing.T) {
	x, node := &Snapshots{}, &taking{vm: hypervisor.VM{Node: "a"}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		x.lookFor(t.Context(), silent{}, node, "name", 50*time.Millisecond, false, &hypervisor.UnknownError{Err: errors.New("a: the answer is lost")})
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it is looked for yet, and the cluster stands still")
	}
	require.NotNil(t, node.out.Failure)
	require.Equal(t, operation.ErrSnapshot, node.out.Failure.Type)
	require.Contains(t, node.out.Failure.Message, "a: the answer is lost")
}
