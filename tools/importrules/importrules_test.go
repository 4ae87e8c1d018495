package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stubs are the foreign modules of the fake trees, with the packages that matter.
var stubs = map[string]map[string]string{
	"go.temporal.io/sdk": {
		"workflow/w.go": "package workflow", "temporal/t.go": "package temporal", "log/l.go": "package log",
		"client/c.go": "package client", "activity/a.go": "package activity",
	},
	"go.temporal.io/api":                 {"enums/v1/e.go": "package enums"},
	"go.temporal.io/server":              {"server.go": "package server"},
	"go.uber.org/zap":                    {"zap.go": "package zap\nfunc L() {}\nfunc S() {}\nfunc NewNop() {}"},
	"github.com/spf13/cobra":             {"cobra.go": "package cobra"},
	"github.com/spf13/pflag":             {"pflag.go": "package pflag"},
	"example.com/wraps":                  {"wraps.go": "package wraps\nimport _ \"go.temporal.io/sdk/client\""},
	"github.com/versity/versitygw":       {"v.go": "package versitygw"},
	"github.com/temporalio/ui-server/v2": {"u.go": "package ui"},
}

// tree writes a module with the files and the stubs it may import. The first line of go.mod's require block is line 3.
func tree(t *testing.T, files map[string]string, requires ...string) string {
	t.Helper()
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base := []string{
		"go.temporal.io/sdk", "go.temporal.io/api", "go.uber.org/zap", "github.com/spf13/cobra", "github.com/spf13/pflag", "example.com/wraps",
	}
	goMod := "module example.com/katoflow\ngo 1.26.0\n"
	for _, path := range append(requires, base...) {
		version := "v1.0.0"
		if strings.HasSuffix(path, "/v2") {
			version = "v2.0.0"
		}
		folder := "stubs/" + path
		goMod += "require " + path + " " + version + "\nreplace " + path + " => ./" + folder + "\n"
		write(folder+"/go.mod", "module "+path+"\ngo 1.26.0")
		for name, content := range stubs[path] {
			write(folder+"/"+name, content)
		}
	}
	write("go.mod", goMod)
	write("internal/operation/operation.go", "package operation")
	for name, content := range files {
		write(name, content)
	}
	return root
}

func TestCheck_OfTrees_FindsWhatBreaksARule(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOWORK", "off")
	for name, row := range map[string]struct {
		files    map[string]string
		requires []string
		want     []string // prefixes of the lines, in order
	}{
		"everything in its place": {
			files: map[string]string{
				"workflows/a.go": `package workflows
import (
	_ "errors"
	_ "fmt"
	_ "time"
	_ "unicode/utf8"
	_ "example.com/katoflow/activities"
	_ "example.com/katoflow/internal/operation"
	_ "example.com/katoflow/workflows/steps"
	_ "go.temporal.io/api/enums/v1"
	_ "go.temporal.io/sdk/log"
	_ "go.temporal.io/sdk/temporal"
	_ "go.temporal.io/sdk/workflow"
)`,
				"workflows/steps/s.go":                "package steps",
				"workflows/a_test.go":                 "package workflows\nimport _ \"os\"\nimport _ \"go.temporal.io/sdk/client\"",
				"activities/a.go":                     "package activities\nimport _ \"go.temporal.io/sdk/activity\"\nimport _ \"os\"",
				"internal/remote/r.go":                "package remote\nimport \"os\"\nvar _, _ = os.Getwd()\nvar _ = os.ReadFile",
				"internal/remote/r_test.go":           "package remote\nimport \"os\"\nvar _ = os.Getenv(\"HOME\")",
				"internal/kato/k.go":                  "package kato\nimport \"go.uber.org/zap\"\nfunc f() { zap.NewNop() }",
				"internal/temporalkit/t.go":           "package temporalkit\nimport _ \"go.temporal.io/sdk/client\"",
				"internal/logs/l.go":                  "package logs\nimport \"log\"\nvar _ = log.New",
				"internal/simcluster/cmd/sim/main.go": "package main\nimport _ \"flag\"\nimport \"os\"\nfunc main() { os.Getenv(\"X\") }",
				"deploy/lab/main.go":                  "package main\nimport _ \"flag\"\nfunc main() {}",
				"worker/main.go":                      "package main\nimport _ \"github.com/spf13/cobra\"\nimport \"os\"\nfunc main() { os.Environ() }",
				"starter/main.go":                     "package main\nimport _ \"github.com/spf13/pflag\"\nfunc main() {}",
				"internal/e2e/harness/h.go":           "package harness\nimport \"os\"\nvar _ = os.Getenv",
				"starter/render/r.go":                 "package render\nimport \"os\"\nvar _ = os.Getenv",
			},
		},
		"workflow code with side effects": {
			files: map[string]string{
				"workflows/a.go":       "package workflows\n\nimport (\n\t_ \"fmt\"\n\t_ \"os\"\n\t_ \"math/rand\"\n\t_ \"go.temporal.io/sdk/client\"\n\t_ \"example.com/katoflow/internal/remote\"\n)",
				"workflows/steps/s.go": "package steps\nimport _ \"net/http\"",
				"internal/remote/r.go": "package remote",
			},
			want: []string{
				"workflows/a.go:5: workflow code must not import os;",
				"workflows/a.go:6: workflow code must not import math/rand;",
				"workflows/a.go:7: workflow code must not import go.temporal.io/sdk/client;",
				"workflows/a.go:8: workflow code must not import example.com/katoflow/internal/remote;",
				"workflows/steps/s.go:2: workflow code must not import net/http;",
			},
		},
		"packages that know temporal": {
			files: map[string]string{
				"internal/inventory/i.go":   "package inventory\nimport _ \"go.temporal.io/sdk/temporal\"",
				"internal/kato/parse/p.go":  "package parse\nimport _ \"fmt\"\nimport _ \"example.com/katoflow/internal/middle\"",
				"internal/remote/r.go":      "package remote\nimport _ \"example.com/wraps\"",
				"internal/middle/m.go":      "package middle\nimport _ \"example.com/katoflow/internal/temporalkit\"",
				"internal/temporalkit/t.go": "package temporalkit\nimport _ \"go.temporal.io/sdk/client\"",
			},
			want: []string{
				"internal/inventory/i.go:2: internal/inventory must not know Temporal: go.temporal.io/sdk/temporal",
				"internal/kato/parse/p.go:3: internal/kato/parse must not know Temporal: example.com/katoflow/internal/middle imports example.com/katoflow/internal/temporalkit imports go.temporal.io/sdk/client",
				"internal/remote/r.go:2: internal/remote must not know Temporal: example.com/wraps imports go.temporal.io/sdk/client",
			},
		},
		"flags and environment read elsewhere": {
			files: map[string]string{
				"activities/a.go":                  "package activities\nimport _ \"github.com/spf13/cobra\"",
				"internal/inventory/i.go":          "package inventory\nimport system \"os\"\nvar _ = system.Getenv\n\nfunc f() { _, _ = system.LookupEnv(\"A\") }",
				"internal/remote/r.go":             "package remote\nimport . \"os\"\nvar _ = Environ()",
				"internal/remote/r_windows.go":     "package remote\nimport _ \"flag\"",
				"internal/simcluster/s.go":         "package simcluster\nimport _ \"github.com/spf13/pflag\"",
				"internal/simcluster/cmd/lib/l.go": "package lib\nimport _ \"flag\"",
				"internal/workers/w.go":            "package workers\nimport \"syscall\"\nvar _, _ = syscall.Getenv(\"A\")",
			},
			want: []string{
				"activities/a.go:2: only worker and starter read flags; activities imports github.com/spf13/cobra",
				"internal/inventory/i.go:3: only worker and starter read the environment; internal/inventory uses os.Getenv",
				"internal/inventory/i.go:5: only worker and starter read the environment; internal/inventory uses os.LookupEnv",
				"internal/remote/r.go:3: only worker and starter read the environment; internal/remote uses os.Environ",
				"internal/remote/r_windows.go:2: only worker and starter read flags; internal/remote imports flag",
				"internal/simcluster/cmd/lib/l.go:2: only worker and starter read flags;",
				"internal/simcluster/s.go:2: only worker and starter read flags;",
				"internal/workers/w.go:3: only worker and starter read the environment; internal/workers uses syscall.Getenv",
			},
		},
		"servers in the main module": {
			requires: []string{"go.temporal.io/server", "github.com/temporalio/ui-server/v2", "github.com/versity/versitygw"},
			want: []string{
				"go.mod:3: go.temporal.io/server must not be required",
				"go.mod:5: github.com/temporalio/ui-server/v2 must not be required",
				"go.mod:7: github.com/versity/versitygw must not be required",
			},
		},
		"global loggers": {
			files: map[string]string{
				"internal/archive/a.go": "package archive\nimport \"go.uber.org/zap\"\nfunc f() {\n\tzap.L()\n\tzap.S()\n}",
				"internal/kato/k.go":    "package kato\nimport (\n\t\"log\"\n\t\"log/slog\"\n)\nfunc f() {\n\tlog.Printf(\"\")\n\tslog.Info(\"\")\n}",
				"worker/main.go":        "package main\nimport \"log\"\nfunc main() { log.Print() }",
			},
			want: []string{
				"internal/archive/a.go:4: no global logger in internal; internal/archive uses zap.L,",
				"internal/archive/a.go:5: no global logger in internal; internal/archive uses zap.S,",
				"internal/kato/k.go:7: no global logger in internal; internal/kato uses log.Printf,",
				"internal/kato/k.go:8: no global logger in internal; internal/kato uses slog.Info,",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, row.files, row.requires...)
			var stdout, stderr bytes.Buffer
			code := execute([]string{root}, &stdout, &stderr)
			if want := min(len(row.want), 1); code != want {
				t.Errorf("exit code %d, want %d; %s", code, want, &stderr)
			}
			got := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
			if stdout.Len() == 0 {
				got = nil
			}
			for i := range max(len(got), len(row.want)) {
				switch {
				case i >= len(got):
					t.Errorf("missing: %s", row.want[i])
				case i >= len(row.want):
					t.Errorf("unexpected: %s", got[i])
				case !strings.HasPrefix(got[i], row.want[i]):
					t.Errorf("got  %s\nwant %s", got[i], row.want[i])
				}
			}
		})
	}
}

func TestExecute_ModuleThatCannotBeRead_ExitsWith2(t *testing.T) {
	broken := tree(t, map[string]string{"internal/kato/k.go": "package kato\nimport \"example.com/nowhere\""})
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOPROXY", "off")
	for name, args := range map[string][]string{
		"no module":        {t.TempDir()},
		"unknown import":   {broken},
		"unknown flag":     {"-x"},
		"too many folders": {".", "."},
	} {
		var stdout, stderr bytes.Buffer
		if code := execute(args, &stdout, &stderr); code != 2 || stderr.Len() == 0 || stdout.Len() > 0 {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, code, &stdout, &stderr)
		}
	}
}
