// Package connection keeps the HTTP connections of snapshot providers: one is opened for a request before the request is due, and whoever sends a request learns
// whether it can have been heard.
package connection

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/katoflow/katoflow/internal/webclient"
)

// Config of the connections to one provider.
type Config struct {
	// CA are the certificates, PEM, that servers are verified against instead of the system's.
	CA []byte
	// Proxy is asked for every request (http.Transport's Proxy); nil for none.
	Proxy func(*http.Request) (*url.URL, error)
	// Dial is how long a connection may take to come up, its TLS handshake not included (default 10s).
	Dial time.Duration
}

// Transport is an http.RoundTripper. A request whose context has a Line goes over that line's own connection, all others share theirs.
type Transport struct {
	shared *http.Transport
}

// New returns a transport, or false when there is no certificate in the CA.
func New(cfg Config) (*Transport, bool) {
	tlsConfig, ok := webclient.TLS(cfg.CA)
	if !ok {
		return nil, false
	}
	if cfg.Dial <= 0 {
		cfg.Dial = 10 * time.Second
	}
	return &Transport{shared: &http.Transport{
		Proxy:                 cfg.Proxy,
		DialContext:           (&net.Dialer{Timeout: cfg.Dial, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ForceAttemptHTTP2:     true,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost:   64,
	}}, true
}

// Close ends idle connections.
func (t *Transport) Close() { t.shared.CloseIdleConnections() }

// NotSentError says that a request cannot have been heard: there was no connection it could have gone over.
type NotSentError struct{ Err error }

func (e *NotSentError) Error() string { return e.Err.Error() }

func (e *NotSentError) Unwrap() error { return e.Err }

// Unsent tells whether a request that ended with err cannot have been heard.
func Unsent(err error) bool {
	var e *NotSentError
	return errors.As(err, &e)
}

type lineKey struct{}

// RoundTrip is http.RoundTripper's. The error of a request that got no connection is a *NotSentError.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	transport := t.shared
	line, ok := r.Context().Value(lineKey{}).(*Line)
	if ok {
		transport = line.transport
	}
	// A request that met a stale connection is sent again over another only when nothing of it was written, so the first connection it got says it all.
	var connected atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	if line != nil {
		trace.PutIdleConn = func(err error) { line.kept.Store(err == nil) } // before the answer's end is read
	}
	resp, err := transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil && !connected.Load() {
		err = &NotSentError{err}
	}
	if err == nil && line != nil && resp.ProtoMajor > 1 {
		line.kept.Store(true) // such a connection never leaves its pool
	}
	return resp, err
}

// Line is a connection that is held open for the requests of one shot. It belongs to one caller.
type Line struct {
	transport *http.Transport
	kept      atomic.Bool        // the connection of the last request is there for the next one
	rest      chan struct{}      // closed: no more is asked
	stop      context.CancelFunc // ends what is asked just now
	done      chan struct{}      // closed: nothing is asked any more
}

const (
	// askWithin bounds the asking that keeps a line's connection.
	askWithin = 10 * time.Second
	// asks is how often it is asked in a row: on a busy machine the transport gives up the connection of a request whose answer is there 50 ms before it is known to have been written.
	asks = 10
)

// Line returns a line without a connection: Warm opens it.
func (t *Transport) Line() *Line {
	own := t.shared.Clone()
	own.IdleConnTimeout = 0 // Close ends it
	return &Line{transport: own}
}

// On returns a context whose requests go over the line.
func (l *Line) On(ctx context.Context) context.Context { return context.WithValue(ctx, lineKey{}, l) }

// Warm opens the line's connection by ask, a cheap request that changes nothing, and asks again every so often until Rest or Close, because servers end connections that are
// idle, and a request that crosses such an end is one of which nobody knows whether it was heard. Only the first ask's error is returned. It is called once.
func (l *Line) Warm(ctx context.Context, every time.Duration, ask func(ctx context.Context) error) error {
	if err := l.ask(ctx, ask); err != nil {
		return err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.rest, l.stop, l.done = make(chan struct{}), stop, make(chan struct{})
	go func() {
		defer close(l.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-l.rest:
				return
			case <-tick.C:
				limited, cancel := context.WithTimeout(background, askWithin)
				_ = l.ask(limited, ask) // the next request opens a connection again
				cancel()
			}
		}
	}()
	return nil
}

// ask asks until the connection is kept.
func (l *Line) ask(ctx context.Context, ask func(ctx context.Context) error) error {
	for range asks {
		l.kept.Store(false)
		if err := ask(l.On(ctx)); err != nil || l.kept.Load() {
			return err
		}
	}
	return nil
}

// Rest ends the asking and leaves the connection open. It waits for an ask that is under way, which has the connection, as long as the context lasts.
func (l *Line) Rest(ctx context.Context) {
	if l.done == nil {
		return
	}
	select {
	case <-l.rest:
	default:
		close(l.rest)
	}
	select {
	case <-l.done:
	case <-ctx.Done():
	}
}

// Close ends the asking and the connection.
func (l *Line) Close() {
	if l.done != nil {
		l.stop()
		l.Rest(context.Background())
	}
	l.transport.CloseIdleConnections()
}

// Get is a request for Warm: the URL is asked for over the client, and any answer will do.
func Get(client *http.Client, address string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		// A connection is used again only after its answer was read to the end.
		if _, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		return nil
	}
}
