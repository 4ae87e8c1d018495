package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	historypb "go.temporal.io/api/history/v1"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

// span is from the first to the last command of a node. ended is false while one runs.
func (s *site) span(node string) (from, to time.Time, ended bool) {
	ended = true
	for _, e := range s.cluster.Node(node).Commands() {
		if from.IsZero() || e.Start.Before(from) {
			from = e.Start
		}
		if e.End.After(to) {
			to = e.End
		}
		ended = ended && !e.End.IsZero()
	}
	return from, to, ended
}

// in is the site as a part of a test uses it.
func (s *site) in(t *testing.T) *site {
	part := *s
	part.t = t
	return &part
}

// order of the nodes by their first command.
func (s *site) order() []string {
	var out []string
	seen := map[string]bool{}
	for _, e := range s.cluster.Commands() {
		if !seen[e.Node] && e.Argv[0] == "apt-get" {
			seen[e.Node] = true
			out = append(out, e.Node)
		}
	}
	return out
}

func TestVerb_PauseAndResume_HoldBeforeTheNextNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	s.worker("")
	release := s.cluster.Node("a").HoldAptLock(0)
	o := s.start()
	o.waits("a", "waiting for apt")
	s.cli(0, "op", "pause", o.id, "--reason", "the phone rings")
	require.Contains(t, s.cli(2, "op", "pause", o.id).Stderr, "is paused already")
	release()
	r := o.until(30*time.Second, "the first node to end", func(r operation.Report) bool { return r.Counts()[operation.NodeDone] == 1 })
	require.Equal(t, operation.PhasePaused, r.Phase)
	show := s.cli(0, "op", "show", o.id).Stdout
	require.Contains(t, show, "the phone rings")
	require.Contains(t, show, "katoflow op resume "+o.id)
	require.Contains(t, s.cli(0, "op", "list", "--cluster", s.cluster.Name()).Stdout, "paused")
	require.Empty(t, s.cluster.Node("b").Commands())
	s.cli(0, "op", "resume", o.id)
	require.Contains(t, s.cli(2, "op", "resume", o.id).Stderr, "is not paused")
	o.done(30 * time.Second)
	s.upgraded(1, "a", "b")
	require.Empty(t, s.repeated())
}

func TestVerb_SetBatchInMidRun_GoesOnWithTwoAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b", "c", "d", "e"), slow(1500*time.Millisecond))
	s.worker("")
	release := s.cluster.Node("a").HoldAptLock(0)
	o := s.start()
	o.waits("a", "waiting for apt")
	for batch, want := range map[string]string{"0": "batch", "120%": "batch", "abc": "batch"} {
		require.Contains(t, s.cli(2, "op", "set-batch", o.id, batch).Stderr, want)
	}
	s.cli(0, "op", "set-batch", o.id, "2")
	release()
	r := o.done(60 * time.Second)
	require.Equal(t, "2", r.Batch)
	require.Equal(t, 2, s.cluster.MaxOutOfService())
	s.upgraded(1, s.names()...)
	require.Empty(t, s.repeated())
}

func TestUpgrade_BatchOfHalf_CanaryAloneThenTwoAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b", "c", "d"), slow(1500*time.Millisecond))
	s.worker("")
	r := s.start("--batch", "50%").done(60 * time.Second)
	require.Equal(t, 2, r.Slots)
	require.Equal(t, 2, s.cluster.MaxOutOfService())
	_, canary, _ := s.span("a")
	for _, n := range []string{"b", "c", "d"} {
		from, _, _ := s.span(n)
		require.True(t, from.After(canary), "%s began before the canary had ended", n)
	}
	s.upgraded(1, s.names()...)
}

func TestUpgrade_NoCanary_TheFirstBatchIsAWholeOne(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b", "c"), slow(2*time.Second))
	s.worker("")
	s.start("--batch", "3", "--canary=false").done(60 * time.Second)
	require.Equal(t, 3, s.cluster.MaxOutOfService())
	s.upgraded(1, s.names()...)
}

func TestUpgrade_Soak_TheOthersWaitForIt(t *testing.T) {
	onlySimulated(t, "waiting does not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b", "c"))
	s.worker("")
	o := s.start("--soak", "3s", "--batch", "2")
	o.until(30*time.Second, "the soak", func(r operation.Report) bool { return r.Message == "soaking for 3s after the canary" })
	o.done(60 * time.Second)
	_, canary, _ := s.span("a")
	for _, n := range []string{"b", "c"} {
		from, _, _ := s.span(n)
		require.Greater(t, from.Sub(canary), 3*time.Second, n)
	}
}

func TestUpgrade_PinAndAnotherCandidate_AsksBeforeAnythingIsInstalled(t *testing.T) {
	onlySimulated(t, "all hosts of the lab have one archive, so that no candidate differs")
	t.Parallel()
	ssl := simcluster.Package{Name: "libssl3", Old: "3.0.13-1", New: "3.0.14-1"}
	newer := ssl
	newer.New = "3.0.15-1"
	s := newSite(t, nil, nil, plain("a", "b", "c"), simulating(func(c *simcluster.Config) {
		c.Nodes[0].Pending = []simcluster.Package{ssl}
		c.Nodes[1].Pending = []simcluster.Package{newer}
		c.Nodes[2].Pending = []simcluster.Package{ssl}
	}))
	s.worker("")
	o := s.start("--pin")
	q := o.question(30 * time.Second)
	asks(t, q, "b", operation.StepUpgrade, 1, operation.ErrPin)
	require.Contains(t, q.Cause.Message, "libssl3 would become 3.0.15-1, the canary has 3.0.14-1")
	require.Zero(t, s.ran("b", "unattended-upgrades"))
	s.simulated("b").AddPending(ssl) // the mirror is put right
	o.decide(q, operation.Retry)
	r := o.done(60 * time.Second)
	for _, n := range s.names() {
		require.Equal(t, "3.0.14-1", s.cluster.Node(n).Packages()["libssl3"], n)
		require.Equal(t, []operation.PackageChange{{Name: "libssl3", From: "3.0.13-1", To: "3.0.14-1"}}, nodeOf(t, r, n).Changes)
	}
	require.Empty(t, s.repeated())
}

func TestUpgrade_MaxFailures_SkipsSoManyAndAbortsAtOneMore(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "who answers a question does not depend on the nodes")
	for name, c := range map[string]struct {
		max    string
		fail   []string
		code   int
		status map[string]string
	}{
		"none is allowed":   {"0", []string{"b"}, 4, map[string]string{"a": operation.NodeDone, "b": operation.NodeFailed, "c": operation.NodeUntouched, "d": operation.NodeUntouched}},
		"one and one fails": {"1", []string{"b"}, 3, map[string]string{"a": operation.NodeDone, "b": operation.NodeSkipped, "c": operation.NodeDone, "d": operation.NodeDone}},
		"one and two fail":  {"1", []string{"a", "c"}, 4, map[string]string{"a": operation.NodeSkipped, "b": operation.NodeDone, "c": operation.NodeFailed, "d": operation.NodeUntouched}},
		"one and none":      {"1", nil, 0, map[string]string{"a": operation.NodeDone, "b": operation.NodeDone, "c": operation.NodeDone, "d": operation.NodeDone}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, plain("a", "b", "c", "d"))
			s.worker("")
			for _, n := range c.fail {
				s.cluster.Node(n).FailCommand("unattended-upgrades", 1, 1, "E: no")
			}
			out := s.cli(c.code, "upgrade", "security", s.cluster.Name(), "--max-failures", c.max, "-o", "json")
			var r operation.Report
			require.NoError(t, out.JSON(&r))
			got := map[string]string{}
			for _, n := range r.Nodes {
				got[n.Name] = n.Status
				if n.Status == operation.NodeUntouched {
					require.Empty(t, s.cluster.Node(n.Name).Commands(), n.Name)
				}
			}
			require.Equal(t, c.status, got)
			require.Len(t, r.Answers, len(c.fail))
			for _, a := range r.Answers {
				require.Equal(t, "max-failures", a.By)
			}
			require.Empty(t, s.repeated())
		})
	}
}

func TestUpgrade_DeadlinePolicy_DecidesWhenNobodyAnswers(t *testing.T) {
	t.Parallel()
	onlySimulated(t, "who answers a question does not depend on the nodes")
	for decision, code := range map[string]int{"skip": 3, "abort": 4} {
		t.Run(decision, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, plain("a", "b"))
			s.worker("")
			s.cluster.Node("a").FailCommand("unattended-upgrades", 1, 1, "E: no")
			out := s.cli(code, "upgrade", "security", s.cluster.Name(), "--answer-within", "1s", "--on-deadline", decision, "-o", "json")
			var r operation.Report
			require.NoError(t, out.JSON(&r))
			require.Len(t, r.Answers, 1)
			require.Equal(t, "deadline", r.Answers[0].By)
			require.Equal(t, decision == "abort", len(s.cluster.Node("b").Commands()) == 0)
		})
	}
}

func TestDryRun_Selections_PlanTheRightNodesInOrderAndTouchNone(t *testing.T) {
	onlySimulated(t, "a plan does not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil)
	s.worker("")
	for _, c := range []struct {
		args  string
		nodes string
	}{
		{"", "dea-1 dea-2 core mysql-1 filesystem-1"},
		{"--nodes core,dea-2", "dea-2 core"},
		{"--roles dea", "dea-1 dea-2"},
		{"--roles mysql,filesystem", "mysql-1 filesystem-1"},
		{"--roles dea --nodes core,dea-2", "dea-2"},
		{"--role-order mysql,filesystem,primary,router,controller,dea", "mysql-1 filesystem-1 core dea-1 dea-2"},
		{"--nodes mysql-1 --reboot never", "mysql-1"},
	} {
		t.Run(c.args, func(t *testing.T) {
			out := s.in(t).cli(0, append([]string{"upgrade", "security", s.cluster.Name(), "--dry-run", "-o", "json"}, strings.Fields(c.args)...)...)
			var r operation.Report
			require.NoError(t, out.JSON(&r))
			var names []string
			for _, n := range r.Nodes {
				require.Equal(t, operation.NodePlanned, n.Status)
				names = append(names, n.Name)
			}
			require.Equal(t, c.nodes, strings.Join(names, " "))
			reboots := 0
			for _, p := range r.Commands {
				for _, command := range p.Commands {
					if command.Step == operation.StepReboot {
						reboots += len(p.Nodes)
					}
				}
			}
			require.Equal(t, strings.Contains(c.args, "never"), reboots == 0)
		})
	}
	require.Empty(t, s.cluster.Commands())
	for _, n := range s.cluster.Nodes() {
		require.Zero(t, n.Boots()-1)
		jobs, err := filepath.Glob(filepath.Join(s.cluster.Dir(), "nodes", n.Name(), "*", "var", "lib", "katoflow", "*"))
		require.NoError(t, err)
		require.Empty(t, jobs)
	}
}

func TestDryRun_ThenTheRealRun_ShowsEveryCommandThatRuns(t *testing.T) {
	onlySimulated(t, "the hosts of the lab reach their archive without a proxy")
	t.Parallel()
	s := newSite(t, nil, nil)
	s.inventory(quickGates + "    proxy: {http: \"http://proxy.example.org:3128\", https: \"http://proxy.example.org:3129\", no_proxy: \"localhost,.example.org\"}\n")
	s.worker("")
	text := s.cli(0, "upgrade", "security", s.cluster.Name(), "--dry-run", "--maintenance").Stdout
	require.Contains(t, text, "sudo -n DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 http_proxy=http://proxy.example.org:3128 "+
		"https_proxy=http://proxy.example.org:3129 no_proxy=localhost,.example.org unattended-upgrades -d")
	var plan operation.Report
	require.NoError(t, s.cli(0, "upgrade", "security", s.cluster.Name(), "--dry-run", "--maintenance", "-o", "json").JSON(&plan))
	require.Empty(t, s.cluster.Commands())

	o := s.start("--maintenance")
	o.done(60 * time.Second)
	ran := map[string]bool{}
	for _, e := range s.cluster.Commands() {
		found := false
		for _, p := range plan.Commands {
			for _, c := range p.Commands {
				// The program's path is the inventory's business, kato's for one; the words after it are the command.
				_, words, _ := strings.Cut(e.Command(), " ")
				if strings.Contains(c.Command, e.Argv[0]) && strings.HasSuffix(c.Command, words) {
					found, ran[c.Step+" "+c.Command] = true, true
				}
			}
		}
		require.True(t, found, "%s on %s is not in the plan:\n%s", e.Command(), e.Node, text)
		if e.Argv[0] == "apt-get" || e.Argv[0] == "unattended-upgrades" {
			require.Equal(t, "http://proxy.example.org:3128", e.Env["http_proxy"], e.Command())
			require.Equal(t, "http://proxy.example.org:3129", e.Env["https_proxy"])
			require.Equal(t, "localhost,.example.org", e.Env["no_proxy"])
		}
		if e.Argv[0] == "unattended-upgrades" {
			require.Equal(t, "noninteractive", e.Env["DEBIAN_FRONTEND"])
			require.Equal(t, "1", e.Env["NEEDRESTART_SUSPEND"])
		}
	}
	for _, p := range plan.Commands {
		for _, c := range p.Commands {
			require.Equal(t, c.Step != operation.StepRepair, ran[c.Step+" "+c.Command], "planned: %s %s", c.Step, c.Command)
		}
	}
	require.False(t, s.cluster.Maintenance())
	s.upgraded(1, s.names()...)
}

func TestUpgrade_RolesAndRoleOrder_OnlyThoseNodesInThatOrder(t *testing.T) {
	onlySimulated(t, "the order does not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil)
	s.worker("")
	s.start("--roles", "dea,mysql", "--role-order", "mysql,dea").done(60 * time.Second)
	require.Equal(t, []string{"mysql-1", "dea-1", "dea-2"}, s.order())
	s.upgraded(1, "mysql-1", "dea-1", "dea-2")
	s.notUpgraded("core", "filesystem-1")
}

// notUpgraded requires that nothing but kato, for other nodes, was run on a node.
func (s *site) notUpgraded(nodes ...string) {
	s.t.Helper()
	for _, name := range nodes {
		require.NotZero(s.t, s.cluster.Node(name).PendingCount(), name)
		require.Zero(s.t, s.cluster.Node(name).Boots()-1, name)
		for _, e := range s.cluster.Node(name).Commands() {
			require.Equal(s.t, "kato", e.Argv[0], name)
		}
	}
}

func TestUpgrade_RebootPolicies_RebootAsTheySay(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"always", "if-required", "never"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, plain("needs", "not"), alike(func(n *nodeConfig) { n.calm = true }, "not"))
			s.worker("")
			r := s.start("--reboot", policy).done(60 * time.Second)
			want := map[string][2]int{"always": {1, 1}, "if-required": {1, 0}, "never": {0, 0}}[policy]
			for i, name := range []string{"needs", "not"} {
				s.upgraded(want[i], name)
				n := nodeOf(t, r, name)
				require.Equal(t, want[i] == 1, n.Proof != nil, name)
				require.Equal(t, want[i] == 0, strings.Contains(strings.Join(n.Notes, "\n"), "not rebooted: "), name)
			}
		})
	}
}

// mailbox is a receiver of notifications.
type mailbox struct {
	mu   sync.Mutex
	got  []operation.Notification
	code int
}

func (m *mailbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var n operation.Notification
	if err := json.NewDecoder(r.Body).Decode(&n); err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	m.got = append(m.got, n)
	w.WriteHeader(m.code)
}

func (m *mailbox) events() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, n := range m.got {
		out = append(out, n.Event)
	}
	return out
}

// secrets plants a passphrase of the SSH key and a token in the address of the webhook, and has a command told too, which appends to the returned file.
func (s *site) secrets(m *mailbox) (told string, planted []string) {
	s.t.Helper()
	receiver := httptest.NewServer(m)
	s.t.Cleanup(receiver.Close)
	passphrase, token := "planted-passphrase-"+s.Queue, "planted-token-"+s.Queue
	s.write("passphrase", passphrase+"\n")
	s.write("webhook", receiver.URL+"/hook/"+token)
	s.encryptedKey(passphrase)
	told = filepath.Join(s.Dir, "told")
	s.write("tell", "#!/bin/sh\ncat >>"+told+"\necho >>"+told+"\n")
	require.NoError(s.t, os.Chmod(filepath.Join(s.Dir, "tell"), 0o700))
	s.inventory(quickGates + fmt.Sprintf("    notify: {webhook: {file: %q}, command: [%q]}\n", filepath.Join(s.Dir, "webhook"), filepath.Join(s.Dir, "tell")))
	s.replace("key_files:\n", fmt.Sprintf("passphrase: {file: %q}\n      key_files:\n", filepath.Join(s.Dir, "passphrase")))
	s.replace(s.cluster.ClientKeyPath(), filepath.Join(s.Dir, "key"))
	return told, []string{passphrase, token}
}

func TestNotification_ParkedFailedAndDone_WebhookAndCommandAreToldAndNoSecretIsKept(t *testing.T) {
	onlySimulated(t, "notifications do not depend on the nodes")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	m := &mailbox{code: http.StatusNoContent}
	told, planted := s.secrets(m)
	w := s.worker("")
	s.cluster.Node("a").FailCommand("unattended-upgrades", 1, 1, "E: no")

	o := s.start()
	q := o.question(30 * time.Second)
	s.eventually(20*time.Second, "the webhook", func() bool { return len(m.events()) == 1 })
	parked := m.got[0]
	require.Equal(t, operation.EventParked, parked.Event)
	require.Equal(t, []operation.Question{q}, parked.Questions)
	require.Contains(t, parked.Message, "a waits for a decision at step upgrade")
	o.decide(q, operation.Skip)
	_, err := o.end(60 * time.Second)
	require.Error(t, err)

	m.mu.Lock()
	m.code = http.StatusNotFound // the receiver is gone: that is a warning, and the address stays a secret
	m.mu.Unlock()
	second := s.start()
	r := second.done(60 * time.Second)
	shown := s.cli(0, "op", "show", second.id)
	require.Contains(t, strings.Join(r.Warnings, "\n")+shown.Stdout, "notify.webhook: the receiver answered 404")
	require.Equal(t, []string{operation.EventParked, operation.EventFailed, operation.EventDone}, m.events())

	var lines []string
	b, err := os.ReadFile(told)
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var n operation.Notification
		require.NoError(t, json.Unmarshal([]byte(line), &n), line)
		lines = append(lines, n.Event)
	}
	require.Equal(t, []string{operation.EventParked, operation.EventFailed}, lines, "a command is told after the webhook")

	require.NoError(t, w.Stop()) // so that everything it has to say is in its log
	// What is searched does hold what is no secret, so that a search that finds nothing means something.
	require.True(t, s.inHistory(o.id, o.workflow))
	require.NotEmpty(t, holding(t, o.id, filepath.Dir(s.Temporal.Log)))
	require.NotEmpty(t, holding(t, remote.EncodeID(o.id), s.cluster.Dir()))
	require.NotEmpty(t, holding(t, o.id, w.Log))
	for _, secret := range planted {
		for _, id := range []string{o.workflow, second.workflow, operation.LockWorkflowID(s.cluster.Name())} {
			require.False(t, s.inHistory(secret, id), id)
			for _, n := range s.names() {
				require.False(t, s.inHistory(secret, operation.NodeWorkflowID(id, n)), "%s/node/%s", id, n)
			}
		}
		for _, path := range []string{filepath.Dir(s.Temporal.Log), s.cluster.Dir(), w.Log} {
			require.Empty(t, holding(t, secret, path))
		}
		require.NotContains(t, shown.Stdout+shown.Stderr, secret)
	}
}

// inHistory tells whether an event of a workflow's history holds the text, payloads included.
func (s *site) inHistory(text, workflowID string) bool {
	s.t.Helper()
	return slices.ContainsFunc(s.history(workflowID), func(e *historypb.HistoryEvent) bool {
		b, err := e.Marshal()
		require.NoError(s.t, err)
		return bytes.Contains(b, []byte(text))
	})
}

// holding are the files at or below a path that hold the text. One that goes away meanwhile, as a database's journal does, is none; nor is one of more than
// 256 MiB, which is data.
func holding(t *testing.T, text, path string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > 256<<20 {
			return nil
		}
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(text)) {
			out = append(out, p)
		}
		return nil
	}))
	return out
}

func TestWindow_OpensWhileItWaits_GoesOnByItselfAndTheClusterWasFree(t *testing.T) {
	onlySimulated(t, "the nodes see nothing of it")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"))
	w := s.worker("")
	opens := time.Now().UTC().Add(15 * time.Second).Truncate(time.Minute).Add(time.Minute)
	o := s.start("--window", opens.Format("15:04-")+opens.Add(2*time.Hour).Format("15:04"))
	o.until(30*time.Second, "the window to be waited for", func(r operation.Report) bool {
		return strings.Contains(r.Message, "waiting for the maintenance window")
	})
	require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "opens "+opens.Format(time.RFC3339))
	o.eventually(10*time.Second, "the cluster to be free", func() bool { return !s.locked() })
	w.Kill()
	s.worker("")
	require.Zero(t, s.ran("a", "unattended-upgrades"), "nothing is begun before it opens")
	r := o.done(3 * time.Minute)
	require.Contains(t, r.Window, "open until "+opens.Add(2*time.Hour).Format(time.RFC3339))
	for _, n := range s.cluster.Nodes() {
		for _, e := range n.Commands() {
			require.False(t, e.Start.Before(opens), "%s ran before the window had opened", e.Command())
		}
	}
	s.upgraded(1, "a", "b")
	require.Empty(t, s.repeated())
}

func TestWindow_OfApps_NoneIsStoppedBeforeItOpens(t *testing.T) {
	onlySimulated(t, "it reaches no node")
	t.Parallel()
	s := newSite(t, nil, nil, coreAlone)
	w := s.worker("")
	opens := time.Now().UTC().Add(15 * time.Second).Truncate(time.Minute).Add(time.Minute)
	o := s.apps("restart", "--all", "--window", opens.Format("15:04-")+opens.Add(2*time.Hour).Format("15:04"), "--app-time", "5m")
	o.until(30*time.Second, "the window to be waited for", func(r operation.Report) bool {
		return strings.Contains(r.Message, "waiting for the maintenance window")
	})
	o.eventually(10*time.Second, "the cluster to be free", func() bool { return !s.locked() })
	w.Kill()
	s.worker("")
	require.Zero(t, s.controller().Count("PUT", "/v2/apps"), "nothing is stopped before it opens")
	r := o.done(3 * time.Minute)
	require.False(t, time.Now().Before(opens))
	require.Contains(t, r.Window, "open until "+opens.Add(2*time.Hour).Format(time.RFC3339))
	require.Equal(t, 5, outcomesOf(r)[operation.AppRunning])
	for _, a := range r.Apps.Apps {
		if a.Outcome == operation.AppRunning {
			require.Equal(t, []string{"STOPPED", "STARTED"}, writes(s.controller(), a.GUID), a.String())
		}
	}
}
