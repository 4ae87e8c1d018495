package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// disks is what a node has of file systems of its own, with its faults.
type disks interface {
	machine
	RelocateWith(p katodouble.RelocatePatch) error
	HealRelocate() error
	// QuotaSupport lets the kernel have quotas, or not.
	QuotaSupport(on bool) error
	// MountOptions are those of /proc/mounts, QuotaOn says which quotas are on.
	MountOptions(path string) (string, error)
	QuotaOn(path string) (user, group bool, err error)
	FreeSpace(path string, free int64) error
}

const (
	quotaOptions = "usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0"
	servicesFrom = "/var/stackato/services"
	dropletsFrom = "/home/stackato/stackato/data"
	ebs          = "/mnt/ebs"
)

// withVolumes is an ALS cluster of a Core, a data node and two DEAs. The data node has a larger disk, mounted with quotas, the Core and the DEAs have none.
func withVolumes(c *config) {
	c.nodes = []nodeConfig{{name: "core", roles: []string{"base", "primary", "controller", "router"}, calm: true},
		{name: "data", roles: []string{"base", "filesystem", "mysql"}, calm: true, disks: []disk{{path: ebs, options: "rw,relatime," + quotaOptions}}},
		{name: "dea-1", roles: []string{"base", "dea"}, calm: true}, {name: "dea-2", roles: []string{"base", "dea"}, calm: true}}
	c.rootShell = true
}

func (s *site) disks(node string) disks {
	s.t.Helper()
	d, ok := s.cluster.Node(node).(disks)
	require.True(s.t, ok)
	return d
}

func (s *site) relocateWith(node string, p katodouble.RelocatePatch) {
	s.t.Helper()
	require.NoError(s.t, s.disks(node).RelocateWith(p))
}

// content of a folder on a node: everything in it, with owners, modes, sizes and the sums of the files.
func (s *site) content(node, folder string) string {
	s.t.Helper()
	out := s.shell(node, `cd "$(readlink -f "$1")" && sudo -n sh -c '
find . -xdev ! -type s -printf "%P|%y %m %U %G %l\n" | grep -v -E "^(lost.found|aquota)" | LC_ALL=C sort
find . -xdev -type f ! -name "aquota.*" -exec sha256sum {} \; | LC_ALL=C sort'`, folder)
	require.NotEmpty(s.t, out)
	return out
}

// leadsTo is where a path of a node leads to.
func (s *site) leadsTo(node, path string) string {
	s.t.Helper()
	return strings.TrimSpace(s.shell(node, `readlink -f "$1"`, path))
}

// litter is what operations have left beside the data of a node.
func (s *site) litter(node string) []string {
	s.t.Helper()
	return strings.Fields(s.shell(node, `for f in /var/stackato/*katoflow* /home/stackato/stackato/*katoflow* /var/lib/*katoflow-* /etc/*katoflow-new* /etc/init.d/*katoflow*; do
	case $f in
	*'*'*) ;;
	*) printf '%s\n' "$f" ;;
	esac
done`))
}

// relocations are the runs of kato relocate on a node.
func (s *site) relocations(node string) (out []string) {
	for _, e := range s.cluster.Node(node).Commands() {
		if len(e.Argv) > 1 && e.Argv[0] == "kato" && e.Argv[1] == "relocate" {
			out = append(out, strings.Join(e.Argv[2:], " "))
		}
	}
	return out
}

// relocate begins a relocation by the CLI, detached, and returns when its preflight has passed.
func (s *site) relocate(node string, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"storage", "relocate", s.cluster.Name(), "--node", node, "--confirm", s.cluster.Name()}, append(args, "--id", id, "--detach")...)...)
	return s.attachTo(operation.KindRelocate, id)
}

// quota begins one of the commands by the CLI, detached, and returns when its preflight has passed.
func (s *site) quota(action operation.QuotaAction, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"storage", "quota", string(action), s.cluster.Name()}, append(args, "--id", id, "--detach")...)...)
	return s.attachTo(action.Kind(), id)
}

func TestStorage_Relocate_DataAreMovedComparedAndTheSourceIsRemoved(t *testing.T) {
	t.Parallel()
	for _, removes := range []bool{false, true} {
		t.Run(fmt.Sprintf("kato removes the source %v", removes), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withVolumes)
			s.relocateWith("data", katodouble.RelocatePatch{RemoveOriginal: new(removes)})
			s.worker("")
			before, droplets := s.content("data", servicesFrom), s.content("data", dropletsFrom)
			to := []string{"--services", ebs + "/services", "--droplets", ebs + "/droplets"}
			shown := s.cli(0, append([]string{"storage", "relocate", s.cluster.Name(), "--node", "data", "--dry-run"}, to...)...).Stdout
			require.Contains(t, shown, "kato relocate services "+ebs+"/services")
			require.Empty(t, s.cluster.Commands(), "a dry run changes nothing")

			r := s.relocate("data", to...).done(90 * time.Second)
			require.Equal(t, ebs+"/services", s.leadsTo("data", servicesFrom))
			require.Equal(t, before, s.content("data", servicesFrom))
			require.Equal(t, droplets, s.content("data", dropletsFrom))
			require.Equal(t, []string{"services " + ebs + "/services", "droplets " + ebs + "/droplets"}, s.relocations("data"))
			require.Empty(t, s.litter("data"))
			require.Len(t, r.Storage.Moves, 2)
			for _, m := range r.Storage.Moves {
				require.Equal(t, operation.Moved, m.Outcome)
				require.Equal(t, m.Kind == operation.Services, m.Files > 0, "the node has no droplets")
			}
			require.Regexp(t, `^services \(.*\) moved to /mnt/ebs/services, droplets .* moved to /mnt/ebs/droplets$`, r.Message)
			require.Empty(t, s.repeated())

			// Once more there is nothing to do.
			r = s.relocate("data", to...).done(60 * time.Second)
			require.Len(t, s.relocations("data"), 2)
			require.Equal(t, operation.WasThere, r.Storage.Moves[0].Outcome)
		})
	}
}
