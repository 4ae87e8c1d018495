package controller

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/webclient"
)

const (
	defaultTimeout    = 30 * time.Second
	defaultAttempts   = 5
	defaultMaxBackoff = 5 * time.Second
)

// Config is a Cloud Controller and an account on it.
type Config struct {
	// URL of the API, such as https://api.example.org.
	URL string
	// User is the name or e-mail address of an admin.
	User string
	// Password of the user.
	Password string
	// CA are the certificates, PEM, that the API and its login are verified against instead of the system's.
	CA []byte
	// Proxy is asked for every request (http.Transport's Proxy); nil for none.
	Proxy func(*http.Request) (*url.URL, error)
	// Timeout of one attempt at a request, its whole answer included (default 30s).
	Timeout time.Duration
	// Attempts at a request that meets a passing fault (default 5).
	Attempts int
	// MaxBackoff is the longest wait between two attempts (default 5s).
	MaxBackoff time.Duration
}

// ConfigOf returns the configuration that the controller section of an inventory file describes: password and certificates read now, on
// the machine that calls it. env looks up an environment variable that a secret names. Requests go through the process's own proxy
// (HTTPS_PROXY, NO_PROXY). An error is of KindBadInput and names the field; no part of a secret is in it.
func ConfigOf(file *inventory.File, c *inventory.Controller, env func(string) (string, bool)) (Config, error) {
	if c == nil {
		return Config{}, badInput("there is no controller section in the inventory: write url, user and password of the Cloud Controller")
	}
	if c.Password == nil {
		return Config{}, badInput("controller.password is missing: write {file: PATH} or {env: NAME}")
	}
	password, err := c.Password.Resolve(file, env)
	if err != nil {
		return Config{}, &Error{Kind: KindBadInput, Message: "controller.password: " + err.Error(), Err: err}
	}
	cfg := Config{URL: c.URL, User: c.User, Password: string(password), Proxy: http.ProxyFromEnvironment, Timeout: c.Timeout.Std()}
	if c.CAFile != "" {
		if cfg.CA, err = file.Certificates(c.CAFile); err != nil {
			return Config{}, &Error{Kind: KindBadInput, Message: "controller.ca_file: " + err.Error(), Err: err}
		}
	}
	return cfg, nil
}

// Client asks one Cloud Controller. It can be used by several goroutines, which share one token.
type Client struct {
	cfg     Config
	base    *url.URL
	http    *http.Client
	log     *zap.Logger
	close   func()
	session session
}

// Open returns the client of a configuration, or an error of KindBadInput that names the field. It asks nothing of the network. A nil
// logger logs nothing. Close ends idle connections.
func Open(cfg Config, log *zap.Logger) (*Client, error) {
	if log == nil {
		log = zap.NewNop()
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = defaultAttempts
	}
	if cfg.MaxBackoff <= 0 {
		cfg.MaxBackoff = defaultMaxBackoff
	}
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	base, err := url.Parse(cfg.URL)
	switch {
	case err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, badInput("the cloud controller's url is not one like https://api.example.org")
	case base.User != nil || base.RawQuery != "" || base.Fragment != "" || base.Path != "":
		return nil, badInput("the cloud controller's url holds more than a host and a port: write one like https://api.example.org")
	case cfg.User == "" || cfg.Password == "":
		return nil, badInput("cloud controller %s: user and password are needed", cfg.URL)
	}
	tlsConfig, ok := webclient.TLS(cfg.CA)
	if !ok {
		return nil, badInput("cloud controller %s: the CA file holds no certificate in PEM form", cfg.URL)
	}
	transport := &http.Transport{
		Proxy:               cfg.Proxy,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 16,
	}
	return &Client{
		cfg: cfg, base: base, log: log, close: transport.CloseIdleConnections, session: session{turn: make(chan struct{}, 1)},
		http: &http.Client{Transport: transport, CheckRedirect: noRedirect},
	}, nil
}

// noRedirect returns a redirection as the answer: neither password nor token is sent to another place.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close ends idle connections.
func (c *Client) Close() { c.close() }
