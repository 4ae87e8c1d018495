package archive

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// SecretURL is a presigned URL: whoever has it can read or write what it is of. It shows itself without its query everywhere, in JSON too; Reveal is the way to use it.
type SecretURL struct{ url string }

// Reveal returns the URL whole. It goes to a node over standard input only, never into an argument, a result or a heartbeat.
func (u SecretURL) Reveal() string { return u.url }

func (u SecretURL) String() string {
	path, _, _ := strings.Cut(u.url, "?")
	return path + "?..."
}

// GoString is String, for %#v.
func (u SecretURL) GoString() string { return u.String() }

// MarshalText is String, for JSON.
func (u SecretURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// PresignedPart is how anybody can upload one part with one PUT, until it expires.
type PresignedPart struct {
	Number int
	// Offset and Length in bytes of the source's range that is the body.
	Range
	// SHA256 of it, in hexadecimal.
	SHA256 string
	URL    SecretURL
	// Headers must be sent as they are: they are signed, and S3 refuses a body of another length or checksum.
	Headers http.Header
}

// PresignParts returns the URLs of some parts, valid for expiry (at most 15 minutes are sensible; S3 takes up to 7 days, and temporary credentials end theirs). The sums of the parts
// are computed at the source first. An upload that is encrypted cannot be presigned: KindBadInput. What was uploaded is found by Refresh.
func (t *Transfer) PresignParts(ctx context.Context, numbers []int, expiry time.Duration) ([]PresignedPart, error) {
	s := t.store
	switch {
	case len(t.recipients) > 0:
		return nil, badInput("archive %s: a direct transfer cannot be encrypted by the worker: use the transfer by the worker", t.up.Ref)
	case t.finished != nil:
		return nil, badInput("archive %s: the upload has ended", t.up.Ref)
	case expiry < time.Second || expiry > 7*24*time.Hour:
		return nil, badInput("archive %s: presigned URLs can be valid for 1s to 168h, not %s", t.up.Ref, expiry)
	}
	if i := slices.IndexFunc(numbers, func(n int) bool { return n < 1 || n > t.count }); i >= 0 {
		return nil, badInput("archive %s: no part %d; there are %d", t.up.Ref, numbers[i], t.count)
	}
	if _, err := t.sum(ctx, numbers); err != nil {
		return nil, err
	}
	key := s.key(t.up.Ref, exportName)
	var parts []PresignedPart
	for _, number := range numbers {
		t.mu.Lock()
		sum := t.parts[number-1].sum
		t.mu.Unlock()
		rng := partRange(t.stat.Size, t.partSize, number)
		what := fmt.Sprintf("presign part %d of %s", number, s.clean(key))
		signed, err := s.presign.PresignUploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.cfg.Bucket, Key: &key, UploadId: &t.uploadID, PartNumber: aws.Int32(int32(number)),
			ContentLength: aws.Int64(rng.Length), ChecksumSHA256: aws.String(sum.base64()),
		}, s3.WithPresignExpires(expiry))
		if err != nil {
			return nil, s.failed(ctx, what, err)
		}
		headers := signed.SignedHeader.Clone()
		headers.Del("Host")
		// The checksum must be a signed header: were it left out, any body would be taken.
		if headers.Get("X-Amz-Checksum-Sha256") != sum.base64() {
			return nil, failure(KindUnsupported, "%s: the part's checksum is not among the signed headers", what)
		}
		parts = append(parts, PresignedPart{number, rng, sum.String(), SecretURL{signed.URL}, headers})
	}
	return parts, nil
}
