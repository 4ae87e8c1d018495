package simcluster

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// receiver is a server that keeps what it is sent.
type receiver struct {
	mu       sync.Mutex
	requests []received
	// answer does something else than 200.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

type received struct {
	method, uri string
	header      http.Header
	length      int64
	encoding    []string
	body        []byte
}

func (s *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.answer != nil && s.answer(w, r) {
		return
	}
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, received{r.Method, r.RequestURI, r.Header, r.ContentLength, r.TransferEncoding, body})
	s.mu.Unlock()
	w.Header().Set("ETag", `"abc"`)
	io.WriteString(w, "thanks\n")
}

func (s *receiver) last() received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[len(s.requests)-1]
}

func startReceiver(t *testing.T, start func(http.Handler) *httptest.Server) (*receiver, *httptest.Server) {
	t.Helper()
	r := &receiver{}
	s := start(r)
	t.Cleanup(s.Close)
	return r, s
}

func TestCurl_Upload_SendsARangeUnderItsLength(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	content := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // 3.2 MB
	require.NoError(t, n.WriteFile("/home/stackato/big", content))
	s, server := startReceiver(t, httptest.NewServer)
	url := server.URL + "/bucket/key%2Fwith?partNumber=3&X-Amz-Signature=a%2Fb"
	config := fmt.Sprintf("# of the test\nurl = \"%s\"\nheader = \"Content-Length: 1048576\"\nheader = \"Transfer-Encoding:\"\n-H \"x-amz-checksum-sha256: abc\"\nmax-time 60\n", url)
	require.NoError(t, n.WriteFile("/home/stackato/config", []byte(config)))
	r := run(t, c, `dd if=big bs=1048576 iflag=skip_bytes,count_bytes skip=5 count=1048576 status=none | curl -q -sS --fail --config config --upload-file - -o answer -w '%{http_code} %{size_upload} %header{etag}\n'`)
	require.Equal(t, result{out: "200 1048576 \"abc\"\n"}, r)
	got := s.last()
	require.Equal(t, "PUT", got.method)
	require.Equal(t, "/bucket/key%2Fwith?partNumber=3&X-Amz-Signature=a%2Fb", got.uri)
	require.Equal(t, int64(1048576), got.length)
	require.Empty(t, got.encoding)
	require.Equal(t, "abc", got.header.Get("x-amz-checksum-sha256"))
	require.True(t, bytes.Equal(content[5:5+1048576], got.body))
	require.Equal(t, "thanks\n", run(t, c, "cat answer").out)

	require.Equal(t, result{out: "thanks\n"}, run(t, c, "curl -qsST big "+server.URL+"/dir/"))
	require.Equal(t, "/dir/big", s.last().uri)
	require.Equal(t, int64(len(content)), s.last().length)
	require.Equal(t, result{out: "thanks\n"}, run(t, c, "echo x | curl -qsS -T - -X POST "+server.URL))
	require.Equal(t, []string{"chunked"}, s.last().encoding, "without a length, as curl does")
	require.Equal(t, "POST", s.last().method)
	r = run(t, c, "printf 'url = \"%s\"\\nhead\\n' '"+server.URL+"' | curl -q -s -K -")
	require.Contains(t, r.out, "HTTP/1.1 200 OK\r\n")
	require.Equal(t, "HEAD", s.last().method)
	port := server.Listener.Addr().(*net.TCPAddr).Port
	r = run(t, c, fmt.Sprintf("curl -qsS --resolve s3.example.com:%d:127.0.0.1 http://s3.example.com:%d/named", port, port))
	require.Equal(t, result{out: "thanks\n"}, r)
	require.Equal(t, "/named", s.last().uri)
	r = run(t, c, fmt.Sprintf("export http_proxy=%s no_proxy=direct.example.com; curl -qsS http://s3.example.com/proxied; curl -qsS http://direct.example.com", server.URL))
	require.Equal(t, "thanks\n", r.out)
	require.Contains(t, r.err, "Could not resolve host: direct.example.com")
	require.Equal(t, "http://s3.example.com/proxied", s.last().uri)
}

func TestCurl_WhatGoesWrong_IsItsExitCode(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	require.NoError(t, n.WriteFile("/home/stackato/big", make([]byte, 8<<20)))
	s, server := startReceiver(t, httptest.NewServer)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/denied":
			http.Error(w, "<Error>AccessDenied</Error>", http.StatusForbidden)
		case "/slow":
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/short":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "ten bytes!")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/hangup", "/reset":
			io.CopyN(io.Discard, r.Body, 1<<10)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return true
			}
			if r.URL.Path == "/reset" {
				conn.(*net.TCPConn).SetLinger(0)
			}
			conn.Close()
		default:
			return false
		}
		return true
	}
	_, secure := startReceiver(t, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		return s
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	require.NoError(t, n.WriteFile("/home/stackato/ca.pem", ca))
	require.NoError(t, n.WriteFile("/home/stackato/cas/one.pem", ca))
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for _, tc := range []struct {
		name, args string
		exits      []int
		err        string
	}{
		{"unknown option", "--nonsense " + server.URL, []int{2}, "curl: option --nonsense: is unknown"},
		{"no value", "--config", []int{2}, "requires parameter"},
		{"no URL", "", []int{2}, "no URL specified"},
		{"bad URL", "http://", []int{3}, "curl: (3) "},
		{"no such host", "http://s3.example.invalid/", []int{6}, "curl: (6) Could not resolve host: s3.example.invalid"},
		{"nobody listens", closed.URL, []int{7}, "curl: (7) Failed to connect to 127.0.0.1 port "},
		{"not of this machine", "http://192.0.2.1/", []int{7}, "curl: (7) "},
		{"refused by the server", "-f " + server.URL + "/denied", []int{22}, "curl: (22) The requested URL returned error: 403"},
		{"no file", "-T nothing " + server.URL, []int{26}, "curl: (26) Can't open 'nothing'!"},
		{"slow", "--max-time 0.2 " + server.URL + "/slow", []int{28}, "curl: (28) Operation timed out after"},
		{"stalled", "--speed-time 0.3 --speed-limit 10 " + server.URL + "/slow", []int{28}, "curl: (28) Operation too slow."},
		{"less to send than promised", "-T - -H 'Content-Length: 100' -H Transfer-Encoding: --speed-time 0.3 --speed-limit 10 " + server.URL + " </dev/null", []int{28}, "curl: (28) Operation too slow."},
		{"no TLS", strings.Replace(server.URL, "http:", "https:", 1), []int{35}, "curl: (35) "},
		{"answer cut", server.URL + "/short", []int{18}, "curl: (18) transfer closed with 90 bytes remaining to read"},
		{"hung up in the upload", "-T big " + server.URL + "/hangup", []int{52, 55, 56}, "curl: (5"},
		{"reset in the upload", "-T big " + server.URL + "/reset", []int{55, 56}, "curl: (5"},
		{"authority unknown", secure.URL, []int{60}, "curl: (60) SSL certificate problem"},
		{"no authorities", "--cacert nothing " + secure.URL, []int{77}, "curl: (77) "},
		{"authority given", "--cacert ca.pem " + secure.URL, []int{0}, ""},
		{"authorities in a folder", "--capath cas " + secure.URL, []int{0}, ""},
		{"not looked at", "-k " + secure.URL, []int{0}, ""},
		{"denied without --fail", server.URL + "/denied", []int{0}, ""},
		{"output cannot be written", "-o /nothing/x " + server.URL, []int{23}, "curl: (23) "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := run(t, c, "curl -q -sS "+tc.args)
			require.Contains(t, tc.exits, r.exit, r.err)
			require.Contains(t, r.err, tc.err)
		})
	}
	require.Equal(t, result{out: "000", exit: 7}, run(t, c, "curl -q -s -w '%{http_code}' "+closed.URL), "silent, and without -S")
	require.Equal(t, result{out: "<Error>AccessDenied</Error>\n", exit: 22}, run(t, c, "curl -qs --fail-with-body "+server.URL+"/denied"))
	require.NoError(t, n.WriteFile(systemCACerts, ca))
	require.Equal(t, 0, run(t, c, "curl -qs "+secure.URL).exit, "the node's own authorities")
}

func TestCurl_NetworkFaults_StopItAtTheStartAndInTheMiddle(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	s, server := startReceiver(t, httptest.NewServer)
	began := make(chan struct{}, 1)
	release := make(chan struct{})
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		io.CopyN(io.Discard, r.Body, 1<<20)
		began <- struct{}{}
		<-release
		return false
	}
	n.NoOutbound(true)
	r := run(t, c, "curl -qsS "+server.URL)
	require.Equal(t, 7, r.exit)
	require.Contains(t, r.err, "Couldn't connect to server")
	n.NoOutbound(false)
	upload := "dd if=/dev/zero bs=1048576 count=16 status=none | curl -qsS -T - " + server.URL
	for _, tc := range []struct {
		name string
		cut  func()
		want []int
	}{
		{"dropped", n.DropOutbound, []int{55, 56, 52}},
		{"forbidden", func() { n.NoOutbound(true); n.NoOutbound(false) }, []int{55, 56, 52}},
	} {
		done := make(chan result, 1)
		go func() { done <- run(t, c, upload) }()
		<-began
		tc.cut()
		got := <-done
		require.Contains(t, tc.want, got.exit, tc.name+": "+got.err)
		release <- struct{}{}
	}
	done := make(chan result, 1)
	go func() { done <- run(t, dial(t, n), upload) }()
	<-began
	served := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.requests)
	}
	before := served()
	n.Silence(true)
	close(release)
	time.Sleep(300 * time.Millisecond) // for what must not come: a network that works is done long before
	require.Equal(t, before, served(), "nothing arrives over a network that is cut")
	s.answer = nil
	n.Silence(false)
	require.Equal(t, result{out: "thanks\n"}, <-done)
	require.Len(t, s.last().body, 15<<20)
}

func TestCurl_Killed_EndsItsConnection(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	s, server := startReceiver(t, httptest.NewServer)
	ended := make(chan error, 1)
	began := make(chan struct{})
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		io.CopyN(io.Discard, r.Body, 1<<20)
		close(began)
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
		return true
	}
	done := make(chan result, 1)
	go func() { done <- run(t, c, "dd if=/dev/zero bs=1048576 status=none | curl -qsS -T - "+server.URL) }()
	<-began
	require.Equal(t, 0, run(t, c, "pkill -KILL -x curl 2>/dev/null || kill -KILL $(pgrep -x curl)").exit)
	require.Equal(t, 137, (<-done).exit)
	require.Error(t, <-ended)
	eventually(t, "dd ends with its reader", func() bool { return len(n.Processes()) == 0 })
}
