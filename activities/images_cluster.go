package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/katoflow/katoflow/internal/docker"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// ImageListInput names the image that apps get first.
type ImageListInput struct {
	NodeInput
	// First is the image's name.
	First string `json:"first"`
}

// ImageListResult is the list of images that apps get, before and now.
type ImageListResult struct {
	JobResult
	Before []string `json:"before,omitempty"`
	List   []string `json:"list,omitempty"`
}

// SetImageList makes an image the first of those that kato gives to app containers, for the whole cluster, and leaves the others behind it (job `image-list` on the Core: kato config set fence
// docker/images, kato.md §7). Where it is the first already nothing is done. kato's exit code is not believed: the list is read again.
//
// Errors: Verify when kato does not tell the list, or tells another one afterwards; RemoteExit, Interrupted, Lost, Unreachable and what package remote tells of a node.
func (x *Images) SetImageList(ctx context.Context, in ImageListInput) (ImageListResult, error) {
	a := begin(ctx, "the list of images")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return ImageListResult{}, err
	}
	read := func(job string) (list []string, err error) {
		var got answer
		err = a.persist(t.host.Name, in.UnreachableAfter.D(), job, func(ctx context.Context) (err error) {
			got, err = ask(ctx, x.Nodes.Connections, t.host, imageListScript, katoSeconds(s), s.cluster.Kato.Path)
			return err
		})
		if err == nil {
			if list = parseImageList(got); len(list) == 0 {
				err = failJob(operation.ErrVerify, t.host.Name, job, "", "kato does not tell which images apps get: see kato config get fence docker/images")
			}
		}
		return list, err
	}
	before, err := read("")
	if err != nil {
		return ImageListResult{}, err
	}
	out := ImageListResult{Before: before, List: before}
	if before[0] == in.First {
		return out, nil
	}
	wanted := append([]string{in.First}, slices.DeleteFunc(slices.Clone(before), func(name string) bool { return name == in.First })...)
	job := x.Nodes.job(in.NodeInput, t, s.imageListJob(in.Operation, in.JobTry, wanted), tagCeiling)
	if out.JobResult, err = x.through(a, t, job); err != nil || in.Settle {
		return out, err
	}
	if out.List, err = read(job.spec.ID.Dir()); err != nil {
		return out, err
	}
	if out.List[0] != in.First {
		return out, failJob(operation.ErrVerify, t.host.Name, job.spec.ID.Dir(), "", "kato config set ended well, and apps get %s first, not %s", oneLine(out.List[0], 100), in.First)
	}
	return out, nil
}

func (s site) imageListJob(op Operation, try int, names []string) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, operation.ClusterNode, operation.StepImageList, try), Lease: lease(op), Argv: s.kato().SetImages(names), Login: true, Interruptible: true}
}

// OldImagesInput asks which apps run on an older image.
type OldImagesInput struct {
	Operation Operation               `json:"operation"`
	Images    operation.ImageSettings `json:"images"`
	// List are further names under which apps get base images, or got them before.
	List []string `json:"list,omitempty"`
	// Now is the new image, by DEA; containers of any other image of these names run on an older one. A DEA that does not have it is asked, too: all of its containers do.
	Now map[string]string `json:"now"`
}

// OldImagesResult is what runs on an older image.
type OldImagesResult struct {
	Apps []operation.OldApp `json:"apps,omitempty"`
	// Containers and AppCount count all of them; Apps holds at most operation.MaxOldApps.
	Containers int `json:"containers"`
	AppCount   int `json:"appCount"`
	// Unasked are nodes that could not be asked, with the reason.
	Unasked []string `json:"unasked,omitempty"`
}

// oldContainer is one that runs on an older image.
type oldContainer struct{ node, id, guid, name string }

// OldImages asks the DEAs, by what docker says of each container that runs, which were made from an older base image, and of which app they are. It only reads. A node that does not answer is in the
// result; the error says that the inventory has changed.
func (x *Images) OldImages(ctx context.Context, in OldImagesInput) (OldImagesResult, error) {
	a := begin(ctx, "which image apps run on")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return OldImagesResult{}, err
	}
	var names []string
	var targets []target
	for _, node := range s.cluster.Nodes {
		if !node.HasRole("dea") {
			continue
		}
		t, err := s.of(node)
		if err != nil {
			return OldImagesResult{}, err
		}
		names, targets = append(names, node.Name), append(targets, t)
	}
	found, problems := make([][]oldContainer, len(names)), make([]string, len(names))
	each(len(names), func(i int) {
		var err error
		for try := 0; try < 2; try++ { // a connection lost by chance is no problem of the node
			if found[i], err = x.oldOn(a.ctx, targets[i], in); !remote.IsKind(err, remote.KindTransport) || sleep(a.ctx, firstPause) != nil {
				break
			}
		}
		if err != nil {
			problems[i] = oneLine(names[i]+": "+withoutNode(failureOf(err).Message, targets[i].host.Name), 300)
		}
	})
	if a.ctx.Err() != nil {
		return OldImagesResult{}, ended(a.ctx)
	}
	out := OldImagesResult{Unasked: notes(problems...)}
	index := map[string]int{}
	for _, all := range found {
		for _, c := range all {
			out.Containers++
			key := c.guid
			if key == "" {
				key = c.id
			}
			at, there := index[key]
			if !there {
				at = len(out.Apps)
				index[key] = at
				out.Apps = append(out.Apps, operation.OldApp{GUID: c.guid, App: c.name})
			}
			app := &out.Apps[at]
			app.Containers = append(app.Containers, docker.ShortID(c.id))
			if !slices.Contains(app.Nodes, c.node) {
				app.Nodes = append(app.Nodes, c.node)
			}
		}
	}
	out.AppCount = len(out.Apps)
	x.nameApps(a.ctx, s, out.Apps)
	slices.SortStableFunc(out.Apps, func(a, b operation.OldApp) int { return strings.Compare(a.App, b.App) })
	out.Apps = out.Apps[:min(len(out.Apps), operation.MaxOldApps)]
	return out, nil
}

// oldOn is one node.
func (x *Images) oldOn(ctx context.Context, t target, in OldImagesInput) ([]oldContainer, error) {
	sudo := flag(t.host.User != "root")
	read, err := ask(ctx, x.Nodes.Connections, t.host, imageContainersScript, sudo)
	if err != nil {
		return nil, err
	}
	if code := read.exit("ps-exit"); code != 0 {
		return nil, fail(operation.ErrImage, t.host.Name, "%s", docker.DaemonProblem(read.sections["ps"], code))
	}
	names := map[string]bool{in.Images.Repository: true}
	for _, name := range append([]string{in.Images.Registry}, in.List...) {
		if name, _ = docker.SplitTag(name); name != "" {
			names[name] = true
		}
	}
	var ids []string
	for _, c := range docker.ParseContainers(read.sections["containers"]) {
		name, _ := docker.SplitTag(c.ImageName)
		if c.ImageID != "" && c.ImageID != in.Now[t.node.Name] && (names[name] || c.ImageName == c.ImageID) {
			ids = append(ids, c.ID)
		}
	}
	var all []oldContainer
	version, _ := docker.ParseVersion(read.value("version"))
	for part := range slices.Chunk(ids, 50) {
		known := map[string][2]string{}
		if version.HasExec() {
			// Names are a help: a container whose app cannot be asked is told by its id.
			if read, err = ask(ctx, x.Nodes.Connections, t.host, imageAppsScript, append([]string{sudo}, part...)...); err != nil {
				x.log(in.Operation, t.node.Name, err)
			}
			for _, line := range read.values["app"] {
				words := strings.SplitN(line, " ", 3)
				if len(words) >= 2 && words[1] != "-" {
					known[words[0]] = [2]string{oneLine(words[1], 64), oneLine(strings.Join(words[2:], ""), 120)}
				}
			}
		}
		for _, id := range part {
			all = append(all, oldContainer{node: t.node.Name, id: id, guid: known[id][0], name: known[id][1]})
		}
	}
	return all, nil
}

func (x *Images) log(op Operation, node string, err error) {
	logOf(x.Nodes.Logger, op, node, operation.StepAppsImage).Info("the apps of containers were not read: " + failureOf(err).Message)
}

// nameApps adds the orgs and spaces of apps, as the Cloud Controller has them. Without it, or where it does not answer, their names are what the containers said.
func (x *Images) nameApps(ctx context.Context, s site, apps []operation.OldApp) {
	if len(apps) == 0 || s.cluster.Controller == nil {
		return
	}
	c, err := s.controller(x.Nodes.Logger)
	if err != nil {
		return
	}
	defer c.Close()
	tree, err := c.AppTree(ctx)
	if err != nil {
		return
	}
	names := map[string]string{}
	for _, app := range tree {
		names[app.GUID] = placed(app).String()
	}
	for i := range apps {
		if name := names[apps[i].GUID]; name != "" {
			apps[i].App = name
		}
	}
}

// PlanImagesInput asks for the commands of a dry run.
type PlanImagesInput struct {
	Operation Operation               `json:"operation"`
	Nodes     []operation.PlannedNode `json:"nodes"`
	Images    operation.ImageSettings `json:"images"`
	Tag       string                  `json:"tag"`
	Rollback  bool                    `json:"rollback,omitempty"`
	// List are the images that apps get now, where the registry's comes before them.
	List []string `json:"list,omitempty"`
}

// PlanImages returns the commands of a dry run, made by the same code as those of a real one. It changes nothing: nodes are asked for the version of docker, which says how a tag is moved, and where
// the Dockerfile will be.
func (x *Images) PlanImages(ctx context.Context, in PlanImagesInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	plans := make([][]operation.PlannedCommand, len(in.Nodes))
	errs := make([]error, len(in.Nodes))
	each(len(in.Nodes), func(i int) {
		input := ImageInput{NodeInput: NodeInput{Operation: in.Operation, Node: in.Nodes[i]}, Images: in.Images, Tag: in.Tag}
		plans[i], errs[i] = x.planNode(a, s, input, in.Rollback, in.Images.Registry != "" && i > 0)
	})
	var out PlanCommandsResult
	for i, planned := range in.Nodes {
		if errs[i] != nil {
			return PlanCommandsResult{}, errs[i]
		}
		out.add(planned.Name, plans[i])
	}
	if core, err := s.core(); err == nil && in.Images.Registry != "" && !in.Rollback && len(in.List) > 0 && in.List[0] != in.Images.Registry {
		wanted := append([]string{in.Images.Registry}, in.List...)
		out.add(operation.ClusterNode, []operation.PlannedCommand{{Step: operation.StepImageList, Command: show(s.imageListJob(in.Operation, 1, wanted)),
			Note: "on " + core.node.Name + ", after the last node"}})
	}
	return out, nil
}

func (x *Images) planNode(a *attempt, s site, in ImageInput, rollback, pulls bool) ([]operation.PlannedCommand, error) {
	t, err := s.target(in.Node.Name)
	if err != nil {
		return nil, err
	}
	state, err := x.look(a, t, in.NodeInput, "")
	if err != nil {
		return nil, err
	}
	var commands []operation.PlannedCommand
	add := func(step string, spec remote.JobSpec, note string) {
		commands = append(commands, operation.PlannedCommand{Step: step, Command: show(spec), Note: note})
	}
	latest, previous := in.Images.Used()+":"+operation.LatestTag, in.Images.Used()+":"+operation.PreviousTag
	if rollback {
		add(operation.StepTag, s.tagJob(in.Operation, t, operation.JobLatestImage, 1, state.version, previous, latest), "by the image's id")
		add(operation.StepTag, s.tagJob(in.Operation, t, operation.JobKeepImage, 1, state.version, latest, previous), "by the id of the image that was latest before")
		return commands, nil
	}
	name := in.built()
	if pulls {
		name = in.Images.Registry + "@DIGEST"
		if !state.version.HasDigests() {
			name = in.pushed()
		}
		add(operation.StepPull, s.pullJob(in.Operation, t, 1, name), "the digest is that of the first node's image")
	} else {
		folder, err := x.place(a, t, in, "")
		if err != nil {
			return nil, err
		}
		base := in.Images.Repository + ":" + in.Images.Base
		add(operation.StepBuild, s.buildJob(in.Operation, t, 1, name, folder),
			fmt.Sprintf("unless that image is there; Dockerfile: %s", strings.Join(strings.Split(strings.TrimSpace(s.dockerfile(base)), "\n"), "; ")))
	}
	add(operation.StepCheckImage, s.checkImageJob(in.Operation, t, 1, name), "by the image's id")
	if in.Images.Registry != "" && !pulls {
		add(operation.StepPush, s.tagJob(in.Operation, t, operation.JobNameImage, 1, state.version, name, in.pushed()), "")
		add(operation.StepPush, s.pushJob(in.Operation, t, 1, in.pushed()), "")
	}
	add(operation.StepTag, s.tagJob(in.Operation, t, operation.JobKeepImage, 1, state.version, latest, previous), "by the id of the image that is latest now")
	add(operation.StepTag, s.tagJob(in.Operation, t, operation.JobLatestImage, 1, state.version, name, latest), "by the image's id")
	return commands, nil
}
