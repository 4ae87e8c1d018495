package activities

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// exports is a simulated cluster whose filesystem node exports into a bucket of its own.
type exports struct {
	*bench
	archives *Archives
	bucket   *archivetest.Bucket
	files    *simcluster.Node
}

// exporting says what a test wants otherwise.
type exporting struct {
	// extra goes into the cluster's section of the inventory, and bare leaves the bucket out of it.
	extra string
	bare  bool
	// change the configuration of the cluster.
	change func(*simcluster.Config)
	// section changes the lines of the bucket.
	section func(string) string
}

const mib = 1 << 20

var buckets atomic.Int64 // only gives each test's bucket a name

func startExports(t *testing.T, server archivetest.Server, o exporting) *exports {
	t.Helper()
	bucket, err := archivetest.NewBucket(context.Background(), server, fmt.Sprintf("exports-%d", buckets.Add(1)), false)
	require.NoError(t, err)
	t.Cleanup(bucket.Close)
	section, err := harness.S3Section(t.TempDir(), bucket.Proxy.URL, bucket)
	require.NoError(t, err)
	section = strings.TrimSpace(section)
	if o.section != nil {
		section = o.section(section)
	}
	if o.bare {
		section = ""
	}
	cfg := simcluster.Config{Nodes: append(clusterOf("core", "dea-1"), simcluster.NodeConfig{Name: "fs", Roles: []string{"base", "filesystem"}})}
	if o.change != nil {
		o.change(&cfg)
	}
	b := start(t, cfg, section+"\n"+o.extra)
	x := &exports{bench: b, bucket: bucket, files: b.node("fs")}
	x.op = Operation{ID: "op-1", Cluster: b.cluster.Name(), WorkflowID: "op/demo/backup-create/op-1", Token: 100}
	x.archives = &Archives{Source: b.source, Connections: b.pool, Jobs: b.jobs, Logger: b.kato.Logger, PartSize: 5 * mib}
	return x
}

func (x *exports) in() ExportInput {
	in := x.input("fs")
	in.Node = operation.PlannedNode{Name: "fs", Roles: []string{"base", "filesystem"}}
	return ExportInput{NodeInput: in, Timeout: operation.Duration(time.Minute)}
}

// prepared makes the folder of a try.
func (x *exports) prepared(in ExportInput) ExportInput {
	x.t.Helper()
	in.Place = must[PrepareExportResult](x.t)(run(x.t, x.archives.PrepareExport, in, attemptOptions{})).Place
	return in
}

// exported prepares, exports and checks.
func (x *exports) exported(in ExportInput) TransferInput {
	x.t.Helper()
	in = x.prepared(in)
	must[ExportResult](x.t)(run(x.t, x.archives.Export, in, attemptOptions{}))
	checked := must[CheckArchiveResult](x.t)(run(x.t, x.archives.CheckArchive, in, attemptOptions{}))
	return TransferInput{ExportInput: in, Checked: checked, Mode: operation.TransferWorker, Platform: "als", Who: "test", Began: time.Now().UTC().Add(-time.Minute)}
}

// archived is what the bucket has of the operation, read back and compared.
func (x *exports) archived(identities ...age.Identity) archive.Entry {
	x.t.Helper()
	store := x.open()
	ref := archive.Ref{Cluster: x.op.Cluster, Operation: x.op.ID}
	entry, err := store.Entry(x.t.Context(), ref)
	require.NoError(x.t, err)
	require.True(x.t, entry.Complete, entry.Reason)
	verified, err := store.Verify(x.t.Context(), ref, identities, "test", func(int64) {})
	require.NoError(x.t, err)
	require.True(x.t, verified.OK, verified.Problem)
	return entry
}

func (x *exports) open() *archive.Store {
	x.t.Helper()
	server := x.bucket.Server
	store, err := archive.Open(archive.Config{Endpoint: server.URL, Region: server.Region, Bucket: x.bucket.Name, AccessKey: server.AccessKey, SecretKey: server.SecretKey, PathStyle: true}, nil)
	require.NoError(x.t, err)
	x.t.Cleanup(store.Close)
	return store
}

// nothingListed: no archive and no part of one is in the bucket.
func (x *exports) nothingListed() {
	x.t.Helper()
	keys, err := x.bucket.Keys(x.t.Context())
	require.NoError(x.t, err)
	require.Empty(x.t, keys)
	uploads, err := x.bucket.Uploads(x.t.Context())
	require.NoError(x.t, err)
	require.Empty(x.t, uploads)
}

// there reports whether a file or folder is on the node that exports.
func (x *exports) there(path string) bool {
	x.t.Helper()
	r, err := x.pool.Run(x.t.Context(), x.host("fs"), remote.Command{Argv: []string{"test", "-e", path}, AnyExit: true})
	require.NoError(x.t, err)
	return r.ExitCode == 0
}

// sh runs a script on the node that exports.
func (x *exports) sh(script string, args ...string) string {
	x.t.Helper()
	r, err := x.pool.Run(x.t.Context(), x.host("fs"), remote.Command{Script: script, Args: args, AnyExit: true})
	require.NoError(x.t, err)
	require.Zero(x.t, r.ExitCode, "%s: %s", script, r.Stderr)
	return string(r.Stdout)
}

// wantNoSecret looks for what must be nowhere: in logs, in the lists of processes seen, in errors.
func (x *exports) wantNoSecret(texts ...string) {
	x.t.Helper()
	for _, e := range x.logs.All() {
		texts = append(texts, e.Message)
		for _, f := range e.Context {
			texts = append(texts, f.String, fmt.Sprint(f.Interface))
		}
	}
	for _, text := range texts {
		for _, secret := range []string{"X-Amz-Signature", x.bucket.Server.SecretKey} {
			require.NotContains(x.t, text, secret)
		}
	}
}

func TestArchives(t *testing.T) {
	server, err := harness.StartTemporal(t.TempDir(), "--headless")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	for name, test := range archiveTests() {
		t.Run(name, func(t *testing.T) { test(t, server.S3) })
	}
}

type archiveTest = func(*testing.T, archivetest.Server)

func archiveTests() map[string]archiveTest {
	all := map[string]archiveTest{}
	for _, some := range []map[string]archiveTest{exportTests(), transferTests(), fetchTests()} {
		for name, test := range some {
			all[name] = test
		}
	}
	return all
}
