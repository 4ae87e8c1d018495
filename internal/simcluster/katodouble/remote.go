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
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// askTimeout is after how long a node that does not answer is offline.
	askTimeout = 2 * time.Second
	// historyTimeout is short: a gate must not wait for the history of a Core that is rebooting.
	historyTimeout = 500 * time.Millisecond
	lockTimeout    = 30 * time.Second
	loginTimeout   = 20 * time.Second
	// refreshEvery is how often a waiting command asks again.
	refreshEvery = 200 * time.Millisecond
)

// remote is one call of kato on a node of a site: the cluster, put together from what the nodes' agents say.
type remote struct {
	site   *Site
	client *http.Client
	c      *Cluster

	mu        sync.Mutex
	before    map[string]NodeState
	config    map[string]any
	refreshed time.Time
}

// databaseClient waits as long for a connection as a busy machine may need: a database that does not answer is no node that is offline.
var databaseClient = &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext}}

// Run executes one call of kato on the site's node, as Cluster.Run does in process, and returns its exit code. in.Node is ignored. job is the
// name of the durable job it runs in; the call is recorded with it.
func (s *Site) Run(ctx context.Context, in Invocation, job string) int {
	in.Node = s.ID
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: askTimeout}).DialContext} // never by the node's proxy
	defer transport.CloseIdleConnections()
	r := &remote{site: s, client: &http.Client{Transport: transport}, c: s.cluster(), before: map[string]NodeState{}}
	end := r.record(CommandLine{Time: time.Now(), Args: append([]string{}, in.Args...), Job: job})
	exit := r.run(ctx, in)
	end(exit)
	return exit
}

// request sends one request and reads the answer into out, if that is not nil. An answer that is no success is an error with its text.
func (r *remote) request(ctx context.Context, node SiteNode, method, path string, in, out any) error {
	resp, err := r.send(ctx, node, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || out == nil {
		return err
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = b
		return nil
	}
	return json.Unmarshal(b, out)
}

func (r *remote) send(ctx context.Context, node SiteNode, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+node.address()+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		resp.Body.Close()
		if resp.StatusCode == http.StatusBadGateway {
			return nil, unfetched(strings.TrimSpace(string(text)))
		}
		if resp.StatusCode == http.StatusConflict {
			for _, busy := range []error{errImporting, errUpgrading} {
				if strings.Contains(string(text), busy.Error()) {
					return nil, busy
				}
			}
			return nil, errExporting
		}
		return nil, fmt.Errorf("node %s: %s", node.ID, strings.TrimSpace(string(text)))
	}
	return resp, nil
}

// record tells the node's agent that kato runs; the returned function tells it the exit code. A kato that is killed in between is recorded by
// the agent. Where no agent answers, the line is added to the file if the caller may.
func (r *remote) record(line CommandLine) (end func(exit int)) {
	local := r.site.node(r.site.ID)
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.AfterFunc(askTimeout, cancel)
	resp, err := r.send(ctx, local, http.MethodPost, "/commands", line)
	timer.Stop()
	return func(exit int) {
		defer cancel()
		line.End, line.Exit = time.Now(), exit
		if err == nil {
			defer resp.Body.Close()
			c, stop := context.WithTimeout(ctx, askTimeout)
			defer stop()
			if r.request(c, local, http.MethodPut, "/commands/"+resp.Header.Get("Command"), line, nil) == nil {
				return
			}
		}
		_ = appendLine(filepath.Join(r.site.Dir, commandsFile), line) // kato itself has done what it was called for
	}
}

// asks says which nodes' state a command needs besides the local one's.
func (r *remote) asks(args []string) []SiteNode {
	local := []SiteNode{r.site.node(r.site.ID)}
	if len(args) > 0 && args[0] == "status" || retires(args) || patchesAll(args) || upgrades(args) {
		return r.site.Nodes
	}
	if len(args) == 3 && args[0] == "node" && args[1] == "version" {
		if n := r.site.node(args[2]); n.ID != "" && n.ID != r.site.ID {
			local = append(local, n)
		}
	}
	for i, a := range args {
		name, value, has := strings.Cut(a, "=")
		switch name {
		case "-c", "--cluster":
			return r.site.Nodes
		case "-n", "--node":
			if !has && i+1 < len(args) {
				value = args[i+1]
			}
			if n := r.site.node(value); n.ID != "" && n.ID != r.site.ID {
				local = append(local, n)
			}
		}
	}
	return local
}

func retires(args []string) bool { return len(args) > 1 && args[0] == "node" && args[1] == "retire" }

// patchesAll says whether a command may be about the patches of all nodes.
func patchesAll(args []string) bool {
	return len(args) > 0 && args[0] == "patch" && !slices.ContainsFunc(args, func(a string) bool {
		return slices.Contains([]string{"-l", "--local", "--only-this-node", "-n", "--node"}, a) || strings.HasPrefix(a, "--node=")
	})
}

// changes says whether a command changes something, so that what it prints must wait until that has been written.
func changes(args []string) bool {
	return retires(args) || len(args) > 1 && args[0] == "config" && args[1] != "get" || len(args) > 0 && slices.Contains([]string{"start", "stop", "restart"}, args[0])
}

// gather asks nodes for their state, all at once.
func (r *remote) gather(ctx context.Context, nodes []SiteNode) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			var s NodeState
			err := r.request(ctx, n, http.MethodGet, "/state", nil, &s)
			if err != nil || s.ID != n.ID {
				r.c.NodeDown(n.ID)
				return
			}
			r.c.SetNodeState(s)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.before[n.ID] = s
		})
	}
	wg.Wait()
}

func (r *remote) run(ctx context.Context, in Invocation) int {
	core := r.site.core()
	fail := func(format string, args ...any) int {
		fmt.Fprintf(in.Stderr, "ERROR: "+format+"\n", args...)
		return 1
	}
	if in.UID == 0 {
		return r.c.Run(ctx, in) // it is refused, whatever the nodes say
	}
	if retires(in.Args) {
		// The counts of several nodes change together: one after the other in the whole cluster.
		release, err := r.lock(ctx)
		if err != nil {
			return fail("%v", err)
		}
		defer release()
	}
	nodes := r.asks(in.Args)
	r.gather(ctx, nodes)
	local, here := r.before[r.site.ID]
	r.c.localAway = !here
	r.refresh(nodes)
	if len(in.Args) > 0 && (in.Args[0] == "config" || in.Args[0] == "history") && !r.shared(ctx, core, in.Args[0]) {
		r.c.coreAway = core.ID
	}
	in.Sudo, in.Reach, r.c.exportBegin, r.c.importBegin = r.site.sudo, r.reach, r.beginExport, r.beginImport
	r.c.patchTake, r.c.patchFetch, r.c.nodeChange = r.takePatches, r.fetchPatches, r.change
	r.c.relocateTake = r.takeRelocation
	in.SudoThere, in.Reboot, r.c.upgradeTake, r.c.upgradeBegin, r.c.nodeRetire, r.c.upgraded = r.sudoThere, r.reboot, r.takeUpgrade, r.beginUpgrade, r.retire, r.upgraded
	if r.site.Database != "" {
		r.c.SetDatabase(databaseAt{r.site.Database, databaseClient})
	}
	out := in.Stdout
	var kept bytes.Buffer
	if changes(in.Args) && !local.Prompts {
		in.Stdout = &kept
	}
	known := len(r.c.History())
	exit := r.c.Run(ctx, in)
	// What was begun is brought to its end, though the caller may want kato to stop.
	after := context.WithoutCancel(ctx)
	if err := r.write(after, core); err != nil {
		fail("%v", err)
		kept.Reset()
		if exit = 1; local.ExitZero {
			exit = 0
		}
	}
	out.Write(kept.Bytes())
	if history := r.c.History(); len(history) > known {
		h, cancel := context.WithTimeout(after, historyTimeout)
		defer cancel()
		last := history[len(history)-1]
		last.Exit = max(last.Exit, exit)
		_ = r.request(h, core, http.MethodPost, "/history", last, nil) // a Core that is away misses it; commands.jsonl has it
	}
	return exit
}

// reach lets one node log in to another one.
func (r *remote) reach(ctx context.Context, from, to string) error {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	return r.request(ctx, r.site.node(from), http.MethodPost, "/logins/"+to, nil, nil)
}

// beginExport takes the place of an export.
func (r *remote) beginExport(ctx context.Context, id string, whole bool) (now Export, release func(), err error) {
	release, err = r.begin(ctx, ExportRequest{Node: id, Cluster: whole}, "Export", &now)
	return now, release, err
}

// beginImport takes the place of an import.
func (r *remote) beginImport(ctx context.Context, id string, whole bool) (now Import, release func(), err error) {
	release, err = r.begin(ctx, ExportRequest{Node: id, Cluster: whole, Import: true}, "Import", &now)
	return now, release, err
}

// takePatches begins a change of a node's patches.
func (r *remote) takePatches(ctx context.Context, id string) (now NodePatches, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return now, r.unanswered(id, r.request(ctx, r.site.node(id), http.MethodPost, "/patches", nil, &now))
}

// takeRelocation begins a relocation on a node.
func (r *remote) takeRelocation(ctx context.Context, id string) (now Relocate, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return now, r.unanswered(id, r.request(ctx, r.site.node(id), http.MethodPost, "/relocations", nil, &now))
}

// takeUpgrade begins an upgrade of a node, or a download.
func (r *remote) takeUpgrade(ctx context.Context, id string, want UpgradeRequest) (now Upgrade, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return now, r.unanswered(id, r.request(ctx, r.site.node(id), http.MethodPost, "/upgrades", want, &now))
}

// beginUpgrade takes the place of an upgrade on this node.
func (r *remote) beginUpgrade(ctx context.Context, id string) (release func(), err error) {
	_, release, err = r.hold(ctx, r.site.node(id), "/exports", ExportRequest{Node: id, Upgrade: true})
	return release, r.unanswered(id, err)
}

// lock lets this kato alone change the counts of several nodes, until release is called.
func (r *remote) lock(ctx context.Context) (release func(), err error) {
	core := r.site.core()
	held, cancel := context.WithTimeout(ctx, lockTimeout)
	resp, err := r.send(held, core, http.MethodPost, "/lock", nil)
	if err != nil {
		cancel()
		return nil, away{core.ID}
	}
	return func() {
		cancel()
		resp.Body.Close()
	}, nil
}

// retire retires a node at once.
func (r *remote) retire(ctx context.Context, id string) error {
	release, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	r.gather(ctx, r.site.Nodes)
	if err := r.c.retireNow(ctx, id); err != nil {
		return err
	}
	if err := r.write(context.WithoutCancel(ctx), r.site.core()); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range r.before {
		r.before[n], _ = r.c.NodeState(n)
	}
	return nil
}

// upgraded tells the Cloud Controller when the node has its role; one that does not answer has lost nothing.
func (r *remote) upgraded(id string) {
	if r.site.Database != "" && slices.Contains(r.site.node(id).Roles, "controller") {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		_ = databaseAt{r.site.Database, databaseClient}.ask(ctx, http.MethodDelete, "/buildpacks", nil, nil)
	}
}

// sudoThere says whether another node's sudo asks for a password.
func (r *remote) sudoThere(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	return r.request(ctx, r.site.node(id), http.MethodPost, "/sudo", nil, nil)
}

// reboot reboots a node. Its agent may be gone before it answers.
func (r *remote) reboot(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	err := r.request(ctx, r.site.node(id), http.MethodPost, "/reboots", nil, nil)
	if gone := (*url.Error)(nil); errors.As(err, &gone) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// fetchPatches lets a node fetch the manifest, or a patch.
func (r *remote) fetchPatches(ctx context.Context, id, name string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout+askTimeout)
	defer cancel()
	return r.changed(ctx, id, http.MethodPost, "/fetches", FetchRequest{name})
}

// change changes a node at once, though the caller may want kato to stop meanwhile.
func (r *remote) change(ctx context.Context, id string, p StatePatch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	return r.changed(ctx, id, http.MethodPatch, "/state", p)
}

// changed sends a request that changes a node and is answered with its new state, which is then what is known of it.
func (r *remote) changed(ctx context.Context, id, method, path string, in any) error {
	var s NodeState
	if err := r.request(ctx, r.site.node(id), method, path, in, &s); err != nil {
		return r.unanswered(id, err)
	}
	r.c.SetNodeState(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before[id] = s
	return nil
}

// unanswered makes the error of a node that did not answer that of one that is offline.
func (r *remote) unanswered(id string, err error) error {
	if silent := (*url.Error)(nil); errors.As(err, &silent) {
		return away{id}
	}
	return err
}

// begin takes a place on this node and, if the Core can be asked, on the Core, which knows of those of the whole cluster. Both are free again when kato
// ends, also by being killed. now is what this node's header says.
func (r *remote) begin(ctx context.Context, want ExportRequest, header string, now any) (release func(), err error) {
	core, local := r.site.core(), r.site.node(want.Node)
	nodes := []SiteNode{core}
	if core.ID != local.ID {
		nodes = append(nodes, local)
	}
	var held []func()
	release = func() {
		for _, end := range held {
			end()
		}
	}
	for _, n := range nodes {
		answer, end, err := r.hold(ctx, n, "/exports", want)
		if err != nil && !want.Cluster && n.ID != want.Node && !errors.Is(err, errExporting) && !errors.Is(err, errImporting) {
			continue // the Core is away, and this one does without it
		}
		if err == nil {
			held = append(held, end)
			if n.ID == want.Node {
				err = json.Unmarshal([]byte(answer.Get(header)), now)
			}
		}
		if err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// hold sends a request that the agent answers at once and keeps open until end is called.
func (r *remote) hold(ctx context.Context, node SiteNode, path string, body any) (header http.Header, end func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(askTimeout, cancel)
	resp, err := r.send(ctx, node, http.MethodPost, path, body)
	timer.Stop()
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return resp.Header, func() {
		cancel()
		resp.Body.Close()
	}, nil
}

// refresh lets a waiting command see what changes on the nodes.
func (r *remote) refresh(nodes []SiteNode) {
	r.refreshed = time.Now()
	r.c.refresh = func(ctx context.Context) {
		if time.Since(r.refreshed) >= refreshEvery {
			r.gather(ctx, nodes)
			r.refreshed = time.Now()
		}
	}
}

// shared reads the configuration or the history from the Core; false if it does not answer.
func (r *remote) shared(ctx context.Context, core SiteNode, what string) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if what == "history" {
		var history []Command
		if r.request(ctx, core, http.MethodGet, "/history", nil, &history) != nil {
			return false
		}
		r.c.SetHistory(history)
		return true
	}
	var b []byte
	if r.request(ctx, core, http.MethodGet, "/config", nil, &b) != nil {
		return false
	}
	config, err := decodeConfig(b)
	if err != nil {
		return false
	}
	r.c.SetConfig(config)
	r.config = r.c.Config()
	return true
}

// write brings what the command changed to the nodes: the configuration to the Core; of app instances first those that a node gets, then those
// that another loses, so that a kato killed in between leaves too many and never too few.
func (r *remote) write(ctx context.Context, core SiteNode) error {
	if r.config != nil {
		if list := configChanges(r.config, r.c.Config()); len(list) > 0 {
			c, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			if err := r.request(c, core, http.MethodPatch, "/config", list, nil); err != nil {
				return fmt.Errorf("the configuration was not changed: %w", err)
			}
		}
	}
	type change struct {
		node  SiteNode
		patch StatePatch
	}
	var list []change
	for _, n := range r.site.Nodes {
		before, asked := r.before[n.ID]
		after, _ := r.c.NodeState(n.ID)
		if !asked {
			continue
		}
		if p := difference(before, after); !p.empty() {
			list = append(list, change{n, p})
		}
	}
	slices.SortStableFunc(list, func(a, b change) int { return b.patch.AppsDelta - a.patch.AppsDelta })
	for i, ch := range list {
		if err := r.patch(ctx, ch.node, ch.patch); err != nil {
			for _, done := range list[:i] { // give back what other nodes got
				back := r.patch(ctx, done.node, StatePatch{AppsDelta: -done.patch.AppsDelta})
				if back != nil {
					err = fmt.Errorf("%w; node %s keeps %d app instances too many: %w", err, done.node.ID, done.patch.AppsDelta, back)
				}
			}
			return fmt.Errorf("node %s was not changed: %w", ch.node.ID, err)
		}
	}
	return nil
}

func (r *remote) patch(ctx context.Context, node SiteNode, p StatePatch) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return r.request(ctx, node, http.MethodPatch, "/state", p, nil)
}
