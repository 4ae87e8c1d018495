package simcluster_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/controller"
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

func TestCluster_Controller_AnswersUnderTheInventorysSectionAndSharesKatosMaintenance(t *testing.T) {
	c, err := simcluster.Start(simcluster.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	path := filepath.Join(t.TempDir(), "inventory.yaml")
	require.NoError(t, c.WriteInventory(path))
	file, err := inventory.Load(path)
	require.NoError(t, err)
	cluster, err := file.Cluster("demo")
	require.NoError(t, err)
	cfg, err := controller.ConfigOf(file, cluster.Controller, func(string) (string, bool) { return "", false })
	require.NoError(t, err)
	client, err := controller.Open(cfg, nil)
	require.NoError(t, err)
	defer client.Close()

	for range 2 { // the content is the same whenever it is asked for
		content, err := client.Content(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int{2, 3, 7, 5, 5, 8}, []int{content.Orgs, content.Spaces, content.Apps, content.AppsStarted, content.Services, content.Instances})
	}
	info, err := client.StackatoInfo(t.Context())
	require.NoError(t, err)
	require.Equal(t, c.Nodes()[0].Address(), info.MBusIP)
	require.False(t, info.MaintenanceMode)
	for _, on := range []bool{true, false} {
		c.Controller().SetMaintenance(on)
		require.Equal(t, on, c.Maintenance())
		info, err = client.StackatoInfo(t.Context())
		require.NoError(t, err)
		require.Equal(t, on, info.MaintenanceMode)
	}
}

func TestCluster_PlainOne_HasNoController(t *testing.T) {
	c, err := simcluster.Start(simcluster.Config{Platform: "plain"})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.Nil(t, c.Controller())
	require.NotContains(t, string(c.InventoryYAML()), "controller:")
}
