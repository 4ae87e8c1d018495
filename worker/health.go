package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/katoflow/katoflow/internal/temporalkit"
)

// silentAfter is how long a healthy server may be silent: a long poll lasts up to 60 s, and some are always under way.
const silentAfter = 2 * time.Minute

// health answers /healthz (the process lives), /readyz (it can carry out operations) and /metrics.
type health struct {
	started   atomic.Bool
	stopping  atomic.Bool
	contact   *temporalkit.Contact
	schedules *scheduleMetrics
	backups   *backupMetrics
	inventory func() error
	now       func() time.Time
}

// readiness is the body of /readyz.
type readiness struct {
	Ready bool `json:"ready"`
	// Problems, one line each; empty when ready.
	Problems []string `json:"problems,omitempty"`
	// LastContact with the Temporal server, UTC, RFC 3339; empty before the first.
	LastContact string `json:"lastContact,omitempty"`
}

func (h *health) readiness() readiness {
	var r readiness
	switch {
	case h.stopping.Load():
		r.Problems = append(r.Problems, "the worker is stopping")
	case !h.started.Load():
		r.Problems = append(r.Problems, "the worker has not started to poll")
	}
	last, err := h.contact.Last()
	if !last.IsZero() {
		r.LastContact = last.UTC().Format(time.RFC3339)
	}
	switch {
	case err != nil:
		r.Problems = append(r.Problems, "the Temporal server does not answer")
	case h.started.Load() && h.now().Sub(last) > silentAfter:
		r.Problems = append(r.Problems, fmt.Sprintf("the Temporal server has been silent for more than %s", silentAfter))
	}
	if err := h.inventory(); err != nil {
		r.Problems = append(r.Problems, problems(err)...)
	}
	r.Ready = len(r.Problems) == 0
	return r
}

func (h *health) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := h.readiness()
		w.Header().Set("Content-Type", "application/json")
		if !r.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(r) // the client has gone
	})
	mux.Handle("GET /metrics", metricsHandler(h.schedules, h.backups))
	return mux
}

// serve listens at address and returns where, and how to stop.
func (h *health) serve(address string) (listening string, stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("--health %s: %w", address, err)
	}
	server := &http.Server{Handler: h.handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = server.Serve(l) // always http.ErrServerClosed
	}()
	return l.Addr().String(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		_ = server.Close()
		<-gone
	}, nil
}

// healthAddress turns --health into an address: PORT and :PORT mean the loopback interface.
func healthAddress(flag string) (string, error) {
	host, port, ok := strings.Cut(flag, ":")
	if strings.Contains(port, ":") || strings.HasPrefix(flag, "[") { // an IPv6 address
		var err error
		if host, port, err = net.SplitHostPort(flag); err != nil {
			return "", fmt.Errorf("--health %q: write PORT or HOST:PORT", flag)
		}
	} else if !ok {
		host, port = "", flag
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", fmt.Errorf("--health %q: write PORT or HOST:PORT, PORT being 0 to 65535", flag)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
