package simcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// curl's exit codes.
const (
	curlProtocol    = 1
	curlUsage       = 2
	curlURL         = 3
	curlResolve     = 6
	curlConnect     = 7
	curlPartial     = 18
	curlHTTPError   = 22
	curlWrite       = 23
	curlRead        = 26
	curlTimeout     = 28
	curlTLS         = 35
	curlEmpty       = 52
	curlSend        = 55
	curlReceive     = 56
	curlCertificate = 60
	curlCAFile      = 77
)

const (
	curlVersion = "curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1 OpenSSL/3.0.13\n"
	// curlExpectFrom is the size from which an upload waits for the server's word that it goes on.
	curlExpectFrom = 1 << 20
	curlExpectWait = time.Second
	curlSpeedTick  = 100 * time.Millisecond
	systemCACerts  = "/etc/ssl/certs/ca-certificates.crt"
)

// curlOptions of one transfer.
type curlOptions struct {
	url, upload, output, request, caCert, caPath, writeOut, dumpHeader string
	headers                                                            []string
	silent, showError, fail, failBody, head, include, follow, insecure bool
	maxTime, connectTimeout, speedTime                                 time.Duration
	speedLimit                                                         int64
	resolve                                                            []string
	noProxy                                                            bool
}

// curlError is how a transfer ended.
type curlError struct {
	code int
	text string
}

func (e *curlError) Error() string { return e.text }

func curlFailed(code int, format string, args ...any) *curlError {
	return &curlError{code, fmt.Sprintf(format, args...)}
}

// curlProgram is curl for one transfer by HTTP or HTTPS, as far as uploads and downloads in scripts need it. The request is a real one, to loopback addresses
// only: it streams, in both directions. It goes through the node's network: the faults of outgoing connections stop it.
func curlProgram(c *invocation) int {
	o := &curlOptions{}
	if wrong := o.read(c, c.argv[1:], 0); wrong != nil {
		c.errorf("curl: %s\ncurl: try 'curl --help' or 'curl --manual' for more information", wrong.text)
		return wrong.code
	}
	if slices.Contains(c.argv[1:], "--version") || slices.Contains(c.argv[1:], "-V") {
		c.printf("%s", curlVersion)
		return 0
	}
	if o.url == "" {
		c.errorf("curl: no URL specified!\ncurl: try 'curl --help' or 'curl --manual' for more information")
		return curlUsage
	}
	t := &curlTransfer{c: c, o: o, began: time.Now()}
	err := t.run()
	var failed *curlError
	code := 0
	if err != nil && !errors.As(err, &failed) {
		failed = curlFailed(curlReceive, "%s", errorText(bare(err)))
	}
	if failed != nil {
		code = failed.code
		if !o.silent || o.showError {
			c.errorf("curl: (%d) %s", failed.code, failed.text)
		}
	}
	if o.writeOut != "" {
		c.printf("%s", t.expand(o.writeOut, code, failed))
	}
	return code
}

// curlShort are the long names of the short options.
func curlShort() map[byte]string {
	return map[byte]string{'s': "silent", 'S': "show-error", 'f': "fail", 'K': "config", 'T': "upload-file", 'H': "header", 'm': "max-time", 'o': "output", 'w': "write-out", 'X': "request",
		'I': "head", 'i': "include", 'D': "dump-header", 'L': "location", 'k': "insecure", 'y': "speed-time", 'Y': "speed-limit", 'q': "disable", 'g': "globoff", '4': "ipv4", '6': "ipv6", '0': "http1.0",
		'V': "version", '#': "progress-bar", 'N': "no-buffer"}
}

// read takes options from a command line or the words of a configuration file.
func (o *curlOptions) read(c *invocation, args []string, depth int) *curlError {
	for i := 0; i < len(args); i++ {
		a := args[i]
		value := func() (string, bool) {
			if i+1 >= len(args) {
				return "", false
			}
			i++
			return args[i], true
		}
		if strings.HasPrefix(a, "--") {
			if wrong := o.set(c, a[2:], a, value, depth); wrong != nil {
				return wrong
			}
			continue
		}
		if len(a) < 2 || a[0] != '-' {
			o.url = a
			continue
		}
		for j := 1; j < len(a); j++ {
			name, known := curlShort()[a[j]]
			if !known {
				return curlFailed(curlUsage, "option %s: is unknown", a)
			}
			rest, used := a[j+1:], false
			attached := func() (string, bool) {
				used = true
				if rest != "" {
					return rest, true
				}
				return value()
			}
			if wrong := o.set(c, name, a, attached, depth); wrong != nil {
				return wrong
			}
			if used {
				break
			}
		}
	}
	return nil
}

// set applies one option; value fetches its argument.
func (o *curlOptions) set(c *invocation, name, shown string, value func() (string, bool), depth int) *curlError {
	flags := map[string]*bool{"silent": &o.silent, "show-error": &o.showError, "fail": &o.fail, "fail-with-body": &o.failBody, "head": &o.head, "include": &o.include, "location": &o.follow, "insecure": &o.insecure}
	texts := map[string]*string{"url": &o.url, "upload-file": &o.upload, "output": &o.output, "request": &o.request, "cacert": &o.caCert, "capath": &o.caPath, "write-out": &o.writeOut, "dump-header": &o.dumpHeader}
	times := map[string]*time.Duration{"max-time": &o.maxTime, "connect-timeout": &o.connectTimeout, "speed-time": &o.speedTime}
	plain, off := strings.CutPrefix(name, "no-")
	switch {
	case flags[name] != nil:
		*flags[name] = true
		return nil
	case off && flags[plain] != nil:
		*flags[plain] = false
		return nil
	case slices.Contains([]string{"disable", "globoff", "ipv4", "ipv6", "http1.1", "http1.0", "version", "no-progress-meter", "progress-bar", "tlsv1.2", "no-buffer", "path-as-is", "no-keepalive", "disallow-username-in-url"}, name):
		return nil
	}
	isText, isTime := texts[name] != nil, times[name] != nil
	if !isText && !isTime && !slices.Contains([]string{"config", "header", "speed-limit", "resolve", "noproxy", "proto", "proto-redir", "max-redirs", "expect100-timeout", "keepalive-time"}, name) {
		return curlFailed(curlUsage, "option %s: is unknown", shown)
	}
	text, ok := value()
	if !ok {
		return curlFailed(curlUsage, "option %s: requires parameter", shown)
	}
	switch {
	case isText:
		*texts[name] = text
	case isTime:
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds < 0 {
			return curlFailed(curlUsage, "option %s: expected a proper numerical parameter", shown)
		}
		*times[name] = time.Duration(seconds * float64(time.Second))
	case name == "header":
		o.headers = append(o.headers, text)
	case name == "resolve":
		o.resolve = append(o.resolve, text)
	case name == "noproxy":
		o.noProxy = text == "*"
	case name == "speed-limit":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return curlFailed(curlUsage, "option %s: expected a proper numerical parameter", shown)
		}
		o.speedLimit = n
	case name == "config":
		if depth > 4 {
			return curlFailed(curlUsage, "configuration files name each other")
		}
		var b []byte
		var err error
		if text == "-" {
			b, err = io.ReadAll(c.stdin())
		} else {
			b, err = c.readFile(text)
		}
		if err != nil {
			return curlFailed(curlRead, "cannot read config from '%s'", text)
		}
		return o.read(c, curlConfigWords(string(b)), depth+1)
	}
	return nil
}

// curlConfigWords makes a command line of a configuration file: one option a line, its value after blanks, = or :, quoted or not.
func curlConfigWords(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		end := strings.IndexAny(line, " \t=:")
		name, value := line, ""
		if end >= 0 {
			name, value = line[:end], strings.TrimLeft(line[end:], " \t")
			if value != "" && (value[0] == '=' || value[0] == ':') {
				value = strings.TrimLeft(value[1:], " \t")
			}
		}
		if !strings.HasPrefix(name, "-") {
			name = "--" + name
		}
		out = append(out, name)
		switch {
		case strings.HasPrefix(value, `"`):
			var b strings.Builder
			for i := 1; i < len(value) && value[i] != '"'; i++ {
				ch := value[i]
				if ch == '\\' && i+1 < len(value) {
					i++
					if ch = value[i]; strings.IndexByte("tnrv", ch) >= 0 {
						ch = "\t\n\r\v"[strings.IndexByte("tnrv", ch)]
					}
				}
				b.WriteByte(ch)
			}
			out = append(out, b.String())
		case value != "":
			value, _, _ = strings.Cut(value, " ")
			out = append(out, value)
		}
	}
	return out
}

// curlTransfer is one request and its answer.
type curlTransfer struct {
	c         *invocation
	o         *curlOptions
	began     time.Time
	status    int
	header    http.Header
	sent, got atomic.Int64
	uploadErr atomic.Pointer[error]
	connected atomic.Bool
	timedOut  atomic.Pointer[curlError]
	host      string
}

func (t *curlTransfer) run() error {
	c, o := t.c, t.o
	target, err := url.Parse(o.url)
	if err == nil && target.Scheme == "" {
		target, err = url.Parse("http://" + o.url)
	}
	if err != nil || target.Host == "" {
		return curlFailed(curlURL, "URL using bad/illegal format or missing URL")
	}
	if target.Scheme != "http" && target.Scheme != "https" {
		return curlFailed(curlProtocol, "Protocol %q not supported or disabled in libcurl", target.Scheme)
	}
	t.host = target.Host
	ctx, cancel := context.WithCancel(c.p.ctx)
	defer cancel()
	timeUp := func(failed *curlError) {
		if t.timedOut.CompareAndSwap(nil, failed) {
			cancel()
		}
	}
	if o.maxTime > 0 {
		timer := time.AfterFunc(o.maxTime, func() {
			timeUp(curlFailed(curlTimeout, "Operation timed out after %d milliseconds with %d bytes received", time.Since(t.began).Milliseconds(), t.got.Load()))
		})
		defer timer.Stop()
	}
	if o.speedTime > 0 || o.speedLimit > 0 {
		stop := make(chan struct{})
		var watch sync.WaitGroup
		watch.Go(func() { t.watchSpeed(stop, timeUp) })
		defer watch.Wait()
		defer close(stop)
	}
	method := http.MethodGet
	var body io.Reader
	length, knownLength := int64(-1), false
	switch {
	case o.upload == "-" || o.upload == ".":
		method, body = http.MethodPut, c.stdin()
	case o.upload != "":
		method = http.MethodPut
		d, err := c.open(o.upload, os.O_RDONLY, 0)
		if err != nil {
			return curlFailed(curlRead, "Can't open '%s'!", o.upload)
		}
		defer d.release()
		body = fdReader{c.p.ctx, d}
		if d.file != nil {
			if fi, err := d.file.Stat(); err == nil && fi.Mode().IsRegular() {
				length, knownLength = fi.Size(), true
			}
		}
		if strings.HasSuffix(target.Path, "/") {
			target.Path += path.Base(o.upload)
		}
	case o.head:
		method = http.MethodHead
	}
	if o.request != "" {
		method = o.request
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return curlFailed(curlURL, "URL using bad/illegal format or missing URL")
	}
	req.Header.Set("User-Agent", "curl/7.88.1")
	req.Header.Set("Accept", "*/*")
	chunked, expect := true, true
	for _, h := range o.headers {
		name, value, colon := strings.Cut(h, ":")
		value = strings.TrimSpace(value)
		if !colon {
			name = strings.TrimSuffix(name, ";")
		}
		switch {
		case strings.EqualFold(name, "Content-Length") && value != "":
			if length, err = strconv.ParseInt(value, 10, 64); err != nil {
				return curlFailed(curlUsage, "bad Content-Length")
			}
		case strings.EqualFold(name, "Transfer-Encoding"):
			chunked = strings.EqualFold(value, "chunked")
		case strings.EqualFold(name, "Expect") && value == "":
			expect = false
		case strings.EqualFold(name, "Host"):
			req.Host = value
		case value == "" && colon:
			req.Header.Del(name)
			if strings.EqualFold(name, "User-Agent") {
				req.Header.Set(name, "")
			}
		default:
			req.Header.Set(name, value)
		}
	}
	if body != nil {
		upload := &curlUpload{ctx: ctx, t: t, r: body}
		req.Body = io.NopCloser(upload)
		req.ContentLength, upload.left = -1, -1
		if length >= 0 && (knownLength || !chunked) {
			// curl sends what it reads under the length it was told: more than that stays, less is waited for in vain.
			req.ContentLength, upload.left = length, length
			if length == 0 {
				req.Body = http.NoBody
			}
		}
		if expect && (length < 0 || length > curlExpectFrom) {
			req.Header.Set("Expect", "100-continue")
		}
	}
	roots, err := t.roots()
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, ExpectContinueTimeout: curlExpectWait, WriteBufferSize: 256 << 10, ReadBufferSize: 64 << 10,
		TLSClientConfig: &tls.Config{RootCAs: roots, InsecureSkipVerify: o.insecure},
		Proxy:           t.proxy,
		DialContext:     t.dial,

		TLSHandshakeTimeout: o.connectTimeout,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if !o.follow || len(via) > 50 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	answer, err := client.Do(req)
	if err != nil {
		return t.explain(err)
	}
	defer answer.Body.Close()
	t.status, t.header = answer.StatusCode, answer.Header
	return t.receive(answer)
}

// receive writes the answer where it belongs.
func (t *curlTransfer) receive(answer *http.Response) error {
	o := t.o
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s\r\n", answer.Proto, answer.Status)
	answer.Header.Write(&head)
	head.WriteString("\r\n")
	if o.dumpHeader != "" {
		if err := t.write(o.dumpHeader, strings.NewReader(head.String())); err != nil {
			return err
		}
	}
	failed := answer.StatusCode >= 400
	if failed && o.fail && !o.failBody {
		return curlFailed(curlHTTPError, "The requested URL returned error: %d", answer.StatusCode)
	}
	var body io.Reader = countingReader{answer.Body, &t.got}
	if o.head {
		body = strings.NewReader(head.String())
	} else if o.include {
		body = io.MultiReader(strings.NewReader(head.String()), body)
	}
	output := o.output
	if output == "" {
		output = "-"
	}
	if err := t.write(output, body); err != nil {
		var e *curlError
		if errors.As(err, &e) {
			return err
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return curlFailed(curlPartial, "transfer closed with %d bytes remaining to read", max(0, answer.ContentLength-t.got.Load()))
		}
		return t.explain(err)
	}
	if failed && o.failBody {
		return curlFailed(curlHTTPError, "The requested URL returned error: %d", answer.StatusCode)
	}
	return nil
}

// write copies to a file, or to standard output.
func (t *curlTransfer) write(name string, r io.Reader) error {
	var w io.Writer = t.c
	if name != "-" {
		d, err := t.c.open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
		if err != nil {
			return curlFailed(curlWrite, "Failure writing output to destination")
		}
		defer d.release()
		w = fdWriter{t.c.p.ctx, d}
	}
	out := &outputWriter{w: w}
	_, err := copyBlocks(out, r)
	if out.err != nil {
		return curlFailed(curlWrite, "Failure writing output to destination")
	}
	return err
}

// outputWriter remembers that it was the writing that failed.
type outputWriter struct {
	w   io.Writer
	err error
}

func (o *outputWriter) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if err != nil {
		o.err = err
	}
	return n, err
}

type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// curlUpload is the body as curl reads it; left is what may still be sent, -1 without a bound.
type curlUpload struct {
	ctx  context.Context
	t    *curlTransfer
	r    io.Reader
	left int64
}

func (u *curlUpload) Read(b []byte) (int, error) {
	if u.left == 0 {
		return 0, io.EOF
	}
	if u.left > 0 {
		b = b[:min(int64(len(b)), u.left)]
	}
	n, err := u.r.Read(b)
	u.t.sent.Add(int64(n))
	if u.left > 0 {
		u.left -= int64(n)
	}
	switch {
	case err == io.EOF && u.left > 0:
		if n > 0 {
			return n, nil
		}
		<-u.ctx.Done()
		return 0, context.Cause(u.ctx)
	case err != nil && err != io.EOF:
		u.t.uploadErr.Store(&err)
	}
	return n, err
}

// watchSpeed ends a transfer that is slower than --speed-limit for --speed-time.
func (t *curlTransfer) watchSpeed(stop <-chan struct{}, timeUp func(*curlError)) {
	limit, within := max(1, t.o.speedLimit), t.o.speedTime
	if within == 0 {
		within = 30 * time.Second
	}
	tick := time.NewTicker(curlSpeedTick)
	defer tick.Stop()
	last, since := int64(0), time.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := t.sent.Load() + t.got.Load()
		elapsed := time.Since(since)
		if float64(now-last) >= float64(limit)*elapsed.Seconds() && now > last {
			last, since = now, time.Now()
		} else if elapsed >= within {
			timeUp(curlFailed(curlTimeout, "Operation too slow. Less than %d bytes/sec transferred the last %d seconds", limit, int(within.Seconds())))
			return
		}
	}
}

// dial opens a connection through the node's network.
func (t *curlTransfer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for _, r := range t.o.resolve {
		if rest, ok := strings.CutPrefix(r, host+":"+port+":"); ok {
			host = strings.Trim(rest, "[]")
		}
	}
	ip := net.ParseIP(host)
	if host == "localhost" {
		ip = net.IPv4(127, 0, 0, 1)
	}
	if ip == nil {
		return nil, curlFailed(curlResolve, "Could not resolve host: %s", host)
	}
	connect := ctx
	if t.o.connectTimeout > 0 {
		var cancel context.CancelFunc
		connect, cancel = context.WithTimeout(ctx, t.o.connectTimeout)
		defer cancel()
	}
	refused := func() error {
		return curlFailed(curlConnect, "Failed to connect to %s port %s after %d ms: Couldn't connect to server", host, port, time.Since(t.began).Milliseconds())
	}
	if !ip.IsLoopback() {
		return nil, refused()
	}
	conn, err := t.c.node.dialOut(connect, network, net.JoinHostPort(ip.String(), port))
	switch {
	case err == nil:
		t.connected.Store(true)
		return conn, nil
	case connect.Err() != nil && ctx.Err() == nil:
		return nil, curlFailed(curlTimeout, "Failed to connect to %s port %s after %d ms: Timeout was reached", host, port, time.Since(t.began).Milliseconds())
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, refused()
}

// proxy is that of the environment.
func (t *curlTransfer) proxy(req *http.Request) (*url.URL, error) {
	if t.o.noProxy {
		return nil, nil
	}
	get := func(names ...string) string {
		for _, n := range names {
			if v := t.c.env[n]; v != "" {
				return v
			}
		}
		return ""
	}
	for _, n := range strings.Split(get("no_proxy", "NO_PROXY"), ",") {
		n = strings.TrimPrefix(strings.TrimSpace(n), ".")
		if host := req.URL.Hostname(); n == "*" || n != "" && (host == n || strings.HasSuffix(host, "."+n)) {
			return nil, nil
		}
	}
	text := get("http_proxy") // not the one in capitals, which a CGI's client could set
	if req.URL.Scheme == "https" {
		text = get("https_proxy", "HTTPS_PROXY")
	}
	if text == "" {
		text = get("all_proxy", "ALL_PROXY")
	}
	if text == "" {
		return nil, nil
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	return url.Parse(text)
}

// roots are the certificate authorities of --cacert, of --capath, or of the node.
func (t *curlTransfer) roots() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if t.o.caCert == "" && t.o.caPath == "" {
		if b, err := t.c.readFile(systemCACerts); err == nil {
			pool.AppendCertsFromPEM(b)
		}
		return pool, nil
	}
	if t.o.caCert != "" {
		b, err := t.c.readFile(t.o.caCert)
		if err != nil || !pool.AppendCertsFromPEM(b) {
			return nil, curlFailed(curlCAFile, "error setting certificate verify locations:  CAfile: %s CApath: none", t.o.caCert)
		}
	}
	if t.o.caPath != "" {
		entries, err := t.c.tree().readdir(t.c.user(), t.c.dir, t.o.caPath)
		if err != nil {
			return pool, nil
		}
		for _, e := range entries {
			if b, err := t.c.readFile(e.virt); err == nil {
				pool.AppendCertsFromPEM(b)
			}
		}
	}
	return pool, nil
}

// explain says in curl's words why there is no answer, or only a part of one.
func (t *curlTransfer) explain(err error) error {
	if failed := t.timedOut.Load(); failed != nil {
		return failed
	}
	if t.c.p.ctx.Err() != nil {
		return curlFailed(curlReceive, "Operation was aborted")
	}
	if e := t.uploadErr.Load(); e != nil {
		return curlFailed(curlRead, "read function returned funny value")
	}
	var own *curlError
	if errors.As(err, &own) {
		return own
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var verification *tls.CertificateVerificationError
	if errors.As(err, &unknown) || errors.As(err, &invalid) || errors.As(err, &name) || errors.As(err, &verification) {
		return curlFailed(curlCertificate, "SSL certificate problem: unable to get local issuer certificate")
	}
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		return curlFailed(curlTimeout, "Connection timed out after %d milliseconds", time.Since(t.began).Milliseconds())
	}
	var record tls.RecordHeaderError
	var alert tls.AlertError
	if errors.As(err, &record) || errors.As(err, &alert) || strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return curlFailed(curlTLS, "error:0A00010B:SSL routines::wrong version number")
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "write" || errors.Is(err, syscall.EPIPE) {
		return curlFailed(curlSend, "Send failure: %s", socketText(err))
	}
	if errors.Is(err, syscall.ECONNRESET) {
		return curlFailed(curlReceive, "Recv failure: Connection reset by peer")
	}
	if t.o.upload != "" && strings.Contains(err.Error(), "ContentLength") {
		return curlFailed(curlEmpty, "Empty reply from server")
	}
	if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "server closed") {
		return curlFailed(curlEmpty, "Empty reply from server")
	}
	if !t.connected.Load() {
		return curlFailed(curlConnect, "Failed to connect to %s", t.host)
	}
	return curlFailed(curlReceive, "Recv failure: %s", socketText(err))
}

func socketText(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errorText(errno)
	}
	return "Connection reset by peer"
}

// expand is --write-out.
func (t *curlTransfer) expand(format string, code int, failed *curlError) string {
	message := ""
	if failed != nil {
		message = failed.text
	}
	total := time.Since(t.began).Seconds()
	values := map[string]string{
		"http_code": fmt.Sprintf("%03d", t.status), "response_code": fmt.Sprintf("%03d", t.status), "size_upload": strconv.FormatInt(t.sent.Load(), 10), "size_download": strconv.FormatInt(t.got.Load(), 10),
		"time_total": fmt.Sprintf("%.6f", total), "speed_upload": strconv.FormatInt(int64(float64(t.sent.Load())/total), 10), "speed_download": strconv.FormatInt(int64(float64(t.got.Load())/total), 10),
		"exitcode": strconv.Itoa(code), "errormsg": message, "url_effective": t.o.url, "method": t.o.request, "content_type": t.header.Get("Content-Type"),
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		rest := format[i:]
		switch {
		case strings.HasPrefix(rest, "%{"):
			end := strings.IndexByte(rest, '}')
			if end < 0 {
				b.WriteString(rest)
				return b.String()
			}
			b.WriteString(values[rest[2:end]])
			i += end
		case strings.HasPrefix(rest, "%header{"):
			end := strings.IndexByte(rest, '}')
			if end < 0 {
				b.WriteString(rest)
				return b.String()
			}
			b.WriteString(t.header.Get(rest[len("%header{"):end]))
			i += end
		case strings.HasPrefix(rest, "%%"):
			b.WriteByte('%')
			i++
		case len(rest) > 1 && rest[0] == '\\' && strings.IndexByte("nrt\\", rest[1]) >= 0:
			b.WriteByte("\n\r\t\\"[strings.IndexByte("nrt\\", rest[1])])
			i++
		default:
			b.WriteByte(rest[0])
		}
	}
	return b.String()
}
