package archivetest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Answer is an answer of S3 with an error code; none for an answer without a body.
func Answer(status int, code, message string) Act {
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

// The answers of services that sites have.
var (
	// InternalError is a server that fails.
	InternalError = Answer(500, "InternalError", "We encountered an internal error. Please try again.")
	// SlowDown is a server with too much to do.
	SlowDown = Answer(503, "SlowDown", "Please reduce your request rate.")
	// ExpiredToken is for credentials that were good before.
	ExpiredToken = Answer(403, "ExpiredToken", "The provided token has expired.")
	// AccessDenied is for rights that are missing.
	AccessDenied = Answer(403, "AccessDenied", "Access Denied")
	// BucketFull is for a disk without space; QuotaExceeded for a quota.
	BucketFull    = Answer(507, "InsufficientStorage", "No space left on device.")
	QuotaExceeded = Answer(403, "QuotaExceeded", "Your request was denied due to quota exceeded.")
)

func hijack(w http.ResponseWriter) net.Conn {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return nil
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		return nil
	}
	return conn
}

// Reset ends the connection with RST after some bytes of the request's body.
func Reset(after int64) Act {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, after)
		conn := hijack(w)
		if conn == nil {
			return
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// Slow lets a piece of the request's body through each so often.
func Slow(piece int, every time.Duration) Act {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		r.Body = &slowBody{ReadCloser: r.Body, every: every, size: piece}
		forward.ServeHTTP(w, r)
	}
}

// slowBody waits before each piece: the fault itself, not a wait for something.
type slowBody struct {
	io.ReadCloser
	every      time.Duration
	size, left int
}

func (s *slowBody) Read(p []byte) (int, error) {
	if s.left == 0 {
		<-time.After(s.every)
		s.left = s.size
	}
	n, err := s.ReadCloser.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// Lose does the request and ends the connection without an answer.
func Lose(_ http.ResponseWriter, r *http.Request, forward http.Handler) {
	forward.ServeHTTP(nowhere{http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header       { return n.header }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// Truncate ends the connection after some bytes of the answer's body.
func Truncate(after int) Act {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		forward.ServeHTTP(&cutWriter{w, after}, r)
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

// Flip changes one byte of the answer's body.
func Flip(at int) Act {
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
