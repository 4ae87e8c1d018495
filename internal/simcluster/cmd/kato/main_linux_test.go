package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const nobody = 65534

// build makes the binary, once for all tests.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kato-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kato")
	if err := os.Chmod(dir, 0o755); err != nil {
		return path, err
	}
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return path, fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	exit := m.Run()
	if path, _ := build(); path != "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(exit)
}

var ids = []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}

// hosts are three nodes with an agent each: the Core and two DEAs with 4 app instances, 12 fit.
type hosts struct {
	t         *testing.T
	dir, bin  string
	roleStart string
	ports     map[string]int
	agents    map[string]*exec.Cmd
	// database and manifest of node.json
	database, manifest string
	marker             string
	reboot             []string
}

func start(t *testing.T) *hosts { return startWith(t, nil) }

// startWith starts what change has changed.
func startWith(t *testing.T, change func(*hosts)) *hosts {
	h := &hosts{t: t, dir: t.TempDir(), roleStart: "0s", ports: map[string]int{}, agents: map[string]*exec.Cmd{}}
	if change != nil {
		change(h)
	}
	var err error
	h.bin, err = build()
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Dir(h.dir), 0o755)) // kato does not run as root
	for _, id := range ids {
		ln, err := net.Listen("tcp", net.JoinHostPort(id, "0"))
		require.NoError(t, err)
		h.ports[id] = ln.Addr().(*net.TCPAddr).Port
		require.NoError(t, ln.Close())
	}
	t.Cleanup(func() {
		for id := range h.agents {
			h.stop(id)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	for _, id := range ids {
		h.boot(id)
	}
	return h
}

func (h *hosts) site(id string) string {
	s := katodouble.Site{ID: id, Version: "3.4.2", RoleStart: h.roleStart, Database: h.database, Manifest: h.manifest, Marker: h.marker, Reboot: h.reboot, Dir: filepath.Join(h.dir, id, "state"), Nodes: []katodouble.SiteNode{
		{ID: ids[0], Name: "core", Roles: []string{"primary", "controller", "router"}, Port: h.ports[ids[0]]},
		{ID: ids[1], Name: "dea-1", Roles: []string{"dea"}, Apps: 4, Port: h.ports[ids[1]]},
		{ID: ids[2], Name: "dea-2", Roles: []string{"dea"}, Apps: 4, Port: h.ports[ids[2]]},
	}}
	b, err := s.JSON()
	require.NoError(h.t, err)
	path := filepath.Join(h.dir, id, "node.json")
	require.NoError(h.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(h.t, os.WriteFile(path, b, 0o644))
	return path
}

// boot starts the agent of a node and waits until it says, as to systemd, that it answers.
func (h *hosts) boot(id string) {
	h.t.Helper()
	socket := filepath.Join(h.dir, id+".notify")
	ln, err := net.ListenPacket("unixgram", socket)
	require.NoError(h.t, err)
	defer os.Remove(socket)
	defer ln.Close()
	cmd := exec.Command(h.bin, "agent", "--config", h.site(id))
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	cmd.Stderr = os.Stderr
	require.NoError(h.t, cmd.Start())
	h.agents[id] = cmd
	require.NoError(h.t, ln.SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 100)
	n, _, err := ln.ReadFrom(b)
	require.NoError(h.t, err)
	require.Equal(h.t, "READY=1", string(b[:n]))
}

func (h *hosts) stop(id string) {
	cmd := h.agents[id]
	delete(h.agents, id)
	if err := cmd.Process.Signal(syscall.SIGTERM); err == nil {
		require.NoError(h.t, cmd.Wait())
	}
}

func (h *hosts) command(id string, args ...string) *exec.Cmd {
	cmd := exec.Command(h.bin, args...)
	cmd.Env = []string{"HOME=/home/x", "PATH=/home/x/bin:/usr/bin:/bin", "KATO_SITE=" + filepath.Join(h.dir, id, "node.json"), "http_proxy=http://127.0.0.1:1"}
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

func finish(t *testing.T, cmd *exec.Cmd) (string, string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (h *hosts) kato(id string, args ...string) (string, string, int) {
	h.t.Helper()
	return finish(h.t, h.command(id, args...))
}

// ok runs a kato that must succeed and returns what it prints.
func (h *hosts) ok(id string, args ...string) string {
	h.t.Helper()
	out, errs, exit := h.kato(id, args...)
	require.Zero(h.t, exit, "%v: %s%s", args, out, errs)
	require.Empty(h.t, errs)
	return out
}

func (h *hosts) request(method, id, path, body string, out any) int {
	h.t.Helper()
	req, err := http.NewRequest(method, fmt.Sprintf("http://%s:%d%s", id, h.ports[id], path), strings.NewReader(body))
	require.NoError(h.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	if out != nil {
		require.Equal(h.t, http.StatusOK, resp.StatusCode, string(b))
		require.NoError(h.t, json.Unmarshal(b, out), string(b))
	}
	return resp.StatusCode
}

func (h *hosts) state(id string) (s katodouble.NodeState) {
	h.t.Helper()
	h.request("GET", id, "/state", "", &s)
	return s
}

func (h *hosts) patch(id, body string) (s katodouble.NodeState) {
	h.t.Helper()
	h.request("PATCH", id, "/state", body, &s)
	return s
}

func (h *hosts) commands(id string) (list []katodouble.CommandLine) {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, id, "state", "commands.jsonl"))
	require.NoError(h.t, err)
	for line := range bytes.Lines(b) {
		var c katodouble.CommandLine
		require.NoError(h.t, json.Unmarshal(line, &c))
		list = append(list, c)
	}
	return list
}

func TestKato_OnThreeHosts_AnswersAsInProcess(t *testing.T) {
	h := start(t)
	c := katodouble.New("3.4.2")
	c.AddNode(ids[0], "core", []string{"primary", "controller", "router"}, 0)
	c.AddNode(ids[1], "dea-1", []string{"dea"}, 4)
	c.AddNode(ids[2], "dea-2", []string{"dea"}, 4)
	alike := func(args ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		exit := c.Run(t.Context(), katodouble.Invocation{Args: args, Node: ids[1], UID: 1000, Home: "/home/x", Path: "/home/x/bin", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs})
		gotOut, gotErrs, gotExit := h.kato(ids[1], args...)
		require.Equal(t, out.String(), gotOut, args)
		require.Equal(t, errs.String(), gotErrs, args)
		require.Equal(t, exit, gotExit, args)
	}
	both := [][]string{
		{}, {"nonsense"}, {"version"}, {"node", "list"}, {"node", "list", "--json"}, {"info", "--json"}, {"info", "--node", ids[0]}, {"process", "list"},
		{"process", "ready", "all"}, {"process", "ready", "--node", ids[2], "all"}, {"process", "list", "--cluster", "--json"}, {"status"}, {"status", "--json"},
		{"process", "ready", "nothing"}, {"process", "list", "--node", "10.9.9.9"}, {"config", "get"}, {"config", "get", "cloud_controller_ng", "maintenance_mode"},
		{"config", "set", "cloud_controller_ng", "maintenance_mode", "true"}, {"config", "set", "cloud_controller_ng", "maintenance_mode", "perhaps"},
		{"config", "set", "dea_ng", "a/n", "3"}, {"config", "get", "dea_ng", "a/n"}, {"config", "set", "dea_ng", "a/n", "4"}, {"config", "set", "dea_ng", "list", `["a","b"]`},
		{"config", "del", "dea_ng", "a/n"}, {"config", "get", "--json"}, {"stop", "dea"}, {"status"}, {"process", "ready", "all"}, {"start"}, {"process", "ready", "all"},
		{"stop", "router"}, {"node", "retire", "--node", ids[0]}, {"node", "retire", "--node", ids[2]}, {"node", "retire"}, {"help", "--help"},
	}
	for _, args := range both {
		alike(args...)
	}
	for _, id := range ids {
		require.Equal(t, c.Apps(id), h.state(id).Apps)
	}
	var history []katodouble.Command
	h.request("GET", ids[0], "/history", "", &history)
	require.Len(t, history, len(both))
	for i, want := range c.History() {
		require.Equal(t, ids[1], history[i].Node)
		require.Equal(t, want.Args, append([]string{}, history[i].Args...))
		require.Equal(t, want.Exit, history[i].Exit)
	}
	require.Contains(t, h.ok(ids[2], "history"), "127.0.0.2 kato node list\n")
	lines := h.commands(ids[1])
	require.Len(t, lines, len(both))
	require.Equal(t, 1, lines[0].Exit)
	require.Equal(t, []string{"version"}, lines[2].Args)
	require.Empty(t, lines[2].Job)
	require.False(t, lines[2].End.Before(lines[2].Time))
	c.NodeDown(ids[2])
	h.stop(ids[2])
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"process", "list", "--cluster"}, {"process", "list", "--node", ids[2]}, {"node", "list"}, {"node", "retire"}, {"process", "ready", "all"}} {
		alike(args...)
	}
}

func TestKato_ConfigSetOnOneHost_IsSeenOnTheOthersAndNeedsTheCore(t *testing.T) {
	h := start(t)
	h.ok(ids[1], "config", "set", "cloud_controller_ng", "maintenance_mode", "true")
	require.Equal(t, "true\n", h.ok(ids[2], "config", "get", "cloud_controller_ng", "maintenance_mode"))
	require.Equal(t, http.StatusNotFound, h.request("GET", ids[1], "/config", "", nil))
	require.Equal(t, http.StatusBadRequest, h.request("PATCH", ids[0], "/config", `[{"path":["cluster"],"value":1}]`, nil))
	h.request("PATCH", ids[0], "/config", `[{"path":["fence","docker","limit"],"value":3}]`, &struct{}{})
	require.Equal(t, "3\n", h.ok(ids[2], "config", "get", "fence", "docker/limit"))
	set := h.command(ids[2], "config", "set", "dea_ng", "secret")
	set.Stdin = strings.NewReader("hidden\n")
	out, errs, exit := finish(t, set)
	require.Zero(t, exit, errs)
	require.Equal(t, "WARNING: Assumed type string\nhidden\n", out)
	h.stop(ids[0])
	for _, args := range [][]string{{"config", "get", "cloud_controller_ng"}, {"config", "set", "cloud_controller_ng", "maintenance_mode", "false"}, {"history"}} {
		out, errs, exit := h.kato(ids[1], args...)
		require.Equal(t, 1, exit, args)
		require.Empty(t, out)
		require.Contains(t, errs, "ERROR: Could not connect to config redis at 127.0.0.1:7474")
	}
	require.Equal(t, "READY\n", h.ok(ids[1], "process", "ready", "all"), "what is the node's own needs no Core")
	h.boot(ids[0])
	require.Equal(t, "true\n", h.ok(ids[2], "config", "get", "cloud_controller_ng", "maintenance_mode"))
	require.Contains(t, h.ok(ids[2], "history"), "127.0.0.2 kato config set cloud_controller_ng maintenance_mode true\n")
	require.NotContains(t, h.ok(ids[2], "history"), "maintenance_mode false")
}

func TestKato_ConfigSetsAtOnce_KeepAllKeys(t *testing.T) {
	h := start(t)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			_, errs, exit := h.kato(ids[i%3], "config", "set", "new_component", fmt.Sprintf("deep/key%d", i), "x")
			if exit != 0 {
				t.Error(errs)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 12, strings.Count(h.ok(ids[0], "config", "get", "--flat", "new_component"), " x\n"))
}

func TestKato_Retire_MovesInstancesBetweenHostsAndLosesNone(t *testing.T) {
	h := start(t)
	total := func() int { return h.state(ids[1]).Apps + h.state(ids[2]).Apps }
	require.Equal(t, "Retiring node 127.0.0.2...\nmoved 4 app instances\nok\n", h.ok(ids[0], "node", "retire", "--node", ids[1]))
	require.Equal(t, 0, h.state(ids[1]).Apps)
	require.True(t, h.state(ids[1]).Retired)
	require.Equal(t, 8, h.state(ids[2]).Apps)
	h.stop(ids[1])
	h.boot(ids[1])
	require.False(t, h.state(ids[1]).Retired, "until the next boot")
	h.patch(ids[1], `{"apps":4}`)
	h.patch(ids[2], `{"apps":4}`)
	// Two at once: one of them finds no other DEA left, and nothing is lost.
	exits := make([]int, 2)
	var wg sync.WaitGroup
	for i, id := range ids[1:] {
		wg.Go(func() { _, _, exits[i] = h.kato(ids[0], "node", "retire", "--node", id) })
	}
	wg.Wait()
	require.ElementsMatch(t, []int{0, 1}, exits)
	require.Equal(t, 8, total())
	h.stop(ids[0])
	_, errs, exit := h.kato(ids[1], "node", "retire")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "ERROR: Could not connect to node 127.0.0.1")
	require.Equal(t, 8, total())
}

func TestKato_RoleStoppedOnOneHost_IsSeenByTheOthersUntilItsBoot(t *testing.T) {
	h := start(t)
	h.patch(ids[1], `{"stop":["dea"]}`)
	out, _, exit := h.kato(ids[1], "process", "ready", "all")
	require.Equal(t, 1, exit)
	require.Equal(t, "NOT READY\n", out)
	require.Equal(t, "READY\n", h.ok(ids[2], "process", "ready", "all"))
	var status map[string]struct{ Roles map[string]string }
	require.NoError(t, json.Unmarshal([]byte(h.ok(ids[0], "status", "--json")), &status))
	require.Equal(t, "STOPPED", status[ids[1]].Roles["dea"])
	h.ok(ids[0], "start", "--node", ids[1])
	require.Empty(t, h.state(ids[1]).Stopped)
	h.ok(ids[0], "stop", "--node", ids[1], "dea")
	require.Equal(t, []string{"dea"}, h.state(ids[1]).Stopped)
	h.patch(ids[1], `{"never_start":["dea"],"start":["base"]}`)
	h.stop(ids[1])
	h.boot(ids[1])
	require.Equal(t, katodouble.Starting, h.state(ids[1]).Roles["dea"])
	require.Empty(t, h.state(ids[1]).Stopped)
	// A kato that waits sees that the role is healed.
	waiting := h.command(ids[1], "process", "ready", "--block", "20", "all")
	var got bytes.Buffer
	waiting.Stdout = &got
	require.NoError(t, waiting.Start())
	h.patch(ids[1], `{"start":["dea"]}`)
	require.NoError(t, waiting.Wait())
	require.Equal(t, "READY\n", got.String())
	for _, wrong := range []string{`{"stop":["router"]}`, `{"stopp":["dea"]}`, `{"apps":13}`, `{"apps_delta":-100}`, `[]`, ``} {
		require.Equal(t, http.StatusBadRequest, h.request("PATCH", ids[1], "/state", wrong, nil), wrong)
	}
}

func TestKato_AgentRestarted_KeepsAppsAndFaultsAndBootsTheRoles(t *testing.T) {
	h := start(t)
	before := h.patch(ids[1], `{"apps":7,"exit_zero":true,"legacy_status":true}`)
	h.roleStart = "1h"
	h.stop(ids[1])
	h.boot(ids[1])
	after := h.state(ids[1])
	require.True(t, after.Booted.After(before.Booted))
	require.Less(t, after.UpSeconds, 10.0)
	require.Equal(t, []any{7, true, true}, []any{after.Apps, after.ExitZero, after.LegacyStatus})
	require.Equal(t, katodouble.Stopped, after.Roles["dea"])
	out, _, exit := h.kato(ids[1], "process", "ready", "all")
	require.Zero(t, exit, "exit_zero")
	require.Equal(t, "NOT READY\n", out)
	// Killed in the middle of its life it comes back as well.
	require.NoError(t, h.agents[ids[1]].Process.Kill())
	require.Error(t, h.agents[ids[1]].Wait())
	h.boot(ids[1])
	require.Equal(t, 7, h.state(ids[1]).Apps)
}

func TestKato_LegacyStatusAndAgentAway_HangAndFail(t *testing.T) {
	h := start(t)
	h.patch(ids[1], `{"legacy_status":true}`)
	h.ok(ids[0], "status")
	h.stop(ids[2])
	_, errs, exit := h.kato(ids[2], "process", "ready", "all")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "Could not connect to node 127.0.0.3")
	hanging := h.command(ids[0], "status")
	hanging.Args = append([]string{"timeout", "-s", "TERM", "1"}, append([]string{h.bin}, hanging.Args[1:]...)...)
	hanging.Path = "/usr/bin/timeout"
	_, _, exit = finish(t, hanging)
	require.Equal(t, 124, exit)
}

func TestKato_Prompt_WaitsForTheEndOfStandardInput(t *testing.T) {
	h := start(t)
	h.patch(ids[0], `{"prompts":true}`)
	out, errs, exit := h.kato(ids[0], "node", "list")
	require.Equal(t, 1, exit)
	require.Equal(t, "[sudo] password for stackato: ", out)
	require.Contains(t, errs, "no password was provided")
	// A kato that is killed while it waits is recorded all the same.
	cmd := h.command(ids[0], "node", "retire", "--node", ids[1])
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	prompt, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = prompt.Read(make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return len(h.commands(ids[0])) == 2 }, 5*time.Second, 5*time.Millisecond)
	last := h.commands(ids[0])[1]
	require.Equal(t, -1, last.Exit)
	require.Equal(t, []string{"node", "retire", "--node", ids[1]}, last.Args)
	require.Equal(t, 4, h.state(ids[1]).Apps)
	// The lock of the one that was killed is free.
	h.patch(ids[0], `{"prompts":false}`)
	h.ok(ids[0], "node", "retire", "--node", ids[1])
}

func TestKato_RootOrNoLoginEnvironment_IsRefusedAndRecorded(t *testing.T) {
	h := start(t)
	cmd := h.command(ids[0], "version")
	cmd.Env[1] = "PATH=/usr/bin"
	_, errs, exit := finish(t, cmd)
	require.Equal(t, 127, exit)
	require.Contains(t, errs, "ruby")
	require.Equal(t, 127, h.commands(ids[0])[0].Exit)
	if os.Getuid() != 0 {
		t.Skip("the rest needs root")
	}
	cmd = h.command(ids[0], "config", "set", "cloud_controller_ng", "maintenance_mode", "true")
	cmd.SysProcAttr = nil
	_, errs, exit = finish(t, cmd)
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: kato must not be run as root\n", errs)
	require.Equal(t, 1, h.commands(ids[0])[1].Exit)
	require.Equal(t, "false\n", h.ok(ids[1], "config", "get", "cloud_controller_ng", "maintenance_mode"))
}

func TestKato_InADurableJob_RecordsItsName(t *testing.T) {
	h := start(t)
	job := filepath.Join(h.dir, "jobs", "op-1-core-retire-1")
	require.NoError(t, os.MkdirAll(job, 0o755))
	for name, line := range map[string]string{"script": "sh -c '%s version; true'\n", "other": "%s version\ntrue\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(job, name), fmt.Appendf(nil, line, h.bin), 0o644))
		cmd := h.command(ids[1])
		cmd.Path, cmd.Args = "/usr/bin/setsid", []string{"setsid", "-w", "sh", filepath.Join(job, name), "vault", job}
		out, errs, exit := finish(t, cmd)
		require.Zero(t, exit, errs)
		require.Equal(t, "3.4.2\n", out)
		lines := h.commands(ids[1])
		require.Equal(t, map[string]string{"script": "op-1-core-retire-1", "other": ""}[name], lines[len(lines)-1].Job)
	}
}

func TestKato_StateThatCannotBeWritten_ChangesNothingAndFails(t *testing.T) {
	h := start(t)
	state := filepath.Join(h.dir, ids[0], "state")
	require.NoError(t, os.Rename(state, state+".away"))
	out, errs, exit := h.kato(ids[1], "config", "set", "cloud_controller_ng", "maintenance_mode", "true")
	require.Equal(t, 1, exit)
	require.Empty(t, out)
	require.Contains(t, errs, "the configuration was not changed: node 127.0.0.1: ")
	require.NoError(t, os.Rename(state+".away", state))
	require.Equal(t, "false\n", h.ok(ids[1], "config", "get", "cloud_controller_ng", "maintenance_mode"))
	for _, full := range ids[1:] { // the node that is emptied, and the one that takes its instances
		state := filepath.Join(h.dir, full, "state")
		require.NoError(t, os.Rename(state, state+".away"))
		out, errs, exit := h.kato(ids[0], "node", "retire", "--node", ids[1])
		require.Equal(t, 1, exit)
		require.Empty(t, out)
		require.Contains(t, errs, "node "+full+" was not changed: ")
		require.NoError(t, os.Rename(state+".away", state))
		for _, id := range ids[1:] {
			require.Equal(t, 4, h.state(id).Apps)
			require.False(t, h.state(id).Retired)
		}
	}
}

func TestKato_HostThatDoesNotAnswer_IsOfflineAfterTwoSeconds(t *testing.T) {
	h := start(t)
	silent := h.agents[ids[2]].Process
	require.NoError(t, harness.Freeze(silent.Pid))
	defer silent.Signal(syscall.SIGCONT)
	begin := time.Now()
	require.Contains(t, h.ok(ids[0], "status"), "127.0.0.3\n  ERROR: node is not reachable\n")
	require.Less(t, time.Since(begin), 10*time.Second)
	require.NoError(t, silent.Signal(syscall.SIGCONT))
	require.Contains(t, h.ok(ids[0], "status"), "127.0.0.3\n  base             RUNNING\n")
}

func TestKato_Calls_AreQuick(t *testing.T) {
	h := start(t)
	best, sum := time.Hour, time.Duration(0)
	for range 20 {
		begin := time.Now()
		h.ok(ids[1], "process", "ready", "all")
		took := time.Since(begin)
		best, sum = min(best, took), sum+took
	}
	t.Logf("20 calls: %s each, the quickest %s", sum/20, best)
	require.Less(t, best, 500*time.Millisecond, "a call waits for nothing: gates ask all the time, on machines that are busy")
}
