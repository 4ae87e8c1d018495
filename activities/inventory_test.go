package activities

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster"
)

func (b *bench) inventory() *Inventory { return &Inventory{Source: b.source, HostKeys: b.pool} }

func names(nodes []operation.PlannedNode) (out []string) {
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return out
}

func TestResolve_Cluster_IsFrozenInOrder(t *testing.T) {
	b := start(t, alsConfig(), "gates:\n  times: 2\n  interval: 3s\nnotify:\n  command: [\"true\"]\n  on: [parked]")
	plan := must[operation.Plan](t)(run(t, b.inventory().Resolve, ResolveInput{Cluster: b.op.Cluster}, attemptOptions{}))
	if d := cmp.Diff([]string{"dea-1", "dea-2", "core"}, names(plan.Nodes)); d != "" {
		t.Error(d)
	}
	if plan.Core != "core" || !plan.Nodes[2].Core || plan.Nodes[0].Core || plan.DEAs != 2 || plan.Platform != "als" || plan.GateTimes != 2 || plan.GateInterval.D() != 3*time.Second ||
		plan.UnreachableAfter.D() != 10*time.Minute || plan.BootTimeout.D() != 15*time.Minute || plan.UpgradeTimeout.D() != 3*time.Hour || plan.AptLockTimeout.D() != 30*time.Minute ||
		len(plan.NotifyOn) != 1 || plan.Digest == "" || len(plan.Others) != 0 {
		t.Errorf("%+v", plan)
	}
	some := must[operation.Plan](t)(run(t, b.inventory().Resolve, ResolveInput{Cluster: b.op.Cluster, Roles: []string{"dea"}, InventoryDigest: plan.Digest}, attemptOptions{}))
	if d := cmp.Diff([]string{"core"}, some.Others); d != "" {
		t.Error(d)
	}
}

func TestResolve_BadInput_NamesAllProblemsAtOnce(t *testing.T) {
	b := start(t, alsConfig(), "")
	for name, c := range map[string]struct {
		in       ResolveInput
		problems int
		words    []string
	}{
		"cluster": {ResolveInput{Cluster: "nowhere"}, 1, []string{`unknown cluster "nowhere"`}},
		"digest":  {ResolveInput{Cluster: b.op.Cluster, InventoryDigest: "sha256:other"}, 1, []string{"not the same in your inventory and in the worker's"}},
		"several": {ResolveInput{Cluster: b.op.Cluster, Nodes: []string{"x", "y"}, RoleOrder: []string{"chef"}}, 3, []string{`unknown node "x"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := run(t, b.inventory().Resolve, c.in, attemptOptions{})
			f := wantFailure(t, err, operation.ErrBadInput, false, c.words...)
			if len(f.Problems) != c.problems {
				t.Errorf("%q", f.Problems)
			}
		})
	}
	if err := os.Remove(b.cluster.ClientKeyPath()); err != nil {
		t.Fatal(err)
	}
	_, err := run(t, b.inventory().Resolve, ResolveInput{Cluster: b.op.Cluster}, attemptOptions{})
	wantFailure(t, err, operation.ErrBadInput, false, "id_ed25519")
	rewrite(t, b.path, "clusters:\n  demo:\n    nodes: [{name: \"a; reboot\"}]\n    colour: red\n")
	_, err = run(t, b.inventory().Resolve, ResolveInput{Cluster: b.op.Cluster}, attemptOptions{})
	if f := wantFailure(t, err, operation.ErrBadInput, false); len(f.Problems) < 2 {
		t.Errorf("%q", f.Problems)
	}
	if c := b.cluster.Commands(); len(c) != 0 {
		t.Errorf("a node was touched: %v", c)
	}
}

func TestSource_FileChanges_IsReadAgain(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(b.path, old, old); err != nil {
		t.Fatal(err)
	}
	first, err := b.source.load()
	again, err2 := b.source.load()
	if err != nil || err2 != nil || first != again {
		t.Fatalf("read twice: %v %v", err, err2)
	}
	text, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, b.path, string(text)+"# changed\n")
	if third, err := b.source.load(); err != nil || third == first {
		t.Errorf("the old file is used: %v", err)
	}
	rewrite(t, b.path, "nonsense: [")
	if _, err := b.source.load(); err == nil {
		t.Error("an invalid file is used")
	}
	_, err = run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrInternal, false, "inventory cannot be used any more")
	if !operation.OutcomeUnknown(operation.ErrInternal) {
		t.Error("a retry would start the next job")
	}
}

func trusted(r TrustResult) string {
	var lines []string
	for _, k := range r.Keys {
		lines = append(lines, k.Node+" "+k.State)
	}
	return strings.Join(lines, "\n")
}

func TestTrust_UnknownAndChangedKeys_AreTrustedOnlyWhenConfirmed(t *testing.T) {
	b := start(t, simcluster.Config{Platform: "plain", Nodes: clusterOf("plain-1", "plain-2")}, "")
	known, err := os.ReadFile(b.cluster.KnownHostsPath())
	if err != nil {
		t.Fatal(err)
	}
	first := strings.SplitAfter(string(known), "\n")[0]
	rewrite(t, b.cluster.KnownHostsPath(), first) // plain-2 is not known
	in := TrustInput{Cluster: b.op.Cluster}
	trust := func() TrustResult { return must[TrustResult](t)(run(t, b.inventory().Trust, in, attemptOptions{})) }
	out := trust()
	if got := trusted(out); got != "plain-1 known\nplain-2 new" {
		t.Fatal(got)
	}
	if out.Keys[1].Fingerprint != ssh.FingerprintSHA256(b.node("plain-2").HostKey()) || out.Keys[1].Type != "ssh-ed25519" {
		t.Errorf("%+v", out.Keys[1])
	}
	in.Accept = []string{"plain-2 SHA256:wrong"}
	if got := trusted(trust()); got != "plain-1 known\nplain-2 new\nplain-2 error" {
		t.Error(got)
	}
	in.Accept = []string{"plain-2 " + out.Keys[1].Fingerprint}
	if got := trusted(trust()); got != "plain-1 known\nplain-2 added" {
		t.Error(got)
	}
	if got := trusted(trust()); got != "plain-1 known\nplain-2 known" {
		t.Error(got)
	}
	must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("plain-2"), attemptOptions{}))

	b.node("plain-1").ChangeHostKey()
	in.Accept = []string{"plain-1 " + ssh.FingerprintSHA256(b.node("plain-1").HostKey())}
	if out = trust(); trusted(out) != "plain-1 changed\nplain-2 known" || out.Keys[0].Error == "" {
		t.Errorf("%+v", out)
	}
	in.Replace = true
	if got := trusted(trust()); got != "plain-1 replaced\nplain-2 known" {
		t.Error(got)
	}
	b.node("plain-2").PowerOff()
	in.Accept = nil
	if got := trusted(trust()); got != "plain-1 known\nplain-2 error" {
		t.Error(got)
	}
	in.Accept = []string{"nobody SHA256:x", "plain-1 md5"}
	_, err = run(t, b.inventory().Trust, in, attemptOptions{})
	if f := wantFailure(t, err, operation.ErrBadInput, false); len(f.Problems) != 2 {
		t.Errorf("%q", f.Problems)
	}
}

func TestPlanCommands_ALS_ShowsWhatIsRunAndGroupsNodes(t *testing.T) {
	b := start(t, alsConfig(), "proxy:\n  http: http://proxy.example.net:3128")
	planned := []operation.PlannedNode{{Name: "dea-1", Roles: []string{"dea"}}, {Name: "dea-2", Roles: []string{"dea"}}, {Name: "core", Roles: []string{"primary"}, Core: true}}
	out := must[PlanCommandsResult](t)(run(t, b.nodes.PlanCommands, PlanCommandsInput{Operation: b.op, Nodes: planned, Retire: true, Maintenance: true}, attemptOptions{}))
	var text strings.Builder
	for _, p := range out.Plans {
		text.WriteString(strings.Join(p.Nodes, " ") + "\n")
		for _, c := range p.Commands {
			text.WriteString("  " + c.Step + ": " + c.Command + "\n")
		}
	}
	common := `  refresh: sudo -n http_proxy=http://proxy.example.net:3128 apt-get update
  upgrade: sudo -n DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 http_proxy=http://proxy.example.net:3128 unattended-upgrades -d
  repair: sudo -n DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 http_proxy=http://proxy.example.net:3128 dpkg --configure -a
  reboot: sudo -n /sbin/reboot
`
	kato := "/home/stackato/bin/kato "
	want := "cluster\n  maintenance-on: " + kato + "config set cloud_controller_ng maintenance_mode true\n  maintenance-off: " + kato + "config set cloud_controller_ng maintenance_mode false\n" +
		"dea-1\n  retire: " + kato + "node retire --node " + b.node("dea-1").Address() + "\n" + common +
		"dea-2\n  retire: " + kato + "node retire --node " + b.node("dea-2").Address() + "\n" + common + "core\n" + common
	if d := cmp.Diff(want, text.String()); d != "" {
		t.Error(d)
	}
	out = must[PlanCommandsResult](t)(run(t, b.nodes.PlanCommands, PlanCommandsInput{Operation: b.op, Nodes: planned, Reboot: operation.RebootNever, Pin: true}, attemptOptions{}))
	if len(out.Plans) != 1 || len(out.Plans[0].Nodes) != 3 || len(out.Plans[0].Commands) != 3 {
		t.Errorf("%+v", out)
	}
	if c := b.cluster.Commands(); len(c) != 0 {
		t.Errorf("%v", c)
	}
}

// server answers for a Temporal server.
type server map[string]*workflowpb.WorkflowExecutionInfo

func (s server) DescribeWorkflowExecution(_ context.Context, workflowID, runID string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if workflowID == "lock/cluster/down" {
		return nil, errors.New("connection refused")
	}
	info, ok := s[workflowID+"/"+runID]
	if !ok {
		return nil, serviceerror.NewNotFound("no such workflow")
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: info}, nil
}

func TestLocks_EachState_IsToldApart(t *testing.T) {
	started := time.Unix(1700000000, 123456789)
	running := func(status enumspb.WorkflowExecutionStatus) *workflowpb.WorkflowExecutionInfo {
		return &workflowpb.WorkflowExecutionInfo{Status: status, StartTime: timestamppb.New(started), Execution: &commonpb.WorkflowExecution{RunId: "7"},
			ParentExecution: &commonpb.WorkflowExecution{WorkflowId: "op/held/upgrade-security/x"}}
	}
	left := running(enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
	left.ParentExecution.WorkflowId = "op/left/upgrade-security/x"
	l := &Locks{Client: server{
		"lock/cluster/held/":  running(enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING),
		"lock/cluster/held/1": running(enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING),
		"lock/cluster/held/0": running(enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED),
		"lock/cluster/past/":  running(enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED),
		"lock/cluster/left/":  left,

		"op/held/upgrade-security/x/": running(enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING),
		"op/left/upgrade-security/x/": running(enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED),
	}}
	if token := must[int64](t)(run(t, l.LockToken, LockTokenInput{WorkflowID: "lock/cluster/held", RunID: "1"}, attemptOptions{})); token != started.UnixNano() {
		t.Error(token)
	}
	for _, runID := range []string{"0", "none"} {
		_, err := run(t, l.LockToken, LockTokenInput{WorkflowID: "lock/cluster/held", RunID: runID}, attemptOptions{})
		wantFailure(t, err, operation.ErrFenced, false)
	}
	_, err := run(t, l.LockToken, LockTokenInput{WorkflowID: "lock/cluster/down"}, attemptOptions{})
	wantFailure(t, err, operation.ErrInternal, true)
	holder := LockHolderResult{Holder: "op/held/upgrade-security/x", RunID: "7"}
	orphaned := LockHolderResult{Holder: "op/left/upgrade-security/x", RunID: "7", Orphaned: true}
	for cluster, want := range map[string]LockHolderResult{"held": holder, "left": orphaned, "past": {}, "free": {}} {
		if got := must[LockHolderResult](t)(run(t, l.LockHolder, cluster, attemptOptions{})); got != want {
			t.Errorf("%s: %+v", cluster, got)
		}
	}
	ids := WorkflowsInput{WorkflowIDs: []string{"lock/cluster/past", "lock/cluster/held", "lock/cluster/free", "op/held/upgrade-security/x"}}
	if got := must[[]string](t)(run(t, l.OpenWorkflows, ids, attemptOptions{})); !slices.Equal(got, []string{"lock/cluster/held", "op/held/upgrade-security/x"}) {
		t.Error(got)
	}
	_, err = run(t, l.OpenWorkflows, WorkflowsInput{WorkflowIDs: []string{"lock/cluster/down"}}, attemptOptions{})
	wantFailure(t, err, operation.ErrInternal, true)
}

func TestScripts_Names_AreFiles(t *testing.T) {
	files, err := filepath.Glob("scripts/*.sh")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, f := range files {
		if text := script(strings.TrimSuffix(filepath.Base(f), ".sh")); !strings.Contains(text, "say()") {
			t.Errorf("%s", f)
		}
	}
}
