package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// nodeImageInput is the task, and which image the DEA gets.
type nodeImageInput struct {
	nodeTask
	Images operation.ImageSettings `json:"images"`
	// Tag of the new image, without its repository.
	Tag      string `json:"tag"`
	Rollback bool   `json:"rollback,omitempty"`
	// Alone: the DEA is left as it is.
	Alone bool `json:"alone,omitempty"`
	// Pulled is the image that the first node has pushed; nil where it is built here.
	Pulled *operation.ImageProgress `json:"pulled,omitempty"`
}

// ImageUpgradeNode does the steps of one DEA.
func ImageUpgradeNode(ctx workflow.Context, in nodeImageInput) (nodeResult, error) {
	n := &nodeImage{in: in, nodeRun: nodeRun{nodeTask: in.nodeTask}}
	return n.see(ctx, n)
}

// nodeImage is the state of one DEA's child.
type nodeImage struct {
	nodeRun
	in nodeImageInput
}

func (n *nodeImage) steps() []nodeStep {
	begin := []nodeStep{{operation.StepProbe, n.probe}, {operation.StepImages, n.look}}
	end := []nodeStep{{operation.StepTag, n.tag}, {operation.StepGates, n.gates}}
	switch {
	case n.in.Alone:
		return []nodeStep{{operation.StepProbe, n.leave}}
	case n.in.Rollback:
		return append(begin, end...)
	case n.in.Pulled != nil:
		return append(append(begin, nodeStep{operation.StepPull, n.pull}, nodeStep{operation.StepCheckImage, n.check}), end...)
	case n.in.Images.Registry != "":
		return append(append(begin, nodeStep{operation.StepBuild, n.build}, nodeStep{operation.StepCheckImage, n.check}, nodeStep{operation.StepPush, n.push}), end...)
	}
	return append(append(begin, nodeStep{operation.StepBuild, n.build}, nodeStep{operation.StepCheckImage, n.check}), end...)
}

func (n *nodeImage) firstJobTry(step string) int {
	if step == operation.StepCheckImage && n.progress.Image != nil {
		return 1 + n.progress.Image.Checks
	}
	return 1
}

// backTo: an image that is not as it must be is built anew.
func (n *nodeImage) backTo(f *operation.Failure) (string, int) {
	if f.Type != operation.ErrImage || n.in.Pulled != nil {
		return "", 0
	}
	i := n.image()
	switch n.at.Step {
	case operation.StepBuild:
		i.Anew = true
		return operation.StepBuild, n.jobTry + 1
	case operation.StepCheckImage:
		i.Anew = true
		return operation.StepBuild, i.BuildTries + 1
	}
	return "", 0
}

// image is what was found so far; it is a copy of what a former try has found.
func (n *nodeImage) image() *operation.ImageProgress {
	found := operation.ImageProgress{}
	if n.progress.Image != nil {
		found = *n.progress.Image
	}
	n.progress.Image = &found
	return n.progress.Image
}

func (n *nodeImage) imageInput() activities.ImageInput {
	return activities.ImageInput{NodeInput: n.input(), Images: n.in.Images, Tag: n.in.Tag, Timeout: n.Plan.UpgradeTimeout}
}

// leave is a rollback on a DEA that did not have the upgrade.
func (n *nodeImage) leave(workflow.Context) error {
	n.note("left as it is: it did not have the upgrade that is rolled back")
	return nil
}

// look keeps what apps get now, so that a later try does not take the new image for it.
func (n *nodeImage) look(ctx workflow.Context) error {
	var images *activities.Images
	var out activities.ImagesResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("what docker has"), n.Plan.UnreachableAfter.D()), images.LookAtImages, n.imageInput()).Get(ctx, &out); err != nil {
		return err
	}
	i := n.image()
	i.Docker, i.Before, i.Previous = out.Docker, out.Before, out.Previous
	i.Tag = n.in.Images.Used() + ":" + n.in.Tag
	if n.in.Rollback {
		i.ID, i.Tag = out.Previous, n.in.Images.Used()+":"+operation.PreviousTag
		if i.ID == "" {
			return operation.NewError(operation.Failure{Type: operation.ErrImage, Message: fmt.Sprintf("%s: there is no image %s to go back to", n.Node.Name, i.Tag)})
		}
	}
	return nil
}

// build makes the new image; nothing uses it yet. A reboot of the node in the middle is told, and it is built once more.
func (n *nodeImage) build(ctx workflow.Context) error {
	var images *activities.Images
	for again := false; ; again = true {
		var out activities.BuildImageResult
		if err := workflow.ExecuteActivity(following(ctx, n.summary("docker build"), n.ceiling()), images.BuildImage,
			activities.BuildImageInput{ImageInput: n.imageInput(), Anew: n.image().Anew}).Get(ctx, &out); err != nil {
			return err
		}
		n.note(out.Notes...)
		if !out.Interrupted {
			i := n.image()
			i.ID, i.Layers, i.Built, i.BuildTries = out.ID, out.Layers, out.Built, n.jobTry
			n.progress.Changes, n.progress.ChangeCount = out.Changes, out.Count
			if !out.Built {
				n.note("the image of this day was there already: not built again")
			}
			return nil
		}
		if again {
			return operation.NewError(operation.Failure{Type: operation.ErrInterrupted, Message: n.Node.Name + ": the node rebooted again while the image was built: see why, then retry"})
		}
		n.note("the node rebooted while the image was built: built again")
		n.jobTry++
	}
}

// pull fetches the image that the first node has pushed.
func (n *nodeImage) pull(ctx workflow.Context) error {
	var images *activities.Images
	var out activities.PullImageResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("docker pull"), n.ceiling()), images.PullImage,
		activities.PullImageInput{ImageInput: n.imageInput(), Digest: n.in.Pulled.Digest, ID: n.in.Pulled.ID}).Get(ctx, &out); err != nil {
		return err
	}
	n.note(out.Notes...)
	i := n.image()
	i.ID, i.Layers, i.Digest = out.ID, out.Layers, n.in.Pulled.Digest
	return nil
}

// check starts the image. One of the same day that was there and is not current any more is built anew.
func (n *nodeImage) check(ctx workflow.Context) error {
	var images *activities.Images
	for {
		i := n.image()
		i.Checks = max(i.Checks, n.jobTry)
		var out activities.CheckImageResult
		if err := workflow.ExecuteActivity(following(ctx, n.summary("look into the image"), n.ceiling()), images.CheckImage,
			activities.CheckImageInput{ImageInput: n.imageInput(), ID: i.ID}).Get(ctx, &out); err != nil {
			return err
		}
		n.note(out.Notes...)
		if len(out.Pending) == 0 {
			return nil
		}
		pending := fmt.Sprintf("%s still pending in the image: %s", count(len(out.Pending), "security package"), oneLine(strings.Join(bound(out.Pending, 5), ", "), 200))
		switch {
		case n.in.Pulled != nil || i.Built && n.progress.ChangeCount > 0:
			n.note(pending) // held back, as unattended-upgrades is configured there
			return nil
		case i.Built:
			return operation.NewError(operation.Failure{Type: operation.ErrImage, Message: fmt.Sprintf(
				"%s: %s, and unattended-upgrades changed nothing: see how it is configured in the image", n.Node.Name, pending)})
		}
		n.note(pending + ": built anew")
		i.Anew = true
		try := n.at.Try
		n.enter(ctx, operation.StepBuild, try, i.BuildTries+1)
		if err := n.build(ctx); err != nil {
			return err
		}
		n.enter(ctx, operation.StepCheckImage, try, 1+n.image().Checks)
	}
}

// push sends the image to the registry, from where the other nodes fetch it.
func (n *nodeImage) push(ctx workflow.Context) error {
	var images *activities.Images
	var out activities.PushImageResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("docker push"), n.ceiling()), images.PushImage,
		activities.PushImageInput{ImageInput: n.imageInput(), ID: n.image().ID}).Get(ctx, &out); err != nil {
		return err
	}
	n.note(out.Notes...)
	n.image().Digest = out.Digest
	return nil
}

func (n *nodeImage) tagInput() activities.TagImageInput {
	i := n.image()
	return activities.TagImageInput{ImageInput: n.imageInput(), ID: i.ID, Keep: i.Before, Rollback: n.in.Rollback}
}

// tag makes the image the one that apps get from here on.
func (n *nodeImage) tag(ctx workflow.Context) error {
	var images *activities.Images
	var out activities.TagImageResult
	if err := workflow.ExecuteActivity(following(ctx, n.summary("docker tag: "+operation.LatestTag), n.Plan.UnreachableAfter.D()), images.TagImage, n.tagInput()).Get(ctx, &out); err != nil {
		return err
	}
	n.note(out.Notes...)
	i := n.image()
	i.Moved, i.ID = true, out.Latest // after a Reset it is what the try from before has made it
	return nil
}

func (n *nodeImage) stateBefore(step string) string {
	switch {
	case n.progress.Image != nil && n.progress.Image.Moved:
		return "apps get the new image, its gates were not awaited"
	case step == operation.StepCheckImage || step == operation.StepPush || step == operation.StepTag:
		return "apps get the image that they got before; the new one is there and not used"
	}
	return "untouched: apps get the image that they got before"
}

func (n *nodeImage) settle(ctx workflow.Context) nodeResult {
	var images *activities.Images
	state, err := n.stateBefore(n.at.Step), error(nil)
	base := n.imageInput()
	base.Settle = true
	const summary = "cancel: let docker end"
	switch n.at.Step {
	case operation.StepBuild:
		err = workflow.ExecuteActivity(following(ctx, n.summary(summary), n.ceiling()), images.BuildImage, activities.BuildImageInput{ImageInput: base}).Get(ctx, nil)
	case operation.StepPull:
		err = workflow.ExecuteActivity(following(ctx, n.summary(summary), n.ceiling()), images.PullImage, activities.PullImageInput{ImageInput: base}).Get(ctx, nil)
	case operation.StepCheckImage:
		err = workflow.ExecuteActivity(following(ctx, n.summary(summary), n.ceiling()), images.CheckImage, activities.CheckImageInput{ImageInput: base, ID: n.image().ID}).Get(ctx, nil)
	case operation.StepPush:
		err = workflow.ExecuteActivity(following(ctx, n.summary(summary), n.ceiling()), images.PushImage, activities.PushImageInput{ImageInput: base, ID: n.image().ID}).Get(ctx, nil)
	case operation.StepTag:
		in := n.tagInput()
		in.Settle = true
		var out activities.TagImageResult
		if err = workflow.ExecuteActivity(following(ctx, n.summary(summary), n.Plan.UnreachableAfter.D()), images.TagImage, in).Get(ctx, &out); err == nil && out.Started {
			n.image().Moved = out.Latest == in.ID
			state = n.stateBefore(n.at.Step)
		}
	}
	return n.settled(state, err)
}
