package temporalkit

import (
	"go.temporal.io/sdk/log"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/operation"
)

// The fields that place a log line. They are spelled the same wherever they occur.
const (
	FieldOperation = "operation" // operation id
	FieldCluster   = "cluster"
	FieldKind      = "kind" // kind of operation
	FieldNode      = "node"
	FieldStep      = "step"
	FieldTry       = "try"
)

// sdkWorkflowID is the key under which the SDK logs a workflow's id.
const sdkWorkflowID = "WorkflowID"

// NewZap adapts l to the SDK's logger. The caller shown is the line that logged, with as many frames skipped as the SDK asks for. Lines that
// the SDK writes itself about a workflow or an activity of an operation get the operation and cluster too, taken from the workflow id.
// It implements log.WithLogger and log.WithSkipCallers.
func NewZap(l *zap.Logger) log.Logger {
	if l == nil {
		l = zap.NewNop()
	}
	return zapLogger{sugar: l.WithOptions(zap.AddCallerSkip(1)).Sugar()}
}

type zapLogger struct {
	sugar *zap.SugaredLogger
	// placed is true once operation and cluster are among the logger's own fields, so that no line has them twice.
	placed bool
}

var (
	_ log.WithLogger      = zapLogger{}
	_ log.WithSkipCallers = zapLogger{}
)

func (z zapLogger) Debug(msg string, keyvals ...any) {
	fields, _ := z.place(keyvals)
	z.sugar.Debugw(msg, fields...)
}

func (z zapLogger) Info(msg string, keyvals ...any) {
	fields, _ := z.place(keyvals)
	z.sugar.Infow(msg, fields...)
}

func (z zapLogger) Warn(msg string, keyvals ...any) {
	fields, _ := z.place(keyvals)
	z.sugar.Warnw(msg, fields...)
}

func (z zapLogger) Error(msg string, keyvals ...any) {
	fields, _ := z.place(keyvals)
	z.sugar.Errorw(msg, fields...)
}

// With returns a logger whose lines all have keyvals.
func (z zapLogger) With(keyvals ...any) log.Logger {
	fields, placed := z.place(keyvals)
	return zapLogger{sugar: z.sugar.With(fields...), placed: placed}
}

// WithCallerSkip returns a logger that skips n more frames when it looks for the line that logged.
func (z zapLogger) WithCallerSkip(n int) log.Logger {
	return zapLogger{sugar: z.sugar.WithOptions(zap.AddCallerSkip(n)), placed: z.placed}
}

// place appends operation and cluster to keyvals when they hold an operation's workflow id and nobody has said them yet.
func (z zapLogger) place(keyvals []any) ([]any, bool) {
	if z.placed {
		return keyvals, true
	}
	workflowID := ""
	for i := 0; i+1 < len(keyvals); i += 2 {
		switch key, _ := keyvals[i].(string); key {
		case FieldOperation:
			return keyvals, true
		case sdkWorkflowID:
			workflowID, _ = keyvals[i+1].(string)
		}
	}
	p, ok := placeOf(workflowID)
	if !ok {
		return keyvals, false
	}
	// A new slice: the caller's may have room behind it that belongs to somebody else.
	out := make([]any, 0, len(keyvals)+4)
	return append(append(out, keyvals...), FieldOperation, p.operation, FieldCluster, p.cluster), true
}

// place is where something happens.
type place struct {
	operation, cluster, kind, node, step string
	try                                  int
}

// placeOf reads an operation's workflow id. A child's id may go on behind the operation's with more parts.
func placeOf(workflowID string) (place, bool) {
	cluster, kind, id, err := operation.ParseWorkflowID(workflowID)
	if err != nil {
		return place{}, false
	}
	return place{operation: firstPart(id), cluster: cluster, kind: kind}, true
}

// keyvals for a log line; what is not known is left out.
func (p place) keyvals() []any {
	var kv []any
	for _, f := range []struct{ key, value string }{
		{FieldOperation, p.operation}, {FieldCluster, p.cluster}, {FieldKind, p.kind}, {FieldNode, p.node}, {FieldStep, p.step},
	} {
		if f.value != "" {
			kv = append(kv, f.key, f.value)
		}
	}
	if p.try > 0 {
		kv = append(kv, FieldTry, p.try)
	}
	return kv
}
