package hypervisortest

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"
)

// FaultKind is what becomes of a request that meets a fault.
type FaultKind int

// Kinds of faults.
const (
	// Refuse answers with the fault's code and status and carries nothing out.
	Refuse FaultKind = iota
	// Lose carries the request out and ends the connection without an answer.
	Lose
	// Unheard ends the connection and carries nothing out.
	Unheard
)

// RequestFault is what happens to the next requests of a kind.
type RequestFault struct {
	// Call is the double's word for a kind of request, "*" for any.
	Call string
	// Skip lets so many requests pass first.
	Skip  int
	Times int
	Kind  FaultKind
	// Last: what comes after it is Unheard, as when the network has gone.
	Last bool
	// Code and Status of the answer of Refuse.
	Code   string
	Status int
}

// Double is what doubles of a cloud's API share: an HTTPS server, faults, and a clock.
type Double struct {
	server *httptest.Server

	mu     sync.Mutex
	faults []RequestFault
	last   time.Time
}

// Start begins to serve.
func (d *Double) Start(handler http.HandlerFunc) {
	d.server = httptest.NewUnstartedServer(handler)
	d.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that go away, and those that do not trust it
	d.server.StartTLS()
}

// Close ends it.
func (d *Double) Close() { d.server.Close() }

// URL of its root.
func (d *Double) URL() string { return d.server.URL }

// CA are the certificates that its server is verified against, PEM.
func (d *Double) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.Certificate().Raw})
}

// Fault adds one.
func (d *Double) Fault(f RequestFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, f)
}

// ClearFaults ends all faults.
func (d *Double) ClearFaults() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
}

// Meet returns the fault that a request meets, false for none.
func (d *Double) Meet(call string) (RequestFault, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := range d.faults {
		f := &d.faults[n]
		switch {
		case f.Times == 0 || f.Call != call && f.Call != "*":
		case f.Skip > 0:
			f.Skip--
		default:
			f.Times--
			met := *f
			if met.Last {
				d.faults = append([]RequestFault{{Call: "*", Times: 1 << 20, Kind: Unheard}}, d.faults...)
			}
			return met, true
		}
	}
	return RequestFault{}, false
}

// Now is later than it was before, in the unit that the API tells, as the order of what was made needs.
func (d *Double) Now(unit time.Duration) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := time.Now().Truncate(unit)
	if !t.After(d.last) {
		t = d.last.Add(unit)
	}
	d.last = t
	return t
}

// HangUp ends a request's connection without an answer.
func HangUp(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}
