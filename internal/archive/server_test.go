package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
)

const mib = 1 << 20

// server is the S3 server of all tests. The first that needs it starts it: fuzzing does not, in any of its processes.
var server struct {
	sync.Mutex
	archivetest.Server
	stop func()
}

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "age" {
		if err := runAge(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if server.stop != nil {
		server.stop()
	}
	if code == 0 {
		http.DefaultClient.CloseIdleConnections()
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// s3Server returns the S3 server.
func s3Server(t testing.TB) archivetest.Server {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	if server.stop == nil {
		dir, err := os.MkdirTemp("", "archive-test-")
		require.NoError(t, err)
		started, err := harness.StartTemporal(dir, "--headless")
		if err != nil {
			_ = os.RemoveAll(dir)
			t.Fatal(err)
		}
		server.Server, server.stop = started.S3, func() {
			if err := started.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			_ = os.RemoveAll(dir)
		}
	}
	return server.Server
}

var bucketNumber atomic.Int64

// newBucket makes a bucket of its own for a test, seen through a proxy of its own.
func newBucket(t testing.TB, lock bool) *bucket {
	t.Helper()
	b, err := archivetest.NewBucket(t.Context(), s3Server(t), fmt.Sprintf("archives-%d", bucketNumber.Add(1)), lock)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return &bucket{b}
}

type bucket struct{ *archivetest.Bucket }

func (b *bucket) config() Config {
	return Config{
		Endpoint: b.Proxy.URL, Bucket: b.Name, Prefix: "some/where", AccessKey: b.Server.AccessKey, SecretKey: b.Server.SecretKey, PathStyle: true,
		Attempts: 4, MaxBackoff: 20 * time.Millisecond, StallTimeout: 20 * time.Second,
	}
}

// open opens a new store, as another process would.
func (b *bucket) open(t testing.TB, change ...func(*Config)) *Store {
	t.Helper()
	cfg := b.config()
	for _, f := range change {
		f(&cfg)
	}
	s, err := Open(cfg, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)))
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// memory is a source of random bytes, which counts and breaks.
type memory struct {
	mu       sync.Mutex
	data     []byte
	modified time.Time
	broken   map[int64]error // by offset, once
	reading  int
	most     int
	onRead   func(offset int64)
	lie      func(offset int64, p []byte) // changes what was read
	summed   int64
}

func newMemory(seed uint64, size int) *memory {
	data := make([]byte, size)
	var key [32]byte
	key[0] = byte(seed)
	_, _ = rand.NewChaCha8(key).Read(data)
	return &memory{data: data, modified: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), broken: map[int64]error{}}
}

func (m *memory) sha256() string { return Sum(sha256.Sum256(m.data)).String() }

func (m *memory) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *memory) Stat(context.Context) (Stat, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Stat{int64(len(m.data)), m.modified}, nil
}

func (m *memory) ReadRange(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	m.mu.Lock()
	onRead := m.onRead
	m.mu.Unlock()
	if onRead != nil {
		onRead(offset)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.broken[offset]; err != nil {
		delete(m.broken, offset)
		if errors.Is(err, errMiddle) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(m.data[offset:offset+length/2]), failing{err})), nil
		}
		return nil, err
	}
	size := int64(len(m.data))
	data := m.data[min(offset, size):min(offset+length, size)]
	if m.lie != nil {
		data = bytes.Clone(data)
		m.lie(offset, data)
	}
	m.reading++
	m.most = max(m.most, m.reading)
	return &memoryReader{Reader: bytes.NewReader(data), ctx: ctx, m: m}, nil
}

var errMiddle = errors.New("connection to node lost")

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type memoryReader struct {
	*bytes.Reader
	ctx  context.Context
	m    *memory
	once sync.Once
}

func (r *memoryReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// WriteTo is hidden: a stream from a node has none.
func (r *memoryReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

func (r *memoryReader) Close() error {
	r.once.Do(func() { r.m.change(func() { r.m.reading-- }) })
	return nil
}

func (m *memory) Sums(_ context.Context, ranges []Range) ([]Sum, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sums []Sum
	for _, r := range ranges {
		size := int64(len(m.data))
		sums = append(sums, sha256.Sum256(m.data[min(r.Offset, size):min(r.Offset+r.Length, size)]))
		m.summed += r.Length
	}
	return sums, nil
}

// manifestOf is the least that a manifest must have.
func manifestOf(ref Ref, stored Stored) Manifest {
	at := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	return Manifest{Ref: ref, Platform: "als", Mode: "cluster", Who: "a test", Started: at, Ended: at.Add(time.Minute), Stored: stored}
}
