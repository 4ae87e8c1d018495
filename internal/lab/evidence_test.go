package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const sudoLog = `{
    "accept": {"uuid": "1", "submit_time": {"seconds": 100, "nanoseconds": 500000000}, "runargv": ["/usr/bin/apt-get", "update"]},
    "exit": {"uuid": "1", "server_time": {"seconds": 102, "nanoseconds": 0}, "run_time": {"seconds": 1, "nanoseconds": 250000000}, "exit_value": 100},
    "reject": {"uuid": "2", "reason": "a password is required", "runargv": ["list"]},
    "accept": {"uuid": "3", "submit_time": {"seconds": 110, "nanoseconds": 0}, "runargv": ["list"]},
    "accept": {"uuid": "4", "submit_time": {"seconds": 111, "nanoseconds": 0}, "runargv": ["/usr/bin/unattended-upgrades", "-d"]},
    "accept": {"uuid": "5", "submit_time": {"seconds": 130, "nanoseconds": 0}, "runargv": ["/usr/bin/unattended-upgrades", "-d"]}`

// host is one that was never made: only its files are there.
func host(t *testing.T, files map[string]string) *Host {
	t.Helper()
	h := newHost(&Cluster{dir: t.TempDir()}, NodeConfig{Name: "a"}, 10)
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
		require.NoError(t, os.WriteFile(h.path(name), []byte(text), 0o644))
	}
	return h
}

func TestCommands_OfSudosLog_BelongToTheJobThatRanThem(t *testing.T) {
	jobs := "home/stackato/.local/state/katoflow/jobs/"
	h := host(t, map[string]string{
		"var/log/sudo.json":  sudoLog, // the last member is still being written
		jobs + "r/started":   "boot 99 x\n",
		jobs + "r/script":    "exec sudo -n apt-get update\n",
		jobs + "u1/started":  "boot 111 x\n",
		jobs + "u1/script":   "exec sudo -n unattended-upgrades -d\n",
		jobs + "u2/started":  "boot 140 x\n",
		jobs + "u2/script":   "exec sudo -n unattended-upgrades -d\n",
		jobs + "u3/script":   "exec sudo -n unattended-upgrades -d\n", // never started
		jobs + "odd/started": "\n",
	})
	for name, at := range map[string]int64{"r": 99, "u1": 111, "u2": 140} {
		require.NoError(t, os.Chtimes(h.path(jobs+name+"/started"), time.Unix(at, 0), time.Unix(at, 0)))
	}
	ran, err := h.Commands()
	require.NoError(t, err)
	require.Equal(t, []Execution{
		{Node: "a", Argv: []string{"apt-get", "update"}, Job: "r", Start: time.Unix(100, 5e8), End: time.Unix(101, 75e7), ExitCode: 100},
		{Node: "a", Argv: []string{"unattended-upgrades", "-d"}, Job: "u1", Start: time.Unix(111, 0)},
		{Node: "a", Argv: []string{"unattended-upgrades", "-d"}, Job: "u1", Start: time.Unix(130, 0)},
	}, ran, "the second run of one job is seen as one")
}

func TestCommands_OfAHostThatHasDoneNothing_AreNone(t *testing.T) {
	ran, err := host(t, nil).Commands()
	require.NoError(t, err)
	require.Empty(t, ran)
}

func TestPackages_JournalOfDpkg_OverridesItsStatus(t *testing.T) {
	entry := func(name, status, version string) string {
		return "Package: " + name + "\nStatus: " + status + "\nVersion: " + version + "\nDescription: x\n y: z\n"
	}
	h := host(t, map[string]string{
		"var/lib/dpkg/status": entry(PackageQuick, "install ok installed", "2.0") + "\n" + entry(PackageSlow, "install ok installed", "1.0") + "\n" +
			entry(PackageReboot, "install ok installed", "1.0") + "\n" + entry(PackageSSH, "install ok installed", "2.0") + "\n" + entry(PackageBroken, "hold ok installed", "1.0"),
		"var/lib/dpkg/updates/0001":  entry(PackageSlow, "install ok half-configured", "2.0"),
		"var/lib/dpkg/updates/tmp.i": "Package: " + PackageReboot + "\nSta",
	})
	half, err := h.HalfConfigured()
	require.NoError(t, err)
	require.Equal(t, []string{PackageSlow}, half)
	pending, err := h.PendingCount()
	require.NoError(t, err)
	require.Equal(t, 1, pending, "the one on hold does not count")
}
