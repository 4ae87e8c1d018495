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

// back is where the file comes back to.
func (f file) back() string { return f.path + ".fetched" }

// login is how a node is reached over SSH.
type login struct {
	Address               string
	Port                  int
	User, Key, KnownHosts string
}

// ssh is OpenSSH's client with a command for the node, without a standard input.
func (l login) ssh(command ...string) *exec.Cmd {
	return l.client(append([]string{"-n"}, l.to(command)...)...)
}

// sshReading is ssh with a standard input.
func (l login) sshReading(command ...string) *exec.Cmd { return l.client(l.to(command)...) }

func (l login) to(command []string) []string {
	return append([]string{"-p", fmt.Sprint(l.Port), l.User + "@" + l.Address}, command...)
}

func (l login) client(args ...string) *exec.Cmd {
	return exec.Command("ssh", append([]string{"-F", "none", "-i", l.Key, "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + l.KnownHosts}, args...)...)
}
