package katodouble

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ImportFault is what goes wrong with `kato data import`.
type ImportFault string

// The faults. What kato leaves behind when it fails is not known (kato.md §3.2): these are the cases a caller has to tell from success.
const (
	// ImportErrorText unpacks, prints an error, imports nothing and exits 0.
	ImportErrorText ImportFault = "error-text"
	// ImportNothing says that it is done, imports nothing and exits 0.
	ImportNothing ImportFault = "nothing"
	// ImportFails imports the orgs, spaces and users and the first half of the apps, which it leaves STOPPED, prints an error and exits with Import.Exit.
	ImportFails ImportFault = "fails"
	// ImportHalts ends at the first app that fails, or at the first of all if none is to fail, with Import.Exit: the apps after it stay STOPPED, no list is printed
	// (fixed in Stackato 3.4.1, kato.md §3.2).
	ImportHalts ImportFault = "halts"
	// ImportHangs imports everything, redeploys half of the apps and never ends.
	ImportHangs ImportFault = "hangs"
	// ImportServicesLost imports no service and says nothing of it (kato.md §3.2).
	ImportServicesLost ImportFault = "services-lost"
	// ImportBuildpacksLost imports the apps without the buildpacks they ask for (fixed in ALS 1.3, kato.md §3.2).
	ImportBuildpacksLost ImportFault = "buildpacks-lost"
)

// ImportFaults lists them.
func ImportFaults() []ImportFault {
	return []ImportFault{ImportErrorText, ImportNothing, ImportFails, ImportHalts, ImportHangs, ImportServicesLost, ImportBuildpacksLost}
}

// FailedApp is what becomes of an app that an import could not redeploy.
type FailedApp string

// The ends of such an app.
const (
	// FailedToStage: STARTED, with the package state FAILED.
	FailedToStage FailedApp = "failed"
	// FailedAndStopped: STOPPED, with the package it was exported with.
	FailedAndStopped FailedApp = "stopped"
)

// Product is how kato's output spells what it is part of.
type Product string

// The products.
const (
	Helion   Product = "helion"
	Stackato Product = "stackato"
)

// FailedList is the form of the list of apps that an import could not redeploy; kato's own is not known (kato.md §3.2).
type FailedList string

// The forms.
const (
	// ShortList is `Failed apps:`, then two spaces and ORG/SPACE/APP for each.
	ShortList FailedList = "short"
	// LongList is `The following applications failed to import and must be redeployed manually:`, then ` - APP (org: ORG, space: SPACE)` for each.
	LongList FailedList = "long"
)

// Import says what `kato data import` on a node does.
type Import struct {
	// Seconds that unpacking takes, 0 = as long as writing takes; AppSeconds that the staging of each app takes, 0 = as long as the controller's do.
	Seconds    float64 `json:"seconds,omitempty"`
	AppSeconds float64 `json:"app_seconds,omitempty"`
	// FailApps are apps, ORG/SPACE/APP, that fail to redeploy; FailShare is the part, 0 to 1, of those redeployed that fail, spread evenly. LeaveFailed is what
	// becomes of them; "" = FailedToStage.
	FailApps    []string  `json:"fail_apps,omitempty"`
	FailShare   float64   `json:"fail_share,omitempty"`
	LeaveFailed FailedApp `json:"leave_failed,omitempty"`
	// LoseServices are services, ORG/SPACE/SERVICE or the offering's name, that are not imported although kato says nothing of it.
	LoseServices []string `json:"lose_services,omitempty"`
	// Content is imported instead of the archive's.
	Content *Content `json:"content,omitempty"`
	// Product that the output names; "" = Helion. List is the form of the list of failed apps; "" = ShortList. Plain output has no colours and no stray lines.
	Product Product    `json:"product,omitempty"`
	List    FailedList `json:"list,omitempty"`
	Plain   bool       `json:"plain,omitempty"`
	// Fault of the next Times imports, of all when Times is negative.
	Fault ImportFault `json:"fault,omitempty"`
	Times int         `json:"times,omitempty"`
	// Exit is the code of ImportFails and ImportHalts; 0 = 1.
	Exit int `json:"exit,omitempty"`
}

// ImportPatch is the part of a StatePatch about imports: what it names is changed, of lists what is not nil. Heal makes all else as it was at the start first.
type ImportPatch struct {
	Heal         bool         `json:"heal,omitempty"`
	Seconds      *float64     `json:"seconds,omitempty"`
	AppSeconds   *float64     `json:"app_seconds,omitempty"`
	FailApps     []string     `json:"fail_apps,omitzero"`
	FailShare    *float64     `json:"fail_share,omitempty"`
	LeaveFailed  *FailedApp   `json:"leave_failed,omitempty"`
	LoseServices []string     `json:"lose_services,omitzero"`
	Content      *Content     `json:"content,omitempty"`
	Product      *Product     `json:"product,omitempty"`
	List         *FailedList  `json:"list,omitempty"`
	Plain        *bool        `json:"plain,omitempty"`
	Fault        *ImportFault `json:"fault,omitempty"`
	Times        *int         `json:"times,omitempty"`
	Exit         *int         `json:"exit,omitempty"`
}

// ParseImportPatch reads the JSON of an ImportPatch.
func ParseImportPatch(text string) (p ImportPatch, err error) {
	if err := decode([]byte(text), &p); err != nil {
		return p, fmt.Errorf("not the JSON of an import's settings: %w", err)
	}
	return p, nil
}

// apply returns i changed by p, or an error for a value that makes no sense.
func (i Import) apply(p *ImportPatch) (Import, error) {
	if p == nil {
		return i, nil
	}
	if p.Heal {
		i = Import{}
	}
	put(&i.Seconds, p.Seconds)
	put(&i.AppSeconds, p.AppSeconds)
	put(&i.FailShare, p.FailShare)
	put(&i.LeaveFailed, p.LeaveFailed)
	put(&i.Product, p.Product)
	put(&i.List, p.List)
	put(&i.Plain, p.Plain)
	put(&i.Fault, p.Fault)
	put(&i.Times, p.Times)
	put(&i.Exit, p.Exit)
	if p.FailApps != nil {
		i.FailApps = slices.Clone(p.FailApps)
	}
	if p.LoseServices != nil {
		i.LoseServices = slices.Clone(p.LoseServices)
	}
	if p.Content != nil {
		i.Content = p.Content
	}
	switch {
	case i.Seconds < 0 || i.AppSeconds < 0:
		return i, errors.New("an import has no negative duration")
	case i.FailShare < 0 || i.FailShare > 1:
		return i, fmt.Errorf("%v is no part of the apps, 0 to 1", i.FailShare)
	case i.Exit < 0 || i.Exit > 255:
		return i, fmt.Errorf("%d is no exit code", i.Exit)
	case i.Fault != "" && !slices.Contains(ImportFaults(), i.Fault):
		return i, fmt.Errorf("%q is no fault of an import: choose from %v", i.Fault, ImportFaults())
	case !slices.Contains([]FailedApp{"", FailedToStage, FailedAndStopped}, i.LeaveFailed):
		return i, fmt.Errorf("%q is no end of a failed app: choose %s or %s", i.LeaveFailed, FailedToStage, FailedAndStopped)
	case !slices.Contains([]Product{"", Helion, Stackato}, i.Product):
		return i, fmt.Errorf("%q is no product: choose %s or %s", i.Product, Helion, Stackato)
	case !slices.Contains([]FailedList{"", ShortList, LongList}, i.List):
		return i, fmt.Errorf("%q is no form of a list: choose %s or %s", i.List, ShortList, LongList)
	}
	return i, nil
}

// take returns what one import does; its fault is used up.
func (i *Import) take() Import {
	now := *i
	switch {
	case i.Times == 0:
		now.Fault = ""
	case i.Times > 0:
		if i.Times--; i.Times == 0 {
			i.Fault = ""
		}
	}
	if now.Exit == 0 {
		now.Exit = 1
	}
	return now
}

// errImporting is how an export or import is refused while an import runs.
var errImporting = errors.New("an import is already in progress")

// beginImport takes the place of an import, as beginExport does that of an export: neither runs beside the other on a node, or beside one of the whole cluster.
func (c *Cluster) beginImport(_ context.Context, id string, whole bool) (now Import, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[id]
	if n == nil {
		return Import{}, nil, fmt.Errorf("node %s is not part of the cluster", id)
	}
	if err := c.busy(id, whole); err != nil {
		return Import{}, nil, err
	}
	return n.imports.take(), c.hold(&c.imports, id, whole), nil
}

// Importing says whether an import runs on the node.
func (c *Cluster) Importing(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, running := c.imports[id]
	return running
}

// parseImport reads the options of kato.md §3.2: those of an export, and --fix-app-paths, --legacy and --timeout SECONDS; there must be one source.
func parseImport(args []string) (o exportOptions, timeout time.Duration, ok bool) {
	var rest []string
	for i := 0; i < len(args); i++ {
		name, value, has := strings.Cut(args[i], "=")
		switch {
		case name == "--timeout":
			if !has {
				if i++; i >= len(args) {
					return o, 0, false
				}
				value = args[i]
			}
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				return o, 0, false
			}
			timeout = time.Duration(n) * time.Second
		case args[i] == "--fix-app-paths" || args[i] == "--legacy":
		case name == "--base-dir" && !has && i+1 < len(args):
			rest = append(rest, args[i], args[i+1])
			i++
		default:
			rest = append(rest, args[i])
		}
	}
	o, ok = parseExport(rest)
	return o, timeout, ok && o.file != ""
}

// dataImport reads a .tgz that dataExport wrote, or has written on the old host that is its source. A cluster's import needs all nodes reachable, the Core's key
// on each of them, and all roles started; an old host has to let the caller in (kato.md §3.2).
func (k *call) dataImport(args []string) int {
	o, timeout, ok := parseImport(args)
	if !ok {
		return k.usage()
	}
	if k.Sudo != nil && k.Sudo(k.ctx) != nil {
		return k.prompt()
	}
	peers, core := k.peers()
	if o.cluster && (!k.up(peers) || !k.reachable(core, peers)) {
		return 1
	}
	if id, role, state := k.notStarted(o.cluster); role != "" {
		return k.fail("Role %s of node %s is %s: all roles must be started before an import", role, id, state)
	}
	if k.Files == nil {
		return k.fail("Could not read %s: No such file or directory", o.file)
	}
	file := k.absolute(o.file)
	i := &importer{options: o, timeout: timeout, origin: file, file: file, temporary: k.temporary(o.baseDir, "kato-import-"), found: map[string]bool{}}
	source, size, err := k.Files.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && namesHost(o.file):
		if exit := k.loggedIn(o.file); exit != 0 {
			return exit
		}
		i.host, i.origin, i.file = o.file, o.file, path.Join(i.temporary, "export.tgz")
	case err != nil:
		return k.fail("Could not read %s: %v", file, err)
	default:
		i.source = source
		defer source.Close()
	}
	begin := k.c.beginImport
	if k.c.importBegin != nil {
		begin = k.c.importBegin
	}
	now, release, err := begin(k.ctx, k.local.id, o.cluster)
	if err != nil {
		return k.notBegun(err)
	}
	defer release()
	i.now = now
	i.hasRole = func(role string) bool {
		return slices.ContainsFunc(peers, func(p peer) bool { return (o.cluster || p.id == k.local.id) && slices.Contains(p.roles, role) })
	}
	i.pacer = pacer{k: k, total: size, seconds: now.Seconds, began: time.Now()}
	return i.run()
}

// notStarted finds a role that does not run, on all nodes or on this one; role is "" when all do.
func (k *call) notStarted(whole bool) (id, role string, state State) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	for _, id := range k.c.order {
		n := k.c.nodes[id]
		if !whole && n != k.local {
			continue
		}
		for _, r := range n.roles {
			if s := n.roleState(r); s != Running {
				return id, r, s
			}
		}
	}
	return "", "", ""
}

// importer reads one archive.
type importer struct {
	options         exportOptions
	now             Import
	timeout         time.Duration
	hasRole         func(string) bool
	origin          string // the file or the host, as it is told
	host            string // whose export is imported; "" for a file's
	file, temporary string
	source          io.Reader
	found           map[string]bool // parts that the archive has
	content         *Content        // that the archive has
	started, failed []AppEntry
	pacer
}

// Colours of kato's output: it depends on the gems colored and term-ansicolor (kato.md §8).
const (
	red, green, cyan, plain = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[0m"
)

func (i *importer) colored(colour, text string) string {
	if i.now.Plain {
		return text
	}
	return colour + text + plain
}

// stray prints a line that means nothing, as programs do that kato starts.
func (i *importer) stray(w io.Writer, line string) {
	if !i.now.Plain {
		fmt.Fprintln(w, line)
	}
}

func (i *importer) productName() string {
	if i.now.Product == Stackato {
		return "Stackato"
	}
	return "Helion Application Lifecycle Service"
}

func (i *importer) run() int {
	k := i.k
	k.printf("Importing %s data from %s\n", i.productName(), i.origin)
	if err := k.Files.Mkdir(i.temporary); err != nil {
		return k.fail("Could not make the folder %s: %v", i.temporary, err)
	}
	if i.host != "" {
		copied, err := i.fetch()
		if k.ctx.Err() != nil {
			return killedByTerm
		}
		if err != nil {
			return k.fail("Could not export from %s: %v", i.host, errors.Join(err, k.Files.RemoveAll(i.temporary)))
		}
		defer copied.Close()
	}
	err := i.unpack()
	if k.ctx.Err() != nil {
		return killedByTerm // what was killed removes nothing
	}
	if err != nil {
		return k.fail("Could not unpack %s: %v", i.file, errors.Join(err, k.Files.RemoveAll(i.temporary)))
	}
	exit := i.parts()
	if k.ctx.Err() != nil {
		return killedByTerm
	}
	i.stray(k.Stdout, "Removing temporary files...")
	if err := k.Files.RemoveAll(i.temporary); err != nil {
		return k.fail("Could not remove %s: %v", i.temporary, err)
	}
	if exit != nil {
		return *exit
	}
	k.printf("Import finished: %s\n", i.origin)
	return 0
}

// unpack writes the archive's files below the temporary folder; anything but a whole gzip tar is an error.
func (i *importer) unpack() error {
	i.k.printf("Unpacking %s...\n", i.file)
	zipped, err := gzip.NewReader(paced{i.source, &i.pacer})
	if err != nil {
		return err
	}
	archive, made := tar.NewReader(zipped), map[string]bool{".": true}
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, zipped) // to its checksum
			return err
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
			return fmt.Errorf("%s: the name leads out of the archive", h.Name)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := i.folder(path.Dir(name), made); err != nil {
			return err
		}
		if err := i.write(name, archive); err != nil {
			return err
		}
	}
}

// folder makes a folder below the temporary one, with those above it.
func (i *importer) folder(name string, made map[string]bool) error {
	if made[name] {
		return nil
	}
	if err := i.folder(path.Dir(name), made); err != nil {
		return err
	}
	made[name] = true
	return i.k.Files.Mkdir(path.Join(i.temporary, name))
}

// write writes one file of the archive.
func (i *importer) write(name string, from io.Reader) error {
	var content []byte
	if isContent(name) {
		var err error
		if content, err = io.ReadAll(io.LimitReader(from, maxContent)); err != nil {
			return err
		}
		i.content = &Content{}
		if err := json.Unmarshal(content, i.content); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		from = strings.NewReader(string(content))
	} else {
		i.found[partOf(name)] = true
	}
	f, err := i.k.Files.Create(path.Join(i.temporary, name))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// isContent says whether a file of an archive is the Cloud Controller's content, in either product's spelling.
func isContent(name string) bool {
	return name == ContentEntry || name == strings.Replace(ContentEntry, "helion", "stackato", 1)
}

// partOf names the part that a file of an archive is of.
func partOf(name string) string {
	first, _, _ := strings.Cut(name, "/")
	for _, p := range exportParts() {
		if first == p.name || p.halves != nil && strings.HasPrefix(first, p.name+"-") && slices.Contains(p.halves, strings.TrimPrefix(first, p.name+"-")) {
			return p.name
		}
	}
	return first
}

// paced reads at the pace of an import.
type paced struct {
	r io.Reader
	p *pacer
}

func (p paced) Read(b []byte) (int, error) {
	n, err := p.r.Read(b[:min(len(b), int(max(4<<10, p.p.total/64)))])
	if wait := p.p.pace(int64(n)); wait != nil {
		return n, wait
	}
	return n, err
}

// parts imports what was unpacked. exit is nil when it came to its end.
func (i *importer) parts() (exit *int) {
	k := i.k
	for _, p := range exportParts() {
		if !i.options.selects(p, i.hasRole) || !i.found[p.name] && (p.name != "main-db" || i.content == nil) {
			continue
		}
		k.printf("%s\n", i.colored(cyan, "Importing "+p.name+"..."))
		switch {
		case p.name == "main-db" && i.now.Fault == ImportErrorText:
			k.fail("Could not restore the database of role primary: server closed the connection unexpectedly")
			return new(int)
		case p.name == "main-db" && i.now.Fault != ImportNothing:
			if exit := i.mainDB(); exit != nil {
				return exit
			}
		}
	}
	if exit := i.redeploy(); exit != nil {
		return exit
	}
	i.list()
	return nil
}

// wanted is the content to import: the archive's or the one that was set, without what faults lose.
func (i *importer) wanted() Content {
	var c Content
	switch {
	case i.now.Content != nil:
		c = *i.now.Content
	case i.content != nil:
		c = *i.content
	}
	if i.options.usersOnly {
		c = Content{Orgs: c.Orgs, Users: c.Users}
	}
	c.Services = slices.DeleteFunc(slices.Clone(c.Services), func(s ServiceEntry) bool {
		return i.now.Fault == ImportServicesLost || slices.Contains(i.now.LoseServices, s.Path()) || s.Service != "" && slices.Contains(i.now.LoseServices, s.Service)
	})
	c.Apps = slices.Clone(c.Apps)
	if i.now.Fault == ImportBuildpacksLost {
		for a := range c.Apps {
			c.Apps[a].Buildpack = ""
		}
	}
	return c
}

// mainDB writes the content to the database, every app STOPPED.
func (i *importer) mainDB() (exit *int) {
	k, db := i.k, i.k.c.database()
	rows := Content{}
	if db == nil {
		db = noDatabase{}
	} else {
		rows = i.wanted()
	}
	if i.now.Fault == ImportFails {
		rows.Apps, rows.Services = rows.Apps[:len(rows.Apps)/2], nil
	}
	rows.Apps = slices.Clone(rows.Apps)
	for a := range rows.Apps {
		if rows.Apps[a].State == "STARTED" {
			i.started = append(i.started, rows.Apps[a])
		}
		rows.Apps[a].State = "STOPPED"
	}
	i.stray(k.Stderr, `NOTICE:  constraint "fk_apps_stack_id" of relation "apps" does not exist, skipping`)
	if err := db.Load(k.ctx, rows); err != nil {
		return new(k.fail("Could not restore the database of role primary: %v", err))
	}
	if i.now.Fault == ImportFails {
		k.fail("Could not restore the database of role primary: server closed the connection unexpectedly")
		return &i.now.Exit
	}
	k.printf("%d organizations, %d spaces, %d users, %d applications, %d services\n", len(rows.Orgs), len(rows.Spaces), len(rows.Users), len(rows.Apps), len(rows.Services))
	return nil
}

// redeploy stages and starts the apps that were started, one after the other.
func (i *importer) redeploy() (exit *int) {
	k, db, apps := i.k, i.k.c.database(), i.started
	if len(apps) > 0 {
		k.printf("%s\n", i.colored(cyan, "Redeploying applications..."))
		i.stray(k.Stderr, "/s/code/kato/lib/kato/cluster/import.rb:412: warning: already initialized constant STAGING_TIMEOUT")
	}
	chosen := slices.ContainsFunc(apps, func(a AppEntry) bool { return slices.Contains(i.now.FailApps, a.Path()) }) || i.now.FailShare > 0
	for at, a := range apps {
		if i.now.Fault == ImportHangs && at >= len(apps)/2 {
			break
		}
		k.printf("[%d/%d] %s ... ", at+1, len(apps), a.Path())
		// The share is spread evenly: the app is the one with which the count of failed ones rises.
		share := int(float64(at+1)*i.now.FailShare+0.5) > int(float64(at)*i.now.FailShare+0.5)
		r := Redeployment{Org: a.Org, Space: a.Space, App: a.Name, Seconds: i.now.AppSeconds, Stops: i.now.LeaveFailed == FailedAndStopped,
			Fails: share || slices.Contains(i.now.FailApps, a.Path()) || i.now.Fault == ImportHalts && !chosen && at == 0}
		err := i.redeployOne(db, r)
		if k.ctx.Err() != nil {
			return new(killedByTerm)
		}
		switch {
		case err == nil:
			k.printf("%s\n", i.colored(green, "ok"))
		case i.now.Fault == ImportHalts:
			k.printf("%s\n", i.colored(red, "FAILED"))
			k.fail("Could not redeploy %s: %v", a.Path(), err)
			return &i.now.Exit
		default:
			k.printf("%s\n", i.colored(red, "FAILED: "+err.Error()))
			i.failed = append(i.failed, a)
		}
	}
	if i.now.Fault == ImportHangs {
		<-k.ctx.Done()
		return new(killedByTerm)
	}
	return nil
}

func (i *importer) redeployOne(db Database, r Redeployment) error {
	ctx := i.k.ctx
	if i.timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, i.timeout)
		defer stop()
	}
	err := db.Redeploy(ctx, r)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("staging timed out")
	}
	return err
}

// list prints the apps that have to be redeployed by hand (kato.md §3.2; the forms are [U]).
func (i *importer) list() {
	if len(i.failed) == 0 {
		return
	}
	k := i.k
	k.printf("\n")
	if i.now.List == LongList {
		k.printf("%s\n", i.colored(red, "The following applications failed to import and must be redeployed manually:"))
		for _, a := range i.failed {
			k.printf(" - %s (org: %s, space: %s)\n", a.Name, a.Org, a.Space)
		}
	} else {
		k.printf("%s\n", i.colored(red, "Failed apps:"))
		for _, a := range i.failed {
			k.printf("  %s\n", a.Path())
		}
	}
	k.printf("\n")
}
