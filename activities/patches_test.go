package activities

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
	for _, shell := range [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(shell[0]); err != nil {
			t.Logf("%s is not installed: not tried", shell[0])
			continue
		}
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
