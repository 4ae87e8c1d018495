package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/katoflow/katoflow/internal/temporalkit"
)

func noEnv(string) (string, bool) { return "", false }

func TestLogger_NotATerminal_IsJSONWithoutColour(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(&out, "", "info", noEnv, &temporalkit.Scrubber{})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not this")
	log.Info("hello", zap.String("node", "dea-3"))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line["msg"] != "hello" || line["node"] != "dea-3" || line["level"] != "info" || !strings.HasPrefix(line["caller"].(string), "worker/logging_test.go") {
		t.Errorf("got %v", line)
	}
	if _, err := time.Parse(time.RFC3339, line["time"].(string)); err != nil {
		t.Error(err)
	}
}

func TestLogger_ConsoleLineOfOthers_CannotReachTheTerminal(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(&out, "console", "debug", noEnv, &temporalkit.Scrubber{})
	if err != nil {
		t.Fatal(err)
	}
	log.Warn("title\x1b]0;owned\x07 and \u009b31m and \u202e", zap.String("tail", "\x1b[2Jx\x7f"))
	if text := out.String(); strings.ContainsAny(text, "\x1b\x07\x7f\u009b\u202e") || !strings.Contains(text, "\tWARN\t") {
		t.Errorf("got %q", text)
	}
}

func TestConsoleSink_Colour_IsOnlyOnTheLevel(t *testing.T) {
	var out bytes.Buffer
	s := consoleSink{zapcore.AddSync(&out), true}
	in := "2026-01-02T03:04:05Z\tINFO\tfile.go:1\ta message\tERROR\tof others\n"
	if n, err := s.Write([]byte(in)); err != nil || n != len(in) {
		t.Fatalf("%d %v", n, err)
	}
	if want := "2026-01-02T03:04:05Z\t\x1b[34mINFO\x1b[0m\tfile.go:1\ta message\tERROR\tof others\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}

func TestInventoryFile_Changed_TellsItsSecretsAndItsProblems(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "clusters.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"FIRST": "first-secret", "SECOND": "second-secret", "THIRD": "third-secret", "SSH_AUTH_SOCK": "/run/agent"}[name]
		return v, ok
	}
	var out bytes.Buffer
	scrubber := &temporalkit.Scrubber{}
	log, err := newLogger(&out, "json", "info", env, scrubber)
	if err != nil {
		t.Fatal(err)
	}
	f := &inventoryFile{path: path, env: env, scrubber: scrubber, log: log}
	const text = "clusters:\n  lab:\n    ssh: {passphrase: {env: NAME}, key_files: [id]}\n    nodes: [{name: n1, address: 127.0.0.1}]\n"
	write(strings.Replace(text, "NAME", "FIRST", 1))
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
	write(strings.Replace(text, "NAME", "SECOND", 1))
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.lookup("THIRD"); !ok {
		t.Error("lookup does not look up")
	}
	f.lookup("SSH_AUTH_SOCK")
	if got := scrubber.String("first-secret second-secret third-secret /run/agent"); got != "[secret] [secret] [secret] /run/agent" {
		t.Errorf("scrubbed to %q", got)
	}
	write("clusters: 3\n")
	if err := f.Check(); err == nil {
		t.Error("a broken file is no problem")
	}
	said := strings.Count(out.String(), "cannot be used")
	if err := f.Check(); err == nil || said == 0 || strings.Count(out.String(), "cannot be used") != said {
		t.Errorf("the same problem is told again, or never: %s", out.String())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("removed: %v", err)
	}
	write(strings.Replace(text, "NAME", "FIRST", 1))
	if err := f.Check(); err != nil {
		t.Errorf("mended: %v", err)
	}
}

func TestInventoryFile_EverySecretOfACluster_IsKnownToTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clusters.yaml")
	text := `clusters:
  prod:
    platform: als
    ssh: {passphrase: {env: ONE}, key_files: [id]}
    notify: {webhook: {env: TWO}}
    s3: {bucket: archives, access_key: {env: THREE}, secret_key: {env: FOUR}, session_token: {env: FIVE}, identity: {env: FOURTEEN}}
    controller: {url: "https://api.example.org", user: admin, password: {env: SIX}}
    nodes: [{name: core, address: 10.0.0.1, roles: [primary, controller, router], ssh: {passphrase: {env: SEVEN}}}]
  instances:
    hypervisor: {provider: ec2, ec2: {region: eu-central-1, access_key: {env: EIGHT}, secret_key: {env: NINE}, session_token: {env: TEN}}}
    nodes: [{name: a, address: 10.0.0.2, vm: i-0123456789abcdef0}]
  servers:
    hypervisor: {provider: openstack, openstack: {auth_url: "https://keystone.example.org/v3", user: u, project: p, password: {env: ELEVEN}}}
    nodes: [{name: a, address: 10.0.0.3}]
  credential:
    hypervisor: {provider: openstack, openstack: {auth_url: "https://keystone.example.org/v3", application_credential: {id: x, secret: {env: TWELVE}}}}
    nodes: [{name: a, address: 10.0.0.4}]
  domains:
    hypervisor: {provider: libvirt, hosts: [{name: h, address: 10.0.0.9, ssh: {passphrase: {env: FIFTEEN}, key_files: [id]}}]}
    nodes: [{name: a, address: 10.0.0.6}]
  vms:
    hypervisor: {provider: vsphere, vsphere: {url: "https://vcenter.example.org", user: u, password: {env: THIRTEEN}}}
    nodes: [{name: a, address: 10.0.0.5}]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	scrubber := &temporalkit.Scrubber{}
	var names []string
	for _, line := range strings.Split(text, "{env: ")[1:] {
		name, _, _ := strings.Cut(line, "}")
		names = append(names, name)
	}
	f := &inventoryFile{path: path, scrubber: scrubber, log: zap.NewNop(), env: func(name string) (string, bool) { return "value-of-" + name + "-secret", true }}
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if got := scrubber.String("value-of-" + name + "-secret"); got != "[secret]" {
			t.Errorf("%s is logged as %q", name, got)
		}
	}
	if len(names) != 15 {
		t.Errorf("%q", names)
	}
}
