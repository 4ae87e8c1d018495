package operation

import (
	"fmt"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/docker"
)

// Names of the workflows of the upgrade of the docker base image, as registered, and its kind.
const (
	WorkflowImageUpgrade     = "ImageUpgrade"
	WorkflowImageUpgradeNode = "ImageUpgradeNode"
	KindImageUpgrade         = "upgrade-image"
)

// Steps of the upgrade of the base image on one DEA, in order, beside probe and gates. They stand in reports, decisions and job names.
const (
	StepImages     = "images"      // what docker has there
	StepBuild      = "build"       // the new image is built, and nothing uses it yet
	StepPull       = "pull"        // instead of it: the image that the first node has pushed is fetched
	StepCheckImage = "check-image" // it starts, and its packages are current
	StepPush       = "push"        // it goes to the registry, from the first node
	StepTag        = "tag"         // latest is kept under another tag, and is the new image from here on
)

// Jobs of these steps whose name is not that of their step.
const (
	JobNameImage   = "name-image"   // the image gets the name under which it is pushed
	JobKeepImage   = "keep-image"   // the image that was latest gets the tag PreviousTag
	JobLatestImage = "latest-image" // latest is the new image
)

// Steps of the operation itself.
const (
	StepImageList   = "image-list"   // kato's list of images has the registry's first
	StepDEATemplate = "dea-template" // the template from which DEAs are made by autoscaling
	StepAppsImage   = "apps-image"   // which apps still run on an older image
)

// Error types of the upgrade of the base image.
const (
	ErrImage       = "Image"       // an image is not as it must be: it does not start, or its packages are not current
	ErrDEATemplate = "DEATemplate" // the template of autoscaling is to be made anew
	ErrOldImage    = "OldImage"    // apps still run on an older image
)

// Tags of base images (kato.md §7).
const (
	LatestTag = "latest" // what new app containers are made from
	// BaseTag is the image most recently updated by kato patch. Built on it, images do not get more and more layers.
	BaseTag = "kato-patched"
	// PreviousTag is katoflow's own: what latest was before, for a rollback.
	PreviousTag = "katoflow-previous"
)

// DefaultImageRepository of the base image (kato.md §7; "helion/stack-alsek" in ALS 1.3).
const DefaultImageRepository = "stackato/stack-alsek"

// MaxLayers is how many layers docker mounts over each other at most.
const MaxLayers = 125

// ImageSettings are the names of the base image.
type ImageSettings struct {
	// Repository is its name without a tag (default DefaultImageRepository).
	Repository string `json:"repository,omitempty"`
	// Base is the tag that is built on (default BaseTag).
	Base string `json:"base,omitempty"`
	// Registry is HOST[:PORT]/NAME, where the image is pushed to by the first node and fetched from by the others; "" builds it on each.
	Registry string `json:"registry,omitempty"`
}

// Or takes what is not set from another one, and then from the defaults.
func (s ImageSettings) Or(other ImageSettings) ImageSettings {
	first := func(all ...string) string {
		for _, v := range all {
			if v != "" {
				return v
			}
		}
		return ""
	}
	return ImageSettings{Repository: first(s.Repository, other.Repository, DefaultImageRepository), Base: first(s.Base, other.Base, BaseTag), Registry: first(s.Registry, other.Registry)}
}

// Used is the name under which apps get the image.
func (s ImageSettings) Used() string {
	if s.Registry != "" {
		return s.Registry
	}
	return s.Repository
}

// Check lists what is wrong with it, one line each.
func (s ImageSettings) Check() []string {
	var problems []string
	note := func(field, value string, check func(string) error) {
		if value == "" {
			return
		}
		if err := check(value); err != nil {
			problems = append(problems, field+" "+err.Error())
		}
	}
	note("repository", s.Repository, docker.CheckRepository)
	note("base-tag", s.Base, docker.CheckTag)
	note("registry", s.Registry, docker.CheckRegistry)
	if s.Base == LatestTag {
		problems = append(problems, "base-tag latest: every upgrade would be built on the one before, with more and more layers: write another one, such as "+BaseTag)
	}
	return problems
}

// ImageUpgradeInput asks for the docker base image of the DEAs to be upgraded. Zero values are the defaults.
type ImageUpgradeInput struct {
	Request
	// Nodes limits the operation to these DEAs; empty = all.
	Nodes []string `json:"nodes,omitempty"`
	// Images replaces what the inventory says of them.
	Images ImageSettings `json:"images,omitzero"`
	// Batch is a count or percentage of DEAs that build at once (default "1").
	Batch string `json:"batch,omitempty"`
	// NoCanary lets the first batch be a whole one; otherwise the first DEA goes alone and is followed by the soak.
	NoCanary bool     `json:"noCanary,omitempty"`
	Soak     Duration `json:"soak,omitempty"`
	// MaxFailures: nil asks about every failed node; otherwise so many nodes are skipped without asking and one more aborts.
	MaxFailures *int `json:"maxFailures,omitempty"`
	// Rollback makes latest what it was before the last upgrade; nothing is built.
	Rollback bool `json:"rollback,omitempty"`
	// RestartApps restarts the apps that run, when every DEA is done.
	RestartApps bool     `json:"restartApps,omitempty"`
	AppsAtOnce  int      `json:"appsAtOnce,omitempty"`
	AppTimeout  Duration `json:"appTimeout,omitempty"`
	// Window: no node is begun outside of it, and no app restarted.
	Window WindowInput `json:"window,omitzero"`
}

// Check lists what is wrong with it, one line each.
func (in ImageUpgradeInput) Check() []string {
	problems := in.Images.Check()
	if in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if in.Soak < 0 {
		problems = append(problems, "soak is negative")
	}
	if in.MaxFailures != nil && *in.MaxFailures < 0 {
		problems = append(problems, "max-failures is negative: 0 aborts at the first failed node")
	}
	if in.Images.Registry != "" && in.NoCanary {
		problems = append(problems, "registry needs the canary, which builds the image for the others")
	}
	if !in.RestartApps && (in.AppsAtOnce != 0 || in.AppTimeout != 0) {
		problems = append(problems, "apps-at-once and app-timeout go with restart-apps")
	}
	if in.RestartApps {
		problems = append(problems, in.apps("any").Check()...)
	}
	return append(problems, in.Window.Check(UnitNode)...)
}

// Apps is the restart that follows.
func (in ImageUpgradeInput) Apps() AppsInput { return in.apps(in.Cluster) }

func (in ImageUpgradeInput) apps(cluster string) AppsInput {
	return AppsInput{Request: Request{OperationID: in.OperationID, Cluster: cluster}, Action: AppRestart, Apps: []string{"*/*/*"}, AtOnce: in.AppsAtOnce, AppTimeout: in.AppTimeout}
}

// FollowWait is how long an operation that follows another one queues at most for the cluster, which somebody else may have taken in between.
const FollowWait = Duration(12 * time.Hour)

// After is the input of the upgrade that follows a security upgrade, on these DEAs.
func (in ImageUpgradeInput) After(before SecurityUpgradeInput, deas []string) ImageUpgradeInput {
	in.Request = before.Request
	in.LockWait, in.StartWithin = max(before.LockWait, FollowWait), 0
	in.Nodes, in.Batch, in.NoCanary, in.Soak, in.MaxFailures, in.Window = deas, before.Batch, before.NoCanary && in.Images.Registry == "", before.Soak, before.MaxFailures, before.Window
	return in
}

// ImageTag is the tag of an upgrade that began at a time: "upgrade-2014-09-19", as the source page has it.
func ImageTag(began time.Time) string { return "upgrade-" + began.UTC().Format(time.DateOnly) }

// ImageProgress is what the steps of a DEA have found so far.
type ImageProgress struct {
	// Docker is its version, as docker writes it.
	Docker string `json:"docker,omitempty"`
	// Before and Previous are the ids of the images that were latest and PreviousTag when the node was begun; "" for none.
	Before   string `json:"before,omitempty"`
	Previous string `json:"previous,omitempty"`
	// ID of the image that is latest at the end, and Tag, the name with which it was built or pulled.
	ID  string `json:"id,omitempty"`
	Tag string `json:"tag,omitempty"`
	// Digest is what the registry calls it, "sha256:...".
	Digest string `json:"digest,omitempty"`
	// Layers of it.
	Layers int `json:"layers,omitempty"`
	// Built is false when the image of that day was there already.
	Built bool `json:"built,omitempty"`
	// BuildTries are the tries of the build that ended well, and Checks those of the looks into images.
	BuildTries int `json:"buildTries,omitempty"`
	Checks     int `json:"checks,omitempty"`
	// Anew: the image of that day is not current, so that it is built again.
	Anew bool `json:"anew,omitempty"`
	// Moved: latest is the image.
	Moved bool `json:"moved,omitempty"`
}

// ImageReport is what became of the base image of a cluster.
type ImageReport struct {
	ImageSettings
	// Tag is the name of the new image.
	Tag      string `json:"tag"`
	Rollback bool   `json:"rollback,omitempty"`
	// List are the images that kato gives to apps, the first one first, at the end; ListBefore when they were changed.
	List       []string `json:"list,omitempty"`
	ListBefore []string `json:"listBefore,omitempty"`
	// Template is what has to be known of the DEA template: "" without autoscaling.
	Template string `json:"template,omitempty"`
	// Containers that run on an older image, and of how many apps; -1 when that was not asked.
	OldContainers int `json:"oldContainers"`
	OldApps       int `json:"oldApps"`
	// Unasked is the number of DEAs that did not say.
	Unasked int `json:"unasked,omitempty"`
	// Old are the apps, at most MaxOldApps.
	Old []OldApp `json:"old,omitempty"`
}

// ShortImage is an image's id as people see it.
func ShortImage(id string) string { return docker.ShortID(id) }

// MaxOldApps is how many apps on an older image are told.
const MaxOldApps = 500

// OldApp is an app, or a container whose app is not known, that runs on an older image.
type OldApp struct {
	// App is "org/space/name", or what is known of it.
	App        string   `json:"app,omitempty"`
	GUID       string   `json:"guid,omitempty"`
	Nodes      []string `json:"nodes"`
	Containers []string `json:"containers"`
}

// String is "org/space/name: 2 containers on dea-1, dea-2".
func (a OldApp) String() string {
	name := a.App
	switch {
	case name == "" && a.GUID != "":
		name = "app " + a.GUID
	case name == "":
		return fmt.Sprintf("container %s on %s, of which app is not known", strings.Join(a.Containers, ", "), strings.Join(a.Nodes, ", "))
	}
	what := "1 container"
	if n := len(a.Containers); n != 1 {
		what = fmt.Sprintf("%d containers", n)
	}
	return fmt.Sprintf("%s: %s on %s", name, what, strings.Join(a.Nodes, ", "))
}
