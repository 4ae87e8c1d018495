package inventory

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// site is a folder with an inventory and the files it refers to.
type site struct {
	t   *testing.T
	dir string
	env map[string]string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), env: map[string]string{}}
	t.Setenv("HOME", filepath.Join(s.dir, "home"))
	s.write("home/.ssh/known_hosts", "", 0o600)
	return s
}

func (s *site) lookup(name string) (string, bool) {
	v, ok := s.env[name]
	return v, ok
}

func (s *site) write(name, content string, mode os.FileMode) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	require.NoError(s.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(s.t, os.WriteFile(path, []byte(content), 0o600))
	require.NoError(s.t, os.Chmod(path, mode))
	return path
}

// key writes a new private key and returns its public line.
func (s *site) key(name, passphrase string, mode os.FileMode) string {
	s.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(s.t, err)
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	require.NoError(s.t, err)
	s.write(name, string(pem.EncodeToMemory(block)), mode)
	p, err := ssh.NewPublicKey(public)
	require.NoError(s.t, err)
	return string(ssh.MarshalAuthorizedKey(p))
}

func (s *site) load(text string) *File {
	s.t.Helper()
	f, err := Load(s.write("inventory.yaml", text, 0o600))
	require.NoError(s.t, err)
	return f
}

// check returns the problems of CheckFiles with the folder taken out, and fails when a secret is among them.
func (s *site) check(f *File, clusters ...string) []string {
	s.t.Helper()
	err := f.CheckFiles(s.lookup, clusters...)
	if err == nil {
		return nil
	}
	problemsOf(s.t, err)
	assert.NotContains(s.t, err.Error(), "hunter2")
	return strings.Split(strings.ReplaceAll(err.Error(), s.dir+"/", ""), "\n")
}

func TestCheckFiles_EverythingThere_NoProblem(t *testing.T) {
	s := newSite(t)
	public := s.key("keys/plain", "", 0o600)
	s.key("keys/locked", "hunter2", 0o400)
	s.key("home/.ssh/other", "", 0o600)
	s.write("secrets/pass", "hunter2\n", 0o600)
	s.write("known_hosts", "# hosts\n\n192.0.2.1 "+public+"@cert-authority *.example.org "+public+"|1|3TUIe+GDqHbxyAhoM5p5Bh0jO2U=|UnCgKzQAVJYDAs4hxv1BIcLIcEw= "+public, 0o644)
	s.env["HOOK"] = "https://hooks.example.org/hunter2"
	f := s.load(`clusters:
  a:
    ssh: {key_files: [keys/plain, keys/locked, ~/.ssh/other], passphrase: {file: secrets/pass}, known_hosts: [known_hosts]}
    nodes: [{name: n, address: 192.0.2.1}]
    notify: {webhook: {env: HOOK}}
`)
	assert.Empty(t, s.check(f))
}

func TestCheckFiles_EverythingWrong_EachAtItsPlace(t *testing.T) {
	s := newSite(t)
	public := s.key("keys/open", "", 0o640)
	s.key("keys/locked", "hunter2", 0o600)
	s.write("keys/public", public, 0o600)
	s.write("keys/noise", "hunter2 is no key", 0o600)
	s.write("keys/huge", strings.Repeat("x", maxKeyFile+1), 0o600)
	s.write("secrets/wrong", "not the passphrase", 0o600)
	s.write("secrets/empty", "\n", 0o600)
	s.write("secrets/open", "hunter2", 0o604)
	s.write("hosts", "192.0.2.1 "+public+"this is nonsense\n", 0o600)
	s.write("ca.pem", "no certificate", 0o600)
	s.key("keys/good", "", 0o600)
	s.write("good", "192.0.2.1 "+public, 0o600)
	s.env["SET"] = "hunter2"
	require.NoError(t, syscall.Mkfifo(filepath.Join(s.dir, "keys/pipe"), 0o600))
	f := s.load(`clusters:
  a:
    ssh:
      key_files:
        - keys/none
        - keys/open
        - keys/public
        - keys/noise
        - keys/huge
        - keys
        - keys/pipe
        - keys/locked
      known_hosts: [nowhere, hosts, keys]
    nodes:
      - {name: n1, address: 192.0.2.1}
      - {name: n2, address: 192.0.2.2, ssh: {key_files: [keys/locked], passphrase: {file: secrets/wrong}}}
      - {name: n3, address: 192.0.2.3, ssh: {key_files: [keys/locked], passphrase: {env: NOT_SET}}}
      - {name: n4, address: 192.0.2.4, ssh: {passphrase: {file: secrets/open}}}
    notify: {webhook: {file: secrets/none}}
    s3: {bucket: archives, access_key: {file: secrets/empty}, secret_key: {env: NOT_SET}, ca_file: ca.pem}
  b:
    platform: als
    ssh: {key_files: [keys/good], known_hosts: [good]}
    nodes: [{name: n, address: 192.0.2.1, roles: [primary]}]
    s3: {bucket: archives, access_key: {env: SET}, secret_key: {env: SET}, session_token: {env: NOT_SET}}
    controller: {url: "https://api.example.org", user: u, password: {file: secrets/open}, ca_file: nowhere.pem}
`)
	assert.Equal(t, []string{
		`inventory.yaml:5:11: clusters.a.ssh.key_files[0]: no such file "keys/none": write where it is on the worker`,
		`inventory.yaml:6:11: clusters.a.ssh.key_files[1]: "keys/open" can be read by group or others (mode 0640): run chmod 600 on it`,
		`inventory.yaml:7:11: clusters.a.ssh.key_files[2]: "keys/public" is a public key: name the private key, usually the same without .pub`,
		`inventory.yaml:8:11: clusters.a.ssh.key_files[3]: "keys/noise" is not a private key that can be read: name an OpenSSH or PEM private key`,
		`inventory.yaml:9:11: clusters.a.ssh.key_files[4]: "keys/huge" is larger than 65536 bytes: is this the right file?`,
		`inventory.yaml:10:11: clusters.a.ssh.key_files[5]: "keys" is not a file: name a file`,
		`inventory.yaml:11:11: clusters.a.ssh.key_files[6]: "keys/pipe" is not a file: name a file`,
		`inventory.yaml:12:11: clusters.a.ssh.key_files[7]: "keys/locked" needs a passphrase: write ssh.passphrase as {file: PATH} or {env: NAME}, or use an agent`,
		`inventory.yaml:13:21: clusters.a.ssh.known_hosts[0]: no such file "nowhere": write where it is on the worker; katoflow trusts no host by itself: add the hosts with ssh-keyscan or katoflow cluster trust`,
		`inventory.yaml:13:30: clusters.a.ssh.known_hosts[1]: "hosts" line 2 is not a known_hosts entry: correct the line or take it out`,
		`inventory.yaml:13:37: clusters.a.ssh.known_hosts[2]: "keys" is not a file: name a file`,
		`inventory.yaml:16:84: clusters.a.nodes[1].ssh.passphrase: does not open the key "keys/locked": correct what it refers to`,
		`inventory.yaml:17:84: clusters.a.nodes[2].ssh.passphrase: the environment variable "NOT_SET" is not set: set it for the worker`,
		`inventory.yaml:18:58: clusters.a.nodes[3].ssh.passphrase: "secrets/open" can be read by group or others (mode 0604): run chmod 600 on it`,
		`inventory.yaml:19:23: clusters.a.notify.webhook: no such file "secrets/none": write where it is on the worker`,
		`inventory.yaml:20:40: clusters.a.s3.access_key: "secrets/empty" is empty: write the secret into it`,
		`inventory.yaml:20:75: clusters.a.s3.secret_key: the environment variable "NOT_SET" is not set: set it for the worker`,
		`inventory.yaml:20:100: clusters.a.s3.ca_file: "ca.pem" holds no certificate: name a PEM file`,
		`inventory.yaml:25:91: clusters.b.s3.session_token: the environment variable "NOT_SET" is not set: set it for the worker`,
		`inventory.yaml:26:69: clusters.b.controller.password: "secrets/open" can be read by group or others (mode 0604): run chmod 600 on it`,
		`inventory.yaml:26:100: clusters.b.controller.ca_file: no such file "nowhere.pem": write where it is on the worker`,
	}, s.check(f))
}

func TestCheckFiles_EC2_EachReferenceAtItsPlace(t *testing.T) {
	s := newSite(t)
	s.key("key", "", 0o600)
	s.write("ca.pem", "no certificate", 0o600)
	s.env["SET"] = "hunter2"
	f := s.load(`clusters:
  a:
    ssh: {key_files: [key]}
    nodes: [{name: n, address: 192.0.2.1, vm: i-0123456789abcdef0}]
    hypervisor:
      provider: ec2
      ec2: {region: eu-central-1, access_key: {env: SET}, secret_key: {env: NOT_SET}, session_token: {file: nowhere}, ca_file: ca.pem}
  b:
    ssh: {key_files: [key]}
    nodes: [{name: n, address: 192.0.2.1, vm: i-0123456789abcdef0}]
    hypervisor: {provider: ec2, ec2: {region: eu-central-1}}
`)
	assert.Equal(t, []string{
		`inventory.yaml:7:71: clusters.a.hypervisor.ec2.secret_key: the environment variable "NOT_SET" is not set: set it for the worker`,
		`inventory.yaml:7:102: clusters.a.hypervisor.ec2.session_token: no such file "nowhere": write where it is on the worker`,
		`inventory.yaml:7:128: clusters.a.hypervisor.ec2.ca_file: "ca.pem" holds no certificate: name a PEM file`,
	}, s.check(f))
}

func TestCheckFiles_OpenStack_EachReferenceAtItsPlace(t *testing.T) {
	s := newSite(t)
	s.key("key", "", 0o600)
	s.write("ca.pem", "no certificate", 0o600)
	s.env["SET"] = "hunter2"
	f := s.load(`clusters:
  a:
    ssh: {key_files: [key]}
    nodes: [{name: n, address: 192.0.2.1}]
    hypervisor:
      provider: openstack
      openstack: {auth_url: "https://k/v3", user: u, project: p, password: {env: NOT_SET}, ca_file: ca.pem}
  b:
    ssh: {key_files: [key]}
    nodes: [{name: n, address: 192.0.2.1}]
    hypervisor:
      provider: openstack
      openstack: {auth_url: "https://k/v3", application_credential: {id: x, secret: {file: nowhere}}}
  c:
    ssh: {key_files: [key]}
    nodes: [{name: n, address: 192.0.2.1}]
    hypervisor: {provider: openstack, openstack: {auth_url: "https://k/v3", application_credential: {id: x, secret: {env: SET}}}}
`)
	assert.Equal(t, []string{
		`inventory.yaml:7:76: clusters.a.hypervisor.openstack.password: the environment variable "NOT_SET" is not set: set it for the worker`,
		`inventory.yaml:7:101: clusters.a.hypervisor.openstack.ca_file: "ca.pem" holds no certificate: name a PEM file`,
		`inventory.yaml:13:85: clusters.b.hypervisor.openstack.application_credential.secret: no such file "nowhere": write where it is on the worker`,
	}, s.check(f))
}

func TestCheckFiles_VSphere_EachReferenceAtItsPlace(t *testing.T) {
	s := newSite(t)
	s.key("key", "", 0o600)
	s.write("ca.pem", "no certificate", 0o600)
	s.env["SET"] = "hunter2"
	f := s.load(`clusters:
  a:
    ssh: {key_files: [key]}
    nodes: [{name: n, address: 192.0.2.1}]
    hypervisor:
      provider: vsphere
      vsphere: {url: "https://v", user: u, password: {file: nowhere}, ca_file: ca.pem}
  b:
    ssh: {key_files: [key]}
    nodes: [{name: n, address: 192.0.2.1}]
    hypervisor: {provider: vsphere, vsphere: {url: "https://v", user: u, password: {env: SET}}}
`)
	assert.Equal(t, []string{
		`inventory.yaml:7:54: clusters.a.hypervisor.vsphere.password: no such file "nowhere": write where it is on the worker`,
		`inventory.yaml:7:80: clusters.a.hypervisor.vsphere.ca_file: "ca.pem" holds no certificate: name a PEM file`,
	}, s.check(f))
}

func TestCheckFiles_NoKeyAtAll_SaysSoOnce(t *testing.T) {
	s := newSite(t)
	f := s.load("clusters: {a: {nodes: [{name: n, address: 192.0.2.1}, {name: m, address: 192.0.2.2}]}}")
	assert.Equal(t, []string{"inventory.yaml:1:12: clusters.a.ssh.key_files: " + noWayIn}, s.check(f))

	s.env["SSH_AUTH_SOCK"] = "/run/agent"
	assert.Empty(t, s.check(f), "an agent is enough")

	delete(s.env, "SSH_AUTH_SOCK")
	s.key("home/.ssh/id_ed25519", "", 0o600)
	assert.Empty(t, s.check(f), "the user's own key is enough")
	s.key("home/.ssh/id_ed25519", "hunter2", 0o600)
	assert.Equal(t, []string{`inventory.yaml:1:12: clusters.a.ssh.key_files: "home/.ssh/id_ed25519" needs a passphrase: write ssh.passphrase as {file: PATH} or {env: NAME}, or use an agent`}, s.check(f))
}

func TestCheckFiles_DefaultKnownHostsMissing_IsAProblem(t *testing.T) {
	s := newSite(t)
	s.key("key", "", 0o600)
	require.NoError(t, os.Remove(filepath.Join(s.dir, "home/.ssh/known_hosts")))
	f := s.load("clusters: {a: {ssh: {key_files: [key]}, nodes: [{name: n, address: 192.0.2.1}]}}")
	problems := s.check(f)
	require.Len(t, problems, 1)
	assert.True(t, strings.HasPrefix(problems[0], `inventory.yaml:1:21: clusters.a.ssh.known_hosts[0]: no such file "home/.ssh/known_hosts"`), problems[0])
}

func TestCheckFiles_OneCluster_LeavesTheOthersAlone(t *testing.T) {
	s := newSite(t)
	s.key("key", "", 0o600)
	f := s.load("clusters: {good: {ssh: {key_files: [key]}, nodes: [{name: n, address: 192.0.2.1}]}, bad: {ssh: {key_files: [none]}, nodes: [{name: n, address: 192.0.2.1}]}}")
	assert.Empty(t, s.check(f, "good"))
	assert.Len(t, s.check(f, "bad"), 1)
	assert.Len(t, s.check(f), 1)
	assert.Contains(t, s.check(f, "other")[0], `unknown cluster "other"`)
}

func TestHost_AllSettings_AreResolved(t *testing.T) {
	s := newSite(t)
	s.env["SSH_AUTH_SOCK"] = "/run/agent"
	s.env["PASS"] = "hunter2"
	f := s.load(`clusters:
  a:
    ssh: {user: admin, port: 2200, key_files: [keys/one, ~/two, /three], passphrase: {env: PASS}, agent: true, known_hosts: [hosts],
      bastion: "jump@[2001:db8::1]:2222", connect_timeout: 3s, max_sessions: 4}
    nodes:
      - {name: n, address: 192.0.2.1}
      - {name: m, address: m.example.org, ssh: {user: root, port: 22, key_files: [four], agent: false, bastion: jump2}}
`)
	c, err := f.Cluster("a")
	require.NoError(t, err)
	h, err := f.Host(c, c.Nodes[0], s.lookup)
	require.NoError(t, err)
	assert.Equal(t, "n", h.Name)
	assert.Equal(t, "192.0.2.1", h.Address)
	assert.Equal(t, 2200, h.Port)
	assert.Equal(t, "admin", h.User)
	assert.Equal(t, []string{filepath.Join(s.dir, "keys/one"), filepath.Join(s.dir, "home/two"), "/three"}, h.KeyFiles)
	assert.Equal(t, []string{filepath.Join(s.dir, "hosts")}, h.KnownHosts)
	assert.Equal(t, "/run/agent", h.AgentSocket)
	assert.Equal(t, 3*time.Second, h.ConnectTimeout)
	assert.Equal(t, 4, h.MaxSessions)
	pass, err := h.Passphrase()
	require.NoError(t, err)
	assert.Equal(t, "hunter2", string(pass))
	require.NotNil(t, h.Bastion)
	assert.Equal(t, "2001:db8::1", h.Bastion.Address)
	assert.Equal(t, 2222, h.Bastion.Port)
	assert.Equal(t, "jump", h.Bastion.User)
	assert.Equal(t, h.KeyFiles, h.Bastion.KeyFiles)
	assert.Equal(t, h.KnownHosts, h.Bastion.KnownHosts)
	assert.Nil(t, h.Bastion.Bastion)

	m, err := f.Host(c, c.Nodes[1], s.lookup)
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(s.dir, "four")}, m.KeyFiles)
	assert.Empty(t, m.AgentSocket)
	assert.Equal(t, 22, m.Port)
	assert.Equal(t, "jump2", m.Bastion.Address)
	assert.Equal(t, 22, m.Bastion.Port)
	assert.Equal(t, "root", m.Bastion.User)

	delete(s.env, "PASS")
	_, err = h.Passphrase()
	assert.EqualError(t, err, `passphrase: the environment variable "PASS" is not set: set it for the worker`)
}

func TestHost_NothingToLogInWith_IsAnError(t *testing.T) {
	s := newSite(t)
	f := s.load(oneNode)
	c, err := f.Cluster("a")
	require.NoError(t, err)
	_, err = f.Host(c, c.Nodes[0], s.lookup)
	assert.EqualError(t, err, `node "n": `+noWayIn)

	s.key("home/.ssh/id_rsa", "", 0o600)
	h, err := f.Host(c, c.Nodes[0], s.lookup)
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(s.dir, "home/.ssh/id_rsa")}, h.KeyFiles)
	assert.Nil(t, h.Passphrase)
}

func TestLoad_FolderChangesLater_PathsStayRight(t *testing.T) {
	s := newSite(t)
	s.write("inventory.yaml", oneNode, 0o600)
	t.Chdir(s.dir)
	f, err := Load("inventory.yaml")
	require.NoError(t, err)
	t.Chdir("/")
	assert.Equal(t, filepath.Join(s.dir, "keys/one"), f.ResolvePath("keys/one"))
	assert.Equal(t, "inventory.yaml", f.Path())
}

func TestSecret_Resolve_OneNewlineIsDropped(t *testing.T) {
	s := newSite(t)
	f := s.load(oneNode)
	for content, want := range map[string]string{"x\n": "x", "x\r\n": "x", "x\n\n": "x\n", " x ": " x ", "x": "x"} {
		s.write("secret", content, 0o600)
		got, err := Secret{File: "secret"}.Resolve(f, s.lookup)
		require.NoError(t, err)
		assert.Equal(t, want, string(got))
	}
	s.write("secret", strings.Repeat("hunter2", maxSecret), 0o600)
	_, err := Secret{File: "secret"}.Resolve(f, s.lookup)
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "hunter2")
}
