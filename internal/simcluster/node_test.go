package simcluster

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/goccy/go-yaml"
)

// reconnect dials until the node answers.
func reconnect(t testing.TB, n *Node) *ssh.Client {
	t.Helper()
	var c *ssh.Client
	eventually(t, "node "+n.Name()+" answers", func() bool {
		var err error
		c, err = tryDial(t, n)
		return err == nil
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func TestNode_Reboot_IsANewBootOfTheInstalledKernel(t *testing.T) {
	n := oneNode(t, Config{BootTime: 30 * time.Millisecond})
	c := dial(t, n)
	before := run(t, c, "cat /proc/sys/kernel/random/boot_id; uname -r").out
	require.Equal(t, n.BootID()+"\n"+DefaultKernel+"\n", before)
	r := run(t, c, "sudo -n unattended-upgrades -d")
	require.Equal(t, 0, r.exit, r.out+r.err)
	require.Equal(t, "linux-image-"+DefaultNewKernel+"\n", run(t, c, "tail -n 1 /run/reboot-required.pkgs").out)
	require.Equal(t, DefaultKernel, n.KernelRunning())
	require.Contains(t, run(t, c, "grep -m1 vmlinuz /boot/grub/grub.cfg; readlink /vmlinuz").out, "vmlinuz-"+DefaultNewKernel)
	run(t, c, "sleep 1000 >/dev/null 2>&1 & echo x >/run/lock/x; echo y >/home/stackato/y")
	old := run(t, c, "cat /proc/stat | grep btime").out
	require.Contains(t, n.Processes(), "sleep 1000")
	port := n.Port()
	time.Sleep(1100*time.Millisecond - time.Since(n.boot.started)) // btime has seconds
	require.Equal(t, 0, run(t, c, "sudo -n /sbin/reboot").exit)
	require.Equal(t, []string{"power"}, n.OutOfService())
	eventually(t, "the node is down", func() bool { return !n.Running() || n.Boots() == 2 })
	require.Error(t, c.Wait(), "the connection is dropped")
	c = reconnect(t, n)
	require.Equal(t, port, n.Port())
	require.Equal(t, 2, n.Boots())
	after := run(t, c, "cat /proc/sys/kernel/random/boot_id; uname -r").out
	require.Equal(t, n.BootID()+"\n"+DefaultNewKernel+"\n", after)
	require.NotEqual(t, before, after)
	require.NotEqual(t, old, run(t, c, "cat /proc/stat | grep btime").out)
	require.Equal(t, "y\n", run(t, c, "ls /run/lock; ls /run/reboot-required 2>/dev/null; cat /home/stackato/y").out)
	require.NotContains(t, n.Processes(), "sleep 1000")
	require.False(t, n.RebootRequired())
	require.Zero(t, n.PendingCount())
	require.Equal(t, "3.0.14-1~deb12u2", n.Packages()["openssl"], "packages survive")
	require.Empty(t, n.OutOfService())
	var kinds []string
	for _, e := range n.Commands() {
		kinds = append(kinds, e.Command())
	}
	require.Equal(t, []string{"unattended-upgrades -d", "reboot"}, kinds)
}

func TestNode_ContainerReboot_MovesPID1OnTheHostsClock(t *testing.T) {
	n := oneNode(t, Config{Nodes: []NodeConfig{{Name: "ct", Container: true}}})
	c := dial(t, n)
	require.Equal(t, "systemd-nspawn\n", run(t, c, "systemd-detect-virt -c").out)
	stat := run(t, c, "cut -d' ' -f22 /proc/1/stat; grep btime /proc/stat; uname -r").out
	time.Sleep(20 * time.Millisecond) // a clock tick
	n.RebootNow()
	eventually(t, "second boot", func() bool { return n.Boots() == 2 })
	again := run(t, reconnect(t, n), "cut -d' ' -f22 /proc/1/stat; grep btime /proc/stat; uname -r").out
	require.NotEqual(t, stat, again)
	require.Equal(t, strings.SplitN(stat, "\n", 2)[1], strings.SplitN(again, "\n", 2)[1])
}

func TestNode_RebootFaults_DoWhatTheySay(t *testing.T) {
	n := oneNode(t, Config{BootTime: 10 * time.Millisecond})
	t.Run("does nothing", func(t *testing.T) {
		n.RebootDoesNothing(true)
		require.Equal(t, 0, run(t, dial(t, n), "sudo reboot").exit)
		n.RebootDoesNothing(false)
		require.Equal(t, 1, n.Boots())
		require.True(t, n.Running())
	})
	t.Run("old kernel", func(t *testing.T) {
		n.KernelNotUpdated(true)
		run(t, dial(t, n), "sudo apt-get -y dist-upgrade; sudo reboot")
		eventually(t, "second boot", func() bool { return n.Boots() == 2 })
		require.Equal(t, DefaultKernel, n.KernelRunning())
		n.KernelNotUpdated(false)
	})
	t.Run("never returns until powered on", func(t *testing.T) {
		reconnect(t, n)
		n.NeverReturn(true)
		n.RebootNow()
		eventually(t, "off", func() bool { return !n.Running() })
		_, err := tryDial(t, n)
		require.Error(t, err)
		require.Regexp(t, "refused|reset", err.Error())
		n.NeverReturn(false)
		n.PowerOn()
		require.Equal(t, 3, n.Boots())
		reconnect(t, n)
	})
	t.Run("power off takes processes and connections", func(t *testing.T) {
		c := reconnect(t, n)
		done := make(chan result, 1)
		go func() { done <- run(t, c, "sleep 100") }()
		eventually(t, "sleep runs", func() bool { return strings.Contains(strings.Join(n.Processes(), ";"), "sleep 100") })
		n.PowerOff()
		require.Equal(t, -1, (<-done).exit)
		require.Empty(t, n.Processes())
		n.PowerOn()
	})
}

func TestNode_UpgradeInterruptedByReboot_NeedsDpkgConfigure(t *testing.T) {
	n := oneNode(t, Config{UpgradeTime: 10 * time.Second, BootTime: -1})
	c := dial(t, n)
	go func() {
		s, err := c.NewSession()
		if err == nil {
			s.Run("sudo unattended-upgrades -d")
		}
	}()
	eventually(t, "a package is being installed", func() bool { return len(n.HalfConfigured()) > 0 })
	require.Equal(t, []string{"upgrade"}, n.OutOfService())
	n.RebootNow()
	eventually(t, "second boot", func() bool { return n.Boots() == 2 })
	require.Equal(t, 137, n.Commands()[0].ExitCode)
	c = reconnect(t, n)
	n.cluster.cfg.UpgradeTime = 0
	require.NotEmpty(t, run(t, c, "sudo dpkg --audit").out)
	r := run(t, c, "sudo unattended-upgrades -d")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "dpkg was interrupted, you must manually run 'dpkg --configure -a'")
	require.Equal(t, 100, run(t, c, "sudo apt-get -y upgrade").exit)
	require.Equal(t, 0, run(t, c, "sudo dpkg --configure -a").exit)
	require.Empty(t, run(t, c, "sudo dpkg --audit").out)
	require.Equal(t, 0, run(t, c, "sudo unattended-upgrades -d").exit)
	require.Zero(t, n.PendingCount())
}

func TestNode_AptLockHeld_IsSeenAndRefused(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	probe := `i=$(stat -c %i /var/lib/dpkg/lock-frontend); grep -c ":$i 0 EOF" /proc/locks; sudo fuser /var/lib/dpkg/lock-frontend 2>/dev/null`
	require.Equal(t, "0\n", run(t, c, probe).out)
	release := n.HoldAptLock(0)
	require.Regexp(t, `^1\n +\d+$`, run(t, c, probe).out)
	r := run(t, c, "sudo apt-get update")
	require.Equal(t, 100, r.exit)
	require.Regexp(t, `E: Could not get lock /var/lib/apt/lists/lock\. It is held by process \d+ \(apt`, r.err)
	r = run(t, c, "sudo unattended-upgrade -d")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.out, "Lock could not be acquired")
	go func() {
		runs := func() bool {
			return slices.ContainsFunc(n.Processes(), func(p string) bool { return strings.Contains(p, "apt-get") })
		}
		for began := time.Now(); !runs() && time.Since(began) < 10*time.Second; {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(500 * time.Millisecond) // it asks for the lock
		release()
	}()
	r = run(t, c, "sudo apt-get -o DPkg::Lock::Timeout=20 -y dist-upgrade")
	require.Equal(t, 0, r.exit, r.err)
	require.Contains(t, r.out, "Waiting for cache lock")
	require.Equal(t, "0\n", run(t, c, probe).out)
}

func TestNode_Packages_PrintAsDebianDoes(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	require.Contains(t, run(t, c, "apt-get -s dist-upgrade").out, "Inst openssl [3.0.13-1~deb12u1] (3.0.14-1~deb12u2 Debian-Security:12/stable-security [amd64])\n")
	require.Equal(t, "openssl 3.0.13-1~deb12u1 install ok installed\n", run(t, c, `dpkg-query -W -f '${Package} ${Version} ${Status}\n' openssl`).out)
	require.Equal(t, 1, run(t, c, "dpkg-query -W nothing").exit)
	require.Contains(t, run(t, c, "apt-cache policy openssl").out, "  Candidate: 3.0.14-1~deb12u2\n")
	require.Equal(t, 100, run(t, c, "apt-get update").exit, "not as the login user")
	require.Equal(t, "openssl set on hold.\nopenssl\n", run(t, c, "sudo apt-mark hold openssl; apt-mark showhold").out)
	out := run(t, c, "sudo unattended-upgrade -d").out
	for _, line := range []string{"Starting unattended upgrades script\n", "Allowed origins are: ", "Package openssl is marked to be held back\n", "Packages that will be upgraded: libssl3 libc6 linux-image-amd64\n", "Log started: ", "Preparing to unpack .../libssl3_", "Unpacking libssl3 (3.0.14-1~deb12u2) over (3.0.13-1~deb12u1) ...\n", "Setting up libc6 (2.36-9+deb12u8) ...\n", "All upgrades installed\n"} {
		require.Contains(t, out, line)
	}
	require.Equal(t, 1, n.PendingCount())
	require.Contains(t, run(t, c, "sudo unattended-upgrade -d").out, "No packages found that can be upgraded unattended")
	require.Contains(t, run(t, c, "grep -A4 '^Package: libc6' /var/lib/dpkg/status").out+run(t, c, "sed -n '/^Package: libc6$/,/^$/p' /var/lib/dpkg/status").out, "Version: 2.36-9+deb12u8")
}

func TestNode_PostinstFails_IsToldAndHealsByConfigure(t *testing.T) {
	n := oneNode(t, Config{Nodes: []NodeConfig{{Name: "one", Pending: []Package{{Name: "nginx", Old: "1", New: "2", PostinstFails: 1}}}}})
	c := dial(t, n)
	r := run(t, c, "sudo unattended-upgrade -d")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.out, "dpkg: error processing package nginx (--configure)")
	require.Equal(t, []string{"nginx"}, n.HalfConfigured())
	require.Equal(t, 0, run(t, c, "sudo dpkg --configure -a").exit)
	require.Empty(t, n.HalfConfigured())
}

func TestNode_Locks_LiveAsLongAsAnybodyHoldsThem(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	for _, tc := range []struct{ name, script, out string }{
		{"free", `flock -n /tmp/l echo got`, "got\n"},
		{"exit code", `flock -n /tmp/l sh -c 'exit 5'; echo $?`, "5\n"},
		{"held by a background process", `flock /tmp/l sh -c 'sleep 77 >/dev/null 2>&1 &'; while ! pgrep -x sleep >/dev/null; do :; done; flock -n /tmp/l true; echo $?; kill $(pgrep -x sleep); flock -w 20 /tmp/l true; echo $?`, "1\n0\n"},
		{"not inherited with -o", `flock -o /tmp/l sh -c 'sleep 77 >/dev/null 2>&1 &'; while ! pgrep -x sleep >/dev/null; do :; done; flock -n /tmp/l true; echo $?; kill $(pgrep -x sleep)`, "0\n"},
		{"held by sudo, not by its payload", `flock /tmp/l sh -c 'sudo sleep 77 >/dev/null 2>&1 &'; while ! pgrep -x sleep >/dev/null; do :; done; flock -n /tmp/l true; echo $?; p=$(pgrep -x sudo); kill -KILL $p 2>/dev/null; echo $?; sudo kill -KILL $p; flock -w 20 /tmp/l pgrep -x sleep >/dev/null; echo $?; sudo kill $(pgrep -x sleep)`, "1\n1\n0\n"},
		{"shared", `flock -s /tmp/l sh -c 'flock -s -n /tmp/l echo both; flock -x -n /tmp/l echo no; echo $?'`, "both\n1\n"},
		{"timeout", `flock /tmp/l sh -c 'flock -w 0.05 /tmp/l echo no; echo $?'`, "1\n"},
		{"other names of the file", `ln /tmp/l /tmp/m; flock /tmp/l sh -c 'mv /tmp/m /tmp/o; flock -n /tmp/o true; echo $?'`, "1\n"},
		{"ended with its holder", `flock /tmp/l sleep 77 >/dev/null 2>&1 & p=$!; while ! pgrep -x sleep >/dev/null; do :; done; kill $p $(pgrep -x sleep); wait $p; flock -w 20 /tmp/l echo got`, "got\n"},
		{"listed", `flock /tmp/l sh -c 'grep -c FLOCK /proc/locks'`, "1\n"},
		{"by descriptor", `exec 9>/tmp/l; flock -n 9 && flock -n /tmp/l true; echo $?; exec 9>&-; flock -n /tmp/l true; echo $?`, "1\n0\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := run(t, c, "sh -s", tc.script)
			require.Equal(t, tc.out, r.out, r.err)
			eventually(t, "sleepers are gone", func() bool { return !strings.Contains(strings.Join(n.Processes(), ";"), "sleep 77") })
		})
	}
}

func TestNode_DropConnections_LeavesDetachedAndForegroundProcesses(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	s, err := c.NewSession()
	require.NoError(t, err)
	require.NoError(t, s.Start("setsid sh -c 'sleep 0.1; echo done >/tmp/detached' </dev/null >/dev/null 2>&1 & while [ ! -e /tmp/go ]; do sleep 0.01; done; echo x; echo done >/tmp/foreground"))
	eventually(t, "it runs", func() bool { return len(n.Processes()) > 2 })
	n.DropConnections()
	require.Error(t, c.Wait())
	require.NoError(t, n.WriteFile("/tmp/go", nil))
	eventually(t, "the detached one ends", func() bool { _, err := n.ReadFile("/tmp/detached"); return err == nil })
	eventually(t, "all ended", func() bool { return len(n.Processes()) == 0 })
	_, err = n.ReadFile("/tmp/foreground")
	require.Error(t, err, "a write to the lost connection ends the shell")
}

func TestNode_SessionEnds_WhenNobodyHoldsItsOutput(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	start := time.Now()
	require.Equal(t, "a\n", run(t, c, "setsid sleep 5 </dev/null >/dev/null 2>&1 & echo a").out)
	require.Less(t, time.Since(start), 3*time.Second)
	require.Equal(t, "a\nb\n", run(t, c, "{ sleep 0.1; echo b; } & echo a").out)
}

func TestNode_NetworkFaults_AreWhatAClientSees(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	n.Refuse(true)
	_, err := tryDial(t, n)
	require.ErrorContains(t, err, "refused")
	require.Equal(t, "a\n", run(t, c, "echo a").out, "open connections stay")
	n.Refuse(false)
	reconnect(t, n)

	n.Silence(true)
	done := make(chan result, 1)
	go func() { done <- run(t, c, "echo late") }()
	select {
	case r := <-done:
		t.Fatalf("answered through a cut network: %+v", r)
	case <-time.After(100 * time.Millisecond):
	}
	n.Silence(false)
	require.Equal(t, "late\n", (<-done).out)

	n.Latency(60 * time.Millisecond)
	start := time.Now()
	run(t, c, "true")
	require.Greater(t, time.Since(start), 60*time.Millisecond)
	n.Latency(0)

	n.ChangeHostKey()
	key := n.HostKey()
	require.NotEqual(t, n.originalKey.PublicKey().Marshal(), key.Marshal())
	cfg := clientConfig(t, n)
	cfg.HostKeyCallback = ssh.FixedHostKey(n.originalKey.PublicKey())
	_, err = ssh.Dial("tcp", net.JoinHostPort(n.Address(), strconv.Itoa(n.Port())), cfg)
	require.ErrorContains(t, err, "host key mismatch")
	n.RestoreHostKey()
	dial(t, n)

	cfg = clientConfig(t, n)
	cfg.User = "root"
	_, err = ssh.Dial("tcp", net.JoinHostPort(n.Address(), strconv.Itoa(n.Port())), cfg)
	require.ErrorContains(t, err, "unable to authenticate")
}

func TestNode_Bastion_ReachesOtherNodesOnly(t *testing.T) {
	c := startCluster(t, Config{})
	core, dea := c.Node("core"), c.Node("dea-1")
	client := dial(t, core)
	conn, err := client.Dial("tcp", net.JoinHostPort(dea.Address(), strconv.Itoa(dea.Port())))
	require.NoError(t, err)
	sc, chans, reqs, err := ssh.NewClientConn(conn, "dea", clientConfig(t, dea))
	require.NoError(t, err)
	inner := ssh.NewClient(sc, chans, reqs)
	defer inner.Close()
	require.Equal(t, "dea-1\n", run(t, inner, "hostname").out)
	_, err = client.Dial("tcp", "192.0.2.1:22")
	require.ErrorContains(t, err, "loopback")
}

func TestNode_DiskFull_OnlyWhatIsThereCanBeWritten(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	require.Equal(t, 0, run(t, c, "cd; printf '%-31s\\n' '- 0' >exit; echo a >f").exit)
	n.FillDisk(true)
	for _, tc := range []struct {
		script, out string
		fails       bool
	}{
		{`cd; echo b >>f`, "", true},
		{`cd; printf x >g`, "", true},
		{`cd; cat /etc/passwd >g`, "", true},
		{`cd; cp /etc/passwd h`, "", true},
		{`cd; mkdir d`, "", true},
		{`cd; dd if=/etc/passwd of=i status=none`, "", true},
		{`cd; printf '%-31s\n' '7 123' | dd of=exit conv=notrunc status=none && cut -c1-5 exit`, "7 123\n", false},
		{`cd; mv f f2 && cat f2 && rm f2`, "a\n", false},
		{`echo x >/run/user/1000/x && cat /run/user/1000/x`, "x\n", false},
		{`df -P / | tail -n 1 | awk '{print $4, $5}'; df --output=avail -k / | tail -n 1`, "0 100%\n0\n", false},
	} {
		r := run(t, c, "sh -c '"+strings.ReplaceAll(tc.script, "'", `'\''`)+"'")
		require.Equal(t, tc.fails, r.exit != 0, "%s: exit %d %s", tc.script, r.exit, r.err)
		require.Equal(t, tc.out, r.out, tc.script)
	}
	require.Contains(t, run(t, c, "cd; cat /etc/passwd >g").err, "No space left on device")
	n.FillDisk(false)
	require.Equal(t, 0, run(t, c, "cd; echo b >>g").exit)
}

func TestNode_CommandFaults_HitAsOftenAsAsked(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	n.FailCommand("apt-get update", 2, 100, "E: no network")
	require.Equal(t, 0, run(t, c, "sudo apt-get -s upgrade").exit)
	require.Equal(t, result{err: "E: no network\n", exit: 100}, run(t, c, "sudo apt-get update"))
	require.Equal(t, 100, run(t, c, "sudo apt-get update").exit)
	require.Equal(t, 0, run(t, c, "sudo apt-get update").exit)
	require.Len(t, n.Commands(), 3)
	require.True(t, n.Commands()[0].Failed)
	require.False(t, n.Commands()[2].Failed)
	n.HangCommand("uname", 1)
	require.Equal(t, 124, run(t, c, "timeout 0.05 uname").exit)
	require.Equal(t, "Linux\n", run(t, c, "timeout 5 uname").out)
	n.SudoPassword(true)
	require.Equal(t, result{err: "sudo: a password is required\n", exit: 1}, run(t, c, "sudo -n true"))
	n.SudoPassword(false)
	n.DegradeSystem(true)
	require.Equal(t, result{out: "degraded\n", exit: 1}, run(t, c, "systemctl is-system-running"))
	require.Contains(t, run(t, c, "systemctl list-units --state=failed --plain --no-legend").out, "failed")
	n.DegradeSystem(false)
	require.Equal(t, result{out: "running\n"}, run(t, c, "systemctl is-system-running"))
	require.Equal(t, result{out: "none\n", exit: 1}, run(t, c, "systemd-detect-virt"))
	n.SkewClock(time.Hour)
	got, err := strconv.ParseInt(strings.TrimSpace(run(t, c, "date +%s").out), 10, 64)
	require.NoError(t, err)
	require.InDelta(t, time.Now().Add(time.Hour).Unix(), got, 5)
}

func TestNode_Permissions_SeparateTheLoginUserFromRoot(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	for _, script := range []string{"echo x >/etc/x", "mkdir /var/lib/katoflow", "echo x >/run/x", "rm /etc/hostname", "cat /root/.profile", "reboot", "/sbin/reboot", "dpkg --configure -a", "echo x >/proc/x"} {
		require.NotZero(t, run(t, c, script).exit, script)
	}
	require.Equal(t, 1, n.Boots())
	require.Equal(t, "root 700\n", run(t, c, "sudo install -d -m 700 -o root /var/lib/k && stat -c '%U %a' /var/lib/k").out)
	require.Equal(t, "stackato\nok\n", run(t, c, "sudo install -d -m 700 -o stackato /var/lib/katoflow/stackato && stat -c %U /var/lib/katoflow/stackato && mkdir /var/lib/katoflow/stackato/jobs && echo ok").out)
	require.NotZero(t, run(t, c, "sudo sh -c 'echo x >/tmp/rootfile'; rm -f /tmp/rootfile; [ ! -e /tmp/rootfile ]").exit)
	require.Equal(t, "1000 0 stackato root\n", run(t, c, `echo $(id -u; sudo id -u; id -un; sudo whoami)`).out)
	require.Equal(t, "p - root /root\n", run(t, c, `export q=1; sudo p=p sh -c 'echo $p ${q:--} $USER $HOME'`).out)
	require.Equal(t, 1, run(t, c, "sudo sleep 30 >/dev/null 2>&1 & while ! pgrep -x sleep >/dev/null; do :; done; kill -KILL $(pgrep -x sleep)").exit, "root's process cannot be killed")
	run(t, c, "sudo kill $(pgrep -x sleep)")
}

func TestNode_Links_NeverLeadOutOfTheTree(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	r := run(t, c, `cd /tmp; ln -s ../../../../../../../../etc/passwd up; ln -s /etc/hostname abs; cat up abs; cat /../../../../etc/hostname; ln -s loop loop; cat loop`)
	require.Equal(t, "root:x:0:0:root:/root:/bin/bash\nstackato:x:1000:1000:,,,:/home/stackato:/bin/bash\none\none\n", r.out)
	require.Contains(t, r.err, "Too many levels of symbolic links")
	require.Equal(t, "/run/lock\n", run(t, c, "readlink -f /var/lock").out)
}

func TestSession_Protocol_SignalsShellsAndStdin(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
	require.NoError(t, err)
	require.False(t, ok)
	s, err := c.NewSession()
	require.NoError(t, err)
	require.NoError(t, s.Start("sleep 100"))
	eventually(t, "sleep runs", func() bool { return strings.Contains(strings.Join(n.Processes(), ";"), "sleep 100") })
	require.NoError(t, s.Signal(ssh.SIGTERM))
	var exit *ssh.ExitError
	require.ErrorAs(t, s.Wait(), &exit)
	require.Equal(t, "TERM", exit.Signal())

	s, err = c.NewSession()
	require.NoError(t, err)
	var out bytes.Buffer
	s.Stdout = &out
	s.Stdin = strings.NewReader("echo $PATH\nexit 4\n")
	require.NoError(t, s.Shell())
	require.ErrorAs(t, s.Wait(), &exit)
	require.Equal(t, 4, exit.ExitStatus())
	require.Contains(t, out.String(), "/home/stackato/bin:")
	require.Equal(t, "/usr/local/bin:/usr/bin:/bin:/usr/games\n", run(t, c, "echo $PATH").out)

	big := strings.Repeat("0123456789abcdef", 1<<16)
	r := run(t, c, "cat", big)
	require.Equal(t, len(big), len(r.out))
	require.Equal(t, "123\n", run(t, c, "head -c 3; echo; exit 0", "123"+big).out)

	var wg sync.WaitGroup
	for range maxSessionsPerConnection {
		wg.Go(func() { require.Equal(t, "hi\n", run(t, c, "sleep 0.02; echo hi").out) })
	}
	wg.Wait()
}

func TestCluster_Inventory_NamesEveryNodeOnce(t *testing.T) {
	c := startCluster(t, Config{})
	var file struct {
		Clusters map[string]struct {
			Platform string
			SSH      struct {
				User       string
				KeyFiles   []string `yaml:"key_files"`
				KnownHosts []string `yaml:"known_hosts"`
			}
			Nodes []struct {
				Name, Address string
				Roles         []string
				SSH           struct{ Port int }
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(c.InventoryYAML(), &file))
	demo := file.Clusters["demo"]
	require.Equal(t, "als", demo.Platform)
	require.Equal(t, "stackato", demo.SSH.User)
	require.Len(t, demo.Nodes, 5)
	seen := map[string]bool{}
	for i, n := range demo.Nodes {
		require.Equal(t, c.Nodes()[i].Port(), n.SSH.Port)
		seen[net.JoinHostPort(n.Address, strconv.Itoa(n.SSH.Port))] = true
	}
	require.Len(t, seen, 5)
}

func TestCluster_OutOfService_RemembersTheWorst(t *testing.T) {
	c := startCluster(t, Config{BootTime: -1, RoleStartTime: time.Second})
	require.Zero(t, c.MaxOutOfService())
	a, b := c.Node("dea-1"), c.Node("dea-2")
	a.PowerOff()
	require.Equal(t, []string{"dea-1"}, c.OutOfService())
	a.PowerOn()
	require.Equal(t, []string{"roles"}, a.OutOfService())
	eventually(t, "in service", func() bool { return len(c.OutOfService()) == 0 })
	require.Equal(t, 1, c.MaxOutOfService())
	b.PowerOff()
	a.PowerOff()
	require.Equal(t, 2, c.MaxOutOfService())
	b.RoleNeverStarts("dea")
	b.PowerOn()
	a.PowerOn()
	eventually(t, "the other is in service", func() bool { return len(a.OutOfService()) == 0 })
	require.Equal(t, []string{"roles"}, b.OutOfService(), "a role that never starts keeps it out")
	b.StartRole("dea")
	require.Empty(t, b.OutOfService())
}

func TestControl_Faults_AreAppliedAndWrongOnesRefused(t *testing.T) {
	c := startCluster(t, Config{})
	s := httptest.NewServer(c.ControlHandler())
	defer s.Close()
	post := func(path, body string) (int, string) {
		resp, err := http.Post(s.URL+path, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	code, _ := post("/nodes/core/faults/fill-disk", `["on"]`)
	require.Equal(t, 204, code)
	require.True(t, c.Node("core").tree.full.Load())
	code, _ = post("/nodes/core/faults/fill-disk", `["off"]`)
	require.Equal(t, 204, code)
	require.False(t, c.Node("core").tree.full.Load())
	for path, body := range map[string]string{"/nodes/nope/faults/heal": "", "/nodes/core/faults/nope": "", "/nodes/core/faults/latency": `["x"]`, "/nodes/core/faults/refuse": `{`, "/nodes/core/faults/fail-command": `["a"]`} {
		code, text := post(path, body)
		require.GreaterOrEqual(t, code, 400, path)
		require.NotEmpty(t, text)
	}
	files := c.Node("filesystem-1")
	require.NoError(t, files.WriteFile("/home/stackato/x", []byte("12345")))
	for _, f := range []struct {
		name, args string
		code       int
	}{
		{"export-size", `["2MiB"]`, 204}, {"export-time", `["1s"]`, 204}, {"export-fault", `["fails","2","9"]`, 204}, {"heal-exports", "", 204}, {"free-space", `["/mnt/backup","1G"]`, 204},
		{"data-size", `["10GiB"]`, 204}, {"resize", `["/home/stackato/x","-2"]`, 204}, {"external-database", `["mysql","db.example.com"]`, 204}, {"external-database", `["mysql"]`, 204},
		{"export-size", `["-1"]`, 400}, {"export-size", `["much"]`, 400}, {"export-time", `["soon"]`, 400}, {"export-fault", `["burns"]`, 400}, {"export-fault", `["fails","x"]`, 400}, {"export-fault", `["fails","1","300"]`, 400},
		{"free-space", `["/run","1G"]`, 400}, {"free-space", `["/"]`, 400}, {"data-size", `[]`, 400}, {"resize", `["/nothing","1"]`, 400}, {"external-database", `["redis","x"]`, 400},
	} {
		code, text := post("/nodes/filesystem-1/faults/"+f.name, f.args)
		require.Equal(t, f.code, code, "%s %s: %s", f.name, f.args, text)
	}
	b, err := files.ReadFile("/home/stackato/x")
	require.NoError(t, err)
	require.Equal(t, "123", string(b))
	state, _ := c.kato.NodeState(files.Address())
	require.Zero(t, state.Export)
	req, _ := http.NewRequest("GET", s.URL+"/status", nil)
	req.Header.Set("Origin", "http://evil.example.com")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 403, resp.StatusCode)
	for _, f := range Faults() {
		if f.Usage == "" || strings.HasPrefix(f.Usage, "[") {
			require.NoError(t, c.Node("dea-1").Inject(f.Name), f.Name)
		}
	}
	c.Node("dea-1").Heal()
	reconnect(t, c.Node("dea-1"))
	http.DefaultClient.CloseIdleConnections()
}

func BenchmarkSession_SmallScript(b *testing.B) {
	n := oneNode(b, Config{})
	c := dial(b, n)
	script := `set -e; d=/tmp/b; mkdir -p "$d"; echo "$1" >"$d/f.new"; mv "$d/f.new" "$d/f"; [ -e "$d/f" ]; read -r x <"$d/f"; flock -n "$d/lock" true; echo "$x"`
	for b.Loop() {
		if r := run(b, c, "exec sh -c '"+script+"' sh hello"); r.out != "hello\n" {
			b.Fatal(r)
		}
	}
}
