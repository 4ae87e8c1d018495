package simcluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// moving is an old cluster with content and a new one without, on one network.
type moving struct {
	t              *testing.T
	core, old      *Node
	cc, oldCC      *cloudcontroller.Controller
	before, oldWas katodouble.Content // of the new and of the old cluster
	keys, known    string             // authorized_keys of the old Core, and known_hosts of the new one without it
}

func twoClusters(t *testing.T) *moving {
	t.Helper()
	c, core, _ := alsCluster(t, Config{})
	old := startCluster(t, Config{Name: "old", Network: 77, Nodes: []NodeConfig{
		{Name: "old-core", Roles: []string{"base", "primary", "controller", "router", "filesystem"}},
		{Name: "old-dea", Roles: []string{"base", "dea"}}, {Name: "mysql-1", Roles: []string{"base", "mysql"}},
	}})
	m := &moving{t: t, core: core, old: old.Node("old-core"), cc: c.Controller(), oldCC: old.Controller()}
	m.cc.Empty()
	m.before, m.oldWas = m.dump(m.cc), m.dump(m.oldCC)
	require.NotEmpty(t, m.oldWas.Apps)
	require.Empty(t, m.before.Apps)
	c.Connect(old)
	m.known = m.read(core, "known_hosts")
	require.NoError(t, core.KnowHost(m.old))
	require.NoError(t, m.old.AuthorizeKey(c.CorePublicKey()))
	require.Equal(t, 0, run(t, dial(t, core), "mkdir -p /home/stackato/work").exit)
	m.keys = m.read(m.old, "authorized_keys")
	return m
}

// read is a file of the login user's ssh.
func (m *moving) read(n *Node, name string) string {
	m.t.Helper()
	text, err := n.ReadFile("/home/stackato/.ssh/" + name)
	require.NoError(m.t, err)
	return string(text)
}

func (m *moving) dump(cc *cloudcontroller.Controller) katodouble.Content {
	m.t.Helper()
	content, err := cc.Dump(m.t.Context())
	require.NoError(m.t, err)
	return content
}

// exports are the calls of kato on the old Core.
func (m *moving) exports() (list []string) {
	for _, c := range m.old.Commands() {
		if strings.HasPrefix(c.Command(), "kato data ") {
			list = append(list, c.Command())
		}
	}
	return list
}

const importFrom = `exec bash -lc 'exec kato data import --base-dir /home/stackato/work "$@"' sh `

func (m *moving) load(args string) result {
	m.t.Helper()
	return run(m.t, dial(m.t, m.core), importFrom+args)
}

// clean says that neither Core has anything of an import.
func (m *moving) clean() {
	m.t.Helper()
	require.Empty(m.t, run(m.t, dial(m.t, m.core), "ls -A /home/stackato/work /tmp").out[len("/home/stackato/work:\n\n/tmp:\n"):])
	m.oldClean()
	require.False(m.t, m.core.Importing())
}

func (m *moving) oldClean() {
	m.t.Helper()
	eventually(m.t, "the old Core is as it was", func() bool {
		return run(m.t, dial(m.t, m.old), "ls -A /tmp; ls /home/stackato/*.tgz 2>/dev/null").out == "" && !m.old.Exporting()
	})
	require.Equal(m.t, m.oldWas, m.dump(m.oldCC))
}

// refused is an import that fails with these words and changes nothing.
func (m *moving) refused(words ...string) {
	m.t.Helper()
	r := m.load("--cluster old-core")
	require.Equal(m.t, 1, r.exit, r.out+r.err)
	require.Equal(m.t, 1, strings.Count(r.err, "\n"), r.err)
	require.True(m.t, strings.HasPrefix(r.err, "ERROR: "), r.err)
	for _, w := range words {
		require.Contains(m.t, r.err, w)
	}
	require.Equal(m.t, m.before, m.dump(m.cc))
}

func TestImport_FromAHost_BringsItsContentAndLeavesNothingThere(t *testing.T) {
	m := twoClusters(t)
	host := "stackato@" + m.old.Address()
	if m.old.Address() == m.core.Address() { // a machine with one loopback address
		host = "stackato@old-core"
	}
	r := m.load("--cluster " + host)
	require.Equal(t, 0, r.exit, r.out+r.err)
	after := m.dump(m.cc)
	require.ElementsMatch(t, m.oldWas.Orgs, after.Orgs)
	require.ElementsMatch(t, m.oldWas.Spaces, after.Spaces)
	require.ElementsMatch(t, m.oldWas.Apps, after.Apps)
	require.ElementsMatch(t, m.oldWas.Services, after.Services)
	require.Equal(t, "STARTED", m.cc.AppState(m.cc.AppGUID("shop", "production", "orders")))
	require.Equal(t, "STARTED", m.oldCC.AppState(m.oldCC.AppGUID("shop", "production", "orders")))
	require.Contains(t, r.out, "Importing Helion Application Lifecycle Service data from "+host+"\nExporting from "+host+"...\nUnpacking ")
	require.Contains(t, r.out, "Import finished: "+host+"\n")
	m.clean()
	require.Equal(t, m.keys, m.read(m.old, "authorized_keys"))
	require.Len(t, m.exports(), 1)
	require.Contains(t, m.exports()[0], "kato data export --cluster --base-dir /tmp/kato-export-")
}

func TestImport_FromAHostOfThisNodeOnly_ExportsThatNodeAlone(t *testing.T) {
	m := twoClusters(t)
	m.old.cluster.Node("old-dea").PowerOff()
	m.refused("Could not export from old-core: Could not connect to node " + m.old.cluster.Node("old-dea").Address())
	m.clean()
	r := m.load("--only-this-node --main-db old-core")
	require.Equal(t, 0, r.exit, r.out+r.err)
	require.ElementsMatch(t, m.oldWas.Apps, m.dump(m.cc).Apps)
	require.NotContains(t, r.out, "Importing droplets")
	require.Len(t, m.exports(), 2)
	require.Contains(t, m.exports()[1], "kato data export --only-this-node --main-db --base-dir ")
	m.clean()
}

func TestImport_FromAHostThatDoesNotLetItIn_ChangesNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		breaks func(*moving)
		words  string
	}{
		{"no key", func(m *moving) {
			require.NoError(t, m.old.tree.put("/home/stackato/.ssh/authorized_keys", m.old.cluster.operatorLine()+m.old.cluster.CorePublicKey(), 0o600))
		}, "Could not log in to old-core: stackato@old-core: Permission denied"},
		{"unknown", func(m *moving) {
			require.NoError(t, m.core.tree.put("/home/stackato/.ssh/known_hosts", m.known, 0o600))
		}, "Could not log in to old-core: Host key verification failed."},
		{"down", func(m *moving) { m.old.PowerOff() }, "Could not log in to old-core: ssh: connect to host old-core port 22: No route to host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := twoClusters(t)
			c.breaks(m)
			m.refused(c.words)
			m.old.PowerOn()
			m.clean()
			require.Empty(t, m.exports())
			r := m.load("--cluster nowhere")
			require.Equal(t, 1, r.exit)
			require.Equal(t, "ERROR: Could not log in to nowhere: ssh: Could not resolve hostname nowhere: Name or service not known\n", r.err)
			r = m.load("--cluster nowhere.tgz")
			require.Contains(t, r.err, "Could not read /home/stackato/nowhere.tgz: ")
		})
	}
}

func TestImport_FromAHostThatExports_IsRefused(t *testing.T) {
	m := twoClusters(t)
	require.NoError(t, m.old.ExportFault(katodouble.ExportHangs, 1, 0))
	session, err := dial(t, m.old).NewSession()
	require.NoError(t, err)
	require.NoError(t, session.Start(loginKato+"--cluster /home/stackato/e.tgz"))
	eventually(t, "it exports", m.old.Exporting)
	m.refused("Could not export from old-core: An export is already in progress.")
	require.True(t, m.old.Exporting(), "the other export goes on")
	require.Equal(t, 0, run(t, dial(t, m.old), "kill $(pgrep -f '^kato data export'); rm e.tgz").exit)
	_ = session.Wait()
	eventually(t, "the temporary folder of the other export is all that is left", func() bool {
		return run(t, dial(t, m.old), "rm -rf /tmp/kato-export-*; ls -A /tmp").out == ""
	})
	m.clean()
	require.Equal(t, 0, m.load("--cluster old-core").exit)
}

func TestImport_FromAHostWhoseExportFails_LeavesNothing(t *testing.T) {
	m := twoClusters(t)
	for _, fault := range []katodouble.ExportFault{katodouble.ExportFails, katodouble.ExportErrorText, katodouble.ExportNothing} {
		require.NoError(t, m.old.ExportFault(fault, 1, 7))
		m.refused("Could not export from old-core: ")
		m.clean()
	}
	require.NoError(t, m.old.ExportFault(katodouble.ExportTruncated, 1, 0))
	m.refused("Could not unpack /home/stackato/work/kato-import-")
	m.clean()
	require.NoError(t, m.core.FreeSpace("/home/stackato", 100<<10))
	m.refused("Could not export from old-core: ", "o space left on device")
	m.core.Heal()
	m.clean()
}

func TestImport_FromAHostThatLosesItsPower_Fails(t *testing.T) {
	m := twoClusters(t)
	done := m.hang()
	m.old.PowerOff()
	r := <-done
	require.Equal(t, 1, r.exit, r.out+r.err)
	require.Contains(t, r.err, "ERROR: Could not export from old-core: Connection to old-core closed by remote host.\n")
	require.Equal(t, m.before, m.dump(m.cc))
	m.old.PowerOn()
	m.clean()
}

// hang begins an import that never comes to the end of its export.
func (m *moving) hang() chan result {
	m.t.Helper()
	require.NoError(m.t, m.old.ExportFault(katodouble.ExportHangs, 1, 0))
	done := make(chan result, 1)
	go func() { done <- m.load("--cluster old-core") }()
	eventually(m.t, "the old cluster is exported", func() bool { return m.old.Exporting() && m.core.Importing() })
	return done
}

func TestImport_FromAHost_KilledInTheMiddle_CanBeRepeated(t *testing.T) {
	m := twoClusters(t)
	done := m.hang()
	r := run(t, dial(t, m.core), "kill $(pgrep -f '^kato data import')")
	require.Equal(t, 0, r.exit, r.err)
	require.Equal(t, 143, (<-done).exit)
	m.oldClean()
	require.False(t, m.core.Importing())
	require.Equal(t, m.before, m.dump(m.cc))
	require.Contains(t, run(t, dial(t, m.core), "ls work").out, "kato-import-", "what was killed removes nothing here")
	r = m.load("--cluster old-core")
	require.Equal(t, 0, r.exit, r.out+r.err)
	require.ElementsMatch(t, m.oldWas.Apps, m.dump(m.cc).Apps)
	require.Equal(t, 0, run(t, dial(t, m.core), "rm -r work/kato-import-*").exit)
	m.clean()
}

func TestImport_FromAHost_OfANodeThatLosesItsPower_EndsTheExportThere(t *testing.T) {
	m := twoClusters(t)
	done := m.hang()
	m.core.PowerOff()
	<-done
	m.oldClean()
	m.core.PowerOn()
	require.Equal(t, 0, m.load("--cluster old-core").exit)
}
