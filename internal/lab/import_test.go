package lab

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func TestCluster_OfKato_ImportsWhatItExported(t *testing.T) {
	l := open(t, "ui")
	l.cfg.Kato = filepath.Join("..", "..", "bin", "kato")
	c, err := l.Start(t.Context(), ClusterConfig{Nodes: []NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller", "router"}},
		{Name: "files", Roles: []string{"base", "filesystem"}}}})
	require.NoError(t, err)
	core, files, cc := c.Host("core"), c.Host("files"), c.Controller()
	data := func(h *Host, args string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return h.Exec(ctx, `exec su - `+LoginUser+` -s /bin/bash -c "kato data $1"`, args)
	}
	before, err := cc.Dump(t.Context())
	require.NoError(t, err)
	require.NoError(t, files.NoOutbound(true))
	_, err = data(files, "export --cluster --base-dir /tmp /home/stackato/e.tgz")
	require.NoError(t, err, "the database is inside of the cluster")
	require.NoError(t, files.NoOutbound(false))

	cc.Empty()
	require.NoError(t, files.Inject("import-with", `{"fault":"hangs","times":1}`))
	done := make(chan error, 1)
	go func() {
		_, err := data(files, "import --cluster --base-dir /tmp /home/stackato/e.tgz")
		done <- err
	}()
	eventually(t, "half of the apps run", func() bool {
		return files.Importing() && cc.AppState(cc.AppGUID("shop", "production", "orders")) == "STARTED"
	})
	_, err = data(core, "import --cluster /home/stackato/nothing.tgz")
	require.ErrorContains(t, err, "Could not read")
	_, err = files.Exec(t.Context(), "pkill -KILL -f '^kato data import'")
	require.NoError(t, err)
	require.Error(t, <-done)
	eventually(t, "its place is free", func() bool { return !files.Importing() })
	require.Equal(t, "STOPPED", cc.AppState(cc.AppGUID("intranet", "production", "wiki")))

	require.NoError(t, files.ImportWith(katodouble.ImportPatch{FailApps: []string{"shop/production/mailer"}, AppSeconds: new(0.05)}))
	out, err := data(files, "import --cluster --base-dir /tmp /home/stackato/e.tgz")
	require.NoError(t, err)
	require.Contains(t, out, "  shop/production/mailer\n")
	require.NoError(t, files.Inject("heal-imports"))
	after, err := cc.Dump(t.Context())
	require.NoError(t, err)
	for i := range before.Apps {
		if before.Apps[i].Name == "mailer" {
			before.Apps[i].PackageState = "FAILED"
		}
	}
	require.Equal(t, before, after)
	ran, err := files.Commands()
	require.NoError(t, err)
	require.Equal(t, "kato data import --cluster --base-dir /tmp /home/stackato/e.tgz", ran[len(ran)-1].Command())
}
