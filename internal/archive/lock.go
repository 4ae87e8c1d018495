package archive

import (
	"context"
	"time"
)

// Lock is what the bucket's object lock says of an archive.
type Lock struct {
	// Mode is "GOVERNANCE" or "COMPLIANCE", and Until when it ends; "" and the zero time when it has ended or there is none.
	Mode  string
	Until time.Time
	// Held says that there is a legal hold, which has no end.
	Held bool
}

// Active says whether the lock forbids the deletion.
func (l Lock) Active() bool { return l.Held || !l.Until.IsZero() }

// Lock asks for the object lock of an archive's object and manifest, and returns the later end of the two. Of what is not there it is the zero
// Lock. S3 tells it only to those who may s3:GetObjectRetention and s3:GetObjectLegalHold; to others every archive looks as if there were none, and
// Delete finds out.
func (s *Store) Lock(ctx context.Context, ref Ref) (Lock, error) {
	if err := ref.check(); err != nil {
		return Lock{}, err
	}
	var lock Lock
	for _, name := range []string{exportName, manifestName} {
		object, err := s.head(ctx, s.key(ref, name))
		if IsKind(err, KindNotFound) {
			continue
		}
		if err != nil {
			return Lock{}, err
		}
		lock.Held = lock.Held || object.held
		if object.lockedTo.After(s.now()) && object.lockedTo.After(lock.Until) {
			lock.Mode, lock.Until = s.clean(object.lockMode), object.lockedTo.UTC()
		}
	}
	return lock, nil
}
