package controller

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

const password = "hunter2 & a secret+more"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a double with a client of it. At its end no password and no token may be in the log.
type site struct {
	*cloudcontroller.Controller
	*Client
	server *cloudcontroller.Server
	logs   *observer.ObservedLogs
}

func newSite(t *testing.T, options cloudcontroller.Options, change func(*Config)) *site {
	t.Helper()
	options.Password = password
	s := &site{Controller: cloudcontroller.New(options)}
	var err error
	s.server, err = s.Start("", true)
	require.NoError(t, err)
	t.Cleanup(s.server.Close)
	cfg := Config{URL: s.server.URL, User: s.User(), Password: password, CA: s.server.CA, Timeout: 2 * time.Minute, MaxBackoff: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	var core zapcore.Core
	core, s.logs = observer.New(zap.DebugLevel)
	s.Client, err = Open(cfg, zap.New(core))
	require.NoError(t, err)
	t.Cleanup(func() {
		s.Client.Close()
		for _, entry := range s.logs.All() {
			noSecret(t, fmt.Sprint(entry.Message, entry.ContextMap()))
		}
	})
	return s
}

func noSecret(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{"hunter2", "bearer "} {
		assert.NotContains(t, strings.ReplaceAll(strings.ToLower(text), "bearer ***", ""), secret)
	}
	assert.NotContains(t, text, "\n")
}

// ofKind checks the kind of an error and that it is one line without a secret, and returns it.
func ofKind(t *testing.T, err error, kind Kind) *Error {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, kind, KindOf(err), "%v", err)
	noSecret(t, err.Error())
	noSecret(t, fmt.Sprintf("%+v", err))
	var e *Error
	require.ErrorAs(t, err, &e)
	return e
}

// grants returns the grants that were asked for, in order.
func (s *site) grants() []string {
	var grants []string
	for _, r := range s.Requests() {
		if r.Grant != "" {
			grants = append(grants, r.Grant)
		}
	}
	return grants
}

func TestContent_SeveralPages_EverythingByNameAndSorted(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	s.AddOrg("empty")
	for i := range 230 {
		s.AddApp("b-org", "dev", cloudcontroller.App{Name: fmt.Sprintf("app-%03d", 229-i), Instances: 2, Detected: "Node.js", Environment: map[string]string{"PASSWORD": "hunter2"}})
	}
	s.AddApp("a-org", "prod", cloudcontroller.App{Name: "web", Instances: 3, Buildpack: "https://me:hunter2@git.example.org/own.git?token=hunter2#v1"})
	s.AddApp("a-org", "prod", cloudcontroller.App{Name: "idle", State: Stopped, Instances: 5})
	s.AddService("a-org", "prod", "store", "mysql", "free")
	s.AddService("a-org", "prod", "cache", "redis", "big")
	s.AddUserProvidedService("a-org", "prod", "ldap")
	s.AddSpace("a-org", "bare")

	content, err := s.Content(t.Context())
	require.NoError(t, err)
	list := content.List
	content.List = nil
	assert.Equal(t, archive.Content{Orgs: 3, Spaces: 3, Apps: 232, AppsStarted: 231, Instances: 463, Services: 3, Users: []string{s.User()}, Endpoint: "api.demo.example.com"}, content)
	require.Len(t, list, 3)
	assert.Equal(t, archive.Org{Name: "a-org", Spaces: []archive.Space{{Name: "bare"}, {
		Name: "prod",
		Apps: []archive.App{{Name: "idle", State: "STOPPED", Instances: 5}, {Name: "web", State: "STARTED", Instances: 3, Buildpack: "https://git.example.org/own.git#v1"}},
		Services: []archive.Service{
			{Name: "cache", Service: "redis", Plan: "big"}, {Name: "ldap", Service: "user-provided"}, {Name: "store", Service: "mysql", Plan: "free"},
		},
	}}}, list[0])
	assert.Equal(t, archive.Org{Name: "empty"}, list[2])
	require.Len(t, list[1].Spaces[0].Apps, 230)
	for i, app := range list[1].Spaces[0].Apps {
		assert.Equal(t, archive.App{Name: fmt.Sprintf("app-%03d", i), State: "STARTED", Instances: 2, Buildpack: "Node.js"}, app)
	}
	assert.Equal(t, 3, s.Count("GET", "/v2/apps"), "pages of 100")
	assert.Equal(t, []string{"password"}, s.grants())
}

func TestContent_EmptyCluster_IsNoError(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	content, err := s.Content(t.Context())
	require.NoError(t, err)
	assert.Equal(t, archive.Content{Users: []string{s.User()}, Endpoint: "api.demo.example.com"}, content)
}

func TestContent_UserIsNoAdmin_NoPartIsTakenForTheWhole(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.User = "someone@example.org" })
	s.AddUser("someone@example.org", password, false)
	s.Fill(1, 1, 3)
	_, err := s.Content(t.Context())
	e := ofKind(t, err, KindForbidden)
	assert.Contains(t, e.Error(), "must be an admin")
	assert.Zero(t, s.Count("GET", "/v2/apps"))
}

func TestLogin_WrongPassword_SaidOnceAndNotTriedAgain(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.Password = "hunter2 but wrong" })
	_, err := s.Apps(t.Context())
	e := ofKind(t, err, KindUnauthorized)
	assert.Contains(t, e.Error(), "check controller.user and controller.password")
	assert.False(t, e.Retryable())
	assert.Equal(t, []string{"password"}, s.grants())

	s.AddUser(s.User(), "hunter2 but wrong", true)
	_, err = s.Apps(t.Context())
	require.NoError(t, err, "the same client goes on once the account is right")
}

func TestToken_ExpiredOrRevoked_IsRenewedInMidList(t *testing.T) {
	for name, row := range map[string]struct {
		life   time.Duration
		after  func(s *site, page int)
		grants []string
	}{
		"it lives as long as the list takes": {time.Minute, func(*site, int) {}, []string{"password"}},
		"revoked between two pages": {time.Minute, func(s *site, page int) {
			if page == 2 {
				s.RevokeTokens(false)
			}
		}, []string{"password", "refresh_token"}},
		"revoked with its refresh token": {time.Minute, func(s *site, page int) {
			if page == 2 {
				s.RevokeTokens(true)
			}
		}, []string{"password", "refresh_token", "password"}},
		"expires before every page": {time.Second, func(*site, int) {}, []string{"password", "refresh_token", "refresh_token", "refresh_token"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{TokenLife: row.life}, nil)
			s.Fill(1, 1, 350)
			page := 0
			s.AfterPage(func(string) { page++; row.after(s, page) })
			apps, err := s.Apps(t.Context())
			require.NoError(t, err)
			assert.Len(t, apps, 350)
			assert.Equal(t, row.grants, s.grants())
		})
	}
}

func TestToken_RefusedEachTime_Ends(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	s.Answer("/v2/apps", -1, 401, `{"code":1000,"error_code":"CF-InvalidAuthToken","description":"Invalid Auth Token"}`)
	_, err := s.Apps(t.Context())
	e := ofKind(t, err, KindUnauthorized)
	assert.Equal(t, 1000, e.Code)
	assert.Equal(t, []string{"password", "refresh_token", "password"}, s.grants())
}

func TestToken_ManyAtOnce_ShareOneLogin(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "a"})
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			_, err := s.App(t.Context(), guid)
			assert.NoError(t, err)
		})
	}
	wait.Wait()
	assert.Equal(t, []string{"password"}, s.grants())
}

func TestToken_RevokedWhileManyUseIt_IsRenewedOnce(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "a"})
	_, err := s.App(t.Context(), guid)
	require.NoError(t, err)
	s.RevokeTokens(false)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			_, err := s.App(t.Context(), guid)
			assert.NoError(t, err)
		})
	}
	wait.Wait()
	assert.Equal(t, []string{"password", "refresh_token"}, s.grants())
}

func TestLogin_AddressesOfOlderControllers_AreFound(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	s.OmitTokenEndpoint(true)
	require.NoError(t, s.CheckAdmin(t.Context()))

	s = newSite(t, cloudcontroller.Options{}, nil)
	s.Answer("/v2/info", 1, 200, fmt.Sprintf(`{"token_endpoint": "%s/elsewhere", "authorization_endpoint": "%s/uaa/"}`, s.server.URL, s.server.URL))
	require.NoError(t, s.CheckAdmin(t.Context()))
}

func TestLogin_AddressThatMayNotGetThePassword_IsRefused(t *testing.T) {
	var asked bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	for name, row := range map[string]struct{ info, want string }{
		"not protected":  {`{"token_endpoint": "` + other.URL + `"}`, "where the password would not be protected"},
		"no URL":         {`{"token_endpoint": "uaa.example.org"}`, "not a URL"},
		"with a user":    {`{"token_endpoint": "https://a:b@uaa.example.org"}`, "not a URL"},
		"none":           {`{"name": "vcap"}`, "neither token_endpoint nor authorization_endpoint"},
		"not even JSON":  {`<html>welcome</html>`, "not the JSON of a cloud controller"},
		"something else": {`[1, 2]`, "not the JSON of a cloud controller"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			s.Answer("/v2/info", -1, 200, row.info)
			_, err := s.Apps(t.Context())
			assert.Contains(t, ofKind(t, err, KindAnswer).Error(), row.want)
		})
	}
	assert.False(t, asked)
}

func TestRequest_PassingFaults_AreTriedAgain(t *testing.T) {
	for name, fault := range map[string]func(s *site){
		"502":               func(s *site) { s.Fail("/v2/apps", 2, 502) },
		"503 of the router": func(s *site) { s.Fail("/v2/apps", 2, 503) },
		"504":               func(s *site) { s.Fail("/v2/apps", 2, 504) },
		"no such route":     func(s *site) { s.Fail("/v2/apps", 2, 404) },
		"reset":             func(s *site) { s.Reset("/v2/apps", 2) },
		"cut off":           func(s *site) { s.Cut("/v2/apps", 2) },
		"at the info":       func(s *site) { s.Fail("/v2/info", 2, 502) },
		"at the login":      func(s *site) { s.Fail("/uaa", 2, 502) },
		"login reset":       func(s *site) { s.Reset("/uaa", 2) },
		"login cut off":     func(s *site) { s.Cut("/uaa", 2) },
		"everywhere":        func(s *site) { s.Fail("/", 3, 502) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			s.Fill(1, 1, 120)
			fault(s)
			apps, err := s.Apps(t.Context())
			require.NoError(t, err)
			assert.Len(t, apps, 120)
			// net/http itself sends a GET again when a kept connection turns out to be dead.
			assert.NotZero(t, s.logs.FilterMessageSnippet("trying again").Len())
		})
	}
}

func TestRequest_FaultThatStays_EndsAfterTheAttempts(t *testing.T) {
	for name, row := range map[string]struct {
		fault func(s *site)
		kind  Kind
		want  string
	}{
		"502":           {func(s *site) { s.Fail("/v2/apps", -1, 502) }, KindServer, "HTTP 502"},
		"503":           {func(s *site) { s.Fail("/v2/apps", -1, 503) }, KindServer, "HTTP 503"},
		"no such route": {func(s *site) { s.Fail("/v2/apps", -1, 404) }, KindUnreachable, "Requested route"},
		"reset":         {func(s *site) { s.Reset("/v2/apps", -1) }, KindUnreachable, "EOF"},
		"cut off":       {func(s *site) { s.Cut("/v2/apps", -1) }, KindUnreachable, "the answer was cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.Attempts = 3 })
			row.fault(s)
			_, err := s.Apps(t.Context())
			e := ofKind(t, err, row.kind)
			assert.Contains(t, e.Error(), row.want)
			assert.Contains(t, e.Error(), "after 3 attempts")
			assert.True(t, e.Retryable())
			assert.InDelta(t, 3, s.Count("GET", "/v2/apps"), 1, "net/http itself sends a GET again when a kept connection turns out to be dead")
		})
	}
}

func TestRequest_FailuresThatStay_AreNotTriedAgain(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		body   string
		kind   Kind
	}{
		"supervisord":  {500, `{"code":110,"error_code":"CF-StackatoSupervisordNotRunning","description":"Could determine proceses status on 10.0.0.2."}`, KindSupervisord},
		"not licensed": {403, `{"code":100,"error_code":"CF-StackatoNotLicensed","description":"Stackato micro-cloud is not setup with a license."}`, KindForbidden},
		"bad query":    {400, `{"code":10005,"error_code":"CF-BadQueryParameter","description":"The query parameter is invalid"}`, KindOther},
		"redirection":  {302, "", KindOther},
		"hostile text": {400, "{\"code\":1,\"error_code\":\"CF-X\",\"description\":\"a\\u001b[31m\\nb bearer abcdef " + password + "\"}", KindOther},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			s.Answer("/v2/apps", -1, row.status, row.body)
			_, err := s.Apps(t.Context())
			e := ofKind(t, err, row.kind)
			assert.NotContains(t, e.Error(), "\x1b")
			assert.False(t, e.Retryable())
			assert.Equal(t, row.status, e.Status)
			assert.Equal(t, 1, s.Count("GET", "/v2/apps"))
		})
	}
}

func TestRequest_Redirection_IsNotFollowed(t *testing.T) {
	var asked bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL+"/v2/info?token=hunter2", http.StatusFound))
	defer first.Close()
	client, err := Open(Config{URL: first.URL, User: "u", Password: password}, nil)
	require.NoError(t, err)
	defer client.Close()
	_, err = client.Info(t.Context())
	e := ofKind(t, err, KindOther)
	assert.Contains(t, e.Error(), "HTTP 302 to "+other.URL)
	assert.Contains(t, e.Error(), "write the right address as controller.url")
	assert.False(t, asked)
}

func TestRequest_AnswerWithoutEnd_IsNotReadToIt(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	s.Answer("/v2/apps", -1, 200, `{"resources": "`+strings.Repeat("x", maxAnswer)+`"}`)
	_, err := s.Apps(t.Context())
	assert.Contains(t, ofKind(t, err, KindAnswer).Error(), "longer than 32 MiB")
}

func TestRequest_CallerGivesUp_EndsAtOnceWithItsCause(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	require.NoError(t, s.CheckAdmin(t.Context()))
	s.Delay(time.Hour)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the operator cancelled")
	done := make(chan error, 1)
	go func() { _, err := s.Apps(ctx); done <- err }()
	cancel(cause)
	select {
	case err := <-done:
		assert.ErrorIs(t, err, cause)
		assert.Empty(t, KindOf(err))
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting")
	}
}

func TestRequest_NoAnswerInTime_IsUnreachable(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.Timeout, c.Attempts = 50*time.Millisecond, 2 })
	s.Delay(time.Hour)
	_, err := s.StackatoInfo(t.Context())
	e := ofKind(t, err, KindUnreachable)
	assert.Contains(t, e.Error(), "no answer in 50ms")
	assert.Contains(t, e.Error(), "after 2 attempts")
}

func TestRequest_NobodyThere_SaysWhatToCheck(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.Attempts = 2 })
	s.server.Close()
	_, err := s.StackatoInfo(t.Context())
	e := ofKind(t, err, KindUnreachable)
	assert.Contains(t, e.Error(), "connection refused")
	assert.Contains(t, e.Error(), "check controller.url")

	plain, err := s.Start("", false)
	require.NoError(t, err)
	defer plain.Close()
	client, err := Open(Config{URL: strings.Replace(plain.URL, "http:", "https:", 1), User: "u", Password: password, Attempts: 2}, nil)
	require.NoError(t, err)
	defer client.Close()
	_, err = client.Info(t.Context())
	assert.Contains(t, ofKind(t, err, KindUnreachable).Error(), "no TLS at this port")

	client, err = Open(Config{URL: plain.URL, User: s.User(), Password: password}, nil)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.CheckAdmin(t.Context()), "without TLS it works, too")
}

func TestRequest_UntrustedCertificate_PasswordIsNotSent(t *testing.T) {
	other := newSite(t, cloudcontroller.Options{}, nil)
	for name, ca := range map[string][]byte{"the system's": nil, "of another authority": other.server.CA} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, func(c *Config) { c.CA = ca })
			_, err := s.Apps(t.Context())
			e := ofKind(t, err, KindCertificate)
			assert.Contains(t, e.Error(), "controller.ca_file")
			assert.False(t, e.Retryable())
			assert.Empty(t, s.Requests())
			assert.False(t, errors.As(err, new(x509.UnknownAuthorityError)), "the cause is not unwrapped: whoever records the chain prints it")
		})
	}
}

func TestMaintenance_On_WritesAreRefusedAndReadsGoOn(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	guid := s.AddApp("o", "s", cloudcontroller.App{Name: "web", Instances: 2})
	s.SetMaintenance(true)

	_, err := s.SetAppState(t.Context(), guid, Stopped)
	e := ofKind(t, err, KindMaintenance)
	assert.Equal(t, []any{503, 150, "CF-StackatoMaintenanceModeEnabled", false}, []any{e.Status, e.Code, e.Name, e.Retryable()})
	assert.Equal(t, 1, s.Count("PUT", "/v2/apps/"), "a mode that somebody set does not pass by itself")
	assert.Equal(t, Started, s.AppState(guid))
	_, err = s.SetAppState(t.Context(), "00000000-none", Stopped)
	assert.Equal(t, "CF-AppNotFound", ofKind(t, err, KindNotFound).Name, "found or not comes first (kato.md §4)")

	info, err := s.StackatoInfo(t.Context())
	require.NoError(t, err)
	assert.True(t, info.MaintenanceMode)
	content, err := s.Content(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, content.Apps)

	s.SetMaintenance(false)
	app, err := s.SetAppState(t.Context(), guid, Stopped)
	require.NoError(t, err)
	assert.Equal(t, App{GUID: guid, Name: "web", SpaceGUID: app.SpaceGUID, State: Stopped, PackageState: "STAGED", Instances: 2, Version: app.Version}, app)
}

func TestAppInstances_OfEachState(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	running := s.AddApp("o", "s", cloudcontroller.App{Name: "running", Instances: 3})
	got, err := s.AppInstances(t.Context(), running)
	require.NoError(t, err)
	assert.Equal(t, map[int]string{0: "RUNNING", 1: "RUNNING", 2: "RUNNING"}, got)

	s.SetInstances(running, "RUNNING", "FLAPPING")
	got, err = s.AppInstances(t.Context(), running)
	require.NoError(t, err)
	assert.Equal(t, map[int]string{0: "RUNNING", 1: "FLAPPING"}, got)

	_, err = s.AppInstances(t.Context(), s.AddApp("o", "s", cloudcontroller.App{Name: "staging", PackageState: "PENDING"}))
	ofKind(t, err, KindNotStaged)
	_, err = s.AppInstances(t.Context(), s.AddApp("o", "s", cloudcontroller.App{Name: "stopped", State: Stopped}))
	assert.Equal(t, "CF-InstancesError", ofKind(t, err, KindStopped).Name)
	_, err = s.AppInstances(t.Context(), "../../stackato/config")
	ofKind(t, err, KindNotFound)
}

func TestList_EntryDeletedBetweenPages_IsReadAgain(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	s.Fill(1, 1, 150)
	before, err := s.Apps(t.Context())
	require.NoError(t, err)
	once := true
	s.AfterPage(func(string) {
		if once {
			once = false
			s.Remove(before[0].GUID)
		}
	})
	after, err := s.Apps(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before[1:], after)

	next := 1
	s.AfterPage(func(string) { s.Remove(before[next].GUID); next++ })
	_, err = s.Apps(t.Context())
	e := ofKind(t, err, KindChanged)
	assert.Contains(t, e.Error(), "switch on maintenance mode")
	assert.True(t, e.Retryable())
}

func TestList_FewerThanItSays_IsNotTakenForTheWhole(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	s.Answer("/v2/apps", -1, 200, `{"total_results": 2, "resources": [{"metadata": {"guid": "a"}, "entity": {"name": "a"}}]}`)
	_, err := s.Apps(t.Context())
	ofKind(t, err, KindChanged)
}

func TestContent_PlaceOfSomethingComesInTheMiddle_IsReadAgain(t *testing.T) {
	for path, add := range map[string]func(s *site){
		"/v2/spaces":        func(s *site) { s.AddApp("org-1", "new", cloudcontroller.App{Name: "new"}) },
		"/v2/organizations": func(s *site) { s.AddApp("org-2", "new", cloudcontroller.App{Name: "new"}) },
		"/v2/apps":          func(s *site) { s.AddService("org-1", "new", "store", "mysql", "free"); s.AddSpace("org-1", "other") },
	} {
		t.Run(path, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			s.Fill(1, 1, 1)
			once := true
			s.AfterPage(func(p string) {
				if once && p == path {
					once = false
					add(s)
				}
			})
			content, err := s.Content(t.Context())
			require.NoError(t, err)
			assert.False(t, once)
			var spaces, things int
			for _, org := range content.List {
				spaces += len(org.Spaces)
				for _, space := range org.Spaces {
					things += len(space.Apps) + len(space.Services)
				}
			}
			assert.Equal(t, []int{content.Spaces, content.Apps + content.Services}, []int{spaces, things}, "everything has its place")
			assert.Equal(t, 3, things)
		})
	}

	s := newSite(t, cloudcontroller.Options{}, nil)
	s.Fill(1, 1, 1)
	n := 0
	s.AfterPage(func(p string) {
		if p == "/v2/spaces" {
			n++
			s.AddApp("org-1", fmt.Sprintf("space-of-%d", n), cloudcontroller.App{Name: "new"})
		}
	})
	_, err := s.Content(t.Context())
	ofKind(t, err, KindChanged)
}

func TestList_NextPageElsewhere_TokenStaysHere(t *testing.T) {
	var asked bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	for _, next := range []string{other.URL + "/v2/apps?page=2", "//" + strings.TrimPrefix(other.URL, "http://") + "/v2/apps", "/v3/apps", "apps?page=2", "::"} {
		s := newSite(t, cloudcontroller.Options{}, nil)
		s.Answer("/v2/apps", -1, 200, `{"total_results": 2, "next_url": "`+next+`", "resources": [{"metadata": {"guid": "a"}, "entity": {"name": "a"}}]}`)
		_, err := s.Apps(t.Context())
		assert.Contains(t, ofKind(t, err, KindAnswer).Error(), "not at an address of the controller", next)
	}
	assert.False(t, asked)
}

func TestList_HostileAnswers_AreErrors(t *testing.T) {
	for name, body := range map[string]string{
		"no guid":     `{"total_results": 1, "resources": [{"metadata": {}, "entity": {"name": "a"}}]}`,
		"wrong types": `{"total_results": "many", "resources": {}}`,
		"half":        `{"total_results": 1, "resources": [`,
		"circle":      `{"total_results": 1, "next_url": "/v2/apps?page=1", "resources": [{"metadata": {"guid": "a"}, "entity": {}}]}`,
		"empty pages": `{"total_results": 1, "next_url": "/v2/apps?page=1", "resources": []}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, cloudcontroller.Options{}, nil)
			s.Answer("/v2/apps", -1, 200, body)
			_, err := s.Apps(t.Context())
			ofKind(t, err, KindAnswer)
		})
	}
}

func TestStackatoInfo_InEverySpelling(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{Nodes: func() map[string][]string {
		return map[string][]string{"10.0.0.1": {"router", "primary", "base"}, "10.0.0.2": {"dea", "base"}}
	}}, nil)
	info, err := s.StackatoInfo(t.Context())
	require.NoError(t, err)
	assert.Equal(t, StackatoInfo{
		Endpoint: "api.demo.example.com", VendorVersion: "v3.4.2", MBusIP: "10.0.0.1", LicenseAccepted: true,
		Roles: map[string][]string{"10.0.0.1": {"base", "primary", "router"}, "10.0.0.2": {"base", "dea"}},
	}, info)
	assert.Empty(t, s.grants(), "it needs no login")

	for body, want := range map[string]bool{
		`{"maintenance_mode": "true"}`: true, `{"maintenance_mode": "false"}`: false, `{"maintenance_mode": true}`: true, `{"maintenance_mode": null}`: false,
	} {
		s.Answer("/v2/stackato/info", 1, 200, body)
		info, err := s.StackatoInfo(t.Context())
		require.NoError(t, err, body)
		assert.Equal(t, want, info.MaintenanceMode, body)
	}
	for _, body := range []string{`{}`, `{"maintenance_mode": "perhaps"}`, `{"maintenance_mode": 1}`, `{"maintenance_mode": true, "nodes": []}`} {
		s.Answer("/v2/stackato/info", 1, 200, body)
		_, err := s.StackatoInfo(t.Context())
		ofKind(t, err, KindAnswer)
	}
}

func TestOpen_BadConfiguration_NamesTheField(t *testing.T) {
	good := Config{URL: "https://api.example.org/", User: "u", Password: "p"}
	client, err := Open(good, nil)
	require.NoError(t, err)
	client.Close()
	for want, change := range map[string]func(*Config){
		"url is not one like":         func(c *Config) { c.URL = "api.example.org" },
		"more than a host and a port": func(c *Config) { c.URL = "https://me:hunter2@api.example.org" },
		"holds more than":             func(c *Config) { c.URL = "https://api.example.org/v2" },
		"user and password":           func(c *Config) { c.Password = "" },
		"no certificate":              func(c *Config) { c.CA = []byte("hunter2") },
	} {
		cfg := good
		change(&cfg)
		_, err := Open(cfg, nil)
		assert.Contains(t, ofKind(t, err, KindBadInput).Error(), want)
	}
}

func TestConfigOf_InventorySection_IsResolved(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), []byte(password+"\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), s.server.CA, 0o600))
	path := filepath.Join(dir, "inventory.yaml")
	section := `{url: "` + s.server.URL + `", user: "` + s.User() + `", password: {file: password}, ca_file: %s, timeout: 7s}`
	load := func(section string) (*inventory.File, *inventory.Controller) {
		require.NoError(t, os.WriteFile(path, []byte("clusters: {a: {platform: als, nodes: [{name: n, address: 192.0.2.1, roles: [primary]}], controller: "+section+"}}\n"), 0o600))
		f, err := inventory.Load(path)
		require.NoError(t, err)
		return f, f.Clusters["a"].Controller
	}
	none := func(string) (string, bool) { return "", false }
	f, c := load(fmt.Sprintf(section, "ca.pem"))
	cfg, err := ConfigOf(f, c, none)
	require.NoError(t, err)
	require.NotNil(t, cfg.Proxy)
	cfg.Proxy = nil
	assert.Equal(t, Config{URL: s.server.URL, User: s.User(), Password: password, CA: s.server.CA, Timeout: 7 * time.Second}, cfg)

	f, c = load(fmt.Sprintf(section, "none.pem"))
	_, err = ConfigOf(f, c, none)
	assert.Contains(t, ofKind(t, err, KindBadInput).Error(), "controller.ca_file: no such file")
	require.NoError(t, os.Chmod(filepath.Join(dir, "password"), 0o644))
	_, err = ConfigOf(f, c, none)
	assert.Contains(t, ofKind(t, err, KindBadInput).Error(), "controller.password: ")
	_, err = ConfigOf(f, nil, none)
	ofKind(t, err, KindBadInput)
}
