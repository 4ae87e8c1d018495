package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones of retentions, on machines that have none

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Lister is the part of a Temporal client that Catalog needs.
type Lister interface {
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
}

// Catalog looks after the archives in a cluster's bucket. It reaches no node. Its fields are set by the worker and not changed afterwards.
//
// What fails there is not tried again by Temporal: the store has made its attempts. Only an attempt that ended with its worker is.
type Catalog struct {
	Source *Source
	// Operations says which operations run.
	Operations Lister
	Logger     *zap.Logger
	// LeftoverAge is how old an upload is when it can be a dead operation's (0 = 24 h): older than what began since the living were asked for.
	LeftoverAge time.Duration
}

const (
	// lookAttempts at a request of what a person waits for: half a minute where nobody answers, a few seconds where the answer is a fault.
	lookAttempts = 5
	// verifyAttempts at a request in the middle of reading an archive back, which would begin again: ten minutes and more.
	verifyAttempts = 60
	// defaultLeftoverAge is in the commands' help.
	defaultLeftoverAge = 24 * time.Hour
	// What a result may take in a history, in bytes.
	archivesBudget  = 256 << 10
	keptBudget      = 128 << 10
	prunedBudget    = 200 << 10
	leftoversBudget = 32 << 10
	contentBudget   = 96 << 10
	nodesBudget     = 64 << 10
	// mostText of a text that stands in a manifest.
	mostText = 300
)

// store opens the store of a cluster's archives. The error is BadInput.
func (c *Catalog) store(cluster string, attempts int) (*archive.Store, error) {
	file, err := c.Source.load()
	if err != nil {
		return nil, badInput(problemsOf(err)...)
	}
	of, err := file.Cluster(cluster)
	if err != nil {
		return nil, badInput(err.Error())
	}
	if of.S3 == nil {
		return nil, badInput(fmt.Sprintf("cluster %s has no s3 section in the worker's inventory (%s): write the bucket of its archives there",
			of.Name, remote.Escape(file.Path())))
	}
	cfg, err := archive.ConfigOf(file, of.S3, c.Source.env)
	if err != nil {
		return nil, badInput(fmt.Sprintf("cluster %s: %v", of.Name, err))
	}
	if attempts > 0 {
		cfg.Attempts = attempts
	}
	store, err := archive.Open(cfg, c.Logger)
	if err != nil {
		return nil, badInput(fmt.Sprintf("cluster %s: s3: %v", of.Name, err))
	}
	return store, nil
}

// failed is the error of an attempt that the store did not go on with.
func (c *Catalog) failed(a *attempt, err error) error {
	if cancelled(a.ctx) {
		return temporal.NewCanceledError()
	}
	if a.ctx.Err() != nil {
		return temporal.NewApplicationErrorWithOptions("the attempt ended before its work; the next one begins it again", operation.ErrWorker,
			temporal.ApplicationErrorOptions{NextRetryDelay: time.Second, Category: temporal.ApplicationErrorCategoryBenign})
	}
	kind := operation.ErrS3
	switch archive.KindOf(err) {
	case archive.KindBadInput, archive.KindNotFound:
		kind = operation.ErrBadInput
	case archive.KindCorrupt, archive.KindIncomplete, archive.KindLocked, archive.KindDecrypt:
		kind = operation.ErrArchive
	case "":
		kind = operation.ErrInternal
	}
	return operation.NewError(operation.Failure{Type: kind, Message: oneLine(err.Error(), maxMessage)})
}

// ArchivePlace is where the archives of a cluster are, and who is told of operations on them.
type ArchivePlace struct {
	Bucket string `json:"bucket"`
	Prefix string `json:"prefix,omitempty"`
	// NotifyOn are the events the site wants to hear of: parked, failed, done.
	NotifyOn []string `json:"notifyOn,omitempty"`
}

// ClusterInput names a cluster.
type ClusterInput struct {
	Cluster string `json:"cluster"`
}

// LocateArchives checks that the worker's inventory knows the cluster's bucket and its credentials. It asks nothing of the network. The error is BadInput,
// not retryable.
func (c *Catalog) LocateArchives(ctx context.Context, in ClusterInput) (ArchivePlace, error) {
	a := begin(ctx, "inventory")
	defer a.finish()
	store, err := c.store(in.Cluster, 0)
	if err != nil {
		return ArchivePlace{}, err
	}
	store.Close()
	s, err := c.Source.site(in.Cluster)
	if err != nil {
		return ArchivePlace{}, err
	}
	place := ArchivePlace{Bucket: s.cluster.S3.Bucket, Prefix: s.cluster.S3.Prefix}
	if n := s.cluster.Notify; n.Webhook != nil || len(n.Command) > 0 {
		place.NotifyOn = n.On
	}
	return place, nil
}

// ListArchives returns the archives of a cluster and, apart, what is not one, the newest first and bounded. It reads only.
func (c *Catalog) ListArchives(ctx context.Context, in operation.BackupListInput) (operation.ArchiveList, error) {
	a := begin(ctx, "list archives")
	defer a.finish()
	limit := in.Limit
	if limit == 0 {
		limit = operation.DefaultArchives
	}
	if limit < 1 || limit > operation.MaxArchives {
		return operation.ArchiveList{}, badInput(fmt.Sprintf("limit %d: write a number from 1 to %d", in.Limit, operation.MaxArchives))
	}
	store, err := c.store(in.Cluster, lookAttempts)
	if err != nil {
		return operation.ArchiveList{}, err
	}
	defer store.Close()
	archives, incomplete, err := store.List(a.ctx, in.Cluster)
	if err != nil {
		return operation.ArchiveList{}, c.failed(a, err)
	}
	s, err := c.Source.site(in.Cluster)
	if err != nil {
		return operation.ArchiveList{}, err
	}
	out := operation.ArchiveList{Bucket: s.cluster.S3.Bucket, Prefix: s.cluster.S3.Prefix, Archives: []operation.Archive{}}
	list, more := bounded(archives, limit, archivesBudget, archiveOf)
	out.Archives, out.More = append(out.Archives, list...), more
	out.Incomplete, out.MoreIncomplete = bounded(incomplete, limit, archivesBudget, archiveOf)
	return out, nil
}

// bounded turns the first entries into rows, at most so many and of at most so many bytes, and says how many are left.
func bounded[E, R any](entries []E, limit, budget int, row func(E) R) (rows []R, more int) {
	for i, e := range entries {
		r := row(e)
		text, err := json.Marshal(r)
		if budget -= len(text) + 1; err != nil || budget < 0 || i == limit {
			return rows, len(entries) - i
		}
		rows = append(rows, r)
	}
	return rows, 0
}

// ref is one archive of a cluster; of LatestArchive it is the newest complete one. The error is the activity's.
func (c *Catalog) ref(a *attempt, store *archive.Store, cluster, name string) (archive.Ref, error) {
	if name != operation.LatestArchive {
		if err := operation.CheckArchive(name); err != nil {
			return archive.Ref{}, badInput(err.Error())
		}
		return archive.Ref{Cluster: cluster, Operation: name}, nil
	}
	archives, incomplete, err := store.List(a.ctx, cluster)
	switch {
	case err != nil:
		return archive.Ref{}, c.failed(a, err)
	case len(archives) > 0:
		return archives[0].Ref, nil
	case len(incomplete) > 0:
		return archive.Ref{}, badInput(fmt.Sprintf("cluster %s has no archive: what is there is not complete; see katoflow backup list %s --incomplete", cluster, cluster))
	}
	return archive.Ref{}, badInput(fmt.Sprintf("cluster %s has no archive: make one with katoflow backup create %s", cluster, cluster))
}

// ShowArchive returns everything about one archive, bounded: the parts stay in the manifest. It reads only.
func (c *Catalog) ShowArchive(ctx context.Context, in operation.BackupShowInput) (operation.ArchiveDetails, error) {
	a := begin(ctx, "look at the archive")
	defer a.finish()
	store, err := c.store(in.Cluster, lookAttempts)
	if err != nil {
		return operation.ArchiveDetails{}, err
	}
	defer store.Close()
	ref, err := c.ref(a, store, in.Cluster, in.Archive)
	if err != nil {
		return operation.ArchiveDetails{}, err
	}
	entry, err := store.Entry(a.ctx, ref)
	if err != nil {
		return operation.ArchiveDetails{}, c.failed(a, err)
	}
	lock, err := store.Lock(a.ctx, ref)
	if err != nil {
		return operation.ArchiveDetails{}, c.failed(a, err)
	}
	s, err := c.Source.site(in.Cluster)
	if err != nil {
		return operation.ArchiveDetails{}, err
	}
	out := operation.ArchiveDetails{Archive: archiveOf(entry), Bucket: s.cluster.S3.Bucket, Lock: lockOf(lock)}
	out.Key, out.ManifestKey = store.Key(ref)
	if entry.Proven() {
		all, _, err := store.List(a.ctx, in.Cluster)
		if err != nil {
			return operation.ArchiveDetails{}, c.failed(a, err)
		}
		out.LastProven = archive.LastProven(all)[ref]
	}
	if m := entry.Manifest; m != nil {
		describe(&out, *m)
	}
	return out, nil
}

// describe adds what stands in the manifest only.
func describe(out *operation.ArchiveDetails, m archive.Manifest) {
	out.SHA256, out.Checksum, out.Parts, out.PartSize = m.SHA256, m.Checksum, len(m.Parts), m.PartSize
	out.Recipients = shortList(m.Recipients, 20)
	out.Platform, out.PlatformVersion = shortText(m.Platform), shortText(m.PlatformVersion)
	out.KatoVersion, out.ExportFile = shortText(m.KatoVersion), shortText(m.ExportFile)
	var names []string
	for name := range m.Roles {
		names = append(names, name)
	}
	slices.Sort(names)
	out.Nodes, out.MoreNodes = bounded(names, len(names), nodesBudget, func(name string) operation.PlannedNode {
		return operation.PlannedNode{Name: shortText(name), Roles: shortList(m.Roles[name], 50)}
	})
	if m.Content == nil {
		return
	}
	c := m.Content
	out.Content = &operation.ArchiveContent{Orgs: c.Orgs, Spaces: c.Spaces, Apps: c.Apps, AppsStarted: c.AppsStarted, Instances: c.Instances,
		Services: c.Services, Users: len(c.Users), Endpoint: shortText(c.Endpoint)}
	var apps []operation.ArchivedApp
	var services []operation.ArchivedService
	for _, org := range c.List {
		for _, space := range org.Spaces {
			for _, app := range space.Apps {
				apps = append(apps, operation.ArchivedApp{Org: shortText(org.Name), Space: shortText(space.Name), Name: shortText(app.Name), State: shortText(app.State),
					Instances: app.Instances, Buildpack: shortText(app.Buildpack)})
			}
			for _, service := range space.Services {
				services = append(services, operation.ArchivedService{Org: shortText(org.Name), Space: shortText(space.Name), Name: shortText(service.Name),
					Service: shortText(service.Service), Plan: shortText(service.Plan)})
			}
		}
	}
	out.Content.AppList, out.Content.MoreApps = bounded(apps, len(apps), contentBudget, func(app operation.ArchivedApp) operation.ArchivedApp { return app })
	out.Content.ServiceList, out.Content.MoreServices = bounded(services, len(services), contentBudget,
		func(service operation.ArchivedService) operation.ArchivedService { return service })
}

// VerifyArchiveInput names the archive that is read back.
type VerifyArchiveInput struct {
	Operation Operation `json:"operation"`
	Archive   string    `json:"archive"`
	Who       string    `json:"who,omitempty"`
}

// VerifyArchiveResult is what reading it back found. An archive that does not agree is a result, not an error.
type VerifyArchiveResult struct {
	Verification operation.ArchiveVerification `json:"verification"`
	Notes        []string                      `json:"notes,omitempty"`
}

// VerifyArchive reads an archive back whole, compares every part and the whole with its manifest, and leaves beside it what it found. An encrypted archive
// is compared as it is stored: no secret key comes here. It can be repeated, and an attempt after a worker's death reads it from the beginning. Errors: Archive when
// it is not complete; S3.
func (c *Catalog) VerifyArchive(ctx context.Context, in VerifyArchiveInput) (VerifyArchiveResult, error) {
	a := begin(ctx, "read the archive back")
	defer a.finish()
	var out VerifyArchiveResult
	store, err := c.store(in.Operation.Cluster, verifyAttempts)
	if err != nil {
		return out, err
	}
	defer store.Close()
	ref, err := c.ref(a, store, in.Operation.Cluster, in.Archive)
	if err != nil {
		return out, err
	}
	if a.again {
		note := "it was read again from the beginning, because the worker that read it before ended"
		if a.previous.Phase != "" {
			note += " (" + oneLine(a.previous.Phase, 100) + ")"
		}
		out.Notes = notes(note)
	}
	entry, err := store.Entry(a.ctx, ref)
	if err != nil {
		return out, c.failed(a, err)
	}
	of := operation.Size(entry.Size)
	found, err := store.Verify(a.ctx, ref, nil, in.Who, func(read int64) { a.phase(operation.Size(read) + " of " + of + " read") })
	out.Verification = *verificationOf(&found)
	switch {
	case err == nil || archive.IsKind(err, archive.KindCorrupt) && found.Problem != "":
		return out, nil
	case found.OK && a.ctx.Err() == nil:
		out.Notes = append(out.Notes, oneLine("that it was verified could not be remembered in the bucket: "+err.Error(), mostText))
		return out, nil
	}
	return VerifyArchiveResult{}, c.failed(a, err)
}

// DeleteArchiveInput names the archive that is deleted.
type DeleteArchiveInput struct {
	Operation Operation `json:"operation"`
	Archive   string    `json:"archive"`
	// Force also deletes what is not complete.
	Force bool `json:"force,omitempty"`
}

// DeleteArchive deletes one archive, its manifest first. It can be repeated: what an attempt before has begun is brought to its end. What an operation that still
// runs is making stays: the error is ClusterBusy. Others: BadInput when there is none, Archive when it is not complete and not forced, or when object lock keeps
// it, with the date; S3.
func (c *Catalog) DeleteArchive(ctx context.Context, in DeleteArchiveInput) error {
	a := begin(ctx, "delete the archive")
	defer a.finish()
	if err := operation.CheckArchive(in.Archive); err != nil || in.Archive == operation.LatestArchive {
		return badInput(fmt.Sprintf("archive %q is not deleted by that name: write the id of the operation that made it", operation.Shorten(in.Archive, 80)))
	}
	store, err := c.store(in.Operation.Cluster, 0)
	if err != nil {
		return err
	}
	defer store.Close()
	living, err := c.living(a, in.Operation.Cluster)
	if err != nil {
		return err
	}
	if living[in.Archive] {
		return operation.NewError(operation.Failure{Type: operation.ErrClusterBusy, Message: fmt.Sprintf(
			"archive %s is not deleted: operation %s still runs; wait for it, or end it with katoflow op cancel %s", in.Archive, in.Archive, in.Archive)})
	}
	// After an interrupted attempt the manifest is gone and the rest may be there, or nothing is.
	err = store.Delete(a.ctx, archive.Ref{Cluster: in.Operation.Cluster, Operation: in.Archive}, in.Force || a.again)
	if err != nil {
		return c.failed(a, err)
	}
	return nil
}

// living are the ids of the cluster's operations that run. The error is the activity's, and retryable.
func (c *Catalog) living(a *attempt, cluster string) (map[string]bool, error) {
	out := map[string]bool{}
	request := &workflowservice.ListWorkflowExecutionsRequest{PageSize: 200,
		Query: fmt.Sprintf("WorkflowId STARTS_WITH %q AND ExecutionStatus = %q", strings.TrimSuffix(operation.WorkflowID(cluster, "", ""), "/"), "Running")}
	for {
		answer, err := c.Operations.ListWorkflow(a.ctx, request)
		if err != nil {
			if a.ctx.Err() != nil {
				return nil, c.failed(a, err)
			}
			return nil, temporal.NewApplicationErrorWithOptions(oneLine("which operations run cannot be asked: "+err.Error(), maxMessage),
				operation.ErrInternal, temporal.ApplicationErrorOptions{})
		}
		for _, e := range answer.GetExecutions() {
			out[operation.IDFromWorkflow(e.GetExecution().GetWorkflowId())] = true
		}
		if request.NextPageToken = answer.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return out, nil
		}
	}
}

// --- prune -------------------------------------------------------------------------------------------------------------------------------

// PlanPruneResult is what a retention would do.
type PlanPruneResult struct {
	Prune operation.PruneReport `json:"prune"`
	Notes []string              `json:"notes,omitempty"`
}

// retention is a retention as the store takes it. The error is BadInput.
func retention(r operation.Retention) (archive.Policy, error) {
	problems := r.Check()
	policy := archive.Policy{Last: r.KeepLast, Daily: r.KeepDaily, Weekly: r.KeepWeekly, Monthly: r.KeepMonthly, Zone: time.UTC}
	if r.TimeZone != "" {
		zone, err := time.LoadLocation(r.TimeZone)
		if err != nil || r.TimeZone == "Local" {
			problems = append(problems, fmt.Sprintf("time zone %q: write an IANA name such as Europe/Paris", operation.Shorten(r.TimeZone, 80)))
		}
		policy.Zone = zone
	}
	if len(problems) > 0 {
		return archive.Policy{}, badInput(problems...)
	}
	return policy, nil
}

// PlanPrune says what a retention keeps of a cluster's archives, what it does not, and which uploads dead operations have left. It reads only.
func (c *Catalog) PlanPrune(ctx context.Context, in operation.PruneInput) (PlanPruneResult, error) {
	a := begin(ctx, "plan the prune")
	defer a.finish()
	out := PlanPruneResult{Prune: operation.PruneReport{Retention: in.Retention}}
	policy, err := retention(in.Retention)
	if err != nil {
		return out, err
	}
	store, err := c.store(in.Cluster, 0)
	if err != nil {
		return out, err
	}
	defer store.Close()
	archives, _, err := store.List(a.ctx, in.Cluster)
	if err != nil {
		return out, c.failed(a, err)
	}
	plan, err := archive.PlanPrune(archives, policy)
	if err != nil {
		return out, c.failed(a, err)
	}
	out.Prune.Keep, out.Prune.MoreKept = bounded(plan.Keep, operation.MaxArchives, keptBudget, func(k archive.Kept) operation.KeptArchive {
		return operation.KeptArchive{Archive: archiveOf(k.Entry), Reasons: k.Reasons}
	})
	// The oldest go first: what is left for the next run is what would be missed least if there is none.
	slices.Reverse(plan.Delete)
	out.Prune.Delete, out.Prune.MoreDeleted = bounded(plan.Delete, operation.MaxPruned, prunedBudget, func(e archive.Entry) operation.PrunedArchive {
		return operation.PrunedArchive{Archive: archiveOf(e), Outcome: operation.PrunePlanned}
	})
	errs := make([]error, len(out.Prune.Delete))
	each(len(out.Prune.Delete), func(i int) {
		row := &out.Prune.Delete[i]
		var lock archive.Lock
		lock, errs[i] = store.Lock(a.ctx, archive.Ref{Cluster: in.Cluster, Operation: row.Operation})
		switch {
		case lock.Active():
			row.Outcome, row.Problem = operation.PruneLocked, "object lock: "+lockOf(lock).String()
		case len(in.Only) > 0 && !slices.Contains(in.Only, row.Operation):
			row.Outcome = operation.PruneUnasked
		}
	})
	for _, err := range errs {
		if err != nil {
			return out, c.failed(a, err)
		}
	}
	left, note, err := c.leftovers(a, store, in.Cluster)
	if err != nil {
		return out, err
	}
	out.Prune.Uploads, out.Prune.MoreUploads = bounded(left, len(left), leftoversBudget, leftoverOf)
	out.Notes = notes(note)
	return out, nil
}

func (c *Catalog) leftoverAge() time.Duration {
	if c.LeftoverAge > 0 {
		return c.LeftoverAge
	}
	return defaultLeftoverAge
}

// leftovers are the uploads of a cluster's operations that do not run any more and began long enough ago. A bucket in which they cannot be listed is told in a
// note: what is kept and deleted does not depend on it.
func (c *Catalog) leftovers(a *attempt, store *archive.Store, cluster string) (left []archive.Leftover, note string, err error) {
	all, err := store.Leftovers(a.ctx)
	switch {
	case archive.IsKind(err, archive.KindAccessDenied), archive.IsKind(err, archive.KindUnsupported):
		return nil, "uploads that dead operations have left could not be looked for: " + oneLine(err.Error(), 200), nil
	case err != nil:
		return nil, "", c.failed(a, err)
	}
	all = slices.DeleteFunc(all, func(l archive.Leftover) bool { return l.Cluster != cluster || time.Since(l.Begun) < c.leftoverAge() })
	if len(all) == 0 {
		return nil, "", nil
	}
	living, err := c.living(a, cluster)
	if err != nil {
		return nil, "", err
	}
	return slices.DeleteFunc(all, func(l archive.Leftover) bool { return living[l.Operation] }), "", nil
}

// PruneArchivesInput names what a plan has found.
type PruneArchivesInput struct {
	Operation Operation           `json:"operation"`
	Retention operation.Retention `json:"retention"`
	// Delete are the ids of the archives that are deleted, if the retention still does not keep them.
	Delete []string `json:"delete,omitempty"`
	// Abort also ends the uploads that dead operations have left.
	Abort bool `json:"abort,omitempty"`
}

// PruneArchivesResult is what became of them.
type PruneArchivesResult struct {
	// Kept are archives that are still there, with the outcome and the problem.
	Kept []PruneOutcome `json:"kept,omitempty"`
	// Uploads that were aborted; MoreUploads are not named.
	Uploads     []operation.LeftoverUpload `json:"uploads,omitempty"`
	MoreUploads int                        `json:"moreUploads,omitempty"`
	Notes       []string                   `json:"notes,omitempty"`
}

// PruneOutcome is an archive that was not deleted.
type PruneOutcome struct {
	Archive string `json:"archive"`
	Outcome string `json:"outcome"`
	Problem string `json:"problem,omitempty"`
}

// PruneArchives deletes the archives named, each only if the retention does not keep it by now either, and aborts what dead operations have left. It can be
// repeated: what an attempt before has deleted counts as deleted. An archive that cannot be deleted is in the result and does not stop the others.
func (c *Catalog) PruneArchives(ctx context.Context, in PruneArchivesInput) (PruneArchivesResult, error) {
	a := begin(ctx, "prune")
	defer a.finish()
	var out PruneArchivesResult
	policy, err := retention(in.Retention)
	if err != nil {
		return out, err
	}
	store, err := c.store(in.Operation.Cluster, 0)
	if err != nil {
		return out, err
	}
	defer store.Close()
	archives, incomplete, err := store.List(a.ctx, in.Operation.Cluster)
	if err != nil {
		return out, c.failed(a, err)
	}
	plan, err := archive.PlanPrune(archives, policy)
	if err != nil {
		return out, c.failed(a, err)
	}
	doomed, kept, broken := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, e := range plan.Delete {
		doomed[e.Operation] = true
	}
	for _, k := range plan.Keep {
		kept[k.Operation] = true
	}
	for _, e := range incomplete {
		broken[e.Operation] = true
	}
	budget := prunedBudget
	stays := func(name, outcome, problem string) {
		problem = oneLine(problem, mostText)
		if budget -= len(name) + len(outcome) + len(problem) + 60; budget < 0 {
			problem = ""
		}
		out.Kept = append(out.Kept, PruneOutcome{Archive: name, Outcome: outcome, Problem: problem})
	}
	for i, name := range in.Delete {
		a.phase(fmt.Sprintf("delete archive %d of %d", i+1, len(in.Delete)))
		switch {
		case kept[name]:
			stays(name, operation.PruneUnasked, "the retention keeps it by now")
			continue
		case broken[name] && !a.again:
			stays(name, operation.PruneFailed, "it is not complete any more: see katoflow backup show")
			continue
		case !doomed[name] && !broken[name]:
			continue // an attempt before has deleted it, or somebody else has
		}
		err := store.Delete(a.ctx, archive.Ref{Cluster: in.Operation.Cluster, Operation: name}, broken[name])
		switch {
		case err == nil, archive.IsKind(err, archive.KindNotFound):
		case a.ctx.Err() != nil:
			return out, c.failed(a, err)
		case archive.IsKind(err, archive.KindLocked):
			stays(name, operation.PruneLocked, err.Error())
		default:
			stays(name, operation.PruneFailed, err.Error())
		}
	}
	if !in.Abort {
		return out, nil
	}
	a.phase("abort leftover uploads")
	left, note, err := c.leftovers(a, store, in.Operation.Cluster)
	if err != nil {
		return out, err
	}
	out.Notes = notes(note)
	if len(left) == 0 {
		return out, nil
	}
	dead := map[archive.Ref]bool{}
	for _, l := range left {
		dead[l.Ref] = true
	}
	aborted, err := store.AbortLeftovers(a.ctx, c.leftoverAge(), func(ref archive.Ref) bool { return !dead[ref] })
	out.Uploads, out.MoreUploads = bounded(aborted, len(aborted), leftoversBudget, leftoverOf)
	if a.ctx.Err() != nil {
		return out, c.failed(a, err)
	}
	if err != nil {
		out.Notes = append(out.Notes, oneLine("not all leftover uploads could be aborted: "+err.Error(), mostText))
	}
	return out, nil
}

// --- what is told ------------------------------------------------------------------------------------------------------------------------

// archiveOf is what is told of an archive: texts in one line and bounded, because whoever can write to the bucket has written them.
func archiveOf(e archive.Entry) operation.Archive {
	out := operation.Archive{Operation: shortText(e.Operation), Cluster: shortText(e.Cluster), Complete: e.Complete, Reason: oneLine(e.Reason, mostText),
		StoredSize: e.Size, Verified: verificationOf(e.Verified), Rehearsed: rehearsalOf(e.Rehearsed)}
	if m := e.Manifest; m != nil {
		out.StartedAt, out.EndedAt, out.Mode = timeOf(m.Started), timeOf(m.Ended), shortText(m.Mode)
		out.Node, out.RequestedBy = shortText(m.Node), shortText(m.Who)
		out.Include, out.Exclude = shortList(m.Include, 50), shortList(m.Exclude, 50)
		out.Size, out.Encrypted = m.Size, m.Encrypted()
	} else if !e.Modified.IsZero() {
		out.StartedAt = timeOf(e.Modified)
	}
	return out
}

func verificationOf(v *archive.Verification) *operation.ArchiveVerification {
	if v == nil {
		return nil
	}
	return &operation.ArchiveVerification{At: timeOf(v.At), OK: v.OK, Problem: oneLine(v.Problem, mostText), Bytes: v.Bytes, SHA256: v.SHA256,
		Who: shortText(v.Who)}
}

func rehearsalOf(r *archive.Rehearsal) *operation.ArchiveRehearsal {
	if r == nil {
		return nil
	}
	return &operation.ArchiveRehearsal{At: timeOf(r.At), OK: r.OK, Problem: oneLine(r.Problem, mostText), Operation: shortText(r.Operation), Cluster: shortText(r.Cluster),
		AppsRunning: r.AppsRunning, AppsFailed: r.AppsFailed, KatoVersion: shortText(r.KatoVersion), PlatformVersion: shortText(r.PlatformVersion), Who: shortText(r.Who)}
}

func lockOf(l archive.Lock) *operation.ArchiveLock {
	if !l.Active() {
		return nil
	}
	out := &operation.ArchiveLock{Mode: l.Mode, Held: l.Held}
	if !l.Until.IsZero() {
		out.Until = timeOf(l.Until)
	}
	return out
}

func leftoverOf(l archive.Leftover) operation.LeftoverUpload {
	return operation.LeftoverUpload{Operation: shortText(l.Operation), Begun: timeOf(l.Begun)}
}

func timeOf(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func shortText(s string) string { return oneLine(s, mostText) }

func shortList(list []string, most int) []string {
	var out []string
	for i, s := range list {
		if i == most {
			return append(out, fmt.Sprintf("... and %d more", len(list)-most))
		}
		out = append(out, oneLine(s, 200))
	}
	return out
}
