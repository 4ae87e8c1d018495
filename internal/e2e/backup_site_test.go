package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/inventory"
)

// inS3 gives the site a bucket of its own. It is in the S3 server of all tests, also where the test has a Temporal server of its own to kill.
func inS3(c *config) { c.s3 = true }

// openBucket makes the bucket, which is named as the cluster is, and the lines of the inventory.
func (s *site) openBucket() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var err error
	s.bucket, err = archivetest.NewBucket(ctx, shared.temporal.S3, "archives-"+strings.ToLower(s.cluster.Name()), false)
	require.NoError(s.t, err)
	s.t.Cleanup(s.bucket.Close)
	s.s3, err = harness.S3Section(s.Dir, s.bucket.Proxy.URL, s.bucket)
	require.NoError(s.t, err)
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
