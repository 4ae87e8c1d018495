package remote

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// knownHosts is what a host's known_hosts files say.
type knownHosts struct {
	files    []string
	infos    []fs.FileInfo
	db       *knownhosts.HostKeyDB
	callback ssh.HostKeyCallback
}

// knownHostsCache keeps parsed known_hosts files until one of them changes.
type knownHostsCache struct {
	mu      sync.Mutex
	entries map[string]*knownHosts
}

// load returns what files say now.
func (k *knownHostsCache) load(files []string) (*knownHosts, error) {
	if len(files) == 0 {
		return nil, errors.New("no known_hosts file: host keys are always verified, name one in known_hosts")
	}
	// The state of the files is taken before they are read: a change in between is seen the next time.
	infos := make([]fs.FileInfo, len(files))
	for i, file := range files {
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("known_hosts file %s does not exist: create it with `katoflow cluster trust` or ssh-keyscan", file)
		}
		if err != nil {
			return nil, fileError("known_hosts file", file, err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("known_hosts file %s is not a file", file)
		}
		infos[i] = info
	}
	id := strings.Join(files, "\x00")
	k.mu.Lock()
	defer k.mu.Unlock()
	if known := k.entries[id]; known != nil && slices.EqualFunc(known.infos, infos, sameFile) {
		return known, nil
	}
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, err
	}
	known := &knownHosts{files: files, infos: infos, db: db, callback: db.HostKeyCallback()}
	if k.entries == nil {
		k.entries = map[string]*knownHosts{}
	}
	k.entries[id] = known
	return known, nil
}

// certAlgorithms and plainAlgorithms are the host key algorithms asked for, best first. SHA-1 RSA comes last: the sshd of ALS's
// Ubuntu 12.04 and 14.04 nodes signs RSA host keys with nothing else.
func certAlgorithms() []string {
	return []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01, ssh.CertAlgoRSAv01}
}

func plainAlgorithms() []string {
	return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA}
}

// algorithms to ask addr for: those of the keys known for it first, so that of several host keys the server shows the one we
// know, then the others, so that a server without any of them is refused for the key it shows.
func (k *knownHosts) algorithms(addr string) []string {
	var algorithms []string
	add := func(names ...string) {
		for _, name := range names {
			if !slices.Contains(algorithms, name) {
				algorithms = append(algorithms, name)
			}
		}
	}
	keys := k.db.HostKeys(addr)
	for _, key := range keys {
		switch {
		case key.Cert:
			// Whatever the authority's own key is, it may have signed keys of any type.
			add(certAlgorithms()...)
		case key.Type() == ssh.KeyAlgoRSA:
			add(ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA)
		default:
			add(key.Type())
		}
	}
	add(plainAlgorithms()...)
	return algorithms
}

// check is the host key callback. Its errors are one line without control characters.
func (k *knownHosts) check(hostname string, remote net.Addr, key ssh.PublicKey) error {
	err := k.callback(hostname, remote, key)
	host := Escape(knownhosts.Normalize(hostname))
	var revoked *xknownhosts.RevokedError
	var keyErr *xknownhosts.KeyError
	cert, isCert := key.(*ssh.Certificate)
	switch {
	case err == nil:
		// A CA's own key is no host key, even where its @cert-authority line names the host.
		if !isCert && !k.isHostKey(hostname, key) {
			return fmt.Errorf("%s shows the key of a certificate authority as its own (%s): refused", host, describe(key))
		}
		return nil
	case errors.As(err, &revoked):
		return fmt.Errorf("host key of %s is revoked in %s:%d: %s", host, Escape(revoked.Revoked.Filename), revoked.Revoked.Line, describe(key))
	case isCert:
		return fmt.Errorf("host certificate of %s signed by %s is not accepted: %s: check the @cert-authority lines in %s",
			host, describe(cert.SignatureKey), oneLine(err.Error(), 160), k.names())
	case errors.As(err, &keyErr):
		var expected []string
		where := ""
		for _, want := range k.db.HostKeys(hostname) {
			if !want.Cert {
				expected = append(expected, describe(want.PublicKey))
			}
		}
		for _, want := range keyErr.Want {
			where = fmt.Sprintf("%s:%d", Escape(want.Filename), want.Line)
		}
		switch {
		case len(expected) > 0:
			return fmt.Errorf("host key of %s has changed: expected %s (%s), offered %s: if the node was reinstalled trust the new key with `katoflow cluster trust`, else somebody is in between",
				host, strings.Join(expected, " or "), where, describe(key))
		case len(keyErr.Want) > 0:
			return fmt.Errorf("host key of %s is unknown: a certificate of the authority in %s is expected, offered the plain key %s", host, where, describe(key))
		}
		return fmt.Errorf("host key of %s is unknown: offered %s, which is not in %s: compare it with the node's and trust it with `katoflow cluster trust`",
			host, describe(key), k.names())
	}
	return fmt.Errorf("host key of %s is not accepted: %s", host, oneLine(err.Error(), 160))
}

func (k *knownHosts) isHostKey(hostname string, key ssh.PublicKey) bool {
	for _, known := range k.db.HostKeys(hostname) {
		if !known.Cert && bytes.Equal(known.Marshal(), key.Marshal()) {
			return true
		}
	}
	return false
}

func (k *knownHosts) names() string { return Escape(strings.Join(k.files, ", ")) }

// describe shows a key as ssh-keygen -l does: its fingerprint and type.
func describe(key ssh.PublicKey) string {
	return fmt.Sprintf("%s (%s)", ssh.FingerprintSHA256(key), Escape(key.Type()))
}

// ScanHostKeys returns the plain host keys that h shows, one of each type, for the operator to compare and trust. It does not log into
// h and believes nothing of it; a bastion on the way is verified and logged into as always. Each type costs one
// connection. Errors: KindTransport when h cannot be reached, the bastion's own, ctx's without a kind.
func (p *Pool) ScanHostKeys(ctx context.Context, h Host) ([]ssh.PublicKey, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	if !p.begin() {
		return nil, transportError(h.Name, errPoolClosed, "ssh: %s", errPoolClosed)
	}
	defer p.wg.Done()
	var keys []ssh.PublicKey
	algorithms := plainAlgorithms()
	for len(algorithms) > 0 {
		key, err := p.scan(ctx, h, algorithms)
		if ctx.Err() != nil {
			return nil, contextError(h.Name, ctx, "while reading host keys")
		}
		if key == nil && err == nil {
			break
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
		algorithms = slices.DeleteFunc(algorithms, func(name string) bool {
			return name == key.Type() || key.Type() == ssh.KeyAlgoRSA && (name == ssh.KeyAlgoRSASHA256 || name == ssh.KeyAlgoRSASHA512)
		})
	}
	if len(keys) == 0 {
		return nil, transportError(h.Name, nil, "ssh: %s shows no host key of a type that is supported", h.addr())
	}
	return keys, nil
}

// ScanHostKeys is Pool.ScanHostKeys with connections of its own.
func ScanHostKeys(ctx context.Context, h Host) ([]ssh.PublicKey, error) {
	p := NewPool(Options{})
	defer p.Close()
	return p.ScanHostKeys(ctx, h)
}

var errSeen = errors.New("host key seen")

// scan returns the key the server shows for the first of algorithms that it has, nil when it has none of them.
func (p *Pool) scan(ctx context.Context, h Host, algorithms []string) (ssh.PublicKey, error) {
	timeout := h.timeout()
	raw, via, err := p.reach(ctx, h, timeout)
	if err != nil {
		return nil, err
	}
	if via != nil {
		defer p.release(via)
	}
	var mu sync.Mutex
	var seen ssh.PublicKey
	l := &login{host: h, algorithms: algorithms, onKey: func(_ string, _ net.Addr, key ssh.PublicKey) error {
		mu.Lock()
		defer mu.Unlock()
		seen = key
		return errSeen
	}}
	// It always fails: at the latest in onKey, before anything is proved to the server.
	_, err = p.handshake(ctx, raw.heardConn, h, l, timeout-raw.took)
	mu.Lock()
	defer mu.Unlock()
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case seen != nil:
		return seen, nil
	case errors.As(err, &negotiation):
		return nil, nil
	}
	return nil, err
}

// AppendKnownHost writes keys as h's into the known_hosts file at path, which is made with mode 0600 (its folder with
// 0700) when it is not there. Keys it already has for h are not written twice. The file is replaced in one step; changes at the
// same time from this or other processes wait for each other.
func AppendKnownHost(path string, h Host, keys ...ssh.PublicKey) error {
	return changeKnownHosts(path, h, keys, false)
}

// ReplaceKnownHost is AppendKnownHost that first takes away every other key of h. CA and revoked lines, patterns with wildcards and
// other names on the same line stay.
func ReplaceKnownHost(path string, h Host, keys ...ssh.PublicKey) error {
	return changeKnownHosts(path, h, keys, true)
}

func changeKnownHosts(path string, h Host, keys []ssh.PublicKey, replace bool) error {
	if err := h.check(); err != nil {
		return fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	name := knownhosts.Normalize(h.addr())
	if strings.ContainsAny(name, " \t\r\n,*?!|#@") {
		return fmt.Errorf("%s: address %s cannot be a name in a known_hosts file", Escape(h.Name), Escape(h.Address))
	}
	if len(keys) == 0 {
		return fmt.Errorf("%s: no host key to write", Escape(h.Name))
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("known_hosts folder %s cannot be made: %w", folder, err)
	}
	unlock, err := lockFolder(folder)
	if err != nil {
		return fmt.Errorf("known_hosts file %s cannot be changed: %w", path, err)
	}
	defer unlock()
	mode := fs.FileMode(0o600)
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fileError("known_hosts file", path, err)
	default:
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	text, err := withKnownHost(old, name, keys, replace)
	if err != nil {
		return fmt.Errorf("known_hosts file %s: %w", path, err)
	}
	if bytes.Equal(text, old) && err == nil && old != nil {
		return nil
	}
	if err := writeFile(path, text, mode); err != nil {
		return fmt.Errorf("known_hosts file %s cannot be written: %w", path, err)
	}
	return nil
}

// withKnownHost returns the text of a known_hosts file with keys for name.
func withKnownHost(text []byte, name string, keys []ssh.PublicKey, replace bool) ([]byte, error) {
	missing := slices.Clone(keys)
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		kept, key := line, ssh.PublicKey(nil)
		if marker, hosts, parsed, _, _, err := ssh.ParseKnownHosts(line); err == nil && marker == "" && slices.ContainsFunc(hosts, func(host string) bool { return namesHost(host, name) }) {
			key = parsed
			wanted := func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) }
			if slices.ContainsFunc(keys, wanted) {
				missing = slices.DeleteFunc(missing, wanted)
			} else if replace {
				kept = withoutHost(line, name)
			}
		}
		out.Write(kept)
	}
	if out.Len() > 0 && !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
		out.WriteByte('\n')
	}
	for _, key := range missing {
		if _, isCert := key.(*ssh.Certificate); isCert {
			return nil, errors.New("a certificate cannot be trusted as a host key: trust its authority with an @cert-authority line")
		}
		out.WriteString(knownhosts.Line([]string{name}, key) + "\n")
	}
	return out.Bytes(), nil
}

// withoutHost returns a line without name among its hosts, nothing when it was the only one.
func withoutHost(line []byte, name string) []byte {
	trimmed := bytes.TrimLeft(line, " \t")
	end := bytes.IndexAny(trimmed, " \t")
	var hosts []string
	for _, host := range strings.Split(string(trimmed[:end]), ",") {
		if !namesHost(host, name) {
			hosts = append(hosts, host)
		}
	}
	if len(hosts) == 0 {
		return nil
	}
	return append([]byte(strings.Join(hosts, ",")), trimmed[end:]...)
}

// namesHost says whether a host field, plain or hashed, is exactly name (in the form "host" or "[host]:port").
func namesHost(field, name string) bool {
	rest, hashed := strings.CutPrefix(field, "|1|")
	if !hashed {
		return strings.EqualFold(field, name) || field == "["+name+"]:22"
	}
	salt64, hash64, ok := strings.Cut(rest, "|")
	salt, err := base64.StdEncoding.DecodeString(salt64)
	hash, err2 := base64.StdEncoding.DecodeString(hash64)
	if !ok || err != nil || err2 != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), hash)
}

// writeFile replaces a file in one step, on disk before it returns.
func writeFile(path string, text []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if _, err = f.Write(text); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
