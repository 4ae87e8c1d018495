package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

func TestBeatOf_StepOfAnExportAmongOthers_IsWhatItSays(t *testing.T) {
	pending := func(name, phase string) *workflowpb.PendingActivityInfo {
		details, err := converter.GetDefaultDataConverter().ToPayloads(activities.Beat{Phase: phase})
		require.NoError(t, err)
		return &workflowpb.PendingActivityInfo{ActivityType: &commonpb.ActivityType{Name: name}, HeartbeatDetails: details}
	}
	require.Equal(t, "1.2 GiB of 4 GiB sent", beatOf([]*workflowpb.PendingActivityInfo{pending("SignOfLife", "a sign"), pending("Transfer", "1.2 GiB of 4 GiB sent")}))
	require.Empty(t, beatOf([]*workflowpb.PendingActivityInfo{pending("SignOfLife", "a sign"), {ActivityType: &commonpb.ActivityType{Name: "Transfer"}}}))
}

func TestPlainDisplay_LongStepOfAnExport_IsToldOnceAMinute(t *testing.T) {
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	d := &plainDisplay{out: &out, now: func() time.Time { return now }}
	for _, sent := range []string{"1 GiB", "2 GiB", "3 GiB", "4 GiB"} {
		for range 40 { // seconds
			d.show(&operation.Report{Kind: operation.KindBackup, Phase: operation.PhaseRunning, Nodes: []operation.NodeReport{{Name: "fs-1", Status: operation.NodeRunning, Step: operation.StepTransfer, Try: 1,
				NodeProgress: operation.NodeProgress{Notes: []string{sent + " of 9 GiB sent"}}}}}, "")
			now = now.Add(time.Second)
		}
	}
	require.Equal(t, 2, strings.Count(out.String(), "of 9 GiB sent"), out.String())
	require.Contains(t, out.String(), "03:01:00 fs-1 transfer: 2 GiB of 9 GiB sent")
}
