package main

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/inventory"
)

const (
	// bucketsFreshFor is how long what was read of the buckets serves further scrapes: a rehearsal lasts longer.
	bucketsFreshFor = 5 * time.Minute
	// bucketsWait is how long a scrape waits for a reading that is under way; what comes later is told by the next one.
	bucketsWait = 5 * time.Second
	// bucketsTimeout bounds the reading of all buckets.
	bucketsTimeout = 2 * time.Minute
	// bucketsAtOnce are read.
	bucketsAtOnce = 4
)

// backupMetrics tells Prometheus how old the newest archive of each cluster is that is proven restorable, from the buckets of the worker's inventory:
//
//	katoflow_backup_last_proven_restorable_timestamp_seconds  when its export began, which is what a restore would bring back; absent while none is known
//	katoflow_backup_bucket_up                                 1 when the bucket could be read the last time; what was known before is told on otherwise
//
// with the label cluster.
type backupMetrics struct {
	inventory func() (*inventory.File, error)
	// lastProven reads one cluster's bucket.
	lastProven func(ctx context.Context, file *inventory.File, c *inventory.Cluster) (time.Time, error)
	log        *zap.Logger
	// wait and freshFor are bucketsWait and bucketsFreshFor but in tests.
	wait, freshFor time.Duration

	mu       sync.Mutex
	read     time.Time
	reading  chan struct{} // closed at the end of the reading under way; nil when there is none
	clusters map[string]provenFigures
}

// provenFigures are one cluster's.
type provenFigures struct {
	proven time.Time
	up     bool
}

// Describe sends no descriptions: which clusters there are is not known beforehand.
func (m *backupMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect tells what is known, and has it read anew when it is old.
func (m *backupMetrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	if m.reading == nil && time.Since(m.read) > m.freshFor {
		m.reading = make(chan struct{})
		go m.refresh(m.reading)
	}
	reading := m.reading
	m.mu.Unlock()
	if reading != nil {
		timer := time.NewTimer(m.wait)
		select {
		case <-reading:
		case <-timer.C:
		}
		timer.Stop()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	proven := prometheus.NewDesc("katoflow_backup_last_proven_restorable_timestamp_seconds",
		"When the export of the newest archive began that a rehearsal has proven restorable, in Unix seconds.", []string{"cluster"}, nil)
	up := prometheus.NewDesc("katoflow_backup_bucket_up", "1 when the bucket of the cluster's archives could be read the last time.", []string{"cluster"}, nil)
	for cluster, f := range m.clusters {
		if !f.proven.IsZero() {
			out <- prometheus.MustNewConstMetric(proven, prometheus.GaugeValue, float64(f.proven.Unix()), cluster)
		}
		out <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, number(f.up), cluster)
	}
}

// refresh reads all buckets, and closes done.
func (m *backupMetrics) refresh(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), bucketsTimeout)
	defer cancel()
	found := m.readAll(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if found != nil {
		m.clusters = found
	}
	m.read, m.reading = time.Now(), nil
	close(done)
}

// readAll reads the buckets of all clusters that have one; nil when the inventory cannot be used.
func (m *backupMetrics) readAll(ctx context.Context) map[string]provenFigures {
	file, err := m.inventory()
	if err != nil {
		return nil // the health endpoint says why
	}
	m.mu.Lock()
	before := m.clusters
	m.mu.Unlock()
	var mu sync.Mutex
	found := map[string]provenFigures{}
	var group errgroup.Group
	group.SetLimit(bucketsAtOnce)
	for name, c := range file.Clusters {
		if c.S3 == nil {
			continue
		}
		group.Go(func() error {
			f := before[name]
			proven, err := m.lastProven(ctx, file, c)
			if err == nil {
				f.proven = proven
			} else if f.up || before == nil {
				m.log.Warn("the archives of a cluster cannot be read for the metrics", zap.String("cluster", name), zap.Error(err))
			}
			f.up = err == nil
			mu.Lock()
			defer mu.Unlock()
			found[name] = f
			return nil
		})
	}
	_ = group.Wait() // none fails
	return found
}

// lastProvenWith reads a cluster's bucket; env looks up what the inventory refers to.
func lastProvenWith(env func(string) (string, bool)) func(ctx context.Context, file *inventory.File, c *inventory.Cluster) (time.Time, error) {
	return func(ctx context.Context, file *inventory.File, c *inventory.Cluster) (time.Time, error) {
		cfg, err := archive.ConfigOf(file, c.S3, env)
		if err != nil {
			return time.Time{}, err
		}
		cfg.Attempts = 3
		store, err := archive.Open(cfg, nil)
		if err != nil {
			return time.Time{}, err
		}
		defer store.Close()
		return store.LastProven(ctx, c.Name)
	}
}
