package cloudcontroller

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"
)

// AppFault is what goes wrong with an app.
type AppFault string

// The faults of apps. Each meets the starts or the stagings to come ([Controller.FailApp]), or what is ([Controller.BreakApp]).
const (
	// StagingFails: the staging ends as FAILED, after its time.
	StagingFails AppFault = "staging-fails"
	// StagingHangs: the staging does not end.
	StagingHangs AppFault = "staging-hangs"
	// InstancesFlap: every instance is FLAPPING, after the time of a start.
	InstancesFlap AppFault = "instances-flap"
	// InstancesCrash: every instance is DOWN, after the time of a start.
	InstancesCrash AppFault = "instances-crash"
	// InstancesStayStarting: every instance stays STARTING.
	InstancesStayStarting AppFault = "instances-stay-starting"
	// SomeInstancesRun: the last instance is DOWN, the others run.
	SomeInstancesRun AppFault = "some-instances-run"
	// StartRefused: STARTED is refused with HTTP 400 and code 150001, as for an app whose bits are missing. The app stays stopped.
	StartRefused AppFault = "start-refused"
	// AppDeleted: somebody deletes the app right after the next write to it that is carried out.
	AppDeleted AppFault = "app-deleted"
)

// AppFaults lists the faults of apps.
func AppFaults() []AppFault {
	return []AppFault{StagingFails, StagingHangs, InstancesFlap, InstancesCrash, InstancesStayStarting, SomeInstancesRun, StartRefused, AppDeleted}
}

// ofInstances are the faults that hold from a start to the stop.
func ofInstances() []AppFault {
	return []AppFault{InstancesFlap, InstancesCrash, InstancesStayStarting, SomeInstancesRun}
}

// AppWrite is a write to an app that was carried out.
type AppWrite struct {
	Time time.Time
	// What is "STOPPED" or "STARTED" for the state that was set, also where it was so before; "restage"; "delete"; of kato's import "import" for the record that was
	// written to the database, and "redeploy".
	What string
}

// life of an app: what of it changes with time is computed at each request.
type life struct {
	takes  *time.Duration   // of AppTime
	faults map[AppFault]int // how often each is to be met, < 0 for always

	// of the start that is the last
	start        int       // its number among the starts of all apps; 0: long ago
	begun        time.Time // zero: long ago
	time, spread time.Duration
	holds        AppFault // of ofInstances, "" for none

	// of the staging that is at work
	stagingEnds         time.Time
	stageFails, stageNo bool
}

// meets says whether the app meets the fault now, and counts it.
func (l *life) meets(fault AppFault) bool {
	left := l.faults[fault]
	if left > 0 {
		l.faults[fault]--
	}
	return left != 0
}

// StartTime is how long an app takes from its start until its instances are RUNNING, each of them between d and d + spread (default 0: at once). At first they are
// DOWN, until a DEA has taken them, then STARTING. It holds for the starts to come.
func (c *Controller) StartTime(d, spread time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startTime, c.startSpread = d, spread
}

// AppTime is StartTime for one app and all of its instances; < 0 takes it back.
func (c *Controller) AppTime(guid string, d time.Duration) {
	c.onApp(guid, func(a *item) {
		a.life.takes = &d
		if d < 0 {
			a.life.takes = nil
		}
	})
}

// StageTime is how long a staging takes (default 0: it has ended when the request is answered). It holds for the stagings to come.
func (c *Controller) StageTime(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stageTime = d
}

// EmptyWhileStaging answers {} for the instances of an app that is being staged while on, as one version of the controller does, instead of HTTP 400 with
// code 170002.
func (c *Controller) EmptyWhileStaging(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.emptyWhileStaging = on
}

// FailApp lets an app meet a fault at its next starts, stagings or writes, so often; times < 0 for each. What runs now goes on.
func (c *Controller) FailApp(guid string, fault AppFault, times int) {
	c.onApp(guid, func(a *item) {
		if a.life.faults == nil {
			a.life.faults = map[AppFault]int{}
		}
		a.life.faults[fault] = times
	})
}

// BreakApp lets an app have a fault of its instances or its staging now, until its next start or staging.
func (c *Controller) BreakApp(guid string, fault AppFault) {
	c.onApp(guid, func(a *item) {
		switch {
		case slices.Contains(ofInstances(), fault):
			a.life.holds = fault
		case fault == StagingFails:
			delete(c.staging, a)
			a.entity["package_state"] = "FAILED"
		case fault == StagingHangs:
			a.entity["package_state"], a.life.stageNo, a.life.stagingEnds = "PENDING", true, time.Now()
			c.staging[a] = true
		}
	})
}

// HealApp ends all faults of an app, those of its instances and of a staging at work too, and what SetInstances said. An app that failed to stage has to be
// staged again.
func (c *Controller) HealApp(guid string) {
	c.onApp(guid, func(a *item) {
		a.instances, a.life.faults, a.life.holds, a.life.stageFails, a.life.stageNo = nil, nil, "", false, false
	})
}

// onApp calls f for an app if there is one of this guid, with mu held.
func (c *Controller) onApp(guid string, f func(a *item)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(time.Now())
	if a := c.find("apps", guid); a != nil {
		f(a)
		c.touched()
	}
}

// AppRecord returns the writes to an app that were carried out, in order, also of an app that is gone. What was refused is among the Requests only.
func (c *Controller) AppRecord(guid string) []AppWrite {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.records[guid])
}

// FillMany adds n started apps of one to three instances, app-1 to app-n, to five spaces in each of four orgs in turn, and returns their guids in this order.
func (c *Controller) FillMany(n int) []string {
	const orgs, spaces = 4, 5
	guids := make([]string, n)
	for i := range guids {
		place := i % (orgs * spaces)
		guids[i] = c.AddApp(fmt.Sprintf("org-%d", place/spaces+1), fmt.Sprintf("space-%d", place%spaces+1), App{
			Name: fmt.Sprintf("app-%d", i+1), Instances: i%3 + 1, Detected: "Ruby/Rack",
		})
	}
	return guids
}

// wrote keeps a write to an app and takes the app away if somebody deletes it then; the caller holds mu.
func (c *Controller) wrote(a *item, what string, now time.Time) {
	c.records[a.guid] = append(c.records[a.guid], AppWrite{now, what})
	if a.life.meets(AppDeleted) {
		c.remove(a.guid)
	}
}

// settle ends the stagings whose time has passed; the caller holds mu.
func (c *Controller) settle(now time.Time) {
	for a := range c.staging {
		l := &a.life
		if l.stageNo || now.Before(l.stagingEnds) {
			continue
		}
		delete(c.staging, a)
		c.touched()
		if l.stageFails {
			a.entity["package_state"] = "FAILED"
			continue
		}
		a.entity["package_state"] = "STAGED"
		if a.entity["state"] == "STARTED" {
			c.run(a, l.stagingEnds)
		}
	}
}

// setState starts or stops an app, or refuses; the caller holds mu.
func (c *Controller) setState(a *item, state string, now time.Time) error {
	starts := state == "STARTED" && a.entity["state"] != state
	if starts && a.life.meets(StartRefused) {
		return apiError{400, 150001, "AppPackageInvalid", "The app package is invalid: bits have not been uploaded"}
	}
	a.entity["state"], a.entity["restart_required"] = state, false
	c.touched()
	switch {
	case !starts:
		return nil
	case a.entity["package_state"] == "STAGED":
		c.run(a, now)
	default:
		c.stage(a, now)
	}
	a.entity["version"] = guid()
	return nil
}

// run starts the instances of an app; the caller holds mu.
func (c *Controller) run(a *item, at time.Time) {
	l := &a.life
	c.touched()
	c.starts++
	l.start, l.begun, l.time, l.spread, l.holds = c.starts, at, c.startTime, c.startSpread, ""
	if l.takes != nil {
		l.time, l.spread = *l.takes, 0
	}
	for _, fault := range ofInstances() {
		if l.meets(fault) {
			l.holds = fault
			return
		}
	}
}

// stage begins to stage an app, instead of a staging that is at work; the caller holds mu.
func (c *Controller) stage(a *item, now time.Time) { c.stageFor(a, now, c.stageTime, false) }

// stageFor is stage with a time of its own; fails lets it fail for a reason that is not a fault of the app.
func (c *Controller) stageFor(a *item, now time.Time, takes time.Duration, fails bool) {
	a.entity["package_state"] = "PENDING"
	c.touched()
	a.life.stagingEnds, a.life.stageFails, a.life.stageNo = now.Add(takes), a.life.meets(StagingFails) || fails, a.life.meets(StagingHangs)
	c.staging[a] = true
	c.settle(now)
}

// states of the instances of an app that is started and staged; the caller holds mu.
func (a *item) states(now time.Time) map[string]any {
	l, states := &a.life, map[string]any{}
	since := a.created
	if !l.begun.IsZero() {
		since = l.begun
	}
	say := func(index, state string) {
		states[index] = map[string]any{"state": state, "since": float64(since.UnixMilli()) / 1000}
	}
	if a.instances != nil {
		for index, state := range a.instances {
			say(index, state)
		}
		return states
	}
	wanted, _ := a.entity["instances"].(int)
	for i := range wanted {
		say(strconv.Itoa(i), a.state(i, wanted, now))
	}
	return states
}

// state of one of the wanted instances of an app.
func (a *item) state(index, wanted int, now time.Time) string {
	l := &a.life
	if !l.begun.IsZero() {
		takes, passed := l.time+a.share(l.spread, index), now.Sub(l.begun)
		switch {
		case passed < takes/10:
			return "DOWN"
		case passed < takes:
			return "STARTING"
		}
	}
	switch {
	case l.holds == InstancesFlap:
		return "FLAPPING"
	case l.holds == InstancesStayStarting:
		return "STARTING"
	case l.holds == InstancesCrash, l.holds == SomeInstancesRun && index == wanted-1:
		return "DOWN"
	}
	return "RUNNING"
}

// share is an instance's part of a spread: by chance, and the same until the next start.
func (a *item) share(spread time.Duration, index int) time.Duration {
	if spread <= 0 {
		return 0
	}
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%d %v", index, a.entity["version"]) // never fails
	return spread * time.Duration(h.Sum32()%1000) / 1000
}
