package activities

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/archive/archivetest/sample"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

// rehearsing is a shelf, whose archives are of prod, beside a scratch cluster with a Cloud Controller.
type rehearsing struct {
	*shelf
	archives   *Archives
	controller *cloudcontroller.Joined
	op         Operation
}

// rehearsing adds the scratch cluster to the inventory; lines are what its section has beside nodes and controller, and url is its controller's, "" for the double.
func (s *services) rehearsing(t *testing.T, lines, url string) *rehearsing {
	t.Helper()
	b := s.shelf(t, false)
	dir := t.TempDir()
	joined, err := cloudcontroller.Join(dir, "", cloudcontroller.Options{})
	require.NoError(t, err)
	t.Cleanup(joined.Close)
	if url == "" {
		url = joined.URL()
	}
	controller := fmt.Sprintf("    controller: {url: %q, user: %q, password: {file: %q}, ca_file: %q}\n", url, joined.User(), filepath.Join(dir, "controller-password"), filepath.Join(dir, "controller-ca.pem"))
	text, err := os.ReadFile(b.path)
	require.NoError(t, err)
	text = append(text, "  scratch:\n    platform: als\n"+lines+controller+"    nodes: [{name: core, address: 127.0.0.9, roles: [primary]}]\n"...)
	require.NoError(t, os.WriteFile(b.path, text, 0o600))
	return &rehearsing{shelf: b, controller: joined, archives: &Archives{Source: b.catalog.Source}, op: Operation{ID: "op-1", Cluster: "scratch", WorkflowID: "op/scratch/backup-rehearse/op-1"}}
}

// holding makes an archive of prod that has an app in each of the organizations.
func (r *rehearsing) holding(name string, day int, orgs ...string) archive.Entry {
	r.t.Helper()
	content := archive.Content{Orgs: len(orgs), Spaces: len(orgs), Apps: len(orgs)}
	for _, org := range orgs {
		content.List = append(content.List, archive.Org{Name: org, Spaces: []archive.Space{{Name: "live", Apps: []archive.App{{Name: "app", State: "STARTED", Instances: 1}}}}})
	}
	_, err := sample.Make(r.t.Context(), r.store, prod(name), sample.Bytes(byte(day), 1000), month(day), nil, func(m *archive.Manifest) { m.Content = &content })
	require.NoError(r.t, err)
	entry, err := r.store.Entry(r.t.Context(), prod(name))
	require.NoError(r.t, err)
	return entry
}

func (r *rehearsing) kept(e archive.Entry, hour int, ok bool) KeepRehearsalInput {
	return KeepRehearsalInput{Operation: r.op, Archive: e.Ref, Manifest: e.ManifestSHA256, Rehearsal: operation.ArchiveRehearsal{At: month(20).Add(time.Duration(hour) * time.Hour).Format(time.RFC3339),
		OK: ok, Operation: fmt.Sprintf("op-%d", hour), Cluster: "scratch", AppsRunning: 1, KatoVersion: "3.4.2", Who: "a test"}}
}

func rehearsalIsShown(t *testing.T, s *services) {
	r := s.rehearsing(t, "    scratch: true\n", "")
	first, second := r.holding("night-1", 1, "shop"), r.holding("night-2", 2, "shop")
	r.holding("night-3", 3, "shop")
	show := func(name string) operation.ArchiveDetails {
		return must[operation.ArchiveDetails](t)(run(t, r.catalog.ShowArchive, operation.BackupShowInput{Cluster: "prod", Archive: name}, attemptOptions{}))
	}
	keep := func(in KeepRehearsalInput) operation.ArchiveRehearsal {
		return must[operation.ArchiveRehearsal](t)(run(t, r.archives.KeepRehearsal, in, attemptOptions{}))
	}
	require.Nil(t, show("night-1").Rehearsed)
	for range 2 { // an attempt whose answer was lost is made again
		require.Equal(t, r.kept(first, 1, true).Rehearsal, keep(r.kept(first, 1, true)))
	}
	want := r.kept(first, 1, true).Rehearsal
	require.Equal(t, &want, show("night-1").Rehearsed)
	require.True(t, show("night-1").LastProven)
	keep(r.kept(second, 2, true))
	require.False(t, show("night-1").LastProven)
	require.True(t, show("night-2").LastProven)
	require.Equal(t, "op-2", keep(r.kept(second, 1, false)).Operation, "a later one stays")
	reasons := func() string {
		plan := must[PlanPruneResult](t)(run(t, r.catalog.PlanPrune, operation.PruneInput{Request: operation.Request{Cluster: "prod"}, Retention: operation.Retention{KeepLast: 1}}, attemptOptions{}))
		return archiveNames(plan.Prune.Keep, func(k operation.KeptArchive) string { return k.Operation + ":" + strings.Join(k.Reasons, ",") })
	}
	require.Equal(t, "night-3:last night-2:last proven restorable", reasons())
	keep(r.kept(second, 3, false))
	require.False(t, show("night-2").LastProven)
	require.Equal(t, "night-3:last night-1:last proven restorable", reasons())

	wrong := r.kept(first, 4, true)
	wrong.Manifest = second.ManifestSHA256
	_, err := run(t, r.archives.KeepRehearsal, wrong, attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "another manifest by now")
	r.bucket.Proxy.Fail("PUT rehearsed.json", archivetest.Always, archivetest.AccessDenied)
	_, err = run(t, r.archives.KeepRehearsal, r.kept(first, 5, true), attemptOptions{})
	wantFailure(t, err, operation.ErrS3, false, "Access Denied")
	require.NoError(t, r.store.Delete(t.Context(), first.Ref, false))
	_, err = run(t, r.archives.KeepRehearsal, r.kept(first, 6, true), attemptOptions{})
	wantFailure(t, err, operation.ErrArchive, false, "does not exist")
}

func scratchIsEmptied(t *testing.T, s *services) {
	r := s.rehearsing(t, "    scratch: true\n", "")
	e := r.holding("night-1", 1, "shop", "elsewhere")
	c := r.controller
	c.AddApp("of-others", "dev", cloudcontroller.App{Name: "stays"})
	require.NotEmpty(t, c.AppGUID("shop", "production", "orders"))
	in := EmptyScratchInput{Operation: r.op, Archive: e.Ref}
	c.SetMaintenance(true)
	_, err := run(t, r.archives.EmptyScratch, in, attemptOptions{})
	wantFailure(t, err, operation.ErrController, false, "maintenance")
	c.SetMaintenance(false)
	require.NotEmpty(t, c.AppGUID("shop", "production", "orders"))

	c.Reset("DELETE /v2/organizations/", 1)
	require.Equal(t, EmptyScratchResult{Orgs: 1}, must[EmptyScratchResult](t)(run(t, r.archives.EmptyScratch, in, attemptOptions{})))
	require.Empty(t, c.AppGUID("shop", "production", "orders"))
	require.NotEmpty(t, c.AppGUID("of-others", "dev", "stays"))
	require.NotEmpty(t, c.AppGUID("intranet", "production", "wiki"), "what the archive does not have stays")
	require.Equal(t, EmptyScratchResult{}, must[EmptyScratchResult](t)(run(t, r.archives.EmptyScratch, in, attemptOptions{})))
	deleted := 0
	for _, request := range c.Requests() {
		if request.Method == http.MethodDelete && request.Status == http.StatusNoContent {
			deleted++
		}
	}
	require.Equal(t, 1, deleted)
}

func scratchIsRefused(t *testing.T, s *services) {
	r := s.rehearsing(t, "", "")
	e := r.holding("night-1", 1, "shop")
	refuses := func(r *rehearsing, in EmptyScratchInput, want string) {
		t.Helper()
		_, err := run(t, r.archives.EmptyScratch, in, attemptOptions{})
		wantFailure(t, err, operation.ErrBadInput, false, want)
		require.Zero(t, r.controller.Count(http.MethodDelete, "/v2/organizations"))
		require.NotEmpty(t, r.controller.AppGUID("shop", "production", "orders"))
	}
	refuses(r, EmptyScratchInput{Operation: r.op, Archive: e.Ref}, "cluster scratch is no scratch cluster")
	r = s.rehearsing(t, "    scratch: true\n", "")
	refuses(r, EmptyScratchInput{Operation: r.op, Archive: archive.Ref{Cluster: "scratch", Operation: "x"}}, "the archive is of cluster scratch itself")
	// The scratch cluster's section names a node of the archive's cluster.
	text, err := os.ReadFile(r.path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(r.path, []byte(strings.Replace(string(text), "127.0.0.9", "127.0.0.1", 1)), 0o600))
	refuses(r, EmptyScratchInput{Operation: r.op, Archive: e.Ref}, "node core of cluster scratch is also node a of prod")
}
