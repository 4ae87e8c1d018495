package archive

import (
	"context"
	"io"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
)

// keeper is what every back end that keeps archives must be able to do.
type keeper interface {
	Check(ctx context.Context) error
	Upload(ctx context.Context, up Upload) (Stored, error)
	Finish(ctx context.Context, m Manifest) (Manifest, error)
	List(ctx context.Context, cluster string) (archives, incomplete []Entry, err error)
	Manifest(ctx context.Context, ref Ref) (Manifest, error)
	Open(ctx context.Context, ref Ref, o OpenOptions) (*Reader, error)
	Verify(ctx context.Context, ref Ref, identities []age.Identity, who string, progress func(int64)) (Verification, error)
	Delete(ctx context.Context, ref Ref, force bool) error
	Abort(ctx context.Context, ref Ref) error
}

func TestStore_OnS3_ConformsToTheSuite(t *testing.T) {
	conformance(t, func(t *testing.T) keeper { return newBucket(t, false).open(t) })
}

// conformance holds a back end to what archives promise. make returns an empty one.
func conformance(t *testing.T, make func(t *testing.T) keeper) {
	ref := Ref{"prod.1", "backup-prod.1/2026-11-22T03:00:00Z"}

	t.Run("Check_OfAnEmptyStore_LeavesNothing", func(t *testing.T) {
		k := make(t)
		require.NoError(t, k.Check(t.Context()))
		archives, incomplete, err := k.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, archives)
		require.Empty(t, incomplete)
	})

	for name, size := range map[string]int{
		"one byte": 1, "less than a part": mib + 7, "one part": 5 * mib, "a part and a byte": 5*mib + 1, "whole parts": 10 * mib, "three parts": 13*mib + 11,
	} {
		t.Run("RoundTrip_Of "+name+"_ReturnsTheSourcesBytes", func(t *testing.T) {
			k := make(t)
			source := newMemory(1, size)
			stored, err := k.Upload(t.Context(), Upload{Ref: ref, Source: source, SHA256: source.sha256(), PartSize: 5 * mib, Parallel: 2})
			require.NoError(t, err)
			require.Equal(t, source.sha256(), stored.SHA256)
			written, err := k.Finish(t.Context(), manifestOf(ref, stored))
			require.NoError(t, err)
			read, err := k.Manifest(t.Context(), ref)
			require.NoError(t, err)
			require.Equal(t, written, read)
			requireExport(t, k, ref, OpenOptions{}, source.data)
			verified, err := k.Verify(t.Context(), ref, nil, "a test", nil)
			require.NoError(t, err)
			require.True(t, verified.OK)
			require.Equal(t, source.sha256(), verified.SHA256)
			require.Equal(t, int64(size), verified.Bytes)
		})
	}

	t.Run("Upload_WithoutFinish_IsNotListed", func(t *testing.T) {
		k := make(t)
		stored, err := k.Upload(t.Context(), Upload{Ref: ref, Source: newMemory(2, mib)})
		require.NoError(t, err)
		archives, incomplete, err := k.List(t.Context(), ref.Cluster)
		require.NoError(t, err)
		require.Empty(t, archives)
		require.Len(t, incomplete, 1)
		require.Equal(t, ref, incomplete[0].Ref)
		require.Contains(t, incomplete[0].Reason, "the manifest is missing")
		_, err = k.Manifest(t.Context(), ref)
		require.True(t, IsKind(err, KindIncomplete), "%v", err)
		_, err = k.Open(t.Context(), ref, OpenOptions{})
		require.True(t, IsKind(err, KindIncomplete), "%v", err)

		_, err = k.Finish(t.Context(), manifestOf(ref, stored))
		require.NoError(t, err)
		archives, incomplete, err = k.List(t.Context(), ref.Cluster)
		require.NoError(t, err)
		require.Len(t, archives, 1)
		require.Empty(t, incomplete)
		other, _, err := k.List(t.Context(), "prod")
		require.NoError(t, err)
		require.Empty(t, other, "another cluster whose name begins alike")
	})

	t.Run("UploadAndFinish_Repeated_ChangeNothing", func(t *testing.T) {
		k := make(t)
		source := newMemory(3, 6*mib)
		first, err := k.Upload(t.Context(), Upload{Ref: ref, Source: source, PartSize: 5 * mib})
		require.NoError(t, err)
		again, err := k.Upload(t.Context(), Upload{Ref: ref, Source: source, PartSize: 5 * mib})
		require.NoError(t, err)
		require.Equal(t, first, again)
		m, err := k.Finish(t.Context(), manifestOf(ref, first))
		require.NoError(t, err)
		later := manifestOf(ref, first)
		later.Ended = later.Ended.Add(1e9)
		m2, err := k.Finish(t.Context(), later)
		require.NoError(t, err)
		require.Equal(t, m, m2, "the first manifest stays")
		again, err = k.Upload(t.Context(), Upload{Ref: ref, Source: source})
		require.NoError(t, err)
		require.Equal(t, first, again)
		_, err = k.Upload(t.Context(), Upload{Ref: ref, Source: newMemory(4, 6*mib)})
		require.True(t, IsKind(err, KindConflict), "%v", err)
		requireExport(t, k, ref, OpenOptions{}, source.data)
	})

	t.Run("Open_FromAnOffset_ReturnsTheRest", func(t *testing.T) {
		k := make(t)
		source := newMemory(5, 11*mib)
		keep(t, k, Upload{Ref: ref, Source: source, PartSize: 5 * mib})
		for _, offset := range []int64{0, 1, 5*mib - 1, 5 * mib, 5*mib + 1, 11*mib - 1, 11 * mib} {
			requireExport(t, k, ref, OpenOptions{Offset: offset}, source.data[offset:])
		}
		_, err := k.Open(t.Context(), ref, OpenOptions{Offset: 11*mib + 1})
		require.True(t, IsKind(err, KindBadInput), "%v", err)
	})

	t.Run("Encrypted_WithItsIdentity_ReturnsTheSourcesBytes", func(t *testing.T) {
		k := make(t)
		source := newMemory(6, 11*mib+3)
		identity, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		m := keep(t, k, Upload{Ref: ref, Source: source, PartSize: 5 * mib, Recipients: []string{identity.Recipient().String()}})
		require.Greater(t, m.StoredSize, m.Size)
		ids := []age.Identity{identity}
		requireExport(t, k, ref, OpenOptions{Identities: ids}, source.data)
		requireExport(t, k, ref, OpenOptions{Identities: ids, Offset: 7 * mib}, source.data[7*mib:])
		verified, err := k.Verify(t.Context(), ref, ids, "", nil)
		require.NoError(t, err)
		require.Equal(t, source.sha256(), verified.SHA256)
		verified, err = k.Verify(t.Context(), ref, nil, "", nil)
		require.NoError(t, err)
		require.Empty(t, verified.SHA256, "nobody saw the plaintext")
		require.True(t, verified.OK)
		_, err = k.Open(t.Context(), ref, OpenOptions{})
		require.True(t, IsKind(err, KindDecrypt), "%v", err)
		stranger, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		_, err = k.Verify(t.Context(), ref, []age.Identity{stranger}, "", nil)
		require.True(t, IsKind(err, KindDecrypt), "%v", err)
	})

	t.Run("Source_ThatChanges_LeavesNoArchive", func(t *testing.T) {
		for name, change := range map[string]func(m *memory){
			"grows":                func(m *memory) { m.data = append(m.data, 1) },
			"shrinks":              func(m *memory) { m.data = m.data[:len(m.data)-mib] },
			"has other bytes":      func(m *memory) { m.data[12*mib] ^= 1 },
			"had other bytes sent": func(m *memory) { m.data[0] ^= 1 },
			"is touched":           func(m *memory) { m.modified = m.modified.Add(1) },
		} {
			t.Run(name, func(t *testing.T) {
				k := make(t)
				source := newMemory(7, 13*mib)
				sha := source.sha256()
				source.onRead = func(offset int64) {
					if offset == 5*mib {
						source.change(func() { source.data = append([]byte(nil), source.data...); change(source) })
					}
				}
				_, err := k.Upload(t.Context(), Upload{Ref: ref, Source: source, SHA256: sha, PartSize: 5 * mib, Parallel: 1})
				require.True(t, IsKind(err, KindSourceChanged), "%v", err)
				archives, incomplete, err := k.List(t.Context(), "")
				require.NoError(t, err)
				require.Empty(t, archives)
				require.Empty(t, incomplete, "nobody can go on with it")
			})
		}
	})

	t.Run("Delete_OfAnArchive_RemovesIt", func(t *testing.T) {
		k := make(t)
		source := newMemory(8, mib)
		keep(t, k, Upload{Ref: ref, Source: source})
		_, err := k.Verify(t.Context(), ref, nil, "", nil)
		require.NoError(t, err)
		require.NoError(t, k.Delete(t.Context(), ref, false))
		archives, incomplete, err := k.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, archives)
		require.Empty(t, incomplete)
		require.True(t, IsKind(k.Delete(t.Context(), ref, false), KindNotFound))
		_, err = k.Manifest(t.Context(), ref)
		require.True(t, IsKind(err, KindNotFound), "%v", err)
		require.NoError(t, k.Delete(t.Context(), ref, true), "by force it may be gone")
	})

	t.Run("Delete_OfAnIncompleteOne_NeedsForce", func(t *testing.T) {
		k := make(t)
		_, err := k.Upload(t.Context(), Upload{Ref: ref, Source: newMemory(9, mib)})
		require.NoError(t, err)
		require.True(t, IsKind(k.Delete(t.Context(), ref, false), KindIncomplete))
		require.NoError(t, k.Delete(t.Context(), ref, true))
		_, incomplete, err := k.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, incomplete)
	})

	t.Run("BadInput_IsRefused_BeforeAnythingIsWritten", func(t *testing.T) {
		k := make(t)
		for name, up := range map[string]Upload{
			"no cluster":          {Ref: Ref{"", "x"}, Source: newMemory(1, 1)},
			"no operation":        {Ref: Ref{"x", ""}, Source: newMemory(1, 1)},
			"no source":           {Ref: ref},
			"small parts":         {Ref: ref, Source: newMemory(1, 1), PartSize: mib},
			"no sum":              {Ref: ref, Source: newMemory(1, 1), SHA256: "abc"},
			"recipient":           {Ref: ref, Source: newMemory(1, 1), Recipients: []string{"somebody"}},
			"secret as recipient": {Ref: ref, Source: newMemory(1, 1), Recipients: []string{"AGE-SECRET-KEY-1QQQ"}},
		} {
			_, err := k.Upload(t.Context(), up)
			require.True(t, IsKind(err, KindBadInput), "%s: %v", name, err)
			require.NotContains(t, err.Error(), "1QQQ")
		}
		_, err := k.Upload(t.Context(), Upload{Ref: ref, Source: newMemory(1, 0)})
		require.True(t, IsKind(err, KindSourceChanged), "%v", err)
		_, incomplete, err := k.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, incomplete)
	})
}

// keep uploads and finishes.
func keep(t *testing.T, k keeper, up Upload) Manifest {
	t.Helper()
	stored, err := k.Upload(t.Context(), up)
	require.NoError(t, err)
	m, err := k.Finish(t.Context(), manifestOf(up.Ref, stored))
	require.NoError(t, err)
	return m
}

// requireExport reads and compares, without printing megabytes when they differ.
func requireExport(t *testing.T, k keeper, ref Ref, o OpenOptions, want []byte) {
	t.Helper()
	r, err := k.Open(t.Context(), ref, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, string(got) == string(want), "%d bytes read, %d expected, or they differ", len(got), len(want))
}
