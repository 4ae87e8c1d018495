// Package webclient is what the clients of a site's HTTP services share: texts of servers made safe to show, causes that leak nothing, how a request that got no
// answer is told, waits between attempts, and the trust in a certificate authority of the site's own.
package webclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/remote"
)

// maxText is how much of a server's own words is shown, in bytes.
const maxText = 400

var (
	urlQuery = regexp.MustCompile(`(https?://[^\s"'?]*)\?[^\s"']*`)
	bearer   = regexp.MustCompile(`(?i)(bearer|basic)\s+[A-Za-z0-9._~+/=-]+`)
)

// Clean makes text that came from a server or the network safe to show: one line of at most 400 bytes, without control characters, without the query of any URL (that of a
// presigned one is a secret), without tokens, and without the secrets given, also as they stand in a URL. Secrets of less than four bytes are no secrets.
func Clean(text string, secrets ...string) string {
	text = urlQuery.ReplaceAllString(text, "$1?...")
	text = bearer.ReplaceAllString(text, "$1 ***")
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret)} {
			if len(form) >= 4 {
				text = strings.ReplaceAll(text, form, "***")
			}
		}
	}
	text = remote.Escape(strings.TrimSpace(text))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// Hide makes a cause whose text is another: errors.Is finds what err is, but nobody can unwrap it, because whoever records a chain of errors prints each of them.
func Hide(err error, text string) error { return hidden{err, text} }

type hidden struct {
	err  error
	text string
}

func (h hidden) Error() string        { return h.text }
func (h hidden) Is(target error) bool { return errors.Is(h.err, target) }

// Trouble is why a request got no answer.
type Trouble int

// Troubles.
const (
	// NoRoute: name, route, port, or a connection that broke.
	NoRoute Trouble = iota
	// NoSuchName: the name service knows no such host.
	NoSuchName
	// UnknownAuthority: the certificate is signed by nobody who is trusted.
	UnknownAuthority
	// BadCertificate: the certificate is of another name, or not valid.
	BadCertificate
)

// TroubleOf says why a request got no answer, and returns the cause without the URL that net/http puts before it.
func TroubleOf(err error) (Trouble, error) {
	var (
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		dns       *net.DNSError
		operation *url.Error
	)
	cause := err
	if errors.As(err, &operation) {
		cause = operation.Err
	}
	switch {
	case errors.As(err, &unknownCA):
		return UnknownAuthority, cause
	case errors.As(err, &verify), errors.As(err, &hostname), errors.As(err, &invalid):
		return BadCertificate, cause
	case errors.As(err, &dns) && dns.IsNotFound:
		return NoSuchName, cause
	}
	return NoRoute, cause
}

// firstBackoff is the longest wait before the second attempt.
const firstBackoff = 200 * time.Millisecond

// Pause waits before the attempt after the given one, which counts from 1: twice as long each time up to most, at least half of it by chance. The error is why ctx
// ended before.
func Pause(ctx context.Context, attempt int, most time.Duration) error {
	wait := min(firstBackoff<<min(attempt-1, 16), most)
	timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// TLS trusts the authorities of the certificates ca, PEM, instead of the system's; none for the system's. false: there is no certificate in ca.
func TLS(ca []byte) (*tls.Config, bool) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) == 0 {
		return config, true
	}
	config.RootCAs = x509.NewCertPool()
	return config, config.RootCAs.AppendCertsFromPEM(ca)
}
