package e2e

import (
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

// captureOn takes a set of VMs of a cloud and looks at it: its moment is good, and each snapshot has so many parts and was waited for so long at least.
func (s *site) captureOn(provider string, parts int, least time.Duration, args ...string) *op {
	s.t.Helper()
	o := s.snapshot(args...)
	r := o.done(2 * time.Minute)
	require.True(s.t, r.Snapshot.Moment.Measured)
	require.True(s.t, r.Snapshot.Moment.Inside, "%+v", r.Snapshot.Moment)
	require.Len(s.t, r.Snapshot.Snapshots, len(s.names()))
	for _, have := range r.Snapshot.Snapshots {
		require.Len(s.t, strings.Split(have.ID, ","), parts, "one of each disk")
		require.GreaterOrEqual(s.t, timeIn(s.t, have.Completed).Sub(timeIn(s.t, have.Requested)), least, "its moment was waited for")
	}
	o.resumed()
	sets := s.sets()
	require.Equal(s.t, o.id, sets[0].Set)
	require.Equal(s.t, provider, sets[0].Provider)
	require.Contains(s.t, s.cli(0, "snapshot", "show", s.cluster.Name(), o.id).Stdout, r.Snapshot.Snapshots[0].Name)
	require.Contains(s.t, s.cli(0, "snapshot", "verify", s.cluster.Name(), o.id).Stdout, "whole")
	return o
}

// sets that the cluster's bucket has, the newest first.
func (s *site) sets() []operation.SnapshotSummary {
	s.t.Helper()
	var list operation.SnapshotSets
	require.NoError(s.t, s.cli(0, "snapshot", "list", s.cluster.Name(), "-o", "json").JSON(&list))
	return list.Sets
}
