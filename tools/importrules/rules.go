package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

// finding is one broken rule at one place; file is relative to the module's root.
type finding struct {
	file    string
	line    int
	message string
}

func (f finding) String() string { return fmt.Sprintf("%s:%d: %s", f.file, f.line, f.message) }

const temporalDomain = "go.temporal.io"

var (
	// workflowImports are the packages workflow code may import besides those of its own module: the Temporal workflow
	// API and standard packages whose results depend on nothing but their arguments. Single functions that do
	// otherwise (time.Now) are found by workflowcheck.
	workflowImports = []string{
		"go.temporal.io/api/enums/v1",
		"go.temporal.io/sdk/log",
		"go.temporal.io/sdk/temporal",
		"go.temporal.io/sdk/workflow",
		"bytes", "cmp", "encoding/json", "errors", "fmt", "iter", "maps", "math", "math/bits", "regexp", "slices", "sort",
		"strconv", "strings", "time", "unicode", "unicode/utf8",
	}
	// workflowSiblings are the packages of the module workflow code may import, besides its own sub-packages.
	workflowSiblings = []string{"activities", "internal/operation"}

	// temporalFree are the packages that must be usable without Temporal.
	temporalFree = []string{
		"internal/archive", "internal/controller", "internal/hypervisor", "internal/inventory", "internal/kato",
		"internal/remote", "internal/simcluster", "internal/lab",
	}

	// entryPoints may read flags and the environment (the end-to-end tests are one, their support code is no _test
	// file); entryPointMains may if they are main packages.
	entryPoints     = []string{"internal/e2e", "starter", "worker"}
	entryPointMains = []string{"deploy", "internal/simcluster/cmd"}
	flagPackages    = []string{"flag", "github.com/spf13/cobra", "github.com/spf13/pflag"}

	// heavyModules are required by deploy/devstack only.
	heavyModules = []string{"go.temporal.io/server", "github.com/temporalio/ui-server", "github.com/versity/versitygw"}
)

// environmentFunctions read the process environment, by package.
var environmentFunctions = map[string][]string{
	"os":      {"Getenv", "LookupEnv", "Environ", "ExpandEnv"},
	"syscall": {"Getenv", "Environ"},
}

// globalLoggers use a logger nobody passed, by package.
var globalLoggers = map[string][]string{
	"go.uber.org/zap": {"L", "S", "ReplaceGlobals", "RedirectStdLog", "RedirectStdLogAt"},
	"log": {
		"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln", "Output", "Default",
		"Writer", "SetOutput", "SetFlags", "SetPrefix",
	},
	"log/slog": {
		"Debug", "DebugContext", "Info", "InfoContext", "Warn", "WarnContext", "Error", "ErrorContext", "Log", "LogAttrs",
		"With", "Default", "SetDefault", "SetLogLoggerLevel",
	},
}

// check applies all rules to the module at dir and returns the findings in order of file and line.
func check(dir string) ([]finding, error) {
	m, err := load(dir)
	if err != nil {
		return nil, err
	}
	var findings []finding
	for _, p := range m.own {
		findings = append(findings, m.checkPackage(p)...)
	}
	for _, r := range m.requires {
		for _, heavy := range heavyModules {
			if under(r.path, heavy) {
				findings = append(findings, finding{"go.mod", r.line, r.path + " must not be required by the main module; it belongs to deploy/devstack"})
			}
		}
	}
	slices.SortFunc(findings, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.message, b.message))
	})
	return slices.Compact(findings), nil
}

func (m *module) checkPackage(p *goPackage) []finding {
	place := m.place(p)
	isEntryPoint := underAny(place, entryPoints) || p.Name == "main" && underAny(place, entryPointMains)
	var findings []finding
	for _, f := range p.files {
		report := func(pos token.Pos, format string, args ...any) {
			findings = append(findings, finding{f.name, m.files.Position(pos).Line, fmt.Sprintf(format, args...)})
		}
		for _, spec := range f.syntax.Imports {
			imported := importPath(spec)
			if under(place, "workflows") && !m.workflowMayImport(imported) {
				report(spec.Pos(), "workflow code must not import %s; only operation, activities, the Temporal workflow API and pure standard packages", imported)
			}
			if underAny(place, temporalFree) {
				if chain := m.chainToTemporal(imported); chain != nil {
					report(spec.Pos(), "%s must not know Temporal: %s", place, strings.Join(chain, " imports "))
				}
			}
			if slices.Contains(flagPackages, imported) && !isEntryPoint {
				report(spec.Pos(), "only worker and starter read flags; %s imports %s", place, imported)
			}
		}
		if !isEntryPoint {
			for _, use := range f.uses(environmentFunctions) {
				report(use.pos, "only worker and starter read the environment; %s uses %s", place, use.name)
			}
		}
		if under(place, "internal") {
			for _, use := range f.uses(globalLoggers) {
				report(use.pos, "no global logger in internal; %s uses %s, take a *zap.Logger instead", place, use.name)
			}
		}
	}
	return findings
}

func (m *module) workflowMayImport(imported string) bool {
	if own, ok := strings.CutPrefix(imported, m.path+"/"); ok {
		return under(own, "workflows") || slices.Contains(workflowSiblings, own)
	}
	return slices.Contains(workflowImports, imported)
}

// chainToTemporal returns the shortest chain of imports from a package to one of Temporal, or nil.
func (m *module) chainToTemporal(from string) []string {
	type step struct {
		path  string
		chain []string
	}
	seen := map[string]bool{from: true}
	for queue := []step{{from, []string{from}}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if under(at.path, temporalDomain) {
			return at.chain
		}
		p := m.all[at.path]
		if p == nil || p.Standard {
			continue
		}
		for _, next := range p.Imports {
			if !seen[next] {
				seen[next] = true
				queue = append(queue, step{next, append(slices.Clone(at.chain), next)})
			}
		}
	}
	return nil
}

// use is a mention of a package's function.
type use struct {
	pos  token.Pos
	name string // as written, with the package's own name
}

// uses finds mentions of the functions, called or passed on, whatever name the package was imported under.
func (f goFile) uses(functions map[string][]string) []use {
	importedAs := map[string]string{} // name in the file -> path
	dotted := map[string]string{}     // function -> path, for dot imports
	for _, spec := range f.syntax.Imports {
		imported := importPath(spec)
		names, watched := functions[imported]
		if !watched {
			continue
		}
		switch {
		case spec.Name == nil:
			importedAs[path.Base(imported)] = imported
		case spec.Name.Name == ".":
			for _, name := range names {
				dotted[name] = imported
			}
		default:
			importedAs[spec.Name.Name] = imported
		}
	}
	var found []use
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				if imported, ok := importedAs[x.Name]; ok && slices.Contains(functions[imported], n.Sel.Name) {
					found = append(found, use{n.Pos(), path.Base(imported) + "." + n.Sel.Name})
				}
			}
		case *ast.CallExpr:
			if fun, ok := n.Fun.(*ast.Ident); ok {
				if imported, ok := dotted[fun.Name]; ok {
					found = append(found, use{fun.Pos(), path.Base(imported) + "." + fun.Name})
				}
			}
		}
		return true
	})
	return found
}

func importPath(spec *ast.ImportSpec) string {
	p, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return spec.Path.Value
	}
	return p
}

// under tells whether a slash-separated path is the folder or lies in it.
func under(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

func underAny(p string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return under(p, folder) })
}
