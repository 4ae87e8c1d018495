package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor/openstack/openstacktest"
	"github.com/katoflow/katoflow/internal/operation"
)

// openStack is a double of a cloud whose servers are the VMs of a site's nodes. What a server does is not what its node does.
type openStack struct {
	*site
	*openstacktest.Cloud
	// ids of the servers by node, and the places of the disks that each has.
	ids   map[string]string
	disks []string
}

// onOpenStack gives the simulated nodes servers with two disks: volumes, or an image's root and nothing else besides. All but the Core's are known by their names.
func onOpenStack(t *testing.T, fromImage bool) *openStack {
	s := &openStack{site: newSite(t, nil, nil, deas(2), func(c *config) { c.s3 = true }), Cloud: openstacktest.New(), ids: map[string]string{}, disks: []string{"/dev/vda", "/dev/vdb"}}
	t.Cleanup(s.Cloud.Close)
	// A moment that is over some time after the request was answered, and a copy that takes longer.
	s.Creating, s.Saving, s.Slow = 200*time.Millisecond, 500*time.Millisecond, 100*time.Millisecond
	devices := s.disks
	if fromImage {
		s.disks, devices = []string{""}, nil
	}
	for _, n := range s.names() {
		s.ids[n] = s.Server(n, fromImage, devices...)
	}
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "cloud-ca.pem"), s.CA(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "cloud-password"), []byte(openstacktest.Password+"\n"), 0o600))
	s.replace("    nodes:\n", fmt.Sprintf(`    hypervisor:
      provider: openstack
      openstack: {auth_url: "%s", user: %s, password: {file: cloud-password}, project: %s, ca_file: cloud-ca.pem}
    nodes:
`, s.URL(), openstacktest.User, openstacktest.Project))
	s.replace("name: core\n", "name: core\n      vm: "+s.ids["core"]+"\n")
	s.worker("")
	return s
}

// write has every guest write to all its disks.
func (s *openStack) write(text string) {
	for n, id := range s.ids {
		for _, d := range s.disks {
			s.Write(id, d, text+" "+n+d)
		}
	}
}

// holds requires that all disks hold a text, that every server is on, and its volumes in use.
func (s *openStack) holds(text string) {
	s.t.Helper()
	for n, id := range s.ids {
		require.Equal(s.t, "ACTIVE", s.Status(id), n)
		for _, d := range s.disks {
			require.Equal(s.t, text+" "+n+d, s.Content(id, d))
			if d != "" {
				require.Equal(s.t, "in-use", s.VolumeStatus(id, d))
			}
		}
	}
}

// has requires how many snapshots and images there are of each server.
func (s *openStack) has(snapshots, images int) {
	s.t.Helper()
	gotSnapshots, gotImages := s.Count()
	require.Equal(s.t, [2]int{snapshots * len(s.ids), images * len(s.ids)}, [2]int{gotSnapshots, gotImages})
}

// captured takes a set of servers whose disks hold "then" at its moment, and "now" afterwards.
func (s *openStack) captured(args ...string) *op {
	s.t.Helper()
	s.write("then")
	o := s.captureOn("openstack", len(s.disks), s.Creating, args...)
	s.write("now")
	return o
}

func TestSnapshot_OnOpenStack_OfServersOfVolumes_IsTakenGoneBackToAndDeleted(t *testing.T) {
	onlySimulated(t, "the cloud is a double in both worlds")
	t.Parallel()
	s := onOpenStack(t, false)
	o := s.captured()
	s.has(2, 0)
	require.Empty(t, s.Calls("os-stop"), "roles were stopped, and no VM")

	// Cinder goes back to the newest snapshot only, which one before the rollback would be.
	f := s.fault("OpenStack: a rollback with snapshots before, or to a set that is not the newest")
	stderr := s.cli(7, "snapshot", "rollback", s.cluster.Name(), o.id, "--confirm", s.cluster.Name()).Stderr
	for n := range s.ids {
		require.Contains(t, stderr, n+": cinder goes back only to the newest snapshot of a volume")
	}
	require.Contains(t, stderr, "--no-safety-snapshots")
	later := s.captured("--quiesce", "vms-stopped,maintenance")
	require.Len(t, s.Calls("os-stop"), len(s.ids))
	stderr = s.cli(7, "snapshot", "rollback", s.cluster.Name(), o.id, "--confirm", s.cluster.Name(), "--no-safety-snapshots").Stderr
	require.Contains(t, stderr, "is newer")
	s.holds("now")
	require.Empty(t, s.Calls("os-reset_status"))
	f.end("named by the preflight, nothing touched")

	s.cli(0, "snapshot", "delete", s.cluster.Name(), later.id, "--yes")
	back := s.rollback(o.id, "--no-safety-snapshots")
	r := back.done(2 * time.Minute)
	require.Equal(t, operation.RolledToSet, r.Sets.Rollback.Moment)
	s.holds("then")
	back.resumed()
	s.has(2, 0)
	s.cli(0, "snapshot", "delete", s.cluster.Name(), o.id, "--yes")
	s.has(0, 0)
	require.Empty(t, s.sets())
}

func TestSnapshot_OnOpenStack_OfServersOfImages_IsGoneBackToAndBackAgain(t *testing.T) {
	onlySimulated(t, "the cloud is a double in both worlds")
	t.Parallel()
	s := onOpenStack(t, true)
	o := s.captured()
	s.has(0, 1)
	back := s.rollback(o.id)
	back.done(2 * time.Minute)
	s.holds("then")
	s.has(0, 2)
	s.rollback(back.id, "--no-safety-snapshots").done(2 * time.Minute)
	s.holds("now")
	for _, set := range []string{o.id, back.id} {
		s.cli(0, "snapshot", "delete", s.cluster.Name(), set, "--yes")
	}
	s.has(0, 0)
}
