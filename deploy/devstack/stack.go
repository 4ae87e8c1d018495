package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/temporal"
	"go.uber.org/zap/zapcore"
)

// addresses is the content of the ports file.
type addresses struct {
	PID        int               `json:"pid"`
	Frontend   string            `json:"frontend"` // host:port of Temporal's gRPC API
	HTTP       string            `json:"http,omitempty"`
	Metrics    string            `json:"metrics,omitempty"`
	UI         string            `json:"ui,omitempty"`
	Namespaces []string          `json:"namespaces"`
	S3         *s3Address        `json:"s3,omitempty"`
	Versions   map[string]string `json:"versions"`
}

type s3Address struct {
	Endpoint string `json:"endpoint"`
	Region   string `json:"region"`
	s3Keys
	Buckets []string `json:"buckets"`
}

// run starts everything, waits until ctx is done or a part fails, and stops everything. A stop in order ends within
// options.stopDeadline; what has not ended by then is left to the end of the process, which the database survives.
func run(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	if o.dataDir != "" {
		if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
			return usagef("the data folder cannot be created: %w", err)
		}
	}
	if o.portsFile != "" {
		if err := os.Remove(o.portsFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return usagef("the old ports file cannot be removed: %w", err)
		}
	}
	if o.databaseFile != "" {
		release, err := lockFile(o.databaseFile + ".lock")
		if err != nil {
			return err
		}
		defer release()
	}
	ports, err := planPorts(o)
	if err != nil {
		return err
	}
	if o.databaseFile != "" {
		if err := prepareDatabaseFile(ctx, o.databaseFile); err != nil {
			return err
		}
	}
	database := databaseConfig(o.databaseFile, o.sqlitePragmas)
	if err := registerNamespaces(ctx, database, o.namespaces, o.searchAttributes, o.retention); err != nil {
		return err
	}

	logger, level := newLogger(stderr, o.logLevel, o.logFormat)
	s := &stack{options: o, ports: ports}
	// What stops makes noise that tells nothing.
	defer func() {
		level.SetLevel(zapcore.FatalLevel)
		s.stop(stderr)
	}()
	if s.temporal, err = newTemporalServer(o, ports, database, log.NewZapLogger(logger)); err != nil {
		return err
	}
	// Waiting for Start in its own goroutine lets a signal interrupt a slow start.
	started := make(chan error, 1)
	go func() { started <- s.temporal.Start() }()
	select {
	case err := <-started:
		if err != nil {
			return fmt.Errorf("temporal server: %w", err)
		}
		s.temporalStarted.Store(true)
	case <-ctx.Done():
		return nil
	}
	if !o.headless {
		s.ui = newWebUI(o, ports)
		go func() { _ = s.ui.Start() }()
	}
	found := addresses{
		PID:        os.Getpid(),
		Frontend:   hostPort(o.ip, ports.frontend),
		Namespaces: o.namespaces,
		Versions:   map[string]string{},
	}
	for _, part := range partVersions() {
		found.Versions[part.name] = part.version
	}
	if ports.http != 0 {
		found.HTTP = "http://" + hostPort(o.ip, ports.http)
	}
	if ports.metrics != 0 {
		found.Metrics = "http://" + hostPort(o.ip, ports.metrics) + "/metrics"
	}
	if !o.headless {
		found.UI = "http://" + hostPort(o.uiIP, ports.ui)
	}
	if !o.noS3 {
		if found.S3, err = s.startS3(); err != nil {
			return err
		}
	}

	if err := s.waitReady(ctx, found); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if o.portsFile != "" {
		if err := writeJSON(o.portsFile, found); err != nil {
			return fmt.Errorf("write the ports file: %w", err)
		}
		defer func() { _ = os.Remove(o.portsFile) }()
	}
	if err := announce(stdout, o, found); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.objectsDone():
		s.objects = nil
		return fmt.Errorf("s3 server ended: %w", err)
	}
}

// planPorts chooses every port that will be listened on.
func planPorts(o options) (chosenPorts, error) {
	var p chosenPorts
	// With a free Temporal port the others are free ones, too; the usual distances help people, not programs.
	near := func(explicit bool, distance int) int {
		if explicit || o.port == 0 {
			return 0
		}
		return o.port + distance
	}
	wanted := []listenAddress{
		{flag: "--port", ip: o.ip, port: o.port, used: &p.frontend},
		{ip: o.ip, used: &p.history},
		{ip: o.ip, used: &p.matching},
		{ip: o.ip, used: &p.worker},
	}
	if o.httpPortSet {
		wanted = append(wanted, listenAddress{flag: "--http-port", ip: o.ip, port: o.httpPort, used: &p.http})
	}
	if o.metricsSet {
		wanted = append(wanted, listenAddress{flag: "--metrics-port", ip: o.ip, port: o.metricsPort, used: &p.metrics})
	}
	if !o.headless {
		wanted = append(wanted, listenAddress{flag: "--ui-port", ip: o.uiIP, port: o.uiPort, preferred: near(o.uiPortSet, 1000), used: &p.ui})
	}
	if !o.noS3 {
		wanted = append(wanted, listenAddress{flag: "--s3-port", ip: o.ip, port: o.s3Port, preferred: near(o.s3PortSet, 2000), used: &p.s3})
	}
	return p, choosePorts(wanted)
}

// stack is what runs.
type stack struct {
	options         options
	ports           chosenPorts
	temporal        temporal.Server
	temporalStarted atomic.Bool
	ui              *uiserver.Server
	objects         *objectServer
	temporaryDir    string // S3 objects without a data folder; removed at the end
}

func (s *stack) startS3() (*s3Address, error) {
	keys, err := chooseS3Keys(s.options)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(s.options.dataDir, "s3")
	if s.options.dataDir == "" {
		if root, err = os.MkdirTemp("", "devstack-s3-"); err != nil {
			return nil, fmt.Errorf("s3 server: %w", err)
		}
		s.temporaryDir = root
	}
	address := hostPort(s.options.ip, s.ports.s3)
	if s.objects, err = startObjectServer(root, address, keys); err != nil {
		return nil, err
	}
	buckets := s.options.s3Buckets
	if buckets == nil {
		buckets = []string{}
	}
	return &s3Address{Endpoint: "http://" + address, Region: s3Region, s3Keys: keys, Buckets: buckets}, nil
}

// objectsDone is a channel that never delivers when there is no S3 server.
func (s *stack) objectsDone() <-chan error {
	if s.objects == nil {
		return nil
	}
	return s.objects.done
}

// stop ends all parts at the same time.
func (s *stack) stop(stderr io.Writer) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s.ui != nil {
			s.ui.Stop()
		}
		if s.objects != nil {
			s.objects.cancel()
		}
		if s.temporalStarted.Load() {
			if err := s.temporal.Stop(); err != nil {
				_, _ = fmt.Fprintf(stderr, "devstack: stop the temporal server: %v\n", err)
			}
		}
		if s.objects != nil {
			<-s.objects.done
		}
	}()
	select {
	case <-done:
	case <-time.After(s.options.stopDeadline):
		_, _ = fmt.Fprintf(stderr, "devstack: not everything stopped within %s; ending anyway\n", s.options.stopDeadline)
	}
	if s.temporaryDir != "" {
		// The S3 server made this folder's child the working directory.
		_ = os.Chdir(os.TempDir())
		if err := os.RemoveAll(s.temporaryDir); err != nil {
			_, _ = fmt.Fprintf(stderr, "devstack: remove the temporary objects: %v\n", err)
		}
	}
}

// waitReady waits until every part answers a real request and the buckets exist.
func (s *stack) waitReady(ctx context.Context, found addresses) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.readyTimeout)
	defer cancel()
	checks := []func(context.Context) error{
		func(ctx context.Context) error { return s.checkTemporal(ctx, found.Frontend) },
	}
	if found.UI != "" {
		checks = append(checks,
			func(ctx context.Context) error { return checkPage(ctx, found.UI+"/") },
			func(ctx context.Context) error {
				return checkPage(ctx, found.UI+"/api/v1/namespaces/"+s.options.namespaces[0])
			})
	}
	if found.S3 != nil {
		checks = append(checks, func(ctx context.Context) error {
			return createBuckets(ctx, found.S3.Endpoint, found.S3.s3Keys, found.S3.Buckets)
		})
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, check := range checks {
		for {
			err := check(ctx)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("not ready after %s: %w", s.options.readyTimeout, err)
			case err := <-s.objectsDone():
				s.objects = nil
				return fmt.Errorf("s3 server ended: %w", err)
			case <-tick.C:
			}
		}
	}
	return nil
}

// checkTemporal asks for every namespace and its search attributes.
func (s *stack) checkTemporal(ctx context.Context, address string) error {
	for _, namespace := range s.options.namespaces {
		c, err := client.DialContext(ctx, client.Options{HostPort: address, Namespace: namespace, Logger: silent{}})
		if err != nil {
			return fmt.Errorf("temporal server: %w", err)
		}
		registered, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
		c.Close()
		if err != nil {
			return fmt.Errorf("temporal server: namespace %s: %w", namespace, err)
		}
		for name := range s.options.searchAttributes {
			if _, ok := registered.CustomAttributes[name]; !ok {
				return fmt.Errorf("temporal server: namespace %s: search attribute %s is not registered", namespace, name)
			}
		}
	}
	return nil
}

func checkPage(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("web ui: %w", err)
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return fmt.Errorf("web ui: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("web ui: %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("web ui: %s answers %s", url, response.Status)
	}
	return nil
}

// silent is the logger of the readiness probe's Temporal client, whose failures are expected.
type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

// announce tells a person where everything is. The S3 keys are printed only where they are kept nowhere else.
func announce(w io.Writer, o options, found addresses) error {
	text := fmt.Sprintf("temporal  %s\n", found.Frontend)
	if found.UI != "" {
		text += fmt.Sprintf("web ui    %s\n", found.UI)
	}
	if found.S3 != nil {
		text += fmt.Sprintf("s3        %s\n", found.S3.Endpoint)
		switch {
		case o.s3AccessKey != "":
		case o.dataDir != "":
			text += fmt.Sprintf("s3 keys   in %s\n", filepath.Join(o.dataDir, "s3-keys.json"))
		case o.portsFile != "":
			text += fmt.Sprintf("s3 keys   in %s\n", o.portsFile)
		default:
			text += fmt.Sprintf("s3 keys   access %s secret %s\n", found.S3.AccessKey, found.S3.SecretKey)
		}
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("print the addresses: %w", err)
	}
	return nil
}

// writeJSON writes a file, mode 0600, that a reader sees whole or not at all.
func writeJSON(path string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(append(content, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
