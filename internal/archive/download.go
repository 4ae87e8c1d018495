package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/webclient"
)

// OpenOptions say what is read of an archive.
type OpenOptions struct {
	// Offset in bytes from which to read on; of the export, or of the object with Stored.
	Offset int64
	// Identities decrypt an encrypted archive.
	Identities []age.Identity
	// Stored reads the object as it lies in S3, of an encrypted archive its age files one after the other.
	Stored bool
}

// Reader reads an archive in order. Every part is compared with the manifest; a difference is an error of KindCorrupt before the part's end is reached. A
// connection that breaks, stalls or ends too soon is replaced where it ended.
type Reader struct {
	manifest Manifest
	stored   bool
	ids      []age.Identity
	raw      *rawReader
	ctx      context.Context

	index    int // of the part that is read
	skip     int64
	started  bool
	in       io.Reader // plaintext, or the stored bytes
	inHash   hash.Hash
	rawHash  hash.Hash
	rawPart  *io.LimitedReader
	verified int64
	err      error
}

// Open reads the archive from an offset on. The reader must be closed. Errors: KindNotFound, KindIncomplete, KindDecrypt (an encrypted archive needs an identity or
// Stored), those of Check.
func (s *Store) Open(ctx context.Context, ref Ref, o OpenOptions) (*Reader, error) {
	manifest, err := s.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, manifest, o)
}

func (s *Store) open(ctx context.Context, m Manifest, o OpenOptions) (*Reader, error) {
	size := m.Size
	if o.Stored {
		size = m.StoredSize
	}
	if o.Offset < 0 || o.Offset > size {
		return nil, badInput("archive %s: offset %d is outside of its %d bytes", m.Ref, o.Offset, size)
	}
	if m.Encrypted() && !o.Stored && len(o.Identities) == 0 {
		return nil, failure(KindDecrypt, "archive %s is encrypted: give a secret key of one of its recipients", m.Ref)
	}
	r := &Reader{manifest: m, stored: o.Stored, ids: o.Identities, ctx: ctx}
	// Reading begins with the part's first byte, or its sum could not be compared.
	var at int64
	for r.index < len(m.Parts) {
		p := m.Parts[r.index]
		offset, length := p.Offset, p.Size
		if o.Stored {
			offset, length = p.StoredOffset, p.StoredSize
		}
		if o.Offset < offset+length {
			at, r.skip, r.verified = p.StoredOffset, o.Offset-offset, offset
			break
		}
		r.index++
	}
	if r.index == len(m.Parts) {
		at, r.verified = m.StoredSize, size
	}
	r.raw = &rawReader{store: s, ctx: ctx, key: s.key(m.Ref, exportName), etag: m.ETag, pos: at, end: m.StoredSize, size: m.StoredSize}
	return r, nil
}

// Manifest of the archive.
func (r *Reader) Manifest() Manifest { return r.manifest }

// Verified returns up to which offset, in bytes, everything was compared with the manifest: what is kept of a broken download should end there.
func (r *Reader) Verified() int64 { return r.verified }

// Close ends the connection.
func (r *Reader) Close() error { return r.raw.Close() }

func (r *Reader) Read(p []byte) (int, error) {
	for {
		if r.err != nil {
			return 0, r.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if r.index == len(r.manifest.Parts) {
			return 0, io.EOF
		}
		if !r.started {
			if r.err = r.begin(); r.err != nil {
				continue
			}
		}
		n, err := r.in.Read(p)
		if n > 0 && r.skip > 0 {
			dropped := int(min(int64(n), r.skip))
			r.skip -= int64(dropped)
			n = copy(p, p[dropped:n])
		}
		switch {
		case errors.Is(err, io.EOF):
			r.err = r.end()
		case err != nil:
			r.err = r.broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// begin opens the next part.
func (r *Reader) begin() error {
	part := r.manifest.Parts[r.index]
	r.rawHash, r.inHash, r.started = sha256.New(), sha256.New(), true
	r.rawPart = &io.LimitedReader{R: r.raw, N: part.StoredSize}
	raw := io.TeeReader(r.rawPart, r.rawHash)
	if r.stored || !r.manifest.Encrypted() {
		r.in = io.TeeReader(raw, r.inHash)
		return nil
	}
	plaintext, err := decryptPart(raw, part.Number, r.ids)
	if err != nil {
		return r.broken(err)
	}
	r.in = io.TeeReader(plaintext, r.inHash)
	return nil
}

// end compares the part that was read.
func (r *Reader) end() error {
	part := r.manifest.Parts[r.index]
	if _, err := io.Copy(r.rawHash, r.rawPart); err != nil { // what follows the age file; nothing does
		return r.broken(err)
	}
	want, length := sumOf(part.SHA256), part.Size
	if r.stored {
		want, length = sumOf(part.StoredSHA256), part.StoredSize
	}
	if Sum(r.rawHash.Sum(nil)) != sumOf(part.StoredSHA256) || Sum(r.inHash.Sum(nil)) != want {
		return failure(KindCorrupt, "archive %s: part %d of %d is not what was written: its SHA-256 differs from the manifest", r.manifest.Ref, part.Number, len(r.manifest.Parts))
	}
	r.verified += length
	r.index++
	r.started = false
	return nil
}

// broken returns an error of reading as one of this package.
func (r *Reader) broken(err error) error {
	return brokenPart(r.ctx, r.manifest.Ref, r.index+1, len(r.manifest.Parts), err)
}

// rawReader reads the object from pos to end over as many connections as it takes.
type rawReader struct {
	store    *Store
	ctx      context.Context
	key      string
	etag     string
	pos, end int64
	size     int64 // of the whole object

	body     io.ReadCloser
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	watched  context.Context
	failures int       // since bytes came
	seen     hash.Hash // of all bytes, nil when nobody asks
}

func (r *rawReader) Read(p []byte) (int, error) {
	what := "read " + r.store.clean(r.key)
	for {
		if r.pos >= r.end {
			return 0, io.EOF
		}
		if r.body == nil {
			// Each try of the loop is one attempt; request does no own ones.
			if err := r.connect(what); err != nil {
				if err := r.again(what, err); err != nil {
					return 0, err
				}
				continue
			}
		}
		if rest := r.end - r.pos; int64(len(p)) > rest {
			p = p[:rest]
		}
		n, err := r.body.Read(p)
		if n > 0 {
			r.timer.Reset(r.store.cfg.StallTimeout)
			r.pos += int64(n)
			r.failures = 0
			if r.seen != nil {
				r.seen.Write(p[:n])
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		failed := r.store.failed(r.watched, what, err)
		_ = r.Close()
		if err := r.again(what, failed); err != nil {
			return 0, err
		}
	}
}

// again waits before another attempt, or returns why there is none.
func (r *rawReader) again(what string, err error) error {
	var e *Error
	if !errors.As(err, &e) || !e.passing {
		return err
	}
	if r.failures++; r.failures >= r.store.cfg.Attempts {
		e.Message += fmt.Sprintf(" (at byte %d of %d, after %d attempts)", r.pos, r.end, r.failures)
		return e
	}
	r.store.log.Warn("reading from S3 was interrupted, going on", zap.String("request", what), zap.Int64("at", r.pos), zap.String("error", e.Message))
	if err := webclient.Pause(r.ctx, r.failures, r.store.cfg.MaxBackoff); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (r *rawReader) connect(what string) error {
	watched, cancel := context.WithCancelCause(r.ctx)
	timer := time.AfterFunc(r.store.cfg.StallTimeout, func() { cancel(errStalled) })
	in := &s3.GetObjectInput{Bucket: &r.store.cfg.Bucket, Key: &r.key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", r.pos, r.end-1))}
	if r.etag != "" {
		in.IfMatch = &r.etag
	}
	out, err := r.store.client.GetObject(watched, in)
	if err != nil {
		err = r.store.failed(watched, what, err)
	} else if got, want := aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-%d/%d", r.pos, r.end-1, r.size); got != want && (got != "" || r.pos != 0) {
		_ = out.Body.Close()
		err = failure(KindCorrupt, "%s: S3 answered with the range %q instead of %q", what, r.store.clean(got), want)
	}
	if err != nil {
		timer.Stop()
		cancel(nil)
		return err
	}
	r.body, r.cancel, r.timer, r.watched = out.Body, cancel, timer, watched
	return nil
}

// Close ends the connection; the next Read opens another.
func (r *rawReader) Close() error {
	if r.body == nil {
		return nil
	}
	r.timer.Stop()
	r.cancel(nil)
	err := r.body.Close()
	r.body = nil
	return err
}

// Verify reads the archive back whole and compares every part and the whole with the manifest: the stored bytes always, the export itself when the
// archive is not encrypted or identities are given. The result is remembered beside the manifest, also a bad one. progress, which may be nil, is told how many bytes
// of the object were read. A difference is an error of KindCorrupt, with the result.
func (s *Store) Verify(ctx context.Context, ref Ref, identities []age.Identity, who string, progress func(int64)) (Verification, error) {
	entry, err := s.Entry(ctx, ref)
	if err != nil {
		return Verification{}, err
	}
	if !entry.Complete {
		return Verification{}, failure(KindIncomplete, "archive %s is not complete: %s", ref, entry.Reason)
	}
	data, err := s.get(ctx, s.key(ref, manifestName), maxManifest)
	if err != nil {
		return Verification{}, err
	}
	m, err := ParseManifest(data)
	if err != nil {
		return Verification{}, err
	}
	result := Verification{ManifestSHA256: Sum(sha256.Sum256(data)).String(), Who: who}
	err = s.readBack(ctx, m, identities, &result, progress)
	if err != nil && !IsKind(err, KindCorrupt) {
		return Verification{}, err
	}
	result.OK, result.At = err == nil, s.now().UTC()
	if err != nil {
		result.Problem = err.Error()
	}
	if written := s.writeBeside(ctx, ref, verifiedName, result); err == nil {
		err = written
	}
	return result, err
}

func (s *Store) readBack(ctx context.Context, m Manifest, identities []age.Identity, result *Verification, progress func(int64)) error {
	decrypt := m.Encrypted() && len(identities) > 0
	reader, err := s.open(ctx, m, OpenOptions{Identities: identities, Stored: m.Encrypted() && !decrypt})
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	stored := sha256.New()
	reader.raw.seen = stored
	whole := sha256.New()
	buffer := make([]byte, 256<<10)
	for {
		n, err := reader.Read(buffer)
		whole.Write(buffer[:n])
		result.Bytes = reader.raw.pos
		if progress != nil && n > 0 {
			progress(reader.raw.pos)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	result.StoredSHA256 = Sum(stored.Sum(nil)).String()
	if m.Encrypted() && !decrypt {
		return nil
	}
	result.SHA256 = Sum(whole.Sum(nil)).String()
	if result.SHA256 != m.SHA256 {
		return failure(KindCorrupt, "archive %s: the export's SHA-256 is %s and was %s", m.Ref, result.SHA256, m.SHA256)
	}
	return nil
}
