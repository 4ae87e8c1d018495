package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// BenchmarkServer measures what the server adds to workflows that do nothing. DEVSTACK_ARGS adds arguments, to compare
// settings: DEVSTACK_ARGS='--dynamic-config-value history.timerProcessorMaxTimeShift=1s'.
func BenchmarkServer(b *testing.B) {
	for _, storage := range []string{"memory", "file"} {
		b.Run(storage, func(b *testing.B) {
			args := append([]string{"--no-s3", "--headless"}, strings.Fields(os.Getenv("DEVSTACK_ARGS"))...)
			if storage == "file" {
				args = append(args, "--db-filename", filepath.Join(b.TempDir(), "temporal.db"))
			}
			p := start(b, args...)
			c := p.dial(b)
			w := worker.New(c, taskQueue, worker.Options{})
			w.RegisterWorkflow(sequence)
			w.RegisterWorkflow(batch)
			w.RegisterWorkflow(node)
			w.RegisterActivity(echoActivity)
			if err := w.Start(); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(w.Stop)
			measure := func(name string, run any, args ...any) {
				b.Run(name, func(b *testing.B) {
					for i := range b.N {
						id := fmt.Sprintf("%s-%d-%d", name, b.N, i)
						run, err := c.ExecuteWorkflow(b.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: taskQueue}, run, args...)
						if err != nil {
							b.Fatal(err)
						}
						if err := run.Get(b.Context(), nil); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			measure("empty", sequence, 0, 0)
			measure("20 activities", sequence, 20, 0)
			measure("20 timers of 10 ms", sequence, 0, 20)
			measure("500 children 25 at a time", batch, 500, 25)
			measure("500 children at once", batch, 500, 500)
		})
	}
}

// sequence runs activities, then timers, one after the other.
func sequence(ctx workflow.Context, activities, timers int) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	for i := range activities {
		if err := workflow.ExecuteActivity(ctx, echoActivity, i).Get(ctx, nil); err != nil {
			return err
		}
	}
	for range timers {
		if err := workflow.Sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// batch runs children with seven activities each, as many at a time as the batch is large.
func batch(ctx workflow.Context, children, size int) error {
	semaphore := workflow.NewSemaphore(ctx, int64(size))
	group := workflow.NewWaitGroup(ctx)
	var failed error
	for i := range children {
		if err := semaphore.Acquire(ctx, 1); err != nil {
			return err
		}
		group.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer group.Done()
			defer semaphore.Release(1)
			if err := workflow.ExecuteChildWorkflow(ctx, node, i).Get(ctx, nil); err != nil {
				failed = err
			}
		})
	}
	group.Wait(ctx)
	return failed
}

func node(ctx workflow.Context, _ int) error { return sequence(ctx, 7, 0) }
