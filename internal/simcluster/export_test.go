package simcluster

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// katoPath is how a login session calls kato.
const loginKato = `bash -lc 'exec kato data export "$@"' sh `

func alsCluster(t testing.TB, cfg Config) (c *Cluster, core, files *Node) {
	t.Helper()
	c = startCluster(t, cfg)
	return c, c.Node("core"), c.Node("filesystem-1")
}

func TestExport_OnTheFilesystemNode_IsCheckedAndReadInRanges(t *testing.T) {
	_, _, files := alsCluster(t, Config{})
	require.NoError(t, files.ExportSize(2<<20))
	c := dial(t, files)
	require.Equal(t, 0, run(t, c, "mkdir -p /srv/x 2>/dev/null; sudo install -d -o stackato /srv/staging").exit)
	r := run(t, c, loginKato+"--cluster --base-dir /srv/staging /srv/staging/export.tgz")
	require.Equal(t, 0, r.exit, r.out+r.err)
	content, err := files.ReadFile("/srv/staging/export.tgz")
	require.NoError(t, err)
	require.Greater(t, len(content), 2<<20)
	require.Equal(t, "export.tgz\n", run(t, c, "ls -A /srv/staging").out)
	sum := sha256.Sum256(content)
	r = run(t, c, `cd /srv/staging && tar tzf export.tgz | wc -l && stat -c '%s %U' export.tgz && sha256sum export.tgz && sha256sum <export.tgz`)
	require.Equal(t, 0, r.exit, r.err)
	lines := strings.Split(r.out, "\n")
	require.NotEqual(t, "0", lines[0])
	require.Equal(t, fmt.Sprintf("%d stackato", len(content)), lines[1])
	require.Equal(t, hex.EncodeToString(sum[:])+"  export.tgz", lines[2])
	require.Equal(t, hex.EncodeToString(sum[:])+"  -", lines[3])
	for range 20 {
		offset := rand.IntN(len(content))
		length := rand.IntN(len(content))
		want := content[offset:min(len(content), offset+length)]
		dd := fmt.Sprintf("dd if=/srv/staging/export.tgz bs=1048576 iflag=skip_bytes,count_bytes skip=%d count=%d status=none", offset, length)
		r = run(t, c, dd)
		require.Equal(t, 0, r.exit, r.err)
		require.Empty(t, r.err)
		require.True(t, bytes.Equal(want, []byte(r.out)), "%d bytes from %d", length, offset)
		part := sha256.Sum256(want)
		require.Equal(t, hex.EncodeToString(part[:])+"  -\n", run(t, c, dd+" | sha256sum").out)
		require.True(t, bytes.Equal(want, []byte(run(t, c, fmt.Sprintf("tail -c +%d /srv/staging/export.tgz | head -c %d", offset+1, length)).out)))
		require.True(t, bytes.Equal(want, []byte(run(t, c, fmt.Sprintf("tail -c +%d </srv/staging/export.tgz | head -c %d", offset+1, length)).out)))
	}
	r = run(t, c, fmt.Sprintf("dd if=/srv/staging/export.tgz bs=1048576 iflag=skip_bytes,count_bytes skip=%d count=5", len(content)+9))
	require.Equal(t, 0, r.exit)
	require.Contains(t, r.err, "cannot skip to specified offset")
	commands := files.Commands()
	require.Equal(t, "kato data export --cluster --base-dir /srv/staging /srv/staging/export.tgz", commands[len(commands)-1].Command())
}

func TestExport_Running_IsSeenByItsCommandLineAndEndsWithItsJob(t *testing.T) {
	_, core, files := alsCluster(t, Config{})
	require.NoError(t, files.ExportFault(katodouble.ExportHangs, 1, 0))
	c := dial(t, files)
	probe := `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <"$f" 2>/dev/null; echo; done | grep -c '^kato dat[a] export'`
	require.Equal(t, "0\n", run(t, c, probe).out)
	done := make(chan result, 1)
	go func() { done <- run(t, c, loginKato+"--cluster /home/stackato/e.tgz") }()
	eventually(t, "the export is seen", func() bool { return run(t, c, probe).out == "1\n" })
	eventually(t, "it has begun", files.Exporting)
	eventually(t, "half of it is written", func() bool { return run(t, c, "test $(stat -c %s e.tgz) -ge 131072").exit == 0 })
	r := run(t, dial(t, core), loginKato+"--only-this-node /home/stackato/e.tgz")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "An export is already in progress.")
	require.Equal(t, 0, run(t, c, "kill $(pgrep -f '^kato data export|/kato data export')").exit)
	require.Equal(t, 143, (<-done).exit)
	require.Equal(t, "0\n", run(t, c, probe).out)
	r = run(t, c, "tar tzf /home/stackato/e.tgz")
	require.Equal(t, 2, r.exit)
	require.Contains(t, r.err, "Unexpected EOF in archive")
	require.Equal(t, 0, run(t, c, loginKato+"--cluster /home/stackato/e.tgz && tar tzf /home/stackato/e.tgz").exit)
}

func TestExport_WithoutTheCoresKey_IsRefused(t *testing.T) {
	_, core, files := alsCluster(t, Config{})
	dea := core.cluster.Node("dea-2")
	c := dial(t, files)
	dea.NoCoreAccess(true)
	r := run(t, c, loginKato+"--cluster x.tgz")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Could not log in from "+core.Address()+" to "+dea.Address())
	dea.NoCoreAccess(false)
	require.Equal(t, 0, run(t, c, loginKato+"--cluster x.tgz").exit)
	dea.PowerOff()
	r = run(t, c, loginKato+"--cluster x.tgz")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Could not connect to node "+dea.Address())
	files.SudoPassword(true)
	r = run(t, c, loginKato+"--only-this-node x.tgz </dev/null")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.out, "[sudo] password for stackato")
}

func TestExport_ToAFileSystemThatIsTooSmall_FailsAndLeavesAPart(t *testing.T) {
	_, _, files := alsCluster(t, Config{Nodes: []NodeConfig{{Name: "core", Roles: []string{"primary"}}, {Name: "filesystem-1", Roles: []string{"filesystem"}, Mounts: []Mount{{Path: "/mnt/nas", Size: 1 << 20}}}}})
	require.NoError(t, files.ExportSize(3<<20))
	c := dial(t, files)
	require.Contains(t, run(t, c, "df -P -k /mnt/nas").out, "/dev/vdb1             1024         0      1024       0% /mnt/nas\n")
	r := run(t, c, loginKato+"--cluster /mnt/nas/e.tgz")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "no space left on device")
	require.Equal(t, "1048576\n", run(t, c, "stat -c %s /mnt/nas/e.tgz").out)
	require.Contains(t, run(t, c, "df -P -k /mnt/nas").out, "100% /mnt/nas\n")
	require.Equal(t, 0, run(t, c, "rm /mnt/nas/e.tgz").exit)
	require.Contains(t, run(t, c, "df -P -k /mnt/nas").out, " 0% /mnt/nas\n")
	require.Equal(t, "/mnt/nas\n", run(t, c, "stat -c %m /mnt/nas").out)
	require.Contains(t, run(t, c, "cat /proc/mounts").out, "/dev/vdb1 /mnt/nas ext4 ")

	require.NoError(t, files.FreeSpace("/", 100<<10))
	require.Contains(t, run(t, c, "df -P -k /home").out, "       100 ")
	r = run(t, c, loginKato+"--cluster /home/stackato/e.tgz")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "no space left on device")
	r = run(t, c, "dd if=/dev/zero of=/mnt/nas/other bs=1k count=10")
	require.Equal(t, 0, r.exit, "the other file system has room")
	require.NoError(t, files.FreeSpace("/", 0))
	require.Contains(t, run(t, c, "mkdir /home/stackato/d").err, "No space left on device")
	require.NoError(t, files.FreeSpace("/", -1))
	require.Equal(t, 0, run(t, c, loginKato+"--cluster /home/stackato/e.tgz").exit)
}

func TestDu_DataFolders_AreMeasured(t *testing.T) {
	_, _, files := alsCluster(t, Config{})
	c := dial(t, files)
	r := run(t, c, "du -sk /var/stackato/services /home/stackato/stackato/data")
	require.Equal(t, 0, r.exit, r.err)
	require.Equal(t, "17\t/var/stackato/services\n4\t/home/stackato/stackato/data\n", r.out)
	require.NoError(t, files.DataSize(50<<30))
	require.Equal(t, fmt.Sprintf("%d\t/var/stackato/services\n", 17+(50<<20)), run(t, c, "du -sk /var/stackato/services").out)
	r = run(t, c, "sudo install -d -m 700 /var/stackato/services/mysql; du -sk /var/stackato/services /nothing")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "du: cannot read directory '/var/stackato/services/mysql': Permission denied\n")
	require.Contains(t, r.err, "du: cannot access '/nothing': No such file or directory\n")
	require.Contains(t, run(t, c, "df -P -k /var").out, fmt.Sprint((20+50)<<20))
}

func TestTar_OfWhatIsNoArchive_FailsAsGNUTarDoes(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	var good bytes.Buffer
	z := gzip.NewWriter(&good)
	w := tar.NewWriter(z)
	for _, name := range []string{"a", "d/b"} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Size: 5, Mode: 0o640, Typeflag: tar.TypeReg}))
		_, err := io.WriteString(w, "hello")
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	damaged := bytes.Clone(good.Bytes())
	damaged[len(damaged)-6] ^= 0xff
	for name, b := range map[string][]byte{"good.tgz": good.Bytes(), "short.tgz": good.Bytes()[:good.Len()-20], "damaged.tgz": damaged, "text.tgz": []byte("no archive at all"), "empty.tgz": nil} {
		require.NoError(t, n.WriteFile("/home/stackato/"+name, b))
	}
	for _, tc := range []struct {
		command, out, err string
		exit              int
	}{
		{"tar tzf good.tgz", "a\nd/b\n", "", 0},
		{"tar -tzf good.tgz d", "d/b\n", "", 0},
		{"tar -t -z <good.tgz", "a\nd/b\n", "", 0},
		{"tar xzf good.tgz -C /tmp d && cat /tmp/d/b", "hello", "", 0},
		{"tar xzOf good.tgz a", "hello", "", 0},
		{"tar tzf good.tgz nothing", "", "tar: nothing: Not found in archive\n", 2},
		{"tar tzf short.tgz >/dev/null", "", "\ngzip: stdin: unexpected end of file\ntar: ", 2},
		{"tar tzf damaged.tgz", "a\nd/b\n", "\ngzip: stdin: invalid compressed data--crc error\ntar: Child returned status 1\ntar: Error is not recoverable: exiting now\n", 2},
		{"tar tzf text.tgz", "", "\ngzip: stdin: not in gzip format\ntar: Child returned status 1\ntar: Error is not recoverable: exiting now\n", 2},
		{"tar tzf empty.tgz", "", "\ngzip: stdin: unexpected end of file\n", 2},
		{"tar tzf nothing.tgz", "", "tar (child): nothing.tgz: Cannot open: No such file or directory\n", 2},
		{"tar czf x.tgz good.tgz", "", "tar: invalid option -- 'c'", 2},
	} {
		r := run(t, c, tc.command)
		require.Equal(t, tc.exit, r.exit, tc.command+": "+r.err)
		require.Equal(t, tc.out, r.out, tc.command)
		require.True(t, strings.HasPrefix(r.err, tc.err), "%s: %s", tc.command, r.err)
	}
}

func TestSSH_BetweenNodes_IsWhatTheKeysAllow(t *testing.T) {
	cluster, core, files := alsCluster(t, Config{})
	dea := cluster.Node("dea-1")
	onCore, onDEA := dial(t, core), dial(t, dea)
	ssh := "ssh -n -o BatchMode=yes -o ConnectTimeout=1 "
	for _, n := range cluster.Nodes() {
		require.Equal(t, result{}, run(t, onCore, ssh+n.Address()+" true"), n.Name())
		own := run(t, dial(t, n), ssh+n.Address()+" hostname")
		require.Equal(t, result{out: n.Name() + "\n"}, own)
	}
	refused := func(on string, r result, want string) {
		t.Helper()
		require.Equal(t, 255, r.exit, on)
		require.Contains(t, r.err, want)
	}
	refused("a DEA knows the Core not", run(t, onDEA, ssh+core.Address()+" true"), "Host key verification failed.")
	refused("nor may it log in", run(t, onDEA, ssh+"-o StrictHostKeyChecking=no "+core.Address()+" true"), "stackato@"+core.Address()+": Permission denied (publickey,password).")
	files.NoCoreAccess(true)
	refused("no key", run(t, onCore, ssh+files.Address()+" true"), "Permission denied")
	files.NoCoreAccess(false)
	require.Equal(t, result{out: "7\n", exit: 3}, run(t, onCore, ssh+"stackato@filesystem-1 'echo 7; exit 3'"))
	require.Equal(t, result{out: "in"}, run(t, onCore, "echo -n in | ssh -o BatchMode=yes "+files.Address()+" cat"))
	files.Refuse(true)
	refused("refuses", run(t, onCore, ssh+files.Address()+" true"), "ssh: connect to host "+files.Address()+" port 22: Connection refused")
	files.Refuse(false)
	files.ChangeHostKey()
	refused("another key", run(t, onCore, ssh+files.Address()+" true"), "REMOTE HOST IDENTIFICATION HAS CHANGED")
	files.RestoreHostKey()
	files.Silence(true)
	refused("silent", run(t, onCore, ssh+files.Address()+" true"), "Connection timed out")
	files.Silence(false)
	files.PowerOff()
	refused("off", run(t, onCore, ssh+files.Address()+" true"), "No route to host")
	files.PowerOn()
	require.Equal(t, 0, run(t, onCore, ssh+files.Address()+" true").exit)
	refused("unknown", run(t, onCore, ssh+"nowhere true"), "Could not resolve hostname nowhere")
	refused("usage", run(t, onCore, "ssh -Z "+files.Address()), "unknown option -- Z")
	require.Equal(t, 0, run(t, onCore, "chmod 644 .ssh/id_ed25519").exit)
	refused("a key that all can read is not used", run(t, onCore, ssh+files.Address()+" true"), "Permission denied")
}

func TestCluster_StartedAgainInItsFolder_KeepsTheNodesKeysAndFiles(t *testing.T) {
	dir := t.TempDir()
	reach := func(c *Cluster) {
		for _, n := range c.Nodes() {
			require.NoError(t, c.reach(t.Context(), c.core().Address(), n.Address()))
		}
	}
	c, err := Start(Config{Dir: dir})
	require.NoError(t, err)
	require.NoError(t, c.reach(t.Context(), c.core().Address(), c.Node("dea-1").Address()), "the files of the others are not made yet")
	require.NoError(t, c.Close())
	c, core, files := alsCluster(t, Config{Dir: dir})
	reach(c)
	r := run(t, dial(t, files), loginKato+"--cluster /mnt/backup/e.tgz && du -sk /var/stackato/services")
	require.Equal(t, 0, r.exit, r.err)
	require.False(t, files.Exporting())
	core.NoCoreAccess(true)
	require.Error(t, c.reach(t.Context(), core.Address(), core.Address()))
	core.Heal()
	reach(c)
}

func TestStream_NetworkCutInMidTransfer_StopsAndGoesOn(t *testing.T) {
	n := oneNode(t, Config{})
	require.NoError(t, n.WriteFile("/home/stackato/big", bytes.Repeat([]byte("0123456789abcdef"), 1<<20)))
	c := dial(t, n)
	stream := func() (io.Reader, func() error) {
		s, err := c.NewSession()
		require.NoError(t, err)
		out, err := s.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, s.Start("dd if=big bs=1048576 status=none | cat"))
		return out, s.Wait
	}
	out, wait := stream()
	_, err := io.CopyN(io.Discard, out, 1<<20)
	require.NoError(t, err)
	n.Silence(true)
	arrived := make(chan int64, 1)
	go func() {
		k, _ := io.Copy(io.Discard, out)
		arrived <- k
	}()
	select {
	case k := <-arrived:
		t.Fatalf("%d bytes came over a network that is cut", k)
	case <-time.After(400 * time.Millisecond): // a network that works is done long before
	}
	n.Silence(false)
	require.Equal(t, int64(15<<20), <-arrived)
	require.NoError(t, wait())

	out, wait = stream()
	_, err = io.CopyN(io.Discard, out, 1<<20)
	require.NoError(t, err)
	n.DropConnections()
	k, _ := io.Copy(io.Discard, out)
	require.Less(t, k, int64(15<<20))
	require.Error(t, wait())
	eventually(t, "the pipeline ends with its reader", func() bool { return len(n.Processes()) == 0 })
}

func TestStream_NetworkCut_LetsNotASingleLineThrough(t *testing.T) {
	n := oneNode(t, Config{})
	s, err := dial(t, n).NewSession()
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start("while [ ! -e /tmp/stop ]; do echo tick; sleep 0.005; done"))
	var ticks atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			ticks.Add(1)
		}
	}()
	eventually(t, "it ticks", func() bool { return ticks.Load() > 3 })
	n.Silence(true)
	before := ticks.Load()
	time.Sleep(300 * time.Millisecond) // for what must not come
	require.LessOrEqual(t, ticks.Load(), before+2, "what was on its way may arrive")
	n.Silence(false)
	eventually(t, "it goes on", func() bool { return ticks.Load() > before+2 })
	require.NoError(t, n.WriteFile("/tmp/stop", nil))
	<-ended
	require.NoError(t, s.Wait())
}

func TestStream_SessionKilled_EndsThePipeline(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	s, err := c.NewSession()
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start("dd if=/dev/zero bs=1048576 status=none | cat"))
	_, err = io.CopyN(io.Discard, out, 1<<20)
	require.NoError(t, err)
	require.NoError(t, s.Signal("KILL"))
	go io.Copy(io.Discard, out)
	require.Error(t, s.Wait())
	eventually(t, "nothing runs", func() bool { return len(n.Processes()) == 0 })
}

func BenchmarkRange_ReadAndHashed(b *testing.B) {
	n := oneNode(b, Config{})
	if err := n.ready(); err != nil {
		b.Fatal(err)
	}
	const size = 256 << 20
	if err := os.WriteFile(filepath.Join(n.tree.root, "home/stackato/big"), make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	c := dial(b, n)
	for name, command := range map[string]string{"ssh": "dd if=big bs=1048576 iflag=skip_bytes,count_bytes skip=0 count=268435456 status=none",
		"hash": "dd if=big bs=1048576 iflag=skip_bytes,count_bytes skip=0 count=268435456 status=none | sha256sum", "file": "sha256sum big"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				s, err := c.NewSession()
				if err != nil {
					b.Fatal(err)
				}
				s.Stdout = io.Discard
				if err := s.Run(command); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
