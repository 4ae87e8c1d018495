package simcluster

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func TestUpgrade_RebootsANodeAndThenTheCoreUnderItself(t *testing.T) {
	cl := startCluster(t, Config{})
	core, dea := cl.Node("core"), cl.Node("dea-1")
	cl.Controller().AddBuildpack(cloudcontroller.Buildpack{Name: "own", Position: 1})
	for _, n := range cl.Nodes() {
		require.NoError(t, n.Inject("upgrade-with", `{"version":"1.2.0","releases":["1.3.0"],"restart":"reboot"}`))
	}
	c := dial(t, core)
	boots := dea.Boots()
	r := run(t, c, login+"kato node upgrade --skip-confirmation --node "+dea.Address())
	require.Zero(t, r.exit, r.out+r.err)
	require.Contains(t, r.out, "INFO: ["+dea.Address()+"] upgraded to 1.3.0\n")
	require.Equal(t, boots+1, dea.Boots())
	require.True(t, dea.Running())
	version, err := dea.KatoVersion()
	require.NoError(t, err)
	require.Equal(t, "1.3.0", version)
	require.Equal(t, "1.2.0\n", run(t, c, login+"kato version").out)
	require.Equal(t, "1.3.0\n", run(t, c, login+"kato node version "+dea.Address()).out)
	require.Contains(t, cl.Controller().Buildpacks(), "own")

	// The Core's own kato goes down with the machine, and has noted all before.
	boots = core.Boots()
	r = run(t, c, login+"kato node upgrade --skip-confirmation")
	require.NotZero(t, r.exit)
	require.NotContains(t, r.out, "upgraded to")
	eventually(t, "boot of the Core", func() bool { return core.Running() && core.Boots() == boots+1 })
	u, err := core.KatoUpgrade()
	require.NoError(t, err)
	require.Equal(t, katodouble.Upgrade{Releases: []string{"1.3.0"}, Restart: "reboot", Previous: "1.2.0"}, u)
	c = dial(t, core)
	require.Equal(t, "1.3.0\n", run(t, c, login+"kato version").out)
	require.Empty(t, core.StoppedRoles())
	require.NotContains(t, cl.Controller().Buildpacks(), "own")
	r = run(t, c, login+"kato node upgrade --status; kato node upgrade --help")
	require.Zero(t, r.exit)
	require.Contains(t, r.out, core.Address()+"  1.3.0  upgraded\n"+dea.Address()+"  1.3.0  upgraded\n")

	var commands []string
	for _, e := range core.Commands() {
		require.False(t, e.End.IsZero(), e.Command())
		commands = append(commands, e.Command())
	}
	require.Equal(t, []string{"kato node upgrade --skip-confirmation --node " + dea.Address(), "kato node upgrade --skip-confirmation"}, commands)
}

func TestUpgrade_KilledOrRebootedInTheMiddle_IsResumed(t *testing.T) {
	cl := startCluster(t, Config{})
	core, dea := cl.Node("core"), cl.Node("dea-1")
	for _, n := range cl.Nodes() {
		require.NoError(t, n.UpgradeWith(katodouble.UpgradePatch{Version: new("1.2.0"), Releases: []string{"1.3.0"}}))
	}
	c := dial(t, core)
	upgrade := func(options string) result {
		return run(t, c, login+"kato node upgrade --skip-confirmation --node "+dea.Address()+" "+options)
	}
	for _, end := range []func(){
		func() { require.Zero(t, run(t, c, "kill $(pgrep -f 'kato node upgrade' | head -n 1)").exit) },
		func() {
			boots := core.Boots()
			core.RebootNow()
			eventually(t, "boot of the Core", func() bool { return core.Running() && core.Boots() > boots })
			c = dial(t, core)
		},
	} {
		require.NoError(t, dea.UpgradeWith(katodouble.UpgradePatch{Version: new("1.2.0"), Seconds: new(60.0)}))
		ended := make(chan result, 1)
		go func() { ended <- upgrade("") }()
		eventually(t, "the middle", func() bool { u, _ := dea.KatoUpgrade(); return u.Interrupted == "1.3.0" })
		require.Equal(t, "ERROR: Another upgrade is running\n", run(t, c, login+"kato node upgrade --skip-confirmation").err)
		end()
		select {
		case r := <-ended:
			require.NotZero(t, r.exit)
		case <-time.After(10 * time.Second):
			require.Fail(t, "it goes on")
		}
		require.Equal(t, []string{"base", "dea"}, dea.StoppedRoles())
		require.NoError(t, dea.HealUpgrade())
		require.Contains(t, upgrade("").err, "was interrupted. Run kato node upgrade --resume\n")
		r := upgrade("--resume")
		require.Zero(t, r.exit, r.err)
		require.Empty(t, dea.StoppedRoles())
		version, err := dea.KatoVersion()
		require.NoError(t, err)
		require.Equal(t, "1.3.0", version)
	}
}

func TestUpgrade_MarkerAndKato_AreThereOrNot(t *testing.T) {
	n := oneNode(t, Config{Nodes: []NodeConfig{{Name: "one", Roles: []string{"primary", "mysql"}}}})
	require.NoError(t, n.UpgradeWith(katodouble.UpgradePatch{Releases: []string{"3.6.0"}, Fault: new(katodouble.UpgradeUnthrown), Times: new(1)}))
	c := dial(t, n)
	require.Zero(t, run(t, c, login+"kato node upgrade --skip-confirmation").exit)
	require.Equal(t, katodouble.MarkerText, run(t, c, "cat /home/stackato/.kato-upgrade-failed").out)
	require.Zero(t, run(t, c, login+"kato node upgrade --skip-confirmation --rollback").exit)
	require.NotZero(t, run(t, c, "cat /home/stackato/.kato-upgrade-failed").exit)

	require.NoError(t, n.UpgradeWith(katodouble.UpgradePatch{Fault: new(katodouble.UpgradeLosesKato), Times: new(1)}))
	require.Equal(t, 1, run(t, c, login+"kato node upgrade --skip-confirmation").exit)
	require.Equal(t, result{err: "kato: command not found\n", exit: 127}, run(t, c, login+"kato node upgrade --skip-confirmation --resume"))
	n.Heal()
	require.Zero(t, run(t, dial(t, n), login+"kato node upgrade --skip-confirmation --resume").exit)

	n.SudoPassword(true)
	require.Contains(t, run(t, dial(t, n), login+"kato node upgrade --skip-confirmation --force </dev/null").err, "no password was provided")
	plain := oneNode(t, Config{Platform: "plain", Nodes: []NodeConfig{{Name: "one"}}})
	_, err := plain.KatoVersion()
	require.Error(t, err)
	_, err = plain.KatoUpgrade()
	require.Error(t, err)
	require.Error(t, plain.HealUpgrade())
	require.Equal(t, "v3.4.2", n.cluster.vendorVersion(), "of a cluster without the role controller")
}

func TestUpgrade_WhatIsOnlyAsked_ChangesNothing(t *testing.T) {
	for _, options := range []string{"", "--update-kato", "--download-only", "--node 10.0.0.1 --resume", "--rollback"} {
		require.True(t, mutating("kato", append([]string{"node", "upgrade"}, strings.Fields(options)...)), options)
	}
	for _, options := range []string{"--status", "--status --json", "--help", "-h"} {
		require.False(t, mutating("kato", append([]string{"node", "upgrade"}, strings.Fields(options)...)), options)
	}
}
