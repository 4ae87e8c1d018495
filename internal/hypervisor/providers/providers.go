// Package providers has all providers of snapshots. Only the worker imports it: their libraries are large.
package providers

import (
	"fmt"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/command"
	"github.com/katoflow/katoflow/internal/hypervisor/ec2"
	"github.com/katoflow/katoflow/internal/hypervisor/libvirt"
	"github.com/katoflow/katoflow/internal/hypervisor/openstack"
	"github.com/katoflow/katoflow/internal/hypervisor/overssh"
	"github.com/katoflow/katoflow/internal/hypervisor/vsphere"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/remote"
)

// All opens the providers of snapshots that katoflow has.
type All struct {
	// Runner logs in to the hosts of those that are reached over SSH.
	Runner remote.Runner
}

// Open opens the provider of a cluster's hypervisor section. It makes no connection.
func (p All) Open(file *inventory.File, c *inventory.Cluster, env func(string) (string, bool)) (hypervisor.Provider, error) {
	h := c.Hypervisor
	hosts := map[string]remote.Host{}
	for _, host := range h.Hosts {
		reached, err := file.HypervisorHost(c, host.Name, env)
		if err != nil {
			return nil, err
		}
		hosts[host.Name] = reached
	}
	switch h.Provider {
	case inventory.ProviderCommand:
		return &command.Provider{Hosts: overssh.Hosts{Runner: p.Runner, ByName: hosts}, Commands: command.Commands{Snapshot: h.Command.Snapshot, Find: h.Command.Find, List: h.Command.List, Delete: h.Command.Delete,
			Rollback: h.Command.Rollback, Power: h.Command.Power, Start: h.Command.Start, Stop: h.Command.Stop, Kill: h.Command.Kill, Check: h.Command.Check}}, nil
	case inventory.ProviderEC2:
		cfg, err := ec2.ConfigOf(file, h.EC2, env)
		if err != nil {
			return nil, err
		}
		return ec2.Open(cfg)
	case inventory.ProviderLibvirt:
		return &libvirt.Provider{Hosts: overssh.Hosts{Runner: p.Runner, ByName: hosts}, URI: h.Libvirt.URI}, nil
	case inventory.ProviderOpenStack:
		cfg, err := openstack.ConfigOf(file, h.OpenStack, env)
		if err != nil {
			return nil, err
		}
		return openstack.Open(cfg)
	case inventory.ProviderVSphere:
		cfg, err := vsphere.ConfigOf(file, h.VSphere, env)
		if err != nil {
			return nil, err
		}
		return vsphere.Open(cfg)
	}
	return nil, fmt.Errorf("provider %s is not built in", h.Provider)
}
