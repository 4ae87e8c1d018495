package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

// restore begins an import of one of the cluster's own archives by the CLI, detached, and returns when its preflight has passed.
func (s *site) restore(archive string, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"backup", "restore", archive, "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name(), "--id", id, "--detach"}, args...)...)
	return s.attachTo(operation.KindRestore, id)
}

// restoreDirectly begins it through the client and does not wait for anything.
func (s *site) restoreDirectly(in operation.RestoreInput) *op {
	s.t.Helper()
	in.OperationID, in.Cluster, in.Confirm = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name(), s.cluster.Name()
	return s.execute(operation.KindRestore, operation.WorkflowRestore, in.OperationID, in)
}

// archived is an archive of the cluster as it is now.
func (s *site) archived() *op {
	s.t.Helper()
	o := s.backup("--maintenance", "off")
	o.done(90 * time.Second)
	s.bucket.Proxy.Forget()
	return o
}

// imports counts the runs of kato data import on a node.
func (s *site) imports(node string) int {
	n := 0
	for _, e := range s.cluster.Node(node).Commands() {
		if strings.Contains(e.Command(), "kato data import") {
			n++
		}
	}
	return n
}

// guid of an app of the cluster as it is now, "" when there is none.
func (s *site) guid(org, space, app string) string {
	s.t.Helper()
	listed := operation.AppList{}
	require.NoError(s.t, json.Unmarshal([]byte(s.cli(0, "apps", "list", s.cluster.Name(), "--quick", "-o", "json").Stdout), &listed))
	for _, a := range listed.Apps {
		if a.Org == org && a.Space == space && a.Name == app {
			return a.GUID
		}
	}
	return ""
}

func TestRestore_OfAnArchive_BringsBackWhatIsGoneAndSaysSo(t *testing.T) {
	t.Parallel()
	for _, mode := range []operation.TransferMode{operation.TransferWorker, operation.TransferDirect} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			c := s.controller()
			require.NoError(t, s.exporter(files).ExportSize(multiparted))
			c.AddApp("lost", "dev", cloudcontroller.App{Name: "found-again", Instances: 2})
			before := s.archived()
			c.Remove(s.guid("lost", "dev", "found-again"))
			require.Empty(t, s.guid("lost", "dev", "found-again"))

			o := s.restore(before.id, "--transfer", string(mode))
			r := o.done(2 * time.Minute)
			require.Equal(t, mode, r.Restore.Transfer)
			require.Equal(t, s.cluster.Name()+"/"+before.id, r.Restore.Archive)
			require.NotNil(t, r.Restore.Recorded)
			require.Equal(t, r.Restore.Recorded, r.Restore.Found)
			require.Empty(t, r.Restore.Missing)
			require.NotEmpty(t, s.guid("lost", "dev", "found-again"))
			require.Equal(t, r.Restore.Recorded.AppsStarted, outcomesOf(r)[operation.AppRunning])
			require.Equal(t, r.Restore.Recorded.Apps-r.Restore.Recorded.AppsStarted, outcomesOf(r)[operation.AppStopped])
			require.Equal(t, 1, s.imports(core))
			// The cluster had apps, so that it was backed up first, by an operation of its own.
			require.Equal(t, 2, s.exports(files))
			safety := &op{site: s, id: o.id + "-safety"}
			safety.listed()
			require.Contains(t, r.Restore.Safety, safety.id)
			o.settled()
			require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "recorded")
		})
	}
}

func TestRestore_BadInput_OneLineEachAndNothingIsTouched(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	name := s.cluster.Name()
	for want, args := range map[string][]string{
		"--cluster is missing":           {"a1"},
		"write its name once more":       {"a1", "--cluster", name},
		"--confirm " + name:              {"a1", "--cluster", name, "--confirm", "another"},
		`archive "A_1"`:                  {"A_1", "--cluster", name, "--confirm", name},
		`cluster "UP"`:                   {"UP/a1", "--cluster", name, "--confirm", name},
		`archive "/a1": write [CLUSTER/`: {"/a1", "--cluster", name, "--confirm", name},
		`transfer "pigeon"`:              {"a1", "--cluster", name, "--confirm", name, "--transfer", "pigeon"},
		`restage "some"`:                 {"a1", "--cluster", name, "--confirm", name, "--restage", "some"},
		"--apps-at-once 0":               {"a1", "--cluster", name, "--confirm", name, "--apps-at-once", "0"},
		`cluster "elsewhere"`:            {"elsewhere/a1", "--cluster", name, "--confirm", name},
	} {
		out := s.cli(2, append([]string{"backup", "restore"}, args...)...)
		require.Contains(t, out.Stderr, want)
		require.Len(t, strings.Split(strings.TrimSpace(out.Stderr), "\n"), 1, out.Stderr)
	}
	require.Zero(t, s.imports(core))
}

func TestRestore_Preflight_NamesAllProblemsAtOnceAndTouchesNothing(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node but to ask")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	c := s.controller()
	require.Contains(t, s.cli(7, "backup", "restore", "latest", "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name()).Stderr, "has none that is complete")
	before := s.archived()
	c.SetMaintenance(true)
	s.cluster.Node(files).SudoPassword(true)
	s.exporter(files).NoCoreAccess(true)
	out := s.cli(7, "backup", "restore", "never-made", "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name())
	for _, want := range []string{"archive: ", "maintenance mode is on", "sudo asks", "the Core cannot log in to files"} {
		require.Contains(t, out.Stderr, want)
	}
	c.SetMaintenance(false)
	s.cluster.Node(files).SudoPassword(false)
	s.exporter(files).NoCoreAccess(false)
	require.Zero(t, s.imports(core))

	dry := s.cli(0, "backup", "restore", before.id, "--cluster", s.cluster.Name(), "--dry-run").Stdout
	require.Contains(t, dry, "kato data import --cluster --base-dir")
	require.Zero(t, s.imports(core))
}

func TestRestore_ArchiveTampered_IsNotImported(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it is S3 that is tampered with")
	for _, mode := range []operation.TransferMode{operation.TransferWorker, operation.TransferDirect} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			before := s.archived()
			f := s.fault("the archive was tampered with in its bucket (%s)", mode)
			s.bucket.Proxy.Fail("GET export.tgz", archivetest.Always, archivetest.Flip(100))
			o := s.restore(before.id, "--transfer", string(mode), "--no-safety-backup")
			q := o.question(90 * time.Second)
			require.Equal(t, operation.StepFetch, q.Step)
			require.Equal(t, operation.ErrArchive, q.Cause.Type, q.Cause.Message)
			o.decide(q, operation.Abort)
			_, err := o.end(60 * time.Second)
			require.Error(t, err)
			require.Zero(t, s.imports(core))
			o.settled()
			f.end(parkedFor("fetch (Archive)", "aborted, nothing imported"))
		})
	}
}

func TestRestore_Encrypted_IsRefused(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node but to ask")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	before := s.backup("--maintenance", "off", "--encrypt-to", identity.Recipient().String())
	before.done(90 * time.Second)
	out := s.cli(7, "backup", "restore", before.id, "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name(), "--no-safety-backup")
	require.Contains(t, out.Stderr, "is encrypted, and no worker has a secret key")
	require.Zero(t, s.imports(core))
}

func TestRestore_CancelledWhileItIsFetched_LeavesTheClusterAsItWas(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	require.NoError(t, s.exporter(files).ExportSize(multiparted))
	before := s.archived()
	f := s.fault("an import cancelled while its archive is fetched")
	reached, release := s.bucket.Proxy.Hold("GET export.tgz", 0)
	o := s.restore(before.id, "--no-safety-backup")
	arrive(t, reached, "a part")
	s.cli(0, "op", "cancel", o.id, "--detach")
	release()
	r, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Zero(t, s.imports(core))
	o.settled()
	f.end("ended as cancelled, nothing imported, nothing left")
}

func TestRestore_CancelledInTheImport_SeesItThrough(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	before := s.archived()
	s.cluster.Node(core).SlowCommand("kato data import", -1, 3*time.Second)
	f := s.fault("an import cancelled while kato imports")
	o := s.restore(before.id, "--no-safety-backup")
	s.eventually(60*time.Second, "kato to import", func() bool { return s.running(core, "kato data import") })
	s.cli(0, "op", "cancel", o.id, "--detach")
	r, err := o.end(90 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Equal(t, 1, s.imports(core))
	for _, e := range s.cluster.Node(core).Commands() {
		if strings.Contains(e.Command(), "kato data import") {
			require.Equal(t, 0, e.ExitCode)
		}
	}
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "kato data import is not interrupted")
	o.settled()
	f.end("the import seen through, then ended as cancelled")
}
