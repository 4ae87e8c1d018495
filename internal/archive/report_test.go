package archive

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport_OfAnOperation_IsKeptAndInNoListOfArchives(t *testing.T) {
	s := newBucket(t, false).open(t)
	ref := Ref{"prod", "op-1"}
	_, err := s.Report(t.Context(), ref)
	require.True(t, IsKind(err, KindNotFound), "%v", err)
	require.NoError(t, s.KeepReport(t.Context(), ref, []byte(`{"phase":"running"}`)))
	require.NoError(t, s.KeepReport(t.Context(), ref, []byte(`{"phase":"done"}`)))
	got, err := s.Report(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, `{"phase":"done"}`, string(got))

	for _, cluster := range []string{"", "prod"} {
		archives, incomplete, err := s.List(t.Context(), cluster)
		require.NoError(t, err)
		require.Empty(t, archives)
		require.Empty(t, incomplete, "a report is no half archive")
	}
	_, err = s.Entry(t.Context(), ref)
	require.True(t, IsKind(err, KindNotFound), "%v", err)
	require.True(t, IsKind(s.KeepReport(t.Context(), Ref{"prod", ""}, nil), KindBadInput))
}
