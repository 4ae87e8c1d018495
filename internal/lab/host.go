package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const (
	diskSize = 1536 << 20
	srvSize  = 256 << 20
	// loginID is the number of the login user and its group.
	loginID = 1000
	// backupPath is a folder of the volume at /srv on the host with the role filesystem.
	backupPath = "/mnt/backup"
	// rebooted is nspawn's exit code when its system asked for a reboot and nspawn may not keep its unit.
	rebooted = 133
)

// kato's own rule on hosts of ALS clusters: it wants sudo without a password, and relocates the files of others by it.
const (
	katoSudoersPath = "etc/sudoers.d/kato"
	katoSudoers     = LoginUser + " ALL=(root) NOPASSWD: /usr/bin/true, /usr/bin/sh -c * " + katodouble.RelocateName + " *\n"
)

var hostKeyKinds = []string{"ed25519", "ecdsa"}

// Host is a Debian host.
type Host struct {
	c      *Cluster
	cfg    NodeConfig
	number int
	dir    string
	docker *daemon // nil where it has none

	mu          sync.Mutex
	boots       int
	running     bool
	off         bool // to be left off when it ends
	neverReturn bool
	reset       bool // to be booted again however it ends
	process     *exec.Cmd
	ended       chan struct{} // closed when the current supervision has ended
}

func newHost(c *Cluster, cfg NodeConfig, number int) *Host {
	h := &Host{c: c, cfg: cfg, number: number, dir: filepath.Join(c.dir, cfg.Name)}
	if (c.cfg.Docker || c.cfg.Images) && slices.Contains(cfg.Roles, "dea") {
		h.docker = &daemon{dir: filepath.Join(h.dir, "docker"), group: h.group("docker"), apps: h.group("apps")}
	}
	return h
}

// Name of the host.
func (h *Host) Name() string { return h.cfg.Name }

// Address is its IP address, on port 22 of which sshd answers.
func (h *Host) Address() string { return h.c.lab.addressOf(h.number).String() }

// path of a file of the host, on this machine. What the host mounts in memory (/run, /proc) is not there.
func (h *Host) path(name string) string { return filepath.Join(h.dir, "root", name) }

func (h *Host) netns() string { return fmt.Sprintf("katoflow-%s-%d", h.c.lab.cfg.Name, h.number) }

// make prepares disks, network and files.
func (h *Host) make(ctx context.Context) error {
	dirs := []string{"disk", "root", "srv"}
	if h.docker != nil {
		dirs = append(dirs, "docker/run", "docker/data")
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, fs := range []struct {
		name string
		size int64
	}{{"disk", h.c.cfg.DiskSize}, {"srv", h.c.cfg.SrvSize}} {
		image := filepath.Join(h.dir, fs.name+".img")
		if err := run(ctx, "truncate", "-s", strconv.FormatInt(fs.size, 10), image); err != nil {
			return err
		}
		if err := run(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", image); err != nil {
			return err
		}
		// What is written outlives a host's power cut as long as this machine runs: no flush of the disk below it is needed.
		if err := run(ctx, "mount", "-o", "loop,noatime,noinit_itable,nobarrier", image, filepath.Join(h.dir, fs.name)); err != nil {
			return err
		}
	}
	if h.hasBackup() {
		backup := filepath.Join(h.dir, "srv", "backup")
		if err := errors.Join(os.Mkdir(backup, 0o755), os.Chown(backup, loginID, loginID)); err != nil {
			return err
		}
	}
	disk := filepath.Join(h.dir, "disk")
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(disk, d), 0o755); err != nil {
			return err
		}
	}
	if err := run(ctx, "mount", "-t", "overlay", "overlay", "-o", "lowerdir="+h.c.lab.golden+",upperdir="+disk+"/upper,workdir="+disk+"/work", filepath.Join(h.dir, "root")); err != nil {
		return err
	}
	if err := h.connect(ctx); err != nil {
		return err
	}
	return h.furnish(ctx)
}

// hasBackup says whether the host has a mounted folder for exports.
func (h *Host) hasBackup() bool {
	return h.c.cfg.Platform == "als" && slices.Contains(h.cfg.Roles, "filesystem")
}

// write makes a file of the host, and the folders it is in.
func (h *Host) write(name, text string, mode os.FileMode, user int) error {
	path := h.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return err
	}
	return errors.Join(os.Chmod(path, mode), os.Chown(path, user, user))
}

// connect makes the host's network: a namespace with a link to the bridge.
func (h *Host) connect(ctx context.Context) error {
	link, inside := h.c.lab.link(h.number), h.c.lab.link(h.number)+"i"
	for _, argv := range [][]string{
		{"ip", "netns", "add", h.netns()},
		{"ip", "link", "add", link, "type", "veth", "peer", "name", inside},
		{"ip", "link", "set", inside, "netns", h.netns(), "name", "host0"},
		{"ip", "-n", h.netns(), "addr", "add", h.Address() + "/24", "dev", "host0"},
		{"ip", "-n", h.netns(), "link", "set", "lo", "up"},
		{"ip", "-n", h.netns(), "link", "set", "host0", "up"},
		{"ip", "link", "set", link, "master", h.c.lab.link(0)},
		{"ip", "link", "set", link, "up"},
	} {
		if err := run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// furnish writes what makes this host different from the golden tree.
func (h *Host) furnish(ctx context.Context) error {
	for _, kind := range hostKeyKinds {
		if err := run(ctx, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", h.Name(), "-f", h.path("etc/ssh/ssh_host_"+kind+"_key")); err != nil {
			return err
		}
	}
	public, err := os.ReadFile(h.c.ClientKeyPath() + ".pub")
	if err != nil {
		return err
	}
	slow := h.cfg.Slow
	if slow <= 0 {
		slow = time.Second
	}
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n")
	for _, o := range h.c.hosts {
		fmt.Fprintf(&hosts, "%s %s\n", o.Address(), o.Name())
	}
	type file struct {
		name, text string
		mode       os.FileMode
		user       int
	}
	files := []file{
		{"etc/hostname", h.Name() + "\n", 0o644, 0},
		{"etc/hosts", hosts.String(), 0o644, 0},
		{"etc/apt/sources.list", fmt.Sprintf("deb [trusted=yes] http://%s:%d ./\n", h.c.lab.bridge, h.c.lab.port), 0o644, 0},
		// Every command of sudo is told to a file, with its time and its end: what ran is read from the host itself.
		{"etc/sudoers.d/lab", "Defaults log_format=json, log_exit_status, logfile=/var/log/sudo.json\n", 0o440, 0},
		// As Debian has it, passwords are asked for; nobody has one before SetPassword.
		{"etc/ssh/sshd_config.d/lab.conf", "UseDNS no\nPermitRootLogin no\n", 0o644, 0},
		{"etc/katoflow-lab/slow", strconv.FormatFloat(slow.Seconds(), 'f', -1, 64) + "\n", 0o644, 0},
		{"home/stackato/.ssh/authorized_keys", string(public), 0o600, 1000},
	}
	if len(h.c.lab.cfg.Sudoers) > 0 {
		files = append(files, file{"etc/sudoers.d/katoflow", string(h.c.lab.cfg.Sudoers), 0o440, 0})
	}
	for name, text := range h.c.cfg.Sudoers {
		files = append(files, file{"etc/sudoers.d/" + name, string(text), 0o440, 0})
	}
	for name, text := range h.c.cfg.Programs {
		files = append(files, file{"usr/local/sbin/" + name, string(text), 0o755, 0})
	}
	if h.docker != nil {
		files = append(files, file{"etc/tmpfiles.d/katoflow-docker.conf", dockerTmpfiles, 0o644, 0})
	}
	if h.c.cfg.Platform == "als" {
		binary, err := os.ReadFile(h.c.lab.cfg.Kato)
		if err != nil {
			return fmt.Errorf("the kato double: %w", err)
		}
		node, err := json.Marshal(h.katoSite())
		if err != nil {
			return err
		}
		files = append(files, file{"home/stackato/bin/kato", string(binary), 0o755, 1000}, file{"etc/kato/node.json", string(node), 0o644, 0},
			file{"etc/systemd/system/kato-agent.service", katoUnit, 0o644, 0},
			// An export asks sudo for it; katoflow's own file, which is read later, has the last word.
			file{katoSudoersPath, katoSudoers, 0o440, 0})
		private, accepted, err := h.loginKey(ctx)
		if err != nil {
			return err
		}
		files = append(files, file{"home/stackato/.ssh/id_ed25519", private, 0o600, loginID}, file{"home/stackato/.ssh/authorized_keys", string(public) + accepted, 0o600, loginID})
		for _, f := range []string{"var/stackato/services", "home/stackato/stackato/data"} {
			files = append(files, file{f + "/katoflow-lab", strings.Repeat(h.Name()+"\n", 1000), 0o644, loginID})
		}
	}
	for _, f := range files {
		if err := h.write(f.name, f.text, f.mode, f.user); err != nil {
			return err
		}
	}
	if h.c.cfg.Platform == "als" {
		for _, dir := range []string{"home/stackato/stackato", "home/stackato/stackato/data", "var/stackato/services"} {
			if err := os.Chown(h.path(dir), loginID, loginID); err != nil {
				return err
			}
		}
		wants := h.path("etc/systemd/system/multi-user.target.wants/kato-agent.service")
		if err := os.Symlink("/etc/systemd/system/kato-agent.service", wants); err != nil {
			return err
		}
	}
	if err := h.furnishStorage(ctx); err != nil {
		return err
	}
	if h.docker != nil {
		if err := os.Symlink("/"+dockerClient, h.path("usr/bin/docker")); err != nil {
			return err
		}
	}
	if h.cfg.Shell != "" {
		if err := run(ctx, "chroot", filepath.Join(h.dir, "root"), "chsh", "-s", h.cfg.Shell, LoginUser); err != nil {
			return err
		}
	}
	if h.cfg.Pending != nil {
		var hold []string
		for _, p := range packageSources {
			if !slices.Contains(h.cfg.Pending, p.name) && p.name != PackageBroken {
				hold = append(hold, p.name)
			}
		}
		if len(hold) > 0 {
			return run(ctx, append([]string{"chroot", filepath.Join(h.dir, "root"), "apt-mark", "hold"}, hold...)...)
		}
	}
	return nil
}

// loginKey returns the private key of the host's login user, and the public ones that let in: the Core's and its own.
func (h *Host) loginKey(ctx context.Context) (private, accepted string, err error) {
	core, err := os.ReadFile(h.c.coreKeyPath() + ".pub")
	if err != nil {
		return "", "", err
	}
	path := h.c.coreKeyPath()
	if h != h.c.core() {
		path = filepath.Join(h.dir, "id_ed25519")
		if err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", LoginUser+"@"+h.Name(), "-f", path); err != nil {
			return "", "", err
		}
		own, err := os.ReadFile(path + ".pub")
		if err != nil {
			return "", "", err
		}
		accepted = string(own)
	}
	b, err := os.ReadFile(path)
	return string(b), string(core) + accepted, err
}

// intoGroup runs the arguments in a control group of their own.
const intoGroup = `group=$1
shift
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
	set -- /sys/fs/cgroup -- "$@"
else
	set -- /sys/fs/cgroup/* -- "$@"
fi
while [ "$1" != -- ]; do
	case $1 in
	*/cpuset) ;;
	*)
		if [ -e "$1/cgroup.procs" ]; then
			mkdir -p "$1/$group"
			echo $$ >"$1/$group/cgroup.procs" || exit 1
		fi
		;;
	esac
	shift
done
shift
exec "$@"`

func (h *Host) group(what string) string {
	return fmt.Sprintf("katoflow-%s/%s%d", h.c.lab.cfg.Name, what, h.number)
}

// boot starts the host and keeps it: a reboot starts it again.
func (h *Host) boot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running {
		return
	}
	h.running, h.off = true, false
	h.ended = make(chan struct{})
	h.c.mark(h, true)
	go h.supervise(h.ended)
	go h.watch(h.ended)
}

func (h *Host) supervise(ended chan struct{}) {
	defer close(ended)
	for {
		h.mu.Lock()
		if h.off {
			h.running, h.process = false, nil
			h.mu.Unlock()
			return
		}
		cmd, err := h.spawn()
		if err == nil {
			h.process = cmd
			h.boots++
		}
		h.mu.Unlock()
		code := -1
		if err == nil {
			_ = cmd.Wait()
			code = cmd.ProcessState.ExitCode()
		} else {
			h.c.lab.cfg.Log("%s cannot be booted: %v", h.Name(), err)
		}
		h.c.mark(h, true)
		h.mu.Lock()
		h.process = nil
		again := (code == rebooted || h.reset) && !h.off && !h.neverReturn
		h.running, h.reset = again, false
		h.mu.Unlock()
		h.c.lab.cfg.Log("%s is down (nspawn %d)", h.Name(), code)
		if !again {
			return
		}
	}
}

// spawn runs the host's systemd.
func (h *Host) spawn() (*exec.Cmd, error) {
	argv := []string{"-c", intoGroup, "sh", h.group("host"), "env", "SYSTEMD_SECCOMP=0", "systemd-nspawn", "-q", "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
		"--network-namespace-path=/run/netns/" + h.netns(), "--hostname=" + h.Name(), "-D", filepath.Join(h.dir, "root"), "--capability=all",
		"--bind=" + filepath.Join(h.dir, "srv") + ":/srv"}
	if h.hasBackup() {
		argv = append(argv, "--bind="+filepath.Join(h.dir, "srv", "backup")+":"+backupPath)
	}
	if h.docker != nil {
		argv = append(argv, "--bind-ro="+h.docker.dir+"/data", "--bind="+h.docker.dir+"/run:"+dockerRun, "--bind-ro=/usr/bin/docker:/"+dockerClient)
	}
	log, err := os.OpenFile(filepath.Join(h.dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("sh", append(argv, "--boot")...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, ownGroup()
	return cmd, cmd.Start()
}

// watch marks the host as there again whenever its sshd answers after a boot.
func (h *Host) watch(ended chan struct{}) {
	seen := 0
	for {
		select {
		case <-ended:
			return
		case <-time.After(100 * time.Millisecond):
		}
		h.mu.Lock()
		boots, up := h.boots, h.process != nil
		h.mu.Unlock()
		if up && boots != seen && h.banner() == nil {
			seen = boots
			h.mu.Lock()
			same := h.boots == boots && h.process != nil
			h.mu.Unlock()
			if same {
				h.c.mark(h, false)
			}
		}
	}
}

// banner is nil when sshd answers.
func (h *Host) banner() error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(h.Address(), "22"), time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	line, err := bufio.NewReader(io.LimitReader(conn, 255)).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "SSH-") {
		err = errors.New("no SSH server")
	}
	return err
}

// WaitUp waits until sshd answers and systemd has ended the boot.
func (h *Host) WaitUp(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := "no answer"
	for {
		if err := h.banner(); err != nil {
			last = err.Error()
		} else if state, err := h.Exec(ctx, "systemctl is-system-running 2>&1 || true"); err != nil {
			last = err.Error()
		} else if state = strings.TrimSpace(state); state == "running" || state == "degraded" {
			return nil
		} else {
			last = "systemd is " + state
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not boot within %s (%s): see %s", h.Name(), limit, last, filepath.Join(h.dir, "console.log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// leader is the process on this machine that is the host's PID 1.
func (h *Host) leader() (int, error) {
	h.mu.Lock()
	cmd := h.process
	h.mu.Unlock()
	if cmd == nil {
		return 0, fmt.Errorf("%s is off", h.Name())
	}
	return h.leaderOf(cmd)
}

// leaderOf is leader for the boot whose nspawn is cmd.
func (h *Host) leaderOf(cmd *exec.Cmd) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("%s is going down", h.Name())
	}
	for _, word := range strings.Fields(string(b)) {
		status, err := os.ReadFile("/proc/" + word + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
				if f := strings.Fields(ids); len(f) > 1 && f[len(f)-1] == "1" {
					return strconv.Atoi(word)
				}
			}
		}
	}
	return 0, fmt.Errorf("%s has not begun to boot", h.Name())
}

// Exec runs a script as root on the host, past sshd and network, and returns its output.
func (h *Host) Exec(ctx context.Context, script string, args ...string) (string, error) {
	cmd, err := h.command(ctx, script, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", h.Name(), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func (h *Host) command(ctx context.Context, script string, args ...string) (*exec.Cmd, error) {
	leader, err := h.leader()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(leader), "-m", "-u", "-i", "-n", "-p", "--", "/bin/sh", "-c", script, "sh"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	cmd.SysProcAttr = ownGroup()
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// halt ends the host as a power cut does.
func (h *Host) halt() {
	h.mu.Lock()
	h.off = true
	cmd, ended := h.process, h.ended
	h.mu.Unlock()
	if ended == nil {
		return
	}
	if cmd != nil {
		if leader, err := h.leader(); err == nil {
			_ = syscall.Kill(leader, syscall.SIGKILL)
		} else {
			_ = cmd.Process.Kill()
		}
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		if cmd != nil {
			_ = cmd.Process.Kill()
		}
		<-ended
	}
}

// remove ends the host and takes its disks and its network away.
func (h *Host) remove() error {
	h.halt()
	if h.docker != nil {
		h.docker.kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var all []error
	for _, d := range []string{"root", "disk", "srv"} {
		place := filepath.Join(h.dir, d)
		if mounted(place) {
			err := retry(20, func() error { return run(ctx, "umount", place) })
			all = append(all, err)
		}
	}
	if len(h.cfg.Disks) > 0 {
		all = append(all, h.freeDisks(ctx))
	}
	if _, err := os.Stat("/run/netns/" + h.netns()); err == nil {
		all = append(all, run(ctx, "ip", "netns", "del", h.netns()))
	}
	link := h.c.lab.link(h.number)
	if _, err := net.InterfaceByName(link); err == nil {
		if err := run(ctx, "ip", "link", "del", link); err != nil {
			if _, there := net.InterfaceByName(link); there == nil { // it went with its namespace meanwhile
				all = append(all, err)
			}
		}
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	h.c.lab.release(h.number)
	h.c.mark(h, false)
	return os.RemoveAll(h.dir)
}

func mounted(place string) bool {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Contains(string(b), " "+place+" ")
}

func retry(times int, do func() error) (err error) {
	for range times {
		if err = do(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
