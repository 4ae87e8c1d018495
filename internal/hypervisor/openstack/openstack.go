// Package openstack takes snapshots of servers of an OpenStack cloud (hypervisor.Provider).
//
// A snapshot is a Cinder snapshot of every volume attached to the server and, where the server boots from an image, an image of its root disk that Nova makes. All requests of one server
// go out at once, but its disks are not captured at one moment: what makes them one is that nothing writes to them meanwhile. They are found by their metadata.
//
// When its moment has passed: neither request's answer (202) says anything about it, because the work begins later. Cinder's volume service sets a snapshot's status from "creating" to
// "available" when the driver's create_snapshot has returned (cinder/volume/manager.py, create_snapshot), so a snapshot that is not "creating" any more has its moment behind it. Nova uploads an image's
// data, or registers their location, only after they were captured (nova/virt/libvirt/driver.py, snapshot: "Snapshot extracted, beginning image upload"), and Glance leaves
// "queued" when data or a location come (glance, image_status_transition: queued to saving "upload", queued to active "add location"), so an image that is not "queued" any more has its moment behind it. Take
// waits for both, and Find too, because Nova may copy a disk for minutes before.
package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	goopenstack "github.com/gophercloud/gophercloud/v2/openstack"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/webclient"
)

const (
	defaultTimeout = 30 * time.Second
	defaultWait    = 30 * time.Minute
	defaultPoll    = time.Second
	defaultSettle  = 15 * time.Second
	defaultWarm    = 10 * time.Second
	attempts       = 5
	// restWithin is how long Take waits for a connection that is just being kept warm, rather than open another.
	restWithin = time.Second
	// tokenLeft is what is left of a token's life when Prepare asks for another, so that none ends between it and Take.
	tokenLeft = 10 * time.Minute
	// revertVersion is the microversion of Cinder's revert.
	revertVersion = "3.40"
)

// Config is an OpenStack cloud and who asks it.
type Config struct {
	// AuthURL of Keystone, such as https://keystone.example.org:5000/v3.
	AuthURL string
	// Region of the catalog; "" where there is one only.
	Region string
	// User, its domain and password. Or an application credential.
	User, UserDomain, Password string
	// Project and its domain, for a user.
	Project, ProjectDomain string
	// CredentialID and CredentialSecret are an application credential, which has its project.
	CredentialID, CredentialSecret string
	// CA are the certificates, PEM, that servers are verified against instead of the system's.
	CA []byte
	// Proxy is asked for every request (http.Transport's Proxy); nil for none.
	Proxy func(*http.Request) (*url.URL, error)
	// Timeout of one request (default 30s).
	Timeout time.Duration
	// Wait is how long something may take that is waited for, such as a revert (default 30m).
	Wait time.Duration
	// Poll is how often its state is asked for meanwhile (default 1s): what is known of a snapshot's moment is no finer.
	Poll time.Duration
	// Settle is how long after a lost answer a request may still be carried out (default 15s).
	Settle time.Duration
	// Warm is how often a shot's connections are used until it is taken (default 10s), because servers end those that are idle.
	Warm time.Duration
}

// Provider is one project of an OpenStack cloud.
type Provider struct {
	cfg       Config
	transport *connection.Transport
	http      http.Client

	turn    chan struct{} // held while somebody logs in
	mu      sync.Mutex
	session *session
	unsure  map[string]time.Time // server and name of snapshots whose answer was lost -> when
}

// session is a login and the services that it may ask.
type session struct {
	provider                *gophercloud.ProviderClient
	compute, volumes, image *gophercloud.ServiceClient
}

var (
	_ hypervisor.Provider        = (*Provider)(nil)
	_ hypervisor.RollbackChecker = (*Provider)(nil)
)

// Open returns the provider of a configuration. It asks nothing of the network. An error names the field that is wrong.
func Open(cfg Config) (*Provider, error) {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&cfg.Timeout, defaultTimeout}, {&cfg.Wait, defaultWait}, {&cfg.Poll, defaultPoll}, {&cfg.Settle, defaultSettle}, {&cfg.Warm, defaultWarm}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	u, err := url.Parse(cfg.AuthURL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("openstack: the auth url is not one like https://keystone.example.org:5000/v3")
	case cfg.CredentialID != "" && cfg.CredentialSecret == "":
		return nil, errors.New("openstack: the application credential's secret is missing")
	case cfg.CredentialID == "" && (cfg.User == "" || cfg.Password == "" || cfg.Project == ""):
		return nil, errors.New("openstack: user, password and project are needed, or an application credential")
	}
	cfg.AuthURL = strings.TrimSuffix(cfg.AuthURL, "/")
	if !strings.HasSuffix(cfg.AuthURL, "/v3") {
		cfg.AuthURL += "/v3"
	}
	if cfg.UserDomain == "" {
		cfg.UserDomain = "Default"
	}
	if cfg.ProjectDomain == "" {
		cfg.ProjectDomain = cfg.UserDomain
	}
	transport, ok := connection.New(connection.Config{CA: cfg.CA, Proxy: cfg.Proxy})
	if !ok {
		return nil, errors.New("openstack: the CA file holds no certificate in PEM form")
	}
	return &Provider{
		cfg: cfg, transport: transport, turn: make(chan struct{}, 1), unsure: map[string]time.Time{},
		http: http.Client{Transport: transport, Timeout: cfg.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// Close is hypervisor.Provider's.
func (p *Provider) Close() error {
	p.transport.Close()
	return nil
}

// missingError says that the catalog has no such service.
type missingError struct {
	service string
	err     error
}

func (e *missingError) Error() string { return "the catalog has no " + e.service + " service for us" }

func (e *missingError) Unwrap() error { return e.err }

// login returns the session, which begins when it is first needed. gophercloud asks for another token when one is refused.
func (p *Provider) login(ctx context.Context) (*session, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if p.session != nil {
		return p.session, nil
	}
	client, err := goopenstack.NewClient(p.cfg.AuthURL)
	if err != nil {
		return nil, err
	}
	client.HTTPClient = p.http
	client.UseTokenLock()
	options := &gophercloud.AuthOptions{IdentityEndpoint: p.cfg.AuthURL + "/", AllowReauth: true}
	if p.cfg.CredentialID != "" {
		options.ApplicationCredentialID, options.ApplicationCredentialSecret = p.cfg.CredentialID, p.cfg.CredentialSecret
	} else {
		options.Username, options.DomainName, options.Password = p.cfg.User, p.cfg.UserDomain, p.cfg.Password
		options.Scope = &gophercloud.AuthScope{ProjectName: p.cfg.Project, DomainName: p.cfg.ProjectDomain}
	}
	if err := p.reading(ctx, func() error { return goopenstack.AuthenticateV3(ctx, client, options, gophercloud.EndpointOpts{}) }); err != nil {
		return nil, err
	}
	s := &session{provider: client}
	for _, service := range []struct {
		name string
		to   **gophercloud.ServiceClient
		make func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)
	}{{"compute", &s.compute, goopenstack.NewComputeV2}, {"block storage", &s.volumes, goopenstack.NewBlockStorageV3}, {"image", &s.image, goopenstack.NewImageV2}} {
		if err := p.reading(ctx, func() error {
			*service.to, err = service.make(client, gophercloud.EndpointOpts{Region: p.cfg.Region})
			return err
		}); err != nil {
			return nil, &missingError{service.name, err}
		}
	}
	s.volumes.Microversion = revertVersion
	p.session = s
	return s, nil
}

// fresh asks for another token when the one there is ends soon.
func (p *Provider) fresh(ctx context.Context, s *session) error {
	result, ok := s.provider.GetAuthResult().(interface {
		ExtractInto(any) error
	})
	if !ok {
		return nil
	}
	var token struct {
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := result.ExtractInto(&token); err != nil || token.ExpiresAt.IsZero() || time.Until(token.ExpiresAt) > tokenLeft {
		return nil
	}
	return p.reading(ctx, func() error { return s.provider.Reauthenticate(ctx, s.provider.Token()) })
}

// status of the answer that err is, 0 for none.
func status(err error) int {
	var after *gophercloud.ErrErrorAfterReauthentication
	if errors.As(err, &after) {
		err = after.ErrOriginal
	}
	var answer gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &answer) {
		return answer.Actual
	}
	return 0
}

// refused tells whether a request that ended with err was certainly not carried out.
func refused(err error) bool {
	var token *gophercloud.ErrUnableToReauthenticate
	s := status(err)
	return s >= 400 && s < 500 && s != http.StatusRequestTimeout || connection.Unsent(err) || errors.As(err, &token)
}

// barred tells whether a status says that OpenStack will not carry the request out, now or later.
func barred(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout
}

// again tells whether err is that of a request which may be carried out, or may have been, when it is sent again.
func again(err error) bool {
	var token *gophercloud.ErrUnableToReauthenticate
	if errors.As(err, &token) {
		return again(token.ErrReauth)
	}
	var lost *url.Error
	s := status(err)
	return s != 0 && !barred(s) || errors.As(err, &lost) || connection.Unsent(err) || errors.Is(err, io.ErrUnexpectedEOF)
}

// reading repeats a read, or anything that may be done twice, that got no answer or one of a server in trouble.
func (p *Provider) reading(ctx context.Context, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil || barred(status(err)) || attempt == attempts || ctx.Err() != nil {
			return err
		}
		if webclient.Pause(ctx, attempt, 3*time.Second) != nil {
			return err
		}
	}
}

// text of an error in one line, without the URL, and with what the service says in its body.
func (p *Provider) text(err error) string {
	secrets := []string{p.cfg.Password, p.cfg.CredentialSecret}
	var after *gophercloud.ErrErrorAfterReauthentication
	if errors.As(err, &after) {
		err = after.ErrOriginal
	}
	var refused *gophercloud.ErrUnableToReauthenticate
	if errors.As(err, &refused) {
		return "no new token: " + p.text(refused.ErrReauth)
	}
	var answer gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &answer) {
		said := strings.TrimSpace(string(answer.Body))
		var body map[string]json.RawMessage
		if json.Unmarshal(answer.Body, &body) == nil {
			for _, part := range body {
				var fault struct {
					Message string `json:"message"`
				}
				if json.Unmarshal(part, &fault) == nil && fault.Message != "" {
					said = fault.Message
				}
			}
		}
		return webclient.Clean(fmt.Sprintf("%s (%d)", strings.TrimSuffix(said, "."), answer.Actual), secrets...)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return webclient.Clean(err.Error(), secrets...)
}

func (p *Provider) fail(vm hypervisor.VM, what string, err error) error {
	var notFound *hypervisor.NotFoundError
	if errors.As(err, &notFound) {
		return err
	}
	return fmt.Errorf("%s: %w", vm.Node, p.told(what, err))
}

func (p *Provider) told(what string, err error) error {
	return fmt.Errorf("openstack: %s: %w", what, webclient.Hide(err, p.text(err)))
}

// server is what Nova says of one.
type server struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Status  string          `json:"status"`
	Task    *string         `json:"OS-EXT-STS:task_state"`
	Image   json.RawMessage `json:"image"`
	Flavor  struct{ ID string }
	Volumes []struct {
		ID string `json:"id"`
	} `json:"os-extended-volumes:volumes_attached"`
}

// bootsFromImage tells whether the root disk is no volume.
func (s server) bootsFromImage() bool { return len(s.Image) > 0 && s.Image[0] == '{' }

func (s server) task() string {
	if s.Task == nil {
		return ""
	}
	return *s.Task
}

type ambiguousError struct {
	name  string
	count int
}

func (e *ambiguousError) Error() string {
	return fmt.Sprintf("%d servers are called %s: name the one by its id", e.count, e.name)
}

// server of a VM, by its id or by its name, which must be that of one server only.
func (p *Provider) server(ctx context.Context, s *session, vm hypervisor.VM) (server, error) {
	var one struct{ Server server }
	err := p.get(ctx, s.compute, s.compute.ServiceURL("servers", url.PathEscape(vm.ID)), &one)
	if err == nil {
		return one.Server, nil
	}
	if c := status(err); c != http.StatusNotFound && c != http.StatusBadRequest {
		return server{}, err
	}
	var found []server
	var list struct {
		Servers []server
		Links   []link `json:"servers_links"`
	}
	address := s.compute.ServiceURL("servers", "detail") + "?name=" + url.QueryEscape(vm.ID) // a regular expression that may fit others
	for address != "" {
		list.Servers, list.Links = nil, nil
		if err := p.get(ctx, s.compute, address, &list); err != nil {
			return server{}, err
		}
		for _, x := range list.Servers {
			if x.Name == vm.ID {
				found = append(found, x)
			}
		}
		address = next(list.Links)
	}
	switch len(found) {
	case 0:
		return server{}, &hypervisor.NotFoundError{Node: vm.Node, What: "server " + vm.ID}
	case 1:
		return found[0], nil
	}
	return server{}, &ambiguousError{vm.ID, len(found)}
}

type link struct{ Rel, Href string }

func next(links []link) string {
	for _, l := range links {
		if l.Rel == "next" {
			return l.Href
		}
	}
	return ""
}

func (p *Provider) get(ctx context.Context, client *gophercloud.ServiceClient, address string, into any) error {
	return p.reading(ctx, func() error {
		_, err := client.Get(ctx, address, into, nil)
		return err
	})
}

// post sends an action that has no answer's body.
func post(ctx context.Context, client *gophercloud.ServiceClient, address string, body any) error {
	resp, err := client.Post(ctx, address, body, nil, &gophercloud.RequestOpts{OkCodes: []int{200, 201, 202, 204}, KeepResponseBody: true})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return err
}

// act sends an action that may be sent again when its answer was lost.
func (p *Provider) act(ctx context.Context, client *gophercloud.ServiceClient, address string, body any) error {
	return p.reading(ctx, func() error { return post(ctx, client, address, body) })
}

// Keys of metadata, on snapshots and images.
const (
	keySnapshot = "katoflow_snapshot"
	keyServer   = "katoflow_server"
	// keyDisks is how many disks the server had, so that a set that lacks one is known.
	keyDisks = "katoflow_disks"
	// keyRequest tells the disks of one shot from those of another of the same name.
	keyRequest = "katoflow_request"
	// keyDevice is where the volume was attached.
	keyDevice = "katoflow_device"
)

// part is the snapshot of one disk.
type part struct {
	id      string
	volume  string // "" for an image
	device  string
	status  string
	size    int64
	created time.Time
	meta    map[string]string
}

// passed tells whether the part's moment certainly lies in the past.
func (x part) passed() bool { return x.status != "creating" && x.status != "queued" }

func (x part) state() hypervisor.State {
	switch x.status {
	case "available", "active", "backing-up", "restoring":
		return hypervisor.Ready
	case "creating", "queued", "saving", "importing", "uploading":
		return hypervisor.Pending
	}
	return hypervisor.Failed
}

type cinderSnapshot struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Volume   string            `json:"volume_id"`
	Status   string            `json:"status"`
	Size     int64             `json:"size"`
	Created  string            `json:"created_at"`
	Metadata map[string]string `json:"metadata"`
}

func moment(s string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	return time.Time{}
}

func (c cinderSnapshot) part() part {
	return part{id: c.ID, volume: c.Volume, device: c.Metadata[keyDevice], status: c.Status, size: c.Size << 30, created: moment(c.Created), meta: c.Metadata}
}

// cinder lists snapshots that a query names.
func (p *Provider) cinder(ctx context.Context, s *session, query url.Values) ([]cinderSnapshot, error) {
	var all []cinderSnapshot
	address := s.volumes.ServiceURL("snapshots", "detail") + "?" + query.Encode()
	for address != "" {
		var list struct {
			Snapshots []cinderSnapshot
			Links     []link `json:"snapshots_links"`
		}
		if err := p.get(ctx, s.volumes, address, &list); err != nil {
			return nil, err
		}
		all = append(all, list.Snapshots...)
		address = next(list.Links)
	}
	return all, nil
}

// images lists images of a server.
func (p *Provider) images(ctx context.Context, s *session, id string) ([]part, error) {
	var all []part
	base, err := url.Parse(s.image.ServiceURL("images"))
	if err != nil {
		return nil, err
	}
	address := base.String() + "?" + url.Values{keyServer: {id}}.Encode()
	for address != "" {
		var list struct {
			Images []map[string]any
			Next   string
		}
		if err := p.get(ctx, s.image, address, &list); err != nil {
			return nil, err
		}
		for _, image := range list.Images {
			x := part{meta: map[string]string{}}
			for key, value := range image {
				if s, ok := value.(string); ok {
					x.meta[key] = s
				}
			}
			x.id, x.status, x.created = x.meta["id"], x.meta["status"], moment(x.meta["created_at"])
			if size, ok := image["size"].(json.Number); ok {
				x.size, _ = size.Int64()
			} else if size, ok := image["size"].(float64); ok {
				x.size = int64(size)
			}
			all = append(all, x)
		}
		address = ""
		if list.Next != "" {
			u, err := base.Parse(list.Next)
			if err != nil {
				return nil, err
			}
			address = u.String()
		}
	}
	return all, nil
}

// set is what one shot made.
type set struct {
	name  string
	parts []part
	disks int
}

func (x set) complete() bool { return len(x.parts) >= x.disks && x.disks > 0 }

func (x set) passed() bool {
	for _, p := range x.parts {
		if !p.passed() {
			return false
		}
	}
	return true
}

func (x set) created() time.Time {
	var first time.Time
	for _, p := range x.parts {
		if first.IsZero() || p.created.Before(first) {
			first = p.created
		}
	}
	return first
}

func (x set) view() hypervisor.Snapshot {
	v := hypervisor.Snapshot{Name: x.name, State: hypervisor.Ready, Created: x.created()}
	var ids []string
	for _, p := range x.parts {
		ids = append(ids, p.id)
		v.Size += p.size
		switch s := p.state(); {
		case s == hypervisor.Failed:
			v.State = s
		case s == hypervisor.Pending && v.State == hypervisor.Ready:
			v.State = s
		}
	}
	if !x.complete() {
		v.State = hypervisor.Failed
	}
	slices.Sort(ids)
	v.ID = strings.Join(ids, ",")
	return v
}

// sets of a server, oldest first. name "" is for all.
func (p *Provider) sets(ctx context.Context, s *session, id, name string) ([]set, error) {
	query := url.Values{}
	if name != "" {
		query.Set("name", name)
	}
	snapshots, err := p.cinder(ctx, s, query)
	if err != nil {
		return nil, err
	}
	parts, err := p.images(ctx, s, id)
	if err != nil {
		return nil, err
	}
	for _, c := range snapshots {
		parts = append(parts, c.part())
	}
	byRequest := map[string]*set{}
	var sets []*set
	for _, x := range parts {
		if x.meta[keyServer] != id || x.meta[keySnapshot] == "" || name != "" && x.meta[keySnapshot] != name || x.status == "deleted" || x.status == "deleting" || x.status == "pending_delete" {
			continue
		}
		key := x.meta[keySnapshot] + "\n" + x.meta[keyRequest]
		if byRequest[key] == nil {
			byRequest[key] = &set{name: x.meta[keySnapshot]}
			_, _ = fmt.Sscan(x.meta[keyDisks], &byRequest[key].disks) // 0, which is never complete
			sets = append(sets, byRequest[key])
		}
		byRequest[key].parts = append(byRequest[key].parts, x)
	}
	result := make([]set, len(sets))
	for i, x := range sets {
		result[i] = *x
	}
	slices.SortStableFunc(result, func(a, b set) int {
		if c := a.created().Compare(b.created()); c != 0 {
			return c
		}
		return strings.Compare(a.view().ID, b.view().ID)
	})
	return result, nil
}

// which of several sets of one name counts: the oldest that has all its disks.
func which(sets []set) set {
	for _, s := range sets {
		if s.complete() {
			return s
		}
	}
	return sets[0]
}

// named returns the sets of a name when their moments have passed, and after a lost answer when no more will come.
func (p *Provider) named(ctx context.Context, s *session, id, name string) ([]set, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Wait, fmt.Errorf("its moment has not passed after %s", p.cfg.Wait))
	defer cancel()
	for {
		sets, err := p.sets(ctx, s, id, name)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		since, lost := p.unsure[id+"\n"+name]
		p.mu.Unlock()
		whole := len(sets) > 0 && which(sets).complete()
		if lost && !whole && time.Since(since) < p.cfg.Settle || slices.ContainsFunc(sets, func(x set) bool { return !x.passed() }) {
			if err := p.pause(ctx); err != nil {
				return nil, err
			}
			continue
		}
		return sets, nil
	}
}

func (p *Provider) pause(ctx context.Context) error {
	timer := time.NewTimer(p.cfg.Poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// run runs do with the session and the server of a VM.
func (p *Provider) run(ctx context.Context, vm hypervisor.VM, do func(*session, server) error) error {
	s, err := p.login(ctx)
	if err != nil {
		return err
	}
	x, err := p.server(ctx, s, vm)
	if err != nil {
		return err
	}
	return do(s, x)
}

// on is run that names VM and purpose in its error.
func (p *Provider) on(ctx context.Context, vm hypervisor.VM, what string, do func(*session, server) error) error {
	if err := p.run(ctx, vm, do); err != nil {
		return p.fail(vm, what, err)
	}
	return nil
}

// change is on for what changes something and may be done again: its error is an *UnknownError where OpenStack has not refused for good.
func (p *Provider) change(ctx context.Context, vm hypervisor.VM, what string, do func(*session, server) error) error {
	err := p.run(ctx, vm, do)
	if err == nil {
		return nil
	}
	if again(err) {
		return &hypervisor.UnknownError{Node: vm.Node, Err: p.told(what, err)}
	}
	return p.fail(vm, what, err)
}

// Find is hypervisor.Provider's. It waits until the snapshot's moment has passed.
func (p *Provider) Find(ctx context.Context, vm hypervisor.VM, name string) (found hypervisor.Snapshot, ok bool, err error) {
	err = p.on(ctx, vm, "look for snapshot "+name, func(s *session, x server) error {
		sets, err := p.named(ctx, s, x.ID, name)
		if err == nil && len(sets) > 0 {
			found, ok = which(sets).view(), true
		}
		return err
	})
	return found, ok, err
}

// List is hypervisor.Provider's. It does not wait: the moment of one that is Pending may still be to come.
func (p *Provider) List(ctx context.Context, vm hypervisor.VM, prefix string) ([]hypervisor.Snapshot, error) {
	var list []hypervisor.Snapshot
	err := p.on(ctx, vm, "list snapshots", func(s *session, x server) error {
		sets, err := p.sets(ctx, s, x.ID, "")
		byName := map[string][]set{}
		for _, set := range sets {
			if strings.HasPrefix(set.name, prefix) {
				byName[set.name] = append(byName[set.name], set)
			}
		}
		for _, same := range byName {
			list = append(list, which(same).view())
		}
		return err
	})
	slices.SortFunc(list, func(a, b hypervisor.Snapshot) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, err
}

// Delete is hypervisor.Provider's. It returns when nothing is left: Cinder deletes in its own time.
func (p *Provider) Delete(ctx context.Context, vm hypervisor.VM, name string) error {
	return p.change(ctx, vm, "delete snapshot "+name, func(s *session, x server) error {
		sets, err := p.named(ctx, s, x.ID, name)
		if err != nil {
			return err
		}
		for _, set := range sets {
			for _, part := range set.parts {
				if err := p.remove(ctx, s, part); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (p *Provider) remove(ctx context.Context, s *session, x part) error {
	client, address := s.volumes, s.volumes.ServiceURL("snapshots", x.id)
	if x.volume == "" {
		client, address = s.image, s.image.ServiceURL("images", x.id)
	}
	err := p.reading(ctx, func() error {
		_, err := client.Delete(ctx, address, nil)
		return err
	})
	if status(err) == http.StatusNotFound {
		return nil
	}
	if err != nil || x.volume == "" {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Wait, fmt.Errorf("snapshot %s is not gone after %s", x.id, p.cfg.Wait))
	defer cancel()
	for {
		var one struct{ Snapshot cinderSnapshot }
		err := p.get(ctx, client, address, &one)
		switch {
		case status(err) == http.StatusNotFound:
			return nil
		case err != nil:
			return err
		case strings.HasPrefix(one.Snapshot.Status, "error"):
			return fmt.Errorf("snapshot %s is %s: cinder could not delete it", x.id, one.Snapshot.Status)
		}
		if err := p.pause(ctx); err != nil {
			return err
		}
	}
}

// Power is hypervisor.Provider's.
func (p *Provider) Power(ctx context.Context, vm hypervisor.VM) (power hypervisor.Power, err error) {
	power = hypervisor.Other
	err = p.on(ctx, vm, "ask for its power", func(_ *session, x server) error {
		switch {
		case x.task() != "":
		case x.Status == "ACTIVE":
			power = hypervisor.On
		case x.Status == "SHUTOFF":
			power = hypervisor.Off
		}
		return nil
	})
	return power, err
}

// Start is hypervisor.Provider's.
func (p *Provider) Start(ctx context.Context, vm hypervisor.VM) error {
	return p.turnTo(ctx, vm, "start it", "os-start", "ACTIVE", "powering-on")
}

// Stop is hypervisor.Provider's. Nova asks the guest, and takes its power away when it has not shut down in the time that the cloud or the image sets (a minute); there is no
// request that does so at once, so hard is the same.
func (p *Provider) Stop(ctx context.Context, vm hypervisor.VM, _ bool) error {
	return p.turnTo(ctx, vm, "stop it", "os-stop", "SHUTOFF", "powering-off")
}

func (p *Provider) turnTo(ctx context.Context, vm hypervisor.VM, what, action, want, task string) error {
	return p.change(ctx, vm, what, func(s *session, x server) error {
		there := func(x server) bool { return x.Status == want && x.task() == "" || x.task() == task }
		if there(x) {
			return nil
		}
		err := p.act(ctx, s.compute, s.compute.ServiceURL("servers", x.ID, "action"), map[string]any{action: nil})
		if status(err) == http.StatusConflict {
			// An answer was lost and this was the second request, or somebody else was quicker.
			if now, again := p.server(ctx, s, vm); again == nil && there(now) {
				return nil
			}
		}
		return err
	})
}
