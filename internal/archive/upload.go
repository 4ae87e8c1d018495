package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

const (
	defaultParallel = 4
	defaultMemory   = 64 << 20
	// sumTimeout is how long a source may take for its sums; it has its own ways to notice a dead connection.
	sumTimeout = 24 * time.Hour
)

// Upload says what is to be kept, and how far an earlier process came with it.
type Upload struct {
	Ref
	Source Source
	// SHA256 of the whole source, in hexadecimal, as it was known before; computed at the source when left out.
	SHA256 string
	// Recipients that the archive is encrypted to (age or SSH public keys); none for plain.
	Recipients []string
	// Parallel parts at once (default 4).
	Parallel int
	// Memory in bytes that buffers may take when parts are encrypted (default 64 MiB); Parallel goes down to keep it. A plain part is
	// streamed and takes none.
	Memory int64
	// PartSize in bytes, at least 5 MiB (default: chosen by the source's size).
	PartSize int64
	// Progress of an earlier try, the zero value for none.
	Progress Progress
	// Record is called, never twice at once, when the upload is open and after each part.
	Record func(Progress)
}

// Transfer is an upload under way. Begin opens it; then either Send moves the parts, or PresignParts lets somebody else do it; Complete ends it.
type Transfer struct {
	store      *Store
	up         Upload
	stat       Stat
	recipients []age.Recipient
	partSize   int64
	count      int
	uploadID   string
	// buffers are for encrypted parts: one can be had for each that may be in flight.
	buffers chan *bytes.Buffer
	held    atomic.Int64 // bytes of buffers in use

	mu     sync.Mutex
	parts  []sentPart // by number - 1
	record sync.Mutex

	finished *Stored
}

// sentPart is one part: the sum of its source range once known, and what S3 has of it.
type sentPart struct {
	sum    Sum
	summed bool
	// at S3
	etag   string
	stored Sum
	size   int64
	done   bool
}

// state is the object that lets any process go on with an upload, and that knows the parts of an encrypted one.
type state struct {
	UploadID   string   `json:"upload_id"`
	Size       int64    `json:"size"`
	PartSize   int64    `json:"part_size"`
	SHA256     string   `json:"sha256"`
	Recipients []string `json:"recipients,omitempty"`
	// Parts are there from just before the object is put together.
	Parts []Part `json:"parts,omitempty"`
}

// Upload is Begin, Send and Complete. It can be repeated, also by another process, and after the end.
//
// Errors: KindSourceChanged when the source is not what it was; nothing of it is listed then, and its parts are removed. KindSource when it cannot be
// read. KindConflict when another archive has the name. Else those of Check. When ctx ends, what S3 has stays for the next try.
func (s *Store) Upload(ctx context.Context, up Upload) (Stored, error) {
	for try := 1; ; try++ {
		stored, err := s.upload(ctx, up)
		// Another process that was given up and lives on has completed the same upload: what it made is found by beginning again.
		if IsKind(err, KindNoUpload) && try < 3 {
			continue
		}
		return stored, err
	}
}

func (s *Store) upload(ctx context.Context, up Upload) (Stored, error) {
	t, err := s.Begin(ctx, up)
	if err != nil {
		return Stored{}, err
	}
	if err := t.Send(ctx); err != nil {
		return Stored{}, err
	}
	return t.Complete(ctx)
}

// Begin opens an upload, or goes on with the one that is there.
func (s *Store) Begin(ctx context.Context, up Upload) (*Transfer, error) {
	if err := up.Ref.check(); err != nil {
		return nil, err
	}
	if up.Source == nil {
		return nil, badInput("archive %s: no source", up.Ref)
	}
	if up.PartSize != 0 && (up.PartSize < minPartSize || up.PartSize > maxPartSize) {
		return nil, badInput("archive %s: parts of %d bytes; S3 takes 5 MiB to 5 GiB", up.Ref, up.PartSize)
	}
	if up.SHA256 != "" && !isSum(up.SHA256) {
		return nil, badInput("archive %s: %q is no SHA-256 in hexadecimal", up.Ref, up.SHA256)
	}
	recipients, err := parseRecipients(up.Recipients)
	if err != nil {
		return nil, err
	}
	if len(recipients) > 0 {
		if err := tryRecipients(recipients); err != nil {
			return nil, err
		}
	}
	up.Recipients = canonical(up.Recipients)
	if up.Parallel <= 0 {
		up.Parallel = defaultParallel
	}
	if up.Memory <= 0 {
		up.Memory = defaultMemory
	}
	t := &Transfer{store: s, up: up, recipients: recipients}
	if t.stat, err = t.sourceStat(ctx); err != nil {
		return nil, err
	}
	if t.stat.Size <= 0 {
		return nil, failure(KindSourceChanged, "archive %s: the source is empty: there is nothing to keep", up.Ref)
	}
	if t.stat.Size > maxSize {
		return nil, badInput("archive %s: %d bytes are more than an S3 object can have", up.Ref, t.stat.Size)
	}
	if t.up.SHA256 == "" {
		sums, err := t.sourceSums(ctx, []Range{{0, t.stat.Size}})
		if err != nil {
			return nil, err
		}
		t.up.SHA256 = sums[0].String()
	}
	if p := up.Progress; p.UploadID != "" && (p.Size != t.stat.Size || p.SHA256 != t.up.SHA256) {
		return nil, t.changed(ctx, fmt.Sprintf("it has %d bytes now and had %d in an earlier try, or other content", t.stat.Size, p.Size))
	}
	return t, t.open(ctx)
}

// tryRecipients finds recipients that cannot be used together.
func tryRecipients(recipients []age.Recipient) error {
	if _, err := age.Encrypt(io.Discard, recipients...); err != nil {
		return badInput("the recipients cannot be used together: post-quantum and other keys do not mix")
	}
	return nil
}

func (t *Transfer) open(ctx context.Context) error {
	s := t.store
	if done, err := t.kept(ctx); err != nil || done {
		return err
	}
	found, err := s.readState(ctx, t.up.Ref)
	if err != nil {
		return err
	}
	matches := found != nil && found.Size == t.stat.Size && found.SHA256 == t.up.SHA256 && slices.Equal(found.Recipients, t.up.Recipients) &&
		found.PartSize >= minPartSize && (t.up.PartSize == 0 || found.PartSize == t.up.PartSize)
	t.partSize = t.up.PartSize
	if matches {
		t.partSize = found.PartSize
	}
	if t.partSize == 0 && t.up.Progress.UploadID != "" {
		t.partSize = t.up.Progress.PartSize
	}
	if t.partSize < minPartSize {
		t.partSize = choosePartSize(t.stat.Size)
	}
	t.count = countParts(t.stat.Size, t.partSize)
	if t.count > maxParts {
		return badInput("archive %s: parts of %d bytes are too small for %d bytes, S3 takes 10,000 parts", t.up.Ref, t.partSize, t.stat.Size)
	}
	t.parts = make([]sentPart, t.count)
	t.makeBuffers()

	if matches && len(found.Parts) > 0 {
		// The object may be there already: its making is the last thing that an upload does.
		stored := t.storedOf(found.Parts)
		if stored.check() == nil {
			object, err := s.head(ctx, s.key(t.up.Ref, exportName))
			if err == nil && s.disagrees(stored, object) == "" {
				stored.ETag = object.etag
				t.finish(stored)
				return nil
			}
			if err != nil && !IsKind(err, KindNotFound) {
				return err
			}
		}
	}
	var ids []string
	if matches {
		ids = append(ids, found.UploadID)
	}
	if p := t.up.Progress; p.UploadID != "" && p.PartSize == t.partSize && len(t.up.Recipients) == 0 && !slices.Contains(ids, p.UploadID) {
		// Not for an encrypted one: only the state says to whom its parts are encrypted.
		ids = append(ids, p.UploadID)
	}
	for _, id := range ids {
		t.uploadID = id
		err := t.list(ctx)
		if err == nil {
			if !matches {
				if err := t.writeState(ctx, nil); err != nil {
					return err
				}
			}
			t.note()
			return nil
		}
		if !IsKind(err, KindNoUpload) && !IsKind(err, KindNotFound) {
			return err
		}
	}
	if found != nil && !matches {
		if err := s.abort(ctx, t.up.Ref, found.UploadID); err != nil {
			return err
		}
	}
	return t.create(ctx)
}

// kept says whether the archive is there already, whole and the same.
func (t *Transfer) kept(ctx context.Context) (bool, error) {
	entry, err := t.store.inspect(ctx, t.up.Ref)
	if err != nil {
		return false, err
	}
	if entry.Manifest == nil {
		return false, nil
	}
	stored := entry.Manifest.Stored
	if !entry.Complete || stored.SHA256 != t.up.SHA256 || !slices.Equal(stored.Recipients, t.up.Recipients) {
		return false, failure(KindConflict, "archive %s is there already with other content: an operation's archive is written once; delete it first", t.up.Ref)
	}
	t.partSize, t.count = stored.PartSize, len(stored.Parts)
	t.finish(stored)
	return true, nil
}

// finish ends the transfer with an object that is there.
func (t *Transfer) finish(stored Stored) {
	t.parts = make([]sentPart, t.count)
	for i := range t.parts {
		t.parts[i].done = true
	}
	t.finished = &stored
	t.note()
}

func (t *Transfer) makeBuffers() {
	if len(t.recipients) == 0 {
		return
	}
	size := t.partSize + int64(ageOverhead(t.partSize, len(t.recipients)))
	t.up.Parallel = int(min(int64(t.up.Parallel), max(1, t.up.Memory/size)))
	t.buffers = make(chan *bytes.Buffer, t.up.Parallel)
	for range t.up.Parallel {
		t.buffers <- new(bytes.Buffer)
	}
}

func (t *Transfer) create(ctx context.Context) error {
	s := t.store
	key := s.key(t.up.Ref, exportName)
	err := s.do(ctx, "begin the upload of "+s.clean(key), 0, func(ctx context.Context, _ func()) error {
		in := &s3.CreateMultipartUploadInput{
			Bucket: &s.cfg.Bucket, Key: &key,
			ChecksumAlgorithm: types.ChecksumAlgorithmSha256, ChecksumType: types.ChecksumTypeComposite,
			ContentType:          aws.String("application/octet-stream"),
			ServerSideEncryption: types.ServerSideEncryption(s.cfg.Encryption), StorageClass: types.StorageClass(s.cfg.StorageClass),
		}
		if s.cfg.KMSKey != "" {
			in.SSEKMSKeyId = &s.cfg.KMSKey
		}
		if s.cfg.LockMode != "" {
			in.ObjectLockMode = types.ObjectLockMode(s.cfg.LockMode)
			in.ObjectLockRetainUntilDate = aws.Time(s.now().Add(s.cfg.LockFor))
		}
		out, err := s.client.CreateMultipartUpload(ctx, in)
		if err != nil {
			return err
		}
		t.uploadID = aws.ToString(out.UploadId)
		return s.encrypts(out.ServerSideEncryption)
	})
	if err != nil {
		if t.uploadID != "" {
			t.discard(ctx)
		}
		return err
	}
	if err := t.writeState(ctx, nil); err != nil {
		return err
	}
	t.note()
	return nil
}

func (t *Transfer) writeState(ctx context.Context, parts []Part) error {
	data, err := json.Marshal(state{t.uploadID, t.stat.Size, t.partSize, t.up.SHA256, t.up.Recipients, parts})
	if err != nil {
		return err
	}
	return t.store.put(ctx, t.store.key(t.up.Ref, stateName), data, false)
}

// readState returns the state of an upload, nil when there is none or it cannot be read as one.
func (s *Store) readState(ctx context.Context, ref Ref) (*state, error) {
	data, err := s.get(ctx, s.key(ref, stateName), maxManifest)
	if IsKind(err, KindNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found state
	if json.Unmarshal(data, &found) != nil || found.UploadID == "" {
		return nil, nil
	}
	return &found, nil
}

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

// Progress returns how far the upload is.
func (t *Transfer) Progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Progress{UploadID: t.uploadID, Size: t.stat.Size, PartSize: t.partSize, SHA256: t.up.SHA256, Done: make([]byte, (t.count+7)/8)}
	for i := range t.parts {
		// What an earlier process sent counts before its sum was compared again: a heartbeat does not go back.
		if part := t.parts[i]; part.done || !part.summed && t.fits(i+1, part) {
			p.Done[i/8] |= 1 << (i % 8)
		}
	}
	return p
}

func (t *Transfer) note() {
	if t.up.Record == nil {
		return
	}
	t.record.Lock()
	defer t.record.Unlock()
	t.up.Record(t.Progress())
}

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

// Refresh asks S3 which parts it has, and takes those as done that have the size and the checksum of the source's range. It is how parts that somebody
// else uploaded are counted.
func (t *Transfer) Refresh(ctx context.Context) (Progress, error) {
	if t.finished != nil {
		return t.Progress(), nil
	}
	if err := t.list(ctx); err != nil {
		return Progress{}, err
	}
	var present []int
	t.mu.Lock()
	for i := range t.parts {
		if t.parts[i].etag != "" {
			present = append(present, i+1)
		}
	}
	t.mu.Unlock()
	for chunk := range slices.Chunk(present, 64) {
		if _, err := t.sum(ctx, chunk); err != nil {
			return Progress{}, err
		}
	}
	t.note()
	return t.Progress(), nil
}

// Missing returns the numbers of the parts that are not done.
func (t *Transfer) Missing() []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	var numbers []int
	for i := range t.parts {
		if !t.parts[i].done {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

// Complete puts the object together after the source was found unchanged, size, time and whole SHA-256, and compares what S3 then has. It can be repeated.
// KindNoUpload says that another process has completed or aborted the upload: Begin again finds which.
func (t *Transfer) Complete(ctx context.Context) (Stored, error) {
	if t.finished != nil {
		return *t.finished, nil
	}
	stat, err := t.sourceStat(ctx)
	if err != nil {
		return Stored{}, err
	}
	if !stat.same(t.stat) {
		t.discard(ctx)
		return Stored{}, t.changedTo(stat)
	}
	whole, err := t.sourceSums(ctx, []Range{{0, t.stat.Size}})
	if err != nil {
		return Stored{}, err
	}
	if whole[0].String() != t.up.SHA256 {
		return Stored{}, t.changed(ctx, "its SHA-256 is not the one from before the transfer")
	}
	for try := 1; ; try++ {
		stored, err := t.complete(ctx)
		// Another process that still sent a part of the same upload: its part counts, look again.
		if IsKind(err, KindConflict) && try < 3 {
			continue
		}
		if err != nil {
			return Stored{}, err
		}
		t.finished = &stored
		return stored, nil
	}
}

func (t *Transfer) complete(ctx context.Context) (Stored, error) {
	s := t.store
	key := s.key(t.up.Ref, exportName)
	if _, err := t.Refresh(ctx); err != nil {
		return Stored{}, err
	}
	if missing := t.Missing(); len(missing) > 0 {
		return Stored{}, failure(KindIncomplete, "archive %s: %d of %d parts are not in S3 with the checksum of the source, the first is part %d: send them again", t.up.Ref, len(missing), t.count, missing[0])
	}
	var parts []Part
	var completed []types.CompletedPart
	var offset int64
	t.mu.Lock()
	for i, p := range t.parts {
		rng := partRange(t.stat.Size, t.partSize, i+1)
		parts = append(parts, Part{
			Number: i + 1, Offset: rng.Offset, Size: rng.Length, SHA256: p.sum.String(),
			StoredOffset: offset, StoredSize: p.size, StoredSHA256: p.stored.String(),
		})
		completed = append(completed, types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: aws.String(p.etag), ChecksumSHA256: aws.String(p.stored.base64())})
		offset += p.size
	}
	t.mu.Unlock()
	stored := t.storedOf(parts)
	if err := t.writeState(ctx, parts); err != nil {
		return Stored{}, err
	}
	err := s.do(ctx, "put together "+s.clean(key), completeTimeout, func(ctx context.Context, _ func()) error {
		_, err := s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.cfg.Bucket, Key: &key, UploadId: &t.uploadID, ChecksumType: types.ChecksumTypeComposite,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: completed},
		})
		return err
	})
	// NoUpload: an earlier attempt went well and its answer was lost.
	if err != nil && !IsKind(err, KindNoUpload) {
		return Stored{}, err
	}
	object, headErr := s.head(ctx, key)
	if headErr != nil {
		if err != nil && IsKind(headErr, KindNotFound) {
			return Stored{}, err
		}
		return Stored{}, headErr
	}
	if reason := s.disagrees(stored, object); reason != "" {
		return Stored{}, failure(KindCorrupt, "archive %s: what S3 put together is not what was sent: %s", t.up.Ref, reason)
	}
	stored.ETag = object.etag
	return stored, nil
}

func (t *Transfer) storedOf(parts []Part) Stored {
	stored := Stored{
		File: exportName, Size: t.stat.Size, SHA256: t.up.SHA256, PartSize: t.partSize, Parts: parts,
		Checksum: composite(parts), Recipients: t.up.Recipients,
	}
	for _, p := range parts {
		stored.StoredSize += p.StoredSize
	}
	return stored
}

// disagrees returns why an object is not the one described, "" when it is.
func (s *Store) disagrees(stored Stored, o object) string {
	switch {
	case o.size != stored.StoredSize:
		return fmt.Sprintf("the object has %d bytes and should have %d", o.size, stored.StoredSize)
	case o.checksum != "" && o.checksum != stored.Checksum:
		return "the object's checksum is another one"
	case stored.ETag != "" && o.etag != stored.ETag:
		return "the object's ETag is another one"
	case o.checksum == "" && etagParts(o.etag) != 0 && etagParts(o.etag) != len(stored.Parts):
		return "the object has another number of parts"
	}
	return ""
}

// etagParts returns the number of parts that the ETag of a multipart object ends with, 0 when it has none.
func etagParts(etag string) int {
	var n int
	if i := strings.LastIndexByte(etag, '-'); i >= 0 {
		if _, err := fmt.Sscanf(strings.Trim(etag[i+1:], `"`), "%d", &n); err != nil {
			return 0
		}
	}
	return n
}

// sumOf parses a SHA-256 in hexadecimal that was checked before.
func sumOf(text string) Sum {
	var sum Sum
	_, _ = hex.Decode(sum[:], []byte(text))
	return sum
}
