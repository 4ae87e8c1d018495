package simcluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func TestHypervisor_Rollback_BringsBackWhatTheDisksHeld(t *testing.T) {
	t.Parallel()
	c := startCluster(t, Config{Platform: "als", Nodes: []NodeConfig{{Name: "core", Roles: []string{"primary", "controller"}}, {Name: "dea-1", Roles: []string{"dea"}}}, Hypervisor: &HypervisorConfig{Disks: true}})
	h := c.Hypervisor()
	client := dial(t, h.Host())
	vmctl := func(args string) (string, int) {
		t.Helper()
		r := run(t, client, "vmctl "+args)
		return r.err, r.exit
	}
	core, dea := c.Node("core"), c.Node("dea-1")
	require.NoError(t, dea.ready())
	require.NoError(t, dea.tree.put("/home/stackato/notes", "of then", 0o640))
	dea.tree.setOwner("/home/stackato/notes", "stackato")
	c.SetMaintenance(true)
	for _, vm := range []string{"vm-core", "vm-dea-1"} {
		_, exit := vmctl("take " + vm + " one")
		require.Zero(t, exit)
	}

	// Later: other files, another package, maintenance mode off, and a memory of its own.
	c.SetMaintenance(false)
	require.NoError(t, dea.UpgradeWith(katodouble.UpgradePatch{Version: new("3.6.0"), Previous: new("3.4.2"), FailedMarker: new(true), Seconds: new(1.0)}))
	require.NoError(t, dea.tree.put("/home/stackato/notes", "of now", 0o600))
	require.NoError(t, dea.tree.put("/home/stackato/later", "x", 0o600))
	dea.packages.mu.Lock()
	was := dea.packages.pkgs["bash"].version
	dea.packages.pkgs["bash"].version = "99"
	dea.packages.mu.Unlock()

	out, exit := vmctl("rollback vm-dea-1 one")
	require.Equal(t, 1, exit, "it is on")
	require.Contains(t, out, "vm-dea-1 is on")
	core.PowerOff()
	dea.PowerOff()
	h.FailRollbacks("dea-1", 1)
	_, exit = vmctl("rollback vm-dea-1 one")
	require.Equal(t, 1, exit)
	_, exit = vmctl("rollback vm-dea-1 other")
	require.Equal(t, 1, exit)
	require.Zero(t, h.RolledBack("dea-1"))
	for range 2 {
		for _, vm := range []string{"vm-core", "vm-dea-1"} {
			_, exit = vmctl("rollback " + vm + " one")
			require.Zero(t, exit)
		}
	}
	require.Equal(t, 2, h.RolledBack("dea-1"))
	require.True(t, c.Maintenance(), "the Core's disk has the configuration")
	version, err := dea.KatoVersion()
	require.NoError(t, err)
	require.Equal(t, "3.4.2", version)
	upgrade, err := dea.KatoUpgrade()
	require.NoError(t, err)
	require.Equal(t, katodouble.Upgrade{Seconds: 1}, upgrade)
	_, err = dea.ReadFile(katodouble.UpgradeMarker)
	require.Error(t, err)
	b, err := dea.ReadFile("/home/stackato/notes")
	require.NoError(t, err)
	require.Equal(t, "of then", string(b))
	st, err := dea.tree.stat("stackato", "/", "/home/stackato/notes", true)
	require.NoError(t, err)
	require.Equal(t, "-rw-r-----", st.Mode().String())
	require.Equal(t, "stackato", dea.tree.ownerOf("/home/stackato/notes"))
	_, err = dea.ReadFile("/home/stackato/later")
	require.Error(t, err)
	require.Equal(t, was, dea.packages.pkgs["bash"].version)
	dea.PowerOn()
	core.PowerOn()
	require.Eventually(t, func() bool { return dea.Running() && core.Running() }, 10*time.Second, 10*time.Millisecond)
	_, exit = vmctl("delete vm-dea-1 one")
	require.Zero(t, exit)
	require.NoDirExists(t, c.Dir()+"/snapshots/dea-1-2")
}
