package remote

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shells that must read back what Quote wrote. The value is the command before `-c`.
func quoteShells(t testing.TB) map[string][]string {
	found := map[string][]string{}
	for _, name := range []string{"dash", "bash", "busybox"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Logf("%s is not installed: not tried", name)
			continue
		}
		found[name] = []string{path}
		if name == "busybox" {
			found[name] = []string{path, "sh"}
		}
	}
	if len(found) == 0 {
		t.Skip("none of dash, bash and busybox is installed")
	}
	return found
}

// nulPrinter is a program that prints its arguments, each ended by NUL.
func nulPrinter(t testing.TB) string {
	path, err := exec.LookPath("printf")
	if err != nil {
		t.Skip("no printf program")
	}
	return path
}

// tooLong says whether args are more than the kernel takes as one argument of sh -c.
func tooLong(args []string) bool { return len(Quote(args)) > maxExec }

func roundTrip(t *testing.T, args []string) {
	t.Helper()
	printer := nulPrinter(t)
	line := Quote(append([]string{printer, `%s\0`}, args...))
	want := strings.Join(args, "\x00") + "\x00"
	for name, shell := range quoteShells(t) {
		cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), "-c", line)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		got, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s\nline %q", name, err, stderr.String(), line)
		}
		if string(got) != want {
			t.Fatalf("%s read %q back as %q", name, want, got)
		}
	}
	if !utf8.ValidString(line) || strings.Contains(line, "\r") {
		// The interpreter refuses text that is no UTF-8, and its parser drops a carriage return before a line feed or a line
		// continuation, quoted or not. Both stay inside the word.
		return
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(line), "")
	if err != nil {
		t.Fatalf("mvdan.cc/sh does not parse %q: %v", line, err)
	}
	var got []string
	runner, err := interp.New(interp.Env(nil), interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc {
		return func(_ context.Context, args []string) error { got = slices.Clone(args); return nil }
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Run(context.Background(), file); err != nil {
		t.Fatalf("mvdan.cc/sh: %v", err)
	}
	if want := append([]string{printer, `%s\0`}, args...); !slices.Equal(got, want) {
		t.Fatalf("mvdan.cc/sh read %q back as %q", want, got)
	}
}

func TestQuote_AnyArguments_ReadBackByEveryShell(t *testing.T) {
	every := make([]byte, 0, 255)
	for b := 1; b < 256; b++ {
		every = append(every, byte(b))
	}
	for _, args := range [][]string{
		{""}, {"", ""}, {"a b"}, {"'"}, {`'"'"'`}, {`\`}, {"$(reboot)"}, {"`reboot`"}, {"a; reboot"}, {"a\nreboot"}, {"-n"}, {"--"},
		{"*"}, {"~"}, {"~root"}, {"{a,b}"}, {"!!"}, {"#"}, {"a=b"}, {"\xff\xfe"}, {string(every)}, {"\u202e"}, {"\x1b]0;x\x07"}, {"%s"}, {"\r\n"},
		{strings.Repeat("'", 1000)},
	} {
		roundTrip(t, args)
	}
}

func TestQuote_FirstWordThatTheShellWouldTakeForSyntax_IsRunAsCommand(t *testing.T) {
	for _, word := range []string{"A=b", "if", "while", "time", "function", "!", "{", "}", "%1", "case", "a b", "x&"} {
		for name, shell := range quoteShells(t) {
			cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), "-c", Quote([]string{word}))...)
			cmd.Env = []string{"PATH=/nonexistent", "LC_ALL=C"}
			out, err := cmd.CombinedOutput()
			code := cmd.ProcessState.ExitCode()
			if code != 127 && !(word == "%1" && code == 1) {
				t.Errorf("%s: %q was not looked for as a command: exit %d (%v) %s", name, word, code, err, out)
			}
		}
	}
}

func TestQuote_NUL_IsRefused(t *testing.T) {
	if err := CheckArgv([]string{"echo", "a\x00b"}); err == nil {
		t.Error("CheckArgv takes a NUL byte")
	}
	if err := CheckArgv(nil); err == nil {
		t.Error("CheckArgv takes an empty command")
	}
	defer func() {
		if recover() == nil {
			t.Error("Quote takes a NUL byte")
		}
	}()
	Quote([]string{"a\x00b"})
}

func FuzzQuote(f *testing.F) {
	f.Add("a; reboot", "it's", "")
	f.Add("$(id)", "\xff\x80", "a\nb")
	f.Add("-e", `\`, "A=b")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		args := []string{a, b, c}
		if strings.Contains(a+b+c, "\x00") {
			if CheckArgv(append([]string{"x"}, args...)) == nil {
				t.Fatal("CheckArgv takes a NUL byte")
			}
			return
		}
		if tooLong(args) {
			t.Skip("more than one argument of a program can hold")
		}
		roundTrip(t, args)
	})
}

func TestEscape_TextFromANode_ShowsNothingThatATerminalObeys(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, äöü, 日本":     "plain text, äöü, 日本",
		"\x1b[31mred":             `\x1b[31mred`,
		"\x1b]0;title\x07":        `\x1b]0;title\x07`,
		"a\r\nb":                  `a\r\nb`,
		"\u009b31m":               `\u009b31m`,
		"\x9b31m":                 `\x9b31m`,
		"abc\u202egpj.exe":        `abc\u202egpj.exe`,
		"\u2066x\u2069":           `\u2066x\u2069`,
		"zero\u200bwidth":         `zero\u200bwidth`,
		"\u2028":                  `\u2028`,
		"\U000e0041":              `\U000e0041`,
		"\ufffd is a real one":    "\ufffd is a real one",
		"half \xe2\x82":           `half \xe2\x82`,
		"tab\there":               `tab\there`,
		"\x00\x7f":                `\x00\x7f`,
		"back\\slash stays":       "back\\slash stays",
		"\xf4\x90\x80\x80 beyond": `\xf4\x90\x80\x80 beyond`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%q) = %q, want %q", in, got, want)
		}
	}
	if got := EscapeLines("a\r\n\tb\x1b\n"); got != "a\n\tb\\x1b\n" {
		t.Errorf("EscapeLines = %q", got)
	}
}

func TestTail_LongOutput_KeepsTheEndWithinTheLimit(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"abcdef", 3, "def"},
		{"abc", 10, "abc"},
		{"abc", 0, ""},
		{"", 5, ""},
		{"a\x1bb", 5, `\x1bb`},
		{"a\x1bb", 4, "b"},
		{"ä€", 3, "€"},
		{"ä€", 4, "€"},
		{"ä€", 5, "ä€"},
		{"line 1\nline 2\n", 8, "\nline 2\n"},
		{"one\r\ntwo", 8, "one\ntwo"},
	} {
		if got := Tail([]byte(c.in), c.max); got != c.want {
			t.Errorf("Tail(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("\x1b]8;;http://x\x07", 10)
	f.Add("a\xc2", 2)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		for _, out := range []string{Escape(s), EscapeLines(s), Tail([]byte(s), limit%5000), oneLine(s, 20+abs(limit%500))} {
			if !utf8.ValidString(out) {
				t.Fatalf("not UTF-8: %q", out)
			}
			for _, r := range out {
				if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
					t.Fatalf("%q of %q holds %U", out, s, r)
				}
			}
		}
		if strings.ContainsAny(Escape(s), "\n\t") {
			t.Fatal("Escape kept a line end")
		}
		if Escape(Escape(s)) != Escape(s) {
			t.Fatal("escaping twice changes the text")
		}
		if got := Tail([]byte(s), limit%5000); len(got) > max(0, limit%5000) {
			t.Fatalf("%d bytes, limit %d", len(got), limit%5000)
		}
		if got := oneLine(s, 20); len(got) > 20 {
			t.Fatalf("%d bytes, limit 20", len(got))
		}
	})
}

func abs(n int) int { return max(n, -n) }
