package remote

import (
	"testing"
)

func TestRun_Argv_GivesOutputAndExitCode(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	res := mustRun(t, p, s.hostEntry(), "echo", "it's $HOME; `id`")
	if got := string(res.Stdout); got != "it's $HOME; `id`\n" || res.ExitCode != 0 {
		t.Fatalf("got %q, exit %d", got, res.ExitCode)
	}
}
