package cloudcontroller

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func dump(t *testing.T, c *Controller) katodouble.Content {
	t.Helper()
	content, err := c.Dump(t.Context())
	require.NoError(t, err)
	return content
}

func TestLoad_OfAnotherControllersDump_MakesTheSame(t *testing.T) {
	from, to := New(Options{}), New(Options{Password: "another"})
	from.FillAsDemo()
	from.AddUser("eve", "demo", false)
	from.AddApp("shop", "production", App{Name: "env", State: "STOPPED", PackageState: "FAILED", Environment: map[string]string{"A": "b"}})
	content := dump(t, from)
	require.Len(t, content.Apps, 8)
	require.Len(t, content.Services, 5)
	b, err := json.Marshal(content)
	require.NoError(t, err)
	var read katodouble.Content
	require.NoError(t, json.Unmarshal(b, &read))
	require.NoError(t, to.Load(t.Context(), read))
	got := dump(t, to)
	require.Equal(t, "another", got.Users[0].Password, "an account that is there keeps its password")
	got.Users[0].Password = content.Users[0].Password
	require.ElementsMatch(t, content.Services, got.Services)
	content.Services, got.Services = nil, nil
	require.Equal(t, content, got)
	require.NoError(t, to.Load(t.Context(), read), "a second time changes nothing")
	require.Len(t, dump(t, to).Apps, 8)
	require.Error(t, to.Load(t.Context(), katodouble.Content{Apps: []katodouble.AppEntry{{Org: "a", Space: "b", Name: "c", State: "RUNNING"}}}))
}

func TestLoad_OverWhatIsThere_ReplacesTheSameNamesInPlace(t *testing.T) {
	c := New(Options{Maintenance: func() bool { return true }})
	first := c.AddApp("o", "s", App{Name: "first", Instances: 5})
	same := c.AddApp("o", "s", App{Name: "same"})
	renamed := c.AddApp("o", "s", App{Name: "renamed-since"})
	own := c.AddApp("o", "s", App{Name: "own", Instances: 7})
	c.FailApp(first, StagingFails, 1)
	c.BreakApp(same, StagingHangs)
	app := func(guid, name string) katodouble.AppEntry {
		return katodouble.AppEntry{GUID: guid, Org: "o", Space: "s", Name: name, State: "STOPPED", Instances: 2}
	}
	require.NoError(t, c.Load(t.Context(), katodouble.Content{Apps: []katodouble.AppEntry{app("archive-first", "first"), app("", "same"), app(renamed, "first-name")}}))
	require.Equal(t, "", c.AppState(first), "its guid is the archive's now")
	require.Equal(t, "archive-first", c.AppGUID("o", "s", "first"))
	require.Equal(t, same, c.AppGUID("o", "s", "same"))
	require.Equal(t, renamed, c.AppGUID("o", "s", "first-name"))
	require.Equal(t, "STARTED", c.AppState(own))
	require.Equal(t, []string{"STOPPED", "STOPPED", "STOPPED"}, []string{c.AppState("archive-first"), c.AppState(same), c.AppState(renamed)})
	apps := dump(t, c).Apps
	require.Len(t, apps, 4)
	require.Equal(t, "first", apps[0].Name, "in place")
	require.Equal(t, 2, apps[0].Instances)
	require.Equal(t, "STAGED", apps[1].PackageState, "the staging that was at work is over")
	require.Equal(t, "import", c.AppRecord(same)[0].What)
	require.Equal(t, 1, c.find("apps", "archive-first").life.faults[StagingFails], "faults stay")
	require.NoError(t, c.Load(t.Context(), katodouble.Content{Apps: []katodouble.AppEntry{app(own, "first")}}))
	require.Equal(t, own, c.AppGUID("o", "s", "first"))
	require.Equal(t, "", c.AppState("archive-first"), "two records cannot have one name")
	require.Equal(t, "", c.AppGUID("o", "s", "own"))
}

func TestRedeploy_OfAnApp_StagesItAnewAndLetsItRun(t *testing.T) {
	c := New(Options{})
	id := c.AddApp("o", "s", App{Name: "a", State: "STOPPED"})
	r := katodouble.Redeployment{Org: "o", Space: "s", App: "a", Seconds: 0.1}
	began := time.Now()
	require.NoError(t, c.Redeploy(t.Context(), r))
	require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	require.Equal(t, "STARTED", c.AppState(id))
	require.Equal(t, "STAGED", dump(t, c).Apps[0].PackageState)
	require.Equal(t, "redeploy", c.AppRecord(id)[0].What)

	r.Fails, r.Seconds = true, 0
	require.EqualError(t, c.Redeploy(t.Context(), r), "Staging error: staging failed")
	require.Equal(t, []string{"STARTED", "FAILED"}, []string{c.AppState(id), dump(t, c).Apps[0].PackageState})
	c.BreakApp(id, StagingHangs)
	c.HealApp(id)
	require.NoError(t, c.Redeploy(t.Context(), katodouble.Redeployment{Org: "o", Space: "s", App: "a"}))
	r.Stops = true
	require.Error(t, c.Redeploy(t.Context(), r))
	require.Equal(t, []string{"STOPPED", "STAGED"}, []string{c.AppState(id), dump(t, c).Apps[0].PackageState})

	r.Fails = false
	c.FailApp(id, StagingFails, 1)
	require.Error(t, c.Redeploy(t.Context(), r), "a fault of the app")
	c.FailApp(id, StartRefused, 1)
	require.ErrorContains(t, c.Redeploy(t.Context(), r), "bits have not been uploaded")
	c.FailApp(id, AppDeleted, 1)
	require.ErrorContains(t, c.Redeploy(t.Context(), r), "could not be found")
	require.ErrorContains(t, c.Redeploy(t.Context(), r), "could not be found")
}

func TestRedeploy_ThatIsGivenUp_LeavesTheStagingAtWork(t *testing.T) {
	c := New(Options{})
	id := c.AddApp("o", "s", App{Name: "a", State: "STOPPED"})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	require.ErrorIs(t, c.Redeploy(ctx, katodouble.Redeployment{Org: "o", Space: "s", App: "a", Seconds: 0.2}), context.DeadlineExceeded)
	require.Equal(t, "PENDING", dump(t, c).Apps[0].PackageState)
	require.Eventually(t, func() bool { return dump(t, c).Apps[0].PackageState == "STAGED" }, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, "STARTED", c.AppState(id))
}

func TestRedeploy_InMaintenanceMode_IsRefused(t *testing.T) {
	c := New(Options{Maintenance: func() bool { return true }})
	id := c.AddApp("o", "s", App{Name: "a", State: "STOPPED"})
	require.ErrorContains(t, c.Redeploy(t.Context(), katodouble.Redeployment{Org: "o", Space: "s", App: "a"}), "Maintenance mode is enabled")
	require.Equal(t, "STOPPED", c.AppState(id))
}

func TestEmpty_OfAFullController_LeavesTheUsers(t *testing.T) {
	c := New(Options{})
	c.FillAsDemo()
	c.Empty()
	content := dump(t, c)
	require.Len(t, content.Users, 1)
	content.Users = nil
	require.Equal(t, katodouble.Content{}, content)
}

func TestJoined_ServesItsDatabase_UntilItIsClosed(t *testing.T) {
	j, err := Join(t.TempDir(), "", Options{})
	require.NoError(t, err)
	url, err := j.ServeDatabase("127.0.0.1:0")
	require.NoError(t, err)
	answer, err := http.Get(url + "/content")
	require.NoError(t, err)
	var content katodouble.Content
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&content))
	require.NoError(t, answer.Body.Close())
	require.Len(t, content.Apps, 7)
	j.Close()
	_, err = http.Get(url + "/content") //nolint:bodyclose // there is none
	require.Error(t, err)
}
