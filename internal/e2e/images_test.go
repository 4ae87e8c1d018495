package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// imageRepository is that of the base image in both worlds.
const imageRepository = operation.DefaultImageRepository

// withImages is an ALS cluster of a Core and two DEAs that have a docker base image with security packages pending; builds of it take a moment.
func withImages(c *config) {
	c.nodes = []nodeConfig{{name: "core", roles: []string{"base", "primary", "controller", "router"}}, {name: "dea-1", roles: []string{"dea"}, calm: true}, {name: "dea-2", roles: []string{"dea"}, calm: true}}
	c.images = true
	c.simulated = append(c.simulated, func(sc *simcluster.Config) { sc.ImageBuildTime = 400 * time.Millisecond })
}

// ofDocker makes the simulated DEAs have docker of that version.
func ofDocker(version string) siteOption {
	return simulating(func(sc *simcluster.Config) { sc.DockerVersion = version })
}

// imageHost is what cases need of docker on a DEA, asked without katoflow.
type imageHost interface {
	// ImageID of a name, "" for none.
	ImageID(name string) string
	// PendingIn are the security packages that an image could be upgraded by.
	PendingIn(name string) []string
}

// simulatedImages is docker of a simulated DEA.
type simulatedImages struct{ *simcluster.Docker }

func (d simulatedImages) ImageID(name string) string { return d.Images()[name] }

// images is docker on a DEA.
func (s *site) images(node string) imageHost {
	s.t.Helper()
	if h, real := s.cluster.Node(node).(host); real {
		return realImages{s.t, h}
	}
	return simulatedImages{s.simulated(node).Docker()}
}

// imageUpgrade begins one by the CLI, detached, and returns when its preflight has passed.
func (s *site) imageUpgrade(args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"upgrade", "image", s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attachTo(operation.KindImageUpgrade, id)
}

// imageUpgradeDirectly begins it through the client and does not wait for anything.
func (s *site) imageUpgradeDirectly(in operation.ImageUpgradeInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name()
	return s.execute(operation.KindImageUpgrade, operation.WorkflowImageUpgrade, in.OperationID, in)
}

const (
	latestImage   = imageRepository + ":" + operation.LatestTag
	previousImage = imageRepository + ":" + operation.PreviousTag
	baseImage     = imageRepository + ":" + operation.BaseTag
)

// todays is the name of an image that is built today.
func todays() string { return imageRepository + ":" + operation.ImageTag(time.Now()) }

// imageUpgraded requires the effect on every DEA, read from docker there: the image of the day is current and latest, and what was latest is kept.
func (s *site) imageUpgraded(before map[string]string) {
	s.t.Helper()
	for node, old := range before {
		d := s.images(node)
		latest := d.ImageID(latestImage)
		require.NotEqual(s.t, old, latest, node)
		require.Equal(s.t, d.ImageID(todays()), latest, "%s: the image of the day is the latest", node)
		require.Equal(s.t, old, d.ImageID(previousImage), "%s: what apps got is kept", node)
		require.Empty(s.t, d.PendingIn(latestImage), node)
	}
	again := s.repeated()
	repeatedInAll.Add(int64(len(again)))
	require.Empty(s.t, again, "commands that ran more than once")
}

// latestImages are what apps get, by DEA.
func (s *site) latestImages() map[string]string {
	out := map[string]string{}
	for _, n := range s.cluster.Nodes() {
		if strings.HasPrefix(n.Name(), "dea") {
			out[n.Name()] = s.images(n.Name()).ImageID(latestImage)
		}
	}
	return out
}

// dockers counts the executions of one docker command on a node.
func (s *site) dockers(node, command string) int {
	n := 0
	for _, e := range s.cluster.Node(node).Commands() {
		if len(e.Argv) > 1 && strings.HasSuffix(e.Argv[0], "docker") && e.Argv[1] == command {
			n++
		}
	}
	return n
}

func TestImages_Upgrade_EveryDEAHasACurrentImage_AndARollbackIsTheOneBefore(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	require.NotEmpty(t, s.images("dea-1").PendingIn(latestImage))
	shown := s.cli(0, "upgrade", "image", s.cluster.Name(), "--dry-run").Stdout
	require.Contains(t, shown, "docker build --no-cache=true --rm=true -t "+todays())
	require.Contains(t, shown, "FROM "+baseImage)
	require.Equal(t, before, s.latestImages(), "a dry run changes nothing")
	require.Zero(t, s.dockers("dea-1", "build")+s.dockers("dea-1", "tag"))

	o := s.imageUpgrade()
	r := o.done(90 * time.Second)
	s.imageUpgraded(before)
	for _, n := range r.Nodes {
		require.True(t, n.Image.Built && n.Image.Moved, n.Name)
		require.NotZero(t, n.ChangeCount, "%s: the packages that were upgraded are told", n.Name)
		require.Greater(t, n.Image.Layers, 0)
		require.Equal(t, 1, s.dockers(n.Name, "build"))
	}
	text := s.cli(0, "op", "show", o.id).Stdout
	require.Contains(t, text, "image "+todays())
	require.Contains(t, s.cli(0, "cluster", "status", s.cluster.Name()).Stdout, "IMAGE BUILT")

	// The same day again: nothing is built twice.
	after := s.latestImages()
	r = s.imageUpgrade().done(60 * time.Second)
	require.Equal(t, after, s.latestImages())
	require.Equal(t, 1, s.dockers("dea-1", "build"))
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "the image of this day was there already")
	require.Equal(t, before["dea-1"], s.images("dea-1").ImageID(previousImage), "the way back is still the image of before")

	s.imageUpgrade("--rollback").done(60 * time.Second)
	require.Equal(t, before, s.latestImages())
	require.Equal(t, after["dea-2"], s.images("dea-2").ImageID(previousImage))
	s.imageUpgrade("--rollback").done(60 * time.Second)
	require.Equal(t, after, s.latestImages(), "and forward again")
}

func TestImages_OfEveryGenerationOfDocker(t *testing.T) {
	onlySimulated(t, "the lab has one version of docker")
	t.Parallel()
	for _, version := range []string{"1.0.1", "1.3.3", "1.6.2", "1.9.1", "1.10.3", "1.12.6", "17.05.0-ce"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withImages, ofDocker(version))
			s.worker("")
			before := s.latestImages()
			r := s.imageUpgrade().done(60 * time.Second)
			s.imageUpgraded(before)
			require.Equal(t, version, r.Nodes[0].Image.Docker)
			s.imageUpgrade("--rollback").done(60 * time.Second)
			require.Equal(t, before, s.latestImages())
		})
	}
}

// sharedImage is the image in the site's registry, without a tag.
func (s *site) sharedImage() string { return s.registry() + "/" + s.cluster.Name() + "/stack-alsek" }

func TestImages_Registry_BuiltOncePulledByTheOthers(t *testing.T) {
	t.Parallel()
	for _, version := range in([]string{"20.10.24", "1.3.3", "1.6.2", "1.8.3", "1.9.1", "1.10.3"}, []string{""}) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withImages, withRegistry, ofDocker(version))
			s.worker("")
			before := s.latestImages()
			r := s.imageUpgrade("--registry", s.sharedImage()).done(90 * time.Second)
			require.Equal(t, 1, s.dockers("dea-1", "build"))
			require.Zero(t, s.dockers("dea-2", "build"))
			require.Equal(t, 1, s.dockers("dea-2", "pull"))
			one, two := s.images("dea-1"), s.images("dea-2")
			latest := s.sharedImage() + ":" + operation.LatestTag
			require.NotEmpty(t, one.ImageID(latest))
			if version != "1.8.3" && version != "1.9.1" { // which give what they pull an id of their own
				require.Equal(t, one.ImageID(latest), two.ImageID(latest), "all have the same image")
			}
			require.Empty(t, two.PendingIn(latest))
			require.Equal(t, two.ImageID(latest), two.ImageID(s.sharedImage()+":"+operation.ImageTag(time.Now())), "by its day a rollback knows it")
			require.Equal(t, before["dea-2"], two.ImageID(s.sharedImage()+":"+operation.PreviousTag), "what apps got before is kept")
			require.Equal(t, before, s.latestImages(), "the site's own name is left alone")
			require.Equal(t, s.sharedImage(), r.Image.List[0], "kato gives the registry's first")
			require.NotEmpty(t, r.Image.ListBefore)
			require.Empty(t, s.repeated())
		})
	}
}

func TestImages_RegistryAway_AsksAndLatestIsLeftAlone(t *testing.T) {
	onlySimulated(t, "it takes the registry away")
	t.Parallel()
	s := newSite(t, nil, nil, withImages, withRegistry)
	s.worker("")
	c := s.cluster.(simulatedCluster)
	c.SetRegistryDown(true)
	o := s.imageUpgrade("--registry", s.sharedImage())
	f := s.fault("the registry is away when the image is pushed")
	q := o.question(30 * time.Second)
	require.Equal(t, operation.StepPush, q.Step)
	require.Empty(t, s.images("dea-1").ImageID(s.sharedImage()+":latest"))
	c.SetRegistryDown(false)
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	require.Equal(t, 1, s.dockers("dea-1", "build"), "what was built is not built again")
	f.end(parkedFor(q.Step, "retried: pushed, and pulled by the others"))
}

func TestImages_ThatDoesNotStart_IsNeverLatest(t *testing.T) {
	onlySimulated(t, "the simulated docker builds such images")
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	d := s.simulated("dea-1").Docker()
	d.BreakImages(true)
	o := s.imageUpgrade()
	f := s.fault("the new image does not start")
	q := o.question(30 * time.Second)
	require.Equal(t, operation.StepCheckImage, q.Step)
	require.Contains(t, q.Cause.Message, "does not start")
	require.Equal(t, before, s.latestImages())
	d.BreakImages(false)
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	require.Equal(t, 2, s.dockers("dea-1", "build"), "it was built anew")
	s.imageUpgraded(before)
	f.end(parkedFor(q.Step, "retried: built anew"))
}

func TestImages_BuildFails_SaysWhyAndAsks(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	dea := s.cluster.Node("dea-1")
	dea.FailCommand("docker build", 1, 1, "E: Failed to fetch http://security.debian.org/x.deb")
	o := s.imageUpgrade()
	f := s.fault("docker build fails")
	q := o.question(60 * time.Second)
	require.Equal(t, operation.StepBuild, q.Step)
	require.Contains(t, q.Cause.Message, "Failed to fetch")
	require.Equal(t, before, s.latestImages())
	dea.HealCommands()
	o.decide(q, operation.Retry)
	o.done(90 * time.Second)
	s.imageUpgraded(before)
	f.end(parkedFor(q.Step, "retried: built"))
}

func TestImages_NodeRebootsWhileItIsBuilt_BuiltAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	dea := s.cluster.Node("dea-1")
	dea.SlowCommand("docker build", 1, time.Minute)
	o := s.imageUpgradeDirectly(operation.ImageUpgradeInput{})
	f := s.fault("the DEA is rebooted by something else in mid-build")
	ctx, cancel := context.WithTimeout(context.Background(), stretched(60*time.Second))
	defer cancel()
	require.NoError(t, s.commandRuns(ctx, "dea-1", "docker", ""))
	dea.RebootNow()
	r := o.done(120 * time.Second)
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "rebooted while the image was built")
	s.imageUpgraded(before)
	f.end(wentOn)
}

func TestImages_DiskFullInTheBuild_AsksAndGoesOnWithSpace(t *testing.T) {
	onlySimulated(t, "docker's folder of a real host is the machine's own disk")
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	dea := s.cluster.Node("dea-1")
	o := s.imageUpgradeDirectly(operation.ImageUpgradeInput{})
	f := s.fault("the DEA's disk full in mid-build")
	ctx, cancel := context.WithTimeout(context.Background(), stretched(30*time.Second))
	defer cancel()
	require.NoError(t, s.commandRuns(ctx, "dea-1", "docker", ""))
	dea.FillDisk(true)
	q := o.question(30 * time.Second)
	require.Equal(t, operation.StepBuild, q.Step)
	require.Contains(t, q.Cause.Message, "is full")
	require.Equal(t, before, s.latestImages())
	dea.FillDisk(false)
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	s.imageUpgraded(before)
	f.end(parkedFor(q.Step, "retried with space: built"))
}

func TestImages_Preflight_NamesAllProblemsAtOnce_AndTouchesNothing(t *testing.T) {
	onlySimulated(t, "it breaks docker in several ways")
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	s.simulated("dea-1").Docker().SetDaemonDown(true)
	s.simulated("dea-2").Docker().Remove(baseImage)
	out := s.cli(7, "upgrade", "image", s.cluster.Name())
	require.Regexp(t, `dea-1: the docker daemon does not answer`, out.Stderr)
	require.Regexp(t, `dea-2: there is no image stackato/stack-alsek:kato-patched to build on: .*kato gives apps stackato/stack-alsek`, out.Stderr)
	out = s.cli(7, "upgrade", "image", s.cluster.Name(), "--rollback")
	require.Regexp(t, `dea-2: there is no image stackato/stack-alsek:katoflow-previous to go back to`, out.Stderr)
	require.Empty(t, s.cluster.Commands())
	s.simulated("dea-1").Docker().SetDaemonDown(false)
	s.simulated("dea-1").SudoPassword(true)
	out = s.cli(7, "upgrade", "image", s.cluster.Name(), "--nodes", "dea-1")
	require.Regexp(t, `dea-1: sudo does not let docker be run .*deploy/sudoers/katoflow-images`, out.Stderr)
}

func TestImages_RestartApps_NoneIsLeftOnTheOldImage(t *testing.T) {
	onlySimulated(t, "the hosts' controller is a double that starts no containers")
	t.Parallel()
	for _, version := range []string{"20.10.24", "1.3.3", "1.0.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, withImages, ofDocker(version))
			s.worker("")
			c := s.controller()
			c.StartTime(50*time.Millisecond, 100*time.Millisecond)
			o := s.imageUpgrade()
			r := o.done(60 * time.Second)
			require.Greater(t, r.Image.OldContainers, 0, "apps get the new image when they are restarted")
			text := s.cli(0, "op", "show", o.id).Stdout
			if version != "1.0.1" { // which has no docker exec
				require.Contains(t, text, "shop/production/storefront: ")
				require.Equal(t, "shop/production/storefront", r.Image.Old[slices.IndexFunc(r.Image.Old, func(a operation.OldApp) bool { return strings.Contains(a.App, "storefront") })].App)
			} else {
				require.Contains(t, text, "of which app is not known")
			}
			require.False(t, o.inHistory(simcluster.ContainerSecret, o.workflow), "the environment of apps has secrets")

			r = s.imageUpgrade("--restart-apps", "--apps-at-once", "5").done(60 * time.Second)
			require.Zero(t, r.Image.OldContainers)
			require.Contains(t, r.Message, "no app runs on an older image")
			for _, dea := range []string{"dea-1", "dea-2"} {
				d := s.simulated(dea).Docker()
				for _, container := range d.Containers() {
					require.Equal(t, d.Images()[latestImage], container.ImageID, container.AppName)
				}
			}
		})
	}
}

func TestImages_Rollback_AfterAPartOfAnUpgrade_LeavesTheOthersAsTheyAre(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	s.imageUpgrade("--nodes", "dea-1").done(60 * time.Second)
	require.NotEqual(t, before["dea-1"], s.images("dea-1").ImageID(latestImage))
	r := s.imageUpgrade("--rollback").done(60 * time.Second)
	require.Equal(t, before, s.latestImages())
	require.Empty(t, s.images("dea-2").ImageID(previousImage))
	require.Zero(t, s.dockers("dea-2", "tag"))
	require.Contains(t, strings.Join(r.Nodes[1].Notes, "\n"), "left as it is")
}

func TestImages_ListsCannotBeFetched_ABuildThatUpgradesNothingIsNoSuccess(t *testing.T) {
	onlySimulated(t, "apt in a container of a real host has no faults")
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	dea := s.cluster.Node("dea-1")
	// apt-get update ends well without its lists, in the build as well.
	dea.FailCommand("apt-get update", 1, 0, "W: Failed to fetch http://security.debian.org/dists/stable-security/InRelease  Could not connect")
	o := s.imageUpgrade()
	f := s.fault("the build ends well without package lists")
	q := o.question(30 * time.Second)
	require.Equal(t, operation.StepBuild, q.Step)
	require.Contains(t, q.Cause.Message, "apt-get update could not fetch 1 of its lists")
	require.Equal(t, before, s.latestImages())
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	s.imageUpgraded(before)
	require.Equal(t, 2, s.dockers("dea-1", "build"), "what was built without them is not taken for today's")
	f.end(parkedFor(q.Step, "retried: built"))
}

func TestImages_MaintenanceMode_AppsAreNotRestartedInIt(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches the controller's double only")
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	s.controller().SetMaintenance(true)
	out := s.cli(7, "upgrade", "image", s.cluster.Name(), "--restart-apps")
	require.Contains(t, out.Stderr, "maintenance mode is on, in which no app can be stopped or started")
	require.Empty(t, s.cluster.Commands())
}

func TestImages_Autoscaling_TheTemplateIsAsked(t *testing.T) {
	onlySimulated(t, "the double of kato on hosts has no autoscaling")
	t.Parallel()
	s := newSite(t, nil, nil, withImages, simulating(func(sc *simcluster.Config) { sc.Autoscaling = true }))
	s.worker("")
	o := s.imageUpgrade()
	q := o.question(60 * time.Second)
	require.Equal(t, operation.StepDEATemplate, q.Step)
	require.NotEmpty(t, q.Cause.Problems, "what there is to do")
	o.decide(q, operation.Retry)
	q = o.until(30*time.Second, "the next question", func(r operation.Report) bool { return len(r.Questions) > 0 && r.Questions[0].Try == 2 }).Questions[0]
	require.Contains(t, q.Cause.Message, "still name the same template")
	require.NoError(t, s.cluster.(simulatedCluster).SetAutoscalingTemplate("ami-made-anew"))
	o.decide(q, operation.Retry)
	r := o.done(30 * time.Second)
	require.Contains(t, r.Image.Template, "ami-made-anew")
	require.NotContains(t, strings.Join(r.Warnings, "\n"), "left to do")
}

func TestImages_Cancelled_WhileItIsBuilt_LeavesLatestAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	s.cluster.Node("dea-1").SlowCommand("docker build", 1, in(5*time.Second, 20*time.Second))
	o := s.imageUpgradeDirectly(operation.ImageUpgradeInput{})
	ctx, cancel := context.WithTimeout(context.Background(), stretched(60*time.Second))
	defer cancel()
	require.NoError(t, s.commandRuns(ctx, "dea-1", "docker", ""))
	s.cli(0, "op", "cancel", o.id)
	r, err := o.end(90 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Equal(t, before, s.latestImages())
	require.Zero(t, s.dockers("dea-2", "build"))
	require.Empty(t, s.repeated())
}

func TestImages_AfterTheSecurityUpgrade_AsOneGoesOnWithTheOther(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withImages)
	s.worker("")
	before := s.latestImages()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	out, err := s.Katoflow(stretched(2*time.Minute), "upgrade", "security", s.cluster.Name(), "--id", id, "--then", "image") // two operations, watched to their end
	require.NoError(t, err)
	require.Zero(t, out.Code, "%s\n%s", out.Stdout, out.Stderr)
	require.Contains(t, out.Stdout, "upgrade-security")
	require.Contains(t, out.Stdout, "image "+todays(), "both are watched to their end")
	s.upgraded(1, s.names()...)
	s.imageUpgraded(before)
	r := s.attachTo(operation.KindImageUpgrade, id).done(5 * time.Second)
	require.NotContains(t, strings.Join(r.Warnings, "\n"), "not up to date", "the VMs are, by now")
}

// TestKillMatrix_OfAnImageUpgrade kills the worker at every boundary of every step and in the middle of every job, and requires that every command ran exactly once.
func TestKillMatrix_OfAnImageUpgrade(t *testing.T) {
	t.Parallel()
	oneDEA := func(c *config) { c.nodes = c.nodes[:2] }
	built := func(o *op, _ int) {
		o.done(2 * time.Minute)
		for _, command := range []string{"build", "run"} {
			require.Equal(o.t, 1, o.dockers("dea-1", command), command)
		}
		require.Equal(o.t, 2, o.dockers("dea-1", "tag"))
		d := o.images("dea-1")
		require.Equal(o.t, d.ImageID(todays()), d.ImageID(latestImage))
		require.Equal(o.t, d.ImageID(baseImage), d.ImageID(previousImage), "what was latest before is kept, and not the new one")
		again := o.repeated()
		repeatedInAll.Add(int64(len(again)))
		require.Empty(o.t, again)
	}
	t.Run("points", func(t *testing.T) {
		m := matrix{
			site: func(t *testing.T) *site {
				s := newSite(t, nil, nil, withImages, oneDEA)
				for _, command := range []string{"docker tag", "docker run"} { // over too soon to be killed in
					s.cluster.Node("dea-1").SlowCommand(command, -1, in(400*time.Millisecond, 2*time.Second))
				}
				return s
			},
			start:  func(s *site) *op { return s.imageUpgradeDirectly(operation.ImageUpgradeInput{}) },
			intact: built,
		}
		m.lanes(t, "operation", 2, boundaries("Resolve", "LockToken", "PreflightImages", "Fence", "ClusterGates", "OldImages"))
		m.lanes(t, "node", 2, inChild("dea-1", slices.Concat(boundaries("Probe", "LookAtImages"),
			within("BuildImage", killPoint{name: "in build", moment: inCommand("dea-1", "docker build")}),
			within("CheckImage", killPoint{name: "in a container", moment: inCommand("dea-1", "docker run")}),
			within("TagImage", killPoint{name: "in a tag", moment: inCommand("dea-1", "docker tag")}), boundaries("Gates"))))
	})
	tellKills(t, "upgrade of the base image")
}
