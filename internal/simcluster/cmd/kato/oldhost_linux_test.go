package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

// oldHost is a cluster with content, whose Core another cluster's reaches by an ssh that is a script: it checks its options and the host, and runs the command
// in a login environment of the old Core, where it lives on when the script is killed.
type oldHost struct {
	*hosts
	t    *testing.T
	cc   *cloudcontroller.Joined
	home string // of the login user of the new Core, with ssh in its bin
	temp string // /tmp of the old Core
}

func connectOld(t *testing.T) *oldHost {
	t.Helper()
	h, cc, _ := withController(t)
	home := exportTo(t)
	o := &oldHost{hosts: h, t: t, cc: cc, home: home, temp: filepath.Join(home, "temp")}
	oldHome := filepath.Join(home, "old")
	for _, d := range []string{o.temp, oldHome, oldHome + "/bin", home + "/bin"} {
		require.NoError(t, os.Mkdir(d, 0o777))
		require.NoError(t, os.Chmod(d, 0o777))
	}
	require.NoError(t, os.Symlink(h.bin, oldHome+"/bin/kato"))
	require.NoError(t, os.WriteFile(oldHome+"/.bash_profile", []byte("export PATH="+oldHome+"/bin:/usr/bin:/bin\n"), 0o644))
	script := fmt.Sprintf(`#!/bin/sh
[ "$*" = "-T -o BatchMode=yes -o ConnectTimeout=5 -- $7 $8" ] || { echo "ssh: what is $*" >&2; exit 255; }
[ "$7" = old-core ] || { printf 'ssh: connect to host %%s port 22: No route to host\r\n' "$7" >&2; exit 255; }
[ ! -e %[1]s/denied ] || { printf 'stackato@old-core: Permission denied (publickey).\r\n' >&2; exit 255; }
command=$(printf %%s "$8" | sed 's|/tmp/kato|%[1]s/temp/kato|g')
env -i HOME=%[1]s/old KATO_SITE=%[2]s sh -c "$command"
exit $?
`, home, filepath.Join(h.dir, ids[0], "node.json"))
	require.NoError(t, os.WriteFile(home+"/bin/ssh", []byte(script), 0o755))
	require.NoError(t, os.Chmod(home+"/bin/ssh", 0o755))
	return o
}

// load is an import of the new cluster from a host.
func (o *oldHost) load(to *hosts, dir string, args ...string) *exec.Cmd {
	cmd := to.command(ids[0], append([]string{"data", "import", "--base-dir", dir}, args...)...)
	cmd.Dir = dir
	for i, v := range cmd.Env {
		switch {
		case strings.HasPrefix(v, "PATH="):
			cmd.Env[i] = "PATH=" + o.home + "/bin:/usr/bin:/bin"
		case strings.HasPrefix(v, "HOME="):
			cmd.Env[i] = "HOME=" + o.home
		}
	}
	return cmd
}

func TestDataImport_FromAHost_CopiesItsExportAndLeavesNothing(t *testing.T) {
	old := connectOld(t)
	to, cc, _ := withController(t)
	before, err := old.cc.Dump(t.Context())
	require.NoError(t, err)
	cc.Empty()
	dir := exportTo(t)
	_, errs, exit := finish(t, old.load(to, dir, "--cluster", "elsewhere"))
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Could not log in to elsewhere: ssh: connect to host elsewhere port 22: No route to host\n", errs)
	require.NoError(t, os.WriteFile(old.home+"/denied", nil, 0o644))
	_, errs, exit = finish(t, old.load(to, dir, "--cluster", "old-core"))
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Could not log in to old-core: stackato@old-core: Permission denied (publickey).\n", errs)
	require.NoError(t, os.Remove(old.home+"/denied"))
	old.patch(ids[0], `{"export":{"fault":"error-text","times":1}}`)
	_, errs, exit = finish(t, old.load(to, dir, "--cluster", "old-core"))
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Could not export from old-core: Could not dump the database of role mysql: Lost connection to MySQL server during query\n", errs)
	after, err := cc.Dump(t.Context())
	require.NoError(t, err)
	require.Empty(t, after.Apps)
	require.Empty(t, left(t, dir))
	require.Empty(t, left(t, old.temp))

	out, errs, exit := finish(t, old.load(to, dir, "--cluster", "old-core"))
	require.Zero(t, exit, errs)
	require.Contains(t, out, "data from old-core\nExporting from old-core...\nUnpacking "+dir+"/kato-import-")
	require.Contains(t, out, "Import finished: old-core\n")
	after, err = cc.Dump(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.Apps, after.Apps)
	require.Equal(t, before.Services, after.Services)
	was, err := old.cc.Dump(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, was)
	require.Empty(t, left(t, dir))
	require.Empty(t, left(t, old.temp))
}

func TestDataImport_FromAHost_Killed_EndsTheExportThere(t *testing.T) {
	old := connectOld(t)
	to, cc, _ := withController(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		cc.Empty()
		dir := exportTo(t)
		old.patch(ids[0], `{"export":{"fault":"hangs","times":1}}`)
		cmd := old.load(to, dir, "--cluster", "old-core")
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return old.state(ids[0]).Exporting && to.state(ids[0]).Importing }, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, cmd.Process.Signal(signal))
		require.Error(t, cmd.Wait())
		if signal == syscall.SIGTERM {
			require.Equal(t, 143, cmd.ProcessState.ExitCode())
		}
		require.Eventually(t, func() bool {
			return !old.state(ids[0]).Exporting && !to.state(ids[0]).Importing && len(left(t, old.temp)) == 0
		}, 10*time.Second, 5*time.Millisecond)
		require.Len(t, left(t, dir), 1, "what was killed removes nothing here")
		out, errs, exit := finish(t, old.load(to, dir, "--cluster", "old-core"))
		require.Zero(t, exit, out+errs)
		require.Equal(t, "STARTED", cc.AppState(cc.AppGUID("intranet", "production", "wiki")))
		require.Len(t, left(t, dir), 1)
	}
}
