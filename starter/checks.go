package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

// checkCluster says what is wrong with a cluster's name; the inventory decides whether there is one.
func checkCluster(name string) error {
	return operation.CheckCluster(oneLine(name))
}

// checkNames lists the names that no node or role can have.
func checkNames(flag, form, allowed string, names []string) []string {
	var problems []string
	matches := regexp.MustCompile(form)
	for i, n := range names {
		switch {
		case !matches.MatchString(n):
			problems = append(problems, fmt.Sprintf("--%s: %q is no name: use %s", flag, operationName(n), allowed))
		case slices.Contains(names[:i], n):
			problems = append(problems, fmt.Sprintf("--%s: %q is given twice", flag, n))
		}
	}
	return problems
}

func checkNodes(names []string) []string {
	return checkNames("nodes", `^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`, "a-z, 0-9, '-' and '.'", names)
}

func checkRoles(flag string, names []string) []string {
	return checkNames(flag, `^[a-z][a-z0-9_-]{0,62}$`, "a-z, 0-9, '_' and '-', beginning with a letter", names)
}

// textFlag holds what was written, so that all flags can be checked together.
type textFlag struct{ text, kind string }

// String is the text as written.
func (f *textFlag) String() string { return f.text }

// Set takes any text; the command checks it.
func (f *textFlag) Set(s string) error { f.text = s; return nil }

// Type is shown in the help.
func (f *textFlag) Type() string { return f.kind }

// durationFlag adds a flag that takes "30s", "10m", "3h".
func durationFlag(flags *pflag.FlagSet, to *textFlag, name, value, usage string) {
	to.kind, to.text = "duration", value
	flags.Var(to, name, usage)
}

// duration reads the flag; at most most, at least 0.
func (f *textFlag) duration(name string, most time.Duration, problems *[]string) operation.Duration {
	if f.text == "" {
		return 0
	}
	d, err := time.ParseDuration(strings.TrimSpace(f.text))
	switch {
	case err != nil:
		*problems = append(*problems, fmt.Sprintf("--%s %q: write a number with a unit, such as 30s, 10m or 3h", name, operationName(f.text)))
	case d < 0 || d > most:
		*problems = append(*problems, fmt.Sprintf("--%s %s: must be between 0s and %s", name, d, most))
	}
	return operation.Duration(d)
}

// inventoryFlag adds --inventory.
func (c *cli) inventoryFlag(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "inventory", "", "cluster file, checked here before anything is started; the worker's own file is the truth (default: $KATOFLOW_INVENTORY, else none)")
}

// inventoryPath is the flag's, else the environment's; "" when there is no local file.
func (c *cli) inventoryPath(flag string) string {
	if flag != "" {
		return flag
	}
	return c.getenv("KATOFLOW_INVENTORY")
}

// localCluster reads the cluster from the local file; nil without one.
func (c *cli) localCluster(flag, name string) (*inventory.Cluster, error) {
	path := c.inventoryPath(flag)
	if path == "" {
		return nil, nil
	}
	file, err := inventory.Load(path)
	if err != nil {
		return nil, err
	}
	cluster, err := file.Cluster(name)
	if err != nil {
		return nil, badInput("%s", err.Error())
	}
	return cluster, nil
}
