package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/operation"
)

// access begins one of the commands by the CLI, detached, and returns when its preflight has passed.
func (s *site) access(action operation.AccessAction, args ...string) *op {
	s.t.Helper()
	id := fmt.Sprintf("op-%d", shared.number.Add(1))
	s.cli(0, append([]string{"access", string(action), s.cluster.Name()}, append(args, "--id", id, "--detach")...)...)
	return s.attachTo(action.Kind(), id)
}

// accessCheck is the table, by node.
func (s *site) accessCheck(code int, args ...string) map[string]operation.AccessNode {
	s.t.Helper()
	var said operation.AccessStatus
	require.NoError(s.t, json.Unmarshal([]byte(s.cli(code, append([]string{"access", "check", s.cluster.Name(), "-o", "json"}, args...)...).Stdout), &said))
	out := map[string]operation.AccessNode{}
	for _, n := range said.Nodes {
		out[n.Name] = n
	}
	return out
}

// withAccess is an ALS cluster of a Core and two DEAs whose password logins can be switched.
func withAccess(c *config) {
	withPatches(c)
	c.rootShell = true
}

// door is what leads into a node by SSH, with its faults.
type door interface {
	// AuthorizedKeys are the lines of the login user's authorized_keys; SetPassword gives that user one, and OfferedMethods are the ways to log in that the server offers now.
	AuthorizedKeys() []string
	SetAuthorizedKeys(lines ...string)
	// SetSSHDConfig makes it the server's configuration, in force at once.
	SetSSHDConfig(text string)
	SetPassword(password string)
	OfferedMethods() []string
	BreakKeyLoginsOnReload(on bool)
	ReadOnlyHome(on bool)
	SSHDNeverReloads(on bool)
}

func (s *site) door(node string) door { return s.cluster.Node(node).(door) }

// workersKey is the key with which the worker logs in, in base64.
func (s *site) workersKey() string {
	s.t.Helper()
	pem, err := os.ReadFile(s.cluster.ClientKeyPath())
	require.NoError(s.t, err)
	key, err := ssh.ParsePrivateKey(pem)
	require.NoError(s.t, err)
	return operation.KeyOf(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
}

// onlyWorker takes everything that leads to nodes by key away, but the worker's own.
func (s *site) onlyWorker(nodes ...string) {
	s.t.Helper()
	key := s.workersKey()
	for _, n := range nodes {
		lines := s.door(n).AuthorizedKeys()
		s.door(n).SetAuthorizedKeys(slices.DeleteFunc(lines, func(l string) bool { return operation.KeyOf(l) != key })...)
	}
}

func TestAccess_Granted_EveryLoginWorksOnceAndForAll(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	s.onlyWorker("dea-1", "dea-2")
	s.worker("")
	before := s.accessCheck(1)
	require.Contains(t, before["dea-1"].FromLogin, "Permission denied")
	require.False(t, before["dea-1"].Granted)

	shown := s.cli(0, "access", "grant", s.cluster.Name(), "--dry-run").Stdout
	require.Contains(t, shown, "into ~/.ssh/authorized_keys")
	require.Equal(t, before["dea-1"], s.accessCheck(1)["dea-1"], "a dry run changes nothing")

	r := s.access(operation.AccessGrant).done(60 * time.Second)
	require.Equal(t, "core reaches 3 nodes by key", r.Message)
	for name, n := range s.accessCheck(0) {
		require.True(t, n.Granted, name)
		require.Equal(t, [2]string{operation.LoginOK, operation.LoginOK}, [2]string{n.FromLogin, n.OwnLogin}, name)
	}
	lines := s.door("dea-1").AuthorizedKeys()
	r = s.access(operation.AccessGrant).done(60 * time.Second)
	require.Equal(t, lines, s.door("dea-1").AuthorizedKeys(), "nothing is added twice")
	for i := range r.Nodes {
		require.Contains(t, strings.Join(r.Nodes[i].Notes, "\n"), "was there", r.Nodes[i].Name)
	}

	r = s.access(operation.AccessRevoke).done(60 * time.Second)
	after := s.accessCheck(1)
	require.Contains(t, after["dea-1"].FromLogin, "Permission denied")
	require.Equal(t, operation.LoginOK, after["dea-1"].OwnLogin)
	require.Equal(t, operation.LoginOK, after["core"].OwnLogin, "the Core goes on reaching itself")
	require.Contains(t, r.Message, "out of authorized_keys on 3 nodes")
}

func TestAccess_PasswordsOff_OnTrialAndBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	for _, n := range s.names() {
		s.door(n).SetPassword("first contact")
		require.Contains(t, s.door(n).OfferedMethods(), "password")
	}
	s.worker("")
	r := s.access(operation.AccessGrant, "--disable-passwords").done(2 * time.Minute)
	require.Equal(t, "core reaches 3 nodes by key, password logins are off on 3", r.Message)
	for _, n := range s.names() {
		require.Equal(t, []string{"publickey"}, s.door(n).OfferedMethods(), n)
	}
	r = s.access(operation.AccessGrant, "--disable-passwords").done(2 * time.Minute)
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "were off already")
	s.access(operation.AccessRevoke, "--restore-passwords", "--keep-keys").done(time.Minute)
	for _, n := range s.names() {
		require.Contains(t, s.door(n).OfferedMethods(), "password", n)
	}
	for name, n := range s.accessCheck(0) {
		require.Equal(t, operation.LoginOK, n.FromLogin, name)
	}
}

func TestAccess_LoginDoesNotWorkWithoutPasswords_TheNodeTakesItBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	s.door("dea-1").BreakKeyLoginsOnReload(true)
	f := s.fault("key logins do not work without passwords on a node")
	s.worker("")
	o := s.access(operation.AccessGrant, "--disable-passwords", "--nodes", "dea-1,dea-2")
	q := o.question(4 * time.Minute)
	require.Equal(t, operation.ErrVerify, q.Cause.Type)
	require.Contains(t, q.Cause.Message, "they are back")
	require.Contains(t, s.door("dea-1").OfferedMethods(), "password")
	s.door("dea-1").BreakKeyLoginsOnReload(false)
	o.decide(q, operation.Retry)
	o.done(2 * time.Minute)
	require.Equal(t, []string{"publickey"}, s.door("dea-1").OfferedMethods())
	f.row(parkedFor(operation.StepPasswords, "taken back by the node itself; retried"))
}

func TestAccess_FirstContact_ByPasswordOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	secret := filepath.Join(t.TempDir(), "password")
	const word = "Wrong-horse-9"
	require.NoError(t, os.WriteFile(secret, []byte(word+"\n"), 0o600))
	for _, n := range []string{"dea-1", "dea-2"} {
		s.door(n).SetPassword(word)
		s.door(n).SetAuthorizedKeys()
	}
	s.worker("")
	out := s.cli(7, "access", "grant", s.cluster.Name())
	require.Contains(t, out.Stderr, "no key accepted")
	shown := s.cli(0, "access", "grant", s.cluster.Name(), "--password-file", secret, "--dry-run").Stdout
	require.Contains(t, shown, "would get the worker's key")
	require.Empty(t, s.door("dea-1").AuthorizedKeys())

	o := s.access(operation.AccessGrant, "--password-file", secret)
	r := o.done(time.Minute)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "2 nodes got the worker's key")
	for name, n := range s.accessCheck(0) {
		require.Equal(t, operation.LoginOK, n.FromLogin, name)
	}
	require.Len(t, s.door("dea-1").AuthorizedKeys(), 3, "the worker's, the Core's and its own")
	require.False(t, o.inHistory(word, o.workflow), "the password is in the history")
	for _, n := range []string{"dea-1", "dea-2"} {
		lines := strings.Join(s.door(n).AuthorizedKeys(), "\n")
		require.Equal(t, 1, strings.Count(lines, s.workersKey()), n)
	}
	logs, err := filepath.Glob(filepath.Join(s.Dir, "worker-*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	for _, path := range logs {
		require.Empty(t, holding(t, word, path), "the password is in a log")
	}
}

func TestAccess_PlainCluster_FromANodeWithAKeyThatIsGiven(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("web-1", "web-2"))
	s.worker("")
	require.Contains(t, s.cli(2, "access", "grant", s.cluster.Name()).Stderr, "say with --from which node is to reach the others")
	s.access(operation.AccessGrant, "--from", "web-1").done(time.Minute)
	for name, n := range s.accessCheck(0, "--from", "web-1") {
		require.Equal(t, operation.LoginOK, n.FromLogin, name)
	}

	// Somebody's own key, whose private half is on no node.
	public, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " an administrator"
	file := filepath.Join(t.TempDir(), "admin.pub")
	require.NoError(t, os.WriteFile(file, []byte("# of an administrator\n"+line+"\n"), 0o644))
	r := s.access(operation.AccessGrant, "--from", "web-1", "--public-key", file).done(time.Minute)
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "a login with the key was not tried")
	require.Contains(t, s.door("web-2").AuthorizedKeys(), line)
	s.access(operation.AccessRevoke, "--from", "web-1", "--public-key", file).done(time.Minute)
	require.NotContains(t, s.door("web-2").AuthorizedKeys(), line)
	require.Equal(t, operation.LoginOK, s.accessCheck(0, "--from", "web-1")["web-2"].FromLogin, "the other key stays")
}

func TestAccess_WorkersOwnKey_IsNeverTakenAway(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, plain("web-1", "web-2"))
	s.worker("")
	before := s.door("web-2").AuthorizedKeys()
	at := slices.IndexFunc(before, func(l string) bool { return operation.KeyOf(l) == s.workersKey() })
	require.GreaterOrEqual(t, at, 0)
	file := filepath.Join(t.TempDir(), "worker.pub")
	require.NoError(t, os.WriteFile(file, []byte(before[at]+"\n"), 0o644))
	o := s.access(operation.AccessRevoke, "--from", "web-1", "--public-key", file)
	q := o.question(time.Minute)
	require.Contains(t, q.Cause.Message, "this is the key with which katoflow itself logs in")
	o.decide(q, operation.Abort)
	_, err := o.end(time.Minute)
	require.Error(t, err)
	require.Equal(t, before, s.door("web-2").AuthorizedKeys())
}

func TestAccess_FilesThatCannotBeWritten_AskAndNothingIsHalf(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	s.onlyWorker("dea-1", "dea-2")
	before := s.door("dea-1").AuthorizedKeys()
	s.door("dea-1").ReadOnlyHome(true)
	f := s.fault("authorized_keys of a node cannot be written")
	s.worker("")
	o := s.access(operation.AccessGrant, "--disable-passwords")
	q := o.question(time.Minute)
	require.Equal(t, [2]string{"dea-1", operation.StepKeys}, [2]string{q.Node, q.Step})
	require.Contains(t, q.Cause.Message, "cannot be written")
	require.Equal(t, before, s.door("dea-1").AuthorizedKeys())
	require.Contains(t, s.door("dea-2").OfferedMethods(), "password", "no password goes before every node has proved its logins")
	s.door("dea-1").ReadOnlyHome(false)
	o.decide(q, operation.Retry)
	o.done(2 * time.Minute)
	require.Equal(t, []string{"publickey"}, s.door("dea-1").OfferedMethods())
	f.end(parkedFor(operation.StepKeys, "retried"))
}

func TestAccess_Preflight_NamesEveryProblemAtOnce_AndTouchesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
	if !onHosts() { // where sudo runs little by itself
		s.cluster.Node("dea-1").SudoPassword(true)
		s.cluster.Node("core").SudoPassword(true)
	}
	before := s.door("dea-1").AuthorizedKeys()
	s.worker("")
	out := s.cli(7, "access", "grant", s.cluster.Name(), "--disable-passwords")
	require.Regexp(t, `core: sudo does not let .* run a shell .*deploy/sudoers/katoflow-shell`, out.Stderr)
	require.Regexp(t, `dea-1: sudo does not let .* run a shell`, out.Stderr)
	require.Equal(t, before, s.door("dea-1").AuthorizedKeys())
	require.Contains(t, s.cli(2, "access", "grant", s.cluster.Name(), "--from", "nobody").Stderr, "nobody")
	require.Contains(t, s.cli(2, "access", "grant", s.cluster.Name(), "--password-file", "/not/there").Stderr, "no such file")
}

func TestAccess_NodeSkipped_NoPasswordGoes(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	s.onlyWorker("dea-2")
	s.door("dea-2").ReadOnlyHome(true)
	f := s.fault("a node is skipped that has not proved its logins")
	s.worker("")
	o := s.access(operation.AccessGrant, "--disable-passwords", "--max-failures", "1")
	r, err := o.end(2 * time.Minute)
	require.Error(t, err)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "password logins were left as they are everywhere")
	for _, n := range s.names() {
		require.Contains(t, s.door(n).OfferedMethods(), "password", n)
	}
	f.end("password logins left everywhere, and told")
}

func TestAccess_ServerKeepsItsConfiguration_IsFoundOut(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	s.door("dea-1").SSHDNeverReloads(true)
	f := s.fault("sshd of a node does not take its new configuration")
	s.worker("")
	o := s.access(operation.AccessGrant, "--disable-passwords", "--nodes", "dea-1")
	q := o.question(2 * time.Minute)
	require.Contains(t, q.Cause.Message, "sshd still offers")
	config, err := s.cluster.Node("dea-1").ReadFile("/etc/ssh/sshd_config")
	require.NoError(t, err)
	require.NotContains(t, string(config), "katoflow")
	s.door("dea-1").SSHDNeverReloads(false)
	o.decide(q, operation.Retry)
	o.done(2 * time.Minute)
	require.Equal(t, []string{"publickey"}, s.door("dea-1").OfferedMethods())
	f.row(parkedFor(operation.StepPasswords, "its configuration as it was; retried"))
}

func TestAccess_MatchBlockAllowsPasswords_IsFoundOut(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	config, err := s.cluster.Node("dea-1").ReadFile("/etc/ssh/sshd_config")
	require.NoError(t, err)
	allows := string(config) + "\nMatch User " + s.cluster.LoginUser() + "\n\tPasswordAuthentication yes\n"
	s.door("dea-1").SetSSHDConfig(allows)
	f := s.fault("a Match block of sshd_config allows passwords")
	s.worker("")
	o := s.access(operation.AccessGrant, "--disable-passwords", "--nodes", "dea-1")
	q := o.question(2 * time.Minute)
	require.Contains(t, q.Cause.Message, "look for a Match block")
	now, err := s.cluster.Node("dea-1").ReadFile("/etc/ssh/sshd_config")
	require.NoError(t, err)
	require.Equal(t, allows, string(now))
	o.decide(q, operation.Skip)
	_, err = o.end(time.Minute)
	require.Error(t, err)
	f.row(parkedFor(operation.StepPasswords, "its configuration as it was; skipped"))
}

// inTrial waits until password logins of a node are on trial.
func (s *site) inTrial(ctx context.Context, node string) error {
	return waitFor(time.Minute, "a trial on "+node, func() (bool, error) {
		ways := s.door(node).OfferedMethods()
		if len(ways) == 0 || operation.OffersPasswords(ways) {
			return false, ctx.Err()
		}
		_, err := s.cluster.Node(node).ReadFile("/etc/ssh/sshd_config.katoflow-new")
		return err == nil, ctx.Err()
	})
}

func TestAccess_NodeRebootsInATrial_TheOldConfigurationHoldsAndItIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	// No login is found to work, so that the trial lasts.
	s.door("dea-1").BreakKeyLoginsOnReload(true)
	f := s.fault("a node reboots while its password logins are on trial")
	s.worker("")
	o := s.access(operation.AccessGrant, "--disable-passwords", "--nodes", "dea-1")
	require.NoError(t, s.inTrial(context.Background(), "dea-1"))
	s.door("dea-1").BreakKeyLoginsOnReload(false)
	s.cluster.Node("dea-1").RebootNow()
	r := o.done(3 * time.Minute)
	require.Contains(t, strings.Join(r.Nodes[0].Notes, "\n"), "tried again")
	require.Equal(t, []string{"publickey"}, s.door("dea-1").OfferedMethods())
	f.row(wentOn)
}

func TestAccess_CancelledInATrial_IsTakenBackAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withAccess)
	s.door("dea-1").BreakKeyLoginsOnReload(true)
	f := s.fault("cancelled while password logins are on trial")
	s.worker("")
	o := s.access(operation.AccessGrant, "--disable-passwords", "--nodes", "dea-1")
	require.NoError(t, s.inTrial(context.Background(), "dea-1"))
	s.cli(0, "op", "cancel", o.id, "--detach")
	r, err := o.end(2 * time.Minute)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, r.Phase)
	require.Contains(t, s.door("dea-1").OfferedMethods(), "password")
	f.row("taken back at once")
}

// TestKillMatrix_OfAccess kills the worker at every boundary of every step, and while password logins are on trial.
func TestKillMatrix_OfAccess(t *testing.T) {
	t.Parallel()
	oneDEA := func(c *config) { c.nodes = c.nodes[:2] }
	t.Run("points", func(t *testing.T) {
		m := matrix{
			site: func(t *testing.T) *site {
				s := newSite(t, nil, nil, withAccess, oneDEA)
				s.onlyWorker("dea-1")
				return s
			},
			start: func(s *site) *op {
				id := fmt.Sprintf("op-%d", shared.number.Add(1))
				return s.execute(operation.KindAccessGrant, operation.WorkflowAccess, id, operation.AccessInput{Request: operation.Request{OperationID: id, Cluster: s.cluster.Name()},
					Action: operation.AccessGrant, DisablePasswords: true})
			},
			intact: func(o *op, _ int) {
				o.done(3 * time.Minute)
				for _, n := range o.names() {
					require.Equal(o.t, []string{"publickey"}, o.door(n).OfferedMethods(), n)
					lines := o.door(n).AuthorizedKeys()
					once := slices.Clone(lines)
					slices.Sort(once)
					require.Len(o.t, slices.Compact(once), len(lines), "a line stands there twice")
				}
				for name, n := range o.accessCheck(0) {
					require.Equal(o.t, operation.LoginOK, n.FromLogin, name)
				}
			},
		}
		m.lanes(t, "operation", 2, boundaries("Resolve", "LockToken", "Fence", "CoreKey"))
		m.lanes(t, "node", 2, inChild("dea-1", slices.Concat(boundaries("Probe", "ChangeKeys"), boundaries("ProveLogins"), within("ChangePasswords", killPoint{name: "in a trial", moment: func(ctx context.Context, o *op) (func(), error) {
			return nil, o.inTrial(ctx, "dea-1")
		}}))))
	})
	tellKills(t, "access")
}
