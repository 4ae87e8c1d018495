package cloudcontroller

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuildpacks_OwnOnes_AreListedAndLost(t *testing.T) {
	c := New(Options{})
	c.AddUser("somebody@example.org", "pass", false)
	api := start(t, c, false)
	standard := c.Buildpacks()
	require.Contains(t, standard, "java_buildpack")
	c.AddBuildpack(Buildpack{Name: "first", Position: 1, Filename: "first-v2.zip", Locked: true})
	c.AddBuildpack(Buildpack{Name: "last", Disabled: true})
	require.Equal(t, append(append([]string{"first"}, standard...), "last"), c.Buildpacks())

	token := api.login(c.User(), c.Password())
	status, page := api.do("GET", "/v2/buildpacks?results-per-page=2", token, "")
	require.Equal(t, 200, status)
	require.EqualValues(t, len(standard)+2, page["total_results"])
	require.Contains(t, page["next_url"], "/v2/buildpacks?")
	entity := page["resources"].([]any)[0].(map[string]any)["entity"]
	require.Equal(t, map[string]any{"name": "first", "position": 1.0, "enabled": true, "locked": true, "filename": "first-v2.zip"}, entity)
	status, page = api.do("GET", "/v2/buildpacks?q=name:last", token, "")
	require.Equal(t, 200, status)
	entity = page["resources"].([]any)[0].(map[string]any)["entity"]
	require.Equal(t, map[string]any{"name": "last", "position": float64(len(standard) + 2), "enabled": false, "locked": false, "filename": "last.zip"}, entity)
	status, _ = api.do("GET", "/v2/buildpacks", api.login("somebody@example.org", "pass"), "")
	require.Equal(t, 403, status)

	c.LoseBuildpacks()
	require.Equal(t, standard, c.Buildpacks())
}
