package temporalkit

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/proto"
)

// secretMark stands where a secret was.
const secretMark = "[secret]"

// minimalSecret is the length from which a value is searched for. A shorter one would cut ordinary words out of every line; and nobody guards
// anything with it.
const minimalSecret = 6

// Scrubber is the last net under invariant "no secret in a history, log or error": it replaces the secrets it has been told of wherever they would be
// written. It does not find a secret that was cut, encoded (base64) or printed in hex. The zero value knows none and is ready for use; it is safe
// for concurrent use.
type Scrubber struct {
	mu      sync.RWMutex
	secrets [][]byte
}

// Add makes a secret known, in the forms in which it would stand in JSON too. A trailing line end does not belong to it; a value of less than 6
// bytes is not taken.
func (s *Scrubber) Add(secret []byte) {
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) < minimalSecret {
		return
	}
	forms := [][]byte{bytes.Clone(secret)}
	for _, escapeHTML := range []bool{false, true} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(escapeHTML)
		if enc.Encode(string(secret)) == nil {
			forms = append(forms, bytes.Trim(bytes.TrimSpace(b.Bytes()), `"`))
		}
	}
	// The form of zap's own JSON encoder, which writes two control characters differently.
	zap := zapcore.NewJSONEncoder(zapcore.EncoderConfig{SkipLineEnding: true, MessageKey: "m"})
	if line, err := zap.EncodeEntry(zapcore.Entry{Message: string(secret)}, nil); err == nil {
		if text, ok := bytes.CutPrefix(line.Bytes(), []byte(`{"m":"`)); ok {
			forms = append(forms, bytes.Clone(bytes.TrimSuffix(text, []byte(`"}`))))
		}
		line.Free()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A new slice: scrub reads the old one without the lock.
	secrets := slices.Clone(s.secrets)
	for _, f := range forms {
		if !slices.ContainsFunc(secrets, func(have []byte) bool { return bytes.Equal(have, f) }) {
			secrets = append(secrets, f)
		}
	}
	// The longest first, so that a secret that holds another one goes as a whole.
	slices.SortStableFunc(secrets, func(a, b []byte) int { return len(b) - len(a) })
	s.secrets = secrets
}

// Bytes returns b, or a copy without the secrets.
func (s *Scrubber) Bytes(b []byte) []byte {
	if s == nil {
		return b
	}
	s.mu.RLock()
	secrets := s.secrets
	s.mu.RUnlock()
	for _, secret := range secrets {
		if bytes.Contains(b, secret) {
			b = bytes.ReplaceAll(b, secret, []byte(secretMark))
		}
	}
	return b
}

// String returns text without the secrets.
func (s *Scrubber) String(text string) string {
	if s == nil {
		return text
	}
	s.mu.RLock()
	secrets := s.secrets
	s.mu.RUnlock()
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, string(secret), secretMark)
	}
	return text
}

// Sink returns w with the secrets kept out of every line. It must be the whole line that is written at once, as zap does.
func (s *Scrubber) Sink(w zapcore.WriteSyncer) zapcore.WriteSyncer { return scrubbedSink{w, s} }

type scrubbedSink struct {
	zapcore.WriteSyncer
	scrubber *Scrubber
}

func (s scrubbedSink) Write(p []byte) (int, error) {
	if _, err := s.WriteSyncer.Write(s.scrubber.Bytes(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Converters are how values and failures are written into histories: the only place where they are made, for the client, the worker, and the replayer of
// its histories alike. Encryption goes here as one more codec, before the scrubber's. A nil scrubber scrubs nothing.
func Converters(scrubber *Scrubber, codecs ...converter.PayloadCodec) (converter.DataConverter, converter.FailureConverter) {
	// A CodecDataConverter encodes with the last codec first: secrets go before anything is encrypted.
	if scrubber != nil {
		codecs = append(slices.Clone(codecs), scrubbingCodec{scrubber})
	}
	data := converter.GetDefaultDataConverter()
	if len(codecs) > 0 {
		data = converter.NewCodecDataConverter(data, codecs...)
	}
	var failures converter.FailureConverter = temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{DataConverter: data})
	if scrubber != nil {
		failures = scrubbingFailures{failures, scrubber}
	}
	return data, failures
}

type scrubbingCodec struct{ scrubber *Scrubber }

func (c scrubbingCodec) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	out := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		out[i] = p
		if data := c.scrubber.Bytes(p.GetData()); !bytes.Equal(data, p.GetData()) {
			out[i] = proto.CloneOf(p)
			out[i].Data = data
		}
	}
	return out, nil
}

func (scrubbingCodec) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	return payloads, nil
}

type scrubbingFailures struct {
	converter.FailureConverter
	scrubber *Scrubber
}

func (c scrubbingFailures) ErrorToFailure(err error) *failurepb.Failure {
	// A copy: the failure of an error that came from a history is that history's own.
	failure := proto.CloneOf(c.FailureConverter.ErrorToFailure(err))
	for f := failure; f != nil; f = f.GetCause() {
		f.Message = c.scrubber.String(f.GetMessage())
		f.StackTrace = c.scrubber.String(f.GetStackTrace())
	}
	return failure
}

// oneLine makes text of others fit into an error: one line, no control characters, at most 1 KiB.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
	if len(text) > 1024 {
		text = strings.ToValidUTF8(text[:1021], "") + "..."
	}
	return text
}
