package inventory

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoad_Examples_AreValid(t *testing.T) {
	examples, err := filepath.Glob("../../deploy/examples/inventory*.yaml")
	require.NoError(t, err)
	require.Len(t, examples, 2)
	for _, path := range examples {
		_, err := Load(path)
		require.NoError(t, err)
	}
}
