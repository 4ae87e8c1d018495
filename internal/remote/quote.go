package remote

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"al.essio.dev/pkg/shellescape"
)

// reservedWords of POSIX sh, bash and busybox ash: unquoted in the place of a command they would not be one.
var reservedWords = map[string]bool{
	"if": true, "then": true, "else": true, "elif": true, "fi": true, "do": true, "done": true, "case": true, "esac": true,
	"while": true, "until": true, "for": true, "in": true, "function": true, "select": true, "time": true, "coproc": true,
}

// CheckArgv returns an error when argv cannot be a command line: it is empty, its first word is empty, or an argument holds a
// NUL byte, which no program can be given.
func CheckArgv(argv []string) error {
	if len(argv) == 0 || argv[0] == "" {
		return errors.New("empty command: name the program to run")
	}
	return checkArguments(argv)
}

func checkArguments(argv []string) error {
	for i, arg := range argv {
		if strings.IndexByte(arg, 0) >= 0 {
			return fmt.Errorf("argument %d (%s) holds a NUL byte: no program can be given one", i, Escape(arg))
		}
	}
	return nil
}

// Quote turns argv into shell text that dash, bash and busybox ash read back as exactly argv, whatever the bytes are. It is the
// only place where arguments become shell text. The interpreter mvdan.cc/sh reads the same, except that it refuses text
// that is no UTF-8 and drops a carriage return before a line feed.
//
// A NUL byte cannot be quoted in any shell (bash drops it, dash ends the text there): Quote panics on it. Arguments that come
// from outside are checked with CheckArgv first, as Pool.Run does.
func Quote(argv []string) string {
	if err := checkArguments(argv); err != nil {
		panic("remote.Quote: " + err.Error())
	}
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = shellescape.Quote(arg)
	}
	// The first word unquoted could be an assignment (A=b), a reserved word (if) or a job (%1).
	if len(words) > 0 && words[0] == argv[0] && (strings.ContainsAny(argv[0], "=%") || reservedWords[argv[0]]) {
		words[0] = "'" + argv[0] + "'"
	}
	return strings.Join(words, " ")
}

// Escape makes s safe to show on a terminal or a web page in one line: control characters (C0, DEL, C1, so every ANSI and OSC
// sequence), line ends, bidirectional and other invisible formatting characters, private and unassigned code points, and bytes
// that are no UTF-8 become \n, \x1b, \u202e and the like. Text without these is returned as it is.
func Escape(s string) string { return escape(s, false) }

// EscapeLines is Escape that keeps line feeds and tabs, for text of several lines. A carriage return before a line feed goes.
func EscapeLines(s string) string { return escape(strings.ReplaceAll(s, "\r\n", "\n"), true) }

// Tail returns the end of b, escaped like EscapeLines, in at most max bytes. It never begins in the middle of a character or
// of an escape sequence.
func Tail(b []byte, max int) string {
	if max <= 0 {
		return ""
	}
	if len(b) > max {
		b = b[len(b)-max:]
		// Escaping makes nothing shorter (but a line end), so what lies before these max bytes is not needed. The cut may have
		// left up to three bytes of a character.
		for i := 0; i < utf8.UTFMax-1 && len(b) > 0 && !utf8.RuneStart(b[0]); i++ {
			b = b[1:]
		}
	}
	s := strings.ReplaceAll(string(b), "\r\n", "\n")
	var pieces []string
	size := 0
	for len(s) > 0 {
		r, n := utf8.DecodeLastRuneInString(s)
		piece := escapeRune(r, s[len(s)-n:], true)
		if size+len(piece) > max {
			break
		}
		size += len(piece)
		pieces = append(pieces, piece)
		s = s[:len(s)-n]
	}
	var out strings.Builder
	out.Grow(size)
	for i := len(pieces) - 1; i >= 0; i-- {
		out.WriteString(pieces[i])
	}
	return out.String()
}

func escape(s string, keepLines bool) string {
	clean := true
	for i, r := range s {
		if needsEscape(r, keepLines) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var out strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		out.WriteString(escapeRune(r, s[:n], keepLines))
		s = s[n:]
	}
	return out.String()
}

func needsEscape(r rune, keepLines bool) bool {
	if keepLines && (r == '\n' || r == '\t') {
		return false
	}
	return !unicode.IsPrint(r)
}

// escapeRune returns how r, decoded from raw, is shown.
func escapeRune(r rune, raw string, keepLines bool) string {
	if r == utf8.RuneError && len(raw) == 1 {
		return `\x` + hexDigits(uint64(raw[0]), 2)
	}
	if !needsEscape(r, keepLines) {
		return raw
	}
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r < utf8.RuneSelf:
		return `\x` + hexDigits(uint64(r), 2)
	case r <= 0xffff:
		return `\u` + hexDigits(uint64(r), 4)
	default:
		return `\U` + hexDigits(uint64(r), 8)
	}
}

func hexDigits(v uint64, digits int) string {
	s := strconv.FormatUint(v, 16)
	return strings.Repeat("0", max(0, digits-len(s))) + s
}

// oneLine returns s escaped and cut to at most limit bytes, for use inside a message.
func oneLine(s string, limit int) string {
	s = Escape(strings.TrimSpace(s))
	if len(s) <= limit {
		return s
	}
	cut := limit - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
