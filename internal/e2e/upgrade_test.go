package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster"
)

func TestUpgrade_AllWell_EveryNodePatchedRebootedAndProved(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, slow(200*time.Millisecond))
	s.worker("")
	f := s.fault("nothing but packages of which one restarts sshd in mid-run")
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	out := s.cli(0, "upgrade", "security", s.cluster.Name(), "--maintenance", "--id", id)
	require.Contains(t, out.Stdout, "5 of 5 nodes done")
	r := s.attach(id).done(5 * time.Second)
	for _, n := range s.cluster.Nodes() {
		proof := nodeOf(t, r, n.Name()).Proof
		require.NotNil(t, proof, n.Name())
		require.Equal(t, n.BootID(), proof.BootIDAfter)
		require.NotEqual(t, proof.BootIDBefore, proof.BootIDAfter)
		if h, real := n.(host); real {
			require.Equal(t, "not applicable (container)", proof.Kernel, "no more than what is true is said")
			require.Contains(t, h.run("journalctl -q --no-pager -b -1 -u ssh.service"), "Stopping ssh.service", "a package restarted sshd in mid-run")
			require.Equal(t, proof.BootIDAfter, strings.TrimSpace(h.run("cat /proc/sys/kernel/random/boot_id")))
		} else {
			require.Contains(t, proof.Kernel, simcluster.DefaultNewKernel)
		}
	}
	s.upgraded(1, s.names()...)
	require.Empty(t, s.repeated())
	require.Equal(t, 1, s.cluster.MaxOutOfService(), "one node at a time")
	require.False(t, s.cluster.Maintenance(), "maintenance mode is put back")
	f.end(wentOn)
}
