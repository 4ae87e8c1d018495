package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	// MakeInitScript puts an init script of ALS there, which boots run.
	MakeInitScript(name string) error
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
	out := s.asRoot(node, `cd "$(readlink -f "$1")" || exit 1
find . -xdev ! -type s -printf '%P|%y %m %U %G %l\n' | grep -v -E '^(lost.found|aquota)' | LC_ALL=C sort
find . -xdev -type f ! -name 'aquota.*' -exec sha256sum {} \; | LC_ALL=C sort`, folder)
	require.NotEmpty(s.t, out)
	return out
}

// asRoot runs a script on a node as its administrator would: it is none of katoflow's commands.
func (s *site) asRoot(node, script string, args ...string) string {
	s.t.Helper()
	if onHosts() {
		return s.onHost(node, script, args...)
	}
	return s.shell(node, `script=$1 && shift && exec sudo -n sh -c "$script" sh "$@"`, append([]string{script}, args...)...)
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
				require.True(t, m.Files > 0 || m.Kind == operation.Droplets, "%+v", m)
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

func TestStorage_Relocate_WhatSpeaksAgainstIt_IsNamedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "file systems of all types and devices")
	s := newSite(t, nil, nil, withVolumes, alike(func(n *nodeConfig) {
		n.disks = []disk{{path: ebs, options: "rw,relatime," + quotaOptions}, {path: "/mnt/plain"}, {path: "/mnt/small", options: "rw," + quotaOptions, size: 4 << 10},
			{path: "/mnt/nfs", kind: "nfs4", options: "rw," + quotaOptions}, {path: "/mnt/ssh", kind: "fuse.sshfs", options: "rw," + quotaOptions}, {path: "/mnt/readonly", options: "ro," + quotaOptions}}
	}, "data"))
	s.worker("")
	f := s.fault("data are to go where they must not")
	s.asRoot("data", "mkdir /mnt/ebs/full && touch /mnt/ebs/full/x /mnt/ebs/file && ln -s /mnt/ebs/full /mnt/ebs/link")
	before := s.content("data", servicesFrom)
	for to, why := range map[string]string{
		"/opt/services":          `/opt/services lies on the file system where they are, that of /`,
		"/mnt/plain/services":    `/mnt/plain is not mounted with quotas.*katoflow storage quota enable`,
		"/mnt/small/services":    `/mnt/small has .* free, and .* are needed`,
		"/mnt/nfs/services":      `/mnt/nfs is NFS, to which the filesystem service must not go: use block storage or SSHFS`,
		"/mnt/readonly/services": `/mnt/readonly is mounted read-only`,
		ebs + "/full":            `/mnt/ebs/full is not empty: there is x`,
		ebs + "/file":            `/mnt/ebs/file is not a folder`,
		ebs + "/link":            `/mnt/ebs/link leads to /mnt/ebs/full: name that`,
		servicesFrom + "/within": `lie in one another`,
	} {
		out := s.cli(7, "storage", "relocate", s.cluster.Name(), "--node", "data", "--services", to, "--confirm", s.cluster.Name())
		require.Regexp(t, `(?s)data: services: .*`+why+"|data: "+why, out.Stderr)
	}
	// What can be overruled is said so, and is told then.
	out := s.cli(7, "storage", "relocate", s.cluster.Name(), "--node", "dea-1", "--containers", "/opt/containers", "--confirm", s.cluster.Name())
	require.Contains(t, out.Stderr, "lies on the file system where they are")
	out = s.cli(7, "storage", "relocate", s.cluster.Name(), "--node", "data", "--services", "/mnt/plain/services", "--confirm", s.cluster.Name())
	require.Contains(t, out.Stderr, "--force overrules this")
	require.Empty(t, s.cluster.Commands())
	require.Equal(t, before, s.content("data", servicesFrom))
	require.Empty(t, s.litter("data"))
	s.relocate("data", "--services", "/mnt/ssh/services").done(60 * time.Second) // SSHFS is what the source page allows
	require.Equal(t, "/mnt/ssh/services", s.leadsTo("data", servicesFrom))
	f.row(refused)
}

// whatRelocateDoes are the ways in which kato relocate goes wrong, and what is said of each.
var whatRelocateDoes = map[katodouble.RelocateFault]string{
	katodouble.RelocateFails:      `ended with exit code|kato relocate`,
	katodouble.RelocateHalf:       `exit code`,
	katodouble.RelocateSilent:     `kato says that it is done, and /var/stackato/services is where it was`,
	katodouble.RelocateLosesFile:  `1 of the files and folders of services are not in /mnt/ebs/services as they were`,
	katodouble.RelocateLosesOwner: `of the files and folders of services are not in /mnt/ebs/services as they were`,
}

func TestStorage_Relocate_KatoFailsOrLies_AllGoesBackAndTheNodeRunsWhileItIsAsked(t *testing.T) {
	t.Parallel()
	for fault, why := range whatRelocateDoes {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withVolumes)
			s.relocateWith("data", katodouble.RelocatePatch{Fault: new(fault), Times: new(1), RemoveOriginal: new(fault == katodouble.RelocateLosesFile)})
			s.worker("")
			before := s.content("data", servicesFrom)
			f := s.fault("kato relocate goes wrong: %s", fault)
			o := s.relocate("data", "--services", ebs+"/services")
			q := o.question(90 * time.Second)
			require.Equal(t, "data", q.Node)
			require.Regexp(t, why, q.Cause.Message)
			require.Equal(t, []operation.Decision{operation.Retry, operation.Abort}, q.Choices)
			require.Equal(t, servicesFrom, s.leadsTo("data", servicesFrom))
			require.Equal(t, before, s.content("data", servicesFrom))
			require.Equal(t, "READY", s.ready("data"))
			o.decide(q, operation.Retry)
			r := o.done(90 * time.Second)
			require.Equal(t, before, s.content("data", servicesFrom))
			require.Equal(t, ebs+"/services", s.leadsTo("data", servicesFrom))
			require.Equal(t, operation.Moved, r.Storage.Moves[0].Outcome)
			require.Len(t, s.relocations("data"), 2)
			for _, l := range s.litter("data") {
				require.Contains(t, l, ".found", "nothing but what was left of the source")
			}
			f.row("parked at " + q.Step + ", back where they were, the node runs; retried")
		})
	}
}

func TestStorage_Relocate_TheDiskFillsUp_AllGoesBackAndItCanBeLeftSo(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withVolumes)
	s.relocateWith("data", katodouble.RelocatePatch{Seconds: new(in(2.0, 10.0))})
	s.worker("")
	before := s.content("data", servicesFrom)
	f := s.fault("the volume fills up while data are copied to it")
	o := s.relocate("data", "--services", ebs+"/services", "--droplets", ebs+"/droplets")
	s.eventually(60*time.Second, "kato relocate", func() bool { return s.running("data", "kato relocate") })
	s.eventually(20*time.Second, "a full disk", func() bool { return s.disks("data").FreeSpace(ebs, 0) == nil }) // it fails where it is being filled just then
	q := o.question(90 * time.Second)
	require.Regexp(t, `No space left|/mnt/ebs is full`, q.Cause.Message)
	require.Equal(t, before, s.content("data", servicesFrom))
	require.Equal(t, "READY", s.ready("data"))
	o.decide(q, operation.Abort)
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseAborted, r.Phase)
	require.Equal(t, operation.NotMoved, r.Storage.Moves[0].Outcome)
	require.Equal(t, operation.NotMoved, r.Storage.Moves[1].Outcome)
	require.Contains(t, r.Message, "nothing was moved")
	require.Empty(t, s.litter("data"))
	f.end("parked at " + q.Step + ", back where they were; aborted")
}

func TestStorage_Relocate_GatesDoNotHoldAtTheNewPlace_BackOrLeft(t *testing.T) {
	t.Parallel()
	for _, decision := range []operation.Decision{operation.Back, operation.Leave, operation.Retry} {
		t.Run(string(decision), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withVolumes)
			s.relocateWith("data", katodouble.RelocatePatch{Seconds: new(in(2.0, 8.0))})
			s.inventory(strings.Replace(quickGates, "timeout: 20s}", "timeout: 5s, commands: ['test ! -e /tmp/ill']}", 1))
			s.worker("")
			before := s.content("data", servicesFrom)
			f := s.fault("a gate does not hold at the new place: %s", decision)
			o := s.relocate("data", "--services", ebs+"/services")
			s.eventually(60*time.Second, "kato relocate", func() bool { return s.running("data", "kato relocate") })
			s.shell("data", "touch /tmp/ill")
			q := o.question(90 * time.Second)
			require.Equal(t, operation.StepGates, q.Step)
			require.Equal(t, []operation.Decision{operation.Retry, operation.Leave, operation.Back}, q.Choices)
			s.asRoot("data", "echo written since >/mnt/ebs/services/later")
			s.shell("data", "rm /tmp/ill")
			o.decide(q, decision)
			if decision == operation.Retry {
				o.done(60 * time.Second)
				require.Empty(t, s.litter("data"))
				f.end("parked at gates, retried")
				return
			}
			r, err := o.end(60 * time.Second)
			require.Error(t, err)
			if decision == operation.Back {
				require.Equal(t, operation.NotMoved, r.Storage.Moves[0].Outcome)
				require.Equal(t, servicesFrom, s.leadsTo("data", servicesFrom))
				require.Equal(t, before, s.content("data", servicesFrom))
				require.Contains(t, s.content("data", ebs+"/services"), "later", "what was written since is not thrown away")
				require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "is still in /mnt/ebs/services")
				require.Empty(t, s.litter("data"))
				f.row("parked at gates, back where they were")
				return
			}
			require.Equal(t, operation.MovedLeft, r.Storage.Moves[0].Outcome)
			require.Equal(t, ebs+"/services", s.leadsTo("data", servicesFrom))
			require.True(t, r.Storage.SourceKept)
			require.Equal(t, before, s.content("data", r.Storage.Moves[0].Kept))
			f.end("parked at gates, left so; the source is kept")
		})
	}
}

func TestStorage_Relocate_CancelledOrRebootedInTheMiddle_NothingIsHalfDone(t *testing.T) {
	t.Parallel()
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, withVolumes)
		s.relocateWith("data", katodouble.RelocatePatch{Seconds: new(in(2.0, 10.0))})
		s.worker("")
		before, droplets := s.content("data", servicesFrom), s.content("data", dropletsFrom)
		f := s.fault("cancelled while kato relocate runs")
		o := s.relocate("data", "--services", ebs+"/services", "--droplets", ebs+"/droplets")
		s.eventually(60*time.Second, "kato relocate", func() bool { return s.running("data", "kato relocate") })
		r, _ := o.cancel()
		require.Equal(t, operation.PhaseCancelled, r.Phase)
		require.Equal(t, operation.Moved, r.Storage.Moves[0].Outcome)
		require.Equal(t, operation.NotMoved, r.Storage.Moves[1].Outcome)
		require.Equal(t, before, s.content("data", servicesFrom))
		require.Equal(t, droplets, s.content("data", dropletsFrom))
		require.Equal(t, dropletsFrom, s.leadsTo("data", dropletsFrom))
		require.Equal(t, "READY", s.ready("data"))
		require.Empty(t, s.litter("data"))
		f.end("what was begun was seen through, the rest is where it was")
	})
	t.Run("rebooted", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, nil, nil, withVolumes)
		s.relocateWith("data", katodouble.RelocatePatch{Seconds: new(in(4.0, 60.0))})
		s.worker("")
		before := s.content("data", servicesFrom)
		f := s.fault("the node reboots while kato relocate runs")
		o := s.relocate("data", "--services", ebs+"/services")
		s.eventually(60*time.Second, "kato relocate", func() bool { return s.running("data", "kato relocate") })
		s.cluster.Node("data").RebootNow()
		q := o.question(2 * time.Minute)
		require.Equal(t, operation.ErrInterrupted, q.Cause.Type)
		require.Equal(t, before, s.content("data", servicesFrom))
		require.Equal(t, servicesFrom, s.leadsTo("data", servicesFrom))
		require.NoError(t, s.disks("data").HealRelocate())
		o.decide(q, operation.Retry)
		o.done(90 * time.Second)
		require.Equal(t, before, s.content("data", servicesFrom))
		require.Equal(t, ebs+"/services", s.leadsTo("data", servicesFrom))
		require.Empty(t, s.litter("data"))
		f.row("parked at " + q.Step + ", back where they were; retried")
	})
}

func TestStorage_Relocate_OfADEA_InstancesLeaveBeforeAndDockerRunsAfterwards(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withVolumes, alike(func(n *nodeConfig) { n.disks = []disk{{path: ebs, options: "rw," + quotaOptions}} }, "dea-1"))
	s.worker("")
	s.asRoot("dea-1", "mkdir -p /var/lib/docker/overlay2/x && echo layer >/var/lib/docker/overlay2/x/file && chmod 711 /var/lib/docker")
	before := s.content("dea-1", "/var/lib/docker")
	r := s.relocate("dea-1", "--containers", ebs+"/containers", "--maintenance").done(90 * time.Second)
	require.Equal(t, before, s.content("dea-1", "/var/lib/docker"))
	require.Equal(t, ebs+"/containers", s.leadsTo("dea-1", "/var/lib/docker"))
	require.Equal(t, "put back (off)", r.Maintenance)
	require.False(t, s.cluster.Maintenance())
	retired := false
	for _, e := range s.cluster.Node("core").Commands() {
		retired = retired || strings.HasPrefix(strings.Join(e.Argv, " "), "kato node retire")
	}
	require.True(t, retired)
	require.Empty(t, s.repeated())
}

// ready is what kato says of the processes of a node.
func (s *site) ready(node string) string {
	s.t.Helper()
	out := ""
	s.eventually(30*time.Second, "the processes of "+node, func() bool {
		out = strings.TrimSpace(s.shell(node, `sh -l -c 'kato process ready all' 2>/dev/null || true`))
		return out == "READY"
	})
	return out
}

func TestStorage_Quota_EnabledKeptOverAReboot_AndDisabled(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"/etc/fstab", "/etc/init.d/setup_helion_lxc"} {
		t.Run(strings.ReplaceAll(by, "/", " "), func(t *testing.T) {
			t.Parallel()
			node, of := "a", plain("a")
			if by != "/etc/fstab" { // which is the platform's
				node, of = "data", func(c *config) { withVolumes(c); c.nodes = c.nodes[:2] }
			}
			s := newSite(t, nil, nil, of, func(c *config) { c.rootShell = true }, alike(func(n *nodeConfig) { n.disks = []disk{{path: ebs}} }, node))
			d := s.disks(node)
			require.NoError(t, d.QuotaSupport(true))
			if by != "/etc/fstab" {
				require.NoError(t, d.MakeInitScript("setup_helion_lxc"))
			}
			script, fstab := s.shell(node, "cat /etc/init.d/setup_helion_lxc 2>/dev/null || true"), s.shell(node, "cat /etc/fstab")
			s.worker("")
			shown := s.cli(0, "storage", "quota", "enable", s.cluster.Name(), "--path", ebs, "--nodes", node, "--dry-run").Stdout
			require.Contains(t, shown, "quotacheck -vgumb "+ebs)
			require.Empty(t, s.cluster.Commands())

			on := func(want bool) {
				t.Helper()
				user, group, err := d.QuotaOn(ebs)
				require.NoError(t, err)
				require.Equal(t, [2]bool{want, want}, [2]bool{user, group})
			}
			r := s.quota(operation.QuotaEnable, "--path", ebs, "--nodes", node).done(60 * time.Second)
			require.Equal(t, []string{"quotas of /mnt/ebs are on, kept over a reboot by " + by}, r.Nodes[0].Notes)
			on(true)
			options, err := d.MountOptions(ebs)
			require.NoError(t, err)
			require.Contains(t, options, "usrjquota=aquota.user")
			r = s.quota(operation.QuotaEnable, "--path", ebs, "--nodes", node).done(60 * time.Second)
			require.Equal(t, []string{"quotas of /mnt/ebs were on already, and are kept over a reboot"}, r.Nodes[0].Notes)

			if by != "/etc/fstab" || !onHosts() { // a real host without systemd's quotaon: what mounts it does not switch quotas on
				boots := d.Boots()
				d.RebootNow()
				s.eventually(90*time.Second, "the boot of the node", func() bool { return d.Boots() > boots && d.Running() })
				s.eventually(60*time.Second, "quotas after the boot", func() bool {
					user, group, err := d.QuotaOn(ebs)
					return err == nil && user && group
				})
			}
			s.quota(operation.QuotaDisable, "--path", ebs, "--nodes", node).done(60 * time.Second)
			on(false)
			require.Equal(t, script, s.shell(node, "cat /etc/init.d/setup_helion_lxc 2>/dev/null || true"))
			require.Equal(t, strings.Fields(fstab), strings.Fields(s.shell(node, "cat /etc/fstab")))
			require.Empty(t, s.shell(node, "ls /mnt/ebs | grep aquota || true"))
			s.quota(operation.QuotaDisable, "--path", ebs, "--nodes", node).done(60 * time.Second)
			require.Empty(t, s.litter(node))
			require.Empty(t, s.repeated())
		})
	}
}

func TestStorage_Quota_KernelWithoutThem_AllAsItWasAndTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), func(c *config) { c.rootShell = true }, alike(func(n *nodeConfig) { n.disks = []disk{{path: ebs}} }, "a", "b"))
	require.NoError(t, s.disks("a").QuotaSupport(false))
	require.NoError(t, s.disks("b").QuotaSupport(true))
	if !onHosts() { // the real quotacheck reads them
		s.asRoot("a", "echo limits >/mnt/ebs/aquota.user; echo older >/mnt/ebs/aquota.user~")
	}
	s.worker("")
	f := s.fault("the kernel of a node has no quotas")
	o := s.quota(operation.QuotaEnable, "--path", ebs)
	q := o.question(60 * time.Second)
	require.Equal(t, operation.StepQuota, q.Step)
	require.Regexp(t, `a: the kernel \S+ has no quotas .*: /mnt/ebs is as it was`, q.Cause.Message)
	options, err := s.disks("a").MountOptions(ebs)
	require.NoError(t, err)
	require.NotContains(t, options, "usrjquota")
	require.NotContains(t, s.shell("a", "cat /etc/fstab"), "usrjquota")
	if onHosts() {
		require.Empty(t, s.shell("a", "ls /mnt/ebs | grep aquota || true"))
	} else {
		require.Equal(t, "limits\n", s.asRoot("a", "cat /mnt/ebs/aquota.user"), "files from before are as they were")
		require.Equal(t, "aquota.user\n", s.shell("a", "ls /mnt/ebs | grep aquota || true"))
	}
	o.decide(q, operation.Skip)
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.NodeSkipped, r.Nodes[0].Status)
	require.Equal(t, operation.NodeDone, r.Nodes[1].Status)
	f.row(parkedFor(q.Step, "as it was; skipped"))
}

func TestStorage_Quota_WhereTheyCannotBe_IsNamedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), func(c *config) { c.rootShell = true }, alike(func(n *nodeConfig) { n.disks = []disk{{path: ebs}, {path: "/mnt/loose", notInFstab: true}} }, "a"))
	s.worker("")
	f := s.fault("quotas are to be where they cannot be")
	for path, why := range map[string]string{"/mnt": "nothing is mounted at /mnt: it lies on the file system of /", "/mnt/loose": "/mnt/loose is not in /etc/fstab, and there is no setup_helion_lxc"} {
		require.Contains(t, s.cli(7, "storage", "quota", "enable", s.cluster.Name(), "--path", path).Stderr, "a: "+why)
	}
	s.cluster.Node("a").SudoPassword(true)
	require.Contains(t, s.cli(7, "storage", "quota", "enable", s.cluster.Name(), "--path", ebs).Stderr, "install deploy/sudoers/katoflow-shell")
	require.Empty(t, s.cluster.Commands())
	f.end(refused)
}

// relocates waits for kato relocate on a node.
func (s *site) relocates(ctx context.Context, node string) error {
	for ctx.Err() == nil {
		if s.running(node, "kato relocate") {
			return nil
		}
		time.Sleep(in(2*time.Millisecond, 20*time.Millisecond))
	}
	return fmt.Errorf("kato relocate did not run on %s: %w", node, ctx.Err())
}

// relocateDirectly begins a relocation of services through the client and does not wait for anything.
func (s *site) relocateDirectly(in operation.RelocateInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster, in.Confirm, in.Node, in.Services = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name(), s.cluster.Name(), "data", ebs+"/services"
	return s.execute(operation.KindRelocate, operation.WorkflowRelocate, in.OperationID, in)
}

func TestStorage_Reset_RepeatsNoCommandAndLosesNothing(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the nodes see the same of every reset")
	for name, to := range map[string]resetPoint{"to the beginning": toTheBeginning, "to the last task": toTheLastTask} {
		t.Run("while kato relocate runs "+name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withVolumes)
			s.relocateWith("data", katodouble.RelocatePatch{Seconds: new(2.0)})
			s.worker("")
			before := s.content("data", servicesFrom)
			o := s.relocate("data", "--services", ebs+"/services")
			s.eventually(60*time.Second, "kato relocate", func() bool { return s.running("data", "kato relocate") })
			o.reset(to)
			r := o.done(2 * time.Minute)
			require.Equal(t, operation.Moved, r.Storage.Moves[0].Outcome)
			require.Equal(t, before, s.content("data", servicesFrom))
			require.Equal(t, []string{"services " + ebs + "/services"}, s.relocations("data"))
			require.Empty(t, s.litter("data"))
			require.Empty(t, s.repeated())
		})
		if name == "to the beginning" {
			continue // its stop of the roles is done already, and the roles run again: that is asked about
		}
		t.Run("when it was put back "+name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withVolumes)
			s.relocateWith("data", katodouble.RelocatePatch{Fault: new(katodouble.RelocateHalf), Times: new(1)})
			s.worker("")
			before := s.content("data", servicesFrom)
			o := s.relocate("data", "--services", ebs+"/services")
			q := o.question(60 * time.Second)
			o.reset(to)
			again := o.question(60 * time.Second)
			require.Equal(t, q.Key(), again.Key(), "the same question again")
			require.Equal(t, before, s.content("data", servicesFrom))
			require.Len(t, s.relocations("data"), 1)
			o.decide(again, operation.Retry)
			o.done(90 * time.Second)
			require.Equal(t, before, s.content("data", servicesFrom))
			require.Empty(t, s.litter("data"))
		})
	}
}

// TestKillMatrix_OfStorage kills the worker at every boundary of every step of a relocation that goes well, of one that goes back, and of quotas, and in the middle of kato relocate.
func TestKillMatrix_OfStorage(t *testing.T) {
	t.Parallel()
	onlyData := func(c *config) { c.nodes = c.nodes[:2] }
	inKato := killPoint{name: "in kato relocate", moment: func(ctx context.Context, o *op) (func(), error) { return nil, o.relocates(ctx, "data") }}
	intact := func(o *op, before string, runs int) {
		require.Equal(o.t, before, o.content("data", servicesFrom))
		require.Equal(o.t, ebs+"/services", o.leadsTo("data", servicesFrom))
		require.Len(o.t, o.relocations("data"), runs)
		require.Empty(o.t, o.litter("data"))
		again := o.repeated()
		repeatedInAll.Add(int64(len(again)))
		require.Empty(o.t, again)
	}
	t.Run("points", func(t *testing.T) {
		var before sync.Map // by site: the lanes run side by side
		made := func(p katodouble.RelocatePatch) func(t *testing.T) *site {
			return func(t *testing.T) *site {
				s := newSite(t, nil, nil, withVolumes, onlyData)
				s.relocateWith("data", p)
				before.Store(s, s.content("data", servicesFrom))
				return s
			}
		}
		was := func(o *op) string {
			text, _ := before.Load(o.site)
			return text.(string)
		}
		well := matrix{site: made(katodouble.RelocatePatch{Seconds: new(0.4)}), start: func(s *site) *op { return s.relocateDirectly(operation.RelocateInput{}) },
			intact: func(o *op, _ int) {
				o.done(3 * time.Minute)
				intact(o, was(o), 1)
			}}
		well.lanes(t, "relocation", 2, slices.Concat(boundaries("RelocateReady", "StopRoles", "KeepSource"), within("RelocateData", inKato), boundaries("CompareCopy", "StartRoles", "ClusterGates", "TidySource")))
		back := matrix{site: made(katodouble.RelocatePatch{Fault: new(katodouble.RelocateHalf), Times: new(1)}), start: func(s *site) *op { return s.relocateDirectly(operation.RelocateInput{}) },
			intact: func(o *op, _ int) {
				q := o.question(2 * time.Minute)
				require.Equal(o.t, was(o), o.content("data", servicesFrom))
				o.decide(q, operation.Retry)
				o.done(2 * time.Minute)
				intact(o, was(o), 2)
			}}
		back.lanes(t, "going back", 1, boundaries("SwitchBack", "StartRoles"))
		quota := matrix{
			site: func(t *testing.T) *site {
				s := newSite(t, nil, nil, plain("a"), func(c *config) { c.rootShell = true }, alike(func(n *nodeConfig) { n.disks = []disk{{path: ebs}} }, "a"))
				require.NoError(t, s.disks("a").QuotaSupport(true))
				return s
			},
			start: func(s *site) *op {
				in := operation.QuotaInput{Action: operation.QuotaEnable, Path: ebs}
				in.OperationID, in.Cluster = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name()
				return s.execute(operation.KindQuotaEnable, operation.WorkflowQuota, in.OperationID, in)
			},
			intact: func(o *op, _ int) {
				o.done(2 * time.Minute)
				user, group, err := o.disks("a").QuotaOn(ebs)
				require.NoError(o.t, err)
				require.True(o.t, user && group)
				again := o.repeated()
				repeatedInAll.Add(int64(len(again)))
				require.Empty(o.t, again)
			},
		}
		quota.lanes(t, "quotas", 1, slices.Concat(boundaries("QuotaReady"), inChild("a", boundaries("Probe", "SwitchQuotas", "Gates"))))
	})
	tellKills(t, "storage")
}
