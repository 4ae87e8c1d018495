package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/archive/archivetest/sample"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/workflows"
)

// shelves are a Temporal and an S3 server with a real worker for archives, and the command as its users run it.
type shelves struct {
	*site
	temporal *harness.Temporal
	clusters int
	// inventory is the worker's file, and the commands'.
	inventory string
	sections  map[string]string
}

// shelf is the bucket of one cluster.
type shelf struct {
	*shelves
	cluster string
	bucket  *archivetest.Bucket
	store   *archive.Store // past the proxy
}

func newShelves(t *testing.T) *shelves {
	t.Helper()
	home := t.TempDir()
	temporal, err := harness.StartTemporal(filepath.Join(home, "temporal"), "--headless")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { require.NoError(t, temporal.Stop()) })
	c, err := temporal.Client()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := &shelves{site: &site{t: t}, temporal: temporal, inventory: filepath.Join(home, "clusters.yaml"), sections: map[string]string{}}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TEMPORAL_") && !strings.HasPrefix(v, "KATOFLOW_") && !strings.HasPrefix(v, "HOME=") && !strings.HasPrefix(v, "XDG_") {
			s.env = append(s.env, v)
		}
	}
	s.env = append(s.env, "HOME="+home, "TEMPORAL_ADDRESS="+temporal.Address, "TERM=xterm", "KATOFLOW_INVENTORY="+s.inventory)
	w := worker.New(c, operation.DefaultTaskQueue, worker.Options{})
	workflows.Register(w)
	source := activities.NewSource(s.inventory, os.LookupEnv)
	w.RegisterActivity(&activities.Catalog{Source: source, Operations: c, LeftoverAge: time.Nanosecond})
	w.RegisterActivity(&activities.Archives{Source: source})
	w.RegisterActivity(&activities.Notifier{Source: source})
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
	s.wait("the worker polls", func() bool {
		return (&server{Client: c, namespace: "default"}).requireWorker(context.Background(), operation.DefaultTaskQueue) == nil
	})
	return s
}

// shelf makes a cluster with a bucket of its own.
func (s *shelves) shelf(t *testing.T, lock bool) *shelf {
	t.Helper()
	s.t = t
	s.clusters++
	b := &shelf{shelves: s, cluster: fmt.Sprintf("prod-%d", s.clusters)}
	var err error
	b.bucket, err = archivetest.NewBucket(t.Context(), s.temporal.S3, b.cluster, lock)
	require.NoError(t, err)
	t.Cleanup(b.bucket.Close)
	section, err := harness.S3Section(filepath.Dir(s.inventory), b.bucket.Proxy.URL, b.bucket)
	require.NoError(t, err)
	s.sections[b.cluster] = section
	text := "clusters:\n"
	for name, section := range s.sections {
		text += "  " + name + ":\n" + section + "    nodes: [{name: a, address: 127.0.0.1}]\n"
	}
	require.NoError(t, os.WriteFile(s.inventory, []byte(text), 0o600))
	b.store = b.open(func(*archive.Config) {})
	return b
}

func (b *shelf) open(change func(*archive.Config)) *archive.Store {
	b.t.Helper()
	cfg := archive.Config{Endpoint: b.temporal.S3.URL, Region: b.temporal.S3.Region, Bucket: b.bucket.Name, AccessKey: b.temporal.S3.AccessKey, SecretKey: b.temporal.S3.SecretKey, PathStyle: true}
	change(&cfg)
	store, err := archive.Open(cfg, nil)
	require.NoError(b.t, err)
	b.t.Cleanup(store.Close)
	return store
}

// keep makes an archive of the cluster, of the day in November.
func (b *shelf) keep(name string, day, size int, recipients ...string) []byte {
	b.t.Helper()
	data := sample.Bytes(byte(day), size)
	_, err := sample.Make(b.t.Context(), b.store, archive.Ref{Cluster: b.cluster, Operation: name}, data, time.Date(2026, 11, day, 3, 0, 0, 0, time.UTC), recipients, nil)
	require.NoError(b.t, err)
	return data
}

func (b *shelf) names() string {
	b.t.Helper()
	archives, _, err := b.store.List(b.t.Context(), b.cluster)
	require.NoError(b.t, err)
	var names []string
	for _, a := range archives {
		names = append(names, a.Operation)
	}
	return strings.Join(names, " ")
}

// decode reads the standard output of a command with -o json.
func decode[T any](p *process) T {
	p.s.t.Helper()
	var out T
	if err := json.Unmarshal([]byte(p.out.String()), &out); err != nil {
		p.s.t.Fatalf("%v: %v in %s", p.cmd.Args, err, &p.out)
	}
	return out
}

func TestBackup(t *testing.T) {
	s := newShelves(t)
	for name, test := range map[string]func(*testing.T, *shelves){
		"List_OfACluster_ShowsWhatIsAnArchive":            backupListShows,
		"Show_OfAnArchive_TellsAllOfIt":                   backupShowTells,
		"Verify_ByTheWorker_HasItsExitCode":               backupVerifyByWorker,
		"Verify_WithASecretKey_ReadsHere":                 backupVerifyHere,
		"Delete_WithoutConfirmation_TouchesNothing":       backupDelete,
		"Prune_ByARetention_ShowsReasonsAndDeletes":       backupPrune,
		"Download_IntoAFile_IsTheExport":                  backupDownload,
		"Download_Broken_GoesOnWhereItEnded":              backupDownloadGoesOn,
		"Download_OfAnEncryptedArchive_NeedsAKeyOrStored": backupDownloadEncrypted,
		"Schedule_OfVerifyAndPrune_RunsThem":              backupScheduled,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func backupListShows(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	b.run(exitDone, "backup", "list", b.cluster).says("no archives of " + b.cluster + " in s3://" + b.cluster)
	b.keep("night-1", 1, 6<<20)
	b.keep("night-2", 2, 100)
	require.NoError(t, sample.Begin(t.Context(), b.store, archive.Ref{Cluster: b.cluster, Operation: "under-way"}, sample.Bytes(3, 100)))
	out := b.run(exitDone, "backup", "list", b.cluster).out.String()
	require.Regexp(t, `(?m)^ARCHIVE +STARTED +SIZE +VERIFIED +REHEARSED +EXPORT +NODE +BY
night-2 +2026-11-02 03:00 UTC +100 B +- +- +cluster +fs-1 +a test
night-1 +2026-11-01 03:00 UTC +6 MiB +- +- +cluster +fs-1 +a test
1 that is not complete in s3://`+b.cluster+`: katoflow backup list `+b.cluster+` --incomplete
$`, out)
	b.run(exitDone, "backup", "list", b.cluster, "--incomplete").says("under-way").says("the transfer has not ended")
	b.run(exitDone, "backup", "list", b.cluster, "--limit", "1").says("and 1 older: --limit shows more")
	list := decode[operation.ArchiveList](b.run(exitDone, "backup", "list", b.cluster, "-o", "json"))
	require.Len(t, list.Archives, 2)
	require.Len(t, list.Incomplete, 1)
	require.Equal(t, int64(6<<20), list.Archives[1].Size)
	b.run(exitDone, "backup", "list", b.cluster, "-o", "yaml").says("operation: night-2")
	// A look is no operation.
	require.NotContains(t, b.run(exitDone, "op", "list", "--all", "--cluster", b.cluster).out.String(), "backup-list")
	b.bucket.Proxy.Fail("ListObjects", 1000, archivetest.AccessDenied)
	require.Regexp(t, `^katoflow: s3 bucket .*: list .*grant the right to it in the bucket's policy.*\n$`, b.run(exitError, "backup", "list", b.cluster).err.String())
}

func backupShowTells(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	b.run(exitBadInput, "backup", "show", b.cluster).says("has no archive: make one with katoflow backup create")
	_, err := sample.Make(t.Context(), b.store, archive.Ref{Cluster: b.cluster, Operation: "night-1"}, sample.Bytes(1, 6<<20), time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC), nil, func(m *archive.Manifest) {
		m.Exclude, m.Who, m.Roles = []string{"droplets"}, "ann\x1b[2J", map[string][]string{"core": {"primary"}}
		m.Content = &archive.Content{Orgs: 1, Spaces: 2, Apps: 1, AppsStarted: 1, Instances: 3, Services: 1, List: []archive.Org{{Name: "acme", Spaces: []archive.Space{
			{Name: "live", Apps: []archive.App{{Name: "shop", State: "STARTED", Instances: 3, Buildpack: "ruby"}}, Services: []archive.Service{{Name: "db", Service: "mysql", Plan: "free"}}}}}}}
	})
	require.NoError(t, err)
	out := b.run(exitDone, "backup", "show", b.cluster).out.String()
	for _, want := range []string{"archive night-1 of " + b.cluster + ": complete", "/night--1/export.tgz", "cluster without droplets", "6 MiB (6291456 bytes), 2 parts of 5 MiB",
		"never; katoflow backup verify " + b.cluster + " night-1", `ann\x1b[2J`, "1 org, 2 spaces, 1 app (1 started, 3 instances), 1 service", "core primary"} {
		require.Contains(t, out, want)
	}
	require.Regexp(t, `(?m)^acme +live +shop +STARTED +3 +ruby$`, out)
	require.Regexp(t, `(?m)^acme +live +db +mysql +free$`, out)
	require.NotContains(t, out, "\x1b")
	require.Equal(t, 2, decode[operation.ArchiveDetails](b.run(exitDone, "backup", "show", b.cluster, "night-1", "-o", "json")).Parts)
	b.run(exitBadInput, "backup", "show", b.cluster, "night-9").says("night-9 does not exist")
}

func backupVerifyByWorker(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	b.keep("night-1", 1, 6<<20)
	p := b.run(exitDone, "backup", "verify", b.cluster)
	p.says("archive night-1 is as it was written: all 6 MiB of it agree with its manifest")
	b.run(exitDone, "backup", "list", b.cluster).says(time.Now().UTC().Format("2006-01-02")) // VERIFIED
	r := b.run(exitDone, "backup", "verify", b.cluster, "night-1", "-o", "json").report()
	require.Equal(t, operation.PhaseDone, r.Phase)
	require.True(t, r.Catalog.Verification.OK)
	b.run(exitDone, "op", "show", r.OperationID).says("agree with its manifest").says("6 MiB read back until")
	b.run(exitDone, "op", "list", "--all", "--cluster", b.cluster).says("backup-verify")
	// Operations on nodes are meant by the cluster's name, and this is none.
	b.run(exitBadInput, "op", "show", b.cluster).says("no operation or cluster with an operation is called")

	// While it is read, it is said how far it is.
	_, release := b.bucket.Proxy.Hold("GET export.tgz", 0)
	defer release()
	d := decode[operation.PreflightOutcome](b.run(exitDone, "backup", "verify", b.cluster, "latest", "--detach", "-o", "json"))
	b.wait("it runs", func() bool {
		return strings.Contains(b.run(exitDone, "op", "show", d.OperationID).out.String(), "reading archive night-1 back, 6 MiB")
	})
	release()
	b.run(exitDone, "op", "watch", d.OperationID).says("agree with its manifest")

	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Flip(5<<20+9))
	p = b.run(exitArchive, "backup", "verify", b.cluster)
	require.Contains(t, p.out.String(), "archive night-1 is damaged: archive "+b.cluster+"/night-1: part 2 of 2 is not what was written")
	b.run(exitDone, "backup", "list", b.cluster).says("damaged ")
	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Flip(9))
	r = b.run(exitArchive, "backup", "verify", b.cluster, "-o", "json").report()
	require.Equal(t, operation.ErrArchive, r.Failure.Type)

	p = b.run(exitBadInput, "backup", "verify", b.cluster, "night-9")
	require.Regexp(t, `^katoflow: archive .*night-9 does not exist.*\n$`, p.err.String())
	require.NoError(t, sample.Begin(t.Context(), b.store, archive.Ref{Cluster: b.cluster, Operation: "under-way"}, sample.Bytes(3, 100)))
	b.run(exitArchive, "backup", "verify", b.cluster, "under-way").says("not complete")
}

// keyPair writes a secret key of age into a file and returns its recipient.
func keyPair(t *testing.T) (file, recipient string) {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	file = filepath.Join(t.TempDir(), "key.txt")
	require.NoError(t, os.WriteFile(file, []byte("# a key\n"+key.String()+"\n"), 0o600))
	return file, key.Recipient().String()
}

func backupVerifyHere(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	file, recipient := keyPair(t)
	other, _ := keyPair(t)
	data := b.keep("night-1", 1, 6<<20, recipient)
	b.run(exitDone, "backup", "verify", b.cluster).says("compared as it is stored, encrypted")
	require.Empty(t, decode[operation.ArchiveList](b.run(exitDone, "backup", "list", b.cluster, "-o", "json")).Archives[0].Verified.SHA256)
	sum := sha256.Sum256(data)
	b.run(exitDone, "backup", "verify", b.cluster, "--identity", file).says("and so does the export in it").says("sha256 " + hex.EncodeToString(sum[:]))
	require.Equal(t, hex.EncodeToString(sum[:]), decode[operation.ArchiveList](b.run(exitDone, "backup", "list", b.cluster, "-o", "json")).Archives[0].Verified.SHA256, "it is remembered for all")
	b.run(exitBadInput, "backup", "verify", b.cluster, "--identity", other).says("none of the identities can decrypt it")
	b.run(exitBadInput, "backup", "verify", b.cluster, "--identity", file, "--detach").says("--detach: with --identity the archive is read here")
	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Flip(5<<20+5000))
	r := b.run(exitArchive, "backup", "verify", b.cluster, "--identity", file, "-o", "json").report()
	require.Equal(t, operation.PhaseFailed, r.Phase)
	require.False(t, r.Catalog.Verification.OK)
}

func backupDelete(t *testing.T, s *shelves) {
	b := s.shelf(t, true)
	b.keep("night-1", 1, 100)
	_, err := sample.Make(t.Context(), b.open(func(c *archive.Config) { c.LockMode, c.LockFor = "COMPLIANCE", time.Hour }), archive.Ref{Cluster: b.cluster, Operation: "locked"}, sample.Bytes(1, 100), time.Now(), nil, nil)
	require.NoError(t, err)
	require.NoError(t, sample.Begin(t.Context(), b.store, archive.Ref{Cluster: b.cluster, Operation: "under-way"}, sample.Bytes(3, 100)))
	b.run(exitBadInput, "backup", "delete", b.cluster, "night-1").says("there is no terminal to ask on: confirm the deletion of archive night-1 with --confirm " + b.cluster)
	p := b.run(exitBadInput, "backup", "delete", b.cluster, "latest", "--confirm", "prod")
	require.Equal(t, 2, strings.Count(p.err.String(), "\n"), "both problems at once: %s", &p.err)
	b.run(exitArchive, "backup", "delete", b.cluster, "locked", "--confirm", b.cluster).says("object lock (COMPLIANCE) keeps it until ")
	b.run(exitArchive, "backup", "delete", b.cluster, "under-way", "--confirm", b.cluster).says("the transfer").says("only with --force")
	b.run(exitBadInput, "backup", "delete", b.cluster, "night-9", "--confirm", b.cluster).says("does not exist")
	require.Equal(t, "locked night-1", b.names())

	b.run(exitDone, "backup", "delete", b.cluster, "night-1", "--confirm", b.cluster).says("archive night-1 is deleted")
	b.run(exitDone, "backup", "delete", b.cluster, "under-way", "--confirm", b.cluster, "--force", "-o", "json").says(`"phase": "done"`)
	require.Equal(t, "locked", b.names())
	left, err := b.bucket.Uploads(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)
}

func backupPrune(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	for day := 1; day <= 4; day++ {
		b.keep(fmt.Sprintf("night-%d", day), day, 100)
	}
	require.NoError(t, sample.Begin(t.Context(), b.store, archive.Ref{Cluster: b.cluster, Operation: "dead"}, sample.Bytes(3, 100)))
	b.run(exitBadInput, "backup", "prune", b.cluster, "--keep-last", "1").says("there is no terminal to ask on: look with --dry-run, then say --yes")
	p := b.run(exitBadInput, "backup", "prune", b.cluster, "--time-zone", "Europe/Atlantis", "--yes")
	require.Equal(t, "katoflow: nothing would be kept: give at least one of keep-last, keep-daily, keep-weekly, keep-monthly\n"+
		"katoflow: --time-zone \"Europe/Atlantis\": there is no such zone, write an IANA name such as Europe/Paris, or UTC\n", p.err.String())
	b.run(exitDone, "backup", "verify", b.cluster, "night-1")

	out := b.run(exitDone, "backup", "prune", b.cluster, "--keep-last", "1", "--keep-daily", "2", "--dry-run").out.String()
	require.Regexp(t, `(?m)^keeps 1 last, 2 daily, in s3://`+b.cluster+`

ARCHIVE +STARTED +SIZE +EXPORT +WHY
night-4 +2026-11-04 03:00 UTC +100 B +cluster +kept +last, daily 2026-11-04
night-3 +2026-11-03 03:00 UTC +100 B +cluster +kept +daily 2026-11-03
night-2 +2026-11-02 03:00 UTC +100 B +cluster +would be deleted +no rule keeps it
night-1 +2026-11-01 03:00 UTC +100 B +cluster +kept +last verified

Uploads of operations that do not run any more
  dead, begun `, out)
	require.Contains(t, out, "dry run: 1 archive would be deleted, 3 would stay, nothing was changed")
	require.Equal(t, "night-4 night-3 night-2 night-1", b.names())
	b.run(exitDone, "backup", "prune", b.cluster, "--keep-last", "2", "--yes").says("1 archive deleted, 3 kept, 1 leftover upload aborted")
	require.Equal(t, "night-4 night-3 night-1", b.names())
	r := b.run(exitDone, "backup", "prune", b.cluster, "--keep-last", "1", "--yes", "-o", "json").report()
	require.Equal(t, 1, r.Catalog.Prune.Count(operation.PruneDeleted))
	b.run(exitDone, "backup", "prune", b.cluster, "--keep-last", "1", "--yes").says("0 archives deleted, 2 kept")

	b.keep("night-6", 6, 100)
	b.bucket.Proxy.Fail("DELETE manifest.json", 1000, archivetest.AccessDenied)
	b.run(exitArchive, "backup", "prune", b.cluster, "--keep-last", "1", "--yes").says("1 archive could not be deleted").says("grant the right")
	require.Equal(t, "night-6 night-4 night-1", b.names())
}

func backupDownload(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	data := b.keep("night-1", 1, 12<<20)
	dir := t.TempDir()
	file, manifest := filepath.Join(dir, "export.tgz"), filepath.Join(dir, "manifest.json")
	sum := sha256.Sum256(data)
	p := b.run(exitDone, "backup", "download", b.cluster, "--to", file, "--manifest", manifest)
	require.Equal(t, fmt.Sprintf("archive night-1 of %s is in %s: 12 MiB (12582912 bytes), sha256 %s\n", b.cluster, file, hex.EncodeToString(sum[:])), p.out.String())
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "an export holds passwords")
	text, err := os.ReadFile(manifest)
	require.NoError(t, err)
	m, err := archive.ParseManifest(text)
	require.NoError(t, err)
	require.Len(t, m.Parts, 3)

	p = b.run(exitBadInput, "backup", "download", b.cluster, "--to", file, "--manifest", manifest)
	require.Equal(t, 2, strings.Count(p.err.String(), "is there already"), "%s", &p.err)
	require.NoError(t, os.WriteFile(file, []byte("old"), 0o600))
	d := decode[downloaded](b.run(exitDone, "backup", "download", b.cluster, "night-1", "--to", file, "--force", "-o", "json"))
	require.Equal(t, downloaded{Cluster: b.cluster, Operation: "night-1", File: file, Bytes: 12 << 20, SHA256: hex.EncodeToString(sum[:])}, d)
	// A folder, and the archive's own name.
	b.run(exitDone, "backup", "download", b.cluster, "--to", dir).says(filepath.Join(dir, b.cluster+"-night-1.tgz"))
	left, err := filepath.Glob(filepath.Join(dir, "*partial*"))
	require.NoError(t, err)
	require.Empty(t, left)

	p = b.run(exitDone, "backup", "download", b.cluster, "--to", "-")
	require.True(t, p.out.String() == string(data))
	require.Contains(t, p.err.String(), "was written whole")

	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Flip(5<<20+9))
	b.run(exitArchive, "backup", "download", b.cluster, "--to", filepath.Join(dir, "damaged.tgz")).says("part 2 of 3 is not what was written")
	_, err = os.Stat(filepath.Join(dir, "damaged.tgz"))
	require.ErrorIs(t, err, os.ErrNotExist)
	b.run(exitBadInput, "backup", "download", b.cluster, "night-9").says("does not exist")
	b.run(exitBadInput, "backup", "download", b.cluster, "--to", filepath.Join(dir, "no", "such")).says("there is no folder")
}

func backupDownloadGoesOn(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	data := b.keep("night-1", 1, 22<<20)
	file := filepath.Join(t.TempDir(), "export.tgz")
	read := func() int64 {
		info, err := os.Stat(partialName(file))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	// The service goes away in the third part, for good.
	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Truncate(12<<20))
	b.bucket.Proxy.Fail("GET export.tgz", 1000, archivetest.AccessDenied)
	b.run(exitError, "backup", "download", b.cluster, "--to", file).says("10 MiB of 22 MiB are in " + partialName(file) + ": run it again to go on")
	require.Equal(t, int64(10<<20), read(), "only what was compared is kept")
	b.bucket.Proxy.Heal()

	// The process is killed in the middle, and what it had not compared is spoilt by a power cut.
	reached, release := b.bucket.Proxy.Hold("GET export.tgz", 0)
	p := b.start("backup", "download", b.cluster, "--to", file)
	<-reached
	b.run(exitBadInput, "backup", "download", b.cluster, "--to", file).says("is being written by another download")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGKILL))
	<-p.ended
	release()
	partial, err := os.OpenFile(partialName(file), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = partial.WriteAt([]byte("spoilt"), 10<<20-100)
	require.NoError(t, err)
	require.NoError(t, partial.Close())
	d := decode[downloaded](b.run(exitDone, "backup", "download", b.cluster, "--to", file, "-o", "json"))
	require.Equal(t, int64(5<<20), d.Kept, "the first part; the second is read again")
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))

	// An interrupt keeps what is there and says so; what is of another archive is not taken.
	other := b.keep("night-2", 2, 12<<20)
	second := file + ".2"
	require.NoError(t, os.WriteFile(partialName(second), data[:10<<20], 0o600))
	reached, release = b.bucket.Proxy.Hold("GET export.tgz", 0)
	defer release()
	p = b.start("backup", "download", b.cluster, "--to", second)
	<-reached
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	p.end(exitInterrupted).says("interrupted: 0 B of 12 MiB are in")
	release()
	b.run(exitDone, "backup", "download", b.cluster, "--to", second)
	got, err = os.ReadFile(second)
	require.NoError(t, err)
	require.True(t, bytes.Equal(other, got))
}

func backupDownloadEncrypted(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	key, recipient := keyPair(t)
	data := b.keep("night-1", 1, 6<<20, recipient)
	dir := t.TempDir()
	plain, stored, manifest := filepath.Join(dir, "plain.tgz"), filepath.Join(dir, "export.tgz"), filepath.Join(dir, "manifest.json")
	b.run(exitBadInput, "backup", "download", b.cluster, "--to", plain).says("is encrypted: give --identity FILE with the secret key of one of its 1 recipient, or --stored")
	b.run(exitBadInput, "backup", "download", b.cluster, "--stored", "--identity", key).says("choose one")
	p := b.run(exitBadInput, "backup", "download", b.cluster, "--identity", manifest, "--identity", b.inventory)
	require.Equal(t, 2, strings.Count(p.err.String(), "--identity"), "%s", &p.err)
	b.run(exitDone, "backup", "download", b.cluster, "--to", plain, "--identity", key)
	got, err := os.ReadFile(plain)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))

	// What is kept from a broken download is plaintext, and fits only that.
	require.NoError(t, os.WriteFile(partialName(stored), data[:5<<20], 0o600))
	d := decode[downloaded](b.run(exitDone, "backup", "download", b.cluster, "--to", stored, "--stored", "--manifest", manifest, "-o", "json"))
	require.True(t, d.Stored)
	require.Zero(t, d.Kept)
	object, err := os.ReadFile(stored)
	require.NoError(t, err)
	require.Equal(t, d.Bytes, int64(len(object)))
	text, err := os.ReadFile(manifest)
	require.NoError(t, err)
	m, err := archive.ParseManifest(text)
	require.NoError(t, err)
	for _, part := range m.Parts {
		sum := sha256.Sum256(object[part.StoredOffset : part.StoredOffset+part.StoredSize])
		require.Equal(t, part.StoredSHA256, hex.EncodeToString(sum[:]))
	}
	require.NoError(t, exec.Command("grep", "-q", "age-encryption.org", stored).Run())
}

func backupScheduled(t *testing.T, s *shelves) {
	b := s.shelf(t, false)
	for day := 1; day <= 3; day++ {
		b.keep(fmt.Sprintf("night-%d", day), day, 100)
	}
	b.run(exitBadInput, "schedule", "apply", "prune", "--cron", "0 6 * * *", "--", "backup", "prune", b.cluster, "--yes", "--dry-run").says("--yes cannot be given to a schedule: a scheduled run asks nobody")
	b.run(exitBadInput, "schedule", "apply", "prune", "--cron", "0 6 * * *", "--", "backup", "prune", b.cluster).says("nothing would be kept")
	b.run(exitBadInput, "schedule", "apply", "verify", "--cron", "0 6 * * *", "--", "backup", "verify", b.cluster, "night-1").says("is one too many")
	b.run(exitDone, "schedule", "apply", "verify", "--cron", "0 6 * * *", "--", "backup", "verify", b.cluster).says("created")
	apply := []string{"schedule", "apply", "prune", "--cron", "0 7 * * *", "--", "backup", "prune", b.cluster, "--keep-last", "1", "--time-zone", "Europe/Paris"}
	b.run(exitDone, apply...).says("created")
	b.run(exitDone, apply...).says("unchanged")
	b.run(exitDone, "schedule", "trigger", "verify", "--wait").says("archive night-3 is as it was written")
	b.run(exitDone, "schedule", "trigger", "prune", "--wait").says("2 archives deleted, 1 kept")
	require.Equal(t, "night-3", b.names())
	b.wait("the run is listed", func() bool {
		return strings.Contains(b.run(exitDone, "schedule", "show", "prune").out.String(), "2 archives deleted, 1 kept")
	})
	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Flip(9))
	b.run(exitArchive, "schedule", "trigger", "verify", "--wait").says("is damaged")
}

func TestDocs_LoopOfPlainAge_IsTheOneThatIsTested(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "internal", "archive", "doc.go"))
	require.NoError(t, err)
	loop := regexp.MustCompile(`(?s)//\tawk .*?manifest's "sha256"\n`).FindString(string(doc))
	require.NotEmpty(t, loop)
	guide, err := os.ReadFile(filepath.Join("..", "docs", "backups.md"))
	require.NoError(t, err)
	require.Contains(t, string(guide), "```sh\n"+strings.ReplaceAll(loop, "//\t", "")+"```\n", "package archive's tests run that loop")
}

func TestDocs_CommandsOfTheGuide_AreUnderstood(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("..", "docs", "backups.md"))
	require.NoError(t, err)
	seen := 0
	for _, line := range regexp.MustCompile(`(?m)^katoflow (backup|schedule) .*$`).FindAllString(string(guide), -1) {
		line, _, _ = strings.Cut(line, "  #")
		line, _, _ = strings.Cut(line, " | ")
		const recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
		argv := regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(strings.NewReplacer("age1...", recipient, "$(age-keygen -y key.txt)", recipient).Replace(line), -1)
		for i := range argv {
			argv[i] = strings.Trim(argv[i], `"`)
		}
		cmd := exec.Command("katoflow", argv[1:]...)
		cmd.Dir = t.TempDir()
		cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=" + os.Getenv("PATH"), "TEMPORAL_ADDRESS=127.0.0.1:1"}
		out, _ := cmd.CombinedOutput()
		// It comes as far as it can without a server, a terminal, a key or an inventory.
		require.Regexp(t, `no Temporal server answers|no terminal to ask on|no inventory file|key\.txt: no such file|clusters\.yaml: no such file|there is no folder /srv`, string(out), line)
		require.NotRegexp(t, `unknown|one too many|--help`, string(out), line)
		seen++
	}
	require.Greater(t, seen, 20)
}
