package cloudcontroller

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// apiError is a refusal of the controller (kato.md §6).
type apiError struct {
	status, code      int
	name, description string
}

var (
	// Read-only values: the answers of the controller that more than one call gives.
	errMaintenance = apiError{503, 150, "StackatoMaintenanceModeEnabled", "Maintenance mode is enabled. The Cloud Controller is read-only."}
	errNoToken     = apiError{401, 10002, "NotAuthenticated", "Authentication error"}
	errBadToken    = apiError{401, 1000, "InvalidAuthToken", "Invalid Auth Token"}
	errForbidden   = apiError{403, 10003, "NotAuthorized", "You are not authorized to perform the requested action"}
	errUnknown     = apiError{404, 10000, "NotFound", "Unknown request"}
	errBadJSON     = apiError{400, 1001, "MessageParseError", "Request invalid due to parse error: invalid request body"}
)

func (e apiError) Error() string { return e.description }

// answer is what a call gives: a status and a value to write as JSON, nil for no body.
type answer struct {
	status int
	value  any
}

// call of the API. who is the user that the token belongs to.
type call func(r *http.Request, who string) (answer, error)

// ServeHTTP answers one request.
func (c *Controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	delay, f := c.delay, c.take(r.Method, r.URL.Path)
	c.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-r.Context().Done():
			timer.Stop()
		}
	}
	record := &recorder{header: http.Header{}, status: 200}
	switch {
	case f == nil || f.cut:
		c.mux.ServeHTTP(record, r)
	case f.status == 0:
		c.note(r, 0)
		panic(http.ErrAbortHandler)
	default:
		record.header.Set("Content-Type", "text/html")
		if strings.HasPrefix(f.body, "{") {
			record.header.Set("Content-Type", "application/json;charset=utf-8")
		}
		record.status = f.status
		record.body.WriteString(f.body)
	}
	maps.Copy(w.Header(), record.header)
	if f != nil && f.cut {
		c.note(r, 0)
		w.Header().Set("Content-Length", strconv.Itoa(record.body.Len()+1))
		w.WriteHeader(record.status)
		_, _ = w.Write(record.body.Bytes()[:record.body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	c.note(r, record.status)
	if r.Context().Err() != nil { // nobody waits any more; an answer could still be taken for one that came in time
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(record.status)
	_, _ = w.Write(record.body.Bytes())
}

func (c *Controller) note(r *http.Request, status int) {
	who, _ := c.who(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, Request{Time: time.Now(), Method: r.Method, Path: r.URL.Path, User: who, Grant: r.PostForm.Get("grant_type"), Status: status})
}

// recorder holds an answer until it is known how it goes out.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

func (c *Controller) routes() {
	c.mux = http.NewServeMux()
	handle := func(pattern string, f call) {
		c.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			who, _ := c.who(r)
			a, err := f(r, who)
			reply(w, a, err)
		})
	}
	open, member, admin := handle, func(pattern string, f call) { handle(pattern, c.member(f)) }, func(pattern string, f call) { handle(pattern, c.admin(f)) }

	c.mux.HandleFunc("POST /uaa/oauth/token", c.login)
	open("GET /v2/info", c.info)
	open("GET /v2/stackato/info", c.stackatoInfo)
	for _, list := range []string{"organizations", "spaces", "apps", "services", "service_plans", "service_instances", "user_provided_service_instances", "users", "buildpacks"} {
		guard := member
		if list == "users" || list == "buildpacks" { // of which others than admins may not read a list
			guard = admin
		}
		guard("GET /v2/"+list, func(r *http.Request, who string) (answer, error) { return c.list(r, who, list) })
		guard("GET /v2/"+list+"/{guid}", func(r *http.Request, _ string) (answer, error) { return c.read(r, list) })
		for _, method := range []string{"POST /v2/" + list, "PUT /v2/" + list + "/{guid}", "DELETE /v2/" + list + "/{guid}"} {
			if list == "apps" && !strings.HasPrefix(method, "POST") || list == "organizations" && strings.HasPrefix(method, "DELETE") {
				continue
			}
			member(method, func(*http.Request, string) (answer, error) {
				if c.InMaintenance() {
					return answer{}, errMaintenance
				}
				return answer{}, errUnknown // the double makes objects by its own methods only
			})
		}
	}
	member("GET /v2/apps/{guid}/instances", c.instances)
	member("PUT /v2/apps/{guid}", c.updateApp)
	member("DELETE /v2/apps/{guid}", c.deleteApp)
	admin("DELETE /v2/organizations/{guid}", c.deleteOrganization)
	member("POST /v2/apps/{guid}/restage", c.restage)
	admin("GET /v2/stackato/config", c.config)
	admin("PUT /v2/stackato/config", c.setConfig)
	admin("GET /v2/stackato/cluster/roles", c.roles)
	admin("GET /v2/stackato/components", c.components)
	admin("PUT /v2/stackato/cluster/roles/{node}", func(*http.Request, string) (answer, error) {
		if c.InMaintenance() {
			return answer{}, errMaintenance
		}
		return answer{status: http.StatusNoContent}, nil
	})
	admin("PUT /v2/stackato/components/{node}/{process}", func(*http.Request, string) (answer, error) {
		if c.InMaintenance() {
			return answer{}, errMaintenance
		}
		return answer{status: http.StatusNoContent}, nil
	})
	c.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { reply(w, answer{}, errUnknown) })
}

func reply(w http.ResponseWriter, a answer, err error) {
	if err != nil {
		refusal, known := err.(apiError)
		if !known {
			refusal = apiError{500, 10001, "ServerError", err.Error()}
		}
		a = answer{refusal.status, map[string]any{"code": refusal.code, "error_code": "CF-" + refusal.name, "description": refusal.description}}
	}
	if a.value == nil {
		w.WriteHeader(a.status)
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(a.status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(a.value)
}

// who is the user of the request's token; given says whether there is one, valid or not.
func (c *Controller) who(r *http.Request) (name string, given bool) {
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "bearer") || token == "" {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if g, ok := c.access[token]; ok && time.Now().Before(g.expires) {
		return g.user, true
	}
	return "", true
}

func (c *Controller) member(f call) call {
	return func(r *http.Request, who string) (answer, error) {
		if who != "" {
			return f(r, who)
		}
		if _, given := c.who(r); given {
			return answer{}, errBadToken
		}
		return answer{}, errNoToken
	}
}

func (c *Controller) admin(f call) call {
	return c.member(func(r *http.Request, who string) (answer, error) {
		if !c.isAdmin(who) {
			return answer{}, errForbidden
		}
		return f(r, who)
	})
}

func (c *Controller) isAdmin(who string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.users[who].admin
}

// login grants tokens as AOK does: by password with a refresh token, by refresh token without a new one.
func (c *Controller) login(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code, description string) {
		reply(w, answer{status, map[string]any{"error": code, "error_description": description}}, nil)
	}
	if client, secret, ok := r.BasicAuth(); !ok || client != "cf" || secret != "" {
		refuse(401, "invalid_client", "The client identifier provided is invalid.")
		return
	}
	if err := r.ParseForm(); err != nil {
		refuse(400, "invalid_request", "The request cannot be read.")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name, refresh := "", ""
	switch r.PostForm.Get("grant_type") {
	case "password":
		name = r.PostForm.Get("username")
		u, known := c.users[name]
		if subtle.ConstantTimeCompare([]byte(u.password), []byte(r.PostForm.Get("password"))) != 1 || !known {
			name = ""
			break
		}
		refresh = guid()
		c.refresh[refresh] = name
	case "refresh_token":
		name = c.refresh[r.PostForm.Get("refresh_token")]
	default:
		refuse(400, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server.")
		return
	}
	if name == "" {
		refuse(400, "invalid_grant", "The provided access grant is invalid, expired, or revoked (e.g. invalid assertion, expired authorization token, "+
			"bad end-user password credentials, or mismatching authorization code and redirection URI).")
		return
	}
	token := guid()
	c.access[token] = grant{user: name, expires: time.Now().Add(c.options.TokenLife)}
	granted := map[string]any{
		"access_token": token, "token_type": "bearer", "expires_in": int(c.options.TokenLife / time.Second), "scope": "cloud_controller.read cloud_controller.write openid",
	}
	if refresh != "" {
		granted["refresh_token"] = refresh
	}
	reply(w, answer{200, granted}, nil)
}

// self is the address under which the request came.
func self(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func (c *Controller) info(r *http.Request, who string) (answer, error) {
	info := map[string]any{
		"name": "vcap", "build": "2222", "support": "http://support.example.org", "version": 2, "description": "simulated cluster", "api_version": "2.23.0",
		"authorization_endpoint": self(r) + "/uaa", "vendor_version": c.vendorVersion(),
		"stackato": map[string]any{"license_accepted": true, "zero_downtime": true, "UUID": "00000000-0000-0000-0000-000000000000"},
	}
	c.mu.Lock()
	omit, id := c.omitEndpoint, c.users[who].guid
	c.mu.Unlock()
	if !omit {
		info["token_endpoint"] = self(r) + "/uaa"
	}
	if who != "" {
		info["user"], info["maintenance_mode"] = id, c.InMaintenance()
	}
	return answer{200, info}, nil
}

func (c *Controller) stackatoInfo(*http.Request, string) (answer, error) {
	nodes, core := map[string]any{}, "127.0.0.1"
	for id, roles := range c.nodes() {
		nodes[id] = map[string]any{"roles": roles}
		if slices.Contains(roles, "primary") {
			core = id
		}
	}
	return answer{200, map[string]any{
		"endpoint": c.options.Endpoint, "maintenance_mode": c.InMaintenance(), "mbusip": core, "micro_cloud": len(nodes) == 1, "nodes": nodes,
		"vendor_version": c.vendorVersion(),
		"stackato":       map[string]any{"license_accepted": true, "zero_downtime": true, "UUID": "00000000-0000-0000-0000-000000000000"},
	}}, nil
}

// render writes an object as the API does; the caller holds mu.
func render(list string, i *item) map[string]any {
	entity := maps.Clone(i.entity)
	for key, value := range i.entity {
		if of, ok := strings.CutSuffix(key, "_guid"); ok {
			entity[of+"_url"] = fmt.Sprintf("/v2/%ss/%v", of, value)
		}
	}
	return map[string]any{
		"metadata": map[string]any{"guid": i.guid, "url": "/v2/" + list + "/" + i.guid, "created_at": i.created.Format(time.RFC3339), "updated_at": nil},
		"entity":   entity,
	}
}

func (c *Controller) list(r *http.Request, who, list string) (answer, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // such as a ; that is not escaped: the filter would be lost
		return answer{}, apiError{400, 10005, "BadQueryParameter", "The query parameter is invalid: " + err.Error()}
	}
	number := func(name string, otherwise int) (int, error) {
		text := query.Get(name)
		if text == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return 0, apiError{400, 10005, "BadQueryParameter", "The query parameter is invalid: " + name}
		}
		return n, nil
	}
	page, err := number("page", 1)
	if err != nil {
		return answer{}, err
	}
	size, err := number("results-per-page", 50)
	if err != nil {
		return answer{}, err
	}
	if size > 100 {
		return answer{}, apiError{400, 10005, "BadQueryParameter", "The query parameter is invalid: results_per_page must be <= 100"}
	}
	isAdmin := c.isAdmin(who)
	c.mu.Lock()
	c.settle(time.Now())
	items := c.lists[list]
	if list == "service_instances" && query.Get("return_user_provided_service_instances") == "true" {
		items = append(slices.Clone(items), c.lists["user_provided_service_instances"]...)
	}
	if !isAdmin {
		items = nil
	}
	if q := query.Get("q"); q != "" {
		items = slices.DeleteFunc(slices.Clone(items), func(i *item) bool { return !matches(i, q) })
	}
	total, pages := len(items), max(1, (len(items)+size-1)/size)
	resources := []any{}
	for _, i := range items[min((page-1)*size, total):min(page*size, total)] {
		resources = append(resources, render(list, i))
	}
	after := c.afterPage
	c.mu.Unlock()
	link := func(to int) any {
		if to < 1 || to > pages {
			return nil
		}
		q := url.Values{"page": {strconv.Itoa(to)}, "results-per-page": {strconv.Itoa(size)}, "order-direction": {"asc"}}
		if filter := query.Get("q"); filter != "" {
			q.Set("q", filter)
		}
		return r.URL.Path + "?" + q.Encode()
	}
	a := answer{200, map[string]any{"total_results": total, "total_pages": pages, "prev_url": link(page - 1), "next_url": link(page + 1), "resources": resources}}
	if after != nil {
		after(r.URL.Path)
	}
	return a, nil
}

// matches applies a filter such as "state:STARTED;name:web" (kato.md §6.1).
func matches(i *item, q string) bool {
	for condition := range strings.SplitSeq(q, ";") {
		key, value, _ := strings.Cut(condition, ":")
		if fmt.Sprint(i.entity[key]) != value {
			return false
		}
	}
	return true
}

func (c *Controller) read(r *http.Request, list string) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(time.Now())
	if i := c.find(list, r.PathValue("guid")); i != nil {
		return answer{200, render(list, i)}, nil
	}
	return answer{}, notFound(list, r.PathValue("guid"))
}

func notFound(list, guid string) apiError {
	switch list {
	case "organizations":
		return apiError{404, 30003, "OrganizationNotFound", "The organization could not be found: " + guid}
	case "spaces":
		return apiError{404, 40004, "SpaceNotFound", "The app space could not be found: " + guid}
	case "apps":
		return apiError{404, 100004, "AppNotFound", "The app could not be found: " + guid}
	case "service_instances", "user_provided_service_instances":
		return apiError{404, 60004, "ServiceInstanceNotFound", "The service instance could not be found: " + guid}
	}
	return errUnknown
}

// app finds the app of a request before anything is refused for maintenance (kato.md §4); the caller holds mu.
func (c *Controller) app(r *http.Request) (*item, error) {
	c.settle(time.Now())
	if a := c.find("apps", r.PathValue("guid")); a != nil {
		return a, nil
	}
	return nil, notFound("apps", r.PathValue("guid"))
}

func (c *Controller) instances(r *http.Request, _ string) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, err := c.app(r)
	if err != nil {
		return answer{}, err
	}
	name := fmt.Sprint(a.entity["name"])
	switch {
	case a.entity["package_state"] == "FAILED":
		return answer{}, apiError{400, 170001, "StagingError", "Staging error: cannot get instances since staging failed"}
	case a.entity["package_state"] == "PENDING" && c.emptyWhileStaging:
		return answer{200, map[string]any{}}, nil
	case a.entity["package_state"] == "PENDING":
		return answer{}, apiError{400, 170002, "NotStaged", "App has not finished staging"}
	case a.entity["state"] != "STARTED":
		return answer{}, apiError{400, 220001, "InstancesError", fmt.Sprintf("Instances error: Request failed for app: %s as the app is in stopped state.", name)}
	}
	return answer{200, a.states(time.Now())}, nil
}

// body reads a small JSON object.
func body(r *http.Request) (map[string]any, error) {
	var values map[string]any
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&values); err != nil {
		return nil, errBadJSON
	}
	return values, nil
}

func (c *Controller) updateApp(r *http.Request, _ string) (answer, error) {
	values, err := body(r)
	if err != nil {
		return answer{}, err
	}
	on := c.InMaintenance()
	c.mu.Lock()
	defer c.mu.Unlock()
	a, err := c.app(r)
	if err != nil {
		return answer{}, err
	}
	if on {
		return answer{}, errMaintenance
	}
	for key, value := range values {
		switch key {
		case "state":
			if value != "STARTED" && value != "STOPPED" {
				return answer{}, apiError{400, 100001, "AppInvalid", "The app is invalid: state invalid"}
			}
			now, state := time.Now(), fmt.Sprint(value)
			if err := c.setState(a, state, now); err != nil {
				return answer{}, err
			}
			c.wrote(a, state, now)
		case "instances":
			n, ok := value.(float64)
			if !ok || n < 0 {
				return answer{}, apiError{400, 100001, "AppInvalid", "The app is invalid: instances invalid"}
			}
			a.entity["instances"] = int(n)
			c.touched()
		case "name", "environment_json", "memory":
			a.entity[key] = value
			c.touched()
		}
	}
	return answer{http.StatusCreated, render("apps", a)}, nil
}

func (c *Controller) deleteApp(r *http.Request, _ string) (answer, error) {
	on := c.InMaintenance()
	c.mu.Lock()
	a, err := c.app(r)
	c.mu.Unlock()
	switch {
	case err != nil:
		return answer{}, err
	case on:
		return answer{}, errMaintenance
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrote(a, "delete", time.Now())
	c.remove(a.guid)
	return answer{status: http.StatusNoContent}, nil
}

// deleteOrganization deletes one that is empty, and with recursive=true any, with all that is in it.
func (c *Controller) deleteOrganization(r *http.Request, _ string) (answer, error) {
	if c.InMaintenance() {
		return answer{}, errMaintenance
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(time.Now())
	org := c.find("organizations", r.PathValue("guid"))
	if org == nil {
		return answer{}, notFound("organizations", r.PathValue("guid"))
	}
	within := map[any]bool{org.guid: true}
	var doomed []string
	for _, list := range []string{"spaces", "apps", "service_instances", "user_provided_service_instances"} {
		key := "space_guid"
		if list == "spaces" {
			key = "organization_guid"
		}
		for _, i := range c.lists[list] {
			if within[i.entity[key]] {
				within[i.guid] = true
				doomed = append(doomed, i.guid)
			}
		}
	}
	if len(doomed) > 0 && r.URL.Query().Get("recursive") != "true" {
		return answer{}, apiError{400, 10006, "AssociationNotEmpty", "Please delete the spaces associations for your organizations."}
	}
	for _, guid := range append(doomed, org.guid) {
		c.remove(guid)
	}
	return answer{status: http.StatusNoContent}, nil
}

// restage is not refused in maintenance mode (kato.md §4). As the controller of that time does, it stops the app, and starts it staged anew: also one that was
// stopped.
func (c *Controller) restage(r *http.Request, _ string) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, err := c.app(r)
	if err != nil {
		return answer{}, err
	}
	if a.entity["package_state"] == "PENDING" {
		return answer{}, apiError{400, 170002, "NotStaged", "App has not finished staging"}
	}
	now := time.Now()
	a.entity["state"], a.entity["version"], a.entity["restart_required"] = "STARTED", guid(), false
	c.stage(a, now)
	c.wrote(a, "restage", now)
	return answer{http.StatusCreated, render("apps", a)}, nil
}

func configName(r *http.Request) error {
	switch name := r.URL.Query().Get("name"); name {
	case "cloud_controller_ng":
		return nil
	case "":
		return apiError{400, 106, "StackatoNoComponentNameGiven", "Component name expected"}
	default:
		return apiError{400, 107, "StackatoNoConfigForComponent", "Configuration not available for " + name}
	}
}

func (c *Controller) config(r *http.Request, _ string) (answer, error) {
	if err := configName(r); err != nil {
		return answer{}, err
	}
	return answer{200, map[string]any{"maintenance_mode": c.InMaintenance(), "support_address": "http://support.example.org"}}, nil
}

// setConfig is not refused in maintenance mode: it is the way out (kato.md §4).
func (c *Controller) setConfig(r *http.Request, _ string) (answer, error) {
	if err := configName(r); err != nil {
		return answer{}, err
	}
	values, err := body(r)
	if err != nil {
		return answer{}, err
	}
	for key, value := range values {
		on, isBool := value.(bool)
		switch {
		case key != "maintenance_mode":
			return answer{}, apiError{400, 109, "StackatoConfigUnsupportedKeys", "Updates unsupported for keys : " + key}
		case !isBool:
			return answer{}, errBadJSON
		}
		c.SetMaintenance(on)
	}
	return answer{status: http.StatusNoContent}, nil
}
