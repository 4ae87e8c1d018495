package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor/ec2/ec2test"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
	"github.com/katoflow/katoflow/internal/operation"
)

// ec2Site is a double of a region whose instances are the VMs of a site's nodes. What an instance does is not what its node does.
type ec2Site struct {
	*site
	*ec2test.Cloud
	// ids of the instances by node, and the devices that each has.
	ids     map[string]string
	devices []string
}

// onEC2 gives the simulated nodes instances with two volumes.
func onEC2(t *testing.T) *ec2Site {
	s := &ec2Site{site: newSite(t, nil, nil, deas(2), func(c *config) { c.s3 = true }), Cloud: ec2test.New(), ids: map[string]string{}, devices: []string{"/dev/sda1", "/dev/sdb"}}
	t.Cleanup(s.Cloud.Close)
	// An answer that takes a while, and a copy that takes longer.
	s.Latency, s.Copying, s.Slow = 100*time.Millisecond, 500*time.Millisecond, 100*time.Millisecond
	for name, content := range map[string]string{"cloud-ca.pem": string(s.CA()), "access": ec2test.AccessKey + "\n", "secret": ec2test.SecretKey + "\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.Dir, name), []byte(content), 0o600))
	}
	s.replace("    nodes:\n", fmt.Sprintf(`    hypervisor:
      provider: ec2
      ec2: {region: eu-central-1, endpoint: "%s", access_key: {file: access}, secret_key: {file: secret}, ca_file: cloud-ca.pem, tags: {cost-center: "42"}}
    nodes:
`, s.URL()))
	for _, n := range s.names() {
		s.ids[n] = s.Instance("m5.large", s.devices...)
		s.replace("name: "+n+"\n", "name: "+n+"\n      vm: "+s.ids[n]+"\n")
	}
	s.worker("")
	return s
}

// write has every guest write to all its volumes.
func (s *ec2Site) write(text string) {
	for n, id := range s.ids {
		for _, d := range s.devices {
			s.Write(id, d, text+" "+n+d)
		}
	}
}

// holds requires that all volumes hold a text, that every instance runs, and that its root goes with it as before.
func (s *ec2Site) holds(text string) {
	s.t.Helper()
	for n, id := range s.ids {
		require.Equal(s.t, "running", s.State(id), n)
		for i, d := range s.devices {
			require.Equal(s.t, text+" "+n+d, s.Content(id, d))
			_, deleted := s.Attached(id, d)
			require.Equal(s.t, i == 0, deleted)
		}
	}
}

// has requires how many snapshots there are of each volume in use, and how many volumes at each device's place.
func (s *ec2Site) has(snapshots, volumes int) {
	s.t.Helper()
	each := len(s.ids) * len(s.devices)
	require.Equal(s.t, [2]int{snapshots * each, volumes * each}, [2]int{len(s.Snapshots()), len(s.Volumes())})
}

// captured takes a set of instances whose volumes hold "then" at its moment, and "now" afterwards.
func (s *ec2Site) captured(args ...string) *op {
	s.t.Helper()
	s.write("then")
	o := s.captureOn("ec2", len(s.devices), s.Latency, args...)
	s.write("now")
	return o
}

func TestSnapshot_OnEC2_IsTakenGoneBackToAndBackAgainAndDeleted(t *testing.T) {
	onlySimulated(t, "the cloud is a double in both worlds")
	t.Parallel()
	s := onEC2(t)
	o := s.captured()
	s.has(1, 1)
	require.Equal(t, "42", s.Tags(s.Snapshots()[0])["cost-center"])
	later := s.captured("--quiesce", "vms-stopped,maintenance")
	s.has(2, 1)

	// Any set can be gone back to, whatever is newer, and what was before is kept: its snapshots and its volumes.
	back := s.rollback(o.id)
	r := back.done(2 * time.Minute)
	require.Equal(t, operation.RolledToSet, r.Sets.Rollback.Moment)
	s.holds("then")
	back.resumed()
	s.has(3, 2)
	s.rollback(back.id, "--no-safety-snapshots").done(2 * time.Minute)
	s.holds("now")
	s.has(3, 3)
	for _, set := range []string{o.id, later.id, back.id} {
		s.cli(0, "snapshot", "delete", s.cluster.Name(), set, "--yes")
	}
	s.has(0, 1)
	s.holds("now")
	require.Empty(t, s.sets())
}

func TestSnapshotRollback_OnEC2_WhatIsInTheWay_IsNamedAndNothingIsTouched(t *testing.T) {
	onlySimulated(t, "the cloud is a double in both worlds")
	t.Parallel()
	s := onEC2(t)
	o := s.captured()
	f := s.fault("EC2: rollback with a volume attached since, an archived snapshot, a volume shared with another instance, or without a right")
	s.Attach(s.ids["core"], "/dev/sdc")
	archived := s.Snapshots()[0]
	s.Archive(archived)
	s.MultiAttach(s.ids["dea-01"], "/dev/sdb", "i-0fffffffffffffff0")
	s.Fault(hypervisortest.RequestFault{Call: "DryRun:DetachVolume", Times: 1 << 20, Code: "UnauthorizedOperation"})
	before := len(s.Calls(""))
	stderr := s.cli(7, "snapshot", "rollback", s.cluster.Name(), o.id, "--confirm", s.cluster.Name(), "--no-safety-snapshots").Stderr
	require.Contains(t, stderr, "core: volume ")
	require.Contains(t, stderr, "at /dev/sdc was attached after the snapshot: detach it first")
	require.Contains(t, stderr, "snapshot "+archived+" is archived")
	require.Contains(t, stderr, "is also attached to instance i-0fffffffffffffff0")
	for n := range s.ids {
		require.Contains(t, stderr, n+": we may not detach its volumes: allow it in IAM")
	}
	for _, call := range s.Calls("")[before:] {
		require.True(t, strings.HasPrefix(call.Action, "Describe") || call.Form.Get("DryRun") == "true", "%s changes something", call.Action)
	}
	s.holds("now")
	f.end("named by the preflight, nothing touched")

	s.ClearFaults()
	s.Detach(s.ids["core"], "/dev/sdc")
	s.Restore(archived)
	s.MultiAttach(s.ids["dea-01"], "/dev/sdb", "")
	s.rollback(o.id, "--no-safety-snapshots").done(2 * time.Minute)
	s.holds("then")
}
