package temporalkit_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katoflow/katoflow/internal/temporalkit"
)

type environment map[string]string

func (e environment) LookupEnv(k string) (string, bool) { v, ok := e[k]; return v, ok }
func (e environment) Environ() []string {
	var all []string
	for k, v := range e {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return all
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "temporal.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTarget_FileEnvironmentAndFields_WinInThatOrder(t *testing.T) {
	file := writeConfig(t, `[profile.default]
address = "file:1"
namespace = "file-ns"
[profile.prod]
address = "prod:2"
`)
	for name, c := range map[string]struct {
		options temporalkit.ClientOptions
		want    temporalkit.Target
	}{
		"nothing set": {temporalkit.ClientOptions{ConfigFile: filepath.Join(t.TempDir(), "none.toml")},
			temporalkit.Target{Address: "localhost:7233", Namespace: "default"}},
		"file":            {temporalkit.ClientOptions{ConfigFile: file}, temporalkit.Target{Address: "file:1", Namespace: "file-ns"}},
		"profile":         {temporalkit.ClientOptions{ConfigFile: file, Profile: "prod"}, temporalkit.Target{Address: "prod:2", Namespace: "default"}},
		"profile by env":  {temporalkit.ClientOptions{ConfigFile: file, Env: environment{"TEMPORAL_PROFILE": "prod"}}, temporalkit.Target{Address: "prod:2", Namespace: "default"}},
		"file by env":     {temporalkit.ClientOptions{Env: environment{"TEMPORAL_CONFIG_FILE": file}}, temporalkit.Target{Address: "file:1", Namespace: "file-ns"}},
		"env before file": {temporalkit.ClientOptions{ConfigFile: file, Env: environment{"TEMPORAL_ADDRESS": "env:3"}}, temporalkit.Target{Address: "env:3", Namespace: "file-ns"}},
		"field before env": {temporalkit.ClientOptions{ConfigFile: file, Address: "flag:4", Namespace: "flag-ns", Env: environment{"TEMPORAL_ADDRESS": "env:3", "TEMPORAL_NAMESPACE": "env-ns"}},
			temporalkit.Target{Address: "flag:4", Namespace: "flag-ns"}},
	} {
		if got, err := c.options.Target(); err != nil || got != c.want {
			t.Errorf("%s: %+v %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestTarget_TheProcessesOwnEnvironment_IsNotRead(t *testing.T) {
	t.Setenv("TEMPORAL_ADDRESS", "leak:1")
	t.Setenv("TEMPORAL_PROFILE", "leak")
	got, err := temporalkit.ClientOptions{ConfigFile: filepath.Join(t.TempDir(), "none.toml")}.Target()
	if err != nil || got.Address == "leak:1" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestLoadClient_BadConfiguration_IsOneLineAndNotNoServer(t *testing.T) {
	broken := writeConfig(t, "[profile.default\naddress=")
	good := writeConfig(t, "[profile.default]\n")
	for name, c := range map[string]struct {
		options temporalkit.ClientOptions
		want    string
	}{
		"unknown profile": {temporalkit.ClientOptions{ConfigFile: good, Profile: "nope"}, "nope"},
		"broken file":     {temporalkit.ClientOptions{ConfigFile: broken}, "temporal.toml"},
		"no port":         {temporalkit.ClientOptions{ConfigFile: good, Address: "somewhere"}, "HOST:PORT"},
		"no certificate":  {temporalkit.ClientOptions{ConfigFile: good, Env: environment{"TEMPORAL_TLS_CLIENT_CERT_PATH": "/nonexistent", "TEMPORAL_TLS_CLIENT_KEY_PATH": "/nonexistent"}}, "/nonexistent"},
	} {
		_, err := temporalkit.LoadClient(context.Background(), c.options)
		switch {
		case err == nil:
			t.Errorf("%s: no error", name)
		case errors.Is(err, temporalkit.ErrNoServer), strings.Contains(err.Error(), "\n"), !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoadClient_NobodyListens_SaysSoAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	began := time.Now()
	contact := &temporalkit.Contact{}
	_, err = temporalkit.LoadClient(context.Background(), temporalkit.ClientOptions{ConfigFile: writeConfig(t, ""), Address: address, Contact: contact})
	wantNoServer(t, err, address, "connection refused")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if last, err := contact.Last(); !last.IsZero() || err == nil {
		t.Errorf("contact %s %v", last, err)
	}
}

func TestLoadClient_AListenerThatNeverAnswers_GivesUpAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // connections stay in the backlog, nobody accepts them
	began := time.Now()
	_, err = temporalkit.LoadClient(context.Background(), temporalkit.ClientOptions{ConfigFile: writeConfig(t, ""), Address: l.Addr().String()})
	wantNoServer(t, err, l.Addr().String(), "")
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("took %s", took)
	}
}

func wantNoServer(t *testing.T, err error, address, reason string) {
	t.Helper()
	var no *temporalkit.NoServerError
	if !errors.Is(err, temporalkit.ErrNoServer) || !errors.As(err, &no) || no.Address != address {
		t.Fatalf("got %v, want no server at %s", err, address)
	}
	text := err.Error()
	if strings.Contains(text, "\n") || !strings.Contains(text, address) || !strings.Contains(text, "TEMPORAL_ADDRESS") || !strings.Contains(text, reason) {
		t.Errorf("message %q", text)
	}
	if errors.Unwrap(err) == nil {
		t.Error("the cause is gone")
	}
}
