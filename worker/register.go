package main

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/hypervisor/providers"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/workflows"
)

// hands is what the activities work with.
type hands struct {
	// inventory is the path of the worker's file.
	inventory string
	// env looks up what the inventory refers to, which are secrets; environment is the worker's own, as programs get it.
	env         func(string) (string, bool)
	environment func(string) (string, bool)
	pool        *remote.Pool
	client      client.Client
	log         *zap.Logger
}

// register makes every workflow and activity known to w. Activities are registered under their methods' names.
func register(w worker.Registry, h hands) {
	source := activities.NewSource(h.inventory, h.env)
	jobs := &remote.Jobs{Runner: h.pool, Logger: h.log}
	workflows.Register(w)
	w.RegisterActivity(&activities.Inventory{Source: source, HostKeys: h.pool})
	w.RegisterActivity(&activities.Locks{Client: h.client})
	nodes := &activities.Nodes{Source: source, Connections: h.pool, Jobs: jobs, Logger: h.log}
	w.RegisterActivity(nodes)
	w.RegisterActivity(&activities.Images{Nodes: nodes})
	w.RegisterActivity(&activities.Patches{Nodes: nodes})
	w.RegisterActivity(&activities.Storage{Nodes: nodes})
	access := &activities.Access{Nodes: nodes, Keys: h.pool}
	w.RegisterActivity(access)
	w.RegisterActivity(&activities.Kato{Source: source, Connections: h.pool, Jobs: jobs, Logger: h.log})
	w.RegisterActivity(&activities.Catalog{Source: source, Operations: h.client, Logger: h.log})
	w.RegisterActivity(&activities.Archives{Source: source, Connections: h.pool, Jobs: jobs, Logger: h.log})
	w.RegisterActivity(&activities.Snapshots{Source: source, Connections: h.pool, Jobs: jobs, Hypervisors: providers.All{Runner: h.pool}, Freezer: &remote.Freezer{Runner: h.pool}, Logger: h.log})
	apps := &activities.Apps{Source: source, Operations: h.client, Logger: h.log}
	w.RegisterActivity(apps)
	w.RegisterActivity(&activities.Releases{Nodes: nodes, Access: access, Apps: apps})
	w.RegisterActivity(&activities.Notifier{Source: source, Logger: h.log, Environment: commandEnvironment(h.environment)})
}

// commandEnvironment is what notification commands get of the worker's environment: enough to run a program, and none of the variables that the
// inventory's secrets refer to.
func commandEnvironment(env func(string) (string, bool)) []string {
	var out []string
	for _, name := range []string{"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := env(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return out
}
