package simcluster_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/simcluster"
)

func TestCluster_Inventory_LoadsWithoutAProblem(t *testing.T) {
	for _, platform := range []string{"als", "plain"} {
		c, err := simcluster.Start(simcluster.Config{Platform: platform})
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "inventory.yaml")
		require.NoError(t, c.WriteInventory(path))
		file, err := inventory.Load(path)
		require.NoError(t, err)
		require.NoError(t, file.CheckFiles(func(string) (string, bool) { return "", false }))
		cluster, err := file.Cluster("demo")
		require.NoError(t, err)
		require.Len(t, cluster.Nodes, 5)
		host, err := file.Host(cluster, cluster.Nodes[1], func(string) (string, bool) { return "", false })
		require.NoError(t, err)
		require.Equal(t, c.Nodes()[1].Port(), host.Port)
		require.Equal(t, c.LoginUser(), host.User)
		require.NoError(t, c.Close())
	}
}
