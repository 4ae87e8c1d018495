package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

const (
	// followInventory is how often the inventory file is looked at.
	followInventory = 5 * time.Second
	// attributesTimeout bounds one look at the search attributes.
	attributesTimeout = 10 * time.Second
	// closeTimeout bounds the closing of the connections to the nodes.
	closeTimeout = 3 * time.Second
)

// run reads the configuration, connects, registers, and works until ctx ends.
func (c *config) run(ctx context.Context, env func(string) (string, bool), stdout, stderr io.Writer) error {
	began := time.Now()
	if err := c.valid(); err != nil {
		return exit(exitBadInput, err)
	}
	scrubber := &temporalkit.Scrubber{}
	log, err := newLogger(stderr, c.logFormat, c.logLevel, env, scrubber)
	if err != nil {
		return exit(exitBadInput, err)
	}
	defer func() { _ = log.Sync() }()

	if c.check {
		return c.checkInventory(env, stdout)
	}
	file := &inventoryFile{path: c.inventory, env: env, scrubber: scrubber, log: log}
	if err := file.Check(); err != nil {
		return exit(exitBadInput, listed(err))
	}
	h := &health{contact: &temporalkit.Contact{}, schedules: &scheduleMetrics{}, inventory: file.Check, now: time.Now,
		backups: &backupMetrics{inventory: func() (*inventory.File, error) { return inventory.Load(c.inventory) }, lastProven: lastProvenWith(file.lookup),
			log: log, wait: bucketsWait, freshFor: bucketsFreshFor}}
	if c.health != "" {
		listening, stop, err := h.serve(c.health)
		if err != nil {
			return exit(exitFailed, err)
		}
		defer stop()
		log.Info("health endpoint", zap.String("address", listening))
	}

	c.client.Logger, c.client.Scrubber, c.client.Contact = log, scrubber, h.contact
	c.client.Identity = temporalkit.Identity("katoflow-worker")
	target, err := c.client.Target()
	if err != nil {
		return exit(exitBadInput, err)
	}
	temporal, err := c.connect(ctx, target, log)
	if err != nil || temporal == nil {
		return err
	}
	defer temporal.Close()
	h.schedules.connected(temporal, target.Namespace)

	pool := remote.NewPool(remote.Options{Logger: log})
	defer closePool(pool, log)
	fatal := make(chan error, 1)
	c.settings.OnFatalError = func(err error) { fatal <- err }
	converter, _ := temporalkit.Converters(scrubber)
	c.settings.Interceptor = temporalkit.NewInterceptor(temporalkit.InterceptorOptions{Converter: converter})
	w := worker.New(temporal, c.taskQueue, temporalkit.WorkerOptions(c.settings))
	register(w, hands{inventory: c.inventory, env: file.lookup, environment: env, pool: pool, client: temporal, log: log})
	if err := w.Start(); err != nil {
		return exit(exitFailed, fmt.Errorf("the worker cannot start: %w", err))
	}
	h.started.Store(true)
	log.Info("worker ready", zap.String("taskQueue", c.taskQueue), zap.String("address", target.Address), zap.String("namespace", target.Namespace),
		zap.String("version", version()), zap.String("took", time.Since(began).Round(time.Millisecond).String()))

	done := make(chan struct{})
	defer close(done)
	go file.follow(followInventory, done)
	go c.tellMissingFiles(env, log)

	select {
	case err := <-fatal:
		w.Stop()
		return exit(exitFailed, fmt.Errorf("the worker failed: %w", err))
	case <-ctx.Done():
	}
	h.stopping.Store(true)
	log.Info("stopping; a second signal stops at once", zap.String("atMost", c.settings.StopTimeout.String()))
	w.Stop()
	log.Info("stopped")
	return nil
}

// valid checks the flags and brings --health into its full form.
func (c *config) valid() error {
	if c.inventory == "" {
		return errors.New("no inventory: name the file with --inventory or KATOFLOW_INVENTORY")
	}
	if c.taskQueue == "" {
		return errors.New("--task-queue is empty: name a task queue")
	}
	if c.settings.MaxActivities < 1 {
		return fmt.Errorf("--max-activities %d: use 1 or more", c.settings.MaxActivities)
	}
	if c.connectTimeout < 0 {
		return fmt.Errorf("--connect-timeout %s: use 0 or more", c.connectTimeout)
	}
	if c.health != "" {
		address, err := healthAddress(c.health)
		if err != nil {
			return err
		}
		c.health = address
	}
	return c.settings.Check()
}

// checkInventory is --check.
func (c *config) checkInventory(env func(string) (string, bool), stdout io.Writer) error {
	file, err := inventory.Load(c.inventory)
	if err == nil {
		err = file.CheckFiles(env)
	}
	if err != nil {
		return exit(exitBadInput, listed(err))
	}
	nodes := 0
	for _, cluster := range file.Clusters {
		nodes += len(cluster.Nodes)
	}
	fmt.Fprintf(stdout, "%s: %d clusters, %d nodes, nothing wrong\n", c.inventory, len(file.Clusters), nodes)
	return nil
}

// tellMissingFiles warns of what the inventory refers to and is not there. Only the operations of the clusters concerned will fail, and a known_hosts
// file may yet be made by `katoflow cluster trust`, so the worker runs on.
func (c *config) tellMissingFiles(env func(string) (string, bool), log *zap.Logger) {
	file, err := inventory.Load(c.inventory)
	if err == nil {
		err = file.CheckFiles(env)
	}
	if err != nil {
		logProblems(log, "the inventory refers to something that cannot be used", err)
	}
}

// listed puts several problems below each other.
func listed(err error) error {
	all := problems(err)
	if len(all) == 1 {
		return errors.New(all[0])
	}
	text := fmt.Sprintf("%d problems in the inventory:", len(all))
	for _, p := range all {
		text += "\n  " + p
	}
	return errors.New(text)
}

// connect waits for the server up to --connect-timeout and checks that the namespace has what operations need. A nil client without an
// error means that ctx has ended.
func (c *config) connect(ctx context.Context, target temporalkit.Target, log *zap.Logger) (client.Client, error) {
	deadline := time.Now().Add(c.connectTimeout)
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		temporal, err := c.tryConnect(ctx, target, log)
		if err == nil {
			return temporal, nil
		}
		if ctx.Err() != nil {
			log.Info("stopped before a Temporal server was found")
			return nil, nil
		}
		var unavailable *serviceerror.Unavailable
		if !errors.Is(err, temporalkit.ErrNoServer) && !errors.As(err, &unavailable) {
			return nil, exit(exitFailed, err)
		}
		if time.Now().Add(pause).After(deadline) {
			return nil, exit(exitNoServer, err)
		}
		if try == 1 {
			log.Warn("waiting for the Temporal server", zap.Error(err), zap.String("atMost", c.connectTimeout.String()))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (c *config) tryConnect(ctx context.Context, target temporalkit.Target, log *zap.Logger) (client.Client, error) {
	temporal, err := temporalkit.LoadClient(ctx, c.client)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, attributesTimeout)
	defer cancel()
	err = temporalkit.CheckSearchAttributes(ctx, temporal, target.Namespace)
	if errors.Is(err, temporalkit.ErrAttributesUnknown) {
		log.Warn("operations will not start if search attributes are missing", zap.Error(err))
		err = nil
	}
	if err != nil {
		temporal.Close()
		return nil, err
	}
	return temporal, nil
}

// closePool closes the connections to the nodes. An activity that did not end in time may still use one: it is not waited for for ever.
func closePool(pool *remote.Pool, log *zap.Logger) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if err := pool.Close(); err != nil {
			log.Debug("connections closed", zap.Error(err))
		}
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
		log.Warn("connections to nodes are still in use; left to the end of the process")
	}
}
