package activities

import (
	"context"
	"embed"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

//go:embed scripts/*.sh
var scripts embed.FS

// script is the text of the files named, after what all of them share.
func script(names ...string) string {
	var b strings.Builder
	for _, name := range append([]string{"answer"}, names...) {
		text, err := scripts.ReadFile("scripts/" + name + ".sh")
		if err != nil {
			panic("activities: " + err.Error()) // a name in this package that has no file
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}

// plainScript is the text of one script alone, for a job.
func plainScript(name string) string {
	text, err := scripts.ReadFile("scripts/" + name + ".sh")
	if err != nil {
		panic("activities: " + err.Error()) // a name in this package that has no file
	}
	return string(text)
}

const answerMark = "@katoflow "

// answer is what a script of this package told: words by their key, and texts between section lines. What login files of the node print
// before it is in neither.
type answer struct {
	values   map[string][]string
	sections map[string]string
	complete bool
}

func parseAnswer(out []byte) answer {
	a := answer{values: map[string][]string{}, sections: map[string]string{}}
	section := ""
	for line := range strings.Lines(string(out)) {
		text, told := strings.CutPrefix(line, answerMark)
		if !told {
			// A section's last line may not end by itself, so the mark can stand in its middle.
			if i := strings.Index(line, answerMark); i >= 0 {
				if section != "" {
					a.sections[section] += line[:i]
				}
				text, told = line[i+len(answerMark):], true
			}
		}
		if !told {
			if section != "" {
				a.sections[section] += line
			}
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(text), " ")
		switch key {
		case "section":
			if section = value; section != "" {
				a.sections[section] += ""
			}
		case "end":
			section, a.complete = "", true
		default:
			a.values[key] = append(a.values[key], strings.TrimSpace(value))
		}
	}
	return a
}

// value of a key that is told once; "" when it was not.
func (a answer) value(key string) string {
	if v := a.values[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (a answer) has(section string) bool { _, ok := a.sections[section]; return ok }

// exit is the exit code told under key, -1 when none was.
func (a answer) exit(key string) int {
	n, err := strconv.Atoi(a.value(key))
	if err != nil {
		return -1
	}
	return n
}

// askWithin is how long a script that only reads may take.
const askWithin = 90 * time.Second

// ask runs a script of this package on a node. It must only read, or be harmless to repeat. The error is of package remote, or says that the
// answer was cut off or did not come within askWithin, which is a lost connection.
func ask(ctx context.Context, c Connections, h remote.Host, text string, args ...string) (answer, error) {
	return askFor(ctx, askWithin, c, h, text, args...)
}

// askFor is ask with another limit of time.
func askFor(ctx context.Context, limit time.Duration, c Connections, h remote.Host, text string, args ...string) (answer, error) {
	return askWith(ctx, limit, c, h, nil, text, args...)
}

// askWith is askFor with a standard input.
func askWith(ctx context.Context, limit time.Duration, c Connections, h remote.Host, stdin io.Reader, text string, args ...string) (answer, error) {
	return answerOf(ctx, limit, c, h, remote.Command{Script: text, Args: args, Stdin: stdin})
}

// lookName is $0 of a script that root runs and that changes nothing, for those who read sudo's log.
const lookName = "katoflow-look"

// askRoot is askFor by root: with sudo, unless the login user is root. sudo has to let it run a shell.
func askRoot(ctx context.Context, limit time.Duration, c Connections, h remote.Host, text string, args ...string) (answer, error) {
	if h.User == "root" {
		return askFor(ctx, limit, c, h, text, args...)
	}
	return answerOf(ctx, limit, c, h, remote.Command{Argv: append([]string{"sudo", "-n", "sh", "-c", text, lookName}, args...)})
}

// answerOf runs a command that tells what scripts of this package tell.
func answerOf(ctx context.Context, limit time.Duration, c Connections, h remote.Host, command remote.Command) (answer, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	command.AnyExit, command.MaxOutput = true, 4<<20
	result, err := c.Run(bounded, h, command)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		return answer{}, &remote.Error{Kind: remote.KindTransport, Node: h.Name,
			Message: "the node took the connection and did not answer within " + limit.String() + ", its disk may hang: see to it, or try again"}
	}
	if err != nil {
		return answer{}, err
	}
	a := parseAnswer(result.Stdout)
	if a.complete {
		return a, nil
	}
	if result.ExitCode > 128 || result.ExitCode == 0 {
		return answer{}, &remote.Error{Kind: remote.KindTransport, Node: h.Name, Message: "the answer of the node was cut off (exit " + strconv.Itoa(result.ExitCode) + "): try again"}
	}
	kind, why := remote.KindExit, ""
	if result.ExitCode == 127 {
		kind = remote.KindMissingTool
	}
	if tail := remote.Tail(result.Stderr, maxTail); tail != "" {
		why = ": " + operation.Shorten(lastLineOf(tail), 200)
	}
	return answer{}, &remote.Error{Kind: kind, Node: h.Name, ExitCode: result.ExitCode, Tail: remote.Tail(result.Stderr, maxTail),
		Message: "the node cannot be read: exit " + strconv.Itoa(result.ExitCode) + why}
}
