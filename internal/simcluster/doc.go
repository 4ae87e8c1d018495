// Package simcluster runs a simulated cluster of ALS or plain Debian nodes inside one process, for the demo and the tests.
//
// Every node is a real SSH server on its own loopback address and port with its own host key. Behind it are a POSIX shell
// (parsed and expanded by mvdan.cc/sh, executed here, because processes, inherited descriptors and signals have to be those of a node),
// a private file tree, a process table, file locks, and the commands in Go: coreutils and util-linux, sudo, apt and
// unattended-upgrades, systemctl, reboot and kato. Nothing of the host is executed.
//
// Who gets in is decided as sshd does it: by the login user's authorized_keys of the moment and their modes, by the password of SetPassword, and by the sshd_config of sshd's last start or
// reload.
//
// A reboot ends every process of the node where it stands, drops its connections, empties /run, changes the boot id, and starts
// the installed kernel. The rest of the file tree and the packages survive, half-configured ones too.
//
// While a file system of a node is frozen, no command begins there, as on one whose /var is: logins and sudo write to it.
//
// Faults (dropped connections, a full disk, a held apt lock, a node that never returns...) are methods of Node, and calls of a
// loopback HTTP API for a cluster that runs as its own process (cmd/simcluster). Every command that changes a node is recorded with its
// time, boot id, user and environment, so that a test can count what really ran.
package simcluster
