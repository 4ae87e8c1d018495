package activities

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Nodes does the work on the nodes of a cluster. Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times: what changes a node is a durable job whose identity is the operation, the node, the step and
// the job's try, so that a later attempt takes up what an earlier one began.
type Nodes struct {
	Source      *Source
	Connections Connections
	Jobs        Jobs
	// Logger gets the output of jobs line by line, with operation, node and step; nil for none.
	Logger *zap.Logger
}

// atOnce is how many nodes are asked at the same time.
const atOnce = 32

func logOf(l *zap.Logger, op Operation, node, step string) *zap.Logger {
	if l == nil {
		l = zap.NewNop()
	}
	return l.With(zap.String("operation", op.ID), zap.String("cluster", op.Cluster), zap.String("node", node), zap.String("step", step))
}

// where is a node of a running operation.
func (n *Nodes) where(op Operation, node string) (site, target, error) {
	s, err := n.Source.site(op.Cluster)
	if err != nil {
		return site{}, target{}, err
	}
	t, err := s.target(node)
	return s, t, err
}

// job prepares a step's job.
func (n *Nodes) job(in NodeInput, t target, spec remote.JobSpec, ceiling time.Duration) jobRun {
	return jobRun{jobs: n.Jobs, host: t.host, spec: spec, log: logOf(n.Logger, in.Operation, in.Node.Name, spec.ID.Step), settle: in.Settle,
		unreachableAfter: in.UnreachableAfter.D(), ceiling: ceiling, connections: n.Connections}
}

// told is what a job of a script of this package has told, beside how it ended.
func (n *Nodes) told(a *attempt, t target, in NodeInput, job jobRun) (answer, JobResult, error) {
	end, err := job.run(a)
	if err != nil {
		return answer{}, JobResult{}, err
	}
	said := answer{}
	if end.State != remote.JobAbsent {
		var out []byte
		if err := a.persist(t.host.Name, in.UnreachableAfter.D(), job.spec.ID.Dir(), func(ctx context.Context) (err error) {
			out, err = n.Jobs.Output(ctx, t.host, job.spec.ID, 256<<10)
			return err
		}); err != nil {
			return answer{}, JobResult{}, err
		}
		said = parseAnswer(out)
	}
	if why := said.value("failed"); why != "" && end.State == remote.JobExited && end.ExitCode != 0 {
		return said, JobResult{Started: true}, failJob(operation.ErrRemoteExit, t.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "%s", remote.Escape(why))
	}
	if end.State == remote.JobExited && end.ExitCode != 0 && !end.NeverStarted && said.value("reverted") == "" { // its command is a script that nobody wants to read
		return said, JobResult{Started: true}, failJob(operation.ErrRemoteExit, t.host.Name, job.spec.ID.Dir(), remote.Tail(end.tail, maxTail), "%s ended with exit code %d: %s", job.spec.ID.Step, end.ExitCode, orNothing(tellingLine(string(end.tail))))
	}
	result, err := job.result(end)
	return said, result, err
}

func lease(op Operation) remote.Lease { return remote.Lease{Token: op.Token, Operation: op.ID} }

// notes leaves out empty ones.
func notes(lines ...string) []string {
	var out []string
	for _, l := range lines {
		if l != "" {
			out = append(out, operation.Shorten(l, 300))
		}
	}
	return out
}
