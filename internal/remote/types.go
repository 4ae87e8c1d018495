// Package remote runs commands and durable jobs on nodes over SSH.
package remote

import (
	"io"
	"time"
)

// Host is everything needed to reach one node.
type Host struct {
	// Name of the node, used in errors and logs.
	Name string
	// Address and Port of its SSH server.
	Address string
	Port    int
	User    string
	// KeyFiles are private key files, tried in order.
	KeyFiles []string
	// Passphrase returns the passphrase of the key files; nil when they have none.
	Passphrase func() ([]byte, error)
	// Password returns the user's password, which then takes the place of all keys; nil, as always but for the first contact with a node, for none.
	Password func() ([]byte, error)
	// Apart names a connection of its own, so that a login is tried anew while others go on with the one that there is; "" for the common one.
	Apart string
	// AgentSocket is the path of an ssh-agent's socket; "" for none.
	AgentSocket string
	// KnownHosts are the files against which host keys are verified. There is no trust on first use.
	KnownHosts []string
	// Bastion is dialled first when not nil; its own Bastion must be nil.
	Bastion *Host
	// ConnectTimeout of dial and handshake together; 0 = 10 s.
	ConnectTimeout time.Duration
	// DialTimeout of the TCP connection alone, within ConnectTimeout; 0 = ConnectTimeout. To a node that is down the kernel repeats its question after 1 s, then
	// 3 s: several short dials meet a node that comes up sooner than a long one.
	DialTimeout time.Duration
	// MaxSessions at once on the node's connection; 0 = 8.
	MaxSessions int
}

// Command is one short command on a node: Argv, or Script run by the node's /bin/sh.
type Command struct {
	// Argv is quoted by Quote and run by the login shell.
	Argv []string
	// Script is run as `exec sh -c SCRIPT sh Args...` when Argv is empty, so that the login shell does not matter and standard
	// input belongs to Stdin alone. At most some 100 KiB; no secret may be in it; see Pool.Run.
	Script string
	Args   []string
	Stdin  io.Reader
	// Stdout and Stderr receive the streams as they come; when nil the first MaxOutput bytes are kept in Result.
	Stdout, Stderr io.Writer
	// MaxOutput bounds each kept stream; 0 = 1 MiB. More than that is dropped and Result.Truncated set.
	MaxOutput int
	// AnyExit makes a non-zero exit a Result instead of an Error of kind KindExit.
	AnyExit bool
}

// Result of a Command.
type Result struct {
	ExitCode       int
	Stdout, Stderr []byte
	Truncated      bool
	Duration       time.Duration
}

// Kind classifies an Error.
type Kind string

// The kinds of errors. Transport is the only one worth retrying as it is.
const (
	KindTransport   Kind = "transport"    // no route, refused, timed out, connection lost
	KindAuth        Kind = "auth"         // no key accepted, wrong passphrase, unreadable key
	KindHostKey     Kind = "host-key"     // unknown or changed host key
	KindExit        Kind = "exit"         // the command ended with a non-zero exit code
	KindBusy        Kind = "busy"         // a job of another operation lives on the node, or the lease file is locked
	KindFenced      Kind = "fenced"       // a newer operation holds the node's lease
	KindJobConflict Kind = "job-conflict" // the same job name with another script
	KindLost        Kind = "lost"         // the job was started and nobody knows how it ended
	KindInterrupted Kind = "interrupted"  // the node rebooted while the job ran
	KindDiskFull    Kind = "disk-full"    // no space for the job's files; nothing was started
	KindMissingTool Kind = "missing-tool" // the node lacks sh, coreutils or util-linux tools
)

// Error is what every function of this package returns for a failed node.
type Error struct {
	Kind Kind
	Node string
	// Message is one line: what failed and what to do. No secret, nothing from the node unescaped.
	Message string
	// ExitCode of the command for KindExit.
	ExitCode int
	// Tail is the end of the command's output for KindExit, at most 4 KiB, with control characters escaped.
	Tail string
	// Holder names the other operation for KindBusy and KindFenced.
	Holder string
	Err    error
}

// JobID is a job's identity. The same identity is started at most once, whatever is killed.
type JobID struct {
	Operation string
	Node      string
	Step      string
	Try       int
}

// Lease fences the nodes of a cluster: only the operation with the highest token may start jobs.
type Lease struct {
	// Token is the start time of the cluster lock's run in Unix nanoseconds, as the Temporal server recorded it.
	Token     int64
	Operation string
}

// JobSpec is a command to run as a durable job.
type JobSpec struct {
	ID    JobID
	Lease Lease
	// Argv is the payload. It is stored in the job's script: no secret may be in it.
	Argv []string
	// Sudo runs it as root by `sudo -n`; the variables of Env are handed over as `sudo -n NAME=value ... argv` (SETENV).
	Sudo bool
	// Login runs it by the user's login shell (`sh -l`-like environment), as kato needs (kato.md §1).
	Login bool
	// Env are extra variables of the payload.
	Env map[string]string
	// Interruptible jobs may be stopped by Stop; others never are.
	Interruptible bool
	// Secrets are handed over standard input into 0600 files under /run (or the state folder's tmpfs fallback); the payload finds the file's path
	// in the environment variable of the given name. They are removed when the payload ends.
	Secrets map[string][]byte
}

// JobState is what is known about a job.
type JobState string

// The states of a job.
const (
	JobAbsent      JobState = "absent"      // never started: safe to start
	JobRunning     JobState = "running"     // its lock is held and there is no exit code
	JobExited      JobState = "exited"      // ended with ExitCode
	JobInterrupted JobState = "interrupted" // the boot id changed before it ended
	JobLost        JobState = "lost"        // same boot, lock free, no exit code
)

// JobStatus is a snapshot of a job.
type JobStatus struct {
	ID       JobID
	State    JobState
	ExitCode int
	// BootID stored when the job started, and the node's at the time of the snapshot.
	BootID, CurrentBootID string
	// StartedAt is the node's wall clock at the start, in Unix seconds.
	StartedAt int64
	// OutputSize in bytes so far.
	OutputSize int64
	// Swept is true when only the tombstone is left.
	Swept bool
	// NeverStarted is true when Stop came before the start: the payload did not run and never will. The state is exited, with 143.
	NeverStarted bool
}
