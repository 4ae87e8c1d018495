package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/katoflow/katoflow/internal/operation"
)

const (
	// scrapeTimeout bounds what a scrape asks of the Temporal server; Prometheus itself waits 10 s.
	scrapeTimeout = 8 * time.Second
	// freshFor is how long an answer serves further scrapes.
	freshFor = 15 * time.Second
)

// scheduleMetrics tells Prometheus what became of katoflow's schedules in the namespace, so that a backup that is too old is noticed by whoever watches everything
// else:
//
//	katoflow_schedule_last_success_timestamp_seconds   when the last run that was done ended; absent while none is known
//	katoflow_schedule_last_failure_timestamp_seconds   the same of the last run that was not
//	katoflow_schedule_running, katoflow_schedule_paused  1 or 0
//	katoflow_schedule_runs_total, katoflow_schedule_skipped_total, katoflow_schedule_missed_total
//
// with the labels schedule, cluster and operation. Every worker of a namespace tells the same.
type scheduleMetrics struct {
	namespace string

	mu     sync.Mutex
	client client.Client // nil before the worker has connected
	read   time.Time
	found  []scheduleFigures
	err    error
}

// scheduleFigures are one schedule's.
type scheduleFigures struct {
	name, cluster, operation string
	success, failure         time.Time
	running, paused          bool
	runs, skipped, missed    int
}

var scheduleLabels = []string{"schedule", "cluster", "operation"}

// The metrics, by what they tell.
func scheduleMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("katoflow_schedule_"+name, help, scheduleLabels, nil)
}

func descriptions() (success, failure, running, paused, runs, skipped, missed, up *prometheus.Desc) {
	return scheduleMetric("last_success_timestamp_seconds", "When the last run that was done ended, in Unix seconds."),
		scheduleMetric("last_failure_timestamp_seconds", "When the last run that failed, was aborted or cancelled ended, in Unix seconds."),
		scheduleMetric("running", "1 while a run is under way."),
		scheduleMetric("paused", "1 while the schedule is paused."),
		scheduleMetric("runs_total", "Runs that were begun."),
		scheduleMetric("skipped_total", "Runs that were left out because the one before was not done."),
		scheduleMetric("missed_total", "Runs whose time had passed too long ago when Temporal was back."),
		prometheus.NewDesc("katoflow_schedules_up", "1 when the Temporal server answered the last question about schedules.", nil, nil)
}

// connected lets the metrics be read from now on.
func (m *scheduleMetrics) connected(c client.Client, namespace string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.client, m.namespace = c, namespace
}

// Describe sends no descriptions: which schedules there are is not known beforehand.
func (m *scheduleMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads the schedules, unless it has just done so.
func (m *scheduleMetrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.read) > freshFor {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		found, err := m.readAll(ctx)
		cancel()
		if m.err = err; err == nil {
			m.found, m.read = found, time.Now()
		}
	}
	success, failure, running, paused, runs, skipped, missed, up := descriptions()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(up, number(m.err == nil))
	if m.err != nil {
		return // old figures would look like new ones
	}
	for _, f := range m.found {
		labels := []string{f.name, f.cluster, f.operation}
		if !f.success.IsZero() {
			gauge(success, float64(f.success.Unix()), labels...)
		}
		if !f.failure.IsZero() {
			gauge(failure, float64(f.failure.Unix()), labels...)
		}
		gauge(running, number(f.running), labels...)
		gauge(paused, number(f.paused), labels...)
		counter(runs, f.runs, labels...)
		counter(skipped, f.skipped, labels...)
		counter(missed, f.missed, labels...)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var errNotConnected = errors.New("the worker is not connected yet")

func (m *scheduleMetrics) readAll(ctx context.Context) ([]scheduleFigures, error) {
	if m.client == nil {
		return nil, errNotConnected
	}
	list, err := m.client.ScheduleClient().List(ctx, client.ScheduleListOptions{PageSize: 100})
	if err != nil {
		return nil, err
	}
	var out []scheduleFigures
	for list.HasNext() {
		entry, err := list.Next()
		if err != nil {
			return nil, err
		}
		name, ours := operation.ScheduleName(entry.ID)
		if !ours {
			continue
		}
		f, err := m.figures(ctx, entry.ID, name)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func (m *scheduleMetrics) figures(ctx context.Context, id, name string) (scheduleFigures, error) {
	is, err := m.client.ScheduleClient().GetHandle(ctx, id).Describe(ctx)
	if err != nil {
		return scheduleFigures{}, err
	}
	f := scheduleFigures{name: name, runs: is.Info.NumActions, skipped: is.Info.NumActionsSkippedOverlap, missed: is.Info.NumActionsMissedCatchupWindow}
	if is.Schedule.State != nil {
		f.paused = is.Schedule.State.Paused
	}
	if action, ok := is.Schedule.Action.(*client.ScheduleWorkflowAction); ok {
		var d operation.ScheduleDefinition
		if p, ok := action.Memo[operation.MemoSchedule].(*commonpb.Payload); ok && converter.GetDefaultDataConverter().FromPayload(p, &d) == nil {
			f.cluster, f.operation = d.Cluster, d.Operation
		}
	}
	mine := fmt.Sprintf("TemporalScheduledById = %q AND ", id)
	for query, told := range map[string]func(*workflowpb.WorkflowExecutionInfo){
		`ExecutionStatus = "Completed"`:                                    func(e *workflowpb.WorkflowExecutionInfo) { f.success = e.GetCloseTime().AsTime() },
		`ExecutionStatus IN ("Failed","Canceled","Terminated","TimedOut")`: func(e *workflowpb.WorkflowExecutionInfo) { f.failure = e.GetCloseTime().AsTime() },
		`ExecutionStatus = "Running"`:                                      func(*workflowpb.WorkflowExecutionInfo) { f.running = true },
	} {
		// The server lists those first that closed last.
		answer, err := m.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: m.namespace, PageSize: 1, Query: mine + query})
		if err != nil {
			return scheduleFigures{}, err
		}
		if found := answer.GetExecutions(); len(found) > 0 {
			told(found[0])
		}
	}
	return f, nil
}

// metricsHandler serves what katoflow has to tell, and the process itself.
func metricsHandler(own ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(own...)
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}
