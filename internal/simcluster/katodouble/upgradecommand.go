package katodouble

import (
	"errors"
	"io"
	"slices"
	"strings"
	"time"
)

// upgradeOptions of one call.
type upgradeOptions struct {
	json, updateKato, force, prepare, resume, skip, status, development, downloadOnly, cluster, offline, rollback, uninspected bool
	node, version, cache, order                                                                                                string
	roles                                                                                                                      []string // of order
}

// upgradeOption is an option as the help tells it; of those with a value, the value's name.
type upgradeOption struct {
	short, long, value, help string
	flag                     func(*upgradeOptions) *bool
	text                     func(*upgradeOptions) *string
}

// upgradeOptionsOf are those that a generation's `kato node upgrade` has (kato.md §5).
func upgradeOptionsOf(old bool) []upgradeOption {
	all := []upgradeOption{
		{"-j", "--json", "", "print the status as JSON", func(o *upgradeOptions) *bool { return &o.json }, nil},
		{"-n", "--node", "<node-IP>", "upgrade that node alone", nil, func(o *upgradeOptions) *string { return &o.node }},
		{"-u", "--update-kato", "", "update kato itself, and nothing else", func(o *upgradeOptions) *bool { return &o.updateKato }, nil},
		{"-v", "--version", "<version>", "upgrade to that version, and not to the newest", nil, func(o *upgradeOptions) *string { return &o.version }},
		{"", "--force", "", "upgrade also what has the version", func(o *upgradeOptions) *bool { return &o.force }, nil},
		{"", "--resume", "", "go on with an upgrade that was interrupted", func(o *upgradeOptions) *bool { return &o.resume }, nil},
		{"", "--role-order", "<roles>", "upgrade nodes by their roles, with commas between them", nil, func(o *upgradeOptions) *string { return &o.order }},
		{"", "--skip-confirmation", "", "do not ask whether to continue", func(o *upgradeOptions) *bool { return &o.skip }, nil},
		{"", "--status", "", "tell how the nodes are", func(o *upgradeOptions) *bool { return &o.status }, nil},
		{"", "--cluster", "", "upgrade all nodes", func(o *upgradeOptions) *bool { return &o.cluster }, nil},
	}
	if old {
		return append(all,
			upgradeOption{"", "--rollback", "", "go back to the version of before", func(o *upgradeOptions) *bool { return &o.rollback }, nil},
			upgradeOption{"", "--ignore-inspect-failures", "", "upgrade also when the inspection finds something", func(o *upgradeOptions) *bool { return &o.uninspected }, nil})
	}
	return append(all,
		upgradeOption{"", "--prepare", "", "inspect nodes, and upgrade nothing", func(o *upgradeOptions) *bool { return &o.prepare }, nil},
		upgradeOption{"", "--development", "", "of the vendor", func(o *upgradeOptions) *bool { return &o.development }, nil},
		upgradeOption{"", "--cache-ip", "<node-IP>", "the node on which downloads are kept", nil, func(o *upgradeOptions) *string { return &o.cache }},
		upgradeOption{"", "--download-only", "", "download to the node of --cache-ip, and upgrade nothing", func(o *upgradeOptions) *bool { return &o.downloadOnly }, nil},
		upgradeOption{"", "--offline", "", "download nothing", func(o *upgradeOptions) *bool { return &o.offline }, nil})
}

// upgradeHelp is `kato node upgrade --help`: only what the generation has.
func upgradeHelp(old bool) string {
	var b strings.Builder
	b.WriteString("Usage:\n  kato node upgrade [options]\n\nOptions:\n")
	for _, o := range upgradeOptionsOf(old) {
		name := strings.TrimSpace(strings.TrimSpace(o.short+" "+o.long) + " " + o.value)
		b.WriteString("  " + name + strings.Repeat(" ", 32-len(name)) + o.help + "\n")
	}
	return b.String()
}

// parseUpgrade reads the options of a generation; ok is false for what docopt does not match.
func parseUpgrade(old bool, args []string) (o upgradeOptions, ok bool) {
	known := upgradeOptionsOf(old)
	for i := 0; i < len(args); i++ {
		name, value, has := strings.Cut(args[i], "=")
		at := slices.IndexFunc(known, func(k upgradeOption) bool { return name == k.long || name == k.short && k.short != "" && !has })
		switch {
		case at < 0:
			return o, false
		case known[at].flag != nil:
			if has {
				return o, false
			}
			*known[at].flag(&o) = true
			continue
		case !has:
			if i++; i >= len(args) {
				return o, false
			}
			value = args[i]
		}
		*known[at].text(&o) = value
	}
	if o.order != "" {
		o.roles = strings.Split(o.order, ",")
	}
	return o, !o.downloadOnly || o.cache != ""
}

// upgradeRoles is the order in which nodes are upgraded, by the first of these roles that they have (kato.md §5).
func upgradeRoles() []string { return []string{"dea", "controller", "router", "base", "primary"} }

// rank is the place of the first of some roles that a node has.
func rank(order, roles []string) int {
	at := slices.IndexFunc(order, func(r string) bool { return slices.Contains(roles, r) })
	if at < 0 {
		return len(order)
	}
	return at
}

// upgrading is a node with what upgrades do and have done there.
type upgrading struct {
	Upgrade
	peer
	version string
	boot    time.Time
	retired bool
	stuck   bool
}

// upgradingNode is a node as it is now.
func (k *call) upgradingNode(id string) upgrading {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	n := k.c.nodes[id]
	return upgrading{n.upgrade, peer{id, n.roles, n.up}, n.version, n.boot, n.retired, len(n.stuck) > 0}
}

// oldUpgrades says whether the options of the local node's kato are the old ones.
func (k *call) oldUpgrades() bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.local.oldUpgrades()
}

// available says whether a node is there and up, or why not.
func (k *call) available(id string) int {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	_, exit := k.target(id)
	return exit
}

// nodeUpgrade is `kato node upgrade` (kato.md §5): of the local node, of another one, or of all, one after the other.
func (k *call) nodeUpgrade(args []string) int {
	old := k.oldUpgrades()
	o, ok := parseUpgrade(old, args)
	if !ok {
		io.WriteString(k.Stderr, upgradeHelp(old))
		return 1
	}
	for _, r := range o.roles {
		if !slices.Contains(roleOrder, r) {
			return k.fail("Unknown role %s", r)
		}
	}
	if o.status {
		return k.upgradeStatus(o)
	}
	if k.Sudo != nil && k.Sudo(k.ctx) != nil {
		return k.prompt()
	}
	for _, id := range []string{o.node, o.cache} {
		if exit := k.available(id); exit != 0 {
			return exit
		}
	}
	if o.updateKato {
		return k.updateKato()
	}
	own := k.upgradingNode(k.local.id)
	if !o.downloadOnly && !o.rollback && own.NeedsUpdate && !own.KatoUpdated {
		return k.fail("kato is out of date. Run kato node upgrade --update-kato first")
	}
	if o.version != "" && !o.rollback && !slices.Contains(own.Releases, o.version) {
		return k.fail("Version %s is not available", o.version)
	}
	if !o.skip && !o.downloadOnly && !o.prepare && !k.confirmed() {
		return k.aborted()
	}
	begin := k.c.beginUpgrade
	if k.c.upgradeBegin != nil {
		begin = k.c.upgradeBegin
	}
	release, err := begin(k.ctx, k.local.id)
	if err != nil {
		return k.notUpgraded(err)
	}
	defer release()
	switch {
	case o.downloadOnly:
		return k.downloadUpgrade(o, own)
	case o.rollback:
		id := o.node
		if id == "" {
			id = k.local.id
		}
		return k.rollBack(id)
	}
	for _, id := range k.upgradeScope(o) {
		if exit := k.upgradeNode(id, o, own.Releases); exit != 0 {
			return exit
		}
	}
	return 0
}

// notUpgraded says why an upgrade does not go on.
func (k *call) notUpgraded(err error) int {
	switch {
	case k.ctx.Err() != nil:
		return killedByTerm
	case errors.Is(err, errUpgrading):
		return k.fail("Another upgrade is running")
	}
	return k.fail("%v", err)
}

// confirmed asks whether to continue, and waits for a line.
func (k *call) confirmed() bool {
	k.printf("Do you want to continue? [y/N] ")
	said := make(chan string, 1)
	go func() {
		var line []byte
		for b := make([]byte, 1); k.Stdin != nil; {
			n, err := k.Stdin.Read(b)
			if n > 0 && b[0] != '\n' {
				line = append(line, b[0])
			}
			if err != nil || n > 0 && b[0] == '\n' {
				break
			}
		}
		said <- strings.ToLower(strings.TrimSpace(string(line)))
	}()
	select {
	case line := <-said:
		return line == "y" || line == "yes"
	case <-k.ctx.Done():
		return false
	}
}

func (k *call) aborted() int {
	if k.ctx.Err() != nil {
		return killedByTerm
	}
	k.printf("Aborted.\n")
	return 1
}

// upgradeScope are the nodes of a call, in their order.
func (k *call) upgradeScope(o upgradeOptions) (scope []string) {
	if o.node != "" {
		return []string{o.node}
	}
	peers, core := k.peers()
	k.c.mu.Lock()
	whole := o.cluster || k.local.wholeUpgrades() && core == k.local.id
	k.c.mu.Unlock()
	if !whole {
		return []string{k.local.id}
	}
	slices.SortStableFunc(peers, func(a, b peer) int {
		if by := rank(o.roles, a.roles) - rank(o.roles, b.roles); by != 0 {
			return by
		}
		return rank(upgradeRoles(), a.roles) - rank(upgradeRoles(), b.roles)
	})
	for _, p := range peers {
		scope = append(scope, p.id)
	}
	return scope
}

// upgradeLine is a node of the status.
type upgradeLine struct {
	Version string `json:"version"`
	Status  string `json:"status"`
	// Target of an upgrade that was interrupted, and the version to which the node can be rolled back.
	Target   string `json:"target,omitempty"`
	Previous string `json:"previous,omitempty"`
}

// upgradeStatus tells how the nodes are. Its form is not known (kato.md §5).
func (k *call) upgradeStatus(o upgradeOptions) int {
	if exit := k.available(o.node); exit != 0 {
		return exit
	}
	lines, exit := map[string]upgradeLine{}, 0
	peers, _ := k.peers()
	for _, p := range peers {
		if o.node != "" && o.node != p.id {
			continue
		}
		n := k.upgradingNode(p.id)
		if !n.up {
			exit = k.fail("%v", away{n.id})
			continue
		}
		l := upgradeLine{n.version, "upgraded", n.Interrupted, n.Previous}
		switch {
		case n.FailedMarker || n.stuck:
			l.Status = "failed"
		case n.Interrupted != "":
			l.Status = "interrupted"
		}
		lines[n.id] = l
		if !o.json {
			k.printf("%s  %s  %s\n", n.id, l.Version, l.Status)
		}
	}
	if o.json {
		return max(exit, k.render(true, lines))
	}
	return exit
}

// updateKato updates the kato of the local node.
func (k *call) updateKato() int {
	k.printf("INFO: [%s] updating kato\n", k.local.id)
	if err := k.change(k.local.id, StatePatch{Upgrade: &UpgradePatch{KatoUpdated: new(true)}}); err != nil {
		return k.notUpgraded(err)
	}
	k.printf("INFO: [%s] kato is up to date\n", k.local.id)
	return 0
}

// letsIn says whether this node can log in to another one, whose sudo asks for nothing; exit is kato's code when not.
func (k *call) letsIn(id string) (exit int, ok bool) {
	if id == k.local.id {
		return 0, true
	}
	if !k.reachable(k.local.id, []peer{{id: id}}) {
		if k.ctx.Err() != nil {
			return killedByTerm, false
		}
		return 1, false
	}
	if k.SudoThere != nil && k.SudoThere(k.ctx, id) != nil {
		return k.prompt(), false
	}
	return 0, true
}

// takeUpgrade begins an upgrade or a download on a node.
func (k *call) takeUpgrade(id string, want UpgradeRequest) (Upgrade, error) {
	take := k.c.takeUpgrade
	if k.c.upgradeTake != nil {
		take = k.c.upgradeTake
	}
	return take(k.ctx, id, want)
}

// downloadUpgrade is --download-only: a version is downloaded to the node of --cache-ip.
func (k *call) downloadUpgrade(o upgradeOptions, own upgrading) int {
	if exit, ok := k.letsIn(o.cache); !ok {
		return exit
	}
	n := k.upgradingNode(o.cache)
	version := o.version
	if version == "" && len(own.Releases) > 0 {
		version = own.Releases[len(own.Releases)-1]
	}
	if version == "" {
		k.printf("INFO: There is nothing to download\n")
		return 0
	}
	if slices.Contains(n.Cached, version) {
		k.printf("INFO: [%s] %s is already downloaded\n", n.id, version)
		return 0
	}
	now, err := k.takeUpgrade(n.id, UpgradeRequest{Download: true})
	if err != nil {
		return k.notUpgraded(err)
	}
	if now.Fault == UpgradeDownload {
		return k.fail("undefined method `cache_path' for nil:NilClass")
	}
	k.printf("INFO: [%s] downloading %s\n", n.id, version)
	if err = k.wait(seconds(now.DownloadSeconds)); err == nil {
		err = k.change(n.id, StatePatch{Upgrade: &UpgradePatch{Cache: []string{version}}})
	}
	if err != nil {
		return k.notUpgraded(err)
	}
	k.printf("INFO: [%s] downloaded %s\n", n.id, version)
	return 0
}

// rollBack makes a node the version that it had before its last upgrade.
func (k *call) rollBack(id string) int {
	if exit, ok := k.letsIn(id); !ok {
		return exit
	}
	n := k.upgradingNode(id)
	if n.Previous == "" {
		return k.fail("%s cannot be rolled back: there is no version of before", id)
	}
	k.printf("INFO: [%s] rolling back to %s\n", id, n.Previous)
	patch := n.finished(&UpgradePatch{Version: &n.Previous, Previous: new("")})
	patch.Restart = n.roles
	if err := k.change(id, patch); err != nil {
		return k.notUpgraded(err)
	}
	k.printf("INFO: [%s] restarting\nINFO: [%s] rolled back to %s\n", id, id, n.Previous)
	return 0
}

// finished is the patch of a node whose components are whole, with what else there is to say of its upgrade.
func (n upgrading) finished(p *UpgradePatch) StatePatch {
	p.Interrupted, p.FailedMarker, p.NoKato = new(""), new(false), new(false)
	return StatePatch{Upgrade: p, Unstick: n.roles, Retired: new(false)}
}

// upgradeNode upgrades a node, if there is something to do.
func (k *call) upgradeNode(id string, o upgradeOptions, releases []string) int {
	if k.c.refresh != nil { // it may have been asked, or another node upgraded, for long
		k.c.refresh(k.ctx)
	}
	if exit := k.available(id); exit != 0 {
		return exit
	}
	n := k.upgradingNode(id)
	u := &upgrader{call: k, options: o, node: n, version: o.version}
	if u.version == "" && len(releases) > 0 {
		u.version = releases[len(releases)-1]
	}
	if u.version == "" {
		u.version = n.version
	}
	if n.Interrupted != "" && o.resume && o.version == "" {
		u.version = n.Interrupted
	}
	switch {
	case n.Interrupted != "" && !o.resume && !o.force:
		return k.fail("The upgrade of %s to %s was interrupted. Run kato node upgrade --resume", id, n.Interrupted)
	case n.Interrupted == "" && n.version == u.version && !o.force:
		k.printf("INFO: %s is already at %s\n", id, u.version)
		return 0
	}
	if exit, ok := k.letsIn(id); !ok {
		return exit
	}
	cached := o.offline && slices.Contains(n.Cached, u.version)
	if o.cache != "" {
		cached = cached || slices.Contains(k.upgradingNode(o.cache).Cached, u.version)
	}
	if o.offline && !cached {
		return k.fail("Version %s is not in the cache", u.version)
	}
	u.there = cached || o.resume && n.Interrupted == u.version
	if o.prepare {
		u.say("inspecting")
		u.say("ready for %s", u.version)
		return 0
	}
	var err error
	if u.now, err = k.takeUpgrade(id, UpgradeRequest{There: u.there, Uninspected: o.uninspected}); err != nil {
		return k.notUpgraded(err)
	}
	return u.run()
}

// upgrader upgrades one node.
type upgrader struct {
	*call
	options upgradeOptions
	node    upgrading
	now     Upgrade
	version string
	there   bool // nothing has to be downloaded
}

func (u *upgrader) say(format string, args ...any) {
	u.printf("INFO: ["+u.node.id+"] "+format+"\n", args...)
}

// run returns kato's exit code.
func (u *upgrader) run() int {
	if u.now.Fault == UpgradeAsks && u.options.skip {
		if !u.confirmed() {
			return u.aborted()
		}
		u.node.boot = u.look().boot
	}
	u.say("inspecting")
	if u.now.Fault == UpgradeFails {
		return u.fail("[%s] The inspection failed: postgresql does not answer", u.node.id)
	}
	if !u.there {
		u.say("downloading %s", u.version)
	}
	if u.now.Fault == UpgradeSilent {
		return u.tellSuccess()
	}
	if !u.there {
		if err := u.spend(seconds(u.now.DownloadSeconds)); err != nil {
			return u.notUpgraded(err)
		}
		if u.now.Fault == UpgradeNetwork {
			return u.fail("Could not download %s from https://pkg.helion.com/als/%s: Connection timed out", u.version, u.version)
		}
	}
	if slices.Contains(u.node.roles, "dea") && !u.node.retired {
		u.say("retiring")
		if err := u.retire(); err != nil {
			return u.notUpgraded(err)
		}
	}
	if exit, done := u.components(); !done {
		return exit
	}
	return u.restart()
}

// tellSuccess says what an upgrade says that succeeds, from the components on.
func (u *upgrader) tellSuccess() int {
	if slices.Contains(u.node.roles, "dea") && u.now.Fault == UpgradeSilent {
		u.say("retiring")
	}
	u.say("upgrading components")
	u.say("validating")
	u.say("restarting")
	u.say("upgraded to %s", u.version)
	return 0
}

// lost is the error of a node that was booted anew meanwhile.
type lost struct{ id string }

func (e lost) Error() string { return "Connection to " + e.id + " closed by remote host." }

// look sees what has changed on the nodes.
func (u *upgrader) look() upgrading {
	if u.c.refresh != nil {
		u.c.refresh(u.ctx)
	}
	return u.upgradingNode(u.node.id)
}

// spend lets time pass on the node; its error is that kato shall end, or that the node went meanwhile.
func (u *upgrader) spend(d time.Duration) error {
	if err := u.wait(d); err != nil || d <= 0 {
		return err
	}
	switch n := u.look(); {
	case !n.up:
		return away{n.id}
	case !n.boot.Equal(u.node.boot):
		return lost{n.id}
	}
	return nil
}

const (
	// upgradePatience is how long a node may take to boot, and roles of other nodes to start.
	upgradePatience = 5 * time.Minute
	// lookEvery is how often it is looked after what is waited for.
	lookEvery = 20 * time.Millisecond
)

// retire retires the node, as soon as DEAs run that are only starting.
func (u *upgrader) retire() error {
	retire := u.c.retireNow
	if u.c.nodeRetire != nil {
		retire = u.c.nodeRetire
	}
	for until := time.Now().Add(upgradePatience); ; {
		err := retire(u.ctx, u.node.id)
		if err == nil || !u.othersStart() || time.Now().After(until) {
			return err
		}
		if err := u.wait(lookEvery); err != nil {
			return err
		}
		u.look()
	}
}

// othersStart says whether another DEA will run that does not yet.
func (u *upgrader) othersStart() bool {
	u.c.mu.Lock()
	defer u.c.mu.Unlock()
	for _, o := range u.c.nodes {
		if o.id != u.node.id && o.up && !o.retired && slices.Contains(o.roles, "dea") && o.roleState("dea") != Running && !o.stopped["dea"] && !o.stuck["dea"] {
			return true
		}
	}
	return false
}

// components upgrades them. What is noted before is what is left of a kato that is killed in between. done is false when that is the end, with the exit code.
func (u *upgrader) components() (exit int, done bool) {
	n := u.node
	begun := &UpgradePatch{Interrupted: &u.version}
	if n.version != u.version {
		begun.Previous = &n.version
	}
	u.say("upgrading components")
	if err := u.change(n.id, StatePatch{Upgrade: begun, Stop: n.roles}); err != nil {
		return u.notUpgraded(err), false
	}
	if err := u.spend(seconds(u.now.Seconds / 2)); err != nil {
		return u.notUpgraded(err), false
	}
	broken := &UpgradePatch{}
	switch u.now.Fault {
	case UpgradeHangs:
		<-u.ctx.Done()
		return killedByTerm, false
	case UpgradeUnthrown:
		broken.FailedMarker = new(true)
	case UpgradeLosesKato:
		broken.NoKato = new(true)
	case UpgradeInterrupted:
	default:
		if err := u.spend(seconds(u.now.Seconds / 2)); err != nil {
			return u.notUpgraded(err), false
		}
		return 0, true
	}
	if u.now.Fault != UpgradeInterrupted {
		if err := u.change(n.id, StatePatch{Upgrade: broken}); err != nil {
			return u.notUpgraded(err), false
		}
	}
	if u.now.Fault == UpgradeUnthrown {
		u.say("validating")
		u.say("restarting")
		u.say("upgraded to %s", u.version)
		return 0, false
	}
	return u.fail("[%s] The upgrade to %s was interrupted. Run kato node upgrade --resume", n.id, u.version), false
}

// restart notes that the components are upgraded, and restarts what is to be.
func (u *upgrader) restart() int {
	n := u.node
	done := &UpgradePatch{}
	if u.now.Fault != UpgradeStale {
		done.Version = &u.version
	}
	patch := n.finished(done)
	reboots := u.now.Restart == UpgradeReboots && u.now.Fault != UpgradeValidation
	if !reboots {
		patch.Restart = n.roles
	}
	if u.now.Fault == UpgradeValidation {
		patch.Stuck = n.lastRole()
	}
	u.say("validating")
	if err := u.change(n.id, patch); err != nil {
		return u.notUpgraded(err)
	}
	if u.c.upgraded != nil {
		u.c.upgraded(n.id)
	}
	if u.now.Fault == UpgradeValidation {
		exit := u.fail("[%s] The validation after the upgrade to %s failed: role %s does not run", n.id, u.version, strings.Join(patch.Stuck, " "))
		if u.oldUpgrades() {
			u.printf("To roll back, run kato node upgrade --rollback --node %s\n", n.id)
		}
		return exit
	}
	u.say("restarting")
	if reboots {
		if err := u.reboot(); err != nil {
			return u.notUpgraded(err)
		}
	}
	u.say("upgraded to %s", u.version)
	return 0
}

// lastRole is the last one that is not base, which every node has.
func (n upgrading) lastRole() []string {
	for _, r := range slices.Backward(n.roles) {
		if r != "base" {
			return []string{r}
		}
	}
	return n.roles[:1]
}

// reboot reboots the node and waits for it. This one's own kato goes down with it.
func (u *upgrader) reboot() error {
	if u.Reboot == nil {
		return errors.New("Could not reboot " + u.node.id + ": Operation not permitted")
	}
	before := u.look().boot
	if err := u.Reboot(u.ctx, u.node.id); err != nil {
		return err
	}
	for until := time.Now().Add(upgradePatience); time.Now().Before(until); {
		if n := u.look(); n.up && !n.boot.Equal(before) {
			return u.ctx.Err()
		}
		if err := u.wait(lookEvery); err != nil {
			return err
		}
	}
	return errors.New("Node " + u.node.id + " did not come back from its reboot")
}

// nodeVersion is `kato node version [IP]`.
func (k *call) nodeVersion(args []string) int {
	if len(args) > 1 {
		return k.usage()
	}
	id := strings.Join(args, "")
	if exit := k.available(id); exit != 0 {
		return exit
	}
	if id == "" {
		id = k.local.id
	}
	version, _ := k.c.Version(id)
	k.printf("%s\n", version)
	return 0
}

// upgrades says whether a command is an upgrade of nodes.
func upgrades(args []string) bool { return len(args) > 1 && args[0] == "node" && args[1] == "upgrade" }

// noKato says whether the local node has no kato.
func (k *call) noKato() bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.local.upgrade.NoKato
}
