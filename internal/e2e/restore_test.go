package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
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
			c.AddUser("owner", "of the app", false)
			before := s.archived()
			c.RemoveUser("owner")
			c.Remove(s.guid("lost", "dev", "found-again"))
			require.Empty(t, s.guid("lost", "dev", "found-again"))

			o := s.restore(before.id, "--transfer", string(mode))
			r := o.done(2 * time.Minute)
			require.Equal(t, mode, r.Restore.Transfer)
			require.Equal(t, s.cluster.Name()+"/"+before.id, r.Restore.Archive)
			require.NotNil(t, r.Restore.Recorded)
			require.Equal(t, 2, r.Restore.Recorded.Users, "with the admin")
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
			require.Contains(t, r.Restore.Safety, strings.ReplaceAll(safety.id, "-", "--"))
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
		`there is no file "some"`:        {"a1", "--cluster", name, "--confirm", name, "--restage", "some"},
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

// sealed makes an encrypted archive of the cluster, and gives the worker a key that opens it when open is set, another one else.
func (s *site) sealed(open bool) *op {
	s.t.Helper()
	identity, err := age.GenerateX25519Identity()
	require.NoError(s.t, err)
	o := s.backup("--maintenance", "off", "--encrypt-to", identity.Recipient().String())
	o.done(90 * time.Second)
	s.bucket.Proxy.Forget()
	if !open {
		identity, err = age.GenerateX25519Identity()
		require.NoError(s.t, err)
	}
	s.write("identity", identity.String()+"\n")
	s.replace("secret_key: {file:", fmt.Sprintf("identity: {file: %q}, secret_key: {file:", filepath.Join(s.Dir, "identity")))
	return o
}

func TestRestore_EncryptedWithoutItsKey_IsRefused(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node but to ask")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	refuses := func(archive string, args ...string) string {
		out := s.cli(7, append([]string{"backup", "restore", archive, "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name(), "--no-safety-backup"}, args...)...)
		require.Zero(t, s.imports(core))
		return out.Stderr
	}
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	before := s.backup("--maintenance", "off", "--encrypt-to", identity.Recipient().String())
	before.done(90 * time.Second)
	f := s.fault("an encrypted archive without its key, with another one, and by the node")
	require.Contains(t, refuses(before.id), "is encrypted, and the worker has no key to it: write s3.identity into the inventory")
	other := s.sealed(false)
	require.Contains(t, refuses(other.id), "is encrypted to other keys than that of s3.identity: see its recipients with katoflow backup show")
	s.write("identity", identity.String()+"\n")
	require.Contains(t, refuses(before.id, "--transfer", "direct"), "is encrypted, and no node gets a secret key: use --transfer worker, or auto")
	s.write("identity", "my password\n")
	told := refuses(before.id)
	require.Contains(t, told, "s3.identity: no age key file and no SSH private key")
	require.NotContains(t, told, "my password")
	f.end(refused)
}

func TestRestore_Encrypted_IsDecryptedOnItsWay(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	c := s.controller()
	require.NoError(t, s.exporter(files).ExportSize(multiparted))
	c.AddApp("lost", "dev", cloudcontroller.App{Name: "found-again", Instances: 2})
	before := s.sealed(true)
	c.Remove(s.guid("lost", "dev", "found-again"))
	o := s.restore(before.id, "--no-safety-backup")
	r := o.done(2 * time.Minute)
	require.Equal(t, operation.TransferWorker, r.Restore.Transfer, "auto takes the only way there is")
	require.Equal(t, r.Restore.Recorded, r.Restore.Found)
	require.Empty(t, r.Restore.Missing)
	require.NotEmpty(t, s.guid("lost", "dev", "found-again"))
	require.Equal(t, 1, s.imports(core))
	o.settled()
	// The key is in the worker's memory alone.
	key, err := os.ReadFile(filepath.Join(s.Dir, "identity"))
	require.NoError(t, err)
	secret := strings.TrimSpace(string(key))
	for _, e := range s.history(o.workflow) {
		require.NotContains(t, e.String(), secret)
	}
	logs, err := filepath.Glob(filepath.Join(s.Dir, "worker-*.log"))
	require.NoError(t, err)
	for _, l := range logs {
		text, err := os.ReadFile(l)
		require.NoError(t, err)
		require.NotContains(t, string(text), secret)
	}
}

func TestRestore_EncryptedAndTampered_IsNotImported(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it is S3 that is tampered with")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	require.NoError(t, s.exporter(files).ExportSize(multiparted))
	before := s.sealed(true)
	f := s.fault("an encrypted archive was tampered with in its bucket")
	var asked atomic.Int64
	s.bucket.Proxy.Fail("GET export.tgz", archivetest.Always, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if asked.Add(1) == 1 { // the preflight opens the first part
			forward.ServeHTTP(w, r)
			return
		}
		archivetest.Flip(1<<20)(w, r, forward)
	})
	o := s.restore(before.id, "--no-safety-backup")
	q := o.question(90 * time.Second)
	require.Equal(t, operation.StepFetch+" "+operation.ErrArchive, q.Step+" "+q.Cause.Type, q.Cause.Message)
	require.Contains(t, q.Cause.Message, "cannot be decrypted: it is not what was written")
	o.decide(q, operation.Abort)
	_, err := o.end(60 * time.Second)
	require.Error(t, err)
	require.Zero(t, s.imports(core))
	o.settled()
	f.end(parkedFor("fetch (Archive)", "aborted, nothing imported"))
}

func TestRestore_EncryptedAndWorkerKilledInAPart_GoesOn(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the way of a plain archive is killed there")
	s := newSite(t, nil, nil, exporting)
	w := s.worker("")
	require.NoError(t, s.exporter(files).ExportSize(multiparted))
	before := s.sealed(true)
	f := s.fault("worker killed while an encrypted archive is fetched")
	o := s.restoreDirectly(operation.RestoreInput{Archive: before.id, NoSafetyBackup: true})
	ctx, cancel := context.WithTimeout(context.Background(), stretched(60*time.Second))
	defer cancel()
	release, err := during("Fetch", inFetch(2))(ctx, o)
	require.NoError(t, err)
	w.Kill()
	release()
	s.worker("")
	r := o.done(2 * time.Minute)
	require.Equal(t, 1, s.imports(core))
	require.Empty(t, r.Restore.Missing)
	require.LessOrEqual(t, s.bucket.Proxy.Count("GET export.tgz"), 6+2*partsInFlight, "parts read")
	o.settled()
	f.end(wentOn)
}

// inFetch is the middle of a fetch, when so many parts have been asked for since it began; the next one stands still until the worker is dead.
func inFetch(others int) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		reached, release := o.bucket.Proxy.Hold("GET export.tgz", 0)
		select {
		case <-reached:
		case <-ctx.Done():
			release()
			return nil, fmt.Errorf("no part was asked for: %w", ctx.Err())
		}
		return release, waitIn(ctx, "other parts", func() bool { return o.bucket.Proxy.Count("GET export.tgz") >= others })
	}
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
	s.cluster.Node(core).SlowCommand("kato data import", -1, time.Minute)
	f := s.fault("an import cancelled while kato imports")
	o := s.restore(before.id, "--no-safety-backup")
	s.eventually(60*time.Second, "kato to import", func() bool { return s.running(core, "kato data import") })
	s.cli(0, "op", "cancel", o.id, "--detach")
	o.seesThrough()
	s.cluster.Node(core).HealCommands()
	r, err := o.end(90 * time.Second)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Equal(t, 1, s.imports(core))
	for _, e := range s.cluster.Node(core).Commands() {
		if strings.Contains(e.Command(), "kato data import") {
			require.Equal(t, 0, e.ExitCode)
		}
	}
	o.settled()
	f.end("the import seen through, then ended as cancelled")
}

// seesThrough waits until an import that was cancelled says that kato is not interrupted.
func (o *op) seesThrough() {
	o.t.Helper()
	o.until(20*time.Second, "the word that kato data import is not interrupted", func(r operation.Report) bool {
		return len(r.Nodes) > 0 && strings.Contains(strings.Join(r.Nodes[0].Notes, "\n"), "kato data import is not interrupted")
	})
}

// importer is a node that imports, with what can happen to it there. Package katodouble says what each does.
type importer interface {
	machine
	ImportWith(p katodouble.ImportPatch) error
}

func (s *site) importer() importer {
	s.t.Helper()
	n, ok := s.cluster.Node(core).(importer)
	require.True(s.t, ok, "%s has no faults of imports", core)
	return n
}

func TestRestore_AppsFail_AreStagedAnewAndThoseThatDoNotRunAreTold(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the Cloud Controller's faults are the same")
	stopped, failed := katodouble.FailedAndStopped, katodouble.FailedToStage
	long, short := katodouble.LongList, katodouble.ShortList
	stackato, helion := katodouble.Stackato, katodouble.Helion
	for name, patch := range map[string]katodouble.ImportPatch{
		"stackato, long list, left stopped": {Product: &stackato, List: &long, LeaveFailed: &stopped},
		"helion, short list, not staged":    {Product: &helion, List: &short, LeaveFailed: &failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			c := s.controller()
			c.StartTime(200*time.Millisecond, 0)
			for _, app := range []string{"heals", "stays-broken", "well"} {
				c.AddApp("broken", "dev", cloudcontroller.App{Name: app})
			}
			c.AddApp("broken", "dev", cloudcontroller.App{Name: "was-stopped", State: "STOPPED"})
			before := s.archived()
			patch.FailApps = []string{"broken/dev/heals", "broken/dev/stays-broken"}
			require.NoError(t, s.importer().ImportWith(patch))
			c.FailApp(s.guid("broken", "dev", "stays-broken"), cloudcontroller.StagingFails, -1)
			f := s.fault("an import after which two apps do not run (%s)", name)
			out := s.cli(12, "backup", "restore", before.id, "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name(), "--no-safety-backup", "--app-timeout", "20s")
			require.Regexp(t, "broken/dev/stays-broken +failed .*its staging failed", out.Stdout)
			require.Contains(t, out.Stdout, "kato named as failed: broken/dev/heals,broken/dev/stays-broken")
			require.Equal(t, 1, s.imports(core))
			id := s.latest(operation.KindRestore)
			r, err := s.attachTo(operation.KindRestore, id).report()
			require.NoError(t, err)
			counts := outcomesOf(r)
			require.Equal(t, 1, counts[operation.AppFailed])
			require.Equal(t, 1, counts[operation.AppRestaged])
			require.Equal(t, []string{"import", "redeploy"}, writes(c, s.guid("broken", "dev", "well")), "an app that runs is left alone")
			require.Equal(t, "STOPPED", c.AppState(s.guid("broken", "dev", "was-stopped")))
			f.end("staged anew, the one that does not run told with its reason, exit code 12")

			c.HealApp(s.guid("broken", "dev", "stays-broken"))
			again := s.apps("redeploy", "--from-report", id).done(60 * time.Second)
			require.Equal(t, map[string]int{operation.AppRestaged: 1}, outcomesOf(again))
		})
	}
}

func TestRestore_AppsNamedInAFile_AreStagedAnewAlthoughTheyRun(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the Cloud Controller is the same")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	c := s.controller()
	for _, app := range []string{"baked-1", "baked-2", "plain"} {
		c.AddApp("shop", "moved", cloudcontroller.App{Name: app})
	}
	before := s.archived()
	file := filepath.Join(t.TempDir(), "apps")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	args := []string{"backup", "restore", before.id, "--cluster", s.cluster.Name(), "--confirm", s.cluster.Name(), "--no-safety-backup", "--restage", file}

	write("# none\n\n")
	require.Contains(t, s.cli(2, args...).Stderr, "names no app")
	write("shop/moved/*\nshop\n")
	require.Contains(t, s.cli(2, args...).Stderr, `:2: app "shop"`)
	write("shop/moved/backed-1\n")
	require.Contains(t, s.cli(7, args...).Stderr, "the archive has no app shop/moved/backed-1")
	require.Zero(t, s.imports(core))

	write("# of the old database\n  shop/moved/baked-*\r\n")
	require.Contains(t, s.cli(0, args...).Stdout, "2 restaged")
	for app, want := range map[string][]string{"baked-1": {"import", "redeploy", "restage", "STARTED"}, "baked-2": {"import", "redeploy", "restage", "STARTED"}, "plain": {"import", "redeploy"}} {
		require.Equal(t, want, writes(c, s.guid("shop", "moved", app)), app)
	}
}

func TestRestore_KatoGoesWrong_IsAskedAboutAndNothingIsCalledRestored(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault  katodouble.ImportFault
		step   string
		kind   string
		words  string
		answer operation.Decision
		// imports of kato, and whether all is well at the end.
		imports int
		well    bool
	}{
		"exit 0 with an error, imported again":    {katodouble.ImportErrorText, operation.StepVerify, operation.ErrVerify, "ended with 0 and said", operation.Retry, 2, true},
		"exit 1 in the middle, imported again":    {katodouble.ImportFails, operation.StepImport, operation.ErrRemoteExit, "exit code 1", operation.Retry, 2, true},
		"exit 0 with an error, left so":           {katodouble.ImportErrorText, operation.StepVerify, operation.ErrVerify, "ended with 0 and said", operation.Leave, 1, false},
		"halted at an app, the rest seen to":      {katodouble.ImportHalts, operation.StepImport, operation.ErrRemoteExit, "exit code 1", operation.Leave, 1, false},
		"services lost, told as missing":          {katodouble.ImportServicesLost, operation.StepVerify, operation.ErrVerify, "service ", operation.Leave, 1, false},
		"services lost, imported again and there": {katodouble.ImportServicesLost, operation.StepVerify, operation.ErrVerify, "not there", operation.Retry, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if onHosts() && (c.fault != katodouble.ImportErrorText || !c.well) {
				t.Skip("one of them is enough on real hosts")
			}
			s := newSite(t, nil, nil, exporting)
			s.worker("")
			cc := s.controller()
			service := cc.AddService("shop", "production", "restored-db", "mysql", "free")
			before := s.archived()
			if c.fault == katodouble.ImportServicesLost {
				cc.Remove(service)
			}
			once := 1
			require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{Fault: &c.fault, Times: &once}))
			f := s.fault("kato data import: %s", name)
			o := s.restore(before.id, "--no-safety-backup")
			q := o.question(60 * time.Second)
			require.Equal(t, []string{core, c.step, c.kind}, []string{q.Node, q.Step, q.Cause.Type}, q.Cause.Message)
			require.Contains(t, q.Cause.Message, c.words)
			o.decide(q, c.answer)
			r, err := o.end(90 * time.Second)
			if c.well {
				require.NoError(t, err)
				require.Empty(t, r.Restore.Missing)
			} else {
				require.Error(t, err)
				require.Equal(t, operation.ErrRestored, r.Failure.Type)
				require.Zero(t, outcomesOf(r)[operation.AppFailed], "apps are seen to all the same")
				if c.fault == katodouble.ImportServicesLost {
					require.Equal(t, []string{"service shop/production/restored-db"}, r.Restore.Missing)
				} else {
					require.Contains(t, r.Failure.Message, "left so: ")
				}
			}
			require.Equal(t, c.imports, s.imports(core))
			o.settled()
			f.end(parkedFor(c.step+" ("+c.kind+")", string(c.answer)))
		})
	}
}

func TestRestore_CancelledAroundTheBeginOfTheImport_BeginsNoneAfterIt(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the moment is the workflow's")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	before := s.archived()
	s.cluster.Node(core).SlowCommand("tar tzf", -1, 600*time.Millisecond)
	for _, after := range []time.Duration{500, 600, 700, 800, 900, 1000, 1100, 1200} {
		begun := s.imports(core)
		o := s.restoreDirectly(operation.RestoreInput{Archive: before.id, NoSafetyBackup: true})
		o.until(60*time.Second, "the check", func(r operation.Report) bool {
			return len(r.Nodes) == 1 && r.Nodes[0].Step == operation.StepCheck || r.Finished()
		})
		timer := time.NewTimer(after*time.Millisecond - 300*time.Millisecond)
		<-timer.C
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := s.client.CancelWorkflow(ctx, o.workflow, "")
		cancel()
		r, _ := o.end(60 * time.Second)
		if err != nil || r.Phase == operation.PhaseDone {
			continue // it had ended before
		}
		require.Equal(t, operation.PhaseCancelled, r.Phase)
		asked, imported := o.order("Import")
		if imported > 0 {
			require.Less(t, imported, asked, "the import was begun after the cancel")
			require.Equal(t, begun+1, s.imports(core))
			require.Contains(t, r.Message, "kato data import has run")
		} else {
			require.Equal(t, begun, s.imports(core))
			require.Contains(t, r.Message, "nothing was imported")
		}
	}
}

// order is the number of the event by which the operation was asked to cancel, and of that by which an activity was scheduled, 0 for none.
func (o *op) order(activity string) (cancelled, scheduled int64) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	events := o.client.GetWorkflowHistory(ctx, o.workflow, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		require.NoError(o.t, err)
		if e.GetWorkflowExecutionCancelRequestedEventAttributes() != nil {
			cancelled = e.GetEventId()
		}
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil && a.GetActivityType().GetName() == activity {
			scheduled = e.GetEventId()
		}
	}
	return cancelled, scheduled
}

func TestRestore_ImportTakesTooLong_NothingIsRemovedUnderItAndItIsFollowedOn(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it is a matter of the workflow")
	for name, cancelled := range map[string]bool{"answered": false, "cancelled first": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.inventory(quickGates + "    export: {timeout: 3s}\n")
			s.worker("")
			before := s.archived()
			seconds := 9.0
			require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{Seconds: &seconds}))
			f := s.fault("kato's import takes longer than it may (%s)", name)
			o := s.restore(before.id, "--no-safety-backup")
			s.eventually(30*time.Second, "kato to import", func() bool { return s.running(core, "kato data import") })
			if cancelled {
				s.cli(0, "op", "cancel", o.id, "--detach")
			}
			q := o.question(60 * time.Second)
			require.Equal(t, []string{operation.StepImport, operation.ErrTimeout}, []string{q.Step, q.Cause.Type}, q.Cause.Message)
			require.Equal(t, []operation.Decision{operation.Retry, operation.Leave}, q.Choices)
			require.NotEmpty(t, o.staged(core), "the archive is there as long as kato may read it")
			require.True(t, o.locked())
			for {
				o.decide(q, operation.Retry)
				r := o.until(60*time.Second, "the end, or the next question", func(r operation.Report) bool {
					return r.Finished() || len(r.Questions) > 0 && r.Questions[0].Try > q.Try
				})
				if r.Finished() {
					break
				}
				q = r.Questions[0]
			}
			r, err := o.end(60 * time.Second)
			if cancelled {
				require.Error(t, err)
				require.Equal(t, operation.PhaseCancelled, r.Phase)
				require.Contains(t, r.Message, "kato data import has run")
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, 1, s.imports(core))
			o.settled()
			f.end(parkedFor("import (Timeout)", "followed on"))
		})
	}
}

func TestRestore_MaintenanceSetSinceThePreflight_AsksBeforeItImports(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	before := s.archived()
	f := s.fault("maintenance mode set by somebody after the preflight of an import")
	reached, release := s.bucket.Proxy.Hold("GET export.tgz", 0)
	o := s.restore(before.id, "--no-safety-backup")
	arrive(t, reached, "a part")
	s.controller().SetMaintenance(true)
	release()
	q := o.question(60 * time.Second)
	require.Equal(t, []string{operation.StepImport, operation.ErrPreflight}, []string{q.Step, q.Cause.Type}, q.Cause.Message)
	require.Contains(t, q.Cause.Message, "maintenance mode is on")
	require.Zero(t, s.imports(core))
	s.controller().SetMaintenance(false)
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	require.Equal(t, 1, s.imports(core))
	f.end(parkedFor("import (Preflight)", "imported when it was over"))
}

func TestRestore_NodeOrItsNetworkGone_GoesOnOrAsks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks func(s *site)
		asks   bool
	}{
		"connections dropped in the import": {func(s *site) { s.cluster.Node(core).DropConnections() }, false},
		"the Core reboots in the import":    {func(s *site) { s.cluster.Node(core).RebootNow() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			s.limits(patient)
			s.worker("")
			before := s.archived()
			seconds := in(3.0, 12.0)
			require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{Seconds: &seconds}))
			f := s.fault("%s", name)
			o := s.restore(before.id, "--no-safety-backup")
			// kato's own logins, from the Core to every node, are over by then: those would be dropped, too.
			s.eventually(60*time.Second, "kato to import", func() bool {
				return s.running(core, "kato data import") &&
					strings.Contains(s.shell(core, "cat ~/.local/state/katoflow/jobs/*/output /var/lib/katoflow/*/jobs/*/output 2>/dev/null || true"), "Unpacking")
			})
			c.breaks(s)
			if !c.asks {
				o.done(2 * time.Minute)
				require.Equal(t, 1, s.imports(core))
				o.settled()
				f.end("went on by itself")
				return
			}
			q := o.question(2 * time.Minute)
			require.Equal(t, []string{operation.StepImport, operation.ErrInterrupted}, []string{q.Step, q.Cause.Type}, q.Cause.Message)
			o.decide(q, operation.Retry)
			o.done(2 * time.Minute)
			// A real host that is reset has no record of what it was at.
			require.Equal(t, in(2, 1), s.imports(core))
			f.end(parkedFor("import (Interrupted)", "imported again"))
		})
	}
}

func TestRestore_AThousandAppsOfWhich37Fail_AreAllSeenTo(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it is a matter of numbers")
	if testing.Short() {
		t.Skip("a thousand apps take their time")
	}
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	c := s.controller()
	c.FillMany(1000)
	before := s.archived()
	share := 0.037
	require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{FailShare: &share}))
	o := s.restore(before.id, "--no-safety-backup", "--apps-at-once", "50")
	r := o.done(3 * time.Minute)
	require.Empty(t, r.Restore.Missing)
	require.Len(t, r.Restore.Named, 37)
	require.Equal(t, r.Restore.Recorded.AppsStarted, r.Apps.Counts[operation.AppRunning]+r.Apps.Counts[operation.AppRestaged])
	require.GreaterOrEqual(t, r.Apps.Counts[operation.AppRestaged], 37)
	require.Equal(t, 1, s.imports(core))
}

// restoreMatrix is an import whose steps take long enough to be killed in their middle, after which one app is to be staged anew.
func restoreMatrix(mode operation.TransferMode) matrix {
	return matrix{
		site: func(t *testing.T) *site {
			s := newSite(t, nil, nil, exporting)
			require.NoError(t, s.exporter(files).ExportSize(multiparted))
			w := s.worker("")
			s.controller().AddApp("broken", "dev", cloudcontroller.App{Name: "heals"})
			before := s.archived()
			require.NoError(t, w.Stop())
			s.archive = before.id
			half, stopped := 0.8, katodouble.FailedAndStopped
			require.NoError(t, s.importer().ImportWith(katodouble.ImportPatch{Seconds: &half, FailApps: []string{"broken/dev/heals"}, LeaveFailed: &stopped}))
			s.cluster.Node(core).SlowCommand("tar tzf", -1, time.Second)
			return s
		},
		start: func(s *site) *op {
			return s.restoreDirectly(operation.RestoreInput{Archive: s.archive, Transfer: mode, NoSafetyBackup: true})
		},
		intact: func(o *op, kills int) {
			r := o.done(2 * time.Minute)
			require.Equal(o.t, 1, o.imports(core), "runs of kato data import")
			require.Empty(o.t, r.Restore.Missing)
			require.Equal(o.t, r.Restore.Recorded.Apps, r.Restore.Found.Apps)
			require.Equal(o.t, 1, outcomesOf(r)[operation.AppRestaged])
			require.Zero(o.t, outcomesOf(r)[operation.AppFailed])
			require.LessOrEqual(o.t, o.bucket.Proxy.Count("GET export.tgz"), 5+2*kills*partsInFlight, "parts read")
			o.settled()
		},
	}
}

// TestKillMatrix_OfARestore kills the worker at the boundaries of every activity of an import and in the middle of its steps, and requires that kato imported once, that
// everything came back, that the app which was to be staged anew was, and that nothing was left behind.
func TestKillMatrix_OfARestore(t *testing.T) {
	t.Parallel()
	t.Run("points", func(t *testing.T) {
		worker := restoreMatrix(operation.TransferWorker)
		worker.lanes(t, "by the worker", 4, slices.Concat(
			boundaries("RestoreReady", "PrepareImport"),
			within("Fetch", killPoint{name: "in a part", moment: atRequest("GET export.tgz")}),
			within("CheckArchive", killPoint{name: "in check", moment: inProcess(core, "tar tzf /")}),
			within("Import", killPoint{name: "in import", moment: inCommand(core, "kato data import")}),
			boundaries("Restored", "TidyExport")))
		direct := restoreMatrix(operation.TransferDirect)
		direct.lanes(t, "by the node", 2, within("Fetch", killPoint{name: "in a part", moment: atRequest("GET export.tgz")}))
	})
	tellKills(t, "restore")
}
