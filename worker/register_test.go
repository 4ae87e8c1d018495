package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// recorder is a registry that only remembers.
type recorder struct {
	worker.Registry
	workflows, activities []string
	empty                 []string
}

func (r *recorder) RegisterWorkflowWithOptions(_ any, o workflow.RegisterOptions) {
	r.workflows = append(r.workflows, o.Name)
}

func (r *recorder) RegisterActivity(a any) {
	v := reflect.ValueOf(a)
	for i := range v.NumMethod() {
		r.activities = append(r.activities, v.Type().Method(i).Name)
	}
	for i := range v.Elem().NumField() {
		f := v.Elem().Type().Field(i)
		if k := f.Type.Kind(); f.IsExported() && (k == reflect.Pointer || k == reflect.Interface) && v.Elem().Field(i).IsNil() {
			r.empty = append(r.empty, v.Elem().Type().Name()+"."+f.Name)
		}
	}
}

func TestRegister_Everything_HasAUniqueNameAndItsDependencies(t *testing.T) {
	pool := remote.NewPool(remote.Options{})
	defer pool.Close()
	lazy, err := client.NewLazyClient(client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.Close()
	r := &recorder{}
	register(r, hands{inventory: "x", env: noEnv, environment: noEnv, pool: pool, client: lazy, log: zap.NewNop()})

	want := []string{operation.WorkflowAccess, operation.WorkflowAccessCheck, operation.WorkflowAccessNode, operation.WorkflowApps, operation.WorkflowAppsBatch, operation.WorkflowAppsList, operation.WorkflowBackup, operation.WorkflowBackupDelete, operation.WorkflowBackupList, operation.WorkflowBackupPrune, operation.WorkflowBackupShow, operation.WorkflowBackupVerify,
		operation.WorkflowClusterCheck, operation.WorkflowHold, operation.WorkflowClusterLock, operation.WorkflowClusterStatus, operation.WorkflowClusterTrust, operation.WorkflowImageUpgrade, operation.WorkflowImageUpgradeNode, operation.WorkflowPatch, operation.WorkflowPatchNode, operation.WorkflowPatchStatus, operation.WorkflowReleaseUpgrade, operation.WorkflowReleaseUpgradeNode, operation.WorkflowRestore, operation.WorkflowSecurityUpgrade, operation.WorkflowSecurityUpgradeNode, operation.WorkflowSnapshot,
		operation.WorkflowSnapshotDelete, operation.WorkflowSnapshotList, operation.WorkflowSnapshotPrune, operation.WorkflowSnapshotRollback, operation.WorkflowSnapshotShow, operation.WorkflowSnapshotVerify, operation.WorkflowQuota, operation.WorkflowQuotaNode, operation.WorkflowRelocate}
	slices.Sort(r.workflows)
	if !slices.Equal(r.workflows, want) {
		t.Errorf("workflows %v, want %v", r.workflows, want)
	}
	slices.Sort(r.activities)
	if unique := slices.Compact(slices.Clone(r.activities)); len(unique) != len(r.activities) {
		t.Errorf("two activities have one name: %v", r.activities)
	}
	for _, name := range strings.Fields("Resolve Trust LockToken LockHolder Preflight NodesStatus Storage Fence ClusterGates Probe Upgrade Repair Reboot Proof Gates Record PlanCommands Retire " +
		"EnterMaintenance LeaveMaintenance Notify LocateArchives ListArchives ShowArchive VerifyArchive DeleteArchive PlanPrune PruneArchives PlanSetPrune PruneSets " +
		"PreflightImages LookAtImages BuildImage CheckImage PushImage PullImage TagImage SetImageList OldImages DEATemplate PlanImages PatchesStatus LookAtPatches ChangePatches RestartRoles PlanPatches QuotaReady SwitchQuotas PlanQuota RelocateReady KeepSource RelocateData CompareCopy SwitchBack TidySource PlanRelocate ReleaseNodes ReleaseCore Buildpacks UpdateKato DownloadRelease LookAtRelease UpgradeNode RollBackNode PlanRelease") {
		if !slices.Contains(r.activities, name) {
			t.Errorf("activity %s is not registered", name)
		}
	}
	// An HTTP client of its own is the notifier's default.
	if !slices.Equal(r.empty, []string{"Notifier.Client"}) {
		t.Errorf("not set: %v", r.empty)
	}
}

func TestWorker_UnknownCluster_FailsTheOperationWithTheReasonAndLogsWhere(t *testing.T) {
	address, _ := devstack(t, "0")
	p := start(t, nil, "--inventory", goodInventory(t), "--address", address)
	p.waitFor(t, `"worker ready"`)
	c, err := temporalkit.LoadClient(t.Context(), temporalkit.ClientOptions{Address: address, ConfigFile: "/dev/null"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: operation.WorkflowID("nowhere", operation.KindSecurityUpgrade, "op-7"), TaskQueue: operation.DefaultTaskQueue, WorkflowExecutionTimeout: time.Minute,
	}, operation.WorkflowSecurityUpgrade, operation.SecurityUpgradeInput{Request: operation.Request{OperationID: "op-7", Cluster: "nowhere"}})
	if err != nil {
		t.Fatal(err)
	}
	var report operation.Report
	err = run.Get(t.Context(), &report)
	if said := fmt.Sprint(err, report.Message); !strings.Contains(said, "nowhere") || !strings.Contains(said, "lab") {
		t.Errorf("got %v, want the unknown cluster and those there are", said)
	}
	p.waitFor(t, `"step":"resolve"`)
	for text := range strings.Lines(p.text()) {
		if strings.Contains(text, `"step":"resolve"`) && !strings.Contains(text, `"operation":"op-7","cluster":"nowhere"`) {
			t.Errorf("a line without its operation: %s", text)
		}
	}
}
