package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// clockRounds is how often the node is asked for its time: the quickest answer counts.
const clockRounds = 8

// clockScript answers every line with the time.
const clockScript = `while read -r line; do date +%s%N; done`

// ClockOffset measures the node's clock against this machine's: offset is the node's time minus ours, within ± bound. It asks several times over one session, and
// takes the quickest answer; bound is half of what that took. It takes some ten round trips. Errors: those of Pool.Run, and one without a kind when the node's date
// tells no nanoseconds.
func ClockOffset(ctx context.Context, r Runner, h Host) (offset, bound time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, ask := io.Pipe()
	answers := &clockAnswers{lines: make(chan clockAnswer, clockRounds)}
	ended := make(chan error, 1)
	go func() {
		_, err := r.Run(ctx, h, Command{Script: clockScript, Stdin: in, Stdout: answers})
		_ = in.CloseWithError(io.ErrClosedPipe)
		ended <- err
	}()
	for range clockRounds {
		sent := time.Now()
		if _, err := io.WriteString(ask, "now\n"); err != nil {
			return 0, 0, clockFailure(h, <-ended)
		}
		select {
		case a := <-answers.lines:
			if a.err != nil {
				_ = ask.Close()
				<-ended
				return 0, 0, fmt.Errorf("%s: the node's clock cannot be read: date +%%s%%N says %q", Escape(h.Name), oneLine(a.text, 40))
			}
			// The difference is of this machine's monotonic clock.
			half := a.at.Sub(sent) / 2
			if bound == 0 || half < bound {
				offset, bound = time.Duration(a.node-sent.UnixNano())-half, max(half, 1)
			}
		case err := <-ended:
			return 0, 0, clockFailure(h, err)
		}
	}
	_ = ask.Close()
	if err := <-ended; err != nil {
		return 0, 0, err
	}
	return offset, bound, nil
}

func clockFailure(h Host, err error) error {
	if err == nil {
		err = fmt.Errorf("%s: the node's clock cannot be read: its shell has ended", Escape(h.Name))
	}
	return err
}

type clockAnswer struct {
	node int64
	at   time.Time
	text string
	err  error
}

// clockAnswers reads the node's times.
type clockAnswers struct {
	rest  []byte
	lines chan clockAnswer
}

func (c *clockAnswers) Write(b []byte) (int, error) {
	at := time.Now()
	c.rest = append(c.rest, b...)
	for {
		line, rest, whole := bytes.Cut(c.rest, []byte("\n"))
		if !whole {
			if len(c.rest) > 1<<10 {
				return 0, errors.New("the node's time is no number")
			}
			return len(b), nil
		}
		text := strings.TrimSpace(string(line))
		c.rest = append([]byte(nil), rest...)
		node, err := strconv.ParseInt(text, 10, 64)
		if err == nil && len(text) < 15 {
			err = errors.New("no nanoseconds")
		}
		select {
		case c.lines <- clockAnswer{node, at, text, err}:
		default: // more than was asked for
		}
	}
}
