package simcluster

import (
	"strings"
	"testing"
)

func TestShell_Scripts_BehaveAsDash(t *testing.T) {
	n := oneNode(t, Config{})
	c := dial(t, n)
	for _, tc := range []struct {
		name, script, out string
		exit              int
	}{
		{"echo", `echo hi`, "hi\n", 0},
		{"exit", `exit 7`, "", 7},
		{"not found", `nosuch 2>/dev/null`, "", 127},
		{"variables", `a=1; b=$a$a; echo "$b" ${c:-none} ${#b}`, "11 none 2\n", 0},
		{"arithmetic", `i=3; i=$((i + 4)); echo $i`, "7\n", 0},
		{"if else", `if false; then echo a; elif [ 1 -lt 2 ]; then echo b; else echo c; fi`, "b\n", 0},
		{"loops", `for i in 1 2 3; do [ $i = 2 ] && continue; echo $i; done; n=0; while :; do n=$((n+1)); [ $n -ge 3 ] && break; done; echo $n`, "1\n3\n3\n", 0},
		{"case", `case abc in a*c) echo yes ;; *) echo no ;; esac`, "yes\n", 0},
		{"function and local", `f() { local x=2; echo $x $1; return 3; }; x=1; f a; echo $? $x`, "2 a\n3 1\n", 0},
		{"subshell keeps variables", `x=1; (x=2; echo $x); echo $x`, "2\n1\n", 0},
		{"substitution", `x=$(printf 'a\nb\n\n'); echo "$x"; false; y=$(true); echo $?; z=$(exit 4); echo $?`, "a\nb\n0\n4\n", 0},
		{"pipeline", `printf '3\n1\n2\n' | sort | head -n 1`, "1\n", 0},
		{"pipeline status is the last", `false | true; echo $?; true | false; echo $?`, "0\n1\n", 0},
		{"endless writer ends with its reader", `yes | head -n 2`, "y\ny\n", 0},
		{"shell writer ends with its reader", `while :; do echo x; done | head -n 1`, "x\n", 0},
		{"errexit", `set -e; false; echo no`, "", 1},
		{"errexit spares conditions", `set -e; if false; then :; fi; false || true; ! true; echo yes`, "yes\n", 0},
		{"nounset", `set -u; echo "$nothing" 2>/dev/null; echo no`, "", 2},
		{"here-document", "cat <<EOF\na $((1+1))\nEOF\ncat <<'EOF'\n$x\nEOF", "a 2\n$x\n", 0},
		{"redirections", `cd /tmp; echo a >f; echo b >>f; { echo c; echo d >&2; } >>f 2>&1; cat <f; rm f`, "a\nb\nc\nd\n", 0},
		{"missing input", `cat </nonexistent 2>/dev/null; echo $?`, "2\n", 0},
		{"positional", `set -- a "b c"; echo $# "$2"; shift; echo "$*"`, "2 b c\nb c\n", 0},
		{"read", `printf 'a b c\nd\n' | { read -r x y; echo "$y $x"; read -r z; echo $z; read -r z; echo $?; }`, "b c a\nd\n1\n", 0},
		{"exit trap", `trap 'echo bye' EXIT; echo hi; exit 3`, "hi\nbye\n", 3},
		{"exit trap of a subshell", `(trap 'echo inner' EXIT; :); echo outer`, "inner\nouter\n", 0},
		{"background and wait", `{ sleep 0.01; echo late; } & echo early; wait; echo $?`, "early\nlate\n0\n", 0},
		{"wait gives the status", `(exit 5) & wait $!; echo $?`, "5\n", 0},
		{"kill a background process", `sleep 100 & p=$!; kill -0 $p && kill $p; wait $p; echo $?; kill -0 $p 2>/dev/null || echo gone`, "143\ngone\n", 0},
		{"quoting", `printf '%s|' "a b" 'c$d' e\ f; echo`, "a b|c$d|e f|\n", 0},
		{"glob", `cd /tmp; mkdir g; touch g/a g/b; echo g/*; echo g/x*; rm -r g`, "g/a g/b\ng/x*\n", 0},
		{"suffix and prefix", `p=/a/b.c; echo ${p##*/} ${p%/*} ${p%.c}`, "b.c /a /a/b\n", 0},
		{"exec replaces", `exec echo x; echo no`, "x\n", 0},
		{"exec redirects", `exec 3>/tmp/x; echo three >&3; exec 3>&-; cat /tmp/x`, "three\n", 0},
		{"eval", `eval 'x=1; echo $x'`, "1\n", 0},
		{"dot", `echo 'y=5' >/tmp/d; . /tmp/d; echo $y`, "5\n", 0},
		{"command -v", `command -v flock sh nosuch`, "/usr/bin/flock\n", 0}, {"command -v of what is not there", `command -v nosuch; echo $?`, "127\n", 0},
		{"environment is exported", `export A=1; B=2; C=3 sh -c 'echo $A-$B-$C'`, "1--3\n", 0},
		{"echo knows escapes", `echo 'a\tb'`, "a\tb\n", 0},
		{"disk full of a builtin", `echo x >/dev/full; echo $?`, "1\n", 0},
		{"nested quotes", `sh -c 'printf "%s\n" "$0" "$1"' name arg`, "name\narg\n", 0},
		{"test", `[ -e /etc/hostname ] && [ -d /etc ] && [ ! -e /nope ] && [ -x /usr/bin/env ] && [ a != b ] && [ "" = "" ] && test 2 -gt 1 && echo ok`, "ok\n", 0},
		{"pid of the shell", `[ "$(sh -c 'echo $PPID')" = $$ ] || [ $$ -gt 1 ] && echo ok`, "ok\n", 0},
		{"killed by its own hand", `kill -KILL $$; echo no`, "", 137},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := run(t, c, "sh -s", tc.script+"\n")
			if got.out != tc.out || got.exit != tc.exit {
				t.Errorf("over stdin: got %q exit %d (stderr %q), want %q exit %d", got.out, got.exit, got.err, tc.out, tc.exit)
			}
			got = run(t, c, "exec sh -c '"+strings.ReplaceAll(tc.script, "'", `'\''`)+"'")
			if got.out != tc.out || got.exit != tc.exit {
				t.Errorf("sh -c: got %q exit %d (stderr %q), want %q exit %d", got.out, got.exit, got.err, tc.out, tc.exit)
			}
		})
	}
}
