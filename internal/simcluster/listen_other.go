//go:build !unix

package simcluster

import "net"

// portHolder only remembers the port where sockets cannot be bound without listening.
type portHolder struct{}

func holdPort(address string) (*portHolder, int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return nil, 0, err
	}
	defer l.Close()
	return &portHolder{}, l.Addr().(*net.TCPAddr).Port, nil
}

func (h *portHolder) close() {}
