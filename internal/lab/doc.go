// Package lab makes clusters of real Debian hosts on one Linux machine: each has systemd, sshd, sudo, apt, a disk of its own and real reboots. A host is
// a systemd-nspawn container over an overlay of one golden tree, in its own network namespace, with its own file systems for / and
// /srv. Tests, the benchmark and `make lab-up` stand on it. It needs root on Linux.
//
// What a container cannot be is a machine with its own kernel: uname and /proc/uptime are the host's, so that a boot proof says so.
//
// Everything of a lab carries its name: control groups, network namespaces, links, mounts and the folder. Nothing else is touched, and a guard removes
// it all when the process that made it ends, however it ends.
package lab
