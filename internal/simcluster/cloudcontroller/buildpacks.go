package cloudcontroller

import "slices"

// Buildpack of the cluster's own.
type Buildpack struct {
	Name string
	// Position in the order in which they are tried; 0 = after all others.
	Position int
	// Filename of its archive (default NAME.zip).
	Filename string
	// Disabled and Locked as the API has them.
	Disabled, Locked bool
}

// standardBuildpacks are those that a controller comes with.
func standardBuildpacks() []string {
	return []string{"java_buildpack", "ruby_buildpack", "nodejs_buildpack", "go_buildpack", "python_buildpack", "php_buildpack", "staticfile_buildpack"}
}

// addStandard adds the buildpacks that every controller has.
func (c *Controller) addStandard() {
	for _, name := range standardBuildpacks() {
		c.AddBuildpack(Buildpack{Name: name})
	}
}

// AddBuildpack adds a buildpack, or replaces the one of its name, and returns its guid. Those after its position move on.
func (c *Controller) AddBuildpack(b Buildpack) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.named("buildpacks", b.Name, "", ""); old != nil {
		c.remove(old.guid)
	}
	if b.Filename == "" {
		b.Filename = b.Name + ".zip"
	}
	i := c.add("buildpacks", map[string]any{"name": b.Name, "enabled": !b.Disabled, "locked": b.Locked, "filename": b.Filename})
	list := c.lists["buildpacks"]
	if at := b.Position - 1; at >= 0 && at < len(list)-1 {
		list = slices.Insert(list[:len(list)-1], at, i)
	}
	c.lists["buildpacks"] = list
	c.renumber()
	return i.guid
}

// LoseBuildpacks takes away all buildpacks but the standard ones, as an upgrade of a node with the role controller does (kato.md §5).
func (c *Controller) LoseBuildpacks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range slices.Clone(c.lists["buildpacks"]) {
		if name, _ := i.entity["name"].(string); !slices.Contains(standardBuildpacks(), name) {
			c.remove(i.guid)
		}
	}
	c.renumber()
}

// Buildpacks are the names of those that are there, in the order in which they are tried.
func (c *Controller) Buildpacks() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.lists["buildpacks"] {
		name, _ := i.entity["name"].(string)
		names = append(names, name)
	}
	return names
}

// renumber makes the positions those of the list; the caller holds mu.
func (c *Controller) renumber() {
	for at, i := range c.lists["buildpacks"] {
		i.entity["position"] = at + 1
	}
}
