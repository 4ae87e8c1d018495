package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/ssh"
)

const (
	defaultKeepalive      = 5 * time.Second
	keepaliveMisses       = 3
	defaultIdleTimeout    = 5 * time.Minute
	defaultConnectTimeout = 10 * time.Second
	defaultMaxSessions    = 8
	defaultPort           = 22
)

// Options of a Pool. The zero value is good for production.
type Options struct {
	// Logger gets connections opened, lost and closed at debug level; nil for none.
	Logger *zap.Logger
	// KeepaliveInterval between questions on a silent connection; 0 = 5 s. After 3 intervals without a byte from the server the
	// connection is dead.
	KeepaliveInterval time.Duration
	// IdleTimeout after which an unused connection is closed; 0 = 5 min.
	IdleTimeout time.Duration
	// DialContext opens the TCP connection of a host without a bastion; nil = net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Pool keeps one SSH connection for each node identity (address, port, user, keys, bastion, known_hosts files) and runs many
// sessions on it; of hosts of one identity the first sets MaxSessions. It is safe for concurrent use. Close ends it.
type Pool struct {
	opts     Options
	waits    waits
	log      *zap.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	hostKeys knownHostsCache
	keys     keyCache

	mu    sync.Mutex
	nodes map[string]*node
}

var _ Runner = (*Pool)(nil)

// node is one identity's place in the pool. It lives while somebody uses it or it has a connection.
type node struct {
	pool     *Pool
	identity string
	places   chan struct{}
	// Guarded by Pool.mu.
	users   int
	conn    *connection
	dialing *dialing
}

// dialing is a connection under way, shared by everybody who needs it.
type dialing struct {
	done chan struct{}
	conn *connection
	err  error
}

// connection is one SSH connection. done is closed when it is dead.
type connection struct {
	pool   *Pool
	node   *node
	client *ssh.Client
	raw    *heardConn
	via    *connection
	done   chan struct{}
	kill   func(error)
	reason atomic.Pointer[error]
	// Guarded by Pool.mu.
	users    int
	lastUsed time.Time
}

// NewPool returns an empty pool.
func NewPool(opts Options) *Pool {
	if opts.KeepaliveInterval <= 0 {
		opts.KeepaliveInterval = defaultKeepalive
	}
	if opts.IdleTimeout <= 0 {
		opts.IdleTimeout = defaultIdleTimeout
	}
	if opts.DialContext == nil {
		opts.DialContext = (&net.Dialer{}).DialContext
	}
	log := opts.Logger
	if log == nil {
		log = zap.NewNop()
	}
	p := &Pool{opts: opts, waits: defaultWaits(), log: log, nodes: map[string]*node{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

var errPoolClosed = errors.New("the connection pool is closed")

// begin is called by what uses the pool from outside; it returns false when the pool is closed, else p.wg.Done must follow. Close
// waits for it, so that everything started meanwhile is waited for too.
func (p *Pool) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return false
	}
	p.wg.Add(1)
	return true
}

// Close closes all connections and waits until nothing of the pool runs any more. Commands that still run fail with
// KindTransport.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.cancel()
	var conns []*connection
	for _, n := range p.nodes {
		if n.conn != nil {
			conns = append(conns, n.conn)
		}
	}
	p.mu.Unlock()
	for _, c := range conns {
		c.kill(errPoolClosed)
	}
	p.wg.Wait()
	return nil
}

// Forget closes the connection to h, if there is one, so that the next Run dials anew: after a reboot, or when h's keys were
// changed. Commands that still run on it fail with KindTransport.
func (p *Pool) Forget(h Host) {
	if !p.begin() {
		return
	}
	defer p.wg.Done()
	p.mu.Lock()
	var c *connection
	if n := p.nodes[h.identity()]; n != nil {
		c = n.conn
	}
	p.mu.Unlock()
	if c != nil {
		p.drop(c, errors.New("forgotten"))
	}
}

// enter takes one of the node's places, waiting for one when all are taken. The node is left with leave.
func (p *Pool) enter(ctx context.Context, h Host) (*node, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	n := p.use(h)
	select {
	case n.places <- struct{}{}:
		return n, nil
	default:
	}
	select {
	case n.places <- struct{}{}:
		return n, nil
	case <-ctx.Done():
		n.unuse()
		return nil, contextError(h.Name, ctx, "while waiting for a free session")
	case <-p.ctx.Done():
		n.unuse()
		return nil, transportError(h.Name, errPoolClosed, "ssh: %s", errPoolClosed)
	}
}

func (n *node) leave() {
	<-n.places
	n.unuse()
}

func (p *Pool) use(h Host) *node {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := h.identity()
	n := p.nodes[id]
	if n == nil {
		places := h.MaxSessions
		if places <= 0 {
			places = defaultMaxSessions
		}
		n = &node{pool: p, identity: id, places: make(chan struct{}, places)}
		p.nodes[id] = n
	}
	n.users++
	return n
}

func (n *node) unuse() {
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	n.users--
	n.sweep()
}

// sweep removes the node from the pool when nothing holds it. Pool.mu is held.
func (n *node) sweep() {
	if n.users == 0 && n.conn == nil && n.dialing == nil && n.pool.nodes[n.identity] == n {
		delete(n.pool.nodes, n.identity)
	}
}

// connect returns the node's connection, dialling when there is none, and whether it was there before. Whoever gets it
// releases it.
func (p *Pool) connect(ctx context.Context, h Host, n *node) (c *connection, cached bool, err error) {
	p.mu.Lock()
	if p.ctx.Err() != nil {
		p.mu.Unlock()
		return nil, false, transportError(h.Name, errPoolClosed, "ssh: %s", errPoolClosed)
	}
	if n.conn != nil && n.conn.alive() {
		c = n.conn
		c.users++
		p.mu.Unlock()
		return c, true, nil
	}
	d := n.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		n.dialing = d
		n.users++
		// Not with the caller's context: others wait for the same connection.
		p.wg.Go(func() { p.dial(h, n, d) })
	}
	p.mu.Unlock()

	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, false, contextError(h.Name, ctx, "while connecting to "+h.addr())
	}
	if d.err != nil {
		return nil, false, atNode(d.err, h.Name)
	}
	p.mu.Lock()
	d.conn.users++
	p.mu.Unlock()
	return d.conn, false, nil
}

// dial fills d and makes its connection the node's.
func (p *Pool) dial(h Host, n *node, d *dialing) {
	began := time.Now()
	c, err := p.open(p.ctx, h)
	p.mu.Lock()
	d.conn, d.err = c, err
	n.dialing = nil
	n.users--
	if err == nil {
		c.node = n
		c.lastUsed = time.Now()
		n.conn = c
		p.wg.Go(c.watch)
		p.wg.Go(c.keepalive)
	}
	n.sweep()
	closed := p.ctx.Err() != nil
	p.mu.Unlock()
	close(d.done)
	switch {
	case err != nil:
		p.log.Debug("ssh connection failed", zap.String("node", h.Name), zap.String("address", h.addr()), zap.Error(err))
	case closed:
		c.kill(errPoolClosed)
	default:
		p.log.Debug("ssh connection opened", zap.String("node", h.Name), zap.String("address", h.addr()), zap.Duration("took", time.Since(began)))
	}
}

func (p *Pool) release(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.users--
	c.lastUsed = time.Now()
}

// drop takes a connection out of the pool and closes it.
func (p *Pool) drop(c *connection, why error) {
	p.mu.Lock()
	if c.node.conn == c {
		c.node.conn = nil
		c.node.sweep()
	}
	p.mu.Unlock()
	c.kill(why)
}

// watch ends the connection in the pool when it ends on the wire.
func (c *connection) watch() {
	err := c.client.Wait()
	if err == nil {
		err = errors.New("closed by the server")
	}
	c.pool.drop(c, err)
	if c.via != nil {
		c.pool.release(c.via)
	}
}

// keepalive asks a silent server for a sign of life, and closes the connection when none comes or nobody uses it. It counts
// its own ticks, not the clock, so that a worker that was itself suspended does not take all its nodes for dead.
func (c *connection) keepalive() {
	const ticksPerInterval = 2
	interval := c.pool.opts.KeepaliveInterval
	ticker := time.NewTicker(max(interval/ticksPerInterval, time.Millisecond))
	defer ticker.Stop()
	silent := 0
	var asking atomic.Bool
	for {
		select {
		case <-c.done:
			return
		case <-ticker.C:
		}
		c.pool.mu.Lock()
		idle := c.users == 0 && time.Since(c.lastUsed) >= c.pool.opts.IdleTimeout
		if idle && c.node.conn == c {
			// Taken out under the lock, so that nobody is handed a connection about to be closed.
			c.node.conn = nil
			c.node.sweep()
		}
		c.pool.mu.Unlock()
		if idle {
			c.kill(errors.New("idle"))
			return
		}
		if c.raw.heard.Swap(false) {
			silent = 0
			continue
		}
		silent++
		if silent >= keepaliveMisses*ticksPerInterval {
			c.pool.drop(c, fmt.Errorf("no sign of life for %s", keepaliveMisses*interval))
			return
		}
		if silent%ticksPerInterval == 1 && asking.CompareAndSwap(false, true) {
			c.pool.wg.Go(func() {
				defer asking.Store(false)
				_, _, _ = c.client.SendRequest("keepalive@openssh.com", true, nil)
			})
		}
	}
}

// openChannel opens a session channel; when ctx ends first, the channel is closed as soon as it is there.
func (c *connection) openChannel(ctx context.Context) (ssh.Channel, <-chan *ssh.Request, error) {
	type opened struct {
		channel  ssh.Channel
		requests <-chan *ssh.Request
		err      error
	}
	result := make(chan opened)
	given := make(chan struct{})
	c.pool.wg.Go(func() {
		channel, requests, err := c.client.OpenChannel("session", nil)
		select {
		case result <- opened{channel, requests, err}:
		case <-given:
			if err == nil {
				_ = channel.Close()
				ssh.DiscardRequests(requests)
			}
		}
	})
	select {
	case o := <-result:
		return o.channel, o.requests, o.err
	case <-ctx.Done():
		close(given)
		return nil, nil, ctx.Err()
	case <-c.done:
		close(given)
		return nil, nil, c.cause()
	}
}

func (c *connection) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// cause of the connection's death, nil while it lives.
func (c *connection) cause() error {
	if err := c.reason.Load(); err != nil {
		return *err
	}
	return nil
}

// why it died, for a message.
func (c *connection) why() string {
	if err := c.cause(); err != nil {
		return oneLine(err.Error(), 160)
	}
	return "closed by the server"
}

// settle gives a connection that has just broken a channel the moment to be known as dead.
func (c *connection) settle() {
	timer := time.NewTimer(200 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
}

// newConnection wraps an authenticated client.
func (p *Pool) newConnection(client *ssh.Client, raw *heardConn, via *connection) *connection {
	c := &connection{pool: p, client: client, raw: raw, via: via, done: make(chan struct{})}
	var once sync.Once
	c.kill = func(why error) {
		once.Do(func() {
			c.reason.Store(&why)
			close(c.done)
			// Closing may block on a network that takes no bytes any more.
			p.wg.Go(func() { _ = raw.Close() })
		})
	}
	return c
}

// heardConn notes that bytes came from the other side.
type heardConn struct {
	net.Conn
	heard atomic.Bool
}

func (h *heardConn) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 {
		h.heard.Store(true)
	}
	return n, err
}

// check says what makes h impossible to dial.
func (h Host) check() error {
	switch {
	case h.Address == "":
		return errors.New("no address")
	case h.User == "":
		return errors.New("no ssh user")
	case h.Port < 0 || h.Port > 65535:
		return fmt.Errorf("port %d is not between 1 and 65535", h.Port)
	case h.Bastion != nil && h.Bastion.Bastion != nil:
		return errors.New("a bastion cannot have a bastion itself")
	case h.Bastion != nil:
		if err := h.Bastion.check(); err != nil {
			return fmt.Errorf("bastion: %w", err)
		}
	}
	return nil
}

func (h Host) addr() string {
	port := h.Port
	if port == 0 {
		port = defaultPort
	}
	return net.JoinHostPort(h.Address, strconv.Itoa(port))
}

// identity of the connection h needs. Name, timeouts and limits are no part of it; the passphrase only decides whether key
// files can be read.
func (h Host) identity() string {
	parts := []string{h.addr(), h.User, h.AgentSocket}
	if h.Password != nil {
		parts = append(parts, "\x00password")
	}
	if h.Apart != "" {
		parts = append(parts, "\x00apart", h.Apart)
	}
	parts = append(parts, h.KeyFiles...)
	parts = append(parts, "\x00")
	parts = append(parts, h.KnownHosts...)
	if h.Bastion != nil {
		parts = append(parts, "\x00", h.Bastion.identity())
	}
	for i, part := range slices.Clone(parts) {
		parts[i] = strconv.Quote(part)
	}
	return strings.Join(parts, " ")
}
