package katodouble

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConfigChanges_SetsOfTwoKatos_KeepBothKeys(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change [2]func(map[string]any)
		want   string
	}{
		{"new component", [2]func(map[string]any){
			func(m map[string]any) { m["new"] = map[string]any{"deep": map[string]any{"a": 1}} },
			func(m map[string]any) { m["new"] = map[string]any{"deep": map[string]any{"b": []any{2}}} },
		}, `{"cluster":{"x":"y"},"cloud_controller_ng":{"on":false},"new":{"deep":{"a":1,"b":[2]}}}`},
		{"a value becomes a struct", [2]func(map[string]any){
			func(m map[string]any) { m["cluster"].(map[string]any)["x"] = map[string]any{"z": 1} },
			func(m map[string]any) { m["cloud_controller_ng"].(map[string]any)["on"] = true },
		}, `{"cluster":{"x":{"z":1}},"cloud_controller_ng":{"on":true}}`},
		{"one deletes", [2]func(map[string]any){
			func(m map[string]any) { delete(m["cluster"].(map[string]any), "x") },
			func(m map[string]any) { m["cluster"].(map[string]any)["e"] = map[string]any{} },
		}, `{"cluster":{"e":{}},"cloud_controller_ng":{"on":false}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, order := range [][2]int{{0, 1}, {1, 0}} {
				c := New("3.4.2")
				before := map[string]any{"cluster": map[string]any{"x": "y"}, "cloud_controller_ng": map[string]any{"on": false}}
				c.SetConfig(before)
				for _, i := range order {
					after := clone(before).(map[string]any)
					tc.change[i](after)
					require.NoError(t, c.ChangeConfig(configChanges(before, after)))
				}
				b, err := json.Marshal(c.Config())
				require.NoError(t, err)
				require.JSONEq(t, tc.want, string(b))
			}
		})
	}
}

func TestReadSite_Mistakes_AreNamed(t *testing.T) {
	good := `{"id":"10.0.0.2","version":"3.4.2","role_start":"2s","nodes":[{"id":"10.0.0.1","name":"core","roles":["primary"]},{"id":"10.0.0.2","name":"dea","roles":["dea"],"apps":4}]}`
	path := filepath.Join(t.TempDir(), "node.json")
	read := func(text string) (*Site, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return ReadSite(path)
	}
	s, err := read(good)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1:9090", s.core().address())
	require.Equal(t, StateDir, s.Dir)
	for old, changed := range map[string][2]string{
		`"id":"10.0.0.2","version"`: {`"id":"10.0.0.9","version"`, "10.0.0.9"},
		`"2s"`:                      {`"2"`, "role_start"},
		`"roles":["dea"]`:           {`"roles":["deo"]`, "deo"},
		`"apps":4`:                  {`"app":4`, "app"},
		`{"id":"10.0.0.1"`:          {`{"id":"10.0.0.2"`, "used twice"},
	} {
		text := strings.Replace(good, old, changed[0], 1)
		require.NotEqual(t, good, text)
		_, err := read(text)
		require.ErrorContains(t, err, changed[1])
		require.ErrorContains(t, err, path)
	}
}

func TestAgent_StateOfItsFile_IsTakenOverAndABrokenOneRefused(t *testing.T) {
	site := &Site{ID: "10.0.0.1", Version: "3.4.2", Dir: t.TempDir(), Nodes: []SiteNode{{ID: "10.0.0.1", Name: "core", Roles: []string{"primary", "dea"}, Apps: 2}}}
	a, err := NewAgent(site)
	require.NoError(t, err)
	three := 3
	require.NoError(t, a.change(func() error { return a.c.PatchNode(site.ID, StatePatch{Apps: &three, Stop: []string{"dea"}}) }))
	again, err := NewAgent(site)
	require.NoError(t, err)
	s, _ := again.c.NodeState(site.ID)
	require.Equal(t, 3, s.Apps)
	require.Empty(t, s.Stopped, "a boot starts the roles")
	left, err := filepath.Glob(filepath.Join(site.Dir, "*new*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, os.WriteFile(filepath.Join(site.Dir, "state.json"), []byte("{"), 0o600))
	_, err = NewAgent(site)
	require.ErrorContains(t, err, "state.json")
}
