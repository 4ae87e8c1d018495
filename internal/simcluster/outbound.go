package simcluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
)

// outbound is a node's own connection to a service outside of the cluster.
type outbound struct {
	net.Conn
	node *Node
	once sync.Once
	gone chan struct{}
}

// dialFrom connects to a service as a process of the node with that address; for kato.
func (c *Cluster) dialFrom(ctx context.Context, node, network, address string) (net.Conn, error) {
	i := slices.IndexFunc(c.nodes, func(n *Node) bool { return n.address == node })
	if i < 0 {
		return nil, fmt.Errorf("no node has the address %s", node)
	}
	return c.nodes[i].dialOut(ctx, network, address)
}

// dialOut connects to a service as a process of the node.
func (n *Node) dialOut(ctx context.Context, network, address string) (net.Conn, error) {
	for silent, _ := n.network(); silent != nil; silent, _ = n.network() {
		select {
		case <-silent:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	n.mu.Lock()
	refused := n.faults.noOutbound
	n.mu.Unlock()
	if refused {
		return nil, syscall.ECONNREFUSED
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	o := &outbound{Conn: conn, node: n, gone: make(chan struct{})}
	n.mu.Lock()
	refused = n.faults.noOutbound || !n.running
	if !refused {
		n.outbound[o] = struct{}{}
	}
	n.mu.Unlock()
	if refused {
		o.Close()
		return nil, syscall.ECONNREFUSED
	}
	return o, nil
}

// hold waits while the node's network is cut.
func (o *outbound) hold() error {
	for silent, _ := o.node.network(); silent != nil; silent, _ = o.node.network() {
		select {
		case <-silent:
		case <-o.gone:
			return net.ErrClosed
		}
	}
	return nil
}

func (o *outbound) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	if held := o.hold(); held != nil {
		return 0, held
	}
	return n, err
}

func (o *outbound) Write(b []byte) (int, error) {
	if err := o.hold(); err != nil {
		return 0, err
	}
	return o.Conn.Write(b)
}

func (o *outbound) Close() error {
	err := net.ErrClosed
	o.once.Do(func() {
		close(o.gone)
		err = o.Conn.Close()
	})
	o.node.mu.Lock()
	delete(o.node.outbound, o)
	o.node.mu.Unlock()
	return err
}

// reset breaks the connection as a firewall does: both ends see a reset.
func (o *outbound) reset() {
	if tcp, ok := o.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = o.Conn.Close()
}

// dropOutbound breaks all of the node's own connections.
func (n *Node) dropOutbound() {
	n.mu.Lock()
	var list []*outbound
	for o := range n.outbound {
		list = append(list, o)
	}
	n.mu.Unlock()
	for _, o := range list {
		o.reset()
	}
}
