package simcluster

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

// appInstance is one instance of an app.
type appInstance struct {
	guid  string
	index int
}

// dockerContainer runs. It keeps the image that it was made from, whatever becomes of that one's names.
type dockerContainer struct {
	id, name  string
	image     string // hex id
	imageName string // as it was asked for
	command   []string
	created   time.Time

	// of an app instance
	docker *Docker
	of     appInstance
	app    string
	start  int
}

// Container is a running one. ImageName is what it was made from, and ImageID what that was then. One that docker run has made has no app.
type Container struct {
	ID, ImageID, ImageName string
	AppGUID, AppName       string
	Index                  int
}

// Containers of the node, the oldest first.
func (d *Docker) Containers() []Container {
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.all.settle()
	var out []Container
	for _, c := range d.sorted() {
		out = append(out, Container{ID: c.id, ImageID: d.all.version.id(c.image), ImageName: c.imageName, AppGUID: c.of.guid, AppName: c.app, Index: c.of.index})
	}
	return out
}

// sorted by age, the oldest first.
func (d *Docker) sorted() []*dockerContainer {
	out := make([]*dockerContainer, 0, len(d.containers))
	for _, c := range d.containers {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *dockerContainer) int {
		if order := a.created.Compare(b.created); order != 0 {
			return order
		}
		return strings.Compare(a.id, b.id)
	})
	return out
}

// findContainer by its id, the beginning of it, or its name; nil for none.
func (d *Docker) findContainer(ref string) *dockerContainer {
	if c := d.containers[ref]; c != nil || ref == "" {
		return c
	}
	var found *dockerContainer
	for id, c := range d.containers {
		if c.name == ref {
			return c
		}
		if strings.HasPrefix(id, ref) {
			if found != nil {
				return nil
			}
			found = c
		}
	}
	return found
}

func (d *Docker) endContainers() {
	for _, c := range d.containers {
		if c.of.guid != "" {
			delete(d.all.placed, c.of)
		}
	}
	clear(d.containers)
	d.all.stale = true
}

// settle gives every running instance of an app a container, takes those away whose instance is gone, and makes those anew whose app was started again. The caller holds mu.
//
// The DEAs do that when an app is started. Here it is done late: before anything that a new container could be made differently by (a tag that moves, an image that goes, kato's configuration, a
// node that goes or comes), and before anybody looks. So nobody can tell the difference, and a cluster whose dockers nobody asks pays nothing, however many apps it has. When nothing has changed it
// costs one comparison.
func (s *dockers) settle() {
	ccng := s.cluster.ccng
	if ccng == nil || s.cluster.ctx.Err() != nil {
		return
	}
	since := s.revision
	if s.stale {
		since = 0
	}
	apps, revision, changed := ccng.RunningApps(since)
	if !changed {
		return
	}
	s.revision, s.stale = revision, false
	wanted := map[appInstance]*cloudcontroller.RunningApp{}
	for i := range apps {
		for _, index := range apps[i].Instances {
			wanted[appInstance{apps[i].GUID, index}] = &apps[i]
		}
	}
	hosts := s.usable()
	for at, c := range s.placed {
		if app := wanted[at]; app == nil || app.Start != c.start || !slices.Contains(hosts, c.docker) {
			delete(c.docker.containers, c.id)
			delete(s.placed, at)
		}
	}
	images := s.imageNames()
	for _, app := range apps {
		for _, index := range app.Instances {
			at := appInstance{app.GUID, index}
			if s.placed[at] == nil && !s.place(hosts, images, at, app) {
				s.stale = true // when there is one again
			}
		}
	}
}

// usable are the DEAs that are up and not retired.
func (s *dockers) usable() (out []*Docker) {
	for _, d := range s.hosts {
		if state, _ := s.cluster.kato.NodeState(d.node.address); d.node.Running() && !d.stopped && !state.Retired {
			out = append(out, d)
		}
	}
	return out
}

// place makes the container of an instance on the next DEA in turn that has an image for it.
func (s *dockers) place(hosts []*Docker, images []string, at appInstance, app cloudcontroller.RunningApp) bool {
	for range hosts {
		d := hosts[s.next%len(hosts)]
		s.next++
		for _, name := range images {
			i := d.images[d.tags[withTag(name)]]
			if i == nil {
				continue
			}
			id := newHexID()
			c := &dockerContainer{id: id, name: "app_" + id[:10], image: i.id, imageName: name, command: []string{"/sbin/init"}, created: d.node.now().UTC(), docker: d, of: at, app: app.Name, start: app.Start}
			d.containers[id], s.placed[at] = c, c
			return true
		}
	}
	return false
}

// imageNames are the images that kato gives to apps, the first one first (kato.md §7): a list, or one name.
func (s *dockers) imageNames() (out []string) {
	fence, _ := s.cluster.kato.Config()["fence"].(map[string]any)
	settings, _ := fence["docker"].(map[string]any)
	for _, key := range []string{"images", "image"} {
		switch v := settings[key].(type) {
		case string:
			out = append(out, v)
		case []any:
			for _, e := range v {
				if name, ok := e.(string); ok {
					out = append(out, name)
				}
			}
		}
	}
	return out
}

// katoChanges is called before a command of kato that may change which images apps get, or where they run; the function that it returns afterwards.
func (s *dockers) katoChanges() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stale = true
		s.settle()
	}
}

// environment is the file that an app instance has in its container.
func (c *dockerContainer) environment() string {
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // maps of strings always marshal
		}
		return string(b)
	}
	return text(struct {
		Name        string `json:"STACKATO_APP_NAME"`
		Application string `json:"VCAP_APPLICATION"`
		Services    string `json:"VCAP_SERVICES"`
	}{
		c.app,
		text(map[string]any{"application_id": c.of.guid, "application_name": c.app, "instance_index": c.of.index, "instance_id": c.id[:32], "host": "0.0.0.0", "port": 57000}),
		text(map[string]any{"mysql": []any{map[string]any{"name": c.app + "-db", "plan": "free", "credentials": map[string]any{"host": "127.0.0.1", "username": "u" + c.id[:8], "password": ContainerSecret}}}}),
	}) + "\n"
}
