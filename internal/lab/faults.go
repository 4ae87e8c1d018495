package lab

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// execWithin bounds what is done to a host.
const execWithin = 20 * time.Second

func (h *Host) do(script string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	_, err := h.Exec(ctx, script, args...)
	return err
}

// DropConnections breaks every SSH connection; what runs goes on.
func (h *Host) DropConnections() error {
	return h.do(`pkill -KILL -f '^sshd: [a-z]+( \[priv\]|@notty)' || true`)
}

// Refuse stops or starts sshd; open connections stay.
func (h *Host) Refuse(on bool) error {
	if on {
		return h.do("systemctl stop ssh.service")
	}
	return h.do("systemctl start ssh.service")
}

// Silence cuts the host's network, or joins it again.
func (h *Host) Silence(on bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	return run(ctx, "ip", "link", "set", h.c.lab.link(h.number), map[bool]string{true: "down", false: "up"}[on])
}

// FillDisk takes all space of the root file system that a user other than root may take, or gives it back.
func (h *Host) FillDisk(on bool) error {
	if !on {
		return h.do("rm -f /var/fill.* /var/tmp/fill")
	}
	return h.do(`n=0
while [ "$n" -lt 20 ]; do
	free=$(df --output=avail -k / | tail -n 1)
	[ "$free" -gt 64 ] || break
	fallocate -l "$((free - 32))KiB" "/var/fill.$n"
	n=$((n + 1))
done
setpriv --reuid 1000 --regid 1000 --clear-groups dd if=/dev/zero of=/var/tmp/fill bs=4k 2>/dev/null
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo 1 >/var/tmp/fill.not' 2>/dev/null || exit 0
rm -f /var/tmp/fill.not
exit 1`)
}

// NoCoreAccess takes the Core's key out of the login user's authorized_keys, or puts it back.
func (h *Host) NoCoreAccess(on bool) error {
	const file = "home/stackato/.ssh/authorized_keys"
	key, err := os.ReadFile(h.c.coreKeyPath() + ".pub")
	if err != nil {
		return err
	}
	b, err := os.ReadFile(h.path(file))
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(b), string(key), "")
	if !on {
		text += string(key)
	}
	return h.write(file, text, 0o600, loginID)
}

// NoOutbound leaves the host no way to what is outside of the lab (Lab.Forward), and breaks what it has connected there.
func (h *Host) NoOutbound(on bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	if !on {
		return run(ctx, "ip", "-n", h.netns(), "route", "flush", "type", "unreachable")
	}
	if err := run(ctx, "ip", "-n", h.netns(), "route", "replace", "unreachable", h.c.lab.outside.String()+"/32"); err != nil {
		return err
	}
	return h.DropOutbound()
}

// AnswerAs makes an address of another host this host's own, but only as seen from itself: there the connections end at its own sshd, whose keys it knows under
// that address. That is how a site looks in which two networks have the same addresses. It lasts as long as the host's network does.
func (h *Host) AnswerAs(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	// The network asks for that address too, and is to be answered by the other host alone.
	if err := run(ctx, "ip", "netns", "exec", h.netns(), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore"); err != nil {
		return err
	}
	if err := run(ctx, "ip", "-n", h.netns(), "addr", "replace", address+"/32", "dev", "lo"); err != nil {
		return err
	}
	return h.KnowHost(h, address)
}

// FreeSpace leaves so many bytes free in a folder that is the top of a file system, for everybody but root; -1 ends it.
func (h *Host) FreeSpace(folder string, free int64) error {
	if free < 0 {
		return h.do(`rm -f "$1/.fill"`, folder)
	}
	return h.do(`rm -f "$1/.fill"
left=$(df --output=avail -B1 "$1" | tail -n 1)
[ "$left" -le "$2" ] || fallocate -l "$((left - $2))" "$1/.fill" 2>/dev/null || head -c "$((left - $2))" /dev/zero >"$1/.fill" 2>/dev/null || [ "$2" = 0 ]`, folder, strconv.FormatInt(free, 10))
}

// Resize makes a file of the host longer by so many zero bytes, or shorter by a negative count, as another program does that writes to it.
func (h *Host) Resize(file string, by int64) error {
	return h.do(`truncate -s "$2" "$1"`, file, fmt.Sprintf("%+d", by))
}

//go:embed files/hold.py
var holdScript string

// HoldAptLock lets a process with the name of Debian's daily apt run hold the locks of apt and dpkg for d, or until release when d is 0.
func (h *Host) HoldAptLock(d time.Duration) (release func(), err error) {
	const program = "usr/local/lib/katoflow-lab/apt.systemd.daily"
	if err := h.install(program, holdScript, 0o755); err != nil {
		return nil, err
	}
	cmd, err := h.command(context.Background(), `exec /`+program+` "$1"`, strconv.FormatFloat(d.Seconds(), 'f', -1, 64))
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(out, 100)).ReadString('\n')
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	release = func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	if err != nil || line != "held\n" {
		release()
		return nil, fmt.Errorf("%s: the apt locks cannot be held: %q %w", h.Name(), line, err)
	}
	return release, nil
}

// install writes a file of the host.
func (h *Host) install(name, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(h.path(name), []byte(text), mode); err != nil {
		return err
	}
	return os.Chmod(h.path(name), mode)
}

// NeverReturn leaves the host off after its next reboot; PowerOn boots it.
func (h *Host) NeverReturn(on bool) {
	h.mu.Lock()
	h.neverReturn = on
	h.mu.Unlock()
}

// PowerOff ends the host as a power cut does.
func (h *Host) PowerOff() { h.halt() }

// PowerOn boots a host that is off, and ends NeverReturn.
func (h *Host) PowerOn() {
	h.NeverReturn(false)
	h.mu.Lock()
	ended, running := h.ended, h.running
	h.mu.Unlock()
	if !running && ended != nil {
		<-ended
	}
	h.boot()
}

// RebootNow resets the host as its reset button does: nothing that ran on it runs any more when this returns.
func (h *Host) RebootNow() error {
	h.mu.Lock()
	cmd := h.process
	h.reset = cmd != nil
	h.mu.Unlock()
	if cmd == nil {
		return fmt.Errorf("%s is off", h.Name())
	}
	for deadline := time.Now().Add(execWithin); ; time.Sleep(20 * time.Millisecond) {
		if leader, err := h.leaderOf(cmd); err == nil {
			_ = syscall.Kill(leader, syscall.SIGKILL)
		}
		h.mu.Lock()
		down := h.process != cmd
		h.mu.Unlock()
		if down {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s was reset and is not down after %s", h.Name(), execWithin)
		}
	}
}

// SudoPassword lets sudo ask the login user for a password.
func (h *Host) SudoPassword(on bool) error {
	rules, kato := LoginUser+" ALL=(ALL) ALL\n", "# sudo asks\n"
	if !on {
		rules, kato = string(h.c.lab.cfg.Sudoers), katoSudoers
	}
	if h.c.cfg.Platform == "als" {
		// With one rule that needs no password sudo -l asks for none, and tells of the others as if they needed none either.
		if err := h.install(katoSudoersPath, kato, 0o440); err != nil {
			return err
		}
	}
	for name, text := range h.c.cfg.Sudoers {
		if on {
			text = []byte("# sudo asks\n")
		}
		if err := h.install("etc/sudoers.d/"+name, string(text), 0o440); err != nil {
			return err
		}
	}
	return h.install("etc/sudoers.d/katoflow", rules, 0o440)
}

// ChangeHostKey gives sshd other host keys, as a reinstalled host has. Open connections stay.
func (h *Host) ChangeHostKey() error {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	for _, kind := range hostKeyKinds {
		key := h.path("etc/ssh/ssh_host_" + kind + "_key")
		for _, suffix := range []string{"", ".pub"} {
			if _, err := os.Stat(key + suffix + ".kept"); err == nil {
				_ = os.Remove(key + suffix)
			} else if err := os.Rename(key+suffix, key+suffix+".kept"); err != nil {
				return err
			}
		}
		if err := run(ctx, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", h.Name(), "-f", key); err != nil {
			return err
		}
	}
	return h.restartSSH()
}

// RestoreHostKey gives sshd its first host keys again.
func (h *Host) RestoreHostKey() error {
	for _, kind := range hostKeyKinds {
		key := h.path("etc/ssh/ssh_host_" + kind + "_key")
		for _, suffix := range []string{"", ".pub"} {
			if err := os.Rename(key+suffix+".kept", key+suffix); err != nil {
				return err
			}
		}
	}
	return h.restartSSH()
}

func (h *Host) restartSSH() error {
	if !h.Running() {
		return nil
	}
	return h.do("systemctl restart ssh.service")
}

// SkewClock makes everything that a login, or its sudo, starts from now on see a clock that is off by d; 0 ends it. Hosts share this machine's clock, so that
// it is done with libfaketime, which neither systemd nor sshd survives.
func (h *Host) SkewClock(d time.Duration) error {
	const environment, sudo = "etc/environment", "etc/pam.d/sudo"
	if d == 0 {
		return os.Remove(h.path(environment))
	}
	libs, _ := filepath.Glob(h.path("usr/lib/*/faketime/libfaketimeMT.so.1"))
	if len(libs) == 0 {
		return fmt.Errorf("%s has no libfaketime", h.Name())
	}
	pam, err := os.ReadFile(h.path(sudo))
	if err != nil {
		return err
	}
	if !strings.Contains(string(pam), "pam_env.so") {
		if err := h.install(sudo, string(pam)+"session required pam_env.so readenv=1\n", 0o644); err != nil {
			return err
		}
	}
	lib := strings.TrimPrefix(strings.TrimPrefix(libs[0], h.path("")), "/")
	return h.install(environment, fmt.Sprintf("LD_PRELOAD=/%s\nFAKETIME=%+d\nFAKETIME_DONT_FAKE_MONOTONIC=1\n", lib, int64(d.Seconds())), 0o644)
}

// Release takes PackageBroken from hold, so that the next upgrade installs it and fails; Mend lets its configuration succeed.
func (h *Host) Release() error { return h.do("apt-mark unhold " + PackageBroken) }

// Mend lets the configuration of PackageBroken succeed.
func (h *Host) Mend() error { return h.install("etc/katoflow-lab/mended", "\n", 0o644) }

//go:embed files/fault.sh
var faultScript string

// FailCommand lets a program, or a program with its first arguments ("apt-get update"), end with an exit code and a message and do nothing, so many times
// (-1: always).
func (h *Host) FailCommand(name string, times, exit int, stderr string) error {
	return h.fault(name, "fail", times, strconv.Itoa(exit), stderr)
}

// HangCommand lets it hang.
func (h *Host) HangCommand(name string, times int) error {
	return h.fault(name, "hang", times, "0", "")
}

// SlowCommand lets it wait before it does its work.
func (h *Host) SlowCommand(name string, times int, d time.Duration) error {
	return h.fault(name, "slow", times, strconv.FormatInt(int64((d+99*time.Millisecond)/(100*time.Millisecond)), 10), "")
}

// HealCommands ends the three; a command that waits for SlowCommand's time does its work at once.
func (h *Host) HealCommands() error {
	return os.RemoveAll(h.path("etc/katoflow-lab/faults"))
}

// programs that can be made to fail, by their path on the host; of mount and the quota tools, behind what records their calls on hosts with disks.
var programs = map[string]string{"apt-get": "usr/bin/apt-get", "unattended-upgrades": "usr/bin/unattended-upgrades", "dpkg": "usr/bin/dpkg", "reboot": "usr/sbin/reboot",
	"kato": "home/stackato/bin/kato", "curl": "usr/bin/curl", "tar": "usr/bin/tar", "docker": "usr/bin/docker",
	"mount": labPrograms + "storage/mount", "quotacheck": labPrograms + "storage/quotacheck", "quotaon": labPrograms + "storage/quotaon", "quotaoff": labPrograms + "storage/quotaoff"}

// fault puts a script before the program, and the program where the script finds it.
func (h *Host) fault(command, mode string, times int, value, text string) error {
	name, arguments, _ := strings.Cut(command, " ")
	place, known := programs[name]
	if !known {
		return fmt.Errorf("%s: %s is no program that can be made to fail", h.Name(), name)
	}
	if _, err := os.Lstat(h.path(place)); err != nil {
		return fmt.Errorf("%s: %s cannot be made to fail there: %w", h.Name(), name, err)
	}
	real := h.path("usr/local/lib/katoflow-lab/real/" + name)
	if _, err := os.Lstat(real); err != nil {
		if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
			return err
		}
		// A link stays one: what systemctl does depends on the name it is called by.
		if target, err := os.Readlink(h.path(place)); err == nil {
			if !filepath.IsAbs(target) {
				target = filepath.Join("/", filepath.Dir(place), target)
			}
			if err := os.Symlink(target, real); err != nil {
				return err
			}
			if err := os.Remove(h.path(place)); err != nil {
				return err
			}
		} else if err := os.Rename(h.path(place), real); err != nil {
			return err
		}
		if err := h.install(place, faultScript, 0o755); err != nil {
			return err
		}
	}
	dir := "etc/katoflow-lab/faults"
	before, err := filepath.Glob(h.path(filepath.Join(dir, name+".*")))
	if err != nil {
		return err
	}
	if err := h.install(filepath.Join(dir, fmt.Sprintf("%s.%03d", name, len(before))), fmt.Sprintf("%s\n%d\n%s\n%s\n%s\n", mode, times, value, arguments, strings.ReplaceAll(text, "\n", " ")), 0o666); err != nil {
		return err
	}
	return os.Chmod(h.path(dir), 0o777)
}
