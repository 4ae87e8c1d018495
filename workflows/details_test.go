package workflows

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden files (make golden)")

func sample(phase string) operation.Report {
	return operation.Report{OperationID: "op-1", WorkflowID: "op/prod/upgrade-security/op-1", Kind: operation.KindSecurityUpgrade, Cluster: "prod", Phase: phase,
		Nodes: []operation.NodeReport{
			{Name: "dea-1", Roles: []string{"dea"}, Status: operation.NodeDone, Step: operation.StepRecord, Try: 1,
				NodeProgress: operation.NodeProgress{ChangeCount: 3, Proof: &operation.BootProof{Kernel: "6.1.0-28-amd64, as the boot loader names it"}}},
			{Name: "core", Roles: []string{"primary", "controller"}, Status: operation.NodeRunning, Step: operation.StepUpgrade, Try: 1},
			{Name: "mysql-1", Roles: []string{"mysql"}, Status: operation.NodePending, Pending: 7},
		}}
}

func parked() operation.Report {
	r := sample(operation.PhaseBlocked)
	f := operation.Failure{Type: operation.ErrRemoteExit, Message: "core: unattended-upgrades exited 1", Tail: "E: Sub-process /usr/bin/dpkg returned an error code (1)"}
	r.Nodes[1].Status, r.Nodes[1].Failure = operation.NodeWaiting, &f
	r.Questions = []operation.Question{{Node: "core", Step: operation.StepUpgrade, Try: 1, Cause: f, Choices: []operation.Decision{operation.Retry, operation.Skip, operation.Abort}, AskedAt: "2026-11-22T03:00:00Z"}}
	r.Answers = []operation.Answer{{DecideRequest: operation.DecideRequest{Node: "dea-1", Step: "gates", Try: 1, Decision: operation.Retry, Who: "operator"}, At: "2026-11-22T02:00:00Z", By: "operator"}}
	r.BrokenBefore = []operation.GateFailure{{Node: "mysql-1", Check: "system: ntp.service failed"}}
	return r
}

func TestDetails_Golden(t *testing.T) {
	for name, report := range map[string]operation.Report{"running": sample(operation.PhaseRunning), "parked": parked(), "done": sample(operation.PhaseDone)} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", "details-"+name+".md")
			got := Details(&report)
			if *updateGolden {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}

func TestDetails_OfAnExport_HeadlineSaysStepSizeAndPlace(t *testing.T) {
	r := operation.Report{OperationID: "op-1", Kind: operation.KindBackup, Cluster: "prod", Phase: operation.PhaseRunning, Nodes: []operation.NodeReport{{Name: "fs-1", Status: operation.NodePending}}}
	headline := func() string {
		line, _, _ := strings.Cut(Details(&r), "\n")
		return line
	}
	require.Equal(t, "**backup-create** on **prod**: **running**, not begun", headline())
	r.Nodes[0].Status, r.Nodes[0].Step, r.Export = operation.NodeRunning, operation.StepTransfer, &operation.Exported{Size: 4 << 30}
	require.Equal(t, "**backup-create** on **prod**: **running**, step transfer, 4 GiB", headline())
	r.Phase, r.Nodes[0].Status, r.Export.Location = operation.PhaseDone, operation.NodeDone, "s3://archives/prod/op_1/export.tgz"
	require.Equal(t, `**backup-create** on **prod**: **done**, archived, 4 GiB in s3://archives/prod/op\_1/export.tgz`, headline())
}

func TestDetails_HostileText_StaysInsideItsCell(t *testing.T) {
	r := parked()
	r.Nodes[1].Failure.Message = "x | y | `z` <script>alert(1)</script>\n\n# heading\x1b[31m [link](javascript:x) **bold**"
	r.Questions[0].Cause.Message = r.Nodes[1].Failure.Message
	r.Questions[0].Cause.Tail = "```\n# out of the block\n```"
	got := Details(&r)
	require.NotContains(t, got, "<script")
	require.NotContains(t, got, "\x1b")
	require.NotContains(t, got, "\n# heading")
	require.NotContains(t, got, "[link](")
	for _, line := range strings.Split(got, "\n") {
		if strings.HasPrefix(line, "| core") {
			require.Equal(t, 7, strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"), line)
		}
	}
	require.Equal(t, 4, strings.Count(got, "```"), "the tail cannot leave its block")
}

func TestDetails_FiveHundredNodes_FitsTheWebUI(t *testing.T) {
	r := sample(operation.PhaseRunning)
	f := &operation.Failure{Message: strings.Repeat("long ", 300)}
	for i := range 500 {
		n := operation.NodeReport{Name: fmt.Sprintf("node-%03d.example.internal", i), Status: operation.NodePending}
		if i%3 == 0 {
			n.Status, n.Failure = operation.NodeSkipped, f
		}
		r.Nodes = append(r.Nodes, n)
	}
	got := Details(&r)
	require.LessOrEqual(t, len(got), maxDetails)
	require.Contains(t, got, "more:")
}
