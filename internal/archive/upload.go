package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
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
		t.partSize = choosePartSize(t.stat.Size, len(t.recipients) > 0)
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
	entry, err := t.store.inspect(ctx, t.up.Ref, false)
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
