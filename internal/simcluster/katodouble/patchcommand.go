package katodouble

import (
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
)

// patchOptions of one call.
type patchOptions struct {
	all, local, json, quiet, noRestart, anew bool
	node, name                               string
}

// patchVerbs are what `kato patch` does; mark and reset are not made here.
var patchVerbs = []string{"status", "install", "revert", "reinstall", "update"}

// parsePatch reads the options that a generation's `kato patch VERB` has (kato.md §0.1, §3.6); ok is false for what docopt does not match: another verb, an unknown
// option, a name too many or none for reinstall, --local with --node.
func parsePatch(g Generation, verb string, args []string) (o patchOptions, ok bool) {
	flags := map[string]*bool{"-q": &o.quiet, "--quiet": &o.quiet, "-l": &o.local, "--local": &o.local}
	if g == Generation10 {
		flags = map[string]*bool{"-q": &o.quiet, "--quiet": &o.quiet, "-n": &o.local, "--only-this-node": &o.local}
	}
	if verb != "update" {
		flags["-u"], flags["--force-update"] = &o.anew, &o.anew
	}
	fewest, most := 0, 1
	switch verb {
	case "status":
		flags["-a"], flags["--all"] = &o.all, &o.all
		if g != Generation10 {
			flags["-j"], flags["--json"] = &o.json, &o.json
		}
		most = 0
	case "update":
		most = 0
	case "reinstall":
		fewest = 1
		fallthrough
	default:
		flags["-r"], flags["--no-restart"] = &o.noRestart, &o.noRestart
	}
	names := 0
	for i := 0; i < len(args); i++ {
		a := args[i]
		node, has := strings.CutPrefix(a, "--node=")
		switch {
		case flags[a] != nil:
			*flags[a] = true
		case g != Generation10 && has:
			o.node = node
		case g != Generation10 && (a == "-n" || a == "--node") && i+1 < len(args):
			i++
			o.node = args[i]
		case strings.HasPrefix(a, "-"):
			return o, false
		default:
			o.name = a
			names++
		}
	}
	return o, slices.Contains(patchVerbs, verb) && names >= fewest && names <= most && !(o.local && o.node != "")
}

// patchHelp is `kato patch --help`: only what the generation has.
func patchHelp(g Generation) string {
	lines := []string{"Usage:", "  kato patch status [options]", "  kato patch install [options] [<patchname>]", "  kato patch revert [options] [<patchname>]",
		"  kato patch reinstall [options] <patchname>", "  kato patch update [options]", "", "Options:", "  -h --help            this text",
		"  -a --all             of status: also the patches that are installed"}
	if g == Generation10 {
		lines = append(lines, "  -n --only-this-node  this node alone, not the whole cluster")
	} else {
		lines = append(lines, "  -l --local           this node alone, not the whole cluster", "  -n --node <node-IP>  that node alone", "  -j --json            of status: as JSON")
	}
	return strings.Join(append(lines, "  -r --no-restart      do not restart the roles that are patched", "  -q --quiet           print less",
		"  -u --force-update    fetch the manifest anew; not of update", ""), "\n")
}

// generation of the node's own kato.
func (k *call) generation() Generation {
	own, _ := k.c.Patches(k.local.id)
	return own.Generation
}

// crash is how Ruby ends a program that nobody has written an error message for.
func (k *call) crash(line int, method, why string) int {
	io.WriteString(k.Stderr, "/home/stackato/stackato/code/kato/lib/kato/patch.rb:"+strconv.Itoa(line)+":in `"+method+"': "+why+" (NoMethodError)\n"+
		"\tfrom /home/stackato/stackato/code/kato/lib/kato/cli/patch.rb:58:in `run'\n\tfrom /home/stackato/bin/kato:31:in `<main>'\n")
	return 1
}

// patch is `kato patch` (kato.md §3.6): on the whole cluster, from any of its nodes, unless it is told another scope.
func (k *call) patch(verb string, args []string) int {
	o, ok := parsePatch(k.generation(), verb, args)
	if !ok {
		return k.usage()
	}
	k.c.mu.Lock()
	n, exit := k.target(o.node)
	k.c.mu.Unlock()
	if n == nil {
		return exit
	}
	switch verb {
	case "status":
		return k.patchStatus(n.id, o)
	case "update":
		return k.patchUpdate(n.id, o)
	}
	return k.patchChange(verb, n.id, o)
}

// patched is a node with what it knows of patches.
type patched struct {
	peer
	NodePatches
}

// concerns says whether the node has one of the patch's roles.
func (n patched) concerns(p Patch) bool {
	return slices.ContainsFunc(p.Roles, func(r string) bool { return slices.Contains(n.roles, r) })
}

// patchedNode is a node as it is now.
func (k *call) patchedNode(id string) patched {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	n := k.c.nodes[id]
	return patched{peer{id, n.roles, n.up}, n.patches}
}

// patchScope are the nodes of a call: the one that its options name, or all.
func (k *call) patchScope(id string, o patchOptions) (scope []patched) {
	peers, _ := k.peers()
	for _, p := range peers {
		if p.id == id || !o.local && o.node == "" {
			scope = append(scope, k.patchedNode(p.id))
		}
	}
	return scope
}

// fetchPatches fetches for a node: its manifest, or one patch.
func (k *call) fetchPatches(id, name string) error {
	if k.c.patchFetch != nil {
		return k.c.patchFetch(k.ctx, id, name)
	}
	return k.c.fetchFor(k.ctx, k.Dial, id, name)
}

// change changes a node at once.
func (k *call) change(id string, p StatePatch) error {
	if k.c.nodeChange != nil {
		return k.c.nodeChange(k.ctx, id, p)
	}
	return k.c.changeNode(k.ctx, id, p)
}

// notPatched says why a node's patches cannot be changed or known.
func (k *call) notPatched(err error) int {
	var what unfetched
	switch {
	case k.ctx.Err() != nil:
		return killedByTerm
	case errors.As(err, &what):
		return k.fail("Could not fetch the patch manifest from %v", what)
	}
	return k.fail("%v", err)
}

// manifestOf is a node's manifest, which it fetches when it never did, or anew.
func (k *call) manifestOf(id string, anew bool) ([]Patch, error) {
	if !anew && k.patchedNode(id).Fetched {
		return k.patchedNode(id).Manifest, nil
	}
	if err := k.fetchPatches(id, ""); err != nil {
		return nil, err
	}
	return k.patchedNode(id).Manifest, nil
}

// patchUpdate fetches the manifest anew.
func (k *call) patchUpdate(id string, o patchOptions) int {
	say := k.sayer(o)
	say("Updating the patch manifest...\n")
	exit := 0
	for _, n := range k.patchScope(id, o) {
		err := error(away{n.id})
		if n.up {
			err = k.fetchPatches(n.id, "")
		}
		if err != nil {
			exit = k.notPatched(err)
		}
		if k.ctx.Err() != nil {
			return killedByTerm
		}
	}
	if exit == 0 {
		say("ok\n")
	}
	return exit
}

// sayer prints what --quiet suppresses.
func (k *call) sayer(o patchOptions) func(format string, args ...any) {
	if o.quiet {
		return func(string, ...any) {}
	}
	return k.printf
}

// patchLine is one patch of a status, in its JSON's fields, which are not known (kato.md §3.6).
type patchLine struct {
	Name            string   `json:"name"`
	ID              int      `json:"id"`
	Description     string   `json:"description"`
	Severity        string   `json:"severity"`
	RolesAffected   []string `json:"roles_affected"`
	InstalledOn     []string `json:"installed_on"`
	ToBeInstalledOn []string `json:"to_be_installed_on"`
}

// patchStatus lists patches by the manifest of the node asked. Of a node that is offline it is not known what is installed.
func (k *call) patchStatus(id string, o patchOptions) int {
	own := k.patchedNode(k.local.id)
	if o.json && own.Fault == PatchNoJSON {
		return k.crash(143, "to_json", "undefined method 'each_pair' for nil:NilClass")
	}
	manifest, err := k.manifestOf(id, o.anew)
	if err != nil {
		return k.notPatched(err)
	}
	scope := k.patchScope(id, o)
	lines, open := []patchLine{}, 0
	for _, p := range manifest {
		l := patchLine{p.Name, p.ID, p.Description, p.Severity, append([]string{}, p.Roles...), []string{}, []string{}}
		concerns := false
		for _, n := range scope {
			switch {
			case !n.concerns(p):
				continue
			case !n.up:
			case slices.Contains(n.Installed, p.Name):
				l.InstalledOn = append(l.InstalledOn, n.id)
			default:
				l.ToBeInstalledOn = append(l.ToBeInstalledOn, n.id)
			}
			concerns = true
		}
		if len(l.ToBeInstalledOn) > 0 {
			open++
		}
		if len(l.ToBeInstalledOn) > 0 || o.all && concerns {
			lines = append(lines, l)
		}
	}
	if o.json {
		k.sayer(o)("Checking for updates...\n") // the bug of Kato::UI.puts, kato.md §3.1
		k.render(true, lines)
	} else {
		k.printPatches(own.Generation, lines, open)
	}
	exit := 0
	for _, n := range scope {
		if !n.up {
			exit = k.notPatched(away{n.id})
		}
	}
	return exit
}

// printPatches is the status as text, in the form of a generation. What it says of no patch is not known (kato.md §3.6).
func (k *call) printPatches(g Generation, lines []patchLine, open int) {
	als := g == GenerationALS || g == Generation10
	version, _ := k.c.Version(k.local.id)
	switch {
	case als && open == 1:
		k.printf("1 update available to be installed.\n")
	case als:
		k.printf("%d updates available to be installed.\n", open)
	case open == 1:
		k.printf("1 update is available for %s.\n", version)
	default:
		k.printf("%d updates are available for %s.\n", open, version)
	}
	list := func(words []string) string {
		if len(words) == 0 {
			return "none"
		}
		return strings.Join(words, ", ")
	}
	for i, l := range lines {
		k.printf("\n")
		if als && i == 0 {
			k.printf("Known updates:\n")
		}
		k.printf("  %s: %s\n", l.Name, l.Description)
		if !als {
			k.printf("    patch id: %d\n", l.ID)
		}
		k.printf("    severity: %s\n    roles affected: %s\n", l.Severity, list(l.RolesAffected))
		if !als {
			k.printf("    installed on: %s\n    to be installed on: %s\n", list(l.InstalledOn), list(l.ToBeInstalledOn))
		}
	}
}

// unknownPatch is the end of a call that names a patch which is not in the manifest: a proper error since 3.4.2 (kato.md §3.6).
func (k *call) unknownPatch(name string) int {
	if g := k.generation(); g == GenerationALS || g == Generation10 {
		return k.crash(187, "block in find", "undefined method 'roles' for nil:NilClass")
	}
	return k.fail("Unknown patch: %s", name)
}

// patchChange installs, reverts or reinstalls: on one node, or on all that the patches concern, one after the other. Others than this one have to let the Core in.
func (k *call) patchChange(verb, id string, o patchOptions) int {
	if o.local || id == k.local.id && o.node != "" {
		return k.patchNode(verb, id, o)
	}
	peers, core := k.peers()
	if i := slices.IndexFunc(peers, func(p peer) bool { return p.id == core }); !peers[i].up {
		core = k.local.id
	}
	if o.node != "" {
		if !k.reachable(core, []peer{{id: id}}) {
			return 1
		}
		return k.patchNode(verb, id, o)
	}
	list, err := k.manifestOf(id, o.anew)
	if err != nil {
		return k.notPatched(err)
	}
	if o.name != "" {
		list = slices.DeleteFunc(slices.Clone(list), func(p Patch) bool { return p.Name != o.name })
		if len(list) == 0 {
			return k.unknownPatch(o.name)
		}
	}
	var todo, offline []peer
	for _, n := range k.patchScope(id, o) {
		switch {
		case !slices.ContainsFunc(list, n.concerns):
		case n.up:
			todo = append(todo, n.peer)
		default:
			offline = append(offline, n.peer)
		}
	}
	if len(todo)+len(offline) == 0 && o.name != "" {
		k.sayer(o)("%s does not affect any node\n", o.name)
	}
	if !k.reachable(core, todo) {
		return 1
	}
	exit := 0
	for _, n := range todo {
		exit = max(exit, k.patchNode(verb, n.id, o))
		if k.ctx.Err() != nil {
			return killedByTerm
		}
	}
	for _, n := range offline {
		exit = max(exit, k.notPatched(away{n.id}))
	}
	return exit
}

// patchNode changes one node's patches and restarts the roles that are affected. Each patch is noted when it is done, so that those that were done stay when kato is killed.
func (k *call) patchNode(verb, id string, o patchOptions) int {
	say := k.sayer(o)
	manifest, err := k.manifestOf(id, o.anew)
	if err != nil {
		return k.notPatched(err)
	}
	n := k.patchedNode(id)
	var todo []Patch
	known := false
	for _, p := range manifest {
		there := slices.Contains(n.Installed, p.Name)
		switch {
		case o.name != "" && o.name != p.Name:
			continue
		case !n.concerns(p):
			if o.name != "" {
				say("%s does not affect this node\n", p.Name)
			}
		case verb == "install" && there:
			say("%s is already installed\n", p.Name)
		case verb == "revert" && !there:
			say("%s is not installed\n", p.Name)
		default:
			todo = append(todo, p)
		}
		known = true
	}
	if o.name != "" && !known {
		return k.unknownPatch(o.name)
	}
	if len(todo) == 0 {
		return 0
	}
	if verb == "revert" {
		slices.Reverse(todo)
	}
	take := k.c.takePatches
	if k.c.patchTake != nil {
		take = k.c.patchTake
	}
	now, err := take(k.ctx, id)
	if err != nil {
		return k.notPatched(err)
	}
	fails := -1
	switch now.Fault {
	case PatchHangs:
		k.printf("stackato@%s's password: ", id) // of ssh, which --quiet does not concern
		<-k.ctx.Done()
		return killedByTerm
	case PatchFails:
		fails = 0
	case PatchHalf:
		fails = min(1, len(todo)-1)
	}
	say("-----> Patching node %s\n", id)
	var changed []Patch
	for i, p := range todo {
		say("       %s...", p.Name)
		if err = k.patchOne(verb, id, p, now, i == fails); err != nil {
			say("   FAILED\n")
			return k.notPatched(err)
		}
		say("   ok\n")
		changed = append(changed, p)
	}
	var roles []string
	for _, r := range n.roles {
		if slices.ContainsFunc(changed, func(p Patch) bool { return slices.Contains(p.Roles, r) }) {
			roles = append(roles, r)
		}
	}
	if o.noRestart {
		return 0
	}
	say("-----> Restarting roles\n")
	restart := StatePatch{Restart: roles}
	if now.Fault == PatchBreaks {
		restart.Stuck = roles
	}
	if now.Fault != PatchSilent {
		if err := k.change(id, restart); err != nil {
			return k.notPatched(err)
		}
	}
	for _, r := range roles {
		say("       role %s restarting...   ok\n", r)
	}
	return 0
}

// patchOne does one patch. Its error is that it was not done.
func (k *call) patchOne(verb, id string, p Patch, now NodePatches, fails bool) error {
	if verb != "revert" {
		if err := k.fetchPatches(id, p.Name); err != nil {
			return err
		}
	}
	if err := k.wait(seconds(now.Seconds)); err != nil {
		return err
	}
	if fails {
		return errors.New("Patch " + p.Name + " could not be applied: patch exited with status 1")
	}
	if now.Fault == PatchSilent {
		return nil
	}
	change := &PatchesPatch{Install: []string{p.Name}}
	if verb == "revert" {
		change = &PatchesPatch{Revert: []string{p.Name}}
	}
	return k.change(id, StatePatch{Patches: change})
}

// upstreamProxy is `kato op upstream_proxy` (kato.md §3.8): the node fetches patches by way of an HTTP proxy.
func (k *call) upstreamProxy(args []string) int {
	if len(args) == 0 {
		return k.usage()
	}
	var address, user, password, past string
	values := map[string]*string{"-u": &user, "--user": &user, "-p": &password, "--pass": &password, "--no-proxy": &past}
	var rest []string
	for i := 1; i < len(args); i++ {
		name, value, has := strings.Cut(args[i], "=")
		switch to := values[name]; {
		case to != nil && has && strings.HasPrefix(name, "--"):
			*to = value
		case to != nil && !has && i+1 < len(args):
			i++
			*to = args[i]
		case strings.HasPrefix(args[i], "-"):
			return k.usage()
		default:
			rest = append(rest, args[i])
		}
	}
	switch {
	case args[0] == "set" && len(rest) == 1:
		address = rest[0]
		host, port, err := net.SplitHostPort(address)
		if n, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ @") {
			return k.fail("Invalid proxy address: %s", address)
		}
	case args[0] == "delete" && len(args) == 1:
	default:
		return k.usage()
	}
	err := k.change(k.local.id, StatePatch{Patches: &PatchesPatch{UpstreamProxy: &address, ProxyUser: &user, ProxyPassword: &password, NoProxy: &past}})
	if err != nil {
		return k.notPatched(err)
	}
	return 0
}
