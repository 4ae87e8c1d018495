package simcluster

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const loginPatch = `exec bash -lc 'exec kato patch "$@"' sh `

func TestPatch_InALoginShell_InstallsAndRestartsRoles(t *testing.T) {
	c, core, files := alsCluster(t, Config{RoleStartTime: 300 * time.Millisecond})
	dea := c.Node("dea-1")
	d := dial(t, dea)
	require.Equal(t, 0, run(t, d, `bash -lc 'kato process ready all'`).exit)
	r := run(t, d, loginPatch+"status --local")
	require.Equal(t, 0, r.exit, r.err)
	require.Contains(t, r.out, "2 updates are available for 3.4.2.\n\n  dea-memory-usage-reporting: ")
	r = run(t, d, loginPatch+"install --local </dev/null")
	require.Equal(t, 0, r.exit, r.err)
	require.Equal(t, 1, run(t, d, `bash -lc 'kato process ready all'`).exit, "roles start in their time, also those of a cluster that started with them")
	require.Equal(t, 0, run(t, d, `bash -lc 'kato process ready --block 20 all'`).exit)
	got, err := dea.Patches()
	require.NoError(t, err)
	require.Equal(t, []string{"dea-memory-usage-reporting", "log-stream-reconnect"}, got.Installed)
	dea.RebootNow()
	eventually(t, "it is back", func() bool { return dea.Boots() == 2 && dea.Running() })
	got, err = dea.Patches()
	require.NoError(t, err)
	require.Len(t, got.Installed, 2)

	c.SetPatches([]katodouble.Patch{{ID: 8, Name: "own", Description: "Own.", Severity: "required", Roles: []string{"base"}}})
	k := dial(t, core)
	require.Equal(t, 0, run(t, k, loginPatch+"update").exit)
	dea2 := c.Node("dea-2")
	dea2.NoCoreAccess(true)
	r = run(t, k, loginPatch+"install own")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Could not log in from "+core.Address()+" to "+dea2.Address())
	dea2.NoCoreAccess(false)
	files.PowerOff()
	r = run(t, k, loginPatch+"install own")
	require.Equal(t, 1, r.exit)
	require.Equal(t, "ERROR: Could not connect to node "+files.Address()+": No route to host\n", r.err)
	got, err = dea2.Patches()
	require.NoError(t, err)
	require.Equal(t, []string{"own"}, got.Installed)
	commands := core.Commands()
	require.Equal(t, "kato patch install own", commands[len(commands)-1].Command())
}

func TestPatch_OfANodeThatCannotReachTheVendor_Fails(t *testing.T) {
	c, core, _ := alsCluster(t, Config{})
	dea := c.Node("dea-1")
	d, k := dial(t, dea), dial(t, core)
	dea.NoOutbound(true)
	r := run(t, d, loginPatch+"update --local")
	require.Equal(t, 1, r.exit)
	require.Regexp(t, `^ERROR: Could not fetch the patch manifest from http://127\.0\.0\.1:\d+/patches: Connection refused\n$`, r.err)
	r = run(t, k, loginPatch+"update")
	require.Equal(t, 1, r.exit, "it is fetched from that node's network")
	require.Equal(t, 0, run(t, k, loginPatch+"update --local").exit)
	dea.Heal()
	require.Equal(t, 0, run(t, d, loginPatch+"update --local").exit)

	require.NoError(t, dea.Inject("patch-with", `{"fault":"nomanifest","generation":"1.0"}`))
	r = run(t, d, loginPatch+"install --only-this-node")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Connection refused")
	require.NoError(t, dea.Inject("heal-patches"))
	require.Equal(t, 0, run(t, d, loginPatch+"install --only-this-node").exit)
	require.NoError(t, dea.PatchWith(katodouble.PatchesPatch{Fault: new(katodouble.PatchFails), Times: new(-1)}))
	require.Equal(t, 1, run(t, d, loginPatch+"revert -n").exit)
	dea.Heal()
	require.Equal(t, 0, run(t, d, loginPatch+"revert -n").exit)
	require.Error(t, dea.PatchWith(katodouble.PatchesPatch{Seconds: new(-1.0)}))
	require.Error(t, dea.Inject("patch-with", `{"fault":"explodes"}`))
	require.Error(t, dea.Inject("patch-with", `{"faults":1}`))
}

func TestPatch_OfARoleThatItBreaks_IsHealedByStartRoleOrABoot(t *testing.T) {
	c, _, _ := alsCluster(t, Config{})
	dea := c.Node("dea-1")
	d := dial(t, dea)
	ready := func() bool { return run(t, d, `bash -lc 'kato process ready all'`).exit == 0 }
	require.NoError(t, dea.PatchWith(katodouble.PatchesPatch{Fault: new(katodouble.PatchBreaks), Times: new(1)}))
	require.Equal(t, 0, run(t, d, loginPatch+"install --local").exit)
	require.False(t, ready())
	dea.StartRole("dea")
	require.False(t, ready())
	dea.StartRole("base")
	require.True(t, ready())
}

func TestPatch_OfANodeThatLosesItsPower_LeavesWhatWasDone(t *testing.T) {
	c, _, _ := alsCluster(t, Config{})
	dea := c.Node("dea-1")
	require.NoError(t, dea.PatchWith(katodouble.PatchesPatch{Seconds: new(0.3)}))
	session, err := dial(t, dea).NewSession()
	require.NoError(t, err)
	require.NoError(t, session.Start(loginPatch+"install --local"))
	installed := func() []string {
		got, err := dea.Patches()
		require.NoError(t, err)
		return got.Installed
	}
	eventually(t, "one is done", func() bool { return len(installed()) == 1 })
	dea.PowerOff()
	require.Error(t, session.Wait())
	dea.PowerOn()
	require.Len(t, installed(), 1)
	require.NoError(t, dea.PatchWith(katodouble.PatchesPatch{Fault: new(katodouble.PatchHangs), Times: new(1)}))
	d := dial(t, dea)
	session, err = d.NewSession()
	require.NoError(t, err)
	out, err := session.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, session.Start(loginPatch+"install --local --quiet </dev/null"))
	said := make([]byte, len("stackato@"+dea.Address()+"'s password: "))
	_, err = io.ReadFull(out, said)
	require.NoError(t, err)
	require.Equal(t, "stackato@"+dea.Address()+"'s password: ", string(said))
	require.Equal(t, 0, run(t, d, `kill $(pgrep -f '^kato patch install|/kato patch install')`).exit)
	require.Error(t, session.Wait())
	require.Equal(t, 0, run(t, d, loginPatch+"install --local").exit)
	require.Len(t, installed(), 2)
}

func TestPatch_OnAPlainCluster_IsAnError(t *testing.T) {
	n := oneNode(t, Config{Platform: "plain"})
	require.Error(t, n.PatchWith(katodouble.PatchesPatch{}))
	_, err := n.Patches()
	require.Error(t, err)
	n.HealPatches()
}
