package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor/vsphere/vspheretest"
	"github.com/katoflow/katoflow/internal/operation"
)

// vSphere is a simulated vCenter whose VMs are those of a site's nodes. What a VM does is not what its node does.
type vSphere struct {
	*site
	*vspheretest.VCenter
}

// onVSphere gives the simulated nodes VMs. The Core's is known by its inventory path, all others by their names.
func onVSphere(t *testing.T) *vSphere {
	s := &vSphere{site: newSite(t, nil, nil, deas(2), func(c *config) { c.s3 = true })}
	nodes := s.names()
	s.VCenter = vspheretest.Start(t, (len(nodes)+1)/2)
	spare := s.VMs()
	for i, n := range nodes {
		s.Rename(spare[i], n)
	}
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "vcenter-ca.pem"), s.CA(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "vcenter-password"), []byte(vspheretest.Password+"\n"), 0o600))
	s.replace("    nodes:\n", fmt.Sprintf(`    hypervisor:
      provider: vsphere
      vsphere: {url: "%s", user: "%s", password: {file: vcenter-password}, ca_file: vcenter-ca.pem, quiesce: true}
    nodes:
`, s.URL(), vspheretest.User))
	s.replace("name: core\n", "name: core\n      vm: /DC0/vm/core\n")
	s.worker("")
	return s
}

// write has every guest write to its disk.
func (s *vSphere) write(text string) {
	for _, n := range s.names() {
		s.Write(n, text+" "+n)
	}
}

// holds requires that all disks hold a text, and that every VM is on.
func (s *vSphere) holds(text string) {
	s.t.Helper()
	for _, n := range s.names() {
		require.True(s.t, s.On(n), n)
		require.Equal(s.t, text+" "+n, s.Content(n))
	}
}

// has requires how many snapshots there are of each VM.
func (s *vSphere) has(snapshots int) {
	s.t.Helper()
	for _, n := range s.names() {
		require.Len(s.t, s.Snapshots(n), snapshots, n)
	}
}

// captured takes a set of VMs whose disks hold a text at its moment, and "now" afterwards, and looks at it.
func (s *vSphere) captured(text string, args ...string) *op {
	s.t.Helper()
	s.write(text)
	o := s.captureOn("vsphere", 1, 0, args...)
	s.write("now")
	return o
}

func TestSnapshot_OnVSphere_IsTakenGoneBackToAndBackAgainAndDeleted(t *testing.T) {
	onlySimulated(t, "the vCenter is a simulator in both worlds")
	t.Parallel()
	s := onVSphere(t)
	first := s.captured("first")
	require.Empty(t, s.Calls("ShutdownGuest"), "roles were stopped, and no VM")
	second := s.captured("second", "--quiesce", "vms-stopped,maintenance")
	require.Len(t, s.Calls("ShutdownGuest"), len(s.names()))
	require.Empty(t, s.Calls("PowerOffVM_Task"), "the guests were asked")
	s.has(2)

	// A set that is not the newest, with snapshots before, and then the way back.
	back := s.rollback(first.id)
	r := back.done(2 * time.Minute)
	require.Equal(t, operation.RolledToSet, r.Sets.Rollback.Moment)
	s.holds("first")
	back.resumed()
	s.has(3)
	s.rollback(back.id, "--no-safety-snapshots").done(2 * time.Minute)
	s.holds("now")
	s.rollback(second.id, "--no-safety-snapshots").done(2 * time.Minute)
	s.holds("second")
	s.has(3)
	for _, set := range []string{first.id, back.id, second.id} {
		s.cli(0, "snapshot", "delete", s.cluster.Name(), set, "--yes")
	}
	s.has(0)
	require.Empty(t, s.sets())
}

func TestSnapshot_OnVSphere_WhatIsInTheWay_IsNamedAndNothingIsTouched(t *testing.T) {
	onlySimulated(t, "the vCenter is a simulator in both worlds")
	t.Parallel()
	s := onVSphere(t)
	o := s.captured("then")
	before := s.Changes()

	f := s.fault("vSphere: an independent disk, no VMware Tools, no space, rights that lack")
	s.DiskMode("core", types.VirtualDiskModeIndependent_persistent)
	s.Tools("dea-01", false)
	s.Deny("VirtualMachine.State.RevertToSnapshot")
	filled := s.Full()
	stderr := s.cli(7, "snapshot", "create", s.cluster.Name()).Stderr
	require.Contains(t, stderr, "is independent-persistent, so it is in no snapshot")
	require.Contains(t, stderr, "vmware tools do not run in VM dea-01")
	require.Contains(t, stderr, "has 0 MiB free")
	for _, n := range s.names() {
		require.Contains(t, stderr, n+": "+vspheretest.User+" lacks the privileges VirtualMachine.State.RevertToSnapshot")
	}
	require.Contains(t, s.cli(2, "snapshot", "create", s.cluster.Name(), "--quiesce", "frozen,maintenance").Stderr, "take quiesce: true out of hypervisor.vsphere")
	f.end("named by the preflight, nothing touched")
	filled()
	s.DiskMode("core", types.VirtualDiskModePersistent)
	s.Tools("dea-01", true)

	f = s.fault("vSphere: rollback without the right, to a snapshot whose files cannot be read")
	s.Accessible("core", false)
	stderr = s.cli(7, "snapshot", "rollback", s.cluster.Name(), o.id, "--confirm", s.cluster.Name(), "--no-safety-snapshots").Stderr
	require.Contains(t, stderr, "cannot be read")
	for _, n := range s.names() {
		require.Contains(t, stderr, n+": "+vspheretest.User+" lacks the privileges VirtualMachine.State.RevertToSnapshot")
	}
	s.holds("now")
	require.Equal(t, before, s.Changes(), "nothing was asked of the vCenter but how things are")
	f.end("named by the preflight, nothing touched")
	s.Accessible("core", true)
	s.Deny()

	s.rollback(o.id, "--no-safety-snapshots").done(2 * time.Minute)
	s.holds("then")
}
