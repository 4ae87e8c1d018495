package katodouble

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	deaID, otherID = "10.0.0.2", "10.0.0.3"
	deaPatch       = "dea-memory-usage-reporting"
	corePatch      = "vsphere-autoscaling-fix"
	basePatch      = "log-stream-reconnect"
)

// patches is a cluster with a Core and two DEAs, and the vendor that it fetches from.
type patches struct {
	t        *testing.T
	c        *Cluster
	manifest Manifest
	url      string

	mu     sync.Mutex
	deny   map[string]error
	asked  []string // what the vendor was asked for, with the node that did
	dialed []string
}

func patchCluster(t *testing.T) *patches {
	p := &patches{t: t, c: fixture(), deny: map[string]error{}}
	p.manifest.Set(DefaultPatches())
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.URL.Path)
		p.mu.Unlock()
		ManifestHandler(&p.manifest).ServeHTTP(w, r)
	}))
	t.Cleanup(vendor.Close)
	p.url = vendor.URL + ManifestPath
	p.c.SetManifest(p.url)
	return p
}

func (p *patches) dial(ctx context.Context, node, network, address string) (net.Conn, error) {
	p.mu.Lock()
	p.dialed = append(p.dialed, node)
	p.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// begin runs a command line; what is read of standard input never ends.
func (p *patches) begin(ctx context.Context, node string, stdout, stderr io.Writer, args ...string) int {
	return p.c.Run(ctx, Invocation{Args: args, Node: node, UID: 1000, Home: "/home/stackato", Path: "/home/stackato/bin:/usr/bin", Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr,
		Dial: p.dial, Reach: func(_ context.Context, from, to string) error {
			if from != coreID {
				return errors.New("asked from " + from)
			}
			return p.deny[to]
		}})
}

func (p *patches) kato(node, line string) (out, errs string, exit int) {
	p.t.Helper()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	exit = p.begin(ctx, node, &o, &e, strings.Fields(line)...)
	return o.String(), e.String(), exit
}

// ok runs a command that must succeed without a word on standard error.
func (p *patches) ok(node, line string) string {
	p.t.Helper()
	out, errs, exit := p.kato(node, line)
	require.Zero(p.t, exit, out+errs)
	require.Empty(p.t, errs)
	return out
}

// fails runs a command that must end with 1 and say exactly so much on standard error.
func (p *patches) fails(node, line, want string) (out string) {
	p.t.Helper()
	out, errs, exit := p.kato(node, line)
	require.Equal(p.t, 1, exit, out+errs)
	require.Equal(p.t, want, errs)
	return out
}

func (p *patches) set(change PatchesPatch, nodes ...string) {
	p.t.Helper()
	for _, id := range nodes {
		require.NoError(p.t, p.c.PatchNode(id, StatePatch{Patches: &change}))
	}
}

func (p *patches) generation(g Generation) {
	p.set(PatchesPatch{Generation: &g}, coreID, deaID, otherID)
}

func (p *patches) installed(node string) []string {
	p.t.Helper()
	s, known := p.c.Patches(node)
	require.True(p.t, known)
	return s.Installed
}

// restarted are the roles that were since the boot.
func (p *patches) restarted(node string) (roles []string) {
	s, _ := p.c.NodeState(node)
	for r := range s.Restarted {
		roles = append(roles, r)
	}
	slices.Sort(roles)
	return roles
}

func (p *patches) state(node, role string) State {
	s, _ := p.c.NodeState(node)
	return s.Roles[role]
}

const (
	status34 = `3 updates are available for 3.4.2.

  dea-memory-usage-reporting: Fix the reporting of helion stats usage on the DEA end.
    patch id: 1
    severity: required
    roles affected: dea
    installed on: none
    to be installed on: 10.0.0.2, 10.0.0.3

  vsphere-autoscaling-fix: Fix VSphere autoscaling behavior.
    patch id: 2
    severity: required
    roles affected: controller, primary
    installed on: none
    to be installed on: 10.0.0.1

  log-stream-reconnect: Reconnect log streams after a network failure.
    patch id: 3
    severity: required
    roles affected: router, base
    installed on: none
    to be installed on: 10.0.0.1, 10.0.0.2, 10.0.0.3
`
	statusALS = `3 updates available to be installed.

Known updates:
  dea-memory-usage-reporting: Fix the reporting of helion stats usage on the DEA end.
    severity: required
    roles affected: dea

  vsphere-autoscaling-fix: Fix VSphere autoscaling behavior.
    severity: required
    roles affected: controller, primary

  log-stream-reconnect: Reconnect log streams after a network failure.
    severity: required
    roles affected: router, base
`
	statusJSON = `[{"name":"dea-memory-usage-reporting","id":1,"description":"Fix the reporting of helion stats usage on the DEA end.","severity":"required","roles_affected":["dea"],
"installed_on":[],"to_be_installed_on":["10.0.0.2"]},
{"name":"log-stream-reconnect","id":3,"description":"Reconnect log streams after a network failure.","severity":"required","roles_affected":["router","base"],
"installed_on":["10.0.0.2"],"to_be_installed_on":[]}]`
)

func TestPatchStatus_OfEachGeneration_IsItsText(t *testing.T) {
	p := patchCluster(t)
	require.Equal(t, status34, p.ok(deaID, "patch status"), "what was never fetched is")
	require.Equal(t, status34, p.ok(deaID, "patch status --all --quiet"))
	p.set(PatchesPatch{Install: []string{basePatch}}, deaID)
	require.Equal(t, `1 update is available for 3.4.2.

  dea-memory-usage-reporting: Fix the reporting of helion stats usage on the DEA end.
    patch id: 1
    severity: required
    roles affected: dea
    installed on: none
    to be installed on: 10.0.0.2
`, p.ok(deaID, "patch status --local"))
	require.Contains(t, p.ok(deaID, "patch status -a -l"), `1 update is available for 3.4.2.

  dea-memory-usage-reporting: Fix the reporting of helion stats usage on the DEA end.
    patch id: 1
    severity: required
    roles affected: dea
    installed on: none
    to be installed on: 10.0.0.2

  log-stream-reconnect: Reconnect log streams after a network failure.
    patch id: 3
    severity: required
    roles affected: router, base
    installed on: 10.0.0.2
    to be installed on: none
`)
	require.JSONEq(t, statusJSON, p.ok(deaID, "patch status --local --all --json --quiet"))
	stray, rest, _ := strings.Cut(p.ok(deaID, "patch status --local --all --json"), "\n")
	require.Equal(t, "Checking for updates...", stray)
	require.JSONEq(t, statusJSON, rest)
	require.JSONEq(t, statusJSON, p.ok(coreID, "patch status --node 10.0.0.2 --all --json --quiet"))

	p.set(PatchesPatch{Installed: []string{}}, deaID)
	p.generation(GenerationALS)
	require.Equal(t, statusALS, p.ok(coreID, "patch status"))
	require.Equal(t, "2 updates available to be installed.\n\nKnown updates:\n"+statusALS[strings.Index(statusALS, "  vsphere"):], p.ok(coreID, "patch status --local"))
	require.JSONEq(t, strings.Replace(statusJSON, `"installed_on":["10.0.0.2"],"to_be_installed_on":[]`, `"installed_on":[],"to_be_installed_on":["10.0.0.2"]`, 1),
		p.ok(deaID, "patch status --local --json --quiet"))
	p.generation(Generation10)
	require.Equal(t, statusALS, p.ok(coreID, "patch status --all"))
	require.Equal(t, "1 update available to be installed.\n\nKnown updates:\n  log-stream-reconnect: Reconnect log streams after a network failure.\n    severity: required\n    roles affected: router, base\n",
		func() string {
			p.set(PatchesPatch{Install: []string{deaPatch}}, deaID)
			return p.ok(deaID, "patch status -n")
		}())

	for _, id := range []string{coreID, deaID, otherID} {
		p.set(PatchesPatch{Install: []string{deaPatch, corePatch, basePatch}}, id)
	}
	require.Equal(t, "0 updates available to be installed.\n", p.ok(coreID, "patch status"))
	require.Equal(t, strings.Replace(statusALS, "3 updates", "0 updates", 1), p.ok(coreID, "patch status --all"))
	p.generation(Generation34)
	require.Equal(t, "0 updates are available for 3.4.2.\n", p.ok(coreID, "patch status"))
	require.Equal(t, "[]\n", p.ok(coreID, "patch status --json --quiet"))
	require.Contains(t, p.ok(coreID, "patch status --all"), "    installed on: 10.0.0.2, 10.0.0.3\n    to be installed on: none\n")
}

func TestPatchStatus_WithANodeOffline_TellsOfTheOthers(t *testing.T) {
	p := patchCluster(t)
	p.c.NodeDown(otherID)
	out := p.fails(coreID, "patch status", "ERROR: Could not connect to node 10.0.0.3: No route to host\n")
	require.Contains(t, out, "    to be installed on: 10.0.0.2\n")
	require.NotContains(t, out, otherID)
	p.ok(coreID, "patch status --local")
	p.fails(coreID, "patch status --node 10.0.0.3", "ERROR: Could not connect to node 10.0.0.3: No route to host\n")
	p.fails(coreID, "patch status --node 10.9.9.9", "ERROR: Node 10.9.9.9 is not part of the cluster\n")
}

func TestPatch_Options_AreThoseOfTheGeneration(t *testing.T) {
	p := patchCluster(t)
	for g, tc := range map[Generation]struct{ has, hasNot []string }{
		Generation34: {[]string{"status --local --json --all --quiet", "status --force-update", "install --local --no-restart --quiet --force-update " + deaPatch, "reinstall -l -r -q " + deaPatch, "revert -n 10.0.0.2 " + deaPatch,
			"update --local", "update --node=10.0.0.2"}, []string{"status --only-this-node", "status -n", "update --only-this-node", "status --local --node 10.0.0.2"}},
		Generation10: {[]string{"status -n", "status --only-this-node --all --quiet", "install -n " + deaPatch, "reinstall --only-this-node " + deaPatch, "revert -n --no-restart", "update -n"},
			[]string{"status --local", "status --json", "status -n 10.0.0.2", "update --local", "install --node 10.0.0.2"}},
	} {
		p.generation(g)
		for _, line := range tc.has {
			p.ok(deaID, "patch "+line)
		}
		for _, line := range append(tc.hasNot, "status x", "install a b", "reinstall", "update x", "mark --installed x", "reset", "install --all", "status --no-restart", "") {
			out, errs, exit := p.kato(deaID, "patch "+line)
			require.Equal(t, 1, exit, "%s: %s", g, line)
			require.Empty(t, out)
			require.Equal(t, usageText, errs)
		}
		require.Equal(t, patchHelp(g), p.ok(deaID, "patch --help"))
		require.Equal(t, patchHelp(g), p.ok(deaID, "patch install --help"))
	}
	require.Equal(t, patchHelp(Generation34), patchHelp(GenerationALS))
	require.Contains(t, patchHelp(Generation34), "--local")
	require.Contains(t, patchHelp(Generation34), "--json")
	require.NotContains(t, patchHelp(Generation34), "--only-this-node")
	require.Contains(t, patchHelp(Generation10), "-n --only-this-node")
	require.NotContains(t, patchHelp(Generation10), "--local")
	require.NotContains(t, patchHelp(Generation10), "--json")
	require.NotContains(t, patchHelp(Generation10), "--node ")
	require.Contains(t, p.ok(deaID, "--help"), "kato patch install|revert [options] [<patchname>]\n")
}

func TestPatchInstall_OnThisNode_InstallsAndRestartsWhatIsAffected(t *testing.T) {
	p := patchCluster(t)
	p.c.SetRestartTime(deaID, 300*time.Millisecond)
	require.Equal(t, `-----> Patching node 10.0.0.2
       dea-memory-usage-reporting...   ok
       log-stream-reconnect...   ok
-----> Restarting roles
       role base restarting...   ok
       role dea restarting...   ok
`, p.ok(deaID, "patch install --local"))
	require.Equal(t, Starting, p.state(deaID, "dea"))
	require.Equal(t, Starting, p.state(deaID, "base"))
	require.Equal(t, []string{deaPatch, basePatch}, p.installed(deaID))
	require.Empty(t, p.installed(otherID))
	require.Equal(t, []string{"/patches", "/patches/" + deaPatch, "/patches/" + basePatch}, p.asked)
	require.Equal(t, []string{deaID, deaID, deaID}, p.dialed)
	require.Eventually(t, func() bool { return p.state(deaID, "dea") == Running }, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, "dea-memory-usage-reporting is already installed\nlog-stream-reconnect is already installed\n", p.ok(deaID, "patch install --local"))
	require.Equal(t, Running, p.state(deaID, "dea"))
	require.Equal(t, "dea-memory-usage-reporting is already installed\n", p.ok(deaID, "patch install --local "+deaPatch))
	require.Empty(t, p.ok(deaID, "patch install --local --quiet "+deaPatch))
	require.Equal(t, "vsphere-autoscaling-fix does not affect this node\n", p.ok(deaID, "patch install --local "+corePatch))
	require.Len(t, p.asked, 3, "nothing was to be fetched")

	p.c.NodeDown(deaID)
	p.c.NodeUp(deaID, 0)
	require.Equal(t, []string{deaPatch, basePatch}, p.installed(deaID), "a reboot takes nothing away")
	require.Empty(t, p.restarted(deaID))
	require.Equal(t, "-----> Patching node 10.0.0.2\n       dea-memory-usage-reporting...   ok\n", p.ok(deaID, "patch reinstall --local --no-restart "+deaPatch))
	require.Empty(t, p.restarted(deaID))
	require.Empty(t, p.ok(deaID, "patch reinstall --quiet --local "+deaPatch))
	require.Equal(t, []string{"dea"}, p.restarted(deaID))
	require.Equal(t, "-----> Patching node 10.0.0.2\n       log-stream-reconnect...   ok\n       dea-memory-usage-reporting...   ok\n", p.ok(deaID, "patch revert --local --no-restart"))
	require.Empty(t, p.installed(deaID))
	require.Equal(t, "dea-memory-usage-reporting is not installed\n", p.ok(deaID, "patch revert --local "+deaPatch))
}

func TestPatchInstall_OfTheCluster_DoesOneNodeAfterTheOther(t *testing.T) {
	p := patchCluster(t)
	require.Equal(t, `-----> Patching node 10.0.0.2
       dea-memory-usage-reporting...   ok
-----> Restarting roles
       role dea restarting...   ok
-----> Patching node 10.0.0.3
       dea-memory-usage-reporting...   ok
-----> Restarting roles
       role dea restarting...   ok
`, p.ok(coreID, "patch install "+deaPatch))
	require.Equal(t, []string{coreID, deaID, deaID, otherID, otherID}, p.dialed, "every node fetches for itself")
	p.deny[otherID] = errors.New("Permission denied (publickey)")
	p.fails(deaID, "patch revert", "ERROR: Could not log in from 10.0.0.1 to 10.0.0.3: Permission denied (publickey)\n")
	require.Equal(t, []string{deaPatch}, p.installed(deaID), "nothing is done")
	p.fails(deaID, "patch revert --node 10.0.0.3", "ERROR: Could not log in from 10.0.0.1 to 10.0.0.3: Permission denied (publickey)\n")
	p.ok(deaID, "patch revert --node 10.0.0.2")
	require.Empty(t, p.installed(deaID))
	delete(p.deny, otherID)
	p.c.NodeDown(deaID)
	out := p.fails(coreID, "patch install --no-restart", "ERROR: Could not connect to node 10.0.0.2: No route to host\n")
	require.Contains(t, out, "-----> Patching node 10.0.0.3\n       log-stream-reconnect...   ok\n", "the others are done")
	require.Equal(t, []string{corePatch, basePatch}, p.installed(coreID))
	require.Equal(t, []string{deaPatch, basePatch}, p.installed(otherID))
	require.Empty(t, p.installed(deaID))
	p.manifest.Set([]Patch{{ID: 9, Name: "mysql-fix", Description: "Fix.", Severity: "required", Roles: []string{"mysql"}}})
	require.Equal(t, "mysql-fix does not affect any node\n", p.ok(coreID, "patch install --force-update mysql-fix"))
}

func TestPatchInstall_OfAnUnknownName_EndsAsTheGenerationDoes(t *testing.T) {
	p := patchCluster(t)
	for _, line := range []string{"patch install nothing", "patch revert nothing", "patch reinstall nothing"} {
		p.fails(deaID, line, "ERROR: Unknown patch: nothing\n")
		p.fails(deaID, line+" --local", "ERROR: Unknown patch: nothing\n")
	}
	for _, g := range []Generation{GenerationALS, Generation10} {
		p.generation(g)
		out, errs, exit := p.kato(deaID, "patch install nothing")
		require.Equal(t, 1, exit)
		require.Empty(t, out)
		require.Regexp(t, `^/home/stackato/\S+:in .block in find': undefined method 'roles' for nil:NilClass \(NoMethodError\)\n\tfrom /home`, errs)
	}
	p.c.SetExitAlwaysZero(deaID, true)
	_, _, exit := p.kato(deaID, "patch install nothing")
	require.Zero(t, exit)
}

func TestPatchFaults_EndAsTheySayAndAfterTheirTimes(t *testing.T) {
	const failed = "ERROR: Patch %s could not be applied: patch exited with status 1\n"
	both := []string{deaPatch, basePatch}
	t.Run("fails", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchFails), Times: new(2)}, deaID)
		p.fails(deaID, "patch install --local", strings.Replace(failed, "%s", deaPatch, 1))
		p.ok(deaID, "patch revert --local") // nothing to do, which is no time
		p.fails(deaID, "patch reinstall --local "+basePatch, strings.Replace(failed, "%s", basePatch, 1))
		require.Empty(t, p.installed(deaID))
		require.Empty(t, p.restarted(deaID))
		p.ok(deaID, "patch install --local")
		require.Equal(t, both, p.installed(deaID))
		p.set(PatchesPatch{Fault: new(PatchFails), Times: new(-1)}, deaID)
		for range 3 {
			p.fails(deaID, "patch revert --local", strings.Replace(failed, "%s", basePatch, 1))
		}
		p.set(PatchesPatch{Heal: true}, deaID)
		p.ok(deaID, "patch revert --local")
	})
	t.Run("fails on one node of the cluster", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchFails), Times: new(1)}, deaID)
		p.fails(coreID, "patch install "+deaPatch, strings.Replace(failed, "%s", deaPatch, 1))
		require.Empty(t, p.installed(deaID))
		require.Equal(t, []string{deaPatch}, p.installed(otherID))
	})
	t.Run("half", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchHalf), Times: new(1)}, deaID)
		out := p.fails(deaID, "patch install --local", strings.Replace(failed, "%s", basePatch, 1))
		require.Equal(t, "-----> Patching node 10.0.0.2\n       dea-memory-usage-reporting...   ok\n       log-stream-reconnect...   FAILED\n", out)
		require.Equal(t, []string{deaPatch}, p.installed(deaID))
		require.Empty(t, p.restarted(deaID))
		p.set(PatchesPatch{Fault: new(PatchHalf), Times: new(1)}, deaID)
		p.fails(deaID, "patch install --local", strings.Replace(failed, "%s", basePatch, 1))
		p.ok(deaID, "patch install --local")
		require.Equal(t, both, p.installed(deaID))
	})
	t.Run("silent", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchSilent), Times: new(1)}, deaID)
		said := p.ok(deaID, "patch install --local")
		require.Empty(t, p.installed(deaID))
		require.Empty(t, p.restarted(deaID))
		require.Equal(t, said, p.ok(deaID, "patch install --local"))
		require.Equal(t, both, p.installed(deaID))
	})
	t.Run("hangs", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchHangs), Times: new(1)}, otherID)
		r, w := io.Pipe()
		ctx, kill := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		go func() {
			ended <- p.begin(ctx, coreID, w, io.Discard, "patch", "install", "--quiet", deaPatch)
			w.Close()
		}()
		said := make([]byte, 100)
		n, err := r.Read(said)
		require.NoError(t, err)
		require.Equal(t, "stackato@10.0.0.3's password: ", string(said[:n]))
		select {
		case <-ended:
			t.Fatal("it waits, although its standard input has ended")
		case <-time.After(50 * time.Millisecond):
		}
		kill()
		require.Equal(t, killedByTerm, <-ended)
		require.Equal(t, []string{deaPatch}, p.installed(deaID))
		require.Empty(t, p.installed(otherID))
		p.ok(coreID, "patch install "+deaPatch)
		require.Equal(t, []string{deaPatch}, p.installed(otherID))
	})
	t.Run("breaks", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchBreaks), Times: new(1)}, deaID)
		p.ok(deaID, "patch install --local "+deaPatch)
		require.Equal(t, []string{deaPatch}, p.installed(deaID))
		require.Equal(t, Starting, p.state(deaID, "dea"))
		require.Equal(t, Running, p.state(deaID, "base"))
		p.ok(deaID, "patch reinstall --local "+deaPatch)
		require.Equal(t, Starting, p.state(deaID, "dea"), "another restart does not help")
		require.NoError(t, p.c.PatchNode(deaID, StatePatch{Start: []string{"dea"}}))
		require.Equal(t, Running, p.state(deaID, "dea"))
		p.set(PatchesPatch{Fault: new(PatchBreaks), Times: new(1)}, deaID)
		p.ok(deaID, "patch install --local")
		require.Equal(t, Starting, p.state(deaID, "base"))
		p.c.NodeUp(deaID, 0)
		require.Equal(t, Running, p.state(deaID, "base"))
	})
	t.Run("no JSON", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchNoJSON)}, deaID)
		for range 2 {
			out, errs, exit := p.kato(deaID, "patch status --json")
			require.Equal(t, 1, exit)
			require.Empty(t, out)
			require.Contains(t, errs, "(NoMethodError)")
		}
		require.Equal(t, status34, p.ok(deaID, "patch status"))
		p.ok(deaID, "patch install --local")
		require.Equal(t, both, p.installed(deaID))
	})
	t.Run("no manifest", func(t *testing.T) {
		p := patchCluster(t)
		p.set(PatchesPatch{Fault: new(PatchNoManifest), Times: new(1)}, deaID)
		want := "ERROR: Could not fetch the patch manifest from " + p.url + ": Connection refused\n"
		for _, line := range []string{"patch update --local", "patch status", "patch install --local", "patch update"} {
			p.fails(deaID, line, want)
		}
		require.Equal(t, []string{"/patches", "/patches"}, p.asked, "of the other two nodes")
		p.ok(coreID, "patch status")
		p.set(PatchesPatch{Fetched: new(true), Manifest: DefaultPatches()}, deaID)
		p.fails(deaID, "patch install --local", strings.Replace(want, "/patches:", "/patches/"+deaPatch+":", 1))
		require.Empty(t, p.installed(deaID))
		p.set(PatchesPatch{Install: []string{deaPatch}}, deaID)
		p.ok(deaID, "patch revert --local")
	})
	p := patchCluster(t)
	for _, wrong := range []PatchesPatch{{Fault: new(PatchFault("explodes"))}, {Generation: new(Generation("2.0"))}, {Seconds: new(-1.0)}} {
		require.Error(t, p.c.PatchNode(deaID, StatePatch{Patches: &wrong}))
	}
	_, err := ParsePatchesPatch(`{"fault":"half","time":1}`)
	require.Error(t, err)
	change, err := ParsePatchesPatch(`{"installed":[]}`)
	require.NoError(t, err)
	b, err := json.Marshal(change)
	require.NoError(t, err)
	require.JSONEq(t, `{"installed":[]}`, string(b), "an empty list takes what is installed back")
	require.Error(t, p.c.PatchNode(deaID, StatePatch{Restart: []string{"mysql"}}))
	require.Error(t, p.c.PatchNode(deaID, StatePatch{Stuck: []string{"mysql"}}))
}

func TestPatchInstall_KilledInTheMiddle_LeavesWhatWasDone(t *testing.T) {
	p := patchCluster(t)
	p.set(PatchesPatch{Seconds: new(0.2)}, deaID)
	ctx, kill := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() { ended <- p.begin(ctx, deaID, io.Discard, io.Discard, "patch", "install", "--local") }()
	require.Eventually(t, func() bool { return len(p.installed(deaID)) == 1 }, 10*time.Second, time.Millisecond)
	kill()
	require.Equal(t, killedByTerm, <-ended)
	require.Equal(t, []string{deaPatch}, p.installed(deaID))
	require.Empty(t, p.restarted(deaID))
	began := time.Now()
	p.ok(deaID, "patch install --local")
	require.GreaterOrEqual(t, time.Since(began), 200*time.Millisecond)
	require.Equal(t, []string{deaPatch, basePatch}, p.installed(deaID))
	require.Equal(t, []string{"base"}, p.restarted(deaID))
}

func TestPatchUpdate_KeepsTheManifestOfEachNode(t *testing.T) {
	p := patchCluster(t)
	require.Equal(t, "Updating the patch manifest...\nok\n", p.ok(coreID, "patch update"))
	require.Empty(t, p.ok(coreID, "patch update --quiet"))
	p.manifest.Set(append(DefaultPatches(), Patch{ID: 7, Name: "aok-timeout", Description: "Wait longer.", Severity: "required", Roles: []string{"controller", "dea"}}))
	require.NotContains(t, p.ok(deaID, "patch status"), "aok-timeout", "what was fetched stays")
	p.fails(deaID, "patch install --local aok-timeout", "ERROR: Unknown patch: aok-timeout\n")
	p.ok(deaID, "patch update --local")
	require.Contains(t, p.ok(deaID, "patch status"), "  aok-timeout: Wait longer.\n    patch id: 7\n")
	require.NotContains(t, p.ok(coreID, "patch status"), "aok-timeout")
	require.Contains(t, p.ok(coreID, "patch status --force-update"), "aok-timeout")
	require.Contains(t, p.ok(otherID, "patch install --local --force-update aok-timeout"), "aok-timeout...   ok\n")
	p.c.NodeDown(otherID)
	require.Equal(t, "Updating the patch manifest...\n", p.fails(coreID, "patch update", "ERROR: Could not connect to node 10.0.0.3: No route to host\n"))
	p.manifest.Set(nil)
	p.ok(deaID, "patch update --local")
	require.Equal(t, "0 updates are available for 3.4.2.\n", p.ok(deaID, "patch status --all --local"))
}

func TestPatchUpdate_WhatIsNoManifest_IsNamed(t *testing.T) {
	p := patchCluster(t)
	for path, want := range map[string]string{"/nothing": "404 Not Found", ManifestPath + "/" + deaPatch: "it is no manifest: invalid character 'p' looking for beginning of value"} {
		p.c.SetManifest(strings.TrimSuffix(p.url, ManifestPath) + path)
		p.fails(deaID, "patch update --local", "ERROR: Could not fetch the patch manifest from "+strings.TrimSuffix(p.url, ManifestPath)+path+": "+want+"\n")
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	p.c.SetManifest(gone.URL)
	p.fails(deaID, "patch update --local", "ERROR: Could not fetch the patch manifest from "+gone.URL+": Connection refused\n")
	p.c.SetManifest("")
	p.fails(deaID, "patch update --local", "ERROR: Could not fetch the patch manifest from https://get.stackato.com: getaddrinfo: Name or service not known\n")
	require.Equal(t, "execution expired", whyNot(context.DeadlineExceeded))
	p.c.SetManifest(p.url)
	p.ok(deaID, "patch update --local")
	p.manifest.Set(nil)
	p.fails(deaID, "patch install --local", "ERROR: Could not fetch the patch manifest from "+p.url+"/"+deaPatch+": 404 Not Found\n")
}

func TestPatchUpdate_OfAVendorThatDoesNotAnswer_EndsWhenItIsKilled(t *testing.T) {
	p := patchCluster(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	p.c.SetManifest("http://" + silent.Addr().String())
	ctx, kill := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer kill()
	var errs bytes.Buffer
	require.Equal(t, killedByTerm, p.begin(ctx, deaID, io.Discard, &errs, "patch", "update", "--local"))
	require.Empty(t, errs.String())
}

// proxy is a plain HTTP proxy that wants a login.
func proxy(t *testing.T) (address string, through func() []string) {
	var mu sync.Mutex
	var list []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("eve:s3cret")); r.Header.Get("Proxy-Authorization") != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		mu.Lock()
		list = append(list, r.URL.Path)
		mu.Unlock()
		r.RequestURI = ""
		answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}

func TestUpstreamProxy_OfANode_IsHowItFetches(t *testing.T) {
	p := patchCluster(t)
	address, through := proxy(t)
	require.Empty(t, p.ok(deaID, "op upstream_proxy set "+address))
	p.fails(deaID, "patch update --local", "ERROR: Could not fetch the patch manifest from "+p.url+": 407 Proxy Authentication Required\n")
	p.ok(deaID, "op upstream_proxy set "+address+" -u eve --pass=s3cret --no-proxy .example.com,10.0.0.1")
	p.c.NodeUp(deaID, 0)
	p.ok(deaID, "patch install --local "+deaPatch)
	require.Equal(t, []string{"/patches", "/patches/" + deaPatch}, through())
	p.ok(otherID, "patch update --local")
	require.Len(t, through(), 2, "another node has none")
	s, _ := p.c.Patches(deaID)
	require.Equal(t, []string{address, "eve", "s3cret", ".example.com,10.0.0.1"}, []string{s.UpstreamProxy, s.ProxyUser, s.ProxyPassword, s.NoProxy})
	p.ok(deaID, "op upstream_proxy set --no-proxy x,127.0.0.1 127.0.0.1:1")
	p.ok(deaID, "patch update --local")
	p.ok(deaID, "op upstream_proxy set 127.0.0.1:1")
	p.fails(deaID, "patch update --local", "ERROR: Could not fetch the patch manifest from "+p.url+": Connection refused\n")
	require.Empty(t, p.ok(deaID, "op upstream_proxy delete"))
	p.ok(deaID, "patch update --local")
	for _, wrong := range []string{"proxy", "proxy:", ":3128", "proxy:http", "proxy:70000", "proxy:0", "http://proxy:3128", "eve@proxy:3128"} {
		p.fails(deaID, "op upstream_proxy set "+wrong, "ERROR: Invalid proxy address: "+wrong+"\n")
	}
	for _, line := range []string{"op", "op upstream_proxy", "op upstream_proxy set", "op upstream_proxy get", "op upstream_proxy set a:1 b:2", "op upstream_proxy set a:1 --user", "op upstream_proxy set a:1 --no",
		"op upstream_proxy delete a:1", "op dhcp"} {
		p.fails(deaID, line, usageText)
	}
	s, _ = p.c.Patches(deaID)
	require.Empty(t, s.UpstreamProxy)
}

func TestServeManifest_EndsWithItsStop(t *testing.T) {
	var m Manifest
	url, stop, err := ServeManifest("127.0.0.1:0", &m)
	require.NoError(t, err)
	get := func(path string) (string, int) {
		answer, err := http.Get(url + path)
		require.NoError(t, err)
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return string(b), answer.StatusCode
	}
	body, code := get("")
	require.Equal(t, []any{"[]\n", 200}, []any{body, code})
	m.Set(DefaultPatches())
	body, _ = get("")
	var list []Patch
	require.NoError(t, json.Unmarshal([]byte(body), &list))
	require.Equal(t, DefaultPatches(), list)
	require.Equal(t, list, m.Get())
	_, code = get("/" + deaPatch)
	require.Equal(t, 200, code)
	_, code = get("/nothing")
	require.Equal(t, 404, code)
	stop()
	_, err = http.Get(url)
	require.Error(t, err)
}
