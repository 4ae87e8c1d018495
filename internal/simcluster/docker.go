package simcluster

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultImageRepository is the name of the base image of app containers (kato.md §7).
const DefaultImageRepository = "stackato/stack-alsek"

// ContainerSecret is a password that every app instance has in the environment in its container. Nothing but the app itself has to know it.
const ContainerSecret = "simulated-droplet-secret"

const (
	dockerRoot = "/var/lib/docker"
	hubAddress = "docker.io"
	baseLayers = 12
	baseAge    = 90 * 24 * time.Hour
)

// dockerVersion decides what docker takes and prints.
type dockerVersion struct {
	major, minor int
	text         string
}

var dockerVersionForm = regexp.MustCompile(`^(\d{1,3})\.(\d{1,3})\S*$`)

func parseDockerVersion(text string) (dockerVersion, error) {
	m := dockerVersionForm.FindStringSubmatch(text)
	if m == nil {
		return dockerVersion{}, fmt.Errorf("docker version %q is not one such as 20.10.24", text)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return dockerVersion{major, minor, text}, nil
}

// before says whether it is older than major.minor.
func (v dockerVersion) before(major, minor int) bool {
	return v.major < major || v.major == major && v.minor < minor
}

// digestIDs: since 1.10 an image's id is a digest of what it is, and only the layers that were built here have an id of their own.
func (v dockerVersion) digestIDs() bool { return !v.before(1, 10) }

// id writes an image's id.
func (v dockerVersion) id(hex string) string {
	if v.digestIDs() && hex != "" {
		return "sha256:" + hex
	}
	return hex
}

// build is the commit that the version's client says it was built from.
func (v dockerVersion) build() string {
	if v.text == "20.10.24" {
		return "297e128"
	}
	return hashOf("build of docker " + v.text)[:7]
}

// dockers are what the dockers of a cluster's DEAs share. One lock guards all of their state: nothing that takes time is done with it.
type dockers struct {
	cluster *Cluster
	version dockerVersion

	mu    sync.Mutex
	hosts []*Docker

	// The registry, by repository such as "registry.example.com:5000/stack-alsek".
	registry     map[string]map[string]string // tag -> hex id
	manifests    map[string]*dockerImage      // by hex id
	pushed       map[string]bool              // "REPOSITORY ID", also where the tag was moved
	registryDown bool

	// Where the instances of apps are; see settle.
	revision int
	stale    bool
	next     int
	placed   map[appInstance]*dockerContainer
}

func newDockers(c *Cluster, v dockerVersion) *dockers {
	return &dockers{cluster: c, version: v, registry: map[string]map[string]string{}, manifests: map[string]*dockerImage{}, pushed: map[string]bool{}, placed: map[appInstance]*dockerContainer{}}
}

// Docker of a DEA. Images, and which of them have which names, survive reboots; containers do not.
type Docker struct {
	node *Node
	all  *dockers

	// guarded by all.mu
	dockerDisk
	containers map[string]*dockerContainer
	cache      map[string]cachedStep
	running    map[*dockerBuild]bool
	builds     int
	down       bool
	stopped    bool // by systemctl, until the next start or boot
	breaks     bool
	published  []Package
}

// dockerDisk is what lies on the disk.
type dockerDisk struct {
	images  map[string]*dockerImage // by hex id
	tags    map[string]string       // "REPOSITORY:TAG" -> hex id
	digests map[string]string       // "REPOSITORY@sha256:..." -> hex id
}

// dockerImage has an id, hex digits only, and layers, the lowest first. Its own id is that of the last one. What is in it does not change, but for the updates that are pending.
type dockerImage struct {
	id       string
	created  time.Time
	layers   []dockerLayer
	packages packageDisk
	broken   bool // nothing starts in it
}

type dockerLayer struct {
	id      string // of the image that ends with it
	size    int64
	by      string
	created time.Time
	local   bool // that image is known here: it was built here, or is what something was built on
}

// diff is the digest of a layer's content.
func (l dockerLayer) diff() string { return "sha256:" + hashOf("layer "+l.id) }

func (i *dockerImage) size() (all int64) {
	for _, l := range i.layers {
		all += l.size
	}
	return all
}

// copy is one whose pending updates are its own.
func (i *dockerImage) copy() *dockerImage {
	c := *i
	c.layers, c.packages = slices.Clone(i.layers), i.packages.copy()
	return &c
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func newHexID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func newDocker(n *Node) *Docker {
	d := &Docker{node: n, all: n.cluster.docker, containers: map[string]*dockerContainer{}, cache: map[string]cachedStep{}, running: map[*dockerBuild]bool{}}
	base := baseImage(n)
	repository := n.cluster.cfg.ImageRepository
	d.dockerDisk = dockerDisk{images: map[string]*dockerImage{base.id: base}, tags: map[string]string{repository + ":latest": base.id, repository + ":kato-patched": base.id}, digests: map[string]string{}}
	d.all.hosts = append(d.all.hosts, d)
	return d
}

// baseImage is the same on all nodes.
func baseImage(n *Node) *dockerImage {
	created := n.cluster.started.Add(-baseAge).UTC()
	i := &dockerImage{created: created, packages: packageDisk{pkgs: map[string]packageEntry{}, holds: map[string]bool{}}}
	for name, version := range map[string]string{"base-files": "12.4+deb12u6", "bash": "5.2.15-2+b7", "coreutils": "9.1-1", "dpkg": "1.21.22", "apt": "2.6.1", "git": "1:2.39.2-1.1", "unattended-upgrades": "2.9.1+nmu3"} {
		i.packages.pkgs[name] = packageEntry{version: version, stage: stInstalled}
	}
	for _, p := range n.cluster.cfg.ImagePending {
		i.packages.publish(p)
	}
	repository := n.cluster.cfg.ImageRepository
	for layer := range baseLayers {
		l := dockerLayer{id: hashOf(fmt.Sprintf("%s %d", repository, layer)), size: 3 << 20, by: "/bin/sh -c #(nop) ADD file in /", created: created.Add(time.Duration(layer-baseLayers) * time.Minute)}
		switch {
		case layer == 0:
			l.size = 190 << 20
		case layer%3 == 0:
			l.size, l.by = 0, "/bin/sh -c #(nop) ENV LANG=en_US.UTF-8"
		case layer%3 == 1:
			l.size, l.by = 140<<20, "/bin/sh -c apt-get install -y build-essential git curl"
		}
		i.layers = append(i.layers, l)
	}
	last := &i.layers[baseLayers-1]
	last.local, last.created = true, created
	i.id = last.id
	return i
}

// publish adds an update to what is pending, unless it, or a newer one, is installed or pending.
func (d *packageDisk) publish(p Package) {
	e, installed := d.pkgs[p.Name]
	if !installed {
		e = packageEntry{version: p.Old, stage: stInstalled}
	}
	if compareVersions(e.version, p.New) >= 0 || e.update != nil && compareVersions(e.update.New, p.New) >= 0 {
		return
	}
	p.Old = e.version
	e.update, e.fails = &p, p.PostinstFails
	d.pkgs[p.Name] = e
	d.pending = append(slices.DeleteFunc(slices.Clone(d.pending), func(o Package) bool { return o.Name == p.Name }), p)
}

func (d packageDisk) copy() packageDisk {
	d.pkgs, d.holds = maps.Clone(d.pkgs), maps.Clone(d.holds)
	d.pending, d.kernels, d.required = slices.Clone(d.pending), slices.Clone(d.kernels), slices.Clone(d.required)
	return d
}

// state is a package database of its own with what the image has.
func (i *dockerImage) state(n *Node) *packageState {
	s := &packageState{node: n, image: true, changed: make(chan struct{})}
	s.putBack(i.packages)
	return s
}

// --- names -------------------------------------------------------------------------------------------------------------------------------

// withTag adds the tag latest to a name without a tag or digest.
func withTag(name string) string {
	if strings.Contains(name, "@") || strings.LastIndexByte(name, ':') > strings.LastIndexByte(name, '/') {
		return name
	}
	return name + ":latest"
}

// splitName is a name with a tag or digest as repository and tag.
func splitName(name string) (repository, tag string) {
	if repository, digest, ok := strings.Cut(name, "@"); ok {
		return repository, digest
	}
	i := strings.LastIndexByte(name, ':')
	return name[:i], name[i+1:]
}

// registryOf is the registry's host of a name, the hub's for a name without one.
func registryOf(name string) string {
	host, _, more := strings.Cut(name, "/")
	if more && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return hubAddress
}

var hexForm = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// lookup finds an image by its id, a name, or the beginning of its id, in docker's order; nil for none.
func (d *Docker) lookup(ref string) *dockerImage {
	digits := ref
	if d.all.version.digestIDs() {
		digits = strings.TrimPrefix(ref, "sha256:")
	}
	if i := d.images[digits]; i != nil {
		return i
	}
	if ref == "" {
		return nil
	}
	if id, ok := d.digests[ref]; ok {
		return d.images[id]
	}
	if id, ok := d.tags[withTag(ref)]; ok {
		return d.images[id]
	}
	if !hexForm.MatchString(digits) {
		return nil
	}
	var found *dockerImage
	for id, i := range d.images {
		if strings.HasPrefix(id, digits) {
			if found != nil {
				return nil
			}
			found = i
		}
	}
	return found
}

// names of an image, sorted: with tags, or with digests.
func names(of map[string]string, id string) []string {
	out := []string{}
	for name, to := range of {
		if to == id {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// parents are the ids that images here are built on.
func (d *Docker) parents() map[string]bool {
	out := map[string]bool{}
	for _, i := range d.images {
		for _, l := range i.layers[:len(i.layers)-1] {
			out[l.id] = true
		}
	}
	return out
}

// add puts an image there that was built or pulled, and the updates that were published meanwhile.
func (d *Docker) add(i *dockerImage) {
	for _, p := range d.published {
		i.packages.publish(p)
	}
	d.images[i.id] = i
}

// noSpace says that nothing can be written to docker's folder.
func (d *Docker) noSpace() bool {
	root, err := d.node.tree.resolve("/", dockerRoot, true) // it may have been relocated
	return err == nil && d.node.tree.noSpace(root)
}

// offline says that the node reaches nothing outside of it.
func (n *Node) offline() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.silent != nil || n.faults.noOutbound
}

// --- power and disks ---------------------------------------------------------------------------------------------------------------------

func (n *Node) makeDocker() error {
	if n.docker == nil {
		return nil
	}
	mode := os.FileMode(0o711) // the first versions kept others out
	if n.docker.all.version.before(1, 10) {
		mode = 0o700
	}
	if fi, err := os.Lstat(n.tree.host(dockerRoot)); err == nil && fi.Mode()&os.ModeSymlink != 0 {
		return nil // relocated
	}
	for _, dir := range []string{dockerRoot, dockerRoot + "/aufs"} {
		if err := os.MkdirAll(n.tree.host(dir), 0o755); err != nil {
			return err
		}
	}
	return os.Chmod(n.tree.host(dockerRoot), mode)
}

// booted: instances that found no DEA before can be here.
func (d *Docker) booted() {
	if d == nil {
		return
	}
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.all.stale = true
	d.stopped = false
}

// active says whether the daemon runs.
func (d *Docker) active() bool {
	if d == nil {
		return false
	}
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	return !d.stopped
}

// dockerUnitVerb is what systemctl does with docker.service; ok is false for other units. A daemon that is stopped ends its containers; the apps' are made anew elsewhere, or here once it runs.
func (c *invocation) dockerUnitVerb(verb string, units []string) (exit int, ok bool) {
	if len(units) != 1 || strings.TrimSuffix(units[0], ".service") != "docker" {
		return 0, false
	}
	d := c.node.docker
	if d == nil {
		switch verb {
		case "status":
			c.errorf("Unit docker.service could not be found.")
			return 4, true
		case "cat":
			c.errorf("No files found for docker.service.")
			return 1, true
		}
		c.errorf("Failed to %s docker.service: Unit docker.service not found.", verb)
		return 5, true
	}
	if verb == "status" {
		if d.active() {
			c.printf("● docker.service - Docker Application Container Engine\n     Active: active (running)\n")
			return 0, true
		}
		c.printf("○ docker.service - Docker Application Container Engine\n     Active: inactive (dead)\n")
		return 3, true
	}
	if verb != "stop" && verb != "start" && verb != "restart" && verb != "kill" {
		return 0, true
	}
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	if (verb == "stop" || verb == "restart" || verb == "kill") && !d.stopped {
		for b := range d.running {
			b.cancel()
		}
		d.endContainers()
	}
	d.stopped = verb == "stop" || verb == "kill"
	d.all.stale = true
	if d.all.revision != 0 {
		d.all.settle()
	}
	return 0, true
}

// poweredOff ends the containers. The apps' are made anew at once on DEAs that are up, if anybody has looked at containers before.
func (d *Docker) poweredOff() {
	if d == nil || d.node.cluster.ctx.Err() != nil {
		return
	}
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.endContainers()
	if d.all.revision != 0 {
		d.all.settle()
	}
}

func (d *Docker) disk() *dockerDisk {
	if d == nil {
		return nil
	}
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	return new(d.dockerDisk.copy())
}

func (d dockerDisk) copy() dockerDisk {
	c := dockerDisk{images: map[string]*dockerImage{}, tags: maps.Clone(d.tags), digests: maps.Clone(d.digests)}
	for id, i := range d.images {
		c.images[id] = i.copy()
	}
	return c
}

func (d *Docker) putBack(disk *dockerDisk) {
	if d == nil || disk == nil {
		return
	}
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.dockerDisk, d.cache = disk.copy(), map[string]cachedStep{}
}

// --- for tests and people ----------------------------------------------------------------------------------------------------------------

// Docker of the node; nil where there is none, which is everywhere but on a DEA of ALS.
func (n *Node) Docker() *Docker { return n.docker }

// Images are the ids of the images that have names, by "REPOSITORY:TAG".
func (d *Docker) Images() map[string]string {
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	out := map[string]string{}
	for name, id := range d.tags {
		out[name] = d.all.version.id(id)
	}
	return out
}

// ImagePackages are the versions of what is installed in an image, by name; nil for no such image.
func (d *Docker) ImagePackages(ref string) map[string]string {
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	i := d.lookup(ref)
	if i == nil {
		return nil
	}
	out := map[string]string{}
	for name, e := range i.packages.pkgs {
		out[name] = e.version
	}
	return out
}

// PendingIn names the security updates that an image lacks, sorted; nil for none and for no such image.
func (d *Docker) PendingIn(ref string) (out []string) {
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	if i := d.lookup(ref); i != nil {
		for _, p := range i.packages.pending {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return out
}

// PublishImageUpdate makes an update pending in all images of the node that lack it, also those that are built or pulled from now on.
func (d *Docker) PublishImageUpdate(p Package) {
	d.node.fault("update of %s for images", p.Name)
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.published = append(d.published, p)
	for _, i := range d.images {
		i.packages.publish(p)
	}
}

// Builds counts the builds that ran to their end and made an image.
func (d *Docker) Builds() int {
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	return d.builds
}

// Remove takes a name off an image, and the image away when that was its last one or when ref is its id, whoever uses it.
func (d *Docker) Remove(ref string) {
	d.node.fault("image %s removed", ref)
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.all.settle()
	i := d.lookup(ref)
	if i == nil {
		return
	}
	if _, named := d.tags[withTag(ref)]; named {
		delete(d.tags, withTag(ref))
		if len(names(d.tags, i.id)) > 0 {
			return
		}
	}
	d.drop(i)
}

// drop takes an image away with all its names.
func (d *Docker) drop(i *dockerImage) {
	for _, all := range []map[string]string{d.tags, d.digests} {
		for _, name := range names(all, i.id) {
			delete(all, name)
		}
	}
	delete(d.images, i.id)
}

// SetDaemonDown lets the daemon not answer while down, and ends the builds at work. Containers stay.
func (d *Docker) SetDaemonDown(down bool) {
	d.node.fault("docker down %v", down)
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	if d.down = down; down {
		for b := range d.running {
			b.cancel()
		}
	}
}

// BreakImages lets nothing start in the images that are built from now on while on.
func (d *Docker) BreakImages(on bool) {
	d.node.fault("break images %v", on)
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.breaks = on
}

// SetRegistryDown lets the registry refuse connections while down.
func (c *Cluster) SetRegistryDown(down bool) {
	c.event("", "fault", "docker registry down %v", down)
	c.docker.mu.Lock()
	defer c.docker.mu.Unlock()
	c.docker.registryDown = down
}

// RegistryImages are the ids of what was pushed to the registry, by "HOST/NAME:TAG", as docker writes ids.
func (c *Cluster) RegistryImages() map[string]string {
	c.docker.mu.Lock()
	defer c.docker.mu.Unlock()
	out := map[string]string{}
	for repository, tags := range c.docker.registry {
		for tag, id := range tags {
			out[repository+":"+tag] = c.docker.version.id(id)
		}
	}
	return out
}

// manifestDigest is what the registry calls an image.
func manifestDigest(id string) string { return "sha256:" + hashOf("manifest of "+id) }
