package remote

import (
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestPassword_EveryWayAServerAsksForIt_IsGivenOnce(t *testing.T) {
	var asked atomic.Int32
	right := func(said string) (*ssh.Permissions, error) {
		asked.Add(1)
		if said != secretWord {
			return nil, errors.New("no")
		}
		return nil, nil
	}
	ask := func(questions []string, echo bool) func(*sshServer) {
		return func(s *sshServer) {
			s.config.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, challenge ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				echos := make([]bool, len(questions))
				for i := range echos {
					echos[i] = echo
				}
				answers, err := challenge("", "", questions, echos)
				if err != nil || len(answers) == 0 {
					return nil, errors.New("no")
				}
				return right(answers[0])
			}
		}
	}
	for name, c := range map[string]struct {
		server func(*sshServer)
		word   string
		works  bool
		asked  int32
	}{
		"password": {func(s *sshServer) {
			s.config.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) { return right(string(p)) }
		}, secretWord, true, 1},
		"keyboard-interactive": {ask([]string{"Password: "}, false), secretWord, true, 1},
		"wrong password": {func(s *sshServer) {
			s.config.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) { return right(string(p)) }
		}, "wrong", false, 1},
		"wrong answer":         {ask([]string{"Password: "}, false), "wrong", false, 1},
		"two questions":        {ask([]string{"Password: ", "Token: "}, false), secretWord, false, 0},
		"a question with echo": {ask([]string{"Token: "}, true), secretWord, false, 0},
		"keys only":            {func(*sshServer) {}, secretWord, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			server := newSSHServer(t, func(s *sshServer) {
				s.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
					t.Error("a key was offered, too")
					return nil, errors.New("no")
				}
			}, c.server)
			h := server.hostEntry()
			h.Password = func() ([]byte, error) { return []byte(c.word), nil }
			_, err := newTestPool(t, Options{}).Run(testContext(t), h, Command{Argv: []string{"true"}})
			if got := asked.Load(); got != c.asked {
				t.Errorf("the password was given %d times, want %d", got, c.asked)
			}
			if c.works {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, KindAuth, "the password of", "is not accepted by")
			if strings.Contains(err.Error(), c.word) {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestPassword_IsAConnectionOfItsOwn(t *testing.T) {
	server := newSSHServer(t, func(s *sshServer) {
		s.config.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, nil }
	})
	pool := newTestPool(t, Options{})
	h := server.hostEntry()
	mustRun(t, pool, h, "true")
	byPassword, apart := h, h
	byPassword.Password = func() ([]byte, error) { return []byte("x"), nil }
	apart.Apart = "a trial"
	for i, other := range []Host{byPassword, apart} {
		mustRun(t, pool, other, "true")
		if open := server.open(); open != i+2 {
			t.Errorf("%d connections", open)
		}
	}
	pool.Forget(apart)
	mustRun(t, pool, h, "true")
}

func TestPublicKeys_OfTheKeyFiles(t *testing.T) {
	server := newSSHServer(t)
	pool := newTestPool(t, Options{})
	lines, err := pool.PublicKeys(testContext(t), server.hostEntry())
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signerOf(t, server.user).PublicKey()))) + " katoflow"
	if len(lines) != 1 || lines[0] != want {
		t.Errorf("%q, want %q", lines, want)
	}
	h := server.hostEntry()
	h.KeyFiles = []string{filepath.Join(t.TempDir(), "none")}
	_, err = pool.PublicKeys(testContext(t), h)
	wantError(t, err, KindAuth, "none")
	h.KeyFiles = nil
	_, err = pool.PublicKeys(testContext(t), h)
	wantError(t, err, KindAuth, "no key file and no agent")
}
