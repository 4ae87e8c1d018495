package archive

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.uber.org/zap"
)

// Delete removes an archive, the manifest first, so that one half deleted is never listed. One that is not complete (a transfer under way looks like that) is
// refused with KindIncomplete unless force is set, which also ends its upload; so a deletion that was interrupted is ended with force. Object lock is refused with
// KindLocked and its date before anything is removed. In a bucket with versions the older versions stay, as long as the bucket's life cycle keeps them.
func (s *Store) Delete(ctx context.Context, ref Ref, force bool) error {
	entry, err := s.Entry(ctx, ref)
	if err != nil {
		if force && IsKind(err, KindNotFound) {
			// Parts of an upload are no objects, so nothing was found of it.
			return s.Abort(ctx, ref)
		}
		return err
	}
	if !entry.Complete && !force {
		return failure(KindIncomplete, "archive %s is not complete: %s: it is deleted only by force", ref, entry.Reason)
	}
	for _, name := range []string{exportName, manifestName} {
		object, err := s.head(ctx, s.key(ref, name))
		if IsKind(err, KindNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if object.held {
			return failure(KindLocked, "archive %s: object lock has a legal hold on it: release the hold first", ref)
		}
		if object.lockedTo.After(s.now()) {
			return failure(KindLocked, "archive %s: object lock (%s) keeps it until %s", ref, s.clean(object.lockMode), object.lockedTo.UTC().Format(time.RFC3339))
		}
	}
	if err := s.remove(ctx, s.key(ref, manifestName)); err != nil {
		return err
	}
	if err := s.remove(ctx, s.key(ref, exportName)); err != nil {
		return err
	}
	for _, name := range []string{verifiedName, rehearsedName} {
		if err := s.remove(ctx, s.key(ref, name)); err != nil {
			return err
		}
	}
	if !entry.Complete {
		return s.Abort(ctx, ref)
	}
	return s.remove(ctx, s.key(ref, stateName))
}

// Abort ends all uploads of an operation, so that their parts take no space, and forgets their state. What is complete stays.
func (s *Store) Abort(ctx context.Context, ref Ref) error {
	if err := ref.check(); err != nil {
		return err
	}
	found, err := s.uploads(ctx, s.key(ref, exportName))
	if err != nil {
		return err
	}
	for _, left := range found {
		if left.Ref != ref {
			continue
		}
		if err := s.abort(ctx, ref, left.UploadID); err != nil {
			return err
		}
	}
	// A service that lists no uploads: the state knows the one.
	state, err := s.readState(ctx, ref)
	if err != nil {
		return err
	}
	if state != nil {
		if err := s.abort(ctx, ref, state.UploadID); err != nil {
			return err
		}
	}
	return s.remove(ctx, s.key(ref, stateName))
}

// abort ends one upload; one that is not there any more is no error.
func (s *Store) abort(ctx context.Context, ref Ref, uploadID string) error {
	key := s.key(ref, exportName)
	err := s.do(ctx, "abort the upload of "+s.clean(key), 0, func(ctx context.Context, _ func()) error {
		_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.cfg.Bucket, Key: &key, UploadId: &uploadID})
		return err
	})
	if IsKind(err, KindNoUpload) || IsKind(err, KindNotFound) {
		return nil
	}
	return err
}

// Leftover is a multipart upload that was neither completed nor aborted. Its parts take space and are in no list of objects.
type Leftover struct {
	Ref
	UploadID string    `json:"upload_id"`
	Begun    time.Time `json:"begun"`
}

// Leftovers returns the uploads under the prefix that this package began, of living operations too.
func (s *Store) Leftovers(ctx context.Context) ([]Leftover, error) {
	return s.uploads(ctx, s.folder(""))
}

func (s *Store) uploads(ctx context.Context, prefix string) ([]Leftover, error) {
	var found []Leftover
	var keyMarker, idMarker *string
	for {
		var out *s3.ListMultipartUploadsOutput
		err := s.do(ctx, "list uploads under "+s.clean(prefix), 0, func(ctx context.Context, _ func()) (err error) {
			out, err = s.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{
				Bucket: &s.cfg.Bucket, Prefix: &prefix, KeyMarker: keyMarker, UploadIdMarker: idMarker, MaxUploads: s.page,
			})
			return err
		})
		if IsKind(err, KindBadInput) && idMarker != nil {
			// versitygw refuses the marker that it gave; by the key alone it goes on, past what is left of that key.
			idMarker = nil
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, u := range out.Uploads {
			// What others upload under the prefix is theirs.
			if ref, name, ok := s.parseKey(aws.ToString(u.Key)); ok && name == exportName {
				found = append(found, Leftover{ref, aws.ToString(u.UploadId), aws.ToTime(u.Initiated)})
			}
		}
		if !aws.ToBool(out.IsTruncated) || aws.ToString(out.NextKeyMarker) == "" {
			return found, nil
		}
		keyMarker, idMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

// AbortLeftovers ends the uploads that began longer ago than olderThan and are not of a living operation, and returns them. The caller asks which
// operations live before it calls; olderThan covers those that began since.
func (s *Store) AbortLeftovers(ctx context.Context, olderThan time.Duration, living func(Ref) bool) ([]Leftover, error) {
	found, err := s.Leftovers(ctx)
	if err != nil {
		return nil, err
	}
	var aborted []Leftover
	for _, left := range found {
		if s.now().Sub(left.Begun) < olderThan || living(left.Ref) {
			continue
		}
		if err := s.abort(ctx, left.Ref, left.UploadID); err != nil {
			return aborted, err
		}
		aborted = append(aborted, left)
		state, err := s.readState(ctx, left.Ref)
		if err != nil {
			return aborted, err
		}
		if state != nil && state.UploadID == left.UploadID {
			if err := s.dropState(ctx, left.Ref); err != nil {
				return aborted, err
			}
		}
		s.log.Info("aborted the upload that a dead operation left", zap.Stringer("archive", left.Ref), zap.Time("begun", left.Begun))
	}
	return aborted, nil
}

// Prune deletes what the policy does not keep of a cluster's archives (of each cluster's for ""). With dryRun it deletes nothing. The plan is returned in
// any case; archives that could not be deleted are in its Failed, and do not stop the others.
func (s *Store) Prune(ctx context.Context, cluster string, policy Policy, dryRun bool) (Plan, error) {
	archives, _, err := s.List(ctx, cluster)
	if err != nil {
		return Plan{}, err
	}
	plan, err := PlanPrune(archives, policy)
	if err != nil || dryRun {
		return plan, err
	}
	for _, entry := range plan.Delete {
		if err := s.Delete(ctx, entry.Ref, false); err != nil && !IsKind(err, KindNotFound) {
			if ctx.Err() != nil {
				return plan, fmt.Errorf("delete archive %s: %w", entry.Ref, context.Cause(ctx))
			}
			plan.Failed = append(plan.Failed, PruneFailure{entry.Ref, KindOf(err), err.Error()})
		}
	}
	return plan, nil
}
