package view

import (
	"strings"
	"testing"

	"github.com/katoflow/katoflow/internal/operation"
)

func TestPatchStatus_SaysWhatIsMissingAndWhoDidNotSay(t *testing.T) {
	fix := operation.Patch{Name: "dea-fix", Severity: "required", Roles: []string{"dea"}, Description: "Fixes \x1b[2Jit.", Installed: []string{"dea-1"}, InstalledCount: 1}
	open := fix
	open.Missing, open.MissingCount = []string{"dea-2", "dea-3"}, 12
	for name, c := range map[string]struct {
		p    operation.PatchStatus
		want []string
		not  string
	}{
		"missing":            {operation.PatchStatus{Cluster: "prod", Nodes: 5, Patches: []operation.Patch{open}}, []string{"prod, 5 nodes: 1 patch, 1 to be installed", "1 of 13", "dea-2, dea-3 and 10 more", "dea-fix: Fixes "}, "\x1b"},
		"everywhere":         {operation.PatchStatus{Cluster: "prod", Nodes: 5, Patches: []operation.Patch{fix}}, []string{"1 patch, installed everywhere", "1 of 1"}, "did not say"},
		"some did not say":   {operation.PatchStatus{Cluster: "prod", Nodes: 5, Patches: []operation.Patch{fix}, Problems: []string{"dea-2: away"}}, []string{"1 patch, 1 node did not say", "dea-2: away"}, "everywhere"},
		"nobody has said it": {operation.PatchStatus{Cluster: "prod", Nodes: 1, Problems: []string{"dea-2: away"}}, []string{"patches not known, 1 node did not say"}, "no patches"},
		"none":               {operation.PatchStatus{Cluster: "prod", Nodes: 1}, []string{"no patches"}, "PATCH"},
	} {
		t.Run(name, func(t *testing.T) {
			got := PatchStatus(&c.p, Style{})
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("%q is not in\n%s", w, got)
				}
			}
			if strings.Contains(got, c.not) {
				t.Errorf("%q is in\n%s", c.not, got)
			}
		})
	}
}

func TestReport_OfPatches_TellsTheOneThatWasMeant(t *testing.T) {
	r := operation.Report{Kind: operation.KindPatchInstall, Patches: &operation.PatchReport{Action: operation.PatchInstall, Patch: "a", AsFound: true,
		Patches: []operation.Patch{{Name: "a", InstalledCount: 2}, {Name: "b", MissingCount: 1, Missing: []string{"n"}}}},
		Nodes: []operation.NodeReport{{Name: "n", Status: operation.NodeDone, NodeProgress: operation.NodeProgress{Patches: &operation.PatchProgress{Wanted: []string{"a"}}}}}}
	got := patched(&r, Style{})
	if !strings.Contains(got, "2 of 2") || strings.Contains(got, "0 of 1") || !strings.Contains(got, "as found before the first node") {
		t.Error(got)
	}
	if note := fullNote(&r.Nodes[0]); note != "a" {
		t.Error(note)
	}
}
