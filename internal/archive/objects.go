package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// object is what S3 says of an object without its content.
type object struct {
	size     int64
	checksum string
	etag     string
	modified time.Time
	lockMode string
	lockedTo time.Time
	held     bool
}

// head asks for an object; an error of KindNotFound when there is none.
func (s *Store) head(ctx context.Context, key string) (object, error) {
	var o object
	err := s.do(ctx, "look at "+s.clean(key), 0, func(ctx context.Context, _ func()) error {
		out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{
			Bucket: &s.cfg.Bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled,
		})
		if err != nil {
			return err
		}
		o = object{
			size: aws.ToInt64(out.ContentLength), checksum: aws.ToString(out.ChecksumSHA256), etag: aws.ToString(out.ETag),
			modified: aws.ToTime(out.LastModified), lockMode: string(out.ObjectLockMode), lockedTo: aws.ToTime(out.ObjectLockRetainUntilDate),
			held: out.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn,
		}
		return nil
	})
	return o, err
}

// get reads a small object; an error of KindNotFound when there is none, of KindCorrupt when it is longer than limit.
func (s *Store) get(ctx context.Context, key string, limit int64) ([]byte, error) {
	var data []byte
	what := "read " + s.clean(key)
	err := s.do(ctx, what, 0, func(ctx context.Context, beat func()) error {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: &key})
		if err != nil {
			return err
		}
		defer func() { _ = out.Body.Close() }()
		if length := aws.ToInt64(out.ContentLength); length > limit {
			return failure(KindCorrupt, "%s: %d bytes long, at most %d are possible", what, length, limit)
		}
		data, err = io.ReadAll(io.LimitReader(beating{out.Body, beat}, limit+1))
		if err == nil && out.ContentLength != nil && int64(len(data)) != *out.ContentLength {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return &Error{Kind: KindServer, passing: true, Err: err,
				Message: fmt.Sprintf("s3 bucket %s: %s: the answer was cut off: %s", s.cfg.Bucket, what, s.clean(err.Error()))}
		}
		return nil
	})
	return data, err
}

// put writes a small object whole. A locked one cannot be deleted for as long as the configuration says.
func (s *Store) put(ctx context.Context, key string, data []byte, locked bool) error {
	sum := sha256.Sum256(data)
	return s.do(ctx, "write "+s.clean(key), 0, func(ctx context.Context, _ func()) error {
		in := &s3.PutObjectInput{
			Bucket: &s.cfg.Bucket, Key: &key, Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
			ChecksumSHA256:       aws.String(base64.StdEncoding.EncodeToString(sum[:])),
			ServerSideEncryption: types.ServerSideEncryption(s.cfg.Encryption), ContentType: aws.String("application/json"),
		}
		if s.cfg.KMSKey != "" {
			in.SSEKMSKeyId = &s.cfg.KMSKey
		}
		if locked && s.cfg.LockMode != "" {
			in.ObjectLockMode = types.ObjectLockMode(s.cfg.LockMode)
			in.ObjectLockRetainUntilDate = aws.Time(s.now().Add(s.cfg.LockFor))
		}
		out, err := s.client.PutObject(ctx, in)
		if err != nil {
			return err
		}
		return s.encrypts(out.ServerSideEncryption)
	})
}

// encrypts says whether the service answered that it does the encryption that is asked for: some take the header and store in the clear.
func (s *Store) encrypts(answered types.ServerSideEncryption) error {
	if s.cfg.Encryption == "" || string(answered) == s.cfg.Encryption {
		return nil
	}
	return failure(KindUnsupported, "s3 bucket %s: the service does not answer that it encrypts with %s: leave server-side encryption out, or encrypt to a recipient", s.cfg.Bucket, s.cfg.Encryption)
}

// remove deletes an object; one that is not there is no error.
func (s *Store) remove(ctx context.Context, key string) error {
	err := s.do(ctx, "delete "+s.clean(key), 0, func(ctx context.Context, _ func()) error {
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.cfg.Bucket, Key: &key})
		return err
	})
	if IsKind(err, KindNotFound) {
		return nil
	}
	return err
}

// keys calls each with every object under a prefix, in S3's order.
func (s *Store) keys(ctx context.Context, prefix string, each func(key string, size int64, modified time.Time)) error {
	var token *string
	for {
		var out *s3.ListObjectsV2Output
		err := s.do(ctx, "list "+s.clean(prefix), 0, func(ctx context.Context, _ func()) (err error) {
			out, err = s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.cfg.Bucket, Prefix: &prefix, ContinuationToken: token, MaxKeys: s.page})
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range out.Contents {
			each(aws.ToString(o.Key), aws.ToInt64(o.Size), aws.ToTime(o.LastModified))
		}
		if !aws.ToBool(out.IsTruncated) || out.NextContinuationToken == nil {
			return nil
		}
		token = out.NextContinuationToken
	}
}

// beating calls beat whenever bytes were read.
type beating struct {
	io.Reader
	beat func()
}

func (b beating) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if n > 0 {
		b.beat()
	}
	return n, err
}

// Check finds out whether archives can be kept: that the bucket is there and that objects can be written, read, listed and deleted.
// It leaves nothing behind. Its errors say what to correct: KindNoBucket, KindAccessDenied, KindCredentials,
// KindWrongRegion, KindUnreachable, KindCertificate, KindFull and others.
func (s *Store) Check(ctx context.Context) error {
	key := fmt.Sprintf("%s%s-%d", s.folder(""), probeName, s.now().UnixNano())
	content := []byte("{}\n")
	written := false
	steps := func() error {
		err := s.put(ctx, key, content, false)
		written = err == nil || IsKind(err, KindUnsupported)
		if err != nil {
			return err
		}
		got, err := s.get(ctx, key, 1024)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, content) {
			return failure(KindCorrupt, "s3 bucket %s: a probe object came back with other content: check what stands between worker and service", s.cfg.Bucket)
		}
		found := false
		if err := s.keys(ctx, key, func(k string, _ int64, _ time.Time) { found = found || k == key }); err != nil {
			return err
		}
		if !found {
			return failure(KindUnsupported, "s3 bucket %s: a probe object that was written is not listed: the service must list what it has stored", s.cfg.Bucket)
		}
		if _, err = s.uploads(ctx, key); err != nil || s.cfg.LockMode == "" {
			return err
		}
		return s.do(ctx, "look whether object lock is on", 0, func(ctx context.Context, _ func()) error {
			_, err := s.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.cfg.Bucket})
			return err
		})
	}
	err := steps()
	if !written {
		return err
	}
	// Also when the caller gave up: nothing may be left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if removed := s.remove(ctx, key); err == nil {
		err = removed
	}
	return err
}
