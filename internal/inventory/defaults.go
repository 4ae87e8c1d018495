package inventory

import (
	"slices"
	"time"
)

// fillDefaults writes every default into a file that has passed validation, so that what is shown, digested and run is the same.
func (f *File) fillDefaults() {
	for name, c := range f.Clusters {
		c.Name = name
		c.fillDefaults()
	}
}

func (c *Cluster) fillDefaults() {
	setDefault(&c.Platform, PlatformPlain)
	user := "root"
	if c.Platform == PlatformALS {
		user = "stackato" // kato.md §1
		setDefault(&c.Kato.Path, "/home/stackato/bin/kato")
		setDefault(&c.Kato.Timeout, Duration(2*time.Minute))
		setDefault(&c.Kato.Services, "/var/stackato/services") // kato.md §3.7, as the next one
		setDefault(&c.Kato.Droplets, "/home/stackato/stackato/data")
		setDefault(&c.Kato.Containers, "/var/lib/docker")
		if len(c.Kato.Releases) == 0 {
			c.Kato.Releases = []string{"https://upgrade.helion.com", "https://pkg.helion.com"} // kato.md §5
		}
		for _, n := range c.Nodes {
			n.Roles = katoRoles(n.Roles)
		}
		if core := c.CoreNode(); core != nil {
			core.Core = true
		}
	}
	setDefault(&c.SSH.User, user)
	setDefault(&c.SSH.Port, 22)
	if len(c.SSH.KnownHosts) == 0 {
		c.SSH.KnownHosts = []string{"~/.ssh/known_hosts"}
	}
	if c.SSH.Agent == nil {
		agent := len(c.SSH.KeyFiles) == 0
		c.SSH.Agent = &agent
	}
	setDefault(&c.SSH.ConnectTimeout, Duration(10*time.Second))
	setDefault(&c.SSH.MaxSessions, 8)
	setDefault(&c.Gates.Times, 3)
	setDefault(&c.Gates.Interval, Duration(5*time.Second))
	setDefault(&c.Gates.Timeout, Duration(10*time.Minute))
	setDefault(&c.Timeouts.UnreachableAfter, Duration(10*time.Minute))
	setDefault(&c.Timeouts.Boot, Duration(15*time.Minute))
	setDefault(&c.Timeouts.Upgrade, Duration(3*time.Hour))
	setDefault(&c.Timeouts.AptLock, Duration(30*time.Minute))
	if (c.Notify.Webhook != nil || len(c.Notify.Command) > 0) && len(c.Notify.On) == 0 {
		c.Notify.On = NotifyEvents()
	}
	if c.S3 != nil {
		setDefault(&c.S3.Region, "us-east-1")
	}
	if c.Controller != nil {
		setDefault(&c.Controller.Timeout, Duration(30*time.Second))
	}
	if h := c.Hypervisor; h != nil {
		setDefault(&h.StopWithin, Duration(10*time.Minute))
		if h.OpenStack != nil {
			h.OpenStack.fillDefaults()
		}
		if h.VSphere != nil {
			h.VSphere.fillDefaults()
		}
		if h.Freeze != nil {
			setDefault(&h.Freeze.Deadline, Duration(defaultFreeze))
		}
	}
	if c.Export != nil { // one that is left out stays so: the digest of a cluster that does not speak of exports is that of earlier versions
		c.Export.fillDefaults()
	}
}

func (e *Export) fillDefaults() {
	setDefault(&e.Timeout, Duration(12*time.Hour))
	if len(e.DataFolders) == 0 {
		e.DataFolders = []string{"/var/stackato/services", "/home/stackato/stackato/data"} // kato.md §3.7
	}
}

// NotifyEvents returns the events that can be told: parked, failed, done.
func NotifyEvents() []string { return []string{"parked", "failed", "done"} }

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// katoRoles adds base, which is on every node (kato.md §2), and sorts by start order.
func katoRoles(roles []string) []string {
	if !slices.Contains(roles, "base") {
		roles = append([]string{"base"}, roles...)
	}
	order := RoleNames()
	slices.SortStableFunc(roles, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	return roles
}
