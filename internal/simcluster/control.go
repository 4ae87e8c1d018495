package simcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// Fault is one entry of the fault API: what a person or a test can do to a running cluster from outside.
type Fault struct {
	Name string `json:"name"`
	// Usage of its arguments; "" for none.
	Usage string `json:"usage,omitempty"`
	Help  string `json:"help"`
	apply func(n *Node, args []string) error
}

// Faults lists the faults of a node by name, in the order of the help.
func Faults() []Fault {
	plain := func(f func(*Node)) func(*Node, []string) error {
		return func(n *Node, args []string) error {
			if len(args) != 0 {
				return errors.New("takes no argument")
			}
			f(n)
			return nil
		}
	}
	toggle := func(f func(*Node, bool)) func(*Node, []string) error {
		return func(n *Node, args []string) error {
			on := true
			switch {
			case len(args) == 0 || len(args) == 1 && args[0] == "on":
			case len(args) == 1 && args[0] == "off":
				on = false
			default:
				return errors.New("takes on or off")
			}
			f(n, on)
			return nil
		}
	}
	duration := func(f func(*Node, time.Duration)) func(*Node, []string) error {
		return func(n *Node, args []string) error {
			if len(args) != 1 {
				return errors.New("takes a duration such as 30s")
			}
			d, err := time.ParseDuration(args[0])
			if err != nil {
				return fmt.Errorf("%q is not a duration such as 30s", args[0])
			}
			f(n, d)
			return nil
		}
	}
	role := func(f func(*Node, string)) func(*Node, []string) error {
		return func(n *Node, args []string) error {
			if len(args) != 1 {
				return errors.New("takes a role")
			}
			f(n, args[0])
			return nil
		}
	}
	size := func(f func(*Node, int64) error) func(*Node, []string) error {
		return func(n *Node, args []string) error {
			if len(args) != 1 {
				return errors.New("takes a size such as 64MiB")
			}
			v, err := bytesOf(args[0])
			if err != nil {
				return err
			}
			return f(n, v)
		}
	}
	number := func(text string) (int, error) {
		v, err := strconv.Atoi(text)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number", text)
		}
		return v, nil
	}
	return []Fault{
		{"drop-connections", "", "break every SSH connection; what runs goes on", plain((*Node).DropConnections)},
		{"refuse", "[on|off]", "refuse new connections", toggle((*Node).Refuse)},
		{"silence", "[on|off]", "cut the network: connections hang", toggle((*Node).Silence)},
		{"latency", "DURATION", "delay what arrives at the node", duration((*Node).Latency)},
		{"fill-disk", "[on|off]", "leave no space on the disk", toggle((*Node).FillDisk)},
		{"hold-apt-lock", "DURATION", "let another process hold apt's locks", duration(func(n *Node, d time.Duration) { n.HoldAptLock(d) })},
		{"never-return", "[on|off]", "stay off after the next reboot", toggle((*Node).NeverReturn)},
		{"power-off", "", "pull the plug", plain((*Node).PowerOff)},
		{"power-on", "", "boot a node that is off", plain((*Node).PowerOn)},
		{"reboot", "", "reboot by something else", plain((*Node).RebootNow)},
		{"slow-boot", "DURATION", "make every boot take longer", duration((*Node).SlowBoot)},
		{"reboot-does-nothing", "[on|off]", "reboot exits 0 without effect", toggle((*Node).RebootDoesNothing)},
		{"kernel-not-updated", "[on|off]", "boot the old kernel", toggle((*Node).KernelNotUpdated)},
		{"change-host-key", "", "show another host key", plain((*Node).ChangeHostKey)},
		{"restore-host-key", "", "show the original host key", plain((*Node).RestoreHostKey)},
		{"skew-clock", "DURATION", "set the wall clock off", duration((*Node).SkewClock)},
		{"sudo-password", "[on|off]", "let sudo ask for a password", toggle((*Node).SudoPassword)},
		{"degrade", "[on|off]", "systemctl is-system-running says degraded", toggle((*Node).DegradeSystem)},
		{"fail-command", "NAME TIMES EXIT [MESSAGE]", "let a command fail", func(n *Node, args []string) error {
			if len(args) < 3 {
				return errors.New("takes NAME TIMES EXIT [MESSAGE]")
			}
			times, err := number(args[1])
			if err != nil {
				return err
			}
			exit, err := number(args[2])
			if err != nil {
				return err
			}
			n.FailCommand(args[0], times, exit, strings.Join(args[3:], " "))
			return nil
		}},
		{"hang-command", "NAME TIMES", "let a command hang", func(n *Node, args []string) error {
			if len(args) != 2 {
				return errors.New("takes NAME TIMES")
			}
			times, err := number(args[1])
			if err != nil {
				return err
			}
			n.HangCommand(args[0], times)
			return nil
		}},
		{"heal-commands", "", "end fail-command and hang-command", plain((*Node).HealCommands)},
		{"exit-zero-on-failure", "[on|off]", "kato exits 0 whatever happens", toggle((*Node).ExitZeroOnFailure)},
		{"kato-prompts", "[on|off]", "kato asks a question and waits", toggle((*Node).KatoPrompts)},
		{"no-core-access", "[on|off]", "take the Core's SSH key off the node", toggle((*Node).NoCoreAccess)},
		{"break-key-logins", "[on|off]", "accept no SSH key after the next reload of sshd, until it reads another configuration", toggle((*Node).BreakKeyLoginsOnReload)},
		{"read-only-home", "[on|off]", "let nothing be written in ~/.ssh", toggle((*Node).ReadOnlyHome)},
		{"sshd-never-reloads", "[on|off]", "reloads of sshd exit 0 without effect", toggle((*Node).SSHDNeverReloads)},
		{"set-password", "[PASSWORD]", "give the login user a password (none takes it away)", func(n *Node, args []string) error {
			if len(args) > 1 {
				return errors.New("takes a password")
			}
			n.SetPassword(strings.Join(args, ""))
			return nil
		}},
		{"no-outbound", "[on|off]", "refuse and break connections of the node's own programs, as to S3", toggle((*Node).NoOutbound)},
		{"drop-outbound", "", "break connections of the node's own programs", plain((*Node).DropOutbound)},
		{"free-space", "PATH SIZE", "leave only so much free where PATH lies (-1 ends it)", func(n *Node, args []string) error {
			if len(args) != 2 {
				return errors.New("takes PATH SIZE")
			}
			size, err := bytesOf(args[1])
			if err != nil {
				return err
			}
			return n.FreeSpace(args[0], size)
		}},
		{"data-size", "SIZE", "let the node's services have so much data", size((*Node).DataSize)},
		{"resize", "FILE BYTES", "make a file longer, or shorter (-5)", func(n *Node, args []string) error {
			if len(args) != 2 {
				return errors.New("takes FILE BYTES")
			}
			count, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return fmt.Errorf("%q is not a number", args[1])
			}
			return n.Resize(args[0], count)
		}},
		{"export-size", "SIZE", "kato data export writes so much", size((*Node).ExportSize)},
		{"export-time", "DURATION", "kato data export takes so long", func(n *Node, args []string) error {
			var failed error
			err := duration(func(n *Node, d time.Duration) { failed = n.ExportTime(d) })(n, args)
			return errors.Join(err, failed)
		}},
		{"export-fault", "hangs|error-text|nothing|truncated|fails [TIMES [EXIT]]", "let kato data export go wrong (TIMES -1: always)", func(n *Node, args []string) error {
			fault, times, exit, err := exportFault(args)
			if err != nil {
				return err
			}
			return n.ExportFault(fault, times, exit)
		}},
		{"heal-exports", "", "end export-size, export-time and export-fault", plain((*Node).HealExports)},
		{"import-with", "JSON", `let kato data import go so, as {"fault":"halts","times":1} or {"fail_apps":["shop/staging/orders"],"app_seconds":2}`, func(n *Node, args []string) error {
			p, err := katodouble.ParseImportPatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return n.ImportWith(p)
		}},
		{"heal-imports", "", "end import-with", plain((*Node).HealImports)},
		{"patch-with", "JSON", `let kato patch go so, as {"fault":"half","times":1} or {"generation":"als","seconds":2}`, func(n *Node, args []string) error {
			p, err := katodouble.ParsePatchesPatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return n.PatchWith(p)
		}},
		{"heal-patches", "", "end the fault and the seconds of patch-with", plain((*Node).HealPatches)},
		{"relocate-with", "JSON", `let kato relocate go so, as {"fault":"half","times":1} or {"seconds":20,"remove_original":true}`, func(n *Node, args []string) error {
			p, err := katodouble.ParseRelocatePatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return n.RelocateWith(p)
		}},
		{"heal-relocate", "", "end relocate-with", plain(func(n *Node) { _ = n.HealRelocate() })},
		{"upgrade-with", "JSON", `let kato node upgrade go so, as {"releases":["1.3.0"],"seconds":20,"restart":"reboot"} or {"fault":"interrupted","times":1}`, func(n *Node, args []string) error {
			p, err := katodouble.ParseUpgradePatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return n.UpgradeWith(p)
		}},
		{"heal-upgrade", "", "end the fault and the seconds of upgrade-with, and give the node its kato back", plain(func(n *Node) { _ = n.HealUpgrade() })},
		{"quota-support", "[on|off]", "let the kernel have quotas of file systems, or not", toggle(func(n *Node, on bool) { _ = n.QuotaSupport(on) })},
		{"quota-tools", "[on|off]", "let quotacheck, quotaon and quotaoff be there, or not", toggle(func(n *Node, on bool) { _ = n.QuotaTools(on) })},
		{"make-init-script", "NAME", "put setup_helion_lxc or setup_stackato_lxc into /etc/init.d, which boots run", func(n *Node, args []string) error {
			if len(args) != 1 {
				return errors.New("takes setup_helion_lxc or setup_stackato_lxc")
			}
			return n.MakeInitScript(args[0])
		}},
		{"external-database", "mysql|postgresql [HOST]", "let kato's configuration name an external database (no HOST ends it)", func(n *Node, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return errors.New("takes mysql or postgresql, and a host")
			}
			return n.ExternalDatabase(args[0], strings.Join(args[1:], ""))
		}},
		{"stop-role", "ROLE", "stop a role until the next boot", role((*Node).StopRole)},
		{"role-never-starts", "ROLE", "keep a role from starting after the next boots", role((*Node).RoleNeverStarts)},
		{"start-role", "ROLE", "heal stop-role and role-never-starts", role((*Node).StartRole)},
		{"add-package", "NAME OLD NEW", "publish another security update", func(n *Node, args []string) error {
			if len(args) != 3 {
				return errors.New("takes NAME OLD NEW")
			}
			n.AddPending(Package{Name: args[0], Old: args[1], New: args[2]})
			return nil
		}},
		{"docker-down", "[on|off]", "the docker daemon of a DEA does not answer", func(n *Node, args []string) error {
			return onDocker(n, args, toggle(func(n *Node, on bool) { n.docker.SetDaemonDown(on) }))
		}},
		{"break-images", "[on|off]", "images that docker builds from now on do not start", func(n *Node, args []string) error {
			return onDocker(n, args, toggle(func(n *Node, on bool) { n.docker.BreakImages(on) }))
		}},
		{"add-image-package", "NAME OLD NEW", "publish another security update for the images of a DEA", func(n *Node, args []string) error {
			return onDocker(n, args, func(n *Node, args []string) error {
				if len(args) != 3 {
					return errors.New("takes NAME OLD NEW")
				}
				n.docker.PublishImageUpdate(Package{Name: args[0], Old: args[1], New: args[2]})
				return nil
			})
		}},
		{"registry-down", "[on|off]", "the docker registry of the cluster refuses connections", toggle(func(n *Node, on bool) { n.cluster.SetRegistryDown(on) })},
		{"slow-freeze", "MOUNT DURATION", "let freezing a mount take so long", func(n *Node, args []string) error {
			if len(args) != 2 {
				return errors.New("takes MOUNT DURATION")
			}
			return duration(func(n *Node, d time.Duration) { n.SlowFreeze(args[0], d) })(n, args[1:])
		}},
		{"refuse-freeze", "MOUNT [MESSAGE]", "let the kernel refuse to freeze a mount (no MESSAGE ends it)", func(n *Node, args []string) error {
			if len(args) == 0 {
				return errors.New("takes MOUNT [MESSAGE]")
			}
			n.RefuseFreeze(args[0], strings.Join(args[1:], " "))
			return nil
		}},
		{"kill-freeze", "", "kill the main process of the freeze that is at work", plain((*Node).KillFreeze)},
		{"kill-both-freeze", "", "kill the freeze that is at work with its guard: what is frozen stays so", plain((*Node).KillBothFreeze)},
		{"thaw", "", "thaw what is frozen", plain((*Node).Thaw)},
		{"without-freeze", "", "take katoflow-freeze away until heal", plain((*Node).WithoutFreeze)},
		{"heal", "", "end all faults but those of roles, and power on", plain((*Node).Heal)},
	}
}

// onDocker applies a fault to a node that has docker.
func onDocker(n *Node, args []string, apply func(*Node, []string) error) error {
	if n.docker == nil {
		return errors.New("the node has no docker: only DEAs have")
	}
	return apply(n, args)
}

// Inject applies the fault of that name to the node.
func (n *Node) Inject(name string, args ...string) error {
	for _, f := range Faults() {
		if f.Name == name {
			if err := f.apply(n, args); err != nil {
				return fmt.Errorf("fault %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("no fault %q; see simcluster fault --help", name)
}

// bytesOf reads a size such as 64MiB.
func bytesOf(text string) (int64, error) {
	v, ok := parseSize(text)
	if !ok {
		return 0, fmt.Errorf("%q is not a size such as 64MiB", text)
	}
	return v, nil
}

// exportFault reads FAULT [TIMES [EXIT]].
func exportFault(args []string) (fault katodouble.ExportFault, times, exit int, err error) {
	if len(args) < 1 || len(args) > 3 {
		return "", 0, 0, errors.New("takes a fault, how many times, and an exit code")
	}
	times = 1
	for i, to := range []*int{&times, &exit} {
		if len(args) > i+1 {
			if *to, err = strconv.Atoi(args[i+1]); err != nil {
				return "", 0, 0, fmt.Errorf("%q is not a number", args[i+1])
			}
		}
	}
	return katodouble.ExportFault(args[0]), times, exit, nil
}

// NodeStatus is what the control API shows of a node.
type NodeStatus struct {
	Name           string   `json:"name"`
	Address        string   `json:"address"`
	Port           int      `json:"port"`
	Roles          []string `json:"roles"`
	Running        bool     `json:"running"`
	BootID         string   `json:"boot_id"`
	Boots          int      `json:"boots"`
	Kernel         string   `json:"kernel"`
	Pending        int      `json:"pending"`
	HalfConfigured []string `json:"half_configured,omitempty"`
	RebootRequired bool     `json:"reboot_required"`
	OutOfService   []string `json:"out_of_service,omitempty"`
	Processes      []string `json:"processes,omitempty"`
	Frozen         []string `json:"frozen,omitempty"`
}

// Status of the node now.
func (n *Node) Status() NodeStatus {
	return NodeStatus{Name: n.name, Address: n.address, Port: n.port, Roles: n.cfg.Roles, Running: n.Running(), BootID: n.BootID(), Boots: n.Boots(), Kernel: n.KernelRunning(),
		Pending: n.PendingCount(), HalfConfigured: n.HalfConfigured(), RebootRequired: n.RebootRequired(), OutOfService: n.OutOfService(), Processes: n.Processes(), Frozen: n.Frozen()}
}

// ClusterStatus is the answer of GET /status.
type ClusterStatus struct {
	Name            string       `json:"name"`
	Platform        string       `json:"platform"`
	Maintenance     bool         `json:"maintenance"`
	MaxOutOfService int          `json:"max_out_of_service"`
	Nodes           []NodeStatus `json:"nodes"`
}

// Status of the cluster now.
func (c *Cluster) Status() ClusterStatus {
	s := ClusterStatus{Name: c.cfg.Name, Platform: c.cfg.Platform, Maintenance: c.Maintenance(), MaxOutOfService: c.MaxOutOfService()}
	for _, n := range c.nodes {
		s.Nodes = append(s.Nodes, n.Status())
	}
	return s
}

// ControlHandler serves the control API:
//
//	GET  /status    ClusterStatus
//	GET  /events    []Event
//	GET  /commands  []Execution
//	GET  /faults    []Fault
//	POST /nodes/{node}/faults/{fault}  with a JSON array of arguments (or nothing); 204
//
// It answers requests to a loopback address only, and none that a web page could send.
func (c *Cluster) ControlHandler() http.Handler {
	mux := http.NewServeMux()
	show := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.Encode(v)
	}
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { show(w, c.Status()) })
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, _ *http.Request) { show(w, c.Events()) })
	mux.HandleFunc("GET /commands", func(w http.ResponseWriter, _ *http.Request) { show(w, c.Commands()) })
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { show(w, Faults()) })
	mux.HandleFunc("POST /nodes/{node}/faults/{fault}", func(w http.ResponseWriter, r *http.Request) {
		n := c.Node(r.PathValue("node"))
		if n == nil {
			http.Error(w, fmt.Sprintf("no node %q", r.PathValue("node")), http.StatusNotFound)
			return
		}
		var args []string
		if r.ContentLength != 0 {
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&args); err != nil {
				http.Error(w, "arguments are not a JSON array of strings", http.StatusBadRequest)
				return
			}
		}
		if err := n.Inject(r.PathValue("fault"), args...); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() || r.Header.Get("Origin") != "" {
			http.Error(w, "only for this machine's own programs", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
