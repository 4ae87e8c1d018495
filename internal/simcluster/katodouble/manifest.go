package katodouble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Patch is one of the vendor's manifest.
type Patch struct {
	ID          int    `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	// Severity is `required`; no other word is known (kato.md §3.6).
	Severity string `json:"severity"`
	// Roles that it changes: it concerns the nodes that have one of them.
	Roles []string `json:"roles"`
}

// DefaultPatches are those of the manifest at the start. Every node has one to install. The first two are the source page's.
func DefaultPatches() []Patch {
	return []Patch{
		{ID: 1, Name: "dea-memory-usage-reporting", Description: "Fix the reporting of helion stats usage on the DEA end.", Severity: "required", Roles: []string{"dea"}},
		{ID: 2, Name: "vsphere-autoscaling-fix", Description: "Fix VSphere autoscaling behavior.", Severity: "required", Roles: []string{"controller", "primary"}},
		{ID: 3, Name: "log-stream-reconnect", Description: "Reconnect log streams after a network failure.", Severity: "required", Roles: []string{"router", "base"}},
	}
}

// Manifest is what the vendor offers now. The zero value is an empty one.
type Manifest struct {
	mu   sync.Mutex
	list []Patch
}

// Set replaces the patches.
func (m *Manifest) Set(list []Patch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = slices.Clone(list)
}

// Get returns the patches.
func (m *Manifest) Get() []Patch {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list)
}

// ManifestPath is where a ManifestHandler has the manifest.
const ManifestPath = "/patches"

// ManifestHandler is the vendor's server: GET ManifestPath answers with the manifest, a JSON array of Patch, and GET ManifestPath/NAME with a patch, 404 for one that is not
// in it. Where the real ones are, and what they look like, is not known (kato.md §3.6).
func ManifestHandler(m *Manifest) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ManifestPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(append([]Patch{}, m.Get()...)) // a reader that is gone needs nothing
	})
	mux.HandleFunc("GET "+ManifestPath+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if !slices.ContainsFunc(m.Get(), func(p Patch) bool { return p.Name == name }) {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, "patch %s\n", name)
	})
	return mux
}

// ServeManifest serves a manifest (ManifestHandler) at an address, HOST:PORT, with port 0 at any free one, and returns the URL of it, for Cluster.SetManifest and Site.
// stop ends it and every connection to it.
func ServeManifest(address string, m *Manifest) (manifest string, stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("vendor's manifest: %w", err)
	}
	server := &http.Server{Handler: ManifestHandler(m), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // it ends with stop
	}()
	return "http://" + listener.Addr().String() + ManifestPath, func() {
		_ = server.Close()
		<-served
	}, nil
}

// SetManifest says at which URL the nodes' katos find the vendor's manifest; "" = its name is not known on this network.
func (c *Cluster) SetManifest(manifest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.manifest = manifest
}

const (
	// fetchTimeout is after how long a vendor that does not answer is away.
	fetchTimeout = 10 * time.Second
	// vendor is what kato asks where no other manifest is set (kato.md §3.6).
	vendor = "https://get.stackato.com"
	// refused is how the system says that nobody listens.
	refused = "Connection refused"
)

// dialer connects as a program of a node, which is named by its id.
type dialer func(ctx context.Context, node, network, address string) (net.Conn, error)

// unfetched is an error of fetch: what was asked for, and why it did not come.
type unfetched string

func (e unfetched) Error() string { return string(e) }

// fetch asks the vendor, as a node does, for the manifest, or for the patch of that name, of which only that it comes counts. Its error is an unfetched.
func (c *Cluster) fetch(ctx context.Context, dial dialer, id, name string) (list []Patch, err error) {
	c.mu.Lock()
	place := c.manifest
	var own NodePatches
	if n := c.nodes[id]; n != nil {
		own = n.patches
	}
	c.mu.Unlock()
	failed := func(why string) ([]Patch, error) { return nil, unfetched(place + ": " + why) }
	if place == "" {
		place = vendor
		return failed("getaddrinfo: Name or service not known")
	}
	if name != "" {
		place = strings.TrimSuffix(place, "/") + "/" + url.PathEscape(name)
	}
	if own.Fault == PatchNoManifest {
		return failed(refused)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return failed(err.Error())
	}
	transport := &http.Transport{DisableKeepAlives: true, Proxy: own.proxy}
	if dial != nil {
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			return dial(ctx, id, network, address)
		}
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return failed(whyNot(err))
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	switch {
	case answer.StatusCode != http.StatusOK:
		return failed(answer.Status)
	case err != nil:
		return failed(whyNot(err))
	case name != "":
		return nil, nil
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return failed("it is no manifest: " + err.Error())
	}
	return list, nil
}

// whyNot is an error of the network in the words of the system.
func whyNot(err error) string {
	var number syscall.Errno
	var name *net.DNSError
	var told *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "execution expired"
	case errors.As(err, &name):
		return "getaddrinfo: Name or service not known"
	case errors.Is(err, net.ErrClosed):
		return "Connection reset by peer"
	case errors.As(err, &number):
		text := number.Error()
		return strings.ToUpper(text[:1]) + text[1:]
	case errors.As(err, &told):
		return told.Err.Error()
	}
	return err.Error()
}

// proxy of a request that the node makes, nil for none.
func (p NodePatches) proxy(r *http.Request) (*url.URL, error) {
	if p.UpstreamProxy == "" {
		return nil, nil
	}
	host := r.URL.Hostname()
	for _, past := range strings.Split(p.NoProxy, ",") {
		past = strings.TrimLeft(strings.TrimSpace(past), "*.")
		if past != "" && (host == past || strings.HasSuffix(host, "."+past)) {
			return nil, nil
		}
	}
	u := &url.URL{Scheme: "http", Host: p.UpstreamProxy}
	if p.ProxyUser != "" {
		u.User = url.UserPassword(p.ProxyUser, p.ProxyPassword)
	}
	return u, nil
}
