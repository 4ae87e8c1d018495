package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Config of a lab. The zero value of every field but Kato is usable.
type Config struct {
	// Name is in the names of everything the lab makes: 1 to 6 of [a-z0-9]; default "lab". Two labs with different names live side by side.
	Name string
	// Dir holds the hosts' files; default /var/lib/katoflow-lab/NAME. It is removed at the start and at the end.
	Dir string
	// Cache keeps golden trees from one lab to the next; default /var/cache/katoflow-lab.
	Cache string
	// Kato is the path of the compiled kato double, which hosts of an ALS cluster carry as `kato`.
	Kato string
	// Sudoers is the content of the sudoers file that hosts get for the login user `stackato`.
	Sudoers []byte
	// Log receives a line an event; nil = none.
	Log func(format string, args ...any)
}

var nameRule = regexp.MustCompile(`^[a-z0-9]{1,6}$`)

// Lab is the network, the golden tree and the package archive that clusters of hosts stand on.
type Lab struct {
	cfg    Config
	golden string // folder of the golden tree
	bridge netip.Addr
	server *http.Server
	port   int
	// outside is the address on which hosts reach what is outside of the lab; forwarders listen on it.
	outside netip.Addr

	mu         sync.Mutex
	forwarders []*forwarder
	hosts      map[int]bool // numbers in use
	guard      *exec.Cmd
	hold       *os.File // the guard's standard input

	imageMu sync.Mutex
	image   string // folder of the prepared data of docker daemons; "" until it is made
	// seedRegistry is the folder of the data of a registry that has the seed's layers; "" for none.
	seedRegistry string

	registryMu sync.Mutex
	registry   *exec.Cmd // nil until a cluster asks for it
}

//go:embed files/clean.sh
var cleanScript string

// Supported returns an error that says what is missing where no lab can be made.
func Supported() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the lab needs Linux: this is %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it mounts file systems and makes network namespaces")
	}
	var missing []string
	for tool, pkg := range map[string]string{"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2", "dpkg-deb": "dpkg",
		"apt-ftparchive": "apt-utils", "mkfs.ext4": "e2fsprogs", "nsenter": "util-linux", "ssh-keygen": "openssh-client"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the lab needs packages: apt-get install %s", strings.Join(missing, " "))
	}
	for _, kind := range []string{"overlay", "ext4"} {
		b, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), "\t"+kind+"\n") {
			return fmt.Errorf("the lab needs the file system %s, which this kernel does not list: modprobe %s", kind, kind)
		}
	}
	return nil
}

// Clean removes a lab of that name and folder, also a half-made one or one whose process was killed. There being none is no error.
func Clean(ctx context.Context, name, dir string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("lab name %q: 1 to 6 of a-z and 0-9", name)
	}
	if dir == "" {
		dir = defaultDir(name)
	}
	return run(ctx, "sh", "-c", cleanScript, "sh", name, dir, "")
}

func defaultDir(name string) string { return filepath.Join("/var/lib/katoflow-lab", name) }

// Open makes a lab without hosts: what an earlier one of the name has left is removed, the golden tree is made when the cache has none (about a minute and a
// half; packages come from the machine's Debian mirror), and the package archive is served on the bridge.
func Open(ctx context.Context, cfg Config) (*Lab, error) {
	if cfg.Name == "" {
		cfg.Name = "lab"
	}
	if cfg.Dir == "" {
		cfg.Dir = defaultDir(cfg.Name)
	}
	if cfg.Cache == "" {
		cfg.Cache = "/var/cache/katoflow-lab"
	}
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if err := Supported(); err != nil {
		return nil, err
	}
	if err := Clean(ctx, cfg.Name, cfg.Dir); err != nil {
		return nil, fmt.Errorf("what an earlier lab has left in %s cannot be removed: %w", cfg.Dir, err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg, hosts: map[int]bool{}}
	if err := l.startGuard(); err != nil {
		return nil, err
	}
	if err := l.open(ctx); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Lab) open(ctx context.Context) (err error) {
	if l.golden, err = l.goldenTree(ctx); err != nil {
		return err
	}
	if err := l.makeBridge(ctx); err != nil {
		return err
	}
	return l.serveArchive()
}

// startGuard starts the process that removes the lab when this process has ended.
func (l *Lab) startGuard() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	l.guard = exec.Command("sh", "-c", cleanScript, "sh", l.cfg.Name, l.cfg.Dir, "guard")
	l.guard.Stdin, l.guard.SysProcAttr = r, ownGroup()
	l.guard.Dir = "/"
	if err := l.guard.Start(); err != nil {
		_ = w.Close()
		return err
	}
	l.hold = w
	return nil
}

// Close ends every host and removes everything of the lab but the golden tree.
func (l *Lab) Close() error {
	if l.server != nil {
		_ = l.server.Close()
	}
	l.mu.Lock()
	forwarders := l.forwarders
	l.forwarders = nil
	l.mu.Unlock()
	for _, f := range forwarders {
		f.close()
	}
	if l.hold == nil {
		return nil
	}
	_ = l.hold.Close()
	l.hold = nil
	if err := l.guard.Wait(); err != nil {
		return fmt.Errorf("the lab was not removed wholly: see what holds %s: %w", l.cfg.Dir, err)
	}
	return nil
}

// Dir is the lab's folder.
func (l *Lab) Dir() string { return l.cfg.Dir }

// makeBridge finds a free network in 10.213.0.0/16 and gives its first two addresses to the bridge: this machine, and what is outside of the lab.
func (l *Lab) makeBridge(ctx context.Context) error {
	taken := map[string]bool{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			taken[p.Masked().String()] = true
		}
	}
	// Labs that are made at the same moment begin at different places.
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(l.cfg.Name))
	for i := range uint32(256) {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, byte(sum.Sum32() + i), 1}), 24)
		if taken[p.Masked().String()] {
			continue
		}
		bridge := l.link(0)
		// With an address of its own. Otherwise it has the lowest of its ports', another one when a host comes or goes, and what hosts send to the one that they remember is lost meanwhile.
		if err := run(ctx, "ip", "link", "add", bridge, "address", "02:6b:66:00:00:01", "type", "bridge"); err != nil {
			return err
		}
		l.bridge, l.outside = p.Addr(), p.Addr().Next()
		for _, a := range []netip.Addr{l.bridge, l.outside} {
			if err := run(ctx, "ip", "addr", "add", netip.PrefixFrom(a, p.Bits()).String(), "dev", bridge); err != nil {
				return err
			}
		}
		return run(ctx, "ip", "link", "set", bridge, "up")
	}
	return errors.New("no network of 10.213.0.0/16 is free")
}

// link is the name of the bridge (0) or of a host's link.
func (l *Lab) link(number int) string {
	if number == 0 {
		return "kf" + l.cfg.Name + "br"
	}
	return fmt.Sprintf("kf%s%d", l.cfg.Name, number)
}

// claim takes a host number.
func (l *Lab) claim() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := 10; n < 250; n++ {
		if !l.hosts[n] {
			l.hosts[n] = true
			return n, nil
		}
	}
	return 0, errors.New("the lab's network is full: 240 hosts")
}

func (l *Lab) release(number int) {
	l.mu.Lock()
	delete(l.hosts, number)
	l.mu.Unlock()
}

func (l *Lab) addressOf(number int) netip.Addr {
	a := l.bridge.As4()
	a[3] = byte(number)
	return netip.AddrFrom4(a)
}

// run runs a program of the machine; its output is in the error.
func run(ctx context.Context, argv ...string) error {
	_, err := output(ctx, argv...)
	return err
}

func output(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "env", append([]string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}, argv...)...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(argv[:min(len(argv), 4)], " "), err, strings.Join(lines[max(0, len(lines)-4):], "; "))
	}
	return string(out), nil
}
