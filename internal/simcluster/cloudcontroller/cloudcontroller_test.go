package cloudcontroller

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller asks a double as curl would.
type caller struct {
	t    *testing.T
	base string
	http *http.Client
}

func start(t *testing.T, c *Controller, withTLS bool) caller {
	t.Helper()
	s, err := c.Start("", withTLS, "api.demo.example.com")
	require.NoError(t, err)
	t.Cleanup(s.Close)
	transport := &http.Transport{}
	if withTLS {
		roots := x509.NewCertPool()
		require.True(t, roots.AppendCertsFromPEM(s.CA))
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return caller{t: t, base: s.URL, http: &http.Client{Transport: transport}}
}

// do returns status and JSON of an answer.
func (c caller) do(method, path, token, body string) (int, map[string]any) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
	require.NoError(c.t, err)
	if token != "" {
		r.Header.Set("Authorization", "bearer "+token)
	}
	response, err := c.http.Do(r)
	require.NoError(c.t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	var values map[string]any
	if len(bytes.TrimSpace(data)) > 0 {
		require.NoError(c.t, json.Unmarshal(data, &values), "%s", data)
	}
	return response.StatusCode, values
}

func (c caller) token(client, secret string, form url.Values) (int, map[string]any) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.base+"/uaa/oauth/token", strings.NewReader(form.Encode()))
	require.NoError(c.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(client, secret)
	response, err := c.http.Do(r)
	require.NoError(c.t, err)
	defer response.Body.Close()
	var values map[string]any
	require.NoError(c.t, json.NewDecoder(response.Body).Decode(&values))
	return response.StatusCode, values
}

func (c caller) login(name, password string) string {
	c.t.Helper()
	status, granted := c.token("cf", "", url.Values{"grant_type": {"password"}, "username": {name}, "password": {password}})
	require.Equal(c.t, 200, status, "%v", granted)
	return granted["access_token"].(string)
}

func TestLogin_Grants_AsAOK(t *testing.T) {
	c := New(Options{TokenLife: time.Minute})
	ask := start(t, c, true)
	right := url.Values{"grant_type": {"password"}, "username": {c.User()}, "password": {c.Password()}}
	status, granted := ask.token("cf", "", right)
	require.Equal(t, 200, status)
	assert.Equal(t, []any{"bearer", 60.0}, []any{granted["token_type"], granted["expires_in"]})

	status, renewed := ask.token("cf", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {granted["refresh_token"].(string)}})
	require.Equal(t, 200, status)
	assert.NotContains(t, renewed, "refresh_token", "AOK gives none; the old one stays")
	assert.NotEqual(t, granted["access_token"], renewed["access_token"])

	for name, row := range map[string]struct {
		client, secret string
		form           url.Values
		status         int
		code           string
	}{
		"wrong client":        {"cf", "x", right, 401, "invalid_client"},
		"wrong password":      {"cf", "", url.Values{"grant_type": {"password"}, "username": {c.User()}, "password": {"x"}}, 400, "invalid_grant"},
		"unknown user":        {"cf", "", url.Values{"grant_type": {"password"}, "username": {"x"}, "password": {""}}, 400, "invalid_grant"},
		"wrong refresh token": {"cf", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 400, "invalid_grant"},
		"another grant":       {"cf", "", url.Values{"grant_type": {"client_credentials"}}, 400, "unsupported_grant_type"},
	} {
		status, refused := ask.token(row.client, row.secret, row.form)
		assert.Equal(t, []any{row.status, row.code}, []any{status, refused["error"]}, name)
	}

	c.RevokeTokens(true)
	status, refused := ask.do("GET", "/v2/apps", granted["access_token"].(string), "")
	assert.Equal(t, []any{401, "CF-InvalidAuthToken", 1000.0}, []any{status, refused["error_code"], refused["code"]})
	status, refused = ask.do("GET", "/v2/apps", "", "")
	assert.Equal(t, []any{401, "CF-NotAuthenticated"}, []any{status, refused["error_code"]})
}

func TestToken_Expired_IsRefused(t *testing.T) {
	c := New(Options{TokenLife: time.Nanosecond})
	ask := start(t, c, false)
	status, refused := ask.do("GET", "/v2/apps", ask.login(c.User(), c.Password()), "")
	assert.Equal(t, []any{401, "CF-InvalidAuthToken"}, []any{status, refused["error_code"]})
}

func TestLists_PagesAndFilters_AsTheAPI(t *testing.T) {
	c := New(Options{})
	c.Fill(1, 1, 120)
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())

	status, page := ask.do("GET", "/v2/apps", token, "")
	require.Equal(t, 200, status)
	assert.Equal(t, []any{120.0, 3.0, nil}, []any{page["total_results"], page["total_pages"], page["prev_url"]})
	assert.Len(t, page["resources"], 50)
	seen := map[any]bool{}
	pages := 0
	for next := any("/v2/apps?results-per-page=100"); next != nil; next = page["next_url"] {
		_, page = ask.do("GET", next.(string), token, "")
		pages++
		for _, r := range page["resources"].([]any) {
			seen[r.(map[string]any)["metadata"].(map[string]any)["guid"]] = true
		}
	}
	assert.Equal(t, []int{2, 120}, []int{pages, len(seen)})
	assert.NotNil(t, page["prev_url"])

	_, page = ask.do("GET", "/v2/apps?q=state:STOPPED%3Bname:app-3&results-per-page=100", token, "")
	assert.Equal(t, 1.0, page["total_results"])
	_, page = ask.do("GET", "/v2/apps?q=state:STOPPED&results-per-page=10", token, "")
	assert.Equal(t, 40.0, page["total_results"])
	assert.Contains(t, page["next_url"], "q=state%3ASTOPPED")
	status, refused := ask.do("GET", "/v2/apps?results-per-page=101", token, "")
	assert.Equal(t, []any{400, 10005.0}, []any{status, refused["code"]})
	for _, query := range []string{"page=none", "page=0", "q=state:STOPPED;name:app-3"} {
		status, _ = ask.do("GET", "/v2/apps?"+query, token, "")
		assert.Equal(t, 400, status, query)
	}

	c.AddUserProvidedService("org-1", "space-1", "ldap")
	_, page = ask.do("GET", "/v2/service_instances", token, "")
	assert.Equal(t, 1.0, page["total_results"])
	_, page = ask.do("GET", "/v2/service_instances?return_user_provided_service_instances=true", token, "")
	assert.Equal(t, 2.0, page["total_results"])

	c.AddUser("someone@example.org", "p", false)
	_, page = ask.do("GET", "/v2/apps", ask.login("someone@example.org", "p"), "")
	assert.Equal(t, 0.0, page["total_results"], "who is no admin sees no app of others")
}

func TestMaintenance_EveryCall_AsKatoMdHasIt(t *testing.T) {
	c := New(Options{})
	app := c.AddApp("o", "s", App{Name: "web"})
	pending := c.AddApp("o", "s", App{Name: "new", PackageState: "PENDING"})
	ask := start(t, c, true)
	token := ask.login(c.User(), c.Password())
	config := "/v2/stackato/config?name=cloud_controller_ng"
	for _, row := range []struct {
		method, path, body string
		off, on            any // status, with the code of a refusal
	}{
		{"PUT", "/v2/apps/" + app, `{"state":"STOPPED"}`, "201", "503/150"},
		{"PUT", "/v2/apps/" + app, `{"state":"STARTED"}`, "201", "503/150"},
		{"PUT", "/v2/apps/none", `{"state":"STARTED"}`, "404/100004", "404/100004"},
		{"PUT", "/v2/apps/" + app, `{"state":"HALF"}`, "400/100001", "503/150"},
		{"PUT", "/v2/apps/" + app, `{`, "400/1001", "400/1001"},
		{"POST", "/v2/apps", `{}`, "404/10000", "503/150"},
		{"DELETE", "/v2/spaces/none", ``, "404/10000", "503/150"},
		{"PUT", "/v2/stackato/cluster/roles/10.0.0.1", `[]`, "204", "503/150"},
		{"PUT", "/v2/stackato/components/10.0.0.1/dea_ng", ``, "204", "503/150"},
		{"POST", "/v2/apps/" + app + "/restage", ``, "201", "201"},
		{"POST", "/v2/apps/" + pending + "/restage", ``, "400/170002", "400/170002"},
		{"GET", "/v2/apps/" + pending + "/instances", ``, "400/170002", "400/170002"},
		{"GET", "/v2/apps/" + app, ``, "200", "200"},
		{"GET", "/v2/apps/" + app + "/instances", ``, "200", "200"},
		{"GET", config, ``, "200", "200"},
		{"GET", "/v2/stackato/cluster/roles", ``, "200", "200"},
		{"PUT", config, `{"own_key": 1}`, "400/109", "400/109"},
		{"PUT", config, `{"maintenance_mode": "maybe"}`, "400/1001", "400/1001"},
		{"PUT", "/v2/stackato/config?name=dea_ng", `{}`, "400/107", "400/107"},
		{"PUT", "/v2/stackato/config", `{}`, "400/106", "400/106"},
		{"GET", "/v2/nothing", ``, "404/10000", "404/10000"},
		{"DELETE", "/v2/apps/" + app, ``, "204", ""},
	} {
		for _, on := range []bool{true, false} {
			want := row.off
			if on {
				want = row.on
			}
			if want == "" {
				continue
			}
			c.SetMaintenance(on)
			status, answer := ask.do(row.method, row.path, token, row.body)
			got := fmt.Sprint(status)
			if code, refused := answer["code"]; refused {
				got += fmt.Sprintf("/%v", code)
			}
			assert.Equal(t, want, got, "%s %s %s, maintenance %v", row.method, row.path, row.body, on)
		}
	}

	status, _ := ask.do("PUT", config, token, `{"maintenance_mode": true}`)
	assert.Equal(t, 204, status)
	assert.True(t, c.InMaintenance())
	status, refused := ask.do("PUT", "/v2/apps/"+pending, token, `{"state":"STOPPED"}`)
	assert.Equal(t, 503, status)
	assert.Equal(t, map[string]any{
		"code": 150.0, "error_code": "CF-StackatoMaintenanceModeEnabled", "description": "Maintenance mode is enabled. The Cloud Controller is read-only.",
	}, refused)
	status, _ = ask.do("PUT", config, token, `{"maintenance_mode": false}`)
	assert.Equal(t, 204, status, "the way out stays open")
	assert.False(t, c.InMaintenance())
}

func TestMaintenance_OfAnotherPartOfTheCluster_IsTheOnlyState(t *testing.T) {
	var on atomic.Bool
	c := New(Options{Maintenance: on.Load, SetMaintenance: on.Store, Nodes: func() map[string][]string { return map[string][]string{"10.0.0.1": {"primary"}} }})
	ask := start(t, c, false)
	token := ask.login(c.User(), c.Password())
	on.Store(true)
	_, info := ask.do("GET", "/v2/stackato/info", "", "")
	assert.Equal(t, true, info["maintenance_mode"])
	assert.Equal(t, map[string]any{"10.0.0.1": map[string]any{"roles": []any{"primary"}}}, info["nodes"])
	assert.Equal(t, "10.0.0.1", info["mbusip"])

	_, info = ask.do("GET", "/v2/info", "", "")
	assert.NotContains(t, info, "maintenance_mode", "only when logged in (kato.md §4)")
	_, info = ask.do("GET", "/v2/info", token, "")
	assert.Equal(t, true, info["maintenance_mode"])

	status, _ := ask.do("PUT", "/v2/stackato/config?name=cloud_controller_ng", token, `{"maintenance_mode": false}`)
	assert.Equal(t, 204, status)
	assert.False(t, on.Load())
}

func TestAdminCalls_ByAnybodyElse_AreForbidden(t *testing.T) {
	c := New(Options{})
	c.AddUser("someone@example.org", "p", false)
	ask := start(t, c, false)
	token := ask.login("someone@example.org", "p")
	for _, path := range []string{"/v2/stackato/config?name=cloud_controller_ng", "/v2/stackato/cluster/roles"} {
		status, refused := ask.do("GET", path, token, "")
		assert.Equal(t, []any{403, 10003.0}, []any{status, refused["code"]}, path)
	}
}

func TestFaults_AreMetAndRecorded(t *testing.T) {
	c := New(Options{})
	ask := start(t, c, false)
	c.Answer("/v2/info", 2, 502, `{"code": 1}`)
	c.Reset("/v2/stackato", 1)
	for _, want := range []int{502, 502, 200} {
		status, _ := ask.do("GET", "/v2/info", "", "")
		assert.Equal(t, want, status)
	}
	ask.http.Transport.(*http.Transport).DisableKeepAlives = true
	_, err := ask.http.Get(ask.base + "/v2/stackato/info")
	assert.Error(t, err)
	c.Cut("/v2/info", 1)
	response, err := ask.http.Get(ask.base + "/v2/info")
	require.NoError(t, err)
	_, err = io.ReadAll(response.Body)
	assert.Error(t, err)
	require.NoError(t, response.Body.Close())
	c.Fail("/", -1, 503)
	c.Heal()
	status, _ := ask.do("GET", "/v2/info", "", "")
	assert.Equal(t, 200, status)

	var statuses []int
	for _, r := range c.Requests() {
		statuses = append(statuses, r.Status)
	}
	assert.Equal(t, []int{502, 502, 200, 0, 0, 200}, statuses)
	assert.Equal(t, 5, c.Count("GET", "/v2/info"))
}

func TestStart_AddressInUse_IsAnError(t *testing.T) {
	c := New(Options{})
	s, err := c.Start("", true)
	require.NoError(t, err)
	defer s.Close()
	_, err = c.Start(strings.TrimPrefix(s.URL, "https://"), true)
	assert.ErrorContains(t, err, "cloud controller double: ")
}
