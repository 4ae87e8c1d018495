package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func execute(ctx context.Context, args ...string) (string, error) {
	cmd := newCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

// start serves a cluster until the test ends and returns what its ready file says.
func start(t *testing.T, args ...string) (string, readyFile) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "c")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := execute(ctx, append([]string{"serve", "--dir", dir}, args...)...)
		done <- err
	}()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
		require.NoFileExists(t, filepath.Join(dir, "ready"))
	})
	var ready readyFile
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "ready"))
		return err == nil && json.Unmarshal(b, &ready) == nil
	}, 10*time.Second, 5*time.Millisecond)
	return dir, ready
}

func TestServe_FaultsAndShow_ReachTheCluster(t *testing.T) {
	dir, ready := start(t, "--boot-time", "0s")
	for _, f := range []string{ready.Inventory, ready.Key, ready.KnownHosts} {
		require.FileExists(t, f)
	}
	fi, err := os.Stat(ready.Key)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, fi.Mode().Perm())
	out, err := execute(t.Context(), "show", "--dir", dir)
	require.NoError(t, err)
	require.Contains(t, out, "filesystem-1")
	_, err = execute(t.Context(), "fault", "--dir", dir, "dea-1", "power-off")
	require.NoError(t, err)
	out, err = execute(t.Context(), "show", "--dir", dir, "-o", "json")
	require.NoError(t, err)
	require.Contains(t, out, `"running": false`)
	_, err = execute(t.Context(), "fault", "--control", ready.Control, "dea-1", "power-on")
	require.NoError(t, err)
	out, err = execute(t.Context(), "show", "--dir", dir, "events")
	require.NoError(t, err)
	require.Contains(t, out, "power off")
	_, err = execute(t.Context(), "show", "--dir", dir, "commands")
	require.NoError(t, err)
	for _, wrong := range [][]string{{"dea-9", "heal"}, {"dea-1", "burn"}, {"dea-1", "latency", "soon"}} {
		_, err = execute(t.Context(), append([]string{"fault", "--dir", dir}, wrong...)...)
		require.Error(t, err, wrong)
	}
}

func TestServe_BadInput_SaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	nodes := filepath.Join(dir, "nodes.yaml")
	require.NoError(t, os.WriteFile(nodes, []byte("- name: a\n  colour: red\n"), 0o644))
	mounts := filepath.Join(dir, "mounts.yaml")
	require.NoError(t, os.WriteFile(mounts, []byte("- name: a\n  mounts: [{path: /run/x}]\n"), 0o644))
	for want, args := range map[string][]string{
		"address already in use":     {"serve", "--dir", dir, "--control", port},
		"neither als nor plain":      {"serve", "--dir", dir, "--platform", "vms"},
		"exclude each other":         {"serve", "--dir", dir, "--count", "3", "--nodes-file", nodes},
		"not between":                {"serve", "--dir", dir, "--count", "-1"},
		"no system folder":           {"serve", "--dir", dir, "--nodes-file", mounts},
		"colour":                     {"serve", "--dir", dir, "--nodes-file", nodes},
		"no cluster runs in":         {"show", "--dir", dir},
		"requires at least 2 arg(s)": {"fault", "core"},
	} {
		_, err := execute(t.Context(), args...)
		require.ErrorContains(t, err, want)
	}
}

func TestServe_NodesFile_MakesThoseNodes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nodes.yaml")
	require.NoError(t, os.WriteFile(file, []byte("- name: web-1\n- name: web-2\n  container: true\n  mounts: [{path: /mnt/nas, size: 1048576}]\n"), 0o644))
	dir, _ := start(t, "--platform", "plain", "--nodes-file", file)
	out, err := execute(t.Context(), "show", "--dir", dir)
	require.NoError(t, err)
	require.Contains(t, out, "web-2")
}
