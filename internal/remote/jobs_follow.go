package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Follow hands the job's output from byte offset `from` to sink, in order, each byte once, as it comes, until the job no longer runs, and
// returns the job's status. sink gets each chunk with the offset of its first byte; the chunk is valid during the call only. Without a
// sink Follow only waits.
//
// When ctx ends its error is returned; when the connection is lost one of KindTransport: the caller goes on by calling again with the offset
// after the last byte that sink got. On the node nothing stays behind for more than a minute.
func (j *Jobs) Follow(ctx context.Context, h Host, id JobID, from int64, sink func(chunk []byte, offset int64)) (JobStatus, error) {
	if err := id.check(); err != nil {
		return JobStatus{}, fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	out := &followed{offset: max(from, 0), sink: sink}
	for idle := 0; ; {
		before := out.offset
		status, err := j.followOnce(ctx, h, id, out, j.slice())
		if err != nil || status.State == JobRunning {
			if err != nil {
				return status, err
			}
			continue
		}
		// The output was cut off on the node although the session ended well: ask for the rest.
		if sink == nil || status.Swept || out.offset >= status.OutputSize {
			return status, nil
		}
		if idle++; out.offset > before {
			idle = 0
		}
		if idle >= 3 {
			return status, transportError(h.Name, nil, "the output of job %s stops at byte %d of %d: try again", id, out.offset, status.OutputSize)
		}
	}
}

// followOnce is one session of at most slice.
func (j *Jobs) followOnce(ctx context.Context, h Host, id JobID, out *followed, slice time.Duration) (JobStatus, error) {
	poll := j.FollowPoll
	if poll <= 0 {
		poll = 500 * time.Millisecond
	}
	poll = max(poll, 10*time.Millisecond)
	offset := int64(-1)
	if out.sink != nil {
		offset = out.offset
	}
	reply, err := j.run(ctx, h, call{
		scripts: []string{"follow.sh"}, stdout: &afterBegin{to: out}, what: "follow job " + id.String(), within: slice*3 + answerWithin,
		args: []string{id.Dir(), strconv.FormatInt(offset, 10), strconv.FormatFloat(poll.Seconds(), 'f', 3, 64),
			strconv.FormatInt(max(int64(slice/poll), 1), 10)},
	})
	if err != nil {
		return JobStatus{}, err
	}
	return reply.one(h, id)
}

func (j *Jobs) slice() time.Duration {
	if j.followSlice > 0 {
		return j.followSlice
	}
	return time.Minute
}

// followed counts the bytes handed on.
type followed struct {
	offset int64
	sink   func([]byte, int64)
}

func (f *followed) Write(b []byte) (int, error) {
	if len(b) > 0 && f.sink != nil {
		at := f.offset
		f.offset += int64(len(b))
		f.sink(b, at)
	}
	return len(b), nil
}

// afterBegin drops everything up to the line by which a script says that the job's output begins: login files may print.
type afterBegin struct {
	to    io.Writer
	begun bool
	noise []byte
}

const beginMark = replyMark + "begin\n"

func (a *afterBegin) Write(b []byte) (int, error) {
	if a.begun {
		return a.to.Write(b)
	}
	a.noise = append(a.noise, b...)
	at := bytes.Index(a.noise, []byte(beginMark))
	if at < 0 {
		// Only what may be the beginning of the mark is kept.
		a.noise = a.noise[max(0, len(a.noise)-len(beginMark)):]
		return len(b), nil
	}
	rest := a.noise[at+len(beginMark):]
	a.begun, a.noise = true, nil
	if len(rest) > 0 {
		if _, err := a.to.Write(rest); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// Output returns the last max bytes of the job's output, as they are: escape them before they are shown. Nothing is returned for
// a job that is absent or swept.
func (j *Jobs) Output(ctx context.Context, h Host, id JobID, max int) ([]byte, error) {
	if err := id.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", Escape(h.Name), err)
	}
	if max <= 0 {
		return nil, nil
	}
	var out bytes.Buffer
	_, err := j.run(ctx, h, call{
		scripts: []string{"output.sh"}, stdout: &afterBegin{to: &out}, what: "read the output of job " + id.String(), args: []string{id.Dir(), strconv.Itoa(max)},
	})
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
