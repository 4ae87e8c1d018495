package inventory

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The files beside testdata/*.yaml are written by: go test -run TestParse_GoldenFiles ./internal/inventory -update
//
// A .json is the inventory with its defaults, a .problems is everything that is wrong with it.
func TestParse_GoldenFiles(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, inputs)
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(input)
			require.NoError(t, err)
			f, err := Parse(filepath.Base(input), data)
			var got []byte
			golden := "testdata/" + name + ".json"
			if err != nil {
				golden = "testdata/" + name + ".problems"
				got = []byte(err.Error() + "\n")
				var problems Problems
				require.True(t, errors.As(err, &problems))
				assert.NotContains(t, string(got), "hunter2", "a secret is repeated")
			} else {
				got, err = json.MarshalIndent(f, "", "  ")
				require.NoError(t, err)
				got = append(got, '\n')
			}
			assert.Equal(t, strings.HasPrefix(name, "bad-"), strings.HasSuffix(golden, ".problems"), "%s", got)
			if *update {
				require.NoError(t, os.WriteFile(golden, got, 0o644))
				return
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(got))
		})
	}
}
