package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/controller"
	"github.com/katoflow/katoflow/internal/operation"
)

// Apps handles the apps of a cluster through its Cloud Controller. Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times: stopping what is stopped and starting what is started changes nothing (kato.md §6.1).
type Apps struct {
	Source *Source
	// Operations reads the results of workflows; a Temporal client does.
	Operations WorkflowResults
	// Logger of the clients; nil for none.
	Logger *zap.Logger

	mu sync.Mutex
	// clients by cluster and use, so that an operation on a thousand apps logs in once.
	clients map[string]appClient
}

// WorkflowResults is the part of a Temporal client that reads the result of a workflow.
type WorkflowResults interface {
	GetWorkflow(ctx context.Context, workflowID, runID string) client.WorkflowRun
}

type appClient struct {
	*controller.Client
	key string
}

// SelectAppsInput asks which apps an operation is about.
type SelectAppsInput struct {
	Operation Operation `json:"operation"`
	// Apps are patterns, Only apps by their guid; All means every app, and no problem when there is none.
	All  bool                  `json:"all,omitempty"`
	Apps []string              `json:"apps,omitempty"`
	Only []operation.AppChoice `json:"only,omitempty"`
}

// BatchResultInput names a batch of apps.
type BatchResultInput struct {
	WorkflowID string `json:"workflowId"`
}

// SelectAppsResult is what was found, before anything is changed.
type SelectAppsResult struct {
	// Apps to be handled, and Stopped ones, which are left alone; both by org, space and name.
	Apps     []operation.App `json:"apps,omitempty"`
	Stopped  []operation.App `json:"stopped,omitempty"`
	Problems []string        `json:"problems,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
}

// AppInput is one app to be handled.
type AppInput struct {
	Operation Operation     `json:"operation"`
	App       operation.App `json:"app"`
	// Timeout of the app as a whole (AwaitApp), or how long the Cloud Controller may be away (all others).
	Timeout operation.Duration `json:"timeout"`
}

const (
	// appPoll is the time between two looks at an app that starts.
	appPoll = 500 * time.Millisecond
	// appSteady is how many looks in a row must find every instance running.
	appSteady = 2
	// appLooks is after how many looks the instances that are wanted are read again: somebody may scale the app.
	appLooks = 20
	// frozen is a pause in an attempt after which another attempt may have done its work: Temporal gives an activity away that does not beat for 6 s.
	frozen = 5 * time.Second
	// appFlaps is how long instances may be FLAPPING before the app counts as failed: the health manager's first restarts may still succeed.
	appFlaps = 30 * time.Second
	// asksAtOnce bounds the requests of a list.
	asksAtOnce = 12
	// maxListed bounds a list of apps: an answer of Temporal holds 2 MiB.
	maxListed = 5000
)

// client of a cluster's controller for reads.
func (x *Apps) client(cluster string) (*controller.Client, error) { return x.open(cluster, 0) }

// writer is a client that makes one attempt at a request, so that between two attempts its caller can look whether they are still its own to make.
func (x *Apps) writer(cluster string) (*controller.Client, error) { return x.open(cluster, 1) }

// open returns the client of a cluster's controller with so many attempts at a request, 0 for the usual; one that is configured otherwise than before is made anew.
func (x *Apps) open(cluster string, attempts int) (*controller.Client, error) {
	s, err := x.Source.site(cluster)
	if err != nil {
		return nil, err
	}
	if s.cluster.Controller == nil {
		return nil, operation.NewError(operation.Failure{Type: operation.ErrController,
			Message: "cluster " + cluster + " has no controller in the inventory: write url, user and password of its Cloud Controller"})
	}
	cfg, err := controller.ConfigOf(s.file, s.cluster.Controller, s.env)
	if err != nil {
		return nil, controllerError(err)
	}
	cfg.Attempts = attempts
	name := fmt.Sprintf("%s/%d", cluster, attempts)
	key := strings.Join([]string{cfg.URL, cfg.User, cfg.Password, string(cfg.CA), cfg.Timeout.String()}, "\x00")
	x.mu.Lock()
	defer x.mu.Unlock()
	if c, ok := x.clients[name]; ok {
		if c.key == key {
			return c.Client, nil
		}
		c.Close()
	}
	c, err := controller.Open(cfg, x.Logger)
	if err != nil {
		return nil, controllerError(err)
	}
	if x.clients == nil {
		x.clients = map[string]appClient{}
	}
	x.clients[name] = appClient{c, key}
	return c, nil
}

// controllerError is the activity's error for one of package controller. None is retried by Temporal: what passes is waited for here.
func controllerError(err error) error {
	if err == nil {
		return nil
	}
	var e *controller.Error
	if !errors.As(err, &e) {
		return nodeError(err)
	}
	f := operation.Failure{Type: operation.ErrController, Message: oneLine(e.Error(), maxMessage)}
	switch e.Kind {
	case controller.KindNotFound:
		f.Type = operation.ErrAppGone
	case controller.KindMaintenance, controller.KindOther, controller.KindForbidden:
		f.Type = operation.ErrAppRefused
	}
	return operation.NewError(f)
}

// patiently calls try until it does not fail for something that passes, or the controller was away for limit. try must be harmless to repeat by this attempt. An
// attempt that stood still for so long that another one may have been begun, as that of a frozen worker, tries no more: the app may be well by now. waits says of an
// error that nothing but time is needed, beside those that package controller calls so.
func (a *attempt) patiently(limit time.Duration, waits func(error) bool, try func(ctx context.Context) error) error {
	began := a.since("the Cloud Controller")
	awake := a.began
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		if time.Since(awake) > wait+frozen {
			return temporal.NewApplicationErrorWithOptions("the attempt stood still for too long: another one goes on", operation.ErrWorker, temporal.ApplicationErrorOptions{NextRetryDelay: time.Second})
		}
		err := try(a.ctx)
		if err == nil {
			return nil
		}
		if a.ctx.Err() != nil {
			return ended(a.ctx)
		}
		var e *controller.Error
		passing := errors.As(err, &e) && (e.Retryable() || waits != nil && waits(err))
		if !passing || time.Since(began) > limit {
			return controllerError(err)
		}
		a.phase("waits: " + e.Error())
		awake = time.Now()
		if !a.pause(wait) {
			return ended(a.ctx)
		}
	}
}

// SelectApps finds the apps that the patterns mean, and whether they can be handled: the controller answers, the user is an admin, maintenance mode is off,
// every pattern means at least one. It changes nothing.
//
// Errors: Controller when it cannot be asked.
func (x *Apps) SelectApps(ctx context.Context, in SelectAppsInput) (SelectAppsResult, error) {
	a := begin(ctx, "asking the Cloud Controller for its apps")
	defer a.finish()
	c, err := x.client(in.Operation.Cluster)
	if err != nil {
		return SelectAppsResult{}, err
	}
	var out SelectAppsResult
	info, err := c.StackatoInfo(a.ctx)
	if err == nil && info.MaintenanceMode {
		out.Problems = append(out.Problems, "controller: maintenance mode is on, in which no app can be stopped or started: end it first")
	}
	if err == nil {
		err = c.CheckAdmin(a.ctx)
	}
	var tree []controller.PlacedApp
	if err == nil {
		tree, err = c.AppTree(a.ctx)
	}
	if err != nil {
		if a.ctx.Err() != nil {
			return SelectAppsResult{}, ended(a.ctx)
		}
		if problem := operation.FailureOf(controllerError(err)); problem.Type != operation.ErrInternal {
			out.Problems = append(out.Problems, "controller: "+problem.Message)
			return out, nil
		}
		return SelectAppsResult{}, controllerError(err)
	}
	met := make([]bool, len(in.Apps))
	only := map[string]operation.AppChoice{}
	for _, choice := range in.Only {
		only[choice.GUID] = choice
	}
	for _, app := range tree {
		choice, meant := only[app.GUID]
		meant = meant || in.All
		delete(only, app.GUID)
		for i, p := range in.Apps {
			if operation.MatchApp(p, app.Org, app.Space, app.Name) {
				met[i], meant = true, true
			}
		}
		switch {
		case !meant:
		case app.State == controller.Started, choice.Stopped:
			out.Apps = append(out.Apps, placed(app))
		default:
			out.Stopped = append(out.Stopped, placed(app))
		}
	}
	for i, p := range in.Apps {
		if !met[i] {
			out.Problems = append(out.Problems, fmt.Sprintf("app %s: there is none: see katoflow apps list %s", oneLine(p, 120), in.Operation.Cluster))
		}
	}
	for _, choice := range in.Only {
		if _, gone := only[choice.GUID]; gone {
			out.Warnings = append(out.Warnings, "app "+oneLine(choice.Name, 200)+" of the report is there no more")
		}
	}
	if more := len(out.Warnings) - 50; more > 0 {
		out.Warnings = append(out.Warnings[:50], fmt.Sprintf("and %d more apps of the report are there no more", more))
	}
	if len(out.Problems) > 50 {
		out.Problems = append(out.Problems[:50], fmt.Sprintf("and %d more", len(out.Problems)-50))
	}
	if n := len(out.Apps) + len(out.Stopped); n > operation.MaxApps {
		out.Problems = append(out.Problems, fmt.Sprintf("%d apps are meant: one operation takes %d, so do it by orgs, as with ORG/*/*", n, operation.MaxApps))
		out.Apps, out.Stopped = nil, nil
	}
	bytes := 0
	for _, app := range append(slices.Clone(out.Apps), out.Stopped...) {
		bytes += bytesOf(app)
	}
	if bytes > operation.MaxAppsBytes {
		out.Problems = append(out.Problems, fmt.Sprintf("the names of the %d apps that are meant are too long for one operation: do it by orgs, as with ORG/*/*", len(out.Apps)+len(out.Stopped)))
		out.Apps, out.Stopped = nil, nil
	}
	return out, nil
}

// bytesOf is about what an app takes in a payload.
func bytesOf(app operation.App) int {
	n := 80
	for _, text := range []string{app.GUID, app.Org, app.Space, app.Name} {
		n += len(text) + 5*strings.Count(text, "<") + 5*strings.Count(text, ">") + 5*strings.Count(text, "&") // as JSON writes them
	}
	return n
}

func placed(app controller.PlacedApp) operation.App {
	return operation.App{GUID: app.GUID, Org: oneLine(app.Org, 120), Space: oneLine(app.Space, 120), Name: oneLine(app.Name, 120), Instances: app.Instances}
}

// StopApp asks for the app to be stopped; its instances end then. Repeating it changes nothing.
//
// Errors: AppRefused when the controller does not want to (maintenance mode, rights) and the app was read to be started still; AppGone; Controller when it did not
// answer for Timeout, or cannot be used: then the app may be stopped.
func (x *Apps) StopApp(ctx context.Context, in AppInput) error {
	return x.set(ctx, in, "stop", nil, func(ctx context.Context, c *controller.Client) error {
		_, err := c.SetAppState(ctx, in.App.GUID, controller.Stopped)
		return unlessStopped(ctx, c, in.App.GUID, err, nil)
	})
}

// unlessStopped is the error of a change that the controller refused, or of an app that is read to be stopped all the same: whenStopped. What cannot be read is of
// unknown outcome.
func unlessStopped(ctx context.Context, c *controller.Client, guid string, err, whenStopped error) error {
	var e *controller.Error
	if !errors.As(err, &e) || e.Retryable() || e.Kind == controller.KindNotFound {
		return err
	}
	app, unread := c.App(ctx, guid)
	switch {
	case unread == nil && app.State == controller.Stopped:
		return whenStopped
	case unread == nil:
		return err
	case controller.IsKind(unread, controller.KindNotFound):
		return unread
	}
	return operation.NewError(operation.Failure{Type: operation.ErrController, Message: oneLine(e.Error()+"; whether it is stopped was not learned: "+unread.Error(), maxMessage)})
}

// StartApp asks for the app to be started. It waits while maintenance mode is on, for Timeout: what this operation has stopped must not stay so because somebody
// set that meanwhile. Repeating it changes nothing.
//
// Errors: as StopApp.
func (x *Apps) StartApp(ctx context.Context, in AppInput) error {
	maintenance := func(err error) bool { return controller.IsKind(err, controller.KindMaintenance) }
	return x.set(ctx, in, "start", maintenance, func(ctx context.Context, c *controller.Client) error {
		_, err := c.SetAppState(ctx, in.App.GUID, controller.Started)
		return err
	})
}

// RestageApp asks for the app to be staged anew from its package. While it is being staged already, that staging counts (kato.md §6.1: NotStaged).
//
// Errors: as StopApp.
func (x *Apps) RestageApp(ctx context.Context, in AppInput) error {
	return x.set(ctx, in, "restage", nil, func(ctx context.Context, c *controller.Client) error {
		_, err := c.RestageApp(ctx, in.App.GUID)
		if controller.IsKind(err, controller.KindNotStaged) {
			return nil
		}
		var e *controller.Error
		stopped := error(nil)
		if errors.As(err, &e) {
			stopped = operation.NewError(operation.Failure{Type: operation.ErrController, Message: oneLine(e.Error()+"; and it is stopped now", maxMessage)})
		}
		return unlessStopped(ctx, c, in.App.GUID, err, stopped)
	})
}

func (x *Apps) set(ctx context.Context, in AppInput, what string, waits func(error) bool, do func(ctx context.Context, c *controller.Client) error) error {
	a := begin(ctx, what+" "+in.App.String())
	defer a.finish()
	c, err := x.writer(in.Operation.Cluster)
	if err != nil {
		if f := operation.FailureOf(err); !a.again { // nothing was asked for yet
			return operation.NewError(operation.Failure{Type: operation.ErrAppRefused, Message: f.Message})
		}
		return err
	}
	return a.patiently(in.Timeout.D(), waits, func(ctx context.Context) error { return do(ctx, c) })
}

// AwaitApp waits until every instance that is wanted runs, seen several times in a row.
//
// Errors: App, with what its owner has to know, when staging fails, instances flap, or not all run after Timeout; AppGone; Controller.
func (x *Apps) AwaitApp(ctx context.Context, in AppInput) error {
	a := begin(ctx, in.App.String()+" starts")
	defer a.finish()
	c, err := x.client(in.Operation.Cluster)
	if err != nil {
		return err
	}
	began, steady, flapping, wanted, looks := a.since(in.App.GUID), 0, time.Time{}, in.App.Instances, 0
	broken := func(format string, args ...any) error {
		return operation.NewError(operation.Failure{Type: operation.ErrApp, Message: oneLine(fmt.Sprintf(format, args...), maxMessage)})
	}
	for {
		states, err := c.AppInstances(a.ctx, in.App.GUID)
		now := time.Now()
		late := now.Sub(began) > in.Timeout.D()
		var e *controller.Error
		switch {
		case a.ctx.Err() != nil:
			return ended(a.ctx)
		case controller.IsKind(err, controller.KindStagingFailed):
			return broken("its staging failed")
		case controller.IsKind(err, controller.KindStopped):
			return operation.NewError(operation.Failure{Type: operation.ErrAppStopped, Message: "it was stopped while it started, by somebody else or by a worker that had stood still"})
		case controller.IsKind(err, controller.KindNotStaged):
			if late {
				return broken("it is still being staged after %s", in.Timeout)
			}
			a.phase("it is being staged")
		case errors.As(err, &e) && e.Retryable() && !late:
			a.phase("waits: " + e.Error())
		case err != nil:
			return controllerError(err)
		}
		if err != nil {
			steady = 0
		} else {
			running, flaps := 0, 0
			for _, state := range states {
				switch state {
				case "RUNNING":
					running++
				case "FLAPPING":
					flaps++
				}
			}
			switch {
			case running >= wanted:
				if steady++; steady >= appSteady {
					return nil
				}
			default:
				steady = 0
			}
			if flaps == 0 {
				flapping = time.Time{}
			} else if flapping.IsZero() {
				flapping = now
			}
			if looks++; steady == 0 && (late || looks%appLooks == 0) {
				if app, err := c.App(a.ctx, in.App.GUID); err == nil && app.Instances != wanted {
					wanted, began = app.Instances, time.Now()
					late = false
				}
			}
			a.phase(fmt.Sprintf("%d of %d instances run", running, wanted))
			switch {
			case flaps > 0 && (late || now.Sub(flapping) > appFlaps):
				return broken("%d of %d instances crash again and again (%s)", flaps, wanted, told(states))
			case late && steady == 0:
				return broken("%d of %d instances run after %s (%s)", running, wanted, in.Timeout, told(states))
			}
		}
		if !a.pause(appPoll) {
			return ended(a.ctx)
		}
	}
}

// BatchResult waits for a batch that was begun before a reset of its operation, and returns what became of its apps; nothing when there is no such batch. It changes nothing.
//
// Errors: Internal when it did not end with a result.
func (x *Apps) BatchResult(ctx context.Context, in BatchResultInput) ([]operation.AppResult, error) {
	a := begin(ctx, "waiting for what was begun before the reset")
	defer a.finish()
	var out []operation.AppResult
	err := x.Operations.GetWorkflow(a.ctx, in.WorkflowID, "").Get(a.ctx, &out)
	var closed *temporal.WorkflowExecutionError
	var missing *serviceerror.NotFound
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &missing):
		return nil, nil
	case a.ctx.Err() != nil:
		return nil, ended(a.ctx)
	case errors.As(err, &closed):
		return nil, operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: oneLine("the batch begun before the reset ended without a result: "+err.Error(), maxMessage)})
	}
	return nil, temporal.NewApplicationErrorWithOptions(oneLine("the batch begun before the reset cannot be read: "+err.Error(), maxMessage), operation.ErrInternal, temporal.ApplicationErrorOptions{})
}

// told is "2 RUNNING, 1 STARTING".
func told(states map[int]string) string {
	counts := map[string]int{}
	var names []string
	for _, s := range states {
		if counts[s]++; counts[s] == 1 {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	for i, n := range names {
		names[i] = fmt.Sprintf("%d %s", counts[n], n)
	}
	if len(names) == 0 {
		return "no instance is known"
	}
	return strings.Join(names, ", ")
}

// ListApps returns the apps of a cluster by org, space and name; with Instances, each started one is asked how many of its instances run. It changes nothing.
//
// Errors: Controller when it cannot be asked.
func (x *Apps) ListApps(ctx context.Context, in operation.AppsListInput) (operation.AppList, error) {
	a := begin(ctx, "asking the Cloud Controller for its apps")
	defer a.finish()
	c, err := x.client(in.Cluster)
	if err != nil {
		return operation.AppList{}, err
	}
	err = c.CheckAdmin(a.ctx) // who is no admin sees a part
	var tree []controller.PlacedApp
	if err == nil {
		tree, err = c.AppTree(a.ctx)
	}
	if a.ctx.Err() != nil {
		return operation.AppList{}, ended(a.ctx)
	}
	if err != nil {
		return operation.AppList{}, controllerError(err)
	}
	out := operation.AppList{Apps: []operation.AppStatus{}}
	bytes := 0
	for _, app := range tree {
		if len(in.Apps) > 0 && !slices.ContainsFunc(in.Apps, func(p string) bool { return operation.MatchApp(p, app.Org, app.Space, app.Name) }) {
			continue
		}
		if len(out.Apps) == maxListed || bytes > operation.MaxAppsBytes {
			out.More++
			continue
		}
		bytes += 160 + bytesOf(placed(app)) + len(app.Buildpack)
		out.Apps = append(out.Apps, operation.AppStatus{App: placed(app), State: app.State, PackageState: app.PackageState, Buildpack: oneLine(app.Buildpack, 120), Running: -1,
			RestartRequired: app.RestartRequired})
	}
	if !in.Instances {
		return out, nil
	}
	var wait sync.WaitGroup
	slots := make(chan struct{}, asksAtOnce)
	for i := range out.Apps {
		app := &out.Apps[i]
		if app.State != controller.Started {
			app.Health = "stopped"
			continue
		}
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			app.Running, app.Health = health(c.AppInstances(a.ctx, app.GUID))
			if app.Health == "" && app.Running < app.Instances {
				app.Health = "partly"
			} else if app.Health == "" {
				app.Health = "running"
			}
		})
	}
	wait.Wait()
	if a.ctx.Err() != nil {
		return operation.AppList{}, ended(a.ctx)
	}
	return out, nil
}

// health is how many instances run, and one word where that does not say it.
func health(states map[int]string, err error) (running int, word string) {
	switch {
	case controller.IsKind(err, controller.KindStagingFailed):
		return 0, "staging failed"
	case controller.IsKind(err, controller.KindNotStaged):
		return 0, "staging"
	case controller.IsKind(err, controller.KindStopped):
		return 0, "stopped"
	case err != nil:
		return -1, "unknown"
	}
	counts := map[string]int{}
	for _, s := range states {
		counts[s]++
	}
	switch running = counts["RUNNING"]; {
	case counts["FLAPPING"] > 0:
		return running, "flapping"
	case running > 0:
		return running, ""
	case counts["STARTING"] > 0:
		return 0, "starting"
	}
	return 0, "down"
}
