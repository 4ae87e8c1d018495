package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const sudoers = LoginUser + " ALL=(root) NOPASSWD: /usr/bin/apt-get update, /usr/bin/unattended-upgrades -d, /usr/bin/dpkg --configure -a, /usr/sbin/reboot, /sbin/reboot\n"

// open makes a lab for a test; it and everything in it are gone when the test ends.
func open(t *testing.T, name string) *Lab {
	t.Helper()
	if os.Getenv("KATOFLOW_LAB") == "" {
		t.Skip("real hosts are made by `make lab-test` (root on Linux); KATOFLOW_LAB=1 runs this test alone")
	}
	require.NoError(t, Supported())
	l, err := Open(t.Context(), Config{Name: name, Sudoers: []byte(sudoers), Log: t.Logf})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		gone(t, name)
	})
	return l
}

// gone requires that nothing of a lab is left on the machine.
func gone(t *testing.T, name string) {
	t.Helper()
	for _, pattern := range []string{defaultDir(name), "/run/netns/katoflow-" + name + "-*", "/sys/class/net/kf" + name + "*", "/sys/fs/cgroup/*/katoflow-" + name} {
		left, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.Empty(t, left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), defaultDir(name)+"/")
	require.Empty(t, loops(defaultDir(name)))
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !condition() {
		require.False(t, time.Now().After(deadline), "waited for "+what)
		time.Sleep(20 * time.Millisecond)
	}
}

// asUser runs a command as the login user, in a session of its own.
func asUser(t *testing.T, h *Host, command string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return h.Exec(ctx, `exec su - `+LoginUser+` -c "$1"`, command)
}

func TestHost_UpgradedAndRebooted_TellsWhatRanAndWhatBecameOfIt(t *testing.T) {
	l := open(t, "ua")
	c, err := l.Start(t.Context(), ClusterConfig{Platform: "plain", Nodes: []NodeConfig{{Name: "a", Slow: 500 * time.Millisecond}}})
	require.NoError(t, err)
	h := c.Host("a")
	pending, err := h.PendingCount()
	require.NoError(t, err)
	require.Equal(t, 4, pending)
	first := h.BootID()
	require.Len(t, first, 36)
	require.False(t, h.RebootRequired())

	_, err = asUser(t, h, "sudo -n apt-get update && sudo -n unattended-upgrades -d")
	require.NoError(t, err)
	pending, err = h.PendingCount()
	require.NoError(t, err)
	require.Zero(t, pending)
	require.True(t, h.RebootRequired())
	versions, err := h.Packages()
	require.NoError(t, err)
	require.Equal(t, map[string]string{PackageQuick: "2.0", PackageSlow: "2.0", PackageReboot: "2.0", PackageSSH: "2.0", PackageBroken: "1.0"}, versions)

	_, _ = asUser(t, h, "sudo -n reboot")
	eventually(t, "the second boot", func() bool { return h.Boots() == 2 })
	require.NoError(t, h.WaitUp(t.Context(), time.Minute))
	require.NotEqual(t, first, h.BootID())
	require.False(t, h.RebootRequired())
	require.Equal(t, 1, c.MaxAway())
	ran, err := h.Commands()
	require.NoError(t, err)
	var lines []string
	for _, e := range ran {
		lines = append(lines, e.Command())
		require.Zero(t, e.ExitCode, e.Command())
		if e.Argv[0] != "reboot" {
			require.True(t, e.End.After(e.Start), e.Command())
		}
	}
	require.Equal(t, []string{"apt-get update", "unattended-upgrades -d", "reboot"}, lines)
	require.NoError(t, c.Close())
}

func TestHost_Faults_AreRealAndCanBeUndone(t *testing.T) {
	l := open(t, "ub")
	c, err := l.Start(t.Context(), ClusterConfig{Platform: "plain", Nodes: []NodeConfig{{Name: "a", Shell: BusyboxShell}, {Name: "b"}}})
	require.NoError(t, err)
	h := c.Host("a")
	bridge, err := net.InterfaceByName(l.link(0))
	require.NoError(t, err)
	ports, err := os.ReadDir("/sys/class/net/" + bridge.Name + "/brif")
	require.NoError(t, err)
	for _, p := range ports {
		port, err := net.InterfaceByName(p.Name())
		require.NoError(t, err)
		require.NotEqual(t, port.HardwareAddr, bridge.HardwareAddr, "the network has the address of a host's link, and another one when that is gone")
	}

	require.NoError(t, h.FillDisk(true))
	_, err = asUser(t, h, "echo 1 >full")
	require.ErrorContains(t, err, "No space left")
	require.NoError(t, h.FillDisk(false))
	_, err = asUser(t, h, "echo 1 >full")
	require.NoError(t, err)

	release, err := h.HoldAptLock(0)
	require.NoError(t, err)
	out, err := asUser(t, h, "sudo -n unattended-upgrades -d")
	require.True(t, strings.Contains(out, "Lock could not be acquired"), "%v %s", err, out)
	release()
	_, err = asUser(t, h, "sudo -n apt-get update")
	require.NoError(t, err)

	b := c.Host("b")
	now, err := asUser(t, b, "date +%s")
	require.NoError(t, err)
	require.NoError(t, b.SkewClock(24*time.Hour))
	later, err := asUser(t, b, "date +%s")
	require.NoError(t, err)
	require.NoError(t, b.SkewClock(0))
	require.Equal(t, len(now), len(later))
	require.Greater(t, later[:6], now[:6])

	require.NoError(t, h.SudoPassword(true))
	_, err = asUser(t, h, "sudo -n apt-get update")
	require.ErrorContains(t, err, "password is required")
	require.NoError(t, h.SudoPassword(false))

	require.NoError(t, h.FailCommand("unattended-upgrades", 1, 7, "E: on fire"))
	_, err = asUser(t, h, "sudo -n unattended-upgrades -d")
	require.ErrorContains(t, err, "exit status 7: E: on fire")
	_, err = asUser(t, h, "sudo -n unattended-upgrades -d")
	require.NoError(t, err)
	require.NoError(t, h.FailCommand("apt-get update", -1, 3, ""))
	_, err = asUser(t, h, "apt-get --version")
	require.NoError(t, err)
	_, err = asUser(t, h, "sudo -n apt-get update")
	require.ErrorContains(t, err, "exit status 3")
	require.NoError(t, h.FailCommand("apt-get install", 1, 4, "E: two of one program"))
	_, err = asUser(t, h, "apt-get install")
	require.ErrorContains(t, err, "exit status 4: E: two of one program")
	_, err = asUser(t, h, "sudo -n apt-get update")
	require.ErrorContains(t, err, "exit status 3")
	require.NoError(t, h.HealCommands())

	require.NoError(t, h.Silence(true))
	require.Error(t, h.banner())
	require.NoError(t, h.Silence(false))
	eventually(t, "the network", func() bool { return h.banner() == nil })
	require.NoError(t, h.Refuse(true))
	require.Error(t, h.banner())
	require.NoError(t, h.Refuse(false))
	eventually(t, "sshd", func() bool { return h.banner() == nil })

	known, err := os.ReadFile(h.path("etc/ssh/ssh_host_ed25519_key.pub"))
	require.NoError(t, err)
	require.NoError(t, h.ChangeHostKey())
	other, err := os.ReadFile(h.path("etc/ssh/ssh_host_ed25519_key.pub"))
	require.NoError(t, err)
	require.NotEqual(t, known, other)
	require.NoError(t, h.RestoreHostKey())

	boots := h.Boots()
	require.NoError(t, h.RebootNow())
	eventually(t, "the boot after a reset", func() bool { return h.Boots() > boots && h.banner() == nil })
	h.PowerOff()
	require.False(t, h.Running())
	require.Empty(t, h.BootID())
	h.PowerOn()
	require.NoError(t, h.WaitUp(t.Context(), time.Minute))
	h.NeverReturn(true)
	eventually(t, "the reboot to be taken", func() bool { return h.do("systemctl --no-block reboot") == nil || !h.Running() }) // a system that has just come up may refuse
	eventually(t, "the host to stay off", func() bool { return !h.Running() })
	h.PowerOn()
	require.NoError(t, h.WaitUp(t.Context(), time.Minute))
	require.Equal(t, 1, c.MaxAway())
	require.Equal(t, 1, c.Host("b").Boots())
}

// TestMain lets the test binary be the process that holds a lab and is killed.
func TestMain(m *testing.M) {
	if name := os.Getenv("KATOFLOW_LAB_HELD"); name != "" {
		l, err := Open(context.Background(), Config{Name: name})
		if err == nil {
			_, err = l.Start(context.Background(), ClusterConfig{Platform: "plain", Nodes: []NodeConfig{{Name: "a", Disks: []Disk{{Path: "/mnt/ebs"}}}}})
		}
		os.Stdout.WriteString(fmt.Sprintln("made:", err))
		select {}
	}
	os.Exit(m.Run())
}

func TestLab_ItsProcessIsKilled_NothingIsLeft(t *testing.T) {
	if os.Getenv("KATOFLOW_LAB") == "" {
		t.Skip("real hosts are made by `make lab-test` (root on Linux); KATOFLOW_LAB=1 runs this test alone")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "KATOFLOW_LAB_HELD=uc")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, err)
	require.Equal(t, "made: <nil>\n", line)
	eventually(t, "the guard to remove the lab", func() bool {
		_, err := os.Stat(defaultDir("uc"))
		return os.IsNotExist(err)
	})
	gone(t, "uc")
}

func TestLab_WrongNames_AreRefusedAndNothingIsRemoved(t *testing.T) {
	for _, name := range []string{"", "Lab", "toolong", "a/b", "..", "a b"} {
		require.ErrorContains(t, Clean(t.Context(), name, t.TempDir()), "1 to 6 of a-z and 0-9")
	}
}

func TestCluster_OfKato_KeepsItsStatesAndTellsThem(t *testing.T) {
	l := open(t, "ud")
	l.cfg.Kato = filepath.Join("..", "..", "bin", "kato")
	c, err := l.Start(t.Context(), ClusterConfig{Nodes: DefaultNodes(2)})
	require.NoError(t, err)
	core, dea := c.Host("core"), c.Host("dea-1")
	on, err := c.Maintenance()
	require.NoError(t, err)
	require.False(t, on)
	_, err = asUser(t, dea, "kato config set cloud_controller_ng maintenance_mode true --json")
	require.NoError(t, err)
	on, err = c.Maintenance()
	require.NoError(t, err)
	require.True(t, on)
	require.NoError(t, dea.Inject("stop-role", "dea"))
	out, err := asUser(t, core, "kato status --json")
	require.NoError(t, err)
	require.Contains(t, out, "STOPPED")
	require.ErrorContains(t, dea.Inject("stop-role", "nonsense"), "nonsense")
	require.ErrorContains(t, dea.Inject("nonsense"), "no fault")
	require.NoError(t, dea.RebootNow())
	eventually(t, "the boot", func() bool { return dea.Boots() == 2 })
	require.NoError(t, dea.WaitUp(t.Context(), time.Minute))
	out, err = asUser(t, core, "kato status --json")
	require.NoError(t, err)
	require.NotContains(t, out, "STOPPED")
	ran, err := dea.Commands()
	require.NoError(t, err)
	require.Len(t, ran, 1)
	require.Equal(t, "kato config set cloud_controller_ng maintenance_mode true --json", ran[0].Command())
}
