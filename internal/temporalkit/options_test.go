package temporalkit

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/workflow"
)

func TestWorkerOptions_Defaults_AllowTakeoverWithinSeconds(t *testing.T) {
	o := WorkerOptions(Settings{})
	for name, wrong := range map[string]bool{
		"WorkerStopTimeout":                  o.WorkerStopTimeout != 45*time.Second,
		"MaxConcurrentActivityExecutionSize": o.MaxConcurrentActivityExecutionSize != 64,
		"MaxHeartbeatThrottleInterval":       o.MaxHeartbeatThrottleInterval != 2*time.Second,
		"DefaultHeartbeatThrottleInterval":   o.DefaultHeartbeatThrottleInterval != 2*time.Second,
		"StickyScheduleToStartTimeout":       o.StickyScheduleToStartTimeout != 2*time.Second,
		"DisableRegistrationAliasing":        !o.DisableRegistrationAliasing,
		"versioning is off":                  o.DeploymentOptions.UseVersioning,
		"Tuner":                              o.Tuner != nil,
		"Interceptors":                       len(o.Interceptors) != 0,
	} {
		if wrong {
			t.Errorf("%s is not as documented: %+v", name, o)
		}
	}
}

func TestWorkerOptions_Settings_Arrive(t *testing.T) {
	var heard error
	o := WorkerOptions(Settings{MaxActivities: 5, StopTimeout: time.Second, Identity: "me", DeploymentName: "site", BuildID: "b7",
		OnFatalError: func(err error) { heard = err }, Interceptor: NewInterceptor(InterceptorOptions{})})
	if o.MaxConcurrentActivityExecutionSize != 5 || o.WorkerStopTimeout != time.Second || o.Identity != "me" || len(o.Interceptors) != 1 {
		t.Errorf("got %+v", o)
	}
	d := o.DeploymentOptions
	if !d.UseVersioning || d.Version.DeploymentName != "site" || d.Version.BuildID != "b7" || d.DefaultVersioningBehavior != workflow.VersioningBehaviorPinned {
		t.Errorf("deployment %+v", d)
	}
	o.OnFatalError(errors.New("x"))
	if heard == nil {
		t.Error("OnFatalError was not passed on")
	}
}

func TestSettings_BadValues_AreNamed(t *testing.T) {
	for want, s := range map[string]Settings{
		"max activities": {MaxActivities: -1},
		"stop timeout":   {StopTimeout: -time.Second},
		"build id":       {DeploymentName: "site"},
		"both":           {BuildID: "b"},
	} {
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want something with %q", s, err, want)
		}
	}
	if err := (Settings{}).Check(); err != nil {
		t.Error(err)
	}
}
