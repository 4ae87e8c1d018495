package lab

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Forward lets hosts reach a server that listens on this machine's loopback, such as S3: it returns the address on the lab's network from which bytes are
// copied to addr and back. It ends with the lab.
func (l *Lab) Forward(addr string) (hostAddr string, err error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().IsLoopback() {
		return "", fmt.Errorf("hosts can be led to a loopback address and port of this machine only: %q", addr)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(l.outside.String(), "0"))
	if err != nil {
		return "", err
	}
	f := &forwarder{to: addr, listener: listener, open: map[*net.TCPConn]netip.Addr{}}
	l.mu.Lock()
	l.forwarders = append(l.forwarders, f)
	l.mu.Unlock()
	f.done.Go(f.accept)
	return listener.Addr().String(), nil
}

// forwarder copies the connections of hosts to one server.
type forwarder struct {
	to       string
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[*net.TCPConn]netip.Addr // connections of hosts, with the host's address
}

func (f *forwarder) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			f.mu.Lock()
			closed := f.closed
			f.mu.Unlock()
			if closed {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors for a moment
			continue
		}
		host := conn.(*net.TCPConn)
		from, _ := netip.ParseAddrPort(host.RemoteAddr().String())
		f.mu.Lock()
		f.open[host] = from.Addr()
		closed := f.closed
		f.mu.Unlock()
		if closed {
			_ = host.Close()
		}
		f.done.Go(func() {
			defer func() {
				_ = host.Close()
				f.mu.Lock()
				delete(f.open, host)
				f.mu.Unlock()
			}()
			f.copy(host)
		})
	}
}

func (f *forwarder) copy(host *net.TCPConn) {
	conn, err := net.DialTimeout("tcp", f.to, 5*time.Second)
	if err != nil {
		_ = host.SetLinger(0) // the nearest to a refusal that is left
		return
	}
	server := conn.(*net.TCPConn)
	var both sync.WaitGroup
	both.Go(func() {
		_, err := io.Copy(server, host)
		end(server, err)
	})
	both.Go(func() {
		_, err := io.Copy(host, server)
		end(host, err)
	})
	both.Wait()
	_ = server.Close()
}

// end tells the other side that there is no more, or that the connection is broken.
func end(to *net.TCPConn, err error) {
	if err != nil {
		_ = to.SetLinger(0)
		_ = to.Close()
		return
	}
	_ = to.CloseWrite()
}

// drop breaks the connections of a host.
func (f *forwarder) drop(host netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn, from := range f.open {
		if from == host {
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
	}
}

func (f *forwarder) close() {
	f.mu.Lock()
	f.closed = true
	for conn := range f.open {
		_ = conn.Close()
	}
	f.mu.Unlock()
	_ = f.listener.Close()
	f.done.Wait()
}

// DropOutbound breaks what the host's own programs have connected to outside of the lab; they can connect again.
func (h *Host) DropOutbound() error {
	h.c.lab.mu.Lock()
	forwarders := append([]*forwarder(nil), h.c.lab.forwarders...)
	h.c.lab.mu.Unlock()
	for _, f := range forwarders {
		f.drop(h.c.lab.addressOf(h.number))
	}
	return nil
}
