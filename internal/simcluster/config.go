package simcluster

import (
	"time"

	"go.uber.org/zap"
)

const (
	platformALS   = "als"
	platformPlain = "plain"
)

// Config describes a cluster. The zero value of every field is usable.
type Config struct {
	// Dir holds the nodes' files, keys, known_hosts and inventory; "" = a temporary folder, removed by Close.
	Dir string
	// Platform is "als" (default: nodes have kato and the login user is stackato) or "plain" (the login user is admin, with sudo).
	Platform string
	// Name of the cluster in the inventory (default "demo").
	Name string
	// Network is the second number of the nodes' loopback addresses, 0 to 254: clusters that are to reach each other by address have different ones (Linux only).
	Network int
	// Nodes in inventory order; nil = DefaultNodes.
	Nodes []NodeConfig
	// BootTime between the end of a shutdown and the SSH server answering again (default 100 ms; negative = 0).
	BootTime time.Duration
	// ShutdownTime between a reboot command and the end of all processes (default 5 ms; negative = 0).
	ShutdownTime time.Duration
	// UpgradeTime that installing all pending packages of a node takes (default 0).
	UpgradeTime time.Duration
	// RoleStartTime is how long after a boot kato's roles take from STOPPED over STARTING to RUNNING (default 0: at once).
	RoleStartTime time.Duration
	// DockerVersion of the DEAs of an ALS cluster (default "20.10.24"), such as "1.0.1": what its commands take and print is that of its generation.
	DockerVersion string
	// ImageRepository is the name of the base image of app containers (default "stackato/stack-alsek"). At the start each DEA has it as latest and kato-patched.
	ImageRepository string
	// ImagePending are the security updates waiting in the base image; nil = DefaultImagePending, empty = none.
	ImagePending []Package
	// ImageBuildTime that docker build takes (default 0), spread over the steps that run something.
	ImageBuildTime time.Duration
	// Autoscaling: kato's configuration says that DEAs are made by autoscaling, and the controllers have its file (kato.md §7).
	Autoscaling bool
	// Hypervisor that the nodes' VMs run on; nil = none that is known.
	Hypervisor *HypervisorConfig
	// Logger receives one line an event; nil = none.
	Logger *zap.Logger
}

// NodeConfig describes one node.
type NodeConfig struct {
	// Name is the node's host name.
	Name string
	// Roles are kato's role names (kato.md §2); labels on a plain cluster.
	Roles []string
	// Pending are the security updates waiting on the node; nil = DefaultPending, empty = none.
	Pending []Package
	// Kernel is the running release (default the one before DefaultPending's).
	Kernel string
	// Container makes the node one without its own kernel: systemd-detect-virt says systemd-nspawn, /proc/stat is the host's, only PID 1 is new after a
	// reboot.
	Container bool
	// Apps is the number of app instances a DEA runs (default 4).
	Apps int
	// Mounts are file systems of their own; nil = /mnt/backup on a node with the role filesystem of an ALS cluster.
	Mounts []Mount
	// OldSSHD makes the node's sshd one of before 8.2, as old nodes have it: no Include, and ChallengeResponseAuthentication beside KbdInteractiveAuthentication.
	OldSSHD bool
}

// Package is a pending update.
type Package struct {
	Name string
	// Old is the installed version, New the one in the security archive.
	Old, New string
	// NeedsReboot makes its installation write /run/reboot-required.
	NeedsReboot bool
	// Kernel is the release a kernel package brings; "" for others.
	Kernel string
	// PostinstFails makes its configuration fail this many times.
	PostinstFails int
}

// The kernels of DefaultPending: before and after.
const (
	DefaultKernel    = "6.1.0-25-amd64"
	DefaultNewKernel = "6.1.0-26-amd64"
)

// DefaultPending returns four security updates, one of them a kernel.
func DefaultPending() []Package {
	return []Package{
		{Name: "libssl3", Old: "3.0.13-1~deb12u1", New: "3.0.14-1~deb12u2"},
		{Name: "openssl", Old: "3.0.13-1~deb12u1", New: "3.0.14-1~deb12u2"},
		{Name: "libc6", Old: "2.36-9+deb12u7", New: "2.36-9+deb12u8", NeedsReboot: true},
		{Name: "linux-image-amd64", Old: "6.1.106-3", New: "6.1.112-1", NeedsReboot: true, Kernel: DefaultNewKernel},
	}
}

// DefaultImagePending returns three security updates.
func DefaultImagePending() []Package {
	return []Package{
		{Name: "bash", Old: "5.2.15-2+b7", New: "5.2.15-2+b8"},
		{Name: "libssl3", Old: "3.0.13-1~deb12u1", New: "3.0.14-1~deb12u2"},
		{Name: "openssl", Old: "3.0.13-1~deb12u1", New: "3.0.14-1~deb12u2"},
	}
}

// DefaultNodes returns the five nodes of the demo: a Core node, two DEAs and two data services.
func DefaultNodes() []NodeConfig {
	return []NodeConfig{
		{Name: "core", Roles: []string{"base", "primary", "controller", "router"}},
		{Name: "dea-1", Roles: []string{"base", "dea"}},
		{Name: "dea-2", Roles: []string{"base", "dea"}},
		{Name: "mysql-1", Roles: []string{"base", "mysql"}},
		{Name: "filesystem-1", Roles: []string{"base", "filesystem"}},
	}
}
