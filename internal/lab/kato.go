package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const katoUnit = katodouble.AgentUnit

// katoSite is the host's /etc/kato/node.json.
func (h *Host) katoSite() katodouble.Site {
	out := katodouble.Site{ID: h.Address(), Version: "3.4.2", RoleStart: h.c.cfg.RoleStart.String()}
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
	core := c.hosts[0]
	for _, h := range c.hosts {
		if slices.Contains(h.cfg.Roles, "primary") {
			core = h
		}
	}
	var config map[string]map[string]any
	if err := core.askKato(http.MethodGet, "/config", nil, &config); err != nil {
		return false, err
	}
	v := config["cloud_controller_ng"]["maintenance_mode"]
	return v == true || v == "true", nil
}

func (h *Host) askKato(method, path string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort(h.Address(), strconv.Itoa(katodouble.AgentPort)) + path
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
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
