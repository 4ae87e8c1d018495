package archive

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/webclient"
)

const (
	defaultAttempts     = 8
	defaultMaxBackoff   = 10 * time.Second
	defaultStallTimeout = time.Minute
	// completeTimeout is how long S3 may take to put an object together from its parts.
	completeTimeout = 15 * time.Minute
)

// Config is a bucket and how archives are kept in it. Credentials are values; whoever reads them from files, the environment or
// an instance's metadata service does that outside of this package.
type Config struct {
	// Endpoint is the URL of an S3 service other than Amazon's.
	Endpoint string
	// Region the requests are signed for (default "us-east-1").
	Region string
	// Bucket must exist.
	Bucket string
	// Prefix is put before every key, as a folder; slashes around it do not count.
	Prefix string
	// AccessKey, SecretKey and, for temporary ones, SessionToken are used when Credentials is nil.
	AccessKey, SecretKey, SessionToken string
	// Credentials are asked for at every signature, and kept until they expire.
	Credentials aws.CredentialsProvider
	// PathStyle writes the bucket into the path instead of the host name.
	PathStyle bool
	// CA are the certificates, PEM, that the endpoint is verified against instead of the system's.
	CA []byte
	// Proxy is asked for every request (http.Transport's Proxy); nil for none.
	Proxy func(*http.Request) (*url.URL, error)
	// Encryption by the server: "", "AES256" or "aws:kms".
	Encryption string
	// KMSKey is the key's id for "aws:kms"; left out for the bucket's own.
	KMSKey string
	// StorageClass of the archive itself, such as "STANDARD_IA"; manifests stay in the bucket's default class.
	StorageClass string
	// LockMode is "", "GOVERNANCE" or "COMPLIANCE"; the bucket must have object lock switched on.
	LockMode string
	// LockFor is how long archive and manifest cannot be deleted, from the begin of their upload; with LockMode only.
	LockFor time.Duration
	// Attempts at a request that meets a passing fault (default 8).
	Attempts int
	// MaxBackoff is the longest wait between two attempts (default 10s).
	MaxBackoff time.Duration
	// StallTimeout ends an attempt in which no byte moved for so long (default 1m); a slow transfer that moves is left alone.
	StallTimeout time.Duration
}

// Store keeps the archives of one bucket and prefix. It can be used by several goroutines, and by several processes at once.
type Store struct {
	cfg     Config
	client  *s3.Client
	presign *s3.PresignClient
	log     *zap.Logger
	close   func()
	now     func() time.Time
	// page is how many entries S3 is asked for at once, nil for its own limit of 1,000. Tests ask for few.
	page *int32
}

// Open returns the store of a configuration, or an error of KindBadInput that names the field. It asks nothing of the network:
// Check does. A nil logger logs nothing. Close ends idle connections.
func Open(cfg Config, log *zap.Logger) (*Store, error) {
	if log == nil {
		log = zap.NewNop()
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = defaultAttempts
	}
	if cfg.MaxBackoff <= 0 {
		cfg.MaxBackoff = defaultMaxBackoff
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = defaultStallTimeout
	}
	cfg.Prefix = strings.Trim(cfg.Prefix, "/")
	if err := cfg.check(); err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	provider := cfg.Credentials
	if provider == nil {
		static := aws.Credentials{AccessKeyID: cfg.AccessKey, SecretAccessKey: cfg.SecretKey, SessionToken: cfg.SessionToken, Source: "katoflow"}
		provider = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return static, nil })
	}
	options := s3.Options{
		Region:       cfg.Region,
		Credentials:  aws.NewCredentialsCache(provider),
		UsePathStyle: cfg.PathStyle,
		HTTPClient:   &http.Client{Transport: transport, CheckRedirect: noRedirect},
		// Attempts are counted here, not by the SDK: a part is read again from its source for each one.
		Retryer: aws.NopRetryer{},
		// Every checksum is SHA-256 and set where the data is; the SDK's own CRC32 would need a second reading of each part.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}
	if cfg.Endpoint != "" {
		options.BaseEndpoint = aws.String(cfg.Endpoint)
	}
	client := s3.New(options)
	return &Store{
		cfg: cfg, client: client, presign: s3.NewPresignClient(client), log: log, close: transport.CloseIdleConnections, now: time.Now,
	}, nil
}

// noRedirect hands a redirection to the SDK, which reports the bucket's right region by it.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close ends idle connections.
func (s *Store) Close() { s.close() }

func (c Config) check() error {
	switch {
	case c.Bucket == "":
		return badInput("no bucket is named")
	case !plain(c.Bucket) || strings.ContainsAny(c.Bucket, "/ "):
		return badInput("%q is not the name of a bucket", c.Bucket)
	case !plain(c.Prefix):
		return badInput("the prefix %q has characters that cannot be part of a key", c.Prefix)
	case len(c.Prefix) > 400:
		return badInput("the prefix is %d bytes long; at most 400 are possible", len(c.Prefix))
	case c.Credentials == nil && (c.AccessKey == "" || c.SecretKey == ""):
		return badInput("access key and secret key of the bucket are needed")
	case c.Encryption != "" && c.Encryption != string(types.ServerSideEncryptionAes256) && c.Encryption != string(types.ServerSideEncryptionAwsKms):
		return badInput("server-side encryption %q is not one of AES256, aws:kms", c.Encryption)
	case c.KMSKey != "" && c.Encryption != string(types.ServerSideEncryptionAwsKms):
		return badInput("a KMS key needs server-side encryption aws:kms")
	case c.LockMode != "" && c.LockMode != string(types.ObjectLockModeGovernance) && c.LockMode != string(types.ObjectLockModeCompliance):
		return badInput("object lock mode %q is not one of GOVERNANCE, COMPLIANCE", c.LockMode)
	case (c.LockMode != "") != (c.LockFor > 0):
		return badInput("object lock needs a mode and how long")
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return badInput("the endpoint is not a URL like https://s3.example.com")
		}
	}
	return nil
}

func (c Config) transport() (*http.Transport, error) {
	tlsConfig, ok := webclient.TLS(c.CA)
	if !ok {
		return nil, badInput("the CA file holds no certificate in PEM form")
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			// What the kernel holds for a slow link would look like a stall after the last byte was handed to it.
			_ = tcp.SetWriteBuffer(1 << 20)
		}
		return conn, err
	}
	return &http.Transport{
		Proxy:                 c.Proxy,
		DialContext:           dial,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   16,
		// Parts are streams of many MiB; larger buffers than the 4 KiB of net/http save system calls.
		WriteBufferSize:    64 << 10,
		ReadBufferSize:     64 << 10,
		DisableCompression: true,
	}, nil
}

// plain says whether s holds no control characters and is UTF-8.
func plain(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}
