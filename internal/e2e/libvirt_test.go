package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor/libvirt/libvirttest"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/share"
)

func init() {
	libvirttest.Required = os.Getenv("KATOFLOW_LIBVIRT") != ""
	var err error
	if libvirttest.Part, err = share.Parse(os.Getenv(share.Variable)); err != nil {
		panic(err)
	}
}

// onLibvirt gives the nodes real QEMU domains of their names, on a libvirt that the worker reaches over a real sshd. What a domain does is not what its node does.
func onLibvirt(t *testing.T, nodes int) (*site, *libvirttest.Libvirt) {
	s := newSite(t, nil, nil, deas(nodes-1), freezable, func(c *config) { c.s3, c.slow = true, 0 })
	v := libvirttest.Start(t, "", s.names()...)
	sshd := v.ServeSSH(t)
	s.replace("    nodes:\n", fmt.Sprintf(`    hypervisor:
      provider: libvirt
      stop_within: 2s
      freeze: {mounts: [%s]}
      hosts: [{name: kvm-1, address: 127.0.0.1, ssh: {user: %s, port: %d, key_files: [%s], known_hosts: [%s]}}]
      libvirt: {uri: "%s"}
    nodes:
`, frozenAt, sshd.User, sshd.Port, sshd.Key, sshd.KnownHosts, v.URI))
	s.worker("")
	return s, v
}

// snapshotsOf returns the names that libvirt lists of a domain.
func snapshotsOf(t *testing.T, v *libvirttest.Libvirt, domain string) []string {
	return strings.Fields(v.Virsh(t, "snapshot-list", domain, "--name"))
}

// TestSnapshot_OnRealLibvirt_OfEightDomains_IsTakenListedGoneBackToAndDeleted takes, checks, goes back to and deletes a set of real domains. It prints how far the requests were apart.
func TestSnapshot_OnRealLibvirt_OfEightDomains_IsTakenListedGoneBackToAndDeleted(t *testing.T) {
	t.Parallel()
	s, v := onLibvirt(t, 8)
	for _, d := range v.Domains {
		v.WriteRunning(t, d, 'a')
	}
	o := s.snapshot("--max-skew", "30s")
	r := o.done(2 * time.Minute)
	m := r.Snapshot.Moment
	require.True(t, m.Measured)
	require.True(t, m.Inside, "%+v", m)
	for _, d := range v.Domains {
		require.Len(t, snapshotsOf(t, v, d), 1, d)
		v.WriteRunning(t, d, 'b')
	}
	var slowest time.Duration
	for _, have := range r.Snapshot.Snapshots {
		slowest = max(slowest, timeIn(t, have.Completed).Sub(timeIn(t, have.Requested)))
		require.Regexp(t, `^\d+:vda,vdb$`, have.ID)
	}
	fmt.Printf("real libvirt, 8 domains: requested within %s, skew bound %s, slowest call %s, quiet %s\n", m.RequestSpread.D(), m.SkewBound.D(), slowest, m.QuietInterval.D())
	require.Contains(t, s.cli(0, "snapshot", "verify", s.cluster.Name()).Stdout, "whole")

	back := s.rollback(o.id)
	r = back.done(3 * time.Minute)
	require.Equal(t, operation.RolledToSet, r.Sets.Rollback.Moment)
	for _, d := range v.Domains {
		require.Equal(t, "running", strings.TrimSpace(v.Virsh(t, "domstate", d)), d)
		require.Len(t, snapshotsOf(t, v, d), 2, "%s: that of the set, and that of before the rollback", d)
		v.Virsh(t, "destroy", d)
		require.Equal(t, strings.Repeat("a", 512), v.Read(t, d), "both disks of %s", d)
		v.Virsh(t, "start", d)
	}

	// The way back.
	again := s.rollback(back.id, "--no-safety-snapshots")
	again.done(3 * time.Minute)
	again.resumed()
	for _, d := range v.Domains {
		v.Virsh(t, "destroy", d)
		require.Equal(t, strings.Repeat("b", 512), v.Read(t, d), "both disks of %s", d)
		v.Virsh(t, "start", d)
	}

	// The roles of all nodes stopped, and their file systems frozen.
	frozen := s.snapshot("--quiesce", "frozen,roles-stopped,maintenance", "--max-skew", "30s")
	r = frozen.done(2 * time.Minute)
	m = r.Snapshot.Moment
	require.True(t, m.Measured && m.Inside, "%+v", m)
	require.Equal(t, "file systems frozen", m.Quiet)
	require.Positive(t, r.Snapshot.Frozen)
	fmt.Printf("real libvirt, 8 domains, frozen: requested within %s, skew bound %s, quiet %s, frozen for %s\n", m.RequestSpread.D(), m.SkewBound.D(), m.QuietInterval.D(), r.Snapshot.Frozen.D())
	for _, n := range s.names() {
		require.Equal(t, 1, s.freezes(n), n)
		require.Len(t, snapshotsOf(t, v, n), 3, n)
	}
	frozen.resumed()
	frozen.thawed()

	for _, set := range []string{o.id, back.id, frozen.id} {
		s.cli(0, "snapshot", "delete", s.cluster.Name(), set, "--yes")
	}
	for _, d := range v.Domains {
		require.Empty(t, snapshotsOf(t, v, d), d)
	}
}
