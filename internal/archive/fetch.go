package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// PresignedGet is how anybody can read one part of an archive with one GET, until it expires.
type PresignedGet struct {
	Part
	URL SecretURL
	// Headers must be sent as they are: they are signed, and name the part's range and the object's ETag, so that S3 refuses when it has become another.
	Headers http.Header
}

// PresignPart returns the URL of a part as it is stored, valid for expiry (at most 15 minutes are sensible; S3 takes up to 7 days, and temporary credentials end theirs). It
// asks nothing of the network but, where they have run out, new credentials. Errors: KindBadInput for a part or a time that there is not.
func (s *Store) PresignPart(ctx context.Context, m Manifest, number int, expiry time.Duration) (PresignedGet, error) {
	p, err := m.part(number)
	if err != nil {
		return PresignedGet{}, err
	}
	if expiry < time.Second || expiry > 7*24*time.Hour {
		return PresignedGet{}, badInput("archive %s: presigned URLs can be valid for 1s to 168h, not %s", m.Ref, expiry)
	}
	key := s.key(m.Ref, exportName)
	in := &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: &key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", p.StoredOffset, p.StoredOffset+p.StoredSize-1))}
	if m.ETag != "" {
		in.IfMatch = &m.ETag
	}
	signed, err := s.presign.PresignGetObject(ctx, in, s3.WithPresignExpires(expiry))
	if err != nil {
		return PresignedGet{}, s.failed(ctx, fmt.Sprintf("presign part %d of %s", number, s.clean(key)), err)
	}
	headers := signed.SignedHeader.Clone()
	headers.Del("Host")
	// Both also work unsigned; without them the answer would be another.
	headers.Set("Range", *in.Range)
	if in.IfMatch != nil {
		headers.Set("If-Match", *in.IfMatch)
	}
	return PresignedGet{p, SecretURL{signed.URL}, headers}, nil
}

// OpenPart streams a part as it is stored. A connection that breaks, stalls or ends too soon is replaced where it ended. Nothing is compared: see CheckPart. The reader must be
// closed.
func (s *Store) OpenPart(ctx context.Context, m Manifest, number int) (io.ReadCloser, error) {
	p, err := m.part(number)
	if err != nil {
		return nil, err
	}
	return &rawReader{store: s, ctx: ctx, key: s.key(m.Ref, exportName), etag: m.ETag, pos: p.StoredOffset, end: p.StoredOffset + p.StoredSize, size: m.StoredSize}, nil
}

// OpenPlainPart streams a part as it was before it was encrypted; of a plain archive it is OpenPart. Each 64 KiB are authenticated before they are returned, so that what was changed
// in the bucket ends the reader with KindCorrupt, as does an age file of fewer or more bytes than the manifest has, of which no more are returned; KindDecrypt when none of the
// identities is among the recipients. The reader must be closed.
func (s *Store) OpenPlainPart(ctx context.Context, m Manifest, number int, identities []age.Identity) (io.ReadCloser, error) {
	raw, err := s.OpenPart(ctx, m, number)
	if err != nil || !m.Encrypted() {
		return raw, err
	}
	p := &plainPart{ctx: ctx, raw: raw, ref: m.Ref, number: number, parts: len(m.Parts), left: m.Parts[number-1].Size}
	if p.plain, err = decryptPart(raw, number, identities); err != nil {
		_ = raw.Close()
		return nil, p.broken(err)
	}
	return p, nil
}

// plainPart reads a part that is decrypted on its way.
type plainPart struct {
	ctx           context.Context
	raw           io.ReadCloser
	plain         io.Reader
	ref           Ref
	number, parts int
	left          int64 // bytes that the manifest has
}

// errPartSize says that an age file holds another part. Whoever knows the recipients can make one, and it is authentic.
var errPartSize = errors.New("it holds fewer or more bytes than the manifest has")

func (p *plainPart) Read(b []byte) (int, error) {
	n, err := p.plain.Read(b)
	if int64(n) > p.left {
		n, err = int(p.left), errPartSize
	}
	p.left -= int64(n)
	if errors.Is(err, io.EOF) && p.left > 0 {
		err = errPartSize
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = p.broken(err)
	}
	return n, err
}

// broken returns an error of reading as one of this package.
func (p *plainPart) broken(err error) error { return brokenPart(p.ctx, p.ref, p.number, p.parts, err) }

func (p *plainPart) Close() error { return p.raw.Close() }

// brokenPart is the error of a part that cannot be read whole: one of this package as it is, anything else is age's word that it was changed.
func brokenPart(ctx context.Context, ref Ref, number, parts int, err error) error {
	var own *Error
	if errors.As(err, &own) || ctx.Err() != nil {
		return err
	}
	return &Error{Kind: KindCorrupt, Err: err, Message: fmt.Sprintf("archive %s: part %d of %d cannot be decrypted: it is not what was written", ref, number, parts)}
}

// CanDecrypt looks whether one of the identities opens an archive, by the beginning of its first part. An error of KindDecrypt when none does.
func (s *Store) CanDecrypt(ctx context.Context, m Manifest, identities []age.Identity) error {
	r, err := s.OpenPlainPart(ctx, m, 1, identities)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if _, err := r.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// CheckPart reads a part and compares it with the manifest; an error of KindCorrupt when the object has other bytes there.
func (s *Store) CheckPart(ctx context.Context, m Manifest, number int) error {
	r, err := s.OpenPart(ctx, m, number)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, r); err != nil {
		return err
	}
	if Sum(hash.Sum(nil)) != sumOf(m.Parts[number-1].StoredSHA256) {
		return failure(KindCorrupt, "archive %s: part %d of %d is not what was written: its SHA-256 differs from the manifest", m.Ref, number, len(m.Parts))
	}
	return nil
}

func (m Manifest) part(number int) (Part, error) {
	if number < 1 || number > len(m.Parts) {
		return Part{}, badInput("archive %s: no part %d; there are %d", m.Ref, number, len(m.Parts))
	}
	return m.Parts[number-1], nil
}

// Progress is how far the export came somewhere else, by the parts that are done there.
func (s Stored) Progress(done func(number int) bool) Progress {
	p := Progress{Size: s.Size, PartSize: s.PartSize, SHA256: s.SHA256, Done: make([]byte, (len(s.Parts)+7)/8)}
	for i := range s.Parts {
		if done(i + 1) {
			p.Done[i/8] |= 1 << (i % 8)
		}
	}
	return p
}
