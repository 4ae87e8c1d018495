package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// How the login user gets in, asked and broken in the same words as package simcluster's nodes. What cannot be done panics: a case that goes on without its fault proves nothing.

const (
	loginHome    = "home/" + LoginUser
	sshdProgram  = "usr/local/lib/katoflow-lab/sshd-reload"
	sshdDropIn   = "etc/systemd/system/ssh.service.d/katoflow-lab.conf"
	sshdBroken   = "etc/ssh/sshd_config.d/zz-broken.conf"
	sshdBreaks   = "etc/katoflow-lab/sshd-breaks-keys"
	sshdBrokenBy = "etc/katoflow-lab/sshd-broken-by"
	sshdNever    = "etc/katoflow-lab/sshd-never-reloads"
)

//go:embed files/sshd-reload.sh
var sshdReload string

func (h *Host) sure(what string, err error) {
	if err != nil {
		panic(fmt.Sprintf("lab: %s: %s: %v", h.Name(), what, err))
	}
}

// SetPassword gives the login user a password; "" takes it away.
func (h *Host) SetPassword(password string) {
	h.sure("password", h.setPassword(password))
}

func (h *Host) setPassword(password string) error {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	root := filepath.Join(h.dir, "root")
	if password == "" {
		return run(ctx, "chroot", root, "usermod", "-p", "!", LoginUser)
	}
	return run(ctx, "chroot", root, "sh", "-c", `printf '%s:%s\n' "$1" "$2" | chpasswd`, "sh", LoginUser, password)
}

// AuthorizedKeys are the lines of the login user's authorized_keys.
func (h *Host) AuthorizedKeys() []string {
	text, err := h.ReadFile(loginHome + "/.ssh/authorized_keys")
	if errors.Is(err, os.ErrNotExist) || err == nil && len(text) == 0 {
		return nil
	}
	h.sure("authorized_keys", err)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

var deniedMethods = regexp.MustCompile(`Permission denied \(([a-z,-]*)\)`)

// OfferedMethods are the ways to log in that sshd tells the login user's clients now; none where it does not answer.
func (h *Host) OfferedMethods() []string {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "ssh", "-F", "none", "-n", "-T", "-o", "BatchMode=yes", "-o", "PreferredAuthentications=none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "ConnectTimeout=5", LoginUser+"@"+h.Address(), "true").CombinedOutput()
	m := deniedMethods.FindSubmatch(out)
	if m == nil || len(m[1]) == 0 {
		return nil
	}
	return strings.Split(string(m[1]), ",")
}

// LoginsBy counts the logins that were accepted by a method: publickey, password or keyboard-interactive. The host must run.
func (h *Host) LoginsBy(method string) int {
	ctx, cancel := context.WithTimeout(context.Background(), execWithin)
	defer cancel()
	out, err := h.Exec(ctx, `journalctl --sync; journalctl -q --no-pager -o cat -t sshd | grep -c -E "^Accepted $1(/pam)? for " || true`, method)
	h.sure("logins", err)
	count, err := strconv.Atoi(strings.TrimSpace(out))
	h.sure("logins", err)
	return count
}

// BreakKeyLoginsOnReload makes sshd accept no key after the next reload or restart of its service while on, until it has read a configuration that differs from that one.
func (h *Host) BreakKeyLoginsOnReload(on bool) {
	h.sure("break-key-logins", h.breakKeyLogins(on))
}

func (h *Host) breakKeyLogins(on bool) error {
	if on {
		return errors.Join(h.install(sshdBreaks, "", 0o644), h.ownReload())
	}
	_ = os.Remove(h.path(sshdBreaks))
	_ = os.Remove(h.path(sshdBrokenBy))
	if os.Remove(h.path(sshdBroken)) != nil || !h.Running() {
		return nil
	}
	return h.do("systemctl kill --kill-who=main --signal=HUP ssh.service")
}

// SSHDNeverReloads makes reloads of sshd's service exit 0 and leave the configuration in force as it is while on. A restart is one, and so is a signal to sshd itself.
func (h *Host) SSHDNeverReloads(on bool) {
	h.sure("sshd-never-reloads", h.neverReloads(on))
}

func (h *Host) neverReloads(on bool) error {
	if on {
		return errors.Join(h.install(sshdNever, "", 0o644), h.ownReload())
	}
	if err := os.Remove(h.path(sshdNever)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// ownReload puts a program of the lab in place of the reload of sshd's service.
func (h *Host) ownReload() error {
	if _, err := os.Stat(h.path(sshdDropIn)); err == nil {
		return nil
	}
	if err := h.install(sshdProgram, sshdReload, 0o755); err != nil {
		return err
	}
	if err := h.install(sshdDropIn, "[Service]\nExecStartPre=/"+sshdProgram+" start\nExecReload=\nExecReload=/"+sshdProgram+" $MAINPID\n", 0o644); err != nil {
		return err
	}
	if !h.Running() {
		return nil
	}
	return h.do("systemctl daemon-reload")
}

// ReadOnlyHome makes ~/.ssh of the login user a read-only file system while on, until the next boot.
func (h *Host) ReadOnlyHome(on bool) {
	h.sure("read-only-home", h.readOnlyHome(on))
}

func (h *Host) readOnlyHome(on bool) error {
	if on {
		return h.do(`mountpoint -q "$1" || { mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"; }`, "/"+loginHome+"/.ssh")
	}
	return h.do(`! mountpoint -q "$1" || umount "$1"`, "/"+loginHome+"/.ssh")
}

// SetAuthorizedKeys makes these the lines of the login user's authorized_keys; mode and owner stay.
func (h *Host) SetAuthorizedKeys(lines ...string) {
	args := []string{"/" + loginHome + "/.ssh/authorized_keys"}
	h.sure("authorized_keys", h.do(`file=$1; shift; true >"$file"; for line; do printf '%s\n' "$line"; done >>"$file"`, append(args, lines...)...))
}

// SetSSHDConfig makes it the configuration of sshd, in force at once.
func (h *Host) SetSSHDConfig(text string) {
	h.sure("sshd_config", h.do(`printf %s "$1" >/etc/ssh/sshd_config && systemctl reload ssh && sleep 1`, text))
}
