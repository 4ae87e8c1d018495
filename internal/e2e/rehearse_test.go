package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// scratch adds a second cluster to the site's inventory, with more lines for it, and returns the site with that one as its cluster: bucket, worker and archives stay
// those of the first.
func (s *site) scratch(lines string) *site { return s.second(lines, rehearsing) }

// rehearsing is a cluster of archives that are rehearsed, or of their rehearsal; one real host is enough for it.
func rehearsing(c *config) { in(exporting, onTheCore)(c) }

// second is a second cluster, as of scratch.
func (s *site) second(lines string, options ...siteOption) *site {
	s.t.Helper()
	cfg := config{name: s.cluster.Name() + "-scratch", platform: "als"}
	for _, o := range options {
		o(&cfg)
	}
	var second cluster
	if onHosts() {
		require.Equal(s.t, len(cfg.nodes), s.beside, "the room that the site has left for its second cluster")
		cfg.seated = true
		second = startHosts(s.t, cfg)
	} else {
		second = startSimulated(s.t, filepath.Join(s.Dir, "scratch"), cfg)
	}
	s.t.Cleanup(func() { require.NoError(s.t, second.Close()) })
	of := *s
	of.cluster = second
	s.t.Cleanup(func() {
		if s.t.Failed() {
			of.showCommands()
		}
	})
	_, section, found := strings.Cut(string(second.InventoryYAML()), "clusters:\n")
	require.True(s.t, found)
	key := "  " + second.Name() + ":\n"
	require.Contains(s.t, section, key)
	text, err := os.ReadFile(s.Inventory)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(s.Inventory, []byte(string(text)+strings.Replace(section, key, key+lines+quickGates, 1)), 0o600))
	return &of
}

// throwaway is what the inventory says of a scratch cluster.
const throwaway = "    scratch: true\n"

// rehearse runs a rehearsal by the CLI to its end, and requires its exit code.
func (s *site) rehearse(code int, archive string, args ...string) (*op, operation.Report) {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(code, append([]string{"backup", "rehearse", archive, "--cluster", s.cluster.Name(), "--id", id}, args...)...)
	o := s.attachTo(operation.KindRehearse, id)
	r, err := o.report()
	require.NoError(s.t, err)
	return o, r
}

// listedOf is what backup list tells of an archive of a cluster.
func (s *site) listedOf(cluster, name string) operation.Archive {
	s.t.Helper()
	var l operation.ArchiveList
	require.NoError(s.t, s.cli(0, "backup", "list", cluster, "-o", "json").JSON(&l))
	for _, a := range l.Archives {
		if a.Operation == name {
			return a
		}
	}
	require.FailNow(s.t, "the archive is not listed", "%s of %+v", name, l.Archives)
	return operation.Archive{}
}

func TestRehearse_OfAnEncryptedArchive_IsListedAsProven(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the way of an encrypted archive is the same on real hosts, and an import shows it there")
	s := newSite(t, nil, nil, rehearsing)
	scratch := s.scratch(throwaway)
	s.worker("")
	s.controller().AddApp("shop", "production", cloudcontroller.App{Name: "rehearsed", Instances: 2})
	sealed := s.sealed(true)
	_, r := scratch.rehearse(0, s.cluster.Name()+"/"+sealed.id)
	require.Equal(t, operation.PhaseDone, r.Phase)
	proven := s.listedOf(s.cluster.Name(), sealed.id)
	require.True(t, proven.Encrypted)
	require.True(t, proven.Rehearsed.OK, proven.Rehearsed.Problem)
}

func TestRehearse_OfAGoodArchive_IsListedAsProvenAndNeverPruned(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, rehearsing, beside(1))
	scratch := s.scratch(throwaway)
	s.worker("")
	name := s.cluster.Name()
	s.controller().AddApp("shop", "production", cloudcontroller.App{Name: "rehearsed", Instances: 2})
	s.controller().AddService("shop", "production", "rehearsed-db", "mysql", "free")
	// What is there of others stays; what is there of the archive's does not count.
	scratch.controller().AddApp("others", "dev", cloudcontroller.App{Name: "stays"})
	scratch.controller().AddApp("shop", "production", cloudcontroller.App{Name: "of-an-earlier-one"})
	older, proven := s.archived(), s.archived()

	dry := s.cli(0, "backup", "rehearse", name+"/"+proven.id, "--cluster", scratch.cluster.Name(), "--dry-run").Stdout
	for _, want := range []string{"DELETE /v2/organizations/GUID?recursive=true", "kato data import --cluster", "PUT rehearsed.json"} {
		require.Contains(t, dry, want)
	}
	require.Zero(t, scratch.imports(core))
	require.Nil(t, s.listedOf(name, proven.id).Rehearsed)
	require.Contains(t, s.cli(0, "backup", "show", name, proven.id).Stdout, "rehearsed    never")

	o, r := scratch.rehearse(0, name)
	require.Equal(t, operation.KindRehearse, r.Kind)
	require.Equal(t, operation.PhaseDone, r.Phase)
	require.Contains(t, r.Message, "is proven restorable")
	require.Empty(t, r.Restore.Safety)
	require.Empty(t, r.Restore.Missing)
	require.Equal(t, name+"/"+proven.id, r.Restore.Archive)
	require.Equal(t, 1, scratch.imports(core))
	require.Zero(t, s.imports(core), "the cluster of the archive is not touched")
	require.Zero(t, scratch.exports(in(files, core)), "a scratch cluster is not backed up")
	require.NotEmpty(t, scratch.guid("shop", "production", "rehearsed"))
	require.NotEmpty(t, scratch.guid("others", "dev", "stays"))
	require.Empty(t, scratch.guid("shop", "production", "of-an-earlier-one"))
	o.settled()

	found := s.listedOf(name, proven.id).Rehearsed
	require.NotNil(t, found)
	require.True(t, found.OK, found.Problem)
	require.Equal(t, []any{o.id, scratch.cluster.Name(), r.Restore.Recorded.AppsStarted, 0}, []any{found.Operation, found.Cluster, found.AppsRunning, found.AppsFailed})
	require.Regexp(t, proven.id+` .* `+found.At[:10], s.cli(0, "backup", "list", name).Stdout)
	require.Contains(t, s.cli(0, "backup", "show", name, proven.id).Stdout, "proven restorable, the last one of "+name+" that is")
	require.Nil(t, s.listedOf(name, older.id).Rehearsed)

	newer := s.archived()
	pruned := s.cli(0, "backup", "prune", name, "--keep-last", "1", "--yes").Stdout
	require.Regexp(t, proven.id+` .*kept +last proven restorable`, pruned)
	require.Regexp(t, older.id+` .*deleted`, pruned)
	// A newer one that is proven takes its place.
	scratch.rehearse(0, name+"/"+newer.id)
	require.Regexp(t, proven.id+` .*deleted`, s.cli(0, "backup", "prune", name, "--keep-last", "1", "--yes").Stdout)
	require.Contains(t, s.cli(0, "backup", "delete", name, newer.id, "--confirm", name).Stdout, "it is the last archive of "+name+" that is proven restorable")
}

func TestRehearse_OfAnArchiveThatDoesNotComeBackWhole_IsToldAndDoesNotCount(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "what is held against the manifest is the controller's")
	for name, c := range map[string]struct {
		patch   func(*katodouble.ImportPatch)
		problem string
	}{
		"services lost": {patch: func(p *katodouble.ImportPatch) {
			fault := katodouble.ImportServicesLost
			p.Fault = &fault
		}, problem: "6 things of the archive not there: service "},
		"an app that does not come up": {patch: func(p *katodouble.ImportPatch) {
			p.FailApps = []string{"shop/production/broken"}
		}, problem: "1 app of 6 not running, such as shop/production/broken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, exporting)
			scratch := s.scratch(throwaway)
			s.worker("")
			name := s.cluster.Name()
			broken := s.controller().AddApp("shop", "production", cloudcontroller.App{Name: "broken"})
			s.controller().AddService("shop", "production", "rehearsed-db", "mysql", "free")
			made := s.archived()
			// All is proven once, and what came then is still there: it proves nothing.
			scratch.rehearse(0, name)
			require.True(t, s.listedOf(name, made.id).Rehearsed.OK)
			once := 1
			patch := katodouble.ImportPatch{Times: &once}
			c.patch(&patch)
			require.NoError(t, scratch.importer().ImportWith(patch))
			scratch.controller().Fail("/v2/apps/"+broken+"/restage", 1000, 400)
			_, r := scratch.rehearse(12, name+"/"+made.id, "--app-timeout", "20s")
			require.Equal(t, operation.PhaseFailed, r.Phase)
			require.Empty(t, r.Answers, "nobody was asked")
			require.Contains(t, r.Restore.Rehearsal.Problem, c.problem)
			found := s.listedOf(name, made.id).Rehearsed
			require.False(t, found.OK)
			require.Contains(t, found.Problem, c.problem)
			require.Contains(t, s.cli(0, "backup", "list", name).Stdout, "failed "+found.At[:10])
			s.archived()
			require.Regexp(t, made.id+` .*deleted`, s.cli(0, "backup", "prune", name, "--keep-last", "1", "--yes").Stdout)
		})
	}
}

func TestRehearse_InAClusterThatMayNotLoseItsContent_IsRefused(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "it reaches no node")
	s := newSite(t, nil, nil, exporting)
	scratch := s.scratch("")
	s.worker("")
	name, other := s.cluster.Name(), scratch.cluster.Name()
	one := func(code int, want string, args ...string) {
		t.Helper()
		out := s.cli(code, append([]string{"backup", "rehearse"}, args...)...)
		require.Contains(t, out.Stderr, want)
		require.Len(t, strings.Split(strings.TrimSpace(out.Stderr), "\n"), 1, out.Stderr)
	}
	one(2, "cluster "+other+" is no scratch cluster, and a rehearsal throws its content away: if that may be, write scratch: true at it in the inventory", name, "--cluster", other)
	// The worker's own file is the truth.
	in := operation.RestoreInput{Rehearsal: true, From: name, Archive: operation.LatestArchive}
	in.OperationID, in.Cluster = "without-cli", other
	_, err := scratch.execute(operation.KindRehearse, operation.WorkflowRestore, in.OperationID, in).end(20 * time.Second)
	require.ErrorContains(t, err, "write scratch: true at it in the worker's inventory")
	one(2, "the archive is of cluster "+name+" itself", name, "--cluster", name)
	one(2, "--cluster is missing", name)
	one(2, `archive "A_1"`, name+"/A_1", "--cluster", other)
	one(2, `cluster "Prod"`, "Prod", "--cluster", other)
	require.Empty(t, scratch.cluster.Commands())

	// Under another name it is still the same cluster.
	text, err := os.ReadFile(s.Inventory)
	require.NoError(t, err)
	_, section, _ := strings.Cut(string(s.cluster.InventoryYAML()), "  "+name+":\n")
	require.NoError(t, os.WriteFile(s.Inventory, []byte(string(text)+"  alias:\n"+throwaway+section), 0o600))
	one(2, "have the same controller", name, "--cluster", "alias")
}

func TestRehearse_TriggeredByASchedule_RehearsesTheLatestOfItsCluster(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "schedules do not depend on the nodes")
	s := newSite(t, nil, nil, exporting)
	scratch := s.scratch(throwaway)
	s.worker("")
	name := s.cluster.Name()
	made := s.archived()
	sc := &siteSchedule{site: scratch, name: name + "-rehearsal"}
	s.cli(0, "schedule", "apply", sc.name, "--cron", never, "--", "backup", "rehearse", name, "--cluster", scratch.cluster.Name(), "--task-queue", s.Queue)
	t.Cleanup(func() { s.cli(0, "schedule", "delete", sc.name, "--confirm", sc.name) })
	shown := s.cli(0, "schedule", "show", sc.name).Stdout
	require.Contains(t, shown, "backup rehearse "+name+" --cluster="+scratch.cluster.Name())
	require.Contains(t, s.cli(0, "schedule", "apply", sc.name, "--cron", never, "--", "backup", "rehearse", name, "--cluster", scratch.cluster.Name(), "--task-queue", s.Queue).Stdout, "unchanged")
	o := sc.trigger()
	o.done(2 * time.Minute)
	found := s.listedOf(name, made.id).Rehearsed
	require.NotNil(t, found)
	require.True(t, found.OK)
	require.Equal(t, []string{o.id, "schedule " + sc.name}, []string{found.Operation, found.Who})
}

func TestRehearse_ThatGoesWrong_IsRememberedOnlyWhereItSaysSomethingOfTheArchive(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks func(s, scratch *site)
		// acts, when given, once the operation has begun.
		acts func(o *op)
		// step of the question, and its answer; "" when nobody is to be asked.
		step   string
		answer operation.Decision
		// remembered is what stands beside the archive then, "" for nothing.
		remembered string
		phase      string
		// lab: on real hosts too.
		lab bool
	}{
		"kato's import fails": {breaks: func(_, scratch *site) {
			fault, once := katodouble.ImportFails, 1
			require.NoError(scratch.t, scratch.importer().ImportWith(katodouble.ImportPatch{Fault: &fault, Times: &once}))
		}, step: operation.StepImport, answer: operation.Abort, remembered: "exit code 1", phase: operation.PhaseAborted, lab: true},
		"kato's import fails, and the rest is looked at": {breaks: func(_, scratch *site) {
			fault, once := katodouble.ImportHalts, 1
			require.NoError(scratch.t, scratch.importer().ImportWith(katodouble.ImportPatch{Fault: &fault, Times: &once}))
		}, step: operation.StepImport, answer: operation.Leave, remembered: "exit code 1", phase: operation.PhaseFailed},
		"kato imports nothing and ends with 0": {breaks: func(_, scratch *site) {
			fault, once := katodouble.ImportErrorText, 1
			require.NoError(scratch.t, scratch.importer().ImportWith(katodouble.ImportPatch{Fault: &fault, Times: &once}))
		}, remembered: "not there", phase: operation.PhaseFailed},
		"the archive was tampered with": {breaks: func(s, _ *site) {
			s.bucket.Proxy.Fail("GET export.tgz", archivetest.Always, archivetest.Flip(100))
		}, step: operation.StepFetch, answer: operation.Abort, remembered: "is not what was written", phase: operation.PhaseAborted},
		"the scratch cluster cannot be emptied": {breaks: func(_, scratch *site) {
			scratch.controller().AddApp("shop", "production", cloudcontroller.App{Name: "of-before"})
			scratch.controller().Fail("DELETE /v2/organizations/", -1, 403)
		}, step: operation.StepEmpty, answer: operation.Abort, phase: operation.PhaseAborted},
		"the Core reboots in the import": {breaks: func(_, scratch *site) {
			seconds := in(3.0, 12.0)
			require.NoError(scratch.t, scratch.importer().ImportWith(katodouble.ImportPatch{Seconds: &seconds}))
		}, acts: func(o *op) {
			o.eventually(60*time.Second, "kato to import", func() bool { return o.running(core, "kato data import") })
			o.cluster.Node(core).RebootNow()
		}, step: operation.StepImport, answer: operation.Abort, phase: operation.PhaseAborted, lab: true},
		"it is cancelled": {breaks: func(_, scratch *site) {
			scratch.cluster.Node(core).SlowCommand("kato data import", -1, time.Minute)
		}, acts: func(o *op) {
			o.eventually(60*time.Second, "kato to import", func() bool { return o.running(core, "kato data import") })
			o.cli(0, "op", "cancel", o.id, "--detach")
			o.seesThrough()
			o.cluster.Node(core).HealCommands()
		}, phase: operation.PhaseCancelled, lab: true},
		"what was found cannot be written": {breaks: func(s, _ *site) {
			s.bucket.Proxy.Fail("PUT rehearsed.json", archivetest.Always, archivetest.AccessDenied)
		}, step: operation.StepRecord, answer: operation.Leave, phase: operation.PhaseFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if onHosts() && !c.lab {
				t.Skip("it is not the nodes that go wrong")
			}
			s := newSite(t, nil, nil, rehearsing, beside(1))
			scratch := s.scratch(throwaway)
			s.worker("")
			made := s.archived()
			c.breaks(s, scratch)
			f := scratch.fault("a rehearsal in which %s", name)
			id := fmt.Sprintf("op-%d", shared.number.Add(1))
			s.cli(0, "backup", "rehearse", s.cluster.Name(), "--cluster", scratch.cluster.Name(), "--id", id, "--detach")
			o := scratch.attachTo(operation.KindRehearse, id)
			if c.acts != nil {
				c.acts(o)
			}
			end := map[string]string{operation.PhaseCancelled: "ended as cancelled", operation.PhaseFailed: "nobody asked, remembered beside the archive"}[c.phase]
			if c.answer != "" {
				q := o.question(90 * time.Second)
				require.Equal(t, c.step, q.Step, q.Cause.Message)
				o.decide(q, c.answer)
				end = parkedFor(q.Step+" ("+q.Cause.Type+")", string(c.answer))
			}
			r, err := o.end(90 * time.Second)
			require.Error(t, err)
			require.Equal(t, c.phase, r.Phase, r.Message)
			s.bucket.Proxy.Forget()
			found := s.listedOf(s.cluster.Name(), made.id).Rehearsed
			if c.remembered == "" {
				require.Nil(t, found)
			} else {
				require.NotNil(t, found, "%+v", r.Restore)
				require.False(t, found.OK)
				require.Contains(t, found.Problem, c.remembered)
				require.Equal(t, found.Problem, r.Restore.Rehearsal.Problem)
			}
			f.end(end)
		})
	}
}

func TestRehearse_Proven_IsAMetricOfTheWorker(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "the metric is the worker's own")
	s := newSite(t, nil, nil, exporting)
	scratch := s.scratch(throwaway)
	proven := func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address := listener.Addr().String()
		require.NoError(t, listener.Close())
		w, err := s.StartWorker("", "--health", address)
		require.NoError(t, err)
		defer func() { require.NoError(t, w.Stop()) }()
		answer, err := http.Get("http://" + address + "/metrics")
		require.NoError(t, err)
		defer func() { _ = answer.Body.Close() }()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Contains(t, string(text), fmt.Sprintf("katoflow_backup_bucket_up{cluster=%q} 1\n", s.cluster.Name()))
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, fmt.Sprintf("katoflow_backup_last_proven_restorable_timestamp_seconds{cluster=%q} ", s.cluster.Name())); ok {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	require.Empty(t, proven())
	s.worker("")
	made := s.archived()
	scratch.rehearse(0, s.cluster.Name())
	value, err := strconv.ParseFloat(proven(), 64)
	require.NoError(t, err)
	started, err := time.Parse(time.RFC3339, s.listedOf(s.cluster.Name(), made.id).StartedAt)
	require.NoError(t, err)
	require.Equal(t, started.Unix(), int64(value))
}

// TestKillMatrix_OfARehearsal kills the worker around what a rehearsal has of its own, and requires that kato imported once and that the archive is remembered as proven.
func TestKillMatrix_OfARehearsal(t *testing.T) {
	t.Parallel()
	t.Run("points", func(t *testing.T) {
		m := matrix{
			site: func(t *testing.T) *site {
				s := newSite(t, nil, nil, rehearsing, beside(1))
				scratch := s.scratch(throwaway)
				scratch.cluster.Node(core).SlowCommand("kato data import", -1, in(400*time.Millisecond, 2*time.Second))
				w := s.worker("")
				s.controller().AddApp("shop", "production", cloudcontroller.App{Name: "rehearsed"})
				scratch.controller().AddApp("shop", "production", cloudcontroller.App{Name: "of-an-earlier-one"})
				scratch.archive, scratch.source = s.archived().id, s
				require.NoError(t, w.Stop())
				return scratch
			},
			start: func(s *site) *op {
				in := operation.RestoreInput{Rehearsal: true, From: s.source.cluster.Name(), Archive: s.archive}
				in.OperationID, in.Cluster = fmt.Sprintf("op-%d", shared.number.Add(1)), s.cluster.Name()
				return s.execute(operation.KindRehearse, operation.WorkflowRestore, in.OperationID, in)
			},
			intact: func(o *op, _ int) {
				r := o.done(2 * time.Minute)
				require.Equal(o.t, 1, o.imports(core), "runs of kato data import")
				require.True(o.t, r.Restore.Rehearsal.OK)
				require.Empty(o.t, o.guid("shop", "production", "of-an-earlier-one"))
				found := o.source.listedOf(o.source.cluster.Name(), o.archive).Rehearsed
				require.NotNil(o.t, found)
				require.Equal(o.t, []any{true, o.id}, []any{found.OK, found.Operation})
				o.settled()
			},
		}
		m.lanes(t, "rehearsal", 2, slices.Concat(boundaries("EmptyScratch"), []killPoint{{name: "in import", moment: inCommand(core, "kato data import")}}, boundaries("KeepRehearsal")))
	})
	tellKills(t, "rehearsal")
}
