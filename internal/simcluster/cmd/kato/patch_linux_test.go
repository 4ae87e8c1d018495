package main

import (
	"bufio"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const (
	deaPatch  = "dea-memory-usage-reporting"
	corePatch = "vsphere-autoscaling-fix"
	basePatch = "log-stream-reconnect"
)

// withVendor is three hosts and the vendor they fetch patches from; stop ends it.
func withVendor(t *testing.T) (h *hosts, manifest *katodouble.Manifest, url string, stop func()) {
	t.Helper()
	manifest = &katodouble.Manifest{}
	manifest.Set(katodouble.DefaultPatches())
	url, stop, err := katodouble.ServeManifest("127.0.0.1:0", manifest)
	require.NoError(t, err)
	t.Cleanup(stop)
	h = startWith(t, func(h *hosts) { h.manifest = url })
	return h, manifest, url, stop
}

func TestPatch_OnThreeHosts_AnswersAsInProcess(t *testing.T) {
	h, manifest, url, stop := withVendor(t)
	h.ok(ids[1], "patch", "update", "--local")
	require.Equal(t, katodouble.DefaultPatches(), h.state(ids[1]).Patches.Manifest)
	require.False(t, h.state(ids[0]).Patches.Fetched)
	require.Equal(t, `3 updates are available for 3.4.2.

  dea-memory-usage-reporting: Fix the reporting of helion stats usage on the DEA end.
    patch id: 1
    severity: required
    roles affected: dea
    installed on: none
    to be installed on: 127.0.0.2, 127.0.0.3

  vsphere-autoscaling-fix: Fix VSphere autoscaling behavior.
    patch id: 2
    severity: required
    roles affected: controller, primary
    installed on: none
    to be installed on: 127.0.0.1

  log-stream-reconnect: Reconnect log streams after a network failure.
    patch id: 3
    severity: required
    roles affected: router, base
    installed on: none
    to be installed on: 127.0.0.1, 127.0.0.2, 127.0.0.3
`, h.ok(ids[1], "patch", "status"))
	require.Equal(t, "-----> Patching node 127.0.0.2\n       dea-memory-usage-reporting...   ok\n-----> Restarting roles\n       role dea restarting...   ok\n", h.ok(ids[1], "patch", "install", "--local", deaPatch))
	require.Contains(t, h.ok(ids[0], "patch", "status"), "    installed on: 127.0.0.2\n    to be installed on: 127.0.0.3\n")
	require.Contains(t, h.ok(ids[1], "patch", "status", "--local"), "1 update is available for 3.4.2.\n")

	h.ok(ids[2], "patch", "install")
	require.Equal(t, []string{corePatch, basePatch}, h.state(ids[0]).Patches.Installed)
	for _, id := range ids[1:] {
		require.Equal(t, []string{deaPatch, basePatch}, h.state(id).Patches.Installed)
	}
	require.Equal(t, "[]\n", h.ok(ids[0], "patch", "status", "--json", "--quiet"))
	h.ok(ids[0], "patch", "revert", "--node", ids[1], "--no-restart", deaPatch)
	require.Equal(t, []string{basePatch}, h.state(ids[1]).Patches.Installed)
	line := h.commands(ids[0])[len(h.commands(ids[0]))-1]
	require.Equal(t, []string{"patch", "revert", "--node", ids[1], "--no-restart", deaPatch}, line.Args)

	manifest.Set(append(katodouble.DefaultPatches(), katodouble.Patch{ID: 9, Name: "later", Description: "Later.", Severity: "required", Roles: []string{"dea"}}))
	h.ok(ids[0], "patch", "update")
	require.Equal(t, 9, h.state(ids[2]).Patches.Manifest[3].ID)
	h.stop(ids[2])
	out, errs, exit := h.kato(ids[0], "patch", "install", "--no-restart", "later")
	require.Equal(t, 1, exit)
	require.Equal(t, "-----> Patching node 127.0.0.2\n       later...   ok\n", out)
	require.Equal(t, "ERROR: Could not connect to node 127.0.0.3: No route to host\n", errs)
	_, errs, exit = h.kato(ids[0], "patch", "status")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Could not connect to node 127.0.0.3: No route to host\n", errs)
	_, errs, exit = h.kato(ids[1], "patch", "install", "nothing")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Unknown patch: nothing\n", errs)

	stop()
	for _, args := range [][]string{{"patch", "update", "--local"}, {"patch", "status", "--force-update", "--node", ids[1]}} {
		_, errs, exit = h.kato(ids[0], args...)
		require.Equal(t, 1, exit)
		require.Equal(t, "ERROR: Could not fetch the patch manifest from "+url+": Connection refused\n", errs)
	}
	_, errs, exit = h.kato(ids[1], "patch", "install", "--local", deaPatch)
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Could not fetch the patch manifest from "+url+"/"+deaPatch+": Connection refused\n", errs)
	h.ok(ids[1], "patch", "revert", "--local", basePatch)
}

func TestPatch_OfAnAgentThatBoots_KeepsWhatIsInstalledAndTheProxy(t *testing.T) {
	h, _, url, _ := withVendor(t)
	h.roleStart = "1h"
	h.stop(ids[1])
	h.boot(ids[1])
	h.patch(ids[1], `{"start":["dea"],"patches":{"fault":"breaks","times":1,"generation":"als"}}`)
	h.ok(ids[1], "patch", "install", "--local", basePatch)
	s := h.state(ids[1])
	require.Equal(t, []string{"base"}, s.Stuck)
	require.Less(t, s.Restarted["base"], 20.0)
	require.Equal(t, 3600.0, s.RoleRestartSeconds)
	h.ok(ids[1], "op", "upstream_proxy", "set", "127.0.0.1:1", "--user", "eve")
	h.roleStart = "0s"
	h.stop(ids[1])
	h.boot(ids[1])
	s = h.state(ids[1])
	require.Equal(t, []string{basePatch}, s.Patches.Installed)
	require.Equal(t, []any{"127.0.0.1:1", "eve", katodouble.GenerationALS, true}, []any{s.Patches.UpstreamProxy, s.Patches.ProxyUser, s.Patches.Generation, s.Patches.Fetched})
	require.Empty(t, s.Patches.Fault)
	require.Empty(t, s.Stuck)
	require.Empty(t, s.Restarted)
	require.Equal(t, katodouble.Running, s.Roles["base"])
	require.Contains(t, h.ok(ids[1], "patch", "status", "--local"), "1 update available to be installed.\n\nKnown updates:\n  dea-memory-usage-reporting: ")
	_, errs, _ := h.kato(ids[1], "patch", "update", "--local")
	require.Equal(t, "ERROR: Could not fetch the patch manifest from "+url+": Connection refused\n", errs)
	h.ok(ids[1], "op", "upstream_proxy", "delete")
	h.ok(ids[1], "patch", "update", "--local")
}

func TestPatch_RestartedRole_StartsInItsOwnTimeAsSeenFromAllHosts(t *testing.T) {
	h, _, _, _ := withVendor(t)
	h.roleStart = "2s"
	h.stop(ids[1])
	h.boot(ids[1])
	require.Eventually(t, func() bool { return h.state(ids[1]).Roles["dea"] == katodouble.Running }, 10*time.Second, 10*time.Millisecond)
	h.ok(ids[1], "patch", "install", "--local", deaPatch)
	require.Contains(t, h.ok(ids[0], "process", "list", "--node", ids[1], "dea_ng"), "STARTING")
	h.ok(ids[0], "process", "ready", "--node", ids[1], "systail")
	require.Equal(t, "READY\n", h.ok(ids[1], "process", "ready", "--block", "20", "all"))
	require.Equal(t, 1, len(h.state(ids[1]).Restarted))
}

func TestPatch_Killed_LeavesWhatWasDoneAndWhatHangsWaitsForIt(t *testing.T) {
	h, _, _, _ := withVendor(t)
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		h.patch(ids[1], `{"patches":{"seconds":0.5,"installed":[]}}`)
		cmd := h.command(ids[1], "patch", "install", "--local")
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return len(h.state(ids[1]).Patches.Installed) == 1 }, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, cmd.Process.Signal(signal))
		require.Error(t, cmd.Wait())
		require.Equal(t, []string{deaPatch}, h.state(ids[1]).Patches.Installed)
		require.Empty(t, h.state(ids[1]).Restarted)

		h.patch(ids[1], `{"patches":{"heal":true,"fault":"hangs","times":1}}`)
		cmd = h.command(ids[0], "patch", "install", "--quiet", "--node", ids[1])
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		said, err := bufio.NewReader(out).ReadString(' ')
		require.NoError(t, err)
		require.Equal(t, "stackato@127.0.0.2's ", said, "its standard input is empty")
		require.NoError(t, cmd.Process.Signal(signal))
		require.Error(t, cmd.Wait())
		require.Equal(t, []string{deaPatch}, h.state(ids[1]).Patches.Installed)
	}
	h.ok(ids[1], "patch", "install", "--local")
	require.Equal(t, []string{deaPatch, basePatch}, h.state(ids[1]).Patches.Installed)
}

func TestPatch_Faults_AreThoseOfTheNodeThatIsPatched(t *testing.T) {
	h, _, _, _ := withVendor(t)
	h.patch(ids[1], `{"patches":{"fault":"half","times":1}}`)
	_, errs, exit := h.kato(ids[0], "patch", "install")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Patch log-stream-reconnect could not be applied: patch exited with status 1\n", errs)
	require.Equal(t, []string{deaPatch}, h.state(ids[1]).Patches.Installed)
	require.Equal(t, []string{deaPatch, basePatch}, h.state(ids[2]).Patches.Installed)
	require.Empty(t, h.state(ids[1]).Restarted)
	require.Len(t, h.state(ids[2]).Restarted, 2)
	h.patch(ids[1], `{"patches":{"fault":"silent","times":1},"exit_zero":true}`)
	require.Contains(t, h.ok(ids[1], "patch", "install", "--local"), "log-stream-reconnect...   ok\n")
	require.Equal(t, []string{deaPatch}, h.state(ids[1]).Patches.Installed)
	h.patch(ids[1], `{"patches":{"fault":"fails","times":1}}`)
	_, errs, exit = h.kato(ids[1], "patch", "install", "--local")
	require.Zero(t, exit, "exit_zero")
	require.True(t, strings.HasPrefix(errs, "ERROR: Patch log-stream-reconnect could not be applied"), errs)
	h.patch(ids[1], `{"patches":{"fault":"nomanifest"},"exit_zero":false}`)
	_, errs, exit = h.kato(ids[0], "patch", "update")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, ": Connection refused\n")
	h.ok(ids[2], "patch", "update", "--local")
	require.Equal(t, http.StatusBadRequest, h.request("PATCH", ids[0], "/state", `{"patches":{"fault":"explodes"}}`, nil))
	require.Equal(t, http.StatusBadGateway, h.request("POST", ids[1], "/fetches", `{"name":""}`, nil))
}
