package katodouble

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	stateFile    = "state.json"
	historyFile  = "history.jsonl"
	commandsFile = "commands.jsonl"

	// killedExit is the exit code in commands.jsonl of a kato that was killed.
	killedExit = -1
	// maxLock bounds how long one kato may keep the others waiting, when the network hides that it has gone.
	maxLock = 15 * time.Second
	maxBody = 4 << 20
)

// CommandLine is one line of commands.jsonl: a call of this node's kato, also one that was refused.
type CommandLine struct {
	Time time.Time `json:"time"`
	End  time.Time `json:"end"`
	Args []string  `json:"args"`
	// Exit is -1 for a kato that was killed.
	Exit int `json:"exit"`
	// Job is the name of katoflow's durable job in which it ran, or empty.
	Job string `json:"job"`
}

// Agent keeps the state of one node, on the Core also the configuration and the history, and serves them to the kato of every node:
//
//	GET   /state             NodeState
//	PATCH /state             StatePatch; answers with the new NodeState
//	GET   /commands          the node's CommandLines
//	POST  /commands          begins a CommandLine, held open by kato while it runs; PUT /commands/ID ends it
//	GET   /config            on the Core: the shared configuration
//	PUT   /config            replaces it
//	PATCH /config            a list of ConfigChange
//	GET   /history           on the Core: a list of Command; POST adds one
//	POST  /lock              on the Core: answers when the lock is free, which is held until the connection ends
//	POST  /exports           ExportRequest: takes the place of an export, held until the connection ends; the header Export says what it does. Or of an
//	                         import: the header Import. Or of an upgrade, on the node whose kato does it
//	POST  /logins/ID         logs in to a node by key, as the login user of this one
//	POST  /patches           begins a change of the node's patches; answers with the NodePatches of it
//	POST  /relocations       begins a relocation; answers with the Relocate of it
//	POST  /upgrades          UpgradeRequest: begins an upgrade of the node, or a download; answers with the Upgrade of it
//	POST  /sudo              tries the login user's sudo
//	POST  /reboots           reboots the node
//	POST  /fetches           FetchRequest: fetches the vendor's manifest, or a patch; answers with the new NodeState
//
// A wrong request is answered with 400, one of the Core's to another node with 404, an export, import or upgrade while another one runs with 409, a state that cannot be
// written with 500 and changes nothing, and what cannot be fetched with 502.
type Agent struct {
	site *Site
	core bool
	c    *Cluster
	lock chan struct{}
	// start makes the ids of calls different from those of the agent before.
	start int64

	mu   sync.Mutex // of the files, and of changing the state together with its file
	next int
	open map[string]CommandLine
}

type savedState struct {
	Node   NodeState       `json:"node"`
	Config json.RawMessage `json:"config,omitempty"`
}

// NewAgent reads the state of the node and boots it: roles start anew, stops end, roles that shall never start stay STARTING (NodeUp).
func NewAgent(site *Site) (*Agent, error) {
	a := &Agent{site: site, core: site.core().ID == site.ID, c: site.cluster(), lock: make(chan struct{}, 1), start: time.Now().UnixNano(), open: map[string]CommandLine{}}
	if err := os.MkdirAll(site.Dir, 0o755); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(a.path(stateFile))
	switch {
	case err == nil:
		var saved savedState
		if err := decode(b, &saved); err != nil {
			return nil, fmt.Errorf("%s: %w", a.path(stateFile), err)
		}
		saved.Node.ID = site.ID
		a.c.SetNodeState(saved.Node)
		if a.core && len(saved.Config) > 0 {
			config, err := decodeConfig(saved.Config)
			if err != nil {
				return nil, fmt.Errorf("%s: config: %w", a.path(stateFile), err)
			}
			a.c.SetConfig(config)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if a.core {
		history, err := readLines[Command](a.path(historyFile))
		if err != nil {
			return nil, err
		}
		a.c.SetHistory(history)
	}
	a.c.OnMarker(func(_ string, there bool) { site.mark(there) })
	a.c.SetRestartTime(site.ID, site.roleStart)
	a.c.NodeUp(site.ID, site.roleStart)
	return a, a.save()
}

// ServeAgent is `kato agent`: it serves until ctx ends. ready is called when it answers.
func ServeAgent(ctx context.Context, site *Site, ready func()) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", site.node(site.ID).address())
	if err != nil {
		return err
	}
	a, err := NewAgent(site)
	if err != nil {
		ln.Close()
		return err
	}
	return a.Serve(ctx, ln, ready)
}

// Serve answers on ln until ctx ends, then records the calls of kato that are still open as killed.
func (a *Agent) Serve(ctx context.Context, ln net.Listener, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-ctx.Done() // of every request, too: those held open end
		c, stop := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer stop()
		if server.Shutdown(c) != nil {
			server.Close()
		}
	}()
	if ready != nil {
		ready()
	}
	err := server.Serve(ln)
	cancel()
	<-closed
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (a *Agent) path(name string) string { return filepath.Join(a.site.Dir, name) }

// save writes the state; a.mu is held, or the agent not yet in use.
func (a *Agent) save() error {
	var saved savedState
	saved.Node, _ = a.c.NodeState(a.site.ID)
	if a.core {
		config, err := json.Marshal(a.c.Config())
		if err != nil {
			return err
		}
		saved.Config = config
	}
	b, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return err
	}
	return writeAtomically(a.path(stateFile), append(b, '\n'))
}

func writeAtomically(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of what could not be renamed
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// change does a change and saves it, or neither.
func (a *Agent) change(f func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	node, _ := a.c.NodeState(a.site.ID)
	config := a.c.Config()
	if err := f(); err != nil {
		return badRequest{err}
	}
	if err := a.save(); err != nil {
		a.c.SetLegacyStatus(node.LegacyStatus)
		a.c.SetNodeState(node)
		a.c.SetConfig(config)
		return err
	}
	return nil
}

// badRequest is the caller's mistake; any other error is the node's.
type badRequest struct{ error }

func (e badRequest) Unwrap() error { return e.error }

type notCore struct{ core SiteNode }

func (e notCore) Error() string { return "this node is not the Core: ask " + e.core.address() }

// ExportRequest is the body of POST /exports.
type ExportRequest struct {
	Node string `json:"node"`
	// Cluster: it is an export of the whole cluster.
	Cluster bool `json:"cluster"`
	// Import: it is an import. Upgrade: it is an upgrade of nodes.
	Import  bool `json:"import,omitempty"`
	Upgrade bool `json:"upgrade,omitempty"`
}

// FetchRequest is the body of POST /fetches: the name of a patch, or "" for the manifest.
type FetchRequest struct {
	Name string `json:"name"`
}

// Handler of the agent's requests.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(http.ResponseWriter, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := f(w, r)
			var bad badRequest
			var elsewhere notCore
			var missing unfetched
			switch {
			case errors.Is(err, errExporting), errors.Is(err, errImporting), errors.Is(err, errUpgrading):
				http.Error(w, err.Error(), http.StatusConflict)
			case errors.As(err, &bad):
				http.Error(w, err.Error(), http.StatusBadRequest)
			case errors.As(err, &elsewhere):
				http.Error(w, err.Error(), http.StatusNotFound)
			case errors.As(err, &missing):
				http.Error(w, err.Error(), http.StatusBadGateway)
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
			case answer != nil:
				b, err := json.Marshal(answer)
				if err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				w.Write(append(b, '\n'))
			}
		})
	}
	onCore := func(f func(http.ResponseWriter, *http.Request) (any, error)) func(http.ResponseWriter, *http.Request) (any, error) {
		return func(w http.ResponseWriter, r *http.Request) (any, error) {
			if !a.core {
				return nil, notCore{a.site.core()}
			}
			return f(w, r)
		}
	}
	state := func() (any, error) {
		s, _ := a.c.NodeState(a.site.ID)
		return s, nil
	}
	handle("GET /state", func(http.ResponseWriter, *http.Request) (any, error) { return state() })
	handle("PATCH /state", func(w http.ResponseWriter, r *http.Request) (any, error) {
		var p StatePatch
		if err := body(w, r, &p); err != nil {
			return nil, err
		}
		if err := a.change(func() error { return a.c.PatchNode(a.site.ID, p) }); err != nil {
			return nil, err
		}
		return state()
	})
	handle("GET /config", onCore(func(http.ResponseWriter, *http.Request) (any, error) { return a.c.Config(), nil }))
	handle("PUT /config", onCore(func(w http.ResponseWriter, r *http.Request) (any, error) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			return nil, badRequest{err}
		}
		config, err := decodeConfig(b)
		if err != nil {
			return nil, badRequest{err}
		}
		if err := a.change(func() error { a.c.SetConfig(config); return nil }); err != nil {
			return nil, err
		}
		return a.c.Config(), nil
	}))
	handle("PATCH /config", onCore(func(w http.ResponseWriter, r *http.Request) (any, error) {
		var changes []ConfigChange
		if err := body(w, r, &changes); err != nil {
			return nil, err
		}
		for i := range changes {
			changes[i].Value = numbers(changes[i].Value)
		}
		if err := a.change(func() error { return a.c.ChangeConfig(changes) }); err != nil {
			return nil, err
		}
		return a.c.Config(), nil
	}))
	handle("GET /history", onCore(func(http.ResponseWriter, *http.Request) (any, error) {
		return append([]Command{}, a.c.History()...), nil
	}))
	handle("POST /history", onCore(a.addHistory))
	handle("POST /lock", onCore(a.holdLock))
	handle("POST /exports", a.holdExport)
	handle("POST /logins/{id}", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return struct{}{}, a.site.logIn(r.Context(), r.PathValue("id"))
	})
	handle("POST /patches", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var now NodePatches
		err := a.change(func() (err error) {
			now, err = a.c.takePatches(r.Context(), a.site.ID)
			return err
		})
		return now, err
	})
	handle("POST /relocations", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var now Relocate
		err := a.change(func() (err error) {
			now, err = a.c.takeRelocation(r.Context(), a.site.ID)
			return err
		})
		return now, err
	})
	handle("POST /upgrades", func(w http.ResponseWriter, r *http.Request) (any, error) {
		var want UpgradeRequest
		if err := body(w, r, &want); err != nil {
			return nil, err
		}
		var now Upgrade
		err := a.change(func() (err error) {
			now, err = a.c.takeUpgrade(r.Context(), a.site.ID, want)
			return err
		})
		return now, err
	})
	handle("POST /sudo", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return struct{}{}, a.site.sudoAsLogin(r.Context())
	})
	handle("POST /reboots", func(http.ResponseWriter, *http.Request) (any, error) { return struct{}{}, a.site.reboot() })
	handle("POST /fetches", func(w http.ResponseWriter, r *http.Request) (any, error) {
		var want FetchRequest
		if err := body(w, r, &want); err != nil {
			return nil, err
		}
		list, err := a.c.fetch(r.Context(), nil, a.site.ID, want.Name)
		if err == nil && want.Name == "" {
			err = a.change(func() error { return a.c.PatchNode(a.site.ID, StatePatch{Patches: fetched(list)}) })
		}
		if err != nil {
			return nil, err
		}
		return state()
	})
	handle("GET /commands", func(http.ResponseWriter, *http.Request) (any, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		lines, err := readLines[CommandLine](a.path(commandsFile))
		return append([]CommandLine{}, lines...), err
	})
	handle("POST /commands", a.holdCommand)
	handle("PUT /commands/{id}", func(w http.ResponseWriter, r *http.Request) (any, error) {
		var end CommandLine
		if err := body(w, r, &end); err != nil {
			return nil, err
		}
		return struct{}{}, a.endCommand(r.PathValue("id"), end.End, end.Exit)
	})
	return mux
}

func body(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return badRequest{err}
	}
	if err := decode(b, v); err != nil {
		return badRequest{err}
	}
	return nil
}

func (a *Agent) addHistory(w http.ResponseWriter, r *http.Request) (any, error) {
	var cmd Command
	if err := body(w, r, &cmd); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := appendLine(a.path(historyFile), cmd); err != nil {
		return nil, err
	}
	a.c.SetHistory(append(a.c.History(), cmd))
	return struct{}{}, nil
}

// hold answers, and keeps the request open until the caller has gone.
func hold(w http.ResponseWriter, r *http.Request, longest time.Duration) {
	w.WriteHeader(http.StatusOK)
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	var end <-chan time.Time
	if longest > 0 {
		t := time.NewTimer(longest)
		defer t.Stop()
		end = t.C
	}
	select {
	case <-r.Context().Done():
	case <-end:
	}
}

func (a *Agent) holdLock(w http.ResponseWriter, r *http.Request) (any, error) {
	select {
	case a.lock <- struct{}{}:
	case <-r.Context().Done():
		return nil, nil
	}
	defer func() { <-a.lock }()
	hold(w, r, maxLock)
	return nil, nil
}

// holdExport keeps the place of an export or import of this node, or on the Core of another node's, so that it is free again when kato ends, however it does.
func (a *Agent) holdExport(w http.ResponseWriter, r *http.Request) (any, error) {
	var want ExportRequest
	if err := body(w, r, &want); err != nil {
		return nil, err
	}
	var now any
	header, release := "Export", func() {}
	err := a.change(func() (err error) {
		if want.Upgrade {
			release, err = a.c.beginUpgrade(r.Context(), want.Node)
			return err
		}
		if want.Import {
			header = "Import"
			now, release, err = a.c.beginImport(r.Context(), want.Node, want.Cluster)
			return err
		}
		now, release, err = a.c.beginExport(r.Context(), want.Node, want.Cluster)
		return err
	})
	if release != nil {
		defer release()
	}
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(now)
	if err != nil {
		return nil, err
	}
	w.Header().Set(header, string(b))
	hold(w, r, 0)
	return nil, nil
}

func (a *Agent) holdCommand(w http.ResponseWriter, r *http.Request) (any, error) {
	var line CommandLine
	if err := body(w, r, &line); err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.next++
	id := fmt.Sprintf("%x-%d", a.start, a.next)
	a.open[id] = line
	a.mu.Unlock()
	w.Header().Set("Command", id)
	hold(w, r, 0)
	return nil, a.endCommand(id, time.Now(), killedExit)
}

// endCommand writes the line of a call, once.
func (a *Agent) endCommand(id string, end time.Time, exit int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	line, open := a.open[id]
	if !open {
		return nil
	}
	delete(a.open, id)
	line.End, line.Exit = end, exit
	return appendLine(a.path(commandsFile), line)
}

func appendLine(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// readLines reads a file of JSON lines; one that does not exist is empty. What a power cut left half written is passed over.
func readLines[T any](path string) (out []T, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for line := range bytes.Lines(b) {
		var v T
		if json.Unmarshal(line, &v) == nil {
			out = append(out, v)
		}
	}
	return slices.Clip(out), err
}
