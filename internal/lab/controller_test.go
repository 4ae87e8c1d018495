package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/controller"
	"github.com/katoflow/katoflow/internal/inventory"
)

func TestCluster_Controller_AnswersUnderTheInventorysSectionAndSharesKatosMaintenance(t *testing.T) {
	l := open(t, "ug")
	l.cfg.Kato = filepath.Join("..", "..", "bin", "kato")
	c, err := l.Start(t.Context(), ClusterConfig{Nodes: []NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller"}}}})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	file, err := inventory.Parse("inventory.yaml", c.InventoryYAML())
	require.NoError(t, err)
	cluster, err := file.Cluster("lab")
	require.NoError(t, err)
	cfg, err := controller.ConfigOf(file, cluster.Controller, os.LookupEnv)
	require.NoError(t, err)
	client, err := controller.Open(cfg, nil)
	require.NoError(t, err)
	defer client.Close()

	content, err := client.Content(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{2, 3, 7, 5, 5, 8}, []int{content.Orgs, content.Spaces, content.Apps, content.AppsStarted, content.Services, content.Instances})
	for _, value := range []string{"true", "false"} {
		_, err := asUser(t, c.core(), "kato config set cloud_controller_ng maintenance_mode "+value)
		require.NoError(t, err)
		info, err := client.StackatoInfo(t.Context())
		require.NoError(t, err)
		require.Equal(t, value == "true", info.MaintenanceMode)
		require.Equal(t, c.core().Address(), info.MBusIP)
	}
	c.Controller().SetMaintenance(true)
	on, err := c.Maintenance()
	require.NoError(t, err)
	require.True(t, on)
	c.core().PowerOff()
	info, err := client.StackatoInfo(t.Context())
	require.NoError(t, err)
	require.True(t, info.MaintenanceMode, "what the Core said last")
}
