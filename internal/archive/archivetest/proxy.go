package archivetest

import (
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Proxy stands between a store and an S3 server, counts what goes through, and breaks things. It is an http.Handler, for a test that needs TLS in front.
type Proxy struct {
	// URL takes the place of the server's.
	URL string

	server    *http.Server
	transport *http.Transport
	forward   http.Handler
	closed    chan struct{}
	once      sync.Once

	mu     sync.Mutex
	faults []*fault
	seen   map[string]int
	sent   map[sentPart]int
	after  func(operation string, part int)
	hung   []net.Conn
}

// sentPart is a part of an object.
type sentPart struct {
	path   string
	number int
}

type fault struct {
	operation string
	times     int
	met       bool
	act       Act
}

// Act answers one request in place of the server; forward is the server.
type Act func(w http.ResponseWriter, r *http.Request, forward http.Handler)

// Always is how often a fault happens that stays.
const Always = 1 << 30

// StartProxy listens on a free loopback port in front of the server at target.
func StartProxy(target string) (*Proxy, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("s3 proxy: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("s3 proxy: %w", err)
	}
	p := &Proxy{URL: "http://" + l.Addr().String(), transport: &http.Transport{MaxIdleConnsPerHost: 16}, closed: make(chan struct{}),
		seen: map[string]int{}, sent: map[sentPart]int{}}
	p.forward = &httputil.ReverseProxy{
		// The Host header is signed and stays.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, r.In.Host
		},
		Transport:    p.transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

// Close ends every connection, and every request that is held.
func (p *Proxy) Close() {
	p.once.Do(func() { close(p.closed) })
	_ = p.server.Close()
	p.mu.Lock()
	for _, conn := range p.hung {
		_ = conn.Close()
	}
	p.hung = nil
	p.mu.Unlock()
	p.transport.CloseIdleConnections()
}

// OperationOf names the S3 operation of a request: UploadPart, CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload, ListParts,
// ListMultipartUploads, ListObjects; of an object the method and the last part of its key, such as "PUT manifest.json".
func OperationOf(r *http.Request) string {
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

// ServeHTTP does the first fault that fits, or forwards.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	operation := OperationOf(r)
	number, _ := strconv.Atoi(r.URL.Query().Get("partNumber"))
	p.mu.Lock()
	p.seen[operation]++
	if operation == "UploadPart" {
		p.sent[sentPart{r.URL.Path, number}]++
	}
	var hit *fault
	for _, f := range p.faults {
		if (f.operation == "" || f.operation == operation) && f.times > 0 {
			f.times--
			f.met = true
			hit = f
			break
		}
	}
	p.mu.Unlock()
	if hit != nil {
		hit.act(w, r, p.forward)
	} else {
		p.forward.ServeHTTP(w, r)
	}
	p.mu.Lock()
	after := p.after
	p.mu.Unlock()
	if after != nil {
		after(operation, number)
	}
}

// Fail does something else than forward, to so many requests of an operation ("" for all). What was asked for first is done first.
func (p *Proxy) Fail(operation string, times int, act Act) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{operation: operation, times: times, act: act})
}

// Heal ends every fault that has not begun; requests that are held stay so until they are released.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Forget is Heal, and sets the counters back and After to nothing.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.sent, p.faults, p.after = map[string]int{}, map[sentPart]int{}, nil, nil
}

// Unmet returns the operations of the faults that no request has met.
func (p *Proxy) Unmet() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, f := range p.faults {
		if !f.met {
			out = append(out, f.operation)
		}
	}
	return out
}

// After is called when a request was answered, with the part's number where it has one; nil for nothing.
func (p *Proxy) After(f func(operation string, part int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = f
}

// Count returns how many requests of an operation there were.
func (p *Proxy) Count(operation string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[operation]
}

// Counts returns the requests of every operation.
func (p *Proxy) Counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.seen)
}

// Sent returns how many requests with a part of that number there were, of whatever object.
func (p *Proxy) Sent(number int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for part, times := range p.sent {
		if part.number == number {
			n += times
		}
	}
	return n
}

// SentAgain returns how many requests with a part there were beyond one for each part of each object.
func (p *Proxy) SentAgain() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := 0
	for _, times := range p.sent {
		again += times - 1
	}
	return again
}

// Hold stops the next request of an operation after so many bytes of its body, or before it is forwarded when it has none, until it is released or
// the proxy is closed: the middle of a part, for as long as a test needs it. reached is closed when it stands there.
func (p *Proxy) Hold(operation string, bytes int64) (reached <-chan struct{}, release func()) {
	there, free := make(chan struct{}), make(chan struct{})
	wait := func() error {
		close(there)
		select {
		case <-free:
			return nil
		case <-p.closed:
			return errClosed
		}
	}
	p.Fail(operation, 1, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if r.ContentLength == 0 {
			if wait() != nil {
				panic(http.ErrAbortHandler)
			}
		} else {
			r.Body = &heldBody{ReadCloser: r.Body, left: bytes, wait: wait}
		}
		forward.ServeHTTP(w, r)
	})
	return there, sync.OnceFunc(func() { close(free) })
}

var errClosed = errors.New("the proxy is closed")

// heldBody waits once, after left bytes.
type heldBody struct {
	io.ReadCloser
	left int64
	wait func() error
}

func (h *heldBody) Read(p []byte) (int, error) {
	if h.wait != nil && h.left > 0 {
		p = p[:min(int64(len(p)), h.left)]
	} else if h.wait != nil {
		if err := h.wait(); err != nil {
			return 0, err
		}
		h.wait = nil
	}
	n, err := h.ReadCloser.Read(p)
	h.left -= int64(n)
	return n, err
}

// Hang reads nothing more and says nothing, until the proxy is closed.
func (p *Proxy) Hang(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	conn := hijack(w)
	if conn == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung = append(p.hung, conn)
}

// Parts returns the numbers of the parts that were sent, of whatever object, in order.
func (p *Proxy) Parts() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []int
	for part := range p.sent {
		out = append(out, part.number)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
