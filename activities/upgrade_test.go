package activities

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

func TestUpgrade_PendingPackages_RunsTheDocumentedCommandOnceWithTheProxy(t *testing.T) {
	b := start(t, simcluster.Config{}, "proxy:\n  http: http://proxy.example.net:3128\n  https: http://proxy.example.net:3129\n  no_proxy: localhost")
	must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{}))
	for range 2 { // a second attempt finds the job
		out := must[UpgradeResult](t)(run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{}))
		if !out.Started || out.NeedsRepair || out.Interrupted || !out.RebootRequired {
			t.Errorf("%+v", out)
		}
	}
	b.wantRuns("plain-1", "apt-get update", 1)
	b.wantRuns("plain-1", "unattended-upgrades -d", 1)
	for _, e := range b.node("plain-1").Commands() {
		if e.User != "root" || e.Env["http_proxy"] != "http://proxy.example.net:3128" || e.Env["https_proxy"] != "http://proxy.example.net:3129" || e.Env["no_proxy"] != "localhost" {
			t.Errorf("%s ran as %s with %v", e.Command(), e.User, e.Env)
		}
		if strings.HasPrefix(e.Command(), "unattended") && (e.Env["DEBIAN_FRONTEND"] != "noninteractive" || e.Env["NEEDRESTART_SUSPEND"] != "1") {
			t.Errorf("%s ran with %v", e.Command(), e.Env)
		}
	}
	if b.node("plain-1").PendingCount() != 0 {
		t.Error("packages are still pending")
	}
	lines := 0
	for _, e := range b.logs.FilterMessage("output").All() {
		m := e.ContextMap()
		if m["operation"] == "op-1" && m["node"] == "plain-1" && m["step"] == "upgrade" && strings.Contains(m["line"].(string), "All upgrades installed") {
			lines++
		}
	}
	if lines == 0 {
		t.Error("the output of the job is not in the log")
	}

	record := must[RecordResult](t)(run(t, b.nodes.Record, RecordInput{NodeInput: b.input("plain-1"), UpgradeTries: 1}, attemptOptions{}))
	var names []string
	for _, c := range record.Changes {
		names = append(names, c.Name)
		if c.From == c.To || c.To == "" {
			t.Errorf("%+v", c)
		}
	}
	if got := strings.Join(names, " "); got != "libc6 libssl3 linux-image-6.1.0-26-amd64 linux-image-amd64 openssl" || record.Count != 5 || len(record.Remaining) != 0 {
		t.Errorf("%+v", record)
	}
}

func TestUpgrade_Resumed_GoesOnAtTheOffset(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: 2 * time.Second}, "")
	in := b.upgradeInput("plain-1")
	stop := make(chan struct{})
	first := inBackground(t, b.nodes.Upgrade, in, attemptOptions{stop: stop})
	until(t, "the upgrade runs", func() bool { return b.ran("plain-1", "unattended-upgrades") == 1 })
	close(stop)
	began := time.Now()
	_, err := first.wait(t)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("a stopping worker kept the activity for %s", d)
	}
	wantFailure(t, err, operation.ErrWorker, true)
	var app *temporal.ApplicationError
	if !asApplication(err, &app) || app.NextRetryDelay() != time.Second || app.Category() != temporal.ApplicationErrorCategoryBenign {
		t.Errorf("%v is not benign and retried after 1 s", err)
	}
	b.logs.TakeAll()
	id := jobID(b.op, "plain-1", operation.StepUpgrade, 1)
	offset := int64(0)
	until(t, "some output", func() bool {
		s, err := b.jobs.Status(context.Background(), b.host("plain-1"), id)
		offset = s.OutputSize
		return err == nil && offset > 100
	})
	out := must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{resume: &Beat{Job: id.Dir(), Offset: 100}}))
	if !out.Started {
		t.Error("not started")
	}
	b.wantRuns("plain-1", "unattended-upgrades", 1)
	for _, e := range b.logs.FilterMessage("output").All() {
		if strings.Contains(e.ContextMap()["line"].(string), "Starting unattended upgrades script") {
			t.Error("the output was handed on from its beginning again")
		}
	}
}

func asApplication(err error, app **temporal.ApplicationError) bool {
	for err != nil {
		if a, ok := err.(*temporal.ApplicationError); ok { //nolint:errorlint // the outermost one is the SDK's activity error
			*app = a
			return true
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		err = u.Unwrap()
	}
	return false
}

func TestUpgrade_Cancelled_LeavesThePackageJobAloneAndSettleFollowsIt(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: time.Second}, "")
	ctx, cancel := context.WithCancelCause(context.Background())
	first := inBackground(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{ctx: ctx})
	until(t, "the upgrade runs", func() bool { return b.ran("plain-1", "unattended-upgrades") == 1 })
	began := time.Now()
	cancel(temporal.NewCanceledError())
	if _, err := first.wait(t); !temporal.IsCanceledError(err) {
		t.Errorf("%v", err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %s", d)
	}
	in := b.upgradeInput("plain-1")
	in.Settle = true
	out := must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{}))
	if !out.Started || out.NeedsRepair {
		t.Errorf("%+v", out)
	}
	if b.node("plain-1").PendingCount() != 0 {
		t.Error("the upgrade was stopped")
	}
}

func TestUpgrade_CancelledWhileListsAreFetched_StopsThem(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").HangCommand("apt-get update", 1)
	ctx, cancel := context.WithCancelCause(context.Background())
	first := inBackground(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{ctx: ctx})
	until(t, "the lists are fetched", func() bool { return b.ran("plain-1", "apt-get update") == 1 })
	began := time.Now()
	cancel(temporal.NewCanceledError())
	if _, err := first.wait(t); !temporal.IsCanceledError(err) {
		t.Errorf("%v", err)
	}
	if d := time.Since(began); d > stopWithin {
		t.Errorf("it took %s", d)
	}
	s, err := b.jobs.Status(context.Background(), b.host("plain-1"), jobID(b.op, "plain-1", operation.StepRefresh, 1))
	if err != nil || s.State != remote.JobExited {
		t.Errorf("%+v %v", s, err)
	}
	b.wantRuns("plain-1", "unattended-upgrades", 0)
}

func TestUpgrade_SettleWithoutAJob_StartsNothing(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	in := b.upgradeInput("plain-1")
	in.Settle = true
	out := must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{}))
	reboot := b.rebootInput("plain-1")
	reboot.Settle = true
	out2 := must[RebootResult](t)(run(t, b.nodes.Reboot, reboot, attemptOptions{}))
	repair := b.input("plain-1")
	repair.Settle = true
	out3 := must[JobResult](t)(run(t, b.nodes.Repair, repair, attemptOptions{}))
	if out.Started || out2.Started || out3.Started || len(b.node("plain-1").Commands()) != 0 {
		t.Errorf("%+v %+v %+v %v", out, out2, out3, b.node("plain-1").Commands())
	}
}

func TestUpgrade_AptLockHeld_WaitsAndSaysSo(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	release := b.node("plain-1").HoldAptLock(0)
	defer release()
	asked := &counted{Connections: b.pool}
	b.nodes.Connections = asked
	first := inBackground(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	until(t, "it has asked who holds the locks twice", func() bool { return asked.n.Load() >= 2 })
	b.wantRuns("plain-1", "apt-get update", 0)
	release()
	out, err := first.wait(t)
	if err != nil || !out.Started {
		t.Fatalf("%+v %v", out, err)
	}
	if !strings.Contains(strings.Join(out.Notes, "\n"), "for apt: held by pid") {
		t.Errorf("%v", out.Notes)
	}
	b.wantRuns("plain-1", "unattended-upgrades", 1)
}

func TestUpgrade_AptLockHeldTooLong_IsAptLockedAndTouchesNothing(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	defer b.node("plain-1").HoldAptLock(0)()
	in := b.upgradeInput("plain-1")
	in.AptLockTimeout = operation.Duration(time.Second)
	_, err := run(t, b.nodes.Upgrade, in, attemptOptions{})
	wantFailure(t, err, operation.ErrAptLocked, false, "plain-1: the apt locks were held for 1s, now by pid ", "nothing was changed")
	if c := b.node("plain-1").Commands(); len(c) != 0 {
		t.Errorf("%v", c)
	}
}

func TestUpgrade_CommandFails_IsRemoteExitWithItsEnd(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").FailCommand("unattended-upgrades", 1, 3, "something \x1b[31mbroke")
	_, err := run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	f := wantFailure(t, err, operation.ErrRemoteExit, false, "plain-1: unattended-upgrades -d ended with exit code 3", `something \x1b[31mbroke`)
	if f.Job != jobID(b.op, "plain-1", operation.StepUpgrade, 1).Dir() || !strings.Contains(f.Tail, "broke") || strings.Contains(f.Tail, "\x1b") {
		t.Errorf("%+v", f)
	}
	_, err = run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false)
	b.wantRuns("plain-1", "unattended-upgrades", 1)
}

func TestUpgrade_PostinstFails_NeedsRepairAndThenTheNextTry(t *testing.T) {
	pending := simcluster.DefaultPending()
	pending[0].PostinstFails = 1
	b := start(t, simcluster.Config{Platform: "plain", Nodes: []simcluster.NodeConfig{{Name: "plain-1", Pending: pending}}}, "")
	out := must[UpgradeResult](t)(run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{}))
	if !out.NeedsRepair || out.Interrupted || len(out.Notes) == 0 {
		t.Errorf("%+v", out)
	}
	must[JobResult](t)(run(t, b.nodes.Repair, b.input("plain-1"), attemptOptions{}))
	in := b.upgradeInput("plain-1")
	in.JobTry = 2
	if out := must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{})); out.NeedsRepair || !out.Started {
		t.Errorf("%+v", out)
	}
	b.wantRuns("plain-1", "dpkg --configure -a", 1)
	b.wantRuns("plain-1", "unattended-upgrades", 2)
	record := must[RecordResult](t)(run(t, b.nodes.Record, RecordInput{NodeInput: b.input("plain-1"), UpgradeTries: 2}, attemptOptions{}))
	if record.Count != 5 {
		t.Errorf("the changes of the first try are not counted: %+v", record)
	}
}

func TestUpgrade_RebootedInTheMiddle_IsInterrupted(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: 10 * time.Second}, "")
	first := inBackground(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	until(t, "packages are half done", func() bool { return len(b.node("plain-1").HalfConfigured()) > 0 })
	b.node("plain-1").RebootNow()
	out, err := first.wait(t)
	if err != nil || !out.Interrupted || !out.NeedsRepair {
		t.Fatalf("%+v %v", out, err)
	}
	probe := must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{}))
	if len(probe.HalfConfigured) == 0 || probe.BootID != b.node("plain-1").BootID() {
		t.Errorf("%+v", probe)
	}
	b.wantRuns("plain-1", "unattended-upgrades", 1)
}

func TestUpgrade_ConnectionDropped_FollowsOn(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: time.Second}, "")
	first := inBackground(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	until(t, "the upgrade runs", func() bool { return b.ran("plain-1", "unattended-upgrades") == 1 })
	b.node("plain-1").DropConnections()
	if out, err := first.wait(t); err != nil || !out.Started {
		t.Errorf("%+v %v", out, err)
	}
	b.wantRuns("plain-1", "unattended-upgrades", 1)
}

func TestUpgrade_NodeGone_IsUnreachableAndNamesTheJob(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: 20 * time.Second}, "")
	in := b.upgradeInput("plain-1")
	in.UnreachableAfter = operation.Duration(1500 * time.Millisecond)
	first := inBackground(t, b.nodes.Upgrade, in, attemptOptions{})
	until(t, "the upgrade runs", func() bool { return b.ran("plain-1", "unattended-upgrades") == 1 })
	b.node("plain-1").PowerOff()
	_, err := first.wait(t)
	f := wantFailure(t, err, operation.ErrUnreachable, false, "plain-1: not reached for 1.5s")
	if f.Job != jobID(b.op, "plain-1", operation.StepUpgrade, 1).Dir() {
		t.Errorf("%+v", f)
	}
}

func TestUpgrade_TakesTooLong_IsTimeoutAndTheJobGoesOn(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: 3 * time.Second}, "")
	in := b.upgradeInput("plain-1")
	in.Timeout = operation.Duration(500 * time.Millisecond)
	_, err := run(t, b.nodes.Upgrade, in, attemptOptions{})
	wantFailure(t, err, operation.ErrTimeout, false, "still runs as job")
	in.Timeout = operation.Duration(time.Minute)
	must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{}))
	b.wantRuns("plain-1", "unattended-upgrades", 1)
}

func TestUpgrade_DiskFull_IsDiskFullAndStartsNothing(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").FillDisk(true)
	_, err := run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrDiskFull, false, "plain-1: ")
	if c := b.node("plain-1").Commands(); len(c) != 0 {
		t.Errorf("%v", c)
	}
}

func TestUpgrade_HostKeyChanged_StopsAtOnce(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").ChangeHostKey()
	_, err := run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrSSHHostKey, false, "plain-1: ", "has changed")
}

func TestUpgrade_SupersededOperation_IsFenced(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	newer := b.op
	newer.ID, newer.Token = "op-2", 200
	in := b.input("plain-1")
	in.Operation = newer
	must[ProbeResult](t)(run(t, b.nodes.Probe, in, attemptOptions{}))
	_, err := run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrFenced, false, "op-2")
	_, err = run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrFenced, false, "op-2")
	if c := b.node("plain-1").Commands(); len(c) != 0 {
		t.Errorf("%v", c)
	}
}

func TestUpgrade_Pins_RefuseOtherCandidatesBeforeAnythingIsUpgraded(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	in := b.upgradeInput("plain-1")
	in.Pins = []operation.PackageVersion{{Name: "openssl", Version: "3.0.15-1"}, {Name: "not-there", Version: "1"}}
	_, err := run(t, b.nodes.Upgrade, in, attemptOptions{})
	wantFailure(t, err, operation.ErrPin, false, "plain-1: openssl would become 3.0.14-1~deb12u2, the canary has 3.0.15-1")
	b.wantRuns("plain-1", "unattended-upgrades", 0)

	in.Pins[0].Version = "3.0.14-1~deb12u2"
	must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{}))
	// Once it is started the candidates are not asked again.
	in.Pins[0].Version = "9"
	must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{}))
	record := RecordInput{NodeInput: b.input("plain-1"), UpgradeTries: 1, Pins: []operation.PackageVersion{{Name: "openssl", Version: "3.0.14-1~deb12u2"}, {Name: "not-there", Version: "1"}}}
	must[RecordResult](t)(run(t, b.nodes.Record, record, attemptOptions{}))
	record.Pins[0].Version = "9"
	_, err = run(t, b.nodes.Record, record, attemptOptions{})
	wantFailure(t, err, operation.ErrPin, false, "openssl is 3.0.14-1~deb12u2, the canary has 9")
}

func TestRecord_NothingChangedAndAllPending_IsVerify(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").FailCommand("unattended-upgrades", 1, 0, "")
	must[UpgradeResult](t)(run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{}))
	_, err := run(t, b.nodes.Record, RecordInput{NodeInput: b.input("plain-1"), UpgradeTries: 1}, attemptOptions{})
	wantFailure(t, err, operation.ErrVerify, false, "changed nothing", "libc6")
}

func TestEnded_EachCause_SaysWhetherItIsACancel(t *testing.T) {
	for name, c := range map[string]struct {
		cause  error
		cancel bool
	}{
		"cancel": {temporal.NewCanceledError(), true}, "shutdown": {worker.ErrWorkerShutdown, false}, "timeout": {context.DeadlineExceeded, false}, "lost": {context.Canceled, false},
	} {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(c.cause)
		err := ended(ctx)
		if temporal.IsCanceledError(err) != c.cancel || cancelled(ctx) != c.cancel {
			t.Errorf("%s: %v", name, err)
		}
		if !c.cancel {
			wantFailure(t, err, operation.ErrWorker, true)
		}
	}
}

func TestUpgrade_ConnectionDroppedAndTakesTooLong_IsStillTimeout(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").HangCommand("unattended-upgrades", 1)
	in := b.upgradeInput("plain-1")
	in.Timeout = operation.Duration(4 * time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	upgrade := inBackground(t, b.nodes.Upgrade, in, attemptOptions{ctx: ctx})
	until(t, "the upgrade runs", func() bool { return b.ran("plain-1", "unattended-upgrades") == 1 })
	b.node("plain-1").DropConnections()
	_, err := upgrade.wait(t)
	wantFailure(t, err, operation.ErrTimeout, false, "plain-1: upgrade takes longer than 4s")
}

func TestUpgrade_ProxyChangedWhileItRuns_IsFollowedAndTold(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").SlowCommand("unattended-upgrades", 1, 4*time.Second)
	in := b.upgradeInput("plain-1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first := inBackground(t, b.nodes.Upgrade, in, attemptOptions{ctx: ctx})
	until(t, "the upgrade runs", func() bool { return b.ran("plain-1", "unattended-upgrades") == 1 })
	b.writeInventory("proxy:\n  http: http://proxy.example.org:3128")
	cancel() // as with a killed worker
	_, err := first.wait(t)
	wantFailure(t, err, operation.ErrWorker, true)
	out := must[UpgradeResult](t)(run(t, b.nodes.Upgrade, in, attemptOptions{}))
	if !out.Started || out.NeedsRepair || !strings.Contains(strings.Join(out.Notes, " "), "the inventory has changed") {
		t.Errorf("%+v", out)
	}
	b.wantRuns("plain-1", "unattended-upgrades", 1)
}

func TestRepair_RebootedInTheMiddle_IsInterrupted(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").HangCommand("dpkg --configure", 1)
	repair := inBackground(t, b.nodes.Repair, b.input("plain-1"), attemptOptions{})
	until(t, "the repair runs", func() bool { return b.ran("plain-1", "dpkg --configure") == 1 })
	b.node("plain-1").RebootNow()
	if out, err := repair.wait(t); err != nil || !out.Started || !out.Interrupted {
		t.Errorf("%+v %v", out, err)
	}
}

func TestProbe_AnotherRunOfAptInTheMiddleOfItsWork_IsNothingToRepair(t *testing.T) {
	b := start(t, simcluster.Config{UpgradeTime: 10 * time.Second}, "")
	first := inBackground(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{})
	until(t, "packages are half done", func() bool { return len(b.node("plain-1").HalfConfigured()) > 0 })
	if out := must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{})); len(out.HalfConfigured) > 0 {
		t.Errorf("%+v", out)
	}
	b.node("plain-1").PowerOff() // now it is
	b.node("plain-1").PowerOn()
	if out := must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{})); len(out.HalfConfigured) == 0 {
		t.Errorf("%+v", out)
	}
	if out, err := first.wait(t); err != nil || !out.NeedsRepair {
		t.Errorf("%+v %v", out, err)
	}
}

func TestRepair_AptLocksHeld_WaitsAndSaysSo(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	release := b.node("plain-1").HoldAptLock(0)
	defer release()
	asked := &counted{Connections: b.pool}
	b.nodes.Connections = asked
	repair := inBackground(t, b.nodes.Repair, b.input("plain-1"), attemptOptions{})
	until(t, "it has asked who holds the locks twice", func() bool { return asked.n.Load() >= 2 })
	b.wantRuns("plain-1", "dpkg --configure -a", 0)
	release()
	out, err := repair.wait(t)
	if err != nil || !out.Started || !strings.Contains(strings.Join(out.Notes, " "), "for apt: held by") {
		t.Errorf("%+v %v", out, err)
	}
	b.wantRuns("plain-1", "dpkg --configure -a", 1)
}
