package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/katoflow/katoflow/internal/remote"
)

// Entry is one archive, or what is left of one.
type Entry struct {
	Ref
	// Complete: the manifest is there, can be read, and agrees with the object in size, checksum and parts. Only then it is an archive.
	Complete bool `json:"complete"`
	// Reason why it is not complete.
	Reason string `json:"reason,omitempty"`
	// Manifest, nil when there is none that can be read.
	Manifest *Manifest `json:"manifest,omitempty"`
	// Verified is what the last Verify found, nil when there was none of this manifest.
	Verified *Verification `json:"verified,omitempty"`
	// Size of the object in bytes, Modified when it was written.
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// started is the time by which archives are ordered.
func (e Entry) started() time.Time {
	if e.Manifest != nil {
		return e.Manifest.Started
	}
	return e.Modified
}

// Finish writes the manifest, last: from then on the archive is listed. It first compares the object with m.Stored. An archive whose manifest is there
// already is left as it is, and that manifest returned, when both are of the same object; else KindConflict.
func (s *Store) Finish(ctx context.Context, m Manifest) (Manifest, error) {
	if m.Version == 0 {
		m.Version = manifestVersion
	}
	m.Started, m.Ended = m.Started.UTC(), m.Ended.UTC()
	if err := m.Check(); err != nil {
		return Manifest{}, badInput("manifest of archive %s: %s", m.Ref, err)
	}
	entry, err := s.inspect(ctx, m.Ref)
	if err != nil {
		return Manifest{}, err
	}
	if had := entry.Manifest; had != nil {
		if !entry.Complete || had.SHA256 != m.SHA256 || had.Checksum != m.Checksum {
			return Manifest{}, failure(KindConflict, "archive %s has a manifest of another object already: delete it first", m.Ref)
		}
		return *had, s.tidy(ctx, m.Ref)
	}
	object, err := s.head(ctx, s.key(m.Ref, exportName))
	if IsKind(err, KindNotFound) {
		return Manifest{}, failure(KindIncomplete, "archive %s: its object is not in the bucket: upload it first", m.Ref)
	}
	if err != nil {
		return Manifest{}, err
	}
	if reason := s.disagrees(m.Stored, object); reason != "" {
		return Manifest{}, failure(KindConflict, "archive %s: its manifest does not fit: %s", m.Ref, reason)
	}
	data, err := m.JSON()
	if err != nil {
		return Manifest{}, err
	}
	if len(data) > maxManifest {
		return Manifest{}, badInput("manifest of archive %s: longer than %d bytes: leave out the names of its content", m.Ref, maxManifest)
	}
	if err := s.put(ctx, s.key(m.Ref, manifestName), data, true); err != nil {
		return Manifest{}, err
	}
	return m, s.tidy(ctx, m.Ref)
}

// tidy removes what the making of an archive left: its state, and uploads whose begin was answered and not heard. Without the rights to that it stays, and
// harms nothing.
func (s *Store) tidy(ctx context.Context, ref Ref) error {
	if err := s.Abort(ctx, ref); err != nil && !IsKind(err, KindAccessDenied) {
		return err
	}
	return nil
}

// dropState removes the state of an upload that has ended. Without the right to delete it stays, which harms nothing.
func (s *Store) dropState(ctx context.Context, ref Ref) error {
	err := s.remove(ctx, s.key(ref, stateName))
	if IsKind(err, KindAccessDenied) {
		return nil
	}
	return err
}

// Manifest returns the manifest of a complete archive. Errors: KindNotFound; KindIncomplete with the reason.
func (s *Store) Manifest(ctx context.Context, ref Ref) (Manifest, error) {
	entry, err := s.Entry(ctx, ref)
	if err != nil {
		return Manifest{}, err
	}
	if !entry.Complete {
		return Manifest{}, failure(KindIncomplete, "archive %s is not complete: %s", ref, entry.Reason)
	}
	return *entry.Manifest, nil
}

// Entry returns what is known of one archive, complete or not; an error of KindNotFound when nothing is there.
func (s *Store) Entry(ctx context.Context, ref Ref) (Entry, error) {
	if err := ref.check(); err != nil {
		return Entry{}, err
	}
	entry, err := s.inspect(ctx, ref)
	if err == nil && entry.Manifest == nil && entry.Reason == reasonNothing {
		found := false
		entry.Reason = reasonNoObject
		err = s.keys(ctx, s.key(ref, ""), func(key string, _ int64, _ time.Time) {
			found = true
			if key == s.key(ref, stateName) {
				entry.Reason = reasonUnderWay
			}
		})
		if err == nil && !found {
			err = failure(KindNotFound, "archive %s does not exist: see the list of archives", ref)
		}
	}
	return entry, err
}

const (
	reasonNothing    = "neither manifest nor object is there"
	reasonNoManifest = "the manifest is missing: the transfer did not end, or the deletion was interrupted"
	reasonNoObject   = "the object is missing"
	reasonUnderWay   = "the transfer has not ended"
)

// inspect looks at the objects of one archive.
func (s *Store) inspect(ctx context.Context, ref Ref) (Entry, error) {
	entry := Entry{Ref: ref}
	object, err := s.head(ctx, s.key(ref, exportName))
	there := err == nil
	if err != nil && !IsKind(err, KindNotFound) {
		return entry, err
	}
	entry.Size, entry.Modified = object.size, object.modified
	data, err := s.get(ctx, s.key(ref, manifestName), maxManifest)
	switch {
	case IsKind(err, KindNotFound) && there:
		entry.Reason = reasonNoManifest
		return entry, nil
	case IsKind(err, KindNotFound):
		entry.Reason = reasonNothing
		return entry, nil
	case IsKind(err, KindCorrupt):
		entry.Reason = err.Error()
		return entry, nil
	case err != nil:
		return entry, err
	}
	manifest, err := ParseManifest(data)
	if err != nil {
		entry.Reason = err.Error()
		return entry, nil
	}
	entry.Manifest = &manifest
	switch {
	case manifest.Ref != ref:
		entry.Reason = "the manifest is of archive " + manifest.Ref.String()
	case !there:
		entry.Reason = reasonNoObject
	default:
		entry.Reason = s.disagrees(manifest.Stored, object)
	}
	entry.Complete = entry.Reason == ""
	if !entry.Complete {
		return entry, nil
	}
	entry.Verified, err = s.readVerification(ctx, ref, sha256.Sum256(data))
	return entry, err
}

// List returns the archives of a cluster, of all clusters for "", the newest first, and apart from them what is not one, with the reason. An upload
// under way is among the latter from its begin. The manifests are without their parts and the names of their content, which of some hundred large
// archives would not fit into a worker's memory; Entry and Manifest have them.
func (s *Store) List(ctx context.Context, cluster string) (archives, incomplete []Entry, err error) {
	seen := map[Ref]bool{}
	err = s.keys(ctx, s.folder(cluster), func(key string, _ int64, _ time.Time) {
		if ref, _, ok := s.parseKey(key); ok && ref.check() == nil {
			seen[ref] = true
		}
	})
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for ref := range seen {
		group.Go(func() error {
			entry, err := s.inspect(groupCtx, ref)
			if err != nil {
				return err
			}
			if m := entry.Manifest; m != nil {
				m.Parts = nil
				if m.Content != nil {
					m.Content.List = nil
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if entry.Complete {
				archives = append(archives, entry)
			} else {
				if entry.Reason == reasonNothing {
					entry.Reason = reasonUnderWay
				}
				incomplete = append(incomplete, entry)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(archives, newestFirst)
	slices.SortFunc(incomplete, newestFirst)
	return archives, incomplete, nil
}

func newestFirst(a, b Entry) int {
	return cmp.Or(b.started().Compare(a.started()), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Operation, b.Operation))
}

// Verification is the result of reading an archive back whole.
type Verification struct {
	// At is when it ended.
	At time.Time `json:"at"`
	// OK says that all sums agreed; Problem is the first that did not.
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
	// Bytes of the object that were read.
	Bytes int64 `json:"bytes"`
	// StoredSHA256 of the whole object, in hexadecimal.
	StoredSHA256 string `json:"stored_sha256,omitempty"`
	// SHA256 of the whole export, in hexadecimal; not there when the archive is encrypted and was read without an identity.
	SHA256 string `json:"sha256,omitempty"`
	// ManifestSHA256 is of the manifest it was compared with.
	ManifestSHA256 string `json:"manifest_sha256"`
	// Who asked for it.
	Who string `json:"who,omitempty"`
}

// readVerification returns what the last verification of this manifest found, nil when there was none.
func (s *Store) readVerification(ctx context.Context, ref Ref, manifest Sum) (*Verification, error) {
	data, err := s.get(ctx, s.key(ref, verifiedName), 64<<10)
	if IsKind(err, KindNotFound) || IsKind(err, KindCorrupt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var v Verification
	if json.NewDecoder(bytes.NewReader(data)).Decode(&v) != nil || v.ManifestSHA256 != manifest.String() {
		return nil, nil
	}
	v.Problem, v.Who = remote.Escape(v.Problem), remote.Escape(v.Who)
	return &v, nil
}
