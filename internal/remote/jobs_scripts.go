package remote

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

//go:embed scripts/*.sh
var scriptFiles embed.FS

const (
	defaultBootIDPath = "/proc/sys/kernel/random/boot_id"
	// maxReply bounds what a node may answer: a line of some 300 bytes for every job of 90 days.
	maxReply = 32 << 20
	// answerWithin bounds a call that follows nothing; a node whose disk hangs answers nothing at all.
	answerWithin = 90 * time.Second
)

// text returns the named scripts as one, without the lines that are only comments.
func (j *Jobs) text(names ...string) string {
	var out strings.Builder
	for _, name := range names {
		b, err := scriptFiles.ReadFile("scripts/" + name)
		if err != nil {
			panic(err) // a name in this package is wrong
		}
		script := string(b)
		if j.edit != nil {
			script = j.edit(name, script)
		}
		for line := range strings.Lines(script) {
			if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed[0] != '#' {
				out.WriteString(line)
			}
		}
	}
	return out.String()
}

// call is one script on a node.
type call struct {
	scripts []string
	args    []string
	create  bool
	stdin   []byte
	// stdout receives the raw standard output; the reply then comes on standard error.
	stdout io.Writer
	what   string
	// within bounds the call; 0 = answerWithin.
	within time.Duration
}

// run runs facts.sh, prelude.sh and the call's scripts, and reads the reply.
func (j *Jobs) run(ctx context.Context, h Host, c call) (reply, error) {
	bootIDPath, create := j.bootIDPath, "0"
	if bootIDPath == "" {
		bootIDPath = defaultBootIDPath
	}
	if c.create {
		create = "1"
	}
	command := Command{
		Script:    j.text(append([]string{"facts.sh", "prelude.sh"}, c.scripts...)...),
		Args:      append([]string{bootIDPath, j.rootPrefix, create}, c.args...),
		Stdout:    c.stdout,
		MaxOutput: maxReply,
		AnyExit:   true,
	}
	if c.stdin != nil {
		command.Stdin = bytes.NewReader(c.stdin)
	}
	within := c.within
	if within <= 0 {
		within = answerWithin
	}
	if j.within > 0 {
		within = j.within
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	result, err := j.Runner.Run(bounded, h, command)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		return reply{}, transportError(h.Name, bounded.Err(), "cannot %s: the node did not answer within %s, its disk may hang: try again", c.what, within)
	}
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			err = fmt.Errorf("%s: %w", c.what, err)
		}
		return reply{}, err
	}
	text := result.Stdout
	if c.stdout != nil {
		text = result.Stderr
	}
	r := parseReply(text)
	if result.Truncated {
		return reply{}, &Error{Kind: KindExit, Node: h.Name, Message: "the node's answer is too long: run a sweep"}
	}
	if err := r.failure(h, c.what, result); err != nil {
		return reply{}, err
	}
	return r, nil
}

// VaultsScript is the text of a function `vaults` for a script that takes secrets over standard input: it prints the folders in memory that may keep them, the
// best first. The variable root, empty on a node, stands before the system's folders.
func VaultsScript() string {
	b, err := scriptFiles.ReadFile("scripts/vaults.sh")
	if err != nil {
		panic(err) // a name in this package is wrong
	}
	return string(b)
}
