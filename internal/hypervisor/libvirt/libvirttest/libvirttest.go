// Package libvirttest runs a libvirt of its own with real QEMU domains, for tests: no service of the machine is used or changed, and all of it is gone when the test ends.
//
// Root runs it as the user nobody, since a libvirt of root is the machine's. The domains have no operating system: their firmware finds nothing to boot and waits. What a guest would write is written
// through QEMU's own block layer.
package libvirttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/share"
)

// Required makes a machine that lacks libvirt or QEMU a failure, and not a reason to skip. Tests set it from the environment variable KATOFLOW_LIBVIRT.
var Required bool

// Part is which of the tests are tried; the zero value has all. Tests set it from the environment.
var Part share.Share

// inTurn is the number of commits over which the tests with real domains are dealt out, where a share is tried: emulated machines take the processors from all other tests.
const inTurn = 3

// nobody runs libvirt where the test is root.
const nobody = 65534

// Libvirt is one that runs.
type Libvirt struct {
	// Dir has all of it; Bin is to be first in the PATH of whoever is to find virsh; URI is what it is to connect to.
	Dir, Bin, URI string
	// Domains are the names of those that it has: on, and with two disks each.
	Domains []string

	daemon *exec.Cmd
}

// wrapper is the virsh in Bin: it is run as the user whose libvirt it is. Each command that changes something is noted. With a file lose-DOMAIN the process of the session that has begun
// snapshot-create --redefine is killed, once, before it is carried out, and all between it and the command, so that nobody is left to say how that ended.
const wrapper = `#!/bin/sh
dir=%[1]s
case " $* " in
*' snapshot-create '* | *' snapshot-delete '* | *' snapshot-revert '* | *' start '* | *' destroy '* | *' shutdown '* | *' managedsave-remove '* | *'"transaction"'*) echo "$*" >>"$dir/changes" ;;
esac
case " $* " in
*' snapshot-create '*' --redefine '*)
	for file in "$dir"/lose-*; do
		domain=${file##*/lose-}
		case " $* " in *" --domain=$domain "*) ;; *) continue ;; esac
		rm "$file" || continue
		process=$$ all=
		while parent=$(ps -o ppid= -p "$process" | tr -d ' ') && [ "$parent" != %[2]d ] && [ "$parent" -gt 1 ]; do process=$parent all="$process $all"; done
		kill -9 $all
		exit 1
	done
	;;
esac
case " $* " in
*' /dev/stdin '*) exec %[3]s sh -c 'cat | virsh "$@"' sh "$@" ;; # a pipe is opened by its name only by whoever made it
esac
exec %[3]s virsh "$@"
`

// Start starts libvirt and the domains of these names. It skips the test where the machine has no libvirt or QEMU, unless Required. disks, if not "", is the folder of the images.
func Start(t testing.TB, disks string, domains ...string) *Libvirt {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	if !Part.HasName(name, inTurn, 0) {
		t.Skipf("left to another commit (%s=%s)", share.Variable, Part)
	}
	for _, tool := range []string{"libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "qemu-io", "setpriv", "ps"} {
		if _, err := exec.LookPath(tool); err != nil {
			lacks(t, tool, "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils")
		}
	}
	dir, err := os.MkdirTemp("", "lv") // short: it has sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	v := &Libvirt{Dir: dir, Bin: filepath.Join(dir, "bin"), URI: "qemu+unix:///session?socket=" + dir + "/run/libvirt/libvirt-sock"}
	if disks == "" {
		disks = filepath.Join(dir, "disks")
	}
	for _, d := range []string{dir, v.Bin, disks, filepath.Join(dir, "run"), filepath.Join(dir, "home")} {
		must(t, os.MkdirAll(d, 0o755))
		v.own(t, d)
	}
	must(t, os.Chmod(filepath.Join(dir, "run"), 0o700))
	as := "env -i " + strings.Join(v.environment(), " ")
	if os.Getuid() == 0 {
		as = fmt.Sprintf("setpriv --reuid %d --regid %d --clear-groups %s", nobody, nobody, as)
	}
	must(t, os.WriteFile(filepath.Join(v.Bin, "virsh"), fmt.Appendf(nil, wrapper, dir, os.Getpid(), as), 0o755)) //nolint:gosec // it is run
	must(t, os.WriteFile(filepath.Join(dir, "changes"), nil, 0o666))
	must(t, os.Chmod(filepath.Join(dir, "changes"), 0o666))

	log, err := os.Create(filepath.Join(dir, "libvirtd.log"))
	must(t, err)
	defer log.Close()
	v.daemon = v.as(context.Background(), "libvirtd")
	v.daemon.Stdout, v.daemon.Stderr = log, log
	must(t, v.daemon.Start())
	t.Cleanup(func() { v.end(t) })
	v.until(t, "libvirt answers", func() bool { return exec.Command(filepath.Join(v.Bin, "virsh"), "-c", v.URI, "version").Run() == nil })

	v.Domains = domains
	for _, name := range domains {
		v.define(t, name, disks, "")
	}
	// All at once: each takes a second or two of nothing but waiting.
	var all sync.WaitGroup
	for _, name := range v.Domains {
		all.Go(func() { _ = exec.Command(filepath.Join(v.Bin, "virsh"), "-c", v.URI, "start", name).Run() })
	}
	all.Wait()
	for _, name := range v.Domains {
		if state := strings.TrimSpace(v.Virsh(t, "domstate", name)); state != "running" {
			t.Fatalf("%s is %s", name, state)
		}
	}
	return v
}

// lacks skips the test, or fails it.
func lacks(t testing.TB, tool, packages string) {
	t.Helper()
	if Required {
		t.Fatalf("%s is needed: apt-get install %s", tool, packages)
	}
	t.Skipf("%s is needed: apt-get install %s", tool, packages)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (v *Libvirt) own(t testing.TB, path string) {
	t.Helper()
	if os.Getuid() == 0 {
		must(t, os.Chown(path, nobody, nobody))
	}
}

func (v *Libvirt) environment() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + v.Dir + "/home", "XDG_RUNTIME_DIR=" + v.Dir + "/run", "XDG_CONFIG_HOME=" + v.Dir + "/home/config", "XDG_CACHE_HOME=" + v.Dir + "/home/cache",
		"XDG_DATA_HOME=" + v.Dir + "/home/data"}
}

// as is a command of the user whose libvirt it is.
func (v *Libvirt) as(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir = v.environment(), "/"
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// run runs a command of that user for at most a minute, and requires that it ends well.
func (v *Libvirt) run(t testing.TB, input, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := v.as(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// Virsh runs one command of virsh, past the wrapper.
func (v *Libvirt) Virsh(t testing.TB, args ...string) string {
	t.Helper()
	return v.run(t, "", "virsh", append([]string{"-c", v.URI}, args...)...)
}

func (v *Libvirt) until(t testing.TB, what string, done func() bool) {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-limit.C:
			log, _ := os.ReadFile(filepath.Join(v.Dir, "libvirtd.log"))
			t.Fatalf("not within 30 s: %s\n%s", what, log)
		case <-tick.C:
		}
	}
}

// end ends domains and daemon, also when they are stopped or in disorder.
func (v *Libvirt) end(t testing.TB) {
	_ = v.daemon.Process.Signal(syscall.SIGCONT)
	// QEMU writes its process id; one that has none left is gone.
	pids, _ := filepath.Glob(filepath.Join(v.Dir, "run/libvirt/qemu/run/*.pid"))
	for _, file := range pids {
		if strings.HasSuffix(file, "/driver.pid") {
			continue
		}
		var pid int
		if said, err := os.ReadFile(file); err == nil {
			if _, err := fmt.Sscan(string(said), &pid); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				v.until(t, "QEMU is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
			}
		}
	}
	_ = v.daemon.Process.Kill()
	_ = v.daemon.Wait()
}

const template = `<domain type='qemu'><name>%[1]s</name><memory unit='MiB'>16</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type>%[3]s</os><features><acpi/></features><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%[2]s/%[1]s-a.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%[2]s/%[1]s-b.qcow2'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%[2]s/seed.iso'/><target dev='vdc' bus='virtio'/><readonly/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='sata'/><readonly/></disk>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>`

// define defines a domain with two disks, a seed that it cannot write to, and an empty drive. firmware is added to its section os.
func (v *Libvirt) define(t testing.TB, name, disks, firmware string) {
	t.Helper()
	for _, k := range []string{"a", "b"} {
		v.run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(disks, name+"-"+k+".qcow2"), "16M")
	}
	seed := filepath.Join(disks, "seed.iso")
	must(t, os.WriteFile(seed, make([]byte, 4096), 0o644)) //nolint:gosec // QEMU reads it
	file := filepath.Join(v.Dir, name+".xml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, template, name, disks, firmware), 0o644)) //nolint:gosec // virsh reads it
	v.Virsh(t, "define", file)
}

// DefineUEFI defines a domain that boots with UEFI and is off.
func (v *Libvirt) DefineUEFI(t testing.TB, name string) {
	t.Helper()
	code := filepath.Join(v.Dir, "code.fd")
	must(t, os.WriteFile(code, make([]byte, 4096), 0o644)) //nolint:gosec // libvirt looks at it
	v.define(t, name, filepath.Join(v.Dir, "disks"), fmt.Sprintf("<loader readonly='yes' type='pflash'>%s</loader><nvram>%s/%s.fd</nvram>", code, v.Dir, name))
}

// images are the files of a domain's two disks.
func (v *Libvirt) images(t testing.TB, domain string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(v.Virsh(t, "domblklist", domain, "--details")) {
		if words := strings.Fields(line); len(words) == 4 && strings.HasSuffix(words[3], ".qcow2") {
			out = append(out, words[3])
		}
	}
	return out
}

const place = 512

// Write puts a text into the first place of both disks of a domain that is off.
func (v *Libvirt) Write(t testing.TB, domain, text string) {
	t.Helper()
	file := filepath.Join(v.Dir, domain+".text")
	must(t, os.WriteFile(file, append([]byte(text), make([]byte, place-len(text))...), 0o644)) //nolint:gosec // qemu-io reads it
	for _, image := range v.images(t, domain) {
		v.run(t, "", "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -s %s 0 %d", file, place), image)
	}
}

// Read returns what both disks of a domain that is off have there, joined by "|" where they differ.
func (v *Libvirt) Read(t testing.TB, domain string) string {
	t.Helper()
	var texts []string
	for _, image := range v.images(t, domain) {
		out := filepath.Join(v.Dir, "disks", "read")
		v.run(t, "", "sh", "-c", fmt.Sprintf("mkdir -p %s && rm -f %s && qemu-img dd -f qcow2 -O raw bs=%d count=1 if=%s of=%s", filepath.Dir(out), out, place, image, out))
		said, err := os.ReadFile(out)
		must(t, err)
		if text := strings.TrimRight(string(said[:min(place, len(said))]), "\x00"); len(texts) == 0 || texts[0] != text {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "|")
}

// WriteRunning fills the first place of both disks of a domain that runs with one letter, as its guest would.
func (v *Libvirt) WriteRunning(t testing.TB, domain string, letter byte) {
	t.Helper()
	for i := range 2 {
		said := v.Virsh(t, "qemu-monitor-command", domain, "--hmp", fmt.Sprintf(`qemu-io -d /machine/peripheral/virtio-disk%d/virtio-backend "write -P %d 0 %d"`, i, letter, place))
		if strings.Contains(said, "rror") {
			t.Fatal(said)
		}
	}
}

// Changes is how many commands that change something went through the wrapper.
func (v *Libvirt) Changes(t testing.TB) int {
	t.Helper()
	said, err := os.ReadFile(filepath.Join(v.Dir, "changes"))
	must(t, err)
	return strings.Count(string(said), "\n")
}

// LoseAnswer has the next snapshot of a domain that runs taken, and the session lost before it is entered into libvirt's list.
func (v *Libvirt) LoseAnswer(t testing.TB, domain string) (end func()) {
	t.Helper()
	file := filepath.Join(v.Dir, "lose-"+domain)
	must(t, os.WriteFile(file, nil, 0o600))
	return func() { _ = os.Remove(file) }
}

// Busy has QEMU copy a disk of a domain until the fault ends.
func (v *Libvirt) Busy(t testing.TB, domain string) (end func()) {
	t.Helper()
	v.Virsh(t, "blockcopy", domain, "vda", "--dest", filepath.Join(v.Dir, "home", domain+"-copy.qcow2"), "--format", "qcow2", "--transient-job")
	return func() { v.Virsh(t, "blockjob", domain, "vda", "--abort") }
}

// Freeze stops the daemon, so that it answers nobody, until the fault ends.
func (v *Libvirt) Freeze(t testing.TB) (end func()) {
	t.Helper()
	must(t, v.daemon.Process.Signal(syscall.SIGSTOP))
	return func() { _ = v.daemon.Process.Signal(syscall.SIGCONT) }
}
