package temporalkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// dialTimeout is how long LoadClient waits for the server's first answer.
const dialTimeout = 5 * time.Second

// ErrNoServer is what errors.Is finds in the error of LoadClient when nothing that speaks Temporal answered at the address.
var ErrNoServer = errors.New("no Temporal server")

// NoServerError names the address where no server answered. errors.Is(err, ErrNoServer) holds.
type NoServerError struct {
	Address string
	Err     error
}

// Error is one line that says how to set the address.
func (e *NoServerError) Error() string {
	return fmt.Sprintf("no Temporal server answers at %s (%s): start it, or set --address, TEMPORAL_ADDRESS or a profile in temporal.toml",
		e.Address, reason(e.Err))
}

// Is makes errors.Is(err, ErrNoServer) hold.
func (e *NoServerError) Is(target error) bool { return target == ErrNoServer }

// Unwrap returns what gRPC said.
func (e *NoServerError) Unwrap() error { return e.Err }

// Environment is what LoadClient reads TEMPORAL_* variables from; main packages pass envconfig.EnvLookupOS.
type Environment = envconfig.EnvLookup

// ClientOptions say which server, namespace and profile. Explicit fields win over the environment, which wins over the file.
type ClientOptions struct {
	// Profile in temporal.toml ("" = TEMPORAL_PROFILE, else "default"). A named profile must exist.
	Profile string
	// Address HOST:PORT ("" = as configured, else 127.0.0.1:7233).
	Address string
	// Namespace ("" = as configured, else "default").
	Namespace string
	// ConfigFile replaces TEMPORAL_CONFIG_FILE and the user's temporalio/temporal.toml.
	ConfigFile string
	// Env holds the TEMPORAL_* variables; nil = none are set.
	Env Environment
	// Logger of the SDK; nil = silent.
	Logger *zap.Logger
	// Identity as the Web UI shows it; "" = the SDK's PID@HOST@.
	Identity string
	// Scrubber keeps known secrets out of everything that is sent; nil = none.
	Scrubber *Scrubber
	// Contact, when not nil, learns of every call to the server.
	Contact *Contact
}

// Target is what LoadClient connects to.
type Target struct {
	Address   string
	Namespace string
}

// options reads the configuration; nothing is dialled.
func (o ClientOptions) options() (client.Options, error) {
	env := o.Env
	if env == nil {
		env = noEnvironment{}
	}
	opts, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{
		ConfigFilePath: o.ConfigFile, ConfigFileProfile: o.Profile, EnvLookup: env,
	})
	if err != nil {
		return client.Options{}, fmt.Errorf("temporal configuration: %s; look at temporal.toml, TEMPORAL_* and --profile", oneLine(err.Error()))
	}
	if o.Address != "" {
		opts.HostPort = o.Address
	}
	if opts.HostPort == "" {
		opts.HostPort = client.DefaultHostPort
	}
	if o.Namespace != "" {
		opts.Namespace = o.Namespace
	}
	if opts.Namespace == "" {
		opts.Namespace = client.DefaultNamespace
	}
	if !strings.Contains(opts.HostPort, "://") {
		if _, port, err := net.SplitHostPort(opts.HostPort); err != nil || port == "" {
			return client.Options{}, fmt.Errorf("temporal address %q: write HOST:PORT, such as 127.0.0.1:7233", opts.HostPort)
		}
	}
	opts.Identity = o.Identity
	opts.Logger = NewZap(o.Logger)
	opts.DataConverter, opts.FailureConverter = Converters(o.Scrubber)
	return opts, nil
}

// Target says where LoadClient would connect to, without connecting.
func (o ClientOptions) Target() (Target, error) {
	opts, err := o.options()
	if err != nil {
		return Target{}, err
	}
	return Target{Address: opts.HostPort, Namespace: opts.Namespace}, nil
}

// LoadClient connects to Temporal as temporal.toml, TEMPORAL_* and o say, and waits at most 5 s for the server's first answer; a refused
// connection is told at once. Errors are one line; errors.Is(err, ErrNoServer) tells the server that does not answer
// from a configuration that cannot be read or a server that refuses us. The caller closes the client.
func LoadClient(ctx context.Context, o ClientOptions) (client.Client, error) {
	opts, err := o.options()
	if err != nil {
		return nil, err
	}
	watch := &callWatch{contact: o.Contact}
	opts.ConnectionOptions.GetSystemInfoTimeout = dialTimeout
	opts.ConnectionOptions.DialOptions = append(opts.ConnectionOptions.DialOptions, grpc.WithChainUnaryInterceptor(watch.intercept))
	c, err := client.DialContext(ctx, opts)
	last := watch.dialled()
	if err == nil {
		return c, nil
	}
	if last == nil {
		last = err
	}
	var denied *serviceerror.PermissionDenied
	switch code := status.Code(last); {
	case code == codes.Unauthenticated, code == codes.PermissionDenied, errors.As(err, &denied):
		return nil, fmt.Errorf("the Temporal server at %s refuses us (%s): check the API key or the client certificate", opts.HostPort, reason(last))
	}
	return nil, &NoServerError{Address: opts.HostPort, Err: last}
}

// callWatch sees every single call as gRPC answers it, below the SDK's retries and its own errors: it tells the contact, and keeps the error of the
// dialling, which says more than the SDK's.
type callWatch struct {
	contact *Contact

	mu    sync.Mutex
	ended bool
	last  error
}

func (w *callWatch) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	w.contact.note(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended && err != nil {
		w.last = err
	}
	return err
}

// dialled ends the dialling and returns its error.
func (w *callWatch) dialled() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	return w.last
}

// Contact remembers when the server was last heard of. The zero value has heard nothing. It is safe for concurrent use.
type Contact struct {
	mu   sync.Mutex
	last time.Time
	err  error
}

// Last returns when the server last answered (zero: never), and why it has not since, nil when nothing failed since then.
func (c *Contact) Last() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.err
}

// note takes in the result of a call. An error that the server itself has given is an answer.
func (c *Contact) note(err error) {
	if c == nil {
		return
	}
	code := status.Code(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch code {
	case codes.Unavailable:
		c.err = err
	case codes.Canceled, codes.DeadlineExceeded:
		// Ours: a long poll that ended, a shutdown. It says nothing about the server.
	default:
		c.last, c.err = time.Now(), nil
	}
}

type noEnvironment struct{}

func (noEnvironment) Environ() []string               { return nil }
func (noEnvironment) LookupEnv(string) (string, bool) { return "", false }

// reason is what a person needs of a gRPC error.
func reason(err error) string {
	if err == nil {
		return "no answer"
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	for _, known := range []string{"connection refused", "no such host", "no route to host", "network is unreachable", "i/o timeout"} {
		if strings.Contains(text, known) {
			return known
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		return fmt.Sprintf("no answer within %s", dialTimeout)
	}
	if i := strings.LastIndex(text, "transport: "); i >= 0 {
		text = strings.TrimRight(text[i+len("transport: "):], `"`)
	}
	return oneLine(text)
}
