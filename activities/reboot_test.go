package activities

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

func (b *bench) proofInput(node, before string, began time.Time) ProofInput {
	return ProofInput{NodeInput: b.input(node), BootIDBefore: before, RebootBegan: began.UTC().Format(time.RFC3339Nano)}
}

func TestReboot_NodeReturns_IsProvedAndDoneOnce(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	must[UpgradeResult](t)(run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{}))
	before, began := b.node("plain-1").BootID(), time.Now()
	for i := range 2 { // a later attempt finds another boot id and does nothing
		out := must[RebootResult](t)(run(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{}))
		if !out.Started || out.Earlier != (i > 0) || out.BootIDBefore != before || out.BootIDAfter != b.node("plain-1").BootID() || out.BootIDAfter == before {
			t.Errorf("%+v", out)
		}
	}
	b.wantRuns("plain-1", rebootCommandName, 1)
	if b.node("plain-1").Boots() != 2 {
		t.Errorf("%d boots", b.node("plain-1").Boots())
	}
	proof := must[operation.BootProof](t)(run(t, b.nodes.Proof, b.proofInput("plain-1", before, began), attemptOptions{}))
	if proof.BootIDBefore != before || proof.BootIDAfter != b.node("plain-1").BootID() || proof.Init == "" ||
		proof.Kernel != simcluster.DefaultNewKernel+", as the boot loader names it" || proof.KernelRunning != simcluster.DefaultNewKernel {
		t.Errorf("%+v", proof)
	}
}

const rebootCommandName = "reboot"

func TestReboot_NodeAnswers_IsSeenWithin300Milliseconds(t *testing.T) {
	b := start(t, simcluster.Config{BootTime: 700 * time.Millisecond}, "")
	must[RebootResult](t)(run(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{}))
	seen := time.Now()
	var up time.Time
	for _, e := range b.cluster.Events() {
		if e.Kind == "boot" {
			up = e.Time
		}
	}
	// Generous for a loaded machine; a look is due every 50 ms.
	if d := seen.Sub(up); d > 3*time.Second {
		t.Errorf("seen %s after it was up", d)
	}
}

func TestLook_NodeThatIsAway_IsFrequentAtFirstAndGentleToBastionAndSshd(t *testing.T) {
	direct, behind := remote.Host{ConnectTimeout: 10 * time.Second}, remote.Host{ConnectTimeout: time.Second, Bastion: &remote.Host{}}
	for _, c := range []struct {
		host    remote.Host
		away    time.Duration
		refused int
		want    time.Duration
	}{
		{direct, time.Second, 0, 50 * time.Millisecond},
		{direct, 10 * time.Second, 0, 100 * time.Millisecond},
		{direct, time.Hour, 0, 200 * time.Millisecond},
		{behind, time.Second, 0, 200 * time.Millisecond},
		{direct, time.Second, 1, 100 * time.Millisecond},
		{direct, time.Second, 2, 400 * time.Millisecond},
		{direct, time.Second, 3, 1600 * time.Millisecond},
		{direct, time.Second, 1000, 2 * time.Second},
	} {
		if got := pauseBeforeLook(c.host, c.away, c.refused); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	for away, want := range map[time.Duration]time.Duration{0: lookDial, 5 * time.Second: 500 * time.Millisecond, time.Minute: time.Second} {
		if h := hurried(direct, away); h.DialTimeout != want || h.ConnectTimeout != lookConnect {
			t.Errorf("away for %s: %+v", away, h)
		}
	}
	if h := hurried(behind, 0); h.DialTimeout != lookDialThrough || h.ConnectTimeout != time.Second {
		t.Errorf("a host's own shorter time is overridden: %+v", h)
	}
}

func TestReboot_RebootedBySomethingElseBefore_IsRebootedAgain(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	must[ProbeResult](t)(run(t, b.nodes.Probe, b.input("plain-1"), attemptOptions{}))
	first := b.node("plain-1").BootID()
	b.node("plain-1").RebootNow()
	until(t, "the other reboot", func() bool { return b.node("plain-1").Boots() == 2 && b.node("plain-1").Running() })
	second := b.node("plain-1").BootID()
	out := must[RebootResult](t)(run(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{}))
	if out.BootIDBefore != second || out.BootIDBefore == first || b.node("plain-1").Boots() != 3 {
		t.Errorf("%+v, %d boots", out, b.node("plain-1").Boots())
	}
	b.wantRuns("plain-1", rebootCommandName, 1)
}

func TestReboot_NeverReturns_IsNotReturnedAndARetryWaitsOn(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").NeverReturn(true)
	in := b.rebootInput("plain-1")
	in.Timeout = operation.Duration(1500 * time.Millisecond)
	_, err := run(t, b.nodes.Reboot, in, attemptOptions{})
	f := wantFailure(t, err, operation.ErrNotReturned, false, "plain-1: did not come back within 1.5s of its reboot")
	if f.Job == "" {
		t.Error("the job is not named")
	}
	b.node("plain-1").NeverReturn(false)
	b.node("plain-1").PowerOn()
	must[RebootResult](t)(run(t, b.nodes.Reboot, in, attemptOptions{}))
	b.wantRuns("plain-1", rebootCommandName, 1)
}

func TestReboot_AcceptedWithoutEffect_IsNotReturned(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").RebootDoesNothing(true)
	in := b.rebootInput("plain-1")
	in.Timeout = operation.Duration(time.Second)
	_, err := run(t, b.nodes.Reboot, in, attemptOptions{})
	wantFailure(t, err, operation.ErrNotReturned, false, "the reboot was accepted but the boot id is still the same")
}

func TestReboot_CommandFails_IsRemoteExit(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").FailCommand("reboot", 1, 1, "Failed to talk to init daemon.")
	_, err := run(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{})
	wantFailure(t, err, operation.ErrRemoteExit, false, "plain-1: /sbin/reboot ended with exit code 1", "Failed to talk to init daemon.")
}

func TestReboot_ReturnsWithAnotherHostKey_StopsAtOnce(t *testing.T) {
	b := start(t, simcluster.Config{BootTime: 500 * time.Millisecond}, "")
	first := inBackground(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{})
	until(t, "the node is down", func() bool { return !b.node("plain-1").Running() })
	b.node("plain-1").ChangeHostKey()
	_, err := first.wait(t)
	wantFailure(t, err, operation.ErrSSHHostKey, false, "plain-1: ", "has changed")
}

func TestReboot_WorkerStopsWhileItIsDown_TheNextAttemptGoesOn(t *testing.T) {
	b := start(t, simcluster.Config{BootTime: time.Second}, "")
	stop := make(chan struct{})
	first := inBackground(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{stop: stop})
	until(t, "the node is down", func() bool { return !b.node("plain-1").Running() })
	close(stop)
	_, err := first.wait(t)
	wantFailure(t, err, operation.ErrWorker, true)
	must[RebootResult](t)(run(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{}))
	b.wantRuns("plain-1", rebootCommandName, 1)
}

func TestReboot_Cancelled_EndsAtOnceAndSettleWaits(t *testing.T) {
	b := start(t, simcluster.Config{BootTime: time.Second}, "")
	ctx, cancel := context.WithCancelCause(context.Background())
	first := inBackground(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{ctx: ctx})
	until(t, "the node is down", func() bool { return !b.node("plain-1").Running() })
	cancel(temporal.NewCanceledError())
	if _, err := first.wait(t); !temporal.IsCanceledError(err) {
		t.Errorf("%v", err)
	}
	in := b.rebootInput("plain-1")
	in.Settle = true
	if out := must[RebootResult](t)(run(t, b.nodes.Reboot, in, attemptOptions{})); !out.Started || out.BootIDAfter == out.BootIDBefore {
		t.Errorf("%+v", out)
	}
	b.wantRuns("plain-1", rebootCommandName, 1)
}

func TestProof_Container_SaysThatTheKernelIsNotItsOwn(t *testing.T) {
	b := start(t, simcluster.Config{Platform: "plain", Nodes: []simcluster.NodeConfig{{Name: "plain-1", Container: true}}}, "")
	before, began := b.node("plain-1").BootID(), time.Now()
	must[RebootResult](t)(run(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{}))
	proof := must[operation.BootProof](t)(run(t, b.nodes.Proof, b.proofInput("plain-1", before, began), attemptOptions{}))
	if proof.Kernel != "not applicable (container)" || proof.Init == "" {
		t.Errorf("%+v", proof)
	}
}

func TestProof_OldKernel_IsBootProof(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	b.node("plain-1").KernelNotUpdated(true)
	must[UpgradeResult](t)(run(t, b.nodes.Upgrade, b.upgradeInput("plain-1"), attemptOptions{}))
	before, began := b.node("plain-1").BootID(), time.Now()
	must[RebootResult](t)(run(t, b.nodes.Reboot, b.rebootInput("plain-1"), attemptOptions{}))
	_, err := run(t, b.nodes.Proof, b.proofInput("plain-1", before, began), attemptOptions{})
	wantFailure(t, err, operation.ErrBootProof, false, "plain-1: it runs kernel "+simcluster.DefaultKernel, "the boot loader's default is "+simcluster.DefaultNewKernel)
}

func TestProof_SameBoot_IsBootProof(t *testing.T) {
	b := start(t, simcluster.Config{}, "")
	_, err := run(t, b.nodes.Proof, b.proofInput("plain-1", b.node("plain-1").BootID(), time.Now()), attemptOptions{})
	wantFailure(t, err, operation.ErrBootProof, false, "it did not reboot")
}

func TestJudgeBoot_EachDoubt_IsNoProof(t *testing.T) {
	good := func() answer {
		return answer{values: map[string][]string{"boot": {"new"}, "release": {"6.1.0-26-amd64"}, "ticks": {"100"}, "uptime": {"20.00 1"}, "container": {""}},
			sections: map[string]string{"init": "1 (systemd) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 100 1 2", "kernels": "vmlinuz-6.1.0-26-amd64\n"}}
	}
	if proof, err := judgeBoot("n", good(), "old", 30*time.Second); err != nil || proof.Kernel != "6.1.0-26-amd64, the newest in /boot" {
		t.Errorf("%+v %v", proof, err)
	}
	for name, change := range map[string]func(answer){
		"boot id not read":       func(a answer) { delete(a.values, "boot") },
		"PID 1 too old":          func(a answer) { a.values["uptime"] = []string{"100.00 1"} },
		"PID 1 not read":         func(a answer) { a.sections["init"] = "" },
		"another kernel is new":  func(a answer) { a.sections["kernels"] = "vmlinuz-6.1.0-27-amd64\n" },
		"another kernel by grub": func(a answer) { a.sections["grub"] = strings.Replace(grub, "DEFAULT", "1>1", 1) },
	} {
		a := good()
		change(a)
		if _, err := judgeBoot("n", a, "old", 30*time.Second); err == nil {
			t.Errorf("%s: proved", name)
		} else {
			wantFailure(t, err, operation.ErrBootProof, false, "n: ")
		}
	}
	for name, change := range map[string]func(answer){
		"no kernels":   func(a answer) { a.sections["kernels"] = "" },
		"strange grub": func(a answer) { a.sections["grub"] = "set default=0\n" },
		"no release":   func(a answer) { a.values["release"] = nil },
	} {
		a := good()
		change(a)
		if proof, err := judgeBoot("n", a, "old", 30*time.Second); err != nil || !strings.HasPrefix(proof.Kernel, "not proved: ") {
			t.Errorf("%s: %+v %v", name, proof, err)
		}
	}
	if _, err := judgeBoot("n", good(), "", 30*time.Second); err == nil {
		t.Error("an unknown boot id before is a difference")
	}
}
