package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
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
	// Rehearsed is what the last rehearsal found, nil when there was none with this manifest.
	Rehearsed *Rehearsal `json:"rehearsed,omitempty"`
	// ManifestSHA256 is of the manifest as it is stored, in hexadecimal.
	ManifestSHA256 string `json:"manifest_sha256,omitempty"`
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
	entry, err := s.inspect(ctx, m.Ref, false)
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
	entry, err := s.inspect(ctx, ref, true)
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

// inspect looks at the objects of one archive; at what a rehearsal has left only where there may be something.
func (s *Store) inspect(ctx context.Context, ref Ref, rehearsed bool) (Entry, error) {
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
	entry.ManifestSHA256 = Sum(sha256.Sum256(data)).String()
	if entry.Verified, err = s.readVerification(ctx, ref, entry.ManifestSHA256); err == nil && rehearsed {
		entry.Rehearsed, err = s.readRehearsal(ctx, ref, entry.ManifestSHA256)
	}
	return entry, err
}

// List returns the archives of a cluster, of all clusters for "", the newest first, and apart from them what is not one, with the reason. An upload
// under way is among the latter from its begin. The manifests are without their parts and the names of their content, which of some hundred large
// archives would not fit into a worker's memory; Entry and Manifest have them.
func (s *Store) List(ctx context.Context, cluster string) (archives, incomplete []Entry, err error) {
	seen := map[Ref]bool{} // whether it was rehearsed
	err = s.keys(ctx, s.folder(cluster), func(key string, _ int64, _ time.Time) {
		if ref, name, ok := s.parseKey(key); ok && ref.check() == nil {
			seen[ref] = seen[ref] || name == rehearsedName
		}
	})
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for ref, rehearsed := range seen {
		group.Go(func() error {
			entry, err := s.inspect(groupCtx, ref, rehearsed)
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
