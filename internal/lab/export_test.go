package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestForwarder_ToALoopbackServer_CopiesAndIsCutByHost(t *testing.T) {
	began := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			io.CopyN(io.Discard, r.Body, 1<<20)
			began <- struct{}{}
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	defer server.Close()
	l := &Lab{outside: netip.MustParseAddr("127.0.0.1")}
	for _, wrong := range []string{"192.0.2.1:80", "127.0.0.1", "localhost:80", ""} {
		_, err := l.Forward(wrong)
		require.ErrorContains(t, err, "loopback")
	}
	addr, err := l.Forward(server.Listener.Addr().String())
	require.NoError(t, err)
	url := "http://" + addr
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	put := func(path string, body io.Reader) (string, error) {
		answer, err := client.Post(url+path, "", body)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		return string(b), err
	}
	got, err := put("/", strings.NewReader(strings.Repeat("x", 3<<20)))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(3<<20), got)
	cut := make(chan error, 1)
	r, w := io.Pipe()
	go func() {
		_, err := put("/long", r)
		cut <- err
	}()
	go func() {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	<-began
	l.forwarders[0].drop(netip.MustParseAddr("127.0.0.2"))
	select {
	case err := <-cut:
		t.Fatalf("another host's connection was cut: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	l.forwarders[0].drop(netip.MustParseAddr("127.0.0.1"))
	require.Error(t, <-cut)
	r.Close()
	require.NoError(t, l.Close())
	_, err = net.DialTimeout("tcp", addr, time.Second)
	require.Error(t, err)
}

func TestCluster_OfKato_ExportsChecksAndUploads(t *testing.T) {
	l := open(t, "ue")
	l.cfg.Kato = filepath.Join("..", "..", "bin", "kato")
	received := make(chan int64, 10)
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			io.CopyN(io.Discard, r.Body, 1<<20)
			received <- -1
			<-hold
		}
		n, _ := io.Copy(io.Discard, r.Body)
		received <- n
	}))
	defer server.Close()
	defer close(hold)
	addr, err := l.Forward(server.Listener.Addr().String())
	require.NoError(t, err)
	c, err := l.Start(t.Context(), ClusterConfig{SrvSize: 3 << 30, Nodes: []NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller"}},
		{Name: "dea-1", Roles: []string{"base", "dea"}}, {Name: "files", Roles: []string{"base", "filesystem", "mysql"}, Shell: BusyboxShell}}})
	require.NoError(t, err)
	core, dea, files := c.Host("core"), c.Host("dea-1"), c.Host("files")

	ssh := "ssh -n -o BatchMode=yes -o ConnectTimeout=5 "
	for _, h := range c.Hosts() {
		out, err := asUser(t, core, ssh+h.Address()+" hostname")
		require.NoError(t, err)
		require.Equal(t, h.Name()+"\n", out)
		_, err = asUser(t, h, ssh+h.Address()+" true && sudo -n true")
		require.NoError(t, err)
	}
	_, err = asUser(t, dea, ssh+core.Address()+" true")
	require.ErrorContains(t, err, "Host key verification failed")
	out, err := asUser(t, files, "df -P -k /mnt/backup; du -sk /var/stackato/services /home/stackato/stackato/data")
	require.NoError(t, err)
	require.Contains(t, out, " /mnt/backup\n")
	require.Contains(t, out, "\t/var/stackato/services\n")

	export := func(h *Host, args string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		return h.Exec(ctx, `exec su - `+LoginUser+` -s /bin/bash -c "kato data export $1"`, args)
	}
	// A GiB, read in ranges and uploaded by the host itself.
	require.NoError(t, files.Inject("export-size", fmt.Sprint(1<<30)))
	_, err = export(files, "--cluster --base-dir /mnt/backup /mnt/backup/e.tgz")
	require.NoError(t, err)
	out, err = asUser(t, files, "cd /mnt/backup && tar tzf e.tgz | grep -c . && stat -c %s e.tgz && ls -A")
	require.NoError(t, err)
	var entries, size int64
	var left string
	_, err = fmt.Sscan(out, &entries, &size, &left)
	require.NoError(t, err)
	require.Greater(t, size, int64(1<<30))
	require.Equal(t, "e.tgz", left)
	upload := func(path string, count int64) string {
		return fmt.Sprintf("dd if=/mnt/backup/e.tgz bs=1048576 iflag=skip_bytes,count_bytes skip=1000 count=%d status=none | curl -qsS --fail -H 'Content-Length: %d' -H Transfer-Encoding: -T - http://%s%s", count, count, addr, path)
	}
	_, err = asUser(t, files, upload("/", 64<<20))
	require.NoError(t, err)
	require.Equal(t, int64(64<<20), <-received)
	done := make(chan error, 1)
	go func() {
		_, err := asUser(t, files, upload("/held", 512<<20))
		done <- err
	}()
	require.Equal(t, int64(-1), <-received)
	require.NoError(t, files.Inject("no-outbound"))
	require.ErrorContains(t, <-done, "curl: (5", "cut in the middle")
	_, err = asUser(t, files, upload("/", 1<<20))
	require.ErrorContains(t, err, "curl: (7)", "refused at the start")
	require.NoError(t, files.Inject("no-outbound", "off"))
	hold <- struct{}{}
	<-received
	_, err = asUser(t, files, upload("/", 1<<20))
	require.NoError(t, err)
	<-received
	require.NoError(t, files.Inject("resize", "/mnt/backup/e.tgz", "-100"))
	_, err = asUser(t, files, "tar tzf /mnt/backup/e.tgz")
	require.Error(t, err)

	// What an export needs, and how it goes wrong.
	require.NoError(t, files.Inject("heal-exports"))
	require.NoError(t, dea.Inject("no-core-access"))
	_, err = export(files, "--cluster /mnt/backup/f.tgz")
	require.ErrorContains(t, err, "Could not log in from "+core.Address()+" to "+dea.Address())
	require.NoError(t, dea.Inject("no-core-access", "off"))
	require.NoError(t, files.SudoPassword(true))
	_, err = export(files, "--cluster /mnt/backup/f.tgz </dev/null")
	require.ErrorContains(t, err, "[sudo] password for stackato")
	require.NoError(t, files.SudoPassword(false))
	_, err = export(core, "--cluster /tmp/f.tgz")
	require.ErrorContains(t, err, "filesystem role")
	require.NoError(t, files.Inject("export-fault", "fails", "1", "9"))
	_, err = export(files, "--cluster /mnt/backup/f.tgz")
	require.ErrorContains(t, err, "exit status 9")
	require.NoError(t, files.Inject("free-space", "/srv", "100000"))
	require.NoError(t, files.Inject("export-size", "9000000"))
	_, err = export(files, "--cluster --base-dir /tmp /mnt/backup/f.tgz")
	require.ErrorContains(t, err, "no space left on device")
	require.NoError(t, files.Inject("free-space", "/srv", "-1"))
	require.NoError(t, files.Inject("export-time", "30s"))
	go func() {
		_, err := export(files, "--cluster --base-dir /tmp /mnt/backup/f.tgz")
		done <- err
	}()
	probe := `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <"$f"; echo; done 2>/dev/null | grep -c '^kato dat[a] export'`
	eventually(t, "the export is seen", func() bool {
		out, _ := asUser(t, files, probe)
		return out == "1\n"
	})
	eventually(t, "it has its place", func() bool { // which another export, tried before, could take from it
		state, err := files.KatoState()
		return err == nil && state.Exporting
	})
	_, err = export(core, "--only-this-node /tmp/f.tgz")
	require.ErrorContains(t, err, "An export is already in progress.")
	_, err = files.Exec(t.Context(), "pkill -KILL -f '^kato data export'")
	require.NoError(t, err)
	require.Error(t, <-done)
	require.NoError(t, files.Inject("heal-exports"))
	eventually(t, "the place of the killed one to be free", func() bool {
		_, err := export(core, "--only-this-node /tmp/f.tgz")
		return err == nil
	})
	require.NoError(t, files.Inject("external-database", "mysql", "db.example.com"))
	out, err = asUser(t, dea, "kato config get mysql_node mysql/host")
	require.NoError(t, err)
	require.Equal(t, "db.example.com\n", out)
	ran, err := files.Commands()
	require.NoError(t, err)
	require.Equal(t, "kato data export --cluster --base-dir /mnt/backup /mnt/backup/e.tgz", ran[0].Command())
	require.Zero(t, ran[0].ExitCode)
}
