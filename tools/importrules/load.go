package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// module is the main module as the rules see it.
type module struct {
	path     string
	root     string // absolute
	files    *token.FileSet
	own      []*goPackage          // packages of the module, in import path order
	all      map[string]*goPackage // those and everything they import
	requires []requirement
}

type requirement struct {
	path string
	line int
}

// goPackage is one package as "go list -json" describes it.
type goPackage struct {
	ImportPath     string
	Name           string
	Dir            string
	Standard       bool
	DepOnly        bool
	GoFiles        []string
	CgoFiles       []string
	IgnoredGoFiles []string
	Imports        []string

	files []goFile
}

// goFile is one parsed file that is not a test.
type goFile struct {
	name   string // relative to the module's root
	syntax *ast.File
}

// place is the package's folder in the module, "." for the root.
func (m *module) place(p *goPackage) string {
	if p.ImportPath == m.path {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, m.path+"/")
}

// load reads go.mod, the packages of the module with all they import, and the syntax of the module's own files (those
// that build tags leave out, too).
func load(dir string) (*module, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// "go list" reports folders without symbolic links.
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	m := &module{root: root, files: token.NewFileSet(), all: map[string]*goPackage{}}
	if err := m.readGoMod(); err != nil {
		return nil, err
	}
	if err := m.list(); err != nil {
		return nil, err
	}
	for _, p := range m.own {
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles) {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			full := filepath.Join(p.Dir, name)
			syntax, err := parser.ParseFile(m.files, full, nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			relative, err := filepath.Rel(m.root, full)
			if err != nil {
				return nil, err
			}
			p.files = append(p.files, goFile{filepath.ToSlash(relative), syntax})
		}
	}
	return m, nil
}

func (m *module) readGoMod() error {
	file := filepath.Join(m.root, "go.mod")
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	parsed, err := modfile.Parse(file, content, nil)
	if err != nil {
		return err
	}
	if parsed.Module == nil {
		return fmt.Errorf("%s names no module", file)
	}
	m.path = parsed.Module.Mod.Path
	for _, r := range parsed.Require {
		m.requires = append(m.requires, requirement{r.Mod.Path, r.Syntax.Start.Line})
	}
	return nil
}

func (m *module) list() error {
	cmd := exec.Command("go", "list", "-deps",
		"-json=ImportPath,Name,Dir,Standard,DepOnly,GoFiles,CgoFiles,IgnoredGoFiles,Imports", "./...")
	cmd.Dir = m.root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go list in %s: %w\n%s", m.root, err, strings.TrimSpace(stderr.String()))
	}
	decoder := json.NewDecoder(bytes.NewReader(output))
	for {
		p := &goPackage{}
		if err := decoder.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("output of go list: %w", err)
		}
		m.all[p.ImportPath] = p
		if !p.DepOnly {
			m.own = append(m.own, p)
		}
	}
	if len(m.own) == 0 {
		return fmt.Errorf("%s holds no packages", m.root)
	}
	return nil
}
