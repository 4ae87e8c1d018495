package remote

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/syntax"
)

// forbiddenCommands are outside the subset that dash, bash, busybox ash and the simulated nodes' shell share.
var forbiddenCommands = []string{"umask", "local", "source", ".", "declare", "typeset", "let", "wait", "eval", "alias", "ulimit", "pushd", "popd",
	"shopt", "select", "jobs", "disown", "bg", "fg", "mapfile", "readarray", "echo", "[["}

// lint returns what in a script is outside the subset.
func lint(name, script string) []string {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(script), name)
	if err != nil {
		return []string{"no POSIX shell: " + err.Error()}
	}
	var found []string
	report := func(node syntax.Node, format string, args ...any) {
		found = append(found, fmt.Sprintf("%s:%d: %s", name, node.Pos().Line(), fmt.Sprintf(format, args...)))
	}
	syntax.Walk(file, func(node syntax.Node) bool {
		switch node := node.(type) {
		case *syntax.Redirect:
			if node.N != nil && !slices.Contains([]string{"0", "1", "2"}, node.N.Value) {
				report(node, "descriptor %s: only 0 to 2", node.N.Value)
			}
			switch node.Op {
			case syntax.RdrInOut:
				report(node, "<> opens nothing on a simulated node")
			case syntax.DplIn, syntax.DplOut:
				if word := node.Word.Lit(); !slices.Contains([]string{"0", "1", "2"}, word) {
					report(node, "descriptor %q: only 0 to 2", word)
				}
			case syntax.Hdoc, syntax.DashHdoc:
				report(node, "here-documents need a temporary file")
			}
		case *syntax.Stmt:
			if node.Coprocess || node.Disown {
				report(node, "coprocess")
			}
		case *syntax.Subshell:
			if len(node.Stmts) == 1 && node.Stmts[0].Pos().Offset() == node.Lparen.Offset()+1 {
				if _, ok := node.Stmts[0].Cmd.(*syntax.Subshell); ok {
					report(node, "(( is arithmetic in bash")
				}
			}
		case *syntax.FuncDecl:
			if node.RsrvWord {
				report(node, "function: write name()")
			}
		case *syntax.ProcSubst, *syntax.ArrayExpr, *syntax.TestClause, *syntax.ArithmCmd, *syntax.LetClause, *syntax.DeclClause, *syntax.ExtGlob, *syntax.CoprocClause:
			if d, ok := node.(*syntax.DeclClause); ok && d.Variant.Value == "export" {
				return true
			}
			report(node, "%T is not in the subset", node)
		case *syntax.ParamExp:
			if node.Param != nil && node.Param.Value == "!" {
				report(node, "$!: a background process is not known by number")
			}
			if node.Index != nil || node.Slice != nil || node.Repl != nil || node.Excl {
				report(node, "expansion of bash")
			}
		case *syntax.CallExpr:
			if len(node.Args) == 0 {
				return true
			}
			command := node.Args[0].Lit()
			if slices.Contains(forbiddenCommands, command) {
				report(node, "%s is not in the subset", command)
			}
			switch command {
			case "trap":
				if len(node.Args) != 3 || node.Args[2].Lit() != "EXIT" {
					report(node, "trap: only EXIT")
				}
			case "exec":
				if len(node.Args) == 1 {
					report(node, "exec without a command")
				}
			case "flock":
				if len(node.Args) > 1 && isNumber(node.Args[len(node.Args)-1].Lit()) {
					report(node, "flock of a descriptor")
				}
			case "kill":
				for _, arg := range node.Args[1:] {
					syntax.Walk(arg, func(n syntax.Node) bool {
						if p, ok := n.(*syntax.ParamExp); ok && p.Param != nil && p.Param.Value == "$" {
							report(p, "kill of $$")
						}
						return true
					})
				}
			}
		}
		if s, ok := node.(*syntax.Stmt); ok {
			if call, ok := s.Cmd.(*syntax.CallExpr); ok && len(s.Redirs) > 0 && len(call.Args) > 0 {
				if slices.Contains([]string{":", "set", "shift", "export", "readonly", "unset", "exit", "return", "break", "continue"}, call.Args[0].Lit()) {
					report(s, "redirection of the special builtin %s: when it fails dash exits", call.Args[0].Lit())
				}
			}
		}
		return true
	})
	return found
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func TestScripts_EveryScript_IsInTheSubsetAndShort(t *testing.T) {
	names, err := fs.Glob(scriptFiles, "scripts/*.sh")
	require.NoError(t, err)
	require.Greater(t, len(names), 10)
	for _, name := range names {
		b, err := fs.ReadFile(scriptFiles, name)
		require.NoError(t, err)
		require.Empty(t, lint(name, string(b)))
		require.Less(t, len(b), 6<<10, "%s is too long to be read", name)
	}
	for _, spec := range payloadSpecs() {
		script, err := spec.script()
		require.NoError(t, err)
		require.Empty(t, lint("payload", script))
	}
}

func payloadSpecs() []JobSpec {
	base := JobSpec{ID: testID("x"), Lease: testLease, Argv: []string{"prog", "a b", "c'd"}, Env: map[string]string{"A": "1 2", "B": "$x"},
		Secrets: map[string][]byte{"URL": []byte("u")}, Interruptible: true}
	sudo, login := base, base
	sudo.Sudo, login.Login = true, true
	return []JobSpec{base, sudo, login}
}

func TestLint_ScriptOutsideTheSubset_IsReported(t *testing.T) {
	for name, script := range map[string]string{
		"descriptor 3":          "exec true 3>f",
		"descriptor 9 input":    "flock -n f cat 9<f",
		"duplicate 5":           "true >&5",
		"closed descriptor":     "true 2>&-",
		"trap TERM":             "trap 'x' TERM",
		"trap EXIT and INT":     "trap 'x' EXIT INT",
		"trap ignoring":         "trap '' 15",
		"background pid":        "sleep 1 & p=$!",
		"background pid braces": "sleep 1 & p=${!}",
		"umask":                 "umask 077",
		"read and write":        "cat <>f",
		"process substitution":  "cat <(true)",
		"array":                 "a=(1 2)",
		"double brackets":       "[[ a = b ]]",
		"local":                 "f() { local x; }",
		"function":              "function f { true; }",
		"source":                "source f",
		"dot":                   ". f",
		"wait":                  "wait",
		"eval":                  "eval x",
		"here-string":           "cat <<<x",
		"here-document":         "cat <<E\nx\nE\n",
		"substring":             "echo2 ${a:1:2}",
		"replacement":           "echo2 ${a/b/c}",
		"arithmetic command":    "((a = 1))",
		"both streams":          "true &>f",
		"kill itself":           "kill -9 $$",
		"exec alone":            "exec >f",
		"flock of a number":     "flock -n 9",
		"special builtin":       ": >f",
		"echo":                  "echo x",
		"extended pattern":      "case a in @(a|b)) true ;; esac",
		"C loop":                "for ((i = 0; i < 3; i++)); do true; done",
		"declare":               "declare -a x",
		"unfinished":            "if true; then",
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEmpty(t, lint("x", script), "%s", script)
		})
	}
}
