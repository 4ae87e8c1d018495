package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Jobs runs durable jobs on nodes: commands that outlive the connection and the worker. A job is started at most once, whatever
// is killed; when nobody can know how it ended it is lost, never started again.
//
// # What is on a node
//
// The state folder is /var/lib/katoflow/USER if the installer made it, else ~/.local/state/katoflow (mode 0700; the one in use
// stays in use). In it:
//
//	lease              "TOKEN OPERATION", replaced by renaming
//	lease.lock         held by whatever changes the lease or the set of jobs, and while a job is committed
//	jobs/DIR/meta      version, operation, node, step, try, sum of the spec, interruptible, boot id of the preparation
//	jobs/DIR/script    the payload
//	jobs/DIR/wrapper   runs the payload (scripts/wrapper.sh of the version that prepared the job)
//	jobs/DIR/started   boot id, time and id of the start: the commit. Written once, by renaming, under both locks
//	jobs/DIR/exit      exit code and time, written in place into a file that has its size from the beginning
//	jobs/DIR/output    what the payload wrote
//	jobs/DIR/group     process group of an interruptible payload
//	jobs/DIR/lock      held as long as the wrapper or a process that inherited it lives
//	tmp/               preparations under way
//
// DIR is JobID.Dir. Start prepares the directory under tmp, renames it under the lease's lock, and launches the wrapper detached
// and under the job's lock. The wrapper takes the lease's lock, checks the lease and `started` again, renames `started` into its place
// (the commit), lets go of the lease's lock, syncs, runs the payload, and writes the exit code. Death before the commit leaves a job that can be launched again by any
// later Start; two wrappers exclude each other by the job's lock, and the second finds `started`. A superseded operation cannot
// commit, even with a wrapper launched before. No process below the payload ever holds the lease's lock.
//
// Secrets are in a folder of one start, katoflow-secret-DIR.ID, mode 0700, under the first of /run/katoflow-USER, /run/user/UID,
// /run and /dev/shm that can be written. The installer should make /run/katoflow-USER (tmpfiles.d): systemd-logind empties /run/user/UID and
// /dev/shm when the user's last session ends. The wrapper removes the folder when the payload ends, Sweep what a kill left.
//
// Jobs survive the end of the login session unless logind.conf says KillUserProcesses=yes (`loginctl enable-linger USER` helps).
//
// A node needs sh, the coreutils and the util-linux tools of scripts/prelude.sh. The scripts keep to the subset of
// scripts_lint_test.go.
type Jobs struct {
	Runner Runner
	// Logger receives what is odd but no error; nil for none.
	Logger *zap.Logger
	// FollowPoll is how often the node looks for new output; 0 = 500 ms. Each look costs it two processes. The end of a job is noticed at once.
	FollowPoll time.Duration

	bootIDPath  string                           // of the node; "" = /proc/sys/kernel/random/boot_id
	rootPrefix  string                           // before /var/lib, /run and /dev/shm of the node
	followSlice time.Duration                    // of one session; 0 = 60 s
	within      time.Duration                    // bounds every call; 0 = answerWithin, or what the call needs
	edit        func(name, script string) string // changes a script before it is sent; nil outside tests
}

var environmentName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Start starts the job, or finds that it was started before, and returns its status; the payload is started at most once for an identity,
// however often and from however many workers Start is called. A job that was interrupted, lost or swept is not started again
// either: its recorded state is returned. The lease is taken first as TakeLease does.
//
// Errors, in all of which nothing was started by this call unless said otherwise:
//   - KindFenced: a newer operation holds the node. Holder names it
//   - KindBusy: a job of another operation runs on the node (Holder), or the lease is locked
//   - KindJobConflict: a job of this identity has another command
//   - KindDiskFull, KindMissingTool
//   - KindTransport: no connection, or it was lost, or the job did not report its start within about 5 s: it may start yet. Call again
func (j *Jobs) Start(ctx context.Context, h Host, s JobSpec) (JobStatus, error) {
	payload, err := s.script()
	if err == nil {
		err = s.Lease.check()
	}
	if err == nil && s.Lease.Operation != s.ID.Operation {
		err = errors.New("the lease is of another operation than the job")
	}
	if err != nil {
		return JobStatus{}, fmt.Errorf("%s: job %s: %w", Escape(h.Name), s.ID, err)
	}
	if j.edit != nil {
		payload = j.edit("payload", payload)
	}
	wrapper := j.text("wrapper.sh")
	meta := s.ID.meta(s.sum(), s.Interruptible)
	// The files that must have been written in full: wrapper, exit, started.new, group, script.
	size := len(wrapper) + 32 + 128 + 32 + len(payload)

	var stdin bytes.Buffer
	for _, name := range sortedKeys(s.Secrets) {
		fmt.Fprintf(&stdin, "%s %s\n", name, base64.StdEncoding.EncodeToString(s.Secrets[name]))
	}
	stdin.WriteString(payload)

	reply, err := j.run(ctx, h, call{
		scripts: []string{"vaults.sh", "start.sh"}, create: true, stdin: stdin.Bytes(), what: "start job " + s.ID.String(),
		args: []string{s.ID.Dir(), meta, fmt.Sprint(s.Lease.Token), EncodeID(s.Lease.Operation), callID(), fmt.Sprint(size),
			fmt.Sprint(len(s.Secrets)), wrapper, j.text("facts.sh", "lease.sh", "start_locked.sh")},
	})
	if err != nil {
		return JobStatus{}, err
	}
	return reply.one(h, s.ID)
}

// callID names the temporary files of one call.
func callID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("%x", b)
}

// meta is the line of metadata; the node appends its boot id.
func (id JobID) meta(sum string, interruptible bool) string {
	flag := "0"
	if interruptible {
		flag = "1"
	}
	return "1 " + id.words() + " " + sum + " " + flag
}

// sum identifies what the spec runs. It does not depend on how the script is written, so that a newer worker finds the jobs of an older
// one. The values of secrets do not count: presigned URLs differ at every call.
func (s JobSpec) sum() string {
	b, _ := json.Marshal(struct {
		Argv    []string
		Sudo    bool
		Login   bool
		Env     map[string]string
		Secrets []string
	}{s.Argv, s.Sudo, s.Login, s.Env, sortedKeys(s.Secrets)})
	// JSON replaces bytes that are no UTF-8; the lengths and the bytes themselves do not lie.
	for _, arg := range s.Argv {
		b = append(b, fmt.Sprintf("\n%q", arg)...)
	}
	for _, name := range sortedKeys(s.Env) {
		b = append(b, fmt.Sprintf("\n%s=%q", name, s.Env[name])...)
	}
	h := sha256.Sum256(b)
	return fmt.Sprintf("%x", h)
}

// check returns every mistake of the spec.
func (s JobSpec) check() error {
	var mistakes []error
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if err := s.ID.check(); err != nil {
		mistakes = append(mistakes, err)
	}
	if err := CheckArgv(s.Argv); err != nil {
		mistakes = append(mistakes, err)
	} else if strings.HasPrefix(s.Argv[0], "-") || strings.Contains(s.Argv[0], "=") {
		mistake("command %s would be taken for an option or a variable", Escape(s.Argv[0]))
	}
	if s.Sudo && s.Login {
		mistake("sudo and login exclude each other: kato never runs as root")
	}
	for _, name := range sortedKeys(s.Env) {
		if !environmentName.MatchString(name) {
			mistake("environment variable %s: not a name", Escape(name))
		}
		if strings.IndexByte(s.Env[name], 0) >= 0 {
			mistake("environment variable %s: the value holds a NUL byte", Escape(name))
		}
	}
	for _, name := range sortedKeys(s.Secrets) {
		if !environmentName.MatchString(name) {
			mistake("secret %s: not the name of an environment variable", Escape(name))
		}
		if _, both := s.Env[name]; both {
			mistake("%s is both a variable and a secret", Escape(name))
		}
	}
	return errors.Join(mistakes...)
}

// script returns the text of the payload, run as `sh script VAULT JOB` by the wrapper.
func (s JobSpec) script() (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString("vault=$1 job=$2\n")
	if s.Interruptible {
		// The leader's birth tells it from a later process of the same number.
		out.WriteString("stat=''\n{ read -r stat <\"/proc/$$/stat\"; } 2>/dev/null\nset -- ${stat##*) }\n" +
			"printf '%-31s\\n' \"$$ ${20:-0}\" | dd of=\"$job/group\" conv=notrunc 2>/dev/null\n")
	}
	secrets := sortedKeys(s.Secrets)
	for _, name := range secrets {
		fmt.Fprintf(&out, "%s=\"$vault/%s\"\nexport %s\n", name, name, name)
	}
	var variables strings.Builder
	for _, name := range sortedKeys(s.Env) {
		fmt.Fprintf(&variables, "%s=%s\nexport %s\n", name, quoteValue(s.Env[name]), name)
	}
	switch {
	case s.Sudo:
		out.WriteString("exec sudo -n")
		for _, name := range sortedKeys(s.Env) {
			fmt.Fprintf(&out, " %s=%s", name, quoteValue(s.Env[name]))
		}
		for _, name := range secrets {
			fmt.Fprintf(&out, " %s=\"$%s\"", name, name)
		}
		out.WriteString(" " + Quote(s.Argv) + "\n")
	case s.Login:
		// The variables come after the profile, which could change them. A shell that is no Bourne shell is passed over.
		inner := quoteValue(variables.String() + "exec " + Quote(s.Argv))
		fmt.Fprintf(&out, "case ${SHELL-} in\n*/bash | */dash | */ksh | */zsh | */sh) exec \"$SHELL\" -l -c %s ;;\nesac\nexec sh -l -c %s\n", inner, inner)
	default:
		out.WriteString(variables.String() + "exec " + Quote(s.Argv) + "\n")
	}
	return out.String(), nil
}

// quoteValue quotes one word that is not the first of a command.
func quoteValue(s string) string { return strings.TrimPrefix(Quote([]string{"x", s}), "x ") }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
