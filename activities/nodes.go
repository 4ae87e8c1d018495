package activities

import (
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
