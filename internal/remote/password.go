package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// errOtherQuestion is a question that the password is no answer to, or that was answered before.
var errOtherQuestion = errors.New("it asks something else than a password")

// passwordMethods log in with h's password, each once: as the answer to the one question of keyboard-interactive that is not echoed, or as it is. How the server asked is told to l.
func (l *login) passwordMethods(password []byte) []ssh.AuthMethod {
	secret := string(password)
	return []ssh.AuthMethod{
		ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
			switch {
			case len(questions) == 0:
				return nil, nil
			case len(questions) > 1 || echos[0] || l.asked("keyboard-interactive"):
				return nil, fmt.Errorf("%w: %q", errOtherQuestion, oneLine(strings.TrimSpace(questions[0]), 100))
			}
			return []string{secret}, nil
		}),
		ssh.Password(secret),
	}
}

// asked notes a way in which a password was given, and says whether it was before.
func (l *login) asked(way string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, have := range l.tried {
		if have == way {
			return true
		}
	}
	l.tried = append(l.tried, way)
	return false
}

// PublicKeys returns the lines of authorized_keys of the keys with which h may be logged in to: those of its key files, then those of its agent. ctx bounds the wait for the agent.
//
// Errors: KindAuth when a key file cannot be used, or there is no key.
func (p *Pool) PublicKeys(ctx context.Context, h Host) ([]string, error) {
	signers, err := p.keys.load(h)
	if err != nil {
		return nil, authError(h.Name, err, "ssh: %s", oneLine(err.Error(), 300))
	}
	if h.AgentSocket != "" {
		ctx, cancel := context.WithTimeout(ctx, h.timeout())
		defer cancel()
		deadline, _ := ctx.Deadline()
		l := &login{host: h}
		defer l.close()
		keys, err := l.askAgent(deadline)
		if err != nil && len(signers) == 0 {
			return nil, authError(h.Name, err, "ssh: %s", oneLine(err.Error(), 300))
		}
		signers = append(signers[:len(signers):len(signers)], keys...)
	}
	if len(signers) == 0 {
		return nil, authError(h.Name, nil, "ssh: no key file and no agent to log in with: set key_file or agent")
	}
	var lines []string
	for _, s := range signers {
		comment := "katoflow"
		if k, ok := s.PublicKey().(*agent.Key); ok && k.Comment != "" {
			comment = oneLine(k.Comment, 100)
		}
		lines = append(lines, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))+" "+comment)
	}
	return lines, nil
}
