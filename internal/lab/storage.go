package lab

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// Disk is an ext4 file system of its own on a host: a file of this machine on a loop device, which the host mounts at each of its boots. What is in it outlives them, and is gone with the host.
type Disk struct {
	// Path it is mounted on, a folder that only root writes to.
	Path string
	// Size in bytes, which takes space on this machine only as it is filled; 0 = 256 MiB. Nothing of it is reserved for root.
	Size int64
	// Options it is mounted with, as /etc/fstab has them; "" = defaults, which /proc/mounts tells as rw,relatime.
	Options string
	// NotInFstab leaves it out of /etc/fstab: something else mounts it at each boot, with Options.
	NotInFstab bool
}

const (
	defaultDisk = 256 << 20
	labFiles    = "etc/katoflow-lab/"
	labPrograms = "usr/local/lib/katoflow-lab/"
	storageLog  = "var/log/katoflow-lab-storage"
	quotaSwitch = labFiles + "quota-support"
)

var (
	//go:embed files/disks.sh
	disksScript string
	//go:embed files/setup.sh
	setupScript string
	//go:embed files/record.sh
	recordScript string
	//go:embed files/quota.sh
	quotaScript string
)

// The quota programs, and those whose changes are recorded on hosts with disks, by their paths.
var (
	quotaPrograms   = []string{"usr/sbin/quotacheck", "usr/sbin/quotaon", "usr/sbin/quotaoff"}
	storagePrograms = append([]string{"usr/bin/mount"}, quotaPrograms...)
)

// bootUnit is a systemd unit that runs a program of the lab once at each boot.
func bootUnit(about, program, order string) string {
	return "[Unit]\nDescription=" + about + "\n" + order + "\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/" + labPrograms + program + "\n"
}

// device is the name of the host's disk of that number.
func (h *Host) device(number int) string { return fmt.Sprintf("vd%c1", 'b'+number) }

// DiskImage is the file of this machine that the host's disk at that path lies on; "" where the host has none there. A copy of it is a snapshot of the disk.
func (h *Host) DiskImage(path string) string {
	for i, d := range h.cfg.Disks {
		if d.Path == path {
			return h.diskImage(i)
		}
	}
	return ""
}

func (h *Host) diskImage(number int) string {
	return filepath.Join(h.dir, "disk-"+h.device(number)+".img")
}

// checkDisks says what is wrong with the disks of a host's configuration.
func (n NodeConfig) checkDisks() error {
	if len(n.Disks) > 24 {
		return fmt.Errorf("%s: %d disks: there are 24 at most", n.Name, len(n.Disks))
	}
	for _, d := range n.Disks {
		if !path.IsAbs(d.Path) || path.Clean(d.Path) != d.Path || d.Path == "/" || d.Size < 0 || strings.ContainsAny(d.Options, " \t\n") {
			return fmt.Errorf("%s: disk %q of %d bytes with options %q: the path is absolute, the size not negative, the options one word", n.Name, d.Path, d.Size, d.Options)
		}
	}
	return nil
}

// makeDisks makes the file systems, and the loop devices that they lie on until the host is removed. The lines tell the host of the devices.
func (h *Host) makeDisks(ctx context.Context) (lines string, err error) {
	for i, d := range h.cfg.Disks {
		size := d.Size
		if size == 0 {
			size = defaultDisk
		}
		image := h.diskImage(i)
		if err := run(ctx, "truncate", "-s", strconv.FormatInt(size, 10), image); err != nil {
			return "", err
		}
		if err := run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", image); err != nil {
			return "", err
		}
		loop, err := output(ctx, "losetup", "--find", "--show", image)
		if err != nil {
			return "", err
		}
		number, err := os.ReadFile("/sys/class/block/" + path.Base(strings.TrimSpace(loop)) + "/dev")
		if err != nil {
			return "", err
		}
		lines += h.device(i) + " " + strings.ReplaceAll(string(number), ":", " ")
	}
	return lines, nil
}

// loops are the loop devices of a file, or of the files in a folder.
func loops(dir string) (out []string) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && (strings.TrimSpace(string(b)) == dir || strings.HasPrefix(string(b), dir+"/")) { // it may have gone meanwhile
			out = append(out, "/dev/"+path.Base(filepath.Dir(filepath.Dir(f))))
		}
	}
	return out
}

// disksInUse are the loop devices of the host's disks. Those of its root and its /srv are mounted in this machine, go with their last mount, and may be held for a while by another host that was started meanwhile.
func (h *Host) disksInUse() []string {
	var out []string
	for i := range h.cfg.Disks {
		out = append(out, loops(h.diskImage(i))...)
	}
	return out
}

// freeDisks takes the loop devices of the host's disks away. A device that is still mounted, in a host that is just ending, goes with its mount.
func (h *Host) freeDisks(ctx context.Context) error {
	for range 100 {
		left := h.disksInUse()
		if len(left) == 0 {
			return nil
		}
		for _, l := range left {
			_ = run(ctx, "losetup", "--detach", l) // it may have gone meanwhile
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("loop devices of %s are still in use: %v", h.dir, h.disksInUse())
}

// escapeMount is a path as a line of /etc/fstab and /proc/mounts has it.
func escapeMount(name string) string {
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(name)
}

// furnishStorage writes what makes the host mount its disks, record what is changed of them, and run ALS's init scripts.
func (h *Host) furnishStorage(ctx context.Context) error {
	if h.c.cfg.Platform == "als" {
		if err := errors.Join(h.install(labPrograms+"setup", setupScript, 0o755), h.enable("katoflow-lab-setup.service", "multi-user.target",
			bootUnit("Init scripts of ALS", "setup", "After=network.target local-fs.target\nBefore=kato-agent.service\n"))); err != nil {
			return err
		}
		if err := h.furnishData(); err != nil {
			return err
		}
	}
	if len(h.cfg.Disks) == 0 {
		return nil
	}
	devices, err := h.makeDisks(ctx)
	if err != nil {
		return err
	}
	fstab, other := "# <device> <mount point> <type> <options> <dump> <pass>\n", ""
	for i, d := range h.cfg.Disks {
		options := d.Options
		if options == "" {
			options = "defaults"
		}
		line := fmt.Sprintf("/dev/%s %s ext4 %s 0 2\n", h.device(i), escapeMount(d.Path), options)
		if d.NotInFstab {
			other += line
		} else {
			fstab += line
		}
		if err := os.MkdirAll(h.path(d.Path), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{labFiles + "disks": devices, "etc/fstab": fstab, labFiles + "fstab": other} {
		if err := h.install(name, text, 0o644); err != nil {
			return err
		}
	}
	if err := errors.Join(h.install(labPrograms+"disks", disksScript, 0o755), h.enable("katoflow-lab-disks.service", "local-fs.target",
		bootUnit("Disks of the lab", "disks", "DefaultDependencies=no\nAfter=systemd-remount-fs.service\nBefore=local-fs.target\n"))); err != nil {
		return err
	}
	return h.replaceStoragePrograms()
}

// enable writes a unit of systemd that a target wants.
func (h *Host) enable(unit, target, text string) error {
	if err := h.install("etc/systemd/system/"+unit, text, 0o644); err != nil {
		return err
	}
	wants := h.path("etc/systemd/system/" + target + ".wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	return os.Symlink("/etc/systemd/system/"+unit, filepath.Join(wants, unit))
}

// replaceStoragePrograms puts the recorder in the place of each program that changes file systems, and before the programs of quotas what can stand in for them. What they do depends on the name they
// are called by, which each has in all of its places.
func (h *Host) replaceStoragePrograms() error {
	for _, place := range storagePrograms {
		name := path.Base(place)
		info, err := os.Stat(h.path(place))
		if err != nil {
			return err
		}
		program, err := os.ReadFile(h.path(place))
		if err != nil {
			return err
		}
		real := labPrograms + "storage/" + name
		if slices.Contains(quotaPrograms, place) {
			if err := h.install(real, quotaScript, 0o755); err != nil {
				return err
			}
			real = labPrograms + "quota/" + name
		}
		if err := h.install(real, string(program), info.Mode()); err != nil {
			return err
		}
	}
	for _, place := range storagePrograms { // quotaoff is a link to quotaon at first
		if err := errors.Join(os.Remove(h.path(place)), h.install(place, recordScript, 0o755)); err != nil {
			return err
		}
	}
	return nil
}

// dataEntry is a file of the host's data: a folder when mode says so, a link to target, a further name of the file same, or a file of size bytes.
type dataEntry struct {
	name         string
	mode         os.FileMode
	user, group  int
	target, same string
	size         int
}

// The data of a node: few and small, of several users of whom the node knows none, with all that a copy can lose. Everybody may look into the folders, which exports measure as the login user.
var (
	servicesData = []dataEntry{
		{name: "mysql", mode: fs.ModeDir | 0o755, user: 500, group: 500},
		{name: "mysql/ibdata1", mode: 0o660, user: 500, group: 500, size: 48 << 10},
		{name: "mysql/backup", mode: fs.ModeDir | fs.ModeSetgid | 0o775, user: 500, group: 501},
		{name: "mysql/backup/ibdata1", same: "mysql/ibdata1"},
		{name: "mysql/slow queries.log", mode: 0o640, user: 500, group: 501, size: 700},
		{name: "mysql/current", user: 500, group: 500, target: "ibdata1"},
		{name: "mysql/tmp", mode: fs.ModeDir | fs.ModeSticky | 0o777, user: 500, group: 500},
		{name: "redis", mode: fs.ModeDir | 0o755, user: 510, group: 510},
		{name: "redis/dump.rdb", mode: 0o600, user: 510, group: 510, size: 5000},
	}
	dropletsData = []dataEntry{
		{name: "droplets", mode: fs.ModeDir | 0o755, user: loginID, group: loginID},
		{name: "droplets/4c", mode: fs.ModeDir | 0o755, user: loginID, group: loginID},
		{name: "droplets/4c/7e", mode: 0o644, user: loginID, group: loginID, size: 20 << 10},
		{name: "droplets/4c/staged by hand", mode: 0o600, user: 520, group: 520, size: 900},
		{name: "droplets/latest", user: loginID, group: loginID, target: "4c/7e"},
		{name: "resources", mode: fs.ModeDir | 0o755, user: 520, group: 521},
		{name: "resources/4c7e", same: "droplets/4c/7e"},
		{name: "packages", mode: fs.ModeDir | 0o755, user: loginID, group: loginID},
	}
	containersData = []dataEntry{
		{name: "containers", mode: fs.ModeDir | 0o700},
		{name: "containers/0f5a1d7e", mode: fs.ModeDir | 0o700},
		{name: "containers/0f5a1d7e/config.json", mode: 0o600, size: 1800},
		{name: "aufs", mode: fs.ModeDir | 0o755},
		{name: "aufs/app", mode: 0o755, user: 530, group: 530, size: 9000},
		{name: "graph", mode: fs.ModeDir | 0o700},
	}
	dataRoles = []string{"mysql", "postgresql", "mongodb", "redis", "rabbit", "rabbit3", "memcached", "harbor", "filesystem"}
)

// furnishData writes the data that the host's roles have on its disk: of services, of the controller's droplets and of containers.
func (h *Host) furnishData() error {
	has := func(roles ...string) bool {
		return slices.ContainsFunc(h.cfg.Roles, func(r string) bool { return slices.Contains(roles, r) })
	}
	if has(dataRoles...) {
		if err := h.writeData(katodouble.RelocateSource("services"), servicesData); err != nil {
			return err
		}
	}
	if has("controller") {
		if err := h.writeData(katodouble.RelocateSource("droplets"), dropletsData); err != nil {
			return err
		}
	}
	if !has("dea") {
		return nil
	}
	if err := h.writeData(katodouble.RelocateSource("containers"), containersData); err != nil {
		return err
	}
	// The daemon itself lives beside the host, where it cannot be reached while its service is stopped.
	socket := "ExecStart=/bin/ln -sfn " + dockerRun + "/docker.sock /run/docker.sock\nExecStop=/bin/rm -f /run/docker.sock\n"
	if h.docker == nil {
		socket = "ExecStart=/bin/true\n"
	}
	return errors.Join(h.install("etc/default/docker", "# Docker's options, as kato relocate and kato's own setup leave them.\nDOCKER_OPTS=\"--restart=false\"\n", 0o644),
		h.enable("docker.service", "multi-user.target", "[Unit]\nDescription=Docker of the node\nAfter=network.target local-fs.target\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"+socket))
}

// writeData writes the content of a folder, which it makes where it is missing.
func (h *Host) writeData(folder string, entries []dataEntry) error {
	if err := os.MkdirAll(h.path(folder), 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		name := h.path(path.Join(folder, e.name))
		var err error
		switch {
		case e.same != "":
			err = os.Link(h.path(path.Join(folder, e.same)), name)
		case e.target != "":
			err = errors.Join(os.Symlink(e.target, name), os.Lchown(name, e.user, e.group))
		case e.mode.IsDir():
			err = errors.Join(os.Mkdir(name, 0o700), os.Chown(name, e.user, e.group), os.Chmod(name, e.mode))
		default:
			text := strings.Repeat(h.Name()+" "+e.name+"\n", e.size/len(e.name)+1)[:e.size]
			err = errors.Join(os.WriteFile(name, []byte(text), 0o600), os.Chown(name, e.user, e.group), os.Chmod(name, e.mode))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// QuotaSupport lets the host's quotaon, quotaoff and quotacheck answer as on a kernel that has Linux quotas, from now on or no more; at first they are the real ones, and what this machine's kernel
// says is true. Remounts and the files of quotas are real in both cases. What is on stays so until it is switched off or the host boots. It needs a host with disks.
func (h *Host) QuotaSupport(on bool) error {
	if _, err := os.Stat(h.path(labPrograms + "quota/quotaon")); err != nil {
		return fmt.Errorf("%s has no disks", h.Name())
	}
	if on {
		return h.install(quotaSwitch, "", 0o644)
	}
	if err := os.Remove(h.path(quotaSwitch)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// QuotaTools lets the host have quotacheck, quotaon and quotaoff, as it does at the start, or not.
func (h *Host) QuotaTools(on bool) error {
	away := h.path(labPrograms + "away")
	if err := os.MkdirAll(away, 0o700); err != nil {
		return err
	}
	for _, p := range quotaPrograms {
		from, to := h.path(p), filepath.Join(away, path.Base(p))
		if on {
			from, to = to, from
		}
		if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) { // as it is to be
			return err
		}
	}
	return nil
}

// MakeInitScript puts an ordinary init script, one of katodouble.InitScripts, into /etc/init.d, which a host of ALS runs at each boot.
func (h *Host) MakeInitScript(name string) error {
	if !slices.Contains(katodouble.InitScripts(), name) {
		return fmt.Errorf("%q is no init script that a boot runs: choose from %v", name, katodouble.InitScripts())
	}
	return h.install("etc/init.d/"+name, katodouble.InitScript(name), 0o755)
}

// mountPoint is that of the file system that a path of the running host lies on.
func (h *Host) mountPoint(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	out, err := h.Exec(ctx, `exec stat -L -c %m -- "$1"`, path)
	return strings.TrimSuffix(out, "\n"), err
}

// MountOptions are the options of the mount that a path of the running host lies on, as /proc/mounts has them now.
func (h *Host) MountOptions(path string) (string, error) {
	path, err := h.mountPoint(path)
	if err != nil {
		return "", err
	}
	leader, err := h.leader()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", leader))
	if err != nil {
		return "", err
	}
	options := ""
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == escapeMount(path) {
			options = f[3] // the last one is on top
		}
	}
	return options, nil
}

// QuotaOn says whether quotas of users and of groups are on, on the mount that a path lies on, as the host's quotaon -p tells. They are off where it is not mounted with quotas.
func (h *Host) QuotaOn(path string) (user, group bool, err error) {
	if path, err = h.mountPoint(path); err != nil {
		return false, false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	out, err := h.Exec(ctx, `quotaon -p "$1" 2>&1 || true`, path) // its exit code counts what is on
	if err != nil {
		return false, false, err
	}
	is := func(kind string) bool {
		return slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
			return strings.HasPrefix(line, kind+" quota on "+path+" (") && strings.HasSuffix(line, ") is on")
		})
	}
	if !strings.Contains(out, " quota on "+path+" (") && !strings.Contains(out, "has no quota enabled") {
		return false, false, fmt.Errorf("%s: quotaon -p %s: %s", h.Name(), path, strings.TrimSpace(out))
	}
	return is("user"), is("group"), nil
}

// RelocateWith changes what `kato relocate` does on the host; katodouble.RelocatePatch says what can be set. What it does not name stays.
func (h *Host) RelocateWith(p katodouble.RelocatePatch) error {
	return h.Kato(katodouble.StatePatch{Relocate: &p})
}

// HealRelocate makes the host's relocations as they were at the start. What is relocated stays so.
func (h *Host) HealRelocate() error {
	return h.RelocateWith(katodouble.RelocatePatch{Heal: true})
}

// recordedStorage says whether a program is one whose changes the host's own recorder tells.
func (h *Host) recordedStorage(program string) bool {
	return len(h.cfg.Disks) > 0 && slices.ContainsFunc(storagePrograms, func(p string) bool { return path.Base(p) == program })
}

// storageCommands are the runs of programs that change file systems in a job; a boot runs them as well. A line begins or ends one; an argument with a tab or a newline in it is not told as it was.
func (h *Host) storageCommands() ([]Execution, error) {
	b, err := os.ReadFile(h.path(storageLog))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Execution
	begun := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f := strings.Split(strings.TrimSuffix(lines.Text(), "\t"), "\t")
		switch {
		case f[0] == "begin" && len(f) > 4:
			at, err := unixTime(f[2])
			if err != nil {
				return nil, fmt.Errorf("%s of %s: %w", storageLog, h.Name(), err)
			}
			begun[f[1]] = len(out)
			out = append(out, Execution{Node: h.Name(), Argv: f[4:], Job: f[3], Start: at})
		case f[0] == "end" && len(f) == 4:
			at, err := unixTime(f[2])
			if err != nil {
				return nil, fmt.Errorf("%s of %s: %w", storageLog, h.Name(), err)
			}
			if i, known := begun[f[1]]; known {
				out[i].End = at
				if out[i].ExitCode, err = strconv.Atoi(f[3]); err != nil {
					return nil, fmt.Errorf("%s of %s: %w", storageLog, h.Name(), err)
				}
			}
		}
	}
	return out, lines.Err()
}

// unixTime reads seconds with nine decimals, as date +%s.%N writes them.
func unixTime(text string) (time.Time, error) {
	whole, part, _ := strings.Cut(text, ".")
	s, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	n, err := strconv.ParseInt(part, 10, 64)
	return time.Unix(s, n), err
}
