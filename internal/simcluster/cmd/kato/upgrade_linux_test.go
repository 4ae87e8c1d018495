package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// losing is a Database that counts how often its buildpacks are lost.
type losing struct {
	katodouble.Database
	lost atomic.Int32
}

// LoseBuildpacks counts.
func (l *losing) LoseBuildpacks() { l.lost.Add(1) }

const offered = `{"upgrade":{"version":"1.2.0","releases":["1.3.0"]}}`

func TestUpgrade_OfHosts_GoesOneByOne(t *testing.T) {
	db := &losing{}
	server := httptest.NewServer(katodouble.DatabaseHandler(db))
	defer server.Close()
	h := startWith(t, func(h *hosts) { h.database = server.URL })
	for _, id := range ids {
		h.patch(id, offered)
	}
	require.Equal(t, http.StatusBadRequest, h.request(http.MethodPatch, ids[1], "/state", `{"upgrade":{"fault":"explodes"}}`, nil))
	out := h.ok(ids[0], "node", "upgrade", "--cluster", "--skip-confirmation")
	require.Less(t, strings.Index(out, ids[1]), strings.Index(out, ids[2]))
	require.Less(t, strings.Index(out, ids[2]), strings.Index(out, ids[0]))
	require.Equal(t, ids[0]+"  1.3.0  upgraded\n"+ids[1]+"  1.3.0  upgraded\n"+ids[2]+"  1.3.0  upgraded\n", h.ok(ids[1], "node", "upgrade", "--status"))
	require.Equal(t, "1.3.0\n", h.ok(ids[1], "node", "version", ids[2]))
	apps := 0
	for _, id := range ids {
		s := h.state(id)
		require.Equal(t, katodouble.Upgrade{Releases: []string{"1.3.0"}, Previous: "1.2.0"}, s.Upgrade)
		require.False(t, s.Retired)
		require.Empty(t, s.Stopped)
		apps += s.Apps
	}
	require.Equal(t, 8, apps)
	require.EqualValues(t, 1, db.lost.Load())
	_, errs, exit := h.kato(ids[1], "node", "version", "10.9.9.9")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Node 10.9.9.9 is not part of the cluster\n", errs)
	h.stop(ids[2])
	_, errs, _ = h.kato(ids[1], "node", "version", ids[2])
	require.Equal(t, "ERROR: Could not connect to node "+ids[2]+": No route to host\n", errs)
}

func TestUpgrade_KilledOnAHost_LeavesTheOtherOneInterrupted(t *testing.T) {
	h := start(t)
	for _, id := range ids {
		h.patch(id, offered)
	}
	h.patch(ids[1], `{"upgrade":{"seconds":60}}`)
	cmd := h.command(ids[0], "node", "upgrade", "--skip-confirmation", "--node", ids[1])
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return h.state(ids[1]).Upgrade.Interrupted == "1.3.0" }, 10*time.Second, 10*time.Millisecond)
	require.True(t, h.state(ids[0]).Upgrading)
	_, errs, exit := h.kato(ids[0], "node", "upgrade", "--skip-confirmation")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Another upgrade is running\n", errs)
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return !h.state(ids[0]).Upgrading }, 10*time.Second, 10*time.Millisecond)

	// What is left outlives a boot.
	h.stop(ids[1])
	h.boot(ids[1])
	s := h.state(ids[1])
	require.Equal(t, []any{"1.2.0", "1.3.0", "1.2.0", []string{"base", "dea"}}, []any{s.Version, s.Upgrade.Interrupted, s.Upgrade.Previous, s.Stopped})
	h.patch(ids[1], `{"upgrade":{"heal":true}}`)
	h.ok(ids[0], "node", "upgrade", "--skip-confirmation", "--resume", "--node", ids[1])
	s = h.state(ids[1])
	require.Equal(t, []any{"1.3.0", "", []string{}}, []any{s.Version, s.Upgrade.Interrupted, s.Stopped})
}

func TestUpgrade_OfAHostThatReboots_WaitsForItsAgent(t *testing.T) {
	dir := t.TempDir()
	h := startWith(t, func(h *hosts) {
		h.marker, h.reboot = filepath.Join(dir, "failed"), []string{"touch", filepath.Join(dir, "reboots")}
	})
	for _, id := range ids {
		h.patch(id, offered)
	}
	h.patch(ids[1], `{"upgrade":{"restart":"reboot","failed_marker":true}}`)
	require.FileExists(t, filepath.Join(dir, "failed"))
	cmd := h.command(ids[0], "node", "upgrade", "--skip-confirmation", "--node", ids[1])
	done := make(chan struct{})
	var out, errs string
	var exit int
	go func() { defer close(done); out, errs, exit = finish(t, cmd) }()
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(dir, "reboots")); return err == nil }, 10*time.Second, 10*time.Millisecond)
	s := h.state(ids[1])
	require.Equal(t, []any{"1.3.0", "", []string{"base", "dea"}}, []any{s.Version, s.Upgrade.Interrupted, s.Stopped})
	require.NoFileExists(t, filepath.Join(dir, "failed"))
	h.stop(ids[1])
	select {
	case <-done:
		require.Fail(t, "it did not wait", out+errs)
	case <-time.After(time.Second):
	}
	h.boot(ids[1])
	<-done
	require.Zero(t, exit, errs)
	require.Contains(t, out, "upgraded to 1.3.0\n")
	require.Empty(t, h.state(ids[1]).Stopped)
}
