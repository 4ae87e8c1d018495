package simcluster

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const (
	exportToSrv = `mkdir -p /home/stackato/work; exec bash -lc 'kato data export --cluster --base-dir /home/stackato/work /home/stackato/export.tgz'`
	importSrv   = `exec bash -lc 'kato data import --cluster --base-dir /home/stackato/work /home/stackato/export.tgz'`
)

// exported is a cluster and its export in the home folder of its Core.
func exported(t *testing.T, size int64) (core *Node, cc *cloudcontroller.Controller, before katodouble.Content) {
	t.Helper()
	c, core, files := alsCluster(t, Config{})
	cc = c.Controller()
	before, err := cc.Dump(t.Context())
	require.NoError(t, err)
	require.NoError(t, files.ExportSize(size))
	r := run(t, dial(t, files), exportToSrv)
	require.Equal(t, 0, r.exit, r.out+r.err)
	archive, err := files.ReadFile("/home/stackato/export.tgz")
	require.NoError(t, err)
	client := dial(t, core)
	session, err := client.NewSession()
	require.NoError(t, err)
	session.Stdin = bytes.NewReader(archive)
	require.NoError(t, session.Run("mkdir -p /home/stackato/work; cat >/home/stackato/export.tgz"))
	return core, cc, before
}

func TestImport_InALoginShell_BringsTheControllersContentBack(t *testing.T) {
	core, cc, before := exported(t, 1<<20)
	wiki := cc.AppGUID("intranet", "production", "wiki")
	cc.Empty()
	later := cc.AddApp("later", "space", cloudcontroller.App{Name: "new"})
	orders := "shop/production/orders"
	require.NoError(t, core.ImportWith(katodouble.ImportPatch{FailApps: []string{orders}, AppSeconds: new(0.01)}))
	r := run(t, dial(t, core), importSrv)
	require.Equal(t, 0, r.exit, r.out+r.err)
	require.Contains(t, r.out, "\x1b[31mFailed apps:\x1b[0m\n  "+orders+"\n\n")
	require.Equal(t, []kato.FailedApp{{Org: "shop", Space: "production", Name: "orders"}}, kato.ParseFailedApps([]byte(r.out+r.err)))
	require.Contains(t, r.out, "Import finished: /home/stackato/export.tgz\n")
	require.Equal(t, "STARTED", cc.AppState(later), "what else is there stays")
	require.Equal(t, "STARTED", cc.AppState(wiki))
	cc.Remove(cc.AppGUID("later", "space", "new"))
	after, err := cc.Dump(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, before.Services, after.Services)
	require.Equal(t, before.Users, after.Users)
	for i := range before.Apps {
		if before.Apps[i].Path() == orders {
			before.Apps[i].PackageState = "FAILED"
		}
	}
	require.ElementsMatch(t, before.Apps, after.Apps)
	require.Empty(t, run(t, dial(t, core), "ls -A /home/stackato/work").out)
	commands := core.Commands()
	require.Equal(t, "kato data import --cluster --base-dir /home/stackato/work /home/stackato/export.tgz", commands[len(commands)-1].Command())
	require.False(t, core.Importing())
}

func TestImport_WithoutSpace_UnpacksNothing(t *testing.T) {
	core, cc, _ := exported(t, 1<<20)
	cc.Empty()
	require.NoError(t, core.FreeSpace("/home/stackato", 300<<10))
	r := run(t, dial(t, core), importSrv)
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "ERROR: Could not unpack /home/stackato/export.tgz: ")
	require.Contains(t, r.err, "o space left on device")
	after, err := cc.Dump(t.Context())
	require.NoError(t, err)
	require.Empty(t, after.Apps)
	require.Empty(t, run(t, dial(t, core), "ls -A /home/stackato/work").out)
	core.Heal()
	require.Equal(t, 0, run(t, dial(t, core), importSrv).exit)
}

func TestImport_OfANodeThatLosesItsPower_EndsInTheMiddle(t *testing.T) {
	core, cc, _ := exported(t, 1<<20)
	cc.Empty()
	require.NoError(t, core.Inject("import-with", `{"fault":"hangs","times":1}`))
	client := dial(t, core)
	session, err := client.NewSession()
	require.NoError(t, err)
	require.NoError(t, session.Start(importSrv))
	eventually(t, "an app runs", func() bool {
		return core.Importing() && cc.AppState(cc.AppGUID("shop", "production", "orders")) == "STARTED"
	})
	core.PowerOff()
	require.Error(t, session.Wait())
	eventually(t, "it has ended", func() bool { return !core.Importing() })
	require.Equal(t, "STOPPED", cc.AppState(cc.AppGUID("intranet", "production", "wiki")))
	core.PowerOn()
	began := time.Now()
	r := run(t, dial(t, core), importSrv)
	require.Equal(t, 0, r.exit, r.out+r.err)
	require.Equal(t, "STARTED", cc.AppState(cc.AppGUID("intranet", "production", "wiki")))
	require.Less(t, time.Since(began), 20*time.Second)
}
