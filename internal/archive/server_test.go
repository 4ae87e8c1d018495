package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/katoflow/katoflow/internal/e2e/harness"
)

const (
	mib           = 1 << 20
	testSecretKey = "test-secret-key-0123456789"
	testAccessKey = "test-access-key"
)

// server is the S3 server of all tests. The first that needs it starts it: fuzzing does not, in any of its processes.
var server struct {
	sync.Mutex
	url  string
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

// serverURL returns the address of the S3 server.
func serverURL(t testing.TB) string {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	if server.url == "" {
		dir, err := os.MkdirTemp("", "archive-test-")
		require.NoError(t, err)
		url, stop, err := startServer(dir)
		if err != nil {
			_ = os.RemoveAll(dir)
			t.Fatal(err)
		}
		server.url, server.stop = url, func() { stop(); _ = os.RemoveAll(dir) }
	}
	return server.url
}

func startServer(dir string) (address string, stop func(), err error) {
	binary, err := harness.Binary("devstack")
	if err != nil {
		return "", nil, err
	}
	ports := filepath.Join(dir, "ports.json")
	process, err := harness.StartProcess("devstack", filepath.Join(dir, "devstack.log"), nil, binary,
		"server", "start-dev", "--headless", "--port", "0", "--s3-port", "0", "--data", filepath.Join(dir, "data"), "--ports-file", ports,
		"--s3-access-key", testAccessKey, "--s3-secret-key", testSecretKey)
	if err != nil {
		return "", nil, err
	}
	var addresses struct {
		S3 struct{ Endpoint string }
	}
	err = harness.WaitFor(90*time.Second, "devstack to answer", func() (bool, error) {
		select {
		case <-process.Ended():
			return false, fmt.Errorf("devstack ended: %s", process.Tail())
		default:
		}
		data, err := os.ReadFile(ports)
		return err == nil && json.Unmarshal(data, &addresses) == nil, nil
	})
	if err != nil {
		process.Kill()
		return "", nil, err
	}
	return addresses.S3.Endpoint, func() {
		if err := process.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}, nil
}

var bucketNumber atomic.Int64

// newBucket makes a bucket of its own for a test, seen through a proxy of its own.
func newBucket(t testing.TB, lock bool) *bucket {
	t.Helper()
	b := &bucket{name: fmt.Sprintf("archives-%d", bucketNumber.Add(1)), proxy: newProxy(t)}
	client := s3.New(s3.Options{BaseEndpoint: aws.String(serverURL(t)), Region: "us-east-1", UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: testAccessKey, SecretAccessKey: testSecretKey}, nil
		})})
	_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &b.name, ObjectLockEnabledForBucket: aws.Bool(lock)})
	require.NoError(t, err)
	b.client = client
	return b
}

type bucket struct {
	name   string
	proxy  *proxy
	client *s3.Client
}

func (b *bucket) config() Config {
	return Config{
		Endpoint: b.proxy.server.URL, Bucket: b.name, Prefix: "some/where", AccessKey: testAccessKey, SecretKey: testSecretKey, PathStyle: true,
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

// proxy stands between the store and the server, counts what goes through, and breaks things.
type proxy struct {
	server  *httptest.Server
	forward *httputil.ReverseProxy

	mu     sync.Mutex
	faults []*fault
	seen   map[string]int
	sent   map[int]int // requests by part number
	after  func(operation string, part int)
	hung   []net.Conn
}

type fault struct {
	operation string // "" for all
	times     int
	act       func(w http.ResponseWriter, r *http.Request, forward http.Handler)
}

func newProxy(t testing.TB) *proxy {
	target, err := url.Parse(serverURL(t))
	require.NoError(t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	p := &proxy{seen: map[string]int{}, sent: map[int]int{}, forward: &httputil.ReverseProxy{
		// The Host header is signed and stays.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host
		},
		Transport:    transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	p.server = httptest.NewServer(p)
	t.Cleanup(func() {
		p.mu.Lock()
		for _, conn := range p.hung {
			_ = conn.Close()
		}
		p.mu.Unlock()
		p.server.CloseClientConnections()
		p.server.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// operationOf names the S3 operation of a request; of objects with the last part of the key.
func operationOf(r *http.Request) string {
	q := r.URL.Query()
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch {
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return "UploadPart"
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "CreateMultipartUpload"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "CompleteMultipartUpload"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "AbortMultipartUpload"
	case r.Method == http.MethodGet && q.Has("uploadId"):
		return "ListParts"
	case r.Method == http.MethodGet && q.Has("uploads"):
		return "ListMultipartUploads"
	case r.Method == http.MethodGet && q.Has("list-type"):
		return "ListObjects"
	}
	return r.Method + " " + name
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	operation := operationOf(r)
	number, _ := strconv.Atoi(r.URL.Query().Get("partNumber"))
	p.mu.Lock()
	p.seen[operation]++
	if operation == "UploadPart" {
		p.sent[number]++
	}
	var hit *fault
	for _, f := range p.faults {
		if (f.operation == "" || f.operation == operation) && f.times > 0 {
			f.times--
			hit = f
			break
		}
	}
	after := p.after
	p.mu.Unlock()
	if hit != nil {
		hit.act(w, r, p.forward)
	} else {
		p.forward.ServeHTTP(w, r)
	}
	if after != nil {
		after(operation, number)
	}
}

func (p *proxy) fail(operation string, times int, act func(http.ResponseWriter, *http.Request, http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{operation, times, act})
}

func (p *proxy) count(operation string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[operation]
}

// sentAgain returns how many requests with a part there were beyond one for each.
func (p *proxy) sentAgain() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := 0
	for _, n := range p.sent {
		again += n - 1
	}
	return again
}

// forget sets the counters back.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.sent, p.faults, p.after = map[string]int{}, map[int]int{}, nil, nil
}

// answer is an answer of S3 with an error code.
func answer(status int, code, message string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		// An answer before the body is read may be lost to the reset that follows, and the number of attempts would be chance.
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("Connection", "close")
		w.WriteHeader(status)
		if code != "" && r.Method != http.MethodHead {
			_, _ = fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
		}
	}
}

// reset ends the connection with RST after some bytes of the request's body.
func reset(bytes int64) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, bytes)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// truncate ends the connection after some bytes of the answer's body.
func truncate(bytes int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		forward.ServeHTTP(&cutWriter{w, bytes}, r)
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	if f, ok := c.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}

// lose does the request and ends the connection without an answer.
func lose(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	forward.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// hang reads nothing more and says nothing, until the test ends.
func (p *proxy) hang(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung = append(p.hung, conn)
}

// flip changes one byte of the answer's body.
func flip(at int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		forward.ServeHTTP(&flipWriter{w, at}, r)
	}
}

type flipWriter struct {
	http.ResponseWriter
	at int
}

func (f *flipWriter) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	if f.at >= 0 && f.at < len(p) {
		p[f.at] ^= 1
	}
	f.at -= len(p)
	return f.ResponseWriter.Write(p)
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
