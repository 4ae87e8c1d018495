package activities

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/share"
	"github.com/katoflow/katoflow/internal/simcluster"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a simulated cluster with the activities wired to it as a worker does.
type bench struct {
	t       *testing.T
	cluster *simcluster.Cluster
	source  *Source
	pool    *remote.Pool
	jobs    *remote.Jobs
	nodes   *Nodes
	kato    *Kato
	logs    *observer.ObservedLogs
	path    string
	op      Operation
}

// clusterOf are the nodes of a small cluster.
func clusterOf(names ...string) []simcluster.NodeConfig {
	roles := map[string][]string{"core": {"base", "primary", "controller", "router"}, "dea-1": {"base", "dea"}, "dea-2": {"base", "dea"}, "plain-1": nil, "plain-2": nil}
	var out []simcluster.NodeConfig
	for _, n := range names {
		out = append(out, simcluster.NodeConfig{Name: n, Roles: roles[n]})
	}
	return out
}

// start makes a bench; extra is put into the cluster's section of the inventory.
func start(t *testing.T, cfg simcluster.Config, extra string) *bench {
	t.Helper()
	t.Parallel()
	if cfg.Nodes == nil {
		cfg.Nodes = clusterOf("plain-1")
		cfg.Platform = "plain"
	}
	c, err := simcluster.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{t: t, cluster: c, path: filepath.Join(t.TempDir(), "clusters.yaml"),
		op: Operation{ID: "op-1", Cluster: c.Name(), WorkflowID: "op/demo/upgrade-security/op-1", Token: 100}}
	b.writeInventory(extra)
	core, logs := observer.New(zapcore.DebugLevel)
	logger := zap.New(core)
	b.logs = logs
	b.pool = remote.NewPool(remote.Options{KeepaliveInterval: time.Second})
	t.Cleanup(func() {
		if err := b.pool.Close(); err != nil {
			t.Error(err)
		}
	})
	b.jobs = &remote.Jobs{Runner: b.pool, FollowPoll: 20 * time.Millisecond}
	b.source = NewSource(b.path, os.LookupEnv)
	b.nodes = &Nodes{Source: b.source, Connections: b.pool, Jobs: b.jobs, Logger: logger}
	b.kato = &Kato{Source: b.source, Connections: b.pool, Jobs: b.jobs, Logger: logger}
	return b
}

func (b *bench) writeInventory(extra string) {
	b.t.Helper()
	text := string(b.cluster.InventoryYAML())
	if extra != "" {
		indent := ""
		for _, line := range strings.Split(strings.TrimSpace(extra), "\n") {
			indent += "    " + line + "\n"
		}
		text = strings.Replace(text, "    platform:", indent+"    platform:", 1)
		if !strings.Contains(text, indent) {
			b.t.Fatalf("the inventory has another form:\n%s", text)
		}
	}
	if err := os.WriteFile(b.path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) node(name string) *simcluster.Node {
	b.t.Helper()
	n := b.cluster.Node(name)
	if n == nil {
		b.t.Fatalf("no node %s", name)
	}
	return n
}

func (b *bench) host(name string) remote.Host {
	b.t.Helper()
	s, err := b.source.site(b.op.Cluster)
	if err != nil {
		b.t.Fatal(err)
	}
	t, err := s.target(name)
	if err != nil {
		b.t.Fatal(err)
	}
	return t.host
}

func (b *bench) input(node string) NodeInput {
	return NodeInput{Operation: b.op, Node: operation.PlannedNode{Name: node}, JobTry: 1, UnreachableAfter: operation.Duration(5 * time.Second)}
}

func (b *bench) upgradeInput(node string) UpgradeInput {
	return UpgradeInput{NodeInput: b.input(node), AptLockTimeout: operation.Duration(20 * time.Second), Timeout: operation.Duration(time.Minute)}
}

func (b *bench) rebootInput(node string) RebootInput {
	return RebootInput{NodeInput: b.input(node), Timeout: operation.Duration(20 * time.Second)}
}

// attemptOptions of one attempt of an activity.
type attemptOptions struct {
	// resume is the heartbeat of the attempt before.
	resume *Beat
	// ctx ends with the cause under test.
	ctx context.Context
	// stop is closed when the worker begins to stop.
	stop chan struct{}
}

// run runs one attempt of an activity as a worker does.
func run[I, O any](t *testing.T, do func(context.Context, I) (O, error), in I, o attemptOptions) (O, error) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(temporalkit.NewZap(zap.NewNop()))
	env := suite.NewTestActivityEnvironment()
	env.SetTestTimeout(3 * time.Minute)
	options := worker.Options{}
	if o.ctx != nil {
		options.BackgroundActivityContext = o.ctx
	}
	env.SetWorkerOptions(options)
	if o.stop != nil {
		env.SetWorkerStopChannel(o.stop)
	}
	if o.resume != nil {
		env.SetHeartbeatDetails(*o.resume)
	}
	env.RegisterActivity(do)
	var out O
	v, err := env.ExecuteActivity(do, in)
	if err == nil && v != nil && v.HasValue() {
		if err := v.Get(&out); err != nil {
			t.Fatal(err)
		}
	}
	return out, err
}

// must fails the test on an error.
func must[O any](t *testing.T) func(O, error) O {
	return func(out O, err error) O {
		t.Helper()
		if err != nil {
			t.Fatalf("%v", operation.FailureOf(err))
		}
		return out
	}
}

// wantFailure checks the type of an activity's error, that it says whether it is retried, and its form.
func wantFailure(t *testing.T, err error, errorType string, retryable bool, words ...string) operation.Failure {
	t.Helper()
	var app *temporal.ApplicationError
	if !errors.As(err, &app) {
		t.Fatalf("no application error: %v", err)
	}
	if app.Type() != errorType || app.NonRetryable() == retryable {
		t.Errorf("type %s, non-retryable %v: %v", app.Type(), app.NonRetryable(), err)
	}
	f := operation.FailureOf(err)
	for _, w := range words {
		if !strings.Contains(f.Message, w) {
			t.Errorf("%q lacks %q", f.Message, w)
		}
	}
	if strings.ContainsAny(f.Message, "\n\r\x1b") || len(f.Message) > maxMessage {
		t.Errorf("%q is no line", f.Message)
	}
	return *f
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ran counts the runs of a command.
func (b *bench) ran(node, command string) int {
	n := 0
	for _, e := range b.node(node).Commands() {
		if strings.HasPrefix(e.Command(), command) {
			n++
		}
	}
	return n
}

func (b *bench) wantRuns(node, command string, want int) {
	b.t.Helper()
	if got := b.ran(node, command); got != want {
		b.t.Errorf("%s ran %d times on %s, want %d", command, got, node, want)
	}
}

// background runs an activity and gives its end.
type background[O any] struct {
	done chan struct{}
	out  O
	err  error
}

func inBackground[I, O any](t *testing.T, do func(context.Context, I) (O, error), in I, o attemptOptions) *background[O] {
	b := &background[O]{done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.out, b.err = run(t, do, in, o)
	}()
	t.Cleanup(func() { // what hangs for ever ends with its node, which is closed after this
		select {
		case <-b.done:
		case <-time.After(20 * time.Second):
		}
	})
	return b
}

func (b *background[O]) wait(t *testing.T) (O, error) {
	t.Helper()
	select {
	case <-b.done:
	case <-time.After(time.Minute):
		t.Fatal("the activity does not end within a minute")
	}
	return b.out, b.err
}

// counted counts the scripts that were run.
type counted struct {
	Connections
	n atomic.Int64
}

func (c *counted) Run(ctx context.Context, h remote.Host, cmd remote.Command) (remote.Result, error) {
	defer c.n.Add(1)
	return c.Connections.Run(ctx, h, cmd)
}

// shellsToTry are the shells that a node's scripts must work with, as a command before -c: of those that are installed here all, or the one whose turn it is where a share is tried (package share).
func shellsToTry(t *testing.T) (out [][]string) {
	t.Helper()
	part, err := share.Parse(os.Getenv(share.Variable))
	require.NoError(t, err)
	for i, argv := range [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
		switch _, err := exec.LookPath(argv[0]); {
		case err != nil:
			t.Logf("%s is not installed: not tried", argv[0])
		case part.HasTurn(i, 3):
			out = append(out, argv)
		}
	}
	return out
}
