package cloudcontroller

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"
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
		authority, certificate, err := makeCertificate(append([]string{host, "localhost"}, names...))
		if err != nil {
			_ = listener.Close()
			return nil, fmt.Errorf("cloud controller double: %w", err)
		}
		s.URL, s.CA = "https://"+listener.Addr().String(), authority
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
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

// makeCertificate makes an authority, as PEM, and a certificate of it for the names.
func makeCertificate(names []string) (authority []byte, certificate tls.Certificate, err error) {
	now := time.Now()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, certificate, err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "simulated cluster"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, certificate, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, certificate, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano() + 1), Subject: pkix.Name{CommonName: names[0]}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		return nil, certificate, err
	}
	authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})
	return authority, tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}, nil
}
