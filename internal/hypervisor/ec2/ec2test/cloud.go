// Package ec2test is a double of the EC2 API: an HTTP server that speaks its query protocol (forms in, XML out) for the calls that snapshots need, with pages, throttling, lost
// answers, states that take a while, and errors in EC2's words.
package ec2test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

// The only key that the double knows, and the token that it wants with a temporary one.
const (
	AccessKey    = "AKIAIOSFODNN7EXAMPLE"
	SecretKey    = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	SessionToken = "AQoDYXdzEPT//////////wEXAMPLE"
)

// Throttle is the answer to an account that asks too much.
func Throttle(action string, times int) hypervisortest.RequestFault {
	return hypervisortest.RequestFault{Call: action, Times: times, Code: "RequestLimitExceeded", Status: http.StatusServiceUnavailable}
}

// Cloud is the double. Its fields may be changed before the first request. The Call of a fault is an action, with "DryRun:" before it for one that is only tried.
type Cloud struct {
	hypervisortest.Double
	// PageSize of lists (default 1000).
	PageSize int
	// Copying is how long a snapshot is pending; negative: until Complete.
	Copying time.Duration
	// Slow is how long volumes take to be made, attached and detached, and instances to stop and start.
	Slow time.Duration
	// Spacing is what has to lie between two snapshots of a volume.
	Spacing time.Duration
	// Skew is how far the cloud's clock is ahead of ours.
	Skew time.Duration
	// Encrypted: new snapshots are of encrypted volumes.
	Encrypted bool
	// Broken is how many of the next volumes that are made end in the state error.
	Broken int
	// Hidden is by how many looks for snapshots a snapshot is not shown after it was made.
	Hidden int
	// Latency of every answer to CreateSnapshots, half of it before the moment.
	Latency time.Duration
	// Late is by how many looks at an instance a volume is not shown after it was attached to it.
	Late int
	// Stores are the types of instances that have instance store volumes.
	Stores map[string]bool

	mu        sync.Mutex
	next      int
	instances map[string]*instance
	volumes   map[string]*volume
	snapshots map[string]*snapshot
	tokens    map[string]string // client token -> volume
	params    map[string]string // client token -> parameters
	calls     []Call
}

// Call is a request that arrived. Token is its session token.
type Call struct {
	Action, From, Token string
	Form                url.Values
}

type instance struct {
	id, kind, root string
	state          string
	until          time.Time // when a state that passes ends
	launch         time.Time
	devices        map[string]*attachment
	late           int // looks at the instance by which the device that was attached last is not shown
	last           string
}

type attachment struct {
	volume string
	delete bool
	at     time.Time
	ready  time.Time // when it is attached
}

type volume struct {
	id, snapshot, kind string
	size               int
	iops, throughput   int
	multi              bool
	broken             bool
	unlisted           bool   // shown only to who names it
	also               string // another instance that has it
	content            string
	ready              time.Time // when it is available
	detached           time.Time
	tags               map[string]string
}

type snapshot struct {
	id, volume string
	size       int
	content    string
	start      time.Time
	complete   time.Time
	hidden     int
	failed     bool
	archived   bool
	deleted    bool // gone when it is copied
	encrypted  bool
	text       string
	tags       map[string]string
}

// New starts a double without instances.
func New() *Cloud {
	c := &Cloud{
		PageSize: 1000, Stores: map[string]bool{}, instances: map[string]*instance{}, volumes: map[string]*volume{}, snapshots: map[string]*snapshot{}, tokens: map[string]string{},
		params: map[string]string{},
	}
	c.Start(c.serve)
	return c
}

// now in what EC2 tells, milliseconds.
func (c *Cloud) now() time.Time { return c.Now(time.Millisecond).Add(c.Skew) }

func (c *Cloud) id(prefix string) string {
	c.next++
	return fmt.Sprintf("%s-%017x", prefix, c.next)
}

// Instance adds a running instance with a volume of 8 GiB at each device, and returns its id. The first device is its root.
func (c *Cloud) Instance(kind string, devices ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := &instance{id: c.id("i"), kind: kind, state: "running", launch: c.now(), devices: map[string]*attachment{}}
	for n, d := range devices {
		c.add(i, d)
		i.devices[d].delete = n == 0
	}
	if len(devices) > 0 {
		i.root = devices[0]
	}
	c.instances[i.id] = i
	return i.id
}

// add attaches a new volume of 8 GiB at a device.
func (c *Cloud) add(i *instance, device string) {
	v := &volume{id: c.id("vol"), kind: "gp3", size: 8, iops: 3000, throughput: 125, tags: map[string]string{}}
	c.volumes[v.id] = v
	i.devices[device] = &attachment{volume: v.id, at: c.now()}
}

// Attach puts a new volume at a device of an instance, in the place of what is there.
func (c *Cloud) Attach(id, device string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(c.instances[id], device)
}

// Detach takes the volume at a device away.
func (c *Cloud) Detach(id, device string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.instances[id].devices, device)
}

// Place attaches a volume that is there, as somebody does by hand; what was at the device is attached to nothing then.
func (c *Cloud) Place(id, device, volume string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.instances {
		for d, a := range i.devices {
			if a.volume == volume {
				delete(i.devices, d)
			}
		}
	}
	c.instances[id].devices[device] = &attachment{volume: volume, at: c.now()}
}

// Unlist has a volume shown only to who asks for it by its id.
func (c *Cloud) Unlist(volume string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.volumes[volume].unlisted = true
}

// Copy is what somebody makes of a snapshot with its tags, and returns its id.
func (c *Cloud) Copy(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := c.snapshots[id]
	s := &snapshot{id: c.id("snap"), volume: "vol-0aaaaaaaaaaaaaaaa", size: from.size, content: from.content, start: c.now(), complete: time.Now(), text: "[Copied " + id + "]", tags: maps.Clone(from.tags)}
	c.snapshots[s.id] = s
	return s.id
}

// Settle ends what instances are in the middle of, whatever Slow is.
func (c *Cloud) Settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.instances {
		if !i.until.IsZero() {
			i.until = time.Now()
		}
	}
}

// State of an instance.
func (c *Cloud) State(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	return c.instances[id].state
}

// Archive moves a snapshot into the archive tier, and Restore back.
func (c *Cloud) Archive(id string) { c.tier(id, true) }

// Restore undoes Archive.
func (c *Cloud) Restore(id string) { c.tier(id, false) }

func (c *Cloud) tier(id string, archived bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshots[id].archived = archived
}

// Remove takes an instance away.
func (c *Cloud) Remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.instances, id)
}

// Write has the guest of an instance write to a disk.
func (c *Cloud) Write(id, device, content string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.volumes[c.instances[id].devices[device].volume].content = content
}

// Started is an instance that ran for a moment since.
func (c *Cloud) Started(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instances[id].launch = c.now()
}

// Content of an instance's disk; "" where there is no volume.
func (c *Cloud) Content(id, device string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.instances[id].devices[device]; a != nil {
		return c.volumes[a.volume].content
	}
	return ""
}

// Attached returns the volume at an instance's device, and whether it is deleted with the instance.
func (c *Cloud) Attached(id, device string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.instances[id].devices[device]; a != nil {
		return a.volume, a.delete
	}
	return "", false
}

// Volumes returns the ids of all volumes, and Snapshots those of all snapshots.
func (c *Cloud) Volumes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.volumes))
}

// Snapshots returns the ids of all snapshots.
func (c *Cloud) Snapshots() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	return slices.Sorted(maps.Keys(c.snapshots))
}

// Tags of a snapshot or a volume.
func (c *Cloud) Tags(id string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(*c.tagsOf(id))
}

// MultiAttach lets the volume at a device be attached to several instances, and attaches it to another one unless that is "".
func (c *Cloud) MultiAttach(id, device, other string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.volumes[c.instances[id].devices[device].volume]
	v.multi, v.also = true, other
}

// Complete ends the copying of all snapshots, failed or not.
func (c *Cloud) Complete(failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.snapshots {
		s.complete, s.failed = time.Now(), failed
	}
}

// SetCopying changes Copying while the double runs.
func (c *Cloud) SetCopying(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Copying = d
}

// Pend adds snapshots of somebody else that are pending, so many of each volume of an instance, and returns their ids.
func (c *Cloud) Pend(id string, n int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, a := range c.instances[id].devices {
		for range n {
			s := &snapshot{id: c.id("snap"), volume: a.volume, size: 8, start: c.now(), tags: map[string]string{}}
			c.snapshots[s.id] = s
			ids = append(ids, s.id)
		}
	}
	return ids
}

// Drop takes snapshots away.
func (c *Cloud) Drop(ids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		delete(c.snapshots, id)
	}
}

// Calls returns the requests of an action so far, "" for all.
func (c *Cloud) Calls(action string) []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	var calls []Call
	for _, x := range c.calls {
		if action == "" || x.Action == action {
			calls = append(calls, x)
		}
	}
	return calls
}

type apiError struct {
	code, message string
	status        int
}

func refuse(code, format string, args ...any) *apiError {
	return &apiError{code: code, message: fmt.Sprintf(format, args...), status: http.StatusBadRequest}
}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ping" {
		c.mu.Lock()
		c.calls = append(c.calls, Call{Action: "ping", From: r.RemoteAddr})
		c.mu.Unlock()
		_, _ = io.WriteString(w, "healthy")
		return
	}
	c.dated(w)
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	action := form.Get("Action")
	c.mu.Lock()
	c.calls = append(c.calls, Call{Action: action, From: r.RemoteAddr, Token: r.Header.Get("X-Amz-Security-Token"), Form: form})
	c.mu.Unlock()
	call := action
	if form.Get("DryRun") == "true" {
		call = "DryRun:" + action
	}
	fault, faulty := c.Meet(call)
	if faulty && fault.Kind == hypervisortest.Unheard {
		hypervisortest.HangUp(w)
		return
	}
	if faulty && fault.Kind == hypervisortest.Refuse {
		write(w, action, nil, &apiError{code: fault.Code, message: "The request was refused.", status: max(fault.Status, 400)})
		return
	}
	if !strings.Contains(r.Header.Get("Authorization"), "Credential="+AccessKey+"/") {
		write(w, action, nil, &apiError{code: "AuthFailure", message: "AWS was not able to validate the provided access credentials", status: http.StatusUnauthorized})
		return
	}
	if call == "CreateSnapshots" {
		time.Sleep(c.Latency / 2) // the double's latency, not a wait for something
	}
	c.mu.Lock()
	result, failure := c.act(action, form)
	c.mu.Unlock()
	if call == "CreateSnapshots" {
		time.Sleep(c.Latency / 2)
	}
	if faulty && fault.Kind == hypervisortest.Lose {
		hypervisortest.HangUp(w)
		return
	}
	write(w, action, result, failure)
}

// dated is what the API's answers say of the time.
func (c *Cloud) dated(w http.ResponseWriter) {
	w.Header().Set("Date", time.Now().Add(c.Skew).UTC().Format(http.TimeFormat))
}

func write(w http.ResponseWriter, action string, result any, failure *apiError) {
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	if failure != nil {
		w.WriteHeader(failure.status)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>%s</Code><Message>`, failure.code)
		_ = xml.EscapeText(w, []byte(failure.message))
		_, _ = io.WriteString(w, `</Message></Error></Errors><RequestID>5e3f5b1c-0000-4000-8000-1a2b3c4d5e6f</RequestID></Response>`)
		return
	}
	_, _ = io.WriteString(w, xml.Header)
	encoder := xml.NewEncoder(w)
	start := xml.StartElement{Name: xml.Name{Local: action + "Response"}, Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: "http://ec2.amazonaws.com/doc/2016-11-15/"}}}
	_ = encoder.EncodeElement(result, start)
	_ = encoder.Flush()
}

type tag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

func tagSet(tags map[string]string) []tag {
	var list []tag
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, tag{k, tags[k]})
	}
	return list
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// settle lets states pass that last for a while.
func (c *Cloud) settle() {
	now := time.Now()
	for _, i := range c.instances {
		if i.until.IsZero() || now.Before(i.until) {
			continue
		}
		switch i.state {
		case "stopping":
			i.state = "stopped"
		case "pending":
			i.state = "running"
		}
		i.until = time.Time{}
	}
	for id, s := range c.snapshots {
		if s.deleted && s.item().Status != "pending" {
			delete(c.snapshots, id)
		}
	}
}

func (c *Cloud) act(action string, form url.Values) (any, *apiError) {
	c.settle()
	if form.Get("DryRun") == "true" {
		return nil, &apiError{code: "DryRunOperation", message: "Request would have succeeded, but DryRun flag is set.", status: http.StatusPreconditionFailed}
	}
	switch action {
	case "DescribeInstances":
		return c.describeInstances(form)
	case "DescribeInstanceTypes":
		return c.describeInstanceTypes(form)
	case "DescribeVolumes":
		return c.describeVolumes(form)
	case "DescribeSnapshots":
		return c.describeSnapshots(form)
	case "CreateSnapshots":
		return c.createSnapshots(form)
	case "DeleteSnapshot":
		s := c.snapshots[form.Get("SnapshotId")]
		if s == nil {
			return nil, refuse("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", form.Get("SnapshotId"))
		}
		if s.deleted = true; s.item().Status != "pending" {
			delete(c.snapshots, s.id)
		}
		return ok{Return: true}, nil
	case "CreateVolume":
		return c.createVolume(form)
	case "DeleteVolume":
		v := c.volumes[form.Get("VolumeId")]
		switch {
		case v == nil:
			return nil, refuse("InvalidVolume.NotFound", "The volume '%s' does not exist.", form.Get("VolumeId"))
		case c.holder(v.id) != nil:
			return nil, refuse("VolumeInUse", "Volume %s is currently attached", v.id)
		}
		delete(c.volumes, v.id)
		return ok{Return: true}, nil
	case "CreateTags":
		for _, id := range list(form, "ResourceId") {
			tags := c.tagsOf(id)
			if tags == nil {
				return nil, refuse("InvalidID", "The ID '%s' is not valid", id)
			}
			maps.Copy(*tags, tagsIn(form, ""))
		}
		return ok{Return: true}, nil
	case "DetachVolume":
		return c.detachVolume(form)
	case "AttachVolume":
		return c.attachVolume(form)
	case "ModifyInstanceAttribute":
		i := c.instances[form.Get("InstanceId")]
		if i == nil {
			return nil, refuse("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", form.Get("InstanceId"))
		}
		a := i.devices[form.Get("BlockDeviceMapping.1.DeviceName")]
		if a == nil {
			return nil, refuse("InvalidInstanceAttributeValue", "No device is currently mapped at %s", form.Get("BlockDeviceMapping.1.DeviceName"))
		}
		a.delete = form.Get("BlockDeviceMapping.1.Ebs.DeleteOnTermination") == "true"
		return ok{Return: true}, nil
	case "StartInstances", "StopInstances":
		return c.power(action, form)
	}
	return nil, refuse("InvalidAction", "The action %s is not valid for this web service.", action)
}

type ok struct {
	Return bool `xml:"return"`
}

// list of a form's values Name.1, Name.2.
func list(form url.Values, name string) []string {
	var values []string
	for n := 1; form.Has(fmt.Sprintf("%s.%d", name, n)); n++ {
		values = append(values, form.Get(fmt.Sprintf("%s.%d", name, n)))
	}
	return values
}

func tagsIn(form url.Values, prefix string) map[string]string {
	tags := map[string]string{}
	for n := 1; form.Has(fmt.Sprintf("%sTag.%d.Key", prefix, n)); n++ {
		tags[form.Get(fmt.Sprintf("%sTag.%d.Key", prefix, n))] = form.Get(fmt.Sprintf("%sTag.%d.Value", prefix, n))
	}
	return tags
}

func (c *Cloud) tagsOf(id string) *map[string]string {
	if v := c.volumes[id]; v != nil {
		return &v.tags
	}
	if s := c.snapshots[id]; s != nil {
		return &s.tags
	}
	return nil
}

// match tells whether the request's filters hold. Values may have the wildcards * and ?, with \ before those that are meant.
func match(form url.Values, values func(name string) []string) bool {
	for n := 1; form.Has(fmt.Sprintf("Filter.%d.Name", n)); n++ {
		wanted := list(form, fmt.Sprintf("Filter.%d.Value", n))
		found := false
		for _, have := range values(form.Get(fmt.Sprintf("Filter.%d.Name", n))) {
			for _, w := range wanted {
				// path.Match stops at slashes and knows classes; the double's values may have slashes.
				fit, _ := path.Match(strings.NewReplacer("/", "|", "[", `\[`).Replace(w), strings.ReplaceAll(have, "/", "|"))
				found = found || fit
			}
		}
		if !found {
			return false
		}
	}
	return true
}

func tagValue(tags map[string]string, name string) ([]string, bool) {
	key, isTag := strings.CutPrefix(name, "tag:")
	if !isTag {
		return nil, false
	}
	if v, has := tags[key]; has {
		return []string{v}, true
	}
	return nil, true
}

// page returns a part of a list and the token of the next.
func page[T any](c *Cloud, form url.Values, all []T) ([]T, string) {
	from, _ := strconv.Atoi(form.Get("NextToken"))
	size := c.PageSize
	if n, err := strconv.Atoi(form.Get("MaxResults")); err == nil && n < size {
		size = n
	}
	from = min(from, len(all))
	to := min(from+size, len(all))
	if to == len(all) {
		return all[from:to], ""
	}
	return all[from:to], strconv.Itoa(to)
}

type instanceItem struct {
	ID      string       `xml:"instanceId"`
	Kind    string       `xml:"instanceType"`
	State   string       `xml:"instanceState>name"`
	Launch  string       `xml:"launchTime"`
	Zone    string       `xml:"placement>availabilityZone"`
	Root    string       `xml:"rootDeviceName"`
	Type    string       `xml:"rootDeviceType"`
	Devices []deviceItem `xml:"blockDeviceMapping>item"`
}

type deviceItem struct {
	Device string `xml:"deviceName"`
	Volume string `xml:"ebs>volumeId"`
	Status string `xml:"ebs>status"`
	At     string `xml:"ebs>attachTime"`
	Delete bool   `xml:"ebs>deleteOnTermination"`
}

type reservationItem struct {
	Instances []instanceItem `xml:"instancesSet>item"`
}

func (a *attachment) state() string {
	if time.Now().Before(a.ready) {
		return "attaching"
	}
	return "attached"
}

func (c *Cloud) describeInstances(form url.Values) (any, *apiError) {
	ids := list(form, "InstanceId")
	for _, id := range ids {
		if !strings.HasPrefix(id, "i-") {
			return nil, refuse("InvalidInstanceID.Malformed", "Invalid id: \"%s\"", id)
		}
		if c.instances[id] == nil {
			return nil, refuse("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
	}
	var found []reservationItem
	for _, id := range slices.Sorted(maps.Keys(c.instances)) {
		i := c.instances[id]
		if len(ids) > 0 && !slices.Contains(ids, id) || !match(form, func(name string) []string { return map[string][]string{"instance-id": {id}}[name] }) {
			continue
		}
		item := instanceItem{ID: id, Kind: i.kind, State: i.state, Launch: stamp(i.launch), Zone: "eu-central-1a", Root: i.root, Type: "ebs"}
		if i.root == "" {
			item.Type = "instance-store"
		}
		hidden := ""
		if i.late > 0 {
			i.late--
			hidden = i.last
		}
		for _, d := range slices.Sorted(maps.Keys(i.devices)) {
			if d == hidden {
				continue
			}
			a := i.devices[d]
			item.Devices = append(item.Devices, deviceItem{Device: d, Volume: a.volume, Status: a.state(), At: stamp(a.at), Delete: a.delete})
		}
		found = append(found, reservationItem{Instances: []instanceItem{item}})
	}
	items, next := page(c, form, found)
	return struct {
		Items []reservationItem `xml:"reservationSet>item"`
		Next  string            `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

func (c *Cloud) describeInstanceTypes(form url.Values) (any, *apiError) {
	type item struct {
		Kind  string `xml:"instanceType"`
		Store bool   `xml:"instanceStorageSupported"`
	}
	var items []item
	for _, kind := range list(form, "InstanceType") {
		items = append(items, item{kind, c.Stores[kind]})
	}
	return struct {
		Items []item `xml:"instanceTypeSet>item"`
	}{items}, nil
}

type attachmentItem struct {
	Volume   string `xml:"volumeId"`
	Instance string `xml:"instanceId"`
	Device   string `xml:"device"`
	Status   string `xml:"status"`
	At       string `xml:"attachTime"`
	Delete   bool   `xml:"deleteOnTermination"`
}

type volumeItem struct {
	ID          string           `xml:"volumeId"`
	Size        int              `xml:"size"`
	Snapshot    string           `xml:"snapshotId"`
	Zone        string           `xml:"availabilityZone"`
	Status      string           `xml:"status"`
	Kind        string           `xml:"volumeType"`
	Iops        int              `xml:"iops"`
	Throughput  int              `xml:"throughput"`
	Multi       bool             `xml:"multiAttachEnabled"`
	Tags        []tag            `xml:"tagSet>item"`
	Attachments []attachmentItem `xml:"attachmentSet>item"`
}

// holder is the instance that has a volume.
func (c *Cloud) holder(id string) *attachmentItem {
	for _, i := range c.instances {
		for d, a := range i.devices {
			if a.volume == id {
				return &attachmentItem{Volume: id, Instance: i.id, Device: d, Status: a.state(), At: stamp(a.at), Delete: a.delete}
			}
		}
	}
	return nil
}

func (c *Cloud) item(v *volume) volumeItem {
	item := volumeItem{
		ID: v.id, Size: v.size, Snapshot: v.snapshot, Zone: "eu-central-1a", Status: "available", Kind: v.kind, Iops: v.iops, Throughput: v.throughput, Multi: v.multi, Tags: tagSet(v.tags),
	}
	if h := c.holder(v.id); h != nil {
		item.Status, item.Attachments = "in-use", []attachmentItem{*h}
		if v.also != "" {
			other := *h
			other.Instance = v.also
			item.Attachments = append(item.Attachments, other)
		}
	} else if time.Now().Before(v.ready) {
		item.Status = "creating"
	} else if v.broken {
		item.Status = "error"
	} else if time.Now().Before(v.detached) {
		item.Status = "in-use"
	}
	return item
}

func (c *Cloud) describeVolumes(form url.Values) (any, *apiError) {
	ids := list(form, "VolumeId")
	for _, id := range ids {
		if c.volumes[id] == nil {
			return nil, refuse("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
		}
	}
	var found []volumeItem
	for _, id := range slices.Sorted(maps.Keys(c.volumes)) {
		item := c.item(c.volumes[id])
		if len(ids) > 0 && !slices.Contains(ids, id) || len(ids) == 0 && c.volumes[id].unlisted {
			continue
		}
		if match(form, func(name string) []string {
			if values, isTag := tagValue(c.volumes[id].tags, name); isTag {
				return values
			}
			switch name {
			case "status":
				return []string{item.Status}
			case "attachment.instance-id":
				if len(item.Attachments) > 0 {
					return []string{item.Attachments[0].Instance}
				}
			}
			return nil
		}) {
			found = append(found, item)
		}
	}
	items, next := page(c, form, found)
	return struct {
		Items []volumeItem `xml:"volumeSet>item"`
		Next  string       `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

type snapshotItem struct {
	ID       string `xml:"snapshotId"`
	Volume   string `xml:"volumeId"`
	Size     int    `xml:"volumeSize"`
	Status   string `xml:"status"` // DescribeSnapshots
	State    string `xml:"state"`  // CreateSnapshots
	Progress string `xml:"progress"`
	Tier     string `xml:"storageTier"`
	Start    string `xml:"startTime"`
	Text     string `xml:"description"`
	Secret   bool   `xml:"encrypted"`
	Tags     []tag  `xml:"tagSet>item"`
}

func (s *snapshot) item() snapshotItem {
	item := snapshotItem{ID: s.id, Volume: s.volume, Size: s.size, Status: "pending", Tier: "standard", Start: stamp(s.start), Text: s.text, Secret: s.encrypted, Tags: tagSet(s.tags)}
	if s.archived {
		item.Tier = "archive"
	}
	if !s.complete.IsZero() && !time.Now().Before(s.complete) {
		item.Status, item.Progress = "completed", "100%"
		if s.failed {
			item.Status = "error"
		}
	}
	item.State = item.Status
	return item
}

func (c *Cloud) describeSnapshots(form url.Values) (any, *apiError) {
	var found []snapshotItem
	for _, id := range slices.Sorted(maps.Keys(c.snapshots)) {
		s := c.snapshots[id]
		item := s.item()
		if s.hidden > 0 {
			s.hidden--
			continue
		}
		if match(form, func(name string) []string {
			if values, isTag := tagValue(s.tags, name); isTag {
				return values
			}
			return map[string][]string{"status": {item.Status}, "volume-id": {item.Volume}}[name]
		}) {
			found = append(found, item)
		}
	}
	items, next := page(c, form, found)
	return struct {
		Items []snapshotItem `xml:"snapshotSet>item"`
		Next  string         `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

func (c *Cloud) createSnapshots(form url.Values) (any, *apiError) {
	i := c.instances[form.Get("InstanceSpecification.InstanceId")]
	if i == nil {
		return nil, refuse("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", form.Get("InstanceSpecification.InstanceId"))
	}
	tags := tagsIn(form, "TagSpecification.1.")
	if len(tags) > 50 {
		return nil, refuse("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
	}
	for _, a := range i.devices {
		pending := 0
		for _, s := range c.snapshots {
			if s.volume != a.volume {
				continue
			}
			if s.item().Status == "pending" {
				pending++
			}
			if time.Since(s.start.Add(-c.Skew)) < c.Spacing {
				return nil, refuse("SnapshotCreationPerVolumeRateExceeded", "The maximum per volume CreateSnapshot request rate has been exceeded. Use an increasing or variable sleep interval between requests.")
			}
		}
		if pending >= 5 {
			return nil, refuse("ConcurrentSnapshotLimitExceeded", "Maximum allowed in-progress snapshots for a single volume exceeded.")
		}
	}
	var items []snapshotItem
	start := c.now()
	for _, d := range slices.Sorted(maps.Keys(i.devices)) {
		v := c.volumes[i.devices[d].volume]
		s := &snapshot{id: c.id("snap"), volume: v.id, size: v.size, content: v.content, start: start, hidden: c.Hidden, encrypted: c.Encrypted, text: form.Get("Description"), tags: maps.Clone(tags)}
		if c.Copying >= 0 {
			s.complete = time.Now().Add(c.Copying)
		}
		c.snapshots[s.id] = s
		item := s.item()
		item.State, item.Status = "pending", "pending"
		items = append(items, item)
	}
	return struct {
		Items []snapshotItem `xml:"snapshotSet>item"`
	}{items}, nil
}

func (c *Cloud) createVolume(form url.Values) (any, *apiError) {
	s := c.snapshots[form.Get("SnapshotId")]
	if s == nil {
		return nil, refuse("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", form.Get("SnapshotId"))
	}
	if s.item().Status != "completed" || s.archived {
		return nil, refuse("IncorrectState", "Snapshot %s is not completed, or archived", s.id)
	}
	token := form.Get("ClientToken")
	if token == "" || len(token) > 64 {
		return nil, refuse("InvalidParameterValue", "Value (%s) for parameter ClientToken is invalid.", token)
	}
	sum := sha256.Sum256([]byte(form.Encode()))
	params := hex.EncodeToString(sum[:])
	if id, known := c.tokens[token]; known {
		if c.params[token] != params {
			return nil, refuse("IdempotentParameterMismatch", "The client token was already used with other parameters.")
		}
		if v := c.volumes[id]; v != nil {
			return c.item(v), nil
		}
		return volumeItem{ID: id, Status: "deleted"}, nil
	}
	v := &volume{id: c.id("vol"), snapshot: s.id, kind: form.Get("VolumeType"), size: s.size, content: s.content, ready: time.Now().Add(c.Slow), tags: tagsIn(form, "TagSpecification.1.")}
	v.iops, _ = strconv.Atoi(form.Get("Iops"))
	v.throughput, _ = strconv.Atoi(form.Get("Throughput"))
	if c.Broken > 0 {
		c.Broken--
		v.broken = true
	}
	c.volumes[v.id], c.tokens[token], c.params[token] = v, v.id, params
	return c.item(v), nil
}

func (c *Cloud) detachVolume(form url.Values) (any, *apiError) {
	id := form.Get("VolumeId")
	h := c.holder(id)
	if c.volumes[id] == nil {
		return nil, refuse("InvalidVolume.NotFound", "The volume '%s' does not exist.", id)
	}
	if h == nil {
		return nil, refuse("IncorrectState", "Volume '%s' is in the 'available' state.", id)
	}
	i := c.instances[h.Instance]
	if i.state != "stopped" && h.Device == i.root {
		return nil, refuse("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s'", id, i.id)
	}
	delete(i.devices, h.Device)
	c.volumes[id].detached = time.Now().Add(c.Slow)
	h.Status = "detaching"
	return h, nil
}

func (c *Cloud) attachVolume(form url.Values) (any, *apiError) {
	v, i, device := c.volumes[form.Get("VolumeId")], c.instances[form.Get("InstanceId")], form.Get("Device")
	switch {
	case v == nil:
		return nil, refuse("InvalidVolume.NotFound", "The volume '%s' does not exist.", form.Get("VolumeId"))
	case i == nil:
		return nil, refuse("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", form.Get("InstanceId"))
	case c.holder(v.id) != nil:
		return nil, refuse("VolumeInUse", "%s is already attached to an instance", v.id)
	case c.item(v).Status != "available":
		return nil, refuse("IncorrectState", "%s is not 'available'.", v.id)
	case i.devices[device] != nil:
		return nil, refuse("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", device, device)
	}
	i.devices[device] = &attachment{volume: v.id, at: c.now(), ready: time.Now().Add(c.Slow)}
	i.late, i.last = c.Late, device
	return c.holder(v.id), nil
}

func (c *Cloud) power(action string, form url.Values) (any, *apiError) {
	type item struct {
		ID    string `xml:"instanceId"`
		State string `xml:"currentState>name"`
	}
	var items []item
	for _, id := range list(form, "InstanceId") {
		i := c.instances[id]
		if i == nil {
			return nil, refuse("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
		switch {
		case action == "StartInstances" && i.state == "stopping":
			return nil, refuse("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be started.", id)
		case action == "StartInstances" && i.state == "stopped":
			i.state, i.until, i.launch = "pending", time.Now().Add(c.Slow), c.now()
		case action == "StopInstances" && (i.state == "running" || i.state == "pending"):
			i.state, i.until = "stopping", time.Now().Add(c.Slow)
		}
		items = append(items, item{id, i.state})
	}
	return struct {
		Items []item `xml:"instancesSet>item"`
	}{items}, nil
}
