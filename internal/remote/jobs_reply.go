package remote

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// replyMark begins the lines meant for the worker; anything else is noise of the node's login files.
const replyMark = "@katoflow "

// stoppedUnstarted is the exit code that stop_locked.sh writes for a job that was never started.
const stoppedUnstarted = 143

// unknownOperation is the operation of a job whose metadata is lost.
const unknownOperation = "unknown"

// reply is what a script told.
type reply struct {
	jobs   []jobFacts
	bootID string
	// failed is the cause and its words when the script gave up.
	failed []string
	// complete is true when the script came to its end.
	complete bool
}

// jobFacts is one job as the node sees it. What they mean is for status to say.
type jobFacts struct {
	exited    bool
	exitCode  int
	bootID    string // "-" when never started
	startedAt int64
	lock      string // free, held or unknown
	size      int64
	swept     bool
	dir       string
	meta      []string
}

// parseReply reads what it understands; it never fails, and what is cut off or odd is left out.
func parseReply(text []byte) reply {
	var r reply
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // cut off
		}
		_, rest, found := strings.Cut(string(line), replyMark)
		words := strings.Fields(rest)
		if !found || len(words) == 0 {
			continue
		}
		switch args := words[1:]; words[0] {
		case "end":
			r.complete = true
		case "fail":
			if r.failed == nil && len(args) > 0 {
				r.failed = args
			}
		case "boot":
			if len(args) > 0 {
				r.bootID = args[0]
			}
		case "job":
			if f, ok := parseFacts(args); ok {
				r.jobs = append(r.jobs, f)
			}
		}
	}
	return r
}

func parseFacts(words []string) (jobFacts, bool) {
	if len(words) < 8 {
		return jobFacts{}, false
	}
	f := jobFacts{bootID: words[2], lock: words[4], swept: words[6] == "1", dir: words[7], meta: words[8:]}
	var err error
	if words[0] != "-" {
		if f.exitCode, err = strconv.Atoi(words[0]); err != nil {
			return jobFacts{}, false
		}
		f.exited = true
	}
	f.startedAt, _ = strconv.ParseInt(words[3], 10, 64)
	f.size, _ = strconv.ParseInt(words[5], 10, 64)
	return f, true
}

// state judges the facts, taken at a time when the node had the boot id current.
func (f jobFacts) state(current string) (JobState, bool) {
	switch {
	case f.exited:
		return JobExited, true
	case f.bootID == "-":
		return JobAbsent, true
	case f.bootID != current:
		return JobInterrupted, true
	case f.lock == "held":
		return JobRunning, true
	case f.lock == "free":
		return JobLost, true
	}
	return "", false
}

func (f jobFacts) status(h Host, current string) (JobStatus, error) {
	state, ok := f.state(current)
	if !ok {
		return JobStatus{}, &Error{Kind: KindExit, Node: h.Name, ExitCode: 9,
			Message: fmt.Sprintf("job %s: its mark or its lock cannot be read, so nobody knows whether it runs: see to the disk and the rights of the state folder", Escape(f.dir))}
	}
	s := JobStatus{State: state, CurrentBootID: current, StartedAt: f.startedAt, OutputSize: f.size, Swept: f.swept}
	if f.exited {
		s.ExitCode = f.exitCode
		s.NeverStarted = f.bootID == "-" && f.exitCode == stoppedUnstarted
	}
	if f.bootID != "-" {
		s.BootID = f.bootID
	}
	if len(f.meta) > 1 {
		if id, err := jobIDOf(f.meta[1:]); err == nil {
			s.ID = id
			return s, nil
		}
	}
	// Its metadata was lost with the power. The job is not hidden for that.
	s.ID = JobID{Operation: unknownOperation, Node: h.Name, Step: f.dir}
	return s, nil
}

// one returns the status of the job that was asked for.
func (r reply) one(h Host, id JobID) (JobStatus, error) {
	if len(r.jobs) == 0 {
		return JobStatus{ID: id, State: JobAbsent, CurrentBootID: r.bootID}, nil
	}
	s, err := r.jobs[0].status(h, r.bootID)
	s.ID = id
	return s, err
}

func (r reply) all(h Host) ([]JobStatus, error) {
	all := make([]JobStatus, 0, len(r.jobs))
	for _, f := range r.jobs {
		s, err := f.status(h, r.bootID)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

var (
	spaceText = regexp.MustCompile(`(?i)no space left|disk quota exceeded`)
	otherText = regexp.MustCompile(`(?i)permission denied|read-only file system|input/output error`)
)

// failure turns what a script told about its end into an error, nil when it came to its end well.
func (r reply) failure(h Host, what string, result Result) error {
	if r.failed == nil && r.complete && result.ExitCode == 0 {
		return nil
	}
	e := &Error{Node: h.Name, ExitCode: result.ExitCode, Tail: Tail(result.Stderr, tailSize)}
	said := oneLine(lastLine(strings.TrimSpace(string(result.Stderr))), 200)
	full := spaceText.Match(result.Stderr)
	word, args := "", []string(nil)
	if r.failed != nil {
		word, args = r.failed[0], r.failed[1:]
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return "-"
	}
	holder := func(i int) {
		e.Holder = arg(i)
		if id, err := DecodeID(arg(i)); err == nil {
			e.Holder = id
		}
	}
	set := func(kind Kind, format string, a ...any) {
		e.Kind, e.Message = kind, "cannot "+what+": "+fmt.Sprintf(format, a...)
	}
	switch {
	case word == "fenced":
		holder(1)
		set(KindFenced, "the node belongs to the newer operation %s; this one is superseded", Escape(e.Holder))
	case word == "busy":
		holder(0)
		set(KindBusy, "a job of operation %s still runs on the node (%s): wait for its end", Escape(e.Holder), Escape(arg(1)))
	case word == "locked":
		set(KindBusy, "the lease stayed locked for 10 s (%s): another worker is at work on the node, try again", Escape(arg(0)))
	case word == "conflict":
		set(KindJobConflict, "a job of this name with another command is on the node (%s): use the next try", Escape(arg(0)))
	case word == "missing-tool":
		set(KindMissingTool, "the node lacks %s: install coreutils and util-linux", Escape(strings.Join(args, ", ")))
	case word == "no-boot-id":
		set(KindMissingTool, "the node's boot id cannot be read from %s", Escape(arg(0)))
	case full, word == "no-space" && !otherText.Match(result.Stderr):
		set(KindDiskFull, "no space for the job's files in the state folder: free some, nothing was started")
	case word == "no-space", word == "unwritable":
		set(KindExit, "the state folder %s cannot be written (%s): correct its owner and rights", Escape(arg(0)), said)
	case word == "no-vault":
		set(KindExit, "no folder in memory takes the secrets: make /run/katoflow-USER, owned by the login user")
	case word == "no-home":
		set(KindExit, "the login user has no home folder")
	case word == "not-interruptible":
		set(KindExit, "it runs and is not interruptible: wait for its end")
	case word == "truncated", word == "retry":
		set(KindTransport, "the connection ended while the job was handed over: try again")
	case word == "pending":
		set(KindTransport, "the job has not reported its start yet: try again")
	case word == "" && result.ExitCode == 127:
		set(KindMissingTool, "the node lacks a tool: %s", said)
	case word == "cut", r.failed == nil && (result.ExitCode == 0 || result.ExitCode > 128):
		set(KindTransport, "the script was cut off on the node (exit %d%s): try again", result.ExitCode, optional(said))
	default:
		set(KindExit, "exit %d%s", result.ExitCode, optional(said))
	}
	return e
}

func optional(said string) string {
	if said == "" {
		return ""
	}
	return ", " + said
}

// Status returns what is known about the job; JobAbsent when it was never started on this node. It changes nothing.
func (j *Jobs) Status(ctx context.Context, h Host, id JobID) (JobStatus, error) {
	if err := id.check(); err != nil {
		return JobStatus{}, fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	reply, err := j.run(ctx, h, call{scripts: []string{"status.sh"}, what: "read the state of job " + id.String(), args: []string{id.Dir()}})
	if err != nil {
		return JobStatus{}, err
	}
	return reply.one(h, id)
}

// List returns every job known on the node, those of other operations and tombstones too. It changes nothing.
func (j *Jobs) List(ctx context.Context, h Host) ([]JobStatus, error) {
	return j.list(ctx, h, "all")
}

// Running returns the jobs that run on the node, those of other operations too. It changes nothing.
func (j *Jobs) Running(ctx context.Context, h Host) ([]JobStatus, error) {
	return j.list(ctx, h, "running")
}

func (j *Jobs) list(ctx context.Context, h Host, which string) ([]JobStatus, error) {
	reply, err := j.run(ctx, h, call{scripts: []string{"status.sh"}, what: "list the jobs", args: []string{which}})
	if err != nil {
		return nil, err
	}
	all, err := reply.all(h)
	for _, s := range all {
		if j.Logger != nil && s.ID.Operation == unknownOperation {
			j.Logger.Warn("a job lost its metadata, probably with the power", zap.String("node", h.Name), zap.String("job", s.ID.Step), zap.String("state", string(s.State)))
		}
	}
	return all, err
}
