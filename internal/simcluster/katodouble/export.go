package katodouble

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ExportFault is what goes wrong with `kato data export`.
type ExportFault string

// The faults. What kato leaves behind when it fails is not known (kato.md §3.2): these are the cases a caller has to tell from success.
const (
	// ExportHangs begins, writes half of the archive and never ends.
	ExportHangs ExportFault = "hangs"
	// ExportErrorText prints an error, leaves no archive and exits 0.
	ExportErrorText ExportFault = "error-text"
	// ExportNothing says that it is done, leaves no archive and exits 0.
	ExportNothing ExportFault = "nothing"
	// ExportTruncated says that it is done and exits 0; the last third of the archive is missing.
	ExportTruncated ExportFault = "truncated"
	// ExportFails prints an error after a third of the archive, which stays, and exits with Export.Exit.
	ExportFails ExportFault = "fails"
)

// ExportFaults lists them.
func ExportFaults() []ExportFault {
	return []ExportFault{ExportHangs, ExportErrorText, ExportNothing, ExportTruncated, ExportFails}
}

const defaultExportSize = 256 << 10

// Export says what `kato data export` on a node does.
type Export struct {
	// Size in bytes of the exported data, which cannot be compressed; 0 = 256 KiB.
	Size int64 `json:"size,omitempty"`
	// Seconds that it takes; 0 = as long as writing takes.
	Seconds float64 `json:"seconds,omitempty"`
	// Fault of the next Times exports, of all when Times is negative.
	Fault ExportFault `json:"fault,omitempty"`
	Times int         `json:"times,omitempty"`
	// Exit is the code of ExportFails; 0 = 1.
	Exit int `json:"exit,omitempty"`
}

// ExportPatch is the part of a StatePatch about exports: what it names is changed.
type ExportPatch struct {
	Size    *int64       `json:"size,omitempty"`
	Seconds *float64     `json:"seconds,omitempty"`
	Fault   *ExportFault `json:"fault,omitempty"`
	Times   *int         `json:"times,omitempty"`
	Exit    *int         `json:"exit,omitempty"`
}

// apply returns e changed by p, or an error for a value that makes no sense.
func (e Export) apply(p *ExportPatch) (Export, error) {
	if p == nil {
		return e, nil
	}
	put(&e.Size, p.Size)
	put(&e.Seconds, p.Seconds)
	put(&e.Fault, p.Fault)
	put(&e.Times, p.Times)
	put(&e.Exit, p.Exit)
	switch {
	case e.Size < 0 || e.Seconds < 0:
		return e, errors.New("an export has no negative size or duration")
	case e.Exit < 0 || e.Exit > 255:
		return e, fmt.Errorf("%d is no exit code", e.Exit)
	case e.Fault != "" && !slices.Contains(ExportFaults(), e.Fault):
		return e, fmt.Errorf("%q is no fault of an export: choose from %v", e.Fault, ExportFaults())
	}
	return e, nil
}

func put[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// take returns what one export does; its fault is used up.
func (e *Export) take() Export {
	now := *e
	switch {
	case e.Times == 0:
		now.Fault = ""
	case e.Times > 0:
		if e.Times--; e.Times == 0 {
			e.Fault = ""
		}
	}
	if now.Size == 0 {
		now.Size = defaultExportSize
	}
	if now.Exit == 0 {
		now.Exit = 1
	}
	return now
}

// Files are where a kato reads and writes: the file system of its node, with the rights of its user. Names are absolute.
type Files interface {
	// Open reads a file and tells its size in bytes.
	Open(name string) (r io.ReadCloser, size int64, err error)
	// Create makes a file, or empties the one that is there.
	Create(name string) (io.WriteCloser, error)
	Mkdir(name string) error
	RemoveAll(name string) error
}

// OSFiles are those of the machine the process runs on.
type OSFiles struct{}

// Open reads a file.
func (OSFiles) Open(name string) (io.ReadCloser, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// Create makes or empties a file with mode 0644.
func (OSFiles) Create(name string) (io.WriteCloser, error) { return os.Create(name) }

// Mkdir makes a folder for the user alone.
func (OSFiles) Mkdir(name string) error { return os.Mkdir(name, 0o700) }

// RemoveAll removes a folder and what is in it.
func (OSFiles) RemoveAll(name string) error { return os.RemoveAll(name) }

// part is one thing an export has or leaves out: --NAME selects it, --exclude-NAME leaves it out (kato.md §3.2).
type part struct {
	name string
	// other is the name in the other product.
	other string
	// role on which the part lies.
	role string
	// optional parts are exported only when they are named.
	optional bool
	// halves can be left out one by one: --exclude-NAME-HALF.
	halves []string
	// weight of the content, spread over so many files.
	weight, files int
}

func exportParts() []part {
	both := []string{"data", "metadata"}
	return []part{
		{name: "droplets", role: "controller", weight: 40, files: 8}, {name: "packages", role: "controller", weight: 20, files: 4},
		{name: "resources", role: "controller", optional: true, weight: 10, files: 2}, {name: "license", role: "primary", files: 1},
		{name: "db-encryption-key", role: "controller", files: 1}, {name: "main-db", role: "primary", weight: 2, files: 1},
		{name: "aok-db", role: "controller", weight: 1, files: 1}, {name: "aok-config", role: "controller", optional: true, files: 1},
		{name: "helion-rest-db", other: "stackato-rest-db", role: "controller", files: 1},
		{name: "filesystem", role: "filesystem", halves: []string{"data", "user-creation"}, weight: 20, files: 2},
		{name: "harbor", role: "harbor", halves: both, weight: 5, files: 1}, {name: "mysql", role: "mysql", halves: both, weight: 15, files: 2},
		{name: "postgresql", role: "postgresql", halves: both, weight: 15, files: 2}, {name: "mongodb", role: "mongodb", halves: both, weight: 10, files: 1},
		{name: "memcached", role: "memcached", halves: both, files: 1}, {name: "redis", role: "redis", halves: both, weight: 2, files: 1},
		{name: "rabbit", role: "rabbit", halves: both, weight: 2, files: 1}, {name: "rabbit3", role: "rabbit3", halves: both, weight: 2, files: 1},
	}
}

// exportOptions of one call.
type exportOptions struct {
	cluster, local, manual, force, usersOnly bool
	baseDir, file                            string
	// selection is the options that say what is exported, as they were given.
	selection     []string
	with, without map[string]bool
}

// parseExport reads the options of kato.md §3.2; ok is false for what docopt does not match: no mode or two, an unknown option, two names of files,
// --force without --manual.
func parseExport(args []string) (o exportOptions, ok bool) {
	o.with, o.without = map[string]bool{}, map[string]bool{}
	selectors := map[string]func(){}
	for _, p := range exportParts() {
		for _, name := range []string{p.name, p.other} {
			if name == "" {
				continue
			}
			selectors["--"+name] = func() { o.with[p.name] = true }
			selectors["--exclude-"+name] = func() { o.without[p.name] = true }
		}
		for _, half := range p.halves {
			selectors["--exclude-"+p.name+"-"+half] = func() { o.without[p.name+"-"+half] = true }
		}
	}
	files := 0
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--cluster":
			o.cluster = true
		case a == "--only-this-node":
			o.local = true
		case a == "--manual":
			o.manual = true
		case a == "--force":
			o.force = true
		case a == "--remote":
		case a == "--only-users-orgs":
			o.usersOnly = true
			o.selection = append(o.selection, a)
		case a == "--base-dir" && i+1 < len(args):
			i++
			o.baseDir = args[i]
		case strings.HasPrefix(a, "--base-dir="):
			o.baseDir = strings.TrimPrefix(a, "--base-dir=")
		case selectors[a] != nil:
			selectors[a]()
			o.selection = append(o.selection, a)
		case strings.HasPrefix(a, "-"):
			return o, false
		default:
			o.file = a
			files++
		}
	}
	modes := 0
	for _, m := range []bool{o.cluster, o.local, o.manual} {
		if m {
			modes++
		}
	}
	return o, modes == 1 && files <= 1 && (!o.force || o.manual)
}

// selects says whether a part is exported, or imported. hasRole says which roles are in the scope.
func (o exportOptions) selects(p part, hasRole func(string) bool) bool {
	selected := len(o.with) == 0 && !p.optional || o.with[p.name]
	if o.usersOnly {
		selected = p.name == "main-db" || p.name == "aok-db"
	}
	return selected && !o.without[p.name] && (o.force || hasRole(p.role))
}

// entry is one file of the archive.
type entry struct {
	part, name string
	size       int64
}

// entries are the files an export with these options holds, size bytes in all. hasRole says which roles are in its scope.
func (o exportOptions) entries(hasRole func(string) bool, size int64) []entry {
	type chosen struct {
		part
		names []string
	}
	var parts []chosen
	weights := 0
	for _, p := range exportParts() {
		if !o.selects(p, hasRole) {
			continue
		}
		c := chosen{part: p}
		if p.halves == nil || !o.without[p.name+"-data"] {
			for i := range p.files {
				switch {
				case p.files == 1 && p.halves == nil:
					c.names = append(c.names, p.name)
				case p.halves == nil:
					c.names = append(c.names, fmt.Sprintf("%s/%04d", p.name, i+1))
				default:
					c.names = append(c.names, fmt.Sprintf("%s-data/%04d", p.name, i+1))
				}
			}
		}
		if p.halves != nil && !o.without[p.name+"-"+p.halves[1]] {
			c.names = append(c.names, p.name+"-"+p.halves[1])
		}
		if len(c.names) > 0 {
			parts = append(parts, c)
			weights += p.weight
		}
	}
	var out []entry
	left := size
	for i, c := range parts {
		share := int64(0)
		if weights > 0 {
			share = size / int64(weights) * int64(c.weight)
		}
		if i == len(parts)-1 {
			share = left
		}
		left -= share
		for j, name := range c.names {
			n := share / int64(len(c.names))
			if j == len(c.names)-1 {
				n = share - n*int64(len(c.names)-1)
			}
			out = append(out, entry{c.name, name, n})
		}
	}
	return out
}

// errExporting is how an export or import is refused while an export runs.
var errExporting = errors.New("an export is already in progress")

// busy returns why nothing can be exported or imported on a node, or in the whole cluster, now; mu is held.
func (c *Cluster) busy(id string, whole bool) error {
	for err, all := range map[error]map[string]bool{errExporting: c.exports, errImporting: c.imports} {
		for running, wide := range all {
			if running == id || wide || whole {
				return err
			}
		}
	}
	return nil
}

// hold takes a place for a node's export or import; release gives it back. mu is held.
func (c *Cluster) hold(places *map[string]bool, id string, whole bool) (release func()) {
	if *places == nil {
		*places = map[string]bool{}
	}
	(*places)[id] = whole
	return sync.OnceFunc(func() {
		c.mu.Lock()
		delete(*places, id)
		c.mu.Unlock()
	})
}

// beginExport takes the place of an export: on a node one can run, and one of the whole cluster when no other does. release gives it back.
func (c *Cluster) beginExport(_ context.Context, id string, whole bool) (now Export, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[id]
	if n == nil {
		return Export{}, nil, fmt.Errorf("node %s is not part of the cluster", id)
	}
	if err := c.busy(id, whole); err != nil {
		return Export{}, nil, err
	}
	return n.export.take(), c.hold(&c.exports, id, whole), nil
}

// Exporting says whether an export runs on the node.
func (c *Cluster) Exporting(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, running := c.exports[id]
	return running
}

// dataExport writes a .tgz of what is selected. A cluster's export needs all nodes reachable, the Core's key on each of them, and the node with the filesystem
// role, of which some steps are local (kato.md §3.2).
func (k *call) dataExport(args []string) int {
	o, ok := parseExport(args)
	if !ok {
		return k.usage()
	}
	if k.Sudo != nil && k.Sudo(k.ctx) != nil {
		return k.prompt()
	}
	peers, core := k.peers()
	k.c.mu.Lock()
	local := slices.Clone(k.local.roles)
	k.c.mu.Unlock()
	hasRole := func(role string) bool {
		return slices.ContainsFunc(peers, func(p peer) bool { return (o.cluster || p.id == k.local.id) && slices.Contains(p.roles, role) })
	}
	if o.cluster {
		if !k.up(peers) {
			return 1
		}
		if hasRole("filesystem") && !slices.Contains(local, "filesystem") && !o.without["filesystem"] && (len(o.with) == 0 || o.with["filesystem"]) {
			return k.fail("The filesystem service cannot be exported from %s: run the export on the node with the filesystem role", k.local.id)
		}
		if !k.reachable(core, peers) {
			return 1
		}
	}
	begin := k.c.beginExport
	if k.c.exportBegin != nil {
		begin = k.c.exportBegin
	}
	now, release, err := begin(k.ctx, k.local.id, o.cluster)
	if err != nil {
		return k.notBegun(err)
	}
	defer release()
	if k.Files == nil {
		return k.fail("Could not write the export: Read-only file system")
	}
	if o.file == "" {
		o.file = fmt.Sprintf("stackato-export-%d.tgz", time.Now().Unix())
	}
	e := &exporter{now: now, entries: o.entries(hasRole, now.Size), temporary: k.temporary(o.baseDir, "kato-export-"), file: k.absolute(o.file)}
	if e.content, err = k.content(o, hasRole); err != nil {
		return k.fail("Could not dump the database of role primary: %v", err)
	}
	e.pacer = pacer{k: k, total: now.Size, seconds: now.Seconds}
	return e.run()
}

// peer is a node of the cluster.
type peer struct {
	id    string
	roles []string
	up    bool
}

// peers are all nodes, and the Core's id.
func (k *call) peers() (peers []peer, core string) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	for _, id := range k.c.order {
		n := k.c.nodes[id]
		peers = append(peers, peer{id, n.roles, n.up})
		if core == "" || slices.Contains(n.roles, "primary") && !slices.Contains(k.c.nodes[core].roles, "primary") {
			core = id
		}
	}
	return peers, core
}

// up says whether all nodes are, or which one is not.
func (k *call) up(peers []peer) bool {
	for _, p := range peers {
		if !p.up {
			k.fail("Could not connect to node %s: No route to host", p.id)
			return false
		}
	}
	return true
}

// reachable says whether the Core can log in to all nodes, or to which one it cannot.
func (k *call) reachable(core string, peers []peer) bool {
	if k.Reach == nil {
		return true
	}
	failed := make([]error, len(peers))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, p := range peers {
		wg.Go(func() {
			slots <- struct{}{}
			failed[i] = k.Reach(k.ctx, core, p.id)
			<-slots
		})
	}
	wg.Wait()
	for i, err := range failed {
		if err != nil {
			k.fail("Could not log in from %s to %s: %v", core, peers[i].id, err)
			return false
		}
	}
	return true
}

// notBegun says why an export or import is refused. The text is the Cloud Controller's wrapper's, kato's own is not known (kato.md §3.2).
func (k *call) notBegun(err error) int {
	switch {
	case errors.Is(err, errExporting):
		return k.fail("An export is already in progress.")
	case errors.Is(err, errImporting):
		return k.fail("An import is already in progress.")
	}
	return k.fail("%v", err)
}

func (k *call) absolute(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join("/", k.Dir, name)
}

// temporary names a folder for temporary files, in --base-dir or /tmp.
func (k *call) temporary(baseDir, prefix string) string {
	if baseDir == "" {
		baseDir = "/tmp"
	}
	return path.Join(k.absolute(baseDir), prefix+strconv.FormatInt(time.Now().UnixNano(), 36))
}

// exporter writes one archive.
type exporter struct {
	now             Export
	entries         []entry
	content         []byte // of the Cloud Controller; nil when it is not exported
	temporary, file string
	pacer
}

// errExportFault is the error of ExportErrorText and ExportFails.
var errExportFault = errors.New("the database of role mysql cannot be dumped")

func (e *exporter) tellFault() {
	e.k.fail("Could not dump the database of role mysql: Lost connection to MySQL server during query")
}

func (e *exporter) run() int {
	k := e.k
	e.began = time.Now()
	if err := k.Files.Mkdir(e.temporary); err != nil {
		return k.fail("Could not make the folder %s: %v", e.temporary, err)
	}
	switch e.now.Fault {
	case ExportErrorText, ExportNothing:
		for _, en := range e.entries {
			if err := e.pace(en.size); err != nil {
				return killedByTerm
			}
		}
		if err := k.Files.RemoveAll(e.temporary); err != nil {
			return k.fail("Could not remove %s: %v", e.temporary, err)
		}
		if e.now.Fault == ExportErrorText {
			e.tellFault()
			return 0
		}
		return e.finished()
	}
	err := e.write()
	if k.ctx.Err() != nil {
		return killedByTerm // what was killed removes nothing
	}
	err = errors.Join(err, k.Files.RemoveAll(e.temporary))
	if errors.Is(err, errExportFault) {
		e.tellFault()
		return e.now.Exit
	}
	if err != nil {
		return k.fail("Could not write %s: %v", e.file, err)
	}
	return e.finished()
}

const killedByTerm = 128 + 15

func (e *exporter) finished() int {
	e.k.printf("Export finished: %s\n", e.file)
	return 0
}

func (e *exporter) write() (err error) {
	f, err := e.k.Files.Create(e.file)
	if err != nil {
		return err
	}
	var out io.Writer = f
	if e.now.Fault == ExportTruncated {
		out = &truncated{w: f, left: e.now.Size * 2 / 3}
	}
	buffered := bufio.NewWriterSize(out, 1<<20)
	// Random bytes do not become smaller.
	zipped, _ := gzip.NewWriterLevel(buffered, gzip.NoCompression)
	archive := tar.NewWriter(zipped)
	err = e.fill(archive, func() error { return errors.Join(zipped.Flush(), buffered.Flush()) })
	if err == nil {
		err = errors.Join(archive.Close(), zipped.Close())
	}
	// What was written before an error stays, as it does on a disk that is full.
	flushed := buffered.Flush()
	if err == nil {
		err = flushed
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

func (e *exporter) fill(archive *tar.Writer, flush func() error) error {
	var seed [32]byte
	crand.Read(seed[:])
	content := rand.NewChaCha8(seed)
	chunk := make([]byte, max(4<<10, min(1<<20, e.now.Size/64)))
	hangs, fails := e.now.Size/2, e.now.Size/3
	last := ""
	for _, en := range e.entries {
		if en.part != last {
			e.k.printf("Exporting %s...\n", en.part)
			last = en.part
			if err := e.note(en.part); err != nil {
				return err
			}
			if en.part == "main-db" && e.content != nil {
				if err := e.add(archive, ContentEntry, e.content); err != nil {
					return err
				}
			}
		}
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: en.name, Mode: 0o600, Size: en.size, ModTime: e.began, Uname: "stackato", Gname: "stackato"}); err != nil {
			return err
		}
		for left := en.size; left > 0; {
			b := chunk[:min(int64(len(chunk)), left)]
			content.Read(b)
			if _, err := archive.Write(b); err != nil {
				return err
			}
			left -= int64(len(b))
			if err := e.pace(int64(len(b))); err != nil {
				return err
			}
			if err := e.fail(flush, e.done >= hangs, e.done >= fails); err != nil {
				return err
			}
		}
	}
	return e.fail(flush, true, true) // of a node whose roles have nothing to export
}

// add writes a whole file into the archive, which does not count as progress.
func (e *exporter) add(archive *tar.Writer, name string, content []byte) error {
	err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: e.began, Uname: "stackato", Gname: "stackato"})
	if err != nil {
		return err
	}
	_, err = archive.Write(content)
	return err
}

// fail is where a fault ends an export; what was written before is on the disk.
func (e *exporter) fail(flush func() error, hangs, fails bool) error {
	switch {
	case e.now.Fault == ExportHangs && hangs:
		if err := flush(); err != nil {
			return err
		}
		<-e.k.ctx.Done()
		return e.k.ctx.Err()
	case e.now.Fault == ExportFails && fails:
		return errors.Join(flush(), errExportFault)
	}
	return nil
}

// note writes the temporary file of a part.
func (e *exporter) note(name string) error {
	f, err := e.k.Files.Create(path.Join(e.temporary, name))
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "exporting "+name+"\n")
	return errors.Join(err, f.Close())
}

// pacer tells the progress of some bytes, and makes them take so many seconds.
type pacer struct {
	k           *call
	total, done int64
	seconds     float64
	began       time.Time
	told        int // tenths that have been printed
}

// pace counts n bytes as done, tells every tenth, and waits until they are due.
func (p *pacer) pace(n int64) error {
	p.done += n
	if tenth := int(p.done * 10 / max(1, p.total)); tenth > p.told {
		p.told = tenth
		p.k.printf("%d%%\n", tenth*10)
	}
	return p.k.wait(time.Until(p.began.Add(time.Duration(p.seconds * float64(time.Second) * float64(p.done) / float64(max(1, p.total))))))
}

// wait lets time pass; its error is that kato shall end.
func (k *call) wait(d time.Duration) error {
	if d <= 0 {
		return k.ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-k.ctx.Done():
		return k.ctx.Err()
	}
}

// truncated loses all but the first bytes, and does not say so.
type truncated struct {
	w    io.Writer
	left int64
}

func (t *truncated) Write(b []byte) (int, error) {
	keep := b[:min(int64(len(b)), t.left)]
	t.left -= int64(len(keep))
	if _, err := t.w.Write(keep); err != nil {
		return 0, err
	}
	return len(b), nil
}
