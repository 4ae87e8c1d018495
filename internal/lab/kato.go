package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const katoUnit = katodouble.AgentUnit

// katoVersion is the version of all hosts at the start.
const katoVersion = "3.4.2"

// katoSite is the host's /etc/kato/node.json.
func (h *Host) katoSite() katodouble.Site {
	out := katodouble.Site{ID: h.Address(), Version: katoVersion, RoleStart: h.c.cfg.RoleStart.String(), Login: LoginUser, Database: h.c.databaseURL, Manifest: h.c.manifestURL,
		Marker: katodouble.UpgradeMarker, Reboot: []string{"systemctl", "reboot"}}
	for _, o := range h.c.hosts {
		apps := o.cfg.Apps
		if apps == 0 {
			apps = 4
		}
		out.Nodes = append(out.Nodes, katodouble.SiteNode{ID: o.Address(), Name: o.Name(), Roles: o.cfg.Roles, Apps: apps})
	}
	return out
}

// Kato changes what the host's kato says: roles that are stopped or never start, instances, prompts, exit codes.
func (h *Host) Kato(change katodouble.StatePatch) error {
	b, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return h.askKato(http.MethodPatch, "/state", b, nil)
}

// KatoState is what the host's kato says of itself.
func (h *Host) KatoState() (s katodouble.NodeState, err error) {
	return s, h.askKato(http.MethodGet, "/state", nil, &s)
}

// Maintenance reports whether ALS's maintenance mode is on (kato.md §4); a plain cluster has none.
func (c *Cluster) Maintenance() (bool, error) {
	if c.cfg.Platform != "als" {
		return false, nil
	}
	var config map[string]map[string]any
	if err := c.core().askKato(http.MethodGet, "/config", nil, &config); err != nil {
		return false, err
	}
	v := config["cloud_controller_ng"]["maintenance_mode"]
	return v == true || v == "true", nil
}

// startController serves the cluster's Cloud Controller in this process, at the lab's address outside of the hosts. Its maintenance mode and its version are those of the Core's kato;
// while the Core does not answer, what it said last. The hosts' katos export and import its content by way of the bridge, which NoOutbound does not close: in a
// real cluster it lies on the Core.
func (c *Cluster) startController() (*cloudcontroller.Joined, error) {
	var last atomic.Bool
	var version atomic.Value
	version.Store(katoVersion)
	roles := map[string][]string{}
	for _, h := range c.hosts {
		roles[h.Address()] = h.cfg.Roles
	}
	j, err := cloudcontroller.Join(c.dir, net.JoinHostPort(c.lab.outside.String(), "0"), cloudcontroller.Options{
		Maintenance: func() bool {
			if on, err := c.Maintenance(); err == nil {
				last.Store(on)
			}
			return last.Load()
		},
		SetMaintenance: func(on bool) {
			if err := c.changeConfig(katodouble.ConfigChange{Path: []string{"cloud_controller_ng", "maintenance_mode"}, Value: on}); err != nil {
				c.lab.cfg.Log("maintenance mode was not set by the Cloud Controller: %v", err)
				return
			}
			last.Store(on)
		},
		Version: func() string {
			var s katodouble.NodeState
			if err := c.core().askKatoWithin(2*time.Second, http.MethodGet, "/state", nil, &s); err == nil {
				version.Store(s.Version)
			}
			return "v" + version.Load().(string)
		},
		Nodes: func() map[string][]string { return roles },
	})
	if err != nil {
		return nil, err
	}
	if c.databaseURL, err = j.ServeDatabase(net.JoinHostPort(c.lab.bridge.String(), "0")); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

// startVendor serves the manifest of kato's patches in this process, by way of the bridge, which NoOutbound does not close.
func (c *Cluster) startVendor() (err error) {
	c.manifest.Set(katodouble.DefaultPatches())
	c.manifestURL, c.vendor, err = katodouble.ServeManifest(net.JoinHostPort(c.lab.bridge.String(), "0"), &c.manifest)
	return err
}

// SetPatches replaces the vendor's patches. What hosts have fetched stays as it is.
func (c *Cluster) SetPatches(list []katodouble.Patch) { c.manifest.Set(list) }

// Controller is the cluster's Cloud Controller; nil on a plain cluster.
func (c *Cluster) Controller() *cloudcontroller.Controller {
	if c.ccng == nil {
		return nil
	}
	return c.ccng.Controller
}

// ExportSize sets how many bytes of data the host's exports hold; they cannot be compressed. 0 = 256 KiB.
func (h *Host) ExportSize(size int64) error {
	return h.patchExport(katodouble.ExportPatch{Size: &size})
}

// ExportTime sets how long the host's exports take; 0 = as long as writing takes.
func (h *Host) ExportTime(d time.Duration) error {
	return h.patchExport(katodouble.ExportPatch{Seconds: new(d.Seconds())})
}

// ExportFault lets the next exports of the host go wrong (all of them when times < 0). exit is the exit code of katodouble.ExportFails; 0 = 1.
func (h *Host) ExportFault(fault katodouble.ExportFault, times, exit int) error {
	return h.patchExport(katodouble.ExportPatch{Fault: &fault, Times: &times, Exit: &exit})
}

// HealExports makes the host's exports as they were at the start.
func (h *Host) HealExports() error {
	return h.patchExport(katodouble.ExportPatch{Size: new(int64), Seconds: new(float64), Fault: new(katodouble.ExportFault), Times: new(int), Exit: new(int)})
}

func (h *Host) patchExport(p katodouble.ExportPatch) error {
	return h.Kato(katodouble.StatePatch{Export: &p})
}

// ImportWith changes what the host's imports do; katodouble.ImportPatch says what can be set. What it does not name stays.
func (h *Host) ImportWith(p katodouble.ImportPatch) error {
	return h.Kato(katodouble.StatePatch{Import: &p})
}

// HealImports makes the host's imports as they were at the start.
func (h *Host) HealImports() error {
	return h.ImportWith(katodouble.ImportPatch{Heal: true})
}

// PatchWith changes what the host knows of kato's patches and what `kato patch` does there; katodouble.PatchesPatch says what can be set. What it does not name stays.
func (h *Host) PatchWith(p katodouble.PatchesPatch) error {
	return h.Kato(katodouble.StatePatch{Patches: &p})
}

// HealPatches ends the fault of the host's patches, and makes them take no time. What is installed stays so.
func (h *Host) HealPatches() error {
	return h.PatchWith(katodouble.PatchesPatch{Heal: true})
}

// Patches is what the host knows of kato's patches, with those that are installed.
func (h *Host) Patches() (katodouble.NodePatches, error) {
	s, err := h.KatoState()
	return s.Patches, err
}

// UpgradeWith changes what `kato node upgrade` does on the host and what it has done there; katodouble.UpgradePatch says what can be set. What it does not name stays.
func (h *Host) UpgradeWith(p katodouble.UpgradePatch) error {
	return h.Kato(katodouble.StatePatch{Upgrade: &p})
}

// HealUpgrade ends the fault of the host's upgrades, gives it its kato back, and makes upgrades take no time. What they have done stays so.
func (h *Host) HealUpgrade() error {
	return h.UpgradeWith(katodouble.UpgradePatch{Heal: true})
}

// KatoVersion is the version of the host.
func (h *Host) KatoVersion() (string, error) {
	s, err := h.KatoState()
	return s.Version, err
}

// KatoUpgrade is what upgrades of the host do, and what they have done there.
func (h *Host) KatoUpgrade() (katodouble.Upgrade, error) {
	s, err := h.KatoState()
	return s.Upgrade, err
}

// Importing says whether `kato data import` is at work on the host; false while its kato does not answer.
func (h *Host) Importing() bool {
	s, err := h.KatoState()
	return err == nil && s.Importing
}

// ExternalDatabase lets the cluster's configuration name an external host for the database of mysql or postgresql; "" = on its own node.
func (h *Host) ExternalDatabase(service, host string) error {
	change, err := katodouble.DatabaseHost(service, host)
	if err != nil {
		return err
	}
	return h.c.changeConfig(change)
}

// changeConfig changes the configuration that all nodes' katos share.
func (c *Cluster) changeConfig(change katodouble.ConfigChange) error {
	b, err := json.Marshal([]katodouble.ConfigChange{change})
	if err != nil {
		return err
	}
	return c.core().askKato(http.MethodPatch, "/config", b, nil)
}

// agents asks on a connection of its own each time: the next host may have the address of one that is gone.
var agents = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (h *Host) askKato(method, path string, body []byte, out any) error {
	return h.askKatoWithin(10*time.Second, method, path, body, out)
}

func (h *Host) askKatoWithin(d time.Duration, method, path string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	url := "http://" + net.JoinHostPort(h.Address(), strconv.Itoa(katodouble.AgentPort)) + path
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := agents.Do(r)
	if err != nil {
		return fmt.Errorf("kato of %s: %w", h.Name(), err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("kato of %s: %s: %s", h.Name(), answer.Status, bytes.TrimSpace(b))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}
