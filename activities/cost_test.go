package activities

import (
	"context"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// The time above the node's own work: nothing here sleeps but the polls of the activities themselves.
func TestSteps_NodeOfZeroTime_CostLittle(t *testing.T) {
	b := start(t, simcluster.Config{Platform: "als", Nodes: clusterOf("core", "dea-1", "dea-2"), BootTime: 100 * time.Millisecond}, "")
	began := time.Now()
	lap := func(name string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%-14s %s", name, time.Since(began).Round(time.Millisecond))
	}
	ctx := attemptOptions{ctx: context.Background()}
	_, err := run(t, b.nodes.Probe, b.input("dea-1"), ctx)
	lap("probe", err)
	_, err = run(t, b.kato.Retire, b.input("dea-1"), ctx)
	lap("retire", err)
	_, err = run(t, b.nodes.Upgrade, b.upgradeInput("dea-1"), ctx)
	lap("upgrade", err)
	rebootBegan, before := time.Now(), b.node("dea-1").BootID()
	_, err = run(t, b.nodes.Reboot, b.rebootInput("dea-1"), ctx)
	lap("reboot", err)
	_, err = run(t, b.nodes.Proof, b.proofInput("dea-1", before, rebootBegan), ctx)
	lap("proof", err)
	_, err = run(t, b.nodes.Gates, NodeGatesInput{NodeInput: b.input("dea-1"), Times: 3, Interval: operation.Duration(10 * time.Millisecond), Timeout: operation.Duration(20 * time.Second)}, ctx)
	lap("gates", err)
	_, err = run(t, b.nodes.Record, RecordInput{NodeInput: b.input("dea-1"), UpgradeTries: 1}, ctx)
	lap("record", err)
	// The figure is held by the benchmark; this bound only finds a poll that should not be there, on a machine under any load.
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("%s", d)
	}
}
