package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

func get(t *testing.T, h *health, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestHealth_ProcessLives_IsOKWhateverElse(t *testing.T) {
	h := &health{contact: &temporalkit.Contact{}, inventory: func() error { return errors.New("broken") }, now: time.Now}
	if code, body := get(t, h, "/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := get(t, h, "/other"); code != 404 {
		t.Errorf("another path: %d", code)
	}
}

func TestReadiness_EveryProblem_IsListedAndAnsweredWith503(t *testing.T) {
	broken := inventory.Problems{{File: "c.yaml", Line: 3, Field: "clusters", Message: "first"}, {File: "c.yaml", Line: 9, Message: "second"}}
	h := &health{contact: &temporalkit.Contact{}, inventory: func() error { return broken }, now: time.Now}
	code, body := get(t, h, "/readyz")
	var r readiness
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	if code != 503 || r.Ready || len(r.Problems) != 3 {
		t.Errorf("%d %s", code, body)
	}
	for _, want := range []string{"has not started", "first", "second"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in %s", want, body)
		}
	}
}

func TestReadiness_StartedButServerSilentOrWorkerStopping_IsNotReady(t *testing.T) {
	h := &health{contact: &temporalkit.Contact{}, inventory: func() error { return nil }, now: time.Now}
	h.started.Store(true)
	if r := h.readiness(); r.Ready || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "silent") {
		t.Errorf("never heard of the server: %+v", r)
	}
	h.stopping.Store(true)
	if r := h.readiness(); r.Ready || !strings.Contains(r.Problems[0], "stopping") {
		t.Errorf("stopping: %+v", r)
	}
}

func TestHealth_PortInUse_NamesTheFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, err = (&health{}).serve(l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "--health") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}

func TestHealth_Served_AnswersUntilStopped(t *testing.T) {
	h := &health{contact: &temporalkit.Contact{}, inventory: func() error { return nil }, now: time.Now}
	address, stop, err := h.serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if string(body) != "ok\n" {
		t.Errorf("%q", body)
	}
	stop()
	if _, err := http.Get("http://" + address + "/healthz"); err == nil {
		t.Error("still answers after stop")
	}
}

func TestHealthAddress_Forms_AreLoopbackUnlessNamed(t *testing.T) {
	for in, want := range map[string]string{
		"9095": "127.0.0.1:9095", ":9095": "127.0.0.1:9095", "0": "127.0.0.1:0", "0.0.0.0:1": "0.0.0.0:1", "[::1]:80": "[::1]:80", "host:1": "host:1",
	} {
		if got, err := healthAddress(in); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"x", "host:", "host:x", ":70000", "-1", "::1:80", "[::1]", " "} {
		if got, err := healthAddress(in); err == nil {
			t.Errorf("%q: %q, want an error", in, got)
		}
	}
}
