package katodouble

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func fixture() *Cluster {
	c := New("3.4.2")
	c.AddNode("10.0.0.1", "core", []string{"primary", "controller", "router", "base"}, 0)
	c.AddNode("10.0.0.2", "dea-1", []string{"dea"}, 4)
	c.AddNode("10.0.0.3", "dea-2", []string{"dea"}, 4)
	return c
}

func kato(t *testing.T, c *Cluster, node string, args ...string) (out, errs string, exit int) {
	t.Helper()
	return katoIn(t, c, node, "", args...)
}

func katoIn(t *testing.T, c *Cluster, node, stdin string, args ...string) (string, string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	exit := c.Run(ctx, Invocation{Args: args, Node: node, UID: 1000, Home: "/home/stackato", Path: "/home/stackato/bin:/usr/bin", Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs})
	return out.String(), errs.String(), exit
}

func TestKato_Config_StoresEchoesAndWarnsOnAGuess(t *testing.T) {
	c := fixture()
	for _, tc := range []struct {
		name, stdin string
		args        []string
		out         string
		exit        int
	}{
		{"read maintenance", "", []string{"config", "get", "cloud_controller_ng", "maintenance_mode"}, "false\n", 0},
		{"set maintenance", "", []string{"config", "set", "cloud_controller_ng", "maintenance_mode", "true"}, "true\n", 0},
		{"set it twice", "", []string{"config", "set", "cloud_controller_ng", "maintenance_mode", "true"}, "true\n", 0},
		{"read it as JSON", "", []string{"config", "get", "--json", "cloud_controller_ng", "maintenance_mode"}, "true\n", 0},
		{"change of type is refused", "", []string{"config", "set", "cloud_controller_ng", "maintenance_mode", "perhaps"}, "", 1},
		{"unless forced", "", []string{"config", "set", "--force", "cloud_controller_ng", "maintenance_mode", "perhaps"}, "perhaps\n", 0},
		{"a new key is a guess", "", []string{"config", "set", "dea_ng", "some/key", "x"}, "WARNING: Assumed type string\nx\n", 0},
		{"a list is a struct", "", []string{"config", "set", "dea_ng", "images", `["a","b"]`}, "WARNING: Assumed type struct\n- a\n- b\n", 0},
		{"value from standard input", "hidden\n", []string{"config", "set", "--json", "dea_ng", "n"}, "", 1},
		{"value from standard input as text", "hidden\n", []string{"config", "set", "dea_ng", "n"}, "WARNING: Assumed type string\nhidden\n", 0},
		{"flat", "", []string{"config", "get", "--flat", "dea_ng", "some"}, "key x\n", 0},
		{"unknown key prints nothing", "", []string{"config", "get", "dea_ng", "nothing"}, "", 0},
		{"del", "", []string{"config", "del", "dea_ng", "some/key"}, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, errs, exit := katoIn(t, c, "10.0.0.2", tc.stdin, tc.args...)
			require.Equal(t, tc.exit, exit, errs)
			require.Equal(t, tc.out, out)
		})
	}
	require.False(t, c.Maintenance())
	kato(t, c, "10.0.0.1", "config", "set", "--force", "cloud_controller_ng", "maintenance_mode", "true")
	require.True(t, c.Maintenance())
}

func TestKato_UsageErrors_ExitOneAndChangeNothing(t *testing.T) {
	c := fixture()
	for _, args := range [][]string{{}, {"nonsense"}, {"config"}, {"config", "set", "x"}, {"data", "export", "-cluster"}, {"node", "list", "--all"}, {"process", "ready"}, {"process", "ready", "--block", "x", "all"}, {"status", "--node", "10.0.0.2"}} {
		out, errs, exit := kato(t, c, "10.0.0.1", args...)
		require.Equal(t, 1, exit, args)
		require.Empty(t, out)
		require.Contains(t, errs, "Usage:")
	}
	require.False(t, c.Maintenance())
}

func TestKato_LegacySwitch_ExitsZeroWithTheErrorText(t *testing.T) {
	c := fixture()
	c.SetExitAlwaysZero("10.0.0.1", true)
	_, errs, exit := kato(t, c, "10.0.0.1", "node", "retire", "--node", "10.9.9.9")
	require.Zero(t, exit)
	require.Contains(t, errs, "ERROR")
	_, _, exit = kato(t, c, "10.0.0.2", "node", "retire", "--node", "10.9.9.9")
	require.Equal(t, 1, exit, "only on that node")
}

func TestKato_Prompt_WaitsForTheEndOfStandardInputOrOfTheTime(t *testing.T) {
	c := fixture()
	c.SetPrompts("10.0.0.1", true)
	out, _, exit := kato(t, c, "10.0.0.1", "node", "list")
	require.Equal(t, 1, exit)
	require.Contains(t, out, "password for stackato")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	r, w := blockingReader()
	defer w()
	c.Run(ctx, Invocation{Args: []string{"node", "list"}, Node: "10.0.0.1", UID: 1000, Home: "/h", Path: "/h/bin", Stdin: r, Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}})
	require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded, "it has waited for all of its time")
}

type blocking chan struct{}

func (b blocking) Read([]byte) (int, error) { <-b; return 0, context.Canceled }

func blockingReader() (blocking, func()) {
	b := make(blocking)
	return b, func() { close(b) }
}

func TestKato_RootOrNoLoginEnvironment_IsRefused(t *testing.T) {
	c := fixture()
	for _, in := range []Invocation{{UID: 0, Home: "/root", Path: "/root/bin"}, {UID: 1000, Home: "/home/stackato", Path: "/usr/bin"}} {
		var errs bytes.Buffer
		in.Node, in.Args, in.Stdout, in.Stderr = "10.0.0.1", []string{"version"}, &bytes.Buffer{}, &errs
		require.NotZero(t, c.Run(t.Context(), in))
		require.NotEmpty(t, errs.String())
	}
}

func TestKato_NodeList_BeginsWithTheAddress(t *testing.T) {
	out, _, exit := kato(t, fixture(), "10.0.0.1", "node", "list")
	require.Zero(t, exit)
	require.Equal(t, "10.0.0.1 base,primary,controller,router\n10.0.0.2 base,dea\n10.0.0.3 base,dea\n", out)
}

func TestKato_OfflineNode_IsAnErrorInStatusAndHangsTheOldOne(t *testing.T) {
	c := fixture()
	_, _, exit := kato(t, c, "10.0.0.1", "status", "--json")
	require.Zero(t, exit)
	c.NodeDown("10.0.0.3")
	out, _, exit := kato(t, c, "10.0.0.1", "status", "--json")
	require.Zero(t, exit)
	var st map[string]map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &st))
	require.Equal(t, "RUNNING", st["10.0.0.2"]["roles"].(map[string]any)["dea"])
	require.Contains(t, st["10.0.0.3"], "error")
	out, _, _ = kato(t, c, "10.0.0.1", "status")
	require.Contains(t, out, "10.0.0.2\n  base             RUNNING\n")
	_, errs, exit := kato(t, c, "10.0.0.1", "process", "list", "--node", "10.0.0.3")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "Could not connect")
	c.SetLegacyStatus(true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	c.Run(ctx, Invocation{Args: []string{"status"}, Node: "10.0.0.1", UID: 1000, Home: "/h", Path: "/h/bin", Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}})
	require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded, "it has hung for all of its time")
}

func TestKato_AfterABoot_RolesComeUpInOrder(t *testing.T) {
	c := fixture()
	c.NodeUp("10.0.0.2", 1500*time.Millisecond)
	out, _, exit := kato(t, c, "10.0.0.2", "process", "ready", "all")
	require.Equal(t, 1, exit)
	require.Equal(t, "NOT READY\n", out)
	seen := map[string]bool{}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && !seen["RUNNING"]; time.Sleep(2 * time.Millisecond) {
		out, _, _ := kato(t, c, "10.0.0.1", "process", "list", "--node", "10.0.0.2", "--json", "dea_ng")
		var list map[string]string
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		seen[list["dea_ng"]] = true
	}
	require.Equal(t, map[string]bool{"STOPPED": true, "STARTING": true, "RUNNING": true}, seen)
	out, _, exit = kato(t, c, "10.0.0.2", "process", "ready", "all")
	require.Zero(t, exit)
	require.Equal(t, "READY\n", out)
	c.NodeUp("10.0.0.2", 60*time.Millisecond)
	_, _, exit = kato(t, c, "10.0.0.2", "process", "ready", "--block", "5", "all")
	require.Zero(t, exit)
	_, _, exit = kato(t, c, "10.0.0.2", "process", "ready", "nothing")
	require.Equal(t, 1, exit)
}

func TestKato_RoleFaults_LastAsLongAsTheySay(t *testing.T) {
	c := fixture()
	ready := func() bool { _, _, exit := kato(t, c, "10.0.0.2", "process", "ready", "all"); return exit == 0 }
	c.StopRole("10.0.0.2", "dea")
	require.False(t, ready())
	c.NodeUp("10.0.0.2", 0)
	require.True(t, ready())
	c.RoleNeverStarts("10.0.0.2", "dea")
	require.True(t, ready(), "from the next boot on")
	c.NodeUp("10.0.0.2", 0)
	require.False(t, ready())
	c.StartRole("10.0.0.2", "dea")
	require.True(t, ready())
	_, _, exit := kato(t, c, "10.0.0.2", "stop", "dea")
	require.Zero(t, exit)
	require.False(t, ready())
	kato(t, c, "10.0.0.1", "start", "--node", "10.0.0.2")
	require.True(t, ready())
}

func TestKato_Retire_MovesInstancesIfThereIsRoom(t *testing.T) {
	c := fixture()
	_, errs, exit := kato(t, c, "10.0.0.1", "node", "retire")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "does not have the dea role")
	_, _, exit = kato(t, c, "10.0.0.1", "node", "retire", "--node", "10.0.0.2")
	require.Zero(t, exit)
	require.Equal(t, 0, c.Apps("10.0.0.2"))
	require.Equal(t, 8, c.Apps("10.0.0.3"))
	_, errs, exit = kato(t, c, "10.0.0.3", "node", "retire")
	require.Equal(t, 1, exit, "no other DEA is left")
	require.Contains(t, errs, "cannot retire")
	require.Equal(t, 8, c.Apps("10.0.0.3"))
}

func TestKato_Info_NamesAssignedAndAvailableRoles(t *testing.T) {
	out, _, exit := kato(t, fixture(), "10.0.0.2", "info", "--json")
	require.Zero(t, exit)
	var info struct {
		Assigned  []string `json:"assigned_roles"`
		Available []string `json:"available_roles"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &info))
	require.Equal(t, []string{"base", "dea"}, info.Assigned)
	require.Contains(t, info.Available, "mysql")
	require.NotContains(t, info.Available, "dea")
}

func TestKato_History_KeepsEveryCommand(t *testing.T) {
	c := fixture()
	kato(t, c, "10.0.0.1", "version")
	kato(t, c, "10.0.0.2", "nonsense")
	h := c.History()
	require.Len(t, h, 2)
	require.Equal(t, []string{"nonsense"}, h[1].Args)
	require.Equal(t, 1, h[1].Exit)
	out, _, _ := kato(t, c, "10.0.0.1", "history")
	require.Contains(t, out, "10.0.0.2 kato nonsense\n")
}
