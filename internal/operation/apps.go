package operation

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Names of the workflows that handle apps, as registered.
const (
	WorkflowApps      = "Apps"
	WorkflowAppsBatch = "AppsBatch"
	WorkflowAppsList  = "AppsList"
)

// Kinds of the operations on apps. They reach no node, only the Cloud Controller, and hold the cluster's lock.
const (
	KindAppsRestart  = "apps-restart"
	KindAppsRedeploy = "apps-redeploy"
	KindAppsList     = "apps-list"
)

// OnApps reports whether operations of a kind are on apps.
func OnApps(kind string) bool { return kind == KindAppsRestart || kind == KindAppsRedeploy }

// Error types of operations that use the Cloud Controller.
const (
	ErrController = "Controller" // the Cloud Controller cannot be used as it is configured, or does not answer
	ErrAppRefused = "AppRefused" // the Cloud Controller refused to do it with this app
	ErrAppGone    = "AppGone"    // there is no such app any more
	ErrApp        = "App"        // an app does not run, or does not run whole
	ErrAppStopped = "AppStopped" // an app that was being started was stopped meanwhile
	ErrAppsFailed = "AppsFailed" // the operation ended and some apps do not run
)

// AppAction is what is done with apps.
type AppAction string

// Actions. There is no restart in the API: it is a stop and then a start, so that the app is away in between (kato.md §6.1).
const (
	AppRestart AppAction = "restart" // stopped, then started
	AppRestage AppAction = "restage" // staged anew from its package, then started
	AppStart   AppAction = "start"   // only started
	AppAwait   AppAction = "await"   // only waited for: something else has started it
)

// What became of an app.
const (
	AppRunning   = "running"   // restarted, and every instance runs
	AppRestaged  = "restaged"  // staged anew, and every instance runs
	AppFailed    = "failed"    // does not run whole, or could not be touched: see the reason
	AppStopped   = "stopped"   // was stopped before, and stays so
	AppGone      = "gone"      // deleted meanwhile
	AppUntouched = "untouched" // the operation ended before its turn
)

// StepStart is the step of a question about apps that the operation has stopped and cannot start.
const StepStart = "start"

// Defaults and bounds of operations on apps.
const (
	DefaultAppsAtOnce = 10
	MaxAppsAtOnce     = 200
	DefaultAppTimeout = Duration(15 * time.Minute)
	// MaxApps is how many apps one operation takes, because their list is a part of its history.
	MaxApps = 6000
	// AppsPerBatch is how many apps one child workflow handles.
	AppsPerBatch = 50
	// MaxAppsBytes bounds the names and ids of the apps of one operation, which are one payload of at most 2 MiB.
	MaxAppsBytes = 1 << 20
	// MaxAppPatterns bounds a selection.
	MaxAppPatterns = 2000
)

// AppsInput asks for apps to be restarted or staged anew.
type AppsInput struct {
	Request
	Action AppAction `json:"action"`
	// Apps are patterns ORG/SPACE/APP, each part with the wildcards of path.Match; an app is meant when one of them matches.
	Apps []string `json:"apps,omitempty"`
	// Only are apps by their guid, as a report has them, instead of patterns.
	Only []AppChoice `json:"only,omitempty"`
	// AtOnce is how many apps are handled at a time (0 = DefaultAppsAtOnce).
	AtOnce int `json:"atOnce,omitempty"`
	// AppTimeout is how long one app may take until all its instances run (0 = DefaultAppTimeout).
	AppTimeout Duration `json:"appTimeout,omitempty"`
	// Window: no app is begun outside of it.
	Window WindowInput `json:"window,omitzero"`
}

// AppChoice is an app of a report.
type AppChoice struct {
	GUID string `json:"guid"`
	// Name for people: ORG/SPACE/APP.
	Name string `json:"name"`
	// Stopped: the operation of the report has left it stopped, so that it is meant although it is not started.
	Stopped bool `json:"stopped,omitempty"`
}

// Check lists what is wrong with the request.
func (in AppsInput) Check() []string {
	var problems []string
	if in.Cluster == "" {
		problems = append(problems, "cluster is missing: name one of the inventory")
	}
	if in.Action != AppRestart && in.Action != AppRestage {
		problems = append(problems, fmt.Sprintf("action %q: choose restart or restage", Shorten(string(in.Action), 40)))
	}
	if in.AtOnce < 0 || in.AtOnce > MaxAppsAtOnce {
		problems = append(problems, fmt.Sprintf("apps at once %d: write a number from 1 to %d", in.AtOnce, MaxAppsAtOnce))
	}
	if in.AppTimeout < 0 {
		problems = append(problems, "app timeout is negative")
	}
	problems = append(problems, in.Window.Check(UnitApp)...)
	switch {
	case len(in.Only) > 0 && len(in.Apps) > 0:
		problems = append(problems, "apps are named in two ways: by patterns and by a report")
	case len(in.Only) > MaxApps:
		problems = append(problems, fmt.Sprintf("%d apps are meant: one operation takes %d", len(in.Only), MaxApps))
	case len(in.Only) > 0:
	case len(in.Apps) == 0:
		problems = append(problems, "no apps are named: write ORG/SPACE/APP, or */*/* for all of them")
	case len(in.Apps) > MaxAppPatterns:
		problems = append(problems, fmt.Sprintf("%d apps are named: at most %d, or a pattern such as ORG/*/*", len(in.Apps), MaxAppPatterns))
	default:
		for _, p := range in.Apps {
			if err := CheckAppPattern(p); err != nil {
				problems = append(problems, err.Error())
			}
		}
	}
	return problems
}

// CheckAppPattern says what is wrong with the pattern of an app.
func CheckAppPattern(pattern string) error {
	parts := strings.SplitN(pattern, "/", 3)
	if len(parts) != 3 || slices.Contains(parts, "") {
		return fmt.Errorf("app %q: write ORG/SPACE/APP, * for any", Shorten(pattern, 80))
	}
	for _, part := range parts {
		if _, err := path.Match(part, ""); err != nil {
			return fmt.Errorf("app %q: the pattern %q is not closed", Shorten(pattern, 80), Shorten(part, 40))
		}
	}
	return nil
}

// MatchApp reports whether a checked pattern means the app.
func MatchApp(pattern, org, space, app string) bool {
	parts := strings.SplitN(pattern, "/", 3)
	if len(parts) != 3 {
		return false
	}
	for i, name := range []string{org, space, app} {
		// A wildcard of path.Match does not match a slash, which a name may have.
		if ok, err := path.Match(parts[i], strings.ReplaceAll(name, "/", "\x00")); (err != nil || !ok) && parts[i] != name {
			return false
		}
	}
	return true
}

// App is an app with its place, as the operation has found it.
type App struct {
	GUID  string `json:"guid"`
	Org   string `json:"org"`
	Space string `json:"space"`
	Name  string `json:"name"`
	// Instances that are wanted.
	Instances int `json:"instances"`
}

// String is ORG/SPACE/APP.
func (a App) String() string { return a.Org + "/" + a.Space + "/" + a.Name }

// AppResult is what became of an app.
type AppResult struct {
	App
	// Outcome is one of the outcomes above.
	Outcome string `json:"outcome"`
	// Reason of a failure, and ToDo, what its owner has to do, one line each.
	Reason string `json:"reason,omitempty"`
	ToDo   string `json:"toDo,omitempty"`
	// LeftStopped: the operation has stopped it, or may have (Unsure), and did not get it started again.
	LeftStopped bool `json:"leftStopped,omitempty"`
	// Unsure: whether the operation has stopped it, or staged it anew, was not learned.
	Unsure bool `json:"unsure,omitempty"`
	// Took so long until all instances ran, or it failed.
	Took Duration `json:"took,omitempty"`
}

// AppsReport is the part of a Report about apps.
type AppsReport struct {
	Action AppAction `json:"action"`
	// Total of the apps that are meant, and how many of them are handled.
	Total   int `json:"total"`
	Handled int `json:"handled"`
	// AtOnce is how many are handled at a time.
	AtOnce int `json:"atOnce"`
	// Counts of what became of them, by outcome. Of those under way only failures are known before their batch has ended.
	Counts map[string]int `json:"counts,omitempty"`
	// Apps by org, space and name; of very many only those that are not well, and More is how many are left out.
	Apps []AppResult `json:"apps,omitempty"`
	More int         `json:"more,omitempty"`
}

// AppsListInput asks for the apps of a cluster.
type AppsListInput struct {
	Cluster string `json:"cluster"`
	// Apps are patterns ORG/SPACE/APP; none for all.
	Apps []string `json:"apps,omitempty"`
	// Instances asks for the state of each started app's instances too.
	Instances bool `json:"instances,omitempty"`
}

// AppStatus is an app as it is listed.
type AppStatus struct {
	App
	// State that is wanted: STARTED or STOPPED. PackageState is PENDING, STAGED or FAILED.
	State        string `json:"state"`
	PackageState string `json:"packageState"`
	Buildpack    string `json:"buildpack,omitempty"`
	// Running instances; -1 when that was not asked for or not told.
	Running int `json:"running"`
	// Health in one word: running, partly, starting, flapping, down, staging, staging failed, stopped, or unknown.
	Health string `json:"health,omitempty"`
	// RestartRequired after a change of its environment.
	RestartRequired bool `json:"restartRequired,omitempty"`
}

// AppList is what a cluster has.
type AppList struct {
	Apps []AppStatus `json:"apps"`
	// More apps than can be listed at once are left out.
	More int `json:"more,omitempty"`
}
