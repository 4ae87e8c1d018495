package view

import (
	"testing"

	"github.com/katoflow/katoflow/internal/operation"
)

func clusterState() operation.ClusterStatus {
	rows := archiveRows()
	return operation.ClusterStatus{Cluster: "prod", Platform: "als", At: at(0), Holder: operation.WorkflowID("prod", operation.KindSecurityUpgrade, "20261122-104756-k3f9qa"),
		Backup: &rows[0], Rehearsal: &rows[0], Snapshot: &operation.SnapshotSummary{Set: "weekly-20261121t220000z", TakenAt: "2026-11-21T22:04:00Z", Quiesce: []operation.Quiesce{"roles-stopped", "maintenance"}},
		Nodes: []operation.NodeStatus{
			{Node: "core", Roles: []string{"primary", "controller"}, System: "Ubuntu 12.04.5 LTS", Kernel: "3.2.0-126-virtual", BootedAt: "2026-11-01T08:00:00Z", PatchedAt: "2026-11-01T07:50:00Z"},
			{Node: "dea-1", Roles: []string{"dea"}, System: "Ubuntu 12.04.5 LTS", Kernel: "3.2.0-100-virtual", BootedAt: "2026-03-01T08:00:00Z", Pending: 41, Security: 17, Held: []string{"docker.io", "linux-image"},
				RebootRequired: true, Warnings: []string{"its package lists are 40 days old: more may be pending than they say"}},
			{Node: "mysql-1", Roles: []string{"mysql"}, System: "Debian GNU/Linux 12 (bookworm)", Kernel: "6.1.0-37-amd64", Container: "systemd-nspawn", Pending: -1, Security: -1,
				Warnings: []string{"apt-get cannot plan an upgrade: E: dpkg was interrupted"},
				Storage:  []string{"services keep their data on the root volume (/var/stackato/services): give it a volume of its own that outlives the VM, and relocate it there"}},
			{Node: "fs-1", Roles: []string{"filesystem"}, Problem: "cannot connect: \x1b[31mno route to host"},
		}}
}

func TestStatus_EveryState_MatchesItsGoldenFile(t *testing.T) {
	state := clusterState()
	golden(t, "status", Status(&state, parseTime(at(0)), Style{}))
	golden(t, "status-narrow-color", Status(&state, parseTime(at(0)), Style{Color: true, Width: 100}))
	plain := operation.ClusterStatus{Cluster: "web", Platform: "plain", Nodes: []operation.NodeStatus{{Node: "a", System: "Debian GNU/Linux 12 (bookworm)", Kernel: "6.1.0-37-amd64"}},
		Unknown: []string{"archives: cluster web has no bucket", "sets of snapshots: cluster web has no bucket"}}
	golden(t, "status-plain", Status(&plain, parseTime(at(0)), Style{}))
	empty := operation.ClusterStatus{Cluster: "new", Platform: "als", Nodes: plain.Nodes}
	golden(t, "status-nothing-to-go-back-to", Status(&empty, parseTime(at(0)), Style{}))
}
