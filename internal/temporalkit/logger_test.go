package temporalkit

import (
	"strings"
	"testing"

	"go.temporal.io/sdk/log"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func observed(level zapcore.Level) (log.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(level)
	return NewZap(zap.New(core, zap.AddCaller())), logs
}

func only(t *testing.T, logs *observer.ObservedLogs) observer.LoggedEntry {
	t.Helper()
	all := logs.TakeAll()
	if len(all) != 1 {
		t.Fatalf("%d lines, want 1: %v", len(all), all)
	}
	return all[0]
}

func TestZap_EveryLevel_KeepsMessageAndFields(t *testing.T) {
	logger, logs := observed(zap.DebugLevel)
	for level, write := range map[zapcore.Level]func(string, ...any){
		zap.DebugLevel: logger.Debug, zap.InfoLevel: logger.Info, zap.WarnLevel: logger.Warn, zap.ErrorLevel: logger.Error,
	} {
		write("hello", "n", 3, "who", "me")
		line := only(t, logs)
		if line.Level != level || line.Message != "hello" || line.ContextMap()["n"] != int64(3) || line.ContextMap()["who"] != "me" {
			t.Errorf("%s: got %v %v", level, line.Entry, line.ContextMap())
		}
	}
}

func logFromBelow(logger log.Logger) { logger.Info("from below") }

func TestZap_Caller_IsTheLineThatLogged(t *testing.T) {
	logger, logs := observed(zap.DebugLevel)
	logFromBelow(logger)
	if f := only(t, logs).Caller.Function; !strings.HasSuffix(f, ".logFromBelow") {
		t.Errorf("caller %s, want logFromBelow", f)
	}
	logFromBelow(log.Skip(log.With(logger, "a", 1), 1))
	if f := only(t, logs).Caller.Function; !strings.HasSuffix(f, ".TestZap_Caller_IsTheLineThatLogged") {
		t.Errorf("caller %s with one frame skipped, want the test", f)
	}
}

func TestZap_With_DoesNotChangeItsParent(t *testing.T) {
	logger, logs := observed(zap.DebugLevel)
	child := log.With(logger, "a", 1)
	log.With(child, "b", 2).Info("x")
	if m := only(t, logs).ContextMap(); m["a"] != int64(1) || m["b"] != int64(2) {
		t.Errorf("grandchild has %v", m)
	}
	logger.Info("x")
	if m := only(t, logs).ContextMap(); len(m) != 0 {
		t.Errorf("parent has %v", m)
	}
}

func TestZap_LineOfTheSDKAboutAnOperation_GetsOperationAndClusterOnce(t *testing.T) {
	logger, logs := observed(zap.DebugLevel)
	keyvals := make([]any, 0, 16) // room behind: place must not write there
	keyvals = append(keyvals, "WorkflowID", "op/prod/upgrade-security/nightly-1/dea-3/2", "Attempt", 1)
	for name, write := range map[string]func(){
		"in the line": func() { logger.Error("Activity error.", keyvals...) },
		"in With":     func() { log.With(logger, keyvals...).Error("Activity error.") },
		"in both":     func() { log.With(logger, keyvals...).Error("Activity error.", keyvals...) },
	} {
		write()
		line := only(t, logs)
		var count int
		for _, f := range line.Context {
			if f.Key == FieldOperation {
				count++
			}
		}
		if m := line.ContextMap(); m[FieldOperation] != "nightly-1" || m[FieldCluster] != "prod" || count != 1 {
			t.Errorf("%s: %v", name, m)
		}
	}
	if extra := keyvals[:cap(keyvals)][len(keyvals)]; extra != nil {
		t.Errorf("the caller's slice was written to: %v", extra)
	}
}

func TestZap_OtherWorkflowOrOddKeyvals_LogsThemAsTheyAre(t *testing.T) {
	logger, logs := observed(zap.DebugLevel)
	logger.Info("x", "WorkflowID", "temporal-sys-history-scanner")
	if m := only(t, logs).ContextMap(); len(m) != 1 {
		t.Errorf("got %v", m)
	}
	logger.Info("x", "WorkflowID")
	if all := logs.TakeAll(); len(all) == 0 {
		t.Error("a dangling key lost the line")
	}
	NewZap(nil).Info("to nobody")
}
