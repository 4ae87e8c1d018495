package archive

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

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
