package katodouble

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Invocation is one call of kato.
type Invocation struct {
	// Args after the program's name.
	Args []string
	// Node is the id of the node it runs on.
	Node string
	// UID of the caller; kato refuses root.
	UID int
	// Home and Path of the caller: kato needs the login environment, with ~/bin in PATH.
	Home, Path     string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Dir is the working directory, Files the file system it is of; without Files nothing can be exported or imported.
	Dir   string
	Files Files
	// Folders are the same file system with the rights of root; without them nothing can be relocated.
	Folders Folders
	// Sudo returns an error when sudo asks the caller for a password; nil = it does not ask.
	Sudo func(context.Context) error
	// SudoThere likewise of another node, by its id, to which kato has logged in.
	SudoThere func(ctx context.Context, node string) error
	// Reboot reboots a node, by its id, and returns before it does; nil = no node can be rebooted.
	Reboot func(ctx context.Context, node string) error
	// Reach returns an error when one node cannot log in to another one by key, both named by their ids; nil = it can.
	Reach func(ctx context.Context, from, to string) error
	// Dial connects as a program of a node, which is named by its id; nil = as this process.
	Dial func(ctx context.Context, node, network, address string) (net.Conn, error)
	// SSH runs a command line on another host, [USER@]NAME, as the caller and with the caller's own key. Its error is that it could not log in, or that the
	// connection broke; what a writer refuses is not told. The command reads nothing, and sees the end of its standard input when ctx or the caller ends. nil = no host can be reached.
	SSH func(ctx context.Context, host, command string, stdout, stderr io.Writer) (exit int, err error)
}

type call struct {
	Invocation
	ctx   context.Context
	c     *Cluster
	local *node
}

func (k *call) printf(format string, args ...any) { fmt.Fprintf(k.Stdout, format, args...) }

func (k *call) fail(format string, args ...any) int {
	fmt.Fprintf(k.Stderr, "ERROR: "+format+"\n", args...)
	return 1
}

const usageText = `Usage:
  kato config get [options] [<component>] [<key-path>]
  kato config set [options] <component> <key-path> [<value>]
  kato config del [options] <component> <key-path>
  kato data export --only-this-node [options] [<filename>]
  kato data export --cluster [options] [<filename>]
  kato data export --manual [options] [<filename>]
  kato data import --only-this-node [options] <source>
  kato data import --cluster [options] <source>
  kato data import --manual [options] <source>
  kato info [options]
  kato node list [options]
  kato node retire [options]
  kato node upgrade [options]
  kato node version [<node-IP>]
  kato op upstream_proxy set [options] <host:port>
  kato op upstream_proxy delete
  kato patch status [options]
  kato patch install|revert [options] [<patchname>]
  kato patch reinstall [options] <patchname>
  kato patch update [options]
  kato process list [options] [<process>...]
  kato process ready [options] <process>
  kato relocate [options] (containers|droplets|services) <new_location>
  kato start|stop|restart [options] [<role>...]
  kato status [options]
  kato history [options]
  kato version
`

func (k *call) usage() int {
	io.WriteString(k.Stderr, usageText)
	return 1
}

// Run executes a command and returns its exit code. It ends when ctx does.
func (c *Cluster) Run(ctx context.Context, in Invocation) int {
	k := &call{Invocation: in, ctx: ctx, c: c}
	c.mu.Lock()
	k.local = c.nodes[in.Node]
	c.mu.Unlock()
	if k.local == nil {
		return k.fail("this node is not part of a cluster")
	}
	if k.noKato() {
		io.WriteString(in.Stderr, "kato: command not found\n")
		return 127
	}
	if in.UID == 0 {
		return k.fail("kato must not be run as root")
	}
	if in.Home == "" || !slices.Contains(strings.Split(in.Path, ":"), in.Home+"/bin") {
		fmt.Fprintf(in.Stderr, "/usr/bin/env: 'ruby': No such file or directory\n")
		return 127
	}
	if c.localAway {
		return k.fail("Could not connect to node %s: Connection refused", in.Node)
	}
	c.mu.Lock()
	prompts, exitZero := k.local.prompts, k.local.exitZero
	c.mu.Unlock()
	if prompts {
		return k.prompt()
	}
	exit := k.run()
	c.mu.Lock()
	c.history = append(c.history, Command{Time: time.Now(), Node: in.Node, Args: slices.Clone(in.Args), Exit: exit})
	c.mu.Unlock()
	if exitZero {
		return 0
	}
	return exit
}

// prompt asks for a sudo password and waits for an answer as long as standard input stays open; an empty answer is a wrong password (kato.md §0.5).
func (k *call) prompt() int {
	k.printf("[sudo] password for stackato: ")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if k.Stdin != nil {
			io.Copy(io.Discard, k.Stdin)
		}
	}()
	select {
	case <-done:
	case <-k.ctx.Done():
	}
	return k.fail("sudo: no password was provided")
}

// options are those of kato.md §3: long, or one letter.
type options struct {
	node                                     string
	json, yaml, verbose, force, flat, all, c bool
	block                                    time.Duration
	blocked, help                            bool
}

// parse reads docopt style options; ok is false for one the command does not have.
func (k *call) parse(args []string, allowed string) (o options, rest []string, ok bool) {
	long := map[string]string{"node": "n", "json": "j", "yaml": "y", "verbose": "v", "force": "F", "flat": "f", "all": "a", "cluster": "c", "block": "b", "help": "h"}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			rest = append(rest, a)
			continue
		}
		name, value, has := a[1:], "", false
		if strings.HasPrefix(a, "--") {
			var key string
			key, value, has = strings.Cut(a[2:], "=")
			if name = long[key]; name == "" {
				return o, nil, false
			}
		}
		if len(name) != 1 || !strings.Contains(allowed+"h", name) {
			return o, nil, false
		}
		if name == "n" || name == "b" {
			if !has {
				if i++; i >= len(args) {
					return o, nil, false
				}
				value = args[i]
			}
		}
		switch name {
		case "n":
			o.node = value
		case "j":
			o.json = true
		case "y":
			o.yaml = true
		case "v":
			o.verbose = true
		case "F":
			o.force = true
		case "f":
			o.flat = true
		case "a":
			o.all = true
		case "c":
			o.c = true
		case "h":
			o.help = true
		case "b":
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return o, nil, false
			}
			o.blocked, o.block = true, time.Duration(n)*time.Second
		}
	}
	return o, rest, true
}

func (k *call) run() int {
	args := k.Args
	if len(args) == 0 {
		return k.usage()
	}
	for _, a := range args {
		if a == "--help" || a == "-h" {
			text := usageText
			switch {
			case args[0] == "patch":
				text = patchHelp(k.generation())
			case upgrades(args):
				text = upgradeHelp(k.oldUpgrades())
			}
			io.WriteString(k.Stdout, text)
			return 0
		}
	}
	sub := ""
	if len(args) > 1 {
		sub = args[1]
	}
	switch args[0] {
	case "version":
		if len(args) > 1 {
			return k.usage()
		}
		return k.nodeVersion(nil)
	case "info":
		return k.info(args[1:])
	case "status":
		return k.status(args[1:])
	case "history":
		return k.history(args[1:])
	case "start", "stop", "restart":
		return k.startStop(args[0], args[1:])
	case "config":
		switch sub {
		case "get", "set", "del":
			return k.config(sub, args[2:])
		}
	case "data":
		switch sub {
		case "export":
			return k.dataExport(args[2:])
		case "import":
			return k.dataImport(args[2:])
		}
	case "node":
		switch sub {
		case "list":
			return k.nodeList(args[2:])
		case "retire":
			return k.nodeRetire(args[2:])
		case "version":
			return k.nodeVersion(args[2:])
		case "upgrade":
			return k.nodeUpgrade(args[2:])
		}
	case "op":
		if sub == "upstream_proxy" {
			return k.upstreamProxy(args[2:])
		}
	case "patch":
		if sub != "" {
			return k.patch(sub, args[2:])
		}
	case "process":
		switch sub {
		case "list":
			return k.processList(args[2:])
		case "ready":
			return k.processReady(args[2:])
		}
	case "relocate":
		return k.relocate(args[1:])
	}
	return k.usage()
}

// render prints a value as JSON or YAML.
func (k *call) render(asJSON bool, v any) int {
	var b []byte
	var err error
	if asJSON {
		b, err = json.MarshalIndent(v, "", "  ")
		b = append(b, '\n')
	} else {
		b, err = yaml.Marshal(v)
	}
	if err != nil {
		return k.fail("%v", err)
	}
	k.Stdout.Write(b)
	return 0
}

// target is the node of --node, or the local one.
func (k *call) target(id string) (*node, int) {
	if id == "" {
		return k.local, 0
	}
	n := k.c.nodes[id]
	if n == nil {
		return nil, k.fail("Node %s is not part of the cluster", id)
	}
	if !n.up {
		return nil, k.fail("Could not connect to node %s: No route to host", id)
	}
	return n, 0
}

func (k *call) info(args []string) int {
	o, rest, ok := k.parse(args, "njy")
	if !ok || len(rest) > 0 {
		return k.usage()
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	n, exit := k.target(o.node)
	if n == nil {
		return exit
	}
	available := slices.DeleteFunc(slices.Clone(roleOrder), func(r string) bool { return slices.Contains(n.roles, r) })
	if o.json || o.yaml {
		return k.render(o.json, map[string]any{"node": n.id, "version": n.version, "assigned_roles": n.roles, "available_roles": available})
	}
	k.printf("Node %s\nVersion: %s\nAssigned roles: %s\nAvailable roles: %s\n", n.id, n.version, strings.Join(n.roles, ", "), strings.Join(available, ", "))
	return 0
}

func (k *call) nodeList(args []string) int {
	o, rest, ok := k.parse(args, "jyv")
	if !ok || len(rest) > 0 {
		return k.usage()
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if o.json || o.yaml {
		out := map[string]any{}
		for _, id := range k.c.order {
			out[id] = map[string]any{"roles": k.c.nodes[id].roles}
		}
		return k.render(o.json, out)
	}
	for _, id := range k.c.order {
		k.printf("%s %s\n", id, strings.Join(k.c.nodes[id].roles, ","))
	}
	return 0
}

func (k *call) nodeRetire(args []string) int {
	o, rest, ok := k.parse(args, "nv")
	if !ok || len(rest) > 0 {
		return k.usage()
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	n, exit := k.target(o.node)
	if n == nil {
		return exit
	}
	moved := n.apps
	if err := k.c.retire(n); err != nil {
		return k.fail("%v", err)
	}
	k.printf("Retiring node %s...\nmoved %d app instances\nok\n", n.id, moved)
	return 0
}

// status prints a block a node: its id, then role and state.
func (k *call) status(args []string) int {
	o, rest, ok := k.parse(args, "ajyv")
	if !ok || len(rest) > 0 {
		return k.usage()
	}
	k.c.mu.Lock()
	offline := false
	for _, n := range k.c.nodes {
		offline = offline || !n.up
	}
	hang := offline && k.c.legacy
	k.c.mu.Unlock()
	if hang {
		<-k.ctx.Done()
		return 1
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	nodes := map[string]any{}
	for _, id := range k.c.order {
		n := k.c.nodes[id]
		if !n.up {
			nodes[id] = map[string]any{"error": "node is not reachable"}
			continue
		}
		roles := map[string]string{}
		for _, r := range n.roles {
			roles[r] = string(n.roleState(r))
		}
		nodes[id] = map[string]any{"roles": roles}
	}
	// The exit code with an unreachable node is not known; 0, because the command itself worked (kato.md §8).
	if o.json || o.yaml {
		return k.render(o.json, nodes)
	}
	for i, id := range k.c.order {
		if i > 0 {
			k.printf("\n")
		}
		k.printf("%s\n", id)
		n := k.c.nodes[id]
		if !n.up {
			k.printf("  ERROR: node is not reachable\n")
			continue
		}
		for _, r := range n.roles {
			k.printf("  %-16s %s\n", r, n.roleState(r))
		}
	}
	return 0
}

// processList prints name and state; JSON is {process: state}, with --cluster {ip: {process: state}} (kato.md §6.2).
func (k *call) processList(args []string) int {
	o, names, ok := k.parse(args, "ncjyv")
	if !ok {
		return k.usage()
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	filter := func(n *node) (map[string]string, []string) {
		out := map[string]string{}
		for p, st := range n.processes() {
			if len(names) == 0 || slices.Contains(names, p) {
				out[p] = string(st)
			}
		}
		keys := make([]string, 0, len(out))
		for p := range out {
			keys = append(keys, p)
		}
		sort.Strings(keys)
		return out, keys
	}
	exit := 0
	if o.c {
		all := map[string]any{}
		for _, id := range k.c.order {
			n := k.c.nodes[id]
			if !n.up {
				exit = k.fail("Could not connect to node %s: No route to host", id)
				continue
			}
			list, keys := filter(n)
			all[id] = list
			if !o.json && !o.yaml {
				k.printf("%s\n", id)
				for _, p := range keys {
					k.printf("  %-24s %s\n", p, list[p])
				}
			}
		}
		if o.json || o.yaml {
			k.render(o.json, all)
		}
		return exit
	}
	n, exit := k.target(o.node)
	if n == nil {
		return exit
	}
	list, keys := filter(n)
	for _, name := range names {
		if _, ok := list[name]; !ok {
			return k.fail("Unknown process %s", name)
		}
	}
	if o.json || o.yaml {
		return k.render(o.json, list)
	}
	for _, p := range keys {
		k.printf("%-24s %s\n", p, list[p])
	}
	return 0
}

// processReady prints READY and exits 0 when a process, or all, run; --block waits, 0 for ever.
func (k *call) processReady(args []string) int {
	o, rest, ok := k.parse(args, "nb")
	if !ok || len(rest) != 1 {
		return k.usage()
	}
	deadline := time.Now().Add(o.block)
	for {
		k.c.mu.Lock()
		n, exit := k.target(o.node)
		if n == nil {
			k.c.mu.Unlock()
			return exit
		}
		ready, known := n.ready(rest[0])
		k.c.mu.Unlock()
		if !known {
			return k.fail("Unknown process %s", rest[0])
		}
		if ready {
			k.printf("READY\n")
			return 0
		}
		if !o.blocked || o.block > 0 && time.Now().After(deadline) {
			k.printf("NOT READY\n")
			return 1
		}
		t := time.NewTimer(20 * time.Millisecond)
		select {
		case <-t.C:
		case <-k.ctx.Done():
			t.Stop()
			return 1
		}
		if k.c.refresh != nil {
			k.c.refresh(k.ctx)
		}
	}
}

func (k *call) startStop(verb string, args []string) int {
	o, roles, ok := k.parse(args, "nv")
	if !ok {
		return k.usage()
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	n, exit := k.target(o.node)
	if n == nil {
		return exit
	}
	if len(roles) == 0 {
		roles = n.roles
	}
	for _, r := range roles {
		if !slices.Contains(n.roles, r) {
			return k.fail("role %s is not enabled on node %s", r, n.id)
		}
	}
	for _, r := range roles {
		if verb == "stop" {
			n.stopped[r] = true
			k.printf("role %s stopping...   ok\n", r)
			continue
		}
		delete(n.stopped, r)
		k.printf("role %s starting...   ok\n", r)
	}
	return 0
}

func (k *call) history(args []string) int {
	o, rest, ok := k.parse(args, "nj")
	if !ok || len(rest) > 0 {
		return k.usage()
	}
	if k.c.coreAway != "" {
		return k.noCore()
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	list := []map[string]string{}
	for _, h := range k.c.history {
		list = append(list, map[string]string{"time": h.Time.UTC().Format(time.RFC3339), "node": h.Node, "command": "kato " + strings.Join(h.Args, " ")})
	}
	if o.json {
		return k.render(true, list)
	}
	for _, h := range list {
		k.printf("%s %s %s\n", h["time"], h["node"], h["command"])
	}
	return 0
}

// noCore is the end of a command that needs the config store, process config_redis of the Core at port 7474 (kato.md §1; the text is [U]).
func (k *call) noCore() int {
	return k.fail("Could not connect to config redis at %s:7474: No route to host", k.c.coreAway)
}

// config is get, set and del on the cluster's shared configuration (kato.md §3.1).
func (k *call) config(verb string, args []string) int {
	o, rest, ok := k.parse(args, "jyfF")
	if !ok {
		return k.usage()
	}
	if k.c.coreAway != "" {
		return k.noCore()
	}
	c := k.c
	path := func(p string) []string {
		return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" })
	}
	switch verb {
	case "get":
		if len(rest) > 2 {
			return k.usage()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		var v any = c.config
		words := rest[:min(1, len(rest))]
		if len(rest) == 2 {
			words = append(slices.Clone(words), path(rest[1])...)
		}
		for _, w := range words {
			m, isMap := v.(map[string]any)
			next, found := m[w]
			if !isMap || !found {
				return 0 // an unknown key prints nothing
			}
			v = next
		}
		if o.flat {
			k.flat("", v)
			return 0
		}
		if s, isString := v.(string); isString && !o.json {
			k.printf("%s\n", s)
			return 0
		}
		return k.render(o.json, v)
	case "del":
		if len(rest) != 2 {
			return k.usage()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		m, _ := c.config[rest[0]].(map[string]any)
		words := path(rest[1])
		for len(words) > 1 && m != nil {
			m, _ = m[words[0]].(map[string]any)
			words = words[1:]
		}
		if m == nil || len(words) == 0 {
			return k.fail("no such key %s %s", rest[0], rest[1])
		}
		delete(m, words[0])
		return 0
	}
	// set
	if len(rest) == 2 {
		b, err := io.ReadAll(k.Stdin)
		if err != nil {
			return k.fail("reading the value: %v", err)
		}
		rest = append(rest, strings.TrimSuffix(string(b), "\n"))
	}
	if len(rest) != 3 {
		return k.usage()
	}
	var value any
	words := path(rest[1])
	if len(words) == 0 {
		return k.usage()
	}
	switch {
	case o.json:
		if err := json.Unmarshal([]byte(rest[2]), &value); err != nil {
			return k.fail("value is not valid JSON: %v", err)
		}
	case o.yaml:
		if err := yaml.Unmarshal([]byte(rest[2]), &value); err != nil {
			return k.fail("value is not valid YAML: %v", err)
		}
	default:
		value = guess(rest[2])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m, _ := c.config[rest[0]].(map[string]any)
	if m == nil {
		m = map[string]any{}
		c.config[rest[0]] = m
	}
	for len(words) > 1 {
		next, isMap := m[words[0]].(map[string]any)
		if !isMap {
			next = map[string]any{}
			m[words[0]] = next
		}
		m, words = next, words[1:]
	}
	old, had := m[words[0]]
	if had && kind(old) != kind(value) && !o.force && kind(value) != "null" {
		return k.fail("type of %s would change from %s to %s; use --force", rest[1], kind(old), kind(value))
	}
	if !had && !o.json && !o.yaml {
		k.printf("WARNING: Assumed type %s\n", kind(value))
	}
	m[words[0]] = value
	if s, isString := value.(string); isString && !o.json {
		k.printf("%s\n", s)
		return 0
	}
	return k.render(o.json, value)
}

func (k *call) flat(prefix string, v any) {
	m, ok := v.(map[string]any)
	if !ok {
		k.printf("%s %v\n", strings.TrimPrefix(prefix, "/"), v)
		return
	}
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		k.flat(prefix+"/"+key, m[key])
	}
}

// guess finds the type of a value given without --json.
func guess(text string) any {
	switch text {
	case "true":
		return true
	case "false":
		return false
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	var v any
	if strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{") {
		if json.Unmarshal([]byte(text), &v) == nil {
			return v
		}
	}
	return text
}

// kind names a type as kato's warning does: struct for everything structured.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case int64, float64, uint64, int:
		return "integer"
	case string:
		return "string"
	}
	return "struct"
}
