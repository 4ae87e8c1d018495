package workflows

// Upgrade of the docker base image ("Upgrade the Docker image" of the source page): on each DEA, one at a time, once its VM is up to date,
//
//  1. what docker has there, and what apps get now, are read;
//  2. a Dockerfile FROM REPOSITORY:kato-patched with the updates is placed, and built without cache under the tag of the day;
//  3. the new image is started and looked into;
//  4. what was latest gets a tag of katoflow's own, for a rollback, and the new image becomes latest;
//  5. the node's gates hold.
//
// With a registry the first DEA builds and pushes, the others pull by digest, and then kato's list of images has the registry's first. After the DEAs: the template from which autoscaling makes DEAs is a
// question, because it needs a person; the apps are restarted where that was asked for; and docker on each DEA says which apps still run on an older image.
//
// A rollback is steps 1, 4 and 5 with the image that was latest before. The steps of one DEA are in image_upgrade_node.go.

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// ImageUpgrade is the operation workflow. It completes with the report when every DEA is done, and every app that it restarted runs; otherwise it fails, or ends as cancelled, with the report in the
// details of its error.
func ImageUpgrade(ctx workflow.Context, in operation.ImageUpgradeInput) (*operation.Report, error) {
	return operate(ctx, operation.KindImageUpgrade, in.Request, in.Batch, &imageUpgrade{in: in})
}

type imageUpgrade struct {
	rolling
	in   operation.ImageUpgradeInput
	tag  string
	apps *apps

	found activities.ImagesPreflightResult
	// alone are the DEAs that a rollback leaves as they are, because they did not have the upgrade.
	alone map[string]bool
	// pulled is the image that the first DEA has pushed.
	pulled *operation.ImageProgress
	// left is what has to be told of the end: nil when everything that was asked for is done.
	left *operation.Failure
}

func (u *imageUpgrade) attach(r *run) {
	u.rolling = rolling{run: r, work: u, rollingOptions: rollingOptions{noCanary: u.in.NoCanary, soakFor: u.in.Soak, maxFailures: u.in.MaxFailures}}
	u.apps = &apps{run: r, in: u.in.Apps()}
}

func (u *imageUpgrade) check() []string { return u.in.Check() }

func (u *imageUpgrade) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: u.in.Cluster, InventoryDigest: u.in.InventoryDigest, Nodes: u.in.Nodes, Roles: []string{"dea"}}
}

func (u *imageUpgrade) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

// wantsMaintenance is false because no app can be restarted in it, and nothing else of this concerns the Cloud Controller.
func (u *imageUpgrade) wantsMaintenance() bool { return false }

// ready asks docker on the DEAs, the Core for the images that apps get, and the Cloud Controller for the apps.
func (u *imageUpgrade) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	warnings = u.setWindows(ctx, u.in.Window, operation.UnitNode)
	settings := u.in.Images.Or(u.plan.Images)
	u.tag = operation.ImageTag(workflow.GetInfo(ctx).WorkflowStartTime)
	u.report.Image = &operation.ImageReport{ImageSettings: settings, Tag: settings.Used() + ":" + u.tag, Rollback: u.in.Rollback, OldContainers: -1, OldApps: -1}
	if u.in.Rollback {
		u.report.Image.Tag = settings.Used() + ":" + operation.PreviousTag
	}
	u.found, err = lookAtImages(ctx, u.run, settings, names(u.plan), u.in.Rollback)
	if err != nil {
		return nil, nil, err
	}
	problems, warnings = u.found.Problems, append(warnings, u.found.Warnings...)
	if settings.Registry != "" {
		u.noCanary = false // the first one builds for the others
	}
	if u.in.Rollback {
		problems = append(problems, u.back()...)
	}
	u.report.Image.List, u.report.Image.Template = u.found.List, u.found.Template
	if u.in.RestartApps {
		selected, err := selectApps(ctx, u.run)
		if err != nil {
			return nil, nil, err
		}
		u.apps.meant = selected
		problems, warnings = append(problems, selected.Problems...), append(warnings, selected.Warnings...)
	}
	return problems, warnings, nil
}

// back finds the DEAs that a rollback is for: those that had the newest upgrade of all. The others would go further back than that. It returns what stands in the way.
func (u *imageUpgrade) back() (problems []string) {
	newest := ""
	for _, n := range u.plan.Nodes {
		newest = max(newest, u.found.Back[n.Name].Upgrade)
	}
	u.alone = map[string]bool{}
	same := 0
	for _, n := range u.plan.Nodes {
		b, asked := u.found.Back[n.Name]
		switch {
		case !asked: // told already
		case b.Upgrade != newest:
			u.alone[n.Name] = true
		case !b.Previous:
			problems = append(problems, fmt.Sprintf("%s: there is no image %s:%s to go back to", n.Name, u.settings().Used(), operation.PreviousTag))
		case b.Same:
			same++
		}
	}
	if same > 0 && same+len(u.alone) == len(u.plan.Nodes) {
		problems = append(problems, "cluster: apps get the image of before already, on every DEA that had the upgrade")
	}
	return problems
}

// lookAtImages is the preflight of docker on DEAs.
func lookAtImages(ctx workflow.Context, r *run, settings operation.ImageSettings, deas []string, rollback bool) (activities.ImagesPreflightResult, error) {
	var images *activities.Images
	var all activities.ImagesPreflightResult
	for part := range slices.Chunk(deas, nodesPerChunk) {
		var found activities.ImagesPreflightResult
		if err := workflow.ExecuteActivity(following(ctx, "what docker has on the DEAs", r.plan.UnreachableAfter.D()), images.PreflightImages,
			activities.ImagesPreflightInput{Op: r.op, Operation: settings, Nodes: part, Rollback: rollback}).Get(ctx, &found); err != nil {
			return all, err
		}
		all.Problems = append(all.Problems, found.Problems...)
		for _, w := range found.Warnings {
			if !slices.Contains(all.Warnings, w) {
				all.Warnings = append(all.Warnings, w)
			}
		}
		all.Autoscaling = all.Autoscaling || found.Autoscaling
		if len(all.List) == 0 {
			all.List = found.List
		}
		if all.Template == "" {
			all.Template = found.Template
		}
		for _, name := range part {
			if b, ok := found.Back[name]; ok {
				if all.Back == nil {
					all.Back = map[string]activities.RollbackOf{}
				}
				all.Back[name] = b
			}
		}
	}
	return all, nil
}

func (u *imageUpgrade) settings() operation.ImageSettings { return u.report.Image.ImageSettings }

// selectApps finds the apps that run now.
func selectApps(ctx workflow.Context, r *run) (activities.SelectAppsResult, error) {
	var a *activities.Apps
	var out activities.SelectAppsResult
	err := workflow.ExecuteActivity(looking(ctx, "the apps that run"), a.SelectApps, activities.SelectAppsInput{Operation: r.op, All: true}).Get(ctx, &out)
	return out, err
}

// dryRun returns the commands of all DEAs.
func (u *imageUpgrade) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var images *activities.Images
	var result activities.PlanCommandsResult
	err := workflow.ExecuteActivity(following(ctx, "commands of the plan", u.plan.UnreachableAfter.D()), images.PlanImages, activities.PlanImagesInput{Operation: u.op, Nodes: u.plan.Nodes, Images: u.settings(), Tag: u.tag,
		Rollback: u.in.Rollback, List: u.found.List}).Get(ctx, &result)
	if err != nil {
		return nil, err
	}
	plans := slices.DeleteFunc(result.Plans, func(p operation.CommandPlan) bool { return len(p.Nodes) == 1 && u.alone[p.Nodes[0]] })
	if u.in.RestartApps {
		more, err := u.apps.dryRun(ctx)
		if err != nil {
			return nil, err
		}
		plans = append(plans, more...)
	}
	if u.found.Autoscaling && !u.in.Rollback {
		plans = append(plans, operation.CommandPlan{Nodes: []string{operation.ClusterNode}, Commands: []operation.PlannedCommand{{Step: operation.StepDEATemplate, Command: "a new template of DEAs", Note: "by hand: it will be asked"}}})
	}
	return plans, nil
}

func (u *imageUpgrade) nodeWorkflow() (name, what string) {
	return operation.WorkflowImageUpgradeNode, "upgrade of the base image"
}

func (u *imageUpgrade) nodeInput(task nodeTask) any {
	return nodeImageInput{nodeTask: task, Images: u.settings(), Tag: u.tag, Rollback: u.in.Rollback, Alone: u.alone[task.Node.Name], Pulled: u.pulled}
}

// first takes the image that the first DEA has pushed.
func (u *imageUpgrade) first(n *operation.NodeReport) {
	if u.settings().Registry != "" && !u.in.Rollback {
		u.pulled = n.Image
	}
}

func (u *imageUpgrade) steps(ctx workflow.Context) {
	u.roll(ctx)
	moved := u.moved()
	if len(moved) == 0 {
		return
	}
	if !u.after(ctx, moved) && u.found.Autoscaling { // it is not forgotten, whatever becomes of the operation
		f := u.templateFailure()
		u.remains(operation.StepDEATemplate, &f)
	}
}

// after is what follows when the DEAs are done. False: cancelled or aborted before the template was seen to.
func (u *imageUpgrade) after(ctx workflow.Context, moved map[string]string) bool {
	if ctx.Err() != nil || u.aborting {
		return false
	}
	ready := len(moved)+len(u.alone) == len(u.plan.Nodes)
	if u.settings().Registry != "" && !u.in.Rollback {
		if len(moved) < u.plan.DEAs {
			u.warn("kato's list of images was left as it is, because not every DEA of the cluster has the image: run it for all of them")
		} else if !u.imageList(ctx) {
			return false
		}
		ready = ready && len(u.report.Image.List) > 0 && u.report.Image.List[0] == u.settings().Registry
	}
	switch {
	case !u.in.RestartApps:
	case !ready:
		u.left = &operation.Failure{Type: operation.ErrOldImage, Message: "the apps were not restarted, because they would not all get the image"}
	case !u.restartApps(ctx):
		return false
	}
	u.oldImages(ctx, moved)
	if ctx.Err() != nil || u.aborting {
		return false
	}
	return u.template(ctx)
}

// moved are the DEAs whose apps get the image from now on, with its id.
func (u *imageUpgrade) moved() map[string]string {
	out := map[string]string{}
	for i := range u.report.Nodes {
		if n := &u.report.Nodes[i]; n.Image != nil && n.Image.Moved {
			out[n.Name] = n.Image.ID
		}
	}
	return out
}

// imageList has kato give the registry's image first. False: cancelled or aborted.
func (u *imageUpgrade) imageList(ctx workflow.Context) bool {
	var images *activities.Images
	for try := 1; ; try++ {
		if u.goOn(ctx) != nil {
			return false
		}
		var out activities.ImageListResult
		in := activities.ImageListInput{NodeInput: activities.NodeInput{Operation: u.op, Node: operation.PlannedNode{Name: u.plan.Core}, JobTry: try, UnreachableAfter: u.plan.UnreachableAfter}, First: u.settings().Registry}
		err := workflow.ExecuteActivity(following(ctx, "kato's list of images", u.plan.UnreachableAfter.D()), images.SetImageList, in).Get(ctx, &out)
		if err == nil {
			u.report.Image.List = out.List
			if !slices.Equal(u.found.List, out.List) { // what a worker that died has set is no list of before
				u.report.Image.ListBefore = u.found.List
			}
			return true
		}
		if ctx.Err() != nil { // what was begun is seen through
			disconnected, _ := workflow.NewDisconnectedContext(ctx)
			in.Settle = true
			_ = workflow.ExecuteActivity(following(disconnected, "cancel: let kato end", u.plan.UnreachableAfter.D()), images.SetImageList, in).Get(disconnected, &out)
			return false
		}
		f := operation.FailureOf(err)
		if u.in.MaxFailures != nil { // nobody is there to answer
			u.remains(operation.StepImageList, f)
			u.left = f
			return true
		}
		switch u.ask(ctx, operation.ClusterNode, operation.StepImageList, try, *f, operation.Retry, operation.Skip, operation.Abort) {
		case operation.Retry:
		case operation.Skip:
			u.remains(operation.StepImageList, f)
			u.left = f
			return true
		default:
			u.aborting = ctx.Err() == nil
			return false
		}
	}
}

// template asks about what autoscaling makes DEAs from: katoflow cannot make it, and a DEA of tomorrow would have the image of yesterday. False: cancelled or aborted.
func (u *imageUpgrade) template(ctx workflow.Context) bool {
	if !u.found.Autoscaling {
		return true
	}
	var images *activities.Images
	before, cause := u.found.Template, u.templateFailure()
	for try := 1; ; try++ {
		if u.in.MaxFailures != nil {
			u.remains(operation.StepDEATemplate, &cause)
			return true
		}
		switch u.ask(ctx, operation.ClusterNode, operation.StepDEATemplate, try, cause, operation.Retry, operation.Skip, operation.Abort) {
		case operation.Retry:
			var now string
			if err := workflow.ExecuteActivity(following(ctx, "the template of DEAs", u.plan.UnreachableAfter.D()), images.DEATemplate, activities.TemplateInput{Operation: u.op}).Get(ctx, &now); err != nil {
				if ctx.Err() != nil {
					return false
				}
				cause.Message = "the template could not be read: " + operation.FailureOf(err).Message
				continue
			}
			if now != before && now != "" {
				u.report.Image.Template = now
				return true
			}
			if now == "" {
				cause.Message = "the controllers' /s/etc/autoscaling/autoscaling.yaml cannot be read: where the new template is in use, answer skip and say so as the reason"
				continue
			}
			cause.Message = fmt.Sprintf("the controllers still name the same template (%s): where it was replaced under its name, answer skip and say so as the reason", now)
		case operation.Skip:
			u.remains(operation.StepDEATemplate, &cause)
			return true
		default:
			u.aborting = ctx.Err() == nil
			return false
		}
	}
}

// templateFailure is what there is to do about the template.
func (u *imageUpgrade) templateFailure() operation.Failure {
	what := "autoscaling makes DEAs from a template that has the image as it was"
	if u.in.Rollback {
		what = "autoscaling makes DEAs from a template that may have the image that was rolled back"
	}
	if u.found.Template != "" {
		what += " (" + u.found.Template + ")"
	}
	return operation.Failure{Type: operation.ErrDEATemplate, Message: what + ": make it anew, or name the one with the right image, in /s/etc/autoscaling/autoscaling.yaml on the controllers; then retry. Skip leaves it to do",
		Problems: []string{
			"start a VM from the template, without the role dea, and change the image there as here: katoflow upgrade image with that VM in the inventory, or the steps of the page by hand",
			`give it back what makes it a DEA at its start: kato op defer "node attach -e dea CORE_IP" --run-as-root`,
			"shut it down, and make an image of it",
			"write its id as template_id (vSphere: its name as template) into /s/etc/autoscaling/autoscaling.yaml on each controller",
			"kato process restart health_manager cloud_controller_ng",
		}}
}

// remains tells what is left to do.
func (u *imageUpgrade) remains(step string, f *operation.Failure) {
	u.warn(fmt.Sprintf("left to do (%s): %s", step, f.Message))
}

// restartApps restarts the apps that run now, so that they get the new image. False: cancelled or aborted.
func (u *imageUpgrade) restartApps(ctx workflow.Context) bool {
	for try := 1; ; try++ {
		if u.goOn(ctx) != nil {
			return false
		}
		selected, err := selectApps(ctx, u.run)
		if ctx.Err() != nil {
			return false
		}
		f := operation.FailureOf(err)
		if err == nil && len(selected.Problems) == 0 {
			u.apps.meant = selected
			break
		}
		if err == nil {
			f = &operation.Failure{Type: operation.ErrController, Message: "apps cannot be restarted: " + selected.Problems[0], Problems: selected.Problems}
		}
		if u.in.MaxFailures != nil {
			u.left = f
			return true
		}
		switch u.ask(ctx, operation.ClusterNode, operation.StepApps, try, *f, operation.Retry, operation.Skip, operation.Abort) {
		case operation.Retry:
		case operation.Skip:
			u.left = f
			return true
		default:
			u.aborting = ctx.Err() == nil
			return false
		}
	}
	a := u.apps
	a.attach(u.run)
	a.report.Apps.Total = len(a.meant.Apps) + len(a.meant.Stopped)
	u.setWindows(ctx, u.in.Window, operation.UnitApp)
	a.steps(ctx)
	if f := a.fell(); f != nil {
		u.left = f
	}
	return ctx.Err() == nil && !u.aborting
}

// oldImages says which apps run on an older image still. It changes nothing, so that an abort or a failure of it loses nothing.
func (u *imageUpgrade) oldImages(ctx workflow.Context, moved map[string]string) {
	var images *activities.Images
	var out activities.OldImagesResult
	list := slices.Concat(u.report.Image.List, u.report.Image.ListBefore)
	for look := 1; ; look++ {
		err := workflow.ExecuteActivity(following(ctx, "which image apps run on", u.plan.UnreachableAfter.D()), images.OldImages,
			activities.OldImagesInput{Operation: u.op, Images: u.settings(), List: list, Now: moved}).Get(ctx, &out)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			u.warn("which image apps run on was not asked: " + operation.FailureOf(err).Message)
			return
		}
		// Containers of apps that were just restarted take a moment to go.
		if out.Containers == 0 || !u.in.RestartApps || u.left != nil || look == looksForOld || workflow.NewTimer(ctx, 5*time.Second).Get(ctx, nil) != nil {
			break
		}
	}
	r := u.report.Image
	r.OldContainers, r.OldApps, r.Old, r.Unasked = out.Containers, out.AppCount, out.Apps, len(out.Unasked)
	for _, problem := range out.Unasked {
		u.warn("which image apps run on was not told by " + problem)
	}
	if (out.Containers > 0 || len(out.Unasked) > 0) && u.in.RestartApps && u.left == nil && len(moved) == u.plan.DEAs { // else it is no wonder
		u.left = &operation.Failure{Type: operation.ErrOldImage, Message: oldSummary(r)}
	}
}

// looksForOld is how often it is looked for apps on an older image, 5 s apart, before they are told.
const looksForOld = 12

// oldSummary is "3 containers of 2 apps run on an older image".
func oldSummary(r *operation.ImageReport) string {
	if r.Unasked > 0 {
		return fmt.Sprintf("%s of %s on an older image, and %s did not say", count(r.OldContainers, "container"), count(r.OldApps, "app"), count(r.Unasked, "DEA"))
	}
	return fmt.Sprintf("%s of %s on an older image", count(r.OldContainers, "container"), count(r.OldApps, "app"))
}

// former are the batches of apps that a former run can have begun.
func (u *imageUpgrade) former() []string {
	if !u.in.RestartApps {
		return nil
	}
	return u.apps.former()
}

// outcomeText is the message of an operation that ended well.
func (u *imageUpgrade) outcomeText() string { return imageSummary(&u.report) }

// fell is what was asked for and is not done, although all DEAs are.
func (u *imageUpgrade) fell() *operation.Failure { return u.left }

// imageSummary is how far an upgrade of the base image is.
func imageSummary(report *operation.Report) string {
	text := fmt.Sprintf("%d of %d DEAs done", report.Counts()[operation.NodeDone], len(report.Nodes))
	if report.Apps != nil {
		text += "; " + appsSummary(report.Apps)
	}
	switch r := report.Image; {
	case r == nil:
	case r.OldContainers > 0 || r.OldContainers == 0 && r.Unasked > 0:
		text += "; " + oldSummary(r)
	case r.OldContainers == 0:
		text += "; no app runs on an older image"
	}
	return text
}
