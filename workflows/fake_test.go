package workflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// fake stands for a cluster whose nodes do what a test has written down for them. It keeps the order of all calls and checks by itself that no more
// nodes are in work than the batch allows.
type fake struct {
	t    *testing.T
	mu   sync.Mutex
	plan operation.Plan
	// calls in order: "ACTIVITY" or "ACTIVITY node" or "ACTIVITY node try=2 settle".
	calls []string
	// script answers "ACTIVITY node", one entry a call; nil = well. Behind its end every call is well.
	script map[string][]error
	// during runs inside a call, before its answer.
	during map[string]func(ctx context.Context)
	// down nodes do not pass their gates.
	down map[string]bool
	// clusterDown makes the cluster gates fail so many times.
	clusterDown   int
	preflight     map[string]activities.NodePreflight
	interrupted   map[string]int // node -> how many upgrades end interrupted
	halfBefore    map[string]bool
	needsReboot   map[string]bool
	changes       map[string][]operation.PackageChange
	pinsSeen      map[string][]operation.PackageVersion
	excluded      [][]string
	notifications []operation.Notification
	busy          map[string]bool // nodes between probe and record
	most          int
	token         int64
	found         string
	maintenance   string
	// maintenanceInputs in order; signEvery is what entering says when a dead-man is allowed; signed is closed when the signs of life have begun, and signing when they have been ended.
	maintenanceInputs []activities.MaintenanceInput
	signEvery         time.Duration
	signed, signing   chan struct{}
	// patience is how long the last call of a step on a node lets the node be away, by "ACTIVITY node".
	patience map[string]time.Duration
	// repairInterrupted: the node reboots in the middle of dpkg --configure -a.
	repairInterrupted bool
}

func plainPlan(names ...string) operation.Plan {
	p := operation.Plan{Cluster: "prod", Platform: "plain", GateTimes: 3, GateInterval: operation.Duration(time.Second), GateTimeout: operation.Duration(time.Minute),
		UnreachableAfter: operation.Duration(10 * time.Minute), BootTimeout: operation.Duration(15 * time.Minute), UpgradeTimeout: operation.Duration(time.Hour), AptLockTimeout: operation.Duration(time.Minute)}
	for _, n := range names {
		p.Nodes = append(p.Nodes, operation.PlannedNode{Name: n})
	}
	return p
}

func alsPlan() operation.Plan {
	p := plainPlan()
	p.Platform, p.Core, p.DEAs = "als", "core", 2
	p.Nodes = []operation.PlannedNode{{Name: "dea-1", Roles: []string{"dea"}}, {Name: "dea-2", Roles: []string{"dea"}},
		{Name: "core", Roles: []string{"primary", "controller", "router", "base"}, Core: true}, {Name: "mysql-1", Roles: []string{"mysql"}}, {Name: "fs-1", Roles: []string{"filesystem"}}}
	return p
}

func newFake(t *testing.T, plan operation.Plan) *fake {
	return &fake{t: t, plan: plan, script: map[string][]error{}, during: map[string]func(context.Context){}, down: map[string]bool{}, preflight: map[string]activities.NodePreflight{},
		interrupted: map[string]int{}, halfBefore: map[string]bool{}, needsReboot: map[string]bool{}, changes: map[string][]operation.PackageChange{},
		pinsSeen: map[string][]operation.PackageVersion{}, busy: map[string]bool{}, token: 42, found: "off", maintenance: "off"}
}

// fail is a non-retryable error of a type, as activities make them.
func fail(errorType, message string) error {
	return operation.NewError(operation.Failure{Type: errorType, Message: message})
}

func (f *fake) call(ctx context.Context, name, node string, notes ...string) error {
	f.mu.Lock()
	key := strings.TrimSpace(name + " " + node)
	f.calls = append(f.calls, strings.TrimSpace(key+" "+strings.Join(notes, " ")))
	var err error
	if answers := f.script[key]; len(answers) > 0 {
		err, f.script[key] = answers[0], answers[1:]
	}
	during := f.during[key]
	f.mu.Unlock()
	if during != nil {
		during(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}

func (f *fake) step(ctx context.Context, name string, in activities.NodeInput) error {
	require.Equal(f.t, f.token, in.Operation.Token, "every step carries the lock's token")
	var notes []string
	if in.JobTry > 1 {
		notes = append(notes, fmt.Sprintf("try=%d", in.JobTry))
	}
	if in.Settle {
		notes = append(notes, "settle")
	}
	f.mu.Lock()
	if f.patience == nil {
		f.patience = map[string]time.Duration{}
	}
	f.patience[name+" "+in.Node.Name] = in.UnreachableAfter.D()
	f.mu.Unlock()
	return f.call(ctx, name, in.Node.Name, notes...)
}

func (f *fake) begin(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy[node] = true
	f.most = max(f.most, len(f.busy))
}

// atOnce keeps an activity until so many nodes have been in work at once, so that a fast machine does not end one before the next begins.
func (f *fake) atOnce(nodes int) func(context.Context) {
	return func(context.Context) {
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			f.mu.Lock()
			enough := f.most >= nodes
			f.mu.Unlock()
			if enough {
				return
			}
		}
	}
}

func (f *fake) end(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.busy, node)
}

func (f *fake) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (f *fake) place(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Index(f.calls, call)
}

// mutated are the calls that change anything on a node.
func (f *fake) mutated() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range f.calls {
		switch strings.Fields(c)[0] {
		case "Retire", "Upgrade", "Repair", "Reboot", "EnterMaintenance", "Fence", "Probe", "UpdateKato", "DownloadRelease", "UpgradeNode", "RollBackNode", "Backup":
			out = append(out, c)
		}
	}
	return out
}

func (f *fake) Resolve(ctx context.Context, in activities.ResolveInput) (operation.Plan, error) {
	return f.plan, f.call(ctx, "Resolve", "")
}

func (f *fake) LockToken(ctx context.Context, in activities.LockTokenInput) (int64, error) {
	require.Equal(f.t, "lock/cluster/prod", in.WorkflowID)
	return f.token, f.call(ctx, "LockToken", "")
}

func (f *fake) LockHolder(ctx context.Context, _ string) (activities.LockHolderResult, error) {
	return activities.LockHolderResult{Holder: "op/prod/upgrade-security/other", RunID: "1"}, f.call(ctx, "LockHolder", "")
}

func (f *fake) OpenWorkflows(ctx context.Context, _ activities.WorkflowsInput) ([]string, error) {
	return nil, f.call(ctx, "OpenWorkflows", "")
}

// AwaitClosed returns at once, as if one operation after the other had the lock.
func (f *fake) AwaitClosed(ctx context.Context, _ activities.WorkflowsInput) error {
	return f.call(ctx, "AwaitClosed", "")
}

func (f *fake) Preflight(ctx context.Context, in activities.PreflightInput) (activities.PreflightResult, error) {
	var out activities.PreflightResult
	for _, n := range slices.Concat(in.Nodes, in.Others) {
		p := f.preflight[n]
		p.Node = n
		out.Nodes = append(out.Nodes, p)
	}
	return out, f.call(ctx, "Preflight", "")
}

func (f *fake) Fence(ctx context.Context, _ activities.FenceInput) (activities.FenceResult, error) {
	return activities.FenceResult{}, f.call(ctx, "Fence", "")
}

func (f *fake) ClusterGates(ctx context.Context, in activities.ClusterGatesInput) (activities.GatesResult, error) {
	err := f.call(ctx, "ClusterGates", "")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.excluded = append(f.excluded, in.Exclude)
	if f.clusterDown > 0 {
		f.clusterDown--
		return activities.GatesResult{Failures: []operation.GateFailure{{Node: "fs-1", Check: "role: filesystem is STOPPED"}}, Rounds: 2}, err
	}
	return activities.GatesResult{Held: true, Rounds: 1}, err
}

func (f *fake) Probe(ctx context.Context, in activities.NodeInput) (activities.ProbeResult, error) {
	f.begin(in.Node.Name)
	out := activities.ProbeResult{BootID: "boot-1"}
	if f.halfBefore[in.Node.Name] {
		out.HalfConfigured = []string{"libc6"}
	}
	return out, f.step(ctx, "Probe", in)
}

func (f *fake) Retire(ctx context.Context, in activities.NodeInput) (activities.JobResult, error) {
	return activities.JobResult{Started: true}, f.step(ctx, "Retire", in)
}

func (f *fake) Upgrade(ctx context.Context, in activities.UpgradeInput) (activities.UpgradeResult, error) {
	err := f.step(ctx, "Upgrade", in.NodeInput)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pinsSeen[in.Node.Name] = in.Pins
	out := activities.UpgradeResult{JobResult: activities.JobResult{Started: true}, RebootRequired: f.needsReboot[in.Node.Name]}
	if f.interrupted[in.Node.Name] > 0 && err == nil {
		f.interrupted[in.Node.Name]--
		out.Interrupted, out.NeedsRepair = true, true
	}
	return out, err
}

func (f *fake) Repair(ctx context.Context, in activities.NodeInput) (activities.JobResult, error) {
	err := f.step(ctx, "Repair", in)
	f.mu.Lock()
	defer f.mu.Unlock()
	return activities.JobResult{Started: true, Interrupted: f.repairInterrupted}, err
}

func (f *fake) Reboot(ctx context.Context, in activities.RebootInput) (activities.RebootResult, error) {
	return activities.RebootResult{JobResult: activities.JobResult{Started: true}, BootIDBefore: "boot-1", BootIDAfter: "boot-2"}, f.step(ctx, "Reboot", in.NodeInput)
}

func (f *fake) Proof(ctx context.Context, in activities.ProofInput) (operation.BootProof, error) {
	require.NotEmpty(f.t, in.RebootBegan)
	return operation.BootProof{BootIDBefore: in.BootIDBefore, BootIDAfter: "boot-2", Kernel: "6.1.0-28-amd64, as the boot loader names it"}, f.step(ctx, "Proof", in.NodeInput)
}

func (f *fake) Gates(ctx context.Context, in activities.NodeGatesInput) (activities.GatesResult, error) {
	name := "Gates"
	if in.Times == 1 {
		name = "InService" // asked about a skipped node
	}
	err := f.step(ctx, name, in.NodeInput)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down[in.Node.Name] {
		return activities.GatesResult{Failures: []operation.GateFailure{{Node: in.Node.Name, Check: "ssh: unreachable"}}}, err
	}
	if name == "InService" {
		delete(f.busy, in.Node.Name)
	}
	return activities.GatesResult{Held: true, Rounds: in.Times}, err
}

func (f *fake) Record(ctx context.Context, in activities.RecordInput) (activities.RecordResult, error) {
	err := f.step(ctx, "Record", in.NodeInput)
	if err == nil {
		f.end(in.Node.Name)
	}
	c := f.changes[in.Node.Name]
	return activities.RecordResult{Changes: c, Count: len(c)}, err
}

func (f *fake) PlanCommands(ctx context.Context, in activities.PlanCommandsInput) (activities.PlanCommandsResult, error) {
	return activities.PlanCommandsResult{Plans: []operation.CommandPlan{{Nodes: []string{in.Nodes[0].Name}, Commands: []operation.PlannedCommand{{Step: "upgrade", Command: "unattended-upgrades -d"}}}}},
		f.call(ctx, "PlanCommands", "")
}

func (f *fake) EnterMaintenance(ctx context.Context, in activities.MaintenanceInput) (activities.MaintenanceResult, error) {
	err := f.call(ctx, "EnterMaintenance", "")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.maintenanceInputs = append(f.maintenanceInputs, in)
	if err == nil {
		f.maintenance = "on"
	}
	out := activities.MaintenanceResult{Found: f.found, Now: "on"}
	if in.DeadMan {
		out.SignEvery = operation.Duration(f.signEvery)
	}
	return out, err
}

func (f *fake) LeaveMaintenance(ctx context.Context, in activities.MaintenanceInput) (activities.MaintenanceResult, error) {
	err := f.call(ctx, "LeaveMaintenance", "")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.maintenanceInputs = append(f.maintenanceInputs, in)
	if err == nil {
		f.maintenance = f.found
	}
	return activities.MaintenanceResult{Found: f.found, Now: f.found}, err
}

// SignOfLife goes on until it is cancelled.
func (f *fake) SignOfLife(ctx context.Context, in activities.SignOfLifeInput) error {
	require.EqualValues(f.t, f.signEvery, in.SignEvery)
	err := f.call(ctx, "SignOfLife", "")
	if f.signed != nil {
		close(f.signed)
	}
	for ctx.Err() == nil {
		activity.RecordHeartbeat(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	if f.signing != nil {
		close(f.signing)
	}
	return err
}

func (f *fake) Notify(ctx context.Context, n operation.Notification) error {
	f.mu.Lock()
	f.notifications = append(f.notifications, n)
	f.mu.Unlock()
	return f.call(ctx, "Notify", "")
}

// world is a test environment with the real workflows and a fake cluster.
type world struct {
	*testsuite.TestWorkflowEnvironment
	t    *testing.T
	fake *fake

	asked         []string
	sent, settled int // updates sent, and those whose answer was seen
}

func newWorld(t *testing.T, plan operation.Plan) *world {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(temporalkit.NewZap(zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))))
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(30 * time.Second)
	env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: 20 * time.Second}) // the race detector on a busy machine is slow
	w := &world{TestWorkflowEnvironment: env, t: t, fake: newFake(t, plan)}
	Register(env)
	env.RegisterWorkflow(behindAnother)
	f := w.fake
	for name, fn := range map[string]any{"Resolve": f.Resolve, "LockToken": f.LockToken, "LockHolder": f.LockHolder, "AwaitClosed": f.AwaitClosed, "OpenWorkflows": f.OpenWorkflows, "Preflight": f.Preflight, "Fence": f.Fence,
		"ClusterGates": f.ClusterGates, "Probe": f.Probe, "Retire": f.Retire, "Upgrade": f.Upgrade, "Repair": f.Repair, "Reboot": f.Reboot, "Proof": f.Proof, "Gates": f.Gates,
		"Record": f.Record, "PlanCommands": f.PlanCommands, "EnterMaintenance": f.EnterMaintenance, "LeaveMaintenance": f.LeaveMaintenance, "SignOfLife": f.SignOfLife, "Notify": f.Notify} {
		env.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	env.OnUpsertTypedSearchAttributes(mock.Anything).Return(nil).Maybe()
	return w
}

func input(changes ...func(*operation.SecurityUpgradeInput)) operation.SecurityUpgradeInput {
	in := operation.SecurityUpgradeInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}}
	for _, c := range changes {
		c(&in)
	}
	return in
}

// run executes the operation and returns its report and error, whichever way it closed.
func (w *world) run(in operation.SecurityUpgradeInput) (operation.Report, error) {
	w.t.Helper()
	w.SetStartWorkflowOptions(startOptions())
	w.ExecuteWorkflow(SecurityUpgrade, in)
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.fake.calls)
	require.Equal(w.t, w.sent, w.settled, "every update was answered")
	return reportOf(w.t, w)
}

func startOptions() client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: operation.WorkflowID("prod", operation.KindSecurityUpgrade, "op-1"), TaskQueue: "test"}
}

// reportOf finds the report in the result or in the error's details.
func reportOf(t *testing.T, w *world) (operation.Report, error) {
	t.Helper()
	var report operation.Report
	err := w.GetWorkflowError()
	if err == nil {
		require.NoError(t, w.GetWorkflowResult(&report))
		return report, nil
	}
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	switch {
	case errors.As(err, &app):
		var f operation.Failure
		require.NoError(t, app.Details(&f, &report))
		require.Equal(t, app.Type(), f.Type)
	case errors.As(err, &cancelled):
		require.NoError(t, cancelled.Details(&report))
	default:
		t.Fatalf("the operation closed with %T: %v", err, err)
	}
	return report, err
}

// typeOf is the application error's type.
func typeOf(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Type()
	}
	return ""
}

// at runs f when so much workflow time has passed.
func (w *world) at(d time.Duration, f func()) { w.RegisterDelayedCallback(f, d) }

// now is the report as the query answers.
func (w *world) now() operation.Report {
	var report operation.Report
	v, err := w.QueryWorkflow(operation.QueryReport)
	require.NoError(w.t, err)
	require.NoError(w.t, v.Get(&report))
	return report
}

// accepted sends an update that must be taken; rejected one that must not be. The environment answers only after the call has returned, so what
// came of it is checked when the operation has ended.
func (w *world) accepted(name string, arg any) { w.update(name, arg, true) }
func (w *world) rejected(name string, arg any) { w.update(name, arg, false) }

func (w *world) update(name string, arg any, want bool) {
	w.sent++
	settled := func(got bool, err error) {
		w.settled++
		require.Equal(w.t, want, got, "%s %+v: %v", name, arg, err)
	}
	w.UpdateWorkflow(name, fmt.Sprint("update-", w.sent), &testsuite.TestUpdateCallback{
		OnReject:   func(err error) { settled(false, err) },
		OnAccept:   func() {},
		OnComplete: func(_ any, err error) { settled(err == nil, err) },
	}, arg)
}

// answer sends the given decisions to whatever question is open, one every ten seconds of workflow time.
func (w *world) answer(decisions ...operation.Decision) {
	for i := range 40 {
		w.at(time.Duration(i+1)*10*time.Second, func() {
			if w.IsWorkflowCompleted() || len(decisions) == 0 {
				return
			}
			open := w.now().Questions
			if len(open) == 0 {
				return
			}
			q := open[0]
			w.asked = append(w.asked, q.Key())
			d := decisions[0]
			decisions = decisions[1:]
			w.accepted(operation.UpdateDecide, operation.DecideRequest{Node: q.Node, Step: q.Step, Try: q.Try, Decision: d, Who: "operator"})
		})
	}
}

// status of every node by name.
func status(r operation.Report) map[string]string {
	out := map[string]string{}
	for _, n := range r.Nodes {
		out[n.Name] = n.Status
	}
	return out
}

func node(t *testing.T, r operation.Report, name string) operation.NodeReport {
	t.Helper()
	for _, n := range r.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %s in the report", name)
	return operation.NodeReport{}
}
