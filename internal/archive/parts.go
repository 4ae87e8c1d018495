package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// list takes over what S3 has of the upload.
func (t *Transfer) list(ctx context.Context) error {
	s := t.store
	key := s.key(t.up.Ref, exportName)
	parts := make([]sentPart, t.count)
	var marker *string
	for {
		var out *s3.ListPartsOutput
		err := s.do(ctx, "list the parts of "+s.clean(key), 0, func(ctx context.Context, _ func()) (err error) {
			out, err = s.client.ListParts(ctx, &s3.ListPartsInput{Bucket: &s.cfg.Bucket, Key: &key, UploadId: &t.uploadID, PartNumberMarker: marker, MaxParts: s.page})
			return err
		})
		if err != nil {
			return err
		}
		for _, p := range out.Parts {
			number := int(aws.ToInt32(p.PartNumber))
			if number < 1 || number > t.count {
				continue
			}
			sum, ok := fromBase64(p.ChecksumSHA256)
			if !ok {
				continue // sent without a checksum: not ours
			}
			parts[number-1] = sentPart{etag: aws.ToString(p.ETag), stored: sum, size: aws.ToInt64(p.Size)}
		}
		if !aws.ToBool(out.IsTruncated) || aws.ToString(out.NextPartNumberMarker) == "" {
			break
		}
		marker = out.NextPartNumberMarker
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range parts {
		parts[i].sum, parts[i].summed = t.parts[i].sum, t.parts[i].summed
		parts[i].done = t.agrees(i+1, parts[i])
	}
	t.parts = parts
	return nil
}

// agrees says whether what S3 has of a part is the source's range. Of an encrypted part only the presence is known: its plaintext had been
// compared before it was sent, and the state says that the source is the same as a whole.
func (t *Transfer) agrees(number int, p sentPart) bool {
	return t.fits(number, p) && p.summed && (len(t.recipients) > 0 || p.stored == p.sum)
}

// fits says whether S3 has a part of the right size.
func (t *Transfer) fits(number int, p sentPart) bool {
	length := partRange(t.stat.Size, t.partSize, number).Length
	if len(t.recipients) > 0 {
		return p.etag != "" && p.size > length
	}
	return p.etag != "" && p.size == length
}

func fromBase64(text *string) (Sum, bool) {
	raw, err := base64.StdEncoding.DecodeString(aws.ToString(text))
	if err != nil || len(raw) != sha256.Size {
		return Sum{}, false
	}
	return Sum(raw), true
}

func (s Sum) base64() string { return base64.StdEncoding.EncodeToString(s[:]) }

// Send moves all parts that S3 does not have yet, each after its sum was computed at the source. The first failure ends it.
func (t *Transfer) Send(ctx context.Context) error {
	if t.finished != nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	// Sums are computed ahead of the parts in flight, for a few parts a time: one command on a node for many parts.
	work := make(chan int, 2*t.up.Parallel)
	group.Go(func() error {
		defer close(work)
		for first := 1; first <= t.count; first += 2 * t.up.Parallel {
			var numbers []int
			for number := first; number < first+2*t.up.Parallel && number <= t.count; number++ {
				numbers = append(numbers, number)
			}
			missing, err := t.sum(ctx, numbers)
			if err != nil {
				return err
			}
			for _, number := range missing {
				select {
				case work <- number:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		return nil
	})
	for range t.up.Parallel {
		group.Go(func() error {
			for number := range work {
				if err := t.send(ctx, number); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	if IsKind(err, KindSourceChanged) {
		t.discard(ctx)
	}
	return err
}

// sum makes the sums of the parts known and returns those that S3 does not have.
func (t *Transfer) sum(ctx context.Context, numbers []int) (missing []int, err error) {
	var ranges []Range
	var unknown []int
	t.mu.Lock()
	for _, number := range numbers {
		if !t.parts[number-1].summed {
			unknown = append(unknown, number)
			ranges = append(ranges, partRange(t.stat.Size, t.partSize, number))
		}
	}
	t.mu.Unlock()
	var sums []Sum
	if len(ranges) > 0 {
		if sums, err = t.sourceSums(ctx, ranges); err != nil {
			return nil, err
		}
	}
	t.mu.Lock()
	more := false
	for i, number := range unknown {
		p := &t.parts[number-1]
		p.sum, p.summed = sums[i], true
		p.done = t.agrees(number, *p)
		more = more || p.done
	}
	for _, number := range numbers {
		if !t.parts[number-1].done {
			missing = append(missing, number)
		}
	}
	t.mu.Unlock()
	if more {
		t.note()
	}
	return missing, nil
}

// send moves one part.
func (t *Transfer) send(ctx context.Context, number int) error {
	var encrypted *bytes.Buffer
	if t.buffers != nil {
		select {
		case encrypted = <-t.buffers:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		defer func() { t.buffers <- encrypted }()
	}
	s := t.store
	t.mu.Lock()
	sum := t.parts[number-1].sum
	t.mu.Unlock()
	rng := partRange(t.stat.Size, t.partSize, number)
	key := s.key(t.up.Ref, exportName)
	what := fmt.Sprintf("send part %d of %d of %s", number, t.count, s.clean(key))
	return s.do(ctx, what, 0, func(ctx context.Context, beat func()) error {
		body, err := t.openPart(ctx, number, rng, sum, beat)
		if err != nil {
			return err
		}
		defer body.Close()
		in := &s3.UploadPartInput{Bucket: &s.cfg.Bucket, Key: &key, UploadId: &t.uploadID, PartNumber: aws.Int32(int32(number))}
		wire, size := sum, rng.Length
		if encrypted == nil {
			in.Body = body
		} else {
			if encrypted.Cap() == 0 {
				encrypted.Grow(int(t.partSize) + ageOverhead(t.partSize, len(t.recipients)))
			}
			t.held.Add(int64(encrypted.Cap()))
			defer t.held.Add(-int64(encrypted.Cap()))
			if _, err := encryptPart(encrypted, body, t.recipients); err != nil {
				return err
			}
			wire, size = sha256.Sum256(encrypted.Bytes()), int64(encrypted.Len())
			in.Body = sending{bytes.NewReader(encrypted.Bytes()), beat}
		}
		in.ContentLength = aws.Int64(size)
		in.ChecksumSHA256 = aws.String(wire.base64())
		out, err := s.client.UploadPart(ctx, in, func(o *s3.Options) {
			o.APIOptions = append(o.APIOptions, payloadHash(wire))
		})
		if failed := body.failure(); failed != nil {
			return failed
		}
		if err != nil {
			return err
		}
		if out.ChecksumSHA256 != nil {
			if got, ok := fromBase64(out.ChecksumSHA256); !ok || got != wire {
				return &Error{Kind: KindCorrupt, passing: true, Message: fmt.Sprintf("%s: S3 recorded another checksum than was sent", what)}
			}
		}
		t.mu.Lock()
		p := &t.parts[number-1]
		p.etag, p.stored, p.size, p.done = aws.ToString(out.ETag), wire, size, true
		t.mu.Unlock()
		t.note()
		return nil
	})
}

// payloadHash lets the signer take the sum that is known already: it would read the whole body once more, and could not for a stream.
func payloadHash(sum Sum) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Finalize.Add(middleware.FinalizeMiddlewareFunc("KnownPayloadHash",
			func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
				return next.HandleFinalize(v4.SetPayloadHash(ctx, sum.String()), in)
			}), middleware.Before)
	}
}

type sending struct {
	*bytes.Reader
	beat func()
}

func (b sending) Read(p []byte) (int, error) {
	b.beat()
	return b.Reader.Read(p)
}

// partBody is the range of one part as it is read, compared with its sum before the last byte is handed on.
type partBody struct {
	reader    io.ReadCloser
	remaining int64
	hash      hash.Hash
	want      Sum
	beat      func()
	judge     func() error
	failed    atomic.Pointer[sourceFailure]
}

func (t *Transfer) openPart(ctx context.Context, number int, rng Range, want Sum, beat func()) (*partBody, error) {
	reader, err := t.up.Source.ReadRange(ctx, rng.Offset, rng.Length)
	if err != nil {
		return nil, &sourceFailure{err}
	}
	return &partBody{
		reader: reader, remaining: rng.Length, hash: sha256.New(), want: want, beat: beat,
		judge: func() error { return t.judge(ctx, number, rng, want) },
	}, nil
}

func (b *partBody) Read(p []byte) (int, error) {
	if b.remaining == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.remaining {
		p = p[:b.remaining]
	}
	n, err := b.reader.Read(p)
	if n > 0 {
		b.beat()
		b.hash.Write(p[:n])
		b.remaining -= int64(n)
	}
	switch {
	case b.remaining == 0 && Sum(b.hash.Sum(nil)) != b.want:
		return 0, b.fail(b.judge())
	case b.remaining == 0:
		return n, nil
	case errors.Is(err, io.EOF):
		return 0, b.fail(b.judge())
	case err != nil:
		return 0, b.fail(err)
	}
	return n, nil
}

func (b *partBody) fail(err error) error {
	failed := &sourceFailure{err}
	b.failed.Store(failed)
	return failed
}

// failure is what went wrong with the source, which counts more than what the request then said.
func (b *partBody) failure() error {
	if failed := b.failed.Load(); failed != nil {
		return failed
	}
	return nil
}

func (b *partBody) Close() { _ = b.reader.Close() }

// judge says whose fault it is that a range had not the bytes that it should: the source was changed, or the way from it cannot be relied on.
func (t *Transfer) judge(ctx context.Context, number int, rng Range, want Sum) error {
	stat, err := t.up.Source.Stat(ctx)
	if err != nil {
		return err
	}
	if !stat.same(t.stat) {
		return t.changedTo(stat)
	}
	sums, err := t.up.Source.Sums(ctx, []Range{rng})
	if err != nil {
		return err
	}
	if len(sums) != 1 || sums[0] != want {
		return failure(KindSourceChanged, "archive %s: the source has other bytes in part %d than when it was summed: something writes to it", t.up.Ref, number)
	}
	return &Error{Kind: KindSource, passing: true, Message: fmt.Sprintf("archive %s: part %d was read with other bytes than the source has: check the connection to it", t.up.Ref, number)}
}

func (t *Transfer) changedTo(now Stat) *Error {
	verb := "was written to"
	switch {
	case now.Size > t.stat.Size:
		verb = "grew"
	case now.Size < t.stat.Size:
		verb = "shrank"
	}
	return failure(KindSourceChanged, "archive %s: the source %s during the transfer (%d bytes at its begin, %d now): something writes to it", t.up.Ref, verb, t.stat.Size, now.Size)
}

// changed removes the parts and returns the error.
func (t *Transfer) changed(ctx context.Context, why string) error {
	t.discard(ctx)
	return failure(KindSourceChanged, "archive %s: the source was changed: %s", t.up.Ref, why)
}

// discard removes what an upload left that nobody can go on with: its source was changed.
func (t *Transfer) discard(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := t.store.Abort(ctx, t.up.Ref); err != nil {
		t.store.log.Warn("parts of no use stay in the bucket until leftovers are removed", zap.Stringer("archive", t.up.Ref), zap.Error(err))
	}
}

func (t *Transfer) sourceStat(ctx context.Context) (stat Stat, err error) {
	err = t.store.do(ctx, "archive "+t.up.Ref.String(), sumTimeout, func(ctx context.Context, _ func()) error {
		if stat, err = t.up.Source.Stat(ctx); err != nil {
			return &sourceFailure{err}
		}
		return nil
	})
	return stat, err
}

func (t *Transfer) sourceSums(ctx context.Context, ranges []Range) (sums []Sum, err error) {
	err = t.store.do(ctx, "archive "+t.up.Ref.String(), sumTimeout, func(ctx context.Context, _ func()) error {
		if sums, err = t.up.Source.Sums(ctx, ranges); err != nil {
			return &sourceFailure{err}
		}
		if len(sums) != len(ranges) {
			return &sourceFailure{fmt.Errorf("%d sums of %d ranges", len(sums), len(ranges))}
		}
		return nil
	})
	return sums, err
}
