package remote

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var encodedName = regexp.MustCompile(`^[a-z0-9-]*$`)

func FuzzEncodeID(f *testing.F) {
	for _, pair := range [][2]string{{"a", "A"}, {"-", "--"}, {"a-41", "aA"}, {"", "-"}, {"a-zb", "a"}, {"\xff", "-ff"}, {"ä", "a"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ea, eb := EncodeID(a), EncodeID(b)
		if (a == b) != (ea == eb) {
			t.Errorf("%q and %q are encoded as %q and %q", a, b, ea, eb)
		}
		if !encodedName.MatchString(ea) {
			t.Errorf("%q is encoded as %q", a, ea)
		}
		if back, err := DecodeID(ea); err != nil || back != a {
			t.Errorf("%q comes back as %q, %v", a, back, err)
		}
		if back, err := DecodeID(a); err == nil && EncodeID(back) != a {
			t.Errorf("%q is decoded although it is not the encoding of %q", a, back)
		}
		one, other := JobID{a, b, "s", 1}.Dir(), JobID{b, a, "s", 1}.Dir()
		if (a == b) != (one == other) || len(one) > maxDir || !encodedName.MatchString(one) {
			t.Errorf("directories %q and %q", one, other)
		}
		if moved := (JobID{a + b, "", "s", 1}).Dir(); moved == one && b != "" {
			t.Errorf("the parts run together in %q", one)
		}
	})
}

func TestJobID_Dir_ReadsWellAndIsBounded(t *testing.T) {
	require.Equal(t, "op--1-znode-2e1-zupgrade-z2", JobID{"op-1", "node.1", "upgrade", 2}.Dir())
	seen := map[string]bool{}
	for n := range 400 {
		for _, c := range []string{"x", "-", "Z"} {
			dir := JobID{strings.Repeat(c, n+1), "n", "s", 1}.Dir()
			require.False(t, seen[dir], dir)
			require.LessOrEqual(t, len(dir), maxDir)
			seen[dir] = true
		}
	}
	require.Equal(t, "op 1/n\\x1b/s/1", JobID{"op 1", "n\x1b", "s", 1}.String())
}

func FuzzParseReply(f *testing.F) {
	f.Add("@katoflow job 0 17 boot-1 16 free 3 0 a-zb-zc-z1 1 a b c 1 sum 0 boot-1\n@katoflow boot boot-1\n@katoflow end\n", 0)
	f.Add("motd\n@katoflow fail fenced 12 op--2\n", 9)
	f.Add("@katoflow job\n@katoflow fail\n@katoflow", 1)
	f.Add("@katoflow fail busy\n@katoflow fail locked\n@katoflow boot\n", 137)
	f.Fuzz(func(t *testing.T, text string, exit int) {
		h := Host{Name: "n1"}
		r := parseReply([]byte(text))
		if _, err := r.one(h, testID("a")); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q", err)
		}
		_, _ = r.all(h)
		err := r.failure(h, "test", Result{ExitCode: exit, Stderr: []byte(text)})
		if err == nil && (exit != 0 || !r.complete) {
			t.Error("a script that did not come to its end counts as well")
		}
		if err != nil && Escape(err.Error()) != err.Error() {
			t.Errorf("not fit for a terminal: %q", err)
		}
	})
}
