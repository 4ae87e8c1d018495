package activities

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/docker"
	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Images does what concerns the docker base image of app containers ("Upgrade the Docker image" of the source page; kato.md §7). Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times, as those of Nodes. What is built, pulled or pushed is used by nobody until TagImage makes it latest.
type Images struct {
	Nodes *Nodes
}

var (
	imagesScript          = script("docker", "images")
	imagePlaceScript      = script("image_place")
	imageContainersScript = script("docker", "image_containers")
	imageAppsScript       = script("docker", "image_apps")
	imageListScript       = script("image_list")
	imageTemplateScript   = script("image_template")
)

const (
	leastImageSpace  = 1 << 20 // KiB in docker's folder for a build
	scarceImageSpace = 3 << 20 // KiB below which a warning is due
	// layersOfABuild is how many layers a build adds: one for each RUN of the Dockerfile.
	layersOfABuild = 3
	// checkCeiling bounds the look into an image, and tagCeiling a tag.
	checkCeiling = 15 * time.Minute
	// dockerWithin is how long docker may take to come up.
	dockerWithin = 2 * time.Minute
	tagCeiling   = 10 * time.Minute
)

// VMNotUpToDate is told of a DEA whose own packages are to be upgraded before its image.
const VMNotUpToDate = "the VM itself is not up to date"

// imageState is what docker has on a node.
type imageState struct {
	version docker.Version
	// problem is why docker cannot be used, "" for none; down says that it may come up yet.
	problem string
	down    bool
	// tags are the names of images, "REPOSITORY:TAG", by id.
	tags map[string][]string
	// images are those asked for, in their order, with an empty ID for one that is not there; histories are theirs.
	images    []docker.Image
	histories [][]string
	// space is where docker keeps its own, nil where that is not seen.
	space *fileSystem
	// pending is the plan of an upgrade of the node itself.
	pending string
}

// images asks a node what docker has.
func (x *Images) images(ctx context.Context, t target, packages bool, names ...string) (imageState, error) {
	read, err := ask(ctx, x.Nodes.Connections, t.host, imagesScript, append([]string{flag(t.host.User != "root"), flag(packages)}, names...)...)
	if err != nil {
		return imageState{}, err
	}
	return imageStateOf(read, len(names)), nil
}

func imageStateOf(read answer, names int) imageState {
	s := imageState{images: make([]docker.Image, names), histories: make([][]string, names), pending: read.sections["pending"]}
	if read.value("no-docker") != "" {
		s.problem = "docker is not installed there: is it a DEA?"
		return s
	}
	var err error
	if s.version, err = docker.ParseVersion(read.value("version")); err != nil {
		s.problem = "the version of docker is not known: " + err.Error()
		return s
	}
	if s.problem = docker.DaemonProblem(read.sections["info"], read.exit("info-exit")); s.problem != "" {
		s.down = s.problem == docker.DaemonDown
		return s
	}
	s.tags = docker.ParseImages(read.sections["names"])
	for i := range names {
		number := strconv.Itoa(i + 1)
		if s.images[i], err = docker.ParseImage(read.sections["image-"+number]); err != nil {
			continue // there is none, or it is not one
		}
		s.histories[i] = strings.Fields(read.sections["history-"+number])
	}
	if all := parseSpace(read.sections["space"]); len(all) > 0 {
		s.space = &all[0]
	}
	return s
}

// layers of an image, as docker counts them where it does.
func (s imageState) layers(i int) int {
	if n := len(s.images[i].Layers); n > 0 {
		return n
	}
	return len(s.histories[i])
}

// builtOn reports whether one of the images was built on another.
func (s imageState) builtOn(image, base int) bool {
	return docker.BuiltOn(s.images[image], s.images[base], s.histories[image], s.histories[base])
}

// ImagesStatusInput names the DEAs that are asked.
type ImagesStatusInput struct {
	Cluster string                  `json:"cluster"`
	Nodes   []string                `json:"nodes"`
	Images  operation.ImageSettings `json:"images"`
}

// ImageStatus is the image that apps on a DEA get.
type ImageStatus struct {
	// Name of the image, and BuiltAt when it was built (UTC, RFC 3339); "" where that is not known, and Problem says why.
	Name    string `json:"name,omitempty"`
	BuiltAt string `json:"builtAt,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// ImagesStatus asks DEAs, side by side, which image apps get there and when it was built, in the order of the nodes. It changes nothing. The error says that the inventory has changed.
func (x *Images) ImagesStatus(ctx context.Context, in ImagesStatusInput) ([]ImageStatus, error) {
	a := begin(ctx, "asking docker")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Cluster)
	if err != nil {
		return nil, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return nil, err
	}
	out := make([]ImageStatus, len(targets))
	names := []string{in.Images.Used() + ":" + operation.LatestTag, in.Images.Repository + ":" + operation.LatestTag}
	each(len(targets), func(i int) {
		read, err := askFor(a.ctx, statusWithin, x.Nodes.Connections, targets[i].host, imagesScript, append([]string{flag(targets[i].host.User != "root"), "0"}, names...)...)
		if err != nil {
			out[i].Problem = withoutNode(failureOf(err).Message, targets[i].host.Name)
			return
		}
		state := imageStateOf(read, len(names))
		out[i].Problem = state.problem
		for n, image := range state.images {
			if image.ID != "" {
				out[i].Name = names[n]
				if !image.Created.IsZero() {
					out[i].BuiltAt = image.Created.UTC().Format(time.RFC3339)
				}
				return
			}
		}
		if out[i].Problem == "" {
			out[i].Problem = "there is no image " + names[0]
		}
	})
	if a.ctx.Err() != nil {
		return nil, ended(a.ctx)
	}
	return out, nil
}

// ImagesPreflightInput asks about the DEAs that are worked on.
type ImagesPreflightInput struct {
	Operation operation.ImageSettings `json:"images"`
	Op        Operation               `json:"operation"`
	Nodes     []string                `json:"nodes"`
	Rollback  bool                    `json:"rollback,omitempty"`
}

// ImagesPreflightResult is what was found; nothing was changed.
type ImagesPreflightResult struct {
	// Problems stop the operation; Warnings are only told. One line each, with the node before it.
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// List are the images that kato gives to apps, the first one first; nil where kato does not tell them.
	List []string `json:"list,omitempty"`
	// Back is what a rollback finds on each DEA that was asked.
	Back map[string]RollbackOf `json:"back,omitempty"`
	// Autoscaling: DEAs are made by autoscaling, from Template, as the controllers have it.
	Autoscaling bool   `json:"autoscaling,omitempty"`
	Template    string `json:"template,omitempty"`
}

// RollbackOf is what a rollback finds on a DEA.
type RollbackOf struct {
	// Upgrade is the newest day of an upgrade among the two images that would be exchanged, as in its tag; "" for none.
	Upgrade string `json:"upgrade,omitempty"`
	// Previous: there is an image to go back to. Same: it is what apps get already.
	Previous bool `json:"previous,omitempty"`
	Same     bool `json:"same,omitempty"`
}

// upgrade is the newest tag of a day among those of the images that are latest and PreviousTag, the second and the third that were asked for.
func (s imageState) upgrade(repository string) string {
	newest := ""
	for _, image := range s.images[1:3] {
		for _, name := range s.tags[image.ID] {
			if r, tag := docker.SplitTag(name); r == repository && strings.HasPrefix(tag, "upgrade-") {
				newest = max(newest, tag)
			}
		}
	}
	return newest
}

// PreflightImages looks whether the base image of DEAs can be upgraded, or rolled back: docker answers, the images are there, there is space. What is wrong is in the result, all of it at once; the
// error says that nobody could be asked. It changes nothing.
func (x *Images) PreflightImages(ctx context.Context, in ImagesPreflightInput) (ImagesPreflightResult, error) {
	a := begin(ctx, "asking docker")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Op.Cluster)
	if err != nil {
		return ImagesPreflightResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return ImagesPreflightResult{}, err
	}
	var out ImagesPreflightResult
	if err := x.readList(a, s, &out); err != nil {
		return ImagesPreflightResult{}, err
	}
	used := in.Operation.Used()
	problems, warnings, back := make([][]string, len(targets)), make([][]string, len(targets)), make([]*RollbackOf, len(targets))
	each(len(targets), func(i int) {
		var state imageState
		var err error
		for try := 0; try < 2; try++ { // a connection lost by chance is no problem of the node
			if state, err = x.images(a.ctx, targets[i], true, in.Operation.Repository+":"+in.Operation.Base, used+":"+operation.LatestTag, used+":"+operation.PreviousTag); !remote.IsKind(err, remote.KindTransport) ||
				sleep(a.ctx, firstPause) != nil {
				break
			}
		}
		if err != nil { // of a node that is away the preflight of the nodes says so, too
			problems[i] = []string{"docker could not be asked: " + withoutNode(failureOf(err).Message, targets[i].host.Name)}
			return
		}
		problems[i], warnings[i] = judgeImages(state, in, out.List)
		if in.Rollback && state.problem == "" {
			back[i] = &RollbackOf{Upgrade: state.upgrade(in.Operation.Used()), Previous: state.images[2].ID != "", Same: state.images[2].ID == state.images[1].ID}
		}
	})
	if a.ctx.Err() != nil {
		return ImagesPreflightResult{}, ended(a.ctx)
	}
	for i := range targets {
		for _, p := range problems[i] {
			out.Problems = append(out.Problems, oneLine(targets[i].node.Name+": "+p, 500))
		}
		for _, w := range warnings[i] {
			out.Warnings = append(out.Warnings, oneLine(targets[i].node.Name+": "+w, 500))
		}
	}
	for i := range targets {
		if back[i] != nil {
			if out.Back == nil {
				out.Back = map[string]RollbackOf{}
			}
			out.Back[targets[i].node.Name] = *back[i]
		}
	}
	switch {
	case len(out.List) == 0 && in.Operation.Registry != "" && !in.Rollback:
		out.Problems = append(out.Problems, "cluster: kato does not tell which images apps get (kato config get fence docker/images), so that the registry's cannot be put first")
	case len(out.List) == 0:
		out.Warnings = append(out.Warnings, "kato does not tell which images apps get (kato config get fence docker/images): whether this one is used is not known")
	case in.Operation.Registry == "" && out.List[0] != in.Operation.Repository && !strings.HasPrefix(out.List[0], in.Operation.Repository+":"):
		out.Warnings = append(out.Warnings, oneLine(fmt.Sprintf("apps get the image %s before %s: what is built is used only where that one is missing", out.List[0], in.Operation.Repository), 500))
	}
	return out, nil
}

// judgeImages turns what a node's docker has into findings.
func judgeImages(state imageState, in ImagesPreflightInput, list []string) (problems, warnings []string) {
	if state.problem != "" {
		return []string{state.problem}, nil
	}
	const base, latest = 0, 1
	name := in.Operation.Repository + ":" + in.Operation.Base
	if in.Rollback { // which DEAs go back is known when all were asked
		return nil, nil
	}
	if state.images[base].ID == "" {
		problem := fmt.Sprintf("there is no image %s to build on: write the right name as images.repository or images.base_tag in the inventory", name)
		if len(list) > 0 {
			problem += "; kato gives apps " + strings.Join(list[:min(len(list), 3)], ", ")
		}
		problems = append(problems, problem)
	}
	if n := state.layers(base); n+layersOfABuild > operation.MaxLayers {
		problems = append(problems, fmt.Sprintf("%s has %d layers, and docker mounts %d at most: install the patches of kato, or flatten it", name, n, operation.MaxLayers))
	}
	if state.images[latest].ID == "" && in.Operation.Registry == "" {
		warnings = append(warnings, fmt.Sprintf("there is no image %s:%s: nothing can be rolled back to", in.Operation.Repository, operation.LatestTag))
	}
	if fs := state.space; fs != nil {
		switch {
		case fs.free < leastImageSpace:
			problems = append(problems, fmt.Sprintf("%d MB free in %s, where docker keeps its images, at least %d MB are needed: remove old ones (docker rmi)", fs.free>>10, fs.mount, leastImageSpace>>10))
		case fs.free < scarceImageSpace:
			warnings = append(warnings, fmt.Sprintf("only %d MB free in %s, where docker keeps its images", fs.free>>10, fs.mount))
		}
	}
	if pending, _ := parsePending(state.pending); len(securityNames(pending)) > 0 {
		warnings = append(warnings, fmt.Sprintf("%s, %d security packages are pending: upgrade it first (katoflow upgrade security)", VMNotUpToDate, len(securityNames(pending))))
	}
	return problems, warnings
}

// readList asks the Core which images apps get, and whether autoscaling makes DEAs. A Core that does not answer is a problem of the preflight of the nodes.
func (x *Images) readList(a *attempt, s site, out *ImagesPreflightResult) error {
	core, err := s.core()
	if err != nil {
		return err
	}
	read, err := ask(a.ctx, x.Nodes.Connections, core.host, imageListScript, katoSeconds(s), s.cluster.Kato.Path)
	if err != nil {
		if a.ctx.Err() != nil {
			return ended(a.ctx)
		}
		return nil
	}
	out.List = parseImageList(read)
	controller, manager := scaling(read, "controller"), scaling(read, "manager")
	out.Autoscaling = controller == nil || manager == nil || *controller && *manager
	if out.Autoscaling && (controller == nil || manager == nil) {
		out.Warnings = append(out.Warnings, "kato does not tell whether autoscaling makes DEAs: it is taken for on")
	}
	if out.Autoscaling {
		out.Template = x.template(a, s)
	}
	return nil
}

// template is what the controllers' file says of what DEAs are made from, "" where that is not to be read. The file is on each controller, and the plugin on one (kato.md §7).
func (x *Images) template(a *attempt, s site) string {
	var all []string
	for _, node := range s.cluster.Nodes {
		if !node.HasRole("controller") {
			continue
		}
		t, err := s.of(node)
		if err != nil {
			continue
		}
		read, err := ask(a.ctx, x.Nodes.Connections, t.host, imageTemplateScript)
		if err != nil {
			continue
		}
		for line := range strings.Lines(read.sections["template"]) {
			if line = oneLine(line, 200); line != "" && !slices.Contains(all, line) {
				all = append(all, line)
			}
		}
	}
	return oneLine(strings.Join(all, ", "), 500)
}

// scaling is whether autoscaling is on, as one of the two processes has it; nil when kato did not say. An unknown key gives nothing, which is off.
func scaling(read answer, process string) *bool {
	text := read.sections["scaling-"+process]
	on, err := kato.ParseBool([]byte(text))
	switch {
	case err == nil:
		return &on
	case read.exit("scaling-"+process+"-exit") == 124: // kato hung
		return nil
	}
	return new(bool)
}

// parseImageList reads `kato config get fence docker/images --json`: a list, or one name.
func parseImageList(read answer) []string {
	if read.exit("images-exit") != 0 {
		return nil
	}
	return kato.ParseList([]byte(read.sections["images"]))
}

// TemplateInput asks for what autoscaling makes DEAs from.
type TemplateInput struct {
	Operation Operation `json:"operation"`
}

// DEATemplate reads what autoscaling makes DEAs from, as the controllers have it; "" where it is not to be read. It changes nothing.
func (x *Images) DEATemplate(ctx context.Context, in TemplateInput) (string, error) {
	a := begin(ctx, "reading the template of DEAs")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return "", err
	}
	text := x.template(a, s)
	if a.ctx.Err() != nil {
		return "", ended(a.ctx)
	}
	return text, nil
}
