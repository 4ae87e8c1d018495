package controller

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

// writes returns what was written to an app, in order.
func (s *site) writes(guid string) []string {
	var what []string
	for _, w := range s.AppRecord(guid) {
		what = append(what, w.What)
	}
	return what
}

// eventually waits for the instances of an app to be all in a state.
func (s *site) eventually(t *testing.T, guid, state string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		instances, err := s.AppInstances(t.Context(), guid)
		require.NoError(c, err)
		require.NotEmpty(c, instances)
		for index, is := range instances {
			assert.Equal(c, state, is, "instance %d", index)
		}
	}, 20*time.Second, 5*time.Millisecond)
}

func TestRestart_StartTakesTime_InstancesComeAfterIt(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web", Instances: 3})
	other := s.AddApp("o", "s", cloudcontroller.App{Name: "other"})
	s.StartTime(time.Hour, time.Minute)
	s.eventually(t, guid, Running)
	before, err := s.App(t.Context(), guid)
	require.NoError(t, err)

	again, err := s.SetAppState(t.Context(), guid, Started)
	require.NoError(t, err)
	assert.Equal(t, before, again, "it is started: nothing is done")
	s.eventually(t, guid, Running)

	stopped, err := s.SetAppState(t.Context(), guid, Stopped)
	require.NoError(t, err)
	assert.Equal(t, before.Version, stopped.Version)
	_, err = s.AppInstances(t.Context(), guid)
	ofKind(t, err, KindStopped)
	started, err := s.SetAppState(t.Context(), guid, Started)
	require.NoError(t, err)
	assert.NotEqual(t, before.Version, started.Version)
	s.eventually(t, guid, Down)
	s.eventually(t, other, Running)

	s.AppTime(guid, 30*time.Millisecond)
	for _, state := range []string{Stopped, Started} {
		_, err = s.SetAppState(t.Context(), guid, state)
		require.NoError(t, err)
	}
	s.eventually(t, guid, Running)
	assert.Equal(t, []string{Started, Stopped, Started, Stopped, Started}, s.writes(guid))
	assert.Empty(t, s.writes(other))
}

func TestRestage_TakesTime_AppIsStoppedUntilItHasEnded(t *testing.T) {
	for name, app := range map[string]cloudcontroller.App{
		"started": {Name: "a"}, "stopped, too": {Name: "a", State: Stopped}, "failed before": {Name: "a", PackageState: Failed},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			guid := s.AddApp("o", "s", app)
			before, err := s.App(t.Context(), guid)
			require.NoError(t, err)
			s.StageTime(time.Hour)
			restaged, err := s.RestageApp(t.Context(), guid)
			require.NoError(t, err)
			assert.Equal(t, []string{Pending, Started}, []string{restaged.PackageState, restaged.State})
			assert.NotEqual(t, before.Version, restaged.Version)
			_, err = s.AppInstances(t.Context(), guid)
			ofKind(t, err, KindNotStaged)
			_, err = s.RestageApp(t.Context(), guid)
			ofKind(t, err, KindNotStaged)
			s.EmptyWhileStaging(true)
			instances, err := s.AppInstances(t.Context(), guid)
			require.NoError(t, err)
			assert.Empty(t, instances)

			// To start it anew stages it anew.
			s.StageTime(30 * time.Millisecond)
			for _, state := range []string{Stopped, Started} {
				_, err = s.SetAppState(t.Context(), guid, state)
				require.NoError(t, err)
			}
			s.eventually(t, guid, Running)
			staged, err := s.App(t.Context(), guid)
			require.NoError(t, err)
			assert.Equal(t, Staged, staged.PackageState)
			assert.Equal(t, []string{"restage", Stopped, Started}, s.writes(guid))
		})
	}
}

func TestStart_AppThatNeverWasStaged_IsStagedFirst(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "new", State: Stopped, PackageState: Pending})
	_, err := s.RestageApp(t.Context(), guid)
	ofKind(t, err, KindNotStaged)
	s.StageTime(time.Hour)
	_, err = s.SetAppState(t.Context(), guid, Started)
	require.NoError(t, err)
	_, err = s.AppInstances(t.Context(), guid)
	ofKind(t, err, KindNotStaged)
	_, err = s.SetAppState(t.Context(), guid, Stopped)
	require.NoError(t, err)
	s.StageTime(0)
	_, err = s.SetAppState(t.Context(), guid, Started)
	require.NoError(t, err)
	s.eventually(t, guid, Running)
}

func TestRestage_AnswerIsLost_DoneOnceAllTheSame(t *testing.T) {
	for name, row := range map[string]struct {
		fault func(s *site, path string)
		posts int
	}{
		"carried out, cut off":     {func(s *site, path string) { s.Cut(path, 1) }, 1},
		"not carried out, reset":   {func(s *site, path string) { s.Reset(path, 1) }, 2},
		"not carried out, 502":     {func(s *site, path string) { s.Fail(path, 2, 502) }, 3},
		"token revoked meanwhile":  {func(s *site, _ string) { s.RevokeTokens(true) }, 1},
		"refused with a bad token": {func(s *site, path string) { s.Answer(path, 1, 401, `{"code":1000,"error_code":"CF-InvalidAuthToken"}`) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web"})
			require.NoError(t, s.CheckAdmin(t.Context()))
			row.fault(s, "/v2/apps/"+guid+"/restage")
			app, err := s.RestageApp(t.Context(), guid)
			require.NoError(t, err)
			assert.Equal(t, guid, app.GUID)
			assert.Equal(t, []string{"restage"}, s.writes(guid))
			assert.Equal(t, row.posts, s.Count("POST", "/v2/apps/"))
		})
	}
}

func TestRestage_CannotBeFoundOut_IsAnErrorAndNotRepeated(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.Attempts = 3 })
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web"})
	s.Fail("POST /v2/apps/", -1, 502)
	_, err := s.RestageApp(t.Context(), guid)
	e := ofKind(t, err, KindServer)
	assert.True(t, e.Retryable())
	assert.Contains(t, e.Error(), "after 3 attempts")
	assert.Equal(t, 3, s.Count("POST", "/v2/apps/"))
	assert.Empty(t, s.writes(guid))

	// A controller that tells no version: the answer that was lost is the last word.
	s.Heal()
	s.Answer("GET /v2/apps/", -1, 200, `{"metadata": {"guid": "`+guid+`"}, "entity": {"name": "web"}}`)
	s.Cut("POST /v2/apps/", 1)
	_, err = s.RestageApp(t.Context(), guid)
	assert.True(t, ofKind(t, err, KindUnreachable).Retryable())
	assert.Equal(t, []string{"restage"}, s.writes(guid))

	s.Heal()
	s.FailApp(guid, cloudcontroller.AppDeleted, 1)
	s.Cut("POST /v2/apps/", 1)
	_, err = s.RestageApp(t.Context(), guid)
	ofKind(t, err, KindNotFound)
}

func TestRestage_AnsweredAsAJob_AppIsRead(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web"})
	s.Answer("POST /v2/apps/", 1, 201, `{"metadata": {"guid": "a-job"}, "entity": {"guid": "a-job", "status": "queued"}}`)
	app, err := s.RestageApp(t.Context(), guid)
	require.NoError(t, err)
	assert.Equal(t, []string{guid, "web"}, []string{app.GUID, app.Name})
}

func TestRestage_Maintenance_IsCarriedOutWhereAStartIsRefused(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web"})
	s.SetMaintenance(true)
	for _, state := range []string{Started, Stopped} {
		_, err := s.SetAppState(t.Context(), guid, state)
		e := ofKind(t, err, KindMaintenance)
		assert.Equal(t, []int{503, 150}, []int{e.Status, e.Code})
	}
	_, err := s.RestageApp(t.Context(), guid)
	require.NoError(t, err)
	assert.Equal(t, []string{"restage"}, s.writes(guid))
	_, err = s.RestageApp(t.Context(), "none")
	ofKind(t, err, KindNotFound)
}

func TestAppInstances_Refusals_AreToldApart(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	add := func(name, state, staged string) string {
		return s.AddApp("o", "s", cloudcontroller.App{Name: name, State: state, PackageState: staged})
	}
	for _, row := range []struct {
		guid string
		kind Kind
		code int
		name string
	}{
		{add("stopped", Stopped, Staged), KindStopped, 220001, "CF-InstancesError"},
		{add("staging", Started, Pending), KindNotStaged, 170002, "CF-NotStaged"},
		{add("failed", Started, Failed), KindStagingFailed, 170001, "CF-StagingError"},
		{"none", KindNotFound, 100004, "CF-AppNotFound"},
	} {
		_, err := s.AppInstances(t.Context(), row.guid)
		e := ofKind(t, err, row.kind)
		assert.Equal(t, []any{row.code, row.name, false}, []any{e.Code, e.Name, e.Retryable()})
	}
	guid := add("other", Started, Staged)
	for code, name := range map[int]string{170003: "NoAppDetectedError", 170004: "BuildpackCompileFailed", 170005: "BuildpackReleaseFailed"} {
		s.Answer("/v2/apps/"+guid+"/instances", 1, 400, fmt.Sprintf(`{"code":%d,"error_code":"CF-%s","description":"said why"}`, code, name))
		_, err := s.AppInstances(t.Context(), guid)
		assert.Contains(t, ofKind(t, err, KindStagingFailed).Error(), "said why")
	}
}

func TestAppFault_MetOnce_AnotherTryGoesWell(t *testing.T) {
	restart := func(t *testing.T, s *site, guid string) error {
		if _, err := s.SetAppState(t.Context(), guid, Stopped); err != nil {
			return err
		}
		_, err := s.SetAppState(t.Context(), guid, Started)
		return err
	}
	restage := func(t *testing.T, s *site, guid string) error {
		_, err := s.RestageApp(t.Context(), guid)
		return err
	}
	for fault, row := range map[cloudcontroller.AppFault]struct {
		do        func(t *testing.T, s *site, guid string) error
		refused   Kind // the start is
		instances map[int]string
		kind      Kind // of the error of AppInstances
	}{
		cloudcontroller.InstancesFlap:         {do: restart, instances: map[int]string{0: Flapping, 1: Flapping}},
		cloudcontroller.InstancesCrash:        {do: restart, instances: map[int]string{0: Down, 1: Down}},
		cloudcontroller.InstancesStayStarting: {do: restage, instances: map[int]string{0: Starting, 1: Starting}},
		cloudcontroller.SomeInstancesRun:      {do: restage, instances: map[int]string{0: Running, 1: Down}},
		cloudcontroller.StagingFails:          {do: restage, kind: KindStagingFailed},
		cloudcontroller.StagingHangs:          {do: restage, kind: KindNotStaged},
		cloudcontroller.StartRefused:          {do: restart, refused: KindOther, kind: KindStopped},
	} {
		t.Run(string(fault), func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web", Instances: 2})
			s.FailApp(guid, fault, 1)
			s.eventually(t, guid, Running)
			err := row.do(t, s, guid)
			if row.refused != "" {
				e := ofKind(t, err, row.refused)
				assert.Equal(t, "CF-AppPackageInvalid", e.Name)
				assert.Contains(t, e.Error(), "bits have not been uploaded")
			} else {
				require.NoError(t, err)
			}
			got, err := s.AppInstances(t.Context(), guid)
			if row.kind != "" {
				ofKind(t, err, row.kind)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, row.instances, got)

			require.NoError(t, restart(t, s, guid))
			s.eventually(t, guid, Running)
		})
	}
}

func TestAppFault_ForEver_UntilItIsHealed(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web"})
	s.FailApp(guid, cloudcontroller.StagingFails, -1)
	for range 3 {
		app, err := s.RestageApp(t.Context(), guid)
		require.NoError(t, err)
		assert.Equal(t, Failed, app.PackageState)
	}
	s.HealApp(guid)
	_, err := s.RestageApp(t.Context(), guid)
	require.NoError(t, err)
	s.eventually(t, guid, Running)

	for _, fault := range []cloudcontroller.AppFault{cloudcontroller.InstancesFlap, cloudcontroller.StagingHangs} {
		s.BreakApp(guid, fault)
		instances, _ := s.AppInstances(t.Context(), guid)
		assert.NotEqual(t, map[int]string{0: Running}, instances)
		s.HealApp(guid)
		s.eventually(t, guid, Running)
	}
	s.BreakApp(guid, cloudcontroller.StagingFails)
	_, err = s.AppInstances(t.Context(), guid)
	ofKind(t, err, KindStagingFailed)
}

func TestAppFault_DeletedInTheMiddle_IsNotFoundAfterIt(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web"})
	s.FailApp(guid, cloudcontroller.AppDeleted, 1)
	_, err := s.App(t.Context(), guid)
	require.NoError(t, err)
	_, err = s.SetAppState(t.Context(), guid, Stopped)
	require.NoError(t, err)
	_, err = s.SetAppState(t.Context(), guid, Started)
	assert.Equal(t, "CF-AppNotFound", ofKind(t, err, KindNotFound).Name)
	apps, err := s.Apps(t.Context())
	require.NoError(t, err)
	assert.Empty(t, apps)
	assert.Equal(t, []string{Stopped}, s.writes(guid))
}

func TestRestart_ThousandAppsByFiftyAtOnce_EachOnce(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guids := s.FillMany(1000)
	s.StartTime(10*time.Millisecond, 10*time.Millisecond)
	s.StageTime(5 * time.Millisecond)
	work := make(chan int)
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			for i := range work {
				guid := guids[i]
				if i%3 == 0 {
					_, err := s.RestageApp(t.Context(), guid)
					assert.NoError(t, err)
				} else {
					for _, state := range []string{Stopped, Started} {
						_, err := s.SetAppState(t.Context(), guid, state)
						assert.NoError(t, err)
					}
				}
			}
		})
	}
	for i := range guids {
		work <- i
	}
	close(work)
	wait.Wait()
	for i, guid := range guids {
		want := []string{Stopped, Started}
		if i%3 == 0 {
			want = []string{"restage"}
		}
		require.Equal(t, want, s.writes(guid))
		s.eventually(t, guid, Running)
	}
	tree, err := s.AppTree(t.Context())
	require.NoError(t, err)
	assert.Len(t, tree, 1000)
}

func TestAppTree_NamesOfSpaceAndOrg_SortedByThem(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	s.AddOrg("empty")
	s.AddApp("b", "prod", cloudcontroller.App{Name: "web", Instances: 2})
	s.AddApp("a", "test", cloudcontroller.App{Name: "web", State: Stopped})
	s.AddApp("a", "prod", cloudcontroller.App{Name: "z"})
	s.AddApp("a", "prod", cloudcontroller.App{Name: "c", PackageState: Failed})
	tree, err := s.AppTree(t.Context())
	require.NoError(t, err)
	var got []string
	for _, a := range tree {
		got = append(got, fmt.Sprintf("%s/%s/%s %s %s %d", a.Org, a.Space, a.Name, a.State, a.PackageState, a.Instances))
	}
	assert.Equal(t, []string{"a/prod/c STARTED FAILED 1", "a/prod/z STARTED STAGED 1", "a/test/web STOPPED STAGED 1", "b/prod/web STARTED STAGED 2"}, got)
}

func TestAppTree_PlaceOfAnAppComesInTheMiddle_IsReadAgain(t *testing.T) {
	for _, path := range []string{"/v2/organizations", "/v2/spaces"} {
		s := newSite(t, cloudcontroller.Options{}, nil)
		s.Fill(1, 1, 1)
		n := 0
		s.AfterPage(func(p string) {
			if n == 0 && p == path {
				n++
				s.AddApp("org-2", "new", cloudcontroller.App{Name: "new"})
			}
		})
		tree, err := s.AppTree(t.Context())
		require.NoError(t, err)
		require.Len(t, tree, 2)
		assert.Equal(t, []string{"org-2", "new", "new"}, []string{tree[1].Org, tree[1].Space, tree[1].Name})

		s.AfterPage(func(p string) {
			if p == path {
				n++
				s.AddApp(fmt.Sprintf("org-of-%d", n), "new", cloudcontroller.App{Name: "new"})
			}
		})
		_, err = s.AppTree(t.Context())
		assert.True(t, ofKind(t, err, KindChanged).Retryable())
	}
}

func TestAppTree_UserIsNoAdmin_NoPartIsTakenForTheWhole(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.User = "someone@example.org" })
	s.AddUser("someone@example.org", password, false)
	s.Fill(1, 1, 3)
	_, err := s.AppTree(t.Context())
	ofKind(t, err, KindForbidden)
}
