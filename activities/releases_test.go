package activities

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/internal/simcluster"
)

func TestReleaseFacts_Checklist_SaysWhatIsTooLittleAndWhatMayBeOverruled(t *testing.T) {
	t.Parallel()
	well := releaseFacts{version: "1.2.0", disk: 20 << 30, memory: 2 << 30}
	for name, c := range map[string]struct {
		change        func(f *releaseFacts)
		core, offline bool
		hard, soft    string
	}{
		"all well":           {func(*releaseFacts) {}, true, false, "", ""},
		"disk of a node":     {func(f *releaseFacts) { f.disk = 3 << 30 }, false, false, "", "an upgrade needs 4 GiB"},
		"disk of the Core":   {func(f *releaseFacts) { f.disk = 9 << 30 }, true, false, "", "an upgrade needs 10 GiB"},
		"memory of a node":   {func(f *releaseFacts) { f.memory = 500 << 20 }, false, false, "", "an upgrade needs 512 MiB"},
		"memory of the Core": {func(f *releaseFacts) { f.memory = 600 << 20 }, true, false, "", "an upgrade needs 1 GiB"},
		"not told":           {func(f *releaseFacts) { f.disk, f.memory = -1, -1 }, true, false, "", ""},
		"sudo asks":          {func(f *releaseFacts) { f.sudoAsks = true }, false, false, "NOPASSWD", ""},
		"not reached":        {func(f *releaseFacts) { f.unreached = []string{"https://a curl: (6)"} }, false, false, "https://a curl: (6) is not reached", ""},
		"offline":            {func(f *releaseFacts) { f.unreached = []string{"https://a curl: (6)"} }, false, true, "", ""},
		"kato gone":          {func(f *releaseFacts) { f.version, f.why = "", "sh: kato: not found" }, false, false, "bin/sentinel upgrade VERSION", ""},
		"kato silent":        {func(f *releaseFacts) { f.version, f.why = "", "kato did not answer in time" }, false, false, "kato did not answer in time", ""},
	} {
		f := well
		c.change(&f)
		hard, soft := f.problems(c.core, c.offline)
		for what, x := range map[string]struct {
			want string
			got  []string
		}{"hard": {c.hard, hard}, "soft": {c.soft, soft}} {
			if x.want == "" {
				require.Empty(t, x.got, name+" "+what)
				continue
			}
			require.Len(t, x.got, 1, name+" "+what)
			require.Contains(t, x.got[0], x.want, name)
		}
	}
}

func TestAsksToGoOn_OnlyTheConfirmationIsAnswered(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"Do you want to continue? [y/N] Aborted.\n": true, "INFO: x\nContinue (Y/n)?": true, "go on? (yes/no) ": true,
		"Validation failed. Roll back? [y/N] ": false, "Do you want to continue? [y/N] y\nRoll back now? [y/N]": false, "ERROR: no": false, "": false, "[sudo] password for stackato: ": false,
		"The inspection failed. Ignore that and continue? [y/N]": false, "Validation failed.\nRestore the previous version? (y/n)": false, "ERROR: x\nContinue? [y/N]": false, "Remove /s/old? [y/N]": false,
	} {
		require.Equal(t, want, asksToGoOn(text), text)
	}
}

func TestTellsToResume_TheUsageTextIsNoSuchWord(t *testing.T) {
	t.Parallel()
	require.True(t, tellsToResume("ERROR: The upgrade of 10.0.0.5 to 1.3.0 was interrupted. Run kato node upgrade --resume\n"))
	require.False(t, tellsToResume("Usage:\n  kato node upgrade [options]\n\nOptions:\n  --resume  go on\n"))
	require.False(t, tellsToResume("ERROR: no"))
}

func TestNodeUpgradeJob_EveryWay_IsAJobOfItsOwn(t *testing.T) {
	b := start(t, simcluster.Config{Nodes: clusterOf("core", "dea-1"), Platform: "als"}, "")
	s, err := b.nodes.Source.site(b.cluster.Name())
	require.NoError(t, err)
	in := ReleaseNodeInput{NodeInput: NodeInput{Operation: Operation{ID: "op-1", Token: 1}, Node: operation.PlannedNode{Name: "dea-1"}, JobTry: 1},
		Dialect: kato.UpgradeDialect{Cache: true, Offline: true, Resume: true, SkipConfirmation: true, Version: true}, To: "1.3.0", Cached: true}
	seen := map[string]bool{}
	for _, way := range []upgradeWay{{}, {answer: true}, {resume: true}, {resume: true, answer: true}} {
		spec := s.nodeUpgradeJob(in, "10.0.0.5", "10.0.0.1", way)
		require.False(t, seen[spec.ID.Dir()], spec.ID.Dir())
		seen[spec.ID.Dir()] = true
		line := remote.Quote(spec.Argv)
		require.Equal(t, way.answer, strings.Contains(line, "printf"))
		require.Equal(t, way.resume, strings.Contains(line, "--resume"))
		require.Contains(t, line, "--node 10.0.0.5 --version 1.3.0 --cache-ip 10.0.0.1")
		require.False(t, spec.Interruptible, "nobody knows what half an upgrade is")
	}
}

func TestNewMarks_OldOnesSayNothing(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"/b"}, newMarks([]string{"/a", "/b"}, []string{"/a"}))
	require.Empty(t, newMarks([]string{"/a"}, []string{"/a"}))
}
