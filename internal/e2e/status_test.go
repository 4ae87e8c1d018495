package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

// status asks how the cluster is.
func (s *site) status() operation.ClusterStatus {
	s.t.Helper()
	var out operation.ClusterStatus
	require.NoError(s.t, s.cli(0, "cluster", "status", s.cluster.Name(), "-o", "json").JSON(&out))
	return out
}

func stateOf(t *testing.T, c operation.ClusterStatus, node string) operation.NodeStatus {
	t.Helper()
	for _, n := range c.Nodes {
		if n.Node == node {
			return n
		}
	}
	require.Fail(t, "no such node", "%s: %+v", node, c)
	return operation.NodeStatus{}
}

func TestStatus_BeforeAndAfterAnUpgrade_TellsWhatIsPendingAndWhenItWasPatched(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	node, away := files, core
	first := s.status()
	fresh := stateOf(t, first, node)
	require.Empty(t, fresh.Problem)
	require.Equal(t, fresh.Pending < 0, strings.Contains(strings.Join(fresh.Warnings, "\n"), "no package lists"), "%+v", fresh)

	// An upgrade that fails has at least fetched the lists.
	s.cluster.Node(node).FailCommand("unattended-upgrades", 1, 1, "E: it is broken")
	s.cli(3, "upgrade", "security", s.cluster.Name(), "--nodes", node, "--max-failures", "1")
	before := stateOf(t, s.status(), node)
	require.Empty(t, before.Problem)
	require.Contains(t, before.System, "Debian")
	require.Positive(t, before.Security)
	require.GreaterOrEqual(t, before.Pending, before.Security)
	require.Empty(t, before.PatchedAt, "nothing was ever upgraded")

	s.cli(0, "upgrade", "security", s.cluster.Name(), "--nodes", node)
	after := s.status()
	now := stateOf(t, after, node)
	require.Less(t, now.Security, before.Security)
	require.False(t, now.RebootRequired)
	require.WithinDuration(t, time.Now(), timeIn(t, now.PatchedAt), 10*time.Minute)
	require.WithinDuration(t, time.Now(), timeIn(t, now.BootedAt), 48*time.Hour)
	require.Equal(t, stateOf(t, first, away).Security, stateOf(t, after, away).Security, "another node is as it was")
	require.Empty(t, after.Holder)
	require.Nil(t, after.Backup)

	s.cli(0, "backup", "create", s.cluster.Name(), "--id", "op-status")
	s.cluster.Node(away).Refuse(true)
	s.cluster.Node(away).DropConnections()
	shown := s.cli(0, "cluster", "status", s.cluster.Name()).Stdout
	for _, want := range []string{"last backup:     op-status, ", "last rehearsal:  none", "last snapshots:  none", node, "not known", away + ": "} {
		require.Contains(t, shown, want)
	}
	require.NotContains(t, shown, "not known: ", "only the node is not")
	s.cluster.Node(away).Refuse(false)

	// Where data services keep their data: the nodes of both worlds have one file system.
	require.Contains(t, shown, files+": services keep their data on the root volume (/var/stackato/services)")
	require.Contains(t, s.cli(0, "cluster", "check", s.cluster.Name()).Stdout, files+": services keep their data on the root volume")
}

func TestStatus_WithoutABucket_SaysSoAndOfAnUnknownClusterIsBadInput(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil)
	s.worker("")
	out := s.status()
	require.Len(t, out.Nodes, len(s.names()))
	require.Contains(t, strings.Join(out.Unknown, "\n"), "archives: ")
	require.Contains(t, s.cli(2, "cluster", "status", "nowhere").Stderr, "nowhere")
}
