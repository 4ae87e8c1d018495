package workflows

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// imagesWorld is a world whose DEAs have docker.
type imagesWorld struct {
	*world
	f *fake
	// found is what the preflight says of docker.
	found activities.ImagesPreflightResult
	// dated: the image of the day is there before; pending are the security packages in an image, by its id; changed is how many packages a build changes.
	dated   map[string]bool
	pending map[string][]string
	changed int
	// interrupted builds, by node.
	interrupted map[string]int
	tagged      map[string]activities.TagImageInput
	builds      map[string]int
	pulls       []activities.PullImageInput
	old         activities.OldImagesResult
	asked       []activities.OldImagesInput
	templates   []string
	apps        []operation.App
}

func newImagesWorld(t *testing.T) *imagesWorld {
	plan := alsPlan()
	plan.Nodes = plan.Nodes[:2]
	plan.Others = []string{"core", "mysql-1", "fs-1"}
	w := &imagesWorld{world: newWorld(t, plan), dated: map[string]bool{}, pending: map[string][]string{}, changed: 3, interrupted: map[string]int{},
		tagged: map[string]activities.TagImageInput{}, builds: map[string]int{}}
	w.f = w.fake
	w.found.List = []string{"stackato/stack-alsek", "stackato/stack/alsek"}
	w.found.Back = map[string]activities.RollbackOf{"dea-1": {Upgrade: "upgrade-2026-08-01", Previous: true}, "dea-2": {Upgrade: "upgrade-2026-08-01", Previous: true}}
	for name, fn := range map[string]any{"PreflightImages": w.PreflightImages, "LookAtImages": w.LookAtImages, "BuildImage": w.BuildImage, "CheckImage": w.CheckImage, "PushImage": w.PushImage,
		"PullImage": w.PullImage, "TagImage": w.TagImage, "SetImageList": w.SetImageList, "OldImages": w.OldImages, "DEATemplate": w.DEATemplate, "PlanImages": w.PlanImages, "SelectApps": w.SelectApps,
		"StopApp": w.StopApp, "StartApp": w.StartApp, "AwaitApp": w.AwaitApp} {
		w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return w
}

func (w *imagesWorld) PreflightImages(ctx context.Context, in activities.ImagesPreflightInput) (activities.ImagesPreflightResult, error) {
	return w.found, w.f.call(ctx, "PreflightImages", "")
}

func (w *imagesWorld) LookAtImages(ctx context.Context, in activities.ImageInput) (activities.ImagesResult, error) {
	return activities.ImagesResult{Docker: "20.10.24", Before: "old-" + in.Node.Name, Previous: "older-" + in.Node.Name}, w.f.step(ctx, "LookAtImages", in.NodeInput)
}

func (w *imagesWorld) BuildImage(ctx context.Context, in activities.BuildImageInput) (activities.BuildImageResult, error) {
	err := w.f.step(ctx, "BuildImage", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	out := activities.BuildImageResult{JobResult: activities.JobResult{Started: !in.Settle}}
	switch {
	case err != nil || in.Settle:
		return out, err
	case w.interrupted[in.Node.Name] > 0:
		w.interrupted[in.Node.Name]--
		out.Interrupted = true
		return out, nil
	case w.dated[in.Node.Name] && !in.Anew:
		out.ID = "dated-" + in.Node.Name
		return out, nil
	}
	w.builds[in.Node.Name]++
	out.Built, out.ID, out.Layers, out.Count = true, fmt.Sprintf("new-%s-%d", in.Node.Name, w.builds[in.Node.Name]), 15, w.changed
	return out, nil
}

func (w *imagesWorld) CheckImage(ctx context.Context, in activities.CheckImageInput) (activities.CheckImageResult, error) {
	err := w.f.step(ctx, "CheckImage", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	return activities.CheckImageResult{JobResult: activities.JobResult{Started: true}, Pending: w.pending[in.ID]}, err
}

func (w *imagesWorld) PushImage(ctx context.Context, in activities.PushImageInput) (activities.PushImageResult, error) {
	return activities.PushImageResult{Digest: "sha256:abc"}, w.f.step(ctx, "PushImage", in.NodeInput)
}

func (w *imagesWorld) PullImage(ctx context.Context, in activities.PullImageInput) (activities.PullImageResult, error) {
	err := w.f.step(ctx, "PullImage", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.pulls = append(w.pulls, in)
	return activities.PullImageResult{ID: in.ID, Layers: 15}, err
}

func (w *imagesWorld) TagImage(ctx context.Context, in activities.TagImageInput) (activities.TagImageResult, error) {
	err := w.f.step(ctx, "TagImage", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if err == nil {
		w.tagged[in.Node.Name] = in
	}
	return activities.TagImageResult{JobResult: activities.JobResult{Started: true}, Latest: in.ID}, err
}

func (w *imagesWorld) SetImageList(ctx context.Context, in activities.ImageListInput) (activities.ImageListResult, error) {
	return activities.ImageListResult{Before: w.found.List, List: append([]string{in.First}, w.found.List...)}, w.f.call(ctx, "SetImageList", "")
}

func (w *imagesWorld) OldImages(ctx context.Context, in activities.OldImagesInput) (activities.OldImagesResult, error) {
	w.f.mu.Lock()
	w.asked = append(w.asked, in)
	w.f.mu.Unlock()
	return w.old, w.f.call(ctx, "OldImages", "")
}

func (w *imagesWorld) DEATemplate(ctx context.Context, _ activities.TemplateInput) (string, error) {
	err := w.f.call(ctx, "DEATemplate", "")
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	now := w.templates[0]
	w.templates = w.templates[1:]
	return now, err
}

func (w *imagesWorld) PlanImages(ctx context.Context, in activities.PlanImagesInput) (activities.PlanCommandsResult, error) {
	return activities.PlanCommandsResult{Plans: []operation.CommandPlan{{Nodes: []string{in.Nodes[0].Name}, Commands: []operation.PlannedCommand{{Step: "build", Command: "docker build"}}}}},
		w.f.call(ctx, "PlanImages", "")
}

func (w *imagesWorld) SelectApps(ctx context.Context, _ activities.SelectAppsInput) (activities.SelectAppsResult, error) {
	return activities.SelectAppsResult{Apps: w.apps}, w.f.call(ctx, "SelectApps", "")
}

func (w *imagesWorld) StopApp(ctx context.Context, in activities.AppInput) error {
	return w.f.call(ctx, "StopApp", in.App.Name)
}

func (w *imagesWorld) StartApp(ctx context.Context, in activities.AppInput) error {
	return w.f.call(ctx, "StartApp", in.App.Name)
}

func (w *imagesWorld) AwaitApp(ctx context.Context, in activities.AppInput) error {
	return w.f.call(ctx, "AwaitApp", in.App.Name)
}

// upgrade executes the operation and returns its report and error, whichever way it closed.
func (w *imagesWorld) upgrade(changes ...func(*operation.ImageUpgradeInput)) (operation.Report, error) {
	w.t.Helper()
	in := operation.ImageUpgradeInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}}
	for _, c := range changes {
		c(&in)
	}
	w.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: operation.WorkflowID("prod", operation.KindImageUpgrade, "op-1"), TaskQueue: "test"})
	w.SetStartTime(time.Date(2026, 9, 19, 22, 0, 0, 0, time.UTC))
	w.ExecuteWorkflow(ImageUpgrade, in)
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.f.calls)
	require.Equal(w.t, w.sent, w.settled, "every update was answered")
	return reportOf(w.t, w.world)
}

func restartApps(in *operation.ImageUpgradeInput)      { in.RestartApps = true }
func toTheImageBefore(in *operation.ImageUpgradeInput) { in.Rollback = true }
func noAnswers(in *operation.ImageUpgradeInput)        { in.MaxFailures = new(int) }
func registry(in *operation.ImageUpgradeInput) {
	in.Images.Registry = "registry.example.com:5000/stack-alsek"
}

// on are the calls about one node, without the node.
func (w *imagesWorld) on(node string) []string {
	var out []string
	for _, c := range w.f.calls {
		if name, rest, ok := strings.Cut(c, " "); ok && (rest == node || strings.HasPrefix(rest, node+" ")) {
			out = append(out, strings.TrimSpace(name+" "+strings.TrimPrefix(strings.TrimPrefix(rest, node), " ")))
		}
	}
	return out
}

func TestImage_EveryDEA_IsBuiltCheckedAndMadeLatestInTurn(t *testing.T) {
	w := newImagesWorld(t)
	report, err := w.upgrade()
	require.NoError(t, err)
	want := []string{"LookAtImages", "BuildImage", "CheckImage", "TagImage", "Gates"}
	require.Equal(t, append([]string{"Probe"}, want...), w.on("dea-1"))
	require.Equal(t, append([]string{"Probe"}, want...), w.on("dea-2"))
	require.Less(t, w.f.place("Gates dea-1"), w.f.place("Probe dea-2"), "one at a time")
	for _, name := range []string{"dea-1", "dea-2"} {
		tag := w.tagged[name]
		require.Equal(t, "new-"+name+"-1", tag.ID)
		require.Equal(t, "old-"+name, tag.Keep, "what apps got before is kept")
		require.False(t, tag.Rollback)
		require.Equal(t, "upgrade-2026-09-19", tag.Tag)
		n := node(t, report, name)
		require.True(t, n.Image.Moved && n.Image.Built)
		require.Equal(t, "stackato/stack-alsek:upgrade-2026-09-19", n.Image.Tag)
		require.Equal(t, 3, n.ChangeCount)
	}
	require.Equal(t, map[string]string{"dea-1": "new-dea-1-1", "dea-2": "new-dea-2-1"}, w.asked[0].Now)
	require.Contains(t, report.Message, "2 of 2 DEAs done; no app runs on an older image")
	require.Zero(t, w.f.count("SetImageList")+w.f.count("SelectApps")+w.f.count("PushImage dea-1"))
}

func TestImage_OfTheDay_IsNotBuiltTwice_UnlessItIsNotCurrentAnyMore(t *testing.T) {
	w := newImagesWorld(t)
	w.dated["dea-1"], w.dated["dea-2"] = true, true
	w.pending["dated-dea-2"] = []string{"openssl"}
	report, err := w.upgrade()
	require.NoError(t, err)
	require.Zero(t, w.builds["dea-1"])
	require.Equal(t, "dated-dea-1", w.tagged["dea-1"].ID)
	require.Contains(t, node(t, report, "dea-1").Notes, "the image of this day was there already: not built again")
	require.Equal(t, 1, w.builds["dea-2"])
	require.Equal(t, "new-dea-2-1", w.tagged["dea-2"].ID)
	require.Equal(t, []string{"Probe", "LookAtImages", "BuildImage", "CheckImage", "BuildImage try=2", "CheckImage try=2", "TagImage", "Gates"}, w.on("dea-2"), "every job has a name of its own")
}

func TestImage_PackagesHeldBackInIt_AreToldAndNothingChangedIsAQuestion(t *testing.T) {
	w := newImagesWorld(t)
	w.pending["new-dea-1-1"], w.pending["new-dea-2-1"] = []string{"libc6"}, []string{"libc6"}
	report, err := w.upgrade()
	require.NoError(t, err)
	require.Contains(t, strings.Join(node(t, report, "dea-1").Notes, "\n"), "1 security package still pending in the image: libc6")

	w = newImagesWorld(t)
	w.changed = 0
	w.pending["new-dea-1-1"] = []string{"libc6"}
	w.answer(operation.Retry)
	report, err = w.upgrade()
	require.NoError(t, err)
	require.Equal(t, []string{"dea-1/check-image/1"}, w.world.asked)
	require.Equal(t, []string{"Probe", "LookAtImages", "BuildImage", "CheckImage", "BuildImage try=2", "CheckImage try=2", "TagImage", "Gates"}, w.on("dea-1"), "a retry builds it anew")
	require.Equal(t, "new-dea-1-2", w.tagged["dea-1"].ID)
	require.Equal(t, operation.NodeDone, node(t, report, "dea-1").Status)
}

func TestImage_ThatDoesNotStart_IsNeverMadeLatest(t *testing.T) {
	for _, decision := range []operation.Decision{operation.Skip, operation.Abort} {
		w := newImagesWorld(t)
		w.f.script["CheckImage dea-1"] = []error{fail(operation.ErrImage, "dea-1: the new image does not start")}
		w.answer(decision)
		report, err := w.upgrade()
		require.Error(t, err)
		require.NotContains(t, w.tagged, "dea-1")
		require.False(t, node(t, report, "dea-1").Image.Moved)
		require.Equal(t, decision == operation.Skip, w.tagged["dea-2"].ID != "")
	}
}

func TestImage_NodeRebootsWhileItIsBuilt_IsBuiltOnceMore_ThenAsked(t *testing.T) {
	w := newImagesWorld(t)
	w.interrupted["dea-1"] = 1
	report, err := w.upgrade()
	require.NoError(t, err)
	require.Equal(t, []string{"Probe", "LookAtImages", "BuildImage", "BuildImage try=2", "CheckImage", "TagImage", "Gates"}, w.on("dea-1"))
	require.Contains(t, node(t, report, "dea-1").Notes, "the node rebooted while the image was built: built again")

	w = newImagesWorld(t)
	w.interrupted["dea-1"] = 2
	w.answer(operation.Retry)
	_, err = w.upgrade()
	require.NoError(t, err)
	require.Equal(t, []string{"dea-1/build/1"}, w.world.asked)
	require.Equal(t, "BuildImage try=3", w.on("dea-1")[4])
}

func TestImage_Registry_BuiltOnceAndPulledByDigest_ThenFirstInKatosList(t *testing.T) {
	w := newImagesWorld(t)
	report, err := w.upgrade(registry)
	require.NoError(t, err)
	require.Equal(t, []string{"Probe", "LookAtImages", "BuildImage", "CheckImage", "PushImage", "TagImage", "Gates"}, w.on("dea-1"))
	require.Equal(t, []string{"Probe", "LookAtImages", "PullImage", "CheckImage", "TagImage", "Gates"}, w.on("dea-2"))
	require.Equal(t, "sha256:abc", w.pulls[0].Digest)
	require.Equal(t, "new-dea-1-1", w.pulls[0].ID)
	require.Equal(t, "new-dea-1-1", w.tagged["dea-2"].ID)
	require.Greater(t, w.f.place("SetImageList"), w.f.place("Gates dea-2"), "only when every DEA has the image")
	require.Equal(t, []string{"registry.example.com:5000/stack-alsek", "stackato/stack-alsek", "stackato/stack/alsek"}, report.Image.List)
	require.Equal(t, w.found.List, report.Image.ListBefore)
}

func TestImage_Registry_DEASkipped_LeavesKatosListAlone(t *testing.T) {
	w := newImagesWorld(t)
	w.f.script["PullImage dea-2"] = []error{fail(operation.ErrRemoteExit, "dea-2: pull ended with exit code 1")}
	w.answer(operation.Skip)
	_, err := w.upgrade(registry)
	require.Equal(t, operation.ErrNodesFailed, typeOf(err))
	require.Zero(t, w.f.count("SetImageList"), "the skipped DEA does not have the image")
}

func TestImage_KatosListCannotBeSet_IsAsked(t *testing.T) {
	w := newImagesWorld(t)
	w.f.script["SetImageList"] = []error{fail(operation.ErrVerify, "core: kato does not tell"), fail(operation.ErrVerify, "core: kato does not tell")}
	w.answer(operation.Retry, operation.Skip)
	report, err := w.upgrade(registry)
	require.Equal(t, operation.ErrVerify, typeOf(err), "what was asked for is not done")
	require.Equal(t, []string{"cluster/image-list/1", "cluster/image-list/2"}, w.world.asked)
	require.Contains(t, strings.Join(report.Warnings, "\n"), "left to do (image-list): core: kato does not tell")
}

func TestImage_Rollback_SwapsLatestAndBuildsNothing(t *testing.T) {
	w := newImagesWorld(t)
	report, err := w.upgrade(toTheImageBefore)
	require.NoError(t, err)
	require.Equal(t, []string{"Probe", "LookAtImages", "TagImage", "Gates"}, w.on("dea-1"))
	require.Equal(t, "older-dea-1", w.tagged["dea-1"].ID)
	require.Equal(t, "old-dea-1", w.tagged["dea-1"].Keep)
	require.True(t, w.tagged["dea-1"].Rollback)
	require.True(t, report.Image.Rollback)
}

func TestImage_Rollback_OnlyWhereTheUpgradeWas(t *testing.T) {
	w := newImagesWorld(t)
	w.found.Back["dea-2"] = activities.RollbackOf{Upgrade: "upgrade-2026-07-01"} // it would go back further, or nowhere
	report, err := w.upgrade(toTheImageBefore)
	require.NoError(t, err)
	require.Equal(t, []string{"Probe", "LookAtImages", "TagImage", "Gates"}, w.on("dea-1"))
	require.Empty(t, slices.DeleteFunc(w.on("dea-2"), func(c string) bool { return c == "InService" }))
	require.Contains(t, strings.Join(node(t, report, "dea-2").Notes, "\n"), "left as it is")

	for want, change := range map[string]func(*imagesWorld){
		"dea-2: there is no image stackato/stack-alsek:katoflow-previous to go back to": func(w *imagesWorld) {
			w.found.Back["dea-2"] = activities.RollbackOf{Upgrade: "upgrade-2026-08-01"}
		},
		"apps get the image of before already": func(w *imagesWorld) {
			w.found.Back["dea-1"] = activities.RollbackOf{Upgrade: "upgrade-2026-08-01", Previous: true, Same: true}
			w.found.Back["dea-2"] = activities.RollbackOf{Upgrade: "upgrade-2026-07-01", Previous: true}
		},
	} {
		w := newImagesWorld(t)
		change(w)
		report, err := w.upgrade(toTheImageBefore)
		require.Equal(t, operation.ErrPreflight, typeOf(err))
		require.Contains(t, strings.Join(report.Failure.Problems, "\n"), want)
		require.Empty(t, w.tagged)
	}
}

func TestImage_RegistryOfTheInventory_TheFirstDEAGoesAloneAllTheSame(t *testing.T) {
	w := newImagesWorld(t)
	w.f.plan.Images.Registry = "registry.example.com:5000/stack-alsek"
	_, err := w.upgrade(func(in *operation.ImageUpgradeInput) { in.NoCanary, in.Batch = true, "2" })
	require.NoError(t, err)
	require.Equal(t, 1, w.builds["dea-1"]+w.builds["dea-2"], "it is built once")
	require.Len(t, w.pulls, 1)
}

func TestImage_RestartApps_NotEveryDEAHasTheImage_LeavesTheApps(t *testing.T) {
	w := newImagesWorld(t)
	w.apps = someApps(1)
	w.f.script["BuildImage dea-2"] = []error{fail(operation.ErrRemoteExit, "dea-2: build ended with exit code 1")}
	w.answer(operation.Skip)
	_, err := w.upgrade(restartApps)
	require.Equal(t, operation.ErrNodesFailed, typeOf(err))
	require.Zero(t, w.f.count("StopApp app-0"))

	w = newImagesWorld(t) // and where kato gives another image first
	w.apps = someApps(1)
	w.f.script["SetImageList"] = []error{fail(operation.ErrVerify, "core: kato does not tell")}
	w.answer(operation.Skip)
	report, err := w.upgrade(restartApps, registry)
	require.Equal(t, operation.ErrOldImage, typeOf(err))
	require.Contains(t, report.Failure.Message, "the apps were not restarted")
	require.Zero(t, w.f.count("StopApp app-0"))
}

func TestImage_DEAThatDoesNotSay_IsNoProof(t *testing.T) {
	w := newImagesWorld(t)
	w.apps = someApps(1)
	w.old = activities.OldImagesResult{Unasked: []string{"dea-2: not reached"}}
	report, err := w.upgrade(restartApps)
	require.Equal(t, operation.ErrOldImage, typeOf(err))
	require.NotContains(t, report.Message, "no app runs on an older image")
}

func TestImage_RetryOfTheTag_KeepsWhatWasLatestBefore(t *testing.T) {
	w := newImagesWorld(t)
	w.f.script["TagImage dea-1"] = []error{fail(operation.ErrLost, "dea-1: latest-image was started and nobody knows how it ended")}
	w.answer(operation.Retry)
	_, err := w.upgrade()
	require.NoError(t, err)
	require.Equal(t, "old-dea-1", w.tagged["dea-1"].Keep)
	require.Equal(t, 1, w.f.count("LookAtImages dea-1"), "what is latest is not read again: it may be the new image by now")
}

func TestImage_Autoscaling_TheTemplateIsNeverForgotten(t *testing.T) {
	scaling := func(w *imagesWorld) { w.found.Autoscaling, w.found.Template = true, "template_id: ami-1" }
	t.Run("made anew", func(t *testing.T) {
		w := newImagesWorld(t)
		scaling(w)
		w.templates = []string{"template_id: ami-1", "template_id: ami-2"}
		w.answer(operation.Retry, operation.Retry)
		report, err := w.upgrade()
		require.NoError(t, err)
		require.Equal(t, []string{"cluster/dea-template/1", "cluster/dea-template/2"}, w.world.asked, "it is looked whether it was")
		require.Equal(t, "template_id: ami-2", report.Image.Template)
		require.Empty(t, report.Warnings)
	})
	t.Run("left", func(t *testing.T) {
		w := newImagesWorld(t)
		scaling(w)
		w.answer(operation.Skip)
		report, err := w.upgrade()
		require.NoError(t, err)
		require.Contains(t, strings.Join(report.Warnings, "\n"), "left to do (dea-template): autoscaling makes DEAs from a template that has the image as it was (template_id: ami-1)")
	})
	t.Run("aborted before it was asked", func(t *testing.T) {
		w := newImagesWorld(t)
		scaling(w)
		w.f.script["BuildImage dea-2"] = []error{fail(operation.ErrRemoteExit, "dea-2: build ended with exit code 1")}
		w.answer(operation.Abort)
		report, err := w.upgrade()
		require.Error(t, err)
		require.Contains(t, strings.Join(report.Warnings, "\n"), "left to do (dea-template)")
	})
	t.Run("nobody there to answer", func(t *testing.T) {
		w := newImagesWorld(t)
		scaling(w)
		report, err := w.upgrade(noAnswers)
		require.NoError(t, err)
		require.Contains(t, strings.Join(report.Warnings, "\n"), "left to do (dea-template)")
	})
}

func someApps(n int) []operation.App {
	var out []operation.App
	for i := range n {
		out = append(out, operation.App{GUID: fmt.Sprint("guid-", i), Org: "acme", Space: "prod", Name: fmt.Sprint("app-", i), Instances: 1})
	}
	return out
}

func TestImage_RestartApps_AfterTheDEAs_AndThenAskedWhatRunsOnAnOlderImage(t *testing.T) {
	w := newImagesWorld(t)
	w.apps = someApps(3)
	report, err := w.upgrade(restartApps)
	require.NoError(t, err)
	for i := range 3 {
		name := fmt.Sprint("app-", i)
		require.Greater(t, w.f.place("StopApp "+name), w.f.place("Gates dea-2"))
		require.Greater(t, w.f.place("OldImages"), w.f.place("AwaitApp "+name))
	}
	require.Equal(t, 3, report.Apps.Counts[operation.AppRunning])
	require.Contains(t, report.Message, "2 of 2 DEAs done; 3 of 3 apps handled: 3 running; no app runs on an older image")
}

func TestImage_RestartApps_SomeStillOnAnOlderImage_IsAFailureThatNamesThem(t *testing.T) {
	w := newImagesWorld(t)
	w.apps = someApps(1)
	w.old = activities.OldImagesResult{Containers: 2, AppCount: 1, Apps: []operation.OldApp{{App: "acme/prod/left", Nodes: []string{"dea-1"}, Containers: []string{"c1", "c2"}}}}
	report, err := w.upgrade(restartApps)
	require.Equal(t, operation.ErrOldImage, typeOf(err))
	require.Equal(t, "acme/prod/left: 2 containers on dea-1", report.Image.Old[0].String())
	require.Contains(t, report.Message, "2 containers of 1 app on an older image")

	w = newImagesWorld(t)
	w.old = activities.OldImagesResult{Containers: 2, AppCount: 1, Apps: []operation.OldApp{{GUID: "g"}}}
	report, err = w.upgrade()
	require.NoError(t, err, "nobody asked for apps to be restarted")
	require.Contains(t, report.Message, "2 containers of 1 app on an older image")
}

func TestImage_AppsCannotBeRestarted_IsAsked(t *testing.T) {
	w := newImagesWorld(t)
	w.apps = someApps(1)
	w.f.script["SelectApps"] = []error{nil, fail(operation.ErrController, "the Cloud Controller does not answer")}
	w.answer(operation.Skip)
	report, err := w.upgrade(restartApps)
	require.Equal(t, operation.ErrController, typeOf(err), "what was asked for is not done")
	require.Equal(t, []string{"cluster/apps/1"}, w.world.asked)
	require.Equal(t, operation.NodeDone, node(t, report, "dea-2").Status)
	require.Equal(t, 1, w.f.count("OldImages"))
}

func TestImage_DryRun_ChangesNothing(t *testing.T) {
	w := newImagesWorld(t)
	report, err := w.upgrade(func(in *operation.ImageUpgradeInput) { in.DryRun = true })
	require.NoError(t, err)
	require.Equal(t, "docker build", report.Commands[0].Commands[0].Command)
	require.Empty(t, w.tagged)
	require.Empty(t, w.builds)
	require.Empty(t, w.f.mutated())
}

func TestImage_Preflight_ProblemsStopItBeforeAnythingIsChanged(t *testing.T) {
	w := newImagesWorld(t)
	w.found.Problems = []string{"dea-2: there is no image stackato/stack-alsek:kato-patched to build on"}
	report, err := w.upgrade()
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.Equal(t, w.found.Problems, report.Failure.Problems)
	require.Empty(t, w.f.mutated())
}

func TestImage_Cancelled_EndsInANamedState(t *testing.T) {
	for step, state := range map[string]string{
		"LookAtImages": "untouched: apps get the image that they got before",
		"BuildImage":   "untouched: apps get the image that they got before",
		"CheckImage":   "apps get the image that they got before; the new one is there and not used",
		"TagImage":     "apps get the new image, its gates were not awaited", // seen through
		"Gates":        "apps get the new image, its gates were not awaited",
	} {
		t.Run(step, func(t *testing.T) {
			w := newImagesWorld(t)
			w.f.during[step+" dea-1"] = func(ctx context.Context) {
				w.f.mu.Lock()
				delete(w.f.during, step+" dea-1")
				w.f.mu.Unlock()
				w.RegisterDelayedCallback(w.CancelWorkflow, 0)
				<-ctx.Done()
			}
			report, err := w.upgrade()
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			require.Equal(t, operation.PhaseCancelled, report.Phase)
			require.Equal(t, operation.NodeCancelled, node(t, report, "dea-1").Status)
			require.Contains(t, strings.Join(node(t, report, "dea-1").Notes, "\n"), state)
			require.Equal(t, operation.NodeUntouched, node(t, report, "dea-2").Status)
			if step != "LookAtImages" && step != "Gates" {
				require.Equal(t, 1, w.f.count(step+" dea-1 settle"))
			}
			require.Zero(t, w.f.count("OldImages"))
		})
	}
}

func TestImage_BadInput_IsNamedWhole(t *testing.T) {
	w := newImagesWorld(t)
	report, err := w.upgrade(func(in *operation.ImageUpgradeInput) {
		in.Images = operation.ImageSettings{Repository: "a:b", Base: "latest", Registry: "stackato/stack-alsek"}
		in.NoCanary, in.AppsAtOnce = true, 3
	})
	require.Equal(t, operation.ErrBadInput, typeOf(err))
	require.Len(t, report.Failure.Problems, 5)
	require.Empty(t, w.f.calls)
}

func TestThenImage_GoesOnWhenEveryNodeIsDone_AndOnlyThen(t *testing.T) {
	run := func(prepare func(w *imagesWorld)) (*imagesWorld, operation.Report, []operation.ImageUpgradeInput, error) {
		w := newImagesWorld(t)
		prepare(w)
		var begun []operation.ImageUpgradeInput
		w.OnWorkflow(operation.WorkflowImageUpgrade, mock.Anything, mock.Anything).Return(func(_ workflow.Context, in operation.ImageUpgradeInput) (*operation.Report, error) {
			begun = append(begun, in)
			return &operation.Report{}, nil
		})
		report, err := w.world.run(input(func(in *operation.SecurityUpgradeInput) {
			in.RequestedBy, in.Batch = "somebody", "50%"
			in.Then = &operation.ImageUpgradeInput{RestartApps: true}
		}))
		return w, report, begun, err
	}
	w, report, begun, err := run(func(w *imagesWorld) {
		w.found.Warnings = []string{"dea-1: " + activities.VMNotUpToDate + ", 3 security packages are pending", "dea-2: only 2 MB free"}
	})
	require.NoError(t, err)
	require.Equal(t, operation.WorkflowID("prod", operation.KindImageUpgrade, "op-1"), report.Next)
	require.Equal(t, []string{"dea-2: only 2 MB free"}, report.Warnings, "that the VMs are not up to date is why they are upgraded")
	require.Len(t, begun, 1)
	require.Equal(t, "somebody", begun[0].RequestedBy)
	require.Equal(t, "50%", begun[0].Batch)
	require.True(t, begun[0].RestartApps)
	require.Equal(t, []string{"dea-1", "dea-2"}, begun[0].Nodes)
	require.Greater(t, begun[0].LockWait, operation.Duration(0), "it queues where somebody else was quicker")
	require.Less(t, w.f.place("PreflightImages"), w.f.place("Probe dea-1"), "what stands in the way of the image is found before the first reboot")

	_, report, begun, err = run(func(w *imagesWorld) {
		w.f.script["Upgrade dea-1"] = []error{fail(operation.ErrRemoteExit, "dea-1")}
		w.answer(operation.Skip)
	})
	require.Equal(t, operation.ErrNodesFailed, typeOf(err))
	require.Empty(t, begun)
	require.Empty(t, report.Next)
	require.Contains(t, strings.Join(report.Warnings, "\n"), "was not begun")

	w, _, begun, err = run(func(w *imagesWorld) {
		w.found.Problems = []string{"dea-1: docker is not installed there: is it a DEA?"}
	})
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.Empty(t, begun)
	require.Empty(t, w.f.mutated())
}
