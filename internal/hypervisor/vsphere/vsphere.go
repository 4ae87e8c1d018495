// Package vsphere takes snapshots of the VMs of a vCenter or of an ESXi host (hypervisor.Provider).
//
// A snapshot is vSphere's own of one VM, without memory: all its disks at one moment, and the VM's configuration. When its moment has passed: "When you take a snapshot, the
// state of the virtual disk is preserved, the guest operating system stops writing to it, and a delta or child disk is created" (VMware vSphere Virtual Machine
// Administration, "Snapshot Files"), and that is what CreateSnapshot_Task does: the task's result is the snapshot object (vSphere Web Services API, VirtualMachine,
// CreateSnapshot_Task: "The newly created Snapshot"). The request alone is answered with a task that may not have begun. So Take returns when the task has ended, never before,
// and a snapshot is Ready then: nothing is copied.
//
// Names: "The name need not be unique for this virtual machine" (CreateSnapshotRequestType). Find therefore waits for the end of a task on the VM that may be making the snapshot
// before it says that there is none, and where two requests of one name came through, the older is the snapshot and Delete removes both.
package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/webclient"
)

const (
	defaultTimeout     = 30 * time.Second
	defaultTaskTimeout = 15 * time.Minute
	defaultFreeShare   = 0.1
	// defaultWarm is shorter than the idle times of vCenter's reverse proxy.
	defaultWarm = 10 * time.Second
	// restWithin is how long Take waits for a connection that is just being kept warm, rather than open another.
	restWithin = time.Second
	// waitSeconds is how long one question for a task's end may stay unanswered: vCenter answers it when the task changes.
	waitSeconds = 20
	// attempts at a read that got no answer.
	attempts = 4
	// chain is how many snapshots of a VM may be one upon the other: vSphere documents 32, and counts the VM's own disks.
	chain = 31
)

// Config is a vCenter or an ESXi host and an account on it.
type Config struct {
	// URL of it, such as https://vcenter.example.org.
	URL string
	// User, such as katoflow@vsphere.local, and its password.
	User, Password string
	// CA are the certificates, PEM, that the server is verified against instead of the system's.
	CA []byte
	// Proxy is asked for every request (http.Transport's Proxy); nil for none.
	Proxy func(*http.Request) (*url.URL, error)
	// Quiesce has VMware Tools quiesce the guest's file systems before a snapshot. Check demands then that they run.
	Quiesce bool
	// FreeShare is which part of the size of a VM's disks must be free on their datastores (default 0.1): what is written after a snapshot needs space.
	FreeShare float64
	// Timeout of one request (default 30s).
	Timeout time.Duration
	// TaskTimeout is how long a task, such as the removal of a snapshot, is waited for (default 15m). The task goes on without us.
	TaskTimeout time.Duration
	// Warm is how often a shot's connection is used until it is taken (default 10s), because servers end those that are idle.
	Warm time.Duration
}

// Provider is one vCenter or ESXi host. It logs in when it is first asked and again when the session has ended.
type Provider struct {
	cfg       Config
	address   *url.URL
	transport *connection.Transport

	turn   chan struct{} // held while somebody logs in
	mu     sync.Mutex
	client *vim25.Client // nil before the first login
	login  int           // counts logins
	known  map[string]types.ManagedObjectReference
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
	}{{&cfg.Timeout, defaultTimeout}, {&cfg.TaskTimeout, defaultTaskTimeout}, {&cfg.Warm, defaultWarm}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if cfg.FreeShare <= 0 {
		cfg.FreeShare = defaultFreeShare
	}
	address, err := url.Parse(cfg.URL)
	switch {
	case err != nil || address.Scheme != "https" && address.Scheme != "http" || address.Host == "" || address.User != nil || address.RawQuery != "" || address.Fragment != "":
		return nil, errors.New("vsphere: the url is not one like https://vcenter.example.org")
	case cfg.User == "" || cfg.Password == "":
		return nil, errors.New("vsphere: user and password are needed")
	}
	if strings.Trim(address.Path, "/") == "" {
		address.Path = vim25.Path
	}
	transport, ok := connection.New(connection.Config{CA: cfg.CA, Proxy: cfg.Proxy})
	if !ok {
		return nil, errors.New("vsphere: the CA file holds no certificate in PEM form")
	}
	return &Provider{cfg: cfg, address: address, transport: transport, turn: make(chan struct{}, 1), known: map[string]types.ManagedObjectReference{}}, nil
}

// Close logs out, so that the session does not count against the server's limit, and ends connections.
func (p *Provider) Close() error {
	p.mu.Lock()
	client := p.client
	p.client = nil
	p.mu.Unlock()
	if client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// A session that cannot be ended ends by itself.
		_ = session.NewManager(client).Logout(ctx)
	}
	p.transport.Close()
	return nil
}

// roundTripper limits each request in time and logs in anew when the session has ended: an answer that nobody is logged in is certain not to have changed anything.
type roundTripper struct {
	provider *Provider
	next     *soap.Client
}

func (r *roundTripper) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	limit := r.provider.cfg.Timeout
	if _, waits := req.(*methods.WaitForUpdatesExBody); waits {
		limit += waitSeconds * time.Second
	}
	r.provider.mu.Lock()
	login := r.provider.login
	r.provider.mu.Unlock()
	once := func() error {
		limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
		defer cancel()
		err := r.next.RoundTrip(limited, req, res)
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			return fmt.Errorf("%w (%w)", context.Cause(limited), err)
		}
		return err
	}
	err := once()
	if !fault.Is(err, &types.NotAuthenticated{}) {
		return err
	}
	if err := r.provider.logIn(ctx, login); err != nil {
		return err
	}
	reflect.ValueOf(res).Elem().SetZero() // else the first answer's fault stays in it
	return once()
}

// draining reads what is left of an answer before it is closed: a connection is used again only after that, and a decoder of XML ends with the last element.
type draining struct{ next http.RoundTripper }

func (d draining) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(r)
	if err == nil {
		resp.Body = drained{resp.Body}
	}
	return resp, err
}

type drained struct{ io.ReadCloser }

func (d drained) Close() error {
	_, _ = io.Copy(io.Discard, io.LimitReader(d.ReadCloser, 1<<20))
	return d.ReadCloser.Close()
}

// RefusedError says that the server does not let us in.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return "the login is refused: " + e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }

// logIn logs in unless somebody has since the given login.
func (p *Provider) logIn(ctx context.Context, since int) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.mu.Lock()
	done, client := p.login != since, p.client
	p.mu.Unlock()
	if done {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Timeout, fmt.Errorf("no answer within %s", p.cfg.Timeout))
	defer cancel()
	if client == nil {
		soapClient := soap.NewClient(p.address, false)
		soapClient.Client.Transport = draining{p.transport}
		var err error
		if client, err = vim25.NewClient(ctx, soapClient); err != nil {
			return err
		}
		client.RoundTripper = &roundTripper{provider: p, next: soapClient}
	}
	// The login itself must not wait for a login.
	plain := *client
	plain.RoundTripper = client.Client
	if err := session.NewManager(&plain).Login(ctx, url.UserPassword(p.cfg.User, p.cfg.Password)); err != nil {
		if fault.Is(err, &types.InvalidLogin{}) || fault.Is(err, &types.NoPermission{}) {
			return &RefusedError{err}
		}
		return err
	}
	p.mu.Lock()
	p.client, p.login = client, p.login+1
	p.mu.Unlock()
	return nil
}

// connect returns a client that is logged in.
func (p *Provider) connect(ctx context.Context) (*vim25.Client, error) {
	p.mu.Lock()
	client, login := p.client, p.login
	p.mu.Unlock()
	if client != nil {
		return client, nil
	}
	if err := p.reading(ctx, func() error { return p.logIn(ctx, login) }); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client == nil {
		return nil, errors.New("the provider is closed")
	}
	return p.client, nil
}

// reading repeats a read, or anything that may be done twice, that got no answer. An answer that is a fault is not asked for again, but for the one that nobody is logged in:
// a property that may not be read is missing in an answer that is good otherwise, so that roundTripper does not see it.
func (p *Provider) reading(ctx context.Context, do func() error) error {
	for attempt := 1; ; attempt++ {
		p.mu.Lock()
		login := p.login
		p.mu.Unlock()
		err := do()
		var refused *RefusedError
		if login > 0 && fault.Is(err, &types.NotAuthenticated{}) && attempt < attempts && ctx.Err() == nil {
			if err := p.logIn(ctx, login); err != nil {
				return err
			}
			continue
		}
		if err == nil || answered(err) || errors.As(err, &refused) || attempt == attempts || ctx.Err() != nil {
			return err
		}
		if pauseErr := webclient.Pause(ctx, attempt, 2*time.Second); pauseErr != nil {
			return err
		}
	}
}

// answered tells whether the server itself says that a request failed.
func answered(err error) bool { return soap.IsSoapFault(err) || soap.IsVimFault(err) }

// text of an error in one line that is safe to show.
func (p *Provider) text(err error) string {
	var status *url.Error
	if errors.As(err, &status) {
		err = status.Err
	}
	var taskErr task.Error
	if errors.As(err, &taskErr) && taskErr.LocalizedMethodFault != nil {
		name := reflect.Indirect(reflect.ValueOf(taskErr.LocalizedMethodFault.Fault)).Type().Name()
		return webclient.Clean(strings.TrimSuffix(strings.TrimSpace(taskErr.LocalizedMessage), ".")+" ("+name+")", p.cfg.Password)
	}
	return webclient.Clean(err.Error(), p.cfg.Password)
}

func (p *Provider) fail(vm hypervisor.VM, what string, err error) error {
	var notFound *hypervisor.NotFoundError
	var unknown *hypervisor.UnknownError
	if errors.As(err, &notFound) || errors.As(err, &unknown) {
		return err
	}
	return fmt.Errorf("%s: vsphere %s: %s: %w", vm.Node, p.address.Host, what, webclient.Hide(err, p.text(err)))
}

// ambiguousError says that a name is the name of several VMs.
type ambiguousError struct {
	id    string
	count int
}

func (e *ambiguousError) Error() string {
	return fmt.Sprintf("%d VMs are called %s: name the one by its inventory path, such as /Datacenter/vm/Folder/%s", e.count, e.id, e.id)
}

// resolve looks a VM up by its inventory path (with a slash) or by its name, which must be that of one VM only.
func (p *Provider) resolve(ctx context.Context, vm hypervisor.VM) (*vim25.Client, *object.VirtualMachine, error) {
	client, err := p.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	var found []types.ManagedObjectReference
	err = p.reading(ctx, func() error {
		found = nil
		if strings.Contains(vm.ID, "/") {
			ref, err := object.NewSearchIndex(client).FindByInventoryPath(ctx, "/"+strings.Trim(vm.ID, "/"))
			if err != nil || ref == nil {
				return err
			}
			if ref.Reference().Type == "VirtualMachine" {
				found = append(found, ref.Reference())
			}
			return nil
		}
		list, err := view.NewManager(client).CreateContainerView(ctx, client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
		if err != nil {
			return err
		}
		defer func() { _ = list.Destroy(context.WithoutCancel(ctx)) }()
		var vms []mo.VirtualMachine
		if err := list.Retrieve(ctx, []string{"VirtualMachine"}, []string{"name"}, &vms); err != nil {
			return err
		}
		for _, m := range vms {
			// The API escapes / \ and % in names.
			if plain, err := url.PathUnescape(m.Name); m.Name == vm.ID || err == nil && plain == vm.ID {
				found = append(found, m.Self)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, nil, err
	case len(found) == 0:
		return nil, nil, &hypervisor.NotFoundError{Node: vm.Node, What: "VM " + vm.ID}
	case len(found) > 1:
		return nil, nil, &ambiguousError{vm.ID, len(found)}
	}
	p.mu.Lock()
	p.known[vm.ID] = found[0]
	p.mu.Unlock()
	return client, object.NewVirtualMachine(client, found[0]), nil
}

// read looks a VM up, or takes it from memory, and reads properties of it.
func (p *Provider) read(ctx context.Context, vm hypervisor.VM, properties ...string) (*vim25.Client, *object.VirtualMachine, mo.VirtualMachine, error) {
	var props mo.VirtualMachine
	client, err := p.connect(ctx)
	if err != nil {
		return nil, nil, props, err
	}
	p.mu.Lock()
	ref, known := p.known[vm.ID]
	p.mu.Unlock()
	for {
		machine := object.NewVirtualMachine(client, ref)
		if !known {
			if client, machine, err = p.resolve(ctx, vm); err != nil {
				return nil, nil, props, err
			}
		}
		err = p.reading(ctx, func() error {
			props = mo.VirtualMachine{}
			return machine.Properties(ctx, machine.Reference(), properties, &props)
		})
		if known && fault.Is(err, &types.ManagedObjectNotFound{}) {
			known = false // it was deleted, and may be another of that name now
			continue
		}
		return client, machine, props, err
	}
}

// await waits for a task to end and returns what it made. A task.Error is the task's own; anything else says that nobody knows.
func (p *Provider) await(ctx context.Context, client *vim25.Client, ref types.ManagedObjectReference) (*types.TaskInfo, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.TaskTimeout, fmt.Errorf("the task has not ended within %s", p.cfg.TaskTimeout))
	defer cancel()
	wait := int32(waitSeconds)
	var info *types.TaskInfo
	ended := func(i types.TaskInfo) bool {
		return i.State == types.TaskInfoStateSuccess || i.State == types.TaskInfoStateError
	}
	for broken := 0; info == nil; {
		err := p.reading(ctx, func() error {
			// A collector of its own: the questions of one collector end each other.
			filter := &property.WaitFilter{WaitOptions: property.WaitOptions{PropagateMissing: true, Options: &types.WaitOptions{MaxWaitSeconds: &wait}}}
			filter.Add(ref, ref.Type, []string{"info"})
			return property.WaitForUpdates(ctx, property.DefaultCollector(client), filter, func(updates []types.ObjectUpdate) bool {
				for _, u := range updates {
					for _, c := range u.ChangeSet {
						if i, ok := c.Val.(types.TaskInfo); ok && ended(i) {
							info = &i
						}
					}
				}
				return info != nil
			})
		})
		if info != nil {
			break // whatever became of the collector
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		// A new login has none of the old one's collectors. The task is there all the same.
		var t mo.Task
		if broken++; broken == attempts {
			return nil, err
		}
		if err := p.reading(ctx, func() error { return property.DefaultCollector(client).RetrieveOne(ctx, ref, []string{"info"}, &t) }); err != nil {
			return nil, err
		}
		if ended(t.Info) {
			info = &t.Info
		}
	}
	if info.State == types.TaskInfoStateError {
		return nil, task.Error{LocalizedMethodFault: info.Error, Description: info.Description}
	}
	return info, nil
}

// run starts a task that may be done twice and waits for its end. Another task on the VM that is in the way, which may be the one of an answer that was lost, is waited for first.
func (p *Provider) run(ctx context.Context, vm hypervisor.VM, start func() (types.ManagedObjectReference, error)) error {
	for attempt := 1; ; attempt++ {
		client, err := p.connect(ctx)
		if err != nil {
			return err
		}
		var ref types.ManagedObjectReference
		err = p.reading(ctx, func() (err error) {
			ref, err = start()
			return err
		})
		if err == nil {
			_, err = p.await(ctx, client, ref)
		}
		if !fault.Is(err, &types.TaskInProgress{}) || attempt == attempts {
			return err
		}
		if err := p.settle(ctx, vm, func(types.TaskInfo) bool { return true }); err != nil {
			return err
		}
	}
}

// underWay returns the VM's tasks that have not ended.
func (p *Provider) underWay(ctx context.Context, client *vim25.Client, recent []types.ManagedObjectReference) ([]types.TaskInfo, error) {
	var infos []types.TaskInfo
	for _, ref := range recent {
		var t mo.Task
		err := p.reading(ctx, func() error { return property.DefaultCollector(client).RetrieveOne(ctx, ref, []string{"info"}, &t) })
		if fault.Is(err, &types.ManagedObjectNotFound{}) {
			continue // it ended so long ago that it is forgotten
		}
		if err != nil {
			return nil, err
		}
		if t.Info.State == types.TaskInfoStateQueued || t.Info.State == types.TaskInfoStateRunning {
			infos = append(infos, t.Info)
		}
	}
	return infos, nil
}

// settle waits for the end of the VM's tasks that are under way.
func (p *Provider) settle(ctx context.Context, vm hypervisor.VM, which func(types.TaskInfo) bool) error {
	client, _, props, err := p.read(ctx, vm, "recentTask")
	if err != nil {
		return err
	}
	infos, err := p.underWay(ctx, client, props.RecentTask)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if !which(info) {
			continue
		}
		_, err := p.await(ctx, client, info.Task)
		var ended task.Error
		if err != nil && !errors.As(err, &ended) && !fault.Is(err, &types.ManagedObjectNotFound{}) {
			return fmt.Errorf("wait for the task %s that is under way on the VM: %w", info.DescriptionId, err)
		}
	}
	return nil
}

// creates tells whether a task may be making a snapshot.
func creates(info types.TaskInfo) bool {
	return strings.Contains(strings.ToLower(info.DescriptionId), "createsnapshot")
}

// tree returns all snapshots of a tree, oldest first.
func tree(roots []types.VirtualMachineSnapshotTree) []types.VirtualMachineSnapshotTree {
	var all []types.VirtualMachineSnapshotTree
	var walk func([]types.VirtualMachineSnapshotTree)
	walk = func(list []types.VirtualMachineSnapshotTree) {
		for _, s := range list {
			all = append(all, s)
			walk(s.ChildSnapshotList)
		}
	}
	walk(roots)
	slices.SortStableFunc(all, func(a, b types.VirtualMachineSnapshotTree) int {
		if c := a.CreateTime.Compare(b.CreateTime); c != 0 {
			return c
		}
		return int(a.Id - b.Id)
	})
	return all
}

// depth of the longest chain of snapshots.
func depth(list []types.VirtualMachineSnapshotTree) int {
	most := 0
	for _, s := range list {
		most = max(most, 1+depth(s.ChildSnapshotList))
	}
	return most
}

func (p *Provider) snapshots(ctx context.Context, vm hypervisor.VM, which func(name string) bool) (*vim25.Client, []hypervisor.Snapshot, error) {
	client, _, props, err := p.read(ctx, vm, "snapshot", "layoutEx")
	if err != nil {
		return nil, nil, err
	}
	if props.Snapshot == nil {
		return client, nil, nil
	}
	parents := map[types.ManagedObjectReference]*types.ManagedObjectReference{}
	for _, s := range tree(props.Snapshot.RootSnapshotList) {
		for _, child := range s.ChildSnapshotList {
			parents[child.Snapshot] = &s.Snapshot
		}
	}
	var list []hypervisor.Snapshot
	for _, s := range tree(props.Snapshot.RootSnapshotList) {
		if !which(s.Name) {
			continue
		}
		snapshot := hypervisor.Snapshot{Name: s.Name, ID: s.Snapshot.Value, State: hypervisor.Ready, Created: s.CreateTime}
		if props.LayoutEx != nil {
			current := props.Snapshot.CurrentSnapshot != nil && *props.Snapshot.CurrentSnapshot == s.Snapshot
			snapshot.Size = int64(object.SnapshotSize(s.Snapshot, parents[s.Snapshot], props.LayoutEx, current))
		}
		list = append(list, snapshot)
	}
	return client, list, nil
}

// named returns the snapshots of a name, after the tasks that may be making one have ended, so that none is none.
func (p *Provider) named(ctx context.Context, vm hypervisor.VM, name string, settled bool) ([]hypervisor.Snapshot, error) {
	same := func(n string) bool { return n == name }
	_, list, err := p.snapshots(ctx, vm, same)
	if err != nil || len(list) > 0 && !settled {
		return list, err
	}
	if err := p.settle(ctx, vm, creates); err != nil {
		return nil, err
	}
	_, list, err = p.snapshots(ctx, vm, same)
	return list, err
}

// Find is hypervisor.Provider's. It waits for the end of a task that may be making the snapshot.
func (p *Provider) Find(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Snapshot, bool, error) {
	list, err := p.named(ctx, vm, name, false)
	if err != nil {
		return hypervisor.Snapshot{}, false, p.fail(vm, "look for snapshot "+name, err)
	}
	if len(list) == 0 {
		return hypervisor.Snapshot{}, false, nil
	}
	return list[0], true, nil
}

// List is hypervisor.Provider's. It waits for the end of tasks that may be making snapshots.
func (p *Provider) List(ctx context.Context, vm hypervisor.VM, prefix string) ([]hypervisor.Snapshot, error) {
	err := p.settle(ctx, vm, creates)
	var list []hypervisor.Snapshot
	if err == nil {
		_, list, err = p.snapshots(ctx, vm, func(name string) bool { return strings.HasPrefix(name, prefix) })
	}
	if err != nil {
		return nil, p.fail(vm, "list snapshots", err)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(s hypervisor.Snapshot) bool {
		again := seen[s.Name]
		seen[s.Name] = true
		return again
	}), nil
}

// Delete is hypervisor.Provider's. The snapshots made after it stay, and its disks are consolidated, which takes as long as much was written since.
func (p *Provider) Delete(ctx context.Context, vm hypervisor.VM, name string) error {
	list, err := p.named(ctx, vm, name, true)
	for _, s := range list {
		if err != nil {
			break
		}
		consolidate := true
		err = p.run(ctx, vm, func() (types.ManagedObjectReference, error) {
			client, err := p.connect(ctx)
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			res, err := methods.RemoveSnapshot_Task(ctx, client, &types.RemoveSnapshot_Task{
				This: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: s.ID}, Consolidate: &consolidate,
			})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		})
		if fault.Is(err, &types.ManagedObjectNotFound{}) {
			err = nil // somebody else removed it meanwhile
		}
	}
	if err != nil {
		return p.fail(vm, "delete snapshot "+name, err)
	}
	return nil
}

// Power is hypervisor.Provider's. A suspended VM is Other.
func (p *Provider) Power(ctx context.Context, vm hypervisor.VM) (hypervisor.Power, error) {
	_, _, props, err := p.read(ctx, vm, "runtime.powerState")
	if err != nil {
		return hypervisor.Other, p.fail(vm, "ask for its power", err)
	}
	return power(props.Runtime.PowerState), nil
}

func power(state types.VirtualMachinePowerState) hypervisor.Power {
	switch state {
	case types.VirtualMachinePowerStatePoweredOn:
		return hypervisor.On
	case types.VirtualMachinePowerStatePoweredOff:
		return hypervisor.Off
	}
	return hypervisor.Other
}

// Start is hypervisor.Provider's.
func (p *Provider) Start(ctx context.Context, vm hypervisor.VM) error {
	_, machine, props, err := p.read(ctx, vm, "runtime.powerState")
	if err == nil && power(props.Runtime.PowerState) != hypervisor.On {
		err = p.run(ctx, vm, func() (types.ManagedObjectReference, error) { return taskOf(machine.PowerOn(ctx)) })
	}
	if err != nil && !already(err, types.VirtualMachinePowerStatePoweredOn) {
		return p.fail(vm, "switch it on", err)
	}
	return nil
}

// Stop is hypervisor.Provider's. A guest is asked through VMware Tools; where they do not run, that is an error and nothing is done.
func (p *Provider) Stop(ctx context.Context, vm hypervisor.VM, hard bool) error {
	_, machine, props, err := p.read(ctx, vm, "runtime.powerState", "guest.toolsRunningStatus")
	switch {
	case err != nil:
	case power(props.Runtime.PowerState) == hypervisor.Off:
		return nil
	case hard:
		err = p.run(ctx, vm, func() (types.ManagedObjectReference, error) { return taskOf(machine.PowerOff(ctx)) })
	case !toolsRun(props):
		err = errors.New("vmware tools do not run in the guest, so nobody hears the request to shut down: start open-vm-tools, shut it down from inside, or take its power away")
	default:
		err = p.reading(ctx, func() error { return machine.ShutdownGuest(ctx) })
	}
	if err != nil && !already(err, types.VirtualMachinePowerStatePoweredOff) {
		return p.fail(vm, "stop it", err)
	}
	return nil
}

func taskOf(t *object.Task, err error) (types.ManagedObjectReference, error) {
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	return t.Reference(), nil
}

func toolsRun(props mo.VirtualMachine) bool {
	return props.Guest != nil && props.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
}

// already tells whether err says that the VM has that power state.
func already(err error, state types.VirtualMachinePowerState) bool {
	var f *types.InvalidPowerState
	_, ok := fault.As(err, &f)
	return ok && f != nil && f.ExistingState == state
}
