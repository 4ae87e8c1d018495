package remote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// clientVersion is what a node's sshd logs of us.
const clientVersion = "SSH-2.0-katoflow"

// open dials h, through its bastion if it has one, verifies its host key and logs in.
func (p *Pool) open(ctx context.Context, h Host) (*connection, error) {
	// Everything that can be wrong on this side is found before a packet is sent.
	known, err := p.hostKeys.load(h.KnownHosts)
	if err != nil {
		return nil, hostKeyError(h.Name, err, "ssh: %s", oneLine(err.Error(), 300))
	}
	var signers []ssh.Signer
	var password []byte
	if h.Password != nil {
		if password, err = h.Password(); err != nil {
			return nil, authError(h.Name, err, "ssh: no password: %s", oneLine(err.Error(), 300))
		}
	} else if signers, err = p.keys.load(h); err != nil {
		return nil, authError(h.Name, err, "ssh: %s", oneLine(err.Error(), 300))
	} else if len(signers) == 0 && h.AgentSocket == "" {
		return nil, authError(h.Name, nil, "ssh: no key file and no agent to log in with: set key_file or agent")
	}

	timeout := h.timeout()
	raw, via, err := p.reach(ctx, h, h.dialTimeout())
	if err != nil {
		return nil, err
	}
	l := &login{host: h, known: known, signers: signers, password: password}
	client, err := p.handshake(ctx, raw.heardConn, h, l, timeout-raw.took)
	if err != nil {
		if via != nil {
			p.release(via)
		}
		return nil, err
	}
	return p.newConnection(client, raw.heardConn, via), nil
}

func (h Host) timeout() time.Duration {
	if h.ConnectTimeout > 0 {
		return h.ConnectTimeout
	}
	return defaultConnectTimeout
}

func (h Host) dialTimeout() time.Duration {
	if h.DialTimeout > 0 {
		return min(h.DialTimeout, h.timeout())
	}
	return h.timeout()
}

type reached struct {
	*heardConn
	took time.Duration
}

// reach opens the byte stream to h. via is the bastion's connection, held for as long as the stream is used; the time of
// connecting to the bastion itself is not counted.
func (p *Pool) reach(ctx context.Context, h Host, timeout time.Duration) (raw reached, via *connection, err error) {
	if h.Bastion == nil {
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		conn, err := p.opts.DialContext(ctx, "tcp", h.addr())
		if err != nil {
			return reached{}, nil, dialError(h, err, timeout)
		}
		return reached{&heardConn{Conn: conn}, time.Since(began)}, nil, nil
	}

	b := *h.Bastion
	n := p.use(b)
	defer n.unuse()
	for redialled := false; ; redialled = true {
		via, cached, err := p.connect(ctx, b, n)
		if err != nil {
			return reached{}, nil, bastionError(h, err)
		}
		began := time.Now()
		dialCtx, cancel := context.WithTimeout(ctx, timeout)
		conn, err := dialThrough(dialCtx, via, h.addr())
		cancel()
		if err == nil {
			return reached{&heardConn{Conn: conn}, time.Since(began)}, via, nil
		}
		p.release(via)
		var refused *ssh.OpenChannelError
		switch {
		case errors.As(err, &refused) && refused.Reason == ssh.Prohibited:
			return reached{}, nil, authError(h.Name, err, "ssh: bastion %s refuses to forward to %s (%s): allow AllowTcpForwarding and PermitOpen there",
				Escape(b.Name), h.addr(), oneLine(refused.Message, 80))
		case errors.As(err, &refused):
			return reached{}, nil, transportError(h.Name, err, "ssh: bastion %s cannot reach %s (%s): is the node up, and sshd running?",
				Escape(b.Name), h.addr(), oneLine(refused.Message, 80))
		case errors.Is(err, context.DeadlineExceeded):
			return reached{}, nil, transportError(h.Name, err, "ssh: no answer from %s through bastion %s within %s: is the node up, and open in the firewall?",
				h.addr(), Escape(b.Name), timeout)
		case cached && !redialled && ctx.Err() == nil:
			// Its connection was there before and is dead: nothing was sent to the node, dial the bastion once more.
			p.drop(via, err)
		default:
			p.drop(via, err)
			return reached{}, nil, transportError(h.Name, err, "ssh: connection to bastion %s lost: %s", Escape(b.Name), oneLine(err.Error(), 160))
		}
	}
}

// dialThrough asks the bastion for a stream to addr. A bastion's connection that dies meanwhile ends the attempt.
func dialThrough(ctx context.Context, via *connection, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopped := make(chan struct{})
	defer close(stopped)
	via.pool.wg.Go(func() {
		select {
		case <-via.done:
			cancel(via.cause())
		case <-stopped:
		}
	})
	conn, err := via.client.DialContext(ctx, "tcp", addr)
	if err != nil && errors.Is(err, context.Canceled) && !via.alive() {
		return nil, via.cause()
	}
	return conn, err
}

// bastionError is the bastion's error as the node's.
func bastionError(h Host, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Kind: e.Kind, Node: h.Name, Message: "bastion " + Escape(h.Bastion.Name) + ": " + e.Message, Err: e}
	}
	return err
}

// dialError explains why no TCP connection came about.
func dialError(h Host, err error, timeout time.Duration) error {
	var dns *net.DNSError
	var network net.Error
	addr := Escape(h.addr())
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return transportError(h.Name, err, "ssh: connection refused by %s: is sshd running?", addr)
	case errors.As(err, &dns) && dns.IsNotFound:
		return transportError(h.Name, err, "ssh: %s cannot be resolved: check the address and the worker's DNS", oneLine(h.Address, 100))
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return transportError(h.Name, err, "ssh: no route to %s: is the node up?", addr)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return transportError(h.Name, err, "ssh: no answer from %s within %s: is the node up, and open in the firewall?", addr, timeout)
	case errors.Is(err, context.Canceled):
		return transportError(h.Name, err, "ssh: connecting to %s was given up: %s", addr, errPoolClosed)
	}
	return transportError(h.Name, err, "ssh: cannot connect to %s: %s", addr, oneLine(err.Error(), 160))
}

// login is one handshake: what it verifies and proves, and how far it came.
type login struct {
	host    Host
	known   *knownHosts
	signers []ssh.Signer
	// password takes the place of the keys when the host has one.
	password []byte
	// onKey takes the place of the verification when not nil.
	onKey ssh.HostKeyCallback
	// algorithms of host keys to ask for; nil = by what is known of the host.
	algorithms []string

	// verified is set when the host key was accepted.
	verified atomic.Bool

	mu       sync.Mutex
	keyErr   error // of the host key
	agentErr error
	agent    net.Conn
	tried    []string
	banner   string
}

// handshake logs in over raw within timeout. It closes raw when it fails.
func (p *Pool) handshake(ctx context.Context, raw net.Conn, h Host, l *login, timeout time.Duration) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	config := &ssh.ClientConfig{
		User:              h.User,
		ClientVersion:     clientVersion,
		HostKeyCallback:   l.verify,
		HostKeyAlgorithms: l.algorithms,
		BannerCallback:    l.keepBanner,
		Auth:              []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return l.offer(deadline) })},
	}
	if h.Password != nil {
		config.Auth = l.passwordMethods(l.password)
	}
	if l.algorithms == nil {
		config.HostKeyAlgorithms = l.known.algorithms(h.addr())
	}
	type shaken struct {
		client *ssh.Client
		err    error
	}
	result := make(chan shaken)
	given := make(chan struct{})
	// Closing a stream through a bastion does not end a read of it at once, so the deadline is kept from outside.
	p.wg.Go(func() {
		defer l.close()
		conn, chans, reqs, err := ssh.NewClientConn(raw, h.addr(), config)
		var client *ssh.Client
		if err == nil {
			client = ssh.NewClient(conn, chans, reqs)
		}
		select {
		case result <- shaken{client, err}:
		case <-given:
			if client != nil {
				_ = client.Close()
			}
		}
	})
	select {
	case r := <-result:
		if r.err != nil {
			_ = raw.Close()
			return nil, l.explain(r.err)
		}
		return r.client, nil
	case <-ctx.Done():
		close(given)
		l.close()
		p.wg.Go(func() { _ = raw.Close() })
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, transportError(h.Name, ctx.Err(), "ssh: connecting to %s was given up: %s", h.addr(), errPoolClosed)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.agent != nil {
			return nil, authError(h.Name, ctx.Err(), "ssh: logging in with the agent at %s was not done within %s: does the agent answer?", Escape(h.AgentSocket), h.timeout())
		}
		return nil, transportError(h.Name, ctx.Err(), "ssh: %s took the connection but did not finish the SSH handshake within %s: is it an sshd, and is it overloaded?",
			h.addr(), h.timeout())
	}
}

func (l *login) verify(hostname string, remote net.Addr, key ssh.PublicKey) error {
	check := l.onKey
	if check == nil {
		check = l.known.check
	}
	err := check(hostname, remote, key)
	l.mu.Lock()
	l.keyErr = err
	l.mu.Unlock()
	l.verified.Store(err == nil)
	return err
}

// offer returns the keys to try: files first, in their order, then the agent's.
func (l *login) offer(deadline time.Time) ([]ssh.Signer, error) {
	signers := l.signers
	var tried []string
	for i, s := range l.signers {
		tried = append(tried, fmt.Sprintf("%s (%s)", oneLine(l.host.KeyFiles[i], 120), ssh.FingerprintSHA256(s.PublicKey())))
	}
	if l.host.AgentSocket != "" {
		keys, err := l.askAgent(deadline)
		l.mu.Lock()
		l.agentErr = err
		l.mu.Unlock()
		if err != nil && len(signers) == 0 {
			return nil, err
		}
		if err == nil {
			tried = append(tried, fmt.Sprintf("%d keys of the agent at %s", len(keys), oneLine(l.host.AgentSocket, 120)))
		}
		signers = append(signers[:len(signers):len(signers)], keys...)
	}
	l.mu.Lock()
	l.tried = tried
	l.mu.Unlock()
	return signers, nil
}

// askAgent lists the agent's keys. Its connection stays open for signing until the handshake is over, and no question to it
// outlives the handshake's deadline.
func (l *login) askAgent(deadline time.Time) ([]ssh.Signer, error) {
	conn, err := net.DialTimeout("unix", l.host.AgentSocket, time.Until(deadline))
	if err != nil {
		return nil, fmt.Errorf("no agent at %s: is it running, and may the worker use its socket? (%w)", l.host.AgentSocket, err)
	}
	_ = conn.SetDeadline(deadline)
	l.mu.Lock()
	l.agent = conn
	l.mu.Unlock()
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, fmt.Errorf("the agent at %s does not list its keys: %w", l.host.AgentSocket, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("the agent at %s holds no key: add one with ssh-add", l.host.AgentSocket)
	}
	return keys, nil
}

// close ends the agent's connection, which also ends a question it does not answer.
func (l *login) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.agent != nil {
		_ = l.agent.Close()
	}
}

func (l *login) keepBanner(message string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.banner = oneLine(message, 160)
	return nil
}

// explain turns an error of the handshake into one that says what to do.
func (l *login) explain(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.host
	addr := Escape(h.addr())
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case l.keyErr != nil:
		return hostKeyError(h.Name, l.keyErr, "ssh: %s", l.keyErr)
	case errors.As(err, &negotiation):
		return hostKeyError(h.Name, err, "ssh: %s and katoflow have no algorithm in common: %s", addr, oneLine(err.Error(), 300))
	case l.verified.Load() && (strings.Contains(err.Error(), "unable to authenticate") || strings.Contains(err.Error(), "ssh: disconnect, reason") || errors.Is(err, errOtherQuestion)):
		message := fmt.Sprintf("ssh: no key accepted for %s@%s", Escape(h.User), addr)
		switch {
		case h.Password != nil:
			message = fmt.Sprintf("ssh: the password of %s is not accepted by %s (%s)", Escape(h.User), addr, oneLine(strings.TrimPrefix(err.Error(), "ssh: handshake failed: "), 160))
		case len(l.tried) > 0:
			message += ": tried " + strings.Join(l.tried, ", ")
			if l.agentErr != nil {
				message += "; " + oneLine(l.agentErr.Error(), 200)
			}
			message += ": check authorized_keys there"
		case l.agentErr != nil:
			message += ": " + oneLine(l.agentErr.Error(), 200)
		}
		if strings.Contains(err.Error(), "ssh: disconnect, reason") {
			message += " (" + oneLine(err.Error(), 160) + ")"
		}
		return authError(h.Name, err, "%s", message)
	case l.agentErr != nil && len(l.signers) == 0:
		return authError(h.Name, l.agentErr, "ssh: %s", oneLine(l.agentErr.Error(), 200))
	}
	message := fmt.Sprintf("ssh: %s broke off the handshake", addr)
	if l.verified.Load() {
		message = fmt.Sprintf("ssh: %s closed the connection during the login of %s: is it booting, or is the account locked?", addr, Escape(h.User))
	}
	if l.banner != "" {
		message += " It says: " + l.banner
	} else if !errors.Is(err, io.EOF) {
		message += " (" + oneLine(err.Error(), 160) + ")"
	}
	return transportError(h.Name, err, "%s", message)
}

// keyCache keeps decrypted private keys, because decrypting one takes a tenth of a second by design and a worker reaches
// hundreds of nodes with the same key. An entry is good for the same file with the same passphrase.
type keyCache struct {
	mu      sync.Mutex
	entries map[string]cachedKey
}

type cachedKey struct {
	info       fs.FileInfo
	passphrase [sha256.Size]byte
	encrypted  bool
	signer     ssh.Signer
}

// load reads h's key files. Errors name the file and never hold the passphrase.
func (k *keyCache) load(h Host) ([]ssh.Signer, error) {
	var signers []ssh.Signer
	for _, file := range h.KeyFiles {
		s, err := k.signer(file, h.Passphrase)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
	}
	return signers, nil
}

func (k *keyCache) signer(file string, passphrase func() ([]byte, error)) (ssh.Signer, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fileError("key file", file, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("key file %s is not a file", file)
	}
	if readableByOthers(info) {
		return nil, fmt.Errorf("key file %s can be read by others (mode %04o): chmod 600 it", file, info.Mode().Perm())
	}
	k.mu.Lock()
	entry, found := k.entries[file]
	k.mu.Unlock()
	found = found && sameFile(entry.info, info)
	if found && !entry.encrypted {
		return entry.signer, nil
	}
	var secret []byte
	if found {
		if secret, err = askPassphrase(file, passphrase); err != nil {
			return nil, err
		}
		if sha256.Sum256(secret) == entry.passphrase {
			return entry.signer, nil
		}
	}

	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fileError("key file", file, err)
	}
	entry = cachedKey{info: info}
	entry.signer, err = ssh.ParsePrivateKey(pem)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if secret == nil {
			if secret, err = askPassphrase(file, passphrase); err != nil {
				return nil, err
			}
		}
		entry.encrypted, entry.passphrase = true, sha256.Sum256(secret)
		// The cause is left out: a parser's complaint about text decrypted with the wrong passphrase helps nobody.
		if entry.signer, err = ssh.ParsePrivateKeyWithPassphrase(pem, secret); err != nil {
			return nil, fmt.Errorf("wrong passphrase for key file %s", file)
		}
	}
	if err != nil {
		if strings.Contains(string(pem), "BEGIN ENCRYPTED PRIVATE KEY") {
			return nil, fmt.Errorf("key file %s is an encrypted PKCS#8 key, which is not supported: rewrite it with ssh-keygen -p", file)
		}
		return nil, fmt.Errorf("key file %s holds no private key that can be used: %w", file, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.entries == nil {
		k.entries = map[string]cachedKey{}
	}
	k.entries[file] = entry
	return entry.signer, nil
}

func askPassphrase(file string, passphrase func() ([]byte, error)) ([]byte, error) {
	if passphrase == nil {
		return nil, fmt.Errorf("key file %s is encrypted and no passphrase is set", file)
	}
	secret, err := passphrase()
	if err != nil {
		return nil, fmt.Errorf("no passphrase for key file %s: %w", file, err)
	}
	return secret, nil
}

// fileError says in one line why a file cannot be read.
func fileError(what, file string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s does not exist", what, file)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s cannot be read: permission denied", what, file)
	}
	return fmt.Errorf("%s %s cannot be read: %w", what, file, err)
}

// sameFile says whether a file is unchanged since it was read.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
