package e2e

import (
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

// door is what leads into a node by SSH, with its faults.
type door interface {
	// AuthorizedKeys are the lines of the login user's authorized_keys; SetPassword gives that user one, and OfferedMethods are the ways to log in that the server offers now.
	AuthorizedKeys() []string
	SetAuthorizedKeys(lines ...string)
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
	s := newSite(t, nil, nil, withPatches)
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
	require.Contains(t, r.Message, "leads to none of 3 nodes")
}

func TestAccess_PasswordsOff_OnTrialAndBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, withPatches)
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
	s := newSite(t, nil, nil, withPatches)
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
	s := newSite(t, nil, nil, withPatches)
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("first contact\n"), 0o600))
	for _, n := range []string{"dea-1", "dea-2"} {
		s.door(n).SetPassword("first contact")
		s.door(n).SetAuthorizedKeys()
	}
	s.worker("")
	out := s.cli(7, "access", "grant", s.cluster.Name())
	require.Contains(t, out.Stderr, "no key accepted")
	shown := s.cli(0, "access", "grant", s.cluster.Name(), "--password-file", secret, "--dry-run").Stdout
	require.Contains(t, shown, "would get the worker's key")
	require.Empty(t, s.door("dea-1").AuthorizedKeys())

	r := s.access(operation.AccessGrant, "--password-file", secret).done(time.Minute)
	require.Contains(t, strings.Join(r.Warnings, "\n"), "2 nodes got the worker's key")
	for name, n := range s.accessCheck(0) {
		require.Equal(t, operation.LoginOK, n.FromLogin, name)
	}
	require.Len(t, s.door("dea-1").AuthorizedKeys(), 3, "the worker's, the Core's and its own")
}
