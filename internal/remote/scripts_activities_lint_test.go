package remote

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The scripts of package activities keep to the same subset.
func TestScripts_OfActivities_AreInTheSubset(t *testing.T) {
	names, err := filepath.Glob("../../activities/scripts/*.sh")
	require.NoError(t, err)
	require.Greater(t, len(names), 10)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Empty(t, lint(filepath.Base(name), string(b)))
		require.Less(t, len(b), 6<<10, "%s is too long to be read", name)
	}
}
