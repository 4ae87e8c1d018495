// Package openstacktest is a double of an OpenStack cloud: one HTTP server with the calls of Keystone, Nova, Cinder and Glance that snapshots need, with pages, tokens that end, lost
// answers, states that take a while, quotas, and errors in the services' words.
package openstacktest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

// The account and the application credential that the double knows.
const (
	User, Password, Project        = "katoflow", "kennwort", "platform"
	CredentialID, CredentialSecret = "21dced0fd20347869b93710d2b98aae0", "geheimnis"
	project                        = "6ee0b7f0a3e6418d9ba7d8c5c7bd6a20"
)

// Call is a request that arrived.
type Call struct{ Name, From string }

// Cloud is the double. Its fields may be changed before the first request. The Call of a fault is the method and the resource or action, such as "POST snapshots", "GET servers", "revert", "createImage".
type Cloud struct {
	hypervisortest.Double
	// PageSize of lists (default 1000).
	PageSize int
	// Creating is how long a volume snapshot is creating, and an image queued: its moment is at the end of it. Negative: until Made.
	Creating time.Duration
	// Saving is how long an image is saved after that. Negative: until Saved.
	Saving time.Duration
	// Slow is how long other things take.
	Slow time.Duration
	// Token is how long a token lives (default an hour).
	Token time.Duration
	// MayReset lets the account set the status of volumes.
	MayReset bool
	// Snapshots, Gigabytes and Images are quotas, -1 for none (default).
	Snapshots, Gigabytes, Images int

	mu        sync.Mutex
	tokens    map[string]time.Time
	servers   map[string]*server
	volumes   map[string]*volume
	snapshots map[string]*snapshot
	images    map[string]*image
	calls     []Call
}

type server struct {
	id, name, status, task string
	then                   func(*server) // what the task ends in
	at                     time.Time
	image, root            string // root is the content of the disk
	ephemeral              int
	devices                map[string]string // device -> volume
}

type volume struct {
	id, status, then string
	at               time.Time
	size             int
	multi            bool
	content          string
}

type snapshot struct {
	id, name, volume, status string
	made                     time.Time
	captured                 bool
	created                  time.Time
	size                     int
	content                  string
	meta                     map[string]string
}

type image struct {
	id, name, status, server string
	made, saved              time.Time
	captured                 bool
	created                  time.Time
	content                  string
	meta                     map[string]string
}

// New starts a double without servers.
func New() *Cloud {
	c := &Cloud{
		PageSize: 1000, Token: time.Hour, MayReset: true, Snapshots: -1, Gigabytes: -1, Images: -1, tokens: map[string]time.Time{}, servers: map[string]*server{}, volumes: map[string]*volume{},
		snapshots: map[string]*snapshot{}, images: map[string]*image{},
	}
	c.Start(c.serve)
	return c
}

// URL of Keystone.
func (c *Cloud) URL() string { return c.Double.URL() + "/identity/v3" }

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:]
}

// now in what the services tell, microseconds.
func (c *Cloud) now() time.Time { return c.Now(time.Microsecond) }

// Server adds a running server and returns its id: with a root disk of an image, or from its first volume, and a volume of 10 GiB at each device.
func (c *Cloud) Server(name string, fromImage bool, devices ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &server{id: newID(), name: name, status: "ACTIVE", devices: map[string]string{}}
	if fromImage {
		s.image = newID()
	}
	for _, d := range devices {
		v := &volume{id: newID(), status: "in-use", size: 10}
		c.volumes[v.id] = v
		s.devices[d] = v.id
	}
	c.servers[s.id] = s
	return s.id
}

// Change a server or the volume at its device; "" for none.
func (c *Cloud) Change(id, device string, change map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[id]
	for key, value := range change {
		switch key {
		case "status":
			s.status = value.(string)
		case "task":
			s.task = value.(string)
		case "ephemeral":
			s.ephemeral = value.(int)
		case "volume status":
			c.volumes[s.devices[device]].status = value.(string)
		case "multiattach":
			c.volumes[s.devices[device]].multi = value.(bool)
		case "size":
			c.volumes[s.devices[device]].size = value.(int)
		}
	}
}

// Remove takes a server away.
func (c *Cloud) Remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.servers, id)
}

// Write has the guest write to a disk: the volume at a device, or the root disk of an image, "".
func (c *Cloud) Write(id, device, content string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	if s := c.servers[id]; device == "" {
		s.root = content
	} else {
		c.volumes[s.devices[device]].content = content
	}
}

// Content of a disk, "" where there is none.
func (c *Cloud) Content(id, device string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	s := c.servers[id]
	if device == "" {
		return s.root
	}
	if v := c.volumes[s.devices[device]]; v != nil {
		return v.content
	}
	return ""
}

// Status of a server.
func (c *Cloud) Status(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	return c.servers[id].status
}

// VolumeStatus of the volume at a device, "" where there is none.
func (c *Cloud) VolumeStatus(id, device string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	if v := c.volumes[c.servers[id].devices[device]]; v != nil {
		return v.status
	}
	return ""
}

// Made ends the creating of all snapshots and images, Saved the saving, Fail both in an error.
func (c *Cloud) Made() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.snapshots {
		s.made = time.Now()
	}
	for _, i := range c.images {
		i.made = time.Now()
		if c.Saving >= 0 {
			i.saved = i.made.Add(c.Saving)
		}
	}
	c.settle()
}

// Saved ends the saving of all images.
func (c *Cloud) Saved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.images {
		i.saved = time.Now()
	}
}

// Fail has all snapshots end in an error.
func (c *Cloud) Fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.snapshots {
		s.status, s.captured = "error", true
	}
}

// Count of the snapshots and images there are.
func (c *Cloud) Count() (snapshots, images int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	return len(c.snapshots), len(c.images)
}

// EndTokens lets no token count any more.
func (c *Cloud) EndTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

// SetSaving changes Saving while the double runs.
func (c *Cloud) SetSaving(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Saving = d
}

// SetQuota changes the quota of volume snapshots while the double runs.
func (c *Cloud) SetQuota(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Snapshots = n
}

// Begin adds a snapshot of somebody else, of the volume at a server's device, that is creating, and returns what takes it away.
func (c *Cloud) Begin(id, device string) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &snapshot{id: newID(), name: "somebody's", volume: c.servers[id].devices[device], status: "creating", created: c.now(), size: 10}
	c.snapshots[s.id] = s
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.snapshots, s.id)
	}
}

// Calls returns the requests of a name so far, "" for all.
func (c *Cloud) Calls(name string) []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	var calls []Call
	for _, x := range c.calls {
		if name == "" || x.Name == name {
			calls = append(calls, x)
		}
	}
	return calls
}

// settle lets states pass that last for a while.
func (c *Cloud) settle() {
	now := time.Now()
	for _, s := range c.servers {
		if s.then != nil && !now.Before(s.at) {
			then := s.then
			s.then, s.task = nil, ""
			then(s)
		}
	}
	for _, v := range c.volumes {
		if v.then != "" && !now.Before(v.at) {
			v.status, v.then = v.then, ""
		}
	}
	for id, s := range c.snapshots {
		if s.status == "deleting" && !now.Before(s.made) {
			delete(c.snapshots, id)
			continue
		}
		if !s.captured && !s.made.IsZero() && !now.Before(s.made) {
			s.captured, s.status = true, "available"
			s.content = c.volumes[s.volume].content
		}
	}
	for _, i := range c.images {
		if !i.captured && !i.made.IsZero() && !now.Before(i.made) {
			i.captured, i.status = true, "saving"
			if s := c.servers[i.server]; s != nil {
				i.content = s.root
				s.task = ""
			}
		}
		if i.captured && i.status == "saving" && !i.saved.IsZero() && !now.Before(i.saved) {
			i.status = "active"
		}
	}
}

type answer struct {
	status int
	body   any
	header map[string]string
}

func refuse(status int, kind, format string, args ...any) answer {
	return answer{status: status, body: map[string]any{kind: map[string]any{"code": status, "message": fmt.Sprintf(format, args...)}}}
}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	name := nameOf(r, body)
	c.mu.Lock()
	c.calls = append(c.calls, Call{Name: name, From: r.RemoteAddr})
	c.mu.Unlock()
	fault, faulty := c.Meet(name)
	if faulty && fault.Kind == hypervisortest.Unheard {
		hypervisortest.HangUp(w)
		return
	}
	var a answer
	if faulty && fault.Kind == hypervisortest.Refuse {
		a = refuse(fault.Status, "computeFault", "The request was refused.")
	} else {
		c.mu.Lock()
		c.settle()
		a = c.act(r, body)
		c.settle()
		c.mu.Unlock()
	}
	if faulty && fault.Kind == hypervisortest.Lose {
		hypervisortest.HangUp(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body)
	}
}

// nameOf a request: an action by its own, anything else by its method and resource.
func nameOf(r *http.Request, body []byte) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if r.URL.Path == "/" {
		return "versions"
	}
	if parts[len(parts)-1] == "action" {
		var action map[string]any
		_ = json.Unmarshal(body, &action)
		for name := range action {
			return name
		}
	}
	for _, resource := range []string{"os-volume_attachments", "auth", "servers", "snapshots", "volumes", "images", "limits", "info", "flavors"} {
		if slices.Contains(parts, resource) {
			return r.Method + " " + resource
		}
	}
	return r.Method + " " + r.URL.Path
}

func (c *Cloud) act(r *http.Request, body []byte) answer {
	var in map[string]any
	_ = json.Unmarshal(body, &in)
	service, path, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	parts := strings.Split(path, "/")
	version := func(id, path string) answer {
		return answer{status: 200, body: map[string]any{"versions": []any{map[string]any{
			"id": id, "status": "CURRENT", "links": []any{map[string]any{"rel": "self", "href": c.Double.URL() + path}},
		}}}}
	}
	switch {
	case service == "":
		return answer{status: 300, body: map[string]any{"versions": []any{}}}
	case service == "identity" && strings.HasSuffix(path, "auth/tokens") && r.Method == http.MethodPost:
		return c.authenticate(in)
	case service == "identity":
		return version("v3.14", "/identity/v3/")
	case len(parts) <= 1 && service == "compute":
		return version("v2.1", "/compute/v2.1/")
	case len(parts) <= 1 && service == "volume":
		return version("v3.0", "/volume/v3/")
	case len(parts) <= 1 && service == "image":
		return version("v2.15", "/image/v2/")
	}
	if ends, ok := c.tokens[r.Header.Get("X-Auth-Token")]; !ok || time.Now().After(ends) {
		return refuse(401, "error", "The request you have made requires authentication.")
	}
	parts = parts[1:] // the version
	switch service {
	case "compute":
		return c.nova(r, parts, in)
	case "volume":
		if len(parts) < 2 || parts[0] != project {
			return refuse(400, "badRequest", "Malformed request url")
		}
		return c.cinder(r, parts[1:], in)
	case "image":
		return c.glance(r, parts)
	}
	return refuse(404, "itemNotFound", "The resource could not be found.")
}

func dig(in any, keys ...string) string {
	for _, k := range keys {
		m, _ := in.(map[string]any)
		in = m[k]
	}
	s, _ := in.(string)
	return s
}

func (c *Cloud) authenticate(in map[string]any) answer {
	identity, _ := in["auth"].(map[string]any)
	user := dig(identity, "identity", "password", "user", "name") == User && dig(identity, "identity", "password", "user", "password") == Password &&
		dig(identity, "identity", "password", "user", "domain", "name") == "Default" && dig(identity, "scope", "project", "name") == Project
	credential := dig(identity, "identity", "application_credential", "id") == CredentialID && dig(identity, "identity", "application_credential", "secret") == CredentialSecret
	if !user && !credential {
		return refuse(401, "error", "The request you have made requires authentication.")
	}
	token := rand.Text()
	ends := time.Now().Add(c.Token)
	c.tokens[token] = ends
	service := func(kind, name, path string) map[string]any {
		return map[string]any{"type": kind, "name": name, "id": name, "endpoints": []any{map[string]any{
			"id": name, "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": c.Double.URL() + path,
		}}}
	}
	return answer{status: 201, header: map[string]string{"X-Subject-Token": token}, body: map[string]any{"token": map[string]any{
		"expires_at": ends.UTC().Format("2006-01-02T15:04:05.000000Z"), "issued_at": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), "methods": []string{"password"},
		"project": map[string]any{"id": project, "name": Project}, "user": map[string]any{"id": "u", "name": User},
		"catalog": []any{
			service("identity", "keystone", "/identity/v3"), service("compute", "nova", "/compute/v2.1"), service("block-storage", "cinder", "/volume/v3/"+project),
			service("volumev3", "cinderv3", "/volume/v3/"+project), service("image", "glance", "/image"),
		},
	}}}
}

func (c *Cloud) serverBody(s *server) map[string]any {
	attached := []any{}
	for _, d := range slices.Sorted(maps.Keys(s.devices)) {
		attached = append(attached, map[string]any{"id": s.devices[d]})
	}
	body := map[string]any{
		"id": s.id, "name": s.name, "status": s.status, "OS-EXT-STS:task_state": nil, "image": "", "flavor": map[string]any{"id": "flavor-of-" + s.id},
		"os-extended-volumes:volumes_attached": attached,
	}
	if s.task != "" {
		body["OS-EXT-STS:task_state"] = s.task
	}
	if s.image != "" {
		body["image"] = map[string]any{"id": s.image}
	}
	return body
}

// page of a sorted list, and the marker of the next; "" for the last.
func page[T any](c *Cloud, query url.Values, all []T, id func(T) string) ([]T, string) {
	from := 0
	if marker := query.Get("marker"); marker != "" {
		from = slices.IndexFunc(all, func(x T) bool { return id(x) == marker }) + 1
	}
	to := min(from+c.PageSize, len(all))
	if to == len(all) || to == 0 {
		return all[from:to], ""
	}
	return all[from:to], id(all[to-1])
}

func (c *Cloud) nextURL(r *http.Request, marker string) string {
	u := *r.URL
	query := u.Query()
	query.Set("marker", marker)
	u.RawQuery = query.Encode()
	return c.Double.URL() + u.String()
}

func (c *Cloud) nova(r *http.Request, parts []string, in map[string]any) answer {
	if parts[0] == "flavors" && len(parts) == 2 {
		s := c.servers[strings.TrimPrefix(parts[1], "flavor-of-")]
		if s == nil {
			return refuse(404, "itemNotFound", "Flavor %s could not be found.", parts[1])
		}
		return answer{status: 200, body: map[string]any{"flavor": map[string]any{"id": parts[1], "OS-FLV-EXT-DATA:ephemeral": s.ephemeral, "swap": ""}}}
	}
	if parts[0] != "servers" || len(parts) < 2 {
		return refuse(404, "itemNotFound", "The resource could not be found.")
	}
	if parts[1] == "detail" {
		var all []*server
		for _, id := range slices.Sorted(maps.Keys(c.servers)) {
			if strings.Contains(c.servers[id].name, r.URL.Query().Get("name")) {
				all = append(all, c.servers[id])
			}
		}
		some, marker := page(c, r.URL.Query(), all, func(s *server) string { return s.id })
		body := map[string]any{"servers": []any{}}
		for _, s := range some {
			body["servers"] = append(body["servers"].([]any), c.serverBody(s))
		}
		if marker != "" {
			body["servers_links"] = []any{map[string]any{"rel": "next", "href": c.nextURL(r, marker)}}
		}
		return answer{status: 200, body: body}
	}
	s := c.servers[parts[1]]
	if s == nil {
		return refuse(404, "itemNotFound", "Instance %s could not be found.", parts[1])
	}
	switch {
	case len(parts) == 2 && r.Method == http.MethodGet:
		return answer{status: 200, body: map[string]any{"server": c.serverBody(s)}}
	case parts[2] == "os-volume_attachments":
		return c.attachments(r, s, parts[3:], in)
	case parts[2] == "action":
		return c.action(s, in)
	}
	return refuse(404, "itemNotFound", "The resource could not be found.")
}

func (c *Cloud) root(s *server) string {
	if s.image != "" || len(s.devices) == 0 {
		return ""
	}
	return slices.Min(slices.Collect(maps.Keys(s.devices)))
}

func (c *Cloud) attachments(r *http.Request, s *server, parts []string, in map[string]any) answer {
	item := func(d string) map[string]any {
		return map[string]any{"id": s.devices[d], "volumeId": s.devices[d], "serverId": s.id, "device": d}
	}
	switch r.Method {
	case http.MethodGet:
		list := []any{}
		for _, d := range slices.Sorted(maps.Keys(s.devices)) {
			list = append(list, item(d))
		}
		return answer{status: 200, body: map[string]any{"volumeAttachments": list}}
	case http.MethodPost:
		id, device := dig(in, "volumeAttachment", "volumeId"), dig(in, "volumeAttachment", "device")
		v := c.volumes[id]
		switch {
		case v == nil:
			return refuse(404, "itemNotFound", "Volume %s could not be found.", id)
		case v.status != "available":
			return refuse(400, "badRequest", "Invalid volume: volume %s status must be 'available'. Currently in '%s'", id, v.status)
		case s.devices[device] != "":
			return refuse(409, "conflictingRequest", "The supplied device path (%s) is in use.", device)
		}
		s.devices[device] = id
		v.status, v.then, v.at = "attaching", "in-use", time.Now().Add(c.Slow)
		return answer{status: 200, body: map[string]any{"volumeAttachment": item(device)}}
	case http.MethodDelete:
		for d, id := range s.devices {
			if len(parts) == 0 || id != parts[0] {
				continue
			}
			if d == c.root(s) {
				return refuse(403, "forbidden", "Cannot detach a root device volume")
			}
			delete(s.devices, d)
			v := c.volumes[id]
			v.status, v.then, v.at = "detaching", "available", time.Now().Add(c.Slow)
			return answer{status: 202}
		}
		return refuse(404, "itemNotFound", "volume_id not found")
	}
	return refuse(405, "badMethod", "The method is not allowed")
}

func (c *Cloud) action(s *server, in map[string]any) answer {
	conflict := func(what string) answer {
		return refuse(409, "conflictingRequest", "Cannot '%s' instance %s while it is in vm_state %s, task_state %s", what, s.id, s.status, s.task)
	}
	later := func(task string, then func(*server)) {
		s.task, s.then, s.at = task, then, time.Now().Add(c.Slow)
	}
	for name, body := range in {
		switch name {
		case "os-start":
			if s.status != "SHUTOFF" || s.task != "" {
				return conflict("start")
			}
			later("powering-on", func(s *server) { s.status = "ACTIVE" })
			return answer{status: 202}
		case "os-stop":
			if s.status != "ACTIVE" || s.task != "" {
				return conflict("stop")
			}
			later("powering-off", func(s *server) { s.status = "SHUTOFF" })
			return answer{status: 202}
		case "createImage":
			if s.task != "" {
				return conflict("createImage")
			}
			if c.Images >= 0 && len(c.images) >= c.Images {
				return refuse(403, "forbidden", "Quota exceeded, too many images")
			}
			i := &image{id: newID(), name: dig(body, "name"), status: "queued", server: s.id, created: c.now(), meta: strings2(body, "metadata")}
			if c.Creating >= 0 {
				i.made = time.Now().Add(c.Creating)
				if c.Saving >= 0 {
					i.saved = i.made.Add(c.Saving)
				}
			}
			c.images[i.id] = i
			s.task = "image_snapshot"
			return answer{status: 202, header: map[string]string{"Location": c.Double.URL() + "/image/v2/images/" + i.id}}
		case "rebuild":
			if s.task != "" || s.status != "ACTIVE" && s.status != "SHUTOFF" {
				return conflict("rebuild")
			}
			i := c.images[dig(body, "imageRef")]
			if i == nil || i.status != "active" {
				return refuse(400, "badRequest", "Image %s is not active.", dig(body, "imageRef"))
			}
			before, content, ref := s.status, i.content, i.id
			s.status = "REBUILD"
			later("rebuilding", func(s *server) {
				s.root, s.image, s.status = content, ref, "ACTIVE"
				if before == "SHUTOFF" {
					s.task, s.then, s.at = "powering-off", func(s *server) { s.status = "SHUTOFF" }, time.Now().Add(c.Slow)
				}
			})
			return answer{status: 202, body: map[string]any{"server": c.serverBody(s)}}
		}
	}
	return refuse(400, "badRequest", "There is no such action")
}

func strings2(in any, key string) map[string]string {
	m, _ := in.(map[string]any)
	values, _ := m[key].(map[string]any)
	result := map[string]string{}
	for k, v := range values {
		result[k] = fmt.Sprint(v)
	}
	return result
}

func (c *Cloud) holder(id string) (string, string) {
	for _, s := range c.servers {
		for d, v := range s.devices {
			if v == id {
				return s.id, d
			}
		}
	}
	return "", ""
}

func (s *snapshot) body() map[string]any {
	return map[string]any{
		"id": s.id, "name": s.name, "volume_id": s.volume, "status": s.status, "size": s.size, "created_at": s.created.UTC().Format("2006-01-02T15:04:05.000000"), "metadata": s.meta,
	}
}

func (c *Cloud) cinder(r *http.Request, parts []string, in map[string]any) answer {
	switch parts[0] {
	case "limits":
		gigabytes := 0
		for _, v := range c.volumes {
			gigabytes += v.size
		}
		for _, s := range c.snapshots {
			gigabytes += s.size
		}
		return answer{status: 200, body: map[string]any{"limits": map[string]any{"rate": []any{}, "absolute": map[string]any{
			"maxTotalSnapshots": c.Snapshots, "totalSnapshotsUsed": len(c.snapshots), "maxTotalVolumeGigabytes": c.Gigabytes, "totalGigabytesUsed": gigabytes,
		}}}}
	case "snapshots":
		return c.cinderSnapshots(r, parts[1:], in)
	case "volumes":
		if len(parts) < 2 || c.volumes[parts[1]] == nil {
			return refuse(404, "itemNotFound", "Volume could not be found.")
		}
		v := c.volumes[parts[1]]
		if len(parts) == 2 {
			attachments := []any{}
			if s, d := c.holder(v.id); s != "" {
				attachments = append(attachments, map[string]any{"server_id": s, "device": d, "volume_id": v.id})
			}
			return answer{status: 200, body: map[string]any{"volume": map[string]any{
				"id": v.id, "status": v.status, "size": v.size, "multiattach": v.multi, "attachments": attachments, "bootable": "false",
			}}}
		}
		return c.volumeAction(r, v, in)
	}
	return refuse(404, "itemNotFound", "The resource could not be found.")
}

func (c *Cloud) volumeAction(r *http.Request, v *volume, in map[string]any) answer {
	if reset, ok := in["os-reset_status"]; ok {
		if !c.MayReset {
			return refuse(403, "forbidden", "Policy doesn't allow volume_extension:volume_admin_actions:reset_status to be performed.")
		}
		v.status = dig(reset, "status")
		return answer{status: 202}
	}
	revert, ok := in["revert"]
	if !ok {
		return refuse(400, "badRequest", "There is no such action")
	}
	if minor, err := strconv.Atoi(strings.TrimPrefix(r.Header.Get("OpenStack-API-Version"), "volume 3.")); err != nil || minor < 40 {
		return refuse(404, "itemNotFound", "The resource could not be found.")
	}
	s := c.snapshots[dig(revert, "snapshot_id")]
	if s == nil || s.volume != v.id {
		return refuse(400, "badRequest", "Specified snapshot is None or does not belong to volume %s.", v.id)
	}
	for _, other := range c.snapshots {
		if other.volume == v.id && other.created.After(s.created) {
			return refuse(400, "badRequest", "Specified snapshot %s is None or not the latest one of volume %s.", s.id, v.id)
		}
	}
	if v.status != "available" || s.status != "available" || s.size != v.size {
		return refuse(409, "conflictingRequest", "Can't revert volume %s to its latest snapshot %s. Volume's status must be 'available'.", v.id, s.id)
	}
	v.content = s.content
	v.status, v.then, v.at = "reverting", "available", time.Now().Add(c.Slow)
	return answer{status: 202}
}

func (c *Cloud) cinderSnapshots(r *http.Request, parts []string, in map[string]any) answer {
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPost:
		v := c.volumes[dig(in, "snapshot", "volume_id")]
		options, _ := in["snapshot"].(map[string]any)
		switch {
		case v == nil:
			return refuse(404, "itemNotFound", "Volume could not be found.")
		case v.status != "available" && (v.status != "in-use" || options["force"] != true):
			return refuse(400, "badRequest", "Invalid volume: Volume %s status must be available, but current status is: %s.", v.id, v.status)
		case c.Snapshots >= 0 && len(c.snapshots) >= c.Snapshots:
			return refuse(413, "overLimit", "SnapshotLimitExceeded: Maximum number of snapshots allowed (%d) exceeded", c.Snapshots)
		}
		s := &snapshot{id: newID(), name: dig(options, "name"), volume: v.id, status: "creating", created: c.now(), size: v.size, meta: strings2(options, "metadata")}
		if c.Creating >= 0 {
			s.made = time.Now().Add(c.Creating)
		}
		c.snapshots[s.id] = s
		return answer{status: 202, body: map[string]any{"snapshot": s.body()}}
	case len(parts) == 1 && parts[0] == "detail":
		var all []*snapshot
		for _, id := range slices.Sorted(maps.Keys(c.snapshots)) {
			s := c.snapshots[id]
			if name := query.Get("name"); name != "" && s.name != name {
				continue
			}
			if id := query.Get("volume_id"); id != "" && s.volume != id {
				continue
			}
			if status := query.Get("status"); status != "" && s.status != status {
				continue
			}
			all = append(all, s)
		}
		some, marker := page(c, query, all, func(s *snapshot) string { return s.id })
		list := []any{}
		for _, s := range some {
			list = append(list, s.body())
		}
		body := map[string]any{"snapshots": list}
		if marker != "" {
			body["snapshots_links"] = []any{map[string]any{"rel": "next", "href": c.nextURL(r, marker)}}
		}
		return answer{status: 200, body: body}
	}
	if len(parts) != 1 || c.snapshots[parts[0]] == nil {
		return refuse(404, "itemNotFound", "Snapshot could not be found.")
	}
	s := c.snapshots[parts[0]]
	if r.Method == http.MethodDelete {
		if s.status != "available" && s.status != "error" {
			return refuse(400, "badRequest", "Invalid snapshot: Snapshot status must be available or error")
		}
		s.status, s.made = "deleting", time.Now().Add(c.Slow)
		return answer{status: 202}
	}
	return answer{status: 200, body: map[string]any{"snapshot": s.body()}}
}

func (c *Cloud) glance(r *http.Request, parts []string) answer {
	if parts[0] == "info" {
		if c.Images < 0 {
			return refuse(404, "error", "Not Found")
		}
		return answer{status: 200, body: map[string]any{"usage": map[string]any{"image_count_total": map[string]any{"limit": c.Images, "usage": len(c.images)}}}}
	}
	if parts[0] != "images" {
		return refuse(404, "error", "Not Found")
	}
	item := func(i *image) map[string]any {
		body := map[string]any{"id": i.id, "name": i.name, "status": i.status, "created_at": i.created.UTC().Format(time.RFC3339Nano), "size": nil}
		if i.status == "active" {
			body["size"] = 1 << 30
		}
		for k, v := range i.meta {
			body[k] = v
		}
		return body
	}
	if len(parts) == 1 {
		var all []*image
		for _, id := range slices.Sorted(maps.Keys(c.images)) {
			fits := true
			for key, values := range r.URL.Query() {
				if key != "marker" && key != "limit" && c.images[id].meta[key] != values[0] {
					fits = false
				}
			}
			if fits {
				all = append(all, c.images[id])
			}
		}
		some, marker := page(c, r.URL.Query(), all, func(i *image) string { return i.id })
		list := []any{}
		for _, i := range some {
			list = append(list, item(i))
		}
		body := map[string]any{"images": list}
		if marker != "" {
			body["next"] = strings.TrimPrefix(c.nextURL(r, marker), c.Double.URL())
		}
		return answer{status: 200, body: body}
	}
	i := c.images[parts[1]]
	if i == nil {
		return refuse(404, "error", "No image found with ID %s", parts[1])
	}
	if r.Method == http.MethodDelete {
		delete(c.images, i.id)
		return answer{status: 204}
	}
	return answer{status: 200, body: item(i)}
}
