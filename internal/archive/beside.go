package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/katoflow/katoflow/internal/remote"
)

// What is remembered of an archive lies beside its manifest as an object of its own, which says by a digest which manifest it is about: an archive that was made anew has
// none of it.

// maxBeside bounds what is read of such an object, in bytes.
const maxBeside = 64 << 10

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

// Rehearsal is the result of importing an archive into a cluster whose content may be thrown away.
type Rehearsal struct {
	// At is when it ended.
	At time.Time `json:"at"`
	// OK says that the archive is proven restorable: all that its manifest has was there afterwards, and every app ran that was started; Problem is why not, in one line.
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
	// Operation that rehearsed, and Cluster that was imported into.
	Operation string `json:"operation"`
	Cluster   string `json:"cluster"`
	// AppsRunning and AppsFailed of those that were started before the export.
	AppsRunning int `json:"apps_running"`
	AppsFailed  int `json:"apps_failed"`
	// KatoVersion of the archive, and PlatformVersion of the cluster that was imported into, as its Cloud Controller told it.
	KatoVersion     string `json:"kato_version,omitempty"`
	PlatformVersion string `json:"platform_version,omitempty"`
	// ManifestSHA256 is of the manifest that what came back was held against.
	ManifestSHA256 string `json:"manifest_sha256"`
	// Who asked for it.
	Who string `json:"who,omitempty"`
}

// readBeside reads what is remembered under a name of the archive with this manifest; nil when there is none, or when it is about another manifest.
func readBeside[T any](ctx context.Context, s *Store, ref Ref, name string, manifest string, about func(*T) string) (*T, error) {
	data, err := s.get(ctx, s.key(ref, name), maxBeside)
	if IsKind(err, KindNotFound) || IsKind(err, KindCorrupt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := new(T)
	if json.NewDecoder(bytes.NewReader(data)).Decode(v) != nil || about(v) != manifest {
		return nil, nil
	}
	return v, nil
}

// writeBeside remembers it. It is not locked, and written anew each time.
func (s *Store) writeBeside(ctx context.Context, ref Ref, name string, what any) error {
	data, err := json.MarshalIndent(what, "", " ")
	if err != nil {
		return err
	}
	return s.put(ctx, s.key(ref, name), append(data, '\n'), false)
}

// readVerification returns what the last verification of this manifest found, nil when there was none.
func (s *Store) readVerification(ctx context.Context, ref Ref, manifest string) (*Verification, error) {
	v, err := readBeside(ctx, s, ref, verifiedName, manifest, func(v *Verification) string { return v.ManifestSHA256 })
	if v != nil {
		v.Problem, v.Who = remote.Escape(v.Problem), remote.Escape(v.Who)
	}
	return v, err
}

// readRehearsal returns what the last rehearsal with this manifest found, nil when there was none.
func (s *Store) readRehearsal(ctx context.Context, ref Ref, manifest string) (*Rehearsal, error) {
	r, err := readBeside(ctx, s, ref, rehearsedName, manifest, func(r *Rehearsal) string { return r.ManifestSHA256 })
	if r != nil {
		for _, text := range []*string{&r.Problem, &r.Operation, &r.Cluster, &r.KatoVersion, &r.PlatformVersion, &r.Who} {
			*text = remote.Escape(*text)
		}
	}
	return r, err
}

// KeepRehearsal remembers a rehearsal beside the manifest, and returns what is remembered then: that of a later rehearsal stays. Repeating it writes the same again.
// Errors: KindNotFound and KindIncomplete when the archive is not there any more; KindConflict when it has another manifest by now than the one that r is about.
func (s *Store) KeepRehearsal(ctx context.Context, ref Ref, r Rehearsal) (Rehearsal, error) {
	if r.At.IsZero() || r.ManifestSHA256 == "" {
		return Rehearsal{}, badInput("rehearsal of archive %s: its time, or the digest of its manifest, is missing", ref)
	}
	entry, err := s.Entry(ctx, ref)
	switch {
	case err != nil:
		return Rehearsal{}, err
	case !entry.Complete:
		return Rehearsal{}, failure(KindIncomplete, "archive %s is not complete: %s", ref, entry.Reason)
	case entry.ManifestSHA256 != r.ManifestSHA256:
		return Rehearsal{}, failure(KindConflict, "archive %s has another manifest by now than the one that was rehearsed: rehearse it again", ref)
	case entry.Rehearsed != nil && entry.Rehearsed.At.After(r.At):
		return *entry.Rehearsed, nil
	}
	r.At = r.At.UTC()
	return r, s.writeBeside(ctx, ref, rehearsedName, r)
}

// Proven says that the archive was imported and everything was there afterwards, and that it is not known to be damaged since.
func (e Entry) Proven() bool {
	return e.Complete && e.Manifest != nil && e.Rehearsed != nil && e.Rehearsed.OK && (e.Verified == nil || e.Verified.OK)
}

// LastProven returns the newest archive of each sort of export that is proven restorable.
func LastProven(archives []Entry) map[Ref]bool {
	newest := map[string]Entry{}
	for _, e := range archives {
		if !e.Proven() {
			continue
		}
		sort := sortOf(*e.Manifest)
		if had, ok := newest[sort]; !ok || newestFirst(e, had) < 0 {
			newest[sort] = e
		}
	}
	out := map[Ref]bool{}
	for _, e := range newest {
		out[e.Ref] = true
	}
	return out
}

// LastProven returns when the export of the newest archive of a cluster began that is proven restorable; the zero time when there is none. It looks only at archives that were
// rehearsed.
func (s *Store) LastProven(ctx context.Context, cluster string) (time.Time, error) {
	var rehearsed []Ref
	err := s.keys(ctx, s.folder(cluster), func(key string, _ int64, _ time.Time) {
		if ref, name, ok := s.parseKey(key); ok && name == rehearsedName && ref.check() == nil {
			rehearsed = append(rehearsed, ref)
		}
	})
	if err != nil {
		return time.Time{}, err
	}
	var last time.Time
	for _, ref := range rehearsed {
		entry, err := s.inspect(ctx, ref, true)
		if err != nil {
			return time.Time{}, err
		}
		if entry.Proven() && entry.Manifest.Started.After(last) {
			last = entry.Manifest.Started
		}
	}
	return last, nil
}
