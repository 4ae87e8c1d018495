package e2e

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster/certificate"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// inS3 gives the site a bucket of its own. It is in the S3 server of all tests, also where the test has a Temporal server of its own to kill.
func inS3(c *config) { c.s3 = true }

// privateCA has S3 speak TLS under an authority of its own.
func privateCA(c *config) { c.privateCA = true }

// openBucket makes the bucket, which is named as the cluster is, and the lines of the inventory.
func (s *site) openBucket(c config) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var err error
	s.bucket, err = archivetest.NewBucket(ctx, shared.temporal.S3, "archives-"+strings.ToLower(s.cluster.Name()), false)
	require.NoError(s.t, err)
	s.t.Cleanup(s.bucket.Close)
	endpoint := s.bucket.Proxy.URL
	var more []string
	if c.privateCA {
		endpoint, more = s.privately()
	} else {
		endpoint = "http://" + s.lead(strings.TrimPrefix(endpoint, "http://"))
	}
	s.s3, err = harness.S3Section(s.Dir, endpoint, s.bucket, more...)
	require.NoError(s.t, err)
}

// lead is the address under which everybody reaches a server at an address of this machine's loopback.
func (s *site) lead(addr string) string {
	if !onHosts() { // which do not reach it
		return addr
	}
	there, err := shared.lab.Forward(addr)
	require.NoError(s.t, err)
	return there
}

// privately serves the bucket over TLS alone, under a certificate that nobody trusts by himself, and returns the endpoint and what else the inventory says of it.
func (s *site) privately() (endpoint string, more []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	addr := s.lead(listener.Addr().String())
	host, _, err := net.SplitHostPort(addr)
	require.NoError(s.t, err)
	ca, leaf, err := certificate.New(host)
	require.NoError(s.t, err)
	server := &http.Server{Handler: s.bucket.Proxy, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{Certificates: []tls.Certificate{leaf}}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ServeTLS(listener, "", "") // it ends with Close
	}()
	s.t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	file := filepath.Join(s.Dir, "s3-ca.pem")
	require.NoError(s.t, os.WriteFile(file, ca, 0o600))
	return "https://" + addr, []string{fmt.Sprintf("ca_file: %q", file)}
}

// exporting is an ALS cluster of a Core and a node with the role filesystem, with a bucket for its archives.
func exporting(c *config) {
	c.nodes = []nodeConfig{{name: core, roles: []string{"base", "primary", "controller", "router"}}, {name: files, roles: []string{"base", "filesystem"}}}
	c.s3 = true
}

// The nodes of an exporting cluster.
const (
	core  = "core"
	files = "files"
)

// multiparted is the size of an export of five parts.
const multiparted = 36 << 20

// exporter is a node that exports, with what can happen to it there. Package simcluster says what each does.
type exporter interface {
	machine
	ExportSize(bytes int64) error
	ExportTime(d time.Duration) error
	ExportFault(fault katodouble.ExportFault, times, exit int) error
	HealExports()
	NoCoreAccess(on bool)
	NoOutbound(on bool)
	DropOutbound()
	FreeSpace(path string, bytes int64) error
	Resize(file string, by int64) error
	ExternalDatabase(service, host string) error
}

// exporter is a node of the cluster as one.
func (s *site) exporter(node string) exporter {
	s.t.Helper()
	n, ok := s.cluster.Node(node).(exporter)
	require.True(s.t, ok, "%s has no faults of exports", node)
	return n
}

// backup begins an export by the CLI, detached, and returns when its preflight has passed.
func (s *site) backup(args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"backup", "create", s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attachTo(operation.KindBackup, id)
}

// backupDirectly begins it through the client and does not wait for anything.
func (s *site) backupDirectly(in operation.BackupInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name()
	return s.execute(operation.KindBackup, operation.WorkflowBackup, in.OperationID, in)
}

// store is the bucket past the proxy, as somebody looks at it who has nothing to do with the operation.
func (s *site) store() *archive.Store {
	s.t.Helper()
	store, err := archive.Open(archive.Config{Endpoint: s.bucket.Server.URL, Bucket: s.bucket.Name, PathStyle: true, AccessKey: s.bucket.Server.AccessKey,
		SecretKey: s.bucket.Server.SecretKey}, nil)
	require.NoError(s.t, err)
	s.t.Cleanup(store.Close)
	return store
}

// listed requires that the operation's archive is in the list, is complete, and is read back to its end: the bytes by their checksums, and by gzip and tar.
func (o *op) listed(identities ...age.Identity) archive.Manifest {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, ref := o.store(), archive.Ref{Cluster: o.cluster.Name(), Operation: o.id}
	archives, _, err := store.List(ctx, ref.Cluster)
	require.NoError(o.t, err)
	require.True(o.t, slices.ContainsFunc(archives, func(e archive.Entry) bool { return e.Ref == ref }), "%s is not listed", ref)
	verified, err := store.Verify(ctx, ref, identities, "end-to-end test", nil)
	require.NoError(o.t, err)
	require.True(o.t, verified.OK)
	m, err := store.Manifest(ctx, ref)
	require.NoError(o.t, err)
	if len(m.Recipients) == 0 || len(identities) > 0 {
		require.Equal(o.t, m.SHA256, verified.SHA256)
		r, err := store.Open(ctx, ref, archive.OpenOptions{Identities: identities})
		require.NoError(o.t, err)
		defer func() { _ = r.Close() }()
		unpacked, err := gzip.NewReader(r)
		require.NoError(o.t, err)
		entries := 0
		for t := tar.NewReader(unpacked); ; entries++ {
			if _, err = t.Next(); err != nil {
				break
			}
		}
		require.ErrorIs(o.t, err, io.EOF)
		require.Positive(o.t, entries)
	}
	return m
}

// nothing requires that nobody can see an archive of the operation, and that nothing of one is in the bucket.
func (o *op) nothing() {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, ref := o.store(), archive.Ref{Cluster: o.cluster.Name(), Operation: o.id}
	archives, incomplete, err := store.List(ctx, ref.Cluster)
	require.NoError(o.t, err)
	for _, e := range append(archives, incomplete...) {
		require.NotEqual(o.t, ref, e.Ref, "%s", e.Reason)
	}
	folder := strings.TrimSuffix(func() string { key, _ := store.Key(ref); return key }(), "export.tgz")
	keys, err := o.bucket.Keys(ctx)
	require.NoError(o.t, err)
	for key := range keys {
		require.False(o.t, strings.HasPrefix(key, folder), key)
	}
}

// placed requires that the archive lies in a folder of the node with its manifest, and reads as that says, and is in no bucket.
func (o *op) placed(folder string) {
	o.t.Helper()
	name := folder + "/" + o.cluster.Name() + "-" + o.id + ".tgz"
	var m struct {
		Operation, SHA256 string
		Size              int64
	}
	require.NoError(o.t, json.Unmarshal([]byte(o.shell(files, `cat "$1.manifest.json"`, name)), &m))
	sum := strings.Fields(o.shell(files, `sha256sum "$1"; stat -c %s "$1"; tar tzf "$1" >/dev/null`, name))
	require.Equal(o.t, []string{o.id, m.SHA256, fmt.Sprint(m.Size)}, []string{m.Operation, sum[0], sum[2]})
	o.nothing()
}

// settled requires what must hold after every export, whatever was done to it: maintenance mode as it was found, nothing staged on a node, nothing running, no
// upload under way, no command repeated, the cluster free, no secret anywhere.
func (o *op) settled() {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.False(o.t, o.cluster.Maintenance(), "maintenance mode is on")
	for _, n := range o.cluster.Nodes() {
		require.Empty(o.t, o.staged(n.Name()), "staged on %s", n.Name())
		require.False(o.t, o.running(n.Name(), "kato data export"), "an export runs on %s", n.Name())
		for _, e := range n.Commands() {
			require.False(o.t, e.End.IsZero(), "%s still runs on %s", e.Command(), n.Name())
		}
	}
	uploads, err := o.bucket.Uploads(ctx)
	require.NoError(o.t, err)
	require.Empty(o.t, uploads, "uploads that nobody ends")
	again := o.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(o.t, again, "commands that ran more than once")
	require.False(o.t, o.locked(), "the lock is held")
	o.secretsKept()
}

// secretsKept requires that neither the bucket's keys nor a presigned URL is in the history, in a worker's log, or in a file of a node.
func (o *op) secretsKept() {
	o.t.Helper()
	logs, err := filepath.Glob(filepath.Join(o.Dir, "worker-*.log"))
	require.NoError(o.t, err)
	for _, secret := range []string{o.bucket.Server.SecretKey, o.bucket.Server.AccessKey, "X-Amz-Signature", "AGE-SECRET-KEY"} {
		require.False(o.t, o.inHistory(secret, o.workflow), "%s in the history", secret)
		for _, path := range logs {
			require.Empty(o.t, holding(o.t, secret, path), secret)
		}
		for _, n := range o.cluster.Nodes() {
			if h, real := n.(host); real {
				require.Empty(o.t, h.run(`grep -rlsF -e "$1" /run /home /tmp /var/tmp /var/log /var/lib/katoflow || true`, secret), secret)
			}
		}
		if !onHosts() {
			require.Empty(o.t, holding(o.t, secret, o.cluster.Dir()), secret)
		}
	}
}

// staged lists what exports have left in the folders where they stage archives.
func (s *site) staged(node string) []string {
	s.t.Helper()
	out := s.shell(node, `for d in "$HOME/katoflow-exports" /mnt/backup /tmp; do
	if [ -d "$d" ]; then
		for f in "$d"/* "$d"/.k*; do
			case $f in
			*katoflow-* | *kato-export-*) if [ -e "$f" ]; then printf '%s\n' "$f"; fi ;;
			esac
		done
	fi
done`)
	return strings.Fields(out)
}

// shell runs a script on a node as its login user, over SSH as anybody could.
func (s *site) shell(node, script string, args ...string) string {
	s.t.Helper()
	file, err := inventory.Parse(filepath.Join(s.Dir, "shell.yaml"), s.cluster.InventoryYAML())
	require.NoError(s.t, err)
	c, err := file.Cluster(s.cluster.Name())
	require.NoError(s.t, err)
	i := slices.IndexFunc(c.Nodes, func(n *inventory.Node) bool { return n.Name == node })
	require.GreaterOrEqual(s.t, i, 0, node)
	h, err := file.Host(c, c.Nodes[i], os.LookupEnv)
	require.NoError(s.t, err)
	pool := remote.NewPool(remote.Options{})
	defer func() { _ = pool.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := pool.Run(ctx, h, remote.Command{Script: script, Args: args})
	require.NoError(s.t, err)
	return string(r.Stdout)
}

func TestSite_InS3_ItsInventoryNamesABucketThatIsReachedThroughTheProxy(t *testing.T) {
	onlySimulated(t, "it is about the harness")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), inS3)
	s.worker("")
	s.cli(0, "cluster", "check", s.cluster.Name())
	text, err := os.ReadFile(s.Inventory)
	require.NoError(t, err)
	require.NotContains(t, string(text), s.bucket.Server.SecretKey)
	file, err := inventory.Load(s.Inventory)
	require.NoError(t, err)
	c, err := file.Cluster(s.cluster.Name())
	require.NoError(t, err)
	secret, err := c.S3.SecretKey.Resolve(file, os.LookupEnv)
	require.NoError(t, err)
	store, err := archive.Open(archive.Config{Endpoint: c.S3.Endpoint, Bucket: c.S3.Bucket, PathStyle: c.S3.PathStyle, AccessKey: s.bucket.Server.AccessKey, SecretKey: string(secret)}, nil)
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, store.Check(t.Context()))
	require.Positive(t, s.bucket.Proxy.Count("ListObjects"))
	s.bucket.Proxy.Fail("", archivetest.Always, archivetest.AccessDenied)
	require.True(t, archive.IsKind(store.Check(t.Context()), archive.KindAccessDenied))
}
