package main

import (
	"fmt"
	"os/exec"
)

// node is where the file lies.
type node interface {
	reached() login
	// lead makes a server on this machine's loopback one that the node reaches, and returns its address for everybody.
	lead(endpoint string) (string, error)
	// make writes a file of so many bytes that cannot be compressed; remove takes it away.
	make(size int64) (file, error)
	remove(f file) error
	close() error
}

// file is what is moved.
type file struct {
	path, sum string
	size      int64
}

// login is how a node is reached over SSH.
type login struct {
	Address               string
	Port                  int
	User, Key, KnownHosts string
}

// ssh is OpenSSH's client with a command for the node.
func (l login) ssh(command ...string) *exec.Cmd {
	return exec.Command("ssh", append([]string{"-F", "none", "-n", "-i", l.Key, "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + l.KnownHosts,
		"-p", fmt.Sprint(l.Port), l.User + "@" + l.Address}, command...)...)
}
