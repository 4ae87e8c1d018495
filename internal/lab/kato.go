package lab

import "github.com/katoflow/katoflow/internal/simcluster/katodouble"

const katoUnit = katodouble.AgentUnit

// katoConfig is the host's /etc/kato/node.json.
func (h *Host) katoConfig() any {
	type node struct {
		ID    string   `json:"id"`
		Name  string   `json:"name"`
		Roles []string `json:"roles"`
		Apps  int      `json:"apps"`
	}
	out := struct {
		ID        string `json:"id"`
		Version   string `json:"version"`
		RoleStart string `json:"role_start"`
		Nodes     []node `json:"nodes"`
	}{ID: h.Address(), Version: "3.4.2", RoleStart: h.c.cfg.RoleStart.String()}
	for _, o := range h.c.hosts {
		apps := o.cfg.Apps
		if apps == 0 {
			apps = 4
		}
		out.Nodes = append(out.Nodes, node{ID: o.Address(), Name: o.Name(), Roles: o.cfg.Roles, Apps: apps})
	}
	return out
}
