package archive

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/remote"
)

const (
	// setsFolder is no cluster's: no encoded name begins with a dot.
	setsFolder = ".snapshots"
	// maxSet bounds what is read as a manifest of a set of snapshots, in bytes.
	maxSet = 8 << 20
)

// SnapshotSetKey returns the key of the manifest of a set of snapshots: PREFIX/.snapshots/CLUSTER/OPERATION.json, encoded as remote.EncodeID does.
func (s *Store) SnapshotSetKey(ref Ref) string {
	return s.setsOf(ref.Cluster) + remote.EncodeID(ref.Operation) + ".json"
}

func (s *Store) setsOf(cluster string) string {
	return s.folder("") + setsFolder + "/" + remote.EncodeID(cluster) + "/"
}

// KeepSnapshotSet writes the manifest of a set of snapshots; an earlier one of the same operation is replaced. It is in no list of archives. Its errors are those of Check.
func (s *Store) KeepSnapshotSet(ctx context.Context, ref Ref, manifest []byte) error {
	if err := ref.check(); err != nil {
		return err
	}
	return s.put(ctx, s.SnapshotSetKey(ref), manifest, false)
}

// SnapshotSet reads the manifest of a set; an error of KindNotFound when there is none.
func (s *Store) SnapshotSet(ctx context.Context, ref Ref) ([]byte, error) {
	if err := ref.check(); err != nil {
		return nil, err
	}
	return s.get(ctx, s.SnapshotSetKey(ref), maxSet)
}

// SnapshotSets returns the sets of a cluster that have a manifest, the last written first.
func (s *Store) SnapshotSets(ctx context.Context, cluster string) ([]Ref, error) {
	type written struct {
		ref Ref
		at  time.Time
	}
	var found []written
	folder := s.setsOf(cluster)
	err := s.keys(ctx, folder, func(key string, _ int64, modified time.Time) {
		name, ok := strings.CutSuffix(strings.TrimPrefix(key, folder), ".json")
		id, err := remote.DecodeID(name)
		if ref := (Ref{Cluster: cluster, Operation: id}); ok && err == nil && ref.check() == nil {
			found = append(found, written{ref, modified})
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(found, func(a, b written) int { return b.at.Compare(a.at) })
	refs := make([]Ref, len(found))
	for i, f := range found {
		refs[i] = f.ref
	}
	return refs, nil
}

// ForgetSnapshotSet removes the manifest of a set; one that is not there is no error.
func (s *Store) ForgetSnapshotSet(ctx context.Context, ref Ref) error {
	if err := ref.check(); err != nil {
		return err
	}
	return s.remove(ctx, s.SnapshotSetKey(ref))
}
