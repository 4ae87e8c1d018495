package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/archive/archivetest/sample"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
)

// services are Temporal and S3 for all tests of the catalog.
type services struct {
	*harness.Temporal
	client client.Client
	shelfs int
}

// shelf is a bucket with the activities wired to it as a worker does.
type shelf struct {
	*services
	t       *testing.T
	bucket  *archivetest.Bucket
	store   *archive.Store // past the proxy
	catalog *Catalog
	path    string
}

// month is a time in the month of all archives.
func month(day int) time.Time { return time.Date(2026, 11, day, 3, 0, 0, 0, time.UTC) }

func (s *services) shelf(t *testing.T, lock bool) *shelf {
	t.Helper()
	s.shelfs++
	bucket, err := archivetest.NewBucket(t.Context(), s.S3, fmt.Sprintf("shelf-%d", s.shelfs), lock)
	require.NoError(t, err)
	t.Cleanup(bucket.Close)
	b := &shelf{services: s, t: t, bucket: bucket, path: filepath.Join(t.TempDir(), "clusters.yaml")}
	b.inventory(bucket.Proxy.URL, "    notify: {command: [\"true\"], on: [failed]}\n")
	b.store = b.open(func(*archive.Config) {})
	b.catalog = &Catalog{Source: NewSource(b.path, os.LookupEnv), Operations: s.client, LeftoverAge: time.Nanosecond}
	return b
}

// inventory writes the worker's file; extra is put into the section of cluster prod.
func (b *shelf) inventory(endpoint, extra string) {
	b.t.Helper()
	section, err := harness.S3Section(filepath.Dir(b.path), endpoint, b.bucket)
	require.NoError(b.t, err)
	section = strings.Replace(section, "path_style", "prefix: some/where, path_style", 1)
	text := "clusters:\n  prod:\n" + section + extra + "    nodes: [{name: a, address: 127.0.0.1}]\n  bare:\n    nodes: [{name: a, address: 127.0.0.1}]\n"
	require.NoError(b.t, os.WriteFile(b.path, []byte(text), 0o600))
}

func (b *shelf) open(change func(*archive.Config)) *archive.Store {
	b.t.Helper()
	cfg := archive.Config{Endpoint: b.S3.URL, Region: b.S3.Region, Bucket: b.bucket.Name, Prefix: "some/where", AccessKey: b.S3.AccessKey, SecretKey: b.S3.SecretKey, PathStyle: true}
	change(&cfg)
	store, err := archive.Open(cfg, nil)
	require.NoError(b.t, err)
	b.t.Cleanup(store.Close)
	return store
}

// keep makes an archive of prod.
func (b *shelf) keep(name string, size int, started time.Time, recipients ...string) archive.Manifest {
	b.t.Helper()
	m, err := sample.Make(b.t.Context(), b.store, prod(name), sample.Bytes(1, size), started, recipients, nil)
	require.NoError(b.t, err)
	return m
}

func prod(name string) archive.Ref { return archive.Ref{Cluster: "prod", Operation: name} }

// running starts an operation that goes on for as long as the test.
func (b *shelf) running(workflowID string) {
	b.t.Helper()
	ctx := b.t.Context()
	_, err := b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: workflowID, TaskQueue: "nobody"}, "Nothing")
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = b.client.TerminateWorkflow(context.Background(), workflowID, "", "the test is over") })
	until(b.t, "the operation is listed as running", func() bool {
		_, _, id, _ := operation.ParseWorkflowID(workflowID)
		living, err := run(b.t, func(ctx context.Context, cluster string) (map[string]bool, error) {
			a := begin(ctx, "")
			defer a.finish()
			return b.catalog.living(a, cluster)
		}, "prod", attemptOptions{})
		require.NoError(b.t, err)
		return living[id]
	})
}

func (b *shelf) op() Operation {
	return Operation{ID: "op-1", Cluster: "prod", WorkflowID: "op/prod/backup-verify/op-1"}
}

func (b *shelf) keys() string {
	b.t.Helper()
	sizes, err := b.bucket.Keys(b.t.Context())
	require.NoError(b.t, err)
	var keys []string
	for key := range sizes {
		keys = append(keys, key)
	}
	return strings.Join(keys, " ")
}

func (b *shelf) list(limit int) operation.ArchiveList {
	b.t.Helper()
	return must[operation.ArchiveList](b.t)(run(b.t, b.catalog.ListArchives, operation.BackupListInput{Cluster: "prod", Limit: limit}, attemptOptions{}))
}

func archiveNames[A any](list []A, name func(A) string) string {
	var out []string
	for _, a := range list {
		out = append(out, name(a))
	}
	return strings.Join(out, " ")
}

func TestCatalog(t *testing.T) {
	server, err := harness.StartTemporal(t.TempDir(), "--headless")
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Stop()) }()
	c, err := server.Client()
	require.NoError(t, err)
	defer c.Close()
	s := &services{Temporal: server, client: c}
	for name, test := range map[string]func(*testing.T, *services){
		"List_OfACluster_IsTheNewestFirstAndBounded":                 listIsBounded,
		"Show_OfAnArchive_HasEverythingButItsParts":                  showHasAll,
		"Verify_OfSoundAndDamagedArchives_SaysAndRemembers":          verifySays,
		"Verify_WorkerStopsInTheMiddle_BeginsAgainAndSaysSo":         verifyBeginsAgain,
		"Delete_OfWhatMustStay_IsRefused":                            deleteRefuses,
		"Delete_AfterAnInterruptedAttempt_EndsIt":                    deleteGoesOn,
		"Prune_ByARetention_DeletesOnlyWhatItDoesNotKeep":            pruneDeletes,
		"Prune_OfLeftoverUploads_LeavesThoseOfRunningOperations":     pruneAborts,
		"AnyActivity_OnABucketThatCannotBeUsed_SaysWhatToDo":         bucketFails,
		"Rehearsal_OfAnArchive_IsShownKeptAndSaidToBeTheLast":        rehearsalIsShown,
		"EmptyScratch_OfAnArchive_DeletesItsOrganizationsOnly":       scratchIsEmptied,
		"EmptyScratch_OfWhatIsNoScratchCluster_DeletesNothing":       scratchIsRefused,
		"Droplets_OfAnOldArchiveInItsBucket_AreLookedInto":           archivesDroplets,
		"LocateArchives_OfClustersWithoutABucket_NamesWhatIsAmiss":   locateNames,
		"List_OfManifestsThatSomebodyElseWrote_ShowsThemInOneLine":   hostileTexts,
		"Bounded_RowsThatAreTooManyOrTooLong_CountsThoseLeftOut":     func(t *testing.T, _ *services) { boundedCounts(t) },
		"Living_OperationsOfOtherClusters_DoNotCount":                livingOfOthers,
		"Living_TemporalDoesNotAnswer_IsTriedAgainAndDeletesNothing": livingFails,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func listIsBounded(t *testing.T, s *services) {
	b := s.shelf(t, false)
	if l := b.list(0); len(l.Archives) != 0 || l.Archives == nil || l.Bucket != b.bucket.Name || l.Prefix != "some/where" {
		t.Errorf("%+v", l)
	}
	for day := 1; day <= 3; day++ {
		b.keep(fmt.Sprintf("night-%d", day), 6<<20, month(day))
	}
	_, err := sample.Make(t.Context(), b.store, archive.Ref{Cluster: "other", Operation: "night-9"}, sample.Bytes(2, 100), month(9), nil, nil)
	require.NoError(t, err)
	require.NoError(t, sample.Begin(t.Context(), b.store, prod("under-way"), sample.Bytes(3, 100)))
	l := b.list(2)
	require.Equal(t, "night-3 night-2", archiveNames(l.Archives, func(a operation.Archive) string { return a.Operation }))
	require.Equal(t, 1, l.More)
	require.Len(t, l.Incomplete, 1)
	require.Equal(t, operation.Archive{Operation: "under-way", Cluster: "prod", Reason: "the transfer has not ended"}, l.Incomplete[0])
	want := operation.Archive{Operation: "night-3", Cluster: "prod", Complete: true, StartedAt: "2026-11-03T03:00:00Z", EndedAt: "2026-11-03T03:01:00Z", Mode: "cluster", Node: "fs-1",
		RequestedBy: "a test", Size: 6 << 20, StoredSize: 6 << 20}
	require.Equal(t, want, l.Archives[0])
	_, err = run(t, b.catalog.ListArchives, operation.BackupListInput{Cluster: "prod", Limit: 501}, attemptOptions{})
	wantFailure(t, err, operation.ErrBadInput, false, "limit 501")
}

func showHasAll(t *testing.T, s *services) {
	b := s.shelf(t, true)
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	locked := b.open(func(c *archive.Config) { c.LockMode, c.LockFor = "GOVERNANCE", 48*time.Hour })
	m, err := sample.Make(t.Context(), locked, prod("night-2"), sample.Bytes(1, 6<<20), month(2), []string{key.Recipient().String()}, func(m *archive.Manifest) {
		m.Roles = map[string][]string{"fs-1": {"filesystem"}, "core": {"primary", "controller"}}
		m.Include, m.Exclude, m.KatoVersion = []string{"mysql"}, []string{"droplets"}, "3.6"
		m.Content = &archive.Content{Orgs: 1, Spaces: 1, Apps: 2000, AppsStarted: 1999, Instances: 4000, Services: 1}
		var apps []archive.App
		for i := range 2000 {
			apps = append(apps, archive.App{Name: fmt.Sprintf("app-%04d", i), State: "STARTED", Instances: 2, Buildpack: "go"})
		}
		m.Content.List = []archive.Org{{Name: "acme", Spaces: []archive.Space{{Name: "live", Apps: apps, Services: []archive.Service{{Name: "db", Service: "mysql", Plan: "free"}}}}}}
	})
	require.NoError(t, err)
	b.keep("night-1", 100, month(1))
	show := func(name string) operation.ArchiveDetails {
		return must[operation.ArchiveDetails](t)(run(t, b.catalog.ShowArchive, operation.BackupShowInput{Cluster: "prod", Archive: name}, attemptOptions{}))
	}
	d := show(operation.LatestArchive)
	require.Equal(t, show("night-2"), d)
	require.True(t, d.Complete && d.Encrypted)
	require.Equal(t, "some/where/prod/night--2/export.tgz", d.Key)
	require.Equal(t, []any{m.SHA256, m.Checksum, 2, int64(5 << 20), m.StoredSize, int64(6 << 20)}, []any{d.SHA256, d.Checksum, d.Parts, d.PartSize, d.StoredSize, d.Size})
	require.Equal(t, []string{key.Recipient().String()}, d.Recipients)
	require.Equal(t, []operation.PlannedNode{{Name: "core", Roles: []string{"primary", "controller"}}, {Name: "fs-1", Roles: []string{"filesystem"}}}, d.Nodes)
	require.Equal(t, "GOVERNANCE", d.Lock.Mode)
	require.Contains(t, d.Lock.Until, time.Now().UTC().Add(48*time.Hour).Format("2006-01-02"))
	require.Equal(t, 1999, d.Content.AppsStarted)
	require.Equal(t, operation.ArchivedApp{Org: "acme", Space: "live", Name: "app-0000", State: "STARTED", Instances: 2, Buildpack: "go"}, d.Content.AppList[0])
	require.Equal(t, 2000, len(d.Content.AppList)+d.Content.MoreApps)
	require.NotZero(t, d.Content.MoreApps, "two thousand apps are too many for a history")
	require.Equal(t, []operation.ArchivedService{{Org: "acme", Space: "live", Name: "db", Service: "mysql", Plan: "free"}}, d.Content.ServiceList)
	text, err := json.Marshal(d)
	require.NoError(t, err)
	require.Less(t, len(text), 256<<10)
	require.Nil(t, show("night-1").Lock)

	_, err = run(t, b.catalog.ShowArchive, operation.BackupShowInput{Cluster: "prod", Archive: "night-7"}, attemptOptions{})
	wantFailure(t, err, operation.ErrBadInput, false, "prod/night-7 does not exist")
	_, err = run(t, b.catalog.ShowArchive, operation.BackupShowInput{Cluster: "prod", Archive: "../x"}, attemptOptions{})
	wantFailure(t, err, operation.ErrBadInput, false, `archive "../x"`)
	empty := s.shelf(t, false)
	_, err = run(t, empty.catalog.ShowArchive, operation.BackupShowInput{Cluster: "prod", Archive: operation.LatestArchive}, attemptOptions{})
	wantFailure(t, err, operation.ErrBadInput, false, "has no archive: make one with katoflow backup create prod")
}

func (b *shelf) verify(name string, o attemptOptions) (VerifyArchiveResult, error) {
	return run(b.t, b.catalog.VerifyArchive, VerifyArchiveInput{Operation: b.op(), Archive: name, Who: "ann"}, o)
}

func verifySays(t *testing.T, s *services) {
	b := s.shelf(t, false)
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	m := b.keep("sound", 6<<20, month(1))
	b.keep("secret", 6<<20, month(2), key.Recipient().String())
	b.keep("damaged", 6<<20, month(3))

	r := must[VerifyArchiveResult](t)(b.verify("sound", attemptOptions{}))
	require.True(t, r.Verification.OK)
	require.Equal(t, []any{int64(6 << 20), m.SHA256, "ann", 0}, []any{r.Verification.Bytes, r.Verification.SHA256, r.Verification.Who, len(r.Notes)})
	r = must[VerifyArchiveResult](t)(b.verify("secret", attemptOptions{}))
	require.True(t, r.Verification.OK && r.Verification.SHA256 == "", "the stored bytes agree; the export itself was not seen: %+v", r)

	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Flip(5<<20+100))
	r = must[VerifyArchiveResult](t)(b.verify("damaged", attemptOptions{}))
	require.False(t, r.Verification.OK)
	require.Contains(t, r.Verification.Problem, "part 2 of 2 is not what was written")
	seen := map[string]string{}
	for _, a := range b.list(0).Archives {
		seen[a.Operation] = fmt.Sprint(a.Verified.OK, " ", a.Verified.Who)
	}
	require.Equal(t, map[string]string{"sound": "true ann", "secret": "true ann", "damaged": "false ann"}, seen, "it is remembered, also what is bad")

	// What was found counts also where it cannot be remembered.
	b.bucket.Proxy.Fail("PUT verified.json", 100, archivetest.AccessDenied)
	r = must[VerifyArchiveResult](t)(b.verify("sound", attemptOptions{}))
	require.True(t, r.Verification.OK)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "could not be remembered")
	b.bucket.Proxy.Heal()

	require.NoError(t, sample.Begin(t.Context(), b.store, prod("under-way"), sample.Bytes(3, 100)))
	_, err = b.verify("under-way", attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "not complete")
	_, err = b.verify("night-7", attemptOptions{})
	wantFailure(t, err, operation.ErrBadInput, false, "does not exist")
}

func verifyBeginsAgain(t *testing.T, s *services) {
	b := s.shelf(t, false)
	b.keep("night", 12<<20, month(1))
	stop := make(chan struct{})
	reached, release := b.bucket.Proxy.Hold("GET export.tgz", 0)
	defer release()
	going := inBackground(t, b.catalog.VerifyArchive, VerifyArchiveInput{Operation: b.op(), Archive: "night"}, attemptOptions{stop: stop})
	<-reached
	close(stop)
	_, err := going.wait(t)
	wantFailure(t, err, operation.ErrWorker, true, "begins it again")
	release()

	r := must[VerifyArchiveResult](t)(b.verify("night", attemptOptions{resume: &Beat{Phase: "5 MiB of 12 MiB read"}}))
	require.True(t, r.Verification.OK)
	require.Equal(t, int64(12<<20), r.Verification.Bytes, "all of it")
	require.Equal(t, []string{"it was read again from the beginning, because the worker that read it before ended (5 MiB of 12 MiB read)"}, r.Notes)

	ctx, cancel := context.WithCancelCause(t.Context())
	reached, release = b.bucket.Proxy.Hold("GET export.tgz", 0)
	defer release()
	going = inBackground(t, b.catalog.VerifyArchive, VerifyArchiveInput{Operation: b.op(), Archive: "night"}, attemptOptions{ctx: ctx})
	<-reached
	cancel(temporal.NewCanceledError())
	_, err = going.wait(t)
	require.True(t, temporal.IsCanceledError(err), "%v", err)
}

func (b *shelf) delete(name string, force bool, o attemptOptions) error {
	_, err := run(b.t, func(ctx context.Context, in DeleteArchiveInput) (bool, error) {
		return true, b.catalog.DeleteArchive(ctx, in)
	},
		DeleteArchiveInput{Operation: b.op(), Archive: name, Force: force}, o)
	return err
}

func deleteRefuses(t *testing.T, s *services) {
	b := s.shelf(t, true)
	b.keep("gone", 100, month(1))
	b.keep("living", 100, month(2))
	_, err := sample.Make(t.Context(), b.open(func(c *archive.Config) { c.LockMode, c.LockFor = "COMPLIANCE", time.Hour }), prod("locked"), sample.Bytes(1, 100), month(3), nil, nil)
	require.NoError(t, err)
	require.NoError(t, sample.Begin(t.Context(), b.store, prod("under-way"), sample.Bytes(3, 100)))
	// A schedule's run: its id is written otherwise in the workflow's.
	b.keep("nightly-20261104t030000z", 100, month(4))
	b.running("op/prod/backup-create/living")
	b.running("op/prod/backup-create/nightly-2026-11-04T03:00:00Z")

	for _, force := range []bool{false, true} {
		wantFailure(t, b.delete("living", force, attemptOptions{}), operation.ErrClusterBusy, false, "operation living still runs")
		wantFailure(t, b.delete("nightly-20261104t030000z", force, attemptOptions{}), operation.ErrClusterBusy, false)
		wantFailure(t, b.delete("locked", force, attemptOptions{}), operation.ErrArchive, false, "object lock (COMPLIANCE) keeps it until "+time.Now().UTC().Add(time.Hour).Format("2006-01-02"))
		wantFailure(t, b.delete(operation.LatestArchive, force, attemptOptions{}), operation.ErrBadInput, false, "latest")
	}
	wantFailure(t, b.delete("under-way", false, attemptOptions{}), operation.ErrArchive, false, "not complete")
	wantFailure(t, b.delete("night-7", false, attemptOptions{}), operation.ErrBadInput, false, "does not exist")
	require.Len(t, b.list(0).Archives, 4)

	require.NoError(t, b.delete("gone", false, attemptOptions{}))
	require.NoError(t, b.delete("under-way", true, attemptOptions{}))
	l := b.list(0)
	require.Len(t, l.Archives, 3)
	require.Empty(t, l.Incomplete)
	uploads, err := b.bucket.Uploads(t.Context())
	require.NoError(t, err)
	require.Empty(t, uploads, "its upload is ended")
	require.NotContains(t, b.keys(), "/gone/")
}

func deleteGoesOn(t *testing.T, s *services) {
	b := s.shelf(t, false)
	b.keep("night", 100, month(1))
	b.bucket.Proxy.Fail("DELETE export.tgz", 100, archivetest.AccessDenied)
	wantFailure(t, b.delete("night", false, attemptOptions{}), operation.ErrS3, false, "grant the right")
	b.bucket.Proxy.Heal()
	require.Len(t, b.list(0).Incomplete, 1, "half deleted, and so not listed as an archive")
	wantFailure(t, b.delete("night", false, attemptOptions{}), operation.ErrArchive, false, "only by force")
	require.NoError(t, b.delete("night", false, attemptOptions{resume: &Beat{}}), "the next attempt of the same operation ends it")
	require.NoError(t, b.delete("night", false, attemptOptions{resume: &Beat{}}), "and one after that finds nothing left to do")
	require.Empty(t, b.keys())
}

func (b *shelf) plan(in operation.PruneInput) PlanPruneResult {
	b.t.Helper()
	in.Cluster = "prod"
	return must[PlanPruneResult](b.t)(run(b.t, b.catalog.PlanPrune, in, attemptOptions{}))
}

func outcomes(p operation.PruneReport) string {
	return archiveNames(p.Delete, func(a operation.PrunedArchive) string { return a.Operation + ":" + a.Outcome })
}

func pruneDeletes(t *testing.T, s *services) {
	b := s.shelf(t, true)
	for day := 1; day <= 6; day++ {
		b.keep(fmt.Sprintf("night-%d", day), 100, month(day))
	}
	_, err := sample.Make(t.Context(), b.open(func(c *archive.Config) { c.LockMode, c.LockFor = "COMPLIANCE", time.Hour }), prod("locked"), sample.Bytes(1, 100), month(1).Add(time.Hour), nil, nil)
	require.NoError(t, err)
	must[VerifyArchiveResult](t)(b.verify("night-2", attemptOptions{}))
	keep2 := operation.Retention{KeepLast: 2}

	plan := b.plan(operation.PruneInput{Retention: keep2})
	require.Equal(t, "night-6:last night-5:last night-2:last verified",
		archiveNames(plan.Prune.Keep, func(k operation.KeptArchive) string { return k.Operation + ":" + strings.Join(k.Reasons, ",") }))
	require.Equal(t, "night-1:would be deleted locked:locked night-3:would be deleted night-4:would be deleted", outcomes(plan.Prune))
	require.Contains(t, plan.Prune.Delete[1].Problem, "object lock: COMPLIANCE until ")
	only := b.plan(operation.PruneInput{Retention: keep2, Only: []string{"night-3"}})
	require.Equal(t, "night-1:not confirmed locked:locked night-3:would be deleted night-4:not confirmed", outcomes(only.Prune))
	require.Len(t, b.list(0).Archives, 7, "a plan deletes nothing")

	prune := func(o attemptOptions, names ...string) PruneArchivesResult {
		return must[PruneArchivesResult](t)(run(t, b.catalog.PruneArchives, PruneArchivesInput{Operation: b.op(), Retention: keep2, Delete: names}, o))
	}
	// One that cannot be deleted does not stop the others, and what the retention keeps stays whoever names it.
	b.bucket.Proxy.Fail("DELETE manifest.json", 1, archivetest.AccessDenied)
	r := prune(attemptOptions{}, "night-1", "night-3", "night-6", "night-9")
	require.Equal(t, "night-1:failed night-6:not confirmed", archiveNames(r.Kept, func(o PruneOutcome) string { return o.Archive + ":" + o.Outcome }))
	require.Contains(t, r.Kept[0].Problem, "grant the right")
	names := func() string {
		return archiveNames(b.list(0).Archives, func(a operation.Archive) string { return a.Operation })
	}
	require.Equal(t, "night-6 night-5 night-4 night-2 locked night-1", names())
	// What an attempt has left half deleted, the next one ends; for an operation that comes later it is not its own.
	b.bucket.Proxy.Fail("DELETE export.tgz", 1, archivetest.AccessDenied)
	require.Len(t, prune(attemptOptions{}, "night-1").Kept, 1)
	require.Equal(t, operation.PruneFailed, prune(attemptOptions{}, "night-1").Kept[0].Outcome)
	require.Empty(t, prune(attemptOptions{resume: &Beat{}}, "night-1", "night-4").Kept)
	require.Equal(t, "night-6 night-5 night-2 locked", names())
	require.Empty(t, b.list(0).Incomplete)
	require.Equal(t, operation.PruneLocked, prune(attemptOptions{}, "locked").Kept[0].Outcome)

	_, err = run(t, b.catalog.PlanPrune, operation.PruneInput{Request: operation.Request{Cluster: "prod"}, Retention: operation.Retention{TimeZone: "Europe/Atlantis"}}, attemptOptions{})
	if f := wantFailure(t, err, operation.ErrBadInput, false); len(f.Problems) != 2 {
		t.Errorf("%q", f.Problems)
	}
	// Days begin where the zone says: of two archives of one day in UTC, both are the newest of their day in Auckland.
	b.keep("day-a", 100, month(8).Add(6*time.Hour))
	b.keep("day-b", 100, month(8).Add(10*time.Hour))
	require.Contains(t, outcomes(b.plan(operation.PruneInput{Retention: operation.Retention{KeepDaily: 2}}).Prune), "day-a")
	require.NotContains(t, outcomes(b.plan(operation.PruneInput{Retention: operation.Retention{KeepDaily: 2, TimeZone: "Pacific/Auckland"}}).Prune), "day-")
}

func pruneAborts(t *testing.T, s *services) {
	b := s.shelf(t, false)
	b.keep("night", 100, month(1))
	for _, ref := range []archive.Ref{prod("dead"), prod("alive"), {Cluster: "other", Operation: "dead"}} {
		require.NoError(t, sample.Begin(t.Context(), b.store, ref, sample.Bytes(3, 100)))
	}
	b.running("op/prod/backup-create/alive")
	keep1 := operation.Retention{KeepLast: 1}
	uploads := func(list []operation.LeftoverUpload) string {
		return archiveNames(list, func(u operation.LeftoverUpload) string { return u.Operation })
	}
	require.Equal(t, "dead", uploads(b.plan(operation.PruneInput{Retention: keep1}).Prune.Uploads))
	young := *b.catalog
	young.LeftoverAge = 0 // a day
	plan := must[PlanPruneResult](t)(run(t, young.PlanPrune, operation.PruneInput{Request: operation.Request{Cluster: "prod"}, Retention: keep1}, attemptOptions{}))
	require.Empty(t, plan.Prune.Uploads, "they may be of operations that have begun since")
	there := func() int {
		left, err := b.bucket.Uploads(t.Context())
		require.NoError(t, err)
		return len(left)
	}
	require.Equal(t, 3, there())

	in := PruneArchivesInput{Operation: b.op(), Retention: keep1, Abort: true}
	require.Empty(t, must[PruneArchivesResult](t)(run(t, young.PruneArchives, in, attemptOptions{})).Uploads)
	require.Equal(t, "dead", uploads(must[PruneArchivesResult](t)(run(t, b.catalog.PruneArchives, in, attemptOptions{})).Uploads))
	require.Equal(t, 2, there())
	require.Len(t, b.list(0).Incomplete, 1, "alive")
	require.Len(t, b.list(0).Archives, 1)

	// Where uploads may not be listed the retention works all the same.
	b.bucket.Proxy.Fail("ListMultipartUploads", 100, archivetest.AccessDenied)
	plan = b.plan(operation.PruneInput{Retention: keep1})
	require.Len(t, plan.Notes, 1)
	require.Len(t, plan.Prune.Keep, 1)
}

func bucketFails(t *testing.T, s *services) {
	b := s.shelf(t, false)
	b.keep("night", 100, month(1))
	list := func() error {
		_, err := run(t, b.catalog.ListArchives, operation.BackupListInput{Cluster: "prod"}, attemptOptions{})
		return err
	}
	for name, row := range map[string]struct {
		act   archivetest.Act
		words string
	}{
		"denied":  {archivetest.AccessDenied, "grant the right"},
		"expired": {archivetest.ExpiredToken, "have expired, renew them"},
		"slow":    {archivetest.SlowDown, "overloaded, try later"},
		"broken":  {archivetest.InternalError, "see its log"},
	} {
		b.bucket.Proxy.Fail("ListObjects", 1000, row.act)
		f := wantFailure(t, list(), operation.ErrS3, false, row.words)
		require.NotContains(t, f.Message, s.S3.SecretKey, name)
		b.bucket.Proxy.Heal()
	}
	require.NoError(t, list())
	// A passing fault is nobody's business.
	b.bucket.Proxy.Fail("ListObjects", 2, archivetest.SlowDown)
	require.NoError(t, list())

	_, err := b.bucket.Client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.bucket.Name, Key: aws.String("some/where/prod/night/verified.json")})
	require.NoError(t, err)
	b.inventory("http://127.0.0.1:1", "")
	wantFailure(t, list(), operation.ErrS3, false, "check the endpoint and the network to it")
	section, err := os.ReadFile(b.path)
	require.NoError(t, err)
	rewrite(t, b.path, strings.Replace(strings.Replace(string(section), "http://127.0.0.1:1", s.S3.URL, 1), b.bucket.Name, "no-such-bucket", 1))
	wantFailure(t, list(), operation.ErrS3, false, "create the bucket or correct its name")
}

func locateNames(t *testing.T, s *services) {
	b := s.shelf(t, false)
	locate := func(cluster string) (ArchivePlace, error) {
		return run(t, b.catalog.LocateArchives, ClusterInput{Cluster: cluster}, attemptOptions{})
	}
	require.Equal(t, ArchivePlace{Bucket: b.bucket.Name, Prefix: "some/where", NotifyOn: []string{"failed"}}, must[ArchivePlace](t)(locate("prod")))
	_, err := locate("bare")
	wantFailure(t, err, operation.ErrBadInput, false, "cluster bare has no s3 section in the worker's inventory")
	_, err = locate("nowhere")
	wantFailure(t, err, operation.ErrBadInput, false, "unknown cluster")
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(b.path), "s3-secret-key")))
	_, err = locate("prod")
	wantFailure(t, err, operation.ErrBadInput, false, "secret_key", "no such file")
	rewrite(t, b.path, "clusters:\n  prod:\n    s3: {bucket: X}\n    nodes: [{name: \"a b\"}]\n")
	_, err = locate("prod")
	if f := wantFailure(t, err, operation.ErrBadInput, false); len(f.Problems) < 2 {
		t.Errorf("%q", f.Problems)
	}
}

func hostileTexts(t *testing.T, s *services) {
	b := s.shelf(t, false)
	const bad = "x\x1b[2J\nkatoflow: done \u202e"
	_, err := sample.Make(t.Context(), b.store, prod("night"), sample.Bytes(1, 100), month(1), nil, func(m *archive.Manifest) {
		m.Mode, m.Node, m.Who, m.Include, m.Platform = bad, bad, strings.Repeat(bad, 1000), []string{bad}, bad
		m.Roles = map[string][]string{bad: {bad}}
		m.Content = &archive.Content{Orgs: 1, List: []archive.Org{{Name: bad, Spaces: []archive.Space{{Name: bad, Apps: []archive.App{{Name: bad, State: bad}}, Services: []archive.Service{{Name: bad}}}}}}}
	})
	require.NoError(t, err)
	d := must[operation.ArchiveDetails](t)(run(t, b.catalog.ShowArchive, operation.BackupShowInput{Cluster: "prod", Archive: "night"}, attemptOptions{}))
	for _, value := range []any{b.list(0), d} {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		require.NotContains(t, string(text), `\u001b`)
		require.NotContains(t, string(text), `\n`)
		require.Less(t, len(text), 8<<10)
	}
	require.Equal(t, "x\\x1b[2J katoflow: done \\u202e", d.Node)
}

func boundedCounts(t *testing.T) {
	rows := []string{"a", "b", strings.Repeat("c", 100), "d"}
	same := func(s string) string { return s }
	for _, c := range []struct{ limit, budget, want int }{{10, 1000, 4}, {2, 1000, 2}, {10, 50, 2}, {0, 1000, 0}, {10, 0, 0}} {
		got, more := bounded(rows, c.limit, c.budget, same)
		if len(got) != c.want || more != len(rows)-c.want {
			t.Errorf("%+v: %d rows, %d more", c, len(got), more)
		}
	}
}

func livingOfOthers(t *testing.T, s *services) {
	b := s.shelf(t, false)
	b.keep("night", 100, month(1))
	b.running("op/prod/upgrade-security/other")
	for _, id := range []string{"op/prod2/backup-create/night", "op/x/backup-create/night"} {
		_, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: "nobody"}, "Nothing")
		require.NoError(t, err)
	}
	require.NoError(t, b.delete("night", false, attemptOptions{}))
}

func livingFails(t *testing.T, s *services) {
	b := s.shelf(t, false)
	b.keep("night", 100, month(1))
	nobody, err := client.NewLazyClient(client.Options{HostPort: "127.0.0.1:1"})
	require.NoError(t, err)
	defer nobody.Close()
	b.catalog.Operations = nobody
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err = b.delete("night", true, attemptOptions{ctx: ctx})
	var app *temporal.ApplicationError
	require.ErrorAs(t, err, &app)
	require.False(t, app.NonRetryable())
	require.Len(t, b.list(0).Archives, 1)
}
