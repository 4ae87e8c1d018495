package temporalkit

import (
	"errors"
	"fmt"
	"os"
	"time"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// What a worker has when it is not told otherwise.
const (
	DefaultMaxActivities = 64
	DefaultStopTimeout   = 45 * time.Second
	// stickyTimeout, see WorkerOptions.
	stickyTimeout = 2 * time.Second
	// heartbeatThrottle is the longest a recorded heartbeat is kept back; see WorkerOptions.
	heartbeatThrottle = 2 * time.Second
)

// Settings of a worker.
type Settings struct {
	// MaxActivities at once (0 = 64). Sessions on the nodes are what limits, not the processor: the slots are fixed.
	MaxActivities int
	// StopTimeout is how long running activities may go on after the worker is told to stop (0 = 45 s). After it their contexts end with
	// worker.ErrWorkerShutdown.
	StopTimeout time.Duration
	// DeploymentName and BuildID switch Temporal's worker versioning on; both or neither.
	DeploymentName string
	BuildID        string
	// Identity as the Web UI shows it; "" = the client's.
	Identity string
	// OnFatalError hears of the error that stops the worker; it is also what Run returns.
	OnFatalError func(error)
	// Interceptor places log lines and beats for activities; nil for none. See NewInterceptor.
	Interceptor *Interceptor
}

// Check says what is wrong with s, in one line.
func (s Settings) Check() error {
	switch {
	case s.MaxActivities < 0:
		return fmt.Errorf("max activities %d: use 1 or more", s.MaxActivities)
	case s.StopTimeout < 0:
		return fmt.Errorf("stop timeout %s: use 0 or more", s.StopTimeout)
	case (s.DeploymentName == "") != (s.BuildID == ""):
		return errors.New("a deployment needs both its name and a build id: give both, or neither to leave worker versioning off")
	}
	return nil
}

// WorkerOptions returns the options of a worker with the settings s, which Check has passed.
//
// They are chosen so that another worker goes on within 10 s when this one dies without a word (SIGKILL, power):
//
//   - A running activity is missed when its heartbeat timeout (8 s in our workflows) has passed since the last heartbeat that reached the
//     server. Heartbeats are sent every 2 s: the throttle below is what makes that true, the SDK would keep them back for 0.8 of the
//     timeout. So the server knows 6 to 8 s after the death, and the retry policy's interval of 1 s follows. An activity without a
//     heartbeat timeout is only missed after its StartToCloseTimeout: give every activity one, the Interceptor beats for those that do not.
//   - A workflow task is offered to the dead worker's sticky queue first. The server notices by itself that nobody polls there only after
//     10 s; until then it waits for StickyScheduleToStartTimeout, 5 s by default, 2 s here. A worker too busy to take a task within 2 s loses
//     its cache for that workflow and replays, which costs some milliseconds.
//   - A workflow task that was being executed at the moment of death is missed after the workflow's own task timeout, 10 s by default. It is
//     set by who starts the workflow, not here. Our tasks take milliseconds.
//   - The long polls of a killed process end with its connection, so nothing is handed to the dead. When the whole machine or its network is gone
//     a task may be handed to a poll nobody reads; the timeouts above then apply to it.
//
// A worker that is stopped in an orderly way hands everything back at once: it tells the server that its sticky queue is gone, and
// activities get the stop channel, then StopTimeout, then worker.ErrWorkerShutdown.
func WorkerOptions(s Settings) worker.Options {
	if s.MaxActivities == 0 {
		s.MaxActivities = DefaultMaxActivities
	}
	if s.StopTimeout == 0 {
		s.StopTimeout = DefaultStopTimeout
	}
	o := worker.Options{
		Identity:                           s.Identity,
		WorkerStopTimeout:                  s.StopTimeout,
		MaxConcurrentActivityExecutionSize: s.MaxActivities,
		StickyScheduleToStartTimeout:       stickyTimeout,
		MaxHeartbeatThrottleInterval:       heartbeatThrottle,
		DefaultHeartbeatThrottleInterval:   heartbeatThrottle,
		DisableRegistrationAliasing:        true,
		OnFatalError:                       s.OnFatalError,
	}
	if s.Interceptor != nil {
		o.Interceptors = append(o.Interceptors, s.Interceptor)
	}
	if s.DeploymentName != "" {
		o.DeploymentOptions = worker.DeploymentOptions{
			UseVersioning: true,
			Version:       worker.WorkerDeploymentVersion{DeploymentName: s.DeploymentName, BuildID: s.BuildID},
			// An operation ends on the build it began on; what wants otherwise says so where it is registered.
			DefaultVersioningBehavior: workflow.VersioningBehaviorPinned,
		}
	}
	return o
}

// Identity of a program in the Web UI: "HOST:PID:NAME".
func Identity(name string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d:%s", host, os.Getpid(), name)
}
