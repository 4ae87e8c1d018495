package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/katoflow/katoflow/internal/lab"
	"github.com/katoflow/katoflow/internal/operation"
)

// What hosts do that nobody thinks of at a desk. The cases of this file run in both worlds where both have what they need.

// onHost runs a script as root on a host of the lab.
func (s *site) onHost(node, script string, args ...string) string {
	s.t.Helper()
	h, ok := s.cluster.Node(node).(host)
	require.True(s.t, ok, "%s is no real host", node)
	return h.run(script, args...)
}

func TestLogin_ThroughABastionThatIsUpgradedItself_EveryNodeIsDone(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "jump", "b"))
	jump := s.cluster.Node("jump")
	s.inventory(strings.Replace(quickGates, "unreachable_after: 20s", "unreachable_after: 60s", 1))
	s.replace("known_hosts:", fmt.Sprintf("bastion: %s@%s:%d\n      known_hosts:", s.cluster.LoginUser(), jump.Address(), jump.Port()))
	s.worker("")
	f := s.fault("the bastion is one of the nodes and reboots")
	r := s.start().done(90 * time.Second)
	require.Empty(t, r.Answers)
	s.upgraded(1, "a", "jump", "b")
	if onHosts() {
		for _, n := range []string{"a", "b"} {
			from := s.onHost(n, "journalctl -q --no-pager -t sshd | sed -n 's/.*Accepted publickey for stackato from \\([0-9.]*\\) .*/\\1/p' | sort -u")
			require.Equal(t, jump.Address(), strings.TrimSpace(from), "every login on %s came from the bastion", n)
		}
	}
	f.end(wentOn)
}

func TestLogin_KeyWithAPassphrase_EveryNodeIsDone(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.encryptedKey("open sesame")
	s.write("passphrase", "open sesame\n")
	s.replace("key_files:\n", fmt.Sprintf("passphrase: {file: %q}\n      key_files:\n", filepath.Join(s.Dir, "passphrase")))
	s.replace(s.cluster.ClientKeyPath(), filepath.Join(s.Dir, "key"))
	s.worker("")
	s.start().done(60 * time.Second)
	s.upgraded(1, "a")
	require.Empty(t, s.repeated())
}

func TestLogin_KeyInAnAgent_EveryNodeIsDone(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	b, err := os.ReadFile(s.cluster.ClientKeyPath())
	require.NoError(t, err)
	key, err := ssh.ParseRawPrivateKey(b)
	require.NoError(t, err)
	other, err := rsa.GenerateKey(rand.Reader, 2048) // agents hold other keys as well
	require.NoError(t, err)
	ring := agent.NewKeyring()
	require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: other}))
	require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: key}))
	socket := filepath.Join(s.Dir, "agent")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	inventory, err := os.ReadFile(s.Inventory)
	require.NoError(t, err)
	text := regexp.MustCompile(`key_files:\n +- .*\n`).ReplaceAllString(string(inventory), "agent: true\n")
	require.NotContains(t, text, s.cluster.ClientKeyPath())
	require.NoError(t, os.WriteFile(s.Inventory, []byte(text), 0o600))
	s.Env = []string{"SSH_AUTH_SOCK=" + socket}
	s.worker("")
	s.start().done(60 * time.Second)
	s.upgraded(1, "a")
	require.Empty(t, s.repeated())
}

func TestNetwork_CutInTheMiddleOfAStep_GoesOnOrAsks(t *testing.T) {
	t.Parallel()
	for _, where := range []string{operation.StepUpgrade, operation.StepReboot, operation.StepGates} {
		for _, long := range []time.Duration{5 * time.Second, in(8*time.Second, time.Minute), 0} {
			name := fmt.Sprintf("in the middle of %s for %s", where, long)
			if long == 0 {
				name = "in the middle of " + where + " until it is asked about"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, nil, nil, plain("a"), slow(2*time.Second))
				limits := map[string]string{operation.StepUpgrade: "90s", operation.StepReboot: "90s", operation.StepGates: "90s"}
				if long == 0 {
					limits[where] = map[string]string{operation.StepUpgrade: "10s", operation.StepReboot: in("10s", "25s"), operation.StepGates: in("10s", "25s")}[where]
				}
				s.inventory(fmt.Sprintf("    gates: {times: 3, interval: 1s, timeout: %s}\n    timeouts: {unreachable_after: %s, boot: %s, upgrade: 3m, apt_lock: 30s}\n",
					limits[operation.StepGates], limits[operation.StepUpgrade], limits[operation.StepReboot]))
				s.connectWithin("2s")
				s.worker("")
				n := s.cluster.Node("a")
				o := s.start()
				switch where {
				case operation.StepUpgrade:
					s.unpacking("a") // what it needs of the network it has by now
				case operation.StepReboot:
					s.eventually(30*time.Second, "the reboot of a", func() bool { return s.ran("a", "reboot") == 1 })
				case operation.StepGates:
					o.at("a", operation.StepGates)
				}
				n.Silence(true)
				f := s.fault("network cut %s", name)
				if long > 0 {
					joined := f.began.Add(long)
					s.eventually(long+10*time.Second, "the cut to have lasted "+long.String(), func() bool { return time.Now().After(joined) })
					n.Silence(false)
					r := o.done(60 * time.Second)
					require.Empty(t, r.Answers, "nobody was asked")
					s.upgraded(1, "a")
					f.end(wentOn)
					return
				}
				q := o.question(90 * time.Second)
				require.Equal(t, "a", q.Node)
				require.Equal(t, where, q.Step, q.Cause.Message)
				want := map[string]string{operation.StepUpgrade: operation.ErrUnreachable, operation.StepReboot: operation.ErrNotReturned, operation.StepGates: operation.ErrGates}
				require.Equal(t, want[where], q.Cause.Type, q.Cause.Message)
				n.Silence(false)
				o.decide(q, operation.Retry)
				o.done(60 * time.Second)
				s.upgraded(1, "a")
				f.end(parkedFor(where+" ("+q.Cause.Type+")", "the retry took up what had run on"))
			})
		}
	}
}

func TestNetwork_CutWhilePackagesAreFetched_AsksAndGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(9*time.Second))
	s.inventory(strings.Replace(quickGates, "unreachable_after: 20s", "unreachable_after: 90s", 1))
	s.connectWithin("2s")
	s.worker("")
	o := s.start()
	s.runs("a", "unattended-upgrades")
	n := s.cluster.Node("a")
	n.Silence(true)
	f := s.fault("network cut while unattended-upgrades fetches its packages")
	require.Empty(t, n.HalfConfigured(), "too late for this case")
	s.eventually(90*time.Second, "unattended-upgrades to give up", func() bool { return s.ended("a", "unattended-upgrades") })
	n.Silence(false)
	q := o.question(60 * time.Second)
	asks(t, q, "a", operation.StepUpgrade, 1, operation.ErrRemoteExit)
	require.Contains(t, q.Cause.Message, "unattended-upgrades -d ended with exit code 1")
	t.Log(q.Cause.Message)
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	s.upgraded(1, "a")
	f.end(parkedFor("upgrade ("+q.Cause.Type+")", "retried with the network back"))
}

func TestPower_CutInMidUpgrade_RepairedAndTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(2*time.Second))
	s.inventory(strings.Replace(quickGates, "unreachable_after: 20s", "unreachable_after: 60s", 1))
	s.connectWithin("2s")
	s.worker("")
	o := s.start()
	s.unpacking("a")
	n := s.cluster.Node("a")
	f := s.fault("power cut in the middle of apt, dpkg left half configured")
	n.PowerOff()
	require.NotEmpty(t, n.HalfConfigured(), "dpkg was stopped in the middle")
	o.waits("a", "")
	n.PowerOn()
	r := o.done(60 * time.Second)
	require.Empty(t, r.Answers)
	s.upgraded(2, "a")
	s.upgraded(1, "b")
	var ran []string
	for _, e := range n.Commands() {
		ran = append(ran, e.Command())
	}
	require.Equal(t, []string{"apt-get update", "unattended-upgrades -d", "dpkg --configure -a", "apt-get update", "unattended-upgrades -d", "reboot"}, ran)
	require.Contains(t, strings.Join(nodeOf(t, r, "a").Notes, "\n"), "the upgrade was interrupted: repaired with dpkg --configure -a")
	f.end(wentOn + ": repaired with dpkg --configure -a, upgraded again, rebooted by us")
}

func TestDisk_FullInMidUpgrade_AsksAndGoesOnWithSpace(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(2*time.Second))
	s.worker("")
	n := s.cluster.Node("a")
	o := s.start()
	s.runs("a", "unattended-upgrades")
	n.FillDisk(true)
	f := s.fault("/ full in the middle of apt")
	q := o.question(60 * time.Second)
	require.Equal(t, "a/upgrade", q.Node+"/"+q.Step)
	require.Contains(t, q.Cause.Message, "/ is full (")
	n.FillDisk(false)
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	s.upgraded(1, "a")
	f.end(parkedFor(q.Step+" ("+q.Cause.Type+")", "retried with space"))
}

func TestClock_AheadByADay_WarnsAndGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(500*time.Millisecond))
	s.cluster.Node("a").SkewClock(24 * time.Hour)
	s.worker("")
	f := s.fault("clock ahead by a day")
	r := s.start().done(60 * time.Second)
	require.Regexp(t, `a: its clock is (24h0m|23h59m)[0-9]+s ahead of the worker's`, strings.Join(r.Warnings, "\n"))
	s.upgraded(1, "a")
	require.NotNil(t, nodeOf(t, r, "a").Proof)
	f.end(wentOn + ", with a warning")
}

func TestClock_BehindByADay_AptSaysSoAndTheRetryGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(500*time.Millisecond))
	n := s.cluster.Node("a")
	n.SkewClock(-24 * time.Hour)
	s.worker("")
	f := s.fault("clock behind by a day")
	o := s.start()
	q := o.question(60 * time.Second)
	asks(t, q, "a", operation.StepUpgrade, 1, operation.ErrRemoteExit)
	require.Regexp(t, `apt-get update ended with exit code 100: E: Release file for .* is not valid yet`, q.Cause.Message)
	n.SkewClock(0)
	o.decide(q, operation.Retry)
	r := o.done(60 * time.Second)
	require.Regexp(t, `a: its clock is (24h0m|23h59m)[0-9]+s behind the worker's`, strings.Join(r.Warnings, "\n"))
	s.upgraded(1, "a")
	f.end(parkedFor("upgrade (apt takes no list from its future)", "retried with the clock put right"))
}

func TestApt_LockedByAnotherProcessForAWhile_IsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.inventory(strings.Replace(quickGates, "apt_lock: 30s", "apt_lock: 90s", 1))
	s.worker("")
	held := in(4*time.Second, 30*time.Second)
	release := s.cluster.Node("a").HoldAptLock(0)
	began := time.Now()
	f := s.fault("apt locked by another process for %s", held)
	o := s.start()
	o.waits("a", "waiting for apt")
	require.NoError(t, waitFor(held+time.Second, "it to have been held long enough", func() (bool, error) { return time.Since(began) >= held, nil }))
	release()
	r := o.done(60 * time.Second)
	require.Empty(t, r.Answers)
	require.Contains(t, strings.Join(nodeOf(t, r, "a").Notes, "\n"), "for apt: held by pid")
	s.upgraded(1, "a")
	f.end(wentOn + ": waited for it and said who held it")
}

func TestApt_UnattendedUpgradesRunningAlready_IsWaitedForAndNothingIsDoneTwice(t *testing.T) {
	onlyLab(t, "the simulated cluster runs no apt of its own")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(6*time.Second))
	s.worker("")
	s.onHost("a", "apt-get update >/dev/null 2>&1; setsid unattended-upgrades -d </dev/null >/var/log/other 2>&1 &")
	s.unpacking("a")
	f := s.fault("unattended-upgrades running already")
	o := s.start()
	r := o.done(60 * time.Second)
	require.Empty(t, r.Answers)
	require.Contains(t, strings.Join(nodeOf(t, r, "a").Notes, "\n"), "for apt: held by pid")
	s.upgraded(1, "a")
	f.end(wentOn + ": waited for it, upgraded what was left, rebooted")
}

func TestHostKey_NodeReinstalled_IsRefusedUntilTheNewKeyIsTrusted(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	s.cluster.Node("b").ChangeHostKey()
	f := s.fault("node reinstalled with a new host key")
	out := s.cli(7, "upgrade", "security", s.cluster.Name())
	require.Regexp(t, `b: ssh: host key of .* has changed: expected SHA256:\S+ \(.*\) \(`+s.cluster.KnownHostsPath()+`:[0-9]+\), offered SHA256:\S+ .*katoflow cluster trust`, out.Stderr)
	require.Empty(t, s.cluster.Commands())
	s.cli(0, "cluster", "trust", s.cluster.Name(), "--nodes", "b", "--replace", "--yes")
	s.start().done(60 * time.Second)
	s.upgraded(1, "a", "b")
	f.end(refused + ", until cluster trust --replace")
}

func TestPackage_PostinstFails_AsksAndGoesOnOnceMended(t *testing.T) {
	// Alone, a second run of unattended-upgrades finds nothing to do and ends well: only dpkg's own state says that something is unfinished.
	for name, alone := range map[string]bool{"among others": false, "alone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, plain("a"), alike(func(n *nodeConfig) { n.breaks, n.alone = true, alone }, "a"))
			s.worker("")
			f := s.fault("a package cannot be configured, %s", name)
			o := s.start()
			q := o.question(60 * time.Second)
			require.Equal(t, "a/upgrade", q.Node+"/"+q.Step)
			t.Log(q.Cause.Type, q.Cause.Message)
			n := s.cluster.Node("a")
			require.Equal(t, []string{brokenPackage}, n.HalfConfigured())
			require.Zero(t, s.ran("a", "reboot"), "a node with a broken package is not rebooted without asking")
			o.decide(q, operation.Retry)
			again := o.question(60 * time.Second)
			require.Equal(t, "a/upgrade", again.Node+"/"+again.Step, "nothing was mended yet")
			require.Greater(t, again.Try, q.Try)
			n.MendPackage(brokenPackage)
			o.decide(again, operation.Retry)
			o.done(60 * time.Second)
			s.upgraded(1, "a")
			require.Equal(t, "2.0", n.Packages()[brokenPackage])
			require.Empty(t, s.repeated())
			f.end(parkedFor(q.Step+" ("+q.Cause.Type+")", "retried once mended"))
		})
	}
}

func TestShell_DashBashAndBusyboxAsTheLoginShell_AllTheSame(t *testing.T) {
	onlyLab(t, "the simulated cluster has a shell of its own")
	t.Parallel()
	shells := map[string]string{"core": "/bin/dash", "dea-1": "/bin/bash", "dea-2": lab.BusyboxShell}
	s := newSite(t, nil, nil, func(c *config) {
		c.nodes = []nodeConfig{{name: "core", roles: []string{"base", "primary", "controller", "router"}}, {name: "dea-1", roles: []string{"base", "dea"}}, {name: "dea-2", roles: []string{"base", "dea"}}}
		for i := range c.nodes {
			c.nodes[i].shell = shells[c.nodes[i].name]
		}
	})
	s.worker("")
	for n, shell := range shells {
		require.Equal(t, shell, strings.TrimSpace(s.onHost(n, "getent passwd stackato | cut -d: -f7")))
	}
	f := s.fault("dash, bash and busybox as login shells")
	s.start("--maintenance").done(90 * time.Second)
	s.upgraded(1, s.names()...)
	require.False(t, s.cluster.Maintenance())
	f.end(wentOn)
}
