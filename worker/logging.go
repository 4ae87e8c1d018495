package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// newLogger writes to w as format says ("" = console on a terminal, else json), from level on. Secrets that the scrubber knows are left out.
// Colour comes only on a terminal, and not when NO_COLOR is set.
func newLogger(w io.Writer, format, level string, env func(string) (string, bool), scrubber *temporalkit.Scrubber) (*zap.Logger, error) {
	var lowest zapcore.Level
	switch level {
	case "debug", "info", "warn", "error":
		if err := lowest.Set(level); err != nil {
			return nil, fmt.Errorf("--log-level %q: %w", level, err)
		}
	default:
		return nil, fmt.Errorf("--log-level %q: choose debug, info, warn or error", level)
	}
	terminal := isTerminal(w)
	if format == "" {
		format = "json"
		if terminal {
			format = "console"
		}
	}
	e := zapcore.EncoderConfig{
		TimeKey: "time", LevelKey: "level", CallerKey: "caller", MessageKey: "msg", StacktraceKey: "stack",
		EncodeTime: utc, EncodeLevel: zapcore.LowercaseLevelEncoder, EncodeDuration: zapcore.StringDurationEncoder, EncodeCaller: zapcore.ShortCallerEncoder,
	}
	sink := zapcore.Lock(zapcore.AddSync(w))
	var encoder zapcore.Encoder
	switch format {
	case "json":
		encoder = zapcore.NewJSONEncoder(e)
	case "console":
		e.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(e)
		noColour, _ := env("NO_COLOR")
		sink = consoleSink{sink, terminal && noColour == ""}
	default:
		return nil, fmt.Errorf("--log-format %q: choose json or console", format)
	}
	return zap.New(zapcore.NewCore(encoder, scrubber.Sink(sink), lowest), zap.AddCaller(), zap.AddStacktrace(zapcore.DPanicLevel)), nil
}

func utc(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z"))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// consoleSink lets nothing that a terminal would obey through, then colours the level.
type consoleSink struct {
	zapcore.WriteSyncer
	colour bool
}

func (s consoleSink) Write(p []byte) (int, error) {
	line := []byte(remote.EscapeLines(string(p)))
	if s.colour {
		for level, code := range map[string]string{"DEBUG": "35", "INFO": "34", "WARN": "33", "ERROR": "31"} {
			// The first field behind the time is the level; later ones are text of others.
			if before, after, ok := bytes.Cut(line, []byte("\t"+level+"\t")); ok && !bytes.Contains(before, []byte("\t")) {
				line = fmt.Appendf(nil, "%s\t\x1b[%sm%s\x1b[0m\t%s", before, code, level, after)
				break
			}
		}
	}
	if _, err := s.WriteSyncer.Write(line); err != nil {
		return 0, err
	}
	return len(p), nil
}
