package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestUpgrade_AllWell_EveryNodePatchedRebootedAndProved(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, slow(200*time.Millisecond))
	s.worker("")
	out := s.cli(0, "upgrade", "security", s.cluster.Name(), "--maintenance")
	require.Contains(t, out.Stdout, "5 of 5 nodes done")
	s.upgraded(1, s.names()...)
	require.Empty(t, s.repeated())
	require.Equal(t, 1, s.cluster.MaxOutOfService(), "one node at a time")
	require.False(t, s.cluster.Maintenance(), "maintenance mode is put back")
}
