package remote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// newKeys returns host keys of three types.
func newKeys(t *testing.T) (ed, ec, rs ssh.Signer) {
	t.Helper()
	_, a, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(t, a), signerOf(t, b), signerOf(t, c)
}

func writeKnownHosts(t *testing.T, h Host, lines ...string) {
	t.Helper()
	if err := os.WriteFile(h.KnownHosts[0], []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func knownLine(name string, key ssh.PublicKey) string {
	return name + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func certify(t *testing.T, ca, host ssh.Signer, principals ...string) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{Key: host.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, host)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func TestHostKey_KnownHostsForms_AreJudgedAsOpenSSHDoes(t *testing.T) {
	ed, ec, rs := newKeys(t)
	ca, otherCA, rsaCA := ed, ec, rs
	caHost, _, _ := newKeys(t)
	s := newSSHServer(t)
	own := signerOf(t, s.host)
	base := s.hostEntry()
	addr := base.addr()
	name := knownhosts.Normalize(addr)
	for _, c := range []struct {
		what  string
		keys  []ssh.Signer // of the server
		lines []string
		kind  Kind
		parts []string
	}{
		{"plain", []ssh.Signer{own}, []string{knownLine(name, own.PublicKey())}, "", nil},
		{"hashed", []ssh.Signer{own}, []string{knownLine(xknownhosts.HashHostname(name), own.PublicKey())}, "", nil},
		{"several names", []ssh.Signer{own}, []string{knownLine("other,"+name, own.PublicKey())}, "", nil},
		{"wildcard", []ssh.Signer{own}, []string{knownLine("127.0.0.*", own.PublicKey())}, "", nil},
		{"second of two keys of a type", []ssh.Signer{own}, []string{knownLine(name, ed.PublicKey()), knownLine(name, own.PublicKey())}, "", nil},
		{"only the rsa key of three is known", []ssh.Signer{own, ec, rs}, []string{knownLine(name, rs.PublicKey())}, "", nil},
		{"only the ecdsa key of three is known", []ssh.Signer{own, ec, rs}, []string{knownLine(name, ec.PublicKey())}, "", nil},
		{"empty file", []ssh.Signer{own}, nil, KindHostKey, []string{"host key of " + name + " is unknown", ssh.FingerprintSHA256(own.PublicKey()), "cluster trust"}},
		{"other port", []ssh.Signer{own}, []string{knownLine("127.0.0.1", own.PublicKey())}, KindHostKey, []string{"is unknown"}},
		{"changed", []ssh.Signer{own}, []string{knownLine(name, ed.PublicKey())}, KindHostKey,
			[]string{"has changed", "expected " + ssh.FingerprintSHA256(ed.PublicKey()), "offered " + ssh.FingerprintSHA256(own.PublicKey()), "known_hosts:1"}},
		{"changed, hashed", []ssh.Signer{own}, []string{knownLine(xknownhosts.HashHostname(name), ed.PublicKey())}, KindHostKey, []string{"has changed"}},
		{"changed to another type", []ssh.Signer{own}, []string{knownLine(name, rs.PublicKey())}, KindHostKey, []string{"has changed", "(ssh-rsa)", "(ssh-ed25519)"}},
		{"revoked", []ssh.Signer{own}, []string{knownLine(name, own.PublicKey()), knownLine("@revoked *", own.PublicKey())}, KindHostKey, []string{"is revoked", "known_hosts:2"}},
		{"authority", []ssh.Signer{certify(t, ca, caHost, "127.0.0.1")}, []string{knownLine("@cert-authority "+name, ca.PublicKey())}, "", nil},
		{"authority by wildcard", []ssh.Signer{certify(t, ca, caHost, "127.0.0.1")}, []string{knownLine("@cert-authority *", ca.PublicKey())}, "", nil},
		{"authority with a key of another type", []ssh.Signer{certify(t, rsaCA, caHost, "127.0.0.1")}, []string{knownLine("@cert-authority "+name, rsaCA.PublicKey())}, "", nil},
		{"other authority", []ssh.Signer{certify(t, otherCA, caHost, "127.0.0.1")}, []string{knownLine("@cert-authority "+name, ca.PublicKey())}, KindHostKey, []string{"certificate", "not accepted"}},
		{"certificate for another name", []ssh.Signer{certify(t, ca, caHost, "dea-9")}, []string{knownLine("@cert-authority "+name, ca.PublicKey())}, KindHostKey, []string{"certificate", "not accepted"}},
		{"certificate of a revoked authority", []ssh.Signer{certify(t, ca, caHost, "127.0.0.1")},
			[]string{knownLine("@cert-authority "+name, ca.PublicKey()), knownLine("@revoked *", ca.PublicKey())}, KindHostKey, []string{"not accepted"}},
		{"plain key where an authority is known", []ssh.Signer{own}, []string{knownLine("@cert-authority "+name, ca.PublicKey())}, KindHostKey, []string{"is unknown", "certificate of the authority"}},
		{"the authority's key as host key", []ssh.Signer{ca}, []string{knownLine("@cert-authority "+name, ca.PublicKey())}, KindHostKey, []string{"key of a certificate authority as its own"}},
		{"authority and own plain key", []ssh.Signer{own}, []string{knownLine("@cert-authority "+name, ca.PublicKey()), knownLine(name, own.PublicKey())}, "", nil},
		{"noise", []ssh.Signer{own}, []string{"# a comment", "", knownLine(name, own.PublicKey()), "rubbish"}, KindHostKey, []string{"known_hosts:4"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			server := newSSHServer(t, func(n *sshServer) {
				config := *s.config
				n.config = &ssh.ServerConfig{PublicKeyCallback: config.PublicKeyCallback}
				for _, k := range c.keys {
					n.config.AddHostKey(k)
				}
			})
			// The lines name s's port; the pool believes to dial that one.
			p := newTestPool(t, Options{DialContext: redirect(server)})
			h := base
			h.KnownHosts = []string{filepath.Join(t.TempDir(), "known_hosts")}
			writeKnownHosts(t, h, c.lines...)
			_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
			if c.kind == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, c.kind, c.parts...)
			if server.execs.Load() != 0 {
				t.Error("a command ran")
			}
		})
	}
}

func TestHostKey_MissingFile_IsClearAndNothingIsDialled(t *testing.T) {
	s := newSSHServer(t)
	h := s.hostEntry()
	p := newTestPool(t, Options{})
	h.KnownHosts = append(h.KnownHosts, filepath.Join(t.TempDir(), "site_hosts"))
	_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindHostKey, "site_hosts does not exist", "cluster trust")
	h.KnownHosts = nil
	_, err = p.Run(testContext(t), h, Command{Argv: []string{"true"}})
	wantError(t, err, KindHostKey, "no known_hosts file")
	if s.accepted.Load() != 0 {
		t.Error("the node was dialled")
	}
}

func TestHostKey_SeveralFiles_AllCount(t *testing.T) {
	s := newSSHServer(t)
	h := s.hostEntry()
	empty := filepath.Join(t.TempDir(), "first")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.KnownHosts = []string{empty, h.KnownHosts[0]}
	mustRun(t, newTestPool(t, Options{}), h, "true")
}

func TestHostKey_TrustedMeanwhile_NeedsNoNewPool(t *testing.T) {
	s := newSSHServer(t)
	h := s.hostEntry()
	p := newTestPool(t, Options{})
	good := signerOf(t, s.host).PublicKey()
	other, _, _ := newKeys(t)
	for range 3 {
		if err := ReplaceKnownHost(h.KnownHosts[0], h, other.PublicKey()); err != nil {
			t.Fatal(err)
		}
		p.Forget(h)
		_, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}})
		wantError(t, err, KindHostKey, "has changed")
		if err := ReplaceKnownHost(h.KnownHosts[0], h, good); err != nil {
			t.Fatal(err)
		}
		mustRun(t, p, h, "true")
	}
}

func TestScanHostKeys_ServerWithThreeKeys_GivesAllWithoutLogin(t *testing.T) {
	ed, ec, rs := newKeys(t)
	s := newSSHServer(t, func(s *sshServer) {
		s.config = &ssh.ServerConfig{PublicKeyCallback: s.config.PublicKeyCallback}
		for _, k := range []ssh.Signer{ed, ec, rs} {
			s.config.AddHostKey(k)
		}
	})
	h := s.hostEntry()
	h.KeyFiles, h.KnownHosts = nil, nil
	keys, err := ScanHostKeys(testContext(t), h)
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 3 {
		t.Fatalf("got %d keys", len(keys))
	}
	for i, want := range []ssh.Signer{ed, ec, rs} {
		if !bytes.Equal(keys[i].Marshal(), want.PublicKey().Marshal()) {
			t.Errorf("key %d is %s", i, describe(keys[i]))
		}
	}

	bastion := newSSHServer(t)
	b := bastion.hostEntry()
	h.Bastion = &b
	if keys, err = ScanHostKeys(testContext(t), h); err != nil || len(keys) != 3 {
		t.Errorf("through a bastion: %d keys, %v", len(keys), err)
	}
	h.Bastion, h.Port = nil, 1
	_, err = ScanHostKeys(testContext(t), h)
	wantError(t, err, KindTransport, "connection refused")
}

func TestKnownHostFile_Append_IsAtomicPrivateAndNotTwice(t *testing.T) {
	ed, ec, _ := newKeys(t)
	path := filepath.Join(t.TempDir(), "new", "folder", "known_hosts")
	h := Host{Name: "dea-1", Address: "10.0.0.3", Port: 22, User: "u"}
	for range 2 {
		if err := AppendKnownHost(path, h, ed.PublicKey(), ec.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	want := knownLine("10.0.0.3", ed.PublicKey()) + "\n" + knownLine("10.0.0.3", ec.PublicKey()) + "\n"
	if got, _ := os.ReadFile(path); string(got) != want {
		t.Errorf("got %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	left, _ := os.ReadDir(filepath.Dir(path))
	if len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
	h.Port = 2222
	if err := AppendKnownHost(path, h, ed.PublicKey()); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !strings.HasSuffix(string(got), knownLine("[10.0.0.3]:2222", ed.PublicKey())+"\n") {
		t.Errorf("got %q", got)
	}
}

func TestKnownHostFile_AppendFromManyAtOnce_LosesNone(t *testing.T) {
	ed, _, _ := newKeys(t)
	path := filepath.Join(t.TempDir(), "known_hosts")
	var wg sync.WaitGroup
	for port := range 30 {
		wg.Go(func() {
			if err := AppendKnownHost(path, Host{Name: "n", Address: "h", User: "u", Port: 100 + port}, ed.PublicKey()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, _ := os.ReadFile(path)
	if n := bytes.Count(got, []byte("\n")); n != 30 {
		t.Errorf("%d of 30 lines", n)
	}
}

func TestKnownHostFile_Replace_TakesOnlyTheHostsOwnOtherKeys(t *testing.T) {
	ed, ec, rs := newKeys(t)
	old, _, _ := newKeys(t)
	folder := t.TempDir()
	path, link := filepath.Join(folder, "known_hosts"), filepath.Join(folder, "link")
	keep := []string{
		"# comment",
		knownLine("10.0.0.4", old.PublicKey()),
		knownLine("[10.0.0.3]:2222", old.PublicKey()),
		knownLine("@cert-authority 10.0.0.3", rs.PublicKey()),
		knownLine("@revoked 10.0.0.3", old.PublicKey()),
		knownLine("10.0.0.*", old.PublicKey()),
		"rubbish that is no entry",
	}
	text := strings.Join(keep, "\n") + "\n" +
		knownLine("10.0.0.3", old.PublicKey()) + "\n" +
		knownLine(xknownhosts.HashHostname("10.0.0.3"), old.PublicKey()) + "\n" +
		knownLine("dea-1,10.0.0.3", old.PublicKey()) + "\n" +
		knownLine("10.0.0.3", ec.PublicKey()) // no line end
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	h := Host{Name: "dea-1", Address: "10.0.0.3", User: "u"}
	if err := ReplaceKnownHost(link, h, ed.PublicKey(), ec.PublicKey()); err != nil {
		t.Fatal(err)
	}
	want := strings.Join(append(keep,
		knownLine("dea-1", old.PublicKey()),
		knownLine("10.0.0.3", ec.PublicKey()),
		knownLine("10.0.0.3", ed.PublicKey())), "\n") + "\n"
	if got, _ := os.ReadFile(path); string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced by a file")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestKnownHostFile_AddressThatWouldBeAPattern_IsRefused(t *testing.T) {
	ed, _, _ := newKeys(t)
	path := filepath.Join(t.TempDir(), "known_hosts")
	for _, address := range []string{"*", "a b", "a,b", "a\nb", "!a", "|1|x", "#x", "@revoked"} {
		if err := AppendKnownHost(path, Host{Name: "n", Address: address, User: "u"}, ed.PublicKey()); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was written")
	}
}
