package vsphere

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
)

// vcenter is govmomi's simulator of a vCenter, behind a proxy that brings faults to the wire and keeps a log.
type vcenter struct {
	t     *testing.T
	model *simulator.Model
	url   *url.URL // the simulator itself
	proxy *httptest.Server

	mu      sync.Mutex
	faults  []wireFault
	calls   []string            // methods, in the order in which they arrived
	from    map[string][]string // method -> addresses it came from
	arrived chan string
}

// wireFault is what happens to the next requests of a method.
type wireFault struct {
	method string
	times  int
	do     func(w http.ResponseWriter, forward func() *http.Response)
}

var soapMethod = regexp.MustCompile(`<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)`)

// startVCenter starts a vCenter with two hosts' worth of VMs, DC0_H0_VM0.. and DC0_C0_RP0_VM0.., that run and whose guests have VMware Tools.
func startVCenter(t *testing.T, machines int) *vcenter {
	t.Helper()
	model := simulator.VPX()
	model.Machine = machines
	require.NoError(t, model.Create())
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("katoflow@vsphere.local", "kennwort")}
	model.Service.RegisterEndpoints = true
	server := model.Service.NewServer()
	v := &vcenter{t: t, model: model, url: server.URL, from: map[string][]string{}, arrived: make(chan string, 10_000)}
	reverse := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: server.URL.Scheme, Host: server.URL.Host})
	reverse.Transport = &http.Transport{DisableKeepAlives: true} // whoever counts what is left after a provider counts none of the proxy
	v.proxy = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.serve(w, r, reverse) }))
	v.proxy.StartTLS()
	t.Cleanup(func() {
		v.proxy.Close()
		server.Close()
		model.Remove()
	})
	for _, m := range model.Map().All("VirtualMachine") {
		v.update(m.(*simulator.VirtualMachine), types.PropertyChange{Name: "guest.toolsRunningStatus", Val: string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)})
	}
	return v
}

func (v *vcenter) serve(w http.ResponseWriter, r *http.Request, reverse *httputil.ReverseProxy) {
	body, _ := io.ReadAll(r.Body)
	method := ""
	if m := soapMethod.FindSubmatch(body); m != nil {
		method = string(m[1])
	}
	forward := func() *http.Response {
		recorder := httptest.NewRecorder()
		again := r.Clone(context.WithoutCancel(r.Context())) // a request that was heard is carried out whatever the client does
		again.Body = io.NopCloser(bytes.NewReader(body))
		reverse.ServeHTTP(recorder, again)
		return recorder.Result()
	}
	v.mu.Lock()
	v.calls = append(v.calls, method)
	v.from[method] = append(v.from[method], r.RemoteAddr)
	var do func(http.ResponseWriter, func() *http.Response)
	for i := range v.faults {
		if (v.faults[i].method == method || v.faults[i].method == "*") && v.faults[i].times > 0 {
			v.faults[i].times--
			do = v.faults[i].do
			break
		}
	}
	v.mu.Unlock()
	select {
	case v.arrived <- method:
	default:
	}
	if do != nil {
		do(w, forward)
		return
	}
	resp := forward()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func hangUp(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// lostAnswer carries the request out and ends the connection without an answer.
func lostAnswer(w http.ResponseWriter, forward func() *http.Response) {
	forward()
	hangUp(w)
}

// unheard ends the connection and carries nothing out.
func unheard(w http.ResponseWriter, _ func() *http.Response) { hangUp(w) }

// unavailable is the answer of a vCenter whose services have not started.
func unavailable(w http.ResponseWriter, _ func() *http.Response) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

func (v *vcenter) fault(method string, times int, do func(http.ResponseWriter, func() *http.Response)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = append(v.faults, wireFault{method, times, do})
}

func (v *vcenter) count(method string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, c := range v.calls {
		if c == method {
			n++
		}
	}
	return n
}

// await waits until a request of the method has arrived.
func (v *vcenter) await(method string) {
	v.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case m := <-v.arrived:
			if m == method {
				return
			}
		case <-deadline:
			v.t.Fatalf("no request %s", method)
		}
	}
}

func (v *vcenter) addresses(method string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.from[method])
}

func (v *vcenter) config() Config {
	return Config{
		URL: v.proxy.URL, User: "katoflow@vsphere.local", Password: "kennwort", FreeShare: 1e-9,
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.proxy.Certificate().Raw}),
	}
}

func (v *vcenter) open(change ...func(*Config)) *Provider {
	v.t.Helper()
	cfg := v.config()
	for _, c := range change {
		c(&cfg)
	}
	p, err := Open(cfg)
	require.NoError(v.t, err)
	v.t.Cleanup(func() { require.NoError(v.t, p.Close()) })
	return p
}

func (v *vcenter) machine(name string) *simulator.VirtualMachine {
	v.t.Helper()
	for _, m := range v.model.Map().All("VirtualMachine") {
		if m.(*simulator.VirtualMachine).Name == name {
			return m.(*simulator.VirtualMachine)
		}
	}
	v.t.Fatalf("no VM %s", name)
	return nil
}

func (v *vcenter) update(m mo.Reference, changes ...types.PropertyChange) {
	ctx := v.model.Service.Context
	ctx.WithLock(m, func() { ctx.Update(m, changes) })
}

// write puts something on a VM's disk, which the simulator keeps with snapshots as it does with data sets.
func (v *vcenter) write(name, content string) {
	m := v.machine(name)
	v.model.Service.Context.WithLock(m, func() {
		m.DataSets = map[string]*simulator.DataSet{"disk": {Info: dataSetInfo(), ID: "disk", Entries: map[string]string{"content": content}}}
	})
}

func (v *vcenter) content(name string) string {
	m := v.machine(name)
	content := ""
	v.model.Service.Context.WithLock(m, func() {
		if d := m.DataSets["disk"]; d != nil {
			content = d.Entries["content"]
		}
	})
	return content
}

// names of the snapshots that the simulator has of a VM.
func (v *vcenter) names(name string) []string {
	m := v.machine(name)
	var names []string
	v.model.Service.Context.WithLock(m, func() {
		if m.Snapshot != nil {
			for _, s := range tree(m.Snapshot.RootSnapshotList) {
				names = append(names, s.Name)
			}
		}
	})
	return names
}

// outside is a client of another administrator, past the proxy.
func (v *vcenter) outside() *govmomi.Client {
	v.t.Helper()
	ctx := context.Background()
	client, err := govmomi.NewClient(ctx, v.url, true)
	require.NoError(v.t, err)
	v.t.Cleanup(func() { _ = client.Logout(ctx) })
	return client
}

// endSessions ends the session of everybody else.
func (v *vcenter) endSessions() {
	v.t.Helper()
	ctx := context.Background()
	client := v.outside()
	own, err := session.NewManager(client.Client).UserSession(ctx)
	require.NoError(v.t, err)
	var manager mo.SessionManager
	require.NoError(v.t, client.RetrieveOne(ctx, *client.ServiceContent.SessionManager, []string{"sessionList"}, &manager))
	var others []string
	for _, s := range manager.SessionList {
		if s.Key != own.Key {
			others = append(others, s.Key)
		}
	}
	require.NotEmpty(v.t, others)
	_, err = methods.TerminateSession(ctx, client.Client, &types.TerminateSession{This: *client.ServiceContent.SessionManager, SessionId: others})
	require.NoError(v.t, err)
}

// slowTasks has the simulator's tasks take a while, and its objects be readable meanwhile.
func slowTasks(t *testing.T, milliseconds int, names ...string) {
	t.Helper()
	before := simulator.TaskDelay
	delays := map[string]int{"LockHandoff": 0}
	for _, n := range names {
		delays[n] = milliseconds
	}
	simulator.TaskDelay = simulator.DelayConfig{MethodDelay: delays}
	t.Cleanup(func() { simulator.TaskDelay = before })
}

func node(name string) hypervisor.VM { return hypervisor.VM{Node: "node-of-" + name, ID: name} }
