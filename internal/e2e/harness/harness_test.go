package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStartProcess_ParentKilled_LeavesNothingBehind(t *testing.T) {
	if log := os.Getenv("KATOFLOW_HARNESS_CHILD"); log != "" { // the parent that is killed
		p, err := StartProcess("sleep", log, nil, "sleep", "300")
		if err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(log+".pid", []byte(strconv.Itoa(p.Pid())), 0o600)
		time.Sleep(5 * time.Minute)
		return
	}
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(os.Args[0], "-test.run", t.Name())
	cmd.Env = append(os.Environ(), "KATOFLOW_HARNESS_CHILD="+log)
	require.NoError(t, cmd.Start())
	var pid int
	require.NoError(t, WaitFor(20*time.Second, "the child's child", func() (bool, error) {
		b, _ := os.ReadFile(log + ".pid")
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0, nil
	}))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, WaitFor(20*time.Second, "the process to be gone", func() (bool, error) {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return syscall.Kill(pid, 0) != nil || err == nil && strings.Contains(string(state), ") Z "), nil
	}))
}
