package archive

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
)

// Every fault that passes is met at every operation of a whole life of an archive, and leaves it as it would be without.
func TestArchive_UnderPassingFaults_IsKeptWhole(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	operations := []string{
		"CreateMultipartUpload", "PUT upload.json", "UploadPart", "ListParts", "CompleteMultipartUpload", "HEAD export.tgz", "PUT manifest.json",
		"DELETE upload.json", "GET manifest.json", "GET export.tgz", "PUT verified.json", "ListObjects", "GET verified.json", "GET upload.json",
	}
	for name, row := range map[string]struct {
		act        func(http.ResponseWriter, *http.Request, http.Handler)
		recipients []string
	}{
		"internal error":           {act: archivetest.InternalError},
		"slow down":                {act: archivetest.SlowDown},
		"bad gateway without body": {act: archivetest.Answer(502, "", "")},
		"reset at once":            {act: archivetest.Reset(0)},
		"reset in mid-body":        {act: archivetest.Reset(3 * mib)},
		"answer lost":              {act: archivetest.Lose},
		"answer cut off":           {act: archivetest.Truncate(100)},
		"encrypted, slow down":     {act: archivetest.Answer(503, "SlowDown", ""), recipients: []string{identity.Recipient().String()}},
		"encrypted, reset":         {act: archivetest.Reset(3 * mib), recipients: []string{identity.Recipient().String()}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t, false)
			s := b.open(t)
			for _, operation := range operations {
				b.Proxy.Fail(operation, 2, row.act)
			}
			ref := Ref{"prod", "backup-1"}
			source := newMemory(1, 11*mib)
			keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib, Parallel: 2, Recipients: row.recipients})
			ids := []age.Identity{identity}
			requireExport(t, s, ref, OpenOptions{Identities: ids}, source.data)
			verified, err := s.Verify(t.Context(), ref, ids, "", nil)
			require.NoError(t, err)
			require.Equal(t, source.sha256(), verified.SHA256)
			archives, incomplete, err := s.List(t.Context(), "")
			require.NoError(t, err)
			require.Len(t, archives, 1)
			require.NotNil(t, archives[0].Verified)
			require.Empty(t, incomplete)
			left, err := s.Leftovers(t.Context())
			require.NoError(t, err)
			require.Empty(t, left, "also no upload whose begin was not heard of")
			require.Empty(t, b.Proxy.Unmet(), "faults that nothing met")
		})
	}
}

func TestUpload_UnderAFaultThatStays_NamesItAndGoesOnLater(t *testing.T) {
	for name, row := range map[string]struct {
		operation string
		act       func(http.ResponseWriter, *http.Request, http.Handler)
		kind      Kind
		says      string
		tries     int
	}{
		"server fails":          {"UploadPart", archivetest.Answer(500, "InternalError", "boom"), KindServer, "after 4 attempts", 4},
		"overloaded":            {"UploadPart", archivetest.SlowDown, KindBusy, "overloaded", 4},
		"no connection":         {"UploadPart", archivetest.Reset(mib), KindUnreachable, "network", 4},
		"credentials expired":   {"UploadPart", archivetest.ExpiredToken, KindCredentials, "renew them", 1},
		"access denied":         {"UploadPart", archivetest.AccessDenied, KindAccessDenied, "bucket's policy", 1},
		"bucket full":           {"UploadPart", archivetest.BucketFull, KindFull, "free space", 1},
		"quota":                 {"UploadPart", archivetest.QuotaExceeded, KindFull, "quota", 1},
		"full at the end":       {"CompleteMultipartUpload", archivetest.Answer(507, "", ""), KindFull, "free space", 1},
		"error inside of a 200": {"CompleteMultipartUpload", archivetest.Answer(200, "InternalError", "We encountered an internal error."), KindServer, "internal error", 4},
		"denied at the begin":   {"CreateMultipartUpload", archivetest.AccessDenied, KindAccessDenied, "begin the upload", 1},
		"stalls":                {"UploadPart", nil, KindUnreachable, "no byte moved", 4},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t, false)
			s := b.open(t, func(c *Config) { c.StallTimeout = 500 * time.Millisecond })
			if row.act == nil {
				row.act = b.Proxy.Hang
			}
			b.Proxy.Fail(row.operation, 1000, row.act)
			ref := Ref{"prod", "backup-1"}
			source := newMemory(2, 6*mib)
			up := Upload{Ref: ref, Source: source, PartSize: 5 * mib, Parallel: 1}
			_, err := s.Upload(t.Context(), up)
			require.True(t, IsKind(err, row.kind), "%v", err)
			require.Contains(t, err.Error(), row.says)
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, row.tries, b.Proxy.Count(row.operation))
			archives, _, err := s.List(t.Context(), "")
			require.NoError(t, err)
			require.Empty(t, archives)
			b.Proxy.Forget()
			keep(t, b.open(t), up)
			requireExport(t, s, ref, OpenOptions{}, source.data)
		})
	}
}

func TestUpload_ThroughASlowNetworkThatMoves_IsLeftAlone(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t, func(c *Config) { c.StallTimeout = 1500 * time.Millisecond; c.Attempts = 1 })
	b.Proxy.Fail("UploadPart", 1, archivetest.Slow(700<<10, 100*time.Millisecond))
	started := time.Now()
	ref := Ref{"prod", "slow"}
	source := newMemory(3, 16*mib)
	keep(t, s, Upload{Ref: ref, Source: source, PartSize: 16 * mib})
	require.Greater(t, time.Since(started), 1500*time.Millisecond, "slower than the time after which nothing moving counts as a stall")
	require.Zero(t, b.Proxy.SentAgain())
	requireExport(t, s, ref, OpenOptions{}, source.data)
}

func TestDownload_CutOffAgainAndAgain_GoesOnWhereItEnded(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	ref := Ref{"prod", "1"}
	source := newMemory(4, 16*mib)
	keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib})
	b.Proxy.Forget()
	b.Proxy.Fail("GET export.tgz", 5, archivetest.Truncate(3*mib+17))
	requireExport(t, s, ref, OpenOptions{}, source.data)
	require.Equal(t, 6, b.Proxy.Count("GET export.tgz"), "more often than attempts, because bytes came each time")
}

func TestDownload_WithoutAnAnswer_EndsAndSaysHowFarItIsProven(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	ref := Ref{"prod", "1"}
	source := newMemory(5, 16*mib)
	keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib})
	b.Proxy.Fail("GET export.tgz", 1, archivetest.Truncate(7*mib))
	b.Proxy.Fail("GET export.tgz", 1000, archivetest.Reset(0))
	r, err := s.Open(t.Context(), ref, OpenOptions{})
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.True(t, IsKind(err, KindUnreachable), "%v", err)
	require.Equal(t, int64(5*mib), r.Verified())
	require.GreaterOrEqual(t, len(got), 5*mib)
	require.NoError(t, r.Close())

	b.Proxy.Forget()
	rest, err := s.Open(t.Context(), ref, OpenOptions{Offset: r.Verified()})
	require.NoError(t, err)
	more, err := io.ReadAll(rest)
	require.NoError(t, err)
	require.NoError(t, rest.Close())
	require.True(t, string(got[:r.Verified()])+string(more) == string(source.data))
}

func TestVerify_OfBytesThatChanged_SaysWhichPartAndRemembersIt(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, row := range map[string]struct {
		recipients []string
		identities []age.Identity
	}{
		"plain":               {},
		"encrypted":           {recipients: []string{identity.Recipient().String()}, identities: []age.Identity{identity}},
		"encrypted, no key":   {recipients: []string{identity.Recipient().String()}},
		"encrypted to an ssh": {recipients: []string{sshPublic(t), identity.Recipient().String()}, identities: []age.Identity{identity}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t, false)
			s := b.open(t)
			ref := Ref{"prod", "1"}
			keep(t, s, Upload{Ref: ref, Source: newMemory(6, 11*mib), PartSize: 5 * mib, Recipients: row.recipients})
			b.Proxy.Fail("GET export.tgz", 1, archivetest.Flip(6*mib))
			result, err := s.Verify(t.Context(), ref, row.identities, "a person", nil)
			require.True(t, IsKind(err, KindCorrupt), "%v", err)
			require.Contains(t, err.Error(), "part 2 of 3")
			require.False(t, result.OK)
			entry, err := s.Entry(t.Context(), ref)
			require.NoError(t, err)
			require.True(t, entry.Complete)
			require.False(t, entry.Verified.OK)
			require.Contains(t, entry.Verified.Problem, "part 2 of 3")
			require.Equal(t, "a person", entry.Verified.Who)

			result, err = s.Verify(t.Context(), ref, row.identities, "", nil)
			require.NoError(t, err)
			require.True(t, result.OK)
			entry, err = s.Entry(t.Context(), ref)
			require.NoError(t, err)
			require.True(t, entry.Verified.OK)
		})
	}
}

func TestCheck_OfABucketThatCannotBeUsed_NamesWhatToCorrect(t *testing.T) {
	b := newBucket(t, false)
	certificate := httptest.NewUnstartedServer(http.NotFoundHandler())
	certificate.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains about the client that does not trust it
	certificate.StartTLS()
	defer certificate.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	for name, row := range map[string]struct {
		change    func(*Config)
		operation string
		act       func(http.ResponseWriter, *http.Request, http.Handler)
		kind      Kind
		says      string
	}{
		"fine":             {},
		"no such bucket":   {change: func(c *Config) { c.Bucket = "not-there" }, kind: KindNoBucket, says: "create the bucket"},
		"wrong access key": {change: func(c *Config) { c.AccessKey = "somebody-else" }, kind: KindCredentials, says: "check access key"},
		"wrong secret key": {change: func(c *Config) { c.SecretKey = "wrong-secret-key" }, kind: KindCredentials, says: "check access key"},
		"wrong region":     {change: func(c *Config) { c.Region = "eu-west-1" }, kind: KindWrongRegion, says: "region"},
		"wrong region, redirected": {act: func(w http.ResponseWriter, r *http.Request, f http.Handler) {
			w.Header().Set("X-Amz-Bucket-Region", "eu-central-1")
			archivetest.Answer(301, "PermanentRedirect", "The bucket you are attempting to access must be addressed using the specified endpoint.")(w, r, f)
		}, kind: KindWrongRegion, says: "set region to eu-central-1"},
		"nobody listens": {change: func(c *Config) { c.Endpoint = "http://" + gone.Addr().String() }, kind: KindUnreachable, says: "check the endpoint"},
		"no such host":   {change: func(c *Config) { c.Endpoint = "http://s3.invalid" }, kind: KindUnreachable, says: "endpoint"},
		"unknown CA":     {change: func(c *Config) { c.Endpoint = certificate.URL }, kind: KindCertificate, says: "CA"},
		"read only":      {operation: "PUT probe", act: archivetest.AccessDenied, kind: KindAccessDenied, says: "write some/where/katoflow-probe"},
		"no deletion":    {operation: "DELETE probe", act: archivetest.AccessDenied, kind: KindAccessDenied, says: "delete some/where/katoflow-probe"},
		"no reading":     {operation: "GET probe", act: archivetest.AccessDenied, kind: KindAccessDenied, says: "read some/where/katoflow-probe"},
		"no listing":     {operation: "ListObjects", act: archivetest.AccessDenied, kind: KindAccessDenied, says: "list some/where/katoflow-probe"},
		"full":           {operation: "PUT probe", act: archivetest.BucketFull, kind: KindFull, says: "free space"},
		"clock":          {act: archivetest.Answer(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."), kind: KindCredentials, says: "clock"},
		"no uploads":     {operation: "ListMultipartUploads", act: archivetest.Answer(403, "AccessDenied", ""), kind: KindAccessDenied, says: "list uploads"},
		"html": {act: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(404)
			_, _ = io.WriteString(w, "<html>\x1b[31m no such page")
		}, kind: KindNotFound, says: "404"},
	} {
		t.Run(name, func(t *testing.T) {
			b.Proxy.Forget()
			if row.act != nil {
				b.Proxy.Fail("", 1000, func(w http.ResponseWriter, r *http.Request, f http.Handler) {
					operation := archivetest.OperationOf(r)
					if i := strings.Index(operation, "katoflow-probe"); i >= 0 {
						operation = operation[:i] + "probe"
					}
					if row.operation == "" || operation == row.operation {
						row.act(w, r, f)
						return
					}
					f.ServeHTTP(w, r)
				})
			}
			s := b.open(t, func(c *Config) {
				c.Attempts = 2
				if row.change != nil {
					row.change(c)
				}
			})
			err := s.Check(t.Context())
			if row.kind == "" {
				require.NoError(t, err)
			} else {
				require.True(t, IsKind(err, row.kind), "%s: %v", KindOf(err), err)
				require.Contains(t, err.Error(), row.says)
				require.NotContains(t, err.Error(), "\n")
				require.NotContains(t, err.Error(), "\x1b")
				require.NotContains(t, err.Error(), b.Server.SecretKey)
				require.NotContains(t, err.Error(), b.Server.AccessKey)
			}
		})
	}
	b.Proxy.Forget()
	left := 0
	s := b.open(t)
	require.NoError(t, s.keys(t.Context(), s.folder(""), func(string, int64, time.Time) { left++ }))
	require.Equal(t, 1, left, "only the probe that could not be deleted")
}

func TestOpen_WithAnOwnCA_TrustsOnlyIt(t *testing.T) {
	b := newBucket(t, false)
	front := httptest.NewTLSServer(b.Proxy)
	defer front.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	s := b.open(t, func(c *Config) { c.Endpoint, c.CA = front.URL, ca })
	require.NoError(t, s.Check(t.Context()))
	source := newMemory(7, 6*mib)
	keep(t, s, Upload{Ref: Ref{"prod", "tls"}, Source: source, PartSize: 5 * mib})
	requireExport(t, s, Ref{"prod", "tls"}, OpenOptions{}, source.data)
	s.Close()
}

func TestOpen_OfABadConfiguration_NamesTheField(t *testing.T) {
	good := Config{Bucket: "b", AccessKey: "access", SecretKey: "secret-value", Endpoint: "http://127.0.0.1:1"}
	for says, change := range map[string]func(*Config){
		"no bucket":      func(c *Config) { c.Bucket = "" },
		"not the name":   func(c *Config) { c.Bucket = "a/b" },
		"prefix":         func(c *Config) { c.Prefix = "a\nb" },
		"secret key":     func(c *Config) { c.SecretKey = "" },
		"endpoint":       func(c *Config) { c.Endpoint = "s3.example.com" },
		"CA file":        func(c *Config) { c.CA = []byte("x") },
		"AES256":         func(c *Config) { c.Encryption = "rot13" },
		"KMS key needs":  func(c *Config) { c.KMSKey = "k" },
		"GOVERNANCE":     func(c *Config) { c.LockMode, c.LockFor = "x", time.Hour },
		"and how long":   func(c *Config) { c.LockMode = "COMPLIANCE" },
		"bytes long; at": func(c *Config) { c.Prefix = strings.Repeat("x", 401) },
	} {
		c := good
		change(&c)
		_, err := Open(c, nil)
		require.True(t, IsKind(err, KindBadInput), "%s: %v", says, err)
		require.Contains(t, err.Error(), says)
		require.NotContains(t, err.Error(), "secret-value")
	}
	s, err := Open(good, nil)
	require.NoError(t, err)
	s.Close()
}

func TestStore_InItsLogAndErrors_HasNoSecret(t *testing.T) {
	b := newBucket(t, false)
	core, logs := observer.New(zapcore.DebugLevel)
	cfg := b.config()
	s, err := Open(cfg, zap.New(core))
	require.NoError(t, err)
	defer s.Close()
	b.Proxy.Fail("UploadPart", 1000, archivetest.Answer(500, "InternalError", "see https://host/b/k?X-Amz-Signature=deadbeef&amp;x "+b.Server.SecretKey+" "+b.Server.AccessKey))
	_, err = s.Upload(t.Context(), Upload{Ref: Ref{"prod", "1"}, Source: newMemory(1, mib)})
	require.Error(t, err)
	texts := []string{err.Error()}
	for cause := err; cause != nil; {
		texts = append(texts, cause.Error())
		unwrapper, ok := cause.(interface{ Unwrap() error })
		if !ok {
			break
		}
		cause = unwrapper.Unwrap()
	}
	require.NotZero(t, logs.Len())
	for _, entry := range logs.All() {
		texts = append(texts, entry.Message)
		for _, value := range entry.ContextMap() {
			if text, ok := value.(string); ok {
				texts = append(texts, text)
			}
		}
	}
	for _, text := range texts {
		for _, secret := range []string{b.Server.SecretKey, b.Server.AccessKey, "deadbeef"} {
			require.NotContains(t, text, secret)
		}
	}
}

func TestStore_WhoseCallerGivesUp_SaysOnlyThat(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	b.Proxy.Fail("UploadPart", 1000, archivetest.Answer(503, "SlowDown", ""))
	ctx, cancel := context.WithCancelCause(t.Context())
	b.Proxy.After(func(operation string, _ int) {
		if operation == "UploadPart" {
			cancel(errKilled)
		}
	})
	_, err := s.Upload(ctx, Upload{Ref: Ref{"prod", "1"}, Source: newMemory(1, mib)})
	require.ErrorIs(t, err, errKilled)
	require.Empty(t, KindOf(err))
}
