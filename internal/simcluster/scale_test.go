package simcluster

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCluster_500Nodes_FitOneProcess(t *testing.T) {
	nodes := make([]NodeConfig, 500)
	for i := range nodes {
		nodes[i] = NodeConfig{Name: fmt.Sprintf("node-%03d", i)}
	}
	start := time.Now()
	c := startCluster(t, Config{Platform: "plain", Nodes: nodes, BootTime: 20 * time.Millisecond})
	t.Logf("start: %s", time.Since(start))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 25)
	// A fifth of them does all its work: that is enough for the figures, and making 500 file trees is what takes the time.
	worked := c.Nodes()[:100]
	for _, n := range worked {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			client, err := tryDial(t, n)
			if err != nil {
				t.Error(err)
				return
			}
			defer client.Close()
			if r := run(t, client, "sudo unattended-upgrades -d >/dev/null && sudo reboot"); r.exit > 0 {
				t.Errorf("%s: %+v", n.Name(), r)
			}
			eventually(t, "second boot", func() bool { return n.Boots() == 2 })
		})
	}
	wg.Wait()
	t.Logf("all upgraded and rebooted: %s", time.Since(start))
	require.LessOrEqual(t, c.MaxOutOfService(), 25)
	require.Len(t, c.Commands(), 2*len(worked))
	for _, n := range worked {
		require.Equal(t, DefaultNewKernel, n.KernelRunning())
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("in use: %d MiB", m.Sys>>20)
	require.Less(t, m.HeapAlloc, uint64(300<<20))
}
