package kato

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestCLI_EveryCommand_UsesLongOptionsOnly(t *testing.T) {
	c := CLI{Path: "/home/stackato/bin/kato"}
	for _, argv := range [][]string{c.ReadMaintenance(), c.SetMaintenance(true), c.SetMaintenance(false), c.Retire("10.0.0.7"), c.ListNodes(), c.Status(), c.ProcessReady(), c.Info(), c.Stop(), c.Start(), c.Processes(),
		c.Import(Import{Folder: "/f", Path: "/f/a.tgz", StagingSeconds: 60})} {
		if argv[0] != c.Path {
			t.Errorf("%q does not begin with the path", argv)
		}
		for _, a := range argv[1:] {
			if strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") {
				t.Errorf("%q has the short option %s", argv, a)
			}
		}
	}
	if got := strings.Join(c.SetMaintenance(true), " "); got != "/home/stackato/bin/kato config set cloud_controller_ng maintenance_mode true" {
		t.Error(got)
	}
	if got := strings.Join(c.Retire("10.0.0.7"), " "); got != "/home/stackato/bin/kato node retire --node 10.0.0.7" {
		t.Error(got)
	}
}

func TestParseNodeList_ColoursAndStrayLines_KeepsTheNodes(t *testing.T) {
	out := "Warning: noise\n\x1b[32m10.0.0.1\x1b[0m primary,controller,router\r\n10.0.0.2  dea base\n\n10.0.0.2 again\nfe80::1 mysql\n"
	got, err := ParseNodeList([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	want := []Node{{"10.0.0.1", []string{"primary", "controller", "router"}}, {"10.0.0.2", []string{"dea", "base"}}, {"fe80::1", []string{"mysql"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := ParseNodeList([]byte("Usage: kato node list\n")); err == nil {
		t.Error("usage text was taken for nodes")
	}
}

func TestParseStatus_AllShapes_GiveTheSame(t *testing.T) {
	want := Status{"10.0.0.1": {"primary": "running", "router": "stopped"}, "10.0.0.2": {"dea": "starting"}}
	for name, out := range map[string]string{
		"components": `{"10.0.0.1":{"primary":"RUNNING","router":"STOPPED"},"10.0.0.2":{"dea":"STARTING"}}`,
		"roles":      `{"10.0.0.1":{"roles":{"primary":"START","router":"stopped"}},"10.0.0.2":{"roles":{"dea":{"state":"starting"}}}}`,
		"nodes":      "connecting {...}\n" + `{"nodes":{"10.0.0.1":{"primary":"running","router":"stopped"},"10.0.0.2":{"dea":"starting"}},"x":1}` + "\nbye",
		"text":       "-----> Status\n10.0.0.1\n  primary      \x1b[32mrunning\x1b[0m\n  router: STOPPED\n\n10.0.0.2:\n  dea starting\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseStatus([]byte(out))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for _, out := range []string{"", "{}", `{"a":{"b":"c"}}`, "error: cannot connect to 10.0.0.1 (refused)", `[]`} {
		if got, err := ParseStatus([]byte(out)); err == nil {
			t.Errorf("%q gave %v", out, got)
		}
	}
}

func TestStatus_Of_IsSorted(t *testing.T) {
	got := Status{"a": {"router": "running", "dea": "stopped"}}.Of("a")
	if d := cmp.Diff([]RoleState{{"dea", "stopped"}, {"router", "running"}}, got); d != "" {
		t.Error(d)
	}
	if got[0].Running() || !got[1].Running() {
		t.Error("running is not told from stopped")
	}
}

func TestParseReady_OnlyReadyWithExit0_Holds(t *testing.T) {
	for _, c := range []struct {
		out  string
		exit int
		want string
	}{
		{"READY\n", 0, ""},
		{"\x1b[1mready\x1b[0m.\n", 0, ""},
		{"NOT READY\n", 1, "exit 1"},
		{"NOT READY\n", 0, "exit 0 but NOT READY"},
		{"", 0, "exit 0 without READY"},
		{"READY\n", 124, "exit 124"},
		{"alREADY gone\n", 0, "exit 0 without READY"},
		{"router READY\nmysql NOT READY\n", 0, "exit 0 but NOT READY"},
	} {
		got := ""
		if err := ParseReady([]byte(c.out), c.exit); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q exit %d: %q, want %q", c.out, c.exit, got, c.want)
		}
	}
}

func TestParseBool_EveryForm_IsRead(t *testing.T) {
	for out, want := range map[string]string{
		"true\n": "true", "false": "false", `"false"`: "false", "--- true\n...\n": "true", "---\n'true'\n": "true", "maintenance_mode: true": "true",
		"WARNING: Assumed type string\ntrue\n": "true", "some stray line\nfalse\n": "false", "": "error", "true\nfalse\n": "error",
		"usage: kato config get": "error", "untrue": "error", "\x1b[33mtrue\x1b[0m\r\n": "true", "ERROR: not true": "error",
	} {
		got := "error"
		if v, err := ParseBool([]byte(out)); err == nil && v {
			got = "true"
		} else if err == nil {
			got = "false"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", out, got, want)
		}
	}
}

func TestParseInfo_BothShapes_GiveTheRoles(t *testing.T) {
	for _, out := range []string{`{"assigned_roles":["router","dea"],"available_roles":["mysql"]}`, "x\n" + `{"roles":{"dea":"START","router":"START"}}`} {
		got, err := ParseInfo([]byte(out))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"dea", "router"}, got); d != "" {
			t.Error(d)
		}
	}
	for _, out := range []string{"", "{}", `{"roles":3}`, "[]"} {
		if got, err := ParseInfo([]byte(out)); err == nil {
			t.Errorf("%q gave %v", out, got)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b]0;title\x07 \xff\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		s := Clean(out)
		if !utf8.ValidString(s) || strings.ContainsAny(s, "\x1b\r\x00") {
			t.Errorf("%q became %q", out, s)
		}
	})
}

func FuzzParseNodeList(f *testing.F) {
	f.Add([]byte("10.0.0.1 primary,router\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		nodes, err := ParseNodeList(out)
		if (err == nil) != (len(nodes) > 0) {
			t.Errorf("%d nodes and %v", len(nodes), err)
		}
		for _, n := range nodes {
			for _, w := range n.Roles {
				if !isWord(w) {
					t.Errorf("role %q", w)
				}
			}
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`{"nodes":{"10.0.0.1":{"dea":"RUNNING"}}}`))
	f.Add([]byte("10.0.0.1\n dea running\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		s, err := ParseStatus(out)
		if (err == nil) != (len(s) > 0) {
			t.Errorf("%v and %v", s, err)
		}
		for id := range s {
			for _, r := range s.Of(id) {
				if !isWord(r.Role) || !isWord(r.State) {
					t.Errorf("%q is %q", r.Role, r.State)
				}
			}
		}
	})
}

func FuzzParseReady(f *testing.F) {
	f.Add([]byte("READY\n"), 0)
	f.Fuzz(func(t *testing.T, out []byte, exit int) {
		if ParseReady(out, exit) == nil && (exit != 0 || !strings.Contains(strings.ToUpper(Clean(out)), "READY")) {
			t.Errorf("%q exit %d holds", out, exit)
		}
	})
}

func FuzzParseBool(f *testing.F) {
	f.Add([]byte("--- true\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		if v, err := ParseBool(out); err == nil && !strings.Contains(strings.ToLower(Clean(out)), map[bool]string{true: "true", false: "false"}[v]) {
			t.Errorf("%q is %v", out, v)
		}
	})
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte(`{"roles":["dea"]}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		roles, _ := ParseInfo(out)
		for _, r := range roles {
			if !isWord(r) {
				t.Errorf("role %q", r)
			}
		}
	})
}

func TestExport_Commands_UseLongOptionsAndAPathAlone(t *testing.T) {
	c := CLI{Path: "/home/stackato/bin/kato"}
	got := c.Export(Export{Include: []string{"droplets", "main-db"}, Exclude: []string{"mysql-data"}, Folder: "/mnt/a b/work", Path: "/mnt/a b/export.tgz"})
	want := []string{c.Path, "data", "export", "--cluster", "--droplets", "--main-db", "--exclude-mysql-data", "--base-dir", "/mnt/a b/work", "/mnt/a b/export.tgz"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := c.Export(Export{OnlyThisNode: true, Folder: "/w", Path: "/p"}); !slices.Equal(got, []string{c.Path, "data", "export", "--only-this-node", "--base-dir", "/w", "/p"}) {
		t.Errorf("%q", got)
	}
}

func TestCheckSelectors_WhatKatoDoesNotKnow_IsNamedWithTheChoices(t *testing.T) {
	if p := CheckSelectors([]string{"droplets", "rabbit3"}, []string{"mysql-data", "filesystem-user-creation", "redis"}); len(p) != 0 {
		t.Errorf("%q", p)
	}
	p := CheckSelectors([]string{"mysql-data", "--force", "droplets"}, []string{"droplets", "all", strings.Repeat("é", 100)})
	if len(p) != 5 {
		t.Errorf("%d problems: %q", len(p), p)
	}
	for i, want := range []string{`include "mysql-data": choose of `, `include "--force"`, `"droplets" is both included and excluded`, `exclude "all"`, `exclude "éé`} {
		if i < len(p) && !strings.HasPrefix(p[i], want) {
			t.Errorf("%q does not begin with %q", p[i], want)
		}
	}
}

func TestParseValue_FormsOfKatosAnswers_AreTheValue(t *testing.T) {
	for out, want := range map[string]string{
		"127.0.0.1\n": "127.0.0.1", "--- db.example.com\n...\n": "db.example.com", "\"db.example.com\"\n": "db.example.com", "'10.0.0.1'": "10.0.0.1",
		"WARNING: Assumed type string\n10.0.0.1\n": "10.0.0.1", "mysql/host: db.example.com\n": "db.example.com", "\x1b[32mdb.example.com\x1b[0m\r\n": "db.example.com",
		"": "", "\n---\n...\n": "", "::1\n": "::1", "fe80::1": "fe80::1",
	} {
		if got := ParseValue([]byte(out)); got != want {
			t.Errorf("%q is %q, want %q", out, got, want)
		}
	}
}

func TestParseList_FormsOfKatosAnswers_AreTheList(t *testing.T) {
	want := []string{"stackato/stack-alsek", "stackato/stack/alsek"}
	for _, out := range []string{
		`["stackato/stack-alsek","stackato/stack/alsek"]`, "[\n  \"stackato/stack-alsek\",\n  \"stackato/stack/alsek\"\n]\n", "---\n- stackato/stack-alsek\n- stackato/stack/alsek\n",
		"WARNING: [stray] line\n[\"stackato/stack-alsek\", \"stackato/stack/alsek\"]", "- 'stackato/stack-alsek'\n- \"stackato/stack/alsek\"\n",
	} {
		if got := ParseList([]byte(out)); !slices.Equal(got, want) {
			t.Errorf("%q is %q, want %q", out, got, want)
		}
	}
	if got := ParseList([]byte("\"helion/stack-alsek\"\n")); !slices.Equal(got, []string{"helion/stack-alsek"}) {
		t.Errorf("one value is %q", got)
	}
	for _, out := range []string{"", "null\n", "{}\n", "[1,2]", "no such key here\n"} {
		if got := ParseList([]byte(out)); got != nil {
			t.Errorf("%q is %q, want none", out, got)
		}
	}
}

func TestParseFailedApps_BothForms_WithColoursAndStrayLines(t *testing.T) {
	want := []FailedApp{{"shop", "prod", "orders"}, {"shop", "prod", "mails"}}
	for name, out := range map[string]string{
		"paths":   "Importing...\n\x1b[31mFailed apps:\x1b[0m\n  shop/prod/orders\n\nwarning: something else happened here\n  shop/prod/mails\r\nDone.\n",
		"places":  "The following applications failed to import and must be redeployed manually:\n - orders (org: shop, space: prod)\n - mails (org: shop, space: prod)\nNext steps:\n - restart\n",
		"bullets": "These apps must be redeployed manually by their owners:\n  * shop/prod/orders\n  * shop/prod/mails\n  * shop/prod/mails\n",
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(want, ParseFailedApps([]byte(out))); d != "" {
				t.Error(d)
			}
		})
	}
	spaced := []FailedApp{{"web shop", "pre production", "orders"}, {"shop", "prod", "mails"}}
	for _, out := range []string{
		"Failed apps:\n  web shop/pre production/orders\n  see /var/log/kato/import.log for more\n  shop/prod/mails\n",
		"Failed apps:\n - orders (org: web shop, space: pre production)\n - see /var/log/kato/import.log\n - mails (org: shop, space: prod)\n",
	} {
		if d := cmp.Diff(spaced, ParseFailedApps([]byte(out))); d != "" {
			t.Errorf("%q: %s", out, d)
		}
	}
	if got := ParseFailedApps([]byte("Failed apps:\n  orders\n")); len(got) != 1 || got[0].String() != "orders" {
		t.Errorf("%v", got)
	}
	for _, out := range []string{"", "all apps imported\n", "Apps:\n  shop/prod/orders\n", "0 apps failed\n  shop/prod/orders\n", "0 apps failed:\n  shop/prod/orders\n",
		"None of the apps has to be redeployed manually:\n - shop/prod/orders\n"} {
		if got := ParseFailedApps([]byte(out)); len(got) != 0 {
			t.Errorf("%q gave %v", out, got)
		}
	}
}

func TestParseProcesses_OfWhatKatoMayPrint_ReadsTheStates(t *testing.T) {
	want := map[string]string{"mysql": "stopped", "mysql_node": "running", "fence": "fatal"}
	for name, out := range map[string]string{
		"JSON":                         `{"mysql": "STOPPED", "mysql_node": "RUNNING", "fence": "FATAL"}`,
		"the Cloud Controller's form":  `{"10.0.0.5": {"mysql": "STOPPED", "mysql_node": "RUNNING", "fence": "FATAL"}}`,
		"JSON after a stray line":      "WARNING: something\n{\"mysql\": \"STOPPED\", \"mysql_node\": \"RUNNING\", \"fence\": \"FATAL\"}\n",
		"text":                         "mysql    STOPPED\nmysql_node    RUNNING\nfence FATAL\n",
		"coloured text and stray ones": "\x1b[1mmysql\x1b[0m    STOPPED\nall is well\nmysql_node    RUNNING\nfence FATAL\n",
	} {
		got, err := ParseProcesses([]byte(out))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	for _, out := range []string{"", "{}", "nothing to see", `{"mysql": 3}`} {
		if got, err := ParseProcesses([]byte(out)); err == nil {
			t.Errorf("%q was read as %v", out, got)
		}
	}
}
