package main

import (
	"errors"
	"net"
	"strconv"
	"syscall"
)

// listenAddress is one address the stack will listen on.
type listenAddress struct {
	flag      string // the flag that chooses the port; empty for inner ports
	ip        string
	port      int // wished port; 0 = any
	preferred int // with port 0: taken if it is free; 0 = none
	used      *int
}

// choosePorts finds a free port for every address. All candidates are held open together until all are chosen, so that
// no two addresses get the same port. A wished port that is in use is a usageError naming port and flag.
func choosePorts(addresses []listenAddress) error {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	// Wished ports first: a free port chosen earlier could be one of them.
	for _, wished := range []bool{true, false} {
		for _, a := range addresses {
			if (a.port != 0) != wished {
				continue
			}
			l, err := listenOn(a)
			if err != nil {
				return err
			}
			held = append(held, l)
			*a.used = l.Addr().(*net.TCPAddr).Port
		}
	}
	return nil
}

func listenOn(a listenAddress) (net.Listener, error) {
	if a.port == 0 && a.preferred > 0 && a.preferred <= 65535 {
		if l, err := net.Listen("tcp", hostPort(a.ip, a.preferred)); err == nil {
			return l, nil
		}
	}
	l, err := net.Listen("tcp", hostPort(a.ip, a.port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, usagef("port %d on %s is in use; choose another one with %s (0 = a free port)", a.port, a.ip, a.flag)
	case err != nil:
		return nil, usagef("cannot listen on %s for %s: %w", hostPort(a.ip, a.port), a.flag, err)
	}
	return l, nil
}

func hostPort(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }
