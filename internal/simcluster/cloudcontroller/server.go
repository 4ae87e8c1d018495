package cloudcontroller

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/certificate"
)

// Server serves a Controller at an address.
type Server struct {
	// URL of the API, to be written as controller.url.
	URL string
	// CA is the certificate, PEM, of the authority that signed the server's; nil without TLS.
	CA []byte

	server *http.Server
	served chan struct{}
}

// Start serves the controller at an address of this machine such as "127.0.0.1:0" (port 0 for any that is free; "" for that): with TLS under a certificate of an
// authority of its own, or plain. names are further host names and addresses of the certificate, such as "api.demo.example.com"; the address itself and
// localhost are always among them. Close ends it.
func (c *Controller) Start(address string, withTLS bool, names ...string) (*Server, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cloud controller double: %w", err)
	}
	s := &Server{URL: "http://" + listener.Addr().String(), served: make(chan struct{})}
	s.server = &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	if withTLS {
		host, _, _ := net.SplitHostPort(listener.Addr().String()) // of a TCP listener
		authority, leaf, err := certificate.New(append([]string{host, "localhost"}, names...)...)
		if err != nil {
			_ = listener.Close()
			return nil, fmt.Errorf("cloud controller double: %w", err)
		}
		s.URL, s.CA = "https://"+listener.Addr().String(), authority
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{leaf}, MinVersion: tls.VersionTLS12})
	}
	go func() {
		defer close(s.served)
		_ = s.server.Serve(listener) // it ends with Close
	}()
	return s, nil
}

// Close ends the server and every connection, and returns when it has ended.
func (s *Server) Close() {
	_ = s.server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = s.server.Shutdown(ctx)
	<-s.served
}
