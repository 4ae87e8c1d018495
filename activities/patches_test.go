package activities

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
)

// aKatoStub is a kato that says which options it got, and reads its standard input to the end as one that asks does.
const aKatoStub = `#!/bin/sh
cat >/dev/null
echo "$*" >>"$HOME/said"
case "$*" in
*--help) printf '%s\n' "$KATO_HELP" ;;
"patch status "*--json*) echo '[]' ;;
"patch status "*--all*) printf '0 updates available to be installed.\n\nKnown updates:\n  a: b\n    severity: required' ;;
"patch status "*) echo '0 updates available to be installed.' ;;
"patch update "*) echo 'ERROR: no route'; exit 3 ;;
esac
`

// The script is run by this machine's shells, with a kato of each generation (kato.md §0.1).
func TestPatchesScript_EveryShellAndGeneration_AsksWhatThatHas(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "kato")
	require.NoError(t, os.WriteFile(path, []byte(aKatoStub), 0o700))
	for _, shell := range shellsToTry(t) {
		t.Run(shell[0], func(t *testing.T) {
			for _, c := range []struct {
				help, fetch, form string
				said              []string
			}{
				{"[--local] [--json]", "1", "json", []string{"patch --help", "patch update --local", "patch status --local --all --json --quiet"}},
				{"[--local] [--json]", "0", "text", []string{"patch --help", "patch status --local --all", "patch status --local"}},
				{"[--only-this-node]", "1", "json", []string{"patch --help", "patch update --only-this-node"}},
				{"[--only-this-node]", "0", "text", []string{"patch --help", "patch status --only-this-node --all", "patch status --only-this-node"}},
				{"bash: kato: command not found", "1", "text", []string{"patch --help"}},
			} {
				require.NoError(t, os.WriteFile(filepath.Join(home, "said"), nil, 0o600))
				cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), "-c", patchesScript, "sh", "10", path, c.fetch, c.form)...)
				cmd.Env = append(os.Environ(), "HOME="+home, "SHELL=/bin/sh", "KATO_HELP="+c.help)
				out, err := cmd.Output()
				require.NoError(t, err)
				said, err := os.ReadFile(filepath.Join(home, "said"))
				require.NoError(t, err)
				require.Equal(t, strings.Join(c.said, "\n")+"\n", string(said))
				a := parseAnswer(out)
				require.True(t, a.complete, "%s", out)
				require.Equal(t, c.help+"\n", a.sections["help"])
				if c.fetch == "1" && len(c.said) > 1 {
					require.Equal(t, "ERROR: no route", failedWords(a, "fetch"))
				}
				if c.form == "text" && len(c.said) > 1 {
					require.Empty(t, failedWords(a, "all"))
					require.Contains(t, a.sections["all"], "severity: required")
					require.Contains(t, a.sections["open"], "0 updates")
				}
			}
		})
	}
}

func TestWaitsFor_AQuestionAtTheEnd(t *testing.T) {
	for out, want := range map[string]string{
		"Patching\nstackato@10.0.0.3's password: ":                `: it asks "stackato@10.0.0.3's password:", and nobody is there to answer`,
		"Are you sure you want to continue connecting (yes/no)? ": `: it asks "Are you sure you want to continue connecting (yes/no)?", and nobody is there to answer`,
		"Continue [y/n]": `: it asks "Continue [y/n]", and nobody is there to answer`,
		"stackato@10.0.0.3's password: \n-----> Patching node: x\n": "",
		"":                  "",
		"-----> Patching\n": "",
	} {
		require.Equal(t, want, waitsFor(out), out)
	}
}

func patchesOn(b *bench) *Patches { return &Patches{Nodes: b.nodes} }

func change(b *bench, node string, action operation.PatchAction, patch string) PatchInput {
	return PatchInput{NodeInput: b.input(node), Change: operation.PatchInput{Action: action, Patch: patch}}
}

func TestPatchesStatus_NodesThatCannotSay_AreNamedAndTheOthersAreThere(t *testing.T) {
	b := start(t, alsConfig(), "kato: {timeout: 2s}")
	b.node("dea-1").FailCommand("kato patch update", -1, 1, "ERROR: Could not fetch the patch manifest from http://get.example.com: no route")
	b.node("dea-2").FailCommand("kato patch --help", -1, 127, "kato: command not found")
	out := must[PatchesResult](t)(run(t, patchesOn(b).PatchesStatus, PatchesInput{Cluster: b.op.Cluster, Nodes: []string{"core", "dea-1", "dea-2"}, Fetch: true}, attemptOptions{}))
	require.Equal(t, []string{"dea-1", "dea-2"}, out.Unasked)
	require.Contains(t, out.Problems[0], "dea-1: the list of patches cannot be fetched: ERROR: Could not fetch the patch manifest from http://get.example.com: no route; where the network has a proxy, tell kato there: kato op upstream_proxy set HOST:PORT")
	require.Contains(t, out.Problems[1], "dea-2: kato patch --help does not tell its options: kato: command not found")
	require.Equal(t, []string{"log-stream-reconnect", "vsphere-autoscaling-fix"}, []string{out.Patches[0].Name, out.Patches[1].Name})

	// A dry run fetches nothing, so that what cannot be fetched is no matter.
	out = must[PatchesResult](t)(run(t, patchesOn(b).PatchesStatus, PatchesInput{Cluster: b.op.Cluster, Nodes: []string{"dea-1"}}, attemptOptions{}))
	require.Empty(t, out.Problems)
}

func TestPatchesStatus_KatoHangsOrCannotFetchByItself_IsTold(t *testing.T) {
	b := start(t, alsConfig(), "kato: {timeout: 1s}")
	b.node("dea-1").HangCommand("kato patch update", -1)
	b.node("dea-2").FailCommand("kato patch update", -1, 1, "Usage:\n  kato patch status [options]")
	b.node("core").FailCommand("kato patch status", -1, 0, "ERROR: no manifest")
	out := must[PatchesResult](t)(run(t, patchesOn(b).PatchesStatus, PatchesInput{Cluster: b.op.Cluster, Nodes: []string{"core", "dea-1", "dea-2"}, Fetch: true}, attemptOptions{}))
	require.Equal(t, []string{"core", "dea-1"}, out.Unasked, "%v", out.Problems)
	require.Contains(t, out.Problems[0], "core: kato patch status: ERROR: no manifest")
	require.Contains(t, out.Problems[1], "dea-1: the list of patches cannot be fetched: kato did not answer in time")
	require.Equal(t, []string{"dea-2"}, out.Unfetched)
}

func TestChangePatches_DoneOnce_AndTakenUpAgain(t *testing.T) {
	b := start(t, alsConfig(), "")
	x := patchesOn(b)
	in := change(b, "dea-1", operation.PatchInstall, "")
	found := must[operation.PatchProgress](t)(run(t, x.LookAtPatches, in, attemptOptions{}))
	require.Equal(t, []string{"dea-memory-usage-reporting", "log-stream-reconnect"}, found.Wanted)
	require.Equal(t, []string{"dea", "base"}, found.Roles)
	for range 2 {
		out := must[JobResult](t)(run(t, x.ChangePatches, ChangePatchesInput{PatchInput: in, Progress: found, Timeout: operation.Duration(time.Minute)}, attemptOptions{}))
		require.True(t, out.Started)
	}
	b.wantRuns("dea-1", "kato patch install --local", 1)
	require.Empty(t, must[operation.PatchProgress](t)(run(t, x.LookAtPatches, in, attemptOptions{})).Wanted)
	in.Change.Action = operation.PatchRevert
	require.Equal(t, found.Wanted, must[operation.PatchProgress](t)(run(t, x.LookAtPatches, in, attemptOptions{})).Wanted)
}

func TestChangePatches_KatoSaysWhatItDidNotDo_IsVerify(t *testing.T) {
	b := start(t, alsConfig(), "")
	x := patchesOn(b)
	b.node("dea-1").FailCommand("kato patch install", 1, 0, "-----> Patching node\n       dea-memory-usage-reporting...   ok")
	in := ChangePatchesInput{PatchInput: change(b, "dea-1", operation.PatchInstall, "dea-memory-usage-reporting"), Timeout: operation.Duration(time.Minute),
		Progress: operation.PatchProgress{Wanted: []string{"dea-memory-usage-reporting"}}}
	_, err := run(t, x.ChangePatches, in, attemptOptions{})
	wantFailure(t, err, operation.ErrVerify, false, "kato patch install ended well, and dea-memory-usage-reporting not installed")
	in.JobTry = 2
	must[JobResult](t)(run(t, x.ChangePatches, in, attemptOptions{}))

	// What is so by now is not done again, as when the answer of the try before was lost.
	in.JobTry = 4
	require.Contains(t, must[JobResult](t)(run(t, x.ChangePatches, in, attemptOptions{})).Notes, "it was so by then: kato patch was not run again")
	b.wantRuns("dea-1", "kato patch install", 2)
	in.Progress.Roles = []string{"dea", "base"}
	for range 2 {
		must[JobResult](t)(run(t, x.RestartRoles, in, attemptOptions{}))
	}
	b.wantRuns("dea-1", "kato restart dea base", 1)
	b.node("dea-1").FailCommand("kato restart", 1, 0, "ERROR: no such role")
	in.JobTry = 6
	_, err = run(t, x.RestartRoles, in, attemptOptions{})
	wantFailure(t, err, operation.ErrVerify, false, "kato restart ended well and said: ERROR: no such role")

	// Of what was there before its being there is no proof.
	b.node("dea-1").FailCommand("kato patch reinstall", 1, 0, "ERROR: could not be applied")
	in.Change.Action, in.JobTry = operation.PatchReinstall, 5
	_, err = run(t, x.ChangePatches, in, attemptOptions{})
	wantFailure(t, err, operation.ErrVerify, false, "kato patch reinstall ended well and said: ERROR: could not be applied")
}

func TestUndone_WhatKatoDoesNotNameAnyMore_IsNotDone(t *testing.T) {
	now := []kato.NodePatch{{Patch: kato.Patch{Name: "a"}, Installed: true}, {Patch: kato.Patch{Name: "b"}}}
	require.Empty(t, undone(operation.PatchInstall, []string{"a"}, now))
	require.Empty(t, undone(operation.PatchRevert, []string{"b"}, now))
	require.Equal(t, []string{"b not installed", "c not named by kato patch status any more"}, undone(operation.PatchInstall, []string{"a", "b", "c"}, now))
	require.Equal(t, []string{"a still installed", "c not named by kato patch status any more"}, undone(operation.PatchRevert, []string{"a", "b", "c"}, now))
	require.Len(t, undone(operation.PatchInstall, []string{"a"}, nil), 1)
}

func TestPatchesPlan_IsWhatIsRun(t *testing.T) {
	b := start(t, alsConfig(), "")
	out := must[PlanCommandsResult](t)(run(t, patchesOn(b).PlanPatches, PlanPatchesInput{Operation: b.op, Nodes: []operation.PlannedNode{{Name: "core"}, {Name: "dea-1"}, {Name: "dea-2"}},
		Change: operation.PatchInput{Action: operation.PatchInstall, Patch: "a", NoRestart: true}, OnlyThisNode: []string{"dea-2"}}, attemptOptions{}))
	require.Len(t, out.Plans, 2)
	require.Equal(t, []string{"core", "dea-1"}, out.Plans[0].Nodes)
	require.Contains(t, out.Plans[0].Commands[0].Command, "kato patch install --local --no-restart a")
	require.Contains(t, out.Plans[1].Commands[0].Command, "kato patch install --only-this-node --no-restart a")
	b.wantRuns("core", "kato", 0)
}
