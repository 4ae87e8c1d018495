package main

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// withController is three hosts whose katos export and import the content of a Cloud Controller in this process, and an export x.tgz of it in a folder.
func withController(t *testing.T) (h *hosts, cc *cloudcontroller.Joined, dir string) {
	t.Helper()
	cc, err := cloudcontroller.Join(t.TempDir(), "", cloudcontroller.Options{})
	require.NoError(t, err)
	t.Cleanup(cc.Close)
	h = start(t)
	if h.database, err = cc.ServeDatabase("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids { // kato reads the file at each call
		h.site(id)
	}
	dir = exportTo(t)
	_, errs, exit := finish(t, h.export(ids[0], dir, "--cluster", "--base-dir", dir, "x.tgz"))
	require.Zero(t, exit, errs)
	return h, cc, dir
}

func TestDataImport_OnAHost_BringsTheControllersContentBack(t *testing.T) {
	h, cc, dir := withController(t)
	before, err := cc.Dump(t.Context())
	require.NoError(t, err)
	cc.Empty()
	h.patch(ids[0], `{"import":{"fail_apps":["shop/staging/storefront"],"list":"long","app_seconds":0.01}}`)
	cmd := h.command(ids[0], "data", "import", "--cluster", "--base-dir", dir, "x.tgz")
	cmd.Dir = dir
	out, errs, exit := finish(t, cmd)
	require.Zero(t, exit, errs)
	require.Contains(t, out, " - storefront (org: shop, space: staging)\n")
	require.Contains(t, out, "Import finished: "+dir+"/x.tgz\n")
	for i := range before.Apps {
		if before.Apps[i].Path() == "shop/staging/storefront" {
			before.Apps[i].PackageState = "FAILED"
		}
	}
	after, err := cc.Dump(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Equal(t, []string{"x.tgz"}, left(t, dir))
	commands := h.commands(ids[0])
	require.Equal(t, []string{"data", "import", "--cluster", "--base-dir", dir, "x.tgz"}, commands[len(commands)-1].Args)
	require.Zero(t, commands[len(commands)-1].Exit)

	h.stop(ids[2])
	cmd = h.command(ids[0], "data", "import", "--cluster", "--base-dir", dir, "x.tgz")
	cmd.Dir = dir
	_, errs, exit = finish(t, cmd)
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "Could not connect to node "+ids[2])
}

func TestDataImport_Killed_FreesItsPlaceAndLeavesItsPart(t *testing.T) {
	h, cc, dir := withController(t)
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		cc.Empty()
		h.patch(ids[1], `{"import":{"fault":"hangs","times":1}}`)
		first := h.command(ids[1], "data", "import", "--cluster", "--base-dir", dir, dir+"/x.tgz")
		require.NoError(t, first.Start())
		require.Eventually(t, func() bool { return cc.AppState(cc.AppGUID("shop", "production", "orders")) == "STARTED" }, 10*time.Second, 5*time.Millisecond)
		require.True(t, h.state(ids[1]).Importing)
		require.False(t, h.state(ids[0]).Importing, "the place on the Core is under the node's name")
		for id, call := range map[string][]string{ids[0]: {"data", "import", "--only-this-node", "--base-dir", dir, dir + "/x.tgz"}, ids[1]: {"data", "export", "--cluster", dir + "/y.tgz"}} {
			_, errs, exit := h.kato(id, call...)
			require.Equal(t, 1, exit)
			require.Equal(t, "ERROR: An import is already in progress.\n", errs)
		}
		require.NoError(t, first.Process.Signal(signal))
		require.Error(t, first.Wait())
		require.Eventually(t, func() bool { return !h.state(ids[1]).Importing }, 10*time.Second, 5*time.Millisecond)
		require.Equal(t, "STOPPED", cc.AppState(cc.AppGUID("intranet", "production", "wiki")))
		require.Eventually(t, func() bool {
			_, errs, exit := h.kato(ids[2], "data", "import", "--cluster", "--base-dir", dir, dir+"/x.tgz")
			return exit == 0 || !strings.Contains(errs, "already in progress")
		}, 10*time.Second, 5*time.Millisecond)
		require.Equal(t, "STARTED", cc.AppState(cc.AppGUID("intranet", "production", "wiki")))
	}
	require.Equal(t, http.StatusBadRequest, h.request("PATCH", ids[0], "/state", `{"import":{"fault":"explodes"}}`, nil))
	require.Equal(t, katodouble.Import{FailShare: 0.5}, h.patch(ids[0], `{"import":{"heal":true,"fail_share":0.5}}`).Import)
}
