// Package vspheretest is a vCenter for tests: govmomi's simulator in this process, behind a proxy that brings faults to the wire and keeps a log.
package vspheretest

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vapi/vm/dataset"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The account that is let in.
const (
	User     = "katoflow@vsphere.local"
	Password = "kennwort"
)

// limit is what a busy machine needs for anything; nothing runs into it.
const limit = 2 * time.Minute

// VCenter has VMs that run, and whose guests have VMware Tools.
type VCenter struct {
	// Model of the simulator, for what is not here.
	Model *simulator.Model

	t     testing.TB
	url   *url.URL // the simulator itself
	proxy *httptest.Server

	mu     sync.Mutex
	faults []fault
	calls  []Call // in the order in which they arrived
	held   *hold
	denied []string
}

// Call is a request that arrived.
type Call struct{ Method, From string }

// Answer is what becomes of a request: forward has the simulator answer it.
type Answer func(w http.ResponseWriter, forward func() *http.Response)

type fault struct {
	method string
	times  int
	answer Answer
}

var soapMethod = regexp.MustCompile(`<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)`)

// Start returns a vCenter that ends with the test. It has twice as many VMs as machines says: DC0_H0_VM0 and so on of a host, DC0_C0_RP0_VM0 and so on of a cluster.
func Start(t testing.TB, machines int) *VCenter {
	t.Helper()
	v := &VCenter{Model: simulator.VPX(), t: t}
	v.Model.Machine = machines
	require.NoError(t, v.Model.Create())
	v.Model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(User, Password)}
	v.Model.Service.RegisterEndpoints = true
	server := v.Model.Service.NewServer()
	v.url = server.URL
	reverse := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: server.URL.Scheme, Host: server.URL.Host})
	reverse.Transport = &http.Transport{DisableKeepAlives: true} // whoever counts what is left after a provider counts none of the proxy
	reverse.ErrorLog = log.New(io.Discard, "", 0)
	v.proxy = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.serve(w, r, reverse) }))
	v.proxy.Config.ErrorLog = reverse.ErrorLog // clients that go away, and those that do not trust it
	v.proxy.StartTLS()
	t.Cleanup(func() {
		v.release()
		v.proxy.Close()
		server.Close()
		v.Model.Remove()
	})
	for _, name := range v.VMs() {
		v.Tools(name, true)
		v.Update(v.Machine(name), types.PropertyChange{Name: "capability.snapshotOperationsSupported", Val: true})
	}
	return v
}

// URL of the vCenter.
func (v *VCenter) URL() string { return v.proxy.URL }

// CA are the certificates that it is verified against, PEM.
func (v *VCenter) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.proxy.Certificate().Raw})
}

func (v *VCenter) serve(w http.ResponseWriter, r *http.Request, reverse *httputil.ReverseProxy) {
	body, _ := io.ReadAll(r.Body)
	method := ""
	if m := soapMethod.FindSubmatch(body); m != nil {
		method = string(m[1])
	}
	forward := func() *http.Response {
		ctx := r.Context()
		if !strings.HasPrefix(method, "WaitFor") {
			ctx = context.WithoutCancel(ctx) // a request that was heard is carried out whatever the client does
		}
		recorder := httptest.NewRecorder()
		again := r.Clone(ctx)
		sent := v.toHeld(method, body)
		again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(sent)), int64(len(sent))
		reverse.ServeHTTP(recorder, again)
		return recorder.Result()
	}
	v.mu.Lock()
	v.calls = append(v.calls, Call{method, r.RemoteAddr})
	answer := Heard
	for i := range v.faults {
		if (v.faults[i].method == method || v.faults[i].method == "*") && v.faults[i].times > 0 {
			v.faults[i].times--
			answer = v.faults[i].answer
			break
		}
	}
	if method == "HasPrivilegeOnEntity" && len(v.denied) > 0 {
		answer = v.deny(body)
	}
	v.mu.Unlock()
	answer(w, forward)
}

var soapPrivilege = regexp.MustCompile(`<privId>([^<]+)</privId>`)

// deny answers which of the privileges that are asked for the account has. The simulator grants all, and leaves every false out of a list.
func (v *VCenter) deny(body []byte) Answer {
	var has strings.Builder
	for _, p := range soapPrivilege.FindAllSubmatch(body, -1) {
		fmt.Fprintf(&has, "<returnval>%t</returnval>", !slices.Contains(v.denied, string(p[1])))
	}
	return func(w http.ResponseWriter, _ func() *http.Response) {
		envelope(w, `<HasPrivilegeOnEntityResponse xmlns="urn:vim25">`+has.String()+`</HasPrivilegeOnEntityResponse>`)
	}
}

// Heard is the answer where there is no fault.
func Heard(w http.ResponseWriter, forward func() *http.Response) {
	resp := forward()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// LateEnd answers, and says only some time later that the answer has ended.
func LateEnd(w http.ResponseWriter, forward func() *http.Response) {
	resp := forward()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
	_ = http.NewResponseController(w).Flush()
	time.Sleep(10 * time.Millisecond)
}

func hangUp(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// LostAnswer has the request carried out and ends the connection without an answer.
func LostAnswer(w http.ResponseWriter, forward func() *http.Response) {
	forward()
	hangUp(w)
}

// Unheard ends the connection, and nothing is carried out.
func Unheard(w http.ResponseWriter, _ func() *http.Response) { hangUp(w) }

// Unavailable is the answer of a vCenter whose services have not started.
func Unavailable(w http.ResponseWriter, _ func() *http.Response) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

// Fault answers the next requests of a method, "*" for any, so many times.
func (v *VCenter) Fault(method string, times int, answer Answer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = append(v.faults, fault{method, times, answer})
}

// ClearFaults ends all of them.
func (v *VCenter) ClearFaults() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = nil
}

// Calls that arrived of a method, "" for all.
func (v *VCenter) Calls(method string) []Call {
	v.mu.Lock()
	defer v.mu.Unlock()
	if method == "" {
		return slices.Clone(v.calls)
	}
	var of []Call
	for _, c := range v.calls {
		if c.Method == method {
			of = append(of, c)
		}
	}
	return of
}

// Changes counts the requests that change something.
func (v *VCenter) Changes() int {
	n := 0
	for _, c := range v.Calls("") {
		if strings.HasSuffix(c.Method, "_Task") || c.Method == "ShutdownGuest" {
			n++
		}
	}
	return n
}

// Await waits until so many requests of the method have arrived.
func (v *VCenter) Await(method string, times int) {
	v.t.Helper()
	require.Eventually(v.t, func() bool { return len(v.Calls(method)) >= times }, limit, time.Millisecond, method)
}

// hold is how the tasks that make snapshots are held.
type hold struct {
	released chan struct{}
	// early: the snapshot is made at once, and only the task's end is held.
	early bool
	// fault that the task ends with in the place of a snapshot.
	fault types.BaseMethodFault
}

// Hold has the tasks that make snapshots not do anything, and not end, until it is released or the test ends.
func (v *VCenter) Hold() (release func()) { return v.hold(&hold{}) }

// HoldEnd has the tasks that make snapshots make them, and not end until it is released or the test ends.
func (v *VCenter) HoldEnd() (release func()) { return v.hold(&hold{early: true}) }

// HoldAndFail has the tasks that make snapshots end with a fault when it is released or the test ends.
func (v *VCenter) HoldAndFail(fault types.BaseMethodFault) (release func()) {
	return v.hold(&hold{fault: fault})
}

func (v *VCenter) hold(h *hold) (release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h.released = make(chan struct{})
	v.held = h
	return v.release
}

func (v *VCenter) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.held != nil {
		close(v.held.released)
		v.held = nil
	}
}

// Deny takes privileges from the account, on everything.
func (v *VCenter) Deny(privileges ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.denied = privileges
}

var soapThis = regexp.MustCompile(`<_this [^>]*type="(\w+)"[^>]*>([^<]+)</_this>`)

// toHeld is the request that a held machine answers in the place of the simulator's own, or the request as it is.
func (v *VCenter) toHeld(method string, body []byte) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	this := soapThis.FindSubmatch(body)
	if this == nil || method != "ConsolidateVMDisks_Task" && (method != "CreateSnapshot_Task" || v.held == nil) {
		return body
	}
	machine, ok := v.Model.Map().Get(types.ManagedObjectReference{Type: string(this[1]), Value: string(this[2])}).(*simulator.VirtualMachine)
	if !ok {
		return body
	}
	held := types.ManagedObjectReference{Type: "HeldMachine", Value: string(this[2])}
	v.Model.Map().Put(&heldMachine{held, machine, v, v.held})
	return bytes.Replace(body, this[0], []byte(`<_this type="`+held.Type+`">`+held.Value+`</_this>`), 1)
}

// heldMachine does what the simulator's own machine does otherwise, or not at all.
type heldMachine struct {
	Self    types.ManagedObjectReference
	machine *simulator.VirtualMachine
	vcenter *VCenter
	held    *hold
}

// Reference is mo.Reference's.
func (h *heldMachine) Reference() types.ManagedObjectReference { return h.Self }

// CreateSnapshotTask is the API's. Its task has the simulator's own one done when it is released, and ends as that has ended.
func (h *heldMachine) CreateSnapshotTask(_ *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	held, later := h.vcenter.task(h.machine, "createSnapshotEx"), h.vcenter.context()
	create := func() types.TaskInfo {
		if h.held.fault != nil {
			return types.TaskInfo{State: types.TaskInfoStateError, Error: &types.LocalizedMethodFault{Fault: h.held.fault, LocalizedMessage: "it failed"}}
		}
		var ref types.ManagedObjectReference
		later.WithLock(h.machine, func() {
			ref = h.machine.CreateSnapshotTask(later, req).(*methods.CreateSnapshot_TaskBody).Res.Returnval
		})
		own := later.Map.Get(ref).(*simulator.Task)
		own.Wait()
		var info types.TaskInfo
		later.WithLock(own, func() { info = own.Info })
		return info
	}
	go func() {
		var info types.TaskInfo
		if h.held.early {
			info = create()
		}
		<-h.held.released
		if !h.held.early {
			info = create()
		}
		h.vcenter.end(held, info)
	}()
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: held.Self}}
}

// ConsolidateVMDisksTask is the API's, which the simulator does not have.
func (h *heldMachine) ConsolidateVMDisksTask(_ *simulator.Context, _ *types.ConsolidateVMDisks_Task) soap.HasFault {
	held := h.vcenter.task(h.machine, "consolidateDisks")
	go func() {
		h.vcenter.Update(h.machine, types.PropertyChange{Name: "runtime.consolidationNeeded", Val: false})
		h.vcenter.end(held, types.TaskInfo{State: types.TaskInfoStateSuccess})
	}()
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: held.Self}}
}

// task is one on a VM that is under way until end.
func (v *VCenter) task(machine *simulator.VirtualMachine, name string) *simulator.Task {
	held, ctx := simulator.CreateTask(machine, name, nil), v.context()
	held.Info.State = types.TaskInfoStateRunning
	ctx.WithLock(machine, func() { ctx.Map.Put(held) })
	ctx.Map.AtomicUpdate(ctx, held, []types.PropertyChange{{Name: "info.key", Val: held.Self.Value}, {Name: "info.task", Val: held.Self}})
	return held
}

func (v *VCenter) end(held *simulator.Task, info types.TaskInfo) {
	ctx := v.context()
	changes := []types.PropertyChange{{Name: "info.completeTime", Val: time.Now()}, {Name: "info.result", Val: info.Result}, {Name: "info.state", Val: info.State}}
	if info.Error != nil {
		changes = slices.Insert(changes, 0, types.PropertyChange{Name: "info.error", Val: *info.Error})
	}
	ctx.Map.AtomicUpdate(ctx, held, changes)
}

// Task has somebody else do something to a VM, which changes nothing and is under way until it ends.
func (v *VCenter) Task(name, what string) (ref types.ManagedObjectReference, end func()) {
	v.t.Helper()
	held := v.task(v.Machine(name), what)
	return held.Self, func() { v.end(held, types.TaskInfo{State: types.TaskInfoStateSuccess}) }
}

// Started answers a request with a task, and has nothing else done.
func Started(method string, ref types.ManagedObjectReference) Answer {
	return func(w http.ResponseWriter, _ func() *http.Response) {
		envelope(w, fmt.Sprintf(`<%sResponse xmlns="urn:vim25"><returnval type="%s">%s</returnval></%sResponse>`, method, ref.Type, ref.Value, method))
	}
}

func envelope(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	_, _ = fmt.Fprintf(w, `<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`, body)
}

// Busy has somebody else take a snapshot of a VM, which is under way until it ends.
func (v *VCenter) Busy(name string) (end func()) {
	v.t.Helper()
	machine, client, ctx := v.Machine(name), v.Outside(), context.Background()
	release := v.Hold()
	v.mu.Lock()
	held := &heldMachine{machine: machine, vcenter: v, held: v.held}
	v.mu.Unlock()
	body := held.CreateSnapshotTask(v.context(), &types.CreateSnapshot_Task{Name: "somebody's"}).(*methods.CreateSnapshot_TaskBody)
	return func() {
		v.t.Helper()
		release()
		require.NoError(v.t, object.NewTask(client, body.Res.Returnval).Wait(ctx))
		removal, err := object.NewVirtualMachine(client, machine.Reference()).RemoveSnapshot(ctx, "somebody's", false, nil)
		require.NoError(v.t, err)
		require.NoError(v.t, removal.Wait(ctx))
	}
}

// context is one of its own: the simulator's locks let those in who have the same.
func (v *VCenter) context() *simulator.Context {
	ctx := *v.Model.Service.Context
	return &ctx
}

// With does something with an object that nobody else touches meanwhile.
func (v *VCenter) With(m mo.Reference, do func()) { v.context().WithLock(m, do) }

// Update changes properties of an object.
func (v *VCenter) Update(m mo.Reference, changes ...types.PropertyChange) {
	ctx := v.context()
	ctx.WithLock(m, func() { ctx.Update(m, changes) })
}

// VMs are the names of all, in order.
func (v *VCenter) VMs() []string {
	var names []string
	for _, m := range v.Model.Map().All("VirtualMachine") {
		v.With(m, func() { names = append(names, m.Entity().Name) })
	}
	slices.Sort(names)
	return names
}

// Machine of a name.
func (v *VCenter) Machine(name string) *simulator.VirtualMachine {
	v.t.Helper()
	for _, m := range v.Model.Map().All("VirtualMachine") {
		found := false
		v.With(m, func() { found = m.Entity().Name == name })
		if found {
			return m.(*simulator.VirtualMachine)
		}
	}
	require.FailNow(v.t, "no VM "+name)
	return nil
}

// Rename gives a VM another name, which may be that of another.
func (v *VCenter) Rename(from, to string) {
	v.t.Helper()
	v.Update(v.Machine(from), types.PropertyChange{Name: "name", Val: to})
}

// Tools has VMware Tools run in a VM, or not.
func (v *VCenter) Tools(name string, run bool) {
	v.t.Helper()
	status := types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	if run {
		status = types.VirtualMachineToolsRunningStatusGuestToolsRunning
	}
	v.Update(v.Machine(name), types.PropertyChange{Name: "guest.toolsRunningStatus", Val: string(status)})
}

// Disk changes the first disk of a VM.
func (v *VCenter) Disk(name string, change func(*types.VirtualDisk)) {
	v.t.Helper()
	m := v.Machine(name)
	v.With(m, func() {
		change(object.VirtualDeviceList(m.Config.Hardware.Device).SelectByType((*types.VirtualDisk)(nil))[0].(*types.VirtualDisk))
	})
}

// DiskMode sets the mode of a VM's first disk.
func (v *VCenter) DiskMode(name string, mode types.VirtualDiskMode) {
	v.t.Helper()
	v.Disk(name, func(d *types.VirtualDisk) { d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode = string(mode) })
}

// Full takes all space of the datastore until it ends.
func (v *VCenter) Full() (end func()) {
	ds := v.Model.Map().Any("Datastore").(*simulator.Datastore)
	var before types.DatastoreSummary
	v.With(ds, func() { before = ds.Summary })
	full := before
	full.FreeSpace = 0
	v.Update(ds, types.PropertyChange{Name: "summary", Val: full})
	return func() { v.Update(ds, types.PropertyChange{Name: "summary", Val: before}) }
}

// Accessible says of all files of a VM, its snapshots' among them, whether they can be read.
func (v *VCenter) Accessible(name string, can bool) {
	v.t.Helper()
	m := v.Machine(name)
	var layout types.VirtualMachineFileLayoutEx
	v.With(m, func() {
		layout = *m.LayoutEx
		layout.File = slices.Clone(layout.File)
	})
	for i := range layout.File {
		layout.File[i].Accessible = &can
	}
	v.Update(m, types.PropertyChange{Name: "layoutEx", Val: layout})
}

// Write puts something on a VM's disk, which the simulator keeps with snapshots as it does with data sets.
func (v *VCenter) Write(name, content string) {
	v.t.Helper()
	m := v.Machine(name)
	v.With(m, func() {
		m.DataSets = map[string]*simulator.DataSet{"disk": {Info: &dataset.Info{Name: "disk"}, ID: "disk", Entries: map[string]string{"content": content}}}
	})
}

// Content of a VM's disk.
func (v *VCenter) Content(name string) string {
	v.t.Helper()
	m := v.Machine(name)
	content := ""
	v.With(m, func() {
		if d := m.DataSets["disk"]; d != nil {
			content = d.Entries["content"]
		}
	})
	return content
}

// On tells whether a VM runs.
func (v *VCenter) On(name string) bool {
	v.t.Helper()
	m := v.Machine(name)
	on := false
	v.With(m, func() { on = m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn })
	return on
}

// Snapshots are the names of those of a VM, parents before their children.
func (v *VCenter) Snapshots(name string) []string {
	v.t.Helper()
	m := v.Machine(name)
	var names []string
	var walk func([]types.VirtualMachineSnapshotTree)
	walk = func(list []types.VirtualMachineSnapshotTree) {
		for _, s := range list {
			names = append(names, s.Name)
			walk(s.ChildSnapshotList)
		}
	}
	v.With(m, func() {
		if m.Snapshot != nil {
			walk(m.Snapshot.RootSnapshotList)
		}
	})
	return names
}

const outside = "outside"

// Outside is a client of another administrator, past the proxy. It keeps no connection.
func (v *VCenter) Outside() *vim25.Client {
	v.t.Helper()
	ctx := context.Background()
	over := soap.NewClient(v.url, true)
	over.UserAgent = outside
	over.DefaultTransport().DisableKeepAlives = true
	client, err := vim25.NewClient(ctx, over)
	require.NoError(v.t, err)
	require.NoError(v.t, session.NewManager(client).Login(ctx, v.url.User))
	return client
}

// Sessions counts those of everybody else.
func (v *VCenter) Sessions() int {
	v.t.Helper()
	_, others := v.sessions()
	return len(others)
}

// EndSessions ends the session of everybody else.
func (v *VCenter) EndSessions() {
	v.t.Helper()
	client, others := v.sessions()
	require.NotEmpty(v.t, others)
	_, err := methods.TerminateSession(context.Background(), client, &types.TerminateSession{This: *client.ServiceContent.SessionManager, SessionId: others})
	require.NoError(v.t, err)
}

// sessions returns the keys of all but those of clients from outside, of which one is returned.
func (v *VCenter) sessions() (*vim25.Client, []string) {
	v.t.Helper()
	ctx := context.Background()
	client := v.Outside()
	var manager mo.SessionManager
	require.NoError(v.t, property.DefaultCollector(client).RetrieveOne(ctx, *client.ServiceContent.SessionManager, []string{"sessionList"}, &manager))
	var others []string
	for _, s := range manager.SessionList {
		if s.UserAgent != outside {
			others = append(others, s.Key)
		}
	}
	return client, others
}
