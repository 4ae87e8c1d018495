package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// exportTo is a folder in which kato may write.
func exportTo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

func (h *hosts) export(id, dir string, args ...string) *exec.Cmd {
	cmd := h.command(id, append([]string{"data", "export"}, args...)...)
	cmd.Dir = dir
	return cmd
}

func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestDataExport_OnAHost_IsAnArchiveThatTarReads(t *testing.T) {
	h := start(t)
	dir := exportTo(t)
	h.patch(ids[0], `{"export":{"size":3000000}}`)
	out, errs, exit := finish(t, h.export(ids[0], dir, "--cluster", "--base-dir", dir, "x.tgz"))
	require.Zero(t, exit, errs)
	require.Contains(t, out, "Export finished: "+dir+"/x.tgz\n")
	list, err := exec.Command("tar", "tzf", filepath.Join(dir, "x.tgz")).Output()
	require.NoError(t, err)
	require.Contains(t, strings.Split(string(list), "\n"), "main-db")
	fi, err := os.Stat(filepath.Join(dir, "x.tgz"))
	require.NoError(t, err)
	require.Greater(t, fi.Size(), int64(3000000))
	require.Equal(t, []string{"x.tgz"}, left(t, dir))
	require.Equal(t, int64(3000000), h.state(ids[0]).Export.Size)
	h.stop(ids[2])
	_, errs, exit = finish(t, h.export(ids[0], dir, "--cluster", "--base-dir", dir, "y.tgz"))
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "Could not connect to node "+ids[2])
}

func TestDataExport_OnTwoHosts_ExcludesTheClustersAndAKilledOneDoesNot(t *testing.T) {
	h := start(t)
	dir := exportTo(t)
	h.patch(ids[1], `{"export":{"fault":"hangs","times":1}}`)
	first := h.export(ids[1], dir, "--cluster", "--base-dir", dir, "first.tgz")
	require.NoError(t, first.Start())
	half := func() bool {
		fi, err := os.Stat(filepath.Join(dir, "first.tgz"))
		return err == nil && fi.Size() > 128<<10
	}
	require.Eventually(t, half, 10*time.Second, 5*time.Millisecond)
	require.True(t, h.state(ids[1]).Exporting)
	require.Empty(t, h.state(ids[1]).Export.Fault, "it is used up when the export begins")
	for _, id := range ids[:2] {
		for _, mode := range []string{"--cluster", "--only-this-node"} {
			_, errs, exit := finish(t, h.export(id, dir, mode, "second.tgz"))
			require.Equal(t, 1, exit)
			require.Equal(t, "ERROR: An export is already in progress.\n", errs)
		}
	}
	require.NoError(t, first.Process.Kill())
	require.Error(t, first.Wait())
	require.Eventually(t, func() bool { return !h.state(ids[1]).Exporting && !h.state(ids[0]).Exporting }, 10*time.Second, 5*time.Millisecond)
	require.True(t, half(), "what was killed leaves what it has written")
	_, errs, exit := finish(t, h.export(ids[2], dir, "--cluster", "--base-dir", dir, "second.tgz"))
	require.Zero(t, exit, errs)
}

func TestDataExport_EndedBySIGTERM_LeavesItsPart(t *testing.T) {
	h := start(t)
	dir := exportTo(t)
	h.patch(ids[0], `{"export":{"seconds":60}}`)
	cmd := h.export(ids[0], dir, "--only-this-node", "--base-dir", dir, "x.tgz")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(left(t, dir)) == 2 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, 143, cmd.ProcessState.ExitCode())
	require.Contains(t, left(t, dir), "x.tgz")
	require.Error(t, exec.Command("tar", "tzf", filepath.Join(dir, "x.tgz")).Run())
}

func TestDataExport_Faults_EndAfterTheirTimesAlsoWhenTheCoreIsAway(t *testing.T) {
	h := start(t)
	dir := exportTo(t)
	h.stop(ids[0])
	h.patch(ids[1], `{"export":{"fault":"fails","times":2,"exit":7}}`)
	for _, want := range []int{7, 7, 0} {
		_, errs, exit := finish(t, h.export(ids[1], dir, "--only-this-node", "--base-dir", dir, "x.tgz"))
		require.Equal(t, want, exit, errs)
	}
	h.patch(ids[1], `{"export":{"fault":"error-text","times":-1},"exit_zero":true}`)
	_, errs, exit := finish(t, h.export(ids[1], dir, "--only-this-node", "--base-dir", dir, "y.tgz"))
	require.Zero(t, exit)
	require.Contains(t, errs, "ERROR: Could not dump")
	_, errs, exit = finish(t, h.export(ids[1], dir, "--cluster", "--base-dir", dir, "y.tgz"))
	require.Zero(t, exit, "an old kato exits 0")
	require.Contains(t, errs, "ERROR: Could not connect to node")
	require.Equal(t, []string{"x.tgz"}, left(t, dir))
}
