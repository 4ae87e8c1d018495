package openstack

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/webclient"
)

// request is the one for the snapshot of one disk, with its own connection.
type request struct {
	client  *gophercloud.ServiceClient
	address string
	body    any
	volume  string // "" for the root's image
	line    *connection.Line
}

// shot is the requests of one server.
type shot struct {
	provider *Provider
	session  *session
	vm       hypervisor.VM
	server   string
	name     string
	requests []*request

	mu   sync.Mutex
	made *hypervisor.Snapshot // what is known to be there
	sent bool                 // requests went out, and not all are known to have been carried out
}

// Prepare is hypervisor.Provider's.
func (p *Provider) Prepare(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Shot, error) {
	s := &shot{provider: p, vm: vm, name: name}
	err := p.on(ctx, vm, "prepare snapshot "+name, func(session *session, x server) error {
		s.session, s.server = session, x.ID
		sets, err := p.named(ctx, session, x.ID, name)
		if err != nil {
			return err
		}
		if len(sets) > 0 {
			there := which(sets).view()
			s.made = &there
			return nil
		}
		devices, err := p.devices(ctx, session, x)
		if err != nil {
			return err
		}
		meta := func(device string) map[string]string {
			return map[string]string{keySnapshot: name, keyServer: x.ID, keyDevice: device, keyRequest: "", keyDisks: ""}
		}
		var metas []map[string]string
		for _, v := range x.Volumes {
			m := meta(devices[v.ID])
			metas = append(metas, m)
			s.requests = append(s.requests, &request{client: session.volumes, address: session.volumes.ServiceURL("snapshots"), volume: v.ID, body: map[string]any{"snapshot": map[string]any{
				"volume_id": v.ID, "name": name, "force": true, "description": "katoflow " + name + " of " + vm.Node, "metadata": m,
			}}})
		}
		if x.bootsFromImage() {
			m := meta("root")
			metas = append(metas, m)
			s.requests = append(s.requests, &request{client: session.compute, address: session.compute.ServiceURL("servers", x.ID, "action"),
				body: map[string]any{"createImage": map[string]any{"name": name, "metadata": m}}})
		}
		if len(s.requests) == 0 {
			return errors.New("the server has no disk that a snapshot could be taken of")
		}
		token := rand.Text()
		for _, m := range metas {
			m[keyRequest], m[keyDisks] = token, strconv.Itoa(len(s.requests))
		}
		if err := p.fresh(ctx, session); err != nil {
			return err
		}
		for _, r := range s.requests {
			u, err := url.Parse(r.client.Endpoint)
			if err != nil {
				return err
			}
			r.line = p.transport.Line()
			// The list of versions, which needs no token.
			if err := r.line.Warm(ctx, p.cfg.Warm, connection.Get(&p.http, (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// devices says where a server's volumes are attached.
func (p *Provider) devices(ctx context.Context, s *session, x server) (map[string]string, error) {
	var list struct {
		Attachments []struct {
			Volume string `json:"volumeId"`
			Device string `json:"device"`
		} `json:"volumeAttachments"`
	}
	if err := p.get(ctx, s.compute, s.compute.ServiceURL("servers", x.ID, "os-volume_attachments"), &list); err != nil {
		return nil, err
	}
	devices := map[string]string{}
	for _, a := range list.Attachments {
		devices[a.Volume] = a.Device
	}
	return devices, nil
}

// accepted is the answer to one request.
type accepted struct {
	part part
	err  error
}

// send sends the request once: gophercloud sends it again after a refused token only.
func (r *request) send(ctx context.Context) accepted {
	ctx = r.line.On(ctx)
	if r.volume != "" {
		var one struct{ Snapshot cinderSnapshot }
		_, err := r.client.Post(ctx, r.address, r.body, &one, &gophercloud.RequestOpts{OkCodes: []int{200, 202}})
		return accepted{one.Snapshot.part(), err}
	}
	resp, err := r.client.Post(ctx, r.address, r.body, nil, &gophercloud.RequestOpts{OkCodes: []int{202}, KeepResponseBody: true})
	if err != nil {
		return accepted{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	var body struct {
		ID string `json:"image_id"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&body) // from microversion 2.45
	if body.ID == "" {
		if location, err := url.Parse(resp.Header.Get("Location")); err == nil {
			body.ID = path.Base(location.Path)
		}
	}
	if body.ID == "" || body.ID == "." || body.ID == "/" {
		return accepted{err: errors.New("nova does not say which image it makes")}
	}
	return accepted{part: part{id: body.ID, status: "queued"}}
}

// Take is hypervisor.Shot's: it returns when no disk's snapshot is creating or queued any more (see the package). Cinder and Nova have no token that would make a second request the same as the first,
// so none of which nobody knows is sent again.
func (s *shot) Take(ctx context.Context) (hypervisor.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.provider
	resting, cancel := context.WithTimeout(ctx, restWithin)
	for _, r := range s.requests {
		r.line.Rest(resting)
	}
	cancel()
	if s.made == nil && s.sent {
		found, ok, err := p.Find(ctx, s.vm, s.name)
		if err != nil {
			return hypervisor.Snapshot{}, err
		}
		if ok {
			s.made = &found
		}
	}
	if s.made != nil {
		return *s.made, nil
	}
	answers := make([]accepted, len(s.requests))
	var wait sync.WaitGroup
	for i, r := range s.requests {
		wait.Go(func() { answers[i] = r.send(ctx) })
	}
	wait.Wait()
	var unknown, no error
	carried := false
	for i, a := range answers {
		disk := "volume " + s.requests[i].volume
		if s.requests[i].volume == "" {
			disk = "the root disk"
		}
		switch {
		case a.err == nil:
			carried = true
		case refused(a.err):
			no = fmt.Errorf("%s: %w", disk, webclient.Hide(a.err, p.text(a.err)))
		default:
			unknown = fmt.Errorf("%s: %w", disk, webclient.Hide(a.err, p.text(a.err)))
		}
	}
	switch {
	case unknown != nil:
		return hypervisor.Snapshot{}, s.unknown(unknown)
	case no != nil:
		s.sent = carried // what was carried out is a set that lacks a disk
		return hypervisor.Snapshot{}, p.fail(s.vm, "take snapshot "+s.name, no)
	}
	made := set{name: s.name, disks: len(s.requests)}
	ctx, cancel = context.WithTimeoutCause(ctx, p.cfg.Wait, fmt.Errorf("the snapshots have not been made after %s", p.cfg.Wait))
	defer cancel()
	results := make([]accepted, len(answers))
	for i, r := range s.requests {
		wait.Go(func() {
			results[i] = answers[i]
			results[i].part, results[i].err = p.past(r.line.On(ctx), s.session, answers[i].part, r.volume)
		})
	}
	wait.Wait()
	for _, r := range results {
		if r.err != nil {
			return hypervisor.Snapshot{}, s.unknown(webclient.Hide(r.err, p.text(r.err)))
		}
		made.parts = append(made.parts, r.part)
	}
	view := made.view()
	s.made = &view
	return view, nil
}

// past waits until the moment of a disk's snapshot has passed.
func (p *Provider) past(ctx context.Context, s *session, x part, volume string) (part, error) {
	for !x.passed() {
		if err := p.pause(ctx); err != nil {
			return x, err
		}
		if volume != "" {
			var one struct{ Snapshot cinderSnapshot }
			if err := p.get(ctx, s.volumes, s.volumes.ServiceURL("snapshots", x.id), &one); err != nil {
				return x, err
			}
			x = one.Snapshot.part()
			continue
		}
		var image struct {
			ID      string `json:"id"`
			Status  string `json:"status"`
			Created string `json:"created_at"`
			Size    int64  `json:"size"`
		}
		err := p.get(ctx, s.image, s.image.ServiceURL("images", x.id), &image)
		if status(err) == http.StatusNotFound {
			// Nova deletes the image when it fails to take the snapshot.
			x.status = "killed"
			continue
		}
		if err != nil {
			return x, err
		}
		x.status, x.created, x.size = image.Status, moment(image.Created), image.Size
	}
	return x, nil
}

func (s *shot) unknown(err error) error {
	s.sent = true
	s.provider.mu.Lock()
	s.provider.unsure[s.server+"\n"+s.name] = time.Now()
	s.provider.mu.Unlock()
	return &hypervisor.UnknownError{Node: s.vm.Node, Err: err}
}

// Close is hypervisor.Shot's.
func (s *shot) Close() error {
	for _, r := range s.requests {
		if r.line != nil {
			r.line.Close()
		}
	}
	return nil
}
