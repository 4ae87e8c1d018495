package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/temporalkit"
)

// server is a connection with what the configuration says about it.
type server struct {
	client.Client
	address, namespace string
}

// connect dials Temporal; it takes at most some 5 s when nobody answers. The caller closes the client.
func (c *cli) connect(ctx context.Context) (*server, error) {
	options := temporalkit.ClientOptions{
		Profile: c.profile, Address: c.address, Namespace: c.namespace, Env: c.temporalEnv, Identity: temporalkit.Identity("katoflow"),
	}
	target, err := options.Target()
	if err != nil {
		return nil, badInput("%s", oneLine(err.Error()))
	}
	t, err := temporalkit.LoadClient(ctx, options)
	switch {
	case err == nil:
		return &server{Client: t, address: target.Address, namespace: target.Namespace}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, fail(exitNoServer, "%s", oneLine(err.Error()))
}

// pollerAge: a worker that waits for tasks asks again every minute, so one that has not for longer is gone.
const pollerAge = 75 * time.Second

// workerPatience covers the moment until the server lists a worker that has just been started.
const workerPatience = 2 * time.Second

// requireWorker fails at once when nobody would do the work.
func (s *server) requireWorker(ctx context.Context, queue string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	began := time.Now()
	for _, kind := range []struct {
		of   enumspb.TaskQueueType
		name string
	}{{enumspb.TASK_QUEUE_TYPE_WORKFLOW, "workflows"}, {enumspb.TASK_QUEUE_TYPE_ACTIVITY, "activities"}} {
		polled, err := s.polled(ctx, queue, kind.of)
		for err == nil && !polled && time.Since(began) < workerPatience {
			select {
			case <-ctx.Done():
				return s.explain(ctx.Err())
			case <-time.After(100 * time.Millisecond):
			}
			polled, err = s.polled(ctx, queue, kind.of)
		}
		if err != nil {
			return s.explain(err)
		}
		if !polled {
			return fail(exitNoWorker, "no worker polls the task queue %q for %s in namespace %q: start katoflow-worker with it, or choose another with --task-queue", queue, kind.name, s.namespace)
		}
	}
	return nil
}

func (s *server) polled(ctx context.Context, queue string, kind enumspb.TaskQueueType) (bool, error) {
	answer, err := s.WorkflowService().DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{
		Namespace: s.namespace, TaskQueue: &taskqueue.TaskQueue{Name: queue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL}, TaskQueueType: kind,
	})
	if err != nil {
		return false, err
	}
	for _, p := range answer.GetPollers() {
		if time.Since(p.GetLastAccessTime().AsTime()) < pollerAge {
			return true, nil
		}
	}
	return false, nil
}

// explain turns an error of a call into one line that says what to do.
func (s *server) explain(err error) error {
	var (
		noNamespace *serviceerror.NamespaceNotFound
		denied      *serviceerror.PermissionDenied
		invalid     *serviceerror.InvalidArgument
	)
	var f *failure
	switch {
	case err == nil, errors.As(err, &f), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &noNamespace):
		return badInput("namespace %q does not exist on the Temporal server at %s: create it, or choose another with --namespace", s.namespace, s.address)
	case errors.As(err, &denied):
		return fail(exitNoServer, "the Temporal server at %s refuses us in namespace %q: %s", s.address, s.namespace, oneLine(err.Error()))
	case unreachable(err):
		return fail(exitNoServer, "the Temporal server at %s does not answer: %s", s.address, oneLine(err.Error()))
	case errors.As(err, &invalid) && strings.Contains(err.Error(), "earch attribute"):
		return badInput("namespace %q lacks a search attribute of katoflow: run `katoflow init` once (%s)", s.namespace, oneLine(err.Error()))
	}
	return fmt.Errorf("temporal at %s: %w", s.address, err)
}

// who is shown as the one who asked, as USER@HOST; never trusted.
func (c *cli) who() string {
	name := c.getenv("USER")
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if name == "" {
		name = "unknown"
	}
	return name + "@" + hostname()
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "unknown"
	}
	return name
}
