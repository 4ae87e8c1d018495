package view

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

func archiveRows() []operation.Archive {
	sound := &operation.ArchiveVerification{At: "2026-11-22T04:10:00Z", OK: true, Bytes: 13 << 30, Who: "schedule verify"}
	return []operation.Archive{
		{Operation: "nightly-20261122t020000z", Cluster: "prod", Complete: true, StartedAt: "2026-11-22T02:00:07Z", EndedAt: "2026-11-22T02:31:00Z", Mode: "cluster", Node: "fs-1",
			RequestedBy: "schedule nightly", Size: 13 << 30, StoredSize: 13<<30 + 4096, Encrypted: true, Verified: sound,
			Rehearsed: &operation.ArchiveRehearsal{At: "2026-11-22T09:40:00Z", OK: true, Operation: "rehearsal-20261122t090000z", Cluster: "scratch", AppsRunning: 29, PlatformVersion: "1.2",
				Who: "schedule rehearsal"}},
		{Operation: "20261121-104756-k3f9qa", Cluster: "prod", Complete: true, StartedAt: "2026-11-21T10:47:56Z", EndedAt: "2026-11-21T10:48:00Z", Mode: "only-this-node", Node: "core",
			RequestedBy: "ada@desk", Include: []string{"mysql", "postgresql"}, Size: 150 << 20, StoredSize: 150 << 20,
			Verified: &operation.ArchiveVerification{At: "2026-11-21T12:00:00Z", Problem: "part 2 of 19 is not what was written"}},
		{Operation: "nightly-20261120t020000z", Cluster: "prod", Complete: true, StartedAt: "2026-11-20T02:00:05Z", EndedAt: "2026-11-20T02:31:00Z", Mode: "cluster", Node: "fs-1",
			RequestedBy: "schedule nightly", Exclude: []string{"droplets"}, Size: 999, StoredSize: 999,
			Rehearsed: &operation.ArchiveRehearsal{At: "2026-11-20T09:40:00Z", Problem: "1 app of 29 not running, such as acme/live/shop: it crashes", Operation: "op-9", Cluster: "scratch", AppsRunning: 28,
				AppsFailed: 1, Who: "ada@desk"}},
	}
}

func archiveDetails() operation.ArchiveDetails {
	return operation.ArchiveDetails{Archive: archiveRows()[0], Bucket: "archives", Key: "als/prod/nightly--20261122t020000z/export.tgz", ManifestKey: "als/prod/nightly--20261122t020000z/manifest.json",
		SHA256: strings.Repeat("ab", 32), Checksum: "q80=-1664", Parts: 1664, PartSize: 8 << 20, Recipients: []string{"age1one", "age1two"},
		Lock: &operation.ArchiveLock{Mode: "GOVERNANCE", Until: "2026-12-22T02:00:07Z"}, Platform: "als", PlatformVersion: "1.2", KatoVersion: "3.4.2", ExportFile: "export.tgz",
		Nodes: []operation.PlannedNode{{Name: "core", Roles: []string{"primary", "controller"}}, {Name: "fs-1", Roles: []string{"filesystem"}}}, MoreNodes: 3,
		Content: &operation.ArchiveContent{Orgs: 1, Spaces: 2, Apps: 30, AppsStarted: 29, Instances: 61, Services: 1, MoreApps: 29,
			AppList:     []operation.ArchivedApp{{Org: "acme", Space: "live", Name: "shop", State: "STARTED", Instances: 3, Buildpack: "ruby"}},
			ServiceList: []operation.ArchivedService{{Org: "acme", Space: "live", Name: "db", Service: "mysql", Plan: "free"}}}}
}

func pruneReport() *operation.Report {
	rows := archiveRows()
	return &operation.Report{OperationID: "prune-20261122t060000z", Kind: operation.KindBackupPrune, Cluster: "prod", Phase: operation.PhaseFailed, RequestedBy: "schedule prune",
		StartedAt: at(-1), EndedAt: at(0), Message: "1 archive could not be deleted; 0 archives deleted, 3 kept",
		Failure: &operation.Failure{Type: operation.ErrArchive, Message: "1 archive could not be deleted; 0 archives deleted, 3 kept", Problems: []string{"20261121-104756-k3f9qa: access denied"}},
		Catalog: &operation.CatalogReport{Bucket: "archives", Prefix: "als/", Prune: &operation.PruneReport{
			Retention: operation.Retention{KeepLast: 1, KeepMonthly: 12, TimeZone: "Europe/Paris"},
			Keep:      []operation.KeptArchive{{Archive: rows[0], Reasons: []string{"last", "monthly 2026-11", "last verified"}}}, MoreKept: 2,
			Delete: []operation.PrunedArchive{{Archive: rows[2], Outcome: operation.PruneLocked, Problem: "object lock: COMPLIANCE until 2026-12-20T02:00:05Z"},
				{Archive: rows[1], Outcome: operation.PruneFailed, Problem: "access denied"}}, MoreDeleted: 4,
			Uploads: []operation.LeftoverUpload{{Operation: "20261119-104756-aaaaaa", Begun: "2026-11-19T10:47:56Z"}}, MoreUploads: 1,
		}}}
}

func TestArchives_EveryState_MatchesItsGoldenFile(t *testing.T) {
	list := &operation.ArchiveList{Bucket: "archives", Prefix: "als", Archives: archiveRows(), More: 12,
		Incomplete:     []operation.Archive{{Operation: "nightly-20261119t020000z", Reason: "the transfer has not ended"}, {Operation: "x", StartedAt: "2026-11-01T00:00:00Z", StoredSize: 5 << 40, Reason: "the object's checksum is another one"}},
		MoreIncomplete: 1}
	golden(t, "archives", Archives("prod", list, true, Style{}))
	golden(t, "archives-narrow-color", Archives("prod", list, false, Style{Color: true, Width: 90}))
	golden(t, "archives-none", Archives("prod", &operation.ArchiveList{Bucket: "archives"}, true, Style{}))
	d := archiveDetails()
	d.LastProven = true
	golden(t, "archive", ArchiveDetails(&d, Style{}))
	golden(t, "archive-not-proven", ArchiveDetails(&operation.ArchiveDetails{Archive: archiveRows()[2], Bucket: "archives"}, Style{Color: true}))
	golden(t, "archive-broken", ArchiveDetails(&operation.ArchiveDetails{Archive: operation.Archive{Operation: "x", Cluster: "prod", Reason: "the manifest is missing", StoredSize: 77},
		Bucket: "archives", Key: "prod/x/export.tgz", ManifestKey: "prod/x/manifest.json"}, Style{Color: true}))
	golden(t, "report-prune", Report(pruneReport(), now, Style{}))
	verified := pruneReport()
	verified.Catalog.Prune, verified.Failure, verified.Phase, verified.Message = nil, nil, operation.PhaseDone, "archive nightly-20261122t020000z is as it was written"
	verified.Catalog.Archive, verified.Catalog.Verification = &archiveRows()[0], archiveRows()[0].Verified
	golden(t, "report-verified", Report(verified, now, Style{Width: 80}))
}

func TestArchives_HostileText_ReachesNoTerminal(t *testing.T) {
	const evil = "\x1b[2J\x1b]0;owned\x07\u009b31m\u202egnp\r\n\xff"
	a := operation.Archive{Operation: evil, Cluster: evil, Reason: evil, StartedAt: evil, EndedAt: evil, Mode: evil, Include: []string{evil}, Exclude: []string{evil}, Node: evil, RequestedBy: evil,
		Verified:  &operation.ArchiveVerification{At: evil, Problem: evil, SHA256: evil, Who: evil},
		Rehearsed: &operation.ArchiveRehearsal{At: evil, Problem: evil, Operation: evil, Cluster: evil, KatoVersion: evil, PlatformVersion: evil, Who: evil}}
	list := &operation.ArchiveList{Bucket: evil, Prefix: evil, Archives: []operation.Archive{a}, Incomplete: []operation.Archive{a}}
	d := operation.ArchiveDetails{Archive: a, Bucket: evil, Key: evil, ManifestKey: evil, SHA256: evil, Checksum: evil, Recipients: []string{evil}, Lock: &operation.ArchiveLock{Mode: evil, Until: evil},
		Platform: evil, PlatformVersion: evil, KatoVersion: evil, ExportFile: evil, Nodes: []operation.PlannedNode{{Name: evil, Roles: []string{evil}}},
		Content: &operation.ArchiveContent{AppList: []operation.ArchivedApp{{Org: evil, Space: evil, Name: evil, State: evil, Buildpack: evil}},
			ServiceList: []operation.ArchivedService{{Org: evil, Space: evil, Name: evil, Service: evil, Plan: evil}}}}
	r := &operation.Report{Restore: &operation.Restored{Rehearsal: a.Rehearsed}, Catalog: &operation.CatalogReport{Bucket: evil, Prefix: evil, Archive: &a, Verification: a.Verified, Prune: &operation.PruneReport{Retention: operation.Retention{TimeZone: evil},
		Keep: []operation.KeptArchive{{Archive: a, Reasons: []string{evil}}}, Delete: []operation.PrunedArchive{{Archive: a, Outcome: evil, Problem: evil}},
		Uploads: []operation.LeftoverUpload{{Operation: evil, Begun: evil}}}}}
	ok := a
	ok.Verified = &operation.ArchiveVerification{At: evil, OK: true, Who: evil}
	for _, text := range []string{Archives(evil, list, true, Style{}), Archives(evil, list, false, Style{}), ArchiveDetails(&d, Style{}), ArchiveDetails(&operation.ArchiveDetails{Archive: ok}, Style{}),
		Report(r, now, Style{}), Transfer(evil, 1, 2, 0, time.Second, Style{})} {
		require.False(t, strings.ContainsAny(text, "\x1b\x07\r\u009b\u202e"), "%q", text)
		require.True(t, strings.HasPrefix(strings.ToValidUTF8(text, "?"), text), "%q", text)
	}
}

func TestTransfer_OnItsWay_SaysHowFarAndHowLong(t *testing.T) {
	for want, row := range map[string]struct {
		done, total, from int64
		elapsed           time.Duration
	}{
		"x [------------------------]   0%  0 B of 10 MiB":                              {0, 10 << 20, 0, 0},
		"x [############------------]  50%  5 MiB of 10 MiB  1 MiB/s  about 5s left":    {5 << 20, 10 << 20, 0, 5 * time.Second},
		"x [############------------]  50%  5 MiB of 10 MiB  512 KiB/s  about 10s left": {5 << 20, 10 << 20, 4 << 20, 2 * time.Second},
		"x [########################] 100%  10 MiB of 10 MiB  2 MiB/s":                  {10 << 20, 10 << 20, 0, 5 * time.Second},
		"x [########################] 100%  0 B of 0 B":                                 {0, 0, 0, time.Second},
		"x [########################] 100%  20 MiB of 10 MiB  20 MiB/s":                 {20 << 20, 10 << 20, 0, time.Second},
	} {
		require.Equal(t, want, Transfer("x", row.done, row.total, row.from, row.elapsed, Style{}))
	}
	require.Len(t, Transfer("x", 1, 2, 0, 0, Style{Width: 30}), len("x [############------------]…")+1)
}

func TestSize_Bytes_AreForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1 MiB", 10<<30 + 300<<20: "10.3 GiB", 250 << 40: "250 TiB", 1 << 62: "4096 PiB"} {
		require.Equal(t, want, operation.Size(n))
	}
}
