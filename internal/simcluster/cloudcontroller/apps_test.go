package cloudcontroller

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// at returns the states of an app's instances some time after its start.
func (c *Controller) at(guid string, after time.Duration) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.find("apps", guid)
	states := a.states(a.life.begun.Add(after))
	all := make([]string, len(states))
	for i := range all {
		all[i] = states[fmt.Sprint(i)].(map[string]any)["state"].(string)
	}
	return all
}

func TestStartTime_InstancesOfAnApp_AreDownThenStartingThenRunning(t *testing.T) {
	c := New(Options{})
	guid := c.AddApp("o", "s", App{Name: "web", Instances: 20, State: "STOPPED"})
	c.StartTime(10*time.Second, 10*time.Second)
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	status, _ := ask.do("PUT", "/v2/apps/"+guid, token, `{"state":"STARTED"}`)
	require.Equal(t, 201, status)

	for _, state := range c.at(guid, 999*time.Millisecond) {
		assert.Equal(t, "DOWN", state)
	}
	for _, state := range c.at(guid, 9999*time.Millisecond) {
		assert.Equal(t, "STARTING", state)
	}
	for _, state := range c.at(guid, 20*time.Second) {
		assert.Equal(t, "RUNNING", state)
	}
	count := map[string]int{}
	for _, state := range c.at(guid, 15*time.Second) {
		count[state]++
	}
	assert.NotZero(t, count["STARTING"], "they are spread")
	assert.NotZero(t, count["RUNNING"])
	assert.Equal(t, c.at(guid, 15*time.Second), c.at(guid, 15*time.Second), "and none goes back")
}

func TestFaults_OfInstances_ShowWhenTheTimeHasPassed(t *testing.T) {
	for fault, want := range map[AppFault]string{InstancesFlap: "FLAPPING", InstancesCrash: "DOWN", InstancesStayStarting: "STARTING"} {
		c := New(Options{})
		guid := c.AddApp("o", "s", App{Name: "web", State: "STOPPED"})
		c.AppTime(guid, 10*time.Second)
		c.FailApp(guid, fault, -1)
		ask := start(t, c, false)
		status, _ := ask.do("PUT", "/v2/apps/"+guid, ask.login(c.User(), c.Password()), `{"state":"STARTED"}`)
		require.Equal(t, 201, status)
		assert.Equal(t, [][]string{{"DOWN"}, {"STARTING"}, {want}}, [][]string{c.at(guid, 0), c.at(guid, 5*time.Second), c.at(guid, time.Hour)}, fault)
	}
}

func TestStaging_SeenInLists_WithoutAskingForTheApp(t *testing.T) {
	c := New(Options{})
	guid := c.AddApp("o", "s", App{Name: "web"})
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	c.StageTime(time.Hour)
	status, _ := ask.do("POST", "/v2/apps/"+guid+"/restage", token, "")
	require.Equal(t, 201, status)
	total := func(state string) any {
		_, page := ask.do("GET", "/v2/apps?q=package_state:"+state, token, "")
		return page["total_results"]
	}
	assert.Equal(t, []any{1.0, 0.0}, []any{total("PENDING"), total("STAGED")})
	c.mu.Lock()
	c.find("apps", guid).life.stagingEnds = time.Now()
	c.mu.Unlock()
	assert.Equal(t, []any{1.0, 0.0}, []any{total("STAGED"), total("PENDING")})
}

func TestStop_WhileStaging_AppStaysStopped(t *testing.T) {
	c := New(Options{})
	guid := c.AddApp("o", "s", App{Name: "web"})
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	c.FailApp(guid, InstancesFlap, 1)
	c.StageTime(time.Hour)
	_, _ = ask.do("POST", "/v2/apps/"+guid+"/restage", token, "")
	_, _ = ask.do("PUT", "/v2/apps/"+guid, token, `{"state":"STOPPED"}`)
	c.mu.Lock()
	c.find("apps", guid).life.stagingEnds = time.Now()
	c.mu.Unlock()
	_, app := ask.do("GET", "/v2/apps/"+guid, token, "")
	entity := app["entity"].(map[string]any)
	assert.Equal(t, []any{"STAGED", "STOPPED"}, []any{entity["package_state"], entity["state"]})
	status, refused := ask.do("GET", "/v2/apps/"+guid+"/instances", token, "")
	assert.Equal(t, []any{400, 220001.0}, []any{status, refused["code"]})

	_, _ = ask.do("PUT", "/v2/apps/"+guid, token, `{"state":"STARTED"}`)
	assert.Equal(t, []string{"FLAPPING"}, c.at(guid, 0), "the fault was kept for a start")
}

func TestAppRecord_RefusedAndLost_AreToldApart(t *testing.T) {
	c := New(Options{})
	guid := c.AddApp("o", "s", App{Name: "web"})
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	put := func(state string) int {
		status, _ := ask.do("PUT", "/v2/apps/"+guid, token, `{"state":"`+state+`"}`)
		return status
	}
	before := time.Now()
	c.SetMaintenance(true)
	assert.Equal(t, 503, put("STOPPED"))
	c.SetMaintenance(false)
	c.Answer("PUT /v2/apps/"+guid, 1, 502, `{"code": 1}`)
	assert.Equal(t, 502, put("STOPPED"))
	assert.Empty(t, c.AppRecord(guid), "what was refused")
	assert.Equal(t, 201, put("STOPPED"))
	c.FailApp(guid, StartRefused, 1)
	assert.Equal(t, 400, put("STARTED"))
	assert.Equal(t, "STOPPED", c.AppState(guid))
	assert.Equal(t, 201, put("STARTED"))
	status, _ := ask.do("DELETE", "/v2/apps/"+guid, token, "")
	assert.Equal(t, 204, status)

	var what []string
	for _, w := range c.AppRecord(guid) {
		assert.False(t, w.Time.Before(before))
		before = w.Time
		what = append(what, w.What)
	}
	assert.Equal(t, []string{"STOPPED", "STARTED", "delete"}, what)
}

func TestFaults_OfAMethod_MeetNoOther(t *testing.T) {
	c := New(Options{})
	guid := c.AddApp("o", "s", App{Name: "web"})
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	c.Answer("PUT /v2/apps/", -1, 502, `{"code": 1}`)
	status, _ := ask.do("GET", "/v2/apps/"+guid, token, "")
	assert.Equal(t, 200, status)
	status, _ = ask.do("PUT", "/v2/apps/"+guid, token, `{"state":"STOPPED"}`)
	assert.Equal(t, 502, status)
	c.Heal()
	status, _ = ask.do("PUT", "/v2/apps/"+guid, token, `{"state":"STOPPED"}`)
	assert.Equal(t, 201, status)
}

func TestFillMany_FiveThousandApps_InEverySpace(t *testing.T) {
	c := New(Options{})
	guids := c.FillMany(5000)
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	_, page := ask.do("GET", "/v2/apps?results-per-page=100&page=50", token, "")
	assert.Equal(t, []any{5000.0, 50.0}, []any{page["total_results"], page["total_pages"]})
	_, page = ask.do("GET", "/v2/spaces", token, "")
	assert.Equal(t, 20.0, page["total_results"])
	seen := map[string]bool{}
	for i, guid := range guids {
		seen[guid] = true
		c.mu.Lock()
		name := c.find("apps", guid).entity["name"]
		c.mu.Unlock()
		require.Equal(t, fmt.Sprintf("app-%d", i+1), name)
	}
	assert.Len(t, seen, 5000)
}

func TestMethods_ByManyAtOnce_AreSafe(t *testing.T) {
	c := New(Options{Nodes: func() map[string][]string { return map[string][]string{"10.0.0.1": {"primary"}} }})
	guids := c.FillMany(40)
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	var wait sync.WaitGroup
	for i, guid := range guids {
		wait.Go(func() {
			c.StartTime(time.Millisecond, time.Millisecond)
			c.AppTime(guid, time.Millisecond)
			c.StageTime(time.Millisecond)
			c.FailApp(guid, AppFaults()[i%len(AppFaults())], 1)
			c.BreakApp(guid, AppFaults()[i%len(AppFaults())])
			for _, call := range [][3]string{
				{"PUT", "/v2/apps/" + guid, `{"state":"STOPPED"}`}, {"PUT", "/v2/apps/" + guid, `{"state":"STARTED"}`}, {"POST", "/v2/apps/" + guid + "/restage"},
				{"GET", "/v2/apps/" + guid + "/instances"}, {"GET", "/v2/apps"}, {"GET", "/v2/users"}, {"GET", "/v2/stackato/components"},
			} {
				r := httptest.NewRequestWithContext(t.Context(), call[0], call[1], strings.NewReader(call[2]))
				r.Header.Set("Authorization", "bearer "+token)
				w := httptest.NewRecorder()
				c.ServeHTTP(w, r)
				assert.Less(t, w.Code, 501)
			}
			c.SupervisordDown("10.0.0.1", i%2 == 0)
			c.SetProcess("10.0.0.1", "nats_server", "STARTING")
			c.HealApp(guid)
			_ = c.AppState(guid)
			c.AddUser(fmt.Sprintf("user-%d", i), "p", false)
			assert.LessOrEqual(t, len(c.AppRecord(guid)), 3)
		})
	}
	wait.Wait()
}
