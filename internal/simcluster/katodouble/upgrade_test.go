package katodouble

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const dataID = "10.0.0.4"

// upgraded is a cluster of ALS 1.2 with a Core, two DEAs and a data service, and what is told of its upgrades.
type upgraded struct {
	t    *testing.T
	c    *Cluster
	deny map[string]error // of logins
	ask  map[string]error // of sudo

	markers  map[string]bool
	upgraded []string
	rebooted []string
}

func upgradeCluster(t *testing.T, version string) *upgraded {
	u := &upgraded{t: t, c: New(version), deny: map[string]error{}, ask: map[string]error{}, markers: map[string]bool{}}
	u.c.AddNode(dataID, "mysql-1", []string{"mysql"}, 0)
	u.c.AddNode(coreID, "core", []string{"primary", "controller", "router"}, 0)
	u.c.AddNode(deaID, "dea-1", []string{"dea"}, 4)
	u.c.AddNode(otherID, "dea-2", []string{"dea"}, 4)
	u.c.OnMarker(func(id string, there bool) { u.markers[id] = there })
	u.c.OnUpgraded(func(id string) { u.upgraded = append(u.upgraded, id) })
	for _, id := range u.all() {
		u.set(id, UpgradePatch{Releases: []string{"1.2.1", "1.3.0"}})
	}
	return u
}

func (u *upgraded) all() []string { return []string{dataID, coreID, deaID, otherID} }

func (u *upgraded) set(id string, p UpgradePatch) {
	u.t.Helper()
	require.NoError(u.t, u.c.PatchNode(id, StatePatch{Upgrade: &p}))
}

func (u *upgraded) fault(id string, f UpgradeFault) {
	u.t.Helper()
	u.set(id, UpgradePatch{Fault: &f, Times: new(1)})
}

func (u *upgraded) run(ctx context.Context, node string, stdin io.Reader, stdout, stderr io.Writer, line string) int {
	return u.c.Run(ctx, Invocation{Args: append([]string{"node", "upgrade"}, strings.Fields(line)...), Node: node, UID: 1000, Home: "/home/stackato", Path: "/home/stackato/bin:/usr/bin",
		Stdin: stdin, Stdout: stdout, Stderr: stderr,
		Reach: func(_ context.Context, _, to string) error { return u.deny[to] },
		Sudo:  func(context.Context) error { return u.ask[""] }, SudoThere: func(_ context.Context, id string) error { return u.ask[id] },
		Reboot: func(_ context.Context, id string) error {
			u.rebooted = append(u.rebooted, id)
			u.c.NodeDown(id)
			time.AfterFunc(50*time.Millisecond, func() { u.c.NodeUp(id, 0) })
			return nil
		}})
}

// kato runs an upgrade's command line, with what is said on standard input.
func (u *upgraded) kato(node, line string, said ...string) (out, errs string, exit int) {
	u.t.Helper()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(u.t.Context(), 20*time.Second)
	defer cancel()
	exit = u.run(ctx, node, strings.NewReader(strings.Join(said, "")), &o, &e, line)
	require.NoError(u.t, ctx.Err())
	return o.String(), e.String(), exit
}

func (u *upgraded) ok(node, line string, said ...string) string {
	u.t.Helper()
	out, errs, exit := u.kato(node, line, said...)
	require.Zero(u.t, exit, out+errs)
	require.Empty(u.t, errs)
	return out
}

func (u *upgraded) fails(node, line, want string, said ...string) string {
	u.t.Helper()
	out, errs, exit := u.kato(node, line, said...)
	require.Equal(u.t, 1, exit, out+errs)
	require.Equal(u.t, want, errs)
	return out
}

func (u *upgraded) versions() (list []string) {
	for _, id := range u.all() {
		v, _ := u.c.Version(id)
		list = append(list, v)
	}
	return list
}

func (u *upgraded) state(id string) NodeState {
	s, _ := u.c.NodeState(id)
	return s
}

// begun are the nodes that an output says to be inspected, in order.
func begun(out string) (ids []string) {
	for _, m := range regexp.MustCompile(`(?m)^INFO: \[(.*)\] inspecting$`).FindAllStringSubmatch(out, -1) {
		ids = append(ids, m[1])
	}
	return ids
}

const skip = " --skip-confirmation"

func TestUpgrade_Options_AreThoseOfTheGeneration(t *testing.T) {
	both := []string{"--json", "-j", "--node X", "--node=X", "-n X", "--update-kato", "-u", "--version 1.3.0", "--version=1.3.0", "-v 1.3.0",
		"--force", "--resume", "--role-order dea,base", "--skip-confirmation", "--status", "--cluster"}
	newer := []string{"--prepare", "--cache-ip X", "--development", "--offline", "--download-only --cache-ip X"}
	older := []string{"--rollback", "--ignore-inspect-failures"}
	never := []string{"--download-only", "--node", "--force=yes", "--run-command", "-x", "now", "--verbose", "-n=X"}
	for _, tc := range []struct {
		version string
		forced  bool
		old     bool
	}{{"1.2.0", false, false}, {"1.3.0", false, false}, {"1.1", false, false}, {"1.10.0", false, false}, {"1.0.1", false, true}, {"3.4.2", false, true}, {"2.10.4", false, true}, {"1.2.0", true, true}} {
		t.Run(tc.version, func(t *testing.T) {
			c := New(tc.version)
			c.AddNode(coreID, "core", []string{"primary"}, 0)
			require.NoError(t, c.PatchNode(coreID, StatePatch{Upgrade: &UpgradePatch{Old: &tc.forced}}))
			has, not := slices.Concat(both, newer), older
			if tc.old {
				has, not = slices.Concat(both, older), newer
			}
			help, errs, exit := kato(t, c, coreID, "node", "upgrade", "--help")
			require.Zero(t, exit)
			require.Empty(t, errs)
			for _, line := range has {
				_, ok := parseUpgrade(tc.old, strings.Fields(line))
				require.True(t, ok, line)
				name, _, _ := strings.Cut(strings.Fields(line)[0], "=")
				require.Contains(t, help, name+" ")
			}
			require.Len(t, regexp.MustCompile(`(?m)^  (-[a-z] )?--`).FindAllString(help, -1), len(upgradeOptionsOf(tc.old)))
			for _, line := range slices.Concat(not, never) {
				_, errs, exit := kato(t, c, coreID, append([]string{"node", "upgrade"}, strings.Fields(line)...)...)
				require.Equal(t, 1, exit, line)
				require.Equal(t, help, errs, line)
			}
			for _, line := range not {
				require.NotContains(t, help, strings.Fields(line)[0])
			}
		})
	}
}

func TestUpgrade_Patch_RefusesNonsenseAndHealsFaults(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	for _, text := range []string{`{"fault":"explodes"}`, `{"seconds":-1}`, `{"download_seconds":-1}`, `{"restart":"often"}`, `{"version":""}`} {
		p, err := ParseUpgradePatch(text)
		require.NoError(t, err)
		require.Error(t, u.c.PatchNode(deaID, StatePatch{Upgrade: &p}), text)
	}
	_, err := ParseUpgradePatch(`{"speed":1}`)
	require.Error(t, err)
	for _, f := range UpgradeFaults() {
		u.fault(deaID, f)
	}
	u.set(deaID, UpgradePatch{Seconds: new(3.0), DownloadSeconds: new(3.0), NoKato: new(true)})
	u.set(deaID, UpgradePatch{Cache: []string{"1.3.0", "1.3.0"}, Previous: new("1.1.0"), Restart: new("reboot"), Old: new(true), Interrupted: new("1.3.0")})
	out, errs, exit := kato(t, u.c, deaID, "version")
	require.Equal(t, []any{"", "kato: command not found\n", 127}, []any{out, errs, exit})
	u.set(deaID, UpgradePatch{Heal: true})
	want := Upgrade{Releases: []string{"1.2.1", "1.3.0"}, Restart: "reboot", Old: true, Previous: "1.1.0", Cached: []string{"1.3.0"}, Interrupted: "1.3.0"}
	require.Equal(t, want, u.state(deaID).Upgrade)

	// A boot and the way through JSON change nothing.
	u.c.NodeUp(deaID, 0)
	require.Equal(t, Stopped, u.state(deaID).Roles["dea"])
	b, err := json.Marshal(u.state(deaID))
	require.NoError(t, err)
	var s NodeState
	require.NoError(t, decode(b, &s))
	other := upgradeCluster(t, "1.1.0")
	other.c.SetNodeState(s)
	require.Equal(t, want, other.state(deaID).Upgrade)
	require.Equal(t, "1.2.0", other.state(deaID).Version)
	other.set(deaID, UpgradePatch{Version: new("1.9.9"), Previous: new("1.2.0"), Seconds: new(1.0)})
	other.c.PutBackUpgrade(s)
	require.Equal(t, "1.2.0", other.state(deaID).Version)
	require.Equal(t, "1.1.0", other.state(deaID).Upgrade.Previous)
	require.Equal(t, 1.0, other.state(deaID).Upgrade.Seconds)
}

func TestUpgrade_Version_IsEachNodesOwn(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	u.set(deaID, UpgradePatch{Version: new("1.3.0")})
	for _, tc := range []struct{ node, line, out, errs string }{
		{coreID, "version", "1.2.0\n", ""},
		{deaID, "version", "1.3.0\n", ""},
		{coreID, "node version", "1.2.0\n", ""},
		{coreID, "node version " + deaID, "1.3.0\n", ""},
		{coreID, "node version 10.9.9.9", "", "ERROR: Node 10.9.9.9 is not part of the cluster\n"},
		{coreID, "node version " + otherID, "", "ERROR: Could not connect to node " + otherID + ": No route to host\n"},
	} {
		u.c.NodeDown(otherID)
		out, errs, exit := kato(t, u.c, tc.node, strings.Fields(tc.line)...)
		require.Equal(t, []any{tc.out, tc.errs, tc.errs != ""}, []any{out, errs, exit != 0}, tc.line)
	}
	out, _, _ := kato(t, u.c, deaID, "info")
	require.Contains(t, out, "Version: 1.3.0\n")
}

func TestUpgrade_Scope_IsAllNodesByRoleOrOne(t *testing.T) {
	for _, tc := range []struct {
		name, version, node, line string
		want                      []string
	}{
		{"the whole cluster since 1.3", "1.3.0", coreID, "--version 1.4.0", []string{deaID, otherID, coreID, dataID}},
		{"not from another node", "1.3.0", otherID, "--version 1.4.0", []string{otherID}},
		{"one node before", "1.2.0", coreID, "", []string{coreID}},
		{"the whole cluster by option", "1.2.0", coreID, "--cluster", []string{deaID, otherID, coreID, dataID}},
		{"of the old ones too", "3.4.2", coreID, "--cluster", []string{deaID, otherID, coreID, dataID}},
		{"the old ones alone", "3.4.2", coreID, "", []string{coreID}},
		{"a node", "1.3.0", coreID, "--node " + dataID, []string{dataID}},
		{"a node of another one", "1.3.0", dataID, "--node=" + coreID, []string{coreID}},
		{"other roles first", "1.2.0", coreID, "--cluster --role-order mysql,primary", []string{dataID, coreID, deaID, otherID}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := upgradeCluster(t, tc.version)
			u.set(tc.node, UpgradePatch{Releases: []string{"1.4.0"}})
			require.Equal(t, tc.want, begun(u.ok(tc.node, tc.line+skip)))
			for _, id := range u.all() {
				s := u.state(id)
				require.Equal(t, map[bool]string{true: "1.4.0", false: tc.version}[slices.Contains(tc.want, id)], s.Version)
				require.False(t, s.Retired)
				for r, st := range s.Roles {
					require.Equal(t, Running, st, r)
				}
			}
			require.Equal(t, 8, u.c.Apps(deaID)+u.c.Apps(otherID))
			require.Equal(t, tc.want, u.upgraded)
			if tc.line == "" {
				tc.line = "--node " + tc.node // that of now is of a generation that upgrades all
			}
			out := u.ok(tc.node, tc.line+skip)
			require.Empty(t, begun(out))
			require.Equal(t, len(tc.want), strings.Count(out, " is already at 1.4.0\n"))
		})
	}
	u := upgradeCluster(t, "1.2.0")
	u.fails(coreID, "--role-order dea,chef"+skip, "ERROR: Unknown role chef\n")
	u.fails(coreID, "--node 10.9.9.9"+skip, "ERROR: Node 10.9.9.9 is not part of the cluster\n")
	u.fails(coreID, "--version 1.4.0"+skip, "ERROR: Version 1.4.0 is not available\n")
	u.set(coreID, UpgradePatch{Releases: []string{}})
	require.Equal(t, "INFO: "+coreID+" is already at 1.2.0\n", u.ok(coreID, skip))
	require.Equal(t, []string{"1.2.0", "1.2.0", "1.2.0", "1.2.0"}, u.versions())
}

func TestUpgrade_OfANode_TellsWhatItDoesAndAsks(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	const question = "Do you want to continue? [y/N] "
	for _, said := range []string{"", "n\n", "yesterday\n", "\ny\n"} {
		require.Equal(t, question+"Aborted.\n", u.fails(deaID, "", "", said))
	}
	require.Equal(t, question+`INFO: [10.0.0.2] inspecting
INFO: [10.0.0.2] downloading 1.2.1
INFO: [10.0.0.2] retiring
INFO: [10.0.0.2] upgrading components
INFO: [10.0.0.2] validating
INFO: [10.0.0.2] restarting
INFO: [10.0.0.2] upgraded to 1.2.1
`, u.ok(deaID, "--version 1.2.1", "Y\n"))
	require.Equal(t, Upgrade{Releases: []string{"1.2.1", "1.3.0"}, Previous: "1.2.0"}, u.state(deaID).Upgrade)
	require.Equal(t, "INFO: [10.0.0.2] inspecting\nINFO: [10.0.0.2] ready for 1.3.0\n", u.ok(deaID, "--prepare"))
	require.Equal(t, "1.2.1", u.state(deaID).Version)
	require.Zero(t, u.c.Apps(deaID))

	// Where nobody can log in, or sudo asks, nothing is done.
	u.deny[otherID] = errors.New("Permission denied (publickey)")
	u.fails(coreID, "--node "+otherID+skip, "ERROR: Could not log in from "+coreID+" to "+otherID+": Permission denied (publickey)\n")
	u.deny[otherID] = nil
	for _, id := range []string{"", otherID} {
		u.ask[id] = errors.New("a password is required")
		u.fails(coreID, "--node "+otherID+skip, "ERROR: sudo: no password was provided\n")
		u.ask[id] = nil
	}
	u.c.NodeDown(otherID)
	u.fails(coreID, "--cluster"+skip, "ERROR: Could not connect to node "+otherID+": No route to host\n")
	require.Equal(t, []string{"1.2.0", "1.2.0", "1.3.0", "1.2.0"}, u.versions(), "it stops there")

	// kato itself first.
	u.set(coreID, UpgradePatch{NeedsUpdate: new(true)})
	u.fails(coreID, skip, "ERROR: kato is out of date. Run kato node upgrade --update-kato first\n")
	require.Equal(t, "INFO: [10.0.0.1] updating kato\nINFO: [10.0.0.1] kato is up to date\n", u.ok(coreID, "--update-kato"))
	u.ok(coreID, skip)
	require.Equal(t, "1.3.0", u.state(coreID).Version)
	u.set(otherID, UpgradePatch{Version: new("1.3.0")})

	// The last DEA has nowhere to go.
	u.c.NodeUp(otherID, 0)
	u.c.NodeDown(deaID)
	u.fails(otherID, "--force"+skip, "ERROR: cannot retire 10.0.0.3: 8 app instances need room on other DEAs, 0 left\n")
}

func TestUpgrade_Reboot_IsWaitedForAndComesLast(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	u.set(deaID, UpgradePatch{Restart: new(UpgradeReboots)})
	out := u.ok(coreID, "--node "+deaID+skip)
	require.Contains(t, out, "restarting\nINFO: [10.0.0.2] upgraded to 1.3.0\n")
	require.Equal(t, []string{deaID}, u.rebooted)
	s := u.state(deaID)
	require.False(t, s.Retired)
	require.Equal(t, "1.3.0", s.Version)
	require.Equal(t, Running, s.Roles["dea"])
	require.Equal(t, Upgrade{Releases: []string{"1.2.1", "1.3.0"}, Restart: "reboot", Previous: "1.2.0"}, s.Upgrade)
}

func TestUpgrade_NextDEA_IsRetiredWhenTheLastOneRunsAgain(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	u.c.SetRestartTime(deaID, 200*time.Millisecond)
	began := time.Now()
	require.Equal(t, []string{deaID, otherID, coreID, dataID}, begun(u.ok(coreID, "--cluster"+skip)))
	require.GreaterOrEqual(t, time.Since(began), 200*time.Millisecond)
	require.Equal(t, 8, u.c.Apps(deaID))
}

func TestUpgrade_Faults_LeaveWhatTheyAreToLeave(t *testing.T) {
	const interrupted = "ERROR: [10.0.0.4] The upgrade to 1.3.0 was interrupted. Run kato node upgrade --resume\n"
	for _, tc := range []struct {
		fault   UpgradeFault
		exit    int
		errs    string
		version string
		role    State
		left    Upgrade
		status  string
		says    bool // that it is done
	}{
		{fault: UpgradeFails, exit: 1, errs: "ERROR: [10.0.0.4] The inspection failed: postgresql does not answer\n", version: "1.2.0", role: Running, status: "upgraded"},
		{fault: UpgradeNetwork, exit: 1, errs: "ERROR: Could not download 1.3.0 from https://pkg.helion.com/als/1.3.0: Connection timed out\n", version: "1.2.0", role: Running, status: "upgraded"},
		{fault: UpgradeInterrupted, exit: 1, errs: interrupted, version: "1.2.0", role: Stopped, left: Upgrade{Previous: "1.2.0", Interrupted: "1.3.0"}, status: "interrupted"},
		{fault: UpgradeUnthrown, version: "1.2.0", role: Stopped, left: Upgrade{Previous: "1.2.0", Interrupted: "1.3.0", FailedMarker: true}, status: "failed", says: true},
		{fault: UpgradeLosesKato, exit: 1, errs: interrupted, version: "1.2.0", role: Stopped, left: Upgrade{Previous: "1.2.0", Interrupted: "1.3.0", NoKato: true}, status: "interrupted"},
		{fault: UpgradeValidation, exit: 1, errs: "ERROR: [10.0.0.4] The validation after the upgrade to 1.3.0 failed: role mysql does not run\n", version: "1.3.0", role: Starting,
			left: Upgrade{Previous: "1.2.0"}, status: "failed"},
		{fault: UpgradeStale, version: "1.2.0", role: Running, left: Upgrade{Previous: "1.2.0"}, status: "upgraded", says: true},
		{fault: UpgradeSilent, version: "1.2.0", role: Running, status: "upgraded", says: true},
		{fault: UpgradeDownload, version: "1.3.0", role: Running, left: Upgrade{Previous: "1.2.0", Fault: UpgradeDownload, Times: 1}, status: "upgraded", says: true},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			u := upgradeCluster(t, "1.2.0")
			u.fault(dataID, tc.fault)
			out, errs, exit := u.kato(coreID, "--node "+dataID+skip)
			require.Equal(t, tc.exit, exit)
			require.Equal(t, tc.errs, errs)
			require.Equal(t, tc.says, strings.HasSuffix(out, "INFO: [10.0.0.4] upgraded to 1.3.0\n"), out)
			s := u.state(dataID)
			require.Equal(t, tc.version, s.Version)
			require.Equal(t, tc.role, s.Roles["mysql"])
			tc.left.Releases = []string{"1.2.1", "1.3.0"}
			require.Equal(t, tc.left, s.Upgrade)
			require.Equal(t, tc.left.FailedMarker, u.markers[dataID])
			require.Equal(t, "10.0.0.4  "+tc.version+"  "+tc.status+"\n", u.ok(coreID, "--status --node "+dataID))

			// What was begun is ended with by --resume, or by --force, and by nothing else.
			u.c.NodeUp(dataID, 0)
			if tc.left.Interrupted != "" {
				require.Equal(t, Stopped, u.state(dataID).Roles["mysql"])
				u.fails(coreID, "--node "+dataID+skip, "ERROR: The upgrade of 10.0.0.4 to 1.3.0 was interrupted. Run kato node upgrade --resume\n")
			}
			how := "--resume"
			if tc.fault == UpgradeLosesKato {
				how = "--force"
			}
			u.ok(coreID, "--node "+dataID+" "+how+skip)
			s = u.state(dataID)
			require.Equal(t, "1.3.0", s.Version)
			require.Equal(t, Running, s.Roles["mysql"])
			require.Equal(t, Upgrade{Releases: tc.left.Releases, Previous: "1.2.0", Fault: tc.left.Fault, Times: tc.left.Times}, s.Upgrade)
			require.False(t, u.markers[dataID])
		})
	}
}

func TestUpgrade_Asks_ThoughItIsNotTo(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	u.fault(deaID, UpgradeAsks)
	require.Equal(t, "Do you want to continue? [y/N] Aborted.\n", u.fails(coreID, "--node "+deaID+skip, ""))
	require.Equal(t, "1.2.0", u.state(deaID).Version)
	u.fault(deaID, UpgradeAsks)
	require.Contains(t, u.ok(coreID, "--node "+deaID+skip, "yes\n"), "upgraded to 1.3.0\n")

	// It waits as long as nobody says anything.
	u.fault(otherID, UpgradeAsks)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r, w := io.Pipe()
	defer w.Close()
	require.Equal(t, killedByTerm, u.run(ctx, coreID, r, io.Discard, io.Discard, "--node "+otherID+skip))
	require.Equal(t, "1.2.0", u.state(otherID).Version)
}

func TestUpgrade_KilledInTheMiddle_LeavesAnInterruptedNodeAndAFreePlace(t *testing.T) {
	for _, fault := range []UpgradeFault{"", UpgradeHangs} {
		u := upgradeCluster(t, "1.2.0")
		u.set(deaID, UpgradePatch{Seconds: new(0.2), Fault: &fault, Times: new(1)})
		if fault == "" {
			u.set(deaID, UpgradePatch{Seconds: new(60.0)})
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan int)
		go func() {
			ended <- u.run(ctx, coreID, strings.NewReader(""), io.Discard, io.Discard, "--node "+deaID+skip)
		}()
		require.Eventually(t, func() bool { return u.state(deaID).Upgrade.Interrupted == "1.3.0" }, 10*time.Second, time.Millisecond)
		require.True(t, u.state(coreID).Upgrading)
		require.True(t, u.state(deaID).Retired)
		u.fails(coreID, "--node "+otherID+skip, "ERROR: Another upgrade is running\n")
		cancel()
		require.Equal(t, killedByTerm, <-ended)
		require.False(t, u.state(coreID).Upgrading)
		s := u.state(deaID)
		require.Equal(t, "1.2.0", s.Version)
		require.Equal(t, []string{"base", "dea"}, s.Stopped)
		u.set(deaID, UpgradePatch{Seconds: new(0.0)})
		require.NotContains(t, u.ok(coreID, "--node "+deaID+" --resume"+skip), "downloading")
		require.Equal(t, "1.3.0", u.state(deaID).Version)
		require.Empty(t, u.state(deaID).Stopped)
	}
}

func TestUpgrade_NodeThatGoesMeanwhile_IsAnError(t *testing.T) {
	for _, tc := range []struct {
		comesBack bool
		want      string
	}{{false, "ERROR: Could not connect to node 10.0.0.4: No route to host\n"}, {true, "ERROR: Connection to 10.0.0.4 closed by remote host.\n"}} {
		u := upgradeCluster(t, "1.2.0")
		u.set(dataID, UpgradePatch{Seconds: new(1.0)})
		go func() {
			for u.state(dataID).Upgrade.Interrupted == "" {
				time.Sleep(time.Millisecond)
			}
			u.c.NodeDown(dataID)
			if tc.comesBack {
				u.c.NodeUp(dataID, 0)
			}
		}()
		u.fails(coreID, "--node "+dataID+skip, tc.want)
		require.Equal(t, "1.3.0", u.state(dataID).Upgrade.Interrupted)
		require.Equal(t, []string{"base", "mysql"}, u.state(dataID).Stopped)
	}
}

func TestUpgrade_Cache_SparesTheDownload(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	u.fault(coreID, UpgradeDownload)
	u.fails(coreID, "--download-only --cache-ip "+coreID, "ERROR: undefined method `cache_path' for nil:NilClass\n")
	require.Empty(t, u.state(coreID).Upgrade.Cached)
	u.fails(coreID, "--download-only --cache-ip 10.9.9.9", "ERROR: Node 10.9.9.9 is not part of the cluster\n")
	u.fails(coreID, "--offline"+skip, "ERROR: Version 1.3.0 is not in the cache\n")
	u.fails(coreID, "--offline --node "+dataID+" --cache-ip "+coreID+skip, "ERROR: Version 1.3.0 is not in the cache\n")
	u.set(coreID, UpgradePatch{DownloadSeconds: new(0.1)})
	began := time.Now()
	require.Equal(t, "INFO: [10.0.0.1] downloading 1.3.0\nINFO: [10.0.0.1] downloaded 1.3.0\n", u.ok(coreID, "--download-only --cache-ip "+coreID))
	require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	u.set(coreID, UpgradePatch{DownloadSeconds: new(60.0)})
	require.Equal(t, "INFO: [10.0.0.1] 1.3.0 is already downloaded\n", u.ok(coreID, "--download-only --cache-ip "+coreID+" --version 1.3.0"))
	require.Equal(t, []string{"1.2.0", "1.2.0", "1.2.0", "1.2.0"}, u.versions())
	require.Equal(t, []string{"1.3.0"}, u.state(coreID).Upgrade.Cached)

	u.set(dataID, UpgradePatch{DownloadSeconds: new(60.0), Fault: new(UpgradeNetwork), Times: new(1)})
	require.NotContains(t, u.ok(coreID, "--node "+dataID+" --cache-ip "+coreID+skip), "downloading")
	require.Equal(t, UpgradeNetwork, u.state(dataID).Upgrade.Fault, "it was not used up")
	u.ok(coreID, "--offline --cache-ip "+coreID+skip)
	require.Equal(t, []string{"1.3.0", "1.3.0", "1.2.0", "1.2.0"}, u.versions())
	u.c.NodeDown(dataID)
	u.fails(coreID, "--node "+deaID+" --cache-ip "+dataID+skip, "ERROR: Could not connect to node 10.0.0.4: No route to host\n")
}

func TestUpgrade_RollBack_IsToTheVersionOfBefore(t *testing.T) {
	for _, fault := range []UpgradeFault{"", UpgradeValidation, UpgradeInterrupted, UpgradeUnthrown} {
		t.Run(string(fault), func(t *testing.T) {
			u := upgradeCluster(t, "3.4.2")
			u.set(coreID, UpgradePatch{Releases: []string{"3.6.0"}})
			u.fails(coreID, "--rollback --node "+dataID+skip, "ERROR: 10.0.0.4 cannot be rolled back: there is no version of before\n")
			u.fault(dataID, fault)
			out, _, _ := u.kato(coreID, "--node "+dataID+skip)
			require.Equal(t, fault == UpgradeValidation, strings.Contains(out, "To roll back, run kato node upgrade --rollback --node 10.0.0.4\n"))
			require.Equal(t, "3.4.2", u.state(dataID).Upgrade.Previous)
			require.Equal(t, "Do you want to continue? [y/N] Aborted.\n", u.fails(coreID, "--rollback --node "+dataID, ""))
			u.ok(coreID, "--rollback --node "+dataID+skip)
			s := u.state(dataID)
			require.Equal(t, "3.4.2", s.Version)
			require.Equal(t, Upgrade{Releases: []string{"1.2.1", "1.3.0"}}, s.Upgrade)
			require.Equal(t, map[string]State{"base": Running, "mysql": Running}, s.Roles)
			require.False(t, u.markers[dataID])
		})
	}
	u := upgradeCluster(t, "3.4.2")
	u.set(coreID, UpgradePatch{Releases: []string{"3.6.0"}, Fault: new(UpgradeFails), Times: new(-1)})
	u.ok(coreID, "--ignore-inspect-failures"+skip)
	require.Equal(t, "3.6.0", u.state(coreID).Version)
}

func TestUpgrade_Status_TellsEachNode(t *testing.T) {
	u := upgradeCluster(t, "1.2.0")
	u.fault(deaID, UpgradeInterrupted)
	u.kato(deaID, skip)
	u.set(dataID, UpgradePatch{FailedMarker: new(true)})
	require.Equal(t, "10.0.0.4  1.2.0  failed\n10.0.0.1  1.2.0  upgraded\n10.0.0.2  1.2.0  interrupted\n10.0.0.3  1.2.0  upgraded\n", u.ok(coreID, "--status"))
	require.JSONEq(t, `{"10.0.0.2":{"version":"1.2.0","status":"interrupted","target":"1.3.0","previous":"1.2.0"}}`, u.ok(coreID, "--status --json --node "+deaID))
	u.c.NodeDown(deaID)
	require.Equal(t, "10.0.0.4  1.2.0  failed\n10.0.0.1  1.2.0  upgraded\n10.0.0.3  1.2.0  upgraded\n",
		u.fails(coreID, "--status", "ERROR: Could not connect to node 10.0.0.2: No route to host\n"))
}
