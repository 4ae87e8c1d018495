package cloudcontroller

import (
	"maps"
	"net/http"
	"slices"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// required are the roles that a cluster has at least one of (kato.md §2).
func required() []string { return []string{"base", "primary", "controller", "router", "dea"} }

// SupervisordDown lets the supervisord of a node not answer while down, so that no process of any node can be asked for (kato.md §6.2).
func (c *Controller) SupervisordDown(node string, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if down {
		c.noSupervisord[node] = true
	} else {
		delete(c.noSupervisord, node)
	}
}

// SetProcess says the state of a process of a node, such as STOPPED, STARTING or ROGUE, where Options.Components does not; "" for what its roles say.
func (c *Controller) SetProcess(node, process, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processStates[node] == nil {
		c.processStates[node] = map[string]string{}
	}
	if c.processStates[node][process] = state; state == "" {
		delete(c.processStates[node], process)
	}
}

// nodes returns the roles of each node.
func (c *Controller) nodes() map[string][]string {
	if c.options.Nodes == nil {
		return map[string][]string{}
	}
	return c.options.Nodes()
}

func (c *Controller) roles(*http.Request, string) (answer, error) {
	nodes := c.nodes()
	available := map[string][]string{}
	for _, roles := range nodes {
		for _, role := range roles {
			available[role] = katodouble.Processes(role)
		}
	}
	return answer{200, map[string]any{"available": available, "nodes": nodes, "required": required()}}, nil
}

func (c *Controller) components(*http.Request, string) (answer, error) {
	nodes := map[string]map[string]string{}
	if c.options.Components != nil {
		nodes = c.options.Components()
	} else {
		for node, roles := range c.nodes() {
			nodes[node] = map[string]string{}
			for _, role := range roles {
				for _, process := range katodouble.Processes(role) {
					nodes[node][process] = "RUNNING"
				}
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		if c.noSupervisord[node] {
			return answer{}, apiError{500, 110, "StackatoSupervisordNotRunning", "Could determine proceses status on " + node + ". supervisord is not running"}
		}
		if c.options.Components == nil {
			maps.Copy(nodes[node], c.processStates[node])
		}
	}
	return answer{200, nodes}, nil
}
