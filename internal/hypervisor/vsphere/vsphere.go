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
	// defaultPowerTimeout and defaultRemovalTimeout: what switches a VM takes no longer unless it waits for an answer, and the disks of a removed snapshot are consolidated for hours.
	defaultPowerTimeout   = 5 * time.Minute
	defaultRemovalTimeout = 24 * time.Hour
	// tidyWithin bounds a request that only gives something back at the server, which ends with the session at the latest.
	tidyWithin = 2 * time.Second
	// closeWithin bounds the end of a session.
	closeWithin = 5 * time.Second
	// listedFor is how long a listing of all VMs answers for those that are looked up for the first time.
	listedFor = 5 * time.Second
	// waitSeconds is how long one question for a task's end may stay unanswered: vCenter answers it when the task changes.
	waitSeconds = 20
	// attempts at a read that got no answer.
	attempts = 4
	// chain is how many files a disk may have below the one that is written to: vSphere documents 32 in all.
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
	// TaskTimeout is how long a task is waited for (default 15m), PowerTimeout how long one that switches a VM on or off (default 5m), and RemovalTimeout how long one that removes a
	// snapshot and consolidates its disks (default 24h). The task goes on without us.
	TaskTimeout, PowerTimeout, RemovalTimeout time.Duration
	// Warm is how often a shot's connection is used until it is taken (default 10s), because servers end those that are idle.
	Warm time.Duration
}

// Provider is one vCenter or ESXi host. It logs in when it is first asked and again when the session has ended.
type Provider struct {
	cfg       Config
	address   *url.URL
	transport *connection.Transport

	turn    chan struct{} // held while somebody logs in
	mu      sync.Mutex
	client  *vim25.Client // nil before the first login
	login   int           // counts logins
	refused error         // a login that was refused, which is not tried again: a few more lock the account
	closed  bool
	known   map[string]types.ManagedObjectReference

	listing chan struct{} // held while somebody lists all VMs
	listed  listing       // the last one, whoever holds listing
}

// listing is of all VMs that the account sees.
type listing struct {
	began, ended time.Time
	refs         map[string][]types.ManagedObjectReference
	err          error
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
	}{
		{&cfg.Timeout, defaultTimeout}, {&cfg.TaskTimeout, defaultTaskTimeout}, {&cfg.PowerTimeout, defaultPowerTimeout}, {&cfg.RemovalTimeout, defaultRemovalTimeout}, {&cfg.Warm, defaultWarm},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if cfg.FreeShare <= 0 {
		cfg.FreeShare = defaultFreeShare
	}
	address, err := url.Parse(cfg.URL)
	switch {
	case err != nil || address.Scheme != "https" && address.Scheme != "http" || address.Hostname() == "" || address.User != nil || address.RawQuery != "" || address.ForceQuery || address.Fragment != "" ||
		!slices.Contains([]string{"", "/", vim25.Path, vim25.Path + "/"}, address.Path):
		return nil, errors.New("vsphere: the url is not one like https://vcenter.example.org")
	case cfg.User == "" || cfg.Password == "":
		return nil, errors.New("vsphere: user and password are needed")
	}
	address.Path, address.RawPath = vim25.Path, ""
	transport, ok := connection.New(connection.Config{CA: cfg.CA, Proxy: cfg.Proxy})
	if !ok {
		return nil, errors.New("vsphere: the CA file holds no certificate in PEM form")
	}
	return &Provider{
		cfg: cfg, address: address, transport: transport, turn: make(chan struct{}, 1), known: map[string]types.ManagedObjectReference{}, listing: make(chan struct{}, 1),
	}, nil
}

// errClosed is the error of whatever would need a login after Close.
const errClosed = verdict("the provider is closed")

// Close logs out, so that the session does not count against the server's limit, and ends connections. Nobody is logged in again afterwards.
func (p *Provider) Close() error {
	p.mu.Lock()
	client := p.client
	p.client, p.closed = nil, true
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	select {
	case p.turn <- struct{}{}: // a login that is under way ends itself
		<-p.turn
	case <-ctx.Done():
	}
	if client != nil {
		logOut(ctx, client)
	}
	p.transport.Close()
	return nil
}

// logOut ends a session, and begins none for it. One that cannot be ended ends by itself when it was idle for long enough.
func logOut(ctx context.Context, client *vim25.Client) {
	_ = session.NewManager(plain(client)).Logout(ctx)
}

// plain is a client whose requests wait for no login.
func plain(client *vim25.Client) *vim25.Client {
	plain := *client
	plain.RoundTripper = client.Client
	return &plain
}

// roundTripper limits each request in time and logs in anew when the session has ended: an answer that nobody is logged in is certain not to have changed anything.
type roundTripper struct {
	provider *Provider
	next     *soap.Client
}

func (r *roundTripper) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	limit, tidies := r.provider.cfg.Timeout, false
	switch req.(type) {
	case *methods.WaitForUpdatesExBody:
		limit += waitSeconds * time.Second
	case *methods.CancelWaitForUpdatesBody, *methods.DestroyPropertyCollectorBody, *methods.DestroyViewBody:
		// The client library sends these without the caller's context, also after its end.
		limit, tidies = min(limit, tidyWithin), true
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
	if tidies || !fault.Is(err, &types.NotAuthenticated{}) {
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

// RefusedError says that the server does not let us in. A request that would have needed it was not carried out.
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
	done, client, refused, closed := p.login != since, p.client, p.refused, p.closed
	p.mu.Unlock()
	switch {
	case closed:
		return errClosed
	case done:
		return nil
	case refused != nil:
		return refused
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
	err := session.NewManager(plain(client)).Login(ctx, url.UserPassword(p.cfg.User, p.cfg.Password))
	if fault.Is(err, &types.InvalidLogin{}) || fault.Is(err, &types.NoPermission{}) {
		err = &RefusedError{err}
	}
	p.mu.Lock()
	switch closed = p.closed; {
	case errors.As(err, new(*RefusedError)):
		p.refused = err
	case err == nil && !closed:
		p.client, p.login = client, p.login+1
	}
	p.mu.Unlock()
	if err == nil && closed {
		over, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		logOut(over, client)
		return errClosed
	}
	return err
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
		return nil, errClosed
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
		if login > 0 && fault.Is(err, &types.NotAuthenticated{}) && attempt < attempts && ctx.Err() == nil {
			if err := p.logIn(ctx, login); err != nil {
				return err
			}
			continue
		}
		if err == nil || certain(err) || attempt == attempts || ctx.Err() != nil {
			return err
		}
		if pauseErr := webclient.Pause(ctx, attempt, 2*time.Second); pauseErr != nil {
			return err
		}
	}
}

// answered tells whether the server itself says that a request failed.
func answered(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if soap.IsSoapFault(err) || soap.IsVimFault(err) {
			return true
		}
	}
	return false
}

// verdict is an error that we find ourselves, in what the server says.
type verdict string

func (v verdict) Error() string { return string(v) }

// certain tells whether it is known what became of a request that ended with err: it was refused, or its task failed. Asking again would bring the same.
func certain(err error) bool {
	return answered(err) || errors.As(err, new(task.Error)) || errors.As(err, new(*RefusedError)) || errors.As(err, new(verdict)) || errors.As(err, new(*ambiguousError)) ||
		errors.As(err, new(*hypervisor.NotFoundError))
}

// text of an error in one line that is safe to show.
func (p *Provider) text(err error) string {
	var status *url.Error
	if errors.As(err, &status) {
		err = status.Err
	}
	if trouble, cause := webclient.TroubleOf(err); trouble == webclient.UnknownAuthority {
		return webclient.Clean(cause.Error()) + ": name the file with the certificate of its authority in hypervisor.vsphere.ca_file"
	}
	var taskErr task.Error
	if errors.As(err, &taskErr) && taskErr.Fault() != nil {
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

// lost is fail for requests that change something: an *UnknownError unless it is certain what became of it.
func (p *Provider) lost(vm hypervisor.VM, what string, err error) error {
	if certain(err) {
		return p.fail(vm, what, err)
	}
	return &hypervisor.UnknownError{Node: vm.Node, Err: webclient.Hide(err, fmt.Sprintf("vsphere %s: %s: %s", p.address.Host, what, p.text(err)))}
}

// ambiguousError says that a name is the name of several VMs.
type ambiguousError struct {
	id    string
	count int
}

func (e *ambiguousError) Error() string {
	return fmt.Sprintf("%d VMs are called %s: name the one by its inventory path, such as /Datacenter/vm/Folder/%s", e.count, e.id, e.id)
}

// resolve looks a VM up by its inventory path (with a slash) or by its name, which must be that of one VM only in a listing that began at since or later.
func (p *Provider) resolve(ctx context.Context, vm hypervisor.VM, since time.Time) (*vim25.Client, *object.VirtualMachine, error) {
	client, err := p.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	var found []types.ManagedObjectReference
	if strings.Contains(vm.ID, "/") {
		err = p.reading(ctx, func() error {
			found = nil
			ref, err := object.NewSearchIndex(client).FindByInventoryPath(ctx, "/"+strings.Trim(vm.ID, "/"))
			if err == nil && ref != nil && ref.Reference().Type == "VirtualMachine" {
				found = append(found, ref.Reference())
			}
			return err
		})
	} else {
		var refs map[string][]types.ManagedObjectReference
		refs, err = p.names(ctx, client, since)
		found = refs[vm.ID]
	}
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

// names returns all VMs that the account sees by their names, from a listing that began at since or later. Whoever asks while one is made shares it, and its error.
func (p *Provider) names(ctx context.Context, client *vim25.Client, since time.Time) (map[string][]types.ManagedObjectReference, error) {
	asked := time.Now()
	select {
	case p.listing <- struct{}{}:
		defer func() { <-p.listing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if l := p.listed; !l.began.Before(since) && (l.err == nil || l.ended.After(asked)) {
		return l.refs, l.err
	}
	l := listing{began: time.Now()}
	var vms []mo.VirtualMachine
	for attempt := 1; ; attempt++ {
		l.err = p.reading(ctx, func() error {
			list, err := view.NewManager(client).CreateContainerView(ctx, client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
			if err != nil {
				return err
			}
			defer func() { _ = list.Destroy(context.WithoutCancel(ctx)) }()
			vms = nil
			return list.Retrieve(ctx, []string{"VirtualMachine"}, []string{"name"}, &vms)
		})
		// A new login has none of the old one's views, and a VM may be deleted while it is read.
		if !fault.Is(l.err, &types.ManagedObjectNotFound{}) || attempt == attempts {
			break
		}
	}
	if l.ended = time.Now(); l.err == nil {
		l.refs = map[string][]types.ManagedObjectReference{}
		for _, m := range vms {
			l.refs[m.Name] = append(l.refs[m.Name], m.Self)
			// The API escapes / \ and % in names.
			if plain, err := url.PathUnescape(m.Name); err == nil && plain != m.Name {
				l.refs[plain] = append(l.refs[plain], m.Self)
			}
		}
	}
	if ctx.Err() == nil {
		p.listed = l
	}
	return l.refs, l.err
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
	since := time.Now().Add(-listedFor)
	for again := false; ; again = true {
		machine := object.NewVirtualMachine(client, ref)
		if !known {
			if client, machine, err = p.resolve(ctx, vm, since); err != nil {
				return nil, nil, props, err
			}
		}
		err = p.reading(ctx, func() error {
			props = mo.VirtualMachine{}
			return machine.Properties(ctx, machine.Reference(), properties, &props)
		})
		if !again && fault.Is(err, &types.ManagedObjectNotFound{}) {
			known, since = false, time.Now() // it was deleted, and may be another of that name now
			continue
		}
		return client, machine, props, err
	}
}

// errForgotten says that the server does not know a task any more, as after its restart. Nobody knows how it ended.
var errForgotten = errors.New("the server has forgotten the task")

// await waits for a task of a VM to end and returns what it made. A server that does not answer is asked again as long as limit and ctx last. Of an error that is not certain nobody knows how the task ended.
func (p *Provider) await(ctx context.Context, vm hypervisor.VM, client *vim25.Client, ref types.ManagedObjectReference, limit time.Duration) (*types.TaskInfo, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for broken := 0; ; {
		info, err := watch(limited, client, ref)
		if err != nil && info == nil && limited.Err() == nil {
			// A new login has none of the old one's collectors. The task is there all the same.
			var t mo.Task
			again := p.reading(limited, func() error { return property.DefaultCollector(client).RetrieveOne(limited, ref, []string{"info"}, &t) })
			switch {
			case fault.Is(again, &types.ManagedObjectNotFound{}):
				return nil, errForgotten
			case certain(again):
				return nil, again
			case again == nil && ended(t.Info):
				info = &t.Info
			}
		}
		switch {
		case info != nil && info.State == types.TaskInfoStateError:
			if info.Error == nil {
				info.Error = &types.LocalizedMethodFault{LocalizedMessage: "the task failed without a reason"}
			}
			return nil, task.Error{LocalizedMethodFault: info.Error, Description: info.Description}
		case info != nil:
			return info, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case limited.Err() != nil:
			return nil, p.overdue(ctx, vm, limit)
		case err == nil:
			broken = 0
			continue
		}
		broken++
		_ = webclient.Pause(limited, broken, 5*time.Second)
	}
}

func ended(info types.TaskInfo) bool {
	return info.State == types.TaskInfoStateSuccess || info.State == types.TaskInfoStateError
}

// watch returns a task when it has ended, nothing when it goes on. It may return both a task and an error.
func watch(ctx context.Context, client *vim25.Client, ref types.ManagedObjectReference) (info *types.TaskInfo, err error) {
	wait := int32(waitSeconds)
	filter := &property.WaitFilter{WaitOptions: property.WaitOptions{PropagateMissing: true, Options: &types.WaitOptions{MaxWaitSeconds: &wait}}}
	filter.Add(ref, ref.Type, []string{"info"})
	// A collector of its own: the questions of one collector end each other.
	err = property.WaitForUpdates(ctx, property.DefaultCollector(client), filter, func(updates []types.ObjectUpdate) bool {
		for _, u := range updates {
			for _, c := range u.ChangeSet {
				if i, ok := c.Val.(types.TaskInfo); ok && ended(i) {
					info = &i
				}
			}
		}
		return info != nil
	})
	return info, err
}

// overdue is the error of a task that takes too long. A VM that waits for an answer is the usual reason.
func (p *Provider) overdue(ctx context.Context, vm hypervisor.VM, limit time.Duration) error {
	text := fmt.Sprintf("the task has not ended within %s", limit)
	if _, _, props, err := p.read(ctx, vm, "runtime.question"); err == nil && props.Runtime.Question != nil {
		text += ", and the VM waits for an answer: " + props.Runtime.Question.Text
	}
	return errors.New(text)
}

// run starts a task that may be done twice and waits for its end. Another task on the VM that is in the way, which may be the one of an answer that was lost, is waited for first.
func (p *Provider) run(ctx context.Context, vm hypervisor.VM, limit time.Duration, start func(client *vim25.Client) (types.ManagedObjectReference, error)) error {
	for attempt := 1; ; attempt++ {
		client, err := p.connect(ctx)
		if err != nil {
			return err
		}
		var ref types.ManagedObjectReference
		err = p.reading(ctx, func() (err error) {
			ref, err = start(client)
			return err
		})
		if err == nil {
			if _, err = p.await(ctx, vm, client, ref, limit); err != nil && !errors.As(err, new(task.Error)) {
				err = webclient.Hide(err, p.text(err)) // a refused login, say, is certain, and how the task ended is not
			}
		}
		if !fault.Is(err, &types.TaskInProgress{}) || attempt == attempts {
			return err
		}
		if err := p.settle(ctx, vm, limit, func(types.TaskInfo) bool { return true }); err != nil {
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

// settle waits for the end of the VM's tasks that are under way, however they end.
func (p *Provider) settle(ctx context.Context, vm hypervisor.VM, limit time.Duration, which func(types.TaskInfo) bool) error {
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
		_, err := p.await(ctx, vm, client, info.Task, limit)
		if err != nil && !errors.As(err, new(task.Error)) && !errors.Is(err, errForgotten) {
			return fmt.Errorf("wait for the task %s that is under way on the VM: %w", info.DescriptionId, err)
		}
	}
	return nil
}

// creates tells whether a task may be making a snapshot.
func creates(info types.TaskInfo) bool {
	return strings.Contains(strings.ToLower(info.DescriptionId), "createsnapshot")
}

// changes tells whether a task may be making, removing or consolidating a snapshot.
func changes(info types.TaskInfo) bool {
	id := strings.ToLower(info.DescriptionId)
	return strings.Contains(id, "snapshot") || strings.Contains(id, "consolidate")
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

// snapshots returns those of a VM whose names are asked for, oldest first, and whether its disks need consolidation.
func (p *Provider) snapshots(ctx context.Context, vm hypervisor.VM, which func(name string) bool) ([]hypervisor.Snapshot, bool, error) {
	_, _, props, err := p.read(ctx, vm, "snapshot", "layoutEx", "runtime.consolidationNeeded")
	if err != nil {
		return nil, false, err
	}
	if props.Snapshot == nil {
		return nil, props.Runtime.ConsolidationNeeded, nil
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
	return list, props.Runtime.ConsolidationNeeded, nil
}

// named returns the snapshots of a name, after the tasks that may be making one have ended: none is none then, and one that is there is ready.
func (p *Provider) named(ctx context.Context, vm hypervisor.VM, name string) ([]hypervisor.Snapshot, error) {
	if err := p.settle(ctx, vm, p.cfg.TaskTimeout, creates); err != nil {
		return nil, err
	}
	list, _, err := p.snapshots(ctx, vm, func(n string) bool { return n == name })
	return list, err
}

// Find is hypervisor.Provider's. It waits for the end of a task that may be making the snapshot.
func (p *Provider) Find(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Snapshot, bool, error) {
	list, err := p.named(ctx, vm, name)
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
	err := p.settle(ctx, vm, p.cfg.TaskTimeout, creates)
	var list []hypervisor.Snapshot
	if err == nil {
		list, _, err = p.snapshots(ctx, vm, func(name string) bool { return strings.HasPrefix(name, prefix) })
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

// Delete is hypervisor.Provider's. The snapshots made after it stay, and its disks are consolidated, which takes as long as much was written since. It looks afterwards, and what says that it is gone and
// the disks are not consolidated is an error: done again, it consolidates them.
func (p *Provider) Delete(ctx context.Context, vm hypervisor.VM, name string) error {
	if err := p.remove(ctx, vm, name); err != nil {
		return p.lost(vm, "delete snapshot "+name, err)
	}
	return nil
}

func (p *Provider) remove(ctx context.Context, vm hypervisor.VM, name string) error {
	for removed, consolidated := false, false; ; {
		if err := p.settle(ctx, vm, p.cfg.RemovalTimeout, changes); err != nil {
			return err
		}
		list, needed, err := p.snapshots(ctx, vm, func(n string) bool { return n == name })
		switch {
		case err != nil:
			return err
		case len(list) > 0 && removed:
			return verdict("it is still there after its removal: look at the VM's tasks in vsphere, and delete it again")
		case len(list) > 0:
			removed = true
			for _, s := range list {
				if err := p.removeOne(ctx, vm, s); err != nil {
					return err
				}
			}
		case needed && consolidated:
			return verdict("it is gone, and the VM's disks still need consolidation: look what else uses their files, such as backup software, and delete it again")
		case needed:
			consolidated = true
			err := p.run(ctx, vm, p.cfg.RemovalTimeout, func(client *vim25.Client) (types.ManagedObjectReference, error) {
				res, err := methods.ConsolidateVMDisks_Task(ctx, client, &types.ConsolidateVMDisks_Task{This: p.reference(vm)})
				if err != nil {
					return types.ManagedObjectReference{}, err
				}
				return res.Returnval, nil
			})
			if err != nil && !errors.Is(err, errForgotten) {
				return fmt.Errorf("it is gone, and the VM's disks are to be consolidated: %w", err)
			}
		default:
			return nil
		}
	}
}

// removeOne removes a snapshot. One that somebody else removes meanwhile, as the request of an answer that was lost, and a task that is forgotten, are no errors: whoever calls it looks afterwards.
func (p *Provider) removeOne(ctx context.Context, vm hypervisor.VM, s hypervisor.Snapshot) error {
	const gone = verdict("it is gone")
	consolidate := true
	err := p.run(ctx, vm, p.cfg.RemovalTimeout, func(client *vim25.Client) (types.ManagedObjectReference, error) {
		res, err := methods.RemoveSnapshot_Task(ctx, client, &types.RemoveSnapshot_Task{
			This: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: s.ID}, Consolidate: &consolidate,
		})
		switch {
		case fault.Is(err, &types.ManagedObjectNotFound{}):
			return types.ManagedObjectReference{}, gone
		case err != nil:
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	if errors.Is(err, gone) || errors.Is(err, errForgotten) {
		return nil
	}
	return err
}

// reference of a VM that was looked up.
func (p *Provider) reference(vm hypervisor.VM) types.ManagedObjectReference {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[vm.ID]
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
		err = p.run(ctx, vm, p.cfg.PowerTimeout, func(*vim25.Client) (types.ManagedObjectReference, error) { return taskOf(machine.PowerOn(ctx)) })
	}
	if err != nil && !already(err, types.VirtualMachinePowerStatePoweredOn) {
		return p.lost(vm, "switch it on", err)
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
		err = p.run(ctx, vm, p.cfg.PowerTimeout, func(*vim25.Client) (types.ManagedObjectReference, error) { return taskOf(machine.PowerOff(ctx)) })
	case !toolsRun(props):
		err = verdict("vmware tools do not run in the guest, so nobody hears the request to shut down: start open-vm-tools, shut it down from inside, or take its power away")
	default:
		err = p.reading(ctx, func() error { return machine.ShutdownGuest(ctx) })
	}
	if err != nil && !already(err, types.VirtualMachinePowerStatePoweredOff) {
		return p.lost(vm, "stop it", err)
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
