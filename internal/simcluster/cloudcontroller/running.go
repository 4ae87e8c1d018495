package cloudcontroller

import "time"

// RunningApp is an app that is started and staged, as those see it who run its instances.
type RunningApp struct {
	GUID, Name string
	// Start is another number after each start of the app, also one after a staging.
	Start int
	// Instances are the indexes of those that a DEA runs: all that are wanted, but for those that a fault keeps DOWN.
	Instances []int
}

// RunningApps returns the apps that run, in the order of their creation, and a revision, which is another one once anything of an app has changed. When nothing has since that one, changed is false
// and there are no apps in the answer. An app runs from the moment of its start on, whatever StartTime says; SetInstances does not matter.
func (c *Controller) RunningApps(since int) (apps []RunningApp, revision int, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(time.Now())
	if c.revision == since {
		return nil, since, false
	}
	for _, a := range c.lists["apps"] {
		if a.entity["state"] != "STARTED" || a.entity["package_state"] != "STAGED" {
			continue
		}
		name, _ := a.entity["name"].(string)
		r := RunningApp{GUID: a.guid, Name: name, Start: a.life.start}
		wanted, _ := a.entity["instances"].(int)
		switch a.life.holds {
		case InstancesCrash:
			wanted = 0
		case SomeInstancesRun:
			wanted--
		}
		for i := range max(0, wanted) {
			r.Instances = append(r.Instances, i)
		}
		apps = append(apps, r)
	}
	return apps, c.revision, true
}

// touched says that something of an app has changed; the caller holds mu.
func (c *Controller) touched() { c.revision++ }
