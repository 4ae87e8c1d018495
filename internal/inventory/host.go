package inventory

import (
	"fmt"
	"os"
	"time"

	"github.com/katoflow/katoflow/internal/remote"
)

// Host returns how the worker reaches the node: paths resolved, the bastion taken apart, the passphrase as a function that reads it
// when it is needed. env looks up an environment variable; of it only SSH_AUTH_SOCK is used, and what a secret names.
func (f *File) Host(cluster *Cluster, node *Node, env func(string) (string, bool)) (remote.Host, error) {
	s := cluster.SSHOf(node)
	h := remote.Host{
		Name:           node.Name,
		Address:        node.Address,
		Port:           s.Port,
		User:           s.User,
		ConnectTimeout: time.Duration(s.ConnectTimeout),
		MaxSessions:    s.MaxSessions,
	}
	for _, k := range s.KeyFiles {
		h.KeyFiles = append(h.KeyFiles, f.ResolvePath(k))
	}
	for _, k := range s.KnownHosts {
		h.KnownHosts = append(h.KnownHosts, f.ResolvePath(k))
	}
	if s.Agent != nil && *s.Agent {
		h.AgentSocket, _ = env("SSH_AUTH_SOCK")
	}
	if len(h.KeyFiles) == 0 && h.AgentSocket == "" {
		if h.KeyFiles = f.ownKeyFiles(); len(h.KeyFiles) == 0 {
			return remote.Host{}, fmt.Errorf("node %s: %s", quote(node.Name), noWayIn)
		}
	}
	if secret := s.Passphrase; secret != nil {
		h.Passphrase = func() ([]byte, error) {
			value, err := secret.Resolve(f, env)
			if err != nil {
				return nil, fmt.Errorf("passphrase: %w", err)
			}
			return value, nil
		}
	}
	if s.Bastion != "" {
		user, host, port, err := parseBastion(s.Bastion)
		if err != nil {
			return remote.Host{}, fmt.Errorf("node %s: %w", quote(node.Name), err)
		}
		if user == "" {
			user = s.User
		}
		b := h
		b.Name, b.Address, b.Port, b.User = host, host, port, user // remote itself says "bastion" before its name
		h.Bastion = &b
	}
	return h, nil
}

const noWayIn = "there is no key to log in with: write ssh.key_files, or start the worker with an agent (SSH_AUTH_SOCK)"

// ownKeyFiles are the keys that ssh itself would try, those that are there.
func (f *File) ownKeyFiles() []string {
	var found []string
	for _, name := range []string{"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"} {
		path := f.ResolvePath(name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			found = append(found, path)
		}
	}
	return found
}
