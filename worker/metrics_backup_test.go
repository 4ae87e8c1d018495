package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/inventory"
)

func scrapeBackups(t *testing.T, m *backupMetrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	metricsHandler(m).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "katoflow_backup_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

func TestBackupMetrics_OfTheInventorysBuckets_TellWhatIsKnown(t *testing.T) {
	var asked atomic.Int64
	var broken atomic.Bool
	file := &inventory.File{Clusters: map[string]*inventory.Cluster{
		"prod": {Name: "prod", S3: &inventory.S3{}}, "never": {Name: "never", S3: &inventory.S3{}}, "bare": {Name: "bare"}}}
	m := &backupMetrics{log: zap.NewNop(), wait: 10 * time.Second, freshFor: time.Hour, inventory: func() (*inventory.File, error) { return file, nil },
		lastProven: func(_ context.Context, _ *inventory.File, c *inventory.Cluster) (time.Time, error) {
			asked.Add(1)
			switch {
			case broken.Load():
				return time.Time{}, errors.New("s3 bucket archives: it does not answer")
			case c.Name == "prod":
				return time.Unix(1_700_000_000, 0), nil
			}
			return time.Time{}, nil
		}}
	want := func(lines ...string) {
		t.Helper()
		if got := scrapeBackups(t, m); got != strings.Join(lines, "\n") {
			t.Errorf("%s", got)
		}
	}
	const proven = `katoflow_backup_last_proven_restorable_timestamp_seconds{cluster="prod"} 1.7e+09`
	want(`katoflow_backup_bucket_up{cluster="never"} 1`, `katoflow_backup_bucket_up{cluster="prod"} 1`, proven)
	want(`katoflow_backup_bucket_up{cluster="never"} 1`, `katoflow_backup_bucket_up{cluster="prod"} 1`, proven)
	if n := asked.Load(); n != 2 {
		t.Errorf("%d questions for two scrapes of two buckets", n)
	}
	// A bucket that is away takes back nothing.
	broken.Store(true)
	m.freshFor = 0
	want(`katoflow_backup_bucket_up{cluster="never"} 0`, `katoflow_backup_bucket_up{cluster="prod"} 0`, proven)
	delete(file.Clusters, "prod")
	want(`katoflow_backup_bucket_up{cluster="never"} 0`)
}

func TestBackupMetrics_BucketHangs_TheScrapeDoesNot(t *testing.T) {
	release, asked := make(chan struct{}), make(chan struct{}, 10)
	file := &inventory.File{Clusters: map[string]*inventory.Cluster{"prod": {Name: "prod", S3: &inventory.S3{}}}}
	m := &backupMetrics{log: zap.NewNop(), wait: time.Millisecond, freshFor: time.Hour, inventory: func() (*inventory.File, error) { return file, nil },
		lastProven: func(ctx context.Context, _ *inventory.File, _ *inventory.Cluster) (time.Time, error) {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the reading has no end")
			}
			asked <- struct{}{}
			<-release
			return time.Unix(1_700_000_000, 0), nil
		}}
	for range 3 {
		if got := scrapeBackups(t, m); got != "" {
			t.Error(got)
		}
	}
	<-asked
	if len(asked) > 0 {
		t.Error("one reading at a time")
	}
	close(release)
	m.mu.Lock()
	m.wait = 10 * time.Second
	m.mu.Unlock()
	if got := scrapeBackups(t, m); !strings.Contains(got, "1.7e+09") {
		t.Error(got)
	}
}
