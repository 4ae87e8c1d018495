//go:build unix

package simcluster

import (
	"fmt"
	"net"
	"syscall"
)

// portHolder keeps a port bound without listening on it: connections are refused while a node is down, and nobody else on the machine
// can be given the port meanwhile.
type portHolder struct{ fd int }

func holdPort(address string) (*portHolder, int, error) {
	ip := net.ParseIP(address).To4()
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, 0, fmt.Errorf("socket: %w", err)
	}
	h := &portHolder{fd}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		h.close()
		return nil, 0, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte(ip)}); err != nil {
		h.close()
		return nil, 0, fmt.Errorf("bind %s: %w", address, err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		h.close()
		return nil, 0, err
	}
	return h, name.(*syscall.SockaddrInet4).Port, nil
}

func (h *portHolder) close() { syscall.Close(h.fd) }
