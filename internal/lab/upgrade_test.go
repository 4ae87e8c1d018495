package lab

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func TestUpgrade_KatoNodeUpgrade_RebootsHostsAndOutlivesItsOwnEnd(t *testing.T) {
	l := open(t, "uk")
	l.cfg.Kato = filepath.Join("..", "..", "bin", "kato")
	c, err := l.Start(t.Context(), ClusterConfig{Nodes: []NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller"}}, {Name: "dea-1", Roles: []string{"base", "dea"}, Apps: 2},
		{Name: "dea-2", Roles: []string{"base", "dea"}, Apps: 2}}})
	require.NoError(t, err)
	core, dea, other := c.Host("core"), c.Host("dea-1"), c.Host("dea-2")
	kato := func(h *Host, args string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		return h.Exec(ctx, `exec su - `+LoginUser+` -s /bin/bash -c "kato $1 2>&1"`, args)
	}
	for _, h := range []*Host{core, dea, other} {
		require.NoError(t, h.Inject("upgrade-with", `{"version":"1.2.0","releases":["1.3.0"],"restart":"reboot","seconds":0.5}`))
	}
	c.Controller().AddBuildpack(cloudcontroller.Buildpack{Name: "own"})
	node := func(h *Host) string { return "node upgrade --skip-confirmation --node " + h.Address() }

	// A host that cannot be entered, and one whose sudo asks.
	require.NoError(t, dea.NoCoreAccess(true))
	_, err = kato(core, node(dea))
	require.ErrorContains(t, err, "exit status 1")
	require.NoError(t, dea.NoCoreAccess(false))
	require.NoError(t, dea.SudoPassword(true))
	_, err = kato(core, node(dea)+" </dev/null")
	require.ErrorContains(t, err, "exit status 1")
	require.NoError(t, dea.SudoPassword(false))
	version, err := dea.KatoVersion()
	require.NoError(t, err)
	require.Equal(t, "1.2.0", version)

	// Another host, which is waited for.
	out, err := kato(core, node(dea))
	require.NoError(t, err)
	require.Contains(t, out, "INFO: ["+dea.Address()+"] upgraded to 1.3.0\n")
	require.Equal(t, 2, dea.Boots())
	require.NoError(t, dea.WaitUp(t.Context(), time.Minute))
	out, err = kato(core, "node version "+dea.Address())
	require.NoError(t, err)
	require.Equal(t, "1.3.0\n", out)

	// One that is killed in the middle; the marker file of one that says it is done.
	require.NoError(t, other.UpgradeWith(katodouble.UpgradePatch{Restart: new(""), Seconds: new(600.0)}))
	done := make(chan error, 1)
	go func() {
		_, err := kato(core, node(other))
		done <- err
	}()
	eventually(t, "the middle", func() bool { u, err := other.KatoUpgrade(); return err == nil && u.Interrupted == "1.3.0" })
	root(t, core, "pkill -KILL -f '^kato node upgrade'")
	require.Error(t, <-done)
	require.NoError(t, other.UpgradeWith(katodouble.UpgradePatch{Heal: true, Fault: new(katodouble.UpgradeUnthrown), Times: new(1)}))
	out, err = kato(core, node(other)+" --resume")
	require.NoError(t, err)
	require.Contains(t, out, "upgraded to 1.3.0\n")
	marker, err := other.ReadFile(katodouble.UpgradeMarker)
	require.NoError(t, err)
	require.Equal(t, katodouble.MarkerText, string(marker))
	state, err := other.KatoState()
	require.NoError(t, err)
	require.Equal(t, []any{"1.2.0", []string{"base", "dea"}}, []any{state.Version, state.Stopped})
	_, err = kato(core, node(other)+" --resume")
	require.NoError(t, err)
	_, err = other.ReadFile(katodouble.UpgradeMarker)
	require.Error(t, err)

	// The Core itself: its kato goes down with it.
	require.Contains(t, c.Controller().Buildpacks(), "own")
	// nsenter, which would wait for it, stops for good when the shutdown stops what it waits for.
	root(t, core, `su - `+LoginUser+` -s /bin/bash -c "setsid kato node upgrade --skip-confirmation >/dev/null 2>&1 </dev/null &"`)
	eventually(t, "the boot of the Core", func() bool { return core.Boots() == 2 })
	require.NoError(t, core.WaitUp(t.Context(), time.Minute))
	require.NotContains(t, c.Controller().Buildpacks(), "own")
	upgrade, err := core.KatoUpgrade()
	require.NoError(t, err)
	require.Equal(t, katodouble.Upgrade{Releases: []string{"1.3.0"}, Restart: "reboot", Seconds: 0.5, Previous: "1.2.0"}, upgrade)
	out, err = kato(core, "node upgrade --status")
	require.NoError(t, err)
	require.Equal(t, core.Address()+"  1.3.0  upgraded\n"+dea.Address()+"  1.3.0  upgraded\n"+other.Address()+"  1.3.0  upgraded\n", out)

	require.NoError(t, core.UpgradeWith(katodouble.UpgradePatch{NoKato: new(true)}))
	_, err = kato(core, "version")
	require.ErrorContains(t, err, "exit status 127")
	require.NoError(t, core.Inject("heal-upgrade"))
	out, err = kato(core, "version")
	require.NoError(t, err)
	require.Equal(t, "1.3.0\n", out)

	ran, err := core.Commands()
	require.NoError(t, err)
	var lines []string
	var exits []bool
	for _, e := range ran {
		lines = append(lines, e.Command())
		exits = append(exits, e.ExitCode == 0)
	}
	all := "kato node upgrade --skip-confirmation"
	require.Equal(t, []string{"kato " + node(dea), "kato " + node(dea), "kato " + node(dea), "kato " + node(other), "kato " + node(other) + " --resume", "kato " + node(other) + " --resume", all}, lines)
	require.Equal(t, []bool{false, false, true, false, true, true, false}, exits)
}

func TestChanges_OfKato_AreNotWhatIsOnlyAsked(t *testing.T) {
	for _, args := range [][]string{{"node", "upgrade"}, {"node", "upgrade", "--node", "10.0.0.1", "--resume"}, {"node", "retire"}} {
		require.True(t, changes(args), args)
	}
	for _, args := range [][]string{{"node", "upgrade", "--status", "--json"}, {"node", "upgrade", "--help"}, {"node", "version"}, {"node", "list"}} {
		require.False(t, changes(args), args)
	}
}
