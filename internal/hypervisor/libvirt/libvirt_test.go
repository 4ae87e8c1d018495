package libvirt

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
	"github.com/katoflow/katoflow/internal/hypervisor/libvirt/libvirttest"
	"github.com/katoflow/katoflow/internal/hypervisor/overssh"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/share"
)

func init() {
	libvirttest.Required = os.Getenv("KATOFLOW_LIBVIRT") != ""
	var err error
	if libvirttest.Part, err = share.Parse(os.Getenv(share.Variable)); err != nil {
		panic(err)
	}
}

func provider(v *libvirttest.Libvirt) *Provider {
	return &Provider{Hosts: overssh.Hosts{Runner: hypervisortest.Local{Path: v.Bin}, ByName: map[string]remote.Host{"kvm": {Name: "kvm"}}, Timeout: 15 * time.Second}, URI: v.URI}
}

func vmOf(domain string) hypervisor.VM {
	return hypervisor.VM{Node: "node-" + domain, ID: domain, Host: "kvm"}
}

func TestProvider_OnRealLibvirt_KeepsWhatEveryProviderPromises(t *testing.T) {
	disks, fill := volume(t)
	v := libvirttest.Start(t, disks, "vm-1", "vm-2", "vm-3", "vm-4", "vm-5", "vm-6", "vm-7", "vm-8")
	rig := hypervisortest.Rig{
		New:        func(*testing.T) hypervisor.Provider { return provider(v) },
		Write:      func(t *testing.T, vm hypervisor.VM, text string) { v.Write(t, vm.ID, text) },
		Read:       func(t *testing.T, vm hypervisor.VM) string { return v.Read(t, vm.ID) },
		Changes:    func(t *testing.T) int { return v.Changes(t) },
		Missing:    &hypervisor.VM{Node: "gone", ID: "vm-gone", Host: "kvm"},
		Busy:       func(t *testing.T, vm hypervisor.VM) func() { return v.Busy(t, vm.ID) },
		LostAnswer: func(t *testing.T, vm hypervisor.VM) func() { return v.LoseAnswer(t, vm.ID) },
		Away:       func(t *testing.T, _ hypervisor.VM) func() { return v.Freeze(t) },
		Full:       fill,
		Wait:       time.Minute,
	}
	for _, d := range v.Domains {
		rig.VMs = append(rig.VMs, vmOf(d))
	}
	hypervisortest.Run(t, rig)
}

// volume is a file system of its own for the images, and what fills it; none where the test may not mount.
func volume(t *testing.T) (disks string, fill hypervisortest.Fault) {
	if os.Getuid() != 0 {
		return "", nil
	}
	dir, err := os.MkdirTemp("", "lvd")
	require.NoError(t, err)
	image, disks := filepath.Join(dir, "image"), filepath.Join(dir, "disks")
	run := func(name string, args ...string) error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // QEMU reads below it
	require.NoError(t, os.Mkdir(disks, 0o755))
	require.NoError(t, run("truncate", "-s", "3G", image))
	require.NoError(t, run("mkfs.ext4", "-q", image))
	require.NoError(t, run("mount", "-o", "loop", image, disks))
	t.Cleanup(func() { require.NoError(t, run("umount", disks)); require.NoError(t, os.RemoveAll(dir)) })
	return disks, func(t *testing.T, _ hypervisor.VM) func() {
		file := filepath.Join(disks, "fill")
		require.NoError(t, run("fallocate", "-l", "2G", file))
		return func() { _ = os.Remove(file) }
	}
}

func TestTake_OfARunningDomain_BringsAllDisksBackToOneMoment(t *testing.T) {
	t.Parallel()
	v := libvirttest.Start(t, "", "vm-1")
	p, vm, ctx := provider(v), vmOf(v.Domains[0]), t.Context()
	defer func() { require.NoError(t, p.Close()) }()
	v.WriteRunning(t, vm.ID, 'a')
	shot, err := p.Prepare(ctx, vm, "katoflow-moment")
	require.NoError(t, err)
	taken, err := shot.Take(ctx)
	require.NoError(t, err)
	require.Equal(t, hypervisor.Ready, taken.State)
	require.WithinDuration(t, time.Now(), taken.Created, time.Minute)
	v.WriteRunning(t, vm.ID, 'b')
	require.Contains(t, v.Virsh(t, "snapshot-info", vm.ID, "katoflow-moment"), "Location:       internal")

	require.NoError(t, p.Stop(ctx, vm, true))
	require.Equal(t, strings.Repeat("b", 512), v.Read(t, vm.ID))
	require.NoError(t, p.Rollback(ctx, vm, "katoflow-moment"))
	require.Equal(t, strings.Repeat("a", 512), v.Read(t, vm.ID), "both disks")

	require.NoError(t, p.Start(ctx, vm))
	require.NoError(t, p.Delete(ctx, vm, "katoflow-moment"))
	require.NoError(t, p.Stop(ctx, vm, true))
	require.NotContains(t, snapshotsInside(t, v, vm.ID), "katoflow-moment")
}

// snapshotsInside are those that the images of a domain that is off have, as qemu-img tells them.
func snapshotsInside(t *testing.T, v *libvirttest.Libvirt, domain string) string {
	var all strings.Builder
	for line := range strings.Lines(v.Virsh(t, "domblklist", domain, "--details")) {
		if words := strings.Fields(line); len(words) == 4 && strings.HasSuffix(words[3], ".qcow2") {
			out, err := exec.Command("qemu-img", "snapshot", "-l", words[3]).CombinedOutput()
			require.NoError(t, err, "%s", out)
			all.Write(out)
		}
	}
	return all.String()
}

func TestTake_LostBeforeItIsListedAndTheDomainGoesOff_CanBeDeleted(t *testing.T) {
	t.Parallel()
	v := libvirttest.Start(t, "", "vm-1")
	p, vm, ctx := provider(v), vmOf(v.Domains[0]), t.Context()
	defer func() { require.NoError(t, p.Close()) }()
	shot, err := p.Prepare(ctx, vm, "katoflow-lost")
	require.NoError(t, err)
	defer v.LoseAnswer(t, vm.ID)()
	_, err = shot.Take(ctx)
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, err, &unknown)
	require.NoError(t, p.Stop(ctx, vm, true))
	require.Contains(t, snapshotsInside(t, v, vm.ID), "katoflow-lost")
	_, there, err := p.Find(ctx, vm, "katoflow-lost")
	require.NoError(t, err)
	require.False(t, there, "of a domain that is off libvirt knows only its list")
	require.NoError(t, p.Delete(ctx, vm, "katoflow-lost"))
	require.NotContains(t, snapshotsInside(t, v, vm.ID), "katoflow-lost")
	listed, err := p.List(ctx, vm, "")
	require.NoError(t, err)
	require.Empty(t, listed)
}

func TestTake_AfterTheDomainWentOff_IsAnErrorAndTakesNothing(t *testing.T) {
	t.Parallel()
	v := libvirttest.Start(t, "", "vm-1")
	p, vm, ctx := provider(v), vmOf(v.Domains[0]), t.Context()
	defer func() { require.NoError(t, p.Close()) }()
	shot, err := p.Prepare(ctx, vm, "katoflow-late")
	require.NoError(t, err)
	require.NoError(t, p.Stop(ctx, vm, true))
	_, err = shot.Take(ctx)
	require.ErrorContains(t, err, vm.Node+": libvirt took no snapshot")
	require.NotContains(t, snapshotsInside(t, v, vm.ID), "katoflow-late")
}

func TestRollback_OfADomainWhoseMemoryIsSaved_ForgetsIt(t *testing.T) {
	t.Parallel()
	v := libvirttest.Start(t, "", "vm-1")
	p, vm, ctx := provider(v), vmOf(v.Domains[0]), t.Context()
	defer func() { require.NoError(t, p.Close()) }()
	shot, err := p.Prepare(ctx, vm, "katoflow-save")
	require.NoError(t, err)
	_, err = shot.Take(ctx)
	require.NoError(t, err)
	v.Virsh(t, "managedsave", vm.ID)
	problems, err := p.Check(ctx, []hypervisor.VM{vm})
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(problems), "its memory is saved")
	require.NoError(t, p.Rollback(ctx, vm, "katoflow-save"))
	require.Contains(t, v.Virsh(t, "dominfo", vm.ID), "Managed save:   no")
}

func TestCheck_DomainsThatCannotBeSnapshotted_EachIsNamedWithWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	v := libvirttest.Start(t, "", "vm-1")
	p, ctx := provider(v), t.Context()
	defer func() { require.NoError(t, p.Close()) }()
	define := func(name, change, to string, transient bool) {
		xml := strings.ReplaceAll(v.Virsh(t, "dumpxml", "--inactive", v.Domains[0]), "<name>"+v.Domains[0]+"<", "<name>"+name+"<")
		from := strings.Index(xml, "<uuid>")
		xml = xml[:from] + xml[strings.Index(xml, "</uuid>")+len("</uuid>"):]
		require.Contains(t, xml, change)
		xml = strings.Replace(xml, change, to, 1)
		for _, k := range []string{"a", "b"} {
			other := filepath.Join(v.Dir, "disks", name+"-"+k+".qcow2")
			xml = strings.ReplaceAll(xml, filepath.Join(v.Dir, "disks", v.Domains[0]+"-"+k+".qcow2"), other)
			out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", other, "1M").CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.NoError(t, os.Chmod(other, 0o666)) //nolint:gosec // QEMU writes it
		}
		file := filepath.Join(v.Dir, name+"-domain.xml")
		require.NoError(t, os.WriteFile(file, []byte(xml), 0o644)) //nolint:gosec // virsh reads it
		if transient {
			v.Virsh(t, "create", file)
		} else {
			v.Virsh(t, "define", file)
		}
	}
	define("raw", "type='qcow2'", "type='raw'", false)
	define("transient", "<name>", "<name>", true)
	v.DefineUEFI(t, "uefi")
	var vms []hypervisor.VM
	for _, name := range []string{"raw", "transient", "uefi", v.Domains[0]} {
		vms = append(vms, vmOf(name))
	}
	problems, err := p.Check(ctx, append(vms, hypervisor.VM{Node: "twice", ID: v.Domains[0], Host: "kvm"}))
	require.NoError(t, err)
	text := fmt.Sprint(problems)
	for _, want := range []string{
		"node-raw: its disk vda is raw: snapshots inside the image need qcow2",
		"node-transient: its domain is transient",
		"node-uefi: it boots with UEFI",
		"twice: its VM vm-1 is also that of node-vm-1",
	} {
		require.Contains(t, text, want)
	}
	require.Len(t, problems, 4, text)
	_, err = p.Prepare(ctx, vms[0], "katoflow-no")
	require.ErrorContains(t, err, "node-raw: its disk vda is raw")
}

func TestCheck_HostWithoutVirsh_NamesIt(t *testing.T) {
	t.Parallel()
	p := &Provider{Hosts: overssh.Hosts{Runner: hypervisortest.Local{Path: t.TempDir(), Only: true}, ByName: map[string]remote.Host{"kvm": {Name: "kvm"}}}}
	problems, err := p.Check(context.Background(), []hypervisor.VM{vmOf("vm-1")})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].String(), "node-vm-1: virsh dominfo ended with exit code 127")
	require.NoError(t, p.Close())
}
