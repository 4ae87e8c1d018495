package inventory

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/remote"
)

// Providers of snapshots: the site's own commands, instances of Amazon EC2, libvirt's QEMU domains, servers of an OpenStack cloud, and VMs of vSphere.
const (
	ProviderCommand   = "command"
	ProviderEC2       = "ec2"
	ProviderLibvirt   = "libvirt"
	ProviderOpenStack = "openstack"
	ProviderVSphere   = "vsphere"
)

// HypervisorProviders returns what a hypervisor section may have as its provider.
func HypervisorProviders() []string {
	return []string{ProviderCommand, ProviderEC2, ProviderLibvirt, ProviderOpenStack, ProviderVSphere}
}

var (
	// vmForm keeps what a VM is called from being taken for an option, and from breaking lines.
	vmForm = regexp.MustCompile(`^[A-Za-z0-9_/][A-Za-z0-9_.:/@ +-]{0,254}$`)
	// uriForm is of QEMU's connections: the driver, perhaps a transport and a host, the daemon's kind, and parameters.
	uriForm = regexp.MustCompile(`^qemu(\+[a-z]+)?://[A-Za-z0-9.:@-]*/(system|session)(\?[A-Za-z0-9_=&/.%-]+)?$`)
)

// VMOf returns what the hypervisor calls a node's VM, and the host that has it; "" where there is no host, or none is named.
func (c *Cluster) VMOf(n *Node) (id, host string) {
	id, host = n.VM, n.VMHost
	if id == "" {
		id = n.Name
	}
	if c.Hypervisor != nil && host == "" && len(c.Hypervisor.Hosts) == 1 {
		host = c.Hypervisor.Hosts[0].Name
	}
	return id, host
}

// defaultFreeze is the deadline of a freeze.
const defaultFreeze = time.Minute

// FreezeConflict is what keeps file systems of the cluster from being frozen although they could be, in a few words; "" for nothing.
func (c *Cluster) FreezeConflict() string {
	if h := c.Hypervisor; h != nil && h.VSphere != nil && h.VSphere.Quiesce {
		return "VMware Tools would be asked to quiesce file systems that are frozen, and hang: take quiesce: true out of hypervisor.vsphere"
	}
	return ""
}

// FrozenOf returns the mount points of a node that are frozen while snapshots are taken, in order; none where the inventory names none.
func (c *Cluster) FrozenOf(n *Node) []string {
	if len(n.Freeze) > 0 || c.Hypervisor == nil || c.Hypervisor.Freeze == nil {
		return n.Freeze
	}
	return c.Hypervisor.Freeze.Mounts
}

// FreezeDeadline is how long file systems are frozen at most.
func (c *Cluster) FreezeDeadline() time.Duration {
	if c.Hypervisor == nil || c.Hypervisor.Freeze == nil {
		return defaultFreeze
	}
	return c.Hypervisor.Freeze.Deadline.Std()
}

// HypervisorHost returns how the worker reaches a host of the hypervisor section, as Host does for a node.
func (f *File) HypervisorHost(c *Cluster, name string, env func(string) (string, bool)) (remote.Host, error) {
	if c.Hypervisor != nil {
		for _, h := range c.Hypervisor.Hosts {
			if h.Name == name {
				return f.Host(c, &Node{Name: h.Name, Address: h.Address, SSH: h.SSH}, env)
			}
		}
	}
	return remote.Host{}, fmt.Errorf("the hypervisor has no host %s", quote(name))
}

func (v validator) hypervisor(c *Cluster, path string) {
	h := c.Hypervisor
	provider := path + ".provider"
	if v.missing(provider) {
		v.at(provider, "is missing: choose of %s", quoteAll(HypervisorProviders()))
	} else {
		v.oneOf(h.Provider, HypervisorProviders(), provider)
	}
	names := map[string]int{}
	for i, host := range h.Hosts {
		at := item(path+".hosts", i)
		if v.broken[at] {
			continue
		}
		v.name(&Node{Name: host.Name}, at)
		if first, twice := names[host.Name]; twice && v.given(at+".name") {
			v.at(at+".name", "%s is also the name of %s: give each host its own", quote(host.Name), item("hosts", first))
		}
		names[host.Name] = i
		if p := at + ".address"; v.missing(p) {
			v.at(p, "is missing: write the host's IP address or host name")
		} else if v.given(p) {
			if _, err := parseAddress(host.Address); err != nil {
				v.at(p, "%v", err)
			}
		}
		v.ssh(host.SSH, at+".ssh")
	}
	cloud := slices.Contains([]string{ProviderEC2, ProviderOpenStack, ProviderVSphere}, h.Provider)
	if p := path + ".hosts"; cloud && v.given(p) {
		v.at(p, "no host is logged in to with provider: %s: take it out", h.Provider)
	}
	if len(h.Hosts) == 0 && !cloud && v.missing(path+".hosts") && v.given(provider) && !v.broken[provider] {
		v.at(path+".hosts", "is missing: write name and address of the host that has the VMs, or that the commands run on")
	}
	for _, section := range []struct {
		field, provider string
	}{{"command", ProviderCommand}, {"ec2", ProviderEC2}, {"libvirt", ProviderLibvirt}, {"openstack", ProviderOpenStack}, {"vsphere", ProviderVSphere}} {
		if p := path + "." + section.field; v.given(p) && h.Provider != section.provider {
			v.at(p, "goes with provider: %s", section.provider)
		}
	}
	if p := path + ".libvirt.uri"; v.given(p) && !uriForm.MatchString(h.Libvirt.URI) {
		v.at(p, "%s is not the URI of a QEMU connection: write qemu:///system or qemu:///session, or leave it out", quote(h.Libvirt.URI))
	}
	commands := path + ".command"
	switch {
	case h.Provider == ProviderCommand && v.missing(commands):
		v.at(commands, "is missing: write the commands that take, find, list and delete a snapshot")
	case h.Command != nil && !v.broken[commands]:
		v.commands(h.Command, commands)
	}
	ec2 := path + ".ec2"
	switch {
	case h.Provider == ProviderEC2 && v.missing(ec2):
		v.at(ec2, "is missing: write the region that has the instances, and access_key and secret_key unless the worker has a role")
	case h.EC2 != nil && !v.broken[ec2]:
		v.ec2(h.EC2, ec2)
	}
	openStack := path + ".openstack"
	switch {
	case h.Provider == ProviderOpenStack && v.missing(openStack):
		v.at(openStack, "is missing: write the cloud's auth_url, and user, password and project or an application_credential")
	case h.OpenStack != nil && !v.broken[openStack]:
		v.openStack(h.OpenStack, openStack)
	}
	vSphere := path + ".vsphere"
	switch {
	case h.Provider == ProviderVSphere && v.missing(vSphere):
		v.at(vSphere, "is missing: write the url of the vCenter or ESXi host, user and password")
	case h.VSphere != nil && !v.broken[vSphere]:
		v.vSphere(h.VSphere, vSphere)
	}
	if f, p := h.Freeze, path+".freeze"; f != nil && !v.broken[p] {
		v.mounts(f.Mounts, p+".mounts")
		if d := f.Deadline.Std(); v.given(p+".deadline") && (d < remote.MinFreeze || d > remote.MaxFreeze) {
			v.at(p+".deadline", "%s: write a time from %s to %s", f.Deadline, Duration(remote.MinFreeze), Duration(remote.MaxFreeze))
		}
	}
	nodes := parent(path) + ".nodes"
	for i, n := range c.Nodes {
		at := item(nodes, i)
		if v.broken[nodes] || v.broken[at] {
			continue
		}
		if h.Provider == ProviderEC2 {
			v.ec2Instance(n, at)
		}
		p := at + ".vm_host"
		switch {
		case cloud && v.given(p):
			v.at(p, "the provider itself knows where its VMs are: take it out")
		case v.given(p) && !slices.ContainsFunc(h.Hosts, func(host *HypervisorHost) bool { return host.Name == n.VMHost }):
			v.at(p, "the hypervisor has no host %s", quote(n.VMHost))
		case v.missing(p) && len(h.Hosts) > 1:
			v.at(at, "vm_host is missing: name the host of the hypervisor that has the node's VM")
		}
	}
}

func (v validator) commands(c *HypervisorCommands, path string) {
	for _, command := range []struct {
		field  string
		words  []string
		needed bool
	}{{"snapshot", c.Snapshot, true}, {"find", c.Find, true}, {"list", c.List, true}, {"delete", c.Delete, true}, {"rollback", c.Rollback, false}, {"power", c.Power, false},
		{"start", c.Start, false}, {"stop", c.Stop, false}, {"kill", c.Kill, false}, {"check", c.Check, false}} {
		p := path + "." + command.field
		switch {
		case v.missing(p) && command.needed:
			v.at(p, "is missing: write the command as a list of words")
		case v.given(p) && (len(command.words) == 0 || strings.TrimSpace(command.words[0]) == ""):
			v.at(p, "is empty: write the command as a list of words")
		case v.given(p) && slices.ContainsFunc(command.words, func(w string) bool { return strings.ContainsAny(w, "\x00\n\r") }):
			v.at(p, "a word may not have several lines")
		}
	}
}

// mounts checks a list of mount points that are frozen.
func (v validator) mounts(mounts []string, path string) {
	if !v.given(path) || v.broken[path] {
		return
	}
	if len(mounts) == 0 || len(mounts) > remote.MaxFreezeMounts {
		v.at(path, "has %d mount points: write 1 to %d, or leave it out", len(mounts), remote.MaxFreezeMounts)
	}
	for i, m := range mounts {
		at := item(path, i)
		if err := remote.CheckMount(m); err != nil {
			v.at(at, "%v", err)
		} else if first := slices.Index(mounts, m); first < i {
			v.at(at, "%s is also %s: leave one out", quote(m), item(path[strings.LastIndex(path, ".")+1:], first))
		}
	}
}

// vm checks what a node says of its VM.
func (v validator) vm(n *Node, c *Cluster, at string) {
	if p := at + ".vm"; v.given(p) && !vmForm.MatchString(n.VM) {
		v.at(p, "%s is not the name of a VM: use letters, digits and _.:/@ +-, not '-' first", quote(n.VM))
	}
	v.mounts(n.Freeze, at+".freeze")
	if c.Hypervisor == nil {
		for _, field := range []string{"vm", "vm_host", "freeze"} {
			if p := at + "." + field; v.given(p) {
				v.at(p, "goes with the cluster's hypervisor section: write that or take it out")
			}
		}
	}
}
