package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/lab"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/share"
)

// shared is the Temporal server of all tests that do not kill it, and the lab when they run against real hosts.
var shared struct {
	temporal *harness.Temporal
	client   client.Client
	number   atomic.Int64
	lab      *lab.Lab
	places   places

	mu     sync.Mutex
	faults []string // the lines of the fault table
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "katoflow-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		shared.temporal, err = harness.StartTemporal(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, "the end-to-end tests need the binaries:", err)
			return 1
		}
		defer func() { _ = shared.temporal.Stop() }()
		shared.client, err = shared.temporal.Client()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer shared.client.Close()
		if os.Getenv("KATOFLOW_LAB") != "" {
			if shared.lab, err = openLab(); err != nil {
				fmt.Fprintln(os.Stderr, "the lab of real hosts:", err)
				return 1
			}
			shared.places = places{free: hostsAtOnce, more: make(chan struct{})}
			defer func() {
				if err := shared.lab.Close(); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
			}()
		}
		code := m.Run()
		select {
		case <-shared.temporal.Ended():
			fmt.Fprintf(os.Stderr, "devstack, which all tests share, has ended before them:\n%s\n", shared.temporal.Tail())
			code = 1
		default:
		}
		fmt.Print(faultTable())
		return code
	}())
}

// site is a test's own cluster, queue and workers on a Temporal server.
type site struct {
	*harness.Site
	t       *testing.T
	cluster cluster
	client  client.Client
	// bucket of the site, nil without the option inS3; its proxy does the faults of S3.
	bucket *archivetest.Bucket
	// archive that was made of the cluster before.
	archive string
	// source is the running cluster that is imported into this one.
	source *site
	// beside is how many hosts its second cluster may have.
	beside int
	// s3 are the lines of the inventory that name it, kato those about kato.
	s3, kato string
	// byHands are the commands that the test ran on a node itself, as somebody might who is logged in.
	byHands []string
}

// Of the cases a run of the gate tries one in so many, another one with the next commit: on the simulated cluster, and on real hosts, where a case takes more than twice as long.
const (
	simulatedInTurn = 4
	onHostsInTurn   = 12
)

// always is the case that every run tries on real hosts: the whole security upgrade.
const always = "TestUpgrade_AllWell_EveryNodePatchedRebootedAndProved"

// inTurn leaves a case to another commit, where a share is tried: one that is tried on real hosts comes on the simulated cluster with the next one. A case is tried as a whole; kill matrices are dealt out
// by their own parts.
func inTurn(t *testing.T) {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	if strings.HasPrefix(name, "TestKillMatrix") || onHosts() && name == always {
		return
	}
	part, err := share.Parse(os.Getenv(share.Variable))
	require.NoError(t, err)
	hands, ahead := simulatedInTurn, 0
	if onHosts() {
		hands, ahead = onHostsInTurn, 1
	}
	if !part.HasName(name, hands, ahead) {
		t.Skipf("left to another commit (%s=%s)", share.Variable, part)
	}
}

// quickly are gates that do not cost a test time; appended to the simulated cluster's inventory.
const quickGates = `    gates: {times: 1, interval: 100ms, timeout: 20s}
    timeouts: {unreachable_after: 20s, boot: 20s, upgrade: 2m, apt_lock: 30s}
`

// newSite starts a cluster, simulated or of real hosts. Everything it starts ends with the test; on failure the workers' last lines are shown.
func newSite(t *testing.T, server *harness.Temporal, c client.Client, options ...siteOption) *site {
	t.Helper()
	inTurn(t)
	if server == nil {
		server, c = shared.temporal, shared.client
	}
	n := shared.number.Add(1)
	dir := t.TempDir()
	cfg := config{name: fmt.Sprintf("c%d", n), platform: "als"}
	for _, o := range options {
		o(&cfg)
	}
	var cluster cluster
	if onHosts() {
		cluster = startHosts(t, cfg)
	} else {
		cluster = startSimulated(t, filepath.Join(dir, "cluster"), cfg)
	}
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	s := &site{t: t, cluster: cluster, client: c, beside: cfg.beside,
		Site: &harness.Site{Dir: dir, Temporal: server, Queue: fmt.Sprintf("queue-%d", n), Inventory: filepath.Join(dir, "inventory.yaml")}}
	if cfg.s3 {
		s.openBucket(cfg)
	}
	s.inventory(quickGates)
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			s.show()
		}
	})
	return s
}

// inventory writes the worker's file: the simulated cluster's own, with more lines for the cluster (the last one written).
func (s *site) inventory(extra string) {
	s.t.Helper()
	text := string(s.cluster.InventoryYAML())
	key := "  " + s.cluster.Name() + ":\n"
	if onHosts() {
		extra = longerLimits.Replace(shortLimit.ReplaceAllString(extra, "$1: "+bootLimit().String()))
	}
	require.Contains(s.t, text, key)
	require.NoError(s.t, os.WriteFile(s.Inventory, []byte(strings.Replace(text, key, key+s.s3+s.kato+extra, 1)), 0o600))
}

// shortLimit is a limit that real hosts need more time for.
var shortLimit = regexp.MustCompile(`\b(boot|timeout): [0-9]s`)

// longerLimits are limits that nothing is to run into: several real hosts that boot at once share the processors.
var longerLimits = strings.NewReplacer(" boot: 20s", " boot: 90s", " timeout: 20s", " timeout: 60s", "unreachable_after: 20s", "unreachable_after: 40s")

// bootLimit is a limit for a reboot that a case waits out: real hosts take 2 to 3 seconds when they have the machine to themselves. Cases that wait for the end of a reboot have 90 s.
func bootLimit() time.Duration { return in(4*time.Second, 25*time.Second) }

// show prints what is needed to understand a failure.
func (s *site) show() {
	logs, _ := filepath.Glob(filepath.Join(s.Dir, "worker-*.log"))
	for _, l := range logs {
		b, _ := os.ReadFile(l)
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		for _, line := range lines[max(0, len(lines)-25):] {
			s.t.Log(filepath.Base(l), operation.Shorten(line, 500))
		}
	}
	s.showCommands()
}

func (s *site) showCommands() {
	for _, e := range s.cluster.Commands() {
		s.t.Log(s.cluster.Name(), e.Node, e.Start.Format("05.000"), e.End.Format("05.000"), e.Job, e.Command(), e.ExitCode)
	}
}

func (s *site) worker(address string) *harness.Worker {
	s.t.Helper()
	w, err := s.StartWorker(address)
	require.NoError(s.t, err)
	return w
}

// cli runs katoflow and requires an exit code.
func (s *site) cli(code int, args ...string) harness.Output {
	s.t.Helper()
	out, err := s.Katoflow(stretched(time.Minute), args...)
	require.NoError(s.t, err)
	require.Equal(s.t, code, out.Code, "katoflow %s\n%s\n%s", strings.Join(args, " "), out.Stdout, out.Stderr)
	return out
}

// op is a running operation.
type op struct {
	*site
	id, workflow string
	run          client.WorkflowRun
	// killedAt is when a worker was last killed by a kill matrix.
	killedAt time.Time
}

// start begins a security upgrade by the CLI, detached, and returns when its preflight has passed.
func (s *site) start(args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"upgrade", "security", s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attach(id)
}

// startDirectly begins it through the client and does not wait for anything, so that a worker may be killed from its first event on.
func (s *site) startDirectly(in operation.SecurityUpgradeInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name()
	return s.execute(operation.KindSecurityUpgrade, operation.WorkflowSecurityUpgrade, in.OperationID, in)
}

// execute starts the workflow of an operation, whose input has that id.
func (s *site) execute(kind, workflow, id string, in any) *op {
	s.t.Helper()
	o := s.attachTo(kind, id)
	_, err := s.client.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{
		ID: o.workflow, TaskQueue: s.Queue, WorkflowTaskTimeout: 5 * time.Second,
		TypedSearchAttributes: temporal.NewSearchAttributes(operation.AttributeCluster.ValueSet(s.cluster.Name()), operation.AttributeOperation.ValueSet(kind)),
	}, workflow, in)
	require.NoError(s.t, err)
	return o
}

func (s *site) attach(id string) *op { return s.attachTo(operation.KindSecurityUpgrade, id) }

func (s *site) attachTo(kind, id string) *op {
	w := operation.WorkflowID(s.cluster.Name(), kind, id)
	return &op{site: s, id: id, workflow: w, run: s.client.GetWorkflow(context.Background(), w, "")}
}

// report asks the running or closed operation; it fails while no worker is there.
func (o *op) report() (operation.Report, error) {
	var r operation.Report
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	v, err := o.client.QueryWorkflow(ctx, o.workflow, "", operation.QueryReport)
	if err != nil {
		return r, err
	}
	return r, v.Get(&r)
}

// until polls the report until the condition holds; a query that fails is tried again.
func (o *op) until(limit time.Duration, what string, condition func(operation.Report) bool) operation.Report {
	o.t.Helper()
	var last operation.Report
	err := waitFor(limit, what, func() (bool, error) {
		r, err := o.report()
		if err != nil {
			return false, nil
		}
		last = r
		return condition(r), nil
	})
	require.NoError(o.t, err, "last seen: phase %s, %s", last.Phase, last.Message)
	return last
}

// question waits for the first open question.
func (o *op) question(limit time.Duration) operation.Question {
	o.t.Helper()
	r := o.until(limit, "a question", func(r operation.Report) bool { return len(r.Questions) > 0 || r.Finished() })
	require.NotEmpty(o.t, r.Questions, "the operation ended without asking: %s", r.Message)
	return r.Questions[0]
}

// decide answers by the CLI.
func (o *op) decide(q operation.Question, d operation.Decision) {
	o.t.Helper()
	o.cli(0, "op", "decide", o.id, string(d), "--node", q.Node, "--step", q.Step, "--try", fmt.Sprint(q.Try))
}

// end waits for the close and returns the report from its result or its error.
func (o *op) end(limit time.Duration) (operation.Report, error) {
	o.t.Helper()
	limit = stretched(limit)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var report operation.Report
	err := o.client.GetWorkflow(ctx, o.workflow, "").Get(ctx, &report)
	if err == nil {
		return report, nil
	}
	if ctx.Err() != nil {
		r, err := o.report()
		require.FailNow(o.t, "the operation did not end", "within %s; report: %v %s %s %+v %+v", limit, err, r.Phase, r.Message, r.Questions, r.Nodes)
	}
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	var f operation.Failure
	switch {
	case errors.As(err, &app) && app.HasDetails():
		require.NoError(o.t, app.Details(&f, &report))
	case errors.As(err, &cancelled):
		require.NoError(o.t, cancelled.Details(&report))
	}
	return report, err
}

// done requires that the operation ends well, and that nobody is asked meanwhile.
func (o *op) done(limit time.Duration) operation.Report {
	o.t.Helper()
	asked := ""
	err := waitFor(limit, "the operation to end", func() (bool, error) {
		if d := o.describe(o.workflow); d != nil && d.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING && d.Status != enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW {
			return true, nil
		}
		polled := time.NewTimer(200 * time.Millisecond) // of the server, which others use too
		defer polled.Stop()
		r, err := o.report()
		<-polled.C
		switch {
		case err != nil || len(r.Questions) == 0:
			asked = ""
		case asked == r.Questions[0].Key():
			return false, fmt.Errorf("it waits for an answer: %s: %s", asked, r.Questions[0].Cause.Message)
		default:
			asked = r.Questions[0].Key() // an answer may be on its way
		}
		return false, nil
	})
	if err != nil {
		r, _ := o.report()
		require.NoError(o.t, err, "%s %s %+v %+v", r.Phase, r.Message, r.Questions, r.Nodes)
	}
	r, err := o.end(limit)
	require.NoError(o.t, err)
	require.Equal(o.t, operation.PhaseDone, r.Phase)
	return r
}

// registry is the address of the site's docker registry.
func (s *site) registry() string {
	if c, real := s.cluster.(*hosts); real {
		return c.Registry()
	}
	return "registry.example.com:5000"
}

// repeated lists the mutating commands that ran more than once for one try of a job. Every command of katoflow but a freeze runs in a job, so one without is
// a finding too.
func (s *site) repeated() []string {
	seen := map[string]int{}
	var out []string
	for _, e := range s.cluster.Commands() {
		if e.Job == "" && slices.Contains(s.byHands, e.Command()) {
			continue
		}
		if e.Job == "" && filepath.Base(e.Argv[0]) == "katoflow-freeze" { // it ends with its session, and each has an id of its own
			if e.Argv[1] == "check" {
				continue
			}
		} else if e.Job == "" {
			out = append(out, e.Node+": outside of a job: "+e.Command())
			continue
		}
		key := e.Node + " " + e.Job + " " + e.Command()
		if seen[key]++; seen[key] == 2 {
			out = append(out, key)
		}
	}
	return out
}

// ran counts the executions of a program on a node.
func (s *site) ran(node, program string) int {
	n := 0
	for _, e := range s.cluster.Node(node).Commands() {
		if filepath.Base(e.Argv[0]) == program {
			n++
		}
	}
	return n
}

// upgraded requires the effect on every named node, read from the node: nothing pending, rebooted so often, commands run so often.
func (s *site) upgraded(reboots int, nodes ...string) {
	s.t.Helper()
	for _, name := range nodes {
		n := s.cluster.Node(name)
		require.Zero(s.t, n.PendingCount(), "%s has pending packages", name)
		require.Empty(s.t, n.HalfConfigured(), name)
		require.Equal(s.t, reboots, n.Boots()-1, "reboots of %s", name)
		if h, real := n.(host); real {
			h.patched()
		}
	}
}

// names of all nodes.
func (s *site) names() []string {
	var out []string
	for _, n := range s.cluster.Nodes() {
		out = append(out, n.Name())
	}
	return out
}

// history of a workflow's latest run so far.
func (s *site) history(workflowID string) []*historypb.HistoryEvent {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var out []*historypb.HistoryEvent
	it := s.client.GetWorkflowHistory(ctx, workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return out
		}
		out = append(out, e)
	}
	return out
}
