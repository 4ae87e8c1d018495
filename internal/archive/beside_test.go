package archive

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
)

// rehearsalOf is one of the archive as it is now.
func rehearsalOf(t *testing.T, s *Store, ref Ref, at time.Time, ok bool) Rehearsal {
	t.Helper()
	entry, err := s.Entry(t.Context(), ref)
	require.NoError(t, err)
	return Rehearsal{At: at, OK: ok, Operation: "op-" + at.Format("1504"), Cluster: "scratch", ManifestSHA256: entry.ManifestSHA256, AppsRunning: 3}
}

func TestKeepRehearsal_OfAnArchive_IsListedAndOnlyALaterOneTakesItsPlace(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	ref := Ref{"prod", "1"}
	keep(t, s, Upload{Ref: ref, Source: newMemory(1, mib)})
	rehearsed := func() *Rehearsal {
		archives, _, err := s.List(t.Context(), "prod")
		require.NoError(t, err)
		require.Len(t, archives, 1)
		entry, err := s.Entry(t.Context(), ref)
		require.NoError(t, err)
		require.Equal(t, entry.Rehearsed, archives[0].Rehearsed)
		return entry.Rehearsed
	}
	require.Nil(t, rehearsed())
	require.Zero(t, b.Proxy.Count("GET rehearsed.json")-1, "a list asks for none where there is none")
	last, err := s.LastProven(t.Context(), "prod")
	require.NoError(t, err)
	require.Zero(t, last)

	at := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	first := rehearsalOf(t, s, ref, at, true)
	for range 2 {
		kept, err := s.KeepRehearsal(t.Context(), ref, first)
		require.NoError(t, err)
		require.Equal(t, first, kept)
		require.Equal(t, &first, rehearsed())
	}
	last, err = s.LastProven(t.Context(), "prod")
	require.NoError(t, err)
	require.Equal(t, manifestOf(ref, Stored{}).Started, last, "the time of the export")
	last, err = s.LastProven(t.Context(), "other")
	require.NoError(t, err)
	require.Zero(t, last)

	bad := rehearsalOf(t, s, ref, at.Add(time.Hour), false)
	bad.Problem = "6 things of the archive not there\n\x1b[2J"
	_, err = s.KeepRehearsal(t.Context(), ref, bad)
	require.NoError(t, err)
	require.Equal(t, `6 things of the archive not there\n\x1b[2J`, rehearsed().Problem)
	// That of an operation which ended before comes late.
	kept, err := s.KeepRehearsal(t.Context(), ref, first)
	require.NoError(t, err)
	require.Equal(t, "op-1000", kept.Operation)
	require.False(t, rehearsed().OK)
	last, err = s.LastProven(t.Context(), "prod")
	require.NoError(t, err)
	require.Zero(t, last)

	_, err = s.KeepRehearsal(t.Context(), ref, rehearsalOf(t, s, ref, at.Add(2*time.Hour), true))
	require.NoError(t, err)
	require.NoError(t, s.writeBeside(t.Context(), ref, verifiedName, Verification{ManifestSHA256: first.ManifestSHA256, Problem: "part 1 is not what was written"}))
	last, err = s.LastProven(t.Context(), "prod")
	require.NoError(t, err)
	require.Zero(t, last, "damaged since")
	require.NoError(t, s.Delete(t.Context(), ref, false))
	keys, err := b.Keys(t.Context())
	require.NoError(t, err)
	require.Empty(t, keys)
}

func TestKeepRehearsal_OfWhatIsAnotherArchiveByNow_IsRefused(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	ref := Ref{"prod", "1"}
	keep(t, s, Upload{Ref: ref, Source: newMemory(1, mib)})
	r := rehearsalOf(t, s, ref, time.Now(), true)
	_, err := s.KeepRehearsal(t.Context(), ref, r)
	require.NoError(t, err)
	key := s.key(ref, rehearsedName)
	data, err := s.get(t.Context(), key, maxBeside)
	require.NoError(t, err)

	require.NoError(t, s.Delete(t.Context(), ref, false))
	_, err = s.KeepRehearsal(t.Context(), ref, r)
	require.True(t, IsKind(err, KindNotFound), "%v", err)
	keep(t, s, Upload{Ref: ref, Source: newMemory(2, mib)})
	_, err = s.KeepRehearsal(t.Context(), ref, r)
	require.True(t, IsKind(err, KindConflict), "%v", err)
	// What lies beside the archive, and is about another one or is nothing at all, counts as none.
	for _, content := range []string{string(data), "{", strings.Repeat(" ", maxBeside+1), "null"} {
		require.NoError(t, s.put(t.Context(), key, []byte(content), false))
		entry, err := s.Entry(t.Context(), ref)
		require.NoError(t, err)
		require.True(t, entry.Complete)
		require.Nil(t, entry.Rehearsed)
	}
	_, err = s.KeepRehearsal(t.Context(), ref, Rehearsal{OK: true})
	require.True(t, IsKind(err, KindBadInput), "%v", err)
	b.Proxy.Fail("PUT rehearsed.json", archivetest.Always, archivetest.AccessDenied)
	_, err = s.KeepRehearsal(t.Context(), ref, rehearsalOf(t, s, ref, time.Now(), true))
	require.True(t, IsKind(err, KindAccessDenied), "%v", err)
}
