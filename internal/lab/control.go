package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// Fault is what a person can do to a running host from outside, in the words of the simulated cluster.
type Fault struct {
	Name string `json:"name"`
	// Usage of its arguments; "" for none.
	Usage string `json:"usage,omitempty"`
	Help  string `json:"help"`
	apply func(h *Host, args []string) error
}

// Faults lists them in the order of the help.
func Faults() []Fault {
	plain := func(f func(*Host) error) func(*Host, []string) error {
		return func(h *Host, args []string) error {
			if len(args) != 0 {
				return errors.New("takes no argument")
			}
			return f(h)
		}
	}
	toggle := func(f func(*Host, bool) error) func(*Host, []string) error {
		return func(h *Host, args []string) error {
			switch {
			case len(args) == 0 || len(args) == 1 && args[0] == "on":
				return f(h, true)
			case len(args) == 1 && args[0] == "off":
				return f(h, false)
			}
			return errors.New("takes on or off")
		}
	}
	duration := func(f func(*Host, time.Duration) error) func(*Host, []string) error {
		return func(h *Host, args []string) error {
			if len(args) != 1 {
				return errors.New("takes a duration such as 30s")
			}
			d, err := time.ParseDuration(args[0])
			if err != nil {
				return fmt.Errorf("%q is not a duration such as 30s", args[0])
			}
			return f(h, d)
		}
	}
	count := func(f func(*Host, string, int64) error) func(*Host, []string) error {
		return func(h *Host, args []string) error {
			if len(args) != 2 {
				return errors.New("takes a path and a number of bytes")
			}
			n, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return fmt.Errorf("%q is not a number", args[1])
			}
			return f(h, args[0], n)
		}
	}
	role := func(patch func(role string) katodouble.StatePatch) func(*Host, []string) error {
		return func(h *Host, args []string) error {
			if len(args) != 1 {
				return errors.New("takes a role")
			}
			return h.Kato(patch(args[0]))
		}
	}
	return []Fault{
		{"drop-connections", "", "break every SSH connection; what runs goes on", plain((*Host).DropConnections)},
		{"refuse", "[on|off]", "refuse new connections", toggle((*Host).Refuse)},
		{"silence", "[on|off]", "cut the network", toggle((*Host).Silence)},
		{"fill-disk", "[on|off]", "leave users no space on /", toggle((*Host).FillDisk)},
		{"hold-apt-lock", "DURATION", "let another process hold apt's locks", duration(func(h *Host, d time.Duration) error {
			_, err := h.HoldAptLock(d)
			return err
		})},
		{"never-return", "[on|off]", "stay off after the next reboot", toggle(func(h *Host, on bool) error { h.NeverReturn(on); return nil })},
		{"power-off", "", "pull the plug", plain(func(h *Host) error { h.PowerOff(); return nil })},
		{"power-on", "", "boot a host that is off", plain(func(h *Host) error { h.PowerOn(); return nil })},
		{"reboot", "", "press the reset button", plain((*Host).RebootNow)},
		{"change-host-key", "", "show another host key", plain((*Host).ChangeHostKey)},
		{"restore-host-key", "", "show the first host key", plain((*Host).RestoreHostKey)},
		{"skew-clock", "DURATION", "show a clock that is off to what starts from now on (0s ends it)", duration((*Host).SkewClock)},
		{"sudo-password", "[on|off]", "let sudo ask for a password", toggle((*Host).SudoPassword)},
		{"fail-command", "NAME TIMES EXIT [MESSAGE]", "let a command fail", func(h *Host, args []string) error {
			if len(args) < 3 {
				return errors.New("takes NAME TIMES EXIT [MESSAGE]")
			}
			times, err := strconv.Atoi(args[1])
			if err != nil {
				return fmt.Errorf("%q is not a number", args[1])
			}
			exit, err := strconv.Atoi(args[2])
			if err != nil {
				return fmt.Errorf("%q is not a number", args[2])
			}
			return h.FailCommand(args[0], times, exit, strings.Join(args[3:], " "))
		}},
		{"hang-command", "NAME TIMES", "let a command hang", func(h *Host, args []string) error {
			if len(args) != 2 {
				return errors.New("takes NAME TIMES")
			}
			times, err := strconv.Atoi(args[1])
			if err != nil {
				return fmt.Errorf("%q is not a number", args[1])
			}
			return h.HangCommand(args[0], times)
		}},
		{"heal-commands", "", "end fail-command and hang-command", plain((*Host).HealCommands)},
		{"exit-zero-on-failure", "[on|off]", "kato exits 0 whatever happens", toggle(func(h *Host, on bool) error { return h.Kato(katodouble.StatePatch{ExitZero: &on}) })},
		{"kato-prompts", "[on|off]", "kato asks a question and waits", toggle(func(h *Host, on bool) error { return h.Kato(katodouble.StatePatch{Prompts: &on}) })},
		{"no-core-access", "[on|off]", "take the Core's SSH key off the host", toggle((*Host).NoCoreAccess)},
		{"break-key-logins", "[on|off]", "accept no SSH key after the next reload of sshd, until it reads another configuration", toggle((*Host).breakKeyLogins)},
		{"read-only-home", "[on|off]", "let nothing be written in ~/.ssh", toggle((*Host).readOnlyHome)},
		{"sshd-never-reloads", "[on|off]", "reloads of sshd exit 0 without effect", toggle((*Host).neverReloads)},
		{"set-password", "[PASSWORD]", "give the login user a password (none takes it away)", func(h *Host, args []string) error {
			if len(args) > 1 {
				return errors.New("takes a password")
			}
			return h.setPassword(strings.Join(args, ""))
		}},
		{"answer-as", "ADDRESS", "make another host's address its own, as seen from itself alone", func(h *Host, args []string) error {
			if len(args) != 1 {
				return errors.New("takes an address")
			}
			if _, err := netip.ParseAddr(args[0]); err != nil {
				return fmt.Errorf("%q is no address", args[0])
			}
			return h.AnswerAs(args[0])
		}},
		{"no-outbound", "[on|off]", "refuse and break connections to what is outside of the lab, as to S3", toggle((*Host).NoOutbound)},
		{"drop-outbound", "", "break connections to what is outside of the lab", plain((*Host).DropOutbound)},
		{"free-space", "FOLDER BYTES", "leave only so much free where FOLDER is mounted (-1 ends it)", count((*Host).FreeSpace)},
		{"resize", "FILE BYTES", "make a file longer, or shorter (-5)", count((*Host).Resize)},
		{"export-size", "BYTES", "kato data export writes so much", func(h *Host, args []string) error {
			if len(args) != 1 {
				return errors.New("takes a number of bytes")
			}
			return count(func(h *Host, _ string, size int64) error { return h.ExportSize(size) })(h, []string{"", args[0]})
		}},
		{"export-time", "DURATION", "kato data export takes so long", duration((*Host).ExportTime)},
		{"export-fault", "hangs|error-text|nothing|truncated|fails [TIMES [EXIT]]", "let kato data export go wrong (TIMES -1: always)", func(h *Host, args []string) error {
			if len(args) < 1 || len(args) > 3 {
				return errors.New("takes a fault, how many times, and an exit code")
			}
			times, exit := 1, 0
			for i, to := range []*int{&times, &exit} {
				if len(args) > i+1 {
					var err error
					if *to, err = strconv.Atoi(args[i+1]); err != nil {
						return fmt.Errorf("%q is not a number", args[i+1])
					}
				}
			}
			return h.ExportFault(katodouble.ExportFault(args[0]), times, exit)
		}},
		{"heal-exports", "", "end export-size, export-time and export-fault", plain((*Host).HealExports)},
		{"import-with", "JSON", `let kato data import go so, as {"fault":"halts","times":1} or {"fail_apps":["shop/staging/orders"],"app_seconds":2}`, func(h *Host, args []string) error {
			p, err := katodouble.ParseImportPatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return h.ImportWith(p)
		}},
		{"heal-imports", "", "end import-with", plain((*Host).HealImports)},
		{"patch-with", "JSON", `let kato patch go so, as {"fault":"half","times":1} or {"generation":"als","seconds":2}`, func(h *Host, args []string) error {
			p, err := katodouble.ParsePatchesPatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return h.PatchWith(p)
		}},
		{"heal-patches", "", "end the fault and the seconds of patch-with", plain((*Host).HealPatches)},
		{"relocate-with", "JSON", `let kato relocate go so, as {"fault":"loses-file","times":1} or {"seconds":5,"remove_original":true}`, func(h *Host, args []string) error {
			p, err := katodouble.ParseRelocatePatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return h.RelocateWith(p)
		}},
		{"heal-relocate", "", "end relocate-with", plain((*Host).HealRelocate)},
		{"upgrade-with", "JSON", `let kato node upgrade go so, as {"releases":["1.3.0"],"seconds":5,"restart":"reboot"} or {"fault":"interrupted","times":1}`, func(h *Host, args []string) error {
			p, err := katodouble.ParseUpgradePatch(strings.Join(args, " "))
			if err != nil {
				return err
			}
			return h.UpgradeWith(p)
		}},
		{"heal-upgrade", "", "end the fault and the seconds of upgrade-with, and give the host its kato back", plain((*Host).HealUpgrade)},
		{"quota-support", "[on|off]", "let quotaon and quotaoff answer as on a kernel that has Linux quotas", toggle((*Host).QuotaSupport)},
		{"quota-tools", "[on|off]", "let quotacheck, quotaon and quotaoff be there, or not", toggle((*Host).QuotaTools)},
		{"make-init-script", "NAME", "put setup_helion_lxc or setup_stackato_lxc into /etc/init.d, which boots run", func(h *Host, args []string) error {
			if len(args) != 1 {
				return errors.New("takes setup_helion_lxc or setup_stackato_lxc")
			}
			return h.MakeInitScript(args[0])
		}},
		{"external-database", "mysql|postgresql [HOST]", "let kato's configuration name an external database (no HOST ends it)", func(h *Host, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return errors.New("takes mysql or postgresql, and a host")
			}
			return h.ExternalDatabase(args[0], strings.Join(args[1:], ""))
		}},
		{"stop-role", "ROLE", "stop a role of kato until the next boot", role(func(r string) katodouble.StatePatch { return katodouble.StatePatch{Stop: []string{r}} })},
		{"role-never-starts", "ROLE", "keep a role of kato from starting after the next boots", role(func(r string) katodouble.StatePatch { return katodouble.StatePatch{NeverStart: []string{r}} })},
		{"start-role", "ROLE", "heal stop-role and role-never-starts", role(func(r string) katodouble.StatePatch { return katodouble.StatePatch{Start: []string{r}} })},
		{"release-broken", "", "let the next upgrade install the package whose configuration fails", plain((*Host).Release)},
		{"mend-broken", "", "let that configuration succeed", plain((*Host).Mend)},
	}
}

// Inject applies the fault of that name.
func (h *Host) Inject(name string, args ...string) error {
	for _, f := range Faults() {
		if f.Name == name {
			if err := f.apply(h, args); err != nil {
				return fmt.Errorf("%s on %s: %w", name, h.Name(), err)
			}
			return nil
		}
	}
	return fmt.Errorf("no fault %q: `lab faults` lists them", name)
}

// HostStatus is what a person wants to know of a host.
type HostStatus struct {
	Name    string   `json:"name"`
	Address string   `json:"address"`
	Roles   []string `json:"roles,omitempty"`
	Up      bool     `json:"up"`
	Boots   int      `json:"boots"`
	Pending int      `json:"pending"`
}

// Status of every host, in inventory order.
func (c *Cluster) Status() ([]HostStatus, error) {
	var out []HostStatus
	for _, h := range c.hosts {
		pending, err := h.PendingCount()
		if err != nil {
			return nil, err
		}
		out = append(out, HostStatus{Name: h.Name(), Address: h.Address(), Roles: h.cfg.Roles, Up: h.Running() && h.banner() == nil, Boots: h.Boots(), Pending: pending})
	}
	return out, nil
}

// ControlHandler serves the status and the faults, for a socket that only root reaches. Down is called for a request to end.
func (c *Cluster) ControlHandler(down func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		status, err := c.Status()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status)
	})
	mux.HandleFunc("POST /nodes/{node}/faults/{fault}", func(w http.ResponseWriter, r *http.Request) {
		h := c.Host(r.PathValue("node"))
		if h == nil {
			http.Error(w, fmt.Sprintf("no host %q", r.PathValue("node")), http.StatusNotFound)
			return
		}
		var args []string
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&args); err != nil {
			http.Error(w, "arguments are not a JSON array of strings", http.StatusBadRequest)
			return
		}
		if err := h.Inject(r.PathValue("fault"), args...); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		go down()
	})
	return mux
}
