package activities

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/docker"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// ImageInput is the input of a step on one DEA.
type ImageInput struct {
	NodeInput
	Images operation.ImageSettings `json:"images"`
	// Tag of the new image, without its repository: "upgrade-2014-09-19".
	Tag string `json:"tag"`
	// Timeout of a build, a pull or a push.
	Timeout operation.Duration `json:"timeout,omitempty"`
}

// built is the name with which an image is built, and pushed the one with which it goes to the registry.
func (in ImageInput) built() string  { return in.Images.Repository + ":" + in.Tag }
func (in ImageInput) pushed() string { return in.Images.Registry + ":" + in.Tag }

// ImagesResult is what a DEA has before anything is changed.
type ImagesResult struct {
	Docker string `json:"docker"`
	// Before is the id of the image that apps get now, Previous the one that they got before the last upgrade; "" for none.
	Before   string `json:"before,omitempty"`
	Previous string `json:"previous,omitempty"`
}

// LookAtImages reads what apps on a DEA get now. It changes nothing. Errors: Image when docker cannot be used there; Unreachable, and what package remote tells of a node.
func (x *Images) LookAtImages(ctx context.Context, in ImageInput) (ImagesResult, error) {
	a := begin(ctx, "what docker has")
	defer a.finish()
	_, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return ImagesResult{}, err
	}
	used := in.Images.Used()
	state, err := x.look(a, t, in.NodeInput, "", used+":"+operation.LatestTag, used+":"+operation.PreviousTag, in.Images.Repository+":"+operation.LatestTag)
	if err != nil {
		return ImagesResult{}, err
	}
	out := ImagesResult{Docker: oneLine(state.version.Text, 64), Before: state.images[0].ID, Previous: state.images[1].ID}
	if out.Before == "" { // nothing came from the registry yet: apps get the image of the node's own
		out.Before = state.images[2].ID
	}
	return out, nil
}

// look is images that a step needs: docker that cannot be used is its error.
func (x *Images) look(a *attempt, t target, in NodeInput, job string, names ...string) (state imageState, err error) {
	for began := a.since("docker"); ; { // it comes up some time after a boot
		err = a.persist(t.host.Name, in.UnreachableAfter.D(), job, func(ctx context.Context) (err error) {
			state, err = x.images(ctx, t, false, names...)
			return err
		})
		if err != nil || !state.down || time.Since(began) > min(in.UnreachableAfter.D(), dockerWithin) {
			break
		}
		if !a.pause(firstPause) {
			return state, ended(a.ctx)
		}
	}
	if err == nil && state.problem != "" {
		err = failJob(operation.ErrImage, t.host.Name, job, "", "%s", state.problem)
	}
	return state, err
}

// BuildImageInput is the input of a build.
type BuildImageInput struct {
	ImageInput
	// Anew builds also when there is an image of that day.
	Anew bool `json:"anew,omitempty"`
}

// BuildImageResult is the image of the day.
type BuildImageResult struct {
	JobResult
	ID     string `json:"id,omitempty"`
	Layers int    `json:"layers,omitempty"`
	// Built: it was not there before.
	Built bool `json:"built,omitempty"`
	// Changes are the packages that were upgraded in it, at most operation.MaxChanges, and Count all of them.
	Changes []operation.PackageChange `json:"changes,omitempty"`
	Count   int                       `json:"count,omitempty"`
}

// BuildImage builds the new base image (job `build`: docker build without cache from REPOSITORY:BASE, under a dated tag that nobody uses), unless there is one of that day on the same base. It is
// started at most once a try, and stopped when the operation is cancelled. A node that rebooted meanwhile is a result with Interrupted.
//
// Errors: Image when docker cannot be used, the base is not there, or the build ended well without package lists; RemoteExit when the build failed; Verify when it ended well and left no image on the base; DiskFull; Lost; Timeout; Unreachable;
// and what package remote tells of a node.
func (x *Images) BuildImage(ctx context.Context, in BuildImageInput) (BuildImageResult, error) {
	a := begin(ctx, "build the image")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return BuildImageResult{}, err
	}
	id := jobID(in.Operation, t.node.Name, operation.StepBuild, in.JobTry)
	job := x.Nodes.job(in.NodeInput, t, remote.JobSpec{ID: id}, in.Timeout.D())
	base := in.Images.Repository + ":" + in.Images.Base
	var begun remote.JobStatus
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), id.Dir(), func(ctx context.Context) (err error) {
		begun, err = x.Nodes.Jobs.Status(ctx, t.host, id)
		return err
	})
	if err != nil {
		return BuildImageResult{}, err
	}
	dockerfile := "" // one that was begun has it
	if begun.State == remote.JobAbsent && !in.Settle {
		state, err := x.look(a, t, in.NodeInput, "", base, in.built())
		if err != nil {
			return BuildImageResult{}, err
		}
		if state.images[0].ID == "" {
			return BuildImageResult{}, fail(operation.ErrImage, t.host.Name, "there is no image %s to build on", base)
		}
		if state.images[1].ID != "" && state.builtOn(1, 0) && !in.Anew {
			return BuildImageResult{ID: state.images[1].ID, Layers: state.layers(1)}, nil
		}
		dockerfile = s.dockerfile(base)
	}
	folder, err := x.place(a, t, in.ImageInput, dockerfile)
	if err != nil {
		return BuildImageResult{}, err
	}
	job.spec = s.buildJob(in.Operation, t, in.JobTry, in.built(), folder)
	end, err := job.run(a)
	if err != nil {
		return BuildImageResult{}, err
	}
	result, err := job.result(end)
	if err != nil || !result.Started || result.Interrupted {
		return BuildImageResult{JobResult: result}, err
	}
	state, err := x.look(a, t, in.NodeInput, id.Dir(), base, in.built())
	if err != nil {
		return BuildImageResult{}, err
	}
	if state.images[1].ID == "" || !state.builtOn(1, 0) {
		return BuildImageResult{JobResult: result}, failJob(operation.ErrVerify, t.host.Name, id.Dir(), remote.Tail(end.tail, maxTail), "docker build ended well, and there is no image %s on %s", in.built(), base)
	}
	text, err := x.Nodes.output(a, t, in.NodeInput, id)
	if err != nil {
		return BuildImageResult{}, err
	}
	said := parseTranscript(text)
	if failed := parseRefresh(text); failed > 0 || said.broken || said.locked {
		why := "packages in it were left unfinished"
		if failed > 0 {
			why = fmt.Sprintf("apt-get update could not fetch %d of its lists", failed)
		}
		return BuildImageResult{JobResult: result}, failJob(operation.ErrImage, t.host.Name, id.Dir(), remote.Tail(end.tail, maxTail), "the image was built and is not used: %s; see its output, mend that, and retry", why)
	}
	changes := said.changes
	return BuildImageResult{JobResult: result, ID: state.images[1].ID, Layers: state.layers(1), Built: true, Changes: changes[:min(len(changes), operation.MaxChanges)], Count: len(changes)}, nil
}

// place writes the Dockerfile on the node, if there is one, and returns its folder.
func (x *Images) place(a *attempt, t target, in ImageInput, dockerfile string) (string, error) {
	var read answer
	err := a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		read, err = ask(ctx, x.Nodes.Connections, t.host, imagePlaceScript, in.Tag, dockerfile)
		return err
	})
	if err != nil {
		return "", err
	}
	if folder := read.value("unwritable"); folder != "" {
		return "", fail(operation.ErrDiskFull, t.host.Name, "the Dockerfile cannot be written to %s: free some space there, or correct its rights", remote.Escape(folder))
	}
	return read.value("folder"), nil
}

// CheckImageInput names the image that is looked into.
type CheckImageInput struct {
	ImageInput
	ID string `json:"id"`
}

// CheckImageResult is what an image is like that starts.
type CheckImageResult struct {
	JobResult
	// Pending are security packages that its lists have newer ones of.
	Pending []string `json:"pending,omitempty"`
}

// imageCheck is run in a container, after what fetches the package lists: it prints what is unfinished and pending there, as the scripts of this package do.
const imageCheck = ` apt-get -qq update >/dev/null 2>&1 || echo "@katoflow old-lists 1"; echo "@katoflow section audit"; dpkg --audit; echo "@katoflow section pending"; LC_ALL=C apt-get -s -o Debug::NoLocking=true dist-upgrade | grep -E "^(Inst|E:) "; echo "@katoflow end"`

// CheckImage starts a container from the image and looks into it (job `check-image`): that it starts, that no package is half configured, and which security packages are pending.
//
// Errors: Image when it does not start, or has half configured packages; Interrupted when the node rebooted; Lost, Timeout, Unreachable and what package remote tells of a node.
func (x *Images) CheckImage(ctx context.Context, in CheckImageInput) (CheckImageResult, error) {
	a := begin(ctx, "look into the image")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return CheckImageResult{}, err
	}
	job := x.Nodes.job(in.NodeInput, t, s.checkImageJob(in.Operation, t, in.JobTry, in.ID), checkCeiling)
	end, err := job.run(a)
	if err != nil {
		return CheckImageResult{}, err
	}
	name := job.spec.ID.Dir()
	result, err := job.result(end)
	if end.State == remote.JobExited && end.ExitCode != 0 && !end.NeverStarted {
		return CheckImageResult{JobResult: result}, failJob(operation.ErrImage, t.host.Name, name, remote.Tail(end.tail, maxTail), "the new image does not start (exit code %d): %s", end.ExitCode, oneLine(tellingLine(string(end.tail)), 300))
	}
	if err != nil || !result.Started {
		return CheckImageResult{JobResult: result}, err
	}
	if result.Interrupted {
		return CheckImageResult{JobResult: result}, failJob(operation.ErrInterrupted, t.host.Name, name, "", "the node rebooted while the image was looked into: retry")
	}
	text, err := x.Nodes.output(a, t, in.NodeInput, job.spec.ID)
	if err != nil {
		return CheckImageResult{}, err
	}
	read := parseAnswer([]byte(text))
	if !read.complete {
		return CheckImageResult{JobResult: result}, failJob(operation.ErrImage, t.host.Name, name, remote.Tail(end.tail, maxTail), "the new image starts and its shell does not do what it should")
	}
	if audit := strings.TrimSpace(read.sections["audit"]); audit != "" {
		return CheckImageResult{JobResult: result}, failJob(operation.ErrImage, t.host.Name, name, remote.Tail(end.tail, maxTail), "packages in the new image are half configured: %s", oneLine(audit, 300))
	}
	pending, trouble := parsePending(read.sections["pending"])
	if trouble != "" {
		result.Notes = append(result.Notes, notes("apt-get cannot plan an upgrade in the image: "+trouble)...)
	}
	if read.value("old-lists") != "" {
		result.Notes = append(result.Notes, notes("the package lists could not be fetched in the image: what is pending there is by those that it was built with")...)
	}
	names := securityNames(pending)
	return CheckImageResult{JobResult: result, Pending: names[:min(len(names), 2*maxFailures)]}, nil
}

// PushImageInput names the image that goes to the registry.
type PushImageInput struct {
	ImageInput
	ID string `json:"id"`
}

// PushImageResult is what the registry calls it.
type PushImageResult struct {
	JobResult
	// Digest is "" where docker, or the registry, has none (before 1.6, and registries of the first version).
	Digest string `json:"digest,omitempty"`
}

// PushImage sends the image to the registry (jobs `name-image` and `push`). Pushing it again is harmless.
//
// Errors: RemoteExit when the registry does not take it; Interrupted when the node rebooted; Lost, Timeout, Unreachable and what package remote tells of a node.
func (x *Images) PushImage(ctx context.Context, in PushImageInput) (PushImageResult, error) {
	a := begin(ctx, "push the image")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return PushImageResult{}, err
	}
	var state imageState
	if !in.Settle {
		if state, err = x.look(a, t, in.NodeInput, "", in.ID); err != nil {
			return PushImageResult{}, err
		}
	}
	naming := x.Nodes.job(in.NodeInput, t, s.tagJob(in.Operation, t, operation.JobNameImage, in.JobTry, state.version, in.ID, in.pushed()), tagCeiling)
	pushing := x.Nodes.job(in.NodeInput, t, s.pushJob(in.Operation, t, in.JobTry, in.pushed()), in.Timeout.D())
	var result JobResult
	for _, job := range []jobRun{naming, pushing} {
		if result, err = x.through(a, t, job); err != nil {
			return PushImageResult{JobResult: result}, err
		}
	}
	if in.Settle {
		return PushImageResult{JobResult: result}, nil
	}
	if state, err = x.look(a, t, in.NodeInput, pushing.spec.ID.Dir(), in.ID); err != nil {
		return PushImageResult{}, err
	}
	digest := state.images[0].DigestIn(in.Images.Registry)
	if digest == "" { // versions before 1.11 only print it
		text, err := x.Nodes.output(a, t, in.NodeInput, pushing.spec.ID)
		if err != nil {
			return PushImageResult{}, err
		}
		digest = docker.ParseDigest(text)
	}
	return PushImageResult{JobResult: result, Digest: digest}, nil
}

// through runs a job to its end, for which only exit code 0 is good and which a retry does again after a reboot.
func (x *Images) through(a *attempt, t target, job jobRun) (JobResult, error) {
	end, err := job.run(a)
	if err != nil {
		return JobResult{}, err
	}
	result, err := job.result(end)
	if err == nil && result.Interrupted {
		err = failJob(operation.ErrInterrupted, t.host.Name, job.spec.ID.Dir(), "", "the node rebooted in the middle of %s: retry", job.spec.ID.Step)
	}
	return result, err
}

// PullImageInput names the image that is fetched.
type PullImageInput struct {
	ImageInput
	// Digest of the image that the first node has pushed, "" where docker has none; ID is its id there.
	Digest string `json:"digest,omitempty"`
	ID     string `json:"id"`
}

// PullImageResult is the image as this node has it.
type PullImageResult struct {
	JobResult
	ID     string `json:"id,omitempty"`
	Layers int    `json:"layers,omitempty"`
}

// PullImage fetches the image that the first node has pushed (job `pull`), by its digest, so that it is that one and no other, and gives it the name of the day (job `name-image`).
//
// Errors: RemoteExit when the registry does not give it; Verify when the node has another image afterwards; Interrupted, Lost, Timeout, Unreachable and what package remote tells of a node.
func (x *Images) PullImage(ctx context.Context, in PullImageInput) (PullImageResult, error) {
	a := begin(ctx, "pull the image")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return PullImageResult{}, err
	}
	var state imageState
	if !in.Settle {
		if state, err = x.look(a, t, in.NodeInput, ""); err != nil {
			return PullImageResult{}, err
		}
	}
	digest := in.Digest
	if !state.version.HasDigests() {
		digest = ""
	}
	name := in.pushed()
	if digest != "" {
		name = in.Images.Registry + "@" + digest
	}
	job := x.Nodes.job(in.NodeInput, t, s.pullJob(in.Operation, t, in.JobTry, name), in.Timeout.D())
	result, err := x.through(a, t, job)
	if err != nil || !result.Started || in.Settle {
		return PullImageResult{JobResult: result}, err
	}
	if state, err = x.look(a, t, in.NodeInput, job.spec.ID.Dir(), name); err != nil {
		return PullImageResult{}, err
	}
	// A digest is proof; ids may be given anew by the registry, or by docker.
	id := state.images[0].ID
	if id == "" || digest == "" && id != in.ID {
		return PullImageResult{JobResult: result}, failJob(operation.ErrVerify, t.host.Name, job.spec.ID.Dir(), "", "docker pull ended well, and %s is image %q, not %s as on the first node", name, docker.ShortID(id), docker.ShortID(in.ID))
	}
	// The day's name tells a rollback which DEAs have had this upgrade.
	naming := x.Nodes.job(in.NodeInput, t, s.tagJob(in.Operation, t, operation.JobNameImage, in.JobTry, state.version, id, in.pushed()), tagCeiling)
	if _, err := x.through(a, t, naming); err != nil {
		return PullImageResult{JobResult: result}, err
	}
	return PullImageResult{JobResult: result, ID: id, Layers: state.layers(0)}, nil
}

// TagImageInput says what latest becomes.
type TagImageInput struct {
	ImageInput
	// ID becomes latest; Keep, the image that was, is kept as PreviousTag ("" for none).
	ID   string `json:"id"`
	Keep string `json:"keep,omitempty"`
	// Rollback makes latest the image first, because ID may have no other name than PreviousTag.
	Rollback bool `json:"rollback,omitempty"`
}

// TagImageResult says what latest is now.
type TagImageResult struct {
	JobResult
	Latest string `json:"latest,omitempty"`
}

// TagImage makes an image the one that apps get from now on (job `latest-image`), and keeps the one that they got (job `keep-image`). Both are started at most once a try; in a try that was done
// before nothing is done.
//
// Errors: Verify when latest is not the image afterwards; RemoteExit, Interrupted, Lost, Unreachable and what package remote tells of a node.
func (x *Images) TagImage(ctx context.Context, in TagImageInput) (TagImageResult, error) {
	a := begin(ctx, "make the image the latest")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return TagImageResult{}, err
	}
	latest := in.Images.Used() + ":" + operation.LatestTag
	state, err := x.look(a, t, in.NodeInput, "", latest)
	if err != nil {
		return TagImageResult{}, err
	}
	moving := x.Nodes.job(in.NodeInput, t, s.tagJob(in.Operation, t, operation.JobLatestImage, in.JobTry, state.version, in.ID, latest), tagCeiling)
	jobs := []jobRun{moving}
	if in.Keep != "" && in.Keep != in.ID {
		keeping := x.Nodes.job(in.NodeInput, t, s.tagJob(in.Operation, t, operation.JobKeepImage, in.JobTry, state.version, in.Keep, in.Images.Used()+":"+operation.PreviousTag), tagCeiling)
		if jobs = []jobRun{keeping, moving}; in.Rollback {
			jobs = []jobRun{moving, keeping}
		}
	}
	var out TagImageResult
	for _, job := range jobs {
		result, err := x.through(a, t, job)
		if err != nil {
			return out, err
		}
		out.Started = out.Started || result.Started
		out.Notes = append(out.Notes, result.Notes...)
	}
	if state, err = x.look(a, t, in.NodeInput, moving.spec.ID.Dir(), latest); err != nil {
		return out, err
	}
	out.Latest = state.images[0].ID
	if in.Settle {
		return out, nil
	}
	// A try from before a Reset, which may have had another image, counts as it is.
	if out.Latest != in.ID && len(out.Notes) == 0 {
		return out, failJob(operation.ErrVerify, t.host.Name, moving.spec.ID.Dir(), "", "docker tag ended well, and %s is image %q, not %s", latest, docker.ShortID(out.Latest), docker.ShortID(in.ID))
	}
	return out, nil
}

// --- the commands ------------------------------------------------------------------------------------------------------------------------

// dockerfile is that of the source page, with answers to what apt-get and dpkg may ask. The variables are for the commands alone and no part of the image.
func (s site) dockerfile(base string) string {
	run := "RUN " + strings.Join(s.aptEnvironment(), " ")
	return fmt.Sprintf("FROM %s\n%s apt-get update\n%s unattended-upgrades -d\nRUN apt-get clean && DEBIAN_FRONTEND=noninteractive apt-get -y autoremove\n", base, run, run)
}

// aptEnvironment are the assignments before a command of apt in a container.
func (s site) aptEnvironment() []string {
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if value := s.proxy()[name]; value != "" {
			env = append(env, name+"="+remote.Quote([]string{value}))
		}
	}
	return env
}

func (s site) buildJob(op Operation, t target, try int, name, folder string) remote.JobSpec {
	spec := asRoot(op, t, operation.StepBuild, try, docker.Build(name, folder)...)
	spec.Interruptible = true
	return spec
}

func (s site) checkImageJob(op Operation, t target, try int, image string) remote.JobSpec {
	spec := asRoot(op, t, operation.StepCheckImage, try, docker.Run(image, "sh", "-c", strings.Join(s.aptEnvironment(), " ")+imageCheck)...)
	spec.Interruptible = true
	return spec
}

func (s site) pushJob(op Operation, t target, try int, name string) remote.JobSpec {
	spec := asRoot(op, t, operation.StepPush, try, docker.Push(name)...)
	spec.Interruptible = true
	return spec
}

func (s site) pullJob(op Operation, t target, try int, name string) remote.JobSpec {
	spec := asRoot(op, t, operation.StepPull, try, docker.Pull(name)...)
	spec.Interruptible = true
	return spec
}

// tagJob is over in a moment, and may not be interrupted: latest would be nobody knows what.
func (s site) tagJob(op Operation, t target, step string, try int, v docker.Version, image, name string) remote.JobSpec {
	return asRoot(op, t, step, try, docker.Tag(v, image, name)...)
}
