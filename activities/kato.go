package activities

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Kato runs what kato does for the whole cluster, on the Core node. Its fields are set by the worker and not changed afterwards.
type Kato struct {
	Source      *Source
	Connections Connections
	Jobs        Jobs
	// Logger gets the output of jobs line by line; nil for none.
	Logger *zap.Logger

	deadMan time.Duration // instead of the inventory's, which is never short enough for a test; 0 outside of one
}

const (
	// retireCeiling bounds one `kato node retire`, which once hung on a password (kato.md §3.3).
	retireCeiling = 50 * time.Minute
)

// Retire moves the app instances of a DEA to other DEAs before it is upgraded (job `retire` on the Core: kato node retire --node ID, kato.md §3.3). The job
// is started at most once a try, and stopped when the operation is cancelled. kato has no command that tells where instances are, so its exit code
// is all that is known; the report says so.
func (k *Kato) Retire(ctx context.Context, in NodeInput) (JobResult, error) {
	a := begin(ctx, "retire")
	defer a.finish()
	s, err := k.Source.site(in.Operation.Cluster)
	if err != nil {
		return JobResult{}, err
	}
	t, err := s.target(in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	core, err := s.core()
	if err != nil {
		return JobResult{}, err
	}
	id, err := nodeID(a.ctx, t)
	if err != nil {
		return JobResult{}, err
	}
	job := jobRun{jobs: k.Jobs, host: core.host, spec: s.retireJob(in.Operation, in.Node.Name, id, in.JobTry), settle: in.Settle,
		log: logOf(k.Logger, in.Operation, in.Node.Name, operation.StepRetire), unreachableAfter: in.UnreachableAfter.D(), ceiling: retireCeiling,
		connections: k.Connections}
	end, err := job.run(a)
	if err != nil {
		return JobResult{}, err
	}
	result, err := job.result(end)
	if err != nil {
		return result, err
	}
	if result.Interrupted {
		return result, failJob(operation.ErrInterrupted, core.host.Name, job.spec.ID.Dir(), "", "the Core rebooted while kato retired %s: retry", remote.Escape(in.Node.Name))
	}
	if result.Started {
		if said := refusal(string(end.tail)); said != "" {
			return result, failJob(operation.ErrVerify, core.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "kato node retire ended with 0 and said: %s", said)
		}
	}
	return result, nil
}

// refusal finds the words of a kato that fails and exits 0 (kato.md §0.4).
func refusal(out string) string {
	for line := range strings.Lines(kato.Clean([]byte(out))) {
		line = strings.TrimSpace(line)
		lower := strings.ToLower(line)
		if strings.HasPrefix(lower, "error") || strings.HasPrefix(lower, "usage:") || strings.HasPrefix(lower, "fatal") {
			return oneLine(line, 200)
		}
	}
	return ""
}
