package remote

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/deploy"
)

func TestFreezeProgram_Text_IsInTheSubsetAndOfTheVersion(t *testing.T) {
	require.Empty(t, lint("katoflow-freeze", deploy.FreezeProgram))
	require.Contains(t, deploy.FreezeProgram, "\nversion="+freezeVersion+"\n")
}

// The program with a stub in the place of fsfreeze, and the system's files in a folder: what is frozen is a file of that folder.
func TestFreezeProgram_Thaw_EndOfInputAndDeadline_LeaveNothingFrozen(t *testing.T) {
	for _, shell := range shells {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Skipf("%s is not installed here", shell)
		}
		for by, input := range map[string]string{"thaw": "sleep 0.3; echo thaw; sleep 1", "gone": "sleep 0.3", "deadline": "sleep 7"} {
			t.Run(shell+" "+by, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				write := func(name, text string) {
					require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
				}
				require.NoError(t, os.Symlink(path, filepath.Join(dir, "sh")))
				write("fsfreeze", "#!/bin/sh\ncase $1 in\n-f) mkdir "+dir+"/frozen || exit 1 ;;\n-u) rmdir "+dir+"/frozen 2>/dev/null || { echo 'Invalid argument' >&2; exit 1; } ;;\nesac\n")
				write("mountinfo", "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / "+dir+"/run rw - tmpfs tmpfs rw\n3 1 8:2 / /srv rw - ext4 /dev/b rw\n4 1 0:6 / /dev rw - tmpfs dev rw\n5 1 0:7 / /proc rw - proc proc rw\n")
				text := strings.NewReplacer("PATH=", "PATH="+dir+":", "/run/katoflow-freeze mounts=/proc/self/mountinfo", dir+"/run/katoflow-freeze mounts="+dir+"/mountinfo", "sync -f", "true").
					Replace(deploy.FreezeProgram)
				write("program", text)
				out, err := exec.Command("sh", "-c", "{ "+input+"; } | "+dir+"/sh "+dir+"/program freeze a 5 /srv").CombinedOutput()
				require.NoError(t, err, "%s", out)
				var record freezeRecord
				_, _ = record.Write(out)
				state := record.snapshot()
				require.True(t, state.Ended, "%s", out)
				require.Equal(t, FreezeEndBy(by), state.By)
				require.True(t, state.ThawedAt.After(state.FrozenAt))
				require.NoDirExists(t, filepath.Join(dir, "frozen"))
			})
		}
	}
}
