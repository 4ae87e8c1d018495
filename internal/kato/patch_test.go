package kato

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the source page shows, and what Stackato 3.4.2 prints (kato.md §3.6).
const (
	patchesALS = `2 updates available to be installed.

Known updates:
  dea-memory-usage-reporting: Fix the reporting of helion stats usage on the DEA end.
    severity: required
    roles affected: dea

  vsphere-autoscaling-fix: Fix VSphere autoscaling behavior.
    severity: required
    roles affected: controller, primary
`
	patchesStackato = `1 updates are available for 3.4.2.

  dea-memory-usage-reporting: Fix the reporting: of stats.
    patch id: 7
    severity: required
    roles affected: dea
    installed on: 10.0.0.2
    to be installed on: 10.0.0.3, 10.0.0.4

  vsphere-autoscaling-fix: Fix VSphere autoscaling behavior.
    patch id: 9
    roles affected: controller, primary
    installed on: 10.0.0.1
    to be installed on: none
`
	patchesAsJSON = `Checking for updates...
[{"id": 7, "name": "dea-memory-usage-reporting", "description": "Fix the reporting: of stats.", "severity": "required", "roles_affected": ["dea"],
  "installed_on": ["10.0.0.2"], "to_be_installed_on": ["10.0.0.3", "10.0.0.4"]},
 {"id": "9", "name": "vsphere-autoscaling-fix", "description": "Fix VSphere autoscaling behavior.", "roles": "controller, primary", "installed_on": "10.0.0.1", "to_be_installed_on": "none"}]
`
)

func TestParsePatches_EveryForm_IsRead(t *testing.T) {
	als := []Patch{{Name: "dea-memory-usage-reporting", Description: "Fix the reporting of helion stats usage on the DEA end.", Severity: "required", Roles: []string{"dea"}},
		{Name: "vsphere-autoscaling-fix", Description: "Fix VSphere autoscaling behavior.", Severity: "required", Roles: []string{"controller", "primary"}}}
	told := []Patch{{Name: "dea-memory-usage-reporting", ID: "7", Description: "Fix the reporting: of stats.", Severity: "required", Roles: []string{"dea"}, Installed: []string{"10.0.0.2"},
		Missing: []string{"10.0.0.3", "10.0.0.4"}, Told: true},
		{Name: "vsphere-autoscaling-fix", ID: "9", Description: "Fix VSphere autoscaling behavior.", Roles: []string{"controller", "primary"}, Installed: []string{"10.0.0.1"}, Told: true}}
	for name, c := range map[string]struct {
		out  string
		want Patches
	}{
		"ALS":                 {patchesALS, Patches{Available: 2, List: als}},
		"ALS, coloured":       {"Warning: noise: x\r\n" + strings.ReplaceAll(patchesALS, "dea-memory", "\x1b[32mdea-memory") + "\x1b[0m", Patches{Available: 2, List: als}},
		"ALS, with a product": {strings.Replace(patchesALS, "Known updates:", "Known updates for Helion 1.0:", 1), Patches{Available: 2, List: als}},
		"one":                 {"1 update available to be installed.\n\nKnown updates:\n  a.b+c_1: x\n    severity: required\n", Patches{Available: 1, List: []Patch{{Name: "a.b+c_1", Description: "x", Severity: "required"}}}},
		"none":                {"0 updates available to be installed.\n", Patches{}},
		"Stackato":            {patchesStackato, Patches{Available: 1, List: told}},
		"JSON":                {patchesAsJSON, Patches{Available: -1, List: told}},
		"JSON, empty":         {"[]\n", Patches{Available: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParsePatches([]byte(c.out))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for _, out := range []string{"", "ERROR: Could not fetch the manifest\n", "Usage:\n  kato patch status [options]\n", "3 updates available to be installed.\n\nKnown updates:\n  a: x\n",
		"1 update available to be installed.\n  --force: x\n", `[{"id": 7}]`, `[1, 2]`, "[sudo] password for stackato: "} {
		if got, err := ParsePatches([]byte(out)); err == nil {
			t.Errorf("%q was read as %+v", out, got)
		}
	}
}

func TestParsePatchHelp_Generations(t *testing.T) {
	for out, want := range map[string]PatchDialect{
		"kato patch install [-l|--local] [--json]":           {},
		"  -n --only-this-node   Only this node\n  -q":       {OnlyThisNode: true, NoJSON: true},
		"  -l --local  this node\n  -a --all\n  -j --json  ": {},
		"  -l, --local  this node\n":                         {NoJSON: true},
	} {
		if got, err := ParsePatchHelp([]byte(out)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", out, got, err)
		}
	}
	if _, err := ParsePatchHelp([]byte("bash: kato: command not found")); err == nil {
		t.Error("no help was taken for one")
	}
}

func TestChangePatches_Argv(t *testing.T) {
	c := CLI{Path: "/kato"}
	for _, k := range []struct {
		d            PatchDialect
		action, name string
		no           bool
		want         string
	}{
		{PatchDialect{}, PatchInstall, "", false, "/kato patch install --local"},
		{PatchDialect{}, PatchInstall, "a", true, "/kato patch install --local --no-restart a"},
		{PatchDialect{OnlyThisNode: true}, PatchRevert, "a", false, "/kato patch revert --only-this-node a"},
	} {
		if got := strings.Join(c.ChangePatches(k.d, k.action, k.name, k.no), " "); got != k.want {
			t.Errorf("got %s, want %s", got, k.want)
		}
	}
	for _, name := range []string{"", "-a", "--all", "a b", "a;b", strings.Repeat("a", 200), "a\n"} {
		if CheckPatchName(name) == nil {
			t.Errorf("%q is a name of a patch", name)
		}
	}
}

func TestOnNode_BothWays_SayWhatIsInstalledThere(t *testing.T) {
	told, err := ParsePatches([]byte(patchesStackato))
	if err != nil {
		t.Fatal(err)
	}
	all, err := ParsePatches([]byte(patchesALS))
	if err != nil {
		t.Fatal(err)
	}
	open := Patches{Available: 1, List: all.List[1:]}
	state := func(id string, roles []string, all, open Patches) string {
		list, err := OnNode(id, roles, all, open)
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, p := range list {
			out = append(out, map[bool]string{true: "+", false: "-"}[p.Installed]+p.Name)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ got, want string }{
		{state("10.0.0.2", []string{"dea"}, told, Patches{}), "+dea-memory-usage-reporting"},
		{state("10.0.0.3", []string{"dea"}, told, Patches{}), "-dea-memory-usage-reporting"},
		{state("10.0.0.1", []string{"primary"}, told, Patches{}), "+vsphere-autoscaling-fix"},
		{state("10.0.0.9", []string{"mysql"}, told, Patches{}), ""},
		{state("127.0.0.1", []string{"dea"}, told, Patches{}), "kato patch status does not name 127.0.0.1, the node's address, for dea-memory-usage-reporting, which is for one of its roles: write the address by which kato knows it"},
		{state("x", []string{"dea", "primary"}, all, open), "+dea-memory-usage-reporting -vsphere-autoscaling-fix"},
		{state("x", []string{"dea"}, all, Patches{}), "+dea-memory-usage-reporting"},
		{state("x", []string{"mysql"}, all, open), ""},
		{state("x", []string{"dea"}, Patches{}, open), "kato patch status names vsphere-autoscaling-fix only without --all"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func FuzzParsePatches(f *testing.F) {
	for _, s := range []string{patchesALS, patchesStackato, patchesAsJSON, "[]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, out string) {
		got, err := ParsePatches([]byte(out))
		if err != nil {
			return
		}
		for _, p := range got.List {
			if CheckPatchName(p.Name) != nil {
				t.Errorf("%q is no name", p.Name)
			}
		}
		if _, err := OnNode("10.0.0.1", []string{"dea"}, got, got); err != nil && !strings.Contains(err.Error(), "does not name") {
			t.Error(err)
		}
	})
}
