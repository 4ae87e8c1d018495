package webclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClean_TextOfAServer_HoldsNoSecretAndIsOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"GET https://s3.example.org/b/k?X-Amz-Signature=abc failed": "GET https://s3.example.org/b/k?... failed",
		"sent Authorization: Bearer eyJhbGciOi.x-y_z":               "sent Authorization: Bearer ***",
		"password p&ss word is wrong (p%26ss+word)":                 "password *** is wrong (***)",
		"ab is short":         "ab is short",
		" two\nlines\x1b[2J ": `two\nlines\x1b[2J`,
	} {
		require.Equal(t, want, Clean(text, "p&ss word", "ab"))
	}
	long := Clean(strings.Repeat("ä", 400))
	require.LessOrEqual(t, len(long), maxText+len("…"))
	require.True(t, strings.HasSuffix(long, "ä…"))
}

func TestHide_ACause_IsFoundAndNeverUnwrapped(t *testing.T) {
	err := fmt.Errorf("it failed: %w", Hide(fmt.Errorf("with secret: %w", io.ErrUnexpectedEOF), "without"))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "it failed: without", err.Error())
	for e := err; e != nil; e = errors.Unwrap(e) {
		require.NotContains(t, e.Error(), "secret")
	}
}

func TestTroubleOf_EachCause_IsToldApartWithoutItsURL(t *testing.T) {
	for want, err := range map[Trouble]error{
		NoRoute: io.ErrUnexpectedEOF, NoSuchName: &net.DNSError{Err: "no such host", IsNotFound: true}, UnknownAuthority: x509.UnknownAuthorityError{}, BadCertificate: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"},
	} {
		got, cause := TroubleOf(fmt.Errorf("attempt: %w", &url.Error{Op: "Get", URL: "https://x?secret", Err: err}))
		require.Equal(t, want, got)
		require.Equal(t, err, cause)
	}
}

func TestPause_EndedContext_SaysWhy(t *testing.T) {
	why := errors.New("somebody said so")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	require.ErrorIs(t, Pause(ctx, 20, time.Hour), why)
	require.NoError(t, Pause(context.Background(), 1, time.Millisecond))
}

func TestTLS_Certificates_AreTrustedOrRefused(t *testing.T) {
	config, ok := TLS(nil)
	require.True(t, ok)
	require.Nil(t, config.RootCAs)
	_, ok = TLS([]byte("no certificate"))
	require.False(t, ok)
}
