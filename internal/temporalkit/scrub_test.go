package temporalkit

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/encoding/protojson"
)

const odd = "pa\"ss\\wo<rd>&\nsecond\tline\x01\x08é"

func TestScrubber_LogLine_HoldsNoSecretInAnyEncoding(t *testing.T) {
	for name, encoder := range map[string]func(zapcore.EncoderConfig) zapcore.Encoder{"json": zapcore.NewJSONEncoder, "console": zapcore.NewConsoleEncoder} {
		var out bytes.Buffer
		s := &Scrubber{}
		s.Add([]byte("hunter22\r\n"))
		s.Add([]byte(odd))
		logger := zap.New(zapcore.NewCore(encoder(zap.NewProductionEncoderConfig()), s.Sink(zapcore.AddSync(&out)), zap.DebugLevel))
		logger.With(zap.String("early", odd)).Info("message hunter22", zap.String("field", odd), zap.Error(errors.New("with hunter22 inside")),
			zap.Any("deep", map[string]any{"a": []string{odd}}))
		logger.Info(odd)
		text := out.String()
		if strings.Contains(text, "hunter22") || strings.Contains(text, "wo<rd") || strings.Contains(text, `wo\u003crd`) || strings.Contains(text, "second") {
			t.Errorf("%s: a secret is in %q", name, text)
		}
		if got := strings.Count(text, secretMark); got != 6 {
			t.Errorf("%s: %d marks, want 6, in %q", name, got, text)
		}
	}
}

func TestScrubber_SecretInsideAnother_GoesAsAWhole(t *testing.T) {
	s := &Scrubber{}
	s.Add([]byte("secret-one"))
	s.Add([]byte("secret-one-and-two"))
	if got := s.String("a secret-one-and-two b secret-one c"); got != "a [secret] b [secret] c" {
		t.Error(got)
	}
}

func TestScrubber_ShortValueAndNil_LeaveTextAlone(t *testing.T) {
	s := &Scrubber{}
	s.Add([]byte("abc"))
	s.Add(nil)
	if got := s.String("abc abc"); got != "abc abc" {
		t.Error(got)
	}
	if got := (*Scrubber)(nil).String("x"); got != "x" {
		t.Error(got)
	}
	if got := (*Scrubber)(nil).Bytes([]byte("x")); string(got) != "x" {
		t.Error(got)
	}
}

func TestScrubber_ManyAtOnce_IsSafe(t *testing.T) {
	s := &Scrubber{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				s.Add(fmt.Appendf(nil, "secret-%d-%d", i, j))
				_ = s.String("text with secret-1-1")
			}
		})
	}
	wg.Wait()
	if got := s.String("secret-7-49"); got != secretMark {
		t.Error(got)
	}
}

func TestConverters_ValueWithSecret_IsWrittenWithout(t *testing.T) {
	s := &Scrubber{}
	s.Add([]byte(odd))
	data, failures := Converters(s)

	in := map[string]string{"tail": "x " + odd, "other": "fine"}
	payloads, err := data.ToPayloads(in)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]string
	if err := data.FromPayloads(payloads, &out); err != nil {
		t.Fatalf("no longer JSON: %v", err)
	}
	if out["tail"] != "x "+secretMark || out["other"] != "fine" {
		t.Errorf("got %q", out)
	}

	cause := fmt.Errorf("inner %s", odd)
	failure := failures.ErrorToFailure(temporal.NewApplicationErrorWithOptions("outer "+odd, "RemoteExit",
		temporal.ApplicationErrorOptions{NonRetryable: true, Cause: cause, Details: []any{in}}))
	text, err := protojson.Marshal(failure)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "second") {
		t.Errorf("a secret is in %s", text)
	}
	var app *temporal.ApplicationError
	if !errors.As(failures.FailureToError(failure), &app) || app.Type() != "RemoteExit" || !app.NonRetryable() {
		t.Errorf("the failure is no longer the same: %v", app)
	}
	var details map[string]string
	if err := app.Details(&details); err != nil || details["tail"] != "x "+secretMark {
		t.Errorf("details %q %v", details, err)
	}
}

func TestConverters_FailureFromAHistory_IsCopiedNotChanged(t *testing.T) {
	s := &Scrubber{}
	_, failures := Converters(s)
	_, plain := Converters(nil)
	err := plain.FailureToError(plain.ErrorToFailure(temporal.NewApplicationError("says hunter22", "T")))
	s.Add([]byte("hunter22"))
	if got := failures.ErrorToFailure(err).GetMessage(); got != "says "+secretMark {
		t.Error(got)
	}
	if got := plain.ErrorToFailure(err).GetMessage(); got != "says hunter22" {
		t.Errorf("the error itself was changed: %s", got)
	}
}
