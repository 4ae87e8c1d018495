package simcluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshdPID is sshd's process, below those of logins; /run/sshd.pid has it.
const sshdPID = 399

const hostKeyPublic = "/etc/ssh/ssh_host_ed25519_key.pub"

// sshdState is the node's sshd; Node.mu guards it.
type sshdState struct {
	config   *sshdConfig // in force; nil before the node's files are made
	dead     bool        // it has ended, or was not started
	state    string      // of the service when it is dead: activating, failed or inactive
	starts   []time.Time // the last ones, for systemd's limit
	hit      bool        // the last start was refused by that limit
	password string      // of the login user; "" for none
	logins   map[string]int
}

// operatorLine lets the key at ClientKeyPath in.
func (c *Cluster) operatorLine() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(c.clientKey))) + " operator\n"
}

func (n *Node) sshdKnown() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sshd.config != nil || n.sshd.dead
}

func (n *Node) sshdDead() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sshd.dead
}

// startSSHD reads the configuration as an sshd does that starts. With a wrong one it is not there, and nothing listens.
func (n *Node) startSSHD() error {
	cfg, _, err := n.readSSHDConfig(sshdConfigPath, sshdConfigPath)
	if errors.Is(err, errNoSSHDConfig) { // files of a cluster that was made before nodes had one
		cfg, err = &sshdConfig{old: n.cfg.OldSSHD}, nil
	}
	if err != nil {
		n.endSSHD("failed")
		n.cluster.event(n.name, "down", "sshd: %v", err)
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sshd.config != nil {
		n.faults.reloaded(cfg)
	}
	n.sshd.config, n.sshd.dead = cfg, false
	return nil
}

// endSSHD ends sshd, or notes that it has not started. Open connections stay.
func (n *Node) endSSHD(state string) {
	n.mu.Lock()
	l := n.listener
	n.sshd.dead, n.sshd.state, n.listener = true, state, nil
	n.mu.Unlock()
	if l != nil {
		l.Close()
	}
}

// What systemd does by itself with a service that does not start: Debian's defaults.
const (
	startLimit    = 5
	startInterval = 10 * time.Second
	restartAfter  = 100 * time.Millisecond
)

var errStartLimit = errors.New("start request repeated too quickly")

// countStart refuses more starts than systemd allows.
func (n *Node) countStart() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sshd.starts = slices.DeleteFunc(n.sshd.starts, func(at time.Time) bool { return time.Since(at) > startInterval })
	if n.sshd.hit = len(n.sshd.starts) >= startLimit; n.sshd.hit {
		return errStartLimit
	}
	n.sshd.starts = append(n.sshd.starts, time.Now())
	return nil
}

// retrySSHD starts an sshd that has failed again and again until the limit, as its service asks systemd for. Who repairs its configuration in that moment need not start it.
func (n *Node) retrySSHD() {
	n.mu.Lock()
	boot := n.boot
	n.sshd.state = "activating"
	n.mu.Unlock()
	n.cluster.wg.Go(func() {
		for {
			select {
			case <-boot.ctx.Done():
				return
			case <-time.After(restartAfter):
			}
			n.mu.Lock()
			waiting := n.sshd.dead && n.sshd.state == "activating"
			n.mu.Unlock()
			if !waiting {
				return
			}
			if n.countStart() != nil {
				n.endSSHD("failed")
				return
			}
			if n.startSSHD() == nil {
				_ = n.listenAgain()
				return
			}
			n.endSSHD("activating")
		}
	})
}

// reloaded notes that sshd has read a configuration anew.
func (f *faults) reloaded(cfg *sshdConfig) {
	switch {
	case f.keysBroken != nil && *f.keysBroken != cfg.text:
		f.keysBroken = nil
	case f.breakKeys && f.keysBroken == nil:
		f.breakKeys, f.keysBroken = false, &cfg.text
	}
}

// restartSSHD starts sshd anew, or one that has ended. Open connections stay.
func (n *Node) restartSSHD() error {
	if err := n.countStart(); err != nil {
		n.endSSHD("failed")
		return err
	}
	if err := n.startSSHD(); err != nil {
		n.retrySSHD()
		return err
	}
	return n.listenAgain()
}

// listenAgain listens where nothing does.
func (n *Node) listenAgain() error {
	n.mu.Lock()
	listen := n.listener == nil && n.running && !n.faults.refuse
	n.mu.Unlock()
	if listen {
		return n.listen()
	}
	return nil
}

// signalSSHD is what a signal to sshd itself does. With a wrong configuration it does not come back from a hangup, and systemd leaves it so.
func (n *Node) signalSSHD(sig int) {
	switch sig {
	case sigHUP:
		_ = n.startSSHD()
	case sigTERM:
		n.endSSHD("inactive")
	case sigKILL:
		n.endSSHD("failed")
		n.retrySSHD()
	}
}

// reloadSSHD is systemctl reload: a configuration that sshd -t does not take stays out of force.
func (n *Node) reloadSSHD() error {
	n.mu.Lock()
	never := n.faults.neverReloads
	n.mu.Unlock()
	if never {
		return nil
	}
	if _, _, err := n.readSSHDConfig(sshdConfigPath, sshdConfigPath); err != nil {
		return err
	}
	return n.startSSHD()
}

// healSSHD starts an sshd that has ended, if it can.
func (n *Node) healSSHD() {
	if n.sshdDead() && n.exists() {
		n.mu.Lock()
		n.sshd.starts = nil
		n.mu.Unlock()
		if err := n.restartSSHD(); err != nil {
			n.fault("sshd: %v", err)
		}
	}
}

// sshdInForce is the configuration that new connections get.
func (n *Node) sshdInForce() (*sshdConfig, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sshd.config == nil {
		return nil, errors.New("sshd has ended")
	}
	return n.sshd.config, nil
}

func (n *Node) peer(user, address string) sshdPeer {
	return sshdPeer{user: user, host: address, address: address, localAddress: n.address, localPort: "22"}
}

// SetPassword gives the login user a password; "" takes it away.
func (n *Node) SetPassword(password string) {
	n.mu.Lock()
	n.sshd.password = password
	n.mu.Unlock()
}

// AuthorizedKeys are the lines of the login user's authorized_keys.
func (n *Node) AuthorizedKeys() []string {
	text, err := n.ReadFile(n.homeOf(n.loginUser()) + "/.ssh/authorized_keys")
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// OfferedMethods are the ways to log in that sshd tells the login user's clients now.
func (n *Node) OfferedMethods() []string {
	cfg, err := n.sshdInForce()
	if err != nil || !n.Running() {
		return nil
	}
	return cfg.methods(n.peer(n.loginUser(), n.address))
}

// LoginsBy counts the logins that were accepted by a method: publickey, password or keyboard-interactive.
func (n *Node) LoginsBy(method string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sshd.logins[method]
}

func (n *Node) countLogin(method string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sshd.logins == nil {
		n.sshd.logins = map[string]int{}
	}
	n.sshd.logins[method]++
}

// acceptsKey says whether sshd lets a user in by a key now.
func (n *Node) acceptsKey(cfg *sshdConfig, p sshdPeer, key ssh.PublicKey) error {
	n.mu.Lock()
	broken := n.faults.keysBroken != nil
	n.mu.Unlock()
	if broken || p.user != n.loginUser() || !cfg.lets(p) || !cfg.on("pubkeyauthentication", p) {
		return fmt.Errorf("user %q not accepted", p.user)
	}
	home := n.homeOf(p.user)
	refused := errors.New("key not accepted")
	for _, name := range strings.Fields(cfg.value("authorizedkeysfile", p)) {
		if strings.EqualFold(name, "none") {
			continue
		}
		name = strings.NewReplacer("%%", "%", "%h", home, "%u", p.user, "%U", strconv.Itoa(uidOf(p.user))).Replace(name)
		if !path.IsAbs(name) {
			name = path.Join(home, name)
		}
		file, err := n.tree.resolve("/", name, true)
		if err != nil {
			continue
		}
		fi, err := os.Stat(n.tree.host(file))
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if cfg.on("strictmodes", p) {
			if err := n.strictModes(p.user, home, file); err != nil {
				refused = err
				continue
			}
		}
		if text, err := os.ReadFile(n.tree.host(file)); err == nil && holdsKey(text, key, p.address) {
			return nil
		}
	}
	return refused
}

// strictModes is OpenSSH's safe_path: the file and the folders above it, up to the home or to the root, belong to the user or to root, and nobody else may write there.
func (n *Node) strictModes(user, home, file string) error {
	for at := file; ; at = path.Dir(at) {
		fi, err := os.Lstat(n.tree.host(at))
		if err != nil {
			return bare(err)
		}
		if owner := n.tree.ownerOf(at); owner != superuser && owner != user || fi.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("authentication refused: bad ownership or modes for %s %s", map[bool]string{true: "directory", false: "file"}[fi.IsDir()], at)
		}
		if at == home || at == "/" {
			return nil
		}
	}
}

// holdsKey looks a key up in an authorized_keys file, with what its options ask of the address that it comes from.
func holdsKey(text []byte, key ssh.PublicKey, from string) bool {
	for len(text) > 0 {
		known, _, options, rest, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			return false
		}
		text = rest
		if bytes.Equal(known.Marshal(), key.Marshal()) && !slices.ContainsFunc(options, func(o string) bool {
			name, value, _ := strings.Cut(o, "=")
			name = strings.ToLower(name)
			return name == "cert-authority" || name == "from" && !matchAddress(strings.Trim(value, `"`), from)
		}) {
			return true
		}
	}
	return false
}

// authentication sets the part of a server's configuration that lets users in.
func (n *Node) authentication(config *ssh.ServerConfig, from net.Addr) error {
	cfg, err := n.sshdInForce()
	if err != nil {
		return err
	}
	address, _, _ := net.SplitHostPort(from.String())
	peer := func(meta ssh.ConnMetadata) sshdPeer { return n.peer(meta.User(), address) }
	// What is offered cannot differ from user to user on one connection: it is what the login user gets.
	offered := cfg.methods(n.peer(n.loginUser(), address))
	byPassword := func(meta ssh.ConnMetadata, password string) (*ssh.Permissions, error) {
		n.mu.Lock()
		want := n.sshd.password
		n.mu.Unlock()
		if want == "" || password != want || meta.User() != n.loginUser() || !cfg.lets(peer(meta)) {
			return nil, errors.New("password not accepted")
		}
		return nil, nil
	}
	for _, m := range offered {
		switch m {
		case "publickey":
			config.PublicKeyCallback = func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
				return nil, n.acceptsKey(cfg, peer(meta), key)
			}
		case "password":
			config.PasswordCallback = func(meta ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
				return byPassword(meta, string(password))
			}
		case "keyboard-interactive":
			config.KeyboardInteractiveCallback = func(meta ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				if !cfg.on("usepam", peer(meta)) {
					return nil, errors.New("no device for keyboard-interactive without PAM")
				}
				answers, err := ask("", "", []string{"Password: "}, []bool{false})
				if err != nil || len(answers) != 1 {
					return nil, errors.New("no answer")
				}
				return byPassword(meta, answers[0])
			}
		}
	}
	if len(offered) == 0 { // a server with nothing to offer still says so
		config.NoClientAuth = true
		config.NoClientAuthCallback = func(ssh.ConnMetadata) (*ssh.Permissions, error) { return nil, ssh.ErrNoAuth }
	}
	config.AuthLogCallback = func(_ ssh.ConnMetadata, method string, err error) {
		if err == nil {
			n.countLogin(method)
		}
	}
	return nil
}

// keyComment is the comment in a private key file; "" where it is encrypted or has none.
func keyComment(block []byte) string {
	rest, ok := bytes.CutPrefix(block, []byte("openssh-key-v1\x00"))
	next := func() (field []byte) {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			rest = nil
			return nil
		}
		size := binary.BigEndian.Uint32(rest)
		field, rest = rest[4:4+size], rest[4+size:]
		return field
	}
	if !ok || string(next()) != "none" {
		return ""
	}
	next()
	next()
	if len(rest) < 4 {
		return ""
	}
	rest = rest[4:] // the number of keys
	next()
	if rest = next(); len(rest) < 8 {
		return ""
	}
	rest = rest[8:] // two numbers to check the passphrase with
	fields, known := map[string]int{ssh.KeyAlgoED25519: 2, ssh.KeyAlgoRSA: 6, ssh.KeyAlgoECDSA256: 3, ssh.KeyAlgoECDSA384: 3, ssh.KeyAlgoECDSA521: 3}[string(next())]
	if !known {
		return ""
	}
	for range fields {
		next()
	}
	return string(next())
}

// tooOpen says whether ssh ignores a private key file for its mode.
func tooOpen(mode fs.FileMode) bool { return mode.Perm()&0o077 != 0 }

// SetAuthorizedKeys makes these the lines of the login user's authorized_keys.
func (n *Node) SetAuthorizedKeys(lines ...string) {
	text := ""
	for _, l := range lines {
		text += l + "\n"
	}
	_ = n.WriteFile(n.homeOf(n.loginUser())+"/.ssh/authorized_keys", []byte(text))
}

// SetSSHDConfig makes it the configuration of sshd, in force at once.
func (n *Node) SetSSHDConfig(text string) {
	if err := n.WriteFile("/etc/ssh/sshd_config", []byte(text)); err != nil {
		n.fault("sshd_config: %v", err)
		return
	}
	if err := n.reloadSSHD(); err != nil {
		n.fault("sshd_config: %v", err)
	}
}
