package activities

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/controller"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// RestoreReadyInput asks whether an archive can be imported.
type RestoreReadyInput struct {
	ExportInput
	// From is the cluster whose bucket has the archive, Archive the operation that made it or operation.LatestArchive.
	From           string                 `json:"from"`
	Archive        string                 `json:"archive"`
	Mode           operation.TransferMode `json:"mode,omitempty"`
	NoSafetyBackup bool                   `json:"noSafetyBackup,omitempty"`
	NoSpaceCheck   bool                   `json:"noSpaceCheck,omitempty"`
	// Running: From is a running cluster, which is imported itself; there is no Archive.
	Running bool `json:"running,omitempty"`
	// NoDroplets: those of an archive of version 2 are not looked into.
	NoDroplets bool `json:"noDroplets,omitempty"`
	// RestageApps are patterns of apps that the archive is to have.
	RestageApps []string `json:"restageApps,omitempty"`
	// Rehearsal: what comes back is to prove the archive.
	Rehearsal bool `json:"rehearsal,omitempty"`
}

// RestoreReadyResult is what was found, one line each, with the place it is about before a colon, and the archive that is meant.
type RestoreReadyResult struct {
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Source are the problems of a running cluster that is to be imported.
	Source  []string    `json:"source,omitempty"`
	Archive archive.Ref `json:"archive"`
	// Made is when its export began (UTC, RFC 3339), Size and SHA256 are those of the export. Of a running cluster, Size is that of its data, as far as it could be measured.
	Made   string `json:"made,omitempty"`
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// Manifest is the SHA-256 of its manifest, KatoVersion the version it was made by.
	Manifest    string `json:"manifest,omitempty"`
	KatoVersion string `json:"katoVersion,omitempty"`
	// Recorded is what the manifest says of the cluster before the export, nil when that was not read.
	Recorded *operation.ExportedContents `json:"recorded,omitempty"`
	// Apps that the cluster has now, and the Version that its Cloud Controller tells.
	Apps    int    `json:"apps,omitempty"`
	Version string `json:"version,omitempty"`
}

// ImportInput is the input of an import of the archive that lies staged.
type ImportInput struct {
	ExportInput
	// ImportTry is the try in the name of the job.
	ImportTry int `json:"importTry"`
	// Running is the cluster whose Core is read, "" for the archive that lies staged.
	Running string `json:"running,omitempty"`
	// StagingSeconds is kato's --timeout; 0 leaves it to kato.
	StagingSeconds int `json:"stagingSeconds,omitempty"`
}

// ImportResult is how the import ended.
type ImportResult struct {
	JobResult
	// Failed are the apps that kato says it could not redeploy, at most operation.MaxMissing.
	Failed []string `json:"failed,omitempty"`
	// Said are words of an error in the output of an import that ended with 0: whether anything is missing is read afterwards.
	Said string `json:"said,omitempty"`
}

// RestoredInput asks what came back.
type RestoredInput struct {
	Operation Operation   `json:"operation"`
	Archive   archive.Ref `json:"archive"`
	// Failed are the apps that kato has named.
	Failed []string `json:"failed,omitempty"`
	// Staged is where PrepareSource has written what was there, instead of the manifest of Archive.
	Staged *ExportInput `json:"staged,omitempty"`
}

// RestoredResult is what the Cloud Controller has, held against the manifest.
type RestoredResult struct {
	Found *operation.ExportedContents `json:"found"`
	// Missing are recorded things that are not there, at most operation.MaxMissing, and More how many beside.
	Missing []string `json:"missing,omitempty"`
	More    int      `json:"more,omitempty"`
	// Of the apps that are recorded (all, where none are): Running ones run whole, Waiting ones have been started and may come up yet, Broken ones do not run by
	// themselves any more, Stopped ones were stopped before the export.
	Running []operation.App       `json:"running,omitempty"`
	Waiting []operation.App       `json:"waiting,omitempty"`
	Broken  []operation.AppResult `json:"broken,omitempty"`
	Stopped []operation.App       `json:"stopped,omitempty"`
	Notes   []string              `json:"notes,omitempty"`
}

// importJob is kato's import from source: the staged archive, or the host name of a running Core.
func (s site) importJob(in ImportInput, source string) remote.JobSpec {
	return remote.JobSpec{ID: jobID(in.Operation, in.Node.Name, operation.StepImport, in.ImportTry), Lease: lease(in.Operation), Login: true,
		Argv: s.kato().Import(kato.Import{Folder: path.Join(path.Dir(in.staged()), "work"), Path: source, StagingSeconds: in.StagingSeconds})}
}

// importSource is what kato imports: the staged archive, or the Core of the running cluster by its address.
func (s site) importSource(in ImportInput) (string, error) {
	if in.Running == "" {
		return in.staged(), nil
	}
	c, err := s.file.Cluster(in.Running)
	if err == nil && c.CoreNode() == nil {
		err = fmt.Errorf("cluster %s has no Core node", c.Name)
	}
	if err != nil {
		// Not BadInput: an import that was begun may still run.
		return "", operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: oneLine("the worker's inventory has changed: "+err.Error(), 1024)})
	}
	return c.CoreNode().Address, nil
}

// importNode is the node of an import, the Core, and all that is wrong with the request by what the inventory knows. running: from is read itself, and not an archive of it.
func importNode(file *inventory.File, c *inventory.Cluster, from string, running bool, env func(string) (string, bool)) (*inventory.Node, []string) {
	if c.Platform != inventory.PlatformALS {
		return nil, []string{fmt.Sprintf("cluster %s is a plain one: only an ALS cluster has kato data import", c.Name)}
	}
	var problems []string
	if c.Controller == nil {
		problems = append(problems, fmt.Sprintf("cluster %s has no controller in the inventory, which says what came back: write url, user and password of its Cloud Controller", c.Name))
	}
	source, err := file.Cluster(from)
	switch {
	case err != nil:
		problems = append(problems, err.Error())
	case running:
		problems = append(problems, sourceProblems(file, c, source, env)...)
	case source.S3 == nil:
		problems = append(problems, fmt.Sprintf("cluster %s has no s3 section in the worker's inventory: write the bucket of its archives there", source.Name))
	default:
		problems = append(problems, bucketProblems(file, source, env)...)
	}
	return c.CoreNode(), problems
}

// sourceProblems are what speaks against the import of the running cluster source into c.
func sourceProblems(file *inventory.File, c, source *inventory.Cluster, env func(string) (string, bool)) []string {
	if source.Platform != inventory.PlatformALS || source.CoreNode() == nil {
		return []string{fmt.Sprintf("cluster %s is a plain one, or has no Core: only an ALS cluster can be imported", source.Name)}
	}
	var problems []string
	if err := file.CheckFiles(env, source.Name); err != nil {
		problems = problemsOf(err)
	}
	if node, err := source.ExportNode(); err == nil && node != source.CoreNode() {
		problems = append(problems, fmt.Sprintf("cluster %s has the role filesystem on %s, where its export has to run, and kato reads the Core: make an archive (katoflow backup create %s) and restore that",
			source.Name, node.Name, source.Name))
	}
	if source.Controller == nil {
		problems = append(problems, fmt.Sprintf("cluster %s has no controller in the inventory, which says what is to come back: write url, user and password of its Cloud Controller", source.Name))
	}
	return append(problems, sameCluster(c, source, "an import would read what it changes")...)
}

// scratchProblems are what speaks against a rehearsal of an archive of from in c, whose content may be lost by it.
func scratchProblems(file *inventory.File, c *inventory.Cluster, from string) []string {
	if !c.Scratch {
		return []string{fmt.Sprintf("cluster %s is no scratch cluster, and a rehearsal throws its content away: if that may be, write scratch: true at it in the worker's inventory (%s)",
			c.Name, remote.Escape(file.Path()))}
	}
	source, err := file.Cluster(from)
	if err != nil {
		return nil // told already
	}
	if source.Name == c.Name {
		return []string{fmt.Sprintf("the archive is of cluster %s itself: rehearse it in another one, which has scratch: true in the inventory", c.Name)}
	}
	return sameCluster(c, source, "a rehearsal would throw away what the archive is of")
}

// sameCluster finds what two clusters of the inventory have in common that must not have anything.
func sameCluster(c, source *inventory.Cluster, why string) []string {
	if source.Controller != nil && c.Controller != nil && strings.TrimSuffix(source.Controller.URL, "/") == strings.TrimSuffix(c.Controller.URL, "/") {
		return []string{fmt.Sprintf("clusters %s and %s have the same controller (%s): %s; write that of %s", source.Name, c.Name, oneLine(c.Controller.URL, 200), why, c.Name)}
	}
	where := map[string]string{}
	for _, n := range source.Nodes {
		where[nodePlace(source, n)] = n.Name
	}
	for _, n := range c.Nodes {
		if same, shared := where[nodePlace(c, n)]; shared {
			return []string{fmt.Sprintf("node %s of cluster %s is also node %s of %s: %s; name nodes of its own", n.Name, c.Name, same, source.Name, why)}
		}
	}
	return nil
}

// nodePlace is where a node is reached, by which it is told from others.
func nodePlace(c *inventory.Cluster, n *inventory.Node) string {
	port := cmp.Or(n.SSH.Port, c.SSH.Port)
	return fmt.Sprintf("%s %s:%d", cmp.Or(n.SSH.Bastion, c.SSH.Bastion), n.Address, port)
}

// RestoreReady asks the bucket for the archive and the cluster for all that an import needs, all at once, and changes nothing. What is wrong is in the result and
// never an error.
func (x *Archives) RestoreReady(ctx context.Context, in RestoreReadyInput) (RestoreReadyResult, error) {
	a := begin(ctx, "asking what an import needs")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return RestoreReadyResult{}, err
	}
	r := ready{site: s, core: t.node, in: ExportReadyInput{ExportInput: in.ExportInput, Mode: in.Mode}}
	nodes := s.cluster.Nodes
	source := x.readyArchive
	if in.Running {
		source, r.in.Mode = x.readySource, operation.TransferWorker // nothing is transferred
		if r.other, err = s.file.Cluster(in.From); err != nil {
			return RestoreReadyResult{}, badInput(err.Error())
		}
	}
	found := make([]findings, len(nodes)+2)
	var archived archive.Entry
	var target targetState
	each(len(found), func(i int) {
		switch {
		case i < len(nodes):
			found[i] = x.readyNode(a.ctx, r, nodes[i])
		case i == len(nodes):
			archived, found[i] = source(a.ctx, in)
		default:
			target, found[i] = x.readyTarget(a.ctx, s)
		}
	})
	if a.ctx.Err() != nil {
		return RestoreReadyResult{}, ended(a.ctx)
	}
	var all findings
	var sources []string
	if in.Running {
		found[len(nodes)].sameMachine(in.From, r.other.CoreNode().Address, found[slices.Index(nodes, t.node)].reached)
	}
	for i, f := range found {
		if in.Running && i == len(nodes) {
			sources, f.problems = f.problems, nil
		}
		all.problems, all.warnings = append(all.problems, f.problems...), append(all.warnings, f.warnings...)
		if f.space != nil {
			all.space = f.space
		}
	}
	if target.apps > 0 && !in.NoSafetyBackup && !in.Rehearsal && s.cluster.S3 == nil {
		all.problem("bucket", "cluster %s has %d apps, which an import changes, and no s3 section in the worker's inventory for a backup before: write it, or say --no-safety-backup",
			s.cluster.Name, target.apps)
	}
	out := RestoreReadyResult{Apps: target.apps, Version: oneLine(target.version, 100)}
	if archived.Manifest != nil {
		m := archived.Manifest
		out.Archive, out.Size, out.SHA256 = m.Ref, m.Size, m.SHA256
		if !m.Started.IsZero() {
			out.Made = m.Started.UTC().Format(time.RFC3339)
		}
		out.Manifest, out.KatoVersion = archived.ManifestSHA256, oneLine(m.KatoVersion, 100)
		if m.Content != nil {
			out.Recorded = countsOf(m.Content)
		}
		of := "archive"
		if in.Running {
			of = in.From
		}
		all.judgeArchive(of, *m, target)
		if ofVersion2(m.KatoVersion) && !in.NoDroplets {
			all.judgeDroplets(x.examineArchive(a.ctx, in, m.Ref), m.Content)
		}
		all.judgeRestage(in.RestageApps, m.Content)
		if all.space != nil {
			all.judgeImportSpace(t.node.Name, *all.space, m.Size, in.NoSpaceCheck)
		}
	}
	out.Problems, out.Warnings, out.Source = all.problems, all.warnings, sources
	return out, nil
}

// judgeImportSpace holds the space against the archive, which is unpacked beside itself.
func (f *findings) judgeImportSpace(node string, space fileSystem, size int64, noCheck bool) {
	free := space.free << 10
	switch {
	case free < size && !noCheck:
		f.problem(node, "%s free in %s for an archive of %s: free some space, set export.folder to a larger file system, or --no-space-check", operation.Size(free), space.mount, operation.Size(size))
	case free < 3*size:
		f.warning(node, "%s free in %s for an archive of %s: what kato unpacks may not fit beside it", operation.Size(free), space.mount, operation.Size(size))
	}
}

// readyArchive finds the archive, complete.
func (x *Archives) readyArchive(ctx context.Context, in RestoreReadyInput) (archive.Entry, findings) {
	var out findings
	fails := func(err error) (archive.Entry, findings) {
		if ctx.Err() == nil {
			out.problem("archive", "%s", failureOf(err).Message)
		}
		return archive.Entry{}, out
	}
	s, err := x.Source.site(in.From)
	if err != nil {
		return fails(err)
	}
	store, err := s.store(x.Logger)
	if err != nil {
		return fails(err)
	}
	defer store.Close()
	ref := archive.Ref{Cluster: in.From, Operation: in.Archive}
	if in.Archive == operation.LatestArchive {
		archives, _, err := store.List(ctx, in.From)
		if err != nil {
			return fails(storeError("bucket", err))
		}
		if len(archives) == 0 {
			out.problem("archive", "cluster %s has none that is complete: see katoflow backup list %s --incomplete", in.From, in.From)
			return archive.Entry{}, out
		}
		ref = archives[0].Ref
	}
	entry, err := store.Entry(ctx, ref) // a list has no names of content
	if err != nil {
		return fails(storeError("bucket", err))
	}
	switch {
	case !entry.Complete || entry.Manifest == nil:
		out.problem("archive", "%s is not complete: %s", entry.Ref, entry.Reason)
		return archive.Entry{}, out
	case entry.Verified != nil && !entry.Verified.OK:
		out.problem("archive", "%s did not read back as it was written on %s: %s", entry.Ref, entry.Verified.At.UTC().Format(time.RFC3339), entry.Verified.Problem)
	}
	if entry.Manifest.Encrypted() {
		if problem := x.sealedArchive(ctx, s, store, *entry.Manifest, in.Mode); problem != "" {
			out.problem("archive", "%s %s", entry.Ref, problem)
		}
	}
	if c := entry.Manifest.Content; in.Rehearsal && (c == nil || len(c.List) == 0 && c.Orgs > 0) {
		out.problem("archive", "%s: its manifest does not say what it holds, so that nothing could be proven: rehearse one that was made with a controller in the inventory", entry.Ref)
	}
	return entry, out
}

// sealedArchive says why an encrypted archive cannot be imported, "" when it can: its first part is opened for that.
func (x *Archives) sealedArchive(ctx context.Context, s site, store *archive.Store, m archive.Manifest, mode operation.TransferMode) string {
	identities, err := archive.IdentitiesOf(s.file, s.cluster.S3, s.env)
	if err != nil {
		return "is encrypted: " + err.Error()
	}
	if problem := sealed(identities, mode); problem != "" {
		return problem
	}
	if err := store.CanDecrypt(ctx, m, identities); archive.IsKind(err, archive.KindDecrypt) {
		return "is encrypted to other keys than that of s3.identity: see its recipients with katoflow backup show " + s.cluster.Name + " " + m.Ref.Operation
	} else if err != nil {
		return "is encrypted and cannot be opened: " + err.Error()
	}
	return ""
}

// sameMachine holds the Core that the worker reaches against the one that the Core of the import reaches by that address, as kato will.
func (f *findings) sameMachine(cluster, address string, reached map[string]string) {
	if seen := reached[address]; seen != "" && f.boot != "" && seen != f.boot {
		f.problem(cluster, "its Core has the address %s in the inventory, and for the Core of the target that is another machine, which kato would read: give it a name or an address that means the same from there", remote.Escape(address))
	}
}

// examineArchive looks into the droplets of an archive in its bucket. A running cluster is not looked into.
func (x *Archives) examineArchive(ctx context.Context, in RestoreReadyInput, ref archive.Ref) examined {
	if in.Running {
		return examined{stopped: "a running cluster is not looked into"}
	}
	s, err := x.Source.site(in.From)
	if err != nil {
		return examined{stopped: oneLine(err.Error(), 200)}
	}
	store, err := s.store(x.Logger)
	if err != nil {
		return examined{stopped: oneLine(err.Error(), 200)}
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	identities, err := archive.IdentitiesOf(s.file, s.cluster.S3, s.env)
	if err != nil {
		return examined{stopped: oneLine(err.Error(), 200)}
	}
	r, err := store.Open(ctx, ref, archive.OpenOptions{Identities: identities})
	if err != nil {
		return examined{stopped: oneLine(err.Error(), 200)}
	}
	defer func() { _ = r.Close() }()
	return examine(ctx, r)
}

// readySource finds the running cluster ready to be read, as if it were an archive of what it has now. The size is that of its data, as far as it could be measured.
func (x *Archives) readySource(ctx context.Context, in RestoreReadyInput) (archive.Entry, findings) {
	var out findings
	s, err := x.Source.site(in.From)
	if err != nil {
		out.problem(in.From, "%s", failureOf(err).Message)
		return archive.Entry{}, out
	}
	// No folder of it is used: no node is the one of the export.
	r := ready{site: s, core: s.cluster.CoreNode(), folders: s.cluster.ExportSettings().DataFolders,
		in: ExportReadyInput{ExportInput: ExportInput{NodeInput: NodeInput{Operation: in.Operation}}, Mode: operation.TransferWorker}}
	nodes := s.cluster.Nodes
	found := make([]findings, len(nodes)+1)
	m := archive.Manifest{Mode: "cluster"}
	each(len(found), func(i int) {
		if i < len(nodes) {
			found[i] = x.readyNode(ctx, r, nodes[i])
			return
		}
		content, version, err := x.sourceContent(ctx, s)
		if err != nil && ctx.Err() == nil {
			found[i].problem("controller", "%s", oneLine(err.Error(), mostText))
		}
		m.Content, m.KatoVersion = content, version
	})
	for _, f := range found {
		for _, p := range f.problems {
			out.problem(in.From, "%s", p)
		}
		for _, w := range f.warnings {
			out.warning(in.From, "%s", w)
		}
		m.Size += f.data << 10
	}
	out.boot = found[slices.Index(nodes, r.core)].boot
	if m.Content == nil {
		return archive.Entry{}, out
	}
	return archive.Entry{Manifest: &m}, out
}

// sourceContent is what a running cluster has, and its version.
func (x *Archives) sourceContent(ctx context.Context, s site) (*archive.Content, string, error) {
	c, err := s.controller(x.Logger)
	if err != nil {
		return nil, "", err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, contentWithin)
	defer cancel()
	info, err := c.StackatoInfo(ctx)
	if err != nil {
		return nil, "", err
	}
	content, err := c.Content(ctx)
	if err != nil {
		return nil, "", err
	}
	return &content, info.VendorVersion, nil
}

// PrepareSourceInput names a running cluster that is to be imported.
type PrepareSourceInput struct {
	ExportInput
	Running string `json:"running"`
}

// PrepareSource makes the folder on the node of the import, as PrepareImport does, and writes down in it what the running cluster has before it is read: what comes back is held against
// that. Repeating it writes down what there is then.
//
// Errors: Controller when its Cloud Controller cannot be asked for 15 minutes; as PrepareExport.
func (x *Archives) PrepareSource(ctx context.Context, in PrepareSourceInput) (PrepareExportResult, error) {
	a := begin(ctx, "writing down what is there")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return PrepareExportResult{}, err
	}
	from, err := x.Source.site(in.Running)
	if err != nil {
		return PrepareExportResult{}, err
	}
	c, err := from.controller(x.Logger)
	if err != nil {
		return PrepareExportResult{}, controllerError(err)
	}
	defer c.Close()
	var content archive.Content
	err = a.patiently(controllerPatience, nil, func(ctx context.Context) (err error) {
		content, err = c.Content(ctx)
		return err
	})
	if err != nil {
		return PrepareExportResult{}, err
	}
	written, _ := json.Marshal(content) // names and numbers
	if len(written) > maxContent {
		return PrepareExportResult{}, operation.NewError(operation.Failure{Type: operation.ErrController, Message: fmt.Sprintf("what cluster %s has cannot be written down: its list is longer than %s",
			in.Running, operation.Size(maxContent))})
	}
	out := PrepareExportResult{Contents: countsOf(&content)}
	out.Place, err = x.place(a, s, t, in.ExportInput, written)
	return out, err
}

// targetState is what the Cloud Controller said of the cluster that is imported into.
type targetState struct {
	apps              int
	version, endpoint string
	// known are the roles that there are, and enabled those that some node has; nil when that was not learned.
	known, enabled map[string]bool
}

// readyTarget asks the Cloud Controller.
func (x *Archives) readyTarget(ctx context.Context, s site) (t targetState, out findings) {
	c, err := s.controller(x.Logger)
	if err == nil {
		defer c.Close()
		err = x.askTarget(ctx, c, &t, &out)
	}
	if err != nil && ctx.Err() == nil {
		out.problem("controller", "%s", err.Error())
	}
	return t, out
}

func (x *Archives) askTarget(ctx context.Context, c *controller.Client, t *targetState, out *findings) error {
	info, err := c.StackatoInfo(ctx)
	if err != nil {
		return err
	}
	t.version, t.endpoint = info.VendorVersion, info.Endpoint
	if info.MaintenanceMode {
		out.problem("controller", "maintenance mode is on, in which no app can be started: end it first")
	}
	if !info.LicenseAccepted {
		out.problem("controller", "the setup of the first user is not done, or the terms are not accepted: do that in the web console of %s first", remote.Escape(info.Endpoint))
	}
	if err := c.CheckAdmin(ctx); err != nil {
		return err
	}
	apps, err := c.Apps(ctx)
	if err != nil {
		return err
	}
	t.apps = len(apps)
	roles, err := c.Roles(ctx)
	if err != nil {
		return err
	}
	t.known, t.enabled = map[string]bool{}, map[string]bool{}
	for role := range roles.Available {
		t.known[role] = true
	}
	for _, of := range roles.Nodes {
		for _, role := range of {
			t.enabled[role] = true
		}
	}
	processes, err := c.Components(ctx)
	if err != nil {
		return err
	}
	var down []string
	for node, of := range processes {
		for process, state := range of {
			if state != "RUNNING" && state != controller.Rogue {
				down = append(down, fmt.Sprintf("%s: %s is %s", remote.Escape(node), remote.Escape(process), remote.Escape(state)))
			}
		}
	}
	slices.Sort(down)
	for i, line := range down {
		if i == 20 {
			out.problem("roles", "and %d more processes do not run", len(down)-i)
			break
		}
		out.problem("roles", "%s: every role is to be started before an import: kato start on that node", line)
	}
	return nil
}

var versionNumber = regexp.MustCompile(`\b[vV]?([0-9]+)\.([0-9]+)`)

// changesSince2 is what kato's import makes of data of version 2.x ("Upgrading" of the source page).
var changesSince2 = []string{
	"each user gets an organization of their own, and groups become organizations",
	"all apps and users come into a space default of their organization",
	"admin users become global admins; the AOK (LDAP) configuration is imported",
}

// ofVersion2 says whether data of a version of kato has to be changed by an import into 3.x.
func ofVersion2(version string) bool {
	number := versionNumber.FindStringSubmatch(version)
	return number != nil && number[1] == "2"
}

// judgeArchive holds the archive against the cluster.
func (f *findings) judgeArchive(of string, m archive.Manifest, t targetState) {
	if version := versionNumber.FindStringSubmatch(m.KatoVersion); ofVersion2(m.KatoVersion) {
		for _, change := range changesSince2 {
			f.warning(of, "it is of version %s: %s", m.KatoVersion, change)
		}
	} else if now := versionNumber.FindStringSubmatch(t.version); version != nil && now != nil && (version[1] != now[1] || version[2] != now[2]) {
		f.warning(of, "it is of version %s, and this cluster has %s", m.KatoVersion, t.version)
	}
	if m.Mode != "cluster" {
		f.warning(of, "it is of one node (%s), not of a whole cluster", m.Node)
	}
	if len(m.Include)+len(m.Exclude) > 0 {
		f.warning(of, "it is not of everything (included: %s; left out: %s)", strings.Join(m.Include, ", "), strings.Join(m.Exclude, ", "))
	}
	if m.Content == nil {
		f.warning(of, "its manifest does not say what it holds: what comes back cannot be held against anything")
		return
	}
	if from := m.Content.Endpoint; from != "" && t.endpoint != "" && from != t.endpoint {
		f.warning(of, "the API of its cluster is %s, and of this one %s: routes, links and connection data that have the old names in them keep them (--restage all makes anew what was written while apps were staged)",
			remote.Escape(oneLine(from, 200)), remote.Escape(oneLine(t.endpoint, 200)))
	}
	count, outside := map[string]int{}, []string{}
	for _, org := range m.Content.List {
		for _, space := range org.Spaces {
			for _, service := range space.Services {
				switch service.Service {
				case "":
				case controller.UserProvided:
					outside = append(outside, oneLine(org.Name+"/"+space.Name+"/"+service.Name, 200))
				default:
					count[service.Service]++
				}
			}
		}
	}
	if n := len(outside); n > 0 {
		if n > 3 {
			outside = append(outside[:3], fmt.Sprintf("and %d more", n-3))
		}
		f.warning(of, "%d user-provided services (%s): what they lead to, such as an external database, is not in the archive", n, strings.Join(outside, ", "))
	}
	var services []string
	for service := range count {
		services = append(services, service)
	}
	slices.Sort(services)
	for _, service := range services {
		switch {
		case t.known == nil || t.enabled[service]:
		case t.known[service]:
			f.problem("roles", "the archive has services of %s (%d), and no node has that role: enable it (kato role add %s), or they do not come back", oneLine(service, 60), count[service], oneLine(service, 60))
		default:
			f.warning(of, "its services of %s (%d) are of no role of this cluster: see to their data yourself", oneLine(service, 60), count[service])
		}
	}
}

// judgeRestage tells which of the apps that are to be staged anew the archive does not have.
func (f *findings) judgeRestage(patterns []string, c *archive.Content) {
	if len(patterns) > 0 && (c == nil || len(c.List) == 0 && c.Apps > 0) {
		f.problem("restage", "the archive does not say which apps it has, so that those of the file would not be found: restore it, and then katoflow apps redeploy")
	}
	if c == nil || len(c.List) == 0 {
		return
	}
	var unknown []string
	for _, p := range patterns {
		if !slices.ContainsFunc(c.List, func(o archive.Org) bool {
			return slices.ContainsFunc(o.Spaces, func(s archive.Space) bool {
				return slices.ContainsFunc(s.Apps, func(a archive.App) bool { return operation.MatchApp(p, o.Name, s.Name, a.Name) })
			})
		}) {
			unknown = append(unknown, oneLine(p, 200))
		}
	}
	if n := len(unknown); n > 0 {
		if n > 5 {
			unknown = append(unknown[:5], fmt.Sprintf("and %d more", n-5))
		}
		f.problem("restage", "the archive has no app %s: correct the file", strings.Join(unknown, ", "))
	}
}

// PrepareImport makes the folder on the node that the archive is fetched into. Repeating it is harmless: what was fetched stays.
//
// Errors: as PrepareExport.
func (x *Archives) PrepareImport(ctx context.Context, in ExportInput) (PrepareExportResult, error) {
	a := begin(ctx, "preparing")
	defer a.finish()
	s, t, err := x.where(in)
	if err != nil {
		return PrepareExportResult{}, err
	}
	place, err := x.place(a, s, t, in, nil)
	return PrepareExportResult{Place: place}, err
}

// EmptyScratchInput names the archive that a scratch cluster is made ready for.
type EmptyScratchInput struct {
	Operation Operation   `json:"operation"`
	Archive   archive.Ref `json:"archive"`
}

// EmptyScratchResult is what was deleted.
type EmptyScratchResult struct {
	// Orgs that were there, with all that was in them.
	Orgs int `json:"orgs,omitempty"`
}

// EmptyScratch deletes in a scratch cluster the organizations that the archive has, with all that is in them: kato's import leaves what is there in its place (whether it does is not
// known, kato.md §3.2), and what an earlier rehearsal has brought would prove this one. Nothing else is deleted. Repeating it is harmless.
//
// Errors: BadInput when the cluster is no scratch cluster by now, or that of the archive; Controller when it cannot be asked for 15 minutes, or refuses; S3 when the manifest cannot
// be read.
func (x *Archives) EmptyScratch(ctx context.Context, in EmptyScratchInput) (EmptyScratchResult, error) {
	a := begin(ctx, "emptying the scratch cluster")
	defer a.finish()
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return EmptyScratchResult{}, err
	}
	if problems := scratchProblems(s.file, s.cluster, in.Archive.Cluster); len(problems) > 0 {
		return EmptyScratchResult{}, badInput(problems...)
	}
	recorded, err := x.recorded(a, in.Archive)
	if err != nil {
		return EmptyScratchResult{}, err
	}
	if recorded == nil {
		return EmptyScratchResult{}, operation.NewError(operation.Failure{Type: operation.ErrArchive, Message: in.Archive.String() + ": its manifest does not say what it holds"})
	}
	meant := map[string]bool{}
	for _, org := range recorded.List {
		meant[org.Name] = true
	}
	c, err := s.controller(x.Logger)
	if err != nil {
		return EmptyScratchResult{}, controllerError(err)
	}
	defer c.Close()
	deleted := map[string]bool{}
	notGone := &controller.Error{Kind: controller.KindOther, Message: "cloud controller: organizations of the archive are still there after they were deleted: delete them by hand"}
	err = a.patiently(controllerPatience, func(err error) bool { return errors.Is(err, notGone) }, func(ctx context.Context) error {
		orgs, err := c.Organizations(ctx)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(orgs, func(o controller.Organization) bool { return !meant[o.Name] })
		for i, org := range left {
			a.phase(fmt.Sprintf("delete organization %d of %d", i+1, len(left)))
			if err := c.DeleteOrganization(ctx, org.GUID); err != nil {
				return err
			}
			deleted[org.GUID] = true
		}
		// Read once more: a controller may delete as a job.
		if orgs, err = c.Organizations(ctx); err != nil {
			return err
		}
		if slices.ContainsFunc(orgs, func(o controller.Organization) bool { return meant[o.Name] }) {
			return notGone
		}
		return nil
	})
	if err != nil && a.ctx.Err() == nil {
		f := *operation.FailureOf(err)
		if f.Type == operation.ErrAppRefused { // it is about no app
			f.Type, f.Message = operation.ErrController, oneLine("organizations of the archive could not be deleted: "+f.Message, maxMessage)
			err = operation.NewError(f)
		}
	}
	return EmptyScratchResult{Orgs: len(deleted)}, err
}

// Import runs `kato data import` as the job `import` (kato.md §3.2), at most once a try. It is never interrupted, also not by a cancel. Exit code 0 is not believed: words
// of an error are in the result, for what is read afterwards, and so are the apps that kato lists as failed.
//
// Errors: RemoteExit when kato failed; Timeout when it takes longer than Timeout and goes on; Interrupted when the node rebooted; Lost; Unreachable and what package remote tells.
func (x *Archives) Import(ctx context.Context, in ImportInput) (ImportResult, error) {
	a := begin(ctx, "import")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return ImportResult{}, err
	}
	source, err := s.importSource(in)
	if err != nil {
		return ImportResult{}, err
	}
	job := x.job(in.ExportInput, t, s.importJob(in, source), in.Timeout.D())
	result, said, err := x.ran(a, in.ExportInput, t, job, "the node rebooted in the middle of the import: retry imports again", maxImportSaid)
	if err != nil || !result.Started {
		return ImportResult{JobResult: result}, err
	}
	failed := kato.ParseFailedApps([]byte(said))
	out := ImportResult{JobResult: result, Said: refusal(withoutApps(said, failed))}
	for _, app := range failed[:min(len(failed), operation.MaxMissing)] {
		out.Failed = append(out.Failed, oneLine(app.String(), 300))
	}
	return out, nil
}

// withoutApps leaves out the lines that name an app whole which is listed as failed: those are seen to one by one. A line with spaces in its names stays: it may as well
// be an error that has a path in it.
func withoutApps(said string, failed []kato.FailedApp) string {
	if len(failed) == 0 {
		return said
	}
	var kept strings.Builder
	for line := range strings.Lines(said) {
		if !slices.ContainsFunc(failed, func(a kato.FailedApp) bool {
			return a.Org != "" && !strings.ContainsAny(a.Org+a.Space, " \t") && strings.Contains(line, a.String())
		}) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// maxImportSaid is how much of the end of an import's output is looked at, in bytes: the list of a thousand apps that failed.
const maxImportSaid = 256 << 10

// Restored reads what the Cloud Controller has after an import, and holds it against the manifest. It changes nothing.
//
// Errors: Controller when it cannot be asked for 15 minutes; S3 when the manifest cannot be read.
func (x *Archives) Restored(ctx context.Context, in RestoredInput) (RestoredResult, error) {
	a := begin(ctx, "reading what came back")
	defer a.finish()
	s, err := x.Source.site(in.Operation.Cluster)
	if err != nil {
		return RestoredResult{}, err
	}
	var recorded *archive.Content
	if in.Staged != nil {
		recorded, err = x.writtenDown(a, s, *in.Staged)
	} else {
		recorded, err = x.recorded(a, in.Archive)
	}
	if err != nil {
		return RestoredResult{}, err
	}
	c, err := s.controller(x.Logger)
	if err != nil {
		return RestoredResult{}, controllerError(err)
	}
	defer c.Close()
	var now archive.Content
	var tree []controller.PlacedApp
	err = a.patiently(controllerPatience, nil, func(ctx context.Context) (err error) {
		if now, err = c.Content(ctx); err == nil {
			tree, err = c.AppTree(ctx)
		}
		return err
	})
	if err != nil {
		return RestoredResult{}, err
	}
	out := RestoredResult{Found: countsOf(&now)}
	if recorded != nil {
		missing := missingOf(*recorded, now)
		out.Missing = missing[:min(len(missing), operation.MaxMissing)]
		out.More = len(missing) - len(out.Missing)
	}
	if err := x.sortApps(a, c, in, recorded, tree, &out); err != nil {
		return RestoredResult{}, err
	}
	return out, nil
}

// controllerPatience is how long a Cloud Controller may be away after an import, which restarts parts of it.
const controllerPatience = 15 * time.Minute

// recorded is the content of the manifest, nil when it has none.
func (x *Archives) recorded(a *attempt, ref archive.Ref) (*archive.Content, error) {
	s, err := x.Source.site(ref.Cluster)
	if err != nil {
		return nil, err
	}
	store, err := s.store(x.Logger)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	m, err := store.Manifest(a.ctx, ref)
	if a.ctx.Err() != nil {
		return nil, ended(a.ctx)
	}
	if err != nil {
		return nil, storeError("bucket", err)
	}
	return m.Content, nil
}

// writtenDown is what PrepareSource has written.
func (x *Archives) writtenDown(a *attempt, s site, in ExportInput) (content *archive.Content, err error) {
	t, err := s.target(in.Node.Name)
	if err != nil {
		return nil, err
	}
	err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		content, err = x.stagedContent(ctx, t, in)
		return err
	})
	if err == nil && content == nil {
		err = fail(operation.ErrLost, t.host.Name, "what the running cluster had was written down in %s and is not there any more: what came back cannot be held against it", in.Place)
	}
	return content, err
}

// missingOf lists what was recorded and is not there: an org alone when all of it is missing, and so on.
func missingOf(recorded, now archive.Content) []string {
	var missing []string
	miss := func(what string, names ...string) {
		missing = append(missing, what+" "+oneLine(strings.Join(names, "/"), 300))
	}
	for _, org := range recorded.List {
		i := slices.IndexFunc(now.List, func(o archive.Org) bool { return o.Name == org.Name })
		if i < 0 {
			miss("org", org.Name)
			continue
		}
		for _, space := range org.Spaces {
			j := slices.IndexFunc(now.List[i].Spaces, func(s archive.Space) bool { return s.Name == space.Name })
			if j < 0 {
				miss("space", org.Name, space.Name)
				continue
			}
			there := now.List[i].Spaces[j]
			apps, services := map[string]bool{}, map[string]bool{}
			for _, app := range there.Apps {
				apps[app.Name] = true
			}
			for _, service := range there.Services {
				services[service.Name] = true
			}
			for _, app := range space.Apps {
				if !apps[app.Name] {
					miss("app", org.Name, space.Name, app.Name)
				}
			}
			for _, service := range space.Services {
				if !services[service.Name] {
					miss("service", org.Name, space.Name, service.Name)
				}
			}
		}
	}
	for _, user := range recorded.Users {
		if len(now.Users) > 0 && !slices.Contains(now.Users, user) {
			miss("user", user)
		}
	}
	return missing
}

// sortApps says of every app how it is.
func (x *Archives) sortApps(a *attempt, c *controller.Client, in RestoredInput, recorded *archive.Content, tree []controller.PlacedApp, out *RestoredResult) error {
	states := map[string]string{} // by ORG/SPACE/APP, as recorded
	if recorded != nil {
		for _, org := range recorded.List {
			for _, space := range org.Spaces {
				for _, app := range space.Apps {
					states[org.Name+"/"+space.Name+"/"+app.Name] = app.State
				}
			}
		}
	}
	named := namedApps(in.Failed, tree, states, out)
	var started []controller.PlacedApp
	bytes, running := 0, 0
	for _, app := range tree {
		name := app.Org + "/" + app.Space + "/" + app.Name
		state, known := states[name]
		if !known && (recorded != nil || !named[name]) {
			continue // nobody says that it is the archive's
		}
		if bytes += bytesOf(placed(app)); bytes > operation.MaxAppsBytes || len(started)+len(out.Stopped)+len(out.Broken) == operation.MaxApps {
			out.Notes = append(out.Notes, fmt.Sprintf("more apps than one operation takes were imported: look at the others with katoflow apps list %s", in.Operation.Cluster))
			break
		}
		switch {
		case known && state != controller.Started:
			if app.State == controller.Started {
				running++
			}
			out.Stopped = append(out.Stopped, placed(app))
		case app.State != controller.Started:
			out.Broken = append(out.Broken, operation.AppResult{App: placed(app), Outcome: operation.AppFailed, Reason: "it was not started by the import", ToDo: "restage it"})
		case named[name]:
			out.Broken = append(out.Broken, operation.AppResult{App: placed(app), Outcome: operation.AppFailed, Reason: "kato's import could not redeploy it", ToDo: "restage it"})
		default:
			started = append(started, app)
		}
	}
	if running > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d apps that were stopped before the export are started now", running))
	}
	if recorded == nil {
		out.Notes = append(out.Notes, fmt.Sprintf("the archive does not say which apps it has: look at all of them with katoflow apps list %s", in.Operation.Cluster))
	}
	words := make([]string, len(started))
	var wait sync.WaitGroup
	slots := make(chan struct{}, asksAtOnce)
	for i, app := range started {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			running, word := health(c.AppInstances(a.ctx, app.GUID))
			if word == "" && running >= app.Instances {
				word = "running"
			}
			words[i] = word
		})
	}
	wait.Wait()
	if a.ctx.Err() != nil {
		return ended(a.ctx)
	}
	for i, app := range started {
		switch words[i] {
		case "running":
			out.Running = append(out.Running, placed(app))
		case "staging failed", "stopped":
			out.Broken = append(out.Broken, operation.AppResult{App: placed(app), Outcome: operation.AppFailed, Reason: "after the import: " + words[i], ToDo: "see its log, correct it, and push or restage it"})
		default:
			out.Waiting = append(out.Waiting, placed(app))
		}
	}
	return nil
}

// KeepRehearsalInput is what a rehearsal found out.
type KeepRehearsalInput struct {
	Operation Operation   `json:"operation"`
	Archive   archive.Ref `json:"archive"`
	// Manifest is the SHA-256 of the manifest that what came back was held against.
	Manifest string `json:"manifest"`
	// Rehearsal, with times as UTC, RFC 3339.
	Rehearsal operation.ArchiveRehearsal `json:"rehearsal"`
}

// KeepRehearsal remembers beside an archive, in its own bucket, what a rehearsal found, and returns what is remembered then: a later rehearsal stays. Repeating it writes the same
// again.
//
// Errors: S3; Archive when the archive is not there any more, or is another one.
func (x *Archives) KeepRehearsal(ctx context.Context, in KeepRehearsalInput) (operation.ArchiveRehearsal, error) {
	a := begin(ctx, "keeping what the rehearsal found")
	defer a.finish()
	s, err := x.Source.site(in.Archive.Cluster)
	if err != nil {
		return operation.ArchiveRehearsal{}, err
	}
	store, err := s.store(x.Logger)
	if err != nil {
		return operation.ArchiveRehearsal{}, err
	}
	defer store.Close()
	r := in.Rehearsal
	at, err := time.Parse(time.RFC3339, r.At)
	if err != nil {
		return operation.ArchiveRehearsal{}, operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: "the time of the rehearsal is no time: " + oneLine(err.Error(), mostText)})
	}
	kept, err := store.KeepRehearsal(a.ctx, in.Archive, archive.Rehearsal{At: at, OK: r.OK, Problem: oneLine(r.Problem, mostText), Operation: r.Operation, Cluster: r.Cluster,
		AppsRunning: r.AppsRunning, AppsFailed: r.AppsFailed, KatoVersion: r.KatoVersion, PlatformVersion: r.PlatformVersion, ManifestSHA256: in.Manifest, Who: r.Who})
	switch {
	case a.ctx.Err() != nil:
		return operation.ArchiveRehearsal{}, ended(a.ctx)
	case archive.IsKind(err, archive.KindNotFound):
		return operation.ArchiveRehearsal{}, operation.NewError(operation.Failure{Type: operation.ErrArchive, Message: oneLine("bucket: "+err.Error(), maxMessage)})
	case err != nil:
		return operation.ArchiveRehearsal{}, storeError("bucket", err)
	}
	return *rehearsalOf(&kept), nil
}

// namedApps are the apps of a cluster that kato has named as failed, by ORG/SPACE/APP. One that it named without its place counts when only one is meant.
func namedApps(failed []string, tree []controller.PlacedApp, states map[string]string, out *RestoredResult) map[string]bool {
	named := map[string]bool{}
	for _, name := range failed {
		if strings.Contains(name, "/") {
			named[name] = true
			continue
		}
		var meant []string
		for _, app := range tree {
			place := app.Org + "/" + app.Space + "/" + app.Name
			if _, known := states[place]; app.Name == name && (known || len(states) == 0) {
				meant = append(meant, place)
			}
		}
		if len(meant) == 1 {
			named[meant[0]] = true
		} else if len(meant) > 1 && len(out.Notes) < 5 {
			out.Notes = append(out.Notes, fmt.Sprintf("kato named %s as failed, and %d apps are called so: see which one it is", oneLine(name, 100), len(meant)))
		}
	}
	return named
}

// PlanRestoreInput asks for the commands of a dry run.
type PlanRestoreInput struct {
	ImportInput
	Archive archive.Ref             `json:"archive"`
	Mode    operation.TransferMode  `json:"mode,omitempty"`
	Restage operation.RestagePolicy `json:"restage,omitempty"`
	// Maintenance mode of a running cluster that is imported.
	Maintenance bool `json:"maintenance,omitempty"`
	// Rehearsal is remembered beside the archive.
	Rehearsal bool `json:"rehearsal,omitempty"`
}

// PlanRestore returns the commands of a dry run, made by the same code as those of a real one. It reaches no node.
func (x *Archives) PlanRestore(ctx context.Context, in PlanRestoreInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	folder := s.staging(in.ExportInput)
	if folder[0] == "" {
		folder[0] = "~/katoflow-exports"
	}
	in.Place = path.Join(folder...)
	how := map[operation.TransferMode]string{operation.TransferWorker: "by the worker", operation.TransferDirect: "by the node's curl"}[in.Mode]
	if how == "" {
		how = "by the node's curl where it reaches S3, else by the worker"
	}
	after := map[operation.RestagePolicy]string{operation.RestageAll: "of every app that was started", operation.RestageNone: ""}
	restage, given := after[in.Restage]
	if !given {
		restage = "of apps that do not run then"
	}
	source, err := s.importSource(in.ImportInput)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	commands := []operation.PlannedCommand{
		{Step: operation.StepFetch, Command: "download of " + in.Archive.String() + " to " + in.staged(), Note: how},
		{Step: operation.StepCheck, Command: remote.Quote([]string{"tar", "tzf", in.staged()}), Note: "with its size and SHA-256, which are the manifest's"},
		{Step: operation.StepEmpty, Command: "DELETE /v2/organizations/GUID?recursive=true", Note: "of those that the archive has, in " + s.cluster.Name},
		{Step: operation.StepImport, Command: show(s.importJob(in.ImportInput, source)), Note: "in a login shell; it is not interrupted"},
		{Step: operation.StepVerify, Command: "GET /v2/organizations, spaces, apps, service_instances", Note: "held against the manifest"},
		{Step: operation.StepTidy, Command: remote.Quote([]string{"rm", "-rf", in.Place})},
	}
	if in.Running != "" {
		how := "its lock and its nodes' leases"
		if in.Maintenance {
			how += ", and maintenance mode on"
		}
		commands = append([]operation.PlannedCommand{{Step: operation.StepHold, Command: "cluster " + in.Running + " is held", Note: how + ", until kato has read it"}}, commands[2:]...)
	}
	if !in.Rehearsal {
		commands = slices.DeleteFunc(commands, func(c operation.PlannedCommand) bool { return c.Step == operation.StepEmpty })
	}
	if restage != "" {
		commands = append(commands, operation.PlannedCommand{Step: operation.StepApps, Command: "POST /v2/apps/GUID/restage", Note: restage})
	}
	if in.Rehearsal {
		commands = append(commands, operation.PlannedCommand{Step: operation.StepRecord, Command: "PUT rehearsed.json", Note: "beside " + in.Archive.String() + ": what came of it"})
	}
	return PlanCommandsResult{Plans: []operation.CommandPlan{{Nodes: []string{t.node.Name}, Commands: commands}}}, nil
}
